//! The address of the Workload API: which texts are one, and what is wrong with those that are not.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// The environment variable that names the Workload API.
pub const ENDPOINT_SOCKET: &str = "SPIFFE_ENDPOINT_SOCKET";

/// The kernel's `sun_path` less its closing zero byte.
const SOCKET_PATH_LIMIT: usize = 107;

/// Where the Workload API listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkloadApiAddress {
    /// `tcp://127.0.0.1:8081`. Not encrypted: only where the network itself says who calls, such as loopback.
    Tcp(SocketAddr),
    /// `unix:///run/spire/agent.sock`, also written `unix:/run/spire/agent.sock`.
    Unix(PathBuf),
}

/// Why a text is no address of a Workload API.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// A component that this kind of address does not have.
    #[error("workload api address {address:?} must not have a {component}")]
    Component {
        /// What was given.
        address: String,
        /// `host`, `query` or `fragment`.
        component: &'static str,
    },
    /// A `%` that is not followed by two hexadecimal digits of a readable text.
    #[error("workload api address {address:?} has a malformed % escape")]
    Escape {
        /// What was given.
        address: String,
    },
    /// Neither given nor in the environment.
    #[error(
        "no workload api address: set SPIFFE_ENDPOINT_SOCKET, for example to unix:///tmp/spire-agent/public/api.sock"
    )]
    Missing,
    /// Not UTF-8.
    #[error("SPIFFE_ENDPOINT_SOCKET is not readable text")]
    NotText,
    /// A `unix:` address without an absolute path.
    #[error("workload api address {address:?} needs an absolute path, as in unix:///run/spire/agent.sock")]
    Path {
        /// What was given.
        address: String,
    },
    /// A path that no socket can have.
    #[error("workload api address {address:?} has a path of {length} bytes, a socket's has at most {limit}")]
    PathTooLong {
        /// What was given.
        address: String,
        /// Bytes of the path.
        length: usize,
        /// What fits.
        limit: usize,
    },
    /// Neither `unix:` nor `tcp:`.
    #[error("workload api address {address:?} must start with unix: or tcp:")]
    Scheme {
        /// What was given.
        address: String,
    },
    /// A `tcp:` address that is not exactly an IP address and a port.
    #[error(
        "workload api address {address:?} must be an IP address and a port and nothing else, as in tcp://127.0.0.1:8081"
    )]
    Tcp {
        /// What was given.
        address: String,
    },
}

impl WorkloadApiAddress {
    /// Takes the given address, else the one in `SPIFFE_ENDPOINT_SOCKET`.
    pub fn given_or_environment(given: Option<&str>) -> Result<Self, AddressError> {
        match given {
            Some(text) => text.parse(),
            None => match std::env::var(ENDPOINT_SOCKET) {
                Ok(text) => text.parse(),
                Err(std::env::VarError::NotPresent) => Err(AddressError::Missing),
                Err(std::env::VarError::NotUnicode(_)) => Err(AddressError::NotText),
            },
        }
    }

    fn unix(address: &str, rest: &str) -> Result<Self, AddressError> {
        let component = |component| AddressError::Component { address: address.into(), component };
        let path = match rest.strip_prefix("//") {
            Some(path) if !path.is_empty() && !path.starts_with('/') => return Err(component("host")),
            Some(path) => path,
            None => rest,
        };
        if path.contains('?') {
            return Err(component("query"));
        }
        if path.contains('#') {
            return Err(component("fragment"));
        }
        let path = unescape(path).ok_or_else(|| AddressError::Escape { address: address.into() })?;
        if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
            return Err(AddressError::Path { address: address.into() });
        }
        if path.len() > SOCKET_PATH_LIMIT {
            let (length, limit) = (path.len(), SOCKET_PATH_LIMIT);
            return Err(AddressError::PathTooLong { address: address.into(), length, limit });
        }
        Ok(Self::Unix(path.into()))
    }
}

