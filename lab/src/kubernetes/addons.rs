//! What every cluster has before anybody installs anything: DNS, and a volume that a claim can have.

use std::time::Duration;

use anyhow::Context;

use super::diagnosis;
use super::node::Cluster;
use crate::checks::{ensure, eventually};

const COREDNS: &str = include_str!("../../kubernetes/coredns.yaml");
const PATIENCE: Duration = Duration::from_secs(180);

/// Below the kubelet's folder, so that it is the node's own.
const VOLUME: &str = "lab-volumes/spire-server";

/// Installs both; DNS need not answer yet.
pub(super) async fn install(cluster: &Cluster) -> anyhow::Result<()> {
    let dns = COREDNS.replace("@DNS@", &cluster.place.dns.to_string());
    apply(cluster, &dns).await.context("cannot install CoreDNS")?;
    let path = cluster.folder.var("lib/kubelet").join(VOLUME);
    std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    apply(cluster, &volume()).await.context("cannot make the volume")
}

/// Waits for DNS.
pub(super) async fn ready(cluster: &Cluster) -> anyhow::Result<()> {
    rolled_out(cluster, "kube-system", "deployment/coredns").await
}

/// Applies a manifest strictly: the API server refuses what it does not know.
pub(super) async fn apply(cluster: &Cluster, manifest: &str) -> anyhow::Result<()> {
    let apply = cluster.kubectl(["apply", "--validate=strict", "-f", "-"]).input(manifest);
    apply.output().await.map(drop)
}

/// Waits until a deployment or daemon set is as it should be.
pub(super) async fn rolled_out(cluster: &Cluster, namespace: &str, what: &str) -> anyhow::Result<()> {
    let goal = format!("{what} of {} is there", cluster.place.cluster);
    let rolled_out = eventually(&goal, PATIENCE, async || {
        cluster.check_alive()?;
        let status = cluster.kubectl(["-n", namespace, "rollout", "status", "--timeout=2s", what]);
        let answer = status.answer().await?;
        ensure(answer.ok, || answer.complaint())
    });
    match rolled_out.await {
        Ok(()) => Ok(()),
        Err(error) => {
            let diagnosis = diagnosis::of(cluster, namespace).await;
            Err(if diagnosis.is_empty() { error } else { error.context(diagnosis) })
        }
    }
}

/// The lab has no provisioner: one volume for whoever asks, kept by nobody. Its class is the default one's name, none.
fn volume() -> String {
    format!(
        r#"apiVersion: v1
kind: PersistentVolume
metadata: {{name: spire-server}}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  local: {{path: /var/lib/kubelet/{VOLUME}}}
  nodeAffinity:
    required:
      nodeSelectorTerms:
        - matchExpressions: [{{key: kubernetes.io/os, operator: In, values: [linux]}}]
"#
    )
}
