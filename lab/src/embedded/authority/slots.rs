//! The slots on disk, and the certificates and keys in them.

use std::path::Path;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use entente_bundle::TrustDomain;
use entente_bundle::text::hex;
use entente_proto::spire::api::types as wire;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{AuthorityError, SignedSvid, SvidRequest};
use crate::embedded::store::write_file;
use crate::embedded::{certificate, unix_now};

/// SPIRE starts every certificate ten seconds early, for clocks that are behind.
const BACKDATE: Duration = Duration::from_secs(10);

/// Where in its life an authority stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Status {
    Active,
    Old,
    Prepared,
}

/// What may be told about a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SlotState {
    pub(crate) authority_id: String,
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
    pub(crate) status: Status,
}

/// Both families.
#[derive(Debug)]
pub(super) struct Slots {
    pub(super) x509: Pair<X509Ca>,
    pub(super) jwt: Pair<JwtKey>,
}

/// The current slot and the other one.
#[derive(Debug)]
pub(super) struct Pair<A> {
    pub(super) current: A,
    other: Option<(Status, A)>,
}

/// Either kind of authority.
pub(super) trait Authority {
    fn id(&self) -> &str;
    fn validity(&self) -> (i64, i64);
    fn forget_key(&mut self);
}

/// A self-signed X.509 authority; without its key it can no longer sign.
pub(super) struct X509Ca {
    pub(super) wire: wire::X509Certificate,
    id: String,
    validity: (i64, i64),
    key: Option<Zeroizing<String>>,
}

/// A JWT signing key. Nothing signs with it yet; its public half is in the bundle.
pub(super) struct JwtKey {
    pub(super) wire: wire::JwtKey,
    not_before: i64,
    key: Option<Zeroizing<String>>,
}

impl<A: Authority> Pair<A> {
    pub(super) fn first(authority: A) -> Self {
        Self { current: authority, other: None }
    }

    pub(super) fn state(&self) -> (SlotState, Option<SlotState>) {
        let state = |status, authority: &A| {
            let (not_before, not_after) = authority.validity();
            SlotState { authority_id: authority.id().to_owned(), not_before, not_after, status }
        };
        let other = self.other.as_ref().map(|(status, authority)| state(*status, authority));
        (state(Status::Active, &self.current), other)
    }

    pub(super) fn prepare(&mut self, authority: A) {
        self.other = Some((Status::Prepared, authority));
    }

    /// False when nothing is prepared.
    pub(super) fn activate(&mut self) -> bool {
        match self.other.take() {
            Some((Status::Prepared, next)) => {
                let mut old = std::mem::replace(&mut self.current, next);
                old.forget_key();
                self.other = Some((Status::Old, old));
                true
            }
            other => {
                self.other = other;
                false
            }
        }
    }
}

impl X509Ca {
    pub(super) fn generate(trust_domain: &TrustDomain, lifetime: Duration) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        let serial = random_serial();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CountryName, "US");
        params.distinguished_name.push(DnType::OrganizationName, "SPIFFE");
        params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 5]), hex(&serial));
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").try_into()?)];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let now = SystemTime::now();
        params.not_before = (now - BACKDATE).into();
        params.not_after = (now + lifetime).into();
        let der = params.self_signed(&key)?.der().to_vec();
        let key = Zeroizing::new(key.serialize_pem());
        Self::new(der, Some(key)).ok_or(rcgen::Error::CouldNotParseCertificate)
    }

    fn new(der: Vec<u8>, key: Option<Zeroizing<String>>) -> Option<Self> {
        let id = certificate::subject_key_id(&der)?;
        let validity = certificate::validity(&der)?;
        Some(Self { wire: wire::X509Certificate { asn1: der, tainted: false }, id, validity, key })
    }

    pub(super) fn sign(
        &self,
        request: &SvidRequest<'_>,
        now: SystemTime,
    ) -> Result<SignedSvid, AuthorityError> {
        let key = self.key.as_ref().ok_or(AuthorityError::NothingPrepared)?;
        let authority = CertificateDer::from(self.wire.asn1.as_slice());
        let issuer = Issuer::from_ca_cert_der(&authority, KeyPair::from_pem(key)?)?;
        let public_key = SubjectPublicKeyInfo::from_der(request.public_key)?;
        let mut params = leaf_params(request)?;
        params.not_before = (now - BACKDATE).into();
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(self.validity.1.max(0).unsigned_abs());
        params.not_after = end.min(now + request.lifetime).into();
        let leaf = params.signed_by(&public_key, &issuer)?.der().to_vec();
        let (not_before, not_after) =
            certificate::validity(&leaf).ok_or(rcgen::Error::CouldNotParseCertificate)?;
        Ok(SignedSvid { leaf, not_before, not_after, authority_id: self.id.clone() })
    }
}

