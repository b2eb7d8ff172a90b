//! Service TrustDomain: relationships that the server keeps by itself.

use entente_bundle::{SpiffeId, TrustDomain as Name};
use entente_proto::spire::api::server::trustdomain::v1::trust_domain_server::TrustDomain;
use entente_proto::spire::api::server::trustdomain::v1::*;
use entente_proto::spire::api::types as wire;
use entente_proto::spire::api::types::federation_relationship::BundleEndpointProfile;
use tonic::{Code, Request, Response, Status};

use super::parse::Bad;
use super::{Api, parse};
use crate::embedded::store::{Page, StoreError};

#[tonic::async_trait]
impl TrustDomain for Api {
    async fn list_federation_relationships(
        &self,
        request: Request<ListFederationRelationshipsRequest>,
    ) -> Result<Response<ListFederationRelationshipsResponse>, Status> {
        let request = request.into_inner();
        let page = Page { size: request.page_size, token: &request.page_token };
        let listed = self.core.store.lock().relationships_page(page);
        let (rows, next_page_token) = listed.map_err(|error| {
            self.refuse(Code::Internal, "failed to list federation relationships", Some(&error))
        })?;
        let federation_relationships = rows.into_iter().map(|row| masked(row, request.output_mask)).collect();
        Ok(Response::new(ListFederationRelationshipsResponse { federation_relationships, next_page_token }))
    }

    async fn get_federation_relationship(
        &self,
        request: Request<GetFederationRelationshipRequest>,
    ) -> Result<Response<wire::FederationRelationship>, Status> {
        let request = request.into_inner();
        let trust_domain = self.parse_name(&request.trust_domain)?;
        let held = self.core.store.lock().relationship(&trust_domain);
        let none = || self.refuse(Code::NotFound, "federation relationship does not exist", None);
        Ok(Response::new(masked(held.ok_or_else(none)?, request.output_mask)))
    }

    async fn batch_create_federation_relationship(
        &self,
        request: Request<BatchCreateFederationRelationshipRequest>,
    ) -> Result<Response<BatchCreateFederationRelationshipResponse>, Status> {
        let request = request.into_inner();
        let create = |offered| {
            let (status, federation_relationship) =
                self.relationship_item(self.create_relationship(offered), request.output_mask);
            batch_create_federation_relationship_response::Result { status, federation_relationship }
        };
        let results = request.federation_relationships.into_iter().map(create).collect();
        Ok(Response::new(BatchCreateFederationRelationshipResponse { results }))
    }

    async fn batch_update_federation_relationship(
        &self,
        request: Request<BatchUpdateFederationRelationshipRequest>,
    ) -> Result<Response<BatchUpdateFederationRelationshipResponse>, Status> {
        let request = request.into_inner();
        let update = |offered| {
            let updated = self.update_relationship(offered, request.input_mask);
            let (status, federation_relationship) = self.relationship_item(updated, request.output_mask);
            batch_update_federation_relationship_response::Result { status, federation_relationship }
        };
        let results = request.federation_relationships.into_iter().map(update).collect();
        Ok(Response::new(BatchUpdateFederationRelationshipResponse { results }))
    }

    async fn batch_delete_federation_relationship(
        &self,
        request: Request<BatchDeleteFederationRelationshipRequest>,
    ) -> Result<Response<BatchDeleteFederationRelationshipResponse>, Status> {
        let delete = |name: String| {
            let status = match self.delete_relationship(&name) {
                Ok(()) => super::ok(),
                Err(status) => super::item(&status),
            };
            // The bare name is echoed where there is one.
            let trust_domain = parse::trust_domain(&name).map_or(name, |parsed| parsed.to_string());
            batch_delete_federation_relationship_response::Result { status, trust_domain }
        };
        let results = request.into_inner().trust_domains.into_iter().map(delete).collect();
        Ok(Response::new(BatchDeleteFederationRelationshipResponse { results }))
    }

    async fn refresh_bundle(&self, request: Request<RefreshBundleRequest>) -> Result<Response<()>, Status> {
        let trust_domain = self.parse_name(&request.get_ref().trust_domain)?;
        match self.client.refresh(&trust_domain).await {
            Some(Ok(())) => {
                self.log.with("trust_domain_id", &trust_domain).debug("Bundle refreshed");
                Ok(Response::new(()))
            }
            Some(Err(error)) => Err(self.refuse(Code::Internal, "failed to refresh bundle", Some(&error))),
            None => {
                let message = format!("no relationship with trust domain \"{trust_domain}\"");
                Err(self.refuse(Code::NotFound, &message, None))
            }
        }
    }
}

impl Api {
    fn parse_name(&self, name: &str) -> Result<Name, Status> {
        parse::trust_domain(name)
            .map_err(|bad| self.refuse(Code::InvalidArgument, "failed to parse trust domain", Some(&bad)))
    }

    fn convert(&self, offered: wire::FederationRelationship) -> Result<wire::FederationRelationship, Status> {
        checked(offered).map_err(|bad| {
            self.refuse(Code::InvalidArgument, "failed to convert federation relationship", Some(&bad))
        })
    }

    fn create_relationship(
        &self,
        offered: wire::FederationRelationship,
    ) -> Result<wire::FederationRelationship, Status> {
        let offered = self.convert(offered)?;
        if offered.trust_domain == self.core.trust_domain.as_str() {
            let message = "unable to create federation relationship for server trust domain";
            return Err(self.refuse(Code::InvalidArgument, message, None));
        }
        let created = self.core.store.lock().create_relationship(offered);
        // Internal also for one that is there already, whatever the contract says.
        let created = created.map_err(|error| {
            self.refuse(Code::Internal, "failed to create federation relationship", Some(&error))
        })?;
        self.changed(&created, "Federation relationship created");
        Ok(created)
    }

