//! The stand-in's own bundle client: one poller per relationship, with the timing and the log lines of SPIRE's.

mod fetch;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use entente_bundle::{SpiffeId, TrustDomain};
use entente_proto::spire::api::types as wire;
use entente_proto::spire::api::types::federation_relationship::BundleEndpointProfile;
use tokio_util::sync::CancellationToken;

use self::fetch::{FetchError, Profile};
use super::certificate;
use super::core::Core;
use super::log::Log;

/// How often the relationships are looked at without being told to.
const RELOAD: Duration = Duration::from_secs(10);

/// Why a bundle was not refreshed, in the words of SPIRE's log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RefreshError {
    #[error("failed to fetch federated bundle from endpoint: {0}")]
    Fetch(#[from] FetchError),
    #[error("can't perform SPIFFE Authentication: local copy of bundle not found")]
    NoEndpointBundle,
    #[error("failed to store fetched federated bundle: {0}")]
    Store(#[from] super::store::StoreError),
    #[error("unusable relationship: {0}")]
    Unusable(String),
}

/// What a poller goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Relationship {
    trust_domain: TrustDomain,
    url: String,
    endpoint_id: Option<SpiffeId>,
}

/// A running poller; a changed relationship is used from its next poll on.
#[derive(Debug)]
struct Poller {
    relationship: Arc<Mutex<Relationship>>,
    stop: CancellationToken,
}

/// All pollers of one server.
#[derive(Debug)]
pub(crate) struct BundleClient {
    core: Arc<Core>,
    log: Log,
    pollers: Mutex<BTreeMap<TrustDomain, Poller>>,
}

impl BundleClient {
    pub(crate) fn new(core: Arc<Core>) -> Arc<Self> {
        let log = core.log.subsystem("bundle_client");
        Arc::new(Self { core, log, pollers: Mutex::default() })
    }

