//! The table of bundles: the own one with its sequence number, and the foreign ones.

use entente_bundle::TrustDomain;
use entente_proto::spire::api::types as wire;

use super::{NOT_FOUND, Page, StoreError, Tables};
use crate::embedded::certificate::is_named;

const ROOT_CA: &str = "root CA";
const KEY: &str = "key";

/// What happens to entries that federate with a bundle to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeleteMode {
    Delete,
    Dissociate,
    Restrict,
}

impl Tables {
    /// `None` before the first authority was made.
    pub(crate) fn own_bundle(&self) -> Option<wire::Bundle> {
        self.bundle(&self.own)
    }

    /// The stored bundle of a trust domain, the own one included.
    pub(crate) fn bundle(&self, trust_domain: &TrustDomain) -> Option<wire::Bundle> {
        self.find_bundle(trust_domain).map(|(_, bundle)| bundle.clone())
    }

    fn find_bundle(&self, trust_domain: &TrustDomain) -> Option<(u64, &wire::Bundle)> {
        self.bundles.find(|bundle| bundle.trust_domain == trust_domain.as_str())
    }

    pub(crate) fn count_bundles(&self) -> usize {
        self.bundles.rows().count()
    }

    /// The own bundle takes its place in a page and is left out after that, as in SPIRE: a page may be one short or empty.
    pub(crate) fn federated_bundles(
        &self,
        page: Page<'_>,
    ) -> Result<(Vec<wire::Bundle>, String), StoreError> {
        let (mut bundles, token) = self.bundles.page(page, |_| true)?;
        bundles.retain(|bundle| bundle.trust_domain != self.own.as_str());
        Ok((bundles, token))
    }

    pub(crate) fn create_bundle(&mut self, bundle: wire::Bundle) -> Result<wire::Bundle, StoreError> {
        if self.bundles.find(|held| held.trust_domain == bundle.trust_domain).is_some() {
            return Err(StoreError::NotUnique { column: "bundles.trust_domain" });
        }
        self.bundles.insert(bundle.clone())?;
        Ok(bundle)
    }

    /// Creates or replaces, whatever the sequence numbers say.
    pub(crate) fn set_bundle(&mut self, bundle: wire::Bundle) -> Result<wire::Bundle, StoreError> {
        match self.bundles.find(|held| held.trust_domain == bundle.trust_domain) {
            Some((id, _)) => self.bundles.replace(id, bundle.clone())?,
            None => self.bundles.insert(bundle.clone())?,
        }
        Ok(bundle)
    }

    /// Replaces the parts that the mask names; without a mask all of them.
    pub(crate) fn update_bundle(
        &mut self,
        bundle: wire::Bundle,
        mask: Option<wire::BundleMask>,
    ) -> Result<wire::Bundle, StoreError> {
        let found = self.bundles.find(|held| held.trust_domain == bundle.trust_domain);
        let (id, mut held) = found.map(|(id, held)| (id, held.clone())).ok_or(NOT_FOUND)?;
        match mask {
            None => held = bundle,
            Some(mask) => copy_masked(&mut held, bundle, mask),
        }
        self.bundles.replace(id, held.clone())?;
        Ok(held)
    }

    pub(crate) fn delete_bundle(
        &mut self,
        trust_domain: &TrustDomain,
        mode: DeleteMode,
    ) -> Result<(), StoreError> {
        let (id, _) = self.find_bundle(trust_domain).ok_or(NOT_FOUND)?;
        let entries = self.entries_federating_with(trust_domain);
        match mode {
            DeleteMode::Restrict if !entries.is_empty() => {
                return Err(StoreError::Federated { entries: entries.len() });
            }
            DeleteMode::Restrict => {}
            DeleteMode::Delete => self.remove_entries(&entries)?,
            DeleteMode::Dissociate => self.detach_entries(&entries, trust_domain)?,
        }
        Ok(self.bundles.remove(id)?)
    }

