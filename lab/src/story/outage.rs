//! Step 6: SIGKILL for each part in turn. Whatever was agreed is still there, and what is new still travels.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use entente_bundle::{Bundle, TrustDomain};

use super::PATIENCE;
use super::federate::wait_until_equal;
use super::rotate::prepare;
use super::talk::check_calls;
use crate::checks::{ensure, eventually};
use crate::compare::same_bundle;
use crate::domain::Domain;
use crate::lab::Lab;
use crate::process;
use crate::workloads::{CallMark, OneCall};

/// A plugin whose SPIRE Server was killed has to notice by itself.
const ORPHAN_DEADLINE: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Agent,
    Endpoint,
    Server,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    One,
    Two,
}

impl Side {
    fn of(self, lab: &Lab) -> &Domain {
        match self {
            Self::One => &lab.one,
            Self::Two => &lab.two,
        }
    }
    fn of_mut(self, lab: &mut Lab) -> &mut Domain {
        match self {
            Self::One => &mut lab.one,
            Self::Two => &mut lab.two,
        }
    }
}

pub(super) async fn run(lab: &mut Lab) -> anyhow::Result<()> {
    let calls = lab.pair()?.1.mark();
    let victims = [
        (Side::One, Part::Endpoint),
        (Side::One, Part::Server),
        (Side::One, Part::Agent),
        (Side::Two, Part::Endpoint),
        (Side::Two, Part::Server),
    ];
    for (side, part) in victims {
        kill_and_restart(lab, side, part, &calls).await?;
        if part == Part::Agent {
            new_workload_gets_identity(lab, side).await?;
        }
        prepare(lab, &lab.one, &lab.two).await?;
    }
    check_calls(lab, &calls, "through all of it").await
}

async fn kill_and_restart(lab: &mut Lab, side: Side, part: Part, calls: &CallMark) -> anyhow::Result<()> {
    let before = Held::by(side.of(lab)).await?;
    let start = Instant::now();
    kill(side.of_mut(lab), part).await?;
    // While it is down.
    check_calls(lab, calls, "").await?;
    if part == Part::Endpoint {
        let (command, code, printed) = side.of(lab).status_command().await?;
        lab.timeline.command(&command, &printed);
        ensure(code == Some(1), || format!("without an endpoint, bundle-endpoint status exits {code:?}"))?;
    }
    let domain = side.of_mut(lab);
    match part {
        Part::Agent => domain.start_agent().await?,
        Part::Endpoint => domain.start_endpoint()?,
        Part::Server => domain.start_server().await.map(drop)?,
    }
    domain.wait_until_ready(PATIENCE).await?;
    wait_until_equal(&lab.one, &lab.two).await?;
    wait_until_equal(&lab.two, &lab.one).await?;
    Held::by(side.of(lab)).await?.lost_nothing_of(&before)?;
    let name = side.of(lab).trust_domain();
    let what = match part {
        Part::Agent => "agent",
        Part::Endpoint => "bundle endpoint",
        Part::Server => lab.means.spire.kind().server(),
    };
    lab.save_inventory()?;
    lab.timeline.held_after(
        &format!("{what} of {name} killed and started again: linked, bundles equal on both sides, nothing lost, calls went on"),
        start.elapsed(),
    );
    Ok(())
}

async fn kill(domain: &mut Domain, part: Part) -> anyhow::Result<()> {
    match part {
        Part::Agent => domain.kill_agent().await,
        Part::Endpoint => domain.kill_endpoint().await,
        Part::Server => {
            let plugin = domain.plugin_pid()?;
            domain.kill_server().await?;
            eventually("the orphaned plugin ends by itself", ORPHAN_DEADLINE, async || {
                ensure(!process::is_running(plugin), || format!("the plugin still runs as pid {plugin}"))
            })
            .await
        }
    }
}

/// A workload that starts now has only the restarted agent to ask.
async fn new_workload_gets_identity(lab: &mut Lab, side: Side) -> anyhow::Result<()> {
    let address = lab.pair()?.0.address;
    let program = lab.means.products.helloworld_client();
    let call = OneCall::make(side.of(lab), &program, address, None).await?;
    lab.timeline.command(&call.command_line, &call.printed);
    ensure(call.answered, || format!("a new workload gets no identity: {}", call.logged.trim()))?;
    lab.timeline.held("a workload that starts now gets its identity from the restarted agent");
    Ok(())
}

/// What must survive.
struct Held {
    entries: BTreeSet<String>,
    federated: BTreeMap<TrustDomain, Bundle>,
    own: Bundle,
}

impl Held {
    async fn by(domain: &Domain) -> anyhow::Result<Self> {
        let entries = domain.api().entries().await?.into_iter().map(|entry| entry.id).collect();
        let federated = domain.api().federated_bundles().await?;
        Ok(Self { entries, federated, own: domain.api().bundle().await? })
    }
    fn lost_nothing_of(&self, before: &Self) -> anyhow::Result<()> {
        let lost = before.entries.difference(&self.entries).count();
        ensure(lost == 0, || format!("{lost} registration entries are lost"))?;
        same_bundle(Some(&self.own), &before.own)?;
        for (trust_domain, bundle) in &before.federated {
            same_bundle(self.federated.get(trust_domain), bundle)?;
        }
        Ok(())
    }
}
