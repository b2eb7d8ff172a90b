//! The stand-in's own bundle endpoint: `https_spiffe` as the server, as bare as SPIRE's (federation.md 3.2).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use entente_bundle::tls::public_server_config;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::core::Core;
use super::document;

/// For the handshake and for the header, each.
const PATIENCE: Duration = Duration::from_secs(10);
/// SPIRE's default.
const REFRESH_HINT: u64 = 300;
const PLAIN_HTTP: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
/// First byte of a TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

/// Answers until `stop`; then connections are closed at once.
pub(crate) async fn serve(
    core: Arc<Core>,
    listener: TcpListener,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let versions: &[_] = &[&rustls::version::TLS13, &rustls::version::TLS12];
    let config = public_server_config(core.identity.slot.clone(), versions, &[b"h2", b"http/1.1"])?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let log = core.log.subsystem("endpoints").with("addr", listener.local_addr()?);
    log.with("refresh_hint", format!("{}s", refresh_hint(&core))).info("Serving bundle endpoint");
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return Ok(()),
        };
        match accepted {
            Ok((tcp, _)) => {
                let (core, acceptor, stop) = (core.clone(), acceptor.clone(), stop.clone());
                tokio::spawn(async move {
                    stop.run_until_cancelled(connection(core, acceptor, tcp)).await;
                });
            }
            // Out of descriptors, most likely: no reason to spin.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn connection(core: Arc<Core>, acceptor: TlsAcceptor, tcp: TcpStream) {
    let mut first = [0];
    let peeked = tokio::time::timeout(PATIENCE, tcp.peek(&mut first)).await;
    match (peeked, first) {
        (Ok(Ok(1)), [TLS_HANDSHAKE]) => {}
        (Ok(Ok(1)), [byte]) if byte.is_ascii_uppercase() => {
            return refuse_plain_http(tcp).await;
        }
        _ => return,
    }
    let Ok(Ok(tls)) = tokio::time::timeout(PATIENCE, acceptor.accept(tcp)).await else {
        return;
    };
    let answer = service_fn(|request: Request<Incoming>| {
        let response = respond(&core, &request);
        async { Ok::<_, Infallible>(response) }
    });
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    http.http2().timer(TokioTimer::new());
    // A connection that breaks is the client's affair.
    let _ = http.serve_connection(TokioIo::new(tls), answer).await;
}

/// Bytes left unread would turn the answer into a reset.
async fn refuse_plain_http(mut tcp: TcpStream) {
    let mut request = [0; 4096];
    let _ = tcp.read(&mut request).await;
    // The client is gone or reads it; either is fine.
    let _ = tcp.write_all(PLAIN_HTTP).await;
    let _ = tcp.shutdown().await;
}

/// The method is looked at before the path; no `Allow`, no `ETag`, no `HEAD`.
fn respond(core: &Core, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed\n");
    }
    if request.uri().path() != "/" {
        return text(StatusCode::NOT_FOUND, "404 page not found\n");
    }
    let log = core.log.subsystem("bundle_endpoint");
    let Some(bundle) = core.store.lock().own_bundle() else {
        log.error("Unable to retrieve local bundle");
        return text(StatusCode::INTERNAL_SERVER_ERROR, "500 unable to retrieve local bundle\n");
    };
    match document::render(&bundle, refresh_hint(core)) {
        Ok(document) => {
            let mut response = Response::new(Full::new(Bytes::from(document)));
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            response
        }
        Err(error) => {
            log.error_field(error).error("Unable to marshal local bundle");
            text(StatusCode::INTERNAL_SERVER_ERROR, "500 unable to marshal local bundle\n")
        }
    }
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn refresh_hint(core: &Core) -> u64 {
    core.config.refresh_hint_seconds.unwrap_or(REFRESH_HINT)
}
