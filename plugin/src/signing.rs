//! Lends handshake signatures with the SPIRE Server's key: one form of message, for one purpose, at a bounded rate.
//!
//! The bundle endpoint faces the network and is not trusted. Everything but a TLS 1.3 server CertificateVerify is refused,
//! because the same key is SPIRE Server's own towards its agents.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustls::SignatureScheme;
use rustls::sign::SigningKey;

use crate::rate_limit::RateLimit;

/// RFC 8446 4.4.3: what stands before the transcript hash in the content that a server signs.
const CONTEXT: &[u8] = b"TLS 1.3, server CertificateVerify\0";

/// RFC 8446 4.4.3: spaces before the context, so that no TLS 1.2 signature can be passed off as this one.
const PADDING: usize = 64;

/// Lengths of SHA-256 and SHA-384, the hashes of the TLS 1.3 cipher suites.
const HASH_LENGTHS: [usize; 2] = [32, 48];

/// Signatures per second in the long run, and at once after a pause.
const RATE: f64 = 1000.0;
const BURST: f64 = 2000.0;

/// Schemes that TLS 1.3 knows for CertificateVerify. PKCS #1 v1.5 is not among them (RFC 8446 4.2.3).
const SCHEMES: &[SignatureScheme] = &[
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ECDSA_NISTP521_SHA512,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
    SignatureScheme::ED25519,
];

/// Why no signature is given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the certificate is neither the current nor the previous one of this SPIRE Server")]
    Certificate,
    #[error("the content is no TLS 1.3 server CertificateVerify")]
    Content,
    #[error("the key failed to sign: {reason}")]
    Key { reason: String },
    #[error("no identity of SPIRE Server is known yet")]
    NoIdentity,
    #[error("more than {RATE} signatures per second over all links, or than this link's part of them")]
    Rate,
    #[error("scheme {scheme:#06x} does not fit the key of the certificate")]
    Scheme { scheme: u32 },
    #[error("serve_as_server is off in the plugin's configuration")]
    SwitchedOff,
}

impl Refusal {
    /// One word for counters.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Content => "content",
            Self::Key { .. } => "key",
            Self::NoIdentity => "no_identity",
            Self::Rate => "rate",
            Self::Scheme { .. } => "scheme",
            Self::SwitchedOff => "switched_off",
        }
    }
}

/// A key together with the leaf that it belongs to.
#[derive(Clone)]
pub(crate) struct ServerKey {
    pub(crate) leaf_sha256: [u8; 32],
    pub(crate) key: Arc<dyn SigningKey>,
}

impl fmt::Debug for ServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerKey").field("leaf_sha256", &self.leaf_sha256).finish_non_exhaustive()
    }
}

/// What the endpoint asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SigningRequest<'a> {
    pub(crate) certificate_sha256: &'a [u8],
    pub(crate) signature_scheme: u32,
    pub(crate) content: &'a [u8],
}

/// Signatures that may be lent over all links together. Each linked endpoint has an equal part of them, so that one that asks
/// without end uses up nothing of the others'.
#[derive(Debug)]
pub(crate) struct Signatures {
    total: RateLimit,
    each: Mutex<BTreeMap<String, Part>>,
}

#[derive(Debug)]
struct Part {
    limit: RateLimit,
    /// Two while a link is made anew.
    links: usize,
}

/// One link's right to ask, for as long as it lasts.
#[derive(Debug)]
pub(crate) struct Lending<'a> {
    signatures: &'a Signatures,
    endpoint: &'a str,
}

impl Signatures {
    pub(crate) fn new(now: Instant) -> Self {
        Self { total: RateLimit::new(RATE, BURST, now), each: Mutex::default() }
    }

    /// A link has come up. What its endpoint used before still counts.
    pub(crate) fn lend<'a>(&'a self, endpoint: &'a str, now: Instant) -> Lending<'a> {
        let mut each = self.each();
        each.retain(|_, part| part.links > 0 || !part.limit.is_full(now));
        let fresh = || Part { limit: RateLimit::new(RATE, BURST, now), links: 0 };
        each.entry(endpoint.to_owned()).or_insert_with(fresh).links += 1;
        Lending { signatures: self, endpoint }
    }

    fn each(&self) -> MutexGuard<'_, BTreeMap<String, Part>> {
        self.each.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lending<'_> {
    /// Takes one if there is one left.
    fn allows(&self, now: Instant) -> bool {
        let each = self.signatures.each();
        let parts = each.values().filter(|part| part.links > 0).count();
        let own = each.get(self.endpoint);
        own.is_some_and(|own| own.limit.allows_one_of(parts, now)) && self.signatures.total.allows(now)
    }
}

impl Drop for Lending<'_> {
    fn drop(&mut self) {
        if let Some(part) = self.signatures.each().get_mut(self.endpoint) {
            part.links -= 1;
        }
    }
}

/// Signs if every rule agrees. `keys` are the current and the previous one.
pub(crate) fn sign(
    request: &SigningRequest<'_>,
    keys: &[ServerKey],
    lending: &Lending<'_>,
    now: Instant,
) -> Result<Vec<u8>, Refusal> {
    if keys.is_empty() {
        return Err(Refusal::NoIdentity);
    }
    let key =
        keys.iter().find(|key| key.leaf_sha256 == request.certificate_sha256).ok_or(Refusal::Certificate)?;
    if !is_server_certificate_verify(request.content) {
        return Err(Refusal::Content);
    }
    let misfit = Refusal::Scheme { scheme: request.signature_scheme };
    let scheme =
        u16::try_from(request.signature_scheme).map(SignatureScheme::from).map_err(|_| misfit.clone())?;
    if !SCHEMES.contains(&scheme) {
        return Err(misfit);
    }
    let signer = key.key.choose_scheme(&[scheme]).ok_or(misfit)?;
    if !lending.allows(now) {
        return Err(Refusal::Rate);
    }
    signer.sign(request.content).map_err(|error| Refusal::Key { reason: error.to_string() })
}

fn is_server_certificate_verify(content: &[u8]) -> bool {
    let Some((padding, rest)) = content.split_at_checked(PADDING) else {
        return false;
    };
    let hash = rest.strip_prefix(CONTEXT);
    padding.iter().all(|&byte| byte == b' ') && hash.is_some_and(|hash| HASH_LENGTHS.contains(&hash.len()))
}

#[cfg(test)]
mod tests;
