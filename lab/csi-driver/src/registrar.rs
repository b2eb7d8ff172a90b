//! Tells the kubelet of a CSI driver, as `csi-node-driver-registrar` does.

mod wire;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use prost::Message;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::transport::Endpoint;

use crate::csi::GetPluginInfoRequest;
use crate::csi::identity_client::IdentityClient;
use crate::flags::{FlagError, Flags};
use crate::registration::{PluginInfo, RegistrationStatus, RegistrationStatusResponse};
use crate::socket;

/// The upstream program's flags that are understood.
pub const FLAGS: &[&str] = &[
    "csi-address",
    "kubelet-registration-path",
    "plugin-registration-path",
    "http-endpoint",
    "health-port",
    "v",
];

/// Where the kubelet looks for plugins, as the manifests mount it.
const REGISTRATION_FOLDER: &str = "/registration";
/// How long the driver beside it may take to answer at the start.
const PATIENCE: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(200);

/// What to tell the kubelet.
#[derive(Debug)]
pub struct Registrar {
    csi_address: PathBuf,
    kubelet_path: String,
    folder: PathBuf,
    health: Option<SocketAddr>,
}

impl Registrar {
    /// From the upstream program's flags.
    ///
    /// # Errors
    ///
    /// When one is missing or no good.
    pub fn from_flags(flags: &Flags) -> Result<Self, FlagError> {
        Ok(Self {
            csi_address: flags.required("csi-address")?.into(),
            kubelet_path: flags.required("kubelet-registration-path")?.to_owned(),
            folder: flags.get("plugin-registration-path").unwrap_or(REGISTRATION_FOLDER).into(),
            health: health_address(flags)?,
        })
    }

    /// Asks the driver for its name and serves the kubelet's questions until `stop`. Takes its socket along when it ends.
    ///
    /// # Errors
    ///
    /// When the driver does not answer, a socket cannot be had, or the kubelet refuses the driver.
    pub async fn serve(self, stop: impl Future<Output = ()> + Send) -> anyhow::Result<()> {
        let name = driver_name(&self.csi_address).await?;
        let path = self.folder.join(format!("{name}-reg.sock"));
        let listener = socket::bind(&path)?;
        let (refusals, mut refused) = mpsc::channel(1);
        let answers = Answers { name: name.clone(), endpoint: self.kubelet_path, refusals };
        println!("serving the registration of {name} on {}", path.display());
        let outcome = tokio::select! {
            served = accept(&listener, &answers) => served.context("registration socket"),
            served = health(self.health, &path) => served,
            Some(reason) = refused.recv() => Err(anyhow::anyhow!("the kubelet refused {name}: {reason}")),
            () = stop => Ok(()),
        };
        // Already gone is as good.
        let _ = std::fs::remove_file(&path);
        outcome
    }
}

/// As upstream: the address, or the port of the old way, of which 0 is none.
fn health_address(flags: &Flags) -> Result<Option<SocketAddr>, FlagError> {
    let on_port = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    match flags.address("http-endpoint")? {
        Some(address) => Ok(Some(address)),
        None => Ok(flags.port("health-port")?.filter(|port| *port != 0).map(on_port)),
    }
}

async fn driver_name(csi_address: &Path) -> anyhow::Result<String> {
    let ask = async {
        loop {
            match asked_once(csi_address).await {
                Ok(name) => return name,
                Err(error) => println!("the driver does not answer yet: {error:#}"),
            }
            tokio::time::sleep(RETRY).await;
        }
    };
    let name = tokio::time::timeout(PATIENCE, ask);
    let name = name.await.with_context(|| format!("no driver on {}", csi_address.display()))?;
    // It becomes part of a path.
    let plain = |character: char| character.is_ascii_alphanumeric() || matches!(character, '.' | '-' | '_');
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        bail!("the driver calls itself {name:?}, which is no driver name");
    }
    Ok(name)
}

async fn asked_once(csi_address: &Path) -> anyhow::Result<String> {
    let channel = Endpoint::from_shared(format!("unix://{}", csi_address.display()))?.connect().await?;
    let info = IdentityClient::new(channel).get_plugin_info(GetPluginInfoRequest {}).await?;
    Ok(info.into_inner().name)
}

/// `/healthz` is good while the socket that the kubelet needs is there.
async fn health(address: Option<SocketAddr>, socket: &Path) -> anyhow::Result<()> {
    let Some(address) = address else { return std::future::pending().await };
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let socket = socket.to_owned();
    let healthz = async move || {
        if socket.exists() { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR }
    };
    axum::serve(listener, Router::new().route("/healthz", get(healthz))).await.context("health port")
}

/// Every connection has its own end: one that makes no sense is told of and given up.
async fn accept(listener: &UnixListener, answers: &Answers) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (connection, _) = accepted?;
                let answers = answers.clone();
                connections.spawn(wire::serve(connection, move |message| answers.to(message)));
            }
            Some(ended) = connections.join_next() => {
                if let Ok(Err(error)) = ended {
                    println!("a connection was given up: {error}");
                }
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Answers {
    name: String,
    endpoint: String,
    refusals: mpsc::Sender<String>,
}

impl Answers {
    /// To `GetInfo`, whose message is empty, or to `NotifyRegistrationStatus`, whose message says either yes or why not.
    fn to(&self, message: &[u8]) -> io::Result<Vec<u8>> {
        if message.is_empty() {
            return Ok(self.info().encode_to_vec());
        }
        let status = RegistrationStatus::decode(message).map_err(io::Error::other)?;
        if status.plugin_registered {
            println!("the kubelet took {}", self.name);
        } else {
            // One refusal ends the program; a second has nobody to tell.
            let _ = self.refusals.try_send(status.error);
        }
        Ok(RegistrationStatusResponse {}.encode_to_vec())
    }
    fn info(&self) -> PluginInfo {
        PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: self.name.clone(),
            endpoint: self.endpoint.clone(),
            supported_versions: vec!["1.0.0".to_owned()],
        }
    }
}
