//! deploy/istio as Istio's own parts read it: the charts rendered by real Helm with our values, and, where it has been built, the
//! real injector on the sample's pods and the real validation of every resource.

mod support;

use std::path::{Path, PathBuf};

use entente_lab::checks::reason_of;
use entente_lab::istio::charts::{Charts, Istioctl};
use entente_lab::layout::write;
use serde::Deserialize as _;
use serde_json::Value;

const ISTIOD: &str = "istio-control/istio-discovery";
/// Set, it has istioctl built where it is not there: five minutes.
const WANTED: &str = "ENTENTE_LAB_ISTIOCTL";

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

async fn charts() -> Option<Charts> {
    let there = entente_lab_parts::go().is_some();
    if !support::can_have(there, "Istio's charts with our values", "Helm", "install Go") {
        return None;
    }
    Some(Charts::find_or_build().await.unwrap_or_else(|error| panic!("no charts: {}", reason_of(&error))))
}

/// Only where somebody has built it: CI would take longer for it than it is worth on every change.
async fn istioctl() -> Option<Istioctl> {
    if !Istioctl::is_there() && std::env::var_os(WANTED).is_none() {
        use std::io::Write as _;
        let _ = writeln!(
            std::io::stderr(),
            "left out: istioctl on deploy/istio; {WANTED}=1 builds it, in five minutes"
        );
        return None;
    }
    Some(Istioctl::find_or_build().await.unwrap_or_else(|error| panic!("no istioctl: {}", reason_of(&error))))
}

fn values(chart: &str, cluster: &str) -> Vec<PathBuf> {
    [format!("istio/values-{chart}.yaml"), format!("istio/{cluster}/values-{chart}.yaml")]
        .map(|file| deploy(&file))
        .into()
}

async fn rendered(charts: &Charts, release: &str, chart: &str, values: &[PathBuf]) -> Vec<Value> {
    let text = charts.template(release, chart, values).await;
    documents(&text.unwrap_or_else(|error| panic!("{chart}: {error:#}")))
}

fn documents(text: &str) -> Vec<Value> {
    let documents = serde_yaml_ng::Deserializer::from_str(text);
    let values = documents.map(|document| Value::deserialize(document).expect("YAML"));
    values.filter(|value| !value.is_null()).collect()
}

fn at<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    value.pointer(pointer).unwrap_or(&Value::Null)
}

#[track_caller]
fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = objects.iter().find(|one| at(one, "/kind") == kind && at(one, "/metadata/name") == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn has(objects: &[Value], kind: &str, part: &str) -> bool {
    let name = |one: &Value| at(one, "/metadata/name").as_str().unwrap_or_default().contains(part);
    objects.iter().any(|one| at(one, "/kind") == kind && name(one))
}

/// An item of a list by its name.
fn named<'a>(value: &'a Value, list: &str, name: &str) -> &'a Value {
    let mut items = at(value, list).as_array().into_iter().flatten();
    items.find(|one| at(one, "/name") == name).unwrap_or(&Value::Null)
}

#[tokio::test]
async fn istiod_is_told_whose_names_come_in_and_where_proxies_get_theirs() {
    let Some(charts) = charts().await else { return };
    for (cluster, own, other) in
        [("cluster1", "cluster1.org", "cluster2.org"), ("cluster2", "cluster2.org", "cluster1.org")]
    {
        let objects = rendered(&charts, "istiod", ISTIOD, &values("istiod", cluster)).await;
        let text = at(find(&objects, "ConfigMap", "istio"), "/data/mesh").as_str().expect("a text");
        let mesh = documents(text).remove(0);
        assert_eq!(at(&mesh, "/trustDomain"), own);
        assert_eq!(at(&mesh, "/caCertificates"), &serde_json::json!([{"trustDomains": [other]}]));
        assert_eq!(at(&mesh, "/defaultConfig/proxyMetadata/ISTIO_META_DNS_CAPTURE"), "true");
        let injector = at(find(&objects, "ConfigMap", "istio-sidecar-injector"), "/data/config");
        let injector = documents(injector.as_str().expect("a text")).remove(0);
        assert_eq!(at(&injector, "/defaultTemplates"), &serde_json::json!(["sidecar", "spire"]));
        let never = at(&injector, "/neverInjectSelector/0/matchExpressions/0/key");
        assert_eq!(never, "spiffe.io/spire-managed-identity");
        for template in ["spire", "spire-gateway"] {
            let text = at(&injector, &format!("/templates/{template}")).as_str().unwrap_or_default();
            assert!(text.contains("csi.spiffe.io"), "{template}: {text}");
        }
        let container = at(find(&objects, "Deployment", "istiod"), "/spec/template/spec/containers/0");
        assert_eq!(at(named(container, "/env", "ENABLE_NATIVE_SIDECARS"), "/value"), "true");
        assert!(named(container, "/env", "ISTIO_MULTIROOT_MESH").is_null());
        assert!(!has(&objects, "ClusterRole", "reader"), "nobody of the other cluster reads this one");
    }
}

