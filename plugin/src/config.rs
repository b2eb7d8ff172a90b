//! The plugin's block of server.conf: value to [`Config`]. Configure and Validate share this, and every mistake is found in one go.

mod address;
mod duration;
mod endpoint;
mod federates_with;
mod reader;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use entente_bundle::TrustDomain;

use crate::handshake::MAX_SOCKET_PATH;
use crate::hcl;
use crate::relationships::{FederationRelationship, Mode};
use reader::Block;

pub(crate) use endpoint::Endpoint;
pub(crate) use federates_with::check_url;

/// Where SPIRE Server's own socket is unless told otherwise.
const DEFAULT_SERVER_SOCKET: &str = "/tmp/spire-server/private/api.sock";

/// What FED 6.1 recommends where there is no better reason.
const DEFAULT_REFRESH_HINT: Duration = Duration::from_secs(300);

/// Longest refresh hint: revocations have to arrive within an operator's life.
const MAX_REFRESH_HINT: Duration = Duration::from_secs(30 * 24 * 3600);

const KEYS: &[&str] = &[
    "endpoint",
    "endpoint_spiffe_id",
    "endpoint_uid",
    "federates_with",
    "refresh_hint",
    "serve_as_server",
    "server_socket",
    "undeclared_bundles",
];

/// Everything the operator says to the plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// The own trust domain, from SPIRE Server.
    pub(crate) trust_domain: TrustDomain,
    /// Where the bundle endpoint awaits the link.
    pub(crate) endpoint: Endpoint,
    pub(crate) federates_with: BTreeMap<TrustDomain, FederationRelationship>,
    /// Put into every bundle that we publish: SPIRE does not hand its own on.
    pub(crate) refresh_hint: Duration,
    /// Lend handshake signatures and the certificate chain, never the key.
    pub(crate) serve_as_server: bool,
    /// Unix socket of the Server API.
    pub(crate) server_socket: PathBuf,
    pub(crate) undeclared_bundles: UndeclaredBundles,
}

/// What happens to federated bundles of trust domains that nobody names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UndeclaredBundles {
    Keep,
    Remove,
}

/// One thing that is wrong, with the way to the guilty key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    pub(crate) key: String,
    pub(crate) text: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.text)
    }
}

/// The configuration is refused as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid plugin configuration: {}", .0.iter().map(Mistake::to_string).collect::<Vec<_>>().join("; "))]
pub(crate) struct ConfigError(pub(crate) Vec<Mistake>);

/// Collects mistakes, so that one reading reports them all.
#[derive(Debug, Default)]
struct Mistakes(Vec<Mistake>);

impl Mistakes {
    fn add(&mut self, key: impl Into<String>, text: impl Into<String>) {
        self.0.push(Mistake { key: key.into(), text: text.into() });
    }
}

impl Config {
    /// Reads the text that SPIRE Server hands over, and the files that it names and that must be there.
    pub(crate) fn read(text: &str, trust_domain: &str) -> Result<Self, ConfigError> {
        let mut mistakes = Mistakes::default();
        let own = TrustDomain::new(trust_domain)
            .inspect_err(|error| {
                let text =
                    format!("SPIRE Server sent {trust_domain:?}, which is no trust domain name: {error}");
                mistakes.add("trust_domain", text);
            })
            .ok();
        let root = hcl::parse(text)
            .inspect_err(|error| {
                mistakes.add(
                    "plugin_data",
                    format!("{error}; expected a block, endpoint = \"unix:///...\" and so on"),
                );
            })
            .ok();
        let config = own.zip(root).and_then(|(own, root)| read_root(&own, &root, &mut mistakes));
        match config {
            Some(config) if mistakes.0.is_empty() => Ok(config),
            _ => Err(ConfigError(mistakes.0)),
        }
    }

    /// Trust domains whose bundles the plugin sets by itself, as far as the block says.
    pub(crate) fn managed(&self) -> impl Iterator<Item = &TrustDomain> {
        self.federates_with.values().filter(|one| one.mode == Mode::Managed).map(|one| &one.trust_domain)
    }
}

fn read_root(own: &TrustDomain, root: &hcl::Object, mistakes: &mut Mistakes) -> Option<Config> {
    let block = Block::new("", root, KEYS, mistakes);
    let endpoint = endpoint::read(&block, own, mistakes);
    let refresh_hint = read_refresh_hint(&block, mistakes);
    let serve_as_server = block.boolean("serve_as_server", mistakes).unwrap_or(false);
    let server_socket = match block.string("server_socket", mistakes) {
        Some(text) => read_server_socket(text, mistakes),
        None => Some(DEFAULT_SERVER_SOCKET.into()),
    };
    let undeclared_bundles = block
        .word(
            "undeclared_bundles",
            &[("keep", UndeclaredBundles::Keep), ("remove", UndeclaredBundles::Remove)],
            mistakes,
        )
        .unwrap_or(UndeclaredBundles::Keep);
    let federates_with = federates_with::read(&block, own, mistakes);
    Some(Config {
        trust_domain: own.clone(),
        endpoint: endpoint?,
        federates_with,
        refresh_hint,
        serve_as_server,
        server_socket: server_socket?,
        undeclared_bundles,
    })
}

fn read_server_socket(text: &str, mistakes: &mut Mistakes) -> Option<PathBuf> {
    socket_path("server_socket", text.strip_prefix("unix:").unwrap_or(text), mistakes)
}

/// Takes `///absolute/path` and `/absolute/path`.
fn socket_path(key: &str, text: &str, mistakes: &mut Mistakes) -> Option<PathBuf> {
    let path = text.strip_prefix("//").unwrap_or(text);
    if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
        mistakes.add(
            key,
            format!("expected an absolute path to a Unix socket (\"unix:///...\"), found {text:?}"),
        );
        return None;
    }
    if path.len() > MAX_SOCKET_PATH {
        mistakes.add(
            key,
            format!("a Unix socket's path has at most {MAX_SOCKET_PATH} bytes, this one has {}", path.len()),
        );
        return None;
    }
    Some(path.into())
}

fn read_refresh_hint(block: &Block<'_>, mistakes: &mut Mistakes) -> Duration {
    let Some(text) = block.string("refresh_hint", mistakes) else {
        return DEFAULT_REFRESH_HINT;
    };
    let hint = duration::parse(text).filter(|hint| {
        hint.subsec_nanos() == 0 && (Duration::from_secs(1)..=MAX_REFRESH_HINT).contains(hint)
    });
    hint.unwrap_or_else(|| {
        let expected = "expected a duration in whole seconds from \"1s\" to \"720h\", such as \"5m\"";
        mistakes.add("refresh_hint", format!("{expected}, found {text:?}"));
        DEFAULT_REFRESH_HINT
    })
}

#[cfg(test)]
mod tests;
