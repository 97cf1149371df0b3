//! A whole broker without sockets, rings or threads: shards joined by the real mesh, one simulated
//! device, and an engine that delivers frames, runs completions and gathers what is sent.
//!
//! Single-threaded. Time moves only by [`Cluster::advance_ms`]. When a cluster is dropped at the end
//! of a test, every connection is closed and nothing may be left: no budget, request, watch or message.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, mpsc};

use bytes::Bytes;
use tidelog_net::client::{decode_response, encode_request};
use tidelog_net::{ApiKey, RequestBody, ResponseBody};
use tidelog_segment_log::data_directory::{DataDirectory, NewIdentity};
use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::disk::heap::{HeapPool, WithHeap};
use tidelog_segment_log::disk::sim::{SimConfig, SimDisk};

use super::super::{
    ControlSeed, DirectoriesSeed, DirectorySeed, Effect, Now, ReceivePool, Response, Shard, ShardReady,
    ShardRequest, ShardSeed, SocketId, group_zero_directory, group_zero_evidence,
};
use super::device::{Blocking, Device, Hold, Port};
use crate::directory_space::{RoomChange, RoomRules, SpaceKeeper};
use crate::mesh::mesh;
use crate::reactor::{Progress, StepBudget};
use crate::settings::{HostFacts, Settings, SettingsBuilder};

mod clients;
mod ends;
mod engine;

const ROOT: &str = "/sim/data";
/// Turns without an end are a live lock.
const TURNS_MAX: usize = 200_000;
/// Items of background work a turn.
const STEP_ITEMS: u32 = 3;
const DECODE_BYTES: usize = 64 << 20;
pub(super) const EPOCH_MS: i64 = 1_700_000_000_000;

/// A client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Client(usize);

struct Socket {
    shard: usize,
    id: SocketId,
    /// Frames on their way to the shard.
    inbox: VecDeque<Bytes>,
    /// The engine has a reason to look at the inbox.
    readable: bool,
    /// It waits for bytes; where it does not, only an effect makes it look again.
    armed: bool,
    /// The client does not read: answers stay queued.
    stalled: bool,
    queued: VecDeque<Response>,
    close_after_send: bool,
    closed: bool,
    received: VecDeque<Bytes>,
    asked: HashMap<i32, (ApiKey, i16)>,
    next_correlation: i32,
}

struct Node {
    shard: Shard,
    port: WithHeap<Port>,
    /// It took a step after its last turn: what that brought may want more than one.
    stepped: bool,
    _ready: mpsc::Receiver<ShardReady>,
}

pub(super) struct Cluster {
    pub(super) device: Rc<RefCell<Device>>,
    nodes: Vec<Node>,
    sockets: Vec<Socket>,
    settings: Arc<Settings>,
    /// Where the data directories are; the first holds the metadata log.
    pub(super) roots: Vec<String>,
    next_directory_id: u8,
    pub(super) directories: Vec<DirectorySeed>,
    keepers: Vec<SpaceKeeper>,
    monotonic_ms: u64,
    /// The wall clock is so far ahead of where it was.
    pub(super) leap_ms: i64,
    shards: usize,
    /// A shard whose thread does not run.
    pub(super) stalled: Option<usize>,
    /// No turn is followed by a step of background work.
    pub(super) steps_held: bool,
    /// Time that passes brings looks at the room on a disk that was full.
    pub(super) looks_at_room: bool,
    /// Checked when dropped; off once a test has killed the process.
    pub(super) tidy: bool,
}

pub(in crate::shard) fn settings(shards: usize, sets: &[&str]) -> Arc<Settings> {
    let host = HostFacts {
        cgroup_memory_bytes: None,
        total_memory_bytes: 1 << 30,
        affinity_cpus: 1,
        quota_cpus: None,
    };
    let mut builder = SettingsBuilder::new(host)
        .set(&format!("shards={shards}"))
        .expect("shards")
        // Files of a megabyte: a simulated device is in memory.
        .set("journal.max_bytes=16MiB")
        .expect("a small journal");
    for set in sets {
        builder = builder.set(set).expect("a setting");
    }
    Arc::new(builder.build().expect("settings"))
}

impl Cluster {
    /// A broker that serves, on a device without faults.
    pub(super) fn new(shards: usize) -> Self {
        Self::with(shards, &[], SimConfig::default())
    }

    pub(super) fn with(shards: usize, sets: &[&str], disk: SimConfig) -> Self {
        Self::with_directories(shards, sets, disk, &[ROOT])
    }

    pub(super) fn with_directories(shards: usize, sets: &[&str], disk: SimConfig, roots: &[&str]) -> Self {
        let device = Device::new(SimDisk::new(disk), shards);
        let mut cluster = Self {
            device: Rc::new(RefCell::new(device)),
            nodes: Vec::new(),
            sockets: Vec::new(),
            settings: settings(shards, sets),
            roots: roots.iter().map(|root| (*root).to_owned()).collect(),
            next_directory_id: 1,
            directories: Vec::new(),
            keepers: Vec::new(),
            monotonic_ms: 0,
            leap_ms: 0,
            shards,
            stalled: None,
            steps_held: false,
            looks_at_room: true,
            tidy: true,
        };
        cluster.start();
        cluster.run();
        assert!(cluster.nodes.iter().all(|node| node.shard.is_ready()), "serves");
        cluster.remove_replayed_journals();
        cluster
    }

