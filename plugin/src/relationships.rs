//! Which federation relationships there are: the operator's block and SPIRE's own, never two writers for one trust domain.

use std::collections::BTreeMap;
use std::path::PathBuf;

use entente_bundle::text::without_userinfo;
use entente_bundle::{IdError, SpiffeId, TrustDomain};
use entente_proto::link::v1 as link;
use entente_proto::spire::api::types;
use entente_proto::spire::api::types::federation_relationship::BundleEndpointProfile;

use crate::config::{Config, check_url};

/// A foreign trust domain and how to reach its bundle endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FederationRelationship {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) bundle_endpoint_url: String,
    pub(crate) profile: EndpointProfile,
    pub(crate) mode: Mode,
    pub(crate) follow_redirects: bool,
    /// What authenticates the endpoint while SPIRE holds nothing that could.
    pub(crate) bootstrap_bundle: Option<PathBuf>,
    /// Kept for the day when bundles are signed; today none is.
    pub(crate) unsigned: Unsigned,
}

/// How a bundle endpoint proves who it is (FED 5.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EndpointProfile {
    /// By an X509-SVID with exactly this ID.
    HttpsSpiffe { endpoint_spiffe_id: SpiffeId },
    /// By a certificate for its host name; PEM of the only authorities to trust, or empty for the system's.
    HttpsWeb { ca_certificates: String },
}

/// Who puts the bundle into SPIRE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// SPIRE, as soon as we tell it that there is something new.
    Assisted,
    /// We.
    Managed,
}

/// Whether a bundle without a signature may be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsigned {
    Allow,
    Refuse,
}

/// What SPIRE Server says about its own relationships. `None` where it has one that cannot be read here: still its own, so that
/// nobody else becomes a second writer.
pub(crate) type SpireRelationships = BTreeMap<TrustDomain, Option<SpireRelationship>>;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SpireRelationship {
    pub(crate) bundle_endpoint_url: String,
    pub(crate) profile: EndpointProfile,
}

/// Why a relationship of SPIRE's cannot be watched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SpireRelationshipError {
    #[error("endpoint SPIFFE ID {text:?}: {source}")]
    EndpointSpiffeId { text: String, source: IdError },
    #[error("no profile that is known here")]
    Profile,
    #[error("trust domain {text:?}: {source}")]
    TrustDomain { text: String, source: IdError },
    #[error("bundle endpoint URL {text:?}: {reason}")]
    Url { text: String, reason: &'static str },
}

/// Whose relationship it is that the Server API lists.
pub(crate) fn name_from_spire(
    message: &types::FederationRelationship,
) -> Result<TrustDomain, SpireRelationshipError> {
    let text = &message.trust_domain;
    TrustDomain::from_name_or_id(text)
        .map_err(|source| SpireRelationshipError::TrustDomain { text: text.clone(), source })
}

/// Reads the rest of it.
pub(crate) fn from_spire(
    message: &types::FederationRelationship,
) -> Result<SpireRelationship, SpireRelationshipError> {
    let url = &message.bundle_endpoint_url;
    check_url(url).map_err(|reason| SpireRelationshipError::Url { text: without_userinfo(url), reason })?;
    let profile = match &message.bundle_endpoint_profile {
        Some(BundleEndpointProfile::HttpsSpiffe(profile)) => {
            let text = &profile.endpoint_spiffe_id;
            let endpoint_spiffe_id = SpiffeId::with_path(text)
                .map_err(|source| SpireRelationshipError::EndpointSpiffeId { text: text.clone(), source })?;
            EndpointProfile::HttpsSpiffe { endpoint_spiffe_id }
        }
        Some(BundleEndpointProfile::HttpsWeb(_)) => {
            EndpointProfile::HttpsWeb { ca_certificates: String::new() }
        }
        None => return Err(SpireRelationshipError::Profile),
    };
    Ok(SpireRelationship { bundle_endpoint_url: url.clone(), profile })
}

