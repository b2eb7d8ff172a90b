//! The task behind a `WorkloadIdentity`: keeps one stream open, applies updates, and withdraws what may no longer be used.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use entente_bundle::causes::chain;
use entente_proto::workload::X509svidResponse;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::connection;
use crate::identity::{Settings, Shared};
use crate::material::{self, Bundles, Svid};
use crate::{WorkloadApiAddress, WorkloadApiError};

/// The wall clock may jump, so an end on it is looked at again at least this often.
const CLOCK_CHECK: Duration = Duration::from_secs(10);

pub(crate) struct Watcher {
    shared: Arc<Shared>,
    address: WorkloadApiAddress,
    settings: Settings,
    stop: CancellationToken,
    backoff: ExponentialBackoff,
    /// Unix seconds: when the presented SVID ends. `None` while nothing is presented.
    expires_at: Option<u64>,
    /// When the grace after a denial ends. Only an update with our identity takes it back: an agent that denies us and then goes away
    /// has still denied us.
    withdraw_at: Option<Instant>,
}

impl Watcher {
    pub(crate) fn new(
        shared: Arc<Shared>,
        address: WorkloadApiAddress,
        settings: Settings,
        stop: CancellationToken,
    ) -> Self {
        let backoff = new_backoff(&settings);
        Self { shared, address, settings, stop, backoff, expires_at: None, withdraw_at: None }
    }

    pub(crate) async fn run(mut self) {
        loop {
            let failure = self.session().await;
            // A runtime that shuts down may break the stream while an update is being read; nobody is left to whom that is news.
            if self.stop.is_cancelled() {
                return;
            }
            let is_final = failure.is_final();
            self.note_failure(failure);
            if is_final {
                // Nothing new can come, but the end of the SVID must still be kept.
                self.minding_ends(std::future::pending::<()>()).await;
            }
            let wait = self.backoff.next().unwrap_or(self.settings.backoff_ceiling);
            // Jitter is added on top of the ceiling.
            self.minding_ends(tokio::time::sleep(wait.min(self.settings.backoff_ceiling))).await;
        }
    }

    /// One stream, from connecting to its end. Returns why it ended.
    async fn session(&mut self) -> WorkloadApiError {
        let address = self.address.clone();
        let (mut update, mut updates) = match self.minding_ends(connection::open(&address)).await {
            Ok(opened) => opened,
            Err(failure) => return failure,
        };
        loop {
            match self.take(update) {
                Ok(()) => {}
                Err(failure @ WorkloadApiError::Malformed(_)) => self.note_failure(failure),
                Err(failure) => return failure,
            }
            update = match self.minding_ends(updates.next()).await {
                Ok(update) => update,
                Err(failure) => return failure,
            };
        }
    }

    /// Takes one update over as a whole, or refuses it as a whole; one that leaves open who we are counts for its bundles.
    fn take(&mut self, update: X509svidResponse) -> Result<(), WorkloadApiError> {
        let held = self.shared.bundles.snapshot();
        let Some(material) = material::read(update, &held, &self.settings.choice)? else {
            return Err(WorkloadApiError::Denied { message: "the update holds no svid".into() });
        };
        self.backoff = new_backoff(&self.settings);
        // Bundles first: whoever sees the new SVID can already verify its like.
        let other_bundles = self.apply_bundles(material.bundles, &held);
        let svid = match material.identity {
            Ok(svid) => svid,
            Err(error) => {
                // The SVID stays, so nobody else says that something has changed.
                if other_bundles {
                    self.shared.identity.send_modify(|_| {});
                }
                return Err(error.into());
            }
        };
        self.withdraw_at = None;
        if self.shared.failure.swap(None).is_some() {
            info!(address = %self.address, "workload api answers again");
        }
        self.apply_svid(svid, other_bundles);
        Ok(())
    }

    /// True when they are others than before.
    fn apply_bundles(&self, bundles: Bundles, held: &Bundles) -> bool {
        if bundles == *held {
            return false;
        }
        log_bundles(held, &bundles);
        self.shared.bundles.replace(bundles);
        true
    }

