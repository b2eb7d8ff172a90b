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
        let shared = Arc::new(Shared {
            name,
            transport,
            metrics,
            http: http_builder(),
            per_address: Mutex::default(),
            stop: stop.clone(),
        });
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let tasks = TaskTracker::new();
        let refused = Throttle::new(Duration::from_secs(10));
        loop {
            let permit = tokio::select! {
                () = stop.cancelled() => break,
                permit = Arc::clone(&places).acquire_owned() => permit,
            };
            // Cannot fail: the semaphore is never closed.
            let Ok(permit) = permit else { break };
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = tcp.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    shared.accept_failed(&error).await;
                    continue;
                }
            };
            let Some(place) = Place::take(&shared, peer.ip(), permit) else {
                shared.metrics.connection_refused("too_many_of_address");
                if let Some(suppressed) = refused.pass() {
                    info!(%peer, reason = "too_many_of_address", suppressed, "connection refused");
                }
                continue;
            };
            tasks.spawn(connection(stream, peer, place, respond.clone()));
        }
        drop(tcp);
        tasks.close();
        tasks.wait().await;
    }
}

impl Shared {
    async fn accept_failed(&self, error: &io::Error) {
        self.metrics.connection_refused("accept_failed");
        // The peer was gone before we looked; everything else is ours, and most of it (no descriptors left) needs time.
        if error.kind() != io::ErrorKind::ConnectionAborted {
            error!(listener = self.name, %error, "listener cannot accept");
            sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Place {
    fn take(shared: &Arc<Shared>, address: IpAddr, permit: OwnedSemaphorePermit) -> Option<Self> {
        let mut per_address = crate::lock(&shared.per_address);
        let count = per_address.entry(address).or_default();
        if *count >= MAX_PER_ADDRESS {
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
    let start = Instant::now();
    // Milliseconds after `start` of the last request.
    let last_request = Arc::new(AtomicU64::new(0));
    let service = service_fn({
        let last_request = Arc::clone(&last_request);
        move |request| {
            let elapsed = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
            last_request.store(elapsed, Ordering::Relaxed);
            let response = respond(request);
            async move { Ok::<_, Infallible>(response.await) }
        }
    });
    let mut conn = pin!(shared.http.serve_connection(TokioIo::new(stream), service));
    let ended = loop {
        let idle_at = start + Duration::from_millis(last_request.load(Ordering::Relaxed)) + IDLE_TIMEOUT;
        tokio::select! {
            ended = conn.as_mut() => break ended,
            () = shared.stop.cancelled() => {}
            () = sleep_until(idle_at) => {
                let latest = start + Duration::from_millis(last_request.load(Ordering::Relaxed));
                if latest.elapsed() < IDLE_TIMEOUT {
                    continue;
                }
            }
        }
        conn.as_mut().graceful_shutdown();
        match timeout(CLOSING_TIMEOUT, conn.as_mut()).await {
            Ok(ended) => break ended,
            Err(_) => {
                debug!(listener = shared.name, %peer, "connection cut off");
                return;
            }
        }
    };
    if let Err(error) = ended {
        debug!(listener = shared.name, %peer, error = &*error, "connection ended");
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
