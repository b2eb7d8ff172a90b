//! The ID of every proxy: one, in Istio's form, and told of the other domain.

use serde_json::{Value, json};

use super::{GATEWAY, Mesh, SYSTEM};
use crate::identities::{render, selects};
use crate::object::{Object, at, text, texts};

/// On everything that Istio injects, sidecars and gateways.
const INJECTED: &str = "service.istio.io/canonical-name";

pub(super) fn check(mesh: &Mesh, peer: &Mesh, mistakes: &mut Vec<String>) {
    for identity in mesh.own_of_kind("ClusterSPIFFEID") {
        let found = texts(&identity.value, "/spec/federatesWith");
        if found != [peer.cluster.trust_domain.as_str()] {
            mistakes.push(format!("{}: federatesWith is {found:?}", identity.title()));
        }
    }
    for (object, pod) in mesh.pods() {
        let given = given(mesh, object.namespace(), &injected(at(pod, "/metadata/labels")));
        let [identity] = given.as_slice() else {
            mistakes.push(format!("{}: its proxy is given {} identities", object.title(), given.len()));
            continue;
        };
        let wanted = mesh.id(text(pod, "/spec/serviceAccountName"));
        match render(&mesh.cluster, identity, object, pod) {
            Ok(id) if id.to_string() == wanted => {}
            Ok(id) => {
                mistakes.push(format!("{}: its ID is {id}, and Istio reads only {wanted}", object.title()))
            }
            Err(why) => mistakes.push(format!("{}: {why}", identity.title())),
        }
    }
    let gateway =
        given(mesh, SYSTEM, &json!({ "istio": "eastwestgateway", "app": GATEWAY, INJECTED: GATEWAY }));
    if gateway.len() != 1 {
        mistakes.push(format!("the gateway is given {} identities, and would never be ready", gateway.len()));
    }
    // Who has an identity without a mesh keeps it, and gets no second one when somebody injects it by mistake.
    for (object, pod) in mesh.cluster.pods().filter(|(object, _)| object.namespace() != super::NAMESPACE) {
        let labels = at(pod, "/metadata/labels");
        let (before, after) =
            (given(mesh, object.namespace(), labels), given(mesh, object.namespace(), &injected(labels)));
        if before.iter().any(|identity| is_ours(mesh, identity))
            || (!before.is_empty() && after.len() != 1 && object.namespace() != "spire")
        {
            mistakes.push(format!("{}: a mesh identity is for it too", object.title()));
        }
    }
}

fn is_ours(mesh: &Mesh, identity: &Object) -> bool {
    mesh.own.iter().any(|own| own.kind() == identity.kind() && own.name() == identity.name())
}

/// The labels that a pod has once it is injected.
fn injected(labels: &Value) -> Value {
    let mut labels = labels.as_object().cloned().unwrap_or_default();
    labels.insert(INJECTED.into(), "any".into());
    Value::Object(labels)
}

fn given<'a>(mesh: &'a Mesh, namespace: &str, labels: &Value) -> Vec<&'a Object> {
    mesh.cluster.of_kind("ClusterSPIFFEID").filter(|identity| selects(identity, namespace, labels)).collect()
}
