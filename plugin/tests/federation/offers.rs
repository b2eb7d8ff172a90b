//! What becomes of an offered bundle: refused, set, read back, and told.

use entente_bundle::testing::TestAuthority;
use entente_bundle::{Bundle, TrustDomain};
use entente_proto::link::v1 as link;
use entente_proto::link::v1::offer_outcome::Outcome;
use entente_proto::spire::api::types;

use super::{FOREIGN, Federated, block};
use crate::support::spire::FakeSpire;
use crate::support::{OWN, until};

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
async fn first_contact_leaves_no_error_in_spires_log_and_overwrites_nothing_put_there_meanwhile() {
    let federated = Federated::new(&block(FOREIGN, "")).await;
    let operators = federated.bundle(7);
    federated.spire.store.put(&operators);
    let (outcome, reason) = federated.offer(&federated.bundle(1)).await;
    assert_eq!(outcome, Outcome::Refused, "{reason}");
    assert_eq!(federated.spire.store.bundle(FOREIGN), Some(types::Bundle::from(&operators)));

    let federated = Federated::new(&block(FOREIGN, "")).await;
    assert_eq!(federated.offer(&federated.bundle(1)).await, (Outcome::Set, String::new()));
    assert_eq!(federated.spire.store.open().errors_logged, 0);
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
async fn an_explicit_zero_is_refused_and_no_number_at_all_is_taken_and_announced() {
    let federated = Federated::new(&block(FOREIGN, "")).await;
    federated.offer(&federated.bundle(9)).await;
    let other = TestAuthority::new(FOREIGN);
    let (outcome, reason) = federated.offer(&other.bundle_with(Some(0), None)).await;
    assert_eq!(outcome, Outcome::Refused);
    assert!(reason.contains("sequence number 0 is lower than the held 9"), "{reason}");
    let message = "bundle without a sequence number took the place of a numbered one";
    assert!(federated.plugin.launched.logs.with_message(message).is_empty());

    assert_eq!(federated.offer(&other.bundle_with(None, None)).await.0, Outcome::Set);
    let line = federated.plugin.launched.logs.wait_for(message).await;
    assert_eq!(line["@level"], "warn");
    assert_eq!(line["trust_domain"], FOREIGN);
    assert_eq!(line["held_sequence_number"], 9);
    // A record cannot tell 0 from none, so neither can we from now on.
    assert_eq!(federated.offer(&other.bundle_with(Some(0), None)).await.0, Outcome::Unchanged);
}

#[tokio::test]
async fn a_number_that_was_missing_is_set_with_the_same_keys_and_what_is_older_is_refused_again() {
    let federated = Federated::new(&block(FOREIGN, "")).await;
    federated.offer(&federated.bundle(9)).await;
    let other = TestAuthority::new(FOREIGN);
    assert_eq!(federated.offer(&other.bundle_with(None, None)).await.0, Outcome::Set);
    assert_eq!(federated.offer(&other.bundle_with(Some(10), None)).await.0, Outcome::Set);
    assert_eq!(federated.spire.store.bundle(FOREIGN).unwrap().sequence_number, 10);
    let older = TestAuthority::new(FOREIGN).bundle_with(Some(5), None);
    let (outcome, reason) = federated.offer(&older).await;
    assert_eq!(outcome, Outcome::Refused);
    assert!(reason.contains("sequence number 5 is lower than the held 10"), "{reason}");
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
async fn while_one_offer_is_in_work_the_newest_of_the_others_wins() {
    let assisted = block(FOREIGN, "mode = \"assisted\"");
    let hanging = [FOREIGN.into()];
    let federated = Federated::with_store(&assisted, |store| store.open().hanging.extend(hanging)).await;
    federated.endpoint.offer(FOREIGN, Some(link::Bundle::from(&federated.bundle(1)))).await;
    // One to learn who keeps the bundle, and that of the offer.
    until("both refreshes hang", || federated.spire.store.open().refreshes_open == 2).await;
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
