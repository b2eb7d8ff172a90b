//! Authorities come and go while calls pass, and an SVID of a revoked one is refused.

mod support;

use entente_lab::spire::Kind;
use entente_lab::story::Step;

const STEPS: &[Step] = &[Step::Start, Step::Federate, Step::Talk, Step::Rotate];

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_costs_no_call_on_the_stand_in() {
    support::tell(Kind::Embedded, STEPS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_costs_no_call_on_real_spire() {
    support::tell(Kind::Real, STEPS).await;
}
