//! The entry: a fixed 64-byte rkyv-archived header, a payload, zeros up to a multiple of 8.
//!
//! Pure functions; the thread that owns the segment calls them, and the thread that
//! sends bytes it read itself. Invariants:
//! - a header verifies only in the segment it was written for: its checksum covers the
//!   segment's incarnation id;
//! - for plain data every byte of header and payload is covered: `header_crc` covers the
//!   21 bytes of the batch that the batch's own CRC-32C leaves out, and that CRC;
//! - checksum first, then the version chooses the struct, then bytecheck, then the values;
//! - zeros never decode, and no input panics.
//!
//! Header, little endian:
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 4 | magic `TLE0` |
//! | 4 | 4 | header_crc: crc32fast of header[8..64], incarnation[0..16], and for plain data payload[0..21] |
//! | 8 | 1 | version |
//! | 9 | 1 | kind ([`EntryKind`]) |
//! | 10 | 2 | flags: bit 0 encrypted, bit 1 rewritten by compaction |
//! | 12 | 4 | payload_len, stored bytes, at most 256 MiB |
//! | 16 | 4 | payload_crc: crc32fast of the stored payload; for plain data the batch's CRC-32C |
//! | 20 | 4 | term, never above i32::MAX |
//! | 24 | 8 | index, from 1 on; 0 means none |
//! | 32 | 8 | base_offset (kinds without offsets: the next offset) |
//! | 40 | 4 | last_offset_delta; -1 for kinds without offsets |
//! | 44 | 4 | prev_crc: header_crc of the entry before it in this segment; 0 for the first |
//! | 48 | 8 | max_timestamp |
//! | 56 | 4 | durable_gap: index minus the durable index known when it was written; u32::MAX unknown |
//! | 60 | 4 | zero |

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use rkyv::api::low;
use rkyv::rancor::Failure;
use rkyv::ser::allocator::SubAllocator;
use rkyv::ser::writer::Buffer;
use rkyv::util::Align;
use rkyv::{Archive, Serialize};
use thiserror::Error;

use crate::batch::{self, BatchHeader};
use crate::ids::{EntryIndex, Incarnation, LeaderEpoch, Offset};
use crate::limits::{ENTRY_INDEX_MAX, ENTRY_PAYLOAD_BYTES_MAX};
use crate::sealed::{put, take};

/// Bytes of an entry's header.
pub const ENTRY_HEADER_LEN: usize = 64;
/// Entries begin on multiples of this.
pub const ENTRY_ALIGN: usize = 8;
/// First four bytes of every entry.
pub const ENTRY_MAGIC: [u8; 4] = *b"TLE0";
/// The version this program writes.
pub const ENTRY_VERSION: u8 = 0;
/// Payload bytes of plain data that `header_crc` covers.
pub const PLAIN_PREFIX_LEN: usize = batch::BATCH_PREFIX_LEN;
/// `durable_gap` of an entry written when nothing was known to be durable.
pub const DURABLE_GAP_UNKNOWN: u32 = u32::MAX;

/// The payload is encrypted; its CRC covers the stored bytes.
pub const FLAG_ENCRYPTED: u16 = 1;
/// The entry was rewritten by compaction.
pub const FLAG_REWRITTEN: u16 = 2;
const FLAGS_KNOWN: u16 = FLAG_ENCRYPTED | FLAG_REWRITTEN;

const CRC_AT: usize = 4;
const COVERED_FROM: usize = 8;

/// Version 0 as it lies on the disk; only its archived form is ever written.
#[derive(Archive, Serialize)]
struct HeaderV0 {
    magic: [u8; 4],
    header_crc: u32,
    version: u8,
    kind: u8,
    flags: u16,
    payload_len: u32,
    payload_crc: u32,
    term: u32,
    index: u64,
    base_offset: i64,
    last_offset_delta: i32,
    prev_crc: u32,
    max_timestamp: i64,
    durable_gap: u32,
    reserved: u32,
}

