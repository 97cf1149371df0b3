//! The bytes of a journal file: a first page, and frames behind it.
//!
//! Pure functions. Invariants:
//! - a frame verifies only in the life of the file it was written in: it carries the file's random id, so
//!   frames of an earlier life of a file that is used again never count;
//! - checksum first, then version and kind, then the values; zeros never decode, and no input panics;
//! - a frame begins and ends on a multiple of 8, and says by itself which bytes of which segment it holds.
//!
//! First page, 4,096 bytes, little endian:
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 8 | magic `TLOGJNL0` |
//! | 8 | 4 | crc: crc32fast of bytes 12..4096 |
//! | 12 | 4 | version: 0 |
//! | 16 | 16 | file id, random, new for each life of the file |
//! | 32 | 4 | shard that wrote it |
//! | 36 | 4 | zero |
//! | 40 | 8 | start counter of the data directory |
//! | 48 | 8 | sequence: the file's number among those of its shard and start, from 1 on |
//! | 56 | 4040 | zero |
//!
//! Frame:
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 4 | magic `TLJ0` |
//! | 4 | 4 | crc: crc32fast of bytes 8..length |
//! | 8 | 4 | length, a multiple of 8 |
//! | 12 | 1 | version: 0 |
//! | 13 | 1 | kind of record: 1, whole entries, one behind the other as in the segment |
//! | 14 | 2 | zero |
//! | 16 | 16 | file id |
//! | 32 | 8 | frame number, from 1 on, over all files of the shard's start |
//! | 40 | 8 | highest frame number that was durable when this one was written |
//! | 48 | 16 | topic id |
//! | 64 | 4 | partition |
//! | 68 | 4 | segment: generation |
//! | 72 | 16 | segment: incarnation id |
//! | 88 | 8 | segment: base offset |
//! | 96 | 8 | segment: base index |
//! | 104 | 8 | segment: feature word |
//! | 112 | 4 | segment: format version |
//! | 116 | 4 | segment: key reference; 0 none |
//! | 120 | 8 | position of the entries in the segment |
//! | 128 | 4 | segment: truncations |
//! | 132 | 4 | zero |
//! | 136 | | record |

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::fmt;
use std::io;

use thiserror::Error;

use crate::ids::{EntryIndex, FilePosition, Incarnation, Offset, PartitionKey, TopicId};
use crate::limits::JOURNAL_FRAME_BYTES_MAX;
use crate::sealed::{put, take};
use crate::segment_header::{SEGMENT_FORMAT_VERSION, SegmentHeader, SegmentHeaderError};

/// Bytes before the first frame; each commit begins on a multiple of it.
pub const JOURNAL_PAGE_BYTES: usize = 4096;
/// First eight bytes of a journal file.
pub const JOURNAL_MAGIC: [u8; 8] = *b"TLOGJNL0";
/// The version of files and frames that this program writes.
pub const JOURNAL_VERSION: u8 = 0;
/// First four bytes of a frame.
pub const FRAME_MAGIC: [u8; 4] = *b"TLJ0";
/// Bytes of a frame before its record.
pub const FRAME_HEADER_LEN: usize = 136;
/// Frames begin on multiples of this.
pub const FRAME_ALIGN: usize = 8;

const PAGE_CRC_AT: usize = 8;
const PAGE_COVERED_FROM: usize = 12;
const PAGE_RESERVED_FROM: usize = 56;
const FRAME_CRC_AT: usize = 4;
const FRAME_COVERED_FROM: usize = 8;
/// The kind of a frame's record: entries. No other is written.
const RECORD_ENTRIES: u8 = 1;

/// The random name of one life of a journal file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub [u8; 16]);

impl FileId {
    /// A fresh one from the operating system's random source.
    ///
    /// # Errors
    /// Only if that source fails; the caller then makes no file.
    pub fn random() -> io::Result<Self> {
        Incarnation::random().map(|incarnation| Self(incarnation.0))
    }
}

/// A frame's number in its journal, from 1 on; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameNumber(pub u64);

impl fmt::Display for FrameNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the first page of a journal file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalPage {
    /// The name of this life of the file.
    pub file_id: FileId,
    /// The shard that wrote it.
    pub shard: u32,
    /// The start of the data directory that it was written in.
    pub start_counter: u64,
    /// Its number among the files of its shard and start.
    pub sequence: u64,
}

