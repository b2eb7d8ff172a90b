//! Relationships that SPIRE lists since a moment ago.
//!
//! A server polls a relationship at once where it was made there, and within 10 s where another server on the same datastore made it
//! (manager.go of bundle/client). A call of RefreshBundle, about whichever trust domain, has it begin with all that there are, but
//! what it begins so ends with that call: then the server polls that relationship no more until it is restarted.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use entente_bundle::TrustDomain;

/// How long after a relationship was listed the server polls it for sure.
const POLLED_AFTER: Duration = Duration::from_secs(11);

/// What was listed last, and since when there was nothing new.
#[derive(Debug, Default)]
pub(crate) struct Newcomers {
    /// `None` before the first list: a server begins with all that there are before it answers anybody.
    listed: Option<BTreeSet<TrustDomain>>,
    newest: Option<Instant>,
}

impl Newcomers {
    pub(crate) fn take<'a>(&mut self, listed: impl Iterator<Item = &'a TrustDomain>, now: Instant) {
        let listed: BTreeSet<_> = listed.cloned().collect();
        if self.listed.as_ref().is_some_and(|before| !listed.is_subset(before)) {
            self.newest = Some(now);
        }
        self.listed = Some(listed);
    }

    /// True where the server polls all of them.
    pub(crate) fn are_polled(&self, now: Instant) -> bool {
        self.newest.is_none_or(|newest| now >= newest + POLLED_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_listed_anew_is_waited_for_and_those_of_the_first_list_are_not() {
        let (mut newcomers, start) = (Newcomers::default(), Instant::now());
        let [a, b] = ["a.test", "b.test"].map(|name| TrustDomain::new(name).unwrap());
        let at = |seconds| start + Duration::from_secs(seconds);
        newcomers.take([&a].into_iter(), start);
        assert!(newcomers.are_polled(start));
        newcomers.take([&a, &b].into_iter(), at(20));
        newcomers.take([&a, &b].into_iter(), at(25));
        assert!(!newcomers.are_polled(at(30)) && newcomers.are_polled(at(31)));
        newcomers.take([&b].into_iter(), at(40));
        assert!(newcomers.are_polled(at(40)), "one that has ended is nothing to wait for");
        newcomers.take([&a, &b].into_iter(), at(45));
        assert!(!newcomers.are_polled(at(45)), "made again");
    }
}
