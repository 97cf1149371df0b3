//! One partition's log: appends, commits, rolls and reads over segment files.
//!
//! A [`PartitionLog`] belongs to one shard thread and comes out of an [`Opening`]. It never waits:
//! it submits operations to the [`Disk`] it is handed and takes their completions through
//! [`PartitionLog::on_completion`]; the shard routes a completion by `token.0 >> 32`, which is the
//! log's token space.
//!
//! Invariants:
//! - durable offset <= written offset <= log end and log start <= high watermark, and each only moves
//!   forward;
//! - what [`PartitionLog::append`] answered is in the log's order for good, but neither written
//!   (until a flush) nor durable (until [`PartitionLog::durable_offset`] passes it);
//! - a sync is submitted only for writes that completed in full, and one commit runs at a time;
//! - after a failed write or sync the log is fenced: no append, no new durable offset, until it was
//!   opened again from what the device holds;
//! - an offset is never given out twice under one leader epoch.

mod append;
mod commit;
mod front;
mod full_disk;
mod grouped;
mod hold;
#[cfg(test)]
mod hold_tests;
mod index_files;
mod internal;
mod log_start;
pub(crate) mod machine;
mod open;
mod open_error;
mod read;
mod recycle;
mod removal;
mod roll;
pub(crate) mod segment;
mod spares;
pub(crate) mod state;
pub mod testing;
mod truncate;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::batch::BatchError;
use crate::checkpoint::PartitionCheckpoint;
use crate::disk::{Completion, Disk, Token};
use crate::ids::{EntryIndex, LeaderEpoch, Offset, PartitionKey};
use crate::producer_state::ProducerStates;
use crate::recovery::{Quarantined, RecoveryOptions};

pub use append::Appended;
#[doc(hidden)]
pub use append::WriteBug;
pub use commit::CloseProgress;
#[doc(hidden)]
pub use front::RemovalBug;
pub use front::{Removed, RetentionLimits};
pub use grouped::CommitWanted;
pub use hold::{HeldSegment, HoldError, SegmentHold, SegmentHolds};
pub use internal::InternalEntry;
pub use log_start::{LogStartError, NewestRecord};
pub use machine::Machine;
pub use open::{OpenProgress, OpenSpec, Opening, drive_open};
pub use open_error::{OpenError, UnsupportedEntry};
pub use read::{ColdRange, CorruptEntry, ReadError, ReadPart, ReadPlan, verify_cold};
pub(crate) use recycle::is_spare_name;
pub use removal::remove_partition_directory;
pub use spares::SpareBudget;
pub use truncate::Truncation;

use commit::Commit;
use front::Front;
use index_files::IndexFiles;
use log_start::DurableLogStart;
use machine::TokenCounter;
use recycle::Spares;
pub(crate) use roll::Incarnations;
use segment::{Mark, Segment};
use state::LogState;

/// When appended batches are made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// By group commit: the high watermark is the durable offset.
    Fsync,
    /// Every so often; the high watermark is the log end.
    Interval {
        /// Time between two commits, in ms.
        interval_ms: u64,
    },
    /// When the operating system pleases, and at a roll; the high watermark is the log end.
    Os,
}

/// What a log takes from its topic's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// A segment that would grow beyond this is rolled, in bytes; at most 2 GiB.
    pub segment_bytes: u64,
    /// A segment older than this is rolled, in ms.
    pub segment_ms: i64,
    /// When appends become durable.
    pub durability: Durability,
}

/// Whether the log takes appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStatus {
    /// It does.
    Open,
    /// A write or a sync failed. What is durable can be read; for the rest see [`PartitionLog::into_reopening`].
    Fenced,
}

