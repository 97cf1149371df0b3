//! Rolls: the next segment is made while the last one is being made durable.
//!
//! Runs on the partition's shard thread. Invariants:
//! - a new segment's header and name are durable before an entry is written to it, whether its file is new or a
//!   spare ([`super::recycle`]);
//! - a segment begun by a roll opens with a producer_state entry;
//! - a base index that was used before takes the next generation;
//! - a disk that is full while a segment is made, and a process without a descriptor for it, delay it until a
//!   tick finds space or one, and nothing else.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::io;

use bytes::Bytes;

use super::segment::{Creation, Segment};
use super::{AppendError, LogStatus, PartitionLog, Purpose};
use crate::disk::{Disk, DiskOp, DiskOutput, is_out_of_descriptors};
use crate::entry::EntryKind;
use crate::ids::{EntryIndex, Incarnation, Offset, PartitionKey};
use crate::reserve::is_full;
use crate::segment_header::{SEGMENT_FORMAT_VERSION, SEGMENT_HEADER_LEN, SegmentHeader};

/// Where incarnation ids come from.
#[derive(Clone, Debug)]
pub(crate) enum Incarnations {
    /// The operating system.
    Random,
    /// A seed, in a simulation that must repeat itself.
    Seeded(u64),
}

impl Incarnations {
    pub(crate) fn next(&mut self) -> io::Result<Incarnation> {
        match self {
            Incarnations::Random => Incarnation::random(),
            Incarnations::Seeded(state) => {
                // SplitMix64 (Steele, Lea, Flood 2014), twice.
                let mut draw = || {
                    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                    let mut z = *state;
                    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                    z ^ (z >> 31)
                };
                let (high, low) = (u128::from(draw()), u128::from(draw()));
                Ok(Incarnation((high << 64 | low).to_le_bytes()))
            }
        }
    }
}

/// The header of a plain new segment.
pub(crate) fn new_header(
    key: PartitionKey,
    incarnation: Incarnation,
    base_index: EntryIndex,
    base_offset: Offset,
    (generation, truncations): (u32, u32),
) -> SegmentHeader {
    SegmentHeader {
        format_version: SEGMENT_FORMAT_VERSION,
        features: 0,
        incarnation,
        topic: key.topic,
        partition: key.partition,
        generation,
        base_offset,
        base_index,
        replaced: None,
        key_reference: None,
        truncations,
    }
}

impl PartitionLog {
    /// Begins the next segment; appends go there from now on.
    pub(super) fn roll(&mut self, now_ms: i64, disk: &mut dyn Disk) -> Result<(), AppendError> {
        let (is_recycled, incarnation) = self.take_spare().map_err(AppendError::Incarnation)?;
        let base_index = self.state.next_index();
        let generation = self.used_generations.get(&base_index).map_or(0, |used| used + 1);
        self.used_generations.insert(base_index, generation);
        let header = new_header(
            self.key,
            incarnation,
            base_index,
            self.state.next_offset(),
            (generation, self.truncations),
        );
        let id = self.next_segment_id;
        self.next_segment_id += 1;
        self.segments
            .push(Segment::to_create(id, header, is_recycled, now_ms));
        self.go_on_creating(id, disk);
        let payload = self.state.producers.encode(self.state.log_start());
        self.stage_internal(EntryKind::ProducerState, &payload);
        Ok(())
    }

    /// Whether a roll now would close a segment with batches, and nothing of it is under way.
    pub(super) fn may_roll(&self) -> bool {
        self.segments.last().is_some_and(|active| {
            // A segment that holds nothing but its opening entry is not replaced by another such.
            let holds_batches = active.tail.next_offset > active.base_offset();
            let settled =
                active.creation == Creation::Ready && active.write.is_none() && active.staged_bytes == 0;
            holds_batches && settled && self.term_durable && !self.closing
        })
    }

    pub(super) fn roll_by_age(&mut self, now_ms: i64, disk: &mut dyn Disk) {
        let Some(active) = self.segments.last() else {
            return;
        };
        let old = now_ms.saturating_sub(active.opened_ms) >= self.config.segment_ms;
        if old && self.may_roll() {
            // Without random bytes there is no new segment; the next tick tries again.
            let _ = self.roll(now_ms, disk);
        }
    }

    pub(super) fn creation_completed(
        &mut self,
        id: u64,
        result: io::Result<DiskOutput>,
        disk: &mut dyn Disk,
    ) {
        if self.status == LogStatus::Fenced {
            return;
        }
        let Some(segment) = self.segment_by_id(id) else {
            return;
        };
        if let Creation::Recycling(step) = segment.creation {
            return self.recycling_completed(id, step, result, disk);
        }
        let output = match result {
            Ok(output) => output,
            // Nothing of an entry was lost: the next tick goes on where this stopped. A sync that
            // fails is a failed sync, whatever its reason.
            Err(error) if is_full(&error) && segment.creation.takes_space() => {
                segment.met_full_disk();
                return;
            }
            Err(error) if is_out_of_descriptors(&error) => {
                segment.no_space = true;
                return;
            }
            Err(error) => return self.fence(error),
        };
        segment.creation = match (segment.creation, output) {
            (Creation::CreatingFile, DiskOutput::File(file)) => {
                segment.file = Some(file);
                Creation::WritingHeader { written: 0 }
            }
            (Creation::WritingHeader { .. }, DiskOutput::Written(0)) => {
                return self.fence(io::ErrorKind::WriteZero.into());
            }
            (Creation::WritingHeader { written }, DiskOutput::Written(count)) => {
                let written = written.saturating_add(u16::try_from(count).unwrap_or(u16::MAX));
                if usize::from(written) < SEGMENT_HEADER_LEN {
                    Creation::WritingHeader { written }
                } else {
                    Creation::SyncingFile
                }
            }
            (Creation::SyncingFile, DiskOutput::Done) => Creation::SyncingDirectory,
            (Creation::SyncingDirectory, DiskOutput::Done) => {
                segment.creation = Creation::Ready;
                segment.has_what_it_asked_for();
                // What was synced of it before counts from now on.
                return self.advance_durable();
            }
            _ => return self.fence(io::Error::other("creating a segment answered out of order")),
        };
        segment.has_what_it_asked_for();
        self.go_on_creating(id, disk);
    }

    /// Submits the next step of making a segment.
    pub(super) fn go_on_creating(&mut self, id: u64, disk: &mut dyn Disk) {
        let directory = self.directory.clone();
        let spare = self.spares.used_path(&directory);
        let Some(segment) = self.segment_by_id(id) else {
            return;
        };
        let op = match (segment.creation, segment.file.clone()) {
            (Creation::Ready, _) => return,
            (Creation::Recycling(step), _) => match Self::recycling_op(&directory, spare, segment, step) {
                Some(op) => op,
                None => return self.fence(io::Error::other("recycling a file lost it")),
            },
            (Creation::CreatingFile, _) => DiskOp::Create {
                path: directory.join(segment.header.file_name()),
            },
            (Creation::WritingHeader { written }, Some(file)) => DiskOp::Write {
                file,
                position: u64::from(written),
                data: Bytes::from(segment.header.encode()).slice(usize::from(written)..),
            },
            (Creation::SyncingFile, Some(file)) => DiskOp::Sync { file },
            (Creation::SyncingDirectory, Some(_)) => DiskOp::SyncDir { path: directory },
            (_, None) => return self.fence(io::Error::other("creating a segment answered no file")),
        };
        self.submit(disk, Purpose::Create(id), op);
    }
}
