//! One fetch: connect, authenticate, read at most N bytes, parse. The configured trust domain names the bundle.

use std::sync::Arc;
use std::time::Duration;

use entente_bundle::document::{self, DocumentLimits, ParsedDocument};
use entente_bundle::text::{printable, without_userinfo};
use entente_bundle::{BundleSource, SpiffeId, TrustDomain};
use http::header::{ACCEPT, ACCEPT_ENCODING, HOST, LOCATION, USER_AGENT};
use http::{Request, Response, StatusCode, Version};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::body;
use super::dial::{self, Dialled};
use super::error::FetchError;
use super::relationship::EndpointProfile;
use super::resolve::{Neighbourhood, Reach, Resolver};
use super::url::EndpointUrl;
use super::web::SystemRoots;

/// Redirects that are followed where following is on; each costs a connection and a handshake.
const MAX_REDIRECTS: usize = 3;

/// Headers of an answer.
const MAX_HEADER_BYTES: usize = 64 << 10;

/// What to fetch, and how the endpoint proves itself.
#[derive(Clone, Debug)]
pub(crate) struct FetchRequest {
    /// Whose bundle it is, whatever the document says.
    pub(crate) trust_domain: TrustDomain,
    /// As configured.
    pub(crate) url: String,
    /// How the endpoint proves itself.
    pub(crate) profile: EndpointProfile,
    /// Whether a redirect is followed.
    pub(crate) follow_redirects: bool,
}

/// Bounds on one fetch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FetchLimits {
    /// For everything, redirects included.
    pub(crate) request_timeout: Duration,
    /// Of the document, after inflating.
    pub(crate) max_bytes: usize,
    /// Elements of the document.
    pub(crate) max_keys: usize,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// The document, read.
    pub(crate) parsed: ParsedDocument,
    /// The document, as it came.
    pub(crate) text: Vec<u8>,
    /// The ID that the endpoint proved; `https_spiffe` only.
    pub(crate) presented: Option<SpiffeId>,
    /// Where the bundle was in the end.
    pub(crate) url: EndpointUrl,
}

/// Fetches; holds nothing of any one relationship.
#[derive(Clone, Debug)]
pub(crate) struct FetchClient {
    limits: FetchLimits,
    system_roots: Arc<SystemRoots>,
    resolver: Resolver,
}

impl FetchClient {
    /// A client with these bounds.
    pub(crate) fn new(limits: FetchLimits) -> Self {
        Self { limits, system_roots: Arc::default(), resolver: Resolver::default() }
    }

    /// One fetch. `bundles` is asked once, at the start, for the bundle that authenticates an `https_spiffe` endpoint.
    ///
    /// # Errors
    /// [`FetchError`] says why there is no bundle; nothing of a refused document may be used.
    pub(crate) async fn fetch(
        &self,
        request: &FetchRequest,
        bundles: &dyn BundleSource,
    ) -> Result<Fetched, FetchError> {
        let after = self.limits.request_timeout;
        let fetched = timeout(after, self.fetch_unbounded(request, bundles)).await;
        fetched.map_err(|_| FetchError::Timeout { stage: "the whole fetch", after })?
    }

    async fn fetch_unbounded(
        &self,
        request: &FetchRequest,
        bundles: &dyn BundleSource,
    ) -> Result<Fetched, FetchError> {
        let mut url: EndpointUrl = request.url.parse()?;
        // The same for every hop: a redirect target must prove the same ID with the same bundle (FED 5.2.2).
        let tls = dial::tls_for(&request.profile, bundles, &self.system_roots).await?;
        let mut reach = Reach::Anywhere;
        let mut redirects = 0;
        loop {
            let (response, connection) = self.get(&url, &request.profile, &tls, reach).await?;
            if reach == Reach::Anywhere {
                reach = Reach::OutsideOr(connection.home);
            }
            if response.status().is_redirection() && response.status() != StatusCode::NOT_MODIFIED {
                url = redirect_target(&url, &response, request.follow_redirects)?;
                redirects += 1;
                if redirects > MAX_REDIRECTS {
                    return Err(FetchError::TooManyRedirects { limit: MAX_REDIRECTS });
                }
                continue;
            }
            let text = self.document_of(response).await?;
            let limits = DocumentLimits {
                max_bytes: self.limits.max_bytes,
                max_keys: self.limits.max_keys,
                ..DocumentLimits::default()
            };
            let parsed = document::parse(&text, &request.trust_domain, &limits)?;
            return Ok(Fetched { parsed, text, presented: connection.presented, url });
        }
    }

