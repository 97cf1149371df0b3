//! Reads: where the batches of an offset range lie, hot or cold, and the check of cold bytes.
//!
//! [`PartitionLog::read`] runs on the shard that owns the partition, [`verify_cold`] on the shard of
//! the connection that read the bytes. Invariants:
//! - nothing at or above the written end is planned;
//! - a plan holds at least one batch where the range holds one, even a larger one than asked for;
//! - cold bytes are served only after header checksum and CRC-32C held.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::ops::Range;

use thiserror::Error;

use super::PartitionLog;
use super::segment::Segment;
use crate::batch::BatchHeader;
use crate::disk::{Disk, FileHandle, FileReference, HotBytes, Lease};
use crate::entry::{ENTRY_HEADER_LEN, EntryError, EntryHeader, verify_payload};
use crate::ids::{FilePosition, Incarnation, Offset};
use crate::limits::READ_PARTS_MAX;

/// Why a read has no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReadError {
    /// Answer OFFSET_OUT_OF_RANGE: it is below the log start.
    #[error("offset {from} is below the log start {log_start}")]
    BelowLogStart {
        /// As asked.
        from: Offset,
        /// The lowest offset served.
        log_start: Offset,
    },
    /// Answer OFFSET_OUT_OF_RANGE: it is above the log end.
    #[error("offset {from} is above the log end {log_end}")]
    AboveLogEnd {
        /// As asked.
        from: Offset,
        /// The next offset to be given out.
        log_end: Offset,
    },
    /// Answer an error: this offset was durable and its bytes are damaged.
    #[error("offset {from} lies in a damaged range that ends at {next}")]
    Quarantined {
        /// As asked.
        from: Offset,
        /// The first offset behind the damage.
        next: Offset,
    },
}

/// Where the batches of a range lie, in order.
#[derive(Clone, Debug, Default)]
pub struct ReadPlan {
    /// Its parts; empty if the range is.
    pub parts: Vec<ReadPart>,
}

/// One part of a plan.
#[derive(Clone, Debug)]
pub enum ReadPart {
    /// Batches to send as they are.
    Hot(Vec<HotBytes>),
    /// Bytes to read, verify by [`verify_cold`] and send in part.
    Cold(ColdRange),
}

/// A range of a segment that holds the batches asked for, and maybe others before and behind.
#[derive(Clone, Debug)]
pub struct ColdRange {
    /// The segment's file.
    pub file: FileHandle,
    /// Keeps the file, whatever becomes of its name; `None` in a simulation, and when no descriptor was left.
    pub lease: Option<Lease>,
    /// Keeps the bytes: while it lives the file is not used for another segment.
    pub reference: FileReference,
    /// What its entries verify under.
    pub incarnation: Incarnation,
    /// The bytes to read; they begin and end between entries.
    pub position: Range<u64>,
    /// The batch that holds this offset is the first to be served.
    pub from: Offset,
    /// No batch that reaches this offset is served.
    pub below: Offset,
    /// Batches are served until their bytes would exceed this, but at least one.
    pub max_bytes: usize,
}

/// Cold bytes did not verify: answer a corrupt-message error, and report it to the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("entry at byte {position} does not verify: {cause}")]
pub struct CorruptEntry {
    /// Where in the segment file.
    pub position: u64,
    /// What is wrong.
    pub cause: EntryError,
}

/// Checks the bytes that were read for `range` and answers where in them the batches lie that are
/// to be served.
///
/// # Errors
/// An entry in front of or among those batches does not verify, or the bytes end within one. Batches
/// before it are not answered either; with a smaller `max_bytes` they can be.
pub fn verify_cold(range: &ColdRange, bytes: &[u8]) -> Result<Vec<Range<usize>>, CorruptEntry> {
    select(range, bytes, true).map(|selected| selected.batches)
}

/// What of some bytes is to be served.
struct Selected {
    batches: Vec<Range<usize>>,
    /// All of the bytes were looked at, and what follows them may be served too.
    goes_on: bool,
}

