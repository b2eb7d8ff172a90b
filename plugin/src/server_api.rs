//! The few calls of SPIRE's Server API that we make: what it holds, set, remove, refresh.
//!
//! Each call has a deadline, and each item of a batch answer is looked at.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use entente_bundle::TrustDomain;
use entente_bundle::causes::chain;
use entente_proto::spire::api::server::bundle::v1::batch_delete_federated_bundle_request::Mode;
use entente_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use entente_proto::spire::api::server::bundle::v1::{
    BatchCreateFederatedBundleRequest, BatchDeleteFederatedBundleRequest, BatchSetFederatedBundleRequest,
    GetBundleRequest, GetFederatedBundleRequest, ListFederatedBundlesRequest,
};
use entente_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use entente_proto::spire::api::server::entry::v1::{ListEntriesRequest, list_entries_request::Filter};
use entente_proto::spire::api::server::trustdomain::v1::trust_domain_client::TrustDomainClient;
use entente_proto::spire::api::server::trustdomain::v1::{
    ListFederationRelationshipsRequest, RefreshBundleRequest,
};
use entente_proto::spire::api::types::{
    Bundle, BundleMask, Entry, EntryMask, FederatesWithMatch, FederationRelationship,
    FederationRelationshipMask, Status as ItemStatus, federates_with_match::MatchBehavior,
};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::unix_socket::{AllowedOwner, lazy_channel};

/// Longest wait for calls that only touch SPIRE's datastore.
const DEADLINE: Duration = Duration::from_secs(10);

/// Longest wait for SPIRE's own fetch, which has no limit of its own.
const REFRESH_DEADLINE: Duration = Duration::from_secs(30);

const PAGE_SIZE: i32 = 200;
const MAX_PAGES: usize = 10_000;

/// Largest reply that we read.
const MAX_MESSAGE: usize = 64 << 20;

