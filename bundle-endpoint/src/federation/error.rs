//! Why a fetch brought no bundle, as facts: each names the guilty, and each is one word for metrics.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use entente_bundle::{DocumentError, SpiffeId, SvidError, TrustDomain};

use super::url::UrlError;

/// Why a fetch failed. Whatever the reason, the held bundle stays in force.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// Not one address accepted the connection.
    #[error("cannot connect to {address}")]
    Connect {
        /// The last that was tried.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The document cannot be used.
    #[error("the bundle document is refused")]
    Document(#[from] DocumentError),
    /// An encoding that was not asked for.
    #[error("the answer has content encoding {encoding:?}, which was not asked for")]
    Encoding {
        /// As the peer says.
        encoding: String,
    },
    /// The connection or HTTP on it broke.
    #[error("the answer did not arrive whole")]
    Http(#[from] hyper::Error),
    /// The compressed body is broken.
    #[error("the answer cannot be inflated")]
    Inflate {
        /// Why.
        source: io::Error,
    },
    /// The endpoint's ID is of a trust domain whose bundle nobody gave us.
    #[error("no bundle of {trust_domain} is held to authenticate the endpoint with")]
    NoAuthenticationBundle {
        /// Of the endpoint SPIFFE ID.
        trust_domain: TrustDomain,
    },
    /// A redirect, and the operator has not turned following on.
    #[error("the endpoint redirects to {location:?}, and follow_redirects is off")]
    RedirectRefused {
        /// Where to.
        location: String,
    },
    /// A redirect to what is no valid endpoint URL, for instance plain `http`.
    #[error("the endpoint redirects to {location:?}, which is refused")]
    RedirectTarget {
        /// Where to.
        location: String,
        /// What is wrong with it.
        source: UrlError,
    },
    /// A redirect that leads into our own network.
    #[error("the endpoint redirects to {url}, which is on this machine or on a private network")]
    RedirectInwards {
        /// Where to.
        url: String,
    },
    /// The name has no address.
    #[error("{host:?} has no address")]
    Resolve {
        /// The host.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// The presented X509-SVID does not verify.
    #[error("the endpoint's certificate is refused{}", hint_text(hint))]
    Svid {
        /// Why.
        source: SvidError,
        /// The way out, where it can be guessed.
        hint: Option<&'static str>,
    },
    /// Another status than 200.
    #[error("the endpoint answered with status {status}: {body:?}")]
    Status {
        /// The status.
        status: u16,
        /// The first bytes of the answer.
        body: String,
    },
    /// Too slow.
    #[error("{stage} did not end within {} seconds", after.as_secs())]
    Timeout {
        /// What took too long.
        stage: &'static str,
        /// The limit.
        after: Duration,
    },
    /// The handshake failed for a reason that is not the certificate.
    #[error("the tls handshake failed")]
    Tls {
        /// Why.
        source: io::Error,
    },
    /// The body is larger than allowed, after inflating.
    #[error("the answer is larger than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// A redirect after the last that is followed.
    #[error("the endpoint redirected more than {limit} times")]
    TooManyRedirects {
        /// How many are followed.
        limit: usize,
    },
    /// The configured URL is none.
    #[error("the bundle endpoint url is refused")]
    Url(#[from] UrlError),
    /// The web certificate does not verify.
    #[error("the endpoint's web certificate is refused{}", hint_text(hint))]
    WebCertificate {
        /// Why.
        source: rustls::Error,
        /// The way out, where it can be guessed.
        hint: Option<&'static str>,
    },
    /// The authorities for `https_web` cannot be used.
    #[error("the authorities for https_web cannot be used: {detail}")]
    WebRoots {
        /// What is wrong.
        detail: String,
    },
    /// An X509-SVID of another ID than the configured one.
    #[error("the endpoint presented {presented}, but {expected} is expected")]
    WrongId {
        /// As configured.
        expected: SpiffeId,
        /// As presented; whether its chain verifies was not asked where its trust domain is another one.
        presented: SpiffeId,
    },
}

fn hint_text(hint: &Option<&'static str>) -> String {
    hint.map(|hint| format!(" ({hint})")).unwrap_or_default()
}

impl FetchError {
    /// A constant word for metrics and status.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "connect",
            Self::Document(DocumentError::TooLarge { .. }) | Self::TooLarge { .. } => "too_large",
            Self::Document(_) | Self::Inflate { .. } => "malformed",
            Self::Encoding { .. } => "encoding",
            Self::Http(_) => "http",
            Self::NoAuthenticationBundle { .. } => "no_authentication_bundle",
            Self::RedirectRefused { .. }
            | Self::RedirectTarget { .. }
            | Self::RedirectInwards { .. }
            | Self::TooManyRedirects { .. } => "redirect",
            Self::Resolve { .. } => "resolve",
            Self::Svid { source, .. } => source.reason(),
            Self::Status { .. } => "status",
            Self::Timeout { .. } => "timeout",
            Self::Tls { .. } => "tls",
            Self::Url(_) => "url",
            Self::WebCertificate { source, .. } => web_reason(source),
            Self::WebRoots { .. } => "web_roots",
            Self::WrongId { .. } => "wrong_id",
        }
    }

    /// True when a newer bundle for authentication might change the outcome.
    pub(crate) fn is_authentication(&self) -> bool {
        matches!(self, Self::NoAuthenticationBundle { .. } | Self::Svid { .. } | Self::WrongId { .. })
    }

    /// The SPIFFE ID that the endpoint presented, where the failure knows it.
    pub(crate) fn presented(&self) -> Option<&SpiffeId> {
        match self {
            Self::WrongId { presented, .. } => Some(presented),
            Self::Svid { source, .. } => source.presented(),
            _ => None,
        }
    }
}

fn web_reason(error: &rustls::Error) -> &'static str {
    use rustls::CertificateError as Certificate;
    let rustls::Error::InvalidCertificate(error) = error else {
        return "tls";
    };
    match error {
        Certificate::Expired | Certificate::ExpiredContext { .. } => "expired",
        Certificate::NotValidYet | Certificate::NotValidYetContext { .. } => "not_valid_yet",
        Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => "wrong_name",
        Certificate::UnknownIssuer | Certificate::BadSignature => "unknown_issuer",
        _ => "certificate",
    }
}
