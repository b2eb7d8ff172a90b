//! Broken copies of deploy/: each check sees what it is there for. A check that cannot fail would be no check.

mod support;

use std::fs;
use std::path::Path;

use entente_deploy_checks::rendered;

use self::support::{DEPLOY, kubectl, refused};

const ALL: &str = "cluster1/spire/spire-all.yaml";
const STOCK: &str = "cluster1/spire/spire-all-stock.yaml";
const ASSISTED: &str = "cluster1/spire/cluster-federated-trust-domain.yaml";
const IDENTITIES: &str = "cluster1/spire/cluster-spiffeid-federated.yaml";
const SERVER: &str = "cluster1/server/helloworld-server.yaml";
const CLIENT: &str = "cluster2/client/helloworld-client.yaml";

#[test]
fn a_misspelt_field() {
    refused(
        ALL,
        "readinessProbe:",
        "readinesProbe:",
        "unknown field .spec.template.spec.containers.0.readinesProbe",
    );
    refused(
        ALL,
        "publishNotReadyAddresses:",
        "publishNotReadyAdresses:",
        "unknown field .spec.publishNotReadyAdresses",
    );
    refused(IDENTITIES, "federatesWith:", "federateWith:", "unknown field .spec.federateWith");
    refused(
        ASSISTED,
        "endpointSPIFFEID:",
        "endpointSpiffeID:",
        "unknown field .spec.bundleEndpointProfile.endpointSpiffeID",
    );
    refused("cluster1/metalLB/my-network.yaml", "addresses:", "adresses:", "unknown field .spec.adresses");
}

#[test]
fn a_value_of_another_type_or_outside_the_schema() {
    refused(ALL, "replicas: 2", "replicas: two", "invalid type");
    refused(ASSISTED, "type: https_spiffe", "type: https_spifee", "which is none of");
    refused(ASSISTED, "  trustDomain: cluster2.org\n", "", ".spec.trustDomain is missing");
}

#[test]
fn an_object_of_a_kind_that_nobody_knows() {
    refused(ALL, "kind: DaemonSet", "kind: DeamonSet", "nobody knows DeamonSet of apps/v1");
}

#[test]
fn a_word_that_kubectl_reads_as_true() {
    refused(SERVER, "name: grpc", "name: y", "y without quotes is true or false to kubectl");
    refused(ALL, "name: dns\n", "name: off\n", "off without quotes is true or false to kubectl");
}

#[test]
fn a_wrong_pinned_address() {
    let (own, pool) = ("10.10.0.131", "is not in its cluster's pool");
    refused(ALL, own, "10.10.0.130", pool);
    // The right pool and another Service's address, or another than the peer calls.
    refused(ALL, own, "10.10.0.132", "is another Service's");
    refused(ALL, own, "10.10.0.132", "cluster2: entente.hcl: the URL is https://10.10.0.131:8443");
    refused(ALL, own, "10.10.0.141", "is in the pool of cluster2");
    refused(SERVER, "metallb.io/loadBalancerIPs", "metallb.io/loadBalancerIP", "is not pinned");
    refused(CLIENT, "10.10.0.132:8123", "10.10.0.131:8123", "it calls 10.10.0.131:8123");
}

#[test]
fn a_url_that_is_not_the_peers() {
    refused(
        ASSISTED,
        "https://10.10.0.141:8443",
        "https://10.10.0.141:443",
        "the URL is https://10.10.0.141:443",
    );
    refused(
        ALL,
        "https://10.10.0.141:8443",
        "https://10.10.0.131:8443",
        "the URL is https://10.10.0.131:8443",
    );
}

#[test]
fn an_endpoint_spiffe_id_of_another_domain() {
    let (own, other) = ("spiffe://cluster2.org/spire/server", "spiffe://cluster1.org/spire/server");
    refused(ASSISTED, own, other, "is of cluster1.org, and not of cluster2.org");
    refused(ALL, own, other, "is of cluster1.org, and not of cluster2.org");
    refused(ASSISTED, own, "spiffe://cluster2.org/bundle-endpoint", "nobody answers as");
}

#[test]
fn a_pasted_bundle() {
    let pasted = "  trustDomain: cluster2.org\n  trustDomainBundle: '{\"keys\": []}'";
    refused(ASSISTED, "  trustDomain: cluster2.org", pasted, "a bundle is pasted");
}