const _: () = {
    assert!(size_of::<ArchivedHeaderV0>() == ENTRY_HEADER_LEN);
    assert!(align_of::<ArchivedHeaderV0>() == ENTRY_ALIGN);
    assert!(std::mem::offset_of!(ArchivedHeaderV0, header_crc) == CRC_AT);
    assert!(std::mem::offset_of!(ArchivedHeaderV0, version) == 8);
    assert!(std::mem::offset_of!(ArchivedHeaderV0, kind) == 9);
    assert!(std::mem::offset_of!(ArchivedHeaderV0, flags) == 10);
    assert!(std::mem::offset_of!(ArchivedHeaderV0, payload_len) == 12);
    assert!(std::mem::offset_of!(ArchivedHeaderV0, payload_crc) == 16);
    assert!(std::mem::offset_of!(ArchivedHeaderV0, term) == 20);
    assert!(std::mem::offset_of!(ArchivedHeaderV0, index) == 24);
    assert!(std::mem::offset_of!(ArchivedHeaderV0, base_offset) == 32);
    assert!(std::mem::offset_of!(ArchivedHeaderV0, last_offset_delta) == 40);
    assert!(std::mem::offset_of!(ArchivedHeaderV0, prev_crc) == 44);
    assert!(std::mem::offset_of!(ArchivedHeaderV0, max_timestamp) == 48);
    assert!(std::mem::offset_of!(ArchivedHeaderV0, durable_gap) == 56);
    assert!(std::mem::offset_of!(ArchivedHeaderV0, reserved) == 60);
};

/// What an entry is. The numbers are the format's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EntryKind {
    /// A client's record batch.
    Data = 1,
    /// A Kafka control batch that ends a transaction; takes one offset.
    TransactionMarker = 2,
    /// A new leader's first entry.
    RaftNoop = 3,
    /// A change of the replica set.
    RaftConfiguration = 4,
    /// The log start offset was moved up.
    LogStart = 5,
    /// A snapshot of all producers' states, with the log start.
    ProducerState = 6,
    /// A typed record of the metadata log.
    Metadata = 7,
    /// A record derived from others.
    Derived = 8,
    /// Raft's vote and commit; has no index.
    HardState = 9,
    /// The end of a compaction output; has no index.
    Footer = 10,
}

impl EntryKind {
    /// Every kind, in the order of its number.
    pub const ALL: [Self; 10] = [
        Self::Data,
        Self::TransactionMarker,
        Self::RaftNoop,
        Self::RaftConfiguration,
        Self::LogStart,
        Self::ProducerState,
        Self::Metadata,
        Self::Derived,
        Self::HardState,
        Self::Footer,
    ];

    /// The kind of this number, if there is one.
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// Whether the payload is a Kafka record batch (else it is an rkyv archive).
    pub fn is_batch(self) -> bool {
        matches!(self, Self::Data | Self::TransactionMarker)
    }

    /// Whether it takes an index of its own; the others repeat the previous one.
    pub fn has_index(self) -> bool {
        !matches!(self, Self::HardState | Self::Footer)
    }
}

/// Why an entry was refused. Nothing of it may be served; recovery decides between cut and damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EntryError {
    /// The bytes given end before the entry does: read more, or the file ends here.
    #[error("truncated: {available} bytes, {needed} needed")]
    Truncated {
        /// Bytes needed.
        needed: usize,
        /// Bytes given.
        available: usize,
    },
    /// No entry begins here (also said of zeros).
    #[error("no entry here: wrong magic")]
    Magic,
    /// Torn, damaged, or of another segment's incarnation.
    #[error("header checksum is {actual:#010x}, stored {stored:#010x}")]
    HeaderCrc {
        /// The checksum in the header.
        stored: u32,
        /// The checksum of the bytes.
        actual: u32,
    },
    /// Written by another version of this program; nothing is wrong with the bytes.
    #[error("entry version {0} is not known")]
    Version(u8),
    /// The checksum holds and the archive is not valid: written by a faulty program.
    #[error("header archive is not valid")]
    Archive,
    /// The kind's number is not known.
    #[error("entry kind {0} is not known")]
    Kind(u8),
    /// Flags that are not known, or not allowed for the kind.
    #[error("entry flags {0:#06x} are not allowed")]
    Flags(u16),
    /// The reserved field is not zero.
    #[error("reserved field is {0:#x}, not zero")]
    Reserved(u32),
    /// The payload is too large, or too small for its kind.
    #[error("payload length {0} is not allowed")]
    PayloadLen(u32),
    /// The term is above i32::MAX.
    #[error("term {0} is above i32::MAX")]
    Term(u32),
    /// An entry of a kind with an index has none, or one above [`ENTRY_INDEX_MAX`].
    #[error("entry has no index that can be")]
    Index,
    /// Base offset and last offset delta do not fit the kind.
    #[error("base offset {base_offset} with last offset delta {last_offset_delta} does not fit the kind")]
    Offsets {
        /// As stored.
        base_offset: i64,
        /// As stored.
        last_offset_delta: i32,
    },
    /// The payload does not match its checksum: only this entry is bad.
    #[error("payload checksum is {actual:#010x}, stored {stored:#010x}")]
    PayloadCrc {
        /// The checksum in the header.
        stored: u32,
        /// The checksum of the payload.
        actual: u32,
    },
    /// The batch in the payload says something else than the header.
    #[error("record batch does not match the entry header")]
    BatchMismatch,
    /// Padding is not zero.
    #[error("padding is not zero")]
    Padding,
}

