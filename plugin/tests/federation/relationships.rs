//! Who writes: relationships of the block and of SPIRE, managed and assisted.

use std::time::{Duration, Instant};

use entente_bundle::Bundle;
use entente_bundle::testing::TestAuthority;
use entente_proto::link::v1 as link;
use entente_proto::link::v1::offer_outcome::Outcome;
use entente_proto::link::v1::relationship::Mode;
use entente_proto::spire::api::types;
use entente_proto::spire::api::types::federation_relationship::BundleEndpointProfile;

use super::{FOREIGN, Federated, block};
use crate::support::until;

#[tokio::test]
async fn a_relationship_of_spires_own_is_only_ever_assisted() {
    let (held, newer) = (TestAuthority::new(FOREIGN).bundle(), TestAuthority::new(FOREIGN).bundle());
    // Held from the start: what was set since the last look is refreshed once more, which is right and not meant here.
    let federated = Federated::with_store(&block(FOREIGN, ""), |store| store.put(&held)).await;
    federated.spire.store.relate(FOREIGN, Some(&newer));
    let all = federated.endpoint.wait_relationships(|all| all[0].mode() == Mode::Assisted).await;
    assert_eq!(all.len(), 1);
    let line = federated.plugin.launched.logs.wait_for(
        "federation relationship is declared as managed and exists in spire too, so it is only assisted",
    );
    assert!(line.await["way_out"].as_str().unwrap().contains("mode = \"assisted\""));
    assert_eq!(federated.offer(&held).await.0, Outcome::Unchanged);
    assert_eq!(federated.offer(&newer).await, (Outcome::Set, String::new()));
    let state = federated.spire.store.open();
    assert!(state.sets.is_empty(), "never two writers");
    assert_eq!(state.refreshes, [FOREIGN]);
}

#[tokio::test]
async fn a_relationship_of_spires_own_that_cannot_be_read_or_was_hidden_since_is_not_written_to_either() {
    let federated = Federated::with_store(&block(FOREIGN, ""), |store| {
        store.relate(FOREIGN, None);
        store.open().relationships.get_mut(FOREIGN).unwrap().bundle_endpoint_profile = None;
    })
    .await;
    let all = federated.endpoint.wait_relationships(|all| !all.is_empty()).await;
    assert_eq!(all[0].mode(), Mode::Assisted);
    federated.plugin.launched.logs.wait_for("federation relationship of spire cannot be watched").await;
    assert_eq!(federated.offer(&federated.bundle(1)).await.0, Outcome::Failed);
    federated.spire.store.open().relationships_hidden = true;
    federated.plugin.launched.logs.wait_for("spire server hides its federation relationships").await;
    assert_eq!(federated.offer(&federated.bundle(2)).await.0, Outcome::Failed);
    assert!(federated.spire.store.open().sets.is_empty(), "never two writers");
}

#[tokio::test]
async fn a_relationship_whose_endpoint_id_nobody_can_prove_is_named_and_still_spires_own() {
    let federated = Federated::with_store(&block(FOREIGN, ""), |store| {
        store.relate(FOREIGN, None);
        let profile = types::HttpsspiffeProfile { endpoint_spiffe_id: format!("spiffe://{FOREIGN}") };
        store.open().relationships.get_mut(FOREIGN).unwrap().bundle_endpoint_profile =
            Some(BundleEndpointProfile::HttpsSpiffe(profile));
    })
    .await;
    let all = federated.endpoint.wait_relationships(|all| !all.is_empty()).await;
    assert_eq!(all[0].mode(), Mode::Assisted);
    let line =
        federated.plugin.launched.logs.wait_for("federation relationship of spire cannot be watched").await;
    let error = line["error"].as_str().unwrap();
    assert!(error.contains("endpoint SPIFFE ID \"spiffe://foreign.test\""), "{error}");
    assert_eq!(federated.offer(&federated.bundle(1)).await.0, Outcome::Failed);
    assert!(federated.spire.store.open().sets.is_empty(), "never two writers");
}

#[tokio::test]
async fn an_undeclared_relationship_of_spires_is_assisted() {
    let foreign = TestAuthority::new(FOREIGN).bundle();
    let federated = Federated::with_store("", |store| store.relate(FOREIGN, Some(&foreign))).await;
    let all = federated.endpoint.wait_relationships(|all| !all.is_empty()).await;
    assert_eq!((all[0].trust_domain.as_str(), all[0].mode()), (FOREIGN, Mode::Assisted));
    assert_eq!(federated.offer(&foreign).await.0, Outcome::Set);
    federated.spire.store.open().relationships.clear();
    federated.endpoint.wait_relationships(<[_]>::is_empty).await;
    assert_eq!(federated.offer(&TestAuthority::new(FOREIGN).bundle()).await.0, Outcome::Refused);
}

