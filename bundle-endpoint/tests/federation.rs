//! Fetching over real TLS: what is offered to the plugin, and every way in which a foreign endpoint is turned away.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends where its helpers cannot go on"
)]

mod support;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use entente_bundle::testing::{TestAuthority, TestSvid};
use entente_bundle::{Bundle, document};
use entente_proto::link::v1::offer_outcome::Outcome;
use entente_proto::link::v1::relationship::Mode;
use support::endpoint::{Endpoint, KEYLESS};
use support::eventually;
use support::foreign::{Foreign, Says, ok, redirect};
use support::plugin::{FakePlugin, spiffe, web};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

const QUICK: &str =
    "[fetch]\nminimum_interval = \"100ms\"\nmaximum_interval = \"200ms\"\nrequest_timeout = \"2s\"\n";
const PATIENT: &str = "[fetch]\nrequest_timeout = \"2s\"\n";

/// An endpoint of `a.test` with a linked plugin.
async fn linked(fetch: &str) -> (Endpoint, FakePlugin) {
    let endpoint = Endpoint::start(KEYLESS, fetch).await;
    let plugin = FakePlugin::link(&endpoint.link_socket()).await;
    (endpoint, plugin)
}

/// `b.test` is to be fetched from `foreign`, authenticated with the bundle of `authority`.
async fn federate(plugin: &FakePlugin, authority: &TestAuthority, foreign: &Foreign) {
    plugin.holds_or_authenticates("b.test", None, Some(&authority.bundle())).await;
    plugin.relationships(vec![spiffe("b.test", &foreign.url())]).await;
}

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

