//! A bundle endpoint, as far as the link goes: remembers what the plugin says, and says what the test wants.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use entente_proto::link::v1::endpoint_message::Message as FromEndpoint;
use entente_proto::link::v1::link_server::{Link, LinkServer};
use entente_proto::link::v1::plugin_message::Message as FromPlugin;
use entente_proto::link::v1::{
    Bundle, EndpointHello, EndpointMessage, Heartbeat, HeldBundle, OfferOutcome, OfferedBundle,
    PendingRemoval, PluginMessage, Relationship, ServerApi, SignRequest, sign_response,
};
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

use super::{OWN, eventually, until};

/// A running endpoint.
pub struct FakeEndpoint {
    service: Service,
    server: JoinHandle<()>,
}

#[derive(Clone)]
struct Service {
    trust_domain: String,
    manner: Manner,
    stop: CancellationToken,
    state: Arc<Mutex<State>>,
}

/// How it behaves after its hello.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    Good,
    /// Reads nothing after the first message.
    Deaf,
    /// Ends the stream.
    Hasty,
    /// Says nothing more by itself.
    Mute,
}

#[derive(Default)]
struct State {
    links: usize,
    received: Vec<FromPlugin>,
    speak: Option<mpsc::Sender<Result<EndpointMessage, Status>>>,
    next_id: u64,
}

impl FakeEndpoint {
    pub fn start(path: &Path) -> Self {
        Self::start_for(path, OWN)
    }

    pub fn start_for(path: &Path, trust_domain: &str) -> Self {
        Self::start_as(path, trust_domain, Manner::Good)
    }

    /// Says hello and nothing more by itself.
    pub fn start_mute(path: &Path) -> Self {
        Self::start_as(path, OWN, Manner::Mute)
    }

    /// Says hello and hangs up.
    pub fn start_hasty(path: &Path) -> Self {
        Self::start_as(path, OWN, Manner::Hasty)
    }

    fn start_as(path: &Path, trust_domain: &str, manner: Manner) -> Self {
        let _ = std::fs::remove_file(path);
        let incoming = UnixListenerStream::new(UnixListener::bind(path).unwrap());
        Self::serve(incoming, trust_domain, manner)
    }

