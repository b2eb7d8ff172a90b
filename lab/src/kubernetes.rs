//! `lab kubernetes`: two real clusters on this machine, and the walkthrough walked on them.
//!
//! Each cluster is one node: a process tree with network, mounts, processes and control groups of its own, in which etcd,
//! the API server, the kubelet, containerd and the rest run as they do anywhere. Both nodes hang on a bridge that is nobody's
//! but the lab's, with the walkthrough's addresses.

mod addons;
mod cgroups;
mod command;
mod control_plane;
mod diagnosis;
mod files;
mod images;
mod kept_logs;
mod machine;
mod memory;
mod mesh;
mod network;
mod node;
mod ours;
mod packages;
mod parts;
mod pki;
mod place;
mod state;
mod transcript;
mod walk;

use std::path::{Path, PathBuf};

use anyhow::Context;

pub use self::control_plane::ControlPlane;
use self::mesh::Mesh;
use self::network::Network;
use self::node::Cluster;
use self::parts::Parts;
use self::place::CLUSTERS;
use self::state::State;
use self::walk::Walk;
use crate::checks::{ensure, reason_of, seconds};
use crate::stop_signals::StopSignals;
use crate::timeline::{Timeline, print};
use crate::{products, warden};

/// The stand-ins for SPIFFE's CSI driver, its registrar and pause: package and program.
const CSI: &str = "entente-lab-csi";

/// What a person may choose.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Who keeps the relationship: the plugin alone, or a ClusterFederatedTrustDomain that it helps.
    #[arg(long, value_enum, default_value = "managed")]
    pub form: Form,
    /// Leave both clusters running, federated and with their workloads, until Ctrl-C.
    #[arg(long)]
    pub up: bool,
    /// With --up: nothing but the clusters themselves, with DNS and every image but ours.
    #[arg(long, requires = "up")]
    pub bare: bool,
    /// Also deploy/istio: a mesh in each cluster, with Istio's own programs and a stock Envoy. It comes in place of what happens
    /// after the walkthrough's end: lost pods, a lost kubelet, the end of the federation.
    #[arg(long)]
    pub istio: bool,
    /// Only build the parts that are not in the cache yet.
    #[arg(long, conflicts_with = "up")]
    pub parts: bool,
    /// Write the walk as a page.
    #[arg(long, value_name = "FILE")]
    pub transcript: Option<PathBuf>,
    /// Folder with static builds of our programs. Without it they are built.
    #[arg(long, value_name = "DIR")]
    pub programs: Option<PathBuf>,
    /// Manifests to walk with. Without it those of the checkout.
    #[arg(long, value_name = "DIR")]
    pub deploy: Option<PathBuf>,
    /// Folder of all runs on this machine.
    #[arg(long, value_name = "DIR", default_value = state::DEFAULT_FOLDER)]
    pub dir: PathBuf,
}

impl Options {
    /// True when our programs are built, static.
    fn builds_ours(&self) -> bool {
        !self.bare && self.programs.is_none()
    }
}

/// Two ways to federate on Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Form {
    /// The plugin's settings name the other trust domain.
    Managed,
    /// The walkthrough's ClusterFederatedTrustDomain does, without a bundle in it.
    Assisted,
}

impl Form {
    /// What is applied in place of the walkthrough's `spire-all.yaml`.
    fn manifest(self) -> &'static str {
        match self {
            Self::Managed => "spire-all.yaml",
            Self::Assisted => "spire-all-assisted.yaml",
        }
    }
}

/// Everything that is other people's.
#[derive(Debug)]
struct Stock {
    parts: Parts,
    mesh: Option<Mesh>,
}

impl Stock {
    async fn find_or_build(with_mesh: bool) -> anyhow::Result<Self> {
        let parts = Parts::find_or_build().await?;
        let mesh = if with_mesh { Some(Mesh::find_or_build().await?) } else { None };
        Ok(Self { parts, mesh })
    }
    /// Folders of the programs that an operator types.
    fn tools(&self) -> Vec<PathBuf> {
        let of_mesh = self.mesh.iter().flat_map(Mesh::tools).map(Path::to_owned);
        [self.parts.kubernetes.clone()].into_iter().chain(of_mesh).collect()
    }
}

/// Both clusters.
#[derive(Debug)]
struct Clusters {
    one: Cluster,
    two: Cluster,
    network: Network,
}

