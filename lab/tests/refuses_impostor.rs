//! Servers that claim to be helloworld-server of cluster1.org, each with another certificate: what the client of cluster2.org
//! believes, what it refuses, and what both sides say about it.

mod support;

use anyhow::Context;
use entente_bundle::testing::TestAuthority;
use entente_bundle::{BundleSet, SpiffeId};
use entente_lab::checks::ensure;
use entente_lab::impostor::{Impostor, Svid};
use entente_lab::lab::Lab;
use entente_lab::spire::Kind;
use entente_lab::story::Step;
use entente_lab::workloads::OneCall;

const STEPS: &[Step] = &[Step::Start, Step::Federate, Step::Talk];

async fn impostors_are_refused(kind: Kind) {
    let _turn = support::turn().await;
    if !support::can_tell(kind) {
        return;
    }
    let mut lab = support::lab_after(kind, STEPS).await;
    if let Err(error) = try_impostors(&mut lab).await {
        support::give_up(lab, &error).await;
    }
    lab.stop(false).await;
}

async fn try_impostors(lab: &mut Lab) -> anyhow::Result<()> {
    let server_id = lab.pair()?.0.spiffe_id.clone();
    let other_id = SpiffeId::new("spiffe://cluster1.org/ns/default/sa/default/app/other")?;
    let own_root = TestAuthority::new("cluster1.org").svid(server_id.path()).build();
    let own_root = Svid::new(own_root.chain.iter().map(|der| der.to_vec()).collect(), own_root.pkcs8.clone());
    let stranger = TestAuthority::new("cluster9.org").svid("/helloworld-server").build();
    let stranger = Svid::new(stranger.chain.iter().map(|der| der.to_vec()).collect(), stranger.pkcs8.clone());
    let neighbour = Svid::mint(&lab.one, &other_id).await?;

    refused(lab, &own_root, "unknown_issuer", &server_id.to_string())
        .await
        .context("own root for a foreign domain")?;
    refused(lab, &stranger, "no_bundle", "spiffe://cluster9.org/helloworld-server")
        .await
        .context("unknown domain")?;
    refused(lab, &neighbour, "not_authorized", &other_id.to_string()).await.context("another workload")?;
    let genuine = Svid::mint(&lab.one, &server_id).await?;
    let call = call(lab, &genuine).await?.0;
    ensure(call.answered, || format!("an SVID that is good is refused: {}", call.logged))
}

/// The client names the presented ID and the reason; the server hears an alert.
async fn refused(lab: &mut Lab, svid: &Svid, reason: &str, presented: &str) -> anyhow::Result<()> {
    let (call, impostor) = call(lab, svid).await?;
    ensure(!call.answered, || "it was believed".to_owned())?;
    let said = call.logged.lines().any(|line| line.contains(reason) && line.contains(presented));
    ensure(said, || format!("the client does not say {reason} and {presented}: {}", call.logged))?;
    impostor.hears_alert(0).await.map(drop)
}

/// The client of cluster2.org allows exactly helloworld-server's ID.
async fn call(lab: &mut Lab, svid: &Svid) -> anyhow::Result<(OneCall, Impostor)> {
    let server_id = lab.pair()?.0.spiffe_id.clone();
    let impostor = Impostor::start(svid, BundleSet::from_iter([lab.two.api().bundle().await?])).await?;
    let program = lab.means.products.helloworld_client();
    let call = OneCall::make(&lab.two, &program, impostor.address, Some(&server_id)).await?;
    Ok((call, impostor))
}

#[tokio::test(flavor = "multi_thread")]
async fn impostors_are_refused_with_id_and_reason_on_the_stand_in() {
    impostors_are_refused(Kind::Embedded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn impostors_are_refused_with_id_and_reason_on_real_spire() {
    impostors_are_refused(Kind::Real).await;
}
