//! What the two stand-in processes are told: JSON files, unknown keys refused.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use entente_bundle::TrustDomain;
use serde::{Deserialize, Serialize};

/// What may be asked of an authority or an SVID, in seconds.
const LIFETIMES: std::ops::RangeInclusive<u64> = 1..=100 * 365 * 86_400;

/// The stand-in for `spire-server`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// Name of the trust domain, without scheme.
    pub trust_domain: String,
    /// Everything that must survive is kept here.
    pub data_dir: PathBuf,
    /// Unix socket of the Server API.
    pub socket_path: PathBuf,
    /// Lifetime of X.509 and JWT authorities.
    #[serde(default = "day")]
    pub ca_ttl_seconds: u64,
    /// Lifetime of X509-SVIDs, the server's own included.
    #[serde(default = "hour")]
    pub x509_svid_ttl_seconds: u64,
    /// Where the own bundle endpoint listens; without it there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle_endpoint: Option<SocketAddr>,
    /// What the own bundle endpoint gives as refresh hint; SPIRE's default is five minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_hint_seconds: Option<u64>,
    /// Loaded in this order.
    #[serde(default)]
    pub plugins: Vec<PluginConfig>,
}

/// One block of `plugins`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginConfig {
    /// Also the magic cookie.
    #[serde(rename = "type")]
    pub kind: PluginKind,
    /// Label of the block.
    pub name: String,
    /// The program.
    pub cmd: PathBuf,
    /// Its arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// SHA-256 of the program, 64 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    /// Configuration text, handed over as it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// File with the configuration text, read again at each reconfigure signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_file: Option<PathBuf>,
}

/// The two types of plugin that Entente offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PluginKind {
    /// Told of the own bundle every 30 seconds and when it grows or shrinks.
    BundlePublisher,
    /// Told when the server starts and when an authority is prepared.
    Notifier,
}

impl PluginKind {
    /// The word in configuration, cookie and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BundlePublisher => "BundlePublisher",
            Self::Notifier => "Notifier",
        }
    }
}

/// The stand-in for `spire-agent`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// Name of the trust domain, without scheme.
    pub trust_domain: String,
    /// Unix socket of the stand-in server's API.
    pub server_socket: PathBuf,
    /// Unix socket of the Workload API.
    pub socket_path: PathBuf,
    /// Time between two looks at the server.
    #[serde(default = "half_a_second")]
    pub sync_interval_ms: u64,
}

fn day() -> u64 {
    86_400
}

fn hour() -> u64 {
    3_600
}

fn half_a_second() -> u64 {
    500
}

impl ServerConfig {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let config: Self = read(path)?;
        config.check().with_context(|| format!("configuration {} is invalid", path.display()))?;
        Ok(config)
    }

    fn check(&self) -> anyhow::Result<()> {
        TrustDomain::new(&self.trust_domain).context("trust_domain")?;
        for (key, seconds) in
            [("ca_ttl_seconds", self.ca_ttl_seconds), ("x509_svid_ttl_seconds", self.x509_svid_ttl_seconds)]
        {
            anyhow::ensure!(LIFETIMES.contains(&seconds), "{key}: expected 1 second to 100 years");
        }
        for (index, plugin) in self.plugins.iter().enumerate() {
            let label = format!("plugin {} {:?}", plugin.kind.as_str(), plugin.name);
            anyhow::ensure!(
                plugin.data.is_none() || plugin.data_file.is_none(),
                "{label}: only one of [plugin_data, plugin_data_file] can be used"
            );
            let twin = |other: &&PluginConfig| other.kind == plugin.kind && other.name == plugin.name;
            anyhow::ensure!(self.plugins.iter().take(index).find(twin).is_none(), "{label} is there twice");
        }
        Ok(())
    }
}

impl AgentConfig {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let config: Self = read(path)?;
        TrustDomain::new(&config.trust_domain)
            .with_context(|| format!("configuration {} is invalid: trust_domain", path.display()))?;
        Ok(config)
    }
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = entente_bounds::read_file(path)?;
    serde_json::from_slice(&text).with_context(|| format!("configuration {} is invalid", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLUGIN: &str = r#"{"type":"Notifier","name":"a","cmd":"/x"}"#;

    fn load(text: &str) -> anyhow::Result<ServerConfig> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("server.json");
        std::fs::write(&path, text)?;
        ServerConfig::load(&path)
    }

    fn with_plugins(plugins: &str) -> anyhow::Result<ServerConfig> {
        load(&format!(
            r#"{{"trust_domain":"a.test","data_dir":"/d","socket_path":"/s","plugins":[{plugins}]}}"#
        ))
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let refused = load(r#"{"trust_domain":"a.test","data_dir":"/d","socket_path":"/s","colour":1}"#);
        assert!(format!("{:#}", refused.unwrap_err()).contains("colour"));
    }

    #[test]
    fn a_bad_trust_domain_a_repeated_plugin_and_two_sources_of_data_are_refused() {
        assert!(load(r#"{"trust_domain":"A.test","data_dir":"/d","socket_path":"/s"}"#).is_err());
        assert!(with_plugins(&format!("{PLUGIN},{PLUGIN}")).is_err());
        let both = r#"{"type":"Notifier","name":"a","cmd":"/x","data":"","data_file":"/f"}"#;
        assert!(with_plugins(both).is_err());
    }

    #[test]
    fn a_lifetime_that_no_certificate_can_have_is_refused_by_name() {
        for (key, seconds) in
            [("ca_ttl_seconds", 0), ("ca_ttl_seconds", u64::MAX), ("x509_svid_ttl_seconds", 0)]
        {
            let text = format!(
                r#"{{"trust_domain":"a.test","data_dir":"/d","socket_path":"/s","{key}":{seconds}}}"#
            );
            assert!(format!("{:#}", load(&text).unwrap_err()).contains(key));
        }
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let other = r#"{"type":"BundlePublisher","name":"a","cmd":"/x"}"#;
        let config = with_plugins(&format!("{PLUGIN},{other}")).unwrap();
        assert_eq!((config.ca_ttl_seconds, config.x509_svid_ttl_seconds), (86_400, 3_600));
        assert_eq!(config.bundle_endpoint, None);
    }

    #[test]
    fn a_configuration_without_an_end_is_refused_at_once() {
        let endless = Path::new("/dev/zero");
        for refused in [ServerConfig::load(endless).map(drop), AgentConfig::load(endless).map(drop)] {
            assert!(refused.unwrap_err().to_string().contains("/dev/zero"));
        }
    }
}