fn select(range: &ColdRange, bytes: &[u8], verify: bool) -> Result<Selected, CorruptEntry> {
    let wanted =
        usize::try_from(range.position.end.saturating_sub(range.position.start)).unwrap_or(usize::MAX);
    let mut at = 0usize;
    let mut taken = 0usize;
    let mut batches = Vec::new();
    let mut goes_on = true;
    while at < wanted {
        let corrupt = |cause| CorruptEntry {
            position: range.position.start + at as u64,
            cause,
        };
        let rest = bytes.get(at..).unwrap_or_default();
        let header = match EntryHeader::decode(rest, &range.incarnation) {
            Ok(header) => header,
            Err(_) if !batches.is_empty() => {
                goes_on = false;
                break;
            }
            Err(cause) => return Err(corrupt(cause)),
        };
        let payload_at = at + ENTRY_HEADER_LEN;
        let payload_end = payload_at + header.payload_len as usize;
        if header.is_plain_data() && header.last_offset() >= range.from {
            if header.last_offset() >= range.below {
                goes_on = false;
                break;
            }
            let len = header.payload_len as usize;
            if taken > 0 && taken.saturating_add(len) > range.max_bytes {
                goes_on = false;
                break;
            }
            let Some(payload) = bytes.get(payload_at..payload_end) else {
                if taken > 0 {
                    goes_on = false;
                    break;
                }
                let cause = EntryError::Truncated {
                    needed: payload_end,
                    available: bytes.len(),
                };
                return Err(corrupt(cause));
            };
            if verify && let Err(cause) = verify_payload(&header, payload) {
                if taken > 0 {
                    goes_on = false;
                    break;
                }
                return Err(corrupt(cause));
            }
            taken += len;
            batches.push(payload_at..payload_end);
            if taken >= range.max_bytes {
                goes_on = false;
                break;
            }
        }
        at += header.entry_len();
    }
    Ok(Selected { batches, goes_on })
}

impl PartitionLog {
    /// Plans the batches from the one that holds `from` to the last one wholly below `below` (and
    /// below what is written), up to `max_bytes` but at least one.
    ///
    /// # Errors
    /// The variants say what to answer.
    pub fn read(
        &mut self,
        disk: &mut dyn Disk,
        from: Offset,
        below: Offset,
        max_bytes: usize,
    ) -> Result<ReadPlan, ReadError> {
        let log_start = self.log_start_offset();
        let log_end = self.log_end_offset();
        if from < log_start {
            return Err(ReadError::BelowLogStart { from, log_start });
        }
        if from > log_end {
            return Err(ReadError::AboveLogEnd { from, log_end });
        }
        if let Some(damage) = self
            .quarantined
            .iter()
            .find(|damage| damage.offsets.contains(&from))
        {
            return Err(ReadError::Quarantined {
                from,
                next: damage.offsets.end,
            });
        }
        let mut below = below.min(self.written_offset());
        // A plan ends in front of damage: the next read begins there and is told.
        for damage in &self.quarantined {
            if damage.offsets.start > from {
                below = below.min(damage.offsets.start);
            }
        }
        let mut plan = ReadPlan::default();
        let mut left = max_bytes;
        let first = self
            .segments
            .partition_point(|segment| segment.base_offset() <= from)
            .saturating_sub(1);
        for segment in self.segments.iter().skip(first) {
            if segment.base_offset() >= below || plan.parts.len() >= READ_PARTS_MAX {
                break;
            }
            if segment.written.next_offset <= from {
                continue;
            }
            let Some(range) = cold_range(segment, from, below, left) else {
                continue;
            };
            let is_first = plan.parts.is_empty();
            let Some((pieces, bytes, next)) = hot(disk, &range) else {
                // How many batches of a cold range fit is known only when it was read: it ends a plan.
                if is_first {
                    let lease = range.file.lease().ok();
                    plan.parts.push(ReadPart::Cold(ColdRange { lease, ..range }));
                }
                break;
            };
            // Only the first batch of a plan may be larger than what was asked for.
            if bytes > left && !is_first {
                break;
            }
            left = left.saturating_sub(bytes);
            if bytes > 0 {
                plan.parts.push(ReadPart::Hot(pieces));
            }
            // A plan has no holes: the next segment only follows when this one was used up.
            if left == 0 || next.is_some_and(|next| next < segment.written.next_offset) {
                break;
            }
        }
        Ok(plan)
    }
}

