//! The journals that a start finds, and what they hold of each partition.
//!
//! Read once, before partitions are opened, by whoever owns the data directory; then shared by the shards, which
//! only read. Invariants:
//! - files count in the order of (start counter, sequence), whatever shard wrote them and under whatever name
//!   they lie: of two records about the same index the later one counts;
//! - what a truncation has made dead counts no more, in whatever order files are found;
//! - a file is removed only when each partition it holds something of was opened with it, or is dead.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use thiserror::Error;

use super::format::{FileId, FrameError, FrameHeader, FrameNumber, JournalPage, JournalPageError};
use super::scan::{LiveJournal, ScanError, Scanned, entries, scan, settle};
use super::writer::{JOURNAL_SUFFIX, JournalBug, journal_directory};
use crate::disk::{FileHandle, ReadSource};
use crate::entry::EntryHeader;
use crate::ids::{EntryIndex, Incarnation, LeaderEpoch, PartitionKey};
use crate::limits::JOURNAL_FILES_MAX;
use crate::log::machine::{Io, Machine, TokenCounter};
use crate::log::segment::Segment;
use crate::recovery::truncations::Truncations;
use crate::recovery::unreadable::{READ_ALIGN, read_around};
use crate::segment_header::SegmentHeader;

/// Ends the name of a file whose first page is damaged: it is kept, and read no more.
const DAMAGED_SUFFIX: &str = ".damaged";

/// Why the journals of a data directory cannot be read. Nothing was changed.
#[derive(Debug, Error)]
pub enum JournalError {
    /// Look at the disk; the start may be tried again.
    #[error("reading {path}: {cause}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the disk said.
        cause: io::Error,
    },
    /// Use the version of this program that wrote it.
    #[error("{path} was written by another version: {cause}")]
    Page {
        /// The file.
        path: PathBuf,
        /// What is not understood.
        cause: JournalPageError,
    },
    /// Use the version of this program that wrote it.
    #[error("{path}, byte {position}, was written by another version: {cause}")]
    Frame {
        /// The file.
        path: PathBuf,
        /// Where the frame begins.
        position: u64,
        /// What is not understood.
        cause: FrameError,
    },
    /// Move files away that are not needed.
    #[error("{path} has {files} files, at most {JOURNAL_FILES_MAX} are read")]
    TooMany {
        /// The directory.
        path: PathBuf,
        /// How many.
        files: usize,
    },
}

/// What of a journal was durable and is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JournalDamage {
    /// Frames that a later one says were durable.
    Frames {
        /// The start that wrote them.
        start_counter: u64,
        /// The shard that wrote them.
        shard: u32,
        /// The first number missing.
        first: FrameNumber,
        /// How many are.
        count: u64,
    },
    /// A file whose first page does not verify.
    Page {
        /// Its name.
        name: String,
        /// What is wrong.
        cause: JournalPageError,
    },
}

/// One journal file that counts.
#[derive(Clone, Debug)]
pub struct FoundFile {
    /// Its name in the journal's directory.
    pub name: String,
    /// What it says of itself.
    pub page: JournalPage,
    handle: FileHandle,
    partitions: BTreeSet<PartitionKey>,
}

/// All that a start finds. See the module.
#[derive(Debug, Default)]
pub struct FoundJournals {
    directory: PathBuf,
    files: Vec<FoundFile>,
    unfinished: Vec<String>,
    damage: Vec<JournalDamage>,
    partitions: HashMap<PartitionKey, Arc<PartitionFrames>>,
}

/// An append, by its place.
#[derive(Clone, Copy, Debug)]
struct FrameRef {
    first: u64,
    count: u32,
    file: u32,
    segment: u32,
    len: u32,
    at: u64,
}

/// The highest index that entries of a term, in segments made after a number of truncations, say was durable.
#[derive(Clone, Copy, Debug)]
struct Claim {
    term: LeaderEpoch,
    truncations: u32,
    index: EntryIndex,
}

impl FrameRef {
    fn last(&self) -> u64 {
        self.first + u64::from(self.count) - 1
    }

    fn holds(&self, index: EntryIndex) -> bool {
        (self.first..=self.last()).contains(&index.0)
    }
}

/// What journals hold of one partition, in the order in which it counts.
#[derive(Debug, Default)]
pub struct PartitionFrames {
    files: Vec<(FileHandle, FileId)>,
    segments: Vec<SegmentHeader>,
    /// Segments all of whose entries are here: by their places in `segments`.
    whole: BTreeSet<u32>,
    frames: Vec<FrameRef>,
    /// Frames by their first index, oldest first.
    by_first: BTreeMap<u64, Vec<u32>>,
    term_max: LeaderEpoch,
    claims: Vec<Claim>,
    replayed: AtomicBool,
}

