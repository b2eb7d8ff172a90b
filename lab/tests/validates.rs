//! `spire-server validate` of real SPIRE asks our plugin about its block: in native HCL and in JSON, good and with many mistakes.

mod support;

use std::path::Path;

use serde_json::{Value, json};

use self::support::bench::Bench;

/// What stands in `plugin_data`, in both languages.
struct PluginData {
    native: String,
    json: Value,
}

impl Bench {
    fn plugin_data(&self, good: bool) -> PluginData {
        let (url, hint) = if good { ("https", "refresh_hint") } else { ("http", "refresh_hnt") };
        let (own, endpoint) =
            if good { ("cluster2.org", self.path("link.sock")) } else { ("cluster1.org", "l".into()) };
        let (url, id) = (format!("{url}://127.0.0.1:8443"), "spiffe://cluster2.org/spire/server");
        PluginData {
            native: format!(
                r#"endpoint = "unix://{endpoint}"
                {hint} = "5m"
                federates_with "{own}" {{
                    bundle_endpoint_url = "{url}"
                    bundle_endpoint_profile "https_spiffe" {{ endpoint_spiffe_id = "{id}" }}
                }}"#
            ),
            json: json!({
                "endpoint": format!("unix://{endpoint}"),
                hint: "5m",
                "federates_with": { own: {
                    "bundle_endpoint_url": url,
                    "bundle_endpoint_profile": { "https_spiffe": { "endpoint_spiffe_id": id } },
                } },
            }),
        }
    }

    fn native(&self, plugin_data: &str) -> String {
        format!(
            r#"server {{
    bind_address = "127.0.0.1"
    bind_port = 8081
    trust_domain = "cluster1.org"
    data_dir = "{data}"
    socket_path = "{socket}"
}}
plugins {{
    DataStore "sql" {{ plugin_data {{ database_type = "sqlite3" connection_string = "{data}/sql" }} }}
    KeyManager "memory" {{ plugin_data {{}} }}
    NodeAttestor "join_token" {{ plugin_data {{}} }}
    BundlePublisher "entente" {{
        plugin_cmd = "{command}"
        plugin_checksum = "{sha256}"
        plugin_data {{
            {plugin_data}
        }}
    }}
}}
"#,
            data = self.path("data"),
            socket = self.path("api.sock"),
            command = self.plugin.command.display(),
            sha256 = self.plugin.sha256,
        )
    }

    fn json(&self, plugin_data: &Value) -> String {
        let sqlite = format!("{}/sql", self.path("data"));
        let server = json!({
            "bind_address": "127.0.0.1",
            "bind_port": 8081,
            "trust_domain": "cluster1.org",
            "data_dir": self.path("data"),
            "socket_path": self.path("api.sock"),
        });
        let plugins = json!({
            "DataStore": { "sql": { "plugin_data": { "database_type": "sqlite3", "connection_string": sqlite } } },
            "KeyManager": { "memory": { "plugin_data": {} } },
            "NodeAttestor": { "join_token": { "plugin_data": {} } },
            "BundlePublisher": { "entente": {
                "plugin_cmd": self.plugin.command,
                "plugin_checksum": self.plugin.sha256,
                "plugin_data": plugin_data,
            } },
        });
        // SPIRE takes the two in this order only.
        format!(r#"{{"server": {server}, "plugins": {plugins}}}"#)
    }
}

#[tokio::test]
async fn real_spire_finds_a_good_block_valid_in_both_languages() {
    let Some(bench) = Bench::set_up().await else { return };
    let good = bench.plugin_data(true);
    for server_conf in [bench.native(&good.native), bench.json(&good.json)] {
        let (code, printed) = bench.validate(&bench.spire.server, &[], [], &server_conf).await;
        assert_eq!(code, Some(0), "{printed}\n{server_conf}");
        assert!(printed.contains("SPIRE server configuration file is valid"), "{printed}");
    }
    assert!(!Path::new(&bench.path("link.sock")).exists() && !Path::new(&bench.path("api.sock")).exists());
}

#[tokio::test]
async fn real_spire_prints_every_mistake_of_a_block_at_once_in_both_languages() {
    let Some(bench) = Bench::set_up().await else { return };
    let bad = bench.plugin_data(false);
    for server_conf in [bench.native(&bad.native), bench.json(&bad.json)] {
        let (code, printed) = bench.validate(&bench.spire.server, &[], [], &server_conf).await;
        assert_eq!(code, Some(1), "{printed}\n{server_conf}");
        assert!(printed.contains("BundlePublisher") && printed.contains("entente"), "{printed}");
        for mistake in ["endpoint: ", "refresh_hnt: ", "own trust domain", "bundle_endpoint_url: "] {
            assert!(printed.contains(mistake), "{mistake} is missing: {printed}\n{server_conf}");
        }
    }
}
