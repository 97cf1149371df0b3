//! Record batches of message format v2: reading, checking and building them.
//!
//! ```text
//! offset  field                    the batch header, 61 bytes, big-endian
//!      0  base_offset i64
//!      8  batch_length i32          bytes behind this field
//!     12  partition_leader_epoch i32
//!     16  magic i8                  always 2
//!     17  crc u32                   CRC-32C of everything from attributes on
//!     21  attributes i16            bits 0-2 codec, 3 LogAppendTime, 4 transactional, 5 control, 6 delete horizon
//!     23  last_offset_delta i32
//!     27  base_timestamp i64
//!     35  max_timestamp i64
//!     43  producer_id i64
//!     51  producer_epoch i16
//!     53  base_sequence i32
//!     57  record_count i32
//!     61  records, compressed as a whole if bits 0-2 say so
//! ```
//!
//! Nothing here is sized by a count or length from the bytes: records are walked, never collected, and
//! decompression stops at the caller's cap.

mod batch;
mod builder;
mod compression;
mod keys;
mod record;

pub use batch::{BATCH_HEADER_BYTES, Batch, BatchError, BatchHeader, Batches, crc32c};
pub use builder::{BatchBuilder, BuildError};
pub use compression::{Compression, DecompressError, compress, decompress};
pub use keys::{KeyError, WithoutKey};
pub use record::{Headers, RecordError, RecordIter, RecordView};
