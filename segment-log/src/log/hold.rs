//! Holds: somebody needs the files of some segments as they are, by their names, for longer than a read.
//!
//! A hold is taken by the shard that owns the log and may be released by any thread, since a fork or a backup goes on
//! by itself. It keeps no descriptor (those are a bounded cache): it keeps the *name* until it is released, so that
//! the file can be read, or linked, by its path. Invariants:
//! - what was held is there under its path, byte for byte up to the length that was told, until the release: the
//!   removal of the segment ([`super::front`]) waits for it, and no truncation reaches below it;
//! - a hold keeps files, not records: the log start moves as ever, and what lies below is served no more;
//! - holds are in memory and outlive a reopening of the log in the same process; a start knows of none, and then the
//!   removals that waited go on.
//!
//! A deletion of the topic asks nobody: its directory goes, with what is held there.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;

use super::PartitionLog;
use super::segment::Segment;
use crate::ids::{EntryIndex, Incarnation, Offset};

/// The segments of one log that are held, and how often. Clones are the same; whoever opens a log again after it
/// could not be opened gives it the one it had.
#[derive(Clone, Debug, Default)]
pub struct SegmentHolds(Arc<Mutex<BTreeMap<Incarnation, usize>>>);

/// One segment, as it may be read while it is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldSegment {
    /// Where its file is.
    pub path: PathBuf,
    /// The random name of this life of the file; its header says it too.
    pub incarnation: Incarnation,
    /// The index of its first entry.
    pub base_index: EntryIndex,
    /// The offset of its first record.
    pub base_offset: Offset,
    /// Bytes from the beginning of the file that are durable there and do not change. What lies behind them is not
    /// to be read.
    pub len_bytes: u64,
}

/// Segments that are held until this is dropped.
#[derive(Debug)]
pub struct SegmentHold {
    holds: SegmentHolds,
    segments: Vec<HeldSegment>,
}

/// Why nothing is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HoldError {
    /// Ask for a range that is there, or wait until it is durable in segments: what only a commit journal holds is
    /// not ([`PartitionLog::settle`]).
    #[error("offsets {from}..{to} are not all durable in segments, which hold {log_start}..{durable}")]
    OutOfRange {
        /// The first offset asked for.
        from: Offset,
        /// The first one behind those asked for.
        to: Offset,
        /// The lowest offset that is served.
        log_start: Offset,
        /// Everything below it is durable in segments.
        durable: Offset,
    },
    /// Read the records instead.
    #[error("the log is in memory: its segments have no files")]
    InMemory,
}

impl SegmentHolds {
    fn counts(&self) -> MutexGuard<'_, BTreeMap<Incarnation, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody needs the file of this life.
    pub(super) fn is_held(&self, incarnation: &Incarnation) -> bool {
        self.counts().contains_key(incarnation)
    }
}

impl SegmentHold {
    fn new(holds: SegmentHolds, segments: Vec<HeldSegment>) -> Self {
        {
            let mut counts = holds.counts();
            for segment in &segments {
                *counts.entry(segment.incarnation).or_default() += 1;
            }
        }
        Self { holds, segments }
    }

    /// The segments, in the order of the log.
    pub fn segments(&self) -> &[HeldSegment] {
        &self.segments
    }
}

impl Drop for SegmentHold {
    fn drop(&mut self) {
        let mut counts = self.holds.counts();
        for segment in &self.segments {
            let count = counts.get_mut(&segment.incarnation);
            let left = count.map_or(0, |count| {
                *count -= 1;
                *count
            });
            if left == 0 {
                counts.remove(&segment.incarnation);
            }
        }
    }
}

impl PartitionLog {
    /// Holds the segments that have the records of these offsets: closed ones whole, and the one that takes appends as
    /// far as it is durable. See the module for what that keeps.
    ///
    /// # Errors
    /// Nothing is held then.
    pub fn hold(&self, offsets: Range<Offset>) -> Result<SegmentHold, HoldError> {
        if self.options.is_volatile {
            return Err(HoldError::InMemory);
        }
        // A reopening after a failed sync takes what only a journal holds into another file.
        let (log_start, durable) = (self.log_start_offset(), self.settled.next_offset);
        if offsets.start < log_start || offsets.end > durable || offsets.start > offsets.end {
            return Err(HoldError::OutOfRange {
                from: offsets.start,
                to: offsets.end,
                log_start,
                durable,
            });
        }
        let following = self.segments.iter().skip(1).map(Segment::base_offset);
        let ends = following.chain([self.log_end_offset()]);
        let holds_some =
            |segment: &Segment, end: Offset| segment.base_offset() < offsets.end && end > offsets.start;
        let wanted = self.segments.iter().zip(ends);
        let wanted = wanted.filter(|(segment, end)| holds_some(segment, *end));
        let segments = wanted.filter_map(|(segment, _)| self.as_held(segment)).collect();
        Ok(SegmentHold::new(self.options.holds.clone(), segments))
    }

    /// A segment with what of it is durable, if anything is.
    fn as_held(&self, segment: &Segment) -> Option<HeldSegment> {
        let durable = self.settled;
        let is_whole = segment.synced.position == segment.tail.position || segment.tail.index < durable.index;
        let len_bytes = match is_whole {
            true => segment.tail.position,
            false => durable.position,
        };
        let has_some = segment.base_index() <= durable.index && len_bytes > Segment::FIRST_ENTRY;
        has_some.then(|| HeldSegment {
            path: self.directory.join(segment.name()),
            incarnation: segment.incarnation(),
            base_index: segment.base_index(),
            base_offset: segment.base_offset(),
            len_bytes,
        })
    }

    /// Whether somebody needs the file of a segment by its name.
    pub(super) fn is_held(&self, segment: &Segment) -> bool {
        self.options.holds.is_held(&segment.incarnation())
    }
}
