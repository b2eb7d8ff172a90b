//! `lab up`: the first steps of the story, then everything a person needs to go on by hand.

use std::fmt::Write;

use crate::lab::Lab;
use crate::spire::Kind;

/// Commands to try, with the real paths and ports of this lab.
pub fn guide(lab: &Lab) -> anyhow::Result<String> {
    let (one, two) = (&lab.one, &lab.two);
    let products = &lab.means.products;
    let server = lab.workloads.as_ref().map(|(server, _)| server.address.to_string()).unwrap_or_default();
    let mut text = String::new();
    writeln!(
        text,
        "\nBoth trust domains are up and stay until Ctrl-C. Pids, ports and paths: {}\n",
        lab.folder().join("lab.json").display()
    )?;
    for domain in [one, two] {
        let home = domain.home();
        writeln!(text, "{}", domain.trust_domain())?;
        writeln!(text, "  folder            {}", home.folder().display())?;
        writeln!(text, "  Server API        {}", home.api_socket().display())?;
        writeln!(text, "  Workload API      {}", domain.workload_api())?;
        writeln!(
            text,
            "  bundle endpoint   {} (https_spiffe)  {} (https_web)",
            domain.spiffe_url(),
            domain.web_url()
        )?;
        writeln!(text, "  admin             {}/ready /live /metrics /status", domain.admin_url())?;
        writeln!(
            text,
            "  logs              {} {}\n",
            home.server_log().display(),
            home.endpoint_log().display()
        )?;
    }
    if lab.means.spire.kind() == Kind::Real {
        let program =
            lab.means.spire.stock_server().map(|program| program.display().to_string()).unwrap_or_default();
        writeln!(text, "SPIRE's own view:")?;
        writeln!(
            text,
            "  {program} bundle show -socketPath {} -format spiffe",
            one.home().api_socket().display()
        )?;
        writeln!(
            text,
            "  {program} bundle list -socketPath {} -format spiffe",
            two.home().api_socket().display()
        )?;
        writeln!(text, "  {program} entry show -socketPath {}\n", two.home().api_socket().display())?;
    }
    writeln!(
        text,
        "What is served (an SVID names no host, so curl cannot verify it; bundle-endpoint fetch does):"
    )?;
    writeln!(text, "  curl -k {}", one.spiffe_url())?;
    writeln!(text, "  curl --cacert {} {}", one.web().ca_file.display(), one.web_url())?;
    writeln!(text, "  curl {}", one.spiffe_url().replacen("https", "http", 1))?;
    writeln!(
        text,
        "  openssl s_client -connect {} -tls1_3 </dev/null | openssl x509 -noout -text",
        one.spiffe_address()
    )?;
    let endpoint = products.bundle_endpoint();
    writeln!(
        text,
        "  {} fetch {} --profile https_spiffe --endpoint-spiffe-id {} --bundle {}",
        endpoint.display(),
        one.spiffe_url(),
        one.trust_domain().spire_server_id(),
        two.home().bootstrap_bundle(one.trust_domain()).display(),
    )?;
    writeln!(text, "  {} status --config {}\n", endpoint.display(), one.home().endpoint_conf().display())?;
    writeln!(text, "The workloads by hand (helloworld-server of cluster1.org listens on {server}):")?;
    writeln!(
        text,
        "  SPIFFE_ENDPOINT_SOCKET={} {} {server} --interval 2s",
        two.workload_api(),
        products.helloworld_client().display()
    )?;
    writeln!(
        text,
        "  SPIFFE_ENDPOINT_SOCKET={} {} --listen 127.0.0.1:8123",
        one.workload_api(),
        products.helloworld_server().display()
    )?;
    Ok(text)
}
