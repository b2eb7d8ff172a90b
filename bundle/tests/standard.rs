//! One test per MUST of the standards that this crate answers for, named after the clause: TDB 4 (bundle), X509-SVID 5
//! (validation) and 6 (in the bundle), with the parts of 2 to 4 that a validator checks, JWT-SVID 6, and FED 7.3.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may fail by a panic")]

mod common;

use common::{around, as_value, changed, counts, domain, good, parse, with_member};
use entente_bundle::freshness::{self, Freshness};
use entente_bundle::svid::{leaf_id, verify};
use entente_bundle::testing::{KeyKind, SvidBuilder, TestAuthority, TestSvid, now};
use entente_bundle::{
    Authorizer, Bundle, BundleSet, BundleSource, DocumentError, SpiffeId, SvidError, document,
};
use serde_json::{Value, json};

fn check(svid: &TestSvid, bundles: &dyn BundleSource) -> Result<SpiffeId, SvidError> {
    verify(svid.leaf(), svid.intermediates(), bundles, &Authorizer::AnyInBundles, now())
}

fn reason(svid: &TestSvid, bundles: &dyn BundleSource) -> &'static str {
    check(svid, bundles).unwrap_err().reason()
}

// The refusal of a leaf with this fault; the same leaf without it passes, which the first line makes sure of.
fn reason_of(fault: impl FnOnce(SvidBuilder<'_>) -> SvidBuilder<'_>) -> &'static str {
    let authority = TestAuthority::new("a.test");
    check(&authority.svid("/web").build(), &authority.bundle()).unwrap();
    reason(&fault(authority.svid("/web")).build(), &authority.bundle())
}

fn bundle_of(authorities: &[&TestAuthority], sequence: Option<u64>) -> Bundle {
    let x509 = authorities.iter().map(|authority| authority.x509_authority()).collect();
    let jwt = vec![TestAuthority::new("a.test").jwt_authority("key-1")];
    Bundle::new(domain(), x509, jwt, sequence, None)
}

// --- TDB 4: the bundle

#[test]
fn tdb_4_a_bundle_is_one_jwk_set_in_utf_8() {
    assert!(matches!(parse(b"{\"keys\": [], \"a\": \"\xc3\x28\"}"), Err(DocumentError::Json { .. })));
    assert!(matches!(parse("{\"keys\": []} {\"keys\": []}"), Err(DocumentError::Json { .. })));
    assert_eq!(parse("[]").unwrap_err(), DocumentError::NotAnObject);
    assert!(parse("{\"keys\": [], \"a\": \"\u{e9}\"}").is_ok());
}

#[test]
fn tdb_4_a_document_never_names_its_own_trust_domain() {
    let text = document::render(&bundle_of(&[&TestAuthority::new("a.test")], Some(1)));
    let value: Value = serde_json::from_slice(&text).unwrap();
    let mut names: Vec<_> = value.as_object().unwrap().keys().collect();
    names.sort();
    assert_eq!(names, ["keys", "spiffe_sequence"]);
    let claimed = changed(|document| document["trust_domain"] = json!("b.test"));
    assert_eq!(parse(claimed.to_string()).unwrap().bundle.trust_domain(), &domain());
}

#[test]
fn tdb_4_1_nothing_depends_on_a_member_that_the_standard_does_not_know() {
    let document = changed(|document| document["vendor"] = json!({"x": [1, 2.5, null, {"y": true}]}));
    let mut without = document.clone();
    without.as_object_mut().unwrap().remove("vendor");
    let read = |document: &Value| parse(document.to_string()).unwrap().bundle;
    assert_eq!(read(&document), read(&without));
}

