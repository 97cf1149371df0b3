//! Fetch on the connection's shard: ask the owners, wait if there is too little, send what is there.
//!
//! A fetch that waits holds only its request: answers with too little are dropped, the owners are
//! asked to tell when a high watermark moves, and everything is read again then or at the deadline.
//! Every requested partition is named in the answer; those that no longer fit have no records.

use std::collections::VecDeque;

use bytes::Bytes;
use tidelog_net::ErrorCode;
use tidelog_net::hot::{FetchPartitionResponse, FetchRequest, FetchResponse, FetchTopicResponse};
use tidelog_net::response::{ResponsePiece, encode_fetch_response};
use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::ids::PartitionKey;
use tidelog_segment_log::log::ReadPart;

use super::connection::Connection;
use super::partition::{PartitionAnswer, PartitionOp};
use super::timers::TimerWheel;
use super::{Now, Origin, Pending, ReplyTo, SendPart, Shard, SocketId, Timer, topic_id};
use crate::guard::{Operation, Resource};
use crate::request_context::RequestContext;

/// Waits longer than this are cut, so that no fetch outlives its connection's welcome by far.
const MAX_WAIT_MS: i32 = 5 * 60 * 1000;

/// How long a fetch for which there is no memory waits before it looks again.
const MEMORY_RETRY_MS: u64 = 20;

/// Batches of the hot tail in one answer: each is a piece of its own, which takes memory too. A client with
/// more to read asks again.
const BATCHES_PER_ANSWER_MAX: usize = 8_192;

/// What is planned per partition at least, however many are asked for.
const PLAN_BYTES_MIN: usize = 256 << 10;

/// One partition that can be read.
struct Wanted {
    topic_at: usize,
    partition_at: usize,
    key: PartitionKey,
    offset: i64,
    max_bytes: usize,
    leader_epoch: i32,
    /// The mark last seen.
    high_watermark: i64,
    found: Option<Found>,
}

struct Found {
    error: ErrorCode,
    parts: Vec<ReadPart>,
    high_watermark: i64,
    log_start_offset: i64,
}

#[derive(PartialEq, Eq)]
enum Phase {
    Reading,
    Waiting,
    Loading,
}

pub(super) struct PendingFetch {
    origin: Origin,
    response: FetchResponse,
    wanted: Vec<Wanted>,
    /// Which read this is; answers of an earlier one are ignored.
    round: u32,
    missing: usize,
    phase: Phase,
    min_bytes: usize,
    max_bytes: usize,
    deadline_ms: u64,
    /// Its timer is set.
    has_deadline: bool,
    expired: bool,
    /// Records per wanted partition, once loaded.
    records: Vec<Vec<SendPart>>,
    loading: usize,
    fetch_charge: usize,
}

/// Answers carry the round in the upper bits of their part.
const ROUND_SHIFT: u32 = 20;
const PARTS_MAX: usize = 1 << ROUND_SHIFT;
const ROUND_MASK: u32 = (1 << (32 - ROUND_SHIFT)) - 1;

impl PendingFetch {
    /// Whether it waits for records.
    pub(super) fn is_waiting(&self) -> bool {
        self.phase == Phase::Waiting
    }

    /// From now on it waits, at most until its deadline.
    fn wait(&mut self, id: u64, timers: &mut TimerWheel<Timer>) {
        self.phase = Phase::Waiting;
        if !std::mem::replace(&mut self.has_deadline, true) {
            timers.set(self.deadline_ms, Timer::FetchDeadline(id));
        }
    }

    fn has_failed(&self) -> bool {
        let mut found = self.wanted.iter().flat_map(|wanted| &wanted.found);
        !self.response.error.is_ok() || found.any(|found| !found.error.is_ok())
    }
}

