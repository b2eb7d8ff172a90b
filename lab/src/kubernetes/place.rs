//! The two clusters on paper: names and addresses, those of the walkthrough.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// Address of the LAN's own end, where the lab asks from.
pub(super) const LAN_ADDRESS: &str = "10.10.0.1";

/// One cluster of a single node.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// `cluster1`
    pub(super) cluster: &'static str,
    /// `cluster1.org`
    pub(super) trust_domain: &'static str,
    /// Host name of its node, and the node's name in Kubernetes.
    pub(super) node: &'static str,
    /// The node's address in the LAN.
    pub(super) address: Ipv4Addr,
    /// The API server's port there.
    pub(super) api_port: u16,
    /// Ports of etcd on loopback, for clients and for peers.
    pub(super) etcd_ports: [u16; 2],
    /// Addresses of pods.
    pub(super) pods: &'static str,
    /// Addresses of services.
    pub(super) services: &'static str,
    /// The API server's service.
    pub(super) api_service: Ipv4Addr,
    /// DNS.
    pub(super) dns: Ipv4Addr,
    /// Where MetalLB puts the bundle endpoint.
    pub(super) bundle_endpoint: &'static str,
    /// Where it puts the mesh's east-west gateway.
    pub(super) mesh_gateway: &'static str,
}

/// Both.
pub(super) static CLUSTERS: [Place; 2] = [
    Place {
        cluster: "cluster1",
        trust_domain: "cluster1.org",
        node: "cluster1-node",
        address: Ipv4Addr::new(10, 10, 0, 11),
        api_port: 6443,
        etcd_ports: [2379, 2380],
        pods: "10.21.0.0/24",
        services: "10.96.0.0/24",
        api_service: Ipv4Addr::new(10, 96, 0, 1),
        dns: Ipv4Addr::new(10, 96, 0, 10),
        bundle_endpoint: "10.10.0.131",
        mesh_gateway: "10.10.0.133",
    },
    Place {
        cluster: "cluster2",
        trust_domain: "cluster2.org",
        node: "cluster2-node",
        address: Ipv4Addr::new(10, 10, 0, 12),
        api_port: 6443,
        etcd_ports: [2379, 2380],
        pods: "10.22.0.0/24",
        services: "10.97.0.0/24",
        api_service: Ipv4Addr::new(10, 97, 0, 1),
        dns: Ipv4Addr::new(10, 97, 0, 10),
        bundle_endpoint: "10.10.0.141",
        mesh_gateway: "10.10.0.142",
    },
];

/// The folder of one cluster in a run's folder.
#[derive(Clone, Debug)]
pub(super) struct ClusterFolder(PathBuf);

impl ClusterFolder {
    /// Of this cluster in this run.
    pub(super) fn of(run: &Path, place: &Place) -> Self {
        Self(run.join(place.cluster))
    }
    /// Itself.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
    /// Certificates, keys and kubeconfigs.
    pub(super) fn pki(&self, name: &str) -> PathBuf {
        self.0.join("pki").join(name)
    }
    /// What a program of the node says.
    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.0.join("log").join(format!("{name}.log"))
    }
    /// What the node sees below `/var`.
    pub(super) fn var(&self, name: &str) -> PathBuf {
        self.0.join("var").join(name)
    }
    /// The operator's.
    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.pki("admin.kubeconfig")
    }
}
