//! The SPIRE Server's own X509-SVID, lent through IdentityProvider: polled, because nobody tells when it rotates.
//!
//! SPIRE replaces it after half its life and checks every five seconds; so do we. The private key stays in memory, behind a
//! signer that only `signing` uses.

use std::sync::Arc;
use std::time::Duration;

use entente_bundle::causes::chain;
use entente_bundle::{SpiffeId, SvidError, TrustDomain, svid};
use entente_proto::spire::hostservice::server::identityprovider::v1::{
    FetchX509IdentityRequest, FetchX509IdentityResponse, X509Identity,
};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tonic::{Code, Status};
use tracing::{debug, info, warn};
use zeroize::{Zeroize, Zeroizing};

use crate::config::Config;
use crate::own_bundle::Source;
use crate::repeats::Repeats;
use crate::signing::ServerKey;
use crate::state::Shared;

/// As often as SPIRE itself looks whether its SVID has to rotate.
const POLL: Duration = Duration::from_secs(5);

/// While SPIRE starts, the identity is a second or two away.
const STARTING_POLL: Duration = Duration::from_millis(200);

/// Polls at the starting pace before the regular one is taken up.
const STARTING_POLLS: u32 = 50;

/// Longest wait for an answer, which SPIRE gives from memory and one read of its datastore.
const DEADLINE: Duration = Duration::from_secs(10);

/// One identity of the SPIRE Server.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// Leaf first; the root is not in it.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    key: ServerKey,
}

/// Why an identity is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error("the identity holds no certificate")]
    Empty,
    #[error("the private key cannot be used: {0}")]
    Key(rustls::Error),
    #[error("the leaf is no X509-SVID")]
    Leaf(#[source] SvidError),
    #[error("the private key does not belong to the leaf")]
    Mismatch,
    #[error("the identity is {presented}, expected {expected}")]
    Other { presented: SpiffeId, expected: SpiffeId },
}

/// The current identity and the one before it: a handshake may be under way while it rotates.
#[derive(Debug)]
pub(crate) struct Identities(watch::Sender<Pair>);

/// What a rotation leaves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pair {
    current: Option<Arc<Identity>>,
    previous: Option<Arc<Identity>>,
}

impl Identities {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Pair::default()))
    }

    pub(crate) fn current(&self) -> Option<Arc<Identity>> {
        self.0.borrow().current.clone()
    }

    /// Waits until there is one.
    pub(crate) async fn known(&self) -> Arc<Identity> {
        let mut pairs = self.0.subscribe();
        loop {
            if let Some(current) = pairs.borrow_and_update().current.clone() {
                return current;
            }
            // Cannot fail: the sender is ours.
            let _ = pairs.changed().await;
        }
    }

    /// Waits until `shown` is not the current one any more.
    pub(crate) async fn replaced(&self, shown: &Arc<Identity>) {
        let is_other =
            |pair: &Pair| pair.current.as_ref().is_some_and(|current| !Arc::ptr_eq(current, shown));
        // Cannot fail: the sender is ours.
        let _ = self.0.subscribe().wait_for(is_other).await;
    }

    /// Wakes whoever wants to know of a rotation.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Pair> {
        self.0.subscribe()
    }

    /// Keys that may sign.
    pub(crate) fn keys(&self) -> Vec<ServerKey> {
        let pair = self.0.borrow();
        pair.current.iter().chain(&pair.previous).map(|identity| identity.key.clone()).collect()
    }

    pub(crate) fn set(&self, identity: Identity) {
        self.0.send_modify(|pair| {
            pair.previous = pair.current.replace(Arc::new(identity));
        });
    }
}

impl Identity {
    /// Takes what SPIRE lends, once it is what it has to be.
    pub(crate) fn new(message: X509Identity, own: &TrustDomain) -> Result<Self, IdentityError> {
        let pkcs8 = Zeroizing::new(message.private_key);
        let chain: Vec<_> = message.cert_chain.into_iter().map(CertificateDer::from).collect();
        let leaf = chain.first().ok_or(IdentityError::Empty)?;
        let (presented, expected) =
            (svid::leaf_id(leaf).map_err(IdentityError::Leaf)?, own.spire_server_id());
        if presented != expected {
            return Err(IdentityError::Other { presented, expected });
        }
        let leaf_sha256 = Sha256::digest(leaf).into();
        let der = PrivateKeyDer::Pkcs8(pkcs8.as_slice().into());
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).map_err(IdentityError::Key)?;
        CertifiedKey::new(chain.clone(), key.clone()).keys_match().map_err(|_| IdentityError::Mismatch)?;
        Ok(Self { chain, key: ServerKey { leaf_sha256, key } })
    }

    /// For handshakes of our own, in which we are SPIRE Server.
    pub(crate) fn certified_key(&self) -> Arc<CertifiedKey> {
        Arc::new(CertifiedKey::new(self.chain.clone(), Arc::clone(&self.key.key)))
    }
}

