//! A gRPC server that claims to be helloworld-server with whatever certificate it got hold of.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use entente_bundle::tls::{CertificateSlot, SvidVerifier, certified_key, mutual_server_config};
use entente_bundle::{Authorizer, BundleSet, SpiffeId};
use entente_proto::helloworld::v1::greeter_server::{Greeter, GreeterServer};
use entente_proto::helloworld::v1::{HelloReply, HelloRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rcgen::{CertificateParams, KeyPair, SanType};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::checks::eventually;
use crate::domain::Domain;
use crate::ports;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// A certificate chain and its key.
#[derive(Clone)]
pub struct Svid {
    chain: Vec<Vec<u8>>,
    pkcs8: Vec<u8>,
}

impl std::fmt::Debug for Svid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Svid").field("chain", &self.chain.len()).finish_non_exhaustive()
    }
}

impl Svid {
    /// From chain and key, both DER.
    pub fn new(chain: Vec<Vec<u8>>, pkcs8: Vec<u8>) -> Self {
        Self { chain, pkcs8 }
    }
    /// Has the domain's SPIRE Server sign one, as somebody could who once got at its socket.
    pub async fn mint(domain: &Domain, id: &SpiffeId) -> anyhow::Result<Self> {
        let key = KeyPair::generate().context("cannot make a key")?;
        let mut request = CertificateParams::default();
        request.subject_alt_names.push(SanType::URI(id.to_string().try_into().context("not an ASCII ID")?));
        let request = request.serialize_request(&key).context("cannot make a CSR")?;
        let chain = domain.api().mint_x509_svid(request.der().to_vec()).await?;
        Ok(Self { chain, pkcs8: key.serialize_der() })
    }
    /// Chain and key, both DER.
    pub(crate) fn parts(&self) -> (&[Vec<u8>], &[u8]) {
        (&self.chain, &self.pkcs8)
    }
    /// The leaf, DER.
    pub fn leaf(&self) -> anyhow::Result<&[u8]> {
        self.chain.first().map(Vec::as_slice).context("an empty chain")
    }
}

/// Serves until it is dropped.
#[derive(Debug)]
pub struct Impostor {
    /// Where it listens.
    pub address: SocketAddr,
    refusals: Arc<Mutex<Vec<String>>>,
    accepting: JoinHandle<()>,
}

impl Impostor {
    /// Serves Greeter with `svid`; lets every client in that the given bundles verify.
    pub async fn start(svid: &Svid, bundles: BundleSet) -> anyhow::Result<Self> {
        let slot = Arc::new(CertificateSlot::default());
        let chain = svid.chain.iter().map(|certificate| certificate.clone().into()).collect();
        slot.set(certified_key(chain, svid.pkcs8.clone())?);
        let verifier = SvidVerifier::new(Arc::new(bundles), Authorizer::AnyInBundles);
        let acceptor = TlsAcceptor::from(Arc::new(mutual_server_config(verifier, slot, &[b"h2"])?));
        let address = ports::loopback(ports::free()?);
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
        let refusals = Arc::new(Mutex::new(Vec::new()));
        let accepting = tokio::spawn(accept(listener, acceptor, Arc::clone(&refusals)));
        Ok(Self { address, refusals, accepting })
    }
    /// Why handshakes failed so far, as seen from here.
    pub fn refusals(&self) -> Vec<String> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    /// Waits until a client ends a handshake with an alert, not counting the first `known` refusals; answers what was heard.
    pub async fn hears_alert(&self, known: usize) -> anyhow::Result<String> {
        eventually("the impostor hears an alert", HANDSHAKE_TIMEOUT, async || {
            let mut heard = self.refusals().into_iter().skip(known);
            heard.find(|refusal| refusal.contains("alert")).context("it heard none")
        })
        .await
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, refusals: Arc<Mutex<Vec<String>>>) {
    while let Ok((tcp, _)) = listener.accept().await {
        let (acceptor, refusals) = (acceptor.clone(), Arc::clone(&refusals));
        tokio::spawn(async move {
            let served = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(tcp)).await;
            let reason = match served {
                Ok(Ok(tls)) => serve(tls).await.err().map(|error| error.to_string()),
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("no handshake in time".to_owned()),
            };
            refusals.lock().unwrap_or_else(PoisonError::into_inner).extend(reason);
        });
    }
}

async fn serve(tls: tokio_rustls::server::TlsStream<TcpStream>) -> Result<(), hyper::Error> {
    let service = TowerToHyperService::new(Routes::new(GreeterServer::new(Greetings)).prepare());
    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(tls), service)
        .await
}

#[derive(Debug)]
struct Greetings;

#[tonic::async_trait]
impl Greeter for Greetings {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(HelloReply { message: format!("Hello {}.", request.into_inner().name) }))
    }
}
