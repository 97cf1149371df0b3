//! A view of Kafka's record batch, format 2, without looking at the records.
//!
//! Pure functions; called by the thread that received or read the bytes. Only base
//! offset and leader epoch are ever patched (the batch's checksum does not cover them),
//! and log-append time, after which the checksum is made anew.
//!
//! Big endian (KIP-98):
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 8 | base_offset |
//! | 8 | 4 | batch_length: bytes from 12 on, at least 49 |
//! | 12 | 4 | partition_leader_epoch |
//! | 16 | 1 | magic: 2 |
//! | 17 | 4 | crc: CRC-32C of everything from 21 on |
//! | 21 | 2 | attributes: bits 0-2 compression, 3 log-append time, 4 transactional, 5 control, 6 delete horizon |
//! | 23 | 4 | last_offset_delta |
//! | 27 | 8 | base_timestamp, ms |
//! | 35 | 8 | max_timestamp, ms |
//! | 43 | 8 | producer_id, -1 none |
//! | 51 | 2 | producer_epoch |
//! | 53 | 4 | base_sequence |
//! | 57 | 4 | record_count |
//! | 61 | rest | records, compressed as a whole |

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use crc_fast::CrcAlgorithm;
use thiserror::Error;

use crate::ids::{LeaderEpoch, Offset};
use crate::sealed::{put, take};

/// Bytes of a batch before its records.
pub const BATCH_HEADER_LEN: usize = 61;
/// Bytes that the batch's checksum does not cover; they end with it.
pub const BATCH_PREFIX_LEN: usize = 21;
/// Bytes before those that `batch_length` counts.
pub const BATCH_OVERHEAD_LEN: usize = 12;
/// The only magic this broker stores.
pub const BATCH_MAGIC: i8 = 2;

const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const MAX_TIMESTAMP_AT: usize = 35;
const COMPRESSION_MASK: i16 = 0x07;
const LOG_APPEND_TIME_BIT: i16 = 0x08;
const TRANSACTIONAL_BIT: i16 = 0x10;
const CONTROL_BIT: i16 = 0x20;

/// Why bytes are not a batch this broker stores. Nothing of them is appended or served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BatchError {
    /// Fewer bytes than the batch needs.
    #[error("truncated: {available} bytes, {needed} needed")]
    Truncated {
        /// Bytes needed.
        needed: usize,
        /// Bytes given.
        available: usize,
    },
    /// An old message set (0, 1) or something newer: unsupported, not damaged.
    #[error("magic {0} is not supported")]
    Magic(i8),
    /// The length field is below the size of a batch header.
    #[error("batch length {0} is too small")]
    Length(i32),
    /// The checksum does not hold: the batch is corrupt.
    #[error("batch checksum is {actual:#010x}, stored {stored:#010x}")]
    Crc {
        /// The checksum in the batch.
        stored: u32,
        /// The checksum of its bytes.
        actual: u32,
    },
    /// The number of records and the last offset delta contradict each other.
    #[error("{record_count} records with last offset delta {last_offset_delta}")]
    Counts {
        /// As stored.
        record_count: i32,
        /// As stored.
        last_offset_delta: i32,
    },
    /// A compression code that Kafka does not define.
    #[error("compression code {0} is not known")]
    Compression(u8),
}

/// How the records of a batch are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Compression {
    /// Not at all.
    None = 0,
    /// gzip.
    Gzip = 1,
    /// snappy, with xerial framing.
    Snappy = 2,
    /// LZ4 frames.
    Lz4 = 3,
    /// Zstandard.
    Zstd = 4,
}

/// What a record's timestamp means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimestampType {
    /// When the producer says it was made.
    CreateTime,
    /// When the broker appended it.
    LogAppendTime,
}

