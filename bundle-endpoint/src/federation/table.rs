//! What is known about each relationship, for the status page and metrics; written by the task that follows it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use entente_bundle::{Bundle, SpiffeId, TrustDomain};

use super::relationship::FederationRelationship;
use crate::link::Offer;

/// What is known about one relationship.
#[derive(Clone, Debug)]
pub(crate) struct RelationshipState {
    pub(crate) relationship: Arc<FederationRelationship>,
    pub(crate) fetched: Option<Arc<Bundle>>,
    pub(crate) skipped_elements: usize,
    pub(crate) presented: Option<SpiffeId>,
    pub(crate) offer: Option<Arc<Offer>>,
    pub(crate) failure: Option<FetchFailure>,
    pub(crate) fetches: u64,
    pub(crate) failures: u64,
    /// Unix seconds, here and below.
    pub(crate) last_attempt: Option<u64>,
    pub(crate) last_success: Option<u64>,
    pub(crate) next_fetch: Option<u64>,
}

/// The last fetch, when it failed.
#[derive(Clone, Debug)]
pub(crate) struct FetchFailure {
    pub(crate) reason: &'static str,
    pub(crate) detail: String,
    /// In a row.
    pub(crate) count: u64,
}

impl RelationshipState {
    /// Before anything was tried.
    pub(crate) fn new(relationship: &Arc<FederationRelationship>) -> Self {
        Self {
            relationship: Arc::clone(relationship),
            fetched: None,
            skipped_elements: 0,
            presented: None,
            offer: None,
            failure: None,
            fetches: 0,
            failures: 0,
            last_attempt: None,
            last_success: None,
            next_fetch: None,
        }
    }
}

/// What is known about every relationship.
#[derive(Debug, Default)]
pub(crate) struct RelationshipTable(Mutex<BTreeMap<TrustDomain, RelationshipState>>);

impl RelationshipTable {
    pub(crate) fn snapshot(&self) -> Vec<RelationshipState> {
        crate::lock(&self.0).values().cloned().collect()
    }

    pub(super) fn begin(&self, relationship: &Arc<FederationRelationship>) {
        let state = RelationshipState::new(relationship);
        crate::lock(&self.0).insert(relationship.trust_domain.clone(), state);
    }

    pub(super) fn end(&self, trust_domain: &TrustDomain) {
        crate::lock(&self.0).remove(trust_domain);
    }

    pub(super) fn update(&self, trust_domain: &TrustDomain, change: impl FnOnce(&mut RelationshipState)) {
        if let Some(state) = crate::lock(&self.0).get_mut(trust_domain) {
            change(state);
        }
    }
}
