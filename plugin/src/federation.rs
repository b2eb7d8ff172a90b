//! Decides, per foreign trust domain, whether an offered bundle goes into SPIRE, and puts it there.
//!
//! The endpoint only fetches. Which trust domains there are, whether a bundle is sound and newer, and what SPIRE really holds
//! afterwards is found out here. Each trust domain has its own task, so that a slow one delays nobody.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use entente_bundle::causes::chain;
use entente_bundle::freshness::{self, Freshness};
use entente_bundle::{Bundle, TrustDomain};
use entente_proto::convert::{BundleMessage, ConvertError};
use entente_proto::link::v1 as link;
use entente_proto::link::v1::offer_outcome::Outcome;
use entente_proto::spire::api::types;
use futures_util::FutureExt;
use tonic::Code;
use tracing::{Instrument, debug, error, info, warn};

use crate::counters::Counter;
use crate::keeping;
use crate::link::{Origin, Outcomes};
use crate::pending_removals::Cause;
use crate::rate_limit::LineKind;
use crate::relationships::{self, Mode};
use crate::repeats::Repeats;
use crate::server_api::{ApiError, ServerApi};
use crate::state::Shared;

/// Shortest time from one offer of a trust domain to its next: each costs SPIRE a call, or a fetch.
const PACE: Duration = Duration::from_millis(250);

/// Takes offers from all links.
#[derive(Debug)]
pub(crate) struct Federation {
    shared: Arc<Shared>,
    /// Trust domains with an offer in work, and those that came meanwhile: of each origin the newest, in their order.
    slots: Mutex<HashMap<TrustDomain, VecDeque<Offer>>>,
    repeats: Mutex<Repeats>,
}

#[derive(Debug)]
struct Offer {
    message: link::OfferedBundle,
    outcomes: Outcomes,
    origin: Arc<Origin>,
}

/// What becomes of an offer.
#[derive(Debug)]
enum Verdict {
    Failed(Failure),
    Refused(Refusal),
    Set,
    Unchanged,
}

/// Offering the same again will not help.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the bundle cannot be used")]
    Bundle(#[source] ConvertError),
    #[error(
        "the bundle has the held sequence number {sequence_number} and other authorities; if that is right, accept it with: spire-server bundle set -id spiffe://{trust_domain} -format spiffe -path FILE"
    )]
    Conflict { trust_domain: TrustDomain, sequence_number: u64 },
    #[error("the offer holds no bundle")]
    Missing,
    #[error("{name:?} is no trust domain name")]
    Name { name: String },
    #[error("it is the own trust domain")]
    Own,
    #[error(
        "sequence number {offered} is lower than the held {held}; if {trust_domain} was rebuilt, accept its bundle with: spire-server bundle set -id spiffe://{trust_domain} -format spiffe -path FILE"
    )]
    Stale { trust_domain: TrustDomain, held: u64, offered: u64 },
    #[error(
        "no federation relationship names {trust_domain}; declare it with federates_with in the plugin's configuration"
    )]
    Undeclared { trust_domain: TrustDomain },
}

/// SPIRE did not do it; worth offering again.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("{}", keeping::nobody_keeps(trust_domain))]
    NoRelationship { trust_domain: TrustDomain },
    #[error("spire holds other authorities than were set")]
    NotKept,
    #[error("what spire holds and has for relationships is not known yet")]
    NotKnown,
    #[error("spire refreshed by itself and found nothing new")]
    NothingNew,
    #[error("the plugin failed while it handled the offer; its log says how")]
    Panicked,
}

impl Verdict {
    fn of(result: Result<Self, Failure>) -> Self {
        result.unwrap_or_else(Self::Failed)
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::Failed(_) => Outcome::Failed,
            Self::Refused(_) => Outcome::Refused,
            Self::Set => Outcome::Set,
            Self::Unchanged => Outcome::Unchanged,
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Failed(_) => "failed",
            Self::Refused(_) => "refused",
            Self::Set => "set",
            Self::Unchanged => "unchanged",
        }
    }

    fn reason(&self) -> String {
        match self {
            Self::Failed(failure) => chain(failure),
            Self::Refused(refusal) => chain(refusal),
            Self::Set | Self::Unchanged => String::new(),
        }
    }
}

