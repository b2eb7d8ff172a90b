//! The stand-in server as a process, hosting the real plugin: what SPIRE does to a plugin in its life, the stand-in does too.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, helpers of tests too")]

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use entente_lab::embedded::config::{PluginConfig, PluginKind, ServerConfig};
use entente_lab::products::Products;
use entente_lab::server_api::ServerApi;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::OnceCell;

const DEADLINE: Duration = Duration::from_secs(20);

/// A folder with a configuration, and the server that runs on it.
struct Server {
    folder: TempDir,
    child: Option<Child>,
}

async fn products() -> &'static Products {
    static FOLDER: OnceCell<(TempDir, Products)> = OnceCell::const_new();
    let built = FOLDER.get_or_init(|| async {
        let folder = tempfile::tempdir().unwrap();
        let products = Products::build_into(folder.path()).await.unwrap();
        (folder, products)
    });
    &built.await.1
}

impl Server {
    async fn new(kind: PluginKind, change: impl FnOnce(&mut PluginConfig)) -> Self {
        let server = Self { folder: tempfile::tempdir().unwrap(), child: None };
        let program = products().await.plugin();
        let mut plugin = PluginConfig {
            kind,
            name: "entente".into(),
            cmd: program.command,
            args: Vec::new(),
            checksum: Some(program.sha256),
            data: None,
            data_file: Some(server.path("entente.hcl")),
        };
        change(&mut plugin);
        let config = ServerConfig {
            trust_domain: "a.test".into(),
            data_dir: server.path("data"),
            socket_path: server.path("api.sock"),
            ca_ttl_seconds: 86_400,
            x509_svid_ttl_seconds: 3_600,
            bundle_endpoint: None,
            refresh_hint_seconds: None,
            plugins: vec![plugin],
        };
        std::fs::write(server.path("server.json"), serde_json::to_vec(&config).unwrap()).unwrap();
        server.configure("refresh_hint = \"5m\"");
        server
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn configure(&self, last_line: &str) {
        let socket = |name| format!("unix://{}", self.path(name).display());
        let (link, api) = (socket("link.sock"), socket("api.sock"));
        let text = format!("endpoint = \"{link}\"\nserver_socket = \"{api}\"\n{last_line}\n");
        std::fs::write(self.path("entente.hcl"), text).unwrap();
    }

    async fn command(&self, extra: &[&str]) -> Command {
        let mut command = Command::new(products().await.lab());
        command.args(["embedded-server", "--config"]).arg(self.path("server.json")).args(extra);
        // Sockets of killed servers and plugins go with the folder.
        command.env("TMPDIR", self.folder.path()).kill_on_drop(true);
        command
    }

    async fn start(&mut self) {
        let log = std::fs::File::create(self.path("log")).unwrap();
        let mut command = self.command(&[]).await;
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    async fn started(kind: PluginKind) -> Self {
        let mut server = Self::new(kind, |_| {}).await;
        server.start().await;
        server.logs("msg=\"Server is ready\"").await;
        server
    }

    fn pid(&self) -> Pid {
        let id = self.child.as_ref().and_then(Child::id).unwrap();
        Pid::from_raw(i32::try_from(id).unwrap()).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    async fn exit(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        tokio::time::timeout(DEADLINE, child.wait()).await.expect("the server does not end").unwrap()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    async fn logs(&self, wanted: &str) {
        eventually(&format!("{wanted} in the log"), || self.log().contains(wanted)).await;
    }

    /// The plugin's pid.
    fn plugin(&self) -> Pid {
        let children = format!("/proc/{0}/task/{0}/children", self.pid().as_raw_nonzero());
        let pid = std::fs::read_to_string(children).unwrap().trim().parse().unwrap();
        Pid::from_raw(pid).unwrap()
    }

    fn api(&self) -> ServerApi {
        ServerApi::at(&self.path("api.sock")).unwrap()
    }
}

async fn eventually(what: &str, check: impl Fn() -> bool) {
    let polling = async {
        while !check() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, polling).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Gone, or only waiting for somebody to collect its status.
fn is_dead(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(format!("{}/stat", pid.as_raw_nonzero())));
    stat.map_or(true, |stat| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
}

#[tokio::test]
async fn a_plugin_of_another_checksum_keeps_the_server_from_starting() {
    let mut server =
        Server::new(PluginKind::BundlePublisher, |plugin| plugin.checksum = Some("ab".repeat(32))).await;
    server.start().await;
    assert_eq!(server.exit().await.code(), Some(1));
    let log = server.log();
    assert!(log.contains("msg=\"Failed to load plugin\""), "{log}");
    assert!(log.contains("checksums did not match"), "{log}");
}

#[tokio::test]
async fn a_bad_configuration_keeps_the_server_from_starting_and_is_explained_by_validate() {
    let mut server = Server::new(PluginKind::BundlePublisher, |_| {}).await;
    server.configure("refresh_hnt = \"5m\"");
    let output = server.command(&["--validate"]).await.output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("BundlePublisher \"entente\"") && text.contains("refresh_hnt"), "{text}");
    server.start().await;
    assert_eq!(server.exit().await.code(), Some(1));
    assert!(server.log().contains("msg=\"Failed to configure plugin\""), "{}", server.log());
    server.configure("refresh_hint = \"5m\"");
    let output = server.command(&["--validate"]).await.output().await.unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(!server.path("api.sock").exists());
}

#[tokio::test]
async fn a_publisher_hears_of_each_change_and_ends_in_order() {
    let mut server = Server::started(PluginKind::BundlePublisher).await;
    server.logs("sequence_number=1 source=PublishBundle").await;
    let prepared = server.api().prepare_x509_authority().await.unwrap();
    server.logs("sequence_number=2 source=PublishBundle").await;
    server.api().activate_x509_authority(&prepared).await.unwrap();
    server.configure("refresh_hint = \"7m\"");
    server.signal(Signal::USR1);
    server.logs("msg=\"Plugin reconfigured\"").await;
    server.configure("refresh_hnt = \"7m\"");
    server.signal(Signal::USR1);
    server.logs("msg=\"Failed to reconfigure plugin\"").await;
    server.signal(Signal::TERM);
    assert_eq!(server.exit().await.code(), Some(0));
    let log = server.log();
    for line in
        ["Plugin deinitialized", "level=info msg=\"plugin process exited\"", "Server stopped gracefully"]
    {
        assert!(log.contains(line), "{line} is missing in {log}");
    }
    assert!(!log.contains("plugin failed to exit gracefully"), "{log}");
    assert!(!log.contains("crashes SPIRE Server"), "{log}");
}

#[tokio::test]
async fn a_notifier_is_told_when_the_server_starts_and_when_an_authority_is_prepared() {
    let server = Server::started(PluginKind::Notifier).await;
    server.logs("msg=\"Notifier handled event\" Notifier=entente event=\"bundle loaded\"").await;
    server.api().prepare_x509_authority().await.unwrap();
    server.logs("sequence_number=2").await;
}

#[tokio::test]
async fn a_plugin_that_dies_is_reported_and_never_started_again() {
    let server = Server::started(PluginKind::BundlePublisher).await;
    server.logs("source=PublishBundle").await;
    let plugin = server.plugin();
    kill_process(plugin, Signal::KILL).unwrap();
    server.logs("level=error msg=\"plugin process exited\" error=\"signal: killed\"").await;
    server.api().prepare_x509_authority().await.unwrap();
    server.logs("msg=\"Failed to publish bundle\" BundlePublisher=entente").await;
    let log = server.log();
    assert_eq!(log.matches("msg=\"Plugin loaded\"").count(), 1, "{log}");
}

#[tokio::test]
async fn a_killed_server_takes_its_plugin_along_and_loses_nothing() {
    let mut server = Server::started(PluginKind::BundlePublisher).await;
    let prepared = server.api().prepare_x509_authority().await.unwrap();
    let (bundle, plugin) = (server.api().bundle().await.unwrap(), server.plugin());
    server.signal(Signal::KILL);
    assert_eq!(server.exit().await.signal(), Some(9));
    eventually("the plugin is dead", || is_dead(plugin)).await;
    server.start().await;
    server.logs("msg=\"Server is ready\"").await;
    assert_eq!(server.api().bundle().await.unwrap(), bundle);
    assert_eq!(server.api().x509_authorities().await.unwrap().prepared, Some(prepared));
    // Nothing new was made, so the next publication is half a minute away; the lent identity carries the bundle.
    server.logs("sequence_number=2 source=IdentityProvider").await;
}
