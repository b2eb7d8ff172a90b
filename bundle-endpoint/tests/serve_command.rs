//! `bundle-endpoint serve` as a process: what stops its start, and an end in good order on a signal.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends where its helpers cannot go on"
)]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use entente_bundle::document;
use entente_bundle::testing::TestAuthority;
use support::client::{get, plain, spiffe_tls};
use support::endpoint::{KEYLESS, config_text};
use support::eventually;
use support::plugin::FakePlugin;
use support::program::{code, run, serve, signal, text, write};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::process::Child;
use tokio::time::timeout;

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
