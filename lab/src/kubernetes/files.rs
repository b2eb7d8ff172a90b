//! Configuration of a node's programs, and their command lines.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::images::PAUSE;
use super::parts::Parts;
use super::place::{ClusterFolder, Place};
use crate::layout::write;

/// Number that statfs gives for overlayfs, on which no other overlayfs can lie.
const OVERLAYFS: i64 = 0x794c_7630;

/// One program of a node.
#[derive(Debug)]
struct Program {
    name: &'static str,
    path: PathBuf,
    args: Vec<String>,
}

/// Writes every file that the node's PID 1 and its programs read.
pub(super) fn write_all(place: &Place, folder: &ClusterFolder, parts: &Parts) -> anyhow::Result<()> {
    for name in [
        "log",
        "cni",
        "var/lib/kubelet",
        "var/lib/containerd",
        "var/lib/cni",
        "var/lib/etcd",
        "var/log/pods",
        "var/log/containers",
    ] {
        let path = folder.path().join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    let file = |name: &str| folder.path().join(name);
    write(&file("hosts"), format!("127.0.0.1 localhost\n{} {}\n", place.address, place.node))?;
    write(&file("resolv.conf"), "")?;
    write(&file("containerd.toml"), containerd(folder)?)?;
    write(&file("cni/10-bridge.conflist"), bridge(place))?;
    write(&file("kubelet.yaml"), kubelet(place, folder))?;
    write(&file("proxy.yaml"), proxy(place, folder))?;
    let programs = programs(place, folder, parts);
    let lines = programs
        .iter()
        .map(|program| format!("{} {} {}\n", program.name, program.path.display(), program.args.join(" ")));
    write(&file("programs"), lines.collect::<String>())
}

fn containerd(folder: &ClusterFolder) -> anyhow::Result<String> {
    let snapshotter = snapshotter(folder.path())?;
    Ok(format!(
        r#"version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  # A root without CAP_SYS_RESOURCE may not lower a process's score.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{}"
"#,
        folder.path().join("cni").display()
    ))
}

/// How containerd puts layers together in this folder.
pub(super) fn snapshotter(folder: &Path) -> anyhow::Result<&'static str> {
    let system = rustix::fs::statfs(folder).context("cannot tell the file system of the lab's folder")?;
    Ok(if system.f_type == OVERLAYFS { "native" } else { "overlayfs" })
}

fn bridge(place: &Place) -> String {
    serde_json::json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": place.pods}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
    .to_string()
}

fn kubelet(place: &Place, folder: &ClusterFolder) -> String {
    format!(
        r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
clusterDNS: ["{dns}"]
clusterDomain: cluster.local
resolvConf: {resolv}
failSwapOn: false
authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: {ca}}}}}
authorization: {{mode: Webhook}}
# Images cannot be pulled again.
imageGCHighThresholdPercent: 100
evictionHard: {{memory.available: 100Mi, nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%"}}
"#,
        dns = place.dns,
        resolv = folder.path().join("resolv.conf").display(),
        ca = folder.pki("ca.crt").display(),
    )
}

fn proxy(place: &Place, folder: &ClusterFolder) -> String {
    format!(
        r#"apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: {pods}
clientConnection: {{kubeconfig: {kubeconfig}}}
hostnameOverride: {node}
# The table's size cannot be set from a network namespace.
conntrack: {{maxPerCore: 0, min: 0}}
"#,
        pods = place.pods,
        node = place.node,
        kubeconfig = folder.pki("proxy.kubeconfig").display(),
    )
}

