//! Why a link did not come up or ended, and who has to do something about it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use entente_bundle::causes::alert_words;
use entente_bundle::{SpiffeId, SvidError, TrustDomain};
use rustls::AlertDescription;

use super::session::SILENCE;
use crate::unix_socket::ConnectError;

/// Why a link ended or did not come up.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error(
        "the endpoint asked for no certificate that SPIRE Server could show, so it does not know who links, and was told nothing; a bundle-endpoint asks, so look what it is that answers there in its name"
    )]
    AskedForNothing,
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("cannot connect to {address}")]
    Dial { address: SocketAddr, source: io::Error },
    #[error("the endpoint ended the stream")]
    Ended,
    #[error("the tls handshake failed")]
    Handshake(#[source] io::Error),
    #[error("the endpoint did not say hello")]
    NoHello,
    #[error("SPIRE Server has lent no identity and told no bundle yet, and mutual tls needs both")]
    NoIdentity,
    #[error("the endpoint is for trust domain {presented:?}, expected {expected}")]
    OtherTrustDomain { expected: TrustDomain, presented: String },
    #[error(
        "the endpoint refused the certificate of SPIRE Server ({}); its log says why, and its agent may not know the newest authority yet",
        alert_words(*.alert)
    )]
    RefusedUs { alert: AlertDescription },
    #[error("nothing was heard for {}", humantime::format_duration(SILENCE))]
    Silent,
    #[error("the endpoint does not read what it is sent")]
    Stalled,
    #[error("the stream failed: {text}")]
    Stream { text: String },
    #[error("no answer within {}", humantime::format_duration(*.after))]
    TimedOut { after: Duration },
    #[error("the endpoint is not trusted")]
    Untrusted(#[source] SvidError),
    #[error(
        "the endpoint has another SPIFFE ID, expected {expected}; check endpoint_spiffe_id in the plugin's configuration, and the registration entry of the endpoint"
    )]
    WrongId { expected: SpiffeId, source: Box<SvidError> },
}

impl LinkError {
    /// The other end did not verify as `expected`. Only where its ID is another one is it of use to look at the configuration.
    pub(super) fn untrusted(error: SvidError, expected: &SpiffeId) -> Self {
        match error {
            SvidError::NotAuthorized { .. } | SvidError::NoBundle { .. } => {
                Self::WrongId { expected: expected.clone(), source: Box::new(error) }
            }
            _ => Self::Untrusted(error),
        }
    }

    /// One word for counters.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::AskedForNothing => "asked_for_nothing",
            Self::Connect(ConnectError::Connect { .. }) | Self::Dial { .. } => "connect",
            Self::Connect(ConnectError::Owner { .. }) => "uid",
            Self::Ended => "ended",
            Self::Handshake(_) => "handshake",
            Self::NoHello => "no_hello",
            Self::NoIdentity => "no_identity",
            Self::OtherTrustDomain { .. } => "trust_domain",
            Self::RefusedUs { .. } => "refused_us",
            Self::Silent => "silent",
            Self::Stalled => "stalled",
            Self::Stream { .. } => "stream",
            Self::TimedOut { .. } => "timeout",
            Self::Untrusted(error) => error.reason(),
            Self::WrongId { source, .. } => source.reason(),
        }
    }

    /// True where waiting will not help, but somebody who looks at the configuration of either side.
    pub(super) fn is_misconfiguration(&self) -> bool {
        matches!(
            self,
            Self::AskedForNothing
                | Self::Connect(ConnectError::Owner { .. })
                | Self::OtherTrustDomain { .. }
                | Self::WrongId { .. }
        )
    }

    /// True while nobody listens.
    pub(super) fn is_absence(&self) -> bool {
        matches!(self, Self::Connect(ConnectError::Connect { .. }) | Self::Dial { .. })
    }
}
