//! Handshakes under way on the link's port: so many in all, and of these so many for one source.
//!
//! Anybody who reaches the port can begin one, so when there is no room the oldest has to go: whoever means it is done in
//! milliseconds. It goes from the source that has most of them, so that a crowd displaces itself and not the plugin.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use entente_bounds::{Place, Places, source_of};
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

/// In all; a quarter of them for one source.
pub(super) const MAX_HANDSHAKES: usize = 64;

/// Oldest first.
#[derive(Debug)]
pub(super) struct Handshakes {
    places: Arc<Places>,
    under_way: VecDeque<UnderWay>,
}

#[derive(Debug)]
struct UnderWay {
    address: SocketAddr,
    place: Place,
    task: AbortOnDropHandle<()>,
}

impl Handshakes {
    pub(super) fn new() -> Self {
        Self { places: Places::new(MAX_HANDSHAKES, MAX_HANDSHAKES / 4), under_way: VecDeque::new() }
    }

    /// The address of the one that had to go for it, if one had to.
    pub(super) fn begin(&mut self, address: SocketAddr, task: JoinHandle<()>) -> Option<SocketAddr> {
        let task = AbortOnDropHandle::new(task);
        let mut displaced = None;
        let place = self.take(address.ip()).or_else(|| {
            self.under_way.retain(|one| !one.task.is_finished());
            self.take(address.ip())
        });
        let place = place.or_else(|| {
            displaced = self.displace(address.ip());
            self.take(address.ip())
        });
        if let Some(place) = place {
            self.under_way.push_back(UnderWay { address, place, task });
        }
        displaced
    }

    fn take(&self, source: IpAddr) -> Option<Place> {
        self.places.take(source, self.places.try_free()?)
    }

    /// Nobody has more than the share, so a source that has its share has most.
    fn displace(&mut self, newcomer: IpAddr) -> Option<SocketAddr> {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for one in &self.under_way {
            *counts.entry(one.place.source()).or_default() += 1;
        }
        let most = counts.values().copied().max()?;
        let newcomer = source_of(newcomer);
        let newcomer_has_most = counts.get(&newcomer) == Some(&most);
        let position = self.under_way.iter().position(|one| {
            let source = one.place.source();
            if newcomer_has_most { source == newcomer } else { counts.get(&source) == Some(&most) }
        })?;
        self.under_way.remove(position).map(|one| one.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(source: u8) -> SocketAddr {
        ([198, 51, 100, source], 9).into()
    }

    fn endless() -> JoinHandle<()> {
        tokio::spawn(std::future::pending())
    }

    #[tokio::test]
    async fn a_crowd_of_one_source_displaces_itself_only() {
        let mut handshakes = Handshakes::new();
        assert_eq!(handshakes.begin(address(1), endless()), None);
        for _ in 0..MAX_HANDSHAKES / 4 {
            assert_eq!(handshakes.begin(address(2), endless()), None);
        }
        assert_eq!(handshakes.begin(address(2), endless()), Some(address(2)));
        assert_eq!(handshakes.under_way.len(), 1 + MAX_HANDSHAKES / 4);
        assert_eq!(handshakes.under_way[0].address, address(1));
    }

    #[tokio::test]
    async fn with_every_place_taken_the_largest_crowd_makes_room() {
        let mut handshakes = Handshakes::new();
        assert_eq!(handshakes.begin(address(1), endless()), None);
        for source in 2..6 {
            for _ in 0..MAX_HANDSHAKES / 4 - usize::from(source == 5) {
                assert_eq!(handshakes.begin(address(source), endless()), None);
            }
        }
        assert_eq!(handshakes.begin(address(6), endless()), Some(address(2)));
        assert_eq!(handshakes.begin(address(4), endless()), Some(address(4)));
        assert_eq!(handshakes.under_way.len(), MAX_HANDSHAKES);
        assert_eq!(handshakes.under_way[0].address, address(1));
    }

    #[tokio::test]
    async fn those_that_are_over_need_no_room() {
        let mut handshakes = Handshakes::new();
        let over = tokio::spawn(std::future::ready(()));
        tokio::task::yield_now().await;
        assert_eq!(handshakes.begin(address(1), over), None);
        for _ in 0..MAX_HANDSHAKES / 4 {
            assert_eq!(handshakes.begin(address(1), endless()), None);
        }
        assert_eq!(handshakes.begin(address(1), endless()), Some(address(1)));
    }
}
