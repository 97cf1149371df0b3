//! A shard: the sans-I/O state machine that owns partitions, connections and budgets.
//!
//! Owned by one thread. Inputs are method calls with the time (`frame`, `disk completion`,
//! `message of another shard`, `timer`); outputs are [`Effect`]s for the engine, messages in the
//! rings and operations on the disk. It knows no socket, no io_uring and no executor.
//!
//! Rooms: `connection` (order of answers), `requests` (decode, guard, dispatch), `produce`,
//! `fetch`, `list_offsets`, `cold` (reads that are verified before they are sent), `admin`
//! (answers from the metadata image), `control` (group 0, on shard 0), `partition` (the owner's
//! side), `budget`, `timers`.
//!
//! Invariants: answers leave a connection in request order; what a full ring does not take is kept
//! and sockets are not read meanwhile; a fetch that waits holds only its request.

mod admin;
mod budget;
mod cold;
mod connection;
mod control;
mod fetch;
mod list_offsets;
mod partition;
mod partitions;
mod produce;
mod requests;
#[cfg(test)]
mod tests;
mod timers;

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use tidelog_net::frame::FrameError;
use tidelog_net::{ErrorCode, Uuid};
use tidelog_segment_log::disk::{Completion, Disk, HotBytes};
use tidelog_segment_log::ids::{PartitionKey, TopicId};
use tidelog_segment_log::log::PartitionLog;

use crate::guard::Guard;
use crate::mesh::{Endpoint, RingFull};
use crate::metadata::{MetadataImage, TopicImage};
use crate::metrics::{ShardCells, ShardMetrics};
use crate::request_context::{ClientSoftware, ConnectionContext, ConnectionId, Principal};
use crate::settings::Settings;
use budget::Budget;
use connection::Connection;
use control::{Control, ControlAnswer, ControlOp};
use partition::{Answers, PartitionAnswer, PartitionOp};
use partitions::Partitions;
use timers::TimerWheel;

pub use control::{ControlSeed, group_zero_directory, group_zero_evidence};
pub use partitions::DirectorySeed;

/// Requests kept for a full ring before sockets are no longer read.
const BACKLOG_MAX: usize = 1024;
/// How often connections are looked at for idleness, milliseconds.
const IDLE_LOOK_MS: u64 = 1_000;
/// How often partitions are ticked (age rolls, interval durability), milliseconds.
const TICK_MS: u64 = 50;

/// A socket of the engine: its slot and the slot's generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketId {
    /// Slot in the engine's table.
    pub slot: u32,
    /// Raised each time the slot is used again (24 bits).
    pub generation: u32,
}

/// The time an input is handled at.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Milliseconds of this shard's monotonic clock: deadlines.
    pub monotonic_ms: u64,
    /// Milliseconds since 1970: timestamps of records.
    pub wall_ms: i64,
}

/// A piece of an answer.
#[derive(Debug)]
pub enum SendPart {
    /// Bytes of their own.
    Bytes(Bytes),
    /// Bytes of a log, leased until they are sent.
    Log(HotBytes, usize),
}

impl SendPart {
    /// What is still to be sent of it.
    pub fn bytes(&self) -> &[u8] {
        match self {
            SendPart::Bytes(bytes) => bytes,
            SendPart::Log(bytes, sent) => bytes.get(*sent..).unwrap_or(&[]),
        }
    }

    /// Drops the first `sent` bytes.
    pub fn advance(&mut self, sent: usize) {
        match self {
            SendPart::Bytes(bytes) => *bytes = bytes.slice(sent.min(bytes.len())..),
            SendPart::Log(_, from) => *from += sent,
        }
    }
}

/// A whole answer, with what it holds of the budgets until it is sent.
#[derive(Debug)]
pub struct Response {
    /// The frame, size prefix included.
    pub parts: VecDeque<SendPart>,
    /// Given back when it is out.
    pub charge: Charge,
}

