//! Which host a request names: one and readable, in both versions, on every listener. Whose name it is does not matter.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends where its helpers cannot go on"
)]

mod support;

use http::{Method, Request};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use support::client::{ask, connect, raw, spiffe_tls};
use support::endpoint::{Endpoint, SERVER, published};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Each with the status that it gets.
const HEADS: [(&str, &str); 19] = [
    ("GET / HTTP/1.1", "400"),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: a", "400"),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: b", "400"),
    ("GET http://a/ HTTP/1.1", "400"),
    ("GET http://a/ HTTP/1.1\r\nHost: b", "400"),
    ("GET / HTTP/1.1\r\nHost: a, b", "400"),
    ("GET / HTTP/1.1\r\nHost: a b", "400"),
    ("GET / HTTP/1.1\r\nHost: a:99999", "400"),
    ("GET / HTTP/1.1\r\nHost: u@a", "400"),
    ("GET / HTTP/1.1\r\nHost: \u{e9}", "400"),
    ("GET / HTTP/1.0\r\nHost: a b", "400"),
    ("HEAD / HTTP/1.1\r\nHost: a b", "400"),
    ("GET / HTTP/1.1\r\nHost: a\r\nConnection: close", "200"),
    ("GET / HTTP/1.1\r\nHost: a:\r\nConnection: close", "200"),
    ("GET / HTTP/1.1\r\nHost: 203.0.113.7:8443\r\nConnection: close", "200"),
    ("GET / HTTP/1.1\r\nHost: [2001:db8::1]:443\r\nConnection: close", "200"),
    ("GET http://a/ HTTP/1.1\r\nHost: A:80\r\nConnection: close", "200"),
    ("GET / HTTP/1.1\r\nHost:\r\nConnection: close", "200"),
    ("GET / HTTP/1.0", "200"),
];

const REFUSED: u64 = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_request_of_http_1_1_names_exactly_one_host_that_can_be_read() {
    let endpoint = Endpoint::keyless().await;
    let (authority, _plugin) = published(&endpoint).await;
    for (head, status) in HEADS {
        let text = format!("{head}\r\n\r\n");
        let mut tls = spiffe_tls(&authority.bundle(), SERVER);
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut stream = connect(endpoint.address(), tls).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        is_answered(&String::from_utf8(answer).unwrap(), status, head);
        let text = text.replacen("/ ", "/live ", 1);
        let answer = String::from_utf8(raw(endpoint.bound.admin, text.as_bytes()).await).unwrap();
        is_answered(&answer, status, &text);
    }
    endpoint.counts("http_refusals_total{listener=\"serve\",reason=\"host\"}", REFUSED).await;
    endpoint.counts("http_refusals_total{listener=\"admin\",reason=\"host\"}", REFUSED).await;
}

/// A refusal says why, but for `HEAD`.
fn is_answered(answer: &str, status: &str, asked: &str) {
    assert_eq!(answer.split(' ').nth(1), Some(status), "{asked:?}: {answer}");
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    let says_why = body.to_ascii_lowercase().contains("host");
    assert_eq!(says_why, status == "400" && asked.starts_with("GET"), "{asked:?}: {answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_request_of_http_2_names_no_second_host() {
    let endpoint = Endpoint::keyless().await;
    let (authority, _plugin) = published(&endpoint).await;
    let own = endpoint.address().to_string();
    let same: &[(&str, &str)] = &[("host", &own)];
    for (headers, status) in [
        (&[][..], 200),
        (same, 200),
        (&[("host", "other.test")], 400),
        (&[("host", "a b")], 400),
        (&[("host", &own), ("host", &own)], 400),
    ] {
        let tls = spiffe_tls(&authority.bundle(), SERVER);
        let answer = ask(endpoint.address(), tls, Method::GET, "/", headers).await.unwrap();
        assert_eq!((answer.version, answer.status), (http::Version::HTTP_2, status), "{headers:?}");
        assert_eq!(answer.text().contains("ost"), status == 400, "{headers:?}: {}", answer.text());
    }
    endpoint.counts("http_refusals_total{listener=\"serve\",reason=\"host\"}", 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_request_of_http_2_without_authority_names_its_host_in_the_field() {
    let endpoint = Endpoint::keyless().await;
    let (authority, _plugin) = published(&endpoint).await;
    let stream = connect(endpoint.address(), spiffe_tls(&authority.bundle(), SERVER)).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for (host, status) in [(None, 400), (Some(""), 400), (Some("a.test:8443"), 200)] {
        // A path alone becomes no `:authority`, as where a gateway passes a request of HTTP/1.0 on.
        let mut request = Request::get("/");
        if let Some(host) = host {
            request = request.header("host", host);
        }
        let answer = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
        assert_eq!((answer.version(), answer.status().as_u16()), (http::Version::HTTP_2, status), "{host:?}");
    }
    endpoint.counts("http_refusals_total{listener=\"serve\",reason=\"host\"}", 2).await;
}
