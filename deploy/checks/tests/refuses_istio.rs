//! Broken copies of deploy/istio: what istiod, Envoy or the API server would take without a word.

mod support;

use self::support::refused;

const ISTIOD: &str = "istio/values-istiod.yaml";
const ISTIOD1: &str = "istio/cluster1/values-istiod.yaml";
const GATEWAY: &str = "istio/values-eastwestgateway.yaml";
const GATEWAY1: &str = "istio/cluster1/values-eastwestgateway.yaml";
const MESH: &str = "istio/cluster1/mesh.yaml";
const IDENTITIES: &str = "istio/cluster1/cluster-spiffeid-mesh.yaml";
const WEB: &str = "istio/cluster1/bundle-endpoint-web.yaml";
const ISTIOD_WEB: &str = "istio/cluster1/values-istiod-web.yaml";

#[test]
fn a_misspelt_field_or_a_value_outside_the_schema() {
    refused(MESH, "subjectAltNames:", "subjectAltName:", "unknown field .spec.subjectAltName");
    refused(
        MESH,
        "subjectAltNames:",
        "subjectAltName:",
        "unknown field .spec.trafficPolicy.tls.subjectAltName",
    );
    refused(MESH, "  resolution: STATIC", "  resolution: STATICK", ".spec.resolution is \"STATICK\"");
    refused(
        MESH,
        "      mode: ISTIO_MUTUAL",
        "      mode: ISTIO_MUTUL",
        ".spec.trafficPolicy.tls.mode is \"ISTIO_MUTUL\"",
    );
    refused(MESH, "      http: 15443", "      http: -1", ".spec.endpoints[0].ports.http is -1");
    refused(
        MESH,
        "        principals:",
        "        principal:",
        "unknown field .spec.rules[0].from[0].source.principal",
    );
    refused(
        "istio/cluster1/address-pool.yaml",
        "ipAddressPools",
        "ipAdressPools",
        "unknown field .spec.ipAdressPools",
    );
}

#[test]
fn a_mesh_of_another_trust_domain_or_one_that_accepts_others() {
    refused(
        ISTIOD1,
        "trustDomain: cluster1.org",
        "trustDomain: cluster.local",
        "trustDomain is \"cluster.local\"",
    );
    refused(ISTIOD1, "[\"cluster2.org\"]", "[]", "caCertificates name the trust domains []");
    refused(
        ISTIOD1,
        "[\"cluster2.org\"]",
        "[\"cluster2.org\", \"cluster3.org\"]",
        "caCertificates name the trust domains",
    );
    let url = "- spiffeBundleUrl: https://10.10.0.141:8443\n      trustDomains:";
    refused(ISTIOD1, "- trustDomains:", url, "does not keep to one trust domain");
    let alias = "trustDomain: cluster1.org\n  trustDomainAliases: [\"cluster2.org\"]";
    refused(
        ISTIOD1,
        "trustDomain: cluster1.org",
        alias,
        "trustDomainAliases takes one domain's name for the other's",
    );
    refused(
        ISTIOD,
        "env:\n",
        "env:\n  PILOT_SKIP_VALIDATE_TRUST_DOMAIN: \"true\"\n",
        "PILOT_SKIP_VALIDATE_TRUST_DOMAIN takes",
    );
    refused(ISTIOD1, "cluster1-network", "cluster2-network", "/global/network is");
    refused(ISTIOD1, "cluster1-cluster", "cluster1", "/global/multiCluster/clusterName is \"cluster1\"");
}

