//! One trust domain: SPIRE Server with our plugin, agent, bundle endpoint, and the calls that start, kill and ask them.

mod config;
mod processes;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use anyhow::Context;
use entente_bundle::{SpiffeId, TrustDomain};
use rustix::process::Signal;
use tokio::process::Command;

use crate::endpoint_status::EndpointStatus;
use crate::layout::{Home, InventoryOfDomain, InventoryOfProcess, write};
use crate::ports::{self, loopback};
use crate::process::Process;
use crate::products::Products;
use crate::server_api::{NewEntry, ServerApi};
use crate::spire::{ServerSpec, Spire};
use crate::web_certificate::WebCertificate;

/// How the plugin reaches the bundle endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LinkKind {
    /// By a socket in the domain's folder.
    #[default]
    Unix,
    /// By mutual TLS, as two deployments of a cluster would.
    Mtls,
}

/// Programs that every domain of a lab shares.
#[derive(Clone, Debug)]
pub struct Means {
    /// The programs under test.
    pub products: Arc<Products>,
    /// The SPIRE they run with.
    pub spire: Arc<Spire>,
    /// How each domain's plugin and endpoint are linked.
    pub link: LinkKind,
}

/// One `federates_with` block of the plugin's configuration.
#[derive(Clone, Debug)]
pub struct FederatesWith {
    /// The foreign trust domain.
    pub trust_domain: TrustDomain,
    /// Its bundle endpoint.
    pub url: String,
    /// What that endpoint presents.
    pub endpoint_spiffe_id: SpiffeId,
    /// File with its bundle to begin with.
    pub bootstrap_bundle: PathBuf,
}

/// A running trust domain. Dropping it kills its processes.
#[derive(Debug)]
pub struct Domain {
    trust_domain: TrustDomain,
    home: Home,
    api: ServerApi,
    means: Means,
    spec: ServerSpec,
    web: WebCertificate,
    spiffe_port: u16,
    web_port: u16,
    admin_port: u16,
    /// Where the endpoint awaits the link; `None` with a socket.
    link_port: Option<u16>,
    federates_with: Vec<FederatesWith>,
    agent_was_in: bool,
    /// The plugin that is watched for its end.
    plugin: Option<u32>,
    server: Option<Process>,
    agent: Option<Process>,
    endpoint: Option<Process>,
}

impl Domain {
    /// Makes folder, ports and certificates; starts nothing.
    pub fn create(lab: &Path, name: &str, means: &Means) -> anyhow::Result<Self> {
        let plugin = Some(means.products.plugin());
        Self::with_spec(lab, name, means, |spec| spec.plugin = plugin)
    }
    /// A domain without anything of ours: SPIRE's own bundle endpoint serves instead.
    pub fn create_stock(
        lab: &Path,
        name: &str,
        means: &Means,
        refresh_hint_seconds: u64,
    ) -> anyhow::Result<Self> {
        let port = ports::free()?;
        let mut domain = Self::with_spec(lab, name, means, |spec| {
            spec.bundle_endpoint = Some((port, refresh_hint_seconds))
        })?;
        domain.spiffe_port = port;
        Ok(domain)
    }

    fn with_spec(
        lab: &Path,
        name: &str,
        means: &Means,
        change: impl FnOnce(&mut ServerSpec),
    ) -> anyhow::Result<Self> {
        let trust_domain = TrustDomain::new(name)?;
        let home = Home::create(lab, &trust_domain)?;
        let mut spec = ServerSpec {
            trust_domain: trust_domain.clone(),
            port: ports::free()?,
            plugin: None,
            bundle_endpoint: None,
        };
        change(&mut spec);
        Ok(Self {
            api: ServerApi::at(&home.api_socket())?,
            web: WebCertificate::create(&home)?,
            means: means.clone(),
            spec,
            spiffe_port: ports::free()?,
            web_port: ports::free()?,
            admin_port: ports::free()?,
            link_port: (means.link == LinkKind::Mtls).then(ports::free).transpose()?,
            federates_with: Vec::new(),
            agent_was_in: false,
            plugin: None,
            server: None,
            agent: None,
            endpoint: None,
            trust_domain,
            home,
        })
    }

