//! The accept loop: TCP in, verified peers out. Handshakes run beside it, so one slow peer holds up nobody.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use entente_bounds::{Place, Places, Throttle};
use entente_bundle::causes::{alert_words, chain};
use entente_bundle::tls::CertificateSlot;
use entente_workload_identity::{Guarded, OpenConnections, Refusal};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Handshakes at one time, and how many of them from one address. More wait in the kernel's queue; more of one address are
/// turned away.
const HANDSHAKES_LIMIT: usize = 256;
const HANDSHAKES_OF_ADDRESS: usize = 64;

/// The same for connections after their handshake. Many clients may be behind one gateway.
const CONNECTIONS_LIMIT: usize = 768;
const CONNECTIONS_OF_ADDRESS: usize = 384;

/// Between two lines of one kind that a stranger brings about.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

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
    pub(crate) bounds: Arc<Bounds>,
}

/// What clients may take.
pub(crate) struct Bounds {
    handshakes: Arc<Places>,
    established: Arc<Places>,
    /// Lines about clients that have an SVID, and about those that do not get so far: the ones must not drown the others.
    svids: Throttle,
    strangers: Throttle,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            handshakes: Places::new(HANDSHAKES_LIMIT, HANDSHAKES_OF_ADDRESS),
            established: Places::new(CONNECTIONS_LIMIT, CONNECTIONS_OF_ADDRESS),
            svids: Throttle::new(LINE_INTERVAL),
            strangers: Throttle::new(LINE_INTERVAL),
        }
    }
}

/// One warning per interval; those in between say the same to whoever debugs.
macro_rules! braked_warn {
    ($brake:expr, $($line:tt)*) => {
        match $brake.pass() {
            Some(suppressed) => warn!(suppressed, $($line)*),
            None => debug!($($line)*),
        }
    };
}

/// A connection with a verified peer. Its place is free again when it ends.
pub(crate) type Accepted = Guarded<TlsStream<TcpStream>>;

/// Accepts until `stop`, and then closes the listener. The stream ends when the last handshake is done.
pub(crate) fn accept(
    listener: TcpListener,
    admission: Admission,
    stop: CancellationToken,
) -> ReceiverStream<io::Result<Accepted>> {
    let (sender, receiver) = mpsc::channel(16);
    let handshakes = Arc::clone(&admission.bounds.handshakes);
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        loop {
            let Some(free) = handshakes.free().await else { return };
            match listener.accept().await {
                Ok((tcp, address)) => match handshakes.take(address.ip(), free) {
                    Some(begun) => {
                        tokio::spawn(admission.clone().admit(tcp, address, begun, sender.clone()));
                    }
                    None => admission.too_many(address),
                },
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
        begun: Place,
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
            Ok(Ok(None)) => {
                return debug!(peer = %address, reason = "closed", "connection ended without a word");
            }
            Ok(Err(error)) => return self.log(address, &error),
            Err(_) => return self.log(address, &io::Error::from(io::ErrorKind::TimedOut)),
        };
        if let Err(error) = tls.get_ref().0.set_nodelay(true) {
            debug!(peer = %address, %error, "small packets will be delayed");
        }
        let Some(place) = self.establish(address).await else { return self.too_many(address) };
        drop(begun);
        let chain = tls.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
        match self.connections.admit(tls, address, &chain, Some(self.age_limit)) {
            Ok(connection) => {
                let peer = connection.peer();
                debug!(peer = %peer.address, spiffe_id = %peer.id, "connection opened");
                // An error means that the server has stopped.
                let _ = accepted.send(Ok(connection.holding(place))).await;
            }
            Err(error) => self.log(address, &error),
        }
    }

    /// A place for what comes after the handshake; meanwhile the one of the handshake is kept, so that a crowd waits outside.
    async fn establish(&self, address: SocketAddr) -> Option<Place> {
        let established = &self.bounds.established;
        let free = tokio::time::timeout(self.handshake_timeout, established.free()).await.ok()??;
        established.take(address.ip(), free)
    }

    fn too_many(&self, address: SocketAddr) {
        braked_warn!(self.bounds.strangers, peer = %address, reason = "too_many", "client refused");
    }

    /// Every refusal says who presented what, and why that was not enough.
    fn log(&self, address: SocketAddr, error: &(dyn Error + 'static)) {
        let Bounds { svids, strangers, .. } = &*self.bounds;
        match Refusal::find(error) {
            Refusal::Svid(svid) => {
                let presented = svid.presented().map(tracing::field::display);
                let reason = svid.reason();
                let error = svid as &dyn Error;
                braked_warn!(svids, peer = %address, presented, reason, error, "client refused");
            }
            Refusal::ByPeer(alert) => {
                let presented = self.own_id();
                braked_warn!(strangers, peer = %address, presented, alert = alert_words(alert), "client refused our svid");
            }
            Refusal::Other(_) if self.slot.current().is_none() => {
                let reason = "no_identity";
                braked_warn!(strangers, peer = %address, reason, "client refused, the workload api has given us no svid");
            }
            Refusal::Other(reason) => {
                braked_warn!(strangers, peer = %address, reason, error = chain(error), "client refused");
            }
        }
    }

    fn own_id(&self) -> Option<String> {
        let key = self.slot.current()?;
        entente_bundle::svid::leaf_id(key.cert.first()?).ok().map(|id| id.to_string())
    }
}
