//! Cold reads on the connection's shard: read into a budgeted buffer, verify, then send that buffer.
//!
//! What is sent is what was verified; a range that does not verify is an error code, never bytes.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use tidelog_net::ErrorCode;
use tidelog_segment_log::disk::{Completion, Disk, DiskOp, DiskOutput, ReadSource, Token};
use tidelog_segment_log::log::{ColdRange, verify_cold};

use super::{Now, Pending, Shard};

/// Damaged ranges that are logged, each once.
const REPORTED_MAX: usize = 1_024;
/// The upper half of this room's tokens.
pub(super) const TOKEN_SPACE: u32 = 1;

#[derive(Default)]
pub(super) struct ColdReads {
    next: u32,
    in_flight: HashMap<u32, (u64, usize, ColdRange)>,
    /// Damage that was logged already, by file and position; at most [`REPORTED_MAX`].
    reported: HashSet<(u64, u64)>,
}

impl ColdReads {
    /// Whether the damage of this range was not logged yet: clients ask again and again.
    fn is_new(&mut self, range: &ColdRange) -> bool {
        self.reported.len() < REPORTED_MAX && self.reported.insert((range.file.id(), range.position.start))
    }

    /// Reads a range for part `at` of a pending request.
    pub(super) fn read(&mut self, disk: &mut dyn Disk, pending: u64, at: usize, range: ColdRange) {
        self.next = self.next.wrapping_add(1);
        let token = Token(u64::from(TOKEN_SPACE) << 32 | u64::from(self.next));
        let len = usize::try_from(range.position.end - range.position.start).unwrap_or(usize::MAX);
        let op = DiskOp::Read {
            file: range.file.clone(),
            position: range.position.start,
            len,
            source: ReadSource::Cached,
        };
        self.in_flight.insert(self.next, (pending, at, range));
        disk.submit(token, op);
    }
}

impl Shard {
    pub(super) fn on_cold_read(&mut self, now: Now, disk: &mut dyn Disk, completion: Completion) {
        let Some((pending, at, range)) = self.cold.in_flight.remove(&(completion.token.0 as u32)) else {
            return;
        };
        let batches = match completion.result {
            Ok(DiskOutput::Read(bytes)) => match verify_cold(&range, &bytes) {
                Ok(ranges) => {
                    let whole = Bytes::from_owner(bytes);
                    Ok(ranges.into_iter().map(|range| whole.slice(range)).collect())
                }
                Err(error) => {
                    self.metrics.checksum_failures.increment();
                    if self.cold.is_new(&range) {
                        let file = range.file.path().display();
                        tracing::error!(%error, %file, at = range.position.start, "stored bytes do not verify and are not served");
                    }
                    Err(ErrorCode::CorruptMessage)
                }
            },
            Ok(_) => Err(ErrorCode::UnknownServerError),
            Err(error) => {
                tracing::error!(%error, file = ?range.file, "a cold read failed");
                Err(ErrorCode::KafkaStorageError)
            }
        };
        match self.pending.get(&pending) {
            Some(Pending::Fetch(_)) => self.on_cold_loaded(pending, at, batches),
            Some(Pending::ListOffsets(_)) => self.on_scan_loaded(now, disk, pending, at, batches),
            _ => {}
        }
    }
}
