//! One connection to the endpoint, from hello to its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use entente_bundle::causes::chain;
use entente_proto::link::v1 as wire;
use entente_proto::link::v1::endpoint_message::Message as FromEndpoint;
use entente_proto::link::v1::link_client::LinkClient;
use entente_proto::link::v1::plugin_message::Message as FromPlugin;
use entente_proto::link::v1::sign_response::Result as SignResult;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};
use tracing::{debug, warn};

use super::Target;
use super::connection::{Connection, Io};
use super::error::LinkError;
use super::replay::Replay;
use crate::counters::Counter;
use crate::federation::Federation;
use crate::rate_limit::LineKind;
use crate::signing::{self, Lending, Refusal, SigningRequest};
use crate::state::Shared;

/// Longest wait for anything at all from the endpoint.
pub(super) const SILENCE: Duration = Duration::from_secs(30);

/// After this long without a message of ours, a heartbeat.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Longest wait for the answer to our hello.
const HELLO: Duration = Duration::from_secs(10);

/// State that may wait for the endpoint to read it. One message, because the next one is made of what is true then.
const STATE: usize = 1;

/// Signatures that may wait for the endpoint to read them.
const SIGNATURES: usize = 64;

/// Answers to offers that may wait for the endpoint to read them.
const OUTCOMES: usize = 1024;

/// Largest message that we take: a foreign bundle has at most a mebibyte as JSON.
const MAX_MESSAGE: usize = 4 << 20;

/// The far end of a link, whichever connection leads to it: what it says is judged apart from what the others say.
#[derive(Debug)]
pub(crate) struct Origin {
    /// For the log.
    pub(crate) endpoint: String,
}

/// A link on which both sides have said hello.
pub(super) struct Opened {
    inbound: Streaming<wire::EndpointMessage>,
    state: Outbox,
    signatures: Outbox,
    outcomes: Outcomes,
}

/// Says hello on a connection and hears the endpoint's.
pub(super) async fn open(target: &Target, connection: Connection) -> Result<Opened, LinkError> {
    let Connection { stream, peer } = connection;
    let (state, waiting_state) = mpsc::channel(STATE);
    let (signatures, waiting_signatures) = mpsc::channel(SIGNATURES);
    let (outcomes, waiting_outcomes) = mpsc::channel(OUTCOMES);
    let hello = wire::PluginHello {
        trust_domain: target.trust_domain.to_string(),
        version: env!("CARGO_PKG_VERSION").into(),
    };
    // Apart, so that a state of many messages holds up no signature.
    let waiting = ReceiverStream::new(waiting_signatures)
        .merge(ReceiverStream::new(waiting_outcomes))
        .merge(ReceiverStream::new(waiting_state));
    let outbound = tokio_stream::once(message(FromPlugin::Hello(hello))).chain(waiting);
    let greeting = async {
        let channel = channel(stream).await?;
        if !peer.speaks_first().await {
            return Err(LinkError::Ended);
        }
        let mut client = LinkClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let mut inbound = client.connect(outbound).await.map_err(|status| failed(&status))?.into_inner();
        match inbound.message().await.map_err(|status| failed(&status))? {
            Some(wire::EndpointMessage { message: Some(FromEndpoint::Hello(hello)) }) => {
                check(target, hello)?
            }
            Some(_) => return Err(LinkError::NoHello),
            None => return Err(LinkError::Ended),
        }
        Ok(inbound)
    };
    let inbound = tokio::time::timeout(HELLO, greeting).await.map_err(|_| LinkError::NoHello)??;
    let outcomes = Outcomes { waiting: outcomes, overflowed: CancellationToken::new() };
    Ok(Opened { inbound, state: Outbox(state), signatures: Outbox(signatures), outcomes })
}

