//! Accepts connections and hands each to HTTP, over TLS or plain, with a bound on everything that a stranger controls.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioExecutor;
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use self::places::{Place, Places};
use crate::logging::Throttle;
use crate::metrics::Metrics;

mod handshake;
mod http;
mod places;

pub(crate) use handshake::Tls;
pub(crate) use places::share_of_files;

/// Between two lines of one kind about one listener.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// What answers the requests of a listener.
pub(crate) trait Respond: Clone + Send + Sync + 'static {
    type Body: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static;

    fn respond(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Self::Body>> + Send + use<Self>;
}

impl<S, F, B> Respond for S
where
    S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    type Body = B;

    fn respond(&self, request: Request<Incoming>) -> impl Future<Output = Response<B>> + Send + use<S, F, B> {
        self(request)
    }
}

/// What stands between the socket and HTTP.
pub(crate) enum Transport {
    Plain,
    Tls(Arc<Tls>),
}

/// One listener.
pub(crate) struct Listener {
    pub(crate) name: String,
    pub(crate) tcp: TcpListener,
    pub(crate) transport: Transport,
    pub(crate) metrics: Arc<Metrics>,
    /// How many connections there may be at the same time.
    pub(crate) places: usize,
}

/// What connections of one listener share.
struct Shared {
    name: String,
    transport: Transport,
    metrics: Arc<Metrics>,
    http: auto::Builder<TokioExecutor>,
    places: Arc<Places>,
    /// For lines that are our trouble.
    troubles: Throttle,
    /// For lines that are a stranger's doing; they must not drown the others.
    complaints: Throttle,
    stop: CancellationToken,
}

impl Listener {
    /// Serves `respond` until `stop`, then lets requests in flight finish.
    pub(crate) async fn serve(self, respond: impl Respond, stop: CancellationToken) {
        let Self { name, tcp, transport, metrics, places } = self;
        let shared = Arc::new(Shared {
            name,
            transport,
            metrics,
            http: http::builder(),
            places: Places::new(places),
            troubles: Throttle::new(LINE_INTERVAL),
            complaints: Throttle::new(LINE_INTERVAL),
            stop: stop.clone(),
        });
        let tasks = TaskTracker::new();
        let accepting = async {
            while let Some(permit) = shared.free_place().await {
                match tcp.accept().await {
                    Ok((stream, peer)) => {
                        if let Some(place) = shared.place_for(peer, permit) {
                            let (shared, respond) = (Arc::clone(&shared), respond.clone());
                            tasks.spawn(async move { shared.connection(stream, peer, place, respond).await });
                        }
                    }
                    Err(error) => shared.accept_failed(&error).await,
                }
            }
        };
        stop.run_until_cancelled(accepting).await;
        drop(tcp);
        tasks.close();
        tasks.wait().await;
    }
}

impl Shared {
    /// Whoever comes while there is none waits in the kernel's queue; limits on time make places free.
    async fn free_place(&self) -> Option<OwnedSemaphorePermit> {
        if let Some(permit) = self.places.try_free() {
            return Some(permit);
        }
        self.metrics.connection_refused("listener_full");
        if let Some(suppressed) = self.troubles.pass() {
            warn!(listener = self.name, reason = "listener_full", suppressed, "connections have to wait");
        }
        self.places.free().await
    }

    fn place_for(&self, peer: SocketAddr, permit: OwnedSemaphorePermit) -> Option<Place> {
        let place = self.places.take(peer.ip(), permit);
        if place.is_none() {
            let reason = "too_many_of_address";
            self.metrics.connection_refused(reason);
            if let Some(suppressed) = self.complaints.pass() {
                info!(%peer, listener = self.name, reason, suppressed, "connection refused");
            }
        }
        place
    }

    async fn accept_failed(&self, error: &io::Error) {
        self.metrics.connection_refused("accept_failed");
        // The peer was gone before we looked; everything else is ours, and most of it (no descriptors left) needs time.
        if error.kind() != io::ErrorKind::ConnectionAborted {
            if let Some(suppressed) = self.troubles.pass() {
                error!(listener = self.name, %error, suppressed, "listener cannot accept");
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn connection(&self, stream: TcpStream, peer: SocketAddr, place: Place, respond: impl Respond) {
        // An answer is one small write; waiting to fill a packet only delays it.
        let _ = stream.set_nodelay(true);
        match &self.transport {
            Transport::Plain => http::serve(stream, peer, self, respond).await,
            Transport::Tls(tls) => {
                let handshake = tls.handshake(stream, peer, &self.name, &self.metrics);
                if let Some(Some(stream)) = self.stop.run_until_cancelled(handshake).await {
                    http::serve(stream, peer, self, respond).await;
                }
            }
        }
        drop(place);
    }
}
