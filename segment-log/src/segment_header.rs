//! The first 8 KiB of a segment file, and the file's name.
//!
//! Written once, before the first entry, and never changed. The same 512 bytes lie at 0
//! and at 4,096, each with its own checksum, so one bad 4 KiB sector does not take both;
//! everything else is zero. Entries begin at 8,192. 4,096 is a constant of the format,
//! not the kernel's page size.
//!
//! One copy, little endian:
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 8 | magic `TLOGSEG0` |
//! | 8 | 4 | crc: crc32fast of bytes 12..512 |
//! | 12 | 4 | format_version: 0 |
//! | 16 | 8 | feature word; an unknown bit means the segment cannot be read |
//! | 24 | 16 | incarnation id, random |
//! | 40 | 16 | topic id |
//! | 56 | 4 | partition |
//! | 60 | 4 | generation |
//! | 64 | 8 | base_offset |
//! | 72 | 8 | base_index |
//! | 80 | 8 | first index replaced; 0 unless a compaction output |
//! | 88 | 8 | last index replaced; 0 unless a compaction output |
//! | 96 | 4 | key reference; 0 none |
//! | 100 | 4 | truncations |
//! | 104 | 408 | zero |

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use thiserror::Error;

use crate::ids::{EntryIndex, Incarnation, Offset, PartitionKey, TopicId};
use crate::limits::ENTRY_INDEX_MAX;
use crate::sealed::{put, take};

/// Bytes before the first entry of a segment.
pub const SEGMENT_HEADER_LEN: usize = 8192;
/// Bytes of one copy of the header.
pub const HEADER_COPY_LEN: usize = 512;
/// Where the second copy lies.
pub const SECOND_COPY_AT: usize = 4096;
/// First eight bytes of a segment file.
pub const SEGMENT_MAGIC: [u8; 8] = *b"TLOGSEG0";
/// The version this program writes.
pub const SEGMENT_FORMAT_VERSION: u32 = 0;
/// Feature bits this program knows.
pub const FEATURES_KNOWN: u64 = 0;

const CRC_AT: usize = 8;
const COVERED_FROM: usize = 12;
const RESERVED_FROM: usize = 104;
const FILE_NAME_SUFFIX: &str = ".log";
const INDEX_NAME_SUFFIX: &str = ".index";

/// Why a segment's header was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SegmentHeaderError {
    /// The file ends inside the header: it was never finished.
    #[error("truncated: {available} bytes, {needed} needed")]
    Truncated {
        /// Bytes needed.
        needed: usize,
        /// Bytes given.
        available: usize,
    },
    /// Neither copy begins with the magic: not a segment, or never written.
    #[error("not a segment: wrong magic")]
    Magic,
    /// No copy's checksum holds.
    #[error("header checksum is {actual:#010x}, stored {stored:#010x}")]
    Crc {
        /// The checksum in the copy.
        stored: u32,
        /// The checksum of its bytes.
        actual: u32,
    },
    /// Both copies verify and differ: never written by this program.
    #[error("the two copies of the header differ")]
    CopiesDiffer,
    /// Written by another version of this program; nothing is wrong with the bytes.
    #[error("segment format version {0} is not known")]
    Version(u32),
    /// Needs features this program does not have; nothing is wrong with the bytes.
    #[error("unknown features {0:#x}")]
    Features(u64),
    /// Bytes that must be zero are not.
    #[error("reserved bytes are not zero")]
    Reserved,
    /// A field is outside its range: written by a faulty program.
    #[error("a field is outside its range")]
    Range,
}

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// [`SEGMENT_FORMAT_VERSION`] when written.
    pub format_version: u32,
    /// Features a reader must know.
    pub features: u64,
    /// The random name of this file's life.
    pub incarnation: Incarnation,
    /// The topic its partition belongs to.
    pub topic: TopicId,
    /// The partition's number.
    pub partition: i32,
    /// Tells apart files with the same base index; the highest that verifies counts.
    pub generation: u32,
    /// Offset the first entry begins at.
    pub base_offset: Offset,
    /// Index of the first entry.
    pub base_index: EntryIndex,
    /// First and last index that a compaction output replaces; only these end in a footer.
    pub replaced: Option<(EntryIndex, EntryIndex)>,
    /// Which key of the partition's key file the payloads are encrypted with.
    pub key_reference: Option<u32>,
    /// How often the log had been truncated when the file was made. Of two segments the one with fewer is dead
    /// if it does not begin before the other.
    pub truncations: u32,
}

