//! What addresses a name stands for. Behind a trait, because no test can have a name of its own.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use futures_util::future::BoxFuture;

/// Asks for the addresses of a name.
pub(super) trait Resolve: fmt::Debug + Send + Sync {
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
}

/// The system's own, with its hosts file and search domains. It needs a thread while it waits and knows its own limits on time,
/// so there is only ever one question under way.
#[derive(Debug)]
pub(super) struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            if let Ok(address) = host.parse::<IpAddr>() {
                return Ok(vec![SocketAddr::new(address, port)]);
            }
            Ok(tokio::net::lookup_host((host, port)).await?.collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_of_both_kinds_are_taken_as_they_are() {
        for host in ["127.0.0.1", "fd00::1"] {
            let found = SystemResolver.resolve(host, 8444).await.unwrap();
            assert_eq!(found, [SocketAddr::new(host.parse().unwrap(), 8444)]);
        }
        let loopback = SystemResolver.resolve("localhost", 8444).await.unwrap();
        assert!(loopback.iter().any(|address| address.ip().is_loopback()), "{loopback:?}");
    }
}
