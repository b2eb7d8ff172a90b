//! The own trust domain's bundle: two sources tell it, one watch hands it on.
//!
//! The publish call (or event) pushes; the reply of IdentityProvider carries the bundle too, and is there within a second of
//! the start, when the first push may be 30 seconds away. Nothing here waits for anybody.

use std::sync::{Arc, Mutex, PoisonError};

use entente_bundle::causes::chain;
use entente_bundle::{Bundle, TrustDomain};
use entente_proto::convert::{BundleMessage, ConvertError, ElementError, UsableBundle};
use entente_proto::spire::plugin::types;
use tokio::sync::watch;
use tracing::{debug, error, info};

use crate::handshake::Role;
use crate::repeats::Repeats;

/// Who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The bundle beside the identity: a fresh read of SPIRE's datastore, polled.
    IdentityProvider,
    /// A Notifier's event: it may be older than what is in the datastore by now.
    Notify,
    /// A BundlePublisher's call: a fresh read of SPIRE's datastore.
    PublishBundle,
}

/// What became of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Changed,
    /// Older than what is published, so far as can be told.
    Older,
    Unchanged,
}

/// Why a bundle of SPIRE's own cannot be published.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OwnBundleError {
    #[error("the bundle is of trust domain {presented}, expected {expected}")]
    Foreign { expected: TrustDomain, presented: TrustDomain },
    #[error("the request holds no bundle")]
    Missing,
    #[error(transparent)]
    Name(#[from] ConvertError),
    #[error("none of the {count} authorities can be used; the first refusal: {first}")]
    Unusable { count: usize, first: String },
}

/// The newest own bundle.
#[derive(Debug)]
pub(crate) struct OwnBundle {
    role: Role,
    current: watch::Sender<Option<Arc<Bundle>>>,
    memory: Mutex<Memory>,
    /// SPIRE repeats each bundle every few seconds, and what is wrong with it too.
    told: Mutex<Repeats>,
}

/// What earlier messages leave behind.
#[derive(Debug, Default)]
struct Memory {
    /// A bundle that contradicts a newer one; believed when it is told again.
    doubted: Option<Bundle>,
    /// The next bundle counts as a change whatever it holds.
    forgotten: bool,
}

impl OwnBundle {
    pub(crate) fn new(role: Role) -> Self {
        Self { role, current: watch::Sender::new(None), memory: Mutex::default(), told: Mutex::default() }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Arc<Bundle>>> {
        self.current.subscribe()
    }

    /// Waits until there is one.
    pub(crate) async fn known(&self) {
        // Cannot fail: the sender is ours.
        let _ = self.current.subscribe().wait_for(Option::is_some).await;
    }

    pub(crate) fn current(&self) -> Option<Arc<Bundle>> {
        self.current.borrow().clone()
    }

    /// After a reconfiguration the next bundle is handed on even if it is the same. What is published stays published.
    pub(crate) fn forget(&self) {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        *memory = Memory { doubted: None, forgotten: true };
    }

    /// Checks a message and hands it on if it tells anything new.
    pub(crate) fn take(
        &self,
        source: Source,
        message: Option<&types::Bundle>,
        own: &TrustDomain,
    ) -> Result<Taken, OwnBundleError> {
        let (bundle, refused) = usable(message.ok_or(OwnBundleError::Missing)?, own)?;
        self.tell_refused(&refused);
        let taken = self.compare_and_set(source, bundle);
        // The poll repeats itself every few seconds; that is no news at any level.
        if taken == Taken::Unchanged && source != Source::IdentityProvider {
            debug!(source = ?source, "own bundle unchanged");
        }
        Ok(taken)
    }

    fn tell_refused(&self, refused: &[ElementError]) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match refused.first().map(|first| chain(first)) {
            None => told.over("authorities"),
            Some(first) if told.is_new("authorities", &first) => {
                error!(first, refused = refused.len(), "own bundle has authorities that cannot be published");
            }
            Some(_) => {}
        }
    }