/// Why an append was not taken. Nothing of it is in the log.
#[derive(Debug, Error)]
pub enum AppendError {
    /// The disk is full, or no descriptor is left: answer a retriable storage error; works again by itself
    /// when there is space.
    #[error("no space, or no descriptor, to extend the segment")]
    NoSpace,
    /// Too much waits for the disk: retry when a completion came in.
    #[error("too many bytes wait for the disk")]
    Backlogged,
    /// Reopen the log first.
    #[error("the log is fenced after a failed write or sync")]
    Fenced,
    /// The log is being closed.
    #[error("the log is closing")]
    Closing,
    /// Write a checkpoint, then [`PartitionLog::confirm_term`], then retry.
    #[error("the leader epoch that was raised at the open is not durable yet")]
    TermNotDurable,
    /// The caller did not validate the batch; reject it.
    #[error("not a record batch: {0}")]
    Batch(#[from] BatchError),
    /// Longer or shorter than the batch says, or too large for an entry; reject it.
    #[error("a batch of {batch_bytes} bytes in {given_bytes} bytes")]
    Length {
        /// What the batch says, bytes.
        batch_bytes: usize,
        /// What was given, bytes.
        given_bytes: usize,
    },
    /// A batch with an offset of its own that is not behind the log: truncate first, or leave it out.
    #[error("the batch begins at offset {given}, and the log ends at {log_end}")]
    OffsetTaken {
        /// Its base offset.
        given: Offset,
        /// The lowest it may have.
        log_end: Offset,
    },
    /// A batch with a leader epoch of its own, below that of the log; reject it.
    #[error("the batch has leader epoch {given}, the lowest possible one is {lowest}")]
    EpochFalls {
        /// Its leader epoch.
        given: LeaderEpoch,
        /// The lowest it may have.
        lowest: LeaderEpoch,
    },
    /// Offsets are used up; reject it.
    #[error("offsets of this partition are used up")]
    OffsetsUsedUp,
    /// The operating system gave no random bytes for a new segment; retry.
    #[error("no incarnation id for a new segment: {0}")]
    Incarnation(#[source] io::Error),
}

/// What an operation in flight is for. The number is a segment's id in this log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Write(u64),
    Sync(u64),
    Settle(u64),
    Extend(u64),
    Create(u64),
    Remove(u64),
    DropSpare(u64),
}

/// The log of one partition. See the module.
#[derive(Debug)]
pub struct PartitionLog {
    directory: PathBuf,
    key: PartitionKey,
    config: LogConfig,
    start_counter: u64,
    options: RecoveryOptions,
    incarnations: Incarnations,
    tokens: TokenCounter,
    in_flight: BTreeMap<Token, Purpose>,
    /// Sorted by base index; the last one takes appends. Never empty.
    segments: Vec<Segment>,
    next_segment_id: u64,
    /// The first segment that may have bytes that are not durable.
    first_unsynced: usize,
    used_generations: BTreeMap<EntryIndex, u32>,
    /// How often it was truncated, as its segments say.
    truncations: u32,
    state: LogState,
    term: LeaderEpoch,
    term_durable: bool,
    /// Of the last batch, if it came with an epoch of its own.
    assigned_term: Option<LeaderEpoch>,
    durable: Mark,
    /// The end of what is durable in segments whose names are; what lies behind it up to `durable` is in a journal.
    settled: Mark,
    /// A shard's group commit decides when and how it commits, under [`Durability::Fsync`].
    is_grouped: bool,
    /// Syncs under way that make durable in segments what is in a journal.
    settling: Vec<(u64, Mark)>,
    /// What was served before the durability was changed stays served.
    watermark_floor: Offset,
    log_starts: DurableLogStart,
    front: Front,
    spares: Spares,
    commit: Option<Commit>,
    last_commit_ms: i64,
    quarantined: Vec<Quarantined>,
    status: LogStatus,
    fence_cause: Option<io::Error>,
    closing: bool,
    index_files: IndexFiles,
}

impl PartitionLog {
    /// Which partition it is.
    pub fn key(&self) -> PartitionKey {
        self.key
    }

