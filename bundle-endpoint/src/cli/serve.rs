//! `bundle-endpoint serve`: configuration, logging, runtime, signals.

use std::thread::available_parallelism;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use super::{Ended, LogArgs, ServeArgs, failed};
use crate::app;
use crate::config::Config;
use crate::logging;
use crate::logging::chain;

/// A handshake that waits for the plugin's signature gives its thread back, but only where there are others.
const LEAST_WORKERS: usize = 4;

pub(super) fn run(args: &ServeArgs, log: &LogArgs) -> Ended {
    let config = match Config::load(&args.config) {
        Ok(config) => config,
        Err(error) => return failed(chain(&error)),
    };
    let level = log.log_level.as_deref().or(config.log_level.as_deref());
    let format = log.log_format.or(config.log_format).unwrap_or_default();
    if let Err(problem) = logging::start(level, format) {
        return failed(problem);
    }
    raise_file_limit();
    let workers = available_parallelism().map_or(LEAST_WORKERS, |n| n.get().max(LEAST_WORKERS));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return failed(error),
    };
    let served = runtime.block_on(serve(config));
    // A name server or a file system that is silent holds a thread; the end does not wait for it.
    runtime.shutdown_timeout(Duration::from_secs(1));
    match served {
        Ok(()) => Ended::Well,
        Err(error) => failed(format!("{error:#}")),
    }
}

/// The usual soft limit of 1024 files is less than the connections that we would serve.
fn raise_file_limit() {
    const WANTED: u64 = 65_536;
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(WANTED, |maximum| maximum.min(WANTED));
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            warn!(%error, wanted, "limit of open files not raised");
        }
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    // Before anything listens, so that a signal at any moment ends us in good order.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let running = app::start(config).await?;
    let stop = running.stop_token();
    tokio::spawn(async move {
        let signal = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        info!(signal, "stopping");
        stop.cancel();
    });
    running.wait().await?;
    info!("stopped");
    Ok(())
}
