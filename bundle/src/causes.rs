//! Everything under an error, with the causes that `source()` steps over.

use std::error::Error;
use std::io;

use rustls::CertificateError;

/// The error itself, then cause after cause.
///
/// Unlike a walk along `source()` this one sees the payload of an I/O error, whose `source` is the payload's own, and what
/// rustls keeps in its variants for errors of others, such as the refusals of our verifiers.
pub fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| hidden(error).or_else(|| error.source()))
}

fn hidden<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return error.get_ref().map(|payload| payload as _);
    }
    match error.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) | rustls::Error::Other(other) => {
            Some(other.0.as_ref())
        }
        _ => None,
    }
}
