//! Keeps the link to the bundle endpoint up: dial, replay everything, hand on changes, and again after each loss.
//!
//! The plugin dials because SPIRE Server opens no port for us. There is one target, a Unix socket, today; where a name stands
//! for several endpoints, each will get a loop of its own.

mod replay;
mod session;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use entente_bundle::TrustDomain;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::config::Config;
use crate::counters::Counter;
use crate::federation::Federation;
use crate::hclog::chain;
use crate::rate_limit::LineKind;
use crate::repeats::Repeats;
use crate::state::Shared;
use crate::unix_socket::{AllowedOwner, ConnectError};

/// First wait after a failure; doubled each time.
const FIRST_RETRY: Duration = Duration::from_millis(100);

/// Longest wait while nobody listens: a try costs nothing on a Unix socket, and a restarted endpoint is to be found at once.
const ABSENT_RETRY: Duration = Duration::from_secs(1);

/// Longest wait after anything else.
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// A link that lived this long was a good one, and the next is dialled at once when it ends.
const SETTLED: Duration = Duration::from_secs(1);

/// Where the endpoint is, and who may own it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    path: PathBuf,
    owner: AllowedOwner,
    trust_domain: TrustDomain,
}

impl Target {
    fn of(config: &Config) -> Self {
        Self {
            path: config.endpoint.clone(),
            owner: config.endpoint_uid.map_or(AllowedOwner::OwnOrRoot, AllowedOwner::Uid),
            trust_domain: config.trust_domain.clone(),
        }
    }
}

/// Why a link ended or did not come up.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the endpoint ended the stream")]
    Ended,
    #[error("the endpoint did not say hello")]
    NoHello,
    #[error("the endpoint is for trust domain {presented:?}, expected {expected}")]
    OtherTrustDomain { expected: TrustDomain, presented: String },
    #[error("nothing was heard for {}", humantime::format_duration(session::SILENCE))]
    Silent,
    #[error("the endpoint does not read what it is sent")]
    Stalled,
    #[error("the stream failed: {text}")]
    Stream { text: String },
}

impl LinkError {
    /// One word for counters.
    fn word(&self) -> &'static str {
        match self {
            Self::Connect(ConnectError::Connect { .. }) => "connect",
            Self::Connect(ConnectError::Owner { .. }) => "uid",
            Self::Ended => "ended",
            Self::NoHello => "no_hello",
            Self::OtherTrustDomain { .. } => "trust_domain",
            Self::Silent => "silent",
            Self::Stalled => "stalled",
            Self::Stream { .. } => "stream",
        }
    }

    /// True where waiting will not help, but somebody who looks at the configuration of either side.
    fn is_misconfiguration(&self) -> bool {
        matches!(self, Self::Connect(ConnectError::Owner { .. }) | Self::OtherTrustDomain { .. })
    }
}

/// Runs until the plugin stops.
pub(crate) async fn run(shared: Arc<Shared>, federation: Arc<Federation>) {
    let mut config = shared.config.subscribe();
    let mut story = Story::new(&shared);
    let mut retry = FIRST_RETRY;
    loop {
        let Some(target) = config.borrow_and_update().as_deref().map(Target::of) else {
            if config.changed().await.is_err() {
                return;
            }
            continue;
        };
        let mut up_since = None;
        let established = || {
            up_since = Some(Instant::now());
            story.established(&target);
        };
        let end = tokio::select! {
            end = session::run(&shared, &federation, &target, established) => end,
            () = moved(&mut config, &target) => {
                info!(endpoint = %target.path.display(), "link is moved because the configuration changed");
                story = Story::new(&shared);
                retry = FIRST_RETRY;
                continue;
            }
        };
        story.ended(&end, &target, up_since.is_some());
        shared.counters.add(Counter::LinkFailures { reason: end.word() });
        if up_since.is_some_and(|since| since.elapsed() >= SETTLED) {
            retry = FIRST_RETRY;
        }
        tokio::select! {
            () = tokio::time::sleep(jittered(retry)) => {}
            () = moved(&mut config, &target) => retry = FIRST_RETRY,
        }
        let longest = if matches!(end, LinkError::Connect(ConnectError::Connect { .. })) {
            ABSENT_RETRY
        } else {
            LONGEST_RETRY
        };
        retry = (retry * 2).min(longest);
    }
}

/// What the log says about the link. An endpoint that comes and goes without end must not fill it.
struct Story<'a> {
    shared: &'a Shared,
    repeats: Repeats,
    /// The last thing told was bad news, or nothing was told yet.
    is_down: bool,
}

impl<'a> Story<'a> {
    fn new(shared: &'a Shared) -> Self {
        Self { shared, repeats: Repeats::default(), is_down: true }
    }

    fn established(&mut self, target: &Target) {
        self.repeats.over("link");
        if std::mem::take(&mut self.is_down) {
            info!(endpoint = %target.path.display(), "link established");
        }
    }

    fn ended(&mut self, end: &LinkError, target: &Target, was_up: bool) {
        let (endpoint, reason) = (target.path.display(), chain(end));
        // What is held back now counts as not told, and so is told later.
        if self.repeats.is_repeat("link", &reason) || !self.shared.endpoint_lines.may_warn(LineKind::Link) {
            return;
        }
        self.repeats.is_new("link", &reason);
        self.is_down = true;
        if end.is_misconfiguration() {
            error!(%endpoint, reason, "link refused");
        } else if was_up {
            warn!(%endpoint, reason, "link lost");
        } else {
            warn!(%endpoint, reason, "link is down");
        }
    }
}

/// Returns when the configuration names another target.
async fn moved(config: &mut watch::Receiver<Option<Arc<Config>>>, target: &Target) {
    loop {
        // The sender lives as long as the plugin.
        if config.changed().await.is_err() {
            return std::future::pending().await;
        }
        if config.borrow_and_update().as_deref().map(Target::of).as_ref() != Some(target) {
            return;
        }
    }
}

/// Up to a quarter less, so that several plugins do not dial in step.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(1.0 - 0.25 * rand::random::<f64>())
}
