//! The life of a plugin under a host that does what SPIRE Server does, with the real binary.

mod support;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use entente_bundle::testing::TestAuthority;
use entente_proto::link::v1::plugin_message::Message as FromPlugin;
use entente_proto::plugin::ConnInfo;
use entente_proto::plugin::grpc_broker_client::GrpcBrokerClient;
use entente_proto::spire::plugin::server::notifier::v1::{
    BundleLoaded, BundleUpdated, NotifyAndAdviseRequest, NotifyRequest, notify_and_advise_request,
    notify_request,
};
use entente_proto::spire::plugin::types;
use rustix::process::{Signal, kill_process};
use support::endpoint::FakeEndpoint;
use support::plugin::{Launched, Plugin, command, dial};
use support::{OWN, own_bundle, until};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// A configuration whose sockets are in the plugin's own folder.
fn configuration(folder: &Path) -> String {
    let folder = folder.display();
    format!("endpoint = \"unix://{folder}/link.sock\"\nserver_socket = \"unix://{folder}/api.sock\"\n")
}

fn quoted_configuration(folder: &Path) -> String {
    let folder = folder.display();
    format!("\"endpoint\" = \"unix://{folder}/link.sock\"\n\n\"server_socket\" = \"{folder}/api.sock\"")
}

#[tokio::test]
async fn by_hand_it_explains_itself_and_fails() {
    let mut by_hand = command("Unused");
    let output = by_hand.env_remove("BundlePublisher").output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"");
    assert!(String::from_utf8_lossy(&output.stderr).contains("plugin of SPIRE Server"));
}

#[tokio::test]
async fn two_cookies_without_a_role_are_refused_with_the_way_out() {
    let both = command("BundlePublisher").env("Notifier", "Notifier").output().await.unwrap();
    assert_eq!((both.status.code(), both.stdout.as_slice()), (Some(1), &b""[..]));
    assert!(String::from_utf8_lossy(&both.stderr).contains("plugin_args"));
    let misspelt = command("Notifier").args(["--rule", "notifier"]).output().await.unwrap();
    assert_eq!((misspelt.status.code(), misspelt.stdout.as_slice()), (Some(1), &b""[..]));
    let line: serde_json::Value = serde_json::from_slice(&misspelt.stderr).unwrap();
    assert!(line["reason"].as_str().unwrap().contains("--rule"), "{line}");
}

#[tokio::test]
async fn version_and_install_work_by_hand() {
    let version = command("Unused").arg("--version").output().await.unwrap();
    assert!(version.status.success());
    assert!(String::from_utf8_lossy(&version.stdout).starts_with("entente-plugin "));
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let installed = command("Unused").arg("install").arg(folder.path()).output().await.unwrap();
        assert!(installed.status.success());
        let text = String::from_utf8_lossy(&installed.stdout).into_owned();
        let checksum = text.split('"').nth(3).unwrap().to_owned();
        assert_eq!(checksum.len(), 64, "{text}");
    }
    let copy = folder.path().join("entente-plugin");
    let mode = std::os::unix::fs::PermissionsExt::mode(&copy.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o755);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    let nowhere = command("Unused").args(["install", "/nonexistent"]).output().await.unwrap();
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("/nonexistent is no folder"));
}

#[tokio::test]
async fn it_names_only_its_own_type_and_is_healthy() {
    for (cookie, service) in [
        ("BundlePublisher", "spire.plugin.server.bundlepublisher.v1.BundlePublisher"),
        ("Notifier", "spire.plugin.server.notifier.v1.Notifier"),
    ] {
        let plugin = Plugin::connect(Launched::new(cookie).await).await;
        assert_eq!(plugin.init().await, [service, "spire.service.common.config.v1.Config"]);
        let request = HealthCheckRequest { service: "plugin".into() };
        let health = HealthClient::new(plugin.channel()).check(request).await.unwrap().into_inner();
        assert_eq!(health.status(), ServingStatus::Serving);
        assert!(plugin.stop().await.success());
    }
}

#[tokio::test]
async fn only_the_owner_may_use_the_socket() {
    let launched = Launched::new("BundlePublisher").await;
    let mode = std::os::unix::fs::PermissionsExt::mode(&launched.socket.metadata().unwrap().permissions());
    assert_eq!(mode & 0o077, 0, "{mode:o}");
}

