//! Recovery: what an unclean open does to tell a torn tail from damage, and to end up with a log
//! that holds everything that was durable and nothing that was not read from the device.
//!
//! Runs inside the future of an opening, on the thread that owns the partition. The walk is in
//! [`walk`], reading in [`scan`]; this file holds what surrounds them: syncing and dropping caches
//! before, setting files aside and zeroing after.
//!
//! Invariants:
//! - nothing is decided from the page cache at an unclean open;
//! - no file is deleted: what does not belong to the log is renamed into [`SET_ASIDE_DIRECTORY`];
//! - when it returns, every accepted byte and every rename is durable.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

mod examine;
pub(crate) mod known;
mod repair;
pub(crate) mod replay;
pub(crate) mod scan;
pub(crate) mod truncations;
pub(crate) mod unreadable;
pub(crate) mod walk;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::Path;

use crate::checkpoint::PartitionCheckpoint;
use crate::disk::{DiskOp, FileHandle, ReadSource};
use crate::ids::{EntryIndex, LeaderEpoch, Offset, PartitionKey};
use crate::journal::JournalEvidence;
use crate::log::machine::Io;
use crate::log::segment::{PAGE_BYTES, Segment};
use crate::log::{RemovalBug, SegmentHolds, SpareBudget, WriteBug, is_spare_name};
use crate::segment_header::{
    SEGMENT_HEADER_LEN, SegmentHeader, SegmentHeaderError, index_file_name, parse_segment_file_name,
    segment_file_name, segment_of_index,
};
use scan::{Found, Window};
use truncations::Truncations;
use unreadable::read_around;

pub use examine::{
    ExamineError, ExamineSpec, Examined, ExaminedDamage, ExaminedSegment, IN_JOURNAL, OtherFile, examine,
};
pub use repair::{Repair, RepairError, RepairStep, repair};
pub use unreadable::Unreadable;
pub use walk::Visit;

/// Where segments go that do not belong to the log, inside the partition's directory.
pub const SET_ASIDE_DIRECTORY: &str = "set-aside";

/// Damage that was gone around: it was durable, and its bytes do not verify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// File name of the segment.
    pub segment: String,
    /// Its bytes there.
    pub position: Range<u64>,
    /// The indices lost.
    pub indices: Range<EntryIndex>,
    /// The offsets lost.
    pub offsets: Range<Offset>,
}

/// What an open found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// The files were as the last clean shutdown left them; nothing else was done.
    pub clean: bool,
    /// The open was called clean, and the files were not what the checkpoint says.
    pub clean_flag_was_stale: bool,
    /// Where the log was cut or just ends: segment file name and byte.
    pub end: Option<(String, u64)>,
    /// Entries that verify, and lay behind that end.
    pub torn_entries_seen: bool,
    /// File names moved to the set-aside directory.
    pub set_aside: Vec<String>,
    /// Damage that was gone around.
    pub quarantined: Vec<Quarantined>,
    /// Entries that only a journal held.
    pub from_journal: u64,
    /// Bytes that the device does not give back; they were treated like bytes that do not verify.
    pub unreadable: Vec<Unreadable>,
    /// Where the log was cut by a truncation.
    pub truncated: Option<Offset>,
    /// The leader epoch from now on, if it was raised.
    pub raised_term: Option<LeaderEpoch>,
}

/// A fault planted in recovery, to show that the tests would find it.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecoveryBug {
    /// None.
    #[default]
    None,
    /// Payloads are not checked.
    TrustPayload,
    /// The page cache is believed.
    ReadFromCache,
    /// Terms are not raised.
    KeepTerm,
    /// An index file says where its segment ends, whatever the segment holds.
    TrustIndex,
    /// What truncations have made dead is alive.
    IgnoreTruncations,
    /// A truncation removes segments before the one that goes on is durable.
    RemoveBeforeCut,
    /// An entry does not follow one that ends more than one offset before it.
    RefuseGaps,
}

