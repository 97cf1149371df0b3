//! What an open need not read: segments that the checkpoint calls durable and whose index files agree
//! with it, and the producers' states.
//!
//! Runs inside the future of an opening, on the thread that owns the partition; it only reads.
//! Invariants:
//! - an index file is never evidence: it counts only where the checkpoint says that the segment, by
//!   incarnation, is durable up to that very byte, entry and checksum, or further, and the next entry follows;
//! - a checkpoint that does not know a segment at or below its recovery point spares nothing: what it
//!   says of the indices there may be dead;
//! - a file that is missing, unreadable, bad or of another life costs a walk through its segment, and
//!   changes nothing else.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::io;
use std::path::Path;

use crate::checkpoint::PartitionCheckpoint;
use crate::disk::ReadSource;
use crate::entry::EntryKind;
use crate::ids::EntryIndex;
use crate::limits::INDEX_FILE_BYTES_MAX;
use crate::log::machine::Io;
use crate::log::segment::Segment;
use crate::producer_state::ProducerStates;
use crate::recovery::RecoveryBug;
use crate::recovery::scan::Probe;
use crate::sealed::SEALED_HEADER_LEN;
use crate::segment_index::IndexFile;

/// What an index file says, and how many of its bytes.
pub(crate) struct KnownIndex {
    pub(crate) file: IndexFile,
    pub(crate) file_len: usize,
}

/// What is known without reading entries.
#[derive(Default)]
pub(crate) struct Known {
    /// For each segment found: what its index file says of its durable entries.
    pub(crate) indexes: Vec<Option<KnownIndex>>,
    /// The producers as of the checkpoint's recovery point.
    pub(crate) producers: Option<ProducerStates>,
}

/// Reads the index files of `segments` (sorted, one for each base index) that the checkpoint vouches for.
pub(crate) async fn look_up(
    io: &Io,
    directory: &Path,
    checkpoint: Option<&PartitionCheckpoint>,
    segments: &[Segment],
    source: ReadSource,
    bug: RecoveryBug,
) -> io::Result<Known> {
    let mut known = Known::default();
    known.indexes.resize_with(segments.len(), || None);
    if bug == RecoveryBug::TrustIndex {
        for (segment, slot) in segments.iter().zip(&mut known.indexes) {
            *slot = read_index(io, directory, segment, EntryIndex(u64::MAX)).await;
        }
        return Ok(known);
    }
    let Some(checkpoint) = checkpoint.filter(|checkpoint| speaks_of_all(checkpoint, segments)) else {
        return Ok(known);
    };
    for (at, (segment, slot)) in segments.iter().zip(&mut known.indexes).enumerate() {
        let Some(named) = checkpoint.segment(&segment.incarnation()) else {
            continue;
        };
        let limit = named.durable_index.min(checkpoint.recovery_point);
        let Some(index) = read_index(io, directory, segment, limit).await else {
            continue;
        };
        let file = &index.file;
        if file.covered < named.length {
            // It speaks of the part of the segment before the recovery point.
            if goes_on_behind(io, segment, file, source).await? {
                *slot = Some(index);
            }
            continue;
        }
        let agrees = file.covered == named.length
            && file.crc_chain_end == named.crc_chain_end
            && file.last_index == named.durable_index
            && file.last_index >= segment.base_index()
            && file.covered.0 <= segment.file_len;
        // The offset behind the last entry is what goes on there.
        let offset_agrees = match segments.get(at + 1) {
            Some(next) if next.base_index().0 == file.last_index.0 + 1 => {
                next.base_offset() == file.next_offset
            }
            _ => file.last_index == checkpoint.durable_index && file.next_offset == checkpoint.next_offset,
        };
        if agrees && offset_agrees {
            *slot = Some(index);
        }
    }
    known.producers = ProducerStates::decode(&checkpoint.producer_state)
        .ok()
        .map(|(producers, _)| producers);
    if known.producers.is_none() {
        let from = newest_producer_state(io, checkpoint, segments, source).await?;
        known.indexes.iter_mut().skip(from).for_each(|slot| *slot = None);
    }
    Ok(known)
}

/// Whether it knows each segment at or below its recovery point.
fn speaks_of_all(checkpoint: &PartitionCheckpoint, segments: &[Segment]) -> bool {
    segments
        .iter()
        .filter(|segment| segment.base_index() <= checkpoint.recovery_point)
        .all(|segment| checkpoint.segment(&segment.incarnation()).is_some())
}

/// Whether the next entry lies where the file ends, and follows what it says last.
async fn goes_on_behind(
    io: &Io,
    segment: &Segment,
    file: &IndexFile,
    source: ReadSource,
) -> io::Result<bool> {
    if file.last_index < segment.base_index() || file.covered.0 >= segment.file_len {
        return Ok(false);
    }
    let Some(mut window) = segment.window(io, source) else {
        return Ok(false);
    };
    Ok(match window.probe(file.covered.0, 0, false).await? {
        Probe::Entry { header, .. } | Probe::BadPayload(header) => {
            header.prev_crc == file.crc_chain_end
                && header.index.0 == file.last_index.0 + u64::from(header.kind.has_index())
                && header.base_offset >= file.next_offset
        }
        _ => false,
    })
}

async fn read_index(io: &Io, directory: &Path, segment: &Segment, up_to: EntryIndex) -> Option<KnownIndex> {
    let path = directory.join(segment.header.index_file_name());
    let file = io.open(&path).await.ok()?;
    let len = usize::try_from(io.len(&file).await.ok()?).ok()?;
    if len > INDEX_FILE_BYTES_MAX + SEALED_HEADER_LEN {
        return None;
    }
    // Its own checksum says whether it is whole, wherever its bytes come from.
    let bytes = io.read(&file, 0, len, ReadSource::Cached).await.ok()?;
    let (file, file_len) = IndexFile::decode_up_to(&bytes, &segment.incarnation(), up_to).ok()?;
    Some(KnownIndex { file, file_len })
}

/// The last durable segment that begins with the producers' states: from there on they are read.
async fn newest_producer_state(
    io: &Io,
    checkpoint: &PartitionCheckpoint,
    segments: &[Segment],
    source: ReadSource,
) -> io::Result<usize> {
    for (at, segment) in segments.iter().enumerate().rev() {
        if segment.base_index() > checkpoint.recovery_point {
            continue;
        }
        let Some(mut window) = segment.window(io, source) else {
            continue;
        };
        if let Probe::Entry { header, .. } = window.probe(Segment::FIRST_ENTRY, 0, true).await?
            && header.kind == EntryKind::ProducerState
        {
            return Ok(at);
        }
    }
    Ok(0)
}