/// Why a first page was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum JournalPageError {
    /// The file is shorter than its first page.
    #[error("truncated: {0} bytes")]
    Truncated(usize),
    /// Never finished, trimmed, or not a journal.
    #[error("wrong magic")]
    Magic,
    /// The page is torn or damaged.
    #[error("checksum is {actual:#010x}, stored {stored:#010x}")]
    Crc {
        /// As stored.
        stored: u32,
        /// Of the bytes.
        actual: u32,
    },
    /// Written by another version of this program; nothing is wrong with the bytes.
    #[error("journal version {0} is not known")]
    Version(u32),
    /// Bytes that must be zero are not.
    #[error("reserved bytes are not zero")]
    Reserved,
}

impl JournalPageError {
    /// Whether another version of this program may well understand the file.
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Self::Version(_) | Self::Reserved)
    }
}

impl JournalPage {
    /// The page's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; JOURNAL_PAGE_BYTES];
        put(&mut bytes, 0, &JOURNAL_MAGIC);
        put(&mut bytes, 12, &u32::from(JOURNAL_VERSION).to_le_bytes());
        put(&mut bytes, 16, &self.file_id.0);
        put(&mut bytes, 32, &self.shard.to_le_bytes());
        put(&mut bytes, 40, &self.start_counter.to_le_bytes());
        put(&mut bytes, 48, &self.sequence.to_le_bytes());
        let crc = crc32fast::hash(bytes.get(PAGE_COVERED_FROM..).unwrap_or_default());
        put(&mut bytes, PAGE_CRC_AT, &crc.to_le_bytes());
        bytes
    }

    /// The page at the start of a file.
    ///
    /// # Errors
    /// See the variants.
    pub fn decode(bytes: &[u8]) -> Result<Self, JournalPageError> {
        let page = bytes
            .first_chunk::<JOURNAL_PAGE_BYTES>()
            .ok_or(JournalPageError::Truncated(bytes.len()))?;
        if take::<8>(page, 0) != JOURNAL_MAGIC {
            return Err(JournalPageError::Magic);
        }
        let stored = u32::from_le_bytes(take(page, PAGE_CRC_AT));
        let actual = crc32fast::hash(page.get(PAGE_COVERED_FROM..).unwrap_or_default());
        if stored != actual {
            return Err(JournalPageError::Crc { stored, actual });
        }
        let version = u32::from_le_bytes(take(page, 12));
        if version != u32::from(JOURNAL_VERSION) {
            return Err(JournalPageError::Version(version));
        }
        let rest = page.get(PAGE_RESERVED_FROM..).unwrap_or_default();
        if take::<4>(page, 36) != [0; 4] || rest.iter().any(|byte| *byte != 0) {
            return Err(JournalPageError::Reserved);
        }
        Ok(Self {
            file_id: FileId(take(page, 16)),
            shard: u32::from_le_bytes(take(page, 32)),
            start_counter: u64::from_le_bytes(take(page, 40)),
            sequence: u64::from_le_bytes(take(page, 48)),
        })
    }
}

/// Why no frame counts at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// No frame of this life of the file begins here (also said of zeros).
    #[error("no frame here")]
    Nothing,
    /// The bytes given end before the frame does.
    #[error("truncated: {available} bytes, {needed} needed")]
    Truncated {
        /// Bytes needed.
        needed: usize,
        /// Bytes given.
        available: usize,
    },
    /// The length cannot be.
    #[error("length {0} is not allowed")]
    Length(u32),
    /// Torn or damaged.
    #[error("checksum is {actual:#010x}, stored {stored:#010x}")]
    Crc {
        /// As stored.
        stored: u32,
        /// Of the bytes.
        actual: u32,
    },
    /// Written by another version of this program; nothing is wrong with the bytes.
    #[error("frame version {0} is not known")]
    Version(u8),
    /// Written by another version of this program; nothing is wrong with the bytes.
    #[error("record kind {0} is not known")]
    Kind(u8),
    /// A later version may give these bytes a meaning.
    #[error("reserved bytes are not zero")]
    Reserved,
    /// The segment it names was written by another version of this program.
    #[error("its segment: {0}")]
    Segment(SegmentHeaderError),
    /// The checksum holds and the record says what cannot be: written by a faulty program.
    #[error("the record is not valid")]
    Record,
}

impl FrameError {
    /// Whether the checksum held and another version of this program may well understand the frame.
    pub fn is_unsupported(&self) -> bool {
        match self {
            Self::Version(_) | Self::Kind(_) | Self::Reserved => true,
            Self::Segment(error) => !error.is_damage() && *error != SegmentHeaderError::Range,
            _ => false,
        }
    }
}

/// What stands before a frame's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// The life of the file that it is part of.
    pub file_id: FileId,
    /// Its number.
    pub number: FrameNumber,
    /// All frames up to this one were durable when it was written.
    pub durable: FrameNumber,
    /// The segment that its entries lie in. Never a compaction output.
    pub segment: SegmentHeader,
    /// Where they begin in it.
    pub position: FilePosition,
}

