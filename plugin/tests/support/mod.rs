//! A host that does to the plugin what SPIRE Server does, and fakes of everything that the plugin talks to.

#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

pub mod endpoint;
pub mod lent;
pub mod logs;
pub mod mutual;
pub mod plugin;
pub mod spire;
mod waiting;

#[allow(unused_imports, reason = "each test program uses its own part")]
pub use waiting::{OWN, PATIENCE, eventually, own_bundle, until};