impl Shard {
    pub(super) fn fetch(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        origin: Origin,
        context: &RequestContext,
        request: FetchRequest,
    ) {
        let by_id = origin.version >= 13;
        let image = std::sync::Arc::clone(&self.image);
        let mut response = FetchResponse::default();
        let mut wanted = Vec::new();
        if request.session_id != 0 {
            // Sessions are not kept: the client falls back to full requests.
            response.error = ErrorCode::FetchSessionIdNotFound;
        }
        for (topic_at, topic) in request.topics.iter().enumerate() {
            if !response.error.is_ok() {
                break;
            }
            let found = if by_id {
                image.topic_by_id(topic.topic_id)
            } else {
                image.topic(&topic.name)
            };
            let refusal = match found {
                None if by_id => ErrorCode::UnknownTopicId,
                None => ErrorCode::UnknownTopicOrPartition,
                Some(found) => {
                    let asked = [(Resource::Topic(&found.name), Operation::Read)];
                    match self.guard.check(context, &asked).is_allowed() {
                        true => ErrorCode::None,
                        false => ErrorCode::TopicAuthorizationFailed,
                    }
                }
            };
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for (partition_at, partition) in topic.partitions.iter().enumerate() {
                let mut error = refusal;
                match found {
                    Some(found)
                        if error.is_ok()
                            && found.has_partition(partition.index)
                            && wanted.len() < PARTS_MAX =>
                    {
                        wanted.push(Wanted {
                            topic_at,
                            partition_at,
                            key: PartitionKey {
                                topic: topic_id(found),
                                partition: partition.index,
                            },
                            offset: partition.fetch_offset,
                            max_bytes: usize::try_from(partition.max_bytes).unwrap_or(0),
                            leader_epoch: partition.current_leader_epoch,
                            high_watermark: -1,
                            found: None,
                        });
                    }
                    _ if error.is_ok() => error = ErrorCode::UnknownTopicOrPartition,
                    _ => {}
                }
                partitions.push(FetchPartitionResponse {
                    index: partition.index,
                    error,
                    aborted: (request.isolation_level == 1).then(Vec::new),
                    ..FetchPartitionResponse::default()
                });
            }
            response.topics.push(FetchTopicResponse {
                name: topic.name.clone(),
                topic_id: topic.topic_id,
                partitions,
            });
        }
        // Who is served first changes from fetch to fetch of a connection, so that no partition starves.
        let turn = self
            .connections
            .get_mut(&origin.socket)
            .map_or(0, Connection::next_fetch_turn);
        if !wanted.is_empty() {
            let turn = turn % wanted.len();
            wanted.rotate_left(turn);
        }
        let failed = response
            .topics
            .iter()
            .flat_map(|topic| &topic.partitions)
            .any(|p| !p.error.is_ok());
        let wait_ms = if failed || wanted.is_empty() {
            0
        } else {
            request.max_wait_ms.clamp(0, MAX_WAIT_MS) as u64
        };
        let fetch_max = self.settings.fetch_max_bytes as usize;
        let pending = PendingFetch {
            origin,
            response,
            wanted,
            round: 0,
            missing: 0,
            phase: Phase::Reading,
            min_bytes: usize::try_from(request.min_bytes).unwrap_or(0),
            max_bytes: usize::try_from(request.max_bytes).unwrap_or(0).min(fetch_max),
            deadline_ms: now.monotonic_ms + wait_ms,
            has_deadline: false,
            expired: wait_ms == 0,
            records: Vec::new(),
            loading: 0,
            fetch_charge: 0,
        };
        let socket = pending.origin.socket;
        let id = self.add_pending(Pending::Fetch(pending));
        if let Some(connection) = self.connections.get_mut(&socket) {
            connection.fetches.push(id);
        }
        self.read_all(now, disk, id);
    }

    /// Ends a fetch whose connection is gone, with its watches; one that is being read from the disk
    /// ends by itself.
    pub(super) fn abandon_fetch(&mut self, id: u64) {
        let phase = match self.pending.get(&id) {
            Some(Pending::Fetch(pending)) => &pending.phase,
            _ => return,
        };
        if *phase == Phase::Loading {
            return;
        }
        if *phase == Phase::Waiting {
            self.unwatch(id);
        }
        if let Some(Pending::Fetch(pending)) = self.pending.remove(&id) {
            self.finish(&pending.origin, None);
        }
    }

