//! `federates_with "TRUST DOMAIN" { ... }`: one relationship per foreign trust domain, in SPIRE's own words.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use entente_bundle::TrustDomain;
use entente_bundle::text::without_userinfo;
use http::Uri;

use super::Mistakes;
use super::address::{is_host, port, why_nobody_is_there};
use super::reader::Block;
use crate::files;
use crate::hcl::Object;
use crate::relationships::{EndpointProfile, FederationRelationship, Mode, Unsigned};

const EXAMPLE: &str = "federates_with \"cluster2.org\" { ... }";
const PROFILE_EXAMPLE: &str = "bundle_endpoint_profile \"https_spiffe\" { endpoint_spiffe_id = \"spiffe://cluster2.org/spire/server\" } or bundle_endpoint_profile \"https_web\" {}";

pub(super) const KEYS: &[&str] = &[
    "bootstrap_bundle",
    "bundle_endpoint_profile",
    "bundle_endpoint_url",
    "follow_redirects",
    "mode",
    "unsigned",
];

pub(super) fn read(
    root: &Block<'_>,
    own: &TrustDomain,
    mistakes: &mut Mistakes,
) -> BTreeMap<TrustDomain, FederationRelationship> {
    let mut relationships = BTreeMap::new();
    // Also of blocks that are wrong otherwise: every mistake is told at once.
    let mut names = BTreeSet::new();
    for (label, object) in root.labelled("federates_with", EXAMPLE, mistakes) {
        let path = format!("federates_with {label:?}");
        let trust_domain = read_trust_domain(&path, &label, own, mistakes);
        if trust_domain.as_ref().is_some_and(|name| !names.insert(name.clone())) {
            mistakes.add(&path, "given more than once; keep one block per trust domain");
        }
        if let Some(relationship) = read_relationship(&path, trust_domain, &object, mistakes) {
            relationships.insert(relationship.trust_domain.clone(), relationship);
        }
    }
    relationships
}

fn read_trust_domain(
    path: &str,
    label: &str,
    own: &TrustDomain,
    mistakes: &mut Mistakes,
) -> Option<TrustDomain> {
    match TrustDomain::from_name_or_id(label) {
        Ok(trust_domain) if trust_domain == *own => {
            mistakes.add(path, "this is the server's own trust domain; name a foreign one");
            None
        }
        Ok(trust_domain) => Some(trust_domain),
        Err(error) => {
            mistakes.add(path, format!("expected a trust domain name such as cluster2.org: {error}"));
            None
        }
    }
}

/// Reads everything even where the name is wrong already, so that all mistakes come out at once.
fn read_relationship(
    path: &str,
    trust_domain: Option<TrustDomain>,
    object: &Object,
    mistakes: &mut Mistakes,
) -> Option<FederationRelationship> {
    let block = Block::new(path, object, KEYS, mistakes);
    let bundle_endpoint_url = read_url(&block, mistakes);
    let profile = read_profile(&block, mistakes);
    let has_web_profile = profile.as_ref().is_some_and(|(name, _)| name == "https_web");
    let bootstrap_bundle = block.string("bootstrap_bundle", mistakes).map(PathBuf::from);
    let follow_redirects = block.boolean("follow_redirects", mistakes).unwrap_or(false);
    let mode = block.word("mode", &[("managed", Mode::Managed), ("assisted", Mode::Assisted)], mistakes);
    let unsigned =
        block.word("unsigned", &[("allow", Unsigned::Allow), ("refuse", Unsigned::Refuse)], mistakes);
    if has_web_profile && block.has("bootstrap_bundle") {
        mistakes.add(
            block.key("bootstrap_bundle"),
            "only an https_spiffe endpoint is authenticated by a bundle; leave it out with https_web",
        );
    }
    Some(FederationRelationship {
        trust_domain: trust_domain?,
        bundle_endpoint_url: bundle_endpoint_url?,
        profile: profile?.1?,
        mode: mode.unwrap_or(Mode::Managed),
        follow_redirects,
        bootstrap_bundle,
        unsigned: unsigned.unwrap_or(Unsigned::Refuse),
    })
}

