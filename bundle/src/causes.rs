//! Everything under an error, with the causes that `source()` steps over, and the whole of it in words.

use std::error::Error;
use std::fmt::Debug;
use std::io;

use rustls::{AlertDescription, CertificateError};

use crate::text::printable;

/// Names of a certificate that are told.
const MOST_NAMES: usize = 10;

/// The error itself, then cause after cause.
///
/// Unlike a walk along `source()` this one sees the payload of an I/O error, whose `source` is the payload's own, and what
/// rustls keeps in its variants for errors of others, such as the refusals of our verifiers.
pub fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| hidden(error).or_else(|| error.source()))
}

/// The error and all of its causes on one line, in words: where rustls would show the names of its types, or hide a refusal
/// of our own verifiers in them, that refusal or the meaning of the name stands.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    causes(error).filter_map(told).fold(String::new(), |text, next| {
        // Some errors tell their cause themselves, or in the middle of what they say.
        match text.is_empty() {
            true => next,
            false if text.contains(&next) => text,
            false => format!("{text}: {next}"),
        }
    })
}

fn hidden<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return error.get_ref().map(|payload| payload as _);
    }
    match error.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) | rustls::Error::Other(other) => {
            Some(other.0.as_ref())
        }
        _ => None,
    }
}

/// What this error alone says; `None` where it says nothing but what its hidden cause says better.
fn told(error: &(dyn Error + 'static)) -> Option<String> {
    if hidden(error).is_some() {
        return None;
    }
    Some(match error.downcast_ref::<rustls::Error>() {
        Some(error) => tls_words(error),
        None => error.to_string(),
    })
}

/// Where the text of rustls ends with a name of its code, in words.
fn tls_words(error: &rustls::Error) -> String {
    use rustls::Error;
    match error {
        Error::AlertReceived(alert) => format!("received fatal alert: {}", words(alert)),
        Error::InconsistentKeys(why) => format!("certificate and key do not go together: {}", words(why)),
        Error::InvalidCertificate(why) => format!("invalid peer certificate: {}", certificate_words(why)),
        Error::InvalidMessage(kind) => format!("received corrupt message: {}", words(kind)),
        Error::PeerIncompatible(why) => format!("peer is incompatible: {}", words(why)),
        Error::PeerMisbehaved(why) => format!("peer misbehaved: {}", words(why)),
        other => other.to_string(),
    }
}

/// `certificate unknown` of the alert by which a peer has refused us.
pub fn alert_words(alert: AlertDescription) -> String {
    words(&alert)
}

/// The same of what is wrong with a certificate.
pub(crate) fn certificate_words(error: &CertificateError) -> String {
    use CertificateError as Certificate;
    match error {
        Certificate::NotValidForNameContext { expected, presented } => {
            let names: Vec<_> = presented.iter().take(MOST_NAMES).map(|name| bare(name)).collect();
            let names = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
            format!("it is not valid for {}, it names {names}", expected.to_str())
        }
        Certificate::ExpiredContext { .. }
        | Certificate::NotValidYetContext { .. }
        | Certificate::ExpiredRevocationListContext { .. }
        | Certificate::InvalidPurposeContext { .. } => error.to_string(),
        other => words(other).trim_end_matches(" context").to_owned(),
    }
}

/// `b.test` of `DnsName("b.test")`. The peer has chosen it.
fn bare(name: &str) -> String {
    let inner = name.split_once('(').map_or(name, |(_, inner)| inner);
    printable(inner.trim_end_matches(')').trim_matches('"'), 100)
}

/// `unknown issuer` of `UnknownIssuer`, and of a variant with fields its name alone.
fn words(value: &impl Debug) -> String {
    let shown = format!("{value:?}");
    let name: Vec<_> = shown.chars().take_while(char::is_ascii_alphanumeric).collect();
    let mut words = String::new();
    for (position, letter) in name.iter().enumerate() {
        let after = |other: Option<&char>| other.is_some_and(|other| !other.is_ascii_uppercase());
        let before = position.checked_sub(1).and_then(|before| name.get(before));
        // `UnknownCA` is two words, and so would `TLSVersion` be.
        if letter.is_ascii_uppercase() && before.is_some() && (after(before) || after(name.get(position + 1)))
        {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{InvalidMessage, OtherError, PeerIncompatible};

    use super::*;
    use crate::{SpiffeId, SvidError};

    #[derive(Debug, thiserror::Error)]
    #[error("the tls handshake failed")]
    struct Handshake(#[source] io::Error);

    fn told_of(error: rustls::Error) -> String {
        chain(&Handshake(io::Error::new(io::ErrorKind::InvalidData, error)))
    }

    #[test]
    fn a_refusal_of_ours_inside_a_tls_error_is_told_in_its_own_words_alone() {
        let presented = SpiffeId::new("spiffe://a.test/web").unwrap();
        let refusal = SvidError::NotAuthorized { presented };
        let other = || OtherError(Arc::new(refusal.clone()));
        let expected = format!("the tls handshake failed: {refusal}");
        assert_eq!(told_of(rustls::Error::InvalidCertificate(CertificateError::Other(other()))), expected);
        assert_eq!(told_of(rustls::Error::Other(other())), expected);
    }

    #[test]
    fn names_of_the_code_of_rustls_are_told_in_words() {
        let name = "b.test".try_into().unwrap();
        let presented = vec!["DnsName(\"c.test\")".into(), "IpAddress(127.0.0.1)".into()];
        for (error, expected) in [
            (rustls::Error::AlertReceived(AlertDescription::UnknownCA), "received fatal alert: unknown ca"),
            (CertificateError::UnknownIssuer.into(), "invalid peer certificate: unknown issuer"),
            (
                InvalidMessage::MissingData("ClientHelloPayload").into(),
                "received corrupt message: missing data",
            ),
            (
                PeerIncompatible::NoCipherSuitesInCommon.into(),
                "peer is incompatible: no cipher suites in common",
            ),
            (
                CertificateError::NotValidForNameContext { expected: name, presented }.into(),
                "invalid peer certificate: it is not valid for b.test, it names c.test, 127.0.0.1",
            ),
            (
                CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
                    signature_algorithm_id: vec![6],
                    public_key_algorithm_id: vec![6],
                }
                .into(),
                "invalid peer certificate: unsupported signature algorithm for public key",
            ),
        ] {
            assert_eq!(told_of(error), format!("the tls handshake failed: {expected}"));
        }
    }

    #[test]
    fn a_cause_that_was_told_already_is_not_repeated() {
        let inner = io::Error::other("no such place");
        assert_eq!(chain(&Handshake(inner)), "the tls handshake failed: no such place");
        assert_eq!(chain(&io::Error::from(io::ErrorKind::BrokenPipe)), "broken pipe");
        let told = io::Error::other("tls");
        assert_eq!(chain(&Handshake(told)), "the tls handshake failed");
    }
}
