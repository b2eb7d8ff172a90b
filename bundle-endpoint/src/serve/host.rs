//! Which host a request is for, in words that nobody between a client and us can read in two ways.
//!
//! Whom it names is nothing to us: clients dial by name, by address and through gateways, and all get the same answer.

use std::net::Ipv6Addr;

use entente_bundle::text::printable;
use http::header::HOST;
use http::uri::Scheme;
use http::{Request, Version};

/// Why it cannot be said which host a request is for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HostError {
    #[error("the request is for {target:?} and its Host is {host:?}")]
    Differs { target: String, host: String },
    #[error("{given:?} is no host with or without a port")]
    Malformed { given: String },
    #[error("a request of HTTP/2 names its host in :authority or Host, and this one in neither")]
    Nameless,
    #[error("a request of HTTP/1.1 has a Host header, and there is none")]
    Missing,
    #[error("a request has one Host header, and there are {count}")]
    Repeated { count: usize },
}

/// A host in lower case and the port where one is named.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Authority {
    host: String,
    port: Option<u16>,
}

/// Refuses what names no host, more than one, or none that can be read (RFC 9112 3.2, RFC 9113 8.3.1).
pub(super) fn check<B>(request: &Request<B>) -> Result<(), HostError> {
    let target = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    let target =
        target.map(|given| Ok((given, parse(given).ok_or_else(|| malformed(given))?))).transpose()?;
    let fields = request.headers().get_all(HOST);
    let mut hosts = fields.iter().map(http::HeaderValue::as_bytes);
    let Some(host) = hosts.next() else {
        return match request.version() {
            Version::HTTP_11 => Err(HostError::Missing),
            Version::HTTP_2 if target.is_none() => Err(HostError::Nameless),
            // HTTP/1.0 knows no field, and HTTP/2 has `:authority` instead.
            _ => Ok(()),
        };
    };
    match hosts.count() {
        0 => {}
        more => return Err(HostError::Repeated { count: more + 1 }),
    }
    // Of a target without a host: that a field is there all the same is the rule of HTTP/1.1.
    let named = if host.is_empty() { None } else { Some(parse(host).ok_or_else(|| malformed(host))?) };
    match target {
        None if named.is_none() && request.version() == Version::HTTP_2 => Err(HostError::Nameless),
        // HTTP/1.1 has a server ignore the field then (RFC 9112 3.2.2); a gateway in front may not have.
        Some((given, target)) if named.as_ref().is_none_or(|host| !same(host, &target, request)) => {
            Err(HostError::Differs { target: shown(given), host: shown(host) })
        }
        _ => Ok(()),
    }
}

fn same<B>(one: &Authority, other: &Authority, request: &Request<B>) -> bool {
    let default = if request.uri().scheme() == Some(&Scheme::HTTP) { 80 } else { 443 };
    let port = |authority: &Authority| authority.port.unwrap_or(default);
    one.host == other.host && port(one) == port(other)
}

