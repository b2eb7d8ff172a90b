//! HTTP on one connection: bounds on what a peer may send and on how long it may take, and each broken request with its
//! reason.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::http::header::{CONNECTION, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use ::http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use entente_bundle::causes::causes;
use http_body_util::{Either, Full};
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info};

use super::host::{self, HostError};
use super::{Respond, Shared};

/// For the headers of a request, the first one counted from the moment at which it could have been sent; on HTTP/1.1 also
/// the wait for the next request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Without a request for so long, a connection is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// For requests in flight once a connection is being closed.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(5);

/// Headers of one request; a GET of a bundle needs less than one.
const MAX_HEADER_BYTES: usize = 16 << 10;

/// Requests of one HTTP/2 connection at the same time.
const MAX_STREAMS: u32 = 64;

/// Requests that a peer took back before they were looked at, and errors that it provoked, before its HTTP/2 connection
/// ends: both are cheap to send and dear to receive.
const MAX_RESETS: usize = 20;

/// What one HTTP/2 connection may send before we have read it; a bundle endpoint reads no bodies.
const WINDOW_BYTES: u32 = 64 << 10;

pub(super) fn builder() -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(MAX_HEADER_BYTES);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEADER_BYTES).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(MAX_RESETS)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES);
    http
}

/// Serves one connection to its end.
pub(super) async fn serve<I, R>(stream: I, peer: SocketAddr, shared: &Shared, respond: R)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    R: Respond,
{
    let activity = Arc::new(Activity::new());
    let service = service_fn({
        let activity = Arc::clone(&activity);
        move |request| {
            activity.note();
            let response = match host::check(&request) {
                Ok(()) => Either::Right(respond.respond(request)),
                Err(error) => {
                    refused("host", Some(&error), peer, shared);
                    Either::Left(host_refused(&request, &error))
                }
            };
            async move {
                Ok::<_, Infallible>(match response {
                    Either::Left(refusal) => refusal.map(Either::Left),
                    Either::Right(response) => response.await.map(Either::Right),
                })
            }
        }
    });
    let mut conn = pin!(shared.http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = conn.as_mut() => Some(ended),
        () = shared.stop.cancelled() => None,
        () = activity.idle() => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            let overdue = !activity.has_begun() && !shared.stop.is_cancelled();
            if overdue {
                refused("timeout", None, peer, shared);
            }
            conn.as_mut().graceful_shutdown();
            match timeout(CLOSING_TIMEOUT, conn.as_mut()).await {
                Ok(ended) if !overdue => ended,
                Ok(_) => return,
                Err(_) => {
                    debug!(listener = shared.name, %peer, "connection cut off");
                    return;
                }
            }
        }
    };
    if let Err(error) = ended {
        match reason(&*error, activity.has_begun()) {
            Some(reason) => refused(reason, Some(&*error), peer, shared),
            None => debug!(listener = shared.name, %peer, error = &*error, "connection ended"),
        }
    }
}

fn host_refused<B>(request: &Request<B>, error: &HostError) -> Response<Full<Bytes>> {
    let is_head = request.method() == Method::HEAD;
    let text = if is_head { String::new() } else { format!("{error}\n") };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Whoever begins like this may go on like this; HTTP/2 has no such word.
    if request.version() < Version::HTTP_2 {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn refused(reason: &'static str, error: Option<&(dyn Error + 'static)>, peer: SocketAddr, shared: &Shared) {
    shared.metrics.http_refusal(&shared.name, reason);
    let listener = &shared.name;
    let detail = error.map(crate::logging::chain);
    match shared.complaints.pass() {
        Some(suppressed) => info!(%peer, listener, reason, detail, suppressed, "request refused"),
        None => debug!(%peer, listener, reason, detail, "request refused"),
    }
}

/// A word for metrics; `None` for the ways in which well-behaved connections end.
fn reason(error: &(dyn Error + 'static), has_begun: bool) -> Option<&'static str> {
    let Some(http) = error.downcast_ref::<hyper::Error>() else {
        // Gone before it was clear which version it speaks.
        return None;
    };
    if http.is_parse_too_large() {
        return Some("too_large");
    }
    if http.is_parse() {
        return Some("malformed");
    }
    if http.is_timeout() {
        // After a request it is only a kept-alive connection that nobody needs any more.
        return (!has_begun).then_some("timeout");
    }
    if http.is_incomplete_message() {
        return Some("incomplete");
    }
    if causes(error).any(|cause| cause.is::<io::Error>()) {
        return None;
    }
    Some("protocol")
}

/// When the last request of a connection came.
struct Activity {
    start: Instant,
    /// Milliseconds after `start`; 0 before the first.
    last: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        Self { start: Instant::now(), last: AtomicU64::new(0) }
    }

    fn note(&self) {
        let elapsed = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(elapsed.max(1), Ordering::Relaxed);
    }

    /// Whether any request came.
    fn has_begun(&self) -> bool {
        self.last.load(Ordering::Relaxed) != 0
    }

    /// Returns when the first request is overdue, or none came for [`IDLE_TIMEOUT`] after the last.
    async fn idle(&self) {
        loop {
            let last = self.last.load(Ordering::Relaxed);
            let patience = if last == 0 { HEADER_TIMEOUT } else { IDLE_TIMEOUT };
            sleep_until(self.start + Duration::from_millis(last) + patience).await;
            if self.last.load(Ordering::Relaxed) == last {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_request_must_come_soon_and_later_ones_have_time() {
        let activity = Activity::new();
        activity.idle().await;
        assert_eq!(activity.start.elapsed().as_secs(), HEADER_TIMEOUT.as_secs());
        assert!(!activity.has_begun());
        activity.note();
        activity.idle().await;
        assert_eq!(activity.start.elapsed().as_secs(), (HEADER_TIMEOUT + IDLE_TIMEOUT).as_secs());
    }
}
