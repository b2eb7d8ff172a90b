//! The values for SPIRE's Helm chart. The chart itself is not here, so this is what can be held against what it documents: no key
//! that it does not know, the plugin's settings by the plugin's own reader, and the same IDs and addresses as the manifests.

use serde_json::Value;

use crate::cluster::{Cluster, Form};
use crate::deploy::Deploy;
use crate::object::{at, tag, text, texts};

/// What the chart documents, as far as we use it. Below those that end with a star everything is Kubernetes' or the plugin's.
const KEYS: &[&str] = &[
    "/global/spire/caSubject/commonName",
    "/global/spire/caSubject/country",
    "/global/spire/caSubject/organization",
    "/global/spire/clusterName",
    "/global/spire/recommendations/enabled",
    "/global/spire/trustDomain",
    "/spiffe-csi-driver/agentSocketPath",
    "/spiffe-oidc-discovery-provider/enabled",
    "/spire-agent/socketPath",
    "/spire-server/controllerManager/enabled",
    "/spire-server/controllerManager/identities/clusterSPIFFEIDs/default/enabled",
    "/spire-server/controllerManager/identities/clusterSPIFFEIDs/*",
    "/spire-server/controllerManager/ignoreNamespaces",
    "/spire-server/customPlugins/bundlePublisher/entente/plugin_checksum",
    "/spire-server/customPlugins/bundlePublisher/entente/plugin_cmd",
    "/spire-server/customPlugins/bundlePublisher/entente/plugin_data/*",
    "/spire-server/extraVolumeMounts",
    "/spire-server/extraVolumes",
    "/spire-server/federation/enabled",
    "/spire-server/initContainers",
];

/// Names each mistake in the values of a cluster, which is the managed form's.
pub(crate) fn check(deploy: &Deploy, cluster: &Cluster, mistakes: &mut Vec<String>) {
    if cluster.form != Form::Managed {
        return;
    }
    let file = format!("helm/values-{}.yaml", cluster.name);
    let mut found = Vec::new();
    match deploy.objects(&file) {
        Ok([values]) => {
            unknown("", &values.value, &mut found);
            settings(cluster, &values.value, &mut found);
            identities(cluster, &values.value, &mut found);
        }
        Ok(_) => found.push("expected one document".into()),
        Err(error) => found.push(error.into()),
    }
    // The chart's namespace has no policy of ours but what the endpoint brings along.
    if !deploy.text("base/bundle-endpoint/kustomization.yaml").contains("\n  - network-policy.yaml\n") {
        found.push("the bundle endpoint by itself comes without its network policy".into());
    }
    mistakes.extend(found.into_iter().map(|mistake| format!("{file}: {mistake}")));
}

fn unknown(path: &str, value: &Value, mistakes: &mut Vec<String>) {
    let is_known = KEYS.iter().any(|key| {
        let below = key.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix));
        *key == path || below
    });
    match value.as_object() {
        _ if is_known => {}
        Some(inner) => {
            inner.iter().for_each(|(key, value)| unknown(&format!("{path}/{key}"), value, mistakes))
        }
        None => mistakes.push(format!("{path} is no key that the chart documents")),
    }
}

fn settings(cluster: &Cluster, values: &Value, mistakes: &mut Vec<String>) {
    let global = at(values, "/global/spire");
    for (key, wanted) in [("/trustDomain", &cluster.trust_domain), ("/clusterName", &cluster.cluster_name)] {
        if text(global, key) != wanted {
            mistakes.push(format!("{key} is {:?}, expected {wanted:?}", text(global, key)));
        }
    }
    // The chart hands the settings over as JSON, which says the same as the file of the manifests.
    let data = at(values, "/spire-server/customPlugins/bundlePublisher/entente/plugin_data").to_string();
    if let Err(error) = entente_plugin::checking::settings(&data, &cluster.trust_domain) {
        mistakes.push(format!("plugin_data: {error}"));
    }
    let wanted = entente_plugin::checking::values(cluster.setting("entente", "entente.hcl"));
    let found = entente_plugin::checking::values(&data);
    if wanted != found {
        mistakes.push(format!("plugin_data says {found:?}, and entente.hcl of the managed form {wanted:?}"));
    }
    let checksum = text(values, "/spire-server/customPlugins/bundlePublisher/entente/plugin_checksum");
    let image = text(values, "/spire-server/initContainers/0/image");
    if tag(image) != checksum {
        mistakes.push(format!("the image {image} is not tagged with the plugin's checksum {checksum}"));
    }
    let socket = text(values, "/spire-agent/socketPath");
    if socket != text(values, "/spiffe-csi-driver/agentSocketPath") || !socket.ends_with("/socket") {
        mistakes.push(
            "agent and CSI driver differ about the socket, which workloads look for as `socket`".into(),
        );
    }
}

fn identities(cluster: &Cluster, values: &Value, mistakes: &mut Vec<String>) {
    for identity in cluster.of_kind("ClusterSPIFFEID") {
        let path = format!("/spire-server/controllerManager/identities/clusterSPIFFEIDs/{}", identity.name());
        let (found, wanted) = (at(values, &path), at(&identity.value, "/spec"));
        if found != wanted {
            mistakes.push(format!("{path} is {found}, and the manifest's {wanted}"));
        }
    }
    for pattern in texts(values, "/spire-server/controllerManager/ignoreNamespaces") {
        if !pattern.starts_with('^') || !pattern.ends_with('$') {
            mistakes.push(format!("ignoreNamespaces: {pattern} is not anchored, ^like-this$"));
        }
    }
}
