//! `helloworld-server`: greets every client whose X509-SVID it can verify.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use entente_bundle::tls::{self, SvidVerifier};
use entente_bundle::{Authorizer, SpiffeId, TrustDomain};
use entente_proto::helloworld::v1::greeter_server::GreeterServer;
use entente_workload_identity::{AddressError, OpenConnections, WorkloadApiError, WorkloadIdentity};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::accept::{self, Admission};
use crate::greeter::HelloWorld;
use crate::{KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, listen, output, process};

/// After its age, a connection gets this long to finish the calls in it.
const AGE_GRACE: Duration = Duration::from_secs(10);

/// After a signal, so do all of them.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// A request is a name.
const MESSAGE_LIMIT: usize = 64 * 1024;
const HEADERS_LIMIT: u32 = 16 * 1024;
const STREAMS_LIMIT: u32 = 64;

/// Greets clients over mutual TLS and prints the SPIFFE ID of each.
///
/// Without an allow option every client passes whose X509-SVID verifies against the bundle of its trust domain: the own
/// one, or one that the registration entry federates with.
#[derive(Clone, Debug, Parser)]
#[command(name = "helloworld-server", version)]
pub struct Options {
    /// Where to listen; the IPv6 wildcard takes IPv4 as well
    #[arg(long, env = "HELLOWORLD_LISTEN", value_name = "ADDRESS", default_value = "[::]:8123")]
    pub listen: SocketAddr,
    /// Let only this SPIFFE ID pass; may be repeated, or hold several divided by commas
    #[arg(
        long,
        env = "HELLOWORLD_ALLOW_ID",
        value_name = "ID",
        value_delimiter = ',',
        conflicts_with = "allow_trust_domain"
    )]
    pub allow_id: Vec<SpiffeId>,
    /// Let only IDs of this trust domain pass; may be repeated, or hold several divided by commas
    #[arg(long, env = "HELLOWORLD_ALLOW_TRUST_DOMAIN", value_name = "TD", value_delimiter = ',')]
    pub allow_trust_domain: Vec<TrustDomain>,
    /// End each connection at this age, so that its peer is verified anew
    #[arg(long, env = "HELLOWORLD_MAX_CONNECTION_AGE", value_name = "DURATION", default_value = "5m", value_parser = process::positive_duration)]
    pub max_connection_age: Duration,
    /// How long a client may take for the TLS handshake
    #[arg(long, env = "HELLOWORLD_HANDSHAKE_TIMEOUT", value_name = "DURATION", default_value = "5s", value_parser = process::positive_duration)]
    pub handshake_timeout: Duration,
    /// Address of the Workload API, unix:///path or tcp://IP:port
    #[arg(long, env = "SPIFFE_ENDPOINT_SOCKET", value_name = "ADDRESS")]
    pub workload_api: Option<String>,
}

/// Why the server ended, other than by a signal.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address of the Workload API is none.
    #[error("no workload api to ask")]
    Address(#[from] AddressError),
    /// The listening socket.
    #[error("cannot listen on {address}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The Workload API refused us for good.
    #[error("no identity can come any more")]
    Identity(#[from] Arc<WorkloadApiError>),
    /// The gRPC server.
    #[error("the grpc server failed")]
    Serve(#[from] tonic::transport::Error),
    /// The TLS settings.
    #[error("tls cannot be set up")]
    Tls(#[from] rustls::Error),
}

impl Options {
    fn authorizer(&self) -> Authorizer {
        if !self.allow_id.is_empty() {
            return Authorizer::Exact(self.allow_id.iter().cloned().collect());
        }
        if !self.allow_trust_domain.is_empty() {
            return Authorizer::MemberOf(self.allow_trust_domain.iter().cloned().collect());
        }
        Authorizer::AnyInBundles
    }
}

/// Serves until `stop`. While there is no identity yet, connections are accepted and refused with that reason.
///
/// # Errors
/// When it cannot start, or the Workload API refuses us for good.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), ServerError> {
    let identity = WorkloadIdentity::connect(options.workload_api.clone())?;
    let (listener, address) = bind(options.listen)?;
    output::say(&format!("Server (:{}) starting up...", address.port()));

    let connections = OpenConnections::new(identity.bundles(), options.authorizer());
    let verifier = SvidVerifier::new(identity.bundles(), options.authorizer());
    let tls = tls::mutual_server_config(verifier, identity.slot(), &[b"h2"])?;
    let admission = Admission {
        tls: Arc::new(tls),
        slot: identity.slot(),
        connections: connections.clone(),
        handshake_timeout: options.handshake_timeout,
        age_limit: options.max_connection_age.saturating_add(AGE_GRACE),
        bounds: Arc::default(),
    };
    let announced = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(connections.keep_checked(identity.changed()));
    tasks.spawn(announce(identity.clone(), address, announced.clone()));
    let incoming = accept::accept(listener, admission, stop.clone());
    let greeter = GreeterServer::new(HelloWorld { announced }).max_decoding_message_size(MESSAGE_LIMIT);
    // No `max_connection_age_grace`: with one, tonic cuts at the end of it and never asks the client to leave before.
    // `Guarded` does the cutting.
    let serving = tonic::transport::Server::builder()
        .max_connection_age(options.max_connection_age)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_header_list_size(HEADERS_LIMIT)
        .max_concurrent_streams(STREAMS_LIMIT)
        .add_service(greeter)
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    tokio::select! {
        served = serving => Ok(served?),
        error = identity.wait_ended() => Err(error.into()),
        () = patience(&stop) => Ok(()),
    }
}

fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServerError> {
    let bound = listen::bind(address).and_then(|listener| Ok((listener.local_addr()?, listener)));
    match bound {
        Ok((bound, listener)) => Ok((listener, bound)),
        Err(source) => Err(ServerError::Bind { address, source }),
    }
}

/// Says who we are as soon as we know.
async fn announce(identity: WorkloadIdentity, address: SocketAddr, announced: CancellationToken) {
    // The error is reported by whoever waits for the end of the identity.
    let Ok(id) = identity.wait_ready().await else { return };
    output::say(&format!("Server's spiffeID:  {id}"));
    output::say(&format!("Serving on {address}"));
    announced.cancel();
}

/// Ends some time after `stop`.
async fn patience(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(STOP_GRACE).await;
    warn!("calls are still open, stopping without them");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_make_sense() {
        use clap::CommandFactory;
        Options::command().debug_assert();
    }

    #[test]
    fn an_empty_list_of_ids_does_not_let_everybody_pass() {
        assert!(Options::try_parse_from(["helloworld-server", "--allow-id", ""]).is_err());
        assert!(Options::try_parse_from(["helloworld-server", "--allow-trust-domain", ""]).is_err());
    }

    #[test]
    fn an_age_of_nothing_is_refused() {
        assert!(Options::try_parse_from(["helloworld-server", "--max-connection-age", "0s"]).is_err());
    }

    #[test]
    fn ids_and_trust_domains_cannot_be_mixed() {
        let mixed =
            ["helloworld-server", "--allow-id", "spiffe://a.test/web", "--allow-trust-domain", "a.test"];
        assert!(Options::try_parse_from(mixed).is_err());
    }

    #[test]
    fn ids_may_be_divided_by_commas() {
        let ids = ["helloworld-server", "--allow-id", "spiffe://a.test/web,spiffe://b.test/web"];
        let Authorizer::Exact(ids) = Options::try_parse_from(ids).unwrap().authorizer() else {
            panic!("not exact")
        };
        assert_eq!(ids.len(), 2);
    }
}
