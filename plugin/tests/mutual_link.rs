//! The link over mutual TLS: which endpoints hear nothing, and that both identities and the trust in them may change.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use entente_bundle::testing::{TestAuthority, TestSvid};
use entente_bundle::tls::{CertificateSlot, public_server_config};
use entente_proto::spire::plugin::types;
use rustls::server::ServerSessionMemoryCache;
use rustls::{HandshakeKind, ServerConfig};
use support::endpoint::Manner;
use support::mutual::{ENDPOINT, Handshake, MutualEndpoint, tls};
use support::plugin::Plugin;
use support::{OWN, PATIENCE, own_bundle, until};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// A plugin that is to link to this address, and that has what SPIRE Server lends.
async fn configured(address: SocketAddr, authority: &TestAuthority) -> Plugin {
    let plugin = Plugin::publisher().await;
    plugin.lent.lend(authority, own_bundle(authority, 1));
    configure(&plugin, address).await;
    plugin
}

async fn configure(plugin: &Plugin, address: SocketAddr) {
    let text = format!(
        "endpoint = \"dns:///{address}\" endpoint_spiffe_id = \"{ENDPOINT}\" server_socket = \"{}/api.sock\"",
        plugin.launched.folder.path().display()
    );
    plugin.configure(&text).await.unwrap();
}

/// The endpoint is dialled, hears nothing, and the log names what it showed and why that is not enough.
async fn refuses(authority: &TestAuthority, svid: &TestSvid, message: &str, reason: &str) -> String {
    let endpoint = MutualEndpoint::start_as(authority, svid, Manner::Good).await;
    let plugin = configured(endpoint.address, authority).await;
    let line = plugin.launched.logs.wait_for(message).await;
    assert!(line["reason"].as_str().unwrap().contains(reason), "{line:?}");
    assert_eq!(line["endpoint"].as_str().unwrap(), endpoint.address.to_string());
    until("the endpoint is told", || !endpoint.handshakes().is_empty()).await;
    assert!(endpoint.handshakes().iter().all(|one| matches!(one, Handshake::Failed(_))));
    assert_eq!(endpoint.fake.links(), 0);
    line["reason"].as_str().unwrap().to_owned()
}

/// What stands in the log where the endpoint has another ID than the configured one.
fn names_the_way_out(reason: &str) -> bool {
    reason.contains(&format!("expected {ENDPOINT}")) && reason.contains("check endpoint_spiffe_id")
}

#[tokio::test]
async fn another_workload_of_the_own_domain_hears_nothing() {
    let authority = TestAuthority::new(OWN);
    let reason = "presented id spiffe://own.test/web is not allowed";
    let told = refuses(&authority, &authority.svid("/web").build(), "link refused", reason).await;
    assert!(names_the_way_out(&told), "{told}");
}

#[tokio::test]
async fn an_endpoint_of_another_domain_hears_nothing() {
    let (authority, foreign) = (TestAuthority::new(OWN), TestAuthority::new("foreign.test"));
    let svid = foreign.svid("/bundle-endpoint").build();
    let told = refuses(&authority, &svid, "link refused", "spiffe://foreign.test/bundle-endpoint").await;
    assert!(names_the_way_out(&told), "{told}");
}

#[tokio::test]
async fn the_right_id_signed_by_a_foreign_root_hears_nothing() {
    let (authority, foreign) = (TestAuthority::new(OWN), TestAuthority::new("foreign.test"));
    let svid = foreign.svid("/x").with_id(ENDPOINT).build();
    refuses(&authority, &svid, "link is down", "no authority of own.test signed").await;
}

#[tokio::test]
async fn an_expired_certificate_hears_nothing() {
    let authority = TestAuthority::new(OWN);
    let svid = authority.svid("/bundle-endpoint").expired().build();
    let told = refuses(&authority, &svid, "link is down", "expired").await;
    assert!(!names_the_way_out(&told), "its ID is the right one: {told}");
}

