//! What the log says of those who do wrong: who, what in words, and each reason once, however often it happens.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod support;

use entente_bundle::testing::TestAuthority;
use support::endpoint::Endpoint;
use support::log;
use support::mutual::Mutual;
use support::plugin::{FakePlugin, HELLO, UNREADABLE, connects_with, spiffe};

/// Far more than a log should hold of one thing.
const FLOOD: u64 = 200;

/// The one line that was written about a flood.
async fn one_line(words: &[&str]) {
    log::line_with(words).await;
    let lines = log::lines_with(words);
    assert_eq!(lines.len(), 1, "{lines:#?}");
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
    one_line(&["federation relationship refused", "flood.test"]).await;
    one_line(&["message of the plugin refused", "stranger.test"]).await;
    one_line(&["lent server identity refused", "stranger.test"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_plugin_that_breaks_its_link_again_and_again_has_one_line() {
    log::capture();
    let endpoint = Endpoint::keyless().await;
    for _ in 0..20 {
        connects_with(&endpoint.link_socket(), &[HELLO, UNREADABLE]).await;
    }
    endpoint.counts("link_refusals_total{reason=\"unreadable\"}", 20).await;
    one_line(&["message of the plugin refused", "reason=\"unreadable\""]).await;
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