    /// Asks every owner again.
    fn read_all(&mut self, now: Now, disk: &mut dyn Disk, id: u64) {
        let Some(Pending::Fetch(pending)) = self.pending.get_mut(&id) else {
            return;
        };
        pending.phase = Phase::Reading;
        pending.round = pending.round.wrapping_add(1) & ROUND_MASK;
        pending.missing = pending.wanted.len();
        let round = pending.round;
        // A cold range is read as a whole and may end a batch later than asked: one that could never be
        // read into this shard's fetch memory would never be served.
        let bytes_max = pending.max_bytes.min(self.fetch_budget.limit_bytes() / 2);
        // Owners plan for the whole answer each: with many partitions most of it would be thrown away.
        let share = (2 * pending.max_bytes / pending.wanted.len().max(1)).max(PLAN_BYTES_MIN);
        let bytes_max = bytes_max.min(share);
        let asks: Vec<(PartitionKey, PartitionOp)> = pending
            .wanted
            .iter_mut()
            .map(|wanted| {
                wanted.found = None;
                let (offset, leader_epoch) = (wanted.offset, wanted.leader_epoch);
                let max_bytes = wanted.max_bytes.min(bytes_max);
                (
                    wanted.key,
                    PartitionOp::Fetch {
                        offset,
                        max_bytes,
                        leader_epoch,
                    },
                )
            })
            .collect();
        if asks.is_empty() {
            self.on_all_read(now, disk, id);
            return;
        }
        for (part, (key, op)) in asks.into_iter().enumerate() {
            let reply = ReplyTo {
                shard: self.own,
                pending: id,
                part: round << ROUND_SHIFT | part as u32,
            };
            self.ask_partition(now, disk, reply, key, op);
        }
    }

    pub(super) fn on_fetched(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        reply: ReplyTo,
        answer: PartitionAnswer,
    ) {
        let Some(Pending::Fetch(pending)) = self.pending.get_mut(&reply.pending) else {
            return;
        };
        if reply.part >> ROUND_SHIFT != pending.round {
            return;
        }
        let part = (reply.part as usize) & (PARTS_MAX - 1);
        let Some(wanted) = pending.wanted.get_mut(part) else {
            return;
        };
        let found = match answer {
            PartitionAnswer::Watching { moved } => {
                if moved && pending.phase == Phase::Waiting {
                    self.read_again(now, disk, reply.pending);
                }
                return;
            }
            // A watch that could not be set, since the partition is gone or opens again: the read says why.
            PartitionAnswer::Failed(..) if pending.phase == Phase::Waiting => {
                self.read_again(now, disk, reply.pending);
                return;
            }
            PartitionAnswer::Fetched {
                error,
                plan,
                high_watermark,
                log_start_offset,
            } => Found {
                error,
                parts: plan.parts,
                high_watermark,
                log_start_offset,
            },
            PartitionAnswer::Failed(error, _) => Found {
                error,
                parts: Vec::new(),
                high_watermark: -1,
                log_start_offset: -1,
            },
            _ => return,
        };
        if pending.phase != Phase::Reading || wanted.found.is_some() {
            return;
        }
        wanted.high_watermark = found.high_watermark;
        wanted.found = Some(found);
        pending.missing -= 1;
        if pending.missing == 0 {
            self.on_all_read(now, disk, reply.pending);
        }
    }

    /// All owners have answered: enough to send, or wait.
    fn on_all_read(&mut self, now: Now, disk: &mut dyn Disk, id: u64) {
        let Some(Pending::Fetch(pending)) = self.pending.get_mut(&id) else {
            return;
        };
        let bytes: usize = pending
            .wanted
            .iter()
            .flat_map(|wanted| &wanted.found)
            .flat_map(|found| &found.parts)
            .map(part_bytes)
            .sum();
        let enough = pending.has_failed() || bytes >= pending.min_bytes;
        if enough || pending.expired || self.stopping {
            self.load(now, disk, id);
            return;
        }
        pending.wait(id, &mut self.timers);
        let round = pending.round;
        let asks: Vec<(PartitionKey, i64)> = pending
            .wanted
            .iter_mut()
            .map(|wanted| {
                wanted.found = None;
                (wanted.key, wanted.high_watermark)
            })
            .collect();
        for (part, (key, high_watermark)) in asks.into_iter().enumerate() {
            let reply = ReplyTo {
                shard: self.own,
                pending: id,
                part: round << ROUND_SHIFT | part as u32,
            };
            self.ask_partition(now, disk, reply, key, PartitionOp::Watch { high_watermark });
        }
    }

