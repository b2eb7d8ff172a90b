//! Dials a Unix socket and looks who owns the other end before a byte is sent.

use std::io;
use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// Who may own the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AllowedOwner {
    /// Our own user, or root.
    OwnOrRoot,
    /// Exactly this one.
    Uid(u32),
}

impl AllowedOwner {
    fn allows(self, uid: u32) -> bool {
        match self {
            Self::OwnOrRoot => uid == 0 || uid == rustix::process::geteuid().as_raw(),
            Self::Uid(allowed) => uid == allowed,
        }
    }
}

/// Why a socket was not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("cannot connect to {}", path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error("{} is served by uid {uid}, which is not allowed", path.display())]
    Owner { path: PathBuf, uid: u32 },
}

/// Connects, and refuses a stranger.
pub(crate) async fn connect(path: &Path, allowed: AllowedOwner) -> Result<UnixStream, ConnectError> {
    let failed = |source| ConnectError::Connect { path: path.into(), source };
    let stream = UnixStream::connect(path).await.map_err(failed)?;
    let uid = stream.peer_cred().map_err(failed)?.uid();
    if allowed.allows(uid) { Ok(stream) } else { Err(ConnectError::Owner { path: path.into(), uid }) }
}

/// A gRPC channel that dials when first used, and again after each loss.
pub(crate) fn lazy_channel(path: PathBuf, allowed: AllowedOwner) -> Channel {
    let connector = tower::service_fn(move |_: http::Uri| {
        let path = path.clone();
        async move { connect(&path, allowed).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://unix-socket").connect_with_connector_lazy(connector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_of_another_user_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _listener = tokio::net::UnixListener::bind(&path).unwrap();
        let own = rustix::process::geteuid().as_raw();
        let refused = connect(&path, AllowedOwner::Uid(own + 1)).await;
        assert!(matches!(refused, Err(ConnectError::Owner { uid, .. }) if uid == own));
        assert!(connect(&path, AllowedOwner::Uid(own)).await.is_ok());
        assert!(connect(&path, AllowedOwner::OwnOrRoot).await.is_ok());
    }

    #[tokio::test]
    async fn a_missing_socket_is_named() {
        let error = connect(Path::new("/nonexistent/socket"), AllowedOwner::OwnOrRoot).await.unwrap_err();
        assert!(error.to_string().contains("/nonexistent/socket"));
    }
}