/// Where an opening finds what journals hold of its partition.
#[derive(Clone, Debug, Default)]
pub enum JournalEvidence {
    /// There is no journal.
    #[default]
    None,
    /// As a start found it.
    Found(Arc<PartitionFrames>),
    /// To be read by the opening itself, from a journal that is being written.
    Live(LiveJournal),
}

/// One entry out of a journal; it verifies.
#[derive(Clone, Debug)]
pub(crate) struct JournalEntry {
    pub(crate) header: EntryHeader,
    pub(crate) incarnation: Incarnation,
    /// Where it lay in its segment.
    pub(crate) position: u64,
    pub(crate) bytes: Bytes,
}

impl PartitionFrames {
    /// Frames with entries.
    pub fn frame_count(&self) -> usize {
        self.frames.len()
    }

    /// The highest term of any entry.
    pub fn term_max(&self) -> LeaderEpoch {
        self.term_max
    }

    /// What it holds is durable in segments now, or is not wanted.
    pub fn mark_replayed(&self) {
        self.replayed.store(true, Ordering::Release);
    }

    fn is_replayed(&self) -> bool {
        self.replayed.load(Ordering::Acquire)
    }

    /// The highest index that was durable as far as entries of `term` or a later one say, of indices that are
    /// not dead.
    pub(crate) fn proven(&self, term: LeaderEpoch, truncations: &Truncations) -> EntryIndex {
        let claims = self.claims.iter().filter(|claim| claim.term >= term);
        let alive = claims.map(|claim| match truncations.dead_from(claim.truncations) {
            Some(from) => claim.index.min(EntryIndex(from.0.saturating_sub(1))),
            None => claim.index,
        });
        alive.max().unwrap_or_default()
    }

    /// Whether it says anything of the log.
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// The segments that its frames name.
    pub(crate) fn segments(&self) -> impl Iterator<Item = &SegmentHeader> {
        self.segments.iter()
    }

    /// The lowest index above one that is held and not dead.
    pub(crate) fn first_above(&self, index: EntryIndex, truncations: &Truncations) -> Option<EntryIndex> {
        let above = self.frames.iter().filter(|frame| frame.last() > index.0);
        let above = above.map(|frame| EntryIndex(frame.first.max(index.0 + 1)));
        let is_held = |above: &EntryIndex| !self.frames_of(*above, truncations).is_empty();
        above.filter(is_held).min()
    }

    /// Segments that may have been lost with their names: no file of theirs needs to be there, since all of
    /// their entries are here.
    pub(crate) fn whole_segments(&self) -> impl Iterator<Item = &SegmentHeader> {
        self.whole.iter().filter_map(|at| self.segments.get(*at as usize))
    }

    /// Frames that hold an index that is not dead in them, the one that counts first.
    fn frames_of(&self, index: EntryIndex, truncations: &Truncations) -> Vec<u32> {
        let counts = |at: &u32| {
            let frame = self.frames.get(*at as usize);
            let segment = frame.and_then(|frame| self.segments.get(frame.segment as usize));
            segment.is_some_and(|segment| !truncations.kills(segment.truncations, index))
        };
        let exact = self.by_first.get(&index.0).into_iter().flatten().rev();
        let mut found: Vec<u32> = exact.copied().filter(counts).collect();
        // Those that begin at a lower index: rarely asked for, so not indexed.
        let inside = self.frames.iter().enumerate().rev();
        let inside = inside.filter(|(_, frame)| frame.holds(index) && frame.first < index.0);
        found.extend(inside.map(|(at, _)| at as u32).filter(counts));
        found.sort_unstable_by(|a, b| b.cmp(a));
        found
    }

    fn segment_id(&mut self, segment: SegmentHeader) -> u32 {
        let known = self.segments.iter().rposition(|known| *known == segment);
        known.unwrap_or_else(|| {
            self.segments.push(segment);
            self.segments.len() - 1
        }) as u32
    }

