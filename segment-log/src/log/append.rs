//! Appends: from a validated batch to staged bytes, and from there to the file.
//!
//! Runs on the partition's shard thread. Invariants:
//! - the batch's bytes behind the patched prefix are never changed, and not copied when large;
//! - every write begins at the written end and goes to the end of a page, the rest zeros;
//! - nothing is written beyond what was allocated, so a full disk is noticed before a write fails.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::io;

use bytes::Bytes;

use super::segment::{Creation, Mark, OutstandingWrite, Segment, StagedRest};
use super::{AppendError, LogStatus, PartitionLog, Purpose};
use crate::batch::{BATCH_PREFIX_LEN, BatchHeader, patch_prefix};
use crate::disk::{Disk, DiskOp, DiskOutput, WriteNow, is_out_of_descriptors};
use crate::entry::{
    DURABLE_GAP_UNKNOWN, ENTRY_VERSION, EntryHeader, EntryKind, entry_len, padding_len, payload_crc,
};
use crate::ids::{EntryIndex, LeaderEpoch, Offset};
use crate::limits::{
    ENTRY_PAYLOAD_BYTES_MAX, EXTENT_BYTES_MAX, SEGMENT_BYTES_MAX, STAGED_BYTES_MAX, STAGED_ENTRY_BYTES_MAX,
    STAGED_PIECES_MAX,
};
use crate::reserve::is_full;

/// What an append got. It is in the log's order, but maybe neither written nor durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the batch's first record.
    pub base_offset: Offset,
    /// Offset of its last record.
    pub last_offset: Offset,
    /// The entry's index.
    pub index: EntryIndex,
}

/// Who gives a batch its offset and leader epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// This log: the next offset, the current epoch.
    Next,
    /// Another one, before.
    Assigned,
}

/// How many entries lie between an index and the durable one, as a header says it.
fn durable_gap(index: EntryIndex, durable: EntryIndex) -> u32 {
    u32::try_from(index.0.saturating_sub(durable.0)).unwrap_or(DURABLE_GAP_UNKNOWN)
}

/// A fault planted in the writes of a log, to show that the tests would find it.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriteBug {
    /// None.
    #[default]
    None,
    /// A segment is written to while another write of it is outstanding, whose padding may come down later.
    BesideAnother,
}

impl PartitionLog {
    /// Appends a validated batch (its lengths, CRC and sequences were checked by the caller) under
    /// the next offset and the current leader epoch.
    ///
    /// When it returns, the batch has its offset and is recorded in the producer states; it is
    /// written at the next [`PartitionLog::flush`] at the latest.
    ///
    /// # Errors
    /// Nothing was appended; the variants say what to do.
    pub fn append(
        &mut self,
        now_ms: i64,
        disk: &mut dyn Disk,
        batch: &Bytes,
    ) -> Result<Appended, AppendError> {
        self.append_at(now_ms, disk, batch, Place::Next)
    }

    /// Appends a validated batch as it is: under the base offset and the leader epoch that it carries, which
    /// another log gave it. Offsets between the log end and its base offset stay without records. The epoch is not
    /// below that of the entry before; one above the current epoch becomes the current one.
    ///
    /// # Errors
    /// Nothing was appended; the variants say what to do.
    pub fn append_assigned(
        &mut self,
        now_ms: i64,
        disk: &mut dyn Disk,
        batch: &Bytes,
    ) -> Result<Appended, AppendError> {
        self.append_at(now_ms, disk, batch, Place::Assigned)
    }

    /// The place that a batch was given, if it lies behind the log.
    fn check_assigned(&self, batch: &BatchHeader) -> Result<(Offset, LeaderEpoch), AppendError> {
        let (log_end, lowest) = (self.state.next_offset(), self.state.last_term());
        if batch.base_offset < log_end {
            return Err(AppendError::OffsetTaken {
                given: batch.base_offset,
                log_end,
            });
        }
        if batch.partition_leader_epoch < lowest {
            return Err(AppendError::EpochFalls {
                given: batch.partition_leader_epoch,
                lowest,
            });
        }
        Ok((batch.base_offset, batch.partition_leader_epoch))
    }

