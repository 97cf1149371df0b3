//! Writes index files: one for each segment that takes no more appends, and the last one's at a close.
//!
//! Runs on the partition's shard thread, one file at a time beside everything else. Index files are
//! derived, so nothing waits for one but an orderly close, none is synced (one that a power cut tears
//! fails its checksum), and one that cannot be written is left out: the next open reads its segment.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::task::Poll;

use bytes::Bytes;

use super::PartitionLog;
use super::machine::{Io, Machine, TokenCounter};
use crate::disk::{Completion, Disk, Token};

/// The one index file that is being written.
#[derive(Debug)]
pub(super) struct IndexWrite {
    segment_id: u64,
    covered: u64,
    machine: Machine<io::Result<()>>,
}

impl IndexWrite {
    pub(super) fn in_flight(&self) -> BTreeSet<Token> {
        self.machine.in_flight()
    }
}

async fn write(io: Io, path: PathBuf, content: Bytes) -> io::Result<()> {
    io.unlink_if_present(&path).await?;
    let file = io.create(&path).await?;
    io.write_all(&file, 0, content).await
}

impl PartitionLog {
    /// Begins the next index file that is due, if none is being written.
    pub(super) fn write_index_files(&mut self, disk: &mut dyn Disk) {
        if self.options.is_volatile {
            // Nobody opens these segments again.
            self.index_queue.clear();
            return;
        }
        while self.index_write.is_none()
            && let Some(id) = self.index_queue.pop_front()
        {
            let Some(segment) = self.segment_by_id(id) else {
                continue;
            };
            let Some(file) = segment.index_file() else {
                continue;
            };
            let name = segment.header.index_file_name();
            let content = Bytes::from(file.encode());
            let path = self.directory.join(name);
            let tokens = TokenCounter::beside(self.tokens.space());
            self.index_write = Some(IndexWrite {
                segment_id: id,
                covered: file.covered.0,
                machine: Machine::new(tokens, |io| write(io, path, content)),
            });
            self.step_index_write(disk, Vec::new());
        }
    }

    /// Whether the index file of this segment is being written.
    pub(super) fn is_writing_index_of(&self, id: u64) -> bool {
        self.index_write
            .as_ref()
            .is_some_and(|write| write.segment_id == id)
    }

    /// A completion that is not the log's own.
    pub(super) fn index_completed(&mut self, disk: &mut dyn Disk, completion: Completion) {
        self.step_index_write(disk, vec![completion]);
        self.write_index_files(disk);
    }

    fn step_index_write(&mut self, disk: &mut dyn Disk, completions: Vec<Completion>) {
        let Some(write) = &mut self.index_write else {
            return;
        };
        let Poll::Ready(result) = write.machine.step(disk, completions) else {
            return;
        };
        let (id, covered) = (write.segment_id, write.covered);
        self.index_write = None;
        if result.is_ok()
            && let Some(segment) = self.segment_by_id(id)
        {
            segment.is_indexed = segment.tail.position == covered;
        }
    }

    /// At a close, when all is durable: whether the last index files are written, or given up.
    pub(super) fn last_index_files_are_written(&mut self, disk: &mut dyn Disk) -> bool {
        if !self.last_index_queued {
            self.last_index_queued = true;
            let last = self.segments.last().filter(|segment| !segment.is_indexed);
            self.index_queue.extend(last.map(|segment| segment.id));
        }
        self.write_index_files(disk);
        self.index_write.is_none() && self.index_queue.is_empty()
    }
}
