//! Addresses as they stand in configuration: parsed once, so that a wrong one is named with its line.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// A TCP address to listen on: IP and port. Host names are refused, because falling back to "all interfaces" would
/// publish more than was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ListenAddress(SocketAddr);

/// A Unix socket named by an absolute path.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct UnixAddress(PathBuf);

/// Where the plugin dials.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum LinkAddress {
    /// The network, with mutual TLS.
    Tcp(ListenAddress),
    /// A socket of this host or pod.
    Unix(UnixAddress),
}

/// Why an address was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not `IP:port`.
    #[error(
        "{given:?} is no address to listen on: expected an IP address and a port, such as \"0.0.0.0:8443\""
    )]
    NotIpAndPort {
        /// As configured.
        given: String,
    },
    /// A path that is not absolute.
    #[error("{given:?} names no absolute path: expected the form \"unix:///run/entente/link.sock\"")]
    NotAbsolute {
        /// As configured.
        given: String,
    },
    /// Longer than the kernel's socket addresses.
    #[error("socket path {given:?} has {length} bytes, but a socket path may have {limit} at most")]
    PathTooLong {
        /// As configured.
        given: String,
        /// Its length.
        length: usize,
        /// What fits.
        limit: usize,
    },
    /// Neither a socket nor an address of the network.
    #[error(
        "{given:?} is nothing that a plugin could dial: expected a socket, such as \"unix:///run/entente/link.sock\", \
         or for mutual TLS an IP address and a port, such as \"0.0.0.0:8444\""
    )]
    NotALink {
        /// As configured.
        given: String,
    },
}

/// `sun_path` less its closing zero byte.
const SOCKET_PATH_LIMIT: usize = 107;

impl ListenAddress {
    /// The parsed address.
    pub fn socket_addr(self) -> SocketAddr {
        self.0
    }
}

impl UnixAddress {
    /// Where the socket is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self(address)
    }
}

impl TryFrom<String> for ListenAddress {
    type Error = AddressError;
    fn try_from(given: String) -> Result<Self, AddressError> {
        given.parse().map(Self).map_err(|_| AddressError::NotIpAndPort { given })
    }
}

impl TryFrom<String> for UnixAddress {
    type Error = AddressError;
    fn try_from(given: String) -> Result<Self, AddressError> {
        let path = given.strip_prefix("unix://").or_else(|| given.strip_prefix("unix:"));
        let Some(path) = path.filter(|path| path.starts_with('/') && path.len() > 1) else {
            return Err(AddressError::NotAbsolute { given });
        };
        if path.len() > SOCKET_PATH_LIMIT {
            let length = path.len();
            return Err(AddressError::PathTooLong { given, length, limit: SOCKET_PATH_LIMIT });
        }
        Ok(Self(path.into()))
    }
}

impl TryFrom<String> for LinkAddress {
    type Error = AddressError;
    fn try_from(given: String) -> Result<Self, AddressError> {
        if given.starts_with("unix:") {
            return given.try_into().map(Self::Unix);
        }
        given
            .parse()
            .map(|address| Self::Tcp(ListenAddress(address)))
            .map_err(|_| AddressError::NotALink { given })
    }
}

impl fmt::Display for LinkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(address) => address.fmt(f),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for UnixAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_is_no_address_to_listen_on() {
        let given = || "localhost:8443".to_owned();
        assert_eq!(ListenAddress::try_from(given()), Err(AddressError::NotIpAndPort { given: given() }));
        assert!(ListenAddress::try_from(":8443".to_owned()).is_err());
        assert!(ListenAddress::try_from("[::]:8443".to_owned()).is_ok());
    }

    #[test]
    fn a_link_is_a_socket_or_an_ip_address_and_a_port() {
        for given in
            ["dns:///bundle-endpoint.spire.svc:8444", "tcp://127.0.0.1:8444", "localhost:8444", "8444"]
        {
            let given = given.to_owned();
            assert_eq!(LinkAddress::try_from(given.clone()), Err(AddressError::NotALink { given }));
        }
        assert!(matches!(LinkAddress::try_from("0.0.0.0:8444".to_owned()), Ok(LinkAddress::Tcp(_))));
        assert!(matches!(LinkAddress::try_from("unix:///run/x".to_owned()), Ok(LinkAddress::Unix(_))));
    }

    #[test]
    fn a_socket_path_is_absolute_and_fits() {
        assert!(matches!(
            UnixAddress::try_from("unix://run/x".to_owned()),
            Err(AddressError::NotAbsolute { .. })
        ));
        let long = format!("unix:///{}", "x".repeat(120));
        assert!(matches!(UnixAddress::try_from(long), Err(AddressError::PathTooLong { length: 121, .. })));
        let good = UnixAddress::try_from("unix:///run/entente/link.sock".to_owned()).unwrap();
        assert_eq!(good.path(), Path::new("/run/entente/link.sock"));
        assert_eq!(UnixAddress::try_from("unix:/run/entente/link.sock".to_owned()).unwrap(), good);
    }
}
