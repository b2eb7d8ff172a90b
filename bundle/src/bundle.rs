//! Bundle: the public keys of one trust domain, immutable once made.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rustls_pki_types::UnixTime;
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
    /// Hint 0 becomes `None`; the hint is cut to whole seconds and to [`MAX_REFRESH_HINT`].
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
            sequence_number,
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

    /// `None` when the source gave none. A document can say 0, which is then the lowest number there is; SPIRE's records have 0
    /// where they have none, so whoever reads one makes it `None`.
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

    /// Some X.509 authority has not expired, so that there may be somebody whom this bundle verifies.
    pub fn can_authenticate(&self, now: UnixTime) -> bool {
        self.x509_authorities.iter().any(|authority| !authority.is_expired(now))
    }

    /// The same bundle with another refresh hint (the publisher's own setting).
    #[must_use]
    pub fn with_refresh_hint(mut self, refresh_hint: Option<Duration>) -> Self {
        self.refresh_hint = whole_seconds(refresh_hint);
        self
    }

    /// The same bundle with another sequence number.
    #[must_use]
    pub fn with_sequence_number(mut self, sequence_number: Option<u64>) -> Self {
        self.sequence_number = sequence_number;
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

    /// True when SPIRE's record of one looks like its record of the other: same keys, refresh hint and sequence number, where a
    /// record cannot tell 0 from none.
    pub fn same_record(&self, other: &Self) -> bool {
        self.same_authorities(other)
            && self.refresh_hint == other.refresh_hint
            && self.sequence_number.unwrap_or(0) == other.sequence_number.unwrap_or(0)
    }

    /// SHA-256 over a canonical form of trust domain, authorities, sequence number and refresh hint (not taints: they cannot
    /// be served).
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(b"entente bundle 1\n");
        add(&mut hash, self.trust_domain.as_str().as_bytes());
        hash.update([u8::from(self.sequence_number.is_some())]);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{KeyKind, TestAuthority, TestJwtKey};

    fn bundle(x509: Vec<X509Authority>, jwt: Vec<JwtAuthority>) -> Bundle {
        Bundle::new(TrustDomain::new("a.test").unwrap(), x509, jwt, Some(7), Some(Duration::from_secs(300)))
    }

    fn authority(not_before: i64) -> X509Authority {
        TestAuthority::builder("a.test").with_lifetime(not_before, 3600).build().x509_authority()
    }

    fn key(key_id: &str) -> JwtAuthority {
        TestJwtKey::new(key_id, KeyKind::P256).authority
    }

    #[test]
    fn order_and_repeats_of_the_source_do_not_matter() {
        let (early, late) = (authority(-200), authority(-100));
        let (a, b) = (key("a"), key("b"));
        let one = bundle(vec![early.clone(), late.clone()], vec![a.clone(), b.clone()]);
        let other = bundle(vec![late.clone(), early.clone(), late.clone()], vec![b.clone(), a.clone(), b]);
        assert_eq!(one, other);
        assert_eq!(one.x509_authorities(), [early, late]);
        assert_eq!(one.digest(), other.digest());
    }

    #[test]
    fn of_a_repeated_key_id_the_last_wins_and_a_taint_is_not_lost() {
        let (first, last) = (key("a"), key("a"));
        assert_eq!(bundle(vec![], vec![first, last.clone()]).jwt_authorities(), [last]);
        let plain = authority(-100);
        let tainted = X509Authority::from_der(plain.der(), true).unwrap();
        for order in [vec![plain.clone(), tainted.clone()], vec![tainted, plain]] {
            let held = bundle(order, vec![]);
            assert_eq!(
                held.x509_authorities().iter().map(X509Authority::is_tainted).collect::<Vec<_>>(),
                [true]
            );
        }
    }

    #[test]
    fn a_digest_changes_with_everything_that_is_served_and_with_nothing_else() {
        let (x509, jwt) = (authority(-100), key("a"));
        let base = bundle(vec![x509.clone()], vec![jwt.clone()]);
        let domain = TrustDomain::new("b.test").unwrap();
        let hint = base.refresh_hint();
        let others = [
            Bundle::new(domain, vec![x509.clone()], vec![jwt.clone()], Some(7), hint),
            bundle(vec![authority(-100)], vec![jwt.clone()]),
            bundle(vec![], vec![jwt.clone()]),
            bundle(vec![x509.clone()], vec![]),
            bundle(vec![x509.clone()], vec![key("a")]),
            bundle(vec![x509.clone()], vec![JwtAuthority::from_spki("b", jwt.spki(), None, false).unwrap()]),
            base.clone().with_sequence_number(Some(8)),
            base.clone().with_sequence_number(None),
            base.clone().with_sequence_number(Some(0)),
            base.clone().with_refresh_hint(None),
        ];
        let digests: BTreeSet<_> = others.iter().chain([&base]).map(Bundle::digest).collect();
        assert_eq!(digests.len(), others.len() + 1);
        let tainted = X509Authority::from_der(x509.der(), true).unwrap();
        let ending = JwtAuthority::from_spki("a", jwt.spki(), Some(99), true).unwrap();
        let marked = bundle(vec![tainted], vec![ending]);
        assert_eq!(marked.digest(), base.digest());
        assert!(marked.same_authorities(&base));
    }

    #[test]
    fn same_authorities_means_the_same_keys_and_nothing_more() {
        let (x509, jwt) = (authority(-100), key("a"));
        let base = bundle(vec![x509.clone()], vec![jwt.clone()]);
        assert!(base.same_authorities(&base.clone().with_sequence_number(None).with_refresh_hint(None)));
        assert!(!base.same_authorities(&bundle(vec![x509.clone()], vec![])));
        assert!(!base.same_authorities(&bundle(vec![], vec![jwt.clone()])));
        assert!(!base.same_authorities(&bundle(vec![x509], vec![key("a")])));
        assert!(!base.same_authorities(&bundle(vec![authority(-100)], vec![jwt])));
    }

    #[test]
    fn only_the_loss_of_every_held_x509_authority_drops_everything() {
        let (one, two) = (authority(-200), authority(-100));
        let held = bundle(vec![one.clone(), two.clone()], vec![]);
        assert!(bundle(vec![], vec![key("a")]).drops_every_authority_of(&held));
        assert!(bundle(vec![authority(-50)], vec![]).drops_every_authority_of(&held));
        assert!(!bundle(vec![two, authority(-50)], vec![]).drops_every_authority_of(&held));
        assert!(!bundle(vec![], vec![]).drops_every_authority_of(&bundle(vec![], vec![key("a")])));
    }

    #[test]
    fn a_record_cannot_tell_the_number_zero_from_none() {
        let base = bundle(vec![authority(-100)], vec![key("a")]);
        let numbered = |number| base.clone().with_sequence_number(number);
        assert!(numbered(None).same_record(&numbered(Some(0))));
        assert!(!numbered(None).same_record(&base));
        assert!(!base.same_record(&base.clone().with_refresh_hint(None)));
        assert!(!numbered(None).same_record(&bundle(vec![], vec![]).with_sequence_number(None)));
    }

    #[test]
    fn a_hint_is_whole_seconds() {
        let empty = bundle(vec![], vec![]);
        let hint = |hint| empty.clone().with_refresh_hint(Some(hint)).refresh_hint();
        assert_eq!(hint(Duration::from_millis(999)), None);
        assert_eq!(hint(Duration::from_millis(1999)), Some(Duration::from_secs(1)));
        assert_eq!(hint(Duration::MAX), Some(MAX_REFRESH_HINT));
    }

    #[test]
    fn the_soonest_expiry_looks_at_every_kind_of_authority() {
        let x509 = authority(-100);
        let not_after = x509.not_after();
        let ending = |at| JwtAuthority::from_spki("k", key("k").spki(), at, false).unwrap();
        assert_eq!(bundle(vec![], vec![ending(None)]).soonest_expiry(), None);
        assert_eq!(bundle(vec![x509.clone()], vec![ending(None)]).soonest_expiry(), Some(not_after));
        assert_eq!(bundle(vec![x509], vec![ending(Some(5))]).soonest_expiry(), Some(5));
    }
}
