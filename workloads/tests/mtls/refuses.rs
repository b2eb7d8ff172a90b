//! Every way to be turned away, seen from both sides. The test that a server still greets afterwards ends each of those
//! that attack it.

use std::sync::Arc;

use entente_bundle::tls::{self, CertificateSlot, SvidVerifier};
use entente_bundle::{Authorizer, BundleSet};
use entente_workload_identity::testing::Update;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::rig::{CLIENT_ID, DEADLINE, Rig, SERVER_ID, Server, client};

/// Waits for a line on the server's side and one on the client's, and sees that no greeting was exchanged.
async fn refused(rig: &Rig, server: &Server, arguments: &[&str], on_server: [&str; 2], on_client: [&str; 2]) {
    let client = rig.client(server, arguments);
    let line = server.program.stderr.line_with(on_server[0]).await;
    assert!(line.contains(on_server[1]), "{line}");
    let line = client.stderr.line_with(on_client[0]).await;
    assert!(line.contains(on_client[1]), "{line}");
    assert_eq!(server.program.stdout.count("Server gets"), 0);
    assert_eq!(client.stdout.count("This is Server Reply"), 0);
}

fn presented(id: &str) -> String {
    format!("presented={id}")
}

#[tokio::test]
async fn a_client_whose_trust_domain_is_not_federated() {
    let rig = Rig::federated();
    rig.server_agent.give(Update::new(&rig.server_svid(), &rig.a.bundle()));
    let server = rig.server(&[]).await.serving().await;
    let on_server = ["reason=\"no_bundle\"", &presented(CLIENT_ID)];
    refused(&rig, &server, &[], on_server, ["server refused our svid", CLIENT_ID]).await;
}

#[tokio::test]
async fn a_server_whose_trust_domain_is_not_federated() {
    let rig = Rig::federated();
    rig.client_agent.give(Update::new(&rig.client_svid(), &rig.b.bundle()));
    let server = rig.server(&[]).await.serving().await;
    let on_client = ["reason=\"no_bundle\"", &presented(SERVER_ID)];
    refused(&rig, &server, &[], ["client refused our svid", SERVER_ID], on_client).await;
}

#[tokio::test]
async fn a_client_whose_id_was_signed_by_another_trust_domain() {
    let rig = Rig::federated();
    // Both authorities are trusted, each for its own trust domain only.
    let forged = rig.a.svid("/client").with_id(CLIENT_ID).build();
    rig.client_agent.give(Update::new(&forged, &rig.a.bundle()).with_federated(&rig.a.bundle()));
    let server = rig.server(&[]).await.serving().await;
    let on_server = ["reason=\"unknown_issuer\"", &presented(CLIENT_ID)];
    refused(&rig, &server, &[], on_server, ["server refused our svid", CLIENT_ID]).await;
}

#[tokio::test]
async fn a_server_whose_id_was_signed_by_another_trust_domain() {
    let rig = Rig::federated();
    let forged = rig.b.svid("/server").with_id(SERVER_ID).build();
    rig.server_agent.give(Update::new(&forged, &rig.a.bundle()).with_federated(&rig.b.bundle()));
    let server = rig.server(&[]).await.serving().await;
    let on_client = ["reason=\"unknown_issuer\"", &presented(SERVER_ID)];
    refused(&rig, &server, &[], ["client refused our svid", SERVER_ID], on_client).await;
}

#[tokio::test]
async fn a_client_that_is_not_on_the_list() {
    let rig = Rig::federated();
    let server = rig.server(&["--allow-id", "spiffe://b.test/other"]).await.serving().await;
    let on_server = ["reason=\"not_authorized\"", &presented(CLIENT_ID)];
    refused(&rig, &server, &[], on_server, ["server refused our svid", CLIENT_ID]).await;
}

#[tokio::test]
async fn a_client_of_a_trust_domain_that_is_not_on_the_list() {
    let rig = Rig::federated();
    let server = rig.server(&["--allow-trust-domain", "a.test"]).await.serving().await;
    let on_server = ["reason=\"not_authorized\"", &presented(CLIENT_ID)];
    refused(&rig, &server, &[], on_server, ["server refused our svid", CLIENT_ID]).await;
}

#[tokio::test]
async fn a_server_with_another_id_than_the_wanted_one() {
    let rig = Rig::federated();
    let server = rig.server(&[]).await.serving().await;
    let on_client = ["reason=\"not_authorized\"", &presented(SERVER_ID)];
    let wanted = ["--server-id", "spiffe://a.test/other"];
    refused(&rig, &server, &wanted, ["client refused our svid", SERVER_ID], on_client).await;
}

/// A client that we build, so that it may do what ours does not.
async fn handshake(server: &Server, config: ClientConfig) -> std::io::Result<()> {
    let tcp = TcpStream::connect(server.address()).await?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    // In TLS 1.3 the client is done first; a refusal arrives with the first read.
    tls.read_u8().await.map(drop)
}

fn trusting(rig: &Rig, slot: Option<Arc<CertificateSlot>>) -> ClientConfig {
    let bundles = Arc::new(BundleSet::from_iter([rig.a.bundle()]));
    tls::client_config(SvidVerifier::new(bundles, Authorizer::AnyInBundles), slot, &[b"h2"]).unwrap()
}

async fn still_greets(rig: &Rig, server: &Server) {
    assert!(rig.client(server, &["--count", "1"]).exit().await.success());
}

#[tokio::test]
async fn a_client_with_an_expired_svid() {
    let rig = Rig::federated();
    let server = rig.server(&[]).await.serving().await;
    let slot = Arc::new(CertificateSlot::default());
    slot.set(rig.b.svid("/client").expired().build().certified_key());
    let error = handshake(&server, trusting(&rig, Some(slot))).await.unwrap_err();
    assert!(error.to_string().contains("alert"), "{error}");
    let line = server.program.stderr.line_with("reason=\"expired\"").await;
    assert!(line.contains(&presented(CLIENT_ID)), "{line}");
    still_greets(&rig, &server).await;
}

