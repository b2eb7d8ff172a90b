//! A plugin's process: checked, started, listened to, ended.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use entente_bundle::text::hex;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::{Notify, watch};

use super::handshake::{self, Address, HandshakeError};
use super::log_lines;
use crate::embedded::config::PluginConfig;
use crate::embedded::log::Log;

/// From exec to the handshake line.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_HANDSHAKE: u64 = 64 << 10;

/// Why a plugin did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    #[error("checksums did not match")]
    ChecksumMismatch,
    #[error("plugin exited before we could connect")]
    Exited,
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("checksum is not a valid hex string")]
    NotHex,
    #[error("fork/exec {}: {source}", program.display())]
    Spawn { program: PathBuf, source: std::io::Error },
    #[error("timeout while waiting for plugin to start")]
    Timeout,
    #[error("cannot read {}: {source}", program.display())]
    Unreadable { program: PathBuf, source: std::io::Error },
    #[error("expected checksum of length 64; got {length}")]
    WrongLength { length: usize },
}

/// A running plugin. Dropping it kills.
#[derive(Debug)]
pub(crate) struct Process {
    kill: Arc<Notify>,
    exit: watch::Receiver<Option<ExitStatus>>,
    pub(crate) address: Address,
}

impl Process {
    /// Starts and waits for the handshake. `trampoline` ties the plugin's life to ours, if there is one.
    pub(crate) async fn start(
        config: &PluginConfig,
        trampoline: Option<&Path>,
        log: &Log,
    ) -> Result<Self, LaunchError> {
        let program = std::path::absolute(&config.cmd)
            .map_err(|source| LaunchError::Spawn { program: config.cmd.clone(), source })?;
        match &config.checksum {
            Some(checksum) => verify_checksum(&program, checksum)?,
            None => log.warn("Plugin checksum not configured"),
        }
        let mut child = spawn(&program, config, trampoline)?;
        let kill = Arc::new(Notify::new());
        // Cannot fail: both were asked for.
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(LaunchError::Exited);
        };
        let file = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        tokio::spawn(log_lines::pump(stderr, log.subsystem(&format!("{}.{file}", config.name))));
        let exit = watch_exit(child, kill.clone(), log.with("plugin", program.display()));
        // From here on an early return kills the process.
        let mut process = Self { kill, exit, address: Address::Unix(PathBuf::new()) };
        process.address = read_handshake(stdout).await?;
        Ok(process)
    }

    /// SIGKILL; the exit is logged when it happens.
    pub(crate) fn kill(&self) {
        self.kill.notify_one();
    }

    /// Waits until the process is gone.
    pub(crate) async fn exited(&self) {
        let _ = self.exit.clone().wait_for(Option::is_some).await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(program: &Path, config: &PluginConfig, trampoline: Option<&Path>) -> Result<Child, LaunchError> {
    let mut command = match trampoline {
        Some(lab) => {
            let mut command = Command::new(lab);
            command.arg("embedded-exec").arg("--").arg(program);
            command
        }
        None => Command::new(program),
    };
    let cookie = config.kind.as_str();
    command.args(&config.args).env(cookie, cookie).env("PLUGIN_PROTOCOL_VERSIONS", "1");
    command.env("PLUGIN_MIN_PORT", "10000").env("PLUGIN_MAX_PORT", "25000");
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let failed = |source| LaunchError::Spawn { program: program.to_owned(), source };
    // The trampoline would report a missing program in its own way.
    std::fs::metadata(program).map_err(failed)?;
    command.spawn().map_err(failed)
}

fn watch_exit(mut child: Child, kill: Arc<Notify>, log: Log) -> watch::Receiver<Option<ExitStatus>> {
    let (sender, exit) = watch::channel(None);
    let log = child.id().map_or_else(|| log.clone(), |id| log.with("id", id));
    tokio::spawn(async move {
        let status = loop {
            tokio::select! {
                status = child.wait() => break status,
                () = kill.notified() => drop(child.start_kill()),
            }
        };
        match &status {
            Ok(status) if status.success() => log.info("plugin process exited"),
            Ok(status) => log.error_field(in_go_words(*status)).error("plugin process exited"),
            Err(error) => log.error_field(error).error("plugin process exited"),
        }
        sender.send_replace(Some(status.unwrap_or_default()));
    });
    exit
}

fn in_go_words(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(9)) => "signal: killed".to_owned(),
        (None, Some(signal)) => format!("signal: {signal}"),
        (None, None) => status.to_string(),
    }
}

