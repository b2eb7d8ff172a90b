//! Tells a new case from one that was told already, so that the log holds the first and the recovery only.

use std::collections::BTreeMap;

/// Most subjects that are remembered; where outsiders choose them, the memory must not grow with their imagination.
const MAX_SUBJECTS: usize = 20_000;

/// The last case per subject.
#[derive(Debug, Default)]
pub(crate) struct Repeats(BTreeMap<String, String>);

impl Repeats {
    /// True when `case` is what was last told of `subject`.
    pub(crate) fn is_repeat(&self, subject: &str, case: &str) -> bool {
        self.0.get(subject).is_some_and(|last| last == case)
    }

    /// True when `case` is not what was last told of `subject`; from now on it is.
    pub(crate) fn is_new(&mut self, subject: &str, case: &str) -> bool {
        if self.is_repeat(subject, case) {
            return false;
        }
        if self.0.len() >= MAX_SUBJECTS {
            self.0.clear();
        }
        self.0.insert(subject.to_owned(), case.to_owned());
        true
    }

    /// The subject is well again.
    pub(crate) fn over(&mut self, subject: &str) {
        self.0.remove(subject);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_new_once_until_it_changes_or_is_over() {
        let mut repeats = Repeats::default();
        assert!(repeats.is_new("a", "1"));
        assert!(!repeats.is_new("a", "1"));
        assert!(repeats.is_new("b", "1"));
        assert!(repeats.is_new("a", "2"));
        repeats.over("a");
        assert!(repeats.is_new("a", "2"));
    }
}
