//! A token bucket for what the bundle endpoint can have us do: it is not trusted, so nothing of it goes without a bound.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
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
        self.allows_one_of(1, now)
    }

    /// The same where this is one of so many `parts`: that much less in the long run and at once.
    pub(crate) fn allows_one_of(&self, parts: usize, now: Instant) -> bool {
        let part = 1.0 / parts.max(1) as f64;
        let mut bucket = self.bucket();
        bucket.tokens = bucket.filled(self.per_second * part, self.burst * part, now);
        bucket.filled_at = bucket.filled_at.max(now);
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }

    /// True where nothing of it is in use.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.bucket().filled(self.per_second, self.burst, now) >= self.burst
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bucket {
    fn filled(&self, per_second: f64, burst: f64, now: Instant) -> f64 {
        let passed = now.checked_duration_since(self.filled_at).unwrap_or(Duration::ZERO);
        (self.tokens + passed.as_secs_f64() * per_second).min(burst)
    }
}

/// Kinds of log lines that the endpoint can provoke. Each has a budget of its own, so that a flood of one hides no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineKind {
    /// The link itself comes and goes.
    Link,
    /// Messages that make no sense.
    Message,
    /// Answers for the endpoint's name that cannot be followed.
    Name,
    /// Offers for trust domains that somebody federates with.
    Offer,
    /// Addresses behind the endpoint's name come and go.
    Replica,
    /// Signatures that are refused.
    Signature,
    /// Offers for trust domains that nobody federates with.
    StrangerOffer,
}

impl LineKind {
    const ALL: [Self; 7] = [
        Self::Link,
        Self::Message,
        Self::Name,
        Self::Offer,
        Self::Replica,
        Self::Signature,
        Self::StrangerOffer,
    ];

    /// One word for the log.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Message => "message",
            Self::Name => "name",
            Self::Offer => "offer",
            Self::Replica => "replica",
            Self::Signature => "signature",
            Self::StrangerOffer => "stranger_offer",
        }
    }
}

/// Most endpoints that have budgets of their own at a time; more than are ever linked.
const MAX_ENDPOINTS: usize = 64;

/// What all endpoints together may have, as a multiple of what one may.
const TOTAL: f64 = 8.0;

/// Log lines that endpoints can provoke: each has budgets of its own, and all together have a larger one. What is held back is in
/// the counters all the same.
#[derive(Debug)]
pub(crate) struct EndpointLines {
    total: Budgets,
    each: Mutex<BTreeMap<String, Budgets>>,
}

#[derive(Debug)]
struct Budgets([(LineKind, Budget); LineKind::ALL.len()]);

#[derive(Debug)]
struct Budget {
    details: RateLimit,
    warnings: RateLimit,
    /// Warnings since the last time that somebody was told how many.
    held_back: AtomicU64,
}

/// Warnings about one endpoint that may be written again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reopened {
    pub(crate) endpoint: String,
    pub(crate) kind: LineKind,
    pub(crate) held_back: u64,
}

impl EndpointLines {
    pub(crate) fn new(now: Instant) -> Self {
        Self { total: Budgets::new(TOTAL, now), each: Mutex::default() }
    }

    /// True where a line at debug level may be written.
    pub(crate) fn may_detail(&self, endpoint: &str, kind: LineKind) -> bool {
        let now = Instant::now();
        let allows = |budgets: &Budgets| budgets.of(kind).is_some_and(|budget| budget.details.allows(now));
        self.with(endpoint, now, allows) && allows(&self.total)
    }

    /// True where a line at info level or above may be written; else it counts as held back.
    pub(crate) fn may_warn(&self, endpoint: &str, kind: LineKind) -> bool {
        self.may_warn_at(endpoint, kind, Instant::now())
    }

    fn may_warn_at(&self, endpoint: &str, kind: LineKind, now: Instant) -> bool {
        self.with(endpoint, now, |budgets| {
            budgets.of(kind).is_some_and(|budget| {
                let may = budget.warnings.allows(now) && self.total_allows(kind, now);
                if !may {
                    budget.held_back.fetch_add(1, Ordering::Relaxed);
                }
                may
            })
        })
    }