#[tokio::test]
async fn before_configure_calls_are_refused_but_notify_and_advise_never_fails() {
    let publisher = Plugin::publisher().await;
    let refused = publisher.publish(None).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, "not configured"));
    let notifier = Plugin::start("Notifier").await;
    let refused = notifier.notifier().notify(bundle_updated(None)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    notifier.notifier().notify_and_advise(bundle_loaded(None)).await.unwrap();
    notifier.notifier().notify_and_advise(NotifyAndAdviseRequest { event: None }).await.unwrap();
    notifier.notifier().notify(NotifyRequest { event: None }).await.unwrap();
}

#[tokio::test]
async fn both_shapes_of_configuration_are_taken_and_bad_ones_are_refused_whole() {
    let plugin = Plugin::publisher().await;
    let folder = plugin.launched.folder.path().to_owned();
    for text in ["", "\"text\"", "endpoint = ", "endpiont = \"x\" refresh_hint = 5"] {
        let refused = plugin.configure(text).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{text}");
        assert!(!plugin.validate(text).await.is_empty(), "{text}");
    }
    let refused = plugin.configure("endpiont = \"x\" refresh_hint = 5").await.unwrap_err();
    for part in ["did you mean endpoint?", "endpoint: missing", "refresh_hint: expected a string"] {
        assert!(refused.message().contains(part), "{}", refused.message());
    }
    for text in [configuration(&folder), quoted_configuration(&folder)] {
        assert_eq!(plugin.validate(&text).await, [""; 0]);
        plugin.configure(&text).await.unwrap();
    }
    assert!(plugin.stop().await.success());
}

#[tokio::test]
async fn validate_leaves_no_trace() {
    let mut plugin = Plugin::publisher().await;
    let folder = plugin.launched.folder.path().to_owned();
    let endpoint = FakeEndpoint::start(&folder.join("link.sock"));
    assert_eq!(plugin.validate(&configuration(&folder)).await, [""; 0]);
    assert_eq!(plugin.publish(None).await.unwrap_err().code(), Code::FailedPrecondition);
    plugin.launched.child.start_kill().unwrap();
    plugin.launched.child.wait().await.unwrap();
    assert_eq!(endpoint.links(), 0, "validate dials nobody");
    assert_eq!(plugin.lent.fetches(), 0, "and asks for no identity");
}

#[tokio::test]
async fn validate_names_a_bootstrap_bundle_that_is_wrong_but_not_one_that_is_still_to_come() {
    let plugin = Plugin::publisher().await;
    let folder = plugin.launched.folder.path().to_owned();
    let path = folder.join("bootstrap.json");
    let text = format!(
        "{} federates_with \"a.test\" {{ bundle_endpoint_url = \"https://a.test\" bootstrap_bundle = {path:?} \
         bundle_endpoint_profile \"https_spiffe\" {{ endpoint_spiffe_id = \"spiffe://a.test/spire/server\" }} }}",
        configuration(&folder)
    );
    assert_eq!(plugin.validate(&text).await, [""; 0]);
    std::fs::write(&path, "{\"keys\": []}").unwrap();
    let notes = plugin.validate(&text).await;
    assert!(notes[0].contains("bootstrap_bundle") && notes[0].contains("bootstrap.json"), "{notes:?}");
    plugin.configure(&text).await.expect("a server must start without a bundle to begin with");
}

#[tokio::test]
async fn a_published_bundle_reaches_the_endpoint_with_our_refresh_hint() {
    let plugin = Plugin::publisher().await;
    let folder = plugin.launched.folder.path().to_owned();
    let endpoint = FakeEndpoint::start(&folder.join("link.sock"));
    plugin.configure(&format!("{} refresh_hint = \"90s\"", configuration(&folder))).await.unwrap();
    let authority = TestAuthority::new(OWN);
    plugin.publish(Some(own_bundle(&authority, 3))).await.unwrap();
    let received = endpoint.wait_own_bundle(3).await;
    assert_eq!((received.trust_domain.as_str(), received.refresh_hint), (OWN, Some(90)));
    assert_eq!(received.x509_authorities[0].certificate, authority.certificate().as_ref());
    assert!(plugin.stop().await.success());
}

