//! Fetching over real TLS: every way in which a foreign endpoint is turned away, and that nothing of it is used.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends where its helpers cannot go on"
)]

mod support;

use std::io::Write;
use std::sync::Arc;

use entente_bundle::document;
use entente_bundle::testing::{TestAuthority, TestSvid};
use support::eventually;
use support::fetching::{PATIENT, federate, good, linked};
use support::foreign::{Foreign, Says, ok, redirect};
use support::plugin::{spiffe, web};
use tokio::io::AsyncWriteExt;

/// The reason why a fetch from an endpoint that shows `svid` and says `says` fails; nothing may be offered.
async fn refusal(authority: &TestAuthority, svid: &TestSvid, says: Says) -> (&'static str, String) {
    let (endpoint, mut plugin) = linked(PATIENT).await;
    let foreign = Foreign::new(svid, says).await;
    federate(&plugin, authority, &foreign).await;
    let failure = eventually("a failure", || async { endpoint.relationship("b.test").await?.failure }).await;
    let relationship = endpoint.relationship("b.test").await.unwrap();
    assert!(!relationship.healthy && relationship.fetched.is_none() && relationship.offer.is_none());
    assert!(plugin.no_offer());
    let metric = format!("fetch_refusals_total{{trust_domain=\"b.test\",reason=\"{}\"}}", failure.reason);
    endpoint.counts(&metric, 1).await;
    (failure.reason.leak(), failure.detail)
}

