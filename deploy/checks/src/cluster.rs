//! All that one cluster is given, in one form of federation.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::deploy::Deploy;
use crate::object::{self, Object, at, list, text};

/// The folders below deploy/.
pub(crate) const NAMES: [&str; 2] = ["cluster1", "cluster2"];

/// All, because each is applied by somebody.
pub(crate) const FORMS: [Form; 3] = [Form::Managed, Form::Assisted, Form::Stock];

/// Who has the relationship with the other domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The plugin's settings.
    Managed,
    /// SPIRE, by a ClusterFederatedTrustDomain.
    Assisted,
    /// SPIRE alone, without Entente: the way back.
    Stock,
}

/// What kubectl has applied when the walkthrough is at its end.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) name: String,
    pub(crate) form: Form,
    /// From the ConfigMap `cluster`.
    pub(crate) trust_domain: String,
    pub(crate) cluster_name: String,
    pub(crate) objects: Vec<Object>,
}

impl Cluster {
    /// Reads the rendered files. One that is missing or no YAML is a mistake; the rest is still looked at.
    pub(crate) fn load(deploy: &Deploy, name: &str, form: Form, mistakes: &mut Vec<String>) -> Self {
        let mut files = vec![
            "spire/cluster-spiffeid-federated.yaml",
            "client/helloworld-client.yaml",
            "metalLB/my-network.yaml",
        ];
        match form {
            Form::Managed => files.push("spire/spire-all.yaml"),
            Form::Assisted => {
                files.extend(["spire/spire-all-assisted.yaml", "spire/cluster-federated-trust-domain.yaml"]);
            }
            Form::Stock => {
                files.extend(["spire/spire-all-stock.yaml", "spire/cluster-federated-trust-domain.yaml"]);
            }
        }
        if name == "cluster1" {
            files.push("server/helloworld-server.yaml");
        }
        let mut objects = Vec::new();
        for file in files {
            let file = format!("{name}/{file}");
            match deploy.objects(&file) {
                Ok([]) => mistakes.push(format!("{file} is missing or empty")),
                Ok(found) => objects.extend_from_slice(found),
                Err(error) => mistakes.push(error.into()),
            }
        }
        let mut cluster = Self {
            name: name.into(),
            form,
            trust_domain: String::new(),
            cluster_name: String::new(),
            objects,
        };
        cluster.trust_domain = cluster.setting("cluster", "TRUST_DOMAIN").into();
        cluster.cluster_name = cluster.setting("cluster", "CLUSTER_NAME").into();
        for (key, value) in [("TRUST_DOMAIN", &cluster.trust_domain), ("CLUSTER_NAME", &cluster.cluster_name)]
        {
            if value.is_empty() {
                mistakes.push(format!("{name}: ConfigMap cluster has no {key}"));
            }
        }
        cluster
    }

    pub(crate) fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Object> {
        self.objects.iter().filter(move |object| object.kind() == kind)
    }

    pub(crate) fn find(&self, kind: &str, namespace: &str, name: &str) -> Option<&Object> {
        self.of_kind(kind).find(|object| object.namespace() == namespace && object.name() == name)
    }

    /// What has a pod template, with it.
    pub(crate) fn pods(&self) -> impl Iterator<Item = (&Object, &Value)> {
        self.objects.iter().filter_map(|object| Some((object, object.pod()?)))
    }

    /// The pod template of a Deployment or DaemonSet of the namespace spire.
    pub(crate) fn pod(&self, name: &str) -> &Value {
        let found = self.pods().find(|(object, _)| object.namespace() == "spire" && object.name() == name);
        found.map_or(&Value::Null, |(_, pod)| pod)
    }

    pub(crate) fn container(&self, pod: &str, name: &str) -> &Value {
        let found = object::containers(self.pod(pod)).find(|one| text(one, "/name") == name);
        found.unwrap_or(&Value::Null)
    }

    /// A value in a ConfigMap of the namespace spire, by the name that it had before kustomize put a hash behind it.
    pub(crate) fn setting(&self, config: &str, key: &str) -> &str {
        let is_it = |object: &&Object| {
            let hash = object.name().strip_prefix(config).and_then(|rest| rest.strip_prefix('-'));
            object.name() == config || hash.is_some_and(|hash| hash.len() == 10 && !hash.contains('-'))
        };
        let found = self.of_kind("ConfigMap").filter(|object| object.namespace() == "spire").find(is_it);
        found.map_or("", |object| text(&object.value, &format!("/data/{key}")))
    }

    /// What a container finds in its environment, as far as it is written down.
    pub(crate) fn environment(&self, container: &Value) -> BTreeMap<String, String> {
        let mut environment = BTreeMap::new();
        for from in list(container, "/envFrom") {
            if let Some(config) = self.find("ConfigMap", "spire", text(from, "/configMapRef/name")) {
                for (key, value) in at(&config.value, "/data").as_object().into_iter().flatten() {
                    environment.insert(key.clone(), value.as_str().unwrap_or_default().to_owned());
                }
            }
        }
        for variable in list(container, "/env") {
            environment.insert(text(variable, "/name").into(), text(variable, "/value").into());
        }
        environment
    }

    /// The address that MetalLB is asked to give a Service.
    pub(crate) fn pinned(service: &Object) -> &str {
        text(&service.value, "/metadata/annotations/metallb.io~1loadBalancerIPs")
    }
}
