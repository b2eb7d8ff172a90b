//! Memory of a cluster by program, each page counted once however many share it.

use std::collections::BTreeMap;

use super::cgroups;
use crate::checks::mebibytes;

/// `123.4 MiB: kube-apiserver 100.0 MiB, …`, the largest first.
pub(super) fn of_group(group: &str) -> String {
    let mut by_name = BTreeMap::<String, (u32, u64)>::new();
    for pid in cgroups::processes(group) {
        let Some((name, bytes)) = proportional(pid) else { continue };
        let entry = by_name.entry(name).or_default();
        entry.0 += 1;
        entry.1 += bytes;
    }
    let mut parts = by_name.into_iter().collect::<Vec<_>>();
    parts.sort_by_key(|(_, (_, bytes))| std::cmp::Reverse(*bytes));
    let total = parts.iter().map(|(_, (_, bytes))| bytes).sum();
    let texts = parts.iter().map(|(name, (count, bytes))| match count {
        1 => format!("{name} {}", mebibytes(*bytes)),
        _ => format!("{count} {name} {}", mebibytes(*bytes)),
    });
    format!("{}: {}", mebibytes(total), texts.collect::<Vec<_>>().join(", "))
}

/// The name of a process's program, and its share of the memory. Nothing for one that has just ended.
fn proportional(pid: u32) -> Option<(String, u64)> {
    let program = crate::process::executable(pid)?;
    let name = program.file_name()?.to_string_lossy().into_owned();
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some((name, kib * 1024))
}
