//! What is taken out of SPIRE, and what stays.

use entente_bundle::testing::TestAuthority;
use entente_proto::link::v1 as link;
use entente_proto::link::v1::offer_outcome::Outcome;
use entente_proto::spire::api::types;

use super::{FOREIGN, Federated, block};
use crate::support::{OWN, until};

#[tokio::test]
async fn a_domain_that_leaves_the_block_is_removed() {
    let federated = Federated::new(&block(FOREIGN, "")).await;
    federated.offer(&federated.bundle(1)).await;
    federated.configure("").await;
    until("the bundle is gone", || federated.spire.store.bundle(FOREIGN).is_none()).await;
    federated.plugin.launched.logs.wait_for("federated bundle removed").await;
    federated.endpoint.wait_relationships(<[_]>::is_empty).await;
    assert_eq!(federated.offer(&federated.bundle(2)).await.0, Outcome::Refused);
    assert!(federated.spire.store.open().deletes.iter().all(|(_, mode)| *mode == 0), "always RESTRICT");
}

#[tokio::test]
async fn a_bundle_that_entries_use_is_kept_and_the_entries_are_named() {
    let federated = Federated::new(&block(FOREIGN, "")).await;
    federated.offer(&federated.bundle(1)).await;
    federated.spire.store.open().entries.push(types::Entry {
        id: "entry-17".into(),
        spiffe_id: Some(types::Spiffeid { trust_domain: OWN.into(), path: "/web".into() }),
        federates_with: vec![FOREIGN.into()],
        ..Default::default()
    });
    federated.configure("").await;
    let line = federated
        .plugin
        .launched
        .logs
        .wait_for("federated bundle is kept because registration entries use it")
        .await;
    assert_eq!(line["entries"], "entry-17 (spiffe://own.test/web)");
    let entry = "entry-17 (spiffe://own.test/web)";
    let reason = federated.endpoint.wait_pending_removal(FOREIGN).await;
    assert_eq!(reason, format!("kept because entry {entry} uses it"));
    let looks = federated.spire.store.open().page_tokens.len();
    until("two more looks", || federated.spire.store.open().page_tokens.len() > looks + 3).await;
    assert!(federated.spire.store.bundle(FOREIGN).is_some());
    assert_eq!(federated.spire.store.open().entries.len(), 1, "nothing else is changed");
    assert_eq!(federated.spire.store.open().errors_logged, 0, "and spire's log stays quiet");
    federated.spire.store.open().entries.clear();
    until("it is removed when the entry is gone", || federated.spire.store.bundle(FOREIGN).is_none()).await;
    federated.endpoint.wait_no_pending_removal().await;
}

#[tokio::test]
async fn a_bundle_that_authenticates_another_endpoint_is_kept_until_none_needs_it() {
    let other = "federates_with \"a.test\" { bundle_endpoint_url = \"https://a.test\"
        bundle_endpoint_profile \"https_spiffe\" { endpoint_spiffe_id = \"spiffe://foreign.test/bundles\" } }";
    let federated = Federated::new(&(block(FOREIGN, "") + other)).await;
    federated.offer(&federated.bundle(1)).await;
    federated.configure(other).await;
    let line = federated
        .plugin
        .launched
        .logs
        .wait_for("federated bundle is kept because it authenticates the endpoint of another trust domain")
        .await;
    assert_eq!((line["trust_domain"].as_str(), line["used_by"].as_str()), (Some(FOREIGN), Some("a.test")));
    assert!(federated.spire.store.bundle(FOREIGN).is_some());
    federated.configure("").await;
    until("it is removed when no endpoint needs it", || federated.spire.store.bundle(FOREIGN).is_none())
        .await;
}

#[tokio::test]
async fn a_removal_of_the_undeclared_ends_when_the_operator_keeps_them_again() {
    let foreign = TestAuthority::new(FOREIGN);
    let federated = Federated::with_store("undeclared_bundles = \"remove\"", |store| {
        store.put(&foreign.bundle());
        let federates_with = vec![FOREIGN.into()];
        store.open().entries.push(types::Entry { federates_with, ..Default::default() });
    })
    .await;
    let logs = &federated.plugin.launched.logs;
    logs.wait_for("federated bundle is kept because registration entries use it").await;
    federated.configure("").await;
    logs.wait_for("spire holds a federated bundle that no relationship names; it is kept").await;
    federated.spire.store.open().entries.clear();
    let looks = federated.spire.store.open().page_tokens.len();
    until("two more looks", || federated.spire.store.open().page_tokens.len() > looks + 3).await;
    assert!(federated.spire.store.bundle(FOREIGN).is_some());
}

