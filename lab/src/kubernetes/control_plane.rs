//! An API server with its etcd on loopback, without nodes: for programs that need Kubernetes as their configuration. Needs no root.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use super::command::Run;
use super::place::{ClusterFolder, Place};
use super::{files, parts, pki};
use crate::checks::{eventually, see};
use crate::ports;
use crate::process::{Launch, Process};

const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_GRACE: Duration = Duration::from_secs(10);

/// A running API server. Dropping it ends it.
#[derive(Debug)]
pub struct ControlPlane {
    folder: ClusterFolder,
    kubectl: PathBuf,
    apiserver: Process,
    etcd: Process,
}

impl ControlPlane {
    /// Finds or builds its programs, starts them, and waits until it answers. Everything lies in `folder`.
    pub async fn start(folder: &Path) -> anyhow::Result<Self> {
        let (etcd, kubernetes) = parts::control_plane().await?;
        let place = place()?;
        let folder = ClusterFolder::of(folder, &place);
        pki::make(&place, &folder)?;
        for name in ["log", "var/lib/etcd"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        let etcd =
            Launch::new("etcd", etcd, folder.log("etcd")).args(files::etcd(&place, &folder)).start()?;
        let pki = |name: &str| folder.pki(name).display().to_string();
        let apiserver =
            Launch::new("kube-apiserver", kubernetes.join("kube-apiserver"), folder.log("kube-apiserver"))
                .args(files::apiserver(&place, &pki))
                // Its own service cannot have an address on loopback, and nobody asks for it.
                .args(["--bind-address=127.0.0.1", "--endpoint-reconciler-type=none"])
                .args([format!("--cert-dir={}", folder.path().join("pki").display())])
                .start()?;
        let plane = Self { kubectl: kubernetes.join("kubectl"), folder, apiserver, etcd };
        let ready = eventually("the API server is ready", START_DEADLINE, async || {
            plane.etcd.check_alive()?;
            plane.apiserver.check_alive()?;
            plane.kubectl(&["get", "--raw", "/readyz"]).await.map(drop)
        });
        ready.await.map_err(|error| see(error, plane.apiserver.log().path()))?;
        Ok(plane)
    }
    /// The operator's.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.kubeconfig()
    }
    /// What `kubectl` prints.
    pub async fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        Run::new(&self.kubectl).env("KUBECONFIG", self.kubeconfig()).args(arguments).output().await
    }
    /// Ends it in good order.
    pub async fn stop(mut self) {
        for process in [&mut self.apiserver, &mut self.etcd] {
            // Whatever does not end now is killed when it is dropped.
            let _ = process.terminate(STOP_GRACE).await;
        }
    }
}

fn place() -> anyhow::Result<Place> {
    Ok(Place {
        cluster: "control-plane",
        trust_domain: "cluster1.org",
        node: "none",
        address: Ipv4Addr::LOCALHOST,
        api_port: ports::free()?,
        etcd_ports: [ports::free()?, ports::free()?],
        pods: "10.21.0.0/24",
        services: "10.96.0.0/24",
        api_service: Ipv4Addr::new(10, 96, 0, 1),
        dns: Ipv4Addr::new(10, 96, 0, 10),
        bundle_endpoint: "127.0.0.1",
        mesh_gateway: "127.0.0.1",
    })
}
