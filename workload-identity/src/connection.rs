//! One connection to the Workload API, and the one call that we make on it.

use std::io;
use std::time::Duration;

use entente_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use entente_proto::workload::{X509svidRequest, X509svidResponse};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Streaming};

use crate::{WorkloadApiAddress, WorkloadApiError};

/// A local socket answers at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The first message "comes at once"; attestation of the caller may take an agent some seconds.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// On TCP, how soon the system looks whether the other end is still there when nothing is said.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// An SVID, and the bundles of some thousand foreign trust domains.
const MESSAGE_LIMIT: usize = 16 * 1024 * 1024;

/// The stream of updates, each the full state.
pub(crate) struct Updates(Streaming<X509svidResponse>);

/// Connects and asks for X509-SVIDs. Returns with the first update, so that success here means that one was received.
pub(crate) async fn open(
    address: &WorkloadApiAddress,
) -> Result<(X509svidResponse, Updates), WorkloadApiError> {
    let channel = connect(address).await?;
    let mut client = SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT);
    let mut request = Request::new(X509svidRequest {});
    // WAPI 4.3: a server refuses calls without it, so that no web page can be tricked into making one.
    request.metadata_mut().insert("workload.spiffe.io", tonic::metadata::MetadataValue::from_static("true"));
    let first = async {
        let stream = client.fetch_x509svid(request).await.map_err(WorkloadApiError::from_status)?;
        let mut updates = Updates(stream.into_inner());
        let update = updates.next().await?;
        Ok((update, updates))
    };
    tokio::time::timeout(FIRST_ANSWER_TIMEOUT, first).await.unwrap_or(Err(WorkloadApiError::Silent))
}

impl Updates {
    /// The next update, or why there will be none.
    pub(crate) async fn next(&mut self) -> Result<X509svidResponse, WorkloadApiError> {
        match self.0.message().await {
            Ok(Some(update)) => Ok(update),
            Ok(None) => Err(WorkloadApiError::Ended),
            Err(status) => Err(WorkloadApiError::from_status(status)),
        }
    }
}

/// SPIRE answers HTTP/2 pings sent too often with GOAWAY, so this channel sends none. On a Unix socket the end of the agent is
/// the end of the connection; on TCP the system's own probes find out.
async fn connect(address: &WorkloadApiAddress) -> Result<Channel, WorkloadApiError> {
    let connected = match address {
        WorkloadApiAddress::Tcp(socket) => match Endpoint::from_shared(format!("http://{socket}")) {
            Ok(endpoint) => {
                endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_keepalive(Some(KEEPALIVE)).connect().await
            }
            Err(error) => Err(error),
        },
        WorkloadApiAddress::Unix(path) => {
            let path = path.clone();
            let connector = tower::service_fn(move |_: http::Uri| {
                let path = path.clone();
                async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
            });
            let endpoint = Endpoint::from_static("http://localhost").connect_timeout(CONNECT_TIMEOUT);
            endpoint.connect_with_connector(connector).await
        }
    };
    connected.map_err(|source| WorkloadApiError::Unreachable { address: address.clone(), source })
}
