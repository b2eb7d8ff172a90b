//! Which entries a list or count call wants. An entry has to meet all that is set.

use std::collections::BTreeSet;

use entente_bundle::TrustDomain;
use entente_proto::spire::api::server::entry::v1::{count_entries_request, list_entries_request};
use entente_proto::spire::api::types as wire;

use super::parse::{self, Bad};

/// The filter messages of both calls are the same.
#[derive(Debug, Default)]
pub(super) struct Filter {
    by_spiffe_id: Option<wire::Spiffeid>,
    by_parent_id: Option<wire::Spiffeid>,
    by_selectors: Option<wire::SelectorMatch>,
    by_federates_with: Option<wire::FederatesWithMatch>,
    by_hint: Option<String>,
    by_downstream: Option<bool>,
}

macro_rules! from_message {
    ($message:path) => {
        impl From<$message> for Filter {
            fn from(message: $message) -> Self {
                Self {
                    by_spiffe_id: message.by_spiffe_id,
                    by_parent_id: message.by_parent_id,
                    by_selectors: message.by_selectors,
                    by_federates_with: message.by_federates_with,
                    by_hint: message.by_hint,
                    by_downstream: message.by_downstream,
                }
            }
        }
    };
}
from_message!(count_entries_request::Filter);
from_message!(list_entries_request::Filter);

/// How two sets have to compare; the numbers are those of either message.
#[derive(Clone, Copy)]
enum Match {
    Any,
    Exact,
    Subset,
    Superset,
}

impl Match {
    fn from_number(number: i32) -> Self {
        match number {
            1 => Self::Subset,
            2 => Self::Superset,
            3 => Self::Any,
            _ => Self::Exact,
        }
    }

    /// An entry with nothing to compare matches nothing.
    fn allows<T: Ord>(self, held: &BTreeSet<T>, wanted: &BTreeSet<T>) -> bool {
        !held.is_empty()
            && match self {
                Self::Any => !held.is_disjoint(wanted),
                Self::Exact => held == wanted,
                Self::Subset => held.is_subset(wanted),
                Self::Superset => held.is_superset(wanted),
            }
    }
}

impl Filter {
    /// Which part is malformed, and why.
    pub(super) fn check(&self, own: &TrustDomain) -> Result<(), (&'static str, Bad)> {
        if self.by_parent_id.is_some() {
            parse::member_id(own, self.by_parent_id.as_ref()).map_err(|bad| ("parent ID", bad))?;
        }
        if self.by_spiffe_id.is_some() {
            let id = parse::spiffe_id(self.by_spiffe_id.as_ref());
            id.and_then(|id| parse::check_workload(own, &id)).map_err(|bad| ("SPIFFE ID", bad))?;
        }
        if let Some(by) = &self.by_selectors {
            parse::selectors(&by.selectors).map_err(|bad| ("selectors", bad))?;
            if by.selectors.is_empty() {
                return Err(("selectors", Bad::new("empty selector set")));
            }
        }
        if let Some(by) = &self.by_federates_with {
            let names = by.trust_domains.iter().try_for_each(|name| parse::trust_domain(name).map(drop));
            names.map_err(|bad| ("federates with", bad))?;
            if by.trust_domains.is_empty() {
                return Err(("federates with", Bad::new("empty trust domain set")));
            }
        }
        Ok(())
    }

    pub(super) fn allows(&self, entry: &wire::Entry) -> bool {
        let same = |wanted: &Option<wire::Spiffeid>, held: &Option<wire::Spiffeid>| {
            wanted.is_none() || wanted == held
        };
        same(&self.by_spiffe_id, &entry.spiffe_id)
            && same(&self.by_parent_id, &entry.parent_id)
            && self.by_hint.as_ref().is_none_or(|hint| hint.is_empty() || *hint == entry.hint)
            && self.by_downstream.is_none_or(|downstream| downstream == entry.downstream)
            && self.by_selectors.as_ref().is_none_or(|by| {
                Match::from_number(by.r#match).allows(&pairs(&entry.selectors), &pairs(&by.selectors))
            })
            && self.by_federates_with.as_ref().is_none_or(|by| {
                let held = entry.federates_with.iter().cloned().collect();
                let wanted = by.trust_domains.iter().filter_map(|name| parse::trust_domain(name).ok());
                Match::from_number(by.r#match).allows(&held, &wanted.map(|name| name.to_string()).collect())
            })
    }
}

fn pairs(selectors: &[wire::Selector]) -> BTreeSet<(&str, &str)> {
    selectors.iter().map(|selector| (selector.r#type.as_str(), selector.value.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &str) -> BTreeSet<char> {
        names.chars().collect()
    }

    #[test]
    fn sets_compare_in_four_ways_and_an_empty_one_never_matches() {
        for (held, wanted, exact, subset, superset, any) in [
            ("ab", "ab", true, true, true, true),
            ("a", "ab", false, true, false, true),
            ("abc", "ab", false, false, true, true),
            ("bc", "ab", false, false, false, true),
            ("c", "ab", false, false, false, false),
            ("", "ab", false, false, false, false),
        ] {
            let results = [Match::Exact, Match::Subset, Match::Superset, Match::Any]
                .map(|how| how.allows(&set(held), &set(wanted)));
            assert_eq!(results, [exact, subset, superset, any], "{held} against {wanted}");
        }
    }
}
