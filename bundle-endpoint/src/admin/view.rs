//! Everything that the admin listener shows, put together from the parts at the moment it is asked for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use entente_bundle::freshness::{self, Freshness};
use entente_bundle::text::rfc3339;
use entente_bundle::{Bundle, TrustDomain, X509Authority};
use entente_workload_identity::WorkloadIdentity;
use rustls_pki_types::UnixTime;

use super::trouble;
use crate::federation::relationship::{EndpointProfile, Mode};
use crate::federation::table::{RelationshipState, RelationshipTable};
use crate::handler::BundleHandler;
use crate::health::{RELATIONSHIP_UNHEALTHY, Readiness, Reason};
use crate::identity::Identity;
use crate::link::{Hub, LinkInfo, SpireState, Troubles};
use crate::logging::chain;
use crate::metrics::{DomainNumbers, Metrics};
use crate::published::PublishedWatch;
use crate::status::{
    BundleSummary, FailureStatus, LinkStatus, ListenerStatus, OfferStatus, OwnStatus, PendingRemovalStatus,
    RelationshipStatus, Status, X509AuthoritySummary,
};
use crate::time::{unix_now, unix_seconds};

/// In the answer of `/ready`, which is asked for every few seconds.
const MOST_UNHEALTHY_LISTED: usize = 20;

/// The parts that are shown.
pub(crate) struct View {
    pub(crate) hub: Arc<Hub>,
    pub(crate) published: PublishedWatch,
    pub(crate) handler: Arc<BundleHandler>,
    pub(crate) identities: Vec<Identity>,
    pub(crate) relationships: Arc<RelationshipTable>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) listeners: Vec<ListenerStatus>,
    pub(crate) link_socket: String,
    /// Who we are on a link over the network.
    pub(crate) link_identity: Option<WorkloadIdentity>,
    /// The same, or who a public listener is.
    pub(crate) workload_identity: Option<WorkloadIdentity>,
}

