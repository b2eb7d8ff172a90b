//! When SPIRE calls its publishers and notifiers (plugin-protocol.md 6).

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::{Plugin, Plugins, plugin_bundle};
use crate::embedded::config::PluginKind;
use crate::embedded::core::Core;

/// Unchanged bundles are sent again this often.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(30);
const ROTATION_CHECK: Duration = Duration::from_secs(10);

/// Publishes at each append and revocation and every 30 s: one round at a time, all publishers at once in a round.
pub(crate) async fn publish(core: Arc<Core>, plugins: Plugins) {
    let publishers = of_kind(&plugins, PluginKind::BundlePublisher);
    let log = core.log.subsystem("bundle_publishing");
    let mut bell = core.published.listener();
    let mut ticker = interval_at(Instant::now() + PUBLISH_INTERVAL, PUBLISH_INTERVAL);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = bell.heard() => {}
            _ = ticker.tick() => {}
        }
        let bundle = core.store.lock().own_bundle().map(plugin_bundle);
        let calls = publishers.iter().map(async |plugin| {
            if let Err(error) = plugin.publish_bundle(bundle.clone()).await {
                plugin.log_as(&log).error_field(error).error("Failed to publish bundle");
            }
        });
        join_all(calls).await;
    }
}

/// Tells notifiers that the bundle was loaded, after which authorities rotate when their time comes. An error from a
/// notifier stops the server; while one hangs, nothing rotates.
pub(crate) async fn rotate(core: Arc<Core>, plugins: Plugins) -> anyhow::Result<()> {
    let log = core.log.subsystem("ca_manager");
    let bundle = core.store.lock().own_bundle().map(plugin_bundle).unwrap_or_default();
    let notifiers = of_kind(&plugins, PluginKind::Notifier);
    let calls = notifiers.iter().map(async |plugin| {
        let answer = plugin.bundle_loaded(bundle.clone()).await;
        let log = plugin.log_as(&log).with("event", "bundle loaded");
        match &answer {
            Ok(()) => log.debug("Notifier handled event"),
            Err(error) => log.error_field(error).error("Notifier failed to handle event"),
        }
        answer
    });
    for answer in join_all(calls).await {
        answer.map_err(|error| anyhow::anyhow!("one or more notifiers returned an error: {error}"))?;
    }
    loop {
        tokio::time::sleep(ROTATION_CHECK).await;
        match core.authorities.rotate() {
            Ok(false) => {}
            Ok(true) => {
                core.published.ring();
                core.prepared.ring();
            }
            Err(error) => log.error_field(error).error("Unable to rotate authorities"),
        }
    }
}

/// Tells notifiers of prepared authorities. What was prepared before the server started is in the loaded bundle.
pub(crate) async fn notify(core: Arc<Core>, plugins: Plugins) {
    let notifiers = of_kind(&plugins, PluginKind::Notifier);
    let log = core.log.subsystem("ca_manager").with("event", "bundle updated");
    let mut bell = core.prepared.listener();
    bell.forget();
    loop {
        bell.heard().await;
        let bundle = core.store.lock().own_bundle().map(plugin_bundle).unwrap_or_default();
        let calls = notifiers.iter().map(async |plugin| {
            if let Err(error) = plugin.bundle_updated(bundle.clone()).await {
                plugin.log_as(&log).error_field(error).warn("Notifier failed to handle event");
            }
        });
        join_all(calls).await;
    }
}

fn of_kind(plugins: &Plugins, kind: PluginKind) -> Vec<Arc<Plugin>> {
    plugins.iter().filter(|plugin| plugin.config.kind == kind).cloned().collect()
}
