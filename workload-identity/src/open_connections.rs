//! The open connections of this process, each with the chain that its peer showed. When the bundles change, every chain is
//! verified again, and a connection whose peer would be refused now is closed: ending a federation ends its connections.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use entente_bounds::Place;
use entente_bundle::{Authorizer, BundleSet, SpiffeId, SvidError, svid};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;
use tracing::warn;

/// Certificates end without an update, so open connections are also looked at on a timer.
const RECHECK: Duration = Duration::from_secs(10);

/// Far beyond any process's life; stands for "no end" where there must be an instant.
const NEVER: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 10);

/// Who is on the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where it connected from, or where we did.
    pub address: SocketAddr,
    /// The ID of its verified SVID.
    pub id: SpiffeId,
}

/// The open connections, and by which bundles and rule their peers were admitted.
#[derive(Debug)]
pub struct OpenConnections {
    bundles: Arc<BundleSet>,
    authorizer: Authorizer,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    open: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    peer: Peer,
    chain: Arc<[CertificateDer<'static>]>,
    close: CancellationToken,
}

impl OpenConnections {
    /// None yet.
    pub fn new(bundles: Arc<BundleSet>, authorizer: Authorizer) -> Arc<Self> {
        Arc::new(Self { bundles, authorizer, entries: Mutex::default() })
    }

    /// Admits a connection after its handshake. Its peer is verified here as well, *after* it was entered: bundles that
    /// changed since the handshake are seen either here or by the next recheck, whichever way the race goes.
    ///
    /// # Errors
    /// Why the peer would be refused now.
    pub fn admit<S>(
        self: &Arc<Self>,
        io: S,
        address: SocketAddr,
        chain: &[CertificateDer<'_>],
        age: Option<Duration>,
    ) -> Result<Guarded<S>, SvidError> {
        let chain: Arc<[_]> = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        let Some(leaf) = chain.first() else {
            return Err(SvidError::Malformed { detail: "no certificate" });
        };
        let peer = Peer { address, id: svid::leaf_id(leaf)? };
        let close = CancellationToken::new();
        let entry = Entry { peer: peer.clone(), chain: chain.clone(), close: close.clone() };
        let mut entries = self.lock();
        let key = entries.next;
        entries.next += 1;
        entries.open.insert(key, entry);
        drop(entries);
        let guard = Guard { connections: self.clone(), key };
        self.verify(&chain, UnixTime::now())?;
        let end = Box::pin(tokio::time::sleep(age.unwrap_or(NEVER)));
        let closed = Box::pin(close.cancelled_owned());
        Ok(Guarded { io, peer, closed, end, place: None, tls_failure: Arc::default(), _guard: guard })
    }

    /// Verifies every open connection's peer again, and closes those that would be refused now.
    pub fn recheck(&self, now: UnixTime) {
        // A connection that is not in this list yet verifies its peer itself, in `admit`.
        let chains: Vec<_> =
            self.lock().open.iter().map(|(key, entry)| (*key, entry.chain.clone())).collect();
        for (key, chain) in chains {
            let Err(error) = self.verify(&chain, now) else { continue };
            let Some(entry) = self.lock().open.remove(&key) else { continue };
            entry.close.cancel();
            let (Peer { address, id }, reason) = (entry.peer, error.reason());
            warn!(peer = %address, presented = %id, reason, %error, "open connection closed, its peer no longer verifies");
        }
    }

    /// Rechecks at each change of the bundles, and on a timer. Runs until the identity is gone.
    pub async fn keep_checked(self: Arc<Self>, mut changed: watch::Receiver<Option<SpiffeId>>) {
        let mut timer = tokio::time::interval(RECHECK);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = changed.changed() => if changed.is_err() { return },
                _ = timer.tick() => {}
            }
            self.recheck(UnixTime::now());
        }
    }

    fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<SpiffeId, SvidError> {
        match chain.split_first() {
            Some((leaf, rest)) => svid::verify(leaf, rest, self.bundles.as_ref(), &self.authorizer, now),
            None => Err(SvidError::Malformed { detail: "no certificate" }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // Nothing panics while it is held; and if it did, the map is still a map.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a connection off the list when it ends.
#[derive(Debug)]
struct Guard {
    connections: Arc<OpenConnections>,
    key: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.connections.lock().open.remove(&self.key);
    }
}

/// A connection that ends when its peer no longer verifies, or at an age.
#[derive(Debug)]
pub struct Guarded<S> {
    io: S,
    peer: Peer,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    end: Pin<Box<Sleep>>,
    place: Option<Place>,
    tls_failure: Arc<OnceLock<rustls::Error>>,
    _guard: Guard,
}

impl<S> Guarded<S> {
    /// Who is on the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// What TLS says about the end of the connection, once it has ended. HTTP/2 keeps no more of an error than its text,
    /// and an alert is worth more: it is how a peer says that it refused us.
    pub fn tls_failure(&self) -> Arc<OnceLock<rustls::Error>> {
        self.tls_failure.clone()
    }

    /// Gives `place` back when the connection ends.
    #[must_use]
    pub fn holding(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    /// Asked by reads, of which HTTP/2 always has one waiting, and by writes: while one is stuck, nothing may be read.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.closed.as_mut().poll(cx).is_ready() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the peer no longer verifies"));
        }
        if self.end.as_mut().poll(cx).is_ready() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the connection is too old"));
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> Guarded<S> {
    fn poll_read_io(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if let Poll::Ready(Err(error)) = &read
            && let Some(tls) = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>())
        {
            let _ = self.tls_failure.set(tls.clone());
        }
        read
    }

    /// A write fails on a connection that the peer has closed, and nobody will read any more; but what the peer said
    /// before it closed may still be there.
    fn note_last_words<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(_)) = &written {
            let _ = self.poll_read_io(cx, &mut ReadBuf::new(&mut [0; 16]));
        }
        written
    }
}

impl<S> Connected for Guarded<S> {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_end(cx)?;
        self.poll_read_io(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_end(cx)?;
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.note_last_words(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_end(cx)?;
        let written = Pin::new(&mut self.io).poll_flush(cx);
        self.note_last_words(cx, written)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = Pin::new(&mut self.io).poll_shutdown(cx);
        self.note_last_words(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_end(cx)?;
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.note_last_words(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use entente_bundle::testing::{self, TestAuthority};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    struct Rig {
        authority: TestAuthority,
        bundles: Arc<BundleSet>,
        connections: Arc<OpenConnections>,
    }

    impl Rig {
        fn new(authorizer: Authorizer) -> Self {
            let authority = TestAuthority::new("b.test");
            let bundles = Arc::new(BundleSet::from_iter([authority.bundle()]));
            let connections = OpenConnections::new(bundles.clone(), authorizer);
            Self { authority, bundles, connections }
        }

        fn admit(&self, age: Option<Duration>) -> Result<Guarded<DuplexStream>, SvidError> {
            let (ours, theirs) = tokio::io::duplex(64);
            // The far end stays open for as long as the test runs.
            std::mem::forget(theirs);
            let chain = self.authority.svid("/web").build().chain;
            self.connections.admit(ours, ([127, 0, 0, 1], 9).into(), &chain, age)
        }

        fn open(&self) -> usize {
            self.connections.lock().open.len()
        }
    }

    #[tokio::test]
    async fn a_peer_whose_bundle_is_gone_loses_its_open_connection() {
        let rig = Rig::new(Authorizer::AnyInBundles);
        let mut connection = rig.admit(None).unwrap();
        rig.connections.recheck(UnixTime::now());
        assert_eq!(rig.open(), 1);

        rig.bundles.replace(BTreeMap::new());
        rig.connections.recheck(UnixTime::now());
        assert_eq!(connection.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert_eq!(rig.open(), 0);
    }

    #[tokio::test]
    async fn a_read_that_waits_already_is_woken() {
        let rig = Rig::new(Authorizer::AnyInBundles);
        let mut connection = rig.admit(None).unwrap();
        let reading = tokio::spawn(async move { connection.read(&mut [0]).await });
        // The one thread of this test runs the task until it waits.
        tokio::task::yield_now().await;
        rig.bundles.replace(BTreeMap::new());
        rig.connections.recheck(UnixTime::now());
        assert!(reading.await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_write_that_is_stuck_is_woken() {
        let rig = Rig::new(Authorizer::AnyInBundles);
        let mut connection = rig.admit(None).unwrap();
        // More than the far end's buffer takes, and nobody reads there.
        let writing = tokio::spawn(async move { connection.write_all(&[0; 1000]).await });
        tokio::task::yield_now().await;
        rig.bundles.replace(BTreeMap::new());
        rig.connections.recheck(UnixTime::now());
        assert_eq!(writing.await.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test]
    async fn a_peer_whose_svid_ends_loses_its_open_connection() {
        let rig = Rig::new(Authorizer::AnyInBundles);
        let mut connection = rig.admit(None).unwrap();
        rig.connections.recheck(testing::from_now(60 * 60 * 24 * 365));
        assert!(connection.read(&mut [0]).await.is_err());
    }

    #[tokio::test]
    async fn bundles_that_changed_during_the_handshake_refuse_it() {
        let rig = Rig::new(Authorizer::AnyInBundles);
        rig.bundles.replace(BTreeMap::new());
        assert!(matches!(rig.admit(None), Err(SvidError::NoBundle { .. })));
        assert_eq!(rig.open(), 0);
    }

    #[tokio::test]
    async fn the_rule_is_checked_as_well_as_the_chain() {
        let other = SpiffeId::new("spiffe://b.test/db").unwrap();
        let rig = Rig::new(Authorizer::exact(other));
        assert!(matches!(rig.admit(None), Err(SvidError::NotAuthorized { .. })));
    }

    #[tokio::test]
    async fn a_connection_ends_at_its_age() {
        let rig = Rig::new(Authorizer::AnyInBundles);
        let mut connection = rig.admit(Some(Duration::ZERO)).unwrap();
        assert!(connection.read(&mut [0]).await.is_err());
    }

    #[tokio::test]
    async fn a_connection_that_ended_is_forgotten() {
        let rig = Rig::new(Authorizer::AnyInBundles);
        let connection = rig.admit(None).unwrap();
        assert_eq!(rig.open(), 1);
        drop(connection);
        assert_eq!(rig.open(), 0);
    }
}
