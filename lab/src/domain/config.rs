//! The configuration files of our own programs, and the one thing that SPIRE's agent is given besides its configuration.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use entente_bundle::{Bundle, TrustDomain};

use super::FederatesWith;
use crate::layout::Home;
use crate::web_certificate::WebCertificate;

/// What our endpoints tell their readers: short, so that things move while one watches.
const REFRESH_HINT: &str = "4s";

/// Where a bundle endpoint listens on 127.0.0.1.
#[derive(Clone, Copy, Debug)]
pub(super) struct EndpointPorts {
    pub(super) spiffe: u16,
    pub(super) web: u16,
    pub(super) admin: u16,
    /// `None` where the link is a socket.
    pub(super) link: Option<u16>,
}

/// Who the bundle endpoint is to its own domain, where the link is mutual TLS.
pub(super) fn endpoint_id(trust_domain: &TrustDomain) -> String {
    format!("spiffe://{trust_domain}/bundle-endpoint")
}

/// `entente.hcl`, the plugin's configuration.
pub(super) fn plugin_data(
    trust_domain: &TrustDomain,
    home: &Home,
    link_port: Option<u16>,
    federates_with: &[FederatesWith],
) -> String {
    let endpoint = match link_port {
        None => format!("endpoint = \"unix://{}\"", home.link_socket().display()),
        Some(port) => format!(
            "endpoint = \"dns:///127.0.0.1:{port}\"\nendpoint_spiffe_id = \"{}\"",
            endpoint_id(trust_domain)
        ),
    };
    let mut text = format!(
        r#"{endpoint}
server_socket = "unix://{}"
serve_as_server = true
refresh_hint = "{REFRESH_HINT}"
"#,
        home.api_socket().display(),
    );
    for block in federates_with {
        text.push_str(&federates_with_block(block));
    }
    text
}

fn federates_with_block(block: &FederatesWith) -> String {
    format!(
        r#"
federates_with "{trust_domain}" {{
    bundle_endpoint_url = "{url}"
    bundle_endpoint_profile "https_spiffe" {{ endpoint_spiffe_id = "{endpoint_spiffe_id}" }}
    bootstrap_bundle = "{bootstrap_bundle}"
    unsigned = "allow"
}}
"#,
        trust_domain = block.trust_domain,
        url = block.url,
        endpoint_spiffe_id = block.endpoint_spiffe_id,
        bootstrap_bundle = block.bootstrap_bundle.display(),
    )
}

/// `bundle-endpoint.toml`
pub(super) fn endpoint_conf(
    trust_domain: &TrustDomain,
    home: &Home,
    web: &WebCertificate,
    ports: &EndpointPorts,
) -> String {
    let link = match ports.link {
        None => format!("unix://{}", home.link_socket().display()),
        Some(port) => format!("127.0.0.1:{port}"),
    };
    format!(
        r#"trust_domain = "{trust_domain}"

[link]
listen = "{link}"

[workload_api]
socket = "unix://{agent}"

[serve]
listen = "127.0.0.1:{spiffe}"
profile = "https_spiffe"
identity = "server"

[[also_serve]]
listen = "127.0.0.1:{web}"
profile = "https_web"
certificate_file = "{certificate}"
private_key_file = "{key}"

[admin]
listen = "127.0.0.1:{admin}"

[fetch]
minimum_interval = "1s"
"#,
        agent = home.agent_socket().display(),
        spiffe = ports.spiffe,
        web = ports.web,
        certificate = web.certificate_file.display(),
        key = web.private_key_file.display(),
        admin = ports.admin,
    )
}

/// The X.509 authorities as PEM, as `bundle show` prints them.
pub(super) fn pem(bundle: &Bundle) -> String {
    let mut text = String::new();
    for authority in bundle.x509_authorities() {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let base64 = BASE64_STANDARD.encode(authority.der());
        for (index, character) in base64.chars().enumerate() {
            if index > 0 && index % 64 == 0 {
                text.push('\n');
            }
            text.push(character);
        }
        text.push_str("\n-----END CERTIFICATE-----\n");
    }
    text
}