/// What an open may be told beyond its [`crate::log::OpenSpec`].
#[derive(Clone, Debug, Default)]
pub struct RecoveryOptions {
    /// The highest term that any checkpoint found names for the partition.
    pub term_floor: LeaderEpoch,
    /// The checkpoint given was not written during the last start: it proves durability, but says
    /// nothing of terms.
    pub checkpoint_is_old: bool,
    /// The tail goes on in a new file (after a fence).
    pub continue_in_new_file: bool,
    /// This process had the log open before, so readers may hold files of it by other handles: none of those found is
    /// recycled.
    pub readers_may_remain: bool,
    /// What journals hold of the partition.
    pub journal: JournalEvidence,
    /// The log lies in memory and is gone with the process: it writes no index files, and reserves no more than it
    /// needs soon.
    pub is_volatile: bool,
    /// What files of removed segments may take that are kept to be recycled; `None`: none is kept.
    pub spares: Option<SpareBudget>,
    /// Segments whose files somebody needs: the same for each opening of the log in this process.
    pub holds: SegmentHolds,
    /// Incarnation ids from a seed, for simulations.
    #[doc(hidden)]
    pub incarnation_seed: Option<u64>,
    /// Parts of index files after so many bytes, for simulations whose segments are small.
    #[doc(hidden)]
    pub index_part_bytes: Option<u64>,
    /// See [`RecoveryBug`].
    #[doc(hidden)]
    pub bug: RecoveryBug,
    /// See [`RemovalBug`].
    #[doc(hidden)]
    pub removal_bug: RemovalBug,
    /// See [`WriteBug`].
    #[doc(hidden)]
    pub write_bug: WriteBug,
}

/// Segment files of a directory whose headers were read.
pub(crate) struct FoundFiles {
    /// One for each base index, sorted.
    pub(crate) segments: Vec<Segment>,
    /// Superseded generations and files without a header that verifies.
    pub(crate) others: Vec<String>,
    /// The highest generation of each base index, whatever became of the file.
    pub(crate) generations: BTreeMap<EntryIndex, u32>,
    /// Index files of segments that are not there: a power cut came between the removals of the two.
    pub(crate) orphaned_indexes: Vec<String>,
    /// Files that wait to be recycled.
    pub(crate) spares: Vec<String>,
    pub(crate) term_max: LeaderEpoch,
    /// What the headers say of truncations.
    pub(crate) truncations: Truncations,
}

impl FoundFiles {
    /// Takes the segments out that a truncation has made dead; their names are those of other files then.
    fn take_dead(&mut self) -> Vec<Segment> {
        let cuts = &self.truncations;
        let is_dead = |segment: &mut Segment| cuts.kills(segment.header.truncations, segment.base_index());
        let dead: Vec<Segment> = self.segments.extract_if(.., is_dead).collect();
        self.others.extend(dead.iter().map(Segment::name));
        dead
    }
}

/// Why the files of a partition cannot be looked at.
pub(crate) enum FindError {
    Io(io::Error),
    Unsupported { name: String, cause: SegmentHeaderError },
}

impl From<io::Error> for FindError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

async fn read_header(
    io: &Io,
    file: &FileHandle,
    source: ReadSource,
) -> io::Result<Result<SegmentHeader, SegmentHeaderError>> {
    let bytes = read_around(io, file, 0, SEGMENT_HEADER_LEN, source).await?;
    Ok(SegmentHeader::decode(&bytes))
}

/// Opens all segment files; at an unclean open it first brings them to the device and drops what
/// is cached.
pub(crate) async fn find_files(
    io: &Io,
    directory: &Path,
    key: PartitionKey,
    source: ReadSource,
    settle: bool,
    bug: RecoveryBug,
) -> Result<FoundFiles, FindError> {
    let names = io.names_if_present(directory).await?;
    let orphaned_indexes = orphaned_indexes(&names);
    let spares = names.iter().filter(|name| is_spare_name(name)).cloned().collect();
    let found = find_named(io, directory, names, key, source, settle, bug).await?;
    Ok(FoundFiles {
        orphaned_indexes,
        spares,
        ..found
    })
}

