//! From an accepted socket to TLS: what the first byte says, the handshake under a timeout, and each failure with its reason.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use entente_bounds::Throttle;
use entente_bundle::causes::causes;
use rustls::{InvalidMessage, ServerConfig};
use tokio::io::{AsyncReadExt, Join, Take, join};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, error, info, warn};

use super::shortage::Shortage;
use crate::farewell::say_farewell;
use crate::identity::Identity;
use crate::link::SignError;
use crate::logging::chain;
use crate::metrics::Metrics;

/// What a peer may send before its handshake is done. With the largest key shares it is a quarter; TLS allows four times as
/// much, and all of that would lie in memory while the rest is awaited.
const MAX_HANDSHAKE_BYTES: u64 = 16 << 10;

/// For the rest of what may be the method of a request.
const METHOD_TIMEOUT: Duration = Duration::from_secs(1);

/// Content type of a TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

const PLAIN_HTTP_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\
    Connection: close\r\n\
    Content-Length: 48\r\n\
    \r\n\
    Client sent an HTTP request to an HTTPS server.\n";

/// A connection whose peer may send only so much until its handshake is done.
type Limited = Join<Take<OwnedReadHalf>, OwnedWriteHalf>;

/// A connection after its handshake.
pub(super) type Secured = TlsStream<Limited>;

/// The TLS side of one listener.
pub(crate) struct Tls {
    acceptor: TlsAcceptor,
    identity: Identity,
    strangers: Throttle,
    shortage: Shortage,
    shortages: Throttle,
}

/// Why a handshake did not come about.
enum Failure {
    /// The peer did not speak TLS.
    NotTls { first: u8 },
    /// The peer spoke HTTP.
    PlainHttp,
    /// The peer was gone or too slow.
    Silent { reason: &'static str },
    /// The peer sent more than a handshake needs.
    TooLarge,
    /// TLS said no.
    Tls(io::Error),
}

impl Tls {
    pub(crate) fn new(identity: Identity) -> Result<Arc<Self>, rustls::Error> {
        let config: ServerConfig = identity.server_config()?;
        Ok(Arc::new(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            identity,
            strangers: Throttle::new(Duration::from_secs(5)),
            shortages: Throttle::new(Duration::from_secs(10)),
            shortage: Shortage::default(),
        }))
    }

    /// `None` when there was no handshake; that is logged and counted here.
    pub(super) async fn handshake(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        patience: Duration,
        listener: &str,
        metrics: &Metrics,
    ) -> Option<Secured> {
        let accepted = timeout(patience, self.accept(stream)).await;
        match accepted.unwrap_or(Err(Failure::Silent { reason: "timeout" })) {
            Ok(stream) => {
                metrics.handshake(listener, "ok");
                if self.shortage.over() {
                    info!(listener, "handshakes succeed again");
                }
                Some(stream)
            }
            Err(failure) => {
                self.failed(&failure, peer, listener, metrics);
                None
            }
        }
    }

    async fn accept(&self, mut stream: TcpStream) -> Result<Secured, Failure> {
        let mut first = [0];
        match stream.peek(&mut first).await {
            Ok(0) => return Err(Failure::Silent { reason: "closed" }),
            Ok(_) => {}
            Err(_) => return Err(Failure::Silent { reason: "reset" }),
        }
        let [first] = first;
        if first == TLS_HANDSHAKE {
            return self.accept_tls(stream).await;
        }
        if speaks_http(&mut stream).await {
            say_farewell(stream, PLAIN_HTTP_ANSWER).await;
            return Err(Failure::PlainHttp);
        }
        Err(Failure::NotTls { first })
    }

    async fn accept_tls(&self, stream: TcpStream) -> Result<Secured, Failure> {
        let (reading, writing) = stream.into_split();
        let limited = join(reading.take(MAX_HANDSHAKE_BYTES), writing);
        match self.acceptor.accept(limited).into_fallible().await {
            Ok(mut stream) => {
                stream.get_mut().0.reader_mut().set_limit(u64::MAX);
                Ok(stream)
            }
            Err((error, mut stream)) => {
                // Where we read no further rustls saw an end.
                let cut = error.kind() == io::ErrorKind::UnexpectedEof && stream.reader().limit() == 0;
                let too_large = cut || tls_error(&error) == Some(TOO_LARGE);
                let signature = sign_error(&error).is_some();
                let alert: &[u8] = match (too_large, signature) {
                    (true, _) => &DECODE_ERROR_ALERT,
                    (false, true) => &INTERNAL_ERROR_ALERT,
                    // Where there is something to say, rustls has said it.
                    (false, false) => &[],
                };
                stream.reader_mut().set_limit(u64::MAX);
                say_farewell(stream, alert).await;
                Err(if too_large { Failure::TooLarge } else { Failure::Tls(error) })
            }
        }
    }

