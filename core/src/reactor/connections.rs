//! Connections in the loop: taken over, received from, sent to, looked at and closed.
//!
//! Invariants: frames of a connection reach the machine in order; a connection is received from only while the
//! machine takes its frames and its client takes its answers; what it held is given back when nothing of it is
//! left in the kernel, and not before.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use super::inbound::Next;
use super::ring::Reaped;
use super::socket_memory::SocketMemory;
use super::{Machine, Reactor};
use crate::shard::{Now, SocketId};

/// Frames taken from one connection per turn, so that no pipelining peer keeps the shard.
const FRAMES_PER_TURN: usize = 64;
/// How often connections are looked at for frames that were begun and do not go on, and for idle buffers.
const STALL_LOOK_MS: u64 = 1_000;
/// Connections looked at in one turn.
const LOOKS_PER_TURN: usize = 512;

impl<M: Machine> Reactor<M> {
    pub(super) fn adopt(&mut self, now: Now, socket: OwnedFd, listener: usize, peer: SocketAddr) {
        let is_reserved = self.shard.reserve_connection();
        let memory = is_reserved.then(|| SocketMemory::open(socket.as_fd(), &mut self.shard));
        let Some(memory) = memory.flatten() else {
            if is_reserved {
                self.shard.release_connection();
            }
            self.shard.metrics().connections_refused.increment();
            tracing::warn!(%peer, "connection refused: this shard has no memory for another; raise memory.limit");
            self.uncount();
            return;
        };
        let id = self.sockets.insert(socket, memory, now.monotonic_ms);
        self.shard.on_accepted(now, id, listener, peer);
        self.read_later.push(id);
    }

    pub(super) fn on_receive(&mut self, now: Now, id: SocketId, reaped: Reaped) -> io::Result<()> {
        let socket = self.sockets.get(id);
        let Some(socket) = socket.filter(|socket| !socket.is_closing() && reaped.result > 0) else {
            if let Some(buffer) = reaped.buffer() {
                self.provided.give(buffer);
            }
            return self.on_receive_failed(now, id, reaped);
        };
        let received = reaped.result as usize;
        socket
            .inbound
            .received(received, &reaped, &mut self.provided, now.monotonic_ms);
        self.shard.metrics().received_bytes.add(received as u64);
        self.read_frames(now, id)
    }

    fn on_receive_failed(&mut self, now: Now, id: SocketId, reaped: Reaped) -> io::Result<()> {
        const ENOBUFS: i32 = 105;
        let Some(socket) = self.sockets.get(id) else {
            return Ok(());
        };
        let is_demoted = socket.inbound.receive_failed();
        match reaped.into_result() {
            _ if socket.is_closing() => self.close(id),
            // The buffers of this turn come back at its end.
            Err(error)
                if error.kind() == io::ErrorKind::Interrupted || error.raw_os_error() == Some(ENOBUFS) =>
            {
                self.read_frames(now, id)
            }
            Err(_) if is_demoted => {
                socket.inbound.let_go(&mut self.arena);
                self.read_frames(now, id)
            }
            _ => self.close(id),
        }
    }

    /// Gives the shard the frames that are whole, then receives more, as far as budgets allow.
    pub(super) fn read_frames(&mut self, now: Now, id: SocketId) -> io::Result<()> {
        for _ in 0..FRAMES_PER_TURN {
            if !self.shard.wants_frame(id) {
                return Ok(());
            }
            let request_max = self.shard.request_max_bytes();
            let Some(socket) = self.sockets.get(id) else {
                return Ok(());
            };
            // Both go on when the kernel is done: with the receive, or with the send.
            if socket.inbound.is_receiving() || socket.is_behind() || socket.is_closing() {
                return Ok(());
            }
            if !socket.inbound.take_in(&mut self.provided, &mut self.shard) {
                self.shard.on_receive_stalled();
                self.read_later.push(id);
                return Ok(());
            }
            match socket.inbound.next_frame(request_max, &self.shard) {
                Next::Frame(frame, charge_bytes) => {
                    self.shard.on_frame(now, &mut self.disk, id, frame, charge_bytes);
                }
                Next::Incomplete => {
                    if !std::mem::replace(&mut socket.wants_receive, true) {
                        self.receive_later.push(id);
                    }
                    return Ok(());
                }
                Next::TooLarge(size) => {
                    self.shard.on_frame_too_large(id, size);
                    return self.close(id);
                }
                Next::Bad(error) => {
                    self.shard.on_bad_frame(id, &error);
                    return self.close(id);
                }
            }
        }
        self.read_later.push(id);
        Ok(())
    }

