//! Step 2: what anybody on the network sees of a bundle endpoint.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{Method, StatusCode};
use tokio::process::Command;

use super::DOCUMENT_LINES;
use crate::checks::{ensure, eventually, see};
use crate::compare::same_document;
use crate::domain::Domain;
use crate::http::{Browser, Reply, Request, Trust};
use crate::lab::Lab;
use crate::stock_cli;

/// What SPIRE's own endpoint says to a client that forgot the `s`.
const PLAIN_HTTP_LINE: &str = "Client sent an HTTP request to an HTTPS server.";

/// What SPIRE says is served at once; a slow machine may take a little longer.
const PUBLISHED_WITHIN: Duration = Duration::from_secs(10);

pub(super) async fn run(lab: &mut Lab) -> anyhow::Result<()> {
    if let Browser::Own = lab.browser {
        lab.timeline.note("curl is not installed, so the lab's own client asks in its place");
    }
    for domain in [&lab.one, &lab.two] {
        served_equals_shown(lab, domain)
            .await
            .map_err(|error| see(error, domain.home().endpoint_log().as_path()))?;
    }
    let log = lab.one.home().endpoint_log();
    https_spiffe(lab).await.map_err(|error| see(error, &log))?;
    https_web(lab).await.map_err(|error| see(error, &log))?;
    verified_fetch(lab).await.map_err(|error| see(error, &log))
}

/// The document is what SPIRE itself says about its bundle.
async fn served_equals_shown(lab: &Lab, domain: &Domain) -> anyhow::Result<()> {
    let stock = lab.means.spire.stock_server();
    let request = Request::get(&domain.spiffe_url(), Trust::Anything);
    let what = format!(
        "the served document of {} equals what {} shows",
        domain.trust_domain(),
        lab.means.spire.kind().name()
    );
    let (shown, facts) = eventually(&what, PUBLISHED_WITHIN, async || {
        let shown = stock_cli::bundle_show(stock, domain).await?;
        let served = expect(lab.browser.ask(&request).await?, StatusCode::OK)?;
        let facts = same_document(("its server", shown.text.as_bytes()), ("the endpoint", &served.body))?;
        Ok((shown, facts))
    })
    .await?;
    lab.timeline.command_lines(&shown.command_line, &shown.text, DOCUMENT_LINES);
    lab.timeline.held(&format!("{what}: {facts}"));
    Ok(())
}

async fn https_spiffe(lab: &Lab) -> anyhow::Result<()> {
    let url = lab.one.spiffe_url();
    let get = Request::get(&url, Trust::Anything);
    let served = ask(lab, &get, StatusCode::OK).await?;
    let etag = served.header(&ETAG).context("no ETag")?.to_owned();
    ensure(etag.starts_with('"'), || format!("ETag {etag} is not a strong one"))?;
    ensure(served.header(&CONTENT_TYPE) == Some("application/json"), || {
        "Content-Type is not application/json".to_owned()
    })?;
    let caching = served.header(&CACHE_CONTROL).context("no Cache-Control")?;
    lab.timeline
        .held(&format!("GET: 200, application/json, ETag {}…, Cache-Control: {caching}", prefix(&etag)));

    let again = ask(lab, &get.clone().header(IF_NONE_MATCH, &etag), StatusCode::NOT_MODIFIED).await?;
    ensure(again.body.is_empty(), || "304 with a body".to_owned())?;
    let other = lab.browser.ask(&get.clone().header(IF_NONE_MATCH, "\"other\"")).await?;
    expect(other, StatusCode::OK)?;
    lab.timeline.held("GET with If-None-Match: 304 for the same ETag, 200 for another one");

    let head = ask(lab, &get.clone().method(Method::HEAD), StatusCode::OK).await?;
    ensure(head.body.is_empty(), || "HEAD was answered with a body".to_owned())?;
    ensure(head.header(&ETAG) == Some(&etag), || "HEAD has another ETag than GET".to_owned())?;
    let length = served.body.len().to_string();
    ensure(head.header(&CONTENT_LENGTH) == Some(&length), || {
        "HEAD has another Content-Length than GET".to_owned()
    })?;
    ask(lab, &Request::get(&format!("{url}elsewhere"), Trust::Anything), StatusCode::NOT_FOUND).await?;
    let post = ask(lab, &get.clone().method(Method::POST), StatusCode::METHOD_NOT_ALLOWED).await?;
    let allow = post.header(&ALLOW).context("405 without Allow")?;
    ensure(allow == "GET, HEAD", || format!("405 with Allow: {allow}"))?;
    lab.timeline.held("HEAD: 200 without body; another path: 404; POST: 405 with Allow: GET, HEAD");

    let plain = Request::get(&url.replacen("https", "http", 1), Trust::Default);
    let plain = ask(lab, &plain, StatusCode::BAD_REQUEST).await?;
    ensure(plain.text().trim_end() == PLAIN_HTTP_LINE, || {
        format!("plain HTTP was answered with {:?}", plain.text())
    })?;
    lab.timeline.held(&format!("plain HTTP: 400, {PLAIN_HTTP_LINE}"));
    Ok(())
}

