//! Every document of the table "How SPIRE reads a bundle" in our fact sheet on federation, and what we make of it: what the
//! standard says, where it says something; else strict about the whole document and about every authority.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may fail by a panic")]

mod common;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use common::{around, changed, counts, good, parse, with_member};
use entente_bundle::bundle::MAX_REFRESH_HINT;
use entente_bundle::document::{self, ElementError};
use entente_bundle::testing::{KeyKind, TestAuthority};
use entente_bundle::{AuthorityError, Bundle, DocumentError, KeyError};
use serde_json::{Value, json};

fn refusal(text: impl AsRef<[u8]>) -> DocumentError {
    parse(text).unwrap_err()
}

fn element_refusal(document: &Value) -> (usize, ElementError) {
    match refusal(document.to_string()) {
        DocumentError::Element { index, reason } => (index, reason),
        other => panic!("refused for another reason: {other}"),
    }
}

fn key(error: KeyError) -> ElementError {
    ElementError::Authority(AuthorityError::Key(error))
}

// The same P-256 document with the element at `index` skipped, the other taken.
fn assert_skipped(index: usize, name: &str, value: Value) {
    let expected = if index == 0 { (0, 1, 1) } else { (1, 0, 1) };
    assert_eq!(counts(&with_member(index, name, value.clone())), expected, "{name} = {value}");
}

