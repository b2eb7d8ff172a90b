//! The Server API on its Unix socket: the calls, codes and texts of federation.md 5.
//!
//! Whoever can open the socket may do everything, as with SPIRE; there is no TCP side.

mod bundle;
mod debug;
mod entry;
mod federated_bundle;
mod filter;
mod local_authority;
mod parse;
mod svid;
mod trust_domain;

use std::fmt::Display;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use entente_proto::spire::api::server::agent::v1::agent_server::AgentServer;
use entente_proto::spire::api::server::bundle::v1::bundle_server::BundleServer;
use entente_proto::spire::api::server::debug::v1::debug_server::DebugServer;
use entente_proto::spire::api::server::entry::v1::entry_server::EntryServer;
use entente_proto::spire::api::server::localauthority::v1::local_authority_server::LocalAuthorityServer;
use entente_proto::spire::api::server::svid::v1::svid_server::SvidServer;
use entente_proto::spire::api::server::trustdomain::v1::trust_domain_server::TrustDomainServer;
use entente_proto::spire::api::types as wire;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::bundle_client::BundleClient;
use super::core::Core;
use super::log::Log;

/// One object answers all services.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    core: Arc<Core>,
    client: Arc<BundleClient>,
    log: Log,
}

impl Api {
    pub(crate) fn new(core: Arc<Core>, client: Arc<BundleClient>) -> Self {
        let log = core.log.subsystem("api");
        Self { core, client, log }
    }

    /// Serves until `stop`; calls in flight get their answer.
    pub(crate) async fn serve(self, listener: UnixListener, stop: CancellationToken) -> anyhow::Result<()> {
        tonic::transport::Server::builder()
            .add_service(AgentServer::new(self.clone()))
            .add_service(BundleServer::new(self.clone()))
            .add_service(DebugServer::new(self.clone()))
            .add_service(EntryServer::new(self.clone()))
            .add_service(LocalAuthorityServer::new(self.clone()))
            .add_service(SvidServer::new(self.clone()))
            .add_service(TrustDomainServer::new(self))
            .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop.cancelled_owned())
            .await
            .context("server API")
    }

    fn refuse(&self, code: Code, message: &str, cause: Option<&dyn Display>) -> Status {
        refuse(&self.log, code, message, cause)
    }
}

/// Binds a socket in a folder that is made if need be; one left by a dead process is replaced.
pub(crate) fn bind(path: &Path, folder_mode: u32, mode: u32) -> anyhow::Result<UnixListener> {
    let context = || format!("cannot listen on {}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(folder_mode).create(folder).with_context(context)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(context);
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(context)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).with_context(context)?;
    Ok(listener)
}

/// Makes and logs an error as SPIRE does: the cause follows after a colon, except where nothing was found.
fn refuse(log: &Log, code: Code, message: &str, cause: Option<&dyn Display>) -> Status {
    let log =
        cause.filter(|_| code != Code::NotFound).map_or_else(|| log.clone(), |cause| log.error_field(cause));
    match code {
        Code::InvalidArgument => log.error(&format!("Invalid argument: {message}")),
        _ => log.error(&capitalized(message)),
    }
    match cause {
        Some(cause) if code != Code::NotFound => Status::new(code, format!("{message}: {cause}")),
        _ => Status::new(code, message),
    }
}

fn capitalized(message: &str) -> String {
    let mut letters = message.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// Status of an item that went well.
fn ok() -> Option<wire::Status> {
    Some(wire::Status { code: 0, message: "OK".to_owned() })
}

/// Status of an item that did not.
fn item(status: &Status) -> Option<wire::Status> {
    Some(wire::Status { code: status.code().into(), message: status.message().to_owned() })
}
