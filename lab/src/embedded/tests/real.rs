//! A real `spire-server`, for the same tests.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::eventually;
use crate::spire::install;

const VARIABLE: &str = "ENTENTE_API_TESTS";

/// Every other test of this folder once more, in a process of its own, on real SPIRE.
#[tokio::test]
async fn real_spire_behaves_as_these_tests_say() {
    if is_wanted() {
        return;
    }
    if install::find(None).unwrap().is_none() && !install::can_build() {
        let in_ci = std::env::var("CI").is_ok_and(|value| value == "true");
        assert!(!in_ci, "CI=true, but real SPIRE is neither here nor can it be built: install Go");
        eprintln!("left out: the stand-in's tests on real SPIRE, which is not here and needs Go to be built");
        return;
    }
    install::find_or_build(None).await.unwrap();
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    command.args(["embedded::tests::", "--test-threads", "2"]).env(VARIABLE, "real");
    let output = command.output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// True where the tests are to ask real SPIRE.
pub(super) fn is_wanted() -> bool {
    std::env::var(VARIABLE).is_ok_and(|wanted| wanted == "real")
}

/// Killed when dropped.
pub(super) struct RealServer {
    child: Child,
    log: PathBuf,
    pub(super) endpoint: SocketAddr,
}

impl RealServer {
    pub(super) async fn start(folder: &Path, trust_domain: &str) -> Self {
        let programs = install::find(None).unwrap().expect("no real SPIRE in the cache");
        let (endpoint, api) = (free_port(), free_port());
        let log = folder.join("log");
        let conf = folder.join("server.conf");
        std::fs::create_dir_all(folder.join("data")).unwrap();
        std::fs::write(&conf, configuration(folder, trust_domain, endpoint, api)).unwrap();
        let out = File::create(&log).unwrap();
        let mut command = Command::new(programs.server);
        command.args(["run", "-config"]).arg(&conf).stdin(Stdio::null());
        let child = command.stdout(out.try_clone().unwrap()).stderr(out).spawn().unwrap();
        let server = Self { child, log, endpoint };
        // A socket may be left from before, so it must answer.
        let socket = folder.join("api.sock");
        eventually(async || UnixStream::connect(&socket).ok()).await;
        server
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for RealServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn configuration(folder: &Path, trust_domain: &str, endpoint: SocketAddr, api: SocketAddr) -> String {
    let folder = folder.display();
    let endpoint = format!("address = \"{}\"\n port = {}", endpoint.ip(), endpoint.port());
    let api = format!("bind_address = \"{}\"\n bind_port = {}", api.ip(), api.port());
    let server = format!(
        "{api}\n socket_path = \"{folder}/api.sock\"\n trust_domain = \"{trust_domain}\"\n data_dir = \"{folder}/data\"\n \
         log_level = \"DEBUG\"\n federation {{ bundle_endpoint {{ {endpoint}\n profile \"https_spiffe\" {{}} }} }}"
    );
    let database = format!("database_type = \"sqlite3\"\n connection_string = \"{folder}/data/db.sqlite3\"");
    let data_store = format!("DataStore \"sql\" {{ plugin_data {{ {database} }} }}");
    let keys = format!("KeyManager \"disk\" {{ plugin_data {{ keys_path = \"{folder}/data/keys.json\" }} }}");
    let attestor = "NodeAttestor \"join_token\" { plugin_data {} }";
    format!("server {{\n{server}\n}}\nplugins {{\n{data_store}\n{keys}\n{attestor}\n}}\n")
}
