//! Whether we can do our work, and if not, the name of each reason.

use serde::{Deserialize, Serialize};

/// The answer of `/ready`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// True when every public listener can serve the bundle.
    pub ready: bool,
    /// Why not.
    pub reasons: Vec<Reason>,
    /// What is wrong although everything can still be served.
    pub degraded: Vec<Reason>,
}

/// One named condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// One of a fixed set of words: `no_bundle`, `no_signer`, `no_identity`, `no_certificate`, `link_down`, `spire_api`,
    /// `workload_api`, `relationship_unhealthy`, `task_ended`.
    pub name: String,
    /// For people.
    pub detail: String,
}

/// Name of the reason that a relationship is not healthy.
pub(crate) const RELATIONSHIP_UNHEALTHY: &str = "relationship_unhealthy";

impl Reason {
    pub(crate) fn new(name: &str, detail: impl Into<String>) -> Self {
        Self { name: name.into(), detail: detail.into() }
    }
}

impl Readiness {
    pub(crate) fn new(reasons: Vec<Reason>, degraded: Vec<Reason>) -> Self {
        Self { ready: reasons.is_empty(), reasons, degraded }
    }
}
