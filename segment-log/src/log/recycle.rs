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
//! - each so often a mark says that nothing behind it was made durable in this life; appends go over it;
//! - spares are a convenience: one that cannot be used is removed, and the segment gets a new file.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::front::RemovalBug;
use super::segment::{Creation, PAGE_BYTES, Segment};
use super::spares::{SpareBudget, SpareCharge};
use super::{Durability, PartitionLog, Purpose};
use crate::disk::{Disk, DiskOp, DiskOutput, is_out_of_descriptors};
use crate::end_mark::encode_end_mark;
use crate::ids::{FilePosition, Incarnation};
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

/// The spares of one log; nothing is held for those without.
#[derive(Debug, Default)]
pub(super) struct Spares(Option<Box<Held>>);

#[derive(Debug, Default)]
struct Held {
    /// Oldest first.
    kept: VecDeque<Spare>,
    /// The one that a segment is being made of: at most one segment is being made.
    used: Option<Spare>,
    /// The room for the file of the segment that is being removed.
    coming: Option<SpareCharge>,
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
    WritingHeader {
        written: u16,
    },
    /// Marks that say how far the new life has gone ([`crate::end_mark`]).
    WritingMark {
        page: u32,
        written: u16,
    },
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

/// The next mark, if it has a place in the file.
fn mark_or_sync(position: u64, file_len: u64) -> SpareStep {
    let fits = position.saturating_add(PAGE_BYTES) <= file_len;
    match u32::try_from(position / PAGE_BYTES).ok().filter(|_| fits) {
        Some(page) => SpareStep::WritingMark { page, written: 0 },
        None => SpareStep::Syncing,
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
        self.count() >= SPARES_PER_LOG_MAX
    }

    fn count(&self) -> usize {
        self.0.as_ref().map_or(0, |held| held.kept.len())
    }

    fn push(&mut self, spare: Spare) {
        self.0.get_or_insert_default().kept.push_back(spare);
    }

    fn oldest(&self) -> Option<&Spare> {
        self.0.as_ref()?.kept.front()
    }

    /// Takes the oldest for the segment that is to be made.
    fn use_oldest(&mut self) -> bool {
        if let Some(held) = &mut self.0 {
            held.used = held.kept.pop_front();
        }
        let is_used = self.0.as_ref().is_some_and(|held| held.used.is_some());
        self.rest();
        is_used
    }

    /// The one in use is a segment, or of no use.
    fn take_used(&mut self) -> Option<Spare> {
        let used = self.0.as_mut()?.used.take();
        self.rest();
        used
    }

    pub(super) fn used_path(&self, directory: &Path) -> Option<PathBuf> {
        let used = self.0.as_ref()?.used.as_ref()?;
        Some(directory.join(&used.name))
    }

    /// The file of the segment that is being removed is to be kept, or not any more.
    pub(super) fn expect(&mut self, charge: Option<SpareCharge>) -> bool {
        let is_expected = charge.is_some();
        match charge {
            Some(charge) => self.0.get_or_insert_default().coming = Some(charge),
            None => drop(self.take_coming()),
        }
        is_expected
    }

    fn take_coming(&mut self) -> Option<SpareCharge> {
        let coming = self.0.as_mut()?.coming.take();
        self.rest();
        coming
    }

    fn take_oldest(&mut self) -> Option<Spare> {
        let spare = self.0.as_mut()?.kept.pop_front();
        self.rest();
        spare
    }

    fn begin_leaving(&mut self, spare: Spare) -> u64 {
        let held = self.0.get_or_insert_default();
        let id = held.next_leaving;
        held.next_leaving += 1;
        held.leaving.push((id, spare));
        id
    }

    fn has_left(&mut self, id: u64) {
        if let Some(held) = &mut self.0 {
            held.leaving.retain(|(leaving, _)| *leaving != id);
        }
        self.rest();
    }

    fn rest(&mut self) {
        let is_empty = |held: &mut Box<Held>| {
            let is_busy = held.used.is_some() || held.coming.is_some();
            held.kept.is_empty() && held.leaving.is_empty() && !is_busy
        };
        self.0.take_if(is_empty);
    }

    /// Those that were found at an open are kept from now on.
    pub(super) fn opened(&mut self, now_ms: i64) {
        let kept = self.0.iter_mut().flat_map(|held| &mut held.kept);
        kept.for_each(|spare| spare.since_ms = now_ms);
    }
}

impl PartitionLog {
    /// How many spare files it keeps.
    pub fn spare_count(&self) -> usize {
        self.spares.count()
    }

    /// The room for the file of segment `id` among the spares, if it is worth keeping and may be kept.
    pub(super) fn charge_spare(&self, id: u64, now_ms: i64) -> Option<SpareCharge> {
        let budget = self.options.spares.as_ref()?;
        let segment = self.segments.iter().find(|segment| segment.id == id)?;
        let is_free =
            segment.is_free(&self.options.holds) || self.options.removal_bug == RemovalBug::RecycleUsed;
        let bytes = segment.allocated.max(segment.file_len);
        let fits = is_free && bytes >= budget.file_bytes_min() && !self.spares.is_full();
        (fits && self.is_warm(now_ms)).then(|| budget.charge(bytes))?
    }