#[test]
fn a_way_back_that_ends_the_federation() {
    refused(STOCK, "port = 8443", "port = 8444", "server.federation.bundle_endpoint.port is \"8444\"");
    refused(STOCK, "profile \"https_spiffe\" {}", "", "the profile of its endpoint is not https_spiffe");
    let port = "        - containerPort: 8443\n          name: bundle\n";
    refused(STOCK, port, "", "no container of its pods has the target port \"bundle\"");
    let service = "    targetPort: bundle\n  selector:\n    app: spire-server";
    let other = service.replace("app: spire-server", "app: spire-agent");
    refused(STOCK, service, &other, "does not lead to SPIRE Server");
    refused(STOCK, "    - port: bundle\n", "    - port: grpc\n", "lets nobody to the port bundle");
    let plugin =
        "BundlePublisher \"entente\" {\n            plugin_cmd = \"/plugins/entente-plugin\"\n        }";
    let first = "DataStore \"sql\"";
    refused(STOCK, first, &format!("{plugin}\n        {first}"), "the plugin is still in it");
    refused(
        STOCK,
        "name: spire-controller-manager-config-",
        "name: entente-",
        "something of Entente is left",
    );
}

#[test]
fn two_writers_for_one_domain() {
    let assisted = "cluster1/spire/spire-all-assisted.yaml";
    let block = "refresh_hint = \"5m\"\n    federates_with \"cluster2.org\" {\n      bundle_endpoint_url = \"https://10.10.0.141:8443\"\n    }";
    refused(assisted, "refresh_hint = \"5m\"", block, "it would have two");
}

#[test]
fn a_selector_that_hits_nothing() {
    refused(
        ALL,
        "  selector:\n    app: bundle-endpoint",
        "  selector:\n    app: bundle-endpont",
        "hits no pod",
    );
    refused(IDENTITIES, "app: bundle-endpoint", "app: bundle-endpont", "its selectors hit no pod");
    refused(ALL, "targetPort: link", "targetPort: lnk", "has the target port \"lnk\"");
}

#[test]
fn a_status_that_the_pod_network_can_ask_for() {
    let said = "it opens the port admin of the bundle endpoint";
    let link = "  ingress:\n  - ports:\n    - port: bundle\n";
    refused(ALL, link, &link.replace("bundle", "admin"), said);
    refused(ALL, link, &link.replace("bundle", "8080"), said);
    refused(ALL, link, "  ingress:\n  - ports:\n    - protocol: TCP\n", said);
    let port = "    - port: bundle\n      protocol: TCP\n  - from";
    let range = "    - port: 8000\n      endPort: 9000\n      protocol: TCP\n  - from";
    refused(ALL, port, range, said);
    let own = "  podSelector:\n    matchLabels:\n      app: bundle-endpoint\n  policyTypes";
    refused(ALL, own, &own.replace("bundle-endpoint", "spire-server"), "no network policy of its own keeps");
    let base = "base/bundle-endpoint/kustomization.yaml";
    // What is said of all pods is said of the endpoint's too.
    let deny = "name: default-deny\n  namespace: spire\nspec:\n";
    let for_all = "podSelector: {}\n";
    let for_it = "podSelector:\n    matchExpressions:\n    - key: app\n      operator: ";
    let (admin, all) = ("  - ports:\n    - port: admin\n", "  - {}\n");
    for (selector, rule) in [
        (for_all, admin),
        (for_all, all),
        (&format!("{for_it}In\n      values: [bundle-endpoint, spire-agent]\n"), admin),
        (&format!("{for_it}NotIn\n      values: [spire-server]\n"), all),
    ] {
        let open = format!("{deny}  ingress:\n{rule}  {selector}");
        refused(ALL, &format!("{deny}  {for_all}"), &open, &format!("NetworkPolicy default-deny: {said}"));
    }
    refused(base, "  - network-policy.yaml\n", "", "comes without its network policy");
}

#[test]
fn a_policy_that_names_the_networks_of_the_peers_is_none_of_that() {
    let link = "  ingress:\n  - ports:\n    - port: bundle\n";
    let named = link.replace("- ports:", "- from:\n    - ipBlock:\n        cidr: 192.0.2.0/24\n    ports:");
    let mistakes = DEPLOY.with(ALL, link, &named).expect("the copy is another").mistakes();
    assert_eq!(mistakes, Vec::<String>::new());
}

#[test]
fn callers_who_lose_their_addresses() {
    for file in [ALL, SERVER] {
        let said = "externalTrafficPolicy is not Local";
        refused(file, "externalTrafficPolicy: Local", "externalTrafficPolicy: Cluster", said);
    }
}

