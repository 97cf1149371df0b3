//! Truncation: everything behind an epoch and an offset is removed for good.
//!
//! Runs inside the future of an opening, on the thread that owns the partition. Invariants:
//! - one write decides: once the header of the segment that the log goes on in is durable, and its name, what lies
//!   behind the cut is dead wherever it lies ([`crate::recovery::truncations`]); before that, nothing is;
//! - only then are files removed; a crash in between leaves files that count for nothing;
//! - the segment that was cut is not written to again: readers may still hold it;
//! - nothing of a segment that is held ([`super::hold`]) is cut: the truncation is refused;
//! - the leader epoch is raised, so no offset behind the cut is given out twice under one epoch;
//! - the log start never falls.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::io;

use super::PartitionLog;
use super::open::Opener;
use super::open_error::Failure;
use super::segment::{Mark, Segment};
use super::state::LogState;
use crate::checkpoint::{PartitionCheckpoint, SegmentCheckpoint};
use crate::disk::ReadSource;
use crate::entry::{ENTRY_VERSION, EntryHeader, EntryKind, payload_crc};
use crate::ids::{EntryIndex, FilePosition, LeaderEpoch, Offset};
use crate::producer_state::encode_log_start;
use crate::recovery::RecoveryBug;
use crate::recovery::scan::Probe;

/// Where a log is cut: by epoch and offset, as OffsetForLeaderEpoch answers them (KIP-101, KIP-279).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncation {
    /// Entries of later epochs go.
    pub epoch: LeaderEpoch,
    /// And so do batches that reach to this offset or beyond.
    pub end_offset: Offset,
}

impl Opener {
    /// Opens the log, and cuts it if it has anything to be cut.
    pub(super) async fn open_truncated(&mut self, to: Truncation) -> Result<PartitionLog, Failure> {
        let mut log = self.open().await?;
        let Some(cut) = self.find_cut(&log.segments, &log.state, to).await? else {
            // What the log was closed with need not be on the disk: a crash now would raise the epoch to this again.
            log.term_durable = false;
            return Ok(log);
        };
        let end_offset = cut.next_offset.min(to.end_offset);
        if end_offset < log.log_start_offset() {
            return Err(Failure::CutBelowLogStart {
                end_offset,
                log_start: log.log_start_offset(),
            });
        }
        let base_index = EntryIndex(cut.index.0 + 1);
        let is_cut = |segment: &&Segment| segment.tail.index >= base_index;
        if log
            .segments
            .iter()
            .filter(is_cut)
            .any(|segment| log.is_held(segment))
        {
            return Err(Failure::CutHeld { end_offset });
        }
        self.truncations = log
            .truncations
            .checked_add(1)
            .ok_or_else(|| io::Error::other("the log was truncated too often"))?;
        let early = self.options.bug == RecoveryBug::RemoveBeforeCut;
        if early {
            self.remove_dead(&log.segments, base_index).await?;
        }
        let generation = log.used_generations.get(&base_index).map_or(0, |used| used + 1);
        let place = (base_index, cut.next_offset);
        let first = self.log_start_entry(&log, &cut)?;
        let goes_on = self
            .create_segment_with(log.next_segment_id, place, generation, first)
            .await?;
        if !early {
            self.remove_dead(&log.segments, base_index).await?;
        }
        self.spec.checkpoint = Some(checkpoint_of(&log, &cut, &goes_on));
        self.options.term_floor = self.options.term_floor.max(log.term);
        self.options.checkpoint_is_old = false;
        self.options.continue_in_new_file = false;
        self.options.readers_may_remain = true;
        drop((log, goes_on));
        self.report.clean = false;
        let log = self.recover().await?;
        self.report.truncated = Some(cut.next_offset);
        Ok(log)
    }

    /// Where the last entry ends that stays; `None` if all do.
    async fn find_cut(
        &self,
        segments: &[Segment],
        state: &LogState,
        to: Truncation,
    ) -> Result<Option<Mark>, Failure> {
        let later = state.first_offset_behind(to.epoch);
        let end_offset = later.map_or(to.end_offset, |later| later.min(to.end_offset));
        let stays = |next_offset, term| next_offset <= end_offset && term <= to.epoch;
        for segment in segments.iter().rev() {
            if segment.is_empty() || segment.base_offset() > end_offset {
                continue;
            }
            if stays(segment.tail.next_offset, segment.last_term()) {
                let is_all = segment.tail.index == state.last_index();
                return Ok((!is_all).then_some(segment.tail));
            }
            if let Some(mark) = self.last_that_stays(segment, end_offset, stays).await? {
                return Ok(Some(mark));
            }
        }
        // Nothing stays, if there is anything.
        let first = segments
            .first()
            .filter(|_| segments.iter().any(|segment| !segment.is_empty()));
        Ok(first.map(|first| Mark {
            position: Segment::FIRST_ENTRY,
            index: EntryIndex(first.base_index().0 - 1),
            next_offset: first.base_offset(),
            crc: 0,
        }))
    }

