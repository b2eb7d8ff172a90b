//! Service LocalAuthority: prepare, activate, taint, revoke, for X.509 and JWT. There is no upstream authority.

use entente_proto::spire::api::server::localauthority::v1::local_authority_server::LocalAuthority;
use entente_proto::spire::api::server::localauthority::v1::*;
use tonic::{Code, Request, Response, Status};

use super::Api;
use crate::embedded::authority::{SlotState, Status as SlotStatus};

#[tonic::async_trait]
impl LocalAuthority for Api {
    async fn get_x509_authority_state(
        &self,
        _request: Request<GetX509AuthorityStateRequest>,
    ) -> Result<Response<GetX509AuthorityStateResponse>, Status> {
        let (active, other) = self.core.authorities.x509_state();
        Ok(Response::new(GetX509AuthorityStateResponse {
            active: Some(state(&active)),
            prepared: in_status(other.as_ref(), SlotStatus::Prepared),
            old: in_status(other.as_ref(), SlotStatus::Old),
        }))
    }

    async fn prepare_x509_authority(
        &self,
        _request: Request<PrepareX509AuthorityRequest>,
    ) -> Result<Response<PrepareX509AuthorityResponse>, Status> {
        let prepared = self.core.authorities.prepare_x509().map_err(|error| {
            self.refuse(Code::Internal, "failed to prepare X.509 authority", Some(&error))
        })?;
        self.authority_prepared();
        Ok(Response::new(PrepareX509AuthorityResponse { prepared_authority: Some(state(&prepared)) }))
    }

    async fn activate_x509_authority(
        &self,
        request: Request<ActivateX509AuthorityRequest>,
    ) -> Result<Response<ActivateX509AuthorityResponse>, Status> {
        let (_, other) = self.core.authorities.x509_state();
        self.may_activate(&request.get_ref().authority_id, other.as_ref())?;
        let active = self.core.authorities.activate_x509().map_err(|error| {
            self.refuse(Code::Internal, "only Prepared authorities can be activated", Some(&error))
        })?;
        Ok(Response::new(ActivateX509AuthorityResponse { activated_authority: Some(state(&active)) }))
    }

    async fn taint_x509_authority(
        &self,
        request: Request<TaintX509AuthorityRequest>,
    ) -> Result<Response<TaintX509AuthorityResponse>, Status> {
        let (active, other) = self.core.authorities.x509_state();
        let old = self.may_taint(&request.get_ref().authority_id, &active, other)?;
        let tainted = self.core.store.lock().taint_x509(&old.authority_id);
        tainted
            .map_err(|error| self.refuse(Code::Internal, "failed to taint X.509 authority", Some(&error)))?;
        let log = self.log.with("local_authority_id", &old.authority_id);
        log.info("X.509 authority tainted successfully");
        Ok(Response::new(TaintX509AuthorityResponse { tainted_authority: Some(state(&old)) }))
    }

    async fn revoke_x509_authority(
        &self,
        request: Request<RevokeX509AuthorityRequest>,
    ) -> Result<Response<RevokeX509AuthorityResponse>, Status> {
        let id = request.into_inner().authority_id;
        let (active, other) = self.core.authorities.x509_state();
        let cause = match other.filter(|slot| slot.authority_id == id && slot.status == SlotStatus::Old) {
            _ if id.is_empty() => Some("no authority ID provided"),
            _ if id == active.authority_id => Some("unable to use current authority"),
            None => Some("only Old local authority can be revoked"),
            Some(_) => None,
        };
        if let Some(cause) = cause {
            return Err(self.refuse(Code::InvalidArgument, "invalid authority ID", Some(&cause)));
        }
        let revoked = self.core.store.lock().revoke_x509(&id);
        revoked
            .map_err(|error| self.refuse(Code::Internal, "failed to revoke X.509 authority", Some(&error)))?;
        self.log.with("local_authority_id", &id).info("X.509 authority revoked successfully");
        self.core.published.ring();
        Ok(Response::new(RevokeX509AuthorityResponse { revoked_authority: Some(named(id)) }))
    }

    async fn taint_x509_upstream_authority(
        &self,
        _request: Request<TaintX509UpstreamAuthorityRequest>,
    ) -> Result<Response<TaintX509UpstreamAuthorityResponse>, Status> {
        Err(self.refuse(Code::FailedPrecondition, "upstream authority is not configured", None))
    }

    async fn revoke_x509_upstream_authority(
        &self,
        _request: Request<RevokeX509UpstreamAuthorityRequest>,
    ) -> Result<Response<RevokeX509UpstreamAuthorityResponse>, Status> {
        Err(self.refuse(Code::FailedPrecondition, "upstream authority is not configured", None))
    }

    async fn get_jwt_authority_state(
        &self,
        _request: Request<GetJwtAuthorityStateRequest>,
    ) -> Result<Response<GetJwtAuthorityStateResponse>, Status> {
        let (active, other) = self.core.authorities.jwt_state();
        Ok(Response::new(GetJwtAuthorityStateResponse {
            active: Some(state(&active)),
            prepared: in_status(other.as_ref(), SlotStatus::Prepared),
            old: in_status(other.as_ref(), SlotStatus::Old),
        }))
    }

