//! A bundle endpoint that is linked over mutual TLS, and what it saw of each handshake.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use entente_bundle::testing::{TestAuthority, TestSvid};
use entente_bundle::tls::{CertificateSlot, SvidVerifier, mutual_server_config};
use entente_bundle::{Authorizer, TrustDomain};
use rustls::{HandshakeKind, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use super::OWN;
use super::endpoint::{FakeEndpoint, Manner};

/// What it shows unless told otherwise.
pub const ENDPOINT: &str = "spiffe://own.test/bundle-endpoint";

/// How a handshake ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Handshake {
    Failed(String),
    Done { leaf: Vec<u8>, kind: HandshakeKind },
}

/// A running endpoint.
pub struct MutualEndpoint {
    pub address: SocketAddr,
    pub fake: FakeEndpoint,
    pub slot: Arc<CertificateSlot>,
    handshakes: Arc<Mutex<Vec<Handshake>>>,
    accepting: JoinHandle<()>,
}

/// A good one's TLS: lets exactly the SPIRE Server of `authority` in, and shows what is in the slot.
pub fn tls(authority: &TestAuthority, svid: &TestSvid) -> (ServerConfig, Arc<CertificateSlot>) {
    let slot = Arc::new(CertificateSlot::default());
    slot.set(svid.certified_key());
    let server = Authorizer::exact(TrustDomain::new(OWN).unwrap().spire_server_id());
    let verifier = SvidVerifier::new(Arc::new(authority.bundle()), server);
    (mutual_server_config(verifier, slot.clone(), &[b"h2"]).unwrap(), slot)
}

impl MutualEndpoint {
    pub async fn start(authority: &TestAuthority) -> Self {
        Self::start_as(authority, &authority.svid("/bundle-endpoint").build(), Manner::Good).await
    }

    pub async fn start_as(authority: &TestAuthority, svid: &TestSvid, manner: Manner) -> Self {
        let (tls, slot) = tls(authority, svid);
        Self::with_tls(tls, slot, manner).await
    }

    pub async fn with_tls(tls: ServerConfig, slot: Arc<CertificateSlot>, manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let handshakes = Arc::default();
        let (sender, incoming) = mpsc::channel(16);
        let accepting = tokio::spawn(accept(listener, tls, Arc::clone(&handshakes), sender));
        let fake = FakeEndpoint::serve(ReceiverStream::new(incoming), OWN, manner);
        Self { address, fake, slot, handshakes, accepting }
    }

    pub fn handshakes(&self) -> Vec<Handshake> {
        self.handshakes.lock().unwrap().clone()
    }

    /// Leaves that were shown to it.
    pub fn leaves(&self) -> Vec<Vec<u8>> {
        let leaf = |handshake| match handshake {
            Handshake::Done { leaf, .. } => Some(leaf),
            Handshake::Failed(_) => None,
        };
        self.handshakes().into_iter().filter_map(leaf).collect()
    }

    /// Ends all links and stops listening, as a killed endpoint does.
    pub async fn stop(self) {
        self.accepting.abort();
        self.fake.stop().await;
    }
}

async fn accept(
    listener: TcpListener,
    tls: ServerConfig,
    handshakes: Arc<Mutex<Vec<Handshake>>>,
    accepted: mpsc::Sender<io::Result<Accepted>>,
) {
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let mut running = tokio::task::JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        let (acceptor, handshakes, accepted) = (acceptor.clone(), handshakes.clone(), accepted.clone());
        running.spawn(async move {
            let stream = match acceptor.accept(tcp).into_fallible().await {
                Ok(stream) => stream,
                Err((error, mut tcp)) => {
                    handshakes.lock().unwrap().push(Handshake::Failed(error.to_string()));
                    // As the real one does, so that its alert is not lost in a reset.
                    let _ = tcp.shutdown().await;
                    let _ = tokio::io::copy(&mut tcp, &mut tokio::io::sink()).await;
                    return;
                }
            };
            let state = stream.get_ref().1;
            let leaf = state.peer_certificates().map(|chain| chain[0].to_vec()).unwrap_or_default();
            let kind = state.handshake_kind().unwrap();
            handshakes.lock().unwrap().push(Handshake::Done { leaf, kind });
            let _ = accepted.send(Ok(Accepted(stream))).await;
        });
    }
}

pub struct Accepted(TlsStream<TcpStream>);

impl Connected for Accepted {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