    pub(super) fn on_wake(&mut self, now: Now, disk: &mut dyn Disk, reply: ReplyTo) {
        if let Some(Pending::Fetch(pending)) = self.pending.get(&reply.pending)
            && pending.phase == Phase::Waiting
            && reply.part >> ROUND_SHIFT == pending.round
        {
            self.read_again(now, disk, reply.pending);
        }
    }

    /// Ends a wait: no watch of it is left behind.
    fn read_again(&mut self, now: Now, disk: &mut dyn Disk, id: u64) {
        self.unwatch(id);
        self.read_all(now, disk, id);
    }

    pub(super) fn on_fetch_deadline(&mut self, now: Now, disk: &mut dyn Disk, id: u64) {
        let Some(Pending::Fetch(pending)) = self.pending.get_mut(&id) else {
            return;
        };
        pending.expired = true;
        if pending.phase == Phase::Waiting {
            self.read_again(now, disk, id);
        }
    }

    fn forget_fetch(&mut self, socket: SocketId, id: u64) {
        if let Some(connection) = self.connections.get_mut(&socket) {
            connection.fetches.retain(|fetch| *fetch != id);
        }
    }

    /// Takes the watches of a fetch back.
    fn unwatch(&mut self, id: u64) {
        let Some(Pending::Fetch(pending)) = self.pending.get(&id) else {
            return;
        };
        let keys: Vec<PartitionKey> = pending.wanted.iter().map(|wanted| wanted.key).collect();
        for key in keys {
            let owner = self.owner_of(&key);
            if owner == usize::from(self.own) {
                self.partitions.unwatch(&key, self.own, id);
            } else {
                self.send(owner, super::ShardRequest::Unwatch(key, self.own, id));
            }
        }
    }

    /// Takes what fits, reserves memory for what must be read, and reads it.
    fn load(&mut self, now: Now, disk: &mut dyn Disk, id: u64) {
        let Some(Pending::Fetch(pending)) = self.pending.get_mut(&id) else {
            return;
        };
        pending.phase = Phase::Loading;
        pending.records = pending.wanted.iter().map(|_| Vec::new()).collect();
        let mut room = pending.max_bytes;
        let mut first = true;
        let mut starved = false;
        let mut batches_left = BATCHES_PER_ANSWER_MAX;
        let mut cold = Vec::new();
        for (at, wanted) in pending.wanted.iter_mut().enumerate() {
            let Some(found) = &mut wanted.found else { continue };
            for part in std::mem::take(&mut found.parts) {
                let bytes = part_bytes(&part);
                match part {
                    ReadPart::Hot(batches) => {
                        for batch in batches {
                            batches_left = batches_left.saturating_sub(1);
                            if (batch.len() > room || batches_left == 0) && !first {
                                room = 0;
                                break;
                            }
                            room = room.saturating_sub(batch.len());
                            first = false;
                            if let Some(records) = pending.records.get_mut(at) {
                                records.push(SendPart::Log(batch, 0));
                            }
                        }
                    }
                    ReadPart::Cold(range) => {
                        if bytes > room && !first {
                            room = 0;
                        } else if self.fetch_budget.reserve(bytes) {
                            room = room.saturating_sub(bytes);
                            first = false;
                            pending.fetch_charge += bytes;
                            pending.loading += 1;
                            cold.push((at, range));
                        } else {
                            self.metrics.budget_waits.increment();
                            starved = true;
                            room = 0;
                        }
                    }
                }
                if room == 0 && !first {
                    break;
                }
            }
        }
        if first && starved && !pending.expired && !self.stopping && !pending.has_failed() {
            // There is something, but no memory for it now. An empty answer would have the client ask again
            // at once, and again.
            pending.wait(id, &mut self.timers);
            let at_ms = now.monotonic_ms + MEMORY_RETRY_MS;
            self.timers.set(at_ms, Timer::FetchRetry(id));
            return;
        }
        if cold.is_empty() {
            self.finish_fetch(id);
            return;
        }
        for (at, range) in cold {
            self.cold.read(disk, id, at, range);
        }
    }

