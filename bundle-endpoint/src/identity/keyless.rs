//! Serving as the SPIRE Server without its key: certificate chains lent by linked plugins, each signature asked for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use entente_bundle::svid::{self, SvidError};
use entente_bundle::tls;
use entente_bundle::{Authorizer, Bundle, SpiffeId, TrustDomain};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{OtherError, SignatureAlgorithm, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use crate::link::{LinkId, SignError, SignQueue};
use crate::metrics::Metrics;

/// How long a failed signature counts against readiness; without an end, a pod that gets no traffic would never be ready again.
const FAILURE_COUNTS_FOR_SECONDS: u64 = 30;

/// While signatures are made, failures between them are no reason to be taken out of service: a stranger who asks for more
/// than the plugin signs in a second could have that done to us.
const SUCCESS_COUNTS_FOR_SECONDS: u64 = 5;

/// Why a lent certificate chain was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LentError {
    /// Not ours to show.
    #[error("the lent certificate is of {presented}, which is not a member of {expected}")]
    ForeignId { presented: SpiffeId, expected: TrustDomain },
    /// No key that TLS 1.3 signs with here.
    #[error("the lent certificate has a key of a kind that cannot sign here")]
    KeyKind,
    /// No X509-SVID.
    #[error("the lent certificate is no x509-svid")]
    Leaf(#[from] SvidError),
    /// Nothing at all.
    #[error("the lent chain holds no certificate")]
    Missing,
}

/// One chain that a linked plugin signs for.
#[derive(Debug)]
pub(crate) struct LentIdentity {
    pub(crate) link: LinkId,
    pub(crate) spiffe_id: SpiffeId,
    pub(crate) not_after: u64,
    /// Whether consumers of the published bundle can verify it.
    verifies: bool,
    key: Arc<CertifiedKey>,
    queue: Arc<SignQueue>,
}

/// The identities that can be shown now, best first.
#[derive(Debug, Default)]
pub(crate) struct Lenders {
    identities: ArcSwap<Vec<Arc<LentIdentity>>>,
    health: Arc<SignHealth>,
}

/// When the last signatures were made and failed, Unix seconds, and why they failed.
#[derive(Debug, Default)]
struct SignHealth {
    succeeded_at: AtomicU64,
    /// 0 when the last one was made.
    failed_at: AtomicU64,
    failure: Mutex<Option<SignError>>,
}

impl SignHealth {
    fn note(&self, failure: Option<&SignError>) {
        let now = crate::time::unix_now().as_secs();
        match failure {
            None => {
                self.succeeded_at.store(now, Ordering::Relaxed);
                self.failed_at.store(0, Ordering::Relaxed);
            }
            Some(failure) => {
                *crate::lock(&self.failure) = Some(failure.clone());
                self.failed_at.store(now, Ordering::Relaxed);
            }
        }
    }

    fn failing(&self, now: UnixTime) -> Option<SignError> {
        let since = |at: &AtomicU64| now.as_secs().saturating_sub(at.load(Ordering::Relaxed));
        let failed = self.failed_at.load(Ordering::Relaxed) != 0;
        let counts = failed
            && since(&self.failed_at) < FAILURE_COUNTS_FOR_SECONDS
            && since(&self.succeeded_at) >= SUCCESS_COUNTS_FOR_SECONDS;
        if counts { crate::lock(&self.failure).clone() } else { None }
    }
}

impl LentIdentity {
    /// Checks a chain (leaf first) that `link` signs for.
    pub(crate) fn new(
        link: LinkId,
        chain: Vec<CertificateDer<'static>>,
        trust_domain: &TrustDomain,
        queue: Arc<SignQueue>,
        lenders: &Lenders,
        metrics: Arc<Metrics>,
    ) -> Result<Self, LentError> {
        let leaf = chain.first().ok_or(LentError::Missing)?;
        let svid::Leaf { id: spiffe_id, not_after, .. } = svid::Leaf::read(leaf)?;
        if spiffe_id.trust_domain() != trust_domain {
            return Err(LentError::ForeignId { presented: spiffe_id, expected: trust_domain.clone() });
        }
        let (schemes, public_key) = key_of(leaf).ok_or(LentError::KeyKind)?;
        let leaf_sha256 = Sha256::digest(leaf).into();
        let health = Arc::clone(&lenders.health);
        let signer =
            RemoteKey { schemes, public_key, leaf_sha256, queue: Arc::clone(&queue), health, metrics };
        let key = Arc::new(CertifiedKey::new(chain, Arc::new(signer)));
        Ok(Self { link, spiffe_id, not_after, verifies: false, key, queue })
    }

    /// The same, with its standing under the published bundle looked at again.
    fn judged(&self, published: Option<&Bundle>, now: UnixTime) -> Self {
        let verifies = match (published, self.key.cert.split_first()) {
            (Some(bundle), Some((leaf, intermediates))) => {
                svid::verify(leaf, intermediates, bundle, &Authorizer::exact(self.spiffe_id.clone()), now)
                    .is_ok()
            }
            _ => false,
        };
        Self {
            link: self.link,
            spiffe_id: self.spiffe_id.clone(),
            not_after: self.not_after,
            verifies,
            key: Arc::clone(&self.key),
            queue: Arc::clone(&self.queue),
        }
    }
}

impl Lenders {
    /// Replaces what can be shown. `newest_first` is the order among equals.
    pub(crate) fn replace(
        &self,
        newest_first: &[Arc<LentIdentity>],
        published: Option<&Bundle>,
        now: UnixTime,
    ) {
        let mut judged: Vec<_> =
            newest_first.iter().map(|identity| Arc::new(identity.judged(published, now))).collect();
        // Consumers verify with the published bundle: a chain that it does not cover is the last resort, not a refusal,
        // because a consumer may hold a newer bundle than we do.
        judged.sort_by_key(|identity| !identity.verifies);
        self.identities.store(Arc::new(judged));
    }

    /// The one to show now. A plugin that left the last request unanswered, refused it or
    /// signed it wrongly is passed over where another one lends.
    pub(crate) fn current(&self, now: UnixTime) -> Option<Arc<LentIdentity>> {
        let identities = self.identities.load();
        let mut valid = identities.iter().filter(|identity| now.as_secs() < identity.not_after);
        let answers = valid.clone().find(|identity| !identity.queue.is_suspect());
        answers.or_else(|| valid.next()).cloned()
    }

    /// Why there is none, in words for an operator.
    pub(crate) fn why_none(&self, links: usize) -> &'static str {
        if links == 0 {
            "no plugin is linked"
        } else if self.identities.load().is_empty() {
            "the plugin lends no identity: serve_as_server is off there, or it has none yet"
        } else {
            "the lent certificate has expired"
        }
    }

    /// Why no signature was made lately, if some were asked for.
    pub(crate) fn failing(&self, now: UnixTime) -> Option<SignError> {
        self.health.failing(now)
    }
}

