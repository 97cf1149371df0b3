//! What the kernel may keep for a socket, set by us and charged: its receive buffer to the receive pool, its send
//! buffer to the fetch pool.
//!
//! A connection begins with small buffers, a fixed part of the pool. One that receives or sends large pieces
//! gets large ones while most of the memory is free, and loses them when it is quiet or memory is short. The kernel answers what it really allows
//! (twice what is asked, within its own bounds), and that is what is charged.

use std::os::fd::BorrowedFd;

use super::Machine;

/// A socket has at least this, per direction.
const QUIET_MIN_BYTES: usize = 32 << 10;
/// And at most this, also one that is not quiet.
const LARGE_BYTES: usize = 1 << 20;
/// This many quiet connections fit into a pool.
const QUIET_PER_POOL: usize = 8192;
/// More than this queued for a client makes it worth a large send buffer.
pub(super) const LARGE_SEND_BYTES: usize = 256 << 10;

#[derive(Clone, Copy)]
enum Direction {
    Receive,
    Send,
}

impl Direction {
    /// Asks the kernel for so many bytes. Answers how many it allows.
    fn set(self, socket: BorrowedFd<'_>, bytes: usize) -> usize {
        use rustix::net::sockopt::{
            set_socket_recv_buffer_size, set_socket_send_buffer_size, socket_recv_buffer_size,
            socket_send_buffer_size,
        };
        // The kernel doubles what it is told, for its own bookkeeping.
        let told = bytes / 2;
        let allowed = match self {
            Direction::Receive => {
                set_socket_recv_buffer_size(socket, told).and_then(|()| socket_recv_buffer_size(socket))
            }
            Direction::Send => {
                set_socket_send_buffer_size(socket, told).and_then(|()| socket_send_buffer_size(socket))
            }
        };
        // Fails only on a socket that is broken already: it keeps nothing.
        allowed.unwrap_or(0)
    }

    fn reserve(self, machine: &mut impl Machine, bytes: usize) -> bool {
        match self {
            Direction::Receive => machine.reserve_receive(bytes),
            Direction::Send => machine.reserve_send(bytes),
        }
    }

    fn release(self, machine: &mut impl Machine, bytes: usize) {
        match self {
            Direction::Receive => machine.release_receive(bytes),
            Direction::Send => machine.release_send(bytes),
        }
    }
}

/// What one direction of a socket is charged.
struct Charged {
    direction: Direction,
    bytes: usize,
    /// Large buffers were asked for since the last look.
    was_asked: bool,
}

impl Charged {
    fn resize(&mut self, socket: BorrowedFd<'_>, bytes: usize, machine: &mut impl Machine) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        if more > 0 && !self.direction.reserve(machine, more) {
            return false;
        }
        let reserved = self.bytes + more;
        let allowed = self.direction.set(socket, bytes);
        // More than was asked for is what the kernel gives at least; it must be paid for as well.
        if allowed > reserved && !self.direction.reserve(machine, allowed - reserved) {
            self.charged(reserved, machine);
            return false;
        }
        if allowed < reserved {
            self.direction.release(machine, reserved - allowed);
        }
        self.charged(allowed, machine);
        true
    }

    fn close(&mut self, machine: &mut impl Machine) {
        self.direction.release(machine, self.bytes);
        self.charged(0, machine);
    }

    fn charged(&mut self, bytes: usize, machine: &mut impl Machine) {
        let metrics = machine.metrics();
        let gauge = match self.direction {
            Direction::Receive => &metrics.socket_receive_bytes,
            Direction::Send => &metrics.socket_send_bytes,
        };
        gauge.add(bytes as i64 - self.bytes as i64);
        self.bytes = bytes;
    }
}

/// See the file's head.
pub(super) struct SocketMemory {
    quiet_bytes: usize,
    receive: Charged,
    send: Charged,
}

/// The buffers of a quiet connection, for a pool of so many bytes.
fn quiet_bytes(pool_bytes: usize) -> usize {
    (pool_bytes / QUIET_PER_POOL).clamp(QUIET_MIN_BYTES, LARGE_BYTES)
}

impl SocketMemory {
    /// Sets and charges the buffers of a new connection. None: there is no memory for it.
    pub(super) fn open(socket: BorrowedFd<'_>, machine: &mut impl Machine) -> Option<Self> {
        let mut memory = Self::unset();
        memory.quiet_bytes = quiet_bytes(machine.receive_pool_bytes());
        let quiet = memory.quiet_bytes;
        if memory.receive.resize(socket, quiet, machine) && memory.send.resize(socket, quiet, machine) {
            return Some(memory);
        }
        memory.close(machine);
        None
    }

    /// What the kernel gives by itself, not charged.
    pub(super) fn unset() -> Self {
        let charged = |direction| Charged {
            direction,
            bytes: 0,
            was_asked: false,
        };
        Self {
            quiet_bytes: 0,
            receive: charged(Direction::Receive),
            send: charged(Direction::Send),
        }
    }

    /// The connection receives large frames.
    pub(super) fn enlarge_receive(&mut self, socket: BorrowedFd<'_>, machine: &mut impl Machine) {
        Self::enlarge(&mut self.receive, socket, machine);
    }

    /// The connection is sent large answers.
    pub(super) fn enlarge_send(&mut self, socket: BorrowedFd<'_>, machine: &mut impl Machine) {
        Self::enlarge(&mut self.send, socket, machine);
    }

    fn enlarge(charged: &mut Charged, socket: BorrowedFd<'_>, machine: &mut impl Machine) {
        // Once per look: what is refused now is refused with the next frame, too.
        let is_first = !std::mem::replace(&mut charged.was_asked, true);
        if is_first && charged.bytes < LARGE_BYTES && machine.has_memory_to_spare() {
            let _refused = charged.resize(socket, LARGE_BYTES, machine);
        }
    }

    /// Once per look: a direction that needs large buffers no more has small ones again.
    pub(super) fn look(
        &mut self,
        socket: BorrowedFd<'_>,
        is_receiving_much: bool,
        is_sending: bool,
        machine: &mut impl Machine,
    ) {
        let (receive, send) = (&mut self.receive, &mut self.send);
        let is_plenty = machine.has_memory_to_spare();
        for (charged, is_needed) in [(receive, is_receiving_much), (send, is_sending)] {
            charged.was_asked = false;
            if !(is_needed && is_plenty) && charged.bytes > self.quiet_bytes {
                let _smaller = charged.resize(socket, self.quiet_bytes, machine);
            }
        }
    }

    /// The socket is closed.
    pub(super) fn close(&mut self, machine: &mut impl Machine) {
        self.receive.close(machine);
        self.send.close(machine);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_sockets_are_a_part_of_the_pool_within_bounds() {
        assert_eq!(quiet_bytes(0), QUIET_MIN_BYTES);
        assert_eq!(quiet_bytes(1 << 30), 128 << 10);
        assert_eq!(quiet_bytes(usize::MAX), LARGE_BYTES);
    }
}