#[tokio::test]
async fn a_domain_that_comes_back_before_its_removal_is_kept() {
    let federated = Federated::new(&block(FOREIGN, "")).await;
    federated.offer(&federated.bundle(1)).await;
    federated
        .spire
        .store
        .open()
        .entries
        .push(types::Entry { federates_with: vec![FOREIGN.into()], ..Default::default() });
    federated.configure("").await;
    federated
        .plugin
        .launched
        .logs
        .wait_for("federated bundle is kept because registration entries use it")
        .await;
    federated.configure(&block(FOREIGN, "")).await;
    federated.spire.store.open().entries.clear();
    let looks = federated.spire.store.open().page_tokens.len();
    until("two more looks", || federated.spire.store.open().page_tokens.len() > looks + 2).await;
    assert!(federated.spire.store.bundle(FOREIGN).is_some());
}

#[tokio::test]
async fn a_domain_that_comes_back_while_spire_looks_for_its_entries_is_kept() {
    let federated = Federated::new(&block(FOREIGN, "")).await;
    federated.offer(&federated.bundle(1)).await;
    federated.spire.store.open().entries_hang = true;
    federated.configure("").await;
    until("the entries are asked for", || federated.spire.store.open().entry_looks == 1).await;
    federated.configure(&block(FOREIGN, "")).await;
    federated.endpoint.wait_relationships(|all| all.len() == 1).await;
    let looks = federated.spire.store.open().page_tokens.len();
    federated.spire.store.open().entries_hang = false;
    until("two more looks", || federated.spire.store.open().page_tokens.len() > looks + 2).await;
    assert!(federated.spire.store.open().deletes.is_empty(), "nothing is deleted on what was true before");
    assert!(federated.spire.store.bundle(FOREIGN).is_some());
    let reported = federated.endpoint.wait_held(FOREIGN, |_| true).await;
    assert!(reported.bundle.is_some(), "and it is not forgotten either");
}

#[tokio::test]
async fn a_domain_that_comes_back_while_spire_deletes_is_told_and_can_still_be_fetched() {
    let federated = Federated::new(&block(FOREIGN, "")).await;
    federated.offer(&federated.bundle(1)).await;
    federated.spire.store.open().deletes_hang = true;
    federated.configure("").await;
    until("the deletion has begun", || !federated.spire.store.open().deletes.is_empty()).await;
    federated.configure(&block(FOREIGN, "")).await;
    federated.endpoint.wait_relationships(|all| all.len() == 1).await;
    federated.spire.store.open().deletes_hang = false;
    let message = "federated bundle was removed while its trust domain was named again";
    let line = federated.plugin.launched.logs.wait_for(message).await;
    assert_eq!((line["@level"].as_str(), line["trust_domain"].as_str()), (Some("error"), Some(FOREIGN)));
    let reported = federated.endpoint.wait_held(FOREIGN, |held| held.bundle.is_none()).await;
    let path_back = reported.authentication_bundle.unwrap();
    assert_eq!(path_back.x509_authorities[0].certificate, federated.foreign.certificate().as_ref());
    assert_eq!(federated.offer(&federated.bundle(2)).await.0, Outcome::Set);
}

#[tokio::test]
async fn undeclared_bundles_are_kept_and_told_once_or_removed_on_request() {
    const TOLD: &str = "spire holds a federated bundle that no relationship names; it is kept";
    let foreign = TestAuthority::new(FOREIGN);
    let federated = Federated::with_store("", |store| store.put(&foreign.bundle())).await;
    let line = federated.plugin.launched.logs.wait_for(TOLD).await;
    assert!(line["way_out"].as_str().unwrap().contains("bundle delete -id spiffe://foreign.test"));
    let looks = federated.spire.store.open().page_tokens.len();
    until("one more look", || federated.spire.store.open().page_tokens.len() > looks).await;
    assert_eq!(federated.plugin.launched.logs.with_message(TOLD).len(), 1);
    assert!(federated.spire.store.bundle(FOREIGN).is_some());
    federated.configure("undeclared_bundles = \"remove\"").await;
    until("it is removed", || federated.spire.store.bundle(FOREIGN).is_none()).await;
}

#[tokio::test]
async fn defederating_while_a_bundle_is_being_set_leaves_none_behind() {
    let federated = Federated::new(&block(FOREIGN, "")).await;
    for round in 1..6 {
        let bundle = link::Bundle::from(&federated.bundle(round));
        let offer_id = federated.endpoint.offer(FOREIGN, Some(bundle)).await;
        federated.configure("").await;
        federated.endpoint.wait_outcome(offer_id).await;
        until("no bundle is left", || federated.spire.store.bundle(FOREIGN).is_none()).await;
        federated.configure(&block(FOREIGN, "")).await;
        federated.endpoint.wait_relationships(|all| all.len() == 1).await;
    }
}
