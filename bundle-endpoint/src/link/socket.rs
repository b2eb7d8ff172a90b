//! The link's Unix socket: made for its owner and group only, and its peers' user IDs looked at.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use entente_bounds::Throttle;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::Hub;
use super::brakes::Brakes;
use super::stream::{
    self, LinkPeer, LinkStream, LocalPeer, LocalProcess, MAX_LINKS, Number, Numbers, PREFACE_TIMEOUT, Place,
};
use crate::address::UnixAddress;
use crate::logging::chain;

/// Connections of peers that are only told why they may not link.
const MAX_REFUSED: usize = 4;

/// Between two looks whether the socket's file is still there.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Between two lines about those who are refused for the same reason.
const REFUSAL_INTERVAL: Duration = Duration::from_secs(10);

/// Between two lines about a file that cannot be made anew.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// Why the socket cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    /// Somebody answers there.
    #[error("another process listens on {} already", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something is there that is not ours to remove.
    #[error("{} is there and is no socket: move it away or choose another path", path.display())]
    NotASocket {
        /// What is in the way.
        path: PathBuf,
    },
    /// The folder is missing.
    #[error("folder {} does not exist: make it, writable for user id {uid}", folder.display())]
    NoFolder {
        /// Where the socket should be.
        folder: PathBuf,
        /// As whom we run.
        uid: u32,
    },
    /// The system refused.
    #[error("socket {} cannot be made", path.display())]
    System {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The bound socket; its file goes when this is dropped.
#[derive(Debug)]
pub(crate) struct LinkSocket {
    listener: UnixListener,
    allowed_uids: Vec<u32>,
    numbers: Arc<Numbers>,
    file: SocketFile,
}

/// Removes the file at the end, unless somebody else has put another one there.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    mark: FileMark,
}

/// By which a file is known again. Its number alone can be given to another one once it is removed.
#[derive(Debug, PartialEq, Eq)]
struct FileMark {
    device: u64,
    inode: u64,
    created: Option<SystemTime>,
}

impl FileMark {
    fn of(path: &Path) -> io::Result<Self> {
        let found = std::fs::symlink_metadata(path)?;
        Ok(Self { device: found.dev(), inode: found.ino(), created: found.created().ok() })
    }
}

impl SocketFile {
    fn is_ours(&self) -> bool {
        FileMark::of(&self.path).is_ok_and(|found| found == self.mark)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_ours()
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            debug!(path = %self.path.display(), %error, "link socket not removed");
        }
    }
}

impl LinkSocket {
    /// Binds; a socket file that nobody answers on is replaced. Without `allowed_uids` our own and root may link.
    pub(crate) fn bind(address: &UnixAddress, allowed_uids: Option<Vec<u32>>) -> Result<Self, SocketError> {
        let own = rustix::process::geteuid().as_raw();
        let (listener, mark) = listen(address.path())?;
        let file = SocketFile { path: address.path().to_owned(), mark };
        let allowed_uids = allowed_uids.unwrap_or_else(|| vec![own, 0]);
        Ok(Self { listener, allowed_uids, numbers: Arc::default(), file })
    }

    /// Serves until `stop`; returns when every stream has ended.
    pub(crate) async fn serve(
        self,
        hub: Arc<Hub>,
        stop: CancellationToken,
    ) -> Result<(), tonic::transport::Error> {
        let (sender, accepted) = mpsc::channel(MAX_LINKS);
        let server = stream::serve(Arc::clone(&hub), accepted, stop.clone());
        let accepting = stop.run_until_cancelled(self.accept(hub, sender));
        let (served, _) = tokio::join!(server, accepting);
        served
    }

