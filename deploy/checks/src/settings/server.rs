//! server.conf, and in it the plugin's own block.

use super::{Expected, hcl, mounted, port, volume};
use crate::cluster::{Cluster, Form};
use crate::object::{at, hits, list, tag, text, texts};

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
    match cluster.form {
        Form::Stock => own_bundle_endpoint(cluster, &mut conf),
        Form::Managed | Form::Assisted => conf.ensure(
            !values.keys().any(|key| key.starts_with("server.federation")),
            "SPIRE's own federation block is there, and both would serve",
        ),
    }
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
    if cluster.form != Form::Stock {
        plugin(cluster, &mut conf);
    }
}

/// Without the plugin: peers find SPIRE's own endpoint where ours was, and nothing of ours is left.
fn own_bundle_endpoint(cluster: &Cluster, conf: &mut Expected<'_>) {
    let container = cluster.container("spire-server", "spire-server");
    let block = "server.federation.bundle_endpoint";
    conf.is(&format!("{block}.address"), "0.0.0.0");
    conf.is(&format!("{block}.port"), &port(container, "bundle"));
    // An empty block has no values to look at.
    let raw = cluster.setting("spire-server", "server.conf");
    conf.ensure(
        raw.contains("profile \"https_spiffe\" {}"),
        "the profile of its endpoint is not https_spiffe",
    );
    let has_plugin = conf.values.keys().any(|key| key.starts_with("plugins.BundlePublisher.entente"));
    conf.ensure(!has_plugin, "the plugin is still in it, without its program");
    let service = cluster.find("Service", "spire", "spire-server-bundle-endpoint");
    let leads_here = service.is_some_and(|service| {
        let labels = at(cluster.pod("spire-server"), "/metadata/labels");
        hits(at(&service.value, "/spec/selector"), labels)
    });
    conf.ensure(leads_here, "the Service spire-server-bundle-endpoint does not lead to SPIRE Server");
    let admitted = cluster.find("NetworkPolicy", "spire", "spire-server").is_some_and(|policy| {
        let rules = list(&policy.value, "/spec/ingress").iter().filter(|rule| rule.get("from").is_none());
        rules.flat_map(|rule| list(rule, "/ports")).any(|one| text(one, "/port") == "bundle")
    });
    conf.ensure(admitted, "the network policy of spire-server lets nobody to the port bundle");
    let left = cluster.objects.iter().find(|object| object.name().contains("entente"));
    conf.ensure(left.is_none() && cluster.pod("bundle-endpoint").is_null(), "something of Entente is left");
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
    // A node that has an image does not ask for it again: under one tag for two plugins it could install the other.
    let image = text(init, "/image");
    conf.ensure(
        tag(image) == checksum,
        &format!("the image {image} is not tagged with plugin_checksum {checksum}"),
    );
    let file = conf.value(&format!("{block}.plugin_data_file")).to_owned();
    let settings = mounted(container, &file).map(|(_, name)| name).unwrap_or_default();
    let settings = cluster.setting("entente", settings);
    conf.ensure(!settings.is_empty(), "plugin_data_file is in no ConfigMap");
    if let Err(error) = entente_plugin::checking::settings(settings, &cluster.trust_domain) {
        conf.ensure(false, &format!("entente.hcl: {error}"));
    }
}