impl SegmentHeader {
    /// The partition the segment belongs to.
    pub fn partition_key(&self) -> PartitionKey {
        PartitionKey {
            topic: self.topic,
            partition: self.partition,
        }
    }

    /// The name of a file with this header.
    pub fn file_name(&self) -> String {
        segment_file_name(self.base_index, self.generation)
    }

    /// The name of its index file.
    pub fn index_file_name(&self) -> String {
        index_file_name(self.base_index, self.generation)
    }

    /// The 8 KiB before the first entry.
    ///
    /// # Panics
    /// If a field is outside what [`SegmentHeader::decode`] accepts: our own code wrote it.
    pub fn encode(&self) -> Vec<u8> {
        assert_eq!(
            self.format_version, SEGMENT_FORMAT_VERSION,
            "only the current version is written"
        );
        if let Err(error) = self.check_values() {
            panic!("a segment header that would not decode again: {error}");
        }
        let (first, last) = self.replaced.unwrap_or_default();
        let mut copy = [0; HEADER_COPY_LEN];
        put(&mut copy, 0, &SEGMENT_MAGIC);
        put(&mut copy, 12, &self.format_version.to_le_bytes());
        put(&mut copy, 16, &self.features.to_le_bytes());
        put(&mut copy, 24, &self.incarnation.0);
        put(&mut copy, 40, &self.topic.0);
        put(&mut copy, 56, &self.partition.to_le_bytes());
        put(&mut copy, 60, &self.generation.to_le_bytes());
        put(&mut copy, 64, &self.base_offset.0.to_le_bytes());
        put(&mut copy, 72, &self.base_index.0.to_le_bytes());
        put(&mut copy, 80, &first.0.to_le_bytes());
        put(&mut copy, 88, &last.0.to_le_bytes());
        put(&mut copy, 96, &self.key_reference.unwrap_or(0).to_le_bytes());
        put(&mut copy, 100, &self.truncations.to_le_bytes());
        let crc = crc32fast::hash(copy.get(COVERED_FROM..).unwrap_or_default());
        put(&mut copy, CRC_AT, &crc.to_le_bytes());
        let mut bytes = vec![0; SEGMENT_HEADER_LEN];
        put(&mut bytes, 0, &copy);
        put(&mut bytes, SECOND_COPY_AT, &copy);
        bytes
    }

    /// The header in the first 8 KiB of a segment; either copy is enough.
    ///
    /// The error is that of the first copy if neither can be used, unless only the
    /// second one's checksum holds (then its version or features are what is wrong).
    pub fn decode(bytes: &[u8]) -> Result<Self, SegmentHeaderError> {
        let [first, second] = decode_copies(bytes);
        match (first, second) {
            (Ok(first), Ok(second)) if first != second => Err(SegmentHeaderError::CopiesDiffer),
            (Ok(header), _) | (_, Ok(header)) => Ok(header),
            (Err(first), Err(second)) => Err(if first.is_damage() {
                second_unless_damage(first, second)
            } else {
                first
            }),
        }
    }

