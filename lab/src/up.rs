//! `lab up`: the first steps of the story, then everything a person needs to go on by hand.

use crate::domain::Domain;
use crate::lab::Lab;
use crate::spire::Kind;

/// Where everything is, and commands to try, with the real paths and ports of this lab.
pub fn guide(lab: &Lab) -> String {
    let inventory = lab.folder().join("lab.json");
    let mut sections = vec![format!(
        "\nBoth trust domains are up and stay until Ctrl-C. Pids, ports and paths: {}",
        inventory.display()
    )];
    sections.extend([&lab.one, &lab.two].map(places));
    if lab.means.spire.kind() == Kind::Real {
        sections.push(spires_own_view(lab));
    }
    sections.push(what_is_served(lab));
    sections.push(workloads_by_hand(lab));
    sections.join("\n\n")
}

fn places(domain: &Domain) -> String {
    let home = domain.home();
    [
        format!("{}", domain.trust_domain()),
        format!("  folder            {}", home.folder().display()),
        format!("  Server API        {}", home.api_socket().display()),
        format!("  Workload API      {}", domain.workload_api()),
        format!("  bundle endpoint   {} (https_spiffe)", domain.spiffe_url()),
        format!("                    {} (https_web)", domain.web_url()),
        format!("  admin             {}/ready /live /metrics /status", domain.admin_url()),
        format!("  logs              {} {}", home.server_log().display(), home.endpoint_log().display()),
    ]
    .join("\n")
}

fn spires_own_view(lab: &Lab) -> String {
    let program =
        lab.means.spire.stock_server().map(|program| program.display().to_string()).unwrap_or_default();
    let (one, two) = (lab.one.home().api_socket(), lab.two.home().api_socket());
    let (one, two) = (one.display(), two.display());
    [
        "SPIRE's own view:".to_owned(),
        format!("  {program} bundle show -socketPath {one} -format spiffe"),
        format!("  {program} bundle list -socketPath {two} -format spiffe"),
        format!("  {program} entry show -socketPath {two}"),
    ]
    .join("\n")
}

fn what_is_served(lab: &Lab) -> String {
    let (one, endpoint) = (&lab.one, lab.means.products.bundle_endpoint());
    let (url, id) = (one.spiffe_url(), one.trust_domain().spire_server_id());
    let bundle = lab.two.home().bootstrap_bundle(one.trust_domain());
    [
        "What is served (an SVID names no host, so curl cannot verify it; bundle-endpoint fetch does):"
            .to_owned(),
        format!("  curl -k {url}"),
        format!("  curl --cacert {} {}", one.web().ca_file.display(), one.web_url()),
        format!("  curl {}", url.replacen("https", "http", 1)),
        format!(
            "  openssl s_client -connect {} -tls1_3 </dev/null | openssl x509 -noout -text",
            one.spiffe_address()
        ),
        format!(
            "  {} fetch {url} --profile https_spiffe --endpoint-spiffe-id {id} --bundle {}",
            endpoint.display(),
            bundle.display()
        ),
        format!("  {} status --config {}", endpoint.display(), one.home().endpoint_conf().display()),
    ]
    .join("\n")
}

fn workloads_by_hand(lab: &Lab) -> String {
    let products = &lab.means.products;
    let server = lab.workloads.as_ref().map(|(server, _)| server.address.to_string()).unwrap_or_default();
    [
        format!("The workloads by hand (helloworld-server of cluster1.org listens on {server}):"),
        format!(
            "  SPIFFE_ENDPOINT_SOCKET={} {} {server} --interval 2s",
            lab.two.workload_api(),
            products.helloworld_client().display()
        ),
        format!(
            "  SPIFFE_ENDPOINT_SOCKET={} {} --listen 127.0.0.1:8123",
            lab.one.workload_api(),
            products.helloworld_server().display()
        ),
    ]
    .join("\n")
}