impl View {
    pub(crate) fn readiness(&self) -> Readiness {
        let mut reasons = Vec::new();
        let mut degraded = Vec::new();
        if self.published.borrow().is_none() {
            reasons.push(Reason::new("no_bundle", "the plugin has not sent a bundle yet"));
        }
        for (name, detail) in self.identities.iter().filter_map(Identity::unready) {
            let reason = Reason::new(name, detail);
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
        if *self.hub.link_count().borrow() == 0 {
            // The last bundle is still good to serve; whether anything else suffers, the other reasons say.
            let list = if reasons.is_empty() { &mut degraded } else { &mut reasons };
            list.push(Reason::new("link_down", self.why_no_link()));
        }
        let spire = self.hub.spire();
        degraded.extend(self.unhealthy(&spire));
        degraded.extend(spire.troubles.into_iter().map(|trouble| Reason::new("spire_api", trouble)));
        degraded.extend(self.workload_api_trouble());
        // A task that ended holds a sender: then nothing would ever change again, and nobody would notice.
        if self.published.has_changed().is_err() {
            reasons.push(Reason::new("task_ended", "the publishing task has ended"));
        }
        Readiness::new(reasons, degraded)
    }

    /// While it lasts the SVID that is shown grows old, and nobody would see why.
    fn workload_api_trouble(&self) -> Option<Reason> {
        let failure = self.workload_identity.as_ref()?.failure()?;
        Some(Reason::new("workload_api", chain(&*failure)))
    }

    fn why_no_link(&self) -> String {
        let mut why = "no plugin is linked: changes of the bundle cannot arrive".to_owned();
        if self.link_identity.as_ref().is_some_and(|identity| identity.spiffe_id().is_none()) {
            why.push_str("; nor can one link, because the Workload API has issued us no identity");
        }
        why
    }

    pub(crate) fn metrics_text(&self) -> Result<String, std::fmt::Error> {
        let now = unix_now();
        let published = self.published.borrow().clone();
        let own = published.map(|published| {
            let numbers = numbers(Some(&published.bundle), None, now);
            (self.hub.trust_domain().clone(), numbers)
        });
        let foreign = self.relationships.snapshot().into_iter().map(|state| {
            let trust_domain = state.relationship.trust_domain.clone();
            let held = self.hub.held.current(&trust_domain).bundle;
            let numbers = numbers(held.as_deref(), state.last_success, now);
            (trust_domain, numbers)
        });
        self.metrics.text(own.into_iter().chain(foreign))
    }

    pub(crate) fn status(&self) -> Status {
        let now = unix_now();
        let spire = self.hub.spire();
        Status {
            trust_domain: self.hub.trust_domain().to_string(),
            version: crate::VERSION.into(),
            readiness: self.readiness(),
            listeners: self.listeners.clone(),
            link_socket: self.link_socket.clone(),
            link_identity: self.link_identity.as_ref().and_then(|own| Some(own.spiffe_id()?.to_string())),
            links: self.hub.links().iter().map(link_status).collect(),
            own: self.own(now),
            relationships: self.foreign(&spire, now),
            pending_removals: spire.removals.into_iter().map(pending_removal).collect(),
        }
    }

    /// Those that are followed, and those that the plugin has declared and cannot say more about.
    fn states(&self, spire: &SpireState) -> BTreeMap<TrustDomain, RelationshipState> {
        let of = |state: RelationshipState| (state.relationship.trust_domain.clone(), state);
        let declared = spire.declared.values().map(RelationshipState::new);
        declared.chain(self.relationships.snapshot()).map(of).collect()
    }

    fn foreign(&self, spire: &SpireState, now: UnixTime) -> Vec<RelationshipStatus> {
        self.states(spire).values().map(|state| self.relationship(state, spire, now)).collect()
    }

    /// The first of those that are not healthy; we serve all the same.
    fn unhealthy(&self, spire: &SpireState) -> Vec<Reason> {
        let now = unix_now();
        let states = self.states(spire);
        let mut troubles = states.iter().filter_map(|(trust_domain, state)| {
            let trouble = self.trouble(state, spire, now)?;
            Some(Reason::new(RELATIONSHIP_UNHEALTHY, format!("{trust_domain}: {trouble}")))
        });
        let mut listed: Vec<_> = troubles.by_ref().take(MOST_UNHEALTHY_LISTED).collect();
        let more = troubles.count();
        if more > 0 {
            listed.push(Reason::new(RELATIONSHIP_UNHEALTHY, format!("and {more} more, see /status")));
        }
        listed
    }

    /// Why a relationship is not healthy, in words for an operator.
    fn trouble(&self, state: &RelationshipState, spire: &SpireState, now: UnixTime) -> Option<String> {
        // While the plugin sees nothing of SPIRE, what was last heard of it says nothing.
        if spire.unusable.is_some() {
            return spire.unusable.clone();
        }
        let relationship = &state.relationship;
        let held = self.hub.held.current(&relationship.trust_domain);
        let endpoint = relationship.profile.authenticating_domain();
        let endpoint = endpoint.map(|domain| self.hub.held.current(domain)).unwrap_or_default();
        // Each of the domain that it is about: one of these may authenticate the endpoint of the other.
        let told =
            Troubles { keeping: held.troubles.keeping, authentication: endpoint.troubles.authentication };
        trouble::of(state, held.bundle.as_deref(), told, now)
    }

    fn own(&self, now: UnixTime) -> OwnStatus {
        let published = self.published.borrow().clone();
        let published = published.as_deref();
        OwnStatus {
            bundle: published.map(|published| bundle_summary(&published.bundle, now)),
            etag: published.and_then(|published| Some(published.etag.to_str().ok()?.to_owned())),
            published: published.map(|published| time(published.since)),
            served: self.metrics.requests_with(200),
            not_modified: self.metrics.requests_with(304),
            last_served: self.handler.last_served().map(rfc3339),
        }
    }

    fn relationship(
        &self,
        state: &RelationshipState,
        spire: &SpireState,
        now: UnixTime,
    ) -> RelationshipStatus {
        let relationship = &state.relationship;
        let held = self.hub.held.current(&relationship.trust_domain).bundle;
        let outcome = state.offer.as_ref().map(|offer| offer.outcome().borrow().clone());
        let reason = self.trouble(state, spire, now);
        let endpoint_spiffe_id = match &relationship.profile {
            EndpointProfile::HttpsSpiffe { endpoint_spiffe_id } => Some(endpoint_spiffe_id.to_string()),
            EndpointProfile::HttpsWeb { .. } => None,
        };
        let summary = |bundle: &Arc<Bundle>| bundle_summary(bundle, now);
        let freshness = |fetched: &Arc<Bundle>| freshness_of(relationship.mode, held.as_deref(), fetched);
        RelationshipStatus {
            trust_domain: relationship.trust_domain.to_string(),
            bundle_endpoint_url: relationship.bundle_endpoint_url.clone(),
            bundle_endpoint_profile: relationship.profile.name().into(),
            endpoint_spiffe_id,
            mode: relationship.mode.name().into(),
            healthy: reason.is_none(),
            reason,
            held: held.as_ref().map(summary),
            fetched: state.fetched.as_ref().map(summary),
            freshness: state.fetched.as_ref().map(freshness),
            presented: state.presented.as_ref().map(ToString::to_string),
            skipped_elements: state.skipped_elements,
            fetches: state.fetches,
            failures: state.failures,
            last_attempt: state.last_attempt.map(rfc3339),
            last_success: state.last_success.map(rfc3339),
            next_fetch: state.next_fetch.map(rfc3339),
            failure: state.failure.as_ref().map(|failure| FailureStatus {
                reason: failure.reason.into(),
                detail: failure.detail.clone(),
                count: failure.count,
            }),
            offer: outcome.map(|outcome| OfferStatus {
                outcome: outcome.name().into(),
                reason: outcome.reason().map(str::to_owned),
            }),
        }
    }
}

/// SPIRE's own fetcher keeps no sequence number, so where it sets the bundle equal authorities are all that there will be.
fn freshness_of(mode: Mode, held: Option<&Bundle>, fetched: &Bundle) -> String {
    let is_same = mode == Mode::Assisted && held.is_some_and(|held| held.same_authorities(fetched));
    let freshness = if is_same { Freshness::Same } else { freshness::compare(held, fetched) };
    match freshness {
        Freshness::Advance => "advance",
        Freshness::Conflict { .. } => "conflict",
        Freshness::Same => "same",
        Freshness::Stale { .. } => "stale",
    }
    .into()
}

fn pending_removal((trust_domain, reason): (TrustDomain, String)) -> PendingRemovalStatus {
    let reason = Some(reason).filter(|reason| !reason.is_empty());
    PendingRemovalStatus { trust_domain: trust_domain.to_string(), reason }
}

fn link_status(link: &LinkInfo) -> LinkStatus {
    LinkStatus {
        plugin_version: link.plugin_version.clone(),
        uid: link.peer.uid(),
        pid: link.peer.pid(),
        connection: link.peer.connection(),
        address: link.peer.address().map(|address| address.to_string()),
        spiffe_id: link.peer.spiffe_id().map(ToString::to_string),
        since: time(link.since),
        lends: link.lends.as_ref().map(|identity| identity.spiffe_id.to_string()),
    }
}

/// One bundle in numbers, for the status page and for `fetch`.
pub(crate) fn bundle_summary(bundle: &Bundle, now: UnixTime) -> BundleSummary {
    let x509 = |authority: &X509Authority| X509AuthoritySummary {
        sha256: authority.fingerprint(),
        subject_key_id: authority.subject_key_id(),
        not_before: rfc3339(authority.not_before()),
        not_after: rfc3339(authority.not_after()),
        expired: authority.is_expired(now),
        tainted: authority.is_tainted(),
    };
    BundleSummary {
        sequence_number: bundle.sequence_number(),
        refresh_hint: bundle.refresh_hint().map(|hint| hint.as_secs()),
        x509_authorities: bundle.x509_authorities().iter().map(x509).collect(),
        jwt_authorities: bundle
            .jwt_authorities()
            .iter()
            .map(|authority| authority.key_id().to_owned())
            .collect(),
    }
}

fn numbers(bundle: Option<&Bundle>, last_success: Option<u64>, now: UnixTime) -> DomainNumbers {
    DomainNumbers {
        fetch_age_seconds: last_success.map(|then| now.as_secs().saturating_sub(then)),
        sequence_number: bundle.and_then(Bundle::sequence_number),
        soonest_expiry: bundle.and_then(|bundle| soonest_expiry(bundle, now)),
    }
}

fn soonest_expiry(bundle: &Bundle, now: UnixTime) -> Option<u64> {
    let valid = bundle.x509_authorities().iter().filter(|authority| !authority.is_expired(now));
    valid.map(X509Authority::not_after).min()
}

fn time(time: SystemTime) -> String {
    rfc3339(unix_seconds(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_spire_does_not_keep_makes_no_difference_where_it_fetches_itself() {
        let domain = TrustDomain::new("b.test").unwrap();
        let bundle = |number| Bundle::new(domain.clone(), vec![], vec![], number, None);
        let (held, fetched) = (bundle(None), bundle(Some(7)));
        assert_eq!(freshness_of(Mode::Assisted, Some(&held), &fetched), "same");
        assert_eq!(freshness_of(Mode::Managed, Some(&held), &fetched), "advance");
        assert_eq!(freshness_of(Mode::Assisted, None, &fetched), "advance");
    }
}
