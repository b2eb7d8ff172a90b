//! The way from a client to the other cluster's service: an address, a port, a name, and who must answer.

use serde_json::Value;

use super::{Mesh, PORT, SYSTEM};
use crate::object::{Object, at, hits, list, text, texts};

pub(super) fn check(mesh: &Mesh, peer: &Mesh, mistakes: &mut Vec<String>) {
    gateway(mesh, mistakes);
    let entries: Vec<&Object> = mesh.own_of_kind("ServiceEntry").collect();
    if entries.is_empty() {
        mistakes.push("no ServiceEntry: nobody is reached".into());
    }
    for entry in entries {
        let mut found = Vec::new();
        service_entry(mesh, peer, entry, &mut found);
        mistakes.extend(found.into_iter().map(|mistake| format!("{}: {mistake}", entry.title())));
    }
}

/// What is let through is a Service that is there, by its whole name.
fn gateway(mesh: &Mesh, mistakes: &mut Vec<String>) {
    let gateways: Vec<&Object> = mesh.own_of_kind("Gateway").collect();
    let [gateway] = gateways.as_slice() else {
        return mistakes.push(format!("{} Gateways, expected one", gateways.len()));
    };
    // The chart's label: the release's name without `istio-`.
    if gateway.namespace() != SYSTEM || text(&gateway.value, "/spec/selector/istio") != "eastwestgateway" {
        mistakes.push(format!("{}: it is not for the pods of the chart", gateway.title()));
    }
    for server in list(&gateway.value, "/spec/servers") {
        if at(server, "/port/number") != PORT || text(server, "/tls/mode") != "AUTO_PASSTHROUGH" {
            mistakes.push(format!("{}: a server is not AUTO_PASSTHROUGH on {PORT}", gateway.title()));
        }
        for host in texts(server, "/hosts").into_iter().filter(|host| service(mesh, host).is_none()) {
            mistakes.push(format!("{}: {host} is no Service of the mesh", gateway.title()));
        }
    }
}

fn service_entry(mesh: &Mesh, peer: &Mesh, entry: &Object, mistakes: &mut Vec<String>) {
    let spec = at(&entry.value, "/spec");
    for endpoint in list(spec, "/endpoints") {
        let address = text(endpoint, "/address");
        if address != peer.address() {
            mistakes.push(format!(
                "{address} is not the gateway of {}, which has {}",
                peer.cluster.name,
                peer.address()
            ));
        }
        for port in list(spec, "/ports") {
            if at(endpoint, &format!("/ports/{}", text(port, "/name"))) != PORT {
                mistakes.push(format!("its port {} does not lead to {PORT}", text(port, "/name")));
            }
        }
    }
    let hosts = texts(spec, "/hosts");
    if hosts.iter().any(|host| host.ends_with(".svc.cluster.local")) {
        mistakes.push("its name is one of our own cluster's".into());
    }
    let rule = mesh.own_of_kind("DestinationRule").find(|rule| hosts == [text(&rule.value, "/spec/host")]);
    let tls = rule.map_or(&Value::Null, |rule| at(&rule.value, "/spec/trafficPolicy/tls"));
    if text(tls, "/mode") != "ISTIO_MUTUAL" {
        mistakes.push("no DestinationRule has ISTIO_MUTUAL for its host".into());
    }
    retries(mesh, &hosts, mistakes);
    let sni = text(tls, "/sni");
    let Some((target, port)) = behind(peer, sni) else {
        return mistakes
            .push(format!("the gateway of {} passes nothing on for the name {sni:?}", peer.cluster.name));
    };
    let number = port.parse::<u64>().ok();
    if !list(&target.value, "/spec/ports")
        .iter()
        .any(|one| number.is_some_and(|number| at(one, "/port") == number))
    {
        mistakes.push(format!("{} has no port {port}", target.title()));
    }
    let wanted = ids(peer, target);
    for (place, found) in [
        ("ServiceEntry", texts(spec, "/subjectAltNames")),
        ("DestinationRule", texts(tls, "/subjectAltNames")),
    ] {
        if found != wanted {
            mistakes
                .push(format!("{place}: subjectAltNames are {found:?}, and who answers there is {wanted:?}"));
        }
    }
}

/// Without them calls fail in the moment after an authority is tainted.
fn retries(mesh: &Mesh, hosts: &[&str], mistakes: &mut Vec<String>) {
    let service = mesh.own_of_kind("VirtualService").find(|one| texts(&one.value, "/spec/hosts") == hosts);
    let routes = service.map(|service| list(&service.value, "/spec/http")).unwrap_or_default();
    let leads = |route: &Value| hosts == [text(route, "/route/0/destination/host")];
    let retries = |route: &Value| {
        let words = text(route, "/retries/retryOn");
        ["connect-failure", "reset"].iter().all(|word| words.split(',').any(|one| one == *word))
    };
    if routes.is_empty() || !routes.iter().all(|route| leads(route) && retries(route)) {
        mistakes.push("no VirtualService leads there and retries on connect-failure and reset".into());
    }
}

/// The Service that the peer's gateway has behind a name of the form `outbound_.PORT_._.HOST`, and the port.
fn behind<'a>(peer: &'a Mesh, sni: &'a str) -> Option<(&'a Object, &'a str)> {
    let (port, host) = sni.strip_prefix("outbound_.")?.split_once("_._.")?;
    let mut servers = peer.own_of_kind("Gateway").flat_map(|gateway| list(&gateway.value, "/spec/servers"));
    servers
        .any(|server| texts(server, "/hosts").contains(&host))
        .then(|| service(peer, host))
        .flatten()
        .zip(Some(port))
}

/// A Service of the sample by its name in the cluster's DNS.
fn service<'a>(mesh: &'a Mesh, host: &str) -> Option<&'a Object> {
    mesh.own_of_kind("Service")
        .find(|service| host == format!("{}.{}.svc.cluster.local", service.name(), service.namespace()))
}

fn ids(mesh: &Mesh, service: &Object) -> Vec<String> {
    let selector = at(&service.value, "/spec/selector");
    let pods = mesh.pods().filter(|(_, pod)| hits(selector, at(pod, "/metadata/labels")));
    pods.map(|(_, pod)| mesh.id(text(pod, "/spec/serviceAccountName"))).collect()
}
