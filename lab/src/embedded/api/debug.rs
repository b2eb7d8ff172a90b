//! Services Debug and Agent, as far as somebody asks them.

use entente_proto::spire::api::server::agent::v1::CreateJoinTokenRequest;
use entente_proto::spire::api::server::agent::v1::agent_server::Agent;
use entente_proto::spire::api::server::debug::v1::debug_server::Debug;
use entente_proto::spire::api::server::debug::v1::{GetInfoRequest, GetInfoResponse, get_info_response};
use entente_proto::spire::api::types as wire;
use tonic::{Code, Request, Response, Status};

use super::{Api, parse};
use crate::embedded::{certificate, unix_now};

#[tonic::async_trait]
impl Debug for Api {
    async fn get_info(&self, _request: Request<GetInfoRequest>) -> Result<Response<GetInfoResponse>, Status> {
        let store = self.core.store.lock();
        let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
        let chain = self.core.identity.current().into_iter().map(|svid| get_info_response::Cert {
            id: Some(parse::to_wire(&self.core.trust_domain.spire_server_id())),
            expires_at: svid.not_after,
            subject: certificate::subject(&svid.leaf).unwrap_or_default(),
        });
        Ok(Response::new(GetInfoResponse {
            svid_chain: chain.collect(),
            uptime: i32::try_from(self.core.started.elapsed().as_secs()).unwrap_or(i32::MAX),
            agents_count: 0,
            federated_bundles_count: count(store.count_bundles()),
            entries_count: count(store.count_entries(|_| true)),
        }))
    }
}

#[tonic::async_trait]
impl Agent for Api {
    /// The stand-in agent joins without; the token is for callers that do not know which SPIRE they talk to.
    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<wire::JoinToken>, Status> {
        let request = request.into_inner();
        if request.ttl < 1 {
            return Err(self.refuse(Code::InvalidArgument, "ttl is required, you must provide one", None));
        }
        let value = match request.token.is_empty() {
            true => super::entry::new_id(),
            false => request.token,
        };
        Ok(Response::new(wire::JoinToken { value, expires_at: unix_now() + i64::from(request.ttl) }))
    }
}
