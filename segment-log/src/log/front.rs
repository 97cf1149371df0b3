//! The front of the log: which segments age and size let go, and the removal of those wholly below the log
//! start, whoever moved it.
//!
//! Runs on the partition's shard thread. Retention only moves the log start ([`PartitionLog::retain`]), as
//! DeleteRecords does; the files follow by themselves. Invariants:
//! - a file is unlinked only when a durable entry behind it says that the log starts above it, and a durable
//!   `producer_state` entry behind it says what its producers last wrote;
//! - oldest first, one at a time, and the directory is synced before the next: so after a power cut the
//!   files that are left have no gap;
//! - a segment is unlinked only when all of it is durable, nothing of it is under way and nobody holds it
//!   ([`super::hold`]); a file that is kept to be recycled ([`super::recycle`]) is renamed in the place of that;
//! - the last segment stays, and so does every segment of a log without offsets (group 0).

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::io;

use super::recycle::spare_name;
use super::segment::Segment;
use super::{AppendError, LogStatus, PartitionLog, Purpose};
use crate::disk::{Disk, DiskOp, DiskOutput};
use crate::entry::{EntryKind, entry_len};
use crate::ids::Offset;
use crate::limits::LOG_STARTS_PENDING_MAX;

/// What a log keeps at least; `None` keeps everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionLimits {
    /// A segment whose newest record is older than this goes, in ms.
    pub age_ms: Option<u64>,
    /// The oldest segments go while those behind them are still at least this much, in bytes.
    pub size_bytes: Option<u64>,
}

/// What was removed since it was last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Segments.
    pub segments: u64,
    /// Their bytes up to their last entries.
    pub bytes: u64,
    /// Files that could not be unlinked; they are tried again.
    pub failures: u64,
}

/// A fault planted here, to show that the tests would find it.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RemovalBug {
    /// None.
    #[default]
    None,
    /// Files go as soon as the log start has moved, whether its entry is durable or not.
    BeforeTheLogStart,
    /// Files go whatever they alone say of producers.
    ForgetProducers,
    /// Directories are not synced between two files, and the newest file goes first.
    OutOfOrder,
    /// Files are recycled whoever uses them.
    RecycleUsed,
    /// A recycled file keeps its incarnation.
    KeepIncarnation,
    /// A recycled file is written to before its new name is durable.
    RecycleUnnamed,
    /// Files go though somebody holds them.
    IgnoreHolds,
}

/// What is being done to the first segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    UnlinkIndex,
    /// The file may be worth keeping.
    CountNames,
    UnlinkFile,
    /// In the place of the unlink.
    RenameFile,
    SyncDirectory,
}

/// The removal that is under way, and what was removed before.
#[derive(Debug, Default)]
pub(super) struct Front {
    under_way: Option<(u64, Step)>,
    removed: Removed,
    /// An unlink failed: no other is tried before the next look.
    is_put_off: bool,
}

impl Front {
    /// Something else of the log's files could not be removed.
    pub(super) fn count_failure(&mut self) {
        self.removed.failures += 1;
    }
}

impl PartitionLog {
    /// Moves the log start up to where `limits` say, as far as records are committed. Call it now and then;
    /// it costs little when there is nothing to do. The files go in [`PartitionLog::tick`].
    ///
    /// `clock_ms` is what records are aged by. It may stay behind `now_ms`, where a clock is not believed.
    pub fn retain(&mut self, now_ms: i64, disk: &mut dyn Disk, clock_ms: i64, limits: RetentionLimits) {
        self.front.is_put_off = false;
        if self.check_appendable().is_err() {
            return;
        }
        let mut start = self.retained_from(clock_ms, limits);
        if self.is_last_expired(start, clock_ms, limits) && self.may_roll() {
            // Without random bytes there is no new segment; the next look tries again.
            let _ = self.roll(now_ms, disk);
            start = self.retained_from(clock_ms, limits);
        }
        if start > self.log_start_offset() {
            // Refused when too much waits for the disk; the next look tries again.
            let _ = self.append_log_start(now_ms, disk, start);
        }
        self.flush(now_ms, disk);
    }

    /// What was removed since the last call.
    pub fn take_removed(&mut self) -> Removed {
        std::mem::take(&mut self.front.removed)
    }

    /// Where the log would begin if the limits were carried out.
    fn retained_from(&self, clock_ms: i64, limits: RetentionLimits) -> Offset {
        let (log_start, watermark) = (self.log_start_offset(), self.high_watermark());
        let mut surplus_bytes = match limits.size_bytes {
            Some(kept) => self.size_bytes().saturating_sub(kept),
            None => 0,
        };
        let mut start = log_start;
        for (segment, next) in self.segments.iter().zip(self.segments.iter().skip(1)) {
            if next.base_offset() > watermark {
                break;
            }
            let size_bytes = segment.tail.position;
            let is_below = next.base_offset() <= log_start;
            let is_surplus = limits.size_bytes.is_some() && size_bytes <= surplus_bytes;
            if !is_below && !is_surplus && !is_expired(segment, next.opened_ms, clock_ms, limits) {
                break;
            }
            surplus_bytes = surplus_bytes.saturating_sub(size_bytes);
            start = start.max(next.base_offset());
        }
        start
    }