/// What a request and its answer hold of a shard's budgets, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Charge {
    /// Of the receive budget: the request's frame.
    pub receive_bytes: usize,
    /// Of the fetch budget: buffers of the answer.
    pub fetch_bytes: usize,
}

/// What the engine is to do.
#[derive(Debug)]
pub enum Effect {
    /// Queue an answer on a socket.
    Respond(SocketId, Response),
    /// Close a socket now.
    Close(SocketId),
    /// Close it when everything queued is out.
    CloseAfterSend(SocketId),
    /// Reading may go on.
    ReadAgain(SocketId),
}

/// Where an answer belongs: a pending request of a shard, and its part of it.
#[derive(Clone, Copy, Debug)]
pub struct ReplyTo {
    /// The shard that asked.
    pub shard: u16,
    /// Its pending request.
    pub pending: u64,
    /// Which part of that request.
    pub part: u32,
}

/// A request between shards. Each is answered exactly once.
#[derive(Debug)]
pub enum ShardRequest {
    /// An accepted connection for a shard with fewer.
    Connection {
        /// The socket.
        socket: OwnedFd,
        /// The listener it came in on.
        listener: usize,
        /// The other end.
        peer: SocketAddr,
    },
    /// An operation on a partition of the receiver.
    Partition(ReplyTo, PartitionKey, PartitionOp),
    /// A watched mark has moved.
    Wake(ReplyTo),
    /// A fetch that watched has ended.
    Unwatch(PartitionKey, u16, u64),
    /// An operation on group 0, to shard 0.
    Control(ReplyTo, ControlOp),
    /// The metadata from now on.
    Image(Arc<MetadataImage>),
    /// Leader epochs of partitions that the sender has opened.
    Opened(Vec<(PartitionKey, i32)>),
}

/// An answer between shards.
#[derive(Debug)]
pub enum ShardAnswer {
    /// Nothing to tell.
    Done,
    /// A partition's answer.
    Partition(ReplyTo, PartitionAnswer),
    /// Group 0's answer.
    Control(ReplyTo, ControlAnswer),
    /// The receiver serves the image of this version.
    ImageApplied(u64),
}

/// What a shard is made from.
pub struct ShardSeed {
    /// The settings at start.
    pub settings: Arc<Settings>,
    /// One advertised address per listener: host and port.
    pub listeners: Vec<(Arc<str>, String, u16)>,
    /// The cluster's id.
    pub cluster_id: String,
    /// The data directory.
    pub directory: DirectorySeed,
    /// Group 0; on shard 0 only.
    pub control: Option<ControlSeed>,
    /// Told once, when this shard serves what it owns.
    pub ready: std::sync::mpsc::Sender<ShardReady>,
    /// How many shards have ended all requests of their connections while stopping.
    pub quiet_shards: Arc<AtomicUsize>,
    /// Where metrics snapshots are left for the control thread.
    pub metrics: Arc<std::sync::Mutex<ShardMetrics>>,
}

/// What a shard says when it serves.
#[derive(Clone, Debug)]
pub struct ShardReady {
    /// Topics that exist.
    pub topics: usize,
}

/// A topic's id as the log knows it.
fn topic_id(topic: &TopicImage) -> TopicId {
    TopicId(topic.topic_id.into_bytes())
}

/// A request that waits for parts of its answer.
enum Pending {
    Produce(produce::PendingProduce),
    Fetch(fetch::PendingFetch),
    ListOffsets(list_offsets::PendingListOffsets),
    EpochEnd(list_offsets::PendingEpochEnd),
    Control(admin::PendingControl),
}

/// A request's place: which connection, where in its order, and how to answer.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    socket: SocketId,
    place: u64,
    version: i16,
    correlation_id: i32,
    charge_bytes: usize,
    arrived_at: Instant,
    kind: RequestKind,
}

/// Which histogram a request's time goes to.
#[derive(Clone, Copy, Debug)]
enum RequestKind {
    Produce,
    Fetch,
    Other,
}

enum Timer {
    FetchDeadline(u64),
    FetchRetry(u64),
    Wake,
    Tick,
    DrainDeadline,
}

