//! Writes index files: part by part for the segment that takes appends, the rest when it takes no more and at a close.
//!
//! Runs on the partition's shard thread, one part at a time beside everything else. Index files are derived, so
//! nothing waits for one but an orderly close, none is synced (one that a power cut tears fails its checksum), and one
//! that cannot be written is left out: the next open reads its segment. Invariants:
//! - a part speaks only of what is durable: it is marked while it is appended, and written when it is;
//! - with the producers as they were at the mark the checkpoint lets an open begin there.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::task::Poll;

use bytes::Bytes;

use super::PartitionLog;
use super::machine::{Io, Machine, TokenCounter};
use super::segment::{IndexMark, Indexed, Segment};
use crate::disk::{Completion, Disk, Token};
use crate::ids::EntryIndex;
use crate::limits::{INDEX_PART_SEGMENT_BYTES_MAX, INDEX_PART_SEGMENT_BYTES_MIN, MARKED_PRODUCERS_BYTES_MAX};

/// The one part that is being written.
#[derive(Debug)]
struct PartWrite {
    segment_id: u64,
    then: Indexed,
    machine: Machine<io::Result<()>>,
}

/// A point in the segment that takes appends, from which an open can go on once it is durable.
#[derive(Debug)]
struct Marked {
    segment_id: u64,
    at: IndexMark,
    /// What producers had written, unless it is too much.
    producers: Option<Vec<u8>>,
}

/// What is written and what waits.
#[derive(Debug, Default)]
pub(super) struct IndexFiles {
    /// Segments that take no more appends and whose files are to be ended.
    queue: std::collections::VecDeque<u64>,
    // Boxed: most logs have neither most of the time, and there are many logs.
    write: Option<Box<PartWrite>>,
    marked: Option<Box<Marked>>,
    /// Producers as of an index in the segment that takes appends, which its index file speaks of.
    producers: Option<(EntryIndex, Vec<u8>)>,
    last_is_queued: bool,
    /// Up to where the segment that takes appends was marked, whatever came of it.
    marked_to: u64,
}

impl IndexFiles {
    pub(super) fn of(queue: impl Iterator<Item = u64>) -> Self {
        Self {
            queue: queue.collect(),
            ..Self::default()
        }
    }

    pub(super) fn in_flight(&self) -> BTreeSet<Token> {
        let write = self.write.as_ref();
        write.map(|write| write.machine.in_flight()).unwrap_or_default()
    }

    pub(super) fn is_writing(&self) -> bool {
        self.write.is_some()
    }

    pub(super) fn is_writing_of(&self, segment_id: u64) -> bool {
        self.write
            .as_ref()
            .is_some_and(|write| write.segment_id == segment_id)
    }

    /// A segment takes no more appends and is durable.
    pub(super) fn closed(&mut self, segment_id: u64) {
        // The next one begins with what producers had written.
        self.producers = None;
        self.marked_to = 0;
        self.queue.push_back(segment_id);
    }

    /// A segment is removed.
    pub(super) fn removed(&mut self, segment_id: u64) {
        self.queue.retain(|queued| *queued != segment_id);
    }

    /// Nothing more is written.
    pub(super) fn give_up(&mut self) {
        self.queue.clear();
        self.marked = None;
    }
}

/// Writes a part; the first one makes the file.
async fn write(io: Io, path: PathBuf, position: u64, content: Bytes) -> io::Result<()> {
    let file = if position == 0 {
        io.unlink_if_present(&path).await?;
        io.create(&path).await?
    } else {
        io.open(&path).await?
    };
    io.write_all(&file, position, content).await
}

impl PartitionLog {
    /// Begins the next part that is due, if none is being written.
    pub(super) fn write_index_files(&mut self, disk: &mut dyn Disk) {
        if self.options.is_volatile {
            // Nobody opens these segments again.
            self.index_files.give_up();
            return;
        }
        while !self.index_files.is_writing()
            && let Some((id, mark)) = self.next_index_part()
        {
            let Some(segment) = self.segment_by_id(id) else {
                continue;
            };
            let Some(part) = segment.index_part(&mark) else {
                continue;
            };
            let position = segment.indexed.file_len;
            let name = segment.header.index_file_name();
            let content = Bytes::from(part.encode());
            let then = Indexed {
                covered: mark.end.position,
                points: mark.points,
                epochs: mark.epochs,
                file_len: position + content.len() as u64,
            };
            let path = self.directory.join(name);
            let tokens = TokenCounter::beside(self.tokens.space());
            self.index_files.write = Some(Box::new(PartWrite {
                segment_id: id,
                then,
                machine: Machine::new(tokens, |io| write(io, path, position, content)),
            }));
            self.step_index_write(disk, Vec::new());
        }
    }