#[tokio::test]
async fn every_kind_of_published_bundle_gets_its_answer() {
    let plugin = Plugin::publisher().await;
    let folder = plugin.launched.folder.path().to_owned();
    let endpoint = FakeEndpoint::start(&folder.join("link.sock"));
    plugin.configure(&configuration(&folder)).await.unwrap();
    assert_eq!(plugin.publish(None).await.unwrap_err().code(), Code::InvalidArgument);
    let foreign = own_bundle(&TestAuthority::new("foreign.test"), 1);
    assert_eq!(plugin.publish(Some(foreign)).await.unwrap_err().code(), Code::InvalidArgument);

    let (old, new) = (TestAuthority::builder(OWN).expired().build(), TestAuthority::new(OWN));
    let mut full = own_bundle(&new, 4);
    full.x509_authorities.push(types::X509Certificate { asn1: old.certificate().to_vec(), tainted: true });
    let jwt = new.jwt_authority("key-1");
    let key = types::JwtKey {
        public_key: jwt.spki().to_vec(),
        key_id: "key-1".into(),
        expires_at: 9,
        tainted: true,
    };
    full.jwt_authorities.push(key);
    full.wit_authorities.push(types::WitKey {
        key_id: "wit".into(),
        public_key: vec![1],
        expires_at: 0,
        tainted: false,
    });
    plugin.publish(Some(full.clone())).await.unwrap();
    let received = endpoint.wait_own_bundle(4).await;
    assert_eq!((received.x509_authorities.len(), received.jwt_authorities.len()), (2, 1));

    plugin.publish(Some(full)).await.unwrap();
    plugin.publish(Some(own_bundle(&new, 5))).await.unwrap();
    endpoint.wait_own_bundle(5).await;
    let numbers = |message| match message {
        FromPlugin::OwnBundle(own) => own.bundle.and_then(|bundle| bundle.sequence_number),
        _ => None,
    };
    let sent: Vec<_> = endpoint.received().into_iter().filter_map(numbers).collect();
    assert_eq!(sent, [4, 5], "each change once; a repeat is no change");
}

#[tokio::test]
async fn what_is_wrong_with_the_own_bundle_is_told_once_and_not_with_each_call() {
    let plugin = Plugin::publisher().await;
    let folder = plugin.launched.folder.path().to_owned();
    plugin.configure(&configuration(&folder)).await.unwrap();
    let mut mixed = own_bundle(&TestAuthority::new(OWN), 1);
    mixed.x509_authorities.push(types::X509Certificate { asn1: vec![0x30], tainted: false });
    for _ in 0..3 {
        plugin.publish(Some(mixed.clone())).await.unwrap();
    }
    for _ in 0..3 {
        assert_eq!(plugin.publish(None).await.unwrap_err().code(), Code::InvalidArgument);
    }
    let logs = plugin.launched.logs.clone();
    assert!(plugin.stop().await.success());
    for message in ["own bundle has authorities that cannot be published", "own bundle cannot be published"] {
        assert_eq!(logs.with_message(message).len(), 1, "{message}");
    }
}

#[tokio::test]
async fn publish_answers_at_once_while_the_endpoint_is_away() {
    let plugin = Plugin::publisher().await;
    let folder = plugin.launched.folder.path().to_owned();
    plugin.configure(&configuration(&folder)).await.unwrap();
    let authority = TestAuthority::new(OWN);
    for sequence_number in 1..50 {
        let call = plugin.publish(Some(own_bundle(&authority, sequence_number)));
        tokio::time::timeout(Duration::from_secs(5), call).await.expect("no waiting").unwrap();
    }
    let endpoint = FakeEndpoint::start(&folder.join("link.sock"));
    endpoint.wait_own_bundle(49).await;
}

