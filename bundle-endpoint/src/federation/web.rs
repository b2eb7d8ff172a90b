//! Web PKI for `https_web`: the system's authorities or exactly the configured ones, and a helpful word when what answers
//! is an X509-SVID.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use entente_bundle::tls::provider;
use entente_bundle::{signature_checks, svid};
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, OtherError, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tracing::{debug, warn};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::error::FetchError;
use crate::logging::chain;

/// The system's authorities are read again after so long.
const SYSTEM_ROOTS_AGE: Duration = Duration::from_secs(3600);

/// The system's web PKI authorities, read when first wanted.
#[derive(Debug, Default)]
pub(crate) struct SystemRoots(Mutex<Option<(Instant, Arc<RootCertStore>)>>);

impl SystemRoots {
    /// The current ones.
    async fn load(self: &Arc<Self>) -> Result<Arc<RootCertStore>, FetchError> {
        let roots = Arc::clone(self);
        // Hundreds of files may have to be read.
        let loaded = tokio::task::spawn_blocking(move || roots.load_now());
        loaded.await.unwrap_or_else(|_| Err(FetchError::WebRoots { detail: "reading them failed".into() }))
    }

    fn load_now(&self) -> Result<Arc<RootCertStore>, FetchError> {
        let mut kept = crate::lock(&self.0);
        if let Some((since, roots)) = kept.as_ref()
            && since.elapsed() < SYSTEM_ROOTS_AGE
        {
            return Ok(Arc::clone(roots));
        }
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            warn!(%error, "system authorities not all readable");
        }
        let mut roots = RootCertStore::empty();
        let now = UnixTime::now();
        let current = found.certs.into_iter().filter(|authority| is_current(authority, now));
        let (_, ignored) = roots.add_parsable_certificates(current);
        if roots.is_empty() {
            return Err(FetchError::WebRoots { detail: "the system has none".into() });
        }
        debug!(count = roots.len(), ignored, "system authorities read");
        let roots = Arc::new(roots);
        *kept = Some((Instant::now(), Arc::clone(&roots)));
        Ok(roots)
    }
}

/// Exactly the certificates of a PEM text, less those whose time is over.
fn roots_from_pem(pem: &str, now: UnixTime) -> Result<Arc<RootCertStore>, FetchError> {
    let refused = |detail: String| FetchError::WebRoots { detail };
    let mut roots = RootCertStore::empty();
    let mut any = false;
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| refused(format!("not pem: {error}")))?;
        any = true;
        if is_current(&certificate, now) {
            roots.add(certificate).map_err(|error| refused(chain(&error)))?;
        }
    }
    match (any, roots.is_empty()) {
        (false, _) => Err(refused("the pem text holds no certificate".into())),
        (true, true) => Err(refused("no certificate of the pem text is valid now".into())),
        (true, false) => Ok(Arc::new(roots)),
    }
}

// webpki takes an authority as a name and a key, and does not look at its validity. What cannot be read is left for it to
// refuse.
fn is_current(authority: &CertificateDer<'_>, now: UnixTime) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(authority) else {
        return true;
    };
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = parsed.validity();
    (validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&now)
}

/// TLS for one `https_web` fetch.
pub(crate) async fn client_config(
    ca_certificates: Option<&str>,
    system: &Arc<SystemRoots>,
    alpn: &[&[u8]],
) -> Result<ClientConfig, FetchError> {
    let roots = match ca_certificates {
        Some(pem) => roots_from_pem(pem, UnixTime::now())?,
        None => system.load().await?,
    };
    let unusable = |detail: String| FetchError::WebRoots { detail };
    let inner = WebPkiServerVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(|error| unusable(error.to_string()))?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(chain(&error)))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(WebVerifier { inner, provider: provider() }))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

/// A refused web certificate that is an X509-SVID.
#[derive(Debug, thiserror::Error)]
#[error("the certificate is an x509-svid, not a web certificate")]
pub(crate) struct SvidInsteadOfWeb {
    #[source]
    pub(crate) refusal: rustls::Error,
}

/// The web PKI verifier, which looks at what it refused to find out whether the profile is the wrong one.
#[derive(Debug)]
struct WebVerifier {
    inner: Arc<WebPkiServerVerifier>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for WebVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.inner.verify_server_cert(leaf, intermediates, name, ocsp, now);
        verified.map_err(|refusal| match svid::leaf_id(leaf) {
            Ok(_) => rustls::Error::Other(OtherError(Arc::new(SvidInsteadOfWeb { refusal }))),
            Err(_) => refusal,
        })
    }

    signature_checks!();
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn pem(from: i32, to: i32) -> String {
        let mut params = CertificateParams::new(vec!["b.test".into()]).unwrap();
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    #[test]
    fn an_authority_outside_its_validity_is_not_trusted() {
        let roots = |pem: &str| roots_from_pem(pem, UnixTime::now());
        let (over, good, to_come) = (pem(2001, 2002), pem(2001, 4000), pem(3999, 4000));
        for pem in ["", "no pem", &over, &to_come] {
            assert!(matches!(roots(pem), Err(FetchError::WebRoots { .. })), "{pem}");
        }
        assert_eq!(roots(&format!("{over}{good}{to_come}")).unwrap().len(), 1);
    }
}
