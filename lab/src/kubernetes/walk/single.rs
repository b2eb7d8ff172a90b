//! Part 1: one cluster, its server and its client.

use super::super::command::Answer;
use super::{At, Walk, ready, shows};
use crate::checks::ensure;

/// What the client prints of each answer.
pub(super) const ANSWER: &str = "This is Server Reply : Hello BoanLab Client.";
const CLIENT_OF_ONE: &str = "spiffe://cluster1.org/ns/default/sa/default/app/helloworld-client";
const SERVER: &str = "spiffe://cluster1.org/ns/default/sa/default/app/helloworld-server";

pub(super) async fn walk(walk: &mut Walk<'_>) -> anyhow::Result<()> {
    install(walk).await?;
    server(walk).await?;
    load_balancer(walk).await?;
    client(walk).await
}

/// SPIRE with Entente, on one cluster. The same is done for the other one later.
pub(super) async fn spire(walk: &mut Walk<'_>, at: At<'_>) -> anyhow::Result<()> {
    let manifest = walk.form.manifest();
    walk.run(at, &format!("kubectl apply --validate=strict -f {manifest}")).await?;
    // The webhook that checks the identities is in there.
    walk.rolled_out(at.cluster, "spire", "deployment/spire-server").await?;
    let identities = "kubectl apply --validate=strict -f cluster-spiffeid.yaml";
    let taken = walk.until(at, identities, "the identities are taken", |answer| {
        shows(answer, &["clusterspiffeid.spire.spiffe.io/helloworld"])
    });
    taken.await?;
    let what = format!("{}: SPIRE server 2/2, agent 3/3, both endpoints ready", at.cluster.place.cluster);
    let pods = walk.until(at, "kubectl get po -n spire", &what, |answer| {
        ready(answer, "spire-server", "2/2", 1)?;
        ready(answer, "spire-agent", "3/3", 1)?;
        ready(answer, "bundle-endpoint", "1/1", 2)
    });
    pods.await.map(drop)
}

/// MetalLB and the cluster's pool.
pub(super) async fn metallb(walk: &mut Walk<'_>, at: At<'_>) -> anyhow::Result<()> {
    walk.run(at, "kubectl apply --validate=strict -f metalLB.yaml").await?;
    walk.rolled_out(at.cluster, "metallb-system", "deployment/controller").await?;
    walk.rolled_out(at.cluster, "metallb-system", "daemonset/speaker").await?;
    // Its webhook answers a moment after its pod is ready.
    let apply = "kubectl apply --validate=strict -f my-network.yaml";
    let taken = walk.until(at, apply, "the pool is taken", |answer| {
        shows(answer, &["ipaddresspool.metallb.io/my-network", "l2advertisement.metallb.io/my-network"])
    });
    taken.await.map(drop)
}

async fn install(walk: &mut Walk<'_>) -> anyhow::Result<()> {
    walk.step("install SPIRE server and agent (cluster1)");
    let at = At { cluster: &walk.clusters.one, folder: "spire" };
    spire(walk, at).await
}

async fn server(walk: &mut Walk<'_>) -> anyhow::Result<()> {
    walk.step("helloworld-server (cluster1)");
    let at = At { cluster: &walk.clusters.one, folder: "server" };
    walk.run(at, "kubectl apply --validate=strict -f helloworld-server.yaml").await?;
    let services = walk.until(at, "kubectl get svc", "nobody gives it an address yet", |answer| {
        shows(answer, &["helloworld-server", "LoadBalancer", "<pending>"])
    });
    services.await.map(drop)
}

async fn load_balancer(walk: &mut Walk<'_>) -> anyhow::Result<()> {
    walk.step("its external address, from MetalLB (cluster1)");
    let at = At { cluster: &walk.clusters.one, folder: "metalLB" };
    metallb(walk, at).await?;
    let services = walk.until(at, "kubectl get svc", "the server has its pinned address", |answer| {
        shows(answer, &["10.10.0.132"])
    });
    services.await?;
    let pods = walk.until(at, "kubectl get po", "the server runs", |answer| {
        ready(answer, "helloworld-server", "1/1", 1)
    });
    pods.await?;
    let log = "kubectl logs deployment/helloworld-server";
    let started = walk.until(at, log, "the server has its identity", |answer| {
        shows(answer, &["Server (:8123) starting up...", SERVER, "Serving on [::]:8123"])
    });
    started.await.map(drop)
}

async fn client(walk: &mut Walk<'_>) -> anyhow::Result<()> {
    walk.step("helloworld-client beside it, entries, and mutual TLS (cluster1)");
    let at = At { cluster: &walk.clusters.one, folder: "client" };
    walk.run(at, "kubectl apply --validate=strict -f helloworld-client.yaml").await?;
    let pods = walk.until(at, "kubectl get po", "the client runs", |answer| {
        ready(answer, "helloworld-client", "1/1", 1)
    });
    pods.await?;
    let at = At { folder: "script", ..at };
    let parent = "spiffe://cluster1.org/spire/agent/k8s_psat/cluster1-cluster/";
    let entries = walk.until(at, "./show-entries.sh", "both workloads have an entry", |answer| {
        shows(answer, &[CLIENT_OF_ONE, SERVER, parent])
    });
    entries.await?;
    greeted(walk, at, None).await
}

/// The log of this cluster's client tells of an answer, and the log of the server who asked. Where both were heard before, only
/// what they say `since` then counts.
pub(super) async fn greeted(walk: &mut Walk<'_>, at: At<'_>, since: Option<&str>) -> anyhow::Result<()> {
    let logs = since.map_or("kubectl logs".to_owned(), |time| format!("kubectl logs --since-time={time}"));
    let answered = format!("Client gets Server's SPIFFEID : \"{SERVER}\"");
    let log = format!("{logs} deployment/helloworld-client");
    let greeting = walk.until(at, &log, "the client is answered", |answer| {
        shows(answer, &["Client starting up... 10.10.0.132:8123", ANSWER, &answered])
    });
    greeting.await?;
    let asked = CLIENT_OF_ONE.replace("cluster1.org", at.cluster.place.trust_domain);
    let asked = format!("Server gets BoanLab Client's SPIFFEID : \"{asked}\"");
    let at = At { cluster: &walk.clusters.one, ..at };
    let log = format!("{logs} deployment/helloworld-server");
    let known = walk.until(at, &log, "the server knows who asked", |answer| shows(answer, &[&asked]));
    known.await.map(drop)
}

/// A deployment in the namespace default has no other pod any more than one that started a moment ago.
pub(super) async fn started_again(walk: &mut Walk<'_>, at: At<'_>, name: &str) -> anyhow::Result<()> {
    walk.run(at, &format!("kubectl rollout restart deployment/{name}")).await?;
    let pods = format!("kubectl get po -l app={name}");
    let what = format!("{name} has started again");
    walk.until(at, &pods, &what, |answer| young(answer, name)).await.map(drop)
}

/// One pod, with one container, which is seconds old.
fn young(answer: &Answer, name: &str) -> anyhow::Result<()> {
    ready(answer, name, "1/1", 1)?;
    let pod = answer.stdout.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    let age = pod.split_whitespace().last().unwrap_or_default();
    ensure(!age.contains(['m', 'h', 'd']), || format!("it is {age} old"))
}
