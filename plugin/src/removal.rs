//! Takes the bundle of a trust domain that is no longer federated with out of SPIRE.
//!
//! A bundle that registration entries still name is left alone, and the entries are named: detaching or deleting them is the
//! operator's decision.

use std::time::Instant;

use entente_bundle::TrustDomain;
use entente_bundle::causes::chain;
use entente_proto::spire::api::types::Entry;
use tonic::Code;
use tracing::{debug, error, info, warn};

use crate::config::UndeclaredBundles;
use crate::pending_removals::{Cause, Pending};
use crate::relationships;
use crate::repeats::Repeats;
use crate::server_api::{ApiError, ServerApi};
use crate::state::Shared;

/// Most entries that one log line names.
const NAMED_ENTRIES: usize = 20;

/// Looks at each pending removal, and tries those that nothing is known to keep.
pub(crate) async fn pass(shared: &Shared, api: &ServerApi, repeats: &mut Repeats) {
    for (trust_domain, pending) in shared.removals.all() {
        let mut one = Removal { shared, trust_domain: &trust_domain, pending: &pending, repeats };
        // Read after the removals, and not handed in: a reconfiguration writes the two in the other order.
        match one.claim() {
            Claim::Unknown => return,
            Claim::Wanted => {
                shared.removals.forget(&trust_domain);
                one.repeats.over(&one.subject());
            }
            Claim::Authenticates(user) => one.used_by_endpoint(&user),
            Claim::None if pending.is_due(Instant::now()) => one.attempt(api).await,
            Claim::None => {}
        }
    }
}

/// Who wants the bundle at this moment, by what is configured and known.
#[derive(Debug)]
enum Claim {
    Unknown,
    /// Somebody federates with the trust domain, or the operator keeps what nobody declared.
    Wanted,
    /// It authenticates the endpoint of this one.
    Authenticates(TrustDomain),
    None,
}

/// One bundle that is to go.
struct Removal<'a> {
    shared: &'a Shared,
    trust_domain: &'a TrustDomain,
    pending: &'a Pending,
    repeats: &'a mut Repeats,
}

impl Removal<'_> {
    fn subject(&self) -> String {
        format!("removal {}", self.trust_domain)
    }

    fn claim(&self) -> Claim {
        let known = self.shared.config().zip(self.shared.spire_relationships.borrow().clone());
        let Some((config, spire)) = known else { return Claim::Unknown };
        let is_kept =
            self.pending.cause == Cause::Undeclared && config.undeclared_bundles == UndeclaredBundles::Keep;
        if is_kept
            || config.federates_with.contains_key(self.trust_domain)
            || spire.contains_key(self.trust_domain)
        {
            return Claim::Wanted;
        }
        relationships::authenticated_by(self.trust_domain, &config, &spire)
            .map_or(Claim::None, Claim::Authenticates)
    }

    /// SPIRE logs an error for each deletion that it refuses, so the entries are looked at before.
    async fn attempt(&mut self, api: &ServerApi) {
        match api.entries_federating_with(self.trust_domain).await {
            Ok(entries) if entries.is_empty() => self.delete(api).await,
            Ok(entries) => self.used_by_entries(&entries),
            // A policy that hides the entries may still allow the deletion.
            Err(error) if matches!(error.code(), Some(Code::PermissionDenied | Code::Unimplemented)) => {
                self.delete(api).await;
            }
            Err(error) => self.refused(&error),
        }
    }

    async fn delete(&mut self, api: &ServerApi) {
        // SPIRE may have taken its time with the entries, and what was true before it is not what counts: the next pass decides.
        if !matches!(self.claim(), Claim::None)
            || !self.shared.removals.is_pending(self.trust_domain, self.pending)
        {
            debug!(trust_domain = %self.trust_domain, "federated bundle is not removed because it is wanted again");
            return;
        }
        match api.delete_federated_bundle(self.trust_domain).await {
            Ok(()) if matches!(self.claim(), Claim::None) => {
                self.over();
                info!(trust_domain = %self.trust_domain, "federated bundle removed");
            }
            Ok(()) => self.too_late(),
            // Only SPIRE's answer to the deletion says that nothing is there: what was read before may be older than a set.
            Err(error) if error.code() == Some(Code::NotFound) => self.over(),
            Err(error) => self.refused(&error),
        }
    }

    /// It was named again while SPIRE deleted. What authenticated its endpoint stays known, so that it can be fetched anew.
    fn too_late(&mut self) {
        let trust_domain = self.trust_domain;
        self.shared.removals.done(trust_domain, self.pending);
        self.shared.held.set(trust_domain, None);
        self.repeats.over(&self.subject());
        error!(
            %trust_domain,
            way_out = format!(
                "it is fetched anew; if it does not come back: spire-server bundle set -id spiffe://{trust_domain} -format spiffe -path FILE"
            ),
            "federated bundle was removed while its trust domain was named again"
        );
    }

    fn over(&mut self) {
        self.shared.removals.done(self.trust_domain, self.pending);
        self.shared.held.forget(self.trust_domain);
        self.repeats.over(&self.subject());
    }

    fn refused(&mut self, error: &ApiError) {
        let (trust_domain, error) = (self.trust_domain, chain(error));
        if self.repeats.is_new(&self.subject(), &error) {
            warn!(%trust_domain, error, "federated bundle cannot be removed yet");
        }
        let because = format!("SPIRE did not remove it: {error}");
        self.shared.removals.refused(trust_domain, because, Instant::now());
    }

    fn used_by_endpoint(&mut self, user: &TrustDomain) {
        let trust_domain = self.trust_domain;
        if self.repeats.is_new(&self.subject(), user.as_str()) {
            warn!(
                %trust_domain,
                used_by = %user,
                way_out = "it is removed by itself when no endpoint_spiffe_id names this trust domain any more",
                "federated bundle is kept because it authenticates the endpoint of another trust domain"
            );
        }
        self.shared
            .removals
            .kept(trust_domain, format!("kept because it authenticates the endpoint of {user}"));
    }

    fn used_by_entries(&mut self, entries: &[Entry]) {
        let (trust_domain, count) = (self.trust_domain, entries.len());
        let names: Vec<_> = entries.iter().take(NAMED_ENTRIES).map(name).collect();
        self.shared.removals.kept(trust_domain, because_of(&names, count));
        let names = names.join(", ");
        if self.repeats.is_new(&self.subject(), &names) {
            warn!(
                %trust_domain,
                entries = names,
                count,
                way_out = "take the trust domain out of federatesWith of these entries (spire-server entry update), or delete them; the bundle is then removed by itself",
                "federated bundle is kept because registration entries use it"
            );
        } else {
            debug!(%trust_domain, count, "federated bundle is still used by registration entries");
        }
    }
}

/// What keeps it, in few words: three names tell an operator where to look.
fn because_of(names: &[String], count: usize) -> String {
    match names {
        [one] => format!("kept because entry {one} uses it"),
        names if names.len() <= 3 => format!("kept because entries {} use it", names.join(", ")),
        names => {
            let first: Vec<_> = names.iter().take(3).map(String::as_str).collect();
            format!("kept because entries {} and {} more use it", first.join(", "), count - first.len())
        }
    }
}

fn name(entry: &Entry) -> String {
    match &entry.spiffe_id {
        Some(id) => format!("{} (spiffe://{}{})", entry.id, id.trust_domain, id.path),
        None => entry.id.clone(),
    }
}
