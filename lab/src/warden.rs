//! A process that outlives the lab and does one thing: when the lab is gone, however it went, it kills what the lab left running.
//!
//! The lab tells it each pid over a pipe. The kernel closes the pipe when the lab ends, also after SIGKILL, and that is the sign.
//! After an orderly end nothing is left to kill.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use rustix::process::Signal;

use crate::process;

/// The pipe to this process's warden, once there is one.
static WARDEN: Mutex<Option<Posted>> = Mutex::new(None);

struct Posted {
    pipe: ChildStdin,
    pid: u32,
}

/// Starts the warden of this process, if there is none yet. `lab` is the program that can be one.
pub(crate) fn post(lab: &Path) -> anyhow::Result<()> {
    let mut warden = WARDEN.lock().unwrap_or_else(PoisonError::into_inner);
    if warden.is_none() {
        let child = Command::new(lab)
            .arg("warden")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C in the terminal is not for it.
            .process_group(0)
            .spawn()
            .context("cannot start the warden")?;
        let pid = child.id();
        *warden = child.stdin.map(|pipe| Posted { pipe, pid });
    }
    Ok(())
}

/// The warden of this process, if there is one.
pub(crate) fn pid() -> Option<u32> {
    WARDEN.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|warden| warden.pid)
}

/// Tells the warden of a child.
pub(crate) fn tell(pid: u32) {
    let mut warden = WARDEN.lock().unwrap_or_else(PoisonError::into_inner);
    // Without a warden the children still end when they are dropped.
    if let Some(warden) = warden.as_mut() {
        let _ = writeln!(warden.pipe, "{pid}");
    }
}

/// Is the warden: reads pids until the pipe ends, then kills those processes that still run.
///
/// # Errors
///
/// When standard input cannot be read.
pub fn watch() -> anyhow::Result<()> {
    let mut children = BTreeMap::new();
    for line in std::io::stdin().lock().lines() {
        let told = line?.parse::<u32>().ok();
        // The start time tells a process from a later one with the same pid.
        children.extend(told.and_then(|pid| Some((pid, process::start_time(pid)?))));
    }
    for (pid, start_time) in children {
        if process::is_running(pid) && process::start_time(pid) == Some(start_time) {
            // It may end in this very moment.
            let _ = process::signal_pid(pid, Signal::KILL);
        }
    }
    Ok(())
}
