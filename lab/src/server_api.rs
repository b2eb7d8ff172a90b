//! SPIRE's Server API over its Unix socket: what a person does with `spire-server`, done by the lab.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use entente_bundle::{Bundle, SpiffeId, TrustDomain};
use entente_proto::spire::api::server::agent::v1::CreateJoinTokenRequest;
use entente_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use entente_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use entente_proto::spire::api::server::bundle::v1::{
    GetBundleRequest, GetFederatedBundleRequest, ListFederatedBundlesRequest,
};
use entente_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use entente_proto::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchUpdateEntryRequest, ListEntriesRequest,
};
use entente_proto::spire::api::server::localauthority::v1 as authority;
use entente_proto::spire::api::server::localauthority::v1::local_authority_client::LocalAuthorityClient;
use entente_proto::spire::api::server::svid::v1::MintX509svidRequest;
use entente_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use entente_proto::spire::api::server::trustdomain::v1::BatchCreateFederationRelationshipRequest;
use entente_proto::spire::api::server::trustdomain::v1::trust_domain_client::TrustDomainClient;
use entente_proto::spire::api::types::federation_relationship::BundleEndpointProfile;
use entente_proto::spire::api::types::{
    Entry, EntryMask, FederationRelationship, HttpsspiffeProfile, Selector, Spiffeid, Status,
};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const JOIN_TOKEN_SECONDS: i32 = 600;

/// A client of one SPIRE Server; connects when first used and again after a restart.
#[derive(Clone, Debug)]
pub struct ServerApi {
    socket: PathBuf,
    channel: Channel,
}

/// A registration entry to be made.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// What the workload becomes.
    pub spiffe_id: SpiffeId,
    /// The agent's ID.
    pub parent_id: SpiffeId,
    /// `(type, value)`.
    pub selectors: Vec<(&'static str, String)>,
    /// Foreign trust domains whose bundles the workload gets.
    pub federates_with: Vec<TrustDomain>,
}

/// The server's X.509 authorities by their state: IDs are lower-case hex of the subject key identifier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authorities {
    /// Signs.
    pub active: String,
    /// In the bundle, will sign.
    pub prepared: Option<String>,
    /// Signed before.
    pub old: Option<String>,
}

