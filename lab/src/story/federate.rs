//! Step 3: each side names the other in its plugin's configuration, and each SPIRE holds the other's bundle.

use std::path::PathBuf;
use std::time::Instant;

use super::{DOCUMENT_LINES, PATIENCE};
use crate::checks::{ensure, eventually, see};
use crate::compare::{same_bundle, same_document};
use crate::domain::{Domain, FederatesWith};
use crate::lab::Lab;
use crate::layout::write;
use crate::stock_cli;

pub(super) async fn run(lab: &mut Lab) -> anyhow::Result<()> {
    let to_two = carry_by_hand(lab, &lab.one, &lab.two).await?;
    let to_one = carry_by_hand(lab, &lab.two, &lab.one).await?;
    lab.timeline.note("these two files are the only thing that is ever carried by hand");
    let start = Instant::now();
    lab.one.federate(to_one)?;
    lab.two.federate(to_two)?;
    lab.timeline.note("federates_with stands in both entente.hcl now, and both servers got SIGUSR1");
    for (here, there) in [(&lab.one, &lab.two), (&lab.two, &lab.one)] {
        wait_until_equal(here, there).await?;
        let what = format!(
            "{} holds the bundle of {}, equal to what it says itself",
            here.trust_domain(),
            there.trust_domain()
        );
        lab.timeline.held_after(&what, start.elapsed());
    }
    for (here, there) in [(&lab.one, &lab.two), (&lab.two, &lab.one)] {
        stock_tools_agree(lab, here, there).await.map_err(|error| see(error, &here.home().server_log()))?;
    }
    Ok(())
}

/// Writes `from`'s bundle into the folder of `to`; answers the block for `to`'s plugin.
pub(super) async fn carry_by_hand(lab: &Lab, from: &Domain, to: &Domain) -> anyhow::Result<FederatesWith> {
    let shown = stock_cli::bundle_show(lab.means.spire.stock_server(), from).await?;
    let bootstrap_bundle: PathBuf = to.home().bootstrap_bundle(from.trust_domain());
    write(&bootstrap_bundle, &shown.text)?;
    lab.timeline.command(&format!("{} > {}", shown.command_line, bootstrap_bundle.display()), "");
    Ok(FederatesWith {
        trust_domain: from.trust_domain().clone(),
        url: from.spiffe_url(),
        endpoint_spiffe_id: from.trust_domain().spire_server_id(),
        bootstrap_bundle,
    })
}

/// Waits until `here`'s SPIRE holds what `there`'s SPIRE says about itself.
pub(super) async fn wait_until_equal(here: &Domain, there: &Domain) -> anyhow::Result<()> {
    let what = format!("{} holds the bundle of {}", here.trust_domain(), there.trust_domain());
    let equal = eventually(&what, PATIENCE, async || {
        here.check_alive()?;
        there.check_alive()?;
        let own = there.api().bundle().await?;
        let held = here.api().federated_bundle(there.trust_domain()).await?;
        same_bundle(held.as_ref(), &own)
    });
    equal.await.map_err(|error| see(error, &here.home().endpoint_log()))
}

/// What a person sees with SPIRE's own tools.
async fn stock_tools_agree(lab: &Lab, here: &Domain, there: &Domain) -> anyhow::Result<()> {
    let stock = lab.means.spire.stock_server();
    let list = stock_cli::bundle_list(stock, here, there.trust_domain()).await?;
    let show = stock_cli::bundle_show(stock, there).await?;
    lab.timeline.command_lines(&list.command_line, &list.text, DOCUMENT_LINES);
    let facts = same_document(("bundle list", list.text.as_bytes()), ("bundle show", show.text.as_bytes()))?;
    lab.timeline.held(&format!(
        "{} of {} shows {}: {facts}",
        if stock.is_some() { "bundle list" } else { "the Server API" },
        here.trust_domain(),
        there.trust_domain()
    ));
    if let Some(program) = stock {
        let list = stock_cli::federation_list(program, here).await?;
        lab.timeline.command(&list.command_line, &list.text);
        ensure(list.text.contains("Found 0 federation relationships"), || {
            format!("SPIRE of {} has a relationship of its own beside a managed one", here.trust_domain())
        })?;
        lab.timeline.held("managed: SPIRE itself has no relationship, so there is one writer");
    } else {
        lab.timeline.left_out(&format!("`federation list` of {} shows no relationship", here.trust_domain()));
    }
    let (command, code, printed) = here.status_command().await?;
    lab.timeline.command(&command, &printed);
    ensure(code == Some(0), || format!("bundle-endpoint status exits {code:?}: {}", printed.trim()))?;
    let shown = printed.contains(there.trust_domain().as_str());
    ensure(shown, || format!("bundle-endpoint status does not show {}", there.trust_domain()))?;
    lab.timeline
        .held(&format!("bundle-endpoint status of {} finds everything well (exit 0)", here.trust_domain()));
    Ok(())
}
