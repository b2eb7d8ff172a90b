//! Looks at what SPIRE Server holds: every few seconds, because others write there too, and at once when asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use entente_bundle::TrustDomain;
use entente_bundle::causes::chain;
use rustls_pki_types::UnixTime;
use tonic::Code;
use tracing::{debug, error, info, warn};

use crate::config::{Config, UndeclaredBundles};
use crate::files;
use crate::keeping;
use crate::outage::Outage;
use crate::pending_removals::Cause;
use crate::relationships::{self, FederationRelationship, SpireRelationships};
use crate::removal;
use crate::repeats::Repeats;
use crate::server_api::{ApiError, ServerApi};
use crate::state::Shared;

/// Between two looks.
const POLL: Duration = Duration::from_secs(5);

/// After a failure; doubled up to [`POLL`].
const FIRST_RETRY: Duration = Duration::from_millis(250);

/// The server answers some seconds after it has started us; until then silence is no news.
const STARTING: Duration = Duration::from_secs(15);

/// Looks until the plugin stops.
pub(crate) async fn run(shared: &Shared) {
    let mut outage = Outage::new(Instant::now() + STARTING);
    let mut repeats = Repeats::default();
    let mut retry = FIRST_RETRY;
    loop {
        let pause = match look(shared, &mut repeats).await {
            Ok(()) => {
                if let Some(lasted) = outage.over(Instant::now()) {
                    info!(lasted_seconds = lasted.as_secs(), "spire server api answers again");
                }
                retry = FIRST_RETRY;
                POLL
            }
            Err(error) => {
                tell_failure(shared, &error, &mut outage);
                let next = (retry * 2).min(POLL);
                std::mem::replace(&mut retry, next)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.look_wanted.notified() => {}
        }
    }
}

/// In the log at a bounded pace; over the link at once, where it makes every relationship unhealthy.
fn tell_failure(shared: &Shared, error: &ApiError, outage: &mut Outage) {
    let Some(config) = shared.config() else { return };
    let (error, server_socket) = (chain(error), config.server_socket.display());
    match outage.failed(Instant::now()) {
        Some(lasts) => {
            warn!(
                %server_socket,
                error,
                lasts_seconds = lasts.as_secs(),
                way_out = "server_socket in the plugin's configuration must be socket_path of server.conf",
                "spire server api cannot be used"
            );
        }
        None => debug!(%server_socket, error, "spire server api cannot be used"),
    }
    tell_link(shared, Some(format!("plugin cannot use SPIRE's API at {server_socket}: {error}")));
}

fn tell_link(shared: &Shared, trouble: Option<String>) {
    let trouble = trouble.map(Arc::from);
    shared.api_trouble.send_if_modified(|known| {
        let is_news = *known != trouble;
        *known = trouble;
        is_news
    });
}

async fn look(shared: &Shared, repeats: &mut Repeats) -> Result<(), ApiError> {
    let Some(config) = shared.config() else { return Ok(()) };
    let api = shared.connections.api(&config.server_socket, &config.trust_domain);
    api.require_own().await?;
    let generation = shared.held.generation();
    let bundles = api.federated_bundles().await?;
    let spire = list_relationships(shared, &api, repeats).await?;
    tell_conflicts(&config, &spire, repeats);
    shared.spire_relationships.send_if_modified(|known| {
        let is_changed = known.as_deref() != Some(&spire);
        if is_changed {
            *known = Some(Arc::new(spire.clone()));
        }
        is_changed
    });
    let relationships = relationships::all(&config, &spire);
    keeping::look(shared, &api, relationships.values(), &spire);
    shared.held.replace_all(generation, &bundles);
    // Only now, because the files are wanted for what SPIRE does not hold.
    read_bootstraps(shared, &relationships, repeats);
    tell_link(shared, None);
    let endpoints = relationships.values().filter_map(FederationRelationship::endpoint_trust_domain);
    let named = relationships.keys().chain(spire.keys()).chain(endpoints).collect();
    shared.held.forget_all_but(&named);
    undeclared(shared, &config, &named, repeats);
    removal::pass(shared, &api, repeats).await;
    Ok(())
}

/// A server whose policy hides its relationships from the start is one without any, as far as we can know. One that listed some
/// before still has them: forgetting those would make us a second writer.
async fn list_relationships(
    shared: &Shared,
    api: &ServerApi,
    repeats: &mut Repeats,
) -> Result<SpireRelationships, ApiError> {
    let listed = match api.federation_relationships().await {
        Err(error) if matches!(error.code(), Some(Code::PermissionDenied | Code::Unimplemented)) => {
            if repeats.is_new("relationships", "hidden") {
                warn!(error = chain(&error), "spire server hides its federation relationships");
            }
            return Ok(shared.spire_relationships.borrow().as_deref().cloned().unwrap_or_default());
        }
        listed => listed?,
    };
    repeats.over("relationships");
    let mut known = SpireRelationships::new();
    for message in &listed {
        let name = relationships::name_from_spire(message);
        let read = name.and_then(|name| {
            let read = relationships::from_spire(message);
            known.insert(name, read.as_ref().ok().cloned());
            read
        });
        let trust_domain = &message.trust_domain;
        let subject = format!("relationship {trust_domain}");
        match read {
            Ok(_) => repeats.over(&subject),
            Err(error) if repeats.is_new(&subject, &error.to_string()) => {
                let error = chain(&error);
                warn!(trust_domain, error, "federation relationship of spire cannot be watched");
            }
            Err(_) => {}
        }
    }
    Ok(known)
}

fn tell_conflicts(config: &Config, spire: &SpireRelationships, repeats: &mut Repeats) {
    for trust_domain in config.managed() {
        let subject = format!("conflict {trust_domain}");
        if !spire.contains_key(trust_domain) {
            repeats.over(&subject);
        } else if repeats.is_new(&subject, "conflict") {
            error!(
                %trust_domain,
                way_out = format!(
                    "delete the one in SPIRE (spire-server federation delete -id spiffe://{trust_domain}), or set mode = \"assisted\" in the plugin's configuration"
                ),
                "federation relationship is declared as managed and exists in spire too, so it is only assisted"
            );
        }
    }
}

/// Reads bootstrap bundles while they are needed, so that a file can come later or be replaced.
fn read_bootstraps(
    shared: &Shared,
    relationships: &BTreeMap<TrustDomain, FederationRelationship>,
    repeats: &mut Repeats,
) {
    let (mut found, mut troubles) = (BTreeMap::new(), BTreeMap::new());
    let now = UnixTime::now();
    for relationship in relationships.values() {
        let (Some(path), Some(name)) = (&relationship.bootstrap_bundle, relationship.endpoint_trust_domain())
        else {
            continue;
        };
        if !shared.held.wants_bootstrap(name, now) {
            continue;
        }
        let subject = format!("bootstrap {}", path.display());
        match files::read_bundle(path, name) {
            Ok(bundle) => {
                repeats.over(&subject);
                found.insert(name.clone(), Arc::new(bundle));
            }
            Err(error) => {
                let error = chain(&error);
                if repeats.is_new(&subject, &error) {
                    error!(trust_domain = %name, error, "bootstrap bundle cannot be used");
                }
                let trouble =
                    format!("bootstrap_bundle of {} cannot be used: {error}", relationship.trust_domain);
                troubles.insert(name.clone(), trouble);
            }
        }
    }
    // Another relationship with an endpoint of that trust domain may have named a better one.
    troubles.retain(|name, _| !found.contains_key(name));
    shared.held.set_bootstraps(found, troubles);
}

/// Bundles that nobody names are told of once, or removed where the operator says so.
fn undeclared(shared: &Shared, config: &Config, named: &BTreeSet<&TrustDomain>, repeats: &mut Repeats) {
    let removals = shared.removals.all();
    for trust_domain in shared.held.names() {
        if removals.contains_key(&trust_domain) || named.contains(&trust_domain) {
            continue;
        }
        match config.undeclared_bundles {
            UndeclaredBundles::Remove => shared.removals.add(trust_domain, Cause::Undeclared),
            UndeclaredBundles::Keep if repeats.is_new(&format!("undeclared {trust_domain}"), "kept") => {
                warn!(
                    %trust_domain,
                    way_out = format!(
                        "name it in federates_with (mode = \"assisted\" where server.conf federates with it), or remove it: spire-server bundle delete -id spiffe://{trust_domain}"
                    ),
                    "spire holds a federated bundle that no relationship names; it is kept"
                )
            }
            UndeclaredBundles::Keep => {}
        }
    }
}