    fn update_relationship(
        &self,
        offered: wire::FederationRelationship,
        mask: Option<wire::FederationRelationshipMask>,
    ) -> Result<wire::FederationRelationship, Status> {
        let offered = self.convert(offered)?;
        let mask = mask.unwrap_or(ALL);
        let updated = self.core.store.lock().update_relationship(offered, mask);
        let updated = updated.map_err(|error| {
            let cause = format!("unable to fetch federation relationship: {error}");
            let cause = if matches!(error, StoreError::Missing { .. }) { cause } else { error.to_string() };
            self.refuse(Code::Internal, "failed to update federation relationship", Some(&cause))
        })?;
        self.changed(&updated, "Federation relationship updated");
        Ok(updated)
    }

    fn delete_relationship(&self, name: &str) -> Result<(), Status> {
        if name.is_empty() {
            return Err(self.refuse(Code::InvalidArgument, "missing trust domain", None));
        }
        let trust_domain = self.parse_name(name)?;
        let deleted = self.core.store.lock().delete_relationship(&trust_domain);
        deleted.map_err(|error| match error {
            StoreError::Missing { .. } => {
                self.refuse(Code::NotFound, "federation relationship not found", None)
            }
            error => self.refuse(Code::Internal, "failed to delete federation relationship", Some(&error)),
        })?;
        self.log.with("trust_domain_id", &trust_domain).debug("Federation relationship deleted");
        self.core.relationships.ring();
        Ok(())
    }

    /// Warns where the endpoint cannot be authenticated yet, and has the bundle client look again.
    fn changed(&self, row: &wire::FederationRelationship, message: &str) {
        let log = self.log.with("trust_domain_id", &row.trust_domain);
        if let (None, Some(BundleEndpointProfile::HttpsSpiffe(profile))) =
            (&row.trust_domain_bundle, &row.bundle_endpoint_profile)
        {
            let id = SpiffeId::new(&profile.endpoint_spiffe_id).ok();
            let held = id.and_then(|id| self.core.store.lock().bundle(id.trust_domain()));
            if held.is_none() {
                log.with("endpoint_spiffe_id", &profile.endpoint_spiffe_id)
                    .warn("bundle not found for the endpoint SPIFFE ID trust domain");
            }
        }
        log.debug(message);
        self.core.relationships.ring();
    }

    fn relationship_item(
        &self,
        outcome: Result<wire::FederationRelationship, Status>,
        mask: Option<wire::FederationRelationshipMask>,
    ) -> (Option<wire::Status>, Option<wire::FederationRelationship>) {
        match outcome {
            Ok(row) => (super::ok(), Some(masked(row, mask))),
            Err(status) => (super::item(&status), None),
        }
    }
}

const ALL: wire::FederationRelationshipMask = wire::FederationRelationshipMask {
    bundle_endpoint_url: true,
    bundle_endpoint_profile: true,
    trust_domain_bundle: true,
};

fn masked(
    mut row: wire::FederationRelationship,
    mask: Option<wire::FederationRelationshipMask>,
) -> wire::FederationRelationship {
    let mask = mask.unwrap_or(ALL);
    if !mask.bundle_endpoint_url {
        row.bundle_endpoint_url.clear();
    }
    if !mask.bundle_endpoint_profile {
        row.bundle_endpoint_profile = None;
    }
    if !mask.trust_domain_bundle {
        row.trust_domain_bundle = None;
    }
    row
}

/// URL and profile have to be good whatever a mask says.
fn checked(offered: wire::FederationRelationship) -> Result<wire::FederationRelationship, Bad> {
    let trust_domain = parse::trust_domain(&offered.trust_domain)
        .map_err(|bad| Bad::new(format!("failed to parse trust domain: {bad}")))?;
    check_url(&offered.bundle_endpoint_url)?;
    match &offered.bundle_endpoint_profile {
        Some(BundleEndpointProfile::HttpsWeb(_)) => {}
        Some(BundleEndpointProfile::HttpsSpiffe(profile)) => {
            SpiffeId::new(&profile.endpoint_spiffe_id)
                .map_err(|error| Bad::new(format!("failed to parse endpoint SPIFFE ID: {error}")))?;
        }
        None => return Err(Bad::new("unsupported bundle endpoint profile type: <nil>")),
    }
    let trust_domain_bundle = offered.trust_domain_bundle.as_ref().map(parse::bundle).transpose();
    let trust_domain_bundle =
        trust_domain_bundle.map_err(|bad| Bad::new(format!("failed to parse bundle: {bad}")))?;
    if let Some(bundle) = trust_domain_bundle.as_ref().filter(|one| one.trust_domain != trust_domain.as_str())
    {
        return Err(Bad::new(format!(
            "trust domain bundle ({:?}) must match the trust domain of the federation relationship ({:?})",
            bundle.trust_domain,
            trust_domain.as_str()
        )));
    }
    Ok(wire::FederationRelationship {
        trust_domain: trust_domain.to_string(),
        trust_domain_bundle,
        ..offered
    })
}

fn check_url(url: &str) -> Result<(), Bad> {
    let Some(rest) = url.strip_prefix("https://") else {
        return Err(Bad::new("bundle endpoint URL must use the https scheme"));
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(Bad::new("bundle endpoint URL must not contain user info"));
    }
    if authority.is_empty() {
        return Err(Bad::new("bundle endpoint URL must specify the host"));
    }
    match url.parse::<http::Uri>() {
        Ok(_) => Ok(()),
        Err(error) => Err(Bad::new(format!("failed to parse bundle endpoint URL: {error}"))),
    }
}
