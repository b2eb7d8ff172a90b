//! From an accepted socket to TLS: what the first byte says, the handshake under a timeout, and each failure with its reason.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use entente_bundle::causes::causes;
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, info, warn};

use crate::identity::Identity;
use crate::link::SignError;
use crate::logging::Throttle;
use crate::metrics::Metrics;

/// From the accepted connection to the end of the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// For somebody who does not speak TLS to read what we have to say.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// Content type of a TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

const PLAIN_HTTP_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\
    Connection: close\r\n\
    Content-Length: 48\r\n\
    \r\n\
    Client sent an HTTP request to an HTTPS server.\n";

/// The TLS side of one listener.
pub(crate) struct Tls {
    acceptor: TlsAcceptor,
    identity: Identity,
    strangers: Throttle,
    // That nobody can sign is a warning once, and so is its end. A stranger who asks for more signatures than the plugin
    // gives in a second brings both about again and again, so they are braked as well.
    shortages: Throttle,
    shortage_told: AtomicBool,
}

/// Why a handshake did not come about.
enum Failure {
    /// The peer did not speak TLS.
    NotTls { first: u8 },
    /// The peer spoke HTTP.
    PlainHttp,
    /// The peer was gone or too slow.
    Silent { reason: &'static str },
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
            shortage_told: AtomicBool::new(false),
        }))
    }

    /// `None` when there was no handshake; that is logged and counted here.
    pub(crate) async fn handshake(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        listener: &str,
        metrics: &Metrics,
    ) -> Option<TlsStream<TcpStream>> {
        let accepted = timeout(HANDSHAKE_TIMEOUT, self.accept(stream)).await;
        match accepted.unwrap_or(Err(Failure::Silent { reason: "timeout" })) {
            Ok(stream) => {
                metrics.handshake(listener, "ok");
                if self.shortage_told.swap(false, Ordering::Relaxed) {
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

    async fn accept(&self, mut stream: TcpStream) -> Result<TlsStream<TcpStream>, Failure> {
        let mut first = [0];
        match stream.peek(&mut first).await {
            Ok(0) => return Err(Failure::Silent { reason: "closed" }),
            Ok(_) => {}
            Err(_) => return Err(Failure::Silent { reason: "reset" }),
        }
        let [first] = first;
        if first == TLS_HANDSHAKE {
            return match self.acceptor.accept(stream).into_fallible().await {
                Ok(stream) => Ok(stream),
                Err((error, stream)) => {
                    if sign_error(&error).is_some() {
                        alert_internal_error(stream).await;
                    }
                    Err(Failure::Tls(error))
                }
            };
        }
        if speaks_http(&mut stream).await {
            answer_plain_http(stream).await;
            return Err(Failure::PlainHttp);
        }
        Err(Failure::NotTls { first })
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
            Failure::Tls(error) => Some(error.to_string()),
            Failure::NotTls { first } => Some(format!("the first byte is {first:#04x}")),
            Failure::PlainHttp | Failure::Silent { .. } => None,
        };
        match self.strangers.pass() {
            Some(suppressed) => {
                info!(%peer, listener, reason, detail, suppressed, "handshake refused");
            }
            None => debug!(%peer, listener, reason, detail, "handshake refused"),
        }
    }

    fn no_identity(&self, error: &io::Error, outcome: &'static str, peer: SocketAddr, listener: &str) {
        let detail = match sign_error(error) {
            Some(error) => error.to_string(),
            None => match self.identity.unready() {
                Some((_, detail)) => detail,
                // It came in the meantime, or this client takes none of the signature schemes of our key.
                None => error.to_string(),
            },
        };
        let told = self.shortage_told.load(Ordering::Relaxed);
        match if told { None } else { self.shortages.pass() } {
            Some(suppressed) => {
                self.shortage_told.store(true, Ordering::Relaxed);
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
            Self::Tls(error) => error,
        };
        if sign_error(error).is_some() {
            return "no_signature";
        }
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
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

fn sign_error(error: &io::Error) -> Option<&SignError> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// A fatal `internal_error` in the clear.
const INTERNAL_ERROR_ALERT: [u8; 7] = [0x15, 0x03, 0x03, 0, 2, 2, 80];

// rustls sends no alert when a signer fails. The client has our ServerHello by then and would rather see an encrypted one,
// but nothing encrypted came before, so it must look at one in the clear; whoever does not ends the handshake all the same.
async fn alert_internal_error(mut stream: TcpStream) {
    let farewell = async {
        stream.write_all(&INTERNAL_ERROR_ALERT).await?;
        stream.shutdown().await
    };
    // The connection is lost either way.
    let _ = timeout(FAREWELL_TIMEOUT, farewell).await;
}

// An upper-case letter may begin a request; the rest of the method decides.
async fn speaks_http(stream: &mut TcpStream) -> bool {
    const METHODS: [&[u8]; 10] =
        [b"GET ", b"HEAD", b"POST", b"PUT ", b"OPTI", b"DELE", b"CONN", b"TRAC", b"PATC", b"PRI "];
    let mut start = [0; 4];
    match timeout(FAREWELL_TIMEOUT, stream.read_exact(&mut start)).await {
        Ok(Ok(_)) => METHODS.contains(&start.as_slice()),
        Ok(Err(_)) | Err(_) => false,
    }
}

async fn answer_plain_http(mut stream: TcpStream) {
    let farewell = async {
        stream.write_all(PLAIN_HTTP_ANSWER).await?;
        stream.shutdown().await?;
        // Closing with unread bytes would reset the connection and could take the answer with it.
        let mut rest = [0; 1024];
        for _ in 0..64 {
            if stream.read(&mut rest).await? == 0 {
                break;
            }
        }
        Ok::<_, io::Error>(())
    };
    // Whoever cannot wait for the answer does not get it.
    let _ = timeout(FAREWELL_TIMEOUT, farewell).await;
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
