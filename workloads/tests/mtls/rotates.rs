//! What changes while calls run: SVIDs, authorities, federation, the age of connections. A good call never fails for it.

use std::time::Duration;

use entente_bundle::Bundle;
use entente_bundle::testing::TestAuthority;
use entente_workload_identity::testing::Update;

use crate::rig::{CLIENT_ID, Output, Program, Rig, SERVER_ID, client, together};

#[tokio::test]
async fn svids_of_both_rotate_under_calls_and_no_call_fails() {
    let rig = Rig::federated();
    let server = rig.server(&[]).await.serving().await;
    let mut client = rig.client(&server, &["--count", "100"]);
    let mut rotations = 0;
    let rotating = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(23));
        loop {
            ticks.tick().await;
            rig.renew();
            rotations += 1;
        }
    };
    let status = tokio::select! {
        () = rotating => unreachable!("rotates for ever"),
        status = client.exit() => status,
    };
    assert!(status.success());
    assert!(rotations > 20, "{rotations}");
    assert_eq!(client.complaints(), Vec::<String>::new());
    assert_eq!(server.program.complaints(), Vec::<String>::new());
}

/// Gives both their updates, and waits until each has logged `lines` more lines with `part`.
async fn give_both(rig: &Rig, logs: [&Output; 2], updates: [Update; 2], lines: usize, part: &str) {
    let before = logs.map(|log| log.count(part));
    let [to_server, to_client] = updates;
    rig.server_agent.give(to_server);
    rig.client_agent.give(to_client);
    for (log, before) in logs.into_iter().zip(before) {
        log.lines_with(before + lines, part).await;
    }
}

async fn more_replies(client: &Program) {
    let before = client.stdout.count("This is Server Reply");
    client.stdout.lines_with(before + 5, "This is Server Reply").await;
}

/// Prepared everywhere, then used, then the old one revoked: as SPIRE does it, for both trust domains at once.
#[tokio::test]
async fn authorities_of_both_rotate_under_calls_and_no_call_fails() {
    let mut rig = Rig::federated();
    let server = rig.server(&[]).await.serving().await;
    let client = rig.client(&server, &[]);
    more_replies(&client).await;
    let logs = [&server.program.stderr, &client.stderr];
    for _ in 0..3 {
        let (next_a, next_b) = (TestAuthority::new("a.test"), TestAuthority::new("b.test"));
        let (both_a, both_b) = (together(&[&rig.a, &next_a]), together(&[&rig.b, &next_b]));
        let updates = |a: &TestAuthority, b: &TestAuthority, bundle_a: &Bundle, bundle_b: &Bundle| {
            let (server, client) = (a.svid("/server").build(), b.svid("/client").build());
            let to_server = Update::new(&server, bundle_a).with_federated(bundle_b);
            [to_server, Update::new(&client, bundle_b).with_federated(bundle_a)]
        };
        give_both(&rig, logs, updates(&rig.a, &rig.b, &both_a, &both_b), 2, "bundle advanced").await;
        more_replies(&client).await;
        give_both(&rig, logs, updates(&next_a, &next_b, &both_a, &both_b), 1, "svid received").await;
        more_replies(&client).await;
        let (only_a, only_b) = (next_a.bundle(), next_b.bundle());
        give_both(&rig, logs, updates(&next_a, &next_b, &only_a, &only_b), 2, "bundle advanced").await;
        more_replies(&client).await;
        (rig.a, rig.b) = (next_a, next_b);
    }
    assert_eq!(client.complaints(), Vec::<String>::new());
    assert_eq!(server.program.complaints(), Vec::<String>::new());
}

#[tokio::test]
async fn connections_end_at_their_age_and_no_call_fails() {
    let rig = Rig::federated();
    let server = rig.server(&["--max-connection-age", "100ms"]).await.serving().await;
    let mut client = rig.client(&server, &["--count", "60"]);
    assert!(client.exit().await.success());
    assert_eq!(client.complaints(), Vec::<String>::new());
    assert!(server.program.stderr.count("connection opened") >= 3, "{:?}", server.program.stderr.all());
}

#[tokio::test]
async fn one_connection_serves_many_calls() {
    let rig = Rig::federated();
    let server = rig.server(&[]).await.serving().await;
    assert!(rig.client(&server, &["--count", "20"]).exit().await.success());
    assert_eq!(server.program.stderr.count("connection opened"), 1);
}

#[tokio::test]
async fn defederation_at_the_server_closes_the_open_connection_and_refuses_the_next() {
    let rig = Rig::federated();
    let server = rig.server(&[]).await.serving().await;
    let idle = client(&rig.client_agent, &server.address(), &["--interval", "1h"]);
    idle.stdout.line_with("Client gets").await;

    rig.server_agent.give(Update::new(&rig.server_svid(), &rig.a.bundle()));
    let line = server.program.stderr.line_with("open connection closed").await;
    assert!(line.contains(&format!("presented={CLIENT_ID}")) && line.contains("no_bundle"), "{line}");
    let next = rig.client(&server, &[]);
    server.program.stderr.line_with("client refused").await;
    next.stderr.line_with("server refused our svid").await;
    assert_eq!(next.stdout.count("This is Server Reply"), 0);
    assert_eq!(server.program.stdout.count("Server gets"), 1);
}

#[tokio::test]
async fn defederation_at_the_client_closes_the_open_connection_and_refuses_the_next() {
    let rig = Rig::federated();
    let server = rig.server(&[]).await.serving().await;
    let client = client(&rig.client_agent, &server.address(), &["--interval", "300ms"]);
    client.stdout.line_with("Client gets").await;

    rig.client_agent.give(Update::new(&rig.client_svid(), &rig.b.bundle()));
    let line = client.stderr.line_with("open connection closed").await;
    assert!(line.contains(&format!("presented={SERVER_ID}")), "{line}");
    client.stderr.line_with("server refused").await;
    server.program.stderr.line_with("client refused our svid").await;
}

#[tokio::test]
async fn a_revoked_authority_closes_the_connection_that_it_vouched_for() {
    let rig = Rig::federated();
    let server = rig.server(&[]).await.serving().await;
    let idle = client(&rig.client_agent, &server.address(), &["--interval", "1h"]);
    idle.stdout.line_with("Client gets").await;

    let next = TestAuthority::new("b.test");
    rig.server_agent.give(Update::new(&rig.server_svid(), &rig.a.bundle()).with_federated(&next.bundle()));
    let line = server.program.stderr.line_with("open connection closed").await;
    assert!(line.contains("unknown_issuer"), "{line}");
}

#[tokio::test]
async fn an_agent_that_restarts_under_calls_costs_none() {
    let mut rig = Rig::federated();
    let server = rig.server(&[]).await.serving().await;
    let client = rig.client(&server, &[]);
    client.stdout.lines_with(3, "This is Server Reply").await;
    rig.server_agent.go_away();
    rig.client_agent.go_away();
    for log in [&server.program.stderr, &client.stderr] {
        log.line_with("gives nothing new").await;
    }
    let before = client.stdout.count("This is Server Reply");
    client.stdout.lines_with(before + 5, "This is Server Reply").await;
    rig.renew();
    rig.server_agent.come_back().unwrap();
    rig.client_agent.come_back().unwrap();
    for log in [&server.program.stderr, &client.stderr] {
        log.lines_with(2, "svid received").await;
    }
    let before = client.stdout.count("This is Server Reply");
    client.stdout.lines_with(before + 5, "This is Server Reply").await;
    assert_eq!(client.stderr.count("call failed"), 0);
    assert_eq!(client.stderr.count("refused"), 0);
}