impl FrameHeader {
    /// The partition it is about.
    pub fn key(&self) -> PartitionKey {
        self.segment.partition_key()
    }

    /// The 136 bytes before `record`, which comes in pieces.
    ///
    /// # Panics
    /// If the record's length is no multiple of 8, or the frame would not decode again: our own code made it.
    pub fn encode<'a>(&self, record: impl Iterator<Item = &'a [u8]> + Clone) -> [u8; FRAME_HEADER_LEN] {
        let record_len: usize = record.clone().map(<[u8]>::len).sum();
        let length = FRAME_HEADER_LEN + record_len;
        assert!(
            record_len.is_multiple_of(FRAME_ALIGN) && length as u64 <= JOURNAL_FRAME_BYTES_MAX,
            "a record of {record_len} bytes is not framed"
        );
        let mut bytes = [0; FRAME_HEADER_LEN];
        put(&mut bytes, 0, &FRAME_MAGIC);
        put(&mut bytes, 8, &(length as u32).to_le_bytes());
        put(&mut bytes, 12, &[JOURNAL_VERSION, RECORD_ENTRIES]);
        put(&mut bytes, 16, &self.file_id.0);
        put(&mut bytes, 32, &self.number.0.to_le_bytes());
        put(&mut bytes, 40, &self.durable.0.to_le_bytes());
        let segment = &self.segment;
        assert!(
            segment.replaced.is_none() && segment.check_values().is_ok(),
            "a segment that a frame can name"
        );
        put(&mut bytes, 48, &segment.topic.0);
        put(&mut bytes, 64, &segment.partition.to_le_bytes());
        put(&mut bytes, 68, &segment.generation.to_le_bytes());
        put(&mut bytes, 72, &segment.incarnation.0);
        put(&mut bytes, 88, &segment.base_offset.0.to_le_bytes());
        put(&mut bytes, 96, &segment.base_index.0.to_le_bytes());
        put(&mut bytes, 104, &segment.features.to_le_bytes());
        put(&mut bytes, 112, &segment.format_version.to_le_bytes());
        put(&mut bytes, 116, &segment.key_reference.unwrap_or(0).to_le_bytes());
        put(&mut bytes, 120, &self.position.0.to_le_bytes());
        put(&mut bytes, 128, &segment.truncations.to_le_bytes());
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(bytes.get(FRAME_COVERED_FROM..).unwrap_or_default());
        record.for_each(|piece| hasher.update(piece));
        put(&mut bytes, FRAME_CRC_AT, &hasher.finalize().to_le_bytes());
        bytes
    }

    /// The frame at the start of `bytes`, and its record.
    ///
    /// # Errors
    /// See the variants.
    pub fn decode<'a>(bytes: &'a [u8], file_id: &FileId) -> Result<(Self, &'a [u8]), FrameError> {
        let length = frame_len(bytes, file_id)?;
        let frame = bytes.get(..length).ok_or(FrameError::Truncated {
            needed: length,
            available: bytes.len(),
        })?;
        let stored = u32::from_le_bytes(take(frame, FRAME_CRC_AT));
        let actual = crc32fast::hash(frame.get(FRAME_COVERED_FROM..).unwrap_or_default());
        if stored != actual {
            return Err(FrameError::Crc { stored, actual });
        }
        let [version, kind] = take::<2>(frame, 12);
        if version != JOURNAL_VERSION {
            return Err(FrameError::Version(version));
        }
        if kind != RECORD_ENTRIES {
            return Err(FrameError::Kind(kind));
        }
        if take::<2>(frame, 14) != [0; 2] || take::<4>(frame, 132) != [0; 4] {
            return Err(FrameError::Reserved);
        }
        let header = Self {
            file_id: *file_id,
            number: FrameNumber(u64::from_le_bytes(take(frame, 32))),
            durable: FrameNumber(u64::from_le_bytes(take(frame, 40))),
            segment: segment_of(frame)?,
            position: FilePosition(u64::from_le_bytes(take(frame, 120))),
        };
        if header.number.0 == 0 || header.durable >= header.number {
            return Err(FrameError::Record);
        }
        Ok((header, frame.get(FRAME_HEADER_LEN..).unwrap_or_default()))
    }
}

