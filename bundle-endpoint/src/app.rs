//! Wires all parts of `serve`, tells where it listens, and lets requests in flight finish at the end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use entente_workload_identity::{Choice, WorkloadIdentity};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::address::{LinkAddress, ListenAddress};
use crate::admin::{self, View};
use crate::config::{Config, FetchConfig, ServeConfig, ServingIdentity, ServingProfile};
use crate::federation::client::{FetchClient, FetchLimits};
use crate::federation::refresher::Refresher;
use crate::federation::table::RelationshipTable;
use crate::handler::BundleHandler;
use crate::identity::files::CertificateFiles;
use crate::identity::{self, Identity};
use crate::link::{Hub, LinkSocket, MutualLink};
use crate::logging::chain;
use crate::metrics::Metrics;
use crate::published::{self, PublishedWatch};
use crate::serve::{self, Listener, Tls, Transport};
use crate::status::ListenerStatus;

/// Everything is over so long after a signal.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(8);

/// Lent identities are looked at again so often, because certificates end.
const JUDGE_INTERVAL: Duration = Duration::from_secs(60);

/// Where the process listens, with the ports that the system chose.
#[derive(Clone, Debug)]
pub struct Bound {
    /// `[serve]` and each `[[also_serve]]`, in order.
    pub public: Vec<SocketAddr>,
    /// Health, metrics, status.
    pub admin: SocketAddr,
    /// Where the plugin dials.
    pub link: BoundLink,
}

/// Where the plugin dials.
#[derive(Clone, Debug)]
pub enum BoundLink {
    /// A socket.
    Unix(PathBuf),
    /// The network, with mutual TLS.
    Tcp(SocketAddr),
}

/// The link before it is served.
enum Link {
    Mutual(MutualLink),
    Socket(LinkSocket),
}

/// A running endpoint.
#[derive(Debug)]
pub struct Running {
    bound: Bound,
    stop: CancellationToken,
    tasks: JoinSet<&'static str>,
    _workload_identity: Option<WorkloadIdentity>,
}

impl Running {
    /// Where it listens.
    pub fn bound(&self) -> &Bound {
        &self.bound
    }

    /// Cancelling it ends the endpoint in good order.
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Runs until told to stop, then until all is drained.
    ///
    /// # Errors
    /// When a part ended that never should; the others are stopped.
    pub async fn wait(mut self) -> anyhow::Result<()> {
        let ended = tokio::select! {
            // Being told to stop makes parts end, so it is looked at first.
            biased;
            () = self.stop.cancelled() => None,
            Some(ended) = self.tasks.join_next() => Some(ended),
        };
        self.stop.cancel();
        let failure = match ended {
            None => None,
            Some(Ok(part)) => Some(anyhow::anyhow!("{part} ended by itself")),
            Some(Err(panicked)) => Some(anyhow::Error::new(panicked).context("a part panicked")),
        };
        let drained = timeout(DRAIN_TIMEOUT, async { while self.tasks.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            warn!("not everything ended in time");
        }
        failure.map_or(Ok(()), Err)
    }
}

/// Parts that several others need.
struct Parts {
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    published: PublishedWatch,
    handler: Arc<BundleHandler>,
    relationships: Arc<RelationshipTable>,
    stop: CancellationToken,
    tasks: JoinSet<&'static str>,
    /// Connections that each listener may have.
    places: usize,
    identities: Vec<Identity>,
    listeners: Vec<ListenerStatus>,
    public: Vec<SocketAddr>,
    workload_identity: Option<WorkloadIdentity>,
}

/// Binds every socket, then starts. Nothing is served when one socket cannot be had.
///
/// # Errors
/// Names the socket or the setting at fault.
pub async fn start(config: Config) -> anyhow::Result<Running> {
    let (published_sender, published) = watch::channel(None);
    let mut parts = Parts::new(&config, published);
    let (link, bound_link) = parts.link(&config).await?;
    let (admin_tcp, admin) = bind(config.admin.listen, "admin").await?;
    let mut public = Vec::new();
    for (position, serve) in config.public_listeners().enumerate() {
        let name = if position == 0 { "serve".to_owned() } else { format!("also_serve[{}]", position - 1) };
        public.push(parts.public_listener(name, serve, &config).await?);
    }
    parts.listed("admin", admin, None);

    // Every socket is bound: from here on things run.
    parts.run("publisher", published::publish(parts.hub.own_bundle(), published_sender));
    parts.run("identity judge", judge(Arc::clone(&parts.hub)));
    parts.run_refresher(&config.fetch);
    for listener in public {
        parts.serve_bundle(listener);
    }
    let dialled = match &bound_link {
        BoundLink::Tcp(address) => address.to_string(),
        BoundLink::Unix(_) => config.link.listen.to_string(),
    };
    let link_identity = match &bound_link {
        BoundLink::Tcp(_) => parts.workload_identity.clone(),
        BoundLink::Unix(_) => None,
    };
    parts.serve_admin(admin_tcp, dialled.clone(), link_identity);
    parts.serve_link(link);
    for listener in &parts.listeners {
        let (profile, identity) = (listener.profile.as_deref(), listener.identity.as_deref());
        info!(listener = listener.name, address = listener.address, profile, identity, "listening");
    }
    info!(trust_domain = %config.trust_domain, link = dialled, "bundle endpoint started");
    Ok(Running {
        bound: Bound { public: parts.public, admin, link: bound_link },
        stop: parts.stop,
        tasks: parts.tasks,
        _workload_identity: parts.workload_identity,
    })
}

async fn bind(address: ListenAddress, name: &str) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let tcp = TcpListener::bind(address.socket_addr())
        .await
        .with_context(|| format!("[{name}] cannot listen on {address}"))?;
    let bound = tcp.local_addr().with_context(|| format!("[{name}] has no address"))?;
    Ok((tcp, bound))
}

