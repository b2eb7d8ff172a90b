//! Service Entry: registration entries.

use entente_bundle::text::hex;
use entente_proto::spire::api::server::entry::v1::entry_server::Entry;
use entente_proto::spire::api::server::entry::v1::*;
use entente_proto::spire::api::types as wire;
use tonic::{Code, Request, Response, Status};

use super::filter::Filter;
use super::parse::Bad;
use super::{Api, parse};
use crate::embedded::store::{Page, StoreError};
use crate::embedded::unix_now;

#[tonic::async_trait]
impl Entry for Api {
    async fn count_entries(
        &self,
        request: Request<CountEntriesRequest>,
    ) -> Result<Response<CountEntriesResponse>, Status> {
        let filter = request.into_inner().filter.map(Filter::from).unwrap_or_default();
        self.check_filter(&filter)?;
        let count = self.core.store.lock().count_entries(|entry| filter.allows(entry));
        Ok(Response::new(CountEntriesResponse { count: i32::try_from(count).unwrap_or(i32::MAX) }))
    }

    async fn list_entries(
        &self,
        request: Request<ListEntriesRequest>,
    ) -> Result<Response<ListEntriesResponse>, Status> {
        let request = request.into_inner();
        let filter = request.filter.map(Filter::from).unwrap_or_default();
        self.check_filter(&filter)?;
        let page = Page { size: request.page_size, token: &request.page_token };
        let listed = self.core.store.lock().entries_page(page, |entry| filter.allows(entry));
        let (entries, next_page_token) =
            listed.map_err(|error| self.refuse(Code::Internal, "failed to list entries", Some(&error)))?;
        let entries = entries.into_iter().map(|entry| masked(entry, request.output_mask)).collect();
        Ok(Response::new(ListEntriesResponse { entries, next_page_token }))
    }

    async fn get_entry(&self, request: Request<GetEntryRequest>) -> Result<Response<wire::Entry>, Status> {
        let request = request.into_inner();
        if request.id.is_empty() {
            return Err(self.refuse(Code::InvalidArgument, "missing ID", None));
        }
        let held = self.core.store.lock().entry(&request.id);
        let entry = held.ok_or_else(|| self.refuse(Code::NotFound, "entry not found", None))?;
        Ok(Response::new(masked(entry, request.output_mask)))
    }

    async fn batch_create_entry(
        &self,
        request: Request<BatchCreateEntryRequest>,
    ) -> Result<Response<BatchCreateEntryResponse>, Status> {
        let request = request.into_inner();
        let create = |offered| {
            let (status, entry) = match self.create_entry(offered) {
                Ok((entry, false)) => (super::ok(), Some(masked(entry, request.output_mask))),
                Ok((entry, true)) => {
                    let twin = Status::already_exists("similar entry already exists");
                    (super::item(&twin), Some(masked(entry, request.output_mask)))
                }
                Err(status) => (super::item(&status), None),
            };
            batch_create_entry_response::Result { status, entry }
        };
        let results = request.entries.into_iter().map(create).collect();
        Ok(Response::new(BatchCreateEntryResponse { results }))
    }

    async fn batch_update_entry(
        &self,
        request: Request<BatchUpdateEntryRequest>,
    ) -> Result<Response<BatchUpdateEntryResponse>, Status> {
        let request = request.into_inner();
        let update = |offered| {
            let (status, entry) = match self.update_entry(offered, request.input_mask) {
                Ok(entry) => (super::ok(), Some(masked(entry, request.output_mask))),
                Err(status) => (super::item(&status), None),
            };
            batch_update_entry_response::Result { status, entry }
        };
        let results = request.entries.into_iter().map(update).collect();
        Ok(Response::new(BatchUpdateEntryResponse { results }))
    }

    async fn batch_delete_entry(
        &self,
        request: Request<BatchDeleteEntryRequest>,
    ) -> Result<Response<BatchDeleteEntryResponse>, Status> {
        let delete = |id: String| {
            let status = match self.delete_entry(&id) {
                Ok(()) => super::ok(),
                Err(status) => super::item(&status),
            };
            batch_delete_entry_response::Result { status, id }
        };
        let results = request.into_inner().ids.into_iter().map(delete).collect();
        Ok(Response::new(BatchDeleteEntryResponse { results }))
    }
}

