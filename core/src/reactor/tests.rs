//! The real loop on a real ring, around a machine that echoes and has background work without an end.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use bytes::{BufMut, Bytes, BytesMut};
use tidelog_net::frame::FrameError;
use tidelog_segment_log::disk::{Completion, Disk};

use super::*;
use crate::mesh::{Waker, mesh};
use crate::metrics::{ShardCells, ShardMetrics};
use crate::shard::{Charge, Parts, ReceivePool, Response, SendPart};

/// Longer than anything here may take on any machine.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Enough for a ring of provided buffers.
const RECEIVE_POOL_BYTES: usize = 16 << 20;

/// What a step does.
#[derive(Clone, Copy)]
enum Work {
    /// Items until its budget ends it.
    WithinBudget,
    /// One item that takes longer than a step may.
    TooLong,
    /// Nothing.
    None,
}

struct Echo {
    endpoint: Endpoint<ShardRequest, ShardAnswer>,
    metrics: ShardCells,
    effects: Vec<Effect>,
    work: Work,
    /// A deadline is always due, so that every turn finds something.
    busy: bool,
    stopped: bool,
    steps: Sender<()>,
    looks: Sender<()>,
    told_spins: u64,
    ended: Sender<ShardMetrics>,
}

impl ReceivePool for Echo {
    fn reserve_receive(&mut self, _bytes: usize) -> bool {
        true
    }

    fn release_receive(&mut self, _bytes: usize) {}

    fn can_ever_receive(&self, _bytes: usize) -> bool {
        true
    }
}

impl Machine for Echo {
    fn endpoint(&mut self) -> &mut Endpoint<ShardRequest, ShardAnswer> {
        &mut self.endpoint
    }

    fn metrics(&self) -> &ShardCells {
        &self.metrics
    }

    fn is_ready(&self) -> bool {
        !self.stopped
    }

    fn is_drained(&self) -> bool {
        self.stopped
    }

    fn is_complete(&self) -> bool {
        self.stopped
    }

    fn next_deadline_ms(&self) -> Option<u64> {
        self.busy.then_some(0)
    }

    fn has_background(&self) -> bool {
        !self.stopped && !matches!(self.work, Work::None)
    }

    fn step(&mut self, _now: Now, _disk: &mut dyn Disk, budget: &mut StepBudget) -> Progress {
        match self.work {
            Work::WithinBudget => while budget.take() {},
            Work::None => {}
            Work::TooLong => {
                let began = Instant::now();
                while began.elapsed() <= STEP_BOUND {}
            }
        }
        // The test may have seen enough.
        let _ = self.steps.send(());
        Progress::Pending
    }

    fn on_frame(
        &mut self,
        _now: Now,
        _disk: &mut dyn Disk,
        socket: SocketId,
        frame: Bytes,
        _charge_bytes: usize,
    ) {
        let mut answer = BytesMut::with_capacity(4 + frame.len());
        answer.put_u32(frame.len() as u32);
        answer.put_slice(&frame);
        let response = Response {
            parts: Parts::One(SendPart::Bytes(answer.freeze())),
            charge: Charge::default(),
        };
        self.effects.push(Effect::Respond(socket, response));
    }

    fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    fn end_of_turn(&mut self, _now: Now, _disk: &mut dyn Disk) {
        if self.metrics.spins.get() > self.told_spins {
            self.told_spins = self.metrics.spins.get();
            let _ = self.looks.send(());
        }
    }

    fn on_stop(&mut self, _now: Now, _disk: &mut dyn Disk) {
        self.stopped = true;
    }

    fn on_stopped(&mut self) {
        self.ended.send(self.metrics.snapshot()).expect("the test waits");
    }

    fn wants_frame(&mut self, _socket: SocketId) -> bool {
        !self.stopped
    }

    fn request_max_bytes(&self) -> usize {
        1 << 20
    }

    fn receive_pool_bytes(&self) -> usize {
        RECEIVE_POOL_BYTES
    }

