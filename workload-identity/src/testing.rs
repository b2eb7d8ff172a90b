//! A Workload API that a test drives: what it answers is set from outside, and it can go away and come back.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use entente_bundle::Bundle;
use entente_bundle::testing::TestSvid;
use entente_proto::workload::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use entente_proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest,
    X509svidResponse,
};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{UnixListenerStream, WatchStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Request, Response, Status};

/// One full state, as an agent would send it.
#[derive(Clone, Debug)]
pub struct Update(X509svidResponse);

impl Update {
    /// Our SVID and our own bundle, federated with nobody.
    pub fn new(svid: &TestSvid, own: &Bundle) -> Self {
        Self(X509svidResponse::default()).with_svid(svid, own)
    }

    /// One more SVID, with the bundle that comes with it.
    #[must_use]
    pub fn with_svid(mut self, svid: &TestSvid, own: &Bundle) -> Self {
        let leaf = svid.chain.first().and_then(|leaf| entente_bundle::svid::leaf_id(leaf).ok());
        self.0.svids.push(X509svid {
            spiffe_id: leaf.map(|id| id.to_string()).unwrap_or_default(),
            x509_svid: svid.chain.iter().flat_map(|certificate| certificate.to_vec()).collect(),
            x509_svid_key: svid.pkcs8.clone(),
            bundle: authorities(own),
            hint: String::new(),
        });
        self
    }

    /// One more foreign trust domain.
    #[must_use]
    pub fn with_federated(mut self, bundle: &Bundle) -> Self {
        self.0.federated_bundles.insert(bundle.trust_domain().id_string(), authorities(bundle));
        self
    }

    /// The message, to be spoilt.
    pub fn into_response(self) -> X509svidResponse {
        self.0
    }
}

impl From<X509svidResponse> for Update {
    fn from(response: X509svidResponse) -> Self {
        Self(response)
    }
}

fn authorities(bundle: &Bundle) -> Vec<u8> {
    bundle.x509_authorities().iter().flat_map(|authority| authority.der().to_vec()).collect()
}

/// What the fake answers at this moment.
#[derive(Clone, Debug)]
enum Answer {
    Failure(Code, String),
    Update(Update),
}

/// A Workload API on a unix socket. It denies everybody until it is told otherwise.
#[derive(Debug)]
pub struct FakeWorkloadApi {
    path: PathBuf,
    answer: watch::Sender<Answer>,
    calls: Arc<AtomicUsize>,
    serving: Option<JoinHandle<()>>,
}

impl FakeWorkloadApi {
    /// Listens at `path`.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(path: impl Into<PathBuf>) -> io::Result<Self> {
        let (answer, calls) = (watch::Sender::new(denial()), Arc::default());
        let mut fake = Self { path: path.into(), answer, calls, serving: None };
        fake.come_back()?;
        Ok(fake)
    }

    /// For `SPIFFE_ENDPOINT_SOCKET`.
    pub fn address(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    /// Where the socket is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sends this to every open stream, and to those that come.
    pub fn give(&self, update: Update) {
        self.answer.send_replace(Answer::Update(update));
    }

    /// Ends every open stream with `PERMISSION_DENIED`, in the words of SPIRE, and refuses those that come.
    pub fn deny(&self) {
        self.answer.send_replace(denial());
    }

    /// The same with another code.
    pub fn fail(&self, code: Code, message: &str) {
        self.answer.send_replace(Answer::Failure(code, message.into()));
    }

    /// How many calls arrived with the security header.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// Ends every connection and removes the socket, as an agent that stops.
    pub fn go_away(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
        let _ = std::fs::remove_file(&self.path);
    }

    /// Listens again at the same path.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn come_back(&mut self) -> io::Result<()> {
        let listener = UnixListener::bind(&self.path)?;
        let service = Service { answer: self.answer.subscribe(), calls: self.calls.clone() };
        self.serving = Some(tokio::spawn(serve(listener, service)));
        Ok(())
    }
}

impl Drop for FakeWorkloadApi {
    fn drop(&mut self) {
        self.go_away();
    }
}

fn denial() -> Answer {
    Answer::Failure(Code::PermissionDenied, "no identity issued".into())
}

/// Serves each connection in a task that ends with this one, so that going away is sudden.
async fn serve(listener: UnixListener, service: Service) {
    let mut accepted = UnixListenerStream::new(listener);
    let mut connections = tokio::task::JoinSet::new();
    while let Some(Ok(stream)) = accepted.next().await {
        let service = SpiffeWorkloadApiServer::new(service.clone());
        connections.spawn(async move {
            let io = hyper_util::rt::TokioIo::new(stream);
            let service = hyper_util::service::TowerToHyperService::new(service);
            let executor = hyper_util::rt::TokioExecutor::new();
            let _ = hyper::server::conn::http2::Builder::new(executor).serve_connection(io, service).await;
        });
    }
}

#[derive(Clone)]
struct Service {
    answer: watch::Receiver<Answer>,
    calls: Arc<AtomicUsize>,
}

impl Service {
    /// SPIRE wants the header exactly once, spelt exactly so.
    fn admit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let mut values = request.metadata().get_all("workload.spiffe.io").iter();
        if values.next().is_none_or(|value| value != "true") || values.next().is_some() {
            return Err(Status::invalid_argument("security header missing from request"));
        }
        self.calls.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn answers(&self) -> impl Stream<Item = Result<Update, Status>> + Send + 'static + use<> {
        WatchStream::new(self.answer.clone()).map(|answer| match answer {
            Answer::Failure(code, message) => Err(Status::new(code, message)),
            Answer::Update(update) => Ok(update),
        })
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SpiffeWorkloadApi for Service {
    type FetchX509SVIDStream = Answers<X509svidResponse>;
    type FetchX509BundlesStream = Answers<X509BundlesResponse>;
    type FetchJWTBundlesStream = Answers<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.admit(&request)?;
        Ok(Response::new(Box::pin(self.answers().map(|answer| answer.map(Update::into_response)))))
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn fetch_jwtsvid(&self, _: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn fetch_jwt_bundles(
        &self,
        _: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }
}
