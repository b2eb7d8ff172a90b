use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::testing::{KeyKind, TestAuthority, TestJwtKey};

fn domain() -> TrustDomain {
    TrustDomain::new("a.test").unwrap()
}

fn read_text(text: &[u8]) -> Result<ParsedDocument, DocumentError> {
    parse(text, &domain(), &DocumentLimits::default())
}

fn nested(levels: usize) -> String {
    format!("{{\"keys\": [], \"x\": {}{}}}", "[".repeat(levels), "]".repeat(levels))
}

fn limited(text: &str, max_bytes: usize, max_keys: usize, max_depth: usize) -> Result<(), DocumentError> {
    let limits = DocumentLimits { max_bytes, max_keys, max_depth };
    parse(text.as_bytes(), &domain(), &limits).map(drop)
}

#[test]
fn a_document_beyond_a_limit_is_refused() {
    let text = r#"{"keys": [{}, {}]}"#;
    assert_eq!(limited(text, 17, 9, 9), Err(DocumentError::TooLarge { length: 18, limit: 17 }));
    assert_eq!(limited(text, 18, 1, 9), Err(DocumentError::TooManyKeys { limit: 1 }));
    assert_eq!(limited(text, 18, 2, 2), Err(DocumentError::TooDeep { limit: 2 }));
    assert_eq!(limited(text, 18, 2, 3), Ok(()));
}

#[test]
fn nesting_is_bounded_in_members_that_nobody_reads() {
    assert!(read_text(nested(7).as_bytes()).is_ok());
    assert_eq!(read_text(nested(8).as_bytes()).unwrap_err(), DocumentError::TooDeep { limit: 8 });
    assert_eq!(read_text(nested(400_000).as_bytes()).unwrap_err(), DocumentError::TooDeep { limit: 8 });
    let deep = format!("{}1{}", "{\"a\": ".repeat(60_000), "}".repeat(60_000));
    assert_eq!(read_text(deep.as_bytes()).unwrap_err(), DocumentError::TooDeep { limit: 8 });
}

