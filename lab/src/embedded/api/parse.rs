//! What SPIRE demands of the messages it is given, and not more.

use entente_bundle::{SpiffeId, TrustDomain};
use entente_proto::spire::api::types as wire;
use x509_parser::prelude::{FromDer as _, SubjectPublicKeyInfo};

use crate::embedded::certificate;

/// Why a message is no good; text only, it is for a person at the other end.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Bad(String);

impl Bad {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// `td`, `spiffe://td` and `spiffe://td/path` all name `td`.
pub(super) fn trust_domain(text: &str) -> Result<TrustDomain, Bad> {
    let name = match text.strip_prefix("spiffe://") {
        Some(rest) => rest.split('/').next().unwrap_or_default(),
        None => text,
    };
    TrustDomain::new(name).map_err(|error| Bad(error.to_string()))
}

/// Taints and WIT keys of a bundle that comes in are dropped, as in SPIRE.
pub(super) fn bundle(offered: &wire::Bundle) -> Result<wire::Bundle, Bad> {
    let named =
        trust_domain(&offered.trust_domain).map_err(|bad| Bad(format!("invalid trust domain: {bad}")))?;
    let x509 = x509_authorities(&offered.x509_authorities);
    let jwt = jwt_authorities(&offered.jwt_authorities);
    Ok(wire::Bundle {
        trust_domain: named.as_str().to_owned(),
        x509_authorities: x509.map_err(|bad| Bad(format!("unable to parse X.509 authority: {bad}")))?,
        jwt_authorities: jwt.map_err(|bad| Bad(format!("unable to parse JWT authority: {bad}")))?,
        refresh_hint: offered.refresh_hint,
        sequence_number: offered.sequence_number,
        wit_authorities: Vec::new(),
    })
}

pub(super) fn x509_authorities(offered: &[wire::X509Certificate]) -> Result<Vec<wire::X509Certificate>, Bad> {
    offered
        .iter()
        .map(|one| match certificate::are_certificates(&one.asn1) {
            true => Ok(wire::X509Certificate { asn1: one.asn1.clone(), tainted: false }),
            false => Err(Bad::new("x509: malformed certificate")),
        })
        .collect()
}

pub(super) fn jwt_authorities(offered: &[wire::JwtKey]) -> Result<Vec<wire::JwtKey>, Bad> {
    offered.iter().map(jwt_authority).collect()
}

fn jwt_authority(offered: &wire::JwtKey) -> Result<wire::JwtKey, Bad> {
    match SubjectPublicKeyInfo::from_der(&offered.public_key) {
        Ok(([], _)) => {}
        Ok(_) => return Err(Bad::new("x509: trailing data after ASN.1 of public-key")),
        Err(_) => return Err(Bad::new("asn1: structure error: malformed public key")),
    }
    if offered.key_id.is_empty() {
        return Err(Bad::new("missing key ID"));
    }
    Ok(wire::JwtKey { tainted: false, ..offered.clone() })
}

/// A SPIFFE ID message, well formed.
pub(super) fn spiffe_id(offered: Option<&wire::Spiffeid>) -> Result<SpiffeId, Bad> {
    let offered = offered.ok_or_else(|| Bad::new("request must specify SPIFFE ID"))?;
    let named = trust_domain(&offered.trust_domain)?;
    SpiffeId::new(&format!("spiffe://{named}{}", offered.path)).map_err(|error| Bad(error.to_string()))
}

/// An ID with a path in the server's own trust domain.
pub(super) fn member_id(own: &TrustDomain, offered: Option<&wire::Spiffeid>) -> Result<SpiffeId, Bad> {
    let id = spiffe_id(offered)?;
    let not = format!("{:?} is not a member of trust domain {:?}", id.to_string(), own.as_str());
    match id.trust_domain() == own {
        false => Err(Bad(not)),
        true if id.path().is_empty() => Err(Bad(format!("{not}; path is empty"))),
        true => Ok(id),
    }
}

/// What a workload may be called: a member outside `/spire`.
pub(super) fn check_workload(own: &TrustDomain, id: &SpiffeId) -> Result<(), Bad> {
    if id.trust_domain() != own {
        return Err(Bad(format!("{:?} is not a member of trust domain {:?}", id.to_string(), own.as_str())));
    }
    let not = format!("{:?} is not a workload in trust domain {:?}", id.to_string(), own.as_str());
    match id.path() {
        "" => Err(Bad(format!("{not}; path is empty"))),
        path if path == "/spire" || path.starts_with("/spire/") => {
            Err(Bad(format!("{not}; path is in the reserved namespace")))
        }
        _ => Ok(()),
    }
}

pub(super) fn selectors(offered: &[wire::Selector]) -> Result<(), Bad> {
    offered.iter().try_for_each(|selector| match (selector.r#type.as_str(), selector.value.as_str()) {
        ("", _) => Err(Bad::new("missing selector type")),
        (name, _) if name.contains(':') => Err(Bad::new("selector type contains ':'")),
        (_, "") => Err(Bad::new("missing selector value")),
        _ => Ok(()),
    })
}

/// The message of a good ID.
pub(super) fn to_wire(id: &SpiffeId) -> wire::Spiffeid {
    wire::Spiffeid { trust_domain: id.trust_domain().to_string(), path: id.path().to_owned() }
}

/// Blanks what the mask does not name.
pub(super) fn masked(mut bundle: wire::Bundle, mask: Option<&wire::BundleMask>) -> wire::Bundle {
    let Some(mask) = mask else { return bundle };
    if !mask.x509_authorities {
        bundle.x509_authorities.clear();
    }
    if !mask.jwt_authorities {
        bundle.jwt_authorities.clear();
    }
    if !mask.refresh_hint {
        bundle.refresh_hint = 0;
    }
    if !mask.sequence_number {
        bundle.sequence_number = 0;
    }
    if !mask.wit_authorities {
        bundle.wit_authorities.clear();
    }
    bundle
}
