//! Hosts and ports as they stand in settings: what could ever be dialled.

use std::net::{IpAddr, Ipv6Addr};

use rustls_pki_types::ServerName;

/// RFC 1123 2.1: labels of 1 to 63 letters, digits and inner hyphens (underscores are about, so they pass); and a name whose last
/// label is a number is an IPv4 address or nothing. IPv6 stands in brackets.
pub(super) fn is_host(text: &str) -> bool {
    match text.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
        None => ServerName::try_from(text).is_ok(),
    }
}

/// From 1 to 65535; a sign or a zero in front is nothing that anybody means.
pub(super) fn port(digits: &str) -> Option<u16> {
    digits.parse().ok().filter(|port: &u16| *port != 0 && port.to_string() == digits)
}

/// Why nobody can be reached at this address; `None` for other addresses, and for names.
pub(super) fn why_nobody_is_there(host: &str) -> Option<&'static str> {
    let address: IpAddr = host.trim_matches(['[', ']']).parse().ok()?;
    match address.to_canonical() {
        // RFC 6890: "this network".
        IpAddr::V4(address) if address.octets().first() == Some(&0) => Some(LISTENING),
        IpAddr::V4(address) if address.is_broadcast() || address.is_multicast() => Some(GROUP),
        // RFC 1112 4: class E.
        IpAddr::V4(address) if address.octets().first().is_some_and(|first| *first >= 240) => {
            Some("an address of a range that is reserved: name the one where it is reached")
        }
        IpAddr::V6(address) if address.is_unspecified() => Some(LISTENING),
        IpAddr::V6(address) if address.is_multicast() => Some(GROUP),
        // RFC 4007 6: means something on one interface only, and none can be named here.
        IpAddr::V6(address) if address.is_unicast_link_local() => {
            Some("a link-local address, which needs an interface: name one that is routed")
        }
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

const LISTENING: &str = "an address to listen on, not one to dial: name the one where it is reached";
const GROUP: &str = "an address of many, which nobody can link to: name the one where it is reached";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_a_number_of_16_bits_and_not_zero() {
        for bad in ["", "0", "00", "01", "+1", "-1", "65536", "1x", " 1"] {
            assert_eq!(port(bad), None, "{bad:?}");
        }
        assert_eq!((port("1"), port("65535")), (Some(1), Some(65535)));
    }

    #[test]
    fn addresses_at_which_nobody_can_be_are_told_from_the_others() {
        for nobody in [
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "[::]",
            "[::ffff:0.0.0.0]",
            "[::ffff:224.0.0.1]",
            "[ff02::1]",
            "[fe80::1]",
        ] {
            assert!(is_host(nobody) && why_nobody_is_there(nobody).is_some(), "{nobody}");
        }
        for somebody in [
            "127.0.0.1",
            "10.10.0.1",
            "169.254.1.1",
            "[::1]",
            "[fd00::1]",
            "[::ffff:10.0.0.1]",
            "cluster2.org",
        ] {
            assert_eq!(why_nobody_is_there(somebody), None, "{somebody}");
        }
    }
}