fn leaf_params(request: &SvidRequest<'_>) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CountryName, "US");
    params.distinguished_name.push(DnType::OrganizationName, "SPIRE");
    // The first DNS name is the common name too.
    if let Some(name) = request.dns_names.first() {
        params.distinguished_name.push(DnType::CommonName, name.as_str());
    }
    params.serial_number = Some(SerialNumber::from_slice(&random_serial()));
    params.subject_alt_names = vec![SanType::URI(request.spiffe_id.as_str().try_into()?)];
    for name in &request.dns_names {
        params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyAgreement,
    ];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// 128 bits, positive.
fn random_serial() -> [u8; 16] {
    let mut serial: [u8; 16] = rand::random();
    serial[0] = (serial[0] & 0x7f) | 0x40;
    serial
}

impl JwtKey {
    pub(super) fn generate(lifetime: Duration) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let not_before = unix_now();
        let expires_at = not_before.saturating_add(i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX));
        let wire = wire::JwtKey {
            public_key: key.subject_public_key_info(),
            key_id: random_key_id(),
            expires_at,
            tainted: false,
        };
        Ok(Self { wire, not_before, key: Some(Zeroizing::new(key.serialize_pem())) })
    }
}

/// 32 letters and digits, as SPIRE makes them.
fn random_key_id() -> String {
    use rand::distr::{Alphanumeric, SampleString as _};
    Alphanumeric.sample_string(&mut rand::rng(), 32)
}

impl Authority for X509Ca {
    fn id(&self) -> &str {
        &self.id
    }
    fn validity(&self) -> (i64, i64) {
        self.validity
    }
    fn forget_key(&mut self) {
        self.key = None;
    }
}

impl Authority for JwtKey {
    fn id(&self) -> &str {
        &self.wire.key_id
    }
    fn validity(&self) -> (i64, i64) {
        (self.not_before, self.wire.expires_at)
    }
    fn forget_key(&mut self) {
        self.key = None;
    }
}

impl std::fmt::Debug for X509Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("X509Ca").field("id", &self.id).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for JwtKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JwtKey").field("id", &self.wire.key_id).finish_non_exhaustive()
    }
}

/// `authorities.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    x509: FilePair<FileCa>,
    jwt: FilePair<FileKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FilePair<T> {
    current: T,
    other: Option<(Status, T)>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileCa {
    certificate: String,
    key: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileKey {
    key_id: String,
    public_key: String,
    not_before: i64,
    expires_at: i64,
    key: Option<String>,
}

impl Slots {
    /// `None` where there is no file yet.
    pub(super) fn load(path: &Path) -> Result<Option<Self>, AuthorityError> {
        let text = match std::fs::read(path) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let damaged = |source| AuthorityError::Damaged { path: path.to_owned(), source };
        let file: File = serde_json::from_slice(&text).map_err(damaged)?;
        let slots =
            file.into_slots().ok_or_else(|| damaged(serde::de::Error::custom("bad certificate or key")))?;
        Ok(Some(slots))
    }

    pub(super) fn save(&self, path: &Path) -> Result<(), AuthorityError> {
        let file = File {
            x509: self.x509.map(|one| FileCa {
                certificate: STANDARD.encode(&one.wire.asn1),
                key: one.key.as_deref().cloned(),
            }),
            jwt: self.jwt.map(|one| FileKey {
                key_id: one.wire.key_id.clone(),
                public_key: STANDARD.encode(&one.wire.public_key),
                not_before: one.not_before,
                expires_at: one.wire.expires_at,
                key: one.key.as_deref().cloned(),
            }),
        };
        // Cannot fail: strings, numbers and options only.
        let text = Zeroizing::new(serde_json::to_vec_pretty(&file).unwrap_or_default());
        Ok(write_file(path, &text)?)
    }
}

impl<A> Pair<A> {
    fn map<T>(&self, write: impl Fn(&A) -> T) -> FilePair<T> {
        let other = self.other.as_ref().map(|(status, authority)| (*status, write(authority)));
        FilePair { current: write(&self.current), other }
    }
}

impl<T> FilePair<T> {
    fn into_pair<A>(self, read: impl Fn(T) -> Option<A>) -> Option<Pair<A>> {
        let other = match self.other {
            Some((status, one)) => Some((status, read(one)?)),
            None => None,
        };
        Some(Pair { current: read(self.current)?, other })
    }
}

impl File {
    fn into_slots(self) -> Option<Slots> {
        let x509 = self.x509.into_pair(|one| {
            X509Ca::new(STANDARD.decode(one.certificate).ok()?, one.key.map(Zeroizing::new))
        })?;
        let jwt = self.jwt.into_pair(|one| {
            let public_key = STANDARD.decode(one.public_key).ok()?;
            let wire =
                wire::JwtKey { public_key, key_id: one.key_id, expires_at: one.expires_at, tainted: false };
            Some(JwtKey { wire, not_before: one.not_before, key: one.key.map(Zeroizing::new) })
        })?;
        Some(Slots { x509, jwt })
    }
}