/// The fixed fields of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Bytes after this field.
    pub batch_length: i32,
    /// The term the batch was appended in.
    pub partition_leader_epoch: LeaderEpoch,
    /// Always [`BATCH_MAGIC`].
    pub magic: i8,
    /// CRC-32C of everything from byte 21 on.
    pub crc: u32,
    /// Raw attribute bits; see the accessors.
    pub attributes: i16,
    /// Offset of the last record minus `base_offset`.
    pub last_offset_delta: i32,
    /// Timestamp of the first record, in ms.
    pub base_timestamp: i64,
    /// Highest timestamp of the records, in ms.
    pub max_timestamp: i64,
    /// The idempotent producer's id; -1 for none.
    pub producer_id: i64,
    /// Its epoch; -1 for none.
    pub producer_epoch: i16,
    /// Sequence of the first record; -1 for none.
    pub base_sequence: i32,
    /// Number of records; 0 only after compaction.
    pub record_count: i32,
}

impl BatchHeader {
    /// The header at the start of `bytes`; the records need not be there.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        // The magic comes first: an old message set may be shorter than this header.
        let magic = bytes.get(16).map(|byte| byte.cast_signed());
        if let Some(magic) = magic.filter(|magic| *magic != BATCH_MAGIC) {
            return Err(BatchError::Magic(magic));
        }
        let header = bytes
            .first_chunk::<BATCH_HEADER_LEN>()
            .ok_or(BatchError::Truncated {
                needed: BATCH_HEADER_LEN,
                available: bytes.len(),
            })?;
        let batch_length = i32::from_be_bytes(take(header, 8));
        if batch_length < (BATCH_HEADER_LEN - BATCH_OVERHEAD_LEN) as i32 {
            return Err(BatchError::Length(batch_length));
        }
        Ok(Self {
            base_offset: Offset(i64::from_be_bytes(take(header, 0))),
            batch_length,
            partition_leader_epoch: LeaderEpoch(i32::from_be_bytes(take(header, 12))),
            magic: BATCH_MAGIC,
            crc: u32::from_be_bytes(take(header, CRC_AT)),
            attributes: i16::from_be_bytes(take(header, ATTRIBUTES_AT)),
            last_offset_delta: i32::from_be_bytes(take(header, 23)),
            base_timestamp: i64::from_be_bytes(take(header, 27)),
            max_timestamp: i64::from_be_bytes(take(header, MAX_TIMESTAMP_AT)),
            producer_id: i64::from_be_bytes(take(header, 43)),
            producer_epoch: i16::from_be_bytes(take(header, 51)),
            base_sequence: i32::from_be_bytes(take(header, 53)),
            record_count: i32::from_be_bytes(take(header, 57)),
        })
    }

    /// Bytes of the whole batch.
    pub fn total_len(&self) -> usize {
        // `parse` refuses lengths below 49.
        BATCH_OVERHEAD_LEN + usize::try_from(self.batch_length).unwrap_or(0)
    }

    /// Offset of the last record. Saturates on what a client made up.
    pub fn last_offset(&self) -> Offset {
        Offset(
            self.base_offset
                .0
                .saturating_add(i64::from(self.last_offset_delta)),
        )
    }

    /// How the records are compressed.
    pub fn compression(&self) -> Result<Compression, BatchError> {
        match self.attributes & COMPRESSION_MASK {
            0 => Ok(Compression::None),
            1 => Ok(Compression::Gzip),
            2 => Ok(Compression::Snappy),
            3 => Ok(Compression::Lz4),
            4 => Ok(Compression::Zstd),
            other => Err(BatchError::Compression(other as u8)),
        }
    }

    /// What the timestamps mean.
    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes & LOG_APPEND_TIME_BIT == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    /// Whether it belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    /// Whether it is a control batch (a transaction marker), which only brokers write.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }

    /// Whether an idempotent producer sent it.
    pub fn has_producer_id(&self) -> bool {
        self.producer_id >= 0
    }

    /// Sequence of the last record, wrapped at 2^31-1; -1 without a producer's sequence.
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return -1;
        }
        let last = i64::from(self.base_sequence) + i64::from(self.last_offset_delta.max(0));
        (last & i64::from(i32::MAX)) as i32
    }

    /// Checks what a batch from a producer must hold: records, and one offset for each.
    pub fn validate_new(&self) -> Result<(), BatchError> {
        self.compression()?;
        if self.record_count < 1 || self.last_offset_delta != self.record_count - 1 {
            return Err(BatchError::Counts {
                record_count: self.record_count,
                last_offset_delta: self.last_offset_delta,
            });
        }
        Ok(())
    }
}

