//! What is told while nobody can sign handshakes: a warning for each reason, and the end.
//!
//! A stranger who asks for more signatures than the plugin gives in a second brings both about again and again, so whoever tells
//! them has a brake.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Debug, Default)]
pub(super) struct Shortage {
    /// The reason that was told last.
    told: Mutex<Option<String>>,
    /// Whether there is one: all that a good handshake looks at.
    is_told: AtomicBool,
}

impl Shortage {
    /// What `brake` says when a line about this reason is news: `Some` when it may be written, with how many were held back.
    pub(super) fn because_of(&self, reason: &str, brake: impl FnOnce() -> Option<u64>) -> Option<u64> {
        let mut told = crate::lock(&self.told);
        if told.as_deref() == Some(reason) {
            return None;
        }
        let suppressed = brake()?;
        *told = Some(reason.into());
        self.is_told.store(true, Ordering::Relaxed);
        Some(suppressed)
    }

    /// A handshake was signed; true when that is news.
    pub(super) fn over(&self) -> bool {
        let was_told = self.is_told.swap(false, Ordering::Relaxed);
        if was_told {
            *crate::lock(&self.told) = None;
        }
        was_told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_reason_is_told_and_the_same_one_only_after_the_end() {
        let shortage = Shortage::default();
        let is_told = |reason| shortage.because_of(reason, || Some(0)).is_some();
        assert!(is_told("no plugin is linked"));
        assert!(!is_told("no plugin is linked"));
        assert!(is_told("the lent certificate has expired"));
        assert!(shortage.over() && !shortage.over());
        assert!(is_told("the lent certificate has expired"));
    }

    #[test]
    fn what_the_brake_holds_back_is_told_later() {
        let shortage = Shortage::default();
        assert_eq!(shortage.because_of("one", || Some(0)), Some(0));
        assert_eq!(shortage.because_of("two", || None), None);
        assert_eq!(shortage.because_of("two", || Some(1)), Some(1));
    }
}
