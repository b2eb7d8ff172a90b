//! Keeps one link up: dial, replay everything, hand on changes, and again after each loss.
//!
//! A secured link is made anew before its certificates end; there the new one is up before the old one goes, so that a handshake
//! that waits for a signature does not wait in vain. A link whose other end is not trusted any more ends at once.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use entente_bundle::causes::chain;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tracing::{debug, error, info, warn};

use super::connection::{self, Peer};
use super::error::LinkError;
use super::session::Origin;
use super::{Target, session};
use crate::counters::Counter;
use crate::federation::Federation;
use crate::rate_limit::LineKind;
use crate::repeats::Repeats;
use crate::state::Shared;

/// First wait after a failure; doubled each time.
const FIRST_RETRY: Duration = Duration::from_millis(100);

/// Longest wait while nobody listens: a try costs nothing, and a restarted endpoint is to be found at once.
const ABSENT_RETRY: Duration = Duration::from_secs(1);

/// Longest wait after anything else.
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// A link that lived this long was a good one, and the next is dialled at once when it ends.
const SETTLED: Duration = Duration::from_secs(1);

/// How long a link that was made anew stays for what was asked on it.
const LINGER: Duration = Duration::from_secs(2);

/// One link and its loop.
#[derive(Debug)]
pub(super) struct Keeper {
    shared: Arc<Shared>,
    federation: Arc<Federation>,
    target: Target,
    origin: Arc<Origin>,
    is_up: AtomicBool,
    /// Told after each loss and each vain try.
    failed: Arc<Notify>,
}

/// A link on which both sides have said hello.
struct Link {
    serving: Serving,
    peer: Peer,
}

type Serving = Pin<Box<dyn Future<Output = LinkError> + Send>>;

impl Keeper {
    pub(super) fn new(
        shared: &Arc<Shared>,
        federation: &Arc<Federation>,
        target: Target,
        failed: Arc<Notify>,
    ) -> Self {
        let (shared, federation) = (Arc::clone(shared), Arc::clone(federation));
        let origin = Arc::new(Origin { endpoint: target.to_string() });
        Self { shared, federation, target, origin, is_up: AtomicBool::new(false), failed }
    }

    pub(super) fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }

    /// Runs for ever.
    pub(super) async fn run(&self) {
        let mut story = Story::new(self);
        let mut retry = FIRST_RETRY;
        loop {
            let mut up_since = None;
            let end = match self.open().await {
                Ok(link) => {
                    up_since = Some(Instant::now());
                    self.is_up.store(true, Ordering::Relaxed);
                    story.established();
                    self.follow(link).await
                }
                Err(error) => error,
            };
            self.is_up.store(false, Ordering::Relaxed);
            story.ended(&end, up_since.is_some());
            self.shared.counters.add(Counter::LinkFailures { reason: end.word() });
            self.failed.notify_one();
            if up_since.is_some_and(|since| since.elapsed() >= SETTLED) {
                retry = FIRST_RETRY;
            }
            tokio::time::sleep(jittered(retry)).await;
            retry = (retry * 2).min(if end.is_absence() { ABSENT_RETRY } else { LONGEST_RETRY });
        }
    }

    async fn open(&self) -> Result<Link, LinkError> {
        let connection = connection::connect(&self.shared, &self.target).await?;
        let peer = connection.peer.clone();
        let opened = session::open(&self.target, connection).await;
        let opened = opened.map_err(|error| peer.explain(error))?;
        let (shared, federation) = (Arc::clone(&self.shared), Arc::clone(&self.federation));
        let (origin, heard) = (Arc::clone(&self.origin), peer.clone());
        let serving = async move { heard.explain(opened.serve(&shared, &federation, &origin).await) };
        Ok(Link { serving: Box::pin(serving), peer })
    }

    /// Serves the link, and those that take its place, until one of them ends.
    async fn follow(&self, link: Link) -> LinkError {
        let Link { mut serving, mut peer } = link;
        // Those that were replaced; they go with us.
        let mut replaced = JoinSet::new();
        loop {
            tokio::select! {
                end = &mut serving => return end,
                error = peer.distrusted(&self.shared) => return error,
                () = peer.is_due(&self.shared) => {}
            }
            let next = tokio::select! {
                end = &mut serving => return end,
                error = peer.distrusted(&self.shared) => return error,
                next = self.open_in_the_end() => next,
            };
            debug!(endpoint = %self.target, "link made anew");
            peer = next.peer;
            let old = std::mem::replace(&mut serving, next.serving);
            replaced.spawn(async move { drop(tokio::time::timeout(LINGER, old).await) });
            while replaced.try_join_next().is_some() {}
        }
    }

    /// What is linked already can wait.
    async fn open_in_the_end(&self) -> Link {
        let mut retry = FIRST_RETRY;
        loop {
            match self.open().await {
                Ok(link) => return link,
                Err(error) => {
                    debug!(endpoint = %self.target, error = chain(&error), "link cannot be made anew yet");
                    self.shared.counters.add(Counter::LinkFailures { reason: error.word() });
                }
            }
            tokio::time::sleep(jittered(retry)).await;
            retry = (retry * 2).min(LONGEST_RETRY);
        }
    }
}

/// What the log says about the link. An endpoint that comes and goes without end must not fill it.
struct Story<'a> {
    keeper: &'a Keeper,
    repeats: Repeats,
    /// The last thing told was bad news, or nothing was told yet.
    is_down: bool,
    is_fresh: bool,
}

impl<'a> Story<'a> {
    fn new(keeper: &'a Keeper) -> Self {
        Self { keeper, repeats: Repeats::default(), is_down: true, is_fresh: true }
    }

    fn established(&mut self) {
        self.repeats.over("link");
        let (is_fresh, was_down) = (std::mem::take(&mut self.is_fresh), std::mem::take(&mut self.is_down));
        // Where there was bad news, that had its brake; but an address may come and go as its name likes.
        let lines = &self.keeper.shared.endpoint_lines;
        if was_down && (!is_fresh || lines.may_warn(&self.keeper.origin.endpoint, LineKind::Replica)) {
            info!(endpoint = %self.keeper.target, "link established");
        }
    }

    fn ended(&mut self, end: &LinkError, was_up: bool) {
        let (endpoint, reason) = (&self.keeper.target, chain(end));
        // What is held back now counts as not told, and so is told later.
        if self.repeats.is_repeat("link", &reason)
            || !self.keeper.shared.endpoint_lines.may_warn(&self.keeper.origin.endpoint, LineKind::Link)
        {
            return;
        }
        self.repeats.is_new("link", &reason);
        (self.is_down, self.is_fresh) = (true, false);
        if end.is_misconfiguration() {
            error!(%endpoint, reason, "link refused");
        } else if was_up {
            warn!(%endpoint, reason, "link lost");
        } else {
            warn!(%endpoint, reason, "link is down");
        }
    }
}

/// Up to a quarter less, so that several plugins do not dial in step.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(1.0 - 0.25 * rand::random::<f64>())
}
