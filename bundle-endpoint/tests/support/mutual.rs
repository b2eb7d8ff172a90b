//! An endpoint whose plugins link over mutual TLS, with the Workload API that it gets its identity from.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bundle_endpoint::app::BoundLink;
use bundle_endpoint::health::Reason;
use entente_bundle::testing::{TestAuthority, TestSvid};
use entente_bundle::tls::{CertificateSlot, SvidVerifier, mutual_client_config};
use entente_bundle::{Authorizer, Bundle, SpiffeId};
use entente_workload_identity::testing::{FakeWorkloadApi, Update};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;
use tonic::Status;
use tonic::transport::Channel;

use super::client;
use super::endpoint::{Endpoint, KEYLESS, config_text};
use super::eventually;
use super::plugin::FakePlugin;

/// What the endpoint shows.
pub const ENDPOINT: &str = "spiffe://a.test/bundle-endpoint";

pub struct Mutual {
    pub endpoint: Endpoint,
    pub agent: FakeWorkloadApi,
    pub authority: TestAuthority,
}

impl Mutual {
    /// One that has its identity.
    pub async fn start() -> Self {
        let mutual = Self::unidentified("").await;
        mutual.agent.give(mutual.update());
        mutual.is_identified().await;
        mutual
    }

    /// One to which the Workload API has issued nothing yet; `link` are further keys of `[link]`.
    pub async fn unidentified(link: &str) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let agent = FakeWorkloadApi::start(dir.path().join("agent.sock")).unwrap();
        let rest = "[workload_api]\nsocket = \"unix://DIR/agent.sock\"\n";
        let text = config_text(&dir, KEYLESS, rest);
        let socket = format!("unix://{}/link.sock", dir.path().display());
        let text = text.replace(&socket, "127.0.0.1:0").replace("[link]\n", &format!("[link]\n{link}"));
        let endpoint = Endpoint::from_text(dir, &text).await.unwrap();
        Self { endpoint, agent, authority: TestAuthority::new("a.test") }
    }

    pub fn update(&self) -> Update {
        let svid = self.authority.svid("/bundle-endpoint").build();
        Update::new(&svid, &self.authority.bundle())
    }

    pub async fn is_identified(&self) {
        eventually("an identity", || async { self.endpoint.status().await.link_identity }).await;
    }

    /// Waits until the reason why the Workload API gives nothing new holds these words.
    pub async fn is_told(&self, words: &str) {
        eventually(words, || async {
            let degraded = self.endpoint.ready().await.1.degraded;
            let told = |one: &Reason| one.name == "workload_api" && one.detail.contains(words);
            degraded.iter().any(told).then_some(())
        })
        .await;
    }

    pub fn address(&self) -> SocketAddr {
        let BoundLink::Tcp(address) = self.endpoint.bound.link else { panic!("no network link") };
        address
    }

    /// As the plugin does it, with this identity.
    pub fn tls(&self, svid: &TestSvid) -> ClientConfig {
        tls(&self.authority.bundle(), svid)
    }

    /// A plugin that shows `/spire/server` of this authority.
    pub async fn link(&self) -> FakePlugin {
        let svid = self.authority.svid("/spire/server").build();
        let plugin = self.open(self.tls(&svid)).await.unwrap();
        plugin.hello("a.test").await;
        plugin
    }

    /// Under TLS 1.3 a client hears that it was refused only when it reads.
    pub async fn open(&self, tls: ClientConfig) -> Result<FakePlugin, Status> {
        let channel = self.channel(tls).await.map_err(|error| Status::unavailable(error.to_string()))?;
        FakePlugin::open_on(channel).await
    }

    pub async fn connect(&self, tls: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
        client::connect(self.address(), tls).await
    }

    async fn channel(&self, tls: ClientConfig) -> io::Result<Channel> {
        channel_over(self.connect(tls).await?).await
    }

    /// A plugin over this connection.
    pub async fn link_over(&self, tcp: TcpStream) -> FakePlugin {
        let plugin = self.open_over(tcp).await;
        plugin.hello("a.test").await;
        plugin
    }

    /// One that has not said hello, at this address.
    pub async fn open_from(&self, address: &str) -> FakePlugin {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
        self.open_over(socket.connect(self.address()).await.unwrap()).await
    }

    async fn open_over(&self, tcp: TcpStream) -> FakePlugin {
        let svid = self.authority.svid("/spire/server").build();
        let stream = client::connect_over(tcp, self.tls(&svid)).await.unwrap();
        FakePlugin::open_on(channel_over(stream).await.unwrap()).await.unwrap()
    }

    /// How many were refused, for reasons that begin so.
    pub async fn refusals(&self, reason: &str) -> u64 {
        let family = format!("entente_endpoint_link_refusals_total{{reason=\"{reason}");
        let metrics = self.endpoint.metrics().await;
        let of = metrics.lines().filter(|line| line.starts_with(&family));
        of.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    pub async fn links(&self, count: usize) {
        eventually(&format!("{count} links"), || async {
            (self.endpoint.status().await.links.len() == count).then_some(())
        })
        .await;
    }
}

async fn channel_over(stream: TlsStream<TcpStream>) -> io::Result<Channel> {
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower_service(move || stream.take().ok_or_else(|| io::Error::other("gone")));
    let endpoint = tonic::transport::Endpoint::from_static("http://link");
    endpoint.connect_with_connector(connector).await.map_err(io::Error::other)
}

fn tower_service<S>(
    mut take: impl FnMut() -> io::Result<S>,
) -> impl tower::Service<http::Uri, Response = S, Error = io::Error, Future = std::future::Ready<io::Result<S>>>
{
    tower::service_fn(move |_: http::Uri| std::future::ready(take()))
}

pub fn tls(bundle: &Bundle, svid: &TestSvid) -> ClientConfig {
    let authorizer = Authorizer::exact(SpiffeId::new(ENDPOINT).unwrap());
    let slot = Arc::new(CertificateSlot::default());
    slot.set(svid.certified_key());
    mutual_client_config(SvidVerifier::new(Arc::new(bundle.clone()), authorizer), slot, &[b"h2"]).unwrap()
}
