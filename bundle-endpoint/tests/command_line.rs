//! The real binary: what all commands have in common, and `status`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends where its helpers cannot go on"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use entente_bundle::TrustDomain;
use entente_bundle::testing::TestAuthority;
use support::endpoint::{Endpoint, KEYLESS, config_text};
use support::eventually;
use support::foreign::Foreign;
use support::plugin::{FakePlugin, spiffe};
use support::program::{code, run, text, write};
use tokio::process::Command;
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn version_is_told() {
    let output = run(&["--version"]).await;
    assert_eq!(code(&output), Some(0));
    assert_eq!(text(&output.stdout).trim(), format!("bundle-endpoint {}", bundle_endpoint::VERSION));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn files_without_an_end_are_refused_by_name() {
    let spiffe = ["--profile", "https_spiffe", "--endpoint-spiffe-id", "spiffe://b.test/x", "--bundle"];
    let fetch = ["fetch", "https://127.0.0.1:1"];
    for arguments in [
        vec!["serve", "--config"],
        vec!["status", "--config"],
        [&fetch, spiffe.as_slice()].concat(),
        [&fetch, ["--profile", "https_web", "--ca-file"].as_slice()].concat(),
    ] {
        // Whatever it does wrong, it does not take the machine with it.
        let mut command = Command::new("sh");
        command
            .args(["-c", "ulimit -v 2000000; exec \"$0\" \"$@\""])
            .arg(env!("CARGO_BIN_EXE_bundle-endpoint"));
        let output = command.args(&arguments).arg("/dev/zero").kill_on_drop(true).output();
        let output = timeout(Duration::from_secs(20), output).await.expect("it ends").unwrap();
        let complaint = text(&output.stderr);
        assert!(
            !output.status.success() && complaint.contains("/dev/zero is no regular file"),
            "{complaint}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn status_shows_both_directions_and_exits_1_when_something_is_unhealthy() {
    let endpoint = Endpoint::start_in(Arc::new(tempfile::tempdir().unwrap()), KEYLESS, "").await.unwrap();
    let admin = format!("http://{}", endpoint.bound.admin);
    let output = run(&["status", "--admin", &admin]).await;
    assert_eq!(code(&output), Some(1));
    assert!(text(&output.stdout).contains("PROBLEM  no_bundle"), "{}", text(&output.stdout));

    let (authority, foreign_authority) = (TestAuthority::new("a.test"), TestAuthority::new("b.test"));
    let mut plugin = FakePlugin::link(&endpoint.link_socket()).await;
    plugin.own_bundle(&authority.bundle_with(Some(4), None)).await;
    plugin.lend(&authority.svid("/spire/server").build()).await;
    let foreign = Foreign::honest(&foreign_authority).await;
    plugin.holds_or_authenticates("b.test", None, Some(&foreign_authority.bundle())).await;
    plugin.relationships(vec![spiffe("b.test", &foreign.url())]).await;
    let offer = plugin.next_offer().await;
    let output = run(&["status", "--admin", &admin]).await;
    assert_eq!(code(&output), Some(1));
    assert!(
        text(&output.stdout).contains("PROBLEM  b.test: SPIRE holds no bundle yet"),
        "{}",
        text(&output.stdout)
    );

    let held = entente_bundle::Bundle::try_from(offer.bundle.as_ref().unwrap()).unwrap();
    plugin.holds("b.test", Some(&held)).await;
    eventually("healthy", || async { endpoint.relationship("b.test").await.filter(|r| r.healthy) }).await;
    let output = run(&["status", "--admin", &admin]).await;
    assert_eq!(code(&output), Some(0), "{}", text(&output.stdout));
    let shown = text(&output.stdout);
    assert!(
        shown.contains("all is well")
            && shown.contains("sequence number 4")
            && shown.contains("held in SPIRE, as fetched"),
        "{shown}"
    );
    let output = run(&["status", "--admin", &admin, "--output", "json"]).await;
    let status: bundle_endpoint::status::Status = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status.relationships[0].trust_domain, "b.test");
    assert!(TrustDomain::new(&status.trust_domain).is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn status_of_nobody_says_where_it_asked() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = run(&["status", "--admin", &format!("http://{nobody}")]).await;
    assert_eq!(code(&output), Some(1));
    assert!(text(&output.stderr).contains(&nobody.to_string()));
    assert_eq!(code(&run(&["status", "--admin", "https://x"]).await), Some(2));
    let dir = tempfile::tempdir().unwrap();
    let config = write(&dir, "c.toml", config_text(&dir, KEYLESS, ""));
    let output = run(&["status", "--config", &config]).await;
    assert_eq!(code(&output), Some(2), "port 0 cannot be asked");
    assert!(text(&output.stderr).contains("--admin"));
}