    fn decode_copy(bytes: &[u8], at: usize) -> Result<Self, SegmentHeaderError> {
        let copy = bytes
            .get(at..)
            .and_then(|rest| rest.first_chunk::<HEADER_COPY_LEN>())
            .ok_or(SegmentHeaderError::Truncated {
                needed: at + HEADER_COPY_LEN,
                available: bytes.len(),
            })?;
        if take::<8>(copy, 0) != SEGMENT_MAGIC {
            return Err(SegmentHeaderError::Magic);
        }
        let stored = u32::from_le_bytes(take(copy, CRC_AT));
        let actual = crc32fast::hash(copy.get(COVERED_FROM..).unwrap_or_default());
        if stored != actual {
            return Err(SegmentHeaderError::Crc { stored, actual });
        }
        let format_version = u32::from_le_bytes(take(copy, 12));
        if format_version != SEGMENT_FORMAT_VERSION {
            return Err(SegmentHeaderError::Version(format_version));
        }
        if copy
            .get(RESERVED_FROM..)
            .unwrap_or_default()
            .iter()
            .any(|byte| *byte != 0)
        {
            return Err(SegmentHeaderError::Reserved);
        }
        let first = u64::from_le_bytes(take(copy, 80));
        let last = u64::from_le_bytes(take(copy, 88));
        let key = u32::from_le_bytes(take(copy, 96));
        let header = Self {
            format_version,
            features: u64::from_le_bytes(take(copy, 16)),
            incarnation: Incarnation(take(copy, 24)),
            topic: TopicId(take(copy, 40)),
            partition: i32::from_le_bytes(take(copy, 56)),
            generation: u32::from_le_bytes(take(copy, 60)),
            base_offset: Offset(i64::from_le_bytes(take(copy, 64))),
            base_index: EntryIndex(u64::from_le_bytes(take(copy, 72))),
            replaced: ((first, last) != (0, 0)).then_some((EntryIndex(first), EntryIndex(last))),
            key_reference: (key != 0).then_some(key),
            truncations: u32::from_le_bytes(take(copy, 100)),
        };
        header.check_values()?;
        Ok(header)
    }

    pub(crate) fn check_values(&self) -> Result<(), SegmentHeaderError> {
        if self.features & !FEATURES_KNOWN != 0 {
            return Err(SegmentHeaderError::Features(self.features));
        }
        let replaced_fits = self
            .replaced
            .is_none_or(|(first, last)| first.0 > 0 && first <= last);
        let in_range = self.partition >= 0
            && self.base_offset.0 >= 0
            && (1..=ENTRY_INDEX_MAX).contains(&self.base_index.0)
            && replaced_fits
            && self.key_reference != Some(0);
        if in_range {
            Ok(())
        } else {
            Err(SegmentHeaderError::Range)
        }
    }
}

impl SegmentHeaderError {
    /// Whether the bytes are missing or damaged, rather than well-formed and not understood.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Truncated { .. } | Self::Magic | Self::Crc { .. } | Self::CopiesDiffer
        )
    }
}

fn second_unless_damage(first: SegmentHeaderError, second: SegmentHeaderError) -> SegmentHeaderError {
    if second.is_damage() { first } else { second }
}

/// Both copies by themselves, for `segment verify`, which reports a bad one.
pub fn decode_copies(bytes: &[u8]) -> [Result<SegmentHeader, SegmentHeaderError>; 2] {
    [
        SegmentHeader::decode_copy(bytes, 0),
        SegmentHeader::decode_copy(bytes, SECOND_COPY_AT),
    ]
}

/// `<base index>-<generation>.log`, the index with leading zeros so that names sort by it.
pub fn segment_file_name(base_index: EntryIndex, generation: u32) -> String {
    format!("{:020}-{generation}{FILE_NAME_SUFFIX}", base_index.0)
}

/// The name of a segment's index file: the segment's with `.index` in place of `.log`.
pub fn index_file_name(base_index: EntryIndex, generation: u32) -> String {
    format!("{:020}-{generation}{INDEX_NAME_SUFFIX}", base_index.0)
}

/// The name of the segment file that an index file's name belongs to.
pub(crate) fn segment_of_index(name: &str) -> Option<String> {
    let stem = name.strip_suffix(INDEX_NAME_SUFFIX)?;
    Some(format!("{stem}{FILE_NAME_SUFFIX}"))
}

/// What a file name says, if it is exactly one that [`segment_file_name`] makes.
pub fn parse_segment_file_name(name: &str) -> Option<(EntryIndex, u32)> {
    let (index, generation) = name.strip_suffix(FILE_NAME_SUFFIX)?.split_once('-')?;
    let parsed = (EntryIndex(index.parse().ok()?), generation.parse().ok()?);
    (segment_file_name(parsed.0, parsed.1) == name).then_some(parsed)
}
