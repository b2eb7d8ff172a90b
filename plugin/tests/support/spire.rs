//! SPIRE's Server API, as far as the plugin uses it, with a store that tests look into and faults that they set.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use entente_proto::spire::api::server::bundle::v1::bundle_server::{Bundle as BundleService, BundleServer};
use entente_proto::spire::api::server::bundle::v1::*;
use entente_proto::spire::api::server::entry::v1::entry_server::{Entry as EntryService, EntryServer};
use entente_proto::spire::api::server::entry::v1::*;
use entente_proto::spire::api::server::trustdomain::v1::trust_domain_server::{
    TrustDomain as TrustDomainService, TrustDomainServer,
};
use entente_proto::spire::api::server::trustdomain::v1::*;
use entente_proto::spire::api::types::{self, Bundle, Entry, FederationRelationship};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status};

use super::OWN;

/// A running server; its store outlives it.
pub struct FakeSpire {
    pub store: Store,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

/// What the server holds.
#[derive(Clone, Default)]
pub struct Store(Arc<Mutex<State>>);

/// The store, open.
#[derive(Default)]
pub struct State {
    pub bundles: BTreeMap<String, Bundle>,
    pub relationships: BTreeMap<String, FederationRelationship>,
    pub entries: Vec<Entry>,
    /// What a relationship's endpoint would give.
    pub refreshed: BTreeMap<String, Bundle>,
    /// Trust domains whose endpoint does not finish its answer.
    pub hanging: BTreeSet<String>,
    /// A policy hides the relationships.
    pub relationships_hidden: bool,
    /// Item status of the next sets.
    pub set_fails: Option<types::Status>,
    /// Entries are asked for and no answer comes.
    pub entries_hang: bool,
    pub entry_looks: usize,
    /// Bundles are to be deleted, and that takes long.
    pub deletes_hang: bool,
    /// Sets are acknowledged and dropped.
    pub set_forgets: bool,
    pub sets: Vec<Bundle>,
    pub refreshes: Vec<String>,
    /// Refreshes that are not answered yet, and the most of them that there were.
    pub refreshes_open: usize,
    pub refreshes_open_at_most: usize,
    pub deletes: Vec<(Vec<String>, i32)>,
    pub page_tokens: Vec<String>,
    /// Answers that the real server writes to its log at error level.
    pub errors_logged: usize,
    /// It is the server of another trust domain than the plugin's.
    pub serves: Option<String>,
    /// The API takes calls and answers none of them.
    pub silent: bool,
}

impl Store {
    pub fn open(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub fn bundle(&self, trust_domain: &str) -> Option<Bundle> {
        self.open().bundles.get(trust_domain).cloned()
    }

    /// Writes as both calls do that write; what stands there already is for the caller.
    fn write(&self, bundle: &Bundle) -> Option<types::Status> {
        let mut state = self.open();
        state.sets.push(bundle.clone());
        let failed = state.set_fails.clone();
        if failed.is_none() && !state.set_forgets {
            state.bundles.insert(bundle.trust_domain.clone(), bundle.clone());
        }
        failed.or_else(|| status(Code::Ok, "OK"))
    }

    pub fn put(&self, bundle: &entente_bundle::Bundle) {
        let bundle = Bundle::from(bundle);
        self.open().bundles.insert(bundle.trust_domain.clone(), bundle);
    }

    /// A relationship of SPIRE's own, and what it would fetch.
    pub fn relate(&self, trust_domain: &str, refreshed: Option<&entente_bundle::Bundle>) {
        let profile =
            types::federation_relationship::BundleEndpointProfile::HttpsSpiffe(types::HttpsspiffeProfile {
                endpoint_spiffe_id: format!("spiffe://{trust_domain}/spire/server"),
            });
        let relationship = FederationRelationship {
            trust_domain: trust_domain.into(),
            bundle_endpoint_url: format!("https://{trust_domain}"),
            bundle_endpoint_profile: Some(profile),
            trust_domain_bundle: None,
        };
        let mut state = self.open();
        state.relationships.insert(trust_domain.into(), relationship);
        if let Some(refreshed) = refreshed {
            state.refreshed.insert(trust_domain.into(), Bundle::from(refreshed));
        }
    }
}

/// A call that was not answered yet; it may be given up, too.
struct OpenRefresh(Store);

impl OpenRefresh {
    fn new(store: &Store, trust_domain: &str) -> Self {
        let mut state = store.open();
        state.refreshes.push(trust_domain.into());
        state.refreshes_open += 1;
        state.refreshes_open_at_most = state.refreshes_open_at_most.max(state.refreshes_open);
        Self(store.clone())
    }
}

impl Drop for OpenRefresh {
    fn drop(&mut self) {
        self.0.open().refreshes_open -= 1;
    }
}

impl FakeSpire {
    pub fn start(path: &Path) -> Self {
        Self::start_with(path, Store::default())
    }

