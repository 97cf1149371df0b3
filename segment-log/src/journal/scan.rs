//! Reads one journal file: every frame that verifies, in the order of the file.
//!
//! Runs inside a polled future on whichever thread owns the disk; it only reads, and only from the device.
//! Invariants:
//! - behind a frame that does not verify the search goes on in 8-byte steps;
//! - no length found in a file sizes a read beyond what the file holds.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::io;
use std::sync::Arc;

use super::format::{
    FRAME_ALIGN, FRAME_HEADER_LEN, FRAME_MAGIC, FrameError, FrameHeader, JOURNAL_PAGE_BYTES, JournalPage,
    JournalPageError, frame_len,
};
use crate::disk::{AlignedBytes, DiskOp, FileHandle, ReadSource};
use crate::entry::{EntryHeader, decode_entry};
use crate::ids::{EntryIndex, Incarnation, LeaderEpoch, PartitionKey};
use crate::log::machine::Io;
use crate::recovery::unreadable::{READ_ALIGN, read_around};

/// Bytes of one read where no frame is larger.
const WINDOW_BYTES: usize = 1 << 20;

/// The files of a journal that is being written, for a partition that is opened again beside it. While one of
/// these lives, none of the files is used again.
#[derive(Clone, Debug)]
pub struct LiveJournal {
    pub(super) files: Vec<FileHandle>,
    pub(super) _pin: Arc<()>,
}

/// What the entries of an append say together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: EntryIndex,
    pub(super) last: EntryIndex,
    pub(super) term_max: LeaderEpoch,
    /// The highest index that one of them says was durable, and the term of the one that says so.
    pub(super) claim: (EntryIndex, LeaderEpoch),
}

/// A frame that verifies.
#[derive(Clone, Debug)]
pub(super) struct Scanned {
    pub(super) at: u64,
    pub(super) len: usize,
    pub(super) header: FrameHeader,
    pub(super) run: Run,
}

/// Why a file was not read to its end.
#[derive(Debug)]
pub(super) enum ScanError {
    Io(io::Error),
    /// Nothing of the file counts.
    Page(JournalPageError),
    /// Another version of this program wrote it.
    Frame(u64, FrameError),
}

impl From<io::Error> for ScanError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A moving window over one file.
struct Reader<'a> {
    io: &'a Io,
    file: &'a FileHandle,
    file_len: u64,
    start: u64,
    bytes: AlignedBytes,
}

impl Reader<'_> {
    /// All that is held from `position` on, at least `len` bytes of it unless the file ends before.
    async fn at(&mut self, position: u64, len: usize) -> io::Result<&[u8]> {
        let end = position.saturating_add(len as u64).min(self.file_len);
        let held = self.start + self.bytes.len() as u64;
        if position < self.start || end > held {
            let start = position - position % READ_ALIGN;
            let wanted = (end.saturating_sub(start))
                .max(WINDOW_BYTES as u64)
                .min(self.file_len.saturating_sub(start));
            let wanted = usize::try_from(wanted.next_multiple_of(READ_ALIGN))
                .map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
            self.bytes = read_around(self.io, self.file, start, wanted, ReadSource::Device).await?;
            self.start = start;
        }
        let from = usize::try_from(position - self.start).unwrap_or(usize::MAX);
        Ok(self.bytes.get(from..).unwrap_or_default())
    }
}

/// Brings a file to the device and drops what is cached of it: what a killed process left may not be there.
pub(super) async fn settle(io: &Io, file: &FileHandle) -> io::Result<()> {
    io.sync(file).await?;
    io.done(DiskOp::DropCache { file: file.clone() }).await
}

/// Reads a whole file, and hands out each frame in its order. With `only`, frames of other partitions are passed over.
///
/// # Errors
/// What was handed out before verified.
pub(super) async fn scan(
    io: &Io,
    file: &FileHandle,
    only: Option<&PartitionKey>,
    mut take_in: impl FnMut(Scanned),
) -> Result<(), ScanError> {
    let file_len = io.len(file).await?;
    let mut reader = Reader {
        io,
        file,
        file_len,
        start: 0,
        bytes: AlignedBytes::zeroed(0),
    };
    let page = JournalPage::decode(reader.at(0, JOURNAL_PAGE_BYTES).await?).map_err(ScanError::Page)?;
    let mut position = JOURNAL_PAGE_BYTES as u64;
    while position + FRAME_HEADER_LEN as u64 <= file_len {
        let bytes = reader.at(position, FRAME_HEADER_LEN).await?;
        let mut skipped = skip_to_magic(bytes);
        let rest = bytes.get(skipped..).unwrap_or_default();
        let mut next = skipped;
        match frame_len(rest, &page.file_id) {
            // The window's end: it begins anew there, or the file ends.
            Err(_) if rest.len() < FRAME_HEADER_LEN => next = next.max(FRAME_ALIGN.min(bytes.len())),
            Err(_) => next += FRAME_ALIGN,
            Ok(len) => {
                let at = position + skipped as u64;
                let whole = reader.at(at, len).await?;
                match FrameHeader::decode(whole, &page.file_id) {
                    Ok((header, record)) => {
                        if only.is_none_or(|only| header.key() == *only)
                            && let Some(run) = run_of(&header, record)
                        {
                            take_in(Scanned { at, len, header, run });
                        }
                        skipped += len;
                    }
                    Err(error) if error.is_unsupported() => return Err(ScanError::Frame(at, error)),
                    Err(_) => skipped += FRAME_ALIGN,
                }
                next = skipped;
            }
        }
        position += next as u64;
    }
    Ok(())
}

/// How many bytes are passed over before something looks like a frame, or fewer are left than a frame has.
fn skip_to_magic(bytes: &[u8]) -> usize {
    let looks = bytes.chunks_exact(FRAME_ALIGN);
    let at = looks.clone().position(|chunk| chunk.starts_with(&FRAME_MAGIC));
    at.unwrap_or(looks.len()) * FRAME_ALIGN
}

/// What a frame holds, or nothing if its checksum holds and its entries are not what a log writes.
fn run_of(header: &FrameHeader, record: &[u8]) -> Option<Run> {
    let incarnation = header.segment.incarnation;
    let mut run: Option<Run> = None;
    for entry in entries(record, incarnation) {
        let (entry, _) = entry?;
        let run = run.get_or_insert(Run {
            first: entry.index,
            last: entry.index,
            term_max: entry.term,
            claim: (EntryIndex(0), entry.term),
        });
        run.last = entry.index;
        run.term_max = run.term_max.max(entry.term);
        if let Some(durable) = entry.durable_index()
            && durable >= run.claim.0
        {
            run.claim = (durable, entry.term);
        }
    }
    run
}

/// The entries of a record, each with its place there; `None` at one that does not verify.
pub(super) fn entries(
    record: &[u8],
    incarnation: Incarnation,
) -> impl Iterator<Item = Option<(EntryHeader, std::ops::Range<usize>)>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = record.get(at..).filter(|rest| !rest.is_empty())?;
        let Ok((header, _)) = decode_entry(rest, &incarnation) else {
            at = record.len();
            return Some(None);
        };
        let range = at..at + header.entry_len();
        at = range.end;
        Some(Some((header, range)))
    })
}
