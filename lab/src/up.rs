//! `lab up`: the first steps of the story, then everything a person needs to go on by hand.

use std::path::Path;

use crate::domain::Domain;
use crate::lab::Lab;

/// Where everything is, and commands to try, with the real paths and ports of this lab.
pub fn guide(lab: &Lab) -> anyhow::Result<String> {
    let inventory = lab.folder().join("lab.json");
    let mut sections = vec![format!(
        "\nBoth trust domains are up and stay until Ctrl-C. Pids, ports and paths: {}",
        inventory.display()
    )];
    sections.extend([&lab.one, &lab.two].map(places));
    let program = lab.means.spire.stock_server();
    sections.extend(program.map(|program| spires_own_view(lab, program)));
    sections.push(what_is_served(lab));
    sections.push(workloads_by_hand(lab));
    // What was carried by hand at first proves nothing once the authority of that time is revoked, so `fetch` comes before it.
    sections.push(match program {
        Some(program) => rotation(lab, program),
        None => "SPIRE's own commands and the rotation by hand need real SPIRE.".to_owned(),
    });
    sections.push(change_of_trust(lab)?);
    Ok(sections.join("\n\n"))
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

fn spires_own_view(lab: &Lab, program: &Path) -> String {
    let (one, two) = (lab.one.home().api_socket(), lab.two.home().api_socket());
    let (program, one, two) = (program.display(), one.display(), two.display());
    [
        "SPIRE's own view:".to_owned(),
        format!("  {program} bundle show -socketPath {one} -format spiffe"),
        format!("  {program} bundle list -socketPath {two} -format spiffe"),
        format!("  {program} entry show -socketPath {two}"),
    ]
    .join("\n")
}

fn rotation(lab: &Lab, program: &Path) -> String {
    let socket = lab.one.home().api_socket();
    let of_one = format!("-socketPath {}", socket.display());
    let x509 = format!("  {} localauthority x509", program.display());
    [
        "A rotation in cluster1.org (each prints its authority ID; look at `bundle list` above after each):"
            .to_owned(),
        format!("{x509} show {of_one}"),
        format!("{x509} prepare {of_one}"),
        format!("{x509} activate {of_one} -authorityID <the prepared one>"),
        format!("{x509} taint {of_one} -authorityID <the old one>"),
        format!("{x509} revoke {of_one} -authorityID <the old one, once everybody has left it>"),
    ]
    .join("\n")
}

/// The servers' pids are those of now; lab.json has them too.
fn change_of_trust(lab: &Lab) -> anyhow::Result<String> {
    let mut lines = vec![format!(
        "Who is trusted stands in entente.hcl; change it, and have the {} hand it to the plugin:",
        lab.means.spire.kind().server()
    )];
    for domain in [&lab.one, &lab.two] {
        let (file, server) = (domain.home().plugin_data(), domain.server()?.pid());
        lines.push(format!("  ${{EDITOR:-vi}} {} && kill -USR1 {server}", file.display()));
    }
    Ok(lines.join("\n"))
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
