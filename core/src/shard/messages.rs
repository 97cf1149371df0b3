//! Messages: to and from other shards, to and from the partitions of this one.
//!
//! Invariants: what a full ring does not take is kept in order; every request taken is answered once.

use tidelog_net::{ErrorCode, Uuid};
use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::ids::PartitionKey;

use super::partition::{PartitionAnswer, PartitionOp};
use super::partitions::has_partition;
use super::silence::keep_for_silent;
use super::{Effect, Now, Pending, ReplyTo, Shard, ShardAnswer, ShardRequest};
use crate::mesh::RingFull;

impl Shard {
    pub(super) fn send(&mut self, to: usize, request: ShardRequest) {
        if let ShardRequest::Control(reply, op) = &request
            && self.note_control(to, *reply, op)
        {
            return;
        }
        let Some(kept) = self.backlog.get_mut(to) else {
            return;
        };
        if self.endpoint.is_silent(to) {
            keep_for_silent(kept, request);
        } else if kept.is_empty() {
            if let Err(RingFull(request)) = self.endpoint.request(to, request) {
                self.metrics.ring_full_waits.increment();
                kept.push_back(request);
            }
        } else {
            kept.push_back(request);
        }
    }

    pub(super) fn send_kept(&mut self) {
        for (to, kept) in self.backlog.iter_mut().enumerate() {
            while let Some(request) = kept.pop_front() {
                if let Err(RingFull(request)) = self.endpoint.request(to, request) {
                    kept.push_front(request);
                    break;
                }
            }
        }
        if !self.held_back.is_empty() && !self.is_backlogged() {
            self.effects.extend(self.held_back.drain().map(Effect::ReadAgain));
        }
    }

    /// The engine took over a handed connection.
    pub fn answer_handoff(&mut self, from: usize) {
        self.endpoint.answer(from, ShardAnswer::Done);
    }

    /// A request of another shard.
    pub fn on_request(&mut self, now: Now, disk: &mut dyn Disk, from: usize, request: ShardRequest) {
        match request {
            // The engine takes these itself and never passes them on.
            ShardRequest::Connection { .. } => self.endpoint.answer(from, ShardAnswer::Done),
            ShardRequest::Partition(reply, key, op) => self.operate(now, disk, reply, key, op),
            ShardRequest::Wake(reply) => {
                self.endpoint.answer(from, ShardAnswer::Done);
                self.on_wake(now, disk, reply);
            }
            ShardRequest::Unwatch(key, shard, pending) => {
                self.endpoint.answer(from, ShardAnswer::Done);
                self.partitions.unwatch(&key, shard, pending);
            }
            ShardRequest::Control(reply, op) => self.on_control(now, disk, reply, op),
            ShardRequest::Image(image) => {
                self.images_owed.push((from, image.version()));
                self.apply_image(image);
            }
            ShardRequest::Lease(pool, bytes) => self.on_lease_asked(now, from, pool, bytes),
            ShardRequest::LeaseReturned(pool, bytes) => {
                self.endpoint.answer(from, ShardAnswer::Done);
                self.on_lease_returned(pool, bytes);
            }
            ShardRequest::Sizes(reply) => {
                let sizes = self.partitions.sizes();
                self.endpoint.answer(from, ShardAnswer::Sizes(reply, sizes));
            }
            ShardRequest::Opened(epochs) => {
                self.endpoint.answer(from, ShardAnswer::Done);
                self.leader_epochs.extend(epochs);
            }
        }
    }

    /// An answer of another shard.
    pub fn on_answer(&mut self, now: Now, disk: &mut dyn Disk, answer: ShardAnswer) {
        match answer {
            ShardAnswer::Done => {}
            ShardAnswer::Partition(reply, answer) => self.on_partition_answer(now, disk, reply, answer),
            ShardAnswer::Control(reply, answer) => {
                self.control_asked.remove(&reply.pending);
                self.on_control_answer(now, disk, reply, answer);
            }
            ShardAnswer::Lease { pool, bytes, lender } => self.on_leased(now, pool, bytes, lender),
            ShardAnswer::Sizes(reply, sizes) => self.on_sizes(reply, Some(sizes)),
            ShardAnswer::ImageApplied(version, shard) => self.on_image_applied(now, disk, shard, version),
        }
    }