fn programs(place: &Place, folder: &ClusterFolder, parts: &Parts) -> Vec<Program> {
    let pki = |name: &str| folder.pki(name).display().to_string();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let of_kubernetes = |name: &'static str, args| Program { name, path: parts.kubernetes.join(name), args };
    let controllers = kubeconfig_args(&pki("controller-manager.kubeconfig"));
    let scheduler = kubeconfig_args(&pki("scheduler.kubeconfig"));
    vec![
        Program { name: "etcd", path: parts.etcd.clone(), args: etcd(place, folder) },
        of_kubernetes("kube-apiserver", apiserver(place, &pki)),
        Program {
            name: "containerd",
            path: "/usr/bin/containerd".into(),
            args: vec!["-c".to_owned(), file("containerd.toml")],
        },
        of_kubernetes("kube-controller-manager", [controllers, controller_manager(place, &pki)].concat()),
        of_kubernetes("kube-scheduler", [scheduler, vec!["--leader-elect=false".to_owned()]].concat()),
        of_kubernetes(
            "kubelet",
            vec![
                format!("--config={}", file("kubelet.yaml")),
                format!("--kubeconfig={}", pki("kubelet.kubeconfig")),
                format!("--hostname-override={}", place.node),
                format!("--node-ip={}", place.address),
                "--v=2".to_owned(),
            ],
        ),
        of_kubernetes("kube-proxy", vec![format!("--config={}", file("proxy.yaml")), "--v=2".to_owned()]),
    ]
}

/// etcd's command line.
pub(super) fn etcd(place: &Place, folder: &ClusterFolder) -> Vec<String> {
    let [client, peer] = place.etcd_ports.map(|port| format!("http://127.0.0.1:{port}"));
    vec![
        format!("--name={}", place.cluster),
        format!("--data-dir={}", folder.var("lib/etcd").display()),
        // Nothing here outlives the machine.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster={}={peer}", place.cluster),
    ]
}

/// The API server's command line.
pub(super) fn apiserver(place: &Place, pki: &impl Fn(&str) -> String) -> Vec<String> {
    vec![
        format!("--etcd-servers=http://127.0.0.1:{}", place.etcd_ports[0]),
        format!("--advertise-address={}", place.address),
        format!("--secure-port={}", place.api_port),
        "--allow-privileged=true".to_owned(),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        format!("--service-cluster-ip-range={}", place.services),
        format!("--client-ca-file={}", pki("ca.crt")),
        format!("--tls-cert-file={}", pki("apiserver.crt")),
        format!("--tls-private-key-file={}", pki("apiserver.key")),
        format!("--kubelet-client-certificate={}", pki("apiserver-kubelet.crt")),
        format!("--kubelet-client-key={}", pki("apiserver-kubelet.key")),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        format!("--requestheader-client-ca-file={}", pki("ca.crt")),
        "--requestheader-allowed-names=front-proxy-client".to_owned(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
        "--requestheader-group-headers=X-Remote-Group".to_owned(),
        "--requestheader-username-headers=X-Remote-User".to_owned(),
        format!("--proxy-client-cert-file={}", pki("front-proxy.crt")),
        format!("--proxy-client-key-file={}", pki("front-proxy.key")),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        format!("--service-account-key-file={}", pki("sa.pub")),
        format!("--service-account-signing-key-file={}", pki("sa.key")),
    ]
}

fn controller_manager(place: &Place, pki: &impl Fn(&str) -> String) -> Vec<String> {
    vec![
        "--leader-elect=false".to_owned(),
        "--use-service-account-credentials=true".to_owned(),
        format!("--service-account-private-key-file={}", pki("sa.key")),
        format!("--root-ca-file={}", pki("ca.crt")),
        format!("--cluster-signing-cert-file={}", pki("ca.crt")),
        format!("--cluster-signing-key-file={}", pki("ca.key")),
        format!("--cluster-cidr={}", place.pods),
        format!("--service-cluster-ip-range={}", place.services),
    ]
}

fn kubeconfig_args(path: &str) -> Vec<String> {
    let flags = ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"];
    flags.iter().map(|flag| format!("--{flag}={path}")).collect()
}

/// The script that is a node's PID 1.
pub(super) fn write_node_script(run: &Path) -> anyhow::Result<PathBuf> {
    let path = run.join("node.sh");
    write(&path, include_str!("../../kubernetes/node.sh"))?;
    Ok(path)
}
