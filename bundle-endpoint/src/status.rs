//! What `/status` says: everything about every relationship, in both directions, as one JSON document.

use serde::{Deserialize, Serialize};

use crate::health::{RELATIONSHIP_UNHEALTHY, Readiness};

/// The whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Our own.
    pub trust_domain: String,
    /// Of this binary.
    pub version: String,
    /// As `/ready` says.
    pub readiness: Readiness,
    /// Where we listen, with the ports that the system chose.
    pub listeners: Vec<ListenerStatus>,
    /// Where the plugin dials: a socket, or IP and port.
    pub link_socket: String,
    /// The ID that we show there; none on a socket, and while there is no identity.
    #[serde(default)]
    pub link_identity: Option<String>,
    /// Plugins that are linked now.
    pub links: Vec<LinkStatus>,
    /// What we serve to everybody.
    pub own: OwnStatus,
    /// What we fetch, by trust domain.
    pub relationships: Vec<RelationshipStatus>,
    /// Bundles that are to leave SPIRE and have not yet.
    #[serde(default)]
    pub pending_removals: Vec<PendingRemovalStatus>,
}

/// A trust domain that is not federated with any more, and whose bundle SPIRE still holds: workloads trust it on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingRemovalStatus {
    /// The foreign one.
    pub trust_domain: String,
    /// What keeps it, in the plugin's words; none before the first try.
    pub reason: Option<String>,
}

/// One listener.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// `serve`, `also_serve[0]`, `admin`.
    pub name: String,
    /// IP and port.
    pub address: String,
    /// `https_spiffe`, `https_web`, or none for the admin listener.
    pub profile: Option<String>,
    /// `server`, `workload`, `files`, or none for the admin listener.
    pub identity: Option<String>,
}

/// One linked plugin.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LinkStatus {
    /// As it says.
    pub plugin_version: String,
    /// On a socket, as the kernel says.
    pub uid: Option<u32>,
    /// On a socket, as the kernel says; none where the process is of another PID namespace.
    pub pid: Option<i32>,
    /// On a socket, of a process without `pid`: which of their open connections.
    #[serde(default)]
    pub connection: Option<u32>,
    /// Over the network: from where.
    #[serde(default)]
    pub address: Option<String>,
    /// Over the network: the verified ID.
    #[serde(default)]
    pub spiffe_id: Option<String>,
    /// When it linked, RFC 3339.
    pub since: String,
    /// The ID whose signatures it lends.
    pub lends: Option<String>,
}

/// The own bundle, as served.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OwnStatus {
    /// None before the first.
    pub bundle: Option<BundleSummary>,
    /// Its entity tag.
    pub etag: Option<String>,
    /// When this document was published, RFC 3339.
    pub published: Option<String>,
    /// Requests answered with the document.
    pub served: u64,
    /// Requests answered with "not modified".
    pub not_modified: u64,
    /// When the last such request came, RFC 3339.
    pub last_served: Option<String>,
}

/// One bundle in numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleSummary {
    /// None where the source gave none.
    pub sequence_number: Option<u64>,
    /// Seconds.
    pub refresh_hint: Option<u64>,
    /// X.509, each with its life.
    pub x509_authorities: Vec<X509AuthoritySummary>,
    /// Key IDs.
    pub jwt_authorities: Vec<String>,
}

/// One X.509 authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct X509AuthoritySummary {
    /// SHA-256 of the certificate, hexadecimal.
    pub sha256: String,
    /// SPIRE's authority ID.
    pub subject_key_id: Option<String>,
    /// RFC 3339.
    pub not_before: String,
    /// RFC 3339.
    pub not_after: String,
    /// No longer valid.
    pub expired: bool,
    /// SPIRE's mark; only where the plugin is the source.
    pub tainted: bool,
}

/// One foreign trust domain.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RelationshipStatus {
    /// The foreign one.
    pub trust_domain: String,
    /// As configured.
    pub bundle_endpoint_url: String,
    /// `https_spiffe` or `https_web`.
    pub bundle_endpoint_profile: String,
    /// `https_spiffe` only.
    pub endpoint_spiffe_id: Option<String>,
    /// `managed` or `assisted`.
    pub mode: String,
    /// Fetches work, and SPIRE holds what was fetched.
    pub healthy: bool,
    /// Why not.
    pub reason: Option<String>,
    /// What SPIRE holds.
    pub held: Option<BundleSummary>,
    /// What was fetched last.
    pub fetched: Option<BundleSummary>,
    /// What the fetched one is to somebody who holds the held one: `advance`, `same`, `stale`, `conflict`.
    pub freshness: Option<String>,
    /// The ID that the endpoint presented at the last good fetch.
    pub presented: Option<String>,
    /// Elements of the document that the standard says to ignore.
    pub skipped_elements: usize,
    /// Good fetches since the relationship began here.
    pub fetches: u64,
    /// Failed ones.
    pub failures: u64,
    /// RFC 3339, here and below.
    pub last_attempt: Option<String>,
    /// The last good one.
    pub last_success: Option<String>,
    /// When the next is due.
    pub next_fetch: Option<String>,
    /// The last failure, while it lasts.
    pub failure: Option<FailureStatus>,
    /// What is on offer to the plugin.
    pub offer: Option<OfferStatus>,
}

/// Why the last fetch failed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FailureStatus {
    /// A constant word.
    pub reason: String,
    /// For people.
    pub detail: String,
    /// Failures in a row.
    pub count: u64,
}

/// A bundle on offer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OfferStatus {
    /// `pending`, `set`, `unchanged`, `refused`, `failed`.
    pub outcome: String,
    /// The plugin's words.
    pub reason: Option<String>,
}

impl LinkStatus {
    /// Who it is, for people.
    pub fn who(&self) -> String {
        match (&self.spiffe_id, &self.address, self.uid) {
            (Some(id), Some(address), _) => format!("{id} from {address}"),
            (_, _, Some(uid)) => match self.connection {
                Some(connection) => format!("connection {connection} of uid {uid}"),
                None => format!("uid {uid}"),
            },
            _ => "somebody".into(),
        }
    }
}

impl PendingRemovalStatus {
    /// For people.
    pub fn sentence(&self) -> String {
        match &self.reason {
            Some(reason) => format!("removal pending: {reason}"),
            None => "removal pending".into(),
        }
    }
}

impl Status {
    /// What an operator has to look at, one sentence each; empty when all is well.
    pub fn problems(&self) -> Vec<String> {
        let readiness = self.readiness.reasons.iter().chain(&self.readiness.degraded);
        // Relationships are all told below.
        let readiness = readiness.filter(|reason| reason.name != RELATIONSHIP_UNHEALTHY);
        let own = readiness.map(|reason| format!("{}: {}", reason.name, reason.detail));
        let foreign =
            self.relationships.iter().filter(|relationship| !relationship.healthy).map(|relationship| {
                let reason = relationship.reason.as_deref().unwrap_or("unhealthy");
                format!("{}: {reason}", relationship.trust_domain)
            });
        let removals = self
            .pending_removals
            .iter()
            .map(|removal| format!("{}: {}", removal.trust_domain, removal.sentence()));
        own.chain(foreign).chain(removals).collect()
    }
}
