//! What the test programs of this folder share: documents as JSON values that can be broken at one place.

#![allow(dead_code, reason = "each test program uses a part of it")]

use entente_bundle::testing::{KeyKind, TestAuthority, TestJwtKey};
use entente_bundle::{Bundle, DocumentError, DocumentLimits, ParsedDocument, TrustDomain, document};
use serde_json::{Value, json};

pub(crate) fn domain() -> TrustDomain {
    TrustDomain::new("a.test").unwrap()
}

pub(crate) fn parse(text: impl AsRef<[u8]>) -> Result<ParsedDocument, DocumentError> {
    document::parse(text.as_ref(), &domain(), &DocumentLimits::default())
}

/// The document of a bundle with one X.509 and one JWT authority of this kind; element 0 is the X.509 one.
pub(crate) fn good(kind: KeyKind) -> Value {
    let authority = TestAuthority::builder("a.test").with_key(kind).build().x509_authority();
    let key = TestJwtKey::new("key-1", kind).authority;
    as_value(&Bundle::new(domain(), vec![authority], vec![key], Some(7), None))
}

pub(crate) fn as_value(bundle: &Bundle) -> Value {
    serde_json::from_slice(&document::render(bundle)).unwrap()
}

/// A good P-256 document with a change.
pub(crate) fn changed(change: impl FnOnce(&mut Value)) -> Value {
    let mut document = good(KeyKind::P256);
    change(&mut document);
    document
}

/// A good P-256 document with one member of one element set; `null` takes it away.
pub(crate) fn with_member(index: usize, name: &str, value: Value) -> Value {
    changed(|document| {
        let element = document["keys"][index].as_object_mut().unwrap();
        match value {
            Value::Null => element.remove(name),
            value => element.insert(name.to_owned(), value),
        };
    })
}

/// A document around this text of `keys`.
pub(crate) fn around(keys: Value) -> Value {
    json!({ "keys": keys })
}

/// How many X.509 authorities, JWT authorities and skipped elements came out.
pub(crate) fn counts(document: &Value) -> (usize, usize, usize) {
    let parsed = parse(document.to_string()).unwrap();
    let bundle = &parsed.bundle;
    (bundle.x509_authorities().len(), bundle.jwt_authorities().len(), parsed.skipped.len())
}