async fn read_handshake(stdout: ChildStdout) -> Result<Address, LaunchError> {
    let mut reader = BufReader::new(stdout);
    let mut line = Vec::new();
    let mut limited = (&mut reader).take(MAX_HANDSHAKE);
    let read = tokio::time::timeout(START_TIMEOUT, limited.read_until(b'\n', &mut line)).await;
    match read.map_err(|_| LaunchError::Timeout)? {
        Ok(length) if length > 0 => {}
        _ => return Err(LaunchError::Exited),
    }
    let address = handshake::parse(&String::from_utf8_lossy(&line))?;
    // Whatever comes after the handshake is thrown away.
    tokio::spawn(async move { tokio::io::copy(&mut reader, &mut tokio::io::sink()).await });
    Ok(address)
}

fn verify_checksum(program: &Path, checksum: &str) -> Result<(), LaunchError> {
    if !checksum.len().is_multiple_of(2) || !checksum.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(LaunchError::NotHex);
    }
    if checksum.len() != 64 {
        return Err(LaunchError::WrongLength { length: checksum.len() });
    }
    let bytes = std::fs::read(program)
        .map_err(|source| LaunchError::Unreadable { program: program.to_owned(), source })?;
    match hex(digest(&SHA256, &bytes).as_ref()).eq_ignore_ascii_case(checksum) {
        true => Ok(()),
        false => Err(LaunchError::ChecksumMismatch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::config::PluginKind;
    use crate::embedded::log::testing::Lines;

    async fn start(script: &str, checksum: Option<&str>) -> (Result<Process, LaunchError>, Lines) {
        let lines = Lines::default();
        let config = PluginConfig {
            kind: PluginKind::Notifier,
            name: "relay".into(),
            cmd: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            checksum: checksum.map(ToOwned::to_owned),
            data: None,
            data_file: None,
        };
        (Process::start(&config, None, &lines.log()).await, lines)
    }

    async fn refusal(script: &str, checksum: Option<&str>) -> String {
        start(script, checksum).await.0.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn a_checksum_that_is_wrong_in_any_way_stops_the_start() {
        assert_eq!(refusal("exit", Some("xyz")).await, "checksum is not a valid hex string");
        let sha1 = "ab".repeat(20);
        assert_eq!(refusal("exit", Some(&sha1)).await, "expected checksum of length 64; got 40");
        assert_eq!(refusal("exit", Some(&"ab".repeat(32))).await, "checksums did not match");
    }

    #[tokio::test]
    async fn a_program_that_shakes_no_hands_is_refused() {
        assert_eq!(refusal("exit 3", None).await, "plugin exited before we could connect");
        assert_eq!(refusal("echo hi; sleep 60", None).await, "Unrecognized remote plugin message: hi");
    }

    #[tokio::test]
    async fn the_plugin_sees_its_cookie_and_its_stderr_is_logged_under_its_name() {
        let script = "echo \"[INFO] $Notifier $PLUGIN_PROTOCOL_VERSIONS $PLUGIN_MIN_PORT $PLUGIN_MAX_PORT\" >&2; \
                      echo '1|1|unix|/tmp/x|grpc|'; exec sleep 60";
        let (process, lines) = start(script, None).await;
        let process = process.unwrap();
        assert_eq!(process.address, Address::Unix("/tmp/x".into()));
        process.kill();
        process.exited().await;
        let text = lines.text();
        assert!(text.contains("msg=\"[INFO] Notifier 1 10000 25000\" subsystem_name=relay.sh"), "{text}");
        assert!(
            text.contains("level=error msg=\"plugin process exited\" error=\"signal: killed\""),
            "{text}"
        );
        assert!(text.contains("Plugin checksum not configured"), "{text}");
    }
}