#[tokio::test]
async fn istiod_that_fetches_itself_is_told_to_and_tells_its_proxies() {
    let Some(charts) = charts().await else { return };
    let mut files = values("istiod", "cluster1");
    files.push(deploy("istio/cluster1/values-istiod-web.yaml"));
    let objects = rendered(&charts, "istiod", ISTIOD, &files).await;
    let text = at(find(&objects, "ConfigMap", "istio"), "/data/mesh").as_str().expect("a text");
    let mesh = documents(text).remove(0);
    assert_eq!(at(&mesh, "/caCertificates/0/spiffeBundleUrl"), "https://bundle-endpoint.cluster2.org");
    assert_eq!(at(&mesh, "/caCertificates/0/trustDomains"), &serde_json::json!(["cluster2.org"]));
    assert_eq!(at(&mesh, "/defaultConfig/proxyMetadata/PROXY_CONFIG_XDS_AGENT"), "true");
    let container = at(find(&objects, "Deployment", "istiod"), "/spec/template/spec/containers/0");
    assert_eq!(at(named(container, "/env", "ISTIO_MULTIROOT_MESH"), "/value"), "true");
}

#[tokio::test]
async fn the_gateway_has_its_address_one_port_and_no_secrets() {
    let Some(charts) = charts().await else { return };
    for (cluster, address) in [("cluster1", "10.10.0.133"), ("cluster2", "10.10.0.142")] {
        let files = values("eastwestgateway", cluster);
        let objects = rendered(&charts, "istio-eastwestgateway", "gateway", &files).await;
        let service = find(&objects, "Service", "istio-eastwestgateway");
        assert_eq!(at(service, "/metadata/annotations/metallb.io~1loadBalancerIPs"), address);
        let ports = at(service, "/spec/ports").as_array().expect("ports");
        assert!(matches!(ports.as_slice(), [one] if at(one, "/port") == 15443), "{ports:?}");
        let pod = at(find(&objects, "Deployment", "istio-eastwestgateway"), "/spec/template");
        assert_eq!(at(pod, "/metadata/annotations/inject.istio.io~1templates"), "gateway,spire-gateway");
        // What deploy/istio's Gateway selects.
        assert_eq!(at(pod, "/metadata/labels/istio"), "eastwestgateway");
        assert!(!has(&objects, "Role", ""), "it may read no Secret");
    }
}

#[tokio::test]
async fn the_gateways_chart_refuses_a_misspelt_value() {
    let Some(charts) = charts().await else { return };
    let folder = tempfile::Builder::new().prefix("lab-").tempdir().expect("a folder");
    let path = folder.path().join("values.yaml");
    let text = read(&deploy("istio/values-eastwestgateway.yaml"));
    write(&path, text.replace("podAnnotations:", "podAnotations:")).expect("a write");
    let error =
        charts.template("istio-eastwestgateway", "gateway", &[path]).await.expect_err("it is refused");
    assert!(format!("{error:#}").contains("podAnotations"), "{error:#}");
}

#[tokio::test]
async fn our_copies_of_istios_crds_are_parts_of_its_file() {
    let Some(charts) = charts().await else { return };
    let all = read(&charts.chart("base/files/crd-all.gen.yaml"));
    let all: Vec<&str> = all.split("\n---\n").map(str::trim).collect();
    let copies = std::fs::read_dir(deploy("upstream/istio")).expect("deploy/upstream/istio is readable");
    let copies: Vec<PathBuf> = copies.map(|entry| entry.expect("an entry").path()).collect();
    assert_eq!(copies.len(), 6);
    for copy in copies {
        assert!(all.contains(&read(&copy).trim()), "{} is not what Istio has", copy.display());
    }
    let objects = rendered(&charts, "istio-base", "base", &[deploy("istio/values-base.yaml")]).await;
    assert!(has(&objects, "CustomResourceDefinition", "authorizationpolicies.security.istio.io"));
    assert!(!has(&objects, "ServiceAccount", "reader"), "nobody of the other cluster reads this one");
}

