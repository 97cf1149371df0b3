//! The tick's rounds over partitions, in steps: age rolls, interval durability, segments below the log start,
//! openings that failed.
//!
//! A whole round looks at every partition, and comes the less often the more there are, so that what it costs in a
//! second stays the same. Between two of them a tick looks at the lively ones: what was touched since, and what
//! waits for a tick. A whole round goes by token space, so it can go on where a step ended. A round that is still
//! under way when the next tick comes is not begun again.

use std::collections::HashSet;

use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::ids::PartitionKey;
use tidelog_segment_log::log::{LogStatus, PartitionLog};

use super::Partitions;
use crate::metrics::ShardCells;
use crate::reactor::{Progress, StepBudget};
use crate::shard::Now;

/// Partitions that whole rounds look at in a millisecond, at most.
const LOOKS_PER_MS: u64 = 10;

/// The longest time between two whole rounds, milliseconds: so long may an age roll be late.
const WHOLE_ROUND_MS_MAX: u64 = 5_000;

/// A round that is under way, and what the last whole one counted.
#[derive(Default)]
pub(super) struct Round {
    /// When the next whole round is due, on the monotonic clock.
    whole_due_ms: u64,
    /// The round under way is a whole one.
    is_whole: bool,
    /// Partitions that were touched since a tick looked at them, or wait for the next one.
    lively: HashSet<PartitionKey, foldhash::fast::RandomState>,
    /// Those of them that the round under way has still to look at.
    left: Vec<PartitionKey>,
    /// The first token space that was not looked at.
    next_space: u32,
    /// Segments counted so far.
    so_far: usize,
    /// As the last whole round counted them.
    segments: usize,
    /// Partitions found that could not be opened.
    failed_so_far: usize,
    /// As the last whole round counted them.
    failed: usize,
}

impl Partitions {
    /// Segments of all open partitions, as the last round counted them.
    pub(in crate::shard) fn segments(&self) -> usize {
        self.round.segments
    }

    /// Partitions that could not be opened, as the last round counted them.
    pub(in crate::shard) fn failed(&self) -> usize {
        self.round.failed
    }

    /// These were touched: the next tick looks at them.
    pub(super) fn note_lively(&mut self, keys: &[PartitionKey]) {
        self.round.lively.extend(keys);
    }

    /// A tick has come: begins a round, unless one is under way.
    pub(in crate::shard) fn begin_round(&mut self, now: Now) {
        if self.round.is_whole || !self.round.left.is_empty() {
            return;
        }
        self.round.left.extend(self.round.lively.drain());
        if now.monotonic_ms >= self.round.whole_due_ms {
            let pause_ms = self.by_key.len() as u64 / LOOKS_PER_MS;
            self.round.whole_due_ms = now.monotonic_ms + pause_ms.min(WHOLE_ROUND_MS_MAX);
            self.round.is_whole = true;
            self.round.left.clear();
        }
    }

    /// Goes on with the tick's round.
    pub(in crate::shard) fn tick_step(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        budget: &mut StepBudget,
        metrics: &ShardCells,
    ) -> Progress {
        if self.round.is_whole {
            return self.whole_round_step(now, disk, budget, metrics);
        }
        while let Some(key) = self.round.left.pop() {
            if !budget.take() {
                self.round.left.push(key);
                return Progress::Pending;
            }
            if let Some((_, partition)) = self.by_key.get_mut(&key)
                && !partition.is_directory_gone()
                && let Some(log) = partition.log_mut()
            {
                let wants_turn = tick_log(log, now, disk, metrics);
                let is_lively = log.waits_for_tick();
                if wants_turn {
                    self.active.insert(key);
                    budget.look();
                }
                if is_lively {
                    self.round.lively.insert(key);
                }
            }
        }
        Progress::Done
    }

    fn whole_round_step(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        budget: &mut StepBudget,
        metrics: &ShardCells,
    ) -> Progress {
        let mut failed = None;
        let mut gone = Vec::new();
        for (space, key) in self.spaces.range(self.round.next_space..) {
            if !budget.take() {
                self.round.next_space = *space;
                self.withdraw(gone);
                return Progress::Pending;
            }
            let Some((_, partition)) = self.by_key.get_mut(key) else {
                continue;
            };
            if partition.is_directory_gone() {
                gone.push((*space, *key));
            } else if let Some(log) = partition.log_mut() {
                self.round.so_far += log.segment_count();
                if tick_log(log, now, disk, metrics) {
                    self.active.insert(*key);
                    budget.look();
                }
                if log.waits_for_tick() {
                    self.round.lively.insert(*key);
                }
                continue;
            }
            self.round.failed_so_far += usize::from(!partition.is_opening());
            if self.opening < self.openings_max && partition.wants_opening(now) {
                failed = Some((*space, *key));
                break;
            }
        }
        self.withdraw(gone);
        if let Some((space, key)) = failed {
            self.open_failed(now, disk, space, key);
            self.round.next_space = space.saturating_add(1);
            budget.end();
            return Progress::Pending;
        }
        self.round.segments = std::mem::take(&mut self.round.so_far);
        self.round.failed = std::mem::take(&mut self.round.failed_so_far);
        self.round.next_space = 0;
        self.round.is_whole = false;
        Progress::Done
    }

    /// The directory of these has failed: what is under way on their files ends unseen, and what waits for it is
    /// told.
    pub(super) fn withdraw(&mut self, partitions: Vec<(u32, PartitionKey)>) {
        for (space, key) in partitions {
            self.spaces.remove(&space);
            if let Some((_, partition)) = self.by_key.get_mut(&key) {
                self.opening -= usize::from(partition.is_opening());
                partition.withdraw("its data directory has failed; see the broker's log");
                self.unavailable += 1;
                self.active.insert(key);
            }
        }
    }

    /// Opens a partition anew, under a token space that no completion of the failed opening has.
    fn open_failed(&mut self, now: Now, disk: &mut dyn Disk, failed: u32, key: PartitionKey) {
        let fresh = self.take_space();
        self.spaces.remove(&failed);
        if let Some((space, partition)) = self.by_key.get_mut(&key) {
            *space = fresh;
            partition.open_again(fresh);
        }
        self.spaces.insert(fresh, key);
        self.count_opening();
        self.drive_opening(now, disk, key, Vec::new());
    }
}

/// A log's tick. Whether the log wants a turn.
fn tick_log(log: &mut PartitionLog, now: Now, disk: &mut dyn Disk, metrics: &ShardCells) -> bool {
    log.tick(now.wall_ms, disk);
    let removed = log.take_removed();
    metrics.segments_removed.add(removed.segments);
    metrics.segments_removed_bytes.add(removed.bytes);
    metrics.segment_removal_failures.add(removed.failures);
    log.commit_wanted().is_some() || log.is_waiting_for_disk() || log.status() == LogStatus::Fenced
}
