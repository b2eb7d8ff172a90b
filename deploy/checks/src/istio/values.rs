//! What istiod and the gateway are told: whose names may come in, and that every proxy takes its identity from SPIRE.

use serde_json::Value;

use super::{Mesh, PORT};
use crate::identities::{asks, is_selected};
use crate::object::{Object, at, list, parse, text, texts};

pub(super) fn check(mesh: &Mesh, peer: &Mesh, mistakes: &mut Vec<String>) {
    trust(mesh, peer, mistakes);
    templates(mesh, mistakes);
    injection(mesh, mistakes);
    gateway(mesh, mistakes);
}

fn trust(mesh: &Mesh, peer: &Mesh, mistakes: &mut Vec<String>) {
    let values = &mesh.istiod;
    let cluster = &mesh.cluster;
    for (key, wanted) in [
        ("/meshConfig/trustDomain", cluster.trust_domain.as_str()),
        ("/global/multiCluster/clusterName", &cluster.cluster_name),
        ("/meshConfig/defaultConfig/proxyMetadata/ISTIO_META_DNS_CAPTURE", "true"),
    ] {
        if text(values, key) != wanted {
            mistakes.push(format!("{key} is {:?}, expected {wanted:?}", text(values, key)));
        }
    }
    for key in ["/global/meshID", "/global/network"] {
        if text(values, key).is_empty() || text(values, key) == text(&peer.istiod, key) {
            mistakes.push(format!("{key} is {:?}, which is nobody's or both meshes'", text(values, key)));
        }
    }
    let entries = list(values, "/meshConfig/caCertificates");
    let named: Vec<&str> = entries.iter().flat_map(|entry| texts(entry, "/trustDomains")).collect();
    if named != [peer.cluster.trust_domain.as_str()] {
        mistakes.push(format!(
            "caCertificates name the trust domains {named:?}, expected [{:?}]: proxies accept nobody else's names",
            peer.cluster.trust_domain
        ));
    }
    if entries.iter().any(|entry| entry.get("pem").is_some() || entry.get("spiffeBundleUrl").is_some()) {
        mistakes.push("caCertificates have roots, which Istio does not keep to one trust domain".into());
    }
    for (what, is_there) in [
        ("trustDomainAliases", values.pointer("/meshConfig/trustDomainAliases").is_some()),
        (
            "PILOT_SKIP_VALIDATE_TRUST_DOMAIN",
            values.pointer("/env/PILOT_SKIP_VALIDATE_TRUST_DOMAIN").is_some(),
        ),
    ] {
        if is_there {
            mistakes.push(format!("{what} takes one domain's name for the other's, or any for any"));
        }
    }
}

/// A proxy without SPIRE's socket would take its certificate from istiod, silently.
fn templates(mesh: &Mesh, mistakes: &mut Vec<String>) {
    let injector = at(&mesh.istiod, "/sidecarInjectorWebhook");
    if texts(injector, "/defaultTemplates") != ["sidecar", "spire"] {
        mistakes.push(format!(
            "defaultTemplates are {}, and a pod could go without SPIRE",
            at(injector, "/defaultTemplates")
        ));
    }
    // Where the template looks for the proxy is where istiod puts it.
    if text(&mesh.istiod, "/env/ENABLE_NATIVE_SIDECARS") != "true" {
        mistakes.push(
            "ENABLE_NATIVE_SIDECARS is not \"true\": the proxy may not be where the template expects it"
                .into(),
        );
    }
    for (name, place) in [("spire", "/spec/initContainers"), ("spire-gateway", "/spec/containers")] {
        let template = text(injector, &format!("/templates/{name}"));
        let documents = parse(name, template).unwrap_or_default();
        let [document] = documents.as_slice() else {
            mistakes.push(format!("the template {name} is no YAML document"));
            continue;
        };
        if !gives_socket(document, place) {
            mistakes.push(format!(
                "the template {name} does not give istio-proxy in {place} the volume workload-socket of csi.spiffe.io, read only"
            ));
        }
    }
}

fn gives_socket(template: &Object, place: &str) -> bool {
    let proxy = list(&template.value, place).iter().find(|one| text(one, "/name") == "istio-proxy");
    let mount = proxy.and_then(|proxy| {
        list(proxy, "/volumeMounts").iter().find(|one| text(one, "/name") == "workload-socket")
    });
    let volumes = list(&template.value, "/spec/volumes");
    let volume = volumes.iter().find(|one| text(one, "/name") == "workload-socket");
    let read_only = |value: &Value, pointer: &str| at(value, pointer) == true;
    mount.zip(volume).is_some_and(|(mount, volume)| {
        // Fixed in istio-agent; the file in it is `socket`, as in agent.conf.
        text(mount, "/mountPath") == "/var/run/secrets/workload-spiffe-uds"
            && read_only(mount, "/readOnly")
            && text(volume, "/csi/driver") == "csi.spiffe.io"
            && read_only(volume, "/csi/readOnly")
    })
}

/// Nothing that speaks mutual TLS itself gets a proxy.
fn injection(mesh: &Mesh, mistakes: &mut Vec<String>) {
    let never = list(&mesh.istiod, "/sidecarInjectorWebhook/neverInjectSelector");
    let of_its_own = mesh.cluster.pods().filter(|(object, pod)| asks(pod) && object.namespace() != "spire");
    for (object, pod) in of_its_own {
        if !never.iter().any(|selector| is_selected(selector, at(pod, "/metadata/labels"))) {
            mistakes.push(format!(
                "neverInjectSelector spares {} not, which does its own mutual TLS",
                object.name()
            ));
        }
    }
    for namespace in mesh.cluster.of_kind("Namespace") {
        let injects = text(&namespace.value, "/metadata/labels/istio-injection") == "enabled";
        if injects != (namespace.name() == super::NAMESPACE) {
            mistakes.push(format!(
                "istio-injection of the namespace {} is not as it should be",
                namespace.name()
            ));
        }
    }
    for (object, pod) in mesh.pods() {
        if text(pod, "/metadata/annotations/inject.istio.io~1templates") != "sidecar,spire" {
            mistakes.push(format!("{} does not ask for the templates sidecar,spire", object.name()));
        }
    }
}

fn gateway(mesh: &Mesh, mistakes: &mut Vec<String>) {
    let values = &mesh.gateway;
    if text(values, "/podAnnotations/inject.istio.io~1templates") != "gateway,spire-gateway" {
        mistakes.push("the gateway does not ask for the templates gateway,spire-gateway".into());
    }
    let ports = list(values, "/service/ports");
    let only_mesh = matches!(ports, [port] if at(port, "/port") == PORT && at(port, "/targetPort") == PORT);
    if !only_mesh || values.get("networkGateway").is_some() {
        mistakes.push(format!("the gateway's Service has other ports than {PORT}"));
    }
    // Its namespace has the key of istiod's CA.
    if at(values, "/rbac/enabled") != false {
        mistakes.push("the gateway may read the Secrets of istio-system, and opens no TLS".into());
    }
}
