//! The accept loop: TCP in, verified peers out. Handshakes run beside it, so one slow peer holds up nobody.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use entente_bundle::tls::CertificateSlot;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::open_connections::{Guarded, OpenConnections};
use crate::refusal::Refusal;

/// Connections at one time, those in their handshake included. More wait in the kernel's queue.
const CONNECTIONS_LIMIT: usize = 1024;

/// Out of file descriptors, for example: trying again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What every handshake needs.
#[derive(Clone)]
pub(crate) struct Admission {
    pub(crate) tls: Arc<ServerConfig>,
    /// Only to tell why a handshake failed.
    pub(crate) slot: Arc<CertificateSlot>,
    pub(crate) connections: Arc<OpenConnections>,
    pub(crate) handshake_timeout: Duration,
    /// After this a connection is cut, whatever goes on in it.
    pub(crate) age_limit: Duration,
}

/// A connection with a verified peer. Its permit is free again when it ends.
pub(crate) type Accepted = Guarded<TlsStream<TcpStream>>;

/// Accepts until `stop`, and then closes the listener. The stream ends when the last handshake is done.
pub(crate) fn accept(
    listener: TcpListener,
    admission: Admission,
    stop: CancellationToken,
) -> ReceiverStream<io::Result<Accepted>> {
    let (sender, receiver) = mpsc::channel(16);
    let permits = Arc::new(Semaphore::new(CONNECTIONS_LIMIT));
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        loop {
            // Cannot fail: nobody closes the semaphore.
            let Ok(permit) = permits.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((tcp, address)) => {
                    tokio::spawn(admission.clone().admit(tcp, address, permit, sender.clone()));
                }
                Err(error) => {
                    warn!(%error, "connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }));
    ReceiverStream::new(receiver)
}

impl Admission {
    async fn admit(
        self,
        tcp: TcpStream,
        address: SocketAddr,
        permit: OwnedSemaphorePermit,
        accepted: mpsc::Sender<io::Result<Accepted>>,
    ) {
        let handshake = async {
            // What goes without a word was no client: a kubelet probes the port so, every few seconds.
            if tcp.peek(&mut [0]).await? == 0 {
                return Ok(None);
            }
            TlsAcceptor::from(self.tls.clone()).accept(tcp).await.map(Some)
        };
        let tls = match tokio::time::timeout(self.handshake_timeout, handshake).await {
            Ok(Ok(Some(tls))) => tls,
            Ok(Ok(None)) => return debug!(peer = %address, reason = "closed", "connection ended without a word"),
            Ok(Err(error)) => return self.log(address, &error),
            Err(_) => return self.log(address, &io::Error::from(io::ErrorKind::TimedOut)),
        };
        if let Err(error) = tls.get_ref().0.set_nodelay(true) {
            debug!(peer = %address, %error, "small packets will be delayed");
        }
        let chain = tls.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
        match self.connections.admit(tls, address, &chain, Some(self.age_limit)) {
            Ok(connection) => {
                let peer = connection.peer();
                debug!(peer = %peer.address, spiffe_id = %peer.id, "connection opened");
                // An error means that the server has stopped.
                let _ = accepted.send(Ok(connection.holding(permit))).await;
            }
            Err(error) => self.log(address, &error),
        }
    }

    /// Every refusal says who presented what, and why that was not enough.
    fn log(&self, address: SocketAddr, error: &(dyn Error + 'static)) {
        match Refusal::find(error) {
            Refusal::Svid(svid) => {
                let presented = svid.presented().map(tracing::field::display);
                let reason = svid.reason();
                warn!(peer = %address, presented, reason, error = svid as &dyn Error, "client refused");
            }
            Refusal::ByPeer(alert) => {
                warn!(peer = %address, presented = self.own_id(), ?alert, "client refused our svid");
            }
            Refusal::Other(_) if self.slot.current().is_none() => {
                warn!(peer = %address, reason = "no_identity", "client refused, the workload api has given us no svid");
            }
            Refusal::Other(reason) => warn!(peer = %address, reason, error, "client refused"),
        }
    }

    fn own_id(&self) -> Option<String> {
        let key = self.slot.current()?;
        entente_bundle::svid::leaf_id(key.cert.first()?).ok().map(|id| id.to_string())
    }
}
