//! Who of several plugins is believed about what SPIRE holds: one that sees it, not one that repeats what it once saw.
//!
//! Their servers share a datastore, so the newest word of those that see it is right. A plugin that cannot use SPIRE's API says at
//! each connect what it remembers, and nobody can say how old that is.

use std::collections::BTreeMap;

use entente_bundle::TrustDomain;

use super::Held;

/// How well a link's plugin sees what SPIRE holds, worst first. Times are those of the hub's clock of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sight {
    /// It has had trouble with SPIRE's API since it linked.
    Never,
    /// It has not said yet.
    #[default]
    Untold,
    /// It has had trouble since then.
    Until(u64),
    Now,
}

/// What one link said of one trust domain, and when.
#[derive(Debug)]
pub(super) struct Word {
    pub(super) time: u64,
    pub(super) held: Held,
}

/// All words of one link.
pub(super) type Words = BTreeMap<TrustDomain, Word>;

impl Sight {
    /// After the link's next word on SPIRE's API.
    pub(super) fn told(self, has_trouble: bool, now: u64) -> Self {
        match (self, has_trouble) {
            (_, false) => Self::Now,
            (Self::Now, true) => Self::Until(now),
            (Self::Untold, true) => Self::Never,
            (known, true) => known,
        }
    }
}

/// The word that is believed: of those that see best, the newest.
pub(super) fn best<'a>(words: impl Iterator<Item = (Sight, &'a Word)>) -> Option<&'a Word> {
    words.max_by_key(|(sight, word)| (*sight, word.time)).map(|(_, word)| word)
}

/// The word that says what authenticates an endpoint while the held bundle cannot. Each plugin has that from its own memory or file, so
/// none takes back what another one knows.
pub(super) fn beside<'a>(words: impl Iterator<Item = (Sight, &'a Word)> + Clone) -> Option<&'a Word> {
    let sees_any = words.clone().any(|(sight, _)| sight == Sight::Now);
    let knows = |(sight, word): &(Sight, &Word)| {
        (*sight == Sight::Now || !sees_any) && word.held.authentication_bundle.is_some()
    };
    // What SPIRE held once is newer than the file that the operator gave to begin with.
    let worth = |(sight, word): &(Sight, &Word)| (word.held.authentication_file.is_none(), *sight, word.time);
    words.filter(knows).max_by_key(worth).map(|(_, word)| word)
}
