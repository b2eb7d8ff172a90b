//! Writes a bundle byte for byte as SPIRE 1.15 would, in our stable order.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use crate::public_key::PublicKey;
use crate::{Bundle, JwtAuthority, X509Authority};

pub(super) fn render(bundle: &Bundle) -> Vec<u8> {
    let x509 = bundle.x509_authorities().iter().map(x509_element);
    let jwt = bundle.jwt_authorities().iter().map(jwt_element);
    let elements: Vec<String> = x509.chain(jwt).collect();
    let keys = match elements.is_empty() {
        true => "[]".to_owned(),
        false => format!("[\n{}\n    ]", elements.join(",\n")),
    };
    let mut members = vec![format!("    \"keys\": {keys}")];
    if let Some(number) = bundle.sequence_number() {
        members.push(format!("    \"spiffe_sequence\": {number}"));
    }
    if let Some(hint) = bundle.refresh_hint() {
        members.push(format!("    \"spiffe_refresh_hint\": {}", hint.as_secs()));
    }
    format!("{{\n{}\n}}", members.join(",\n")).into_bytes()
}

fn x509_element(authority: &X509Authority) -> String {
    let certificate = STANDARD.encode(authority.der());
    let x5c = format!("[\n                {}\n            ]", quoted(&certificate));
    element("x509-svid", None, authority.public_key().ok().as_ref(), Some(x5c))
}

fn jwt_element(authority: &JwtAuthority) -> String {
    let key = PublicKey::from_spki(authority.spki()).ok();
    element("jwt-svid", Some(authority.key_id()), key.as_ref(), None)
}

// The order of members is go-jose's: use, kty, kid, crv, x, y, n, e, x5c.
fn element(usage: &str, key_id: Option<&str>, key: Option<&PublicKey>, x5c: Option<String>) -> String {
    let mut members = vec![("use", quoted(usage))];
    let numbers = match key {
        Some(PublicKey::Ec { curve, x, y }) => {
            members.push(("kty", quoted("EC")));
            vec![("crv", quoted(curve.name())), ("x", number(x)), ("y", number(y))]
        }
        Some(PublicKey::Ed25519 { x }) => {
            members.push(("kty", quoted("OKP")));
            vec![("crv", quoted("Ed25519")), ("x", number(x))]
        }
        Some(PublicKey::Rsa { modulus, exponent }) => {
            members.push(("kty", quoted("RSA")));
            vec![("n", number(modulus)), ("e", number(exponent))]
        }
        // Authorities are made from checked keys only; were one without, readers would pass over it for want of a `kty`.
        None => Vec::new(),
    };
    members.extend(key_id.map(|key_id| ("kid", quoted(key_id))));
    members.extend(numbers);
    members.extend(x5c.map(|x5c| ("x5c", x5c)));
    let lines: Vec<String> =
        members.iter().map(|(name, value)| format!("            \"{name}\": {value}")).collect();
    format!("        {{\n{}\n        }}", lines.join(",\n"))
}

fn number(bytes: &[u8]) -> String {
    quoted(&URL_SAFE_NO_PAD.encode(bytes))
}

// Go escapes these as well, so that JSON inside HTML stays harmless.
fn quoted(text: &str) -> String {
    let text = serde_json::Value::from(text).to_string();
    [('<', "\\u003c"), ('>', "\\u003e"), ('&', "\\u0026"), ('\u{2028}', "\\u2028"), ('\u{2029}', "\\u2029")]
        .into_iter()
        .fold(text, |text, (character, escape)| text.replace(character, escape))
}
