//! The one line a plugin says on stdout: where it listens, and that it speaks what SPIRE speaks.

use std::net::SocketAddr;
use std::path::PathBuf;

/// The longest sixth field that go-plugin does not take for a certificate.
const NO_CERTIFICATE: usize = 50;

/// Where a plugin listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Why the first line is no handshake.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("incompatible API version with plugin. Plugin version: {presented}, Client versions: [1]")]
    ApiVersion { presented: String },
    #[error("malformed tcp address: {presented}")]
    BadTcpAddress { presented: String },
    #[error("plugin presents a TLS certificate, which crashes SPIRE Server")]
    Certificate,
    #[error("incompatible core API version with plugin: {presented}")]
    CoreVersion { presented: String },
    #[error("unknown address type: {presented}")]
    Network { presented: String },
    #[error("unsupported plugin protocol {presented:?}. Supported: [grpc]")]
    Protocol { presented: String },
    #[error("Unrecognized remote plugin message: {line}")]
    Unrecognized { line: String },
}

/// Reads the first line.
pub(crate) fn parse(line: &str) -> Result<Address, HandshakeError> {
    let fields: Vec<&str> = line.trim().split('|').collect();
    let [core, api, network, address, rest @ ..] = fields.as_slice() else {
        return Err(HandshakeError::Unrecognized { line: line.trim().to_owned() });
    };
    if *core != "1" {
        return Err(HandshakeError::CoreVersion { presented: (*core).to_owned() });
    }
    if *api != "1" {
        return Err(HandshakeError::ApiVersion { presented: (*api).to_owned() });
    }
    let address = match *network {
        "unix" => Address::Unix(PathBuf::from(address)),
        "tcp" => Address::Tcp(
            address
                .parse()
                .map_err(|_| HandshakeError::BadTcpAddress { presented: (*address).to_owned() })?,
        ),
        other => return Err(HandshakeError::Network { presented: other.to_owned() }),
    };
    // A plugin that names no protocol speaks the oldest one.
    let protocol = rest.first().copied().unwrap_or("netrpc");
    if protocol != "grpc" {
        return Err(HandshakeError::Protocol { presented: protocol.to_owned() });
    }
    match rest.get(1) {
        Some(certificate) if certificate.len() > NO_CERTIFICATE => Err(HandshakeError::Certificate),
        _ => Ok(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(line: &str) -> String {
        parse(line).unwrap_err().to_string()
    }

    #[test]
    fn a_line_that_is_no_handshake_is_refused_in_the_words_of_spire() {
        assert_eq!(refusal("hello"), "Unrecognized remote plugin message: hello");
        assert_eq!(
            refusal("1|2|unix|/s|grpc|"),
            "incompatible API version with plugin. Plugin version: 2, Client versions: [1]"
        );
        assert!(refusal("2|1|unix|/s|grpc|").starts_with("incompatible core API version with plugin"));
        assert_eq!(refusal("1|1|pipe|/s|grpc|"), "unknown address type: pipe");
        assert_eq!(refusal("1|1|unix|/s"), "unsupported plugin protocol \"netrpc\". Supported: [grpc]");
        assert!(refusal("1|1|tcp|localhost|grpc").starts_with("malformed tcp address"));
        let certificate = format!("1|1|unix|/s|grpc|{}", "A".repeat(51));
        assert_eq!(parse(&certificate), Err(HandshakeError::Certificate));
    }

    #[test]
    fn five_or_six_fields_are_a_handshake() {
        let unix = Ok(Address::Unix("/tmp/plugin1".into()));
        assert_eq!(parse("1|1|unix|/tmp/plugin1|grpc|\n"), unix);
        assert_eq!(parse("1|1|unix|/tmp/plugin1|grpc"), unix);
        assert_eq!(parse("1|1|tcp|127.0.0.1:10000|grpc|"), Ok(Address::Tcp(([127, 0, 0, 1], 10000).into())));
    }
}
