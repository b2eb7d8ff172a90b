//! What the log says of linked peers, and how often: each has brakes of its own, over all of its links, and nothing goes without one.
//! One that is refused comes again at once, and one that is broken or lies can say the same a thousand times in a second.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;
use tonic::Status;
use tracing::{Instrument, debug, info, warn};

use super::LinkPeer;
use super::brakes::{LineKind, PeerBrakes};
use crate::metrics::Metrics;

/// Between two lines of one kind about one peer.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);

/// That a link comes and that it goes: one brake for both.
const LINK: LineKind = ("plugin linked", "or not any more");

/// Counts and logs what linked peers do, of all sessions together.
#[derive(Debug)]
pub(super) struct Lines {
    metrics: Arc<Metrics>,
    brakes: PeerBrakes,
    interval: Duration,
}

/// The two lines about one link.
#[derive(Debug)]
pub(super) struct LinkLines {
    lines: Arc<Lines>,
    peer: LinkPeer,
    begin: Arc<Mutex<Begin>>,
    _later: Option<AbortOnDropHandle<()>>,
}

/// What the log says of a link's begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    HeldBack,
    Told,
    /// Nothing any more: it has ended.
    Over,
}

impl Lines {
    /// One line per peer, kind and `interval`.
    pub(super) fn new(metrics: Arc<Metrics>, interval: Duration) -> Self {
        Self { metrics, brakes: PeerBrakes::new(interval), interval }
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

    fn linked(&self, peer: &LinkPeer, plugin_version: &str) -> Begin {
        let passed = self.brakes.pass(peer, LINK);
        match passed {
            Some(suppressed) => info!(plugin_version, suppressed, "plugin linked"),
            None => debug!(plugin_version, "plugin linked"),
        }
        if passed.is_some() { Begin::Told } else { Begin::HeldBack }
    }
}

impl LinkLines {
    /// Says that `peer` is linked: now, or where it was told a moment ago of another link, when this one has lasted a while.
    pub(super) fn linked(lines: &Arc<Lines>, peer: &LinkPeer, plugin_version: &str) -> Self {
        let begin = lines.linked(peer, plugin_version);
        let is_held_back = begin == Begin::HeldBack;
        let begin = Arc::new(Mutex::new(begin));
        let later = is_held_back.then(|| {
            let later =
                tell_later(Arc::clone(lines), peer.clone(), plugin_version.to_owned(), Arc::clone(&begin));
            AbortOnDropHandle::new(tokio::spawn(later.in_current_span()))
        });
        Self { lines: Arc::clone(lines), peer: peer.clone(), begin, _later: later }
    }

    /// What was told to begin is told to end, and another end where a line is due.
    pub(super) fn ended(self, status: &Status) {
        let reason = status.message();
        let begin = std::mem::replace(&mut *crate::lock(&self.begin), Begin::Over);
        let passed = if begin == Begin::Told { Some(0) } else { self.lines.brakes.pass(&self.peer, LINK) };
        match passed {
            Some(suppressed) => info!(reason, suppressed, "plugin link ended"),
            None => debug!(reason, "plugin link ended"),
        }
    }
}

/// A line may be due for another link of the peer first, and then for this one when it lasts longer still.
async fn tell_later(lines: Arc<Lines>, peer: LinkPeer, plugin_version: String, begin: Arc<Mutex<Begin>>) {
    loop {
        tokio::time::sleep(lines.interval).await;
        let mut begin = crate::lock(&begin);
        if *begin == Begin::HeldBack {
            *begin = lines.linked(&peer, &plugin_version);
        }
        if *begin != Begin::HeldBack {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tracing::subscriber::{DefaultGuard, set_default};

    use super::*;
    use crate::link::{LocalPeer, LocalProcess};

    const SHORT: Duration = Duration::from_millis(300);

    /// What was written at `info`.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            crate::lock(&self.0).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Log {
        /// Hears this thread, until the answer is dropped.
        fn hears(&self) -> DefaultGuard {
            let log = self.clone();
            set_default(tracing_subscriber::fmt().with_writer(move || log.clone()).finish())
        }

        fn count(&self, event: &str) -> usize {
            String::from_utf8_lossy(&crate::lock(&self.0)).matches(event).count()
        }

        async fn has(&self, count: usize, event: &str) {
            let told = async {
                while self.count(event) < count {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), told).await.expect(event);
            assert_eq!(self.count(event), count, "{event}");
        }
    }

    fn lines() -> Arc<Lines> {
        Arc::new(Lines::new(Arc::new(Metrics::new()), SHORT))
    }

    fn link(lines: &Arc<Lines>) -> LinkLines {
        let peer = LinkPeer::Local(LocalPeer { uid: 0, process: LocalProcess::Pid(1), allowed: true });
        LinkLines::linked(lines, &peer, "0")
    }

    #[tokio::test]
    async fn the_end_of_a_link_that_was_told_late_is_told_too() {
        let (log, lines) = (Log::default(), lines());
        let _heard = log.hears();
        link(&lines).ended(&Status::ok("bye"));
        let second = link(&lines);
        log.has(2, "plugin linked").await;
        second.ended(&Status::ok("bye"));
        assert_eq!(log.count("plugin link ended"), 2);
    }

    #[tokio::test]
    async fn a_link_that_lasts_is_told_also_when_another_one_was_first() {
        let (log, lines) = (Log::default(), lines());
        let _heard = log.hears();
        let _first = link(&lines);
        tokio::time::sleep(SHORT / 2).await;
        let _lasts = link(&lines);
        tokio::time::sleep(SHORT / 2 + SHORT / 8).await;
        let _between = link(&lines);
        log.has(3, "plugin linked").await;
    }
}