    async fn prepare_jwt_authority(
        &self,
        _request: Request<PrepareJwtAuthorityRequest>,
    ) -> Result<Response<PrepareJwtAuthorityResponse>, Status> {
        let prepared =
            self.core.authorities.prepare_jwt().map_err(|error| {
                self.refuse(Code::Internal, "failed to prepare JWT authority", Some(&error))
            })?;
        self.authority_prepared();
        Ok(Response::new(PrepareJwtAuthorityResponse { prepared_authority: Some(state(&prepared)) }))
    }

    async fn activate_jwt_authority(
        &self,
        request: Request<ActivateJwtAuthorityRequest>,
    ) -> Result<Response<ActivateJwtAuthorityResponse>, Status> {
        let (_, other) = self.core.authorities.jwt_state();
        self.may_activate(&request.get_ref().authority_id, other.as_ref())?;
        let active = self.core.authorities.activate_jwt().map_err(|error| {
            self.refuse(Code::Internal, "only Prepared authorities can be activated", Some(&error))
        })?;
        Ok(Response::new(ActivateJwtAuthorityResponse { activated_authority: Some(state(&active)) }))
    }

    async fn taint_jwt_authority(
        &self,
        request: Request<TaintJwtAuthorityRequest>,
    ) -> Result<Response<TaintJwtAuthorityResponse>, Status> {
        let (active, other) = self.core.authorities.jwt_state();
        let old = self.may_taint(&request.get_ref().authority_id, &active, other)?;
        let tainted = self.core.store.lock().taint_jwt(&old.authority_id);
        tainted
            .map_err(|error| self.refuse(Code::Internal, "failed to taint JWT authority", Some(&error)))?;
        let log = self.log.with("local_authority_id", &old.authority_id);
        log.info("JWT authority tainted successfully");
        Ok(Response::new(TaintJwtAuthorityResponse { tainted_authority: Some(named(old.authority_id)) }))
    }

    /// Any key of the bundle that is neither active nor prepared.
    async fn revoke_jwt_authority(
        &self,
        request: Request<RevokeJwtAuthorityRequest>,
    ) -> Result<Response<RevokeJwtAuthorityResponse>, Status> {
        let id = request.into_inner().authority_id;
        let (active, other) = self.core.authorities.jwt_state();
        let held = self.core.store.lock().own_bundle().unwrap_or_default();
        let is_prepared =
            other.is_some_and(|slot| slot.authority_id == id && slot.status == SlotStatus::Prepared);
        let cause = match held.jwt_authorities.iter().find(|key| key.key_id == id) {
            _ if id.is_empty() => Some("no authority ID provided"),
            _ if is_prepared => Some("unable to use a prepared key"),
            _ if id == active.authority_id => Some("unable to use current authority"),
            None => Some("no JWT authority found with provided authority ID"),
            Some(_) => None,
        };
        if let Some(cause) = cause {
            return Err(self.refuse(Code::InvalidArgument, "invalid authority ID", Some(&cause)));
        }
        let revoked = self.core.store.lock().revoke_jwt(&id);
        revoked
            .map_err(|error| self.refuse(Code::Internal, "failed to revoke JWT authority", Some(&error)))?;
        self.log.with("local_authority_id", &id).info("JWT authority revoked successfully");
        self.core.published.ring();
        Ok(Response::new(RevokeJwtAuthorityResponse { revoked_authority: Some(named(id)) }))
    }
}

impl Api {
    fn authority_prepared(&self) {
        self.core.published.ring();
        self.core.prepared.ring();
    }

    fn may_activate(&self, id: &str, other: Option<&SlotState>) -> Result<(), Status> {
        match other.filter(|slot| slot.authority_id == id) {
            _ if id.is_empty() => Err(self.refuse(Code::InvalidArgument, "no authority ID provided", None)),
            None => Err(self.refuse(Code::InvalidArgument, "unexpected authority ID", None)),
            Some(slot) if slot.status != SlotStatus::Prepared => {
                let cause = "unsupported local authority status: OLD";
                let message = "only Prepared authorities can be activated";
                Err(self.refuse(Code::Internal, message, Some(&cause)))
            }
            Some(_) => Ok(()),
        }
    }

    fn may_taint(&self, id: &str, active: &SlotState, other: Option<SlotState>) -> Result<SlotState, Status> {
        match other.filter(|slot| slot.authority_id == id) {
            _ if id.is_empty() => Err(self.refuse(Code::InvalidArgument, "no authority ID provided", None)),
            _ if id == active.authority_id => {
                Err(self.refuse(Code::InvalidArgument, "unable to taint current local authority", None))
            }
            None => Err(self.refuse(Code::InvalidArgument, "unexpected authority ID", None)),
            Some(slot) if slot.status != SlotStatus::Old => {
                let cause = "unsupported local authority status: PREPARED";
                let message = "only Old local authorities can be tainted";
                Err(self.refuse(Code::InvalidArgument, message, Some(&cause)))
            }
            Some(slot) => Ok(slot),
        }
    }
}

fn in_status(slot: Option<&SlotState>, status: SlotStatus) -> Option<AuthorityState> {
    slot.filter(|slot| slot.status == status).map(state)
}

fn state(slot: &SlotState) -> AuthorityState {
    AuthorityState {
        authority_id: slot.authority_id.clone(),
        expires_at: slot.not_after,
        upstream_authority_subject_key_id: String::new(),
    }
}

fn named(authority_id: String) -> AuthorityState {
    AuthorityState { authority_id, ..AuthorityState::default() }
}
