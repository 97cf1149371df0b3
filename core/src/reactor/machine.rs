//! What the loop drives: a sans-I/O state machine.
//!
//! Inputs are methods called with the time and, where files may be touched, the disk; outputs are
//! [`Effect`]s taken after each turn, messages in the rings of [`Machine::endpoint`] and operations
//! submitted to the disk. All calls come from the thread that runs the loop, and none may block.
//! The loop is compiled for its machine: no call goes through a table but those on the disk.

use std::net::SocketAddr;

use bytes::Bytes;
use tidelog_net::frame::FrameError;
use tidelog_segment_log::disk::{Completion, Disk};

use super::background::{Progress, StepBudget};
use crate::mesh::Endpoint;
use crate::metrics::ShardCells;
use crate::shard::{Charge, Effect, Now, ReceivePool, ShardAnswer, ShardRequest, SocketId};

/// The inputs and outputs of a machine. [`crate::shard::Shard`] is the broker's.
pub trait Machine: ReceivePool {
    /// The rings to the other threads.
    fn endpoint(&mut self) -> &mut Endpoint<ShardRequest, ShardAnswer>;

    /// Where the loop counts what it does.
    fn metrics(&self) -> &ShardCells;

    /// Whether connections may be accepted.
    fn is_ready(&self) -> bool;

    /// Whether everything was ended after [`Machine::on_stop`], so that the thread may end.
    fn is_drained(&self) -> bool;

    /// Whether it was ended in order, asked after [`Machine::on_stopped`].
    fn is_complete(&self) -> bool;

    /// The earliest deadline on the loop's monotonic clock, in milliseconds.
    fn next_deadline_ms(&self) -> Option<u64>;

    /// The loop wants a turn at this time.
    fn wake_at(&mut self, at_ms: u64);

    /// A deadline has come.
    fn on_timers(&mut self, now: Now, disk: &mut dyn Disk);

    /// A disk operation has ended.
    fn on_disk(&mut self, now: Now, disk: &mut dyn Disk, completion: Completion);

    /// A request of another shard; never [`ShardRequest::Connection`], which the loop takes itself.
    fn on_request(&mut self, now: Now, disk: &mut dyn Disk, from: usize, request: ShardRequest);

    /// An answer of another shard.
    fn on_answer(&mut self, now: Now, disk: &mut dyn Disk, answer: ShardAnswer);

    /// The loop took over a connection that `from` had handed on.
    fn answer_handoff(&mut self, from: usize);

    /// Bytes of the receive pool.
    fn receive_pool_bytes(&self) -> usize;

    /// Whether less than half of the receive and fetch pools is in use, so that some may go to comfort.
    fn has_memory_to_spare(&self) -> bool;

    /// Reserves what a connection takes while it does nothing. False: there is no room for another.
    #[must_use]
    fn reserve_connection(&mut self) -> bool;

    /// Gives back what [`Machine::reserve_connection`] reserved.
    fn release_connection(&mut self);

    /// A connection, with the index of the listener it came in on.
    fn on_accepted(&mut self, now: Now, socket: SocketId, listener: usize, peer: SocketAddr);

    /// Whether this connection may have another frame read. Where not, an [`Effect::ReadAgain`] says when.
    fn wants_frame(&mut self, socket: SocketId) -> bool;

    /// Largest frame that is taken, without its size.
    fn request_max_bytes(&self) -> usize;

    /// A whole frame, without its size. `charge_bytes` of the receive pool are reserved for it alone and are
    /// given back with the answer's charge.
    fn on_frame(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        socket: SocketId,
        frame: Bytes,
        charge_bytes: usize,
    );

    /// The first bytes are no frame; the connection is closed.
    fn on_bad_frame(&mut self, socket: SocketId, error: &FrameError);

    /// A frame that could never be held; the connection is closed.
    fn on_frame_too_large(&mut self, socket: SocketId, size_bytes: usize);

    /// A frame was begun and does not go on; the connection is closed.
    fn on_frame_stalled(&mut self, socket: SocketId);

    /// The socket is closed and its slot free.
    fn on_closed(&mut self, socket: SocketId);

    /// A socket is not read because receive memory is spent.
    fn on_receive_stalled(&mut self);

    /// Reserves memory for copies that a send makes, bytes. False: send without copying.
    fn reserve_send(&mut self, bytes: usize) -> bool;

    /// Gives back what [`Machine::reserve_send`] reserved, bytes.
    fn release_send(&mut self, bytes: usize);

    /// An answer is out (or will never be): its charge comes back.
    fn on_sent(&mut self, charge: Charge);

    /// Ends a turn: what was gathered in it is written and answered.
    fn end_of_turn(&mut self, now: Now, disk: &mut dyn Disk);

    /// Whether there is background work. The loop does not sleep while there is.
    fn has_background(&self) -> bool {
        false
    }

    /// Goes on with the background work, as far as `budget` allows. Done: some of it has ended, and what that
    /// brought wants a turn.
    fn step(&mut self, _now: Now, _disk: &mut dyn Disk, _budget: &mut StepBudget) -> Progress {
        Progress::Done
    }

    /// Whether the last step left something that a turn carries out.
    fn wants_turn(&self) -> bool {
        false
    }

    /// What the loop is to do since the last call.
    fn take_effects(&mut self) -> Vec<Effect>;

    /// Drain: nothing new is begun, what is under way ends.
    fn on_stop(&mut self, now: Now, disk: &mut dyn Disk);

    /// The thread ends.
    fn on_stopped(&mut self);
}
