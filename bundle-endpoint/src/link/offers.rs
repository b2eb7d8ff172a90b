//! Bundles on offer to the plugin: the newest of each trust domain, and what became of it.
//!
//! Offer IDs only grow, so a link that remembers the last ID it sent knows what is left to send, and a new link sends all.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use entente_bundle::{Bundle, TrustDomain};
use tokio::sync::watch;

/// A plugin that says now this and now that of one bundle is listened to, but each is a line in the log.
const MAX_CHANGES: u32 = 8;

/// One bundle on offer.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) id: u64,
    pub(crate) bundle: Arc<Bundle>,
    pub(crate) bundle_endpoint_url: String,
    /// When it was made, Unix seconds.
    pub(crate) since: u64,
    outcome: watch::Sender<Outcome>,
}

/// What the plugin made of an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// SPIRE could not be reached or failed; worth offering again.
    Failed { reason: String },
    /// Not answered yet.
    Pending,
    /// Offering it again will not help.
    Refused { reason: String },
    /// SPIRE holds it now.
    Set,
    /// SPIRE held the same already.
    Unchanged,
}

/// Every bundle on offer.
#[derive(Debug)]
pub(crate) struct OfferTable {
    inner: Mutex<Inner>,
    latest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    last_id: u64,
    by_id: BTreeMap<u64, Arc<Offer>>,
    current: HashMap<TrustDomain, u64>,
    // Outlasts the offer: what failed is put on the table again.
    told: HashMap<TrustDomain, Told>,
}

/// Which answers to the newest bundle of a trust domain were told.
#[derive(Debug)]
struct Told {
    digest: [u8; 32],
    last: &'static str,
    changes: u32,
}

impl Told {
    fn nothing_of(digest: [u8; 32]) -> Self {
        Self { digest, last: Outcome::Pending.name(), changes: 0 }
    }

    fn is_change(&mut self, name: &'static str) -> bool {
        let is_other = std::mem::replace(&mut self.last, name) != name;
        self.changes = self.changes.saturating_add(is_other.into());
        is_other && self.changes <= MAX_CHANGES
    }
}

impl Offer {
    /// Seen by whoever offered it.
    pub(crate) fn outcome(&self) -> watch::Receiver<Outcome> {
        self.outcome.subscribe()
    }
}

impl Outcome {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Failed { .. } => "failed",
            Self::Pending => "pending",
            Self::Refused { .. } => "refused",
            Self::Set => "set",
            Self::Unchanged => "unchanged",
        }
    }

    pub(crate) fn reason(&self) -> Option<&str> {
        match self {
            Self::Failed { reason } | Self::Refused { reason } => Some(reason),
            Self::Pending | Self::Set | Self::Unchanged => None,
        }
    }
}

impl OfferTable {
    pub(crate) fn new() -> Self {
        Self { inner: Mutex::default(), latest: watch::Sender::new(0) }
    }

    /// Offers `bundle` in place of whatever was on offer for its trust domain.
    pub(crate) fn put(&self, bundle: Arc<Bundle>, bundle_endpoint_url: &str) -> Arc<Offer> {
        let mut inner = crate::lock(&self.inner);
        inner.last_id += 1;
        let offer = Arc::new(Offer {
            id: inner.last_id,
            bundle,
            bundle_endpoint_url: bundle_endpoint_url.to_owned(),
            since: crate::time::unix_now().as_secs(),
            outcome: watch::Sender::new(Outcome::Pending),
        });
        let trust_domain = offer.bundle.trust_domain().clone();
        let digest = offer.bundle.digest();
        if inner.told.get(&trust_domain).is_none_or(|told| told.digest != digest) {
            inner.told.insert(trust_domain.clone(), Told::nothing_of(digest));
        }
        if let Some(earlier) = inner.current.insert(trust_domain, offer.id) {
            inner.by_id.remove(&earlier);
        }
        inner.by_id.insert(offer.id, Arc::clone(&offer));
        drop(inner);
        self.latest.send_replace(offer.id);
        offer
    }

    /// Nothing is on offer for `trust_domain` any more.
    pub(crate) fn withdraw(&self, trust_domain: &TrustDomain) {
        let mut inner = crate::lock(&self.inner);
        if let Some(id) = inner.current.remove(trust_domain) {
            inner.by_id.remove(&id);
        }
    }

    /// The relationship with `trust_domain` has ended.
    pub(crate) fn forget(&self, trust_domain: &TrustDomain) {
        self.withdraw(trust_domain);
        crate::lock(&self.inner).told.remove(trust_domain);
    }

    /// What is on offer and newer than `id`, oldest first.
    pub(crate) fn after(&self, id: u64) -> Vec<Arc<Offer>> {
        crate::lock(&self.inner)
            .by_id
            .range(id.saturating_add(1)..)
            .map(|(_, offer)| Arc::clone(offer))
            .collect()
    }

    /// Wakes whenever something new is on offer.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }

    /// Notes the plugin's answer. True where that is another one than was told of this bundle last, for the first few times; `None`
    /// when the offer is no longer on the table.
    pub(crate) fn record(&self, trust_domain: &TrustDomain, id: u64, outcome: Outcome) -> Option<bool> {
        let mut inner = crate::lock(&self.inner);
        let offer = inner.by_id.get(&id).filter(|offer| offer.bundle.trust_domain() == trust_domain)?;
        let name = outcome.name();
        let is_taken = offer.outcome.send_if_modified(|current| {
            // Several plugins may answer one offer; once SPIRE holds it, a latecomer's failure is no news.
            let settled = matches!(current, Outcome::Set | Outcome::Unchanged);
            let worse = matches!(outcome, Outcome::Failed { .. } | Outcome::Refused { .. });
            if (settled && worse) || *current == outcome {
                return false;
            }
            *current = outcome;
            true
        });
        Some(is_taken && inner.told.get_mut(trust_domain).is_some_and(|told| told.is_change(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(name: &str) -> Arc<Bundle> {
        Arc::new(Bundle::new(TrustDomain::new(name).unwrap(), vec![], vec![], None, None))
    }

    fn ids(offers: &[Arc<Offer>]) -> Vec<u64> {
        offers.iter().map(|offer| offer.id).collect()
    }

    #[test]
    fn only_the_newest_offer_of_a_domain_is_on_the_table() {
        let table = OfferTable::new();
        table.put(bundle("a.test"), "https://a.test/");
        table.put(bundle("b.test"), "https://b.test/");
        table.put(bundle("a.test"), "https://a.test/");
        assert_eq!(ids(&table.after(0)), [2, 3]);
        assert_eq!(ids(&table.after(2)), [3]);
        table.withdraw(&TrustDomain::new("a.test").unwrap());
        assert_eq!(ids(&table.after(0)), [2]);
    }

    #[test]
    fn an_answer_to_a_replaced_offer_or_for_another_domain_is_ignored() {
        let table = OfferTable::new();
        let a = TrustDomain::new("a.test").unwrap();
        let first = table.put(bundle("a.test"), "");
        let second = table.put(bundle("a.test"), "");
        assert_eq!(table.record(&a, first.id, Outcome::Set), None);
        assert_eq!(table.record(&TrustDomain::new("b.test").unwrap(), second.id, Outcome::Set), None);
        assert_eq!(*second.outcome().borrow(), Outcome::Pending);
    }

    #[test]
    fn once_set_a_second_plugins_failure_changes_nothing() {
        let table = OfferTable::new();
        let a = TrustDomain::new("a.test").unwrap();
        let offer = table.put(bundle("a.test"), "");
        let failed = || Outcome::Failed { reason: "away".into() };
        assert_eq!(table.record(&a, offer.id, failed()), Some(true));
        assert_eq!(table.record(&a, offer.id, Outcome::Set), Some(true));
        assert_eq!(table.record(&a, offer.id, failed()), Some(false));
        assert_eq!(*offer.outcome().borrow(), Outcome::Set);
    }

    #[test]
    fn another_outcome_is_told_a_few_times_and_another_reason_is_not() {
        let table = OfferTable::new();
        let a = TrustDomain::new("a.test").unwrap();
        let offer = table.put(bundle("a.test"), "");
        let failed = |reason: &str| Outcome::Failed { reason: reason.into() };
        assert_eq!(table.record(&a, offer.id, failed("away")), Some(true));
        assert_eq!(table.record(&a, offer.id, failed("still away")), Some(false));
        let refused = || Outcome::Refused { reason: "old".into() };
        let told = (0..50).flat_map(|_| [refused(), failed("away")]);
        let told = told.filter(|outcome| table.record(&a, offer.id, outcome.clone()) == Some(true)).count();
        assert_eq!(told, 7);
        assert_eq!(*offer.outcome().borrow(), failed("away"), "what is not told counts all the same");
    }

    #[test]
    fn a_bundle_that_fails_again_each_time_it_is_offered_is_told_once() {
        let table = OfferTable::new();
        let (a, bundle) = (TrustDomain::new("a.test").unwrap(), bundle("a.test"));
        let offered = |bundle: &Arc<Bundle>, outcome| {
            let offer = table.put(Arc::clone(bundle), "");
            table.record(&a, offer.id, outcome).unwrap()
        };
        let failed = || Outcome::Failed { reason: "away".into() };
        let told = (0..50).filter(|_| offered(&bundle, failed())).count();
        assert_eq!(told, 1);
        table.withdraw(&a);
        assert!(!offered(&bundle, failed()), "nor after SPIRE held it for a moment");
        assert!(offered(&bundle, Outcome::Set));
        let other = Arc::new((*bundle).clone().with_sequence_number(Some(2)));
        assert!(offered(&other, Outcome::Set), "another bundle is another matter");
        table.forget(&a);
        assert!(offered(&other, Outcome::Set));
    }
}