fn segment_of(frame: &[u8]) -> Result<SegmentHeader, FrameError> {
    let format_version = u32::from_le_bytes(take(frame, 112));
    if format_version != SEGMENT_FORMAT_VERSION {
        return Err(FrameError::Segment(SegmentHeaderError::Version(format_version)));
    }
    let key_reference = u32::from_le_bytes(take(frame, 116));
    let segment = SegmentHeader {
        format_version,
        features: u64::from_le_bytes(take(frame, 104)),
        incarnation: Incarnation(take(frame, 72)),
        topic: TopicId(take(frame, 48)),
        partition: i32::from_le_bytes(take(frame, 64)),
        generation: u32::from_le_bytes(take(frame, 68)),
        base_offset: Offset(i64::from_le_bytes(take(frame, 88))),
        base_index: EntryIndex(u64::from_le_bytes(take(frame, 96))),
        replaced: None,
        key_reference: (key_reference != 0).then_some(key_reference),
        truncations: u32::from_le_bytes(take(frame, 128)),
    };
    segment.check_values().map_err(FrameError::Segment)?;
    Ok(segment)
}

/// The length that the frame at the start of `bytes` says it has; nothing of it is verified.
///
/// # Errors
/// No frame of this life of the file begins here, or its length cannot be.
pub fn frame_len(bytes: &[u8], file_id: &FileId) -> Result<usize, FrameError> {
    let Some(head) = bytes.first_chunk::<FRAME_HEADER_LEN>() else {
        return Err(FrameError::Nothing);
    };
    if take::<4>(head, 0) != FRAME_MAGIC || take::<16>(head, 16) != file_id.0 {
        return Err(FrameError::Nothing);
    }
    let length = u32::from_le_bytes(take(head, 8));
    let allowed = (length as usize).is_multiple_of(FRAME_ALIGN)
        && length as usize >= FRAME_HEADER_LEN
        && u64::from(length) <= JOURNAL_FRAME_BYTES_MAX;
    if allowed {
        Ok(length as usize)
    } else {
        Err(FrameError::Length(length))
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;

    const ID: FileId = FileId([7; 16]);

    fn header() -> FrameHeader {
        FrameHeader {
            file_id: ID,
            number: FrameNumber(12),
            durable: FrameNumber(10),
            segment: SegmentHeader {
                format_version: SEGMENT_FORMAT_VERSION,
                features: 0,
                incarnation: Incarnation([5; 16]),
                topic: TopicId([9; 16]),
                partition: 3,
                generation: 2,
                base_offset: Offset(17),
                base_index: EntryIndex(4),
                replaced: None,
                key_reference: None,
                truncations: 6,
            },
            position: FilePosition(8192),
        }
    }

    fn frame(header: &FrameHeader, record: &[u8]) -> Vec<u8> {
        let mut bytes = header.encode([record].into_iter()).to_vec();
        bytes.extend_from_slice(record);
        bytes
    }

    #[test]
    fn a_frame_comes_back() {
        let bytes = frame(&header(), &[1; 24]);
        assert_eq!(
            FrameHeader::decode(&bytes, &ID),
            Ok((header(), [1; 24].as_slice()))
        );
    }

    #[test]
    fn each_flipped_bit_of_a_frame_is_found() {
        let bytes = frame(&header(), &[0x5a; 40]);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(FrameHeader::decode(&bad, &ID).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn each_flipped_bit_of_a_first_page_is_found() {
        let page = JournalPage {
            file_id: ID,
            shard: 3,
            start_counter: 8,
            sequence: 4,
        };
        let bytes = page.encode();
        assert_eq!(JournalPage::decode(&bytes), Ok(page));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(JournalPage::decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_frame_of_another_life_of_the_file_is_nothing() {
        let bytes = frame(&header(), &[1; 8]);
        assert_eq!(
            FrameHeader::decode(&bytes, &FileId([8; 16])),
            Err(FrameError::Nothing)
        );
        assert_eq!(FrameHeader::decode(&[0; 256], &ID), Err(FrameError::Nothing));
        assert_eq!(
            FrameHeader::decode(&[0; 256], &FileId([0; 16])),
            Err(FrameError::Nothing)
        );
    }

    #[test]
    fn what_another_version_wrote_is_not_damage() {
        for (at, value) in [(12, 1), (13, 4), (14, 1), (112, 1), (104, 1), (132, 1)] {
            let mut bytes = frame(&header(), &[1; 8]);
            bytes[at] = value;
            let crc = crc32fast::hash(&bytes[FRAME_COVERED_FROM..]);
            put(&mut bytes, FRAME_CRC_AT, &crc.to_le_bytes());
            let error = FrameHeader::decode(&bytes, &ID).expect_err("not known");
            assert!(error.is_unsupported(), "byte {at}: {error}");
        }
    }
}
