//! What both binaries do around their work: options, logs on stderr, signals, exit codes.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use entente_bundle::causes::chain;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

/// Reads an option such as `20s` or `1m 30s`; nothing is no duration.
pub(crate) fn positive_duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be longer than nothing".into()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

/// Runs `work` until it ends or a signal asks it to; `work` gets a token that says so. Exit code 0 unless it failed.
pub async fn run<E, F>(work: impl FnOnce(CancellationToken) -> F) -> ExitCode
where
    E: Error + 'static,
    F: Future<Output = Result<(), E>>,
{
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        // Its own report of a failed write goes to stderr too, and would panic where nobody reads that any more.
        .log_internal_errors(false)
        .init();
    let stop = CancellationToken::new();
    let signals = match stop_on_signals(stop.clone()) {
        Ok(signals) => signals,
        Err(error) => {
            error!(error = &error as &dyn Error, "signals cannot be awaited");
            return ExitCode::FAILURE;
        }
    };
    let result = tokio::select! {
        biased;
        result = work(stop) => result,
        () = signals => Ok(()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(error = chain(&error), "ended");
            ExitCode::FAILURE
        }
    }
}

/// SIGTERM or SIGINT: the work is told, and is expected to end by itself. The future ends at the second signal, which is
/// from somebody who does not want to wait.
fn stop_on_signals(stop: CancellationToken) -> std::io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        loop {
            let received = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            info!(signal = received, "stopping");
            if stop.is_cancelled() {
                return;
            }
            stop.cancel();
        }
    })
}
