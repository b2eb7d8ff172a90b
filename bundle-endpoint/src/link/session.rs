//! One stream of one plugin, from its Hello to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use entente_bundle::text::{printable, rfc3339};
use entente_proto::link::v1::endpoint_message::Message as ToPlugin;
use entente_proto::link::v1::link_server::Link;
use entente_proto::link::v1::plugin_message::Message as FromPlugin;
use entente_proto::link::v1::sign_response::Result as SignResult;
use entente_proto::link::v1::{
    EndpointHello, EndpointMessage, HeldBundle, OfferOutcome, OwnBundle,
    PendingRemovals as PendingRemovalsMessage, PluginHello, PluginMessage, Relationship,
    Relationships as RelationshipsMessage, ServerApi as ServerApiMessage, ServerIdentity, SignResponse,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::{Instrument, debug, info, info_span};

use super::hub::{Hub, LinkId, LinkInfo, Relationships};
use super::lines::{self, Lines, LinkLines};
use super::signing::SignQueue;
use super::spire::ServerApi;
use super::stream::LinkPeer;
use super::wire::{self, MessageError};
use super::writer::{ToPluginSender, Writer};
use crate::federation::relationship::FederationRelationship;
use crate::identity::keyless::LentIdentity;
use crate::logging::chain;

/// Sent when there was nothing else to say for so long.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(10);

/// Silence of the other side that ends a link.
const SILENCE: Duration = Duration::from_secs(30);

/// What is said about a message that is not taken.
const MESSAGE_REFUSED: &str = "message of the plugin refused";

/// What is said about a certificate chain that we may show.
const LENT: &str = "server identity lent";

/// What is said about an answer to an offer.
const ANSWERED: &str = "offered bundle answered";

/// The gRPC service behind the socket.
#[derive(Clone, Debug)]
pub(crate) struct LinkService {
    hub: Arc<Hub>,
    lines: Arc<Lines>,
    stop: CancellationToken,
}

impl LinkService {
    pub(crate) fn new(hub: Arc<Hub>, stop: CancellationToken) -> Self {
        let lines = Arc::new(Lines::new(Arc::clone(&hub.metrics), lines::INTERVAL));
        Self { hub, lines, stop }
    }
}

#[tonic::async_trait]
impl Link for LinkService {
    type ConnectStream = ReceiverStream<Result<EndpointMessage, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<PluginMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let peer = request.extensions().get::<LinkPeer>().cloned();
        let peer = peer.ok_or_else(|| Status::unauthenticated("it is not known who the peer is"))?;
        if let LinkPeer::Local(peer) = &peer
            && !peer.allowed
        {
            // The socket has logged and counted it.
            return Err(Status::permission_denied(format!(
                "user id {} may not link: name it in [link] allowed_uids of the bundle endpoint",
                peer.uid
            )));
        }
        let (sender, receiver) = mpsc::channel(16);
        let span = info_span!(
            "link",
            uid = peer.uid(),
            pid = peer.pid(),
            connection = peer.connection(),
            peer = peer.address().map(tracing::field::display),
            spiffe_id = peer.spiffe_id().map(tracing::field::display),
        );
        let session = Session {
            hub: Arc::clone(&self.hub),
            lines: Arc::clone(&self.lines),
            peer,
            sender,
            stop: self.stop.clone(),
        };
        tokio::spawn(session.run(request.into_inner()).instrument(span));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

struct Session {
    hub: Arc<Hub>,
    lines: Arc<Lines>,
    peer: LinkPeer,
    sender: ToPluginSender,
    stop: CancellationToken,
}

/// What a session knows once the plugin has said who it is.
struct Linked {
    hub: Arc<Hub>,
    lines: Arc<Lines>,
    peer: LinkPeer,
    id: LinkId,
    queue: Arc<SignQueue>,
    has_lent: AtomicBool,
}

impl Session {
    async fn run(self, mut incoming: Streaming<PluginMessage>) {
        let hello = EndpointHello {
            trust_domain: self.hub.trust_domain().to_string(),
            version: crate::VERSION.into(),
        };
        if self.send(ToPlugin::Hello(hello)).await.is_err() {
            return;
        }
        let opened = tokio::select! {
            () = self.stop.cancelled() => Err(Status::unavailable("the bundle endpoint is shutting down")),
            opened = self.first_message(&mut incoming) => opened,
        };
        let ended = match opened {
            Ok(hello) => self.linked(hello, incoming).await,
            Err(status) => status,
        };
        if ended.code() != Code::Ok {
            // A plugin that is gone or does not read cannot hear it.
            let _ = self.sender.send_timeout(Err(ended), Duration::from_secs(1)).await;
        }
    }

    async fn send(&self, message: ToPlugin) -> Result<(), ()> {
        self.sender.send(Ok(EndpointMessage { message: Some(message) })).await.map_err(drop)
    }

    async fn first_message(&self, incoming: &mut Streaming<PluginMessage>) -> Result<PluginHello, Status> {
        let refuse = |reason: &'static str, status: Status| {
            self.lines.refused(&self.peer, "link refused", reason, status.message());
            status
        };
        let first = timeout(HEARTBEAT, incoming.message()).await;
        let Ok(first) = first else {
            return Err(refuse("no_hello", Status::deadline_exceeded("no hello came")));
        };
        let first = first.map_err(|status| refuse(broken(&status).unwrap_or("no_hello"), status))?;
        let Some(PluginMessage { message: Some(FromPlugin::Hello(hello)) }) = first else {
            return Err(refuse("no_hello", Status::invalid_argument("the first message must be a hello")));
        };
        if hello.trust_domain != self.hub.trust_domain().as_str() {
            let presented = printable(&hello.trust_domain, 255);
            let text = format!(
                "this bundle endpoint is of trust domain {}, the plugin is of {presented}: \
                 check `endpoint` in the plugin's configuration and `trust_domain` in the endpoint's",
                self.hub.trust_domain()
            );
            return Err(refuse("other_trust_domain", Status::failed_precondition(text)));
        }
        Ok(hello)
    }

    async fn linked(&self, hello: PluginHello, mut incoming: Streaming<PluginMessage>) -> Status {
        let info = LinkInfo {
            plugin_version: printable(&hello.version, 50),
            peer: self.peer.clone(),
            since: SystemTime::now(),
            lends: None,
        };
        let lines = LinkLines::linked(&self.lines, &self.peer, &info.plugin_version);
        let (queue, requests) = SignQueue::new(Arc::clone(&self.hub.sign_places));
        let linked = Linked {
            hub: Arc::clone(&self.hub),
            lines: Arc::clone(&self.lines),
            peer: self.peer.clone(),
            id: self.hub.open(info),
            queue,
            has_lent: AtomicBool::new(false),
        };
        let writer = Writer::new(Arc::clone(&self.hub), self.sender.clone());
        let writer = AbortOnDropHandle::new(tokio::spawn(writer.run(requests)));
        let ended = tokio::select! {
            () = self.stop.cancelled() => Status::unavailable("the bundle endpoint is shutting down"),
            ended = linked.read(&mut incoming) => ended,
        };
        drop(writer);
        lines.ended(&ended);
        ended
    }
}

impl Drop for Linked {
    fn drop(&mut self) {
        self.queue.close();
        self.hub.close(self.id);
    }
}

impl Linked {
    async fn read(&self, incoming: &mut Streaming<PluginMessage>) -> Status {
        loop {
            match timeout(SILENCE, incoming.message()).await {
                Ok(Ok(Some(message))) => self.take(message),
                Ok(Ok(None)) => return Status::ok("the plugin closed the link"),
                Ok(Err(status)) => {
                    if let Some(reason) = broken(&status) {
                        self.lines.refused(&self.peer, MESSAGE_REFUSED, reason, status.message());
                    }
                    return status;
                }
                Err(_) => return Status::deadline_exceeded("nothing was heard of the plugin"),
            }
        }
    }

    fn take(&self, message: PluginMessage) {
        let taken = match message.message {
            Some(FromPlugin::OwnBundle(message)) => self.own_bundle(&message),
            Some(FromPlugin::ServerIdentity(message)) => {
                self.server_identity(message);
                Ok(())
            }
            Some(FromPlugin::Relationships(message)) => {
                self.relationships(message);
                Ok(())
            }
            Some(FromPlugin::HeldBundle(message)) => self.held_bundle(&message),
            Some(FromPlugin::ServerApi(message)) => {
                self.server_api(message);
                Ok(())
            }
            Some(FromPlugin::PendingRemovals(message)) => self.pending_removals(message),
            Some(FromPlugin::OfferOutcome(message)) => self.offer_outcome(&message),
            Some(FromPlugin::SignResponse(message)) => {
                self.sign_response(message);
                Ok(())
            }
            // A second hello says nothing new; an unknown message is a newer plugin's.
            Some(FromPlugin::Hello(_) | FromPlugin::Heartbeat(_)) | None => Ok(()),
        };
        if let Err(error) = taken {
            self.refused(MESSAGE_REFUSED, &error);
        }
    }

    fn refused(&self, event: &'static str, error: &MessageError) {
        self.lines.refused(&self.peer, event, error.reason(), &chain(error));
    }

    fn own_bundle(&self, message: &OwnBundle) -> Result<(), MessageError> {
        let bundle = wire::own_bundle(self.hub.trust_domain(), message)?;
        self.hub.take_own_bundle(self.id, bundle);
        Ok(())
    }

    fn server_identity(&self, message: ServerIdentity) {
        let certificates: Vec<_> = message.certificate_chain.into_iter().map(Into::into).collect();
        if certificates.is_empty() {
            self.hub.take_identity(self.id, None);
            return;
        }
        let lent = LentIdentity::new(
            self.id,
            certificates,
            self.hub.trust_domain(),
            Arc::clone(&self.queue),
            &self.hub.lenders,
            Arc::clone(&self.hub.metrics),
        );
        match lent {
            Ok(identity) => {
                let (spiffe_id, not_after) = (&identity.spiffe_id, rfc3339(identity.not_after));
                // Of its own for a rotation, which may follow soon.
                let kind = if self.has_lent.swap(true, Ordering::Relaxed) { "again" } else { "first" };
                match self.lines.may_tell(&self.peer, LENT, kind) {
                    Some(suppressed) => info!(%spiffe_id, not_after, suppressed, "{LENT}"),
                    None => debug!(%spiffe_id, not_after, "{LENT}"),
                }
                self.hub.take_identity(self.id, Some(Arc::new(identity)));
            }
            Err(error) => {
                let event = "lent server identity refused";
                self.lines.refused(&self.peer, event, "identity", &chain(&error));
            }
        }
    }

    fn relationships(&self, message: RelationshipsMessage) {
        let read = self.readable(message.relationships);
        let relationships: Relationships = read.map(|one| (one.trust_domain.clone(), one)).collect();
        debug!(count = relationships.len(), "relationships received");
        self.hub.take_relationships(self.id, relationships);
    }

    fn readable(&self, messages: Vec<Relationship>) -> impl Iterator<Item = Arc<FederationRelationship>> {
        messages.into_iter().filter_map(|one| match wire::relationship(self.hub.trust_domain(), one) {
            Ok(one) => Some(Arc::new(one)),
            Err(error) => {
                self.refused("federation relationship refused", &error);
                None
            }
        })
    }

    /// The plugin logs it, beside SPIRE Server; here it is for the status page.
    fn server_api(&self, message: ServerApiMessage) {
        let trouble = wire::reason(&message.trouble);
        debug!(trouble, "state of spire's api received");
        let declared = self.readable(message.declared).collect();
        self.hub.take_server_api(self.id, ServerApi { trouble, declared });
    }

    fn pending_removals(&self, message: PendingRemovalsMessage) -> Result<(), MessageError> {
        let removals = wire::pending_removals(message)?;
        debug!(count = removals.len(), "pending removals received");
        self.hub.take_removals(self.id, removals);
        Ok(())
    }

    fn held_bundle(&self, message: &HeldBundle) -> Result<(), MessageError> {
        let (trust_domain, held) = wire::held(message)?;
        let sequence_number = held.bundle.as_ref().and_then(|bundle| bundle.sequence_number());
        if self.hub.take_held(self.id, &trust_domain, held) {
            debug!(%trust_domain, sequence_number, "held bundle received");
        }
        Ok(())
    }

    fn offer_outcome(&self, message: &OfferOutcome) -> Result<(), MessageError> {
        let trust_domain = wire::domain(&message.trust_domain)?;
        let Some(outcome) = wire::outcome(message) else {
            return Ok(());
        };
        let name = outcome.name();
        let reason = outcome.reason().map(str::to_owned);
        if let Some(is_change) = self.hub.offers.record(&trust_domain, message.offer_id, outcome) {
            self.hub.metrics.offer(name);
            let passed = if is_change { Some(0) } else { self.lines.may_tell(&self.peer, ANSWERED, name) };
            match passed {
                Some(suppressed) => info!(%trust_domain, outcome = name, reason, suppressed, "{ANSWERED}"),
                None => debug!(%trust_domain, outcome = name, reason, "{ANSWERED}"),
            }
        }
        Ok(())
    }

    fn sign_response(&self, message: SignResponse) {
        let answer = match message.result {
            Some(SignResult::Signature(signature)) => Ok(signature),
            Some(SignResult::Refusal(reason)) => Err(printable(&reason, 200)),
            None => Err("the answer holds no signature".into()),
        };
        self.queue.answer(message.request_id, answer);
    }
}

/// A word for metrics where a message came and could not be read; `None` where the stream was lost.
fn broken(status: &Status) -> Option<&'static str> {
    match status.code() {
        Code::OutOfRange => Some("oversized"),
        Code::Internal | Code::InvalidArgument | Code::Unimplemented => Some("unreadable"),
        _ => None,
    }
}
