//! Retention over all partitions, in steps: each log's start moves up to where its topic's age and size say.
//!
//! Only moves log starts; a log removes what lies below its start by itself, in its tick, whoever moved the
//! start. A topic whose `cleanup.policy` does not contain `delete` keeps everything.

use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::log::{LogStatus, RetentionLimits};

use super::Partitions;
use crate::metrics::ShardCells;
use crate::reactor::{Progress, StepBudget};
use crate::shard::Now;
use crate::topic_config::TopicConfig;

/// Where a round goes on, and when the next one is due.
#[derive(Default)]
pub(super) struct RetentionRound {
    next_space: u32,
    due_ms: u64,
    /// What records are aged by in this round.
    clock_ms: i64,
}

fn limits(config: &TopicConfig) -> RetentionLimits {
    match config.cleanup_policy.delete {
        true => RetentionLimits {
            age_ms: config.retention_ms,
            size_bytes: config.retention_bytes,
        },
        false => RetentionLimits::default(),
    }
}

impl Partitions {
    /// Whether a round is to be begun now.
    pub(in crate::shard) fn is_retention_due(&self, now: Now) -> bool {
        now.monotonic_ms >= self.retention.due_ms
    }

    /// Goes on with the round of retention.
    pub(in crate::shard) fn retain_step(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        budget: &mut StepBudget,
        metrics: &ShardCells,
    ) -> Progress {
        if self.retention.next_space == 0 {
            self.retention.due_ms = now.monotonic_ms + self.settings.log_retention_check_ms;
            self.retention.clock_ms = self.clock.read(now);
            metrics.retention_clock_held.set(i64::from(self.clock.is_held()));
        }
        for (space, key) in self.spaces.range(self.retention.next_space..) {
            if !budget.take() {
                self.retention.next_space = *space;
                return Progress::Pending;
            }
            let Some((_, partition)) = self.by_key.get_mut(key) else {
                continue;
            };
            let limits = limits(partition.config());
            if limits == RetentionLimits::default() {
                continue;
            }
            let Some(log) = partition.log_mut() else { continue };
            log.retain(now.wall_ms, disk, self.retention.clock_ms, limits);
            if log.is_waiting_for_disk() || log.status() == LogStatus::Fenced {
                self.active.insert(*key);
                budget.look();
            }
        }
        self.retention.next_space = 0;
        Progress::Done
    }
}