    fn failed(&self, failure: &Failure, peer: SocketAddr, listener: &str, metrics: &Metrics) {
        let reason = failure.outcome();
        metrics.handshake(listener, reason);
        let detail = match failure {
            Failure::Tls(error) if reason == "no_identity" || reason == "no_signature" => {
                self.no_identity(error, reason, peer, listener);
                return;
            }
            // Load balancers look whether the port is open all day long.
            Failure::Silent { reason: "closed" | "reset" } => {
                debug!(%peer, listener, reason, "handshake refused");
                return;
            }
            Failure::Tls(error) => Some(chain(error)),
            Failure::NotTls { first } => Some(format!("the first byte is {first:#04x}")),
            Failure::PlainHttp | Failure::Silent { .. } | Failure::TooLarge => None,
        };
        match self.strangers.pass() {
            Some(suppressed) => {
                info!(%peer, listener, reason, detail, suppressed, "handshake refused");
            }
            None => debug!(%peer, listener, reason, detail, "handshake refused"),
        }
    }

    fn no_identity(&self, error: &io::Error, outcome: &'static str, peer: SocketAddr, listener: &str) {
        let sign_error = sign_error(error);
        let detail = match sign_error {
            Some(error) => error.to_string(),
            None => match self.identity.unready() {
                Some((_, detail)) => detail,
                // It came in the meantime, or this client takes none of the signature schemes of our key.
                None => chain(error),
            },
        };
        let case = match sign_error {
            // Its text holds a number that changes all the time.
            Some(SignError::Busy { .. }) => "busy",
            _ => &detail,
        };
        match self.shortage.because_of(case, || self.shortages.pass()) {
            // Whoever signs there is not who lent the certificate, or is broken.
            Some(suppressed) if matches!(sign_error, Some(SignError::Wrong)) => {
                error!(%peer, listener, reason = outcome, detail, suppressed, "handshake refused: the signature is wrong");
            }
            Some(suppressed) => {
                warn!(%peer, listener, reason = outcome, detail, suppressed, "handshake refused: nobody can sign it");
            }
            None => {
                debug!(%peer, listener, reason = outcome, detail, "handshake refused: nobody can sign it")
            }
        }
    }
}

impl Failure {
    /// A word for metrics.
    fn outcome(&self) -> &'static str {
        let error = match self {
            Self::NotTls { .. } => return "not_tls",
            Self::PlainHttp => return "plain_http",
            Self::Silent { reason } => return reason,
            Self::TooLarge => return "too_large",
            Self::Tls(error) => error,
        };
        if sign_error(error).is_some() {
            return "no_signature";
        }
        match tls_error(error) {
            // Before a handshake is done, rustls' server says this only when the resolver had no certificate.
            Some(rustls::Error::General(_)) => "no_identity",
            Some(rustls::Error::AlertReceived(_)) => "peer_alert",
            Some(rustls::Error::InvalidMessage(_)) => "malformed",
            Some(rustls::Error::NoApplicationProtocol) => "no_application_protocol",
            Some(rustls::Error::PeerIncompatible(_)) => "incompatible",
            Some(rustls::Error::PeerMisbehaved(_)) => "misbehaved",
            Some(_) => "tls",
            None if error.kind() == io::ErrorKind::UnexpectedEof => "closed",
            None => "reset",
        }
    }
}

/// The only refusal of a message for which rustls sends no alert.
const TOO_LARGE: &rustls::Error = &rustls::Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge);

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn sign_error(error: &io::Error) -> Option<&SignError> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

// rustls sends no alert when a signer fails. The client has our ServerHello by then and would rather see an encrypted one,
// but nothing encrypted came before, so it must look at one in the clear; whoever does not ends the handshake all the same.
const INTERNAL_ERROR_ALERT: [u8; 7] = fatal_alert(80);

/// A message is longer than it may be.
const DECODE_ERROR_ALERT: [u8; 7] = fatal_alert(50);

/// In the clear.
const fn fatal_alert(description: u8) -> [u8; 7] {
    [0x15, 0x03, 0x03, 0, 2, 2, description]
}

// An upper-case letter may begin a request; the rest of the method decides.
async fn speaks_http(stream: &mut TcpStream) -> bool {
    const METHODS: [&[u8]; 10] =
        [b"GET ", b"HEAD", b"POST", b"PUT ", b"OPTI", b"DELE", b"CONN", b"TRAC", b"PATC", b"PRI "];
    let mut start = [0; 4];
    match timeout(METHOD_TIMEOUT, stream.read_exact(&mut start)).await {
        Ok(Ok(_)) => METHODS.contains(&start.as_slice()),
        Ok(Err(_)) | Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_plain_http_is_as_long_as_it_says() {
        let text = std::str::from_utf8(PLAIN_HTTP_ANSWER).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{head}");
        assert_eq!(body, "Client sent an HTTP request to an HTTPS server.\n");
    }
}
