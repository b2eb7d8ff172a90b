//! The table of registration entries, and how they hold on to foreign bundles.

use entente_bundle::TrustDomain;
use entente_proto::spire::api::types as wire;

use super::{NOT_FOUND, Page, StoreError, Tables};

impl Tables {
    pub(crate) fn entry(&self, id: &str) -> Option<wire::Entry> {
        self.entries.find(|held| held.id == id).map(|(_, entry)| entry.clone())
    }

    pub(crate) fn count_entries(&self, wanted: impl Fn(&wire::Entry) -> bool) -> usize {
        self.entries.rows().filter(|(_, entry)| wanted(entry)).count()
    }

    pub(crate) fn entries_page(
        &self,
        page: Page<'_>,
        wanted: impl Fn(&wire::Entry) -> bool,
    ) -> Result<(Vec<wire::Entry>, String), StoreError> {
        self.entries.page(page, wanted)
    }

    /// An entry of the same IDs and selectors is returned instead of made a second time; the flag says so.
    pub(crate) fn create_entry(&mut self, offered: wire::Entry) -> Result<(wire::Entry, bool), StoreError> {
        self.require_bundles(&offered.federates_with)?;
        if let Some((_, held)) = self.entries.find(|held| is_similar(held, &offered) || held.id == offered.id)
        {
            return Ok((held.clone(), true));
        }
        self.entries.insert(offered.clone())?;
        Ok((offered, false))
    }

    /// Replaces the parts that the mask names and counts the revision.
    pub(crate) fn update_entry(
        &mut self,
        offered: wire::Entry,
        mask: wire::EntryMask,
    ) -> Result<wire::Entry, StoreError> {
        let found = self.entries.find(|held| held.id == offered.id);
        let (row, mut held) = found.map(|(row, held)| (row, held.clone())).ok_or(NOT_FOUND)?;
        if mask.federates_with {
            self.require_bundles(&offered.federates_with)?;
        }
        copy_masked(&mut held, offered, mask);
        held.revision_number += 1;
        self.entries.replace(row, held.clone())?;
        Ok(held)
    }

    pub(crate) fn delete_entry(&mut self, id: &str) -> Result<(), StoreError> {
        let (row, _) = self.entries.find(|held| held.id == id).ok_or(NOT_FOUND)?;
        Ok(self.entries.remove(row)?)
    }

    pub(super) fn entries_federating_with(&self, trust_domain: &TrustDomain) -> Vec<u64> {
        let names =
            |entry: &wire::Entry| entry.federates_with.iter().any(|name| name == trust_domain.as_str());
        self.entries.rows().filter(|(_, entry)| names(entry)).map(|(row, _)| row).collect()
    }

    pub(super) fn remove_entries(&mut self, rows: &[u64]) -> Result<(), StoreError> {
        rows.iter().try_for_each(|row| Ok(self.entries.remove(*row)?))
    }

    pub(super) fn detach_entries(&mut self, rows: &[u64], from: &TrustDomain) -> Result<(), StoreError> {
        for row in rows {
            let Some((_, mut entry)) =
                self.entries.rows().find(|(id, _)| id == row).map(|(id, e)| (id, e.clone()))
            else {
                continue;
            };
            entry.federates_with.retain(|name| name != from.as_str());
            self.entries.replace(*row, entry)?;
        }
        Ok(())
    }

    /// A relationship is not enough: the bundle itself must be stored.
    fn require_bundles(&self, trust_domains: &[String]) -> Result<(), StoreError> {
        let stored = |name: &String| self.bundles.find(|bundle| bundle.trust_domain == *name).is_some();
        match trust_domains.iter().find(|name| !stored(name)) {
            Some(name) => Err(StoreError::NoFederatedBundle { trust_domain: name.clone() }),
            None => Ok(()),
        }
    }
}

fn is_similar(held: &wire::Entry, offered: &wire::Entry) -> bool {
    let sorted = |entry: &wire::Entry| {
        let mut selectors: Vec<_> = entry
            .selectors
            .iter()
            .map(|selector| (selector.r#type.clone(), selector.value.clone()))
            .collect();
        selectors.sort();
        selectors
    };
    held.spiffe_id == offered.spiffe_id
        && held.parent_id == offered.parent_id
        && sorted(held) == sorted(offered)
}

fn copy_masked(held: &mut wire::Entry, given: wire::Entry, mask: wire::EntryMask) {
    macro_rules! copy {
        ($($field:ident),*) => { $(if mask.$field { held.$field = given.$field; })* };
    }
    copy!(spiffe_id, parent_id, selectors, x509_svid_ttl, federates_with, admin, downstream, expires_at);
    copy!(dns_names, store_svid, jwt_svid_ttl, hint, additional_attributes);
}
