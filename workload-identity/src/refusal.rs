//! Why a handshake or a connection failed, in words for a log line: who presented what, and the reason.

use std::error::Error;
use std::io;

use entente_bundle::SvidError;
use entente_bundle::causes::causes;
use rustls::AlertDescription;

/// The one cause that matters in a chain of errors.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal<'a> {
    /// The peer ended the handshake with an alert: it refused *us*.
    ByPeer(AlertDescription),
    /// We refused the peer's SVID.
    Svid(&'a SvidError),
    /// Something else; a constant word.
    Other(&'static str),
}

impl<'a> Refusal<'a> {
    /// Looks through `error` and all its causes.
    pub fn find(error: &'a (dyn Error + 'static)) -> Self {
        if let Some(svid) = SvidError::find_in(error) {
            return Self::Svid(svid);
        }
        for cause in causes(error) {
            if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
                return Self::tls(tls);
            }
        }
        let kind =
            causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind).last();
        Self::Other(match kind {
            Some(io::ErrorKind::TimedOut) => "timeout",
            Some(
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe,
            ) => "closed",
            _ => "failed",
        })
    }

    fn tls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::AlertReceived(alert) => Self::ByPeer(*alert),
            rustls::Error::InvalidMessage(_) | rustls::Error::InappropriateMessage { .. } => {
                Self::Other("not_tls")
            }
            rustls::Error::NoApplicationProtocol => Self::Other("no_common_protocol"),
            rustls::Error::NoCertificatesPresented => Self::Other("no_certificate"),
            rustls::Error::PeerIncompatible(_) => Self::Other("incompatible"),
            _ => Self::Other("tls"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    #[test]
    fn an_alert_is_found_under_wrappers() {
        let alert = rustls::Error::AlertReceived(AlertDescription::CertificateUnknown);
        let error = Outer(io::Error::other(io::Error::new(io::ErrorKind::InvalidData, alert)));
        assert_eq!(Refusal::find(&error), Refusal::ByPeer(AlertDescription::CertificateUnknown));
    }

    #[test]
    fn a_bare_end_of_stream_is_told_from_a_timeout() {
        let closed = Outer(io::ErrorKind::UnexpectedEof.into());
        assert_eq!(Refusal::find(&closed), Refusal::Other("closed"));
        let slow = Outer(io::ErrorKind::TimedOut.into());
        assert_eq!(Refusal::find(&slow), Refusal::Other("timeout"));
    }
}
