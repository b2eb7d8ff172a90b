//! One item of the batch calls that write bundles of foreign trust domains.

use entente_bundle::TrustDomain;
use entente_proto::spire::api::types as wire;
use tonic::{Code, Status};

use super::{Api, parse};
use crate::embedded::store::{DeleteMode, StoreError};

impl Api {
    /// A trust domain that is not the server's own; `doing` begins the refusal of that.
    pub(super) fn foreign(&self, name: &str, doing: &str) -> Result<TrustDomain, Status> {
        let trust_domain = parse::trust_domain(name).map_err(|bad| {
            self.refuse(Code::InvalidArgument, "trust domain argument is not valid", Some(&bad))
        })?;
        if trust_domain == self.core.trust_domain {
            let message = format!("{doing} trust domain is not allowed");
            return Err(self.refuse(Code::InvalidArgument, &message, None));
        }
        Ok(trust_domain)
    }

    fn good_bundle(&self, offered: &wire::Bundle, doing: &str) -> Result<wire::Bundle, Status> {
        self.foreign(&offered.trust_domain, doing)?;
        parse::bundle(offered)
            .map_err(|bad| self.refuse(Code::InvalidArgument, "failed to convert bundle", Some(&bad)))
    }

    pub(super) fn create_bundle(&self, offered: &wire::Bundle) -> Result<wire::Bundle, Status> {
        let bundle = self.good_bundle(offered, "creating a federated bundle for the server's own")?;
        let created = self.core.store.lock().create_bundle(bundle);
        let created = created.map_err(|error| match error {
            StoreError::NotUnique { .. } => self.refuse(Code::AlreadyExists, "bundle already exists", None),
            error => self.refuse(Code::Internal, "unable to create bundle", Some(&error)),
        })?;
        self.log_bundle(&created).debug("Federated bundle created");
        Ok(created)
    }

    pub(super) fn update_bundle(
        &self,
        offered: &wire::Bundle,
        mask: Option<wire::BundleMask>,
    ) -> Result<wire::Bundle, Status> {
        let bundle = self.good_bundle(offered, "updating a federated bundle for the server's own")?;
        let updated = self.core.store.lock().update_bundle(bundle, mask);
        let updated = updated.map_err(|error| match error {
            StoreError::Missing { .. } => self.refuse(Code::NotFound, "bundle not found", None),
            error => self.refuse(Code::Internal, "failed to update bundle", Some(&error)),
        })?;
        self.log_bundle(&updated).debug("Federated bundle updated");
        Ok(updated)
    }

    pub(super) fn set_bundle(&self, offered: &wire::Bundle) -> Result<wire::Bundle, Status> {
        let bundle = self.good_bundle(offered, "setting a federated bundle for the server's own")?;
        let set = self.core.store.lock().set_bundle(bundle);
        let set = set.map_err(|error| self.refuse(Code::Internal, "failed to set bundle", Some(&error)))?;
        self.log_bundle(&set).info("Bundle set successfully");
        Ok(set)
    }

    pub(super) fn delete_bundle(&self, name: &str, mode: DeleteMode) -> Result<(), Status> {
        let trust_domain = self.foreign(name, "removing the bundle for the server")?;
        let deleted = self.core.store.lock().delete_bundle(&trust_domain, mode);
        deleted.map_err(|error| match error.code() {
            Code::NotFound => self.refuse(Code::NotFound, "bundle not found", None),
            code => self.refuse(code, "failed to delete federated bundle", Some(&error)),
        })
    }

    fn log_bundle(&self, bundle: &wire::Bundle) -> crate::embedded::log::Log {
        self.log.with("trust_domain_id", &bundle.trust_domain)
    }

    /// Status and bundle of one result.
    pub(super) fn item_of(
        &self,
        outcome: Result<wire::Bundle, Status>,
        mask: Option<&wire::BundleMask>,
    ) -> (Option<wire::Status>, Option<wire::Bundle>) {
        match outcome {
            Ok(bundle) => (super::ok(), Some(parse::masked(bundle, mask))),
            Err(status) => (super::item(&status), None),
        }
    }
}
