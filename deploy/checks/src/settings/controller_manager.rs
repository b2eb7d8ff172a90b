//! The controller manager's file, which nobody else checks: it ignores keys that it does not know.

use serde_json::Value;

use super::{expand, mounted, port};
use crate::cluster::Cluster;
use crate::object::{at, text, texts};

const FILE: &str = "spire-controller-manager-config.yaml";

/// Of version 0.7.0, as far as there is a use for them here.
const KEYS: [&str; 13] = [
    "/apiVersion",
    "/clusterName",
    "/gcInterval",
    "/health/healthProbeBindAddress",
    "/ignoreNamespaces",
    "/kind",
    "/leaderElection/leaderElect",
    "/leaderElection/resourceName",
    "/leaderElection/resourceNamespace",
    "/logEncoding",
    "/logLevel",
    "/metrics/bindAddress",
    "/trustDomain",
];
const MORE_KEYS: [&str; 2] = ["/spireServerSocketPath", "/validatingWebhookConfigurationName"];

pub(super) fn check(cluster: &Cluster, mistakes: &mut Vec<String>) {
    let manager = cluster.container("spire-server", "spire-controller-manager");
    let raw = cluster.setting("spire-controller-manager-config", FILE);
    let config: Value = match expand(raw, &cluster.environment(manager))
        .and_then(|text| serde_yaml_ng::from_str(&text).map_err(|error| error.to_string()))
    {
        Ok(config) => config,
        Err(error) => return mistakes.push(format!("{FILE}: {error}")),
    };
    let mut found = Vec::new();
    unknown_keys("", &config, &mut found);
    values(cluster, &config, &mut found);
    namespaces(&config, &mut found);
    mistakes.extend(found.into_iter().map(|mistake| format!("{FILE}: {mistake}")));
}

fn unknown_keys(prefix: &str, value: &Value, mistakes: &mut Vec<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let path = format!("{prefix}/{key}");
        if value.is_object() {
            unknown_keys(&path, value, mistakes);
        } else if !KEYS.contains(&path.as_str()) && !MORE_KEYS.contains(&path.as_str()) {
            mistakes.push(format!("{path} is no key that is known: the program would ignore it"));
        }
    }
}

fn values(cluster: &Cluster, config: &Value, mistakes: &mut Vec<String>) {
    let manager = cluster.container("spire-server", "spire-controller-manager");
    let health = format!("0.0.0.0:{}", port(manager, "cm-health"));
    for (key, wanted) in [
        ("/trustDomain", cluster.trust_domain.as_str()),
        ("/clusterName", &cluster.cluster_name),
        ("/health/healthProbeBindAddress", &health),
        ("/leaderElection/resourceNamespace", "spire"),
    ] {
        if text(config, key) != wanted {
            mistakes.push(format!("{key} is {:?}, expected {wanted:?}", text(config, key)));
        }
    }
    // The program reads a plain number, of nanoseconds, and nothing else.
    if at(config, "/gcInterval").as_u64().is_none_or(|interval| interval < 1_000_000_000) {
        mistakes.push(format!(
            "/gcInterval is {}, expected nanoseconds, a second at least",
            at(config, "/gcInterval")
        ));
    }
    let webhook = text(config, "/validatingWebhookConfigurationName");
    if cluster.find("ValidatingWebhookConfiguration", "", webhook).is_none() {
        mistakes.push(format!("there is no ValidatingWebhookConfiguration {webhook:?}"));
    }
    if port(manager, "webhook") != "9443" {
        mistakes.push("the port webhook is not 9443, the only one that the program knows".into());
    }
    let server = cluster.container("spire-server", "spire-server");
    let same = mounted(manager, text(config, "/spireServerSocketPath"))
        .zip(mounted(server, "/tmp/spire-server/private/api.sock"))
        .is_some_and(|((own, file), (other, wanted))| {
            text(own, "/name") == text(other, "/name") && file == wanted
        });
    if !same {
        mistakes.push("/spireServerSocketPath is not where SPIRE Server puts its socket".into());
    }
}

/// The patterns match anywhere in a name, so each has to be anchored; and nobody who needs an identity may be among them.
fn namespaces(config: &Value, mistakes: &mut Vec<String>) {
    for pattern in texts(config, "/ignoreNamespaces") {
        let name = pattern.strip_prefix('^').and_then(|rest| rest.strip_suffix('$'));
        let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        match name.filter(|name| is_name(name)) {
            None => mistakes.push(format!("/ignoreNamespaces: {pattern} is not anchored, ^like-this$")),
            Some("spire" | "default") => {
                mistakes.push(format!("/ignoreNamespaces: {pattern} has pods that need an identity"))
            }
            Some(_) => {}
        }
    }
}
