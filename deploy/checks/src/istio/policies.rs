//! Who may call whom: mutual TLS only, nobody by default, and whole names of identities that exist.

use super::{Mesh, NAMESPACE, SYSTEM};
use crate::object::{Object, at, list, text, texts};

pub(super) fn check(mesh: &Mesh, meshes: &[Mesh], mistakes: &mut Vec<String>) {
    let modes: Vec<_> = mesh
        .own_of_kind("PeerAuthentication")
        .map(|one| (one.namespace(), one.name(), text(&one.value, "/spec/mtls/mode")))
        .collect();
    if modes != [(SYSTEM, "default", "STRICT")] {
        mistakes
            .push(format!("plain text is not refused in the whole mesh: PeerAuthentication is {modes:?}"));
    }
    let is_nobody =
        |policy: &Object| at(&policy.value, "/spec").as_object().is_some_and(serde_json::Map::is_empty);
    if !mesh
        .own_of_kind("AuthorizationPolicy")
        .any(|policy| policy.namespace() == NAMESPACE && is_nobody(policy))
    {
        mistakes
            .push(format!("no AuthorizationPolicy of {NAMESPACE} says nobody, so a pod without one is open"));
    }
    for policy in mesh.own_of_kind("AuthorizationPolicy").filter(|policy| !is_nobody(policy)) {
        names(mesh, policy, meshes, mistakes);
    }
}

fn names(mesh: &Mesh, policy: &Object, meshes: &[Mesh], mistakes: &mut Vec<String>) {
    let selector = at(&policy.value, "/spec/selector/matchLabels");
    let hit = mesh.pods().any(|(object, pod)| {
        object.namespace() == policy.namespace() && crate::object::hits(selector, at(pod, "/metadata/labels"))
    });
    if !hit {
        mistakes.push(format!("{}: the selector {selector} hits no pod", policy.title()));
    }
    if text(&policy.value, "/spec/action") != "ALLOW" {
        mistakes.push(format!("{}: its action is not ALLOW", policy.title()));
    }
    let known: Vec<String> = meshes.iter().flat_map(accounts).collect();
    for rule in list(&policy.value, "/spec/rules") {
        let sources = list(rule, "/from");
        let named = |source| texts(source, "/source/principals");
        if sources.is_empty() || sources.iter().any(|source| named(source).is_empty()) {
            mistakes.push(format!("{}: a rule lets in whoever comes", policy.title()));
        }
        for principal in sources.iter().flat_map(named) {
            if !known.iter().any(|id| id == principal) {
                mistakes.push(format!("{}: {principal} is no identity of either mesh", policy.title()));
            }
        }
    }
}

/// Of each pod of the sample, as Istio writes principals.
fn accounts(mesh: &Mesh) -> Vec<String> {
    let accounts = mesh.pods().map(|(_, pod)| mesh.id(text(pod, "/spec/serviceAccountName")));
    accounts.map(|id| id.trim_start_matches("spiffe://").to_owned()).collect()
}
