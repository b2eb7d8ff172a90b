//! The socket that the host dials.
//!
//! SPIRE kills plugins without a word after `validate`, which leaves their socket files behind. So each start sweeps away those
//! that are old and that nobody listens on.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Mode;
use tokio::net::UnixListener;

use crate::handshake::MAX_SOCKET_PATH;

/// Start of the file name.
const PREFIX: &str = "entente-";

/// Younger files are left alone: another plugin may be about to listen.
const SWEEP_AGE: Duration = Duration::from_secs(60);

/// A bound socket; the file goes when this does.
#[derive(Debug)]
pub(crate) struct PluginSocket {
    path: PathBuf,
}

impl PluginSocket {
    /// Binds in the folder that the environment names. Only our own user may connect: the socket has no other access control.
    pub(crate) fn bind() -> io::Result<(Self, UnixListener)> {
        rustix::process::umask(Mode::from_raw_mode(0o077));
        let folder = std::path::absolute(folder())?;
        sweep(&folder, SWEEP_AGE);
        let path = folder.join(format!("{PREFIX}{:08x}", rand::random::<u32>()));
        let text = path.to_string_lossy();
        if text.len() > MAX_SOCKET_PATH || text.contains(['|', '\n']) {
            let reason = format!(
                "socket path {text:?} is too long or holds | or a newline; set TMPDIR to a short path"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        let listener = UnixListener::bind(&path)?;
        Ok((Self { path }, listener))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for PluginSocket {
    fn drop(&mut self) {
        // Gone already is as good; a left-over file harms nobody.
        let _ = fs::remove_file(&self.path);
    }
}

fn folder() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    set("PLUGIN_UNIX_SOCKET_DIR")
        .or_else(|| set("TMPDIR"))
        .map_or_else(|| PathBuf::from("/tmp"), PathBuf::from)
}

/// Tidies up after plugins that were killed. What cannot be looked at or removed stays.
fn sweep(folder: &Path, age: Duration) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        if is_ours && entry.metadata().is_ok_and(|metadata| is_old_socket(&metadata, age)) {
            let path = entry.path();
            if UnixStream::connect(&path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
            {
                let _ = fs::remove_file(&path);
            }
        }
    }
}

fn is_old_socket(metadata: &Metadata, age: Duration) -> bool {
    let modified = metadata.modified().ok().and_then(|time| time.elapsed().ok());
    metadata.file_type().is_socket()
        && metadata.uid() == rustix::process::geteuid().as_raw()
        && modified.is_some_and(|elapsed| elapsed >= age)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_old_sockets_that_nobody_listens_on_are_swept_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let _alive = UnixListener::bind(path("entente-alive")).unwrap();
        drop(UnixListener::bind(path("entente-dead")).unwrap());
        drop(UnixListener::bind(path("other-dead")).unwrap());
        fs::write(path("entente-file"), "x").unwrap();
        sweep(folder.path(), Duration::from_secs(60));
        assert!(path("entente-dead").exists(), "too young");
        sweep(folder.path(), Duration::ZERO);
        assert!(!path("entente-dead").exists());
        for kept in ["entente-alive", "other-dead", "entente-file"] {
            assert!(path(kept).exists(), "{kept}");
        }
    }
}
