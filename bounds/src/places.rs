//! Places for connections: so many in all, and of these so many for one source, so that one stranger cannot shut the others
//! out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::lock;

/// A number of places.
#[derive(Debug)]
pub struct Places {
    free: Arc<Semaphore>,
    count: usize,
    per_source: usize,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

/// A place that nobody's name stands on yet.
#[derive(Debug)]
pub struct FreePlace {
    _permit: OwnedSemaphorePermit,
}

/// One place, given back on drop.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    source: IpAddr,
    _free: FreePlace,
}

impl Places {
    /// At least one place, and at least one for each source.
    pub fn new(count: usize, per_source: usize) -> Arc<Self> {
        let count = count.max(1);
        let free = Arc::new(Semaphore::new(count));
        Arc::new(Self { free, count, per_source: per_source.max(1), taken: Mutex::default() })
    }

    /// One that is free at this moment.
    pub fn try_free(&self) -> Option<FreePlace> {
        Arc::clone(&self.free).try_acquire_owned().ok().map(|permit| FreePlace { _permit: permit })
    }

    /// Waits until somebody leaves. `None` never comes, because nobody closes the semaphore.
    pub async fn free(&self) -> Option<FreePlace> {
        Arc::clone(&self.free).acquire_owned().await.ok().map(|permit| FreePlace { _permit: permit })
    }

    /// True when more than half of the places are taken.
    pub fn is_crowded(&self) -> bool {
        self.free.available_permits() < self.count / 2
    }

    /// `None` when the source of `address` has its share already.
    pub fn take(self: &Arc<Self>, address: IpAddr, free: FreePlace) -> Option<Place> {
        let source = source_of(address);
        let mut taken = lock(&self.taken);
        let count = taken.entry(source).or_default();
        if *count >= self.per_source {
            return None;
        }
        *count += 1;
        Some(Place { places: Arc::clone(self), source, _free: free })
    }
}

impl Place {
    /// Whose share it is of.
    pub fn source(&self) -> IpAddr {
        self.source
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.places.taken);
        if let Some(count) = taken.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.source);
            }
        }
    }
}

/// Who counts as one: an address, and of IPv6 a /64 network, because whoever has one address of it has the others too.
pub fn source_of(address: IpAddr) -> IpAddr {
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
    fn one_source_gets_its_share_and_gives_it_back() {
        let places = Places::new(100, 50);
        let mut taken: Vec<_> = (0..50).map(|_| take(&places, "198.51.100.1").unwrap()).collect();
        assert!(take(&places, "198.51.100.1").is_none());
        assert!(take(&places, "::ffff:198.51.100.1").is_none(), "the same address in other clothes");
        assert!(take(&places, "198.51.100.2").is_some());
        taken.pop();
        assert!(take(&places, "198.51.100.1").is_some());
        taken.clear();
        assert!(lock(&places.taken).is_empty());
        assert_eq!(places.free.available_permits(), 100);
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one_source() {
        let places = Places::new(4, 2);
        let _held =
            [take(&places, "2001:db8:0:1::1").unwrap(), take(&places, "2001:db8:0:1:ffff::2").unwrap()];
        assert!(take(&places, "2001:db8:0:1::3").is_none());
        assert!(take(&places, "2001:db8:0:2::3").is_some());
    }

    #[test]
    fn it_is_crowded_when_more_than_half_of_the_places_are_taken() {
        let places = Places::new(4, 4);
        let mut held: Vec<_> = (0..2).map(|_| take(&places, "198.51.100.1").unwrap()).collect();
        assert!(!places.is_crowded());
        held.push(take(&places, "198.51.100.1").unwrap());
        assert!(places.is_crowded());
        held.pop();
        assert!(!places.is_crowded());
    }
}
