//! What a run leaves on the machine stands in its folder, so that the next one can take it away, however this one ended.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::cgroups;
use super::kept_logs;
use super::machine::Before;
use super::network::Network;
use crate::process;

/// All runs of this machine lie here, unless somebody chooses another folder.
pub(super) const DEFAULT_FOLDER: &str = "/var/lib/entente-lab";
const RECORD: &str = "run.json";
const PREFIX: &str = "entente-";

/// A process that can be told from a later one with the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Known {
    pub(super) pid: u32,
    started: u64,
}

impl Known {
    /// Of a process that runs now.
    pub(super) fn of(pid: u32) -> Option<Self> {
        Some(Self { pid, started: process::start_time(pid)? })
    }
    /// True while that very process runs.
    pub(super) fn runs(&self) -> bool {
        process::is_running(self.pid) && process::start_time(self.pid) == Some(self.started)
    }
    /// SIGKILL, and waits until it is gone.
    pub(super) async fn kill(&self) -> anyhow::Result<()> {
        for _ in 0..200 {
            if !self.runs() {
                return Ok(());
            }
            // It may end in this very moment.
            let _ = process::signal_pid(self.pid, Signal::KILL);
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
        bail!("process {} does not end", self.pid)
    }
}

/// `run.json`
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Record {
    /// Part of the name of everything that the run makes.
    prefix: String,
    /// The lab itself.
    lab: Known,
    /// PID 1 of each node, and the process above it.
    nodes: Vec<Known>,
    /// Names of the nodes' control groups.
    groups: Vec<String>,
}

/// A run of this lab: everything that it makes is written down before it is made.
#[derive(Debug)]
pub(super) struct State {
    root: PathBuf,
    record: Record,
}

impl State {
    /// Removes what dead runs left, then begins one of its own. Answers what was removed, for people.
    pub(super) async fn begin(root: &Path) -> anyhow::Result<(Self, Vec<String>)> {
        std::fs::create_dir_all(root).with_context(|| format!("cannot make {}", root.display()))?;
        let _lock = lock(root)?;
        let mut removed = Vec::new();
        for record in records(root)? {
            if !record.lab.runs() {
                remove(root, &record).await?;
                removed.push(record.prefix);
            }
        }
        let own = std::process::id();
        let lab = Known::of(own).context("the lab does not see itself in /proc")?;
        // Two runs at once differ by it. Names of network namespaces and groups are free of it otherwise.
        let prefix = format!("{PREFIX}{own:x}");
        let record = Record { prefix, lab, nodes: Vec::new(), groups: Vec::new() };
        Before::keep(root)?;
        Before::make_mount_points()?;
        let state = Self { root: root.to_owned(), record };
        std::fs::create_dir(state.folder()).with_context(|| {
            let folder = state.folder();
            format!("cannot make {}: where it is left of a lab that was killed, remove it", folder.display())
        })?;
        state.save()?;
        Ok((state, removed))
    }
    /// Part of the name of everything that the run makes.
    pub(super) fn prefix(&self) -> &str {
        &self.record.prefix
    }
    /// Everything of this run.
    pub(super) fn folder(&self) -> PathBuf {
        self.root.join(&self.record.prefix)
    }
    /// A node's control groups are about to be made.
    pub(super) fn add_group(&mut self, group: &str) -> anyhow::Result<()> {
        self.record.groups.push(group.to_owned());
        self.save()
    }
    /// A node's process runs.
    pub(super) fn add_node(&mut self, pid: u32) -> anyhow::Result<()> {
        // One that has ended already needs no removal.
        self.record.nodes.extend(Known::of(pid));
        self.save()
    }
    fn save(&self) -> anyhow::Result<()> {
        let (fresh, path) = (self.folder().join("run.json.new"), self.folder().join(RECORD));
        crate::layout::write(&fresh, serde_json::to_vec_pretty(&self.record)?)?;
        std::fs::rename(&fresh, &path).with_context(|| format!("cannot write {}", path.display()))
    }
    /// Puts the logs where [`State::end`] leaves them, in place of those of earlier failures. Answers where, if there are any yet.
    pub(super) fn keep_logs(&self) -> anyhow::Result<Option<PathBuf>> {
        let _lock = lock(&self.root)?;
        kept_logs::keep(&self.root, &self.record.prefix)
    }
    /// Takes everything else away.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        let _lock = lock(&self.root)?;
        remove(&self.root, &self.record).await
    }
}

fn lock(root: &Path) -> anyhow::Result<File> {
    let path = root.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// True for a name that [`State::begin`] may have made up.
pub(super) fn is_prefix(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|rest| rest.chars().all(|c| c.is_ascii_hexdigit()))
}