/// True when everything held.
pub async fn run(options: &Options) -> anyhow::Result<bool> {
    let mut signals = StopSignals::listen()?;
    let mut timeline = Timeline::new();
    if options.istio {
        Mesh::check()?;
    }
    if !options.parts {
        // Nobody cuts apt short: a signal waits for it.
        check_machine(options).await?;
    }
    let stock = tokio::select! {
        stock = Stock::find_or_build(options.istio) => stock?,
        interrupted = signals.received() => return Err(interrupted),
    };
    for (name, took) in &stock.parts.built {
        timeline.say(&format!("built {name} in {}", seconds(*took)));
    }
    if options.parts {
        return Ok(true);
    }
    let (mut state, removed) = State::begin(&options.dir).await?;
    for prefix in removed {
        timeline.say(&format!("took away {prefix}, which a dead lab had left"));
    }
    let told = tokio::select! {
        told = go(options, &stock, &mut state, &mut timeline) => told,
        interrupted = signals.received() => Err(interrupted),
    };
    // The log that it points at goes with everything else.
    if let Err(error) = &told {
        timeline.failed(error);
    }
    // Also after a failed walk: then there is something to look at.
    let stayed = match (&told, options.up) {
        (Ok((clusters, _)), true) => stay_up(clusters, &state.folder(), &stock, &mut signals).await,
        _ => Ok(()),
    };
    // What runs ends here, in whatever state it was.
    let held = told.and_then(|(_, walked)| walked).and(stayed);
    finish(held, state, &timeline).await
}

/// Until a signal comes.
async fn stay_up(
    clusters: &Clusters,
    folder: &Path,
    stock: &Stock,
    signals: &mut StopSignals,
) -> anyhow::Result<()> {
    print(&guide(clusters, folder, stock)?);
    signals.received().await;
    print("\nstopping");
    Ok(())
}

/// Takes everything away, but of a failure the logs, and says where those are. True when everything held.
async fn finish(held: anyhow::Result<()>, state: State, timeline: &Timeline) -> anyhow::Result<bool> {
    let kept = if held.is_ok() { Ok(None) } else { state.keep_logs() };
    let ended = state.end().await;
    if let Err(error) = &held {
        timeline.summary(false, &reason_of(error));
    }
    match kept {
        Ok(None) => {}
        Ok(Some(folder)) => timeline.say(&format!(
            "the logs of both clusters' programs and of their pods are in {}",
            folder.display()
        )),
        Err(error) => timeline.say(&format!("no logs are kept: {}", reason_of(&error))),
    }
    ended.context("not everything could be taken away")?;
    Ok(held.is_ok())
}

/// What is missing is said, or installed, before anything is built or made.
async fn check_machine(options: &Options) -> anyhow::Result<()> {
    ensure(rustix::process::geteuid().is_root(), || {
        "the lab's clusters need root, for namespaces, control groups and mounts: run it as root".to_owned()
    })?;
    cgroups::check()?;
    packages::find_or_install(options.builds_ours()).await?;
    if options.bare { Ok(()) } else { ours::check(options.programs.as_deref()).await }
}

async fn go(
    options: &Options,
    stock: &Stock,
    state: &mut State,
    timeline: &mut Timeline,
) -> anyhow::Result<(Clusters, anyhow::Result<()>)> {
    let folder = state.folder();
    timeline.say(&format!(
        "two clusters of Kubernetes {}; everything lies in {}",
        Parts::kubernetes_version(),
        folder.display()
    ));
    let own = std::env::current_exe().context("cannot tell where this program lies")?;
    warden::post(&own)?;
    let csi = products::build(&[CSI]).await?.join(CSI);
    let mut tars = images::pack_foreign(&stock.parts, &csi, &folder.join("images"))?;
    let deploy = folder.join("deploy");
    if !options.bare {
        let workspace = ours::workspace()?;
        let (programs, images) = (options.programs.as_deref(), folder.join("images"));
        let (ours, sha256) = ours::pack_ours(&workspace, programs, &images).await?;
        tars.extend(ours);
        let from = options.deploy.clone().unwrap_or_else(|| workspace.join("deploy"));
        ours::copy_deploy(&from, &deploy, &stock.parts.kubectl(), &sha256).await?;
    }
    if let Some(mesh) = &stock.mesh {
        tars.extend(mesh.pack(&folder.join("images"))?);
        mesh.lay_out(&deploy)?;
    }
    timeline.story_begins();
    timeline.step(1, walk::FIRST_STEP);
    let clusters = start(stock, state, &tars, timeline).await?;
    let walked = match options.bare {
        true => Ok(()),
        false => walk(options, &clusters, &deploy, timeline).await,
    };
    match &walked {
        Ok(()) => timeline.done(),
        Err(error) => timeline.failed(error),
    }
    for cluster in [&clusters.one, &clusters.two] {
        timeline.say(&format!("memory of {}: {}", cluster.place.cluster, cluster.memory()));
    }
    if walked.is_ok() {
        timeline.summary(true, &format!("every step held: {}", timeline.times()));
    }
    Ok((clusters, walked))
}

