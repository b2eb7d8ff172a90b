//! Every metric: its name, its labels and what it counts. Nothing else in the crate names one.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64};

use entente_bundle::TrustDomain;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Content type of [`Metrics::text`].
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Label `code` of a bundle request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabels {
    code: u16,
}

/// Labels of a handshake.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandshakeLabels {
    listener: String,
    outcome: &'static str,
}

/// Labels of a request that was none.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerReasonLabels {
    listener: String,
    reason: &'static str,
}

/// Label `reason` of something refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

/// Label `outcome` of something that ended one way or another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

/// Label `trust_domain`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DomainLabels {
    trust_domain: String,
}

/// Labels of a refused fetch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DomainReasonLabels {
    trust_domain: String,
    reason: &'static str,
}

/// The four numbers of one trust domain, as far as they are known at this moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DomainNumbers {
    /// Since the last good fetch.
    pub(crate) fetch_age_seconds: Option<u64>,
    /// Of the bundle that SPIRE holds (foreign) or that we serve (own).
    pub(crate) sequence_number: Option<u64>,
    /// First end of an X.509 authority that is still valid, Unix seconds.
    pub(crate) soonest_expiry: Option<u64>,
}

/// All metrics of the process.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<CodeLabels, Counter>,
    handshakes: Family<HandshakeLabels, Counter>,
    connections_refused: Family<ReasonLabels, Counter>,
    http_refusals: Family<ListenerReasonLabels, Counter>,
    links: Gauge<i64, AtomicI64>,
    link_refusals: Family<ReasonLabels, Counter>,
    sign_requests: Family<OutcomeLabels, Counter>,
    fetches: Family<OutcomeLabels, Counter>,
    fetch_refusals: Family<DomainReasonLabels, Counter>,
    numbers_lost: Family<DomainLabels, Counter>,
    offers: Family<OutcomeLabels, Counter>,
    reloads: Family<OutcomeLabels, Counter>,
    fetch_age: Family<DomainLabels, Gauge>,
    sequence_number: Family<DomainLabels, Gauge<u64, AtomicU64>>,
    soonest_expiry: Family<DomainLabels, Gauge>,
    /// Held while the numbers of all domains are written anew.
    writing: Mutex<()>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("entente_endpoint"),
            requests: Family::default(),
            handshakes: Family::default(),
            connections_refused: Family::default(),
            http_refusals: Family::default(),
            links: Gauge::default(),
            link_refusals: Family::default(),
            sign_requests: Family::default(),
            fetches: Family::default(),
            fetch_refusals: Family::default(),
            numbers_lost: Family::default(),
            offers: Family::default(),
            reloads: Family::default(),
            fetch_age: Family::default(),
            sequence_number: Family::default(),
            soonest_expiry: Family::default(),
            writing: Mutex::default(),
        };
        metrics.register_public_side();
        metrics.register_link_and_fetches();
        metrics.register_numbers();
        metrics
    }

    fn register_public_side(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "bundle_requests",
            "Requests to the public listeners by status",
            self.requests.clone(),
        );
        registry.register("handshakes", "TLS handshakes by listener and outcome", self.handshakes.clone());
        registry.register(
            "connections_refused",
            "Connections refused before a handshake, by reason",
            self.connections_refused.clone(),
        );
        registry.register(
            "http_refusals",
            "Broken or missing requests by listener and reason",
            self.http_refusals.clone(),
        );
        registry.register(
            "certificate_reloads",
            "Reloads of certificate files by outcome",
            self.reloads.clone(),
        );
    }

    fn register_link_and_fetches(&mut self) {
        let registry = &mut self.registry;
        registry.register("links", "Plugins that are linked now", self.links.clone());
        registry.register(
            "link_refusals",
            "What was refused on the link, by reason",
            self.link_refusals.clone(),
        );
        registry.register(
            "sign_requests",
            "Handshake signatures asked of the plugin, by outcome",
            self.sign_requests.clone(),
        );
        registry.register("fetches", "Fetches of foreign bundles by outcome", self.fetches.clone());
        registry.register(
            "fetch_refusals",
            "Fetches without a usable bundle, by trust domain and reason",
            self.fetch_refusals.clone(),
        );
        registry.register(
            "sequence_numbers_lost",
            "Fetched bundles without a sequence number that differ from a held one with a number",
            self.numbers_lost.clone(),
        );
        registry.register(
            "offers",
            "Bundles offered to the plugin by what became of them",
            self.offers.clone(),
        );
    }

    fn register_numbers(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "fetch_age_seconds",
            "Seconds since the last good fetch of a foreign bundle",
            self.fetch_age.clone(),
        );
        registry.register(
            "sequence_number",
            "Sequence number of the bundle held (foreign) or served (own)",
            self.sequence_number.clone(),
        );
        registry.register(
            "soonest_authority_expiry_timestamp_seconds",
            "When the first X.509 authority of a bundle ends that is valid now",
            self.soonest_expiry.clone(),
        );
    }

    /// A request to a public listener was answered.
    pub(crate) fn request(&self, code: u16) {
        self.requests.get_or_create(&CodeLabels { code }).inc();
    }

    /// How many were answered so, for the status page.
    pub(crate) fn requests_with(&self, code: u16) -> u64 {
        self.requests.get_or_create(&CodeLabels { code }).get()
    }

    /// A handshake ended: `ok` or why not.
    pub(crate) fn handshake(&self, listener: &str, outcome: &'static str) {
        let listener = listener.to_owned();
        self.handshakes.get_or_create(&HandshakeLabels { listener, outcome }).inc();
    }

    /// A connection was turned away before any handshake.
    pub(crate) fn connection_refused(&self, reason: &'static str) {
        self.connections_refused.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// What came was no request, or none came.
    pub(crate) fn http_refusal(&self, listener: &str, reason: &'static str) {
        let listener = listener.to_owned();
        self.http_refusals.get_or_create(&ListenerReasonLabels { listener, reason }).inc();
    }

    pub(crate) fn links(&self, count: usize) {
        self.links.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Something on the link was refused.
    pub(crate) fn link_refusal(&self, reason: &'static str) {
        self.link_refusals.get_or_create(&ReasonLabels { reason }).inc();
    }

    pub(crate) fn sign_request(&self, outcome: &'static str) {
        self.sign_requests.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    pub(crate) fn fetch_succeeded(&self) {
        self.fetches.get_or_create(&OutcomeLabels { outcome: "ok" }).inc();
    }

    pub(crate) fn fetch_failed(&self, trust_domain: &TrustDomain, reason: &'static str) {
        self.fetches.get_or_create(&OutcomeLabels { outcome: reason }).inc();
        let trust_domain = trust_domain.as_str().to_owned();
        self.fetch_refusals.get_or_create(&DomainReasonLabels { trust_domain, reason }).inc();
    }

    /// A document without a sequence number is offered in place of a bundle that has one.
    pub(crate) fn number_lost(&self, trust_domain: &TrustDomain) {
        let trust_domain = trust_domain.as_str().to_owned();
        self.numbers_lost.get_or_create(&DomainLabels { trust_domain }).inc();
    }

    pub(crate) fn offer(&self, outcome: &'static str) {
        self.offers.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    pub(crate) fn certificate_reload(&self, outcome: &'static str) {
        self.reloads.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    /// The whole as OpenMetrics text, with the numbers of every trust domain as they are now. A domain that is gone, or a
    /// number that nobody knows any more, leaves no series behind.
    pub(crate) fn text(
        &self,
        domains: impl IntoIterator<Item = (TrustDomain, DomainNumbers)>,
    ) -> Result<String, std::fmt::Error> {
        let _alone = crate::lock(&self.writing);
        self.fetch_age.clear();
        self.sequence_number.clear();
        self.soonest_expiry.clear();
        for (trust_domain, numbers) in domains {
            self.domain_numbers(&trust_domain, numbers);
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    fn domain_numbers(&self, trust_domain: &TrustDomain, numbers: DomainNumbers) {
        let labels = DomainLabels { trust_domain: trust_domain.as_str().to_owned() };
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        if let Some(age) = numbers.fetch_age_seconds {
            self.fetch_age.get_or_create(&labels).set(signed(age));
        }
        if let Some(number) = numbers.sequence_number {
            self.sequence_number.get_or_create(&labels).set(number);
        }
        if let Some(expiry) = numbers.soonest_expiry {
            self.soonest_expiry.get_or_create(&labels).set(signed(expiry));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_in_the_text() {
        let metrics = Metrics::new();
        metrics.request(200);
        metrics.link_refusal("uid");
        let domain = TrustDomain::new("b.test").unwrap();
        let numbers = DomainNumbers { sequence_number: Some(7), ..Default::default() };
        let text = metrics.text([(domain.clone(), numbers)]).unwrap();
        assert!(text.contains("entente_endpoint_bundle_requests_total{code=\"200\"} 1"), "{text}");
        assert!(text.contains("entente_endpoint_link_refusals_total{reason=\"uid\"} 1"), "{text}");
        assert!(text.contains("entente_endpoint_sequence_number{trust_domain=\"b.test\"} 7"), "{text}");
        // What is not known any more, and who is not there any more, is not shown.
        assert!(!metrics.text([(domain, DomainNumbers::default())]).unwrap().contains("b.test"));
        assert!(!metrics.text([]).unwrap().contains("b.test"));
    }
}