#[test]
fn a_proxy_that_takes_no_identity_from_spire() {
    let socket = "/var/run/secrets/workload-spiffe-uds";
    refused(ISTIOD, socket, "/run/spire", "the template spire does not give");
    refused(
        ISTIOD,
        "driver: csi.spiffe.io",
        "driver: csi.spire.io",
        "the template spire-gateway does not give",
    );
    refused(
        ISTIOD,
        "        containers:",
        "        initContainers:",
        "the template spire-gateway does not give",
    );
    refused(ISTIOD, "              readOnly: true", "              readOnly: false", "read only");
    refused(ISTIOD, "[\"sidecar\", \"spire\"]", "[\"sidecar\"]", "a pod could go without SPIRE");
    refused(
        ISTIOD,
        "ENABLE_NATIVE_SIDECARS: \"true\"",
        "ENABLE_NATIVE_SIDECARS: \"auto\"",
        "ENABLE_NATIVE_SIDECARS is not",
    );
    refused(
        GATEWAY,
        "gateway,spire-gateway",
        "gateway",
        "does not ask for the templates gateway,spire-gateway",
    );
    refused(MESH, "sidecar,spire", "sidecar", "does not ask for the templates sidecar,spire");
}

#[test]
fn a_proxy_in_front_of_what_does_its_own_mutual_tls() {
    refused(
        ISTIOD,
        "key: spiffe.io/spire-managed-identity",
        "key: app.kubernetes.io/none",
        "spares helloworld-server not",
    );
    let label = "    pod-security.kubernetes.io/enforce: privileged\n";
    refused(
        "cluster1/spire/spire-all.yaml",
        label,
        &format!("    istio-injection: enabled\n{label}"),
        "istio-injection of the namespace spire",
    );
}

#[test]
fn identities_that_istio_does_not_read_or_that_are_two() {
    refused(
        IDENTITIES,
        ".PodSpec.ServiceAccountName }}",
        ".PodSpec.ServiceAccountName }}/app",
        "Istio reads only",
    );
    refused(IDENTITIES, "  - cluster2.org", "  - cluster3.org", "federatesWith is [\"cluster3.org\"]");
    refused(
        IDENTITIES,
        "    - key: spiffe.io/spire-managed-identity\n      operator: DoesNotExist\n",
        "",
        "a mesh identity is for it too",
    );
    refused(
        IDENTITIES,
        "service.istio.io/canonical-name",
        "service.istio.io/canonical",
        "would never be ready",
    );
    refused(
        MESH,
        "        version: v1",
        "        spiffe.io/spire-managed-identity: \"true\"",
        "Istio reads only",
    );
}

#[test]
fn an_address_of_a_gateway_that_is_nobodys_or_somebody_elses() {
    refused(GATEWAY1, "10.10.0.133", "10.10.0.134", "is not in its cluster's pool");
    refused(GATEWAY1, "10.10.0.133", "10.10.0.131", "is another Service's");
    refused(GATEWAY1, "10.10.0.133", "10.10.0.142", "is in the pool of cluster2");
    refused(GATEWAY1, "10.10.0.133", "10.10.0.132", "10.10.0.133 is not the gateway of cluster1");
    refused(MESH, "10.10.0.142", "10.10.0.141", "10.10.0.141 is not the gateway of cluster2");
    refused(
        "istio/cluster1/address-pool.yaml",
        "10.10.0.133/32",
        "10.10.0.142/32",
        "is in the pool of cluster1",
    );
}

#[test]
fn a_gateway_that_opens_more_than_it_should() {
    refused(GATEWAY, "      port: 15443", "      port: 15012", "has other ports than 15443");
    refused(GATEWAY, "enabled: false", "enabled: true", "may read the Secrets of istio-system");
    refused(
        MESH,
        "  - hosts:\n    - greeter.mesh.svc.cluster.local",
        "  - hosts:\n    - \"*.local\"",
        "*.local is no Service of the mesh",
    );
    refused(MESH, "mode: AUTO_PASSTHROUGH", "mode: PASSTHROUGH", "is not AUTO_PASSTHROUGH on 15443");
    refused(
        MESH,
        "    istio: eastwestgateway",
        "    istio: ingressgateway",
        "is not for the pods of the chart",
    );
}

