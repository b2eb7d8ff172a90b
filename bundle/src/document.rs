//! The bundle document: JSON Web Key Set with SPIFFE members, read and written (TDB 4).

use crate::{Bundle, TrustDomain};

/// Bounds on a document from outside.
#[derive(Clone, Copy, Debug)]
pub struct DocumentLimits {
    /// Bytes of JSON text.
    pub max_bytes: usize,
    /// Elements of `keys`.
    pub max_keys: usize,
    /// Nesting of arrays and objects.
    pub max_depth: usize,
}

impl Default for DocumentLimits {
    fn default() -> Self {
        Self { max_bytes: 1 << 20, max_keys: 512, max_depth: 8 }
    }
}

/// A document that was read: the bundle, and which elements were passed over and why.
#[derive(Clone, Debug)]
pub struct ParsedDocument {
    /// Stamped with the trust domain that the caller configured; the document never names its own.
    pub bundle: Bundle,
    /// Elements that the standard tells a consumer to ignore.
    pub skipped: Vec<SkippedKey>,
}

/// One ignored element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedKey {
    /// Position in `keys`.
    pub index: usize,
    /// Why it was ignored: a constant phrase.
    pub reason: &'static str,
}

/// Why a whole document was refused. Nothing of it may be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// placeholder until written
    #[error("{0}")]
    Todo(String),
}

/// Reads a document as the bundle of `trust_domain`.
pub fn parse(
    text: &[u8],
    trust_domain: &TrustDomain,
    limits: &DocumentLimits,
) -> Result<ParsedDocument, DocumentError> {
    let _ = (text, trust_domain, limits);
    todo!()
}

/// Writes the document that SPIRE 1.15 and go-spiffe accept: stable order, four-space indent, LF, no trailing newline, `x509-svid` and `jwt-svid` only,
/// sequence and hint left out when absent.
pub fn render(bundle: &Bundle) -> Vec<u8> {
    let _ = bundle;
    todo!()
}
