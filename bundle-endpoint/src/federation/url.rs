//! Bundle endpoint URLs: `https`, a host, no userinfo (FED 5.1); parsed once.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use entente_bundle::text::{printable, without_userinfo};
use http::Uri;
use rustls_pki_types::ServerName;

/// A valid bundle endpoint URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndpointUrl {
    /// Without brackets where it is an IPv6 address.
    host: String,
    port: u16,
    path_and_query: String,
}

/// Why a text is no bundle endpoint URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UrlError {
    /// No URL at all.
    #[error("{url:?} is no url")]
    Malformed {
        /// As given, shortened and without user information.
        url: String,
    },
    /// Neither a DNS name nor an IP address.
    #[error("{host:?} is neither a dns name nor an ip address")]
    Host {
        /// As given.
        host: String,
    },
    /// Another scheme, or none.
    #[error("{url:?} does not begin with https://")]
    NotHttps {
        /// As given, shortened and without user information.
        url: String,
    },
    /// `user@` before the host.
    #[error("a bundle endpoint url must not carry user information")]
    UserInfo,
}

impl EndpointUrl {
    /// Name or address, without brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// 443 where the URL does not say.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The address, where the host is one.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// What is asked for; begins with a slash.
    pub(crate) fn path_and_query(&self) -> &str {
        &self.path_and_query
    }

    /// `host:port` as it stands in a URL; the port is left out where it is 443.
    pub(crate) fn authority(&self) -> String {
        let host = match self.ip() {
            Some(IpAddr::V6(_)) => format!("[{}]", self.host),
            _ => self.host.clone(),
        };
        if self.port == 443 { host } else { format!("{host}:{}", self.port) }
    }

    /// For SNI and for the name check of `https_web`.
    pub(crate) fn server_name(&self) -> Result<ServerName<'static>, UrlError> {
        ServerName::try_from(self.host.clone()).map_err(|_| UrlError::Host { host: self.host.clone() })
    }

    /// What a `Location` header means, seen from here.
    pub(crate) fn join(&self, location: &str) -> Result<Self, UrlError> {
        // A scheme ends before the first of these; `a/b:c` and `?x=https://y` are relative.
        let scheme = location.split_once(':').map(|(scheme, _)| scheme);
        if scheme.is_some_and(|scheme| !scheme.is_empty() && !scheme.contains(['/', '?', '#'])) {
            return location.parse();
        }
        if location.starts_with("//") {
            return format!("https:{location}").parse();
        }
        let path = self.path_and_query.split('?').next().unwrap_or("/");
        let target = match location.chars().next() {
            None | Some('#') => self.path_and_query.clone(),
            Some('/') => location.to_owned(),
            Some('?') => format!("{path}{location}"),
            Some(_) => format!("{}/{location}", path.rsplit_once('/').map_or("", |(folder, _)| folder)),
        };
        format!("https://{}{target}", self.authority()).parse()
    }
}

impl FromStr for EndpointUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let shown = || printable(&without_userinfo(text), 200);
        let has_scheme = text.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("https://"));
        if !has_scheme {
            return Err(UrlError::NotHttps { url: shown() });
        }
        let uri: Uri = text.parse().map_err(|_| UrlError::Malformed { url: shown() })?;
        let Some(authority) = uri.authority() else {
            return Err(UrlError::Malformed { url: shown() });
        };
        if authority.as_str().contains('@') {
            return Err(UrlError::UserInfo);
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() || ServerName::try_from(host.as_str()).is_err() {
            return Err(UrlError::Host { host });
        }
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") | None => 443,
            // `parse` alone would take a sign.
            Some(rest) => rest
                .strip_prefix(':')
                .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|digits| digits.parse().ok())
                .ok_or_else(|| UrlError::Malformed { url: shown() })?,
        };
        let path_and_query = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        // `https://host?x` has an empty path, which is asked for as `/`.
        let path_and_query =
            if path_and_query.starts_with('/') { path_and_query } else { format!("/{path_and_query}") };
        Ok(Self { host, port, path_and_query })
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}{}", self.authority(), self.path_and_query)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> EndpointUrl {
        text.parse().unwrap()
    }

    #[test]
    fn only_https_without_user_information_is_an_endpoint_url() {
        let error = |text: &str| text.parse::<EndpointUrl>().unwrap_err();
        assert!(matches!(error("http://b.test/"), UrlError::NotHttps { .. }));
        assert!(matches!(error("b.test"), UrlError::NotHttps { .. }));
        assert!(matches!(error(""), UrlError::NotHttps { .. }));
        assert_eq!(error("https://me:pw@b.test/"), UrlError::UserInfo);
        for text in ["http://me:pw@b.test/", "me:pw@b.test", "https://me:pw@b test/"] {
            assert!(!error(text).to_string().contains("pw"), "{text}");
        }
        assert!(error("https:///x").to_string().contains("https:///x"));
        for port in ["99999", "", "+443", "x"] {
            assert!(format!("https://b.test:{port}/").parse::<EndpointUrl>().is_err(), "{port}");
        }
        assert!("https://b test/".parse::<EndpointUrl>().is_err());
        assert!("https://é/".parse::<EndpointUrl>().is_err());
    }

    #[test]
    fn the_parts_of_a_url_are_told_apart() {
        let plain = url("https://b.test");
        assert_eq!((plain.host(), plain.port(), plain.path_and_query()), ("b.test", 443, "/"));
        let six = url("HTTPS://[::1]:8443/x?y=1");
        assert_eq!((six.host(), six.port(), six.path_and_query()), ("::1", 8443, "/x?y=1"));
        assert_eq!(six.to_string(), "https://[::1]:8443/x?y=1");
        assert_eq!(url("https://b.test?q").path_and_query(), "/?q");
    }

    #[test]
    fn a_location_is_read_from_where_it_was_found() {
        let here = url("https://b.test:8443/bundles/one?x=1");
        let target = |location: &str| here.join(location).unwrap().to_string();
        assert_eq!(target("https://c.test/two"), "https://c.test/two");
        assert_eq!(target("//c.test/two"), "https://c.test/two");
        assert_eq!(target("/two"), "https://b.test:8443/two");
        assert_eq!(target("two"), "https://b.test:8443/bundles/two");
        assert_eq!(target("?y=2"), "https://b.test:8443/bundles/one?y=2");
        assert!(matches!(here.join("http://b.test/"), Err(UrlError::NotHttps { .. })));
        assert!(matches!(here.join("file:///etc/passwd"), Err(UrlError::NotHttps { .. })));
    }
}