    /// Whether the segment that takes appends holds records and is all that is left, and they are too old.
    fn is_last_expired(&self, start: Offset, clock_ms: i64, limits: RetentionLimits) -> bool {
        self.segments.last().is_some_and(|last| {
            let holds_kept = last.tail.next_offset > start.max(last.base_offset());
            start >= last.base_offset() && holds_kept && is_expired(last, i64::MAX, clock_ms, limits)
        })
    }

    /// Goes on removing segments below the log start, if none is being removed.
    pub(super) fn remove_front(&mut self, now_ms: i64, disk: &mut dyn Disk) {
        let busy = self.front.under_way.is_some() || self.front.is_put_off || self.closing;
        if busy || self.status == LogStatus::Fenced {
            return;
        }
        let Some(kept) = self.first_kept() else { return };
        // Those behind it wait as well: files go oldest first.
        let waits = self.segments.first().is_some_and(|first| self.is_held(first));
        if waits && self.options.removal_bug != RemovalBug::IgnoreHolds {
            return;
        }
        if !self.keeps_producers_from(now_ms, disk, kept) {
            return;
        }
        let at = match self.options.removal_bug {
            RemovalBug::OutOfOrder => kept.saturating_sub(1),
            _ => 0,
        };
        let Some(segment) = self.segments.get(at) else {
            return;
        };
        let is_settled = at < self.first_unsynced
            && segment.write.is_none()
            && segment.synced.position == segment.tail.position
            && !self.index_files.is_writing_of(segment.id);
        let may_be_unsettled = !matches!(
            self.options.removal_bug,
            RemovalBug::None | RemovalBug::IgnoreHolds
        );
        if !is_settled && !may_be_unsettled {
            return;
        }
        let (id, index) = (segment.id, segment.header.index_file_name());
        self.index_files.removed(id);
        self.front.under_way = Some((id, Step::UnlinkIndex));
        let path = self.directory.join(index);
        self.submit(disk, Purpose::Remove(id), DiskOp::Unlink { path });
    }

    /// The place of the first segment that holds or will hold a record at or above the log start, if there
    /// are any before it.
    fn first_kept(&self) -> Option<usize> {
        let durable = match self.options.removal_bug {
            RemovalBug::BeforeTheLogStart => self.log_start_offset(),
            _ => self.log_starts.offset(),
        };
        let first = self.segments.first()?;
        let kept = self
            .segments
            .partition_point(|segment| segment.base_offset() <= durable)
            .saturating_sub(1);
        // What has no offsets cannot be below one.
        let holds_offsets = self.segments.get(kept)?.base_offset() > first.base_offset();
        (kept > 0 && holds_offsets).then_some(kept)
    }

    /// Whether a durable entry from segment `kept` on says all of producers. One is appended if there is none.
    fn keeps_producers_from(&mut self, now_ms: i64, disk: &mut dyn Disk, kept: usize) -> bool {
        if self.options.removal_bug == RemovalBug::ForgetProducers {
            return true;
        }
        let Some(base_index) = self.segments.get(kept).map(Segment::base_index) else {
            return false;
        };
        if self.state.producers_said_at() < base_index {
            // A failure is that of any append; the next look tries again.
            let _ = self.append_producers(now_ms, disk);
        }
        (base_index..=self.durable.index).contains(&self.state.producers_said_at())
    }

    /// Appends what the producers last wrote, and the log start, to be made durable soon.
    fn append_producers(&mut self, now_ms: i64, disk: &mut dyn Disk) -> Result<(), AppendError> {
        self.check_appendable()?;
        if self.log_starts.waiting() >= LOG_STARTS_PENDING_MAX {
            return Err(AppendError::Backlogged);
        }
        let said_at = self.state.producers_said_at();
        let payload = self.state.producers.encode(self.log_start_offset());
        let payload_len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.make_room(now_ms, disk, entry_len(payload_len) as u64)?;
        // A roll opens with such an entry.
        if self.state.producers_said_at() == said_at {
            self.stage_internal(EntryKind::ProducerState, &payload);
        }
        let (index, log_start) = (self.state.producers_said_at(), self.log_start_offset());
        self.log_starts.owe(index, log_start);
        self.flush(now_ms, disk);
        Ok(())
    }

