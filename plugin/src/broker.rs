//! The broker: the host tells where it serves the services that it lends us, and we dial there.
//!
//! go-plugin's stream must be answered at once and stay open; the host never writes to it again. Its end is also how the loss
//! of the host shows.

use std::path::PathBuf;

use entente_proto::plugin::ConnInfo;
use entente_proto::spire::hostservice::common::metrics::v1::metrics_client::MetricsClient;
use entente_proto::spire::hostservice::server::identityprovider::v1::identity_provider_client::IdentityProviderClient;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};
use tracing::{debug, warn};

/// Under this number SPIRE offers all its host services.
const HOST_SERVICES: u32 = 1;

/// Largest reply that we read: a bundle of thousands of authorities fits.
const MAX_MESSAGE: usize = 16 << 20;

const IDENTITY_PROVIDER: &str = "spire.hostservice.server.identityprovider.v1.IdentityProvider";
const METRICS: &str = "spire.hostservice.common.metrics.v1.Metrics";

/// What the host lends. Its address and the list of its services arrive in either order.
#[derive(Debug)]
pub(crate) struct Lent {
    channel: watch::Sender<Option<Channel>>,
    names: watch::Sender<Option<Vec<String>>>,
}

/// Where the host listens.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    Tcp(String),
    Unix(PathBuf),
}

impl Lent {
    pub(crate) fn new() -> Self {
        Self { channel: watch::Sender::new(None), names: watch::Sender::new(None) }
    }

    /// The full gRPC names of what the host offers, from Init.
    pub(crate) fn set_names(&self, names: Vec<String>) {
        if !names.iter().any(|name| name == IDENTITY_PROVIDER) {
            warn!("the host lends no identity, so handshakes cannot be signed");
        }
        self.names.send_replace(Some(names));
    }

    /// Takes one message of the broker's stream.
    pub(crate) fn take(&self, info: &ConnInfo) {
        if info.service_id != HOST_SERVICES || info.knock.is_some() {
            debug!(service_id = info.service_id, "broker message is not for us");
            return;
        }
        let address = match info.network.as_str() {
            "unix" => Address::Unix(info.address.clone().into()),
            "tcp" => Address::Tcp(info.address.clone()),
            network => {
                warn!(network, "the host serves on a network that is not known here");
                return;
            }
        };
        debug!(?address, "the host told where its services are");
        self.channel.send_replace(Some(dial(address)));
    }

    /// Waits until the host has told both, and lends an identity.
    pub(crate) async fn identity_provider(&self) -> IdentityProviderClient<Channel> {
        let (mut channel, mut names) = (self.channel.subscribe(), self.names.subscribe());
        // The senders live as long as `self`; if they do not, nobody waits for us any more.
        if names.wait_for(|names| lends(names.as_deref(), IDENTITY_PROVIDER)).await.is_err() {
            std::future::pending::<()>().await;
        }
        loop {
            let dialled = channel.borrow_and_update().clone();
            if let Some(dialled) = dialled {
                return IdentityProviderClient::new(dialled).max_decoding_message_size(MAX_MESSAGE);
            }
            if channel.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Metrics, if the host lends them and has told where.
    pub(crate) fn metrics(&self) -> Option<MetricsClient<Channel>> {
        lends(self.names.borrow().as_deref(), METRICS).then_some(())?;
        self.channel.borrow().clone().map(MetricsClient::new)
    }
}

fn lends(names: Option<&[String]>, wanted: &str) -> bool {
    names.is_some_and(|names| names.iter().any(|name| name == wanted))
}

/// Dials when first used. No keep-alive pings: SPIRE's gRPC server hangs up on a client that sends them.
fn dial(address: Address) -> Channel {
    let endpoint = Endpoint::from_static("http://host");
    match address {
        Address::Tcp(address) => {
            endpoint.connect_with_connector_lazy(tower::service_fn(move |_: http::Uri| {
                let address = address.clone();
                async move { TcpStream::connect(address).await.map(TokioIo::new) }
            }))
        }
        Address::Unix(path) => {
            endpoint.connect_with_connector_lazy(tower::service_fn(move |_: http::Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            }))
        }
    }
}
