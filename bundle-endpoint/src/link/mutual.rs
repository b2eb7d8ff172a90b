//! The link over the network: mutual TLS 1.3, our Workload API SVID on this end, exactly `spiffe://TD/spire/server` on the
//! other, verified against our own trust domain's bundle from the Workload API and no other.
//!
//! A verdict holds no longer than what it was based on: open links are verified again when the bundle changes and on a timer,
//! and end at an age. The plugin makes its link anew long before that.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use entente_bundle::tls::{SvidVerifier, mutual_server_config};
use entente_bundle::{Authorizer, SpiffeId, SvidError, TrustDomain};
use entente_workload_identity::{Guarded, OpenConnections, Refusal, WorkloadIdentity};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::Hub;
use super::brakes::Brakes;
use super::handshakes::Handshakes;
use super::stream::{self, LinkPeer, LinkStream, MAX_LINKS, PREFACE_TIMEOUT, Place};
use crate::farewell::say_farewell;
use crate::logging::chain;

/// From the accepted connection to the first bytes of HTTP/2.
const HANDSHAKE_TIMEOUT: Duration = PREFACE_TIMEOUT;

/// After this a link is cut, whatever goes on in it. The plugin makes it anew at least every hour.
const AGE_LIMIT: Duration = Duration::from_secs(2 * 3600);

/// Between two lines about those who are refused for the same reason.
const REFUSAL_INTERVAL: Duration = Duration::from_secs(5);

/// Out of file descriptors, for example: trying again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The bound listener.
#[derive(Debug)]
pub(crate) struct MutualLink {
    tcp: TcpListener,
    identity: WorkloadIdentity,
    connections: Arc<OpenConnections>,
    acceptor: Acceptor,
    expected: SpiffeId,
}

type Secured = Guarded<TlsStream<TcpStream>>;

/// `TlsAcceptor` has no `Debug`.
#[derive(Clone)]
struct Acceptor(TlsAcceptor);

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acceptor")
    }
}

impl MutualLink {
    /// Takes a bound socket; `identity` is who we are.
    pub(crate) fn new(
        tcp: TcpListener,
        trust_domain: &TrustDomain,
        identity: WorkloadIdentity,
    ) -> Result<Self, rustls::Error> {
        let expected = trust_domain.spire_server_id();
        let only_server = Authorizer::exact(expected.clone());
        let verifier = SvidVerifier::new(identity.bundles(), only_server.clone());
        let tls = mutual_server_config(verifier, identity.slot(), &[b"h2"])?;
        let connections = OpenConnections::new(identity.bundles(), only_server);
        let acceptor = Acceptor(TlsAcceptor::from(Arc::new(tls)));
        Ok(Self { tcp, identity, connections, acceptor, expected })
    }

    /// Serves until `stop`; returns when every stream has ended.
    pub(crate) async fn serve(
        self,
        hub: Arc<Hub>,
        stop: CancellationToken,
    ) -> Result<(), tonic::transport::Error> {
        let (sender, accepted) = mpsc::channel(MAX_LINKS);
        let checking = Arc::clone(&self.connections).keep_checked(self.identity.changed());
        let server = stream::serve(Arc::clone(&hub), accepted, stop.clone());
        let accepting = stop.run_until_cancelled(self.accept(hub, sender));
        let (served, _, _) = tokio::join!(server, accepting, stop.run_until_cancelled(checking));
        served
    }

