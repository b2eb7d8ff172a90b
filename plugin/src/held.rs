//! What SPIRE Server holds for foreign trust domains, as last seen; and what else may authenticate their endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use entente_bundle::causes::chain;
use entente_bundle::{Bundle, TrustDomain};
use entente_proto::convert::{BundleMessage, UsableBundle};
use entente_proto::spire::api::types;
use prost::Message;
use rustls_pki_types::UnixTime;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::repeats::Repeats;

/// A watch over everything that is held.
#[derive(Debug)]
pub(crate) struct Held {
    state: watch::Sender<HeldState>,
    /// What was said about messages that cannot be used as a whole: they come again with each look.
    told: Mutex<Repeats>,
}

/// One moment of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeldState {
    /// False until SPIRE was asked once, and the operator's files were read for what it did not have: absent then means unknown.
    is_known: bool,
    /// Counts single reads, so that a list that was begun before one does not undo it.
    generation: u64,
    /// Trust domains that were read alone since the last list, and when.
    touched: BTreeMap<TrustDomain, u64>,
    records: BTreeMap<TrustDomain, Record>,
    /// The last bundle that had X.509 authorities, also after a revocation or loss: a path back for the endpoint alone.
    last_usable: BTreeMap<TrustDomain, Arc<Bundle>>,
    /// What the operator gave to begin with.
    bootstraps: BTreeMap<TrustDomain, Arc<Bundle>>,
    /// Why that could not be read, for people.
    bootstrap_troubles: BTreeMap<TrustDomain, String>,
}

#[derive(Clone, Debug)]
struct Record {
    /// Of the message, so that an unchanged one is not parsed again at each look.
    message_sha256: [u8; 32],
    bundle: Arc<Bundle>,
}

impl Held {
    pub(crate) fn new() -> Self {
        Self { state: watch::Sender::new(HeldState::default()), told: Mutex::default() }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<HeldState> {
        self.state.subscribe()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.state.borrow().generation
    }

    /// True once SPIRE was asked, and bootstrap bundles were read.
    pub(crate) fn is_known(&self) -> bool {
        self.state.borrow().is_known
    }

    /// True where SPIRE was asked and had none.
    pub(crate) fn is_absent(&self, trust_domain: &TrustDomain) -> bool {
        let state = self.state.borrow();
        state.is_known && !state.records.contains_key(trust_domain)
    }

    /// The held bundle, and what may authenticate an https_spiffe endpoint where that cannot.
    pub(crate) fn parts(
        &self,
        trust_domain: &TrustDomain,
        now: UnixTime,
    ) -> (Option<Arc<Bundle>>, Option<Arc<Bundle>>) {
        let state = self.state.borrow();
        (state.bundle(trust_domain).cloned(), state.authentication_bundle(trust_domain, now).cloned())
    }

    /// Why the operator's bootstrap bundle cannot be used, while it is wanted.
    pub(crate) fn bootstrap_trouble(&self, trust_domain: &TrustDomain) -> Option<String> {
        self.state.borrow().bootstrap_troubles.get(trust_domain).cloned()
    }

    /// True where neither the held bundle nor memory does, so that the operator's bootstrap bundle is wanted.
    pub(crate) fn wants_bootstrap(&self, trust_domain: &TrustDomain, now: UnixTime) -> bool {
        self.state.borrow().wants_bootstrap(trust_domain, now)
    }

    /// True when it is what the operator gave to begin with.
    pub(crate) fn is_bootstrap(&self, trust_domain: &TrustDomain, bundle: &Arc<Bundle>) -> bool {
        self.state.borrow().bootstraps.get(trust_domain) == Some(bundle)
    }

    /// Trust domains for which SPIRE holds a bundle.
    pub(crate) fn names(&self) -> Vec<TrustDomain> {
        self.state.borrow().records.keys().cloned().collect()
    }

    /// Takes a whole list that was begun at `generation`. What was read alone since then is newer and stays.
    pub(crate) fn replace_all(&self, generation: u64, messages: &[types::Bundle]) {
        self.state.send_if_modified(|state| state.replace_all(generation, messages, &self.told));
    }

    /// Takes what was just read for one trust domain; returns it parsed.
    pub(crate) fn set(
        &self,
        trust_domain: &TrustDomain,
        message: Option<&types::Bundle>,
    ) -> Option<Arc<Bundle>> {
        let known = self.state.borrow().records.get(trust_domain).cloned();
        let before = known.as_ref().map(|record| record.message_sha256);
        let read = message.and_then(|message| read(message, known, &self.told));
        let record = read.filter(|(name, _)| name == trust_domain).map(|(_, record)| record);
        let bundle = record.as_ref().map(|record| record.bundle.clone());
        self.state.send_if_modified(|state| {
            state.touch(trust_domain);
            let is_changed = before != record.as_ref().map(|record| record.message_sha256);
            match record {
                Some(record) => state.insert(trust_domain.clone(), record),
                None => drop(state.records.remove(trust_domain)),
            }
            is_changed
        });
        bundle
    }

    /// The relationship has ended: nothing of it is kept.
    pub(crate) fn forget(&self, trust_domain: &TrustDomain) {
        self.state.send_modify(|state| {
            state.touch(trust_domain);
            state.records.remove(trust_domain);
            state.last_usable.remove(trust_domain);
            state.bootstraps.remove(trust_domain);
            state.bootstrap_troubles.remove(trust_domain);
        });
    }

    /// Forgets old authorities of trust domains that nobody names any more: a later relationship begins anew.
    pub(crate) fn forget_all_but(&self, named: &BTreeSet<&TrustDomain>) {
        self.state.send_if_modified(|state| {
            let HeldState { records, last_usable, .. } = state;
            last_usable.retain(|name, _| named.contains(name) || records.contains_key(name));
            false
        });
    }

    /// Replaces what the operator gave to begin with, and what is wrong with the rest of it. The end of a look: what is held is
    /// known from the first one on, and not before, so that an endpoint hears at once what authenticates it.
    pub(crate) fn set_bootstraps(
        &self,
        bootstraps: BTreeMap<TrustDomain, Arc<Bundle>>,
        troubles: BTreeMap<TrustDomain, String>,
    ) {
        self.state.send_if_modified(|state| {
            let is_first = !std::mem::replace(&mut state.is_known, true);
            let is_changed =
                is_first || state.bootstraps != bootstraps || state.bootstrap_troubles != troubles;
            state.bootstraps = bootstraps;
            state.bootstrap_troubles = troubles;
            is_changed
        });
    }
}

impl HeldState {
    fn bundle(&self, trust_domain: &TrustDomain) -> Option<&Arc<Bundle>> {
        self.records.get(trust_domain).map(|record| &record.bundle)
    }

