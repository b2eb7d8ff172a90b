//! Every part is killed once; nothing is lost and calls go on.

mod support;

use entente_lab::spire::Kind;
use entente_lab::story::Step;

const STEPS: &[Step] = &[Step::Start, Step::Federate, Step::Talk, Step::Outage];

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_parts_are_killed_on_the_stand_in() {
    support::tell(Kind::Embedded, STEPS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_parts_are_killed_on_real_spire() {
    support::tell(Kind::Real, STEPS).await;
}
