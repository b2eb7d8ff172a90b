//! Unix sockets to serve on: one that an earlier run left behind is replaced.

use std::io;
use std::path::Path;

use anyhow::Context;
use tokio::net::UnixListener;

/// Listens on `path`.
pub(crate) fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot replace {}", path.display()));
        }
        _ => {}
    }
    UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))
}
