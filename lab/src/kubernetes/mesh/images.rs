//! The images of a mesh, under the names that Istio's charts and the sample carry.

use std::path::{Path, PathBuf};

use anyhow::Context;
use entente_images::{ImageSpec, shared_libraries};

use super::{Mesh, TAG};
use crate::kubernetes::images::{base, pack as pack_one, single};
use crate::kubernetes::packages;

/// Where Istio's charts have their images from, unless they are told otherwise.
const HUB: &str = "registry.istio.io/testing";
/// The sample's, which Kubernetes has for its own tests.
const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.63.0";

/// Writes one tar for each.
pub(super) fn pack(mesh: &Mesh, folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let specs = [istiod(mesh)?, proxy(mesh)?, sample(mesh)?];
    specs.into_iter().map(|spec| pack_one(spec, folder)).collect()
}

fn istiod(mesh: &Mesh) -> anyhow::Result<ImageSpec> {
    let name = format!("{HUB}/pilot:{TAG}");
    let mut spec = single(&name, &mesh.pilot_discovery, "/usr/local/bin/pilot-discovery")?;
    spec.user = "1337:1337".to_owned();
    Ok(spec)
}

/// Agent, Envoy, and what the agent needs as istio-init: it runs iptables.
fn proxy(mesh: &Mesh) -> anyhow::Result<ImageSpec> {
    let name = format!("{HUB}/proxyv2:{TAG}");
    let mut spec = single(&name, &mesh.pilot_agent, "/usr/local/bin/pilot-agent")?;
    spec.rootfs.program_with_libraries(&mesh.envoy, "/usr/local/bin/envoy")?;
    let bootstrap = mesh.charts.sources().join("tools/packaging/common/envoy_bootstrap.json");
    spec.rootfs.file(&bootstrap, "/var/lib/istio/envoy/envoy_bootstrap_tmpl.json")?;
    iptables(&mut spec)?;
    Ok(spec)
}

/// This machine's, which its kernel understands. One program, which looks at the name by which it was called.
fn iptables(spec: &mut ImageSpec) -> anyhow::Result<()> {
    let program = packages::program("iptables-nft")?;
    spec.rootfs.program_with_libraries(&program, "/usr/sbin/xtables-nft-multi")?;
    for family in ["iptables", "ip6tables"] {
        for name in ["", "-save", "-restore", "-nft", "-nft-save", "-nft-restore"] {
            spec.rootfs.link(&format!("/usr/sbin/{family}{name}"), "xtables-nft-multi")?;
        }
    }
    let libraries = shared_libraries(&program)?;
    let library = libraries.iter().find(|path| path.to_string_lossy().contains("/libxtables.so"));
    let library = library.context("this machine's iptables has no libxtables")?;
    let library = library.canonicalize().with_context(|| format!("cannot find {}", library.display()))?;
    // It loads its matches and targets from beside its library.
    let folder = library.with_file_name("xtables");
    for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        spec.rootfs.file(&path, &path.to_string_lossy())?;
    }
    Ok(())
}

/// The programs that the sample's manifests call, and nothing else of the original's.
fn sample(mesh: &Mesh) -> anyhow::Result<ImageSpec> {
    let mut rootfs = base()?;
    rootfs.program_with_libraries(&mesh.agnhost, "/agnhost")?;
    for (name, path) in [("sh", "/bin/sh"), ("sleep", "/bin/sleep"), ("curl", "/usr/bin/curl")] {
        rootfs.program_with_libraries(&packages::program(name)?, path)?;
    }
    let mut spec = ImageSpec::new(AGNHOST, rootfs);
    spec.entrypoint = vec!["/agnhost".to_owned()];
    Ok(spec)
}