    async fn accept(self, hub: Arc<Hub>, accepted: mpsc::Sender<io::Result<LinkStream<Secured>>>) {
        let door = Arc::new(Door {
            hub,
            acceptor: self.acceptor,
            connections: self.connections,
            identity: self.identity,
            links: Arc::new(Semaphore::new(MAX_LINKS)),
            brakes: Brakes::new(REFUSAL_INTERVAL),
            expected: self.expected,
        });
        let mut handshakes = Handshakes::new();
        loop {
            match self.tcp.accept().await {
                Ok((tcp, address)) => {
                    let (entering, accepted) = (Arc::clone(&door), accepted.clone());
                    let entering = tokio::spawn(async move { entering.enter(tcp, address, accepted).await });
                    if let Some(displaced) = handshakes.begin(address, entering) {
                        door.refused(displaced, &DoorError::Displaced);
                    }
                }
                Err(error) => {
                    door.hub.metrics.link_refusal("accept_failed");
                    if let Some(suppressed) = door.brakes.pass("accept_failed") {
                        error!(%error, suppressed, "link listener cannot accept");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Decides who gets as far as gRPC.
struct Door {
    hub: Arc<Hub>,
    acceptor: Acceptor,
    connections: Arc<OpenConnections>,
    identity: WorkloadIdentity,
    links: Arc<Semaphore>,
    /// The noise of strangers must not hide the impostor that came this far with an SVID.
    brakes: Brakes,
    /// The one ID that may link.
    expected: SpiffeId,
}

/// Why a connection did not become a link.
#[derive(Debug, thiserror::Error)]
enum DoorError {
    #[error("another handshake needed its place before it was over")]
    Displaced,
    /// It ended without a word, as a probe of the port does.
    #[error("nothing was said")]
    Nothing,
    #[error("the tls handshake failed")]
    Handshake(#[source] io::Error),
    #[error(transparent)]
    Svid(#[from] SvidError),
    #[error("{MAX_LINKS} links are open already")]
    TooMany,
    #[error("http/2 did not begin")]
    NotGrpc(#[source] io::Error),
    #[error("the handshake was not over after {}", humantime::format_duration(HANDSHAKE_TIMEOUT))]
    Silent,
}

impl Door {
    async fn enter(
        &self,
        tcp: TcpStream,
        address: SocketAddr,
        accepted: mpsc::Sender<io::Result<LinkStream<Secured>>>,
    ) {
        match timeout(HANDSHAKE_TIMEOUT, self.admit(tcp, address)).await.unwrap_or(Err(DoorError::Silent)) {
            // The server is gone only when we are shutting down.
            Ok(stream) => drop(accepted.send(Ok(stream)).await),
            Err(error) => self.refused(address, &error),
        }
    }

    async fn admit(&self, tcp: TcpStream, address: SocketAddr) -> Result<LinkStream<Secured>, DoorError> {
        if tcp.peek(&mut [0]).await.map_err(DoorError::Handshake)? == 0 {
            return Err(DoorError::Nothing);
        }
        // Signatures are asked for in small messages, and somebody waits for each.
        tcp.set_nodelay(true).map_err(DoorError::Handshake)?;
        let stream = match self.acceptor.0.accept(tcp).into_fallible().await {
            Ok(stream) => stream,
            Err((error, tcp)) => {
                // So that a plugin hears that it was refused; rustls has said why.
                say_farewell(tcp, &[]).await;
                return Err(DoorError::Handshake(error));
            }
        };
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
        let stream = self.connections.admit(stream, address, &chain, Some(AGE_LIMIT))?;
        let permit = Arc::clone(&self.links).try_acquire_owned().map_err(|_| DoorError::TooMany)?;
        let peer = LinkPeer::Verified { spiffe_id: stream.peer().id.clone(), address };
        LinkStream::begin(stream, peer, Place { _permit: permit, _number: None })
            .await
            .map_err(DoorError::NotGrpc)
    }

    fn refused(&self, address: SocketAddr, error: &DoorError) {
        if matches!(error, DoorError::Nothing) {
            debug!(peer = %address, "connection to the link ended without a word");
            return;
        }
        let (reason, presented) = self.reason(error);
        self.hub.metrics.link_refusal(reason);
        let error = chain(error);
        // Beside an ID that was presented, the one that would have been let in.
        let expected = presented.as_ref().map(|_| tracing::field::display(&self.expected));
        match self.brakes.pass(reason) {
            Some(suppressed) => {
                warn!(peer = %address, presented, expected, reason, error, suppressed, "link refused");
            }
            None => debug!(peer = %address, presented, expected, reason, error, "link refused"),
        }
    }

    /// A word for metrics, and the ID that was presented, if any could be read.
    fn reason(&self, error: &DoorError) -> (&'static str, Option<String>) {
        let handshake = match error {
            DoorError::Displaced => return ("displaced", None),
            DoorError::Nothing => return ("closed", None),
            DoorError::TooMany => return ("too_many", None),
            DoorError::NotGrpc(_) => return ("not_grpc", None),
            DoorError::Silent => return ("silent", None),
            DoorError::Svid(error) => return (error.reason(), error.presented().map(ToString::to_string)),
            DoorError::Handshake(error) => error,
        };
        match Refusal::find(handshake) {
            Refusal::Svid(error) => (error.reason(), error.presented().map(ToString::to_string)),
            Refusal::ByPeer(_) => ("peer_alert", None),
            Refusal::Other(_) if self.identity.spiffe_id().is_none() => ("no_identity", None),
            Refusal::Other(word) => (word, None),
        }
    }
}
