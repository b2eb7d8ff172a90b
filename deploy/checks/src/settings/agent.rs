//! agent.conf: where the agent finds its server, its first bundle and its token, and where workloads find the agent.

use serde_json::Value;

use super::{Expected, hcl, mounted, volume};
use crate::cluster::Cluster;
use crate::object::{Object, at, containers, list, text, texts};

pub(super) fn check(cluster: &Cluster, mistakes: &mut Vec<String>) {
    let pod = cluster.pod("spire-agent");
    let container = cluster.container("spire-agent", "spire-agent");
    let values = hcl(cluster, container, ("spire-agent", "agent.conf"), mistakes);
    let mut conf = Expected { file: "agent.conf", values: &values, mistakes };
    conf.is("agent.trust_domain", &cluster.trust_domain);
    conf.is("plugins.NodeAttestor.k8s_psat.plugin_data.cluster", &cluster.cluster_name);
    let skip = conf.value("plugins.WorkloadAttestor.k8s.plugin_data.skip_kubelet_verification").to_owned();
    conf.ensure(
        matches!(skip.as_str(), "true" | "false"),
        "skip_kubelet_verification is neither true nor false",
    );
    let server = cluster.find("Service", "spire", conf.value("agent.server_address"));
    let ports = server.map(|server| list(&server.value, "/spec/ports")).unwrap_or_default();
    let listens = ports.iter().any(|port| {
        at(port, "/port").as_u64().is_some_and(|number| conf.value("agent.server_port").parse() == Ok(number))
    });
    conf.ensure(listens, "there is no Service at server_address and server_port");
    // On the host's network a port is everybody's: the kubelet asks on loopback too.
    conf.is("health_checks.bind_address", "127.0.0.1");
    for probe in ["/livenessProbe/httpGet", "/readinessProbe/httpGet"] {
        conf.is("health_checks.bind_address", text(container, &format!("{probe}/host")));
        conf.is("health_checks.bind_port", &at(container, &format!("{probe}/port")).to_string());
    }
    // The names that Istio's Envoys ask for: the default of the other two would be our own domain's bundle alone.
    conf.is("agent.sds.default_bundle_name", "null");
    conf.is("agent.sds.default_all_bundles_name", "ROOTCA");
    let narrowed = ["default_svid_name", "disable_spiffe_cert_validation"];
    conf.ensure(
        !narrowed.iter().any(|key| conf.values.contains_key(&format!("agent.sds.{key}"))),
        "sds sets a name or a validator that Istio's Envoys do not expect",
    );
    let bundle = mounted(container, conf.value("agent.trust_bundle_path"));
    let is_published = bundle.is_some_and(|(mount, file)| {
        text(volume(pod, text(mount, "/name")), "/configMap/name") == "spire-bundle" && file == "bundle.crt"
    });
    conf.ensure(is_published, "trust_bundle_path is not what SPIRE Server publishes");
    let token = mounted(container, "/var/run/secrets/tokens/spire-agent").is_some_and(|(mount, file)| {
        let sources = list(volume(pod, text(mount, "/name")), "/projected/sources");
        sources.iter().any(|source| {
            let token = at(source, "/serviceAccountToken");
            text(token, "/path") == file && text(token, "/audience") == "spire-server"
        })
    });
    conf.ensure(token, "no token for spire-server is where k8s_psat looks for it");
    socket(cluster, pod, &mut conf);
}

/// The agent's socket is in a folder of the host; the CSI driver hands out that folder, and workloads name the file in it.
fn socket(cluster: &Cluster, pod: &Value, conf: &mut Expected<'_>) {
    let container = cluster.container("spire-agent", "spire-agent");
    let path = conf.value("agent.socket_path").to_owned();
    let Some((mount, file)) = mounted(container, &path) else {
        conf.ensure(false, "socket_path is in no volume");
        return;
    };
    let shared = text(mount, "/name");
    let on_host = volume(pod, shared).get("hostPath").is_some();
    conf.ensure(
        on_host,
        "socket_path is not on the host: workloads would lose it when the agent is replaced",
    );
    let driver = cluster.container("spire-agent", "spiffe-csi-driver");
    let args = texts(driver, "/args");
    let folder = args.iter().skip_while(|arg| **arg != "-workload-api-socket-dir").nth(1);
    let same = folder
        .and_then(|folder| mounted(driver, folder))
        .is_some_and(|(mount, _)| text(mount, "/name") == shared);
    conf.ensure(same, "the CSI driver hands out another folder than the agent's");
    for (object, pod) in cluster.pods() {
        if let Some(mistake) = workload(object, pod, file) {
            conf.ensure(false, &mistake);
        }
    }
}

fn workload(object: &Object, pod: &Value, file: &str) -> Option<String> {
    let volumes = list(pod, "/spec/volumes").iter().filter(|volume| volume.get("csi").is_some());
    let names: Vec<&str> = volumes.map(|volume| text(volume, "/name")).collect();
    for container in containers(pod) {
        let mounts = list(container, "/volumeMounts").iter();
        for mount in mounts.filter(|mount| names.contains(&text(mount, "/name"))) {
            let wanted = format!("unix://{}/{file}", text(mount, "/mountPath"));
            let variables = list(container, "/env").iter();
            let found = variables
                .filter(|one| text(one, "/name") == "SPIFFE_ENDPOINT_SOCKET")
                .map(|one| text(one, "/value"));
            let found: Vec<&str> = found.collect();
            if found != [wanted.as_str()] {
                return Some(format!(
                    "{}: SPIFFE_ENDPOINT_SOCKET is {found:?}, expected {wanted}",
                    object.name()
                ));
            }
        }
    }
    None
}
