//! The identity against a Workload API that rotates, denies, breaks and goes away.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::time::Duration;

use entente_bundle::testing::TestAuthority;
use entente_bundle::{BundleSource, SpiffeId, TrustDomain};
use entente_proto::workload::X509svidResponse;
use entente_workload_identity::testing::{FakeWorkloadApi, Update};
use entente_workload_identity::{Choice, Settings, UpdateError, WorkloadApiError, WorkloadIdentity};
use tempfile::TempDir;
use tokio::time::timeout;
use tonic::Code;

/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(20);

struct Rig {
    agent: FakeWorkloadApi,
    authority: TestAuthority,
    foreign: TestAuthority,
    folder: TempDir,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let agent = FakeWorkloadApi::start(folder.path().join("agent.sock")).unwrap();
        Self { agent, authority: TestAuthority::new("a.test"), foreign: TestAuthority::new("b.test"), folder }
    }

    fn watch(&self, grace: Duration) -> WorkloadIdentity {
        let settings = Settings { backoff_ceiling: Duration::from_millis(100), grace, ..Settings::default() };
        WorkloadIdentity::watch(self.agent.address().parse().unwrap(), settings)
    }

    fn update(&self) -> Update {
        Update::new(&self.authority.svid("/web").build(), &self.authority.bundle())
    }
}

fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

