//! What one relationship has on offer to the plugin: made when it differs from what SPIRE holds, made again when SPIRE could
//! not take it, withdrawn when SPIRE holds it.

use std::sync::Arc;
use std::time::Duration;

use entente_bundle::{Bundle, freshness};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use super::refresher::Shared;
use super::relationship::{FederationRelationship, Mode};
use crate::link::{Offer, Outcome};

/// First and longest wait before an offer that SPIRE could not take is made again.
const REOFFER: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// The offers of one relationship.
pub(super) struct Offering {
    shared: Arc<Shared>,
    relationship: Arc<FederationRelationship>,
    current: Option<Current>,
}

/// What is on the table.
struct Current {
    offer: Arc<Offer>,
    outcome: watch::Receiver<Outcome>,
    /// What SPIRE held when it was made.
    held: Option<Arc<Bundle>>,
    /// When it is made again, after a failure.
    again_at: Option<Instant>,
    wait: Duration,
}

impl Offering {
    pub(super) fn new(shared: Arc<Shared>, relationship: Arc<FederationRelationship>) -> Self {
        Self { shared, relationship, current: None }
    }

    /// Offers what was fetched, unless SPIRE holds it or has said what it makes of it.
    pub(super) fn consider(&mut self, bundle: Arc<Bundle>) {
        let held = self.held();
        if self.is_held(held.as_ref(), &bundle) {
            self.withdraw();
            return;
        }
        if let Some(current) = &self.current
            && current.offer.bundle.digest() == bundle.digest()
        {
            // An answer holds for what SPIRE held when it was given: an operator may have put something else there.
            let stands = match *current.outcome.borrow() {
                Outcome::Pending | Outcome::Failed { .. } => true,
                Outcome::Refused { .. } | Outcome::Set | Outcome::Unchanged => current.held == held,
            };
            if stands {
                return;
            }
        }
        if let Some(held_sequence_number) = freshness::lost_number(held.as_deref(), &bundle) {
            let trust_domain = &self.relationship.trust_domain;
            warn!(%trust_domain, held_sequence_number, "fetched document has no sequence number, the held bundle has one");
            self.shared.hub.metrics.number_lost(trust_domain);
        }
        self.put(bundle, held, REOFFER.0);
    }

    /// SPIRE holds something else than before: what was fetched, or something older, which another server on the same datastore
    /// set after ours. The numbers say so; without them two endpoints that fetched different documents would set theirs in turn,
    /// so there only the next fetch does.
    pub(super) fn held_changed(&mut self, fetched: Option<&Arc<Bundle>>) {
        let Some(fetched) = fetched else { return };
        let held = self.held();
        if self.is_held(held.as_ref(), fetched) {
            self.withdraw();
        } else if held.is_some_and(|held| held.sequence_number() < fetched.sequence_number()) {
            self.consider(Arc::clone(fetched));
        }
    }

    /// Looks after the offer for ever.
    pub(super) async fn tend(&mut self) {
        loop {
            let Some(current) = &mut self.current else { return std::future::pending().await };
            let again_at = current.again_at;
            tokio::select! {
                Ok(()) = current.outcome.changed() => current.answered(),
                () = sleep_until(again_at.unwrap_or_else(Instant::now)), if again_at.is_some() => self.put_again(),
                else => return std::future::pending().await,
            }
        }
    }

    fn held(&self) -> Option<Arc<Bundle>> {
        self.shared.hub.held.current(&self.relationship.trust_domain).bundle
    }

    /// SPIRE's own fetcher keeps no sequence number, so where it sets the bundle only the authorities can be compared.
    fn is_held(&self, held: Option<&Arc<Bundle>>, bundle: &Bundle) -> bool {
        held.is_some_and(|held| match self.relationship.mode {
            Mode::Assisted => held.same_authorities(bundle),
            Mode::Managed => held.same_record(bundle),
        })
    }

    fn put(&mut self, bundle: Arc<Bundle>, held: Option<Arc<Bundle>>, wait: Duration) {
        let Shared { hub, table, .. } = &*self.shared;
        let offer = hub.offers.put(bundle, &self.relationship.bundle_endpoint_url);
        debug!(offer_id = offer.id, "foreign bundle offered");
        let mut outcome = offer.outcome();
        // The answer may have come between the two lines above.
        outcome.mark_changed();
        table.update(&self.relationship.trust_domain, |state| state.offer = Some(Arc::clone(&offer)));
        self.current = Some(Current { offer, outcome, held, again_at: None, wait });
    }

    fn put_again(&mut self) {
        if let Some(current) = self.current.take() {
            let wait = (current.wait * 2).min(REOFFER.1);
            self.put(Arc::clone(&current.offer.bundle), self.held(), wait);
        }
    }

    fn withdraw(&mut self) {
        if self.current.take().is_some() {
            let Shared { hub, table, .. } = &*self.shared;
            hub.offers.withdraw(&self.relationship.trust_domain);
            table.update(&self.relationship.trust_domain, |state| state.offer = None);
        }
    }
}

impl Current {
    fn answered(&mut self) {
        let failed = matches!(*self.outcome.borrow(), Outcome::Failed { .. });
        self.again_at = failed.then(|| Instant::now() + self.wait);
    }
}
