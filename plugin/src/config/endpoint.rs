//! `endpoint` and what belongs to it: where the bundle endpoint awaits the link, and how we know that it is the one.

use std::fmt;
use std::path::PathBuf;

use entente_bundle::{SpiffeId, TrustDomain};

use super::address::{is_host, port, why_nobody_is_there};
use super::reader::Block;
use super::{Mistakes, socket_path};
use crate::unix_socket::AllowedOwner;

const EXAMPLE: &str = "expected where bundle-endpoint awaits the link, such as \"unix:///run/entente/link.sock\" or \"dns:///bundle-endpoint.spire.svc:8444\"";

/// The other end of the link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// On this host or in this pod.
    Socket { path: PathBuf, owner: AllowedOwner },
    /// Behind a name or an address, over mutual TLS, with exactly this ID.
    Network { host: String, port: u16, spiffe_id: SpiffeId },
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket { path, .. } => write!(f, "unix://{}", path.display()),
            Self::Network { host, port, .. } if host.contains(':') => write!(f, "dns:///[{host}]:{port}"),
            Self::Network { host, port, .. } => write!(f, "dns:///{host}:{port}"),
        }
    }
}

/// Reads all three keys, so that all mistakes come out at once.
pub(super) fn read(block: &Block<'_>, own: &TrustDomain, mistakes: &mut Mistakes) -> Option<Endpoint> {
    let before = mistakes.0.len();
    let text = block.string("endpoint", mistakes);
    let uid = read_uid(block, mistakes);
    let id = read_id(block, own, mistakes);
    let Some(text) = text else {
        if mistakes.0.iter().skip(before).all(|mistake| mistake.key != "endpoint") {
            mistakes.add("endpoint", format!("missing; {EXAMPLE}"));
        }
        return None;
    };
    if let Some(target) = text.strip_prefix("dns:") {
        if uid != Given::Nothing {
            mistakes.add(
                "endpoint_uid",
                "is for unix:// only: over mutual TLS endpoint_spiffe_id says who may answer",
            );
        }
        if id == Given::Nothing {
            mistakes.add("endpoint_spiffe_id", missing_id(own));
        }
        let (host, port) = read_target(text, target, mistakes)?;
        let Given::Good(spiffe_id) = id else { return None };
        return Some(Endpoint::Network { host, port, spiffe_id });
    }
    if id != Given::Nothing {
        mistakes.add(
            "endpoint_spiffe_id",
            "is for dns:/// only: on a unix:// socket nobody shows an SVID; endpoint_uid says who may answer",
        );
    }
    let Some(path) = text.strip_prefix("unix:") else {
        mistakes.add("endpoint", format!("{EXAMPLE}, found {text:?}"));
        return None;
    };
    let owner = match uid {
        Given::Good(uid) => AllowedOwner::Uid(uid),
        _ => AllowedOwner::OwnOrRoot,
    };
    Some(Endpoint::Socket { path: socket_path("endpoint", path, mistakes)?, owner })
}

/// A key that may be left out, and one that was told to be wrong already.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Given<T> {
    Nothing,
    Wrong,
    Good(T),
}

fn missing_id(own: &TrustDomain) -> String {
    format!(
        "missing; over mutual TLS the exact SPIFFE ID of bundle-endpoint is needed, such as \"spiffe://{own}/bundle-endpoint\""
    )
}

fn read_uid(block: &Block<'_>, mistakes: &mut Mistakes) -> Given<u32> {
    let before = mistakes.0.len();
    match block.integer("endpoint_uid", mistakes).map(u32::try_from) {
        Some(Ok(uid)) => Given::Good(uid),
        Some(Err(_)) => {
            mistakes.add("endpoint_uid", "expected a user ID, from 0 to 4294967295");
            Given::Wrong
        }
        None if mistakes.0.len() > before => Given::Wrong,
        None => Given::Nothing,
    }
}

fn read_id(block: &Block<'_>, own: &TrustDomain, mistakes: &mut Mistakes) -> Given<SpiffeId> {
    let before = mistakes.0.len();
    let Some(id) = block.spiffe_id("endpoint_spiffe_id", mistakes) else {
        return if mistakes.0.len() > before { Given::Wrong } else { Given::Nothing };
    };
    // Only our own trust domain can vouch for whoever is told everything and asked for nothing in return.
    let wrong = if id.trust_domain() != own {
        format!("expected an ID of the server's own trust domain {own}, found \"{id}\"")
    } else if id.is_reserved() {
        format!(
            "\"{id}\" is SPIRE's own; give bundle-endpoint a registration entry of its own and name its ID here"
        )
    } else {
        return Given::Good(id);
    };
    mistakes.add("endpoint_spiffe_id", wrong);
    Given::Wrong
}

