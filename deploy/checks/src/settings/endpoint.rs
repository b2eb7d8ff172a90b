//! bundle-endpoint.toml: the ports are those of the pod, and the trust domain is the cluster's.

use serde_json::Value;

use super::port;
use crate::cluster::Cluster;
use crate::object::text;

const FILE: &str = "bundle-endpoint.toml";

pub(super) fn check(cluster: &Cluster, mistakes: &mut Vec<String>) {
    let raw = cluster.setting("bundle-endpoint", FILE);
    if let Err(error) = bundle_endpoint::config::Config::parse(raw) {
        mistakes.push(format!("{FILE}: {error}"));
    }
    let config: Value = match toml::from_str(raw) {
        Ok(config) => config,
        Err(error) => return mistakes.push(format!("{FILE}: {error}")),
    };
    let container = cluster.container("bundle-endpoint", "bundle-endpoint");
    for (key, wanted) in [
        ("/trust_domain", cluster.trust_domain.clone()),
        ("/link/listen", format!("0.0.0.0:{}", port(container, "link"))),
        ("/serve/listen", format!("0.0.0.0:{}", port(container, "bundle"))),
        ("/admin/listen", format!("0.0.0.0:{}", port(container, "admin"))),
        ("/serve/profile", "https_spiffe".into()),
        // The ID in every peer's relationship is the server's.
        ("/serve/identity", "server".into()),
    ] {
        if text(&config, key) != wanted {
            mistakes.push(format!("{FILE}: {key} is {:?}, expected {wanted:?}", text(&config, key)));
        }
    }
}
