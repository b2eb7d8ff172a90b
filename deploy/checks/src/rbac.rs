//! Who may ask the API server for what: exactly this table, which is what SPIRE and its controller manager ask for. A right that is
//! missing shows up days later, one too many shows up when somebody breaks in.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::cluster::Cluster;
use crate::deploy::Deploy;
use crate::object::{Object, at, list, text, texts};

const ALL: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
const READ: &[&str] = &["get", "list", "watch"];

/// A group of the API, a resource, and a name of one where only that is meant.
type Target = (&'static str, &'static str, &'static str);

/// Account, namespace of the right (none: everywhere), what, and verbs.
type Row = (&'static str, &'static str, &'static [Target], &'static [&'static str]);

const TABLE: &[Row] = &[
    // SPIRE Server: whose token is this, on which node, of which pod? And the bundle for agents that start.
    ("spire-server", "", &[("authentication.k8s.io", "tokenreviews", "")], &["create"]),
    ("spire-server", "", &[("", "nodes", "")], &["get"]),
    ("spire-server", "spire", &[("", "pods", "")], &["get"]),
    ("spire-server", "spire", &[("", "configmaps", "spire-bundle")], &["get", "patch"]),
    // SPIRE Controller Manager.
    (
        "spire-server",
        "",
        &[("", "namespaces", ""), ("", "nodes", ""), ("", "pods", ""), ("", "endpoints", "")],
        READ,
    ),
    (
        "spire-server",
        "",
        &[("admissionregistration.k8s.io", "validatingwebhookconfigurations", "")],
        &["get", "list", "patch", "watch"],
    ),
    (
        "spire-server",
        "",
        &[
            ("spire.spiffe.io", "clusterspiffeids", ""),
            ("spire.spiffe.io", "clusterfederatedtrustdomains", ""),
            ("spire.spiffe.io", "clusterstaticentries", ""),
        ],
        ALL,
    ),
    (
        "spire-server",
        "",
        &[
            ("spire.spiffe.io", "clusterspiffeids/finalizers", ""),
            ("spire.spiffe.io", "clusterfederatedtrustdomains/finalizers", ""),
            ("spire.spiffe.io", "clusterstaticentries/finalizers", ""),
        ],
        &["update"],
    ),
    (
        "spire-server",
        "",
        &[
            ("spire.spiffe.io", "clusterspiffeids/status", ""),
            ("spire.spiffe.io", "clusterfederatedtrustdomains/status", ""),
            ("spire.spiffe.io", "clusterstaticentries/status", ""),
        ],
        &["get", "patch", "update"],
    ),
    ("spire-server", "spire", &[("coordination.k8s.io", "leases", "")], &["create"]),
    (
        "spire-server",
        "spire",
        &[("coordination.k8s.io", "leases", "spire-controller-manager")],
        &["get", "update"],
    ),
    ("spire-server", "spire", &[("", "events", "")], &["create", "patch"]),
    // The agent asks a kubelet which pods run there. nodes/proxy would let it run commands in them too.
    ("spire-agent", "", &[("", "nodes/pods", "")], &["get"]),
];

/// What the component base/nodes-proxy gives besides, to whoever has kubelets that know no nodes/pods.
const OLDER_KUBELETS: Row = ("spire-agent", "", &[("", "nodes/proxy", "")], &["get"]);

/// Names each right that is missing, and each that is too much.
pub(crate) fn check(deploy: &Deploy, cluster: &Cluster, mistakes: &mut Vec<String>) {
    let (needed, granted) = (needed(has_older_kubelets(deploy, cluster)), granted(cluster));
    for right in needed.difference(&granted) {
        mistakes.push(format!("{}: RBAC lacks: {right}", cluster.name));
    }
    for right in granted.difference(&needed) {
        mistakes.push(format!("{}: RBAC gives more than is needed: {right}", cluster.name));
    }
}

fn right(account: &str, namespace: &str, (group, resource, name): (&str, &str, &str), verb: &str) -> String {
    let place = if namespace.is_empty() { "everywhere".into() } else { format!("in {namespace}") };
    let group = if group.is_empty() { String::new() } else { format!(".{group}") };
    let name = if name.is_empty() { String::new() } else { format!(" {name}") };
    format!("{account} may {verb} {resource}{group}{name} {place}")
}

/// Whether the cluster's own kustomization names the component for them.
fn has_older_kubelets(deploy: &Deploy, cluster: &Cluster) -> bool {
    let overlay = format!("{}/spire/common/kustomization.yaml", cluster.name);
    let mut objects = deploy.objects(&overlay).unwrap_or_default().iter();
    objects.any(|overlay| texts(&overlay.value, "/components").contains(&"../../../base/nodes-proxy"))
}

fn needed(older_kubelets: bool) -> BTreeSet<String> {
    let mut rights = BTreeSet::new();
    for (account, namespace, targets, verbs) in TABLE.iter().chain(older_kubelets.then_some(&OLDER_KUBELETS))
    {
        for target in *targets {
            rights.extend(verbs.iter().map(|verb| right(account, namespace, *target, verb)));
        }
    }
    rights
}

fn granted(cluster: &Cluster) -> BTreeSet<String> {
    let mut rights = BTreeSet::new();
    for kind in ["ClusterRoleBinding", "RoleBinding"] {
        for binding in cluster.of_kind(kind) {
            for subject in list(&binding.value, "/subjects") {
                rights.extend(of_binding(cluster, binding, text(subject, "/name")));
            }
        }
    }
    rights
}

fn of_binding(cluster: &Cluster, binding: &Object, account: &str) -> Vec<String> {
    let role = cluster.of_kind(text(&binding.value, "/roleRef/kind")).find(|role| {
        role.name() == text(&binding.value, "/roleRef/name")
            && (role.namespace().is_empty() || role.namespace() == binding.namespace())
    });
    let rules = role.map(|role| list(&role.value, "/rules")).unwrap_or_default();
    rules.iter().flat_map(|rule| of_rule(rule, account, binding.namespace())).collect()
}

fn of_rule(rule: &Value, account: &str, namespace: &str) -> Vec<String> {
    let mut names = texts(rule, "/resourceNames");
    if at(rule, "/resourceNames").is_null() {
        names.push("");
    }
    let mut rights = Vec::new();
    for group in texts(rule, "/apiGroups") {
        for resource in texts(rule, "/resources") {
            for name in &names {
                for verb in texts(rule, "/verbs") {
                    rights.push(right(account, namespace, (group, resource, name), verb));
                }
            }
        }
    }
    rights
}
