//! The helloworld pair as the lab runs it: registered, started, its lines read and its calls counted.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use entente_bundle::{SpiffeId, TrustDomain};

use crate::checks::{ensure, eventually, line_in, see};
use crate::domain::Domain;
use crate::log_file::{LogFile, Mark};
use crate::ports;
use crate::process::{Ended, Launch, Process};
use crate::server_api::NewEntry;

/// Entry, agent, SVID: the agent looks every second, and the server's own cache is a second behind.
pub(crate) const IDENTITY_DEADLINE: Duration = Duration::from_secs(30);
/// How long a client may take to stop.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// Pause between two calls of the story's client.
const CALL_INTERVAL: &str = "500ms";
/// What the client prints per good call.
const REPLY: &str = "This is Server Reply : Hello BoanLab Client.";

/// A `helloworld-server` with an entry in its domain.
#[derive(Debug)]
pub struct HelloworldServer {
    /// What it is.
    pub spiffe_id: SpiffeId,
    /// Where it listens.
    pub address: SocketAddr,
    process: Process,
}

/// A `helloworld-client` with an entry in its domain.
#[derive(Debug)]
pub struct HelloworldClient {
    /// What it is.
    pub spiffe_id: SpiffeId,
    /// Its registration entry.
    pub entry_id: String,
    process: Process,
}

/// A moment of the client's life: calls are counted from here.
#[derive(Clone, Copy, Debug)]
pub struct CallMark {
    log: Mark,
    replies: usize,
}

/// `spiffe://TD/ns/default/sa/default/app/NAME`, the IDs of the walkthrough.
pub fn workload_id(trust_domain: &TrustDomain, name: &str) -> anyhow::Result<SpiffeId> {
    Ok(SpiffeId::new(&format!("spiffe://{trust_domain}/ns/default/sa/default/app/{name}"))?)
}

/// An entry for whoever runs `program` as this user.
pub async fn register(
    domain: &Domain,
    name: &str,
    program: &Path,
    federates_with: &[TrustDomain],
) -> anyhow::Result<(SpiffeId, String)> {
    let spiffe_id = workload_id(domain.trust_domain(), name)?;
    let uid = rustix::process::geteuid().as_raw();
    let entry = NewEntry {
        spiffe_id: spiffe_id.clone(),
        parent_id: domain.node_id()?,
        selectors: vec![("unix", format!("uid:{uid}")), ("unix", format!("path:{}", program.display()))],
        federates_with: federates_with.to_vec(),
    };
    let entry_id = domain.api().create_entry(&entry).await?;
    Ok((spiffe_id, entry_id))
}

impl HelloworldServer {
    /// Registers and starts it; waits until it serves.
    pub async fn start(
        domain: &Domain,
        program: &Path,
        federates_with: &TrustDomain,
    ) -> anyhow::Result<Self> {
        let (spiffe_id, _) =
            register(domain, "helloworld-server", program, std::slice::from_ref(federates_with)).await?;
        let address = ports::loopback(ports::free()?);
        let home = domain.home();
        let process = Launch::new("helloworld-server", program, home.file("helloworld-server.log"))
            .stdout(home.file("helloworld-server.out"))
            .args(["--listen", &address.to_string()])
            .env("SPIFFE_ENDPOINT_SOCKET", domain.workload_api())
            .start()?;
        line_in(&process.stdout(), Mark::default(), &["Serving on"], IDENTITY_DEADLINE)
            .await
            .map_err(|error| see(error, process.log().path()))?;
        Ok(Self { spiffe_id, address, process })
    }
    /// The lines of the walkthrough.
    pub fn lines(&self) -> LogFile {
        self.process.stdout()
    }
    /// Refusals.
    pub fn log(&self) -> LogFile {
        self.process.log()
    }
    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }
    /// How it ended, if it has, and the log that may say why.
    pub fn ended(&mut self) -> Option<(Ended, PathBuf)> {
        self.process.ended_with_log()
    }
    /// SIGTERM; SIGKILL once `grace` is over.
    pub async fn stop(&mut self, grace: Duration) -> anyhow::Result<bool> {
        self.process.terminate(grace).await
    }
}

