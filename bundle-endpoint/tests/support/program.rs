//! The real binary: run to its end, or serving while a test looks at it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

pub fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bundle-endpoint"));
    command.env_remove("RUST_LOG").kill_on_drop(true);
    command
}

pub async fn run(arguments: &[&str]) -> Output {
    timeout(Duration::from_secs(30), binary().args(arguments).output()).await.expect("it ends").unwrap()
}

pub fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn write(dir: &TempDir, name: &str, content: impl AsRef<[u8]>) -> String {
    let path = dir.path().join(name);
    std::fs::write(&path, content).unwrap();
    path.display().to_string()
}

/// A running binary, and the ports that its log names.
pub struct Served {
    pub child: Child,
    pub public: SocketAddr,
    pub admin: SocketAddr,
    pub log: tokio::task::JoinHandle<Vec<String>>,
}

pub async fn serve(config: &Path) -> Served {
    let mut child = binary()
        .args(["serve", "--log-format", "json", "--config"])
        .arg(config)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut addresses = std::collections::HashMap::new();
    while addresses.len() < 2 {
        let line = lines.next_line().await.unwrap().expect("it says where it listens");
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        if event["message"] == "listening" {
            let address: SocketAddr = event["address"].as_str().unwrap().parse().unwrap();
            addresses.insert(event["listener"].as_str().unwrap().to_owned(), address);
        }
    }
    let log = tokio::spawn(async move {
        let mut all = Vec::new();
        while let Ok(Some(line)) = lines.next_line().await {
            all.push(line);
        }
        all
    });
    Served { child, public: addresses["serve"], admin: addresses["admin"], log }
}

pub fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
}

impl Served {
    /// Sends the signal and waits for the end.
    pub async fn ends_on(mut self, with: rustix::process::Signal) -> (Option<i32>, Vec<String>) {
        signal(&self.child, with);
        let status = timeout(Duration::from_secs(15), self.child.wait()).await.expect("it ends").unwrap();
        (status.code(), self.log.await.unwrap())
    }
}
