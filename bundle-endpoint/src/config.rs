//! The configuration file: where to listen and as what to serve, and nothing about trust. Unknown keys are refused.

use std::path::{Path, PathBuf};
use std::time::Duration;

use entente_bounds::{FileError, read_file};
use entente_bundle::refresh::RefreshPolicy;
use entente_bundle::{SpiffeId, TrustDomain};
use serde::{Deserialize, Deserializer};

use crate::address::{LinkAddress, ListenAddress};
use crate::logging::LogFormat;

/// Everything that `bundle-endpoint serve` is told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Whose bundle is served; the plugin must be of the same.
    #[serde(deserialize_with = "trust_domain")]
    pub trust_domain: TrustDomain,
    /// Where the plugin dials.
    pub link: LinkConfig,
    /// The public listener.
    pub serve: ServeConfig,
    /// Further public listeners, for instance the other profile.
    #[serde(default)]
    pub also_serve: Vec<ServeConfig>,
    /// Where `identity = "workload"` comes from.
    #[serde(default)]
    pub workload_api: WorkloadApiConfig,
    /// Health, metrics and status.
    #[serde(default)]
    pub admin: AdminConfig,
    /// Bounds on fetches.
    #[serde(default)]
    pub fetch: FetchConfig,
    /// What to log, in the words of `RUST_LOG`; the command line and that variable win.
    pub log_level: Option<String>,
    /// How to log.
    pub log_format: Option<LogFormat>,
}

/// `[link]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkConfig {
    /// Socket that the plugin dials, whose folder must exist; or IP and port, for mutual TLS with our Workload API SVID.
    pub listen: LinkAddress,
    /// User IDs that may be at the other end of a socket; our own and root where this is left out.
    pub allowed_uids: Option<Vec<u32>>,
    /// Which of our Workload API SVIDs to show over mutual TLS; needed only where there are several.
    #[serde(default, deserialize_with = "spiffe_id")]
    pub spiffe_id: Option<SpiffeId>,
}

/// `[serve]` and each `[[also_serve]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "RawServeConfig")]
pub struct ServeConfig {
    /// IP and port; port 0 lets the system choose.
    pub listen: ListenAddress,
    /// As what.
    pub profile: ServingProfile,
}

/// How a public listener proves who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServingProfile {
    /// With an X509-SVID.
    HttpsSpiffe(ServingIdentity),
    /// With a web certificate from files, read again when they change.
    HttpsWeb {
        /// PEM, leaf first.
        certificate_file: PathBuf,
        /// PEM.
        private_key_file: PathBuf,
    },
}

/// Whose X509-SVID a `https_spiffe` listener shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServingIdentity {
    /// The SPIRE Server's, whose key stays with the plugin.
    #[default]
    Server,
    /// Our own, from the Workload API.
    Workload,
}

/// `[workload_api]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadApiConfig {
    /// Address of the Workload API; `SPIFFE_ENDPOINT_SOCKET` where this is left out.
    pub socket: Option<String>,
}

/// `[admin]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminConfig {
    /// IP and port for `/live`, `/ready`, `/metrics` and `/status`.
    pub listen: ListenAddress,
}

/// `[fetch]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FetchConfig {
    /// Never fetch more often than this.
    #[serde(with = "humantime_serde")]
    pub minimum_interval: Duration,
    /// Never fetch less often than this: a hint of years must not stop revocation.
    #[serde(with = "humantime_serde")]
    pub maximum_interval: Duration,
    /// For a whole fetch, redirects included.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// Size of a document, after inflating.
    pub max_bytes: usize,
    /// Elements of a document.
    pub max_keys: usize,
}

/// A revocation must be noticed some day.
const LONGEST_INTERVAL: Duration = Duration::from_secs(30 * 86_400);

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is not UTF-8.
    #[error("configuration file {} is no text", path.display())]
    NotText {
        /// Which file.
        path: PathBuf,
    },
    /// The text is no configuration; the message shows the line.
    #[error("configuration file {} is refused\n{message}", path.display())]
    Refused {
        /// Which file.
        path: PathBuf,
        /// With line, column and what was expected.
        message: String,
    },
}

/// Why a `[serve]` block contradicts itself.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("{key} is for profile \"https_web\" only")]
    WebKeyWithSpiffe { key: &'static str },
    #[error("profile \"https_web\" needs {key}")]
    WebKeyMissing { key: &'static str },
    #[error(
        "identity is for profile \"https_spiffe\" only: \"https_web\" shows the certificate of certificate_file"
    )]
    IdentityWithWeb,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawServeConfig {
    listen: ListenAddress,
    profile: ProfileName,
    identity: Option<ServingIdentity>,
    certificate_file: Option<PathBuf>,
    private_key_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ProfileName {
    HttpsSpiffe,
    HttpsWeb,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, and the line where the text is at fault.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = String::from_utf8(read_file(path)?)
            .map_err(|_| ConfigError::NotText { path: path.to_owned() })?;
        Self::parse(&text).map_err(|message| ConfigError::Refused { path: path.to_owned(), message })
    }

    /// Checks a text; the error is for people, with line and column.
    ///
    /// # Errors
    /// What is wrong, where, and what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        config.link.check(&config.trust_domain)?;
        config.fetch.check()?;
        Ok(config)
    }

    /// `[serve]` and every `[[also_serve]]`, in order.
    pub fn public_listeners(&self) -> impl Iterator<Item = &ServeConfig> {
        std::iter::once(&self.serve).chain(&self.also_serve)
    }
}