/// Of all runs, dead or alive. A folder without a record is nobody's.
fn records(root: &Path) -> anyhow::Result<Vec<Record>> {
    let entries = std::fs::read_dir(root).with_context(|| format!("cannot read {}", root.display()))?;
    let mut records = Vec::new();
    for entry in entries {
        let path = entry?.path().join(RECORD);
        let Ok(bytes) = std::fs::read(&path) else { continue };
        let record: Record = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is not ours: remove it by hand", path.display()))?;
        // It becomes part of paths that are removed.
        if !is_prefix(&record.prefix) || path.parent() != Some(root.join(&record.prefix).as_path()) {
            bail!("{} names {:?}, which is no run of the lab", path.display(), record.prefix);
        }
        records.push(record);
    }
    Ok(records)
}

async fn remove(root: &Path, record: &Record) -> anyhow::Result<()> {
    for node in &record.nodes {
        node.kill().await?;
    }
    for group in &record.groups {
        if group.starts_with(&record.prefix) {
            cgroups::remove(group).await?;
        }
    }
    Network::of(&record.prefix).remove().await?;
    remove_folder(&root.join(&record.prefix))?;
    if !records(root)?.iter().any(|other| other.lab.runs()) {
        Before::restore(root)?;
    }
    Ok(())
}

fn remove_folder(folder: &Path) -> anyhow::Result<()> {
    for path in in_order_of_removal(folder)? {
        let is_folder = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
        let removed = if is_folder { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.with_context(|| format!("cannot remove {}", path.display()))?;
    }
    std::fs::remove_dir(folder).with_context(|| format!("cannot remove {}", folder.display()))
}

/// The record comes last: whoever is killed in between has left a run that the next one still finds.
fn in_order_of_removal(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let paths: Result<Vec<_>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths.with_context(|| format!("cannot read {}", folder.display()))?;
    paths.sort_by_key(|path| path.ends_with(RECORD));
    Ok(paths)
}

#[cfg(test)]
impl State {
    /// Of a run of this process that has made nothing but its folder.
    pub(super) fn idle(root: &Path) -> Self {
        let own = std::process::id();
        let (prefix, lab) = (format!("{PREFIX}{own:x}"), Known::of(own).expect("this process"));
        let record = Record { prefix, lab, nodes: Vec::new(), groups: Vec::new() };
        let state = Self { root: root.to_owned(), record };
        std::fs::create_dir(state.folder()).expect("a folder");
        state.save().expect("a record");
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(prefix: &str) -> Record {
        let lab = Known { pid: u32::MAX >> 1, started: 1 };
        Record { prefix: prefix.to_owned(), lab, nodes: Vec::new(), groups: Vec::new() }
    }
    fn put(root: &Path, folder: &str, record: &Record) {
        std::fs::create_dir_all(root.join(folder)).expect("a folder");
        let text = serde_json::to_vec(record).expect("JSON");
        std::fs::write(root.join(folder).join(RECORD), text).expect("a write");
    }

    #[test]
    fn a_record_that_names_other_peoples_folders_is_refused() {
        for (folder, prefix) in [("x", "entente-1f/../.."), ("entente-1f", "entente-2f"), ("etc", "etc")] {
            let root = tempfile::tempdir().expect("a folder");
            put(root.path(), folder, &record(prefix));
            let error = records(root.path()).expect_err("it is refused");
            assert!(error.to_string().contains("no run of the lab"), "{error}");
        }
    }

    #[test]
    fn a_folder_without_a_record_is_left_alone() {
        let root = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(root.path().join("thesis")).expect("a folder");
        put(root.path(), "entente-1f", &record("entente-1f"));
        assert_eq!(records(root.path()).expect("records").len(), 1);
    }

    #[test]
    fn the_record_is_removed_last() {
        let root = tempfile::tempdir().expect("a folder");
        put(root.path(), "entente-1f", &record("entente-1f"));
        let folder = root.path().join("entente-1f");
        for name in ["a", "run.json.new", "zz"] {
            std::fs::create_dir_all(folder.join(name).join("deep")).expect("a folder");
        }
        std::os::unix::fs::symlink(root.path(), folder.join("link")).expect("a link");
        let order = in_order_of_removal(&folder).expect("an order");
        assert_eq!((order.len(), order.last()), (5, Some(&folder.join(RECORD))));
        remove_folder(&folder).expect("a removal");
        assert!(!folder.exists() && root.path().exists());
    }

    #[test]
    fn a_process_is_known_by_more_than_its_pid() {
        let own = Known::of(std::process::id()).expect("this process");
        assert!(own.runs());
        assert!(!Known { started: own.started + 1, ..own }.runs());
    }

    #[tokio::test]
    async fn a_process_that_is_somebody_elses_by_now_is_not_killed() {
        let own = Known::of(std::process::id()).expect("this process");
        Known { started: own.started + 1, ..own }.kill().await.expect("nothing to kill");
    }
}
