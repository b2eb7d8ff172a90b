//! Hosts plugins exactly as SPIRE Server does: the order, the calls, the limits and the log lines of plugin-protocol.md.
//!
//! Where a plugin would crash or hang SPIRE, this host says so in its log instead of doing the same.

mod calls;
mod handshake;
mod log_lines;
mod plugin;
mod process;
mod services;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use entente_proto::spire::api::types as api;
use entente_proto::spire::plugin::types as wire;

pub(crate) use self::calls::{notify, publish, rotate};
pub(crate) use self::plugin::Plugin;
pub(crate) use self::services::Lender;
use super::config::{PluginConfig, ServerConfig};
use super::log::Log;

/// What loading needs to know.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) trust_domain: String,
    pub(crate) log: Log,
    pub(crate) lender: Lender,
    /// The `lab` program itself, which ties a child's life to its parent's.
    pub(crate) trampoline: Option<PathBuf>,
}

impl Host {
    pub(crate) fn new(config: &ServerConfig, log: &Log, trampoline: Option<PathBuf>) -> Self {
        let trust_domain = config.trust_domain.clone();
        Self { trust_domain, log: log.clone(), lender: Lender::default(), trampoline }
    }

    /// Loads and configures in the given order; when one fails, those before it are unloaded again.
    pub(crate) async fn load(&self, configs: &[PluginConfig]) -> anyhow::Result<Plugins> {
        let mut plugins = Plugins::default();
        for config in configs {
            match self.load_one(config).await {
                Ok(plugin) => plugins.0.push(Arc::new(plugin)),
                Err(error) => {
                    plugins.unload().await;
                    return Err(error);
                }
            }
        }
        Ok(plugins)
    }

    async fn load_one(&self, config: &PluginConfig) -> anyhow::Result<Plugin> {
        let log = self.log.subsystem("catalog").with("external", true);
        let log = log.with("plugin_name", &config.name).with("plugin_type", config.kind.as_str());
        let plugin = match Plugin::load(self, config).await {
            Ok(plugin) => plugin,
            Err(error) => {
                log.error_field(&error).error("Failed to load plugin");
                return Err(error).with_context(|| format!("failed to load plugin {:?}", config.name));
            }
        };
        if let Err(error) = plugin.configure().await {
            log.error_field(&error).error("Failed to configure plugin");
            plugin.unload().await;
            return Err(error).with_context(|| format!("failed to configure plugin {:?}", config.name));
        }
        log.info("Plugin loaded");
        Ok(plugin)
    }

    /// Launches each plugin and has it look at its configuration. Notes by plugin; no notes, no complaints.
    pub(crate) async fn validate(
        &self,
        configs: &[PluginConfig],
    ) -> anyhow::Result<Vec<(String, Vec<String>)>> {
        let mut notes = Vec::new();
        for config in configs {
            let loaded = Plugin::load(self, config).await;
            let plugin = loaded.with_context(|| format!("failed to load plugin {:?}", config.name))?;
            let found = plugin.validate().await;
            if !found.is_empty() {
                notes.push((format!("{} {:?}", config.kind.as_str(), config.name), found));
            }
            // Dropped, and so killed, without a word: as SPIRE does.
        }
        Ok(notes)
    }
}

/// The loaded ones, in load order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plugins(Vec<Arc<Plugin>>);

impl Plugins {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Plugin>> {
        self.0.iter()
    }

    /// What a SIGUSR1 does, one plugin after the other.
    pub(crate) async fn reconfigure(&self) {
        for plugin in self.iter() {
            plugin.reconfigure().await;
        }
    }

    /// In reverse order, one at a time. All calls must have ended.
    pub(crate) async fn unload(self) {
        for plugin in self.0.into_iter().rev() {
            match Arc::try_unwrap(plugin) {
                Ok(plugin) => plugin.unload().await,
                Err(shared) => shared.catalog_log().error("Plugin still in use at unload; it is killed"),
            }
        }
    }
}

/// Nothing is lost on the way to a plugin; there are no WIT keys to lose.
fn plugin_bundle(bundle: api::Bundle) -> wire::Bundle {
    let x509 = bundle.x509_authorities.into_iter();
    let jwt = bundle.jwt_authorities.into_iter();
    wire::Bundle {
        trust_domain: bundle.trust_domain,
        x509_authorities: x509
            .map(|one| wire::X509Certificate { asn1: one.asn1, tainted: one.tainted })
            .collect(),
        jwt_authorities: jwt
            .map(|one| wire::JwtKey {
                public_key: one.public_key,
                key_id: one.key_id,
                expires_at: one.expires_at,
                tainted: one.tainted,
            })
            .collect(),
        refresh_hint: bundle.refresh_hint,
        sequence_number: bundle.sequence_number,
        wit_authorities: Vec::new(),
    }
}
