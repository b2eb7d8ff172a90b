//! Which verified SPIFFE IDs may pass. Chain first (`svid`), permission second (here).

use std::collections::BTreeSet;

use crate::{SpiffeId, TrustDomain};

/// A rule about verified SPIFFE IDs. There is no default: the caller says what is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorizer {
    /// Any verified ID of any trust domain whose bundle is held.
    AnyInBundles,
    /// Only these IDs.
    Exact(BTreeSet<SpiffeId>),
    /// Any verified ID of these trust domains.
    MemberOf(BTreeSet<TrustDomain>),
}

impl Authorizer {
    /// One ID.
    pub fn exact(id: SpiffeId) -> Self {
        Self::Exact(BTreeSet::from([id]))
    }
    /// True when `id` may pass.
    pub fn allows(&self, id: &SpiffeId) -> bool {
        match self {
            Self::AnyInBundles => true,
            Self::Exact(ids) => ids.contains(id),
            Self::MemberOf(domains) => domains.contains(id.trust_domain()),
        }
    }
}
