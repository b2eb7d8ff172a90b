//! Which pod gets which SPIFFE ID: each one that asks the Workload API gets exactly one, and it is the walkthrough's.

use std::collections::BTreeSet;

use entente_bundle::SpiffeId;
use serde_json::Value;

use crate::cluster::{Cluster, NAMES};
use crate::object::{Object, at, hits, list, text, texts};

/// Names each pod without an ID or with two, each ID that nobody gets, and each that is not the walkthrough's.
pub(crate) fn check(cluster: &Cluster, mistakes: &mut Vec<String>) {
    let mut given = BTreeSet::new();
    for identity in cluster.of_kind("ClusterSPIFFEID") {
        let pods: Vec<_> =
            cluster.pods().filter(|(object, pod)| selects_pod(identity, object, pod)).collect();
        if pods.is_empty() {
            mistakes.push(format!("{}: its selectors hit no pod", identity.title()));
        }
        for (object, pod) in pods {
            match render(cluster, identity, object, pod) {
                Ok(id) => drop(given.insert(id.to_string())),
                Err(why) => mistakes.push(format!("{}: for {}: {why}", identity.title(), object.name())),
            }
        }
    }
    for (object, pod) in cluster.pods().filter(|(_, pod)| asks(pod)) {
        let count =
            cluster.of_kind("ClusterSPIFFEID").filter(|identity| selects_pod(identity, object, pod)).count();
        if count != 1 {
            mistakes.push(format!("{}: it asks for an identity and {count} are given", object.title()));
        }
    }
    let wanted = wanted(cluster);
    if given != wanted {
        mistakes.push(format!("{}: the SPIFFE IDs are {given:?}, expected {wanted:?}", cluster.name));
    }
    federates(cluster, mistakes);
}

fn wanted(cluster: &Cluster) -> BTreeSet<String> {
    let workloads: &[&str] = if cluster.name == "cluster1" {
        &["helloworld-client", "helloworld-server"]
    } else {
        &["helloworld-client"]
    };
    let path = |name: &&str| format!("ns/default/sa/default/app/{name}");
    let paths = workloads.iter().map(path).chain(["bundle-endpoint".to_owned()]);
    paths.map(|path| format!("spiffe://{}/{path}", cluster.trust_domain)).collect()
}

/// Whether the pod mounts the Workload API.
pub(crate) fn asks(pod: &Value) -> bool {
    list(pod, "/spec/volumes").iter().any(|volume| text(volume, "/csi/driver") == "csi.spiffe.io")
}

fn selects_pod(identity: &Object, object: &Object, pod: &Value) -> bool {
    selects(identity, object.namespace(), at(pod, "/metadata/labels"))
}

/// Whether a ClusterSPIFFEID is for a pod of this namespace with these labels.
pub(crate) fn selects(identity: &Object, namespace: &str, labels: &Value) -> bool {
    let wanted = text(&identity.value, "/spec/namespaceSelector/matchLabels/kubernetes.io~1metadata.name");
    (wanted.is_empty() || wanted == namespace)
        && is_selected(at(&identity.value, "/spec/podSelector"), labels)
}

/// Whether a selector, of both kinds, hits something with these labels. One that asks for nothing hits nothing here.
pub(crate) fn is_selected(selector: &Value, labels: &Value) -> bool {
    let equal = at(selector, "/matchLabels");
    let expressions = list(selector, "/matchExpressions");
    let holds = |expression: &Value| {
        let label = labels.get(text(expression, "/key"));
        match text(expression, "/operator") {
            "Exists" => label.is_some(),
            "DoesNotExist" => label.is_none(),
            "In" => label.is_some_and(|label| list(expression, "/values").contains(label)),
            // Of ours none says more, and one that does selects nobody, which is a mistake elsewhere.
            _ => false,
        }
    };
    let by_label = if equal.is_null() { !expressions.is_empty() } else { hits(equal, labels) };
    by_label && expressions.iter().all(holds)
}

/// What the template says for a pod, as far as templates of ours go.
pub(crate) fn render(
    cluster: &Cluster,
    identity: &Object,
    object: &Object,
    pod: &Value,
) -> Result<SpiffeId, String> {
    let template = text(&identity.value, "/spec/spiffeIDTemplate");
    let app = text(pod, "/metadata/labels/app");
    let id = template
        .replace("{{ .TrustDomain }}", &cluster.trust_domain)
        .replace("{{ .PodMeta.Namespace }}", object.namespace())
        .replace("{{ .PodSpec.ServiceAccountName }}", text(pod, "/spec/serviceAccountName"))
        .replace("{{ index .PodMeta.Labels \"app\" }}", app);
    if id.contains("{{") {
        return Err(format!("{template} has a part that is not known here"));
    }
    let id = SpiffeId::new(&id).map_err(|error| format!("{id} is no SPIFFE ID: {error}"))?;
    if id.trust_domain().as_str() != cluster.trust_domain || id.path().starts_with("/spire") {
        return Err(format!("{id} is of another trust domain or reserved for SPIRE"));
    }
    Ok(id)
}

fn federates(cluster: &Cluster, mistakes: &mut Vec<String>) {
    let other = NAMES.iter().find(|name| **name != cluster.name).map(|name| format!("{name}.org"));
    for identity in cluster.of_kind("ClusterSPIFFEID").filter(|identity| identity.name() == "helloworld") {
        let found = texts(&identity.value, "/spec/federatesWith");
        if found != other.iter().map(String::as_str).collect::<Vec<_>>() {
            mistakes.push(format!("{}: federatesWith is {found:?}, expected {other:?}", identity.title()));
        }
    }
}