/// `uri-host [ ":" port ]` (RFC 9110 7.2), without the user that `:authority` must not name (RFC 9113 8.3.1).
fn parse(given: &[u8]) -> Option<Authority> {
    let text = std::str::from_utf8(given).ok()?;
    let (host, rest) = match text.strip_prefix('[') {
        Some(literal) => {
            let (address, rest) = literal.split_once(']')?;
            let address: Ipv6Addr = address.parse().ok()?;
            (address.to_string(), rest)
        }
        None => {
            let (name, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
            (is_name(name).then(|| name.to_ascii_lowercase())?, rest)
        }
    };
    // RFC 3986 3.2.3: a port may be no digits at all, and is then as good as none.
    let port = if matches!(rest, "" | ":") { None } else { Some(port(rest.strip_prefix(':')?)?) };
    Some(Authority { host, port })
}

/// Digits only: `parse` alone would take a sign.
fn port(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// `reg-name` of RFC 3986 3.2.2, which an IPv4 address is too. Stricter in that it is not empty and holds no comma: with one
/// it may be two fields that were joined on the way.
fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=%".contains(&byte);
    let escapes = text.split('%').skip(1);
    let is_escape = |rest: &str| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    !text.is_empty() && text.bytes().all(allowed) && escapes.into_iter().all(is_escape)
}

fn malformed(given: &[u8]) -> HostError {
    HostError::Malformed { given: shown(given) }
}

fn shown(given: &[u8]) -> String {
    printable(&String::from_utf8_lossy(given), 100)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn request(version: Version, uri: &str, hosts: &[&[u8]]) -> Request<()> {
        let mut request = Request::builder().version(version).uri(uri).body(()).unwrap();
        for host in hosts {
            request.headers_mut().append(HOST, HeaderValue::from_bytes(host).unwrap());
        }
        request
    }

    fn of_host(host: &[u8]) -> Result<(), HostError> {
        check(&request(Version::HTTP_11, "/", &[host]))
    }

    #[test]
    fn what_is_no_host_is_refused() {
        let cases: [&[u8]; 21] = [
            b"a, b",
            b"a,b",
            b"a b",
            b" ",
            b"a:99999",
            b"a:b",
            b"a:+1",
            b"a:-1",
            b"a:1:2",
            b":80",
            b":",
            b"a/b",
            b"u@a",
            b"a%",
            b"a%4",
            b"a%zz",
            b"\xff",
            b"a\xc3\xa9",
            b"[::1",
            b"[::1]x",
            b"::1",
        ];
        for host in cases {
            assert!(matches!(of_host(host), Err(HostError::Malformed { .. })), "{host:?}");
        }
        for target in ["http://u@a/", "http://a:99999/"] {
            let refused = check(&request(Version::HTTP_11, target, &[b"a"]));
            assert!(matches!(refused, Err(HostError::Malformed { .. })), "{target}");
        }
    }

    #[test]
    fn every_name_and_address_is_a_host() {
        for host in [
            "",
            "a",
            "A.Example",
            "a.example.",
            "a:1",
            "a:65535",
            "a:0",
            "a:",
            "[::1]:",
            "127.0.0.1",
            "127.0.0.1:8443",
            "[::1]",
            "[::1]:8443",
            "[2001:DB8::1]",
            "bundle-endpoint.spire.svc.cluster.local:8443",
            "under_score",
            "%41",
        ] {
            assert_eq!(of_host(host.as_bytes()), Ok(()), "{host}");
        }
    }

    #[test]
    fn http_1_1_has_one_and_http_1_0_and_2_at_most_one() {
        for (version, none) in [
            (Version::HTTP_10, Ok(())),
            (Version::HTTP_11, Err(HostError::Missing)),
            (Version::HTTP_2, Err(HostError::Nameless)),
        ] {
            assert_eq!(check(&request(version, "/", &[])), none);
            assert_eq!(check(&request(version, "/", &[b"a"])), Ok(()));
            let repeated = check(&request(version, "/", &[b"a", b"a"]));
            assert_eq!(repeated, Err(HostError::Repeated { count: 2 }));
        }
        assert_eq!(check(&request(Version::HTTP_2, "https://a/", &[])), Ok(()));
        assert_eq!(check(&request(Version::HTTP_2, "/", &[b""])), Err(HostError::Nameless));
    }

    #[test]
    fn the_target_and_the_field_name_the_same() {
        for (uri, host, is_same) in [
            ("https://a.test/", "A.test:443", true),
            ("https://a.test:8443/", "a.test:8443", true),
            ("http://a.test/", "a.test:80", true),
            ("https://a.test/", "a.test:", true),
            ("https://a.test:/", "a.test", true),
            ("https://[::1]:8443/", "[0:0::1]:8443", true),
            ("https://a.test/", "b.test", false),
            ("https://a.test/", "a.test:80", false),
            ("https://a.test:8443/", "a.test", false),
            ("https://a.test:8443/", "a.test:", false),
            ("https://a.test/", "", false),
        ] {
            for version in [Version::HTTP_11, Version::HTTP_2] {
                let checked = check(&request(version, uri, &[host.as_bytes()]));
                assert_eq!(checked.is_ok(), is_same, "{uri} {host:?}: {checked:?}");
                assert!(is_same || matches!(checked, Err(HostError::Differs { .. })));
            }
        }
    }
}
