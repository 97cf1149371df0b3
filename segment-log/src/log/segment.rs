//! One segment as its owner knows it: where it ends, what of it is written and what is durable.
//!
//! Owned by the partition's shard thread. Invariants:
//! - `synced.position <= written.position <= end`;
//! - bytes between `written.position` and `end` are exactly the staged pieces, in order;
//! - at most one write is outstanding, and while one is, nothing else is written;
//! - every entry below `written` is in the index's reach.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::io::IoSlice;

use bytes::{Bytes, BytesMut};

use crate::checkpoint::SegmentCheckpoint;
use crate::disk::{FileHandle, ReadSource};
use crate::entry::EntryHeader;
use crate::ids::{EntryIndex, FilePosition, Incarnation, LeaderEpoch, Offset};
use crate::limits::{EXTENT_BYTES_MIN, INDEX_EPOCHS_MAX, JOURNAL_RUN_BYTES_MAX};
use crate::log::hold::SegmentHolds;
use crate::log::machine::Io;
use crate::log::recycle::SpareStep;
use crate::recovery::scan::Window;
use crate::segment_header::{SEGMENT_HEADER_LEN, SegmentHeader};
use crate::segment_index::{EpochStart, IndexEntry, IndexFile, SegmentIndex};

/// Appends fill whole pages of this size.
pub(crate) const PAGE_BYTES: u64 = 4_096;
/// Zeros behind the last entry of a write.
pub(crate) static ZERO_PAGE: [u8; PAGE_BYTES as usize] = [0; PAGE_BYTES as usize];

/// A point in a segment, between two entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Where the entries before it end.
    pub(crate) position: u64,
    /// The last index before it.
    pub(crate) index: EntryIndex,
    /// The first offset behind it.
    pub(crate) next_offset: Offset,
    /// `header_crc` of the last entry before it; 0 at the segment's start.
    pub(crate) crc: u32,
}

/// Bytes that wait for the next write.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Small entries, headers and patched prefixes, copied.
    Copied(Vec<u8>),
    /// The rest of a large batch, as it was received.
    Shared(Bytes),
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Piece::Copied(bytes) => bytes,
            Piece::Shared(bytes) => bytes,
        }
    }
}

/// The one write in flight.
#[derive(Debug)]
pub(crate) struct OutstandingWrite {
    pub(crate) position: u64,
    pub(crate) data: Bytes,
    /// Where the segment's written end is once all of it is written.
    pub(crate) then: Mark,
    /// All of its entries, without what fills the page.
    pub(crate) entries: Bytes,
}

/// What is written and no commit was begun for.
#[derive(Debug)]
pub(crate) struct Pending {
    /// Where it begins in the segment.
    pub(crate) from: u64,
    pieces: Vec<Bytes>,
    bytes: usize,
    /// Some of it was not kept: only a sync of the segment commits it.
    overflowed: bool,
}

impl Pending {
    pub(crate) fn at(from: u64) -> Self {
        Self {
            from,
            pieces: Vec::new(),
            bytes: 0,
            overflowed: false,
        }
    }

    pub(crate) fn overflowed(&self) -> bool {
        self.overflowed
    }

    fn has_room(&self, bytes: usize) -> bool {
        !self.overflowed && self.bytes + bytes <= JOURNAL_RUN_BYTES_MAX
    }

    fn take_in(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.bytes += piece.len();
            self.pieces.push(piece);
        }
    }

    /// Takes what a submitted write has written.
    pub(crate) fn take_written(&mut self, keeps: bool, entries: Bytes) {
        if keeps && self.has_room(entries.len()) {
            self.take_in(entries);
        } else {
            self.overflow();
        }
    }

    fn overflow(&mut self) {
        self.overflowed = true;
        self.pieces = Vec::new();
        self.bytes = 0;
    }

    /// A commit takes all of it: the pieces, one behind the other.
    pub(crate) fn commit(&mut self, end: u64) -> Vec<Bytes> {
        let taken = std::mem::replace(self, Self::at(end));
        taken.pieces
    }
}

