//! Broken copies of deploy/: pods that may more than they have to, and images that may be others than meant.

mod support;

use self::support::refused;

const ALL: &str = "cluster1/spire/spire-all.yaml";
const SERVER: &str = "cluster1/server/helloworld-server.yaml";
const CLIENT: &str = "cluster2/client/helloworld-client.yaml";

#[test]
fn what_is_not_restricted() {
    refused(SERVER, "runAsNonRoot: true", "runAsNonRoot: false", "runAsNonRoot is not true");
    refused(
        SERVER,
        "allowPrivilegeEscalation: false",
        "allowPrivilegeEscalation: true",
        "allowPrivilegeEscalation is not false",
    );
    refused(SERVER, "            - ALL", "            - NET_RAW", "capabilities are not dropped");
    refused(
        SERVER,
        "readOnlyRootFilesystem: true",
        "readOnlyRootFilesystem: false",
        "readOnlyRootFilesystem is not true",
    );
    refused(SERVER, "type: RuntimeDefault", "type: Unconfined", "seccompProfile is not RuntimeDefault");
    refused(
        SERVER,
        "automountServiceAccountToken: false",
        "automountServiceAccountToken: true",
        "automountServiceAccountToken",
    );
    refused(SERVER, "          readOnly: true", "          readOnly: false", "is not read only everywhere");
    for mode in ["audit", "warn"] {
        let label = format!("pod-security.kubernetes.io/{mode}");
        let said = format!("{label} of the namespace spire is not restricted");
        refused(ALL, &format!("{label}: restricted"), &format!("{label}: privileged"), &said);
    }
}

#[test]
fn a_token_for_a_container_that_asks_nobody() {
    let mount = "mountPath: /plugins\n          name: plugins\n";
    let token = format!("{mount}        - mountPath: /token\n          name: kube-api-access\n");
    refused(ALL, mount, &token, "entente-plugin: it has a token for the API server");
    let mount = "mountPath: /spiffe-csi\n          name: spiffe-csi-socket-dir\n";
    let token = format!("{mount}        - mountPath: /token\n          name: kube-api-access\n");
    for container in ["spiffe-csi-driver", "node-driver-registrar"] {
        refused(ALL, mount, &token, &format!("{container}: it has a token for the API server"));
    }
    refused(
        ALL,
        "      automountServiceAccountToken: false\n",
        "",
        "DaemonSet spire-agent: automountServiceAccountToken is not false",
    );
    let folder = "/var/run/secrets/kubernetes.io/serviceaccount";
    for container in ["spire-agent", "spire-server", "spire-controller-manager"] {
        refused(ALL, folder, "/var/run/secrets/kube", &format!("{container}: there is no token"));
    }
}

#[test]
fn an_image_that_is_not_pinned() {
    refused(SERVER, "helloworld-server:0.1.0", "helloworld-server:latest", "is not pinned to a version");
    refused(SERVER, "helloworld-server:0.1.0", "helloworld-server", "is not pinned to a version");
    let (version, older) = (env!("CARGO_PKG_VERSION"), "0.0.9");
    for (file, image) in
        [(SERVER, "helloworld-server"), (CLIENT, "helloworld-client"), (ALL, "bundle-endpoint")]
    {
        let own = format!("localhost:10000/{image}:");
        refused(file, &format!("{own}{version}"), &format!("{own}{older}"), "is not of version");
    }
}

#[test]
fn an_image_of_the_plugin_that_may_hold_another_plugin() {
    let none = "0".repeat(64);
    let (own, wrong) = (format!("entente-plugin:{none}"), "entente-plugin:0.1.0");
    refused(ALL, &own, wrong, "entente-plugin:0.1.0 is not tagged with plugin_checksum 0000");
    refused("helm/values-cluster1.yaml", &own, wrong, "is not tagged with the plugin's checksum 0000");
    let checksum = format!("ENTENTE_PLUGIN_SHA256: \"{none}\"");
    refused(ALL, &checksum, &checksum.replace('0', "1"), "is not tagged with plugin_checksum 1111");
}

#[test]
fn a_second_server_on_one_volume() {
    refused(ALL, "type: Recreate", "type: RollingUpdate", "one replica, and Recreate");
}
