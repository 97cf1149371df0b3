//! An echo, and background work without an end: the least that the broker's loop can drive.
//!
//! Invariant: memory is not budgeted here, so every reservation is granted and none is counted.

use std::net::SocketAddr;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::ValueEnum;
use tidelog_bench::load::bare::{self, ECHO_ANSWER_BYTES, ECHO_REQUEST_BYTES};
use tidelog_core::mesh::Endpoint;
use tidelog_core::metrics::{ShardCells, ShardMetrics};
use tidelog_core::reactor::{Machine, Progress, StepBudget};
use tidelog_core::shard::{
    Charge, Effect, Now, Parts, ReceivePool, Response, SendPart, ShardAnswer, ShardRequest, SocketId,
};
use tidelog_net::frame::FrameError;
use tidelog_segment_log::disk::{Completion, Disk};

/// What the loop sizes its receive buffers by: a shard's share of a small broker.
const RECEIVE_POOL_BYTES: usize = 64 << 20;
/// What background work goes over, again and again: more than the caches hold.
const WORK_BYTES: usize = 64 << 20;
/// What one item of it goes over.
const ITEM_BYTES: usize = 16 << 10;
/// How long work that is not cut takes before the loop has its thread back.
const UNCUT: Duration = Duration::from_millis(20);

/// Background work besides the echo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Work {
    /// None: what the machine and its load do to latency by themselves.
    None,
    /// Without an end, in steps as the loop allows them.
    Cut,
    /// The control: no step ends, so no poll point comes, for 20 ms.
    Uncut,
}

/// See the file's head.
pub struct Echo {
    endpoint: Endpoint<ShardRequest, ShardAnswer>,
    metrics: ShardCells,
    effects: Vec<Effect>,
    work: Work,
    worked_on: Vec<u8>,
    next_item: usize,
    sum: u64,
    is_stopped: bool,
    ended: Sender<ShardMetrics>,
}

impl Echo {
    /// `ended` is told the shard's metrics at its end.
    pub fn new(
        endpoint: Endpoint<ShardRequest, ShardAnswer>,
        work: Work,
        ended: Sender<ShardMetrics>,
    ) -> Self {
        Self {
            endpoint,
            metrics: ShardCells::new(0),
            effects: Vec::new(),
            work,
            worked_on: match work {
                Work::None => Vec::new(),
                Work::Cut | Work::Uncut => vec![1; WORK_BYTES],
            },
            next_item: 0,
            sum: 0,
            is_stopped: false,
            ended,
        }
    }

    fn work_one_item(&mut self) {
        let item = self.worked_on.chunks_exact(ITEM_BYTES).nth(self.next_item);
        let sum = item.unwrap_or_default().iter().map(|byte| u64::from(*byte)).sum();
        self.sum = std::hint::black_box(self.sum.wrapping_add(sum));
        self.next_item = (self.next_item + 1) % (WORK_BYTES / ITEM_BYTES);
    }
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
        !self.is_stopped
    }

    fn is_drained(&self) -> bool {
        self.is_stopped
    }

    fn is_complete(&self) -> bool {
        self.is_stopped
    }

    fn next_deadline_ms(&self) -> Option<u64> {
        None
    }

    fn on_frame(
        &mut self,
        _now: Now,
        _disk: &mut dyn Disk,
        socket: SocketId,
        frame: Bytes,
        _charge_bytes: usize,
    ) {
        let mut answer = [0; ECHO_ANSWER_BYTES];
        answer[..8].copy_from_slice(&bare::head(ECHO_ANSWER_BYTES, 0));
        if let Some(id) = frame.get(..4) {
            answer[4..8].copy_from_slice(id);
        }
        let response = Response {
            parts: Parts::One(SendPart::Bytes(Bytes::copy_from_slice(&answer))),
            charge: Charge::default(),
        };
        self.effects.push(Effect::Respond(socket, response));
    }

    fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    fn has_background(&self) -> bool {
        self.work != Work::None && !self.is_stopped
    }

    fn step(&mut self, _now: Now, _disk: &mut dyn Disk, budget: &mut StepBudget) -> Progress {
        let began = Instant::now();
        while match self.work {
            Work::Uncut => began.elapsed() < UNCUT,
            Work::None | Work::Cut => budget.take(),
        } {
            self.work_one_item();
        }
        Progress::Pending
    }

    fn on_stop(&mut self, _now: Now, _disk: &mut dyn Disk) {
        self.is_stopped = true;
    }

    fn on_stopped(&mut self) {
        // The receiver is gone only when the process is ending.
        let _ = self.ended.send(self.metrics.snapshot());
    }

    fn wants_frame(&mut self, _socket: SocketId) -> bool {
        !self.is_stopped
    }

    fn request_max_bytes(&self) -> usize {
        ECHO_REQUEST_BYTES
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

    fn on_bad_frame(&mut self, _socket: SocketId, error: &FrameError) {
        eprintln!("shard-loop: closed: {error}");
    }

    fn release_connection(&mut self) {}
    fn on_receive_stalled(&mut self) {}
    fn release_send(&mut self, _bytes: usize) {}
    fn on_sent(&mut self, _charge: Charge) {}
    fn wake_at(&mut self, _at_ms: u64) {}
    fn on_timers(&mut self, _now: Now, _disk: &mut dyn Disk) {}
    fn on_disk(&mut self, _now: Now, _disk: &mut dyn Disk, _completion: Completion) {}
    fn on_request(&mut self, _now: Now, _disk: &mut dyn Disk, _from: usize, _request: ShardRequest) {}
    fn on_answer(&mut self, _now: Now, _disk: &mut dyn Disk, _answer: ShardAnswer) {}
    fn answer_handoff(&mut self, _from: usize) {}
    fn on_accepted(&mut self, _now: Now, _socket: SocketId, _listener: usize, _peer: SocketAddr) {}
    fn on_frame_too_large(&mut self, _socket: SocketId, _size_bytes: usize) {}
    fn on_frame_stalled(&mut self, _socket: SocketId) {}
    fn on_closed(&mut self, _socket: SocketId) {}
    fn end_of_turn(&mut self, _now: Now, _disk: &mut dyn Disk) {}
}
