//! What the public listeners serve as: lent by the plugin, from the Workload API, or from files.

use std::sync::Arc;

use entente_bundle::tls::CertificateSlot;
use rustls::server::ResolvesServerCert;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};

use crate::config::{ServingIdentity, ServingProfile};
use crate::link::Hub;

pub(crate) mod files;
pub(crate) mod keyless;

/// One listener's identity.
#[derive(Clone, Debug)]
pub(crate) enum Identity {
    /// The SPIRE Server's, over the link.
    Server(Arc<Hub>),
    /// From the Workload API.
    Workload(Arc<CertificateSlot>),
    /// A web certificate from files.
    Web(Arc<CertificateSlot>),
}

/// HTTP/2 first, as SPIRE offers it.
const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];

impl Identity {
    /// TLS for a listener with this identity; certificates are looked up at each handshake.
    pub(crate) fn server_config(&self) -> Result<ServerConfig, rustls::Error> {
        let both: &[&'static SupportedProtocolVersion] = &[&TLS13, &TLS12];
        // The plugin signs one form of message only, which is TLS 1.3's.
        let newest: &[&'static SupportedProtocolVersion] = &[&TLS13];
        let (resolver, versions): (Arc<dyn ResolvesServerCert>, _) = match self {
            Self::Server(hub) => (Arc::clone(&hub.lenders) as _, newest),
            Self::Workload(slot) | Self::Web(slot) => (Arc::clone(slot) as _, both),
        };
        entente_bundle::tls::public_server_config(resolver, versions, ALPN)
    }

    /// Why a handshake would fail now, if it would: the name of the reason and words for an operator.
    pub(crate) fn unready(&self) -> Option<(&'static str, String)> {
        match self {
            Self::Server(hub) => {
                let now = crate::time::unix_now();
                if hub.lenders.current(now).is_none() {
                    let links = *hub.link_count().borrow();
                    return Some(("no_signer", hub.lenders.why_none(links).into()));
                }
                hub.lenders.failing(now).map(|failure| ("no_signer", failure.to_string()))
            }
            Self::Workload(slot) if slot.current().is_none() => {
                Some(("no_identity", "the Workload API has not issued an identity".into()))
            }
            Self::Web(slot) if slot.current().is_none() => {
                Some(("no_certificate", "the certificate files could not be used yet".into()))
            }
            Self::Workload(_) | Self::Web(_) => None,
        }
    }
}

/// The words of the configuration.
pub(crate) fn profile_name(profile: &ServingProfile) -> &'static str {
    match profile {
        ServingProfile::HttpsSpiffe(_) => "https_spiffe",
        ServingProfile::HttpsWeb { .. } => "https_web",
    }
}

/// The words of the configuration.
pub(crate) fn identity_name(profile: &ServingProfile) -> &'static str {
    match profile {
        ServingProfile::HttpsSpiffe(ServingIdentity::Server) => "server",
        ServingProfile::HttpsSpiffe(ServingIdentity::Workload) => "workload",
        ServingProfile::HttpsWeb { .. } => "files",
    }
}