    /// Receives again on the connections that wait for it. At the end of the turn: what its frames were used for
    /// is done in most cases, and their buffers can be used again.
    pub(super) fn receive_again(&mut self) -> io::Result<()> {
        let ring = Rc::clone(&self.ring);
        for id in std::mem::take(&mut self.receive_later) {
            let Some(socket) = self.sockets.get(id) else {
                continue;
            };
            socket.wants_receive = false;
            let received = socket.receive(
                id.slot,
                &mut ring.borrow_mut(),
                &self.provided,
                &mut self.arena,
                &mut self.shard,
            );
            match received {
                Ok(true) => {
                    if socket.inbound.is_bulk() {
                        socket.enlarge_receive(&mut self.shard);
                    }
                }
                Ok(false) => {
                    self.shard.on_receive_stalled();
                    self.read_later.push(id);
                }
                Err(_) => self.close(id)?,
            }
        }
        self.arena.reclaim(&mut self.shard);
        self.provided.publish();
        Ok(())
    }

    /// Starts sending what is queued, if nothing is being sent.
    pub(super) fn send(&mut self, id: SocketId) -> io::Result<()> {
        let Some(socket) = self.sockets.get(id) else {
            return Ok(());
        };
        let shard = &mut self.shard;
        if socket.has_much_to_send() {
            socket.enlarge_send(shard);
        }
        let mut ring = self.ring.borrow_mut();
        let sent = socket.send(id.slot, &mut ring, |bytes| shard.reserve_send(bytes));
        drop(ring);
        if sent.is_err() { self.close(id) } else { Ok(()) }
    }

    pub(super) fn on_send(&mut self, now: Now, id: SocketId, reaped: Reaped) -> io::Result<()> {
        let Some(socket) = self.sockets.get(id) else {
            return Ok(());
        };
        self.shard.release_send(socket.send_reserved_bytes());
        let Ok(sent) = reaped.into_result() else {
            socket.send_failed();
            return self.close(id);
        };
        let mut finished = Vec::new();
        socket.sent(sent as usize, &mut finished);
        let close = socket.is_closing() || socket.wants_close();
        self.shard.metrics().sent_bytes.add(u64::from(sent));
        for charge in finished {
            self.shard.on_sent(charge);
        }
        if close {
            return self.close(id);
        }
        self.send(id)?;
        self.read_frames(now, id)
    }

    /// Closes connections that began a frame and do not go on with it, and takes the buffers of those that
    /// send nothing. True: not all were looked at yet.
    pub(super) fn look_at_connections(&mut self, now: Now) -> io::Result<bool> {
        let ring = Rc::clone(&self.ring);
        let slots = self.next_look..self.sockets.slot_count().min(self.next_look + LOOKS_PER_TURN);
        self.next_look = slots.end;
        for id in self.sockets.ids_in(slots) {
            let Some(socket) = self.sockets.get(id) else {
                continue;
            };
            if socket.inbound.is_stalled(now.monotonic_ms) {
                self.shard.on_frame_stalled(id);
                self.close(id)?;
            } else if !socket.is_closing() {
                let is_idle = socket.inbound.is_bulk_and_idle(now.monotonic_ms);
                if is_idle {
                    socket.demote(id.slot, &mut ring.borrow_mut())?;
                }
                socket.look_at_memory(!is_idle && socket.inbound.is_bulk(), &mut self.shard);
            }
        }
        if self.next_look < self.sockets.slot_count() {
            return Ok(true);
        }
        self.next_look = 0;
        self.stall_look_ms = now.monotonic_ms + STALL_LOOK_MS;
        self.arena.trim(&mut self.shard);
        self.disk.disk_mut().report(self.shard.metrics());
        Ok(false)
    }

    /// Begins closing, or ends it when nothing is left in the kernel.
    pub(super) fn close(&mut self, id: SocketId) -> io::Result<()> {
        let ring = Rc::clone(&self.ring);
        let Some(socket) = self.sockets.get(id) else {
            return Ok(());
        };
        socket.begin_close(id.slot, &mut ring.borrow_mut())?;
        let mut charges = Vec::new();
        socket.drain_charges(&mut charges);
        if let Some((mut inbound, mut memory)) = self.sockets.release_if_quiet(id) {
            memory.close(&mut self.shard);
            for charge in charges {
                self.shard.on_sent(charge);
            }
            inbound.release(&mut self.provided, &mut self.arena, &mut self.shard);
            self.shard.release_connection();
            self.shard.on_closed(id);
            self.uncount();
        }
        Ok(())
    }
}
