//! Looks at the certificate that a TLS server presents, without trusting it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use entente_bundle::text::hex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_parser::extensions::ParsedExtension;

const TIMEOUT: Duration = Duration::from_secs(5);

/// `curl -k`: believes any certificate, but still wants the handshake signed with its key.
#[derive(Debug)]
pub(crate) struct AcceptAny(Arc<CryptoProvider>);

impl AcceptAny {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(entente_bundle::tls::provider()))
    }
}

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Which authority signed the certificate that the server at `address` presents now: its ID as SPIRE writes it.
pub async fn presented_authority(address: SocketAddr) -> anyhow::Result<String> {
    let leaf = tokio::time::timeout(TIMEOUT, presented_leaf(address)).await.context("no answer")?;
    let leaf = leaf.with_context(|| format!("TLS with {address}"))?;
    authority_of(&leaf)
}

/// The authority key identifier of a certificate as lower-case hex.
pub fn authority_of(leaf: &[u8]) -> anyhow::Result<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(leaf).context("not a certificate")?;
    let identifier =
        certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(identifier) => identifier.key_identifier.as_ref(),
            _ => None,
        });
    let identifier = identifier.context("a certificate that names no authority")?;
    Ok(hex(identifier.0))
}

async fn presented_leaf(address: SocketAddr) -> anyhow::Result<Vec<u8>> {
    let mut config = ClientConfig::builder_with_provider(entente_bundle::tls::provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(AcceptAny::new())
        .with_no_client_auth();
    config.enable_sni = false;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let tcp = TcpStream::connect(address).await.context("cannot connect")?;
    let name = ServerName::from(address.ip());
    // A server that wants a certificate of ours refuses after its own was shown, which is all that is asked here.
    let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    let chain = tls.get_ref().1.peer_certificates().context("no certificate was presented")?;
    Ok(chain.first().context("an empty chain was presented")?.to_vec())
}
