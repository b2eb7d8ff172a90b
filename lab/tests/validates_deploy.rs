//! The settings in deploy/ as real SPIRE reads them: `spire-server validate` with our plugin, and `spire-agent validate`.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use entente_lab::layout::write;

use self::support::bench::Bench;

impl Bench {
    /// Writes server.conf with this place for that of the pod, and the plugin's settings of a cluster's form beside it.
    fn server_conf(&self, settings: &str) -> String {
        let data = self.path("data");
        std::fs::create_dir_all(&data).expect("a folder is made");
        write(Path::new(&self.path("entente.hcl")), settings).expect("a write");
        deploy("base/spire/server.conf")
            .replace("/plugins/entente-plugin", &self.plugin.command.display().to_string())
            .replace("/run/entente/entente.hcl", &self.path("entente.hcl"))
            .replace("/var/lib/spire/server", &data)
    }

    /// With the environment of the cluster's pods.
    async fn validate_in(&self, program: &Path, conf: &str, environment: &str) -> (Option<i32>, String) {
        let mut environment = variables(environment);
        environment.insert("ENTENTE_PLUGIN_SHA256".to_owned(), self.plugin.sha256.clone());
        self.validate(program, &["-expandEnv"], environment, conf).await
    }
}

fn deploy(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn variables(file: &str) -> BTreeMap<String, String> {
    let lines = file.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once('=')).map(|(key, value)| (key.into(), value.into())).collect()
}

#[tokio::test]
async fn real_spire_server_takes_the_settings_of_both_clusters_in_both_forms() {
    let Some(bench) = Bench::set_up().await else { return };
    for cluster in ["cluster1", "cluster2"] {
        let environment = deploy(&format!("{cluster}/spire/common/cluster.env"));
        for form in ["managed", "assisted"] {
            let conf = bench.server_conf(&deploy(&format!("{cluster}/spire/{form}/entente.hcl")));
            let (code, printed) = bench.validate_in(&bench.spire.server, &conf, &environment).await;
            assert_eq!(code, Some(0), "{cluster}, {form}: {printed}");
        }
    }
}

#[tokio::test]
async fn real_spire_server_takes_the_settings_of_the_way_back() {
    let Some(bench) = Bench::set_up().await else { return };
    let data = bench.path("data");
    std::fs::create_dir_all(&data).expect("a folder is made");
    let conf = deploy("base/stock/server.conf").replace("/var/lib/spire/server", &data);
    let environment = deploy("cluster1/spire/common/cluster.env");
    let (code, printed) = bench.validate_in(&bench.spire.server, &conf, &environment).await;
    assert_eq!(code, Some(0), "{printed}");
    let broken = conf.replace("https_spiffe", "https_spife");
    let (code, printed) = bench.validate_in(&bench.spire.server, &broken, &environment).await;
    assert_eq!(code, Some(1), "{printed}");
}

#[tokio::test]
async fn real_spire_server_refuses_a_misspelt_setting_of_the_plugin() {
    let Some(bench) = Bench::set_up().await else { return };
    let settings = deploy("cluster1/spire/managed/entente.hcl").replace("refresh_hint", "refresh_hnt");
    let conf = bench.server_conf(&settings);
    let environment = deploy("cluster1/spire/common/cluster.env");
    let (code, printed) = bench.validate_in(&bench.spire.server, &conf, &environment).await;
    assert_eq!(code, Some(1), "{printed}");
    assert!(printed.contains("refresh_hnt"), "{printed}");
}

#[tokio::test]
async fn real_spire_agent_takes_its_settings() {
    let Some(bench) = Bench::set_up().await else { return };
    for cluster in ["cluster1", "cluster2"] {
        let environment = deploy(&format!("{cluster}/spire/common/cluster.env"));
        let conf = deploy("base/spire/agent.conf");
        let (code, printed) = bench.validate_in(&bench.spire.agent, &conf, &environment).await;
        assert_eq!(code, Some(0), "{cluster}: {printed}");
    }
}
