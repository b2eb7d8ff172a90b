//! What all parts of the stand-in server share, and the signals between them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use entente_bundle::TrustDomain;
use tokio::sync::watch;

use super::authority::Authorities;
use super::config::ServerConfig;
use super::identity::Identity;
use super::log::Log;
use super::store::{Store, write_file};

/// The parts.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) config: ServerConfig,
    pub(crate) log: Log,
    pub(crate) store: Arc<Store>,
    pub(crate) authorities: Authorities,
    pub(crate) identity: Identity,
    /// Rung after an append to the own bundle or a revocation: publishers are called.
    pub(crate) published: Bell,
    /// Rung when an authority was prepared: notifiers are called.
    pub(crate) prepared: Bell,
    /// Rung when relationships changed through the API: the bundle client looks again.
    pub(crate) relationships: Bell,
    pub(crate) started: Instant,
}

impl Core {
    /// Opens what is on disk and makes what is missing. Publishers are rung for when the bundle grew.
    pub(crate) fn open(config: ServerConfig, log: Log) -> anyhow::Result<Arc<Self>> {
        make_private_folder(&config.data_dir)?;
        let trust_domain = TrustDomain::new(&config.trust_domain)?;
        let store = Arc::new(Store::open(&config.data_dir, trust_domain.clone())?);
        let lifetime = Duration::from_secs(config.ca_ttl_seconds);
        let opened =
            Authorities::open(&config.data_dir, trust_domain.clone(), lifetime, store.clone(), &log)?;
        let (authorities, grew) = opened;
        let core = Self {
            trust_domain,
            config,
            log,
            store,
            authorities,
            identity: Identity::default(),
            published: Bell::default(),
            prepared: Bell::default(),
            relationships: Bell::default(),
            started: Instant::now(),
        };
        if grew {
            core.published.ring();
        }
        Ok(Arc::new(core))
    }

    pub(crate) fn svid_lifetime(&self) -> Duration {
        Duration::from_secs(self.config.x509_svid_ttl_seconds)
    }
}

fn make_private_folder(folder: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::create_dir_all(folder)?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))?;
    // Fails now rather than at the first change.
    write_file(&folder.join("writable"), b"")
}

/// Wakes whoever waits; rings while nobody waits are kept, any number of them as one.
#[derive(Debug)]
pub(crate) struct Bell(watch::Sender<u64>);

impl Default for Bell {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Bell {
    pub(crate) fn ring(&self) {
        self.0.send_modify(|rings| *rings += 1);
    }

    /// Hears rings from the very first on.
    pub(crate) fn listener(&self) -> Listener {
        let mut rings = self.0.subscribe();
        if *rings.borrow() > 0 {
            rings.mark_changed();
        } else {
            rings.mark_unchanged();
        }
        Listener(rings)
    }
}

/// One who waits for a bell.
#[derive(Debug)]
pub(crate) struct Listener(watch::Receiver<u64>);

impl Listener {
    /// Returns at the next ring; never when the bell is gone.
    pub(crate) async fn heard(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Forgets rings that were not waited for.
    pub(crate) fn forget(&mut self) {
        self.0.mark_unchanged();
    }
}
