//! What a partition's log says as a whole, entry by entry: the same code follows appends and walks.
//!
//! Owned by the partition's shard thread. Invariants: offsets and indices only move forward; the
//! epochs are sorted by epoch and by start offset.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use crate::batch::BatchHeader;
use crate::entry::{EntryHeader, EntryKind};
use crate::ids::{EntryIndex, LeaderEpoch, Offset};
use crate::producer_state::{ProducerBatch, ProducerStateError, ProducerStates, decode_log_start};
use crate::segment_index::IndexFile;

/// See the module.
#[derive(Debug)]
pub(crate) struct LogState {
    log_start: Offset,
    /// As the checkpoint and entries say it, whatever files are there.
    declared_log_start: Offset,
    next_offset: Offset,
    last_index: EntryIndex,
    last_term: LeaderEpoch,
    epochs: Vec<(LeaderEpoch, Offset)>,
    max_timestamp: Option<(i64, Offset)>,
    pub(crate) producers: ProducerStates,
    /// What entries up to this index say of producers is known already.
    producers_known_to: EntryIndex,
    /// The newest entry that was read or appended which says all of the producers; 0 if there is none.
    producers_said_at: EntryIndex,
    started: bool,
}

impl LogState {
    pub(crate) fn new(log_start: Offset) -> Self {
        Self {
            log_start,
            declared_log_start: log_start,
            next_offset: Offset(0),
            last_index: EntryIndex(0),
            last_term: LeaderEpoch(0),
            epochs: Vec::new(),
            max_timestamp: None,
            producers: ProducerStates::new(),
            producers_known_to: EntryIndex(0),
            producers_said_at: EntryIndex(0),
            started: false,
        }
    }

    pub(crate) fn log_start(&self) -> Offset {
        self.log_start
    }

    /// The log start that the checkpoint and the entries name, which files may not reach down to.
    pub(crate) fn declared_log_start(&self) -> Offset {
        self.declared_log_start
    }

    pub(crate) fn next_offset(&self) -> Offset {
        self.next_offset
    }

    pub(crate) fn last_index(&self) -> EntryIndex {
        self.last_index
    }

    pub(crate) fn next_index(&self) -> EntryIndex {
        EntryIndex(self.last_index.0 + 1)
    }

    /// The term of the last entry.
    pub(crate) fn last_term(&self) -> LeaderEpoch {
        self.last_term
    }

    pub(crate) fn max_timestamp(&self) -> Option<(i64, Offset)> {
        self.max_timestamp
    }

    /// The walk enters a segment; the first one may begin anywhere.
    pub(crate) fn begin_segment(&mut self, base_index: EntryIndex, base_offset: Offset) {
        if !self.started {
            self.started = true;
            self.last_index = EntryIndex(base_index.0.saturating_sub(1));
            self.log_start = self.log_start.max(base_offset);
        }
        self.next_offset = self.next_offset.max(base_offset);
    }

    /// Damage: what lies before is gone, the log goes on behind `last` at `next_offset`.
    pub(crate) fn skip(&mut self, last: EntryIndex, next_offset: Offset) {
        self.last_index = self.last_index.max(last);
        self.next_offset = self.next_offset.max(next_offset);
    }

    /// The front of the log is damaged, not deleted: it is still part of it.
    pub(crate) fn restore_log_start(&mut self, log_start: Offset) {
        self.log_start = self.log_start.min(log_start);
    }

    /// Takes what is known of producers up to `index`, before entries are taken in.
    pub(crate) fn adopt_producers(&mut self, producers: ProducerStates, index: EntryIndex) {
        self.producers = producers;
        self.producers_known_to = index;
    }

    /// Takes in all entries of a segment that its index file speaks of, but for their producers.
    pub(crate) fn adopt(&mut self, file: &IndexFile) {
        self.last_index = file.last_index;
        self.next_offset = self.next_offset.max(file.next_offset);
        for start in &file.epochs {
            self.last_term = self.last_term.max(start.epoch);
            if self.epochs.last().is_none_or(|(epoch, _)| *epoch < start.epoch) {
                self.epochs.push((start.epoch, start.offset));
            }
        }
        if let Some((timestamp, offset)) = file.max_timestamp
            && self.max_timestamp.is_none_or(|(highest, _)| timestamp > highest)
        {
            self.max_timestamp = Some((timestamp, offset));
        }
    }