#[test]
fn keys_missing_or_null_or_a_null_document_is_refused() {
    assert_eq!(refusal("{}"), DocumentError::MissingKeys);
    assert_eq!(refusal(r#"{"spiffe_sequence": 1}"#), DocumentError::MissingKeys);
    assert_eq!(refusal(r#"{"keys": null}"#), DocumentError::KeysNotAnArray);
    assert_eq!(refusal("null"), DocumentError::NotAnObject);
}

#[test]
fn empty_keys_are_a_bundle_that_revokes_everything() {
    let parsed = parse(r#"{"keys": []}"#).unwrap();
    assert!(parsed.bundle.is_empty() && parsed.skipped.is_empty());
}

#[test]
fn a_document_of_another_shape_is_refused() {
    assert_eq!(refusal(r#"{"keys": {}}"#), DocumentError::KeysNotAnArray);
    for top in ["[]", "\"keys\"", "7", "true"] {
        assert_eq!(refusal(top), DocumentError::NotAnObject);
    }
    assert!(matches!(refusal("<html><body>502</body></html>"), DocumentError::Json { .. }));
    assert_eq!(refusal(""), DocumentError::Empty);
    assert_eq!(refusal(" \n"), DocumentError::Empty);
    assert_eq!(refusal("\u{feff}{\"keys\": []}"), DocumentError::ByteOrderMark);
    assert!(matches!(refusal(b"{\"keys\": [], \"x\": \"\xff\"}"), DocumentError::Json { .. }));
}

#[test]
fn garbage_after_the_document_is_refused() {
    for tail in ["x", "{}", "{\"keys\": []}", "\0", ","] {
        let text = format!("{}{tail}", good(KeyKind::P256));
        assert!(matches!(refusal(text), DocumentError::Json { .. }), "{tail}");
    }
    assert!(parse(format!("{}\n", good(KeyKind::P256))).is_ok());
}

#[test]
fn an_unknown_top_level_member_is_ignored() {
    let document = changed(|document| document["entente_signature"] = json!({"a": [1, {"b": null}]}));
    assert_eq!(counts(&document), (1, 1, 0));
}

#[test]
fn member_names_are_case_sensitive() {
    assert_eq!(refusal(r#"{"KEYS": []}"#), DocumentError::MissingKeys);
    assert!(parse(r#"{"KEYS": 7, "keys": []}"#).is_ok());
}

#[test]
fn an_element_of_unknown_or_missing_use_is_skipped() {
    for index in [0, 1] {
        for unknown in ["sig", "JWT-SVID", "wit-svid", ""] {
            assert_skipped(index, "use", json!(unknown));
        }
        assert_skipped(index, "use", json!(7));
        assert_skipped(index, "use", Value::Null);
    }
}

#[test]
fn an_element_of_unknown_or_missing_key_type_is_skipped() {
    for index in [0, 1] {
        assert_skipped(index, "kty", json!("AKP"));
        assert_skipped(index, "kty", Value::Null);
        assert_skipped(index, "crv", json!("secp256k1"));
    }
    let okp = json!({"use": "jwt-svid", "kty": "OKP", "kid": "k", "crv": "X25519", "x": "AA"});
    assert_eq!(counts(&around(json!([okp]))), (0, 0, 1));
    assert_eq!(counts(&around(json!([null, 7, "x", [], {}]))), (0, 0, 5));
}

#[test]
fn a_coordinate_of_wrong_length_or_encoding_is_refused() {
    let (curve, expected) = ("P-256", 32);
    for found in [0, 31, 33] {
        let text = URL_SAFE_NO_PAD.encode(vec![1; found]);
        let refused = (1, key(KeyError::WrongLength { curve, expected, found }));
        assert_eq!(element_refusal(&with_member(1, "x", json!(text))), refused);
    }
    let padded = format!("{}=", URL_SAFE_NO_PAD.encode([1; 32]));
    for value in [json!(padded), json!("+/"), json!("a b"), json!(7), Value::Null] {
        assert_eq!(element_refusal(&with_member(1, "y", value)), (1, ElementError::Member { name: "y" }));
    }
}

#[test]
fn an_ed25519_key_of_wrong_length_is_refused() {
    let mut document = good(KeyKind::Ed25519);
    document["keys"][1]["x"] = json!(URL_SAFE_NO_PAD.encode([1; 31]));
    let refused = KeyError::WrongLength { curve: "Ed25519", expected: 32, found: 31 };
    assert_eq!(element_refusal(&document), (1, key(refused)));
}

#[test]
fn a_point_off_its_curve_is_refused() {
    for (kind, curve) in [(KeyKind::P256, "P-256"), (KeyKind::P384, "P-384"), (KeyKind::P521, "P-521")] {
        let mut document = good(kind);
        document["keys"][1]["x"] = document["keys"][1]["y"].clone();
        assert_eq!(element_refusal(&document), (1, key(KeyError::NotOnCurve { curve })));
    }
}

#[test]
fn a_weak_rsa_key_is_refused() {
    let mut document = good(KeyKind::Rsa2048);
    document["keys"][1]["e"] = json!("AQ");
    assert_eq!(element_refusal(&document), (1, key(KeyError::RsaExponent)));
    document["keys"][1]["n"] = json!(URL_SAFE_NO_PAD.encode([0xff; 128]));
    assert_eq!(element_refusal(&document), (1, key(KeyError::RsaModulus { bits: 1024 })));
}

#[test]
fn symmetric_and_private_keys_are_refused() {
    for index in [0, 1] {
        let document = with_member(index, "kty", json!("oct"));
        assert_eq!(element_refusal(&document), (index, ElementError::SymmetricKey));
        for name in ["d", "dp", "dq", "k", "oth", "p", "q", "qi"] {
            let document = with_member(index, name, json!("AQAB"));
            assert_eq!(element_refusal(&document), (index, ElementError::PrivateKey { name }));
        }
    }
}

#[test]
fn a_jwt_key_without_key_id_is_refused() {
    for value in [Value::Null, json!(""), json!(7)] {
        assert_eq!(element_refusal(&with_member(1, "kid", value)), (1, ElementError::MissingKeyId));
    }
}

#[test]
fn two_jwt_keys_of_one_key_id_are_refused() {
    let document = changed(|document| {
        let again = good(KeyKind::P384)["keys"][1].clone();
        document["keys"].as_array_mut().unwrap().push(again);
    });
    assert_eq!(element_refusal(&document), (2, ElementError::DuplicateKeyId { key_id: "key-1".into() }));
}

#[test]
fn other_members_of_a_key_are_ignored() {
    let document = changed(|document| {
        for element in document["keys"].as_array_mut().unwrap() {
            element["alg"] = json!("ES256");
            element["key_ops"] = json!(["verify"]);
            element["ext"] = json!(true);
            element["x5t"] = json!("AA");
        }
    });
    assert_eq!(counts(&document), (1, 1, 0));
}

#[test]
fn an_x509_element_without_certificate_is_skipped() {
    assert_skipped(0, "x5c", Value::Null);
    assert_skipped(0, "x5c", json!([]));
}

#[test]
fn of_several_certificates_the_first_counts() {
    let document = changed(|document| {
        let first = document["keys"][0]["x5c"][0].clone();
        document["keys"][0]["x5c"] = json!([first, "not even base64", 7]);
    });
    assert_eq!(counts(&document), (1, 1, 0));
    let document = changed(|document| {
        let first = document["keys"][0]["x5c"][0].clone();
        document["keys"][0]["x5c"] = json!(["AAAA", first]);
    });
    assert!(matches!(element_refusal(&document), (0, ElementError::Authority(_))));
}

#[test]
fn a_key_id_of_an_x509_element_is_dropped() {
    let document = with_member(0, "kid", json!("key-1"));
    assert_eq!(counts(&document), (1, 1, 0));
    let bundle = parse(document.to_string()).unwrap().bundle;
    assert!(common::as_value(&bundle)["keys"][0].get("kid").is_none());
}

#[test]
fn a_certificate_in_another_encoding_is_refused() {
    let url_safe = |text: &str| text.replace('+', "-").replace('/', "_");
    let document = changed(|document| {
        // Until one comes whose text differs in the two alphabets.
        while document["keys"][0]["x5c"][0].as_str().is_some_and(|text| url_safe(text) == text) {
            *document = good(KeyKind::P256);
        }
        let text = url_safe(document["keys"][0]["x5c"][0].as_str().unwrap());
        document["keys"][0]["x5c"] = json!([text]);
    });
    assert_eq!(element_refusal(&document), (0, ElementError::CertificateText));
    for value in [json!(["*"]), json!([7]), json!(["AA"]), json!("AAAA"), json!({}), json!(true)] {
        let document = with_member(0, "x5c", value.clone());
        assert_eq!(element_refusal(&document), (0, ElementError::CertificateText), "{value}");
    }
}

#[test]
fn a_certificate_with_line_breaks_is_taken() {
    let document = changed(|document| {
        let text = document["keys"][0]["x5c"][0].as_str().unwrap();
        let (first, rest) = text.split_at(64);
        document["keys"][0]["x5c"] = json!([format!("{first}\r\n{rest}\n")]);
    });
    assert_eq!(counts(&document), (1, 1, 0));
}

#[test]
fn key_members_that_differ_from_the_certificate_are_refused() {
    let document = changed(|document| {
        let other = good(KeyKind::P256);
        for name in ["x", "y"] {
            document["keys"][0][name] = other["keys"][0][name].clone();
        }
    });
    assert_eq!(element_refusal(&document), (0, ElementError::KeyMismatch));
}

#[test]
fn a_certificate_without_key_type_is_skipped_and_without_key_members_refused() {
    let certificate = good(KeyKind::P256)["keys"][0]["x5c"].clone();
    let bare = json!({"use": "x509-svid", "x5c": certificate});
    assert_eq!(counts(&around(json!([bare]))), (0, 0, 1));
    for (name, missing) in [("crv", "crv"), ("x", "x"), ("y", "y")] {
        let document = with_member(0, name, Value::Null);
        assert_eq!(element_refusal(&document), (0, ElementError::Member { name: missing }));
    }
}

#[test]
fn the_same_certificate_twice_is_held_once() {
    let document = changed(|document| {
        let again = document["keys"][0].clone();
        document["keys"].as_array_mut().unwrap().push(again);
    });
    assert_eq!(counts(&document), (1, 1, 0));
}

// A document around a certificate that only its key members fit.
fn document_of(authority: &TestAuthority) -> Value {
    let mut document = changed(|_| ());
    let spki = entente_bundle::JwtAuthority::from_spki("x", &spki_of(authority), None, false).unwrap();
    let members = common::as_value(&Bundle::new(common::domain(), vec![], vec![spki], None, None));
    for name in ["kty", "crv", "x", "y"] {
        document["keys"][0][name] = members["keys"][0][name].clone();
    }
    document["keys"][0]["x5c"] = json!([STANDARD.encode(authority.root())]);
    document
}

fn spki_of(authority: &TestAuthority) -> Vec<u8> {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, certificate) = X509Certificate::from_der(authority.root()).unwrap();
    certificate.public_key().raw.to_vec()
}

#[test]
fn a_certificate_that_cannot_be_an_authority_is_refused() {
    let refused = |authority: &TestAuthority| element_refusal(&document_of(authority));
    let no_ca = TestAuthority::builder("a.test").not_a_ca().build();
    assert_eq!(refused(&no_ca), (0, ElementError::Authority(AuthorityError::NotCa)));
    let no_sign = TestAuthority::builder("a.test").without_cert_sign().build();
    assert_eq!(refused(&no_sign), (0, ElementError::Authority(AuthorityError::NotCertSign)));
    let mut two = document_of(&TestAuthority::new("a.test"));
    let mut der = STANDARD.decode(two["keys"][0]["x5c"][0].as_str().unwrap()).unwrap();
    der.extend_from_slice(TestAuthority::new("a.test").root());
    two["keys"][0]["x5c"] = json!([STANDARD.encode(der)]);
    let (index, error) = element_refusal(&two);
    assert!(matches!(error, ElementError::Authority(AuthorityError::TrailingBytes { .. })) && index == 0);
}

#[test]
fn an_expired_authority_or_one_with_a_foreign_id_is_taken() {
    let expired = TestAuthority::builder("a.test").expired().build();
    assert_eq!(counts(&document_of(&expired)), (1, 1, 0));
    let foreign = TestAuthority::builder("a.test").with_id("spiffe://upstream.test").build();
    assert_eq!(counts(&document_of(&foreign)), (1, 1, 0));
}

fn hint(value: Value) -> Result<Option<u64>, DocumentError> {
    let document = changed(|document| document["spiffe_refresh_hint"] = value);
    parse(document.to_string()).map(|parsed| parsed.bundle.refresh_hint().map(|hint| hint.as_secs()))
}

#[test]
fn a_hint_that_is_no_integer_is_refused() {
    for value in [json!(300.0), json!("300"), json!(300.5), json!([]), json!(null)] {
        assert_eq!(hint(value.clone()), Err(DocumentError::RefreshHint), "{value}");
    }
    for text in ["3e2", "300.0", "9223372036854775808000"] {
        let text = format!(r#"{{"keys": [], "spiffe_refresh_hint": {text}}}"#);
        assert_eq!(refusal(text), DocumentError::RefreshHint);
    }
}

#[test]
fn a_negative_hint_is_none_and_a_huge_one_is_cut() {
    assert_eq!(hint(json!(-300)), Ok(None));
    assert_eq!(hint(json!(300)), Ok(Some(300)));
    for huge in [9_300_000_000_u64, i64::MAX as u64, u64::MAX] {
        assert_eq!(hint(json!(huge)), Ok(Some(MAX_REFRESH_HINT.as_secs())));
    }
}

#[test]
fn a_sequence_that_is_no_unsigned_integer_is_refused() {
    for text in ["-1", "1.5", "1.0", "1e3", "\"7\"", "null", "18446744073709551616"] {
        let text = format!(r#"{{"keys": [], "spiffe_sequence": {text}}}"#);
        assert_eq!(refusal(&text), DocumentError::SequenceNumber, "{text}");
    }
}

#[test]
fn a_valid_sequence_is_kept_and_zero_is_one() {
    let sequence = |number: u64| {
        let text = json!({"keys": [], "spiffe_sequence": number}).to_string();
        parse(text).unwrap().bundle.sequence_number()
    };
    assert_eq!(sequence(7), Some(7));
    assert_eq!(sequence(u64::MAX), Some(u64::MAX));
    // SPIRE reads 0 as unknown and so would let it replace any number; it never writes it.
    assert_eq!(sequence(0), Some(0));
    assert_eq!(parse(r#"{"keys": []}"#).unwrap().bundle.sequence_number(), None);
}

#[test]
fn what_real_spire_serves_is_read_whole_and_written_back_byte_for_byte() {
    for text in
        [include_str!("vectors/spire-1.15.3-p256.json"), include_str!("vectors/spire-1.15.3-rsa-p384.json")]
    {
        let parsed = parse(text).unwrap();
        assert!(parsed.skipped.is_empty());
        assert_eq!(String::from_utf8(document::render(&parsed.bundle)).unwrap(), text);
    }
}

#[test]
fn the_order_in_which_spire_serves_does_not_matter() {
    let text = include_str!("vectors/spire-1.15.3-p256-prepared.json");
    let mut shuffled: Value = serde_json::from_str(text).unwrap();
    shuffled["keys"].as_array_mut().unwrap().reverse();
    let (read, reread) = (parse(text).unwrap().bundle, parse(shuffled.to_string()).unwrap().bundle);
    assert_eq!((read.x509_authorities().len(), read.jwt_authorities().len()), (2, 2));
    assert_eq!(read.sequence_number(), Some(3));
    assert_eq!(read, reread);
    assert_eq!(read.digest(), reread.digest());
}
