//! Step 8: a third trust domain without anything of ours, as reader of our endpoint, and read by us in both ways.

use std::time::{Duration, Instant};

use anyhow::Context;

use super::PATIENCE;
use super::federate::{carry_by_hand, wait_until_equal};
use super::rotate::prepare;
use crate::checks::{ensure, eventually, line_in, see};
use crate::compare::same_bundle;
use crate::domain::Domain;
use crate::lab::Lab;
use crate::log_file::LogFile;

/// What the stock endpoint tells its readers.
const REFRESH_HINT_SECONDS: u64 = 4;
/// SPIRE's own bundle client never polls more often than every 15 s, whatever the hint.
const STOCK_POLL: Duration = Duration::from_secs(15);
/// The assisted way must be faster than SPIRE's own poll to have helped.
const ASSISTED: Duration = Duration::from_secs(8);

pub(super) async fn run(lab: &mut Lab) -> anyhow::Result<()> {
    let mut stock = Domain::create_stock(lab.folder(), "cluster3.org", &lab.means, REFRESH_HINT_SECONDS)?;
    stock.start_server().await?;
    lab.timeline.held(&format!(
        "cluster3.org: {} without plugin of ours, its own bundle endpoint at {}",
        lab.means.spire.kind().server(),
        stock.spiffe_url()
    ));
    let told = pairings(lab, &stock).await;
    stock.stop().await;
    told
}

async fn pairings(lab: &mut Lab, stock: &Domain) -> anyhow::Result<()> {
    let first_poll = stock_reads_us(lab, stock).await?;
    let (managed, assisted) = (carry_by_hand(lab, stock, &lab.one).await?, stock.api().bundle().await?);
    let start = Instant::now();
    lab.one.federate(managed)?;
    wait_until_equal(&lab.one, stock).await?;
    lab.timeline.held_after(
        "managed: cluster1.org's Entente fetched cluster3.org's bundle from the server's own endpoint, and set it",
        start.elapsed(),
    );
    prepare(lab, stock, &lab.one).await.context("managed")?;

    we_assist(lab, stock, &assisted).await?;
    stock_follows_us(lab, stock, first_poll).await
}

/// SPIRE's own bundle client fetches from our endpoint, as it would from SPIRE's.
async fn stock_reads_us(lab: &Lab, stock: &Domain) -> anyhow::Result<Instant> {
    let log = LogFile::new(stock.home().server_log());
    let mark = log.mark();
    let (ours, id) = (lab.one.trust_domain(), lab.one.trust_domain().spire_server_id());
    let own = lab.one.api().bundle().await?;
    stock.api().create_relationship(&lab.one.spiffe_url(), &id, &own).await?;
    let line = line_in(&log, mark, &["level=info", "Bundle refreshed", ours.as_str()], PATIENCE).await?;
    let polled = Instant::now();
    lab.timeline.command(&format!("grep 'Bundle refreshed' {}", log.path().display()), &line);
    let held = stock.api().federated_bundle(ours).await?;
    same_bundle(held.as_ref(), &lab.one.api().bundle().await?).map_err(|error| see(error, log.path()))?;
    lab.timeline.held(&format!(
        "{} fetches from our endpoint as {id}, and holds an equal bundle",
        lab.means.spire.kind().stock()
    ));
    Ok(polled)
}

/// SPIRE has the relationship and fetches; Entente tells it when.
async fn we_assist(lab: &Lab, stock: &Domain, bundle: &entente_bundle::Bundle) -> anyhow::Result<()> {
    let foreign = stock.trust_domain();
    lab.two.api().create_relationship(&stock.spiffe_url(), &foreign.spire_server_id(), bundle).await?;
    eventually("the endpoint of cluster2.org watches cluster3.org", PATIENCE, async || {
        let watched = lab.two.status().await?.relationships();
        ensure(watched.iter().any(|name| name == foreign.as_str()), || format!("it watches {watched:?}"))
    })
    .await?;
    wait_until_equal(&lab.two, stock).await?;
    let start = Instant::now();
    prepare(lab, stock, &lab.two).await.context("assisted")?;
    let took = start.elapsed();
    ensure(took < ASSISTED, || {
        format!("cluster2.org had it after {} s, no sooner than by its own poll", took.as_secs())
    })?;
    lab.timeline.held(&format!(
        "assisted: the relationship is the server's own in cluster2.org, which polls every {} s or more by itself",
        STOCK_POLL.as_secs()
    ));
    Ok(())
}

/// A change of ours is in the stock server after its next poll.
async fn stock_follows_us(lab: &Lab, stock: &Domain, first_poll: Instant) -> anyhow::Result<()> {
    let new = lab.one.api().prepare_x509_authority().await?;
    let ours = lab.one.trust_domain();
    let what = format!("a new authority of cluster1.org is held by {}", lab.means.spire.kind().stock());
    let followed = eventually(&what, STOCK_POLL + PATIENCE, async || {
        let held = stock.api().federated_bundle(ours).await?.context("no bundle is held")?;
        ensure(crate::server_api::holds(&held, &new), || "it does not hold it yet".to_owned())
    });
    followed.await.map_err(|error| see(error, &stock.home().server_log()))?;
    lab.timeline
        .held_after(&format!("{what} with its next poll, counted from the one before"), first_poll.elapsed());
    Ok(())
}
