//! From a target to a connection whose other end is known: a socket whose owner was looked at, or mutual TLS 1.3 with exactly
//! the configured ID, verified against the newest own bundle and nothing else.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use entente_bundle::tls::{CertificateSlot, SvidVerifier, mutual_client_config};
use entente_bundle::{Authorizer, Bundle, BundleSource, SpiffeId, SvidError, TrustDomain, svid};
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::error::LinkError;
use super::{Target, Way};
use crate::identity::Identity;
use crate::state::Shared;
use crate::unix_socket;

/// Longest wait for a connection and for a handshake on it.
const DIAL: Duration = Duration::from_secs(5);

/// Longest wait for SPIRE Server to lend its identity, which it does a second or two after its start.
const LOAN: Duration = Duration::from_secs(10);

/// A link is made anew after this long whatever happens, and earlier where the endpoint's certificate ends earlier.
const AGE: Duration = Duration::from_secs(3600);

/// But not more often than this.
const LEAST_AGE: Duration = Duration::from_secs(10);

/// Open links are judged so often even when nothing changes, because certificates end.
const RECHECK: Duration = Duration::from_secs(10);

pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection.
pub(super) struct Connection {
    pub(super) stream: Box<dyn Io>,
    pub(super) peer: Peer,
}

/// What is known of the other end, and for how long that is good.
#[derive(Clone, Debug)]
pub(super) enum Peer {
    /// The kernel has said who it is.
    Local,
    Secured(Arc<Secured>),
}

/// The two certificates of a handshake.
#[derive(Debug)]
pub(super) struct Secured {
    chain: Vec<CertificateDer<'static>>,
    expected: SpiffeId,
    shown: Arc<Identity>,
    renew_at: Instant,
    heard: Arc<Heard>,
}

/// What the other end says beneath HTTP/2, which keeps nothing of it.
#[derive(Debug, Default)]
struct Heard {
    alert: OnceLock<AlertDescription>,
    /// Whether the first thing that came was data; `None` before.
    has_spoken: watch::Sender<Option<bool>>,
}

/// Shows the certificate of SPIRE Server, and remembers whether anybody wanted to see it.
#[derive(Debug)]
struct Shown {
    slot: CertificateSlot,
    was_asked_for: AtomicBool,
}

/// Connects, and refuses whoever is not the configured endpoint.
pub(super) async fn connect(shared: &Shared, target: &Target) -> Result<Connection, LinkError> {
    match &target.way {
        Way::Socket { path, owner } => {
            let stream = Box::new(unix_socket::connect(path, *owner).await?);
            Ok(Connection { stream, peer: Peer::Local })
        }
        Way::Network { address, spiffe_id } => secure(shared, *address, spiffe_id).await,
    }
}

async fn secure(shared: &Shared, address: SocketAddr, spiffe_id: &SpiffeId) -> Result<Connection, LinkError> {
    let loan = async {
        shared.own_bundle.known().await;
        shared.identities.known().await
    };
    let shown = timeout(LOAN, loan).await.map_err(|_| LinkError::NoIdentity)?;
    let failed = |source| LinkError::Dial { address, source };
    let tcp = timeout(DIAL, TcpStream::connect(address)).await;
    let tcp = tcp.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(failed)?;
    // Signatures travel in small messages, and a handshake waits for each.
    tcp.set_nodelay(true).map_err(failed)?;
    let trusted = OwnAuthorities(shared.own_bundle.subscribe());
    let resolver = Arc::new(Shown::new(shown.certified_key()));
    let verifier = SvidVerifier::new(Arc::new(trusted), Authorizer::exact(spiffe_id.clone()));
    let tls = mutual_client_config(verifier, resolver.clone(), &[b"h2"])
        .map_err(|error| LinkError::Handshake(io::Error::other(error)))?;
    let handshake = TlsConnector::from(Arc::new(tls)).connect(ServerName::from(address.ip()), tcp);
    let stream = timeout(DIAL, handshake).await.map_err(|_| LinkError::TimedOut { after: DIAL })?;
    let stream = stream.map_err(|error| handshake_failed(error, spiffe_id))?;
    if !resolver.was_asked_for.load(Ordering::Relaxed) {
        return Err(LinkError::AskedForNothing);
    }
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let chain: Vec<_> = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
    let heard = Arc::new(Heard::default());
    let renew_at = Instant::now() + life(&chain, UnixTime::now());
    let secured = Secured { chain, expected: spiffe_id.clone(), shown, renew_at, heard: Arc::clone(&heard) };
    let stream = Box::new(Listening { stream, heard });
    Ok(Connection { stream, peer: Peer::Secured(Arc::new(secured)) })
}

fn handshake_failed(error: io::Error, expected: &SpiffeId) -> LinkError {
    match SvidError::find_in(&error) {
        Some(refused) => LinkError::untrusted(refused.clone(), expected),
        None => match alert_in(&error) {
            Some(alert) => LinkError::RefusedUs { alert },
            None => LinkError::Handshake(error),
        },
    }
}