    /// Adds authorities to the own bundle, which is created with sequence number 0; says whether anything changed.
    ///
    /// Whole records are compared, so the same certificate with another taint mark is added again, as in SPIRE.
    pub(crate) fn append(
        &mut self,
        x509: Vec<wire::X509Certificate>,
        jwt: Vec<wire::JwtKey>,
    ) -> Result<(wire::Bundle, bool), StoreError> {
        let Some((id, mut bundle)) = self.find_bundle(&self.own).map(|(id, held)| (id, held.clone())) else {
            let trust_domain = self.own.as_str().to_owned();
            let bundle = wire::Bundle {
                trust_domain,
                x509_authorities: x509,
                jwt_authorities: jwt,
                ..wire::Bundle::default()
            };
            return Ok((self.create_bundle(bundle)?, true));
        };
        let held = (bundle.x509_authorities.len(), bundle.jwt_authorities.len());
        add_missing(&mut bundle.x509_authorities, x509);
        add_missing(&mut bundle.jwt_authorities, jwt);
        let changed = held != (bundle.x509_authorities.len(), bundle.jwt_authorities.len());
        if changed {
            bundle.sequence_number += 1;
            self.bundles.replace(id, bundle.clone())?;
        }
        Ok((bundle, changed))
    }

    pub(crate) fn taint_x509(&mut self, subject_key_id: &str) -> Result<(), StoreError> {
        self.change_own(|bundle| {
            let none = StoreError::Missing { what: "no ca found with provided subject key ID" };
            let mut authorities = bundle.x509_authorities.iter_mut();
            let found = authorities.find(|held| is_named(held, subject_key_id)).ok_or(none)?;
            if std::mem::replace(&mut found.tainted, true) {
                return Err(StoreError::AlreadyTainted { what: ROOT_CA });
            }
            Ok(())
        })
    }

    pub(crate) fn revoke_x509(&mut self, subject_key_id: &str) -> Result<(), StoreError> {
        self.change_own(|bundle| {
            let none = StoreError::Missing { what: "no root CA found with provided subject key ID" };
            let mut authorities = bundle.x509_authorities.iter();
            let found = authorities.find(|held| is_named(held, subject_key_id)).ok_or(none)?;
            if !found.tainted {
                return Err(StoreError::Untainted { what: ROOT_CA });
            }
            bundle.x509_authorities.retain(|held| !is_named(held, subject_key_id));
            Ok(())
        })
    }

    pub(crate) fn taint_jwt(&mut self, key_id: &str) -> Result<(), StoreError> {
        self.change_own(|bundle| {
            let none = StoreError::Missing { what: "no JWT Key found with provided key ID" };
            let found = bundle.jwt_authorities.iter_mut().find(|held| held.key_id == key_id).ok_or(none)?;
            if std::mem::replace(&mut found.tainted, true) {
                return Err(StoreError::AlreadyTainted { what: KEY });
            }
            Ok(())
        })
    }

    pub(crate) fn revoke_jwt(&mut self, key_id: &str) -> Result<(), StoreError> {
        self.change_own(|bundle| {
            let none = StoreError::Missing { what: "no JWT Key found with provided key ID" };
            let found = bundle.jwt_authorities.iter().find(|held| held.key_id == key_id).ok_or(none)?;
            if !found.tainted {
                return Err(StoreError::Untainted { what: KEY });
            }
            bundle.jwt_authorities.retain(|held| held.key_id != key_id);
            Ok(())
        })
    }

    /// One counted change of the own bundle.
    fn change_own(
        &mut self,
        change: impl FnOnce(&mut wire::Bundle) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let found = self.find_bundle(&self.own).map(|(id, held)| (id, held.clone()));
        let (id, mut bundle) = found.ok_or(NOT_FOUND)?;
        change(&mut bundle)?;
        bundle.sequence_number += 1;
        Ok(self.bundles.replace(id, bundle)?)
    }
}

fn add_missing<T: PartialEq>(held: &mut Vec<T>, offered: Vec<T>) {
    for one in offered {
        if !held.contains(&one) {
            held.push(one);
        }
    }
}

fn copy_masked(held: &mut wire::Bundle, given: wire::Bundle, mask: wire::BundleMask) {
    if mask.x509_authorities {
        held.x509_authorities = given.x509_authorities;
    }
    if mask.jwt_authorities {
        held.jwt_authorities = given.jwt_authorities;
    }
    if mask.refresh_hint {
        held.refresh_hint = given.refresh_hint;
    }
    if mask.sequence_number {
        held.sequence_number = given.sequence_number;
    }
}
