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

    // ---- the engine ----------------------------------------------------------------------------

    /// Takes turns and lets the device work until nothing happens any more; time stands still.
    pub(super) fn run(&mut self) {
        for _ in 0..TURNS_MAX {
            let progressed = self.turns();
            let advanced = self.device.borrow_mut().advance();
            if !progressed && !advanced {
                return;
            }
        }
        panic!("the shards do not come to rest");
    }

    /// One turn of each shard, without the device.
    pub(super) fn turns(&mut self) -> bool {
        (0..self.nodes.len()).fold(false, |any, shard| self.turn(shard) | any)
    }

    /// As [`Cluster::run`], then the time moves on, with a look at all timers on the way.
    pub(super) fn advance_ms(&mut self, ms: u64) {
        self.run();
        let until = self.monotonic_ms + ms;
        while self.monotonic_ms < until {
            let next = self
                .nodes
                .iter()
                .enumerate()
                .filter(|(shard, _)| self.stalled != Some(*shard))
                .filter_map(|(_, node)| node.shard.next_deadline_ms())
                .min();
            self.monotonic_ms = next.map_or(until, |at| at.clamp(self.monotonic_ms + 1, until));
            self.run();
            // The control thread's part, which in truth it does all the time.
            let is_low = self.keepers.iter().any(|keeper| !keeper.figures().takes_writes());
            if self.looks_at_room && is_low {
                self.look_at_room();
            }
        }
    }

    /// Lets time pass without a turn.
    pub(super) fn pass_ms(&mut self, ms: u64) {
        self.monotonic_ms += ms;
    }

    pub(super) fn turn(&mut self, shard: usize) -> bool {
        if self.stalled == Some(shard) {
            return false;
        }
        let now = self.now();
        let Node {
            shard: state, port, ..
        } = &mut self.nodes[shard];
        let mut progressed = false;
        let mut completions = Vec::new();
        port.take_completions(&mut completions);
        let (mut requests, mut answers) = (Vec::new(), Vec::new());
        progressed |= state.endpoint().receive(256, &mut requests, &mut answers);
        progressed |= !completions.is_empty() || !requests.is_empty() || !answers.is_empty();
        for completion in completions {
            state.on_disk(now, port, completion);
        }
        for (_, answer) in answers {
            state.on_answer(now, port, answer);
        }
        for (from, request) in requests {
            assert!(!matches!(request, ShardRequest::Connection { .. }));
            state.on_request(now, port, from, request);
        }
        if state.next_deadline_ms().is_some_and(|at| at <= now.monotonic_ms) {
            state.on_timers(now, port);
            progressed = true;
        }
        for at in 0..self.sockets.len() {
            if self.sockets[at].shard == shard {
                progressed |= self.read_frames(at);
            }
        }
        let Node {
            shard: state,
            port,
            stepped,
            ..
        } = &mut self.nodes[shard];
        state.end_of_turn(now, port);
        // One step, small enough to be cut in most jobs.
        progressed |= std::mem::replace(stepped, state.has_background() && !self.steps_held);
        if *stepped {
            state.step(now, port, &mut StepBudget::items(STEP_ITEMS));
            progressed = true;
        }
        let has_arrived = self.nodes[shard].port.heap_has_arrived();
        progressed | has_arrived | self.carry_out_effects(shard)
    }

    /// One step of a shard's background work, at most this many items.
    pub(super) fn step(&mut self, shard: usize, items: u32) -> Progress {
        let now = self.now();
        let Node {
            shard: state, port, ..
        } = &mut self.nodes[shard];
        state.step(now, port, &mut StepBudget::items(items))
    }

    /// A turn; whether the shard owns no partition any more.
    pub(super) fn turn_until_deleted(&mut self, shard: usize) -> bool {
        self.turn(shard);
        self.nodes[shard].shard.partitions.len() == 0
    }

    /// As the reactor: only with a reason to, and only while the shard takes frames.
    fn read_frames(&mut self, at: usize) -> bool {
        let now = self.now();
        let socket = &mut self.sockets[at];
        let Node { shard, port, .. } = &mut self.nodes[socket.shard];
        let mut any = false;
        while socket.readable && !socket.closed {
            if !shard.wants_frame(socket.id) {
                (socket.readable, socket.armed) = (false, false);
                break;
            }
            let Some(frame) = socket.inbox.front() else {
                (socket.readable, socket.armed) = (false, true);
                break;
            };
            if !shard.can_ever_receive(frame.len()) {
                shard.on_frame_too_large(socket.id, frame.len());
                self.close_socket(at);
                return true;
            }
            if !shard.reserve_receive(frame.len()) {
                shard.on_receive_stalled();
                break;
            }
            if let Some(frame) = socket.inbox.pop_front() {
                let charge_bytes = frame.len();
                shard.on_frame(now, port, socket.id, frame, charge_bytes);
                any = true;
            }
        }
        any
    }

    fn socket_of(&mut self, shard: usize, id: SocketId) -> Option<usize> {
        self.sockets
            .iter()
            .position(|socket| socket.shard == shard && socket.id == id && !socket.closed)
    }

    fn carry_out_effects(&mut self, shard: usize) -> bool {
        let effects = self.nodes[shard].shard.take_effects();
        let any = !effects.is_empty();
        for effect in effects {
            match effect {
                Effect::Respond(id, response) => match self.socket_of(shard, id) {
                    Some(at) => {
                        self.sockets[at].queued.push_back(response);
                        self.send_queued(at);
                        self.sockets[at].readable = true;
                    }
                    None => self.nodes[shard].shard.on_sent(response.charge),
                },
                Effect::Close(id) => {
                    if let Some(at) = self.socket_of(shard, id) {
                        self.close_socket(at);
                    }
                }
                Effect::CloseAfterSend(id) => {
                    if let Some(at) = self.socket_of(shard, id) {
                        self.sockets[at].close_after_send = true;
                        self.send_queued(at);
                    }
                }
                Effect::ReadAgain(id) => {
                    if let Some(at) = self.socket_of(shard, id) {
                        self.sockets[at].readable = true;
                    }
                }
            }
        }
        any
    }

    fn send_queued(&mut self, at: usize) {
        let socket = &mut self.sockets[at];
        if socket.stalled {
            return;
        }
        while let Some(response) = socket.queued.pop_front() {
            let whole: Vec<u8> = response
                .parts
                .iter()
                .flat_map(|part| part.bytes())
                .copied()
                .collect();
            let size = u32::from_be_bytes(whole[..4].try_into().expect("a size prefix"));
            assert_eq!(size as usize, whole.len() - 4, "the frame is as long as it says");
            socket.received.push_back(Bytes::from(whole).slice(4..));
            self.nodes[socket.shard].shard.on_sent(response.charge);
        }
        if socket.close_after_send {
            self.close_socket(at);
        }
    }

    fn close_socket(&mut self, at: usize) {
        let socket = &mut self.sockets[at];
        if std::mem::replace(&mut socket.closed, true) {
            return;
        }
        let shard = &mut self.nodes[socket.shard].shard;
        for response in socket.queued.drain(..) {
            shard.on_sent(response.charge);
        }
        shard.on_closed(socket.id);
    }

    // ---- clients -------------------------------------------------------------------------------

    pub(super) fn connect(&mut self, shard: usize) -> Client {
        let id = SocketId {
            slot: self.sockets.len() as u32,
            generation: 0,
        };
        let now = self.now();
        let peer = "192.0.2.1:50000".parse().expect("an address");
        self.nodes[shard].shard.on_accepted(now, id, 0, peer);
        self.sockets.push(Socket {
            shard,
            id,
            inbox: VecDeque::new(),
            readable: true,
            armed: false,
            stalled: false,
            queued: VecDeque::new(),
            close_after_send: false,
            closed: false,
            received: VecDeque::new(),
            asked: HashMap::new(),
            next_correlation: 1,
        });
        Client(self.sockets.len() - 1)
    }

    /// Sends a request; it is looked at in the next turn.
    pub(super) fn send(&mut self, client: Client, version: i16, body: impl Into<RequestBody>) -> i32 {
        let body = body.into();
        let key = body.api_key();
        let socket = &mut self.sockets[client.0];
        let correlation = socket.next_correlation;
        socket.next_correlation += 1;
        let frame = encode_request(key, version, correlation, Some("test"), &body).expect("a request");
        socket.asked.insert(correlation, (key, version));
        self.send_raw(client, frame.slice(4..));
        correlation
    }

    /// Sends the bytes of a frame, without its size.
    pub(super) fn send_raw(&mut self, client: Client, frame: Bytes) {
        let socket = &mut self.sockets[client.0];
        socket.inbox.push_back(frame);
        socket.readable |= socket.armed;
    }

    /// The next answer that has come, in the order of arrival.
    pub(super) fn received(&mut self, client: Client) -> Option<(i32, ResponseBody)> {
        let socket = &mut self.sockets[client.0];
        let frame = socket.received.pop_front()?;
        let correlation = i32::from_be_bytes(frame[..4].try_into().expect("a correlation id"));
        let (key, version) = socket.asked.remove(&correlation).expect("was asked");
        let response = decode_response(key, version, frame, DECODE_BYTES).expect("an answer");
        Some((correlation, response.body))
    }

    /// The raw next answer.
    pub(super) fn received_raw(&mut self, client: Client) -> Option<Bytes> {
        self.sockets[client.0].received.pop_front()
    }

    /// Sends, runs, and takes the answer, which must be the only one.
    pub(super) fn ask(&mut self, client: Client, version: i16, body: impl Into<RequestBody>) -> ResponseBody {
        let sent = self.send(client, version, body);
        self.run();
        let (correlation, body) = self.received(client).expect("an answer");
        assert_eq!(correlation, sent);
        body
    }

    pub(super) fn is_closed(&self, client: Client) -> bool {
        self.sockets[client.0].closed
    }

    /// The client goes away.
    pub(super) fn close(&mut self, client: Client) {
        self.close_socket(client.0);
    }

    /// The client stops, or goes on, taking answers.
    pub(super) fn stall(&mut self, client: Client, stalled: bool) {
        self.sockets[client.0].stalled = stalled;
        if !stalled {
            self.send_queued(client.0);
            self.sockets[client.0].readable = true;
        }
    }

    /// Bytes of answers that wait for the client to read.
    pub(super) fn queued_bytes(&self, client: Client) -> usize {
        let parts = self.sockets[client.0]
            .queued
            .iter()
            .flat_map(|response| response.parts.iter());
        parts.map(|part| part.bytes().len()).sum()
    }

    // ---- ends ----------------------------------------------------------------------------------

    /// SIGTERM on all shards; nothing is run yet.
    pub(super) fn begin_stop(&mut self) {
        let now = self.now();
        for Node { shard, port, .. } in &mut self.nodes {
            shard.on_stop(now, port);
        }
    }

    pub(super) fn is_drained(&self) -> bool {
        self.nodes.iter().all(|node| node.shard.is_drained())
    }

    /// An orderly stop, then a start of the same process image with the same settings.
    pub(super) fn restart(&mut self) {
        self.stop_in_order();
        self.begin_again();
    }

    fn stop_in_order(&mut self) {
        self.begin_stop();
        self.run();
        assert!(self.is_drained(), "drained without waiting");
        assert!(self.nodes.iter().all(|node| node.shard.is_complete()));
        self.close_all();
        for DirectorySeed { directory, space } in std::mem::take(&mut self.directories) {
            if !space.has_failed() {
                let mut device = self.device.borrow_mut();
                directory
                    .mark_clean(&mut Blocking(&mut device.sim))
                    .expect("marked");
            }
        }
    }

    /// An orderly stop, a start that is stopped after some turns, and another start.
    pub(super) fn restart_and_stop_after(&mut self, turns: usize) {
        self.stop_in_order();
        self.sockets.clear();
        self.nodes.clear();
        self.device.borrow_mut().forget(self.shards);
        self.start();
        for _ in 0..turns {
            self.turns();
            self.device.borrow_mut().advance();
        }
        self.restart();
    }

    /// The power goes, then the broker starts again.
    pub(super) fn power_cut(&mut self) {
        self.sockets.clear();
        self.nodes.clear();
        self.directories.clear();
        self.device.borrow_mut().sim.power_cut();
        self.begin_again();
    }

    /// The process is killed, then the broker starts again.
    pub(super) fn kill(&mut self) {
        self.sockets.clear();
        self.nodes.clear();
        self.directories.clear();
        self.device.borrow_mut().sim.process_kill();
        self.begin_again();
    }

    fn begin_again(&mut self) {
        self.sockets.clear();
        self.nodes.clear();
        self.device.borrow_mut().forget(self.shards);
        self.start();
        self.run();
        assert!(
            self.nodes.iter().all(|node| node.shard.is_ready()),
            "serves again"
        );
        self.remove_replayed_journals();
    }

    fn close_all(&mut self) {
        for at in 0..self.sockets.len() {
            self.close_socket(at);
        }
        self.run();
    }

    /// What shards still hold for requests: nothing, when all connections are gone.
    pub(super) fn assert_nothing_is_held(&mut self) {
        for Node { shard, .. } in &mut self.nodes {
            let own = shard.own;
            assert_eq!(
                shard.receive_budget.used_bytes(),
                0,
                "receive budget of shard {own}"
            );
            assert_eq!(shard.fetch_budget.used_bytes(), 0, "fetch budget of shard {own}");
            assert_eq!(shard.pending.len(), 0, "requests of shard {own}");
            assert_eq!(shard.connections.len(), 0, "connections of shard {own}");
            assert_eq!(
                shard.backlog.iter().map(VecDeque::len).sum::<usize>(),
                0,
                "backlog of shard {own}"
            );
            assert_eq!(shard.partitions.watcher_count(), 0, "watchers of shard {own}");
        }
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
