//! `bundle-endpoint fetch` as a process: what goes to stdout, and exit codes that tell refused from asked wrongly.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends where its helpers cannot go on"
)]

mod support;

use std::time::Duration;

use entente_bundle::document;
use entente_bundle::testing::TestAuthority;
use support::foreign::{Foreign, Says};
use support::program::{code, run, text, write};

fn pem(certificate: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    let encoded = base64(certificate);
    for line in encoded.as_bytes().chunks(64) {
        writeln!(text, "{}", std::str::from_utf8(line).unwrap()).unwrap();
    }
    text + "-----END CERTIFICATE-----\n"
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group =
            chunk.iter().fold(0u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for position in 0..4 {
            let index = (group >> (18 - 6 * position)) & 63;
            text.push(if position > chunk.len() { '=' } else { ALPHABET[index as usize] as char });
        }
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fetch_prints_the_document_to_stdout_and_what_it_verified_to_stderr() {
    let dir = tempfile::tempdir().unwrap();
    let authority = TestAuthority::new("b.test");
    let foreign = Foreign::honest(&authority).await;
    let served = document::render(&authority.bundle_with(Some(1), Some(Duration::from_secs(300))));
    let json = write(&dir, "b.json", document::render(&authority.bundle()));
    let pem = write(&dir, "b.pem", pem(authority.certificate()));
    let id = "spiffe://b.test/spire/server";
    let url = foreign.url();
    let fetch = async |bundle: &str, more: &[&str]| {
        let asked =
            ["fetch", &url, "--profile", "https_spiffe", "--endpoint-spiffe-id", id, "--bundle", bundle];
        run(&[&asked, more].concat()).await
    };
    for bundle in [&json, &pem] {
        let output = fetch(bundle, &[]).await;
        assert_eq!(code(&output), Some(0), "{}", text(&output.stderr));
        assert_eq!(output.stdout.trim_ascii_end(), served.trim_ascii_end());
        let summary = text(&output.stderr);
        assert!(
            summary.contains(&format!("verified {id}")) && summary.contains("sequence number 1"),
            "{summary}"
        );
    }
    let output = fetch(&json, &["--output", "summary"]).await;
    assert!(text(&output.stdout).contains("x509 ") && output.stderr.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fetch_that_was_refused_exits_1_and_prints_no_document() {
    let dir = tempfile::tempdir().unwrap();
    let authority = TestAuthority::new("b.test");
    let foreign = Foreign::honest(&authority).await;
    let bundle = write(&dir, "b.json", document::render(&authority.bundle()));
    let stranger = write(&dir, "c.json", document::render(&TestAuthority::new("b.test").bundle()));
    let url = foreign.url();
    let fetch = async |id: &str, bundle: &str| {
        run(&["fetch", &url, "--profile", "https_spiffe", "--endpoint-spiffe-id", id, "--bundle", bundle])
            .await
    };
    let wrong_id = fetch("spiffe://b.test/other", &bundle).await;
    assert_eq!(code(&wrong_id), Some(1));
    let error = text(&wrong_id.stderr);
    assert!(error.contains("wrong_id") && error.contains("spiffe://b.test/spire/server"), "{error}");
    assert!(wrong_id.stdout.is_empty());
    assert_eq!(code(&fetch("spiffe://b.test/spire/server", &stranger).await), Some(1));
    foreign.says(Says::Document(b"{}".to_vec()));
    let malformed = fetch("spiffe://b.test/spire/server", &bundle).await;
    assert_eq!(code(&malformed), Some(1));
    assert!(malformed.stdout.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fetch_that_is_asked_wrongly_exits_2_says_what_is_wrong_and_asks_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let authority = TestAuthority::new("b.test");
    let bundle = write(&dir, "b.json", document::render(&authority.bundle()));
    let no_pem = write(&dir, "no.pem", "no pem");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let (id, web, spiffe) = ("spiffe://b.test/spire/server", "https_web", "https_spiffe");
    let cases: &[(&[&str], &str)] = &[
        (&["http://b.test/", "--profile", web], "\"http://b.test/\" does not begin with https://"),
        (&["notaurl", "--profile", web], "notaurl"),
        (&["https://u@b.test/", "--profile", web], "user information"),
        (
            &["http://b.test/", "--profile", spiffe, "--endpoint-spiffe-id", id, "--bundle", &bundle],
            "https://",
        ),
        (&[&url, "--profile", web, "--ca-file", "/nowhere.pem"], "/nowhere.pem"),
        (&[&url, "--profile", web, "--ca-file", &no_pem], "no.pem"),
        (&[&url, "--profile", web, "--bundle", &bundle], "https_spiffe"),
        (&[&url, "--profile", web, "--trust-domain", id], "--trust-domain"),
        (
            &[&url, "--profile", spiffe, "--endpoint-spiffe-id", "https://b.test/", "--bundle", &bundle],
            "spiffe-id",
        ),
        (&[&url, "--profile", spiffe, "--endpoint-spiffe-id", "spiffe://b.test", "--bundle", &bundle], id),
        (
            &[&url, "--profile", spiffe, "--endpoint-spiffe-id", id, "--bundle", "/nowhere.json"],
            "/nowhere.json",
        ),
        (&[&url, "--profile", spiffe, "--endpoint-spiffe-id", id, "--bundle", &no_pem], "no.pem"),
        (&[&url, "--profile", spiffe], "--endpoint-spiffe-id"),
        (&[&url, "--profile", "https_other"], "https_other"),
        (&[&url], "--profile"),
    ];
    for (arguments, complaint) in cases {
        let output = run(&[&["fetch"], *arguments].concat()).await;
        let error = text(&output.stderr);
        assert_eq!(code(&output), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(complaint) && output.stdout.is_empty(), "{arguments:?}: {error}");
    }
    assert!(listener.accept().is_err(), "somebody was asked");
    assert!(text(&run(&["fetch", "--help"]).await.stdout).contains("asked wrongly"));
}