/// As [`find_files`], of these names alone.
pub(crate) async fn find_named(
    io: &Io,
    directory: &Path,
    names: Vec<String>,
    key: PartitionKey,
    source: ReadSource,
    settle: bool,
    bug: RecoveryBug,
) -> Result<FoundFiles, FindError> {
    let mut found = FoundFiles {
        segments: Vec::new(),
        others: Vec::new(),
        generations: BTreeMap::new(),
        orphaned_indexes: Vec::new(),
        spares: Vec::new(),
        term_max: LeaderEpoch(0),
        truncations: Truncations::default(),
    };
    for name in names {
        let Some((base_index, generation)) = parse_segment_file_name(&name) else {
            continue;
        };
        note_generation(&mut found.generations, base_index, generation);
        let file = io.open(&directory.join(&name)).await?;
        if settle {
            io.sync(&file).await?;
            io.done(DiskOp::DropCache { file: file.clone() }).await?;
        }
        let header = match read_header(io, &file, source).await? {
            Ok(header) => header,
            Err(cause) if cause.is_damage() => {
                found.others.push(name);
                continue;
            }
            Err(cause) => return Err(FindError::Unsupported { name, cause }),
        };
        if header.partition_key() != key || header.file_name() != name {
            found.others.push(name);
            continue;
        }
        let file_len = io.len(&file).await?;
        let id = found.segments.len() as u64;
        if bug != RecoveryBug::IgnoreTruncations {
            found.truncations.note(&header);
        }
        found.segments.push(Segment::found(id, header, file, file_len, 0));
    }
    found
        .segments
        .sort_by_key(|segment| (segment.base_index(), segment.header.generation));
    let mut kept: Vec<Segment> = Vec::new();
    for segment in std::mem::take(&mut found.segments) {
        if kept
            .last()
            .is_some_and(|last| last.base_index() == segment.base_index())
            && let Some(superseded) = kept.pop()
        {
            found.others.push(superseded.name());
            if settle {
                found.term_max = found.term_max.max(highest_term(io, &superseded, source).await?);
            }
        }
        kept.push(segment);
    }
    found.segments = kept;
    for dead in found.take_dead() {
        if settle {
            found.term_max = found.term_max.max(highest_term(io, &dead, source).await?);
        }
    }
    look_at_set_aside(io, directory, &mut found, settle).await?;
    Ok(found)
}

/// The index files in a sorted listing that have no segment.
fn orphaned_indexes(names: &[String]) -> Vec<String> {
    let is_there = |segment: &String| names.binary_search(segment).is_ok();
    let is_orphan = |name: &&String| {
        segment_of_index(name)
            .is_some_and(|segment| parse_segment_file_name(&segment).is_some() && !is_there(&segment))
    };
    names.iter().filter(is_orphan).cloned().collect()
}

fn note_generation(generations: &mut BTreeMap<EntryIndex, u32>, base_index: EntryIndex, generation: u32) {
    let highest = generations.entry(base_index).or_insert(generation);
    *highest = (*highest).max(generation);
}

async fn highest_term(io: &Io, segment: &Segment, source: ReadSource) -> io::Result<LeaderEpoch> {
    let Some(mut window) = segment.window(io, source) else {
        return Ok(LeaderEpoch(0));
    };
    highest_term_in(&mut window).await
}

async fn highest_term_in(window: &mut Window<'_>) -> io::Result<LeaderEpoch> {
    let mut highest = LeaderEpoch(0);
    let mut from = Segment::FIRST_ENTRY;
    while let Some((at, found)) = window.search(from).await? {
        if let Found::Header(header) = &found {
            highest = highest.max(header.term);
        }
        from = found.end(at);
    }
    Ok(highest)
}

/// The generations, and at an unclean open the terms, of what earlier recoveries set aside. A name
/// that was used is never used again: setting its second bearer aside would overwrite the first.
async fn look_at_set_aside(
    io: &Io,
    directory: &Path,
    found: &mut FoundFiles,
    with_terms: bool,
) -> io::Result<()> {
    let directory = directory.join(SET_ASIDE_DIRECTORY);
    for name in io.names_if_present(&directory).await? {
        let Some((base_index, generation)) = parse_segment_file_name(&name) else {
            continue;
        };
        note_generation(&mut found.generations, base_index, generation);
        if !with_terms {
            continue;
        }
        let file = io.open(&directory.join(&name)).await?;
        let Ok(header) = read_header(io, &file, ReadSource::Device).await? else {
            continue;
        };
        let file_len = io.len(&file).await?;
        let mut window = Window::new(io, file, header.incarnation, ReadSource::Device, file_len);
        found.term_max = found.term_max.max(highest_term_in(&mut window).await?);
    }
    Ok(())
}

