//! Asks the owners what there is, and waits if it is too little.

use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::ids::PartitionKey;

use super::{Found, PARTS_MAX, PLAN_BYTES_MIN, Phase, ROUND_MASK, ROUND_SHIFT, Wanted, part_bytes};
use crate::shard::partition::{PartitionAnswer, PartitionOp};
use crate::shard::silence::SILENT_FETCH_WAIT_MS;
use crate::shard::{Now, Pending, ReplyTo, Shard, ShardRequest, Timer};

impl Shard {
    /// Asks every owner again.
    pub(super) fn read_all(&mut self, now: Now, disk: &mut dyn Disk, id: u64) {
        let Some(Pending::Fetch(pending)) = self.pending.get_mut(&id) else {
            return;
        };
        pending.phase = Phase::Reading;
        pending.round = pending.round.wrapping_add(1) & ROUND_MASK;
        pending.missing = pending.wanted.len();
        let round = pending.round;
        // A cold range is read as a whole and may end a batch later than asked: one that could never be
        // read into this shard's fetch memory would never be served.
        let bytes_max = pending.max_bytes.min(self.fetch_budget.limit_bytes() / 2);
        // Owners plan for the whole answer each: with many partitions most of it would be thrown away.
        let share = (2 * pending.max_bytes / pending.wanted.len().max(1)).max(PLAN_BYTES_MIN);
        let bytes_max = bytes_max.min(share);
        let asks: Vec<(PartitionKey, PartitionOp)> = pending
            .wanted
            .iter_mut()
            .map(|wanted| {
                wanted.found = None;
                let (offset, leader_epoch) = (wanted.offset, wanted.leader_epoch);
                let max_bytes = wanted.max_bytes.min(bytes_max);
                (
                    wanted.key,
                    PartitionOp::Fetch {
                        offset,
                        max_bytes,
                        leader_epoch,
                    },
                )
            })
            .collect();
        if asks.is_empty() {
            self.on_all_read(now, disk, id);
            return;
        }
        for (part, (key, op)) in asks.into_iter().enumerate() {
            let reply = ReplyTo {
                shard: self.own,
                pending: id,
                part: round << ROUND_SHIFT | part as u32,
            };
            self.ask_partition(now, disk, reply, key, op);
        }
    }

    pub(in crate::shard) fn on_fetched(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        reply: ReplyTo,
        answer: PartitionAnswer,
    ) {
        let Some(Pending::Fetch(pending)) = self.pending.get_mut(&reply.pending) else {
            return;
        };
        if reply.part >> ROUND_SHIFT != pending.round {
            return;
        }
        let part = (reply.part as usize) & (PARTS_MAX - 1);
        let Some(wanted) = pending.wanted.get_mut(part) else {
            return;
        };
        let found = match answer {
            PartitionAnswer::Watching { moved } => {
                if moved && pending.phase == Phase::Waiting {
                    self.read_again(now, disk, reply.pending);
                }
                return;
            }
            // A watch that could not be set, since the partition is gone or opens again: the read says why.
            PartitionAnswer::Failed(..) if pending.phase == Phase::Waiting => {
                self.read_again(now, disk, reply.pending);
                return;
            }
            PartitionAnswer::Fetched {
                error,
                plan,
                high_watermark,
                log_start_offset,
            } => Found {
                error,
                parts: plan.parts,
                high_watermark,
                log_start_offset,
            },
            PartitionAnswer::Failed(error, _) => Found {
                error,
                parts: Vec::new(),
                high_watermark: -1,
                log_start_offset: -1,
            },
            _ => return,
        };
        if pending.phase != Phase::Reading || wanted.found.is_some() {
            return;
        }
        wanted.high_watermark = found.high_watermark;
        wanted.found = Some(found);
        pending.missing -= 1;
        if pending.missing == 0 {
            self.on_all_read(now, disk, reply.pending);
        }
    }

