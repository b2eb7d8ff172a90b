//! From a URL's host to addresses: which of them may be dialled, and how many threads may wait for a name server.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::error::FetchError;
use super::url::EndpointUrl;

/// Look-ups at the same time. Each takes a thread that nobody can take back, for as long as the name server is silent, and
/// handshakes that wait for their signature need threads too.
const MAX_LOOKUPS: usize = 32;

/// Where a redirect may lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The operator's own URL may name any address.
    Anywhere,
    /// A redirect's target: only outside, or where the configured URL was already.
    OutsideOr(Neighbourhood),
}

/// Which kind of address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Neighbourhood {
    /// This machine.
    Loopback,
    /// This network segment, where cloud metadata services are too.
    LinkLocal,
    /// Everywhere else.
    Outside,
    /// A network that the rest of the world cannot reach: what listens there may rely on that.
    Private,
}

/// Looks names up, as the system does.
#[derive(Clone, Debug)]
pub(crate) struct Resolver(Arc<Semaphore>);

impl Neighbourhood {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) if v4.is_loopback() || v4.is_unspecified() => Self::Loopback,
            IpAddr::V4(v4) if v4.is_link_local() => Self::LinkLocal,
            IpAddr::V4(v4) if v4.is_private() || is_shared(v4) => Self::Private,
            IpAddr::V6(v6) if v6.is_loopback() || v6.is_unspecified() => Self::Loopback,
            IpAddr::V6(v6) if v6.is_unicast_link_local() => Self::LinkLocal,
            // The metadata address of one large cloud is not link-local in IPv6.
            IpAddr::V6(v6) if v6.segments() == [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => Self::LinkLocal,
            IpAddr::V6(v6) if v6.is_unique_local() => Self::Private,
            IpAddr::V4(_) | IpAddr::V6(_) => Self::Outside,
        }
    }
}

// 100.64.0.0/10 (RFC 6598).
fn is_shared(address: Ipv4Addr) -> bool {
    matches!(address.octets(), [100, 64..=127, ..])
}

impl Reach {
    fn allows(self, address: IpAddr) -> bool {
        let there = Neighbourhood::of(address);
        match self {
            Self::Anywhere => true,
            Self::OutsideOr(home) => there == Neighbourhood::Outside || there == home,
        }
    }
}

impl Default for Resolver {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_LOOKUPS)))
    }
}

impl Resolver {
    /// The addresses of `url` within `reach`; at least one.
    pub(crate) async fn addresses(
        &self,
        url: &EndpointUrl,
        reach: Reach,
    ) -> Result<Vec<SocketAddr>, FetchError> {
        let unresolved = |source| FetchError::Resolve { host: url.host().to_owned(), source };
        let found = match url.ip() {
            Some(ip) => vec![SocketAddr::new(ip, url.port())],
            None => self.look_up(url.host().to_owned(), url.port()).await.map_err(unresolved)?,
        };
        if found.is_empty() {
            return Err(unresolved(io::ErrorKind::NotFound.into()));
        }
        let allowed: Vec<_> = found.into_iter().filter(|address| reach.allows(address.ip())).collect();
        if allowed.is_empty() {
            return Err(FetchError::RedirectInwards { url: url.to_string() });
        }
        Ok(allowed)
    }

    async fn look_up(&self, host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
        let place = Arc::clone(&self.0).acquire_owned().await.map_err(io::Error::other)?;
        let looking = tokio::task::spawn_blocking(move || {
            // Kept by the thread: the fetch may have given up long before the name server answers.
            let _place = place;
            (host.as_str(), port).to_socket_addrs().map(Iterator::collect)
        });
        looking.await.map_err(io::Error::other)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(home: &str) -> Reach {
        Reach::OutsideOr(Neighbourhood::of(home.parse().unwrap()))
    }

    #[test]
    fn a_redirect_does_not_lead_inwards() {
        let inwards = [
            "127.0.0.1",
            "0.0.0.0",
            "::1",
            "::",
            "169.254.169.254",
            "fe80::1",
            "::ffff:127.0.0.1",
            "fd00:ec2::254",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "fd12::1",
        ];
        for address in inwards {
            assert!(!reach("198.51.100.7").allows(address.parse().unwrap()), "{address}");
        }
        assert!(reach("198.51.100.7").allows("203.0.113.9".parse().unwrap()));
        assert!(reach("198.51.100.7").allows("100.128.0.1".parse().unwrap()));
        assert!(reach("198.51.100.7").allows("2001:db8::1".parse().unwrap()));
    }

    #[test]
    fn where_the_configured_url_was_already_a_redirect_may_stay() {
        assert!(reach("127.0.0.1").allows("::1".parse().unwrap()));
        assert!(reach("10.0.0.1").allows("192.168.1.1".parse().unwrap()));
        assert!(!reach("127.0.0.1").allows("169.254.169.254".parse().unwrap()));
        assert!(!reach("10.0.0.1").allows("127.0.0.1".parse().unwrap()));
        assert!(Reach::Anywhere.allows("169.254.169.254".parse().unwrap()));
    }

    #[tokio::test]
    async fn addresses_need_no_place_and_names_give_theirs_back() {
        let resolver = Resolver(Arc::new(Semaphore::new(1)));
        let addresses = async |url: &str, reach| resolver.addresses(&url.parse().unwrap(), reach).await;
        let local = addresses("https://localhost:8443/", Reach::Anywhere).await.unwrap();
        assert!(local.iter().all(|address| address.ip().is_loopback() && address.port() == 8443));
        assert!(matches!(
            addresses("https://localhost/", reach("198.51.100.7")).await,
            Err(FetchError::RedirectInwards { .. })
        ));
        assert_eq!(resolver.0.available_permits(), 1);
        let _taken = resolver.0.acquire().await.unwrap();
        assert_eq!(addresses("https://[::1]:1/", Reach::Anywhere).await.unwrap().len(), 1);
    }
}
