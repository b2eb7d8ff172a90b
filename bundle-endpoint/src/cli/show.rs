//! Bundles and relationships as lines of text for people.

use std::fmt::Write;

use entente_bundle::text::printable;

use crate::status::{BundleSummary, RelationshipStatus, Status};

/// One bundle, each line indented.
pub(super) fn bundle(text: &mut String, indent: &str, bundle: &BundleSummary) {
    let sequence = bundle.sequence_number.map_or("none".into(), |number| number.to_string());
    let hint = bundle.refresh_hint.map_or("none".into(), |seconds| format!("{seconds} s"));
    line(text, format_args!("{indent}sequence number {sequence}, refresh hint {hint}"));
    for authority in &bundle.x509_authorities {
        let id = authority.subject_key_id.as_deref().unwrap_or(&authority.sha256);
        let mark = match (authority.expired, authority.tainted) {
            (true, _) => "  EXPIRED",
            (false, true) => "  TAINTED",
            (false, false) => "",
        };
        line(
            text,
            format_args!("{indent}x509 {id}  {} to {}{mark}", authority.not_before, authority.not_after),
        );
    }
    for key_id in &bundle.jwt_authorities {
        line(text, format_args!("{indent}jwt  {}", printable(key_id, 100)));
    }
    if bundle.x509_authorities.is_empty() && bundle.jwt_authorities.is_empty() {
        line(text, format_args!("{indent}EMPTY: every SVID of this trust domain is revoked"));
    }
}

/// Everything.
pub(super) fn status(status: &Status) -> String {
    let mut text = String::new();
    line(&mut text, format_args!("{}  (bundle-endpoint {})", status.trust_domain, status.version));
    for listener in &status.listeners {
        let profile = listener.profile.as_deref().unwrap_or("http");
        let identity = listener.identity.as_deref().map(|i| format!(" as {i}")).unwrap_or_default();
        line(&mut text, format_args!("  {} on {}, {profile}{identity}", listener.name, listener.address));
    }
    let shown = status.link_identity.as_deref().map(|id| format!(" as {id}")).unwrap_or_default();
    let count = status.links.len();
    line(&mut text, format_args!("  link on {}{shown}, plugins linked: {count}", status.link_socket));
    for link in &status.links {
        let lends = link.lends.as_deref().unwrap_or("nothing");
        line(&mut text, format_args!("    {} since {}, lends {lends}", link.who(), link.since));
    }
    own(&mut text, status);
    for relationship in &status.relationships {
        foreign(&mut text, relationship);
    }
    for removal in &status.pending_removals {
        line(&mut text, format_args!("no longer fetches {}: {}", removal.trust_domain, removal.sentence()));
    }
    let problems = status.problems();
    if problems.is_empty() {
        line(&mut text, format_args!("all is well"));
    }
    for problem in problems {
        line(&mut text, format_args!("PROBLEM  {problem}"));
    }
    text
}

fn own(text: &mut String, status: &Status) {
    let own = &status.own;
    line(text, format_args!("serves its own bundle"));
    match &own.bundle {
        Some(summary) => bundle(text, "  ", summary),
        None => line(text, format_args!("  none yet")),
    }
    let last = own.last_served.as_deref().unwrap_or("never");
    line(text, format_args!("  fetched {} times, {} unchanged, last {last}", own.served, own.not_modified));
}

fn foreign(text: &mut String, relationship: &RelationshipStatus) {
    let state = if relationship.healthy { "healthy" } else { "UNHEALTHY" };
    line(
        text,
        format_args!(
            "fetches {} from {}: {state}",
            relationship.trust_domain, relationship.bundle_endpoint_url
        ),
    );
    let id = relationship.endpoint_spiffe_id.as_deref().map(|id| format!(" as {id}")).unwrap_or_default();
    line(text, format_args!("  {}{id}, {}", relationship.bundle_endpoint_profile, relationship.mode));
    let or_never = |time: &Option<String>| time.as_deref().unwrap_or("never").to_owned();
    line(
        text,
        format_args!(
            "  last good fetch {}, next {}, {} good, {} failed",
            or_never(&relationship.last_success),
            or_never(&relationship.next_fetch),
            relationship.fetches,
            relationship.failures
        ),
    );
    if let Some(failure) = &relationship.failure {
        line(text, format_args!("  failed {} times: {}: {}", failure.count, failure.reason, failure.detail));
    }
    if let Some(offer) = &relationship.offer {
        let reason = offer.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
        line(text, format_args!("  offered to the plugin: {}{reason}", offer.outcome));
    }
    match (&relationship.held, &relationship.fetched) {
        (Some(held), Some(fetched)) if held == fetched => {
            line(text, format_args!("  held in SPIRE, as fetched"));
            bundle(text, "    ", held);
        }
        (held, fetched) => {
            for (name, summary) in [("held in SPIRE", held), ("fetched", fetched)] {
                let none = if summary.is_none() { ": none" } else { "" };
                line(text, format_args!("  {name}{none}"));
                if let Some(summary) = summary {
                    bundle(text, "    ", summary);
                }
            }
        }
    }
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Cannot fail: writing to a String never does.
    let _ = writeln!(text, "{arguments}");
}