    fn take_in(&mut self, file: u32, scanned: &Scanned) {
        let (segment, run) = (scanned.header.segment, scanned.run);
        let segment_at = self.segment_id(segment);
        if run.first == segment.base_index && scanned.header.position.0 == Segment::FIRST_ENTRY {
            self.whole.insert(segment_at);
        }
        let at = self.frames.len() as u32;
        self.by_first.entry(run.first.0).or_default().push(at);
        self.frames.push(FrameRef {
            first: run.first.0,
            count: u32::try_from(run.last.0 - run.first.0 + 1).unwrap_or(u32::MAX),
            file,
            segment: segment_at,
            len: u32::try_from(scanned.len).unwrap_or(u32::MAX),
            at: scanned.at,
        });
        self.term_max = self.term_max.max(run.term_max);
        self.claim(Claim {
            term: run.claim.1,
            truncations: segment.truncations,
            index: run.claim.0,
        });
    }

    /// Notes what was durable; the highest claim of each kind is enough.
    fn claim(&mut self, claim: Claim) {
        let is_like = |known: &&mut Claim| known.term == claim.term && known.truncations == claim.truncations;
        match self.claims.iter_mut().find(is_like) {
            Some(known) => known.index = known.index.max(claim.index),
            None => self.claims.push(claim),
        }
    }
}

/// Looks entries up for one opening; the frame it looked at last stays in memory.
#[derive(Debug, Default)]
pub(crate) struct EntryLookUp {
    loaded: Option<(u32, Bytes)>,
}

impl EntryLookUp {
    /// The entry that counts for an index: the last one written, of those whose term and offset may follow.
    pub(crate) async fn entry(
        &mut self,
        io: &Io,
        frames: &PartitionFrames,
        truncations: &Truncations,
        index: EntryIndex,
        may_follow: impl Fn(&EntryHeader) -> bool,
    ) -> io::Result<Option<JournalEntry>> {
        for at in frames.frames_of(index, truncations) {
            let Some(frame) = frames.frames.get(at as usize) else {
                continue;
            };
            let Some(segment) = frames.segments.get(frame.segment as usize) else {
                continue;
            };
            let Some((position, record)) = self.load(io, frames, at, frame).await? else {
                continue;
            };
            for entry in entries(&record, segment.incarnation) {
                let Some((header, range)) = entry else { break };
                if header.index == index && header.kind.has_index() && may_follow(&header) {
                    return Ok(Some(JournalEntry {
                        header,
                        incarnation: segment.incarnation,
                        position: position + range.start as u64,
                        bytes: record.slice(range),
                    }));
                }
            }
        }
        Ok(None)
    }

    /// The entries of a frame and where they begin in their segment; `None` if it verifies no more.
    async fn load(
        &mut self,
        io: &Io,
        frames: &PartitionFrames,
        at: u32,
        frame: &FrameRef,
    ) -> io::Result<Option<(u64, Bytes)>> {
        let Some((file, id)) = frames.files.get(frame.file as usize) else {
            return Ok(None);
        };
        if self.loaded.as_ref().is_none_or(|(loaded, _)| *loaded != at) {
            let start = frame.at - frame.at % READ_ALIGN;
            let skip = (frame.at - start) as usize;
            let wanted = (skip + frame.len as usize).next_multiple_of(READ_ALIGN as usize);
            let bytes = read_around(io, file, start, wanted, ReadSource::Device).await?;
            let bytes = bytes.get(skip..).unwrap_or_default();
            self.loaded = Some((at, Bytes::copy_from_slice(bytes)));
        }
        let Some((_, bytes)) = &self.loaded else {
            return Ok(None);
        };
        let Ok((header, record)) = FrameHeader::decode(bytes, id) else {
            return Ok(None);
        };
        Ok(Some((header.position.0, bytes.slice_ref(record))))
    }
}

impl JournalEvidence {
    /// What there is of a partition; a live journal is read for it now.
    pub(crate) async fn read(&self, io: &Io, key: &PartitionKey) -> io::Result<Option<Arc<PartitionFrames>>> {
        let live = match self {
            Self::None => return Ok(None),
            Self::Found(found) => return Ok(Some(Arc::clone(found))),
            Self::Live(live) => live,
        };
        let mut files = Vec::new();
        for file in &live.files {
            match scan(io, file, Some(key)).await {
                Ok((page, frames)) => files.push((page, file.clone(), frames)),
                // Its own writer made it: what cannot be read now holds nothing that was durable.
                Err(ScanError::Page(_) | ScanError::Frame(..)) => {}
                Err(ScanError::Io(error)) => return Err(error),
            }
        }
        files.sort_by_key(|(page, _, _)| (page.start_counter, page.sequence));
        let mut found = PartitionFrames::default();
        for (at, (page, file, frames)) in files.iter().enumerate() {
            found.files.push((file.clone(), page.file_id));
            frames.iter().for_each(|frame| found.take_in(at as u32, frame));
        }
        Ok(Some(Arc::new(found)))
    }
}

