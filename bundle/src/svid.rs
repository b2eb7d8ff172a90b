//! Verifies one X509-SVID chain against one bundle at a given time (X509-SVID 5.2).
//!
//! Leaf first, chain second, permission third; each refusal says which rule it was and who presented what.

use std::error::Error;

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::aws_lc_rs;
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, RootCertStore};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::causes::{causes, certificate_words, chain};
use crate::certificate::{CertificateFacts, Malformed};
use crate::text::{rfc3339, shortened};
use crate::{Authorizer, Bundle, BundleSource, IdError, SpiffeId, TrustDomain};

/// Why a peer's X509-SVID was refused. Every variant names the presented ID where there is one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    /// The one URI is no SPIFFE ID (X509-SVID 2).
    #[error("leaf certificate names {uri:?}, which is no spiffe id: {problem}")]
    BadId {
        /// What the leaf says, shortened.
        uri: String,
        /// What is wrong with it.
        problem: IdError,
    },
    /// The chain does not verify for a reason with no variant of its own.
    #[error("certificate chain of presented id {presented} does not verify: {detail}")]
    Chain {
        /// The ID in the leaf.
        presented: SpiffeId,
        /// The TLS stack's words.
        detail: String,
    },
    /// The leaf's key usage names cRLSign (X509-SVID 5.2).
    #[error("leaf certificate of presented id {presented} may sign revocation lists")]
    CrlSign {
        /// The ID in the leaf.
        presented: SpiffeId,
    },
    /// The leaf is no longer valid.
    #[error("certificate of presented id {presented} expired at {}", rfc3339(*not_after))]
    Expired {
        /// The ID in the leaf.
        presented: SpiffeId,
        /// End of the leaf's validity, Unix seconds.
        not_after: u64,
    },
    /// An extended key usage is there and leaves out one of the two TLS roles (X509-SVID 4.4).
    #[error("leaf certificate of presented id {presented} is not for both tls servers and tls clients")]
    ExtendedKeyUsage {
        /// The ID in the leaf.
        presented: SpiffeId,
    },
    /// An intermediate on the way is outside its validity.
    #[error("an intermediate certificate of presented id {presented} is not valid at this time")]
    IntermediateExpired {
        /// The ID in the leaf.
        presented: SpiffeId,
    },
    /// No authority signed the chain as far as it may be used: an intermediate that came along is no CA or may not sign
    /// certificates, and was left out.
    #[error("intermediate {position} of presented id {presented} is not allowed to sign certificates")]
    IntermediateNotCa {
        /// The ID in the leaf.
        presented: SpiffeId,
        /// The first such one; the leaf is 0.
        position: usize,
    },
    /// The leaf's key usage names keyCertSign (X509-SVID 5.2).
    #[error("leaf certificate of presented id {presented} may sign certificates")]
    KeyCertSign {
        /// The ID in the leaf.
        presented: SpiffeId,
    },
    /// The leaf is a CA (X509-SVID 5.2).
    #[error("leaf certificate of presented id {presented} is a ca")]
    LeafIsCa {
        /// The ID in the leaf.
        presented: SpiffeId,
    },
    /// The leaf cannot be read.
    #[error("leaf certificate cannot be read: {detail}")]
    Malformed {
        /// Which part.
        detail: &'static str,
    },
    /// No bundle is held for the presented ID's trust domain.
    #[error("no bundle is held for trust domain {trust_domain} of presented id {presented}")]
    NoBundle {
        /// The ID in the leaf.
        presented: SpiffeId,
        /// Its trust domain.
        trust_domain: TrustDomain,
    },
    /// The leaf's key usage does not name digitalSignature (X509-SVID 4.3).
    #[error("leaf certificate of presented id {presented} is not for digital signatures")]
    NoDigitalSignature {
        /// The ID in the leaf.
        presented: SpiffeId,
    },
    /// The ID is a trust domain without a path: a signing certificate's, never a workload's (X509-SVID 5.2).
    #[error("presented id {presented} has no path, so it is not the id of a workload")]
    NoPath {
        /// The ID in the leaf.
        presented: SpiffeId,
    },
    /// A bundle is held, but no X.509 authority in it is valid at this time (or it has none: all is revoked).
    #[error(
        "the bundle of {} for presented id {presented} has no valid x.509 authority (it holds {held})",
        presented.trust_domain()
    )]
    NoValidAuthority {
        /// The ID in the leaf.
        presented: SpiffeId,
        /// X.509 authorities held, all of them outside their validity.
        held: usize,
    },
    /// The ID is verified but not allowed here.
    #[error("presented id {presented} is not allowed")]
    NotAuthorized {
        /// The ID in the leaf.
        presented: SpiffeId,
    },
    /// The leaf is not valid yet: a clock is wrong.
    #[error("certificate of presented id {presented} is not valid before {}", rfc3339(*not_before))]
    NotValidYet {
        /// The ID in the leaf.
        presented: SpiffeId,
        /// Start of the leaf's validity, Unix seconds.
        not_before: u64,
    },
    /// No valid authority of the ID's trust domain signed this chain.
    #[error("no authority of {} signed the certificate of presented id {presented}", presented.trust_domain())]
    UnknownIssuer {
        /// The ID in the leaf.
        presented: SpiffeId,
    },
    /// Not exactly one URI among the subject alternative names (X509-SVID 5.2).
    #[error("leaf certificate has {count} uri names, an x509-svid has exactly one")]
    UriCount {
        /// How many.
        count: usize,
    },
}

