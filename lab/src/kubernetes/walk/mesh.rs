//! Two meshes on both clusters: the steps of deploy/istio/README.md, with Istio's own programs.

use super::federation::both;
use super::rotation::{Rotation, counts};
use super::single::{greeted, started_again};
use super::{At, MESH, Walk, now, ready, shows};
use crate::checks::ensure;
use crate::kubernetes::node::Cluster;

const BASE: &str =
    "helm upgrade --install istio-base istio/base -n istio-system --create-namespace -f values-base.yaml";
const AGNHOST: &str = "--image registry.k8s.io/e2e-test-images/agnhost:2.63.0";

fn istiod(cluster: &str) -> String {
    format!(
        "helm upgrade --install istiod istio/istiod -n istio-system --wait -f values-istiod.yaml -f {cluster}/values-istiod.yaml"
    )
}

fn gateway(cluster: &str) -> String {
    format!(
        "helm upgrade --install istio-eastwestgateway istio/gateway -n istio-system --wait -f values-eastwestgateway.yaml \
         -f {cluster}/values-eastwestgateway.yaml"
    )
}

/// What only the lab's clusters are told.
fn with_ours(line: &str, values: &str) -> String {
    format!("{line} -f ../../lab/istio/{values}")
}

fn in_mesh(cluster: &Cluster) -> At<'_> {
    At { cluster, folder: MESH }
}

pub(super) async fn walk(walk: &mut Walk<'_>) -> anyhow::Result<()> {
    control_planes(walk).await?;
    gateways(walk).await?;
    sample(walk).await?;
    roots(walk).await?;
    stranger(walk).await?;
    neighbours(walk).await?;
    rotation(walk).await
}

async fn control_planes(walk: &mut Walk<'_>) -> anyhow::Result<()> {
    walk.step("who the proxies are, and Istio's control plane, in both clusters");
    for (cluster, _) in both(walk) {
        let (at, name) = (in_mesh(cluster), cluster.place.cluster);
        let identities = format!("kubectl apply --validate=strict -f {name}/cluster-spiffeid-mesh.yaml");
        walk.run(at, &identities).await?;
        release(walk, at, "Istio's base", BASE).await?;
        release(walk, at, "istiod", &with_ours(&istiod(name), "values-istiod.yaml")).await?;
    }
    Ok(())
}

/// Helm ends when everything is ready.
async fn release(walk: &mut Walk<'_>, at: At<'_>, what: &str, line: &str) -> anyhow::Result<()> {
    let start = std::time::Instant::now();
    match walk.run(at, line).await {
        Ok(answer) => ensure(answer.contains("STATUS: deployed"), || format!("`{line}`: {answer}"))?,
        Err(error) => return Err(walk.diagnosed(at.cluster, error).await),
    }
    walk.held_after(&format!("{}: {what} is deployed", at.cluster.place.cluster), start);
    Ok(())
}

async fn gateways(walk: &mut Walk<'_>) -> anyhow::Result<()> {
    walk.step("the east-west gateways, at their addresses");
    for (cluster, _) in both(walk) {
        let (at, place) = (in_mesh(cluster), cluster.place);
        let pool = format!("kubectl apply --validate=strict -f {}/address-pool.yaml", place.cluster);
        walk.run(at, &pool).await?;
        let line = with_ours(&gateway(place.cluster), "values-eastwestgateway.yaml");
        release(walk, at, "the gateway", &line).await?;
        let service = "kubectl get svc -n istio-system istio-eastwestgateway";
        let what = format!("{}'s gateway has its pinned address", place.cluster);
        walk.until(at, service, &what, |answer| shows(answer, &[place.mesh_gateway, "15443:"])).await?;
    }
    Ok(())
}

async fn sample(walk: &mut Walk<'_>) -> anyhow::Result<()> {
    walk.step("the sample: each client asks both greeters, through the mesh");
    for (cluster, _) in both(walk) {
        let at = in_mesh(cluster);
        let sample = format!("kubectl apply --validate=strict -f {}/mesh.yaml", cluster.place.cluster);
        walk.run(at, &sample).await?;
        let rollout = "kubectl rollout status -n mesh deployment/greeter deployment/client";
        let what = format!("{}: greeter and client are there", cluster.place.cluster);
        walk.until(at, rollout, &what, |answer| ensure(answer.ok, || answer.complaint())).await?;
    }
    for (cluster, other) in both(walk) {
        let log = "kubectl logs -n mesh deployment/client -c client --tail 2";
        let what = format!("{}'s client is answered by both greeters", cluster.place.cluster);
        let answers = [own(cluster), across(other)];
        let answers = answers.each_ref().map(String::as_str);
        walk.until(in_mesh(cluster), log, &what, |answer| shows(answer, &answers)).await?;
    }
    Ok(())
}

