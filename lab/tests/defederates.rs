//! A relationship ends: bundle gone, calls refused.

mod support;

use entente_lab::spire::Kind;
use entente_lab::story::Step;

const STEPS: &[Step] = &[Step::Start, Step::Federate, Step::Talk, Step::Defederate];

#[tokio::test(flavor = "multi_thread")]
async fn a_relationship_ends_for_bundle_and_calls_on_the_stand_in() {
    support::tell(Kind::Embedded, STEPS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relationship_ends_for_bundle_and_calls_on_real_spire() {
    support::tell(Kind::Real, STEPS).await;
}
