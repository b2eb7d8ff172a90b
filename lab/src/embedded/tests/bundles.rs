//! Service Bundle against the table of federation.md 5.3.

use entente_proto::spire::api::server::bundle::v1::batch_delete_federated_bundle_request::Mode;
use entente_proto::spire::api::server::bundle::v1::*;
use entente_proto::spire::api::server::entry::v1::{BatchCreateEntryRequest, ListEntriesRequest};
use entente_proto::spire::api::types as wire;
use tonic::Code;

use super::*;

async fn delete(server: &TestServer, name: &str, mode: Mode) -> wire::Status {
    let request =
        BatchDeleteFederatedBundleRequest { trust_domains: vec![name.to_owned()], mode: mode.into() };
    let response = server.bundles().batch_delete_federated_bundle(request).await.unwrap().into_inner();
    let result = response.results.into_iter().next().unwrap();
    assert_eq!(result.trust_domain, name);
    result.status.unwrap()
}

async fn add_entry(server: &TestServer, path: &str, federates_with: &[&str]) {
    let request =
        BatchCreateEntryRequest { entries: vec![entry("a.test", path, federates_with)], output_mask: None };
    let response = server.entries().batch_create_entry(request).await.unwrap().into_inner();
    assert_eq!(code(response.results[0].status.as_ref()), (0, "OK"));
}

async fn entries(server: &TestServer) -> Vec<wire::Entry> {
    server.entries().list_entries(ListEntriesRequest::default()).await.unwrap().into_inner().entries
}