/// The transcript is written however far the walk came.
async fn walk(
    options: &Options,
    clusters: &Clusters,
    deploy: &Path,
    timeline: &mut Timeline,
) -> anyhow::Result<()> {
    let mut walk = Walk::new(timeline, clusters, deploy.to_owned(), options.form);
    let mut walked = walk.go().await;
    if walked.is_ok() {
        walked = match (options.istio, options.up) {
            (true, _) => walk.with_meshes().await,
            (false, true) => Ok(()),
            (false, false) => walk.go_on().await,
        };
    }
    let times = walk.timeline.times();
    walk.save(options.transcript.as_deref(), &times)?;
    walked
}

async fn start(
    stock: &Stock,
    state: &mut State,
    tars: &[PathBuf],
    timeline: &Timeline,
) -> anyhow::Result<Clusters> {
    let start = std::time::Instant::now();
    let network = Network::of(state.prefix());
    network.make().await?;
    let [one, two] = &CLUSTERS;
    let one = Cluster::start(one, state, &network, stock).await?;
    let two = Cluster::start(two, state, &network, stock).await?;
    let up = async |cluster: &Cluster| {
        let imported = async {
            cluster.import(tars).await?;
            timeline.held_after(&format!("{}: all images are there", cluster.place.cluster), start.elapsed());
            anyhow::Ok(())
        };
        let ready = async {
            cluster.ready().await?;
            timeline.held_after(&format!("{} is ready", cluster.place.node), start.elapsed());
            addons::install(cluster).await
        };
        tokio::try_join!(imported, ready)?;
        addons::ready(cluster).await?;
        timeline.held_after(&format!("{}: DNS answers", cluster.place.cluster), start.elapsed());
        anyhow::Ok(())
    };
    tokio::try_join!(up(&one), up(&two))?;
    Ok(Clusters { one, two, network })
}

/// How to use both clusters by hand.
fn guide(clusters: &Clusters, folder: &Path, stock: &Stock) -> anyhow::Result<String> {
    let shell = folder.join("shell");
    let script = format!(
        r#"#!/bin/bash
# A shell, or the command given, in the LAN of both clusters: KUBECONFIG has the contexts cluster1 and cluster2.
export KUBECONFIG={one}:{two}
export PATH={tools}:$PATH
exec nsenter --net={lan} "${{@:-bash}}"
"#,
        one = clusters.one.folder.kubeconfig().display(),
        two = clusters.two.folder.kubeconfig().display(),
        tools = stock.tools().iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(":"),
        lan = clusters.network.lan().display(),
    );
    crate::layout::write(&shell, script)?;
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&shell, std::fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make {} executable", shell.display()))?;
    let shell = shell.display();
    let tools = if stock.mesh.is_some() { "kubectl, helm and istioctl" } else { "kubectl" };
    Ok(format!(
        "\nBoth clusters are up. As root, in another terminal:\n\
         \n  {shell}                                              a shell in their LAN, with {tools}\
         \n  {shell} kubectl --context cluster1 get po,svc -A\
         \n  {shell} kubectl --context cluster2 get po,svc -A\
         \n  {shell} curl 10.10.0.141:8443\
         \n\nCtrl-C ends both and takes everything away."
    ))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn our_programs_are_built_unless_they_are_there_or_not_wanted() {
        for (line, builds) in [
            ("lab", true),
            ("lab --istio --up", true),
            ("lab --up --bare", false),
            ("lab --programs x", false),
        ] {
            let options = Line::try_parse_from(line.split(' ')).expect("options").options;
            assert_eq!(options.builds_ours(), builds, "{line}");
        }
    }

    #[tokio::test]
    async fn of_a_failed_run_the_logs_stay_and_nothing_else() {
        for fails in [true, false] {
            let root = tempfile::tempdir().expect("a folder");
            let state = State::idle(root.path());
            let (run, prefix) = (state.folder(), state.prefix().to_owned());
            std::fs::create_dir_all(run.join("cluster1/log")).expect("a folder");
            std::fs::write(run.join("cluster1/log/kubelet.log"), "why\n").expect("a write");
            let held = if fails { Err(anyhow::anyhow!("cluster1-node is not ready")) } else { Ok(()) };
            assert_eq!(finish(held, state, &Timeline::new()).await.expect("all is taken away"), !fails);
            let kept = root.path().join(format!("failed-{prefix}/cluster1/log/kubelet.log"));
            assert_eq!((kept.is_file(), run.exists()), (fails, false));
        }
    }
}
