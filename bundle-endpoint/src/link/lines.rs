//! What the log says of linked peers, and how often: each has brakes of its own, over all of its links, and nothing goes without one.
//! One that is refused comes again at once, and one that is broken or lies can say the same a thousand times in a second.

use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, warn};

use super::LinkPeer;
use super::brakes::PeerBrakes;
use crate::metrics::Metrics;

/// Between two lines of one kind about one peer.
const INTERVAL: Duration = Duration::from_secs(10);

/// Counts and logs what linked peers do, of all sessions together.
#[derive(Debug)]
pub(super) struct Lines {
    metrics: Arc<Metrics>,
    brakes: PeerBrakes,
}

impl Lines {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, brakes: PeerBrakes::new(INTERVAL) }
    }

    /// Something of this peer was refused.
    pub(super) fn refused(&self, peer: &LinkPeer, event: &'static str, reason: &'static str, detail: &str) {
        self.metrics.link_refusal(reason);
        match self.may_tell(peer, event, reason) {
            Some(suppressed) => warn!(reason, detail, suppressed, "{event}"),
            None => debug!(reason, detail, "{event}"),
        }
    }

    /// `Some` where a line may be written, with how many were held back.
    pub(super) fn may_tell(&self, peer: &LinkPeer, event: &'static str, kind: &'static str) -> Option<u64> {
        self.brakes.pass(peer, (event, kind))
    }
}