    pub fn start_with(path: &Path, store: Store) -> Self {
        let path: PathBuf = path.into();
        let _ = std::fs::remove_file(&path);
        let incoming = UnixListenerStream::new(UnixListener::bind(path).unwrap());
        let stop = CancellationToken::new();
        let server = Server::builder()
            .add_service(BundleServer::new(store.clone()))
            .add_service(TrustDomainServer::new(store.clone()))
            .add_service(EntryServer::new(store.clone()))
            .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
        let server = tokio::spawn(async move { server.await.unwrap() });
        Self { store, stop, server }
    }

    /// Stops as a server does that is restarted.
    pub async fn stop(self) -> Store {
        self.stop.cancel();
        self.server.await.unwrap();
        self.store
    }
}

fn status(code: Code, message: &str) -> Option<types::Status> {
    Some(types::Status { code: code.into(), message: message.into() })
}

fn unimplemented<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not in this fake"))
}

#[tonic::async_trait]
impl BundleService for Store {
    /// Pages as SPIRE does: in order, with an empty last page.
    async fn list_federated_bundles(
        &self,
        request: Request<ListFederatedBundlesRequest>,
    ) -> Result<Response<ListFederatedBundlesResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.open();
        state.page_tokens.push(request.page_token.clone());
        let after = state
            .bundles
            .iter()
            .filter(|(name, _)| request.page_token.is_empty() || **name > request.page_token);
        let page: Vec<_> =
            after.take(request.page_size.try_into().unwrap()).map(|(_, bundle)| bundle.clone()).collect();
        let next_page_token = page.last().map(|last| last.trust_domain.clone()).unwrap_or_default();
        Ok(Response::new(ListFederatedBundlesResponse { bundles: page, next_page_token }))
    }

    async fn get_federated_bundle(
        &self,
        request: Request<GetFederatedBundleRequest>,
    ) -> Result<Response<Bundle>, Status> {
        let bundle = self.bundle(&request.into_inner().trust_domain);
        if bundle.is_none() {
            self.open().errors_logged += 1;
        }
        bundle.map(Response::new).ok_or_else(|| Status::not_found("bundle not found"))
    }

    async fn batch_set_federated_bundle(
        &self,
        request: Request<BatchSetFederatedBundleRequest>,
    ) -> Result<Response<BatchSetFederatedBundleResponse>, Status> {
        let result = |bundle| batch_set_federated_bundle_response::Result {
            status: self.write(&bundle),
            bundle: None,
        };
        let results = request.into_inner().bundle.into_iter().map(result).collect();
        Ok(Response::new(BatchSetFederatedBundleResponse { results }))
    }