#[tokio::test]
async fn an_older_tls_hears_nothing() {
    let authority = TestAuthority::new(OWN);
    let slot = Arc::new(CertificateSlot::default());
    slot.set(authority.svid("/bundle-endpoint").build().certified_key());
    let older = public_server_config(slot.clone(), &[&rustls::version::TLS12], &[b"h2"]).unwrap();
    let endpoint = MutualEndpoint::with_tls(older, slot, Manner::Good).await;
    let plugin = configured(endpoint.address, &authority).await;
    let line = plugin.launched.logs.wait_for("link is down").await;
    assert!(line["reason"].as_str().unwrap().contains("protocol version"), "{line:?}");
    assert_eq!(endpoint.fake.links(), 0);
}

/// What a server with this TLS hears of the plugin until the plugin gives up on it. It says nothing itself.
async fn heard_by_a_silent_server(tls: ServerConfig, authority: &TestAuthority) -> (Plugin, Vec<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plugin = configured(listener.local_addr().unwrap(), authority).await;
    let (tcp, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    let mut stream = TlsAcceptor::from(Arc::new(tls)).accept(tcp).await.unwrap();
    let mut heard = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut heard)).await.expect("the plugin gives up");
    (plugin, heard)
}

/// The plugin's hello names its trust domain; before it there is nothing but how HTTP/2 begins.
fn is_told_nothing(heard: &[u8]) -> bool {
    !heard.windows(OWN.len()).any(|window| window == OWN.as_bytes())
}

#[tokio::test]
async fn an_endpoint_that_asks_for_no_certificate_hears_nothing() {
    let authority = TestAuthority::new(OWN);
    let slot = Arc::new(CertificateSlot::default());
    slot.set(authority.svid("/bundle-endpoint").build().certified_key());
    let tls = public_server_config(slot, &[&rustls::version::TLS13], &[b"h2"]).unwrap();
    let (plugin, heard) = heard_by_a_silent_server(tls, &authority).await;
    assert_eq!(heard, b"");
    let line = plugin.launched.logs.wait_for("link refused").await;
    assert!(line["reason"].as_str().unwrap().contains("asked for no certificate"), "{line:?}");
}

#[tokio::test]
async fn an_endpoint_that_has_not_taken_the_certificate_yet_hears_no_hello() {
    let authority = TestAuthority::new(OWN);
    let (tls, _) = tls(&authority, &authority.svid("/bundle-endpoint").build());
    let (plugin, heard) = heard_by_a_silent_server(tls, &authority).await;
    assert!(is_told_nothing(&heard), "{}", String::from_utf8_lossy(&heard));
    let line = plugin.launched.logs.wait_for("link is down").await;
    assert!(line["reason"].as_str().unwrap().contains("did not say hello"), "{line:?}");
}

#[tokio::test]
async fn an_endpoint_that_refuses_the_server_is_named_as_the_one_that_did() {
    let authority = TestAuthority::new(OWN);
    let svid = authority.svid("/bundle-endpoint").build();
    // Its agent does not know the authority that signed the server's certificate.
    let (tls, slot) = tls(&TestAuthority::new(OWN), &svid);
    let endpoint = MutualEndpoint::with_tls(tls, slot, Manner::Good).await;
    let plugin = configured(endpoint.address, &authority).await;
    let line = plugin.launched.logs.wait_for("link is down").await;
    let reason = line["reason"].as_str().unwrap();
    assert!(reason.contains("refused the certificate of SPIRE Server"), "{line:?}");
    assert!(!reason.contains("CertificateUnknown") && reason.contains("(certificate unknown)"), "{line:?}");
}

#[tokio::test]
async fn no_session_is_resumed() {
    let authority = TestAuthority::new(OWN);
    let (mut tls, slot) = tls(&authority, &authority.svid("/bundle-endpoint").build());
    tls.send_tls13_tickets = 4;
    tls.session_storage = ServerSessionMemoryCache::new(32);
    let endpoint = MutualEndpoint::with_tls(tls, slot, Manner::Hasty).await;
    let _plugin = configured(endpoint.address, &authority).await;
    until("three handshakes", || endpoint.handshakes().len() >= 3).await;
    let is_full = |one: &Handshake| matches!(one, Handshake::Done { kind: HandshakeKind::Full, .. });
    assert!(endpoint.handshakes().iter().all(is_full), "{:?}", endpoint.handshakes());
}

