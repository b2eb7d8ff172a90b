//! What must hold of deploy/ before anybody applies it. Each check takes files or objects and names every mistake it finds;
//! nothing here needs a cluster.

pub mod upstream;

use std::path::{Path, PathBuf};

/// The folder deploy/ of this checkout.
#[must_use]
pub fn deploy() -> PathBuf {
    // Cannot fail: the manifest of this crate is at deploy/checks.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}
