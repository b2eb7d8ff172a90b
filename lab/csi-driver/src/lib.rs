//! Three programs in one for the lab's clusters, where the upstream ones cannot be had: SPIFFE's CSI driver, the node driver
//! registrar beside it, and what holds a pod's namespaces. They take the upstream programs' flags, so that manifests that name
//! the upstream images run as they stand.

pub mod driver;
pub mod flags;
pub mod pause;
pub mod registrar;
mod socket;

pub use generated::{csi, registration};

#[allow(
    missing_docs,
    unused_qualifications,
    unreachable_pub,
    clippy::allow_attributes_without_reason,
    clippy::use_self,
    reason = "generated code; its documentation is the text of the .proto files"
)]
mod generated {
    pub mod csi {
        tonic::include_proto!("csi.v1");
    }

    pub mod registration {
        tonic::include_proto!("pluginregistration");
    }
}