impl ResolvesServerCert for Lenders {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current(crate::time::unix_now()).map(|identity| Arc::clone(&identity.key))
    }
}

/// A key that is elsewhere.
#[derive(Clone, Debug)]
struct RemoteKey {
    schemes: &'static [SignatureScheme],
    /// As it stands in the leaf, without its algorithm.
    public_key: Arc<[u8]>,
    leaf_sha256: [u8; 32],
    queue: Arc<SignQueue>,
    health: Arc<SignHealth>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct RemoteSigner {
    key: RemoteKey,
    scheme: SignatureScheme,
}

impl SigningKey for RemoteKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let scheme = *self.schemes.iter().find(|scheme| offered.contains(scheme))?;
        Some(Box::new(RemoteSigner { key: self.clone(), scheme }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match self.schemes {
            RSA => SignatureAlgorithm::RSA,
            _ => SignatureAlgorithm::ECDSA,
        }
    }
}

impl RemoteSigner {
    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let known = tls::provider().signature_verification_algorithms.mapping;
        let algorithms =
            known.iter().filter(|(scheme, _)| *scheme == self.scheme).flat_map(|(_, all)| all.iter());
        let mut results =
            algorithms.map(|algorithm| algorithm.verify_signature(&self.key.public_key, message, signature));
        results.any(|result| result.is_ok())
    }
}

impl Signer for RemoteSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let RemoteKey { leaf_sha256, queue, health, metrics, .. } = &self.key;
        let verifies = |signature: &[u8]| self.verifies(message, signature);
        let result = queue.sign(*leaf_sha256, self.scheme, message, verifies);
        metrics.sign_request(result.as_ref().map_or_else(SignError::reason, |_| "ok"));
        health.note(result.as_ref().err());
        result.map_err(|error| rustls::Error::Other(OtherError(Arc::new(error))))
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}

const P256: &[SignatureScheme] = &[SignatureScheme::ECDSA_NISTP256_SHA256];
const P384: &[SignatureScheme] = &[SignatureScheme::ECDSA_NISTP384_SHA384];
const RSA: &[SignatureScheme] =
    &[SignatureScheme::RSA_PSS_SHA256, SignatureScheme::RSA_PSS_SHA384, SignatureScheme::RSA_PSS_SHA512];

// SPIRE's `ca_key_type` is one of rsa-2048, rsa-4096, ec-p256, ec-p384, and the SVID's key is of the same kind.
fn key_of(leaf: &CertificateDer<'_>) -> Option<(&'static [SignatureScheme], Arc<[u8]>)> {
    let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
    let key = leaf.public_key();
    let schemes = match key.parsed().ok()? {
        PublicKey::EC(point) => match point.key_size() {
            256 => Some(P256),
            384 => Some(P384),
            _ => None,
        },
        PublicKey::RSA(_) => Some(RSA),
        _ => None,
    }?;
    Some((schemes, key.subject_public_key.data.as_ref().into()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn later(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(crate::time::unix_now().as_secs() + seconds))
    }

    #[test]
    fn a_failure_counts_for_a_while_and_not_between_signatures_that_are_made() {
        let health = SignHealth::default();
        assert_eq!(health.failing(later(0)), None);
        health.note(Some(&SignError::LinkLost));
        assert_eq!(health.failing(later(1)), Some(SignError::LinkLost));
        assert_eq!(health.failing(later(FAILURE_COUNTS_FOR_SECONDS + 1)), None);
        health.note(None);
        health.note(Some(&SignError::LinkLost));
        assert_eq!(health.failing(later(1)), None);
        assert_eq!(health.failing(later(SUCCESS_COUNTS_FOR_SECONDS + 1)), Some(SignError::LinkLost));
    }
}