/// Why a call gave nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("{call} failed with {code:?}: {text}")]
    Call { call: &'static str, code: Code, text: String },
    #[error("{call} answered with code {code} for {trust_domain}: {text}")]
    Item { call: &'static str, trust_domain: TrustDomain, code: i32, text: String },
    #[error("it is the server of trust domain {served:?}, not of {own}")]
    Foreign { own: TrustDomain, served: String },
    #[error("{call} answered with {found} results for one item")]
    ItemCount { call: &'static str, found: usize },
    #[error("{call} lists without an end")]
    Pages { call: &'static str },
    #[error("{call} did not answer within {}", humantime::format_duration(*deadline))]
    Timeout { call: &'static str, deadline: Duration },
}

impl ApiError {
    pub(crate) fn code(&self) -> Option<Code> {
        match self {
            Self::Call { code, .. } => Some(*code),
            Self::Item { code, .. } => Some(Code::from_i32(*code)),
            _ => None,
        }
    }

    /// True where SPIRE has tried to fetch a bundle, and that failed. Other failures have the same code, and SPIRE (service.go of
    /// trustdomain/v1) says no more of this one than its text.
    pub(crate) fn is_failed_fetch(&self) -> bool {
        matches!(self, Self::Call { code: Code::Internal, text, .. } if text.starts_with("failed to refresh bundle"))
    }
}

/// The connection to the socket that is configured now.
#[derive(Debug, Default)]
pub(crate) struct Connections(Mutex<Option<(PathBuf, Channel)>>);

impl Connections {
    /// The API behind `socket` of the server of `own`. SPIRE may remove and recreate the socket at any start; the channel dials
    /// again by itself.
    pub(crate) fn api(&self, socket: &Path, own: &TrustDomain) -> ServerApi {
        let own = own.clone();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((path, channel)) = &*known
            && path == socket
        {
            return ServerApi { channel: channel.clone(), own };
        }
        let channel = lazy_channel(socket.into(), AllowedOwner::OwnOrRoot);
        *known = Some((socket.into(), channel.clone()));
        ServerApi { channel, own }
    }
}

/// SPIRE's Server API.
#[derive(Clone, Debug)]
pub(crate) struct ServerApi {
    channel: Channel,
    own: TrustDomain,
}

impl ServerApi {
    fn bundles(&self) -> BundleClient<Channel> {
        BundleClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    fn trust_domains(&self) -> TrustDomainClient<Channel> {
        TrustDomainClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// Fails where another trust domain's server answers: what we write or remove there is somebody else's. Asked before each
    /// look and each write, because the socket may be another server's since the last one.
    pub(crate) async fn require_own(&self) -> Result<(), ApiError> {
        // Of the bundle nothing but the name, which every mask leaves.
        let request = GetBundleRequest { output_mask: Some(BundleMask::default()) };
        let bundle = answer("GetBundle", DEADLINE, self.bundles().get_bundle(request)).await?;
        let is_own =
            TrustDomain::from_name_or_id(&bundle.trust_domain).is_ok_and(|served| served == self.own);
        if is_own {
            return Ok(());
        }
        let served = bundle.trust_domain.chars().take(255).collect();
        Err(ApiError::Foreign { own: self.own.clone(), served })
    }

    /// Every federated bundle that SPIRE holds.
    pub(crate) async fn federated_bundles(&self) -> Result<Vec<Bundle>, ApiError> {
        const CALL: &str = "ListFederatedBundles";
        let mut client = self.bundles();
        let mut all = Vec::new();
        let mut page_token = String::new();
        for _ in 0..MAX_PAGES {
            let request = ListFederatedBundlesRequest { output_mask: None, page_size: PAGE_SIZE, page_token };
            let page = answer(CALL, DEADLINE, client.list_federated_bundles(request)).await?;
            all.extend(page.bundles);
            // A page can be empty while there are more: the own bundle is filtered out after paging.
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            page_token = page.next_page_token;
        }
        Err(ApiError::Pages { call: CALL })
    }

    /// SPIRE logs an error when there is none.
    pub(crate) async fn federated_bundle(
        &self,
        trust_domain: &TrustDomain,
    ) -> Result<Option<Bundle>, ApiError> {
        let request = GetFederatedBundleRequest { trust_domain: trust_domain.to_string(), output_mask: None };
        match answer("GetFederatedBundle", DEADLINE, self.bundles().get_federated_bundle(request)).await {
            Ok(bundle) => Ok(Some(bundle)),
            Err(error) if error.code() == Some(Code::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Fails with `AlreadyExists` where SPIRE holds one.
    pub(crate) async fn create_federated_bundle(
        &self,
        trust_domain: &TrustDomain,
        bundle: Bundle,
    ) -> Result<(), ApiError> {
        self.require_own().await?;
        const CALL: &str = "BatchCreateFederatedBundle";
        let output_mask = Some(BundleMask::default());
        let request = BatchCreateFederatedBundleRequest { bundle: vec![bundle], output_mask };
        let reply = answer(CALL, DEADLINE, self.bundles().batch_create_federated_bundle(request)).await?;
        only_item(CALL, trust_domain, reply.results.into_iter().map(|result| result.status))
    }

    /// Creates or replaces; SPIRE compares nothing.
    pub(crate) async fn set_federated_bundle(
        &self,
        trust_domain: &TrustDomain,
        bundle: Bundle,
    ) -> Result<(), ApiError> {
        self.require_own().await?;
        const CALL: &str = "BatchSetFederatedBundle";
        let output_mask = Some(BundleMask::default());
        let request = BatchSetFederatedBundleRequest { bundle: vec![bundle], output_mask };
        let reply = answer(CALL, DEADLINE, self.bundles().batch_set_federated_bundle(request)).await?;
        only_item(CALL, trust_domain, reply.results.into_iter().map(|result| result.status))
    }

    /// Fails with `FailedPrecondition` while registration entries federate with it.
    pub(crate) async fn delete_federated_bundle(&self, trust_domain: &TrustDomain) -> Result<(), ApiError> {
        self.require_own().await?;
        const CALL: &str = "BatchDeleteFederatedBundle";
        let request = BatchDeleteFederatedBundleRequest {
            trust_domains: vec![trust_domain.to_string()],
            mode: Mode::Restrict.into(),
        };
        let reply = answer(CALL, DEADLINE, self.bundles().batch_delete_federated_bundle(request)).await?;
        only_item(CALL, trust_domain, reply.results.into_iter().map(|result| result.status))
    }

    /// Registration entries that federate with a trust domain: the first page of them is enough to name.
    pub(crate) async fn entries_federating_with(
        &self,
        trust_domain: &TrustDomain,
    ) -> Result<Vec<Entry>, ApiError> {
        let by_federates_with = FederatesWithMatch {
            trust_domains: vec![trust_domain.to_string()],
            r#match: MatchBehavior::MatchAny.into(),
        };
        let request = ListEntriesRequest {
            filter: Some(Filter { by_federates_with: Some(by_federates_with), ..Filter::default() }),
            output_mask: Some(EntryMask { spiffe_id: true, ..EntryMask::default() }),
            page_size: PAGE_SIZE,
            page_token: String::new(),
        };
        let mut client = EntryClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        Ok(answer("ListEntries", DEADLINE, client.list_entries(request)).await?.entries)
    }

    /// SPIRE's own relationships, as far as it lists them: those of its configuration file it does not.
    pub(crate) async fn federation_relationships(&self) -> Result<Vec<FederationRelationship>, ApiError> {
        const CALL: &str = "ListFederationRelationships";
        let mask = FederationRelationshipMask {
            bundle_endpoint_url: true,
            bundle_endpoint_profile: true,
            trust_domain_bundle: false,
        };
        let mut client = self.trust_domains();
        let mut all = Vec::new();
        let mut page_token = String::new();
        for _ in 0..MAX_PAGES {
            let request = ListFederationRelationshipsRequest {
                output_mask: Some(mask),
                page_size: PAGE_SIZE,
                page_token,
            };
            let page = answer(CALL, DEADLINE, client.list_federation_relationships(request)).await?;
            all.extend(page.federation_relationships);
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            page_token = page.next_page_token;
        }
        Err(ApiError::Pages { call: CALL })
    }

    /// Has SPIRE fetch by its own relationship, and returns when it has stored the result.
    pub(crate) async fn refresh_bundle(&self, trust_domain: &TrustDomain) -> Result<(), ApiError> {
        self.require_own().await?;
        let request = RefreshBundleRequest { trust_domain: trust_domain.to_string() };
        answer("RefreshBundle", REFRESH_DEADLINE, self.trust_domains().refresh_bundle(request)).await
    }
}

async fn answer<T>(
    call: &'static str,
    deadline: Duration,
    reply: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, ApiError> {
    match tokio::time::timeout(deadline, reply).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(ApiError::Call { call, code: status.code(), text: text_of(&status) }),
        Err(_) => Err(ApiError::Timeout { call, deadline }),
    }
}

/// A broken connection shows its reason only in the sources.
fn text_of(status: &Status) -> String {
    let source = std::error::Error::source(status).map(chain);
    source.unwrap_or_else(|| status.message().to_owned())
}

/// A batch call answers OK whatever became of its items.
fn only_item(
    call: &'static str,
    trust_domain: &TrustDomain,
    statuses: impl ExactSizeIterator<Item = Option<ItemStatus>>,
) -> Result<(), ApiError> {
    let found = statuses.len();
    let statuses: Vec<_> = statuses.collect();
    match statuses.as_slice() {
        [Some(status)] if status.code == i32::from(Code::Ok) => Ok(()),
        [Some(status)] => Err(ApiError::Item {
            call,
            trust_domain: trust_domain.clone(),
            code: status.code,
            text: status.message.clone(),
        }),
        _ => Err(ApiError::ItemCount { call, found }),
    }
}
