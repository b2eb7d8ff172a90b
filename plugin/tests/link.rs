//! The link to the bundle endpoint: hello, replay after each loss, strangers refused, signatures lent.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use entente_bundle::TrustDomain;
use entente_bundle::testing::TestAuthority;
use entente_proto::link::v1::endpoint_message::Message as FromEndpoint;
use entente_proto::link::v1::plugin_message::Message as FromPlugin;
use entente_proto::link::v1::sign_response::Result as SignResult;
use entente_proto::link::v1::{EndpointHello, Heartbeat};
use rustls::SignatureScheme;
use rustls::client::danger::ServerCertVerifier;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use support::endpoint::FakeEndpoint;
use support::plugin::Plugin;
use support::spire::FakeSpire;
use support::{OWN, own_bundle, until};

const P256: u32 = 0x0403;

/// A configured plugin, with a place for the endpoint.
async fn configured(extra: &str) -> (Plugin, PathBuf) {
    let plugin = Plugin::publisher().await;
    let folder = plugin.launched.folder.path().to_owned();
    let text = format!(
        "endpoint = \"unix://{0}/link.sock\" server_socket = \"unix://{0}/api.sock\" {extra}",
        folder.display()
    );
    plugin.configure(&text).await.unwrap();
    (plugin, folder)
}

fn certificate_verify(hash: usize) -> Vec<u8> {
    [&[b' '; 64][..], b"TLS 1.3, server CertificateVerify", &[0], &vec![7; hash]].concat()
}

fn sha256(leaf: &[u8]) -> Vec<u8> {
    Sha256::digest(leaf).to_vec()
}

#[tokio::test]
async fn an_endpoint_of_another_trust_domain_hears_nothing() {
    let (plugin, folder) = configured("").await;
    let endpoint = FakeEndpoint::start_for(&folder.join("link.sock"), "other.test");
    plugin.publish(Some(own_bundle(&TestAuthority::new(OWN), 1))).await.unwrap();
    let line = plugin.launched.logs.wait_for("link refused").await;
    assert!(line["reason"].as_str().unwrap().contains("\"other.test\", expected own.test"), "{line:?}");
    assert!(endpoint.received().iter().all(|message| matches!(message, FromPlugin::Hello(_))));
}

#[tokio::test]
async fn an_endpoint_of_another_user_hears_nothing() {
    let stranger = rustix::process::geteuid().as_raw() + 1;
    let (plugin, folder) = configured(&format!("endpoint_uid = {stranger}")).await;
    let endpoint = FakeEndpoint::start(&folder.join("link.sock"));
    let line = plugin.launched.logs.wait_for("link refused").await;
    assert!(line["reason"].as_str().unwrap().contains("is not allowed"), "{line:?}");
    assert_eq!(endpoint.links(), 0);
}

#[tokio::test]
async fn a_restarted_endpoint_is_found_at_once_and_gets_everything_again() {
    let (plugin, folder) = configured("").await;
    let path = folder.join("link.sock");
    let authority = TestAuthority::new(OWN);
    plugin.publish(Some(own_bundle(&authority, 1))).await.unwrap();
    for sequence_number in 1..4 {
        let endpoint = FakeEndpoint::start(&path);
        let started = Instant::now();
        endpoint.wait_own_bundle(sequence_number).await;
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        plugin.publish(Some(own_bundle(&authority, sequence_number + 1))).await.unwrap();
        endpoint.stop().await;
    }
    plugin.launched.logs.wait_for_count("link established", 3).await;
}

#[tokio::test]
async fn a_silent_endpoint_gets_heartbeats_and_is_dialled_again() {
    let (plugin, folder) = configured("").await;
    let endpoint = FakeEndpoint::start_mute(&folder.join("link.sock"));
    endpoint.wait("a heartbeat", |message| matches!(message, FromPlugin::Heartbeat(_)).then_some(())).await;
    let line = plugin.launched.logs.wait_for("link lost").await;
    assert!(line["reason"].as_str().unwrap().contains("nothing was heard for 30s"), "{line:?}");
    until("it is dialled again", || endpoint.links() == 2).await;
}

