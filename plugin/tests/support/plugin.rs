//! Starts the real binary and speaks to it as SPIRE Server does.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use entente_proto::plugin::grpc_broker_client::GrpcBrokerClient;
use entente_proto::plugin::grpc_controller_client::GrpcControllerClient;
use entente_proto::plugin::grpc_stdio_client::GrpcStdioClient;
use entente_proto::plugin::{ConnInfo, Empty, StdioData};
use entente_proto::spire::plugin::server::bundlepublisher::v1::PublishBundleRequest;
use entente_proto::spire::plugin::server::bundlepublisher::v1::bundle_publisher_client::BundlePublisherClient;
use entente_proto::spire::plugin::server::notifier::v1::notifier_client::NotifierClient;
use entente_proto::spire::plugin::types;
use entente_proto::spire::service::common::config::v1::config_client::ConfigClient;
use entente_proto::spire::service::common::config::v1::{
    ConfigureRequest, CoreConfiguration, ValidateRequest,
};
use entente_proto::spire::service::private::init::v1::init_client::InitClient;
use entente_proto::spire::service::private::init::v1::{DeinitRequest, InitRequest};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use super::lent::{self, Lent};
use super::logs::Logs;
use super::{OWN, PATIENCE};

/// The process, before anybody has spoken to it.
pub struct Launched {
    pub folder: TempDir,
    pub child: Child,
    pub socket: PathBuf,
    pub logs: Logs,
    stderr: JoinHandle<()>,
    stdout: JoinHandle<Vec<u8>>,
}

/// A plugin whose host has connected.
pub struct Plugin {
    pub launched: Launched,
    pub lent: Lent,
    connection: Option<Connection>,
}

/// The channel, and the streams that SPIRE keeps open on it.
struct Connection {
    channel: Channel,
    broker: mpsc::Sender<ConnInfo>,
    _broker_answers: Streaming<ConnInfo>,
    _stdio: Streaming<StdioData>,
}