    /// What may authenticate an https_spiffe endpoint of `trust_domain` where the held bundle cannot, newest knowledge first.
    fn authentication_bundle(&self, trust_domain: &TrustDomain, now: UnixTime) -> Option<&Arc<Bundle>> {
        if self.bundle(trust_domain).is_some_and(|bundle| bundle.can_authenticate(now)) {
            return None;
        }
        let choices = [self.last_usable.get(trust_domain), self.bootstraps.get(trust_domain)];
        choices.into_iter().flatten().find(|bundle| bundle.can_authenticate(now))
    }

    fn wants_bootstrap(&self, trust_domain: &TrustDomain, now: UnixTime) -> bool {
        let known = [self.bundle(trust_domain), self.last_usable.get(trust_domain)];
        !known.into_iter().flatten().any(|bundle| bundle.can_authenticate(now))
    }

    fn insert(&mut self, name: TrustDomain, record: Record) {
        if !record.bundle.x509_authorities().is_empty() {
            self.last_usable.insert(name.clone(), record.bundle.clone());
        }
        self.records.insert(name, record);
    }

    fn touch(&mut self, trust_domain: &TrustDomain) {
        self.generation += 1;
        self.touched.insert(trust_domain.clone(), self.generation);
    }

    /// True when anything is other than before.
    fn replace_all(&mut self, begun: u64, messages: &[types::Bundle], told: &Mutex<Repeats>) -> bool {
        let mut newer = std::mem::take(&mut self.touched);
        newer.retain(|_, read| *read > begun);
        let (mut old, kept): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.records).into_iter().partition(|(name, _)| !newer.contains_key(name));
        self.records = kept;
        let mut is_changed = false;
        for message in messages {
            let name = TrustDomain::from_name_or_id(&message.trust_domain).ok();
            if name.as_ref().is_some_and(|name| newer.contains_key(name)) {
                continue;
            }
            let known = name.and_then(|name| old.remove(&name));
            let before = known.as_ref().map(|record| record.message_sha256);
            if let Some((name, record)) = read(message, known, told) {
                if before != Some(record.message_sha256) {
                    is_changed = true;
                    debug!(trust_domain = %name, sequence_number = record.bundle.sequence_number(), "held bundle changed");
                }
                self.insert(name, record);
            }
        }
        for name in old.keys() {
            debug!(trust_domain = %name, "held bundle is gone");
        }
        is_changed || !old.is_empty()
    }
}

/// Parses unless it is what `known` was made of. Others write to SPIRE's store too, so single bad authorities are passed over.
fn read(
    message: &types::Bundle,
    known: Option<Record>,
    told: &Mutex<Repeats>,
) -> Option<(TrustDomain, Record)> {
    let message_sha256 = Sha256::digest(message.encode_to_vec()).into();
    if let Some(known) = known.filter(|known| known.message_sha256 == message_sha256) {
        return Some((known.bundle.trust_domain().clone(), known));
    }
    let bundle = match BundleMessage::from(message).into_usable() {
        Ok(UsableBundle { bundle, refused }) => {
            if let Some(first) = refused.first() {
                let (trust_domain, refused) = (bundle.trust_domain(), refused.len());
                warn!(%trust_domain, refused, first = chain(first), "spire holds authorities that cannot be used");
            }
            bundle
        }
        Err(error) => {
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            let error = chain(&error);
            if told.is_new(&message.trust_domain, &error) {
                warn!(error, "spire holds a bundle that cannot be read");
            }
            return None;
        }
    };
    Some((bundle.trust_domain().clone(), Record { message_sha256, bundle: Arc::new(bundle) }))
}

