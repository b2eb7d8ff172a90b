//! One task per relationship: when to fetch, what to do with what came, and what is known about it meanwhile.
//!
//! The plugin decides whether a bundle is set; here it is only offered. After a failure the next try is the next regular
//! one (FED 6.2), except that a fresh bundle to authenticate the endpoint with is tried at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use entente_bundle::refresh::RefreshPolicy;
use entente_bundle::{Bundle, BundleSource, SpiffeId, TrustDomain};
use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, debug, info, info_span, warn};

use super::client::{FetchClient, FetchRequest, Fetched};
use super::error::FetchError;
use super::relationship::{FederationRelationship, Mode};
use super::table::{FetchFailure, RelationshipTable};
use crate::link::{Held, Hub, Offer, Outcome};
use crate::logging::chain;

/// Fetches that are young at the same time. One that lasts longer than [`SLOW`] gives its place to others, so that peers
/// that hang delay nobody else.
const MAX_YOUNG_FETCHES: usize = 64;

/// See [`MAX_YOUNG_FETCHES`].
const SLOW: Duration = Duration::from_secs(3);

/// A relationship and the bundle that authenticates its endpoint are two messages of the plugin; the first fetch waits so
/// long for the second.
const AUTHENTICATION_PATIENCE: Duration = Duration::from_secs(2);

/// First and longest wait before an offer that SPIRE could not take is made again.
const REOFFER: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

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

/// Keeps one task per relationship.
pub(crate) struct Refresher {
    hub: Arc<Hub>,
    fetcher: Arc<dyn Fetch>,
    policy: RefreshPolicy,
    young: Arc<Semaphore>,
    table: Arc<RelationshipTable>,
}

impl Refresher {
    pub(crate) fn new(
        hub: Arc<Hub>,
        fetcher: Arc<dyn Fetch>,
        policy: RefreshPolicy,
        table: Arc<RelationshipTable>,
    ) -> Self {
        let young = Arc::new(Semaphore::new(MAX_YOUNG_FETCHES));
        Self { hub, fetcher, policy, young, table }
    }

    /// Follows the list of relationships until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut relationships = self.hub.relationships();
        let mut tasks: BTreeMap<TrustDomain, (Arc<FederationRelationship>, AbortOnDropHandle<()>)> =
            BTreeMap::new();
        loop {
            let wanted = Arc::clone(&relationships.borrow_and_update());
            tasks.retain(|trust_domain, (running, _)| {
                let kept = wanted.get(trust_domain).is_some_and(|wanted| wanted == running);
                if !kept {
                    self.end(trust_domain, wanted.contains_key(trust_domain));
                }
                kept
            });
            for (trust_domain, relationship) in wanted.iter() {
                if !tasks.contains_key(trust_domain) {
                    let task = self.begin(relationship);
                    tasks.insert(trust_domain.clone(), (Arc::clone(relationship), task));
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = relationships.changed() => if changed.is_err() { return },
            }
        }
    }

    fn end(&self, trust_domain: &TrustDomain, changed: bool) {
        // Whatever is on offer came by way of the old settings.
        self.hub.offers.withdraw(trust_domain);
        self.table.end(trust_domain);
        self.hub.metrics.forget_domain(trust_domain);
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
        self.table.begin(relationship);
        let span = info_span!("federation", %trust_domain);
        let follower = Follower {
            hub: Arc::clone(&self.hub),
            fetcher: Arc::clone(&self.fetcher),
            policy: self.policy,
            young: Arc::clone(&self.young),
            table: Arc::clone(&self.table),
            relationship: Arc::clone(relationship),
            fetched: None,
            offer: None,
            failures: 0,
        };
        AbortOnDropHandle::new(tokio::spawn(follower.run().instrument(span)))
    }
}

/// The task of one relationship.
struct Follower {
    hub: Arc<Hub>,
    fetcher: Arc<dyn Fetch>,
    policy: RefreshPolicy,
    young: Arc<Semaphore>,
    table: Arc<RelationshipTable>,
    relationship: Arc<FederationRelationship>,
    fetched: Option<Arc<Bundle>>,
    offer: Option<CurrentOffer>,
    /// Fetches that failed in a row.
    failures: u64,
}

/// What this task has on the table.
struct CurrentOffer {
    offer: Arc<Offer>,
    outcome: watch::Receiver<Outcome>,
    /// What SPIRE held when it was made.
    held: Option<Arc<Bundle>>,
    /// When it is made again, after a failure.
    again_at: Option<Instant>,
    wait: Duration,
}

impl Follower {
    async fn run(mut self) {
        let mut authentication = self.authentication();
        self.await_authentication(authentication.as_mut()).await;
        loop {
            let used = authentication.as_mut().map(|held| held.borrow_and_update().authenticating().cloned());
            let failed_authentication = self.fetch().await;
            let next = Instant::now() + self.interval();
            let stale = used.filter(|_| failed_authentication);
            self.wait_until(next, authentication.as_mut(), stale.as_ref()).await;
        }
    }