/// The line that a client prints after an answer of its own cluster's greeter.
fn own(cluster: &Cluster) -> String {
    format!("http://greeter.mesh.svc.cluster.local: greeter-of-{}", cluster.place.cluster)
}

/// The line after an answer from `other`.
fn across(other: &Cluster) -> String {
    format!("http://{}: greeter-of-{}", host(other), other.place.cluster)
}

/// The name under which a cluster's greeter is called from the other one.
fn host(cluster: &Cluster) -> String {
    format!("greeter.mesh.svc.{}", cluster.place.trust_domain)
}

const SECRETS: &str = "istioctl proxy-config secret -n mesh deployment/";
/// How many of cluster1's authorities Envoy holds for the client. The table shows one of each trust domain.
const BELIEVED: &str = r#"istioctl proxy-config secret -n mesh deployment/client -o json \
    | sed -n '/"cluster1.org"/,/inlineBytes/s/.*inlineBytes": "\(.*\)".*/\1/p' | base64 -d | grep -c BEGIN"#;

async fn roots(walk: &mut Walk<'_>) -> anyhow::Result<()> {
    walk.step("a proxy has one certificate, and one bundle for each trust domain");
    for (cluster, other) in both(walk) {
        let (domain, foreign) = (cluster.place.trust_domain, other.place.trust_domain);
        let what = format!("the client's proxy shows {domain} and believes both");
        let line = format!("{SECRETS}client");
        let secrets = walk.until(in_mesh(cluster), &line, &what, |answer| {
            let shown = secrets(&answer.stdout);
            let is_right = domains(&shown, "default") == [domain]
                && [domain, foreign].iter().all(|one| domains(&shown, "ROOTCA").contains(one));
            ensure(is_right, || format!("it shows {shown:?}"))
        });
        secrets.await?;
    }
    Ok(())
}

/// A row of `istioctl proxy-config secret`.
#[derive(Debug, PartialEq, Eq)]
struct Secret<'a> {
    name: &'a str,
    serial: &'a str,
    trust_domain: &'a str,
}

/// Of secrets that Envoy holds and finds valid.
fn secrets(table: &str) -> Vec<Secret<'_>> {
    table.lines().filter_map(secret).collect()
}

fn secret(line: &str) -> Option<Secret<'_>> {
    let (before, after) = line.split_once(" ACTIVE ")?;
    let mut columns = after.trim_start().strip_prefix("true ")?.split_whitespace();
    let (name, serial) = (before.split_whitespace().next()?, columns.next()?);
    Some(Secret { name, serial, trust_domain: columns.last()? })
}

fn domains<'a>(secrets: &[Secret<'a>], name: &str) -> Vec<&'a str> {
    secrets.iter().filter(|secret| secret.name == name).map(|secret| secret.trust_domain).collect()
}

/// It is in the mesh, with an identity of its own trust domain, but nobody has named it.
async fn stranger(walk: &mut Walk<'_>) -> anyhow::Result<()> {
    walk.step("a pod under another account is refused by the other cluster's greeter");
    for (cluster, other) in both(walk) {
        let at = in_mesh(cluster);
        let run = format!(
            "kubectl run -n mesh stranger {AGNHOST} --restart Never --command -- curl -s http://{}",
            host(other)
        );
        walk.run(at, &run).await?;
        let log = "kubectl logs -n mesh stranger -c stranger";
        let what = format!("{}'s stranger is refused", cluster.place.cluster);
        walk.until(at, log, &what, |answer| shows(answer, &["RBAC: access denied"])).await?;
        let log = "kubectl logs -n mesh deployment/greeter -c istio-proxy | grep rbac_access_denied";
        let what = format!("it was {}'s greeter's own proxy", other.place.cluster);
        walk.until(in_mesh(other), log, &what, |answer| shows(answer, &["\"GET / HTTP/1.1\" 403"])).await?;
    }
    Ok(())
}

