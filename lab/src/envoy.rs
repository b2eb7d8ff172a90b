//! Real Envoy, with certificates and bundles from SPIRE's agent, as a proxy of a service mesh has them.

mod application;
mod bootstrap;
pub mod install;
mod proxy;

pub use self::application::Application;
pub use self::proxy::{Envoy, Role};
