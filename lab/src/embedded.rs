//! A stand-in for SPIRE, for machines with nothing but Rust and for faults that real SPIRE cannot be asked to have.
//!
//! Two processes, as with SPIRE. The server has the authorities, the datastore, the Server API, a bundle endpoint and a
//! bundle client of its own, and hosts plugins; the agent has the Workload API. Products cannot tell the difference, except
//! by what is left out: node attestation, JWT-SVIDs, upstream authorities, everything over TCP but the bundle endpoint.

mod agent;
mod api;
mod authority;
mod bundle_client;
mod bundle_endpoint;
mod certificate;
pub mod config;
mod core;
mod document;
mod host;
mod identity;
mod log;
mod server;
mod store;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use self::config::{AgentConfig, ServerConfig};
use self::host::Host;
use self::log::Log;
use self::server::Controls;

/// The whole of a validation, as with `spire-server validate`.
const VALIDATION_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs the stand-in for `spire-server` until SIGTERM or SIGINT; SIGUSR1 reconfigures plugins.
///
/// # Errors
///
/// When the configuration is bad, a plugin does not load, a socket cannot be had, or a notifier asks for the end.
pub async fn run_server(config: impl AsRef<Path>) -> anyhow::Result<()> {
    let config = ServerConfig::load(config.as_ref())?;
    let stop = stop_at_signal()?;
    let (signals, reconfigure) = mpsc::channel(1);
    let mut usr1 = signal(SignalKind::user_defined1()).context("SIGUSR1")?;
    tokio::spawn(async move {
        while usr1.recv().await.is_some() {
            // A full channel holds a signal that is not yet acted upon: that one will do.
            let _ = signals.try_send(());
        }
    });
    let (ready, _) = oneshot::channel();
    let controls = Controls { stop, reconfigure, trampoline: trampoline() };
    server::run(config, Log::to_stdout(), controls, ready).await
}

/// Does what `spire-server validate` does: launches each plugin and asks it about its configuration.
///
/// # Errors
///
/// With all notes in its text when a plugin complains, and when one does not load.
pub async fn validate_server(config: impl AsRef<Path>) -> anyhow::Result<()> {
    let config = ServerConfig::load(config.as_ref()).context("SPIRE server configuration file is invalid")?;
    let host = Host::new(&config, &Log::new(std::io::sink()), trampoline());
    let notes = tokio::time::timeout(VALIDATION_TIMEOUT, host.validate(&config.plugins)).await;
    let notes = notes.context("could not validate configuration file in time")?;
    let notes = notes.context("Could not validate configuration file")?;
    if notes.is_empty() {
        return Ok(());
    }
    let mut text = String::from("SPIRE server configuration file is invalid.\nValidation errors:");
    for (plugin, notes) in notes {
        text.push_str(&format!("\n\t{plugin}:"));
        notes.iter().for_each(|note| text.push_str(&format!("\n\t\t{note}")));
    }
    anyhow::bail!(text)
}

/// Runs the stand-in for `spire-agent` until SIGTERM or SIGINT.
///
/// # Errors
///
/// When the configuration is bad or the socket of the Workload API cannot be had.
pub async fn run_agent(config: impl AsRef<Path>) -> anyhow::Result<()> {
    let config = AgentConfig::load(config.as_ref())?;
    agent::run(config, Log::to_stdout(), stop_at_signal()?).await
}

/// Becomes another program that is killed when this process's parent dies. Returns only if that fails.
///
/// SPIRE asks for the same between fork and exec, which safe Rust cannot; a program that then turns into the plugin can.
pub fn exec_with_parent(program: &Path, arguments: &[OsString]) -> anyhow::Error {
    use std::os::unix::process::CommandExt as _;
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
    {
        return anyhow::Error::new(error).context("cannot tie the life of a plugin to its parent");
    }
    let error = std::process::Command::new(program).args(arguments).exec();
    anyhow::Error::new(error).context(format!("cannot execute {}", program.display()))
}

/// This program, where it is the one that knows `embedded-exec`.
fn trampoline() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    (program.file_stem()? == "lab").then_some(program)
}

fn stop_at_signal() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut arrives: Signal = signal(kind).context("signal handler")?;
        let stop = stop.clone();
        tokio::spawn(async move {
            arrives.recv().await;
            stop.cancel();
        });
    }
    Ok(stop)
}

/// Unix seconds.
fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// When SPIRE renews what it signed.
fn is_half_over(not_before: i64, not_after: i64, now: i64) -> bool {
    now >= not_before + (not_after - not_before) / 2
}

/// As SPIRE prints a point in time.
fn rfc3339(unix: i64) -> String {
    let since = Duration::from_secs(u64::try_from(unix).unwrap_or(0));
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since).to_string()
}