    /// A fetch that found no memory tries again.
    pub(super) fn on_fetch_retry(&mut self, now: Now, disk: &mut dyn Disk, id: u64) {
        if let Some(Pending::Fetch(pending)) = self.pending.get(&id)
            && pending.is_waiting()
        {
            self.read_again(now, disk, id);
        }
    }

    /// A cold range is here and verified (or is not).
    pub(super) fn on_cold_loaded(&mut self, id: u64, at: usize, batches: Result<Vec<Bytes>, ErrorCode>) {
        let Some(Pending::Fetch(pending)) = self.pending.get_mut(&id) else {
            return;
        };
        match batches {
            Ok(batches) => {
                if let Some(records) = pending.records.get_mut(at) {
                    records.extend(batches.into_iter().map(SendPart::Bytes));
                }
            }
            Err(code) => {
                if let Some(found) = pending
                    .wanted
                    .get_mut(at)
                    .and_then(|wanted| wanted.found.as_mut())
                {
                    found.error = code;
                }
            }
        }
        pending.loading -= 1;
        if pending.loading == 0 {
            self.finish_fetch(id);
        }
    }

    fn finish_fetch(&mut self, id: u64) {
        let Some(Pending::Fetch(mut pending)) = self.pending.remove(&id) else {
            return;
        };
        self.forget_fetch(pending.origin.socket, id);
        let mut places = std::collections::HashMap::new();
        for (at, wanted) in pending.wanted.iter().enumerate() {
            places.insert((wanted.topic_at, wanted.partition_at), at);
            let place = pending
                .response
                .topics
                .get_mut(wanted.topic_at)
                .and_then(|topic| topic.partitions.get_mut(wanted.partition_at));
            let (Some(place), Some(found)) = (place, &wanted.found) else {
                continue;
            };
            place.error = found.error;
            place.high_watermark = found.high_watermark;
            place.last_stable_offset = found.high_watermark;
            place.log_start_offset = found.log_start_offset;
            let records = pending.records.get(at).map_or(&[][..], Vec::as_slice);
            for part in records {
                let bytes = part.bytes().len();
                place.records_len += bytes;
                match part {
                    SendPart::Log(..) => self.metrics.fetch_hot_bytes.add(bytes as u64),
                    SendPart::Bytes(_) => self.metrics.fetch_cold_bytes.add(bytes as u64),
                }
            }
            self.metrics.fetched_bytes.add(place.records_len as u64);
        }
        let pieces = match encode_fetch_response(
            pending.origin.version,
            pending.origin.correlation_id,
            &pending.response,
        ) {
            Ok(pieces) => pieces,
            Err(error) => {
                tracing::error!(%error, "a fetch answer could not be encoded");
                self.refuse(&pending.origin, &error);
                return;
            }
        };
        let mut parts = VecDeque::with_capacity(pieces.len());
        for piece in pieces {
            match piece {
                ResponsePiece::Bytes(bytes) => parts.push_back(SendPart::Bytes(bytes)),
                ResponsePiece::Records {
                    topic_idx,
                    partition_idx,
                } => {
                    let records = places
                        .get(&(topic_idx, partition_idx))
                        .and_then(|at| pending.records.get_mut(*at));
                    parts.extend(records.map(std::mem::take).unwrap_or_default());
                }
            }
        }
        self.respond(&pending.origin, parts, pending.fetch_charge);
    }
}

/// Bytes a part brings (a cold one: at most).
fn part_bytes(part: &ReadPart) -> usize {
    match part {
        ReadPart::Hot(batches) => batches.iter().map(|batch| batch.len()).sum(),
        ReadPart::Cold(range) => {
            usize::try_from(range.position.end - range.position.start).unwrap_or(usize::MAX)
        }
    }
}
