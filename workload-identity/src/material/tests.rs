//! Updates that are refused, and what is taken of those that are not.

use entente_bundle::testing::TestAuthority;

use super::*;
use crate::testing::Update;

fn held() -> Bundles {
    Bundles::new()
}

fn good() -> (TestAuthority, Update) {
    let authority = TestAuthority::new("a.test");
    let update = Update::new(&authority.svid("/web").build(), &authority.bundle());
    (authority, update)
}

#[test]
fn a_key_that_belongs_to_another_leaf_is_refused() {
    let (authority, update) = good();
    let mut response = update.into_response();
    response.svids[0].x509_svid_key = authority.svid("/web").build().pkcs8.clone();
    assert!(matches!(read(response, &held(), &Choice::First), Err(UpdateError::Key { index: 0, .. })));
}

#[test]
fn an_id_that_the_leaf_does_not_carry_is_refused() {
    let mut response = good().1.into_response();
    response.svids[0].spiffe_id = "spiffe://a.test/db".into();
    assert!(matches!(read(response, &held(), &Choice::First), Err(UpdateError::OtherId { index: 0, .. })));
}

#[test]
fn an_identity_that_is_not_issued_or_is_one_of_several_is_never_guessed_and_the_bundles_count() {
    let (authority, update) = good();
    let take = |update: &Update, choice: &Choice| {
        let material = read(update.clone().into_response(), &held(), choice).unwrap().unwrap();
        assert!(material.bundles[&TrustDomain::new("a.test").unwrap()].same_authorities(&authority.bundle()));
        material.identity
    };
    let db = Choice::Exactly(SpiffeId::new("spiffe://a.test/db").unwrap());
    let only = |name| Choice::OnlyOf(TrustDomain::new(name).unwrap());
    assert!(matches!(take(&update, &db), Err(UpdateError::NotIssued { .. })));
    assert!(matches!(take(&update, &only("b.test")), Err(UpdateError::NotIssued { .. })));
    assert!(take(&update, &only("a.test")).is_ok());
    let two = update.with_svid(&authority.svid("/db").build(), &authority.bundle());
    assert!(matches!(take(&two, &only("a.test")), Err(UpdateError::Ambiguous { .. })));
    assert_eq!(take(&two, &db).unwrap().id.path(), "/db");
    assert_eq!(take(&two, &Choice::First).unwrap().id.path(), "/web");
}

#[test]
fn certificates_that_are_cut_off_are_refused() {
    let mut response = good().1.into_response();
    response.svids[0].x509_svid.pop();
    assert!(matches!(read(response, &held(), &Choice::First), Err(UpdateError::Chain { index: 0 })));
}

#[test]
fn a_leaf_that_every_peer_would_refuse_is_refused() {
    let authority = TestAuthority::new("a.test");
    let leaf = authority.svid("/web").with_cert_sign().build();
    let mut response = Update::new(&leaf, &authority.bundle()).into_response();
    response.svids[0].spiffe_id = "spiffe://a.test/web".into();
    assert!(matches!(read(response, &held(), &Choice::First), Err(UpdateError::Leaf { index: 0, .. })));
}

#[test]
fn an_issuer_that_may_not_be_one_is_refused() {
    let root = TestAuthority::new("a.test");
    let below = [
        root.intermediate_builder().not_a_ca().build(),
        root.intermediate_builder().without_cert_sign().build(),
    ];
    for issuer in below {
        let update = Update::new(&issuer.svid("/web").build(), &root.bundle());
        let refusal = read(update.into_response(), &held(), &Choice::First).unwrap_err();
        assert!(matches!(refusal, UpdateError::Issuer { index: 0, position: 1, .. }), "{refusal:?}");
    }
}

#[test]
fn a_chain_ends_with_the_first_of_its_certificates() {
    let root = TestAuthority::new("a.test");
    let below = root.intermediate_builder().with_lifetime(-60, 600).build();
    let update = Update::new(&below.svid("/web").build(), &root.bundle());
    let material = read(update.into_response(), &held(), &Choice::First).unwrap().unwrap();
    let issuer = X509Authority::from_der(below.certificate(), false).unwrap();
    let svid = material.identity.unwrap();
    assert_eq!(svid.expires_at, issuer.not_after());
    assert_eq!(svid.key.cert.len(), 2);
}

