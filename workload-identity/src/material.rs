//! One update of the Workload API, read into what TLS needs. Decides what is usable; keeps nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use entente_bundle::svid::Leaf;
use entente_bundle::text::shortened;
use entente_bundle::{Bundle, SpiffeId, TrustDomain, X509Authority, tls};
use entente_proto::workload::{X509svid, X509svidResponse};
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use tracing::warn;
use zeroize::Zeroizing;

use crate::{Choice, UpdateError};

/// Bundles by trust domain: the own one and the federated ones.
pub(crate) type Bundles = BTreeMap<TrustDomain, Arc<Bundle>>;

/// More authorities than any trust domain has; bounds what an update may cost.
const AUTHORITIES_LIMIT: usize = 1024;

/// What one update says: who we are, and whom we can verify.
#[derive(Debug)]
pub(crate) struct Material {
    /// An update that does not say who we are still says whom to trust: a revocation must not wait for a registration entry.
    pub(crate) identity: Result<Svid, UpdateError>,
    pub(crate) bundles: Bundles,
}

/// One SVID of an update.
#[derive(Debug)]
pub(crate) struct Svid {
    pub(crate) id: SpiffeId,
    pub(crate) key: Arc<CertifiedKey>,
    /// Unix seconds: when the first certificate of the chain ends.
    pub(crate) expires_at: u64,
}

/// Reads an update. `held` supplies the bundle of a federated domain that is named but unreadable this time.
/// `None`: the update is in order and holds no SVID at all, so nothing is issued to us.
pub(crate) fn read(
    update: X509svidResponse,
    held: &Bundles,
    choice: &Choice,
) -> Result<Option<Material>, UpdateError> {
    let mut svids = Vec::new();
    let mut bundles = Bundles::new();
    for (index, svid) in update.svids.into_iter().enumerate() {
        let bundle = svid.bundle.clone();
        let svid = read_svid(index, svid)?;
        let trust_domain = svid.id.trust_domain().clone();
        if !bundles.contains_key(&trust_domain) {
            bundles.insert(trust_domain.clone(), Arc::new(own_bundle(trust_domain, &bundle)?));
        }
        svids.push(svid);
    }
    if svids.is_empty() {
        return Ok(None);
    }
    add_federated(&mut bundles, update.federated_bundles, held);
    Ok(Some(Material { identity: choose(svids, choice), bundles }))
}

fn choose(mut svids: Vec<Svid>, choice: &Choice) -> Result<Svid, UpdateError> {
    let issued = || svids.iter().map(|svid| svid.id.to_string()).collect::<Vec<_>>().join(", ");
    let position = match choice {
        Choice::First => Some(0),
        Choice::Exactly(wanted) => svids.iter().position(|svid| svid.id == *wanted),
        Choice::OnlyOf(_) if svids.len() > 1 => return Err(UpdateError::Ambiguous { issued: issued() }),
        Choice::OnlyOf(wanted) => svids.iter().position(|svid| svid.id.trust_domain() == wanted),
    };
    match position {
        Some(position) => Ok(svids.swap_remove(position)),
        None => Err(UpdateError::NotIssued { wanted: choice.clone(), issued: issued() }),
    }
}

fn read_svid(index: usize, svid: X509svid) -> Result<Svid, UpdateError> {
    let pkcs8 = Zeroizing::new(svid.x509_svid_key);
    for (field, empty) in [
        ("spiffe_id", svid.spiffe_id.is_empty()),
        ("x509_svid", svid.x509_svid.is_empty()),
        ("x509_svid_key", pkcs8.is_empty()),
        ("bundle", svid.bundle.is_empty()),
    ] {
        if empty {
            return Err(UpdateError::MissingField { index, field });
        }
    }
    let chain = split(&svid.x509_svid).ok_or(UpdateError::Chain { index })?;
    let chain: Vec<CertificateDer<'static>> =
        chain.into_iter().map(|certificate| CertificateDer::from(certificate.to_vec())).collect();
    let named = SpiffeId::new(&svid.spiffe_id).map_err(|source| UpdateError::Id { index, source })?;
    let (presented, expires_at) = read_chain(index, &chain)?;
    if named != presented {
        return Err(UpdateError::OtherId { index, named, presented });
    }
    let key =
        tls::certified_key(chain, pkcs8.to_vec()).map_err(|source| UpdateError::Key { index, source })?;
    Ok(Svid { id: presented, key, expires_at })
}

