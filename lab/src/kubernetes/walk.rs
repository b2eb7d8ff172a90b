//! The walkthrough, command by command: each is run as it is printed, in the folder that it is printed for, and its answer is
//! looked at before the next one.

mod after;
mod federation;
mod mesh;
mod rotation;
mod single;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::command::{Answer, Run};
use super::diagnosis;
use super::node::Cluster;
use super::transcript::Transcript;
use super::{Clusters, Form};
use crate::checks::{ensure, eventually};
use crate::timeline::Timeline;

/// What an operator is willing to wait for something to come up on two busy cores.
pub(super) const PATIENCE: Duration = Duration::from_secs(240);
/// What was done before the walk begins.
pub(super) const FIRST_STEP: &str = "two clusters of one node each";
/// Lines of an answer on the terminal; the transcript has them all.
const LINES: usize = 30;

/// SPIRE's own command, in the server's container.
pub(super) const SPIRE_SERVER: &str =
    "kubectl exec -n spire -c spire-server deployment/spire-server -- /opt/spire/bin/spire-server";

/// What both clusters share.
pub(super) const SHARED: &str = "../script";
/// What both meshes share.
pub(super) const MESH: &str = "../istio";
/// No folder, but the cluster's node.
pub(super) const NODE: &str = "its node";

/// One walk through everything.
pub(super) struct Walk<'a> {
    pub(super) timeline: &'a mut Timeline,
    transcript: Transcript,
    pub(super) clusters: &'a Clusters,
    /// This run's copy of deploy/, with this run's plugin in it.
    pub(super) deploy: PathBuf,
    pub(super) form: Form,
    number: usize,
    place: (&'static str, &'static str),
}

/// Where a command is typed.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'a> {
    pub(super) cluster: &'a Cluster,
    /// Below `deploy/CLUSTER`, or [`SHARED`], or [`MESH`], or [`NODE`].
    pub(super) folder: &'static str,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        timeline: &'a mut Timeline,
        clusters: &'a Clusters,
        deploy: PathBuf,
        form: Form,
    ) -> Self {
        Self {
            timeline,
            transcript: Transcript::default(),
            clusters,
            deploy,
            form,
            number: 1,
            place: ("", ""),
        }
    }
    /// All of it.
    pub(super) async fn go(&mut self) -> anyhow::Result<()> {
        self.nodes().await?;
        single::walk(self).await?;
        federation::walk(self).await
    }
    /// A mesh in each cluster.
    pub(super) async fn with_meshes(&mut self) -> anyhow::Result<()> {
        mesh::walk(self).await
    }
    /// What comes after the walkthrough's end.
    pub(super) async fn go_on(&mut self) -> anyhow::Result<()> {
        after::walk(self).await
    }

    /// Closes the page, if one was asked for.
    pub(super) fn save(mut self, path: Option<&Path>, times: &str) -> anyhow::Result<()> {
        let Some(path) = path else { return Ok(()) };
        self.transcript.say("## Both clusters at the end");
        for cluster in [&self.clusters.one, &self.clusters.two] {
            self.transcript.say(&format!("{}, memory: {}", cluster.place.cluster, cluster.memory()));
        }
        self.transcript.say(times);
        self.transcript.save(path, "The walkthrough, as it ran")
    }

    /// The clusters as they were found.
    async fn nodes(&mut self) -> anyhow::Result<()> {
        self.transcript.step(self.number, FIRST_STEP);
        for cluster in [&self.clusters.one, &self.clusters.two] {
            let at = At { cluster, folder: "script" };
            let answer = self.run(at, "kubectl get nodes -o wide").await?;
            ensure(answer.contains(cluster.place.node), || {
                format!("{} is not its node", cluster.place.node)
            })?;
        }
        Ok(())
    }

    fn step(&mut self, title: &str) {
        self.number += 1;
        self.place = ("", "");
        self.timeline.step(self.number, title);
        self.transcript.step(self.number, title);
    }
    fn held(&mut self, text: &str) {
        self.timeline.held(text);
        self.transcript.held(text);
    }
    fn held_after(&mut self, text: &str, since: Instant) {
        self.timeline.held_after(text, since.elapsed());
        self.transcript.held(&format!("{text} ({:.1} s)", since.elapsed().as_secs_f64()));
    }
    fn print(&mut self, at: At<'_>, line: &str, answer: &str) {
        let place = (at.cluster.place.cluster, at.folder);
        if self.place != place {
            self.place = place;
            let heading = match at.folder {
                NODE => format!("on {}", at.cluster.place.node),
                MESH => format!("{}, in deploy/istio", at.cluster.place.cluster),
                SHARED => "both clusters, in deploy/script".to_owned(),
                folder => format!("{0}, in deploy/{0}/{folder}", at.cluster.place.cluster),
            };
            self.timeline.note(&heading);
            self.transcript.say(&format!("{heading}:"));
        }
        self.timeline.command_lines(line, answer, LINES);
        self.transcript.command(line, answer);
    }

    /// The command as an operator would run it, from a laptop in the LAN or on the node.
    fn shell(&self, at: At<'_>, line: &str) -> Run {
        let (one, two) = (&self.clusters.one, &self.clusters.two);
        let other = if at.cluster.place == one.place { two } else { one };
        let folder = self.deploy.join(at.cluster.place.cluster);
        let folder = if at.folder == NODE { folder } else { folder.join(at.folder) };
        // A pipe fails with its first part.
        let line = format!("set -o pipefail; {line}");
        at.cluster.shell(other, at.folder == NODE).args(["-c", &line]).folder(&folder)
    }
    /// Runs a command once. A failure of its own is a failure of the walk.
    async fn run(&mut self, at: At<'_>, line: &str) -> anyhow::Result<String> {
        let answer = self.shell(at, line).answer().await?;
        self.print(at, line, &answer.text());
        ensure(answer.ok, || format!("`{line}` on {}: {}", at.cluster.place.cluster, answer.complaint()))?;
        Ok(answer.stdout)
    }
    /// Runs a command that others see as it is, again and again until its answer is right; only that answer is shown.
    async fn until(
        &mut self,
        at: At<'_>,
        line: &str,
        what: &str,
        is_right: impl Fn(&Answer) -> anyhow::Result<()>,
    ) -> anyhow::Result<String> {
        let mut last = None;
        let start = Instant::now();
        let right = eventually(what, PATIENCE, async || {
            at.cluster.check_alive()?;
            let answer = self.shell(at, line).answer().await?;
            let verdict = is_right(&answer);
            last = Some(answer);
            if verdict.is_err() {
                // Each look costs a process that the nodes would like to have the time of.
                tokio::time::sleep(Duration::from_millis(700)).await;
            }
            verdict
        })
        .await;
        let answer = last.with_context(|| format!("`{line}` was never answered"));
        if let Ok(answer) = &answer {
            self.print(at, line, &answer.text());
        }
        if let Err(error) = right {
            return Err(self.diagnosed(at.cluster, error).await);
        }
        self.held_after(what, start);
        Ok(answer?.stdout)
    }
    /// Adds what is wrong with the cluster's pods, if anything is.
    async fn diagnosed(&self, cluster: &Cluster, error: anyhow::Error) -> anyhow::Error {
        for namespace in ["spire", "metallb-system", "istio-system", "mesh", "default"] {
            let diagnosis = diagnosis::of(cluster, namespace).await;
            if !diagnosis.is_empty() {
                return error.context(diagnosis);
            }
        }
        error
    }
    /// Waits for a rollout; nobody needs to see it.
    async fn rolled_out(&mut self, cluster: &Cluster, namespace: &str, what: &str) -> anyhow::Result<()> {
        let start = Instant::now();
        super::addons::rolled_out(cluster, namespace, what).await?;
        self.held_after(&format!("{}: {what} is there", cluster.place.cluster), start);
        Ok(())
    }
}