    fn has_memory_to_spare(&self) -> bool {
        true
    }

    fn reserve_connection(&mut self) -> bool {
        true
    }

    fn reserve_send(&mut self, _bytes: usize) -> bool {
        true
    }

    fn wake_at(&mut self, _at_ms: u64) {}
    fn on_timers(&mut self, _now: Now, _disk: &mut dyn Disk) {}
    fn on_disk(&mut self, _now: Now, _disk: &mut dyn Disk, _completion: Completion) {}
    fn on_request(&mut self, _now: Now, _disk: &mut dyn Disk, _from: usize, _request: ShardRequest) {}
    fn on_answer(&mut self, _now: Now, _disk: &mut dyn Disk, _answer: ShardAnswer) {}
    fn answer_handoff(&mut self, _from: usize) {}
    fn on_accepted(&mut self, _now: Now, _socket: SocketId, _listener: usize, _peer: SocketAddr) {}
    fn on_bad_frame(&mut self, _socket: SocketId, _error: &FrameError) {}
    fn on_frame_too_large(&mut self, _socket: SocketId, _size_bytes: usize) {}
    fn on_frame_stalled(&mut self, _socket: SocketId) {}
    fn on_closed(&mut self, _socket: SocketId) {}
    fn release_connection(&mut self) {}
    fn on_receive_stalled(&mut self) {}
    fn release_send(&mut self, _bytes: usize) {}
    fn on_sent(&mut self, _charge: Charge) {}
}

/// More than the tests hold open at a time.
const CONNECTIONS_MAX: usize = 64;

struct Running {
    address: SocketAddr,
    shared: Arc<Shared>,
    waker: Waker,
    steps: Receiver<()>,
    /// Told when the loop has looked for work before sleeping.
    looks: Receiver<()>,
    ended: Receiver<ShardMetrics>,
    thread: JoinHandle<()>,
}

fn start(work: Work, busy: bool, spin: Duration) -> Running {
    let endpoint = mesh(1).expect("a mesh").remove(0);
    let waker = endpoint.own_waker().clone();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = listener.local_addr().expect("an address");
    let shared = Arc::new(Shared {
        stopping: AtomicBool::new(false),
        connections: vec![AtomicUsize::new(0)],
        connections_max: CONNECTIONS_MAX,
    });
    let (steps_sender, steps) = channel();
    let (looks_sender, looks) = channel();
    let (ended_sender, ended) = channel();
    let (started_sender, started) = std::sync::mpsc::channel();
    let thread = spawn(
        Start {
            memory: tidelog_segment_log::disk::heap::HeapPool::of_shards(1 << 20, 1).remove(0),
            shard: Box::new(move |endpoint| Echo {
                endpoint,
                metrics: ShardCells::new(0),
                effects: Vec::new(),
                work,
                busy,
                stopped: false,
                steps: steps_sender,
                looks: looks_sender,
                told_spins: 0,
                ended: ended_sender,
            }),
            endpoint,
            listeners: vec![(0, listener)],
            shared: Arc::clone(&shared),
            files_max: 100,
            hot_window_bytes: 0,
            spin,
            pin: None,
            started: started_sender,
        },
        |result| assert!(result.expect("no error of the ring"), "in order"),
    )
    .expect("a thread");
    started
        .recv_timeout(TEST_TIMEOUT)
        .expect("started")
        .expect("a ring");
    Running {
        address,
        shared,
        waker,
        steps,
        looks,
        ended,
        thread,
    }
}

impl Running {
    fn wait_for_steps(&self, count: usize) {
        for _ in 0..count {
            self.steps.recv_timeout(TEST_TIMEOUT).expect("a step");
        }
    }

    /// This many requests of six bytes, one after the other.
    fn ask(&self, count: u8) {
        let mut client = TcpStream::connect(self.address).expect("connected");
        client.set_read_timeout(Some(TEST_TIMEOUT)).expect("a timeout");
        for number in 0..count {
            client.write_all(&[0, 0, 0, 2, number, 7]).expect("sent");
            let mut answer = [0; 6];
            client.read_exact(&mut answer).expect("an answer");
            assert_eq!(answer, [0, 0, 0, 2, number, 7]);
        }
    }