#[test]
fn a_reference_that_leads_nowhere() {
    refused(
        ALL,
        "claimName: spire-server-data",
        "claimName: spire-data",
        "there is no PersistentVolumeClaim spire-data",
    );
    refused(
        ALL,
        "serviceAccountName: spire-agent",
        "serviceAccountName: agent",
        "there is no ServiceAccount \"agent\"",
    );
    let mount = "mountPath: /plugins\n          name: plugins";
    refused(ALL, mount, &mount.replace(": plugins", ": pluggins"), "there is no volume pluggins");
    let service =
        "name: spire-controller-manager-webhook-service\n      namespace: spire\n      path: /validate";
    refused(ALL, service, &service.replace("-service", "-srvice"), "-srvice with port 443");
}

#[test]
fn a_budget_that_lets_nobody_go_or_everybody() {
    refused(ALL, "  maxUnavailable: 1\n  selector", "  maxUnavailable: 0\n  selector", "lets 0 of 2 go");
    refused(ALL, "  maxUnavailable: 1\n  selector", "  maxUnavailable: 2\n  selector", "lets 2 of 2 go");
}

#[test]
fn a_right_too_few_or_too_many() {
    let review = "  - tokenreviews\n  verbs:\n  - create";
    refused(
        ALL,
        review,
        "  - tokenreviews\n  verbs:\n  - get",
        "RBAC lacks: spire-server may create tokenreviews",
    );
    let (pods, more) = ("  - nodes/pods\n", "more than is needed: spire-agent may get");
    refused(ALL, pods, "", "RBAC lacks: spire-agent may get nodes/pods everywhere");
    // With it a kubelet runs commands in every pod of its node.
    refused(ALL, pods, "  - nodes/pods\n  - nodes/proxy\n", &format!("{more} nodes/proxy"));
    refused(ALL, pods, "  - nodes/pods\n  - secrets\n", &format!("{more} secrets"));
    let election = "  resourceNames:\n  - spire-controller-manager\n";
    refused(
        ALL,
        election,
        "",
        "more than is needed: spire-server may update leases.coordination.k8s.io in spire",
    );
    let named = "  resourceNames:\n  - spire-bundle\n";
    refused(ALL, named, "", "RBAC lacks: spire-server may patch configmaps spire-bundle in spire");
}

#[test]
fn trust_domains_that_differ() {
    refused(
        ALL,
        "TRUST_DOMAIN: cluster1.org",
        "TRUST_DOMAIN: cluster3.org",
        "/trust_domain is \"cluster1.org\"",
    );
    refused(
        ALL,
        "trust_domain = \"cluster1.org\"",
        "trust_domain = \"cluster2.org\"",
        "/trust_domain is \"cluster2.org\"",
    );
    refused(
        ALL,
        "spiffe://cluster1.org/bundle-endpoint",
        "spiffe://cluster2.org/bundle-endpoint",
        "endpoint_spiffe_id is",
    );
    refused(IDENTITIES, "  - cluster2.org", "  - cluster1.org", "federatesWith is");
}

#[test]
fn settings_that_their_program_would_ignore_or_refuse() {
    refused(ALL, "gcInterval: 10000000000", "gcInterval: 10s", "expected nanoseconds");
    refused(ALL, "healthProbeBindAddress:", "healthProbeBindAddres:", "is no key that is known");
    refused(ALL, "- ^kube-system$", "- kube-system", "is not anchored");
    refused(ALL, "- ^kube-public$", "- ^spire$", "has pods that need an identity");
    refused(ALL, "${CLUSTER_NAME}", "${CLUSTERNAME}", "nobody sets ${CLUSTERNAME}");
    refused(ALL, "keys_path = \"/var/lib", "keys_path = \"/tmp", "is on no PersistentVolumeClaim");
    refused(ALL, "    DataStore \"sql\" {", "    DataStore \"sql\" {{", "server.conf: line");
    refused(
        ALL,
        "bundle-endpoint.spire.svc:8444",
        "bundle-endpoint.spire.svc:8443",
        "is no Service with all its pods' addresses",
    );
    refused(
        ALL,
        "serve_as_server",
        "serve_as_sever",
        "entente.hcl: invalid plugin configuration: serve_as_sever",
    );
    refused(
        ALL,
        "    endpoint_spiffe_id = \"spiffe://cluster1.org/bundle-endpoint\"\n",
        "",
        "endpoint_spiffe_id",
    );
    refused(ALL, "    identity = \"server\"", "    identty = \"server\"", "bundle-endpoint.toml: ");
    refused(ALL, "/plugins/entente-plugin", "/opt/entente-plugin", "is not what the init container installs");
}

