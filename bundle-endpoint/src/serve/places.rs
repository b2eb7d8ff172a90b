//! How many connections a listener may have: those that strangers have only begun apart from those that speak HTTP, so that
//! the ones cannot take the places of the others.

use std::sync::Arc;

use entente_bounds::Places;
use rustix::process::{Resource, getrlimit};

/// Connections of one listener, handshakes included, where the limit of open files allows it.
const MOST: usize = MOST_HANDSHAKES + 1024;

/// A handshake is over in moments, so this is plenty for all who mean it.
const MOST_HANDSHAKES: usize = 256;

/// With less nobody could work.
const LEAST: usize = 32;

/// Places of one listener.
#[derive(Debug)]
pub(super) struct ListenerPlaces {
    /// From the accepted connection to the end of the handshake.
    pub(super) handshakes: Arc<Places>,
    /// From there on.
    pub(super) established: Arc<Places>,
}

impl ListenerPlaces {
    /// Of `count` connections. One source may have a quarter of the handshakes and half of what comes after: whole clusters
    /// come from one address, that of their gateway.
    pub(super) fn new(count: usize) -> Self {
        let handshakes = (count / 4).min(MOST_HANDSHAKES);
        let established = count - handshakes;
        Self {
            handshakes: Places::new(handshakes, handshakes / 4),
            established: Places::new(established, established / 2),
        }
    }
}

/// How many connections each of `listeners` may have: together three quarters of the files that we may open, so that
/// strangers cannot take the last ones away from the link and from fetches.
pub(crate) fn share_of_files(listeners: usize) -> usize {
    share(getrlimit(Resource::Nofile).current, listeners)
}

fn share(files: Option<u64>, listeners: usize) -> usize {
    let files = files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
    (files / 4 * 3 / listeners.max(1)).clamp(LEAST, MOST)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use entente_bounds::Place;

    use super::*;

    fn take_all(places: &Arc<Places>, address: &str) -> Vec<Place> {
        let source: IpAddr = address.parse().unwrap();
        std::iter::from_fn(|| places.take(source, places.try_free()?)).collect()
    }

    #[test]
    fn one_source_gets_a_quarter_of_the_handshakes_and_half_of_what_comes_after() {
        let places = ListenerPlaces::new(MOST);
        let begun = take_all(&places.handshakes, "198.51.100.1");
        assert_eq!(begun.len(), MOST_HANDSHAKES / 4);
        assert_eq!(take_all(&places.established, "198.51.100.1").len(), (MOST - MOST_HANDSHAKES) / 2);
        assert!(!take_all(&places.handshakes, "198.51.100.2").is_empty());
    }

    #[test]
    fn listeners_share_three_quarters_of_the_files() {
        assert_eq!(share(Some(1024), 3), 256);
        assert_eq!(share(Some(65_536), 2), MOST);
        assert_eq!(share(None, 2), MOST);
        assert_eq!(share(Some(10), 9), LEAST);
    }
}
