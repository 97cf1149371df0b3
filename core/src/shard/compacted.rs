//! What compacted topics ask of a batch: every record has a key, since only the last of each key is kept.
//!
//! Runs on the partition's owner, in front of the append. The batch is read as a stream, so what it
//! decompresses to is looked at and not held (but for Snappy, which grows by a small factor only).

use bytes::Bytes;
use tidelog_net::ErrorCode;
use tidelog_net::records::{Batch, DecompressError, KeyError};

use super::append::Refusal;
use super::list_offsets::SCAN_DECOMPRESSED_MAX;
use crate::limits::RECORD_ERRORS_MAX;

/// What a producer is told of each record.
pub(super) const NO_KEY: &str = "a compacted topic takes no record without a key";

/// Refuses a batch with records that have no key, and names them.
pub(super) fn check_keys(batch: &Bytes) -> Result<(), Refusal> {
    let batch = Batch::take(&mut batch.clone())
        .map_err(|error| Refusal::new(ErrorCode::CorruptMessage, error.to_string()))?;
    match batch.records_without_key(SCAN_DECOMPRESSED_MAX, RECORD_ERRORS_MAX) {
        Ok(found) if found.count == 0 => Ok(()),
        Ok(found) => {
            let text = format!(
                "{NO_KEY}: {} of {} have none",
                found.count, batch.header.record_count
            );
            Err(Refusal {
                records: found.positions,
                ..Refusal::new(ErrorCode::InvalidRecord, text)
            })
        }
        Err(error @ KeyError::Decompress(DecompressError::Corrupt { .. })) => {
            Err(Refusal::new(ErrorCode::CorruptMessage, error.to_string()))
        }
        Err(error @ KeyError::Decompress(DecompressError::TooLarge { .. })) => {
            Err(Refusal::new(ErrorCode::MessageTooLarge, error.to_string()))
        }
        Err(error) => Err(Refusal::new(ErrorCode::InvalidRecord, error.to_string())),
    }
}