    fn append_at(
        &mut self,
        now_ms: i64,
        disk: &mut dyn Disk,
        batch: &Bytes,
        place: Place,
    ) -> Result<Appended, AppendError> {
        self.check_appendable()?;
        let parsed = BatchHeader::parse(batch)?;
        let length = || AppendError::Length {
            batch_bytes: parsed.total_len(),
            given_bytes: batch.len(),
        };
        let payload_len = u32::try_from(batch.len()).map_err(|_| length())?;
        if parsed.total_len() != batch.len()
            || payload_len > ENTRY_PAYLOAD_BYTES_MAX
            || parsed.last_offset_delta < 0
        {
            return Err(length());
        }
        let (base_offset, term) = match place {
            Place::Next => (self.state.next_offset(), self.term),
            Place::Assigned => self.check_assigned(&parsed)?,
        };
        let delta = i64::from(parsed.last_offset_delta);
        if base_offset.0.checked_add(delta + 2).is_none() {
            return Err(AppendError::OffsetsUsedUp);
        }
        // What the log writes by itself, as at a roll, has the epoch of its neighbours.
        self.assigned_term = (place == Place::Assigned).then_some(term);
        self.make_room(now_ms, disk, entry_len(payload_len) as u64)?;

        let prefix = patch_prefix(batch, base_offset, term);
        let stored = BatchHeader {
            base_offset,
            partition_leader_epoch: term,
            ..parsed
        };
        self.term = self.term.max(term);
        let mut header = self.next_header(EntryKind::Data, payload_len);
        (header.base_offset, header.term) = (base_offset, term);
        header.payload_crc = parsed.crc;
        header.last_offset_delta = parsed.last_offset_delta;
        header.max_timestamp = parsed.max_timestamp;
        let rest = if batch.len() < STAGED_ENTRY_BYTES_MAX {
            StagedRest::Copy(batch.get(BATCH_PREFIX_LEN..).unwrap_or_default())
        } else {
            StagedRest::Share(batch.slice(BATCH_PREFIX_LEN..))
        };
        self.stage(&mut header, &prefix, rest);
        assert!(
            self.state.accept(&header, Some(&stored), &[]).is_ok(),
            "a data entry has no internal payload"
        );
        let appended = Appended {
            base_offset,
            last_offset: header.last_offset(),
            index: header.index,
        };
        let heavy = self.segments.last().is_some_and(|segment| {
            segment.staged_bytes >= STAGED_BYTES_MAX / 4 || segment.staged.len() >= STAGED_PIECES_MAX
        });
        if heavy {
            self.write_staged(disk);
        }
        Ok(appended)
    }

    pub(super) fn check_appendable(&self) -> Result<(), AppendError> {
        if self.status == LogStatus::Fenced {
            return Err(AppendError::Fenced);
        }
        if self.closing {
            return Err(AppendError::Closing);
        }
        if !self.term_durable {
            return Err(AppendError::TermNotDurable);
        }
        Ok(())
    }

    /// Bytes of appended entries that no space was asked for yet.
    pub fn unreserved_bytes(&self) -> u64 {
        let beyond = |segment: &Segment| {
            let reserved = segment.allocating.unwrap_or(0).max(segment.allocated);
            segment.page_end().saturating_sub(reserved)
        };
        self.segments.last().map_or(0, beyond)
    }

    /// Rolls if the entry needs a new segment, and refuses it if it would wait for too much.
    pub(super) fn make_room(
        &mut self,
        now_ms: i64,
        disk: &mut dyn Disk,
        entry_bytes: u64,
    ) -> Result<(), AppendError> {
        let segment_bytes = self.config.segment_bytes.min(SEGMENT_BYTES_MAX);
        let Some(active) = self.segments.last() else {
            return Err(AppendError::Backlogged);
        };
        let end = active.tail.position + entry_bytes;
        let too_old = !active.is_empty() && now_ms.saturating_sub(active.opened_ms) >= self.config.segment_ms;
        let wants_roll = !active.is_empty() && (end > segment_bytes || too_old);
        if wants_roll && active.no_space {
            return Err(AppendError::NoSpace);
        }
        // While the last roll is under way its segment may grow beyond the configured size.
        let settled = active.creation == Creation::Ready && active.write.is_none();
        if wants_roll && !settled && end > SEGMENT_BYTES_MAX {
            return Err(AppendError::Backlogged);
        }
        if wants_roll && settled {
            self.roll(now_ms, disk)?;
        }
        let Some(active) = self.segments.last() else {
            return Err(AppendError::Backlogged);
        };
        let end = active.tail.position + entry_bytes;
        if active.no_space && end > active.allocated {
            return Err(AppendError::NoSpace);
        }
        let staged = active.staged_bytes as u64;
        if staged > 0 && staged + entry_bytes > STAGED_BYTES_MAX as u64 {
            return Err(AppendError::Backlogged);
        }
        Ok(())
    }

