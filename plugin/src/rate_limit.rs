//! A token bucket for what the bundle endpoint can have us do: it is not trusted, so nothing of it goes without a bound.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So many in the long run, and more at once after a pause.
#[derive(Debug)]
pub(crate) struct RateLimit {
    per_second: f64,
    burst: f64,
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled_at: Instant,
}

impl RateLimit {
    pub(crate) fn new(per_second: f64, burst: f64, now: Instant) -> Self {
        Self { per_second, burst, bucket: Mutex::new(Bucket { tokens: burst, filled_at: now }) }
    }

    /// Takes one if there is one left.
    pub(crate) fn allows(&self, now: Instant) -> bool {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.checked_duration_since(bucket.filled_at).unwrap_or(Duration::ZERO);
        bucket.tokens = (bucket.tokens + passed.as_secs_f64() * self.per_second).min(self.burst);
        bucket.filled_at = bucket.filled_at.max(now);
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }
}

/// Log lines that the endpoint can provoke. What is held back is in the counters all the same.
#[derive(Debug)]
pub(crate) struct EndpointLines {
    details: RateLimit,
    warnings: RateLimit,
}

impl EndpointLines {
    pub(crate) fn new(now: Instant) -> Self {
        Self { details: RateLimit::new(1.0, 200.0, now), warnings: RateLimit::new(0.1, 30.0, now) }
    }

    /// True where a line at debug level may be written.
    pub(crate) fn may_detail(&self) -> bool {
        self.details.allows(Instant::now())
    }

    /// True where a line at warn or error level may be written.
    pub(crate) fn may_warn(&self) -> bool {
        self.warnings.allows(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_cut_off_and_comes_back_with_time() {
        let start = Instant::now();
        let limit = RateLimit::new(2.0, 3.0, start);
        let granted = |now| (0..10).filter(|_| limit.allows(now)).count();
        assert_eq!(granted(start), 3);
        assert_eq!(granted(start + Duration::from_secs(1)), 2);
        assert_eq!(granted(start), 0, "a clock that goes back fills nothing");
        assert_eq!(granted(start + Duration::from_secs(60)), 3);
    }
}
