//! The same, with the link over mutual TLS: it comes up, outlives a rotated and a revoked authority, and comes back.

mod support;

use entente_lab::domain::LinkKind;
use entente_lab::lab::Options;
use entente_lab::spire::Kind;
use entente_lab::story::Step;

const STEPS: &[Step] = &[Step::Start, Step::Serve, Step::Federate, Step::Talk, Step::Rotate, Step::Outage];

async fn tell(kind: Kind) {
    let options = Options { spire: Some(kind), link: LinkKind::Mtls, ..Options::default() };
    support::tell_with(&options, kind, STEPS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_link_over_mutual_tls_carries_the_story_on_the_stand_in() {
    tell(Kind::Embedded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_link_over_mutual_tls_carries_the_story_on_real_spire() {
    tell(Kind::Real).await;
}