#[tokio::test]
async fn an_endpoint_that_hangs_up_at_once_is_dialled_at_a_bounded_pace() {
    let (plugin, folder) = configured("").await;
    let endpoint = FakeEndpoint::start_hasty(&folder.join("link.sock"));
    until("three links", || endpoint.links() >= 3).await;
    let (links, started) = (endpoint.links(), Instant::now());
    until("five more", || endpoint.links() >= links + 5).await;
    assert!(started.elapsed() > Duration::from_secs(3), "{:?}", started.elapsed());
    plugin.launched.logs.wait_for("link lost").await;
}

#[tokio::test]
async fn messages_that_make_no_sense_do_not_end_the_link() {
    let (plugin, folder) = configured("").await;
    let endpoint = FakeEndpoint::start(&folder.join("link.sock"));
    endpoint
        .say(FromEndpoint::Hello(EndpointHello { trust_domain: "x".into(), version: String::new() }))
        .await;
    endpoint.say(FromEndpoint::Heartbeat(Heartbeat {})).await;
    for name in ["", "No Name", "unknown.test", OWN] {
        let offer_id = endpoint.offer(name, None).await;
        let outcome = endpoint.wait_outcome(offer_id).await;
        assert!(!outcome.reason.is_empty(), "{outcome:?}");
    }
    plugin.publish(Some(own_bundle(&TestAuthority::new(OWN), 1))).await.unwrap();
    endpoint.wait_own_bundle(1).await;
    assert_eq!(endpoint.links(), 1);
}

#[tokio::test]
async fn without_serve_as_server_nothing_is_lent() {
    let (plugin, folder) = configured("").await;
    let endpoint = FakeEndpoint::start(&folder.join("link.sock"));
    let authority = TestAuthority::new(OWN);
    let chain = plugin.lent.lend(&authority, own_bundle(&authority, 1));
    endpoint.wait_own_bundle(1).await;
    let chains = |message: FromPlugin| match message {
        FromPlugin::ServerIdentity(identity) => Some(identity.certificate_chain),
        _ => None,
    };
    assert!(endpoint.wait("an identity message", chains).await.is_empty());
    let answer = endpoint.sign(&sha256(&chain[0]), P256, &certificate_verify(32)).await;
    assert!(
        matches!(&answer, SignResult::Refusal(text) if text.contains("serve_as_server is off")),
        "{answer:?}"
    );
}

#[tokio::test]
async fn only_handshakes_are_signed_and_the_signature_verifies() {
    let (plugin, folder) = configured("serve_as_server = true").await;
    let endpoint = FakeEndpoint::start(&folder.join("link.sock"));
    let early = endpoint.sign(&[0; 32], P256, &certificate_verify(32)).await;
    assert!(matches!(&early, SignResult::Refusal(text) if text.contains("no identity")), "{early:?}");

    let authority = TestAuthority::new(OWN);
    let chain = plugin.lent.lend(&authority, own_bundle(&authority, 1));
    wait_for_chain(&endpoint, &chain).await;
    let leaf = sha256(&chain[0]);
    for (leaf, scheme, content) in [
        (leaf.clone(), P256, b"anything else".to_vec()),
        (leaf.clone(), P256, certificate_verify(31)),
        (leaf.clone(), 0x0804, certificate_verify(32)),
        (vec![0; 32], P256, certificate_verify(32)),
        (Vec::new(), P256, certificate_verify(32)),
    ] {
        let answer = endpoint.sign(&leaf, scheme, &content).await;
        assert!(matches!(answer, SignResult::Refusal(_)), "{scheme:#x} {content:?}");
    }
    let content = certificate_verify(48);
    let answer = endpoint.sign(&leaf, P256, &content).await;
    let SignResult::Signature(signature) = answer else { panic!("{answer:?}") };
    assert!(verifies(&chain[0], &content, &signature));
    assert!(!verifies(&chain[0], &certificate_verify(32), &signature));
}

#[tokio::test]
async fn a_rotated_identity_follows_and_the_previous_one_still_signs() {
    let (plugin, folder) = configured("serve_as_server = true").await;
    let endpoint = FakeEndpoint::start(&folder.join("link.sock"));
    let authority = TestAuthority::new(OWN);
    let first = plugin.lent.lend(&authority, own_bundle(&authority, 1));
    wait_for_chain(&endpoint, &first).await;
    let second = plugin.lent.lend(&authority, own_bundle(&authority, 1));
    wait_for_chain(&endpoint, &second).await;
    for leaf in [&first[0], &second[0]] {
        let answer = endpoint.sign(&sha256(leaf), P256, &certificate_verify(32)).await;
        assert!(matches!(answer, SignResult::Signature(_)), "{answer:?}");
    }
    plugin.launched.logs.wait_for_count("identity of SPIRE Server changed", 2).await;
    assert!(plugin.launched.logs.all().iter().all(|line| !format!("{line:?}").contains("PRIVATE")));
}

