//! Files that the operator names: certificates of a private web authority, bootstrap bundles.

use std::path::{Path, PathBuf};

use entente_bounds as bounds;
use entente_bundle::{
    AuthorityError, Bundle, DocumentError, DocumentLimits, TrustDomain, X509Authority, document,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject};

/// Why a file cannot be used. Each text names the file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("certificate {index} in {} is no authority: {source}", path.display())]
    Authority { path: PathBuf, index: usize, source: AuthorityError },
    #[error("{} is no SPIFFE bundle document: {source}", path.display())]
    Document { path: PathBuf, source: DocumentError },
    #[error("{} holds no certificate in PEM form", path.display())]
    NoCertificate { path: PathBuf },
    #[error("{} holds no X.509 authority", path.display())]
    NoX509Authority { path: PathBuf },
    #[error("{} is no PEM file: {source}", path.display())]
    Pem { path: PathBuf, source: pem::Error },
    #[error(transparent)]
    Read(#[from] bounds::FileError),
}

impl FileError {
    /// True when the file may simply not be there yet.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Read(error) if error.is_missing())
    }
}

/// PEM text with at least one certificate in it.
pub(crate) fn read_certificates(path: &Path) -> Result<String, FileError> {
    let bytes = bounds::read_file(path)?;
    certificates(path, &bytes)?;
    // Cannot fail: PEM of certificates was found; what stands around it need not be text.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A bundle to begin with: a SPIFFE bundle document, or certificates as PEM (FED 5.2.2.2 allows more forms than the document).
pub(crate) fn read_bundle(path: &Path, trust_domain: &TrustDomain) -> Result<Bundle, FileError> {
    let bytes = bounds::read_file(path)?;
    let is_json = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    let bundle = if is_json {
        document::parse(&bytes, trust_domain, &DocumentLimits::default())
            .map_err(|source| FileError::Document { path: path.into(), source })?
            .bundle
    } else {
        Bundle::new(trust_domain.clone(), authorities(path, &bytes)?, Vec::new(), None, None)
    };
    if bundle.x509_authorities().is_empty() {
        return Err(FileError::NoX509Authority { path: path.into() });
    }
    Ok(bundle)
}

fn authorities(path: &Path, bytes: &[u8]) -> Result<Vec<X509Authority>, FileError> {
    let certificates = certificates(path, bytes)?;
    let authority = |(index, der): (usize, &CertificateDer<'_>)| {
        X509Authority::from_der(der, false).map_err(|source| FileError::Authority {
            path: path.into(),
            index,
            source,
        })
    };
    certificates.iter().enumerate().map(authority).collect()
}

fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let found = found.map_err(|source| FileError::Pem { path: path.into(), source })?;
    if found.is_empty() {
        return Err(FileError::NoCertificate { path: path.into() });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_test() -> TrustDomain {
        TrustDomain::new("a.test").unwrap()
    }

    #[test]
    fn what_is_no_bundle_is_refused_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bundle");
        assert!(read_bundle(&path, &a_test()).unwrap_err().is_missing());
        assert!(matches!(read_bundle(folder.path(), &a_test()), Err(FileError::Read(_))));
        for (text, expected) in [
            ("", "holds no certificate"),
            ("{", "is no SPIFFE bundle document"),
            ("{\"keys\": []}", "holds no X.509 authority"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "is no authority"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = read_bundle(&path, &a_test()).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("bundle"), "{error}");
        }
    }
}
