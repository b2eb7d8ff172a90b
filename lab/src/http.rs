//! Asking bundle endpoints as a person would: with `curl` where it is installed, else with a client of our own.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio_rustls::TlsConnector;

use crate::tls_probe::AcceptAny;

const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_BODY: usize = 4 << 20;

/// How the server's certificate is checked.
#[derive(Clone, Debug)]
pub enum Trust {
    /// `curl -k`: not at all. An SVID names no host, so this is what a browser can do with one.
    Anything,
    /// `curl --cacert FILE`: against this authority only, host name included.
    CaFile(PathBuf),
    /// Plain HTTP, or whatever the client does by itself.
    Default,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Such as GET.
    pub method: Method,
    /// Absolute.
    pub url: String,
    /// Besides what the client sends by itself.
    pub headers: Vec<(HeaderName, String)>,
    /// How the server is checked.
    pub trust: Trust,
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status line and headers as they came.
    pub head: String,
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its whole body.
    pub body: Vec<u8>,
}

impl Request {
    /// GET without further headers.
    pub fn get(url: &str, trust: Trust) -> Self {
        Self { method: Method::GET, url: url.to_owned(), headers: Vec::new(), trust }
    }
    /// The same with another method.
    #[must_use]
    pub fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }
    /// One more header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
    fn in_words(&self) -> String {
        let mut words = format!("(the lab's own client) {} {}", self.method, self.url);
        for (name, value) in &self.headers {
            words.push_str(&format!(", {name}: {value}"));
        }
        match &self.trust {
            Trust::Anything => words.push_str(", any certificate"),
            Trust::CaFile(file) => words.push_str(&format!(", verified by {}", file.display())),
            Trust::Default => {}
        }
        words
    }
    /// Arguments for curl; `-i` shows the headers.
    fn curl_arguments(&self) -> Vec<String> {
        let mut arguments = vec!["-sS".to_owned()];
        match &self.trust {
            Trust::Anything => arguments.push("-k".to_owned()),
            Trust::CaFile(file) => arguments.extend(["--cacert".to_owned(), file.display().to_string()]),
            Trust::Default => {}
        }
        match self.method {
            Method::GET => arguments.push("-i".to_owned()),
            Method::HEAD => arguments.push("-I".to_owned()),
            _ => arguments.extend(["-i".to_owned(), "-X".to_owned(), self.method.to_string()]),
        }
        for (name, value) in &self.headers {
            arguments.extend(["-H".to_owned(), format!("{name}: {value}")]);
        }
        arguments.push(self.url.clone());
        arguments
    }
}

impl Reply {
    /// A header as text.
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
    /// All of it, as `curl -i` prints it.
    pub fn printed(&self) -> String {
        format!("{}\n\n{}", self.head, self.text())
    }
    /// Its body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// What asks.
#[derive(Clone, Debug)]
pub enum Browser {
    /// The installed curl.
    Curl(PathBuf),
    /// Ours.
    Own,
}

impl Browser {
    /// curl where it is on the path.
    pub fn find() -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let curl = std::env::split_paths(&path).map(|folder| folder.join("curl")).find(|curl| curl.is_file());
        curl.map_or(Self::Own, Self::Curl)
    }
    /// What is done: the request as a person would type it, or in words where there is nothing to type.
    pub fn command_line(&self, request: &Request) -> String {
        let Self::Curl(_) = self else { return request.in_words() };
        let arguments = request.curl_arguments().into_iter().map(|argument| {
            if argument.contains([' ', '"', '*']) { format!("'{argument}'") } else { argument }
        });
        format!("curl {}", arguments.collect::<Vec<_>>().join(" "))
    }
    /// Asks.
    pub async fn ask(&self, request: &Request) -> anyhow::Result<Reply> {
        let asked = async {
            match self {
                Self::Curl(program) => ask_by_curl(program, request).await,
                Self::Own => ask(request).await,
            }
        };
        let reply = tokio::time::timeout(TIMEOUT, asked).await.context("no answer").and_then(|reply| reply);
        reply.with_context(|| format!("{} {}", request.method, request.url))
    }
}

async fn ask_by_curl(program: &PathBuf, request: &Request) -> anyhow::Result<Reply> {
    let output = Command::new(program)
        .args(request.curl_arguments())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("cannot run curl")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    parse_reply(&output.stdout)
}

