//! The few facts of an X.509 certificate that SPIFFE's rules are about, read strictly.
//!
//! Reads, and judges nothing: an extension that is there but broken is an error here, never "absent".

use x509_parser::extensions::{GeneralName, KeyUsage, ParsedExtension, X509Extension};
use x509_parser::oid_registry::{
    OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_SUBJECT_ALT_NAME,
};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

/// Why the bytes are no certificate to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    TrailingBytes { count: usize },
    Unreadable { detail: &'static str },
}

/// Which TLS roles an extended key usage allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TlsRoles {
    pub(crate) server: bool,
    pub(crate) client: bool,
}

/// One certificate's facts.
#[derive(Clone, Debug)]
pub(crate) struct CertificateFacts {
    pub(crate) extended_key_usage: Option<TlsRoles>,
    pub(crate) is_ca: bool,
    pub(crate) key_usage: Option<KeyUsage>,
    pub(crate) not_after: u64,
    pub(crate) not_before: u64,
    pub(crate) spki: Vec<u8>,
    pub(crate) uris: Vec<String>,
}

impl CertificateFacts {
    /// Reads exactly one DER certificate.
    pub(crate) fn read(der: &[u8]) -> Result<Self, Malformed> {
        let unreadable = |detail| Malformed::Unreadable { detail };
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| unreadable("not der"))?;
        if !rest.is_empty() {
            return Err(Malformed::TrailingBytes { count: rest.len() });
        }
        let mut facts = Self {
            extended_key_usage: None,
            is_ca: false,
            key_usage: None,
            not_after: seconds(certificate.validity.not_after).ok_or(unreadable("end of validity"))?,
            not_before: seconds(certificate.validity.not_before).ok_or(unreadable("start of validity"))?,
            spki: certificate.public_key().raw.to_vec(),
            uris: Vec::new(),
        };
        // RFC 5280 4.2: no extension twice. The map would otherwise let the last one win.
        certificate.extensions_map().map_err(|_| unreadable("extension given twice"))?;
        certificate.extensions().iter().try_for_each(|extension| facts.take(extension))?;
        Ok(facts)
    }

    fn take(&mut self, extension: &X509Extension<'_>) -> Result<(), Malformed> {
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(constraints) => self.is_ca = constraints.ca,
            ParsedExtension::ExtendedKeyUsage(usage) => {
                let roles = TlsRoles { server: usage.server_auth, client: usage.client_auth };
                self.extended_key_usage = Some(roles);
            }
            ParsedExtension::KeyUsage(usage) => self.key_usage = Some(*usage),
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in &names.general_names {
                    self.take_name(name)?;
                }
            }
            _ => return known_but_unread(extension),
        }
        Ok(())
    }

    fn take_name(&mut self, name: &GeneralName<'_>) -> Result<(), Malformed> {
        match name {
            GeneralName::URI(uri) => self.uris.push((*uri).to_owned()),
            GeneralName::Invalid(..) => {
                return Err(Malformed::Unreadable { detail: "subject alternative name" });
            }
            _ => {}
        }
        Ok(())
    }
}

// The parser files an extension it could not read under "error" and goes on; for these four that would be "absent".
fn known_but_unread(extension: &X509Extension<'_>) -> Result<(), Malformed> {
    let details = [
        (OID_X509_EXT_BASIC_CONSTRAINTS, "basic constraints"),
        (OID_X509_EXT_EXTENDED_KEY_USAGE, "extended key usage"),
        (OID_X509_EXT_KEY_USAGE, "key usage"),
        (OID_X509_EXT_SUBJECT_ALT_NAME, "subject alternative name"),
    ];
    match details.into_iter().find(|(oid, _)| *oid == extension.oid) {
        Some((_, detail)) => Err(Malformed::Unreadable { detail }),
        None => Ok(()),
    }
}

// Before 1970 is long ago in any case.
fn seconds(time: ASN1Time) -> Option<u64> {
    let seconds = time.timestamp();
    if seconds < 0 { Some(0) } else { u64::try_from(seconds).ok() }
}
