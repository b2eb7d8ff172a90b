//! Step 7: cluster2.org ends its relationship with cluster1.org.

use std::time::Instant;

use anyhow::Context;

use super::PATIENCE;
use crate::checks::{ensure, eventually, line_in, see};
use crate::lab::Lab;
use crate::log_file::LogFile;

/// Refusals that have to be seen before it is believed that no call passes.
const REFUSALS: usize = 3;

pub(super) async fn run(lab: &mut Lab) -> anyhow::Result<()> {
    let foreign = lab.one.trust_domain().clone();
    let entry = lab.pair()?.1.entry_id.clone();
    let server_log = LogFile::new(lab.two.home().server_log());
    let mark = server_log.mark();
    let start = Instant::now();
    lab.two.defederate(&foreign)?;
    lab.timeline.note(
        "federates_with \"cluster1.org\" is gone from cluster2.org's entente.hcl, and its server got SIGUSR1",
    );
    let warning = line_in(&server_log, mark, &["level=warn", foreign.as_str(), &entry], PATIENCE).await?;
    lab.timeline.command(&format!("grep {entry} {}", server_log.path().display()), &warning);
    let held = lab.two.api().federated_bundle(&foreign).await?;
    ensure(held.is_some(), || "the bundle was removed although an entry still uses it".to_owned())?;
    lab.timeline.held_after(
        "an entry still uses the bundle: the plugin names the entry, and the bundle stays",
        start.elapsed(),
    );
    lab.pair()?.1.more_replies(1, PATIENCE).await.context("calls stopped before the entry changed")?;

    let (client_mark, server_mark) = (lab.pair()?.1.log().mark(), lab.pair()?.0.log().mark());
    let start = Instant::now();
    lab.two.api().set_federates_with(&entry, &[]).await?;
    let gone = eventually("the bundle is gone", PATIENCE, async || {
        let held = lab.two.api().federated_bundle(&foreign).await?;
        ensure(held.is_none(), || format!("the bundle of {foreign} is still held"))
    });
    gone.await.map_err(|error| see(error, server_log.path()))?;
    lab.timeline.held_after(
        "the entry no longer names cluster1.org: its bundle is gone from the server of cluster2.org",
        start.elapsed(),
    );

    refused_on_both_sides(lab, client_mark, server_mark).await?;
    lab.timeline.held_after("calls are refused, with the reason on both sides", start.elapsed());
    let status = lab.two.status().await?;
    ensure(!status.relationships().iter().any(|name| name == foreign.as_str()), || {
        format!("/status still shows a relationship with {foreign}")
    })?;
    lab.timeline.held("/status of cluster2.org shows no relationship with cluster1.org");
    Ok(())
}

async fn refused_on_both_sides(
    lab: &mut Lab,
    client_mark: crate::log_file::Mark,
    server_mark: crate::log_file::Mark,
) -> anyhow::Result<()> {
    let (server, client) = lab.pair()?;
    let server_id = server.spiffe_id.to_string();
    let by_client = line_in(&client.log(), client_mark, &["no_bundle", &server_id], PATIENCE).await?;
    let by_server = line_in(&server.log(), server_mark, &["client refused our svid"], PATIENCE).await?;
    let (replies, after) = (client.replies(), client.log().mark());
    eventually("further calls are refused", PATIENCE, async || {
        let refused =
            client.log().lines_since(after).iter().filter(|line| line.contains("no_bundle")).count();
        ensure(refused >= REFUSALS, || format!("{refused} of {REFUSALS} refusals"))
    })
    .await?;
    let passed = client.replies() - replies;
    ensure(passed == 0, || format!("{passed} calls passed after the first refusal"))?;
    let (client_log, server_log) = (client.log(), server.log());
    lab.timeline.command(&format!("grep no_bundle {}", client_log.path().display()), &by_client);
    lab.timeline
        .command(&format!("grep 'client refused our svid' {}", server_log.path().display()), &by_server);
    Ok(())
}