pub fn command(cookie: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_entente-plugin"));
    command
        .env(cookie, cookie)
        .env("PLUGIN_PROTOCOL_VERSIONS", "1")
        .env("PLUGIN_MIN_PORT", "10000")
        .env("PLUGIN_MAX_PORT", "25000")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

impl Launched {
    /// Starts the process and takes its handshake line.
    pub async fn new(cookie: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut child = command(cookie).env("TMPDIR", folder.path()).spawn().unwrap();
        let logs = Logs::default();
        let stderr = logs.read(child.stderr.take().unwrap());
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        timeout(PATIENCE, stdout.read_line(&mut line)).await.expect("a handshake line in time").unwrap();
        let socket = socket_in(&line);
        let stdout = tokio::spawn(async move {
            let mut rest = Vec::new();
            stdout.read_to_end(&mut rest).await.unwrap();
            rest
        });
        Self { folder, child, socket, logs, stderr, stdout }
    }

    pub fn pid(&self) -> rustix::process::Pid {
        let pid = self.child.id().expect("a running process");
        rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the end; both pipes must end too, and nothing may have followed the handshake.
    pub async fn ended(mut self, limit: Duration) -> ExitStatus {
        let status = timeout(limit, self.child.wait()).await.expect("the plugin ends in time").unwrap();
        let rest = timeout(PATIENCE, self.stdout).await.expect("stdout ends").unwrap();
        assert_eq!(rest, b"", "nothing follows the handshake on stdout");
        timeout(PATIENCE, self.stderr).await.expect("stderr ends").unwrap();
        status
    }
}

fn socket_in(line: &str) -> PathBuf {
    let fields: Vec<_> = line.trim().split('|').collect();
    assert_eq!(fields[..3], ["1", "1", "unix"], "{line}");
    assert_eq!(fields[4..], ["grpc", ""], "{line}");
    assert!(fields[3].len() < 108);
    PathBuf::from(fields[3])
}

/// A channel as SPIRE's: plain HTTP/2, authority `unused`.
pub async fn dial(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_: http::Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://unused").connect_with_connector(connector).await.unwrap()
}

impl Plugin {
    /// Launch, connect, both long streams, Init. The address of the host services follows Init, as it may.
    pub async fn start(cookie: &str) -> Self {
        let plugin = Self::connect(Launched::new(cookie).await).await;
        plugin.init().await;
        plugin.tell_where().await;
        plugin
    }

    pub async fn publisher() -> Self {
        Self::start("BundlePublisher").await
    }

    pub async fn connect(launched: Launched) -> Self {
        let channel = dial(&launched.socket).await;
        let stdio = GrpcStdioClient::new(channel.clone()).stream_stdio(()).await.unwrap().into_inner();
        let (broker, ours) = mpsc::channel(4);
        let mut client = GrpcBrokerClient::new(channel.clone());
        let answers = client.start_stream(ReceiverStream::new(ours));
        let answers =
            timeout(PATIENCE, answers).await.expect("an answer before any message").unwrap().into_inner();
        let lent = Lent::default();
        lent.serve(&launched.folder.path().join("lent.sock"));
        let connection = Connection { channel, broker, _broker_answers: answers, _stdio: stdio };
        Self { launched, lent, connection: Some(connection) }
    }

    pub fn channel(&self) -> Channel {
        self.connection.as_ref().unwrap().channel.clone()
    }

    /// Tells where the host services are.
    pub async fn tell_where(&self) {
        let address = self.launched.folder.path().join("lent.sock").to_string_lossy().into_owned();
        let info = ConnInfo { service_id: 1, network: "unix".into(), address, knock: None };
        self.connection.as_ref().unwrap().broker.send(info).await.unwrap();
    }

    /// Returns what the plugin says it implements.
    pub async fn init(&self) -> Vec<String> {
        let host_service_names = lent::NAMES.map(str::to_owned).to_vec();
        let request = InitRequest { host_service_names };
        InitClient::new(self.channel()).init(request).await.unwrap().into_inner().plugin_service_names
    }

    pub async fn configure(&self, text: &str) -> Result<(), Status> {
        let request = ConfigureRequest { core_configuration: core(), hcl_configuration: text.into() };
        ConfigClient::new(self.channel()).configure(request).await.map(drop)
    }

    /// Returns the notes, which are all that SPIRE looks at.
    pub async fn validate(&self, text: &str) -> Vec<String> {
        let request = ValidateRequest { core_configuration: core(), hcl_configuration: text.into() };
        ConfigClient::new(self.channel()).validate(request).await.unwrap().into_inner().notes
    }

    pub async fn publish(&self, bundle: Option<types::Bundle>) -> Result<(), Status> {
        let mut client = BundlePublisherClient::new(self.channel());
        client.publish_bundle(PublishBundleRequest { bundle }).await.map(drop)
    }

    pub fn notifier(&self) -> NotifierClient<Channel> {
        NotifierClient::new(self.channel())
    }

    pub async fn deinit(&self) {
        let call = async { InitClient::new(self.channel()).deinit(DeinitRequest {}).await };
        timeout(Duration::from_secs(10), call).await.expect("Deinit inside its deadline").unwrap();
    }

    /// Deinit, Shutdown, close; the plugin must be gone within two seconds.
    pub async fn stop(mut self) -> ExitStatus {
        self.deinit().await;
        let shutdown = GrpcControllerClient::new(self.channel()).shutdown(Empty {}).await;
        assert!(shutdown.is_ok(), "Shutdown is answered: {shutdown:?}");
        self.hang_up();
        let socket = self.launched.socket.clone();
        let status = self.launched.ended(Duration::from_secs(2)).await;
        assert!(!socket.exists(), "the socket file is removed");
        status
    }

    /// Closes the connection without a word.
    pub fn hang_up(&mut self) {
        self.connection = None;
    }
}

fn core() -> Option<CoreConfiguration> {
    Some(CoreConfiguration { trust_domain: OWN.into() })
}