/// Polls until the plugin stops.
pub(crate) async fn run(shared: &Shared) {
    let mut polls = 0;
    let mut repeats = Repeats::default();
    loop {
        let known = poll(shared, &mut repeats).await;
        polls += 1;
        let pace = if known || polls > STARTING_POLLS { POLL } else { STARTING_POLL };
        tokio::select! {
            () = tokio::time::sleep(pace) => {}
            () = shared.identity_wanted.notified() => {}
        }
    }
}

/// One poll; true when there was an identity.
async fn poll(shared: &Shared, repeats: &mut Repeats) -> bool {
    let mut provider = shared.lent.identity_provider().await;
    let Some(config) = shared.config() else { return false };
    let call = provider.fetch_x509_identity(FetchX509IdentityRequest {});
    match tokio::time::timeout(DEADLINE, call).await {
        Ok(Ok(reply)) => {
            repeats.over("call");
            take(shared, &config, reply.into_inner(), repeats);
            true
        }
        // SPIRE's way of saying that it has not started yet.
        Ok(Err(status)) if status.code() == Code::FailedPrecondition => {
            if repeats.is_new("call", "starting") {
                debug!("no identity of SPIRE Server yet");
            }
            false
        }
        Ok(Err(status)) => failed(repeats, &status),
        Err(_) => failed(repeats, &Status::deadline_exceeded("no answer in time")),
    }
}

fn failed(repeats: &mut Repeats, status: &Status) -> bool {
    if repeats.is_new("call", &chain(status)) {
        warn!(error = chain(status), "identity of SPIRE Server cannot be fetched");
    }
    false
}

fn take(shared: &Shared, config: &Config, reply: FetchX509IdentityResponse, repeats: &mut Repeats) {
    let own = &config.trust_domain;
    match shared.own_bundle.take(Source::IdentityProvider, reply.bundle.as_ref(), own) {
        Ok(_) => repeats.over("bundle"),
        Err(error) if repeats.is_new("bundle", &error.to_string()) => {
            warn!(%error, "bundle beside the identity cannot be used");
        }
        Err(_) => {}
    }
    let Some(mut message) = reply.identity else { return };
    let current = shared.identities.current();
    if current.is_some_and(|current| {
        current.chain.iter().map(AsRef::as_ref).eq(message.cert_chain.iter().map(Vec::as_slice))
    }) {
        // The usual case, every few seconds: one more copy of the key that nobody needs.
        message.private_key.zeroize();
        return;
    }
    match Identity::new(message, own) {
        Ok(identity) => {
            repeats.over("identity");
            info!(certificates = identity.chain.len(), "identity of SPIRE Server changed");
            shared.identities.set(identity);
        }
        Err(error) if repeats.is_new("identity", &error.to_string()) => {
            warn!(error = chain(&error), "identity of SPIRE Server cannot be used");
        }
        Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use entente_bundle::testing::{TestAuthority, TestSvid};

    use super::*;

    fn message(svid: &TestSvid) -> X509Identity {
        let cert_chain = svid.chain.iter().map(|der| der.to_vec()).collect();
        X509Identity { cert_chain, private_key: svid.pkcs8.clone() }
    }

    fn read(message: X509Identity) -> Result<Identity, IdentityError> {
        Identity::new(message, &TrustDomain::new("own.test").unwrap())
    }

    #[test]
    fn what_is_not_the_servers_own_identity_is_refused() {
        let authority = TestAuthority::new("own.test");
        assert!(matches!(read(X509Identity::default()), Err(IdentityError::Empty)));
        let workload = authority.svid("/web").build();
        assert!(matches!(read(message(&workload)), Err(IdentityError::Other { .. })));
        let foreign = TestAuthority::new("foreign.test").svid("/spire/server").build();
        assert!(matches!(read(message(&foreign)), Err(IdentityError::Other { .. })));
        let server = authority.svid("/spire/server").build();
        let mut swapped = message(&server);
        swapped.private_key = authority.svid("/spire/server").build().pkcs8;
        assert!(matches!(read(swapped), Err(IdentityError::Mismatch)));
        let mut garbage = message(&server);
        garbage.private_key.truncate(10);
        assert!(matches!(read(garbage), Err(IdentityError::Key(_))));
        let mut garbage = message(&server);
        garbage.cert_chain[0].truncate(10);
        assert!(matches!(read(garbage), Err(IdentityError::Leaf(_))));
    }

    #[test]
    fn the_current_and_the_previous_key_may_sign_and_no_older_one() {
        let (authority, identities) = (TestAuthority::new("own.test"), Identities::new());
        let mut leaves = Vec::new();
        for _ in 0..3 {
            let svid = authority.svid("/spire/server").build();
            leaves.insert(0, <[u8; 32]>::from(Sha256::digest(svid.leaf())));
            identities.set(read(message(&svid)).unwrap());
        }
        let keys: Vec<_> = identities.keys().into_iter().map(|key| key.leaf_sha256).collect();
        assert_eq!(keys, leaves[..2]);
    }

    #[test]
    fn a_printed_identity_shows_no_key() {
        let svid = TestAuthority::new("own.test").svid("/spire/server").build();
        let printed = format!("{:?}", read(message(&svid)).unwrap().key);
        assert!(printed.starts_with("ServerKey { leaf_sha256: ["), "{printed}");
        assert!(printed.ends_with("], .. }"), "{printed}");
    }
}