#[tokio::test]
async fn the_own_bundle_is_never_a_federated_one() {
    let server = TestServer::start("a.test").await;
    let refused = server.set_bundle(foreign_bundle("a.test")).await;
    let message = "setting a federated bundle for the server's own trust domain is not allowed";
    assert_eq!(code(Some(&refused)), (3, message));
    let request = GetFederatedBundleRequest { trust_domain: "spiffe://a.test".into(), output_mask: None };
    let refused = server.bundles().get_federated_bundle(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let refused = delete(&server, "a.test", Mode::Delete).await;
    assert_eq!(code(Some(&refused)), (3, "removing the bundle for the server trust domain is not allowed"));
}

#[tokio::test]
async fn what_spire_refuses_to_parse_is_refused_by_item() {
    let server = TestServer::start("a.test").await;
    let with_jwt = |key: wire::JwtKey| wire::Bundle {
        trust_domain: "b.test".into(),
        jwt_authorities: vec![key],
        ..wire::Bundle::default()
    };
    let garbage = wire::X509Certificate { asn1: b"garbage".to_vec(), tainted: false };
    let bad = [
        wire::Bundle { trust_domain: "B.test".into(), ..foreign_bundle("b.test") },
        wire::Bundle { x509_authorities: vec![garbage], ..foreign_bundle("b.test") },
        with_jwt(wire::JwtKey { public_key: b"garbage".to_vec(), key_id: "k".into(), ..Default::default() }),
    ];
    for bundle in bad {
        assert_eq!(server.set_bundle(bundle).await.code, i32::from(Code::InvalidArgument));
    }
    // An empty `asn1` parses as no certificate at all, and SPIRE takes it.
    let empty = wire::Bundle { x509_authorities: vec![Default::default()], ..foreign_bundle("b.test") };
    assert_eq!(server.set_bundle(empty).await.code, 0);
}

#[tokio::test]
async fn set_replaces_whatever_the_sequence_numbers_say_and_drops_taints() {
    let server = TestServer::start("a.test").await;
    let mut newer = wire::Bundle { sequence_number: 7, refresh_hint: 60, ..foreign_bundle("b.test") };
    newer.x509_authorities[0].tainted = true;
    assert_eq!(server.set_bundle(newer).await.code, 0);
    let older = wire::Bundle { sequence_number: 3, ..foreign_bundle("b.test") };
    assert_eq!(server.set_bundle(older.clone()).await.code, 0);
    let request = GetFederatedBundleRequest { trust_domain: "b.test".into(), output_mask: None };
    let held = server.bundles().get_federated_bundle(request).await.unwrap().into_inner();
    assert_eq!(held, older);
}

#[tokio::test]
async fn create_knows_what_is_there_and_update_what_is_not() {
    let server = TestServer::start("a.test").await;
    let create =
        BatchCreateFederatedBundleRequest { bundle: vec![foreign_bundle("b.test")], output_mask: None };
    for expected in [(0, "OK"), (6, "bundle already exists")] {
        let response =
            server.bundles().batch_create_federated_bundle(create.clone()).await.unwrap().into_inner();
        assert_eq!(code(response.results[0].status.as_ref()), expected);
    }
    let update = |name: &str| BatchUpdateFederatedBundleRequest {
        bundle: vec![wire::Bundle { refresh_hint: 9, ..foreign_bundle(name) }],
        input_mask: Some(wire::BundleMask { refresh_hint: true, ..wire::BundleMask::default() }),
        output_mask: None,
    };
    let missing =
        server.bundles().batch_update_federated_bundle(update("c.test")).await.unwrap().into_inner();
    assert_eq!(code(missing.results[0].status.as_ref()), (5, "bundle not found"));
    let done = server.bundles().batch_update_federated_bundle(update("b.test")).await.unwrap().into_inner();
    let held = done.results[0].bundle.clone().unwrap();
    assert_eq!(held.x509_authorities, create.bundle[0].x509_authorities);
    assert_eq!(held.refresh_hint, 9);
}

#[tokio::test]
async fn pages_end_with_an_empty_token_and_may_be_short_because_of_the_own_bundle() {
    let server = TestServer::start("a.test").await;
    for name in ["b.test", "c.test", "d.test"] {
        assert_eq!(server.set_bundle(foreign_bundle(name)).await.code, 0);
    }
    let (mut pages, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListFederatedBundlesRequest { page_size: 2, page_token, output_mask: None };
        let page = server.bundles().list_federated_bundles(request).await.unwrap().into_inner();
        pages.push(page.bundles.iter().map(|bundle| bundle.trust_domain.clone()).collect::<Vec<_>>());
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(pages, [vec!["b.test"], vec!["c.test", "d.test"], vec![]]);
    let all = server.bundles().list_federated_bundles(ListFederatedBundlesRequest::default()).await;
    assert_eq!(all.unwrap().into_inner().bundles.len(), 3);
    let count = server.bundles().count_bundles(CountBundlesRequest {}).await.unwrap().into_inner().count;
    assert_eq!(count, 4);
}

#[tokio::test]
async fn a_bundle_that_entries_use_is_deleted_only_on_purpose() {
    let server = TestServer::start("a.test").await;
    server.set_bundle(foreign_bundle("b.test")).await;
    add_entry(&server, "/one", &["b.test"]).await;
    let refused = delete(&server, "b.test", Mode::Restrict).await;
    let message = "failed to delete federated bundle: datastore-sql: cannot delete bundle; federated with 1 \
                   registration entries";
    assert_eq!(code(Some(&refused)), (9, message));
    assert_eq!(delete(&server, "b.test", Mode::Dissociate).await.code, 0);
    assert_eq!(entries(&server).await[0].federates_with, Vec::<String>::new());
    server.set_bundle(foreign_bundle("b.test")).await;
    add_entry(&server, "/two", &["b.test"]).await;
    assert_eq!(delete(&server, "b.test", Mode::Delete).await.code, 0);
    assert_eq!(entries(&server).await.len(), 1);
    assert_eq!(code(Some(&delete(&server, "b.test", Mode::Restrict).await)), (5, "bundle not found"));
    let request = BatchDeleteFederatedBundleRequest { trust_domains: Vec::new(), mode: 9 };
    let refused = server.bundles().batch_delete_federated_bundle(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn an_append_counts_once_and_a_repeat_not_at_all() {
    let server = TestServer::start("a.test").await;
    let x509_authorities = foreign_bundle("a.test").x509_authorities;
    let request = AppendBundleRequest { x509_authorities, ..AppendBundleRequest::default() };
    let before = server.own_bundle().await.sequence_number;
    for _ in 0..2 {
        let after = server.bundles().append_bundle(request.clone()).await.unwrap().into_inner();
        assert_eq!(after.sequence_number, before + 1);
        assert_eq!(after.x509_authorities.len(), 2);
    }
    let refused = server.bundles().append_bundle(AppendBundleRequest::default()).await.unwrap_err();
    assert_eq!(refused.message(), "no authorities to append");
}

#[tokio::test]
async fn a_mask_hides_what_it_does_not_name() {
    let server = TestServer::start("a.test").await;
    let output_mask = Some(wire::BundleMask { sequence_number: true, ..wire::BundleMask::default() });
    let shown = server.bundles().get_bundle(GetBundleRequest { output_mask }).await.unwrap().into_inner();
    let trust_domain = "a.test".to_owned();
    assert_eq!(shown, wire::Bundle { trust_domain, sequence_number: 1, ..wire::Bundle::default() });
}

#[tokio::test]
async fn everything_outlives_a_kill() {
    let server = TestServer::start("a.test").await;
    server.set_bundle(foreign_bundle("b.test")).await;
    add_entry(&server, "/one", &["b.test"]).await;
    let (own, held) = (server.own_bundle().await, entries(&server).await);
    let server = server.killed_and_started_again().await;
    assert_eq!(server.own_bundle().await, own);
    assert_eq!(entries(&server).await, held);
    server.stop().await;
}