/// `///host:port`, as gRPC writes it.
fn read_target(text: &str, target: &str, mistakes: &mut Mistakes) -> Option<(String, u16)> {
    const FORM: &str =
        "expected a name or an IP address and a port, such as \"dns:///bundle-endpoint.spire.svc:8444\"";
    let mut wrong = |reason: &str| mistakes.add("endpoint", format!("{reason}{FORM}, found {text:?}"));
    let Some(target) = target.strip_prefix("///") else {
        // gRPC's form with an authority names the DNS server to ask.
        let names_a_server = target.starts_with("//");
        wrong(if names_a_server { "the system's resolver is asked and no other; " } else { "" });
        return None;
    };
    let read = target.rsplit_once(':').and_then(|(host, digits)| {
        let port = port(digits)?;
        // IPv6 without brackets could be cut anywhere.
        let is_whole = host.starts_with('[') || !host.contains(':');
        (is_whole && is_host(host)).then(|| (host.trim_matches(['[', ']']).to_owned(), port))
    });
    let Some((host, port)) = read else {
        wrong("");
        return None;
    };
    if let Some(reason) = why_nobody_is_there(&host) {
        mistakes.add("endpoint", format!("{host} is {reason}, found {text:?}"));
        return None;
    }
    Some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, ConfigError, Mistake};

    const ID: &str = "endpoint_spiffe_id = \"spiffe://cluster1.org/bundle-endpoint\"";

    fn mistakes(text: &str) -> Vec<String> {
        match Config::read(text, "cluster1.org") {
            Ok(config) => panic!("{text} was taken as {config:?}"),
            Err(ConfigError(mistakes)) => mistakes.iter().map(Mistake::to_string).collect(),
        }
    }

    fn one(text: &str) -> String {
        let mut found = mistakes(text);
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    #[test]
    fn each_mistake_in_a_target_is_named() {
        for target in [
            "dns:///bundle-endpoint",
            "dns:///bundle-endpoint:0",
            "dns:///bundle-endpoint:65536",
            "dns:///bundle-endpoint:+8444",
            "dns:///:8444",
            "dns:///a b:8444",
            "dns:///a/b:8444",
            "dns:///::1:8444",
            "dns:bundle-endpoint:8444",
        ] {
            let found = one(&format!("endpoint = \"{target}\" {ID}"));
            assert!(found.starts_with("endpoint: expected a name or an IP address and a port"), "{found}");
        }
        let server = one(&format!("endpoint = \"dns://1.1.1.1/bundle-endpoint:8444\" {ID}"));
        assert!(server.starts_with("endpoint: the system's resolver is asked"), "{server}");
    }

    #[test]
    fn the_id_is_needed_and_is_a_workloads_of_the_own_trust_domain() {
        let target = "endpoint = \"dns:///bundle-endpoint:8444\"";
        let missing = one(target);
        assert!(missing.starts_with("endpoint_spiffe_id: missing; over mutual TLS"), "{missing}");
        for (id, expected) in [
            (
                "spiffe://cluster2.org/bundle-endpoint",
                "expected an ID of the server's own trust domain cluster1.org",
            ),
            ("spiffe://cluster1.org", "expected a SPIFFE ID with a path"),
            ("spiffe://cluster1.org/spire/server", "\"spiffe://cluster1.org/spire/server\" is SPIRE's own"),
            ("spiffe://cluster1.org/spire/agent/x", "\"spiffe://cluster1.org/spire/agent/x\" is SPIRE's own"),
            ("bundle-endpoint", "expected a SPIFFE ID, found"),
            ("", "expected a SPIFFE ID, found"),
        ] {
            let found = one(&format!("{target} endpoint_spiffe_id = \"{id}\""));
            assert!(found.starts_with(&format!("endpoint_spiffe_id: {expected}")), "{found}");
        }
        assert!(
            one(&format!("{target} endpoint_spiffe_id = 1"))
                .starts_with("endpoint_spiffe_id: expected a string")
        );
    }

    #[test]
    fn what_belongs_to_the_other_way_of_linking_is_refused() {
        let socket = "endpoint = \"unix:///run/entente/link.sock\"";
        assert!(one(&format!("{socket} {ID}")).starts_with("endpoint_spiffe_id: is for dns:/// only"));
        let network = format!("endpoint = \"dns:///bundle-endpoint:8444\" {ID} endpoint_uid = 0");
        assert!(one(&network).starts_with("endpoint_uid: is for unix:// only"));
        assert_eq!(mistakes("endpoint = \"dns:///x\" endpoint_uid = -1").len(), 4);
    }

    #[test]
    fn an_address_at_which_nobody_can_be_is_refused_with_the_way_out() {
        for target in ["0.0.0.0:1", "[::]:8444", "224.0.0.1:8444", "255.255.255.255:8444", "[fe80::1]:8444"] {
            let told = one(&format!("endpoint = \"dns:///{target}\" {ID}"));
            assert!(told.starts_with("endpoint: ") && told.contains(": name "), "{told}");
            assert!(told.contains(&format!("found \"dns:///{target}\"")), "{told}");
        }
    }

    #[test]
    fn names_and_addresses_of_both_kinds_are_taken() {
        for (target, host) in [
            ("bundle-endpoint.spire.svc:8444", "bundle-endpoint.spire.svc"),
            ("10.10.0.1:8444", "10.10.0.1"),
            ("[fd00::1]:8444", "fd00::1"),
        ] {
            let config =
                Config::read(&format!("endpoint = \"dns:///{target}\" {ID}"), "cluster1.org").unwrap();
            assert_eq!(config.endpoint.to_string(), format!("dns:///{target}"));
            assert!(matches!(config.endpoint, Endpoint::Network { host: h, port: 8444, .. } if h == host));
        }
    }
}