    /// The same on connections of whatever kind.
    pub fn serve<S>(
        incoming: impl Stream<Item = io::Result<S>> + Send + 'static,
        trust_domain: &str,
        manner: Manner,
    ) -> Self
    where
        S: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
        let service = Service {
            trust_domain: trust_domain.into(),
            manner,
            stop: CancellationToken::new(),
            state: Arc::default(),
        };
        let stop = service.stop.clone().cancelled_owned();
        let server = Server::builder().add_service(LinkServer::new(service.clone()));
        let server =
            tokio::spawn(async move { server.serve_with_incoming_shutdown(incoming, stop).await.unwrap() });
        Self { service, server }
    }

    /// Ends all links and stops listening, as a killed endpoint does.
    pub async fn stop(self) {
        self.service.stop.cancel();
        self.server.await.unwrap();
    }

    pub fn links(&self) -> usize {
        self.service.state.lock().unwrap().links
    }

    /// Everything that was received, oldest first.
    pub fn received(&self) -> Vec<FromPlugin> {
        self.service.state.lock().unwrap().received.clone()
    }

    /// Waits for a message that `pick` likes; looks at the newest first.
    pub async fn wait<T>(&self, what: &str, mut pick: impl FnMut(FromPlugin) -> Option<T>) -> T {
        eventually(what, || self.received().into_iter().rev().find_map(&mut pick)).await
    }

    pub async fn wait_own_bundle(&self, sequence_number: u64) -> Bundle {
        self.wait(&format!("own bundle {sequence_number}"), |message| match message {
            FromPlugin::OwnBundle(own) => {
                own.bundle.filter(|one| one.sequence_number == Some(sequence_number))
            }
            _ => None,
        })
        .await
    }

    /// The newest relationships, when `check` likes them.
    pub async fn wait_relationships(&self, check: impl Fn(&[Relationship]) -> bool) -> Vec<Relationship> {
        eventually("relationships", || {
            let newest = self.received().into_iter().rev().find_map(|message| match message {
                FromPlugin::Relationships(all) => Some(all.relationships),
                _ => None,
            });
            newest.filter(|newest| check(newest))
        })
        .await
    }

    /// The newest held bundle of a trust domain, when `check` likes it.
    pub async fn wait_held(&self, trust_domain: &str, check: impl Fn(&HeldBundle) -> bool) -> HeldBundle {
        eventually(&format!("held bundle of {trust_domain}"), || {
            let newest = self.received().into_iter().rev().find_map(|message| match message {
                FromPlugin::HeldBundle(held) if held.trust_domain == trust_domain => Some(held),
                _ => None,
            });
            newest.filter(|newest| check(newest))
        })
        .await
    }

    /// Why the bundle of this trust domain is not removed yet, as told last.
    pub async fn wait_pending_removal(&self, trust_domain: &str) -> String {
        eventually(&format!("what keeps the bundle of {trust_domain}"), || {
            let one = self.pending_removals().into_iter().find(|one| one.trust_domain == trust_domain)?;
            Some(one.reason).filter(|reason| !reason.is_empty())
        })
        .await
    }

    pub async fn wait_no_pending_removal(&self) {
        until("no removal is pending", || self.pending_removals().is_empty()).await;
    }

    fn pending_removals(&self) -> Vec<PendingRemoval> {
        let newest = self.received().into_iter().rev().find_map(|message| match message {
            FromPlugin::PendingRemovals(all) => Some(all.removals),
            _ => None,
        });
        newest.unwrap_or_default()
    }

    /// The newest word on SPIRE's API, when `check` likes it.
    pub async fn wait_server_api(&self, check: impl Fn(&ServerApi) -> bool) -> ServerApi {
        eventually("the state of spire's api", || {
            let newest = self.received().into_iter().rev().find_map(|message| match message {
                FromPlugin::ServerApi(state) => Some(state),
                _ => None,
            });
            newest.filter(|newest| check(newest))
        })
        .await
    }

    pub async fn say(&self, message: FromEndpoint) {
        let speak = eventually("a link", || self.service.state.lock().unwrap().speak.clone()).await;
        // Unheard where the link has ended meanwhile.
        let _ = speak.send(Ok(EndpointMessage { message: Some(message) })).await;
    }

    /// Offers without waiting; returns the offer's number.
    pub async fn offer(&self, trust_domain: &str, bundle: Option<Bundle>) -> u64 {
        let offer_id = self.next_id();
        self.say(FromEndpoint::OfferedBundle(OfferedBundle {
            trust_domain: trust_domain.into(),
            bundle,
            bundle_endpoint_url: "https://x".into(),
            offer_id,
        }))
        .await;
        offer_id
    }

    pub async fn wait_outcome(&self, offer_id: u64) -> OfferOutcome {
        self.wait(&format!("outcome of offer {offer_id}"), |message| match message {
            FromPlugin::OfferOutcome(outcome) if outcome.offer_id == offer_id => Some(outcome),
            _ => None,
        })
        .await
    }

    pub async fn offer_and_wait(&self, trust_domain: &str, bundle: &entente_bundle::Bundle) -> OfferOutcome {
        let offer_id = self.offer(trust_domain, Some(Bundle::from(bundle))).await;
        self.wait_outcome(offer_id).await
    }

    pub async fn sign(&self, leaf: &[u8], scheme: u32, content: &[u8]) -> sign_response::Result {
        let request_id = self.next_id();
        self.say(FromEndpoint::SignRequest(SignRequest {
            request_id,
            certificate_sha256: leaf.into(),
            signature_scheme: scheme,
            content: content.into(),
        }))
        .await;
        self.wait("a signature or a refusal", |message| match message {
            FromPlugin::SignResponse(response) if response.request_id == request_id => response.result,
            _ => None,
        })
        .await
    }

    fn next_id(&self) -> u64 {
        let mut state = self.service.state.lock().unwrap();
        state.next_id += 1;
        state.next_id
    }
}

#[tonic::async_trait]
impl Link for Service {
    type ConnectStream = BoxStream<'static, Result<EndpointMessage, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<PluginMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let (speak, said) = mpsc::channel(64);
        let hello = EndpointHello { trust_domain: self.trust_domain.clone(), version: "test".into() };
        speak.try_send(Ok(EndpointMessage { message: Some(FromEndpoint::Hello(hello)) })).unwrap();
        {
            let mut state = self.state.lock().unwrap();
            state.links += 1;
            state.received.clear();
            state.speak = Some(speak.clone());
        }
        if self.manner == Manner::Hasty {
            self.state.lock().unwrap().speak = None;
            return Ok(Response::new(ReceiverStream::new(said).boxed()));
        }
        let is_mute = self.manner == Manner::Mute;
        tokio::spawn(async move {
            let heartbeat = || EndpointMessage { message: Some(FromEndpoint::Heartbeat(Heartbeat {})) };
            while !is_mute && speak.send(Ok(heartbeat())).await.is_ok() {
                tokio::time::sleep(Duration::from_secs(10)).await;
            }
        });
        let mut inbound = request.into_inner();
        let state = self.state.clone();
        let is_deaf = self.manner == Manner::Deaf;
        tokio::spawn(async move {
            while let Ok(Some(message)) = inbound.message().await {
                state.lock().unwrap().received.extend(message.message);
                if is_deaf {
                    std::future::pending::<()>().await;
                }
            }
        });
        let stop = self.stop.clone().cancelled_owned();
        Ok(Response::new(ReceiverStream::new(said).take_until(stop).boxed()))
    }
}