    fn start(&mut self) {
        self.keepers.clear();
        let mut seeds = Vec::new();
        for path in &self.roots {
            let id = self.next_directory_id;
            self.next_directory_id += 1;
            let mut device = self.device.borrow_mut();
            let identity = NewIdentity {
                node_id: 1,
                cluster_id: "test-cluster".into(),
                rack: None,
                directory_id: [id; 16],
            };
            let directory = DataDirectory::open(&mut Blocking(&mut device.sim), Path::new(path), identity);
            let directory = Arc::new(directory.expect("a directory"));
            let rules = RoomRules {
                min_free_bytes: self.settings.storage_min_free_bytes,
                reserve_bytes: self.settings.storage_reserve_bytes,
                recycle_bytes_max: self.settings.storage_recycle_max_bytes,
            };
            let mut keeper = SpaceKeeper::new(directory.path().to_path_buf(), rules);
            keeper
                .look(&mut Blocking(&mut device.sim), None)
                .expect("measured");
            seeds.push(DirectorySeed {
                directory,
                space: Arc::clone(keeper.figures()),
            });
            self.keepers.push(keeper);
        }
        self.directories = seeds.clone();
        let directories = DirectoriesSeed {
            home: seeds.remove(0),
            others: seeds,
            unusable: Vec::new(),
        };
        let directory = Arc::clone(&directories.home.directory);
        let quiet = Arc::new(AtomicUsize::new(0));
        let memory = HeapPool::of_shards(self.settings.storage_memory_max_bytes, self.shards);
        for (endpoint, memory) in mesh(self.shards).expect("a mesh").into_iter().zip(memory) {
            let own = endpoint.own();
            let (ready, ready_receiver) = mpsc::channel();
            let seed = ShardSeed {
                openings_max: 4,
                settings: Arc::clone(&self.settings),
                listeners: vec![(Arc::from("PLAINTEXT"), "broker.test".into(), 9092)],
                cluster_id: "test-cluster".into(),
                directories: directories.clone(),
                memory: Arc::clone(&memory),
                control: (own == 0).then(|| ControlSeed {
                    evidence: group_zero_evidence(&directory),
                    directory: group_zero_directory(&directory),
                    clean: directory.was_clean(),
                    start_counter: directory.start_counter(),
                }),
                ready,
                quiet_shards: Arc::clone(&quiet),
                metrics: Arc::new(Mutex::new(Default::default())),
            };
            self.nodes.push(Node {
                shard: Shard::new(seed, endpoint),
                port: WithHeap::new(
                    Port {
                        device: Rc::clone(&self.device),
                        shard: own,
                    },
                    memory,
                ),
                stepped: false,
                _ready: ready_receiver,
            });
        }
        self.monotonic_ms = 0;
    }

    /// As the broker does once all shards serve.
    fn remove_replayed_journals(&mut self) {
        for DirectorySeed { directory, .. } in &self.directories {
            let mut device = self.device.borrow_mut();
            let removal = directory.remove_replayed_journals(0);
            removal
                .drive(&mut Blocking(&mut device.sim))
                .expect("journals are removed");
        }
    }

    /// What is kept in the first data directory to be recycled.
    pub(super) fn spares(&self) -> tidelog_segment_log::log::SpareBudget {
        self.keepers[0].figures().spares().clone()
    }

    /// The control thread looks at the room on the disk; at rest only, since it lets all operations end.
    pub(super) fn look_at_room(&mut self) -> Vec<RoomChange> {
        self.run();
        let mut device = self.device.borrow_mut();
        let looks = self.keepers.iter_mut().map(|keeper| {
            keeper
                .look(&mut Blocking(&mut device.sim), None)
                .expect("measured")
        });
        looks.flatten().collect()
    }

    pub(super) fn shards(&self) -> usize {
        self.shards
    }

    pub(super) fn shard(&mut self, shard: usize) -> &mut Shard {
        &mut self.nodes[shard].shard
    }

    pub(super) fn wall_ms(&self) -> i64 {
        EPOCH_MS + self.monotonic_ms as i64 + self.leap_ms
    }

    fn now(&self) -> Now {
        Now {
            monotonic_ms: self.monotonic_ms,
            wall_ms: self.wall_ms(),
            instant: std::time::Instant::now(),
        }
    }

    pub(super) fn hold(&mut self, hold: Hold) {
        self.device.borrow_mut().hold(hold);
    }

    pub(super) fn release(&mut self) {
        self.device.borrow_mut().release();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() || !self.tidy {
            return;
        }
        self.release();
        self.steps_held = false;
        self.run();
        self.close_all();
        self.assert_nothing_is_held();
    }
}