impl HelloworldClient {
    /// Registers and starts it; it calls `address` again and again.
    pub async fn start(
        domain: &Domain,
        program: &Path,
        federates_with: &TrustDomain,
        address: SocketAddr,
    ) -> anyhow::Result<Self> {
        let (spiffe_id, entry_id) =
            register(domain, "helloworld-client", program, std::slice::from_ref(federates_with)).await?;
        let home = domain.home();
        let process = Launch::new("helloworld-client", program, home.file("helloworld-client.log"))
            .stdout(home.file("helloworld-client.out"))
            .args([&address.to_string(), "--interval", CALL_INTERVAL])
            .env("SPIFFE_ENDPOINT_SOCKET", domain.workload_api())
            .start()?;
        Ok(Self { spiffe_id, entry_id, process })
    }
    /// The lines of the walkthrough.
    pub fn lines(&self) -> LogFile {
        self.process.stdout()
    }
    /// Refusals and failed calls.
    pub fn log(&self) -> LogFile {
        self.process.log()
    }
    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }
    /// How it ended, if it has, and the log that may say why.
    pub fn ended(&mut self) -> Option<(Ended, PathBuf)> {
        self.process.ended_with_log()
    }
    /// SIGTERM; SIGKILL once `grace` is over.
    pub async fn stop(&mut self, grace: Duration) -> anyhow::Result<bool> {
        self.process.terminate(grace).await
    }
    /// Good calls so far.
    pub fn replies(&self) -> usize {
        self.lines().lines_since(Mark::default()).iter().filter(|line| *line == REPLY).count()
    }
    /// Counts from now.
    pub fn mark(&self) -> CallMark {
        CallMark { log: self.log().mark(), replies: self.replies() }
    }
    /// Good calls since `mark`; an error when one has failed since.
    pub fn calls_since(&self, mark: &CallMark) -> anyhow::Result<usize> {
        let failed: Vec<_> =
            self.log().lines_since(mark.log).into_iter().filter(|line| is_failed_call(line)).collect();
        match failed.first() {
            Some(first) => {
                let error = anyhow::anyhow!("{} calls failed, the first one so: {first}", failed.len());
                Err(see(error, self.log().path()))
            }
            None => Ok(self.replies().saturating_sub(mark.replies)),
        }
    }
    /// Waits for `count` more good calls.
    pub async fn more_replies(&self, count: usize, deadline: Duration) -> anyhow::Result<()> {
        let wanted = self.replies() + count;
        let log = self.log();
        let what = format!("{count} more good calls of helloworld-client");
        let replies = eventually(&what, deadline, async || {
            self.process.check_alive()?;
            let replies = self.replies();
            if replies < wanted { bail!("{} are missing", wanted - replies) } else { Ok(()) }
        });
        replies.await.map_err(|error| see(error, log.path()))
    }
}

/// The client's three ways to say that a call was not answered.
fn is_failed_call(line: &str) -> bool {
    ["call failed", "server refused"].iter().any(|words| line.contains(words))
}

/// One call by hand: `helloworld-client ADDRESS --count 1`, as the same workload as the story's client.
#[derive(Debug)]
pub struct OneCall {
    /// As a person would type it.
    pub command_line: String,
    /// True when the call was answered.
    pub answered: bool,
    /// What it printed.
    pub printed: String,
    /// What it logged.
    pub logged: String,
}

impl OneCall {
    /// Calls `address` with the identity of `domain`'s client, until it is answered or one side refuses the other.
    pub async fn make(
        domain: &Domain,
        program: &Path,
        address: SocketAddr,
        server_id: Option<&SpiffeId>,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir_in(domain.home().folder()).context("cannot make a folder")?;
        let (out, log) = (folder.path().join("out"), folder.path().join("log"));
        let mut launch = Launch::new("helloworld-client", program, &log)
            .stdout(&out)
            .args([&address.to_string(), "--count", "1", "--interval", CALL_INTERVAL])
            .env("SPIFFE_ENDPOINT_SOCKET", domain.workload_api());
        if let Some(id) = server_id {
            launch = launch.args(["--server-id", &id.to_string()]);
        }
        let mut process = launch.start()?;
        let refused = eventually("helloworld-client is answered or refused", IDENTITY_DEADLINE, async || {
            // The first refusal is logged before its alert is sent. When the second one comes, the server has heard of it.
            let lines = process.log().lines_since(Mark::default());
            let refused = lines.iter().filter(|line| line.contains("server refused")).count() > 1;
            ensure(refused || process.check_alive().is_err(), || "neither happened".to_owned())
                .map(|()| refused)
        });
        let answered = match refused.await {
            Ok(false) => process.wait(IDENTITY_DEADLINE).await?.success(),
            Ok(true) | Err(_) => process.terminate(STOP_GRACE).await.map(|_| false)?,
        };
        let read = |path| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
        Ok(Self { command_line: launch.command_line(), answered, printed: read(&out), logged: read(&log) })
    }
}
