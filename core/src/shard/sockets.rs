//! Connections and budgets: what may be read, what leaves in which order, what is given back when.

use std::net::SocketAddr;
use std::sync::Arc;

use tidelog_net::frame::FrameError;

use super::connection::Connection;
use super::leases::Pool;
use super::{Charge, Effect, Now, Origin, Parts, ReceivePool, RequestKind, Response, Shard, SocketId};
use crate::request_context::{ClientSoftware, ConnectionContext, ConnectionId, Principal};

/// Requests kept for a full ring before sockets are no longer read.
const BACKLOG_MAX: usize = 1024;
/// What a connection takes of the control pool: its state here and in the engine.
const CONNECTION_BYTES: usize = 1024;
/// Partitions that a shard has room for, however little memory there is.
const PARTITIONS_PER_SHARD_MIN: usize = 64;
/// What a partition takes at rest, with one small segment; a test measures it.
pub(super) const PARTITION_BYTES: usize = 13 << 9;
/// What a shard takes that does nothing, and the process without shards, as measured with 2 and 16 of them.
const SHARD_BYTES: usize = 384 << 10;
const PROCESS_BYTES: usize = 832 << 10;

/// Partitions of all shards that memory is set aside for: two thirds of what the control pools have besides what a
/// shard and the process take at rest.
pub(super) fn partitions_max(memory_limit_bytes: u64, shards: usize) -> u64 {
    let share = usize::try_from(memory_limit_bytes).unwrap_or(usize::MAX) / shards.max(1);
    let room = control_bytes(share).saturating_sub(SHARD_BYTES + PROCESS_BYTES) / 3 * 2;
    (room / PARTITION_BYTES).max(PARTITIONS_PER_SHARD_MIN) as u64 * shards as u64
}

/// Of a shard's share of the memory limit, what the control pool gets: connections, sessions, groups, partitions.
pub(super) fn control_bytes(share: usize) -> usize {
    share / 5
}

impl ReceivePool for Shard {
    fn reserve_receive(&mut self, bytes: usize) -> bool {
        let reserved = self.receive_budget.reserve(bytes);
        if !reserved {
            self.leases.want(Pool::Receive, bytes);
        }
        reserved
    }

    fn release_receive(&mut self, bytes: usize) {
        self.receive_budget.release(bytes);
    }

    fn can_ever_receive(&self, bytes: usize) -> bool {
        self.receive_budget.could_ever_hold(bytes)
    }
}

impl Shard {
    /// Tells what the pools hold. The sockets' part of the receive and fetch pools is told by itself: it is the
    /// kernel's memory, not the process's.
    pub(super) fn publish_memory(&mut self) {
        let process = if self.own == 0 { PROCESS_BYTES } else { 0 };
        let control = process
            + SHARD_BYTES
            + self.control_budget.used_bytes()
            + self.fetch_sessions.used_bytes()
            + self.partitions.len() * PARTITION_BYTES;
        let metrics = &self.metrics;
        let (receive, send) = (
            metrics.socket_receive_bytes.get(),
            metrics.socket_send_bytes.get(),
        );
        metrics.memory_control.set(control as i64);
        metrics.memory_sockets.set(receive + send);
        metrics
            .memory_receive
            .set(self.receive_budget.used_bytes() as i64 - receive);
        metrics
            .memory_fetch
            .set(self.fetch_budget.used_bytes() as i64 - send);
        let storage = self.partitions.memory();
        let shown = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        metrics.memory_storage.set(shown(storage.used_bytes()));
        metrics.memory_limit_storage.set(shown(storage.own_limit_bytes()));
        let limits = [
            (&metrics.memory_limit_control, &self.control_budget),
            (&metrics.memory_limit_receive, &self.receive_budget),
            (&metrics.memory_limit_fetch, &self.fetch_budget),
        ];
        for (gauge, budget) in limits {
            gauge.set(budget.limit_bytes() as i64);
        }
    }

    /// Records in memory count against `memory.limit`: each shard keeps its part of them free in its pools, half in
    /// each of the two that take the most.
    pub(super) fn withhold_for_records(&mut self) {
        let part = usize::try_from(self.partitions.memory().used_part_bytes()).unwrap_or(usize::MAX);
        self.receive_budget.withhold(part / 2);
        self.fetch_budget.withhold(part.div_ceil(2));
    }

    /// Bytes of the receive pool.
    pub fn receive_pool_bytes(&self) -> usize {
        self.receive_budget.limit_bytes()
    }

    /// Whether less than half of the receive and fetch pools is in use.
    pub fn has_memory_to_spare(&self) -> bool {
        let pools = [&self.receive_budget, &self.fetch_budget];
        pools
            .iter()
            .all(|pool| pool.used_bytes() < pool.limit_bytes() / 2)
    }

    /// Reserves what a connection takes while it does nothing.
    #[must_use]
    pub fn reserve_connection(&mut self) -> bool {
        // Partitions take their part first, but never all of the pool: somebody must be able to delete some.
        let limit = self.control_budget.limit_bytes();
        let partitions = (self.partitions.len() * PARTITION_BYTES).min(limit / 3 * 2);
        self.control_budget.used_bytes() + CONNECTION_BYTES + partitions <= limit
            && self.control_budget.reserve(CONNECTION_BYTES)
    }

    /// Gives back what [`Shard::reserve_connection`] reserved.
    pub fn release_connection(&mut self) {
        self.control_budget.release(CONNECTION_BYTES);
    }

    /// A socket is not read because its budget is spent.
    pub fn on_receive_stalled(&mut self) {
        self.metrics.budget_waits.increment();
    }

