//! Service Entry.

use entente_proto::spire::api::server::entry::v1::list_entries_request::Filter;
use entente_proto::spire::api::server::entry::v1::*;
use entente_proto::spire::api::types::federates_with_match::MatchBehavior;
use tonic::Code;

use super::*;

async fn create(server: &TestServer, entry: wire::Entry) -> batch_create_entry_response::Result {
    let request = BatchCreateEntryRequest { entries: vec![entry], output_mask: None };
    let response = server.entries().batch_create_entry(request).await.unwrap().into_inner();
    response.results.into_iter().next().unwrap()
}

async fn paths(server: &TestServer, filter: Filter) -> Vec<String> {
    let request = ListEntriesRequest { filter: Some(filter), ..ListEntriesRequest::default() };
    let listed = server.entries().list_entries(request).await.unwrap().into_inner();
    listed.entries.into_iter().map(|entry| entry.spiffe_id.unwrap().path).collect()
}

fn federating(names: &[&str], r#match: MatchBehavior) -> Filter {
    let trust_domains = names.iter().map(ToString::to_string).collect();
    let by = wire::FederatesWithMatch { trust_domains, r#match: r#match.into() };
    Filter { by_federates_with: Some(by), ..Filter::default() }
}

#[tokio::test]
async fn an_entry_federates_only_with_a_stored_bundle() {
    let server = TestServer::start("a.test").await;
    let refused = create(&server, entry("a.test", "/one", &["b.test"])).await;
    let message = "failed to create entry: unable to find federated bundle \"spiffe://b.test\"";
    assert_eq!(code(refused.status.as_ref()), (13, message));
    server.set_bundle(foreign_bundle("b.test")).await;
    let made = create(&server, entry("a.test", "/one", &["spiffe://b.test"])).await;
    assert_eq!(code(made.status.as_ref()), (0, "OK"));
    assert_eq!(made.entry.unwrap().federates_with, ["b.test"]);
}

#[tokio::test]
async fn an_entry_outside_the_rules_is_refused() {
    let server = TestServer::start("a.test").await;
    let good = entry("a.test", "/one", &[]);
    let bad = [
        entry("b.test", "/one", &[]),
        entry("a.test", "/spire/agent/x", &[]),
        entry("a.test", "", &[]),
        wire::Entry { parent_id: None, ..good.clone() },
        wire::Entry { selectors: Vec::new(), ..good.clone() },
        wire::Entry { federates_with: vec!["B".into()], ..good.clone() },
    ];
    for entry in bad {
        let refused = create(&server, entry.clone()).await;
        assert_eq!(code(refused.status.as_ref()).0, i32::from(Code::InvalidArgument), "{entry:?}");
    }
    assert_eq!(create(&server, good).await.status.unwrap().code, 0);
}

#[tokio::test]
async fn the_same_entry_is_not_made_twice() {
    let server = TestServer::start("a.test").await;
    let first = create(&server, entry("a.test", "/one", &[])).await.entry.unwrap();
    let second = create(&server, entry("a.test", "/one", &[])).await;
    assert_eq!(code(second.status.as_ref()), (6, "similar entry already exists"));
    assert_eq!(second.entry, Some(first));
}

#[tokio::test]
async fn entries_are_found_by_the_domains_they_federate_with() {
    let server = TestServer::start("a.test").await;
    for name in ["b.test", "c.test"] {
        server.set_bundle(foreign_bundle(name)).await;
    }
    for (path, names) in [("/none", &[][..]), ("/b", &["b.test"][..]), ("/bc", &["b.test", "c.test"][..])] {
        create(&server, entry("a.test", path, names)).await;
    }
    assert_eq!(paths(&server, federating(&["b.test"], MatchBehavior::MatchExact)).await, ["/b"]);
    assert_eq!(paths(&server, federating(&["b.test"], MatchBehavior::MatchSuperset)).await, ["/b", "/bc"]);
    assert_eq!(paths(&server, federating(&["c.test"], MatchBehavior::MatchAny)).await, ["/bc"]);
    let both = federating(&["b.test", "c.test"], MatchBehavior::MatchSubset);
    assert_eq!(paths(&server, both).await, ["/b", "/bc"]);
    let filter = Some(federating(&[], MatchBehavior::MatchAny));
    let request = ListEntriesRequest { filter, ..ListEntriesRequest::default() };
    let refused = server.entries().list_entries(request).await.unwrap_err();
    assert_eq!(refused.message(), "malformed federates with filter: empty trust domain set");
}

#[tokio::test]
async fn an_update_changes_what_its_mask_names_and_counts() {
    let server = TestServer::start("a.test").await;
    server.set_bundle(foreign_bundle("b.test")).await;
    let made = create(&server, entry("a.test", "/one", &["b.test"])).await.entry.unwrap();
    let bare = wire::Entry { id: made.id.clone(), ..wire::Entry::default() };
    let input_mask = Some(wire::EntryMask { federates_with: true, ..wire::EntryMask::default() });
    let request = BatchUpdateEntryRequest { entries: vec![bare], input_mask, output_mask: None };
    let response = server.entries().batch_update_entry(request).await.unwrap().into_inner();
    let expected = wire::Entry { federates_with: Vec::new(), revision_number: 1, ..made.clone() };
    assert_eq!(response.results[0].entry.as_ref(), Some(&expected));
    let ids = vec![made.id.clone(), made.id];
    let response =
        server.entries().batch_delete_entry(BatchDeleteEntryRequest { ids }).await.unwrap().into_inner();
    let codes: Vec<_> = response.results.iter().map(|result| code(result.status.as_ref())).collect();
    assert_eq!(codes, [(0, "OK"), (5, "entry not found")]);
    let count = server.entries().count_entries(CountEntriesRequest { filter: None }).await.unwrap();
    assert_eq!(count.into_inner().count, 0);
}
