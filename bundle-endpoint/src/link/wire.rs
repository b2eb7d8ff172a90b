//! Messages of the link to our own types; whatever is wrong is named, and nothing of it is used.

use std::sync::Arc;

use entente_bundle::text::{printable, without_userinfo};
use entente_bundle::{Bundle, IdError, SpiffeId, TrustDomain};
use entente_proto::convert::{BundleMessage, ConvertError};
use entente_proto::link::v1 as link;

use super::spire::PendingRemovals;
use super::{Held, Outcome, Troubles};
use crate::federation::relationship::{EndpointProfile, FederationRelationship, Mode};

/// Why a message, or one part of it, was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MessageError {
    #[error("the message holds no bundle that can be used")]
    Bundle(#[from] ConvertError),
    #[error("the own bundle is empty: to publish it would revoke every svid of {trust_domain}")]
    EmptyOwnBundle { trust_domain: TrustDomain },
    #[error("{given:?} is no trust domain name")]
    TrustDomain { given: String, source: IdError },
    #[error("{given:?} is no endpoint spiffe id")]
    EndpointSpiffeId { given: String, source: IdError },
    #[error("the relationship with {trust_domain} has no bundle endpoint profile")]
    NoProfile { trust_domain: TrustDomain },
    #[error("the relationship with {trust_domain} has no mode")]
    NoMode { trust_domain: TrustDomain },
    #[error("{trust_domain} is our own trust domain, which is never federated with")]
    OwnTrustDomain { trust_domain: TrustDomain },
}

impl MessageError {
    /// A word for metrics.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Bundle(ConvertError::OtherTrustDomain { .. }) => "other_trust_domain",
            Self::EmptyOwnBundle { .. } => "empty",
            Self::OwnTrustDomain { .. } => "own_trust_domain",
            Self::Bundle(_)
            | Self::TrustDomain { .. }
            | Self::EndpointSpiffeId { .. }
            | Self::NoProfile { .. }
            | Self::NoMode { .. } => "malformed",
        }
    }
}

/// The bundle to publish; `None` while the plugin does not know it.
pub(crate) fn own_bundle(
    own: &TrustDomain,
    message: &link::OwnBundle,
) -> Result<Option<Arc<Bundle>>, MessageError> {
    let bundle = message.bundle.as_ref().map(|bundle| bundle_of(own, bundle)).transpose()?;
    // SPIRE Server never has none: something went wrong on the way, and a peer would take it at its word (TDB 4.1.3).
    if bundle.as_ref().is_some_and(|bundle| bundle.is_empty()) {
        return Err(MessageError::EmptyOwnBundle { trust_domain: own.clone() });
    }
    Ok(bundle)
}

/// The bundle of exactly `trust_domain`.
fn bundle_of(trust_domain: &TrustDomain, message: &link::Bundle) -> Result<Arc<Bundle>, MessageError> {
    Ok(Arc::new(BundleMessage::from(message).into_bundle_of(trust_domain)?))
}

pub(crate) fn relationship(
    own: &TrustDomain,
    message: link::Relationship,
) -> Result<FederationRelationship, MessageError> {
    let mode = message.mode();
    let trust_domain = foreign_domain(own, &message.trust_domain)?;
    let profile = match message.bundle_endpoint_profile {
        Some(link::relationship::BundleEndpointProfile::HttpsSpiffe(profile)) => {
            let given = profile.endpoint_spiffe_id;
            match SpiffeId::with_path(&given) {
                Ok(endpoint_spiffe_id) => EndpointProfile::HttpsSpiffe { endpoint_spiffe_id },
                Err(source) => return Err(MessageError::EndpointSpiffeId { given, source }),
            }
        }
        Some(link::relationship::BundleEndpointProfile::HttpsWeb(profile)) => {
            let pem = profile.ca_certificates;
            EndpointProfile::HttpsWeb { ca_certificates: Some(pem).filter(|pem| !pem.trim().is_empty()) }
        }
        None => return Err(MessageError::NoProfile { trust_domain }),
    };
    let mode = match mode {
        link::relationship::Mode::Managed => Mode::Managed,
        link::relationship::Mode::Assisted => Mode::Assisted,
        link::relationship::Mode::Unspecified => return Err(MessageError::NoMode { trust_domain }),
    };
    Ok(FederationRelationship {
        trust_domain,
        // One that has user information is refused at each fetch; it is shown in log and status all the same.
        bundle_endpoint_url: without_userinfo(&message.bundle_endpoint_url),
        profile,
        mode,
        follow_redirects: message.follow_redirects,
    })
}

