//! The refresh loop with paused time and a fetcher that the test answers for.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use entente_bundle::Bundle;
use entente_bundle::document::ParsedDocument;
use entente_bundle::testing::TestAuthority;
use tokio::time::{Instant, advance};

use super::*;
use crate::federation::relationship::{EndpointProfile, Mode};
use crate::link::{Held, LinkInfo, LinkPeer, LocalPeer, LocalProcess, Outcome};
use crate::metrics::Metrics;

/// What the fetcher does, in order; the last one for ever.
#[derive(Clone)]
enum Step {
    Fails,
    Gives(Bundle),
    Hangs,
    Panics,
}

#[derive(Default)]
struct FakeFetcher {
    steps: Mutex<BTreeMap<TrustDomain, VecDeque<Step>>>,
    fetches: Mutex<Vec<(TrustDomain, Instant)>>,
    flying: AtomicUsize,
    most_flying: AtomicUsize,
}

impl FakeFetcher {
    fn does(&self, name: &str, steps: &[Step]) {
        crate::lock(&self.steps).insert(domain(name), steps.iter().cloned().collect());
    }

    fn times(&self, name: &str) -> Vec<Instant> {
        let fetches = crate::lock(&self.fetches);
        fetches.iter().filter(|(fetched, _)| fetched.as_str() == name).map(|(_, time)| *time).collect()
    }

    fn gaps(&self, name: &str) -> Vec<Duration> {
        let times = self.times(name);
        times.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    fn next(&self, trust_domain: &TrustDomain) -> Step {
        let mut steps = crate::lock(&self.steps);
        let steps = steps.get_mut(trust_domain).unwrap();
        if steps.len() > 1 { steps.pop_front().unwrap() } else { steps[0].clone() }
    }
}

impl Fetch for FakeFetcher {
    fn fetch<'a>(
        &'a self,
        request: &'a FetchRequest,
        _bundles: &'a dyn BundleSource,
    ) -> BoxFuture<'a, Result<Fetched, FetchError>> {
        let trust_domain = request.trust_domain.clone();
        Box::pin(async move {
            crate::lock(&self.fetches).push((trust_domain.clone(), Instant::now()));
            let flying = self.flying.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_flying.fetch_max(flying, Ordering::SeqCst);
            let result = match self.next(&trust_domain) {
                Step::Fails => Err(FetchError::NoAuthenticationBundle { trust_domain }),
                Step::Gives(bundle) => {
                    let url = request.url.parse()?;
                    let parsed = ParsedDocument { bundle, skipped: vec![] };
                    Ok(Fetched { parsed, text: vec![], presented: None, url })
                }
                Step::Panics => panic!("for this test"),
                Step::Hangs => {
                    sleep(Duration::from_secs(30)).await;
                    Err(FetchError::Timeout { stage: "the whole fetch", after: Duration::from_secs(30) })
                }
            };
            self.flying.fetch_sub(1, Ordering::SeqCst);
            result
        })
    }
}

struct Fixture {
    hub: Arc<Hub>,
    fetcher: Arc<FakeFetcher>,
    table: Arc<RelationshipTable>,
    link: crate::link::LinkId,
    _running: AbortOnDropHandle<()>,
}

impl Fixture {
    fn new() -> Self {
        let hub = Hub::new(domain("a.test"), Arc::new(Metrics::new()));
        let fetcher = Arc::new(FakeFetcher::default());
        let table = Arc::new(RelationshipTable::default());
        let refresher = Refresher::new(
            Arc::clone(&hub),
            Arc::clone(&fetcher) as Arc<dyn Fetch>,
            RefreshPolicy::default(),
            Arc::clone(&table),
        );
        let running = AbortOnDropHandle::new(tokio::spawn(refresher.run(CancellationToken::new())));
        let link = hub.open(LinkInfo {
            plugin_version: "test".into(),
            peer: LinkPeer::Local(LocalPeer { uid: 0, process: LocalProcess::Pid(1), allowed: true }),
            since: std::time::UNIX_EPOCH,
            lends: None,
        });
        Self { hub, fetcher, table, link, _running: running }
    }

