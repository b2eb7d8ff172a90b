//! Names and labels that objects know each other by: what is referred to must be there, and a selector must hit something.

use serde_json::Value;

use crate::cluster::Cluster;
use crate::object::{Object, at, containers, hits, list, selects, text};

/// Made by hand or by a certificate manager: README.md of deploy/istio says how.
const SECRETS_OF_OTHERS: [&str; 1] = ["bundle-endpoint-web"];

/// Names each reference that leads nowhere.
pub(crate) fn check(cluster: &Cluster, mistakes: &mut Vec<String>) {
    for object in &cluster.objects {
        let mut found = Vec::new();
        match object.kind() {
            "Service" => service(cluster, object, &mut found),
            "NetworkPolicy" => network_policy(cluster, object, &mut found),
            "PodDisruptionBudget" => disruption_budget(cluster, object, &mut found),
            "RoleBinding" | "ClusterRoleBinding" => binding(cluster, object, &mut found),
            "ValidatingWebhookConfiguration" => webhooks(cluster, object, &mut found),
            _ => {}
        }
        if let Some(pod) = object.pod() {
            own_labels(object, pod, &mut found);
            volumes(cluster, object, pod, &mut found);
            environments(cluster, object, pod, &mut found);
            probes(pod, &mut found);
        }
        mistakes.extend(found.into_iter().map(|mistake| format!("{}: {mistake}", object.title())));
    }
}

/// The pods of a namespace.
fn pods_of<'a>(cluster: &'a Cluster, namespace: &'a str) -> impl Iterator<Item = &'a Value> {
    cluster.pods().filter(move |(object, _)| object.namespace() == namespace).map(|(_, pod)| pod)
}

/// Whether a container of one of the pods has this port, by name or by number.
fn has_port(pods: &[&Value], port: &Value) -> bool {
    pods.iter()
        .flat_map(|pod| containers(pod))
        .flat_map(|container| list(container, "/ports"))
        .any(|one| one.get("name") == Some(port) || one.get("containerPort") == Some(port))
}

fn service(cluster: &Cluster, object: &Object, mistakes: &mut Vec<String>) {
    let (kind, policy) =
        (text(&object.value, "/spec/type"), text(&object.value, "/spec/externalTrafficPolicy"));
    if kind == "LoadBalancer" && policy != "Local" {
        mistakes
            .push("externalTrafficPolicy is not Local: all callers would come from a node's address".into());
    }
    let selector = at(&object.value, "/spec/selector");
    let pods = pods_of(cluster, object.namespace());
    let pods: Vec<_> = pods.filter(|pod| hits(selector, at(pod, "/metadata/labels"))).collect();
    if pods.is_empty() {
        mistakes.push(format!("the selector {selector} hits no pod"));
        return;
    }
    for port in list(&object.value, "/spec/ports") {
        let target = port.get("targetPort").unwrap_or(at(port, "/port"));
        if !has_port(&pods, target) {
            mistakes.push(format!("no container of its pods has the target port {target}"));
        }
    }
}

fn network_policy(cluster: &Cluster, object: &Object, mistakes: &mut Vec<String>) {
    let selected = |selector: &Value| -> Vec<&Value> {
        let pods = pods_of(cluster, object.namespace());
        pods.filter(|pod| selects(selector, at(pod, "/metadata/labels"))).collect()
    };
    let selector = at(&object.value, "/spec/podSelector");
    let own = selected(selector);
    if own.is_empty() {
        mistakes.push(format!("the selector {selector} hits no pod"));
    }
    for (direction, peers) in [("ingress", "/from"), ("egress", "/to")] {
        for rule in list(&object.value, &format!("/spec/{direction}")) {
            let mut others = Vec::new();
            // Pods of other namespaces are not ours to know, and networks have none.
            for peer in list(rule, peers).iter().filter(|peer| peer.get("namespaceSelector").is_none()) {
                let Some(selector) = peer.get("podSelector") else { continue };
                let pods = selected(selector);
                if pods.is_empty() {
                    mistakes.push(format!("{direction}: {selector} hits no pod"));
                }
                others.extend(pods);
            }
            let ports_of = if direction == "ingress" { &own } else { &others };
            for port in list(rule, "/ports").iter().map(|port| at(port, "/port")) {
                if port.is_string() && !has_port(ports_of, port) {
                    mistakes.push(format!("{direction}: nobody has the port {port}"));
                }
            }
        }
    }
}

fn disruption_budget(cluster: &Cluster, object: &Object, mistakes: &mut Vec<String>) {
    let selector = at(&object.value, "/spec/selector/matchLabels");
    let guarded = cluster.pods().find(|(owner, pod)| {
        owner.namespace() == object.namespace() && hits(selector, at(pod, "/metadata/labels"))
    });
    let Some((owner, _)) = guarded else {
        mistakes.push(format!("the selector {selector} hits no pod"));
        return;
    };
    let replicas = at(&owner.value, "/spec/replicas").as_i64().unwrap_or(1);
    let may_go = match at(&object.value, "/spec/minAvailable").as_i64() {
        Some(minimum) => replicas - minimum,
        None => at(&object.value, "/spec/maxUnavailable").as_i64().unwrap_or(0),
    };
    if may_go < 1 || may_go >= replicas {
        mistakes
            .push(format!("lets {may_go} of {replicas} go: a node could never be drained, or all could go"));
    }
}

