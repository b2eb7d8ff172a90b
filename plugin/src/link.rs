//! Keeps the links to the bundle endpoint up. The plugin dials because SPIRE Server opens no port for us.
//!
//! A Unix socket is one link. A name over mutual TLS is one link to each address behind it (`replicas`). Each has its own
//! `keeper`, backoff, session and budget of log lines, so that an endpoint that is slow, behind or lying holds back no other.

mod connection;
mod error;
mod keeper;
mod replay;
mod replicas;
mod resolve;
mod session;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use entente_bundle::{SpiffeId, TrustDomain};
use tokio::sync::{Notify, watch};
use tracing::info;

use self::keeper::Keeper;
use self::resolve::{Resolve, SystemResolver};
use crate::config::{Config, Endpoint};
use crate::federation::Federation;
use crate::state::Shared;
use crate::unix_socket::AllowedOwner;

pub(crate) use self::session::{Origin, Outcomes};

/// Where the endpoint is, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    endpoint: Endpoint,
    trust_domain: TrustDomain,
}

/// The far end of one link.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    way: Way,
    trust_domain: TrustDomain,
}

/// How to get there, and how to know that it is the right one.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Way {
    Socket { path: PathBuf, owner: AllowedOwner },
    Network { address: SocketAddr, spiffe_id: SpiffeId },
}

impl Place {
    fn of(config: &Config) -> Self {
        Self { endpoint: config.endpoint.clone(), trust_domain: config.trust_domain.clone() }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.way {
            Way::Socket { path, .. } => path.display().fmt(f),
            Way::Network { address, .. } => address.fmt(f),
        }
    }
}

/// Runs until the plugin stops.
pub(crate) async fn run(shared: Arc<Shared>, federation: Arc<Federation>) {
    let mut config = shared.config.subscribe();
    loop {
        let Some(place) = config.borrow_and_update().as_deref().map(Place::of) else {
            if config.changed().await.is_err() {
                return;
            }
            continue;
        };
        tokio::select! {
            () = keep(&shared, &federation, &place) => {}
            () = moved(&mut config, &place) => {
                info!(endpoint = %place.endpoint, "link is moved because the configuration changed");
            }
        }
    }
}

async fn keep(shared: &Arc<Shared>, federation: &Arc<Federation>, place: &Place) {
    let trust_domain = place.trust_domain.clone();
    match &place.endpoint {
        Endpoint::Socket { path, owner } => {
            let way = Way::Socket { path: path.clone(), owner: *owner };
            let target = Target { way, trust_domain };
            Keeper::new(shared, federation, target, Arc::new(Notify::new())).run().await;
        }
        Endpoint::Network { host, port, spiffe_id } => {
            let resolver: &dyn Resolve = &SystemResolver;
            let name = replicas::Name { host, port: *port, spiffe_id, trust_domain: &trust_domain };
            replicas::keep(shared, federation, resolver, name, replicas::Pace::default()).await;
        }
    }
}

/// Returns when the configuration names another place.
async fn moved(config: &mut watch::Receiver<Option<Arc<Config>>>, place: &Place) {
    loop {
        // The sender lives as long as the plugin.
        if config.changed().await.is_err() {
            return std::future::pending().await;
        }
        if config.borrow_and_update().as_deref().map(Place::of).as_ref() != Some(place) {
            return;
        }
    }
}
