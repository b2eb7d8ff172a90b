//! Why one relationship is not healthy, in words for an operator: what plugins find wrong, then what we see ourselves and that does
//! not explain.

use entente_bundle::Bundle;
use rustls_pki_types::UnixTime;

use crate::federation::table::RelationshipState;
use crate::link::{Offer, Outcome, Troubles};

/// An offer that the plugin has not answered is no trouble for so long.
const OFFER_PATIENCE_SECONDS: u64 = 30;

/// `None` where all is well. `told` is what plugins find wrong.
pub(super) fn of(
    state: &RelationshipState,
    held: Option<&Bundle>,
    told: Troubles,
    now: UnixTime,
) -> Option<String> {
    let own = own(state, held, &told, now);
    let of_held = held.and_then(|held| held_trouble(held, now)).map(str::to_owned);
    let all: Vec<_> = [told.keeping, told.authentication, own, of_held].into_iter().flatten().collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// What keeps the newest bundle from being held, as far as we see and `told` does not explain.
fn own(state: &RelationshipState, held: Option<&Bundle>, told: &Troubles, now: UnixTime) -> Option<String> {
    if let Some(failure) = &state.failure {
        return Some(format!("fetch failed: {}", failure.detail));
    }
    if state.last_success.is_none() {
        return told.authentication.is_none().then(|| "not fetched yet".into());
    }
    let is_unkept = told.keeping.is_some();
    let offer = state.offer.as_ref().filter(|offer| !is_unkept || is_refused(offer));
    if let Some(trouble) = offer.and_then(|offer| offer_trouble(offer, now)) {
        return Some(trouble);
    }
    (held.is_none() && !is_unkept).then(|| "SPIRE holds no bundle yet".into())
}

/// With a bundle like that nobody of its trust domain is believed, whatever else is wrong and whoever keeps it.
fn held_trouble(held: &Bundle, now: UnixTime) -> Option<&'static str> {
    if held.is_empty() {
        return Some("the held bundle is empty: every SVID of this trust domain is revoked");
    }
    let authorities = held.x509_authorities();
    let is_expired = !authorities.is_empty() && authorities.iter().all(|authority| authority.is_expired(now));
    is_expired.then_some("every x.509 authority of the held bundle has expired")
}

/// The plugin's own word on the bundle. That SPIRE did not take one, or takes long, has the same cause as that nothing keeps it.
fn is_refused(offer: &Offer) -> bool {
    matches!(&*offer.outcome().borrow(), Outcome::Refused { .. })
}

fn offer_trouble(offer: &Offer, now: UnixTime) -> Option<String> {
    match &*offer.outcome().borrow() {
        Outcome::Refused { reason } => Some(format!("the plugin refused the bundle: {reason}")),
        Outcome::Failed { reason } => Some(format!("SPIRE did not take the bundle: {reason}")),
        Outcome::Pending if now.as_secs().saturating_sub(offer.since) > OFFER_PATIENCE_SECONDS => {
            Some("the plugin has not answered the offered bundle".into())
        }
        Outcome::Pending | Outcome::Set | Outcome::Unchanged => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use entente_bundle::TrustDomain;
    use entente_bundle::testing::TestAuthority;

    use super::*;
    use crate::federation::relationship::{EndpointProfile, FederationRelationship, Mode};
    use crate::link::OfferTable;

    const REVOKED: &str = "the held bundle is empty: every SVID of this trust domain is revoked";
    const EXPIRED: &str = "every x.509 authority of the held bundle has expired";

    fn domain() -> TrustDomain {
        TrustDomain::new("b.test").unwrap()
    }

    fn empty() -> Bundle {
        Bundle::new(domain(), vec![], vec![], Some(1), None)
    }

    fn expired() -> Bundle {
        TestAuthority::builder("b.test").expired().build().bundle()
    }

    /// Of a relationship that was fetched.
    fn fetched() -> RelationshipState {
        let relationship = FederationRelationship {
            trust_domain: domain(),
            bundle_endpoint_url: "https://b.test/".into(),
            profile: EndpointProfile::HttpsWeb { ca_certificates: None },
            mode: Mode::Assisted,
            follow_redirects: false,
        };
        let mut state = RelationshipState::new(&Arc::new(relationship));
        state.last_success = Some(1);
        state
    }

    fn keeping() -> Troubles {
        Troubles { keeping: Some("not said yet".into()), ..Troubles::default() }
    }

    fn authentication() -> Troubles {
        Troubles { authentication: Some("no file".into()), ..Troubles::default() }
    }

    fn says(state: &RelationshipState, held: Option<&Bundle>, told: Troubles) -> String {
        of(state, held, told, crate::time::unix_now()).unwrap_or_default()
    }

    #[test]
    fn an_empty_or_expired_held_bundle_is_told_whatever_else_is_wrong() {
        for (held, text) in [(empty(), REVOKED), (expired(), EXPIRED)] {
            let held = Some(&held);
            assert_eq!(says(&fetched(), held, Troubles::default()), text);
            assert_eq!(says(&fetched(), held, keeping()), format!("not said yet; {text}"));
            assert_eq!(says(&fetched(), held, authentication()), format!("no file; {text}"));
            let state = RelationshipState { last_success: None, ..fetched() };
            assert_eq!(says(&state, held, Troubles::default()), format!("not fetched yet; {text}"));
        }
        let held = TestAuthority::new("b.test").bundle();
        assert_eq!(says(&fetched(), Some(&held), Troubles::default()), "");
    }

    #[test]
    fn what_the_plugin_tells_stands_for_what_it_explains_and_for_nothing_else() {
        let none = Troubles::default;
        assert_eq!(says(&fetched(), None, none()), "SPIRE holds no bundle yet");
        assert_eq!(says(&fetched(), None, keeping()), "not said yet");
        assert_eq!(says(&fetched(), None, authentication()), "no file; SPIRE holds no bundle yet");
        let young = RelationshipState { last_success: None, ..fetched() };
        assert_eq!(says(&young, None, authentication()), "no file");
        assert_eq!(says(&young, None, keeping()), "not said yet; not fetched yet");

        let offers = OfferTable::new();
        let offer = offers.put(Arc::new(empty()), "https://b.test/");
        let state = RelationshipState { offer: Some(Arc::clone(&offer)), ..fetched() };
        offers.record(&domain(), offer.id, Outcome::Failed { reason: "away".into() });
        assert_eq!(says(&state, None, keeping()), "not said yet");
        let failed = "SPIRE did not take the bundle: away";
        assert_eq!(says(&state, None, authentication()), format!("no file; {failed}"));
        offers.record(&domain(), offer.id, Outcome::Refused { reason: "old".into() });
        let refused = "the plugin refused the bundle: old";
        assert_eq!(says(&state, None, keeping()), format!("not said yet; {refused}"));
    }

    #[test]
    fn an_offer_without_an_answer_is_trouble_after_a_while_however_often_is_fetched() {
        let offers = OfferTable::new();
        let offer = offers.put(Arc::new(empty()), "https://b.test/");
        let later = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(offer.since + seconds));
        assert_eq!(offer_trouble(&offer, later(OFFER_PATIENCE_SECONDS)), None);
        assert!(offer_trouble(&offer, later(OFFER_PATIENCE_SECONDS + 1)).is_some());
        offers.record(&domain(), offer.id, Outcome::Set);
        assert_eq!(offer_trouble(&offer, later(OFFER_PATIENCE_SECONDS + 1)), None);
    }
}
