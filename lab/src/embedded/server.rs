//! The stand-in server as a whole: what starts in which order, what ends it, and how.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::api::{self, Api};
use super::bundle_client::BundleClient;
use super::config::ServerConfig;
use super::core::Core;
use super::host::{self, Host, Plugins};
use super::log::Log;
use super::{bundle_endpoint, identity};

/// How long calls in flight may keep the API from ending.
const GRACE: Duration = Duration::from_secs(3);

/// From outside to a running server.
#[derive(Debug)]
pub(crate) struct Controls {
    /// Ends it.
    pub(crate) stop: CancellationToken,
    /// Each message has plugins with a `data_file` configured again.
    pub(crate) reconfigure: mpsc::Receiver<()>,
    /// The program through which plugins are started.
    pub(crate) trampoline: Option<PathBuf>,
}

/// Where a running server listens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    pub(crate) bundle_endpoint: Option<SocketAddr>,
}

/// Sockets that are open before anything is served on them.
struct Listeners {
    api: UnixListener,
    bundle_endpoint: Option<TcpListener>,
}

/// Runs until stopped. Says on `ready` when everything is served.
pub(crate) async fn run(
    config: ServerConfig,
    log: Log,
    controls: Controls,
    ready: oneshot::Sender<Bound>,
) -> anyhow::Result<()> {
    log.with("data_dir", config.data_dir.display()).info("Configured");
    let host = Host::new(&config, &log, controls.trampoline.clone());
    let plugins = tokio::select! {
        loaded = host.load(&config.plugins) => loaded?,
        () = controls.stop.cancelled() => return Ok(()),
    };
    let outcome = run_loaded(config, &log, controls, &host, &plugins, ready).await;
    plugins.unload().await;
    match &outcome {
        Ok(()) => log.info("Server stopped gracefully"),
        Err(error) => log.error_field(format!("{error:#}")).error("Server crashed"),
    }
    outcome
}

async fn run_loaded(
    config: ServerConfig,
    log: &Log,
    mut controls: Controls,
    host: &Host,
    plugins: &Plugins,
    ready: oneshot::Sender<Bound>,
) -> anyhow::Result<()> {
    let core = Core::open(config, log.clone())?;
    identity::renew(&core)?;
    // Cannot fail: nobody else fills it.
    let _ = host.lender.set(core.clone());
    let listeners = listen(&core).await?;
    let bound =
        Bound { bundle_endpoint: listeners.bundle_endpoint.as_ref().and_then(|one| one.local_addr().ok()) };
    let stop = CancellationToken::new();
    let mut tasks = start(&core, listeners, plugins, &stop);
    let endpoint = bound.bundle_endpoint.map_or_else(|| "none".to_owned(), |address| address.to_string());
    log.with("bundle_endpoint", endpoint).info("Server is ready");
    // Nobody may be waiting for it.
    let _ = ready.send(bound);
    let outcome = loop {
        tokio::select! {
            Some(ended) = tasks.join_next() => break ended.context("task").flatten(),
            () = controls.stop.cancelled() => break Ok(()),
            Some(()) = controls.reconfigure.recv() => {
                log.subsystem("reconfigurer").info("Reconfigure signal received");
                plugins.reconfigure().await;
            }
        }
    };
    stop.cancel();
    // Those that watch `stop` end by themselves; the rest are cancelled, calls into plugins included.
    if tokio::time::timeout(GRACE, async { while tasks.join_next().await.is_some() {} }).await.is_err() {
        tasks.shutdown().await;
    }
    // As SPIRE does: a socket that nobody serves would look like a server.
    let _ = std::fs::remove_file(&core.config.socket_path);
    outcome
}

async fn listen(core: &Core) -> anyhow::Result<Listeners> {
    let api = api::bind(&core.config.socket_path, 0o750, 0o770)?;
    let bundle_endpoint = match core.config.bundle_endpoint {
        Some(address) => Some(
            TcpListener::bind(address)
                .await
                .with_context(|| format!("bundle endpoint cannot listen on {address}"))?,
        ),
        None => None,
    };
    Ok(Listeners { api, bundle_endpoint })
}

fn start(
    core: &Arc<Core>,
    listeners: Listeners,
    plugins: &Plugins,
    stop: &CancellationToken,
) -> JoinSet<anyhow::Result<()>> {
    let mut tasks = JoinSet::new();
    let client = BundleClient::new(core.clone());
    let log = core.log.subsystem("endpoints");
    log.with("address", core.config.socket_path.display())
        .with("network", "unix")
        .info("Starting Server APIs");
    tasks.spawn(Api::new(core.clone(), client.clone()).serve(listeners.api, stop.clone()));
    if let Some(listener) = listeners.bundle_endpoint {
        tasks.spawn(bundle_endpoint::serve(core.clone(), listener, stop.clone()));
    }
    let until = stop.clone();
    tasks.spawn(async move {
        client.run(until).await;
        Ok(())
    });
    let (rotating, until) = (host::rotate(core.clone(), plugins.clone()), stop.clone());
    tasks.spawn(async move { until.run_until_cancelled(rotating).await.unwrap_or(Ok(())) });
    spawn_endless(&mut tasks, stop, identity::keep_fresh(core.clone()));
    spawn_endless(&mut tasks, stop, host::publish(core.clone(), plugins.clone()));
    spawn_endless(&mut tasks, stop, host::notify(core.clone(), plugins.clone()));
    tasks
}

fn spawn_endless(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    stop: &CancellationToken,
    work: impl Future<Output = ()> + Send + 'static,
) {
    let stop = stop.clone();
    tasks.spawn(async move {
        stop.run_until_cancelled(work).await;
        Ok(())
    });
}
