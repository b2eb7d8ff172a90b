//! Whole servers and agents, in the test's own process, asked over their sockets.
//!
//! What is asserted here is SPIRE's behaviour, and the stand-in has to have it: one test of `real` runs all others again with
//! `ENTENTE_API_TESTS=real`, which has them ask a real `spire-server`.

mod agent;
mod authorities;
mod bundles;
mod client;
mod entries;
mod real;
mod relationships;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use entente_bundle::testing::TestAuthority;
use entente_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use entente_proto::spire::api::server::bundle::v1::{BatchSetFederatedBundleRequest, GetBundleRequest};
use entente_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use entente_proto::spire::api::server::localauthority::v1::local_authority_client::LocalAuthorityClient;
use entente_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use entente_proto::spire::api::server::trustdomain::v1::trust_domain_client::TrustDomainClient;
use entente_proto::spire::api::types as wire;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use super::config::ServerConfig;
use super::log::testing::Lines;
use super::server::{self, Controls};

const DEADLINE: Duration = Duration::from_secs(30);

/// A server without plugins.
struct TestServer {
    folder: TempDir,
    trust_domain: &'static str,
    channel: Channel,
    endpoint: SocketAddr,
    running: Running,
}

/// The stand-in in this process, or the real thing in one of its own.
enum Running {
    Real(real::RealServer),
    StandIn { lines: Lines, stop: CancellationToken, task: JoinHandle<anyhow::Result<()>> },
}

impl TestServer {
    async fn start(trust_domain: &'static str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), trust_domain).await
    }

    async fn start_in(folder: TempDir, trust_domain: &'static str) -> Self {
        let socket = folder.path().join("api.sock");
        let (running, endpoint) = if real::is_wanted() {
            let server = real::RealServer::start(folder.path(), trust_domain).await;
            let endpoint = server.endpoint;
            (Running::Real(server), endpoint)
        } else {
            start_stand_in(&folder, trust_domain).await
        };
        let channel = Endpoint::from_shared(format!("unix:{}", socket.display())).unwrap().connect_lazy();
        Self { folder, trust_domain, channel, endpoint, running }
    }

    /// Ends without a word.
    async fn kill(self) -> TempDir {
        match self.running {
            Running::Real(server) => drop(server),
            Running::StandIn { task, .. } => {
                task.abort();
                let _ = task.await;
            }
        }
        self.folder
    }

    async fn killed_and_started_again(self) -> Self {
        let trust_domain = self.trust_domain;
        Self::start_in(self.kill().await, trust_domain).await
    }

    async fn stop(self) {
        drop(self.channel);
        if let Running::StandIn { stop, task, .. } = self.running {
            stop.cancel();
            task.await.unwrap().unwrap();
        }
    }

    fn log(&self) -> String {
        match &self.running {
            Running::Real(server) => server.log(),
            Running::StandIn { lines, .. } => lines.text(),
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("api.sock")
    }

    fn url(&self) -> String {
        format!("https://{}/", self.endpoint)
    }

    fn bundles(&self) -> BundleClient<Channel> {
        BundleClient::new(self.channel.clone())
    }

    fn entries(&self) -> EntryClient<Channel> {
        EntryClient::new(self.channel.clone())
    }

    fn authorities(&self) -> LocalAuthorityClient<Channel> {
        LocalAuthorityClient::new(self.channel.clone())
    }

    fn relationships(&self) -> TrustDomainClient<Channel> {
        TrustDomainClient::new(self.channel.clone())
    }

    fn svids(&self) -> SvidClient<Channel> {
        SvidClient::new(self.channel.clone())
    }

    async fn own_bundle(&self) -> wire::Bundle {
        self.bundles().get_bundle(GetBundleRequest { output_mask: None }).await.unwrap().into_inner()
    }

    async fn set_bundle(&self, bundle: wire::Bundle) -> wire::Status {
        let request = BatchSetFederatedBundleRequest { bundle: vec![bundle], output_mask: None };
        let response = self.bundles().batch_set_federated_bundle(request).await.unwrap().into_inner();
        response.results.into_iter().next().unwrap().status.unwrap()
    }
}

async fn start_stand_in(folder: &TempDir, trust_domain: &str) -> (Running, SocketAddr) {
    let config = ServerConfig {
        trust_domain: trust_domain.to_owned(),
        data_dir: folder.path().join("data"),
        socket_path: folder.path().join("api.sock"),
        ca_ttl_seconds: 86_400,
        x509_svid_ttl_seconds: 3_600,
        bundle_endpoint: Some(([127, 0, 0, 1], 0).into()),
        refresh_hint_seconds: None,
        plugins: Vec::new(),
    };
    let (lines, stop) = (Lines::default(), CancellationToken::new());
    let (ready, is_ready) = oneshot::channel();
    let (_, reconfigure) = mpsc::channel(1);
    let controls = Controls { stop: stop.clone(), reconfigure, trampoline: None };
    let task = tokio::spawn(server::run(config, lines.log(), controls, ready));
    let Ok(bound) = is_ready.await else {
        panic!("server did not start: {}", lines.text());
    };
    (Running::StandIn { lines, stop, task }, bound.bundle_endpoint.unwrap())
}

/// A bundle of one fresh authority.
fn foreign_bundle(trust_domain: &str) -> wire::Bundle {
    let asn1 = TestAuthority::new(trust_domain).certificate().to_vec();
    wire::Bundle {
        trust_domain: trust_domain.to_owned(),
        x509_authorities: vec![wire::X509Certificate { asn1, tainted: false }],
        ..wire::Bundle::default()
    }
}

fn id_of(trust_domain: &str, path: &str) -> Option<wire::Spiffeid> {
    Some(wire::Spiffeid { trust_domain: trust_domain.to_owned(), path: path.to_owned() })
}

/// An entry for whoever runs this test.
fn entry(trust_domain: &str, path: &str, federates_with: &[&str]) -> wire::Entry {
    let uid = rustix::process::getuid().as_raw();
    wire::Entry {
        spiffe_id: id_of(trust_domain, path),
        parent_id: id_of(trust_domain, "/node"),
        selectors: vec![wire::Selector { r#type: "unix".into(), value: format!("uid:{uid}") }],
        federates_with: federates_with.iter().map(ToString::to_string).collect(),
        ..wire::Entry::default()
    }
}

fn code(status: Option<&wire::Status>) -> (i32, &str) {
    status.map_or((-1, ""), |status| (status.code, status.message.as_str()))
}

/// Polls until `check` gives something.
async fn eventually<T>(mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let polling = async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, polling).await.expect("it never happened")
}
