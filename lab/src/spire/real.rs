//! Unmodified SPIRE: its configuration files and its two programs.

use std::path::Path;

use anyhow::Context;

use crate::layout::{Home, write};
use crate::process::{Launch, Process};
use crate::spire::install::Programs;
use crate::spire::{AGENT_SYNC_SECONDS, PLUGIN_NAME, ServerSpec};

/// The programs to start.
#[derive(Debug)]
pub struct RealSpire {
    programs: Programs,
}

impl RealSpire {
    /// With programs that were found or built.
    pub fn new(programs: Programs) -> Self {
        Self { programs }
    }
    /// `spire-server`
    pub fn server_program(&self) -> &Path {
        &self.programs.server
    }

    pub(crate) fn start_server(&self, home: &Home, spec: &ServerSpec) -> anyhow::Result<Process> {
        make_folder(&home.file("server-data"))?;
        write(&home.server_conf(), server_conf(home, spec))?;
        Launch::new(format!("spire-server {}", spec.trust_domain), &self.programs.server, home.server_log())
            .args(["run", "-config", &text(&home.server_conf())])
            .start()
    }

    pub(crate) fn start_agent(
        &self,
        home: &Home,
        spec: &ServerSpec,
        join_token: Option<&str>,
    ) -> anyhow::Result<Process> {
        make_folder(&home.file("agent-data"))?;
        write(&home.file("agent.conf"), agent_conf(home, spec))?;
        let launch =
            Launch::new(format!("spire-agent {}", spec.trust_domain), &self.programs.agent, home.agent_log());
        let launch = launch.args(["run", "-config", &text(&home.file("agent.conf"))]);
        match join_token {
            Some(token) => launch.args(["-joinToken", token]).start(),
            None => launch.start(),
        }
    }
}

fn server_conf(home: &Home, spec: &ServerSpec) -> String {
    let data = home.file("server-data");
    format!(
        r#"server {{
    bind_address = "127.0.0.1"
    bind_port = {port}
    socket_path = {socket}
    trust_domain = "{trust_domain}"
    data_dir = {data_dir}
    log_level = "DEBUG"
    ca_ttl = "24h"
    default_x509_svid_ttl = "1h"
    # New and changed entries reach agents sooner than by SPIRE's default of 5s.
    experimental {{ cache_reload_interval = "1s" }}
{federation}}}

plugins {{
    DataStore "sql" {{
        plugin_data {{
            database_type = "sqlite3"
            connection_string = {database}
        }}
    }}
    KeyManager "disk" {{
        plugin_data {{ keys_path = {keys} }}
    }}
    NodeAttestor "join_token" {{
        plugin_data {{}}
    }}
{plugin}}}
"#,
        port = spec.port,
        socket = quoted(&home.api_socket()),
        trust_domain = spec.trust_domain,
        data_dir = quoted(&data),
        federation = federation_block(spec),
        database = quoted(&data.join("datastore.sqlite3")),
        keys = quoted(&data.join("keys.json")),
        plugin = plugin_block(home, spec),
    )
}

fn federation_block(spec: &ServerSpec) -> String {
    let Some((port, refresh_hint)) = spec.bundle_endpoint else { return String::new() };
    format!(
        r#"    federation {{
        bundle_endpoint {{
            address = "127.0.0.1"
            port = {port}
            refresh_hint = "{refresh_hint}s"
            profile "https_spiffe" {{}}
        }}
    }}
"#
    )
}

fn plugin_block(home: &Home, spec: &ServerSpec) -> String {
    let Some(plugin) = &spec.plugin else { return String::new() };
    format!(
        r#"    BundlePublisher "{PLUGIN_NAME}" {{
        plugin_cmd = {command}
        plugin_checksum = "{sha256}"
        # Read again at SIGUSR1.
        plugin_data_file = {data}
    }}
"#,
        command = quoted(&plugin.command),
        sha256 = plugin.sha256,
        data = quoted(&home.plugin_data()),
    )
}

fn agent_conf(home: &Home, spec: &ServerSpec) -> String {
    let data = home.file("agent-data");
    format!(
        r#"agent {{
    data_dir = {data_dir}
    server_address = "127.0.0.1"
    server_port = {port}
    socket_path = {socket}
    trust_bundle_path = {bundle}
    trust_domain = "{trust_domain}"
    log_level = "DEBUG"
    experimental {{ sync_interval = "{AGENT_SYNC_SECONDS}s" }}
    # What proxies ask for as ROOTCA: one bundle for each trust domain, never all roots in one list.
    sds {{
        default_bundle_name = "null"
        default_all_bundles_name = "ROOTCA"
    }}
}}

plugins {{
    NodeAttestor "join_token" {{
        plugin_data {{}}
    }}
    # On disk, so that a killed agent comes back with the identity that it had.
    KeyManager "disk" {{
        plugin_data {{ directory = {data_dir} }}
    }}
    WorkloadAttestor "unix" {{
        plugin_data {{
            discover_workload_path = true
            workload_size_limit = -1
        }}
    }}
}}
"#,
        data_dir = quoted(&data),
        port = spec.port,
        socket = quoted(&home.agent_socket()),
        bundle = quoted(&home.file("agent-bootstrap.pem")),
        trust_domain = spec.trust_domain,
    )
}

fn make_folder(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// A path as HCL string: its escapes are those of JSON for what paths hold.
pub(crate) fn quoted(path: &Path) -> String {
    serde_json::Value::String(text(path)).to_string()
}
