//! What must hold of deploy/ before anybody applies it. Each check names every mistake it finds; nothing here needs a cluster.
//!
//! | module | question |
//! |---|---|
//! | `upstream` | are other projects' files what they were published as? |
//! | `rendered` | is what is checked in what kustomize makes of the bases? |
//! | `yaml`, `schema` | does each object say only what its kind knows? |
//! | `references`, `security`, `rbac` | do objects find each other, and may they do what they need and no more? |
//! | `identities` | who gets which SPIFFE ID? |
//! | `settings`, `federation` | do the programs understand their settings, and do the two clusters agree? |
//! | `helm` | would the Helm chart be told the same? |
//! | `istio` | do the two meshes trust and reach each other, and nobody else? |

mod cluster;
mod deploy;
mod federation;
mod helm;
mod identities;
mod istio;
mod object;
mod rbac;
mod references;
pub mod rendered;
mod schema;
mod security;
mod settings;
mod structural;
pub mod upstream;
mod yaml;

use std::path::{Path, PathBuf};

pub use deploy::Deploy;

/// The folder deploy/ of this checkout.
#[must_use]
pub fn folder() -> PathBuf {
    // Cannot fail: the manifest of this crate is at deploy/checks.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}