    /// An answer is out (or will never be): its charge comes back.
    pub fn on_sent(&mut self, charge: Charge) {
        self.receive_budget.release(charge.receive_bytes);
        self.fetch_budget.release(charge.fetch_bytes);
    }

    /// Reserves memory for copies that a send makes. Refused: send without copying.
    pub fn reserve_send(&mut self, bytes: usize) -> bool {
        self.fetch_budget.reserve(bytes)
    }

    /// Gives back what [`Shard::reserve_send`] reserved.
    pub fn release_send(&mut self, bytes: usize) {
        self.fetch_budget.release(bytes);
    }

    /// A connection of this shard.
    pub fn on_accepted(&mut self, now: Now, socket: SocketId, listener: usize, peer: SocketAddr) {
        let name = self
            .listeners
            .get(listener)
            .map_or_else(|| Arc::from(""), |(name, ..)| Arc::clone(name));
        let context = ConnectionContext {
            connection: ConnectionId {
                shard: self.own,
                slot: socket.slot,
                generation: socket.generation,
            },
            listener: name,
            peer: Some(peer),
            principal: Principal::anonymous(),
            client_software: ClientSoftware::default(),
        };
        self.metrics.connections_accepted.increment();
        self.connections.insert(
            socket,
            Connection::new(Arc::new(context), listener, now.monotonic_ms),
        );
    }

    /// The engine has released the socket.
    pub fn on_closed(&mut self, socket: SocketId) {
        if let Some(connection) = self.connections.remove(&socket) {
            self.held_back.remove(&socket);
            self.metrics.connections_closed.increment();
            for charge in connection.abandoned_charges() {
                self.on_sent(charge);
            }
            for pending in connection.fetches {
                self.abandon_fetch(pending);
            }
        }
    }

    /// Whether this connection may have another request started. Where not, an [`Effect`] says when it may.
    pub fn wants_frame(&mut self, socket: SocketId) -> bool {
        if self.stopping || !self.connections.get(&socket).is_some_and(Connection::has_room) {
            return false;
        }
        if self.is_backlogged() {
            self.held_back.insert(socket);
            return false;
        }
        true
    }

    pub(super) fn is_backlogged(&self) -> bool {
        // What a silent shard is kept from is no reason to keep clients of the others waiting.
        let mut backlogs = self.backlog.iter().enumerate();
        backlogs.any(|(shard, kept)| kept.len() >= BACKLOG_MAX && !self.endpoint.is_silent(shard))
    }

    /// The client announced a frame that this shard could never hold.
    pub fn on_frame_too_large(&mut self, socket: SocketId, size_bytes: usize) {
        self.metrics.frames_refused.increment();
        let peer = self.peer_of(socket);
        let limit_bytes = self.receive_budget.limit_bytes();
        tracing::warn!(%peer, size_bytes, limit_bytes, "closed: a frame larger than this shard's receive memory; raise memory.limit");
    }

    /// The first bytes are no frame.
    pub fn on_bad_frame(&mut self, socket: SocketId, error: &FrameError) {
        self.metrics.frames_refused.increment();
        let peer = self.peer_of(socket);
        tracing::warn!(%peer, "closed: {error}");
    }

    /// A frame was begun and nothing more of it came.
    pub fn on_frame_stalled(&mut self, socket: SocketId) {
        self.metrics.connections_idle_closed.increment();
        let peer = self.peer_of(socket);
        tracing::warn!(%peer, "closed: a request was begun and not finished");
    }

    pub(super) fn peer_of(&self, socket: SocketId) -> String {
        let peer = self
            .connections
            .get(&socket)
            .and_then(|connection| connection.context.peer);
        peer.map_or_else(|| "unknown".to_owned(), |peer| peer.to_string())
    }

    /// Ends a request: its answer takes its place, and what is ready leaves in order.
    pub(super) fn respond(&mut self, origin: &Origin, parts: Parts, fetch_bytes: usize) {
        let charge = Charge {
            receive_bytes: origin.charge_bytes,
            fetch_bytes,
        };
        self.finish(origin, Some(Response { parts, charge }));
    }

    pub(super) fn finish(&mut self, origin: &Origin, response: Option<Response>) {
        let time = match origin.kind {
            RequestKind::Produce => &self.metrics.produce_time,
            RequestKind::Fetch => &self.metrics.fetch_time,
            RequestKind::Other => &self.metrics.request_time,
        };
        time.observe(origin.arrived_at.elapsed());
        let Some(connection) = self.connections.get_mut(&origin.socket) else {
            let unanswered = Charge {
                receive_bytes: origin.charge_bytes,
                fetch_bytes: 0,
            };
            self.on_sent(response.map_or(unanswered, |response| response.charge));
            return;
        };
        if response.is_none() {
            self.receive_budget.release(origin.charge_bytes);
        }
        connection.complete(origin.place, response);
        self.send_ready(origin.socket);
    }

    /// Ends a connection at this request: what came before it is still answered.
    pub(super) fn close_at(&mut self, origin: &Origin) {
        self.receive_budget.release(origin.charge_bytes);
        if let Some(connection) = self.connections.get_mut(&origin.socket) {
            connection.close_at(origin.place);
            self.send_ready(origin.socket);
        }
    }

    pub(super) fn send_ready(&mut self, socket: SocketId) {
        let Some(connection) = self.connections.get_mut(&socket) else {
            return;
        };
        let before = self.effects.len();
        let effects = &mut self.effects;
        let close = connection.take_ready(|response| effects.push(Effect::Respond(socket, response)));
        if self.effects.len() == before {
            self.effects.push(Effect::ReadAgain(socket));
        }
        if close {
            self.effects.push(Effect::CloseAfterSend(socket));
        }
    }

    /// What the engine is to do since the last call.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }
}
