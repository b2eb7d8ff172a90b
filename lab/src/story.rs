//! The story of a federation in eight steps, one file each. Every check is real: it can fail, and then names its reason.

mod defederate;
mod federate;
mod outage;
mod rotate;
mod serve;
mod start;
mod stock;
mod talk;

use std::time::Duration;

use anyhow::Context;

use crate::checks::{ensure, mebibytes};
use crate::lab::Lab;
use crate::process::resident_memory;
use crate::sabotage::Sabotage;
use crate::spire::Kind;

/// What an operator is willing to wait for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Lines of a bundle document that are shown.
pub(crate) const DOCUMENT_LINES: usize = 4;

/// Limits on resident memory that design.md 5 and the issue set.
const PLUGIN_MEMORY: u64 = 15 * 1024 * 1024;
const ENDPOINT_MEMORY: u64 = 20 * 1024 * 1024;

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Servers, plugins, agents, endpoints, links.
    Start,
    /// What the endpoints serve.
    Serve,
    /// Each SPIRE holds the other's bundle.
    Federate,
    /// The helloworld pair, across.
    Talk,
    /// An authority comes, and another one goes.
    Rotate,
    /// SIGKILL for everything, one after the other.
    Outage,
    /// The end of a relationship.
    Defederate,
    /// The other side has nothing of ours.
    Stock,
}

impl Step {
    /// In the order of the story.
    pub const ALL: [Self; 8] = [
        Self::Start,
        Self::Serve,
        Self::Federate,
        Self::Talk,
        Self::Rotate,
        Self::Outage,
        Self::Defederate,
        Self::Stock,
    ];

    fn title(self, spire: Kind) -> String {
        match self {
            Self::Start => "two trust domains: servers with our plugin, agents, endpoints, links",
            Self::Serve => "bundles are served, as https_spiffe without its key and as https_web",
            Self::Federate => "federated both ways",
            Self::Talk => "workloads talk mutual TLS across trust domains",
            Self::Rotate => "an authority is prepared, activated, and the old one revoked, under calls",
            Self::Outage => "everything is killed once, under calls",
            Self::Defederate => "defederated: the bundle goes, and calls are refused",
            Self::Stock => return format!("{} on the other side", spire.stock()),
        }
        .to_owned()
    }
    async fn run(self, lab: &mut Lab) -> anyhow::Result<()> {
        match self {
            Self::Start => start::run(lab).await,
            Self::Serve => serve::run(lab).await,
            Self::Federate => federate::run(lab).await,
            Self::Talk => talk::run(lab).await,
            Self::Rotate => rotate::run(lab).await,
            Self::Outage => outage::run(lab).await,
            Self::Defederate => defederate::run(lab).await,
            Self::Stock => stock::run(lab).await,
        }
    }
}

/// Runs `steps` in their order; the first failure is told on the time line and ends the story.
pub async fn tell(lab: &mut Lab, steps: &[Step], sabotage: Option<Sabotage>) -> anyhow::Result<()> {
    let told = tell_steps(lab, steps, sabotage).await;
    match &told {
        Ok(()) => lab.timeline.done(),
        Err(error) => lab.timeline.failed(error),
    }
    told
}

async fn tell_steps(lab: &mut Lab, steps: &[Step], sabotage: Option<Sabotage>) -> anyhow::Result<()> {
    let mut damage = None;
    for (number, step) in (1..).zip(steps) {
        if let Some(sabotage) = sabotage.filter(|sabotage| sabotage.comes_before(*step)) {
            lab.timeline.done();
            damage = Some(sabotage.strike(lab).await?);
        }
        lab.timeline.step(number, &step.title(lab.means.spire.kind()));
        step.run(lab).await?;
        lab.one.check_alive()?;
        lab.two.check_alive()?;
        lab.save_inventory()?;
    }
    drop(damage);
    Ok(())
}

/// Resident memory of plugins and endpoints, against their limits.
///
/// An unoptimised program is several times larger than what anybody deploys, so of such a build the mapped program file itself
/// is shown but not counted. `cargo lab` builds optimised ones, where everything counts.
pub fn check_memory(lab: &Lab) -> anyhow::Result<String> {
    let counts_all = !cfg!(debug_assertions);
    let mut parts = Vec::new();
    for domain in [&lab.one, &lab.two] {
        let name = domain.trust_domain();
        for (what, pid, limit) in [
            ("plugin", domain.plugin_pid()?, PLUGIN_MEMORY),
            ("endpoint", domain.endpoint()?.pid(), ENDPOINT_MEMORY),
        ] {
            let memory = resident_memory(pid).with_context(|| format!("the {what} of {name} is gone"))?;
            let counted = if counts_all { memory.total } else { memory.total.saturating_sub(memory.program) };
            ensure(counted < limit, || {
                format!(
                    "{what} of {name} has {} resident, {} are allowed",
                    mebibytes(counted),
                    mebibytes(limit)
                )
            })?;
            parts.push(if counts_all {
                format!("{what} of {name} {}", mebibytes(memory.total))
            } else {
                format!(
                    "{what} of {name} {} + {} program file",
                    mebibytes(counted),
                    mebibytes(memory.program)
                )
            });
        }
    }
    let limits =
        format!("limits: plugin {}, endpoint {}", mebibytes(PLUGIN_MEMORY), mebibytes(ENDPOINT_MEMORY));
    let about = if counts_all { "" } else { "; unoptimised build, so its program files are not counted" };
    Ok(format!("resident memory: {} ({limits}{about})", parts.join(", ")))
}
