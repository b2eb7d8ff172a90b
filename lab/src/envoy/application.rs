//! An application behind a proxy: knows nothing of TLS, and answers with what the proxy told it about the caller.

use std::convert::Infallible;
use std::net::SocketAddr;

use anyhow::Context;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::ports;

/// Where Envoy writes whom it has verified.
const CALLER: &str = "x-forwarded-client-cert";

/// Serves plain HTTP until it is dropped.
#[derive(Debug)]
pub struct Application {
    /// Where it listens.
    pub address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Application {
    /// Starts it.
    pub async fn start() -> anyhow::Result<Self> {
        let address = ports::loopback(ports::free()?);
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
        Ok(Self { address, accepting: tokio::spawn(accept(listener)) })
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener) {
    while let Ok((tcp, _)) = listener.accept().await {
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(tcp), service_fn(answer));
        tokio::spawn(connection);
    }
}

async fn answer(request: http::Request<Incoming>) -> Result<http::Response<Full<Bytes>>, Infallible> {
    let caller = request
        .headers()
        .get(CALLER)
        .map_or_else(Bytes::new, |value| Bytes::copy_from_slice(value.as_bytes()));
    Ok(http::Response::new(Full::new(caller)))
}
