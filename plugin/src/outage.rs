//! When to tell that something cannot be used: not while it may still be starting, then at once, then ever more rarely.

use std::time::{Duration, Instant};

/// Wait from the first line to the second; doubled each time, up to [`LONGEST`].
const FIRST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(600);

/// What was told of an outage.
#[derive(Debug)]
pub(crate) struct Outage {
    /// Silence before this is no news.
    patient_until: Instant,
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    since: Instant,
    next: Instant,
    wait: Duration,
    is_told: bool,
}

impl Outage {
    pub(crate) fn new(patient_until: Instant) -> Self {
        Self { patient_until, current: None }
    }

    /// It failed; how long that has lasted when it is time to say so.
    pub(crate) fn failed(&mut self, now: Instant) -> Option<Duration> {
        let next = now.max(self.patient_until);
        let current = self.current.get_or_insert(Current { since: now, next, wait: FIRST, is_told: false });
        if now < current.next {
            return None;
        }
        current.next = now + current.wait;
        current.wait = (current.wait * 2).min(LONGEST);
        current.is_told = true;
        Some(now.duration_since(current.since))
    }

    /// It works; how long it did not when that was told.
    pub(crate) fn over(&mut self, now: Instant) -> Option<Duration> {
        let ended = self.current.take().filter(|ended| ended.is_told)?;
        Some(now.duration_since(ended.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_told_after_the_start_then_ever_more_rarely_and_once_when_it_is_over() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut outage = Outage::new(at(15));
        let told: Vec<_> = (0..4000).filter(|&second| outage.failed(at(second)).is_some()).collect();
        assert_eq!(told, [15, 75, 195, 435, 915, 1515, 2115, 2715, 3315, 3915]);
        assert_eq!(outage.over(at(4000)), Some(Duration::from_secs(4000)));
        assert_eq!(outage.over(at(4000)), None);
        assert_eq!(outage.failed(at(4001)), Some(Duration::ZERO), "the next one is told at once");
    }

    #[test]
    fn what_was_not_told_has_no_end() {
        let start = Instant::now();
        let mut outage = Outage::new(start + Duration::from_secs(15));
        assert_eq!(outage.failed(start), None);
        assert_eq!(outage.over(start), None);
    }
}