#[test]
fn values_for_the_chart_that_say_something_else() {
    let values = "helm/values-cluster1.yaml";
    refused(values, "customPlugins:", "customPlugin:", "is no key that the chart documents");
    refused(values, "serve_as_server:", "serve_as_sever:", "plugin_data: invalid plugin configuration");
    refused(values, "10.10.0.141", "10.10.0.131", "and entente.hcl of the managed form");
    refused(values, "- ^metallb-system$", "- spire", "spire is not anchored");
    refused(values, "/bundle-endpoint\n", "/endpoint\n", "clusterSPIFFEIDs/bundle-endpoint is");
}

#[test]
fn sockets_that_are_not_where_they_are_looked_for() {
    let socket = "unix:///spiffe-workload-api/socket";
    refused(SERVER, socket, "unix:///spiffe-workload-api/agent.sock", "SPIFFE_ENDPOINT_SOCKET is");
    refused(
        ALL,
        "/spire-server/api.sock",
        "/spire-server/private.sock",
        "is not where SPIRE Server puts its socket",
    );
    refused(ALL, "/run/spire/agent-sockets/socket", "/tmp/socket", "socket_path is not on the host");
}

#[test]
fn names_that_istios_envoys_do_not_ask_the_agent_for() {
    let names = "default_bundle_name = \"null\"\n            default_all_bundles_name = \"ROOTCA\"";
    refused(
        ALL,
        "default_bundle_name = \"null\"",
        "default_bundle_name = \"ROOTCA\"",
        "agent.sds.default_bundle_name is \"ROOTCA\"",
    );
    refused(ALL, "\"ROOTCA\"", "\"ALL\"", "agent.sds.default_all_bundles_name is \"ALL\"");
    let flat = format!("{names}\n            disable_spiffe_cert_validation = true");
    refused(ALL, names, &flat, "a validator that Istio's Envoys do not expect");
}

#[test]
fn a_rendered_file_that_is_stale() {
    let Some(kubectl) = kubectl("nobody looks whether a stale file is seen") else { return };
    let copy = copy();
    assert_eq!(rendered::stale(copy.path(), &kubectl).expect("everything renders"), Vec::<String>::new());
    let base = copy.path().join("base/client/helloworld-client.yaml");
    let text = fs::read_to_string(&base).expect("the base is readable");
    write(&base, &text.replace("memory: 64Mi", "memory: 65Mi"));
    let mistakes = rendered::stale(copy.path(), &kubectl).expect("everything renders");
    assert_eq!(mistakes.len(), 2, "{mistakes:?}");
    assert!(
        mistakes.iter().all(|mistake| mistake.contains("client/helloworld-client.yaml is not what")),
        "{mistakes:?}"
    );
}

#[test]
fn older_kubelets_have_their_right_back_by_the_component_and_by_nothing_else() {
    let Some(kubectl) = kubectl("the component is not rendered") else { return };
    let copy = copy();
    let overlay = "cluster1/spire/common/kustomization.yaml";
    let text = format!("{}components:\n  - ../../../base/nodes-proxy\n", DEPLOY.text(overlay));
    write(&copy.path().join(overlay), &text);
    let mut deploy = DEPLOY.clone();
    for form in ["managed", "assisted", "stock"] {
        let fresh = rendered::render(&copy.path().join("cluster1/spire").join(form), &kubectl);
        let file =
            if form == "managed" { ALL.into() } else { format!("cluster1/spire/spire-all-{form}.yaml") };
        deploy = deploy.with_text(&file, &fresh.expect("it renders"));
    }
    // Named nowhere, it is a right that somebody slipped in.
    let more = "cluster1: RBAC gives more than is needed: spire-agent may get nodes/proxy everywhere";
    assert_eq!(deploy.mistakes(), [more]);
    assert_eq!(deploy.with_text(overlay, &text).mistakes(), Vec::<String>::new());
    let lacks = "cluster1: RBAC lacks: spire-agent may get nodes/proxy everywhere";
    assert_eq!(DEPLOY.with_text(overlay, &text).mistakes(), [lacks]);
}

fn copy() -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    for (name, text) in DEPLOY.files() {
        write(&copy.path().join(name), text);
    }
    copy
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("a folder is made");
    fs::write(path, text).expect("a file is written");
}
