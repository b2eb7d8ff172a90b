//! Accepts connections and hands each to HTTP, over TLS or plain, with a bound on everything that a stranger controls.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::{Request, Response};
use entente_bounds::{FreePlace, Place, Places, Throttle};
use hyper::body::{Body, Bytes, Incoming};
use hyper_util::rt::TokioExecutor;
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use self::handshake::Secured;
use self::places::ListenerPlaces;
use crate::metrics::Metrics;

mod handshake;
mod host;
mod http;
mod places;
mod shortage;

pub(crate) use handshake::Tls;
pub(crate) use places::share_of_files;

/// Between two lines of one kind about one listener.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// From the accepted connection to the end of the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The same while strangers hold more than half of the places: whoever means it needs less, and the others make room sooner.
const CROWDED_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// What answers the requests of a listener.
pub(crate) trait Respond: Clone + Send + Sync + 'static {
    type Body: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static;

    fn respond(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Self::Body>> + Send + use<Self>;
}

impl<S, F, B> Respond for S
where
    S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
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
    places: ListenerPlaces,
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
            places: ListenerPlaces::new(places),
            troubles: Throttle::new(LINE_INTERVAL),
            complaints: Throttle::new(LINE_INTERVAL),
            stop: stop.clone(),
        });
        let tasks = TaskTracker::new();
        let accepting = async {
            let door = shared.door();
            while let Some(free) = shared.free_place(door).await {
                match tcp.accept().await {
                    Ok((stream, peer)) => {
                        if let Some(place) = shared.place_for(door, peer, free) {
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
    /// Where a connection is placed first.
    fn door(&self) -> &Arc<Places> {
        match self.transport {
            Transport::Plain => &self.places.established,
            Transport::Tls(_) => &self.places.handshakes,
        }
    }

    /// Whoever comes while there is none waits in the kernel's queue; limits on time make places free.
    async fn free_place(&self, places: &Places) -> Option<FreePlace> {
        if let Some(free) = places.try_free() {
            return Some(free);
        }
        self.metrics.connection_refused("listener_full");
        if let Some(suppressed) = self.troubles.pass() {
            warn!(listener = self.name, reason = "listener_full", suppressed, "connections have to wait");
        }
        places.free().await
    }

    fn place_for(&self, places: &Arc<Places>, peer: SocketAddr, free: FreePlace) -> Option<Place> {
        let place = places.take(peer.ip(), free);
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
            Transport::Plain => {
                Box::pin(http::serve(stream, peer, self, respond)).await;
                drop(place);
            }
            Transport::Tls(tls) => {
                let secured = self.secure(tls, stream, peer, place);
                if let Some(Some((stream, place))) = self.stop.run_until_cancelled(secured).await {
                    // Apart, because it is large, and most of the connections of an attack never come so far.
                    Box::pin(http::serve(stream, peer, self, respond)).await;
                    drop(place);
                }
            }
        }
    }

    /// The handshake, and a place for what comes after it.
    async fn secure(
        &self,
        tls: &Tls,
        stream: TcpStream,
        peer: SocketAddr,
        begun: Place,
    ) -> Option<(Secured, Place)> {
        let crowded = self.places.handshakes.is_crowded();
        let patience = if crowded { CROWDED_HANDSHAKE_TIMEOUT } else { HANDSHAKE_TIMEOUT };
        let stream = tls.handshake(stream, peer, patience, &self.name, &self.metrics).await?;
        // Who waits keeps the first place: when those are all taken nobody is accepted any more.
        let established = &self.places.established;
        let free = timeout(HANDSHAKE_TIMEOUT, self.free_place(established)).await.ok()??;
        let place = self.place_for(established, peer, free)?;
        drop(begun);
        Some((stream, place))
    }
}
