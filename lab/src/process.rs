//! Child processes: started with a log file, watched, ended by pid. Whoever drops one ends it.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};

use crate::log_file::LogFile;
use crate::warden;

/// What to start, and where its output goes.
#[derive(Debug)]
pub struct Launch {
    name: String,
    program: PathBuf,
    args: Vec<String>,
    environment: Vec<(String, String)>,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Launch {
    /// Output of both kinds is appended to `log`.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        let log = log.into();
        Self {
            name: name.into(),
            program: program.into(),
            args: Vec::new(),
            environment: Vec::new(),
            stdout: log.clone(),
            stderr: log,
        }
    }
    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }
    /// More arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item = S>, S: Into<String>>(mut self, args: I) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }
    /// One more environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }
    /// Standard output goes to a file of its own.
    #[must_use]
    pub fn stdout(mut self, file: impl Into<PathBuf>) -> Self {
        self.stdout = file.into();
        self
    }
    /// As a person would type it.
    pub fn command_line(&self) -> String {
        let environment = self.environment.iter().map(|(name, value)| format!("{name}={value}"));
        let program = self.program.display().to_string();
        environment.chain([program]).chain(self.args.iter().cloned()).collect::<Vec<_>>().join(" ")
    }
    /// Starts it in a process group of its own, so that Ctrl-C in the terminal reaches the lab alone.
    pub fn start(&self) -> anyhow::Result<Process> {
        let child = Command::new(&self.program)
            .args(&self.args)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(append_to(&self.stdout)?)
            .stderr(append_to(&self.stderr)?)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {} ({})", self.name, self.program.display()))?;
        let pid = child.id().context("a process that was just started has no pid")?;
        warden::tell(pid);
        Ok(Process {
            name: self.name.clone(),
            pid,
            child,
            stdout: self.stdout.clone(),
            stderr: self.stderr.clone(),
        })
    }
}

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: u32,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Its pid, also after it has ended.
    pub fn pid(&self) -> u32 {
        self.pid
    }
    /// What people call it.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Where its standard output goes.
    pub fn stdout(&self) -> LogFile {
        LogFile::new(&self.stdout)
    }
    /// Where its log goes.
    pub fn log(&self) -> LogFile {
        LogFile::new(&self.stderr)
    }
    /// An error if it has ended.
    pub fn check_alive(&self) -> Result<(), Ended> {
        if is_running(self.pid) {
            Ok(())
        } else {
            Err(Ended { name: self.name.clone(), pid: self.pid, status: None })
        }
    }
    /// How it ended, if it has. No zombie stays.
    pub fn ended(&mut self) -> Option<Ended> {
        let status = self.child.try_wait().ok().flatten()?;
        Some(Ended { name: self.name.clone(), pid: self.pid, status: Some(status) })
    }
    /// The same with the log that may say why.
    pub fn ended_with_log(&mut self) -> Option<(Ended, PathBuf)> {
        Some((self.ended()?, self.stderr.clone()))
    }
    /// SIGKILL, and waits until it is gone.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.with_context(|| format!("cannot kill {}", self.name))
    }
    /// Sends `signal`.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        signal_pid(self.pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }
    /// SIGTERM; SIGKILL once `grace` is over. True when SIGTERM was enough.
    pub async fn terminate(&mut self, grace: Duration) -> anyhow::Result<bool> {
        if self.child.try_wait()?.is_some() {
            return Ok(true);
        }
        self.signal(Signal::TERM)?;
        if tokio::time::timeout(grace, self.child.wait()).await.is_ok() {
            return Ok(true);
        }
        self.kill().await?;
        Ok(false)
    }
    /// Waits for its end, at most `deadline`.
    pub async fn wait(&mut self, deadline: Duration) -> anyhow::Result<ExitStatus> {
        let status = tokio::time::timeout(deadline, self.child.wait())
            .await
            .with_context(|| format!("{} is still running after {deadline:?}", self.name))?;
        Ok(status?)
    }
}

