//! TestAuthority: a CA of one trust domain, self-signed or below another one.

use std::fmt;
use std::slice;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};

use super::{KeyKind, SvidBuilder, TestJwtKey, TestingError, minted, name, uri, validity};
use crate::certificate::CertificateFacts;
use crate::{Bundle, JwtAuthority, SpiffeId, TrustDomain, X509Authority};

/// A CA that signs SVIDs of one trust domain. Every authority has a subject name of its own unless told otherwise.
pub struct TestAuthority {
    trust_domain: TrustDomain,
    certificate: CertificateDer<'static>,
    // What an SVID's chain needs after the leaf: nothing below a root, else this certificate and those above, without the root.
    chain: Vec<CertificateDer<'static>>,
    root: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl TestAuthority {
    /// A self-signed P-256 authority, valid from a minute ago for a day.
    ///
    /// # Panics
    /// When `trust_domain` is no trust domain name.
    pub fn new(trust_domain: &str) -> Self {
        Self::builder(trust_domain).build()
    }

    /// A self-signed authority with something special about it.
    ///
    /// # Panics
    /// When `trust_domain` is no trust domain name.
    pub fn builder(trust_domain: &str) -> AuthorityBuilder<'static> {
        AuthorityBuilder::new(minted(TrustDomain::new(trust_domain)), None)
    }

    /// An authority below this one, of the same trust domain.
    pub fn intermediate(&self) -> Self {
        self.intermediate_builder().build()
    }

    /// An authority below this one with something special about it.
    pub fn intermediate_builder(&self) -> AuthorityBuilder<'_> {
        AuthorityBuilder::new(self.trust_domain.clone(), Some(self))
    }

    /// Whose authority it is.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Its own certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The certificate at the top, which the bundle holds; its own for a self-signed one.
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// The root as a bundle holds it.
    ///
    /// # Panics
    /// When it was built as something that no bundle takes.
    pub fn x509_authority(&self) -> X509Authority {
        minted(X509Authority::from_der(&self.root, false))
    }

    /// A bundle of the root alone, without sequence number and hint.
    pub fn bundle(&self) -> Bundle {
        self.bundle_with(None, None)
    }

    /// A bundle of the root alone.
    pub fn bundle_with(&self, sequence_number: Option<u64>, refresh_hint: Option<Duration>) -> Bundle {
        let authorities = vec![self.x509_authority()];
        Bundle::new(self.trust_domain.clone(), authorities, Vec::new(), sequence_number, refresh_hint)
    }

    /// A fresh P-256 JWT authority.
    pub fn jwt_authority(&self, key_id: &str) -> JwtAuthority {
        TestJwtKey::new(key_id, KeyKind::P256).authority
    }

    /// Starts an SVID for `path`, such as `/web`.
    pub fn svid(&self, path: &str) -> SvidBuilder<'_> {
        SvidBuilder::new(self, format!("{}{path}", self.trust_domain.id_string()))
    }

    /// Certificate, chain, root and key in one text.
    pub fn to_pem(&self) -> String {
        let mut text = pem("CERTIFICATE", &self.certificate);
        for certificate in self.chain.iter().skip(1).chain([&self.root]) {
            if *certificate != self.certificate {
                text += &pem("CERTIFICATE", certificate);
            }
        }
        text + &pem("PRIVATE KEY", self.issuer.key().serialized_der())
    }

    /// Reads what [`Self::to_pem`] wrote, or any CA certificate with a trust domain's URI, its chain and PKCS#8 key.
    pub fn from_pem(text: &str) -> Result<Self, TestingError> {
        let certificates: Vec<_> =
            CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>()?;
        let key = KeyPair::try_from(&PrivateKeyDer::from_pem_slice(text.as_bytes())?)?;
        let [certificate, rest @ ..] = certificates.as_slice() else {
            return Err(TestingError::NoCertificate);
        };
        let (chain, root) = match rest.split_last() {
            None => (Vec::new(), certificate),
            Some((root, between)) => ([slice::from_ref(certificate), between].concat(), root),
        };
        Ok(Self {
            trust_domain: trust_domain_of(certificate).ok_or(TestingError::NoCertificate)?,
            certificate: certificate.clone(),
            chain,
            root: root.clone(),
            issuer: Issuer::from_ca_cert_der(certificate, key)?,
        })
    }

    pub(super) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    pub(super) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }
}

