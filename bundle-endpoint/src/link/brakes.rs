//! The brakes on what a peer of the link has us write into the log.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use entente_bounds::Throttle;

use super::{LinkPeer, LocalProcess};

/// Peers that have brakes of their own at a time; more than are usually linked.
const MAX_PEERS: usize = 16;

/// One brake for each kind of line: the noise of one must not hide another.
#[derive(Debug)]
pub(super) struct Brakes<K = &'static str> {
    interval: Duration,
    // Kinds are constants of this program, so there are only so many.
    throttles: Mutex<HashMap<K, Throttle>>,
}

/// What happened and the reason or the outcome, as the line says it.
pub(super) type LineKind = (&'static str, &'static str);

/// The same for each peer by itself. Peers beyond `MAX_PEERS` share one set, so that ever new ones cannot fill the log.
#[derive(Debug)]
pub(super) struct PeerBrakes {
    interval: Duration,
    each: Mutex<HashMap<PeerKey, Peer>>,
    others: Brakes<LineKind>,
}

#[derive(Debug)]
struct Peer {
    used_at: Instant,
    brakes: Brakes<LineKind>,
}

/// What stays when a peer links again.
#[derive(Debug, PartialEq, Eq, Hash)]
enum PeerKey {
    Local { uid: u32, process: LocalProcess },
    Network(IpAddr),
}

impl<K: Eq + Hash> Brakes<K> {
    /// One line per kind and `interval`.
    pub(super) fn new(interval: Duration) -> Self {
        Self { interval, throttles: Mutex::default() }
    }

    /// `Some` when a line of this kind may be written, with how many were held back since the one before.
    pub(super) fn pass(&self, kind: K) -> Option<u64> {
        let mut throttles = crate::lock(&self.throttles);
        throttles.entry(kind).or_insert_with(|| Throttle::new(self.interval)).pass()
    }
}

impl PeerBrakes {
    /// One line per peer, kind and `interval`.
    pub(super) fn new(interval: Duration) -> Self {
        Self { interval, each: Mutex::default(), others: Brakes::new(interval) }
    }

    /// As [`Brakes::pass`].
    pub(super) fn pass(&self, peer: &LinkPeer, kind: LineKind) -> Option<u64> {
        let (key, now) = (PeerKey::of(peer), Instant::now());
        let mut each = crate::lock(&self.each);
        if each.len() >= MAX_PEERS && !each.contains_key(&key) {
            // Fresh ones would let through as much.
            each.retain(|_, peer| now.duration_since(peer.used_at) < self.interval);
            if each.len() >= MAX_PEERS {
                return self.others.pass(kind);
            }
        }
        let fresh = || Peer { used_at: now, brakes: Brakes::new(self.interval) };
        let peer = each.entry(key).or_insert_with(fresh);
        peer.used_at = now;
        peer.brakes.pass(kind)
    }
}

impl PeerKey {
    fn of(peer: &LinkPeer) -> Self {
        match peer {
            LinkPeer::Local(peer) => Self::Local { uid: peer.uid, process: peer.process },
            // Each connection has a port of its own.
            LinkPeer::Verified { address, .. } => Self::Network(address.ip().to_canonical()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::LocalPeer;

    const HOUR: Duration = Duration::from_secs(3600);

    fn peer(pid: i32) -> LinkPeer {
        of_process(LocalProcess::Pid(pid))
    }

    fn of_process(process: LocalProcess) -> LinkPeer {
        LinkPeer::Local(LocalPeer { uid: 0, process, allowed: true })
    }

    #[test]
    fn each_reason_has_a_line_of_its_own() {
        let brakes = Brakes::new(HOUR);
        assert_eq!(brakes.pass("malformed"), Some(0));
        assert_eq!(brakes.pass("malformed"), None);
        assert_eq!(brakes.pass("empty"), Some(0));
    }

    #[test]
    fn each_peer_has_lines_of_its_own_and_each_event_of_the_same_reason() {
        let brakes = PeerBrakes::new(HOUR);
        let unnamed = |connection| of_process(LocalProcess::Unnamed { connection });
        for peer in [peer(1), peer(2), unnamed(1), unnamed(2)] {
            for event in ["message refused", "relationship refused"] {
                assert_eq!(brakes.pass(&peer, (event, "malformed")), Some(0));
                assert_eq!(brakes.pass(&peer, (event, "malformed")), None);
            }
        }
    }

    #[test]
    fn ever_new_peers_get_no_more_than_a_few_may_have() {
        let brakes = PeerBrakes::new(HOUR);
        let passed = |pid: &i32| brakes.pass(&peer(*pid), ("message refused", "malformed")).is_some();
        assert_eq!((0..1000).filter(passed).count(), MAX_PEERS + 1);
        assert!(crate::lock(&brakes.each).len() <= MAX_PEERS);
    }

    #[test]
    fn peers_that_are_quiet_make_room_for_others() {
        let brakes = PeerBrakes::new(Duration::ZERO);
        for pid in 0..100 {
            assert_eq!(brakes.pass(&peer(pid), ("message refused", "malformed")), Some(0));
        }
        assert!(crate::lock(&brakes.each).len() <= MAX_PEERS);
        assert!(crate::lock(&brakes.others.throttles).is_empty());
    }
}
