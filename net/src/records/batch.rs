//! Batch headers, and whole batches in a run of them.
//!
//! Bytes are untrusted: a header is only believed as far as its bytes are there.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use super::compression::{Compression, DecompressError, decompress};
use super::record::RecordIter;
use bytes::{Buf, Bytes};

/// Bytes of a batch header.
pub const BATCH_HEADER_BYTES: usize = 61;
/// Bytes in front of what `batch_length` counts.
const LENGTH_END: usize = 12;
/// Where the checksummed part begins.
const CRC_START: usize = 21;

const LOG_APPEND_TIME: i16 = 1 << 3;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;

/// What is wrong with a batch. `Corrupt*` answer `CORRUPT_MESSAGE`, the rest `INVALID_RECORD` or
/// `UNSUPPORTED_COMPRESSION_TYPE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Fewer bytes than the header or its length say. At the end of a Fetch answer: a cut batch.
    #[error("the batch needs {needed_bytes} bytes, {available_bytes} are there")]
    Incomplete {
        /// Bytes the batch needs.
        needed_bytes: usize,
        /// Bytes that are there.
        available_bytes: usize,
    },
    /// The length cannot even hold the header.
    #[error("batch length {length} is too small")]
    CorruptLength {
        /// The length as stored.
        length: i32,
    },
    /// Another message format than v2.
    #[error("message format {magic} is not supported")]
    UnsupportedMagic {
        /// The magic byte.
        magic: i8,
    },
    /// The checksum does not match.
    #[error("checksum {actual:#010x} does not match the stored {stored:#010x}")]
    CorruptCrc {
        /// The checksum in the header.
        stored: u32,
        /// The checksum of the bytes.
        actual: u32,
    },
    /// A negative record count.
    #[error("record count {count} is negative")]
    CorruptCount {
        /// The count as stored.
        count: i32,
    },
    /// A codec that does not exist.
    #[error("compression codec {codec} is not known")]
    UnknownCodec {
        /// Bits 0-2 of the attributes.
        codec: i16,
    },
}

/// The header of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Bytes behind the length field.
    pub batch_length: i32,
    /// Leader epoch of the append, -1 from a producer.
    pub partition_leader_epoch: i32,
    /// CRC-32C of everything from the attributes on.
    pub crc: u32,
    /// Codec and flags.
    pub attributes: i16,
    /// Offset of the last record relative to the first.
    pub last_offset_delta: i32,
    /// Timestamp that the records' deltas are added to.
    pub base_timestamp: i64,
    /// Largest timestamp in the batch.
    pub max_timestamp: i64,
    /// The idempotent producer, -1 for none.
    pub producer_id: i64,
    /// Its epoch, -1 for none.
    pub producer_epoch: i16,
    /// Sequence of the first record, -1 for none.
    pub base_sequence: i32,
    /// Records in the batch.
    pub record_count: i32,
}

impl BatchHeader {
    /// Reads the header at the front of `bytes`, which need not hold the whole batch.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let Some(mut fields) = bytes
            .first_chunk::<BATCH_HEADER_BYTES>()
            .map(|header| &header[..])
        else {
            return Err(BatchError::Incomplete {
                needed_bytes: BATCH_HEADER_BYTES,
                available_bytes: bytes.len(),
            });
        };
        let base_offset = fields.get_i64();
        let batch_length = fields.get_i32();
        let partition_leader_epoch = fields.get_i32();
        let magic = fields.get_i8();
        if magic != 2 {
            return Err(BatchError::UnsupportedMagic { magic });
        }
        if batch_length < (BATCH_HEADER_BYTES - LENGTH_END) as i32 {
            return Err(BatchError::CorruptLength { length: batch_length });
        }
        Ok(Self {
            base_offset,
            batch_length,
            partition_leader_epoch,
            crc: fields.get_u32(),
            attributes: fields.get_i16(),
            last_offset_delta: fields.get_i32(),
            base_timestamp: fields.get_i64(),
            max_timestamp: fields.get_i64(),
            producer_id: fields.get_i64(),
            producer_epoch: fields.get_i16(),
            base_sequence: fields.get_i32(),
            record_count: fields.get_i32(),
        })
    }

    /// Bytes of the whole batch.
    pub fn total_bytes(&self) -> usize {
        usize::try_from(self.batch_length)
            .unwrap_or(0)
            .saturating_add(LENGTH_END)
    }

    /// Offset of the last record.
    pub fn last_offset(&self) -> i64 {
        self.base_offset.saturating_add(self.last_offset_delta.into())
    }

    /// The codec of the records.
    pub fn compression(&self) -> Result<Compression, BatchError> {
        let codec = self.attributes & 0x7;
        Compression::from_code(codec).ok_or(BatchError::UnknownCodec { codec })
    }

    /// Whether timestamps are the broker's.
    pub fn is_log_append_time(&self) -> bool {
        self.attributes & LOG_APPEND_TIME != 0
    }

    /// Whether the batch belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    /// Whether the batch is a marker that consumers skip.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }
}