async fn judge(hub: Arc<Hub>) {
    loop {
        tokio::time::sleep(JUDGE_INTERVAL).await;
        hub.judge_identities();
    }
}

impl Parts {
    fn new(config: &Config, published: PublishedWatch) -> Self {
        let metrics = Arc::new(Metrics::new());
        Self {
            hub: Hub::new(config.trust_domain.clone(), Arc::clone(&metrics)),
            handler: Arc::new(BundleHandler::new(published.clone(), Arc::clone(&metrics))),
            metrics,
            published,
            relationships: Arc::default(),
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
            places: serve::share_of_files(config.public_listeners().count() + 1),
            identities: Vec::new(),
            listeners: Vec::new(),
            public: Vec::new(),
            workload_identity: None,
        }
    }

    fn listed(&mut self, name: &str, address: SocketAddr, profile: Option<&ServingProfile>) {
        self.listeners.push(ListenerStatus {
            name: name.into(),
            address: address.to_string(),
            profile: profile.map(|profile| identity::profile_name(profile).into()),
            identity: profile.map(|profile| identity::identity_name(profile).into()),
        });
    }

    async fn public_listener(
        &mut self,
        name: String,
        serve: &ServeConfig,
        config: &Config,
    ) -> anyhow::Result<Listener> {
        let (tcp, address) = bind(serve.listen, &name).await?;
        let identity = self.identity(&serve.profile, config).await?;
        let tls = Tls::new(identity.clone()).with_context(|| format!("[{name}] tls"))?;
        self.identities.push(identity);
        self.public.push(address);
        self.listed(&name, address, Some(&serve.profile));
        Ok(self.listener(name, tcp, Transport::Tls(tls)))
    }

    fn listener(&self, name: String, tcp: TcpListener, transport: Transport) -> Listener {
        Listener { name, tcp, transport, metrics: Arc::clone(&self.metrics), places: self.places }
    }

    async fn link(&mut self, config: &Config) -> anyhow::Result<(Link, BoundLink)> {
        match &config.link.listen {
            LinkAddress::Unix(address) => {
                let socket = LinkSocket::bind(address, config.link.allowed_uids.clone())?;
                Ok((Link::Socket(socket), BoundLink::Unix(address.path().to_owned())))
            }
            LinkAddress::Tcp(address) => {
                let (tcp, bound) = bind(*address, "link").await?;
                let identity = self.workload_identity(config)?;
                let link = MutualLink::new(tcp, &config.trust_domain, identity).context("[link] tls")?;
                Ok((Link::Mutual(link), BoundLink::Tcp(bound)))
            }
        }
    }

