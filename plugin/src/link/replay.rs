//! The state that the endpoint is to know, and which part of it this link has sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use entente_bundle::{Bundle, TrustDomain};
use entente_proto::link::v1 as wire;
use entente_proto::link::v1::plugin_message::Message as FromPlugin;
use rustls_pki_types::{CertificateDer, UnixTime};

use super::error::LinkError;
use super::session::Outbox;
use crate::config::Config;
use crate::pending_removals::Pending;
use crate::relationships::{self, FederationRelationship, SpireRelationships};
use crate::state::Shared;

/// What this link has sent. Empty at the start of each, so that everything is replayed.
#[derive(Debug, Default)]
pub(super) struct Replay {
    own_bundle: Option<(Option<Arc<Bundle>>, Duration)>,
    certificate_chain: Option<Vec<CertificateDer<'static>>>,
    relationships: Option<Relationships>,
    held: BTreeMap<TrustDomain, HeldParts>,
    server_api: Option<ApiParts>,
    removals: wire::PendingRemovals,
}

/// Why SPIRE's API cannot be used, and the configuration whose relationships were told as no more than declared.
type ApiParts = (Option<Arc<str>>, Option<Arc<Config>>);

/// What is known of one trust domain's bundle.
#[derive(Debug, Default)]
struct HeldParts {
    held: Option<Arc<Bundle>>,
    /// What authenticates the endpoint instead.
    authenticating: Option<Arc<Bundle>>,
    authentication_trouble: String,
    keeping_trouble: String,
}

/// The relationships that were sent, and what they were made of.
#[derive(Debug)]
struct Relationships {
    config: Arc<Config>,
    spire: Arc<SpireRelationships>,
    sent: BTreeMap<TrustDomain, FederationRelationship>,
    /// Trust domains whose held bundles the endpoint needs: those of the relationships, and those of the endpoints' IDs.
    needed: BTreeSet<TrustDomain>,
}

impl Replay {
    /// Sends what the endpoint does not know yet; true when there was anything.
    pub(super) async fn send_changes(&mut self, shared: &Shared, outbox: &Outbox) -> Result<bool, LinkError> {
        let Some(config) = shared.config() else { return Ok(false) };
        let mut any = self.send_own_bundle(shared, &config, outbox).await?;
        any |= self.send_identity(shared, &config, outbox).await?;
        // Until SPIRE has said what it holds and federates with, neither is told: absent would mean none.
        let spire = shared.spire_relationships.borrow().clone().filter(|_| shared.held.is_known());
        let unknown = spire.is_none().then(|| Arc::clone(&config));
        // The endpoint believes those that see what SPIRE holds: that we do not comes before what we remember of it, that we do
        // again after what we see.
        if shared.api_trouble.borrow().is_some() {
            any |= self.send_server_api(shared, unknown.clone(), outbox).await?;
        }
        if let Some(spire) = spire {
            any |= self.send_relationships(config, spire, outbox).await?;
            any |= self.send_held(shared, outbox).await?;
        }
        any |= self.send_server_api(shared, unknown, outbox).await?;
        any |= self.send_removals(shared, outbox).await?;
        Ok(any)
    }

    /// `unknown` is the configuration while its relationships cannot be told: then what it declares is, for people.
    async fn send_server_api(
        &mut self,
        shared: &Shared,
        unknown: Option<Arc<Config>>,
        outbox: &Outbox,
    ) -> Result<bool, LinkError> {
        let trouble = shared.api_trouble.borrow().clone();
        let is_sent = self.server_api.as_ref().is_some_and(|(sent, declared)| {
            *sent == trouble && same(declared.as_ref(), unknown.as_ref(), Arc::ptr_eq)
        });
        if is_sent {
            return Ok(false);
        }
        let declared = unknown.iter().flat_map(|config| config.federates_with.values());
        let message = wire::ServerApi {
            trouble: trouble.as_deref().unwrap_or_default().into(),
            declared: declared.map(FederationRelationship::to_link).collect(),
        };
        outbox.send(FromPlugin::ServerApi(message)).await?;
        self.server_api = Some((trouble, unknown));
        Ok(true)
    }

    async fn send_removals(&mut self, shared: &Shared, outbox: &Outbox) -> Result<bool, LinkError> {
        let one = |(name, pending): (TrustDomain, Pending)| wire::PendingRemoval {
            trust_domain: name.to_string(),
            reason: pending.kept_because.unwrap_or_default(),
        };
        let removals =
            wire::PendingRemovals { removals: shared.removals.all().into_iter().map(one).collect() };
        if self.removals == removals {
            return Ok(false);
        }
        outbox.send(FromPlugin::PendingRemovals(removals.clone())).await?;
        self.removals = removals;
        Ok(true)
    }

    async fn send_own_bundle(
        &mut self,
        shared: &Shared,
        config: &Config,
        outbox: &Outbox,
    ) -> Result<bool, LinkError> {
        let bundle = shared.own_bundle.current();
        let is_sent = self.own_bundle.as_ref().is_some_and(|(sent, hint)| {
            *hint == config.refresh_hint && same(sent.as_ref(), bundle.as_ref(), Arc::ptr_eq)
        });
        if is_sent {
            return Ok(false);
        }
        let with_hint =
            bundle.as_deref().map(|bundle| bundle.clone().with_refresh_hint(Some(config.refresh_hint)));
        let message = wire::OwnBundle { bundle: with_hint.as_ref().map(wire::Bundle::from) };
        outbox.send(FromPlugin::OwnBundle(message)).await?;
        self.own_bundle = Some((bundle, config.refresh_hint));
        Ok(true)
    }

