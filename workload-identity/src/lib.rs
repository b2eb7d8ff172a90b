//! Who this process is, and whom it can verify: X509-SVID and bundles from the SPIFFE Workload API, kept current.
//!
//! [`WorkloadIdentity`] holds one stream to the Workload API open and copies what arrives *out*, into a
//! [`CertificateSlot`](entente_bundle::tls::CertificateSlot) and a [`BundleSet`](entente_bundle::BundleSet). A handshake
//! reads those and never waits for the stream, so a rotation fails no handshake.
//!
//! # What each answer of the Workload API means here
//!
//! | answer | what happens |
//! |---|---|
//! | an update | It is the full state and replaces everything at once: a bundle that is missing from it is gone. Which SVID is our identity, [`Choice`] says. |
//! | an update whose SVID, key or own bundle cannot be used | Refused as a whole, with a log line; the last good one stays. |
//! | an update in which the identity that we want is not, or is not the only one | Its bundles replace ours, so a revocation is never missed; the SVID that is presented stays until it expires. A log line, and [`WorkloadIdentity::failure`]. |
//! | an update with an unreadable federated bundle | That domain keeps the bundle held before; the rest of the update counts. |
//! | an authority that may not be trusted | Left out, with a log line. |
//! | a federated entry that repeats the own trust domain | Ignored, with a log line: the own bundle comes with the SVID. |
//! | connection lost, `UNAVAILABLE`, any other failure | Everything is kept; reconnects after 100 ms, doubling to 5 s. |
//! | `PERMISSION_DENIED`, or no SVID in an update, before the first SVID | Retries in the same way: the entry may not exist yet. |
//! | the same after it | Everything is kept for a short grace (30 s, because an agent that just started may say so for a moment), then all of it is withdrawn. Only an update with our identity ends the grace. |
//! | `INVALID_ARGUMENT`, `UNIMPLEMENTED` | Final: asking again cannot help. The stream ends, the material stays until the SVID expires. |
//!
//! An expired SVID is never presented: the slot empties when the first certificate of its chain ends.
//!
//! A verdict on a peer holds no longer than what it was based on: [`OpenConnections`] looks again at every open connection when
//! the bundles change.

mod address;
mod connection;
mod error;
mod identity;
mod material;
mod open_connections;
mod refusal;
#[cfg(feature = "testing")]
pub mod testing;
mod watcher;

pub use address::{AddressError, ENDPOINT_SOCKET, WorkloadApiAddress};
pub use error::{UpdateError, WorkloadApiError};
pub use identity::{Choice, Settings, WorkloadIdentity};
pub use open_connections::{Guarded, OpenConnections, Peer};
pub use refusal::Refusal;