/// The relationship for one trust domain, if there is any. SPIRE's own wins, so that it stays the only writer.
pub(crate) fn of(
    trust_domain: &TrustDomain,
    config: &Config,
    spire: &SpireRelationships,
) -> Option<FederationRelationship> {
    if *trust_domain == config.trust_domain {
        return None;
    }
    let declared = config.federates_with.get(trust_domain);
    let Some(own) = spire.get(trust_domain) else {
        return declared.cloned();
    };
    let Some(own) = own else {
        // How to reach the endpoint is then only known where the block tells it, too.
        return declared.map(|declared| FederationRelationship { mode: Mode::Assisted, ..declared.clone() });
    };
    let profile = match (&own.profile, declared.map(|declared| &declared.profile)) {
        // SPIRE knows no private web authority; the block may name one.
        (EndpointProfile::HttpsWeb { .. }, Some(declared @ EndpointProfile::HttpsWeb { .. })) => {
            declared.clone()
        }
        (profile, _) => profile.clone(),
    };
    Some(FederationRelationship {
        trust_domain: trust_domain.clone(),
        bundle_endpoint_url: own.bundle_endpoint_url.clone(),
        profile,
        mode: Mode::Assisted,
        follow_redirects: declared.is_some_and(|declared| declared.follow_redirects),
        bootstrap_bundle: declared.and_then(|declared| declared.bootstrap_bundle.clone()),
        unsigned: declared.map_or(Unsigned::Refuse, |declared| declared.unsigned),
    })
}

/// All relationships, by trust domain.
pub(crate) fn all(
    config: &Config,
    spire: &SpireRelationships,
) -> BTreeMap<TrustDomain, FederationRelationship> {
    let names = config.federates_with.keys().chain(spire.keys());
    names.filter_map(|name| Some((name.clone(), of(name, config, spire)?))).collect()
}

/// A relationship, if there is one, whose endpoint is authenticated by the bundle of `trust_domain`.
pub(crate) fn authenticated_by(
    trust_domain: &TrustDomain,
    config: &Config,
    spire: &SpireRelationships,
) -> Option<TrustDomain> {
    let all = all(config, spire);
    all.into_values()
        .find(|one| one.endpoint_trust_domain() == Some(trust_domain))
        .map(|one| one.trust_domain)
}

impl FederationRelationship {
    /// Trust domain whose bundle authenticates the endpoint; `None` for the web's authorities.
    pub(crate) fn endpoint_trust_domain(&self) -> Option<&TrustDomain> {
        match &self.profile {
            EndpointProfile::HttpsSpiffe { endpoint_spiffe_id } => Some(endpoint_spiffe_id.trust_domain()),
            EndpointProfile::HttpsWeb { .. } => None,
        }
    }

