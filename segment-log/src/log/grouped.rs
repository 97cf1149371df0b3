//! Commits that a shard's group commit decides on, and the syncs that let a journal go.
//!
//! Runs on the partition's shard thread. Invariants:
//! - one commit at a time, and it goes one way: the syncs of all segments it dirtied, or the journal with all that
//!   no commit was begun for;
//! - what a journal is given was written to its segment, though maybe to a file whose name is not durable yet;
//! - what is settled is durable in segments whose headers and names are durable too; only that lets a journal go.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::io;

use super::commit::Commit;
use super::segment::{Creation, Mark};
use super::{Durability, LogStatus, PartitionLog, Purpose};
use crate::disk::{Disk, DiskOp, DiskOutput, FileHandle};
use crate::ids::EntryIndex;
use crate::journal::JournalRun;

/// What waits for a commit in one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitWanted {
    /// Segments with bytes that no commit was begun for.
    pub files: usize,
    /// Those bytes.
    pub bytes: u64,
    /// All of them are still in memory, so that a journal can take them.
    pub may_go_by_journal: bool,
}

impl PartitionLog {
    /// Lets the caller's group commit decide about the commits of this log, under [`Durability::Fsync`]; by
    /// itself it then commits only when it is closed.
    pub fn join_group_commit(&mut self) {
        self.is_grouped = true;
    }

    /// Whether what is written is kept for a journal.
    pub(super) fn may_go_by_journal(&self) -> bool {
        self.is_grouped && self.config.durability == Durability::Fsync
    }

    pub(super) fn waits_for_group(&self) -> bool {
        self.may_go_by_journal() && !self.closing
    }

    /// What waits for a commit, if none is under way and the group commit is to begin one.
    pub fn commit_wanted(&self) -> Option<CommitWanted> {
        if self.commit.is_some() || self.status == LogStatus::Fenced || !self.waits_for_group() {
            return None;
        }
        let mut wanted = CommitWanted {
            files: 0,
            bytes: 0,
            may_go_by_journal: true,
        };
        for segment in self.segments.iter().skip(self.first_unsynced) {
            let bytes = segment.written.position - segment.pending.from;
            if bytes > 0 {
                wanted.files += 1;
                wanted.bytes += bytes;
                wanted.may_go_by_journal &= !segment.pending.overflowed();
            }
            // What lies behind a hole is not committed before it.
            if segment.written.position < segment.tail.position {
                break;
            }
        }
        (wanted.files > 0).then_some(wanted)
    }

    /// Whether a commit is under way.
    pub fn is_committing(&self) -> bool {
        self.commit.is_some()
    }

    /// Commits by syncing the segments, as far as they may be synced now. Whether a sync was begun.
    pub fn commit_directly(&mut self, now_ms: i64, disk: &mut dyn Disk) -> bool {
        if self.commit.is_some() || self.status == LogStatus::Fenced {
            return false;
        }
        let mut syncs = Vec::new();
        for segment in self.segments.iter_mut().skip(self.first_unsynced) {
            let wants = segment.pending.from < segment.written.position;
            if let Some(file) = segment.file.clone()
                && wants
                && segment.write.is_none()
                && segment.creation == Creation::Ready
            {
                segment.pending.commit(segment.written.position);
                syncs.push((segment.id, segment.written, file));
            }
        }
        if syncs.is_empty() {
            return false;
        }
        self.last_commit_ms = now_ms;
        let end = Some(self.committed_end());
        let marks = syncs.iter().map(|(id, mark, _)| (*id, *mark)).collect();
        self.commit = Some(Commit::Direct { syncs: marks, end });
        for (id, _, file) in syncs {
            self.submit(disk, Purpose::Sync(id), DiskOp::Sync { file });
        }
        true
    }

    /// The end of what commits were begun for, without a hole before it.
    pub(super) fn committed_end(&self) -> Mark {
        let mut end = self.durable;
        for segment in self.segments.iter().skip(self.first_unsynced) {
            let committed = segment.pending.from;
            if committed == segment.written.position {
                end = segment.written;
            }
            if committed < segment.tail.position {
                break;
            }
        }
        end
    }

