//! Where the two clusters have to agree: addresses, URLs and the IDs that answer there.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use entente_bundle::{SpiffeId, TrustDomain};

use crate::cluster::{Cluster, Form};
use crate::object::{Object, at, list, text, texts};

/// What one side says of the other.
struct Relationship {
    place: String,
    trust_domain: String,
    url: String,
    id: String,
}

/// Names each address that is nobody's or somebody else's, and each relationship that does not lead to the other cluster.
pub(crate) fn check(clusters: &[Cluster], mistakes: &mut Vec<String>) {
    for cluster in clusters {
        addresses(cluster, clusters, mistakes);
        if cluster.form != Form::Stock {
            link(cluster, mistakes);
        }
        client(cluster, clusters, mistakes);
        let others: Vec<&Cluster> = clusters.iter().filter(|other| other.name != cluster.name).collect();
        let found = relationships(cluster, mistakes);
        if found.len() != others.len() {
            let form = cluster.form;
            mistakes.push(format!(
                "{}: {} relationships in the form {form:?}, expected one",
                cluster.name,
                found.len()
            ));
        }
        for (relationship, peer) in found.iter().zip(others) {
            judge(relationship, peer, mistakes);
        }
    }
}

fn pools(cluster: &Cluster) -> Vec<RangeInclusive<Ipv4Addr>> {
    let ranges = cluster.of_kind("IPAddressPool").flat_map(|pool| texts(&pool.value, "/spec/addresses"));
    ranges.filter_map(range).collect()
}

/// `A-B`, or `A/32`; other lengths are not needed here.
fn range(range: &str) -> Option<RangeInclusive<Ipv4Addr>> {
    let (begin, end) = match range.strip_suffix("/32") {
        Some(one) => (one, one),
        None => range.split_once('-')?,
    };
    Some(begin.trim().parse().ok()?..=end.trim().parse().ok()?)
}

/// Names each load balancer's address that no pool of its cluster has, or that is somebody else's too.
pub(crate) fn addresses(cluster: &Cluster, clusters: &[Cluster], mistakes: &mut Vec<String>) {
    let own = pools(cluster);
    let written: usize =
        cluster.of_kind("IPAddressPool").map(|pool| list(&pool.value, "/spec/addresses").len()).sum();
    if own.len() != written || own.is_empty() {
        mistakes.push(format!("{}: an address range is neither A-B nor A/32", cluster.name));
    }
    let mut taken: Vec<Ipv4Addr> = Vec::new();
    for service in cluster.of_kind("Service").filter(|one| text(&one.value, "/spec/type") == "LoadBalancer") {
        let pinned = Cluster::pinned(service);
        let Ok(address) = pinned.parse::<Ipv4Addr>() else {
            mistakes.push(format!("{}: its address {pinned:?} is not pinned, or is none", service.title()));
            continue;
        };
        if !own.iter().any(|pool| pool.contains(&address)) {
            mistakes.push(format!("{}: its address {address} is not in its cluster's pool", service.title()));
        }
        if taken.contains(&address) {
            mistakes.push(format!("{}: its address {address} is another Service's", service.title()));
        }
        taken.push(address);
        for other in clusters.iter().filter(|other| other.name != cluster.name) {
            if pools(other).iter().any(|pool| pool.contains(&address)) {
                mistakes.push(format!(
                    "{}: its address {address} is in the pool of {}",
                    service.title(),
                    other.name
                ));
            }
        }
    }
    for advertisement in cluster.of_kind("L2Advertisement") {
        for pool in texts(&advertisement.value, "/spec/ipAddressPools") {
            if cluster.find("IPAddressPool", advertisement.namespace(), pool).is_none() {
                mistakes.push(format!("{}: there is no pool {pool}", advertisement.title()));
            }
        }
    }
}

/// The plugin's settings, by their paths.
fn settings(cluster: &Cluster, mistakes: &mut Vec<String>) -> BTreeMap<String, String> {
    entente_plugin::checking::values(cluster.setting("entente", "entente.hcl")).unwrap_or_else(|error| {
        mistakes.push(format!("{}: entente.hcl: {error}", cluster.name));
        Default::default()
    })
}

