//! One GET of a foreign bundle endpoint. Stricter than SPIRE where SPIRE is careless: no redirects, a limit on time and size.

use std::sync::Arc;
use std::time::Duration;

use entente_bundle::document::{self, DocumentLimits};
use entente_bundle::tls::{SvidVerifier, client_config, provider};
use entente_bundle::{Authorizer, DocumentError, SpiffeId, SvidError, TrustDomain};
use entente_proto::convert::{BundleMessage, ConvertError};
use entente_proto::spire::api::types as wire;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls_pki_types::{InvalidDnsNameError, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const TIMEOUT: Duration = Duration::from_secs(30);
const MAX_BODY: usize = 4 << 20;

/// How the endpoint proves who it is.
#[derive(Debug)]
pub(crate) enum Profile {
    /// By an X509-SVID of this ID, verified against this bundle.
    Spiffe(SpiffeId, wire::Bundle),
    /// By a certificate of the web.
    Web,
}

/// Why a fetch failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("local copy of bundle is unusable: {0}")]
    Authentication(#[from] ConvertError),
    #[error("body: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    #[error("failed to decode bundle: {0}")]
    Document(#[from] DocumentError),
    #[error("failed to fetch bundle: Get \"{url}\": {source}")]
    Get { url: String, source: std::io::Error },
    #[error("failed to fetch bundle: Get \"{url}\": {source}")]
    Http { url: String, source: hyper::Error },
    #[error("failed to fetch bundle: Get \"{url}\": {}", in_spire_words(.source))]
    Refused { url: String, source: SvidError },
    #[error("unexpected status {status} fetching bundle: {text}")]
    Status { status: StatusCode, text: String },
    #[error("failed to fetch bundle: Get \"{url}\": timeout")]
    Timeout { url: String },
    #[error("tls: {0}")]
    Tls(#[from] rustls::Error),
    #[error("unusable URL {url}")]
    Url { url: String },
    #[error("cannot read web authorities: {0:?}")]
    WebAuthorities(Vec<rustls_native_certs::Error>),
}

fn in_spire_words(refusal: &SvidError) -> String {
    match refusal {
        SvidError::NotAuthorized { presented } => format!("unexpected ID \"{presented}\""),
        other => format!("x509svid: {other}"),
    }
}

/// A refused certificate hides in the error of the handshake.
fn handshake_error(url: &str, source: std::io::Error) -> FetchError {
    let url = url.to_owned();
    match SvidError::find_in(&source).cloned() {
        Some(source) => FetchError::Refused { url, source },
        None => FetchError::Get { url, source },
    }
}

impl From<InvalidDnsNameError> for FetchError {
    fn from(error: InvalidDnsNameError) -> Self {
        Self::Url { url: error.to_string() }
    }
}

/// Fetches and stamps with `trust_domain`. As with SPIRE the sequence number is thrown away.
pub(super) async fn fetch(
    url: &str,
    trust_domain: &TrustDomain,
    profile: Profile,
) -> Result<wire::Bundle, FetchError> {
    let body = tokio::time::timeout(TIMEOUT, get(url, profile)).await;
    let body = body.map_err(|_| FetchError::Timeout { url: url.to_owned() })??;
    let parsed = document::parse(&body, trust_domain, &DocumentLimits::default())?;
    Ok(wire::Bundle { sequence_number: 0, ..wire::Bundle::from(&parsed.bundle) })
}

async fn get(url: &str, profile: Profile) -> Result<Bytes, FetchError> {
    let bad_url = || FetchError::Url { url: url.to_owned() };
    let uri: Uri = url.parse().map_err(|_| bad_url())?;
    let host = uri.host().ok_or_else(bad_url)?.trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(443);
    let io = |source| FetchError::Get { url: url.to_owned(), source };
    let config = match profile {
        Profile::Spiffe(id, held) => spiffe_config(id, &held)?,
        Profile::Web => web_config()?,
    };
    let tcp = TcpStream::connect((host.as_str(), port)).await.map_err(io)?;
    let name = ServerName::try_from(host)?;
    let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
    let tls = tls.map_err(|error| handshake_error(url, error))?;
    let response =
        request(tls, &uri).await.map_err(|source| FetchError::Http { url: url.to_owned(), source })?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_BODY).collect().await.map_err(FetchError::Body)?;
    let body = body.to_bytes();
    if status != StatusCode::OK {
        let text = body.get(..body.len().min(1024)).unwrap_or_default();
        return Err(FetchError::Status { status, text: String::from_utf8_lossy(text).into_owned() });
    }
    Ok(body)
}

async fn request(tls: TlsStream<TcpStream>, uri: &Uri) -> Result<http::Response<Incoming>, hyper::Error> {
    let is_http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    let io = TokioIo::new(tls);
    let mut request = Request::new(Empty::<Bytes>::new());
    request.headers_mut().insert(header::USER_AGENT, header::HeaderValue::from_static("entente-lab"));
    if is_http2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        *request.uri_mut() = uri.clone();
        return sender.send_request(request).await;
    }
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    // Cannot fail: a path of a URI is a URI, an authority of a URI is a header value.
    *request.uri_mut() = Uri::try_from(path).unwrap_or_default();
    if let Some(host) = uri.authority().and_then(|one| header::HeaderValue::from_str(one.as_str()).ok()) {
        request.headers_mut().insert(header::HOST, host);
    }
    sender.send_request(request).await
}

fn spiffe_config(id: SpiffeId, held: &wire::Bundle) -> Result<ClientConfig, FetchError> {
    let held = BundleMessage::from(held).into_usable()?.bundle;
    let verifier = SvidVerifier::new(Arc::new(held), Authorizer::exact(id));
    Ok(client_config(verifier, None, &[b"h2", b"http/1.1"])?)
}

/// The system's authorities, or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name, as with Go.
fn web_config() -> Result<ClientConfig, FetchError> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        return Err(FetchError::WebAuthorities(found.errors));
    }
    let mut authorities = rustls::RootCertStore::empty();
    authorities.add_parsable_certificates(found.certs);
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(authorities)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}
