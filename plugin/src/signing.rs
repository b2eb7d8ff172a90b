//! Lends handshake signatures with the SPIRE Server's key: one form of message, for one purpose, at a bounded rate.
//!
//! The bundle endpoint faces the network and is not trusted. Everything but a TLS 1.3 server CertificateVerify is refused,
//! because the same key is SPIRE Server's own towards its agents.

use std::fmt;
use std::sync::Arc;
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
    #[error("more than {RATE} signatures per second")]
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

/// The bound on signatures, for all links together.
pub(crate) fn rate_limit(now: Instant) -> RateLimit {
    RateLimit::new(RATE, BURST, now)
}

/// Signs if every rule agrees. `keys` are the current and the previous one.
pub(crate) fn sign(
    request: &SigningRequest<'_>,
    keys: &[ServerKey],
    limit: &RateLimit,
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
    if !limit.allows(now) {
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