/// The bytes between two index points that hold the batches asked for.
fn cold_range(segment: &Segment, from: Offset, below: Offset, max_bytes: usize) -> Option<ColdRange> {
    let file = segment.file.clone()?;
    let points = segment.index.points();
    let floor = points
        .partition_point(|point| point.base_offset <= from)
        .saturating_sub(1);
    let mut start = points.get(floor)?.position;
    // Behind damage a walk begins where the log goes on, not at a point in front of it.
    for (offset, position) in &segment.resumes {
        if *offset <= from && *position > start.0 {
            start = FilePosition(*position);
        }
    }
    let mut end = segment.written.position;
    // A point behind `from` says that the batch which holds it, or follows it, lies before that point. Where offsets
    // are missing it may be the first batch itself; two points further up it lies before them for certain.
    let mut rises_left = if segment.has_gaps { 3 } else { 1 };
    let mut highest = from;
    for point in points.iter().skip(floor + 1) {
        let FilePosition(position) = point.position;
        let enough = point.base_offset >= below || position - start.0 >= max_bytes as u64;
        if point.base_offset > highest {
            highest = point.base_offset;
            rises_left -= i32::from(rises_left > 0);
        }
        if rises_left == 0 && enough {
            end = end.min(position);
            break;
        }
    }
    // Damaged bytes are not read: there may be much of them, or none that can be read.
    if let Some(damage) = segment.damaged_from.iter().find(|damage| **damage >= start.0) {
        end = end.min(*damage);
    }
    if start.0 >= end {
        return None;
    }
    Some(ColdRange {
        lease: None,
        reference: file.refer(),
        file,
        incarnation: segment.incarnation(),
        position: start.0..end,
        from,
        below,
        max_bytes,
    })
}

/// The batches of a range as pieces of the hot tail, their bytes and the offset behind them, if all
/// of the range is hot.
fn hot(disk: &mut dyn Disk, range: &ColdRange) -> Option<(Vec<HotBytes>, usize, Option<Offset>)> {
    let mut range = range.clone();
    let mut pieces: Vec<HotBytes> = Vec::new();
    let mut total = 0;
    while range.position.start < range.position.end {
        let Some(bytes) = disk.hot_bytes(&range.file, range.position.clone()) else {
            // What comes before it is a plan by itself.
            if pieces.is_empty() {
                return None;
            }
            break;
        };
        // A disk answers in parts where it holds the file in parts; each ends between two entries.
        let end = range.position.start + bytes.len() as u64;
        let part = ColdRange {
            position: range.position.start..end,
            ..range.clone()
        };
        // This process wrote these bytes: headers are looked at, payloads are not.
        let selected = match select(&part, &bytes, false) {
            Ok(selected) => selected,
            Err(_) if pieces.is_empty() => return None,
            Err(_) => break,
        };
        let len: usize = selected.batches.iter().map(|batch| batch.end - batch.start).sum();
        // A part always gives one batch, but only the first of a plan may be larger than what was asked for.
        if len > range.max_bytes && !pieces.is_empty() {
            break;
        }
        total += len;
        pieces.extend(selected.batches.into_iter().map(|batch| bytes.slice(batch)));
        range.max_bytes = range.max_bytes.saturating_sub(len);
        range.position.start = end;
        if !selected.goes_on || bytes.is_empty() || range.max_bytes == 0 {
            break;
        }
    }
    let last = pieces.last().and_then(|piece| BatchHeader::parse(piece).ok());
    Some((pieces, total, last.map(|last| Offset(last.last_offset().0 + 1))))
}
