//! Recycling: the file of a removed segment is kept as a spare of its partition, and becomes a later segment.
//!
//! Runs on the partition's shard thread. What was written before is written again for less: no space is to be
//! reserved, and a sync has no new space to record in the file system's journal. Invariants:
//! - a file becomes a spare only while it is free ([`Segment::is_free`]) and has one name, by a rename in the place
//!   of the unlink that [`super::front`] would do, and in that one's order;
//! - a spare is used only once the sync of the directory that made its name durable has ended;
//! - its new header, with an incarnation of its own, is durable before it gets a segment's name, and that name is
//!   durable before an entry is written to it: until then what it holds of its former life is a spare's;
//! - nothing of its former life is read, neither by the log (whole pages are written) nor by a recovery, where no
//!   entry verifies under the new incarnation;
//! - spares are a convenience: one that cannot be used is removed, and the segment gets a new file.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use bytes::Bytes;

use super::front::RemovalBug;
use super::segment::{Creation, PAGE_BYTES, Segment};
use super::spares::{SpareBudget, SpareCharge};
use super::{Durability, PartitionLog, Purpose};
use crate::disk::{Disk, DiskOp, DiskOutput, is_out_of_descriptors};
use crate::ids::Incarnation;
use crate::limits::{SPARE_KEPT_MS_MAX, SPARES_PER_LOG_MAX};
use crate::log::machine::Io;
use crate::segment_header::SEGMENT_HEADER_LEN;

/// Behind the name that its segment had.
const SPARE_SUFFIX: &str = ".spare";

/// A file that was a segment and may be one again.
#[derive(Debug)]
pub(crate) struct Spare {
    name: String,
    /// Under what its entries verify, where that is known.
    incarnation: Option<Incarnation>,
    since_ms: i64,
    charge: SpareCharge,
}

/// The spares of one log.
#[derive(Debug, Default)]
pub(super) struct Spares {
    /// Oldest first.
    kept: VecDeque<Spare>,
    /// Those whose unlinks are under way.
    leaving: Vec<(u64, Spare)>,
    next_leaving: u64,
}

/// How far a segment is that is made of a spare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpareStep {
    Opening,
    Measuring,
    CountingNames,
    Reserving,
    WritingHeader { written: usize },
    Syncing,
    Naming,
    SyncingDirectory,
    Reopening,
}

impl SpareStep {
    /// Whether the file may have its segment's name by now.
    fn is_named(self) -> bool {
        matches!(
            self,
            SpareStep::Naming | SpareStep::SyncingDirectory | SpareStep::Reopening
        )
    }
}

/// Whether a name is a spare's.
pub(crate) fn is_spare_name(name: &str) -> bool {
    name.strip_suffix(SPARE_SUFFIX)
        .is_some_and(|segment| crate::segment_header::parse_segment_file_name(segment).is_some())
}

/// The name of a segment's file once it is a spare.
pub(super) fn spare_name(segment: &str) -> String {
    format!("{segment}{SPARE_SUFFIX}")
}

/// Whether an entry of one incarnation could verify under the other. A checksum that covers both in the same place
/// is the same for both, or for none of all entries: so this is known before an entry is written.
fn is_told_apart(one: &Incarnation, other: &Incarnation) -> bool {
    crc32fast::hash(&one.0) != crc32fast::hash(&other.0)
}

impl Spares {
    pub(super) fn is_full(&self) -> bool {
        self.kept.len() >= SPARES_PER_LOG_MAX
    }

    fn push(&mut self, spare: Spare) {
        self.kept.push_back(spare);
    }

    /// Those that were found at an open are kept from now on.
    pub(super) fn opened(&mut self, now_ms: i64) {
        self.kept.iter_mut().for_each(|spare| spare.since_ms = now_ms);
    }
}

impl PartitionLog {
    /// How many spare files it keeps.
    pub fn spare_count(&self) -> usize {
        self.spares.kept.len()
    }

    /// The room for the file of segment `id` among the spares, if it is worth keeping and may be kept.
    pub(super) fn charge_spare(&self, id: u64, now_ms: i64) -> Option<SpareCharge> {
        let budget = self.options.spares.as_ref()?;
        let segment = self.segments.iter().find(|segment| segment.id == id)?;
        let is_free = segment.is_free() || self.options.removal_bug == RemovalBug::RecycleUsed;
        let bytes = segment.allocated.max(segment.file_len);
        let fits = is_free && bytes >= budget.file_bytes_min() && !self.spares.is_full();
        (fits && self.is_warm(now_ms)).then(|| budget.charge(bytes))?
    }

