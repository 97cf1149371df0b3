//! The sorted index of one segment: one array that answers by offset, by index and by time.
//!
//! Owned by the partition's shard. Sparse: a point about every 4 KiB of log. It is
//! derived: rebuilt from the segment when its file is missing or bad, and never evidence
//! of what the segment holds. Invariants:
//! - positions and indexes rise strictly, base offsets never fall;
//! - `max_timestamp` of a point is the highest of the *whole segment up to the next
//!   point*, so it never falls either and a search by time is a binary search.
//!
//! The file is a sealed file (see `docs/FORMAT.md`) with magic `TLOGIDX0`, version 0, and
//! the archive {incarnation: 16 bytes, covered: u64 segment length the index speaks of, last_index
//! u64, next_offset i64, max_timestamp i64, max_timestamp_offset i64, crc_chain_end u32, epochs: array
//! of {epoch i32, offset i64}, points: array of {index u64, base_offset i64, position u64,
//! max_timestamp i64}, has_gaps u32, 0 or 1}. Besides the points it holds what an open would otherwise read the whole
//! segment for.
//!
//! The file of a segment that takes appends grows by parts, each a sealed file of its own, on a multiple of 8: a part
//! covers more than the one before and brings the points and epochs that came since, after the last point once more,
//! whose timestamp may have risen.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use rkyv::{Archive, Deserialize, Serialize};
use thiserror::Error;

pub use crate::sealed::SealedError;

use crate::ids::{EntryIndex, FilePosition, Incarnation, LeaderEpoch, Offset};
use crate::limits::{INDEX_EPOCHS_MAX, INDEX_FILE_BYTES_MAX, INDEX_INTERVAL_BYTES, INDEX_POINTS_MAX};
use crate::sealed::{at_most, seal, sealed_len, unseal};

/// First eight bytes of an index file.
pub const INDEX_MAGIC: [u8; 8] = *b"TLOGIDX0";
/// The version this program writes.
pub const INDEX_VERSION: u16 = 0;

/// Where an entry lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct IndexEntry {
    /// The entry's index.
    pub index: EntryIndex,
    /// Its base offset (for kinds without offsets the next offset).
    pub base_offset: Offset,
    /// Where its header begins in the segment file.
    pub position: FilePosition,
    /// When given to [`SegmentIndex::observe`], of this entry; when answered, the highest
    /// of the segment up to the next point. In ms.
    pub max_timestamp: i64,
}

/// The index of one segment, in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentIndex {
    points: Vec<IndexEntry>,
}

/// Why an index file was refused. It is rebuilt from its segment in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IndexError {
    /// The file is unfinished, damaged or of another version.
    #[error(transparent)]
    Sealed(#[from] SealedError),
    /// It belongs to another life of the segment's file.
    #[error("index of another incarnation")]
    Incarnation,
    /// It speaks of more than was asked for.
    #[error("speaks of entries that are not known to be durable")]
    Beyond,
    /// Its points are not sorted.
    #[error("index points are not sorted")]
    Order,
}

/// A leader epoch and the offset at which its entries begin in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// Base offset of its first entry (for kinds without offsets the next offset).
    pub offset: Offset,
}

/// Parts of an index file begin on multiples of this.
pub const INDEX_PART_ALIGN: usize = 8;

/// An index file, or a part of one: the index, and what else an open would have to read the segment for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexFile {
    /// Of the segment.
    pub incarnation: Incarnation,
    /// Where the last entry it speaks of ends.
    pub covered: FilePosition,
    /// Index of that entry.
    pub last_index: EntryIndex,
    /// The offset behind that entry.
    pub next_offset: Offset,
    /// `header_crc` of that entry.
    pub crc_chain_end: u32,
    /// The highest timestamp of its batches, in ms, and the base offset of the first that has it.
    pub max_timestamp: Option<(i64, Offset)>,
    /// Each leader epoch that has entries in the segment.
    pub epochs: Vec<EpochStart>,
    /// Between two of its batches are offsets without records.
    pub has_gaps: bool,
    /// The index.
    pub index: SegmentIndex,
}

#[derive(Archive, Serialize, Deserialize)]
struct IndexFileV0 {
    incarnation: Incarnation,
    covered: FilePosition,
    last_index: EntryIndex,
    next_offset: Offset,
    max_timestamp: i64,
    max_timestamp_offset: Offset,
    crc_chain_end: u32,
    epochs: Vec<EpochStart>,
    points: Vec<IndexEntry>,
    has_gaps: u32,
}

