//! The link over mutual TLS: who is refused, that half-open handshakes stop nobody, and that both identities may change.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use entente_bundle::testing::{TestAuthority, TestSvid};
use entente_bundle::tls::{SvidVerifier, client_config, provider};
use entente_bundle::{Authorizer, SpiffeId, svid};
use rustls::client::Resumption;
use rustls::{ClientConfig, HandshakeKind};
use support::client::{get, spiffe_tls};
use support::endpoint::SERVER;
use support::mutual::{ENDPOINT, Mutual};
use support::plugin::{FakePlugin, Signing};
use support::{eventually, log};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// Nobody is linked, the refused one was told, and the reason is counted.
async fn refuses(mutual: &Mutual, tls: ClientConfig, reason: &str) {
    let refused = mutual.open(tls).await;
    assert!(refused.is_err(), "{reason}: linked");
    mutual.endpoint.counts(&format!("link_refusals_total{{reason=\"{reason}\"}}"), 1).await;
    assert!(mutual.endpoint.status().await.links.is_empty());
}

async fn refuses_svid(mutual: &Mutual, svid: &TestSvid, reason: &str) {
    refuses(mutual, mutual.tls(svid), reason).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn another_workload_of_the_own_domain_is_refused() {
    let mutual = Mutual::start().await;
    refuses_svid(&mutual, &mutual.authority.svid("/web").build(), "not_authorized").await;
    refuses_svid(&mutual, &mutual.authority.svid("/web").without_path().build(), "no_path").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_server_of_another_domain_is_refused_also_when_we_federate_with_it() {
    let mutual = Mutual::start().await;
    let foreign = TestAuthority::new("b.test");
    let server = foreign.svid("/spire/server").build();
    refuses_svid(&mutual, &server, "no_bundle").await;
    mutual.agent.give(mutual.update().with_federated(&foreign.bundle()));
    eventually("the federated bundle", || async {
        let _ = mutual.open(mutual.tls(&server)).await;
        let metrics = mutual.endpoint.metrics().await;
        metrics.contains("link_refusals_total{reason=\"not_authorized\"}").then_some(())
    })
    .await;
    assert!(mutual.endpoint.status().await.links.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_servers_id_signed_by_a_foreign_root_is_refused_also_when_we_federate_with_it() {
    let mutual = Mutual::start().await;
    let foreign = TestAuthority::new("b.test");
    mutual.agent.give(mutual.update().with_federated(&foreign.bundle()));
    refuses_svid(&mutual, &foreign.svid("/x").with_id(SERVER).build(), "unknown_issuer").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_expired_certificate_and_none_at_all_are_refused() {
    let mutual = Mutual::start().await;
    refuses_svid(&mutual, &mutual.authority.svid("/spire/server").expired().build(), "expired").await;
    let authorizer = Authorizer::exact(SpiffeId::new(ENDPOINT).unwrap());
    let verifier = SvidVerifier::new(Arc::new(mutual.authority.bundle()), authorizer);
    refuses(&mutual, client_config(verifier, None, &[b"h2"]).unwrap(), "no_certificate").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tls_1_2_and_what_is_no_tls_are_refused() {
    let mutual = Mutual::start().await;
    let authorizer = Authorizer::exact(SpiffeId::new(ENDPOINT).unwrap());
    let verifier = SvidVerifier::new(Arc::new(mutual.authority.bundle()), authorizer);
    let older = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    refuses(&mutual, older, "incompatible").await;
    let mut plain = TcpStream::connect(mutual.address()).await.unwrap();
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let _ = plain.read(&mut [0; 16]).await;
    mutual.endpoint.counts("link_refusals_total{reason=\"not_tls\"}", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_session_is_resumed() {
    let mutual = Mutual::start().await;
    let mut tls = mutual.tls(&mutual.authority.svid("/spire/server").build());
    tls.resumption = Resumption::in_memory_sessions(16);
    for _ in 0..2 {
        let mut stream = mutual.connect(tls.clone()).await.unwrap();
        // Whatever the server sends after its handshake, tickets among it, is read here.
        let _ = tokio::time::timeout(Duration::from_millis(200), stream.read(&mut [0; 1])).await;
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_an_identity_or_with_a_choice_of_two_nothing_is_shown() {
    let mutual = Mutual::unidentified("").await;
    let server = mutual.authority.svid("/spire/server").build();
    refuses_svid(&mutual, &server, "no_identity").await;
    let reason = mutual.endpoint.ready().await.1.reasons;
    assert!(reason.iter().any(|one| one.detail.contains("issued us no identity")), "{reason:?}");
    let other = mutual.authority.svid("/other").build();
    mutual.agent.give(mutual.update().with_svid(&other, &mutual.authority.bundle()));
    mutual.is_told("several svids are issued to this process").await;
    assert_eq!(mutual.endpoint.status().await.link_identity, None);
    // Another domain's identity is none for this endpoint.
    let foreign = TestAuthority::new("b.test");
    let update = entente_workload_identity::testing::Update::new(
        &foreign.svid("/bundle-endpoint").build(),
        &foreign.bundle(),
    );
    mutual.agent.give(update.with_federated(&mutual.authority.bundle()));
    mutual.is_told("no svid of trust domain a.test is issued").await;
    assert_eq!(mutual.endpoint.status().await.link_identity, None);
    mutual.agent.give(mutual.update());
    mutual.is_identified().await;
    let _plugin = mutual.link().await;
    mutual.links(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_several_identities_the_configured_one_is_shown() {
    let mutual = Mutual::unidentified(&format!("spiffe_id = \"{ENDPOINT}\"\n")).await;
    let first = mutual.authority.svid("/other").build();
    let second = mutual.authority.svid("/bundle-endpoint").build();
    let bundle = mutual.authority.bundle();
    let update = entente_workload_identity::testing::Update::new(&first, &bundle).with_svid(&second, &bundle);
    mutual.agent.give(update);
    mutual.is_identified().await;
    let _plugin = mutual.link().await;
    mutual.links(1).await;
    let status = mutual.endpoint.status().await;
    assert_eq!(status.link_identity.as_deref(), Some(ENDPOINT));
    assert_eq!(status.links[0].spiffe_id.as_deref(), Some(SERVER));
    assert!(status.links[0].address.is_some() && status.links[0].uid.is_none());
}

/// Handshakes that are begun and never go on; the last ones of them are still open.
async fn half_open(mutual: &Mutual) -> Vec<TcpStream> {
    let mut crowd = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(mutual.address()).await.unwrap();
        // Who is displaced already may notice here.
        let _ = stream.write_all(&[0x16, 3, 1]).await;
        crowd.push(stream);
    }
    crowd
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn half_open_handshakes_stop_nobody() {
    log::capture();
    let mutual = Mutual::start().await;
    let crowd = half_open(&mutual).await;
    let _plugin = mutual.link().await;
    mutual.links(1).await;
    let first = crowd[0].local_addr().unwrap().to_string();
    log::line_with(&["link refused", "displaced", &format!("peer={first} ")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn half_open_handshakes_of_one_address_displace_none_of_another() {
    let mutual = Mutual::start().await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    // It is slow: the whole crowd comes between its first byte and its last.
    let slow = socket.connect(mutual.address()).await.unwrap();
    let _crowd = half_open(&mutual).await;
    // A quarter of 64 for one address; the last of the 200 may still be waiting to be accepted.
    eventually("the crowd displaces itself", || async {
        (mutual.refusals("displaced").await >= 180).then_some(())
    })
    .await;
    let _plugin = mutual.link_over(slow).await;
    mutual.links(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_noise_of_strangers_hides_no_impostor() {
    log::capture();
    let mutual = Mutual::start().await;
    let stranger = TestAuthority::new("a.test");
    for _ in 0..5 {
        let mut garbage = TcpStream::connect(mutual.address()).await.unwrap();
        garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        // Nor may a certificate that anybody can make.
        let _ = mutual.open(mutual.tls(&stranger.svid("/spire/server").build())).await;
    }
    eventually("the noise", || async { (mutual.refusals("").await >= 10).then_some(()) }).await;
    let _ = mutual.open(mutual.tls(&mutual.authority.svid("/beyond-the-noise").build())).await;
    let line =
        log::line_with(&["WARN", "link refused", "not_authorized", "spiffe://a.test/beyond-the-noise"]).await;
    assert!(line.contains("expected=spiffe://a.test/spire/server"), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_probe_of_the_port_is_no_refusal() {
    let mutual = Mutual::start().await;
    drop(TcpStream::connect(mutual.address()).await.unwrap());
    // Accepted after it, refused after it.
    refuses_svid(&mutual, &mutual.authority.svid("/web").build(), "not_authorized").await;
    assert_eq!(mutual.refusals("").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rotated_identity_is_shown_to_the_next_and_ends_no_link() {
    let mutual = Mutual::start().await;
    let _plugin = mutual.link().await;
    mutual.links(1).await;
    let server = mutual.authority.svid("/spire/server").build();
    let shown = async || {
        let stream = mutual.connect(mutual.tls(&server)).await.unwrap();
        let chain = stream.get_ref().1.peer_certificates().unwrap().to_vec();
        assert_eq!(svid::leaf_id(&chain[0]).unwrap().to_string(), ENDPOINT);
        chain
    };
    let before = shown().await;
    mutual.agent.give(mutual.update());
    eventually("the next certificate", || async { (shown().await != before).then_some(()) }).await;
    mutual.links(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_revoked_authority_ends_the_link_that_it_vouched_for() {
    let mutual = Mutual::start().await;
    let plugin = mutual.link().await;
    mutual.links(1).await;
    let next = TestAuthority::new("a.test");
    let svid = next.svid("/bundle-endpoint").build();
    mutual.agent.give(entente_workload_identity::testing::Update::new(&svid, &next.bundle()));
    let _ = plugin.ended().await;
    mutual.links(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_second_registration_entry_hides_no_revocation() {
    let mutual = Mutual::start().await;
    let plugin = mutual.link().await;
    mutual.links(1).await;
    let next = TestAuthority::new("a.test");
    let (one, other) = (next.svid("/bundle-endpoint").build(), next.svid("/other").build());
    let update = entente_workload_identity::testing::Update::new(&one, &next.bundle());
    mutual.agent.give(update.with_svid(&other, &next.bundle()));
    let _ = plugin.ended().await;
    mutual.links(0).await;
    mutual.is_told("several svids are issued to this process").await;
    // What it showed before it may still show.
    assert_eq!(mutual.endpoint.status().await.link_identity.as_deref(), Some(ENDPOINT));
    let text = mutual.endpoint.status().await.problems();
    assert!(text.iter().any(|one| one.starts_with("workload_api: ")), "{text:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_servers_with_different_keys_each_signs_for_its_own_chain() {
    let mutual = Mutual::start().await;
    let (one, two) = (mutual.link().await, mutual.link().await);
    mutual.links(2).await;
    for (plugin, number) in [(&one, 7), (&two, 6)] {
        plugin.own_bundle(&mutual.authority.bundle_with(Some(number), None)).await;
        plugin.lend(&mutual.authority.svid("/spire/server").build()).await;
    }
    mutual.endpoint.is_ready().await;
    let tls = || spiffe_tls(&mutual.authority.bundle(), SERVER);
    for _ in 0..3 {
        assert_eq!(get(mutual.endpoint.address(), tls()).await.unwrap().status, 200);
    }
    assert_eq!(mutual.endpoint.status().await.own.bundle.unwrap().sequence_number, Some(7));
    drop(two);
    mutual.links(1).await;
    assert_eq!(get(mutual.endpoint.address(), tls()).await.unwrap().status, 200);
    assert!(!one.sign_requests.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn where_one_of_two_servers_signs_wrongly_or_refuses_the_other_is_asked() {
    for bad in [Signing::Says(vec![7; 70]), Signing::Refuses] {
        let mutual = Mutual::start().await;
        let plugins = [mutual.link().await, mutual.link().await];
        mutual.links(2).await;
        for plugin in &plugins {
            plugin.own_bundle(&mutual.authority.bundle_with(Some(7), None)).await;
            plugin.lend(&mutual.authority.svid("/spire/server").build()).await;
        }
        eventually("both lend", || async {
            let links = mutual.endpoint.status().await.links;
            links.iter().all(|link| link.lends.is_some()).then_some(())
        })
        .await;
        let ask = || get(mutual.endpoint.address(), spiffe_tls(&mutual.authority.bundle(), SERVER));
        assert_eq!(ask().await.unwrap().status, 200);
        let asked = |plugin: &FakePlugin| plugin.sign_requests.lock().unwrap().len();
        let preferred = plugins.iter().find(|plugin| asked(plugin) == 1).unwrap();
        preferred.signs(bad.clone());
        assert!(ask().await.is_err(), "{bad:?}: the one that it met");
        for _ in 0..3 {
            assert_eq!(ask().await.unwrap().status, 200, "{bad:?}");
        }
        assert_eq!(asked(preferred), 2, "{bad:?}");
    }
}
