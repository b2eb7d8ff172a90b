//! Requests as a peer sends them, and raw bytes as a peer should not.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use entente_bundle::tls::{SvidVerifier, client_config, provider};
use entente_bundle::{Authorizer, Bundle, SpiffeId, svid};
use http::{HeaderMap, Method, Request, Response, Version};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, ProtocolVersion, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub presented: Option<SpiffeId>,
    pub protocol: Option<ProtocolVersion>,
    pub version: Version,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// Trusts exactly this bundle and this ID, as `https_spiffe` says.
pub fn spiffe_tls(bundle: &Bundle, id: &str) -> ClientConfig {
    let authorizer = Authorizer::exact(SpiffeId::new(id).unwrap());
    let verifier = SvidVerifier::new(Arc::new(bundle.clone()), authorizer);
    client_config(verifier, None, &[b"h2", b"http/1.1"]).unwrap()
}

/// Trusts exactly this certificate, as `https_web` says.
pub fn web_tls(root: &CertificateDer<'static>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

pub async fn connect(address: SocketAddr, tls: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    connect_over(TcpStream::connect(address).await?, tls).await
}

pub async fn connect_over(tcp: TcpStream, tls: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::from(tcp.peer_addr()?.ip());
    TlsConnector::from(Arc::new(tls)).connect(name, tcp).await
}

pub async fn get(address: SocketAddr, tls: ClientConfig) -> io::Result<Answer> {
    ask(address, tls, Method::GET, "/", &[]).await
}

pub async fn ask(
    address: SocketAddr,
    tls: ClientConfig,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
) -> io::Result<Answer> {
    let stream = connect(address, tls).await?;
    let state = stream.get_ref().1;
    let leaf = state.peer_certificates().and_then(|chain| chain.first());
    let presented = leaf.and_then(|leaf| svid::leaf_id(leaf).ok());
    let protocol = state.protocol_version();
    let is_http2 = state.alpn_protocol() == Some(b"h2");
    let uri = if is_http2 { format!("https://{address}{path}") } else { path.to_owned() };
    let mut request = Request::builder().method(method).uri(uri);
    if !is_http2 {
        request = request.header("host", address.to_string());
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let io = TokioIo::new(stream);
    let response = if is_http2 {
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(connection);
        sender.send_request(request).await
    } else {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(io).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        sender.send_request(request).await
    };
    Ok(Answer { presented, protocol, ..read(response).await? })
}

async fn read(response: hyper::Result<Response<Incoming>>) -> io::Result<Answer> {
    let (head, body) = response.map_err(io::Error::other)?.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes().to_vec();
    let (status, headers, version) = (head.status.as_u16(), head.headers, head.version);
    Ok(Answer { status, headers, body, presented: None, protocol: None, version })
}

/// Plain HTTP, for the admin listener.
pub async fn plain(address: SocketAddr, path: &str) -> io::Result<Answer> {
    let tcp = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await.map_err(io::Error::other)?;
    tokio::spawn(connection);
    let request = Request::get(path).header("host", "admin").body(Empty::<Bytes>::new()).unwrap();
    read(sender.send_request(request).await).await
}

/// Sends bytes and reads all that comes back until the other side closes.
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A reset is as good as an end.
    let _ = timeout(Duration::from_secs(20), tcp.read_to_end(&mut answer))
        .await
        .expect("the connection is closed");
    answer
}
