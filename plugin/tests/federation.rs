//! What goes into SPIRE and what does not: offers, removals, relationships, against a Server API that can misbehave.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use entente_bundle::testing::TestAuthority;
use entente_bundle::{Bundle, TrustDomain};
use entente_proto::link::v1 as link;
use entente_proto::link::v1::offer_outcome::Outcome;
use entente_proto::link::v1::relationship::Mode;
use entente_proto::spire::api::types;
use support::endpoint::FakeEndpoint;
use support::plugin::Plugin;
use support::spire::FakeSpire;
use support::{OWN, until};

/// A plugin that is linked and has a SPIRE Server, with a foreign trust domain.
struct Federated {
    plugin: Plugin,
    folder: PathBuf,
    endpoint: FakeEndpoint,
    spire: FakeSpire,
    foreign: TestAuthority,
}

const FOREIGN: &str = "foreign.test";

fn block(trust_domain: &str, extra: &str) -> String {
    format!(
        "federates_with \"{trust_domain}\" {{ bundle_endpoint_url = \"https://{trust_domain}\" {extra}
           bundle_endpoint_profile \"https_spiffe\" {{ endpoint_spiffe_id = \"spiffe://{trust_domain}/spire/server\" }} }}\n"
    )
}

impl Federated {
    async fn new(blocks: &str) -> Self {
        Self::with_store(blocks, |_| {}).await
    }

    /// `prepare` fills SPIRE's store before the plugin sees it.
    async fn with_store(blocks: &str, prepare: impl FnOnce(&support::spire::Store)) -> Self {
        let plugin = Plugin::publisher().await;
        let folder = plugin.launched.folder.path().to_owned();
        let endpoint = FakeEndpoint::start(&folder.join("link.sock"));
        let spire = FakeSpire::start(&folder.join("api.sock"));
        prepare(&spire.store);
        let new = Self { plugin, folder, endpoint, spire, foreign: TestAuthority::new(FOREIGN) };
        new.configure(blocks).await;
        new.endpoint.wait_relationships(|_| true).await;
        new
    }

    async fn configure(&self, blocks: &str) {
        let folder = self.folder.display();
        let text = format!(
            "endpoint = \"unix://{folder}/link.sock\"\nserver_socket = \"{folder}/api.sock\"\n{blocks}"
        );
        self.plugin.configure(&text).await.unwrap();
    }

    fn bundle(&self, sequence_number: u64) -> Bundle {
        self.foreign.bundle_with(Some(sequence_number), Some(Duration::from_secs(300)))
    }

    async fn offer(&self, bundle: &Bundle) -> (Outcome, String) {
        let outcome = self.endpoint.offer_and_wait(FOREIGN, bundle).await;
        (outcome.outcome(), outcome.reason)
    }
}

#[tokio::test]
async fn what_nobody_declared_is_refused() {
    let federated = Federated::new(&block(FOREIGN, "")).await;
    let own = TestAuthority::new(OWN).bundle();
    let outcome = federated.endpoint.offer_and_wait(OWN, &own).await;
    assert_eq!(outcome.outcome(), Outcome::Refused);
    assert!(outcome.reason.contains("own trust domain"), "{outcome:?}");
    let stranger = TestAuthority::new("stranger.test").bundle();
    let outcome = federated.endpoint.offer_and_wait("stranger.test", &stranger).await;
    assert_eq!(outcome.outcome(), Outcome::Refused);
    assert!(outcome.reason.contains("declare it with federates_with"), "{outcome:?}");
    assert!(federated.spire.store.open().sets.is_empty());
}

#[tokio::test]
async fn a_bundle_of_another_trust_domain_is_refused_under_this_name() {
    let federated = Federated::new(&block(FOREIGN, "")).await;
    let (outcome, reason) = federated.offer(&TestAuthority::new("other.test").bundle()).await;
    assert_eq!(outcome, Outcome::Refused);
    assert!(reason.contains("other.test") && reason.contains(FOREIGN), "{reason}");
    assert!(federated.spire.store.bundle(FOREIGN).is_none());
}

