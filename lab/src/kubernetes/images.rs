//! The images of the clusters, packed under the very names that the manifests carry, so that nothing is pulled from anywhere.

use std::path::{Path, PathBuf};

use anyhow::Context;
use entente_images::{ImageSpec, Rootfs};

use super::parts::Parts;

/// What holds a pod's namespaces.
pub(super) const PAUSE: &str = "registry.k8s.io/pause:3.10.1";

const CSI_PROGRAM: &str = "/entente-lab-csi";
const SPIRE_USER: u32 = 1000;

/// Packs everything that is not ours into tars in `folder`; the one that every pod needs comes first.
pub(super) fn pack_foreign(parts: &Parts, csi: &Path, folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let specs = vec![
        stand_in(PAUSE, csi, "pause")?,
        single("registry.k8s.io/coredns/coredns:v1.15.0", &parts.coredns, "/coredns")?,
        single("quay.io/metallb/controller:v0.16.1", &parts.metallb_controller, "/controller")?,
        single("quay.io/metallb/speaker:v0.16.1", &parts.metallb_speaker, "/speaker")?,
        spire_server(&parts.spire.server)?,
        spire_agent(&parts.spire.agent)?,
        single(
            "ghcr.io/spiffe/spire-controller-manager:0.7.0",
            &parts.spire_controller_manager,
            "/spire-controller-manager",
        )?,
        stand_in("ghcr.io/spiffe/spiffe-csi-driver:0.2.12", csi, "driver")?,
        stand_in("registry.k8s.io/sig-storage/csi-node-driver-registrar:v2.15.0", csi, "registrar")?,
    ];
    specs.into_iter().map(|spec| pack(spec, folder)).collect()
}

/// Writes one tar, named after the image.
pub(super) fn pack(spec: ImageSpec, folder: &Path) -> anyhow::Result<PathBuf> {
    let name = spec.name.clone();
    let tar = folder.join(format!("{}.tar", name.replace(['/', ':'], "_")));
    let packed = spec.assemble().and_then(|image| image.write_docker_archive(&tar));
    packed.with_context(|| format!("cannot make the image {name}"))?;
    Ok(tar)
}

/// Users by name, for programs that ask, and a place for temporary files.
pub(super) fn base() -> anyhow::Result<Rootfs> {
    let mut rootfs = Rootfs::new();
    rootfs.directory("/tmp", 0o1777, 0)?;
    let users = "root:x:0:0::/:/sbin/nologin\nspire:x:1000:1000::/:/sbin/nologin\nnobody:x:65534:65534::/:/sbin/nologin\n";
    rootfs.bytes(users, "/etc/passwd", 0o644)?;
    rootfs.bytes("root:x:0:\nspire:x:1000:\nnogroup:x:65534:\n", "/etc/group", 0o644)?;
    Ok(rootfs)
}

/// One program and nothing else.
pub(super) fn single(name: &str, program: &Path, path: &str) -> anyhow::Result<ImageSpec> {
    let mut rootfs = base()?;
    rootfs.program_with_libraries(program, path)?;
    let mut spec = ImageSpec::new(name, rootfs);
    spec.entrypoint = vec![path.to_owned()];
    Ok(spec)
}

fn stand_in(name: &str, program: &Path, role: &str) -> anyhow::Result<ImageSpec> {
    let mut spec = single(name, program, CSI_PROGRAM)?;
    spec.entrypoint.push(role.to_owned());
    Ok(spec)
}

fn spire_server(program: &Path) -> anyhow::Result<ImageSpec> {
    let mut rootfs = base()?;
    rootfs.program_with_libraries(program, "/opt/spire/bin/spire-server")?;
    for folder in ["/run/spire/server/private", "/tmp/spire-server/private", "/run/spire/data"] {
        rootfs.directory(folder, 0o755, SPIRE_USER)?;
    }
    let mut spec = ImageSpec::new("ghcr.io/spiffe/spire-server:1.15.3", rootfs);
    spec.user = format!("{SPIRE_USER}:{SPIRE_USER}");
    spec.entrypoint = vec!["/opt/spire/bin/spire-server".to_owned(), "run".to_owned()];
    Ok(spec)
}

fn spire_agent(program: &Path) -> anyhow::Result<ImageSpec> {
    let mut spec = single("ghcr.io/spiffe/spire-agent:1.15.3", program, "/opt/spire/bin/spire-agent")?;
    spec.entrypoint.push("run".to_owned());
    Ok(spec)
}
