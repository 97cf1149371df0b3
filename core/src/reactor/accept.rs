//! Accepting: every shard listens, and what it accepts goes to the shard with the fewest connections.
//!
//! A connection is handed on before any operation starts on it; [`super::Shared::connections`] counts it
//! for its receiver from then on.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::Ordering;

use io_uring::{opcode, types};
use tidelog_segment_log::disk::is_out_of_descriptors;

use super::ring::{Kind, Reaped, Tag};
use super::{Machine, Reactor};
use crate::shard::{Now, ShardRequest};

/// Wait after an accept failed for want of descriptors.
const ACCEPT_BACKOFF_MS: u64 = 100;
/// Refusals of one shard are logged this often at most; each is counted.
const REFUSAL_LOG_MS: u64 = 1_000;

/// Whether a line of a kind may be logged again; `again_ms` says when.
fn may_log(now: Now, again_ms: &mut u64) -> bool {
    let may = now.monotonic_ms >= *again_ms;
    if may {
        *again_ms = now.monotonic_ms + REFUSAL_LOG_MS;
    }
    may
}

impl<M: Machine> Reactor<M> {
    /// Keeps one accept per listener in the ring while connections may come.
    pub(super) fn accept(&mut self, now: Now) -> io::Result<()> {
        if self.stop_seen || !self.shard.is_ready() || now.monotonic_ms < self.accept_again_at_ms {
            return Ok(());
        }
        for (index, (_, listener)) in self.listeners.iter().enumerate() {
            let Some(accepting) = self.accepting.get_mut(index) else {
                continue;
            };
            if *accepting {
                continue;
            }
            const CLOEXEC: i32 = 0o2000000;
            let entry = opcode::Accept::new(
                types::Fd(listener.as_raw_fd()),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            )
            .flags(CLOEXEC)
            .build();
            let tag = Tag {
                kind: Kind::Accept,
                generation: 0,
                slot: index as u32,
            };
            // SAFETY: no address is asked for, so the entry points to nothing.
            unsafe { self.ring.borrow_mut().push(entry, tag)? };
            *accepting = true;
        }
        Ok(())
    }

    /// A connection, or why none could be had.
    pub(super) fn on_accept(&mut self, now: Now, reaped: Reaped) {
        let index = reaped.tag.slot as usize;
        if let Some(accepting) = self.accepting.get_mut(index) {
            *accepting = false;
        }
        let listener = self.listeners.get(index).map_or(0, |(listener, _)| *listener);
        let fd = match reaped.into_result() {
            Ok(fd) => fd,
            Err(error) => {
                if !self.stop_seen {
                    self.shard.metrics().accepts_failed.increment();
                    if is_out_of_descriptors(&error) {
                        self.disk.disk().make_room();
                    }
                    if may_log(now, &mut self.failure_log_ms) {
                        tracing::warn!(%error, "connections cannot be accepted now; it is tried again");
                    }
                    self.accept_again_at_ms = now.monotonic_ms + ACCEPT_BACKOFF_MS;
                    self.shard.wake_at(self.accept_again_at_ms);
                }
                return;
            }
        };
        // SAFETY: a successful accept answers a new descriptor that nobody else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        let _ = rustix::net::sockopt::set_tcp_nodelay(&socket, true);
        let peer = rustix::net::getpeername(&socket).ok().flatten();
        let Some(peer) = peer.and_then(|address| SocketAddr::try_from(address).ok()) else {
            return;
        };
        if self.is_at_connections_max() {
            self.shard.metrics().connections_refused.increment();
            if may_log(now, &mut self.refusal_log_ms) {
                let connections_max = self.shared.connections_max;
                tracing::warn!(
                    %peer,
                    connections_max,
                    "connection refused: the process has no descriptor for another; raise `ulimit -n` or lower log.open_files_max"
                );
            }
            return;
        }
        let own = self.shard.endpoint().own();
        let count = |shard: usize| {
            self.shared
                .connections
                .get(shard)
                .map_or(usize::MAX, |c| c.load(Ordering::Relaxed))
        };
        let target = (0..self.shared.connections.len())
            .min_by_key(|&s| (count(s), s != own))
            .unwrap_or(own);
        if target != own && count(target) < count(own) {
            let request = ShardRequest::Connection {
                socket,
                listener,
                peer,
            };
            match self.shard.endpoint().request(target, request) {
                Ok(()) => {
                    if let Some(connections) = self.shared.connections.get(target) {
                        connections.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Err(crate::mesh::RingFull(ShardRequest::Connection {
                    socket,
                    listener,
                    peer,
                })) => {
                    self.count_and_adopt(now, socket, listener, peer);
                }
                Err(_) => {}
            }
        } else {
            self.count_and_adopt(now, socket, listener, peer);
        }
    }

    fn is_at_connections_max(&self) -> bool {
        let connections = self.shared.connections.iter();
        let open: usize = connections.map(|count| count.load(Ordering::Relaxed)).sum();
        open >= self.shared.connections_max
    }

    fn count_and_adopt(&mut self, now: Now, socket: OwnedFd, listener: usize, peer: SocketAddr) {
        if let Some(connections) = self.shared.connections.get(self.shard.endpoint().own()) {
            connections.fetch_add(1, Ordering::Relaxed);
        }
        self.adopt(now, socket, listener, peer);
    }

    /// A connection of this shard is gone.
    pub(super) fn uncount(&mut self) {
        if let Some(connections) = self.shared.connections.get(self.shard.endpoint().own()) {
            connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
