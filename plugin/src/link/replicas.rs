//! One link to each address behind a name: added and removed as replicas of the endpoint come and go.
//!
//! The name is asked for again every few seconds, and soon after a link was lost. An answer that fails or is empty changes
//! nothing. Whoever answers for the name can at most lead us to an address: who is there, TLS finds out.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use entente_bundle::{SpiffeId, TrustDomain};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use super::keeper::Keeper;
use super::resolve::Resolve;
use super::{Target, Way};
use crate::federation::Federation;
use crate::guard::supervised;
use crate::rate_limit::LineKind;
use crate::repeats::Repeats;
use crate::state::Shared;

/// Links at most; more replicas than anybody runs, and each costs a connection and the whole state.
const MAX_REPLICAS: usize = 32;

/// The name, and who is behind it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) spiffe_id: &'a SpiffeId,
    pub(super) trust_domain: &'a TrustDomain,
}

/// How often the name is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// When nothing happens.
    pub(super) regular: Duration,
    /// When links fail.
    pub(super) least: Duration,
    /// How long a link that works outlives its address: it may have been missing from one answer only.
    pub(super) patience: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            regular: Duration::from_secs(5),
            least: Duration::from_secs(1),
            patience: Duration::from_secs(30),
        }
    }
}

/// Runs for ever.
pub(super) async fn keep(
    shared: &Arc<Shared>,
    federation: &Arc<Federation>,
    resolver: &dyn Resolve,
    name: Name<'_>,
    pace: Pace,
) {
    let failed = Arc::new(Notify::new());
    let mut replicas =
        Replicas { shared, federation, name, pace, failed: failed.clone(), links: BTreeMap::new() };
    let mut repeats = Repeats::default();
    loop {
        replicas.take(resolver.resolve(name.host, name.port).await, &mut repeats);
        tokio::time::sleep(pace.least).await;
        tokio::select! {
            () = tokio::time::sleep(pace.regular.saturating_sub(pace.least)) => {}
            () = failed.notified() => {}
        }
    }
}

struct Replicas<'a> {
    shared: &'a Arc<Shared>,
    federation: &'a Arc<Federation>,
    name: Name<'a>,
    pace: Pace,
    failed: Arc<Notify>,
    links: BTreeMap<SocketAddr, Replica>,
}

/// Its link ends with it.
struct Replica {
    keeper: Arc<Keeper>,
    _running: AbortOnDropHandle<()>,
    missing_since: Option<Instant>,
}

impl Replicas<'_> {
    fn take(&mut self, answer: io::Result<Vec<SocketAddr>>, repeats: &mut Repeats) {
        let error = match answer {
            Ok(addresses) if !addresses.is_empty() => {
                repeats.over("name");
                return self.update(addresses.into_iter().collect(), repeats);
            }
            Ok(_) => "the name has no address".to_owned(),
            Err(error) => error.to_string(),
        };
        if self.may_tell(repeats, "name", &error) {
            let (host, links) = (self.name.host, self.links.len());
            warn!(host, error, links, "endpoint's name cannot be resolved");
        }
    }

    fn update(&mut self, found: BTreeSet<SocketAddr>, repeats: &mut Repeats) {
        let patience = self.pace.patience;
        let mut links = std::mem::take(&mut self.links);
        links.retain(|address, replica| {
            let stays = replica.stays(found.contains(address), patience);
            if !stays {
                self.tell(*address, "endpoint is gone from its name");
            }
            stays
        });
        self.links = links;
        for address in &found {
            if self.links.contains_key(address) {
                continue;
            }
            if self.links.len() >= MAX_REPLICAS {
                let (host, found) = (self.name.host, found.len());
                if self.may_tell(repeats, "count", &found.to_string()) {
                    warn!(
                        host,
                        found,
                        most = MAX_REPLICAS,
                        "endpoint's name has more addresses than are linked"
                    );
                }
                return;
            }
            let replica = self.begin(*address);
            self.links.insert(*address, replica);
        }
        repeats.over("count");
    }

    /// True once for each case of a subject, and no more often than whoever answers for the name may have it. What is held back now
    /// counts as not told, and so is told later.
    fn may_tell(&self, repeats: &mut Repeats, subject: &str, case: &str) -> bool {
        let is_news = !repeats.is_repeat(subject, case)
            && self.shared.endpoint_lines.may_warn(self.name.host, LineKind::Name);
        is_news && repeats.is_new(subject, case)
    }

    /// Whoever answers for the name must not fill the log with addresses: all of them together have one budget.
    fn tell(&self, address: SocketAddr, event: &'static str) {
        let (lines, host) = (&self.shared.endpoint_lines, self.name.host);
        if lines.may_warn(host, LineKind::Replica) {
            info!(endpoint = %address, host, "{event}");
        } else if lines.may_detail(host, LineKind::Replica) {
            debug!(endpoint = %address, host, "{event}");
        }
    }

    fn begin(&self, address: SocketAddr) -> Replica {
        self.tell(address, "endpoint found behind its name");
        let way = Way::Network { address, spiffe_id: self.name.spiffe_id.clone() };
        let target = Target { way, trust_domain: self.name.trust_domain.clone() };
        let keeper = Arc::new(Keeper::new(self.shared, self.federation, target, Arc::clone(&self.failed)));
        let kept = Arc::clone(&keeper);
        let running = supervised("link", CancellationToken::new(), move || {
            let kept = Arc::clone(&kept);
            async move { kept.run().await }
        });
        Replica { keeper, _running: AbortOnDropHandle::new(tokio::spawn(running)), missing_since: None }
    }
}

impl Replica {
    fn stays(&mut self, is_found: bool, patience: Duration) -> bool {
        if is_found {
            self.missing_since = None;
            return true;
        }
        let missing_since = *self.missing_since.get_or_insert_with(Instant::now);
        self.keeper.is_up() && missing_since.elapsed() < patience
    }
}

#[cfg(test)]
mod tests;