    /// Begins a commit through the journal: all that no commit was begun for. It ends with
    /// [`PartitionLog::journal_committed`].
    ///
    /// # Panics
    /// If [`PartitionLog::commit_wanted`] does not allow it.
    pub fn take_runs(&mut self, now_ms: i64) -> Vec<JournalRun> {
        assert!(
            self.commit_wanted()
                .is_some_and(|wanted| wanted.may_go_by_journal),
            "a journal takes what is kept for it, and no commit is under way"
        );
        let key = self.key;
        let mut runs = Vec::new();
        for segment in self.segments.iter_mut().skip(self.first_unsynced) {
            let from = segment.pending.from;
            let end = segment.written;
            if from < end.position {
                let pieces = segment.pending.commit(end.position);
                let bytes: usize = pieces.iter().map(bytes::Bytes::len).sum();
                assert_eq!(bytes as u64, end.position - from, "all that is written is kept");
                runs.push(JournalRun {
                    key,
                    segment: segment.header,
                    position: from,
                    pieces,
                    last: end.index,
                });
            }
            if end.position < segment.tail.position {
                break;
            }
        }
        assert!(!runs.is_empty(), "a commit that was wanted has something in it");
        self.last_commit_ms = now_ms;
        self.commit = Some(Commit::Journal {
            end: self.committed_end(),
        });
        runs
    }

    /// What the journal was given is durable.
    pub fn journal_committed(&mut self) {
        let Some(Commit::Journal { end }) = self.commit else {
            return;
        };
        self.commit = None;
        if self.status == LogStatus::Open {
            self.raise_durable(end);
        }
    }

    /// The highest index that is durable in the segments themselves: a journal need not keep it.
    pub fn settled_index(&self) -> EntryIndex {
        self.settled.index
    }

    /// As [`PartitionLog::settled_index`], for a journal that forgets that names must be durable too.
    #[doc(hidden)]
    pub fn synced_index(&self) -> EntryIndex {
        let mut synced = self.settled.index;
        for segment in self.segments.iter().skip(self.first_unsynced) {
            synced = synced.max(segment.synced.index);
            if segment.synced.position < segment.tail.position {
                break;
            }
        }
        synced
    }

    /// Whether syncs that settle it are under way.
    pub fn is_settling(&self) -> bool {
        !self.settling.is_empty()
    }

    /// Begins syncs of all segments that are not settled, unless some are under way. Whether any is then.
    pub fn settle(&mut self, disk: &mut dyn Disk) -> bool {
        self.settle_up_to(self.segments.len(), disk)
    }

    /// A segment that takes no more appends is synced before it counts as closed, and one whose descriptor is
    /// wanted before that is closed.
    pub(super) fn settle_closed(&mut self, disk: &mut dyn Disk) {
        if !self.waits_for_group() {
            return;
        }
        let unsettled = self.segments.get(self.first_unsynced..).unwrap_or_default();
        let files = unsettled.iter().filter_map(|segment| segment.file.as_ref());
        if files.clone().any(FileHandle::is_asked_to_sync) {
            self.settle(disk);
        } else if unsettled.len() > 1 {
            self.settle_up_to(self.segments.len() - 1, disk);
        }
    }

    fn settle_up_to(&mut self, end: usize, disk: &mut dyn Disk) -> bool {
        if self.status == LogStatus::Fenced {
            return false;
        }
        if !self.settling.is_empty() {
            return true;
        }
        let mut files = Vec::new();
        for segment in self.segments.iter().take(end).skip(self.first_unsynced) {
            let is_dirty = segment.synced.position < segment.written.position;
            if let Some(file) = segment.file.clone()
                && is_dirty
                && segment.creation.is_writable()
                && segment.write.is_none()
            {
                self.settling.push((segment.id, segment.written));
                files.push((segment.id, file));
            }
        }
        for (id, file) in files {
            self.submit(disk, Purpose::Settle(id), DiskOp::Sync { file });
        }
        !self.settling.is_empty()
    }

    pub(super) fn settle_completed(&mut self, id: u64, result: io::Result<DiskOutput>) {
        if let Err(error) = result {
            return self.fence(error);
        }
        let Some(at) = self.settling.iter().position(|(segment, _)| *segment == id) else {
            return;
        };
        let (_, mark) = self.settling.swap_remove(at);
        self.segment_is_synced(id, mark);
    }
}