impl Federation {
    pub(crate) fn new(shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self { shared, slots: Mutex::default(), repeats: Mutex::default() })
    }

    /// Takes an offer; the answer comes later. A newer offer replaces one that waits and has the same origin.
    pub(crate) fn offer(
        self: &Arc<Self>,
        message: link::OfferedBundle,
        outcomes: Outcomes,
        origin: Arc<Origin>,
    ) {
        let offer = Offer { message, outcomes, origin };
        let Ok(trust_domain) = TrustDomain::new(&offer.message.trust_domain) else {
            let name = offer.message.trust_domain.chars().take(80).collect();
            self.turn_away(&offer, Verdict::Refused(Refusal::Name { name }));
            return;
        };
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = slots.get_mut(&trust_domain) {
            match waiting.iter_mut().find(|other| Arc::ptr_eq(&other.origin, &offer.origin)) {
                Some(older) => *older = offer,
                None => waiting.push_back(offer),
            }
            return;
        }
        // What nobody declared takes no task and no memory.
        if let Some(verdict) = self.inadmissible(&trust_domain) {
            drop(slots);
            self.turn_away(&offer, verdict);
            return;
        }
        slots.insert(trust_domain.clone(), VecDeque::new());
        drop(slots);
        let span = tracing::info_span!("offer", %trust_domain);
        tokio::spawn(self.clone().work(trust_domain, offer).instrument(span));
    }

    fn inadmissible(&self, trust_domain: &TrustDomain) -> Option<Verdict> {
        let known = self.shared.config().zip(self.shared.spire_relationships.borrow().clone());
        let Some((config, spire)) = known else {
            return Some(Verdict::Failed(Failure::NotKnown));
        };
        if *trust_domain == config.trust_domain {
            return Some(Verdict::Refused(Refusal::Own));
        }
        let is_declared = relationships::of(trust_domain, &config, &spire).is_some();
        (!is_declared).then(|| Verdict::Refused(Refusal::Undeclared { trust_domain: trust_domain.clone() }))
    }

    fn turn_away(&self, offer: &Offer, verdict: Verdict) {
        // One subject for all strangers: the endpoint chooses their names.
        self.tell(LineKind::StrangerOffer, "undeclared", offer, &verdict);
    }

    async fn work(self: Arc<Self>, trust_domain: TrustDomain, mut offer: Offer) {
        loop {
            let worker = Worker { shared: &self.shared, trust_domain: &trust_domain };
            let decided = AssertUnwindSafe(worker.decide(&offer.message)).catch_unwind().await;
            let verdict = decided.unwrap_or(Verdict::Failed(Failure::Panicked));
            self.tell(LineKind::Offer, trust_domain.as_str(), &offer, &verdict);
            tokio::time::sleep(PACE).await;
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            match slots.get_mut(&trust_domain).and_then(VecDeque::pop_front) {
                Some(newer) => offer = newer,
                None => {
                    slots.remove(&trust_domain);
                    return;
                }
            }
        }
    }

    /// Counts always, logs what is new.
    fn tell(&self, kind: LineKind, subject: &str, offer: &Offer, verdict: &Verdict) {
        self.shared.counters.add(Counter::Offers { outcome: verdict.word() });
        let reason = verdict.reason();
        self.log(kind, subject, offer, verdict, &reason);
        let outcome = link::OfferOutcome {
            trust_domain: offer.message.trust_domain.clone(),
            offer_id: offer.message.offer_id,
            outcome: verdict.outcome().into(),
            reason,
        };
        offer.outcomes.tell(outcome);
    }

    fn log(&self, kind: LineKind, subject: &str, offer: &Offer, verdict: &Verdict, reason: &str) {
        let (lines, endpoint) = (&self.shared.endpoint_lines, &offer.origin.endpoint);
        // What one endpoint was told of is news where another says it.
        let subject = &format!("{subject} from {endpoint}");
        let trust_domain: String = offer.message.trust_domain.chars().take(255).collect();
        let mut repeats = self.repeats.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(verdict, Verdict::Set | Verdict::Unchanged) {
            repeats.over(subject);
        }
        match verdict {
            Verdict::Set | Verdict::Unchanged => {
                if lines.may_detail(endpoint, kind) {
                    debug!(endpoint, trust_domain, outcome = verdict.word(), "offered bundle handled");
                }
            }
            // What is held back now counts as not told, and so is told later.
            _ if repeats.is_repeat(subject, reason) || !lines.may_warn(endpoint, kind) => {
                if lines.may_detail(endpoint, kind) {
                    debug!(endpoint, trust_domain, reason, "offered bundle not set again");
                }
            }
            Verdict::Refused(refusal) => {
                repeats.is_new(subject, reason);
                if matches!(refusal, Refusal::Conflict { .. }) {
                    error!(endpoint, trust_domain, reason, "offered bundle refused");
                } else {
                    warn!(endpoint, trust_domain, reason, "offered bundle refused");
                }
            }
            Verdict::Failed(_) => {
                repeats.is_new(subject, reason);
                warn!(endpoint, trust_domain, reason, "offered bundle could not be set");
            }
        }
    }
}

