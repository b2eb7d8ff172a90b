//! The link: who may dial, what is refused, and how restarts of either side converge.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends where its helpers cannot go on"
)]

mod support;

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use entente_bundle::testing::TestAuthority;
use entente_proto::link::v1::link_client::LinkClient;
use entente_proto::link::v1::plugin_message::Message;
use entente_proto::link::v1::{Bundle as WireBundle, Heartbeat, OwnBundle, X509Authority};
use support::endpoint::{Endpoint, KEYLESS, config_text};
use support::eventually;
use support::plugin::{FakePlugin, HELLO, UNREADABLE, channel, connects_with, spiffe};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tonic::Code;

async fn sequence_number(endpoint: &Endpoint) -> Option<u64> {
    endpoint.status().await.own.bundle?.sequence_number
}

async fn serves(endpoint: &Endpoint, expected: u64) {
    eventually(&format!("sequence number {expected}"), || async {
        (sequence_number(endpoint).await == Some(expected)).then_some(())
    })
    .await;
}

async fn is_linked(endpoint: &Endpoint, count: usize) {
    eventually("linked", || async { (endpoint.status().await.links.len() == count).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_user_id_that_is_not_allowed_is_refused_with_the_way_out() {
    let own = rustix::process::geteuid().as_raw();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let allowed = format!("[link]\nallowed_uids = [{}]\n", own + 4242);
    let text = config_text(&dir, KEYLESS, "").replace("[link]\n", &allowed);
    let endpoint = Endpoint::from_text(dir, &text).await.unwrap();
    let Err(status) = FakePlugin::open(&endpoint.link_socket()).await else { panic!("linked") };
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains(&format!("user id {own}")), "{status:?}");
    assert!(status.message().contains("allowed_uids"), "{status:?}");
    endpoint.counts("link_refusals_total{reason=\"uid\"}", 1).await;
    assert!(endpoint.status().await.links.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_socket_file_that_was_removed_is_made_anew_and_links_live_on() {
    let endpoint = Endpoint::keyless().await;
    let path = endpoint.link_socket();
    let _first = FakePlugin::link(&path).await;
    is_linked(&endpoint, 1).await;
    std::fs::remove_file(&path).unwrap();
    eventually("the socket is there again", || async { path.exists().then_some(()) }).await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let _second = FakePlugin::link(&path).await;
    is_linked(&endpoint, 2).await;
    endpoint.stop().await;
    assert!(!path.exists(), "the new one goes with the process");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_somebody_else_put_in_the_sockets_place_stays_until_it_is_moved_away() {
    let endpoint = Endpoint::keyless().await;
    let path = endpoint.link_socket();
    std::fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    // Longer than from one look to the next.
    tokio::time::sleep(Duration::from_secs(3)).await;
    std::os::unix::net::UnixStream::connect(&path).unwrap();
    other.accept().unwrap();
    drop(other);
    eventually("ours again", || async { UnixStream::connect(&path).await.ok() }).await;
    let _plugin = FakePlugin::link(&path).await;
    is_linked(&endpoint, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_socket_is_for_owner_and_group_only_and_goes_with_the_process() {
    let endpoint = Endpoint::keyless().await;
    let path = endpoint.link_socket();
    let found = std::fs::symlink_metadata(&path).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o660);
    let plugin = FakePlugin::link(&path).await;
    is_linked(&endpoint, 1).await;
    endpoint.stop().await;
    assert_eq!(plugin.ended().await.code(), Code::Unavailable);
    assert!(!path.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_plugin_of_another_trust_domain_is_refused_and_changes_nothing() {
    let endpoint = Endpoint::keyless().await;
    let plugin = FakePlugin::link_as(&endpoint.link_socket(), "b.test").await;
    let status = plugin.ended().await;
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("a.test") && status.message().contains("b.test"), "{status:?}");
    endpoint.counts("link_refusals_total{reason=\"other_trust_domain\"}", 1).await;
    assert!(endpoint.status().await.links.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_does_not_begin_with_a_hello_is_refused() {
    let endpoint = Endpoint::keyless().await;
    let plugin = FakePlugin::open(&endpoint.link_socket()).await.unwrap();
    plugin.say(Message::Heartbeat(Heartbeat {})).await;
    assert_eq!(plugin.ended().await.code(), Code::InvalidArgument);
    endpoint.counts("link_refusals_total{reason=\"no_hello\"}", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn messages_that_cannot_be_read_are_counted_before_and_after_the_hello() {
    let endpoint = Endpoint::keyless().await;
    let oversized = b"\0\x7f\xff\xff\xff";
    for (reason, broken) in [("unreadable", UNREADABLE), ("oversized", oversized)] {
        connects_with(&endpoint.link_socket(), &[broken]).await;
        endpoint.counts(&format!("link_refusals_total{{reason=\"{reason}\"}}"), 1).await;
        connects_with(&endpoint.link_socket(), &[HELLO, broken]).await;
        endpoint.counts(&format!("link_refusals_total{{reason=\"{reason}\"}}"), 2).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bundle_of_another_domain_a_broken_or_an_empty_one_changes_nothing() {
    let endpoint = Endpoint::keyless().await;
    let authority = TestAuthority::new("a.test");
    let plugin = FakePlugin::link(&endpoint.link_socket()).await;
    plugin.own_bundle(&authority.bundle_with(Some(3), None)).await;
    serves(&endpoint, 3).await;

    plugin.own_bundle(&TestAuthority::new("b.test").bundle_with(Some(9), None)).await;
    endpoint.counts("link_refusals_total{reason=\"other_trust_domain\"}", 1).await;
    let broken = WireBundle {
        trust_domain: "a.test".into(),
        x509_authorities: vec![X509Authority { certificate: vec![0x30, 0], tainted: false }],
        sequence_number: Some(9),
        ..Default::default()
    };
    plugin.say(Message::OwnBundle(OwnBundle { bundle: Some(broken) })).await;
    endpoint.counts("link_refusals_total{reason=\"malformed\"}", 1).await;
    let empty = WireBundle { trust_domain: "a.test".into(), sequence_number: Some(9), ..Default::default() };
    plugin.say(Message::OwnBundle(OwnBundle { bundle: Some(empty) })).await;
    endpoint.counts("link_refusals_total{reason=\"empty\"}", 1).await;
    assert_eq!(sequence_number(&endpoint).await, Some(3));

    // The link goes on.
    plugin.own_bundle(&authority.bundle_with(Some(4), None)).await;
    serves(&endpoint, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_identity_of_another_domain_is_not_shown() {
    let endpoint = Endpoint::keyless().await;
    let plugin = FakePlugin::link(&endpoint.link_socket()).await;
    plugin.lend(&TestAuthority::new("b.test").svid("/spire/server").build()).await;
    endpoint.counts("link_refusals_total{reason=\"identity\"}", 1).await;
    assert_eq!(endpoint.status().await.links[0].lends, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_own_trust_domain_as_foreign_is_refused_and_the_others_are_kept() {
    let endpoint = Endpoint::keyless().await;
    let plugin = FakePlugin::link(&endpoint.link_socket()).await;
    let mut nameless = spiffe("c.test", "https://127.0.0.1:1/");
    nameless.bundle_endpoint_profile = None;
    let own = spiffe("a.test", "https://127.0.0.1:1/");
    plugin.relationships(vec![own, nameless, spiffe("b.test", "https://127.0.0.1:1/")]).await;
    endpoint.counts("link_refusals_total{reason=\"own_trust_domain\"}", 1).await;
    endpoint.counts("link_refusals_total{reason=\"malformed\"}", 1).await;
    eventually("one relationship", || endpoint.relationship("b.test")).await;
    assert_eq!(endpoint.status().await.relationships.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn state_survives_the_link_and_the_next_link_replaces_it() {
    let endpoint = Endpoint::keyless().await;
    let authority = TestAuthority::new("a.test");
    let first = FakePlugin::link(&endpoint.link_socket()).await;
    first.own_bundle(&authority.bundle_with(Some(5), None)).await;
    first.relationships(vec![spiffe("b.test", "https://127.0.0.1:1/")]).await;
    eventually("the relationship", || endpoint.relationship("b.test")).await;
    drop(first);
    is_linked(&endpoint, 0).await;
    assert_eq!(sequence_number(&endpoint).await, Some(5));
    assert!(endpoint.relationship("b.test").await.is_some());

    // A datastore that was rebuilt counts from the start.
    let second = FakePlugin::link(&endpoint.link_socket()).await;
    second.own_bundle(&authority.bundle_with(Some(1), None)).await;
    second.relationships(vec![]).await;
    serves(&endpoint, 1).await;
    eventually("no relationship", || async { endpoint.relationship("b.test").await.is_none().then_some(()) })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_plugins_the_newer_bundle_is_served_and_relationships_are_joined() {
    let endpoint = Endpoint::keyless().await;
    let authority = TestAuthority::new("a.test");
    let one = FakePlugin::link(&endpoint.link_socket()).await;
    let two = FakePlugin::link(&endpoint.link_socket()).await;
    is_linked(&endpoint, 2).await;
    one.own_bundle(&authority.bundle_with(Some(7), None)).await;
    serves(&endpoint, 7).await;
    two.own_bundle(&authority.bundle_with(Some(6), None)).await;
    one.relationships(vec![spiffe("b.test", "https://127.0.0.1:1/")]).await;
    two.relationships(vec![spiffe("c.test", "https://127.0.0.1:1/")]).await;
    eventually("both", || async { (endpoint.status().await.relationships.len() == 2).then_some(()) }).await;
    assert_eq!(sequence_number(&endpoint).await, Some(7));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_restarted_endpoint_replaces_the_stale_socket_of_one_that_was_killed() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    // What a killed process leaves behind: a file that nobody answers on.
    drop(UnixListener::bind(dir.path().join("link.sock")).unwrap());
    let endpoint = Endpoint::start_in(Arc::clone(&dir), KEYLESS, "").await.unwrap();
    let _plugin = FakePlugin::link(&endpoint.link_socket()).await;
    is_linked(&endpoint, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_socket_in_use_a_file_in_the_way_and_a_missing_folder_stop_the_start() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let start = || Endpoint::start_in(Arc::clone(&dir), KEYLESS, "");
    let refusal =
        |started: anyhow::Result<Endpoint>| format!("{:#}", started.err().expect("it must not start"));
    let path = dir.path().join("link.sock");

    std::fs::write(&path, "mine").unwrap();
    assert!(refusal(start().await).contains("is no socket"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    std::fs::remove_file(&path).unwrap();

    // One that is stopped, with its queue full of those who dialled it: nobody answers, and a new one must not wait for it.
    let stopped =
        rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::bind(&stopped, &rustix::net::SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&stopped, 0).unwrap();
    let _queued = std::os::unix::net::UnixStream::connect(&path).unwrap();
    assert!(refusal(start().await).contains("another process listens"));
    drop(stopped);

    let first = start().await.unwrap();
    assert!(refusal(start().await).contains("another process listens"));
    let _plugin = FakePlugin::link(&path).await;
    is_linked(&first, 1).await;

    let gone = tempfile::tempdir().unwrap();
    let text = config_text(&gone, KEYLESS, "").replace("link.sock", "none/link.sock");
    let refused = refusal(Endpoint::from_text(Arc::new(gone), &text).await);
    assert!(refused.contains("does not exist"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_silent_side_hears_a_heartbeat() {
    let endpoint = Endpoint::keyless().await;
    let (to, messages) = tokio::sync::mpsc::channel(4);
    let hello =
        entente_proto::link::v1::PluginHello { trust_domain: "a.test".into(), version: "test".into() };
    to.send(entente_proto::link::v1::PluginMessage { message: Some(Message::Hello(hello)) }).await.unwrap();
    let mut client = LinkClient::new(channel(&endpoint.link_socket()).await);
    let stream = tokio_stream::wrappers::ReceiverStream::new(messages);
    let mut incoming = client.connect(stream).await.unwrap().into_inner();
    use entente_proto::link::v1::endpoint_message::Message as FromEndpoint;
    let hello = incoming.message().await.unwrap().unwrap().message.unwrap();
    assert!(matches!(hello, FromEndpoint::Hello(hello) if hello.trust_domain == "a.test"));
    let next = tokio::time::timeout(Duration::from_secs(15), incoming.message()).await.unwrap();
    assert!(matches!(next.unwrap().unwrap().message.unwrap(), FromEndpoint::Heartbeat(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn half_open_connections_to_the_socket_end_and_delay_nobody() {
    let endpoint = Endpoint::keyless().await;
    let mut waiting = UnixStream::connect(endpoint.link_socket()).await.unwrap();
    waiting.write_all(b"PRI * HTTP").await.unwrap();
    let _plugin = FakePlugin::link(&endpoint.link_socket()).await;
    is_linked(&endpoint, 1).await;
    let read = tokio::time::timeout(Duration::from_secs(15), waiting.read(&mut [0; 1])).await;
    assert_eq!(read.expect("it is closed").unwrap_or(0), 0);
    endpoint.counts("link_refusals_total{reason=\"silent\"}", 1).await;
}
