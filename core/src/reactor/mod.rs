//! The engine of one shard: a thread and one raw io_uring ring.
//!
//! Runs on the shard's own thread. It takes turns: reap the ring, take what other
//! shards sent, fire timers, let the sans-I/O [`Machine`] act, carry out its effects, submit. Between
//! turns it takes steps of background work ([`background`]); without any it
//! parks, by sleeping in the raw ring, only after the doorbell protocol.
//!
//! Invariants: only this folder names io_uring; nothing here blocks but parking; a
//! buffer given to the kernel stays where it is until its completion was reaped.

mod accept;
mod arena;
mod background;
mod connections;
mod inbound;
mod machine;
mod provided;
mod ring;
mod ring_disk;
mod socket_memory;
mod sockets;
mod spin;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use io_uring::{opcode, types};

use tidelog_segment_log::disk::Descriptors;
use tidelog_segment_log::disk::heap::{HeapPool, WithHeap};

use crate::mesh::Endpoint;
use crate::shard::{Effect, Now, ShardAnswer, ShardRequest, SocketId};
use arena::Arena;
use background::Pace;
use provided::ProvidedBuffers;
use ring::{Kind, RawRing, Reaped, Tag};
use ring_disk::RingDisk;
use sockets::Sockets;
use spin::Spin;

pub use background::{Progress, STEP_BOUND, StepBudget};
pub use machine::Machine;
pub use ring::probe;

/// Messages of a kind taken from one peer per turn.
const MESSAGES_PER_TURN: usize = 256;
/// The longest sleep without a deadline.
const IDLE_WAIT_MS: u64 = 1_000;

/// What all shards and the control thread share.
#[derive(Debug)]
pub struct Shared {
    /// Set once: drain and stop.
    pub stopping: AtomicBool,
    /// Open connections per shard, for the accept hand-off.
    pub connections: Vec<AtomicUsize>,
    /// Connections that the process has descriptors for.
    pub connections_max: usize,
}

/// Makes a machine with its rings.
pub type MakeMachine<M> = Box<dyn FnOnce(Endpoint<ShardRequest, ShardAnswer>) -> M + Send>;

/// What a shard's thread is started with.
pub struct Start<M> {
    /// Makes the state machine on the shard's thread.
    pub shard: MakeMachine<M>,
    /// This shard's rings.
    pub endpoint: Endpoint<ShardRequest, ShardAnswer>,
    /// Listening sockets, each with the index of its listener (which may have several addresses).
    pub listeners: Vec<(usize, TcpListener)>,
    /// Shared with the other shards.
    pub shared: Arc<Shared>,
    /// Descriptors of log files that it comes back to.
    pub files_max: usize,
    /// How much of what this shard wrote last counts as resident in the page cache, bytes.
    pub hot_window_bytes: u64,
    /// The memory of files that are on no disk, as this shard uses it.
    pub memory: Arc<HeapPool>,
    /// How long to look for work before sleeping, at most and only where that pays; zero: not at all.
    pub spin: Duration,
    /// The core to run on alone, if any.
    pub pin: Option<usize>,
    /// Receives one message when the thread has its ring, or the reason why not.
    pub started: std::sync::mpsc::Sender<io::Result<()>>,
}

/// Starts a shard's thread. `ended` is called on it at its end: whether everything was closed in order.
///
/// # Errors
/// When the thread cannot be made.
pub fn spawn<M: Machine + 'static>(
    start: Start<M>,
    ended: impl FnOnce(io::Result<bool>) + Send + 'static,
) -> io::Result<std::thread::JoinHandle<()>> {
    let name = format!("shard-{}", start.endpoint.own());
    std::thread::Builder::new().name(name).spawn(move || {
        if let Some(core) = start.pin {
            pin_to(core);
        }
        ended(run(start));
    })
}

/// Keeps the calling thread on one core. It may run there, so this fails only when that has just changed.
fn pin_to(core: usize) {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(core);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &cores) {
        tracing::warn!(%error, core, "a shard could not be pinned to its core");
    }
}