/// The bytes of the first batch and what follows it.
pub fn split_first(bytes: &[u8]) -> Result<(BatchHeader, &[u8], &[u8]), BatchError> {
    let header = BatchHeader::parse(bytes)?;
    let (batch, rest) = bytes
        .split_at_checked(header.total_len())
        .ok_or(BatchError::Truncated {
            needed: header.total_len(),
            available: bytes.len(),
        })?;
    Ok((header, batch, rest))
}

/// Checks the checksum of the batch at the start of `bytes`, which must hold all of it.
pub fn validate_crc(bytes: &[u8]) -> Result<(), BatchError> {
    let (header, batch, _) = split_first(bytes)?;
    let actual = crc32c(batch.get(BATCH_PREFIX_LEN..).unwrap_or_default());
    if actual != header.crc {
        return Err(BatchError::Crc {
            stored: header.crc,
            actual,
        });
    }
    Ok(())
}

/// CRC-32C (Castagnoli, iSCSI), the checksum of record batches.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// The first 21 bytes of `batch` with the offset and epoch it is stored under.
///
/// The checksum does not cover what changes. Bytes that `batch` does not have are zero;
/// callers have parsed it.
pub fn patch_prefix(batch: &[u8], base_offset: Offset, leader_epoch: LeaderEpoch) -> [u8; BATCH_PREFIX_LEN] {
    let mut prefix = take::<BATCH_PREFIX_LEN>(batch, 0);
    put(&mut prefix, 0, &base_offset.0.to_be_bytes());
    put(&mut prefix, 12, &leader_epoch.0.to_be_bytes());
    prefix
}

/// A batch without records over the offsets from `base_offset` on, as compaction leaves them: readers go over it.
pub fn empty_batch(
    base_offset: Offset,
    leader_epoch: LeaderEpoch,
    last_offset_delta: i32,
    timestamp_ms: i64,
) -> Vec<u8> {
    let mut batch = vec![0; BATCH_HEADER_LEN];
    let length = (BATCH_HEADER_LEN - BATCH_OVERHEAD_LEN) as i32;
    put(&mut batch, 0, &base_offset.0.to_be_bytes());
    put(&mut batch, 8, &length.to_be_bytes());
    put(&mut batch, 12, &leader_epoch.0.to_be_bytes());
    put(&mut batch, 16, &BATCH_MAGIC.to_be_bytes());
    put(&mut batch, 23, &last_offset_delta.to_be_bytes());
    put(&mut batch, 27, &timestamp_ms.to_be_bytes());
    put(&mut batch, MAX_TIMESTAMP_AT, &timestamp_ms.to_be_bytes());
    // No producer: its id, epoch and sequence are all -1.
    put(&mut batch, 43, &[0xff; 14]);
    let crc = crc32c(batch.get(BATCH_PREFIX_LEN..).unwrap_or_default());
    put(&mut batch, CRC_AT, &crc.to_be_bytes());
    batch
}

/// Makes `timestamp_ms` the log-append time of all records of the one batch in `batch`,
/// and its checksum anew.
pub fn set_log_append_time(batch: &mut [u8], timestamp_ms: i64) -> Result<(), BatchError> {
    let (header, whole, _) = split_first(batch)?;
    let len = whole.len();
    let attributes = header.attributes | LOG_APPEND_TIME_BIT;
    put(batch, ATTRIBUTES_AT, &attributes.to_be_bytes());
    put(batch, MAX_TIMESTAMP_AT, &timestamp_ms.to_be_bytes());
    let crc = crc32c(batch.get(BATCH_PREFIX_LEN..len).unwrap_or_default());
    put(batch, CRC_AT, &crc.to_be_bytes());
    Ok(())
}

/// Makes uncompressed batches, for tests and benchmarks of this and other crates.
pub mod testing {
    use bytes::Bytes;