#[tokio::test]
async fn the_address_of_the_host_services_may_come_before_init() {
    let plugin = Plugin::connect(Launched::new("BundlePublisher").await).await;
    plugin.tell_where().await;
    plugin.init().await;
    let folder = plugin.launched.folder.path().to_owned();
    plugin.configure(&configuration(&folder)).await.unwrap();
    until("the identity is asked for", || plugin.lent.fetches() > 1).await;
    let authority = TestAuthority::new(OWN);
    let endpoint = FakeEndpoint::start(&folder.join("link.sock"));
    plugin.lent.lend(&authority, own_bundle(&authority, 2));
    endpoint.wait_own_bundle(2).await;
    assert!(plugin.launched.logs.with_message("identity of SPIRE Server cannot be fetched").is_empty());
}

#[tokio::test]
async fn a_notifier_reads_the_datastore_because_revocations_are_not_notified() {
    let plugin = Plugin::start("Notifier").await;
    let folder = plugin.launched.folder.path().to_owned();
    let endpoint = FakeEndpoint::start(&folder.join("link.sock"));
    plugin.configure(&configuration(&folder)).await.unwrap();
    let authority = TestAuthority::new(OWN);
    let loaded = bundle_loaded(Some(own_bundle(&authority, 1)));
    plugin.notifier().notify_and_advise(loaded).await.unwrap();
    endpoint.wait_own_bundle(1).await;
    plugin.lent.lend(&authority, own_bundle(&authority, 7));
    plugin.notifier().notify(bundle_updated(Some(own_bundle(&authority, 6)))).await.unwrap();
    endpoint.wait_own_bundle(7).await;
    let revoked = own_bundle(&TestAuthority::new(OWN), 8);
    plugin.lent.lend(&authority, revoked.clone());
    let received = endpoint.wait_own_bundle(8).await;
    assert_eq!(received.x509_authorities[0].certificate, revoked.x509_authorities[0].asn1);
}

#[tokio::test]
async fn notify_and_advise_never_fails_whatever_the_bundle() {
    let plugin = Plugin::start("Notifier").await;
    let folder = plugin.launched.folder.path().to_owned();
    plugin.configure(&configuration(&folder)).await.unwrap();
    let foreign = own_bundle(&TestAuthority::new("foreign.test"), 1);
    let mut broken = own_bundle(&TestAuthority::new(OWN), 1);
    broken.x509_authorities[0].asn1.clear();
    for bundle in [None, Some(foreign), Some(broken)] {
        plugin.notifier().notify_and_advise(bundle_loaded(bundle)).await.unwrap();
    }
    plugin.launched.logs.wait_for_count("own bundle cannot be published", 3).await;
}

#[tokio::test]
async fn a_cancelled_call_does_not_harm_the_next() {
    let plugin = Plugin::publisher().await;
    let folder = plugin.launched.folder.path().to_owned();
    plugin.configure(&configuration(&folder)).await.unwrap();
    let authority = TestAuthority::new(OWN);
    for sequence_number in 1..20 {
        let call = plugin.publish(Some(own_bundle(&authority, sequence_number)));
        let _ = tokio::time::timeout(Duration::from_micros(300), call).await;
    }
    plugin.publish(Some(own_bundle(&authority, 99))).await.unwrap();
    let endpoint = FakeEndpoint::start(&folder.join("link.sock"));
    endpoint.wait_own_bundle(99).await;
}

#[tokio::test]
async fn reconfiguring_runs_beside_calls_and_a_bad_one_keeps_the_old() {
    let plugin = Plugin::publisher().await;
    let folder = plugin.launched.folder.path().to_owned();
    let (first, second) =
        (FakeEndpoint::start(&folder.join("link.sock")), FakeEndpoint::start(&folder.join("other.sock")));
    let good = configuration(&folder);
    let moved = good.replace("link.sock", "other.sock");
    plugin.configure(&good).await.unwrap();
    let authority = TestAuthority::new(OWN);
    plugin.publish(Some(own_bundle(&authority, 1))).await.unwrap();
    first.wait_own_bundle(1).await;
    assert!(plugin.configure("endpoint = 5").await.is_err());
    plugin.publish(Some(own_bundle(&authority, 2))).await.unwrap();
    first.wait_own_bundle(2).await;
    for sequence_number in 3..10 {
        let (text, bundle) = (&moved, own_bundle(&authority, sequence_number));
        let (configured, published) = tokio::join!(plugin.configure(text), plugin.publish(Some(bundle)));
        configured.unwrap();
        published.unwrap();
    }
    second.wait_own_bundle(9).await;
    assert_eq!((first.links(), second.links()), (1, 1), "the link moves once and is kept after that");
}

