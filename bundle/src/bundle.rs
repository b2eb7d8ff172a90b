//! Bundle: the public keys of one trust domain, immutable once made.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::{JwtAuthority, TrustDomain, X509Authority};

/// Longest refresh hint that is kept; more is an accident or an attack, and overflows elsewhere (SPIRE counts nanoseconds).
pub const MAX_REFRESH_HINT: Duration = Duration::from_secs(366 * 24 * 3600);

/// The trust bundle of exactly one trust domain (TDB 3). Authorities are kept in one stable order, without repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    trust_domain: TrustDomain,
    x509_authorities: Vec<X509Authority>,
    jwt_authorities: Vec<JwtAuthority>,
    sequence_number: Option<u64>,
    refresh_hint: Option<Duration>,
}

impl Bundle {
    /// Sorts (X.509 by notBefore then DER, JWT by key ID) and drops repeats. A repeated JWT key ID: the last wins.
    /// Sequence number 0 and hint 0 become `None`; the hint is cut to whole seconds and to [`MAX_REFRESH_HINT`].
    pub fn new(
        trust_domain: TrustDomain,
        x509_authorities: Vec<X509Authority>,
        jwt_authorities: Vec<JwtAuthority>,
        sequence_number: Option<u64>,
        refresh_hint: Option<Duration>,
    ) -> Self {
        Self {
            trust_domain,
            x509_authorities: sorted_x509(x509_authorities),
            jwt_authorities: sorted_jwt(jwt_authorities),
            sequence_number: sequence_number.filter(|number| *number != 0),
            refresh_hint: whole_seconds(refresh_hint),
        }
    }

    /// Whose bundle it is.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// In stable order.
    pub fn x509_authorities(&self) -> &[X509Authority] {
        &self.x509_authorities
    }

    /// In stable order.
    pub fn jwt_authorities(&self) -> &[JwtAuthority] {
        &self.jwt_authorities
    }

    /// `None` when the source gave none; SPIRE's 0 counts as none (federation.md 10.2).
    pub fn sequence_number(&self) -> Option<u64> {
        self.sequence_number
    }

    /// Whole seconds.
    pub fn refresh_hint(&self) -> Option<Duration> {
        self.refresh_hint
    }

    /// No authority of any kind: every SVID of the trust domain is revoked (TDB 4.1.3).
    pub fn is_empty(&self) -> bool {
        self.x509_authorities.is_empty() && self.jwt_authorities.is_empty()
    }

    /// The same bundle with another refresh hint (the publisher's own setting).
    #[must_use]
    pub fn with_refresh_hint(mut self, refresh_hint: Option<Duration>) -> Self {
        self.refresh_hint = whole_seconds(refresh_hint);
        self
    }

    /// The same bundle with another sequence number; 0 becomes `None`.
    #[must_use]
    pub fn with_sequence_number(mut self, sequence_number: Option<u64>) -> Self {
        self.sequence_number = sequence_number.filter(|number| *number != 0);
        self
    }

    /// The earliest end of any X.509 authority or any JWT authority that names one, Unix seconds.
    pub fn soonest_expiry(&self) -> Option<u64> {
        let x509 = self.x509_authorities.iter().map(X509Authority::not_after);
        x509.chain(self.jwt_authorities.iter().filter_map(JwtAuthority::expires_at)).min()
    }

    /// Same keys, whatever sequence number, hint, taints or expiry say.
    pub fn same_authorities(&self, other: &Self) -> bool {
        let x509 = |bundle: &Self| bundle.x509_authorities.len();
        let jwt = |bundle: &Self| bundle.jwt_authorities.len();
        let same_x509 = |(a, b): (&X509Authority, &X509Authority)| a.der() == b.der();
        let same_jwt =
            |(a, b): (&JwtAuthority, &JwtAuthority)| a.key_id() == b.key_id() && a.spki() == b.spki();
        x509(self) == x509(other)
            && jwt(self) == jwt(other)
            && self.x509_authorities.iter().zip(&other.x509_authorities).all(same_x509)
            && self.jwt_authorities.iter().zip(&other.jwt_authorities).all(same_jwt)
    }

    /// SHA-256 over a canonical form of trust domain, authorities, sequence number and refresh hint (not taints: they cannot
    /// be served).
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(b"entente bundle 1\n");
        add(&mut hash, self.trust_domain.as_str().as_bytes());
        hash.update(self.sequence_number.unwrap_or(0).to_be_bytes());
        hash.update(self.refresh_hint.map_or(0, |hint| hint.as_secs()).to_be_bytes());
        hash.update((self.x509_authorities.len() as u64).to_be_bytes());
        for authority in &self.x509_authorities {
            add(&mut hash, authority.der());
        }
        for authority in &self.jwt_authorities {
            add(&mut hash, authority.key_id().as_bytes());
            add(&mut hash, authority.spki());
        }
        hash.finalize().into()
    }

    /// True when not one held X.509 authority is left in `self` (and `held` had some): a revocation of everything.
    pub fn drops_every_authority_of(&self, held: &Self) -> bool {
        let offered: BTreeSet<&[u8]> = self.x509_authorities.iter().map(|a| a.der().as_ref()).collect();
        let dropped = |authority: &X509Authority| !offered.contains(authority.der().as_ref());
        !held.x509_authorities.is_empty() && held.x509_authorities.iter().all(dropped)
    }
}

fn sorted_x509(mut authorities: Vec<X509Authority>) -> Vec<X509Authority> {
    authorities.sort_by(|a, b| (a.not_before(), a.der().as_ref()).cmp(&(b.not_before(), b.der().as_ref())));
    authorities.dedup_by(|repeated, kept| {
        let same = repeated.der() == kept.der();
        if same && repeated.is_tainted() {
            kept.taint();
        }
        same
    });
    authorities
}

fn sorted_jwt(authorities: Vec<JwtAuthority>) -> Vec<JwtAuthority> {
    let by_id: BTreeMap<String, JwtAuthority> =
        authorities.into_iter().map(|authority| (authority.key_id().to_owned(), authority)).collect();
    by_id.into_values().collect()
}

fn whole_seconds(hint: Option<Duration>) -> Option<Duration> {
    hint.map(|hint| Duration::from_secs(hint.min(MAX_REFRESH_HINT).as_secs())).filter(|hint| !hint.is_zero())
}

// Length first, so that no two different bundles hash the same bytes.
fn add(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_be_bytes());
    hash.update(bytes);
}
