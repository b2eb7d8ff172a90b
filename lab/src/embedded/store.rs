//! What a SPIRE server keeps in its datastore: bundles, entries, relationships. Every change is on disk before it is answered.

mod bundles;
mod entries;
mod relationships;
mod table;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use entente_bundle::TrustDomain;
use entente_proto::spire::api::types as wire;
use tonic::Code;

pub(crate) use self::bundles::DeleteMode;
use self::table::Table;
pub(crate) use self::table::{Page, write_file};

/// Why the datastore refused, in the words that SPIRE's API puts behind its own.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("{what} is already tainted")]
    AlreadyTainted { what: &'static str },
    #[error("could not parse token '{token}'")]
    BadToken { token: String },
    #[error("datastore-sql: cannot delete bundle; federated with {entries} registration entries")]
    Federated { entries: usize },
    #[error("datastore-file: {0}")]
    Io(#[from] std::io::Error),
    #[error("{what}")]
    Missing { what: &'static str },
    #[error("datastore-sql: UNIQUE constraint failed: {column}")]
    NotUnique { column: &'static str },
    #[error("unable to find federated bundle \"spiffe://{trust_domain}\"")]
    NoFederatedBundle { trust_domain: String },
    #[error("it is not possible to revoke an untainted {what}")]
    Untainted { what: &'static str },
}

const NOT_FOUND: StoreError = StoreError::Missing { what: "datastore-sql: record not found" };

impl StoreError {
    /// The status code that the error has before an API call decides otherwise.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::AlreadyTainted { .. } | Self::BadToken { .. } | Self::Untainted { .. } => {
                Code::InvalidArgument
            }
            Self::Federated { .. } => Code::FailedPrecondition,
            Self::Missing { .. } => Code::NotFound,
            Self::NotUnique { .. } => Code::AlreadyExists,
            Self::Io(_) | Self::NoFederatedBundle { .. } => Code::Internal,
        }
    }
}

/// The datastore of one server.
#[derive(Debug)]
pub(crate) struct Store {
    tables: Mutex<Tables>,
}

/// The rows; locked while an operation lasts, so that each operation is one transaction.
#[derive(Debug)]
pub(crate) struct Tables {
    own: TrustDomain,
    /// The own bundle and those of foreign trust domains, as SPIRE keeps them.
    bundles: Table<wire::Bundle>,
    entries: Table<wire::Entry>,
    /// Without bundles: those have their own table.
    relationships: Table<wire::FederationRelationship>,
}

impl Store {
    /// Reads what an earlier run left in `folder`, which is made if need be.
    pub(crate) fn open(folder: &Path, own: TrustDomain) -> Result<Self, StoreError> {
        let tables = Tables {
            own,
            bundles: Table::open(&folder.join("bundles"))?,
            entries: Table::open(&folder.join("entries"))?,
            relationships: Table::open(&folder.join("relationships"))?,
        };
        Ok(Self { tables: Mutex::new(tables) })
    }

    /// One transaction.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Tables> {
        // A panic between two rows leaves both as they are on disk, so the data is still good.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
