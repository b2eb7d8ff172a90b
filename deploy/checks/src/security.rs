//! What pods may do on their node: Pod Security "restricted" for all but the agent, and what goes beyond it everywhere.

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::object::{Object, at, containers, list, selects, tag, text, texts};
use crate::settings;

/// Volumes that "restricted" knows.
const VOLUMES: [&str; 8] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// Where our own images go.
const REGISTRY: &str = "localhost:10000/";
/// Of the workspace, and so of the images that it builds.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Where programs look for their token for the API server, or the kubelet.
const TOKEN_FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Pods of the namespace spire, and their containers that ask with it.
const WITH_TOKEN: [(&str, &str); 3] = [
    ("spire-agent", "spire-agent"),
    ("spire-server", "spire-controller-manager"),
    ("spire-server", "spire-server"),
];

/// Names each field that lets a pod do more than it has to.
pub(crate) fn check(cluster: &Cluster, mistakes: &mut Vec<String>) {
    namespace(cluster, mistakes);
    administration(cluster, mistakes);
    for (object, pod) in cluster.pods() {
        let mut found = Vec::new();
        let is_agent = object.kind() == "DaemonSet" && object.name() == "spire-agent";
        if !is_agent {
            restricted_pod(pod, &mut found);
        }
        for container in containers(pod) {
            let name = text(container, "/name");
            let may_mount = is_agent && name == "spiffe-csi-driver";
            let mut inner = Vec::new();
            if !may_mount {
                restricted_container(container, &mut inner);
            }
            any_container(container, &mut inner);
            found.extend(inner.into_iter().map(|mistake| format!("{name}: {mistake}")));
        }
        token(object, pod, &mut found);
        workload_api(pod, &mut found);
        one_server(object, &mut found);
        mistakes.extend(found.into_iter().map(|mistake| format!("{}: {mistake}", object.title())));
    }
}

/// The endpoint's status is for nobody in the pod network: a policy of its own keeps it, and no rule of any lets somebody to it.
fn administration(cluster: &Cluster, mistakes: &mut Vec<String>) {
    let (pod, container) =
        (cluster.pod("bundle-endpoint"), cluster.container("bundle-endpoint", "bundle-endpoint"));
    if pod.is_null() {
        return;
    }
    let labels = at(pod, "/metadata/labels");
    let of_it = |policy: &&Object| {
        policy.namespace() == "spire" && selects(at(&policy.value, "/spec/podSelector"), labels)
    };
    let policies: Vec<&Object> = cluster.of_kind("NetworkPolicy").filter(of_it).collect();
    let is_for_all = |policy: &Object| at(&policy.value, "/spec/podSelector") == &json!({});
    let keeps = |policy: &Object| texts(&policy.value, "/spec/policyTypes").contains(&"Ingress");
    if !policies.iter().any(|policy| keeps(policy) && !is_for_all(policy)) {
        mistakes.push(format!("{}: no network policy of its own keeps the bundle endpoint", cluster.name));
    }
    for policy in policies {
        let mut rules = list(&policy.value, "/spec/ingress").iter();
        if rules.any(|rule| opens(rule, container, "admin")) {
            mistakes.push(format!("{}: it opens the port admin of the bundle endpoint", policy.title()));
        }
    }
}

/// Whether a rule of ingress lets anybody to the port of this name. One that names no port lets to every port.
fn opens(rule: &Value, container: &Value, name: &str) -> bool {
    let number = settings::port(container, name).parse::<u64>().ok();
    let is_it = |entry: &Value| match at(entry, "/port") {
        Value::Null => true,
        Value::String(port) => port == name || settings::port(container, port).parse().ok() == number,
        port => {
            let first = port.as_u64();
            let last = at(entry, "/endPort").as_u64().or(first);
            number >= first && number <= last
        }
    };
    let ports = list(rule, "/ports");
    ports.is_empty() || ports.iter().any(is_it)
}

/// The agent needs more than "restricted"; whoever else does is told, and written down.
fn namespace(cluster: &Cluster, mistakes: &mut Vec<String>) {
    let labels =
        cluster.find("Namespace", "", "spire").map(|namespace| at(&namespace.value, "/metadata/labels"));
    for mode in ["audit", "warn"] {
        let label = format!("pod-security.kubernetes.io/{mode}");
        if labels.and_then(|labels| labels.get(&label)).is_none_or(|level| level != "restricted") {
            mistakes.push(format!("{}: {label} of the namespace spire is not restricted", cluster.name));
        }
    }
}

fn restricted_pod(pod: &Value, mistakes: &mut Vec<String>) {
    for host in ["hostNetwork", "hostPID", "hostIPC"] {
        if at(pod, &format!("/spec/{host}")).as_bool() == Some(true) {
            mistakes.push(format!("{host} is not for a restricted pod"));
        }
    }
    for volume in list(pod, "/spec/volumes") {
        let kinds = volume.as_object().into_iter().flat_map(|volume| volume.keys());
        for kind in kinds.filter(|kind| *kind != "name" && !VOLUMES.contains(&kind.as_str())) {
            mistakes.push(format!("a volume of kind {kind} is not for a restricted pod"));
        }
    }
    let context = at(pod, "/spec/securityContext");
    if at(context, "/runAsNonRoot").as_bool() != Some(true) {
        mistakes.push("runAsNonRoot is not true".into());
    }
    for id in ["runAsUser", "runAsGroup"] {
        if at(context, &format!("/{id}")).as_u64().unwrap_or(0) == 0 {
            mistakes.push(format!("{id} is missing or 0"));
        }
    }
    if text(context, "/seccompProfile/type") != "RuntimeDefault" {
        mistakes.push("seccompProfile is not RuntimeDefault".into());
    }
}