    fn compare_and_set(&self, source: Source, bundle: Bundle) -> Taken {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = Taken::Unchanged;
        self.current.send_if_modified(|current| {
            taken = match current.as_deref() {
                Some(held) if *held == bundle && !memory.forgotten => Taken::Unchanged,
                Some(held) if self.is_doubtful(source, held, &bundle, memory.doubted.as_ref()) => {
                    Taken::Older
                }
                _ => Taken::Changed,
            };
            if taken == Taken::Changed && current.as_deref() == Some(&bundle) {
                debug!(source = ?source, "own bundle is handed on again");
            } else if taken == Taken::Changed {
                info!(
                    trust_domain = %bundle.trust_domain(),
                    sequence_number = bundle.sequence_number().unwrap_or(0),
                    x509_authorities = bundle.x509_authorities().len(),
                    jwt_authorities = bundle.jwt_authorities().len(),
                    source = ?source,
                    "own bundle changed"
                );
            }
            if taken == Taken::Changed {
                *current = Some(Arc::new(bundle.clone()));
            }
            taken == Taken::Changed
        });
        memory.forgotten &= taken != Taken::Changed;
        if taken == Taken::Older {
            memory.doubted = Some(bundle);
        } else if source == Source::IdentityProvider {
            memory.doubted = None;
        }
        taken
    }

    /// Reads race with pushes, and an older one must not put revoked keys back. What the next read repeats is believed: a
    /// datastore may have been restored from a backup.
    fn is_doubtful(&self, source: Source, held: &Bundle, offered: &Bundle, doubted: Option<&Bundle>) -> bool {
        let (held_number, number) = (held.sequence_number(), offered.sequence_number());
        let is_newer = number > held_number || held == offered;
        let is_repeated = doubted == Some(offered);
        match (self.role, source) {
            (Role::Notifier, Source::IdentityProvider) => false,
            (_, Source::Notify) => !is_newer,
            (_, Source::PublishBundle) => number < held_number && !is_repeated,
            (Role::Publisher, Source::IdentityProvider) => !is_newer && !is_repeated,
        }
    }
}

/// One authority that cannot be used must not keep the others from being published. None left is no revocation, though.
fn usable(message: &types::Bundle, own: &TrustDomain) -> Result<(Bundle, Vec<ElementError>), OwnBundleError> {
    let UsableBundle { bundle, refused } = BundleMessage::from(message).into_usable()?;
    if bundle.trust_domain() != own {
        return Err(OwnBundleError::Foreign {
            expected: own.clone(),
            presented: bundle.trust_domain().clone(),
        });
    }
    let is_lost = bundle.x509_authorities().is_empty() && !message.x509_authorities.is_empty();
    match refused.first() {
        Some(first) if bundle.is_empty() || is_lost => {
            let count = message.x509_authorities.len() + message.jwt_authorities.len();
            Err(OwnBundleError::Unusable { count, first: chain(first) })
        }
        _ => Ok((bundle, refused)),
    }
}

#[cfg(test)]
mod tests {
    use entente_bundle::testing::TestAuthority;

    use super::*;

    fn own() -> TrustDomain {
        TrustDomain::new("own.test").unwrap()
    }

    fn message(authority: &TestAuthority, sequence_number: u64) -> types::Bundle {
        types::Bundle::from(&authority.bundle_with(Some(sequence_number), None))
    }

    #[test]
    fn what_is_no_bundle_of_our_own_is_refused_and_changes_nothing() {
        let bundle = OwnBundle::new(Role::Publisher);
        let take = |message: Option<&types::Bundle>| bundle.take(Source::PublishBundle, message, &own());
        assert_eq!(take(None), Err(OwnBundleError::Missing));
        let foreign = message(&TestAuthority::new("foreign.test"), 1);
        assert!(matches!(take(Some(&foreign)), Err(OwnBundleError::Foreign { .. })));
        let mut broken = message(&TestAuthority::new("own.test"), 1);
        broken.x509_authorities[0].asn1.truncate(20);
        assert!(matches!(take(Some(&broken)), Err(OwnBundleError::Unusable { count: 1, .. })));
        broken.trust_domain = "Own Test".into();
        assert!(matches!(take(Some(&broken)), Err(OwnBundleError::Name(_))));
        assert_eq!(bundle.current(), None);
    }

    #[test]
    fn one_bad_authority_does_not_hide_the_good_ones() {
        let bundle = OwnBundle::new(Role::Publisher);
        let mut mixed = message(&TestAuthority::new("own.test"), 1);
        mixed.x509_authorities.push(types::X509Certificate { asn1: vec![0x30], tainted: false });
        assert_eq!(bundle.take(Source::PublishBundle, Some(&mixed), &own()), Ok(Taken::Changed));
        assert_eq!(bundle.current().unwrap().x509_authorities().len(), 1);
    }