/// Numbers seen and claims made of one journal: what one shard wrote in one start.
#[derive(Default)]
struct Numbers {
    first: u64,
    durable: u64,
    seen: Vec<u64>,
}

impl FoundJournals {
    /// The work of reading all journals of a data directory.
    pub fn find(token_space: u32, data_directory: &Path) -> Machine<Result<Self, JournalError>> {
        Self::find_with(token_space, data_directory, JournalBug::None)
    }

    /// As [`FoundJournals::find`], with a fault planted.
    #[doc(hidden)]
    pub fn find_with(
        token_space: u32,
        data_directory: &Path,
        bug: JournalBug,
    ) -> Machine<Result<Self, JournalError>> {
        let directory = journal_directory(data_directory);
        Machine::new(TokenCounter::new(token_space), move |io| find(io, directory, bug))
    }

    /// The files that count, in their order.
    pub fn files(&self) -> &[FoundFile] {
        &self.files
    }

    /// What was durable in them and is lost.
    pub fn damage(&self) -> &[JournalDamage] {
        &self.damage
    }

    /// The partitions they hold something of.
    pub fn partitions(&self) -> impl Iterator<Item = &PartitionKey> {
        self.partitions.keys()
    }

    /// What they hold of a partition.
    pub fn evidence(&self, key: &PartitionKey) -> JournalEvidence {
        match self.partitions.get(key) {
            Some(frames) => JournalEvidence::Found(Arc::clone(frames)),
            None => JournalEvidence::None,
        }
    }

    /// The highest start counter that any file names.
    pub fn start_counter(&self) -> u64 {
        let files = self.files.iter();
        files.map(|file| file.page.start_counter).max().unwrap_or(0)
    }

    /// Partitions that were not opened since, and so keep files.
    pub fn waiting(&self) -> Vec<PartitionKey> {
        let waiting = self.partitions.iter().filter(|(_, frames)| !frames.is_replayed());
        waiting.map(|(key, _)| *key).collect()
    }

    /// Partitions whose deletion is recorded keep nothing.
    pub fn forget_dead(&self, is_dead: impl Fn(&PartitionKey) -> bool) {
        let dead = self.partitions.iter().filter(|(key, _)| is_dead(key));
        dead.for_each(|(_, frames)| frames.mark_replayed());
    }

    /// The work of removing what is of no more use: oldest first, each removal durable before the next. Forgets
    /// what the files held.
    pub fn remove_replayed(&mut self, token_space: u32) -> Machine<io::Result<()>> {
        let waiting: BTreeSet<PartitionKey> = self.waiting().into_iter().collect();
        let files = std::mem::take(&mut self.files);
        let (kept, done): (Vec<FoundFile>, Vec<FoundFile>) = files
            .into_iter()
            .partition(|file| file.partitions.iter().any(|key| waiting.contains(key)));
        self.files = kept;
        self.partitions.retain(|key, _| waiting.contains(key));
        let mut names = std::mem::take(&mut self.unfinished);
        names.extend(done.into_iter().map(|file| file.name));
        let damaged: Vec<String> = self.damage.iter().filter_map(damaged_name).collect();
        let directory = self.directory.clone();
        Machine::new(TokenCounter::new(token_space), |io| {
            remove(io, directory, names, damaged)
        })
    }
}

fn damaged_name(damage: &JournalDamage) -> Option<String> {
    match damage {
        JournalDamage::Page { name, .. } => Some(name.clone()),
        JournalDamage::Frames { .. } => None,
    }
}

async fn remove(io: Io, directory: PathBuf, names: Vec<String>, damaged: Vec<String>) -> io::Result<()> {
    for name in damaged {
        let aside = directory.join(format!("{name}{DAMAGED_SUFFIX}"));
        match io.rename(&directory.join(&name), &aside).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
        io.sync_dir(&directory).await?;
    }
    for name in names {
        io.unlink_if_present(&directory.join(name)).await?;
        io.sync_dir(&directory).await?;
    }
    Ok(())
}