    fn apply_svid(&mut self, svid: Svid, other_bundles: bool) {
        let Svid { id, key, expires_at } = svid;
        let presented = self.shared.slot.current();
        let same_svid = presented.is_some_and(|presented| presented.cert == key.cert);
        if same_svid && !other_bundles {
            return;
        }
        if expires_at <= unix_now() {
            error!(spiffe_id = %id, "svid from the workload api has expired already, it is not presented");
            self.expires_at = None;
            self.shared.slot.clear();
            self.shared.identity.send_replace(None);
            return;
        }
        if !same_svid {
            let end = UNIX_EPOCH
                .checked_add(Duration::from_secs(expires_at))
                .map(humantime::format_rfc3339_seconds);
            info!(spiffe_id = %id, expires = end.map(tracing::field::display), "svid received");
        }
        self.expires_at = Some(expires_at);
        self.shared.slot.set(key);
        self.shared.identity.send_replace(Some(id));
    }

    /// The first of its kind is a warning, repeats are not.
    fn note_failure(&mut self, failure: WorkloadApiError) {
        let holds_something = !self.shared.bundles.snapshot().is_empty();
        if matches!(failure, WorkloadApiError::Denied { .. }) && holds_something {
            self.withdraw_at.get_or_insert(Instant::now() + self.settings.grace);
        }
        let before = self.shared.failure.load_full();
        let repeated =
            before.is_some_and(|before| std::mem::discriminant(&*before) == std::mem::discriminant(&failure));
        let cause = chain(&failure);
        match (failure.is_final(), repeated) {
            (true, _) => error!(address = %self.address, error = cause, "workload api gave up on us"),
            (false, false) => {
                warn!(address = %self.address, error = cause, "workload api gives nothing new, retrying")
            }
            (false, true) => {
                debug!(address = %self.address, error = cause, "workload api still gives nothing new")
            }
        }
        let failure = Arc::new(failure);
        self.shared.failure.store(Some(failure.clone()));
        if failure.is_final() {
            self.shared.ended.send_replace(Some(failure));
        }
    }

    /// Drives `work`, and meanwhile keeps both ends: that of the SVID, and that of the grace.
    async fn minding_ends<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                () = self.next_end() => self.keep_ends(),
                done = &mut work => return done,
            }
        }
    }

    async fn next_end(&self) {
        let expiry = self.expires_at.map(|end| {
            let left = Duration::from_secs(end).saturating_sub(since_epoch());
            Instant::now() + left.min(CLOCK_CHECK)
        });
        match expiry.into_iter().chain(self.withdraw_at).min() {
            Some(end) => tokio::time::sleep_until(end).await,
            None => std::future::pending().await,
        }
    }

    fn keep_ends(&mut self) {
        if self.expires_at.is_some_and(|end| end <= unix_now()) {
            error!(spiffe_id = ?self.shared.identity.borrow().as_ref().map(ToString::to_string), "svid has expired, it is no longer presented");
            self.expires_at = None;
            self.shared.slot.clear();
            self.shared.identity.send_replace(None);
        }
        if self.withdraw_at.is_some_and(|end| end <= Instant::now()) {
            error!(grace = ?self.settings.grace, "no identity is issued to us any more, svid and bundles are withdrawn");
            self.withdraw_at = None;
            self.expires_at = None;
            self.shared.slot.clear();
            self.shared.bundles.replace(Bundles::new());
            self.shared.identity.send_replace(None);
        }
    }
}

fn log_bundles(held: &Bundles, offered: &Bundles) {
    for (trust_domain, bundle) in offered {
        let authorities = bundle.x509_authorities().len();
        match held.get(trust_domain) {
            Some(before) if before == bundle => {}
            Some(_) => info!(%trust_domain, authorities, "bundle advanced"),
            None => info!(%trust_domain, authorities, "bundle received"),
        }
    }
    for trust_domain in held.keys().filter(|trust_domain| !offered.contains_key(trust_domain)) {
        info!(%trust_domain, "bundle withdrawn");
    }
}

fn new_backoff(settings: &Settings) -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(settings.backoff_floor)
        .with_max_delay(settings.backoff_ceiling)
        .with_jitter()
        .without_max_times()
        .build()
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn unix_now() -> u64 {
    since_epoch().as_secs()
}
