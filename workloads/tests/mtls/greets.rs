//! The good cases: greetings in both directions, identities that come late, ends that are orderly.

use entente_workload_identity::testing::{FakeWorkloadApi, Update};

use crate::rig::{CLIENT_ID, Program, Rig, SERVER_ID, Server, client};

#[tokio::test]
async fn both_print_the_lines_of_the_walkthrough() {
    let rig = Rig::federated();
    let server = rig.server(&[]).await.serving().await;
    let mut client = rig.client(&server, &["--count", "2"]);
    assert!(client.exit().await.success());

    let address = server.address();
    let port = address.rsplit(':').next().unwrap();
    let heard = format!("Server gets BoanLab Client's SPIFFEID : \"{CLIENT_ID}\"");
    server.program.stdout.lines_with(2, &heard).await;
    let expected = [
        format!("Server (:{port}) starting up..."),
        format!("Server's spiffeID:  {SERVER_ID}"),
        format!("Serving on {address}"),
        heard.clone(),
        heard,
    ];
    assert_eq!(server.program.stdout.all(), expected);

    let expected = [
        format!("Client starting up... {address}"),
        "Will send request every 20ms...".into(),
        "This is Server Reply : Hello BoanLab Client.".into(),
        format!("Client gets Server's SPIFFEID : \"{SERVER_ID}\""),
        "This is Server Reply : Hello BoanLab Client.".into(),
        format!("Client gets Server's SPIFFEID : \"{SERVER_ID}\""),
    ];
    assert_eq!(client.stdout.all(), expected);
}

#[tokio::test]
async fn the_other_direction_works_as_well() {
    let rig = Rig::federated();
    let server = Server::start(&rig.client_agent, &["--allow-id", SERVER_ID]).await;
    let mut client =
        client(&rig.server_agent, &server.address(), &["--count", "1", "--server-id", CLIENT_ID]);
    assert!(client.exit().await.success());
    server.program.stdout.line_with(SERVER_ID).await;
}

#[tokio::test]
async fn within_one_trust_domain_no_federation_is_needed() {
    let rig = Rig::without_identities();
    rig.server_agent.give(Update::new(&rig.server_svid(), &rig.a.bundle()));
    let neighbour = rig.a.svid("/client").build();
    rig.client_agent.give(Update::new(&neighbour, &rig.a.bundle()));
    let server = rig.server(&["--allow-trust-domain", "a.test"]).await;
    assert!(rig.client(&server, &["--count", "1"]).exit().await.success());
}

#[tokio::test]
async fn the_ipv6_wildcard_is_printed_and_serves_ipv4() {
    let rig = Rig::federated();
    let server = rig.server(&["--listen", "[::]:0"]).await.serving().await;
    server.program.stdout.line_with("Serving on [::]:").await;
    assert!(rig.client(&server, &["--count", "1"]).exit().await.success());
}

#[tokio::test]
async fn a_name_is_cleaned_before_it_is_printed() {
    let rig = Rig::federated();
    let server = rig.server(&[]).await;
    let mut client = rig.client(&server, &["--count", "1", "--name", "Eve\nServer gets \u{1b}[31m"]);
    assert!(client.exit().await.success());
    server.program.stdout.line_with("Server gets EveServer gets [31m's SPIFFEID").await;
    assert_eq!(server.program.stdout.count("Server gets"), 1);
}

#[tokio::test]
async fn a_server_without_an_identity_refuses_with_that_reason_until_it_has_one() {
    let rig = Rig::without_identities();
    rig.client_agent.give(Update::new(&rig.client_svid(), &rig.b.bundle()).with_federated(&rig.a.bundle()));
    let server = rig.server(&[]).await;
    let mut client = rig.client(&server, &["--count", "1"]);
    server.program.stderr.line_with("no_identity").await;
    server.program.stderr.line_with("the workload api issues no identity").await;
    client.stderr.line_with("server refused our svid").await;
    assert_eq!(server.program.stdout.count("Serving on"), 0);

    rig.renew();
    assert!(client.exit().await.success());
    server.program.stdout.line_with("Serving on").await;
}

#[tokio::test]
async fn a_client_without_an_identity_waits_for_one() {
    let rig = Rig::federated();
    let server = rig.server(&[]).await;
    rig.client_agent.deny();
    let mut client = rig.client(&server, &["--count", "1"]);
    client.stderr.line_with("the workload api issues no identity").await;
    assert_eq!(client.stdout.count("This is Server Reply"), 0);
    rig.renew();
    assert!(client.exit().await.success());
}

#[tokio::test]
async fn sigterm_ends_both_with_success_while_they_are_connected() {
    let rig = Rig::federated();
    let mut server = rig.server(&[]).await;
    let mut client = client(&rig.client_agent, &server.address(), &["--interval", "1h"]);
    client.stdout.line_with("Client gets").await;
    server.program.terminate();
    assert!(server.program.exit().await.success());
    client.terminate();
    assert!(client.exit().await.success());
}

#[tokio::test]
async fn a_client_finds_a_server_that_was_killed_and_came_back() {
    let rig = Rig::federated();
    let mut server = rig.server(&[]).await;
    let client = rig.client(&server, &[]);
    client.stdout.lines_with(3, "This is Server Reply").await;
    let address = server.address();
    server.program.kill().await;
    client.stderr.line_with("call failed").await;

    let before = client.stdout.count("This is Server Reply");
    let _server = rig.server(&["--listen", &address]).await;
    client.stdout.lines_with(before + 3, "This is Server Reply").await;
}

#[tokio::test]
async fn a_workload_api_that_refuses_for_good_ends_both_with_the_reason() {
    let rig = Rig::without_identities();
    for agent in [&rig.server_agent, &rig.client_agent] {
        agent.fail(tonic::Code::InvalidArgument, "not for you");
    }
    let mut server = rig.server(&[]).await;
    let mut client = rig.client(&server, &[]);
    assert_eq!(server.program.exit().await.code(), Some(1));
    assert_eq!(client.exit().await.code(), Some(1));
    server.program.stderr.line_with("not for you").await;
    client.stderr.line_with("not for you").await;
}

#[tokio::test]
async fn a_port_in_use_and_a_bad_workload_api_address_are_named() {
    let rig = Rig::federated();
    let first = rig.server(&[]).await;
    let path = env!("CARGO_BIN_EXE_helloworld-server");
    let mut second = Program::start(path, &rig.server_agent, &["--listen", &first.address()]);
    assert_eq!(second.exit().await.code(), Some(1));
    second.stderr.line_with(&format!("cannot listen on {}", first.address())).await;

    let mut third = Program::start(path, &rig.server_agent, &["--workload-api", "http://agent"]);
    assert_eq!(third.exit().await.code(), Some(1));
    third.stderr.line_with("must start with unix: or tcp:").await;
}

#[tokio::test]
async fn a_flag_wins_over_the_environment() {
    let rig = Rig::federated();
    let folder = tempfile::tempdir().unwrap();
    let nobody = FakeWorkloadApi::start(folder.path().join("nobody.sock")).unwrap();
    let server = Server::start(&nobody, &["--workload-api", &rig.server_agent.address()]).await;
    server.program.stdout.line_with(SERVER_ID).await;
    assert_eq!(nobody.calls(), 0);
}