impl Opened {
    /// Runs until the link ends, and says why.
    pub(super) async fn serve(
        mut self,
        shared: &Shared,
        federation: &Arc<Federation>,
        origin: &Arc<Origin>,
    ) -> LinkError {
        let reader = Reader {
            shared,
            federation,
            origin,
            lending: shared.signatures.lend(&origin.endpoint, Instant::now()),
            signatures: &self.signatures,
            outcomes: &self.outcomes,
        };
        let end = tokio::select! {
            end = reader.run(&mut self.inbound) => end,
            end = write(shared, &self.state) => end,
            () = self.outcomes.overflowed.cancelled() => Err(LinkError::Stalled),
        };
        end.err().unwrap_or(LinkError::Ended)
    }
}

fn check(target: &Target, hello: wire::EndpointHello) -> Result<(), LinkError> {
    if hello.trust_domain != target.trust_domain.as_str() {
        let presented = hello.trust_domain.chars().take(255).collect();
        return Err(LinkError::OtherTrustDomain { expected: target.trust_domain.clone(), presented });
    }
    debug!(version = hello.version.chars().take(80).collect::<String>(), "endpoint said hello");
    Ok(())
}

/// HTTP/2 over a connection that is there already: never dialled again, because a new one needs a new hello.
async fn channel(stream: Box<dyn Io>) -> Result<Channel, LinkError> {
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_: http::Uri| {
        let taken = stream.take().ok_or_else(|| std::io::Error::other("the link is gone"));
        async move { taken }
    });
    let connected = Endpoint::from_static("http://link").connect_with_connector(connector).await;
    connected.map_err(|error| LinkError::Stream { text: chain(&error) })
}

fn failed(status: &tonic::Status) -> LinkError {
    LinkError::Stream { text: chain(status) }
}

pub(super) fn message(message: FromPlugin) -> wire::PluginMessage {
    wire::PluginMessage { message: Some(message) }
}

/// Messages on their way; one that the endpoint does not take in time ends the link.
pub(super) struct Outbox(mpsc::Sender<wire::PluginMessage>);

impl Outbox {
    pub(super) async fn send(&self, what: FromPlugin) -> Result<(), LinkError> {
        match self.0.send_timeout(message(what), SILENCE).await {
            Ok(()) => Ok(()),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(LinkError::Stalled),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(LinkError::Ended),
        }
    }
}

/// What becomes of the offers that came over one link. Nobody waits for an endpoint that does not read: it loses the link, and
/// offers again when it is back.
#[derive(Clone, Debug)]
pub(crate) struct Outcomes {
    waiting: mpsc::Sender<wire::PluginMessage>,
    overflowed: CancellationToken,
}

impl Outcomes {
    pub(crate) fn tell(&self, outcome: wire::OfferOutcome) {
        let told = self.waiting.try_send(message(FromPlugin::OfferOutcome(outcome)));
        if matches!(told, Err(mpsc::error::TrySendError::Full(_))) {
            self.overflowed.cancel();
        }
    }
}

/// Replays the whole state, then sends what changes.
async fn write(shared: &Shared, outbox: &Outbox) -> Result<(), LinkError> {
    // All subscribed before the first look, so that no change falls between.
    let mut config = shared.config.subscribe();
    let mut own_bundle = shared.own_bundle.subscribe();
    let mut identities = shared.identities.subscribe();
    let mut spire_relationships = shared.spire_relationships.subscribe();
    let mut held = shared.held.subscribe();
    let mut keeping = shared.keeping.subscribe();
    let mut api_trouble = shared.api_trouble.subscribe();
    let mut removals = shared.removals.subscribe();
    let mut replay = Replay::default();
    let mut last_sent = tokio::time::Instant::now();
    loop {
        if replay.send_changes(shared, outbox).await? {
            last_sent = tokio::time::Instant::now();
        }
        if last_sent.elapsed() >= HEARTBEAT {
            outbox.send(FromPlugin::Heartbeat(wire::Heartbeat {})).await?;
            last_sent = tokio::time::Instant::now();
        }
        let is_closed = tokio::select! {
            changed = config.changed() => changed.is_err(),
            changed = own_bundle.changed() => changed.is_err(),
            changed = identities.changed() => changed.is_err(),
            changed = spire_relationships.changed() => changed.is_err(),
            changed = held.changed() => changed.is_err(),
            changed = keeping.changed() => changed.is_err(),
            changed = api_trouble.changed() => changed.is_err(),
            changed = removals.changed() => changed.is_err(),
            () = tokio::time::sleep_until(last_sent + HEARTBEAT) => false,
        };
        if is_closed {
            return Ok(());
        }
    }
}