fn alert_in(error: &io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

/// Half of what is left of the endpoint's certificate, so that the next one is met long before this one ends; a little less, so
/// that several plugins do not dial in step.
fn life(chain: &[CertificateDer<'_>], now: UnixTime) -> Duration {
    let leaf = chain.first().and_then(|leaf| svid::Leaf::read(leaf).ok());
    let left = leaf.map_or(0, |leaf| leaf.not_after.saturating_sub(now.as_secs()));
    let life = (Duration::from_secs(left) / 2).clamp(LEAST_AGE, AGE);
    life.mul_f64(1.0 - 0.1 * rand::random::<f64>())
}

impl Shown {
    fn new(key: Arc<CertifiedKey>) -> Self {
        let slot = CertificateSlot::default();
        slot.set(key);
        Self { slot, was_asked_for: AtomicBool::new(false) }
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        // Where none of the schemes fits, rustls shows nothing.
        let key = self.slot.current().filter(|key| key.key.choose_scheme(schemes).is_some());
        self.was_asked_for.store(key.is_some(), Ordering::Relaxed);
        key
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl Peer {
    /// Waits for the other end to speak first; false where it ended instead. In TLS 1.3 a client is done before its certificate was
    /// looked at, and who took it is the first to say something: HTTP/2's settings. Our hello is for nobody else.
    pub(super) async fn speaks_first(&self) -> bool {
        let Self::Secured(secured) = self else { return true };
        let mut spoken = secured.heard.has_spoken.subscribe();
        // Cannot fail: the sender is ours.
        let spoken = spoken.wait_for(Option::is_some).await;
        spoken.is_ok_and(|spoken| *spoken == Some(true))
    }

    /// Returns when the other end would be refused now: its authority was revoked, or its certificate has ended.
    pub(super) async fn distrusted(&self, shared: &Shared) -> LinkError {
        let Self::Secured(secured) = self else { return std::future::pending().await };
        let mut own_bundle = shared.own_bundle.subscribe();
        loop {
            let bundle = own_bundle.borrow_and_update().clone();
            if let Err(error) = secured.verify(bundle, UnixTime::now()) {
                return LinkError::untrusted(error, &secured.expected);
            }
            tokio::select! {
                // The sender lives as long as the plugin.
                _ = own_bundle.changed() => {}
                () = tokio::time::sleep(RECHECK) => {}
            }
        }
    }

    /// Returns when the link is to be made anew although there is nothing wrong with it: SPIRE Server has another certificate,
    /// or the link is old.
    pub(super) async fn is_due(&self, shared: &Shared) {
        let Self::Secured(secured) = self else { return std::future::pending().await };
        tokio::select! {
            () = shared.identities.replaced(&secured.shown) => {}
            () = tokio::time::sleep_until(secured.renew_at) => {}
        }
    }

    /// Says more of a failure: that the other end has refused us travels as an alert, of which HTTP/2 keeps nothing.
    pub(super) fn explain(&self, error: LinkError) -> LinkError {
        match self {
            Self::Secured(secured) => match secured.heard.alert.get() {
                Some(AlertDescription::CloseNotify) | None => error,
                Some(&alert) => LinkError::RefusedUs { alert },
            },
            Self::Local => error,
        }
    }
}

impl Secured {
    fn verify(&self, own: Option<Arc<Bundle>>, now: UnixTime) -> Result<(), SvidError> {
        let Some((leaf, rest)) = self.chain.split_first() else {
            return Err(SvidError::Malformed { detail: "no certificate" });
        };
        let own = own.map(|bundle| Bundle::clone(&bundle));
        let bundles: entente_bundle::BundleSet = own.into_iter().collect();
        svid::verify(leaf, rest, &bundles, &Authorizer::exact(self.expected.clone()), now).map(drop)
    }
}

/// The own bundle as it is at each handshake, under its own name only.
#[derive(Debug)]
struct OwnAuthorities(watch::Receiver<Option<Arc<Bundle>>>);

impl BundleSource for OwnAuthorities {
    fn bundle_for(&self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>> {
        self.0.borrow().clone().filter(|bundle| bundle.trust_domain() == trust_domain)
    }
}

/// Remembers that something was said, and the alert that a read ends with.
struct Listening<S> {
    stream: S,
    heard: Arc<Heard>,
}

impl<S: AsyncRead + Unpin> Listening<S> {
    fn listen(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let Poll::Ready(result) = &read else { return read };
        if let Some(alert) = result.as_ref().err().and_then(alert_in) {
            let _ = self.heard.alert.set(alert);
        }
        if self.heard.has_spoken.borrow().is_none() {
            self.heard.has_spoken.send_replace(Some(buf.filled().len() > before));
        }
        read
    }

    /// After a failed write nobody reads any more; but what the peer said before it closed may still be there.
    fn last_words<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(_)) = &written {
            let _ = self.listen(cx, &mut ReadBuf::new(&mut [0; 16]));
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Listening<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.listen(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Listening<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.last_words(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = Pin::new(&mut self.stream).poll_flush(cx);
        self.last_words(cx, written)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
