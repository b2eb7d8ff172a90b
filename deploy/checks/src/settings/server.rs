//! server.conf, and in it the plugin's own block.

use super::{Expected, hcl, mounted, port, volume};
use crate::cluster::Cluster;
use crate::object::{text, texts};

pub(super) fn check(cluster: &Cluster, mistakes: &mut Vec<String>) {
    let pod = cluster.pod("spire-server");
    let container = cluster.container("spire-server", "spire-server");
    let values = hcl(cluster, container, ("spire-server", "server.conf"), mistakes);
    let mut conf = Expected { file: "server.conf", values: &values, mistakes };
    conf.is("server.trust_domain", &cluster.trust_domain);
    conf.is("server.bind_port", &port(container, "grpc"));
    conf.is("health_checks.bind_port", &port(container, "health"));
    conf.is("health_checks.listener_enabled", "true");
    conf.is("health_checks.live_path", text(container, "/livenessProbe/httpGet/path"));
    conf.is("health_checks.ready_path", text(container, "/readinessProbe/httpGet/path"));
    conf.ensure(
        !values.keys().any(|key| key.starts_with("server.federation")),
        "SPIRE's own federation block is there, and both would serve",
    );
    let attestor = format!("plugins.NodeAttestor.k8s_psat.plugin_data.clusters.{}", cluster.cluster_name);
    conf.is(&format!("{attestor}.service_account_allow_list"), "spire:spire-agent");
    let publisher =
        format!("plugins.BundlePublisher.k8s_configmap.plugin_data.clusters.{}", cluster.cluster_name);
    for (key, wanted) in [
        ("configmap_name", "spire-bundle"),
        ("configmap_key", "bundle.crt"),
        ("namespace", "spire"),
        ("format", "pem"),
    ] {
        conf.is(&format!("{publisher}.{key}"), wanted);
    }
    // What must survive the pod stands on the claim.
    for path in [
        "server.data_dir",
        "plugins.DataStore.sql.plugin_data.connection_string",
        "plugins.KeyManager.disk.plugin_data.keys_path",
    ] {
        let mount = mounted(container, conf.value(path)).map(|(mount, _)| text(mount, "/name"));
        let kept = mount.is_some_and(|name| volume(pod, name).get("persistentVolumeClaim").is_some());
        conf.ensure(kept, &format!("{path} is on no PersistentVolumeClaim"));
    }
    plugin(cluster, &mut conf);
}

/// What SPIRE Server starts is what the init container has put there, and what it hands over is there.
fn plugin(cluster: &Cluster, conf: &mut Expected<'_>) {
    let container = cluster.container("spire-server", "spire-server");
    let init = cluster.container("spire-server", "entente-plugin");
    let block = "plugins.BundlePublisher.entente";
    let command = conf.value(&format!("{block}.plugin_cmd")).to_owned();
    let installed = mounted(container, &command).zip(mounted(init, &command)).is_some_and(
        |((read, file), (write, _))| {
            text(read, "/name") == text(write, "/name")
                && read.get("readOnly").is_some_and(|only| only == true)
                && texts(init, "/args") == ["install", text(write, "/mountPath")]
                && file == "entente-plugin"
        },
    );
    conf.ensure(installed, "plugin_cmd is not what the init container installs, read only");
    let checksum = conf.value(&format!("{block}.plugin_checksum")).to_owned();
    let is_checksum = checksum.len() == 64 && checksum.bytes().all(|byte| byte.is_ascii_hexdigit());
    conf.ensure(is_checksum, &format!("plugin_checksum {checksum:?} is no SHA-256 in hex"));
    let file = conf.value(&format!("{block}.plugin_data_file")).to_owned();
    let settings = mounted(container, &file).map(|(_, name)| name).unwrap_or_default();
    let settings = cluster.setting("entente", settings);
    conf.ensure(!settings.is_empty(), "plugin_data_file is in no ConfigMap");
    if let Err(error) = entente_plugin::checking::settings(settings, &cluster.trust_domain) {
        conf.ensure(false, &format!("entente.hcl: {error}"));
    }
}