impl ServerApi {
    /// Does not connect yet.
    pub fn at(socket: &Path) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display()))
            .with_context(|| format!("{} is no socket path", socket.display()))?;
        let channel = endpoint.timeout(CALL_TIMEOUT).connect_timeout(CALL_TIMEOUT).connect_lazy();
        Ok(Self { socket: socket.to_owned(), channel })
    }
    /// Where the server listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
    /// The server's own bundle.
    pub async fn bundle(&self) -> anyhow::Result<Bundle> {
        let reply = BundleClient::new(self.channel.clone()).get_bundle(GetBundleRequest::default()).await;
        to_bundle(reply.map_err(|status| refused("GetBundle", &status))?.into_inner())
    }
    /// What the server holds for `foreign`.
    pub async fn federated_bundle(&self, foreign: &TrustDomain) -> anyhow::Result<Option<Bundle>> {
        let request =
            GetFederatedBundleRequest { trust_domain: foreign.as_str().to_owned(), output_mask: None };
        match BundleClient::new(self.channel.clone()).get_federated_bundle(request).await {
            Ok(reply) => to_bundle(reply.into_inner()).map(Some),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(refused("GetFederatedBundle", &status)),
        }
    }
    /// Everything that the server holds for foreign trust domains.
    pub async fn federated_bundles(&self) -> anyhow::Result<BTreeMap<TrustDomain, Bundle>> {
        let request = ListFederatedBundlesRequest::default();
        let reply = BundleClient::new(self.channel.clone()).list_federated_bundles(request).await;
        let bundles = reply.map_err(|status| refused("ListFederatedBundles", &status))?.into_inner().bundles;
        let bundles = bundles.into_iter().map(|bundle| {
            let bundle = to_bundle(bundle)?;
            Ok((bundle.trust_domain().clone(), bundle))
        });
        bundles.collect()
    }
    /// All registration entries.
    pub async fn entries(&self) -> anyhow::Result<Vec<Entry>> {
        let reply = EntryClient::new(self.channel.clone()).list_entries(ListEntriesRequest::default()).await;
        Ok(reply.map_err(|status| refused("ListEntries", &status))?.into_inner().entries)
    }
    /// Makes one entry; answers its ID.
    pub async fn create_entry(&self, entry: &NewEntry) -> anyhow::Result<String> {
        let entry = Entry {
            spiffe_id: Some(wire_id(&entry.spiffe_id)),
            parent_id: Some(wire_id(&entry.parent_id)),
            selectors: entry.selectors.iter().map(|(kind, value)| selector(kind, value)).collect(),
            federates_with: entry.federates_with.iter().map(|domain| domain.as_str().to_owned()).collect(),
            ..Entry::default()
        };
        let request = BatchCreateEntryRequest { entries: vec![entry], output_mask: None };
        let reply = EntryClient::new(self.channel.clone()).batch_create_entry(request).await;
        let results = reply.map_err(|status| refused("BatchCreateEntry", &status))?.into_inner().results;
        let result = results.into_iter().next().context("BatchCreateEntry answered no result")?;
        check_item("BatchCreateEntry", result.status.as_ref())?;
        Ok(result.entry.context("BatchCreateEntry answered no entry")?.id)
    }
    /// Changes nothing but the foreign trust domains of one entry.
    pub async fn set_federates_with(
        &self,
        entry_id: &str,
        federates_with: &[TrustDomain],
    ) -> anyhow::Result<()> {
        let entry = Entry {
            id: entry_id.to_owned(),
            federates_with: federates_with.iter().map(|domain| domain.as_str().to_owned()).collect(),
            ..Entry::default()
        };
        let mask = EntryMask { federates_with: true, ..EntryMask::default() };
        let request =
            BatchUpdateEntryRequest { entries: vec![entry], input_mask: Some(mask), output_mask: None };
        let reply = EntryClient::new(self.channel.clone()).batch_update_entry(request).await;
        let results = reply.map_err(|status| refused("BatchUpdateEntry", &status))?.into_inner().results;
        let result = results.first().context("BatchUpdateEntry answered no result")?;
        check_item("BatchUpdateEntry", result.status.as_ref())
    }
    /// A token that lets one agent in, and gives it the ID `agent_id` besides its own.
    pub async fn join_token(&self, agent_id: &SpiffeId) -> anyhow::Result<String> {
        let request = CreateJoinTokenRequest {
            ttl: JOIN_TOKEN_SECONDS,
            agent_id: Some(wire_id(agent_id)),
            ..CreateJoinTokenRequest::default()
        };
        let reply = AgentClient::new(self.channel.clone()).create_join_token(request).await;
        Ok(reply.map_err(|status| refused("CreateJoinToken", &status))?.into_inner().value)
    }
    /// Has the server sign an X509-SVID: chain as DER, leaf first.
    pub async fn mint_x509_svid(&self, csr: Vec<u8>) -> anyhow::Result<Vec<Vec<u8>>> {
        let request = MintX509svidRequest { csr, ttl: 0 };
        let reply = SvidClient::new(self.channel.clone()).mint_x509svid(request).await;
        let svid = reply.map_err(|status| refused("MintX509SVID", &status))?.into_inner().svid;
        Ok(svid.context("MintX509SVID answered no SVID")?.cert_chain)
    }
    /// Gives the server a federation relationship of its own, with the foreign bundle to begin with.
    pub async fn create_relationship(
        &self,
        url: &str,
        endpoint_spiffe_id: &SpiffeId,
        bundle: &Bundle,
    ) -> anyhow::Result<()> {
        let profile = HttpsspiffeProfile { endpoint_spiffe_id: endpoint_spiffe_id.to_string() };
        let relationship = FederationRelationship {
            trust_domain: bundle.trust_domain().as_str().to_owned(),
            bundle_endpoint_url: url.to_owned(),
            bundle_endpoint_profile: Some(BundleEndpointProfile::HttpsSpiffe(profile)),
            trust_domain_bundle: Some(bundle.into()),
        };
        let request = BatchCreateFederationRelationshipRequest {
            federation_relationships: vec![relationship],
            output_mask: None,
        };
        let reply =
            TrustDomainClient::new(self.channel.clone()).batch_create_federation_relationship(request).await;
        let results = reply
            .map_err(|status| refused("BatchCreateFederationRelationship", &status))?
            .into_inner()
            .results;
        let result = results.first().context("BatchCreateFederationRelationship answered no result")?;
        check_item("BatchCreateFederationRelationship", result.status.as_ref())
    }
    /// Which X.509 authority is in which state.
    pub async fn x509_authorities(&self) -> anyhow::Result<Authorities> {
        let request = authority::GetX509AuthorityStateRequest {};
        let reply = LocalAuthorityClient::new(self.channel.clone()).get_x509_authority_state(request).await;
        let state = reply.map_err(|status| refused("GetX509AuthorityState", &status))?.into_inner();
        Ok(Authorities {
            active: state.active.context("the server has no active X.509 authority")?.authority_id,
            prepared: state.prepared.map(|state| state.authority_id),
            old: state.old.map(|state| state.authority_id),
        })
    }
    /// Makes a new X.509 authority and puts it into the bundle; answers its ID.
    pub async fn prepare_x509_authority(&self) -> anyhow::Result<String> {
        let request = authority::PrepareX509AuthorityRequest {};
        let reply = LocalAuthorityClient::new(self.channel.clone()).prepare_x509_authority(request).await;
        let state =
            reply.map_err(|status| refused("PrepareX509Authority", &status))?.into_inner().prepared_authority;
        Ok(state.context("PrepareX509Authority answered no authority")?.authority_id)
    }
    /// Lets the prepared authority sign from now on.
    pub async fn activate_x509_authority(&self, authority_id: &str) -> anyhow::Result<()> {
        let request = authority::ActivateX509AuthorityRequest { authority_id: authority_id.to_owned() };
        let reply = LocalAuthorityClient::new(self.channel.clone()).activate_x509_authority(request).await;
        reply.map(drop).map_err(|status| refused("ActivateX509Authority", &status))
    }
    /// Marks the old authority: everything that it signed is replaced.
    pub async fn taint_x509_authority(&self, authority_id: &str) -> anyhow::Result<()> {
        let request = authority::TaintX509AuthorityRequest { authority_id: authority_id.to_owned() };
        let reply = LocalAuthorityClient::new(self.channel.clone()).taint_x509_authority(request).await;
        reply.map(drop).map_err(|status| refused("TaintX509Authority", &status))
    }
    /// Takes a tainted authority out of the bundle.
    pub async fn revoke_x509_authority(&self, authority_id: &str) -> anyhow::Result<()> {
        let request = authority::RevokeX509AuthorityRequest { authority_id: authority_id.to_owned() };
        let reply = LocalAuthorityClient::new(self.channel.clone()).revoke_x509_authority(request).await;
        reply.map(drop).map_err(|status| refused("RevokeX509Authority", &status))
    }
}