impl Api {
    fn check_filter(&self, filter: &Filter) -> Result<(), Status> {
        filter.check(&self.core.trust_domain).map_err(|(part, bad)| {
            let message = format!("malformed {part} filter");
            self.refuse(Code::InvalidArgument, &message, Some(&bad))
        })
    }

    fn create_entry(&self, offered: wire::Entry) -> Result<(wire::Entry, bool), Status> {
        let mut entry = self.convert_entry(offered, &ALL)?;
        if entry.id.is_empty() {
            entry.id = new_id();
        }
        entry.created_at = unix_now();
        entry.revision_number = 0;
        let created = self.core.store.lock().create_entry(entry);
        created.map_err(|error| self.refuse(error.code(), "failed to create entry", Some(&error)))
    }

    fn update_entry(
        &self,
        offered: wire::Entry,
        mask: Option<wire::EntryMask>,
    ) -> Result<wire::Entry, Status> {
        let mask = mask.unwrap_or(ALL);
        let entry = self.convert_entry(offered, &mask)?;
        let updated = self.core.store.lock().update_entry(entry, mask);
        updated.map_err(|error| self.refuse(error.code(), "failed to update entry", Some(&error)))
    }

    fn convert_entry(&self, offered: wire::Entry, mask: &wire::EntryMask) -> Result<wire::Entry, Status> {
        self.checked(offered, mask)
            .map_err(|bad| self.refuse(Code::InvalidArgument, "failed to convert entry", Some(&bad)))
    }

    fn delete_entry(&self, id: &str) -> Result<(), Status> {
        if id.is_empty() {
            return Err(self.refuse(Code::InvalidArgument, "missing entry ID", None));
        }
        let deleted = self.core.store.lock().delete_entry(id);
        deleted.map_err(|error| match error {
            StoreError::Missing { .. } => self.refuse(Code::NotFound, "entry not found", None),
            error => self.refuse(Code::Internal, "failed to delete entry", Some(&error)),
        })
    }

    fn checked(&self, mut offered: wire::Entry, mask: &wire::EntryMask) -> Result<wire::Entry, Bad> {
        let own = &self.core.trust_domain;
        if mask.parent_id {
            parse::member_id(own, offered.parent_id.as_ref())
                .map_err(|bad| Bad::new(format!("invalid parent ID: {bad}")))?;
        }
        if mask.spiffe_id {
            let id = parse::spiffe_id(offered.spiffe_id.as_ref());
            id.and_then(|id| parse::check_workload(own, &id))
                .map_err(|bad| Bad::new(format!("invalid spiffe ID: {bad}")))?;
        }
        if mask.selectors {
            if offered.selectors.is_empty() {
                return Err(Bad::new("selector list is empty"));
            }
            parse::selectors(&offered.selectors)?;
        }
        for name in &mut offered.federates_with {
            let parsed = parse::trust_domain(name);
            *name =
                parsed.map_err(|bad| Bad::new(format!("invalid federated trust domain: {bad}")))?.to_string();
        }
        Ok(offered)
    }
}

const ALL: wire::EntryMask = wire::EntryMask {
    spiffe_id: true,
    parent_id: true,
    selectors: true,
    x509_svid_ttl: true,
    federates_with: true,
    admin: true,
    downstream: true,
    expires_at: true,
    dns_names: true,
    revision_number: true,
    store_svid: true,
    jwt_svid_ttl: true,
    hint: true,
    created_at: true,
    additional_attributes: true,
};

fn masked(entry: wire::Entry, mask: Option<wire::EntryMask>) -> wire::Entry {
    let Some(mask) = mask else { return entry };
    let mut shown = wire::Entry { id: entry.id, ..wire::Entry::default() };
    macro_rules! show {
        ($($field:ident),*) => { $(if mask.$field { shown.$field = entry.$field; })* };
    }
    show!(spiffe_id, parent_id, selectors, x509_svid_ttl, federates_with, admin, downstream, expires_at);
    show!(dns_names, revision_number, store_svid, jwt_svid_ttl, hint, created_at, additional_attributes);
    shown
}

/// A random UUID, version 4.
pub(super) fn new_id() -> String {
    let mut bytes: [u8; 16] = rand::random();
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let text = hex(&bytes);
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| text.get(range).unwrap_or_default());
    parts.join("-")
}