/// One offer for one trust domain.
struct Worker<'a> {
    shared: &'a Shared,
    trust_domain: &'a TrustDomain,
}

impl Worker<'_> {
    async fn decide(&self, offer: &link::OfferedBundle) -> Verdict {
        let Some(message) = &offer.bundle else {
            return Verdict::Refused(Refusal::Missing);
        };
        let offered = match BundleMessage::from(message).into_bundle_of(self.trust_domain) {
            Ok(offered) => offered,
            Err(error) => return Verdict::Refused(Refusal::Bundle(error)),
        };
        let Some((config, _)) = self.shared.config().zip(self.shared.spire_relationships.borrow().clone())
        else {
            return Verdict::Failed(Failure::NotKnown);
        };
        // Asked again and not before the wait: the configuration may have changed meanwhile.
        let Some(relationship) = self.shared.relationship(self.trust_domain) else {
            return Verdict::Refused(Refusal::Undeclared { trust_domain: self.trust_domain.clone() });
        };
        let api = self.shared.connections.api(&config.server_socket, &config.trust_domain);
        match relationship.mode {
            Mode::Assisted => Verdict::of(self.assist(&api, &offered).await),
            Mode::Managed => Verdict::of(self.manage(&api, &offered).await),
        }
    }

    /// What SPIRE holds at this very moment: an operator may have just set it. It logs an error when it is asked for a bundle
    /// that it does not have, so where it had none at the last look it is not asked; whoever then writes must only create.
    async fn held(&self, api: &ServerApi) -> Result<Option<Arc<Bundle>>, ApiError> {
        if self.shared.held.is_absent(self.trust_domain) { Ok(None) } else { self.read(api).await }
    }

    async fn read(&self, api: &ServerApi) -> Result<Option<Arc<Bundle>>, ApiError> {
        let message = api.federated_bundle(self.trust_domain).await?;
        Ok(self.shared.held.set(self.trust_domain, message.as_ref()))
    }

    /// What there is to say about an offer without a write; `None` where it has to be written.
    fn judge(&self, held: Option<&Bundle>, offered: &Bundle) -> Option<Verdict> {
        let trust_domain = self.trust_domain.clone();
        Some(match freshness::compare(held, offered) {
            Freshness::Advance => return None,
            Freshness::Conflict { sequence_number } => {
                Verdict::Refused(Refusal::Conflict { trust_domain, sequence_number })
            }
            Freshness::Same => Verdict::Unchanged,
            Freshness::Stale { held, offered } => {
                Verdict::Refused(Refusal::Stale { trust_domain, held, offered })
            }
        })
    }

    async fn manage(&self, api: &ServerApi, offered: &Bundle) -> Result<Verdict, Failure> {
        let mut held = self.held(api).await?;
        if let Some(verdict) = self.judge(held.as_deref(), offered) {
            return Ok(verdict);
        }
        let mut written = self.write(api, held.as_deref(), offered).await;
        if written.as_ref().is_err_and(|error| error.code() == Some(Code::AlreadyExists)) {
            // Somebody has put one there since the last look.
            held = self.read(api).await?;
            if let Some(verdict) = self.judge(held.as_deref(), offered) {
                return Ok(verdict);
            }
            written = self.replace(api, offered).await;
        }
        // The relationship may have ended while SPIRE wrote, and what failed here may have been written all the same.
        if self.shared.relationship(self.trust_domain).is_none() {
            self.shared.removals.add(self.trust_domain.clone(), Cause::Ended);
            self.shared.look_wanted.notify_one();
        }
        written?;
        let kept = self.read(api).await?;
        let is_kept = kept.is_some_and(|kept| kept.same_record(offered));
        if !is_kept {
            return Err(Failure::NotKept);
        }
        self.announce(held.as_deref(), offered);
        Ok(Verdict::Set)
    }

    async fn write(&self, api: &ServerApi, held: Option<&Bundle>, offered: &Bundle) -> Result<(), ApiError> {
        if held.is_some() {
            return self.replace(api, offered).await;
        }
        api.create_federated_bundle(self.trust_domain, types::Bundle::from(offered)).await
    }

    async fn replace(&self, api: &ServerApi, offered: &Bundle) -> Result<(), ApiError> {
        api.set_federated_bundle(self.trust_domain, types::Bundle::from(offered)).await
    }

    /// SPIRE has the relationship: it fetches and checks, and we only say when.
    async fn assist(&self, api: &ServerApi, offered: &Bundle) -> Result<Verdict, Failure> {
        let before = self.held(api).await?;
        if before.as_ref().is_some_and(|before| before.same_authorities(offered)) {
            return Ok(Verdict::Unchanged);
        }
        let refreshed = api.refresh_bundle(self.trust_domain).await;
        self.shared.keeping.answered(self.trust_domain, &refreshed, Instant::now());
        if refreshed.as_ref().is_err_and(|error| error.code() == Some(Code::NotFound)) {
            return Err(Failure::NoRelationship { trust_domain: self.trust_domain.clone() });
        }
        refreshed?;
        let after = self.read(api).await?;
        let Some(after) = after.filter(|after| Some(after) != before.as_ref()) else {
            return Err(Failure::NothingNew);
        };
        self.announce(before.as_deref(), &after);
        Ok(Verdict::Set)
    }

    fn announce(&self, held: Option<&Bundle>, now: &Bundle) {
        info!(
            sequence_number = now.sequence_number(),
            sequence_number_before = held.and_then(Bundle::sequence_number),
            x509_authorities = now.x509_authorities().len(),
            jwt_authorities = now.jwt_authorities().len(),
            "federated bundle advanced"
        );
        if let Some(held_sequence_number) = freshness::lost_number(held, now) {
            let trust_domain = self.trust_domain;
            self.shared.counters.add(Counter::BundlesSet { outcome: "without_number" });
            warn!(%trust_domain, held_sequence_number, "bundle without a sequence number took the place of a numbered one");
        }
        // TDB 4.1.3: an empty bundle revokes everything. So does one that keeps not a single known authority.
        if held.is_some_and(|held| !held.is_empty() && (now.is_empty() || now.drops_every_authority_of(held)))
        {
            error!("foreign trust domain revoked every authority");
        }
    }
}