#[tokio::test]
async fn assisted_in_the_block_works_for_relationships_that_spire_does_not_list() {
    let federated = Federated::new(&block(FOREIGN, "mode = \"assisted\"")).await;
    let (outcome, reason) = federated.offer(&federated.bundle(1)).await;
    assert_eq!(outcome, Outcome::Failed);
    assert!(reason.contains("no relationship in SPIRE names foreign.test"), "{reason}");
    let refreshed = link_to_api(&federated.bundle(0));
    federated.spire.store.open().refreshed.insert(FOREIGN.into(), refreshed);
    assert_eq!(federated.offer(&federated.bundle(1)).await.0, Outcome::Set);
    let (outcome, reason) = federated.offer(&TestAuthority::new(FOREIGN).bundle()).await;
    assert_eq!(outcome, Outcome::Failed);
    assert!(reason.contains("found nothing new"), "{reason}");
}

#[tokio::test]
async fn an_assisted_bundle_that_no_relationship_of_spire_keeps_is_told_until_there_is_one() {
    let held = TestAuthority::new(FOREIGN).bundle();
    let federated =
        Federated::with_store(&block(FOREIGN, "mode = \"assisted\""), |store| store.put(&held)).await;
    let told =
        federated.endpoint.wait_held(FOREIGN, |held| held.keeping_trouble.contains("nothing keeps")).await;
    assert!(told.bundle.is_some(), "what lies there is not confirmed by lying there");
    assert!(told.keeping_trouble.contains("no relationship in SPIRE names foreign.test"), "{told:?}");
    assert!(
        told.keeping_trouble.contains("federation create")
            && told.keeping_trouble.contains("mode = \"managed\"")
    );
    let logs = &federated.plugin.launched.logs;
    let line = "no relationship in spire names this trust domain, so nothing keeps or confirms its bundle";
    assert_eq!(logs.wait_for_level("error", line).await["trust_domain"], FOREIGN);

    federated.spire.store.relate(FOREIGN, Some(&held));
    federated.endpoint.wait_held(FOREIGN, |held| held.keeping_trouble.is_empty()).await;
    federated.spire.store.open().relationships.clear();
    // SPIRE still refreshes it: what its configuration file says it lists to nobody.
    logs.wait_for("spire keeps the bundle by a relationship that it does not list").await;
    federated.endpoint.wait_held(FOREIGN, |held| held.keeping_trouble.is_empty()).await;
    assert_eq!(logs.with_message(line).len(), 1);
}

#[tokio::test]
async fn spire_is_asked_nothing_until_it_polls_a_relationship_that_another_server_may_have_made() {
    let federated = Federated::new(&block(FOREIGN, "mode = \"assisted\"")).await;
    let store = &federated.spire.store;
    until("SPIRE was asked once", || !store.open().refreshes.is_empty()).await;
    let made = Instant::now();
    store.relate("other.test", None);
    until("SPIRE was asked again", || store.open().refreshes.len() > 1).await;
    assert!(made.elapsed() >= Duration::from_secs(11), "{:?}", made.elapsed());
}

#[tokio::test]
async fn a_hanging_refresh_delays_nobody_else() {
    let blocks = block(FOREIGN, "") + &block("slow.test", "mode = \"assisted\"");
    // From the first question on: what SPIRE has once said outlasts its silence.
    let federated = Federated::with_store(&blocks, |store| {
        store.open().hanging.insert("slow.test".into());
    })
    .await;
    let slow = TestAuthority::new("slow.test").bundle();
    let first = federated.endpoint.offer("slow.test", Some(link::Bundle::from(&slow))).await;
    until("the refresh hangs", || !federated.spire.store.open().refreshes.is_empty()).await;
    let started = Instant::now();
    assert_eq!(federated.offer(&federated.bundle(1)).await.0, Outcome::Set);
    assert!(started.elapsed() < Duration::from_secs(10));
    let outcome = federated.endpoint.wait_outcome(first).await;
    assert_eq!(outcome.outcome(), Outcome::Failed);
    assert!(outcome.reason.contains("did not answer within 30s"), "{outcome:?}");
    let told = federated.endpoint.wait_held("slow.test", |held| held.keeping_trouble.contains("30s")).await;
    assert!(told.keeping_trouble.contains("SPIRE has not said yet"), "silence is no answer: {told:?}");
}

#[tokio::test]
async fn spire_is_asked_who_keeps_many_bundles_by_a_few_calls_at_a_time() {
    let names: Vec<_> = (0..12).map(|number| format!("td{number:02}.test")).collect();
    let blocks: String = names.iter().map(|name| block(name, "mode = \"assisted\"")).collect();
    let federated =
        Federated::with_store(&blocks, |store| store.open().hanging.extend(names.iter().cloned())).await;
    let store = &federated.spire.store;
    until("questions hang", || store.open().refreshes_open >= 4).await;
    // The look that asked has ended; so whatever it asks at once is there by the end of another one.
    let looks = store.open().page_tokens.len();
    federated.configure(&blocks).await;
    until("two more looks", || store.open().page_tokens.len() >= looks + 2).await;
    assert_eq!(store.open().refreshes_open_at_most, 4);
    assert_eq!(store.open().refreshes.len(), 4, "the rest waits, and not for an answer");
    store.open().hanging.clear();
    for name in &names {
        federated.endpoint.wait_held(name, |held| held.keeping_trouble.contains("nothing keeps")).await;
    }
    assert_eq!(store.open().refreshes_open_at_most, 4);
}

fn link_to_api(bundle: &Bundle) -> types::Bundle {
    types::Bundle::from(bundle)
}
