//! The process that a pod's namespaces hang on: it does nothing until it is told to end.

use anyhow::Context;
use rustix::process::{WaitOptions, wait};
use tokio::signal::unix::{SignalKind, signal};

/// Waits for SIGTERM or SIGINT, whichever comes first after this call.
///
/// # Errors
///
/// When signals cannot be had.
pub fn told_to_stop() -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Stays until told to end. In a pod that shares its process namespace, orphans come here to be buried.
///
/// # Errors
///
/// When signals cannot be had.
pub async fn run() -> anyhow::Result<()> {
    let stop = told_to_stop()?;
    let mut child = signal(SignalKind::child()).context("SIGCHLD")?;
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => return Ok(()),
            _ = child.recv() => while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {},
        }
    }
}