/// What the index file of a segment says, and where its next part goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Indexed {
    /// Where the last entry ends that it speaks of; 0 if there is no file.
    pub(crate) covered: u64,
    pub(crate) points: usize,
    pub(crate) epochs: usize,
    /// Bytes of its parts.
    pub(crate) file_len: u64,
}

/// What was known of a segment at a point.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IndexMark {
    pub(crate) end: Mark,
    pub(crate) points: usize,
    last_max_timestamp: i64,
    pub(crate) epochs: usize,
    max_timestamp: Option<(i64, Offset)>,
    has_gaps: bool,
}

/// How far a new segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Creation {
    /// Of a spare file.
    Recycling(SpareStep),
    CreatingFile,
    WritingHeader {
        written: u16,
    },
    SyncingFile,
    SyncingDirectory,
    Ready,
}

impl Creation {
    /// Whether entries may be written: the file and its header are there, though maybe not durable.
    pub(crate) fn is_writable(self) -> bool {
        matches!(
            self,
            Creation::SyncingFile | Creation::SyncingDirectory | Creation::Ready
        )
    }

    /// Whether the step under way may find the disk full without anything being lost.
    pub(crate) fn takes_space(self) -> bool {
        matches!(self, Creation::CreatingFile | Creation::WritingHeader { .. })
    }
}

/// One segment. See the module.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) id: u64,
    pub(crate) header: SegmentHeader,
    pub(crate) file: Option<FileHandle>,
    pub(crate) creation: Creation,
    pub(crate) index: SegmentIndex,
    pub(crate) tail: Mark,
    pub(crate) written: Mark,
    pub(crate) synced: Mark,
    pub(crate) staged: Vec<Piece>,
    pub(crate) staged_bytes: usize,
    pub(crate) pending: Pending,
    /// Something was staged since the last tick.
    pub(crate) was_staged: bool,
    pub(crate) write: Option<OutstandingWrite>,
    pub(crate) allocated: u64,
    pub(crate) extent: u64,
    pub(crate) allocating: Option<u64>,
    /// What it asked for could not be had; it is asked for again at each tick.
    pub(crate) no_space: bool,
    /// And that was space.
    pub(crate) is_disk_full: bool,
    pub(crate) opened_ms: i64,
    pub(crate) file_len: u64,
    /// Where the log goes on behind damage: offset and byte.
    pub(crate) resumes: Vec<(Offset, u64)>,
    /// Where damage begins, in order.
    pub(crate) damaged_from: Vec<u64>,
    /// Between two of its batches are offsets without records, so that the offset of an index point says
    /// nothing of the batch before it.
    pub(crate) has_gaps: bool,
    /// Readers may hold its file by a handle of an earlier opening in this process.
    pub(crate) readers_may_remain: bool,
    epochs: Vec<EpochStart>,
    max_timestamp: Option<(i64, Offset)>,
    /// What its index file speaks of.
    pub(crate) indexed: Indexed,
}

impl Segment {
    /// Where the first entry begins.
    pub(crate) const FIRST_ENTRY: u64 = SEGMENT_HEADER_LEN as u64;

    fn with_file(id: u64, header: SegmentHeader, file: Option<FileHandle>, now_ms: i64) -> Self {
        let start = Mark {
            position: Self::FIRST_ENTRY,
            index: EntryIndex(header.base_index.0.saturating_sub(1)),
            next_offset: header.base_offset,
            crc: 0,
        };
        Self {
            id,
            header,
            file,
            creation: Creation::Ready,
            index: SegmentIndex::new(),
            tail: start,
            written: start,
            synced: start,
            staged: Vec::new(),
            staged_bytes: 0,
            pending: Pending::at(start.position),
            was_staged: false,
            write: None,
            allocated: Self::FIRST_ENTRY,
            extent: EXTENT_BYTES_MIN,
            allocating: None,
            no_space: false,
            is_disk_full: false,
            opened_ms: now_ms,
            file_len: 0,
            resumes: Vec::new(),
            damaged_from: Vec::new(),
            has_gaps: false,
            readers_may_remain: false,
            epochs: Vec::new(),
            max_timestamp: None,
            indexed: Indexed::default(),
        }
    }

