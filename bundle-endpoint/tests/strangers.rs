//! What strangers may do to the public and admin listeners: each ends with a refusal that is counted, and the others are
//! served meanwhile.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends where its helpers cannot go on"
)]

mod support;

use std::time::Duration;

use support::client::{self, connect, get, raw, spiffe_tls};
use support::endpoint::{Endpoint, SERVER, published};
use support::plugin::FakePlugin;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;

/// Keyless, with a bundle and a signer, and TLS for one protocol.
struct Target {
    endpoint: Endpoint,
    bundle: entente_bundle::Bundle,
    _plugin: FakePlugin,
}

impl Target {
    async fn new() -> Self {
        let endpoint = Endpoint::keyless().await;
        let (authority, plugin) = published(&endpoint).await;
        Self { endpoint, bundle: authority.bundle(), _plugin: plugin }
    }

    async fn connect(&self, alpn: &str) -> TlsStream<TcpStream> {
        let mut tls = spiffe_tls(&self.bundle, SERVER);
        tls.alpn_protocols = vec![alpn.into()];
        connect(self.endpoint.address(), tls).await.unwrap()
    }

    async fn says(&self, alpn: &str, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.connect(alpn).await;
        // The other side may have had enough before it has read everything.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ =
            timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await.expect("it is closed");
        answer
    }

    async fn counts(&self, listener: &str, reason: &str, value: u64) {
        let metric = format!("http_refusals_total{{listener=\"{listener}\",reason=\"{reason}\"}}");
        self.endpoint.counts(&metric, value).await;
    }

    async fn still_serves(&self) {
        let answer = get(self.endpoint.address(), spiffe_tls(&self.bundle, SERVER)).await.unwrap();
        assert_eq!(answer.status, 200);
    }
}

fn starts_with(answer: &[u8], status: &str) -> bool {
    answer.starts_with(format!("HTTP/1.1 {status} ").as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_no_request_is_refused_behind_tls_and_on_the_admin_listener() {
    let target = Target::new().await;
    assert!(starts_with(&target.says("http/1.1", &[0xff; 64]).await, "400"));
    target.counts("serve", "malformed", 1).await;
    target.says("http/1.1", b"GET / HTT").await;
    target.counts("serve", "timeout", 1).await;

    let admin = target.endpoint.bound.admin;
    assert!(starts_with(&raw(admin, &[0xff; 64]).await, "400"));
    target.counts("admin", "malformed", 1).await;
    target.still_serves().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn endless_headers_are_refused_in_both_versions() {
    let target = Target::new().await;
    let line = format!("x: {}\r\n", "y".repeat(1000));
    let request = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", line.repeat(40));
    assert!(starts_with(&target.says("http/1.1", request.as_bytes()).await, "431"));
    target.counts("serve", "too_large", 1).await;

    let value = "y".repeat(40_000);
    let tls = || spiffe_tls(&target.bundle, SERVER);
    let answer =
        client::ask(target.endpoint.address(), tls(), http::Method::GET, "/", &[("x", &value)]).await;
    // Either a polite 431, or the end of the connection.
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status == 431));
    target.still_serves().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn silence_after_the_handshake_ends_soon_in_both_versions_and_on_the_admin_listener() {
    let target = Target::new().await;
    let before = Instant::now();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let mut admin = TcpStream::connect(target.endpoint.bound.admin).await.unwrap();
    let mut nothing = Vec::new();
    let silent = async { admin.read_to_end(&mut nothing).await.unwrap_or(0) };
    let (_, _, read) = tokio::join!(
        target.says("http/1.1", b""),
        target.says("h2", preface),
        timeout(Duration::from_secs(20), silent)
    );
    assert_eq!(read.unwrap(), 0);
    assert!(before.elapsed() < Duration::from_secs(18), "{:?}", before.elapsed());
    target.counts("serve", "timeout", 2).await;
    target.counts("admin", "timeout", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn requests_that_are_taken_back_at_once_end_the_connection() {
    let target = Target::new().await;
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for stream in (1..4001_u32).step_by(2) {
        // :method GET, :path /, :scheme https, :authority x; END_STREAM and END_HEADERS.
        bytes.extend([0, 0, 6, 0x01, 0x05]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend([0x82, 0x84, 0x87, 0x41, 0x01, b'x']);
        // RST_STREAM, CANCEL.
        bytes.extend([0, 0, 4, 0x03, 0]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend([0, 0, 0, 8]);
    }
    let answer = target.says("h2", &bytes).await;
    // GOAWAY with ENHANCE_YOUR_CALM is the last thing that is heard.
    let calm = [0, 0, 0, 0x0b];
    assert!(answer.windows(4).any(|window| window == calm), "{} bytes", answer.len());
    target.counts("serve", "protocol", 1).await;
    target.still_serves().await;
}
