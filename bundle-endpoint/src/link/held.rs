//! What SPIRE Server holds, by trust domain, as plugins told it and the hub merged it. It stays when they are away, for as long as a
//! relationship needs it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use entente_bundle::{Bundle, BundleSource, TrustDomain};
use rustls_pki_types::UnixTime;
use tokio::sync::watch;

use super::Troubles;

/// One trust domain's share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// `None` when SPIRE holds none.
    pub(crate) bundle: Option<Arc<Bundle>>,
    /// What authenticates an endpoint while `bundle` cannot.
    pub(crate) authentication_bundle: Option<Arc<Bundle>>,
    /// The file that it came from, where it is the operator's.
    pub(crate) authentication_file: Option<String>,
    /// What plugins find wrong.
    pub(crate) troubles: Troubles,
}

/// All of them. A verifier asks it at each handshake, so the bundle held *now* decides (FED 5.2.2.4).
#[derive(Debug, Default)]
pub(crate) struct HeldTable(Mutex<HashMap<TrustDomain, watch::Sender<Held>>>);

impl Held {
    /// What an `https_spiffe` endpoint of this trust domain is verified with.
    pub(crate) fn authenticating(&self, now: UnixTime) -> Option<&Arc<Bundle>> {
        let held = self.bundle.as_ref();
        // A plugin that is late still tells what was needed a moment ago.
        if self.is_usable(now) { held } else { self.authentication_bundle.as_ref().or(held) }
    }

    /// The held bundle itself authenticates.
    pub(crate) fn is_usable(&self, now: UnixTime) -> bool {
        self.bundle.as_ref().is_some_and(|bundle| bundle.can_authenticate(now))
    }
}

impl HeldTable {
    /// True when this is news.
    pub(crate) fn set(&self, trust_domain: &TrustDomain, held: Held) -> bool {
        self.with(trust_domain, |sender| {
            sender.send_if_modified(|current| {
                let news = *current != held;
                if news {
                    *current = held;
                }
                news
            })
        })
    }

    /// Replaces the troubles of every trust domain.
    pub(super) fn retell(&self, troubles_of: impl Fn(&TrustDomain) -> Troubles) {
        for (trust_domain, sender) in &*crate::lock(&self.0) {
            let troubles = troubles_of(trust_domain);
            sender.send_if_modified(|held| {
                let news = held.troubles != troubles;
                held.troubles = troubles;
                news
            });
        }
    }

    pub(crate) fn current(&self, trust_domain: &TrustDomain) -> Held {
        crate::lock(&self.0).get(trust_domain).map(|sender| sender.borrow().clone()).unwrap_or_default()
    }

    /// Wakes when the share of `trust_domain` changes; the sender lives as long as the table.
    pub(crate) fn subscribe(&self, trust_domain: &TrustDomain) -> watch::Receiver<Held> {
        self.with(trust_domain, watch::Sender::subscribe)
    }

    /// Forgets the others: what no relationship needs any more authenticates nobody, and the plugin says it again when one
    /// does.
    pub(crate) fn keep_only(&self, needed: &BTreeSet<&TrustDomain>) {
        let mut table = crate::lock(&self.0);
        table.retain(|trust_domain, sender| {
            if needed.contains(trust_domain) {
                return true;
            }
            sender.send_if_modified(|held| std::mem::take(held) != Held::default());
            // Whoever still listens does so at this sender.
            sender.receiver_count() > 0
        });
    }

    fn with<T>(&self, trust_domain: &TrustDomain, act: impl FnOnce(&watch::Sender<Held>) -> T) -> T {
        let mut table = crate::lock(&self.0);
        match table.get(trust_domain) {
            Some(sender) => act(sender),
            None => act(table.entry(trust_domain.clone()).or_default()),
        }
    }
}

impl BundleSource for HeldTable {
    fn bundle_for(&self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>> {
        self.current(trust_domain).authenticating(crate::time::unix_now()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use entente_bundle::testing::TestAuthority;

    use super::*;

    fn domain(name: &str) -> TrustDomain {
        TrustDomain::new(name).unwrap()
    }

    fn bundle(name: &str, sequence_number: u64) -> Arc<Bundle> {
        Arc::new(Bundle::new(domain(name), vec![], vec![], Some(sequence_number), None))
    }

    #[test]
    fn a_bundle_answers_for_its_own_trust_domain_only() {
        let table = HeldTable::default();
        let held = Held { bundle: Some(bundle("a.test", 1)), ..Held::default() };
        assert!(table.set(&domain("a.test"), held));
        assert!(table.bundle_for(&domain("a.test")).is_some());
        assert!(table.bundle_for(&domain("b.test")).is_none());
    }

    #[test]
    fn what_authenticates_beside_the_held_bundle_does_so_while_that_cannot() {
        let beside = Some(bundle("a.test", 2));
        let usable = Arc::new(TestAuthority::new("a.test").bundle());
        let end = usable.x509_authorities()[0].not_after();
        let now = crate::time::unix_now();
        let of = |bundle, beside: &Option<_>, now| {
            let held = Held { bundle, authentication_bundle: beside.clone(), ..Held::default() };
            held.authenticating(now).cloned()
        };
        assert_eq!(of(None, &beside, now), beside);
        assert_eq!(of(Some(bundle("a.test", 1)), &beside, now), beside, "it is empty");
        assert_eq!(of(Some(bundle("a.test", 1)), &None, now), Some(bundle("a.test", 1)));
        assert_eq!(of(Some(usable.clone()), &beside, now), Some(usable.clone()));
        let later = UnixTime::since_unix_epoch(std::time::Duration::from_secs(end + 1));
        assert_eq!(of(Some(usable), &beside, later), beside, "it has expired");
    }

    #[test]
    fn what_is_not_needed_any_more_is_forgotten_but_can_be_heard_of_again() {
        let table = HeldTable::default();
        let (a, b, c) = (domain("a.test"), domain("b.test"), domain("c.test"));
        let held = |name| Held { bundle: Some(bundle(name, 1)), ..Held::default() };
        table.set(&a, held("a.test"));
        table.set(&b, held("b.test"));
        table.set(&c, held("c.test"));
        let mut listening = table.subscribe(&b);
        table.keep_only(&BTreeSet::from([&a]));
        assert!(table.bundle_for(&a).is_some());
        assert!(table.bundle_for(&b).is_none() && table.bundle_for(&c).is_none());
        assert_eq!(crate::lock(&table.0).len(), 2);
        assert_eq!(*listening.borrow_and_update(), Held::default());
        table.set(&b, held("b.test"));
        assert!(listening.has_changed().unwrap());
    }

    #[test]
    fn a_repeat_is_no_news() {
        let table = HeldTable::default();
        let mut receiver = table.subscribe(&domain("a.test"));
        let held = || Held { bundle: Some(bundle("a.test", 1)), ..Held::default() };
        assert!(table.set(&domain("a.test"), held()));
        assert!(receiver.has_changed().unwrap());
        receiver.mark_unchanged();
        assert!(!table.set(&domain("a.test"), held()));
        assert!(!receiver.has_changed().unwrap());
    }
}