    async fn accept(mut self, hub: Arc<Hub>, accepted: mpsc::Sender<io::Result<LinkStream<UnixStream>>>) {
        let door = Door {
            hub,
            links: Arc::new(Semaphore::new(MAX_LINKS)),
            told: Arc::new(Semaphore::new(MAX_REFUSED)),
            brakes: Brakes::new(REFUSAL_INTERVAL),
        };
        let door = Arc::new(door);
        let mut looks = interval(LOOK_INTERVAL);
        let complaints = Throttle::new(COMPLAINT_INTERVAL);
        loop {
            let connection = tokio::select! {
                connection = self.listener.accept() => connection,
                _ = looks.tick() => {
                    self.repair(&complaints);
                    continue;
                }
            };
            match connection {
                Ok((stream, _)) => {
                    let (peer, _number) = self.peer(&stream);
                    if let Some(_permit) = door.admit(peer) {
                        let (door, accepted) = (Arc::clone(&door), accepted.clone());
                        let place = Place { _permit, _number };
                        tokio::spawn(async move { door.enter(stream, peer, place, accepted).await });
                    }
                }
                Err(error) => {
                    door.hub.metrics.link_refusal("accept_failed");
                    if let Some(suppressed) = door.brakes.pass("accept_failed") {
                        error!(%error, suppressed, "link socket cannot accept");
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// A socket without its file cannot be dialled: when the file is gone, another one is made.
    fn repair(&mut self, complaints: &Throttle) {
        if self.file.is_ours() {
            return;
        }
        let path = self.file.path.display();
        match listen(&self.file.path) {
            Ok((listener, mark)) => {
                warn!(%path, "link socket was removed, made anew");
                self.listener = listener;
                self.file.mark = mark;
            }
            Err(error) => {
                if let Some(suppressed) = complaints.pass() {
                    let error = chain(&error);
                    error!(%path, error, suppressed, "link socket was removed and cannot be made anew");
                }
            }
        }
    }

    // A peer that the kernel does not name is nobody.
    fn peer(&self, stream: &UnixStream) -> (LocalPeer, Option<Number>) {
        let found = stream.peer_cred().ok();
        let (process, number) = process(found.and_then(|found| found.pid()), &self.numbers);
        let uid = found.map(|found| found.uid());
        let allowed = uid.is_some_and(|uid| self.allowed_uids.contains(&uid));
        (LocalPeer { uid: uid.unwrap_or(u32::MAX), process, allowed }, number)
    }
}

/// Zero is what the kernel says of a process that our PID namespace does not have.
fn process(pid: Option<i32>, numbers: &Arc<Numbers>) -> (LocalProcess, Option<Number>) {
    if let Some(pid) = pid.filter(|pid| *pid > 0) {
        return (LocalProcess::Pid(pid), None);
    }
    let number = numbers.take();
    (LocalProcess::Unnamed { connection: number.value }, Some(number))
}

/// Decides who gets as far as gRPC.
struct Door {
    hub: Arc<Hub>,
    links: Arc<Semaphore>,
    /// Places for peers that are only told why they may not link.
    told: Arc<Semaphore>,
    brakes: Brakes,
}

impl Door {
    fn admit(&self, peer: LocalPeer) -> Option<OwnedSemaphorePermit> {
        if !peer.allowed {
            self.refused(peer, "uid", None);
        }
        let pool = if peer.allowed { &self.links } else { &self.told };
        let permit = Arc::clone(pool).try_acquire_owned();
        if permit.is_err() {
            self.refused(peer, "too_many", None);
        }
        permit.ok()
    }

    async fn enter(
        &self,
        stream: UnixStream,
        peer: LocalPeer,
        place: Place,
        accepted: mpsc::Sender<io::Result<LinkStream<UnixStream>>>,
    ) {
        match timeout(PREFACE_TIMEOUT, LinkStream::begin(stream, LinkPeer::Local(peer), place)).await {
            Ok(Ok(stream)) => {
                // The server is gone only when we are shutting down.
                let _ = accepted.send(Ok(stream)).await;
            }
            Ok(Err(error)) => self.refused(peer, "not_grpc", Some(error)),
            Err(_) => self.refused(peer, "silent", None),
        }
    }

    fn refused(&self, peer: LocalPeer, reason: &'static str, error: Option<io::Error>) {
        self.hub.metrics.link_refusal(reason);
        if let Some(suppressed) = self.brakes.pass(reason) {
            let detail = error.map(|error| error.to_string());
            let pid = LinkPeer::Local(peer).pid();
            warn!(uid = peer.uid, pid, reason, detail, suppressed, "link refused");
        }
    }
}

fn listen(path: &Path) -> Result<(UnixListener, FileMark), SocketError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    if !folder.is_dir() {
        let uid = rustix::process::geteuid().as_raw();
        return Err(SocketError::NoFolder { folder: folder.to_owned(), uid });
    }
    let system = |source: io::Error| SocketError::System { path: path.to_owned(), source };
    remove_stale(path)?;
    let socket = private_socket(path).map_err(|error| system(error.into()))?;
    let mark = FileMark::of(path).map_err(system)?;
    Ok((UnixListener::from_std(socket.into()).map_err(system)?, mark))
}

fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let system = |source: io::Error| SocketError::System { path: path.to_owned(), source };
    let found = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(system)?,
    };
    if !found.file_type().is_socket() {
        return Err(SocketError::NotASocket { path: path.to_owned() });
    }
    match knock(path) {
        Err(Errno::CONNREFUSED) => std::fs::remove_file(path).map_err(system),
        // With its queue full it hangs, but it is there.
        Ok(()) | Err(Errno::AGAIN) => Err(SocketError::InUse { path: path.to_owned() }),
        Err(error) => Err(system(error.into())),
    }
}

// Without waiting: the one that listens may be stopped.
fn knock(path: &Path) -> Result<(), Errno> {
    rustix::net::connect(unix_socket()?, &SocketAddrUnix::new(path)?)
}

fn unix_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

// The mode is set between bind and listen, when nobody can connect yet: there is no moment at which others could.
fn private_socket(path: &Path) -> Result<OwnedFd, Errno> {
    let socket = unix_socket()?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::fs::chmod(path, Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP)?;
    rustix::net::listen(&socket, 128)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_that_the_kernel_does_not_name_here_are_told_apart_by_their_connections() {
        let numbers = Arc::default();
        assert_eq!(process(Some(7), &numbers).0, LocalProcess::Pid(7));
        let unnamed = [process(Some(0), &numbers), process(None, &numbers)];
        let names = unnamed.each_ref().map(|(process, _)| {
            LinkPeer::Local(LocalPeer { uid: 0, process: *process, allowed: true }).to_string()
        });
        assert_eq!(names, ["connection 1 of user id 0", "connection 2 of user id 0"]);
    }
}