    /// Its name.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }
    /// Its folder.
    pub fn home(&self) -> &Home {
        &self.home
    }
    /// Its SPIRE Server's API.
    pub fn api(&self) -> &ServerApi {
        &self.api
    }
    /// Its web identity.
    pub fn web(&self) -> &WebCertificate {
        &self.web
    }
    /// The ID of its agent, parent of all entries.
    pub fn node_id(&self) -> anyhow::Result<SpiffeId> {
        Ok(SpiffeId::new(&format!("spiffe://{}/lab/node", self.trust_domain))?)
    }
    /// Where the bundle endpoint serves `https_spiffe`.
    pub fn spiffe_address(&self) -> SocketAddr {
        loopback(self.spiffe_port)
    }
    /// `https://127.0.0.1:PORT/`, profile `https_spiffe`.
    pub fn spiffe_url(&self) -> String {
        format!("https://127.0.0.1:{}/", self.spiffe_port)
    }
    /// `https://127.0.0.1:PORT/`, profile `https_web`.
    pub fn web_url(&self) -> String {
        format!("https://127.0.0.1:{}/", self.web_port)
    }
    /// The same by name, for those who verify host names only.
    pub fn web_url_by_name(&self) -> String {
        format!("https://localhost:{}/", self.web_port)
    }
    /// `http://127.0.0.1:PORT`
    pub fn admin_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.admin_port)
    }
    /// As workloads want it.
    pub fn workload_api(&self) -> String {
        format!("unix://{}", self.home.agent_socket().display())
    }

    /// Whether the endpoint needs an SVID before a plugin can link to it.
    pub fn links_over_mtls(&self) -> bool {
        self.link_port.is_some()
    }
    /// Makes the registration entry of the bundle endpoint.
    pub async fn register_endpoint(&self) -> anyhow::Result<()> {
        let uid = rustix::process::geteuid().as_raw();
        let program = self.means.products.bundle_endpoint();
        let entry = NewEntry {
            spiffe_id: SpiffeId::new(&config::endpoint_id(&self.trust_domain))?,
            parent_id: self.node_id()?,
            selectors: vec![("unix", format!("uid:{uid}")), ("unix", format!("path:{}", program.display()))],
            federates_with: Vec::new(),
        };
        self.api.create_entry(&entry).await.map(drop)
    }
    /// `bundle-endpoint status`: the command, its exit code, and what it printed.
    pub async fn status_command(&self) -> anyhow::Result<(String, Option<i32>, String)> {
        let config = self.home.endpoint_conf().display().to_string();
        let output = Command::new(self.means.products.bundle_endpoint())
            .args(["status", "--config", &config])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .context("cannot run bundle-endpoint status")?;
        let printed =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok((format!("bundle-endpoint status --config {config}"), output.status.code(), printed.concat()))
    }
    /// What the endpoint says about itself.
    pub async fn status(&self) -> anyhow::Result<EndpointStatus> {
        EndpointStatus::ask(&self.admin_url()).await
    }

    /// Adds a `federates_with` block and has SPIRE hand the new configuration to the plugin.
    pub fn federate(&mut self, block: FederatesWith) -> anyhow::Result<()> {
        self.federates_with.retain(|other| other.trust_domain != block.trust_domain);
        self.federates_with.push(block);
        self.reconfigure()
    }
    /// Takes the `federates_with` block of `foreign` away and has SPIRE hand the new configuration to the plugin.
    pub fn defederate(&mut self, foreign: &TrustDomain) -> anyhow::Result<()> {
        self.federates_with.retain(|block| block.trust_domain != *foreign);
        self.reconfigure()
    }
    fn reconfigure(&self) -> anyhow::Result<()> {
        self.write_plugin_data()?;
        self.server()?.signal(Signal::USR1)
    }

    /// For `lab.json`: what runs now.
    pub fn inventory(&self) -> InventoryOfDomain {
        let processes = [&self.server, &self.agent, &self.endpoint].into_iter().flatten();
        let running = processes.filter(|process| process.check_alive().is_ok());
        let mut processes: Vec<_> = running.map(InventoryOfProcess::from).collect();
        if let Ok(pid) = self.plugin_pid() {
            processes.push(InventoryOfProcess { name: self.plugin_name(), pid, log: self.home.server_log() });
        }
        InventoryOfDomain {
            trust_domain: self.trust_domain.to_string(),
            folder: self.home.folder().to_owned(),
            api_socket: self.home.api_socket(),
            server_address: self
                .means
                .spire
                .listens_for_agents()
                .then(|| loopback(self.spec.port).to_string()),
            link_socket: self.home.link_socket(),
            plugin_data_file: self.home.plugin_data(),
            workload_api: self.workload_api(),
            bundle_endpoint_url: self.spiffe_url(),
            web_url: self.web_url(),
            web_ca_file: self.web.ca_file.clone(),
            admin_url: self.admin_url(),
            helloworld_address: None,
            processes,
        }
    }

    fn write_plugin_data(&self) -> anyhow::Result<()> {
        write(
            &self.home.plugin_data(),
            config::plugin_data(&self.trust_domain, &self.home, self.link_port, &self.federates_with),
        )
    }
}