    /// The end of the last entry of a segment that stays. Looks further and further to the front, since the index
    /// only knows some entries.
    async fn last_that_stays(
        &self,
        segment: &Segment,
        end_offset: Offset,
        stays: impl Fn(Offset, LeaderEpoch) -> bool,
    ) -> io::Result<Option<Mark>> {
        let Some(mut window) = segment.window(&self.io, ReadSource::Cached) else {
            return Ok(None);
        };
        let mut before = Offset(end_offset.0 - 1);
        loop {
            let point = segment.index.floor_by_offset(before);
            let mut position = point.map_or(Segment::FIRST_ENTRY, |point| point.position.0);
            let begin = position;
            let mut last = None;
            while position < segment.tail.position {
                match window.probe(position, 0, false).await? {
                    Probe::Entry { header, .. } | Probe::BadPayload(header) => {
                        if !stays(header.next_offset(), header.term) {
                            break;
                        }
                        position += header.entry_len() as u64;
                        last = Some(Mark {
                            position,
                            index: header.index,
                            next_offset: header.next_offset(),
                            crc: header.header_crc,
                        });
                    }
                    // Damage that was gone around: the log goes on behind it.
                    _ => match segment.resumes.iter().find(|(_, at)| *at > position) {
                        Some((_, at)) => position = *at,
                        None => break,
                    },
                }
            }
            if last.is_some() || begin == Segment::FIRST_ENTRY {
                return Ok(last);
            }
            before = Offset(point.map_or(-1, |point| point.base_offset.0 - 1));
        }
    }

    /// What was deleted stays deleted: the entry that says so may be behind the cut. That files begin there says
    /// nothing: an older checkpoint may name those before, and would call them lost.
    fn log_start_entry(
        &self,
        log: &PartitionLog,
        cut: &Mark,
    ) -> Result<Option<(EntryHeader, Vec<u8>)>, Failure> {
        let (kind, log_start) = (EntryKind::LogStart, log.log_start_offset());
        if log_start == Offset(0) {
            return Ok(None);
        }
        let payload = encode_log_start(log_start);
        let header = EntryHeader {
            version: ENTRY_VERSION,
            kind,
            flags: 0,
            payload_len: u32::try_from(payload.len()).unwrap_or(u32::MAX),
            payload_crc: payload_crc(kind, 0, &payload),
            term: self.raised_term(log.term)?,
            index: EntryIndex(cut.index.0 + 1),
            base_offset: cut.next_offset,
            last_offset_delta: -1,
            prev_crc: 0,
            header_crc: 0,
            max_timestamp: -1,
            durable_gap: 1,
        };
        Ok(Some((header, payload)))
    }

    /// Removes what begins behind the cut, and index files that say more than is left.
    async fn remove_dead(&mut self, segments: &[Segment], base_index: EntryIndex) -> io::Result<()> {
        let directory = self.spec.directory.clone();
        for segment in segments.iter().rev() {
            let is_cut = segment.tail.index >= base_index;
            if is_cut || segment.base_index() >= base_index {
                let index = segment.header.index_file_name();
                self.io.unlink_if_present(&directory.join(index)).await?;
            }
            if segment.base_index() >= base_index {
                self.io.unlink_if_present(&directory.join(segment.name())).await?;
            }
        }
        self.io.sync_dir(&directory).await
    }
}

/// What was durable of the log that is left: it spares reading what lies before the segment that was cut.
fn checkpoint_of(log: &PartitionLog, cut: &Mark, goes_on: &Segment) -> PartitionCheckpoint {
    let kept = log
        .segments
        .iter()
        .filter(|segment| segment.base_index() <= cut.index);
    let mut segments: Vec<SegmentCheckpoint> = kept.map(Segment::checkpoint).collect();
    let recovery_point = segments.last().map_or(cut.index, |last| last.base_index);
    if let Some(last) = segments.last_mut() {
        last.length = FilePosition(cut.position);
        last.crc_chain_end = cut.crc;
        last.durable_index = cut.index;
    }
    segments.push(goes_on.checkpoint());
    PartitionCheckpoint {
        key: log.key,
        term: log.term,
        log_start: log.segments.first().map_or(Offset(0), Segment::base_offset),
        recovery_point,
        raft_base: EntryIndex(0),
        durable_index: cut.index,
        next_offset: cut.next_offset,
        producer_state: Vec::new(),
        segments,
    }
}
