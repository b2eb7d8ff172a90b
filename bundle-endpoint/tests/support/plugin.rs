//! A plugin as the endpoint sees one: dials the socket, says what the test wants said, signs like the real one.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use entente_bundle::Bundle;
use entente_bundle::testing::TestSvid;
use entente_proto::link::v1::endpoint_message::Message as FromEndpoint;
use entente_proto::link::v1::link_client::LinkClient;
use entente_proto::link::v1::plugin_message::Message;
use entente_proto::link::v1::relationship::{BundleEndpointProfile, Mode};
use entente_proto::link::v1::{
    EndpointMessage, HeldBundle, HttpsSpiffe, HttpsWeb, OfferOutcome, OfferedBundle, OwnBundle, PluginHello,
    PluginMessage, Relationship, Relationships, ServerIdentity, SignRequest, SignResponse, offer_outcome,
    sign_response,
};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls_pki_types::PrivatePkcs8KeyDer;
use sha2::{Digest, Sha256};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

/// What it does with signing requests.
#[derive(Clone, Debug)]
pub enum Signing {
    Refuses,
    Says(Vec<u8>),
    Signs(TestSvid),
    Silent,
}

pub struct FakePlugin {
    to: mpsc::Sender<PluginMessage>,
    offers: mpsc::UnboundedReceiver<OfferedBundle>,
    signing: Arc<Mutex<Signing>>,
    pub sign_requests: Arc<Mutex<Vec<SignRequest>>>,
    reading: JoinHandle<Status>,
}

pub async fn channel(socket: &Path) -> Channel {
    Endpoint::from_shared(format!("unix:{}", socket.display())).unwrap().connect().await.unwrap()
}

/// A message of gRPC, which begins with a zero and its length: field 1, a hello, with its own field 1, the trust domain.
pub const HELLO: &[u8] = b"\0\0\0\0\x0a\x0a\x08\x0a\x06a.test";

/// Another one, which holds no field.
pub const UNREADABLE: &[u8] = b"\0\0\0\0\x02\xff\xff";

/// A call whose body is exactly these bytes. Returns when it was refused, which is counted before.
pub async fn connects_with(socket: &Path, body: &[&[u8]]) {
    let stream = TokioIo::new(UnixStream::connect(socket).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("http://link/entente.link.v1.Link/Connect")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from(body.concat())))
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let _ = answer.into_body().collect().await;
}

impl FakePlugin {
    /// Linked as a plugin of `a.test`.
    pub async fn link(socket: &Path) -> Self {
        Self::link_as(socket, "a.test").await
    }

    pub async fn link_as(socket: &Path, trust_domain: &str) -> Self {
        let plugin = Self::open(socket).await.unwrap();
        plugin.hello(trust_domain).await;
        plugin
    }

    pub async fn hello(&self, trust_domain: &str) {
        let hello = PluginHello { trust_domain: trust_domain.into(), version: "test".into() };
        self.say(Message::Hello(hello)).await;
    }

    /// An open stream on which nothing was said.
    pub async fn open(socket: &Path) -> Result<Self, Status> {
        Self::open_on(channel(socket).await).await
    }

    /// The same on a connection of whatever kind.
    pub async fn open_on(channel: Channel) -> Result<Self, Status> {
        let (to, messages) = mpsc::channel(64);
        let mut client = LinkClient::new(channel);
        let incoming = client.connect(ReceiverStream::new(messages)).await?.into_inner();
        let (offer_sender, offers) = mpsc::unbounded_channel();
        let signing = Arc::new(Mutex::new(Signing::Silent));
        let sign_requests = Arc::default();
        let reader = Reader {
            to: to.clone(),
            offers: offer_sender,
            signing: Arc::clone(&signing),
            sign_requests: Arc::clone(&sign_requests),
        };
        Ok(Self { to, offers, signing, sign_requests, reading: tokio::spawn(reader.run(incoming)) })
    }

    pub async fn say(&self, message: Message) {
        self.to.send(PluginMessage { message: Some(message) }).await.unwrap();
    }

    pub async fn own_bundle(&self, bundle: &Bundle) {
        self.say(Message::OwnBundle(OwnBundle { bundle: Some(bundle.into()) })).await;
    }

    /// Lends this SVID and signs for it.
    pub async fn lend(&self, svid: &TestSvid) {
        self.signs(Signing::Signs(svid.clone()));
        let certificate_chain = svid.chain.iter().map(|certificate| certificate.to_vec()).collect();
        self.say(Message::ServerIdentity(ServerIdentity { certificate_chain })).await;
    }

    pub fn signs(&self, signing: Signing) {
        *self.signing.lock().unwrap() = signing;
    }

    pub async fn relationships(&self, relationships: Vec<Relationship>) {
        self.say(Message::Relationships(Relationships { relationships })).await;
    }