/// Handles what the endpoint says.
struct Reader<'a> {
    shared: &'a Shared,
    federation: &'a Arc<Federation>,
    origin: &'a Arc<Origin>,
    lending: Lending<'a>,
    signatures: &'a Outbox,
    outcomes: &'a Outcomes,
}

impl Reader<'_> {
    async fn run(&self, inbound: &mut Streaming<wire::EndpointMessage>) -> Result<(), LinkError> {
        loop {
            let next =
                tokio::time::timeout(SILENCE, inbound.message()).await.map_err(|_| LinkError::Silent)?;
            let Some(next) = next.map_err(|status| failed(&status))? else {
                return Err(LinkError::Ended);
            };
            match next.message {
                Some(FromEndpoint::Heartbeat(_)) => {}
                Some(FromEndpoint::OfferedBundle(offer)) => {
                    self.federation.offer(offer, self.outcomes.clone(), Arc::clone(self.origin));
                }
                Some(FromEndpoint::SignRequest(request)) => self.answer(&request).await?,
                Some(FromEndpoint::Hello(_)) => self.refuse("hello_again"),
                None => self.refuse("unknown"),
            }
        }
    }

    /// A newer endpoint may say what we do not know; that is no reason to hang up.
    fn refuse(&self, reason: &'static str) {
        let endpoint = &self.origin.endpoint;
        if self.shared.endpoint_lines.may_detail(endpoint, LineKind::Message) {
            debug!(endpoint, reason, "message of the endpoint makes no sense here");
        }
        self.shared.counters.add(Counter::LinkMessagesRefused { reason });
    }

    async fn answer(&self, request: &wire::SignRequest) -> Result<(), LinkError> {
        let result = match self.sign(request) {
            Ok(signature) => {
                self.shared.counters.add(Counter::Signatures { outcome: "granted" });
                SignResult::Signature(signature)
            }
            Err(refusal) => {
                self.shared.counters.add(Counter::Signatures { outcome: refusal.word() });
                SignResult::Refusal(refusal.to_string())
            }
        };
        let response = wire::SignResponse { request_id: request.request_id, result: Some(result) };
        self.signatures.send(FromPlugin::SignResponse(response)).await
    }

    fn sign(&self, request: &wire::SignRequest) -> Result<Vec<u8>, Refusal> {
        let signed = if self.shared.config().is_some_and(|config| config.serve_as_server) {
            let request = SigningRequest {
                certificate_sha256: &request.certificate_sha256,
                signature_scheme: request.signature_scheme,
                content: &request.content,
            };
            signing::sign(&request, &self.shared.identities.keys(), &self.lending, Instant::now())
        } else {
            Err(Refusal::SwitchedOff)
        };
        let (lines, endpoint) = (&self.shared.endpoint_lines, &self.origin.endpoint);
        signed.inspect_err(|refusal| match refusal {
            // Only somebody who is up to no good, or a defect, asks for these.
            Refusal::Content | Refusal::Scheme { .. } if lines.may_warn(endpoint, LineKind::Signature) => {
                warn!(endpoint, %refusal, "signature refused");
            }
            Refusal::Content | Refusal::Scheme { .. } => {}
            _ if lines.may_detail(endpoint, LineKind::Signature) => {
                debug!(endpoint, %refusal, "signature refused")
            }
            _ => {}
        })
    }
}
