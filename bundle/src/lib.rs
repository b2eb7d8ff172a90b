//! What a SPIFFE trust bundle is, how it is read, written, compared and used to verify X509-SVIDs.
//!
//! This crate has no sockets, no tasks and no clock: bytes, certificates and the time come in, facts go out.

pub mod authority;
pub mod authorizer;
pub mod bundle;
pub mod causes;
mod certificate;
pub mod document;
pub mod freshness;
pub mod id;
mod public_key;
pub mod refresh;
pub mod source;
pub mod svid;
#[cfg(feature = "testing")]
pub mod testing;
pub mod text;
pub mod tls;

pub use authority::{AuthorityError, JwtAuthority, X509Authority};
pub use authorizer::Authorizer;
pub use bundle::Bundle;
pub use document::{DocumentError, DocumentLimits, ParsedDocument};
pub use freshness::Freshness;
pub use id::{IdError, SpiffeId, TrustDomain};
pub use public_key::KeyError;
pub use source::{BundleSet, BundleSource};
pub use svid::SvidError;