    async fn get(
        &self,
        url: &EndpointUrl,
        profile: &EndpointProfile,
        tls: &Arc<ClientConfig>,
        reach: Reach,
    ) -> Result<(Response<Incoming>, Connection), FetchError> {
        let Dialled { stream, address, presented } =
            dial::dial(url, profile, tls, &self.resolver, reach).await?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let io = TokioIo::new(stream);
        let home = Neighbourhood::of(address.ip());
        // A connection that breaks fails the request on it, which is where the error is wanted.
        if is_http2 {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            let max = u32::try_from(MAX_HEADER_BYTES).unwrap_or(u32::MAX);
            let (mut sender, connection) = builder.max_header_list_size(max).handshake(io).await?;
            let driver = tokio::spawn(async move { drop(connection.await) });
            let connection = Connection { presented, home, _driver: AbortOnDropHandle::new(driver) };
            Ok((sender.send_request(question(url, true)).await?, connection))
        } else {
            let mut builder = http1::Builder::new();
            let (mut sender, connection) = builder.max_buf_size(MAX_HEADER_BYTES).handshake(io).await?;
            let driver = tokio::spawn(async move { drop(connection.await) });
            let connection = Connection { presented, home, _driver: AbortOnDropHandle::new(driver) };
            Ok((sender.send_request(question(url, false)).await?, connection))
        }
    }

    async fn document_of(&self, response: Response<Incoming>) -> Result<Vec<u8>, FetchError> {
        let (head, body) = response.into_parts();
        // Only 200 is the document: a 203 or 206 is somebody else's or a part of it.
        if head.status != StatusCode::OK {
            let status = head.status.as_u16();
            return Err(FetchError::Status { status, body: body::start(body).await });
        }
        body::read(&head.headers, body, self.limits.max_bytes).await
    }
}

/// Drives a connection while its answer is read.
struct Connection {
    presented: Option<SpiffeId>,
    home: Neighbourhood,
    _driver: AbortOnDropHandle<()>,
}

fn question(url: &EndpointUrl, is_http2: bool) -> Request<Empty<Bytes>> {
    let target = if is_http2 { url.to_string() } else { url.path_and_query().to_owned() };
    let mut builder = Request::get(target)
        .header(ACCEPT, "application/json")
        .header(ACCEPT_ENCODING, "gzip")
        .header(USER_AGENT, concat!("bundle-endpoint/", env!("CARGO_PKG_VERSION")));
    builder = if is_http2 { builder.version(Version::HTTP_2) } else { builder.header(HOST, url.authority()) };
    // Cannot fail: the URL was parsed by the same library, the rest is ours. An empty request would ask for the same path.
    builder.body(Empty::new()).unwrap_or_default()
}

fn redirect_target(
    from: &EndpointUrl,
    response: &Response<Incoming>,
    follow: bool,
) -> Result<EndpointUrl, FetchError> {
    let location = response.headers().get(LOCATION).map(http::HeaderValue::as_bytes).unwrap_or_default();
    let location = String::from_utf8_lossy(location);
    let shown = || printable(&without_userinfo(&location), 200);
    if !follow {
        return Err(FetchError::RedirectRefused { location: shown() });
    }
    if location.is_empty() {
        let status = response.status().as_u16();
        return Err(FetchError::Status { status, body: "a redirect that names no target".into() });
    }
    from.join(&location).map_err(|source| FetchError::RedirectTarget { location: shown(), source })
}
