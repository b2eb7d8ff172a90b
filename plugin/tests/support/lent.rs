//! The host services that SPIRE Server lends, on a socket of their own.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use entente_bundle::testing::TestAuthority;
use entente_proto::spire::hostservice::common::metrics::v1::metrics_server::{Metrics, MetricsServer};
use entente_proto::spire::hostservice::common::metrics::v1::{
    AddSampleRequest, EmitKeyRequest, IncrCounterRequest, MeasureSinceRequest, SetGaugeRequest,
};
use entente_proto::spire::hostservice::server::identityprovider::v1::identity_provider_server::{
    IdentityProvider, IdentityProviderServer,
};
use entente_proto::spire::hostservice::server::identityprovider::v1::{
    FetchX509IdentityRequest, FetchX509IdentityResponse, X509Identity,
};
use entente_proto::spire::plugin::types;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// Names in the order in which SPIRE sends them.
pub const NAMES: [&str; 3] = [
    "spire.hostservice.server.identityprovider.v1.IdentityProvider",
    "spire.hostservice.server.agentstore.v1.AgentStore",
    "spire.hostservice.common.metrics.v1.Metrics",
];

/// What is lent. Without an identity it answers as a server that has not started yet.
#[derive(Clone, Default)]
pub struct Lent(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    identity: Option<(X509Identity, types::Bundle)>,
    counted: Vec<IncrCounterRequest>,
    fetches: usize,
}

impl Lent {
    pub fn serve(&self, socket: &PathBuf) {
        let incoming = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
        let server = Server::builder()
            .add_service(IdentityProviderServer::new(self.clone()))
            .add_service(MetricsServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(incoming));
    }

    /// Lends a fresh identity of this authority, and this bundle. Returns the chain.
    pub fn lend(&self, authority: &TestAuthority, bundle: types::Bundle) -> Vec<Vec<u8>> {
        let svid = authority.svid("/spire/server").build();
        let cert_chain: Vec<_> = svid.chain.iter().map(|der| der.to_vec()).collect();
        let identity = X509Identity { cert_chain: cert_chain.clone(), private_key: svid.pkcs8.clone() };
        self.0.lock().unwrap().identity = Some((identity, bundle));
        cert_chain
    }

    pub fn fetches(&self) -> usize {
        self.0.lock().unwrap().fetches
    }

    pub fn counted(&self) -> Vec<IncrCounterRequest> {
        self.0.lock().unwrap().counted.clone()
    }
}

#[tonic::async_trait]
impl IdentityProvider for Lent {
    async fn fetch_x509_identity(
        &self,
        _: Request<FetchX509IdentityRequest>,
    ) -> Result<Response<FetchX509IdentityResponse>, Status> {
        let mut state = self.0.lock().unwrap();
        state.fetches += 1;
        let (identity, bundle) = state.identity.clone().ok_or_else(|| {
            Status::failed_precondition("IdentityProvider host service has not been initialized")
        })?;
        Ok(Response::new(FetchX509IdentityResponse { identity: Some(identity), bundle: Some(bundle) }))
    }
}

#[tonic::async_trait]
impl Metrics for Lent {
    async fn set_gauge(&self, _: Request<SetGaugeRequest>) -> Result<Response<()>, Status> {
        Ok(Response::new(()))
    }

    async fn emit_key(&self, _: Request<EmitKeyRequest>) -> Result<Response<()>, Status> {
        Ok(Response::new(()))
    }

    async fn incr_counter(&self, request: Request<IncrCounterRequest>) -> Result<Response<()>, Status> {
        self.0.lock().unwrap().counted.push(request.into_inner());
        Ok(Response::new(()))
    }

    async fn add_sample(&self, _: Request<AddSampleRequest>) -> Result<Response<()>, Status> {
        Ok(Response::new(()))
    }

    async fn measure_since(&self, _: Request<MeasureSinceRequest>) -> Result<Response<()>, Status> {
        Ok(Response::new(()))
    }
}
