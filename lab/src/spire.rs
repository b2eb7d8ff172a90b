//! Real SPIRE and the embedded stand-in behind one face: start them, and the rest goes through the Server API.

pub mod embedded;
pub mod install;
pub mod real;

use std::fmt;
use std::path::{Path, PathBuf};

use entente_bundle::TrustDomain;

use crate::layout::Home;
use crate::process::Process;

/// The name of our plugin's block in SPIRE's configuration.
pub(crate) const PLUGIN_NAME: &str = "entente";
/// How long SPIRE's agent, real or not, waits between two looks at its server.
pub(crate) const AGENT_SYNC_SECONDS: u64 = 1;

/// Which SPIRE the lab runs on.
#[derive(Debug)]
pub enum Spire {
    /// The stand-in that the lab brings along.
    Embedded(embedded::EmbeddedSpire),
    /// Unmodified `spire-server` and `spire-agent`.
    Real(real::RealSpire),
}

/// What a person asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    /// The embedded stand-in, for a machine with nothing but Rust.
    Embedded,
    /// Unmodified SPIRE.
    Real,
}

/// What a SPIRE Server of the lab needs besides its folder.
#[derive(Clone, Debug)]
pub struct ServerSpec {
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Where it listens for agents.
    pub port: u16,
    /// Our plugin; a stock server has none.
    pub plugin: Option<PluginProgram>,
    /// Port of SPIRE's own bundle endpoint, and its refresh hint in seconds.
    pub bundle_endpoint: Option<(u16, u64)>,
}

/// The plugin's program and the hash that SPIRE checks.
#[derive(Clone, Debug)]
pub struct PluginProgram {
    /// `plugin_cmd`
    pub command: PathBuf,
    /// `plugin_checksum`
    pub sha256: String,
}

impl Spire {
    /// `real` or `embedded`.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Embedded(_) => Kind::Embedded,
            Self::Real(_) => Kind::Real,
        }
    }
    /// The stock `spire-server` for its command line, where there is one.
    pub fn stock_server(&self) -> Option<&Path> {
        match self {
            Self::Embedded(_) => None,
            Self::Real(real) => Some(real.server_program()),
        }
    }
    /// True when the server has a TCP port for agents.
    pub fn listens_for_agents(&self) -> bool {
        self.kind() == Kind::Real
    }
    /// Writes the server's configuration and starts it; whether it answers yet is for the caller to find out.
    pub fn start_server(&self, home: &Home, spec: &ServerSpec) -> anyhow::Result<Process> {
        match self {
            Self::Embedded(spire) => spire.start_server(home, spec),
            Self::Real(spire) => spire.start_server(home, spec),
        }
    }
    /// Starts the agent. `join_token` lets it in for the first time; later it has an identity of its own.
    pub fn start_agent(
        &self,
        home: &Home,
        spec: &ServerSpec,
        join_token: Option<&str>,
    ) -> anyhow::Result<Process> {
        match self {
            Self::Embedded(spire) => spire.start_agent(home, spec),
            Self::Real(spire) => spire.start_agent(home, spec, join_token),
        }
    }
}

impl Kind {
    /// What is spoken of where real SPIRE would be SPIRE.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedded => "the stand-in",
            Self::Real => "SPIRE",
        }
    }
    /// What is started where real SPIRE would be SPIRE Server.
    pub fn server(self) -> &'static str {
        match self {
            Self::Embedded => "stand-in server",
            Self::Real => "SPIRE Server",
        }
    }
    /// What has nothing of ours.
    pub fn stock(self) -> &'static str {
        match self {
            Self::Embedded => "a stand-in server without plugin",
            Self::Real => "stock SPIRE",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Embedded => "embedded",
            Self::Real => "real",
        })
    }
}
