//! What tells why a run failed: the logs of its clusters' programs and pods, moved out of what is taken away.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::place::{CLUSTERS, ClusterFolder};
use super::state::is_prefix;

const KEPT: &str = "failed-";

/// Moves the logs of the run `prefix` into a folder beside the run's. Those of earlier failures go, so that they do not pile up.
/// Answers the folder; none where no cluster was begun yet.
pub(super) fn keep(root: &Path, prefix: &str) -> anyhow::Result<Option<PathBuf>> {
    let (run, kept) = (root.join(prefix), root.join(format!("{KEPT}{prefix}")));
    let moves = CLUSTERS.iter().flat_map(|place| {
        let (from, to) = (ClusterFolder::of(&run, place), kept.join(place.cluster));
        [(from.path().join("log"), to.join("log")), (from.var("log/pods"), to.join("pods"))]
    });
    let moves = moves.filter(|(from, _)| from.is_dir()).collect::<Vec<_>>();
    if moves.is_empty() {
        return Ok(None);
    }
    remove_earlier(root)?;
    for (from, to) in moves {
        std::fs::create_dir_all(to.parent().unwrap_or(&kept))
            .and_then(|()| std::fs::rename(&from, &to))
            .with_context(|| format!("cannot move {} to {}", from.display(), to.display()))?;
    }
    Ok(Some(kept))
}

fn remove_earlier(root: &Path) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(root).with_context(|| format!("cannot read {}", root.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", root.display()))?;
        let name = entry.file_name();
        // Nothing else is ours to remove.
        if name.to_str().and_then(|name| name.strip_prefix(KEPT)).is_some_and(is_prefix) {
            let path = entry.path();
            std::fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(path: PathBuf) {
        std::fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("a folder");
        std::fs::write(path, "why\n").expect("a write");
    }

    #[test]
    fn the_logs_of_the_newest_failure_replace_those_of_older_ones() {
        let root = tempfile::tempdir().expect("a folder");
        let root = root.path();
        for prefix in ["entente-1f", "entente-2f", "entente-2f"] {
            put(root.join(prefix).join("cluster1/log/kubelet.log"));
            put(root.join(prefix).join("cluster2/var/log/pods/spire_server_1/spire-server/0.log"));
            put(root.join("failed-thesis/chapter"));
            let kept = keep(root, prefix).expect("it is moved").expect("there are logs");
            assert_eq!(kept, root.join(format!("failed-{prefix}")));
            assert!(kept.join("cluster1/log/kubelet.log").is_file());
            assert!(kept.join("cluster2/pods/spire_server_1/spire-server/0.log").is_file());
            let failed = std::fs::read_dir(root).expect("a folder").filter_map(Result::ok);
            let failed = failed.filter(|entry| entry.file_name().to_string_lossy().starts_with(KEPT));
            assert_eq!(failed.count(), 2, "{prefix}");
            assert!(root.join("failed-thesis/chapter").is_file());
        }
    }

    #[test]
    fn a_run_without_clusters_keeps_nothing_and_replaces_nothing() {
        let root = tempfile::tempdir().expect("a folder");
        put(root.path().join("failed-entente-1f/cluster1/log/kubelet.log"));
        put(root.path().join("entente-2f/images/pause.tar"));
        assert_eq!(keep(root.path(), "entente-2f").expect("nothing to move"), None);
        assert!(root.path().join("failed-entente-1f/cluster1/log/kubelet.log").is_file());
    }
}
