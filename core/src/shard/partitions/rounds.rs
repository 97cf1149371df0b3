//! The tick's round over all partitions, in steps: age rolls, interval durability, segments below
//! the log start, openings that failed.
//!
//! A round goes by token space, so it can go on where a step ended. One that is still under way when the next
//! tick comes is not begun again.

use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::ids::PartitionKey;
use tidelog_segment_log::log::LogStatus;

use super::Partitions;
use crate::metrics::ShardCells;
use crate::reactor::{Progress, StepBudget};
use crate::shard::Now;

/// A round that is under way, and what the last whole one counted.
#[derive(Default)]
pub(super) struct Round {
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

    /// Goes on with the tick's round.
    pub(in crate::shard) fn tick_step(
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
                log.tick(now.wall_ms, disk);
                self.round.so_far += log.segment_count();
                let removed = log.take_removed();
                metrics.segments_removed.add(removed.segments);
                metrics.segments_removed_bytes.add(removed.bytes);
                metrics.segment_removal_failures.add(removed.failures);
                let wants_commit = log.commit_wanted().is_some();
                if wants_commit || log.is_waiting_for_disk() || log.status() == LogStatus::Fenced {
                    self.active.insert(*key);
                    budget.look();
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
