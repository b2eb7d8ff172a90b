//! Part 2: the second cluster, federated with the first.

use super::super::Form;
use super::super::command::Answer;
use super::super::node::Cluster;
use super::single::{greeted, metallb, spire};
use super::{At, NODE, SHARED, Walk, in_one_block, in_one_line, ready, shows};
use crate::checks::ensure;

pub(super) async fn walk(walk: &mut Walk<'_>) -> anyhow::Result<()> {
    second_cluster(walk).await?;
    introduce(walk).await?;
    federates_with(walk).await?;
    confirm(walk).await?;
    endpoints_answer(walk).await?;
    shared(walk).await?;
    client(walk).await?;
    everything(walk).await
}

/// Each cluster, and the other one.
pub(super) fn both<'a>(walk: &Walk<'a>) -> [(&'a Cluster, &'a Cluster); 2] {
    let (one, two) = (&walk.clusters.one, &walk.clusters.two);
    [(one, two), (two, one)]
}

async fn second_cluster(walk: &mut Walk<'_>) -> anyhow::Result<()> {
    walk.step("the same on cluster2");
    let at = At { cluster: &walk.clusters.two, folder: "spire" };
    spire(walk, at).await?;
    metallb(walk, At { folder: "metalLB", ..at }).await?;
    for (cluster, _) in both(walk) {
        let at = At { cluster, folder: "spire" };
        let what = format!("{}'s bundle endpoint has its pinned address", cluster.place.cluster);
        let services = walk.until(at, "kubectl get svc -n spire", &what, |answer| {
            shows(answer, &["spire-server-bundle-endpoint", cluster.place.bundle_endpoint])
        });
        services.await?;
    }
    Ok(())
}

/// Where the walkthrough copies bundles by hand, twice.
async fn introduce(walk: &mut Walk<'_>) -> anyhow::Result<()> {
    walk.step("the first bundle of each, carried over once");
    let at = At { cluster: &walk.clusters.one, folder: SHARED };
    walk.run(at, "./introduce.sh cluster1 cluster2").await?;
    if walk.form == Form::Assisted {
        for (cluster, _) in both(walk) {
            let at = At { cluster, folder: "spire" };
            walk.run(at, "kubectl apply --validate=strict -f cluster-federated-trust-domain.yaml").await?;
        }
    }
    Ok(())
}

async fn federates_with(walk: &mut Walk<'_>) -> anyhow::Result<()> {
    walk.step("workloads are told the other's bundle");
    for (cluster, _) in both(walk) {
        let at = At { cluster, folder: "spire" };
        walk.run(at, "kubectl apply --validate=strict -f cluster-spiffeid-federated.yaml").await?;
    }
    Ok(())
}

async fn confirm(walk: &mut Walk<'_>) -> anyhow::Result<()> {
    walk.step("federation is confirmed");
    for (cluster, other) in both(walk) {
        let at = At { cluster, folder: "script" };
        let what = format!("{} holds the bundle of {}", cluster.place.trust_domain, other.place.trust_domain);
        let heading = format!("* {}", other.place.trust_domain);
        let headings =
            ["----------Bundle Show----------", "----------Bundle List----------", heading.as_str()];
        let form = walk.form;
        let shown = walk.until(at, "./spire-server.sh", &what, |answer| {
            shows(answer, &headings)?;
            relationships(answer, form, other)
        });
        shown.await?;
    }
    for (cluster, other) in both(walk) {
        let at = At { cluster, folder: "script" };
        let what = format!("{}'s endpoints are well", cluster.place.cluster);
        let status = walk.until(at, "./status.sh", &what, |answer| {
            shows(answer, &[other.place.trust_domain])?;
            ensure(answer.ok, || answer.complaint())
        });
        status.await?;
    }
    Ok(())
}

/// SPIRE itself keeps none in the managed form, and the walkthrough's in the assisted one.
fn relationships(answer: &Answer, form: Form, other: &Cluster) -> anyhow::Result<()> {
    let (domain, address) = (other.place.trust_domain, other.place.bundle_endpoint);
    match form {
        Form::Managed => shows(answer, &["Found 0 federation relationships"]),
        Form::Assisted => {
            shows(answer, &["Found 1 federation relationship"])?;
            let url = format!(": https://{address}:8443");
            let id = format!(": spiffe://{domain}/spire/server");
            in_one_block(answer, &[&format!(": {domain}"), &url, ": https_spiffe", &id])
        }
    }
}

