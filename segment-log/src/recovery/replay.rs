//! Takes back from a journal what the segments of a partition do not hold.
//!
//! Runs inside the future of an opening, on the thread that owns the partition. Invariants:
//! - a file is made again only where all of its entries are in the journal: its name was never durable;
//! - an entry is written only where the walk stands and found none that verifies, or to a file of its own behind
//!   everything else;
//! - an entry keeps its index, term, offset and payload; only what ties it to a file is made anew.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::truncations::Truncations;
use super::{FoundFiles, note_generation, read_header};
use crate::disk::{FileHandle, ReadSource};
use crate::entry::{ENTRY_HEADER_LEN, EntryHeader};
use crate::ids::{EntryIndex, Incarnation};
use crate::journal::{EntryLookUp, JournalEntry, PartitionFrames};
use crate::log::machine::Io;
use crate::log::segment::Segment;
use crate::log::state::LogState;
use crate::segment_header::SegmentHeader;

/// What a journal holds of the partition that is opened, and how it is asked.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    frames: Option<Arc<PartitionFrames>>,
    truncations: Truncations,
    look_up: EntryLookUp,
    /// Entries taken from it.
    pub(crate) taken: u64,
}

impl Replay {
    /// `truncations`: as the segments found say it, and those that the frames name.
    pub(crate) fn new(frames: Option<Arc<PartitionFrames>>, truncations: Truncations) -> Self {
        Self {
            frames,
            truncations,
            look_up: EntryLookUp::default(),
            taken: 0,
        }
    }

    /// The entry that may follow what the state says.
    pub(crate) async fn next(&mut self, io: &Io, state: &LogState) -> io::Result<Option<JournalEntry>> {
        self.at(io, state, state.next_index()).await
    }

    /// As [`Replay::next`], behind a gap.
    pub(crate) async fn at(
        &mut self,
        io: &Io,
        state: &LogState,
        index: EntryIndex,
    ) -> io::Result<Option<JournalEntry>> {
        let Some(frames) = &self.frames else {
            return Ok(None);
        };
        let (term, offset) = (state.last_term(), state.next_offset());
        let may_follow = |header: &EntryHeader| header.term >= term && header.base_offset >= offset;
        let cuts = &self.truncations;
        self.look_up.entry(io, frames, cuts, index, may_follow).await
    }

    /// The highest index that entries in the journal say was durable, as far as they are not dead.
    pub(crate) fn proven(&self, state: &LogState) -> EntryIndex {
        let frames = self.frames.as_ref();
        frames.map_or(EntryIndex(0), |frames| {
            frames.proven(state.last_term(), &self.truncations)
        })
    }

    /// The lowest index above one that the journal holds.
    pub(crate) fn first_above(&self, index: EntryIndex) -> Option<EntryIndex> {
        self.frames.as_ref()?.first_above(index, &self.truncations)
    }
}

/// The bytes of an entry in a segment of this incarnation behind an entry with this checksum.
pub(crate) fn encode_anew(
    entry: &JournalEntry,
    incarnation: &Incarnation,
    prev_crc: u32,
) -> (EntryHeader, Bytes) {
    let payload = entry.bytes.get(ENTRY_HEADER_LEN..).unwrap_or_default();
    let mut header = entry.header;
    header.prev_crc = prev_crc;
    let mut bytes = header.encode(incarnation, payload).to_vec();
    bytes.extend_from_slice(payload);
    (header, Bytes::from(bytes))
}

/// Makes the segments again that are lost with their names.
pub(crate) async fn make_lost_segments(
    io: &Io,
    directory: &Path,
    found: &mut FoundFiles,
    frames: &PartitionFrames,
    source: ReadSource,
) -> io::Result<()> {
    // The first file of a partition is durable before anything is written to it, so what lies before the first
    // one found was deleted.
    let front = found.segments.first().map_or(EntryIndex(0), Segment::base_index);
    let mut made = false;
    let mut lost: Vec<SegmentHeader> = frames.whole_segments().copied().collect();
    lost.sort_by_key(|segment| (segment.base_index, segment.generation));
    for header in lost {
        let is_there = found
            .segments
            .iter()
            .any(|segment| segment.incarnation() == header.incarnation);
        let is_dead = found.truncations.kills(header.truncations, header.base_index);
        if is_there || is_dead || header.base_index < front {
            continue;
        }
        let name = header.file_name();
        let file = match found.generations.get(&header.base_index) {
            // Superseded, or set aside by an earlier recovery.
            Some(used) if *used > header.generation => continue,
            Some(used) if *used == header.generation => {
                match reopen_headless(io, directory, found, &name, source).await? {
                    Some(file) => file,
                    None => continue,
                }
            }
            _ => io.create(&directory.join(&name)).await?,
        };
        io.write_all(&file, 0, Bytes::from(header.encode())).await?;
        io.sync(&file).await?;
        made = true;
        note_generation(&mut found.generations, header.base_index, header.generation);
        let file_len = io.len(&file).await?;
        supersede(found, &header);
        let id = found
            .segments
            .iter()
            .map(|segment| segment.id + 1)
            .max()
            .unwrap_or(0);
        found.truncations.note(&header);
        found.segments.push(Segment::found(id, header, file, file_len, 0));
    }
    if made {
        io.sync_dir(directory).await?;
        found.segments.sort_by_key(Segment::base_index);
        // Its frames are all of it: their terms are known.
        found.take_dead();
    }
    Ok(())
}

/// A file that is there under its name without a header that verifies; it is no stranger then.
async fn reopen_headless(
    io: &Io,
    directory: &Path,
    found: &mut FoundFiles,
    name: &str,
    source: ReadSource,
) -> io::Result<Option<FileHandle>> {
    let Some(at) = found.others.iter().position(|other| other == name) else {
        return Ok(None);
    };
    let file = io.open(&directory.join(name)).await?;
    if read_header(io, &file, source).await?.is_ok() {
        return Ok(None);
    }
    found.others.remove(at);
    Ok(Some(file))
}

/// An older generation at the same base index gives way.
fn supersede(found: &mut FoundFiles, header: &SegmentHeader) {
    let older = |segment: &Segment| segment.base_index() == header.base_index;
    while let Some(at) = found.segments.iter().position(older) {
        let superseded = found.segments.remove(at);
        found.others.push(superseded.name());
    }
}