#[test]
fn a_way_that_leads_nowhere_or_to_whoever_answers() {
    refused(
        MESH,
        "spiffe://cluster2.org/ns/mesh/sa/greeter",
        "spiffe://cluster2.org/ns/mesh/sa/client",
        "subjectAltNames are",
    );
    refused(
        MESH,
        "spiffe://cluster2.org/ns/mesh/sa/greeter",
        "spiffe://cluster1.org/ns/mesh/sa/greeter",
        "subjectAltNames are",
    );
    refused(
        MESH,
        "      subjectAltNames:\n      - spiffe://cluster2.org/ns/mesh/sa/greeter\n",
        "",
        "DestinationRule: subjectAltNames are []",
    );
    refused(MESH, "outbound_.80_._.greeter", "outbound_.8080_._.greeter", "has no port 8080");
    refused(
        MESH,
        "      sni: outbound_.80_._.greeter.mesh.svc.cluster.local\n",
        "",
        "passes nothing on for the name \"\"",
    );
    refused(MESH, "mode: ISTIO_MUTUAL", "mode: SIMPLE", "no DestinationRule has ISTIO_MUTUAL");
    refused(
        MESH,
        "  host: greeter.mesh.svc.cluster2.org",
        "  host: greeter.mesh.cluster2.org",
        "no DestinationRule has ISTIO_MUTUAL",
    );
    refused(
        MESH,
        "greeter.mesh.svc.cluster2.org",
        "greeter.mesh.svc.cluster.local",
        "its name is one of our own cluster's",
    );
    refused(MESH, "      http: 15443", "      http: 80", "does not lead to 15443");
    refused(MESH, "cancelled,reset", "cancelled", "retries on connect-failure and reset");
}

#[test]
fn policies_that_let_in_more_than_they_name() {
    refused(MESH, "mode: STRICT", "mode: PERMISSIVE", "plain text is not refused");
    refused(
        MESH,
        "cluster2.org/ns/mesh/sa/client",
        "cluster2.org/ns/mesh/sa/clients",
        "is no identity of either mesh",
    );
    refused(MESH, "cluster2.org/ns/mesh/sa/client", "\"*\"", "* is no identity of either mesh");
    refused(
        MESH,
        "  - from:\n    - source:\n        principals:\n",
        "  - from:\n    - source:\n        namespaces:\n",
        "lets in whoever comes",
    );
    refused(MESH, "  action: ALLOW", "  action: DENY", "its action is not ALLOW");
    refused(
        MESH,
        "  name: nobody\n  namespace: mesh\nspec: {}",
        "  name: nobody\n  namespace: mesh\nspec:\n  rules:\n  - {}",
        "says nobody",
    );
}

#[test]
fn a_listener_for_istiod_that_it_cannot_use() {
    refused(ISTIOD_WEB, "bundle-endpoint.cluster2.org", "10.10.0.141", "10.10.0.141 is no name of cluster2");
    refused(
        ISTIOD_WEB,
        "https://bundle-endpoint.cluster2.org",
        "https://bundle-endpoint.cluster2.org:8443",
        "port 8443 of cluster2",
    );
    refused(
        ISTIOD_WEB,
        "ISTIO_MULTIROOT_MESH: \"true\"",
        "ISTIO_MULTIROOT_MESH: \"false\"",
        "nothing would be fetched",
    );
    refused(ISTIOD_WEB, "[\"sidecar\"]", "[\"sidecar\", \"spire\"]", "never see what istiod fetches");
    refused(WEB, "0.0.0.0:8445", "0.0.0.0:8446", "is not https_web on 0.0.0.0:8445");
    refused(
        WEB,
        "/etc/entente-web/tls.key",
        "/etc/entente/tls.key",
        "/private_key_file is not tls.key of a Secret",
    );
    refused(WEB, "identity = \"server\"", "identity = \"workload\"", "differs in more than also_serve");
    refused(WEB, "certificate_file = ", "certificat_file = ", "bundle-endpoint.toml: ");
    refused(WEB, "  - port: bundle-web", "  - port: bundle-wob", "nobody has the port \"bundle-wob\"");
}