#[cfg(test)]
mod tests {
    use entente_bundle::testing::{TestAuthority, now};

    use super::*;

    fn name() -> TrustDomain {
        TrustDomain::new("a.test").unwrap()
    }

    fn message(authority: &TestAuthority) -> types::Bundle {
        types::Bundle::from(&authority.bundle())
    }

    fn empty() -> types::Bundle {
        types::Bundle { trust_domain: "a.test".into(), ..Default::default() }
    }

    #[test]
    fn a_list_that_was_begun_before_a_change_does_not_undo_it() {
        let (held, authority) = (Held::new(), TestAuthority::new("a.test"));
        let generation = held.generation();
        held.set(&name(), Some(&message(&authority)));
        let other = types::Bundle { trust_domain: "b.test".into(), ..message(&authority) };
        held.replace_all(generation, &[empty(), other]);
        assert!(held.subscribe().borrow().bundle(&name()).unwrap().same_authorities(&authority.bundle()));
        assert_eq!(held.names().len(), 2, "the rest of the list counts");
        held.replace_all(held.generation(), &[]);
        assert_eq!(held.subscribe().borrow().bundle(&name()), None);
    }

    #[test]
    fn an_unchanged_list_wakes_nobody() {
        let (held, authority) = (Held::new(), TestAuthority::new("a.test"));
        let mut watch = held.subscribe();
        held.replace_all(0, &[]);
        assert!(!held.is_known() && !watch.has_changed().unwrap(), "bootstrap bundles belong to it");
        held.set_bootstraps(BTreeMap::new(), BTreeMap::new());
        assert!(held.is_known() && watch.has_changed().unwrap(), "now it is known that there is nothing");
        held.replace_all(0, &[message(&authority)]);
        watch.mark_unchanged();
        held.replace_all(0, &[message(&authority)]);
        held.set_bootstraps(BTreeMap::new(), BTreeMap::new());
        assert!(!watch.has_changed().unwrap());
        held.set(&name(), Some(&message(&authority)));
        assert!(!watch.has_changed().unwrap(), "nor does reading it alone");
        held.replace_all(held.generation(), &[]);
        assert!(watch.has_changed().unwrap());
    }

    #[test]
    fn nothing_is_remembered_of_a_trust_domain_that_nobody_names() {
        let (held, authority) = (Held::new(), TestAuthority::new("a.test"));
        held.set(&name(), Some(&message(&authority)));
        held.set(&name(), None);
        held.forget_all_but(&BTreeSet::from([&name()]));
        assert!(held.parts(&name(), now()).1.is_some());
        held.forget_all_but(&BTreeSet::new());
        assert_eq!(held.parts(&name(), now()), (None, None));
    }

    #[test]
    fn after_a_revocation_the_last_authorities_still_authenticate_the_endpoint() {
        let (held, authority) = (Held::new(), TestAuthority::new("a.test"));
        held.set(&name(), Some(&message(&authority)));
        let state = held.subscribe();
        assert_eq!(state.borrow().authentication_bundle(&name(), now()), None);
        held.set(&name(), Some(&empty()));
        assert!(state.borrow().bundle(&name()).unwrap().is_empty());
        assert!(
            state
                .borrow()
                .authentication_bundle(&name(), now())
                .unwrap()
                .same_authorities(&authority.bundle())
        );
        held.forget(&name());
        assert_eq!(state.borrow().authentication_bundle(&name(), now()), None);
    }

    #[test]
    fn the_bootstrap_bundle_serves_only_where_nothing_newer_can() {
        let held = Held::new();
        let (expired, bootstrap) =
            (TestAuthority::builder("a.test").expired().build(), TestAuthority::new("a.test"));
        let state = held.subscribe();
        assert!(state.borrow().wants_bootstrap(&name(), now()));
        held.set_bootstraps(BTreeMap::from([(name(), Arc::new(bootstrap.bundle()))]), BTreeMap::new());
        held.set(&name(), Some(&message(&expired)));
        let chosen = state.borrow().authentication_bundle(&name(), now()).cloned().unwrap();
        assert!(chosen.same_authorities(&bootstrap.bundle()));
        held.set(&name(), Some(&message(&TestAuthority::new("a.test"))));
        assert_eq!(state.borrow().authentication_bundle(&name(), now()), None);
        assert!(!state.borrow().wants_bootstrap(&name(), now()));
    }

    #[test]
    fn a_bad_authority_in_spires_store_does_not_hide_the_good_ones() {
        let (held, authority) = (Held::new(), TestAuthority::new("a.test"));
        let mut mixed = message(&authority);
        mixed.x509_authorities.push(types::X509Certificate::default());
        assert_eq!(held.set(&name(), Some(&mixed)).unwrap().x509_authorities().len(), 1);
        let nameless = types::Bundle { trust_domain: "No Name".into(), ..message(&authority) };
        held.replace_all(held.generation(), &[nameless]);
        assert!(held.names().is_empty());
    }
}
