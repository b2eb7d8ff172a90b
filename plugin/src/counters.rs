//! The plugin's few numbers. It has no listener of its own, so they go to SPIRE's metrics, and to the log at debug level.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use entente_proto::spire::hostservice::common::metrics::v1::{IncrCounterRequest, Label};
use tracing::{debug, warn};

use crate::rate_limit::Reopened;
use crate::state::Shared;

/// How often numbers are handed on. Signatures come by the hundred, so they are added up first.
const INTERVAL: Duration = Duration::from_secs(10);

/// Name of a counter, with the one label that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Counter {
    /// Foreign bundles that SPIRE holds now and that are worth a look.
    BundlesSet {
        outcome: &'static str,
    },
    /// Messages from the endpoint that make no sense.
    LinkMessagesRefused {
        reason: &'static str,
    },
    /// Links that ended or did not come up.
    LinkFailures {
        reason: &'static str,
    },
    Offers {
        outcome: &'static str,
    },
    Signatures {
        outcome: &'static str,
    },
}

impl Counter {
    fn name(self) -> &'static str {
        match self {
            Self::BundlesSet { .. } => "bundles_set",
            Self::LinkFailures { .. } => "link_failures",
            Self::LinkMessagesRefused { .. } => "link_messages_refused",
            Self::Offers { .. } => "offers",
            Self::Signatures { .. } => "signatures",
        }
    }

    fn label(self) -> (&'static str, &'static str) {
        match self {
            Self::LinkFailures { reason } | Self::LinkMessagesRefused { reason } => ("reason", reason),
            Self::BundlesSet { outcome } | Self::Offers { outcome } | Self::Signatures { outcome } => {
                ("outcome", outcome)
            }
        }
    }

    fn request(self, count: u32) -> IncrCounterRequest {
        let (name, value) = self.label();
        IncrCounterRequest {
            key: vec!["entente".into(), self.name().into()],
            // Exact for any count that ten seconds can hold.
            val: count as f32,
            labels: vec![Label { name: name.into(), value: value.into() }],
        }
    }
}

/// What happened since the numbers were last handed on.
#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<BTreeMap<Counter, u32>>);

impl Counters {
    pub(crate) fn add(&self, counter: Counter) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(counter).or_default();
        *count = count.saturating_add(1);
    }

    fn take(&self) -> BTreeMap<Counter, u32> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn tell_held_back(shared: &Shared) {
    for Reopened { endpoint, kind, held_back } in shared.endpoint_lines.reopened(Instant::now()) {
        warn!(endpoint, kind = kind.word(), held_back, "lines about the bundle endpoint were held back");
    }
}

/// Hands the numbers on until the plugin stops.
pub(crate) async fn run(shared: &Shared) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        tell_held_back(shared);
        for (counter, count) in shared.counters.take() {
            let (label, value) = counter.label();
            debug!(counter = counter.name(), count, label, value, "counted");
            if let Some(mut metrics) = shared.lent.metrics() {
                let request = counter.request(count);
                // Numbers are no reason to trouble anybody; SPIRE logs when its metrics fail.
                let _ = tokio::time::timeout(INTERVAL, metrics.incr_counter(request)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_events_are_added_up_and_handed_on_once() {
        let counters = Counters::default();
        for outcome in ["set", "refused", "set"] {
            counters.add(Counter::Offers { outcome });
        }
        let taken: Vec<_> =
            counters.take().into_iter().map(|(counter, count)| counter.request(count)).collect();
        let told: Vec<_> =
            taken.iter().map(|request| (request.labels[0].value.as_str(), request.val)).collect();
        assert_eq!(told, [("refused", 1.0), ("set", 2.0)]);
        assert_eq!(taken[0].key, ["entente", "offers"]);
        assert!(counters.take().is_empty());
    }
}