    /// As the endpoint gets it.
    pub(crate) fn to_link(&self) -> link::Relationship {
        use link::relationship::BundleEndpointProfile;
        let profile = match &self.profile {
            EndpointProfile::HttpsSpiffe { endpoint_spiffe_id } => {
                BundleEndpointProfile::HttpsSpiffe(link::HttpsSpiffe {
                    endpoint_spiffe_id: endpoint_spiffe_id.to_string(),
                })
            }
            EndpointProfile::HttpsWeb { ca_certificates } => {
                BundleEndpointProfile::HttpsWeb(link::HttpsWeb { ca_certificates: ca_certificates.clone() })
            }
        };
        let mode = match self.mode {
            Mode::Assisted => link::relationship::Mode::Assisted,
            Mode::Managed => link::relationship::Mode::Managed,
        };
        link::Relationship {
            trust_domain: self.trust_domain.to_string(),
            bundle_endpoint_url: self.bundle_endpoint_url.clone(),
            bundle_endpoint_profile: Some(profile),
            mode: mode.into(),
            follow_redirects: self.follow_redirects,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: &str = r#"
        endpoint = "unix:///run/link.sock"
        federates_with "managed.test" {
            bundle_endpoint_url = "https://managed.test"
            bundle_endpoint_profile "https_spiffe" { endpoint_spiffe_id = "spiffe://managed.test/spire/server" }
        }
        federates_with "assisted.test" {
            mode = "assisted"
            follow_redirects = true
            bundle_endpoint_url = "https://assisted.test"
            bundle_endpoint_profile "https_web" {}
        }"#;

    fn name(text: &str) -> TrustDomain {
        TrustDomain::new(text).unwrap()
    }

    fn config() -> Config {
        Config::read(BLOCK, "own.test").unwrap()
    }

    fn of_spire(trust_domain: &str, profile: Option<BundleEndpointProfile>) -> types::FederationRelationship {
        types::FederationRelationship {
            trust_domain: trust_domain.into(),
            bundle_endpoint_url: "https://spire.test/x".into(),
            bundle_endpoint_profile: profile,
            ..Default::default()
        }
    }

    fn spire(trust_domain: &str) -> SpireRelationships {
        let profile = BundleEndpointProfile::HttpsWeb(types::HttpsWebProfile {});
        let read = from_spire(&of_spire(trust_domain, Some(profile))).unwrap();
        SpireRelationships::from([(name(trust_domain), Some(read))])
    }

    #[test]
    fn a_relationship_of_spires_own_is_never_managed_too() {
        let (config, spire) = (config(), spire("managed.test"));
        let one = of(&name("managed.test"), &config, &spire).unwrap();
        assert_eq!((one.mode, one.bundle_endpoint_url.as_str()), (Mode::Assisted, "https://spire.test/x"));
    }

    #[test]
    fn one_of_spires_own_that_cannot_be_read_is_never_managed_either() {
        let spire = SpireRelationships::from([(name("managed.test"), None), (name("third.test"), None)]);
        let one = of(&name("managed.test"), &config(), &spire).unwrap();
        assert_eq!((one.mode, one.bundle_endpoint_url.as_str()), (Mode::Assisted, "https://managed.test"));
        assert_eq!(of(&name("third.test"), &config(), &spire), None);
    }

    #[test]
    fn the_own_trust_domain_is_never_foreign() {
        assert_eq!(of(&name("own.test"), &config(), &spire("own.test")), None);
        assert!(!all(&config(), &spire("own.test")).contains_key(&name("own.test")));
    }

    #[test]
    fn a_relationship_of_spires_that_cannot_be_watched_is_refused() {
        assert_eq!(from_spire(&of_spire("a.test", None)), Err(SpireRelationshipError::Profile));
        // SPIRE takes an ID without a path, which no certificate that is verified can have.
        for id in ["https://a.test", "spiffe://a.test"] {
            let profile = types::HttpsspiffeProfile { endpoint_spiffe_id: id.into() };
            let bad_id = of_spire("a.test", Some(BundleEndpointProfile::HttpsSpiffe(profile)));
            let refused = from_spire(&bad_id);
            assert!(
                matches!(refused, Err(SpireRelationshipError::EndpointSpiffeId { .. })),
                "{id}: {refused:?}"
            );
        }
        let mut bad_url =
            of_spire("a.test", Some(BundleEndpointProfile::HttpsWeb(types::HttpsWebProfile {})));
        bad_url.bundle_endpoint_url = "http://a.test".into();
        assert!(matches!(from_spire(&bad_url), Err(SpireRelationshipError::Url { .. })));
    }

    #[test]
    fn both_sources_are_joined() {
        let all = all(&config(), &spire("third.test"));
        let modes: Vec<_> = all.values().map(|one| (one.trust_domain.as_str(), one.mode)).collect();
        assert_eq!(
            modes,
            [
                ("assisted.test", Mode::Assisted),
                ("managed.test", Mode::Managed),
                ("third.test", Mode::Assisted)
            ]
        );
    }
}