impl EntryError {
    /// Whether the checksum held and another version of this program may well understand the entry:
    /// nothing is wrong with the bytes, and nothing may be cut because of them.
    pub fn is_unsupported(&self) -> bool {
        matches!(
            self,
            Self::Version(_) | Self::Kind(_) | Self::Flags(_) | Self::Reserved(_)
        )
    }
}

/// An entry's header as the program uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryHeader {
    /// Format version of the entry, [`ENTRY_VERSION`] when written.
    pub version: u8,
    /// What the entry is.
    pub kind: EntryKind,
    /// [`FLAG_ENCRYPTED`] and [`FLAG_REWRITTEN`].
    pub flags: u16,
    /// Stored bytes of the payload, without padding.
    pub payload_len: u32,
    /// Checksum of the stored payload; for plain data the batch's own CRC-32C.
    pub payload_crc: u32,
    /// The term it was written in; the leader epoch of its batch.
    pub term: LeaderEpoch,
    /// Its index; kinds without one repeat the previous entry's.
    pub index: EntryIndex,
    /// Offset of the first record, or the next offset for kinds without offsets.
    pub base_offset: Offset,
    /// Offset of the last record minus `base_offset`; -1 for kinds without offsets.
    pub last_offset_delta: i32,
    /// `header_crc` of the entry before it in this segment; 0 for the first.
    pub prev_crc: u32,
    /// Set by [`EntryHeader::encode`] and [`EntryHeader::decode`]; ignored as an input.
    pub header_crc: u32,
    /// Highest timestamp of the records, in ms.
    pub max_timestamp: i64,
    /// `index` minus the durable index known when it was written, or [`DURABLE_GAP_UNKNOWN`].
    pub durable_gap: u32,
}

impl EntryHeader {
    /// The 64 bytes of this header in a segment of `incarnation`; also sets `header_crc`.
    ///
    /// `payload_prefix` is the stored payload, or at least its first 21 bytes; it is
    /// looked at for plain data only.
    ///
    /// # Panics
    /// If a field is outside what [`EntryHeader::decode`] accepts: our own code wrote it.
    pub fn encode(&mut self, incarnation: &Incarnation, payload_prefix: &[u8]) -> [u8; ENTRY_HEADER_LEN] {
        assert_eq!(self.version, ENTRY_VERSION, "only the current version is written");
        if let Err(error) = self.check_values() {
            panic!("an entry that would not decode again: {error}");
        }
        let value = HeaderV0 {
            magic: ENTRY_MAGIC,
            header_crc: 0,
            version: self.version,
            kind: self.kind as u8,
            flags: self.flags,
            payload_len: self.payload_len,
            payload_crc: self.payload_crc,
            term: self.term.0.cast_unsigned(),
            index: self.index.0,
            base_offset: self.base_offset.0,
            last_offset_delta: self.last_offset_delta,
            prev_crc: self.prev_crc,
            max_timestamp: self.max_timestamp,
            durable_gap: self.durable_gap,
            reserved: 0,
        };
        let mut bytes = [0; ENTRY_HEADER_LEN];
        low::to_bytes_in_with_alloc::<_, _, Failure>(
            &value,
            Buffer::from(&mut bytes),
            SubAllocator::new(&mut []),
        )
        .expect("a fixed struct fits its own size");
        let prefix = if self.is_plain_data() {
            payload_prefix
                .get(..PLAIN_PREFIX_LEN)
                .expect("a batch is longer than its prefix")
        } else {
            &[]
        };
        self.header_crc = header_crc(&bytes, incarnation, prefix);
        put(&mut bytes, CRC_AT, &self.header_crc.to_le_bytes());
        bytes
    }