#[tokio::test]
async fn every_element_is_checked_before_spire_sees_it() {
    let federated = Federated::new(&block(FOREIGN, "")).await;
    let good = link::Bundle::from(&federated.bundle(1));
    let der = good.x509_authorities[0].certificate.clone();
    let leaf = federated.foreign.svid("/web").build();
    let x509 = |certificate: Vec<u8>| {
        let mut bundle = good.clone();
        bundle.x509_authorities.push(link::X509Authority { certificate, tainted: false });
        bundle
    };
    let jwt = |key_id: &str, public_key: Vec<u8>| {
        let mut bundle = good.clone();
        let key_id = key_id.into();
        bundle.jwt_authorities.push(link::JwtAuthority { key_id, public_key, ..Default::default() });
        bundle
    };
    let key = entente_bundle::testing::KeyKind::P256.generate_spki();
    for (what, bundle) in [
        ("empty certificate", x509(Vec::new())),
        ("two certificates in one", x509([der.clone(), der.clone()].concat())),
        ("garbage", x509(vec![0x30, 3, 1, 2, 3])),
        ("truncated", x509(der[..der.len() - 1].to_vec())),
        ("a leaf", x509(leaf.leaf().to_vec())),
        ("no key id", jwt("", key.clone())),
        ("no key", jwt("a", Vec::new())),
        ("off the curve", jwt("a", [&key[..key.len() - 1], &[key[key.len() - 1] ^ 1]].concat())),
    ] {
        let offer_id = federated.endpoint.offer(FOREIGN, Some(bundle)).await;
        let outcome = federated.endpoint.wait_outcome(offer_id).await;
        assert_eq!(outcome.outcome(), Outcome::Refused, "{what}: {outcome:?}");
    }
    let offer_id = federated.endpoint.offer(FOREIGN, None).await;
    assert_eq!(federated.endpoint.wait_outcome(offer_id).await.outcome(), Outcome::Refused);
    assert!(federated.spire.store.open().sets.is_empty());
}

#[tokio::test]
async fn a_newer_bundle_is_set_read_back_and_reported() {
    let federated = Federated::new(&block(FOREIGN, "")).await;
    assert_eq!(federated.offer(&federated.bundle(3)).await, (Outcome::Set, String::new()));
    let held = federated.spire.store.bundle(FOREIGN).unwrap();
    assert_eq!((held.sequence_number, held.refresh_hint), (3, 300));
    let reported = federated.endpoint.wait_held(FOREIGN, |held| held.bundle.is_some()).await;
    assert_eq!(reported.bundle.unwrap().sequence_number, Some(3));
    assert_eq!(reported.authentication_bundle, None);
    assert_eq!(federated.offer(&federated.bundle(3)).await, (Outcome::Unchanged, String::new()));
    assert_eq!(federated.spire.store.open().sets.len(), 1);
    let line = federated.plugin.launched.logs.wait_for("federated bundle advanced").await;
    assert_eq!((line["trust_domain"].as_str(), line["sequence_number"].as_u64()), (Some(FOREIGN), Some(3)));
}

#[tokio::test]
async fn a_lower_sequence_number_is_refused_until_an_operator_accepts_it() {
    let federated = Federated::new(&block(FOREIGN, "")).await;
    federated.offer(&federated.bundle(9)).await;
    let rebuilt = TestAuthority::new(FOREIGN).bundle_with(Some(2), None);
    for _ in 0..3 {
        let (outcome, reason) = federated.offer(&rebuilt).await;
        assert_eq!(outcome, Outcome::Refused);
        let way_out = "spire-server bundle set -id spiffe://foreign.test -format spiffe";
        assert!(
            reason.contains("sequence number 2 is lower than the held 9") && reason.contains(way_out),
            "{reason}"
        );
    }
    assert_eq!(federated.plugin.launched.logs.with_message("offered bundle refused").len(), 1, "told once");
    assert_eq!(federated.spire.store.bundle(FOREIGN).unwrap().sequence_number, 9);
    federated.spire.store.put(&rebuilt);
    assert_eq!(federated.offer(&rebuilt).await.0, Outcome::Unchanged);
    let newer = TestAuthority::new(FOREIGN).bundle_with(Some(3), None);
    assert_eq!(federated.offer(&newer).await.0, Outcome::Set);
}

