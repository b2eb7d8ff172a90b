//! The two binaries against each other, each with a Workload API of its own trust domain, driven by the tests.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]
#![expect(clippy::indexing_slicing, reason = "a helper that fails fails its test")]

mod greets;
mod refuses;
mod rig;
mod rotates;