    /// Follows the relationships until the server stops.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut changed = self.core.relationships.listener();
        loop {
            self.reload(&stop);
            tokio::select! {
                () = changed.heard() => {}
                () = tokio::time::sleep(RELOAD) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    fn reload(self: &Arc<Self>, stop: &CancellationToken) {
        let rows = self.core.store.lock().relationships();
        let wanted: BTreeMap<_, _> =
            rows.iter().filter_map(usable).map(|one| (one.trust_domain.clone(), one)).collect();
        let mut pollers = self.pollers.lock().unwrap_or_else(PoisonError::into_inner);
        pollers.retain(|trust_domain, poller| {
            let stays = wanted.contains_key(trust_domain);
            if !stays {
                poller.stop.cancel();
                self.log.with("entry", trust_domain).info("Trust domain no longer managed");
            }
            stays
        });
        for (trust_domain, relationship) in wanted {
            match pollers.get(&trust_domain) {
                Some(poller) => self.update(poller, relationship),
                None => drop(pollers.insert(trust_domain, self.start(relationship, stop))),
            }
        }
    }

    fn update(&self, poller: &Poller, wanted: Relationship) {
        let mut held = poller.relationship.lock().unwrap_or_else(PoisonError::into_inner);
        if *held != wanted {
            let log = self.log.with("entry", &wanted.trust_domain).with("bundle_endpoint_url", &wanted.url);
            log.with("bundle_endpoint_profile", wanted.profile_name())
                .info("Updated configuration for managed trust domain");
            *held = wanted;
        }
    }

    fn start(self: &Arc<Self>, relationship: Relationship, stop: &CancellationToken) -> Poller {
        let log = self.log.with("trust_domain", &relationship.trust_domain);
        let with_url = log.with("bundle_endpoint_url", &relationship.url);
        with_url
            .with("bundle_endpoint_profile", relationship.profile_name())
            .info("Trust domain is now managed");
        let poller = Poller { relationship: Arc::new(Mutex::new(relationship)), stop: stop.child_token() };
        let polling = self.clone().poll(poller.relationship.clone(), log.clone());
        let stop = poller.stop.clone();
        tokio::spawn(async move {
            stop.run_until_cancelled(polling).await;
            log.info("No longer polling for updates");
        });
        poller
    }

    async fn poll(self: Arc<Self>, relationship: Arc<Mutex<Relationship>>, log: Log) {
        loop {
            let current = relationship.lock().unwrap_or_else(PoisonError::into_inner).clone();
            log.debug("Polling for bundle update");
            match self.refresh_one(&current).await {
                // As in SPIRE 1.15, where every good poll counts as a change.
                Ok(()) => log.info("Bundle refreshed"),
                Err(error) => log.error_field(&error).error("Error updating bundle"),
            }
            let wait = self.wait(&current.trust_domain);
            let at = std::time::SystemTime::now() + wait;
            log.with("at", humantime::format_rfc3339_seconds(at)).debug("Scheduling next bundle refresh");
            tokio::time::sleep(wait).await;
        }
    }

    /// One fetch now, for the API; `None` where there is no relationship. The poller's timer stays as it is.
    pub(crate) async fn refresh(&self, trust_domain: &TrustDomain) -> Option<Result<(), RefreshError>> {
        let row = self.core.store.lock().relationship(trust_domain)?;
        match usable(&row) {
            Some(relationship) => Some(self.refresh_one(&relationship).await),
            None => Some(Err(RefreshError::Unusable(row.bundle_endpoint_url))),
        }
    }

    async fn refresh_one(&self, relationship: &Relationship) -> Result<(), RefreshError> {
        let profile = match &relationship.endpoint_id {
            None => Profile::Web,
            Some(id) => {
                let held = self.core.store.lock().bundle(id.trust_domain());
                Profile::Spiffe(id.clone(), held.ok_or(RefreshError::NoEndpointBundle)?)
            }
        };
        let bundle = fetch::fetch(&relationship.url, &relationship.trust_domain, profile).await?;
        self.core.store.lock().set_bundle(bundle)?;
        Ok(())
    }

    fn wait(&self, trust_domain: &TrustDomain) -> Duration {
        let stored = self.core.store.lock().bundle(trust_domain);
        stored.map_or(Duration::from_secs(60), |bundle| interval(&bundle))
    }
}

/// federation.md 4.3: a quarter of the hint, or of a tenth of the shortest authority's lifetime, 15 s at least.
fn interval(bundle: &wire::Bundle) -> Duration {
    let hint = match u64::try_from(bundle.refresh_hint) {
        Ok(hint) if hint > 0 => hint,
        _ => shortest_lifetime(bundle) / 10,
    };
    Duration::from_secs(hint.max(60)) / 4
}

fn shortest_lifetime(bundle: &wire::Bundle) -> u64 {
    let lifetimes = bundle.x509_authorities.iter().filter_map(|one| {
        let (start, end) = certificate::validity(&one.asn1)?;
        u64::try_from(end - start).ok()
    });
    lifetimes.min().unwrap_or(0)
}

fn usable(row: &wire::FederationRelationship) -> Option<Relationship> {
    let endpoint_id = match row.bundle_endpoint_profile.as_ref()? {
        BundleEndpointProfile::HttpsWeb(_) => None,
        BundleEndpointProfile::HttpsSpiffe(profile) => Some(SpiffeId::new(&profile.endpoint_spiffe_id).ok()?),
    };
    let trust_domain = TrustDomain::new(&row.trust_domain).ok()?;
    Some(Relationship { trust_domain, url: row.bundle_endpoint_url.clone(), endpoint_id })
}

impl Relationship {
    fn profile_name(&self) -> &'static str {
        if self.endpoint_id.is_some() { "https_spiffe" } else { "https_web" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(refresh_hint: i64) -> f64 {
        interval(&wire::Bundle { refresh_hint, ..wire::Bundle::default() }).as_secs_f64()
    }

    #[test]
    fn a_poll_comes_after_a_quarter_of_the_hint_but_not_before_15_seconds() {
        for (hint, wait) in [(300, 75.0), (61, 15.25), (4, 15.0), (0, 15.0), (-5, 15.0)] {
            assert_eq!(seconds(hint), wait, "hint {hint}");
        }
    }
}