/// The settings of cluster1's injector, as files.
async fn injector(charts: &Charts, folder: &Path) {
    let objects = rendered(charts, "istiod", ISTIOD, &values("istiod", "cluster1")).await;
    let config = find(&objects, "ConfigMap", "istio-sidecar-injector");
    let mesh = find(&objects, "ConfigMap", "istio");
    for (file, text) in [
        ("injector", at(config, "/data/config")),
        ("values", at(config, "/data/values")),
        ("mesh", at(mesh, "/data/mesh")),
    ] {
        write(&folder.join(file), text.as_str().expect("a text")).expect("a write");
    }
}

#[track_caller]
fn has_spires_socket(deployment: &Value, place: &str) {
    let pod = at(deployment, "/spec/template/spec");
    let volume = named(pod, "/volumes", "workload-socket");
    let csi = serde_json::json!({"driver": "csi.spiffe.io", "readOnly": true});
    assert_eq!(at(volume, "/csi"), &csi, "{deployment:#}");
    let mount = named(named(pod, place, "istio-proxy"), "/volumeMounts", "workload-socket");
    assert_eq!(at(mount, "/mountPath"), "/var/run/secrets/workload-spiffe-uds", "{deployment:#}");
    assert_eq!(at(mount, "/readOnly"), true, "{deployment:#}");
}

#[tokio::test]
async fn istios_own_injector_gives_every_proxy_spires_socket() {
    let Some(istioctl) = istioctl().await else { return };
    let Some(charts) = charts().await else { return };
    let folder = tempfile::Builder::new().prefix("lab-").tempdir().expect("a folder");
    injector(&charts, folder.path()).await;
    let injected =
        istioctl.inject(folder.path(), &deploy("istio/cluster1/mesh.yaml")).await.expect("it injects");
    let objects = documents(&injected);
    for name in ["greeter", "client"] {
        let deployment = find(&objects, "Deployment", name);
        has_spires_socket(deployment, "/initContainers");
        // What deploy/istio's ClusterSPIFFEID selects.
        assert_eq!(at(deployment, "/spec/template/metadata/labels/service.istio.io~1canonical-name"), name);
    }
    let gateway = folder.path().join("gateway.yaml");
    let files = values("eastwestgateway", "cluster1");
    let text = charts.template("istio-eastwestgateway", "gateway", &files).await.expect("it renders");
    write(&gateway, text).expect("a write");
    let injected = documents(&istioctl.inject(folder.path(), &gateway).await.expect("it injects"));
    let deployment = find(&injected, "Deployment", "istio-eastwestgateway");
    has_spires_socket(deployment, "/containers");
    let label = at(deployment, "/spec/template/metadata/labels/service.istio.io~1canonical-name");
    assert_eq!(label, "istio-eastwestgateway");
}

#[tokio::test]
async fn istios_own_validation_takes_our_resources_and_refuses_broken_ones() {
    let Some(istioctl) = istioctl().await else { return };
    for cluster in ["cluster1", "cluster2"] {
        istioctl.validate(&deploy(&format!("istio/{cluster}/mesh.yaml"))).await.expect("it is valid");
    }
    let folder = tempfile::Builder::new().prefix("lab-").tempdir().expect("a folder");
    let path = folder.path().join("mesh.yaml");
    let text = read(&deploy("istio/cluster1/mesh.yaml"));
    for (from, to, said) in [
        ("mode: ISTIO_MUTUAL", "mode: ISTIO_MUTUL", "ISTIO_MUTUL"),
        // A rule in CEL, which our own checks do not run.
        ("address: 10.10.0.142", "address: greeter.example.org", "greeter.example.org"),
    ] {
        write(&path, text.replace(from, to)).expect("a write");
        let error = istioctl.validate(&path).await.expect_err("it is refused");
        assert!(format!("{error:#}").contains(said), "{error:#}");
    }
}
