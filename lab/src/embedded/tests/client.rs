//! Two servers that federate by themselves: the bundle endpoint of one, the bundle client of the other.

use entente_bundle::tls::{SvidVerifier, client_config};
use entente_bundle::{Authorizer, BundleSet};
use entente_proto::convert::BundleMessage;
use entente_proto::spire::api::server::bundle::v1::GetFederatedBundleRequest;
use entente_proto::spire::api::server::localauthority::v1::PrepareX509AuthorityRequest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::Code;

use super::relationships::{create, refresh, relationship};
use super::*;

const SERVER_ID: &str = "spiffe://b.test/spire/server";

async fn held(server: &TestServer, name: &str) -> Option<wire::Bundle> {
    let request = GetFederatedBundleRequest { trust_domain: name.to_owned(), output_mask: None };
    server.bundles().get_federated_bundle(request).await.ok().map(tonic::Response::into_inner)
}

async fn pair() -> (TestServer, TestServer) {
    (TestServer::start("a.test").await, TestServer::start("b.test").await)
}

#[tokio::test]
async fn an_endpoint_with_another_id_or_unknown_authority_is_not_believed() {
    let (ours, theirs) = pair().await;
    let mut row = relationship("b.test", &theirs.url(), "spiffe://b.test/other");
    row.trust_domain_bundle = Some(theirs.own_bundle().await);
    assert_eq!(create(&ours, row).await.code, 0);
    let refused = refresh(&ours, "b.test").await.unwrap_err();
    assert_eq!(refused.code(), Code::Internal);
    let message = refused.message();
    assert!(message.ends_with("unexpected ID \"spiffe://b.test/spire/server\""), "{message}");
    // Before the relationship, which is polled at once.
    ours.set_bundle(foreign_bundle("b.test")).await;
    assert_eq!(create(&ours, relationship("c.test", &theirs.url(), SERVER_ID)).await.code, 0);
    let refused = refresh(&ours, "c.test").await.unwrap_err();
    assert!(refused.message().contains("x509svid: "), "{}", refused.message());
    assert_eq!(held(&ours, "c.test").await, None);
}

#[tokio::test]
async fn a_relationship_without_a_bundle_to_begin_with_waits_for_one() {
    let (ours, theirs) = pair().await;
    assert_eq!(create(&ours, relationship("b.test", &theirs.url(), SERVER_ID)).await.code, 0);
    let refused = refresh(&ours, "b.test").await.unwrap_err();
    assert!(refused.message().contains("local copy of bundle not found"), "{}", refused.message());
    let text = ours.log();
    assert!(text.contains("bundle not found for the endpoint SPIFFE ID trust domain"), "{text}");
    ours.set_bundle(theirs.own_bundle().await).await;
    assert!(refresh(&ours, "b.test").await.is_ok());
}

#[tokio::test]
async fn a_new_relationship_is_polled_at_once_and_a_refresh_brings_the_newest_bundle() {
    let (ours, theirs) = pair().await;
    let mut row = relationship("b.test", &theirs.url(), SERVER_ID);
    row.trust_domain_bundle = Some(theirs.own_bundle().await);
    assert_eq!(create(&ours, row).await.code, 0);
    let refreshed = async || ours.log().contains("msg=\"Bundle refreshed\"").then_some(());
    eventually(refreshed).await;
    theirs.authorities().prepare_x509_authority(PrepareX509AuthorityRequest {}).await.unwrap();
    refresh(&ours, "b.test").await.unwrap();
    let stored = held(&ours, "b.test").await.unwrap();
    assert_eq!((stored.x509_authorities.len(), stored.sequence_number, stored.refresh_hint), (2, 0, 300));
    let text = ours.log();
    for line in ["Trust domain is now managed", "Polling for bundle update", "Scheduling next bundle refresh"]
    {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
}

/// One request by hand, over TLS as a peer that verifies the server's ID, or in the clear.
async fn raw(server: &TestServer, head: &str, tls: bool) -> String {
    let mut tcp = TcpStream::connect(server.endpoint).await.unwrap();
    let request = format!("{head} HTTP/1.1\r\nhost: b.test\r\nconnection: close\r\n\r\n");
    let mut answer = Vec::new();
    if !tls {
        tcp.write_all(request.as_bytes()).await.unwrap();
        tcp.read_to_end(&mut answer).await.unwrap();
        return String::from_utf8(answer).unwrap();
    }
    let bundle = BundleMessage::from(&server.own_bundle().await).into_bundle().unwrap();
    let bundles = std::sync::Arc::new(BundleSet::from_iter([bundle]));
    let verifier = SvidVerifier::new(bundles, Authorizer::exact(SERVER_ID.parse().unwrap()));
    let connector = TlsConnector::from(std::sync::Arc::new(client_config(verifier, None, &[]).unwrap()));
    let name = "b.test".try_into().unwrap();
    let mut stream = connector.connect(name, tcp).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn the_endpoint_answers_as_bare_as_that_of_spire() {
    let server = TestServer::start("b.test").await;
    let plain = raw(&server, "GET /", false).await;
    assert!(plain.starts_with("HTTP/1.0 400 Bad Request"), "{plain}");
    assert!(plain.ends_with("Client sent an HTTP request to an HTTPS server.\n"), "{plain}");
    for head in ["HEAD /", "POST /", "DELETE /foo"] {
        let answer = raw(&server, head, true).await;
        assert!(answer.starts_with("HTTP/1.1 405"), "{head}: {answer}");
        assert!(!answer.to_lowercase().contains("allow:"), "{head}: {answer}");
    }
    let missing = raw(&server, "GET /foo", true).await;
    assert!(missing.starts_with("HTTP/1.1 404") && missing.ends_with("404 page not found\n"), "{missing}");
    let found = raw(&server, "GET /?a=b", true).await;
    assert!(found.starts_with("HTTP/1.1 200"), "{found}");
    assert!(found.to_lowercase().contains("content-type: application/json"), "{found}");
    assert!(found.contains("\"spiffe_sequence\": 1,\n    \"spiffe_refresh_hint\": 300\n}"), "{found}");
}