/// A whole batch, a slice of what it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Its header.
    pub header: BatchHeader,
    /// All of its bytes, the header included.
    pub bytes: Bytes,
}

impl Batch {
    /// Takes the batch at the front of `bytes`; what follows it is left.
    pub fn take(bytes: &mut Bytes) -> Result<Self, BatchError> {
        let header = BatchHeader::parse(bytes)?;
        let needed_bytes = header.total_bytes();
        if bytes.len() < needed_bytes {
            return Err(BatchError::Incomplete {
                needed_bytes,
                available_bytes: bytes.len(),
            });
        }
        Ok(Self {
            header,
            bytes: bytes.split_to(needed_bytes),
        })
    }

    /// Checks the checksum.
    pub fn verify_crc(&self) -> Result<(), BatchError> {
        let actual = crc32c(self.bytes.get(CRC_START..).unwrap_or_default());
        if actual == self.header.crc {
            Ok(())
        } else {
            Err(BatchError::CorruptCrc {
                stored: self.header.crc,
                actual,
            })
        }
    }

    /// The record bytes as they are in the batch, perhaps compressed.
    pub fn payload(&self) -> Bytes {
        if self.bytes.len() < BATCH_HEADER_BYTES {
            return Bytes::new();
        }
        self.bytes.slice(BATCH_HEADER_BYTES..)
    }

    /// The record bytes, decompressed to at most `max_bytes`. Free when not compressed.
    pub fn decompressed(&self, max_bytes: usize) -> Result<Bytes, DecompressError> {
        let codec = self.header.attributes & 0x7;
        let compression = Compression::from_code(codec).ok_or(DecompressError::UnknownCodec { codec })?;
        decompress(compression, &self.payload(), max_bytes)
    }

    /// Walks records that [`Batch::decompressed`] gave.
    pub fn records<'a>(&self, decompressed: &'a [u8]) -> Result<RecordIter<'a>, BatchError> {
        let count = u32::try_from(self.header.record_count).map_err(|_| BatchError::CorruptCount {
            count: self.header.record_count,
        })?;
        Ok(RecordIter::new(decompressed, count))
    }
}

/// The batches of a run of them, such as a Fetch answer holds. A batch that is cut at the end is left out;
/// an error ends the run.
#[derive(Debug, Clone)]
pub struct Batches {
    rest: Bytes,
}

impl Batches {
    /// Walks the batches of these bytes.
    pub fn new(records: Bytes) -> Self {
        Self { rest: records }
    }
}

impl Iterator for Batches {
    type Item = Result<Batch, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        match Batch::take(&mut self.rest) {
            Ok(batch) => Some(Ok(batch)),
            Err(BatchError::Incomplete { .. }) => {
                self.rest.clear();
                None
            }
            Err(error) => {
                self.rest.clear();
                Some(Err(error))
            }
        }
    }
}

/// CRC-32C (Castagnoli), as batches use it.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}