async fn https_web(lab: &Lab) -> anyhow::Result<()> {
    let trust = Trust::CaFile(lab.one.web().ca_file.clone());
    let web = ask(lab, &Request::get(&lab.one.web_url(), trust.clone()), StatusCode::OK).await?;
    let spiffe = lab.browser.ask(&Request::get(&lab.one.spiffe_url(), Trust::Anything)).await?;
    ensure(web.body == spiffe.body, || "https_web and https_spiffe serve different documents".to_owned())?;
    lab.timeline.held("https_web: verified by its CA and address, the same document byte for byte");
    match lab.browser.ask(&Request::get(&lab.one.spiffe_url(), trust)).await {
        Ok(reply) => bail!("https_spiffe passed as https_web: {}", reply.status),
        Err(error) => {
            lab.timeline.held(&format!("https_spiffe does not pass as https_web: {}", last_cause(&error)))
        }
    }
    Ok(())
}

/// Curl cannot verify an SVID; our own command can, and refuses under another domain's bundle.
async fn verified_fetch(lab: &Lab) -> anyhow::Result<()> {
    let stock = lab.means.spire.stock_server();
    let mut outcomes = Vec::new();
    for domain in [&lab.one, &lab.two] {
        let file = lab.folder().join(format!("{}.json", domain.trust_domain()));
        crate::layout::write(&file, stock_cli::bundle_show(stock, domain).await?.text)?;
        let arguments = [
            "fetch".to_owned(),
            lab.one.spiffe_url(),
            "--profile".to_owned(),
            "https_spiffe".to_owned(),
            "--endpoint-spiffe-id".to_owned(),
            lab.one.trust_domain().spire_server_id().to_string(),
            "--bundle".to_owned(),
            file.display().to_string(),
        ];
        let program = lab.means.products.bundle_endpoint();
        let output =
            Command::new(program).args(&arguments).stdin(Stdio::null()).kill_on_drop(true).output().await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        outcomes.push((format!("bundle-endpoint {}", arguments.join(" ")), output.status.code(), said));
    }
    let [(good, good_code, good_said), (bad, bad_code, bad_said)] = outcomes.as_slice() else {
        bail!("there are two trust domains");
    };
    lab.timeline.command(good, good_said);
    ensure(*good_code == Some(0), || format!("{good} exits {good_code:?}: {}", good_said.trim()))?;
    lab.timeline.held("bundle-endpoint fetch verifies the endpoint as spiffe://cluster1.org/spire/server");
    lab.timeline.command(bad, bad_said);
    ensure(*bad_code == Some(1), || {
        format!("with the bundle of another trust domain, fetch exits {bad_code:?}")
    })?;
    lab.timeline.held("with the bundle of another trust domain it refuses (exit 1)");
    Ok(())
}

async fn ask(lab: &Lab, request: &Request, wanted: StatusCode) -> anyhow::Result<Reply> {
    let reply = lab.browser.ask(request).await?;
    lab.timeline.command(&lab.browser.command_line(request), &reply.printed());
    expect(reply, wanted).with_context(|| lab.browser.command_line(request))
}

fn expect(reply: Reply, wanted: StatusCode) -> anyhow::Result<Reply> {
    ensure(reply.status == wanted, || {
        format!("status {} instead of {wanted}: {}", reply.status, reply.text().trim())
    })?;
    Ok(reply)
}

fn prefix(etag: &str) -> &str {
    etag.get(..13).unwrap_or(etag)
}

fn last_cause(error: &anyhow::Error) -> String {
    error.root_cause().to_string().lines().next().unwrap_or_default().to_owned()
}