impl SvidError {
    /// The ID the peer presented, if its leaf could be read.
    pub fn presented(&self) -> Option<&SpiffeId> {
        match self {
            Self::Chain { presented, .. }
            | Self::CrlSign { presented }
            | Self::Expired { presented, .. }
            | Self::ExtendedKeyUsage { presented }
            | Self::IntermediateExpired { presented }
            | Self::IntermediateNotCa { presented, .. }
            | Self::KeyCertSign { presented }
            | Self::LeafIsCa { presented }
            | Self::NoBundle { presented, .. }
            | Self::NoDigitalSignature { presented }
            | Self::NoPath { presented }
            | Self::NoValidAuthority { presented, .. }
            | Self::NotAuthorized { presented }
            | Self::NotValidYet { presented, .. }
            | Self::UnknownIssuer { presented } => Some(presented),
            Self::BadId { .. } | Self::Malformed { .. } | Self::UriCount { .. } => None,
        }
    }

    /// A short constant word for metrics: `no_bundle`, `not_authorized`, `expired`, `unknown_issuer`, ...
    pub fn reason(&self) -> &'static str {
        match self {
            Self::BadId { .. } => "bad_id",
            Self::Chain { .. } => "bad_chain",
            Self::CrlSign { .. } => "leaf_crl_sign",
            Self::Expired { .. } => "expired",
            Self::ExtendedKeyUsage { .. } => "extended_key_usage",
            Self::IntermediateExpired { .. } => "intermediate_expired",
            Self::IntermediateNotCa { .. } => "intermediate_not_ca",
            Self::KeyCertSign { .. } => "leaf_cert_sign",
            Self::LeafIsCa { .. } => "leaf_is_ca",
            Self::Malformed { .. } => "malformed",
            Self::NoBundle { .. } => "no_bundle",
            Self::NoDigitalSignature { .. } => "no_digital_signature",
            Self::NoPath { .. } => "no_path",
            Self::NoValidAuthority { .. } => "no_valid_authority",
            Self::NotAuthorized { .. } => "not_authorized",
            Self::NotValidYet { .. } => "not_valid_yet",
            Self::UnknownIssuer { .. } => "unknown_issuer",
            Self::UriCount { .. } => "uri_count",
        }
    }

    /// Finds the refusal inside an I/O or rustls error chain, so that an accept loop can log it with the presented ID.
    pub fn find_in<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        causes(error).find_map(|cause| cause.downcast_ref())
    }
}

/// What a leaf says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The one ID in it.
    pub id: SpiffeId,
    /// Start of validity, Unix seconds.
    pub not_before: u64,
    /// End of validity, Unix seconds.
    pub not_after: u64,
}

impl Leaf {
    /// Reads a leaf and checks the leaf rules of X509-SVID 5.2 and 4; trusts nothing yet, and compares no time.
    pub fn read(leaf: &CertificateDer<'_>) -> Result<Self, SvidError> {
        let facts = CertificateFacts::read(leaf).map_err(|malformed| match malformed {
            Malformed::TrailingBytes { .. } => SvidError::Malformed { detail: "trailing bytes" },
            Malformed::Unreadable { detail } => SvidError::Malformed { detail },
        })?;
        let [uri] = facts.uris.as_slice() else {
            return Err(SvidError::UriCount { count: facts.uris.len() });
        };
        let id = SpiffeId::new(uri).map_err(|problem| SvidError::BadId { uri: shortened(uri), problem })?;
        check_leaf(&id, &facts)?;
        Ok(Self { id, not_before: facts.not_before, not_after: facts.not_after })
    }

    fn check_validity(&self, now: UnixTime) -> Result<(), SvidError> {
        let presented = || self.id.clone();
        if now.as_secs() > self.not_after {
            return Err(SvidError::Expired { presented: presented(), not_after: self.not_after });
        }
        if now.as_secs() < self.not_before {
            return Err(SvidError::NotValidYet { presented: presented(), not_before: self.not_before });
        }
        Ok(())
    }
}

/// The ID in a leaf; see [`Leaf::read`].
pub fn leaf_id(leaf: &CertificateDer<'_>) -> Result<SpiffeId, SvidError> {
    Leaf::read(leaf).map(|leaf| leaf.id)
}