#[tokio::test]
async fn the_same_number_with_other_keys_is_refused_louder() {
    let federated = Federated::new(&block(FOREIGN, "")).await;
    federated.offer(&federated.bundle(4)).await;
    let (outcome, reason) = federated.offer(&TestAuthority::new(FOREIGN).bundle_with(Some(4), None)).await;
    assert_eq!(outcome, Outcome::Refused);
    assert!(reason.contains("held sequence number 4"), "{reason}");
    let line = federated.plugin.launched.logs.wait_for("offered bundle refused").await;
    assert_eq!(line["@level"], "error");
}

#[tokio::test]
async fn an_empty_bundle_is_a_revocation_applied_and_announced() {
    let federated = Federated::new(&block(FOREIGN, "")).await;
    federated.offer(&federated.bundle(1)).await;
    let name = TrustDomain::new(FOREIGN).unwrap();
    let empty = Bundle::new(name, Vec::new(), Vec::new(), Some(2), None);
    assert_eq!(federated.offer(&empty).await.0, Outcome::Set);
    assert!(federated.spire.store.bundle(FOREIGN).unwrap().x509_authorities.is_empty());
    let line = federated.plugin.launched.logs.wait_for("foreign trust domain revoked every authority").await;
    assert_eq!(line["@level"], "error");
    let reported = federated.endpoint.wait_held(FOREIGN, |held| held.authentication_bundle.is_some()).await;
    assert!(reported.bundle.unwrap().x509_authorities.is_empty());
    let path_back = reported.authentication_bundle.unwrap();
    assert_eq!(path_back.x509_authorities[0].certificate, federated.foreign.certificate().as_ref());
}

#[tokio::test]
async fn a_bundle_that_keeps_no_known_authority_is_announced_too() {
    let federated = Federated::new(&block(FOREIGN, "")).await;
    federated.offer(&federated.bundle(1)).await;
    let other = TestAuthority::new(FOREIGN).bundle_with(Some(2), None);
    assert_eq!(federated.offer(&other).await.0, Outcome::Set);
    federated.plugin.launched.logs.wait_for("foreign trust domain revoked every authority").await;
}

#[tokio::test]
async fn each_item_of_a_batch_answer_is_looked_at() {
    let federated = Federated::new(&block(FOREIGN, "")).await;
    let refusal = types::Status { code: 13, message: "failed to set bundle: disk full".into() };
    federated.spire.store.open().set_fails = Some(refusal);
    let (outcome, reason) = federated.offer(&federated.bundle(1)).await;
    assert_eq!(outcome, Outcome::Failed);
    assert!(reason.contains("disk full"), "{reason}");
    federated.spire.store.open().set_fails = None;
    federated.spire.store.open().set_forgets = true;
    let (outcome, reason) = federated.offer(&federated.bundle(1)).await;
    assert_eq!(outcome, Outcome::Failed);
    assert!(reason.contains("spire holds other authorities than were set"), "{reason}");
    federated.spire.store.open().set_forgets = false;
    assert_eq!(federated.offer(&federated.bundle(1)).await.0, Outcome::Set);
}

