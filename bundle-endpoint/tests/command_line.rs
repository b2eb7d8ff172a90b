//! The real binary: exit codes, what goes to stdout, and an end in good order on a signal.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends where its helpers cannot go on"
)]

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use entente_bundle::testing::TestAuthority;
use entente_bundle::{TrustDomain, document};
use support::client::{get, plain, spiffe_tls};
use support::endpoint::{Endpoint, KEYLESS, config_text};
use support::eventually;
use support::foreign::{Foreign, Says};
use support::plugin::{FakePlugin, spiffe};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpSocket;
use tokio::process::{Child, Command};
use tokio::time::timeout;

fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bundle-endpoint"));
    command.env_remove("RUST_LOG").kill_on_drop(true);
    command
}

async fn run(arguments: &[&str]) -> Output {
    timeout(Duration::from_secs(30), binary().args(arguments).output()).await.expect("it ends").unwrap()
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn write(dir: &TempDir, name: &str, content: impl AsRef<[u8]>) -> String {
    let path = dir.path().join(name);
    std::fs::write(&path, content).unwrap();
    path.display().to_string()
}

fn pem(certificate: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    let encoded = base64(certificate);
    for line in encoded.as_bytes().chunks(64) {
        writeln!(text, "{}", std::str::from_utf8(line).unwrap()).unwrap();
    }
    text + "-----END CERTIFICATE-----\n"
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group =
            chunk.iter().fold(0u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for position in 0..4 {
            let index = (group >> (18 - 6 * position)) & 63;
            text.push(if position > chunk.len() { '=' } else { ALPHABET[index as usize] as char });
        }
    }
    text
}

/// A running binary, and the ports that its log names.
struct Served {
    child: Child,
    public: SocketAddr,
    admin: SocketAddr,
    log: tokio::task::JoinHandle<Vec<String>>,
}

async fn serve(config: &Path) -> Served {
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

fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
}

impl Served {
    /// Sends the signal and waits for the end.
    async fn ends_on(mut self, with: rustix::process::Signal) -> (Option<i32>, Vec<String>) {
        signal(&self.child, with);
        let status = timeout(Duration::from_secs(15), self.child.wait()).await.expect("it ends").unwrap();
        (status.code(), self.log.await.unwrap())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bad_configuration_stops_it_with_file_line_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let config = write(&dir, "bad.toml", config_text(&dir, KEYLESS, "colour = \"red\"\n"));
    let output = run(&["serve", "--config", &config]).await;
    assert_eq!(code(&output), Some(1));
    let error = text(&output.stderr);
    assert!(error.contains("bad.toml") && error.contains("colour") && error.contains("line "), "{error}");
    let output = run(&["serve", "--config", "/nowhere.toml"]).await;
    assert_eq!(code(&output), Some(1));
    assert!(text(&output.stderr).contains("/nowhere.toml"));
    assert_eq!(code(&run(&["serve"]).await), Some(2));
}

/// The most that was ever resident.
fn peak_kib(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id().unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_storm_of_half_open_handshakes_costs_little_memory() {
    let dir = tempfile::tempdir().unwrap();
    let served = serve(Path::new(&write(&dir, "good.toml", config_text(&dir, KEYLESS, "")))).await;
    let before = peak_kib(&served.child);
    // Most of a message of 65 520 bytes, from eight addresses.
    let mut message = vec![0x01, 0x00, 0xff, 0xf0];
    message.resize(60_000, 0);
    let record = |part: &[u8]| {
        let length = u16::try_from(part.len()).unwrap().to_be_bytes();
        [&[0x16, 0x03, 0x01], length.as_slice(), part].concat()
    };
    let hello: Arc<Vec<u8>> = Arc::new(message.chunks(4_000).flat_map(record).collect());
    let storm: Vec<_> = (0..700_u32)
        .map(|number| {
            let (address, hello) = (served.public, Arc::clone(&hello));
            tokio::spawn(async move {
                let socket = TcpSocket::new_v4().unwrap();
                socket.bind(format!("127.0.0.{}:0", 2 + number % 8).parse().unwrap()).unwrap();
                let mut tcp = socket.connect(address).await?;
                tcp.write_all(&hello).await?;
                tcp.read_to_end(&mut Vec::new()).await
            })
        })
        .collect();
    for connection in storm {
        // An alert, an end or a reset.
        let _ = timeout(Duration::from_secs(60), connection).await.expect("an end").unwrap();
    }
    let grown = peak_kib(&served.child) - before;
    assert!(grown < 16 << 10, "{grown} KiB more");
    assert_eq!(plain(served.admin, "/live").await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn files_without_an_end_are_refused_by_name() {
    let spiffe = ["--profile", "https_spiffe", "--endpoint-spiffe-id", "spiffe://b.test/x", "--bundle"];
    let fetch = ["fetch", "https://127.0.0.1:1"];
    for arguments in [
        vec!["serve", "--config"],
        vec!["status", "--config"],
        [&fetch, spiffe.as_slice()].concat(),
        [&fetch, ["--profile", "https_web", "--ca-file"].as_slice()].concat(),
    ] {
        // Whatever it does wrong, it does not take the machine with it.
        let mut command = Command::new("sh");
        command
            .args(["-c", "ulimit -v 2000000; exec \"$0\" \"$@\""])
            .arg(env!("CARGO_BIN_EXE_bundle-endpoint"));
        let output = command.args(&arguments).arg("/dev/zero").kill_on_drop(true).output();
        let output = timeout(Duration::from_secs(20), output).await.expect("it ends").unwrap();
        let complaint = text(&output.stderr);
        assert!(
            !output.status.success() && complaint.contains("/dev/zero is no regular file"),
            "{complaint}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_address_in_use_stops_it_by_name() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let text_of = config_text(&dir, KEYLESS, "").replacen(
        "[serve]\nlisten = \"127.0.0.1:0\"",
        &format!("[serve]\nlisten = \"{address}\""),
        1,
    );
    let config = write(&dir, "taken.toml", text_of);
    let output = run(&["serve", "--config", &config]).await;
    assert_eq!(code(&output), Some(1));
    assert!(text(&output.stderr).contains(&address), "{}", text(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sigterm_and_sigint_end_it_in_good_order_with_requests_in_flight_and_a_plugin_linked() {
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let dir = tempfile::tempdir().unwrap();
        let config = write(&dir, "good.toml", config_text(&dir, KEYLESS, ""));
        let served = serve(Path::new(&config)).await;
        let socket = dir.path().join("link.sock");
        let plugin = FakePlugin::link(&socket).await;
        let authority = TestAuthority::new("a.test");
        plugin.own_bundle(&authority.bundle()).await;
        plugin.lend(&authority.svid("/spire/server").build()).await;
        let answer = eventually("served", || async {
            get(served.public, spiffe_tls(&authority.bundle(), "spiffe://a.test/spire/server")).await.ok()
        })
        .await;
        assert_eq!(answer.body, document::render(&authority.bundle()).as_slice().to_vec());
        // A connection that waits for its first request, and one that has said nothing yet.
        let tls = spiffe_tls(&authority.bundle(), "spiffe://a.test/spire/server");
        let _idle = support::client::connect(served.public, tls).await.unwrap();
        let _silent = tokio::net::TcpStream::connect(served.public).await.unwrap();
        let (code, log) = served.ends_on(signal).await;
        assert_eq!(code, Some(0), "{log:#?}");
        assert!(log.iter().any(|line| line.contains("\"message\":\"stopped\"")), "{log:#?}");
        assert!(!socket.exists());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_runs_on_and_ends_in_good_order_when_nobody_reads_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let config = write(&dir, "good.toml", config_text(&dir, KEYLESS, ""));
    let served = serve(Path::new(&config)).await;
    served.log.abort();
    assert!(served.log.await.is_err());
    let _ = support::client::raw(served.public, b"not tls").await;
    let mut child = served.child;
    assert_eq!(plain(served.admin, "/live").await.unwrap().status, 200);
    signal(&child, rustix::process::Signal::TERM);
    let status = timeout(Duration::from_secs(15), child.wait()).await.expect("it ends").unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(!dir.path().join("link.sock").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_killed_one_starts_again_on_the_same_socket_and_the_plugin_finds_it() {
    let dir = tempfile::tempdir().unwrap();
    let config = write(&dir, "good.toml", config_text(&dir, KEYLESS, ""));
    let first = serve(Path::new(&config)).await;
    let socket = dir.path().join("link.sock");
    assert!(socket.exists());
    let (code, _) = first.ends_on(rustix::process::Signal::KILL).await;
    assert_eq!(code, None);
    assert!(socket.exists());
    let second = serve(Path::new(&config)).await;
    let _plugin = FakePlugin::link(&socket).await;
    eventually("linked", || async {
        plain(second.admin, "/status")
            .await
            .ok()?
            .text()
            .contains("\"plugin_version\":\"test\"")
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fetch_prints_the_document_to_stdout_and_what_it_verified_to_stderr() {
    let dir = tempfile::tempdir().unwrap();
    let authority = TestAuthority::new("b.test");
    let foreign = Foreign::honest(&authority).await;
    let served = document::render(&authority.bundle_with(Some(1), Some(Duration::from_secs(300))));
    let json = write(&dir, "b.json", document::render(&authority.bundle()));
    let pem = write(&dir, "b.pem", pem(authority.certificate()));
    let id = "spiffe://b.test/spire/server";
    let url = foreign.url();
    let fetch = async |bundle: &str, more: &[&str]| {
        let asked =
            ["fetch", &url, "--profile", "https_spiffe", "--endpoint-spiffe-id", id, "--bundle", bundle];
        run(&[&asked, more].concat()).await
    };
    for bundle in [&json, &pem] {
        let output = fetch(bundle, &[]).await;
        assert_eq!(code(&output), Some(0), "{}", text(&output.stderr));
        assert_eq!(output.stdout.trim_ascii_end(), served.trim_ascii_end());
        let summary = text(&output.stderr);
        assert!(
            summary.contains(&format!("verified {id}")) && summary.contains("sequence number 1"),
            "{summary}"
        );
    }
    let output = fetch(&json, &["--output", "summary"]).await;
    assert!(text(&output.stdout).contains("x509 ") && output.stderr.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fetch_tells_refused_from_misused_by_its_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let authority = TestAuthority::new("b.test");
    let foreign = Foreign::honest(&authority).await;
    let bundle = write(&dir, "b.json", document::render(&authority.bundle()));
    let stranger = write(&dir, "c.json", document::render(&TestAuthority::new("b.test").bundle()));
    let url = foreign.url();
    let fetch = async |id: &str, bundle: &str| {
        run(&["fetch", &url, "--profile", "https_spiffe", "--endpoint-spiffe-id", id, "--bundle", bundle])
            .await
    };
    let wrong_id = fetch("spiffe://b.test/other", &bundle).await;
    assert_eq!(code(&wrong_id), Some(1));
    let error = text(&wrong_id.stderr);
    assert!(error.contains("wrong_id") && error.contains("spiffe://b.test/spire/server"), "{error}");
    assert!(wrong_id.stdout.is_empty());
    assert_eq!(code(&fetch("spiffe://b.test/spire/server", &stranger).await), Some(1));
    foreign.says(Says::Document(b"{}".to_vec()));
    let malformed = fetch("spiffe://b.test/spire/server", &bundle).await;
    assert_eq!(code(&malformed), Some(1));
    assert!(malformed.stdout.is_empty());

    assert_eq!(code(&fetch("https://b.test/", &bundle).await), Some(2));
    assert_eq!(code(&fetch("spiffe://b.test/spire/server", "/nowhere.json").await), Some(2));
    assert_eq!(code(&run(&["fetch", &url, "--profile", "https_spiffe"]).await), Some(2));
    assert_eq!(code(&run(&["fetch", &url]).await), Some(2));
    assert_eq!(code(&run(&["fetch", &url, "--profile", "https_other"]).await), Some(2));
    let web = run(&["fetch", &url, "--profile", "https_web", "--bundle", &bundle]).await;
    assert_eq!(code(&web), Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn status_shows_both_directions_and_exits_1_when_something_is_unhealthy() {
    let endpoint = Endpoint::start_in(Arc::new(tempfile::tempdir().unwrap()), KEYLESS, "").await.unwrap();
    let admin = format!("http://{}", endpoint.bound.admin);
    let output = run(&["status", "--admin", &admin]).await;
    assert_eq!(code(&output), Some(1));
    assert!(text(&output.stdout).contains("PROBLEM  no_bundle"), "{}", text(&output.stdout));

    let (authority, foreign_authority) = (TestAuthority::new("a.test"), TestAuthority::new("b.test"));
    let mut plugin = FakePlugin::link(&endpoint.link_socket()).await;
    plugin.own_bundle(&authority.bundle_with(Some(4), None)).await;
    plugin.lend(&authority.svid("/spire/server").build()).await;
    let foreign = Foreign::honest(&foreign_authority).await;
    plugin.holds_or_authenticates("b.test", None, Some(&foreign_authority.bundle())).await;
    plugin.relationships(vec![spiffe("b.test", &foreign.url())]).await;
    let offer = plugin.next_offer().await;
    let output = run(&["status", "--admin", &admin]).await;
    assert_eq!(code(&output), Some(1));
    assert!(
        text(&output.stdout).contains("PROBLEM  b.test: SPIRE holds no bundle yet"),
        "{}",
        text(&output.stdout)
    );

    let held = entente_bundle::Bundle::try_from(offer.bundle.as_ref().unwrap()).unwrap();
    plugin.holds("b.test", Some(&held)).await;
    eventually("healthy", || async { endpoint.relationship("b.test").await.filter(|r| r.healthy) }).await;
    let output = run(&["status", "--admin", &admin]).await;
    assert_eq!(code(&output), Some(0), "{}", text(&output.stdout));
    let shown = text(&output.stdout);
    assert!(
        shown.contains("all is well")
            && shown.contains("sequence number 4")
            && shown.contains("held in SPIRE, as fetched"),
        "{shown}"
    );
    let output = run(&["status", "--admin", &admin, "--output", "json"]).await;
    let status: bundle_endpoint::status::Status = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status.relationships[0].trust_domain, "b.test");
    assert!(TrustDomain::new(&status.trust_domain).is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn status_of_nobody_says_where_it_asked() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = run(&["status", "--admin", &format!("http://{nobody}")]).await;
    assert_eq!(code(&output), Some(1));
    assert!(text(&output.stderr).contains(&nobody.to_string()));
    assert_eq!(code(&run(&["status", "--admin", "https://x"]).await), Some(2));
    let dir = tempfile::tempdir().unwrap();
    let config = write(&dir, "c.toml", config_text(&dir, KEYLESS, ""));
    let output = run(&["status", "--config", &config]).await;
    assert_eq!(code(&output), Some(2), "port 0 cannot be asked");
    assert!(text(&output.stderr).contains("--admin"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn version_is_told() {
    let output = run(&["--version"]).await;
    assert_eq!(code(&output), Some(0));
    assert_eq!(text(&output.stdout).trim(), format!("bundle-endpoint {}", bundle_endpoint::VERSION));
}