async fn find(io: Io, directory: PathBuf, bug: JournalBug) -> Result<FoundJournals, JournalError> {
    let failed = |path: PathBuf| move |cause| JournalError::Io { path, cause };
    let mut found = FoundJournals {
        directory: directory.clone(),
        ..FoundJournals::default()
    };
    let names = io
        .names_if_present(&directory)
        .await
        .map_err(failed(directory.clone()))?;
    let names: Vec<String> = names
        .into_iter()
        .filter(|name| name.ends_with(JOURNAL_SUFFIX))
        .collect();
    if names.len() > JOURNAL_FILES_MAX {
        return Err(JournalError::TooMany {
            path: directory,
            files: names.len(),
        });
    }
    // First the pages, then file by file in their order: only one file's frames are in memory as they are.
    for name in names {
        let path = directory.join(&name);
        let handle = io.open(&path).await.map_err(failed(path.clone()))?;
        settle(&io, &handle).await.map_err(failed(path.clone()))?;
        let page = read_around(&io, &handle, 0, READ_ALIGN as usize, ReadSource::Device).await;
        match JournalPage::decode(&page.map_err(failed(path.clone()))?) {
            Ok(page) => found.files.push(FoundFile {
                name,
                page,
                handle,
                partitions: BTreeSet::new(),
            }),
            Err(cause) if cause.is_unsupported() => return Err(JournalError::Page { path, cause }),
            // Never finished, or trimmed.
            Err(JournalPageError::Truncated(_) | JournalPageError::Magic) => found.unfinished.push(name),
            Err(cause) => found.damage.push(JournalDamage::Page { name, cause }),
        }
    }
    found
        .files
        .sort_by_key(|file| (file.page.start_counter, file.page.sequence, file.page.shard));
    if bug == JournalBug::OldestLast {
        found.files.reverse();
    }
    if let JournalBug::OnlyShardsBelow(shards) = bug {
        found.files.retain(|file| file.page.shard < shards);
    }
    let mut partitions: HashMap<PartitionKey, PartitionFrames> = HashMap::new();
    let mut numbers: BTreeMap<(u64, u32), Numbers> = BTreeMap::new();
    for file in &mut found.files {
        let path = directory.join(&file.name);
        let (page, frames) = match scan(&io, &file.handle, None).await {
            Ok(scanned) => scanned,
            Err(ScanError::Io(cause)) => return Err(JournalError::Io { path, cause }),
            Err(ScanError::Page(cause)) => return Err(JournalError::Page { path, cause }),
            Err(ScanError::Frame(position, cause)) => {
                return Err(JournalError::Frame {
                    path,
                    position,
                    cause,
                });
            }
        };
        note_numbers(&mut numbers, &page, &frames);
        for frame in &frames {
            file.partitions.insert(frame.header.key());
            let partition = partitions.entry(frame.header.key()).or_default();
            if partition.files.last().is_none_or(|(_, id)| *id != page.file_id) {
                partition.files.push((file.handle.clone(), page.file_id));
            }
            let at = partition.files.len() as u32 - 1;
            partition.take_in(at, frame);
        }
    }
    found.damage.extend(missing(&numbers));
    found.partitions = partitions
        .into_iter()
        .map(|(key, frames)| (key, Arc::new(frames)))
        .collect();
    Ok(found)
}

fn note_numbers(numbers: &mut BTreeMap<(u64, u32), Numbers>, page: &JournalPage, frames: &[Scanned]) {
    let of = numbers.entry((page.start_counter, page.shard)).or_default();
    for frame in frames {
        let number = frame.header.number.0;
        // Files are trimmed oldest first: what lies before the first number seen is not missed.
        of.first = if of.seen.is_empty() {
            number
        } else {
            of.first.min(number)
        };
        of.seen.push(number);
        of.durable = of.durable.max(frame.header.durable.0);
    }
}

/// Numbers that are missing at or below a durable mark, as one report for each journal.
fn missing(numbers: &BTreeMap<(u64, u32), Numbers>) -> Vec<JournalDamage> {
    let mut damage = Vec::new();
    for ((start_counter, shard), of) in numbers {
        let seen: BTreeSet<u64> = of
            .seen
            .iter()
            .copied()
            .filter(|seen| *seen <= of.durable)
            .collect();
        let wanted = (of.durable + 1).saturating_sub(of.first.max(1));
        let there = seen.range(of.first..).count() as u64;
        if there < wanted {
            let first = (of.first..=of.durable).find(|number| !seen.contains(number));
            damage.push(JournalDamage::Frames {
                start_counter: *start_counter,
                shard: *shard,
                first: FrameNumber(first.unwrap_or(of.first)),
                count: wanted - there,
            });
        }
    }
    damage
}
