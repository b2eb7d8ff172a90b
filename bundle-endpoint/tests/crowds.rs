//! What strangers may do before they have said a request: hold connections open, say too much.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends where its helpers cannot go on"
)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use support::client::{get, spiffe_tls};
use support::endpoint::{Endpoint, SERVER, published};
use support::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// More than any one address may have.
const CROWD: usize = 300;

/// One request of HTTP/1.1 over TLS, from an address of this machine.
async fn ask_from(source: &str, address: SocketAddr, bundle: &entente_bundle::Bundle, text: &str) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(source.parse().unwrap()).unwrap();
    let tcp = socket.connect(address).await.unwrap();
    let mut tls = spiffe_tls(bundle, SERVER);
    tls.alpn_protocols = vec!["http/1.1".into()];
    let connected = TlsConnector::from(Arc::new(tls)).connect(address.ip().into(), tcp).await;
    let Ok(mut stream) = connected else { return String::new() };
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await.expect("it is closed");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_address_cannot_hold_half_open_what_others_need() {
    let endpoint = Endpoint::keyless().await;
    let (authority, _plugin) = published(&endpoint).await;
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        let mut half_open = TcpStream::connect(endpoint.address()).await.unwrap();
        // Who is turned away already may notice here.
        let _ = half_open.write_all(&[0x16, 0x03, 0x01, 0x02]).await;
        crowd.push(half_open);
    }
    eventually("the crowd is turned away", || async {
        endpoint
            .metrics()
            .await
            .contains("connections_refused_total{reason=\"too_many_of_address\"}")
            .then_some(())
    })
    .await;
    let request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let bundle = authority.bundle();
    let ask = |source| ask_from(source, endpoint.address(), &bundle, request);
    assert_eq!(ask("127.0.0.1:0").await, "", "its share is taken");
    let answer = ask("127.0.0.2:0").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_oversized_client_hello_is_refused_and_told_so() {
    let endpoint = Endpoint::keyless().await;
    let (authority, _plugin) = published(&endpoint).await;
    // A message of 65 520 bytes, which TLS allows, and one of 16 MiB, which it does not; each in records of 16 000.
    for length in [[0x00, 0xff, 0xf0], [0xff, 0xff, 0xff]] {
        let mut message = vec![0x01];
        message.extend(length);
        message.resize(60_000, 0);
        let mut stream = TcpStream::connect(endpoint.address()).await.unwrap();
        for record in message.chunks(16_000) {
            let length = u16::try_from(record.len()).unwrap().to_be_bytes();
            stream.write_all(&[&[0x16, 0x03, 0x01], length.as_slice(), record].concat()).await.unwrap();
        }
        let mut answer = Vec::new();
        // A reset would be an error here, and the alert would be lost.
        timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await.expect("an end").unwrap();
        assert_eq!((answer.len(), answer.first()), (7, Some(&0x15)), "an alert and no more");
    }
    endpoint.counts("handshakes_total{listener=\"serve\",outcome=\"too_large\"}", 2).await;
    let tls = spiffe_tls(&authority.bundle(), SERVER);
    assert_eq!(get(endpoint.address(), tls).await.unwrap().status, 200);
}
