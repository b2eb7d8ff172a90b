//! The stand-in agent: asks the server what there is, has SVIDs minted, serves them by the Workload API.

mod attest;
mod keys;
mod sync;
mod view;
mod workload_api;

use std::sync::Arc;
use std::time::Duration;

use entente_bundle::TrustDomain;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::sync::Syncer;
use self::view::View;
use self::workload_api::WorkloadApi;
use super::api;
use super::config::AgentConfig;
use super::log::Log;

/// Runs until stopped. As with SPIRE there is no Workload API before the server was asked once.
pub(crate) async fn run(config: AgentConfig, log: Log, stop: CancellationToken) -> anyhow::Result<()> {
    let trust_domain = TrustDomain::new(&config.trust_domain)?;
    let interval = Duration::from_millis(config.sync_interval_ms.max(1));
    let mut syncer = Syncer::new(trust_domain, &config.server_socket, log.subsystem("manager"))?;
    let first = stop.run_until_cancelled(first_view(&mut syncer, interval)).await;
    let Some(first) = first else { return Ok(()) };
    let views = watch::Sender::new(Arc::new(first));
    let listener = api::bind(&config.socket_path, 0o755, 0o777)?;
    log.subsystem("endpoints")
        .with("address", config.socket_path.display())
        .with("network", "unix")
        .info("Starting Workload and SDS APIs");
    let workload_api = WorkloadApi::new(views.subscribe(), stop.clone(), log.subsystem("endpoints"));
    let outcome = tokio::select! {
        outcome = workload_api.serve(listener, stop.clone()) => outcome,
        () = keep_in_sync(&mut syncer, &views, interval) => Ok(()),
    };
    // As SPIRE does: a socket that nobody serves would look like an agent.
    let _ = std::fs::remove_file(&config.socket_path);
    log.info("Agent stopped");
    outcome
}

async fn first_view(syncer: &mut Syncer, interval: Duration) -> View {
    loop {
        match syncer.sync().await {
            Ok(view) => return view,
            Err(error) => syncer.log.error_field(error).error("Failed to sync with SPIRE Server"),
        }
        tokio::time::sleep(interval).await;
    }
}

/// A server that is away changes nothing: what is held is served on.
async fn keep_in_sync(syncer: &mut Syncer, views: &watch::Sender<Arc<View>>, interval: Duration) {
    let mut is_away = false;
    loop {
        tokio::time::sleep(interval).await;
        match syncer.sync().await {
            Ok(view) => {
                is_away = false;
                let view = Arc::new(view);
                views.send_if_modified(|held| {
                    let changed = *held != view;
                    *held = view;
                    changed
                });
            }
            Err(error) => {
                let log = syncer.log.error_field(error);
                match std::mem::replace(&mut is_away, true) {
                    false => log.error("Failed to sync with SPIRE Server"),
                    true => log.debug("Failed to sync with SPIRE Server"),
                }
            }
        }
    }
}
