//! The real endpoint, in process, every port chosen by the system.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bundle_endpoint::app;
use bundle_endpoint::config::Config;
use bundle_endpoint::health::Readiness;
use bundle_endpoint::status::{RelationshipStatus, Status};
use entente_bundle::testing::TestAuthority;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::client::{self, Answer};
use super::eventually;
use super::plugin::FakePlugin;

pub struct Endpoint {
    pub dir: Arc<TempDir>,
    pub bound: app::Bound,
    stop: CancellationToken,
    ended: Option<JoinHandle<anyhow::Result<()>>>,
}

/// What a keyless endpoint of `a.test` serves as.
pub const SERVER: &str = "spiffe://a.test/spire/server";

/// Links a plugin that publishes and lends; returns it with the authority that it has.
pub async fn published(endpoint: &Endpoint) -> (TestAuthority, FakePlugin) {
    let authority = TestAuthority::new("a.test");
    let plugin = FakePlugin::link(&endpoint.link_socket()).await;
    plugin.own_bundle(&authority.bundle_with(Some(1), Some(Duration::from_secs(60)))).await;
    plugin.lend(&authority.svid("/spire/server").build()).await;
    endpoint.is_ready().await;
    (authority, plugin)
}

/// `[serve]` of most tests.
pub const KEYLESS: &str = "profile = \"https_spiffe\"\nidentity = \"server\"\n";

impl Endpoint {
    /// Keyless, of `a.test`.
    pub async fn keyless() -> Self {
        Self::start(KEYLESS, "").await
    }

    /// `serve` are keys of `[serve]`, `rest` further tables; `DIR` in both is the folder of this endpoint.
    pub async fn start(serve: &str, rest: &str) -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap()), serve, rest).await.unwrap()
    }

    /// Keyless, of another trust domain.
    pub async fn of(trust_domain: &str) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let text = config_text(&dir, KEYLESS, "").replace("a.test", trust_domain);
        Self::from_text(dir, &text).await.unwrap()
    }

    pub async fn start_in(dir: Arc<TempDir>, serve: &str, rest: &str) -> anyhow::Result<Self> {
        let text = config_text(&dir, serve, rest);
        Self::from_text(dir, &text).await
    }

    pub async fn from_text(dir: Arc<TempDir>, text: &str) -> anyhow::Result<Self> {
        let config = Config::parse(text).map_err(anyhow::Error::msg)?;
        let running = app::start(config).await?;
        let (bound, stop) = (running.bound().clone(), running.stop_token());
        Ok(Self { dir, bound, stop, ended: Some(tokio::spawn(running.wait())) })
    }

    pub fn address(&self) -> SocketAddr {
        self.bound.public[0]
    }

    pub fn link_socket(&self) -> PathBuf {
        match &self.bound.link {
            app::BoundLink::Unix(path) => path.clone(),
            app::BoundLink::Tcp(address) => panic!("linked by {address}"),
        }
    }

    /// Stops it in good order; every part must have ended well.
    pub async fn stop(mut self) {
        self.stop.cancel();
        self.ended.take().unwrap().await.unwrap().unwrap();
    }

    pub async fn admin(&self, path: &str) -> Answer {
        client::plain(self.bound.admin, path).await.unwrap()
    }

    pub async fn status(&self) -> Status {
        serde_json::from_slice(&self.admin("/status").await.body).unwrap()
    }

    pub async fn ready(&self) -> (u16, Readiness) {
        let answer = self.admin("/ready").await;
        (answer.status, serde_json::from_slice(&answer.body).unwrap())
    }

    pub async fn is_ready(&self) {
        eventually("ready", || async { (self.ready().await.0 == 200).then_some(()) }).await;
    }

    /// Names of the reasons why it is not ready.
    pub async fn unready_because(&self) -> Vec<String> {
        self.ready().await.1.reasons.into_iter().map(|reason| reason.name).collect()
    }

    pub async fn metrics(&self) -> String {
        let answer = self.admin("/metrics").await;
        assert_eq!(answer.status, 200);
        String::from_utf8(answer.body).unwrap()
    }

    /// Waits until a metric has this value.
    pub async fn counts(&self, metric: &str, value: u64) {
        let line = format!("entente_endpoint_{metric} {value}");
        eventually(&line, || async { self.metrics().await.lines().any(|found| found == line).then_some(()) })
            .await;
    }

    pub async fn relationship(&self, trust_domain: &str) -> Option<RelationshipStatus> {
        self.status().await.relationships.into_iter().find(|found| found.trust_domain == trust_domain)
    }

    /// Waits until the relationship's last fetch failed for this reason.
    pub async fn fetch_fails(&self, trust_domain: &str, reason: &str) -> RelationshipStatus {
        eventually(&format!("{trust_domain} fails: {reason}"), || async {
            let relationship = self.relationship(trust_domain).await?;
            let failure = relationship.failure.as_ref()?;
            assert_eq!(failure.reason, reason, "{}", failure.detail);
            Some(relationship)
        })
        .await
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub fn config_text(dir: &TempDir, serve: &str, rest: &str) -> String {
    let text = format!(
        "trust_domain = \"a.test\"\n\
         [link]\nlisten = \"unix://DIR/link.sock\"\n\
         [admin]\nlisten = \"127.0.0.1:0\"\n\
         [serve]\nlisten = \"127.0.0.1:0\"\n{serve}{rest}"
    );
    text.replace("DIR", &dir.path().display().to_string())
}