#[tokio::test]
async fn a_client_without_a_certificate() {
    let rig = Rig::federated();
    let server = rig.server(&[]).await.serving().await;
    let error = handshake(&server, trusting(&rig, None)).await.unwrap_err();
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
    server.program.stderr.line_with("reason=\"no_certificate\"").await;
    still_greets(&rig, &server).await;
}

#[tokio::test]
async fn a_client_that_speaks_only_an_older_tls() {
    let rig = Rig::federated();
    let server = rig.server(&[]).await.serving().await;
    let bundles = Arc::new(BundleSet::from_iter([rig.a.bundle()]));
    let config = ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(SvidVerifier::new(bundles, Authorizer::AnyInBundles))
        .with_no_client_auth();
    assert!(handshake(&server, config).await.is_err());
    server.program.stderr.line_with("reason=\"incompatible\"").await;
    still_greets(&rig, &server).await;
}

#[tokio::test]
async fn bytes_that_are_not_tls() {
    let rig = Rig::federated();
    let server = rig.server(&[]).await.serving().await;
    let http = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec();
    for garbage in [http, vec![0; 4096], vec![0xff; 4096], b"\x16\x03\x01\xff\xff".repeat(100)] {
        let mut tcp = TcpStream::connect(server.address()).await.unwrap();
        tcp.write_all(&garbage).await.unwrap();
        let mut answer = Vec::new();
        // An alert or a reset; in any case the end.
        let _ = timeout(DEADLINE, tcp.read_to_end(&mut answer)).await.unwrap();
    }
    server.program.stderr.lines_with(4, "client refused").await;
    still_greets(&rig, &server).await;
}

#[tokio::test]
async fn a_client_that_connects_and_says_nothing() {
    let rig = Rig::federated();
    let server = rig.server(&["--handshake-timeout", "200ms"]).await.serving().await;
    let mut silent = TcpStream::connect(server.address()).await.unwrap();
    let mut half = TcpStream::connect(server.address()).await.unwrap();
    half.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
    still_greets(&rig, &server).await;
    server.program.stderr.lines_with(2, "reason=\"timeout\"").await;
    for tcp in [&mut silent, &mut half] {
        let closed = timeout(DEADLINE, tcp.read(&mut [0])).await.unwrap();
        assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    }
}

#[tokio::test]
async fn a_crowd_of_one_address_that_says_nothing_and_its_noise() {
    let rig = Rig::federated();
    let server = rig.server(&[]).await.serving().await;
    let mut crowd = Vec::new();
    for _ in 0..100 {
        crowd.push(TcpStream::connect(server.address()).await.unwrap());
    }
    server.program.stderr.lines_with(30, "reason=\"too_many\"").await;
    let warned = |line: &String| line.contains(" WARN ") && line.contains("too_many");
    let warnings = server.program.stderr.all().into_iter().filter(warned).count();
    assert!(warnings <= 2, "{warnings} warnings");
    let other = TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let tcp = other.connect(server.address().parse().unwrap()).await.unwrap();
    let slot = Arc::new(CertificateSlot::default());
    slot.set(rig.client_svid().certified_key());
    let name = ServerName::try_from("127.0.0.1").unwrap();
    TlsConnector::from(Arc::new(trusting(&rig, Some(slot)))).connect(name, tcp).await.unwrap();
    drop(crowd);
    still_greets(&rig, &server).await;
}

#[tokio::test]
async fn a_connection_that_leaves_at_once() {
    let rig = Rig::federated();
    let server = rig.server(&[]).await.serving().await;
    drop(TcpStream::connect(server.address()).await.unwrap());
    server.program.stderr.line_with("reason=\"closed\"").await;
    // A kubelet's probe does no more than that, and every one of them would be a warning.
    assert_eq!(server.program.complaints(), Vec::<String>::new());
    still_greets(&rig, &server).await;
}

/// A server of somebody else, which does `serve` with each connection; gives its address.
async fn stranger<F: Future<Output = ()> + Send>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            serve(tcp).await;
        }
    });
    address
}

#[tokio::test]
async fn a_server_that_speaks_only_an_older_tls() {
    let rig = Rig::federated();
    let slot = Arc::new(CertificateSlot::default());
    slot.set(rig.server_svid().certified_key());
    let config = tls::public_server_config(slot, &[&rustls::version::TLS12], &[b"h2"]).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let address = stranger(move |tcp| {
        let accepting = acceptor.accept(tcp);
        async { drop(accepting.await) }
    })
    .await;
    let client = client(&rig.client_agent, &address, &["--interval", "20ms"]);
    let line = client.stderr.line_with("protocol version").await;
    assert!(line.contains("tls handshake") && line.contains(&address), "{line}");
    assert_eq!(client.stdout.count("This is Server Reply"), 0);
}

#[tokio::test]
async fn a_server_that_does_not_speak_tls_or_leaves_at_once() {
    let rig = Rig::federated();
    let address = stranger(|mut tcp| async move {
        let _ = tcp.read(&mut [0; 4096]).await;
        let _ = tcp.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n").await;
    })
    .await;
    let garbled = client(&rig.client_agent, &address, &["--interval", "20ms"]);
    garbled.stderr.lines_with(2, "reason=\"not_tls\"").await;
    let address = stranger(|tcp| async move { drop(tcp) }).await;
    let left = client(&rig.client_agent, &address, &["--interval", "20ms"]);
    left.stderr.lines_with(2, "reason=\"closed\"").await;
}
