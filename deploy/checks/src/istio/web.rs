//! The listener for istiod's own fetcher: the bundle endpoint as everywhere, one more port with a web certificate, and an istiod
//! that is told its name.

use std::net::IpAddr;

use serde_json::Value;

use super::{Mesh, read};
use crate::cluster::Cluster;
use crate::deploy::Deploy;
use crate::object::{at, list, text, texts};
use crate::settings::{self, mounted, port, volume};
use crate::{references, security};

const FILE: &str = "bundle-endpoint.toml";
const PORT_NAME: &str = "bundle-web";

pub(super) fn check(deploy: &Deploy, mesh: &Mesh, peer: &Mesh, mistakes: &mut Vec<String>) {
    let cluster = applied(deploy, &mesh.cluster, mistakes);
    references::check(&cluster, mistakes);
    security::check(&cluster, mistakes);
    settings::check_endpoint(&cluster, mistakes);
    listener(&mesh.cluster, &cluster, mistakes);
    let peers = applied(deploy, &peer.cluster, mistakes);
    istiod(mesh, peer, &peers, mistakes);
}

/// The cluster after the overlay: what it brings takes the place of what has the same name.
fn applied(deploy: &Deploy, cluster: &Cluster, mistakes: &mut Vec<String>) -> Cluster {
    let fresh = read(deploy, &format!("istio/{}/bundle-endpoint-web.yaml", cluster.name), mistakes);
    let mut cluster = cluster.clone();
    cluster.objects.retain(|old| {
        let old_settings =
            old.kind() == "ConfigMap" && old.value.pointer("/data/bundle-endpoint.toml").is_some();
        let same = |new: &crate::object::Object| {
            (new.kind(), new.namespace(), new.name()) == (old.kind(), old.namespace(), old.name())
        };
        !old_settings && !fresh.iter().any(same)
    });
    cluster.objects.extend_from_slice(fresh);
    cluster
}

fn parsed(cluster: &Cluster) -> Value {
    toml::from_str(cluster.setting("bundle-endpoint", FILE)).unwrap_or_default()
}

fn listener(plain: &Cluster, cluster: &Cluster, mistakes: &mut Vec<String>) {
    let mut settings = parsed(cluster);
    let added =
        settings.as_object_mut().and_then(|settings| settings.remove("also_serve")).unwrap_or_default();
    if settings != parsed(plain) {
        mistakes.push(format!("https-web/{FILE} differs in more than also_serve from the one without"));
    }
    let pod = cluster.pod("bundle-endpoint");
    let container = cluster.container("bundle-endpoint", "bundle-endpoint");
    let web = at(&added, "/0");
    let wanted = format!("0.0.0.0:{}", port(container, PORT_NAME));
    if text(web, "/profile") != "https_web" || text(web, "/listen") != wanted {
        mistakes.push(format!("https-web/{FILE}: the first also_serve is not https_web on {wanted}"));
    }
    for (key, file) in [("/certificate_file", "tls.crt"), ("/private_key_file", "tls.key")] {
        let found = mounted(container, text(web, key));
        let is_secret = found.is_some_and(|(mount, rest)| {
            rest == file && volume(pod, text(mount, "/name")).get("secret").is_some()
        });
        if !is_secret {
            mistakes.push(format!("https-web/{FILE}: {key} is not {file} of a Secret"));
        }
    }
}

/// What istiod fetches is the peer's listener, by a name that a web certificate can have.
fn istiod(mesh: &Mesh, peer: &Mesh, peers: &Cluster, mistakes: &mut Vec<String>) {
    let values = &mesh.istiod_web;
    for key in ["/env/ISTIO_MULTIROOT_MESH", "/meshConfig/defaultConfig/proxyMetadata/PROXY_CONFIG_XDS_AGENT"]
    {
        if text(values, key) != "true" {
            mistakes.push(format!(
                "values-istiod-web.yaml: {key} is not \"true\", and nothing would be fetched or told"
            ));
        }
    }
    if texts(values, "/sidecarInjectorWebhook/defaultTemplates") != ["sidecar"] {
        mistakes
            .push("values-istiod-web.yaml: proxies on SPIRE's socket never see what istiod fetches".into());
    }
    let entry = at(values, "/meshConfig/caCertificates/0");
    if texts(entry, "/trustDomains") != [peer.cluster.trust_domain.as_str()] {
        mistakes.push("values-istiod-web.yaml: caCertificates are not for the other trust domain".into());
    }
    let url = text(entry, "/spiffeBundleUrl");
    let Some(authority) = url.strip_prefix("https://") else {
        return mistakes.push(format!("values-istiod-web.yaml: {url:?} is no https URL"));
    };
    let (host, number) = authority.split_once(':').unwrap_or((authority, "443"));
    if host.parse::<IpAddr>().is_ok() || !host.ends_with(peer.cluster.trust_domain.as_str()) {
        mistakes.push(format!("values-istiod-web.yaml: {host} is no name of {}", peer.cluster.name));
    }
    let service = peers.find("Service", "spire", "spire-server-bundle-endpoint");
    let ports = service.map(|service| list(&service.value, "/spec/ports")).unwrap_or_default();
    let leads = |port: &Value| {
        number.parse::<u64>().is_ok_and(|number| at(port, "/port") == number)
            && text(port, "/targetPort") == PORT_NAME
    };
    if !ports.iter().any(leads) {
        mistakes.push(format!(
            "values-istiod-web.yaml: port {number} of {} is not its https_web listener",
            peer.cluster.name
        ));
    }
}