/// Renames files into the set-aside directory, durably.
pub(crate) async fn set_aside(io: &Io, directory: &Path, names: &[String]) -> io::Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let target = directory.join(SET_ASIDE_DIRECTORY);
    io.create_dir(&target).await?;
    for name in names {
        io.rename(&directory.join(name), &target.join(name)).await?;
        if let Some((base_index, generation)) = parse_segment_file_name(name) {
            // Derived, and of no more use; one that stays does no harm.
            let index = directory.join(index_file_name(base_index, generation));
            let _ = io.unlink_if_present(&index).await;
        }
    }
    io.sync_dir(&target).await?;
    io.sync_dir(directory).await
}

/// Offsets and indices before the first segment that the checkpoint says are still served, and no entry
/// says were deleted: they are lost, and still part of the log.
pub(crate) fn lost_front(checkpoint: &PartitionCheckpoint, walked: &mut walk::Walked) {
    let (Some(named), Some(first)) = (checkpoint.segments.first(), walked.segments.first()) else {
        return;
    };
    let log_start = walked.state.declared_log_start();
    if named.base_index < first.base_index() && log_start < first.base_offset() {
        let lost = Quarantined {
            segment: segment_file_name(named.base_index, named.generation),
            position: 0..0,
            indices: named.base_index..first.base_index(),
            offsets: log_start..first.base_offset(),
        };
        walked.state.restore_log_start(lost.offsets.start);
        walked.quarantined.insert(0, lost);
    }
}

/// No segment is there, and the checkpoint says that there was something.
pub(crate) fn lost_whole(checkpoint: &PartitionCheckpoint, walked: &mut walk::Walked) -> bool {
    let is_lost = walked.segments.is_empty() && checkpoint.durable_index.0 > 0;
    if is_lost {
        let named = checkpoint.segments.first();
        walked
            .state
            .skip(checkpoint.durable_index, checkpoint.next_offset);
        walked.quarantined.push(Quarantined {
            segment: named.map_or_else(String::new, |named| {
                segment_file_name(named.base_index, named.generation)
            }),
            position: 0..0,
            indices: named.map_or(EntryIndex(1), |named| named.base_index)
                ..EntryIndex(checkpoint.durable_index.0 + 1),
            offsets: checkpoint.log_start..checkpoint.next_offset,
        });
    }
    is_lost
}

/// How far is zeroed behind a cut: to the end of its page, or of the whole next page where it lies on
/// a boundary.
pub(crate) fn zeroed_end(cut: u64) -> u64 {
    (cut / PAGE_BYTES + 1) * PAGE_BYTES
}

/// Zeroes behind the end of the log, so that no torn bytes touch what is appended next.
pub(crate) async fn zero_behind(io: &Io, segment: &Segment) -> io::Result<()> {
    let Some(file) = segment.file.clone() else {
        return Ok(());
    };
    let end = segment.tail.position;
    let to = zeroed_end(end).min(segment.file_len);
    if end < to {
        io.done(DiskOp::ZeroRange {
            file: file.clone(),
            range: end..to,
        })
        .await?;
    }
    Ok(())
}

/// Whether the walk of a clean open found exactly what the checkpoint says.
pub(crate) fn matches_checkpoint(
    walked: &walk::Walked,
    others: &[String],
    checkpoint: &PartitionCheckpoint,
) -> bool {
    let same_segments = walked.segments.len() == checkpoint.segments.len()
        && walked
            .segments
            .iter()
            .zip(&checkpoint.segments)
            .all(|(segment, named)| {
                segment.incarnation() == named.incarnation
                    && segment.tail.position == named.length.0
                    && segment.tail.crc == named.crc_chain_end
            });
    same_segments
        && others.is_empty()
        && walked.set_aside.is_empty()
        && !walked.successor_seen
        && walked.quarantined.is_empty()
        && walked.state.last_index() == checkpoint.durable_index
        && walked.state.next_offset() == checkpoint.next_offset
        && walked.term_max <= checkpoint.term
}
