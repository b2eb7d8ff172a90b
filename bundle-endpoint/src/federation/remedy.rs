//! What a refused endpoint was verified against, and how to replace that: the refusal alone leads nobody out of a bundle that is
//! too old to know the endpoint's authority.

use entente_bundle::{SvidError, TrustDomain};
use rustls_pki_types::UnixTime;

use super::error::FetchError;
use super::relationship::Mode;
use crate::link::Held;

/// Where the bundle came from that authenticates an endpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Against<'a> {
    /// A file of the operator's: the `bootstrap_bundle`, or the one on the command line.
    File(&'a str),
    /// SPIRE's record of it.
    Held {
        /// Its number, if it has one.
        sequence_number: Option<u64>,
    },
    /// The last one with X.509 authorities that SPIRE held.
    LastUsable,
}

impl<'a> Against<'a> {
    /// As plugins told it.
    pub(crate) fn of(held: &'a Held, now: UnixTime) -> Option<Self> {
        let beside = held.authentication_bundle.as_ref().filter(|_| !held.is_usable(now));
        match (beside, &held.authentication_file, &held.bundle) {
            (Some(_), Some(file), _) => Some(Self::File(file)),
            (Some(_), None, _) => Some(Self::LastUsable),
            (None, _, Some(bundle)) => Some(Self::Held { sequence_number: bundle.sequence_number() }),
            (None, _, None) => None,
        }
    }
}

/// Follows the text of `error` where a newer bundle of `trust_domain` would help; else empty.
pub(crate) fn told(
    error: &FetchError,
    own: Option<&TrustDomain>,
    trust_domain: &TrustDomain,
    against: Against<'_>,
) -> String {
    let FetchError::Svid { source, .. } = error else { return String::new() };
    if !matches!(source, SvidError::UnknownIssuer { .. } | SvidError::NoValidAuthority { .. }) {
        return String::new();
    }
    // SPIRE lets nobody set that.
    if own == Some(trust_domain) {
        return "; it was verified against our own bundle".into();
    }
    let set = format!("set its current one with {}", set_command(trust_domain));
    match against {
        Against::File(file) => format!(
            "; it was verified against {file}: if {trust_domain} has other authorities by now, put there what \
             `spire-server bundle show -format spiffe` prints on its side"
        ),
        Against::Held { sequence_number } => {
            let number =
                sequence_number.map(|number| format!(" (sequence number {number})")).unwrap_or_default();
            format!(
                "; it was verified against the bundle of {trust_domain} that SPIRE holds{number}: if its \
                 authorities were replaced meanwhile, {set}"
            )
        }
        Against::LastUsable => format!(
            "; it was verified against the last bundle of {trust_domain} with X.509 authorities that SPIRE \
             held: {set}"
        ),
    }
}

/// Follows the text of a fetch for which nothing was held of `trust_domain`.
pub(crate) fn nothing_held(own: &TrustDomain, trust_domain: &TrustDomain, mode: Mode, held: &Held) -> String {
    // The plugin tells its own bundle by itself; and a bundle that nothing would keep is not worth setting.
    if own == trust_domain || held.troubles.keeping.is_some() {
        return String::new();
    }
    let set = set_command(trust_domain);
    match mode {
        Mode::Assisted => format!(
            "; SPIRE needs one to fetch with as well: set it with {set} (a bootstrap_bundle serves the endpoint alone)"
        ),
        Mode::Managed if held.troubles.authentication.is_some() => {
            format!("; mend the bootstrap_bundle, or set one with {set}")
        }
        Mode::Managed => format!("; give it a bootstrap_bundle, or set one with {set}"),
    }
}

fn set_command(trust_domain: &TrustDomain) -> String {
    format!("`spire-server bundle set -id spiffe://{trust_domain} -format spiffe -path FILE`")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use entente_bundle::testing::TestAuthority;

    use super::*;
    use crate::link::Troubles;

    fn refused(source: SvidError) -> FetchError {
        FetchError::Svid { source, hint: None }
    }

    #[test]
    fn an_unknown_issuer_names_what_it_was_verified_against_and_the_way_out() {
        let domain = TrustDomain::new("b.test").unwrap();
        let error = refused(SvidError::UnknownIssuer { presented: domain.spire_server_id() });
        let bundle = Arc::new(TestAuthority::new("b.test").bundle_with(Some(7), None));
        let held = Held { bundle: Some(Arc::clone(&bundle)), ..Held::default() };
        let last = Held { authentication_bundle: Some(bundle), ..Held::default() };
        let file = Held { authentication_file: Some("/run/b.json".into()), ..last.clone() };
        let both = Held { bundle: held.bundle.clone(), ..file.clone() };
        let now = crate::time::unix_now();
        let says = |held: &Held| told(&error, None, &domain, Against::of(held, now).unwrap());
        let set = "`spire-server bundle set -id spiffe://b.test -format spiffe -path FILE`";
        assert!(says(&held).contains("that SPIRE holds (sequence number 7)") && says(&held).contains(set));
        assert!(says(&last).contains("the last bundle of b.test") && says(&last).contains(set));
        assert!(
            says(&file).contains("against /run/b.json") && says(&file).contains("bundle show -format spiffe")
        );
        assert_eq!(says(&both), says(&held), "what can authenticate does");
        assert!(Against::of(&Held::default(), now).is_none());
        let own = told(&error, Some(&domain), &domain, Against::LastUsable);
        assert!(own.contains("our own bundle") && !own.contains("bundle set"));
    }

    #[test]
    fn where_nothing_is_held_the_way_out_is_the_one_of_the_mode() {
        let (own, domain) = (TrustDomain::new("a.test").unwrap(), TrustDomain::new("b.test").unwrap());
        let says = |mode, held: &Held| nothing_held(&own, &domain, mode, held);
        let set = "`spire-server bundle set -id spiffe://b.test -format spiffe -path FILE`";
        let managed = says(Mode::Managed, &Held::default());
        assert!(managed.contains("give it a bootstrap_bundle") && managed.contains(set), "{managed}");
        let broken = Troubles { authentication: Some("x".into()), ..Troubles::default() };
        let broken = Held { troubles: broken, ..Held::default() };
        let broken = says(Mode::Managed, &broken);
        assert!(broken.contains("mend the bootstrap_bundle") && broken.contains(set), "{broken}");
        let assisted = says(Mode::Assisted, &Held::default());
        assert!(!assisted.contains("give it a bootstrap_bundle") && assisted.contains(set), "{assisted}");
        let unkept = Troubles { keeping: Some("x".into()), ..Troubles::default() };
        let unkept = Held { troubles: unkept, ..Held::default() };
        assert_eq!(says(Mode::Assisted, &unkept), "", "the relationship is what is missing");
        assert_eq!(nothing_held(&domain, &domain, Mode::Managed, &Held::default()), "");
    }

    #[test]
    fn where_another_bundle_would_not_help_none_is_asked_for() {
        let domain = TrustDomain::new("b.test").unwrap();
        let error = refused(SvidError::Expired { presented: domain.spire_server_id(), not_after: 0 });
        assert_eq!(told(&error, None, &domain, Against::LastUsable), "");
    }
}
