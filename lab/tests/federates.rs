//! Two trust domains come up, serve, federate, and their workloads talk.

mod support;

use entente_lab::spire::Kind;
use entente_lab::story::Step;

const STEPS: &[Step] = &[Step::Start, Step::Serve, Step::Federate, Step::Talk];

#[tokio::test(flavor = "multi_thread")]
async fn two_trust_domains_federate_and_talk_on_the_stand_in() {
    support::tell(Kind::Embedded, STEPS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_trust_domains_federate_and_talk_on_real_spire() {
    support::tell(Kind::Real, STEPS).await;
}
