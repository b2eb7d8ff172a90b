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

#[cfg(test)]
mod tests {
    use super::*;

    fn id(uri: &str) -> SpiffeId {
        SpiffeId::new(uri).unwrap()
    }

    #[test]
    fn a_list_of_ids_allows_exactly_these() {
        let exact = Authorizer::exact(id("spiffe://a.test/web"));
        for other in
            ["spiffe://a.test/web2", "spiffe://a.test/web/x", "spiffe://a.test", "spiffe://b.test/web"]
        {
            assert!(!exact.allows(&id(other)), "{other}");
        }
        assert!(exact.allows(&id("spiffe://a.test/web")));
        assert!(!Authorizer::Exact(BTreeSet::new()).allows(&id("spiffe://a.test/web")));
    }

    #[test]
    fn a_list_of_trust_domains_allows_their_members_and_nobody_of_a_domain_below() {
        let members = Authorizer::MemberOf(BTreeSet::from([TrustDomain::new("a.test").unwrap()]));
        for other in ["spiffe://b.test/web", "spiffe://x.a.test/web", "spiffe://a.test.b/web"] {
            assert!(!members.allows(&id(other)), "{other}");
        }
        assert!(members.allows(&id("spiffe://a.test/anything")));
        assert!(!Authorizer::MemberOf(BTreeSet::new()).allows(&id("spiffe://a.test/web")));
    }
}
