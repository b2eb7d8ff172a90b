//! Refresh hint to refresh interval: default, floor, ceiling, jitter.

use std::time::Duration;

/// How hints become waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefreshPolicy {
    /// Used where the bundle has no hint (FED 6.1 recommends five minutes).
    pub default_hint: Duration,
    /// Never poll more often than this.
    pub floor: Duration,
    /// Never poll less often than this: a hint of years must not stop revocation.
    pub ceiling: Duration,
    /// Polls per hint: SPIRE's four.
    pub divisor: u32,
}

impl Default for RefreshPolicy {
    fn default() -> Self {
        Self {
            default_hint: Duration::from_secs(300),
            floor: Duration::from_secs(15),
            ceiling: Duration::from_secs(3600),
            divisor: 4,
        }
    }
}

impl RefreshPolicy {
    /// The wait before the next poll. `jitter` in 0.0..=1.0 is the caller's random number; the result is spread over
    /// -10 % to +10 %, inside floor and ceiling.
    pub fn interval(&self, hint: Option<Duration>, jitter: f64) -> Duration {
        let wait = hint.unwrap_or(self.default_hint) / self.divisor.max(1);
        let jitter = if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 0.5 };
        // Not `mul_f64`, which panics on what an operator may have set.
        let spread = Duration::try_from_secs_f64(self.bounded(wait).as_secs_f64() * (0.9 + jitter / 5.0));
        self.bounded(spread.unwrap_or(self.ceiling))
    }

    // Not `clamp`, which panics when an operator sets the floor above the ceiling; then the ceiling wins.
    fn bounded(&self, wait: Duration) -> Duration {
        wait.max(self.floor).min(self.ceiling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIDDLE: f64 = 0.5;

    fn seconds(hint: Option<u64>, jitter: f64) -> f64 {
        RefreshPolicy::default().interval(hint.map(Duration::from_secs), jitter).as_secs_f64()
    }

    fn close(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-6
    }

    #[test]
    fn a_quarter_of_the_hint_passes_between_polls() {
        assert!(close(seconds(Some(400), MIDDLE), 100.0));
    }

    #[test]
    fn without_a_hint_five_minutes_count() {
        assert!(close(seconds(None, MIDDLE), 75.0));
    }

    #[test]
    fn no_hint_gets_below_the_floor_or_above_the_ceiling() {
        for jitter in [0.0, MIDDLE, 1.0, f64::NAN, -7.0, f64::INFINITY] {
            assert!(seconds(Some(0), jitter) >= 15.0);
            assert!(seconds(Some(u64::MAX), jitter) <= 3600.0);
        }
    }

    #[test]
    fn jitter_spreads_a_tenth_to_each_side() {
        assert!(close(seconds(Some(400), 0.0), 90.0));
        assert!(close(seconds(Some(400), 1.0), 110.0));
    }

    #[test]
    fn a_nonsensical_policy_does_not_panic() {
        let hour = Duration::from_secs(3600);
        let policy = RefreshPolicy { default_hint: hour, floor: hour, ceiling: Duration::ZERO, divisor: 0 };
        assert_eq!(policy.interval(Some(Duration::MAX), 1.0), Duration::ZERO);
        let endless =
            RefreshPolicy { default_hint: Duration::MAX, ceiling: Duration::MAX, divisor: 1, ..policy };
        assert_eq!(endless.interval(None, 1.0), Duration::MAX);
    }
}