#[tokio::test]
async fn a_restarting_server_is_waited_for_and_nothing_is_lost() {
    let federated = Federated::new(&block(FOREIGN, "")).await;
    federated.offer(&federated.bundle(1)).await;
    let Federated { plugin, folder, endpoint, spire, foreign } = federated;
    let store = spire.stop().await;
    let newer = foreign.bundle_with(Some(2), None);
    let outcome = endpoint.offer_and_wait(FOREIGN, &newer).await;
    assert_eq!(outcome.outcome(), Outcome::Failed, "{outcome:?}");
    let spire = FakeSpire::start_with(&folder.join("api.sock"), store);
    let outcome = endpoint.offer_and_wait(FOREIGN, &newer).await;
    assert_eq!(outcome.outcome(), Outcome::Set, "{outcome:?}");
    assert_eq!(spire.store.bundle(FOREIGN).unwrap().sequence_number, 2);
    assert_eq!(endpoint.links(), 1);
    drop(plugin);
}

#[tokio::test]
async fn what_others_put_into_spire_is_seen_and_reported() {
    let federated = Federated::new(&block(FOREIGN, "")).await;
    federated.spire.store.put(&federated.bundle(8));
    let reported = federated.endpoint.wait_held(FOREIGN, |held| held.bundle.is_some()).await;
    assert_eq!(reported.bundle.unwrap().sequence_number, Some(8));
}

#[tokio::test]
async fn more_bundles_than_a_page_holds_are_all_seen() {
    let names: Vec<_> = (0..450).map(|number| format!("td{number:03}.test")).collect();
    let authority = TestAuthority::new("shared.test").x509_authority();
    let federated = Federated::with_store(&block("td449.test", ""), |store| {
        for name in &names {
            let name = TrustDomain::new(name).unwrap();
            store.put(&Bundle::new(name, vec![authority.clone()], Vec::new(), Some(1), None));
        }
    })
    .await;
    federated.endpoint.wait_held("td449.test", |held| held.bundle.is_some()).await;
}

#[tokio::test]
async fn the_bootstrap_bundle_is_lent_until_spire_holds_one() {
    let federated = Federated::new("").await;
    let path = federated.folder.join("bootstrap.json");
    federated.configure(&block(FOREIGN, &format!("bootstrap_bundle = {path:?}"))).await;
    let held = federated.endpoint.wait_held(FOREIGN, |_| true).await;
    assert_eq!((held.bundle, held.authentication_bundle), (None, None));
    let line = federated.plugin.launched.logs.wait_for("bootstrap bundle cannot be used").await;
    assert!(line["error"].as_str().unwrap().contains("bootstrap.json"));
    std::fs::write(&path, entente_bundle::document::render(&federated.bundle(1))).unwrap();
    let held = federated.endpoint.wait_held(FOREIGN, |held| held.authentication_bundle.is_some()).await;
    assert_eq!(held.bundle, None, "it authenticates the endpoint and is never set");
    assert!(federated.spire.store.bundle(FOREIGN).is_none());
    federated.offer(&federated.bundle(1)).await;
    let held = federated.endpoint.wait_held(FOREIGN, |held| held.bundle.is_some()).await;
    assert_eq!(held.authentication_bundle, None);
}

#[tokio::test]
async fn a_bootstrap_bundle_may_be_pem() {
    let federated = Federated::new("").await;
    let path = federated.folder.join("bootstrap.pem");
    // The certificate alone: the key has no business there.
    let pem = federated.foreign.to_pem();
    let start = pem.find("-----BEGIN CERTIFICATE").unwrap();
    std::fs::write(&path, &pem[start..]).unwrap();
    federated.configure(&block(FOREIGN, &format!("bootstrap_bundle = {path:?}"))).await;
    let held = federated.endpoint.wait_held(FOREIGN, |held| held.authentication_bundle.is_some()).await;
    let bundle = held.authentication_bundle.unwrap();
    assert_eq!(bundle.x509_authorities[0].certificate, federated.foreign.certificate().as_ref());
}

