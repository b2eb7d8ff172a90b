//! X509Authority and JwtAuthority: parsed and checked once, the raw DER kept (federation.md 10.1 in code).
//!
//! Whoever holds one of these knows that SPIRE and our own verifier can use it; nobody has to look again.

use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

use crate::certificate::{self, CertificateFacts};
use crate::public_key::{KeyError, PublicKey};

/// One CA certificate of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct X509Authority {
    der: CertificateDer<'static>,
    anchor: TrustAnchor<'static>,
    not_before: u64,
    not_after: u64,
    tainted: bool,
}

/// One JWT signing key of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtAuthority {
    key_id: String,
    spki: Vec<u8>,
    expires_at: Option<u64>,
    tainted: bool,
}

/// Why an authority was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// Not the DER of one X.509 certificate, or one with a broken extension that matters here.
    #[error("authority is not one well-formed certificate: {detail}")]
    Certificate {
        /// What could not be read.
        detail: &'static str,
    },
    /// A JWT authority without a key ID.
    #[error("jwt authority has an empty key id")]
    EmptyKeyId,
    /// A public key that no SVID can be verified with.
    #[error("authority has an unusable public key")]
    Key(#[from] KeyError),
    /// CA is not set in the basic constraints (X509-SVID 4.1, 6.2).
    #[error("certificate is not a ca, so it cannot be an authority")]
    NotCa,
    /// Key usage is there and does not name keyCertSign (X509-SVID 4.3).
    #[error("certificate may not sign certificates (key usage without keyCertSign)")]
    NotCertSign,
    /// Further bytes after the certificate: an authority is exactly one.
    #[error("{count} bytes follow the certificate, an authority is exactly one")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
}

impl X509Authority {
    /// Takes exactly one DER certificate: CA true, keyCertSign, key of a known type and sane size. Expired ones are accepted
    /// (SPIRE keeps them for a day) and are skipped when verifying.
    ///
    /// A certificate without any key usage is taken too: RFC 5280 4.2.1.3 reads that as unrestricted, and upstream
    /// authorities made by hand often have none.
    pub fn from_der(der: &[u8], tainted: bool) -> Result<Self, AuthorityError> {
        let facts = CertificateFacts::read(der).map_err(|malformed| match malformed {
            certificate::Malformed::TrailingBytes { count } => AuthorityError::TrailingBytes { count },
            certificate::Malformed::Unreadable { detail } => AuthorityError::Certificate { detail },
        })?;
        if !facts.is_ca {
            return Err(AuthorityError::NotCa);
        }
        if facts.key_usage.as_ref().is_some_and(|usage| !usage.key_cert_sign()) {
            return Err(AuthorityError::NotCertSign);
        }
        PublicKey::from_spki(&facts.spki)?;
        let der = CertificateDer::from(der.to_vec());
        let anchor = trust_anchor(&der)?;
        Ok(Self { der, anchor, not_before: facts.not_before, not_after: facts.not_after, tainted })
    }

    /// The certificate.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Start of validity, Unix seconds.
    pub fn not_before(&self) -> u64 {
        self.not_before
    }

    /// End of validity, Unix seconds.
    pub fn not_after(&self) -> u64 {
        self.not_after
    }

    /// True at and after `not_after`.
    pub fn is_expired(&self, now: UnixTime) -> bool {
        now.as_secs() >= self.not_after
    }

    /// True from `not_before` until `not_after`: trust anchors carry no dates, so the verifier asks here.
    pub fn is_valid_at(&self, now: UnixTime) -> bool {
        now.as_secs() >= self.not_before && !self.is_expired(now)
    }

    /// SPIRE's taint mark; the document cannot carry it.
    pub fn is_tainted(&self) -> bool {
        self.tainted
    }

    /// Lower-case hex SHA-256 of the DER.
    pub fn fingerprint(&self) -> String {
        hex(&Sha256::digest(&self.der))
    }

    /// Subject key identifier as lower-case hex (SPIRE's authority ID), if present.
    pub fn subject_key_id(&self) -> Option<String> {
        let (_, certificate) = X509Certificate::from_der(&self.der).ok()?;
        certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(hex(id.0)),
            _ => None,
        })
    }

    pub(crate) fn anchor(&self) -> &TrustAnchor<'static> {
        &self.anchor
    }

    pub(crate) fn public_key(&self) -> Result<PublicKey, AuthorityError> {
        let facts = CertificateFacts::read(&self.der)
            .map_err(|_| AuthorityError::Certificate { detail: "public key" })?;
        Ok(PublicKey::from_spki(&facts.spki)?)
    }

    pub(crate) fn taint(&mut self) {
        self.tainted = true;
    }
}

impl JwtAuthority {
    /// Takes a PKIX SubjectPublicKeyInfo and a non-empty key ID. RSA of 2048 bits or more with a sane exponent, P-256,
    /// P-384, P-521; the point on its curve.
    /// Ed25519 is accepted (can be published, verifies no conformant token).
    pub fn from_spki(
        key_id: &str,
        spki: &[u8],
        expires_at: Option<u64>,
        tainted: bool,
    ) -> Result<Self, AuthorityError> {
        let key = PublicKey::from_spki(spki)?;
        Self::from_key(key_id, &key, expires_at, tainted)
    }

    pub(crate) fn from_key(
        key_id: &str,
        key: &PublicKey,
        expires_at: Option<u64>,
        tainted: bool,
    ) -> Result<Self, AuthorityError> {
        if key_id.is_empty() {
            return Err(AuthorityError::EmptyKeyId);
        }
        Ok(Self { key_id: key_id.to_owned(), spki: key.to_spki(), expires_at, tainted })
    }

    /// `kid`.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// SubjectPublicKeyInfo, DER.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// Unix seconds; `None` when the source did not say.
    pub fn expires_at(&self) -> Option<u64> {
        self.expires_at
    }

    /// SPIRE's taint mark.
    pub fn is_tainted(&self) -> bool {
        self.tainted
    }
}

// What the TLS stack cannot read must not be held: it would silently be no root at all.
fn trust_anchor(der: &CertificateDer<'static>) -> Result<TrustAnchor<'static>, AuthorityError> {
    let refused = AuthorityError::Certificate { detail: "refused as a trust anchor" };
    let mut roots = RootCertStore::empty();
    roots.add(der.clone()).map_err(|_| refused.clone())?;
    roots.roots.pop().ok_or(refused)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
