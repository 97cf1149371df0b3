//! The shard as what the loop drives: each input and output by the shard's own method of that name.

use std::net::SocketAddr;

use bytes::Bytes;
use tidelog_net::frame::FrameError;
use tidelog_segment_log::disk::{Completion, Disk};

use super::{Charge, Effect, Now, Shard, ShardAnswer, ShardRequest, SocketId};
use crate::mesh::Endpoint;
use crate::metrics::ShardCells;
use crate::reactor::{Machine, Progress, StepBudget};

// A path such as `Shard::on_frame` names the shard's own method, which lies in the room it belongs to.
impl Machine for Shard {
    fn endpoint(&mut self) -> &mut Endpoint<ShardRequest, ShardAnswer> {
        Shard::endpoint(self)
    }

    fn metrics(&self) -> &ShardCells {
        Shard::metrics(self)
    }

    fn is_ready(&self) -> bool {
        Shard::is_ready(self)
    }

    fn is_drained(&self) -> bool {
        Shard::is_drained(self)
    }

    fn is_complete(&self) -> bool {
        Shard::is_complete(self)
    }

    fn next_deadline_ms(&self) -> Option<u64> {
        Shard::next_deadline_ms(self)
    }

    fn wake_at(&mut self, at_ms: u64) {
        Shard::wake_at(self, at_ms)
    }

    fn on_timers(&mut self, now: Now, disk: &mut dyn Disk) {
        Shard::on_timers(self, now, disk)
    }

    fn on_disk(&mut self, now: Now, disk: &mut dyn Disk, completion: Completion) {
        Shard::on_disk(self, now, disk, completion)
    }

    fn on_request(&mut self, now: Now, disk: &mut dyn Disk, from: usize, request: ShardRequest) {
        Shard::on_request(self, now, disk, from, request)
    }

    fn on_answer(&mut self, now: Now, disk: &mut dyn Disk, answer: ShardAnswer) {
        Shard::on_answer(self, now, disk, answer)
    }

    fn answer_handoff(&mut self, from: usize) {
        Shard::answer_handoff(self, from)
    }

    fn receive_pool_bytes(&self) -> usize {
        Shard::receive_pool_bytes(self)
    }

    fn has_memory_to_spare(&self) -> bool {
        Shard::has_memory_to_spare(self)
    }

    fn reserve_connection(&mut self) -> bool {
        Shard::reserve_connection(self)
    }

    fn release_connection(&mut self) {
        Shard::release_connection(self)
    }

    fn on_accepted(&mut self, now: Now, socket: SocketId, listener: usize, peer: SocketAddr) {
        Shard::on_accepted(self, now, socket, listener, peer)
    }

    fn wants_frame(&mut self, socket: SocketId) -> bool {
        Shard::wants_frame(self, socket)
    }

    fn request_max_bytes(&self) -> usize {
        Shard::request_max_bytes(self)
    }

    fn on_frame(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        socket: SocketId,
        frame: Bytes,
        charge_bytes: usize,
    ) {
        Shard::on_frame(self, now, disk, socket, frame, charge_bytes)
    }

    fn on_bad_frame(&mut self, socket: SocketId, error: &FrameError) {
        Shard::on_bad_frame(self, socket, error)
    }

    fn on_frame_too_large(&mut self, socket: SocketId, size_bytes: usize) {
        Shard::on_frame_too_large(self, socket, size_bytes)
    }

    fn on_frame_stalled(&mut self, socket: SocketId) {
        Shard::on_frame_stalled(self, socket)
    }

    fn on_closed(&mut self, socket: SocketId) {
        Shard::on_closed(self, socket)
    }

    fn on_receive_stalled(&mut self) {
        Shard::on_receive_stalled(self)
    }

    fn reserve_send(&mut self, bytes: usize) -> bool {
        Shard::reserve_send(self, bytes)
    }

    fn release_send(&mut self, bytes: usize) {
        Shard::release_send(self, bytes)
    }

    fn on_sent(&mut self, charge: Charge) {
        Shard::on_sent(self, charge)
    }

    fn end_of_turn(&mut self, now: Now, disk: &mut dyn Disk) {
        Shard::end_of_turn(self, now, disk)
    }

    fn take_effects(&mut self) -> Vec<Effect> {
        Shard::take_effects(self)
    }

    fn on_stop(&mut self, now: Now, disk: &mut dyn Disk) {
        Shard::on_stop(self, now, disk)
    }

    fn on_stopped(&mut self) {
        Shard::on_stopped(self)
    }

    fn has_background(&self) -> bool {
        Shard::has_background(self)
    }

    fn step(&mut self, now: Now, disk: &mut dyn Disk, budget: &mut StepBudget) -> Progress {
        Shard::step(self, now, disk, budget)
    }

    fn wants_turn(&self) -> bool {
        Shard::wants_turn(self)
    }
}