/// Reads what `curl -i` prints: status line, headers, empty line, body.
fn parse_reply(text: &[u8]) -> anyhow::Result<Reply> {
    let end =
        text.windows(4).position(|window| window == b"\r\n\r\n").context("an answer without headers")?;
    let head = String::from_utf8_lossy(text.get(..end).unwrap_or_default()).into_owned();
    let mut lines = head.lines();
    let status =
        lines.next().and_then(|line| line.split_whitespace().nth(1)).context("an answer without status")?;
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        headers.append(HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_str(value.trim())?);
    }
    let status = status.parse()?;
    let head = head.replace("\r\n", "\n");
    Ok(Reply { head, status, headers, body: text.get(end + 4..).unwrap_or_default().to_vec() })
}

/// Asks with our own client, HTTP/1.1.
pub async fn ask(request: &Request) -> anyhow::Result<Reply> {
    let uri: Uri = request.url.parse().context("not a URL")?;
    let host = uri.host().context("a URL without host")?;
    let https = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
    let tcp = TcpStream::connect((host, port)).await.context("cannot connect")?;
    if !https {
        return exchange(TokioIo::new(tcp), request, &uri).await;
    }
    let config = client_config(&request.trust)?;
    let name = ServerName::try_from(host.to_owned()).context("a URL with a bad host")?;
    let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.context("TLS")?;
    exchange(TokioIo::new(tls), request, &uri).await
}

async fn exchange<I>(io: I, request: &Request, uri: &Uri) -> anyhow::Result<Reply>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    let connection = tokio::spawn(connection);
    let mut wire = http::Request::builder()
        .method(request.method.clone())
        .uri(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(http::header::HOST, uri.authority().map_or("", |authority| authority.as_str()));
    for (name, value) in &request.headers {
        wire = wire.header(name, value);
    }
    let reply = sender.send_request(wire.body(Empty::<Bytes>::new())?).await?;
    let (head, body) = reply.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await.map_err(|error| anyhow::anyhow!("{error}"))?;
    connection.abort();
    let body = body.to_bytes().to_vec();
    Ok(Reply { head: printed_head(&head), status: head.status, headers: head.headers, body })
}

fn printed_head(head: &http::response::Parts) -> String {
    let headers = head.headers.iter();
    let headers =
        headers.map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())));
    let status_line = format!("{:?} {}", head.version, head.status);
    [status_line].into_iter().chain(headers).collect::<Vec<_>>().join("\n")
}

fn client_config(trust: &Trust) -> anyhow::Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(entente_bundle::tls::provider())
        .with_safe_default_protocol_versions()?;
    Ok(match trust {
        Trust::Anything => {
            builder.dangerous().with_custom_certificate_verifier(AcceptAny::new()).with_no_client_auth()
        }
        Trust::CaFile(file) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_file_iter(file).context("cannot read the CA file")? {
                roots.add(certificate.context("the CA file is no PEM")?)?;
            }
            builder.with_root_certificates(roots).with_no_client_auth()
        }
        // The lab has no certificates of the web PKI to check.
        Trust::Default => builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_curl_prints_is_read() {
        let text = b"HTTP/2 405 \r\nallow: GET, HEAD\r\ncontent-length: 3\r\n\r\nno\n";
        let reply = parse_reply(text).expect("a reply");
        assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(reply.header(&http::header::ALLOW), Some("GET, HEAD"));
        assert_eq!(reply.body, b"no\n");
        assert_eq!(reply.printed(), "HTTP/2 405 \nallow: GET, HEAD\ncontent-length: 3\n\nno\n");
    }

    #[test]
    fn an_answer_that_is_no_http_is_an_error() {
        assert!(parse_reply(b"garbage").is_err());
    }

    #[test]
    fn the_command_line_can_be_pasted() {
        let request = Request::get("https://127.0.0.1:1/", Trust::Anything)
            .header(http::header::IF_NONE_MATCH, "\"abc\"");
        let line = Browser::Curl("curl".into()).command_line(&request);
        assert_eq!(line, "curl -sS -k -i -H 'if-none-match: \"abc\"' https://127.0.0.1:1/");
    }

    #[test]
    fn without_curl_nobody_speaks_of_curl() {
        let request = Request::get("https://127.0.0.1:1/", Trust::Anything).method(Method::HEAD);
        let line = Browser::Own.command_line(&request);
        assert_eq!(line, "(the lab's own client) HEAD https://127.0.0.1:1/, any certificate");
    }
}
