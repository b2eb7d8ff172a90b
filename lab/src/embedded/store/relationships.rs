//! The table of federation relationships. The bundle of a relationship is the stored one of its trust domain.

use entente_bundle::TrustDomain;
use entente_proto::spire::api::types as wire;

use super::{NOT_FOUND, Page, StoreError, Tables};

impl Tables {
    /// Without bundles.
    pub(crate) fn relationships(&self) -> Vec<wire::FederationRelationship> {
        self.relationships.rows().map(|(_, row)| row.clone()).collect()
    }

    pub(crate) fn relationship(&self, trust_domain: &TrustDomain) -> Option<wire::FederationRelationship> {
        let (_, found) = self.relationships.find(|held| held.trust_domain == trust_domain.as_str())?;
        Some(self.with_bundle(found.clone()))
    }

    pub(crate) fn relationships_page(
        &self,
        page: Page<'_>,
    ) -> Result<(Vec<wire::FederationRelationship>, String), StoreError> {
        let (rows, token) = self.relationships.page(page, |_| true)?;
        Ok((rows.into_iter().map(|row| self.with_bundle(row)).collect(), token))
    }

    /// A bundle that comes along replaces the stored one.
    pub(crate) fn create_relationship(
        &mut self,
        mut offered: wire::FederationRelationship,
    ) -> Result<wire::FederationRelationship, StoreError> {
        if self.relationships.find(|held| held.trust_domain == offered.trust_domain).is_some() {
            return Err(StoreError::NotUnique { column: "federated_trust_domains.trust_domain" });
        }
        if let Some(bundle) = offered.trust_domain_bundle.take() {
            self.set_bundle(bundle)?;
        }
        self.relationships.insert(offered.clone())?;
        Ok(self.with_bundle(offered))
    }

    pub(crate) fn update_relationship(
        &mut self,
        offered: wire::FederationRelationship,
        mask: wire::FederationRelationshipMask,
    ) -> Result<wire::FederationRelationship, StoreError> {
        let found = self.relationships.find(|held| held.trust_domain == offered.trust_domain);
        let (id, mut held) = found.map(|(id, held)| (id, held.clone())).ok_or(NOT_FOUND)?;
        if mask.bundle_endpoint_url {
            held.bundle_endpoint_url = offered.bundle_endpoint_url;
        }
        if mask.bundle_endpoint_profile {
            held.bundle_endpoint_profile = offered.bundle_endpoint_profile;
        }
        if let Some(bundle) = offered.trust_domain_bundle.filter(|_| mask.trust_domain_bundle) {
            self.set_bundle(bundle)?;
        }
        self.relationships.replace(id, held.clone())?;
        Ok(self.with_bundle(held))
    }

    /// The bundle stays, and so do entries that name the trust domain.
    pub(crate) fn delete_relationship(&mut self, trust_domain: &TrustDomain) -> Result<(), StoreError> {
        let found = self.relationships.find(|held| held.trust_domain == trust_domain.as_str());
        let (id, _) = found.ok_or(NOT_FOUND)?;
        Ok(self.relationships.remove(id)?)
    }

    fn with_bundle(&self, mut row: wire::FederationRelationship) -> wire::FederationRelationship {
        let stored = self.bundles.find(|bundle| bundle.trust_domain == row.trust_domain);
        row.trust_domain_bundle = stored.map(|(_, bundle)| bundle.clone());
        row
    }
}
