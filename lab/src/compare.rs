//! Are two bundles, or two bundle documents, the same? Answers name the difference.

use std::collections::BTreeSet;

use anyhow::{Context, bail};
use entente_bundle::Bundle;
use entente_lab_parts::sha256;
use serde_json::Value;

/// Documents are the same when they have the same keys, in any order, and the same sequence number.
/// The refresh hint is the publisher's own setting and left out.
pub fn same_document(left: (&str, &[u8]), right: (&str, &[u8])) -> anyhow::Result<String> {
    let (left_name, left) = (left.0, Document::read(left.0, left.1)?);
    let (right_name, right) = (right.0, Document::read(right.0, right.1)?);
    for (here, there, document, other) in
        [(left_name, right_name, &left, &right), (right_name, left_name, &right, &left)]
    {
        if let Some(key) = document.keys.difference(&other.keys).next() {
            let key: String = key.chars().take(80).collect();
            bail!(
                "{here} has {} keys, {there} has {}; only {here} has {key}…",
                document.keys.len(),
                other.keys.len()
            );
        }
    }
    if left.sequence_number != right.sequence_number {
        bail!(
            "{left_name} has sequence number {}, {right_name} has {}",
            left.sequence_number,
            right.sequence_number
        );
    }
    Ok(format!("{} keys, sequence number {}", left.keys.len(), left.sequence_number))
}

struct Document {
    keys: BTreeSet<String>,
    sequence_number: u64,
}

impl Document {
    fn read(name: &str, text: &[u8]) -> anyhow::Result<Self> {
        let value: Value = serde_json::from_slice(text).with_context(|| format!("{name} is no JSON"))?;
        let keys =
            value.get("keys").and_then(Value::as_array).with_context(|| format!("{name} has no keys"))?;
        let sequence_number = value.get("spiffe_sequence").and_then(Value::as_u64).unwrap_or(0);
        Ok(Self { keys: keys.iter().map(ToString::to_string).collect(), sequence_number })
    }
}

/// A held federated bundle is the same as the foreign server's own when authorities and sequence number are.
pub fn same_bundle(held: Option<&Bundle>, own: &Bundle) -> anyhow::Result<()> {
    let name = own.trust_domain();
    let held = held.with_context(|| format!("no bundle of {name} is held"))?;
    if !held.same_authorities(own) {
        bail!(
            "the held bundle of {name} has {} X.509 and {} JWT authorities, its own has {} and {}",
            held.x509_authorities().len(),
            held.jwt_authorities().len(),
            own.x509_authorities().len(),
            own.jwt_authorities().len(),
        );
    }
    Ok(())
}

/// SHA-256 of each X.509 authority, for comparing with programs that know certificates only.
pub fn fingerprints(bundle: &Bundle) -> Vec<String> {
    bundle.x509_authorities().iter().map(|authority| sha256(authority.der())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(left: &str, right: &str) -> anyhow::Result<String> {
        same_document(("left", left.as_bytes()), ("right", right.as_bytes()))
    }

    #[test]
    fn a_missing_key_and_another_number_are_differences() {
        let both = r#"{"keys":[{"kty":"EC","x":"1"},{"kty":"EC","x":"2"}],"spiffe_sequence":3}"#;
        assert!(same(both, r#"{"keys":[{"kty":"EC","x":"1"}],"spiffe_sequence":3}"#).is_err());
        assert!(
            same(both, r#"{"keys":[{"kty":"EC","x":"1"},{"kty":"EC","x":"2"}],"spiffe_sequence":4}"#)
                .is_err()
        );
        assert!(same(both, "{}").is_err());
    }

    #[test]
    fn order_and_hint_are_none() {
        let left = r#"{"keys":[{"kty":"EC","x":"1"},{"x":"2","kty":"EC"}],"spiffe_sequence":3,"spiffe_refresh_hint":4}"#;
        let right = r#"{"spiffe_sequence":3,"keys":[{"kty":"EC","x":"2"},{"kty":"EC","x":"1"}]}"#;
        same(left, right).expect("the same");
    }
}