    fn authentication(&self) -> Option<watch::Receiver<Held>> {
        let trust_domain = self.relationship.profile.authenticating_domain()?;
        Some(self.hub.held.subscribe(trust_domain))
    }

    async fn await_authentication(&self, authentication: Option<&mut watch::Receiver<Held>>) {
        if let Some(held) = authentication {
            // When it does not come, the fetch says what is missing.
            let _ =
                timeout(AUTHENTICATION_PATIENCE, held.wait_for(|held| held.authenticating().is_some())).await;
        }
    }

    /// After a failure never longer than where there is no hint: a long one must not keep an outage invisible.
    fn interval(&self) -> Duration {
        let held = self.hub.held.current(&self.relationship.trust_domain).bundle;
        let newest = self.fetched.as_ref().or(held.as_ref());
        let hint = newest.and_then(|bundle| bundle.refresh_hint());
        let interval = self.policy.interval(hint, rand::random());
        let interval = if self.failures == 0 {
            interval
        } else {
            interval.min(self.policy.interval(None, rand::random()))
        };
        let next = crate::time::unix_now().as_secs().saturating_add(interval.as_secs());
        self.table.update(&self.relationship.trust_domain, |state| state.next_fetch = Some(next));
        interval
    }

    /// True when it failed for want of a bundle that authenticates the endpoint.
    async fn fetch(&mut self) -> bool {
        let request = FetchRequest {
            trust_domain: self.relationship.trust_domain.clone(),
            url: self.relationship.bundle_endpoint_url.clone(),
            profile: self.relationship.profile.clone(),
            follow_redirects: self.relationship.follow_redirects,
        };
        let result = self.fetch_among_others(&request).await;
        let now = crate::time::unix_now().as_secs();
        match result {
            Ok(fetched) => {
                self.succeeded(fetched, now);
                false
            }
            Err(error) => {
                self.failed(&error, now);
                error.is_authentication()
            }
        }
    }

    async fn fetch_among_others(&self, request: &FetchRequest) -> Result<Fetched, FetchError> {
        let place = self.young.acquire().await;
        let mut fetch = self.fetcher.fetch(request, &self.hub.held);
        tokio::select! {
            fetched = &mut fetch => return fetched,
            () = sleep(SLOW) => drop(place),
        }
        fetch.await
    }

    fn succeeded(&mut self, fetched: Fetched, now: u64) {
        let trust_domain = &self.relationship.trust_domain;
        let before = self.fetched.take();
        let bundle = Arc::new(fetched.parsed.bundle);
        let is_news = before.as_ref().is_none_or(|before| before.digest() != bundle.digest());
        self.trace(&bundle, before.as_deref(), &fetched.url.to_string(), fetched.presented.as_ref(), is_news);
        for skipped in fetched.parsed.skipped.iter().filter(|_| is_news) {
            debug!(index = skipped.index, reason = skipped.reason, "element of the document skipped");
        }
        if std::mem::take(&mut self.failures) > 0 {
            info!("fetches succeed again");
        }
        self.hub.metrics.fetch_succeeded();
        self.table.update(trust_domain, |state| {
            state.fetched = Some(Arc::clone(&bundle));
            state.skipped_elements = fetched.parsed.skipped.len();
            state.presented = fetched.presented;
            state.failure = None;
            state.fetches += 1;
            state.last_attempt = Some(now);
            state.last_success = Some(now);
        });
        self.fetched = Some(Arc::clone(&bundle));
        self.offer_if_new(bundle);
    }

    // FED 7.6: a trace of fetches for later forensics.
    fn trace(
        &self,
        now: &Bundle,
        before: Option<&Bundle>,
        url: &str,
        presented: Option<&SpiffeId>,
        is_news: bool,
    ) {
        let presented = presented.map(ToString::to_string);
        let (sequence_number, sequence_before) =
            (now.sequence_number(), before.and_then(Bundle::sequence_number));
        let (x509_authorities, jwt_authorities) = (now.x509_authorities().len(), now.jwt_authorities().len());
        if is_news {
            info!(
                url,
                presented,
                sequence_before,
                sequence_number,
                x509_authorities,
                jwt_authorities,
                "foreign bundle fetched"
            );
        } else {
            debug!(url, presented, sequence_before, sequence_number, "foreign bundle fetched");
        }
    }