    fn stop(self) -> ShardMetrics {
        self.shared.stopping.store(true, Ordering::Release);
        self.waker.ring();
        let metrics = self.ended.recv_timeout(TEST_TIMEOUT).expect("it stops");
        self.thread.join().expect("no panic");
        metrics
    }
}

#[test]
fn a_connection_that_there_is_no_descriptor_for_is_refused_at_once() {
    let running = start(Work::None, false, Duration::ZERO);
    let open = || TcpStream::connect(running.address).expect("connected");
    let held: Vec<TcpStream> = (0..CONNECTIONS_MAX).map(|_| open()).collect();
    let began = Instant::now();
    while running.shared.connections[0].load(Ordering::Relaxed) < CONNECTIONS_MAX {
        assert!(began.elapsed() < TEST_TIMEOUT, "they are accepted");
        std::thread::yield_now();
    }
    let mut one_more = open();
    one_more.set_read_timeout(Some(TEST_TIMEOUT)).expect("a timeout");
    assert_eq!(one_more.read(&mut [0]).expect("closed, not left waiting"), 0);
    // The others are served, and one that goes makes room.
    let mut first = held.into_iter().next().expect("one");
    first.write_all(&[0, 0, 0, 2, 1, 7]).expect("sent");
    let mut answer = [0; 6];
    first.set_read_timeout(Some(TEST_TIMEOUT)).expect("a timeout");
    first.read_exact(&mut answer).expect("an answer");
    let began = Instant::now();
    while running.shared.connections[0].load(Ordering::Relaxed) >= CONNECTIONS_MAX {
        assert!(began.elapsed() < TEST_TIMEOUT, "the others are gone");
        std::thread::yield_now();
    }
    running.ask(1);
    drop(first);
    assert_eq!(running.stop().connections_refused, 1);
}

/// Without the poll point the loop would never take another turn.
#[test]
fn requests_are_served_while_background_work_never_ends() {
    let running = start(Work::WithinBudget, false, Duration::ZERO);
    running.wait_for_steps(2);
    running.ask(20);
    running.steps.try_iter().for_each(drop);
    running.wait_for_steps(2);
    assert_eq!(running.stop().sent_bytes, 120);
}

#[test]
fn background_work_goes_on_while_every_turn_finds_something() {
    let running = start(Work::WithinBudget, true, Duration::ZERO);
    running.wait_for_steps(20);
    let metrics = running.stop();
    let (turns, steps) = (
        metrics.loop_turn_time.count(),
        metrics.background_step_time.count(),
    );
    assert!(
        turns >= steps,
        "a turn between any two: {turns} turns, {steps} steps"
    );
}

#[test]
fn steps_over_their_bound_are_counted() {
    let running = start(Work::TooLong, false, Duration::ZERO);
    running.wait_for_steps(10);
    let metrics = running.stop();
    assert!(metrics.background_steps_late >= 10);
    assert_eq!(
        metrics.background_steps_late,
        metrics.background_step_time.count()
    );
}

/// With a bound that no wait of the test reaches, each wait after the first few is one look that finds something.
#[test]
fn a_busy_shard_looks_for_work_before_it_sleeps_and_finds_it() {
    let running = start(Work::None, false, TEST_TIMEOUT);
    let began = Instant::now();
    // Which requests find the shard waiting is the machine's to say.
    while running.looks.try_recv().is_err() {
        assert!(began.elapsed() < TEST_TIMEOUT, "it never looks");
        running.ask(20);
    }
    assert_eq!(running.stop().spins_in_vain, 0);
}

#[test]
fn without_a_bound_a_shard_sleeps_at_once() {
    let running = start(Work::None, false, Duration::ZERO);
    running.ask(40);
    assert_eq!(running.stop().spins, 0);
}
