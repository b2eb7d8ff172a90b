//! What all links say, merged: one own bundle, one list of relationships, one table of held bundles.
//!
//! Several plugins may be linked (servers of one trust domain that share a datastore, or two plugins of one server). When a
//! link ends, what it said stays in force until another link says something else: only its signatures are gone, and what it found
//! wrong, which nobody else could take back. About what SPIRE holds a link is believed as `sight` says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use entente_bundle::{Bundle, TrustDomain};
use tokio::sync::watch;
use tracing::warn;

use super::sight::{self, Sight, Word, Words};
use super::signing::SignPlaces;
use super::spire::{PendingRemovals, ServerApi, SpireState};
use super::{Held, HeldTable, LinkPeer, OfferTable, Troubles};
use crate::federation::relationship::FederationRelationship;
use crate::identity::keyless::{Lenders, LentIdentity};
use crate::metrics::Metrics;

/// Every relationship there is.
pub(crate) type Relationships = BTreeMap<TrustDomain, Arc<FederationRelationship>>;

/// Tells links apart; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LinkId(u64);

/// Who is linked, for the status page.
#[derive(Clone, Debug)]
pub(crate) struct LinkInfo {
    pub(crate) plugin_version: String,
    pub(crate) peer: LinkPeer,
    pub(crate) since: SystemTime,
    pub(crate) lends: Option<Arc<LentIdentity>>,
}

/// The merged state of all links.
#[derive(Debug)]
pub(crate) struct Hub {
    trust_domain: TrustDomain,
    pub(crate) metrics: Arc<Metrics>,
    links: Mutex<Links>,
    link_count: watch::Sender<usize>,
    own_bundle: watch::Sender<Option<Arc<Bundle>>>,
    relationships: watch::Sender<Arc<Relationships>>,
    pub(crate) held: HeldTable,
    pub(crate) offers: OfferTable,
    pub(crate) lenders: Arc<Lenders>,
    pub(crate) sign_places: Arc<SignPlaces>,
}

#[derive(Debug, Default)]
struct Links {
    last_id: u64,
    // Counts messages, so that "newest" has a meaning between links.
    clock: u64,
    open: BTreeMap<LinkId, LinkState>,
}

/// What one link said, each with the time on our own clock of messages.
#[derive(Debug)]
struct LinkState {
    info: LinkInfo,
    own_bundle: Option<(u64, Arc<Bundle>)>,
    relationships: Option<(u64, Arc<Relationships>)>,
    identity: Option<(u64, Arc<LentIdentity>)>,
    held: Words,
    sight: Sight,
    server_api: ServerApi,
    removals: PendingRemovals,
}

impl Links {
    fn troubles_of(&self, trust_domain: &TrustDomain) -> Troubles {
        Troubles::merge(self.open.values().map(|link| {
            let word = link.held.get(trust_domain);
            (&link.info.peer, word.map(|word| &word.held.troubles))
        }))
    }

    /// The clock's next time and the link that speaks; `None` for one that has ended.
    fn speaks(&mut self, id: LinkId) -> Option<(u64, &mut LinkState)> {
        self.clock += 1;
        Some((self.clock, self.open.get_mut(&id)?))
    }
}