    /// The directory of its segments.
    pub fn directory(&self) -> &std::path::Path {
        &self.directory
    }

    /// The configuration in force.
    pub fn config(&self) -> LogConfig {
        self.config
    }

    /// Takes a new configuration, in force from the next append on.
    pub fn set_config(&mut self, config: LogConfig) {
        self.watermark_floor = self.high_watermark();
        self.config = config;
    }

    /// Everything below it is on the device.
    pub fn durable_offset(&self) -> Offset {
        self.durable.next_offset
    }

    /// Everything below it may be served: the durable offset under [`Durability::Fsync`], else what
    /// is written.
    pub fn high_watermark(&self) -> Offset {
        let watermark = match self.config.durability {
            Durability::Fsync => self.durable.next_offset,
            Durability::Interval { .. } | Durability::Os => self.written_offset(),
        };
        watermark.max(self.watermark_floor)
    }

    /// The lowest offset that is served.
    pub fn log_start_offset(&self) -> Offset {
        self.state.log_start()
    }

    /// The offset the next record gets.
    pub fn log_end_offset(&self) -> Offset {
        self.state.next_offset()
    }

    /// The leader epoch that appends carry.
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.term
    }

    /// Whether it takes appends.
    pub fn status(&self) -> LogStatus {
        self.status
    }

    /// The error that fenced it.
    pub fn fence_cause(&self) -> Option<&io::Error> {
        self.fence_cause.as_ref()
    }

    /// What its idempotent producers last wrote, appended but maybe not durable.
    pub fn producers(&self) -> &ProducerStates {
        &self.state.producers
    }

    /// What damage was gone around at the last open.
    pub fn quarantined(&self) -> &[Quarantined] {
        &self.quarantined
    }

    /// The highest record timestamp in ms and the base offset of the (first) batch that has it, of all
    /// batches in the segments: it may lie below the log start. See [`PartitionLog::newest_record`].
    pub fn max_timestamp(&self) -> Option<(i64, Offset)> {
        self.state.max_timestamp()
    }

    /// The largest leader epoch at or below `epoch` and the offset at which it ends, as
    /// OffsetForLeaderEpoch answers it (KIP-101, KIP-279); -1 and -1 where nothing is known.
    pub fn epoch_end_offset(&self, epoch: LeaderEpoch) -> (LeaderEpoch, Offset) {
        self.state.epoch_end_offset(epoch, self.term)
    }

