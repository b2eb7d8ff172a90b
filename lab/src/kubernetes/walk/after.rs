//! After the walkthrough's end: what changes and breaks in the life of a federation.

use std::time::Instant;

use anyhow::Context;

use super::super::Form;
use super::{At, Walk, ready, shows};
use crate::checks::ensure;

pub(super) const SERVER: &str =
    "kubectl exec -n spire -c spire-server deployment/spire-server -- /opt/spire/bin/spire-server";

pub(super) async fn walk(walk: &mut Walk<'_>) -> anyhow::Result<()> {
    rotation(walk).await?;
    replica(walk).await?;
    kubelet(walk).await?;
    defederation(walk).await
}

/// A new authority of cluster1 is known in cluster2 before it signs anything.
async fn rotation(walk: &mut Walk<'_>) -> anyhow::Result<()> {
    walk.step("cluster1's authority is rotated, and cluster2 follows");
    let one = At { cluster: &walk.clusters.one, folder: "script" };
    let two = At { cluster: &walk.clusters.two, folder: "script" };
    let prepared = walk.run(one, &format!("{SERVER} localauthority x509 prepare")).await?;
    let authority = field(&prepared, "Authority ID").context("the answer names no authority")?;
    let held = format!("{SERVER} bundle list -id spiffe://cluster1.org -format spiffe | grep -c x509-svid");
    let followed = walk.until(two, &held, "cluster2 holds both authorities", |answer| {
        ensure(answer.stdout.trim() == "2", || format!("it counts {:?}", answer.stdout.trim()))
    });
    followed.await?;
    walk.run(one, &format!("{SERVER} localauthority x509 activate -authorityID {authority}")).await?;
    calls_go_on(walk).await
}

async fn replica(walk: &mut Walk<'_>) -> anyhow::Result<()> {
    walk.step("a replica of cluster1's bundle endpoint is deleted");
    let one = At { cluster: &walk.clusters.one, folder: "script" };
    let pods = walk.run(one, "kubectl get po -n spire -l app=bundle-endpoint -o name").await?;
    let pod = pods.lines().next().context("there is no replica")?;
    walk.run(one, &format!("kubectl delete -n spire {pod}")).await?;
    let again = walk.until(one, "kubectl get po -n spire", "two replicas are ready again", |answer| {
        ready(answer, "bundle-endpoint", "1/1", 2)
    });
    again.await?;
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
    one.cluster.kill("kubelet").await?;
    // Its next sign of life: the node stays Ready for a while whatever happens to it.
    let renewed = walk.until(one, &lease, "it was started again and renews its lease", |answer| {
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
    // Older answers prove nothing.
    let log = format!("kubectl logs --since-time={} deployment/helloworld-client", now());
    let answered = walk.until(two, &log, "cluster2's client is still answered", |answer| {
        shows(answer, &["This is Server Reply : Hello BoanLab Client."])
    });
    answered.await.map(drop)
}

/// For `--since-time`.
pub(super) fn now() -> String {
    humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string()
}

async fn defederation(walk: &mut Walk<'_>) -> anyhow::Result<()> {
    walk.step("cluster1 ends the federation");
    let one = At { cluster: &walk.clusters.one, folder: "spire" };
    walk.run(one, "kubectl apply --validate=strict -f cluster-spiffeid.yaml").await?;
    match walk.form {
        Form::Assisted => {
            walk.run(one, "kubectl delete -f cluster-federated-trust-domain.yaml").await?;
            let deleted = format!("{SERVER} bundle delete -id spiffe://cluster2.org");
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
    let listed = format!("{SERVER} bundle list -format spiffe");
    let at = At { folder: "script", ..one };
    let forgotten = walk.until(at, &listed, "cluster1 has forgotten cluster2", |answer| {
        ensure(answer.ok && !answer.text().contains(other), || format!("it still holds {other}"))
    });
    forgotten.await?;
    let log = format!("kubectl logs --since-time={} deployment/helloworld-server", now());
    let refused = walk.until(at, &log, "cluster2's client is refused", |answer| {
        shows(
            answer,
            &["client refused", "spiffe://cluster2.org/ns/default/sa/default/app/helloworld-client"],
        )
    });
    refused.await.map(drop)
}

/// `Name: value` in the answer of a command of SPIRE's.
pub(super) fn field<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let line = answer.lines().find_map(|line| line.trim().strip_prefix(name))?;
    Some(line.trim_start_matches([' ', ':']).trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_whatever_the_spacing() {
        let answer = "Prepared X.509 authority:\n  Authority ID: abc\n  Expires at: never\n";
        assert_eq!(field(answer, "Authority ID"), Some("abc"));
        assert_eq!(field("Authority ID             : abc", "Authority ID"), Some("abc"));
        assert_eq!(field(answer, "Colour"), None);
    }
}