#[test]
fn a_member_name_is_never_taken_twice() {
    let refused = |text: &str, index| {
        let error = read_text(text.as_bytes()).unwrap_err();
        assert!(
            matches!(&error, DocumentError::DuplicateMember { index: found, .. } if *found == index),
            "{text}: {error}"
        );
    };
    refused(r#"{"keys": [], "keys": []}"#, None);
    refused(r#"{"keys": [], "k\u0065ys": []}"#, None);
    refused(r#"{"keys": [], "spiffe_sequence": 1, "spiffe_sequence": 1}"#, None);
    refused(r#"{"keys": [], "x": {"y": [{"z": 1, "z": 1}]}}"#, None);
    refused(r#"{"keys": [{}, {"use": "a", "use": "b"}]}"#, Some(1));
    refused(r#"{"keys": [{"other": 1, "other": 2}]}"#, Some(0));
    refused(r#"{"x": 1, "keys": [{"a": {"b": 1, "b": 1}}]}"#, Some(0));
}

#[test]
fn a_repeated_name_of_a_stranger_is_shortened() {
    let name = "n".repeat(5000);
    let text = format!(r#"{{"{name}": 1, "{name}": 2}}"#);
    let expected = DocumentError::DuplicateMember { name: format!("{}…", "n".repeat(128)), index: None };
    assert_eq!(read_text(text.as_bytes()).unwrap_err(), expected);
}

#[test]
fn an_empty_bundle_is_written_as_an_empty_array() {
    let empty = Bundle::new(domain(), vec![], vec![], None, None);
    assert_eq!(render(&empty), b"{\n    \"keys\": []\n}");
    let counted = empty.with_sequence_number(Some(3)).with_refresh_hint(Some(Duration::from_millis(1500)));
    let expected = "{\n    \"keys\": [],\n    \"spiffe_sequence\": 3,\n    \"spiffe_refresh_hint\": 1\n}";
    assert_eq!(String::from_utf8(render(&counted)).unwrap(), expected);
}

#[test]
fn a_key_id_with_odd_characters_survives() {
    let odd = "a\"b\\c<d>&e\u{2028}\u{1}ü";
    let key = TestAuthority::new("a.test").jwt_authority(odd);
    let bundle = Bundle::new(domain(), vec![], vec![key], None, None);
    let text = render(&bundle);
    assert!(!text.contains(&b'<') && !text.contains(&b'&'));
    assert_eq!(read_text(&text).unwrap().bundle, bundle);
}

#[test]
fn what_was_passed_over_is_counted_by_reason() {
    let parsed = read_text(br#"{"keys": [{}, 7, {"use": "wit-svid"}, {}]}"#).unwrap();
    assert!(parsed.bundle.is_empty());
    assert_eq!(
        parsed.skipped_reasons(),
        "element is not an object: 1, use is missing: 2, use is not known: 1"
    );
    assert_eq!(read_text(br#"{"keys": []}"#).unwrap().skipped_reasons(), "");
}

#[test]
fn an_absurd_hint_is_cut_and_a_senseless_one_is_none() {
    let hint = |text: &str| {
        let text = format!(r#"{{"keys": [], "spiffe_refresh_hint": {text}}}"#);
        read_text(text.as_bytes()).map(|parsed| parsed.bundle.refresh_hint())
    };
    for (text, expected) in [("300", Some(300)), ("0", None), ("-5", None), ("-9223372036854775808", None)] {
        assert_eq!(hint(text), Ok(expected.map(Duration::from_secs)), "{text}");
    }
    assert_eq!(hint("18446744073709551615"), Ok(Some(crate::bundle::MAX_REFRESH_HINT)));
    for text in ["300.0", "3e2", "\"300\"", "null", "[300]", "18446744073709551616"] {
        assert_eq!(hint(text), Err(DocumentError::RefreshHint), "{text}");
    }
}

fn bundle_of(
    x509: &[KeyKind],
    jwt: &[(String, KeyKind)],
    sequence: Option<u64>,
    hint: Option<u64>,
) -> Bundle {
    let x509 =
        x509.iter().map(|kind| TestAuthority::builder("a.test").with_key(*kind).build().x509_authority());
    let jwt = jwt.iter().map(|(key_id, kind)| TestJwtKey::new(key_id, *kind).authority);
    Bundle::new(domain(), x509.collect(), jwt.collect(), sequence, hint.map(Duration::from_secs))
}

fn key_kind() -> impl Strategy<Value = KeyKind> {
    // Without RSA, whose generation takes too long to be repeated hundreds of times.
    prop::sample::select(vec![KeyKind::Ed25519, KeyKind::P256, KeyKind::P384, KeyKind::P521])
}

fn any_bundle() -> impl Strategy<Value = Bundle> {
    let jwt = prop::collection::vec(("\\PC{1,12}", key_kind()), 0..4);
    (prop::collection::vec(key_kind(), 0..4), jwt, any::<Option<u64>>(), any::<Option<u64>>())
        .prop_map(|(x509, jwt, sequence, hint)| bundle_of(&x509, &jwt, sequence, hint))
}

// A small JSON value, often with the names that matter.
fn any_json() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        prop::sample::select(vec!["keys", "use", "kty", "kid", "crv", "x", "y", "n", "e", "x5c", "d"])
            .prop_map(str::to_owned),
        "\\PC{0,4}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop::sample::select(vec!["x509-svid", "jwt-svid", "EC", "RSA", "OKP", "P-256", "AQAB", "MIIB"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(name.clone(), inner, 0..8)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_written_reads_back_equal(bundle in any_bundle()) {
        let parsed = read_text(&render(&bundle)).unwrap();
        prop_assert_eq!(parsed.skipped, vec![]);
        prop_assert_eq!(&parsed.bundle, &bundle);
        prop_assert_eq!(parsed.bundle.digest(), bundle.digest());
        prop_assert_eq!(render(&parsed.bundle), render(&bundle));
    }

    #[test]
    fn a_cut_document_is_never_a_bundle(bundle in any_bundle(), at in any::<prop::sample::Index>()) {
        let text = render(&bundle);
        prop_assert!(read_text(&text[..at.index(text.len())]).is_err());
    }

    #[test]
    fn a_changed_byte_never_panics(bundle in any_bundle(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut text = render(&bundle);
        let at = at.index(text.len());
        text[at] = byte;
        let _ = read_text(&text);
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(text in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = read_text(&text);
    }

    #[test]
    fn arbitrary_json_never_panics(value in any_json(), elements in prop::collection::vec(any_json(), 0..4)) {
        let _ = read_text(value.to_string().as_bytes());
        let _ = read_text(json!({ "keys": elements, "other": value }).to_string().as_bytes());
    }
}