const _: () = {
    assert!(size_of::<ArchivedIndexFileV0>() == 80);
    assert!(size_of::<ArchivedEpochStart>() == 16);
    assert!(size_of::<ArchivedIndexEntry>() == 32);
};

impl SegmentIndex {
    /// An index without points.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes note of the next entry of the segment. Returns whether it became a point
    /// (the first one does, then one each [`INDEX_INTERVAL_BYTES`]).
    ///
    /// Kinds without an index of their own may only be given a timestamp, by
    /// [`SegmentIndex::observe_timestamp`].
    ///
    /// # Panics
    /// If it does not come after the last point: our own log appends in order.
    pub fn observe(&mut self, entry: IndexEntry) -> bool {
        let Some(last) = self.points.last().copied() else {
            self.points.push(entry);
            return true;
        };
        assert!(is_sorted_pair(&last, &entry), "entries are observed in log order");
        let far_enough = entry.position.0 - last.position.0 >= INDEX_INTERVAL_BYTES;
        if far_enough && self.points.len() < INDEX_POINTS_MAX {
            let max_timestamp = entry.max_timestamp.max(last.max_timestamp);
            self.points.push(IndexEntry {
                max_timestamp,
                ..entry
            });
            return true;
        }
        self.observe_timestamp(entry.max_timestamp);
        false
    }

    /// Raises the last point's timestamp to that of an entry that lies behind it.
    pub fn observe_timestamp(&mut self, max_timestamp: i64) {
        if let Some(last) = self.points.last_mut() {
            last.max_timestamp = last.max_timestamp.max(max_timestamp);
        }
    }

    /// Drops every point at or above `position`, after a cut.
    ///
    /// Timestamps of the remaining last point may then be too high, which costs a
    /// look-up by time a longer walk and nothing else.
    pub fn truncate(&mut self, position: FilePosition) {
        let keep = self.points.partition_point(|point| point.position < position);
        self.points.truncate(keep);
    }

    /// The first `count` points from `from` on; the last of them had this timestamp when that many were known.
    pub(crate) fn part(&self, from: usize, count: usize, last_max_timestamp: i64) -> Self {
        let mut points = self.points.get(from..count).unwrap_or_default().to_vec();
        if let Some(last) = points.last_mut() {
            last.max_timestamp = last_max_timestamp;
        }
        Self { points }
    }

    /// All points, in order.
    pub fn points(&self) -> &[IndexEntry] {
        &self.points
    }

    /// The highest timestamp observed, in ms.
    pub fn max_timestamp(&self) -> Option<i64> {
        self.points.last().map(|point| point.max_timestamp)
    }

    /// The last point with a base offset at or below `offset`: a walk from there meets
    /// the entry that holds `offset`, if the segment has it.
    pub fn floor_by_offset(&self, offset: Offset) -> Option<IndexEntry> {
        self.before(self.points.partition_point(|point| point.base_offset <= offset))
    }

    /// The last point at or below `index`.
    pub fn floor_by_index(&self, index: EntryIndex) -> Option<IndexEntry> {
        self.before(self.points.partition_point(|point| point.index <= index))
    }

    /// The point from which a walk meets the first entry whose max timestamp is at least
    /// `timestamp_ms`; None if the segment has no such entry.
    pub fn first_by_timestamp(&self, timestamp_ms: i64) -> Option<IndexEntry> {
        let at = self
            .points
            .partition_point(|point| point.max_timestamp < timestamp_ms);
        self.points.get(at).copied()
    }

    fn before(&self, at: usize) -> Option<IndexEntry> {
        at.checked_sub(1).and_then(|at| self.points.get(at)).copied()
    }
}

impl IndexFile {
    /// The bytes of a file of one part, or of one more part.
    pub fn encode(&self) -> Vec<u8> {
        let (max_timestamp, max_timestamp_offset) = self.max_timestamp.unwrap_or((-1, Offset(-1)));
        let file = IndexFileV0 {
            incarnation: self.incarnation,
            covered: self.covered,
            last_index: self.last_index,
            next_offset: self.next_offset,
            max_timestamp,
            max_timestamp_offset,
            crc_chain_end: self.crc_chain_end,
            epochs: self.epochs.clone(),
            points: self.index.points.clone(),
            has_gaps: u32::from(self.has_gaps),
        };
        let mut bytes = seal(INDEX_MAGIC, INDEX_VERSION, &file);
        bytes.resize(bytes.len().next_multiple_of(INDEX_PART_ALIGN), 0);
        bytes
    }

