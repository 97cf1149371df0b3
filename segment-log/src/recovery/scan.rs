//! Reads segment files for recovery and opening: a window over one file, and the search for
//! entries in 8-byte steps.
//!
//! Runs inside the future of an opening, on the thread that owns the partition. Invariants:
//! - every read begins on a multiple of 4,096 and is bounded by the length the file really has, so
//!   no length found in a file sizes an allocation beyond that;
//! - at an unclean open every byte comes from the device; pages it does not give back are zeros;
//! - the search skips only bytes that cannot be the start of an entry, or an entry that verified.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::io;

use crate::disk::{AlignedBytes, FileHandle, ReadSource};
use crate::end_mark::{END_MARK_MAGIC, is_end_mark};
use crate::entry::{
    ENTRY_ALIGN, ENTRY_HEADER_LEN, ENTRY_MAGIC, EntryError, EntryHeader, PLAIN_PREFIX_LEN, decode_entry,
};
use crate::ids::{FilePosition, Incarnation};
use crate::log::machine::Io;
use crate::log::segment::PAGE_BYTES;
use crate::recovery::unreadable::{READ_ALIGN, read_around};

/// Bytes of one read, at most where no entry is larger.
const WINDOW_BYTES: usize = 1 << 20;
/// Bytes of a window's first read; each next one is twice as large. Often one look is all.
const FIRST_READ_BYTES: u64 = 8 << 10;

/// What lies at a position where an entry should begin.
#[derive(Debug)]
pub(crate) enum Probe {
    /// Header, payload and padding verify. `batch` is the start of the payload (all of it for
    /// internal kinds).
    Entry { header: EntryHeader, payload: Vec<u8> },
    /// The header verifies, the payload or the padding does not.
    BadPayload(EntryHeader),
    /// A header whose checksum holds, of a version, kind or flags that are not known.
    Unsupported(EntryError),
    /// Nothing that verifies.
    Nothing,
}

/// A header that the search came upon; its checksum holds.
#[derive(Debug)]
pub(crate) enum Found {
    Header(EntryHeader),
    /// As [`Probe::Unsupported`]: how long the entry is is not known.
    Unsupported(EntryError),
}

impl Found {
    /// From where to search on, when it lies at `position`.
    pub(crate) fn end(&self, position: u64) -> u64 {
        match self {
            Found::Header(header) => position + header.entry_len() as u64,
            Found::Unsupported(_) => position + ENTRY_ALIGN as u64,
        }
    }
}

/// A moving window over one segment file.
pub(crate) struct Window<'a> {
    io: &'a Io,
    file: FileHandle,
    incarnation: Incarnation,
    source: ReadSource,
    file_len: u64,
    start: u64,
    bytes: AlignedBytes,
    ahead: u64,
    /// A search has ended at a mark behind which nothing was durable.
    met_end_mark: bool,
}

impl<'a> Window<'a> {
    pub(crate) fn new(
        io: &'a Io,
        file: FileHandle,
        incarnation: Incarnation,
        source: ReadSource,
        file_len: u64,
    ) -> Self {
        Self {
            io,
            file,
            incarnation,
            source,
            file_len,
            start: 0,
            bytes: AlignedBytes::zeroed(0),
            ahead: FIRST_READ_BYTES,
            met_end_mark: false,
        }
    }

    /// Whether a search has ended at an end mark: what lies behind it was not looked at.
    pub(crate) fn met_end_mark(&self) -> bool {
        self.met_end_mark
    }

    pub(crate) fn file_len(&self) -> u64 {
        self.file_len
    }

    /// Bytes up to `end` were written by the way: what is held may be old.
    pub(crate) fn was_written(&mut self, end: u64) {
        self.bytes = AlignedBytes::zeroed(0);
        self.file_len = self.file_len.max(end);
    }

    /// Drops what was read, so that it is read again from the file as it is now.
    pub(crate) async fn refresh(&mut self) -> io::Result<()> {
        self.bytes = AlignedBytes::zeroed(0);
        self.ahead = FIRST_READ_BYTES;
        self.file_len = self.io.len(&self.file).await?;
        Ok(())
    }

    /// Whether a write that was cut off left something from `position` on, where the log ends. Each write ends with
    /// zeros up to the end of its page; what lies behind that and does not verify may be of the file's former life.
    pub(crate) async fn is_torn_from(&mut self, position: u64) -> io::Result<bool> {
        let page_left = (position.next_multiple_of(PAGE_BYTES) - position) as usize;
        let rest = self.at(position, page_left).await?;
        Ok(rest.iter().any(|byte| *byte != 0) || self.search(position).await?.is_some())
    }

    /// What the bytes at `position` fail as an entry.
    pub(crate) async fn fault(&mut self, position: u64) -> io::Result<String> {
        let incarnation = self.incarnation;
        let head = self.at(position, ENTRY_HEADER_LEN + PLAIN_PREFIX_LEN).await?;
        if head.is_empty() {
            return Ok("end of file".to_owned());
        }
        let header = match EntryHeader::decode(head, &incarnation) {
            Ok(header) => header,
            Err(error) => return Ok(error.to_string()),
        };
        let whole = self.at(position, header.entry_len()).await?;
        let decoded = decode_entry(whole, &incarnation);
        Ok(decoded.err().map(|error| error.to_string()).unwrap_or_default())
    }