#[test]
fn each_empty_mandatory_field_is_named() {
    type Empty = fn(&mut X509svid);
    let cases: [(&str, Empty); 4] = [
        ("spiffe_id", |svid| svid.spiffe_id.clear()),
        ("x509_svid", |svid| svid.x509_svid.clear()),
        ("x509_svid_key", |svid| svid.x509_svid_key.clear()),
        ("bundle", |svid| svid.bundle.clear()),
    ];
    for (name, empty) in cases {
        let mut response = good().1.into_response();
        empty(&mut response.svids[0]);
        let refusal = read(response, &held(), &Choice::First).unwrap_err();
        assert!(matches!(refusal, UpdateError::MissingField { field, .. } if field == name), "{refusal:?}");
    }
}

#[test]
fn an_own_bundle_without_an_authority_is_refused() {
    let (authority, update) = good();
    let leaf = authority.svid("/web").build().chain[0].to_vec();
    let mut response = update.into_response();
    response.svids[0].bundle = leaf;
    assert!(matches!(read(response, &held(), &Choice::First), Err(UpdateError::NoAuthority)));
}

#[test]
fn an_own_bundle_that_is_cut_off_is_refused() {
    let mut response = good().1.into_response();
    response.svids[0].bundle.pop();
    assert!(matches!(read(response, &held(), &Choice::First), Err(UpdateError::Bundle)));
}

#[test]
fn an_update_without_an_svid_says_that_nothing_is_issued() {
    assert!(read(X509svidResponse::default(), &held(), &Choice::First).unwrap().is_none());
}

#[test]
fn the_first_svid_is_the_identity() {
    let (authority, update) = good();
    let update = update.with_svid(&authority.svid("/db").build(), &authority.bundle());
    let material = read(update.into_response(), &held(), &Choice::First).unwrap().unwrap();
    assert_eq!(material.identity.unwrap().id.to_string(), "spiffe://a.test/web");
}

#[test]
fn a_federated_entry_never_replaces_the_own_bundle() {
    let impostor = TestAuthority::new("a.test");
    let (authority, update) = good();
    let update = update.with_federated(&impostor.bundle());
    let material = read(update.into_response(), &held(), &Choice::First).unwrap().unwrap();
    let own = &material.bundles[&TrustDomain::new("a.test").unwrap()];
    assert!(own.same_authorities(&authority.bundle()));
}

#[test]
fn an_unreadable_federated_bundle_leaves_the_held_one() {
    let foreign = TestAuthority::new("b.test").bundle();
    let trust_domain = foreign.trust_domain().clone();
    let before = Bundles::from([(trust_domain.clone(), Arc::new(foreign))]);
    let mut response = good().1.into_response();
    response.federated_bundles.insert("spiffe://b.test".into(), b"garbage".to_vec());
    let material = read(response, &before, &Choice::First).unwrap().unwrap();
    assert_eq!(material.bundles.get(&trust_domain), before.get(&trust_domain));
}

#[test]
fn an_empty_federated_bundle_is_news_and_not_a_failure() {
    let foreign = TestAuthority::new("b.test").bundle();
    let trust_domain = foreign.trust_domain().clone();
    let before = Bundles::from([(trust_domain.clone(), Arc::new(foreign))]);
    let mut response = good().1.into_response();
    response.federated_bundles.insert("spiffe://b.test".into(), Vec::new());
    let material = read(response, &before, &Choice::First).unwrap().unwrap();
    assert!(material.bundles[&trust_domain].is_empty());
}

#[test]
fn an_authority_that_may_not_be_one_is_left_out_alone() {
    let foreign = TestAuthority::new("b.test");
    let mut der = foreign.svid("/web").build().chain[0].to_vec();
    der.extend_from_slice(foreign.certificate());
    let mut response = good().1.into_response();
    response.federated_bundles.insert("spiffe://b.test".into(), der);
    let material = read(response, &held(), &Choice::First).unwrap().unwrap();
    let bundle = &material.bundles[&TrustDomain::new("b.test").unwrap()];
    assert!(bundle.same_authorities(&foreign.bundle()));
}

#[test]
fn lengths_that_do_not_fit_are_no_certificates() {
    for der in [
        &[0x30][..],
        &[0x30, 5, 0],
        &[0x31, 0],
        &[0x30, 0x80],
        &[0x30, 0x85, 0, 0, 0, 0, 1],
        &[0x30, 0x84, 1],
    ] {
        assert_eq!(split(der), None, "{der:?}");
    }
    assert_eq!(split(&[0x30, 0, 0x30, 1, 7]), Some(vec![&[0x30, 0][..], &[0x30, 1, 7]]));
}