    async fn batch_delete_federated_bundle(
        &self,
        request: Request<BatchDeleteFederatedBundleRequest>,
    ) -> Result<Response<BatchDeleteFederatedBundleResponse>, Status> {
        let request = request.into_inner();
        self.open().deletes.push((request.trust_domains.clone(), request.mode));
        while self.open().deletes_hang {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut state = self.open();
        let mut results = Vec::new();
        let mut errors_logged = 0;
        for trust_domain in request.trust_domains {
            let users =
                state.entries.iter().filter(|entry| entry.federates_with.contains(&trust_domain)).count();
            let status = if users > 0 {
                let text = format!("cannot delete bundle; federated with {users} registration entries");
                errors_logged += 1;
                status(Code::FailedPrecondition, &text)
            } else if state.bundles.remove(&trust_domain).is_some() {
                status(Code::Ok, "OK")
            } else {
                status(Code::NotFound, "bundle not found")
            };
            results.push(batch_delete_federated_bundle_response::Result { status, trust_domain });
        }
        state.errors_logged += errors_logged;
        Ok(Response::new(BatchDeleteFederatedBundleResponse { results }))
    }

    async fn count_bundles(
        &self,
        _: Request<CountBundlesRequest>,
    ) -> Result<Response<CountBundlesResponse>, Status> {
        unimplemented()
    }

    async fn get_bundle(&self, _: Request<GetBundleRequest>) -> Result<Response<Bundle>, Status> {
        while self.open().silent {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let other = self.open().serves.clone();
        let trust_domain = other.unwrap_or_else(|| OWN.to_owned());
        Ok(Response::new(Bundle { trust_domain, ..Default::default() }))
    }

    async fn append_bundle(&self, _: Request<AppendBundleRequest>) -> Result<Response<Bundle>, Status> {
        unimplemented()
    }

    async fn publish_jwt_authority(
        &self,
        _: Request<PublishJwtAuthorityRequest>,
    ) -> Result<Response<PublishJwtAuthorityResponse>, Status> {
        unimplemented()
    }

    async fn publish_wit_authority(
        &self,
        _: Request<PublishWitAuthorityRequest>,
    ) -> Result<Response<PublishWitAuthorityResponse>, Status> {
        unimplemented()
    }

    async fn batch_create_federated_bundle(
        &self,
        request: Request<BatchCreateFederatedBundleRequest>,
    ) -> Result<Response<BatchCreateFederatedBundleResponse>, Status> {
        let create = |bundle: Bundle| match self.bundle(&bundle.trust_domain) {
            Some(_) => status(Code::AlreadyExists, "bundle already exists"),
            None => self.write(&bundle),
        };
        let result =
            |bundle| batch_create_federated_bundle_response::Result { status: create(bundle), bundle: None };
        let results = request.into_inner().bundle.into_iter().map(result).collect();
        Ok(Response::new(BatchCreateFederatedBundleResponse { results }))
    }

    async fn batch_update_federated_bundle(
        &self,
        _: Request<BatchUpdateFederatedBundleRequest>,
    ) -> Result<Response<BatchUpdateFederatedBundleResponse>, Status> {
        unimplemented()
    }
}

#[tonic::async_trait]
impl TrustDomainService for Store {
    async fn list_federation_relationships(
        &self,
        _: Request<ListFederationRelationshipsRequest>,
    ) -> Result<Response<ListFederationRelationshipsResponse>, Status> {
        if self.open().relationships_hidden {
            return Err(Status::permission_denied("authorization denied for method"));
        }
        let federation_relationships = self.open().relationships.values().cloned().collect();
        let next_page_token = String::new();
        Ok(Response::new(ListFederationRelationshipsResponse { federation_relationships, next_page_token }))
    }

    async fn refresh_bundle(&self, request: Request<RefreshBundleRequest>) -> Result<Response<()>, Status> {
        let name = request.into_inner().trust_domain;
        let _open = OpenRefresh::new(self, &name);
        while self.open().hanging.contains(&name) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let refreshed = self.open().refreshed.get(&name).cloned();
        let refreshed = refreshed
            .ok_or_else(|| Status::not_found(format!("no relationship with trust domain \"{name}\"")))?;
        self.open().bundles.insert(name, refreshed);
        Ok(Response::new(()))
    }

    async fn get_federation_relationship(
        &self,
        _: Request<GetFederationRelationshipRequest>,
    ) -> Result<Response<FederationRelationship>, Status> {
        unimplemented()
    }

    async fn batch_create_federation_relationship(
        &self,
        _: Request<BatchCreateFederationRelationshipRequest>,
    ) -> Result<Response<BatchCreateFederationRelationshipResponse>, Status> {
        unimplemented()
    }

    async fn batch_update_federation_relationship(
        &self,
        _: Request<BatchUpdateFederationRelationshipRequest>,
    ) -> Result<Response<BatchUpdateFederationRelationshipResponse>, Status> {
        unimplemented()
    }

    async fn batch_delete_federation_relationship(
        &self,
        _: Request<BatchDeleteFederationRelationshipRequest>,
    ) -> Result<Response<BatchDeleteFederationRelationshipResponse>, Status> {
        unimplemented()
    }
}

#[tonic::async_trait]
impl EntryService for Store {
    async fn list_entries(
        &self,
        request: Request<ListEntriesRequest>,
    ) -> Result<Response<ListEntriesResponse>, Status> {
        let wanted =
            request.into_inner().filter.and_then(|filter| filter.by_federates_with).unwrap().trust_domains;
        self.open().entry_looks += 1;
        while self.open().entries_hang {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let entries = self.open().entries.clone();
        let entries =
            entries.into_iter().filter(|entry| entry.federates_with.iter().any(|one| wanted.contains(one)));
        Ok(Response::new(ListEntriesResponse { entries: entries.collect(), next_page_token: String::new() }))
    }

    async fn count_entries(
        &self,
        _: Request<CountEntriesRequest>,
    ) -> Result<Response<CountEntriesResponse>, Status> {
        unimplemented()
    }

    async fn get_entry(&self, _: Request<GetEntryRequest>) -> Result<Response<Entry>, Status> {
        unimplemented()
    }

    async fn batch_create_entry(
        &self,
        _: Request<BatchCreateEntryRequest>,
    ) -> Result<Response<BatchCreateEntryResponse>, Status> {
        unimplemented()
    }

    async fn batch_update_entry(
        &self,
        _: Request<BatchUpdateEntryRequest>,
    ) -> Result<Response<BatchUpdateEntryResponse>, Status> {
        unimplemented()
    }

    async fn batch_delete_entry(
        &self,
        _: Request<BatchDeleteEntryRequest>,
    ) -> Result<Response<BatchDeleteEntryResponse>, Status> {
        unimplemented()
    }
}