fn good() -> Says {
    Says::Document(document::render(&TestAuthority::new("b.test").bundle()))
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
    let (reason, _) =
        refusal(&TestAuthority::new("b.test"), &impostor.svid("/spire/server").build(), good()).await;
    assert_eq!(reason, "unknown_issuer");
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

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_good_bundle_is_offered_under_the_configured_name_and_then_held() {
    let (endpoint, mut plugin) = linked(PATIENT).await;
    let authority = TestAuthority::new("b.test");
    let foreign = Foreign::honest(&authority).await;
    federate(&plugin, &authority, &foreign).await;
    let offer = plugin.next_offer().await;
    let bundle = authority.bundle_with(Some(1), Some(Duration::from_secs(300)));
    assert_eq!(Bundle::try_from(offer.bundle.as_ref().unwrap()).unwrap(), bundle);
    assert_eq!(
        (offer.trust_domain.as_str(), offer.bundle_endpoint_url.as_str()),
        ("b.test", foreign.url().as_str())
    );
    let relationship = endpoint.relationship("b.test").await.unwrap();
    assert_eq!(relationship.reason.as_deref(), Some("SPIRE holds no bundle yet"));

    plugin.answer(&offer, Outcome::Set, "").await;
    plugin.holds("b.test", Some(&bundle)).await;
    let relationship =
        eventually("healthy", || async { endpoint.relationship("b.test").await.filter(|r| r.healthy) }).await;
    assert_eq!(relationship.held, relationship.fetched);
    assert_eq!(relationship.presented.as_deref(), Some("spiffe://b.test/spire/server"));
    assert_eq!(relationship.freshness.as_deref(), Some("same"));
    assert!(relationship.offer.is_none());
    endpoint.counts("offers_total{outcome=\"set\"}", 1).await;
    endpoint.counts("sequence_number{trust_domain=\"b.test\"}", 1).await;
    assert!(plugin.no_offer());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_held_bundle_of_now_authenticates_so_a_rotation_is_followed_without_help() {
    let (endpoint, mut plugin) = linked(QUICK).await;
    let (old, new) = (TestAuthority::new("b.test"), TestAuthority::new("b.test"));
    let foreign = Foreign::honest(&old).await;
    federate(&plugin, &old, &foreign).await;
    let first = plugin.next_offer().await;
    plugin.holds("b.test", Some(&Bundle::try_from(first.bundle.as_ref().unwrap()).unwrap())).await;

    let both = Bundle::new(
        old.trust_domain().clone(),
        vec![old.x509_authority(), new.x509_authority()],
        vec![],
        Some(2),
        Some(Duration::from_secs(300)),
    );
    foreign.serves(&both);
    let second = plugin.next_offer().await;
    assert_eq!(Bundle::try_from(second.bundle.as_ref().unwrap()).unwrap(), both);
    // The endpoint shows the new authority's SVID before we hold the new authority: refused, and tried at once when we do.
    foreign.slot.set(new.svid("/spire/server").build().certified_key());
    endpoint.fetch_fails("b.test", "unknown_issuer").await;
    plugin.holds("b.test", Some(&both)).await;
    eventually("healthy", || async { endpoint.relationship("b.test").await.filter(|r| r.healthy) }).await;

    foreign.serves(&new.bundle_with(Some(3), None));
    let third = plugin.next_offer().await;
    assert_eq!(third.bundle.unwrap().sequence_number, Some(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_a_bundle_to_authenticate_with_it_says_so_and_fetches_once_there_is_one() {
    let (endpoint, mut plugin) = linked(PATIENT).await;
    let authority = TestAuthority::new("b.test");
    let foreign = Foreign::honest(&authority).await;
    plugin.relationships(vec![spiffe("b.test", &foreign.url())]).await;
    let relationship = endpoint.fetch_fails("b.test", "no_authentication_bundle").await;
    assert!(relationship.failure.unwrap().detail.contains("bootstrap_bundle"));
    assert_eq!(foreign.requests(), 0);
    // The next regular fetch is more than a minute away.
    plugin.holds_or_authenticates("b.test", None, Some(&authority.bundle())).await;
    assert_eq!(plugin.next_offer().await.trust_domain, "b.test");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_endpoint_of_another_domain_or_our_own_is_authenticated_with_that_domains_bundle() {
    for endpoints_domain in ["c.test", "a.test"] {
        let (_endpoint, mut plugin) = linked(PATIENT).await;
        let (served, server) = (TestAuthority::new("b.test"), TestAuthority::new(endpoints_domain));
        let says = Says::Document(document::render(&served.bundle_with(Some(4), None)));
        let foreign = Foreign::new(&server.svid("/spire/server").build(), says).await;
        plugin.holds(endpoints_domain, Some(&server.bundle())).await;
        let relationship = entente_proto::link::v1::Relationship {
            trust_domain: "b.test".into(),
            ..spiffe(endpoints_domain, &foreign.url())
        };
        plugin.relationships(vec![relationship]).await;
        let offer = plugin.next_offer().await;
        assert_eq!(
            (offer.trust_domain.as_str(), offer.bundle.unwrap().trust_domain.as_str()),
            ("b.test", "b.test")
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_empty_bundle_is_news_and_is_offered() {
    let (_endpoint, mut plugin) = linked(PATIENT).await;
    let authority = TestAuthority::new("b.test");
    let says = Says::Document(b"{\"keys\":[],\"spiffe_sequence\":9}".to_vec());
    let foreign = Foreign::new(&authority.svid("/spire/server").build(), says).await;
    plugin.holds("b.test", Some(&authority.bundle_with(Some(8), None))).await;
    plugin.relationships(vec![spiffe("b.test", &foreign.url())]).await;
    let bundle = plugin.next_offer().await.bundle.unwrap();
    assert!(bundle.x509_authorities.is_empty());
    assert_eq!(bundle.sequence_number, Some(9));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stale_bundle_goes_to_the_plugin_which_decides_and_is_shown() {
    let (endpoint, mut plugin) = linked(QUICK).await;
    let authority = TestAuthority::new("b.test");
    let foreign = Foreign::honest(&authority).await;
    plugin.holds("b.test", Some(&authority.bundle_with(Some(5), None))).await;
    plugin.relationships(vec![spiffe("b.test", &foreign.url())]).await;
    let offer = plugin.next_offer().await;
    plugin.answer(&offer, Outcome::Refused, "sequence number 1 is lower than 5").await;
    let relationship = eventually("refused", || async {
        endpoint
            .relationship("b.test")
            .await
            .filter(|r| r.offer.as_ref().is_some_and(|o| o.outcome == "refused"))
    })
    .await;
    assert_eq!(relationship.freshness.as_deref(), Some("stale"));
    assert!(relationship.reason.unwrap().contains("lower than 5"));
    // The same again is not offered again.
    let fetches = foreign.requests();
    eventually("more fetches", || async { (foreign.requests() > fetches + 2).then_some(()) }).await;
    assert!(plugin.no_offer());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_offer_that_spire_could_not_take_is_made_again_and_a_new_link_is_offered_it_too() {
    let (endpoint, mut plugin) = linked(PATIENT).await;
    let authority = TestAuthority::new("b.test");
    let foreign = Foreign::honest(&authority).await;
    federate(&plugin, &authority, &foreign).await;
    let first = plugin.next_offer().await;
    plugin.answer(&first, Outcome::Failed, "SPIRE is away").await;
    let second = plugin.next_offer().await;
    assert!(second.offer_id > first.offer_id);
    assert_eq!(second.bundle, first.bundle);
    drop(plugin);
    let mut plugin = FakePlugin::link(&endpoint.link_socket()).await;
    let third = plugin.next_offer().await;
    assert_eq!(third.bundle, first.bundle);
    assert_eq!(foreign.requests(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn where_spire_fetches_itself_only_the_authorities_are_compared() {
    let (endpoint, mut plugin) = linked(PATIENT).await;
    let authority = TestAuthority::new("b.test");
    let foreign = Foreign::honest(&authority).await;
    // SPIRE's own fetcher keeps no sequence number.
    plugin.holds("b.test", Some(&authority.bundle())).await;
    let mut relationship = spiffe("b.test", &foreign.url());
    relationship.mode = Mode::Assisted.into();
    plugin.relationships(vec![relationship]).await;
    let relationship =
        eventually("healthy", || async { endpoint.relationship("b.test").await.filter(|r| r.healthy) }).await;
    assert_eq!(relationship.mode, "assisted");
    assert!(plugin.no_offer());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_relationship_that_ended_is_no_longer_fetched_and_one_that_changed_is_fetched_at_once() {
    let (endpoint, mut plugin) = linked(QUICK).await;
    let authority = TestAuthority::new("b.test");
    let (one, two) = (Foreign::honest(&authority).await, Foreign::honest(&authority).await);
    federate(&plugin, &authority, &one).await;
    plugin.next_offer().await;
    plugin.relationships(vec![spiffe("b.test", &two.url())]).await;
    assert_eq!(plugin.next_offer().await.bundle_endpoint_url, two.url());
    plugin.relationships(vec![]).await;
    eventually("ended", || async { endpoint.relationship("b.test").await.is_none().then_some(()) }).await;
    let fetches = two.requests();
    let other = Foreign::honest(&TestAuthority::new("c.test")).await;
    plugin.relationships(vec![spiffe("c.test", &other.url())]).await;
    eventually("time passes", || async { endpoint.relationship("c.test").await.filter(|r| r.failures > 3) })
        .await;
    assert_eq!(two.requests(), fetches);
    assert!(!endpoint.metrics().await.contains("fetch_age_seconds{trust_domain=\"b.test\"}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn slow_peers_delay_nobody() {
    let endpoint = Endpoint::start(KEYLESS, "").await;
    let mut plugin = FakePlugin::link(&endpoint.link_socket()).await;
    let authority = TestAuthority::new("b.test");
    let slow = Foreign::new(&authority.svid("/spire/server").build(), Says::Nothing).await;
    let quick_authority = TestAuthority::new("z.test");
    let quick = Foreign::honest(&quick_authority).await;
    let mut relationships = Vec::new();
    for number in 0..100 {
        let mut relationship = spiffe("b.test", &slow.url());
        relationship.trust_domain = format!("b{number}.test");
        relationships.push(relationship);
    }
    plugin.holds("b.test", Some(&authority.bundle())).await;
    plugin.relationships(relationships.clone()).await;
    eventually("the slow ones are under way", || async { (slow.requests() >= 60).then_some(()) }).await;
    plugin.holds_or_authenticates("z.test", None, Some(&quick_authority.bundle())).await;
    relationships.push(spiffe("z.test", &quick.url()));
    let before = Instant::now();
    plugin.relationships(relationships).await;
    assert_eq!(plugin.next_offer().await.trust_domain, "z.test");
    assert!(before.elapsed() < Duration::from_secs(10), "{:?}", before.elapsed());
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

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_endpoints_federate_with_each_other_over_http_2() {
    let (a, b) = (Endpoint::keyless().await, Endpoint::of("b.test").await);
    let (authority_a, authority_b) = (TestAuthority::new("a.test"), TestAuthority::new("b.test"));
    let mut plugin_a = FakePlugin::link(&a.link_socket()).await;
    let mut plugin_b = FakePlugin::link_as(&b.link_socket(), "b.test").await;
    for (plugin, authority) in [(&plugin_a, &authority_a), (&plugin_b, &authority_b)] {
        plugin.own_bundle(&authority.bundle_with(Some(1), None)).await;
        plugin.lend(&authority.svid("/spire/server").build()).await;
    }
    a.is_ready().await;
    b.is_ready().await;
    plugin_a.holds_or_authenticates("b.test", None, Some(&authority_b.bundle())).await;
    plugin_b.holds_or_authenticates("a.test", None, Some(&authority_a.bundle())).await;
    plugin_a.relationships(vec![spiffe("b.test", &format!("https://{}/", b.address()))]).await;
    plugin_b.relationships(vec![spiffe("a.test", &format!("https://{}/", a.address()))]).await;
    let got = |offer: entente_proto::link::v1::OfferedBundle| {
        Bundle::try_from(offer.bundle.as_ref().unwrap()).unwrap()
    };
    assert_eq!(got(plugin_a.next_offer().await), authority_b.bundle_with(Some(1), None));
    assert_eq!(got(plugin_b.next_offer().await), authority_a.bundle_with(Some(1), None));
}