    pub(super) fn removal_completed(
        &mut self,
        now_ms: i64,
        result: io::Result<DiskOutput>,
        disk: &mut dyn Disk,
    ) {
        let Some((id, step)) = self.front.under_way.take() else {
            return;
        };
        if self.status == LogStatus::Fenced {
            return;
        }
        let is_gone = match &result {
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        let bug = self.options.removal_bug;
        let next = match (step, is_gone) {
            (Step::UnlinkIndex, true) => {
                let charge = self.charge_spare(id, now_ms);
                match self.spares.expect(charge) {
                    true => Step::CountNames,
                    false => Step::UnlinkFile,
                }
            }
            (Step::CountNames, _) => match self.may_rename(id, &result) {
                true => Step::RenameFile,
                false => {
                    self.spares.expect(None);
                    Step::UnlinkFile
                }
            },
            (Step::RenameFile, true) if result.is_err() => {
                self.spares.expect(None);
                Step::SyncDirectory
            }
            (Step::UnlinkFile | Step::RenameFile, true) if bug != RemovalBug::OutOfOrder => {
                Step::SyncDirectory
            }
            (Step::UnlinkFile | Step::RenameFile | Step::SyncDirectory, true) => {
                return self.forget(id, now_ms);
            }
            // Which names are there now is not known: what follows could make a gap.
            (Step::SyncDirectory, false) => {
                if let Err(error) = result {
                    self.fence(error);
                }
                return;
            }
            (_, false) => {
                self.spares.expect(None);
                self.front.removed.failures += 1;
                self.front.is_put_off = true;
                return;
            }
        };
        self.go_on_removing(id, next, disk);
    }

    /// Whether the file has one name and nobody began to use it meanwhile, so that it may become a spare.
    fn may_rename(&mut self, id: u64, names: &io::Result<DiskOutput>) -> bool {
        let uses_are_ignored = self.options.removal_bug == RemovalBug::RecycleUsed;
        let holds = self.options.holds.clone();
        let is_free = self
            .segment_by_id(id)
            .is_some_and(|segment| segment.is_free(&holds));
        matches!(names, Ok(DiskOutput::Links(1))) && (is_free || uses_are_ignored)
    }

    fn go_on_removing(&mut self, id: u64, step: Step, disk: &mut dyn Disk) {
        let directory = self.directory.clone();
        let Some(segment) = self.segment_by_id(id) else {
            return;
        };
        let path = directory.join(segment.name());
        if matches!(step, Step::UnlinkFile | Step::RenameFile) {
            // Readers have handles of their own. Without this one the space is freed by the unlink, or by
            // the last reader's; a spare is opened again by its new name.
            segment.file = None;
        }
        let op = match (step, segment.file.clone()) {
            (Step::CountNames, Some(file)) => DiskOp::LinkCount { file },
            (Step::RenameFile, _) => DiskOp::Rename {
                to: directory.join(spare_name(&segment.name())),
                from: path,
            },
            (Step::SyncDirectory, _) => DiskOp::SyncDir { path: directory },
            (Step::UnlinkIndex | Step::CountNames | Step::UnlinkFile, _) => DiskOp::Unlink { path },
        };
        self.front.under_way = Some((id, step));
        self.submit(disk, Purpose::Remove(id), op);
    }

    /// A segment is gone for good; its file may be a spare now.
    fn forget(&mut self, id: u64, now_ms: i64) {
        let Some(at) = self.segments.iter().position(|segment| segment.id == id) else {
            return;
        };
        let gone = self.segments.remove(at);
        self.keep_spare(&gone, now_ms);
        self.first_unsynced -= usize::from(at < self.first_unsynced);
        self.front.removed.segments += 1;
        self.front.removed.bytes += gone.tail.position;
        let Some(first) = self.segments.first() else {
            return;
        };
        let (base_index, base_offset) = (first.base_index(), first.base_offset());
        self.used_generations = self.used_generations.split_off(&base_index);
        self.quarantined.retain(|damage| damage.indices.end > base_index);
        let newest = self.segments.iter().filter_map(Segment::max_timestamp);
        let newest = newest.reduce(|best, next| if next.0 > best.0 { next } else { best });
        self.state.forget_front(base_offset, newest);
    }
}

/// Whether the newest record of a segment that took its last append by `closed_ms` is too old. What has no
/// timestamp, or one after that moment, is as old as that moment. A segment without records is not kept.
fn is_expired(segment: &Segment, closed_ms: i64, clock_ms: i64, limits: RetentionLimits) -> bool {
    let Some(age_max_ms) = limits.age_ms else {
        return false;
    };
    let Some((timestamp_ms, _)) = segment.max_timestamp() else {
        return true;
    };
    let closed_ms = closed_ms.min(clock_ms);
    let written_ms = match timestamp_ms {
        0.. => timestamp_ms.min(closed_ms),
        _ => closed_ms,
    };
    u64::try_from(clock_ms.saturating_sub(written_ms)).is_ok_and(|age_ms| age_ms > age_max_ms)
}
