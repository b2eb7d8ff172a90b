//! Replicas that come and go, and one that does not read: each concerns nobody but itself.

#![allow(clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::collections::BTreeSet;
use std::io;
use std::sync::Mutex;

use entente_bundle::testing::TestAuthority;
use entente_proto::link::v1::endpoint_message::Message as FromEndpoint;
use entente_proto::link::v1::offer_outcome::Outcome;
use entente_proto::link::v1::plugin_message::Message as FromPlugin;
use entente_proto::link::v1::sign_response::Result as SignResult;
use entente_proto::link::v1::{SignRequest, SignResponse};
use entente_proto::spire::hostservice::server::identityprovider::v1::X509Identity;
use futures_util::future::BoxFuture;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use self::endpoint::Manner;
use self::mutual::{ENDPOINT, MutualEndpoint};
use self::waiting::{OWN, eventually, own_bundle, until};
use super::*;
use crate::config::Config;
use crate::handshake::Role;
use crate::hclog::tests::Captured;
use crate::identity::Identity;
use crate::own_bundle::Source;

// The component tests' fake of an endpoint.
#[path = "../../../tests/support/endpoint.rs"]
#[allow(dead_code, unreachable_pub, reason = "made for the component tests, which use more of it")]
mod endpoint;
#[path = "../../../tests/support/mutual.rs"]
#[allow(dead_code, unreachable_pub, reason = "made for the component tests, which use more of it")]
mod mutual;
#[path = "../../../tests/support/waiting.rs"]
#[allow(dead_code, unreachable_pub, reason = "made for the component tests, which use more of it")]
mod waiting;

const PACE: Pace = Pace {
    regular: Duration::from_millis(50),
    least: Duration::from_millis(10),
    patience: Duration::from_millis(300),
};

const P256: u32 = 0x0403;

fn certificate_verify() -> Vec<u8> {
    [&[b' '; 64][..], b"TLS 1.3, server CertificateVerify", &[0], &[7; 32]].concat()
}

/// Answers what the test says.
#[derive(Debug, Default)]
struct Names(Mutex<Option<BTreeSet<SocketAddr>>>);

impl Names {
    fn say(&self, endpoints: &[&MutualEndpoint]) {
        self.set(Some(endpoints.iter().map(|endpoint| endpoint.address).collect()));
    }

    fn set(&self, answer: Option<BTreeSet<SocketAddr>>) {
        *self.0.lock().unwrap() = answer;
    }
}

impl Resolve for Names {
    fn resolve<'a>(&'a self, _: &'a str, _: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        let answer = self.0.lock().unwrap().clone();
        let answer = answer.ok_or_else(|| io::Error::other("the server of names is away"));
        Box::pin(std::future::ready(answer.map(|addresses| addresses.into_iter().collect())))
    }
}

/// A plugin that links to what `names` says.
struct Rig {
    authority: TestAuthority,
    shared: Arc<Shared>,
    names: Arc<Names>,
    leaf: Vec<u8>,
    _running: AbortOnDropHandle<()>,
}

impl Rig {
    fn start() -> Self {
        let authority = TestAuthority::new(OWN);
        let shared = Shared::new(Role::Publisher);
        let own = TrustDomain::new(OWN).unwrap();
        let svid = authority.svid("/spire/server").build();
        let cert_chain = svid.chain.iter().map(|der| der.to_vec()).collect();
        let leaf = Sha256::digest(svid.leaf()).to_vec();
        let lent = X509Identity { cert_chain, private_key: svid.pkcs8.clone() };
        shared.identities.set(Identity::new(lent, &own).unwrap());
        let text = format!(
            "endpoint = \"dns:///x:1\" endpoint_spiffe_id = \"{ENDPOINT}\" server_socket = \"/nonexistent/api.sock\" \
             serve_as_server = true federates_with \"b.test\" {{ bundle_endpoint_url = \"https://b.test\" bundle_endpoint_profile \"https_web\" {{}} }}"
        );
        shared.reconfigure(Config::read(&text, OWN).unwrap());
        shared.spire_relationships.send_replace(Some(Arc::default()));
        let names: Arc<Names> = Arc::default();
        let (federation, resolver, kept) = (Federation::new(shared.clone()), names.clone(), shared.clone());
        let running = tokio::spawn(async move {
            let spiffe_id = SpiffeId::new(ENDPOINT).unwrap();
            let name = Name { host: "x", port: 1, spiffe_id: &spiffe_id, trust_domain: &own };
            keep(&kept, &federation, &*resolver, name, PACE).await;
        });
        let rig = Self { authority, shared, names, leaf, _running: AbortOnDropHandle::new(running) };
        rig.publish(1);
        rig
    }

