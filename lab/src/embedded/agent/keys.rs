//! Keys of workloads, and the requests to sign them.

use entente_bundle::SpiffeId;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use zeroize::Zeroizing;

/// A fresh key and its certificate signing request.
pub(super) struct Request {
    /// PKCS#8 DER.
    pub(super) key: Zeroizing<Vec<u8>>,
    /// PKCS#10 DER.
    pub(super) csr: Vec<u8>,
}

/// P-256, one URI SAN, the DNS names of the entry.
pub(super) fn request(id: &SpiffeId, dns_names: &[String]) -> Result<Request, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.to_string().try_into()?)];
    for name in dns_names {
        params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
    }
    let csr = params.serialize_request(&key)?.der().to_vec();
    Ok(Request { key: Zeroizing::new(key.serialize_der()), csr })
}