    /// Whether its next segment is likely to be wanted soon, and to be synced as it is written.
    fn is_warm(&self, now_ms: i64) -> bool {
        let is_recent = |segment: &Segment| now_ms.saturating_sub(segment.opened_ms) < SPARE_KEPT_MS_MAX;
        self.config.durability != Durability::Os && self.segments.last().is_some_and(is_recent)
    }

    /// The file of a segment that is gone has its spare's name, durably.
    pub(super) fn keep_spare(&mut self, segment: &Segment, charge: SpareCharge, now_ms: i64) {
        self.spares.push(Spare {
            name: spare_name(&segment.name()),
            incarnation: Some(segment.incarnation()),
            since_ms: now_ms,
            charge,
        });
    }

    /// The spare that the next segment is made of, and the incarnation that segment gets.
    pub(super) fn take_spare(&mut self) -> io::Result<(Option<Spare>, Incarnation)> {
        let before = self.spares.kept.front().and_then(|spare| spare.incarnation);
        let mut incarnation = self.incarnations.next()?;
        if let Some(before) = before {
            // One in four billion.
            while !is_told_apart(&before, &incarnation) {
                incarnation = self.incarnations.next()?;
            }
            if self.options.removal_bug == RemovalBug::KeepIncarnation {
                incarnation = before;
            }
        }
        let spare = match self.config.durability {
            Durability::Os => None,
            Durability::Fsync | Durability::Interval { .. } => self.spares.kept.pop_front(),
        };
        Ok((spare, incarnation))
    }

    /// Removes spares that nobody will want soon, or whose space is wanted.
    pub(super) fn give_back_spares(&mut self, now_ms: i64, disk: &mut dyn Disk) {
        if self.spares.kept.is_empty() || self.closing {
            return;
        }
        let is_wanted_back = self
            .options
            .spares
            .as_ref()
            .is_none_or(SpareBudget::is_wanted_back);
        let all = is_wanted_back || self.config.durability == Durability::Os || self.has_met_full_disk();
        while let Some(oldest) = self.spares.kept.front() {
            if !all && now_ms.saturating_sub(oldest.since_ms) < SPARE_KEPT_MS_MAX {
                return;
            }
            let Some(spare) = self.spares.kept.pop_front() else {
                return;
            };
            self.unlink_spare(spare, disk);
        }
    }

    fn unlink_spare(&mut self, spare: Spare, disk: &mut dyn Disk) {
        let path = self.directory.join(&spare.name);
        let id = self.spares.next_leaving;
        self.spares.next_leaving += 1;
        self.spares.leaving.push((id, spare));
        self.submit(disk, Purpose::DropSpare(id), DiskOp::Unlink { path });
    }

    /// One that could not be removed is found again at the next start.
    pub(super) fn spare_unlinked(&mut self, id: u64, result: io::Result<DiskOutput>) {
        self.spares.leaving.retain(|(leaving, _)| *leaving != id);
        if result.is_err_and(|error| error.kind() != io::ErrorKind::NotFound) {
            self.front.count_failure();
        }
    }