fn run<M: Machine>(start: Start<M>) -> io::Result<bool> {
    let started = start.started.clone();
    let mut reactor = match Reactor::new(start) {
        Ok(reactor) => reactor,
        Err(error) => {
            // The receiver is gone only when the process is ending.
            let _ = started.send(Err(error));
            return Ok(false);
        }
    };
    let _ = started.send(Ok(()));
    let mut stepped = false;
    while !reactor.finished() {
        let started_at = Instant::now();
        // What a step brings may want more than one turn.
        let progressed = reactor.turn()? | stepped;
        let ended_at = Instant::now();
        let turn_time = ended_at - started_at;
        reactor.shard.metrics().loop_turn_time.observe(turn_time);
        stepped = reactor.shard.has_background() && reactor.take_steps(ended_at, progressed);
        if !progressed && !stepped {
            reactor.park()?;
        }
    }
    reactor.shard.on_stopped();
    Ok(reactor.shard.is_complete())
}

struct Reactor<M> {
    shard: M,
    ring: Rc<RefCell<RawRing>>,
    disk: WithHeap<RingDisk>,
    sockets: Sockets,
    arena: Arena,
    provided: ProvidedBuffers,
    listeners: Vec<(usize, TcpListener)>,
    accepting: Vec<bool>,
    accept_again_at_ms: u64,
    /// When a refusal is logged again.
    refusal_log_ms: u64,
    /// When a failure is.
    failure_log_ms: u64,
    shared: Arc<Shared>,
    epoch: Instant,
    /// Connections that may go on reading once their budget or their turn allows.
    read_later: Vec<SocketId>,
    /// Connections that are to receive again at the end of this turn.
    receive_later: Vec<SocketId>,
    /// Connections with answers queued in this turn that no send has taken.
    answered: Vec<SocketId>,
    reaped: Vec<Reaped>,
    wake_armed: bool,
    /// What a wake-up reads: a counter nobody looks at.
    wake_count: Box<[u8; 8]>,
    stop_seen: bool,
    stall_look_ms: u64,
    /// Where that look goes on.
    next_look: usize,
    pace: Pace,
    spin: Spin,
}

impl<M: Machine> Reactor<M> {
    fn new(start: Start<M>) -> io::Result<Self> {
        let mut shard = (start.shard)(start.endpoint);
        let pool_bytes = shard.receive_pool_bytes();
        let buffers = ProvidedBuffers::count_for(pool_bytes);
        if !shard.reserve_receive(ProvidedBuffers::memory_bytes(buffers)) {
            return Err(io::Error::other(
                "the receive pool has no room for the smallest ring of buffers",
            ));
        }
        let ring = RawRing::new()?;
        let provided = ProvidedBuffers::new(&ring, buffers)?;
        let ring = Rc::new(RefCell::new(ring));
        let disk = RingDisk::new(
            Rc::clone(&ring),
            start.hot_window_bytes,
            Descriptors::bounded(start.files_max),
        );
        let disk = WithHeap::new(disk, start.memory);
        let accepting = vec![false; start.listeners.len()];
        Ok(Self {
            shard,
            ring,
            disk,
            sockets: Sockets::default(),
            arena: Arena::new(pool_bytes),
            provided,
            listeners: start.listeners,
            accepting,
            accept_again_at_ms: 0,
            refusal_log_ms: 0,
            failure_log_ms: 0,
            shared: start.shared,
            epoch: Instant::now(),
            read_later: Vec::new(),
            receive_later: Vec::new(),
            answered: Vec::new(),
            reaped: Vec::new(),
            wake_armed: false,
            wake_count: Box::new([0; 8]),
            stop_seen: false,
            stall_look_ms: 0,
            next_look: 0,
            pace: Pace::default(),
            spin: Spin::new(start.spin),
        })
    }

    fn now(&self) -> Now {
        let instant = Instant::now();
        let wall = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Now {
            monotonic_ms: instant.duration_since(self.epoch).as_millis() as u64,
            wall_ms: i64::try_from(wall.as_millis()).unwrap_or(i64::MAX),
            instant,
        }
    }

    fn finished(&self) -> bool {
        self.shard.is_drained() && self.sockets.open_count() == 0 && self.disk.disk().in_flight() == 0
    }

