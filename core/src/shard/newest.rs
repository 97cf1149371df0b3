//! The batch with the largest timestamp, where the log start has moved above what is known of it.
//!
//! The owner knows the newest batch of whole segments. Where that batch was deleted, the rest of its
//! segment is read batch by batch: of each the header is enough, but of the one that begins in front of the
//! log start, whose records are looked at.

use bytes::Bytes;
use tidelog_net::ErrorCode;
use tidelog_net::records::Batch;
use tidelog_segment_log::batch::split_first;
use tidelog_segment_log::log::NewestRecord;

use super::list_offsets::{SCAN_DECOMPRESSED_MAX, Scanned};

/// Where the newest record is.
pub(super) enum Found {
    /// In the batch with this base offset.
    Batch(i64),
    /// Here.
    Record {
        /// Its offset.
        offset: i64,
        /// Its timestamp, ms.
        timestamp_ms: i64,
    },
}

/// See the file's head.
pub(super) struct NewestSearch {
    newest: NewestRecord,
    best: Option<(i64, Found)>,
}

impl NewestSearch {
    pub(super) fn new(newest: NewestRecord) -> Self {
        Self { newest, best: None }
    }

    /// Where batches are to be read first; None if there is no need to.
    pub(super) fn reads_on_at(&self) -> Option<i64> {
        let unknown = &self.newest.unknown;
        (!unknown.is_empty()).then_some(unknown.start.0)
    }

    /// Takes in batches, sorted by offset; `from` is the first offset of them that is served.
    pub(super) fn scan(&mut self, batches: &[Bytes], from: i64) -> Scanned {
        let mut next = from;
        for batch in batches {
            let Ok((header, ..)) = split_first(batch) else {
                return Scanned::Failed(ErrorCode::CorruptMessage);
            };
            let base_offset = header.base_offset.0;
            if base_offset >= self.newest.unknown.end.0 {
                break;
            }
            next = next.max(header.last_offset().0 + 1);
            if header.is_control() {
                continue;
            }
            if base_offset >= from {
                self.offer(header.max_timestamp, Found::Batch(base_offset));
                continue;
            }
            match newest_of(batch, from) {
                Ok(Some((offset, timestamp_ms))) => {
                    self.offer(timestamp_ms, Found::Record { offset, timestamp_ms });
                }
                Ok(None) => {}
                Err(reason) => {
                    tracing::warn!(%reason, base_offset, "a batch could not be searched by time");
                    return Scanned::Failed(ErrorCode::CorruptMessage);
                }
            }
        }
        if next >= self.newest.unknown.end.0 {
            return Scanned::Ended;
        }
        Scanned::ReadOn { next }
    }

    /// The first of several with the same timestamp counts.
    fn offer(&mut self, timestamp_ms: i64, found: Found) {
        if self.best.as_ref().is_none_or(|(best, _)| timestamp_ms > *best) {
            self.best = Some((timestamp_ms, found));
        }
    }

    /// Where it is; None if there is no record.
    pub(super) fn found(mut self) -> Option<Found> {
        // All of it lies behind what was read.
        if let Some((timestamp_ms, offset)) = self.newest.known {
            self.offer(timestamp_ms, Found::Batch(offset.0));
        }
        self.best.map(|(_, found)| found)
    }
}

/// Offset and timestamp of the (first) newest record of a batch at or above `from`.
fn newest_of(batch: &Bytes, from: i64) -> Result<Option<(i64, i64)>, String> {
    let batch = Batch::take(&mut batch.clone()).map_err(|error| error.to_string())?;
    let header = &batch.header;
    if header.is_log_append_time() {
        return Ok(Some((header.base_offset.max(from), header.max_timestamp)));
    }
    let records = batch
        .decompressed(SCAN_DECOMPRESSED_MAX)
        .map_err(|error| error.to_string())?;
    let mut newest: Option<(i64, i64)> = None;
    for record in batch.records(&records).map_err(|error| error.to_string())? {
        let record = record.map_err(|error| error.to_string())?;
        let offset = header.base_offset + i64::from(record.offset_delta);
        let time = header.base_timestamp.saturating_add(record.timestamp_delta);
        if offset >= from && newest.is_none_or(|(_, highest)| time > highest) {
            newest = Some((offset, time));
        }
    }
    Ok(newest)
}
