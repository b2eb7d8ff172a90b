//! Accepts connections and serves HTTP on them, over TLS or plain, with a bound on everything that a stranger controls.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info};

use crate::logging::Throttle;
use crate::metrics::Metrics;

mod handshake;

pub(crate) use handshake::Tls;

/// Connections of one listener, handshakes included.
const MAX_CONNECTIONS: usize = 2048;

/// Of these, one address may have half, so that one stranger cannot shut the others out.
const MAX_PER_ADDRESS: usize = MAX_CONNECTIONS / 2;

/// From the first byte of a request to the end of its headers; on HTTP/1.1 also the wait for the next request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Without a request for so long, a connection is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// For requests in flight once a connection is being closed.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(5);

/// Headers of one request; a GET of a bundle needs less than one.
const MAX_HEADER_BYTES: usize = 16 << 10;

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
}

/// What connections of one listener share.
struct Shared {
    name: String,
    transport: Transport,
    metrics: Arc<Metrics>,
    http: auto::Builder<TokioExecutor>,
    per_address: Mutex<HashMap<IpAddr, usize>>,
    complaints: Throttle,
    stop: CancellationToken,
}

/// A place among the connections, given back on drop.
struct Place {
    shared: Arc<Shared>,
    address: IpAddr,
    _permit: OwnedSemaphorePermit,
}

impl Listener {
    /// Serves `respond` until `stop`, then lets requests in flight finish.
    pub(crate) async fn serve<S, F, B>(self, respond: S, stop: CancellationToken)
    where
        S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let Self { name, tcp, transport, metrics } = self;
        let shared = Shared::new(name, transport, metrics, stop.clone());
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let tasks = TaskTracker::new();
        let accepting = async {
            // Cannot fail: the semaphore is never closed.
            while let Ok(permit) = Arc::clone(&places).acquire_owned().await {
                match tcp.accept().await {
                    Ok((stream, peer)) => {
                        if let Some(place) = Place::take(&shared, peer, permit) {
                            tasks.spawn(connection(stream, peer, place, respond.clone()));
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
    fn new(name: String, transport: Transport, metrics: Arc<Metrics>, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            name,
            transport,
            metrics,
            http: http_builder(),
            per_address: Mutex::default(),
            complaints: Throttle::new(Duration::from_secs(10)),
            stop,
        })
    }

    async fn accept_failed(&self, error: &io::Error) {
        self.metrics.connection_refused("accept_failed");
        // The peer was gone before we looked; everything else is ours, and most of it (no descriptors left) needs time.
        if error.kind() != io::ErrorKind::ConnectionAborted {
            if let Some(suppressed) = self.complaints.pass() {
                error!(listener = self.name, %error, suppressed, "listener cannot accept");
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Place {
    fn take(shared: &Arc<Shared>, peer: SocketAddr, permit: OwnedSemaphorePermit) -> Option<Self> {
        let address = peer.ip();
        let mut per_address = crate::lock(&shared.per_address);
        let count = per_address.entry(address).or_default();
        if *count >= MAX_PER_ADDRESS {
            shared.metrics.connection_refused("too_many_of_address");
            if let Some(suppressed) = shared.complaints.pass() {
                let listener = &shared.name;
                info!(%peer, listener, reason = "too_many_of_address", suppressed, "connection refused");
            }
            return None;
        }
        *count += 1;
        Some(Self { shared: Arc::clone(shared), address, _permit: permit })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut per_address = crate::lock(&self.shared.per_address);
        if let Some(count) = per_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                per_address.remove(&self.address);
            }
        }
    }
}

async fn connection<S, F, B>(stream: TcpStream, peer: SocketAddr, place: Place, respond: S)
where
    S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let shared = Arc::clone(&place.shared);
    // An answer is one small write; waiting to fill a packet only delays it.
    let _ = stream.set_nodelay(true);
    match &shared.transport {
        Transport::Plain => http(stream, peer, &shared, respond).await,
        Transport::Tls(tls) => {
            let handshake = tls.handshake(stream, peer, &shared.name, &shared.metrics);
            let accepted = tokio::select! {
                () = shared.stop.cancelled() => return,
                accepted = handshake => accepted,
            };
            if let Some(stream) = accepted {
                http(stream, peer, &shared, respond).await;
            }
        }
    }
    drop(place);
}

async fn http<I, S, F, B>(stream: I, peer: SocketAddr, shared: &Shared, respond: S)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let activity = Arc::new(Activity::new());
    let service = service_fn({
        let activity = Arc::clone(&activity);
        move |request| {
            activity.note();
            let response = respond(request);
            async move { Ok::<_, Infallible>(response.await) }
        }
    });
    let mut conn = pin!(shared.http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = conn.as_mut() => Ok(ended),
        () = shared.stop.cancelled() => Err(()),
        () = activity.idle() => Err(()),
    };
    let ended = match ended {
        Ok(ended) => ended,
        Err(()) => {
            conn.as_mut().graceful_shutdown();
            let Ok(ended) = timeout(CLOSING_TIMEOUT, conn.as_mut()).await else {
                debug!(listener = shared.name, %peer, "connection cut off");
                return;
            };
            ended
        }
    };
    if let Err(error) = ended {
        debug!(listener = shared.name, %peer, error = &*error, "connection ended");
    }
}

/// When the last request of a connection came.
struct Activity {
    start: Instant,
    /// Milliseconds after `start`.
    last: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        Self { start: Instant::now(), last: AtomicU64::new(0) }
    }

    fn note(&self) {
        let elapsed = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(elapsed, Ordering::Relaxed);
    }

    /// Returns when no request came for [`IDLE_TIMEOUT`].
    async fn idle(&self) {
        loop {
            let last = self.last.load(Ordering::Relaxed);
            sleep_until(self.start + Duration::from_millis(last) + IDLE_TIMEOUT).await;
            if self.last.load(Ordering::Relaxed) == last {
                return;
            }
        }
    }
}

fn http_builder() -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(MAX_HEADER_BYTES);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .max_concurrent_streams(64)
        .max_header_list_size(u32::try_from(MAX_HEADER_BYTES).unwrap_or(u32::MAX))
        .initial_stream_window_size(64 << 10)
        .initial_connection_window_size(64 << 10);
    http
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_gets_half_of_the_places_and_gives_them_back() {
        let metrics = Arc::new(Metrics::new());
        let shared = Shared::new("serve".into(), Transport::Plain, metrics, CancellationToken::new());
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let take = |address: [u8; 4]| {
            let permit = Arc::clone(&places).try_acquire_owned().ok()?;
            Place::take(&shared, (address, 1).into(), permit)
        };
        let mut taken: Vec<_> = (0..MAX_PER_ADDRESS).map(|_| take([198, 51, 100, 1]).unwrap()).collect();
        assert!(take([198, 51, 100, 1]).is_none());
        assert!(take([198, 51, 100, 2]).is_some());
        taken.pop();
        assert!(take([198, 51, 100, 1]).is_some());
        taken.clear();
        assert!(crate::lock(&shared.per_address).is_empty());
        assert_eq!(places.available_permits(), MAX_CONNECTIONS);
    }
}
