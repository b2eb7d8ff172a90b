//! The public and admin listeners over real TLS: what is served, as whom, and what strangers get.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends where its helpers cannot go on"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use entente_bundle::testing::{KeyKind, TestAuthority};
use entente_bundle::{TrustDomain, document};
use entente_workload_identity::testing::{FakeWorkloadApi, Update};
use http::{Method, Version};
use rustls::ProtocolVersion;
use support::client::{self, get, raw, spiffe_tls, web_tls};
use support::endpoint::{Endpoint, KEYLESS, SERVER, published};
use support::eventually;
use support::plugin::{FakePlugin, Signing};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_no_plugin_the_handshake_ends_with_an_alert_and_ready_says_why() {
    let endpoint = Endpoint::keyless().await;
    let authority = TestAuthority::new("a.test");
    let error = get(endpoint.address(), spiffe_tls(&authority.bundle(), SERVER)).await.unwrap_err();
    assert!(error.to_string().contains("alert"), "{error}");
    assert_eq!(endpoint.unready_because().await, ["no_bundle", "no_signer", "link_down"]);
    endpoint.counts("handshakes_total{listener=\"serve\",outcome=\"no_identity\"}", 1).await;
    assert_eq!(endpoint.admin("/live").await.status, 200);
    endpoint.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn before_the_first_bundle_the_answer_is_503_and_not_an_empty_document() {
    let endpoint = Endpoint::keyless().await;
    let authority = TestAuthority::new("a.test");
    let plugin = FakePlugin::link(&endpoint.link_socket()).await;
    plugin.lend(&authority.svid("/spire/server").build()).await;
    eventually("a signer", || async { (endpoint.unready_because().await == ["no_bundle"]).then_some(()) })
        .await;
    let answer = get(endpoint.address(), spiffe_tls(&authority.bundle(), SERVER)).await.unwrap();
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("retry-after"), "5");
    assert!(!answer.text().contains("keys"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn keyless_the_document_is_served_as_the_spire_server() {
    let endpoint = Endpoint::keyless().await;
    let (authority, plugin) = published(&endpoint).await;
    let tls = || spiffe_tls(&authority.bundle(), SERVER);
    let answer = get(endpoint.address(), tls()).await.unwrap();
    assert_eq!((answer.status, answer.version), (200, Version::HTTP_2));
    assert_eq!(answer.presented.unwrap().to_string(), SERVER);
    assert_eq!(answer.protocol, Some(ProtocolVersion::TLSv1_3));
    let domain = TrustDomain::new("a.test").unwrap();
    let parsed = document::parse(&answer.body, &domain, &Default::default()).unwrap();
    assert_eq!(parsed.bundle, authority.bundle_with(Some(1), Some(Duration::from_secs(60))));
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.headers["cache-control"], "public, max-age=15, must-revalidate");

    let tag = answer.headers["etag"].to_str().unwrap();
    let again = client::ask(endpoint.address(), tls(), Method::GET, "/?x=1", &[("if-none-match", tag)])
        .await
        .unwrap();
    assert_eq!((again.status, again.body.len()), (304, 0));

    let request = plugin.sign_requests.lock().unwrap()[0].clone();
    assert!(request.content.starts_with(&[b' '; 64]));
    assert_eq!(&request.content[64..98], b"TLS 1.3, server CertificateVerify\0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn http_1_1_and_clients_without_alpn_are_served_too() {
    let endpoint = Endpoint::keyless().await;
    let (authority, _plugin) = published(&endpoint).await;
    for alpn in [vec![b"http/1.1".to_vec()], vec![]] {
        let mut tls = spiffe_tls(&authority.bundle(), SERVER);
        tls.alpn_protocols = alpn;
        let answer = get(endpoint.address(), tls).await.unwrap();
        assert_eq!((answer.status, answer.version), (200, Version::HTTP_11));
        assert_eq!(answer.headers["content-length"], answer.body.len().to_string().as_str());
    }
    let mut tls = spiffe_tls(&authority.bundle(), SERVER);
    tls.alpn_protocols = vec![b"spdy/1".to_vec()];
    assert!(get(endpoint.address(), tls).await.is_err());
    endpoint.counts("handshakes_total{listener=\"serve\",outcome=\"no_application_protocol\"}", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn head_has_the_headers_and_other_requests_their_status_in_both_versions() {
    let endpoint = Endpoint::keyless().await;
    let (authority, _plugin) = published(&endpoint).await;
    for alpn in ["h2", "http/1.1"] {
        let ask = |method: Method, path: &'static str| {
            let mut tls = spiffe_tls(&authority.bundle(), SERVER);
            tls.alpn_protocols = vec![alpn.into()];
            client::ask(endpoint.address(), tls, method, path, &[])
        };
        let get = ask(Method::GET, "/").await.unwrap();
        let head = ask(Method::HEAD, "/").await.unwrap();
        assert_eq!((head.status, head.body.len()), (200, 0), "{alpn}");
        assert_eq!(head.header("content-length"), get.body.len().to_string());
        assert_eq!(head.header("etag"), get.header("etag"));
        for method in [Method::POST, Method::OPTIONS, Method::DELETE, Method::PUT] {
            let answer = ask(method, "/").await.unwrap();
            assert_eq!((answer.status, answer.header("allow")), (405, "GET, HEAD"));
        }
        assert_eq!(ask(Method::GET, "/keys").await.unwrap().status, 404);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_key_kind_that_spire_has_signs_keyless_and_tls_1_2_does_not() {
    for kind in [KeyKind::P256, KeyKind::P384, KeyKind::Rsa2048] {
        let endpoint = Endpoint::keyless().await;
        let (authority, plugin) = published(&endpoint).await;
        plugin.lend(&authority.svid("/spire/server").with_key(kind).build()).await;
        let tls = || spiffe_tls(&authority.bundle(), SERVER);
        eventually("the new key signs", || async {
            // The moment between the two messages may refuse one handshake.
            get(endpoint.address(), tls()).await.ok()
        })
        .await;
        let verifier = entente_bundle::tls::SvidVerifier::new(
            Arc::new(authority.bundle()),
            entente_bundle::Authorizer::AnyInBundles,
        );
        let old = rustls::ClientConfig::builder_with_provider(entente_bundle::tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        let error = get(endpoint.address(), old).await.unwrap_err();
        assert!(error.to_string().contains("ProtocolVersion"), "{error}");
        endpoint.counts("handshakes_total{listener=\"serve\",outcome=\"incompatible\"}", 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_new_bundle_and_a_new_identity_are_served_from_the_next_request_on() {
    let endpoint = Endpoint::keyless().await;
    let (first, plugin) = published(&endpoint).await;
    let second = TestAuthority::new("a.test");
    let both = [first.x509_authority(), second.x509_authority()].to_vec();
    let bundle = entente_bundle::Bundle::new(first.trust_domain().clone(), both, vec![], Some(2), None);
    plugin.own_bundle(&bundle).await;
    plugin.lend(&second.svid("/spire/server").build()).await;
    let answer = eventually("the second authority signs", || async {
        get(endpoint.address(), spiffe_tls(&second.bundle(), SERVER)).await.ok()
    })
    .await;
    assert_eq!(answer.body, document::render(&bundle));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_plugin_that_refuses_or_answers_nonsense_costs_the_handshake_only() {
    let endpoint = Endpoint::keyless().await;
    let (authority, plugin) = published(&endpoint).await;
    let tls = || spiffe_tls(&authority.bundle(), SERVER);
    plugin.signs(Signing::Refuses);
    let error = get(endpoint.address(), tls()).await.unwrap_err();
    assert!(error.to_string().contains("alert"), "{error}");
    endpoint.counts("sign_requests_total{outcome=\"refused\"}", 1).await;
    let (status, readiness) = endpoint.ready().await;
    assert_eq!((status, readiness.reasons[0].name.as_str()), (503, "no_signer"));
    assert!(readiness.reasons[0].detail.contains("not today"), "{readiness:?}");

    plugin.signs(Signing::Says(vec![1, 2, 3]));
    let error = get(endpoint.address(), tls()).await.unwrap_err();
    assert!(error.to_string().contains("alert"), "found out here and not by the peer: {error}");
    endpoint.counts("sign_requests_total{outcome=\"wrong_signature\"}", 1).await;
    endpoint.counts("handshakes_total{listener=\"serve\",outcome=\"no_signature\"}", 2).await;
    plugin.lend(&authority.svid("/spire/server").build()).await;
    eventually("it signs again", || async { get(endpoint.address(), tls()).await.ok() }).await;
    endpoint.is_ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn when_the_plugin_goes_nobody_can_sign_and_when_it_returns_the_document_is_still_there() {
    let endpoint = Endpoint::keyless().await;
    let (authority, plugin) = published(&endpoint).await;
    drop(plugin);
    eventually("unready", || async { (endpoint.ready().await.0 == 503).then_some(()) }).await;
    assert_eq!(endpoint.unready_because().await, ["no_signer", "link_down"]);
    assert!(get(endpoint.address(), spiffe_tls(&authority.bundle(), SERVER)).await.is_err());

    // It lends before it knows its bundle again: what was published stays.
    let plugin = FakePlugin::link(&endpoint.link_socket()).await;
    plugin.lend(&authority.svid("/spire/server").build()).await;
    endpoint.is_ready().await;
    let answer = get(endpoint.address(), spiffe_tls(&authority.bundle(), SERVER)).await.unwrap();
    assert_eq!(answer.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn under_its_own_workload_identity_it_needs_no_plugin_to_sign() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let api = FakeWorkloadApi::start(dir.path().join("agent.sock")).unwrap();
    let serve = "profile = \"https_spiffe\"\nidentity = \"workload\"\n";
    let rest = "[workload_api]\nsocket = \"unix://DIR/agent.sock\"\n";
    let endpoint = Endpoint::start_in(dir, serve, rest).await.unwrap();
    assert!(endpoint.unready_because().await.contains(&"no_identity".to_owned()));
    let authority = TestAuthority::new("a.test");
    let plugin = FakePlugin::link(&endpoint.link_socket()).await;
    plugin.own_bundle(&authority.bundle()).await;
    api.give(Update::new(&authority.svid("/bundle-endpoint").build(), &authority.bundle()));
    endpoint.is_ready().await;
    let id = "spiffe://a.test/bundle-endpoint";
    drop(plugin);
    let answer = get(endpoint.address(), spiffe_tls(&authority.bundle(), id)).await.unwrap();
    assert_eq!((answer.status, answer.presented.unwrap().to_string().as_str()), (200, id));
    // The SPIRE Server's ID is not what it shows.
    assert!(get(endpoint.address(), spiffe_tls(&authority.bundle(), SERVER)).await.is_err());
    eventually("degraded", || async { endpoint.ready().await.1.degraded.first().cloned() }).await;
    assert_eq!(endpoint.ready().await.0, 200);
}

fn web_pair(name: &str) -> (rcgen::Certificate, rcgen::KeyPair) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec![name.into(), "127.0.0.1".into()]).unwrap();
    (params.self_signed(&key).unwrap(), key)
}

/// A second listener with the pair of [`dir_with_web_pair`].
const ALSO_WEB: &str = "[[also_serve]]\nlisten = \"127.0.0.1:0\"\nprofile = \"https_web\"\n\
                        certificate_file = \"DIR/tls.crt\"\nprivate_key_file = \"DIR/tls.key\"\n";

fn write_pair(dir: &TempDir, (certificate, key): &(rcgen::Certificate, rcgen::KeyPair)) {
    std::fs::write(dir.path().join("tls.crt"), certificate.pem()).unwrap();
    std::fs::write(dir.path().join("tls.key"), key.serialize_pem()).unwrap();
}

fn dir_with_web_pair() -> (Arc<TempDir>, rcgen::Certificate) {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let pair = web_pair("one.test");
    write_pair(&dir, &pair);
    (dir, pair.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn https_web_serves_files_over_tls_1_2_and_1_3_and_reloads_them() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let write = |pair| write_pair(&dir, pair);
    let (first, second) = (web_pair("one.test"), web_pair("two.test"));
    write(&first);
    let serve =
        "profile = \"https_web\"\ncertificate_file = \"DIR/tls.crt\"\nprivate_key_file = \"DIR/tls.key\"\n";
    let endpoint = Endpoint::start_in(dir.clone(), serve, "").await.unwrap();
    let plugin = FakePlugin::link(&endpoint.link_socket()).await;
    plugin.own_bundle(&TestAuthority::new("a.test").bundle()).await;
    endpoint.is_ready().await;
    let answer = get(endpoint.address(), web_tls(first.0.der())).await.unwrap();
    assert_eq!((answer.status, answer.protocol), (200, Some(ProtocolVersion::TLSv1_3)));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(first.0.der().clone()).unwrap();
    let old = rustls::ClientConfig::builder_with_provider(entente_bundle::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    assert_eq!(get(endpoint.address(), old).await.unwrap().protocol, Some(ProtocolVersion::TLSv1_2));

    std::fs::write(dir.path().join("tls.crt"), "broken").unwrap();
    endpoint.counts("certificate_reloads_total{outcome=\"refused\"}", 1).await;
    assert_eq!(get(endpoint.address(), web_tls(first.0.der())).await.unwrap().status, 200);
    write(&second);
    eventually("the second pair", || async { get(endpoint.address(), web_tls(second.0.der())).await.ok() })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn plain_http_on_the_tls_port_is_told_so() {
    let endpoint = Endpoint::keyless().await;
    let (_authority, _plugin) = published(&endpoint).await;
    let answer = raw(endpoint.address(), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"), "{answer}");
    endpoint.counts("handshakes_total{listener=\"serve\",outcome=\"plain_http\"}", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn garbage_and_half_open_handshakes_on_every_listener_end_and_leave_it_serving() {
    let endpoint = Endpoint::keyless().await;
    let (authority, _plugin) = published(&endpoint).await;
    let half_open = TcpStream::connect(endpoint.address()).await.unwrap();
    let mut half_said = TcpStream::connect(endpoint.address()).await.unwrap();
    half_said.write_all(&[0x16, 0x03, 0x01, 0x02]).await.unwrap();

    raw(endpoint.address(), &[0xff; 64]).await;
    raw(endpoint.address(), b"SSH-2.0-x\r\n").await;
    let alert = raw(endpoint.address(), &[0x16; 512]).await;
    assert_eq!(alert.first(), Some(&0x15), "a tls alert");
    let admin = raw(endpoint.bound.admin, &[0xff; 64]).await;
    assert!(String::from_utf8_lossy(&admin).starts_with("HTTP/1.1 400"));
    let link = tokio::net::UnixStream::connect(endpoint.link_socket()).await.unwrap();
    let mut link = link;
    link.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(link.read(&mut [0; 10]).await.unwrap_or(0), 0);

    endpoint.counts("handshakes_total{listener=\"serve\",outcome=\"not_tls\"}", 2).await;
    endpoint.counts("handshakes_total{listener=\"serve\",outcome=\"malformed\"}", 1).await;
    endpoint.counts("link_refusals_total{reason=\"not_grpc\"}", 1).await;
    // The half-open ones are still waiting for their limit, and delay nobody.
    assert_eq!(get(endpoint.address(), spiffe_tls(&authority.bundle(), SERVER)).await.unwrap().status, 200);
    let before = Instant::now();
    for mut waiting in [half_open, half_said] {
        let _ = waiting.read_to_end(&mut Vec::new()).await;
    }
    assert!(before.elapsed() < Duration::from_secs(15));
    endpoint.counts("handshakes_total{listener=\"serve\",outcome=\"timeout\"}", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_plugin_that_hangs_takes_nothing_with_it_but_keyless_handshakes() {
    let (dir, certificate) = dir_with_web_pair();
    let endpoint = Endpoint::start_in(dir, KEYLESS, ALSO_WEB).await.unwrap();
    let (authority, plugin) = published(&endpoint).await;
    plugin.signs(Signing::Silent);
    let (address, tls) = (endpoint.address(), spiffe_tls(&authority.bundle(), SERVER));
    let knocking: Vec<_> = (0..200).map(|_| tokio::spawn(get(address, tls.clone()))).collect();
    eventually("handshakes wait", || async {
        (!plugin.sign_requests.lock().unwrap().is_empty()).then_some(())
    })
    .await;
    let before = Instant::now();
    for _ in 0..20 {
        assert_eq!(endpoint.admin("/live").await.status, 200);
        assert_eq!(get(endpoint.bound.public[1], web_tls(certificate.der())).await.unwrap().status, 200);
    }
    assert!(before.elapsed() < Duration::from_secs(4), "{:?}", before.elapsed());
    for one in knocking {
        assert!(one.await.unwrap().is_err());
    }
    assert!(plugin.sign_requests.lock().unwrap().len() < 80, "most are turned away without a wait");
    assert_eq!(endpoint.unready_because().await, ["no_signer"]);
    plugin.lend(&authority.svid("/spire/server").build()).await;
    eventually("it signs again", || async { get(address, tls.clone()).await.ok() }).await;
    endpoint.is_ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_listeners_serve_the_same_document() {
    let (dir, certificate) = dir_with_web_pair();
    let endpoint = Endpoint::start_in(dir, KEYLESS, ALSO_WEB).await.unwrap();
    let (authority, _plugin) = published(&endpoint).await;
    let keyless = get(endpoint.address(), spiffe_tls(&authority.bundle(), SERVER)).await.unwrap();
    let web = get(endpoint.bound.public[1], web_tls(certificate.der())).await.unwrap();
    assert_eq!(keyless.body, web.body);
    let names: Vec<_> = endpoint.status().await.listeners.into_iter().map(|listener| listener.name).collect();
    assert_eq!(names, ["serve", "also_serve[0]", "admin"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn status_and_metrics_tell_how_often_the_bundle_was_fetched() {
    let endpoint = Endpoint::keyless().await;
    let (authority, _plugin) = published(&endpoint).await;
    assert_eq!(endpoint.status().await.own.last_served, None);
    for _ in 0..3 {
        get(endpoint.address(), spiffe_tls(&authority.bundle(), SERVER)).await.unwrap();
    }
    let own = endpoint.status().await.own;
    assert_eq!(own.served, 3);
    assert!(own.last_served.is_some());
    assert_eq!(own.bundle.unwrap().sequence_number, Some(1));
    endpoint.counts("bundle_requests_total{code=\"200\"}", 3).await;
    endpoint.counts("sequence_number{trust_domain=\"a.test\"}", 1).await;
    endpoint.counts("links", 1).await;
}
