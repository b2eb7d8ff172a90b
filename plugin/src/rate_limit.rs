//! A token bucket for what the bundle endpoint can have us do: it is not trusted, so nothing of it goes without a bound.

use std::sync::atomic::{AtomicU64, Ordering};
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

/// Kinds of log lines that the endpoint can provoke. Each has a budget of its own, so that a flood of one hides no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineKind {
    /// The link itself comes and goes.
    Link,
    /// Messages that make no sense.
    Message,
    /// Offers for trust domains that somebody federates with.
    Offer,
    /// Signatures that are refused.
    Signature,
    /// Offers for trust domains that nobody federates with.
    StrangerOffer,
}

impl LineKind {
    const ALL: [Self; 5] = [Self::Link, Self::Message, Self::Offer, Self::Signature, Self::StrangerOffer];

    /// One word for the log.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Message => "message",
            Self::Offer => "offer",
            Self::Signature => "signature",
            Self::StrangerOffer => "stranger_offer",
        }
    }
}

/// Log lines that the endpoint can provoke. What is held back is in the counters all the same.
#[derive(Debug)]
pub(crate) struct EndpointLines([(LineKind, Budget); 5]);

#[derive(Debug)]
struct Budget {
    details: RateLimit,
    warnings: RateLimit,
    /// Warnings since the last time that somebody was told how many.
    held_back: AtomicU64,
}

impl EndpointLines {
    pub(crate) fn new(now: Instant) -> Self {
        let budget = || Budget {
            details: RateLimit::new(1.0, 100.0, now),
            warnings: RateLimit::new(0.1, 30.0, now),
            held_back: AtomicU64::new(0),
        };
        Self(LineKind::ALL.map(|kind| (kind, budget())))
    }

    /// True where a line at debug level may be written.
    pub(crate) fn may_detail(&self, kind: LineKind) -> bool {
        self.budget(kind).is_some_and(|budget| budget.details.allows(Instant::now()))
    }

    /// True where a line at warn or error level may be written; else it counts as held back.
    pub(crate) fn may_warn(&self, kind: LineKind) -> bool {
        self.may_warn_at(kind, Instant::now())
    }

    fn may_warn_at(&self, kind: LineKind, now: Instant) -> bool {
        self.budget(kind).is_some_and(|budget| {
            let may = budget.warnings.allows(now);
            if !may {
                budget.held_back.fetch_add(1, Ordering::Relaxed);
            }
            may
        })
    }

    /// Kinds that may warn again, each with the number of those that were held back; to say so takes one of the new ones.
    pub(crate) fn reopened(&self, now: Instant) -> Vec<(LineKind, u64)> {
        let open =
            |budget: &Budget| budget.held_back.load(Ordering::Relaxed) > 0 && budget.warnings.allows(now);
        let told = self.0.iter().filter(|(_, budget)| open(budget));
        told.map(|(kind, budget)| (*kind, budget.held_back.swap(0, Ordering::Relaxed))).collect()
    }

    fn budget(&self, wanted: LineKind) -> Option<&Budget> {
        self.0.iter().find(|(kind, _)| *kind == wanted).map(|(_, budget)| budget)
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

    #[test]
    fn a_flood_of_one_kind_hides_no_other_and_its_number_is_told() {
        let start = Instant::now();
        let lines = EndpointLines::new(start);
        let flood = (0..500).filter(|_| lines.may_warn_at(LineKind::StrangerOffer, start)).count();
        assert_eq!(flood, 30);
        for kind in LineKind::ALL {
            assert_eq!(lines.may_warn_at(kind, start), kind != LineKind::StrangerOffer, "{kind:?}");
        }
        assert_eq!(lines.reopened(start), [], "not while the budget is spent");
        let later = start + Duration::from_secs(11);
        assert_eq!(lines.reopened(later), [(LineKind::StrangerOffer, 471)]);
        assert!(!lines.may_warn_at(LineKind::StrangerOffer, later), "telling took the place of one");
        assert_eq!(lines.reopened(later + Duration::from_secs(11)), [(LineKind::StrangerOffer, 1)]);
        assert_eq!(lines.reopened(later + Duration::from_secs(99)), []);
    }
}
