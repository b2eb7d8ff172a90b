//! `bundle-endpoint status`: asks a running endpoint and shows what it says.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{
    Ended, LogArgs, StatusArgs, StatusOutput, block_on, failed, misused, print, show, start_quiet_logging,
};
use crate::config::Config;
use crate::logging::chain;
use crate::status::Status;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Ten thousand relationships take some tens of MiB.
const MAX_BYTES: usize = 256 << 20;

pub(super) fn run(args: &StatusArgs, log: &LogArgs) -> Ended {
    show_status(args, log).unwrap_or_else(|ended| ended)
}

fn show_status(args: &StatusArgs, log: &LogArgs) -> Result<Ended, Ended> {
    start_quiet_logging(log)?;
    let authority = match &args.config {
        Some(file) => of_config(&Config::load(file).map_err(|error| misused(chain(&error)))?)?,
        None => of_url(&args.admin)?,
    };
    let asked = block_on(async { timeout(TIMEOUT, ask(&authority)).await })?;
    let unreachable = || format!("the bundle endpoint cannot be asked at http://{authority}/status");
    let bytes = match asked {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => return Err(failed(format!("{}: {error:#}", unreachable()))),
        Err(_) => return Err(failed(format!("{}: no answer within {} s", unreachable(), TIMEOUT.as_secs()))),
    };
    let status: Status = serde_json::from_slice(&bytes)
        .map_err(|error| failed(format!("the answer of http://{authority}/status is no status: {error}")))?;
    let text = match args.output {
        StatusOutput::Json => format!("{}\n", String::from_utf8_lossy(&bytes)),
        StatusOutput::Text => show::status(&status),
    };
    print(text.as_bytes()).map_err(failed)?;
    if status.problems().is_empty() { Ok(Ended::Well) } else { Ok(Ended::Badly) }
}

fn of_config(config: &Config) -> Result<String, Ended> {
    let address = config.admin.listen.socket_addr();
    if address.port() == 0 {
        return Err(misused(
            "[admin] listen has port 0: name the admin listener with --admin, as the log of serve says",
        ));
    }
    // "All interfaces" is no address to connect to.
    let ip = match address.ip() {
        IpAddr::V4(v4) if v4.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(v6) if v6.is_unspecified() => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        ip => ip,
    };
    Ok(std::net::SocketAddr::new(ip, address.port()).to_string())
}

fn of_url(url: &str) -> Result<String, Ended> {
    if url.starts_with("https://") {
        return Err(misused("the admin listener speaks plain http"));
    }
    let rest = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    let authority: http::uri::Authority = rest
        .parse()
        .map_err(|_| misused(format!("{url:?} names no admin listener, such as http://127.0.0.1:8080")))?;
    Ok(if authority.port().is_some() { rest.to_owned() } else { format!("{rest}:80") })
}

async fn ask(authority: &str) -> anyhow::Result<Bytes> {
    let tcp = TcpStream::connect(authority).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await?;
    let driver = tokio::spawn(connection);
    let request = Request::get("/status").header(HOST, authority).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::OK {
        bail!("status {}", response.status());
    }
    let body = Limited::new(response.into_body(), MAX_BYTES).collect().await;
    driver.abort();
    Ok(body.map_err(anyhow::Error::from_boxed).context("the answer did not arrive")?.to_bytes())
}