    async fn send_identity(
        &mut self,
        shared: &Shared,
        config: &Config,
        outbox: &Outbox,
    ) -> Result<bool, LinkError> {
        let lent = shared.identities.current().filter(|_| config.serve_as_server);
        let chain = lent.map(|identity| identity.chain.clone()).unwrap_or_default();
        if self.certificate_chain.as_ref() == Some(&chain) {
            return Ok(false);
        }
        let certificate_chain = chain.iter().map(|certificate| certificate.to_vec()).collect();
        outbox.send(FromPlugin::ServerIdentity(wire::ServerIdentity { certificate_chain })).await?;
        self.certificate_chain = Some(chain);
        Ok(true)
    }

    async fn send_relationships(
        &mut self,
        config: Arc<Config>,
        spire: Arc<SpireRelationships>,
        outbox: &Outbox,
    ) -> Result<bool, LinkError> {
        if let Some(known) = &self.relationships
            && Arc::ptr_eq(&known.config, &config)
            && Arc::ptr_eq(&known.spire, &spire)
        {
            return Ok(false);
        }
        let now = relationships::all(&config, &spire);
        let is_changed = self.relationships.as_ref().is_none_or(|known| known.sent != now);
        if is_changed {
            let relationships = now.values().map(FederationRelationship::to_link).collect();
            outbox.send(FromPlugin::Relationships(wire::Relationships { relationships })).await?;
        }
        let endpoints = now.values().filter_map(FederationRelationship::endpoint_trust_domain);
        let needed: BTreeSet<_> = now.keys().chain(endpoints).cloned().collect();
        self.held.retain(|name, _| needed.contains(name));
        self.relationships = Some(Relationships { config, spire, sent: now, needed });
        Ok(is_changed)
    }

    async fn send_held(&mut self, shared: &Shared, outbox: &Outbox) -> Result<bool, LinkError> {
        let Some(Relationships { needed, sent, .. }) = &self.relationships else { return Ok(false) };
        let now = UnixTime::now();
        let mut any = false;
        for name in needed {
            let parts = held_parts(shared, name, now);
            if self.held.get(name).is_some_and(|known| is_same(known, &parts)) {
                continue;
            }
            let file = |bundle: &Arc<Bundle>| match shared.held.is_bootstrap(name, bundle) {
                true => bootstrap_file(sent, name),
                false => String::new(),
            };
            let message = wire::HeldBundle {
                trust_domain: name.to_string(),
                bundle: parts.held.as_deref().map(wire::Bundle::from),
                authentication_bundle: parts.authenticating.as_deref().map(wire::Bundle::from),
                authentication_file: parts.authenticating.as_ref().map(file).unwrap_or_default(),
                authentication_trouble: parts.authentication_trouble.clone(),
                keeping_trouble: parts.keeping_trouble.clone(),
            };
            outbox.send(FromPlugin::HeldBundle(message)).await?;
            self.held.insert(name.clone(), parts);
            any = true;
        }
        Ok(any)
    }
}

fn held_parts(shared: &Shared, name: &TrustDomain, now: UnixTime) -> HeldParts {
    // An endpoint may show an ID of our own trust domain; its bundle is not a federated one.
    if shared.config().is_some_and(|config| config.trust_domain == *name) {
        return HeldParts { held: shared.own_bundle.current(), ..HeldParts::default() };
    }
    let (held, authenticating) = shared.held.parts(name, now);
    HeldParts {
        held,
        authenticating,
        authentication_trouble: shared.held.bootstrap_trouble(name).unwrap_or_default(),
        keeping_trouble: shared.keeping.trouble(name).unwrap_or_default(),
    }
}

/// Of the relationships with an endpoint of that trust domain the last one that names a file is where the watcher read it.
fn bootstrap_file(
    relationships: &BTreeMap<TrustDomain, FederationRelationship>,
    name: &TrustDomain,
) -> String {
    let of_name = relationships.values().filter(|one| one.endpoint_trust_domain() == Some(name));
    let file = of_name.filter_map(|one| one.bootstrap_bundle.as_ref()).next_back();
    file.map(|path| path.display().to_string()).unwrap_or_default()
}

fn is_same(sent: &HeldParts, now: &HeldParts) -> bool {
    let same_bundle = |sent: &Option<Arc<Bundle>>, now: &Option<Arc<Bundle>>| {
        same(sent.as_ref(), now.as_ref(), |sent, now| Arc::ptr_eq(sent, now) || sent == now)
    };
    same_bundle(&sent.held, &now.held)
        && same_bundle(&sent.authenticating, &now.authenticating)
        && sent.authentication_trouble == now.authentication_trouble
        && sent.keeping_trouble == now.keeping_trouble
}

fn same<T>(one: Option<&T>, other: Option<&T>, same: impl Fn(&T, &T) -> bool) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => same(one, other),
        _ => false,
    }
}
