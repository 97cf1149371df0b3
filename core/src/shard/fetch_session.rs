//! Incremental fetch sessions (KIP-227): a client names its partitions once, then only what changes.
//!
//! Owned by the shard of the connection. The upper bits of a session's id are its shard, so that an id is never
//! found on another one: a client that reconnects elsewhere is told FETCH_SESSION_ID_NOT_FOUND and starts anew.
//!
//! Invariants: a session's epoch goes up by one per request, so that an answer that was lost, or a second
//! request under way, is found out (INVALID_FETCH_SESSION_EPOCH); a partition that failed is named in every
//! answer until it works, and once more then; sessions and their bytes are bounded, and whoever finds no room
//! is served without a session. One is evicted only when idle for [`FETCH_SESSION_IDLE_MS`] since the end of its
//! last request, the longest idle first; one whose fetch waits is not idle.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tidelog_net::hot::{FetchPartition, FetchRequest, FetchTopic, FetchTopicResponse};
use tidelog_net::{ErrorCode, StrBytes, Uuid};

use crate::limits::{FETCH_SESSION_IDLE_MS, FETCH_SESSIONS_PER_SHARD_MAX, SHARDS_MAX};
use crate::metrics::ShardCells;

/// The epoch of a request that asks for a new session.
const INITIAL_EPOCH: i32 = 0;
/// The epoch of a request without a session, which closes the one it names.
const FINAL_EPOCH: i32 = -1;
/// Bits of an id below its shard; ids are positive.
const NUMBER_BITS: u32 = 25;
const _: () = assert!((SHARDS_MAX as u64) << NUMBER_BITS <= 1 << 31);
/// What one partition takes with the nodes of the map around it, without its name.
const PARTITION_BYTES: usize = 2 * (size_of::<Key>() + size_of::<Cached>());
/// What a session takes without its partitions.
const SESSION_BYTES: usize = 2 * size_of::<Session>() + 64;

/// A topic as the client names it (the other half is empty), and a partition of it.
type Key = (Arc<str>, Uuid, i32);

/// One partition of a session.
struct Cached {
    wanted: FetchPartition,
    /// As last told; -1 after an error, so that the next answer names it.
    high_watermark: i64,
    log_start_offset: i64,
    /// Grows each time it is given records: who has waited longest is served first.
    turn: u64,
}

struct Session {
    /// What the next request must say.
    epoch: i32,
    by_id: bool,
    partitions: BTreeMap<Key, Cached>,
    bytes: usize,
    /// When its last request ended.
    used_ms: u64,
    /// Its requests that are not answered.
    under_way: usize,
    turn: u64,
}

/// What a fetch remembers of its session until it is answered.
pub(super) struct SessionUse {
    pub(super) id: i32,
    /// The session's epoch after this request.
    epoch: i32,
    /// Only what changed is answered.
    pub(super) is_incremental: bool,
    /// When each partition of the request was last served.
    turns: Vec<Vec<u64>>,
}

impl SessionUse {
    /// Partitions with less come first.
    pub(super) fn turn(&self, topic_at: usize, partition_at: usize) -> u64 {
        let topic = self.turns.get(topic_at);
        topic
            .and_then(|topic| topic.get(partition_at))
            .copied()
            .unwrap_or(0)
    }
}

/// See the file's head.
pub(super) struct FetchSessions {
    own: u16,
    /// Differs from start to start, so that ids of an earlier process are hardly ever met again.
    seed: u64,
    created: u64,
    sessions: HashMap<i32, Session>,
    /// As of the last tick or request, milliseconds.
    now_ms: u64,
    /// Those without a request under way, by the end of the last one.
    by_use: BTreeSet<(u64, i32)>,
    bytes: usize,
    limit_bytes: usize,
}

impl FetchSessions {
    pub(super) fn new(own: u16, start_counter: u64, limit_bytes: usize) -> Self {
        Self {
            own,
            seed: start_counter << 32,
            created: 0,
            sessions: HashMap::new(),
            now_ms: 0,
            by_use: BTreeSet::new(),
            bytes: 0,
            limit_bytes,
        }
    }

