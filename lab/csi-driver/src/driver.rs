//! SPIFFE's CSI driver in small: each ephemeral volume is a read-only view of the folder with the Workload API's socket.

mod mount;

use std::path::PathBuf;

use anyhow::{Context, bail};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use self::mount::MountError;
use crate::csi::identity_server::{Identity, IdentityServer};
use crate::csi::node_server::{Node, NodeServer};
use crate::csi::volume_capability::AccessType;
use crate::csi::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest, GetPluginInfoResponse,
    NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse, NodeGetInfoRequest, NodeGetInfoResponse,
    NodePublishVolumeRequest, NodePublishVolumeResponse, NodeUnpublishVolumeRequest,
    NodeUnpublishVolumeResponse, ProbeRequest, ProbeResponse,
};
use crate::flags::Flags;
use crate::socket;

/// The upstream program's flags that are understood.
pub const FLAGS: &[&str] = &["workload-api-socket-dir", "csi-socket-path", "plugin-name", "node-id"];

const PLUGIN_NAME: &str = "csi.spiffe.io";
const DEFAULT_SOCKET: &str = "/spiffe-csi/csi.sock";
/// Set by the kubelet on volumes that live and die with their pod.
const EPHEMERAL: &str = "csi.storage.k8s.io/ephemeral";

/// The driver of one node.
#[derive(Clone, Debug)]
pub struct Driver {
    plugin_name: String,
    node_id: String,
    workload_api: PathBuf,
    csi_socket: PathBuf,
}

impl Driver {
    /// From the upstream program's flags; the node's name stands in the environment.
    ///
    /// # Errors
    ///
    /// When something is missing.
    pub fn from_flags(flags: &Flags, node_name: Option<String>) -> anyhow::Result<Self> {
        let node_id = flags.get("node-id").map(str::to_owned).or(node_name).unwrap_or_default();
        if node_id.is_empty() {
            bail!("the node's name is missing: set MY_NODE_NAME or -node-id");
        }
        Ok(Self {
            plugin_name: flags.get("plugin-name").unwrap_or(PLUGIN_NAME).to_owned(),
            node_id,
            workload_api: flags.required("workload-api-socket-dir")?.into(),
            csi_socket: flags.get("csi-socket-path").unwrap_or(DEFAULT_SOCKET).into(),
        })
    }

    /// Serves the kubelet until `stop`. Volumes stay.
    ///
    /// # Errors
    ///
    /// When the socket cannot be had.
    pub async fn serve(self, stop: impl Future<Output = ()> + Send) -> anyhow::Result<()> {
        let listener = socket::bind(&self.csi_socket)?;
        println!("serving {} on {}", self.plugin_name, self.csi_socket.display());
        tonic::transport::Server::builder()
            .add_service(IdentityServer::new(self.clone()))
            .add_service(NodeServer::new(self))
            .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop)
            .await
            .context("CSI socket")
    }
}

#[tonic::async_trait]
impl Identity for Driver {
    async fn get_plugin_info(
        &self,
        _: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse {
            name: self.plugin_name.clone(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }
    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        Ok(Response::new(GetPluginCapabilitiesResponse {}))
    }
    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        Ok(Response::new(ProbeResponse {}))
    }
}

#[tonic::async_trait]
impl Node for Driver {
    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let request = request.into_inner();
        check(&request)?;
        mount::publish(&self.workload_api, request.target_path.as_ref())?;
        println!("published {} at {}", request.volume_id, request.target_path);
        Ok(Response::new(NodePublishVolumeResponse {}))
    }
    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let request = request.into_inner();
        named(&request.volume_id, "volume_id")?;
        named(&request.target_path, "target_path")?;
        mount::unpublish(request.target_path.as_ref())?;
        println!("unpublished {} at {}", request.volume_id, request.target_path);
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }
    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        Ok(Response::new(NodeGetCapabilitiesResponse {}))
    }
    async fn node_get_info(
        &self,
        _: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        Ok(Response::new(NodeGetInfoResponse { node_id: self.node_id.clone(), max_volumes_per_node: 0 }))
    }
}

/// Only what this driver is for: a read-only folder in a volume that lives with its pod.
fn check(request: &NodePublishVolumeRequest) -> Result<(), Status> {
    named(&request.volume_id, "volume_id")?;
    named(&request.target_path, "target_path")?;
    let capability = request.volume_capability.as_ref();
    match capability.and_then(|capability| capability.access_type.as_ref()) {
        Some(AccessType::Mount(mount)) if mount.fs_type.is_empty() => {}
        Some(AccessType::Mount(mount)) => {
            return Err(refused(format!(
                "a volume of this driver has no file system type, not even {:?}",
                mount.fs_type
            )));
        }
        Some(AccessType::Block(_)) => {
            return Err(refused("a volume of this driver is no block device".to_owned()));
        }
        None => return Err(refused("volume_capability says neither mount nor block".to_owned())),
    }
    if !request.readonly {
        return Err(refused(
            "volumes of this driver are read-only: set readOnly: true in the pod".to_owned(),
        ));
    }
    if request.volume_context.get(EPHEMERAL).is_none_or(|value| value != "true") {
        return Err(refused("only ephemeral volumes, those that stand in a pod, can be had".to_owned()));
    }
    Ok(())
}

fn named(value: &str, what: &str) -> Result<(), Status> {
    if value.is_empty() { Err(refused(format!("{what} is missing"))) } else { Ok(()) }
}

fn refused(reason: String) -> Status {
    Status::invalid_argument(reason)
}

impl From<MountError> for Status {
    fn from(error: MountError) -> Self {
        Self::internal(error.to_string())
    }
}