    /// Sends an operation to a partition's owner, which may be this shard.
    pub(super) fn ask_partition(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        reply: ReplyTo,
        key: PartitionKey,
        op: PartitionOp,
    ) {
        let owner = self.owner_of(&key);
        if owner == usize::from(self.own) {
            self.operate(now, disk, reply, key, op);
        } else if self.endpoint.is_silent(owner) {
            self.refuse_silent(reply, &op);
        } else {
            self.send(owner, ShardRequest::Partition(reply, key, op));
        }
    }

    /// The shard that owns a partition.
    pub(super) fn owner_of(&self, key: &PartitionKey) -> usize {
        let shards = self.endpoint.shards() as u16;
        let topic = self.image.topic_by_id(Uuid::from_bytes(key.topic.0));
        topic.map_or(usize::from(self.own), |topic| {
            usize::from(topic.shard_of(key.partition, shards))
        })
    }

    pub(super) fn operate(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        reply: ReplyTo,
        key: PartitionKey,
        op: PartitionOp,
    ) {
        match self.partitions.get_mut(&key) {
            Some(partition) => partition.operate(now, disk, reply, op, &mut self.answers, &self.metrics),
            None => {
                let is_coming = self.partitions.is_applying() && has_partition(&self.image, &key);
                let (code, text) = if is_coming {
                    (
                        ErrorCode::NotLeaderOrFollower,
                        "the partition is about to be opened",
                    )
                } else {
                    (
                        ErrorCode::UnknownTopicOrPartition,
                        "no such partition on its shard",
                    )
                };
                let failed = PartitionAnswer::Failed(code, text.to_owned());
                self.answers.push((reply, failed));
            }
        }
    }

    /// Delivers what partitions have answered; handling one may bring more.
    pub(super) fn deliver(&mut self, now: Now, disk: &mut dyn Disk) {
        for (reply, answer) in std::mem::take(&mut self.control_refused) {
            self.on_control_answer(now, disk, reply, answer);
        }
        while !self.answers.is_empty() || !self.wakes.is_empty() {
            for (reply, answer) in std::mem::take(&mut self.answers) {
                if reply.shard == self.own {
                    self.on_partition_answer(now, disk, reply, answer);
                } else {
                    self.endpoint
                        .answer(usize::from(reply.shard), ShardAnswer::Partition(reply, answer));
                }
            }
            for reply in std::mem::take(&mut self.wakes) {
                if reply.shard == self.own {
                    self.on_wake(now, disk, reply);
                } else {
                    self.send(usize::from(reply.shard), ShardRequest::Wake(reply));
                }
            }
        }
    }

    pub(super) fn on_partition_answer(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        reply: ReplyTo,
        answer: PartitionAnswer,
    ) {
        match self.pending.get_mut(&reply.pending) {
            Some(Pending::Produce(_)) => self.on_produced(reply, answer),
            Some(Pending::Fetch(_)) => self.on_fetched(now, disk, reply, answer),
            Some(Pending::ListOffsets(_)) => self.on_offset_listed(now, disk, reply, answer),
            Some(Pending::EpochEnd(_)) => self.on_epoch_end(reply, answer),
            Some(Pending::DeleteRecords(_)) => self.on_records_deleted(reply, answer),
            // The request ended meanwhile (its deadline, or its connection is gone).
            Some(Pending::Control(_) | Pending::LogDirs(_)) | None => {}
        }
    }

    pub(super) fn add_pending(&mut self, pending: Pending) -> u64 {
        self.pending.insert(pending)
    }
}
