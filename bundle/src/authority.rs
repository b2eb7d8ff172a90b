//! X509Authority and JwtAuthority: parsed and checked once, the raw DER kept (federation.md 10.1 in code).
//!
//! Whoever holds one of these knows that SPIRE and our own verifier can use it; nobody has to look again.

use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

use crate::certificate::{self, CertificateFacts};
use crate::public_key::{KeyError, PublicKey};
use crate::text::hex;

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
    #[error(transparent)]
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{KeyKind, TestAuthority, from_now};

    fn refusal(authority: &TestAuthority) -> AuthorityError {
        X509Authority::from_der(authority.root(), false).unwrap_err()
    }

    #[test]
    fn what_may_not_sign_certificates_is_no_authority() {
        assert_eq!(refusal(&TestAuthority::builder("a.test").not_a_ca().build()), AuthorityError::NotCa);
        let no_sign = TestAuthority::builder("a.test").without_cert_sign().build();
        assert_eq!(refusal(&no_sign), AuthorityError::NotCertSign);
        let leaf = TestAuthority::new("a.test").svid("/web").build();
        assert_eq!(X509Authority::from_der(leaf.leaf(), false), Err(AuthorityError::NotCa));
    }

    #[test]
    fn an_authority_is_exactly_one_certificate() {
        let der = TestAuthority::new("a.test").root().to_vec();
        let two = [der.as_slice(), &der].concat();
        let refused = AuthorityError::TrailingBytes { count: der.len() };
        assert_eq!(X509Authority::from_der(&two, false), Err(refused));
        for cut in 0..der.len() {
            assert!(X509Authority::from_der(&der[..cut], false).is_err());
        }
    }

    #[test]
    fn a_changed_byte_never_panics() {
        let der = TestAuthority::new("a.test").root().to_vec();
        for at in 0..der.len() {
            for byte in [0, 0xff, der[at] ^ 1, der[at] ^ 0x80] {
                let mut changed = der.clone();
                changed[at] = byte;
                let _ = X509Authority::from_der(&changed, false);
            }
        }
    }

    #[test]
    fn every_kind_of_key_makes_an_authority() {
        for kind in KeyKind::ALL {
            let authority = TestAuthority::builder("a.test").with_key(kind).build().x509_authority();
            assert!(authority.is_valid_at(from_now(0)));
        }
    }

    #[test]
    fn an_authority_without_key_usage_is_taken() {
        let authority = TestAuthority::builder("a.test").without_key_usage().build();
        assert!(X509Authority::from_der(authority.root(), false).is_ok());
    }

    #[test]
    fn validity_starts_with_not_before_and_ends_with_not_after() {
        let authority = TestAuthority::new("a.test").x509_authority();
        let at = |second| UnixTime::since_unix_epoch(std::time::Duration::from_secs(second));
        let (start, end) = (authority.not_before(), authority.not_after());
        assert!(!authority.is_valid_at(at(start - 1)) && authority.is_valid_at(at(start)));
        assert!(authority.is_valid_at(at(end - 1)) && !authority.is_valid_at(at(end)));
        assert!(authority.is_expired(at(end)) && !authority.is_expired(at(start - 1)));
    }

    #[test]
    fn ids_of_an_authority_are_lower_case_hex() {
        let authority = TestAuthority::new("a.test").x509_authority();
        let is_hex = |text: &str| text.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
        assert_eq!(authority.fingerprint().len(), 64);
        let key_id = authority.subject_key_id().unwrap();
        assert!(is_hex(&authority.fingerprint()) && is_hex(&key_id) && key_id.len() == 40);
    }

    #[test]
    fn a_jwt_authority_needs_a_key_id_and_a_good_key() {
        let spki = KeyKind::P256.generate_spki();
        assert_eq!(JwtAuthority::from_spki("", &spki, None, false), Err(AuthorityError::EmptyKeyId));
        let malformed = Err(AuthorityError::Key(KeyError::Malformed));
        assert_eq!(JwtAuthority::from_spki("k", b"not a key", None, false), malformed);
        let authority = JwtAuthority::from_spki("k", &spki, Some(9), true).unwrap();
        assert_eq!((authority.key_id(), authority.spki()), ("k", spki.as_slice()));
        assert_eq!((authority.expires_at(), authority.is_tainted()), (Some(9), true));
    }
}