    fn failed(&mut self, error: &FetchError, now: u64) {
        let trust_domain = &self.relationship.trust_domain;
        let (reason, detail) = (error.reason(), chain(error));
        let presented = error.presented().map(ToString::to_string);
        let url = &self.relationship.bundle_endpoint_url;
        self.failures += 1;
        let count = self.failures;
        self.hub.metrics.fetch_failed(trust_domain, reason);
        let mut was_known = false;
        self.table.update(trust_domain, |state| {
            was_known = state.failure.as_ref().is_some_and(|known| known.reason == reason);
            state.failure = Some(FetchFailure { reason, detail: detail.clone(), count });
            state.failures += 1;
            state.last_attempt = Some(now);
        });
        if was_known {
            debug!(url, presented, reason, error = detail, count, "fetch failed");
        } else {
            warn!(url, presented, reason, error = detail, "fetch failed");
        }
    }

    fn held(&self) -> Option<Arc<Bundle>> {
        self.hub.held.current(&self.relationship.trust_domain).bundle
    }

    /// SPIRE's own fetcher keeps no sequence number, so where it sets the bundle only the authorities can be compared.
    fn is_held(&self, held: Option<&Arc<Bundle>>, bundle: &Bundle) -> bool {
        held.is_some_and(|held| match self.relationship.mode {
            Mode::Assisted => held.same_authorities(bundle),
            Mode::Managed => {
                held.same_authorities(bundle)
                    && held.sequence_number() == bundle.sequence_number()
                    && held.refresh_hint() == bundle.refresh_hint()
            }
        })
    }

    fn offer_if_new(&mut self, bundle: Arc<Bundle>) {
        let held = self.held();
        if self.is_held(held.as_ref(), &bundle) {
            self.withdraw();
            return;
        }
        if let Some(current) = &self.offer
            && current.offer.bundle.digest() == bundle.digest()
        {
            let outcome = current.outcome.borrow().clone();
            // An answer holds for what SPIRE held when it was given: an operator may have put something else there.
            let stands = match outcome {
                Outcome::Pending | Outcome::Failed { .. } => true,
                Outcome::Refused { .. } | Outcome::Set | Outcome::Unchanged => current.held == held,
            };
            if stands {
                return;
            }
        }
        self.put(bundle, held, REOFFER.0);
    }

    fn put(&mut self, bundle: Arc<Bundle>, held: Option<Arc<Bundle>>, wait: Duration) {
        let offer = self.hub.offers.put(bundle, &self.relationship.bundle_endpoint_url);
        debug!(offer_id = offer.id, "foreign bundle offered");
        let mut outcome = offer.outcome();
        // The answer may have come between the two lines above.
        outcome.mark_changed();
        self.table.update(&self.relationship.trust_domain, |state| state.offer = Some(Arc::clone(&offer)));
        self.offer = Some(CurrentOffer { offer, outcome, held, again_at: None, wait });
    }

    fn withdraw(&mut self) {
        if self.offer.take().is_some() {
            self.hub.offers.withdraw(&self.relationship.trust_domain);
            self.table.update(&self.relationship.trust_domain, |state| state.offer = None);
        }
    }

    /// Looks after the offer until the next fetch is due, or until `stale` is no longer what authenticates the endpoint.
    async fn wait_until(
        &mut self,
        next: Instant,
        mut authentication: Option<&mut watch::Receiver<Held>>,
        stale: Option<&Option<Arc<Bundle>>>,
    ) {
        let mut held = self.hub.held.subscribe(&self.relationship.trust_domain);
        held.mark_changed();
        loop {
            let again_at = self.offer.as_ref().and_then(|offer| offer.again_at);
            tokio::select! {
                () = sleep_until(next) => return,
                Some(()) = changed(authentication.as_deref_mut()), if stale.is_some() => {
                    let now = authentication.as_deref().map(|held| held.borrow().authenticating().cloned());
                    if now.as_ref() != stale {
                        debug!("another bundle authenticates the endpoint now");
                        return;
                    }
                }
                Some(()) = changed(Some(&mut held)) => self.held_changed(),
                Some(()) = changed(self.offer.as_mut().map(|offer| &mut offer.outcome)) => self.answered(),
                () = sleep_until(again_at.unwrap_or(next)), if again_at.is_some() => self.offer_again(),
            }
        }
    }

    fn held_changed(&mut self) {
        let held = self.held();
        if let Some(bundle) = &self.fetched
            && self.is_held(held.as_ref(), bundle)
        {
            self.withdraw();
        }
    }

    fn answered(&mut self) {
        if let Some(current) = &mut self.offer {
            let failed = matches!(*current.outcome.borrow(), Outcome::Failed { .. });
            current.again_at = failed.then(|| Instant::now() + current.wait);
        }
    }

    fn offer_again(&mut self) {
        if let Some(current) = self.offer.take() {
            let wait = (current.wait * 2).min(REOFFER.1);
            self.put(Arc::clone(&current.offer.bundle), self.held(), wait);
        }
    }
}

/// `None` when there is nothing to wait for, or its sender is gone.
async fn changed<T>(receiver: Option<&mut watch::Receiver<T>>) -> Option<()> {
    receiver?.changed().await.ok()
}

#[cfg(test)]
#[path = "refresher/tests.rs"]
mod tests;
