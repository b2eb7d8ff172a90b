//! SvidBuilder: one X509-SVID, good unless told what is to be wrong with it.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CustomExtension,
    ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, PublicKeyData, SanType, SubjectPublicKeyInfo,
};
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;

use super::{KeyKind, TestAuthority, TestingError, certified, dns, ip, minted, name, uri, validity};

/// An SVID with its private key.
#[derive(Clone)]
pub struct TestSvid {
    /// Leaf first, then intermediates, without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// PKCS#8, DER.
    pub pkcs8: Vec<u8>,
}

impl TestSvid {
    /// Ready to be presented in a handshake.
    ///
    /// # Panics
    /// When it was built for a public key that is not ours.
    pub fn certified_key(&self) -> Arc<CertifiedKey> {
        certified(&self.chain, &self.pkcs8)
    }

    /// The leaf.
    ///
    /// # Panics
    /// When the chain was emptied.
    pub fn leaf(&self) -> &CertificateDer<'static> {
        self.chain.first().expect("a minted chain has a leaf")
    }

    /// What follows the leaf.
    pub fn intermediates(&self) -> &[CertificateDer<'static>] {
        self.chain.get(1..).unwrap_or_default()
    }
}

impl fmt::Debug for TestSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestSvid").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}

/// What an SVID is to look like; starts as SPIRE makes them, valid from a minute ago for an hour.
pub struct SvidBuilder<'a> {
    authority: &'a TestAuthority,
    names: Vec<SanType>,
    id: Option<String>,
    key: KeyKind,
    lifetime: (i64, i64),
    is_ca: bool,
    usages: Vec<KeyUsagePurpose>,
    extended_usages: Vec<ExtendedKeyUsagePurpose>,
    extensions: Vec<CustomExtension>,
}

impl<'a> SvidBuilder<'a> {
    pub(super) fn new(authority: &'a TestAuthority, id: String) -> Self {
        Self {
            authority,
            names: Vec::new(),
            id: Some(id),
            key: KeyKind::default(),
            lifetime: (-60, 3600),
            is_ca: false,
            usages: vec![
                KeyUsagePurpose::DigitalSignature,
                KeyUsagePurpose::KeyEncipherment,
                KeyUsagePurpose::KeyAgreement,
            ],
            extended_usages: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            extensions: Vec::new(),
        }
    }

    /// Another kind of key than P-256.
    #[must_use]
    pub fn with_key(mut self, key: KeyKind) -> Self {
        self.key = key;
        self
    }

    /// Validity in seconds from now.
    #[must_use]
    pub fn with_lifetime(mut self, not_before: i64, not_after: i64) -> Self {
        self.lifetime = (not_before, not_after);
        self
    }

    /// Ended a minute ago.
    #[must_use]
    pub fn expired(self) -> Self {
        self.with_lifetime(-7200, -60)
    }

    /// Starts in an hour.
    #[must_use]
    pub fn not_valid_yet(self) -> Self {
        self.with_lifetime(3600, 7200)
    }

    /// Any ID, also one of another trust domain: a forgery.
    #[must_use]
    pub fn with_id(mut self, id: &str) -> Self {
        self.id = Some(id.to_owned());
        self
    }

    /// The trust domain's own ID.
    #[must_use]
    pub fn without_path(self) -> Self {
        let id = self.authority.trust_domain().id_string();
        self.with_id(&id)
    }

    /// A second URI name.
    #[must_use]
    pub fn with_two_uris(mut self) -> Self {
        self.names.push(uri("spiffe://second.test/other"));
        self
    }

    /// No URI name at all; with a DNS name or address it is an ordinary web certificate.
    #[must_use]
    pub fn with_no_uri(mut self) -> Self {
        self.id = None;
        self
    }

    /// One more DNS name.
    #[must_use]
    pub fn with_dns(mut self, name: &str) -> Self {
        self.names.push(dns(name));
        self
    }

    /// One more IP address.
    #[must_use]
    pub fn with_ip(mut self, address: IpAddr) -> Self {
        self.names.push(ip(address));
        self
    }

    /// CA true.
    #[must_use]
    pub fn with_ca_flag(mut self) -> Self {
        self.is_ca = true;
        self
    }

    /// Key usage keyCertSign.
    #[must_use]
    pub fn with_cert_sign(mut self) -> Self {
        self.usages.push(KeyUsagePurpose::KeyCertSign);
        self
    }

    /// Key usage cRLSign.
    #[must_use]
    pub fn with_crl_sign(mut self) -> Self {
        self.usages.push(KeyUsagePurpose::CrlSign);
        self
    }

    /// A key usage without digitalSignature.
    #[must_use]
    pub fn without_digital_signature(mut self) -> Self {
        self.usages.retain(|usage| *usage != KeyUsagePurpose::DigitalSignature);
        self
    }

    /// No key usage extension.
    #[must_use]
    pub fn without_key_usage(mut self) -> Self {
        self.usages.clear();
        self
    }

    /// No extended key usage extension.
    #[must_use]
    pub fn without_extended_key_usage(mut self) -> Self {
        self.extended_usages.clear();
        self
    }

    /// Extended key usage serverAuth alone.
    #[must_use]
    pub fn for_servers_only(mut self) -> Self {
        self.extended_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self
    }

    /// Extended key usage clientAuth alone.
    #[must_use]
    pub fn for_clients_only(mut self) -> Self {
        self.extended_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self
    }

    /// One more extension, whatever it is and says: also one that is there already, or that nobody can read.
    #[must_use]
    pub fn with_extension(mut self, oid: &[u64], content: &[u8]) -> Self {
        self.extensions.push(CustomExtension::from_oid_content(oid, content.to_vec()));
        self
    }

    /// Signs it for a fresh key.
    pub fn build(self) -> TestSvid {
        let key = self.key.generate();
        TestSvid { chain: minted(self.sign(&key)), pkcs8: key.serialize_der() }
    }

    /// Signs it for a public key (SubjectPublicKeyInfo, DER) whose private half is elsewhere.
    pub fn build_for_spki(self, spki: &[u8]) -> Result<Vec<CertificateDer<'static>>, TestingError> {
        self.sign(&SubjectPublicKeyInfo::from_der(spki)?)
    }

    /// Signs it for the key of a signing request (DER); whatever else the request asks for is ignored. The library
    /// cannot check requests signed with P-521.
    pub fn build_for_csr(self, csr: &[u8]) -> Result<Vec<CertificateDer<'static>>, TestingError> {
        let request = CertificateSigningRequestParams::from_der(&csr.into())?;
        self.sign(&request.public_key)
    }

    fn sign(&self, key: &impl PublicKeyData) -> Result<Vec<CertificateDer<'static>>, TestingError> {
        let certificate = self.params().signed_by(key, self.authority.issuer())?;
        Ok([&[certificate.der().clone()], self.authority.chain()].concat())
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = name("SPIRE", None);
        params.is_ca = match self.is_ca {
            true => IsCa::Ca(BasicConstraints::Unconstrained),
            false => IsCa::ExplicitNoCa,
        };
        params.key_usages = self.usages.clone();
        params.extended_key_usages = self.extended_usages.clone();
        params.custom_extensions = self.extensions.clone();
        let id = self.id.iter().map(|id| uri(id));
        params.subject_alt_names = id.chain(self.names.iter().cloned()).collect();
        params.use_authority_key_identifier_extension = true;
        validity(self.lifetime.0, self.lifetime.1, &mut params);
        params
    }
}

impl fmt::Debug for SvidBuilder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SvidBuilder").field("id", &self.id).finish_non_exhaustive()
    }
}