/// See the file's head.
pub struct Shard {
    own: u16,
    settings: Arc<Settings>,
    listeners: Vec<(Arc<str>, String, u16)>,
    cluster_id: String,
    guard: Guard,
    image: Arc<MetadataImage>,
    /// Leader epochs, as their owners told; -1 is answered for one not known yet.
    leader_epochs: HashMap<PartitionKey, i32>,
    endpoint: Endpoint<ShardRequest, ShardAnswer>,
    backlog: Vec<VecDeque<ShardRequest>>,
    /// Not read because of the backlog; told to read again when it is short.
    held_back: HashSet<SocketId>,
    connections: HashMap<SocketId, Connection>,
    pending: HashMap<u64, Pending>,
    next_pending: u64,
    partitions: Partitions,
    control: Option<Control>,
    cold: cold::ColdReads,
    receive_budget: Budget,
    fetch_budget: Budget,
    timers: TimerWheel<Timer>,
    effects: Vec<Effect>,
    answers: Answers,
    wakes: Vec<ReplyTo>,
    /// Images to be answered once everything they ask of this shard is open.
    images_owed: Vec<(usize, u64)>,
    /// On shard 0: its own image is not served yet.
    own_image_pending: Option<u64>,
    has_image: bool,
    idle_look_ms: u64,
    ready: Option<std::sync::mpsc::Sender<ShardReady>>,
    serving: bool,
    stopping: bool,
    /// Told the others that no request of this shard's connections is left.
    quiet: bool,
    quiet_shards: Arc<AtomicUsize>,
    stopped: bool,
    metrics: ShardCells,
    metrics_out: Arc<std::sync::Mutex<ShardMetrics>>,
}

impl Shard {
    /// A shard that has not opened anything yet.
    pub fn new(seed: ShardSeed, endpoint: Endpoint<ShardRequest, ShardAnswer>) -> Self {
        let own = endpoint.own() as u16;
        let shards = endpoint.shards();
        // Control (groups, admin) keeps a fifth, frames and answers share the rest.
        let share = usize::try_from(seed.settings.memory_limit_bytes).unwrap_or(usize::MAX) / shards;
        let pool = share / 5 * 2;
        let mut timers = TimerWheel::new(0);
        timers.set(TICK_MS, Timer::Tick);
        Self {
            own,
            settings: Arc::clone(&seed.settings),
            listeners: seed.listeners,
            cluster_id: seed.cluster_id,
            guard: Guard::allow_all(),
            image: Arc::new(MetadataImage::default()),
            leader_epochs: HashMap::new(),
            backlog: (0..shards).map(|_| VecDeque::new()).collect(),
            endpoint,
            held_back: HashSet::new(),
            connections: HashMap::new(),
            pending: HashMap::new(),
            next_pending: 0,
            partitions: Partitions::new(seed.directory, seed.settings, own, shards),
            control: seed.control.map(Control::new),
            cold: cold::ColdReads::default(),
            receive_budget: Budget::new(pool),
            fetch_budget: Budget::new(pool),
            timers,
            effects: Vec::new(),
            answers: Vec::new(),
            wakes: Vec::new(),
            images_owed: Vec::new(),
            own_image_pending: None,
            has_image: false,
            idle_look_ms: 0,
            ready: Some(seed.ready),
            serving: false,
            stopping: false,
            quiet: false,
            quiet_shards: seed.quiet_shards,
            stopped: false,
            metrics: ShardCells::new(own),
            metrics_out: seed.metrics,
        }
    }

    /// The rings of this shard.
    pub fn endpoint(&mut self) -> &mut Endpoint<ShardRequest, ShardAnswer> {
        &mut self.endpoint
    }

    /// This shard's cells.
    pub fn metrics(&self) -> &ShardCells {
        &self.metrics
    }

    /// Whether connections may be accepted.
    pub fn is_ready(&self) -> bool {
        self.serving && !self.stopping
    }