    use super::{BATCH_HEADER_LEN, BATCH_MAGIC, BATCH_OVERHEAD_LEN, BATCH_PREFIX_LEN, CRC_AT, crc32c, put};

    /// The fields of a batch that a test may want to choose.
    #[derive(Clone, Copy, Debug)]
    pub struct BatchSpec {
        /// Offset of the first record.
        pub base_offset: i64,
        /// Leader epoch of the batch; producers send -1.
        pub leader_epoch: i32,
        /// Raw attribute bits; the records are never compressed.
        pub attributes: i16,
        /// Timestamp of every record, in ms.
        pub timestamp_ms: i64,
        /// -1 for none.
        pub producer_id: i64,
        /// -1 for none.
        pub producer_epoch: i16,
        /// -1 for none.
        pub base_sequence: i32,
    }

    impl Default for BatchSpec {
        fn default() -> Self {
            Self {
                base_offset: 0,
                leader_epoch: -1,
                attributes: 0,
                timestamp_ms: 1_700_000_000_000,
                producer_id: -1,
                producer_epoch: -1,
                base_sequence: -1,
            }
        }
    }

    /// A batch of these values, without keys and headers; its checksum is right.
    pub fn build_batch(spec: &BatchSpec, values: &[&[u8]]) -> Vec<u8> {
        let mut batch = vec![0; BATCH_HEADER_LEN];
        for (delta, value) in values.iter().enumerate() {
            let mut record = vec![0];
            push_varint(&mut record, 0);
            push_varint(&mut record, delta as i64);
            push_varint(&mut record, -1);
            push_varint(&mut record, value.len() as i64);
            record.extend_from_slice(value);
            push_varint(&mut record, 0);
            push_varint(&mut batch, record.len() as i64);
            batch.extend_from_slice(&record);
        }
        let count = values.len() as i32;
        let batch_length = (batch.len() - BATCH_OVERHEAD_LEN) as i32;
        put(&mut batch, 0, &spec.base_offset.to_be_bytes());
        put(&mut batch, 8, &batch_length.to_be_bytes());
        put(&mut batch, 12, &spec.leader_epoch.to_be_bytes());
        put(&mut batch, 16, &BATCH_MAGIC.to_be_bytes());
        put(&mut batch, 21, &spec.attributes.to_be_bytes());
        put(&mut batch, 23, &(count - 1).to_be_bytes());
        put(&mut batch, 27, &spec.timestamp_ms.to_be_bytes());
        put(&mut batch, 35, &spec.timestamp_ms.to_be_bytes());
        put(&mut batch, 43, &spec.producer_id.to_be_bytes());
        put(&mut batch, 51, &spec.producer_epoch.to_be_bytes());
        put(&mut batch, 53, &spec.base_sequence.to_be_bytes());
        put(&mut batch, 57, &count.to_be_bytes());
        let crc = crc32c(batch.get(BATCH_PREFIX_LEN..).unwrap_or_default());
        put(&mut batch, CRC_AT, &crc.to_be_bytes());
        batch
    }

    /// A batch of `len` bytes that says it has one record, and is full of `filling` instead: for what looks at
    /// headers and checksums only. It has at least a header's length.
    pub fn opaque_batch(len: usize, filling: u8) -> Bytes {
        let mut batch = build_batch(&BatchSpec::default(), &[]);
        batch.resize(len.max(BATCH_HEADER_LEN), filling);
        let batch_length = (batch.len() - BATCH_OVERHEAD_LEN) as i32;
        put(&mut batch, 8, &batch_length.to_be_bytes());
        put(&mut batch, 23, &0_i32.to_be_bytes());
        put(&mut batch, 57, &1_i32.to_be_bytes());
        let crc = crc32c(batch.get(BATCH_PREFIX_LEN..).unwrap_or_default());
        put(&mut batch, CRC_AT, &crc.to_be_bytes());
        Bytes::from(batch)
    }

    /// A zigzag varint, as records use them.
    fn push_varint(bytes: &mut Vec<u8>, value: i64) {
        let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
        while rest >= 0x80 {
            bytes.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
    }
}