impl fmt::Debug for TestAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestAuthority").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

/// What is special about an authority.
pub struct AuthorityBuilder<'a> {
    trust_domain: TrustDomain,
    parent: Option<&'a TestAuthority>,
    key: KeyKind,
    lifetime: (i64, i64),
    subject: Option<String>,
    is_ca: bool,
    usages: Vec<KeyUsagePurpose>,
    uris: Vec<String>,
}

impl<'a> AuthorityBuilder<'a> {
    fn new(trust_domain: TrustDomain, parent: Option<&'a TestAuthority>) -> Self {
        Self {
            uris: vec![trust_domain.id_string()],
            trust_domain,
            parent,
            key: KeyKind::default(),
            lifetime: (-60, 24 * 3600),
            subject: None,
            is_ca: true,
            usages: vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign],
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

    /// This common name instead of one of its own, so that two authorities can share it.
    #[must_use]
    pub fn with_subject(mut self, common_name: &str) -> Self {
        self.subject = Some(common_name.to_owned());
        self
    }

    /// CA false.
    #[must_use]
    pub fn not_a_ca(mut self) -> Self {
        self.is_ca = false;
        self
    }

    /// A key usage without keyCertSign.
    #[must_use]
    pub fn without_cert_sign(mut self) -> Self {
        self.usages = vec![KeyUsagePurpose::DigitalSignature];
        self
    }

    /// No key usage extension.
    #[must_use]
    pub fn without_key_usage(mut self) -> Self {
        self.usages.clear();
        self
    }

    /// Another URI than its trust domain's.
    #[must_use]
    pub fn with_id(mut self, id: &str) -> Self {
        self.uris = vec![id.to_owned()];
        self
    }

    /// Signs it.
    pub fn build(self) -> TestAuthority {
        let key = self.key.generate();
        let params = self.params(&key);
        let certificate = match self.parent {
            None => minted(params.self_signed(&key)),
            Some(parent) => minted(params.signed_by(&key, parent.issuer())),
        };
        let certificate = certificate.der().clone();
        let (chain, root) = match self.parent {
            None => (Vec::new(), certificate.clone()),
            Some(parent) => ([slice::from_ref(&certificate), parent.chain()].concat(), parent.root.clone()),
        };
        let issuer = Issuer::new(params, key);
        TestAuthority { trust_domain: self.trust_domain, certificate, chain, root, issuer }
    }

    fn params(&self, key: &KeyPair) -> CertificateParams {
        let mut params = CertificateParams::default();
        // The key makes the name: no two authorities of a test share one by accident.
        let own: String =
            format!("{:x}", Sha256::digest(key.subject_public_key_info())).chars().take(16).collect();
        params.distinguished_name = name("SPIFFE", Some(self.subject.as_deref().unwrap_or(&own)));
        params.is_ca =
            if self.is_ca { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::ExplicitNoCa };
        params.key_usages = self.usages.clone();
        params.subject_alt_names = self.uris.iter().map(|id| uri(id)).collect::<Vec<SanType>>();
        params.use_authority_key_identifier_extension = self.parent.is_some();
        validity(self.lifetime.0, self.lifetime.1, &mut params);
        params
    }
}

impl fmt::Debug for AuthorityBuilder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorityBuilder").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

fn trust_domain_of(certificate: &CertificateDer<'_>) -> Option<TrustDomain> {
    let facts = CertificateFacts::read(certificate).ok()?;
    let id = SpiffeId::new(facts.uris.first()?).ok()?;
    Some(id.trust_domain().clone())
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for (position, character) in text.chars().enumerate() {
        if position > 0 && position % 64 == 0 {
            pem.push('\n');
        }
        pem.push(character);
    }
    pem + &format!("\n-----END {label}-----\n")
}
