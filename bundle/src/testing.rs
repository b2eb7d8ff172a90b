//! Mints authorities and SVIDs, good ones and each kind of bad one. Feature `testing`.
//!
//! Made for tests and for the lab's stand-in of SPIRE, never for a product: it has a clock, and it panics when it is asked for
//! something that cannot be written into a certificate.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{DistinguishedName, DnType, KeyPair, PublicKeyData, SanType};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::{JwtAuthority, tls};

mod authority;
mod svid;

pub use authority::{AuthorityBuilder, TestAuthority};
pub use svid::{SvidBuilder, TestSvid};

/// Why an authority could not be loaded or a key could not be certified.
#[derive(Debug, thiserror::Error)]
pub enum TestingError {
    /// The library that writes certificates refused.
    #[error("certificate cannot be made")]
    Mint(#[from] rcgen::Error),
    /// The text holds no certificate of an authority.
    #[error("no certificate with the uri of a trust domain in the pem text")]
    NoCertificate,
    /// Not PEM.
    #[error("pem text cannot be read")]
    Pem(#[from] rustls_pki_types::pem::Error),
}

/// Kinds of keys that bundles and SVIDs may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyKind {
    /// Ed25519.
    Ed25519,
    /// ECDSA on NIST P-256, SPIRE's default.
    #[default]
    P256,
    /// ECDSA on NIST P-384.
    P384,
    /// ECDSA on NIST P-521.
    P521,
    /// RSA of 2048 bits.
    Rsa2048,
}

impl KeyKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Ed25519, Self::P256, Self::P384, Self::P521, Self::Rsa2048];

    fn generate(self) -> KeyPair {
        let algorithm = match self {
            Self::Ed25519 => &rcgen::PKCS_ED25519,
            Self::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Self::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            Self::P521 => &rcgen::PKCS_ECDSA_P521_SHA512,
            Self::Rsa2048 => &rcgen::PKCS_RSA_SHA256,
        };
        minted(KeyPair::generate_for(algorithm))
    }

    /// A fresh key's SubjectPublicKeyInfo; the private half is thrown away.
    pub fn generate_spki(self) -> Vec<u8> {
        self.generate().subject_public_key_info()
    }
}

/// A JWT signing key: what the bundle holds of it, and the private half.
#[derive(Clone)]
pub struct TestJwtKey {
    /// For the bundle.
    pub authority: JwtAuthority,
    /// PKCS#8, DER.
    pub pkcs8: Vec<u8>,
}

impl TestJwtKey {
    /// A fresh key without an expiry.
    pub fn new(key_id: &str, kind: KeyKind) -> Self {
        let key = kind.generate();
        let authority = JwtAuthority::from_spki(key_id, &key.subject_public_key_info(), None, false);
        Self { authority: minted(authority), pkcs8: key.serialize_der() }
    }
}

impl std::fmt::Debug for TestJwtKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestJwtKey").field("authority", &self.authority).finish_non_exhaustive()
    }
}

/// The time now, as verifiers want it.
pub fn now() -> UnixTime {
    UnixTime::now()
}

/// `seconds` from now; negative is the past.
pub fn from_now(seconds: i64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(now().as_secs().saturating_add_signed(seconds)))
}

fn certified(chain: &[CertificateDer<'static>], pkcs8: &[u8]) -> Arc<CertifiedKey> {
    minted(tls::certified_key(chain.to_vec(), pkcs8.to_vec()))
}

// The calendar type belongs to a crate that we do not depend on; its epoch can be reached all the same.
fn validity(not_before: i64, not_after: i64, params: &mut rcgen::CertificateParams) {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let at = |offset: i64| {
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(since_epoch.saturating_add_signed(offset))
    };
    params.not_before = at(not_before);
    params.not_after = at(not_after);
}

fn name(organization: &str, common_name: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CountryName, "US");
    name.push(DnType::OrganizationName, organization);
    if let Some(common_name) = common_name {
        name.push(DnType::CommonName, common_name);
    }
    name
}

fn uri(uri: &str) -> SanType {
    SanType::URI(minted(uri.try_into()))
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(minted(name.try_into()))
}

fn ip(address: IpAddr) -> SanType {
    SanType::IpAddress(address)
}

// Cannot fail: keys are generated here and names are the test's own; a name that is not ASCII is a mistake in the test.
fn minted<T, E: std::fmt::Debug>(result: Result<T, E>) -> T {
    result.expect("test material can be minted")
}

#[cfg(test)]
mod tests;
