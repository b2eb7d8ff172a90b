//! `helloworld-client`: greets a server every so often, and prints who answered.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use entente_bundle::causes::{alert_words, chain};
use entente_bundle::tls::{self, SvidVerifier};
use entente_bundle::{Authorizer, SpiffeId};
use entente_workload_identity::{AddressError, OpenConnections, Refusal, WorkloadApiError, WorkloadIdentity};
use http::Uri;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::caller::{CallError, Caller};
use crate::dial::{DialError, Dialer};
use crate::{output, process};

/// After a signal, the call that is under way gets this long.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Greets a server over mutual TLS at once and then every so often, and prints the SPIFFE ID that answers.
///
/// Without --server-id every server passes whose X509-SVID verifies against the bundle of its trust domain: the own one,
/// or one that the registration entry federates with.
#[derive(Clone, Debug, Parser)]
#[command(name = "helloworld-client", version)]
pub struct Options {
    /// The server, host:port
    #[arg(env = "HELLOWORLD_ADDRESS", value_name = "ADDRESS", value_parser = server_address)]
    pub address: String,
    /// Time from one request to the next
    #[arg(long, env = "HELLOWORLD_INTERVAL", value_name = "DURATION", default_value = "20s", value_parser = process::positive_duration)]
    pub interval: Duration,
    /// The name to be greeted by
    #[arg(long, env = "HELLOWORLD_NAME", value_name = "NAME", default_value = "BoanLab Client")]
    pub name: String,
    /// Talk only to a server with this SPIFFE ID; may be repeated, or hold several divided by commas
    #[arg(long, env = "HELLOWORLD_SERVER_ID", value_name = "ID", value_delimiter = ',')]
    pub server_id: Vec<SpiffeId>,
    /// End after this many good replies
    #[arg(long, env = "HELLOWORLD_COUNT", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Address of the Workload API, unix:///path or tcp://IP:port
    #[arg(long, env = "SPIFFE_ENDPOINT_SOCKET", value_name = "ADDRESS")]
    pub workload_api: Option<String>,
}

/// Why the client ended, other than by a signal or its count.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address of the Workload API is none.
    #[error("no workload api to ask")]
    Address(#[from] AddressError),
    /// The Workload API refused us for good.
    #[error("no identity can come any more")]
    Identity(#[from] Arc<WorkloadApiError>),
    /// The server's address makes no URI.
    #[error("the server address is unusable")]
    Origin(#[from] http::Error),
    /// The TLS settings.
    #[error("tls cannot be set up")]
    Tls(#[from] rustls::Error),
}

fn server_address(text: &str) -> Result<String, String> {
    let authority = text.parse::<http::uri::Authority>().ok();
    let is_good = authority.is_some_and(|authority| {
        authority.port_u16().is_some_and(|port| port != 0)
            && !authority.host().is_empty()
            && !text.contains('@')
    });
    if is_good { Ok(text.to_owned()) } else { Err("expected host:port, as in 10.10.0.132:8123".into()) }
}

/// Calls until `stop`, or until `count` replies are there. A call that fails is logged, and the next one comes in its time.
///
/// # Errors
/// When it cannot start, or the Workload API refuses us for good.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), ClientError> {
    output::say(&format!("Client starting up... {}", options.address));
    let interval = humantime::format_duration(options.interval).to_string().replace(' ', "");
    output::say(&format!("Will send request every {interval}..."));
    let identity = WorkloadIdentity::connect(options.workload_api.clone())?;
    let (mut caller, connections) = caller(&options, &identity)?;
    let mut tasks = JoinSet::new();
    tasks.spawn(connections.keep_checked(identity.changed()));

    let mut ticks = tokio::time::interval(options.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut good = 0;
    while options.count != Some(good) {
        let ready = async {
            ticks.tick().await;
            identity.wait_ready().await
        };
        let Some(ready) = stop.run_until_cancelled(ready).await else { return Ok(()) };
        ready?;
        let result = tokio::select! {
            result = caller.say_hello(&options.name) => result,
            () = patience(&stop) => return Ok(()),
        };
        match result {
            Ok(greeting) => {
                good += 1;
                output::say(&format!("This is Server Reply : {}", output::one_line(&greeting.message)));
                output::say(&format!("Client gets Server's SPIFFEID : \"{}\"", greeting.server));
            }
            Err(error) => log(&error, &identity),
        }
    }
    Ok(())
}

fn caller(
    options: &Options,
    identity: &WorkloadIdentity,
) -> Result<(Caller, Arc<OpenConnections>), ClientError> {
    let authorizer = match options.server_id.as_slice() {
        [] => Authorizer::AnyInBundles,
        ids => Authorizer::Exact(ids.iter().cloned().collect()),
    };
    let connections = OpenConnections::new(identity.bundles(), authorizer.clone());
    let verifier = SvidVerifier::new(identity.bundles(), authorizer);
    let tls = tls::mutual_client_config(verifier, identity.slot(), &[b"h2"])?;
    let origin =
        Uri::builder().scheme("https").authority(options.address.as_str()).path_and_query("/").build()?;
    let dialer = Dialer {
        address: options.address.clone(),
        tls: Arc::new(tls),
        slot: identity.slot(),
        connections: connections.clone(),
    };
    Ok((Caller::new(dialer, origin, identity.changed()), connections))
}

/// Who refused whom, and why.
fn log(error: &CallError, identity: &WorkloadIdentity) {
    let cause = error as &(dyn Error + 'static);
    match Refusal::find(cause) {
        Refusal::Svid(svid) => {
            let presented = svid.presented().map(tracing::field::display);
            warn!(presented, reason = svid.reason(), error = svid as &dyn Error, "server refused");
        }
        Refusal::ByPeer(alert) => {
            let presented = identity.spiffe_id().map(|id| id.to_string());
            warn!(
                presented,
                reason = "refused_by_peer",
                alert = alert_words(alert),
                error = chain(cause),
                "server refused our svid"
            );
        }
        Refusal::Other(_) if matches!(error, CallError::Dial(DialError::NoIdentity)) => {
            warn!(reason = "no_identity", error = chain(cause), "call failed");
        }
        Refusal::Other(reason) => warn!(reason, error = chain(cause), "call failed"),
    }
}

/// Ends some time after `stop`.
async fn patience(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(STOP_GRACE).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(arguments: &[&str]) -> Result<Options, clap::Error> {
        Options::try_parse_from(["helloworld-client"].iter().chain(arguments))
    }

    #[test]
    fn options_make_sense() {
        use clap::CommandFactory;
        Options::command().debug_assert();
    }

    #[test]
    fn an_address_without_host_or_port_is_refused() {
        for address in [
            "10.10.0.132",
            "10.10.0.132:0",
            ":8123",
            "http://10.10.0.132:8123",
            "a@b:1",
            "10.10.0.132:99999",
            "",
        ] {
            assert!(options(&[address]).is_err(), "{address}");
        }
        for address in ["10.10.0.132:8123", "[::1]:8123", "helloworld-server.default.svc:8123"] {
            assert!(options(&[address]).is_ok(), "{address}");
        }
    }

    #[test]
    fn no_time_between_requests_is_refused() {
        assert!(options(&["127.0.0.1:1", "--interval", "0s"]).is_err());
        assert!(options(&["127.0.0.1:1", "--interval", "soon"]).is_err());
        assert!(options(&["127.0.0.1:1", "--interval", "20ms"]).is_ok());
    }
}
