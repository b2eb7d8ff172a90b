//! The socket that the host dials.
//!
//! SPIRE kills plugins without a word after `validate`, which leaves their socket files behind. So each start sweeps away those
//! that nobody listens on and whose process is gone, or that are old where that cannot be told.

use std::fs::{self, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::Pid;
use tokio::net::UnixListener;

use crate::handshake::MAX_SOCKET_PATH;

/// Start of the file name.
const PREFIX: &str = "entente-";

/// Younger files are left alone where a process has the number that they name: it may be about to listen.
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
        let pid = std::process::id();
        let path = folder.join(format!("{PREFIX}{pid}-{:08x}", rand::random::<u32>()));
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
        let name = entry.file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        let is_due =
            |metadata: &Metadata| is_own_socket(metadata) && (is_of_the_dead(name) || is_old(metadata, age));
        if entry.metadata().is_ok_and(|metadata| is_due(&metadata)) {
            let path = entry.path();
            if connect_at_once(&path).is_err_and(|error| error == Errno::CONNREFUSED) {
                let _ = fs::remove_file(&path);
            }
        }
    }
}

/// A listener that is stopped, with its queue full, would hold up the start of SPIRE Server for ever.
fn connect_at_once(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

fn is_own_socket(metadata: &Metadata) -> bool {
    metadata.file_type().is_socket() && metadata.uid() == rustix::process::geteuid().as_raw()
}

fn is_old(metadata: &Metadata, age: Duration) -> bool {
    let modified = metadata.modified().ok().and_then(|time| time.elapsed().ok());
    modified.is_some_and(|elapsed| elapsed >= age)
}

/// True when the process that `name` begins with is gone. One of another container that shares the folder looks gone too: that
/// nobody listens is therefore asked in any case.
fn is_of_the_dead(name: &str) -> bool {
    let pid = name.split_once('-').and_then(|(pid, _)| pid.parse().ok()).and_then(Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) == Err(Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_sockets_of_the_dead_and_old_ones_that_nobody_listens_on_are_swept_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let _alive = UnixListener::bind(path("entente-alive")).unwrap();
        drop(UnixListener::bind(path("entente-dead")).unwrap());
        drop(UnixListener::bind(path("other-dead")).unwrap());
        let living = format!("entente-{}-1", std::process::id());
        drop(UnixListener::bind(path(&living)).unwrap());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let dead = child.id();
        child.wait().unwrap();
        let (left_behind, listening) = (format!("entente-{dead}-1"), format!("entente-{dead}-2"));
        drop(UnixListener::bind(path(&left_behind)).unwrap());
        let _listening = UnixListener::bind(path(&listening)).unwrap();
        fs::write(path(&format!("entente-{dead}-3")), "x").unwrap();
        fs::write(path("entente-file"), "x").unwrap();
        sweep(folder.path(), Duration::from_secs(60));
        assert!(path("entente-dead").exists() && path(&living).exists(), "too young");
        assert!(!path(&left_behind).exists(), "its process is gone");
        sweep(folder.path(), Duration::ZERO);
        assert!(!path("entente-dead").exists());
        for kept in ["entente-alive", "other-dead", "entente-file", &listening, &format!("entente-{dead}-3")]
        {
            assert!(path(kept).exists(), "{kept}");
        }
    }
    #[test]
    fn a_listener_whose_queue_is_full_holds_up_nobody_and_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("entente-stopped");
        let listener = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        // Nobody accepts, so it is full soon.
        let _waiting: Vec<_> = std::iter::from_fn(|| connect_at_once(&path).ok()).collect();
        assert_eq!(connect_at_once(&path).unwrap_err(), Errno::AGAIN);
        let (done, swept) = std::sync::mpsc::channel();
        let place = folder.path().to_owned();
        std::thread::spawn(move || {
            sweep(&place, Duration::ZERO);
            done.send(())
        });
        swept.recv_timeout(Duration::from_secs(10)).expect("the sweep waits for nobody");
        assert!(path.exists());
    }
}
