//! The log start that clients move up: its durable entry, and the look-ups that begin at it.
//!
//! Runs on the partition's shard thread. A `log_start` entry (see `docs/FORMAT.md`) is appended behind
//! the records that it deletes, so a log that has the entry had those records. Invariants:
//! - log start <= high watermark, and it never falls while the log is open;
//! - reads and look-ups begin at the new start at once; it is there for good once the durable index
//!   has reached the entry's index, which a commit is started for whatever the durability;
//! - a checkpoint carries only a start whose entry is durable: an open takes what it finds for durable, and
//!   what rests on a checkpoint alone is gone with that checkpoint;
//! - the bytes below the start stay in their segments: files are removed by [`super::front`].

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::collections::VecDeque;
use std::ops::Range;

use thiserror::Error;

use super::{AppendError, PartitionLog};
use crate::disk::Disk;
use crate::entry::{EntryKind, entry_len};
use crate::ids::{EntryIndex, Offset};
use crate::limits::LOG_STARTS_PENDING_MAX;
use crate::producer_state::encode_log_start;

/// Why a log start was not moved.
#[derive(Debug, Error)]
pub enum LogStartError {
    /// Answer OFFSET_OUT_OF_RANGE: records up to there are not known to stay.
    #[error("{asked} is above the high watermark {high_watermark}")]
    AboveHighWatermark {
        /// As asked.
        asked: Offset,
        /// The highest log start there may be.
        high_watermark: Offset,
    },
    /// The entry was not appended; the variants say what to do.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// Where the record with the largest timestamp is to be looked for, at or above the log start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewestRecord {
    /// The largest timestamp in ms of what is known by whole segments, and the base offset of the first
    /// batch that has it.
    pub known: Option<(i64, Offset)>,
    /// Offsets of which it is not known, since what was known lies below the log start: to be read. All
    /// of `known` lies behind them.
    pub unknown: Range<Offset>,
}

/// How far the log start is durable.
#[derive(Debug)]
pub(super) struct DurableLogStart {
    /// The newest log start whose entry is on the device.
    offset: Offset,
    /// Those behind it, in order, with the indices of their entries.
    pending: VecDeque<(EntryIndex, Offset)>,
}

impl DurableLogStart {
    /// What an open has found.
    pub(super) fn new(offset: Offset) -> Self {
        Self {
            offset,
            pending: VecDeque::new(),
        }
    }

    /// For a checkpoint.
    pub(super) fn offset(&self) -> Offset {
        self.offset
    }

    /// The device has everything up to `index`.
    pub(super) fn advance(&mut self, index: EntryIndex) {
        while let Some((_, offset)) = self.pending.pop_front_if(|(pending, _)| *pending <= index) {
            self.offset = offset;
        }
    }

    /// An entry at `index` says where the log starts, and is to be made durable.
    pub(super) fn owe(&mut self, index: EntryIndex, log_start: Offset) {
        self.pending.push_back((index, log_start));
    }

    /// Those that wait for their commit.
    pub(super) fn waiting(&self) -> usize {
        self.pending.len()
    }

    /// Whether a commit is owed, whatever the durability of batches.
    pub(super) fn is_owed(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The index that makes the log start in force durable; 0 if it is.
    fn awaited(&self) -> EntryIndex {
        self.pending.back().map_or(EntryIndex(0), |(index, _)| *index)
    }
}

impl PartitionLog {
    /// Moves the log start up to `log_start`. One at or below the current start changes nothing.
    ///
    /// Returns the index that the durable index has to reach before the log start that is in force now
    /// may be called durable.
    ///
    /// # Errors
    /// Nothing was changed; the variants say what to do.
    pub fn append_log_start(
        &mut self,
        now_ms: i64,
        disk: &mut dyn Disk,
        log_start: Offset,
    ) -> Result<EntryIndex, LogStartError> {
        self.check_appendable()?;
        let high_watermark = self.high_watermark();
        if log_start > high_watermark {
            return Err(LogStartError::AboveHighWatermark {
                asked: log_start,
                high_watermark,
            });
        }
        if log_start > self.log_start_offset() {
            if self.log_starts.waiting() >= LOG_STARTS_PENDING_MAX {
                return Err(AppendError::Backlogged.into());
            }
            let payload = encode_log_start(log_start);
            let payload_len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
            self.make_room(now_ms, disk, entry_len(payload_len) as u64)?;
            let index = self.state.next_index();
            self.stage_internal(EntryKind::LogStart, &payload);
            self.log_starts.owe(index, log_start);
            assert!(
                self.log_start_offset() == log_start,
                "the entry says where the log starts"
            );
        }
        Ok(self.log_starts.awaited())
    }

    /// What is known of the record with the largest timestamp among those that are served.
    pub fn newest_record(&self) -> NewestRecord {
        let log_start = self.log_start_offset();
        let mut newest = NewestRecord {
            known: None,
            unknown: log_start..log_start,
        };
        for segment in &self.segments {
            if segment.tail.next_offset <= log_start {
                continue;
            }
            match segment.max_timestamp() {
                Some((_, offset)) if offset < log_start => newest.unknown.end = segment.tail.next_offset,
                Some((timestamp, offset)) if newest.known.is_none_or(|(highest, _)| timestamp > highest) => {
                    newest.known = Some((timestamp, offset));
                }
                _ => {}
            }
        }
        newest
    }

    /// An offset from which a scan of batches meets the first record at or above the log start whose
    /// timestamp is at least `timestamp_ms`. None if no batch is that young.
    pub fn batch_at_or_after_timestamp(&self, timestamp_ms: i64) -> Option<Offset> {
        let log_start = self.log_start_offset();
        self.segments
            .iter()
            .filter(|segment| segment.tail.next_offset > log_start)
            .find_map(|segment| segment.index.first_by_timestamp(timestamp_ms))
            .map(|point| point.base_offset.max(log_start))
    }
}
