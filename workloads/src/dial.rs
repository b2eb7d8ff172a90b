//! One connection to the server: TCP, TLS with a verified peer, HTTP/2. A connection is never repaired, only replaced, so
//! that a reply always comes from the peer whose ID stands beside it.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use entente_bundle::tls::CertificateSlot;
use entente_bundle::{SpiffeId, SvidError};
use entente_workload_identity::{Guarded, OpenConnections};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::body::Body;

use crate::{KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the end of a connection may take to tell its cause, once a call on it has failed.
const CAUSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("cannot connect to {address}")]
    Connect { address: String, source: io::Error },
    #[error("the tls handshake with {address} failed")]
    Handshake { address: SocketAddr, source: io::Error },
    #[error("http/2 cannot start")]
    Http(#[source] hyper::Error),
    #[error("there is no svid to present")]
    NoIdentity,
    #[error("the server is refused")]
    Refused(#[source] SvidError),
}

/// What every connection needs.
pub(crate) struct Dialer {
    /// `host:port`.
    pub(crate) address: String,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) slot: Arc<CertificateSlot>,
    pub(crate) connections: Arc<OpenConnections>,
}

/// An open connection and the verified ID of the server behind it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) requests: SendRequest<Body>,
    pub(crate) server: SpiffeId,
    driver: JoinHandle<hyper::Result<()>>,
    tls_failure: Arc<OnceLock<rustls::Error>>,
}

impl Dialer {
    pub(crate) async fn dial(&self) -> Result<Connection, DialError> {
        if self.slot.current().is_none() {
            return Err(DialError::NoIdentity);
        }
        let tls = self.handshake(self.connect().await?).await?;
        let (server, tls_failure) = (tls.peer().id.clone(), tls.tls_failure());
        let (requests, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(tls))
            .await
            .map_err(DialError::Http)?;
        Ok(Connection { requests, server, driver: tokio::spawn(connection), tls_failure })
    }

    /// A name may have several addresses; tokio tries one after the other.
    async fn connect(&self) -> Result<TcpStream, DialError> {
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&self.address)).await;
        let failed = |source| DialError::Connect { address: self.address.clone(), source };
        let tcp = connecting.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(failed)?;
        tcp.set_nodelay(true).map_err(failed)?;
        Ok(tcp)
    }

    async fn handshake(&self, tcp: TcpStream) -> Result<Guarded<TlsStream<TcpStream>>, DialError> {
        let address =
            tcp.peer_addr().map_err(|source| DialError::Connect { address: self.address.clone(), source })?;
        // An SVID names no host, so the name means nothing here and is not sent.
        let name = ServerName::IpAddress(address.ip().into());
        let handshake = TlsConnector::from(self.tls.clone()).connect(name, tcp);
        let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await;
        let tls = shaken
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|source| DialError::Handshake { address, source })?;
        let chain = tls.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
        self.connections.admit(tls, address, &chain, None).map_err(DialError::Refused)
    }
}

impl Connection {
    /// False once the server or the recheck has ended it.
    pub(crate) fn is_open(&self) -> bool {
        !self.requests.is_closed() && !self.driver.is_finished()
    }

    /// What ended the connection, after a call on it has failed. In TLS 1.3 the client is done with the handshake first:
    /// that the server refused our SVID is seen only here.
    pub(crate) async fn into_cause(self) -> Option<Box<dyn Error + Send + Sync>> {
        let ended = tokio::time::timeout(CAUSE_TIMEOUT, self.driver).await.ok()?.ok()?;
        match self.tls_failure.get() {
            Some(error) => Some(error.clone().into()),
            None => ended.err().map(Into::into),
        }
    }
}
