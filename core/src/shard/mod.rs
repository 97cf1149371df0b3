//! A shard: the sans-I/O state machine that owns partitions, connections and budgets.
//!
//! Owned by one thread. Inputs are method calls with the time (`frame`, `disk completion`,
//! `message of another shard`, `timer`); outputs are [`Effect`]s for the engine, messages in the
//! rings and operations on the disk. It knows no socket, no io_uring and no executor.
//!
//! Rooms: `types` (inputs, effects, messages), `machine` (what the loop calls), `turn` (timers, completions, end of a turn, stopping),
//! `messages` (to other shards and to partitions), `sockets` and `connection` (budgets, order of
//! answers), `requests` (decode, guard, dispatch), `produce`, `fetch`, `fetch_session`, `list_offsets`, `newest`, `epoch_end`, `delete_records`, `parts`
//! (which parts of a request wait), `cold` (reads that are verified before they are sent), `admin` (answers from the metadata image), `control` and
//! `plan` (group 0, on shard 0), `silence` (of other shards), `partition`, `append`, `compacted`, `look_up`, `room` and
//! `partitions` (the owner's side), `background` (what is done in steps), `budget`, `leases` (memory between shards), `timers`, `slab` (tables without
//! hashing).
//!
//! Invariants: answers leave a connection in request order; what a full ring does not take is kept
//! and sockets are not read meanwhile; a fetch that waits holds only its request.

mod admin;
mod append;
mod background;
mod budget;
mod cold;
mod compacted;
mod connection;
mod control;
mod delete_records;
mod epoch_end;
mod fetch;
mod fetch_session;
mod leases;
mod list_offsets;
mod look_up;
mod machine;
mod messages;
mod newest;
mod partition;
mod partitions;
mod parts;
mod plan;
mod produce;
mod requests;
mod retention_clock;
mod room;
mod silence;
mod slab;
mod sockets;
#[cfg(test)]
mod tests;
mod timers;
mod turn;
mod types;

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use tidelog_segment_log::ids::{PartitionKey, TopicId};

use crate::guard::Guard;
use crate::mesh::Endpoint;
use crate::metadata::{MetadataImage, TopicImage};
use crate::metrics::{ShardCells, ShardMetrics};
use crate::settings::Settings;
use background::{Job, JobQueue, Looks};
pub(crate) use budget::Budget;
pub use budget::ReceivePool;
use control::Control;
use partition::Answers;
use partitions::Partitions;
use slab::{Connections, Slab};
use timers::TimerWheel;

pub use control::{ControlSeed, group_zero_directory, group_zero_evidence};
pub use partitions::{DirectoriesSeed, DirectorySeed};
pub use types::{
    Charge, Effect, Now, Parts, ReplyTo, Response, SendPart, ShardAnswer, ShardReady, ShardRequest,
    ShardSeed, SocketId,
};

use turn::TICK_MS;

/// Maps whose keys no client chooses.
type FastMap<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;

/// A topic's id as the log knows it.
fn topic_id(topic: &TopicImage) -> TopicId {
    TopicId(topic.topic_id.into_bytes())
}

/// A request that waits for parts of its answer.
enum Pending {
    Produce(produce::PendingProduce),
    /// Boxed: it is by far the largest, and not the most frequent.
    Fetch(Box<fetch::PendingFetch>),
    ListOffsets(list_offsets::PendingListOffsets),
    EpochEnd(epoch_end::PendingEpochEnd),
    DeleteRecords(delete_records::PendingDeleteRecords),
    Control(admin::PendingControl),
    LogDirs(admin::PendingLogDirs),
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
    leader_epochs: BTreeMap<PartitionKey, i32>,
    silence: crate::mesh::SilenceWatch,
    endpoint: Endpoint<ShardRequest, ShardAnswer>,
    backlog: Vec<VecDeque<ShardRequest>>,
    /// Not read because of the backlog; told to read again when it is short.
    held_back: HashSet<SocketId>,
    connections: Connections,
    pending: Slab<Pending>,
    /// The pending requests that delete records: they have deadlines.
    deletions: BTreeSet<u64>,
    partitions: Partitions,
    control: Option<Control>,
    cold: cold::ColdReads,
    control_budget: Budget,
    receive_budget: Budget,
    fetch_budget: Budget,
    leases: leases::Leases,
    fetch_sessions: fetch_session::FetchSessions,
    timers: TimerWheel<Timer>,
    effects: Vec<Effect>,
    answers: Answers,
    wakes: Vec<ReplyTo>,
    /// What group 0 was asked by requests of this shard, as it is answered should shard 0 fall silent.
    control_asked: FastMap<u64, control::ControlAnswer>,
    /// Answers in shard 0's place.
    control_refused: Vec<(ReplyTo, control::ControlAnswer)>,
    /// Images to be answered once everything they ask of this shard is open.
    images_owed: Vec<(usize, u64)>,
    /// On shard 0: its own image is not served yet.
    own_image_pending: Option<u64>,
    has_image: bool,
    jobs: JobQueue<Job>,
    looks: Looks,
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
        // Control (connections, sessions, groups, admin) keeps a fifth, frames and answers share the rest.
        let share = usize::try_from(seed.settings.memory_limit_bytes).unwrap_or(usize::MAX) / shards;
        let pool = share / 5 * 2;
        let control = sockets::control_bytes(share);
        let sessions = control / 4;
        let mut timers = TimerWheel::new(0);
        timers.set(TICK_MS, Timer::Tick);
        Self {
            own,
            settings: Arc::clone(&seed.settings),
            listeners: seed.listeners,
            cluster_id: seed.cluster_id,
            guard: Guard::allow_all(),
            image: Arc::new(MetadataImage::default()),
            leader_epochs: BTreeMap::new(),
            backlog: (0..shards).map(|_| VecDeque::new()).collect(),
            silence: crate::mesh::SilenceWatch::new(endpoint.beats().clone(), seed.settings.shard_silent_ms),
            endpoint,
            held_back: HashSet::new(),
            connections: Connections::default(),
            pending: Slab::default(),
            deletions: BTreeSet::new(),
            fetch_sessions: fetch_session::FetchSessions::new(
                own,
                seed.directories.home.directory.start_counter(),
                sessions,
            ),
            partitions: Partitions::new(
                seed.directories,
                seed.memory,
                seed.settings,
                own,
                seed.openings_max,
            ),
            control: seed.control.map(Control::new),
            cold: cold::ColdReads::default(),
            control_budget: Budget::new(control - sessions),
            receive_budget: Budget::new(pool),
            fetch_budget: Budget::new(pool),
            leases: leases::Leases::default(),
            timers,
            effects: Vec::new(),
            answers: Vec::new(),
            wakes: Vec::new(),
            control_asked: FastMap::default(),
            control_refused: Vec::new(),
            images_owed: Vec::new(),
            own_image_pending: None,
            has_image: false,
            jobs: JobQueue::default(),
            looks: Looks::default(),
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
}