    /// Whether its next segment is likely to be wanted soon, and to be synced as it is written.
    fn is_warm(&self, now_ms: i64) -> bool {
        let is_recent = |segment: &Segment| now_ms.saturating_sub(segment.opened_ms) < SPARE_KEPT_MS_MAX;
        self.config.durability != Durability::Os && self.segments.last().is_some_and(is_recent)
    }

    /// The file of a segment that is gone has its spare's name, durably, if it was to be kept.
    pub(super) fn keep_spare(&mut self, segment: &Segment, now_ms: i64) {
        let Some(charge) = self.spares.take_coming() else {
            return;
        };
        self.spares.push(Spare {
            name: spare_name(&segment.name()),
            incarnation: Some(segment.incarnation()),
            since_ms: now_ms,
            charge,
        });
    }

    /// Whether the next segment is made of a spare, and the incarnation that it gets.
    pub(super) fn take_spare(&mut self) -> io::Result<(bool, Incarnation)> {
        let before = self.spares.oldest().and_then(|spare| spare.incarnation);
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
        let is_recycled = self.config.durability != Durability::Os && self.spares.use_oldest();
        Ok((is_recycled, incarnation))
    }

    /// Removes spares that nobody will want soon, or whose space is wanted.
    pub(super) fn give_back_spares(&mut self, now_ms: i64, disk: &mut dyn Disk) {
        if self.spares.count() == 0 || self.closing {
            return;
        }
        let is_wanted_back = self
            .options
            .spares
            .as_ref()
            .is_none_or(SpareBudget::is_wanted_back);
        let all = is_wanted_back || self.config.durability == Durability::Os || self.has_met_full_disk();
        while let Some(oldest) = self.spares.oldest() {
            if !all && now_ms.saturating_sub(oldest.since_ms) < SPARE_KEPT_MS_MAX {
                return;
            }
            let Some(spare) = self.spares.take_oldest() else {
                return;
            };
            self.unlink_spare(spare, disk);
        }
    }

    fn unlink_spare(&mut self, spare: Spare, disk: &mut dyn Disk) {
        let path = self.directory.join(&spare.name);
        let id = self.spares.begin_leaving(spare);
        self.submit(disk, Purpose::DropSpare(id), DiskOp::Unlink { path });
    }

    /// One that could not be removed is found again at the next start.
    pub(super) fn spare_unlinked(&mut self, id: u64, result: io::Result<DiskOutput>) {
        self.spares.has_left(id);
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
        let budget = self.options.spares.clone().unwrap_or_default();
        let (bytes_min, interval) = (budget.file_bytes_min(), budget.mark_interval_bytes());
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
                match written.saturating_add(u16::try_from(count).unwrap_or(u16::MAX)) {
                    written if usize::from(written) < SEGMENT_HEADER_LEN => {
                        SpareStep::WritingHeader { written }
                    }
                    // No entry is in the header's place.
                    _ => mark_or_sync(interval.max(Segment::FIRST_ENTRY), segment.file_len),
                }
            }
            (SpareStep::WritingMark { page, written }, DiskOutput::Written(count)) if count > 0 => {
                match written.saturating_add(u16::try_from(count).unwrap_or(u16::MAX)) {
                    written if u64::from(written) < PAGE_BYTES => SpareStep::WritingMark { page, written },
                    _ => mark_or_sync(u64::from(page) * PAGE_BYTES + interval, segment.file_len),
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
                if let Some(spare) = self.spares.take_used() {
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
    pub(super) fn recycling_op(
        directory: &Path,
        spare: Option<PathBuf>,
        segment: &Segment,
        step: SpareStep,
    ) -> Option<DiskOp> {
        let file = || segment.file.clone();
        let named = directory.join(segment.name());
        Some(match step {
            SpareStep::Opening => DiskOp::Open { path: spare? },
            SpareStep::Measuring => DiskOp::Len { file: file()? },
            SpareStep::CountingNames => DiskOp::LinkCount { file: file()? },
            // What was reserved and never written, or given to nobody, is noticed before a write fails.
            SpareStep::Reserving => DiskOp::Fallocate {
                file: file()?,
                range: 0..segment.file_len,
            },
            SpareStep::WritingHeader { written } => DiskOp::Write {
                file: file()?,
                position: u64::from(written),
                data: Bytes::from(segment.header.encode()).slice(usize::from(written)..),
            },
            SpareStep::WritingMark { page, written } => {
                let position = u64::from(page) * PAGE_BYTES;
                let mark = encode_end_mark(&segment.incarnation(), FilePosition(position));
                DiskOp::Write {
                    file: file()?,
                    position: position + u64::from(written),
                    data: Bytes::from(mark).slice(usize::from(written)..),
                }
            }
            SpareStep::Syncing => DiskOp::Sync { file: file()? },
            SpareStep::Naming => DiskOp::Rename {
                from: spare?,
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
        if let Some(spare) = self.spares.take_used() {
            self.unlink_spare(spare, disk);
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
