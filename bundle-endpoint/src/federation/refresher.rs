//! Keeps one task per relationship: begins, ends and, should one fail, begins it again. What a task does is `follower`'s.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use entente_bundle::refresh::RefreshPolicy;
use entente_bundle::{BundleSource, TrustDomain};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, error, info, info_span};

use super::client::{FetchClient, FetchRequest, Fetched};
use super::error::FetchError;
use super::follower::Follower;
use super::relationship::FederationRelationship;
use super::table::{FetchFailure, RelationshipTable};
use crate::link::Hub;

/// Fetches that are young at the same time. One that lasts longer than [`SLOW`] gives its place to others, so that peers
/// that hang delay nobody else.
const MAX_YOUNG_FETCHES: usize = 64;

/// See [`MAX_YOUNG_FETCHES`].
const SLOW: Duration = Duration::from_secs(3);

/// Whatever fetches; the real one is [`FetchClient`].
pub(crate) trait Fetch: Send + Sync + 'static {
    fn fetch<'a>(
        &'a self,
        request: &'a FetchRequest,
        bundles: &'a dyn BundleSource,
    ) -> BoxFuture<'a, Result<Fetched, FetchError>>;
}

impl Fetch for FetchClient {
    fn fetch<'a>(
        &'a self,
        request: &'a FetchRequest,
        bundles: &'a dyn BundleSource,
    ) -> BoxFuture<'a, Result<Fetched, FetchError>> {
        Box::pin(self.fetch(request, bundles))
    }
}

/// What the tasks of all relationships share.
pub(super) struct Shared {
    pub(super) hub: Arc<Hub>,
    pub(super) table: Arc<RelationshipTable>,
    pub(super) policy: RefreshPolicy,
    fetcher: Arc<dyn Fetch>,
    young: Semaphore,
}

impl Shared {
    /// One fetch, beside so many others.
    pub(super) async fn fetch(&self, request: &FetchRequest) -> Result<Fetched, FetchError> {
        let place = self.young.acquire().await;
        let mut fetch = self.fetcher.fetch(request, &self.hub.held);
        tokio::select! {
            fetched = &mut fetch => return fetched,
            () = sleep(SLOW) => drop(place),
        }
        fetch.await
    }
}

/// Keeps one task per relationship.
pub(crate) struct Refresher(Arc<Shared>);

/// The task of one relationship.
struct Running {
    relationship: Arc<FederationRelationship>,
    task: AbortOnDropHandle<()>,
}

impl Refresher {
    pub(crate) fn new(
        hub: Arc<Hub>,
        fetcher: Arc<dyn Fetch>,
        policy: RefreshPolicy,
        table: Arc<RelationshipTable>,
    ) -> Self {
        let young = Semaphore::new(MAX_YOUNG_FETCHES);
        Self(Arc::new(Shared { hub, table, policy, fetcher, young }))
    }

    /// Follows the list of relationships until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut relationships = self.0.hub.relationships();
        let mut tasks: BTreeMap<TrustDomain, Running> = BTreeMap::new();
        loop {
            let wanted = Arc::clone(&relationships.borrow_and_update());
            let is_over = |name: &TrustDomain, running: &mut Running| {
                wanted.get(name).is_none_or(|wanted| *wanted != running.relationship)
            };
            for (trust_domain, running) in tasks.extract_if(.., is_over) {
                self.end(&trust_domain, running.task, wanted.contains_key(&trust_domain)).await;
            }
            for (trust_domain, relationship) in wanted.iter() {
                if !tasks.contains_key(trust_domain) {
                    let task = self.begin(relationship);
                    let running = Running { relationship: Arc::clone(relationship), task };
                    tasks.insert(trust_domain.clone(), running);
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = relationships.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn end(&self, trust_domain: &TrustDomain, task: AbortOnDropHandle<()>, changed: bool) {
        // Only once it is gone: it may be about to offer what it fetched by way of the old settings.
        task.abort();
        let _ = task.await;
        self.0.hub.offers.forget(trust_domain);
        self.0.table.end(trust_domain);
        if changed {
            info!(%trust_domain, "federation relationship changed");
        } else {
            info!(%trust_domain, "federation relationship ended");
        }
    }

    fn begin(&self, relationship: &Arc<FederationRelationship>) -> AbortOnDropHandle<()> {
        let trust_domain = &relationship.trust_domain;
        info!(
            %trust_domain,
            bundle_endpoint_url = relationship.bundle_endpoint_url,
            bundle_endpoint_profile = relationship.profile.name(),
            mode = relationship.mode.name(),
            "federation relationship followed"
        );
        self.0.table.begin(relationship);
        let span = info_span!("federation", %trust_domain);
        let following = follow(Arc::clone(&self.0), Arc::clone(relationship));
        AbortOnDropHandle::new(tokio::spawn(following.instrument(span)))
    }
}

/// Follows one relationship, also after what should not happen: a task that is gone would leave it as it is for ever, and
/// ending the process would let one foreign domain stop all of them.
async fn follow(shared: Arc<Shared>, relationship: Arc<FederationRelationship>) {
    loop {
        let follower = Follower::new(Arc::clone(&shared), Arc::clone(&relationship));
        if AssertUnwindSafe(follower.run()).catch_unwind().await.is_ok() {
            return;
        }
        let (reason, trust_domain) = ("internal", &relationship.trust_domain);
        error!(reason, "following the relationship failed and is begun again");
        shared.hub.metrics.fetch_failed(trust_domain, reason);
        shared.table.update(trust_domain, |state| {
            let detail = "an error of ours: the log says more".into();
            state.failure = Some(FetchFailure { reason, detail, count: 1 });
            state.failures += 1;
        });
        sleep(shared.policy.interval(None, rand::random())).await;
    }
}

#[cfg(test)]
#[path = "refresher/tests.rs"]
mod tests;
