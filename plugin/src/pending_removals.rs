//! Which federated bundles are to leave SPIRE, and what keeps them there. Removing them is `removal`'s.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use entente_bundle::TrustDomain;
use tokio::sync::watch;

use crate::config::Config;

/// Waits between tries that SPIRE refused: it logs an error for each.
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(300);

/// Why a bundle is to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Its managed relationship has ended.
    Ended,
    /// Nobody names it, and the operator wants such bundles gone.
    Undeclared,
}

/// One bundle that is to go.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) cause: Cause,
    /// What keeps it, for people; `None` before the first try.
    pub(crate) kept_because: Option<String>,
    /// Which asking this is, so that one that comes during a try is not taken for done.
    asked: u64,
    retry: Option<Retry>,
}

#[derive(Clone, Copy, Debug)]
struct Retry {
    at: Instant,
    wait: Duration,
}

impl Pending {
    /// True when SPIRE may be asked (again).
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.retry.is_none_or(|retry| now >= retry.at)
    }
}

/// All of them, behind a watch.
#[derive(Debug, Default)]
pub(crate) struct PendingRemovals(watch::Sender<State>);

/// One moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    askings: u64,
    pending: BTreeMap<TrustDomain, Pending>,
}

impl PendingRemovals {
    pub(crate) fn subscribe(&self) -> watch::Receiver<State> {
        self.0.subscribe()
    }

    /// Adds those whose relationship ended, and forgets those that the configuration names (again).
    pub(crate) fn update(&self, gone: impl Iterator<Item = TrustDomain>, config: &Config) {
        self.0.send_modify(|state| {
            gone.for_each(|name| state.ask(name, Cause::Ended));
            state.pending.retain(|name, _| !config.federates_with.contains_key(name));
        });
    }

    pub(crate) fn add(&self, name: TrustDomain, cause: Cause) {
        self.0.send_modify(|state| state.ask(name, cause));
    }

    /// It is wanted again.
    pub(crate) fn forget(&self, name: &TrustDomain) {
        self.0.send_if_modified(|state| state.pending.remove(name).is_some());
    }

    /// False once it was forgotten, or asked for anew.
    pub(crate) fn is_pending(&self, name: &TrustDomain, read: &Pending) -> bool {
        self.0.borrow().pending.get(name).is_some_and(|pending| pending.asked == read.asked)
    }

    /// It is gone from SPIRE, unless somebody has asked anew since `done` was read.
    pub(crate) fn done(&self, name: &TrustDomain, done: &Pending) {
        self.0.send_if_modified(|state| {
            let is_done = state.pending.get(name).is_some_and(|pending| pending.asked == done.asked);
            is_done && state.pending.remove(name).is_some()
        });
    }

    /// What keeps it; whether that has changed is found out without trying.
    pub(crate) fn kept(&self, name: &TrustDomain, because: String) {
        self.change(name, because, |pending| pending.retry = None);
    }

    /// SPIRE refused: later again.
    pub(crate) fn refused(&self, name: &TrustDomain, because: String, now: Instant) {
        self.change(name, because, |pending| {
            let wait = pending.retry.map_or(FIRST_RETRY, |retry| (retry.wait * 2).min(LONGEST_RETRY));
            pending.retry = Some(Retry { at: now + wait, wait });
        });
    }

    fn change(&self, name: &TrustDomain, because: String, change: impl FnOnce(&mut Pending)) {
        self.0.send_if_modified(|state| {
            let Some(pending) = state.pending.get_mut(name) else { return false };
            change(pending);
            let is_news = pending.kept_because.as_ref() != Some(&because);
            pending.kept_because = Some(because);
            is_news
        });
    }

    pub(crate) fn all(&self) -> BTreeMap<TrustDomain, Pending> {
        self.0.borrow().pending.clone()
    }
}

impl State {
    fn ask(&mut self, name: TrustDomain, cause: Cause) {
        self.askings += 1;
        let asked = self.askings;
        let kept_because = self.pending.remove(&name).and_then(|before| before.kept_because);
        self.pending.insert(name, Pending { cause, kept_because, asked, retry: None });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> TrustDomain {
        TrustDomain::new("a.test").unwrap()
    }

    fn pending(removals: &PendingRemovals) -> Pending {
        removals.all().remove(&name()).unwrap()
    }

    #[test]
    fn what_is_asked_for_during_a_try_is_not_done_with_it() {
        let removals = PendingRemovals::default();
        removals.add(name(), Cause::Ended);
        let tried = pending(&removals);
        removals.add(name(), Cause::Ended);
        assert!(!removals.is_pending(&name(), &tried));
        removals.done(&name(), &tried);
        let tried = pending(&removals);
        assert!(removals.is_pending(&name(), &tried));
        removals.done(&name(), &tried);
        assert!(removals.all().is_empty() && !removals.is_pending(&name(), &tried));
    }

    #[test]
    fn spire_is_asked_ever_more_rarely_while_it_refuses() {
        let (removals, start) = (PendingRemovals::default(), Instant::now());
        removals.add(name(), Cause::Ended);
        let (mut now, mut waits) = (start, Vec::new());
        for _ in 0..9 {
            removals.refused(&name(), "no".into(), now);
            let next = (1..).map(|second| now + Duration::from_secs(second));
            let due = next.into_iter().find(|&at| pending(&removals).is_due(at)).unwrap();
            waits.push(due.duration_since(now).as_secs());
            now = due;
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        removals.add(name(), Cause::Ended);
        assert!(pending(&removals).is_due(now), "whoever asks anew is not made to wait");
    }

    #[test]
    fn only_a_new_reason_wakes_the_link() {
        let removals = PendingRemovals::default();
        removals.add(name(), Cause::Ended);
        let mut watch = removals.subscribe();
        for (reason, is_news) in [("one", true), ("one", false), ("two", true)] {
            removals.refused(&name(), reason.into(), Instant::now());
            assert_eq!(watch.has_changed().unwrap(), is_news, "{reason}");
            watch.mark_unchanged();
        }
    }
}
