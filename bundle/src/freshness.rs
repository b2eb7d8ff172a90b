//! What an offered bundle means to someone already holding one.
//!
//! Only decides; whether a stale bundle is taken all the same is the operator's word, and is spoken elsewhere.

use crate::Bundle;

/// The verdict on an offered bundle (FED 4.2, TDB 4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Newer, or no sequence numbers to compare and other contents: take it.
    Advance,
    /// Same sequence number, other authorities: keep the held one, loudly.
    Conflict {
        /// The number both carry.
        sequence_number: u64,
    },
    /// Nothing that matters changed.
    Same,
    /// A lower sequence number: keep the held one.
    Stale {
        /// Held number.
        held: u64,
        /// Offered number.
        offered: u64,
    },
}

/// Compares. `None` held means anything is an advance.
///
/// A number on one side only cannot be compared (SPIRE's own fetcher throws it away), so contents decide. With equal contents one
/// that is missing in the held bundle advances: until it is there, what is older passes for new. A changed refresh hint advances
/// but never conflicts: it is the publisher's setting, which SPIRE changes without counting.
pub fn compare(held: Option<&Bundle>, offered: &Bundle) -> Freshness {
    let Some(held) = held else {
        return Freshness::Advance;
    };
    let same_authorities = held.same_authorities(offered);
    match (held.sequence_number(), offered.sequence_number()) {
        (Some(held), Some(offered)) if offered < held => return Freshness::Stale { held, offered },
        (Some(held), Some(offered)) if offered > held => return Freshness::Advance,
        (Some(sequence_number), Some(_)) if !same_authorities => {
            return Freshness::Conflict { sequence_number };
        }
        _ => {}
    }
    // Not 0: SPIRE's record cannot tell it from none, so it would be taken for ever.
    let gives_number =
        held.sequence_number().is_none() && offered.sequence_number().is_some_and(|number| number > 0);
    if same_authorities && held.refresh_hint() == offered.refresh_hint() && !gives_number {
        Freshness::Same
    } else {
        Freshness::Advance
    }
}

/// The held sequence number that is lost when `offered`, which has none, takes the place of `held`. That is allowed (FED 4.2: the
/// latest retrieval counts), and has to be said loudly: until a numbered bundle comes, nothing shows that an older one came back.
pub fn lost_number(held: Option<&Bundle>, offered: &Bundle) -> Option<u64> {
    let number = held.and_then(Bundle::sequence_number)?;
    (offered.sequence_number().is_none() && compare(held, offered) == Freshness::Advance).then_some(number)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::TestAuthority;

    fn hint(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn a_lower_sequence_number_is_stale_whatever_it_holds() {
        let authority = TestAuthority::new("a.test");
        let held = authority.bundle_with(Some(7), None);
        let offered = authority.bundle_with(Some(6), None);
        assert_eq!(compare(Some(&held), &offered), Freshness::Stale { held: 7, offered: 6 });
    }

    #[test]
    fn an_explicit_zero_is_lower_than_any_held_number() {
        let authority = TestAuthority::new("a.test");
        let held = authority.bundle_with(Some(7), None);
        for offered in [&authority, &TestAuthority::new("a.test")] {
            let offered = offered.bundle_with(Some(0), None);
            assert_eq!(compare(Some(&held), &offered), Freshness::Stale { held: 7, offered: 0 });
            assert_eq!(lost_number(Some(&held), &offered), None);
        }
    }

    #[test]
    fn a_bundle_without_a_number_in_place_of_a_numbered_one_is_taken_and_noticed() {
        let (authority, other) = (TestAuthority::new("a.test"), TestAuthority::new("a.test"));
        let held = authority.bundle_with(Some(7), None);
        let offered = other.bundle_with(None, None);
        assert_eq!(compare(Some(&held), &offered), Freshness::Advance);
        assert_eq!(lost_number(Some(&held), &offered), Some(7));
        // A hint alone costs the number, too.
        assert_eq!(lost_number(Some(&held), &authority.bundle_with(None, hint(60))), Some(7));
        // Nothing is replaced, nothing had a number, or the new one has one.
        assert_eq!(lost_number(Some(&held), &authority.bundle_with(None, None)), None);
        assert_eq!(lost_number(Some(&offered), &authority.bundle_with(None, None)), None);
        assert_eq!(lost_number(Some(&held), &other.bundle_with(Some(8), None)), None);
        assert_eq!(lost_number(None, &offered), None);
    }

    #[test]
    fn the_same_sequence_number_with_other_keys_is_a_conflict() {
        let held = TestAuthority::new("a.test").bundle_with(Some(7), None);
        let offered = TestAuthority::new("a.test").bundle_with(Some(7), None);
        assert_eq!(compare(Some(&held), &offered), Freshness::Conflict { sequence_number: 7 });
    }

    #[test]
    fn a_changed_refresh_hint_alone_is_no_conflict() {
        let authority = TestAuthority::new("a.test");
        let held = authority.bundle_with(Some(7), hint(300));
        let offered = authority.bundle_with(Some(7), hint(60));
        assert_eq!(compare(Some(&held), &offered), Freshness::Advance);
    }

    #[test]
    fn a_higher_sequence_number_advances() {
        let authority = TestAuthority::new("a.test");
        let held = authority.bundle_with(Some(7), None);
        assert_eq!(compare(Some(&held), &authority.bundle_with(Some(8), None)), Freshness::Advance);
        assert_eq!(compare(None, &held), Freshness::Advance);
    }

    #[test]
    fn a_number_that_was_missing_is_taken_with_the_same_keys_so_that_what_is_older_is_stale_again() {
        let authority = TestAuthority::new("a.test");
        let held = authority.bundle_with(None, None);
        let offered = authority.bundle_with(Some(7), None);
        assert_eq!(compare(Some(&held), &offered), Freshness::Advance);
        let older = TestAuthority::new("a.test").bundle_with(Some(5), None);
        assert_eq!(compare(Some(&held), &older), Freshness::Advance, "this is what the number is for");
        assert_eq!(compare(Some(&offered), &older), Freshness::Stale { held: 7, offered: 5 });
    }

    #[test]
    fn without_two_numbers_contents_decide() {
        let (authority, other) = (TestAuthority::new("a.test"), TestAuthority::new("a.test"));
        for (held, offered) in [(None, None), (None, Some(0)), (Some(7), None)] {
            let held = authority.bundle_with(held, None);
            assert_eq!(compare(Some(&held), &authority.bundle_with(offered, None)), Freshness::Same);
            assert_eq!(compare(Some(&held), &other.bundle_with(offered, None)), Freshness::Advance);
        }
    }
}