    /// Bytes of all segments up to their last entries.
    pub fn size_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.tail.position).sum()
    }

    /// Number of segments.
    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// Whether an operation of this log is in flight.
    pub fn is_waiting_for_disk(&self) -> bool {
        !self.in_flight.is_empty() || self.index_files.is_writing()
    }

    /// Whether the raised leader epoch still has to be made durable by a checkpoint.
    pub fn needs_term_checkpoint(&self) -> bool {
        !self.term_durable
    }

    /// The shard says: a checkpoint with what [`PartitionLog::checkpoint`] answered since the open is durable.
    pub fn confirm_term(&mut self) {
        self.term_durable = true;
    }

    /// What a checkpoint says of this log now. It claims nothing that is not durable.
    pub fn checkpoint(&self) -> PartitionCheckpoint {
        let durable = self.durable;
        let (recovery_point, producer_state) = self.producers_to_go_on_with();
        PartitionCheckpoint {
            key: self.key,
            term: self.term,
            log_start: self.log_starts.offset(),
            recovery_point,
            raft_base: EntryIndex(0),
            durable_index: durable.index,
            next_offset: durable.next_offset,
            producer_state,
            segments: self
                .segments
                .iter()
                .filter(|segment| segment.creation == segment::Creation::Ready)
                .map(Segment::checkpoint)
                .collect(),
        }
    }

    /// Where an open may go on, and what producers had written there; nothing if that is not known.
    fn producers_to_go_on_with(&self) -> (EntryIndex, Vec<u8>) {
        let settled = self.settled.index;
        if self.state.last_index() == settled {
            return (settled, self.state.producers.encode(self.state.log_start()));
        }
        match self.marked_producers() {
            Some((index, producers)) => (index, producers.to_vec()),
            None => (settled, Vec::new()),
        }
    }

    /// Takes the end of one of its operations and goes on with what waited for it.
    pub fn on_completion(&mut self, now_ms: i64, disk: &mut dyn Disk, completion: Completion) {
        let Some(purpose) = self.in_flight.remove(&completion.token) else {
            return self.index_completed(disk, completion);
        };
        match purpose {
            Purpose::Write(id) => self.write_completed(id, completion.result, disk),
            Purpose::Sync(id) => self.sync_completed(id, completion.result),
            Purpose::Settle(id) => self.settle_completed(id, completion.result),
            Purpose::Extend(id) => self.extend_completed(id, completion.result, disk),
            Purpose::Create(id) => self.creation_completed(id, completion.result, disk),
            Purpose::DropSpare(id) => self.spare_unlinked(id, completion.result),
            Purpose::Remove(_) => {
                self.removal_completed(now_ms, completion.result, disk);
                self.remove_front(now_ms, disk);
            }
        }
        self.flush(now_ms, disk);
    }

    /// To be called now and then: rolls by age, commits by interval, asks for space again, removes what lies below
    /// the log start. Every 100 ms or so after the log was touched and while [`PartitionLog::waits_for_tick`]; else
    /// every few seconds.
    pub fn tick(&mut self, now_ms: i64, disk: &mut dyn Disk) {
        if self.status == LogStatus::Fenced {
            return;
        }
        self.ask_for_space_again(disk);
        let open = self.segments.get_mut(self.first_unsynced..).unwrap_or_default();
        open.iter_mut().for_each(Segment::rest);
        self.roll_by_age(now_ms, disk);
        self.remove_front(now_ms, disk);
        self.give_back_spares(now_ms, disk);
        self.mark_index();
        self.flush(now_ms, disk);
    }

    /// Whether a tick has something to do soon: what an interval is to make durable, space to be asked for again, a
    /// staging buffer that nobody may need any more.
    pub fn waits_for_tick(&self) -> bool {
        let by_interval = matches!(self.config.durability, Durability::Interval { .. });
        let open = self.segments.get(self.first_unsynced..).unwrap_or_default();
        open.iter()
            .any(|segment| segment.no_space || segment.holds_staging() || (by_interval && segment.is_dirty()))
    }

    fn submit(&mut self, disk: &mut dyn Disk, purpose: Purpose, op: crate::disk::DiskOp) {
        let token = self.tokens.take();
        self.in_flight.insert(token, purpose);
        disk.submit(token, op);
    }

    fn segment_by_id(&mut self, id: u64) -> Option<&mut Segment> {
        self.segments.iter_mut().rev().find(|segment| segment.id == id)
    }

    /// Everything below it is in the page cache (at least): a killed process does not lose it.
    pub fn written_offset(&self) -> Offset {
        let unsynced = self.segments.get(self.first_unsynced..).unwrap_or_default();
        for segment in unsynced {
            if segment.written.position < segment.tail.position {
                return segment.written.next_offset.max(self.durable.next_offset);
            }
        }
        unsynced.last().map_or(self.durable.next_offset, |segment| {
            segment.written.next_offset.max(self.durable.next_offset)
        })
    }

    fn fence(&mut self, cause: io::Error) {
        if self.status == LogStatus::Open {
            self.status = LogStatus::Fenced;
            self.fence_cause = Some(cause);
            // What a journal has in flight ends there; this log hears of it and takes no notice.
            self.commit = self.commit.take().filter(Commit::is_in_journal);
            self.settling.clear();
            self.index_files.give_up();
            for segment in &mut self.segments {
                segment.staged = Vec::new();
                segment.staged_bytes = 0;
            }
        }
    }
}
