//! deploy/istio: two meshes on the same two clusters. What istiod would take without a word and then do otherwise than meant.

mod identities;
mod policies;
mod reach;
mod values;
mod web;

use serde_json::{Value, json};

use crate::cluster::{Cluster, Form};
use crate::deploy::Deploy;
use crate::object::{Object, text};
use crate::{federation, references, security};

/// Where the mesh's own control plane and gateway are.
const SYSTEM: &str = "istio-system";
/// The sample's namespace, the only one with injection.
const NAMESPACE: &str = "mesh";
/// The release of the chart `gateway`; the chart labels its pods with it.
const GATEWAY: &str = "istio-eastwestgateway";
/// The port that Istio's gateways pass mutual TLS through.
const PORT: u64 = 15443;

/// One mesh: its cluster with everything of deploy/istio applied, and what its charts are told.
struct Mesh {
    cluster: Cluster,
    /// Of deploy/istio alone.
    own: Vec<Object>,
    istiod: Value,
    /// What istiod is told where it fetches itself.
    istiod_web: Value,
    gateway: Value,
}

/// Names each mistake, once for both forms: a mesh does not know how its SPIRE Servers federate.
pub(crate) fn check(deploy: &Deploy, clusters: &[Cluster], mistakes: &mut Vec<String>) {
    if clusters.iter().any(|cluster| cluster.form != Form::Managed) {
        return;
    }
    let meshes: Vec<Mesh> = clusters.iter().map(|cluster| Mesh::load(deploy, cluster, mistakes)).collect();
    let with_gateways: Vec<Cluster> = meshes.iter().map(Mesh::with_gateway).collect();
    for cluster in &with_gateways {
        federation::addresses(cluster, &with_gateways, mistakes);
    }
    for mesh in &meshes {
        references::check(&mesh.cluster, mistakes);
        security::check(&mesh.cluster, mistakes);
        let Some(peer) = meshes.iter().find(|other| other.cluster.name != mesh.cluster.name) else {
            continue;
        };
        let mut found = Vec::new();
        values::check(mesh, peer, &mut found);
        identities::check(mesh, peer, &mut found);
        policies::check(mesh, &meshes, &mut found);
        reach::check(mesh, peer, &mut found);
        web::check(deploy, mesh, peer, &mut found);
        let name = &mesh.cluster.name;
        mistakes.extend(found.into_iter().map(|mistake| format!("istio/{name}: {mistake}")));
    }
}

impl Mesh {
    fn load(deploy: &Deploy, cluster: &Cluster, mistakes: &mut Vec<String>) -> Self {
        let folder = format!("istio/{}", cluster.name);
        let mut own = Vec::new();
        for file in ["address-pool.yaml", "cluster-spiffeid-mesh.yaml", "mesh.yaml"] {
            own.extend_from_slice(read(deploy, &format!("{folder}/{file}"), mistakes));
        }
        let mut values = |chart: &str, last: Option<&str>| {
            let files = [format!("istio/values-{chart}.yaml"), format!("{folder}/values-{chart}.yaml")];
            let files = files.into_iter().chain(last.map(|last| format!("{folder}/{last}")));
            files.fold(Value::Null, |mut merged, file| {
                read(deploy, &file, mistakes).iter().for_each(|values| merge(&mut merged, &values.value));
                merged
            })
        };
        let istiod = values("istiod", None);
        let istiod_web = values("istiod", Some("values-istiod-web.yaml"));
        let gateway = values("eastwestgateway", None);
        let mut cluster = cluster.clone();
        cluster.objects.extend_from_slice(&own);
        Self { cluster, own, istiod, istiod_web, gateway }
    }

    /// The address that the gateway's Service asks for.
    fn address(&self) -> &str {
        text(&self.gateway, "/service/annotations/metallb.io~1loadBalancerIPs")
    }

    /// With the Service that the chart makes of its values, as far as addresses go.
    fn with_gateway(&self) -> Cluster {
        let mut cluster = self.cluster.clone();
        let value = json!({
            "kind": "Service",
            "metadata": {
                "name": GATEWAY,
                "namespace": SYSTEM,
                "annotations": {"metallb.io/loadBalancerIPs": self.address()},
            },
            "spec": {"type": "LoadBalancer"},
        });
        let file = format!("istio/{}/values-eastwestgateway.yaml", cluster.name);
        cluster.objects.push(Object { file, value });
        cluster
    }

    fn own_of_kind(&self, kind: &str) -> impl Iterator<Item = &Object> {
        self.own.iter().filter(move |object| object.kind() == kind)
    }

    /// What is injected: the pods of the sample.
    fn pods(&self) -> impl Iterator<Item = (&Object, &Value)> {
        self.own.iter().filter_map(|object| Some((object, object.pod()?)))
    }

    /// The ID of a service account of the sample.
    fn id(&self, account: &str) -> String {
        format!("spiffe://{}/ns/{NAMESPACE}/sa/{account}", self.cluster.trust_domain)
    }
}

fn read<'a>(deploy: &'a Deploy, file: &str, mistakes: &mut Vec<String>) -> &'a [Object] {
    match deploy.objects(file) {
        Ok([]) => mistakes.push(format!("{file} is missing or empty")),
        Ok(objects) => return objects,
        Err(error) => mistakes.push(error.into()),
    }
    &[]
}

/// As Helm puts files of values over each other: maps into maps, all else in place of what was there.
fn merge(below: &mut Value, above: &Value) {
    match (below, above) {
        (Value::Object(below), Value::Object(above)) => {
            for (key, value) in above {
                merge(below.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (below, above) => *below = above.clone(),
    }
}
