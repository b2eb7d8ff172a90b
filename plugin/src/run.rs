//! The plugin process: bind, announce, serve until the host says stop or is gone.

use std::io;
use std::time::Duration;

use entente_proto::plugin::grpc_broker_server::GrpcBrokerServer;
use entente_proto::plugin::grpc_controller_server::GrpcControllerServer;
use entente_proto::plugin::grpc_stdio_server::GrpcStdioServer;
use entente_proto::spire::plugin::server::bundlepublisher::v1::bundle_publisher_server::BundlePublisherServer;
use entente_proto::spire::plugin::server::notifier::v1::notifier_server::NotifierServer;
use entente_proto::spire::service::common::config::v1::config_server::ConfigServer;
use entente_proto::spire::service::private::init::v1::init_server::InitServer;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tracing::{info, warn};

use crate::configurator::Configurator;
use crate::handshake::{self, Role};
use crate::host::{Host, Life};
use crate::publisher::Publisher;
use crate::socket::PluginSocket;
use crate::state::Shared;

/// SPIRE kills two seconds after it has closed the connection; streams that are still open then must not hold us.
const LAST_WORDS: Duration = Duration::from_millis(700);

/// Largest request that we take; SPIRE sets no limit of its own.
const MAX_REQUEST: usize = 64 << 20;

/// Name under which go-plugin asks for health.
const HEALTH_NAME: &str = "plugin";

/// Why the plugin could not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The host does not read our stdout.
    #[error("cannot write the handshake line")]
    Announce(#[source] io::Error),
    /// No socket to serve on.
    #[error("cannot bind the plugin's socket")]
    Bind(#[source] io::Error),
    /// No threads.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    /// The gRPC server ended by itself.
    #[error("cannot serve")]
    Serve(#[source] tonic::transport::Error),
    /// Signals would end the plugin before its server.
    #[error("cannot ignore signals")]
    Signals(#[source] io::Error),
}

/// Runs as a plugin of this type until the host ends it.
pub fn run(role: Role) -> Result<(), RunError> {
    // Two threads do for calls every few seconds and a signature now and then, and keep the process small.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .enable_all()
        .build()
        .map_err(RunError::Runtime)?;
    let result = runtime.block_on(serve(role));
    // Nothing that is still running may hold up the end.
    runtime.shutdown_background();
    result
}

async fn serve(role: Role) -> Result<(), RunError> {
    ignore_signals().map_err(RunError::Signals)?;
    follow_the_host();
    let (socket, listener) = PluginSocket::bind().map_err(RunError::Bind)?;
    handshake::announce(socket.path()).map_err(RunError::Announce)?;
    let life = Life::new();
    info!(role = ?role, version = env!("CARGO_PKG_VERSION"), "plugin started");
    tokio::select! {
        result = serve_on(listener, role, life.clone()) => result.map_err(RunError::Serve),
        () = life.host_is_gone() => {
            info!("host is gone, so the plugin ends");
            Ok(())
        }
        () = last_words(&life) => Ok(()),
    }
}

async fn last_words(life: &Life) {
    life.stop.cancelled().await;
    tokio::time::sleep(LAST_WORDS).await;
}

/// No timeouts and no limits here: broker and stdio streams stay open for ever, and the host is the only one who can connect.
async fn serve_on(listener: UnixListener, role: Role, life: Life) -> Result<(), tonic::transport::Error> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status(HEALTH_NAME, ServingStatus::Serving).await;
    let shared = Shared::new(role);
    let host = Host::new(shared.clone(), life.clone());
    let configurator = Configurator::new(shared.clone(), life.background.clone());
    let publisher = Publisher::new(shared);
    let of_role = |wanted: Role| (role == wanted).then(|| publisher.clone());
    Server::builder()
        .add_service(health_service)
        .add_service(GrpcBrokerServer::new(host.clone()))
        .add_service(GrpcControllerServer::new(host.clone()))
        .add_service(GrpcStdioServer::new(host.clone()))
        .add_service(InitServer::new(host))
        .add_service(ConfigServer::new(configurator).max_decoding_message_size(MAX_REQUEST))
        .add_optional_service(
            of_role(Role::Publisher)
                .map(|one| BundlePublisherServer::new(one).max_decoding_message_size(MAX_REQUEST)),
        )
        .add_optional_service(
            of_role(Role::Notifier)
                .map(|one| NotifierServer::new(one).max_decoding_message_size(MAX_REQUEST)),
        )
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), life.stop.cancelled_owned())
        .await
}

/// Ctrl-C and systemd reach the whole group; the host then stops us in good order. A signal that is listened to once is never
/// fatal again.
fn ignore_signals() -> io::Result<()> {
    for kind in [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::user_defined1(),
        SignalKind::user_defined2(),
    ] {
        drop(signal(kind)?);
    }
    Ok(())
}

/// SPIRE asks the kernel for this already; other hosts may not.
fn follow_the_host() {
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
    {
        warn!(%error, "the end of the host will only show when its connection breaks");
    }
}