fn read_url(block: &Block<'_>, mistakes: &mut Mistakes) -> Option<String> {
    let before = mistakes.0.len();
    let Some(text) = block.string("bundle_endpoint_url", mistakes) else {
        if mistakes.0.len() == before {
            mistakes.add(block.key("bundle_endpoint_url"), "missing; expected an https URL");
        }
        return None;
    };
    match check_url(text) {
        Ok(()) => Some(text.to_owned()),
        Err(reason) => {
            mistakes.add(
                block.key("bundle_endpoint_url"),
                format!("{reason}, found {:?}", without_userinfo(text)),
            );
            None
        }
    }
}

/// FED 5.2: https, a host, no user information. The same rule holds for relationships that SPIRE tells us of.
pub(crate) fn check_url(text: &str) -> Result<(), &'static str> {
    let uri: Uri = text.parse().map_err(|_| "expected an https URL such as \"https://10.10.0.141:8443\"")?;
    if uri.scheme_str() != Some("https") {
        return Err("expected an URL that starts with https://");
    }
    let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    if authority.contains('@') {
        return Err("expected an URL without user information");
    }
    let host = uri.host().unwrap_or_default();
    if host.is_empty() {
        return Err("expected an URL with a host");
    }
    if !is_host(host) {
        return Err(
            "expected a host that is a DNS name or an IP address (four numbers, or IPv6 in brackets)",
        );
    }
    if let Some(reason) = why_nobody_is_there(host) {
        return Err(reason);
    }
    if text.contains('#') {
        return Err("expected an URL without a fragment");
    }
    // Read from the text: the parser passes over a port that is no number of 16 bits.
    let behind = authority.strip_prefix(host).unwrap_or_default();
    if !(behind.is_empty() || behind.strip_prefix(':').and_then(port).is_some()) {
        return Err("expected a port from 1 to 65535");
    }
    Ok(())
}

/// The name that the profile has, and the profile where nothing in it is wrong.
fn read_profile(block: &Block<'_>, mistakes: &mut Mistakes) -> Option<(String, Option<EndpointProfile>)> {
    let before = mistakes.0.len();
    let mut profiles = block.labelled("bundle_endpoint_profile", PROFILE_EXAMPLE, mistakes);
    if mistakes.0.len() > before {
        return None;
    }
    let key = block.key("bundle_endpoint_profile");
    if profiles.len() > 1 {
        mistakes.add(key, "given more than once; keep one");
        return None;
    }
    let Some((name, object)) = profiles.pop() else {
        mistakes.add(key, format!("missing; expected {PROFILE_EXAMPLE}"));
        return None;
    };
    let path = format!("{key} {name:?}");
    let profile = match name.as_str() {
        "https_spiffe" => read_https_spiffe(&path, &object, mistakes),
        "https_web" => read_https_web(&path, &object, mistakes),
        _ => {
            mistakes.add(key, format!("expected \"https_spiffe\" or \"https_web\", found {name:?}"));
            None
        }
    };
    Some((name, profile))
}

fn read_https_spiffe(path: &str, object: &Object, mistakes: &mut Mistakes) -> Option<EndpointProfile> {
    let block = Block::new(path, object, &["endpoint_spiffe_id"], mistakes);
    let before = mistakes.0.len();
    let key = block.key("endpoint_spiffe_id");
    let Some(endpoint_spiffe_id) = block.spiffe_id("endpoint_spiffe_id", mistakes) else {
        if mistakes.0.len() == before {
            mistakes.add(key, "missing; expected the SPIFFE ID that the endpoint shows, such as \"spiffe://cluster2.org/spire/server\"");
        }
        return None;
    };
    Some(EndpointProfile::HttpsSpiffe { endpoint_spiffe_id })
}

fn read_https_web(path: &str, object: &Object, mistakes: &mut Mistakes) -> Option<EndpointProfile> {
    let block = Block::new(path, object, &["ca_file"], mistakes);
    let before = mistakes.0.len();
    let Some(file) = block.string("ca_file", mistakes) else {
        // Left out: the system's roots. Wrong: never fall back to those.
        let none = EndpointProfile::HttpsWeb { ca_certificates: String::new() };
        return (mistakes.0.len() == before).then_some(none);
    };
    match files::read_certificates(Path::new(file)) {
        Ok(ca_certificates) => Some(EndpointProfile::HttpsWeb { ca_certificates }),
        Err(error) => {
            mistakes.add(block.key("ca_file"), error.to_string());
            None
        }
    }
}