async fn refused_document(says: Says) -> (&'static str, String) {
    let authority = TestAuthority::new("b.test");
    refusal(&authority, &authority.svid("/spire/server").build(), says).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_impostor_with_another_workloads_svid_of_that_domain_is_refused() {
    let authority = TestAuthority::new("b.test");
    let (reason, detail) = refusal(&authority, &authority.svid("/web").build(), good()).await;
    assert_eq!(reason, "wrong_id");
    assert!(
        detail.contains("spiffe://b.test/web") && detail.contains("spiffe://b.test/spire/server"),
        "{detail}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_svid_of_another_domain_signed_by_its_own_root_is_refused() {
    let other = TestAuthority::new("c.test");
    let svid = other.svid("/spire/server").build();
    let (reason, detail) = refusal(&TestAuthority::new("b.test"), &svid, good()).await;
    assert_eq!(reason, "wrong_id");
    assert!(detail.contains("spiffe://c.test/spire/server"), "{detail}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_right_id_signed_by_a_foreign_root_is_refused() {
    let impostor = TestAuthority::new("b.test");
    let (reason, detail) =
        refusal(&TestAuthority::new("b.test"), &impostor.svid("/spire/server").build(), good()).await;
    assert_eq!(reason, "unknown_issuer");
    assert!(detail.contains("spire-server bundle set -id spiffe://b.test"), "{detail}");
    let other = TestAuthority::new("c.test");
    let forged = other.svid("/x").with_id("spiffe://b.test/spire/server").build();
    assert_eq!(refusal(&TestAuthority::new("b.test"), &forged, good()).await.0, "unknown_issuer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_expired_svid_is_refused() {
    let authority = TestAuthority::new("b.test");
    let svid = authority.svid("/spire/server").expired().build();
    assert_eq!(refusal(&authority, &svid, good()).await.0, "expired");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn malformed_documents_are_refused() {
    let deep =
        [b"{\"keys\":[],\"x\":".to_vec(), vec![b'['; 100_000], vec![b']'; 100_000], b"}".to_vec()].concat();
    let bodies: [&[u8]; 6] =
        [b"", b"{}", b"<html></html>", b"{\"keys\":{}}", b"{\"keys\":[]} trailing", &deep];
    for body in bodies {
        let (reason, detail) = refused_document(Says::Document(body.to_vec())).await;
        assert_eq!(reason, "malformed", "{detail}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn oversized_documents_are_refused_announced_or_not() {
    let large = vec![b' '; (1 << 20) + 1];
    assert_eq!(refused_document(Says::Document(large.clone())).await.0, "too_large");
    let unannounced = [b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), large].concat();
    assert_eq!(refused_document(Says::Bytes(unannounced)).await.0, "too_large");
    assert_eq!(refused_document(Says::Endless(vec![b' '; 4096])).await.0, "too_large");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn half_sent_and_never_ending_answers_are_refused() {
    let mut half = ok(&document::render(&TestAuthority::new("b.test").bundle()));
    half.truncate(half.len() - 10);
    assert_eq!(refused_document(Says::Bytes(half)).await.0, "http");
    assert_eq!(refused_document(Says::Nothing).await.0, "timeout");
    assert_eq!(refused_document(Says::Bytes(b"what?\r\n\r\n".to_vec())).await.0, "http");
    assert_eq!(refused_document(Says::Bytes(vec![])).await.0, "http");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn compressed_answers_are_bounded_after_inflating_and_other_encodings_refused() {
    let encoded = |encoding: &str, body: &[u8]| {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        Says::Bytes([head.as_bytes(), body].concat())
    };
    let gzip = |body: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    };
    let bomb = gzip(&vec![b' '; 256 << 20]);
    assert_eq!(refused_document(encoded("gzip", &bomb)).await.0, "too_large");
    assert_eq!(refused_document(encoded("gzip", b"not gzip")).await.0, "malformed");
    assert_eq!(refused_document(encoded("br", b"x")).await.0, "encoding");

    let (_endpoint, mut plugin) = linked(PATIENT).await;
    let authority = TestAuthority::new("b.test");
    let body = gzip(&document::render(&authority.bundle()));
    let foreign = Foreign::new(&authority.svid("/spire/server").build(), encoded("gzip", &body)).await;
    federate(&plugin, &authority, &foreign).await;
    assert_eq!(plugin.next_offer().await.trust_domain, "b.test");
    assert!(foreign.last_request.lock().unwrap().to_lowercase().contains("accept-encoding: gzip\r\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn only_status_200_is_a_document() {
    let document = document::render(&TestAuthority::new("b.test").bundle());
    for status in [203, 204, 206, 304, 404, 500, 503] {
        let head = format!("HTTP/1.1 {status} Whatever\r\nContent-Length: {}\r\n\r\n", document.len());
        let (reason, detail) = refused_document(Says::Bytes([head.as_bytes(), &document].concat())).await;
        assert_eq!(reason, "status", "{detail}");
        assert!(detail.contains(&status.to_string()), "{detail}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn redirects_are_followed_only_by_option_and_never_to_http_or_another_id() {
    let (reason, detail) = refused_document(redirect(302, "https://127.0.0.1:1/")).await;
    assert_eq!(reason, "redirect");
    assert!(detail.contains("follow_redirects"), "{detail}");

    let authority = TestAuthority::new("b.test");
    let target = Foreign::honest(&authority).await;
    let other_id = Foreign::new(&authority.svid("/web").build(), good()).await;
    let cases = [
        ("http://127.0.0.1:1/".to_owned(), Some("redirect")),
        ("https://user@127.0.0.1:1/".to_owned(), Some("redirect")),
        ("https://169.254.169.254/".to_owned(), Some("redirect")),
        ("/".to_owned(), Some("redirect")),
        (other_id.url(), Some("wrong_id")),
        (target.url(), None),
    ];
    for (location, expected) in cases {
        let (endpoint, mut plugin) = linked(PATIENT).await;
        let foreign = Foreign::new(&authority.svid("/spire/server").build(), redirect(307, &location)).await;
        plugin.holds("b.test", Some(&authority.bundle())).await;
        let relationship = entente_proto::link::v1::Relationship {
            follow_redirects: true,
            ..spiffe("b.test", &foreign.url())
        };
        plugin.relationships(vec![relationship]).await;
        match expected {
            Some(reason) => drop(endpoint.fetch_fails("b.test", reason).await),
            None => assert_eq!(plugin.next_offer().await.trust_domain, "b.test"),
        }
    }
}

fn web_certificate(name: &str) -> (Arc<rustls::sign::CertifiedKey>, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec![name.into()]).unwrap().self_signed(&key).unwrap();
    let certified =
        entente_bundle::tls::certified_key(vec![certificate.der().clone()], key.serialize_der()).unwrap();
    (certified, certificate.pem())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn https_web_trusts_exactly_the_given_authorities_and_checks_the_host() {
    let authority = TestAuthority::new("b.test");
    let says = || Says::Document(document::render(&authority.bundle()));
    let (right, right_pem) = web_certificate("127.0.0.1");
    let (wrong_name, wrong_name_pem) = web_certificate("other.test");
    let cases = [
        (&right, &right_pem, None),
        (&right, &wrong_name_pem, Some("unknown_issuer")),
        (&right, &String::new(), Some("unknown_issuer")),
        (&wrong_name, &wrong_name_pem, Some("wrong_name")),
        (&right, &"no pem".to_owned(), Some("web_roots")),
    ];
    for (certificate, pem, expected) in cases {
        let (endpoint, mut plugin) = linked(PATIENT).await;
        let foreign = Foreign::with_key(Arc::clone(certificate), says()).await;
        plugin.relationships(vec![web("b.test", &foreign.url(), pem)]).await;
        match expected {
            None => assert_eq!(plugin.next_offer().await.trust_domain, "b.test"),
            Some(reason) => {
                let failure =
                    eventually("a failure", || async { endpoint.relationship("b.test").await?.failure })
                        .await;
                // A machine without web PKI roots says so instead.
                let no_roots = pem.is_empty() && failure.reason == "web_roots";
                assert!(no_roots || failure.reason == reason, "{failure:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_wrong_profile_is_answered_with_the_other_ones_name() {
    let authority = TestAuthority::new("b.test");
    let svid = authority.svid("/spire/server").build();
    let (certificate, pem) = web_certificate("127.0.0.1");

    let (endpoint, plugin) = linked(PATIENT).await;
    let foreign = Foreign::new(&svid, good()).await;
    plugin.relationships(vec![web("b.test", &foreign.url(), &pem)]).await;
    let failure = eventually("a failure", || async { endpoint.relationship("b.test").await?.failure }).await;
    assert!(failure.detail.contains("its profile is https_spiffe"), "{}", failure.detail);

    let (endpoint, plugin) = linked(PATIENT).await;
    let foreign = Foreign::with_key(certificate, good()).await;
    federate(&plugin, &authority, &foreign).await;
    let failure = eventually("a failure", || async { endpoint.relationship("b.test").await?.failure }).await;
    assert!(failure.detail.contains("its profile is https_web"), "{}", failure.detail);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_url_that_is_none_and_a_peer_that_is_away_stay_visible() {
    let (endpoint, plugin) = linked(PATIENT).await;
    let authority = TestAuthority::new("b.test");
    plugin.holds("b.test", Some(&authority.bundle())).await;
    plugin.relationships(vec![spiffe("b.test", "http://b.test/")]).await;
    endpoint.fetch_fails("b.test", "url").await;
    let away = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    plugin.relationships(vec![spiffe("b.test", &format!("https://{away}/"))]).await;
    eventually("connect", || async {
        endpoint.relationship("b.test").await?.failure.filter(|failure| failure.reason == "connect")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_peer_that_does_not_speak_tls_or_nothing_at_all_is_refused() {
    let authority = TestAuthority::new("b.test");
    for (says, expected) in [(&b""[..], "timeout"), (b"HTTP/1.1 200 OK\r\n\r\n{\"keys\":[]}", "tls")] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        let speaking = tokio::spawn(async move {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tcp.write_all(says).await.unwrap();
            std::future::pending::<()>().await
        });
        let (endpoint, mut plugin) = linked(PATIENT).await;
        plugin.holds("b.test", Some(&authority.bundle())).await;
        plugin.relationships(vec![spiffe("b.test", &url)]).await;
        endpoint.fetch_fails("b.test", expected).await;
        assert!(plugin.no_offer());
        speaking.abort();
    }
}