    /// The end of a step of making a segment of its spare.
    pub(super) fn recycling_completed(
        &mut self,
        id: u64,
        step: SpareStep,
        result: io::Result<DiskOutput>,
        disk: &mut dyn Disk,
    ) {
        let bug = self.options.removal_bug;
        let bytes_min = self
            .options
            .spares
            .as_ref()
            .map_or(0, SpareBudget::file_bytes_min);
        let Some(segment) = self.segment_by_id(id) else {
            return;
        };
        let output = match result {
            Ok(output) => output,
            Err(error) if is_out_of_descriptors(&error) => {
                segment.no_space = true;
                return;
            }
            // Whether it has the new name is not known.
            Err(error) if step.is_named() => return self.fence(error),
            Err(_) => return self.make_without_spare(id, disk),
        };
        let next = match (step, output) {
            (SpareStep::Opening, DiskOutput::File(file)) => {
                segment.file = Some(file);
                SpareStep::Measuring
            }
            (SpareStep::Measuring, DiskOutput::Len(len)) if len >= bytes_min.max(Segment::FIRST_ENTRY) => {
                segment.file_len = len - len % PAGE_BYTES;
                SpareStep::CountingNames
            }
            (SpareStep::CountingNames, DiskOutput::Links(1)) => SpareStep::Reserving,
            (SpareStep::Reserving, DiskOutput::Done) => SpareStep::WritingHeader { written: 0 },
            (SpareStep::WritingHeader { written }, DiskOutput::Written(count)) if count > 0 => {
                match written.saturating_add(count) {
                    written if written < SEGMENT_HEADER_LEN => SpareStep::WritingHeader { written },
                    _ => SpareStep::Syncing,
                }
            }
            (SpareStep::Syncing, DiskOutput::Done) => SpareStep::Naming,
            (SpareStep::Naming, DiskOutput::Done) if bug == RemovalBug::RecycleUnnamed => {
                SpareStep::Reopening
            }
            (SpareStep::Naming, DiskOutput::Done) => SpareStep::SyncingDirectory,
            (SpareStep::SyncingDirectory, DiskOutput::Done) => SpareStep::Reopening,
            (SpareStep::Reopening, DiskOutput::File(file)) => {
                segment.file = Some(file);
                segment.allocated = segment.file_len;
                segment.creation = Creation::Ready;
                segment.has_what_it_asked_for();
                if let Some(spare) = segment.spare.take() {
                    spare.charge.end_in_reuse();
                }
                return self.advance_durable();
            }
            (step, _) if step.is_named() => {
                return self.fence(io::Error::other("recycling a file answered out of order"));
            }
            // Too short, or somebody else's as well.
            _ => return self.make_without_spare(id, disk),
        };
        segment.creation = Creation::Recycling(next);
        segment.has_what_it_asked_for();
        self.go_on_creating(id, disk);
    }

    /// The next step of making a segment of its spare.
    pub(super) fn recycling_op(directory: &Path, segment: &Segment, step: SpareStep) -> Option<DiskOp> {
        let spare = || Some(directory.join(&segment.spare.as_ref()?.name));
        let file = || segment.file.clone();
        let named = directory.join(segment.name());
        Some(match step {
            SpareStep::Opening => DiskOp::Open { path: spare()? },
            SpareStep::Measuring => DiskOp::Len { file: file()? },
            SpareStep::CountingNames => DiskOp::LinkCount { file: file()? },
            // What was reserved and never written, or given to nobody, is noticed before a write fails.
            SpareStep::Reserving => DiskOp::Fallocate {
                file: file()?,
                range: 0..segment.file_len,
            },
            SpareStep::WritingHeader { written } => DiskOp::Write {
                file: file()?,
                position: written as u64,
                data: Bytes::from(segment.header.encode()).slice(written..),
            },
            SpareStep::Syncing => DiskOp::Sync { file: file()? },
            SpareStep::Naming => DiskOp::Rename {
                from: spare()?,
                to: named,
            },
            SpareStep::SyncingDirectory => DiskOp::SyncDir {
                path: directory.to_path_buf(),
            },
            SpareStep::Reopening => DiskOp::Open { path: named },
        })
    }

    /// The spare is of no use: it goes, and the segment gets a new file.
    fn make_without_spare(&mut self, id: u64, disk: &mut dyn Disk) {
        let Some(segment) = self.segment_by_id(id) else {
            return;
        };
        segment.file = None;
        segment.file_len = 0;
        segment.creation = Creation::CreatingFile;
        if let Some(spare) = segment.spare.take() {
            self.unlink_spare(*spare, disk);
        }
        self.go_on_creating(id, disk);
    }

    /// Takes up the spares that were found at an open, as far as there is room; the others go.
    pub(super) async fn adopt_spares(&mut self, io: &Io, names: Vec<String>) {
        for name in names {
            let path = self.directory.join(&name);
            let spare = match self.spares.is_full() {
                true => None,
                false => look_at(io, &path, self.options.spares.as_ref()).await,
            };
            match spare {
                Some(charge) => self.spares.push(Spare {
                    name,
                    incarnation: None,
                    since_ms: 0,
                    charge,
                }),
                // One that stays is found again at the next start.
                None => drop(io.unlink_if_present(&path).await),
            }
        }
    }
}

/// The room for a file that was found, if it may be a spare.
async fn look_at(io: &Io, path: &Path, budget: Option<&SpareBudget>) -> Option<SpareCharge> {
    let budget = budget?;
    let file = io.open(path).await.ok()?;
    let is_long_enough = |len: &u64| *len >= budget.file_bytes_min();
    let len = io.len(&file).await.ok().filter(is_long_enough)?;
    match io.output(DiskOp::LinkCount { file }).await {
        Ok(DiskOutput::Links(1)) => budget.charge(len),
        _ => None,
    }
}