/// Pods that do their own mutual TLS, in a namespace where everybody else gets a proxy.
async fn neighbours(walk: &mut Walk<'_>) -> anyhow::Result<()> {
    walk.step("helloworld's pods get no proxy, even where everybody does");
    let at = in_mesh(&walk.clusters.one);
    walk.run(at, "kubectl label namespace default istio-injection=enabled").await?;
    let names = "-o jsonpath='{.spec.initContainers[*].name} {.spec.containers[*].name}'";
    let anybody = format!("kubectl run anybody {AGNHOST} --dry-run=server {names}");
    walk.until(at, &anybody, "another pod there would get one", |answer| {
        shows(answer, &["istio-init istio-proxy anybody"])
    })
    .await?;
    let begin = now();
    for name in ["helloworld-server", "helloworld-client"] {
        started_again(walk, at, name).await?;
    }
    greeted(walk, at, Some(&begin)).await?;
    walk.run(at, "kubectl label namespace default istio-injection-").await.map(drop)
}

/// From the first step to the last: a new authority is known before it signs, and the old one is not believed any more at the end.
async fn rotation(walk: &mut Walk<'_>) -> anyhow::Result<()> {
    walk.step("cluster1's authority is replaced, and cluster2's client goes on");
    let begin = now();
    let rotation = Rotation::prepare(walk, MESH).await?;
    let (one, two) = (rotation.one, rotation.two);
    counts(walk, two, BELIEVED, 2, "and so does its client's proxy").await?;
    rotation.activate(walk).await?;
    let secrets_of_greeter = format!("{SECRETS}greeter");
    let before = walk.run(one, &secrets_of_greeter).await?;
    rotation.taint(walk).await?;
    let renewed = walk.until(one, &secrets_of_greeter, "greeter's proxy has a new certificate", |answer| {
        let [before, after] = [&before, &answer.stdout].map(|table| serial(table));
        ensure(after.is_some() && before != after, || "it is the old one".to_owned())
    });
    renewed.await?;
    rotation.revoke(walk).await?;
    let answer = across(one.cluster);
    let log = format!("kubectl logs -n mesh deployment/client -c client --since-time={}", now());
    walk.until(two, &log, "its client is still answered", |answered| shows(answered, &[&answer])).await?;
    let all = format!(
        "kubectl logs -n mesh deployment/client -c client --since-time={begin} | grep {} | sort | uniq -c",
        host(one.cluster)
    );
    let calls = walk.run(two, &all).await?;
    let other = calls.lines().find(|line| !line.ends_with(&answer));
    ensure(other.is_none(), || format!("not every call was answered: {}", other.unwrap_or_default()))?;
    new_connection(walk, two, &answer).await
}

/// The client's proxy may have kept a connection from before.
async fn new_connection(walk: &mut Walk<'_>, at: At<'_>, answer: &str) -> anyhow::Result<()> {
    walk.run(at, "kubectl rollout restart -n mesh deployment/client").await?;
    walk.run(at, "kubectl rollout status -n mesh deployment/client").await?;
    let pods = "kubectl get po -n mesh -l app=client";
    walk.until(at, pods, "the client has started again", |answer| ready(answer, "client", "2/2", 1)).await?;
    let log = "kubectl logs -n mesh deployment/client -c client";
    let answered =
        walk.until(at, log, "it is answered on a new connection", |answered| shows(answered, &[answer]));
    answered.await.map(drop)
}

fn serial(table: &str) -> Option<&str> {
    secrets(table).into_iter().find(|secret| secret.name == "default").map(|secret| secret.serial)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In one line, as a shell reads it.
    fn readme() -> String {
        let text = include_str!("../../../../deploy/istio/README.md").replace("\\\n", " ");
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n").collect()
    }

    #[test]
    fn what_is_typed_is_what_the_readme_says() {
        for line in [BASE, &istiod("cluster1"), &gateway("cluster1")] {
            assert!(readme().contains(line), "{line}");
        }
    }

    #[test]
    fn secrets_are_read_by_their_columns() {
        let table = "\
RESOURCE NAME     TYPE           STATUS     VALID CERT     SERIAL NUMBER     NOT AFTER                NOT BEFORE               TRUST DOMAIN
default           Cert Chain     ACTIVE     true           3f21              2026-11-25T13:59:42Z     2026-11-25T12:59:32Z     cluster2.org
ROOTCA            CA             ACTIVE     true           b16f              2026-11-26T12:50:30Z     2026-11-25T12:50:20Z     cluster1.org
ROOTCA            CA             ACTIVE     false          04ed              2026-11-26T12:51:46Z     2026-11-25T12:51:36Z     cluster2.org
ROOTCA            CA             WARMING    false                                                     \n";
        let shown = secrets(table);
        assert_eq!(domains(&shown, "default"), ["cluster2.org"]);
        assert_eq!(domains(&shown, "ROOTCA"), ["cluster1.org"]);
        assert_eq!(serial(table), Some("3f21"));
    }
}