    /// One for everything that is shown as our own. The link must not be answered under an ID that was guessed.
    fn workload_identity(&mut self, config: &Config) -> anyhow::Result<WorkloadIdentity> {
        if let Some(identity) = &self.workload_identity {
            return Ok(identity.clone());
        }
        let choice = match (&config.link.spiffe_id, &config.link.listen) {
            (Some(id), _) => Choice::Exactly(id.clone()),
            (None, LinkAddress::Tcp(_)) => Choice::OnlyOf(config.trust_domain.clone()),
            (None, LinkAddress::Unix(_)) => Choice::First,
        };
        let socket = config.workload_api.socket.clone();
        let identity = WorkloadIdentity::connect_as(socket, choice).context("[workload_api] socket")?;
        Ok(self.workload_identity.insert(identity).clone())
    }

    async fn identity(&mut self, profile: &ServingProfile, config: &Config) -> anyhow::Result<Identity> {
        match profile {
            ServingProfile::HttpsSpiffe(ServingIdentity::Server) => {
                Ok(Identity::Server(Arc::clone(&self.hub)))
            }
            ServingProfile::HttpsSpiffe(ServingIdentity::Workload) => {
                Ok(Identity::Workload(self.workload_identity(config)?.slot()))
            }
            ServingProfile::HttpsWeb { certificate_file, private_key_file } => {
                let metrics = Arc::clone(&self.metrics);
                let mut files = CertificateFiles::new(certificate_file, private_key_file, metrics);
                files.look().await;
                let slot = files.slot();
                self.run("certificate files", files.watch());
                Ok(Identity::Web(slot))
            }
        }
    }

    /// Runs something that ends only with the process.
    fn run(&mut self, part: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled_owned(task).await;
            part
        });
    }

    fn run_refresher(&mut self, config: &FetchConfig) {
        let client = FetchClient::new(FetchLimits {
            request_timeout: config.request_timeout,
            max_bytes: config.max_bytes,
            max_keys: config.max_keys,
        });
        let table = Arc::clone(&self.relationships);
        let refresher =
            Refresher::new(Arc::clone(&self.hub), Arc::new(client), config.refresh_policy(), table);
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            refresher.run(stop).await;
            "refresher"
        });
    }

    fn serve_bundle(&mut self, listener: Listener) {
        let handler = Arc::clone(&self.handler);
        let respond = move |request| {
            let response = handler.respond(&request);
            async move { response }
        };
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            listener.serve(respond, stop).await;
            "public listener"
        });
    }

    fn serve_admin(
        &mut self,
        tcp: TcpListener,
        link_socket: String,
        link_identity: Option<WorkloadIdentity>,
    ) {
        let view = Arc::new(View {
            hub: Arc::clone(&self.hub),
            published: self.published.clone(),
            handler: Arc::clone(&self.handler),
            identities: self.identities.clone(),
            relationships: Arc::clone(&self.relationships),
            metrics: Arc::clone(&self.metrics),
            listeners: self.listeners.clone(),
            link_socket,
            link_identity,
            workload_identity: self.workload_identity.clone(),
        });
        let listener = self.listener("admin".into(), tcp, Transport::Plain);
        let service = TowerToHyperService::new(admin::routes(view));
        let respond = move |request| {
            let response = service.call(request);
            async move { response.await.unwrap_or_else(|never| match never {}) }
        };
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            listener.serve(respond, stop).await;
            "admin listener"
        });
    }

    fn serve_link(&mut self, link: Link) {
        let (hub, stop) = (Arc::clone(&self.hub), self.stop.clone());
        self.tasks.spawn(async move {
            let served = match link {
                Link::Mutual(link) => link.serve(hub, stop).await,
                Link::Socket(link) => link.serve(hub, stop).await,
            };
            if let Err(error) = served {
                error!(error = chain(&error), "link listener failed");
            }
            "link listener"
        });
    }
}
