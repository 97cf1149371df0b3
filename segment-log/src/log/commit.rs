//! Group commit by direct sync, and the orderly close.
//!
//! Runs on the partition's shard thread. Invariants:
//! - one commit at a time: the next starts when the previous one completed;
//! - a sync is submitted only for a segment whose writes all completed, and covers exactly what was
//!   written then;
//! - the durable mark is the end of the longest durable prefix of the log, never beyond a hole;
//! - a failed sync fences and is never retried here.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::io;

use super::segment::{Creation, Mark};
use super::{Durability, LogStatus, PartitionLog, Purpose};
use crate::checkpoint::PartitionCheckpoint;
use crate::disk::{Disk, DiskOp, DiskOutput, FileHandle};

/// The commit in flight.
#[derive(Debug)]
pub(super) enum Commit {
    /// The syncs that are out, each with what it will have made durable.
    Direct {
        syncs: Vec<(u64, Mark)>,
        /// What is durable when all have ended, where that is known without looking at the segments.
        end: Option<Mark>,
    },
    /// The shard's journal has it.
    Journal {
        /// What is durable then.
        end: Mark,
    },
}

impl Commit {
    pub(super) fn is_in_journal(&self) -> bool {
        matches!(self, Self::Journal { .. })
    }
}

/// How far an orderly close is.
#[derive(Debug)]
pub enum CloseProgress {
    /// Hand over the next completions, then call [`PartitionLog::close`] again.
    Pending,
    /// All is durable, nothing is in flight: this goes into the last checkpoint. Drop the log.
    Closed(Box<PartitionCheckpoint>),
    /// A write or sync failed: the directory must not be marked clean.
    Fenced,
}

impl PartitionLog {
    /// Starts a commit if the durability asks for one and none is running.
    pub(super) fn start_commit(&mut self, now_ms: i64, disk: &mut dyn Disk) {
        if self.commit.is_some() || self.status == LogStatus::Fenced || self.waits_for_group() {
            return;
        }
        let due = match self.config.durability {
            Durability::Fsync => true,
            Durability::Interval { interval_ms } => {
                let interval_ms = i64::try_from(interval_ms).unwrap_or(i64::MAX);
                now_ms.saturating_sub(self.last_commit_ms) >= interval_ms
            }
            Durability::Os => false,
        } || self.closing
            || self.log_starts.is_owed();
        let active = self.segments.len().saturating_sub(1);
        let mut syncs = Vec::new();
        let mut files = Vec::new();
        for (at, segment) in self.segments.iter().enumerate().skip(self.first_unsynced) {
            // A segment that takes no more appends is synced before it counts as closed, and one whose
            // descriptor is wanted before that is closed.
            let wanted = |file: &FileHandle| due || at < active || file.is_asked_to_sync();
            if let Some(file) = segment
                .file
                .clone()
                .filter(|file| wanted(file) && segment.is_dirty() && segment.write.is_none())
            {
                syncs.push((segment.id, segment.written));
                files.push(file);
            }
        }
        if syncs.is_empty() {
            return;
        }
        if due {
            self.last_commit_ms = now_ms;
        }
        let ids: Vec<u64> = syncs.iter().map(|(id, _)| *id).collect();
        for (id, mark) in &syncs {
            if let Some(segment) = self.segment_by_id(*id) {
                segment.pending.commit(mark.position);
            }
        }
        let end = self.is_grouped.then(|| self.committed_end());
        self.commit = Some(Commit::Direct { syncs, end });
        for (id, file) in ids.into_iter().zip(files) {
            self.submit(disk, Purpose::Sync(id), DiskOp::Sync { file });
        }
    }

    pub(super) fn sync_completed(&mut self, id: u64, result: io::Result<DiskOutput>) {
        if let Err(error) = result {
            return self.fence(error);
        }
        let Some(Commit::Direct { syncs, end }) = self.commit.as_mut() else {
            return;
        };
        let Some(at) = syncs.iter().position(|(segment, _)| *segment == id) else {
            return;
        };
        let (_, mark) = syncs.swap_remove(at);
        if syncs.is_empty() {
            let end = *end;
            self.commit = None;
            if let Some(end) = end {
                self.raise_durable(end);
            }
        }
        self.segment_is_synced(id, mark);
    }

    pub(super) fn segment_is_synced(&mut self, id: u64, mark: Mark) {
        if let Some(segment) = self.segment_by_id(id)
            && mark.position > segment.synced.position
        {
            segment.synced = mark;
        }
        self.advance_durable();
    }

    pub(super) fn raise_durable(&mut self, mark: Mark) {
        if mark.index >= self.durable.index && mark.next_offset >= self.durable.next_offset {
            self.durable = mark;
        }
        self.log_starts.advance(self.durable.index);
        assert!(
            self.durable.next_offset <= self.state.next_offset(),
            "durable offset is at most the log end"
        );
    }

    pub(super) fn advance_durable(&mut self) {
        let segments = self.segments.len();
        while let Some(segment) = self.segments.get_mut(self.first_unsynced) {
            if segment.creation != Creation::Ready {
                break;
            }
            let synced = segment.synced;
            if synced.index >= self.settled.index && synced.next_offset >= self.settled.next_offset {
                self.settled = synced;
            }
            let is_last = self.first_unsynced + 1 == segments;
            if is_last || synced.position < segment.tail.position {
                break;
            }
            // Closed: it is never staged to again.
            segment.staged = Vec::new();
            self.index_files.closed(segment.id);
            self.first_unsynced += 1;
        }
        self.raise_durable(self.settled);
    }

    /// Takes no more appends and makes everything durable. Call it again after each completion
    /// until it is no longer pending.
    pub fn close(&mut self, now_ms: i64, disk: &mut dyn Disk) -> CloseProgress {
        self.closing = true;
        if self.status == LogStatus::Fenced {
            return CloseProgress::Fenced;
        }
        self.flush(now_ms, disk);
        if self.status == LogStatus::Fenced {
            return CloseProgress::Fenced;
        }
        let all_durable = self.durable.index == self.tail().index
            && self.segments.iter().all(|segment| {
                segment.creation == Creation::Ready && segment.synced.position == segment.tail.position
            });
        if all_durable
            && self.commit.is_none()
            && self.in_flight.is_empty()
            && self.last_index_files_are_written(disk)
        {
            CloseProgress::Closed(Box::new(self.checkpoint()))
        } else {
            CloseProgress::Pending
        }
    }
}