#[tokio::test]
async fn the_bundle_of_a_foreign_endpoint_id_is_held_too() {
    let text = "federates_with \"a.test\" { bundle_endpoint_url = \"https://a.test\"
        bundle_endpoint_profile \"https_spiffe\" { endpoint_spiffe_id = \"spiffe://foreign.test/bundles\" } }";
    let foreign = TestAuthority::new(FOREIGN);
    let federated = Federated::with_store(text, |store| store.put(&foreign.bundle())).await;
    let held = federated.endpoint.wait_held(FOREIGN, |held| held.bundle.is_some()).await;
    assert_eq!(held.bundle.unwrap().x509_authorities[0].certificate, foreign.certificate().as_ref());
    let logs = &federated.plugin.launched.logs;
    assert!(
        logs.with_message("spire holds a federated bundle that no relationship names; it is kept").is_empty()
    );
}

#[tokio::test]
async fn a_relationship_of_spires_own_is_only_ever_assisted() {
    let federated = Federated::new(&block(FOREIGN, "")).await;
    let (held, newer) = (federated.bundle(0), TestAuthority::new(FOREIGN).bundle());
    federated.spire.store.put(&held);
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
    assert!(reason.contains("no relationship with trust domain"), "{reason}");
    let refreshed = link_to_api(&federated.bundle(0));
    federated.spire.store.open().refreshed.insert(FOREIGN.into(), refreshed);
    assert_eq!(federated.offer(&federated.bundle(1)).await.0, Outcome::Set);
    let (outcome, reason) = federated.offer(&TestAuthority::new(FOREIGN).bundle()).await;
    assert_eq!(outcome, Outcome::Failed);
    assert!(reason.contains("found nothing new"), "{reason}");
}

#[tokio::test]
async fn a_hanging_refresh_delays_nobody_else() {
    let blocks = block(FOREIGN, "") + &block("slow.test", "mode = \"assisted\"");
    let federated = Federated::new(&blocks).await;
    federated.spire.store.open().hanging.insert("slow.test".into());
    let slow = TestAuthority::new("slow.test").bundle();
    let first = federated.endpoint.offer("slow.test", Some(link::Bundle::from(&slow))).await;
    until("the refresh hangs", || !federated.spire.store.open().refreshes.is_empty()).await;
    let started = Instant::now();
    assert_eq!(federated.offer(&federated.bundle(1)).await.0, Outcome::Set);
    assert!(started.elapsed() < Duration::from_secs(10));
    let outcome = federated.endpoint.wait_outcome(first).await;
    assert_eq!(outcome.outcome(), Outcome::Failed);
    assert!(outcome.reason.contains("did not answer within 30s"), "{outcome:?}");
}

#[tokio::test]
async fn while_one_offer_is_in_work_the_newest_of_the_others_wins() {
    let federated = Federated::new(&block(FOREIGN, "mode = \"assisted\"")).await;
    federated.spire.store.open().hanging.insert(FOREIGN.into());
    federated.endpoint.offer(FOREIGN, Some(link::Bundle::from(&federated.bundle(1)))).await;
    until("the refresh hangs", || !federated.spire.store.open().refreshes.is_empty()).await;
    federated.configure(&block(FOREIGN, "")).await;
    let mut last = 0;
    for sequence_number in 2..30 {
        let bundle = link::Bundle::from(&federated.bundle(sequence_number));
        last = federated.endpoint.offer(FOREIGN, Some(bundle)).await;
    }
    // Messages are handled in their order, so by this answer all offers have been taken.
    federated.endpoint.sign(&[], 0, &[]).await;
    federated.spire.store.open().hanging.clear();
    assert_eq!(federated.endpoint.wait_outcome(last).await.outcome(), Outcome::Set);
    assert_eq!(federated.spire.store.open().sets.len(), 1);
    assert_eq!(federated.spire.store.bundle(FOREIGN).unwrap().sequence_number, 29);
}

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
    assert!(federated.spire.store.bundle(FOREIGN).is_some());
    assert_eq!(federated.spire.store.open().entries.len(), 1, "nothing else is changed");
    federated.spire.store.open().entries.clear();
    until("it is removed when the entry is gone", || federated.spire.store.bundle(FOREIGN).is_none()).await;
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

fn link_to_api(bundle: &Bundle) -> types::Bundle {
    types::Bundle::from(bundle)
}
