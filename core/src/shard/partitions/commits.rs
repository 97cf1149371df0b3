//! The shard's group commits: one for each data directory, with its journal.
//!
//! Owned by the shard. A group is told of each log that was flushed in a turn and decides at the turn's end; its
//! journal has a token space of its own. Without a journal (`journal.max_bytes = 0`, or a file system too small for
//! one) logs commit by themselves.

use tidelog_segment_log::disk::{Completion, Disk};
use tidelog_segment_log::ids::PartitionKey;
use tidelog_segment_log::journal::{
    GroupCommit, GroupConfig, GroupEvent, Journal, JournalConfig, JournalEvidence, Logs, Way,
};
use tidelog_segment_log::limits::JOURNAL_FILE_BYTES;
use tidelog_segment_log::log::PartitionLog;

use super::{DirectoryId, Partitions};
use crate::fatal::{FatalReason, fatal};
use crate::limits::JOURNAL_BYTES_MIN;
use crate::metrics::ShardCells;
use crate::reactor::{Progress, StepBudget};
use crate::shard::FastMap;
use crate::shard::partition::Partition;

/// Files that `journal.max_bytes` is divided into.
const FILES_PER_JOURNAL: u64 = 16;
/// `journal.max_bytes` = auto: sixteen whole files, and for all shards at most this part of the file system.
const JOURNAL_BYTES_AUTO: u64 = FILES_PER_JOURNAL * JOURNAL_FILE_BYTES;
const JOURNAL_PART: u64 = 16;

struct Group {
    id: DirectoryId,
    space: u32,
    commit: GroupCommit,
    /// What of its counts is in the metrics.
    published: Way,
}

/// See the file's head.
#[derive(Default)]
pub(super) struct Commits {
    /// In the order of the data directories.
    groups: Vec<Group>,
}

/// The partitions of the shard as a group finds their logs.
struct OpenLogs<'a>(&'a mut FastMap<PartitionKey, (u32, Partition)>);

impl Logs for OpenLogs<'_> {
    fn log_mut(&mut self, key: &PartitionKey) -> Option<&mut PartitionLog> {
        self.0.get_mut(key).and_then(|(_, partition)| partition.log_mut())
    }
}

/// `journal.max_bytes` = auto, on a file system of so many bytes (-1: not known): what is too little for a journal
/// is none.
fn journal_bytes(total_bytes: i64, shards: usize) -> u64 {
    let Ok(total_bytes) = u64::try_from(total_bytes) else {
        return JOURNAL_BYTES_AUTO;
    };
    let part = total_bytes / JOURNAL_PART / shards.max(1) as u64;
    match part.min(JOURNAL_BYTES_AUTO) {
        too_little if too_little < JOURNAL_BYTES_MIN => 0,
        bytes => bytes,
    }
}

impl Commits {
    fn of(&mut self, directory: Option<DirectoryId>) -> Option<&mut Group> {
        self.groups.iter_mut().find(|group| Some(group.id) == directory)
    }

    fn in_space(&mut self, space: u32) -> Option<&mut Group> {
        self.groups.iter_mut().find(|group| group.space == space)
    }
}

impl Partitions {
    /// The data directory that a partition's files are in.
    pub(super) fn directory_with(&self, key: &PartitionKey) -> Option<DirectoryId> {
        let (_, partition) = self.by_key.get(key)?;
        partition.directory()
    }

    /// Makes the group of each data directory.
    pub(super) fn make_groups(&mut self) {
        for place in 0..self.directories.len() {
            let space = self.take_space();
            let Some(directory) = self.directories.get(place) else {
                continue;
            };
            let set = self.settings.journal_max_bytes;
            let max_bytes =
                set.unwrap_or_else(|| journal_bytes(directory.seed.space.total_bytes(), self.shards));
            if max_bytes == 0 {
                continue;
            }
            let config = JournalConfig {
                shard: self.own as u32,
                start_counter: directory.seed.directory.start_counter(),
                file_bytes: (max_bytes / FILES_PER_JOURNAL).min(JOURNAL_FILE_BYTES),
                max_bytes,
                id_seed: None,
                bug: Default::default(),
            };
            let journal = Journal::new(directory.seed.directory.path(), space, config);
            self.commits.groups.push(Group {
                id: DirectoryId::at(place),
                space,
                commit: GroupCommit::new(journal, GroupConfig::for_max_bytes(max_bytes)),
                published: Way::default(),
            });
        }
    }

    /// A log has just opened: its commits are the group's from now on, and what a journal holds of it is not needed.
    pub(super) fn join_group(&mut self, key: &PartitionKey) {
        let directory = self.directory_with(key);
        let Some(group) = self.commits.of(directory) else {
            return;
        };
        if let Some((_, partition)) = self.by_key.get_mut(key)
            && let Some(log) = partition.log_mut()
        {
            log.join_group_commit();
            group.commit.forget(key);
        }
    }

    /// A partition was deleted: group 0 says so for good.
    pub(super) fn leave_group(&mut self, key: &PartitionKey) {
        for group in &mut self.commits.groups {
            group.commit.forget(key);
        }
    }

