//! The gRPC contracts that Entente speaks, generated at build time from the `.proto` files of this folder.
//!
//! | module | contract |
//! |---|---|
//! | [`plugin`] | go-plugin: broker, controller, stdio |
//! | [`spire`] | SPIRE: plugin types, host services, the parts of the Server API that we use |
//! | [`workload`] | the SPIFFE Workload API |
//! | [`link`] | ours: plugin and bundle endpoint |
//! | [`helloworld`] | ours: the workloads |
//!
//! [`convert`] is the one place where bundle messages become an [`entente_bundle::Bundle`], and the other way round.

pub mod convert;
mod packages;
mod secret;

pub use packages::{helloworld, link, plugin, spire, workload};
