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

use crate::checks::mebibytes;
use crate::lab::Lab;
use crate::sabotage::Sabotage;

/// What an operator is willing to wait for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

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

    fn title(self) -> &'static str {
        match self {
            Self::Start => "two trust domains: servers with our plugin, agents, endpoints, links",
            Self::Serve => "bundles are served, as https_spiffe without its key and as https_web",
            Self::Federate => "federated both ways",
            Self::Talk => "workloads talk mutual TLS across trust domains",
            Self::Rotate => "an authority is prepared, activated, and the old one revoked, under calls",
            Self::Outage => "everything is killed once, under calls",
            Self::Defederate => "defederated: the bundle goes, and calls are refused",
            Self::Stock => "stock SPIRE on the other side",
        }
    }
    fn number(self) -> usize {
        Self::ALL.iter().position(|step| *step == self).map_or(0, |index| index + 1)
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
    for step in steps {
        if let Some(sabotage) = sabotage.filter(|sabotage| sabotage.comes_before(*step)) {
            lab.timeline.done();
            damage = Some(sabotage.strike(lab).await?);
        }
        lab.timeline.step(step.number(), step.title());
        step.run(lab).await?;
        lab.one.check_alive()?;
        lab.two.check_alive()?;
        lab.save_inventory()?;
    }
    drop(damage);
    Ok(())
}

/// Resident memory of plugins and endpoints, against their limits.
pub fn check_memory(lab: &Lab) -> anyhow::Result<String> {
    let mut parts = Vec::new();
    for domain in [&lab.one, &lab.two] {
        let plugin = crate::process::resident_memory(domain.plugin_pid()?).unwrap_or_default();
        let endpoint = domain.endpoint()?.resident_memory()?;
        for (what, bytes, limit) in
            [("plugin", plugin, PLUGIN_MEMORY), ("endpoint", endpoint, ENDPOINT_MEMORY)]
        {
            let name = domain.trust_domain();
            crate::checks::ensure(bytes > 0 && bytes < limit, || {
                format!(
                    "{what} of {name} has {} resident, more than {} allow",
                    mebibytes(bytes),
                    mebibytes(limit)
                )
            })?;
            parts.push(format!("{what} of {name} {}", mebibytes(bytes)));
        }
    }
    Ok(format!(
        "resident memory: {} (limits: plugin {}, endpoint {})",
        parts.join(", "),
        mebibytes(PLUGIN_MEMORY),
        mebibytes(ENDPOINT_MEMORY)
    ))
}
