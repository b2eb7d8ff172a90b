//! From a URL to an authenticated TLS connection. No proxies, whatever the environment says.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use entente_bundle::causes::causes;
use entente_bundle::tls::{SvidVerifier, client_config};
use entente_bundle::{Authorizer, Bundle, BundleSource, SpiffeId, SvidError, TrustDomain, svid};
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::FetchError;
use super::relationship::EndpointProfile;
use super::resolve::{Reach, Resolver};
use super::url::EndpointUrl;
use super::web::{self, SvidInsteadOfWeb, SystemRoots};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const TLS_TIMEOUT: Duration = Duration::from_secs(10);
const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];

const TRY_WEB: &str = "this is no x509-svid: if the endpoint has a web certificate, its profile is https_web";
const TRY_SPIFFE: &str =
    "this is an x509-svid: if the endpoint has one on purpose, its profile is https_spiffe";

/// An open connection and who is at the other end.
pub(crate) struct Dialled {
    pub(crate) stream: TlsStream<TcpStream>,
    pub(crate) address: SocketAddr,
    /// `https_spiffe` only.
    pub(crate) presented: Option<SpiffeId>,
}

/// The bundle of one trust domain, as held when the fetch began: it authenticates the whole fetch.
#[derive(Debug)]
struct HeldNow {
    trust_domain: TrustDomain,
    bundle: Arc<Bundle>,
}

impl BundleSource for HeldNow {
    fn bundle_for(&self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>> {
        (*trust_domain == self.trust_domain).then(|| Arc::clone(&self.bundle))
    }
}

/// TLS for all connections of one fetch.
pub(crate) async fn tls_for(
    profile: &EndpointProfile,
    bundles: &dyn BundleSource,
    system: &Arc<SystemRoots>,
) -> Result<Arc<ClientConfig>, FetchError> {
    let config = match profile {
        EndpointProfile::HttpsSpiffe { endpoint_spiffe_id } => {
            let trust_domain = endpoint_spiffe_id.trust_domain().clone();
            let held = bundles.bundle_for(&trust_domain);
            let bundle =
                held.ok_or(FetchError::NoAuthenticationBundle { trust_domain: trust_domain.clone() })?;
            let source = Arc::new(HeldNow { trust_domain, bundle });
            let verifier = SvidVerifier::new(source, Authorizer::exact(endpoint_spiffe_id.clone()));
            let mut config = client_config(verifier, None, ALPN)
                .map_err(|error| FetchError::Tls { source: io::Error::other(error) })?;
            // An SVID names no host, but whatever routes by host name in front of the endpoint wants to know.
            config.enable_sni = true;
            config
        }
        EndpointProfile::HttpsWeb { ca_certificates } => {
            web::client_config(ca_certificates.as_deref(), system, ALPN).await?
        }
    };
    Ok(Arc::new(config))
}

/// Connects and proves the endpoint.
pub(crate) async fn dial(
    url: &EndpointUrl,
    profile: &EndpointProfile,
    tls: &Arc<ClientConfig>,
    resolver: &Resolver,
    reach: Reach,
) -> Result<Dialled, FetchError> {
    let connecting = timeout(CONNECT_TIMEOUT, connect(url, resolver, reach)).await;
    let elapsed = |stage, after| FetchError::Timeout { stage, after };
    let (tcp, address) = connecting.map_err(|_| elapsed("connecting", CONNECT_TIMEOUT))??;
    let connector = TlsConnector::from(Arc::clone(tls));
    let handshake = timeout(TLS_TIMEOUT, connector.connect(url.server_name()?, tcp)).await;
    let stream = handshake
        .map_err(|_| elapsed("the tls handshake", TLS_TIMEOUT))?
        .map_err(|error| refusal(error, profile))?;
    let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let presented = match profile {
        EndpointProfile::HttpsSpiffe { .. } => leaf.and_then(|leaf| svid::leaf_id(leaf).ok()),
        EndpointProfile::HttpsWeb { .. } => None,
    };
    Ok(Dialled { stream, address, presented })
}

async fn connect(
    url: &EndpointUrl,
    resolver: &Resolver,
    reach: Reach,
) -> Result<(TcpStream, SocketAddr), FetchError> {
    let addresses = resolver.addresses(url, reach).await?;
    // Several addresses share the time, so that one that swallows packets does not hide the next.
    let share = CONNECT_TIMEOUT / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
    let mut last = None;
    for address in addresses {
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                return Ok((stream, address));
            }
            Ok(Err(source)) => last = Some(FetchError::Connect { address, source }),
            Err(_) => last = Some(FetchError::Connect { address, source: io::ErrorKind::TimedOut.into() }),
        }
    }
    let nowhere =
        || FetchError::Resolve { host: url.host().to_owned(), source: io::ErrorKind::NotFound.into() };
    Err(last.unwrap_or_else(nowhere))
}

// What a failed handshake says about the endpoint.
fn refusal(error: io::Error, profile: &EndpointProfile) -> FetchError {
    if let (Some(refused), EndpointProfile::HttpsSpiffe { endpoint_spiffe_id: expected }) =
        (SvidError::find_in(&error), profile)
    {
        return svid_refusal(refused.clone(), expected);
    }
    if let Some(svid) = causes(&error).find_map(|cause| cause.downcast_ref::<SvidInsteadOfWeb>()) {
        return FetchError::WebCertificate { source: svid.refusal.clone(), hint: Some(TRY_SPIFFE) };
    }
    let refused = causes(&error).find_map(|cause| cause.downcast_ref::<rustls::Error>()).cloned();
    match refused {
        Some(source @ rustls::Error::InvalidCertificate(_)) => {
            FetchError::WebCertificate { source, hint: None }
        }
        _ => FetchError::Tls { source: error },
    }
}

fn svid_refusal(source: SvidError, expected: &SpiffeId) -> FetchError {
    let other_id = source.presented().filter(|presented| *presented != expected).cloned();
    match (&source, other_id) {
        // No bundle: it is of a trust domain that has no say here.
        (SvidError::NotAuthorized { .. } | SvidError::NoBundle { .. }, Some(presented)) => {
            FetchError::WrongId { expected: expected.clone(), presented }
        }
        (_, None) if source.presented().is_none() => FetchError::Svid { source, hint: Some(TRY_WEB) },
        _ => FetchError::Svid { source, hint: None },
    }
}