    /// Whether a journal has something of a partition in flight.
    pub(super) fn is_in_flight(&mut self, key: &PartitionKey) -> bool {
        let directory = self.directory_with(key);
        let group = self.commits.of(directory);
        group.is_some_and(|group| group.commit.is_committing(key))
    }

    /// What the journal holds, for a partition that is opened again.
    pub(super) fn live_journal(&mut self, key: &PartitionKey) -> JournalEvidence {
        let directory = self.directory_with(key);
        match self.commits.of(directory) {
            Some(group) => JournalEvidence::Live(group.commit.live()),
            None => JournalEvidence::None,
        }
    }

    /// A log was flushed.
    pub(super) fn note_flushed(&mut self, key: &PartitionKey) {
        let directory = self.directory_with(key);
        if let Some(group) = self.commits.of(directory) {
            group.commit.note(*key);
        }
    }

    /// Begins the commits that are due.
    pub(super) fn commit_groups(&mut self, now_ms: i64, disk: &mut dyn Disk) {
        let mut logs = OpenLogs(&mut self.by_key);
        for group in &mut self.commits.groups {
            group.commit.commit(now_ms, disk, &mut logs);
        }
    }

    /// Takes a completion of a journal; gives one back that is none.
    pub(super) fn journal_completed(
        &mut self,
        disk: &mut dyn Disk,
        space: u32,
        completion: Completion,
    ) -> Option<Completion> {
        let Some(group) = self.commits.in_space(space) else {
            return Some(completion);
        };
        group.commit.on_completion(disk, completion);
        self.hear_groups();
        None
    }

    /// What the groups have to say: partitions to look at in this turn, or the end.
    pub(super) fn hear_groups(&mut self) {
        let mut failed = Vec::new();
        let mut logs = OpenLogs(&mut self.by_key);
        for group in &mut self.commits.groups {
            for event in group.commit.take_events(&mut logs) {
                match event {
                    GroupEvent::Committed(keys) => self.active.extend(keys),
                    GroupEvent::Failed(error) => failed.push((group.id, error)),
                }
            }
        }
        for (id, error) in failed {
            if self.is_closing {
                tracing::error!(%error, "the journal cannot be removed; the next start replays it");
                self.cut_short = true;
                continue;
            }
            let reason = format!("the commit journal failed, and so did a fresh file: {error}");
            if self.give_up(id, &reason) {
                fatal(FatalReason::Journal, &reason);
            }
        }
    }

    /// Whether the oldest file of a journal is to be let go.
    pub(in crate::shard) fn wants_trim(&self) -> bool {
        self.commits.groups.iter().any(|group| group.commit.wants_trim())
    }

    /// Goes on letting journal files go.
    pub(in crate::shard) fn trim_step(&mut self, disk: &mut dyn Disk, budget: &mut StepBudget) -> Progress {
        let mut logs = OpenLogs(&mut self.by_key);
        let mut progress = Progress::Done;
        for group in &mut self.commits.groups {
            if group.commit.wants_trim() && group.commit.trim_step(disk, &mut logs, || budget.take()) {
                progress = Progress::Pending;
            }
        }
        progress
    }

    /// Time passes for the journals.
    pub(super) fn tick_groups(&mut self) {
        self.commits
            .groups
            .iter_mut()
            .for_each(|group| group.commit.tick());
    }

    /// Removes the journals once all logs are closed; true when they are gone.
    pub(super) fn close_groups(&mut self, disk: &mut dyn Disk) -> bool {
        let mut is_closed = true;
        for group in &mut self.commits.groups {
            let directory = self.directories.get(group.id.place());
            let has_failed = directory.is_some_and(|directory| directory.has_failed());
            is_closed &= has_failed || group.commit.close(disk);
        }
        self.hear_groups();
        is_closed
    }

    /// Brings the metrics up to date.
    pub(in crate::shard) fn publish_commits(&mut self, metrics: &ShardCells) {
        let mut bytes = 0;
        for group in &mut self.commits.groups {
            let (way, before) = (group.commit.way(), group.published);
            metrics.journal_commits.add(way.by_journal - before.by_journal);
            metrics
                .journal_partitions
                .add(way.partitions_by_journal - before.partitions_by_journal);
            metrics.direct_commits.add(way.direct - before.direct);
            metrics.journal_trims.add(way.trimmed - before.trimmed);
            metrics.journal_full.add(way.full - before.full);
            group.published = way;
            bytes += group.commit.journal().bytes();
        }
        metrics
            .journal_bytes
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_takes_a_small_part_of_a_small_disk_and_none_of_a_tiny_one() {
        let auto = |total: i64, shards| journal_bytes(total, shards);
        assert_eq!(auto(1 << 40, 1), 1 << 30);
        assert_eq!(auto(1 << 40, 64), 1 << 30, "64 of them are a sixteenth of 1 TiB");
        assert_eq!(auto(8 << 30, 1), 512 << 20);
        assert_eq!(auto(8 << 30, 4), 128 << 20);
        assert_eq!(auto(256 << 20, 1), JOURNAL_BYTES_MIN);
        assert_eq!(auto(160 << 20, 1), 0);
        assert_eq!(auto(-1, 4), 1 << 30, "not known");
    }
}