#[tokio::test]
async fn without_an_identity_nobody_is_dialled_and_that_is_told() {
    let authority = TestAuthority::new(OWN);
    let endpoint = MutualEndpoint::start(&authority).await;
    let plugin = Plugin::publisher().await;
    configure(&plugin, endpoint.address).await;
    let line = plugin.launched.logs.wait_for("link is down").await;
    assert!(line["reason"].as_str().unwrap().contains("has lent no identity"), "{line:?}");
    assert!(endpoint.handshakes().is_empty());
    plugin.lent.lend(&authority, own_bundle(&authority, 1));
    endpoint.fake.wait_own_bundle(1).await;
}

#[tokio::test]
async fn the_server_shows_its_own_certificate_and_after_a_rotation_the_next_one_without_a_gap() {
    let authority = TestAuthority::new(OWN);
    let endpoint = MutualEndpoint::start(&authority).await;
    let plugin = Plugin::publisher().await;
    let first = plugin.lent.lend(&authority, own_bundle(&authority, 1));
    configure(&plugin, endpoint.address).await;
    endpoint.fake.wait_own_bundle(1).await;
    assert_eq!(endpoint.leaves(), [first[0].clone()]);
    let second = plugin.lent.lend(&authority, own_bundle(&authority, 2));
    until("a link with the next certificate", || endpoint.fake.links() == 2).await;
    endpoint.fake.wait_own_bundle(2).await;
    assert_eq!(endpoint.leaves(), [first[0].clone(), second[0].clone()]);
    assert!(plugin.launched.logs.with_message("link lost").is_empty());
}

#[tokio::test]
async fn a_certificate_that_ends_soon_is_met_again_before_it_does() {
    let authority = TestAuthority::new(OWN);
    let short = authority.svid("/bundle-endpoint").with_lifetime(-60, 30).build();
    let endpoint = MutualEndpoint::start_as(&authority, &short, Manner::Good).await;
    let plugin = configured(endpoint.address, &authority).await;
    endpoint.fake.wait_own_bundle(1).await;
    // As its agent does, it has another one in time.
    endpoint.slot.set(authority.svid("/bundle-endpoint").build().certified_key());
    until("a second link", || endpoint.fake.links() == 2).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(plugin.launched.logs.with_message("link lost").is_empty());
}

#[tokio::test]
async fn a_revoked_authority_ends_the_link_that_it_vouched_for() {
    let (authority, next) = (TestAuthority::new(OWN), TestAuthority::new(OWN));
    let endpoint = MutualEndpoint::start(&authority).await;
    let plugin = configured(endpoint.address, &authority).await;
    endpoint.fake.wait_own_bundle(1).await;
    let both = [&authority, &next].map(|one| own_bundle(one, 2).x509_authorities).concat();
    let prepared = types::Bundle { x509_authorities: both, ..own_bundle(&authority, 2) };
    plugin.publish(Some(prepared)).await.unwrap();
    endpoint.fake.wait_own_bundle(2).await;
    assert_eq!(endpoint.fake.links(), 1, "an authority more changes nothing");
    plugin.publish(Some(own_bundle(&next, 3))).await.unwrap();
    let line = plugin.launched.logs.wait_for("link lost").await;
    let reason = line["reason"].as_str().unwrap();
    assert!(reason.contains("no authority of own.test signed") && reason.contains(ENDPOINT), "{line:?}");
    assert!(endpoint.fake.received().iter().all(|message| !format!("{message:?}").contains("Some(3)")));
    endpoint.slot.set(next.svid("/bundle-endpoint").build().certified_key());
    endpoint.fake.wait_own_bundle(3).await;
}