/// Waits until `holds`. Polled: not everything that is asked for here marks the identity as changed.
async fn eventually(identity: &WorkloadIdentity, what: &str, holds: impl Fn(&WorkloadIdentity) -> bool) {
    let looking = async {
        while !holds(identity) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, looking).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

fn is_denied(identity: &WorkloadIdentity) -> bool {
    matches!(identity.failure().as_deref(), Some(WorkloadApiError::Denied { .. }))
}

#[tokio::test]
async fn a_denial_before_the_first_svid_is_retried_until_the_entry_exists() {
    let rig = Rig::new();
    let identity = rig.watch(Duration::ZERO);
    eventually(&identity, "denied more than once", |_| rig.agent.calls() > 2).await;
    assert!(is_denied(&identity));
    assert!(identity.slot().current().is_none());
    assert_eq!(identity.spiffe_id(), None);

    rig.agent.give(rig.update());
    let id = timeout(DEADLINE, identity.wait_ready()).await.unwrap().unwrap();
    assert_eq!(id, SpiffeId::new("spiffe://a.test/web").unwrap());
    assert!(identity.failure().is_none());
    assert!(identity.slot().current().is_some());
    assert!(identity.bundles().bundle_for(&domain("a.test")).is_some());
}

#[tokio::test]
async fn an_agent_that_comes_up_later_is_awaited() {
    let mut rig = Rig::new();
    rig.agent.go_away();
    let identity = rig.watch(Duration::ZERO);
    eventually(&identity, "unreachable", |identity| {
        matches!(identity.failure().as_deref(), Some(WorkloadApiError::Unreachable { .. }))
    })
    .await;
    rig.agent.give(rig.update());
    rig.agent.come_back().unwrap();
    timeout(DEADLINE, identity.wait_ready()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_refusal_for_good_ends_the_wait_with_its_reason() {
    let rig = Rig::new();
    for code in [Code::InvalidArgument, Code::Unimplemented] {
        rig.agent.fail(code, "no such thing");
        let identity = rig.watch(Duration::ZERO);
        let error = timeout(DEADLINE, identity.wait_ready()).await.unwrap().unwrap_err();
        assert!(matches!(&*error, WorkloadApiError::Refused { code: seen, .. } if *seen == code));
        assert!(error.is_final());
    }
}

#[tokio::test]
async fn a_call_without_the_security_header_is_refused_and_ours_carries_it() {
    let rig = Rig::new();
    rig.agent.give(rig.update());
    let path = rig.agent.path().to_owned();
    let channel =
        tonic::transport::Endpoint::from_shared(format!("unix:{}", path.display())).unwrap().connect_lazy();
    let mut bare = entente_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient::new(channel);
    let status = bare.fetch_x509svid(entente_proto::workload::X509svidRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(rig.agent.calls(), 0);

    let identity = rig.watch(Duration::ZERO);
    timeout(DEADLINE, identity.wait_ready()).await.unwrap().unwrap();
    assert_eq!(rig.agent.calls(), 1);
}

#[tokio::test]
async fn a_rotation_replaces_certificate_and_bundle_and_tells_watchers() {
    let rig = Rig::new();
    rig.agent.give(rig.update());
    let identity = rig.watch(Duration::ZERO);
    timeout(DEADLINE, identity.wait_ready()).await.unwrap().unwrap();
    let before = identity.slot().current().unwrap();
    let mut changed = identity.changed();

    let next = TestAuthority::new("a.test");
    rig.agent.give(Update::new(&next.svid("/web").build(), &next.bundle()));
    timeout(DEADLINE, changed.changed()).await.unwrap().unwrap();
    assert_ne!(identity.slot().current().unwrap().cert, before.cert);
    let held = identity.bundles().bundle_for(&domain("a.test")).unwrap();
    assert!(held.same_authorities(&next.bundle()));
}

#[tokio::test]
async fn a_federated_bundle_missing_from_the_newest_update_is_gone_at_once() {
    let rig = Rig::new();
    rig.agent.give(rig.update().with_federated(&rig.foreign.bundle()));
    let identity = rig.watch(Duration::ZERO);
    timeout(DEADLINE, identity.wait_ready()).await.unwrap().unwrap();
    assert!(identity.bundles().bundle_for(&domain("b.test")).is_some());
    let mut changed = identity.changed();

    rig.agent.give(rig.update());
    timeout(DEADLINE, changed.changed()).await.unwrap().unwrap();
    assert!(identity.bundles().bundle_for(&domain("b.test")).is_none());
    assert!(identity.bundles().bundle_for(&domain("a.test")).is_some());
}

#[tokio::test]
async fn a_denial_after_the_svid_withdraws_everything_once_the_grace_is_over() {
    let rig = Rig::new();
    rig.agent.give(rig.update().with_federated(&rig.foreign.bundle()));
    let identity = rig.watch(Duration::from_millis(300));
    timeout(DEADLINE, identity.wait_ready()).await.unwrap().unwrap();
    let mut changed = identity.changed();

    rig.agent.deny();
    eventually(&identity, "denied", is_denied).await;
    timeout(DEADLINE, changed.wait_for(Option::is_none)).await.unwrap().unwrap();
    assert!(identity.slot().current().is_none());
    assert!(identity.bundles().snapshot().is_empty());

    rig.agent.give(rig.update());
    timeout(DEADLINE, identity.wait_ready()).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_update_without_an_svid_is_a_denial() {
    let rig = Rig::new();
    rig.agent.give(rig.update());
    let identity = rig.watch(Duration::from_millis(300));
    timeout(DEADLINE, identity.wait_ready()).await.unwrap().unwrap();

    rig.agent.give(X509svidResponse::default().into());
    eventually(&identity, "denied", is_denied).await;
    eventually(&identity, "withdrawn", |identity| identity.slot().current().is_none()).await;
    assert!(identity.bundles().snapshot().is_empty());
}

#[tokio::test]
async fn an_agent_that_denies_and_then_goes_away_has_still_denied() {
    let mut rig = Rig::new();
    rig.agent.give(rig.update());
    let identity = rig.watch(Duration::from_millis(300));
    timeout(DEADLINE, identity.wait_ready()).await.unwrap().unwrap();
    rig.agent.deny();
    eventually(&identity, "denied", is_denied).await;
    rig.agent.go_away();
    eventually(&identity, "withdrawn", |identity| identity.slot().current().is_none()).await;
}

#[tokio::test]
async fn a_denial_that_passes_within_the_grace_costs_nothing() {
    let rig = Rig::new();
    rig.agent.give(rig.update());
    let identity = rig.watch(DEADLINE);
    timeout(DEADLINE, identity.wait_ready()).await.unwrap().unwrap();
    rig.agent.deny();
    eventually(&identity, "denied", is_denied).await;
    assert!(identity.slot().current().is_some());
    rig.agent.give(rig.update());
    eventually(&identity, "good again", |identity| identity.failure().is_none()).await;
    assert!(identity.slot().current().is_some());
}

#[tokio::test]
async fn material_outlives_an_agent_that_restarts() {
    let mut rig = Rig::new();
    rig.agent.give(rig.update());
    let identity = rig.watch(Duration::ZERO);
    timeout(DEADLINE, identity.wait_ready()).await.unwrap().unwrap();
    let before = identity.slot().current().unwrap();

    rig.agent.go_away();
    eventually(&identity, "failing", |identity| identity.failure().is_some()).await;
    assert_eq!(identity.slot().current().unwrap().cert, before.cert);

    rig.agent.give(rig.update());
    rig.agent.come_back().unwrap();
    eventually(&identity, "renewed", |identity| identity.slot().current().unwrap().cert != before.cert).await;
    assert!(identity.failure().is_none());
    drop(rig.folder);
}

#[tokio::test]
async fn an_unusable_update_leaves_the_last_good_one_and_the_next_good_one_is_taken() {
    let rig = Rig::new();
    rig.agent.give(rig.update());
    let identity = rig.watch(Duration::ZERO);
    timeout(DEADLINE, identity.wait_ready()).await.unwrap().unwrap();
    let before = identity.slot().current().unwrap();

    let mut spoilt = rig.update().with_federated(&rig.foreign.bundle()).into_response();
    spoilt.svids[0].x509_svid.truncate(40);
    rig.agent.give(spoilt.into());
    eventually(&identity, "refused", |identity| {
        matches!(identity.failure().as_deref(), Some(WorkloadApiError::Malformed(_)))
    })
    .await;
    assert_eq!(identity.slot().current().unwrap().cert, before.cert);
    assert!(identity.bundles().bundle_for(&domain("b.test")).is_none());
    assert_eq!(rig.agent.calls(), 1, "the stream stays open");

    rig.agent.give(rig.update());
    eventually(&identity, "renewed", |identity| identity.slot().current().unwrap().cert != before.cert).await;
}

#[tokio::test]
async fn an_update_that_leaves_open_who_we_are_still_says_whom_to_trust() {
    let rig = Rig::new();
    rig.agent.give(rig.update());
    let choice = Choice::OnlyOf(domain("a.test"));
    let settings = Settings { choice, backoff_ceiling: Duration::from_millis(100), ..Settings::default() };
    let identity = WorkloadIdentity::watch(rig.agent.address().parse().unwrap(), settings);
    timeout(DEADLINE, identity.wait_ready()).await.unwrap().unwrap();
    let before = identity.slot().current().unwrap();
    let mut changed = identity.changed();

    let next = TestAuthority::new("a.test");
    let two = Update::new(&next.svid("/web").build(), &next.bundle())
        .with_svid(&next.svid("/db").build(), &next.bundle());
    rig.agent.give(two);
    timeout(DEADLINE, changed.changed()).await.unwrap().unwrap();
    let held = identity.bundles().bundle_for(&domain("a.test")).unwrap();
    assert!(held.same_authorities(&next.bundle()));
    assert_eq!(identity.slot().current().unwrap().cert, before.cert);
    assert!(identity.spiffe_id().is_some());
    eventually(&identity, "told", |identity| {
        let failure = identity.failure();
        let ambiguous =
            matches!(failure.as_deref(), Some(WorkloadApiError::Malformed(UpdateError::Ambiguous { .. })));
        ambiguous && rig.agent.calls() == 1
    })
    .await;

    rig.agent.give(Update::new(&next.svid("/web").build(), &next.bundle()));
    eventually(&identity, "renewed", |identity| identity.slot().current().unwrap().cert != before.cert).await;
    assert!(identity.failure().is_none());
}

#[tokio::test]
async fn a_denial_is_not_taken_back_by_an_update_without_our_identity() {
    let rig = Rig::new();
    rig.agent.give(rig.update());
    let id = SpiffeId::new("spiffe://a.test/web").unwrap();
    let settings = Settings {
        choice: Choice::Exactly(id),
        backoff_ceiling: Duration::from_millis(100),
        grace: Duration::from_secs(1),
        ..Settings::default()
    };
    let identity = WorkloadIdentity::watch(rig.agent.address().parse().unwrap(), settings);
    timeout(DEADLINE, identity.wait_ready()).await.unwrap().unwrap();
    rig.agent.deny();
    eventually(&identity, "denied", is_denied).await;
    rig.agent.give(Update::new(&rig.authority.svid("/db").build(), &rig.authority.bundle()));
    eventually(&identity, "withdrawn", |identity| identity.slot().current().is_none()).await;
}

#[tokio::test]
async fn an_expired_svid_is_never_presented() {
    let rig = Rig::new();
    let expired = rig.authority.svid("/web").expired().build();
    rig.agent.give(Update::new(&expired, &rig.authority.bundle()));
    let identity = rig.watch(Duration::ZERO);
    eventually(&identity, "bundle held", |identity| !identity.bundles().snapshot().is_empty()).await;
    assert!(identity.slot().current().is_none());
    assert_eq!(identity.spiffe_id(), None);
}

#[tokio::test]
async fn an_svid_that_ends_while_the_agent_is_away_is_put_down() {
    let mut rig = Rig::new();
    let short = rig.authority.svid("/web").with_lifetime(-60, 3).build();
    rig.agent.give(Update::new(&short, &rig.authority.bundle()));
    let identity = rig.watch(Duration::ZERO);
    timeout(DEADLINE, identity.wait_ready()).await.unwrap().unwrap();
    rig.agent.go_away();
    eventually(&identity, "put down", |identity| identity.slot().current().is_none()).await;
    assert_eq!(identity.spiffe_id(), None);
    assert!(identity.bundles().bundle_for(&domain("a.test")).is_some(), "bundles have no such end");
}

#[tokio::test]
async fn the_stream_ends_with_the_last_handle() {
    let rig = Rig::new();
    rig.agent.give(rig.update());
    let identity = rig.watch(Duration::ZERO);
    timeout(DEADLINE, identity.wait_ready()).await.unwrap().unwrap();
    let (clone, slot) = (identity.clone(), identity.slot());
    drop(identity);
    rig.agent.give(rig.update());
    let before = slot.current().unwrap();
    eventually(&clone, "clones keep it alive", |_| slot.current().unwrap().cert != before.cert).await;

    let last = slot.current().unwrap();
    let mut changed = clone.changed();
    drop(clone);
    assert!(timeout(DEADLINE, changed.changed()).await.unwrap().is_err(), "nobody writes any more");
    assert_eq!(slot.current().unwrap().cert, last.cert);
}
