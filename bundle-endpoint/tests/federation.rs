//! Fetching over real TLS: what is offered to the plugin and when, and how rotations and changes are followed.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends where its helpers cannot go on"
)]

mod support;

use std::time::Duration;

use entente_bundle::testing::TestAuthority;
use entente_bundle::{Bundle, document};
use entente_proto::link::v1::offer_outcome::Outcome;
use entente_proto::link::v1::plugin_message::Message;
use entente_proto::link::v1::relationship::Mode;
use entente_proto::link::v1::{HeldBundle, PendingRemoval, PendingRemovals, Relationship, ServerApi};
use support::endpoint::{Endpoint, KEYLESS, published};
use support::eventually;
use support::fetching::{PATIENT, QUICK, federate, linked};
use support::foreign::{Foreign, Says};
use support::plugin::{FakePlugin, spiffe};
use tokio::time::Instant;

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
async fn an_unhealthy_relationship_is_named_by_ready_which_stays_ready() {
    let endpoint = Endpoint::start(KEYLESS, PATIENT).await;
    let (_own, mut plugin) = published(&endpoint).await;
    assert!(endpoint.ready().await.1.degraded.is_empty());
    let authority = TestAuthority::new("b.test");
    let foreign = Foreign::honest(&authority).await;
    federate(&plugin, &authority, &foreign).await;
    let offer = plugin.next_offer().await;
    let (status, readiness) = endpoint.ready().await;
    assert_eq!((status, readiness.ready), (200, true), "the own bundle is served all the same");
    assert_eq!(readiness.degraded[0].name, "relationship_unhealthy");
    assert_eq!(readiness.degraded[0].detail, "b.test: SPIRE holds no bundle yet");
    let problems = endpoint.status().await.problems();
    assert_eq!(problems, ["b.test: SPIRE holds no bundle yet"], "told once");

    plugin.answer(&offer, Outcome::Set, "").await;
    plugin.holds("b.test", Some(&Bundle::try_from(offer.bundle.as_ref().unwrap()).unwrap())).await;
    eventually("all is well", || async { endpoint.ready().await.1.degraded.is_empty().then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_the_plugin_finds_wrong_makes_a_relationship_unhealthy_that_fetches_well() {
    let (endpoint, mut plugin) = linked(PATIENT).await;
    let authority = TestAuthority::new("b.test");
    let foreign = Foreign::honest(&authority).await;
    let assisted = Relationship { mode: Mode::Assisted.into(), ..spiffe("b.test", &foreign.url()) };
    plugin.relationships(vec![assisted]).await;
    let held = HeldBundle {
        trust_domain: "b.test".into(),
        bundle: Some((&authority.bundle_with(Some(1), None)).into()),
        keeping_trouble: "no relationship in SPIRE names b.test: nothing keeps it".into(),
        ..HeldBundle::default()
    };
    plugin.say(Message::HeldBundle(held.clone())).await;
    let fetched = || async { endpoint.relationship("b.test").await.filter(|one| one.fetches > 0) };
    let relationship = eventually("a fetch", fetched).await;
    assert_eq!((relationship.healthy, relationship.reason), (false, Some(held.keeping_trouble.clone())));
    let (_, readiness) = endpoint.ready().await;
    assert_eq!(readiness.degraded[0].detail, format!("b.test: {}", held.keeping_trouble));
    assert!(plugin.no_offer());

    let kept = HeldBundle { keeping_trouble: String::new(), ..held };
    plugin.say(Message::HeldBundle(kept)).await;
    eventually("healthy", || async { endpoint.relationship("b.test").await.filter(|r| r.healthy) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bootstrap_bundle_that_the_plugin_cannot_read_is_named_with_the_fetch_that_fails_for_it() {
    let (endpoint, plugin) = linked(PATIENT).await;
    let foreign = Foreign::honest(&TestAuthority::new("b.test")).await;
    plugin.relationships(vec![spiffe("b.test", &foreign.url())]).await;
    let held = HeldBundle {
        trust_domain: "b.test".into(),
        authentication_trouble: "bootstrap_bundle of b.test cannot be used: /x is no SPIFFE bundle document"
            .into(),
        ..HeldBundle::default()
    };
    plugin.say(Message::HeldBundle(held)).await;
    endpoint.fetch_fails("b.test", "no_authentication_bundle").await;
    let (_, readiness) = endpoint.ready().await;
    let told = &readiness.degraded[0].detail;
    assert!(told.contains("/x is no SPIFFE bundle document; fetch failed: no bundle of b.test"), "{told}");
    assert!(
        told.contains("mend the bootstrap_bundle") && told.contains("-format spiffe -path FILE"),
        "{told}"
    );
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
        let relationship =
            Relationship { trust_domain: "b.test".into(), ..spiffe(endpoints_domain, &foreign.url()) };
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

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn while_the_plugin_cannot_use_spires_api_no_relationship_is_healthy() {
    let (endpoint, mut plugin) = linked(PATIENT).await;
    let authority = TestAuthority::new("b.test");
    let foreign = Foreign::honest(&authority).await;
    let trouble = "plugin cannot use SPIRE's API at /x/api.sock: no such file";
    let says = |trouble: &str, declared: Vec<Relationship>| {
        Message::ServerApi(ServerApi { trouble: trouble.into(), declared })
    };
    // From the start: what is declared is shown, and not fetched.
    plugin.say(says(trouble, vec![spiffe("b.test", &foreign.url())])).await;
    let unhealthy =
        || async { endpoint.relationship("b.test").await.filter(|r| r.reason.as_deref() == Some(trouble)) };
    let relationship = eventually("declared and unhealthy", unhealthy).await;
    assert!(!relationship.healthy && relationship.last_attempt.is_none(), "{relationship:?}");
    let (_, readiness) = endpoint.ready().await;
    assert!(readiness.degraded.iter().any(|reason| reason.name == "spire_api" && reason.detail == trouble));
    assert!(endpoint.status().await.problems().contains(&format!("b.test: {trouble}")));

    federate(&plugin, &authority, &foreign).await;
    plugin.say(says("", Vec::new())).await;
    let offer = plugin.next_offer().await;
    plugin.holds("b.test", Some(&Bundle::try_from(offer.bundle.as_ref().unwrap()).unwrap())).await;
    eventually("healthy", || async { endpoint.relationship("b.test").await.filter(|r| r.healthy) }).await;
    assert!(endpoint.ready().await.1.degraded.is_empty());

    // Later: what was healthy is not.
    plugin.say(says(trouble, Vec::new())).await;
    eventually("unhealthy again", unhealthy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_removal_that_is_pending_is_shown_with_what_keeps_it() {
    let (endpoint, plugin) = linked(PATIENT).await;
    let pending = |removals: Vec<PendingRemoval>| Message::PendingRemovals(PendingRemovals { removals });
    let reason = "kept because entry e-17 (spiffe://a.test/web) uses it";
    plugin.say(pending(vec![PendingRemoval { trust_domain: "b.test".into(), reason: reason.into() }])).await;
    let problem = format!("b.test: removal pending: {reason}");
    let is_shown = || async { endpoint.status().await.problems().contains(&problem) };
    eventually("shown", || async { is_shown().await.then_some(()) }).await;
    plugin.say(pending(Vec::new())).await;
    eventually("gone", || async { (!is_shown().await).then_some(()) }).await;
}