    /// All owners have answered: enough to send, or wait.
    pub(super) fn on_all_read(&mut self, now: Now, disk: &mut dyn Disk, id: u64) {
        let Some(Pending::Fetch(pending)) = self.pending.get_mut(&id) else {
            return;
        };
        let bytes: usize = pending
            .wanted
            .iter()
            .flat_map(|wanted| &wanted.found)
            .flat_map(|found| &found.parts)
            .map(part_bytes)
            .sum();
        let told = pending.has_failed() && !self.has_only_silence(id);
        let Some(Pending::Fetch(pending)) = self.pending.get_mut(&id) else {
            return;
        };
        let enough = told || bytes >= pending.min_bytes;
        if enough || pending.expired || self.stopping {
            self.load(now, disk, id);
            return;
        }
        pending.wait(id, &mut self.timers);
        if pending.has_failed() {
            let at_ms = now.monotonic_ms + SILENT_FETCH_WAIT_MS;
            self.timers.set(at_ms, Timer::FetchDeadline(id));
        }
        let round = pending.round;
        let asks: Vec<(PartitionKey, PartitionOp)> = pending
            .wanted
            .iter_mut()
            .map(|wanted| {
                wanted.found = None;
                let (high_watermark, offset) = (wanted.high_watermark, wanted.offset);
                (
                    wanted.key,
                    PartitionOp::Watch {
                        high_watermark,
                        offset,
                    },
                )
            })
            .collect();
        for (part, (key, op)) in asks.into_iter().enumerate() {
            let reply = ReplyTo {
                shard: self.own,
                pending: id,
                part: round << ROUND_SHIFT | part as u32,
            };
            if !self.endpoint.is_silent(self.owner_of(&key)) {
                self.ask_partition(now, disk, reply, key, op);
            }
        }
    }

    /// Whether all that failed are partitions of silent shards, which is not told at once.
    fn has_only_silence(&self, id: u64) -> bool {
        let Some(Pending::Fetch(pending)) = self.pending.get(&id) else {
            return false;
        };
        let has_failed = |wanted: &&Wanted| wanted.found.as_ref().is_some_and(|found| !found.error.is_ok());
        let mut failed = pending.wanted.iter().filter(has_failed);
        self.endpoint.has_silent()
            && pending.response.error.is_ok()
            && failed.all(|wanted| self.endpoint.is_silent(self.owner_of(&wanted.key)))
    }

    pub(in crate::shard) fn on_wake(&mut self, now: Now, disk: &mut dyn Disk, reply: ReplyTo) {
        if let Some(Pending::Fetch(pending)) = self.pending.get(&reply.pending)
            && pending.phase == Phase::Waiting
            && reply.part >> ROUND_SHIFT == pending.round
        {
            self.read_again(now, disk, reply.pending);
        }
    }

    /// Ends a wait: no watch of it is left behind.
    pub(super) fn read_again(&mut self, now: Now, disk: &mut dyn Disk, id: u64) {
        self.unwatch(id);
        self.read_all(now, disk, id);
    }

    pub(in crate::shard) fn on_fetch_deadline(&mut self, now: Now, disk: &mut dyn Disk, id: u64) {
        let Some(Pending::Fetch(pending)) = self.pending.get_mut(&id) else {
            return;
        };
        pending.expired = true;
        if pending.phase == Phase::Waiting {
            self.read_again(now, disk, id);
        }
    }

    /// Takes the watches of a fetch back.
    pub(super) fn unwatch(&mut self, id: u64) {
        let Some(Pending::Fetch(pending)) = self.pending.get(&id) else {
            return;
        };
        let keys: Vec<PartitionKey> = pending.wanted.iter().map(|wanted| wanted.key).collect();
        for key in keys {
            let owner = self.owner_of(&key);
            if owner == usize::from(self.own) {
                self.partitions.unwatch(&key, self.own, id);
            } else {
                self.send(owner, ShardRequest::Unwatch(key, self.own, id));
            }
        }
    }
}