    pub async fn holds(&self, trust_domain: &str, bundle: Option<&Bundle>) {
        self.holds_or_authenticates(trust_domain, bundle, None).await;
    }

    pub async fn holds_or_authenticates(
        &self,
        trust_domain: &str,
        held: Option<&Bundle>,
        bootstrap: Option<&Bundle>,
    ) {
        let message = HeldBundle {
            trust_domain: trust_domain.into(),
            bundle: held.map(Into::into),
            authentication_bundle: bootstrap.map(Into::into),
            ..HeldBundle::default()
        };
        self.say(Message::HeldBundle(message)).await;
    }

    pub async fn next_offer(&mut self) -> OfferedBundle {
        timeout(Duration::from_secs(20), self.offers.recv())
            .await
            .expect("an offer comes")
            .expect("the link is up")
    }

    /// True when nothing is on offer, now that all that was said before has been heard.
    pub fn no_offer(&mut self) -> bool {
        self.offers.try_recv().is_err()
    }

    pub async fn answer(&self, offer: &OfferedBundle, outcome: offer_outcome::Outcome, reason: &str) {
        let message = OfferOutcome {
            trust_domain: offer.trust_domain.clone(),
            offer_id: offer.offer_id,
            outcome: outcome.into(),
            reason: reason.into(),
        };
        self.say(Message::OfferOutcome(message)).await;
    }

    /// How the endpoint ended the stream.
    pub async fn ended(mut self) -> Status {
        timeout(Duration::from_secs(20), &mut self.reading).await.expect("the stream ends").unwrap()
    }
}

impl Drop for FakePlugin {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

struct Reader {
    to: mpsc::Sender<PluginMessage>,
    offers: mpsc::UnboundedSender<OfferedBundle>,
    signing: Arc<Mutex<Signing>>,
    sign_requests: Arc<Mutex<Vec<SignRequest>>>,
}

impl Reader {
    async fn run(self, mut incoming: Streaming<EndpointMessage>) -> Status {
        loop {
            let message = match incoming.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return Status::new(Code::Ok, "closed"),
                Err(status) => return status,
            };
            match message.message {
                Some(FromEndpoint::OfferedBundle(offer)) => drop(self.offers.send(offer)),
                Some(FromEndpoint::SignRequest(request)) => self.sign(request).await,
                Some(FromEndpoint::Hello(_) | FromEndpoint::Heartbeat(_)) | None => {}
            }
        }
    }

    async fn sign(&self, request: SignRequest) {
        let signing = self.signing.lock().unwrap().clone();
        let result = match signing {
            Signing::Silent => None,
            Signing::Refuses => Some(sign_response::Result::Refusal("not today".into())),
            Signing::Says(bytes) => Some(sign_response::Result::Signature(bytes)),
            Signing::Signs(svid) if request.certificate_sha256 == Sha256::digest(svid.leaf()).to_vec() => {
                Some(sign_response::Result::Signature(signature(&svid, &request)))
            }
            Signing::Signs(_) => Some(sign_response::Result::Refusal("not my certificate".into())),
        };
        let request_id = request.request_id;
        self.sign_requests.lock().unwrap().push(request);
        if result.is_some() {
            let message = Message::SignResponse(SignResponse { request_id, result });
            self.to.send(PluginMessage { message: Some(message) }).await.unwrap();
        }
    }
}

fn signature(svid: &TestSvid, request: &SignRequest) -> Vec<u8> {
    let key = any_supported_type(&PrivatePkcs8KeyDer::from(svid.pkcs8.clone()).into()).unwrap();
    let scheme = SignatureScheme::from(u16::try_from(request.signature_scheme).unwrap());
    key.choose_scheme(&[scheme]).expect("a scheme of this key").sign(&request.content).unwrap()
}

/// `https_spiffe`, managed, as the server of that trust domain.
pub fn spiffe(trust_domain: &str, url: &str) -> Relationship {
    let endpoint_spiffe_id = format!("spiffe://{trust_domain}/spire/server");
    Relationship {
        trust_domain: trust_domain.into(),
        bundle_endpoint_url: url.into(),
        mode: Mode::Managed.into(),
        follow_redirects: false,
        bundle_endpoint_profile: Some(BundleEndpointProfile::HttpsSpiffe(HttpsSpiffe { endpoint_spiffe_id })),
    }
}

/// `https_web`, managed, with these authorities.
pub fn web(trust_domain: &str, url: &str, ca_certificates: &str) -> Relationship {
    let profile = HttpsWeb { ca_certificates: ca_certificates.into() };
    Relationship {
        bundle_endpoint_profile: Some(BundleEndpointProfile::HttpsWeb(profile)),
        ..spiffe(trust_domain, url)
    }
}
