//! What a run changes of the whole machine: kept by the first run, given back by the last.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::mount::{UnmountFlags, unmount};
use serde::{Deserialize, Serialize};

use crate::layout::write;

/// A kubelet sets them.
const CHANGED: [&str; 3] = ["vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops"];
/// `ip netns` mounts it at its first use.
const NETNS: &str = "/run/netns";

/// A node mounts folders of its own there, in a mount namespace of its own: a machine without them gets empty ones.
const MOUNT_POINTS: [&str; 5] =
    ["/var/lib/kubelet", "/var/lib/containerd", "/var/lib/cni", "/var/log/pods", "/var/log/containers"];

/// How the machine was before any run.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Before {
    settings: BTreeMap<String, String>,
    netns_was_mounted: bool,
    /// Mount points that were not there.
    #[serde(default)]
    missing: Vec<String>,
}

impl Before {
    fn path(root: &Path) -> PathBuf {
        root.join("machine.json")
    }
    fn file(name: &str) -> PathBuf {
        Path::new("/proc/sys").join(name)
    }
    /// Looks and keeps it, unless another run has done so.
    pub(super) fn keep(root: &Path) -> anyhow::Result<()> {
        let path = Self::path(root);
        if path.exists() {
            return Ok(());
        }
        let mut settings = BTreeMap::new();
        for name in CHANGED {
            let file = Self::file(name);
            let value =
                std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            settings.insert(name.to_owned(), value.trim().to_owned());
        }
        let missing = MOUNT_POINTS.into_iter().filter(|point| !Path::new(point).exists());
        let missing = missing.map(str::to_owned).collect();
        let before = Self { settings, netns_was_mounted: is_mounted(NETNS), missing };
        write(&path, serde_json::to_vec_pretty(&before)?)
    }
    /// Makes the mount points that are not there.
    pub(super) fn make_mount_points() -> anyhow::Result<()> {
        for point in MOUNT_POINTS {
            std::fs::create_dir_all(point).with_context(|| format!("cannot make {point}"))?;
        }
        Ok(())
    }
    /// Gives it back, and forgets it.
    pub(super) fn restore(root: &Path) -> anyhow::Result<()> {
        let path = Self::path(root);
        let Ok(bytes) = std::fs::read(&path) else { return Ok(()) };
        let before: Self =
            serde_json::from_slice(&bytes).with_context(|| format!("{} is not ours", path.display()))?;
        // Only those: the file names no others, whatever it says.
        for name in CHANGED {
            let Some(value) = before.settings.get(name) else { continue };
            let file = Self::file(name);
            if std::fs::read_to_string(&file).is_ok_and(|now| now.trim() == value) {
                continue;
            }
            std::fs::write(&file, value).with_context(|| format!("cannot set {}", file.display()))?;
        }
        let is_empty = std::fs::read_dir(NETNS).is_ok_and(|mut entries| entries.next().is_none());
        if !before.netns_was_mounted && is_empty {
            while is_mounted(NETNS) {
                unmount(NETNS, UnmountFlags::DETACH).with_context(|| format!("cannot unmount {NETNS}"))?;
            }
        }
        for point in MOUNT_POINTS.into_iter().filter(|point| before.missing.iter().any(|name| name == point))
        {
            // One in which somebody has put something by now stays.
            let _ = std::fs::remove_dir(point);
        }
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }
}

fn is_mounted(point: &str) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(point))
}
