//! rustls verifiers and configurations built on `svid` and `authorizer`. No session resumption anywhere: a resumed session
//! skips the verifier.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DistinguishedName, OtherError, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};

use crate::{Authorizer, BundleSource, SvidError, svid};

/// The one crypto provider of the project.
pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The methods of rustls' verifiers that check a handshake's signature, the same for servers and clients. The verifier has its
/// crypto in a field `provider`.
#[macro_export]
macro_rules! signature_checks {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &rustls_pki_types::CertificateDer<'_>,
            signature: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            let algorithms = &self.provider.signature_verification_algorithms;
            rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &rustls_pki_types::CertificateDer<'_>,
            signature: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            let algorithms = &self.provider.signature_verification_algorithms;
            rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
        }
    };
}

/// Verifies the peer's X509-SVID on either side of a handshake; ignores host names (an SVID names none).
#[derive(Debug)]
pub struct SvidVerifier {
    bundles: Arc<dyn BundleSource>,
    authorizer: Authorizer,
    provider: Arc<rustls::crypto::CryptoProvider>,
}

impl SvidVerifier {
    /// Bundles are asked at each handshake.
    pub fn new(bundles: Arc<dyn BundleSource>, authorizer: Authorizer) -> Arc<Self> {
        Arc::new(Self { bundles, authorizer, provider: provider() })
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        svid::verify(leaf, intermediates, self.bundles.as_ref(), &self.authorizer, now)
            .map(drop)
            .map_err(into_rustls)
    }
}

// Kept whole, so that `SvidError::find_in` gets it back out; the peer only sees an alert.
fn into_rustls(error: SvidError) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(error))).into()
}

impl ServerCertVerifier for SvidVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now).map(|()| ServerCertVerified::assertion())
    }

    crate::signature_checks!();
}

impl ClientCertVerifier for SvidVerifier {
    // Names of our authorities would tell a stranger whom we federate with, and a peer has one SVID to show anyway.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now).map(|()| ClientCertVerified::assertion())
    }

    crate::signature_checks!();
}

/// Holds the certificate and key that we present; swapped at rotation, read at each handshake.
#[derive(Default)]
pub struct CertificateSlot(ArcSwapOption<CertifiedKey>);

impl CertificateSlot {
    /// Presents `key` from the next handshake on.
    pub fn set(&self, key: Arc<CertifiedKey>) {
        self.0.store(Some(key));
    }
    /// Presents nothing: handshakes end with an alert.
    pub fn clear(&self) {
        self.0.store(None);
    }
    /// What is presented now.
    pub fn current(&self) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

impl fmt::Debug for CertificateSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateSlot").field("filled", &self.0.load().is_some()).finish()
    }
}

impl ResolvesServerCert for CertificateSlot {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current()
    }
}

impl ResolvesClientCert for CertificateSlot {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.current()
    }

    fn has_certs(&self) -> bool {
        self.current().is_some()
    }
}

/// Checks that chain (leaf first, DER) and PKCS#8 key belong together and makes them presentable.
pub fn certified_key(
    chain: Vec<CertificateDer<'static>>,
    pkcs8: Vec<u8>,
) -> Result<Arc<CertifiedKey>, rustls::Error> {
    CertifiedKey::from_der(chain, PrivatePkcs8KeyDer::from(pkcs8).into(), &provider()).map(Arc::new)
}

/// Client that verifies the server's X509-SVID and, if `identity` is given, presents its own. TLS 1.2 and 1.3; SNI off;
/// `alpn` as given.
pub fn client_config(
    verifier: Arc<SvidVerifier>,
    identity: Option<Arc<CertificateSlot>>,
    alpn: &[&[u8]],
) -> Result<ClientConfig, rustls::Error> {
    client_of_versions(rustls::DEFAULT_VERSIONS, verifier, identity.map(|slot| slot as _), alpn)
}

/// The other end of [`mutual_server_config`]: verifies the server's X509-SVID and presents what `identity` gives, under TLS 1.3
/// only, which hides both from who listens in. SNI off; `alpn` as given.
pub fn mutual_client_config(
    verifier: Arc<SvidVerifier>,
    identity: Arc<dyn ResolvesClientCert>,
    alpn: &[&[u8]],
) -> Result<ClientConfig, rustls::Error> {
    client_of_versions(&[&rustls::version::TLS13], verifier, Some(identity), alpn)
}

fn client_of_versions(
    versions: &[&'static rustls::SupportedProtocolVersion],
    verifier: Arc<SvidVerifier>,
    identity: Option<Arc<dyn ResolvesClientCert>>,
    alpn: &[&[u8]],
) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(identity),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config.alpn_protocols = alpn_list(alpn);
    Ok(config)
}

/// Server that requires and verifies a client X509-SVID (mutual TLS, TLS 1.3 only).
pub fn mutual_server_config(
    verifier: Arc<SvidVerifier>,
    identity: Arc<CertificateSlot>,
    alpn: &[&[u8]],
) -> Result<ServerConfig, rustls::Error> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(identity);
    Ok(without_resumption(config, alpn))
}

/// Server that asks for no client certificate (the public bundle endpoint; FED 5.2.2.3). `versions` is TLS 1.3 only where the
/// key is remote.
pub fn public_server_config(
    resolver: Arc<dyn ResolvesServerCert>,
    versions: &[&'static rustls::SupportedProtocolVersion],
    alpn: &[&[u8]],
) -> Result<ServerConfig, rustls::Error> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    Ok(without_resumption(config, alpn))
}

fn without_resumption(mut config: ServerConfig, alpn: &[&[u8]]) -> ServerConfig {
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.alpn_protocols = alpn_list(alpn);
    config
}

fn alpn_list(alpn: &[&[u8]]) -> Vec<Vec<u8>> {
    alpn.iter().map(|protocol| protocol.to_vec()).collect()
}
