//! What nodes, and the build of our programs, need of the machine itself. Root on a Debian-like system gets it installed; others are told what to do.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use entente_lab_parts::tell;

use super::command::Run;

/// A file that shows that a package is there, and the package.
type Package = (&'static str, &'static str);

const OF_NODES: [Package; 8] = [
    ("/usr/bin/containerd", "containerd"),
    ("runc", "runc"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("iptables", "iptables"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("ip", "iproute2"),
    ("curl", "curl"),
];
/// Compiles the C code in our static programs.
const OF_BUILDS: Package = ("musl-gcc", "musl-tools");

/// Answers the packages that had to be installed. With `builds` also what our programs are built with.
pub(super) async fn find_or_install(builds: bool) -> anyhow::Result<Vec<&'static str>> {
    let missing = missing(builds);
    if missing.is_empty() {
        return Ok(missing);
    }
    let command =
        format!("apt-get update && apt-get install -y --no-install-recommends {}", missing.join(" "));
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("missing: {}; on Debian these are packages: {command}", missing.join(", "));
    }
    tell(&format!("installing packages of Debian's: {}", missing.join(", ")));
    Run::new("apt-get").args(["update", "-qq"]).output().await?;
    let install =
        Run::new("apt-get").args(["install", "-y", "-qq", "--no-install-recommends"]).args(&missing);
    install
        .env("DEBIAN_FRONTEND", "noninteractive")
        .patience(std::time::Duration::from_secs(600))
        .output()
        .await?;
    let still = self::missing(builds);
    if !still.is_empty() {
        bail!("{command}: done, but {} is still not here", still.join(", "));
    }
    Ok(missing)
}

fn missing(builds: bool) -> Vec<&'static str> {
    needed(builds).filter(|(file, _)| !is_here(file)).map(|(_, package)| package).collect()
}

fn needed(builds: bool) -> impl Iterator<Item = Package> {
    OF_NODES.into_iter().chain(builds.then_some(OF_BUILDS))
}

/// A path, or the name of a program.
fn is_here(file: &str) -> bool {
    if file.starts_with('/') { Path::new(file).exists() } else { program(file).is_ok() }
}

/// Where a program of this machine lies, by its name.
pub(super) fn program(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let mut files = folders.map(|folder| folder.join(name));
    files.find(|file| file.is_file()).with_context(|| format!("this machine has no {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiler_is_asked_for_only_where_our_programs_are_built() {
        let names = |builds| needed(builds).map(|(_, package)| package).collect::<Vec<_>>();
        let (with, without) = (names(true), names(false));
        assert!(without.contains(&"containerd") && !without.contains(&"musl-tools"), "{without:?}");
        assert_eq!(with.strip_prefix(without.as_slice()), Some(["musl-tools"].as_slice()));
    }
}