/// The name that the plugin dials is a Service with every replica's address, and the ID is the endpoint's.
fn link(cluster: &Cluster, mistakes: &mut Vec<String>) {
    let settings = settings(cluster, mistakes);
    let setting = |key: &str| settings.get(key).map(String::as_str).unwrap_or_default();
    let headless = |service: &&Object| {
        text(&service.value, "/spec/clusterIP") == "None"
            && at(&service.value, "/spec/publishNotReadyAddresses").as_bool() == Some(true)
    };
    let urls = cluster.of_kind("Service").filter(headless).flat_map(|service| {
        let name = format!("{}.{}.svc", service.name(), service.namespace());
        list(&service.value, "/spec/ports")
            .iter()
            .map(move |port| format!("dns:///{name}:{}", at(port, "/port")))
    });
    let (endpoint, id) = (setting("endpoint"), setting("endpoint_spiffe_id"));
    if !urls.into_iter().any(|url| url == endpoint) {
        mistakes.push(format!(
            "{}: endpoint {endpoint:?} is no Service with all its pods' addresses",
            cluster.name
        ));
    }
    let wanted = format!("spiffe://{}/bundle-endpoint", cluster.trust_domain);
    if id != wanted {
        mistakes.push(format!("{}: endpoint_spiffe_id is {id:?}, expected {wanted:?}", cluster.name));
    }
    if setting("serve_as_server") != "true" {
        mistakes
            .push(format!("{}: serve_as_server is not true, and the endpoint could not serve", cluster.name));
    }
}

fn relationships(cluster: &Cluster, mistakes: &mut Vec<String>) -> Vec<Relationship> {
    let settings = if cluster.form == Form::Stock { BTreeMap::new() } else { settings(cluster, mistakes) };
    let mut found = Vec::new();
    for (path, url) in &settings {
        let inner = path.strip_prefix("federates_with.");
        let Some(trust_domain) = inner.and_then(|inner| inner.strip_suffix(".bundle_endpoint_url")) else {
            continue;
        };
        let id =
            format!("federates_with.{trust_domain}.bundle_endpoint_profile.https_spiffe.endpoint_spiffe_id");
        found.push(Relationship {
            place: format!("{}: entente.hcl", cluster.name),
            trust_domain: trust_domain.into(),
            url: url.clone(),
            id: settings.get(&id).cloned().unwrap_or_default(),
        });
    }
    if cluster.form == Form::Assisted && !found.is_empty() {
        mistakes.push(format!(
            "{}: the assisted form's settings name a relationship: it would have two",
            cluster.name
        ));
    }
    for object in cluster.of_kind("ClusterFederatedTrustDomain") {
        let value = &object.value;
        if value.pointer("/spec/trustDomainBundle").is_some() {
            mistakes.push(format!("{}: a bundle is pasted, which nothing keeps fresh", object.title()));
        }
        found.push(Relationship {
            place: object.title(),
            trust_domain: text(value, "/spec/trustDomain").into(),
            url: text(value, "/spec/bundleEndpointURL").into(),
            id: text(value, "/spec/bundleEndpointProfile/endpointSPIFFEID").into(),
        });
    }
    found
}

fn judge(relationship: &Relationship, peer: &Cluster, mistakes: &mut Vec<String>) {
    let Relationship { place, trust_domain, url, id } = relationship;
    if *trust_domain != peer.trust_domain {
        mistakes.push(format!(
            "{place}: the trust domain is {trust_domain}, and the other cluster's {}",
            peer.trust_domain
        ));
    }
    let service = peer.find("Service", "spire", "spire-server-bundle-endpoint");
    let wanted = service.map(|service| {
        let port = at(&service.value, "/spec/ports/0/port");
        format!("https://{}:{port}", Cluster::pinned(service))
    });
    if wanted.as_ref() != Some(url) {
        mistakes.push(format!("{place}: the URL is {url}, and {} is reached at {wanted:?}", peer.name));
    }
    let names = TrustDomain::new(trust_domain).map_err(|error| error.to_string()).and_then(|trust_domain| {
        let id = SpiffeId::new(id).map_err(|error| error.to_string())?;
        Ok((id == trust_domain.spire_server_id(), id.trust_domain().clone()))
    });
    match names {
        Ok((true, _)) => {}
        Ok((false, other)) if other.as_str() != trust_domain => {
            mistakes.push(format!(
                "{place}: the endpoint SPIFFE ID {id} is of {other}, and not of {trust_domain}"
            ));
        }
        Ok(_) => {
            mistakes.push(format!("{place}: nobody answers as {id}: the endpoint serves as the SPIRE Server"))
        }
        Err(error) => mistakes.push(format!("{place}: {error}")),
    }
}

/// Both clusters' clients call the one server.
fn client(cluster: &Cluster, clusters: &[Cluster], mistakes: &mut Vec<String>) {
    let server = clusters.iter().find_map(|cluster| cluster.find("Service", "default", "helloworld-server"));
    let wanted = server
        .map(|server| format!("{}:{}", Cluster::pinned(server), at(&server.value, "/spec/ports/0/port")));
    let Some(client) = cluster.find("Deployment", "default", "helloworld-client") else { return };
    let found = text(&client.value, "/spec/template/spec/containers/0/args/0");
    if wanted.as_deref() != Some(found) {
        mistakes.push(format!("{}: it calls {found}, and the server is at {wanted:?}", client.title()));
    }
}
