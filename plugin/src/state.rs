//! What the parts of the plugin share. Each part writes its own piece, and everybody reads the newest.

use std::sync::Arc;
use std::time::Instant;

use entente_bundle::TrustDomain;
use tokio::sync::{Notify, watch};

use crate::broker::Lent;
use crate::config::Config;
use crate::counters::Counters;
use crate::handshake::Role;
use crate::held::Held;
use crate::identity::Identities;
use crate::keeping::Keeping;
use crate::own_bundle::OwnBundle;
use crate::pending_removals::PendingRemovals;
use crate::rate_limit::EndpointLines;
use crate::relationships::{self, FederationRelationship, SpireRelationships};
use crate::server_api::Connections;
use crate::signing::Signatures;

/// Everything that outlives a single call.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) role: Role,
    /// `None` until the first Configure that succeeds.
    pub(crate) config: watch::Sender<Option<Arc<Config>>>,
    pub(crate) lent: Lent,
    pub(crate) own_bundle: OwnBundle,
    pub(crate) identities: Identities,
    /// Asks for the identity and the bundle beside it at once.
    pub(crate) identity_wanted: Notify,
    pub(crate) connections: Connections,
    pub(crate) held: Held,
    /// SPIRE's own relationships; `None` until they were listed once.
    pub(crate) spire_relationships: watch::Sender<Option<Arc<SpireRelationships>>>,
    /// Who keeps the bundles that are assisted.
    pub(crate) keeping: Keeping,
    /// Trust domains whose bundles are to go.
    pub(crate) removals: PendingRemovals,
    /// Why SPIRE's API cannot be used, for people; `None` while it can.
    pub(crate) api_trouble: watch::Sender<Option<Arc<str>>>,
    /// Asks for a look at what SPIRE holds at once.
    pub(crate) look_wanted: Notify,
    pub(crate) signatures: Signatures,
    pub(crate) endpoint_lines: EndpointLines,
    pub(crate) counters: Counters,
}

impl Shared {
    pub(crate) fn new(role: Role) -> Arc<Self> {
        Arc::new(Self {
            role,
            config: watch::Sender::new(None),
            lent: Lent::new(),
            own_bundle: OwnBundle::new(role),
            identities: Identities::new(),
            identity_wanted: Notify::new(),
            connections: Connections::default(),
            held: Held::new(),
            spire_relationships: watch::Sender::new(None),
            keeping: Keeping::default(),
            removals: PendingRemovals::default(),
            api_trouble: watch::Sender::new(Some("SPIRE's API has not answered the plugin yet".into())),
            look_wanted: Notify::new(),
            signatures: Signatures::new(Instant::now()),
            endpoint_lines: EndpointLines::new(Instant::now()),
            counters: Counters::default(),
        })
    }

    /// The configuration in force.
    pub(crate) fn config(&self) -> Option<Arc<Config>> {
        self.config.borrow().clone()
    }

    /// The relationship with one trust domain, by what is configured and known at this moment.
    pub(crate) fn relationship(&self, trust_domain: &TrustDomain) -> Option<FederationRelationship> {
        let (config, spire) = (self.config()?, self.spire_relationships.borrow().clone()?);
        relationships::of(trust_domain, &config, &spire)
    }

    /// Puts a configuration in force. What the old one managed and the new one does not name is to be removed from SPIRE.
    pub(crate) fn reconfigure(&self, config: Config) {
        let config = Arc::new(config);
        let old = self.config.send_replace(Some(config.clone()));
        let managed = old.iter().flat_map(|old| old.managed());
        let gone = managed.filter(|name| !config.federates_with.contains_key(*name));
        self.removals.update(gone.cloned(), &config);
        self.own_bundle.forget();
        self.look_wanted.notify_one();
    }
}
