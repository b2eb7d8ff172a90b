//! Each object against its kind: the API's own kinds by the types that are generated from its description, custom resources by
//! their CRD. A field that the kind does not know is a mistake; the API server would drop it or refuse it.

use k8s_openapi::api::{
    admissionregistration::v1 as admissionregistration, apps::v1 as apps, core::v1 as core,
    networking::v1 as networking, policy::v1 as policy, rbac::v1 as rbac, storage::v1 as storage,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::deploy::Deploy;
use crate::object::{Object, text};
use crate::structural;

/// Where the CRDs stand: those that a cluster gets, and not only in the file of the object.
const CRDS: [&str; 10] = [
    "upstream/istio/authorizationpolicies.security.istio.io.yaml",
    "upstream/istio/destinationrules.networking.istio.io.yaml",
    "upstream/istio/gateways.networking.istio.io.yaml",
    "upstream/istio/peerauthentications.security.istio.io.yaml",
    "upstream/istio/serviceentries.networking.istio.io.yaml",
    "upstream/istio/virtualservices.networking.istio.io.yaml",
    "upstream/metallb/metallb-native.yaml",
    "upstream/spire-controller-manager/spire.spiffe.io_clusterfederatedtrustdomains.yaml",
    "upstream/spire-controller-manager/spire.spiffe.io_clusterspiffeids.yaml",
    "upstream/spire-controller-manager/spire.spiffe.io_clusterstaticentries.yaml",
];

/// Names everything that an object says beyond its kind.
pub(crate) fn check(deploy: &Deploy, objects: &[Object], mistakes: &mut Vec<String>) {
    for object in objects {
        let mut found = Vec::new();
        if !builtin(&object.value, &mut found) && !custom(deploy, &object.value, &mut found) {
            found.push(format!("nobody knows {} of {}", object.kind(), text(&object.value, "/apiVersion")));
        }
        mistakes.extend(found.into_iter().map(|mistake| format!("{}: {mistake}", object.title())));
    }
}

macro_rules! kinds {
    ($value:expr, $mistakes:expr, $($version:literal $kind:ident of $module:ident,)*) => {
        match (text($value, "/apiVersion"), text($value, "/kind")) {
            $(($version, stringify!($kind)) => strict::<$module::$kind>($value, $mistakes),)*
            _ => return false,
        }
    };
}

fn builtin(value: &Value, mistakes: &mut Vec<String>) -> bool {
    kinds!(value, mistakes,
        "admissionregistration.k8s.io/v1" ValidatingWebhookConfiguration of admissionregistration,
        "apiextensions.k8s.io/v1" CustomResourceDefinition of apiextensions,
        "apps/v1" DaemonSet of apps,
        "apps/v1" Deployment of apps,
        "networking.k8s.io/v1" NetworkPolicy of networking,
        "policy/v1" PodDisruptionBudget of policy,
        "rbac.authorization.k8s.io/v1" ClusterRole of rbac,
        "rbac.authorization.k8s.io/v1" ClusterRoleBinding of rbac,
        "rbac.authorization.k8s.io/v1" Role of rbac,
        "rbac.authorization.k8s.io/v1" RoleBinding of rbac,
        "storage.k8s.io/v1" CSIDriver of storage,
        "v1" ConfigMap of core,
        "v1" Namespace of core,
        "v1" PersistentVolumeClaim of core,
        "v1" Secret of core,
        "v1" Service of core,
        "v1" ServiceAccount of core,
    );
    true
}

fn strict<T: DeserializeOwned>(value: &Value, mistakes: &mut Vec<String>) {
    let mut unknown = Vec::new();
    let decoded: Result<T, _> = serde_ignored::deserialize(value, |path| {
        // serde_ignored writes a question mark for an optional part on the way.
        unknown.push(format!("unknown field .{}", path.to_string().replace(".?", "")));
    });
    mistakes.append(&mut unknown);
    if let Err(error) = decoded {
        mistakes.push(error.to_string());
    }
}

fn custom(deploy: &Deploy, value: &Value, mistakes: &mut Vec<String>) -> bool {
    let Some((group, version)) = text(value, "/apiVersion").split_once('/') else { return false };
    for file in CRDS {
        let objects = deploy.objects(file).unwrap_or_default();
        let is_ours = |crd: &&Object| {
            text(&crd.value, "/spec/group") == group
                && text(&crd.value, "/spec/names/kind") == text(value, "/kind")
        };
        if let Some(schema) =
            objects.iter().find(is_ours).and_then(|crd| structural::schema(&crd.value, version))
        {
            structural::check(schema, value, "", mistakes);
            return true;
        }
    }
    false
}