/// For `--since-time`: older lines prove nothing.
pub(super) fn now() -> String {
    humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string()
}

/// Every one of `needles` stands in the answer.
pub(super) fn shows(answer: &Answer, needles: &[&str]) -> anyhow::Result<()> {
    let text = answer.text();
    let missing = needles.iter().find(|needle| !text.contains(**needle));
    match missing {
        None => Ok(()),
        Some(missing) => ensure(false, || {
            let complaint = if answer.ok { String::new() } else { format!(" ({})", answer.complaint()) };
            format!("the answer has no {missing:?}{complaint}")
        }),
    }
}

/// Every one of `needles` stands in the same line of the answer.
pub(super) fn in_one_line(answer: &Answer, needles: &[&str]) -> anyhow::Result<()> {
    together(answer.text().lines(), "line", needles)
}

/// Every one of `needles` stands in the same part of the answer, between empty lines.
pub(super) fn in_one_block(answer: &Answer, needles: &[&str]) -> anyhow::Result<()> {
    together(answer.text().split("\n\n"), "block", needles)
}

fn together<'a>(
    mut parts: impl Iterator<Item = &'a str>,
    part: &str,
    needles: &[&str],
) -> anyhow::Result<()> {
    let found = parts.any(|text| needles.iter().all(|needle| text.contains(needle)));
    ensure(found, || format!("the answer has no {part} with all of {needles:?}"))
}

/// A pod whose name begins so is ready in all its containers.
pub(super) fn ready(answer: &Answer, name: &str, containers: &str, count: usize) -> anyhow::Result<()> {
    let pods = answer.stdout.lines().filter(|line| line.starts_with(name));
    let is_ready = |line: &&str| {
        let mut columns = line.split_whitespace().skip(1);
        columns.next() == Some(containers) && columns.next() == Some("Running")
    };
    let found = pods.clone().filter(is_ready).count();
    ensure(found == count && pods.count() == count, || {
        format!("{name} is not {containers} Running {count} times: {}", answer.complaint())
    })
}