    /// Whether stopping is complete as far as this shard knows.
    pub fn is_drained(&self) -> bool {
        self.stopped
    }

    /// Whether everything was closed in order, so that the directory may be marked clean.
    pub fn is_complete(&self) -> bool {
        self.stopped && !self.partitions.is_cut_short()
    }

    /// Largest frame this shard takes.
    pub fn request_max_bytes(&self) -> usize {
        self.settings.request_max_bytes as usize
    }

    // ---- budgets -------------------------------------------------------------------------------

    /// Reserves receive memory.
    pub fn reserve_receive(&mut self, bytes: usize) -> bool {
        self.receive_budget.reserve(bytes)
    }

    /// Gives receive memory back.
    pub fn release_receive(&mut self, bytes: usize) {
        self.receive_budget.release(bytes);
    }

    /// Whether a frame of this size could ever be received.
    pub fn can_ever_receive(&self, bytes: usize) -> bool {
        self.receive_budget.could_ever_hold(bytes)
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

    // ---- connections ---------------------------------------------------------------------------

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

    fn is_backlogged(&self) -> bool {
        self.backlog.iter().any(|kept| kept.len() >= BACKLOG_MAX)
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

    fn peer_of(&self, socket: SocketId) -> String {
        let peer = self
            .connections
            .get(&socket)
            .and_then(|connection| connection.context.peer);
        peer.map_or_else(|| "unknown".to_owned(), |peer| peer.to_string())
    }

    /// Ends a request: its answer takes its place, and what is ready leaves in order.
    fn respond(&mut self, origin: &Origin, parts: VecDeque<SendPart>, fetch_bytes: usize) {
        let charge = Charge {
            receive_bytes: origin.charge_bytes,
            fetch_bytes,
        };
        self.finish(origin, Some(Response { parts, charge }));
    }

    fn finish(&mut self, origin: &Origin, response: Option<Response>) {
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
    fn close_at(&mut self, origin: &Origin) {
        self.receive_budget.release(origin.charge_bytes);
        if let Some(connection) = self.connections.get_mut(&origin.socket) {
            connection.close_at(origin.place);
            self.send_ready(origin.socket);
        }
    }

    fn send_ready(&mut self, socket: SocketId) {
        let Some(connection) = self.connections.get_mut(&socket) else {
            return;
        };
        let mut ready = Vec::new();
        let close = connection.take_ready(&mut ready);
        if ready.is_empty() {
            self.effects.push(Effect::ReadAgain(socket));
        }
        for response in ready {
            self.effects.push(Effect::Respond(socket, response));
        }
        if close {
            self.effects.push(Effect::CloseAfterSend(socket));
        }
    }

    /// What the engine is to do since the last call.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Closes connections that asked nothing for too long. One that waits for an answer is not idle.
    fn close_idle(&mut self, now: Now) {
        if now.monotonic_ms < self.idle_look_ms {
            return;
        }
        self.idle_look_ms = now.monotonic_ms + IDLE_LOOK_MS;
        let timeout_ms = self.settings.connection_idle_timeout_ms;
        for (socket, connection) in &self.connections {
            if connection.is_idle() && now.monotonic_ms.saturating_sub(connection.active_ms) >= timeout_ms {
                self.metrics.connections_idle_closed.increment();
                self.effects.push(Effect::Close(*socket));
            }
        }
    }

    // ---- messages ------------------------------------------------------------------------------

    fn send(&mut self, to: usize, request: ShardRequest) {
        let Some(kept) = self.backlog.get_mut(to) else {
            return;
        };
        if kept.is_empty() {
            if let Err(RingFull(request)) = self.endpoint.request(to, request) {
                self.metrics.ring_full_waits.increment();
                kept.push_back(request);
            }
        } else {
            kept.push_back(request);
        }
    }

    fn send_kept(&mut self) {
        for (to, kept) in self.backlog.iter_mut().enumerate() {
            while let Some(request) = kept.pop_front() {
                if let Err(RingFull(request)) = self.endpoint.request(to, request) {
                    kept.push_front(request);
                    break;
                }
            }
        }
        if !self.held_back.is_empty() && !self.is_backlogged() {
            self.effects.extend(self.held_back.drain().map(Effect::ReadAgain));
        }
    }

    /// The engine took over a handed connection.
    pub fn answer_handoff(&mut self, from: usize) {
        self.endpoint.answer(from, ShardAnswer::Done);
    }

    /// A request of another shard.
    pub fn on_request(&mut self, now: Now, disk: &mut dyn Disk, from: usize, request: ShardRequest) {
        match request {
            // The engine takes these itself and never passes them on.
            ShardRequest::Connection { .. } => self.endpoint.answer(from, ShardAnswer::Done),
            ShardRequest::Partition(reply, key, op) => self.operate(now, disk, reply, key, op),
            ShardRequest::Wake(reply) => {
                self.endpoint.answer(from, ShardAnswer::Done);
                self.on_wake(now, disk, reply);
            }
            ShardRequest::Unwatch(key, shard, pending) => {
                self.endpoint.answer(from, ShardAnswer::Done);
                self.partitions.unwatch(&key, shard, pending);
            }
            ShardRequest::Control(reply, op) => self.on_control(now, disk, reply, op),
            ShardRequest::Image(image) => {
                self.images_owed.push((from, image.version()));
                self.apply_image(now, disk, image);
            }
            ShardRequest::Opened(epochs) => {
                self.endpoint.answer(from, ShardAnswer::Done);
                self.leader_epochs.extend(epochs);
            }
        }
    }

    /// An answer of another shard.
    pub fn on_answer(&mut self, now: Now, disk: &mut dyn Disk, answer: ShardAnswer) {
        match answer {
            ShardAnswer::Done => {}
            ShardAnswer::Partition(reply, answer) => self.on_partition_answer(now, disk, reply, answer),
            ShardAnswer::Control(reply, answer) => self.on_control_answer(now, disk, reply, answer),
            ShardAnswer::ImageApplied(version) => self.on_image_applied(now, disk, version),
        }
    }

    /// Sends an operation to a partition's owner, which may be this shard.
    fn ask_partition(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        reply: ReplyTo,
        key: PartitionKey,
        op: PartitionOp,
    ) {
        let owner = self.owner_of(&key);
        if owner == usize::from(self.own) {
            self.operate(now, disk, reply, key, op);
        } else {
            self.send(owner, ShardRequest::Partition(reply, key, op));
        }
    }

    /// The shard that owns a partition.
    fn owner_of(&self, key: &PartitionKey) -> usize {
        let shards = self.endpoint.shards() as u16;
        let topic = self.image.topic_by_id(Uuid::from_bytes(key.topic.0));
        topic.map_or(usize::from(self.own), |topic| {
            usize::from(topic.shard_of(key.partition, shards))
        })
    }

    fn operate(&mut self, now: Now, disk: &mut dyn Disk, reply: ReplyTo, key: PartitionKey, op: PartitionOp) {
        match self.partitions.get_mut(&key) {
            Some(partition) => partition.operate(now, disk, reply, op, &mut self.answers, &self.metrics),
            None => {
                let text = "no such partition on its shard".to_owned();
                self.answers.push((
                    reply,
                    PartitionAnswer::Failed(ErrorCode::UnknownTopicOrPartition, text),
                ));
            }
        }
    }

    /// Delivers what partitions have answered; handling one may bring more.
    fn deliver(&mut self, now: Now, disk: &mut dyn Disk) {
        while !self.answers.is_empty() || !self.wakes.is_empty() {
            for (reply, answer) in std::mem::take(&mut self.answers) {
                if reply.shard == self.own {
                    self.on_partition_answer(now, disk, reply, answer);
                } else {
                    self.endpoint
                        .answer(usize::from(reply.shard), ShardAnswer::Partition(reply, answer));
                }
            }
            for reply in std::mem::take(&mut self.wakes) {
                if reply.shard == self.own {
                    self.on_wake(now, disk, reply);
                } else {
                    self.send(usize::from(reply.shard), ShardRequest::Wake(reply));
                }
            }
        }
    }

    fn on_partition_answer(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        reply: ReplyTo,
        answer: PartitionAnswer,
    ) {
        match self.pending.get_mut(&reply.pending) {
            Some(Pending::Produce(_)) => self.on_produced(reply, answer),
            Some(Pending::Fetch(_)) => self.on_fetched(now, disk, reply, answer),
            Some(Pending::ListOffsets(_)) => self.on_offset_listed(now, disk, reply, answer),
            Some(Pending::EpochEnd(_)) => self.on_epoch_end(reply, answer),
            // The request ended meanwhile (its deadline, or its connection is gone).
            Some(Pending::Control(_)) | None => {}
        }
    }

    fn add_pending(&mut self, pending: Pending) -> u64 {
        let id = self.next_pending;
        self.next_pending += 1;
        self.pending.insert(id, pending);
        id
    }

    // ---- time, disk, end of turn ---------------------------------------------------------------

    /// The shard's earliest deadline on its monotonic clock.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.timers.next_ms()
    }

    /// The engine wants a turn then.
    pub fn wake_at(&mut self, at_ms: u64) {
        self.timers.set(at_ms, Timer::Wake);
    }

    /// A deadline has come.
    pub fn on_timers(&mut self, now: Now, disk: &mut dyn Disk) {
        let mut due = Vec::new();
        self.timers.fire(now.monotonic_ms, &mut due);
        for timer in due {
            match timer {
                Timer::Wake => {}
                Timer::FetchDeadline(pending) => self.on_fetch_deadline(now, disk, pending),
                Timer::FetchRetry(pending) => self.on_fetch_retry(now, disk, pending),
                Timer::Tick => {
                    self.partitions.tick(now, disk);
                    if let Some(control) = &mut self.control {
                        control.tick(now, disk);
                    }
                    self.close_idle(now);
                    self.publish_metrics();
                    if !self.stopped {
                        self.timers.set(now.monotonic_ms + TICK_MS, Timer::Tick);
                    }
                }
                Timer::DrainDeadline => {
                    if !self.stopped {
                        tracing::warn!(shard = self.own, "the drain was cut short by its deadline");
                        self.partitions.cut_short();
                    }
                }
            }
        }
        self.deliver(now, disk);
    }

    /// A disk operation has ended.
    pub fn on_disk(&mut self, now: Now, disk: &mut dyn Disk, completion: Completion) {
        let space = (completion.token.0 >> 32) as u32;
        match space {
            cold::TOKEN_SPACE => self.on_cold_read(now, disk, completion),
            partitions::SWEEP_SPACE => self.on_directories_listed(disk, completion),
            control::TOKEN_SPACE | control::READ_SPACE => {
                if let Some(control) = &mut self.control {
                    control.on_completion(now, disk, completion);
                }
            }
            space => self.partitions.on_completion(now, disk, space, completion),
        }
    }

    /// Ends a turn: staged appends are written, what is durable is answered, full rings retried.
    pub fn end_of_turn(&mut self, now: Now, disk: &mut dyn Disk) {
        self.deliver(now, disk);
        self.partitions
            .end_of_turn(now, disk, &mut self.answers, &mut self.wakes, &self.metrics);
        self.tell_opened();
        self.control_end_of_turn(now, disk);
        // What was created while stopping is answered as well, which takes a checkpoint.
        if self.has_image && !(self.stopping && self.all_quiet()) {
            let group_zero = self
                .control
                .as_ref()
                .and_then(|control| Some(control.log()?.checkpoint()));
            self.partitions.maintain(disk, group_zero);
        }
        if let Some(control) = &mut self.control
            && self.partitions.is_covered(&control::GROUP_ZERO)
        {
            control.confirm_term();
        }
        if self.has_image && self.partitions.all_open() {
            self.on_all_open(now, disk);
        }
        self.deliver(now, disk);
        self.send_kept();
        if self.stopping && !self.stopped {
            self.go_on_stopping(now, disk);
        }
    }

    /// Tells all shards the leader epochs of what was opened in this turn.
    fn tell_opened(&mut self) {
        let opened = self.partitions.take_opened();
        if opened.is_empty() {
            return;
        }
        self.leader_epochs.extend(opened.iter().copied());
        let own = usize::from(self.own);
        for shard in (0..self.endpoint.shards()).filter(|shard| *shard != own) {
            self.send(shard, ShardRequest::Opened(opened.clone()));
        }
    }

    /// What the newest image asks of this shard is open, and its terms are on the disk.
    fn on_all_open(&mut self, now: Now, disk: &mut dyn Disk) {
        for (from, version) in std::mem::take(&mut self.images_owed) {
            self.endpoint.answer(from, ShardAnswer::ImageApplied(version));
        }
        if let Some(version) = self.own_image_pending.take() {
            self.on_image_applied(now, disk, version);
        }
        self.say_ready();
    }

    fn say_ready(&mut self) {
        self.serving = true;
        if let Some(ready) = self.ready.take() {
            // The receiver is gone only when the process is ending.
            let _ = ready.send(ShardReady {
                topics: self.image.topic_count(),
            });
        }
    }

    fn publish_metrics(&mut self) {
        self.metrics.connections.set(self.connections.len() as i64);
        self.metrics
            .receive_budget_used_bytes
            .set(self.receive_budget.used_bytes() as i64);
        self.metrics
            .fetch_budget_used_bytes
            .set(self.fetch_budget.used_bytes() as i64);
        self.metrics.partitions.set(self.partitions.len() as i64);
        self.metrics
            .partitions_opening
            .set(self.partitions.opening() as i64);
        self.metrics.segments.set(self.partitions.segments() as i64);
        let parked = self
            .pending
            .values()
            .filter(|pending| matches!(pending, Pending::Fetch(fetch) if fetch.is_waiting()));
        self.metrics.fetches_parked.set(parked.count() as i64);
        // The control thread copies under this lock; a shard never waits for it.
        if let Ok(mut out) = self.metrics_out.try_lock() {
            *out = self.metrics.snapshot();
        }
    }

    // ---- stopping ------------------------------------------------------------------------------

    /// Drain: no new requests, what is under way ends, logs are closed cleanly.
    pub fn on_stop(&mut self, now: Now, _disk: &mut dyn Disk) {
        self.stopping = true;
        self.timers.set(
            now.monotonic_ms + self.settings.drain_timeout_ms,
            Timer::DrainDeadline,
        );
        let waiting: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, pending)| matches!(pending, Pending::Fetch(_)))
            .map(|(id, _)| *id)
            .collect();
        for pending in waiting {
            self.timers.set(now.monotonic_ms, Timer::FetchDeadline(pending));
        }
    }

    /// Whether no shard has a request of its connections left.
    fn all_quiet(&self) -> bool {
        self.quiet_shards.load(Ordering::Acquire) >= self.endpoint.shards()
    }

    fn go_on_stopping(&mut self, now: Now, disk: &mut dyn Disk) {
        if !self.quiet && self.pending.is_empty() && self.backlog.iter().all(VecDeque::is_empty) {
            self.quiet = true;
            self.quiet_shards.fetch_add(1, Ordering::AcqRel);
        }
        // Until then this shard's partitions are still needed by the requests of other shards.
        if self.all_quiet() || self.partitions.is_cut_short() {
            let group_zero = match &mut self.control {
                None => None,
                Some(control) => {
                    if !control.close(now, disk) {
                        return;
                    }
                    control.log().map(PartitionLog::checkpoint)
                }
            };
            if self.partitions.close_all(now, disk, group_zero) {
                self.stopped = true;
            }
        }
    }

    /// The thread ends; the last figures are left behind.
    pub fn on_stopped(&mut self) {
        self.publish_metrics();
    }
}
