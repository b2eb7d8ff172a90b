//! Calls the server over one connection at a time, and knows when to use another.

use std::error::Error;
use std::time::Duration;

use entente_bundle::SpiffeId;
use entente_proto::helloworld::v1::HelloRequest;
use entente_proto::helloworld::v1::greeter_client::GreeterClient;
use entente_workload_identity::Refusal;
use http::Uri;
use tokio::sync::watch;
use tonic::{Request, Status};
use tracing::debug;

use crate::dial::{Connection, DialError, Dialer};

/// From the request to the reply.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// A reply is a greeting.
const MESSAGE_LIMIT: usize = 64 * 1024;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The connection ended under the call.
    #[error("the connection broke")]
    Broken(#[source] Box<dyn Error + Send + Sync>),
    #[error("no connection to the server")]
    Dial(#[from] DialError),
    /// The server's own word.
    #[error("the server answered with an error")]
    Server(#[source] Status),
    #[error("the server did not answer in time")]
    Slow,
}

/// A greeting, and the verified ID of the server that sent it.
#[derive(Debug)]
pub(crate) struct Greeting {
    pub(crate) message: String,
    pub(crate) server: SpiffeId,
}

pub(crate) struct Caller {
    dialer: Dialer,
    origin: Uri,
    /// Marked when our SVID or the bundles are others than those that the connection was made with.
    changed: watch::Receiver<Option<SpiffeId>>,
    connection: Option<Connection>,
}

impl Caller {
    pub(crate) fn new(dialer: Dialer, origin: Uri, changed: watch::Receiver<Option<SpiffeId>>) -> Self {
        Self { dialer, origin, changed, connection: None }
    }

    /// One greeting. Greetings may be repeated, so a connection that broke is replaced and the call made again, once,
    /// without anybody noticing: it was too old, or one of the two SVIDs is no longer good enough for the other end. A
    /// refusal is not repeated.
    pub(crate) async fn say_hello(&mut self, name: &str) -> Result<Greeting, CallError> {
        // Dropped rather than closed: it ends by itself, when the last reply on it is there.
        if self.changed.has_changed().unwrap_or(false) {
            self.changed.mark_unchanged();
            self.connection = None;
        }
        match self.attempt(name).await {
            Err(CallError::Broken(cause)) if !matches!(Refusal::find(&*cause), Refusal::ByPeer(_)) => {
                debug!(error = &*cause as &dyn Error, "connection broke, calling again");
                self.attempt(name).await
            }
            result => result,
        }
    }

    async fn attempt(&mut self, name: &str) -> Result<Greeting, CallError> {
        let connection = match self.connection.take().filter(Connection::is_open) {
            Some(connection) => connection,
            None => self.dialer.dial().await?,
        };
        let requests = connection.requests.clone();
        let service = tower::service_fn(move |request| {
            let mut requests = requests.clone();
            async move { requests.send_request(request).await }
        });
        let mut client =
            GreeterClient::with_origin(service, self.origin.clone()).max_decoding_message_size(MESSAGE_LIMIT);
        let call = client.say_hello(Request::new(HelloRequest { name: name.to_owned() }));
        match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Ok(Ok(reply)) => {
                let greeting =
                    Greeting { message: reply.into_inner().message, server: connection.server.clone() };
                self.connection = Some(connection);
                Ok(greeting)
            }
            Ok(Err(status)) if status.source().is_some() => {
                let cause = connection.into_cause().await;
                Err(CallError::Broken(cause.unwrap_or_else(|| status.into())))
            }
            Ok(Err(status)) => {
                self.connection = Some(connection);
                Err(CallError::Server(status))
            }
            Err(_) => Err(CallError::Slow),
        }
    }
}
