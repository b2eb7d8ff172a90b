//! What the linked plugins say about SPIRE Server, for people: whether its API can be used, and what is to leave it.

use std::collections::BTreeMap;
use std::sync::Arc;

use entente_bundle::TrustDomain;

use crate::federation::relationship::FederationRelationship;

/// One plugin's word on SPIRE's API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerApi {
    /// Why it cannot be used.
    pub(crate) trouble: Option<String>,
    /// What the plugin's block declares, while its relationships are not known.
    pub(crate) declared: Vec<Arc<FederationRelationship>>,
}

/// What keeps each bundle that is to leave SPIRE; empty before the first try.
pub(crate) type PendingRemovals = BTreeMap<TrustDomain, String>;

/// What all linked plugins say, merged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SpireState {
    /// Troubles of those that have one, each once.
    pub(crate) troubles: Vec<String>,
    /// Why no linked plugin can use the API, when none can: then nothing is set, nor known of what is held.
    pub(crate) unusable: Option<String>,
    pub(crate) declared: BTreeMap<TrustDomain, Arc<FederationRelationship>>,
    pub(crate) removals: PendingRemovals,
}

impl SpireState {
    /// Puts the words of all links together.
    pub(super) fn merge<'a>(links: impl Iterator<Item = (&'a ServerApi, &'a PendingRemovals)>) -> Self {
        let mut merged = Self::default();
        let mut can_any = false;
        for (api, removals) in links {
            can_any |= api.trouble.is_none();
            merged.troubles.extend(api.trouble.clone());
            let declared = api.declared.iter().map(|one| (one.trust_domain.clone(), Arc::clone(one)));
            merged.declared.extend(declared);
            merged.removals.extend(removals.clone());
        }
        merged.troubles.sort();
        merged.troubles.dedup();
        merged.unusable = merged.troubles.first().filter(|_| !can_any).cloned();
        merged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_plugin_that_can_use_the_api_is_enough_and_the_others_trouble_shows() {
        let none = PendingRemovals::new();
        let well = ServerApi::default();
        let ill = ServerApi { trouble: Some("no such file".into()), declared: Vec::new() };
        let both = SpireState::merge([(&well, &none), (&ill, &none)].into_iter());
        assert_eq!((both.unusable, both.troubles.len()), (None, 1));
        let alone = SpireState::merge([(&ill, &none), (&ill, &none)].into_iter());
        assert_eq!((alone.unusable, alone.troubles.len()), (ill.trouble.clone(), 1));
        assert_eq!(SpireState::merge(std::iter::empty()), SpireState::default());
    }
}