    /// The header at the start of `bytes`, which must reach 21 bytes into the payload
    /// of plain data; the payload itself is checked by [`verify_payload`].
    ///
    /// `bytes` may lie at any address.
    pub fn decode(bytes: &[u8], incarnation: &Incarnation) -> Result<Self, EntryError> {
        let header_crc = verify_header(bytes, incarnation)?;
        let header = Align(take::<ENTRY_HEADER_LEN>(bytes, 0));
        let version = take::<1>(bytes, 8)[0];
        if version != ENTRY_VERSION {
            return Err(EntryError::Version(version));
        }
        let archived =
            rkyv::access::<ArchivedHeaderV0, Failure>(&*header).map_err(|_| EntryError::Archive)?;
        if archived.reserved != 0 {
            return Err(EntryError::Reserved(archived.reserved.to_native()));
        }
        let term = archived.term.to_native();
        let header = Self {
            version,
            kind: EntryKind::from_u8(archived.kind).ok_or(EntryError::Kind(archived.kind))?,
            flags: archived.flags.to_native(),
            payload_len: archived.payload_len.to_native(),
            payload_crc: archived.payload_crc.to_native(),
            term: LeaderEpoch(i32::try_from(term).map_err(|_| EntryError::Term(term))?),
            index: EntryIndex(archived.index.to_native()),
            base_offset: Offset(archived.base_offset.to_native()),
            last_offset_delta: archived.last_offset_delta.to_native(),
            prev_crc: archived.prev_crc.to_native(),
            header_crc,
            max_timestamp: archived.max_timestamp.to_native(),
            durable_gap: archived.durable_gap.to_native(),
        };
        header.check_values()?;
        Ok(header)
    }

    /// Whether the payload is a batch as clients see it: a batch kind, not encrypted.
    pub fn is_plain_data(&self) -> bool {
        self.kind.is_batch() && self.flags & FLAG_ENCRYPTED == 0
    }

    /// Offset of the last record; the one before the next offset for kinds without offsets.
    pub fn last_offset(&self) -> Offset {
        Offset(self.base_offset.0 + i64::from(self.last_offset_delta))
    }

    /// The offset the entry after this one begins at.
    pub fn next_offset(&self) -> Offset {
        Offset(self.last_offset().0 + 1)
    }

    /// The highest index that was durable when this entry was written, if it was known.
    pub fn durable_index(&self) -> Option<EntryIndex> {
        if self.durable_gap == DURABLE_GAP_UNKNOWN {
            return None;
        }
        self.index
            .0
            .checked_sub(u64::from(self.durable_gap))
            .map(EntryIndex)
    }

    /// Bytes of the whole entry: header, payload and padding.
    pub fn entry_len(&self) -> usize {
        entry_len(self.payload_len)
    }

    fn check_values(&self) -> Result<(), EntryError> {
        let encrypted = self.flags & FLAG_ENCRYPTED != 0;
        if self.flags & !FLAGS_KNOWN != 0 || (encrypted && !self.kind.has_index()) {
            return Err(EntryError::Flags(self.flags));
        }
        let too_short = self.is_plain_data() && (self.payload_len as usize) < batch::BATCH_HEADER_LEN;
        if self.payload_len > ENTRY_PAYLOAD_BYTES_MAX || too_short {
            return Err(EntryError::PayloadLen(self.payload_len));
        }
        if self.term.0 < 0 {
            return Err(EntryError::Term(self.term.0.cast_unsigned()));
        }
        if (self.kind.has_index() && self.index.0 == 0) || self.index.0 > ENTRY_INDEX_MAX {
            return Err(EntryError::Index);
        }
        let delta_fits = match self.kind {
            EntryKind::Data => self.last_offset_delta >= 0,
            EntryKind::TransactionMarker => self.last_offset_delta == 0,
            _ => self.last_offset_delta == -1,
        };
        // Also leaves room for the next offset.
        let end = self
            .base_offset
            .0
            .checked_add(i64::from(self.last_offset_delta) + 1);
        if !delta_fits || self.base_offset.0 < 0 || end.is_none() {
            return Err(EntryError::Offsets {
                base_offset: self.base_offset.0,
                last_offset_delta: self.last_offset_delta,
            });
        }
        Ok(())
    }
}