    /// Up to `len` bytes at `position`; fewer where the file ends.
    async fn at(&mut self, position: u64, len: usize) -> io::Result<&[u8]> {
        let end = position.saturating_add(len as u64).min(self.file_len);
        if position >= end {
            return Ok(&[]);
        }
        let held = self.start + self.bytes.len() as u64;
        if position < self.start || end > held {
            let start = position - position % READ_ALIGN;
            let wanted = (end - start).max(self.ahead).min(self.file_len - start);
            self.ahead = (self.ahead * 2).min(WINDOW_BYTES as u64);
            let wanted = usize::try_from(wanted.next_multiple_of(READ_ALIGN))
                .map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
            self.bytes = read_around(self.io, &self.file, start, wanted, self.source).await?;
            self.start = start;
        }
        let from = usize::try_from(position - self.start).unwrap_or(usize::MAX);
        let to = usize::try_from(end - self.start)
            .unwrap_or(usize::MAX)
            .min(self.bytes.len());
        Ok(self.bytes.get(from..to).unwrap_or_default())
    }

    /// Looks at `position` for an entry. `prefix_len` bounds the payload bytes handed back for
    /// batch kinds; `verify_payload` false trusts them (a clean open).
    pub(crate) async fn probe(
        &mut self,
        position: u64,
        prefix_len: usize,
        verify_payload: bool,
    ) -> io::Result<Probe> {
        let incarnation = self.incarnation;
        let head = self.at(position, ENTRY_HEADER_LEN + PLAIN_PREFIX_LEN).await?;
        let header = match EntryHeader::decode(head, &incarnation) {
            Ok(header) => header,
            Err(cause) if cause.is_unsupported() => return Ok(Probe::Unsupported(cause)),
            Err(_) => return Ok(Probe::Nothing),
        };
        let whole_len = header.entry_len();
        let kept = if header.kind.is_batch() {
            prefix_len.min(header.payload_len as usize)
        } else {
            header.payload_len as usize
        };
        if verify_payload || !header.kind.is_batch() {
            let whole = self.at(position, whole_len).await?;
            match decode_entry(whole, &incarnation) {
                Ok((header, payload)) => {
                    let payload = payload.get(..kept).unwrap_or_default().to_vec();
                    Ok(Probe::Entry { header, payload })
                }
                Err(_) => Ok(Probe::BadPayload(header)),
            }
        } else {
            let bytes = self.at(position, ENTRY_HEADER_LEN + kept).await?;
            let payload = bytes.get(ENTRY_HEADER_LEN..).unwrap_or_default().to_vec();
            if payload.len() < kept || position + whole_len as u64 > self.file_len {
                return Ok(Probe::BadPayload(header));
            }
            Ok(Probe::Entry { header, payload })
        }
    }

    /// The next position at or after `position` where a header's checksum holds, up to an end mark.
    pub(crate) async fn search(&mut self, position: u64) -> io::Result<Option<(u64, Found)>> {
        let mut at = position.next_multiple_of(ENTRY_ALIGN as u64);
        let incarnation = self.incarnation;
        while at < self.file_len {
            let held_end = self.start + self.bytes.len() as u64;
            let len = if at >= self.start && at + 256 < held_end {
                usize::try_from(held_end - at).unwrap_or(WINDOW_BYTES)
            } else {
                WINDOW_BYTES
            };
            let at_end = at + len as u64 >= self.file_len;
            let bytes = self.at(at, len).await?;
            if bytes.is_empty() {
                break;
            }
            let mut skipped = 0usize;
            let mut near_end = false;
            while let Some(rest) = bytes.get(skipped..).filter(|rest| rest.len() >= ENTRY_HEADER_LEN) {
                if !at_end && rest.len() < ENTRY_HEADER_LEN + PLAIN_PREFIX_LEN {
                    near_end = true;
                    break;
                }
                if rest.starts_with(&ENTRY_MAGIC) {
                    let found = at + skipped as u64;
                    match EntryHeader::decode(rest, &incarnation) {
                        Ok(header) => return Ok(Some((found, Found::Header(header)))),
                        Err(cause) if cause.is_unsupported() => {
                            return Ok(Some((found, Found::Unsupported(cause))));
                        }
                        Err(_) => {}
                    }
                }
                if rest.starts_with(&END_MARK_MAGIC)
                    && is_end_mark(rest, &incarnation, FilePosition(at + skipped as u64))
                {
                    self.met_end_mark = true;
                    return Ok(None);
                }
                skipped += ENTRY_ALIGN;
            }
            if at_end && !near_end {
                break;
            }
            at += skipped.max(ENTRY_ALIGN) as u64;
        }
        Ok(None)
    }
}