#[tokio::test]
async fn signals_do_not_end_it() {
    let mut plugin = Plugin::publisher().await;
    for signal in [Signal::INT, Signal::TERM, Signal::USR1, Signal::USR2] {
        kill_process(plugin.launched.pid(), signal).unwrap();
    }
    for _ in 0..10 {
        plugin.validate("").await;
        assert!(plugin.launched.is_running());
    }
    assert!(plugin.stop().await.success());
}

#[tokio::test]
async fn it_ends_when_the_host_is_gone_without_a_word() {
    let mut plugin = Plugin::publisher().await;
    let folder = plugin.launched.folder.path().to_owned();
    plugin.configure(&configuration(&folder)).await.unwrap();
    plugin.hang_up();
    let socket = plugin.launched.socket.clone();
    let Plugin { launched, .. } = plugin;
    let status = launched.ended(Duration::from_secs(15)).await;
    assert!(status.success() && !socket.exists());
}

#[tokio::test]
async fn it_dies_with_its_parent() {
    let folder = tempfile::tempdir().unwrap();
    let mut parent = tokio::process::Command::new("sh")
        .args(["-c", "\"$0\" & wait", env!("CARGO_BIN_EXE_entente-plugin")])
        .env("BundlePublisher", "BundlePublisher")
        .env("TMPDIR", folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdout = tokio::io::BufReader::new(parent.stdout.take().unwrap());
    let mut line = String::new();
    tokio::io::AsyncBufReadExt::read_line(&mut stdout, &mut line).await.unwrap();
    assert!(line.starts_with("1|1|unix|"), "{line}");
    parent.kill().await.unwrap();
    // Only the plugin holds the other end now.
    let mut rest = Vec::new();
    let end = tokio::io::AsyncReadExt::read_to_end(&mut stdout, &mut rest);
    tokio::time::timeout(Duration::from_secs(10), end).await.expect("the plugin ends too").unwrap();
}

#[tokio::test]
async fn it_stops_in_time_with_all_streams_open() {
    let mut plugin = Plugin::publisher().await;
    let folder = plugin.launched.folder.path().to_owned();
    let _endpoint = FakeEndpoint::start(&folder.join("link.sock"));
    plugin.configure(&configuration(&folder)).await.unwrap();
    let second = dial(&plugin.launched.socket).await;
    let (_broker, ours) = mpsc::channel::<ConnInfo>(1);
    let _open = GrpcBrokerClient::new(second).start_stream(ReceiverStream::new(ours)).await.unwrap();
    plugin.deinit().await;
    let mut controller =
        entente_proto::plugin::grpc_controller_client::GrpcControllerClient::new(plugin.channel());
    controller.shutdown(entente_proto::plugin::Empty {}).await.unwrap();
    // Nothing is closed on this side, and still it ends.
    let status = tokio::time::timeout(Duration::from_secs(2), plugin.launched.child.wait()).await;
    assert!(status.expect("inside two seconds").unwrap().success());
}

#[tokio::test]
async fn a_closed_stderr_does_not_end_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut child =
        command("BundlePublisher").env("TMPDIR", folder.path()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    let mut stdout = tokio::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    tokio::io::AsyncBufReadExt::read_line(&mut stdout, &mut line).await.unwrap();
    let socket = line.split('|').nth(3).unwrap().to_owned();
    let channel = dial(Path::new(&socket)).await;
    let request = HealthCheckRequest { service: "plugin".into() };
    HealthClient::new(channel).check(request).await.unwrap();
    assert!(child.try_wait().unwrap().is_none());
}

fn bundle_loaded(bundle: Option<types::Bundle>) -> NotifyAndAdviseRequest {
    let event = notify_and_advise_request::Event::BundleLoaded(BundleLoaded { bundle });
    NotifyAndAdviseRequest { event: Some(event) }
}

fn bundle_updated(bundle: Option<types::Bundle>) -> NotifyRequest {
    NotifyRequest { event: Some(notify_request::Event::BundleUpdated(BundleUpdated { bundle })) }
}
