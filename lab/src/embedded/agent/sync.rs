//! One look at the server: entries, bundles, and SVIDs that are missing, past half of their life, or of a tainted authority.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use entente_bundle::{SpiffeId, TrustDomain};
use entente_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use entente_proto::spire::api::server::bundle::v1::{GetBundleRequest, GetFederatedBundleRequest};
use entente_proto::spire::api::server::entry::v1::ListEntriesRequest;
use entente_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use entente_proto::spire::api::server::svid::v1::MintX509svidRequest;
use entente_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use entente_proto::spire::api::types as wire;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::keys;
use super::view::{Identity, Svid, View};
use crate::embedded::log::Log;
use crate::embedded::{certificate, is_half_over, rfc3339, unix_now};

const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const PAGE_SIZE: i32 = 500;
const MAX_MESSAGE: usize = 64 << 20;

/// Remembers what was minted.
#[derive(Debug)]
pub(super) struct Syncer {
    trust_domain: TrustDomain,
    channel: Channel,
    pub(super) log: Log,
    /// By entry id.
    held: BTreeMap<String, Identity>,
}

impl Syncer {
    /// Dials when first used, and again after each break.
    pub(super) fn new(trust_domain: TrustDomain, server_socket: &Path, log: Log) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_shared(format!("unix:{}", server_socket.display()))
            .with_context(|| format!("{} is no socket path", server_socket.display()))?;
        let channel = endpoint.timeout(CALL_TIMEOUT).connect_timeout(CALL_TIMEOUT).connect_lazy();
        Ok(Self { trust_domain, channel, log, held: BTreeMap::new() })
    }

    /// The whole state, or an error and nothing changed.
    pub(super) async fn sync(&mut self) -> anyhow::Result<View> {
        let entries = self.entries().await?;
        let own = self.own_bundle().await?;
        let names: BTreeSet<_> = entries.iter().flat_map(|entry| entry.federates_with.clone()).collect();
        let mut federated = BTreeMap::new();
        for name in names {
            if let Some(bundle) = self.federated_bundle(&name).await? {
                federated.insert(name, bundle);
            }
        }
        let mut identities = Vec::new();
        for entry in entries {
            match self.identity(entry, &own).await {
                Ok(identity) => identities.push(identity),
                Err(error) => self.log.error_field(format!("{error:#}")).error("Failed to sign X509 SVID"),
            }
        }
        self.held = identities.iter().map(|one| (one.entry.id.clone(), one.clone())).collect();
        Ok(View { identities, own, federated })
    }

    async fn entries(&self) -> anyhow::Result<Vec<wire::Entry>> {
        let mut client = EntryClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        let mut entries = Vec::new();
        let mut page_token = String::new();
        loop {
            let request =
                ListEntriesRequest { page_size: PAGE_SIZE, page_token, ..ListEntriesRequest::default() };
            let page = client.list_entries(request).await.context("ListEntries")?.into_inner();
            entries.extend(page.entries);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(entries);
            }
        }
    }

    async fn own_bundle(&self) -> anyhow::Result<wire::Bundle> {
        let mut client = BundleClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        let request = GetBundleRequest { output_mask: None };
        Ok(client.get_bundle(request).await.context("GetBundle")?.into_inner())
    }

    /// A bundle that is not there is left out; any other trouble ends the sync, as in SPIRE.
    async fn federated_bundle(&self, name: &str) -> anyhow::Result<Option<wire::Bundle>> {
        let mut client = BundleClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        let request = GetFederatedBundleRequest { trust_domain: name.to_owned(), output_mask: None };
        match client.get_federated_bundle(request).await {
            Ok(response) => Ok(Some(response.into_inner())),
            Err(status) if status.code() == Code::NotFound => {
                self.log.with("trust_domain", name).debug("Federated bundle not found");
                Ok(None)
            }
            Err(status) => Err(status).with_context(|| format!("GetFederatedBundle {name}")),
        }
    }

    async fn identity(&self, entry: wire::Entry, own: &wire::Bundle) -> anyhow::Result<Identity> {
        let held = self.held.get(&entry.id).filter(|held| is_same_svid(&held.entry, &entry));
        if let Some(held) = held.filter(|held| !is_due(&held.svid, own, unix_now())) {
            return Ok(Identity { entry, svid: held.svid.clone() });
        }
        match self.mint(&entry).await {
            Ok(svid) => Ok(Identity { entry, svid: Arc::new(svid) }),
            // Better an SVID that is due than none.
            Err(error) => match held {
                Some(held) => {
                    self.log.error_field(format!("{error:#}")).error("Failed to renew X509 SVID");
                    Ok(Identity { entry, svid: held.svid.clone() })
                }
                None => Err(error),
            },
        }
    }

    async fn mint(&self, entry: &wire::Entry) -> anyhow::Result<Svid> {
        let id = entry.spiffe_id.as_ref().context("entry without SPIFFE ID")?;
        let id = SpiffeId::new(&format!("spiffe://{}{}", self.trust_domain, id.path))?;
        let keys::Request { key, csr } = keys::request(&id, &entry.dns_names)?;
        let mut client = SvidClient::new(self.channel.clone());
        let request = MintX509svidRequest { csr, ttl: entry.x509_svid_ttl };
        let minted = client.mint_x509svid(request).await.context("MintX509SVID")?.into_inner();
        let chain = minted.svid.context("no SVID in the answer")?.cert_chain;
        let leaf = chain.first().context("no certificate in the answer")?;
        let (not_before, not_after) = certificate::validity(leaf).context("malformed certificate")?;
        let authority_id =
            certificate::authority_key_id(leaf).context("certificate without issuer's key ID")?;
        let log = self.log.with("spiffe_id", &id).with("entry_id", &entry.id);
        log.with("expires_at", rfc3339(not_after)).info("Renewing X509-SVID");
        Ok(Svid {
            spiffe_id: id.to_string(),
            chain: chain.concat(),
            key,
            not_before,
            not_after,
            authority_id,
        })
    }
}

/// What an SVID is made of; selectors and bundles are not.
fn is_same_svid(held: &wire::Entry, wanted: &wire::Entry) -> bool {
    held.spiffe_id == wanted.spiffe_id
        && held.dns_names == wanted.dns_names
        && held.x509_svid_ttl == wanted.x509_svid_ttl
}

/// Past half of its life, or signed by an authority that is tainted or gone.
fn is_due(svid: &Svid, own: &wire::Bundle, now: i64) -> bool {
    certificate::is_tainted(own, &svid.authority_id) || is_half_over(svid.not_before, svid.not_after, now)
}
