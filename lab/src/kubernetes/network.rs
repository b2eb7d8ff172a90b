//! The LAN 10.10.0.0/24, wholly inside network namespaces: of the machine's own network it touches nothing.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::command::Run;
use super::place::{CLUSTERS, LAN_ADDRESS, Place};

const NETNS: &str = "/run/netns";

/// The namespaces of one run.
#[derive(Clone, Debug)]
pub(super) struct Network {
    prefix: String,
}

impl Network {
    /// Named after the run; makes nothing.
    pub(super) fn of(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }
    /// The bridge's namespace: a laptop in the LAN.
    pub(super) fn lan(&self) -> PathBuf {
        Path::new(NETNS).join(self.lan_name())
    }
    /// A node's namespace.
    pub(super) fn node(&self, place: &Place) -> PathBuf {
        Path::new(NETNS).join(self.node_name(place))
    }
    fn lan_name(&self) -> String {
        format!("{}-lan", self.prefix)
    }
    fn node_name(&self, place: &Place) -> String {
        format!("{}-{}", self.prefix, place.cluster)
    }

    /// Makes bridge, namespaces and cables.
    pub(super) async fn make(&self) -> anyhow::Result<()> {
        load_bridge_filter().await?;
        let lan = self.lan_name();
        ip(&["netns", "add", &lan]).await?;
        ip(&["-n", &lan, "link", "set", "lo", "up"]).await?;
        ip(&["-n", &lan, "link", "add", "br0", "type", "bridge"]).await?;
        ip(&["-n", &lan, "addr", "add", &format!("{LAN_ADDRESS}/24"), "dev", "br0"]).await?;
        ip(&["-n", &lan, "link", "set", "br0", "up"]).await?;
        // Frames between the nodes are not for the LAN's own filters.
        let settings =
            "echo 0 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/bridge/bridge-nf-call-iptables";
        self.in_lan("sh").args(["-ec", settings]).output().await?;
        for place in &CLUSTERS {
            self.plug_in(&lan, place).await?;
        }
        Ok(())
    }
    async fn plug_in(&self, lan: &str, place: &Place) -> anyhow::Result<()> {
        let (node, cable) = (self.node_name(place), place.cluster);
        ip(&["netns", "add", &node]).await?;
        ip(&["-n", &node, "link", "set", "lo", "up"]).await?;
        ip(&["-n", lan, "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", &node])
            .await?;
        ip(&["-n", lan, "link", "set", cable, "master", "br0", "up"]).await?;
        ip(&["-n", &node, "addr", "add", &format!("{}/24", place.address), "dev", "eth0"]).await?;
        ip(&["-n", &node, "link", "set", "eth0", "up"]).await?;
        // Addresses of services need a route before they are translated; nobody forwards there.
        ip(&["-n", &node, "route", "add", "default", "via", LAN_ADDRESS]).await
    }
    /// Runs a program as somebody in the LAN. `ip netns exec` would hide the control groups.
    pub(super) fn in_lan(&self, program: impl AsRef<std::ffi::OsStr>) -> Run {
        Run::new("nsenter").args([format!("--net={}", self.lan().display())]).args([program])
    }
    /// Runs a program with a node's network.
    pub(super) fn in_node(&self, place: &Place, program: impl AsRef<std::ffi::OsStr>) -> Run {
        Run::new("nsenter").args([format!("--net={}", self.node(place).display())]).args([program])
    }
    /// Takes everything away. What is not there is as good.
    pub(super) async fn remove(&self) -> anyhow::Result<()> {
        let nodes = CLUSTERS.iter().map(|place| self.node_name(place));
        for name in nodes.chain([self.lan_name()]) {
            if Path::new(NETNS).join(&name).exists() {
                ip(&["netns", "del", &name]).await?;
            }
        }
        Ok(())
    }
}

async fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    Run::new("ip").args(arguments).output().await.map(drop)
}

/// Pods on one node reach each other through services only with it. It begins switched on everywhere: on the machine's own
/// bridges, which are none of the lab's business, it is switched off at once.
async fn load_bridge_filter() -> anyhow::Result<()> {
    let settings = Path::new("/proc/sys/net/bridge");
    if settings.exists() {
        return Ok(());
    }
    let loaded = Run::new("modprobe").args(["br_netfilter"]).output().await;
    loaded.context("the kernel's br_netfilter is not here and cannot be loaded")?;
    for name in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables", "bridge-nf-call-arptables"] {
        let file = settings.join(name);
        std::fs::write(&file, "0").with_context(|| format!("cannot set {}", file.display()))?;
    }
    Ok(())
}
