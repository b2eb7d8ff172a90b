//! What can go wrong with the Workload API, told apart by who must act.

use entente_bundle::{AuthorityError, IdError, SpiffeId, SvidError};
use tonic::Code;

use crate::{Choice, WorkloadApiAddress};

/// Why the Workload API gives us nothing new at this moment.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadApiError {
    /// No identity for this process: the registration entry does not exist yet, or no longer.
    #[error("the workload api issues no identity to this process: {message}")]
    Denied {
        /// The agent's words.
        message: String,
    },
    /// The agent closed the stream.
    #[error("the workload api ended the stream")]
    Ended,
    /// The update is of no use.
    #[error("the workload api sent an unusable update")]
    Malformed(#[from] UpdateError),
    /// `INVALID_ARGUMENT` or `UNIMPLEMENTED`: asking again cannot help.
    #[error("the workload api refused the request for good ({}): {message}", code.description())]
    Refused {
        /// The gRPC code.
        code: Code,
        /// The agent's words.
        message: String,
    },
    /// No first update within the time for it.
    #[error("the workload api accepted the connection and sent no update")]
    Silent,
    /// Another gRPC failure; may pass.
    #[error("the workload api failed ({}): {message}", code.description())]
    Status {
        /// The gRPC code.
        code: Code,
        /// The agent's words.
        message: String,
    },
    /// No connection.
    #[error("the workload api at {address} cannot be reached")]
    Unreachable {
        /// Where it should be.
        address: WorkloadApiAddress,
        /// What the transport says.
        source: tonic::transport::Error,
    },
}

/// Why one update is of no use. The one before it stays.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// Several SVIDs, and nobody has said which of them we are.
    #[error("several svids are issued to this process ({issued}): name the one to use in its configuration")]
    Ambiguous {
        /// Their IDs.
        issued: String,
    },
    /// The own bundle cannot be split into certificates.
    #[error("the own bundle is not a list of DER certificates")]
    Bundle,
    /// The chain cannot be split into certificates.
    #[error("the certificates of svid {index} are not a list of DER certificates")]
    Chain {
        /// Position in the update.
        index: usize,
    },
    /// The name beside the SVID is no SPIFFE ID.
    #[error("svid {index} is named by no spiffe id")]
    Id {
        /// Position in the update.
        index: usize,
        /// What is wrong with it.
        source: IdError,
    },
    /// A certificate after the leaf may sign nothing.
    #[error("certificate {position} of svid {index} is no authority")]
    Issuer {
        /// Position of the SVID in the update.
        index: usize,
        /// Position in the chain; the leaf is 0.
        position: usize,
        /// What is wrong with it.
        source: AuthorityError,
    },
    /// Key and leaf do not belong together, or the key cannot be read.
    #[error("the private key of svid {index} is unusable")]
    Key {
        /// Position in the update.
        index: usize,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// The leaf breaks a rule that every peer would refuse it for.
    #[error("the leaf of svid {index} is no x509-svid")]
    Leaf {
        /// Position in the update.
        index: usize,
        /// Which rule.
        source: SvidError,
    },
    /// A mandatory field is empty.
    #[error("svid {index} has an empty {field}")]
    MissingField {
        /// Position in the update.
        index: usize,
        /// Its name in the protocol.
        field: &'static str,
    },
    /// Not one authority of the own bundle may be trusted.
    #[error("the own bundle has no usable authority")]
    NoAuthority,
    /// The identity that we want is not among those that are issued.
    #[error("{} is issued to this process, only {issued}", match wanted {
        Choice::First => "nothing".to_owned(),
        Choice::OnlyOf(trust_domain) => format!("no svid of trust domain {trust_domain}"),
        Choice::Exactly(id) => format!("no svid {id}"),
    })]
    NotIssued {
        /// What we want.
        wanted: Choice,
        /// The IDs that are.
        issued: String,
    },
    /// The certificate names another ID than the update does.
    #[error("svid {index} is named {named} and its leaf says {presented}")]
    OtherId {
        /// Position in the update.
        index: usize,
        /// The update's word.
        named: SpiffeId,
        /// The certificate's word.
        presented: SpiffeId,
    },
}

impl WorkloadApiError {
    /// True when asking again cannot help.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }

    pub(crate) fn from_status(status: tonic::Status) -> Self {
        let (code, message) = (status.code(), status.message().to_owned());
        match code {
            Code::PermissionDenied => Self::Denied { message },
            Code::InvalidArgument | Code::Unimplemented => Self::Refused { code, message },
            _ => Self::Status { code, message },
        }
    }
}