    fn follow(&self, relationships: &[FederationRelationship]) {
        let relationships = relationships.iter().map(|one| (one.trust_domain.clone(), Arc::new(one.clone())));
        self.hub.take_relationships(self.link, relationships.collect());
    }

    fn hold(&self, bundle: &Bundle) {
        let held = Held { bundle: Some(Arc::new(bundle.clone())), ..Held::default() };
        self.hub.take_held(self.link, bundle.trust_domain(), held);
    }
}

fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

fn relationship(name: &str) -> FederationRelationship {
    FederationRelationship {
        trust_domain: domain(name),
        bundle_endpoint_url: format!("https://{name}/"),
        profile: EndpointProfile::HttpsSpiffe { endpoint_spiffe_id: domain(name).spire_server_id() },
        mode: Mode::Managed,
        follow_redirects: false,
    }
}

fn bundle(authority: &TestAuthority, sequence_number: u64, hint: Option<u64>) -> Bundle {
    authority.bundle_with(Some(sequence_number), hint.map(Duration::from_secs))
}

fn between(gap: Duration, least: u64, most: u64) -> bool {
    (Duration::from_secs(least)..=Duration::from_secs(most)).contains(&gap)
}

/// Lets tasks run and time pass in small steps, so that nothing is jumped over.
async fn pass(seconds: u64) {
    for _ in 0..seconds * 2 {
        advance(Duration::from_millis(500)).await;
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_hint_of_the_fetched_bundle_sets_the_pace() {
    let fixture = Fixture::new();
    let authority = TestAuthority::new("b.test");
    fixture.fetcher.does("b.test", &[Step::Gives(bundle(&authority, 1, Some(400)))]);
    fixture.hold(&authority.bundle());
    fixture.follow(&[relationship("b.test")]);
    pass(320).await;
    let gaps = fixture.fetcher.gaps("b.test");
    assert!(gaps.len() >= 2 && gaps.iter().all(|gap| between(*gap, 89, 111)), "{gaps:?}");
}

#[tokio::test(start_paused = true)]
async fn hints_of_seconds_and_of_years_meet_floor_and_ceiling() {
    let fixture = Fixture::new();
    let (quick, slow) = (TestAuthority::new("b.test"), TestAuthority::new("c.test"));
    fixture.fetcher.does("b.test", &[Step::Gives(bundle(&quick, 1, Some(1)))]);
    fixture.fetcher.does("c.test", &[Step::Gives(bundle(&slow, 1, Some(100_000_000)))]);
    fixture.hold(&quick.bundle());
    fixture.hold(&slow.bundle());
    fixture.follow(&[relationship("b.test"), relationship("c.test")]);
    pass(3700).await;
    assert!(fixture.fetcher.gaps("b.test").iter().all(|gap| between(*gap, 14, 18)));
    let slow = fixture.fetcher.gaps("c.test");
    assert!(slow.len() == 1 && between(slow[0], 3200, 3601), "{slow:?}");
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_the_next_try_is_the_next_regular_one_and_never_far() {
    let fixture = Fixture::new();
    let authority = TestAuthority::new("b.test");
    // A hint of a day would be an hour; a failure must be looked at sooner.
    fixture.hold(&bundle(&authority, 1, Some(86_400)));
    fixture.fetcher.does("b.test", &[Step::Fails]);
    fixture.follow(&[relationship("b.test")]);
    pass(400).await;
    let gaps = fixture.fetcher.gaps("b.test");
    assert!(gaps.len() >= 4 && gaps.iter().all(|gap| between(*gap, 66, 84)), "{gaps:?}");
    assert_eq!(fixture.table.snapshot()[0].failure.as_ref().unwrap().count, gaps.len() as u64 + 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_bundle_to_authenticate_with_is_tried_at_once_after_a_failure_only() {
    let fixture = Fixture::new();
    let (old, new) = (TestAuthority::new("b.test"), TestAuthority::new("b.test"));
    fixture.hold(&old.bundle());
    fixture.fetcher.does("b.test", &[Step::Fails, Step::Gives(bundle(&new, 2, None))]);
    fixture.follow(&[relationship("b.test")]);
    pass(5).await;
    assert_eq!(fixture.fetcher.times("b.test").len(), 1);
    fixture.hold(&old.bundle());
    pass(1).await;
    assert_eq!(fixture.fetcher.times("b.test").len(), 1, "a repeat is no news");
    fixture.hold(&new.bundle());
    pass(1).await;
    assert_eq!(fixture.fetcher.times("b.test").len(), 2);
    fixture.hold(&bundle(&new, 2, None));
    pass(1).await;
    assert_eq!(fixture.fetcher.times("b.test").len(), 2, "nothing is wrong any more");
}

#[tokio::test(start_paused = true)]
async fn the_first_fetch_waits_a_moment_for_the_bundle_that_authenticates() {
    let fixture = Fixture::new();
    let authority = TestAuthority::new("b.test");
    fixture.fetcher.does("b.test", &[Step::Gives(authority.bundle())]);
    fixture.follow(&[relationship("b.test")]);
    pass(1).await;
    assert!(fixture.fetcher.times("b.test").is_empty());
    fixture.hold(&authority.bundle());
    pass(1).await;
    assert_eq!(fixture.fetcher.times("b.test").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failed_offer_is_made_again_more_and_more_rarely() {
    let fixture = Fixture::new();
    let authority = TestAuthority::new("b.test");
    fixture.hold(&bundle(&authority, 1, None));
    fixture.fetcher.does("b.test", &[Step::Gives(bundle(&authority, 2, Some(100_000)))]);
    fixture.follow(&[relationship("b.test")]);
    let start = Instant::now();
    let mut made = Vec::new();
    let mut last = 0;
    for _ in 0..400 {
        pass(1).await;
        if let Some(offer) = fixture.hub.offers.after(last).pop() {
            last = offer.id;
            made.push(start.elapsed().as_secs());
            fixture.hub.offers.record(&domain("b.test"), offer.id, Outcome::Failed { reason: "away".into() });
        }
    }
    let waits: Vec<_> = made.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits.len() >= 7, "{waits:?}");
    assert!(waits[0] <= 4 && waits.windows(2).all(|pair| pair[0] <= pair[1]), "{waits:?}");
    assert!(waits.iter().all(|wait| *wait <= 63), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_held_already_is_not_offered_and_what_is_set_is_withdrawn() {
    let fixture = Fixture::new();
    let authority = TestAuthority::new("b.test");
    let (held, newer) = (bundle(&authority, 1, None), bundle(&authority, 2, None));
    fixture.hold(&held);
    fixture.fetcher.does("b.test", &[Step::Gives(held.clone()), Step::Gives(newer.clone())]);
    fixture.follow(&[relationship("b.test")]);
    pass(5).await;
    assert!(fixture.hub.offers.after(0).is_empty());
    pass(90).await;
    assert_eq!(fixture.hub.offers.after(0).len(), 1);
    fixture.hold(&newer);
    pass(1).await;
    assert!(fixture.hub.offers.after(0).is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_older_bundle_that_another_server_set_after_ours_is_replaced_without_a_fetch() {
    let fixture = Fixture::new();
    let authority = TestAuthority::new("b.test");
    let (old, new) = (bundle(&authority, 1, None), bundle(&authority, 2, None));
    fixture.hold(&old);
    fixture.fetcher.does("b.test", &[Step::Gives(new.clone())]);
    fixture.follow(&[relationship("b.test")]);
    pass(5).await;
    let set = |offer: u64| fixture.hub.offers.record(&domain("b.test"), offer, Outcome::Set).is_some();
    let mut last = 0;
    for _ in 0..3 {
        let offers = fixture.hub.offers.after(last);
        assert_eq!(offers.len(), 1, "made once, and again after each step back");
        last = offers[0].id;
        assert!(set(last));
        pass(1).await;
        fixture.hold(&new);
        pass(1).await;
        assert!(fixture.hub.offers.after(0).is_empty());
        fixture.hold(&old);
        pass(1).await;
    }
    assert_eq!(fixture.fetcher.times("b.test").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_held_and_no_older_is_left_alone_until_the_next_fetch() {
    let fixture = Fixture::new();
    let (authority, other) = (TestAuthority::new("b.test"), TestAuthority::new("b.test"));
    // Another endpoint may have fetched something newer; and where there are no numbers nobody can say.
    for (fetched, held) in [(Some(2), Some(3)), (Some(2), Some(2)), (None, None), (None, Some(3))] {
        let fetched = authority.bundle_with(fetched, None);
        fixture.hold(&fetched);
        fixture.fetcher.does("b.test", &[Step::Gives(fetched)]);
        fixture.follow(&[relationship("b.test")]);
        pass(5).await;
        fixture.hold(&other.bundle_with(held, None));
        pass(5).await;
        assert!(fixture.hub.offers.after(0).is_empty());
        fixture.follow(&[]);
        pass(1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_document_without_a_number_in_place_of_a_numbered_bundle_is_offered_and_counted_once() {
    let fixture = Fixture::new();
    let (authority, other) = (TestAuthority::new("b.test"), TestAuthority::new("b.test"));
    fixture.hold(&bundle(&authority, 7, None));
    let lost = || {
        let text = fixture.hub.metrics.text([]).unwrap();
        text.contains("entente_endpoint_sequence_numbers_lost_total{trust_domain=\"b.test\"} 1")
    };
    let steps = [Step::Gives(bundle(&other, 8, None)), Step::Gives(other.bundle_with(None, None))];
    fixture.fetcher.does("b.test", &steps);
    fixture.follow(&[relationship("b.test")]);
    pass(5).await;
    assert!(!lost(), "a numbered one is nothing to warn of");
    pass(300).await;
    assert!(fixture.fetcher.times("b.test").len() > 3);
    assert!(lost());
    assert_eq!(fixture.hub.offers.after(0)[0].bundle.sequence_number(), None);
}

#[tokio::test(start_paused = true)]
async fn fetches_are_bounded_but_peers_that_hang_give_their_place_away() {
    let fixture = Fixture::new();
    let names: Vec<_> = (0..200).map(|number| format!("b{number}.test")).collect();
    for name in &names {
        fixture.fetcher.does(name, &[Step::Hangs]);
        fixture.hub.take_held(fixture.link, &domain(name), Held::default());
    }
    let web = |name: &String| FederationRelationship {
        profile: EndpointProfile::HttpsWeb { ca_certificates: None },
        ..relationship(name)
    };
    fixture.follow(&names.iter().map(web).collect::<Vec<_>>());
    pass(1).await;
    assert_eq!(fixture.fetcher.most_flying.load(Ordering::SeqCst), MAX_YOUNG_FETCHES);
    pass(12).await;
    assert!(names.iter().all(|name| fixture.fetcher.times(name).len() == 1));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_is_seen_and_begun_again() {
    let fixture = Fixture::new();
    let authority = TestAuthority::new("b.test");
    fixture.hold(&authority.bundle());
    fixture.fetcher.does("b.test", &[Step::Panics, Step::Gives(bundle(&authority, 1, None))]);
    fixture.follow(&[relationship("b.test")]);
    pass(5).await;
    assert_eq!(fixture.table.snapshot()[0].failure.as_ref().unwrap().reason, "internal");
    pass(90).await;
    let gaps = fixture.fetcher.gaps("b.test");
    assert!(gaps.len() == 1 && between(gaps[0], 66, 84), "{gaps:?}");
    assert!(fixture.table.snapshot()[0].failure.is_none());
}

#[tokio::test(start_paused = true)]
async fn where_spire_fetches_itself_only_other_authorities_are_offered() {
    let fixture = Fixture::new();
    let (held, other) = (TestAuthority::new("b.test"), TestAuthority::new("b.test"));
    fixture.hold(&held.bundle());
    let steps = [Step::Gives(bundle(&held, 7, Some(400))), Step::Gives(bundle(&other, 7, Some(400)))];
    fixture.fetcher.does("b.test", &steps);
    fixture.follow(&[FederationRelationship { mode: Mode::Assisted, ..relationship("b.test") }]);
    pass(5).await;
    assert_eq!(fixture.fetcher.times("b.test").len(), 1);
    assert!(fixture.hub.offers.after(0).is_empty());
    pass(110).await;
    assert_eq!(fixture.hub.offers.after(0).len(), 1);
}