    fn publish(&self, sequence_number: u64) {
        let own = TrustDomain::new(OWN).unwrap();
        let bundle = own_bundle(&self.authority, sequence_number);
        self.shared.own_bundle.take(Source::PublishBundle, Some(&bundle), &own).unwrap();
    }
}

#[tokio::test]
async fn each_replica_gets_everything_and_they_come_and_go() {
    let rig = Rig::start();
    let one = MutualEndpoint::start(&rig.authority).await;
    let two = MutualEndpoint::start(&rig.authority).await;
    rig.names.say(&[&one]);
    one.fake.wait_own_bundle(1).await;
    rig.names.say(&[&one, &two]);
    two.fake.wait_own_bundle(1).await;
    rig.publish(2);
    one.fake.wait_own_bundle(2).await;
    two.fake.wait_own_bundle(2).await;
    // One goes and another comes in its place.
    let three = MutualEndpoint::start(&rig.authority).await;
    one.stop().await;
    rig.names.say(&[&two, &three]);
    three.fake.wait_own_bundle(2).await;
    rig.publish(3);
    two.fake.wait_own_bundle(3).await;
    three.fake.wait_own_bundle(3).await;
    assert_eq!((two.fake.links(), three.fake.links()), (1, 1), "the others were left alone");
}

#[tokio::test]
async fn an_answer_that_fails_or_is_empty_ends_no_link_and_one_without_the_address_does_in_time() {
    let rig = Rig::start();
    let one = MutualEndpoint::start(&rig.authority).await;
    let two = MutualEndpoint::start(&rig.authority).await;
    rig.names.say(&[&one, &two]);
    one.fake.wait_own_bundle(1).await;
    for answer in [None, Some(BTreeSet::new())] {
        rig.names.set(answer);
        tokio::time::sleep(PACE.patience * 2).await;
        assert_eq!(one.fake.links(), 1);
    }
    rig.publish(2);
    one.fake.wait_own_bundle(2).await;
    rig.names.say(&[&two]);
    tokio::time::sleep(PACE.patience * 2).await;
    rig.publish(3);
    two.fake.wait_own_bundle(3).await;
    let heard = one.fake.received();
    assert!(heard.iter().all(|message| !format!("{message:?}").contains("sequence_number: Some(3)")));
}

/// Has a name answer again and again, each time with another of these numbers of addresses where nobody is; counts the lines of
/// each message that were written.
fn lines_of_answers(numbers: [u8; 2], messages: &[&str]) -> Vec<usize> {
    let captured = Captured::start();
    let shared = Shared::new(Role::Publisher);
    let federation = Federation::new(shared.clone());
    let (spiffe_id, own) = (SpiffeId::new(ENDPOINT).unwrap(), TrustDomain::new(OWN).unwrap());
    let name = Name { host: "x", port: 1, spiffe_id: &spiffe_id, trust_domain: &own };
    let (failed, links) = (Arc::new(Notify::new()), BTreeMap::new());
    let mut replicas = Replicas { shared: &shared, federation: &federation, name, pace: PACE, failed, links };
    let mut repeats = Repeats::default();
    for number in numbers.iter().cycle().take(400) {
        let addresses = (0..*number).map(|last| SocketAddr::from(([127, 0, 0, last], 1)));
        replicas.take(Ok(addresses.collect()), &mut repeats);
    }
    let lines = |message| ["info", "warn"].map(|level| captured.at_level(level, message).len()).iter().sum();
    messages.iter().map(|message| lines(message)).collect()
}

#[tokio::test]
async fn an_answer_that_is_another_each_time_does_not_fill_the_log() {
    for (numbers, messages) in [
        ([1, 2], &["endpoint found behind its name", "endpoint is gone from its name"][..]),
        ([1, 0], &["endpoint's name cannot be resolved"]),
        ([33, 34], &["endpoint's name has more addresses than are linked"]),
    ] {
        let lines = lines_of_answers(numbers, messages);
        assert!(lines.iter().all(|lines| *lines > 0), "{messages:?}: {lines:?}");
        assert!(lines.iter().sum::<usize>() <= 31, "{messages:?}: {lines:?}");
    }
}

#[tokio::test]
async fn replicas_that_are_no_endpoint_do_not_hold_up_the_one_that_is() {
    let rig = Rig::start();
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let impostor = rig.authority.svid("/web").build();
    let impostor = MutualEndpoint::start_as(&rig.authority, &impostor, Manner::Good).await;
    let mute = MutualEndpoint::start_as(
        &rig.authority,
        &rig.authority.svid("/bundle-endpoint").build(),
        Manner::Mute,
    )
    .await;
    let good = MutualEndpoint::start(&rig.authority).await;
    let nobody = "127.0.0.1:1".parse().unwrap();
    let addresses = [silent.local_addr().unwrap(), nobody, impostor.address, mute.address, good.address];
    rig.names.set(Some(addresses.into()));
    good.fake.wait_own_bundle(1).await;
    until("the impostor was dialled", || !impostor.handshakes().is_empty()).await;
    assert_eq!(impostor.fake.links(), 0);
}