/// True when `bundle` holds the X.509 authority with this ID.
pub fn holds(bundle: &Bundle, authority_id: &str) -> bool {
    bundle
        .x509_authorities()
        .iter()
        .any(|authority| authority.subject_key_id().as_deref() == Some(authority_id))
}

/// The registration entry's SPIFFE ID as text.
pub fn entry_id(entry: &Entry) -> String {
    entry.spiffe_id.as_ref().map_or_else(String::new, |id| format!("spiffe://{}{}", id.trust_domain, id.path))
}

fn to_bundle(bundle: entente_proto::spire::api::types::Bundle) -> anyhow::Result<Bundle> {
    let trust_domain = bundle.trust_domain.clone();
    Bundle::try_from(&bundle).with_context(|| format!("the server's bundle of {trust_domain} cannot be read"))
}

fn wire_id(id: &SpiffeId) -> Spiffeid {
    Spiffeid { trust_domain: id.trust_domain().as_str().to_owned(), path: id.path().to_owned() }
}

fn selector(kind: &str, value: &str) -> Selector {
    Selector { r#type: kind.to_owned(), value: value.to_owned() }
}

fn refused(call: &str, status: &tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{call}: {:?}: {}", status.code(), status.message())
}

fn check_item(call: &str, status: Option<&Status>) -> anyhow::Result<()> {
    match status {
        Some(status) if status.code == 0 => Ok(()),
        Some(status) => bail!("{call}: {:?}: {}", Code::from(status.code), status.message),
        None => bail!("{call} answered a result without status"),
    }
}
