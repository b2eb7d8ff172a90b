//! The listening socket. `[::]` takes IPv4 as well, whatever the system's default is.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket};
use tracing::warn;

const BACKLOG: u32 = 1024;

pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => match TcpSocket::new_v6() {
            Ok(socket) => socket,
            Err(error) if address.ip().is_unspecified() => {
                warn!(%error, "no ipv6 on this machine, listening on ipv4 alone");
                return bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port()));
            }
            Err(error) => return Err(error),
        },
    };
    if address.is_ipv6() && address.ip().is_unspecified() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    }
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn the_ipv6_wildcard_takes_ipv4_too() {
        let listener = bind("[::]:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    }

    #[tokio::test]
    async fn an_address_in_use_is_refused() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let refusal = bind(listener.local_addr().unwrap()).unwrap_err();
        assert_eq!(refusal.kind(), io::ErrorKind::AddrInUse);
    }
}