#[tokio::test]
async fn a_replica_that_never_reads_loses_its_own_link_and_its_offers_hold_back_nobody() {
    let rig = Rig::start();
    let svid = rig.authority.svid("/bundle-endpoint").build();
    let deaf = MutualEndpoint::start_as(&rig.authority, &svid, Manner::Deaf).await;
    let good = MutualEndpoint::start(&rig.authority).await;
    rig.names.say(&[&deaf, &good]);
    good.fake.wait_own_bundle(1).await;
    let flood = async {
        // Until its link is taken away, and on with the next one.
        while deaf.fake.links() < 2 {
            deaf.fake.offer("b.test", None).await;
            for number in 0..200 {
                deaf.fake.offer(&format!("stranger{number}.test"), None).await;
            }
        }
    };
    let honest = async {
        for _ in 0..3 {
            let offer_id = good.fake.offer("b.test", None).await;
            let outcome = good.fake.wait_outcome(offer_id).await;
            assert_eq!(outcome.outcome(), Outcome::Refused, "{outcome:?}");
        }
    };
    tokio::join!(flood, honest);
    rig.publish(2);
    good.fake.wait_own_bundle(2).await;
    assert_eq!(good.fake.links(), 1);
}

#[tokio::test]
async fn a_replica_that_has_signatures_made_without_end_leaves_the_others_theirs() {
    let rig = Rig::start();
    let greedy = MutualEndpoint::start(&rig.authority).await;
    let good = MutualEndpoint::start(&rig.authority).await;
    rig.names.say(&[&greedy, &good]);
    greedy.fake.wait_own_bundle(1).await;
    good.fake.wait_own_bundle(1).await;
    let is_refused = |message: FromPlugin| match message {
        FromPlugin::SignResponse(SignResponse { result: Some(SignResult::Refusal(reason)), .. }) => {
            Some(reason)
        }
        _ => None,
    };
    let flooding = async {
        loop {
            let request = SignRequest {
                request_id: 0,
                certificate_sha256: rig.leaf.clone(),
                signature_scheme: P256,
                content: certificate_verify(),
            };
            greedy.fake.say(FromEndpoint::SignRequest(request)).await;
        }
    };
    let asking = async {
        let reason = greedy.fake.wait("a refusal", is_refused).await;
        assert!(reason.contains("signatures per second"), "{reason}");
        for _ in 0..20 {
            let answer = good.fake.sign(&rig.leaf, P256, &certificate_verify()).await;
            assert!(matches!(answer, SignResult::Signature(_)), "{answer:?}");
        }
    };
    tokio::select! {
        () = flooding => {}
        () = asking => {}
    }
}

#[tokio::test]
async fn a_replica_that_lies_is_named_and_its_noise_hides_no_other() {
    let captured = Captured::start();
    let rig = Rig::start();
    let liar = MutualEndpoint::start(&rig.authority).await;
    let good = MutualEndpoint::start(&rig.authority).await;
    rig.names.say(&[&liar, &good]);
    liar.fake.wait_own_bundle(1).await;
    good.fake.wait_own_bundle(1).await;
    for number in 0..200 {
        liar.fake.offer(&format!("stranger{number}.test"), None).await;
        liar.fake.sign(&rig.leaf, P256, b"anything else").await;
    }
    for fake in [&liar.fake, &good.fake] {
        for name in ["stranger.test", "b.test"] {
            let offer_id = fake.offer(name, None).await;
            fake.wait_outcome(offer_id).await;
        }
    }
    good.fake.sign(&rig.leaf, P256, b"anything else").await;
    let told = |message: &str, endpoint: &MutualEndpoint| {
        let is_its =
            |line: &&Map<String, Value>| line.get("endpoint") == Some(&endpoint.address.to_string().into());
        captured.warnings(message).iter().filter(is_its).count()
    };
    assert_eq!(captured.warnings("offered bundle refused").len(), 30 + 1 + 2, "each line names its replica");
    assert_eq!(told("offered bundle refused", &liar), 30 + 1, "strangers to the bound, and the declared one");
    assert_eq!(told("offered bundle refused", &good), 2, "also what was told of another replica");
    assert_eq!((told("signature refused", &liar), told("signature refused", &good)), (30, 1));
}
