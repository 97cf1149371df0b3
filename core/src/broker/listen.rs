//! Listening sockets: every shard has its own on the same port (SO_REUSEPORT).
//!
//! SO_REUSEPORT would let a second broker of the same user share the port unnoticed, so a plain
//! socket without it is bound first; that fails when anything listens there.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// Connections the kernel queues per socket before they are accepted.
const BACKLOG: i32 = 1024;

fn socket(address: &SocketAddr, reuse_port: bool) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let fd = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    if reuse_port {
        sockopt::set_socket_reuseport(&fd, true)?;
    }
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, true)?;
    }
    rustix::net::bind(&fd, address)?;
    Ok(fd)
}

/// One listening socket per shard at `address`; a port of 0 is chosen by the kernel, the same for all.
///
/// # Errors
/// `AddrInUse` when anything listens there already; whatever else the kernel says.
pub(super) fn listen(address: SocketAddr, shards: usize) -> io::Result<Vec<TcpListener>> {
    if address.port() != 0 {
        let probe = socket(&address, false)?;
        rustix::net::listen(&probe, 1)?;
    }
    let mut address = address;
    let mut sockets = Vec::with_capacity(shards);
    for _ in 0..shards {
        let listener = TcpListener::from(socket(&address, true)?);
        rustix::net::listen(&listener, BACKLOG)?;
        address = listener.local_addr()?;
        sockets.push(listener);
    }
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_shards_share_a_port_and_a_second_broker_does_not() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let sockets = listen(any, 3).expect("listen");
        let address = sockets[0].local_addr().expect("address");
        assert!(
            sockets
                .iter()
                .all(|socket| socket.local_addr().expect("address") == address)
        );
        let refused = listen(address, 1).expect_err("the port is in use");
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    }
}
