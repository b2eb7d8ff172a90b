//! What the agent knows at one moment: identities with their SVIDs, and bundles.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use entente_proto::spire::api::types as wire;
use zeroize::Zeroizing;

use super::attest::Caller;

/// Replaced as a whole at each sync that brought something new.
#[derive(Debug, PartialEq)]
pub(super) struct View {
    /// In the order of their making.
    pub(super) identities: Vec<Identity>,
    pub(super) own: wire::Bundle,
    /// By name of the trust domain; only those that entries name.
    pub(super) federated: BTreeMap<String, wire::Bundle>,
}

/// An entry and its SVID.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Identity {
    pub(super) entry: wire::Entry,
    pub(super) svid: Arc<Svid>,
}

/// An X509-SVID with its key.
#[derive(PartialEq, Eq)]
pub(super) struct Svid {
    pub(super) spiffe_id: String,
    /// DER certificates, one after the other.
    pub(super) chain: Vec<u8>,
    /// PKCS#8 DER.
    pub(super) key: Zeroizing<Vec<u8>>,
    pub(super) not_before: i64,
    pub(super) not_after: i64,
    /// Subject key ID of the authority that signed.
    pub(super) authority_id: String,
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid").field("spiffe_id", &self.spiffe_id).finish_non_exhaustive()
    }
}

impl View {
    /// The caller's identities; none is a refusal.
    pub(super) fn identities_of(&self, caller: &Caller) -> Vec<&Identity> {
        self.identities.iter().filter(|identity| caller.has(&identity.entry.selectors)).collect()
    }

    /// The federated bundles that these identities name, as far as they are there.
    pub(super) fn federated_for(&self, identities: &[&Identity]) -> BTreeMap<&String, &wire::Bundle> {
        let names = identities.iter().flat_map(|identity| &identity.entry.federates_with);
        names.filter_map(|name| self.federated.get_key_value(name)).collect()
    }
}

/// Certificates of a bundle, one after the other.
pub(super) fn concatenated(bundle: &wire::Bundle) -> Vec<u8> {
    bundle.x509_authorities.iter().flat_map(|authority| authority.asn1.iter().copied()).collect()
}
