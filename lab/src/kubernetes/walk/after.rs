//! After the walkthrough's end: what changes and breaks in the life of a federation.

use std::time::Instant;

use anyhow::Context;

use super::super::Form;
use super::rotation::Rotation;
use super::single::{ANSWER, greeted, started_again};
use super::{At, NODE, SPIRE_SERVER, Walk, in_one_line, now, ready, shows};
use crate::checks::ensure;

pub(super) async fn walk(walk: &mut Walk<'_>) -> anyhow::Result<()> {
    rotation(walk).await?;
    replica(walk).await?;
    kubelet(walk).await?;
    defederation(walk).await
}

/// A new authority of cluster1 is known everywhere before it signs anything, and the old one is not believed any more at the end.
async fn rotation(walk: &mut Walk<'_>) -> anyhow::Result<()> {
    walk.step("cluster1's authority is replaced, and cluster2 follows without a failed call");
    let begin = now();
    let rotation = Rotation::prepare(walk, "script").await?;
    let advanced = format!("kubectl logs --since-time={begin} deployment/helloworld-client");
    let known = walk.until(rotation.two, &advanced, "and so does its client", |answer| {
        shows(answer, &["bundle advanced trust_domain=cluster1.org authorities=2"])
    });
    known.await?;
    rotation.activate(walk).await?;
    let tainted = now();
    rotation.taint(walk).await?;
    let log = format!("kubectl logs --since-time={tainted} deployment/helloworld-server");
    let renewed = walk
        .until(rotation.one, &log, "the server has another SVID", |answer| shows(answer, &["svid received"]));
    renewed.await?;
    rotation.revoke(walk).await?;
    calls_go_on(walk).await?;
    both_well(walk).await?;
    no_call_failed(walk, rotation.two, &begin).await?;
    // It may have kept a connection from before.
    let begin = now();
    started_again(walk, rotation.two, "helloworld-client").await?;
    greeted(walk, rotation.two, Some(&begin)).await
}

/// Since `begin`, every call of cluster2's client was answered.
async fn no_call_failed(walk: &mut Walk<'_>, at: At<'_>, begin: &str) -> anyhow::Result<()> {
    let log = format!("kubectl logs --since-time={begin} deployment/helloworld-client");
    let calls = walk.run(at, &log).await?;
    let failed = calls.lines().find(|line| line.contains(" WARN ") || line.contains(" ERROR "));
    ensure(failed.is_none(), || format!("a call failed: {}", failed.unwrap_or_default()))?;
    ensure(calls.contains(ANSWER), || "no call was answered at all".to_owned())?;
    walk.held("not one of its calls has failed since");
    Ok(())
}

async fn replica(walk: &mut Walk<'_>) -> anyhow::Result<()> {
    walk.step("a replica of cluster1's bundle endpoint is deleted");
    let one = At { cluster: &walk.clusters.one, folder: "script" };
    let pods = walk.run(one, "kubectl get po -n spire -l app=bundle-endpoint -o name").await?;
    let pod = pods.lines().next().context("there is no replica")?;
    walk.run(one, &format!("kubectl delete --wait=false -n spire {pod}")).await?;
    let address = one.cluster.place.bundle_endpoint;
    let asked = format!("for i in {{1..50}}; do {}; sleep 0.1; done | sort | uniq -c", status_of(address));
    let two = At { cluster: &walk.clusters.two, folder: NODE };
    let answers = walk.run(two, &asked).await?;
    ensure(answers.trim() == "50 200", || format!("not every caller of {address} was answered: {answers}"))?;
    walk.held("the other one answers everybody");
    let again = walk.until(one, "kubectl get po -n spire", "two replicas are ready again", |answer| {
        ready(answer, "bundle-endpoint", "1/1", 2)
    });
    again.await?;
    both_well(walk).await
}

/// Each call is a connection of its own.
fn status_of(address: &str) -> String {
    format!("curl -sk -m 3 -o /dev/null -w '%{{http_code}}\\n' https://{address}:8443")
}

/// Cluster1's replicas, by their own status.
async fn both_well(walk: &mut Walk<'_>) -> anyhow::Result<()> {
    let one = At { cluster: &walk.clusters.one, folder: "script" };
    let well = walk.until(one, "./status.sh", "both are linked and well", |answer| {
        ensure(answer.ok, || answer.complaint())
    });
    well.await.map(drop)
}

async fn kubelet(walk: &mut Walk<'_>) -> anyhow::Result<()> {
    walk.step("cluster1's kubelet is killed");
    let one = At { cluster: &walk.clusters.one, folder: "script" };
    let lease = format!(
        "kubectl get lease -n kube-node-lease {} -o jsonpath='{{.spec.renewTime}}'",
        one.cluster.place.node
    );
    let before = walk.run(one, &lease).await?;
    let start = Instant::now();
    one.cluster.kill("kubelet").await?;
    walk.held_after("it was started again", start);
    // Its next sign of life: the node stays Ready for a while whatever happens to it.
    let renewed = walk.until(one, &lease, "and renews its lease", |answer| {
        ensure(answer.ok && answer.stdout != before, || "the lease is the old one".to_owned())
    });
    renewed.await?;
    let start = Instant::now();
    one.cluster.ready().await?;
    walk.held_after("the node is ready", start);
    calls_go_on(walk).await
}

async fn calls_go_on(walk: &mut Walk<'_>) -> anyhow::Result<()> {
    let two = At { cluster: &walk.clusters.two, folder: "script" };
    let log = format!("kubectl logs --since-time={} deployment/helloworld-client", now());
    let answered =
        walk.until(two, &log, "cluster2's client is still answered", |answer| shows(answer, &[ANSWER]));
    answered.await.map(drop)
}

async fn defederation(walk: &mut Walk<'_>) -> anyhow::Result<()> {
    walk.step("cluster1 ends the federation");
    let one = At { cluster: &walk.clusters.one, folder: "spire" };
    walk.run(one, "kubectl apply --validate=strict -f cluster-spiffeid.yaml").await?;
    match walk.form {
        Form::Assisted => {
            walk.run(one, "kubectl delete -f cluster-federated-trust-domain.yaml").await?;
            let deleted = format!("{SPIRE_SERVER} bundle delete -id spiffe://cluster2.org");
            // An entry that still federates keeps the bundle until the controller manager has been there.
            walk.until(one, &deleted, "its bundle is given up", |answer| {
                ensure(answer.ok, || answer.complaint())
            })
            .await?;
        }
        Form::Managed => {
            walk.run(one, "sed -i '/^federates_with/,/^}/d' managed/entente.hcl").await?;
            walk.run(one, "kubectl apply --validate=strict -k managed").await?;
            walk.rolled_out(one.cluster, "spire", "deployment/spire-server").await?;
        }
    }
    let other = walk.clusters.two.place.trust_domain;
    let listed = format!("{SPIRE_SERVER} bundle list -format spiffe");
    let at = At { folder: "script", ..one };
    let forgotten = walk.until(at, &listed, "cluster1 has forgotten cluster2", |answer| {
        ensure(answer.ok && !answer.text().contains(other), || format!("it still holds {other}"))
    });
    forgotten.await?;
    let log = format!("kubectl logs --since-time={} deployment/helloworld-server", now());
    let refused = walk.until(at, &log, "cluster2's client is refused", |answer| {
        let presented = format!("presented=spiffe://{other}/ns/default/sa/default/app/helloworld-client");
        in_one_line(answer, &["client refused", &presented, "reason=\"no_bundle\""])
    });
    refused.await.map(drop)
}