fn restricted_container(container: &Value, mistakes: &mut Vec<String>) {
    let context = at(container, "/securityContext");
    if at(context, "/allowPrivilegeEscalation").as_bool() != Some(false) {
        mistakes.push("allowPrivilegeEscalation is not false".into());
    }
    if texts(context, "/capabilities/drop") != ["ALL"] || context.pointer("/capabilities/add").is_some() {
        mistakes.push("capabilities are not dropped, all of them".into());
    }
    if at(context, "/privileged").as_bool() == Some(true) {
        mistakes.push("privileged is not for a restricted container".into());
    }
    for override_ in ["runAsUser", "runAsGroup", "runAsNonRoot", "seccompProfile"] {
        if context.get(override_).is_some() {
            mistakes.push(format!("{override_} overrides the pod's"));
        }
    }
    if list(container, "/ports").iter().any(|port| port.get("hostPort").is_some()) {
        mistakes.push("hostPort is not for a restricted container".into());
    }
}

fn any_container(container: &Value, mistakes: &mut Vec<String>) {
    if at(container, "/securityContext/readOnlyRootFilesystem").as_bool() != Some(true) {
        mistakes.push("readOnlyRootFilesystem is not true".into());
    }
    let image = text(container, "/image");
    let tag = tag(image);
    if (tag.is_empty() || tag == "latest") && !image.contains("@sha256:") {
        mistakes.push(format!("the image {image} is not pinned to a version"));
    }
    // The plugin's has its checksum for a tag, which `settings` holds against server.conf.
    if image.starts_with(REGISTRY) && text(container, "/name") != "entente-plugin" && tag != VERSION {
        mistakes.push(format!("the image {image} is not of version {VERSION}, which is what builds here"));
    }
    for resource in ["/resources/requests/cpu", "/resources/requests/memory", "/resources/limits/memory"] {
        if text(container, resource).is_empty() {
            mistakes.push(format!("{} is missing", resource.trim_start_matches('/').replace('/', ".")));
        }
    }
    if !list(container, "/ports").is_empty() {
        for probe in ["livenessProbe", "readinessProbe"] {
            if container.get(probe).is_none() {
                mistakes.push(format!("it listens and has no {probe}"));
            }
        }
    }
}

/// A token is for the container that asks with it, and not for its neighbours in the pod.
fn token(object: &Object, pod: &Value, mistakes: &mut Vec<String>) {
    if at(pod, "/spec/automountServiceAccountToken").as_bool() != Some(false) {
        mistakes
            .push("automountServiceAccountToken is not false: every container would have the token".into());
    }
    for container in containers(pod) {
        let name = text(container, "/name");
        let needed = object.namespace() == "spire" && WITH_TOKEN.contains(&(object.name(), name));
        let mut mounted = list(container, "/volumeMounts").iter().map(|mount| text(mount, "/name"));
        let has = mounted.any(|mount| is_api_token(pod, mount));
        if has && !needed {
            mistakes.push(format!("{name}: it has a token for the API server, and asks it for nothing"));
        }
        let where_it_looks = settings::mounted(container, TOKEN_FOLDER)
            .is_some_and(|(mount, _)| is_api_token(pod, text(mount, "/name")));
        if needed && !where_it_looks {
            mistakes.push(format!("{name}: there is no token, certificate and namespace in {TOKEN_FOLDER}"));
        }
    }
}

/// Whether a volume has a token without an audience, which is the API server's, as the one that pods get by themselves.
fn is_api_token(pod: &Value, volume: &str) -> bool {
    let sources = list(settings::volume(pod, volume), "/projected/sources");
    let mut tokens = sources.iter().filter_map(|source| source.get("serviceAccountToken"));
    tokens.any(|token| text(token, "/audience").is_empty())
}

/// The CSI driver refuses anything but read only, when the pod starts and not before.
fn workload_api(pod: &Value, mistakes: &mut Vec<String>) {
    for volume in list(pod, "/spec/volumes").iter().filter(|volume| volume.get("csi").is_some()) {
        let name = text(volume, "/name");
        let mut mounts = containers(pod)
            .flat_map(|container| list(container, "/volumeMounts"))
            .filter(|mount| text(mount, "/name") == name);
        let read_only = |value: &Value, pointer: &str| at(value, pointer).as_bool() == Some(true);
        if text(volume, "/csi/driver") != "csi.spiffe.io" {
            mistakes.push(format!("the volume {name} is of another driver than csi.spiffe.io"));
        }
        if !read_only(volume, "/csi/readOnly") || !mounts.all(|mount| read_only(mount, "/readOnly")) {
            mistakes.push(format!("the volume {name} is not read only everywhere"));
        }
    }
}

/// Two servers on one sqlite file, or one without its volume, would be another CA.
fn one_server(object: &Object, mistakes: &mut Vec<String>) {
    if object.name() != "spire-server" {
        return;
    }
    if at(&object.value, "/spec/replicas").as_u64() != Some(1)
        || text(&object.value, "/spec/strategy/type") != "Recreate"
    {
        mistakes.push("with sqlite there must be one replica, and Recreate".into());
    }
    let volumes = list(&object.value, "/spec/template/spec/volumes");
    if !volumes.iter().any(|volume| volume.get("persistentVolumeClaim").is_some()) {
        mistakes.push("its data are on no PersistentVolumeClaim".into());
    }
}