#[tokio::test]
async fn switching_serve_as_server_off_takes_the_chain_back() {
    let (plugin, folder) = configured("serve_as_server = true").await;
    let endpoint = FakeEndpoint::start(&folder.join("link.sock"));
    let authority = TestAuthority::new(OWN);
    let chain = plugin.lent.lend(&authority, own_bundle(&authority, 1));
    wait_for_chain(&endpoint, &chain).await;
    let text =
        format!("endpoint = \"unix://{0}/link.sock\" server_socket = \"{0}/api.sock\"", folder.display());
    plugin.configure(&text).await.unwrap();
    wait_for_chain(&endpoint, &[]).await;
    let answer = endpoint.sign(&sha256(&chain[0]), P256, &certificate_verify(32)).await;
    assert!(matches!(answer, SignResult::Refusal(_)));
}

#[tokio::test]
async fn a_flood_of_signing_requests_is_bounded() {
    let (plugin, folder) = configured("serve_as_server = true").await;
    let endpoint = FakeEndpoint::start(&folder.join("link.sock"));
    let authority = TestAuthority::new(OWN);
    let chain = plugin.lent.lend(&authority, own_bundle(&authority, 1));
    wait_for_chain(&endpoint, &chain).await;
    let started = Instant::now();
    let (leaf, content) = (sha256(&chain[0]), certificate_verify(32));
    for request_id in 0..6000 {
        endpoint
            .say(FromEndpoint::SignRequest(entente_proto::link::v1::SignRequest {
                request_id: 1_000_000 + request_id,
                certificate_sha256: leaf.clone(),
                signature_scheme: P256,
                content: content.clone(),
            }))
            .await;
    }
    let answered = |granted: bool| {
        let is_wanted = |message: &FromPlugin| match message {
            FromPlugin::SignResponse(response) => {
                matches!(response.result, Some(SignResult::Signature(_))) == granted
            }
            _ => false,
        };
        endpoint.received().iter().filter(|message| is_wanted(message)).count()
    };
    until("every request is answered", || answered(true) + answered(false) == 6000).await;
    let allowed = 2000.0 + 1000.0 * started.elapsed().as_secs_f64();
    assert!(answered(true) as f64 <= allowed, "{} of {allowed}", answered(true));
    until("signatures are counted", || {
        plugin.lent.counted().iter().any(|request| request.key == ["entente", "signatures"])
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_cannot_flood_the_log() {
    let (plugin, folder) = configured("serve_as_server = true").await;
    let endpoint = FakeEndpoint::start(&folder.join("link.sock"));
    let _spire = FakeSpire::start(&folder.join("api.sock"));
    endpoint.wait_relationships(|_| true).await;
    let authority = TestAuthority::new(OWN);
    let chain = plugin.lent.lend(&authority, own_bundle(&authority, 1));
    wait_for_chain(&endpoint, &chain).await;
    let started = Instant::now();
    for number in 0..500 {
        endpoint.offer(&format!("stranger{number}.test"), None).await;
        endpoint.sign(&sha256(&chain[0]), P256, b"anything else").await;
        endpoint.say(FromEndpoint::Hello(EndpointHello::default())).await;
    }
    endpoint.sign(&[], P256, &[]).await;
    let logs = &plugin.launched.logs;
    for message in ["offered bundle refused", "signature refused"] {
        logs.wait_for(message).await;
    }
    // Budgets come back with time, and a busy machine takes its time.
    let allowed = 400.0 + 5.0 * started.elapsed().as_secs_f64();
    let lines = logs.all().len();
    assert!((lines as f64) < allowed, "{lines} lines for 1500 messages, {allowed} allowed");
    until("the number of those that were held back is told", || {
        let told = logs.with_message("lines about the bundle endpoint were held back");
        let told = told.iter().filter(|line| line["kind"] == "stranger_offer");
        told.filter_map(|line| line["held_back"].as_u64()).sum::<u64>() > 100
    })
    .await;
    until("refusals are counted", || {
        plugin.lent.counted().iter().any(|request| request.key == ["entente", "offers"])
    })
    .await;
}

#[tokio::test]
async fn relationships_wait_until_spire_has_said_what_it_holds() {
    let block = "federates_with \"a.test\" { bundle_endpoint_url = \"https://a.test\" follow_redirects = true \
                 bundle_endpoint_profile \"https_web\" {} }";
    let (plugin, folder) = configured(block).await;
    let endpoint = FakeEndpoint::start(&folder.join("link.sock"));
    plugin.publish(Some(own_bundle(&TestAuthority::new(OWN), 1))).await.unwrap();
    endpoint.wait_own_bundle(1).await;
    let is_early =
        |message: &FromPlugin| matches!(message, FromPlugin::Relationships(_) | FromPlugin::HeldBundle(_));
    assert!(!endpoint.received().iter().any(is_early), "absent would mean none");
    let _spire = FakeSpire::start(&folder.join("api.sock"));
    let all = endpoint.wait_relationships(|all| !all.is_empty()).await;
    assert_eq!((all[0].trust_domain.as_str(), all[0].follow_redirects), ("a.test", true));
    endpoint.wait_held("a.test", |held| held.bundle.is_none()).await;
}

#[tokio::test]
async fn an_api_of_spire_that_cannot_be_used_is_told_and_so_is_its_return() {
    let block = "federates_with \"a.test\" { bundle_endpoint_url = \"https://a.test\" bundle_endpoint_profile \"https_web\" {} }";
    let (plugin, folder) = configured(block).await;
    let endpoint = FakeEndpoint::start(&folder.join("link.sock"));
    let expected = format!("plugin cannot use SPIRE's API at {}/api.sock: ", folder.display());
    let state = endpoint.wait_server_api(|state| state.trouble.starts_with(&expected)).await;
    assert!(state.trouble.contains("No such file"), "{state:?}");
    assert_eq!(state.declared.len(), 1, "what is declared is told, for people");
    let logs = &plugin.launched.logs;
    let line = logs.wait_for_level("warn", "spire server api cannot be used").await;
    assert!(line["way_out"].as_str().unwrap().contains("server_socket"), "{line:?}");
    let spire = FakeSpire::start(&folder.join("api.sock"));
    endpoint.wait_server_api(|state| state.trouble.is_empty() && state.declared.is_empty()).await;
    endpoint.wait_relationships(|all| all.len() == 1).await;
    logs.wait_for("spire server api answers again").await;

    // One that hangs is no better than one that is gone.
    spire.store.open().silent = true;
    let state = endpoint.wait_server_api(|state| state.trouble.starts_with(&expected)).await;
    assert!(state.trouble.contains("did not answer within 10s"), "{state:?}");
    assert!(state.declared.is_empty(), "the relationships are known");
    spire.store.open().silent = false;
    endpoint.wait_server_api(|state| state.trouble.is_empty()).await;
    logs.wait_for_count("spire server api answers again", 2).await;
}

async fn wait_for_chain(endpoint: &FakeEndpoint, chain: &[Vec<u8>]) {
    until("the newest chain at the endpoint", || {
        let newest = endpoint.received().into_iter().rev().find_map(|message| match message {
            FromPlugin::ServerIdentity(identity) => Some(identity.certificate_chain),
            _ => None,
        });
        newest.is_some_and(|newest| newest == chain)
    })
    .await;
}

/// Asks rustls, the way a TLS 1.3 client does.
fn verifies(leaf: &[u8], content: &[u8], signature: &[u8]) -> bool {
    let bundles = entente_bundle::BundleSet::default();
    let own = TrustDomain::new(OWN).unwrap();
    let authorizer = entente_bundle::Authorizer::exact(own.spire_server_id());
    let verifier = entente_bundle::tls::SvidVerifier::new(std::sync::Arc::new(bundles), authorizer);
    let signature = digitally_signed(SignatureScheme::ECDSA_NISTP256_SHA256, signature);
    verifier.verify_tls13_signature(content, &CertificateDer::from(leaf), &signature).is_ok()
}

/// rustls makes this type only from the wire: scheme, length, signature.
fn digitally_signed(scheme: SignatureScheme, signature: &[u8]) -> rustls::DigitallySignedStruct {
    use rustls::internal::msgs::codec::{Codec, Reader};
    let length = u16::try_from(signature.len()).unwrap().to_be_bytes();
    let wire = [&u16::from(scheme).to_be_bytes()[..], &length, signature].concat();
    rustls::DigitallySignedStruct::read(&mut Reader::init(&wire)).unwrap()
}