    /// The time goes on.
    pub(super) fn tick(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    /// A request of a session is answered, or will never be: from now on it is idle.
    pub(super) fn end(&mut self, used: &SessionUse) {
        let Some(session) = self.sessions.get_mut(&used.id) else {
            return;
        };
        session.under_way = session.under_way.saturating_sub(1);
        if session.under_way == 0 {
            session.used_ms = self.now_ms;
            self.by_use.insert((session.used_ms, used.id));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// What sessions take, never more than their limit.
    pub(super) fn used_bytes(&self) -> usize {
        self.bytes
    }

    /// Takes a request's part in its session. With an incremental one, the request then names every partition
    /// of the session.
    ///
    /// # Errors
    /// What the whole request is answered with.
    pub(super) fn begin(
        &mut self,
        now_ms: u64,
        by_id: bool,
        request: &mut FetchRequest,
        metrics: &ShardCells,
    ) -> Result<Option<SessionUse>, ErrorCode> {
        self.now_ms = now_ms;
        match request.session_epoch {
            INITIAL_EPOCH | FINAL_EPOCH => {
                self.remove(request.session_id);
                if request.session_epoch == FINAL_EPOCH || request.topics.is_empty() {
                    return Ok(None);
                }
                Ok(self.create(now_ms, by_id, &request.topics, metrics))
            }
            _ => self.go_on(by_id, request),
        }
    }

    /// Opens a session, if there is room.
    fn create(
        &mut self,
        now_ms: u64,
        by_id: bool,
        topics: &[FetchTopic],
        metrics: &ShardCells,
    ) -> Option<SessionUse> {
        let bytes = SESSION_BYTES + topics.iter().map(topic_bytes).sum::<usize>();
        while self.sessions.len() >= FETCH_SESSIONS_PER_SHARD_MAX || bytes > self.limit_bytes - self.bytes {
            let stalest = self.by_use.first().copied();
            match stalest {
                Some((used_ms, id))
                    if used_ms + FETCH_SESSION_IDLE_MS <= now_ms && bytes <= self.limit_bytes =>
                {
                    self.remove(id);
                    metrics.fetch_sessions_evicted.increment();
                }
                _ => {
                    metrics.fetch_sessions_refused.increment();
                    return None;
                }
            }
        }
        let mut session = Session {
            epoch: 1,
            by_id,
            partitions: BTreeMap::new(),
            bytes: SESSION_BYTES,
            used_ms: now_ms,
            under_way: 1,
            turn: 0,
        };
        for topic in topics {
            session.add(topic);
        }
        let id = self.new_id();
        self.bytes += session.bytes;
        self.sessions.insert(id, session);
        Some(SessionUse {
            id,
            epoch: 1,
            is_incremental: false,
            turns: Vec::new(),
        })
    }

    fn go_on(&mut self, by_id: bool, request: &mut FetchRequest) -> Result<Option<SessionUse>, ErrorCode> {
        let id = request.session_id;
        let Some(session) = self.sessions.get_mut(&id) else {
            return Err(ErrorCode::FetchSessionIdNotFound);
        };
        if session.epoch != request.session_epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if session.by_id != by_id {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        self.by_use.remove(&(session.used_ms, id));
        session.under_way += 1;
        session.epoch = session.epoch.checked_add(1).unwrap_or(1);
        let before = session.bytes;
        for topic in &request.topics {
            session.add(topic);
        }
        for topic in &request.forgotten_topics {
            let name: Arc<str> = Arc::from(&*topic.name);
            for index in &topic.partitions {
                session.forget(&(Arc::clone(&name), topic.topic_id, *index));
            }
        }
        self.bytes = self.bytes - before + session.bytes;
        let (epoch, is_empty) = (session.epoch, session.partitions.is_empty());
        let (topics, turns) = session.wishes();
        request.topics = topics;
        if is_empty {
            self.remove(id);
            return Ok(None);
        }
        if self.bytes > self.limit_bytes {
            // It has outgrown its room: the client names everything again and is served without one.
            self.remove(id);
            return Err(ErrorCode::FetchSessionIdNotFound);
        }
        Ok(Some(SessionUse {
            id,
            epoch,
            is_incremental: true,
            turns,
        }))
    }

    /// Whether a session is still as its fetch left it; an incremental answer makes no sense otherwise.
    ///
    /// # Errors
    /// What the fetch is answered with instead.
    pub(super) fn check(&self, used: &SessionUse) -> Result<(), ErrorCode> {
        match self.sessions.get(&used.id) {
            None => Err(ErrorCode::FetchSessionIdNotFound),
            Some(session) if session.epoch != used.epoch => Err(ErrorCode::InvalidFetchSessionEpoch),
            Some(_) => Ok(()),
        }
    }

    /// Notes what a client is told of a topic. Which of its partitions have changed since the last answer.
    pub(super) fn told(&mut self, used: &SessionUse, topic: &FetchTopicResponse) -> Vec<bool> {
        let Some(session) = self.sessions.get_mut(&used.id) else {
            return vec![true; topic.partitions.len()];
        };
        let name: Arc<str> = Arc::from(&*topic.name);
        let told = topic.partitions.iter().map(|answer| {
            let key = (Arc::clone(&name), topic.topic_id, answer.index);
            let Some(cached) = session.partitions.get_mut(&key) else {
                return true;
            };
            let failed = !answer.error.is_ok();
            let changed = failed
                || answer.records_len > 0
                || cached.high_watermark != answer.high_watermark
                || cached.log_start_offset != answer.log_start_offset;
            cached.high_watermark = if failed { -1 } else { answer.high_watermark };
            cached.log_start_offset = answer.log_start_offset;
            if answer.records_len > 0 {
                session.turn += 1;
                cached.turn = session.turn;
            }
            changed
        });
        told.collect()
    }

    fn remove(&mut self, id: i32) {
        if let Some(session) = self.sessions.remove(&id) {
            self.by_use.remove(&(session.used_ms, id));
            self.bytes -= session.bytes;
        }
    }

    fn new_id(&mut self) -> i32 {
        // Ends: there are far fewer sessions than numbers, and the mix takes each value alike.
        loop {
            self.created = self.created.wrapping_add(1);
            let number = mix(self.seed ^ self.created) & ((1 << NUMBER_BITS) - 1);
            let id = i32::from(self.own) << NUMBER_BITS | number as i32;
            if number != 0 && !self.sessions.contains_key(&id) {
                return id;
            }
        }
    }
}

impl Session {
    /// Adds partitions, or takes over what the client now says of those that are there.
    fn add(&mut self, topic: &FetchTopic) {
        let name: Arc<str> = Arc::from(&*topic.name);
        for wanted in &topic.partitions {
            let key = (Arc::clone(&name), topic.topic_id, wanted.index);
            if let Some(cached) = self.partitions.get_mut(&key) {
                cached.wanted = wanted.clone();
                continue;
            }
            self.bytes += PARTITION_BYTES + name.len();
            let cached = Cached {
                wanted: wanted.clone(),
                high_watermark: -1,
                log_start_offset: -1,
                turn: 0,
            };
            self.partitions.insert(key, cached);
        }
    }

    fn forget(&mut self, key: &Key) {
        if self.partitions.remove(key).is_some() {
            self.bytes -= PARTITION_BYTES + key.0.len();
        }
    }

    /// All its partitions as a request names them, and their turns.
    fn wishes(&self) -> (Vec<FetchTopic>, Vec<Vec<u64>>) {
        let (mut topics, mut turns) = (Vec::<FetchTopic>::new(), Vec::<Vec<u64>>::new());
        for ((name, topic_id, _), cached) in &self.partitions {
            let same = |last: &FetchTopic| *last.name == **name && last.topic_id == *topic_id;
            if !topics.last().is_some_and(same) {
                topics.push(FetchTopic {
                    name: StrBytes::from_string(name.to_string()),
                    topic_id: *topic_id,
                    partitions: Vec::new(),
                });
                turns.push(Vec::new());
            }
            if let (Some(topic), Some(turns)) = (topics.last_mut(), turns.last_mut()) {
                topic.partitions.push(cached.wanted.clone());
                turns.push(cached.turn);
            }
        }
        (topics, turns)
    }
}

fn topic_bytes(topic: &FetchTopic) -> usize {
    topic.partitions.len() * (PARTITION_BYTES + topic.name.len())
}

/// The finalizer of SplitMix64: a permutation, so that following numbers lie far apart.
fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}
