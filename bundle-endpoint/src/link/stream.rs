//! What both ways of linking have in common once the peer is known: nothing but HTTP/2 gets through to gRPC, and so much of it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{fmt, io};

use entente_bundle::SpiffeId;
use entente_proto::link::v1::link_server::LinkServer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use super::{Hub, LinkService};

/// Connections of allowed peers at the same time; one per SPIRE Server plugin is usual, two while one is made anew.
pub(super) const MAX_LINKS: usize = 64;

/// For the preface to arrive.
pub(super) const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);

/// With what every HTTP/2 client begins (RFC 9113 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Streams of one connection; a plugin needs one.
const MAX_STREAMS: u32 = 4;

/// A whole state of ten thousand relationships is a few MiB.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LinkPeer {
    Local(LocalPeer),
    /// Over the network, as its verified X509-SVID says.
    Verified {
        spiffe_id: SpiffeId,
        address: SocketAddr,
    },
}

/// A peer of our socket, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LocalPeer {
    pub(crate) uid: u32,
    pub(crate) process: LocalProcess,
    pub(crate) allowed: bool,
}

/// By what plugins of one user are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum LocalProcess {
    Pid(i32),
    /// Of another PID namespace: the kernel has no number for it here, so its connection has one.
    Unnamed {
        connection: u32,
    },
}

/// The numbers of open connections of unnamed processes. Each gets the lowest one that is free, so that a process that comes again has
/// the one that it had.
#[derive(Debug, Default)]
pub(super) struct Numbers(Mutex<BTreeSet<u32>>);

/// One of them, until this is dropped.
#[derive(Debug)]
pub(super) struct Number {
    pub(super) value: u32,
    of: Arc<Numbers>,
}

impl Numbers {
    pub(super) fn take(self: &Arc<Self>) -> Number {
        let mut taken = crate::lock(&self.0);
        // There are never as many connections as numbers.
        let value = (1..u32::MAX).find(|number| !taken.contains(number)).unwrap_or(u32::MAX);
        taken.insert(value);
        Number { value, of: Arc::clone(self) }
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        crate::lock(&self.of.0).remove(&self.value);
    }
}

/// What a connection holds while it is open.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) _permit: OwnedSemaphorePermit,
    pub(super) _number: Option<Number>,
}

/// In words for an operator.
impl fmt::Display for LinkPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(LocalPeer { uid, process: LocalProcess::Pid(pid), .. }) => {
                write!(f, "process {pid} of user id {uid}")
            }
            Self::Local(LocalPeer { uid, process: LocalProcess::Unnamed { connection }, .. }) => {
                write!(f, "connection {connection} of user id {uid}")
            }
            Self::Verified { address, .. } => write!(f, "{address}"),
        }
    }
}

impl LinkPeer {
    pub(crate) fn uid(&self) -> Option<u32> {
        match self {
            Self::Local(peer) => Some(peer.uid),
            Self::Verified { .. } => None,
        }
    }

    pub(crate) fn pid(&self) -> Option<i32> {
        match self {
            Self::Local(LocalPeer { process: LocalProcess::Pid(pid), .. }) => Some(*pid),
            Self::Local(_) | Self::Verified { .. } => None,
        }
    }

    /// The number of an unnamed process's connection.
    pub(crate) fn connection(&self) -> Option<u32> {
        match self {
            Self::Local(LocalPeer { process: LocalProcess::Unnamed { connection }, .. }) => Some(*connection),
            Self::Local(_) | Self::Verified { .. } => None,
        }
    }

    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Local(_) => None,
            Self::Verified { address, .. } => Some(*address),
        }
    }

    pub(crate) fn spiffe_id(&self) -> Option<&SpiffeId> {
        match self {
            Self::Local(_) => None,
            Self::Verified { spiffe_id, .. } => Some(spiffe_id),
        }
    }
}

/// An accepted connection whose preface was read and is read once more by HTTP/2.
#[derive(Debug)]
pub(super) struct LinkStream<S> {
    stream: S,
    peer: LinkPeer,
    unread: &'static [u8],
    _place: Place,
}

/// Serves the link on these streams until `stop`; returns when every one of them has ended.
pub(super) async fn serve<S>(
    hub: Arc<Hub>,
    accepted: mpsc::Receiver<io::Result<LinkStream<S>>>,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service =
        LinkServer::new(LinkService::new(hub, stop.clone())).max_decoding_message_size(MAX_MESSAGE_BYTES);
    Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .max_concurrent_streams(MAX_STREAMS)
        .add_service(service)
        .serve_with_incoming_shutdown(ReceiverStream::new(accepted), stop.cancelled_owned())
        .await
}

impl<S: AsyncRead + Unpin> LinkStream<S> {
    /// Reads the preface. The caller sets the limit on time.
    pub(super) async fn begin(mut stream: S, peer: LinkPeer, place: Place) -> io::Result<Self> {
        let mut first = [0; PREFACE.len()];
        let mut filled = 0;
        while let Some(rest) = first.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let read = stream.read(rest).await?;
            filled += read;
            if read == 0 || first.get(..filled) != PREFACE.get(..filled) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "this is not http/2"));
            }
        }
        Ok(Self { stream, peer, unread: PREFACE, _place: place })
    }
}

impl<S> Connected for LinkStream<S> {
    type ConnectInfo = LinkPeer;
    fn connect_info(&self) -> LinkPeer {
        self.peer.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for LinkStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        ready!(Pin::new(&mut self.unread).poll_read(cx, buf))?;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for LinkStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_gets_the_lowest_number_that_no_open_one_has() {
        let numbers = Arc::new(Numbers::default());
        let [one, two, three] = [numbers.take(), numbers.take(), numbers.take()];
        assert_eq!([one.value, two.value, three.value], [1, 2, 3]);
        drop(two);
        assert_eq!(numbers.take().value, 2, "whoever comes again is who it was");
        drop((one, three));
        assert_eq!(numbers.take().value, 1);
    }
}