/// Chain first: picks the bundle by the presented ID's trust domain and verifies `leaf` through `intermediates` to one of its
/// unexpired X.509 authorities.
/// Permission second: `authorizer`.
pub fn verify(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    bundles: &dyn BundleSource,
    authorizer: &Authorizer,
    now: UnixTime,
) -> Result<SpiffeId, SvidError> {
    let facts = Leaf::read(leaf)?;
    facts.check_validity(now)?;
    let presented = facts.id;
    // X509-SVID 5.2, FED 7.3: only the bundle of the presented ID's own trust domain counts.
    let Some(bundle) = bundles.bundle_for(presented.trust_domain()) else {
        let trust_domain = presented.trust_domain().clone();
        return Err(SvidError::NoBundle { presented, trust_domain });
    };
    let roots = valid_roots(&presented, &bundle, now)?;
    verify_chain(&presented, leaf, intermediates, &roots, now)?;
    if authorizer.allows(&presented) { Ok(presented) } else { Err(SvidError::NotAuthorized { presented }) }
}

fn check_leaf(presented: &SpiffeId, facts: &CertificateFacts) -> Result<(), SvidError> {
    let presented = presented.clone();
    if facts.is_ca {
        return Err(SvidError::LeafIsCa { presented });
    }
    let usage = facts.key_usage.as_ref();
    if usage.is_some_and(|usage| usage.key_cert_sign()) {
        return Err(SvidError::KeyCertSign { presented });
    }
    if usage.is_some_and(|usage| usage.crl_sign()) {
        return Err(SvidError::CrlSign { presented });
    }
    // Stricter than X509-SVID 5.2, which leaves this and the next two to issuers (4.3, 4.4, 2): a certificate that breaks
    // them was not made as an SVID.
    if !usage.is_some_and(|usage| usage.digital_signature()) {
        return Err(SvidError::NoDigitalSignature { presented });
    }
    if facts.extended_key_usage.is_some_and(|roles| !(roles.server && roles.client)) {
        return Err(SvidError::ExtendedKeyUsage { presented });
    }
    if presented.path().is_empty() { Err(SvidError::NoPath { presented }) } else { Ok(()) }
}

// Tainted authorities stay roots: in SPIRE a taint only makes agents renew, and revocation is removal from the bundle.
fn valid_roots(presented: &SpiffeId, bundle: &Bundle, now: UnixTime) -> Result<RootCertStore, SvidError> {
    let authorities = bundle.x509_authorities();
    let valid = authorities.iter().filter(|authority| authority.is_valid_at(now));
    let roots = RootCertStore { roots: valid.map(|authority| authority.anchor().clone()).collect() };
    if roots.is_empty() {
        return Err(SvidError::NoValidAuthority { presented: presented.clone(), held: authorities.len() });
    }
    Ok(roots)
}

fn verify_chain(
    presented: &SpiffeId,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &RootCertStore,
    now: UnixTime,
) -> Result<(), SvidError> {
    let mut refused = None;
    let mut issuers = Vec::new();
    for (position, intermediate) in (1..).zip(intermediates) {
        if may_issue(intermediate) {
            issuers.push(intermediate.clone());
        } else {
            refused = refused.or(Some(position));
        }
    }
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all;
    ParsedCertificate::try_from(leaf)
        .and_then(|leaf| verify_server_cert_signed_by_trust_anchor(&leaf, roots, &issuers, now, algorithms))
        .map_err(|error| chain_error(presented.clone(), error, refused))
}

// The TLS stack below looks at basic constraints only (RFC 5280 6.1.4 n wants keyCertSign where there is a key usage).
// A certificate that may not issue is left out instead of refused: a peer may send more than the path needs.
fn may_issue(intermediate: &CertificateDer<'_>) -> bool {
    CertificateFacts::read(intermediate)
        .is_ok_and(|facts| facts.is_ca && facts.key_usage.as_ref().is_none_or(|usage| usage.key_cert_sign()))
}

fn chain_error(presented: SpiffeId, error: rustls::Error, refused: Option<usize>) -> SvidError {
    let rustls::Error::InvalidCertificate(error) = error else {
        return SvidError::Chain { presented, detail: chain(&error) };
    };
    match (error, refused) {
        // The leaf's own dates were checked before, so these are an intermediate's.
        (CertificateError::Expired | CertificateError::ExpiredContext { .. }, _)
        | (CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }, _) => {
            SvidError::IntermediateExpired { presented }
        }
        (CertificateError::UnknownIssuer, Some(position)) => {
            SvidError::IntermediateNotCa { presented, position }
        }
        // A root of the same name but another key is no issuer either.
        (CertificateError::UnknownIssuer | CertificateError::BadSignature, _) => {
            SvidError::UnknownIssuer { presented }
        }
        (error, _) => SvidError::Chain { presented, detail: certificate_words(&error) },
    }
}

#[cfg(test)]
mod tests;
