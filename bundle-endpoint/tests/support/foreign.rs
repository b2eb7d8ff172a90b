//! A foreign bundle endpoint that says what the test wants, well-formed or not.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use entente_bundle::testing::{TestAuthority, TestSvid};
use entente_bundle::tls::{CertificateSlot, public_server_config};
use entente_bundle::{Bundle, document};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How it answers a request.
#[derive(Clone, Debug)]
pub enum Says {
    /// These bytes after the request, then the end of the connection.
    Bytes(Vec<u8>),
    /// These bytes over and over.
    Endless(Vec<u8>),
    /// Nothing, the connection stays open.
    Nothing,
    /// This document, properly.
    Document(Vec<u8>),
}

pub struct Foreign {
    pub address: SocketAddr,
    pub slot: Arc<CertificateSlot>,
    says: Arc<Mutex<Says>>,
    requests: Arc<AtomicUsize>,
    pub last_request: Arc<Mutex<String>>,
    serving: JoinHandle<()>,
}

impl Foreign {
    /// `https_spiffe` as the SPIRE Server of `authority`'s trust domain, with its bundle.
    pub async fn honest(authority: &TestAuthority) -> Self {
        let bundle = authority.bundle_with(Some(1), Some(Duration::from_secs(300)));
        Self::new(&authority.svid("/spire/server").build(), Says::Document(document::render(&bundle))).await
    }

    pub async fn new(svid: &TestSvid, says: Says) -> Self {
        Self::with_key(svid.certified_key(), says).await
    }

    pub async fn with_key(key: Arc<CertifiedKey>, says: Says) -> Self {
        let slot = Arc::new(CertificateSlot::default());
        slot.set(key);
        let resolver = Arc::clone(&slot);
        let config = public_server_config(resolver, &[&TLS13, &TLS12], &[b"http/1.1"]).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let says = Arc::new(Mutex::new(says));
        let requests = Arc::new(AtomicUsize::new(0));
        let last_request = Arc::default();
        let answering = Answering {
            says: Arc::clone(&says),
            requests: Arc::clone(&requests),
            last: Arc::clone(&last_request),
        };
        let serving = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, answering) = (acceptor.clone(), answering.clone());
                tokio::spawn(async move { answering.serve(acceptor, tcp).await });
            }
        });
        Self { address, slot, says, requests, last_request, serving }
    }

    pub fn url(&self) -> String {
        format!("https://{}/", self.address)
    }

    pub fn says(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    pub fn serves(&self, bundle: &Bundle) {
        self.says(Says::Document(document::render(bundle)));
    }

    /// Requests that came through the handshake.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

#[derive(Clone)]
struct Answering {
    says: Arc<Mutex<Says>>,
    requests: Arc<AtomicUsize>,
    last: Arc<Mutex<String>>,
}

impl Answering {
    async fn serve(&self, acceptor: TlsAcceptor, tcp: TcpStream) -> Option<()> {
        let mut stream = acceptor.accept(tcp).await.ok()?;
        let request = head(&mut stream).await?;
        *self.last.lock().unwrap() = request;
        self.requests.fetch_add(1, Ordering::SeqCst);
        let says = self.says.lock().unwrap().clone();
        match says {
            Says::Bytes(bytes) => stream.write_all(&bytes).await.ok()?,
            Says::Document(document) => stream.write_all(&ok(&document)).await.ok()?,
            Says::Endless(bytes) => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n").await.ok()?;
                loop {
                    stream.write_all(&bytes).await.ok()?;
                }
            }
            Says::Nothing => std::future::pending().await,
        }
        stream.shutdown().await.ok()
    }
}

async fn head(stream: &mut TlsStream<TcpStream>) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

/// A good answer with this body.
pub fn ok(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// A redirect.
pub fn redirect(status: u16, location: &str) -> Says {
    Says::Bytes(
        format!("HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n").into_bytes(),
    )
}