impl Hub {
    pub(crate) fn new(trust_domain: TrustDomain, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            trust_domain,
            metrics,
            links: Mutex::default(),
            link_count: watch::Sender::new(0),
            own_bundle: watch::Sender::new(None),
            relationships: watch::Sender::default(),
            held: HeldTable::default(),
            offers: OfferTable::new(),
            lenders: Arc::default(),
            sign_places: Arc::default(),
        })
    }

    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    pub(crate) fn own_bundle(&self) -> watch::Receiver<Option<Arc<Bundle>>> {
        self.own_bundle.subscribe()
    }

    pub(crate) fn relationships(&self) -> watch::Receiver<Arc<Relationships>> {
        self.relationships.subscribe()
    }

    /// How many plugins are linked now.
    pub(crate) fn link_count(&self) -> watch::Receiver<usize> {
        self.link_count.subscribe()
    }

    pub(crate) fn links(&self) -> Vec<LinkInfo> {
        let links = crate::lock(&self.links);
        let info = |link: &LinkState| LinkInfo {
            lends: link.identity.as_ref().map(|(_, identity)| Arc::clone(identity)),
            ..link.info.clone()
        };
        links.open.values().map(info).collect()
    }

    pub(crate) fn open(&self, info: LinkInfo) -> LinkId {
        let mut links = crate::lock(&self.links);
        links.last_id += 1;
        let id = LinkId(links.last_id);
        let state = LinkState {
            info,
            own_bundle: None,
            relationships: None,
            identity: None,
            held: Words::new(),
            sight: Sight::default(),
            server_api: ServerApi::default(),
            removals: PendingRemovals::new(),
        };
        links.open.insert(id, state);
        self.count(&links);
        self.merge_troubles(&links);
        id
    }

    pub(crate) fn close(&self, id: LinkId) {
        let mut links = crate::lock(&self.links);
        links.open.remove(&id);
        self.count(&links);
        // What is left is what the other links say; with no other link, all stays as it was.
        self.merge_own_bundle(&links);
        self.merge_relationships(&mut links);
        self.merge_identities(&links);
        // But for this: how another server is says nothing about the one that is away.
        self.merge_troubles(&links);
    }

    /// `None` when the plugin does not know it yet, which takes nothing away.
    pub(crate) fn take_own_bundle(&self, id: LinkId, bundle: Option<Arc<Bundle>>) {
        self.update(id, |state, now| state.own_bundle = bundle.map(|bundle| (now, bundle)));
        let links = crate::lock(&self.links);
        self.merge_own_bundle(&links);
        self.merge_identities(&links);
    }

    pub(crate) fn take_relationships(&self, id: LinkId, relationships: Relationships) {
        self.update(id, |state, now| {
            // Of the others it says nothing any more.
            let needed = needed(&relationships);
            state.held.retain(|trust_domain, _| needed.contains(trust_domain));
            state.relationships = Some((now, Arc::new(relationships)));
        });
        let mut links = crate::lock(&self.links);
        self.merge_relationships(&mut links);
        self.merge_troubles(&links);
    }

    /// `None` when the plugin lends nothing.
    pub(crate) fn take_identity(&self, id: LinkId, identity: Option<Arc<LentIdentity>>) {
        self.update(id, |state, now| state.identity = identity.map(|identity| (now, identity)));
        self.merge_identities(&crate::lock(&self.links));
    }

    /// True when that changes what is in force.
    pub(crate) fn take_held(&self, id: LinkId, trust_domain: &TrustDomain, held: Held) -> bool {
        let mut links = crate::lock(&self.links);
        let Some((time, state)) = links.speaks(id) else { return false };
        state.held.insert(trust_domain.clone(), Word { time, held });
        self.merge_held(&links, id, trust_domain)
    }

    /// What a plugin says about SPIRE's API; gone with its link, because nobody else can say when it is over.
    pub(crate) fn take_server_api(&self, id: LinkId, server_api: ServerApi) {
        let mut links = crate::lock(&self.links);
        let Some((now, state)) = links.speaks(id) else { return };
        let before = state.sight;
        state.sight = before.told(server_api.trouble.is_some(), now);
        state.server_api = server_api;
        // What it has said is worth more than it was. Trouble takes nothing back.
        if state.sight > before {
            let names: Vec<_> = state.held.keys().cloned().collect();
            for trust_domain in &names {
                self.merge_held(&links, id, trust_domain);
            }
        }
    }

    /// What is to leave SPIRE and has not; gone with the link for the same reason.
    pub(crate) fn take_removals(&self, id: LinkId, removals: PendingRemovals) {
        self.update(id, |state, _| state.removals = removals);
    }

    /// What the linked plugins say about SPIRE Server.
    pub(crate) fn spire(&self) -> SpireState {
        let links = crate::lock(&self.links);
        SpireState::merge(links.open.values().map(|link| (&link.server_api, &link.removals)))
    }

    /// Looks at lent identities again as time passes: certificates become valid and authorities end.
    pub(crate) fn judge_identities(&self) {
        self.merge_identities(&crate::lock(&self.links));
    }

    fn update(&self, id: LinkId, change: impl FnOnce(&mut LinkState, u64)) {
        if let Some((now, state)) = crate::lock(&self.links).speaks(id) {
            change(state, now);
        }
    }

    fn count(&self, links: &Links) {
        let count = links.open.len();
        self.link_count.send_replace(count);
        self.metrics.links(count);
    }

    // The highest sequence number, else the newest. With no link that knows one, the last stays.
    fn merge_own_bundle(&self, links: &Links) {
        let known = links.open.values().filter_map(|state| state.own_bundle.as_ref());
        let best = known.max_by_key(|(time, bundle)| (bundle.sequence_number(), *time));
        let Some((_, best)) = best else { return };
        self.own_bundle.send_if_modified(|current| {
            let news = current.as_ref() != Some(best);
            if news {
                // Peers that compare numbers will refuse it, and keep what they have.
                if let Some(before) = current.as_ref().and_then(|current| current.sequence_number())
                    && best.sequence_number().is_none_or(|now| now < before)
                {
                    let sequence_number = best.sequence_number();
                    warn!(sequence_number, sequence_number_before = before, "own bundle goes back");
                }
                *current = Some(Arc::clone(best));
            }
            news
        });
    }

    // The union; where two links name one domain, the newer word counts.
    fn merge_relationships(&self, links: &mut Links) {
        let mut known: Vec<_> =
            links.open.values().filter_map(|state| state.relationships.as_ref()).collect();
        if known.is_empty() {
            return;
        }
        known.sort_by_key(|(time, _)| *time);
        let mut union = Relationships::new();
        for (_, relationships) in known {
            union.extend(relationships.iter().map(|(name, value)| (name.clone(), Arc::clone(value))));
        }
        let needed = needed(&union);
        self.held.keep_only(&needed);
        for state in links.open.values_mut() {
            state.held.retain(|trust_domain, _| needed.contains(trust_domain));
        }
        self.relationships.send_if_modified(|current| {
            let news = **current != union;
            if news {
                *current = Arc::new(union);
            }
            news
        });
    }

    // `by` has spoken, or is worth more than before: its word comes into force where no other one is worth more.
    fn merge_held(&self, links: &Links, by: LinkId, trust_domain: &TrustDomain) -> bool {
        let words = links.open.values().filter_map(|link| Some((link.sight, link.held.get(trust_domain)?)));
        let own = links.open.get(&by).and_then(|link| link.held.get(trust_domain));
        let Some((own, best)) = own.zip(sight::best(words.clone())) else { return false };
        let is_best = own.time == best.time;
        let mut held = if is_best { own.held.clone() } else { self.held.current(trust_domain) };
        if let Some(Word { held: known, .. }) = sight::beside(words) {
            held.authentication_bundle.clone_from(&known.authentication_bundle);
            held.authentication_file.clone_from(&known.authentication_file);
        }
        held.troubles = links.troubles_of(trust_domain);
        self.held.set(trust_domain, held)
    }

    fn merge_troubles(&self, links: &Links) {
        self.held.retell(|trust_domain| links.troubles_of(trust_domain));
    }

    fn merge_identities(&self, links: &Links) {
        let mut lent: Vec<_> = links.open.values().filter_map(|state| state.identity.as_ref()).collect();
        lent.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
        let newest_first: Vec<_> = lent.into_iter().map(|(_, identity)| Arc::clone(identity)).collect();
        let published = self.own_bundle.borrow().clone();
        self.lenders.replace(&newest_first, published.as_deref(), crate::time::unix_now());
    }
}

/// Whose bundles matter: the relationships' and those of their endpoints.
fn needed(relationships: &Relationships) -> BTreeSet<&TrustDomain> {
    let endpoints = relationships.values().filter_map(|one| one.profile.authenticating_domain());
    relationships.keys().chain(endpoints).collect()
}

#[cfg(test)]
mod tests;