/// Resolves the `%` escapes of a URI path (RFC 3986).
fn unescape(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let high = char::from(rest.next()?).to_digit(16)?;
        let low = char::from(rest.next()?).to_digit(16)?;
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

impl FromStr for WorkloadApiAddress {
    type Err = AddressError;

    fn from_str(address: &str) -> Result<Self, AddressError> {
        if let Some(rest) = address.strip_prefix("unix:") {
            return Self::unix(address, rest);
        }
        let Some(rest) = address.strip_prefix("tcp:") else {
            return Err(match address {
                "" => AddressError::Missing,
                _ => AddressError::Scheme { address: address.into() },
            });
        };
        match rest.strip_prefix("//").unwrap_or(rest).parse::<SocketAddr>() {
            Ok(socket) if socket.port() != 0 => Ok(Self::Tcp(socket)),
            _ => Err(AddressError::Tcp { address: address.into() }),
        }
    }
}

impl fmt::Display for WorkloadApiAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> AddressError {
        text.parse::<WorkloadApiAddress>().unwrap_err()
    }

    #[test]
    fn each_wrong_part_is_named() {
        let component =
            |address: &str, component| AddressError::Component { address: address.into(), component };
        assert_eq!(refusal("unix://run/agent.sock"), component("unix://run/agent.sock", "host"));
        assert_eq!(refusal("unix:///agent.sock?a=b"), component("unix:///agent.sock?a=b", "query"));
        assert_eq!(refusal("unix:///agent.sock#a"), component("unix:///agent.sock#a", "fragment"));
        for text in ["unix:", "unix://", "unix:///", "unix:agent.sock", "unix:///run/", "unix:///a%00b"] {
            assert_eq!(refusal(text), AddressError::Path { address: text.into() });
        }
        for text in ["unix:///a%", "unix:///a%2", "unix:///a%zz", "unix:///a%ff"] {
            assert_eq!(refusal(text), AddressError::Escape { address: text.into() });
        }
        for text in
            ["tcp://localhost:80", "tcp://127.0.0.1", "tcp://127.0.0.1:80/", "tcp://127.0.0.1:0", "tcp:"]
        {
            assert_eq!(refusal(text), AddressError::Tcp { address: text.into() });
        }
        for text in ["/run/agent.sock", "http://127.0.0.1:80", "UNIX:///run/agent.sock"] {
            assert_eq!(refusal(text), AddressError::Scheme { address: text.into() });
        }
        assert_eq!(refusal(""), AddressError::Missing);
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_refused() {
        let address = |length: usize| format!("unix:///{}", "x".repeat(length - 1));
        let refused = AddressError::PathTooLong { address: address(108), length: 108, limit: 107 };
        assert_eq!(refusal(&address(108)), refused);
        assert!(address(107).parse::<WorkloadApiAddress>().is_ok());
    }

    #[test]
    fn both_spellings_of_both_kinds_are_taken() {
        let unix = |path: &str| WorkloadApiAddress::Unix(path.into());
        assert_eq!("unix:///run/agent.sock".parse(), Ok(unix("/run/agent.sock")));
        assert_eq!("unix:/run/agent.sock".parse(), Ok(unix("/run/agent.sock")));
        assert_eq!("unix:///run/my%20agent.sock".parse(), Ok(unix("/run/my agent.sock")));
        for text in ["tcp://127.0.0.1:8081", "tcp:127.0.0.1:8081", "tcp://[::1]:8081"] {
            assert!(matches!(text.parse(), Ok(WorkloadApiAddress::Tcp(_))), "{text}");
        }
    }

    #[test]
    fn what_is_printed_reads_back() {
        for text in ["unix:///run/agent.sock", "tcp://127.0.0.1:8081", "tcp://[::1]:8081"] {
            assert_eq!(text.parse::<WorkloadApiAddress>().unwrap().to_string(), text);
        }
    }
}