    /// What is in a file, if it speaks of the segment of this incarnation.
    ///
    /// # Errors
    /// Its first part is of no use. One that is of no use behind another is the end of the file.
    pub fn decode(bytes: &[u8], incarnation: &Incarnation) -> Result<Self, IndexError> {
        Self::decode_up_to(bytes, incarnation, EntryIndex(u64::MAX)).map(|(file, _)| file)
    }

    /// As [`IndexFile::decode`], without what speaks of entries behind `index`, and how many bytes that takes.
    ///
    /// # Errors
    /// As there. Also if already the first part says more: then there is nothing to be known of.
    pub fn decode_up_to(
        bytes: &[u8],
        incarnation: &Incarnation,
        index: EntryIndex,
    ) -> Result<(Self, usize), IndexError> {
        let mut file = Self::decode_part(bytes, incarnation)?;
        if file.last_index > index {
            return Err(IndexError::Beyond);
        }
        let mut end = part_len(bytes);
        while let Some(rest) = bytes.get(end..)
            && let Ok(part) = Self::decode_part(rest, incarnation)
            && part.last_index <= index
            && file.take_part(part)
        {
            end += part_len(rest);
        }
        Ok((file, end))
    }

    /// Goes on with the next part, if it follows.
    fn take_part(&mut self, part: Self) -> bool {
        let points = &mut self.index.points;
        let follows = part.covered > self.covered
            && part.last_index >= self.last_index
            && part.next_offset >= self.next_offset
            && match (points.last(), part.index.points.first()) {
                (Some(last), Some(again)) => {
                    again.max_timestamp >= last.max_timestamp
                        && (again.position, again.index, again.base_offset)
                            == (last.position, last.index, last.base_offset)
                }
                (None, _) => true,
                (Some(_), None) => false,
            }
            && match (self.epochs.last(), part.epochs.first()) {
                (Some(last), Some(next)) => last.epoch < next.epoch && last.offset <= next.offset,
                _ => true,
            }
            && points.len() + part.index.points.len() <= INDEX_POINTS_MAX + 1
            && self.epochs.len() + part.epochs.len() <= INDEX_EPOCHS_MAX;
        if !follows {
            return false;
        }
        points.pop();
        points.extend(part.index.points);
        self.epochs.extend(part.epochs);
        (self.covered, self.last_index, self.next_offset) = (part.covered, part.last_index, part.next_offset);
        self.crc_chain_end = part.crc_chain_end;
        self.max_timestamp = part.max_timestamp;
        self.has_gaps = part.has_gaps;
        true
    }

    fn decode_part(bytes: &[u8], incarnation: &Incarnation) -> Result<Self, IndexError> {
        let file: IndexFileV0 = unseal(INDEX_MAGIC, INDEX_VERSION, bytes, INDEX_FILE_BYTES_MAX)?;
        at_most(file.points.len(), INDEX_POINTS_MAX)?;
        at_most(file.epochs.len(), INDEX_EPOCHS_MAX)?;
        if file.incarnation != *incarnation {
            return Err(IndexError::Incarnation);
        }
        let sorted = file
            .points
            .array_windows()
            .all(|[a, b]| is_sorted_pair(a, b) && a.max_timestamp <= b.max_timestamp);
        let inside = file.points.last().is_none_or(|last| {
            last.position < file.covered
                && last.index <= file.last_index
                && last.base_offset <= file.next_offset
        });
        let epochs_sorted = file
            .epochs
            .array_windows()
            .all(|[a, b]| a.epoch < b.epoch && a.offset <= b.offset);
        if !sorted || !inside || !epochs_sorted {
            return Err(IndexError::Order);
        }
        let has_batch = file.max_timestamp_offset.0 >= 0;
        Ok(Self {
            incarnation: file.incarnation,
            covered: file.covered,
            last_index: file.last_index,
            next_offset: file.next_offset,
            crc_chain_end: file.crc_chain_end,
            max_timestamp: has_batch.then_some((file.max_timestamp, file.max_timestamp_offset)),
            epochs: file.epochs,
            has_gaps: file.has_gaps != 0,
            index: SegmentIndex { points: file.points },
        })
    }
}

/// Bytes of the part at the start of `bytes`, which was decoded.
fn part_len(bytes: &[u8]) -> usize {
    let len = sealed_len(bytes).unwrap_or(bytes.len());
    len.next_multiple_of(INDEX_PART_ALIGN)
}

fn is_sorted_pair(a: &IndexEntry, b: &IndexEntry) -> bool {
    a.position < b.position && a.index < b.index && a.base_offset <= b.base_offset
}