    /// Who may be warned of again, and of what, with the number of those that were held back; to say so takes one of the new ones.
    pub(crate) fn reopened(&self, now: Instant) -> Vec<Reopened> {
        let mut told = Vec::new();
        for (endpoint, budgets) in &*self.each.lock().unwrap_or_else(PoisonError::into_inner) {
            for (kind, budget) in &budgets.0 {
                let is_open = budget.held_back.load(Ordering::Relaxed) > 0
                    && budget.warnings.allows(now)
                    && self.total_allows(*kind, now);
                if is_open {
                    let held_back = budget.held_back.swap(0, Ordering::Relaxed);
                    told.push(Reopened { endpoint: endpoint.clone(), kind: *kind, held_back });
                }
            }
        }
        told
    }

    fn total_allows(&self, kind: LineKind, now: Instant) -> bool {
        self.total.of(kind).is_some_and(|budget| budget.warnings.allows(now))
    }

    /// Budgets outlive a link, so that one that comes and goes gets no fresh ones.
    fn with<T>(&self, endpoint: &str, now: Instant, ask: impl FnOnce(&Budgets) -> T) -> T {
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        if each.len() >= MAX_ENDPOINTS && !each.contains_key(endpoint) {
            // Fresh ones would be the same as these; and where none is, the total still bounds.
            each.retain(|_, budgets| !budgets.is_untouched(now));
            if each.len() >= MAX_ENDPOINTS {
                each.clear();
            }
        }
        ask(each.entry(endpoint.to_owned()).or_insert_with(|| Budgets::new(1.0, now)))
    }
}

impl Budgets {
    fn new(share: f64, now: Instant) -> Self {
        let budget = || Budget {
            details: RateLimit::new(share, 100.0 * share, now),
            warnings: RateLimit::new(0.1 * share, 30.0 * share, now),
            held_back: AtomicU64::new(0),
        };
        Self(LineKind::ALL.map(|kind| (kind, budget())))
    }

    fn of(&self, wanted: LineKind) -> Option<&Budget> {
        self.0.iter().find(|(kind, _)| *kind == wanted).map(|(_, budget)| budget)
    }

    fn is_untouched(&self, now: Instant) -> bool {
        let is_untouched = |budget: &Budget| {
            budget.held_back.load(Ordering::Relaxed) == 0
                && budget.warnings.is_full(now)
                && budget.details.is_full(now)
        };
        self.0.iter().all(|(_, budget)| is_untouched(budget))
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
    fn a_flood_of_one_kind_or_endpoint_hides_no_other_and_its_number_is_told() {
        let start = Instant::now();
        let lines = EndpointLines::new(start);
        let told = |endpoint: &str, held_back| {
            vec![Reopened { endpoint: endpoint.into(), kind: LineKind::StrangerOffer, held_back }]
        };
        let may = |endpoint: &str, kind, at| lines.may_warn_at(endpoint, kind, at);
        let flood = (0..500).filter(|_| may("liar", LineKind::StrangerOffer, start)).count();
        assert_eq!(flood, 30);
        for kind in LineKind::ALL {
            assert_eq!(may("liar", kind, start), kind != LineKind::StrangerOffer, "{kind:?}");
            assert!(may("other", kind, start), "{kind:?} of another endpoint");
        }
        assert_eq!(lines.reopened(start), [], "not while the budget is spent");
        let later = start + Duration::from_secs(11);
        assert_eq!(lines.reopened(later), told("liar", 471));
        assert!(!may("liar", LineKind::StrangerOffer, later), "telling took the place of one");
        assert_eq!(lines.reopened(later + Duration::from_secs(11)), told("liar", 1));
        assert_eq!(lines.reopened(later + Duration::from_secs(99)), []);
    }

    #[test]
    fn ever_new_endpoints_get_no_more_than_all_together_may_have() {
        let start = Instant::now();
        let lines = EndpointLines::new(start);
        let names = (0..1000).map(|number| format!("10.0.0.{number}"));
        let written = names.filter(|name| lines.may_warn_at(name, LineKind::Link, start)).count();
        assert_eq!(written, 240);
        assert!(lines.each.lock().unwrap().len() <= MAX_ENDPOINTS);
    }
}
