//! The programs of a cluster, one pinned Go module each, built once into the cache.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use entente_lab_parts::{GoModule, GoProgram};

use crate::spire::install;

/// `include_str!` of both files of a part.
macro_rules! module {
    ($part:literal) => {
        (
            include_str!(concat!("../../kubernetes/parts/", $part, "/go.mod")),
            include_str!(concat!("../../kubernetes/parts/", $part, "/go.sum")),
        )
    };
}

const KUBERNETES_FILES: (&str, &str) = module!("kubernetes");
const ETCD_FILES: (&str, &str) = module!("etcd");
const COREDNS_FILES: (&str, &str) = module!("coredns");
const METALLB_FILES: (&str, &str) = module!("metallb");
const MANAGER_FILES: (&str, &str) = module!("spire-controller-manager");

const ETCD: GoModule = GoModule {
    name: "etcd",
    version: "3.7.3",
    place: "kubernetes/etcd-",
    go_mod: ETCD_FILES.0,
    go_sum: ETCD_FILES.1,
    programs: &[GoProgram { file: "etcd", package: "go.etcd.io/etcd/server/v3" }],
    takes: "half a minute",
    ..GoModule::PLAIN
};

const KUBERNETES: GoModule = GoModule {
    name: "Kubernetes",
    version: "1.36.3",
    place: "kubernetes/kubernetes-",
    go_mod: KUBERNETES_FILES.0,
    go_sum: KUBERNETES_FILES.1,
    programs: &[
        GoProgram { file: "kubectl", package: "k8s.io/kubernetes/cmd/kubectl" },
        GoProgram { file: "kube-apiserver", package: "k8s.io/kubernetes/cmd/kube-apiserver" },
        GoProgram {
            file: "kube-controller-manager",
            package: "k8s.io/kubernetes/cmd/kube-controller-manager",
        },
        GoProgram { file: "kube-scheduler", package: "k8s.io/kubernetes/cmd/kube-scheduler" },
        GoProgram { file: "kube-proxy", package: "k8s.io/kubernetes/cmd/kube-proxy" },
        GoProgram { file: "kubelet", package: "k8s.io/kubernetes/cmd/kubelet" },
    ],
    // Without them the programs call themselves v0.0.0 and refuse each other.
    linker_flags: "-X k8s.io/component-base/version.gitVersion=v1.36.3 \
                   -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36 \
                   -X k8s.io/component-base/version.gitTreeState=clean",
    takes: "about 5 minutes",
    ..GoModule::PLAIN
};

const COREDNS: GoModule = GoModule {
    name: "CoreDNS",
    version: "1.15.0",
    place: "kubernetes/coredns-",
    go_mod: COREDNS_FILES.0,
    go_sum: COREDNS_FILES.1,
    programs: &[GoProgram { file: "coredns", package: "github.com/coredns/coredns" }],
    takes: "1 to 4 minutes",
    ..GoModule::PLAIN
};

const METALLB: GoModule = GoModule {
    name: "MetalLB",
    version: "0.16.1",
    place: "kubernetes/metallb-",
    go_mod: METALLB_FILES.0,
    go_sum: METALLB_FILES.1,
    programs: &[
        GoProgram { file: "controller", package: "go.universe.tf/metallb/controller" },
        GoProgram { file: "speaker", package: "go.universe.tf/metallb/speaker" },
    ],
    takes: "1 to 2 minutes",
    ..GoModule::PLAIN
};

const MANAGER: GoModule = GoModule {
    name: "spire-controller-manager",
    version: "0.7.0",
    place: "kubernetes/spire-controller-manager-",
    go_mod: MANAGER_FILES.0,
    go_sum: MANAGER_FILES.1,
    programs: &[GoProgram {
        file: "spire-controller-manager",
        package: "github.com/spiffe/spire-controller-manager/cmd",
    }],
    takes: "half a minute",
    ..GoModule::PLAIN
};

/// Where everything lies.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    /// `etcd`
    pub(super) etcd: PathBuf,
    /// Folder of `kube-apiserver`, `kubelet`, `kubectl` and so on.
    pub(super) kubernetes: PathBuf,
    /// `coredns`
    pub(super) coredns: PathBuf,
    /// MetalLB's `controller`.
    pub(super) metallb_controller: PathBuf,
    /// MetalLB's `speaker`.
    pub(super) metallb_speaker: PathBuf,
    /// `spire-controller-manager`
    pub(super) spire_controller_manager: PathBuf,
    /// SPIRE.
    pub(super) spire: install::Programs,
    /// What had to be built, and how long each took.
    pub(super) built: Vec<(&'static str, Duration)>,
}

impl Parts {
    /// Finds or builds every part.
    pub(super) async fn find_or_build() -> anyhow::Result<Self> {
        let mut built = Vec::new();
        // The largest first: the others share much of its code.
        let kubernetes = one(&KUBERNETES, &mut built).await?;
        let etcd = one(&ETCD, &mut built).await?;
        let coredns = one(&COREDNS, &mut built).await?;
        let metallb = one(&METALLB, &mut built).await?;
        let manager = one(&MANAGER, &mut built).await?;
        let start = std::time::Instant::now();
        let there = install::cache_folder()?.is_dir();
        let spire = install::find_or_build_pinned().await?;
        built.extend((!there).then(|| ("SPIRE", start.elapsed())));
        Ok(Self {
            etcd: etcd.join("etcd"),
            kubernetes,
            coredns: coredns.join("coredns"),
            metallb_controller: metallb.join("controller"),
            metallb_speaker: metallb.join("speaker"),
            spire_controller_manager: manager.join("spire-controller-manager"),
            spire,
            built,
        })
    }
    /// `kubectl`
    pub(super) fn kubectl(&self) -> PathBuf {
        self.kubernetes.join("kubectl")
    }
    /// The version of Kubernetes.
    pub(super) fn kubernetes_version() -> &'static str {
        KUBERNETES.version
    }
}

/// etcd, and the folder of Kubernetes' programs: enough for an API server without nodes.
pub(super) async fn control_plane() -> anyhow::Result<(PathBuf, PathBuf)> {
    let mut built = Vec::new();
    let kubernetes = one(&KUBERNETES, &mut built).await?;
    Ok((one(&ETCD, &mut built).await?.join("etcd"), kubernetes))
}

async fn one(module: &GoModule, built: &mut Vec<(&'static str, Duration)>) -> anyhow::Result<PathBuf> {
    let done = module.find_or_build("").await.with_context(|| format!("no {}", module.name))?;
    built.extend(done.took.map(|took| (module.name, took)));
    Ok(done.folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_pins_the_version_that_it_is_called_by() {
        for (module, line) in [
            (&ETCD, "go.etcd.io/etcd/server/v3 v"),
            (&KUBERNETES, "k8s.io/kubernetes v"),
            (&COREDNS, "github.com/coredns/coredns v"),
            (&METALLB, "go.universe.tf/metallb v"),
            (&MANAGER, "github.com/spiffe/spire-controller-manager v"),
        ] {
            assert!(module.go_mod.contains(&format!("{line}{}", module.version)), "{}", module.name);
        }
    }

    #[test]
    fn kubernetes_says_its_own_version() {
        assert!(KUBERNETES.linker_flags.contains(&format!("gitVersion=v{}", KUBERNETES.version)));
    }
}
