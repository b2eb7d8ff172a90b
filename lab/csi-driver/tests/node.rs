//! The driver as the kubelet sees it, over its socket.

use std::path::Path;
use std::time::Duration;

use entente_lab_csi::csi::identity_client::IdentityClient;
use entente_lab_csi::csi::node_client::NodeClient;
use entente_lab_csi::csi::volume_capability::{AccessType, BlockVolume, MountVolume};
use entente_lab_csi::csi::{
    GetPluginInfoRequest, NodeGetInfoRequest, NodePublishVolumeRequest, NodeUnpublishVolumeRequest,
    VolumeCapability,
};
use entente_lab_csi::driver::{self, Driver};
use entente_lab_csi::flags::Flags;
use entente_lab_csi::registrar::{self, Registrar};
use entente_lab_csi::registration::registration_client::RegistrationClient;
use entente_lab_csi::registration::{InfoRequest, RegistrationStatus};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

struct Node {
    folder: tempfile::TempDir,
    channel: Channel,
}

impl Node {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let sockets = folder.path().join("sockets");
        std::fs::create_dir(&sockets).expect("a folder");
        std::fs::write(sockets.join("socket"), "").expect("a file");
        let csi = folder.path().join("csi.sock");
        let arguments = [
            format!("-workload-api-socket-dir={}", sockets.display()),
            format!("-csi-socket-path={}", csi.display()),
        ];
        let flags = Flags::read(arguments.into_iter(), driver::FLAGS).expect("flags");
        let driver = Driver::from_flags(&flags, Some("cluster1-node".to_owned())).expect("a driver");
        tokio::spawn(driver.serve(std::future::pending()));
        Self { channel: dial(&csi).await, folder }
    }
    fn good(&self) -> NodePublishVolumeRequest {
        let mount = MountVolume { fs_type: String::new(), mount_flags: Vec::new() };
        NodePublishVolumeRequest {
            volume_id: "csi-1".to_owned(),
            target_path: self.target().display().to_string(),
            volume_capability: Some(VolumeCapability { access_type: Some(AccessType::Mount(mount)) }),
            readonly: true,
            volume_context: [("csi.storage.k8s.io/ephemeral".to_owned(), "true".to_owned())].into(),
        }
    }
    fn target(&self) -> std::path::PathBuf {
        self.folder.path().join("mount")
    }
    async fn refuses(&self, request: NodePublishVolumeRequest, because: &str) {
        let refused = NodeClient::new(self.channel.clone()).node_publish_volume(request).await;
        let status = refused.expect_err("it is refused");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(because), "{status}");
        assert!(!self.target().exists(), "a refused volume leaves no folder");
    }
}

async fn dial(socket: &Path) -> Channel {
    for _ in 0..500 {
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).expect("an address");
        if let Ok(channel) = endpoint.connect().await {
            return channel;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nothing listens on {}", socket.display());
}

#[tokio::test]
async fn a_writable_volume_is_refused() {
    let node = Node::start().await;
    node.refuses(NodePublishVolumeRequest { readonly: false, ..node.good() }, "readOnly: true").await;
}

#[tokio::test]
async fn a_volume_that_outlives_its_pod_is_refused() {
    let node = Node::start().await;
    node.refuses(NodePublishVolumeRequest { volume_context: [].into(), ..node.good() }, "ephemeral").await;
}

#[tokio::test]
async fn other_kinds_of_volumes_are_refused() {
    let node = Node::start().await;
    let with = |access_type| NodePublishVolumeRequest {
        volume_capability: Some(VolumeCapability { access_type }),
        ..node.good()
    };
    node.refuses(with(Some(AccessType::Block(BlockVolume {}))), "block device").await;
    let ext4 = MountVolume { fs_type: "ext4".to_owned(), mount_flags: Vec::new() };
    node.refuses(with(Some(AccessType::Mount(ext4))), "ext4").await;
    node.refuses(with(None), "neither mount nor block").await;
    node.refuses(NodePublishVolumeRequest { target_path: String::new(), ..node.good() }, "target_path").await;
    node.refuses(NodePublishVolumeRequest { volume_id: String::new(), ..node.good() }, "volume_id").await;
}

#[tokio::test]
async fn a_volume_that_was_never_published_can_be_taken_back() {
    let node = Node::start().await;
    let request = NodeUnpublishVolumeRequest {
        volume_id: "csi-1".to_owned(),
        target_path: node.target().display().to_string(),
    };
    NodeClient::new(node.channel.clone()).node_unpublish_volume(request).await.expect("nothing to do");
}

/// Mounting takes root; without it this test has nothing to show.
#[tokio::test]
async fn a_volume_shows_the_folder_read_only_and_goes_again() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("left out: mounting takes root");
        return;
    }
    let node = Node::start().await;
    let mut client = NodeClient::new(node.channel.clone());
    for _ in 0..2 {
        client.node_publish_volume(node.good()).await.expect("published, also twice");
    }
    assert!(node.target().join("socket").exists());
    let written = std::fs::write(node.target().join("more"), "").expect_err("it is read-only");
    assert_eq!(written.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    let back = NodeUnpublishVolumeRequest {
        volume_id: "csi-1".to_owned(),
        target_path: node.target().display().to_string(),
    };
    for _ in 0..2 {
        client.node_unpublish_volume(back.clone()).await.expect("taken back, also twice");
        assert!(!node.target().exists());
    }
    assert!(node.folder.path().join("sockets/socket").exists(), "what was shown stays");
}

#[tokio::test]
async fn the_registrar_tells_the_kubelet_what_the_driver_says() {
    let node = Node::start().await;
    let info = IdentityClient::new(node.channel.clone()).get_plugin_info(GetPluginInfoRequest {}).await;
    assert_eq!(info.expect("an answer").into_inner().name, "csi.spiffe.io");
    let about = NodeClient::new(node.channel.clone()).node_get_info(NodeGetInfoRequest {}).await;
    assert_eq!(about.expect("an answer").into_inner().node_id, "cluster1-node");

    let folder = node.folder.path();
    let arguments = [
        format!("-csi-address={}", folder.join("csi.sock").display()),
        "-kubelet-registration-path=/var/lib/kubelet/plugins/csi.spiffe.io/csi.sock".to_owned(),
        format!("-plugin-registration-path={}", folder.display()),
    ];
    let flags = Flags::read(arguments.into_iter(), registrar::FLAGS).expect("flags");
    let registrar = Registrar::from_flags(&flags).expect("a registrar");
    let serving = tokio::spawn(registrar.serve(std::future::pending()));
    let socket = folder.join("csi.spiffe.io-reg.sock");
    let mut kubelet = RegistrationClient::new(dial(&socket).await);
    let info = kubelet.get_info(InfoRequest {}).await.expect("an answer").into_inner();
    assert_eq!((info.r#type.as_str(), info.name.as_str()), ("CSIPlugin", "csi.spiffe.io"));
    assert_eq!(info.endpoint, "/var/lib/kubelet/plugins/csi.spiffe.io/csi.sock");

    let refusal = RegistrationStatus { plugin_registered: false, error: "no such driver".to_owned() };
    // The answer may be lost as the program ends.
    let _ = kubelet.notify_registration_status(refusal).await;
    let ended = serving.await.expect("no panic").expect_err("a refusal ends it");
    assert!(ended.to_string().contains("no such driver"), "{ended}");
    assert!(!socket.exists(), "its socket goes along");
}