    /// The header of the next entry with an index, for the last segment; kinds without offsets.
    pub(super) fn next_header(&self, kind: EntryKind, payload_len: u32) -> EntryHeader {
        let index = self.state.next_index();
        EntryHeader {
            version: ENTRY_VERSION,
            kind,
            flags: 0,
            payload_len,
            payload_crc: 0,
            term: self.assigned_term.unwrap_or(self.term),
            index,
            base_offset: self.state.next_offset(),
            last_offset_delta: -1,
            prev_crc: self.segments.last().map_or(0, |segment| segment.tail.crc),
            header_crc: 0,
            max_timestamp: -1,
            durable_gap: durable_gap(index, self.durable.index),
        }
    }

    /// Stages the entry in the last segment and moves that segment's tail.
    pub(super) fn stage(&mut self, header: &mut EntryHeader, prefix: &[u8], rest: StagedRest<'_>) {
        let Some(segment) = self.segments.last_mut() else {
            return;
        };
        let incarnation = segment.incarnation();
        let head = header.encode(&incarnation, prefix);
        segment.stage([&head, prefix], rest, padding_len(header.payload_len));
        segment.push(header);
    }

    /// Stages an internal entry.
    pub(super) fn stage_internal(&mut self, kind: EntryKind, payload: &[u8]) {
        let mut header = self.next_header(kind, u32::try_from(payload.len()).unwrap_or(u32::MAX));
        header.payload_crc = payload_crc(kind, 0, payload);
        self.stage(&mut header, payload, StagedRest::Copy(&[]));
        assert!(
            self.state.accept(&header, None, payload).is_ok(),
            "our own payload can be read"
        );
    }

    /// Writes what is staged and starts a commit where the durability asks for one. Called by the
    /// shard once per loop turn; cheap when there is nothing to do.
    pub fn flush(&mut self, now_ms: i64, disk: &mut dyn Disk) {
        self.write_staged(disk);
        self.start_commit(now_ms, disk);
        self.settle_closed(disk);
        self.write_index_files(disk);
    }

    fn write_staged(&mut self, disk: &mut dyn Disk) {
        for at in self.first_unsynced..self.segments.len() {
            if self.status == LogStatus::Fenced {
                return;
            }
            self.write_segment(at, disk);
        }
    }

    fn write_segment(&mut self, at: usize, disk: &mut dyn Disk) {
        self.extend_ahead(at, disk);
        let (keeps, early) = (self.may_go_by_journal(), self.is_grouped);
        let one_at_a_time = self.options.write_bug == WriteBug::None;
        let Some(segment) = self.segments.get_mut(at) else {
            return;
        };
        let Some(file) = segment.file.clone() else { return };
        let waits = !takes_writes(segment.creation, early)
            || (segment.write.is_some() && one_at_a_time)
            || segment.staged_bytes == 0
            || segment.page_end() > segment.allocated;
        if waits {
            return;
        }
        let outstanding = segment.write.as_ref().map(|write| write.then.position);
        let position = outstanding.unwrap_or(segment.written.position);
        let written = disk.write_now(&file, position, &segment.staged_slices());
        match written {
            Ok(WriteNow::Done) => {
                segment.written = segment.tail;
                segment.staged_is_written(keeps);
            }
            Ok(WriteNow::WouldStall) if outstanding.is_some() => {}
            Ok(WriteNow::WouldStall) => {
                let data = segment.staged_in_one();
                let (id, then) = (segment.id, segment.tail);
                segment.write = Some(OutstandingWrite {
                    position,
                    data: data.clone(),
                    then,
                    entries: data.slice(..segment.staged_bytes),
                });
                segment.clear_staged();
                self.submit(disk, Purpose::Write(id), DiskOp::Write { file, position, data });
            }
            // Nothing was written: it stays staged until the next flush.
            Err(error) if is_out_of_descriptors(&error) => {}
            Err(error) => self.fence(error),
        }
    }