    /// The rest of a segment that takes no more appends, or what was marked and is durable by now.
    fn next_index_part(&mut self) -> Option<(u64, IndexMark)> {
        while let Some(id) = self.index_files.queue.pop_front() {
            let segment = self.segments.iter().find(|segment| segment.id == id);
            if let Some(mark) = segment.and_then(Segment::index_mark) {
                return Some((id, mark));
            }
        }
        let durable = self.settled.index;
        let marked = self
            .index_files
            .marked
            .take_if(|marked| marked.at.end.index <= durable)?;
        let last = self.segments.last().filter(|last| last.id == marked.segment_id)?;
        if last.indexed.covered >= marked.at.end.position {
            return None;
        }
        let index = marked.at.end.index;
        self.index_files.producers = marked.producers.map(|producers| (index, producers));
        Some((marked.segment_id, marked.at))
    }

    /// At a tick: marks the end of the segment that takes appends, if it has grown enough since the last mark.
    pub(super) fn mark_index(&mut self) {
        let is_busy = self.index_files.marked.is_some() || self.index_files.is_writing();
        if is_busy || self.closing || self.options.is_volatile {
            return;
        }
        let Some(last) = self.segments.last() else { return };
        // A part that could not be written is not tried again before there is more to say.
        let marked_to = self.index_files.marked_to.min(last.tail.position);
        let covered = last.indexed.covered.max(Segment::FIRST_ENTRY).max(marked_to);
        let grown = last.tail.position.saturating_sub(covered);
        let said = self
            .index_files
            .producers
            .as_ref()
            .map_or(0, |(_, said)| said.len() as u64);
        // What is written for it stays a small share of the log.
        let enough = (covered / 4)
            .clamp(INDEX_PART_SEGMENT_BYTES_MIN, INDEX_PART_SEGMENT_BYTES_MAX)
            .max(said * 16);
        if grown < self.options.index_part_bytes.unwrap_or(enough) {
            return;
        }
        let Some(at) = last.index_mark() else { return };
        let producers = self.state.producers.encode(self.state.log_start());
        self.index_files.marked_to = at.end.position;
        self.index_files.marked = Some(Box::new(Marked {
            segment_id: last.id,
            at,
            producers: (producers.len() <= MARKED_PRODUCERS_BYTES_MAX).then_some(producers),
        }));
    }

    /// What producers had written at the newest point from which an open can go on, if that lies in the segment
    /// that takes appends.
    pub(super) fn marked_producers(&self) -> Option<(EntryIndex, &[u8])> {
        let (index, producers) = self.index_files.producers.as_ref()?;
        let is_in_last = self
            .segments
            .last()
            .is_some_and(|last| *index >= last.base_index());
        (is_in_last && *index <= self.settled.index).then_some((*index, producers))
    }

    /// A completion that is not the log's own.
    pub(super) fn index_completed(&mut self, disk: &mut dyn Disk, completion: Completion) {
        self.step_index_write(disk, vec![completion]);
        self.write_index_files(disk);
    }

    fn step_index_write(&mut self, disk: &mut dyn Disk, completions: Vec<Completion>) {
        let Some(write) = &mut self.index_files.write else {
            return;
        };
        let Poll::Ready(result) = write.machine.step(disk, completions) else {
            return;
        };
        let (id, then) = (write.segment_id, write.then);
        self.index_files.write = None;
        if let Some(segment) = self.segment_by_id(id) {
            // What a file holds that could not be written is not known: it is made anew.
            segment.indexed = result.map_or(Indexed::default(), |()| then);
        }
    }

    /// At a close, when all is durable: whether the last index files are written, or given up.
    pub(super) fn last_index_files_are_written(&mut self, disk: &mut dyn Disk) -> bool {
        if !self.index_files.last_is_queued {
            self.index_files.last_is_queued = true;
            self.index_files.marked = None;
            let last = self.segments.last().map(|segment| segment.id);
            self.index_files.queue.extend(last);
        }
        self.write_index_files(disk);
        !self.index_files.is_writing() && self.index_files.queue.is_empty()
    }
}
