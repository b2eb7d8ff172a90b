//! Two trust domains, a Workload API for each workload, and the real binaries with everything they print.

use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use entente_bundle::Bundle;
use entente_bundle::testing::{TestAuthority, TestSvid};
use entente_workload_identity::testing::{FakeWorkloadApi, Update};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longer than anything here takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) const SERVER_ID: &str = "spiffe://a.test/server";
pub(crate) const CLIENT_ID: &str = "spiffe://b.test/client";

/// A server in `a.test` and a client in `b.test`, federated.
pub(crate) struct Rig {
    pub(crate) a: TestAuthority,
    pub(crate) b: TestAuthority,
    pub(crate) server_agent: FakeWorkloadApi,
    pub(crate) client_agent: FakeWorkloadApi,
    _folder: TempDir,
}

impl Rig {
    /// Both agents deny.
    pub(crate) fn without_identities() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            a: TestAuthority::new("a.test"),
            b: TestAuthority::new("b.test"),
            server_agent: FakeWorkloadApi::start(folder.path().join("a.sock")).unwrap(),
            client_agent: FakeWorkloadApi::start(folder.path().join("b.sock")).unwrap(),
            _folder: folder,
        }
    }

    /// Both agents give an SVID and both bundles.
    pub(crate) fn federated() -> Self {
        let rig = Self::without_identities();
        rig.renew();
        rig
    }

    /// Fresh SVIDs for both, under the same authorities.
    pub(crate) fn renew(&self) {
        self.server_agent
            .give(Update::new(&self.server_svid(), &self.a.bundle()).with_federated(&self.b.bundle()));
        self.client_agent
            .give(Update::new(&self.client_svid(), &self.b.bundle()).with_federated(&self.a.bundle()));
    }

    pub(crate) fn server_svid(&self) -> TestSvid {
        self.a.svid("/server").build()
    }

    pub(crate) fn client_svid(&self) -> TestSvid {
        self.b.svid("/client").build()
    }

    pub(crate) async fn server(&self, arguments: &[&str]) -> Server {
        Server::start(&self.server_agent, arguments).await
    }

    /// A client that calls every 20 ms.
    pub(crate) fn client(&self, server: &Server, arguments: &[&str]) -> Program {
        client(&self.client_agent, &server.address(), &[&["--interval", "20ms"], arguments].concat())
    }
}

pub(crate) fn client(agent: &FakeWorkloadApi, address: &str, arguments: &[&str]) -> Program {
    let arguments = [&[address], arguments].concat();
    Program::start(env!("CARGO_BIN_EXE_helloworld-client"), agent, &arguments)
}

/// One bundle with the authorities of several.
pub(crate) fn together(authorities: &[&TestAuthority]) -> Bundle {
    let trust_domain = authorities[0].trust_domain().clone();
    let x509 = authorities.iter().map(|authority| authority.x509_authority()).collect();
    Bundle::new(trust_domain, x509, Vec::new(), None, None)
}

/// A running server, on a port of its own.
pub(crate) struct Server {
    pub(crate) program: Program,
    port: u16,
}

impl Server {
    pub(crate) async fn start(agent: &FakeWorkloadApi, arguments: &[&str]) -> Self {
        let listen: &[&str] =
            if arguments.contains(&"--listen") { &[] } else { &["--listen", "127.0.0.1:0"] };
        let arguments = [listen, arguments].concat();
        let program = Program::start(env!("CARGO_BIN_EXE_helloworld-server"), agent, &arguments);
        let line = program.stdout.line_with("starting up").await;
        let port = line.trim_start_matches("Server (:").trim_end_matches(") starting up...").parse().unwrap();
        Self { program, port }
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) async fn serving(self) -> Self {
        self.program.stdout.line_with("Serving on").await;
        self
    }
}

/// One of the binaries. Killed with the test.
pub(crate) struct Program {
    child: Child,
    readers: Vec<JoinHandle<()>>,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
}

impl Program {
    pub(crate) fn start(path: &str, agent: &FakeWorkloadApi, arguments: &[&str]) -> Self {
        let mut child = Command::new(path)
            .args(arguments)
            .env_clear()
            .env("SPIFFE_ENDPOINT_SOCKET", agent.address())
            .env("RUST_LOG", "debug,h2=info,hyper=info,tower=info")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (stdout, out) = Output::collect(child.stdout.take().unwrap());
        let (stderr, err) = Output::collect(child.stderr.take().unwrap());
        Self { child, readers: vec![out, err], stdout, stderr }
    }

    /// Waits for its end, and for everything that it has written.
    pub(crate) async fn exit(&mut self) -> ExitStatus {
        let Ok(status) = timeout(DEADLINE, self.child.wait()).await else {
            panic!("still running; stderr:\n{}", self.stderr.all().join("\n"));
        };
        for reader in self.readers.drain(..) {
            timeout(DEADLINE, reader).await.unwrap().unwrap();
        }
        status.unwrap()
    }

    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    pub(crate) fn terminate(&self) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// The warnings and errors it has logged.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let is_complaint = |line: &String| line.contains(" WARN ") || line.contains(" ERROR ");
        self.stderr.all().into_iter().filter(is_complaint).collect()
    }
}

/// The lines that a program has written so far.
#[derive(Clone)]
pub(crate) struct Output(Arc<watch::Sender<Vec<String>>>);

impl Output {
    fn collect(pipe: impl AsyncRead + Unpin + Send + 'static) -> (Self, JoinHandle<()>) {
        let output = Self(Arc::new(watch::Sender::new(Vec::new())));
        let writer = output.0.clone();
        let reader = tokio::spawn(async move {
            let mut lines = BufReader::new(pipe).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                writer.send_modify(|lines| lines.push(line));
            }
        });
        (output, reader)
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.borrow().clone()
    }

    pub(crate) fn count(&self, part: &str) -> usize {
        self.0.borrow().iter().filter(|line| line.contains(part)).count()
    }

    /// Waits for a line that contains `part`.
    pub(crate) async fn line_with(&self, part: &str) -> String {
        self.lines_with(1, part).await.remove(0)
    }

    /// Waits until `count` lines contain `part`.
    pub(crate) async fn lines_with(&self, count: usize, part: &str) -> Vec<String> {
        let mut lines = self.0.subscribe();
        let enough = lines.wait_for(|lines| lines.iter().filter(|line| line.contains(part)).count() >= count);
        match timeout(DEADLINE, enough).await {
            Ok(lines) => lines.unwrap().iter().filter(|line| line.contains(part)).cloned().collect(),
            Err(_) => panic!("no {count} lines with {part:?} in:\n{}", self.all().join("\n")),
        }
    }
}