/// Checks magic and checksum of the header at the start of `bytes` and returns its `header_crc`.
///
/// Holds for every version of the entry; [`EntryHeader::decode`] begins with it.
pub fn verify_header(bytes: &[u8], incarnation: &Incarnation) -> Result<u32, EntryError> {
    let truncated = |needed| EntryError::Truncated {
        needed,
        available: bytes.len(),
    };
    let (header, payload) = bytes
        .split_first_chunk::<ENTRY_HEADER_LEN>()
        .ok_or(truncated(ENTRY_HEADER_LEN))?;
    if take::<4>(header, 0) != ENTRY_MAGIC {
        return Err(EntryError::Magic);
    }
    let is_batch = EntryKind::from_u8(take::<1>(header, 9)[0]).is_some_and(EntryKind::is_batch);
    let encrypted = u16::from_le_bytes(take(header, 10)) & FLAG_ENCRYPTED != 0;
    let prefix_len = if is_batch && !encrypted {
        PLAIN_PREFIX_LEN
    } else {
        0
    };
    let prefix = payload
        .get(..prefix_len)
        .ok_or(truncated(ENTRY_HEADER_LEN + prefix_len))?;
    let stored = u32::from_le_bytes(take(header, CRC_AT));
    let actual = header_crc(header, incarnation, prefix);
    if stored != actual {
        return Err(EntryError::HeaderCrc { stored, actual });
    }
    Ok(stored)
}

/// Checks the stored payload (without padding) of a header that was decoded.
pub fn verify_payload(header: &EntryHeader, payload: &[u8]) -> Result<(), EntryError> {
    let needed = header.payload_len as usize;
    let payload = payload.get(..needed).ok_or(EntryError::Truncated {
        needed,
        available: payload.len(),
    })?;
    let actual = payload_crc(header.kind, header.flags, payload);
    if actual != header.payload_crc {
        return Err(EntryError::PayloadCrc {
            stored: header.payload_crc,
            actual,
        });
    }
    if !header.is_plain_data() {
        return Ok(());
    }
    let batch = BatchHeader::parse(payload).map_err(|_| EntryError::BatchMismatch)?;
    let matches = batch.total_len() == needed
        && batch.crc == header.payload_crc
        && batch.base_offset == header.base_offset
        && batch.partition_leader_epoch == header.term
        && batch.last_offset_delta == header.last_offset_delta;
    if matches {
        Ok(())
    } else {
        Err(EntryError::BatchMismatch)
    }
}

/// The checksum an entry of this kind and these flags carries for its stored payload.
pub fn payload_crc(kind: EntryKind, flags: u16, payload: &[u8]) -> u32 {
    if kind.is_batch() && flags & FLAG_ENCRYPTED == 0 {
        batch::crc32c(payload.get(PLAIN_PREFIX_LEN..).unwrap_or_default())
    } else {
        crc32fast::hash(payload)
    }
}

/// Checks the padding behind the payload of the entry at the start of `bytes`.
pub fn verify_padding(header: &EntryHeader, bytes: &[u8]) -> Result<(), EntryError> {
    let needed = header.entry_len();
    let padding = bytes
        .get(ENTRY_HEADER_LEN + header.payload_len as usize..needed)
        .ok_or(EntryError::Truncated {
            needed,
            available: bytes.len(),
        })?;
    if padding.iter().any(|byte| *byte != 0) {
        return Err(EntryError::Padding);
    }
    Ok(())
}

/// Decodes and checks everything of the entry at the start of `bytes`: header, payload, padding.
///
/// Returns the header and the payload.
pub fn decode_entry<'a>(
    bytes: &'a [u8],
    incarnation: &Incarnation,
) -> Result<(EntryHeader, &'a [u8]), EntryError> {
    let header = EntryHeader::decode(bytes, incarnation)?;
    let needed = header.entry_len();
    let payload = bytes
        .get(ENTRY_HEADER_LEN..ENTRY_HEADER_LEN + header.payload_len as usize)
        .ok_or(EntryError::Truncated {
            needed,
            available: bytes.len(),
        })?;
    verify_payload(&header, payload)?;
    verify_padding(&header, bytes)?;
    Ok((header, payload))
}

/// Bytes of an entry with such a payload: header, payload, padding to 8.
pub const fn entry_len(payload_len: u32) -> usize {
    (ENTRY_HEADER_LEN + payload_len as usize).next_multiple_of(ENTRY_ALIGN)
}

/// Zero bytes behind a payload of this length.
pub const fn padding_len(payload_len: u32) -> usize {
    entry_len(payload_len) - ENTRY_HEADER_LEN - payload_len as usize
}

fn header_crc(header: &[u8; ENTRY_HEADER_LEN], incarnation: &Incarnation, plain_prefix: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header.get(COVERED_FROM..).unwrap_or_default());
    hasher.update(&incarnation.0);
    hasher.update(plain_prefix);
    hasher.finalize()
}
