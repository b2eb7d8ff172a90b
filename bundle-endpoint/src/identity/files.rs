//! A web certificate and its key from two PEM files, read again when their content changes.
//!
//! Content is compared, not times: a mount that is swapped underneath (Kubernetes) shows no event on the file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use entente_bounds::{FileError, read_file};
use entente_bundle::text::hex;
use entente_bundle::tls::{CertificateSlot, provider};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tracing::{error, info};
use zeroize::Zeroizing;

use crate::logging::chain;
use crate::metrics::Metrics;

/// Between two looks at the files.
const INTERVAL: Duration = Duration::from_secs(1);

/// Why a pair of files cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateFileError {
    #[error(transparent)]
    CertificateFile(FileError),
    #[error(transparent)]
    KeyFile(FileError),
    #[error("{} holds no pem certificate", path.display())]
    NoCertificate { path: PathBuf },
    #[error("{} holds no pem private key that can be used", path.display())]
    NoKey { path: PathBuf, source: rustls_pki_types::pem::Error },
    #[error("{} is not pem", path.display())]
    Pem { path: PathBuf, source: rustls_pki_types::pem::Error },
    #[error("{} and {} are no pair", certificate.display(), key.display())]
    Pair { certificate: PathBuf, key: PathBuf, source: rustls::Error },
}

impl CertificateFileError {
    /// Whether the certificate's file is to blame, and whether the key's is.
    fn blames(&self) -> (bool, bool) {
        match self {
            Self::CertificateFile(_) | Self::NoCertificate { .. } | Self::Pem { .. } => (true, false),
            Self::KeyFile(_) | Self::NoKey { .. } => (false, true),
            Self::Pair { .. } => (true, true),
        }
    }
}

/// Two files and the slot that they fill.
#[derive(Debug)]
pub(crate) struct CertificateFiles {
    certificate: PathBuf,
    key: PathBuf,
    slot: Arc<CertificateSlot>,
    metrics: Arc<Metrics>,
    // Of what was last looked at, good or bad, so that each content is judged and logged once.
    seen: Option<[u8; 32]>,
}

impl CertificateFiles {
    pub(crate) fn new(certificate: &Path, key: &Path, metrics: Arc<Metrics>) -> Self {
        let slot = Arc::default();
        Self { certificate: certificate.to_owned(), key: key.to_owned(), slot, metrics, seen: None }
    }

    pub(crate) fn slot(&self) -> Arc<CertificateSlot> {
        Arc::clone(&self.slot)
    }

    /// Looks at the files until the end of the process.
    pub(crate) async fn watch(mut self) {
        loop {
            self.look().await;
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// One look: a new good pair is shown from now on; a bad one is logged once and changes nothing.
    pub(crate) async fn look(&mut self) {
        let (certificate, key) = (self.certificate.clone(), self.key.clone());
        let read = tokio::task::spawn_blocking(move || {
            let pair = read_pair(&certificate, &key);
            let seen = fingerprint(&pair);
            (seen, pair)
        });
        let Ok((seen, pair)) = read.await else { return };
        if self.seen == Some(seen) {
            return;
        }
        self.seen = Some(seen);
        match pair.and_then(|(certificate, key)| self.pair(&certificate, key)) {
            Ok(certified) => {
                let fingerprint = certified.cert.first().map(|leaf| hex(&Sha256::digest(leaf)));
                info!(certificate_file = %self.certificate.display(), fingerprint, "certificate loaded");
                self.slot.set(certified);
                self.metrics.certificate_reload("ok");
            }
            Err(error) => self.refused(&error),
        }
    }

    fn refused(&self, error: &CertificateFileError) {
        let keeps_previous = self.slot.current().is_some();
        let (certificate, key) = error.blames();
        let certificate_file = certificate.then(|| tracing::field::display(self.certificate.display()));
        let private_key_file = key.then(|| tracing::field::display(self.key.display()));
        let error = chain(error);
        error!(certificate_file, private_key_file, error, keeps_previous, "certificate files refused");
        self.metrics.certificate_reload("refused");
    }

    fn pair(&self, certificate: &[u8], key: Secret) -> Result<Arc<CertifiedKey>, CertificateFileError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
        let chain =
            chain.map_err(|source| CertificateFileError::Pem { path: self.certificate.clone(), source })?;
        if chain.is_empty() {
            return Err(CertificateFileError::NoCertificate { path: self.certificate.clone() });
        }
        let key = PrivateKeyDer::from_pem_slice(&key)
            .map_err(|source| CertificateFileError::NoKey { path: self.key.clone(), source })?;
        CertifiedKey::from_der(chain, key, &provider()).map(Arc::new).map_err(|source| {
            CertificateFileError::Pair {
                certificate: self.certificate.clone(),
                key: self.key.clone(),
                source,
            }
        })
    }
}

/// Wiped from memory when it is dropped.
type Secret = Zeroizing<Vec<u8>>;

fn read_pair(certificate: &Path, key: &Path) -> Result<(Vec<u8>, Secret), CertificateFileError> {
    let certificate = read_file(certificate).map_err(CertificateFileError::CertificateFile)?;
    let key = read_file(key).map_err(CertificateFileError::KeyFile)?;
    Ok((certificate, Zeroizing::new(key)))
}

// Of both contents, or of what is wrong with them.
fn fingerprint(pair: &Result<(Vec<u8>, Secret), CertificateFileError>) -> [u8; 32] {
    let mut hash = Sha256::new();
    match pair {
        Ok((certificate, key)) => {
            hash.update(Sha256::digest(certificate));
            hash.update(Sha256::digest(key));
        }
        Err(error) => hash.update(format!("{error:?}")),
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn pair() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["a.test".into()]).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn leaf(files: &CertificateFiles) -> Option<Vec<u8>> {
        files.slot().current().map(|key| key.cert[0].to_vec())
    }

    #[tokio::test]
    async fn a_broken_pair_keeps_the_old_one_and_a_good_one_replaces_it() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("c.pem"), dir.path().join("k.pem"));
        let mut files = CertificateFiles::new(&certificate, &key, Arc::new(Metrics::new()));
        files.look().await;
        assert_eq!(leaf(&files), None);

        let (first, second) = (pair(), pair());
        std::fs::write(&certificate, &first.0).unwrap();
        std::fs::write(&key, &first.1).unwrap();
        files.look().await;
        let loaded = leaf(&files);
        assert!(loaded.is_some());

        // Half of the swap: the new certificate with the old key.
        std::fs::write(&certificate, &second.0).unwrap();
        files.look().await;
        assert_eq!(leaf(&files), loaded);
        std::fs::write(&key, "no key").unwrap();
        files.look().await;
        std::fs::remove_file(&key).unwrap();
        files.look().await;
        assert_eq!(leaf(&files), loaded);

        std::fs::write(&key, &second.1).unwrap();
        files.look().await;
        assert_ne!(leaf(&files), loaded);
    }
}
