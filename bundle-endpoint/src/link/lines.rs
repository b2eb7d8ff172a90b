//! What the log says of linked peers, and how often: each has brakes of its own, over all of its links, and nothing goes without one.
//! One that is refused comes again at once, and one that is broken or lies can say the same a thousand times in a second.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;
use tonic::Status;
use tracing::{Instrument, debug, info, warn};

use super::LinkPeer;
use super::brakes::{LineKind, PeerBrakes};
use crate::metrics::Metrics;

/// Between two lines of one kind about one peer.
const INTERVAL: Duration = Duration::from_secs(10);

/// That a link comes and that it goes: one brake for both.
const LINK: LineKind = ("plugin linked", "or not any more");

/// Counts and logs what linked peers do, of all sessions together.
#[derive(Debug)]
pub(super) struct Lines {
    metrics: Arc<Metrics>,
    brakes: PeerBrakes,
}

/// The two lines about one link.
#[derive(Debug)]
pub(super) struct LinkLines {
    lines: Arc<Lines>,
    peer: LinkPeer,
    is_told: bool,
    _later: Option<AbortOnDropHandle<()>>,
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

    fn linked(&self, peer: &LinkPeer, plugin_version: &str) -> bool {
        let passed = self.brakes.pass(peer, LINK);
        match passed {
            Some(suppressed) => info!(plugin_version, suppressed, "plugin linked"),
            None => debug!(plugin_version, "plugin linked"),
        }
        passed.is_some()
    }
}

impl LinkLines {
    /// Says that `peer` is linked: now, or where it was told a moment ago of another link, when this one has lasted a while.
    pub(super) fn linked(lines: &Arc<Lines>, peer: &LinkPeer, plugin_version: &str) -> Self {
        let is_told = lines.linked(peer, plugin_version);
        let later = (!is_told).then(|| {
            let (lines, peer, plugin_version) = (Arc::clone(lines), peer.clone(), plugin_version.to_owned());
            let later = async move {
                tokio::time::sleep(INTERVAL).await;
                lines.linked(&peer, &plugin_version);
            };
            AbortOnDropHandle::new(tokio::spawn(later.in_current_span()))
        });
        Self { lines: Arc::clone(lines), peer: peer.clone(), is_told, _later: later }
    }

    /// What was told to begin is told to end, and another end where a line is due.
    pub(super) fn ended(self, status: &Status) {
        let reason = status.message();
        let passed = if self.is_told { Some(0) } else { self.lines.brakes.pass(&self.peer, LINK) };
        match passed {
            Some(suppressed) => info!(reason, suppressed, "plugin link ended"),
            None => debug!(reason, "plugin link ended"),
        }
    }
}
