//! A node's control groups: one in each hierarchy of version 1, so that a node sees itself as a whole machine.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};

const ROOT: &str = "/sys/fs/cgroup";
/// Hierarchies that a node joins.
pub(super) const CONTROLLERS: [&str; 9] =
    ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd"];

/// Groups vanish a moment after their last process.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why no node can run here.
pub(super) fn check() -> anyhow::Result<()> {
    let missing = CONTROLLERS.iter().filter(|name| !Path::new(ROOT).join(name).is_dir());
    let missing = missing.copied().collect::<Vec<_>>();
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "the lab's nodes need control groups of version 1 with one mount for each controller, and {} of them are not \
         in {ROOT} ({}): start the kernel with systemd.unified_cgroup_hierarchy=0, or use deploy/kind",
        missing.len(),
        missing.join(", ")
    )
}

/// Makes the groups of this name.
pub(super) fn make(group: &str) -> anyhow::Result<()> {
    for path in paths(group) {
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    // Without them no process may enter.
    let cpuset = Path::new(ROOT).join("cpuset");
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (from, to) = (cpuset.join(file), cpuset.join(group).join(file));
        let value = std::fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
        std::fs::write(&to, value).with_context(|| format!("cannot write {}", to.display()))?;
    }
    Ok(())
}

/// Takes the groups away with everything in them. What is not there is as good.
pub(super) async fn remove(group: &str) -> anyhow::Result<()> {
    for path in paths(group) {
        let start = std::time::Instant::now();
        while let Err(error) = remove_tree(&path) {
            if start.elapsed() > PATIENCE {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

/// Every process in a node.
pub(super) fn processes(group: &str) -> Vec<u32> {
    let mut found = Vec::new();
    collect(&Path::new(ROOT).join("memory").join(group), &mut found);
    found
}

/// A group that goes away meanwhile has no processes.
fn collect(path: &Path, found: &mut Vec<u32>) {
    let text = std::fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), found);
        }
    }
}

fn paths(group: &str) -> impl Iterator<Item = PathBuf> {
    CONTROLLERS.into_iter().map(move |controller| Path::new(ROOT).join(controller).join(group))
}

/// Only folders are removed: the files in them go along.
fn remove_tree(path: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    std::fs::remove_dir(path)
}
