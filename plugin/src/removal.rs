//! Takes the bundle of a trust domain that is no longer federated with out of SPIRE.
//!
//! A bundle that registration entries still name is left alone, and the entries are named: detaching or deleting them is the
//! operator's decision.

use entente_bundle::TrustDomain;
use entente_proto::spire::api::types::Entry;
use tonic::Code;
use tracing::{debug, info, warn};

use crate::config::UndeclaredBundles;
use crate::hclog::chain;
use crate::relationships::{self, SpireRelationships};
use crate::repeats::Repeats;
use crate::server_api::{ApiError, ServerApi};
use crate::state::{Cause, Shared};

/// Most entries that one log line names.
const NAMED_ENTRIES: usize = 20;

/// Tries each pending removal once.
pub(crate) async fn pass(
    shared: &Shared,
    api: &ServerApi,
    spire: &SpireRelationships,
    repeats: &mut Repeats,
) {
    for (trust_domain, cause) in shared.removals.all() {
        // Read after the removals, and not handed in: a reconfiguration writes the two in the other order.
        let Some(config) = shared.config() else { return };
        let is_wanted = config.federates_with.contains_key(&trust_domain)
            || spire.contains_key(&trust_domain)
            || (cause == Cause::Undeclared && config.undeclared_bundles == UndeclaredBundles::Keep);
        if is_wanted {
            shared.removals.done(&trust_domain);
            repeats.over(&subject(&trust_domain));
            continue;
        }
        if let Some(user) = relationships::authenticated_by(&trust_domain, &config, spire) {
            name_user(&trust_domain, &user, repeats);
            continue;
        }
        // Taken off the list first: a set that lands meanwhile puts it on again, and that must not get lost.
        shared.removals.done(&trust_domain);
        let deleted = api.delete_federated_bundle(&trust_domain).await;
        if deleted.as_ref().is_err_and(|error| error.code() != Some(Code::NotFound)) {
            shared.removals.add(trust_domain.clone(), cause);
        }
        match deleted {
            Ok(()) => removed(shared, &trust_domain, repeats),
            // Only SPIRE's answer to the deletion says that nothing is there: what was read before may be older than a set.
            Err(error) if error.code() == Some(Code::NotFound) => over(shared, &trust_domain, repeats),
            Err(error) if error.code() == Some(Code::FailedPrecondition) => {
                name_entries(api, &trust_domain, repeats).await;
            }
            Err(error) => tell(&trust_domain, &error, repeats),
        }
    }
}

fn subject(trust_domain: &TrustDomain) -> String {
    format!("removal {trust_domain}")
}

fn over(shared: &Shared, trust_domain: &TrustDomain, repeats: &mut Repeats) {
    shared.held.forget(trust_domain);
    repeats.over(&subject(trust_domain));
}

fn removed(shared: &Shared, trust_domain: &TrustDomain, repeats: &mut Repeats) {
    over(shared, trust_domain, repeats);
    info!(%trust_domain, "federated bundle removed");
}

fn tell(trust_domain: &TrustDomain, error: &ApiError, repeats: &mut Repeats) {
    let error = chain(error);
    if repeats.is_new(&subject(trust_domain), &error) {
        warn!(%trust_domain, error, "federated bundle cannot be removed yet");
    }
}

fn name_user(trust_domain: &TrustDomain, user: &TrustDomain, repeats: &mut Repeats) {
    if repeats.is_new(&subject(trust_domain), user.as_str()) {
        warn!(
            %trust_domain,
            used_by = %user,
            way_out = "it is removed by itself when no endpoint_spiffe_id names this trust domain any more",
            "federated bundle is kept because it authenticates the endpoint of another trust domain"
        );
    }
}

async fn name_entries(api: &ServerApi, trust_domain: &TrustDomain, repeats: &mut Repeats) {
    let entries = match api.entries_federating_with(trust_domain).await {
        Ok(entries) => entries,
        Err(error) => return tell(trust_domain, &error, repeats),
    };
    let names: Vec<_> = entries.iter().take(NAMED_ENTRIES).map(name).collect();
    let names = names.join(", ");
    if repeats.is_new(&subject(trust_domain), &names) {
        warn!(
            %trust_domain,
            entries = names,
            count = entries.len(),
            way_out = "take the trust domain out of federatesWith of these entries (spire-server entry update), or delete them; the bundle is then removed by itself",
            "federated bundle is kept because registration entries use it"
        );
    } else {
        debug!(%trust_domain, count = entries.len(), "federated bundle is still used by registration entries");
    }
}

fn name(entry: &Entry) -> String {
    match &entry.spiffe_id {
        Some(id) => format!("{} (spiffe://{}{})", entry.id, id.trust_domain, id.path),
        None => entry.id.clone(),
    }
}