    /// One turn. True: something happened, take another before parking.
    fn turn(&mut self) -> io::Result<bool> {
        let mut progressed = false;
        let now = self.now();
        if !self.stop_seen && self.shared.stopping.load(Ordering::Acquire) {
            self.stop_seen = true;
            self.shard.on_stop(now, &mut self.disk);
            progressed = true;
        }
        self.accept(now)?;
        if self.ring.borrow_mut().ready() || self.ring.borrow().has_unsubmitted() {
            self.ring.borrow_mut().enter_and_reap(&mut self.reaped)?;
        }
        for reaped in std::mem::take(&mut self.reaped) {
            progressed = true;
            self.on_reaped(now, reaped)?;
        }
        progressed |= self.take_completions(now);
        progressed |= self.take_messages(now);
        if self
            .shard
            .next_deadline_ms()
            .is_some_and(|at| at <= now.monotonic_ms)
        {
            self.shard.on_timers(now, &mut self.disk);
            progressed = true;
        }
        if now.monotonic_ms >= self.stall_look_ms {
            progressed |= self.look_at_connections(now)?;
        }
        for id in std::mem::take(&mut self.read_later) {
            self.read_frames(now, id)?;
        }
        self.shard.end_of_turn(now, &mut self.disk);
        progressed |= self.take_completions(now);
        progressed |= self.carry_out_effects(now)?;
        if self.stop_seen && self.shard.is_drained() {
            for id in self.sockets.ids() {
                self.close(id)?;
            }
        }
        self.receive_again()?;
        if self.ring.borrow().has_unsubmitted() {
            self.ring.borrow_mut().enter_and_reap(&mut self.reaped)?;
            progressed |= !self.reaped.is_empty();
        }
        Ok(progressed)
    }

    /// Background steps, until a poll point finds something for a turn. Whether there were any.
    fn take_steps(&mut self, turn_ended: Instant, progressed: bool) -> bool {
        let mut began = turn_ended;
        if !self.pace.may_step(began, progressed) {
            return false;
        }
        loop {
            let now = self.now();
            let mut budget = StepBudget::starting(began);
            let progress = self.shard.step(now, &mut self.disk, &mut budget);
            let ended = Instant::now();
            let step_time = ended - began;
            let metrics = self.shard.metrics();
            metrics.background_step_time.observe(step_time);
            if step_time > STEP_BOUND {
                metrics.background_steps_late.increment();
            }
            self.pace.stepped(ended);
            if progress == Progress::Done || !self.shard.has_background() || self.poll_point(ended) {
                return true;
            }
            began = ended;
        }
    }

    /// Whether a turn would find something, without a system call.
    fn poll_point(&mut self, now: Instant) -> bool {
        let now_ms = now.saturating_duration_since(self.epoch).as_millis() as u64;
        let is_due = |at_ms: u64| at_ms <= now_ms;
        self.ring.borrow_mut().ready()
            || self.ring.borrow().has_unsubmitted()
            || self.has_arrived()
            || self.shard.wants_turn()
            || self.shard.endpoint().bell().has_inbound()
            || self.shard.next_deadline_ms().is_some_and(is_due)
            || is_due(self.stall_look_ms)
            || self.shared.stopping.load(Ordering::Acquire) != self.stop_seen
    }

    /// Whether completions wait to be taken.
    fn has_arrived(&self) -> bool {
        self.disk.disk().has_arrived() || self.disk.heap_has_arrived()
    }

    fn take_completions(&mut self, now: Now) -> bool {
        let mut any = false;
        // A completion may let the shard submit what completes at once; each adds work of its own
        // at most once, so this ends.
        while self.has_arrived() {
            any = true;
            let mut completions = Vec::new();
            tidelog_segment_log::disk::Disk::take_completions(&mut self.disk, &mut completions);
            for completion in completions {
                self.shard.on_disk(now, &mut self.disk, completion);
            }
        }
        any
    }

    fn take_messages(&mut self, now: Now) -> bool {
        let (mut requests, mut answers) = (Vec::new(), Vec::new());
        self.shard
            .endpoint()
            .receive(MESSAGES_PER_TURN, &mut requests, &mut answers);
        let any = !requests.is_empty() || !answers.is_empty();
        for (_, answer) in answers {
            self.shard.on_answer(now, &mut self.disk, answer);
        }
        for (from, request) in requests {
            if let ShardRequest::Connection {
                socket,
                listener,
                peer,
            } = request
            {
                self.adopt(now, socket, listener, peer);
                self.shard.answer_handoff(from);
            } else {
                self.shard.on_request(now, &mut self.disk, from, request);
            }
        }
        any
    }