    #[test]
    fn repeats_are_recognised() {
        let (bundle, authority) = (OwnBundle::new(Role::Publisher), TestAuthority::new("own.test"));
        let mut watch = bundle.subscribe();
        let first = message(&authority, 1);
        assert_eq!(bundle.take(Source::PublishBundle, Some(&first), &own()), Ok(Taken::Changed));
        assert!(watch.has_changed().unwrap());
        watch.mark_unchanged();
        for source in [Source::PublishBundle, Source::IdentityProvider, Source::Notify] {
            assert_eq!(bundle.take(source, Some(&first), &own()), Ok(Taken::Unchanged));
        }
        assert!(!watch.has_changed().unwrap());
    }

    #[test]
    fn after_a_reconfiguration_the_same_bundle_is_handed_on_again_once() {
        let (bundle, authority) = (OwnBundle::new(Role::Publisher), TestAuthority::new("own.test"));
        let first = message(&authority, 1);
        bundle.take(Source::PublishBundle, Some(&first), &own()).unwrap();
        bundle.forget();
        assert!(bundle.current().is_some(), "what is published stays");
        assert_eq!(bundle.take(Source::PublishBundle, Some(&first), &own()), Ok(Taken::Changed));
        assert_eq!(bundle.take(Source::PublishBundle, Some(&first), &own()), Ok(Taken::Unchanged));
    }

    #[test]
    fn for_a_publisher_an_older_read_is_believed_only_when_it_repeats() {
        let (bundle, old, new) =
            (OwnBundle::new(Role::Publisher), TestAuthority::new("own.test"), TestAuthority::new("own.test"));
        bundle.take(Source::PublishBundle, Some(&message(&new, 7)), &own()).unwrap();
        let identity = |message: &types::Bundle| bundle.take(Source::IdentityProvider, Some(message), &own());
        assert_eq!(identity(&message(&old, 6)), Ok(Taken::Older));
        assert_eq!(identity(&message(&new, 7)), Ok(Taken::Unchanged));
        assert_eq!(identity(&message(&old, 6)), Ok(Taken::Older));
        assert_eq!(identity(&message(&old, 6)), Ok(Taken::Changed));
        assert_eq!(identity(&message(&new, 8)), Ok(Taken::Changed));
        assert_eq!(bundle.current().unwrap().sequence_number(), Some(8));
    }

    #[test]
    fn for_a_notifier_the_datastore_is_the_authority_and_events_only_go_forward() {
        let (bundle, authority, other) =
            (OwnBundle::new(Role::Notifier), TestAuthority::new("own.test"), TestAuthority::new("own.test"));
        let take = |source, message: &types::Bundle| bundle.take(source, Some(message), &own());
        assert_eq!(take(Source::Notify, &message(&authority, 3)), Ok(Taken::Changed));
        assert_eq!(take(Source::Notify, &message(&other, 3)), Ok(Taken::Older));
        assert_eq!(take(Source::IdentityProvider, &message(&other, 2)), Ok(Taken::Changed));
        assert_eq!(take(Source::Notify, &message(&authority, 3)), Ok(Taken::Changed));
    }

    #[test]
    fn a_call_that_was_overtaken_does_not_put_old_keys_back() {
        let (bundle, authority) = (OwnBundle::new(Role::Publisher), TestAuthority::new("own.test"));
        let take = |source, number| bundle.take(source, Some(&message(&authority, number)), &own());
        take(Source::PublishBundle, 9).unwrap();
        assert_eq!(take(Source::PublishBundle, 8), Ok(Taken::Older));
        assert_eq!(take(Source::IdentityProvider, 9), Ok(Taken::Unchanged));
        assert_eq!(take(Source::PublishBundle, 8), Ok(Taken::Older));
        assert_eq!(bundle.current().unwrap().sequence_number(), Some(9));
    }

    #[test]
    fn a_datastore_that_went_back_is_believed_when_it_is_read_again() {
        let (bundle, authority) = (OwnBundle::new(Role::Publisher), TestAuthority::new("own.test"));
        let take = |source, number| bundle.take(source, Some(&message(&authority, number)), &own());
        take(Source::PublishBundle, 9).unwrap();
        assert_eq!(take(Source::PublishBundle, 0), Ok(Taken::Older));
        assert_eq!(take(Source::IdentityProvider, 0), Ok(Taken::Changed));
    }
}
