//! What SPIRE lends to a plugin, on a socket of its own: the server's identity, the agents, the metrics.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use entente_proto::spire::hostservice::common::metrics::v1 as metrics;
use entente_proto::spire::hostservice::server::agentstore::v1 as agentstore;
use entente_proto::spire::hostservice::server::identityprovider::v1 as identityprovider;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use super::plugin_bundle;
use crate::embedded::core::Core;

/// Names sent with Init, in this order.
pub(super) const NAMES: [&str; 3] = [
    "spire.hostservice.server.identityprovider.v1.IdentityProvider",
    "spire.hostservice.server.agentstore.v1.AgentStore",
    "spire.hostservice.common.metrics.v1.Metrics",
];

/// Empty until the server has an identity to lend.
pub(crate) type Lender = Arc<OnceLock<Arc<Core>>>;

/// One plugin's host services.
#[derive(Clone, Debug)]
pub(super) struct HostServices {
    pub(super) lender: Lender,
}

/// Host services that are being served; dropping it ends them and removes the socket.
#[derive(Debug)]
pub(super) struct Running {
    socket: PathBuf,
    serving: JoinHandle<()>,
}

impl Running {
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.serving.abort();
        // Somebody else may have tidied up where temporary files live.
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl HostServices {
    /// Binds a fresh socket where temporary files live, and serves on it.
    pub(super) fn start(self) -> std::io::Result<Running> {
        let socket = std::env::temp_dir().join(format!("plugin{}", rand::random::<u32>()));
        let listener = UnixListener::bind(&socket)?;
        let serving = tokio::spawn(async move {
            // It ends with the plugin, whose connections may break at any point.
            let _ = tonic::transport::Server::builder()
                .add_service(identityprovider::identity_provider_server::IdentityProviderServer::new(
                    self.clone(),
                ))
                .add_service(agentstore::agent_store_server::AgentStoreServer::new(self.clone()))
                .add_service(metrics::metrics_server::MetricsServer::new(self))
                .serve_with_incoming(UnixListenerStream::new(listener))
                .await;
        });
        Ok(Running { socket, serving })
    }

    fn core(&self, service: &str) -> Result<&Arc<Core>, Status> {
        self.lender.get().ok_or_else(|| {
            Status::failed_precondition(format!("{service} host service has not been initialized"))
        })
    }
}

#[tonic::async_trait]
impl identityprovider::identity_provider_server::IdentityProvider for HostServices {
    async fn fetch_x509_identity(
        &self,
        _request: Request<identityprovider::FetchX509IdentityRequest>,
    ) -> Result<Response<identityprovider::FetchX509IdentityResponse>, Status> {
        let core = self.core("IdentityProvider")?;
        let svid = core.identity.current().ok_or_else(|| Status::unavailable("no identity yet"))?;
        let identity = identityprovider::X509Identity {
            cert_chain: vec![svid.leaf.clone()],
            private_key: svid.key.to_vec(),
        };
        let bundle = core.store.lock().own_bundle().map(plugin_bundle);
        Ok(Response::new(identityprovider::FetchX509IdentityResponse { identity: Some(identity), bundle }))
    }
}

#[tonic::async_trait]
impl agentstore::agent_store_server::AgentStore for HostServices {
    async fn get_agent_info(
        &self,
        _request: Request<agentstore::GetAgentInfoRequest>,
    ) -> Result<Response<agentstore::GetAgentInfoResponse>, Status> {
        self.core("AgentStore")?;
        Err(Status::not_found("no such node"))
    }
}

/// Everything is taken, nothing kept.
#[tonic::async_trait]
impl metrics::metrics_server::Metrics for HostServices {
    async fn set_gauge(&self, _: Request<metrics::SetGaugeRequest>) -> Result<Response<()>, Status> {
        Ok(Response::new(()))
    }
    async fn emit_key(&self, _: Request<metrics::EmitKeyRequest>) -> Result<Response<()>, Status> {
        Ok(Response::new(()))
    }
    async fn incr_counter(&self, _: Request<metrics::IncrCounterRequest>) -> Result<Response<()>, Status> {
        Ok(Response::new(()))
    }
    async fn add_sample(&self, _: Request<metrics::AddSampleRequest>) -> Result<Response<()>, Status> {
        Ok(Response::new(()))
    }
    async fn measure_since(&self, _: Request<metrics::MeasureSinceRequest>) -> Result<Response<()>, Status> {
        Ok(Response::new(()))
    }
}