/// Asked from the other cluster's node, where the walkthrough asks.
async fn endpoints_answer(walk: &mut Walk<'_>) -> anyhow::Result<()> {
    walk.step("each bundle endpoint is reached from the other cluster");
    for (cluster, other) in both(walk) {
        let at = At { cluster, folder: NODE };
        let what = format!("{} answers {}", other.place.bundle_endpoint, cluster.place.node);
        let line = format!("curl -s -m 3 {}:8443", other.place.bundle_endpoint);
        let answered = walk.until(at, &line, &what, |answer| {
            shows(answer, &["Client sent an HTTP request to an HTTPS server."])
        });
        answered.await?;
    }
    Ok(())
}

/// What is logged when the other's bundle comes.
async fn shared(walk: &mut Walk<'_>) -> anyhow::Result<()> {
    walk.step("the bundles come from the endpoints, not by hand");
    for (cluster, other) in both(walk) {
        let at = At { cluster, folder: "script" };
        let domain = other.place.trust_domain;
        let what = format!("{} fetches from {domain}", cluster.place.trust_domain);
        match walk.form {
            Form::Managed => {
                let log = format!("kubectl logs -n spire -l app=bundle-endpoint --tail=-1 | grep {domain}");
                let url = format!("url=\"https://{}:8443/\"", other.place.bundle_endpoint);
                let presented = format!("presented=\"spiffe://{domain}/spire/server\"");
                let fetched = ["foreign bundle fetched", &url, &presented];
                walk.until(at, &log, &what, |answer| in_one_line(answer, &fetched)).await?;
            }
            Form::Assisted => {
                let wanted = "grep -E 'Federation relationship|Bundle refreshed'";
                let server = "deployment/spire-server -c spire-server";
                let log = format!("kubectl logs -n spire {server} | {wanted} | grep {domain}");
                let logged = ["Federation relationship created", "Bundle refreshed"];
                walk.until(at, &log, &what, |answer| shows(answer, &logged)).await?;
            }
        }
    }
    Ok(())
}

async fn client(walk: &mut Walk<'_>) -> anyhow::Result<()> {
    walk.step("cluster2's client asks cluster1's server, cluster1's beside it");
    let at = At { cluster: &walk.clusters.two, folder: "client" };
    walk.run(at, "kubectl apply --validate=strict -f helloworld-client.yaml").await?;
    let pods = walk.until(at, "kubectl get po", "the client runs", |answer| {
        ready(answer, "helloworld-client", "1/1", 1)
    });
    pods.await?;
    for (cluster, other) in both(walk) {
        let at = At { cluster, folder: "script" };
        let id =
            format!("spiffe://{}/ns/default/sa/default/app/helloworld-client", cluster.place.trust_domain);
        let what = format!("{}'s entries federate with {}", cluster.place.cluster, other.place.trust_domain);
        let entries = walk.until(at, "./show-entries.sh", &what, |answer| {
            in_one_block(answer, &[&id, "FederatesWith", other.place.trust_domain])
        });
        entries.await?;
    }
    greeted(walk, At { folder: "script", ..at }, None).await
}

/// The walkthrough's two tables of everything.
async fn everything(walk: &mut Walk<'_>) -> anyhow::Result<()> {
    walk.step("everything that runs in both clusters");
    for (cluster, _) in both(walk) {
        let at = At { cluster, folder: "script" };
        let what = format!("every pod of {} is ready", cluster.place.cluster);
        walk.until(at, "kubectl get po,svc -A", &what, |answer| all_ready(&answer.stdout)).await?;
    }
    Ok(())
}

/// Of `kubectl get po -A`, with other tables or without: pods there are, and all containers of each run.
fn all_ready(table: &str) -> anyhow::Result<()> {
    let pods: Vec<_> = table.lines().filter(|line| line.contains(" pod/")).collect();
    ensure(!pods.is_empty(), || "the answer shows no pod".to_owned())?;
    let is_ready = |line: &str| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let [_, _, ready, "Running", ..] = columns.as_slice() else { return false };
        ready.split_once('/').is_some_and(|(ready, all)| ready == all)
    };
    let unready = pods.iter().find(|line| !is_ready(line));
    ensure(unready.is_none(), || format!("not ready: {}", unready.copied().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_is_not_ready_is_named() {
        let table = "NAMESPACE NAME READY STATUS RESTARTS AGE\nspire pod/spire-server-1 2/2 Running 0 1m\n\
                     NAMESPACE NAME TYPE\nspire service/spire-server ClusterIP\n";
        all_ready(table).unwrap();
        for bad in ["1/2 Running", "0/1 Pending", "1/1 Terminating"] {
            let table = format!("{table}spire pod/spire-agent-1 {bad} 0 1m\n");
            assert!(all_ready(&table).unwrap_err().to_string().contains("spire-agent-1"), "{bad}");
        }
        assert!(all_ready("No resources found\n").is_err());
    }
}
