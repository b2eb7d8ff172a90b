//! Why pods do not come up: what Kubernetes says of their containers, and the containers' own last words.

use serde::Deserialize;

use super::node::Cluster;

/// Containers that are told of; one reason is mostly all reasons.
const AT_MOST: usize = 3;

#[derive(Debug, Deserialize)]
struct Pods {
    items: Vec<Pod>,
}

#[derive(Debug, Deserialize)]
struct Pod {
    metadata: Metadata,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus {
    init_container_statuses: Vec<Container>,
    container_statuses: Vec<Container>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    name: String,
    #[serde(default)]
    restart_count: u32,
    #[serde(default)]
    state: ContainerState,
}

#[derive(Debug, Default, Deserialize)]
struct ContainerState {
    waiting: Option<Waiting>,
}

#[derive(Debug, Deserialize)]
struct Waiting {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

/// One line about a container that waits, with the pod that it is in.
#[derive(Debug, PartialEq, Eq)]
struct Stuck {
    pod: String,
    container: String,
    about: String,
    has_run: bool,
}

/// What is wrong with the pods of a namespace; empty when nothing can be found out.
pub(super) async fn of(cluster: &Cluster, namespace: &str) -> String {
    let listed = cluster.kubectl(["get", "pods", "-n", namespace, "-o", "json"]).output().await;
    let stuck = listed.ok().map(|text| stuck(&text)).unwrap_or_default();
    let mut parts = Vec::new();
    for one in stuck.into_iter().take(AT_MOST) {
        let mut text = format!("{}, container {}: {}", one.pod, one.container, one.about);
        if one.has_run {
            let logs = ["logs", "-n", namespace, &one.pod, "-c", &one.container, "--previous", "--tail=1"];
            if let Ok(words) = cluster.kubectl(logs).output().await {
                text.push_str(&format!("; its last words: {}", words.trim()));
            }
        }
        parts.push(text);
    }
    parts.join(" / ")
}

/// Those that have failed before those that wait for others.
fn stuck(json: &str) -> Vec<Stuck> {
    let Ok(pods) = serde_json::from_str::<Pods>(json) else { return Vec::new() };
    let mut found = Vec::new();
    for pod in pods.items {
        let containers = pod.status.init_container_statuses.into_iter().chain(pod.status.container_statuses);
        for container in containers {
            let Some(waiting) = container.state.waiting else { continue };
            let about = match waiting.message.is_empty() {
                true => waiting.reason,
                false => format!("{} ({})", waiting.reason, waiting.message),
            };
            let has_run = container.restart_count > 0;
            found.push(Stuck { pod: pod.metadata.name.clone(), container: container.name, about, has_run });
        }
    }
    found.sort_by_key(|one| !one.has_run);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_crash_come_before_those_that_wait_for_them() {
        let json = r#"{"items": [
            {"metadata": {"name": "a"}, "status": {"containerStatuses": [
                {"name": "waits", "state": {"waiting": {"reason": "ContainerCreating"}}},
                {"name": "runs", "state": {"running": {}}}
            ]}},
            {"metadata": {"name": "b"}, "status": {"containerStatuses": [
                {"name": "dies", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}}
            ]}},
            {"metadata": {"name": "c"}}
        ]}"#;
        let found = stuck(json).into_iter().map(|one| (one.pod, one.about)).collect::<Vec<_>>();
        let expected = [("b", "CrashLoopBackOff (back-off)"), ("a", "ContainerCreating")];
        assert_eq!(found, expected.map(|(pod, about)| (pod.to_owned(), about.to_owned())));
        assert!(stuck("no JSON").is_empty());
    }
}
