//! A node: started as a process tree in namespaces of its own, loaded with images, waited for, and restarted in parts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use super::Stock;
use super::cgroups;
use super::command::Run;
use super::files;
use super::memory;
use super::network::Network;
use super::pki;
use super::place::{ClusterFolder, Place};
use super::state::{Known, State};
use crate::checks::{ensure, eventually, see};
use crate::process::{self, Launch, Process};

/// From the start of a node until it takes pods, on a machine that does other things too.
const READY: Duration = Duration::from_secs(180);
const IMPORT: Duration = Duration::from_secs(300);

/// A cluster of one node that was started.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) place: &'static Place,
    pub(super) folder: ClusterFolder,
    network: Network,
    kubectl: PathBuf,
    /// Folders of programs that an operator has.
    tools: Vec<PathBuf>,
    group: String,
    process: Process,
    init: u32,
}

impl Cluster {
    /// Starts the node; what it does from then on is for the caller to find out.
    pub(super) async fn start(
        place: &'static Place,
        state: &mut State,
        network: &Network,
        stock: &Stock,
    ) -> anyhow::Result<Self> {
        let parts = &stock.parts;
        let folder = ClusterFolder::of(&state.folder(), place);
        files::write_all(place, &folder, parts)?;
        pki::make(place, &folder)?;
        let script = files::write_node_script(&state.folder())?;
        let group = format!("{}-{}", state.prefix(), place.cluster);
        state.add_group(&group)?;
        cgroups::make(&group)?;
        let process = Launch::new(format!("node of {}", place.cluster), "/bin/bash", folder.log("node"))
            .args([script.display().to_string(), "enter".to_owned()])
            .env("LAB_NODE", place.node)
            .env("LAB_FOLDER", folder.path().display().to_string())
            .env("LAB_NETNS", network.node(place).display().to_string())
            .env("LAB_GROUP", &group)
            .env("LAB_CONTROLLERS", cgroups::CONTROLLERS.join(" "))
            .start()?;
        state.add_node(process.pid())?;
        let init = init_of(&process).await?;
        state.add_node(init)?;
        let (kubectl, tools) = (parts.kubectl(), stock.tools());
        Ok(Self { place, folder, network: network.clone(), kubectl, tools, group, process, init })
    }

    /// `kubectl` as the cluster's operator, from the LAN.
    pub(super) fn kubectl<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run {
        self.network.in_lan(&self.kubectl).env("KUBECONFIG", self.folder.kubeconfig()).args(args)
    }
    /// A program in the node itself, with its files, processes and network.
    pub(super) fn in_node(&self, program: &str) -> Run {
        let target = format!("--target={}", self.init);
        Run::new("nsenter").args([target.as_str(), "--mount", "--net", "--pid", "--uts", "--ipc", program])
    }
    /// An error when the node is not there any more.
    pub(super) fn check_alive(&self) -> anyhow::Result<()> {
        self.process.check_alive().map_err(|error| see(error.into(), &self.folder.log("node")))
    }
    /// Memory by program.
    pub(super) fn memory(&self) -> String {
        memory::of_group(&self.group)
    }
    /// SIGKILL for one of the node's programs. Returns when PID 1 has started it again.
    pub(super) async fn kill(&self, program: &str) -> anyhow::Result<()> {
        self.running(program)?.kill().await?;
        eventually(&format!("{program} was started again"), READY, async || self.running(program))
            .await
            .map_err(|error| see(error, &self.folder.log(program)))
            .map(drop)
    }
    fn running(&self, program: &str) -> anyhow::Result<Known> {
        let is_it = |pid: &u32| {
            process::executable(*pid).is_some_and(|path| path.file_name().is_some_and(|name| name == program))
        };
        let pid = cgroups::processes(&self.group).into_iter().find(is_it);
        pid.and_then(Known::of).with_context(|| format!("{} has no {program}", self.place.node))
    }
    /// A shell's program in the LAN, or in the node's own network, with the operator's programs.
    pub(super) fn shell(&self, other: &Self, in_node: bool) -> Run {
        let own = self.tools.iter().map(|folder| folder.display().to_string());
        let path = own.chain(std::env::var("PATH")).collect::<Vec<_>>().join(":");
        let configs = [self, other].map(|cluster| cluster.folder.kubeconfig().display().to_string());
        let shell =
            if in_node { self.network.in_node(self.place, "bash") } else { self.network.in_lan("bash") };
        // The first file's context is the current one.
        shell.env("PATH", path).env("KUBECONFIG", configs.join(":"))
    }

    /// Waits until containerd answers, then brings every image in.
    pub(super) async fn import(&self, tars: &[PathBuf]) -> anyhow::Result<()> {
        eventually("containerd answers", READY, async || {
            self.check_alive()?;
            self.in_node("ctr").args(["version"]).output().await
        })
        .await
        .map_err(|error| see(error, &self.folder.log("containerd")))?;
        let snapshotter = files::snapshotter(self.folder.path())?;
        for tar in tars {
            let import = ["-n", "k8s.io", "images", "import", "--snapshotter", snapshotter];
            self.in_node("ctr").args(import).args([tar]).patience(IMPORT).output().await?;
        }
        Ok(())
    }

    /// Waits until pods can be made: the node is ready, and its namespace has a service account.
    pub(super) async fn ready(&self) -> anyhow::Result<()> {
        let jsonpath = "-ojsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
        eventually(&format!("{} is ready", self.place.node), READY, async || {
            self.check_alive()?;
            let status = self.kubectl(["get", "node", self.place.node, jsonpath]).output().await?;
            ensure(status == "True", || format!("its condition Ready is {status:?}"))?;
            self.kubectl(["get", "serviceaccount", "default"]).output().await
        })
        .await
        .map_err(|error| see(error, &self.folder.log("kubelet")))
        .map(drop)
    }
}

/// The first child of `unshare` in its own right.
async fn init_of(process: &Process) -> anyhow::Result<u32> {
    eventually("the node has a PID 1", Duration::from_secs(20), async || {
        process.check_alive()?;
        process::children_named(process.pid(), "bash").first().copied().context("there is none yet")
    })
    .await
    .map_err(|error| see(error, Path::new(process.log().path())))
}
