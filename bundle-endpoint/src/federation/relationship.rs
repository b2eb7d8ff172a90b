//! A federation relationship as the plugin names it: with whom, where, and how the endpoint is authenticated.
//!
//! Trust domain, URL and profile are three separate settings and never guessed from each other (FED 7.2).

use entente_bundle::{SpiffeId, TrustDomain};

/// One foreign trust domain and where its bundle is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FederationRelationship {
    /// Whose bundle it is, whatever the document says.
    pub(crate) trust_domain: TrustDomain,
    /// As configured; a wrong one fails each fetch with its reason, so that it stays visible.
    pub(crate) bundle_endpoint_url: String,
    /// How the endpoint proves itself.
    pub(crate) profile: EndpointProfile,
    /// Who sets the bundle.
    pub(crate) mode: Mode,
    /// FED 7.5.1 lets an operator turn redirects off; here they are off until turned on.
    pub(crate) follow_redirects: bool,
}

/// How a bundle endpoint proves that it is the right one (FED 5.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EndpointProfile {
    /// With an X509-SVID of exactly this ID.
    HttpsSpiffe {
        /// The ID.
        endpoint_spiffe_id: SpiffeId,
    },
    /// With a certificate for the URL's host.
    HttpsWeb {
        /// PEM text of the only authorities to trust; the system's web PKI roots where `None`.
        ca_certificates: Option<String>,
    },
}

/// Who brings the bundle into SPIRE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// SPIRE has the relationship and fetches itself; we watch for changes.
    Assisted,
    /// We fetch, the plugin verifies and sets.
    Managed,
}

impl EndpointProfile {
    /// The name on the wire.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::HttpsSpiffe { .. } => "https_spiffe",
            Self::HttpsWeb { .. } => "https_web",
        }
    }

    /// Which trust domain's bundle authenticates the endpoint, if any does.
    pub(crate) fn authenticating_domain(&self) -> Option<&TrustDomain> {
        match self {
            Self::HttpsSpiffe { endpoint_spiffe_id } => Some(endpoint_spiffe_id.trust_domain()),
            Self::HttpsWeb { .. } => None,
        }
    }
}

impl Mode {
    /// The name in configuration and logs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Assisted => "assisted",
            Self::Managed => "managed",
        }
    }
}
