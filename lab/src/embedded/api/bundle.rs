//! Service Bundle: the own bundle here, foreign ones in `federated_bundle`.

use entente_proto::spire::api::server::bundle::v1::bundle_server::Bundle;
use entente_proto::spire::api::server::bundle::v1::*;
use entente_proto::spire::api::types as wire;
use tonic::{Code, Request, Response, Status};

use super::{Api, parse};
use crate::embedded::store::{DeleteMode, Page};

#[tonic::async_trait]
impl Bundle for Api {
    async fn count_bundles(
        &self,
        _request: Request<CountBundlesRequest>,
    ) -> Result<Response<CountBundlesResponse>, Status> {
        let count = self.core.store.lock().count_bundles();
        Ok(Response::new(CountBundlesResponse { count: i32::try_from(count).unwrap_or(i32::MAX) }))
    }

    async fn get_bundle(&self, request: Request<GetBundleRequest>) -> Result<Response<wire::Bundle>, Status> {
        let held = self.core.store.lock().own_bundle();
        let bundle = held.ok_or_else(|| self.refuse(Code::NotFound, "bundle not found", None))?;
        Ok(Response::new(parse::masked(bundle, request.get_ref().output_mask.as_ref())))
    }

    async fn append_bundle(
        &self,
        request: Request<AppendBundleRequest>,
    ) -> Result<Response<wire::Bundle>, Status> {
        let request = request.into_inner();
        if request.x509_authorities.is_empty() && request.jwt_authorities.is_empty() {
            return Err(self.refuse(Code::InvalidArgument, "no authorities to append", None));
        }
        let jwt = parse::jwt_authorities(&request.jwt_authorities).map_err(|bad| {
            self.refuse(Code::InvalidArgument, "failed to convert JWT authority", Some(&bad))
        })?;
        let x509 = parse::x509_authorities(&request.x509_authorities).map_err(|bad| {
            self.refuse(Code::InvalidArgument, "failed to convert X.509 authority", Some(&bad))
        })?;
        let appended = self.core.store.lock().append(x509, jwt);
        let (bundle, _) =
            appended.map_err(|error| self.refuse(Code::Internal, "failed to append bundle", Some(&error)))?;
        self.core.published.ring();
        Ok(Response::new(parse::masked(bundle, request.output_mask.as_ref())))
    }

    /// For downstream servers, of which there are none.
    async fn publish_jwt_authority(
        &self,
        _request: Request<PublishJwtAuthorityRequest>,
    ) -> Result<Response<PublishJwtAuthorityResponse>, Status> {
        let method = "/spire.api.server.bundle.v1.Bundle/PublishJWTAuthority";
        Err(Status::permission_denied(format!("authorization denied for method {method}")))
    }

    async fn publish_wit_authority(
        &self,
        _request: Request<PublishWitAuthorityRequest>,
    ) -> Result<Response<PublishWitAuthorityResponse>, Status> {
        Err(self.refuse(Code::Unimplemented, "WIT-SVID functionality is not yet implemented", None))
    }

    async fn list_federated_bundles(
        &self,
        request: Request<ListFederatedBundlesRequest>,
    ) -> Result<Response<ListFederatedBundlesResponse>, Status> {
        let request = request.into_inner();
        let page = Page { size: request.page_size, token: &request.page_token };
        let listed = self.core.store.lock().federated_bundles(page);
        let (bundles, next_page_token) =
            listed.map_err(|error| self.refuse(Code::Internal, "failed to list bundles", Some(&error)))?;
        let mask = request.output_mask.as_ref();
        let bundles = bundles.into_iter().map(|bundle| parse::masked(bundle, mask)).collect();
        Ok(Response::new(ListFederatedBundlesResponse { bundles, next_page_token }))
    }

    async fn get_federated_bundle(
        &self,
        request: Request<GetFederatedBundleRequest>,
    ) -> Result<Response<wire::Bundle>, Status> {
        let request = request.into_inner();
        let trust_domain =
            self.foreign(&request.trust_domain, "getting a federated bundle for the server's own")?;
        let held = self.core.store.lock().bundle(&trust_domain);
        let bundle = held.ok_or_else(|| self.refuse(Code::NotFound, "bundle not found", None))?;
        Ok(Response::new(parse::masked(bundle, request.output_mask.as_ref())))
    }

    async fn batch_create_federated_bundle(
        &self,
        request: Request<BatchCreateFederatedBundleRequest>,
    ) -> Result<Response<BatchCreateFederatedBundleResponse>, Status> {
        let request = request.into_inner();
        let create = |bundle| {
            let (status, bundle) = self.item_of(self.create_bundle(bundle), request.output_mask.as_ref());
            batch_create_federated_bundle_response::Result { status, bundle }
        };
        let results = request.bundle.iter().map(create).collect();
        Ok(Response::new(BatchCreateFederatedBundleResponse { results }))
    }

    async fn batch_update_federated_bundle(
        &self,
        request: Request<BatchUpdateFederatedBundleRequest>,
    ) -> Result<Response<BatchUpdateFederatedBundleResponse>, Status> {
        let request = request.into_inner();
        let update = |bundle| {
            let updated = self.update_bundle(bundle, request.input_mask);
            let (status, bundle) = self.item_of(updated, request.output_mask.as_ref());
            batch_update_federated_bundle_response::Result { status, bundle }
        };
        let results = request.bundle.iter().map(update).collect();
        Ok(Response::new(BatchUpdateFederatedBundleResponse { results }))
    }

    async fn batch_set_federated_bundle(
        &self,
        request: Request<BatchSetFederatedBundleRequest>,
    ) -> Result<Response<BatchSetFederatedBundleResponse>, Status> {
        let request = request.into_inner();
        let set = |bundle| {
            let (status, bundle) = self.item_of(self.set_bundle(bundle), request.output_mask.as_ref());
            batch_set_federated_bundle_response::Result { status, bundle }
        };
        let results = request.bundle.iter().map(set).collect();
        Ok(Response::new(BatchSetFederatedBundleResponse { results }))
    }

    async fn batch_delete_federated_bundle(
        &self,
        request: Request<BatchDeleteFederatedBundleRequest>,
    ) -> Result<Response<BatchDeleteFederatedBundleResponse>, Status> {
        use batch_delete_federated_bundle_request::Mode;
        let request = request.into_inner();
        let mode = match Mode::try_from(request.mode) {
            Ok(Mode::Restrict) => DeleteMode::Restrict,
            Ok(Mode::Delete) => DeleteMode::Delete,
            Ok(Mode::Dissociate) => DeleteMode::Dissociate,
            Err(_) => {
                let unhandled = format!("unhandled delete mode \"{}\"", request.mode);
                let message = "failed to parse deletion mode";
                return Err(self.refuse(Code::InvalidArgument, message, Some(&unhandled)));
            }
        };
        let delete = |trust_domain: String| {
            let status = match self.delete_bundle(&trust_domain, mode) {
                Ok(()) => super::ok(),
                Err(status) => super::item(&status),
            };
            batch_delete_federated_bundle_response::Result { status, trust_domain }
        };
        let results = request.trust_domains.into_iter().map(delete).collect();
        Ok(Response::new(BatchDeleteFederatedBundleResponse { results }))
    }
}