/// A process that should run has ended. Waiting for anything from it is in vain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} (pid {pid}) has ended{}", .status.map(|status| format!(": {status}")).unwrap_or_default())]
pub struct Ended {
    /// What people call it.
    pub name: String,
    /// What its pid was.
    pub pid: u32,
    /// How it ended, where that is ours to know.
    pub status: Option<ExitStatus>,
}

fn append_to(path: &Path) -> anyhow::Result<Stdio> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    Ok(file.into())
}

/// Sends `signal` to one process.
pub fn signal_pid(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("not a pid")?;
    rustix::process::kill_process(pid, signal)?;
    Ok(())
}

/// Resident memory of a process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResidentMemory {
    /// All of it (`VmRSS`).
    pub total: u64,
    /// The part that is the program file itself, mapped. Large only in unoptimised builds.
    pub program: u64,
}

/// Reads the resident memory of a process; `None` when there is no such process.
pub fn resident_memory(pid: u32) -> Option<ResidentMemory> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let total = kibibytes(&status, "VmRSS:")?;
    let program = executable(pid)?;
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).ok()?;
    let mut of_program = false;
    let mut mapped = 0;
    for line in smaps.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if !first.ends_with(':') {
            of_program = line.ends_with(&*program.to_string_lossy());
        } else if of_program && let Some(bytes) = kibibytes(line, "Rss:") {
            mapped += bytes;
        }
    }
    Some(ResidentMemory { total, program: mapped })
}

/// The value of a `Name:  123 kB` line, in bytes.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// True while a process with this pid runs (a zombie does not).
pub fn is_running(pid: u32) -> bool {
    state_and_parent(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

/// Pids of the running children of `parent` whose executable has this file name.
pub fn children_named(parent: u32, file_name: &str) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| state_and_parent(*pid).is_some_and(|(state, of)| of == parent && state != 'Z'))
        .filter(|pid| {
            executable(*pid).is_some_and(|path| path.file_name().is_some_and(|name| name == file_name))
        })
        .collect()
}

/// The file that a process runs.
pub fn executable(pid: u32) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// When a process was started, in ticks since boot: with its pid, a name that is never used again.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    fields_after_name(pid)?.get(19)?.parse().ok()
}

fn state_and_parent(pid: u32) -> Option<(char, u32)> {
    let fields = fields_after_name(pid)?;
    Some((fields.first()?.chars().next()?, fields.get(1)?.parse().ok()?))
}

/// The fields of `/proc/PID/stat` from the third on.
fn fields_after_name(pid: u32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name stands in parentheses and may hold anything, parentheses included.
    let (_, rest) = stat.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(folder: &Path) -> Process {
        Launch::new("sleeper", "/bin/sleep", folder.join("log")).arg("60").start().expect("sleep starts")
    }

    #[tokio::test]
    async fn a_killed_process_is_gone_and_says_so() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut process = sleeper(folder.path());
        process.check_alive().expect("it runs");
        assert_eq!(children_named(std::process::id(), "sleep"), [process.pid()]);
        let memory = resident_memory(process.pid()).expect("it has memory");
        assert!(memory.total > memory.program && memory.program > 0, "{memory:?}");

        assert_eq!(process.ended(), None);
        process.kill().await.expect("it can be killed");

        let ended = process.ended().expect("it has ended");
        let text = format!("sleeper (pid {}) has ended: signal: 9 (SIGKILL)", process.pid());
        assert_eq!(ended.to_string(), text);
        assert!(process.check_alive().is_err());
        assert!(!is_running(process.pid()));
        assert_eq!(resident_memory(process.pid()), None);
    }

    #[tokio::test]
    async fn dropping_a_process_ends_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let process = sleeper(folder.path());
        let pid = process.pid();
        drop(process);
        let gone = async {
            while is_running(pid) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), gone).await.expect("it ends");
    }

    #[tokio::test]
    async fn sigterm_is_enough_for_a_process_that_heeds_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut process = sleeper(folder.path());
        assert!(process.terminate(Duration::from_secs(5)).await.expect("it ends"));
    }
}
