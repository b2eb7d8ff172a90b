//! What the stand-in has to know about certificates in DER.

use entente_bundle::text::hex;
use entente_proto::spire::api::types as wire;
use x509_parser::prelude::*;

/// Subject key identifier as SPIRE prints it: lower-case hex. That is what names an authority.
pub(crate) fn subject_key_id(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(hex(id.0)),
        _ => None,
    })
}

/// True for the authority of this name.
pub(crate) fn is_named(authority: &wire::X509Certificate, id: &str) -> bool {
    subject_key_id(&authority.asn1).is_some_and(|held| held == id)
}

/// True where the authority of this name is tainted or no longer in its bundle: what it signed has to be replaced.
pub(crate) fn is_tainted(own: &wire::Bundle, id: &str) -> bool {
    own.x509_authorities.iter().find(|one| is_named(one, id)).is_none_or(|one| one.tainted)
}

/// Authority key identifier: who signed this.
pub(crate) fn authority_key_id(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| hex(id.0)),
        _ => None,
    })
}

/// Start and end of validity, Unix seconds.
pub(crate) fn validity(der: &[u8]) -> Option<(i64, i64)> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let validity = certificate.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

/// The subject in one line.
pub(crate) fn subject(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(certificate.subject().to_string())
}

/// True for any number of certificates, one after the other, also none: all that SPIRE asks of `asn1`.
pub(crate) fn are_certificates(mut der: &[u8]) -> bool {
    while !der.is_empty() {
        match X509Certificate::from_der(der) {
            Ok((rest, _)) => der = rest,
            Err(_) => return false,
        }
    }
    true
}