    fn carry_out_effects(&mut self, now: Now) -> io::Result<bool> {
        let effects = self.shard.take_effects();
        let any = !effects.is_empty();
        for effect in effects {
            match effect {
                Effect::Respond(id, response) => match self.sockets.get(id) {
                    Some(socket) if !socket.is_closing() => {
                        socket.queue(response);
                        if self.answered.last() != Some(&id) {
                            self.answered.push(id);
                        }
                    }
                    _ => self.shard.on_sent(response.charge),
                },
                Effect::Close(id) => self.close(id)?,
                Effect::CloseAfterSend(id) => {
                    let done = self.sockets.get(id).is_some_and(|socket| {
                        socket.close_when_sent();
                        socket.wants_close()
                    });
                    if done {
                        self.close(id)?;
                    }
                }
                Effect::ReadAgain(id) => self.read_frames(now, id)?,
            }
        }
        // Only now: answers of one turn leave a connection in one send.
        for id in std::mem::take(&mut self.answered) {
            self.send(id)?;
            self.read_frames(now, id)?;
        }
        Ok(any)
    }

    fn on_reaped(&mut self, now: Now, reaped: Reaped) -> io::Result<()> {
        let id = SocketId {
            slot: reaped.tag.slot,
            generation: reaped.tag.generation,
        };
        match reaped.tag.kind {
            Kind::Accept => self.on_accept(now, reaped),
            Kind::Receive => self.on_receive(now, id, reaped)?,
            Kind::Send => self.on_send(now, id, reaped)?,
            Kind::Disk => self.disk.disk_mut().on_reaped(reaped),
            Kind::Wake => self.wake_armed = false,
            Kind::Cancel => {}
        }
        Ok(())
    }

    /// Sleeps until a completion, a message of another shard or the next deadline.
    ///
    /// The thread's one sleep, which a look for work may precede.
    fn park(&mut self) -> io::Result<()> {
        let began = Instant::now();
        let parked = if self.look_before_sleeping(began) {
            Ok(())
        } else {
            self.sleep()
        };
        self.spin.waited(began.elapsed());
        parked
    }

    /// Looks for something to do as long as that is likely to come soon. Whether there is something.
    fn look_before_sleeping(&mut self, began: Instant) -> bool {
        let Some(bound) = self.spin.wanted() else {
            return false;
        };
        self.shard.metrics().spins.increment();
        let mut now = began;
        while now - began < bound {
            if self.poll_point(now) {
                return true;
            }
            std::hint::spin_loop();
            now = Instant::now();
        }
        self.shard.metrics().spins_in_vain.increment();
        false
    }

    fn sleep(&mut self) -> io::Result<()> {
        self.arm_wake()?;
        let stop_unseen = self.shared.stopping.load(Ordering::Acquire) != self.stop_seen;
        if self.has_arrived() || stop_unseen || !self.shard.endpoint().bell().park() {
            return Ok(());
        }
        let wait_ms = self.shard.next_deadline_ms().map_or(IDLE_WAIT_MS, |at_ms| {
            at_ms.saturating_sub(self.now().monotonic_ms).min(IDLE_WAIT_MS)
        });
        let slept = self
            .ring
            .borrow_mut()
            .sleep_and_reap(Duration::from_millis(wait_ms), &mut self.reaped);
        self.shard.endpoint().bell().unpark();
        slept
    }

    /// Keeps a read of this shard's eventfd in the ring: other threads end the sleep by writing to it.
    fn arm_wake(&mut self) -> io::Result<()> {
        if self.wake_armed {
            return Ok(());
        }
        let fd = types::Fd(self.shard.endpoint().eventfd().as_raw_fd());
        let entry = opcode::Read::new(fd, self.wake_count.as_mut_ptr(), self.wake_count.len() as u32).build();
        let tag = Tag {
            kind: Kind::Wake,
            generation: 0,
            slot: 0,
        };
        // SAFETY: the buffer is on the heap, and the ring is dropped before it (fields are dropped in
        // order); it is read by nobody.
        unsafe { self.ring.borrow_mut().push(entry, tag)? };
        self.wake_armed = true;
        Ok(())
    }
}
