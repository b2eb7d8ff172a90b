//! Places for connections: so many on one listener, and of these so many for one source, so that one stranger cannot shut
//! the others out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};

use rustix::process::{Resource, getrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections of one listener, handshakes included, where the limit of open files allows it.
const MOST: usize = 2048;

/// With less nobody could work.
const LEAST: usize = 16;

/// Places of one listener.
#[derive(Debug)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    per_source: usize,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

/// One place, given back on drop.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    source: IpAddr,
    _permit: OwnedSemaphorePermit,
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

impl Places {
    /// One source may have half of them: whole clusters come from one address, that of their gateway.
    pub(super) fn new(count: usize) -> Arc<Self> {
        let free = Arc::new(Semaphore::new(count));
        Arc::new(Self { free, per_source: (count / 2).max(1), taken: Mutex::default() })
    }

    /// Something to sit on, if there is any at this moment.
    pub(super) fn try_free(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_owned().ok()
    }

    /// Waits until somebody leaves.
    pub(super) async fn free(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).acquire_owned().await.ok()
    }

    /// `None` when the source of `address` has its share already.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr, permit: OwnedSemaphorePermit) -> Option<Place> {
        let source = source_of(address);
        let mut taken = crate::lock(&self.taken);
        let count = taken.entry(source).or_default();
        if *count >= self.per_source {
            return None;
        }
        *count += 1;
        Some(Place { places: Arc::clone(self), source, _permit: permit })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = crate::lock(&self.places.taken);
        if let Some(count) = taken.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.source);
            }
        }
    }
}

// Whoever has one IPv6 address has the other 2^64 of its network too.
fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(places: &Arc<Places>, address: &str) -> Option<Place> {
        places.take(address.parse().unwrap(), places.try_free()?)
    }

    #[test]
    fn one_source_gets_half_of_the_places_and_gives_them_back() {
        let places = Places::new(100);
        let mut taken: Vec<_> = (0..50).map(|_| take(&places, "198.51.100.1").unwrap()).collect();
        assert!(take(&places, "198.51.100.1").is_none());
        assert!(take(&places, "::ffff:198.51.100.1").is_none(), "the same address in other clothes");
        assert!(take(&places, "198.51.100.2").is_some());
        taken.pop();
        assert!(take(&places, "198.51.100.1").is_some());
        taken.clear();
        assert!(crate::lock(&places.taken).is_empty());
        assert_eq!(places.free.available_permits(), 100);
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one_source() {
        let places = Places::new(4);
        let _held =
            [take(&places, "2001:db8:0:1::1").unwrap(), take(&places, "2001:db8:0:1:ffff::2").unwrap()];
        assert!(take(&places, "2001:db8:0:1::3").is_none());
        assert!(take(&places, "2001:db8:0:2::3").is_some());
    }

    #[test]
    fn listeners_share_three_quarters_of_the_files() {
        assert_eq!(share(Some(1024), 3), 256);
        assert_eq!(share(Some(65_536), 2), MOST);
        assert_eq!(share(None, 2), MOST);
        assert_eq!(share(Some(10), 9), LEAST);
    }
}