#[test]
fn tdb_4_1_1_the_sequence_number_is_an_integer_of_at_least_64_bits() {
    let text = |number: &str| format!(r#"{{"keys": [], "spiffe_sequence": {number}}}"#);
    let read = |number: &str| parse(text(number)).map(|parsed| parsed.bundle.sequence_number());
    assert_eq!(read("18446744073709551615"), Ok(Some(u64::MAX)));
    for wrong in ["1.0", "1e2", "-1", "\"1\""] {
        assert_eq!(read(wrong), Err(DocumentError::SequenceNumber), "{wrong}");
    }
}

#[test]
fn tdb_4_1_1_a_lower_sequence_number_is_older_and_without_one_the_newest_retrieval_counts() {
    let (one, other) = (TestAuthority::new("a.test"), TestAuthority::new("a.test"));
    let (older, newer) = (bundle_of(&[&one], Some(1)), bundle_of(&[&other], Some(2)));
    let stale = Freshness::Stale { held: 2, offered: 1 };
    assert_eq!(freshness::compare(Some(&newer), &older), stale);
    assert_eq!(freshness::compare(Some(&older), &newer), Freshness::Advance);
    let unnumbered = bundle_of(&[&one], None);
    assert_eq!(freshness::compare(Some(&newer), &unnumbered), Freshness::Advance);
}

#[test]
fn tdb_4_1_2_the_refresh_hint_is_an_integer_of_seconds_and_may_be_absent() {
    let text = |hint: &str| format!(r#"{{"keys": [], "spiffe_refresh_hint": {hint}}}"#);
    assert_eq!(parse(text("300.5")).unwrap_err(), DocumentError::RefreshHint);
    let read = |text: &str| parse(text).unwrap().bundle.refresh_hint().map(|hint| hint.as_secs());
    assert_eq!(read(&text("60")), Some(60));
    assert_eq!(read(r#"{"keys": []}"#), None);
}

#[test]
fn tdb_4_1_3_keys_must_be_present() {
    assert_eq!(parse("{}").unwrap_err(), DocumentError::MissingKeys);
    assert_eq!(parse(r#"{"keys": null}"#).unwrap_err(), DocumentError::KeysNotAnArray);
    let nothing = Bundle::new(domain(), vec![], vec![], None, None);
    assert_eq!(as_value(&nothing), json!({"keys": []}));
}

#[test]
fn tdb_4_1_3_an_empty_array_of_keys_revokes_every_svid() {
    let authority = TestAuthority::new("a.test");
    let svid = authority.svid("/web").build();
    assert!(check(&svid, &authority.bundle()).is_ok());
    let revoked = parse(r#"{"keys": []}"#).unwrap().bundle;
    assert_eq!(reason(&svid, &revoked), "no_valid_authority");
    assert!(revoked.is_empty() && revoked.drops_every_authority_of(&authority.bundle()));
}

#[test]
fn tdb_4_1_3_keys_of_which_nothing_is_left_revoke_like_an_empty_array() {
    let parsed =
        parse(around(json!([{"use": "next-svid", "kty": "EC"}, {"kty": "EC"}])).to_string()).unwrap();
    assert!(parsed.bundle.is_empty());
    assert_eq!(parsed.skipped.len(), 2);
}

#[test]
fn tdb_4_2_1_an_element_of_unknown_key_type_is_ignored() {
    assert_eq!(counts(&with_member(0, "kty", json!("AKP"))), (0, 1, 1));
    assert_eq!(counts(&with_member(1, "kty", json!("ec"))), (1, 0, 1));
}

#[test]
fn tdb_4_2_1_every_published_element_has_its_key_type() {
    for (kind, expected) in [(KeyKind::P521, "EC"), (KeyKind::Rsa2048, "RSA"), (KeyKind::Ed25519, "OKP")] {
        for element in good(kind)["keys"].as_array().unwrap() {
            assert_eq!(element["kty"], expected);
        }
    }
}

#[test]
fn tdb_4_2_2_an_element_of_missing_or_unknown_use_is_ignored() {
    assert_eq!(counts(&with_member(0, "use", Value::Null)), (0, 1, 1));
    assert_eq!(counts(&with_member(1, "use", json!("next-svid"))), (1, 0, 1));
}

#[test]
fn tdb_4_2_2_use_is_case_sensitive() {
    assert_eq!(counts(&with_member(0, "use", json!("X509-SVID"))), (0, 1, 1));
    assert_eq!(counts(&with_member(1, "use", json!("jwt-Svid"))), (1, 0, 1));
}

#[test]
fn tdb_4_2_2_published_elements_say_what_they_are_for() {
    let document = good(KeyKind::P256);
    assert_eq!(document["keys"][0]["use"], "x509-svid");
    assert_eq!(document["keys"][1]["use"], "jwt-svid");
}

// --- X509-SVID 2 to 5: validation

#[test]
fn x509_2_exactly_one_uri_name_that_is_a_spiffe_id() {
    assert_eq!(reason_of(|svid| svid.with_two_uris()), "uri_count");
    assert_eq!(reason_of(|svid| svid.with_no_uri()), "uri_count");
    for uri in ["https://a.test/web", "spiffe://A.test/web", "spiffe://a.test/web?x", "spiffe://a.test//web"]
    {
        assert_eq!(reason_of(|svid| svid.with_id(uri)), "bad_id", "{uri}");
    }
    let authority = TestAuthority::new("a.test");
    let other_names = authority.svid("/web").with_dns("web.a.test").with_ip([127, 0, 0, 1].into()).build();
    assert_eq!(leaf_id(other_names.leaf()).unwrap().to_string(), "spiffe://a.test/web");
}

#[test]
fn x509_4_3_a_leaf_is_for_digital_signatures() {
    assert_eq!(reason_of(|svid| svid.without_digital_signature()), "no_digital_signature");
    assert_eq!(reason_of(|svid| svid.without_key_usage()), "no_digital_signature");
}

#[test]
fn x509_4_4_an_extended_key_usage_names_both_tls_roles() {
    assert_eq!(reason_of(|svid| svid.for_servers_only()), "extended_key_usage");
    assert_eq!(reason_of(|svid| svid.for_clients_only()), "extended_key_usage");
    let authority = TestAuthority::new("a.test");
    let silent = authority.svid("/web").without_extended_key_usage().build();
    assert!(check(&silent, &authority.bundle()).is_ok());
}

#[test]
fn x509_5_1_the_path_ends_in_an_authority_of_the_svids_own_trust_domain() {
    let (a, b) = (TestAuthority::new("a.test"), TestAuthority::new("b.test"));
    let both: BundleSet = [a.bundle(), b.bundle()].into_iter().collect();
    assert_eq!(reason(&b.svid("/web").with_id("spiffe://a.test/web").build(), &both), "unknown_issuer");
    assert_eq!(reason(&a.svid("/web").build(), &b.bundle()), "no_bundle");
    assert!(check(&b.svid("/web").build(), &both).is_ok());
}

#[test]
fn x509_5_1_every_certificate_of_the_path_is_within_its_validity() {
    assert_eq!(reason_of(|svid| svid.expired()), "expired");
    assert_eq!(reason_of(|svid| svid.not_valid_yet()), "not_valid_yet");
    let root = TestAuthority::new("a.test");
    let expired = root.intermediate_builder().expired().build();
    assert_eq!(reason(&expired.svid("/web").build(), &root.bundle()), "intermediate_expired");
    let expired = TestAuthority::builder("a.test").expired().build();
    assert_eq!(reason(&expired.svid("/web").build(), &expired.bundle()), "no_valid_authority");
}

#[test]
fn x509_5_1_every_intermediate_may_sign_certificates() {
    let root = TestAuthority::new("a.test");
    let refused = |issuer: TestAuthority| reason(&issuer.svid("/web").build(), &root.bundle());
    assert_eq!(refused(root.intermediate_builder().not_a_ca().build()), "intermediate_not_ca");
    assert_eq!(refused(root.intermediate_builder().without_cert_sign().build()), "intermediate_not_ca");
    assert!(check(&root.intermediate().svid("/web").build(), &root.bundle()).is_ok());
}

#[test]
fn x509_5_2_a_leaf_is_no_ca() {
    assert_eq!(reason_of(|svid| svid.with_ca_flag()), "leaf_is_ca");
}

#[test]
fn x509_5_2_a_leaf_may_not_sign_certificates() {
    assert_eq!(reason_of(|svid| svid.with_cert_sign()), "leaf_cert_sign");
}

#[test]
fn x509_5_2_a_leaf_may_not_sign_revocation_lists() {
    assert_eq!(reason_of(|svid| svid.with_crl_sign()), "leaf_crl_sign");
}

#[test]
fn x509_5_2_the_id_of_a_leaf_has_a_path() {
    assert_eq!(reason_of(|svid| svid.without_path()), "no_path");
}

#[test]
fn x509_5_2_a_signing_certificate_is_no_svid() {
    let root = TestAuthority::new("a.test");
    let below = root.intermediate();
    assert_eq!(leaf_id(root.certificate()).unwrap_err().reason(), "leaf_is_ca");
    assert_eq!(leaf_id(below.certificate()).unwrap_err().reason(), "leaf_is_ca");
}

// --- X509-SVID 6: authorities in the bundle

#[test]
fn x509_6_1_each_published_authority_is_one_element_with_one_certificate_and_no_key_id() {
    let (one, other) = (TestAuthority::new("a.test"), TestAuthority::new("a.test"));
    let document = as_value(&bundle_of(&[&one, &other], None));
    let elements = document["keys"].as_array().unwrap();
    let x509: Vec<_> = elements.iter().filter(|element| element["use"] == "x509-svid").collect();
    assert_eq!(x509.len(), 2);
    for element in x509 {
        assert_eq!(element["x5c"].as_array().unwrap().len(), 1);
        assert!(element.get("kid").is_none());
        let mut names: Vec<_> = element.as_object().unwrap().keys().collect();
        names.sort();
        assert_eq!(names, ["crv", "kty", "use", "x", "x5c", "y"]);
    }
}

#[test]
fn x509_6_2_an_element_without_certificate_is_ignored() {
    assert_eq!(counts(&with_member(0, "x5c", Value::Null)), (0, 1, 1));
    assert_eq!(counts(&with_member(0, "x5c", json!([]))), (0, 1, 1));
}

#[test]
fn x509_6_2_only_the_first_certificate_of_an_element_counts() {
    let mut document = good(KeyKind::P256);
    let first = parse(document.to_string()).unwrap().bundle;
    let other = good(KeyKind::P256)["keys"][0]["x5c"][0].clone();
    document["keys"][0]["x5c"].as_array_mut().unwrap().push(other);
    assert_eq!(parse(document.to_string()).unwrap().bundle, first);
}

#[test]
fn x509_6_2_without_x509_elements_the_domain_has_no_x509_svids() {
    let authority = TestAuthority::new("a.test");
    let jwt_only = parse(with_member(0, "use", json!("next-svid")).to_string()).unwrap().bundle;
    assert!(!jwt_only.is_empty());
    assert_eq!(reason(&authority.svid("/web").build(), &jwt_only), "no_valid_authority");
}

// --- JWT-SVID 6: keys in the bundle

#[test]
fn jwt_6_each_published_key_has_its_key_id() {
    assert_eq!(good(KeyKind::P384)["keys"][1]["kid"], "key-1");
}

#[test]
fn jwt_6_a_key_without_key_id_is_never_taken() {
    let refused = parse(with_member(1, "kid", Value::Null).to_string());
    assert!(matches!(refused, Err(DocumentError::Element { index: 1, .. })));
}

// --- FED 7.3: bundles stay apart

#[test]
fn fed_7_3_bundles_of_different_trust_domains_are_never_merged() {
    let (a, b) = (TestAuthority::new("a.test"), TestAuthority::new("b.test"));
    let text = document::render(&b.bundle());
    // The document of b.test, served where a.test's was configured: it becomes a.test's, and vouches for nobody of b.test.
    let misplaced = parse(&text).unwrap().bundle;
    assert_eq!(reason(&b.svid("/web").build(), &misplaced), "no_bundle");
    let both: BundleSet = [a.bundle(), b.bundle()].into_iter().collect();
    for (signer, id) in [(&a, "spiffe://b.test/web"), (&b, "spiffe://a.test/web")] {
        assert_eq!(reason(&signer.svid("/web").with_id(id).build(), &both), "unknown_issuer");
    }
}