impl LinkConfig {
    fn check(&self, trust_domain: &TrustDomain) -> Result<(), String> {
        if self.allowed_uids.as_ref().is_some_and(Vec::is_empty) {
            return Err("[link] allowed_uids is empty, so that nobody could link: leave it out to allow our own user \
                        and root"
                .into());
        }
        match self.listen {
            LinkAddress::Tcp(_) if self.allowed_uids.is_some() => Err(format!(
                "[link] allowed_uids is for a socket only: over mutual TLS exactly {} may link",
                trust_domain.spire_server_id()
            )),
            LinkAddress::Unix(_) if self.spiffe_id.is_some() => {
                Err("[link] spiffe_id is for mutual TLS only: on a socket no SVID is shown".into())
            }
            _ => self.check_id(trust_domain),
        }
    }

    // The plugin demands the same of the ID that it is told.
    fn check_id(&self, trust_domain: &TrustDomain) -> Result<(), String> {
        match &self.spiffe_id {
            Some(id) if id.trust_domain() != trust_domain => {
                Err(format!("[link] spiffe_id {id} is not of trust domain {trust_domain}"))
            }
            Some(id) if id.is_reserved() => Err(format!("[link] spiffe_id {id} is no workload's")),
            _ => Ok(()),
        }
    }
}

impl FetchConfig {
    /// Hints to intervals, with the configured floor and ceiling.
    pub fn refresh_policy(&self) -> RefreshPolicy {
        RefreshPolicy {
            floor: self.minimum_interval,
            ceiling: self.maximum_interval,
            ..RefreshPolicy::default()
        }
    }

    fn check(&self) -> Result<(), String> {
        if self.minimum_interval.is_zero() {
            return Err("[fetch] minimum_interval must be more than zero".into());
        }
        if self.maximum_interval < self.minimum_interval {
            return Err("[fetch] maximum_interval must not be less than minimum_interval".into());
        }
        if self.maximum_interval > LONGEST_INTERVAL {
            return Err("[fetch] maximum_interval must not be more than 30 days".into());
        }
        if self.request_timeout.is_zero() {
            return Err("[fetch] request_timeout must be more than zero".into());
        }
        if self.max_bytes == 0 || self.max_keys == 0 {
            return Err("[fetch] max_bytes and max_keys must be more than zero".into());
        }
        Ok(())
    }
}

impl Default for FetchConfig {
    fn default() -> Self {
        Self {
            minimum_interval: Duration::from_secs(15),
            maximum_interval: Duration::from_secs(3600),
            request_timeout: Duration::from_secs(30),
            max_bytes: 1 << 20,
            max_keys: 512,
        }
    }
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: std::net::SocketAddr::from(([127, 0, 0, 1], 8080)).into() }
    }
}

impl TryFrom<RawServeConfig> for ServeConfig {
    type Error = ServeError;

    fn try_from(raw: RawServeConfig) -> Result<Self, ServeError> {
        let profile = match raw.profile {
            ProfileName::HttpsSpiffe => {
                let web_keys = [
                    ("certificate_file", &raw.certificate_file),
                    ("private_key_file", &raw.private_key_file),
                ];
                if let Some((key, _)) = web_keys.into_iter().find(|(_, file)| file.is_some()) {
                    return Err(ServeError::WebKeyWithSpiffe { key });
                }
                ServingProfile::HttpsSpiffe(raw.identity.unwrap_or_default())
            }
            ProfileName::HttpsWeb => {
                if raw.identity.is_some() {
                    return Err(ServeError::IdentityWithWeb);
                }
                let certificate_file =
                    raw.certificate_file.ok_or(ServeError::WebKeyMissing { key: "certificate_file" })?;
                let private_key_file =
                    raw.private_key_file.ok_or(ServeError::WebKeyMissing { key: "private_key_file" })?;
                ServingProfile::HttpsWeb { certificate_file, private_key_file }
            }
        };
        Ok(Self { listen: raw.listen, profile })
    }
}

fn trust_domain<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TrustDomain, D::Error> {
    let name = String::deserialize(deserializer)?;
    TrustDomain::new(&name).map_err(serde::de::Error::custom)
}

fn spiffe_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SpiffeId>, D::Error> {
    let id = String::deserialize(deserializer)?;
    SpiffeId::with_path(&id).map(Some).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests;
