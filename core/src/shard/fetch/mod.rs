//! Fetch on the connection's shard: ask the owners, wait if there is too little, send what is there.
//!
//! A fetch that waits holds only its request: answers with too little are dropped, the owners are
//! asked to tell when a high watermark moves, and everything is read again then or at the deadline.
//! Every requested partition is named in the answer; those that no longer fit have no records. In a fetch
//! session, only those that changed are.

mod answer;
mod load;
mod read;
mod request;

use tidelog_net::ErrorCode;
use tidelog_net::hot::FetchResponse;
use tidelog_segment_log::ids::PartitionKey;
use tidelog_segment_log::log::ReadPart;

use super::fetch_session::SessionUse;
use super::timers::TimerWheel;
use super::{Origin, Pending, SendPart, Shard, SocketId, Timer};

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
    session: Option<SessionUse>,
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

    /// The parts that wait for their owner, for what it says or for a wake.
    pub(super) fn waiting(&self) -> Vec<(u32, PartitionKey)> {
        let parts = (0..).zip(&self.wanted).filter(|(_, wanted)| match self.phase {
            Phase::Reading => wanted.found.is_none(),
            Phase::Waiting => true,
            Phase::Loading => false,
        });
        let round = self.round << ROUND_SHIFT;
        parts
            .map(|(at, wanted): (u32, _)| (round | at, wanted.key))
            .collect()
    }

    fn has_failed(&self) -> bool {
        let mut found = self.wanted.iter().flat_map(|wanted| &wanted.found);
        !self.response.error.is_ok() || found.any(|found| !found.error.is_ok())
    }
}

impl Shard {
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
            if let Some(session) = &pending.session {
                self.fetch_sessions.end(session);
            }
            self.finish(&pending.origin, None);
        }
    }

    fn forget_fetch(&mut self, socket: SocketId, id: u64) {
        if let Some(connection) = self.connections.get_mut(&socket) {
            connection.fetches.retain(|fetch| *fetch != id);
        }
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
