//! What the log says of those who do wrong: who, what in words, and each reason once, however often it happens.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod support;

use std::sync::Arc;

use entente_bundle::testing::TestAuthority;
use entente_proto::link::v1::offer_outcome::Outcome;
use entente_proto::link::v1::plugin_message::Message;
use entente_proto::link::v1::{Bundle as WireBundle, OwnBundle, Relationship, X509Authority};
use support::endpoint::Endpoint;
use support::fetching::{PATIENT, linked};
use support::foreign::Foreign;
use support::mutual::Mutual;
use support::plugin::{FakePlugin, HELLO, UNREADABLE, connects_with, spiffe};
use support::{eventually, log};

/// Far more than a log should hold of one thing.
const FLOOD: u64 = 200;

/// One for each interval of the brake; a flood is over within the first, unless the machine is very slow.
const FEW: usize = 4;

/// What was written about a flood.
async fn few_lines(words: &[&str]) {
    log::line_with(words).await;
    let lines = log::lines_with(words);
    assert!(lines.len() <= FEW, "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_plugin_that_sends_what_is_refused_again_and_again_has_one_line_for_each_reason() {
    log::capture();
    let endpoint = Endpoint::keyless().await;
    let plugin = FakePlugin::link(&endpoint.link_socket()).await;
    let stranger = TestAuthority::new("stranger.test");
    let mut nameless = spiffe("flood.test", "https://127.0.0.1:1/");
    nameless.bundle_endpoint_profile = None;
    plugin.relationships(vec![nameless; usize::try_from(FLOOD).unwrap()]).await;
    for _ in 0..FLOOD {
        plugin.own_bundle(&stranger.bundle()).await;
        plugin.lend(&stranger.svid("/spire/server").build()).await;
    }
    for reason in ["malformed", "other_trust_domain", "identity"] {
        endpoint.counts(&format!("link_refusals_total{{reason=\"{reason}\"}}"), FLOOD).await;
    }
    few_lines(&["federation relationship refused", "flood.test"]).await;
    few_lines(&["message of the plugin refused", "stranger.test"]).await;
    few_lines(&["lent server identity refused", "stranger.test"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_plugin_that_repeats_itself_has_one_line_more_than_it_said_first() {
    log::capture();
    let (endpoint, foreign) = (Endpoint::keyless().await, TestAuthority::new("repeated.test"));
    let serving = Foreign::honest(&foreign).await;
    let mut plugin = FakePlugin::link(&endpoint.link_socket()).await;
    plugin.holds_or_authenticates("repeated.test", None, Some(&foreign.bundle())).await;
    plugin.relationships(vec![spiffe("repeated.test", &serving.url())]).await;
    let offer = plugin.next_offer().await;
    let own = TestAuthority::new("a.test").svid("/repeated").build();
    for number in 0..FLOOD {
        plugin.answer(&offer, Outcome::Failed, &format!("reason {number}")).await;
        plugin.lend(&own).await;
    }
    endpoint.counts("offers_total{outcome=\"failed\"}", FLOOD).await;
    plugin.own_bundle(&TestAuthority::new("last.test").bundle()).await;
    endpoint.counts("link_refusals_total{reason=\"other_trust_domain\"}", 1).await;
    few_lines(&["offered bundle answered", "repeated.test"]).await;
    few_lines(&["server identity lent", "a.test/repeated"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_plugin_that_breaks_its_link_again_and_again_has_few_lines() {
    log::capture();
    let endpoint = Endpoint::keyless().await;
    for _ in 0..20 {
        connects_with(&endpoint.link_socket(), &[HELLO, UNREADABLE]).await;
    }
    endpoint.counts("link_refusals_total{reason=\"unreadable\"}", 20).await;
    few_lines(&["message of the plugin refused", "reason=\"unreadable\""]).await;
    // Who names no version is nobody else here.
    few_lines(&["plugin linked", "plugin_version=\"\""]).await;
    few_lines(&["plugin link ended", "decode"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_plugin_that_comes_and_goes_has_few_lines_and_one_when_it_stays() {
    log::capture();
    let mutual = Mutual::start().await;
    let (own, stranger) = (mutual.authority.svid("/comes").build(), TestAuthority::new("stranger.test"));
    for number in 1..=20 {
        let plugin = mutual.open_from("127.0.0.5").await;
        plugin.hello("a.test").await;
        plugin.lend(&own).await;
        plugin.own_bundle(&stranger.bundle()).await;
        mutual.endpoint.counts("link_refusals_total{reason=\"other_trust_domain\"}", number).await;
        drop(plugin);
        mutual.links(0).await;
    }
    for line in
        ["plugin linked", "plugin link ended", "server identity lent", "message of the plugin refused"]
    {
        few_lines(&["peer=127.0.0.5:", line]).await;
    }
    let linked = || log::lines_with(&["peer=127.0.0.5:", "plugin linked"]).len();
    let before = linked();
    let stays = mutual.open_from("127.0.0.5").await;
    stays.hello("a.test").await;
    eventually("a line", || async { (linked() > before).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_one_plugin_says_or_one_event_hides_no_other_of_the_same_reason() {
    log::capture();
    let mutual = Mutual::start().await;
    let crossed = mutual.open_from("127.0.0.2").await;
    crossed.hello("crossed.test").await;
    log::line_with(&["link refused", "reason=\"other_trust_domain\"", "peer=127.0.0.2:"]).await;
    let stranger = TestAuthority::new("stranger.test");
    let nameless =
        Relationship { bundle_endpoint_profile: None, ..spiffe("nameless.test", "https://127.0.0.1:1/") };
    let authority = X509Authority { certificate: vec![0x30, 0], tainted: false };
    let broken = WireBundle {
        trust_domain: "a.test".into(),
        x509_authorities: vec![authority],
        ..WireBundle::default()
    };
    for peer in ["127.0.0.3", "127.0.0.4"] {
        let plugin = mutual.open_from(peer).await;
        plugin.hello("a.test").await;
        plugin.own_bundle(&stranger.bundle()).await;
        plugin.relationships(vec![nameless.clone()]).await;
        plugin.say(Message::OwnBundle(OwnBundle { bundle: Some(broken.clone()) })).await;
        // The second time is a rotation.
        for path in ["/first", "/second"] {
            plugin.lend(&mutual.authority.svid(path).build()).await;
            log::line_with(&["server identity lent", path, &format!("peer={peer}:")]).await;
        }
        for (event, reason) in [
            ("message of the plugin refused", "other_trust_domain"),
            ("federation relationship refused", "malformed"),
            ("message of the plugin refused", "malformed"),
        ] {
            let reason = format!("reason=\"{reason}\"");
            log::line_with(&[event, &reason, &format!("peer={peer}:")]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_answer_that_becomes_another_is_told_of_each_trust_domain() {
    log::capture();
    let (_endpoint, mut plugin) = linked(PATIENT).await;
    let (mut serving, mut relationships) = (Vec::new(), Vec::new());
    for number in 0..6 {
        let name = format!("changes{number}.test");
        let authority = TestAuthority::new(&name);
        let foreign = Foreign::honest(&authority).await;
        plugin.holds_or_authenticates(&name, None, Some(&authority.bundle())).await;
        relationships.push(spiffe(&name, &foreign.url()));
        serving.push(foreign);
    }
    plugin.relationships(relationships).await;
    let mut offers = Vec::new();
    for _ in &serving {
        offers.push(plugin.next_offer().await);
    }
    // Before an offer that failed is made again.
    for offer in &offers {
        plugin.answer(offer, Outcome::Failed, "away").await;
        plugin.answer(offer, Outcome::Set, "").await;
    }
    for offer in &offers {
        for outcome in ["failed", "set"] {
            let outcome = format!("outcome=\"{outcome}\"");
            log::line_with(&["offered bundle answered", &offer.trust_domain, &outcome]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_refused_handshake_of_the_link_is_told_in_words_and_not_in_the_names_of_the_code() {
    log::capture();
    let mutual = Mutual::start().await;
    let other = mutual.authority.svid("/told").build();
    assert!(mutual.open(mutual.tls(&other)).await.is_err());
    let line = log::line_with(&["link refused", "presented=\"spiffe://a.test/told\""]).await;
    assert!(line.contains("the tls handshake failed: presented id spiffe://a.test/told"), "{line}");
    for name in ["Error", "Other(", "NotAuthorized", "invalid peer certificate"] {
        assert!(!line.contains(name), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_certificate_file_or_a_key_file_that_cannot_be_used_is_the_one_that_is_named() {
    log::capture();
    let (certificate, key) = pair();
    let (_, other_key) = pair();
    let files =
        [("good.crt", certificate), ("good.key", key), ("other.key", other_key), ("bad", "no pem".into())];
    let (crt, key) = (" certificate_file=", " private_key_file=");
    for (certificate_file, key_file, named, not_named) in [
        ("DIR/none", "DIR/good.key", crt, key),
        ("DIR/bad", "DIR/good.key", crt, key),
        ("DIR/good.crt", "DIR/none", key, crt),
        ("DIR/good.crt", "DIR/bad", key, crt),
        ("DIR/good.crt", "/dev/zero", key, crt),
        ("DIR/good.crt", "DIR/other.key", key, "nothing else"),
    ] {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        for (name, content) in &files {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        let serve = format!(
            "profile = \"https_web\"\ncertificate_file = \"{certificate_file}\"\nprivate_key_file = \"{key_file}\"\n"
        );
        let count = || log::lines_with(&["certificate files refused"]).len();
        let before = count();
        let _endpoint = Endpoint::start_in(dir, &serve, "").await.unwrap();
        eventually("a line", || async { (count() > before).then_some(()) }).await;
        let line = log::lines_with(&["certificate files refused"]).pop().unwrap();
        assert!(line.contains(named) && !line.contains(not_named), "{line}");
    }
}

/// A web certificate and its key.
fn pair() -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["one.test".into()]).unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}