    /// A segment whose file is still to be created, or made of a spare.
    pub(crate) fn to_create(id: u64, header: SegmentHeader, is_recycled: bool, now_ms: i64) -> Self {
        let mut segment = Self::with_file(id, header, None, now_ms);
        segment.creation = match is_recycled {
            true => Creation::Recycling(SpareStep::Opening),
            false => Creation::CreatingFile,
        };
        segment
    }

    /// Whether nobody but the log needs its file as it is: all of it is durable, nothing of it is under way, no
    /// reader has a lease and nobody holds it. Whoever is to recycle, punch or truncate a file asks this; without it the file loses its
    /// name at most.
    pub(crate) fn is_free(&self, holds: &SegmentHolds) -> bool {
        let is_settled = self.creation == Creation::Ready
            && self.write.is_none()
            && self.allocating.is_none()
            && !self.readers_may_remain
            && !holds.is_held(&self.incarnation())
            && self.synced.position == self.tail.position;
        is_settled && self.file.as_ref().is_some_and(|file| !file.is_used())
    }

    /// A segment found at an open.
    pub(crate) fn found(
        id: u64,
        header: SegmentHeader,
        file: FileHandle,
        file_len: u64,
        now_ms: i64,
    ) -> Self {
        let mut segment = Self::with_file(id, header, Some(file), now_ms);
        segment.file_len = file_len;
        segment.allocated = file_len.max(Self::FIRST_ENTRY);
        segment
    }

    /// Space for it was asked for and there is none: the log asks again at each tick, for little.
    pub(crate) fn met_full_disk(&mut self) {
        self.asks_for_little();
        self.is_disk_full = true;
    }

    /// So much space as was asked for is not there; perhaps there is some.
    pub(crate) fn asks_for_little(&mut self) {
        self.no_space = true;
        self.extent = EXTENT_BYTES_MIN;
    }

    /// What it asked for was there.
    pub(crate) fn has_what_it_asked_for(&mut self) {
        self.no_space = false;
        self.is_disk_full = false;
    }

    /// Where the smallest extent ends that holds all that is staged.
    pub(crate) fn least_extent_end(&self) -> u64 {
        (self.allocated + EXTENT_BYTES_MIN)
            .max(self.page_end())
            .next_multiple_of(PAGE_BYTES)
    }

    pub(crate) fn name(&self) -> String {
        self.header.file_name()
    }

    pub(crate) fn incarnation(&self) -> Incarnation {
        self.header.incarnation
    }

    pub(crate) fn base_index(&self) -> EntryIndex {
        self.header.base_index
    }

    pub(crate) fn base_offset(&self) -> Offset {
        self.header.base_offset
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tail.position == Self::FIRST_ENTRY
    }

    /// The highest timestamp of its batches in ms, and the base offset of the first that has it.
    pub(crate) fn max_timestamp(&self) -> Option<(i64, Offset)> {
        self.max_timestamp
    }

    /// The highest term of its entries.
    pub(crate) fn last_term(&self) -> LeaderEpoch {
        self.epochs.last().map_or(LeaderEpoch(0), |last| last.epoch)
    }

    /// Whether a sync has something to cover and may be submitted now.
    pub(crate) fn is_dirty(&self) -> bool {
        self.creation == Creation::Ready && self.synced.position < self.written.position
    }

