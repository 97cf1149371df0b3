//! Listening sockets: every shard has its own on the same port (SO_REUSEPORT).
//!
//! SO_REUSEPORT would let a second broker of the same user share the port unnoticed, so a plain
//! socket without it is bound first; that fails when anything listens there.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// Time between attempts to bind a port that a killed broker may still hold.
const POLL: Duration = Duration::from_millis(10);
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
/// `AddrInUse` when anything still listens there after `patience`: the kernel closes the sockets that a killed
/// broker's rings hold a moment after its process is gone. Whatever else the kernel says.
pub(super) fn listen(address: SocketAddr, shards: usize, patience: Duration) -> io::Result<Vec<TcpListener>> {
    if address.port() != 0 {
        let started = Instant::now();
        while let Err(error) = socket(&address, false).and_then(|probe| Ok(rustix::net::listen(&probe, 1)?)) {
            if error.kind() != io::ErrorKind::AddrInUse || started.elapsed() >= patience {
                return Err(error);
            }
            // The condition is in the kernel and cannot be awaited: poll it.
            std::thread::sleep(POLL);
        }
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
        let sockets = listen(any, 3, Duration::ZERO).expect("listen");
        let address = sockets[0].local_addr().expect("address");
        assert!(
            sockets
                .iter()
                .all(|socket| socket.local_addr().expect("address") == address)
        );
        let refused = listen(address, 1, Duration::ZERO).expect_err("the port is in use");
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_port_that_becomes_free_is_waited_for() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let sockets = listen(any, 1, Duration::ZERO).expect("listen");
        let address = sockets[0].local_addr().expect("address");
        let (begun, begins) = std::sync::mpsc::channel();
        let waiter = std::thread::spawn(move || {
            begun.send(()).expect("the test lives");
            listen(address, 1, Duration::from_secs(60))
        });
        begins.recv().expect("the waiter lives");
        drop(sockets);
        waiter.join().expect("no panic").expect("free in the end");
    }
}
