//! Stock SPIRE reads from us, and we read from stock SPIRE, managed and assisted.

mod support;

use entente_lab::spire::Kind;
use entente_lab::story::Step;

const STEPS: &[Step] = &[Step::Start, Step::Stock];

#[tokio::test(flavor = "multi_thread")]
async fn stock_spire_and_entente_work_both_ways_on_the_stand_in() {
    support::tell(Kind::Embedded, STEPS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_spire_and_entente_work_both_ways_on_real_spire() {
    support::tell(Kind::Real, STEPS).await;
}
