//! What is done about one relationship: when to fetch, what to note of it, and when to hurry.
//!
//! The plugin decides whether a bundle is set; here it is only offered. After a failure the next try is the next regular
//! one (FED 6.2), except that a fresh bundle to authenticate the endpoint with is tried at once.

use std::sync::Arc;
use std::time::Duration;

use entente_bundle::{Bundle, ParsedDocument, SpiffeId};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::client::{FetchRequest, Fetched};
use super::error::FetchError;
use super::offering::Offering;
use super::refresher::Shared;
use super::relationship::FederationRelationship;
use super::remedy::{self, Against};
use super::table::FetchFailure;
use crate::link::Held;
use crate::logging::chain;
use crate::time::unix_now;

/// A relationship and the bundle that authenticates its endpoint are two messages of the plugin; the first fetch waits so
/// long for the second.
const AUTHENTICATION_PATIENCE: Duration = Duration::from_secs(2);

/// The task of one relationship.
pub(super) struct Follower {
    shared: Arc<Shared>,
    relationship: Arc<FederationRelationship>,
    offering: Offering,
    fetched: Option<Arc<Bundle>>,
    /// Elements that were passed over last, as they were told of.
    skipped: String,
    /// Fetches that failed in a row.
    failures: u64,
}

/// What authenticates an endpoint, as it changes; for `https_spiffe` only.
struct Authentication(Option<watch::Receiver<Held>>);

impl Authentication {
    /// What there is now.
    fn now(&mut self) -> Option<Arc<Bundle>> {
        self.0.as_mut()?.borrow_and_update().authenticating(unix_now()).cloned()
    }

    /// When there is something; when it does not come, the fetch says what is missing.
    async fn await_first(&mut self) {
        if let Some(held) = &mut self.0 {
            let first = held.wait_for(|held| held.authenticating(unix_now()).is_some());
            let _ = timeout(AUTHENTICATION_PATIENCE, first).await;
        }
    }

    /// When there is something else than `used`.
    async fn other_than(&mut self, used: Option<&Arc<Bundle>>) {
        if let Some(held) = &mut self.0
            && held.wait_for(|held| held.authenticating(unix_now()) != used).await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }
}

impl Follower {
    pub(super) fn new(shared: Arc<Shared>, relationship: Arc<FederationRelationship>) -> Self {
        let offering = Offering::new(Arc::clone(&shared), Arc::clone(&relationship));
        Self { shared, relationship, offering, fetched: None, skipped: String::new(), failures: 0 }
    }

    pub(super) async fn run(mut self) {
        let domain = self.relationship.profile.authenticating_domain();
        let mut authentication = Authentication(domain.map(|domain| self.shared.hub.held.subscribe(domain)));
        authentication.await_first().await;
        loop {
            let used = authentication.now();
            let failed_authentication = self.fetch().await;
            let next = Instant::now() + self.interval();
            tokio::select! {
                () = self.look_after_offer(next) => {}
                () = authentication.other_than(used.as_ref()), if failed_authentication => {
                    debug!("another bundle authenticates the endpoint now");
                }
            }
        }
    }

    /// After a failure never longer than where there is no hint: a long one must not keep an outage invisible.
    fn interval(&self) -> Duration {
        let Shared { hub, table, policy, .. } = &*self.shared;
        let held = hub.held.current(&self.relationship.trust_domain).bundle;
        let newest = self.fetched.as_ref().or(held.as_ref());
        let hint = newest.and_then(|bundle| bundle.refresh_hint());
        let interval = policy.interval(hint, rand::random());
        let interval =
            if self.failures == 0 { interval } else { interval.min(policy.interval(None, rand::random())) };
        let next = unix_now().as_secs().saturating_add(interval.as_secs());
        table.update(&self.relationship.trust_domain, |state| state.next_fetch = Some(next));
        interval
    }

    async fn look_after_offer(&mut self, until: Instant) {
        let mut held = self.shared.hub.held.subscribe(&self.relationship.trust_domain);
        held.mark_changed();
        loop {
            tokio::select! {
                () = sleep_until(until) => return,
                Ok(()) = held.changed() => self.offering.held_changed(self.fetched.as_ref()),
                () = self.offering.tend() => {}
            }
        }
    }

    /// True when it failed for want of a bundle that authenticates the endpoint.
    async fn fetch(&mut self) -> bool {
        let request = FetchRequest {
            trust_domain: self.relationship.trust_domain.clone(),
            url: self.relationship.bundle_endpoint_url.clone(),
            profile: self.relationship.profile.clone(),
            follow_redirects: self.relationship.follow_redirects,
        };
        let result = self.shared.fetch(&request).await;
        let now = unix_now().as_secs();
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

    fn succeeded(&mut self, fetched: Fetched, now: u64) {
        let before = self.fetched.take();
        self.tell_skipped(&fetched.parsed);
        let trust_domain = &self.relationship.trust_domain;
        let bundle = Arc::new(fetched.parsed.bundle);
        let is_news = before.as_ref().is_none_or(|before| before.digest() != bundle.digest());
        self.trace(&bundle, before.as_deref(), &fetched.url.to_string(), fetched.presented.as_ref(), is_news);
        if std::mem::take(&mut self.failures) > 0 {
            info!("fetches succeed again");
        }
        self.shared.hub.metrics.fetch_succeeded();
        self.shared.table.update(trust_domain, |state| {
            state.fetched = Some(Arc::clone(&bundle));
            state.skipped_elements = fetched.parsed.skipped.len();
            state.presented = fetched.presented;
            state.failure = None;
            state.fetches += 1;
            state.last_attempt = Some(now);
            state.last_success = Some(now);
        });
        self.fetched = Some(Arc::clone(&bundle));
        self.offering.consider(bundle);
    }

    /// Told of when it changes, not with each fetch.
    fn tell_skipped(&mut self, parsed: &ParsedDocument) {
        let reasons = parsed.skipped_reasons();
        let is_news = reasons != self.skipped;
        if is_news && !reasons.is_empty() {
            let skipped = parsed.skipped.len();
            if parsed.bundle.is_empty() {
                // FED 1.3: as an empty one, which revokes. The publisher may not have meant it.
                warn!(
                    skipped,
                    reasons, "every element of the document is passed over, so it revokes every authority"
                );
            } else {
                debug!(skipped, reasons, "elements of the document are passed over");
            }
        }
        self.skipped = reasons;
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

    fn way_out(&self, error: &FetchError) -> String {
        let Some(domain) = self.relationship.profile.authenticating_domain() else { return String::new() };
        let hub = &self.shared.hub;
        let held = hub.held.current(domain);
        if matches!(error, FetchError::NoAuthenticationBundle { .. }) {
            return remedy::nothing_held(hub.trust_domain(), domain, self.relationship.mode, &held);
        }
        let against = Against::of(&held, unix_now());
        against
            .map(|against| remedy::told(error, Some(hub.trust_domain()), domain, against))
            .unwrap_or_default()
    }

    fn failed(&mut self, error: &FetchError, now: u64) {
        let trust_domain = &self.relationship.trust_domain;
        let (reason, detail) = (error.reason(), chain(error) + &self.way_out(error));
        let presented = error.presented().map(ToString::to_string);
        let url = &self.relationship.bundle_endpoint_url;
        self.failures += 1;
        let count = self.failures;
        self.shared.hub.metrics.fetch_failed(trust_domain, reason);
        let mut was_known = false;
        self.shared.table.update(trust_domain, |state| {
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
}