    /// Asks for the next extent when the current one is used up or nearly so.
    fn extend_ahead(&mut self, at: usize, disk: &mut dyn Disk) {
        let is_last = at + 1 == self.segments.len();
        let (early, is_volatile) = (self.is_grouped, self.options.is_volatile);
        let Some(segment) = self.segments.get_mut(at) else {
            return;
        };
        let Some(file) = segment.file.clone() else { return };
        if !takes_writes(segment.creation, early)
            || segment.allocating.is_some()
            || segment.no_space
            || segment.is_empty()
        {
            return;
        }
        let needed = segment.page_end();
        let runs_out = needed > segment.allocated;
        let ahead = is_last && segment.allocated.saturating_sub(needed) < segment.extent / 8;
        if !runs_out && !ahead {
            return;
        }
        let end = (segment.allocated + segment.extent)
            .max(needed)
            .next_multiple_of(super::segment::PAGE_BYTES);
        segment.allocating = Some(end);
        if !is_volatile {
            segment.extent = (segment.extent * 2).min(EXTENT_BYTES_MAX);
        }
        let (id, range) = (segment.id, segment.allocated..end);
        self.submit(disk, Purpose::Extend(id), DiskOp::Fallocate { file, range });
    }

    pub(super) fn extend_completed(&mut self, id: u64, result: io::Result<DiskOutput>, disk: &mut dyn Disk) {
        let Some(segment) = self.segment_by_id(id) else {
            return;
        };
        let end = segment.allocating.take();
        match result {
            // There may be room for less.
            Err(error) if is_full(&error) && end > Some(segment.least_extent_end()) => {
                segment.asks_for_little();
                self.ask_for_space_again(disk);
            }
            Ok(_) => {
                segment.allocated = end.unwrap_or(segment.allocated);
                segment.has_what_it_asked_for();
            }
            Err(error) if is_full(&error) => segment.met_full_disk(),
            // It may be there again at the next tick.
            Err(error) if is_out_of_descriptors(&error) => segment.no_space = true,
            Err(error) => self.fence(error),
        }
    }

    pub(super) fn write_completed(&mut self, id: u64, result: io::Result<DiskOutput>, disk: &mut dyn Disk) {
        let fenced = self.status == LogStatus::Fenced;
        let keeps = self.may_go_by_journal();
        let Some(segment) = self.segment_by_id(id) else {
            return;
        };
        let Some(mut write) = segment.write.take() else {
            return;
        };
        let count = match result {
            Ok(DiskOutput::Written(count)) if count > 0 => count,
            Ok(_) => return self.fence(io::ErrorKind::WriteZero.into()),
            Err(error) => return self.fence(error),
        };
        if count >= write.data.len() {
            // Further on already only by a planted fault.
            if segment.written.position < write.then.position {
                segment.written = write.then;
            }
            segment.pending.take_written(keeps, write.entries);
            return;
        }
        if fenced {
            return;
        }
        write.position += count as u64;
        write.data = write.data.slice(count..);
        let (position, data) = (write.position, write.data.clone());
        segment.write = Some(write);
        if let Some(file) = segment.file.clone() {
            self.submit(disk, Purpose::Write(id), DiskOp::Write { file, position, data });
        }
    }

    /// The mark at the end of everything appended.
    pub(super) fn tail(&self) -> Mark {
        self.segments
            .last()
            .map_or(self.durable, |segment: &Segment| segment.tail)
    }

    /// The leader epoch of the last entry, at most the current one.
    pub fn last_entry_epoch(&self) -> LeaderEpoch {
        self.state.last_term()
    }
}

/// Whether entries may be written to a segment that is being made. `early`: before its header and name are
/// durable, since a journal can make the file again.
fn takes_writes(creation: Creation, early: bool) -> bool {
    creation == Creation::Ready || (early && creation.is_writable())
}