    /// A reading window over a found segment's file.
    pub(crate) fn window<'a>(&self, io: &'a Io, source: ReadSource) -> Option<Window<'a>> {
        let file = self.file.clone()?;
        Some(Window::new(io, file, self.incarnation(), source, self.file_len))
    }

    /// Takes the entry into the index and moves the tail behind it.
    pub(crate) fn push(&mut self, header: &EntryHeader) {
        let position = self.tail.position;
        if header.kind.has_index() {
            self.index.observe(IndexEntry {
                index: header.index,
                base_offset: header.base_offset,
                position: FilePosition(position),
                max_timestamp: header.max_timestamp,
            });
        } else {
            self.index.observe_timestamp(header.max_timestamp);
        }
        if self.epochs.last().is_none_or(|last| last.epoch < header.term) {
            self.epochs.push(EpochStart {
                epoch: header.term,
                offset: header.base_offset,
            });
        }
        let newer = |(highest, _)| header.max_timestamp > highest;
        if header.is_plain_data() && self.max_timestamp.is_none_or(newer) {
            self.max_timestamp = Some((header.max_timestamp, header.base_offset));
        }
        self.has_gaps |= header.base_offset > self.tail.next_offset;
        self.tail = Mark {
            position: position + header.entry_len() as u64,
            index: header.index,
            next_offset: header.next_offset(),
            crc: header.header_crc,
        };
    }

    /// As [`Segment::push`], for an entry that was read from the device.
    pub(crate) fn accept_recovered(&mut self, header: &EntryHeader, position: u64) {
        self.tail.position = position;
        self.push(header);
        self.written = self.tail;
        self.synced = self.tail;
    }

    /// Goes around damage: the next entry begins at `position`, behind an entry with `crc`.
    pub(crate) fn skip_recovered(&mut self, position: u64, index: EntryIndex, next_offset: Offset, crc: u32) {
        self.tail = Mark {
            position,
            index,
            next_offset,
            crc,
        };
        self.resumes.push((next_offset, position));
        self.written = self.tail;
        self.synced = self.tail;
    }

    /// Whether its index file speaks of all of it.
    pub(crate) fn is_indexed(&self) -> bool {
        self.indexed.covered == self.tail.position
    }

    /// What an index file may say of it up to its end, once that is durable. A segment with damage has none: the
    /// damage is to be found again at each open.
    pub(crate) fn index_mark(&self) -> Option<IndexMark> {
        let has_one = !self.is_empty()
            && !self.is_indexed()
            && self.damaged_from.is_empty()
            && self.epochs.len() <= INDEX_EPOCHS_MAX;
        let points = self.index.points();
        has_one.then(|| IndexMark {
            end: self.tail,
            points: points.len(),
            last_max_timestamp: points.last().map_or(-1, |last| last.max_timestamp),
            epochs: self.epochs.len(),
            max_timestamp: self.max_timestamp,
            has_gaps: self.has_gaps,
        })
    }

    /// What its index file does not say yet, up to a mark that is durable.
    pub(crate) fn index_part(&self, mark: &IndexMark) -> Option<IndexFile> {
        let is_durable = self.creation == Creation::Ready && self.synced.position >= mark.end.position;
        is_durable.then(|| IndexFile {
            incarnation: self.incarnation(),
            covered: FilePosition(mark.end.position),
            last_index: mark.end.index,
            next_offset: mark.end.next_offset,
            crc_chain_end: mark.end.crc,
            max_timestamp: mark.max_timestamp,
            epochs: self
                .epochs
                .get(self.indexed.epochs..mark.epochs)
                .unwrap_or_default()
                .to_vec(),
            has_gaps: mark.has_gaps,
            // The last point again: its timestamp may have risen.
            index: self.index.part(
                self.indexed.points.saturating_sub(1),
                mark.points,
                mark.last_max_timestamp,
            ),
        })
    }

    /// Takes all that its index file says for read; the checkpoint says the same of its end.
    pub(crate) fn adopt(&mut self, file: IndexFile, file_len: usize) {
        self.tail = Mark {
            position: file.covered.0,
            index: file.last_index,
            next_offset: file.next_offset,
            crc: file.crc_chain_end,
        };
        self.written = self.tail;
        self.synced = self.tail;
        self.index = file.index;
        self.epochs = file.epochs;
        self.has_gaps = file.has_gaps;
        self.max_timestamp = file.max_timestamp;
        self.indexed = Indexed {
            covered: file.covered.0,
            points: self.index.points().len(),
            epochs: self.epochs.len(),
            file_len: file_len as u64,
        };
    }

    /// Stages the bytes of one entry: its parts and the padding.
    pub(crate) fn stage(&mut self, parts: [&[u8]; 2], rest: StagedRest<'_>, padding: usize) {
        let mut len = parts.iter().map(|part| part.len()).sum::<usize>() + padding;
        if !matches!(self.staged.last(), Some(Piece::Copied(_))) {
            self.staged.push(Piece::Copied(Vec::new()));
        }
        if let Some(Piece::Copied(buffer)) = self.staged.last_mut() {
            parts.iter().for_each(|part| buffer.extend_from_slice(part));
            if let StagedRest::Copy(bytes) = &rest {
                buffer.extend_from_slice(bytes);
            }
        }
        match rest {
            StagedRest::Copy(bytes) => len += bytes.len(),
            StagedRest::Share(bytes) => {
                len += bytes.len();
                self.staged.push(Piece::Shared(bytes));
                self.staged.push(Piece::Copied(Vec::new()));
            }
        }
        if let Some(Piece::Copied(buffer)) = self.staged.last_mut() {
            buffer.resize(buffer.len() + padding, 0);
        }
        self.staged_bytes += len;
        self.was_staged = true;
    }

    /// At a tick: lets the staging buffer go that nobody needed since the last one.
    pub(crate) fn rest(&mut self) {
        if !std::mem::replace(&mut self.was_staged, false) && self.staged_bytes == 0 {
            self.staged = Vec::new();
        }
    }

    /// Whether [`Segment::rest`] has a buffer to let go.
    pub(crate) fn holds_staging(&self) -> bool {
        self.staged.capacity() > 0
    }

    /// The staged bytes and zeros to the end of the page, for a gathering write.
    pub(crate) fn staged_slices(&self) -> Vec<IoSlice<'_>> {
        let mut slices: Vec<_> = self
            .staged
            .iter()
            .map(Piece::bytes)
            .filter(|bytes| !bytes.is_empty())
            .map(IoSlice::new)
            .collect();
        let zeros = self.zeros_to_page_end();
        if !zeros.is_empty() {
            slices.push(IoSlice::new(zeros));
        }
        slices
    }

    /// The same bytes in one piece, for a submitted write.
    pub(crate) fn staged_in_one(&self) -> Bytes {
        let zeros = self.zeros_to_page_end();
        let mut all = BytesMut::with_capacity(self.staged_bytes + zeros.len());
        self.staged
            .iter()
            .for_each(|piece| all.extend_from_slice(piece.bytes()));
        all.extend_from_slice(zeros);
        all.freeze()
    }

    /// The staged bytes are written: they wait for a commit now. `keeps`: it may go through a journal.
    pub(crate) fn staged_is_written(&mut self, keeps: bool) {
        if keeps && self.pending.has_room(self.staged_bytes) {
            for piece in std::mem::take(&mut self.staged) {
                self.pending.take_in(match piece {
                    Piece::Copied(bytes) => Bytes::from(bytes),
                    Piece::Shared(bytes) => bytes,
                });
            }
            self.staged_bytes = 0;
        } else {
            self.pending.overflow();
            self.clear_staged();
        }
    }

    fn zeros_to_page_end(&self) -> &'static [u8] {
        let len = self.page_end() - self.tail.position;
        ZERO_PAGE.get(..len as usize).unwrap_or_default()
    }

    /// The end of the page that holds the last byte of the tail.
    pub(crate) fn page_end(&self) -> u64 {
        self.tail.position.next_multiple_of(PAGE_BYTES)
    }

    pub(crate) fn clear_staged(&mut self) {
        // One buffer of small entries is kept: a busy partition stages as much each turn.
        match self.staged.as_mut_slice() {
            [Piece::Copied(buffer)] if buffer.capacity() <= crate::limits::STAGING_KEPT_BYTES_MAX => {
                buffer.clear()
            }
            _ => self.staged.clear(),
        }
        self.staged_bytes = 0;
    }

    /// What a checkpoint says of it.
    pub(crate) fn checkpoint(&self) -> SegmentCheckpoint {
        SegmentCheckpoint {
            incarnation: self.incarnation(),
            base_index: self.base_index(),
            generation: self.header.generation,
            length: FilePosition(self.synced.position),
            crc_chain_end: self.synced.crc,
            durable_index: self.synced.index,
        }
    }
}

/// The part of a payload behind the patched prefix.
pub(crate) enum StagedRest<'a> {
    /// Small: copied with its neighbours.
    Copy(&'a [u8]),
    /// Large: written from where it was received.
    Share(Bytes),
}
