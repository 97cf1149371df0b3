//! Internal entries of a log: appended beside batches, read back whole at a start.
//!
//! Runs on the partition's shard thread. Group 0 lives in such entries. They have an index and no
//! offsets of their own.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::io;

use super::machine::{Machine, TokenCounter};
use super::{AppendError, PartitionLog};
use crate::disk::{Disk, FileHandle, ReadSource};
use crate::entry::{ENTRY_HEADER_LEN, EntryHeader, EntryKind, PLAIN_PREFIX_LEN, decode_entry, entry_len};
use crate::ids::{EntryIndex, Incarnation};
use crate::limits::ENTRY_PAYLOAD_BYTES_MAX;
use crate::segment_header::SEGMENT_HEADER_LEN;

/// An internal entry as it was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InternalEntry {
    /// Its index.
    pub index: EntryIndex,
    /// Its payload, schema prefix included.
    pub payload: Vec<u8>,
}

impl PartitionLog {
    /// Appends an internal entry, which takes no offset. As with [`PartitionLog::append`], it is
    /// neither written nor durable when this returns.
    ///
    /// # Errors
    /// Nothing was appended; the variants say what to do.
    ///
    /// # Panics
    /// If `kind` is a batch kind or one that this log writes by itself: a defect of the caller.
    pub fn append_internal(
        &mut self,
        now_ms: i64,
        disk: &mut dyn Disk,
        kind: EntryKind,
        payload: &[u8],
    ) -> Result<EntryIndex, AppendError> {
        assert!(
            kind == EntryKind::Metadata,
            "only metadata is appended from outside"
        );
        self.check_appendable()?;
        let payload_len = u32::try_from(payload.len())
            .ok()
            .filter(|len| *len <= ENTRY_PAYLOAD_BYTES_MAX)
            .ok_or(AppendError::Length {
                batch_bytes: payload.len(),
                given_bytes: payload.len(),
            })?;
        self.make_room(now_ms, disk, entry_len(payload_len) as u64)?;
        let index = self.state.next_index();
        self.stage_internal(kind, payload);
        Ok(index)
    }

    /// The highest index that is on the device.
    pub fn durable_index(&self) -> EntryIndex {
        self.durable.index
    }

    /// The work of reading back every entry of a kind that is written now, in order. Each is checked.
    pub fn read_internal(
        &self,
        token_space: u32,
        kind: EntryKind,
    ) -> Machine<io::Result<Vec<InternalEntry>>> {
        let segments: Vec<(FileHandle, Incarnation, u64)> = self
            .segments
            .iter()
            .filter_map(|segment| {
                Some((
                    segment.file.clone()?,
                    segment.incarnation(),
                    segment.written.position,
                ))
            })
            .collect();
        Machine::new(TokenCounter::new(token_space), move |io| async move {
            let mut entries = Vec::new();
            for (file, incarnation, end) in segments {
                let mut position = SEGMENT_HEADER_LEN as u64;
                while position < end {
                    let corrupt = |cause: crate::entry::EntryError| {
                        io::Error::new(
                            io::ErrorKind::InvalidData,
                            format!("{} at byte {position}: {cause}", file.path().display()),
                        )
                    };
                    let head_len = ENTRY_HEADER_LEN + PLAIN_PREFIX_LEN;
                    let head = io.read(&file, position, head_len, ReadSource::Cached).await?;
                    let header = EntryHeader::decode(&head, &incarnation).map_err(corrupt)?;
                    if header.kind == kind {
                        let bytes = io
                            .read(&file, position, header.entry_len(), ReadSource::Cached)
                            .await?;
                        let (header, payload) = decode_entry(&bytes, &incarnation).map_err(corrupt)?;
                        entries.push(InternalEntry {
                            index: header.index,
                            payload: payload.to_vec(),
                        });
                    }
                    position += header.entry_len() as u64;
                }
            }
            Ok(entries)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::std_disk::StdDisk;
    use crate::ids::{PartitionKey, TopicId};
    use crate::log::{Durability, LogConfig, OpenSpec, Opening, drive_open};

    fn open(directory: &std::path::Path, disk: &mut StdDisk, created: bool) -> Box<PartitionLog> {
        let spec = OpenSpec {
            directory: directory.join("group-0"),
            key: PartitionKey {
                topic: TopicId([0; 16]),
                partition: 0,
            },
            config: LogConfig {
                segment_bytes: 16 << 10,
                segment_ms: i64::MAX,
                durability: Durability::Fsync,
            },
            token_space: 7,
            checkpoint: None,
            clean: false,
            start_counter: 1,
            created,
        };
        let (mut log, _) = drive_open(disk, Opening::new(spec)).expect("open");
        log.confirm_term();
        log
    }

    fn complete(log: &mut PartitionLog, disk: &mut StdDisk) {
        let mut completions = Vec::new();
        loop {
            log.flush(0, disk);
            disk.take_completions(&mut completions);
            if completions.is_empty() {
                break;
            }
            for completion in completions.drain(..) {
                log.on_completion(0, disk, completion);
            }
        }
    }

    #[test]
    fn internal_entries_come_back_in_order_over_rolls_and_reopening() {
        let directory = tempfile::tempdir().expect("directory");
        let mut disk = StdDisk::new();
        let mut log = open(directory.path(), &mut disk, true);
        let payload = |n: u64| {
            let mut payload = vec![0; 8];
            payload.extend_from_slice(&n.to_le_bytes());
            payload.resize(900 + n as usize % 7, 0);
            payload
        };
        for n in 0..100 {
            let index = log
                .append_internal(0, &mut disk, EntryKind::Metadata, &payload(n))
                .expect("append");
            complete(&mut log, &mut disk);
            assert!(log.durable_index() >= index, "group commit has run");
        }
        assert!(log.segment_count() > 3, "the test must roll");
        drop(log);
        let mut disk = StdDisk::new();
        let log = open(directory.path(), &mut disk, false);
        let entries = log
            .read_internal(8, EntryKind::Metadata)
            .drive(&mut disk)
            .expect("read back");
        assert_eq!(entries.len(), 100);
        assert!(entries.is_sorted_by_key(|entry| entry.index));
        for (n, entry) in entries.iter().enumerate() {
            assert_eq!(entry.payload, payload(n as u64));
        }
    }
}
