//! The bundle document in SPIRE's own form (federation.md 1.5): written here independently of what the products write, so
//! that they meet a stranger's document: X.509 in stored order, JWT keys shuffled anew at each request.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use entente_proto::spire::api::types as wire;
use rand::seq::SliceRandom as _;
use x509_parser::prelude::{FromDer as _, SubjectPublicKeyInfo, X509Certificate};
use x509_parser::public_key::PublicKey;

/// A key that has no place in the document.
#[derive(Debug, thiserror::Error)]
#[error("authority {index} cannot be written as a JSON web key")]
pub(crate) struct UnwritableKey {
    index: usize,
}

/// The document of the bundle endpoint. A sequence number or hint of 0 is left out.
pub(crate) fn render(bundle: &wire::Bundle, refresh_hint: u64) -> Result<Vec<u8>, UnwritableKey> {
    let mut keys = Vec::new();
    for (index, authority) in bundle.x509_authorities.iter().enumerate() {
        keys.push(x509_key(&authority.asn1).ok_or(UnwritableKey { index })?);
    }
    let mut jwt = jwt_keys(bundle, Some("jwt-svid"))?;
    jwt.shuffle(&mut rand::rng());
    keys.append(&mut jwt);
    let mut members = vec![("keys", list(&keys))];
    if bundle.sequence_number > 0 {
        members.push(("spiffe_sequence", bundle.sequence_number.to_string()));
    }
    if refresh_hint > 0 {
        members.push(("spiffe_refresh_hint", refresh_hint.to_string()));
    }
    Ok(object(&members, 0).into_bytes())
}

/// The plain JWK Set of the Workload API's JWT bundles.
pub(crate) fn render_jwt_bundle(bundle: &wire::Bundle) -> Result<Vec<u8>, UnwritableKey> {
    let keys = list(&jwt_keys(bundle, None)?);
    Ok(object(&[("keys", keys)], 0).into_bytes())
}

fn jwt_keys(bundle: &wire::Bundle, usage: Option<&str>) -> Result<Vec<String>, UnwritableKey> {
    let keys = bundle.jwt_authorities.iter().enumerate();
    keys.map(|(index, key)| {
        let members = key_members(&key.public_key, usage, Some(&key.key_id), None);
        members.ok_or(UnwritableKey { index })
    })
    .collect()
}

fn x509_key(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    key_members(certificate.public_key().raw, Some("x509-svid"), None, Some(der))
}

/// One element of `keys`, in the order `use`, `kty`, `kid`, `crv`, `x`, `y`, `n`, `e`, `x5c`.
fn key_members(spki: &[u8], usage: Option<&str>, key_id: Option<&str>, der: Option<&[u8]>) -> Option<String> {
    let (_, spki) = SubjectPublicKeyInfo::from_der(spki).ok()?;
    let mut members = Vec::new();
    if let Some(usage) = usage {
        members.push(("use", string(usage)));
    }
    let key = spki.parsed().ok()?;
    members.push(("kty", string(if matches!(key, PublicKey::RSA(_)) { "RSA" } else { "EC" })));
    if let Some(key_id) = key_id {
        members.push(("kid", string(key_id)));
    }
    match key {
        PublicKey::EC(point) => {
            let coordinates = point.data().strip_prefix(&[4])?;
            let (x, y) = coordinates.split_at_checked(coordinates.len() / 2)?;
            members.push(("crv", string(curve(x.len())?)));
            members.push(("x", string(&URL_SAFE_NO_PAD.encode(x))));
            members.push(("y", string(&URL_SAFE_NO_PAD.encode(y))));
        }
        PublicKey::RSA(key) => {
            members.push(("n", string(&URL_SAFE_NO_PAD.encode(unsigned(key.modulus)))));
            members.push(("e", string(&URL_SAFE_NO_PAD.encode(unsigned(key.exponent)))));
        }
        _ => return None,
    }
    if let Some(der) = der {
        members.push(("x5c", format!("[\n{}{}\n{}]", indent(4), string(&STANDARD.encode(der)), indent(3))));
    }
    Some(object(&members, 2))
}

fn curve(coordinate: usize) -> Option<&'static str> {
    match coordinate {
        32 => Some("P-256"),
        48 => Some("P-384"),
        66 => Some("P-521"),
        _ => None,
    }
}

/// ASN.1 puts a zero before a number that would look negative.
fn unsigned(number: &[u8]) -> &[u8] {
    number.strip_prefix(&[0]).unwrap_or(number)
}

fn string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn indent(depth: usize) -> String {
    "    ".repeat(depth)
}

fn object(members: &[(&str, String)], depth: usize) -> String {
    let mut text = String::from("{");
    for (index, (name, value)) in members.iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        // Cannot fail: writing to a String never does.
        let _ = write!(text, "{comma}\n{}\"{name}\": {value}", indent(depth + 1));
    }
    text.push_str(&format!("\n{}}}", indent(depth)));
    text
}

fn list(elements: &[String]) -> String {
    if elements.is_empty() {
        return "[]".to_owned();
    }
    let elements: Vec<_> = elements.iter().map(|element| format!("{}{element}", indent(2))).collect();
    format!("[\n{}\n{}]", elements.join(",\n"), indent(1))
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PublicKeyData as _};

    use super::*;

    fn jwt_key(key_id: &str) -> wire::JwtKey {
        let public_key = KeyPair::generate().unwrap().subject_public_key_info();
        wire::JwtKey { public_key, key_id: key_id.to_owned(), ..wire::JwtKey::default() }
    }

    #[test]
    fn an_empty_bundle_has_the_bytes_of_spire() {
        let document = render(&wire::Bundle::default(), 0).unwrap();
        assert_eq!(document, b"{\n    \"keys\": []\n}");
    }

    #[test]
    fn members_stand_in_the_order_of_spire() {
        let bundle = wire::Bundle {
            jwt_authorities: vec![jwt_key("one")],
            sequence_number: 7,
            ..wire::Bundle::default()
        };
        let text = String::from_utf8(render(&bundle, 300).unwrap()).unwrap();
        let names: Vec<_> =
            text.lines().filter_map(|line| line.trim().split_once("\":")).map(|(n, _)| n).collect();
        let expected = [
            "\"keys",
            "\"use",
            "\"kty",
            "\"kid",
            "\"crv",
            "\"x",
            "\"y",
            "\"spiffe_sequence",
            "\"spiffe_refresh_hint",
        ];
        assert_eq!(names, expected);
        assert!(text.contains("        {\n            \"use\": \"jwt-svid\",\n"), "{text}");
        assert!(text.ends_with("\n    \"spiffe_refresh_hint\": 300\n}"), "{text}");
    }

    #[test]
    fn a_jwt_bundle_of_the_workload_api_names_no_use() {
        let bundle = wire::Bundle { jwt_authorities: vec![jwt_key("one")], ..wire::Bundle::default() };
        let text = String::from_utf8(render_jwt_bundle(&bundle).unwrap()).unwrap();
        assert!(!text.contains("use") && text.contains("\"kid\": \"one\""), "{text}");
    }
}
