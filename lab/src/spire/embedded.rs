//! The stand-in: this very program in two hidden roles, told what to do by JSON files.

use std::path::PathBuf;

use anyhow::Context;

use crate::embedded::config::{AgentConfig, PluginConfig, PluginKind, ServerConfig};
use crate::layout::{Home, write};
use crate::ports::loopback;
use crate::process::{Launch, Process};
use crate::spire::{AGENT_SYNC_SECONDS, PLUGIN_NAME, ServerSpec};

const CA_TTL_SECONDS: u64 = 24 * 60 * 60;
const X509_SVID_TTL_SECONDS: u64 = 60 * 60;

/// Starts `lab embedded-server` and `lab embedded-agent`.
#[derive(Debug)]
pub struct EmbeddedSpire {
    lab: PathBuf,
}

impl EmbeddedSpire {
    /// `lab` is the program to start.
    pub fn new(lab: PathBuf) -> Self {
        Self { lab }
    }

    pub(crate) fn start_server(&self, home: &Home, spec: &ServerSpec) -> anyhow::Result<Process> {
        let data_dir = home.file("server-data");
        std::fs::create_dir_all(&data_dir).with_context(|| format!("cannot make {}", data_dir.display()))?;
        let plugins = spec.plugin.iter().map(|plugin| PluginConfig {
            kind: PluginKind::BundlePublisher,
            name: PLUGIN_NAME.to_owned(),
            cmd: plugin.command.clone(),
            args: Vec::new(),
            checksum: Some(plugin.sha256.clone()),
            data: None,
            data_file: Some(home.plugin_data()),
        });
        let config = ServerConfig {
            trust_domain: spec.trust_domain.as_str().to_owned(),
            data_dir,
            socket_path: home.api_socket(),
            ca_ttl_seconds: CA_TTL_SECONDS,
            x509_svid_ttl_seconds: X509_SVID_TTL_SECONDS,
            bundle_endpoint: spec.bundle_endpoint.map(|(port, _)| loopback(port)),
            refresh_hint_seconds: spec.bundle_endpoint.map(|(_, refresh_hint)| refresh_hint),
            plugins: plugins.collect(),
        };
        write(&home.server_conf(), serde_json::to_vec_pretty(&config)?)?;
        Launch::new(format!("embedded server {}", spec.trust_domain), &self.lab, home.server_log())
            .args(["embedded-server", "--config", &home.server_conf().display().to_string()])
            .start()
    }

    pub(crate) fn start_agent(&self, home: &Home, spec: &ServerSpec) -> anyhow::Result<Process> {
        let config = AgentConfig {
            trust_domain: spec.trust_domain.as_str().to_owned(),
            server_socket: home.api_socket(),
            socket_path: home.agent_socket(),
            sync_interval_ms: AGENT_SYNC_SECONDS * 1000,
        };
        let path = home.file("agent.conf");
        write(&path, serde_json::to_vec_pretty(&config)?)?;
        Launch::new(format!("embedded agent {}", spec.trust_domain), &self.lab, home.agent_log())
            .args(["embedded-agent", "--config", &path.display().to_string()])
            .start()
    }
}