fn binding(cluster: &Cluster, object: &Object, mistakes: &mut Vec<String>) {
    let (kind, name) = (text(&object.value, "/roleRef/kind"), text(&object.value, "/roleRef/name"));
    let namespace = if kind == "Role" { object.namespace() } else { "" };
    if cluster.find(kind, namespace, name).is_none() {
        mistakes.push(format!("there is no {kind} {name}"));
    }
    for subject in list(&object.value, "/subjects") {
        let (namespace, name) = (text(subject, "/namespace"), text(subject, "/name"));
        if cluster.find("ServiceAccount", namespace, name).is_none() {
            mistakes.push(format!("there is no ServiceAccount {namespace}/{name}"));
        }
    }
}

fn webhooks(cluster: &Cluster, object: &Object, mistakes: &mut Vec<String>) {
    for webhook in list(&object.value, "/webhooks") {
        let service = at(webhook, "/clientConfig/service");
        let (namespace, name) = (text(service, "/namespace"), text(service, "/name"));
        let found = cluster.find("Service", namespace, name);
        let port = service.get("port").and_then(Value::as_u64).unwrap_or(443);
        let ports = found.map(|service| list(&service.value, "/spec/ports")).unwrap_or_default();
        if !ports.iter().any(|one| at(one, "/port").as_u64() == Some(port)) {
            mistakes.push(format!("there is no Service {namespace}/{name} with port {port}"));
        }
    }
}

fn own_labels(object: &Object, pod: &Value, mistakes: &mut Vec<String>) {
    let labels = at(pod, "/metadata/labels");
    let mut selectors = vec![at(&object.value, "/spec/selector/matchLabels")];
    let spread = list(pod, "/spec/topologySpreadConstraints");
    selectors.extend(spread.iter().map(|one| at(one, "/labelSelector/matchLabels")));
    for selector in selectors.into_iter().filter(|selector| !hits(selector, labels)) {
        mistakes.push(format!("the selector {selector} does not hit its own pods"));
    }
}

fn volumes(cluster: &Cluster, object: &Object, pod: &Value, mistakes: &mut Vec<String>) {
    let there = |kind: &str, name: &str| cluster.find(kind, object.namespace(), name).is_some();
    let volumes = list(pod, "/spec/volumes");
    let mounts = || containers(pod).flat_map(|container| list(container, "/volumeMounts"));
    for volume in volumes {
        for (pointer, kind) in [
            ("/configMap/name", "ConfigMap"),
            ("/secret/secretName", "Secret"),
            ("/persistentVolumeClaim/claimName", "PersistentVolumeClaim"),
        ] {
            let name = text(volume, pointer);
            let is_others = kind == "Secret" && SECRETS_OF_OTHERS.contains(&name);
            if !name.is_empty() && !is_others && !there(kind, name) {
                mistakes.push(format!("there is no {kind} {name}"));
            }
        }
        let name = text(volume, "/name");
        if !mounts().any(|mount| text(mount, "/name") == name) {
            mistakes.push(format!("nobody mounts the volume {name}"));
        }
    }
    for mount in mounts().map(|mount| text(mount, "/name")) {
        if !volumes.iter().any(|volume| text(volume, "/name") == mount) {
            mistakes.push(format!("there is no volume {mount}"));
        }
    }
    let account = text(pod, "/spec/serviceAccountName");
    // Every namespace has the account `default`.
    if account != "default" && !there("ServiceAccount", account) {
        mistakes.push(format!("there is no ServiceAccount {account:?}"));
    }
}

fn environments(cluster: &Cluster, object: &Object, pod: &Value, mistakes: &mut Vec<String>) {
    for container in containers(pod) {
        let all = list(container, "/envFrom").iter().map(|from| text(from, "/configMapRef/name"));
        let one = list(container, "/env").iter().map(|from| text(from, "/valueFrom/configMapKeyRef/name"));
        for name in all.chain(one).filter(|name| !name.is_empty()) {
            if cluster.find("ConfigMap", object.namespace(), name).is_none() {
                mistakes.push(format!("there is no ConfigMap {name}"));
            }
        }
    }
}

fn probes(pod: &Value, mistakes: &mut Vec<String>) {
    for container in containers(pod) {
        for probe in ["/livenessProbe", "/readinessProbe", "/startupProbe"] {
            for way in ["/httpGet/port", "/tcpSocket/port"] {
                let port = at(container, &format!("{probe}{way}"));
                let named = list(container, "/ports").iter().any(|one| one.get("name") == Some(port));
                if port.is_string() && !named {
                    mistakes.push(format!("{} has no port {port} for its probe", text(container, "/name")));
                }
            }
        }
    }
}