    /// The index of the newest entry known that says all of the producers.
    pub(crate) fn producers_said_at(&self) -> EntryIndex {
        self.producers_said_at
    }

    /// Segments at the front are gone; the first one that is left begins at `base_offset`. What is known
    /// is then what an open would find in those that are left.
    pub(crate) fn forget_front(&mut self, base_offset: Offset, newest: Option<(i64, Offset)>) {
        let behind = self.epochs.partition_point(|(_, start)| *start <= base_offset);
        self.epochs.drain(..behind.saturating_sub(1));
        if let Some((_, start)) = self.epochs.first_mut() {
            *start = (*start).max(base_offset);
        }
        self.max_timestamp = newest;
    }

    fn raise_log_start(&mut self, log_start: Offset) {
        self.log_start = self.log_start.max(log_start);
        self.declared_log_start = self.declared_log_start.max(log_start);
    }

    /// Takes one entry in.
    ///
    /// # Errors
    /// Its internal payload cannot be read; nothing changed.
    pub(crate) fn accept(
        &mut self,
        header: &EntryHeader,
        batch: Option<&BatchHeader>,
        payload: &[u8],
    ) -> Result<(), ProducerStateError> {
        if header.kind == EntryKind::ProducerState {
            let (producers, log_start) = ProducerStates::decode(payload)?;
            check_log_start(log_start, header)?;
            if header.index > self.producers_known_to {
                self.producers = producers;
            }
            self.producers_said_at = header.index;
            self.raise_log_start(log_start);
        }
        if header.kind == EntryKind::LogStart {
            let log_start = decode_log_start(payload)?;
            check_log_start(log_start, header)?;
            self.raise_log_start(log_start);
        }
        if header.kind.has_index() {
            self.last_index = header.index;
        }
        self.last_term = header.term;
        self.next_offset = header.next_offset();
        if self.epochs.last().is_none_or(|(epoch, _)| *epoch < header.term) {
            self.epochs.push((header.term, header.base_offset));
        }
        if let Some(batch) = batch {
            let newer = self
                .max_timestamp
                .is_none_or(|(highest, _)| header.max_timestamp > highest);
            if newer {
                self.max_timestamp = Some((header.max_timestamp, header.base_offset));
            }
            let is_news = header.index > self.producers_known_to;
            if is_news && batch.has_producer_id() && !batch.is_control() {
                let remembered = ProducerBatch {
                    first_sequence: batch.base_sequence,
                    last_sequence: batch.last_sequence(),
                    base_offset: header.base_offset,
                    last_offset: header.last_offset(),
                    timestamp: header.max_timestamp,
                };
                self.producers
                    .record(batch.producer_id, batch.producer_epoch, remembered);
            }
        }
        Ok(())
    }

    /// The offset at which epochs behind `epoch` begin, if there are any.
    pub(crate) fn first_offset_behind(&self, epoch: LeaderEpoch) -> Option<Offset> {
        let after = self.epochs.partition_point(|(known, _)| *known <= epoch);
        self.epochs.get(after).map(|(_, start)| *start)
    }

    /// Where the largest epoch at or below `epoch` ends; (-1, -1) if there is none.
    pub(crate) fn epoch_end_offset(&self, epoch: LeaderEpoch, current: LeaderEpoch) -> (LeaderEpoch, Offset) {
        let after = self.epochs.partition_point(|(known, _)| *known <= epoch);
        if epoch == current {
            return (epoch, self.next_offset);
        }
        if epoch > current {
            return (LeaderEpoch(-1), Offset(-1));
        }
        let Some((found, _)) = after.checked_sub(1).and_then(|at| self.epochs.get(at)) else {
            let end = self.epochs.first().map_or(Offset(-1), |(_, start)| *start);
            return if end.0 < 0 {
                (LeaderEpoch(-1), end)
            } else {
                (epoch, end)
            };
        };
        let end = self
            .epochs
            .get(after)
            .map_or(self.next_offset, |(_, start)| *start);
        (*found, end)
    }
}

/// An entry that moves the log start is written behind what it deletes.
fn check_log_start(log_start: Offset, header: &EntryHeader) -> Result<(), ProducerStateError> {
    if log_start > header.base_offset {
        return Err(ProducerStateError::Contradiction);
    }
    Ok(())
}