/// The ID in a chain, and when its first certificate ends: from then on the chain is of no use.
fn read_chain(index: usize, chain: &[CertificateDer<'_>]) -> Result<(SpiffeId, u64), UpdateError> {
    let Some((leaf, issuers)) = chain.split_first() else {
        return Err(UpdateError::Chain { index });
    };
    let leaf = Leaf::read(leaf).map_err(|source| UpdateError::Leaf { index, source })?;
    let mut soonest = leaf.not_after;
    for (position, issuer) in (1..).zip(issuers) {
        let issuer = X509Authority::from_der(issuer, false).map_err(|source| UpdateError::Issuer {
            index,
            position,
            source,
        })?;
        soonest = soonest.min(issuer.not_after());
    }
    Ok((leaf.id, soonest))
}

fn own_bundle(trust_domain: TrustDomain, der: &[u8]) -> Result<Bundle, UpdateError> {
    let authorities = read_authorities(&trust_domain, der).ok_or(UpdateError::Bundle)?;
    if authorities.is_empty() {
        return Err(UpdateError::NoAuthority);
    }
    Ok(Bundle::new(trust_domain, authorities, Vec::new(), None, None))
}

/// An empty federated bundle is taken as it is: it revokes every SVID of that domain (TDB 4.1.3).
fn add_federated(
    bundles: &mut Bundles,
    federated: impl IntoIterator<Item = (String, Vec<u8>)>,
    held: &Bundles,
) {
    for (name, der) in federated {
        let trust_domain = match TrustDomain::from_name_or_id(&name) {
            Ok(trust_domain) => trust_domain,
            Err(error) => {
                warn!(name = shortened(&name), %error, "federated bundle skipped: its name is no trust domain");
                continue;
            }
        };
        if bundles.contains_key(&trust_domain) {
            warn!(%trust_domain, "federated bundle skipped: the own bundle comes with the svid");
            continue;
        }
        match read_authorities(&trust_domain, &der) {
            Some(authorities) => {
                let bundle = Bundle::new(trust_domain.clone(), authorities, Vec::new(), None, None);
                bundles.insert(trust_domain, Arc::new(bundle));
            }
            None => {
                warn!(%trust_domain, "federated bundle is unreadable, the held one stays");
                if let Some(bundle) = held.get(&trust_domain) {
                    bundles.insert(trust_domain, bundle.clone());
                }
            }
        }
    }
}

/// `None` when the bytes are not certificates one after the other. A certificate that may be no authority is left out.
fn read_authorities(trust_domain: &TrustDomain, der: &[u8]) -> Option<Vec<X509Authority>> {
    let mut authorities = Vec::new();
    for certificate in split(der)? {
        match X509Authority::from_der(certificate, false) {
            Ok(authority) => authorities.push(authority),
            Err(error) => warn!(%trust_domain, %error, "authority skipped"),
        }
    }
    Some(authorities)
}

/// Splits DER sequences that stand one after the other, without looking into them.
fn split(mut der: &[u8]) -> Option<Vec<&[u8]>> {
    let mut parts = Vec::new();
    while !der.is_empty() {
        let (part, rest) = der.split_at_checked(sequence_length(der)?)?;
        parts.push(part);
        der = rest;
        if parts.len() > AUTHORITIES_LIMIT {
            return None;
        }
    }
    Some(parts)
}

/// The length of the DER sequence that `der` starts with, its header included.
fn sequence_length(der: &[u8]) -> Option<usize> {
    let (&[0x30, first], rest) = der.split_first_chunk()? else { return None };
    if first < 0x80 {
        return Some(2 + usize::from(first));
    }
    let count = usize::from(first & 0x7f);
    if !(1..=4).contains(&count) {
        return None;
    }
    let length = rest.get(..count)?.iter().fold(0, |length, &byte| length * 256 + usize::from(byte));
    length.checked_add(2 + count)
}

#[cfg(test)]
mod tests;
