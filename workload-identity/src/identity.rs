//! WorkloadIdentity: the handle that everything else holds. The work is done by one task, in `watcher`.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use entente_bundle::tls::CertificateSlot;
use entente_bundle::{BundleSet, SpiffeId, TrustDomain};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::watcher::Watcher;
use crate::{AddressError, WorkloadApiAddress, WorkloadApiError};

/// Which of the SVIDs that the Workload API issues to us is our identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The first, which the standard calls the default identity (WAPI X.509 profile, 5.2.1).
    #[default]
    First,
    /// The only one, and of this trust domain; where there are several, somebody has to say which.
    OnlyOf(TrustDomain),
    /// Exactly this one.
    Exactly(SpiffeId),
}

/// Whom to be, and how patient the watcher is. The defaults of the latter are right outside of tests.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who we want to be.
    pub choice: Choice,
    /// First wait before a reconnect.
    pub backoff_floor: Duration,
    /// Longest wait before a reconnect.
    pub backoff_ceiling: Duration,
    /// How long material stays in use after the agent said that none is issued to us.
    pub grace: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            choice: Choice::First,
            backoff_floor: Duration::from_millis(100),
            backoff_ceiling: Duration::from_secs(5),
            grace: Duration::from_secs(30),
        }
    }
}

/// What the watcher writes and the handles read.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) slot: Arc<CertificateSlot>,
    pub(crate) bundles: Arc<BundleSet>,
    pub(crate) identity: watch::Sender<Option<SpiffeId>>,
    pub(crate) failure: ArcSwapOption<WorkloadApiError>,
    pub(crate) ended: watch::Sender<Option<Arc<WorkloadApiError>>>,
}

/// Our SVID and our bundles, kept current by one stream to the Workload API. Clones share the stream; it ends with the
/// last of them.
#[derive(Clone, Debug)]
pub struct WorkloadIdentity {
    shared: Arc<Shared>,
    _stop: Arc<DropGuard>,
}

impl WorkloadIdentity {
    /// Starts to watch the Workload API at `endpoint`, or at `SPIFFE_ENDPOINT_SOCKET`. Returns at once; the agent may
    /// come up later. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// Only for an address that is none.
    pub fn connect(endpoint: Option<String>) -> Result<Self, AddressError> {
        Self::connect_as(endpoint, Choice::First)
    }

    /// The same for one of several identities.
    ///
    /// # Errors
    /// Only for an address that is none.
    pub fn connect_as(endpoint: Option<String>, choice: Choice) -> Result<Self, AddressError> {
        let address = WorkloadApiAddress::given_or_environment(endpoint.as_deref())?;
        Ok(Self::watch(address, Settings { choice, ..Settings::default() }))
    }

    /// The same with an address that was read already and other settings.
    pub fn watch(address: WorkloadApiAddress, settings: Settings) -> Self {
        let shared = Arc::new(Shared {
            slot: Arc::default(),
            bundles: Arc::default(),
            identity: watch::Sender::new(None),
            failure: ArcSwapOption::empty(),
            ended: watch::Sender::new(None),
        });
        let stop = CancellationToken::new();
        let watcher = Watcher::new(shared.clone(), address, settings, stop.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(watcher.run()));
        Self { shared, _stop: Arc::new(stop.drop_guard()) }
    }

    /// What we present in handshakes. Empty while there is no valid SVID.
    pub fn slot(&self) -> Arc<CertificateSlot> {
        self.shared.slot.clone()
    }

    /// The bundles we hold: our own and the federated ones, each under its trust domain.
    pub fn bundles(&self) -> Arc<BundleSet> {
        self.shared.bundles.clone()
    }

    /// Who we are, while the slot is filled.
    pub fn spiffe_id(&self) -> Option<SpiffeId> {
        self.shared.identity.borrow().clone()
    }

    /// Marked as changed by each update that brought another SVID or other bundles, and when something was withdrawn;
    /// the value alone may be the same as before.
    pub fn changed(&self) -> watch::Receiver<Option<SpiffeId>> {
        self.shared.identity.subscribe()
    }

    /// Why nothing new can arrive at this moment; `None` while the stream is good.
    pub fn failure(&self) -> Option<Arc<WorkloadApiError>> {
        self.shared.failure.load_full()
    }

    /// Waits until there is an SVID to present.
    ///
    /// # Errors
    /// When the Workload API refused us for good.
    pub async fn wait_ready(&self) -> Result<SpiffeId, Arc<WorkloadApiError>> {
        let mut changed = self.changed();
        let ready = async {
            match changed.wait_for(Option::is_some).await {
                Ok(id) => id.clone(),
                // Cannot fail: the sender lives in `self`.
                Err(_) => None,
            }
        };
        tokio::select! {
            biased;
            Some(id) = ready => Ok(id),
            error = self.wait_ended() => Err(error),
        }
    }

    /// Waits until the Workload API refuses us for good; what it gave before stays in use until the SVID expires.
    pub async fn wait_ended(&self) -> Arc<WorkloadApiError> {
        let mut ended = self.shared.ended.subscribe();
        let error = match ended.wait_for(Option::is_some).await {
            Ok(error) => error.clone(),
            // Cannot fail: the sender lives in `self`.
            Err(_) => None,
        };
        match error {
            Some(error) => error,
            None => std::future::pending().await,
        }
    }
}