/// Our own trust domain may be among those that are held: a foreign bundle may be served under an ID of ours.
pub(crate) fn held(message: &link::HeldBundle) -> Result<(TrustDomain, Held), MessageError> {
    let trust_domain = domain(&message.trust_domain)?;
    let read = |bundle: &Option<link::Bundle>| {
        bundle.as_ref().map(|bundle| bundle_of(&trust_domain, bundle)).transpose()
    };
    let held = Held {
        bundle: read(&message.bundle)?,
        authentication_bundle: read(&message.authentication_bundle)?,
        authentication_file: reason(&message.authentication_file),
        troubles: Troubles {
            authentication: reason(&message.authentication_trouble),
            keeping: reason(&message.keeping_trouble),
        },
    };
    Ok((trust_domain, held))
}

/// Words for people, bounded; `None` where there are none.
pub(crate) fn reason(text: &str) -> Option<String> {
    Some(printable(text, 500)).filter(|text| !text.is_empty())
}

pub(crate) fn pending_removals(message: link::PendingRemovals) -> Result<PendingRemovals, MessageError> {
    let one =
        |one: link::PendingRemoval| Ok((domain(&one.trust_domain)?, reason(&one.reason).unwrap_or_default()));
    message.removals.into_iter().map(one).collect()
}

/// `None` for an outcome that this version does not know: the offer stays unanswered.
pub(crate) fn outcome(message: &link::OfferOutcome) -> Option<Outcome> {
    let reason = || printable(&message.reason, 500);
    match message.outcome() {
        link::offer_outcome::Outcome::Set => Some(Outcome::Set),
        link::offer_outcome::Outcome::Unchanged => Some(Outcome::Unchanged),
        link::offer_outcome::Outcome::Refused => Some(Outcome::Refused { reason: reason() }),
        link::offer_outcome::Outcome::Failed => Some(Outcome::Failed { reason: reason() }),
        link::offer_outcome::Outcome::Unspecified => None,
    }
}

pub(crate) fn domain(given: &str) -> Result<TrustDomain, MessageError> {
    TrustDomain::new(given)
        .map_err(|source| MessageError::TrustDomain { given: printable(given, 100), source })
}

fn foreign_domain(own: &TrustDomain, given: &str) -> Result<TrustDomain, MessageError> {
    let trust_domain = domain(given)?;
    if trust_domain == *own {
        return Err(MessageError::OwnTrustDomain { trust_domain });
    }
    Ok(trust_domain)
}

#[cfg(test)]
mod tests {
    use link::relationship::{BundleEndpointProfile, Mode as WireMode};

    use super::*;

    #[test]
    fn an_endpoint_is_to_prove_an_id_with_a_path() {
        let own = TrustDomain::new("a.test").unwrap();
        let read = |id: &str| {
            let profile = link::HttpsSpiffe { endpoint_spiffe_id: id.into() };
            let message = link::Relationship {
                trust_domain: "b.test".into(),
                bundle_endpoint_url: "https://b.test/".into(),
                mode: WireMode::Assisted.into(),
                follow_redirects: false,
                bundle_endpoint_profile: Some(BundleEndpointProfile::HttpsSpiffe(profile)),
            };
            relationship(&own, message)
        };
        assert!(read("spiffe://b.test/spire/server").is_ok());
        let error = read("spiffe://b.test").unwrap_err();
        assert!(matches!(&error, MessageError::EndpointSpiffeId { source: IdError::NoPath { .. }, .. }));
        assert_eq!(error.reason(), "malformed");
    }
}
