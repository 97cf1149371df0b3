//! Writes a journal: one commit at a time, files made ahead, trimmed oldest first.
//!
//! Owned by one shard thread; a state machine that takes disk completions and never waits. Invariants:
//! - a sync is submitted only when the write of its commit has ended in full, and one commit runs at a time;
//! - a commit begins on a page and fills it up with zeros, so no page that was synced is written again;
//! - no frame is written to a file before its first page, and for a new file its name, are durable;
//! - a file goes only when nothing it holds is needed: its first page is made void and it is used again, or its
//!   name is removed, durably, before the next one's turn;
//! - after a failed write or sync a file takes nothing more; what it was to make durable is written from memory
//!   to a fresh file, and if that fails too the journal has failed for good.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;

use super::commit::{Commit, Frame, Stage, commit_len, put_together, slices};
use super::files::{make, remove_all, use_again, void};
use super::format::{FRAME_HEADER_LEN, FileId, FrameHeader, FrameNumber, JOURNAL_PAGE_BYTES, JournalPage};
use super::scan::LiveJournal;
use crate::disk::{Completion, Disk, DiskOp, DiskOutput, FileHandle, Lease, WriteNow};
use crate::ids::{EntryIndex, FilePosition, PartitionKey};
use crate::limits::JOURNAL_SPARE_FILES_MAX;
use crate::log::Incarnations;
use crate::log::machine::{Machine, TokenCounter};
use crate::segment_header::SegmentHeader;

/// Where the journals of a data directory are.
const DIRECTORY: &str = "journal";
/// Ends the names of journal files.
pub(super) const JOURNAL_SUFFIX: &str = ".journal";
/// Commits of smaller pieces than this, on average, are put together before they are written.
const GATHERED_PIECE_BYTES_MIN: usize = 16 << 10;

/// The directory of the journals of a data directory.
pub fn journal_directory(data_directory: &Path) -> PathBuf {
    data_directory.join(DIRECTORY)
}

/// A fault planted in the journal, to show that the tests would find it.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JournalBug {
    /// None.
    #[default]
    None,
    /// A file goes when the syncs it waits for were only submitted.
    TrimBeforeSync,
    /// A file goes though the name of a segment it holds entries of is not durable.
    TrimBeforeDirSync,
    /// The oldest record about an index counts.
    OldestLast,
    /// A start finds the journals of shards below this number alone, as if no other shard had ever been.
    OnlyShardsBelow(u32),
}

/// What a journal is made with.
#[derive(Clone, Debug)]
pub struct JournalConfig {
    /// The shard it belongs to.
    pub shard: u32,
    /// The data directory's start counter.
    pub start_counter: u64,
    /// Bytes of one file.
    pub file_bytes: u64,
    /// Bytes of all its files, at most; what is below two files switches it off.
    pub max_bytes: u64,
    /// Ids of files from a seed, for simulations.
    #[doc(hidden)]
    pub id_seed: Option<u64>,
    /// See [`JournalBug`].
    #[doc(hidden)]
    pub bug: JournalBug,
}

/// Entries of one segment that one commit takes.
#[derive(Clone, Debug)]
pub struct JournalRun {
    /// Whose they are.
    pub key: PartitionKey,
    /// The segment they lie in.
    pub segment: SegmentHeader,
    /// Where they begin there.
    pub position: u64,
    /// Whole entries, one behind the other.
    pub pieces: Vec<Bytes>,
    /// The index of the last one.
    pub last: EntryIndex,
}

/// Whether a commit may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalStatus {
    /// It may.
    Ready,
    /// One is under way: wait for its end.
    Busy,
    /// A file is being made: wait for it if a commit of its own would take as long.
    Making,
    /// A file could not be made, for want of space: commit directly.
    NotReady,
    /// All that it may take is in use: commit directly.
    Full,
    /// It does not fit a file: commit directly.
    TooLarge,
}

/// What came of a completion.
#[derive(Debug)]
pub enum JournalEvent {
    /// A commit is durable: these partitions had something in it.
    Committed(Vec<PartitionKey>),
    /// The journal failed, and so did the fresh file: nothing it was given may be acknowledged.
    Failed(io::Error),
}

/// What one file still keeps of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// The highest index.
    pub(super) index: EntryIndex,
}

#[derive(Debug)]
struct JournalFile {
    name: String,
    handle: FileHandle,
    /// Its descriptor stays open: a commit must not fail for want of one.
    _lease: Option<Lease>,
    file_id: FileId,
    /// Where the next commit begins.
    position: u64,
    marks: BTreeMap<PartitionKey, Mark>,
    failed: bool,
}

#[derive(Debug)]
enum Job {
    Make { name: String, file_id: FileId },
    Void { name: String, handle: FileHandle },
    Remove { name: String },
    Close,
}

/// See the module.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    config: JournalConfig,
    tokens: TokenCounter,
    space: u32,
    ids: Incarnations,
    next_sequence: u64,
    next_number: u64,
    durable_number: u64,
    /// Oldest first; the last one takes commits, unless it failed.
    files: VecDeque<JournalFile>,
    next: Option<JournalFile>,
    spare: Vec<(String, FileHandle)>,
    /// Names that could not be removed: they are tried again at the close.
    stuck: Vec<String>,
    commit: Option<Commit>,
    job: Option<(Job, Machine<io::Result<Option<FileHandle>>>)>,
    events: Vec<JournalEvent>,
    failed_files: u64,
    /// A file could not be made: not tried again before the next tick.
    made_in_vain: bool,
    is_closed: bool,
    pin: Arc<()>,
}

impl Journal {
    /// A journal without files. `token_space`: the upper half of all its tokens.
    pub fn new(data_directory: &Path, token_space: u32, config: JournalConfig) -> Self {
        Self {
            directory: journal_directory(data_directory),
            tokens: TokenCounter::new(token_space),
            space: token_space,
            ids: config.id_seed.map_or(Incarnations::Random, Incarnations::Seeded),
            config,
            next_sequence: 1,
            next_number: 1,
            durable_number: 0,
            files: VecDeque::new(),
            next: None,
            spare: Vec::new(),
            stuck: Vec::new(),
            commit: None,
            job: None,
            events: Vec::new(),
            failed_files: 0,
            made_in_vain: false,
            is_closed: false,
            pin: Arc::new(()),
        }
    }

    /// The upper half of its tokens.
    pub fn token_space(&self) -> u32 {
        self.space
    }

    pub(super) fn bug(&self) -> JournalBug {
        self.config.bug
    }

    /// Bytes of all its files.
    pub fn bytes(&self) -> u64 {
        let making = matches!(
            self.job,
            Some((Job::Make { .. } | Job::Void { .. } | Job::Remove { .. }, _))
        );
        let files = self.files.len()
            + self.spare.len()
            + self.stuck.len()
            + usize::from(self.next.is_some())
            + usize::from(making);
        files as u64 * self.config.file_bytes
    }

    /// Whether a commit is under way.
    pub fn is_busy(&self) -> bool {
        self.commit.is_some()
    }

    /// Whether the commit under way holds something of a partition.
    pub fn is_committing(&self, key: &PartitionKey) -> bool {
        let commit = self.commit.iter();
        commit
            .flat_map(|commit| &commit.marks)
            .any(|(with, _)| with == key)
    }

    /// Whether it may take so many bytes of entries in so many runs now. Makes a file ready for later if it needs one.
    pub fn status(&mut self, disk: &mut dyn Disk, runs: usize, bytes: u64) -> JournalStatus {
        if self.commit.is_some() {
            return JournalStatus::Busy;
        }
        let len = commit_len(bytes + (runs * FRAME_HEADER_LEN) as u64);
        if JOURNAL_PAGE_BYTES as u64 + len > self.config.file_bytes {
            return JournalStatus::TooLarge;
        }
        let fits = |file: &JournalFile| !file.failed && file.position + len <= self.config.file_bytes;
        let ready = self.files.back().is_some_and(fits) || self.next.is_some();
        self.prepare(disk);
        match ready {
            true => JournalStatus::Ready,
            false if self.job.is_some() => JournalStatus::Making,
            false if self.has_room_for_file() => JournalStatus::NotReady,
            false => JournalStatus::Full,
        }
    }

    /// Begins a commit. Only when [`Journal::status`] is ready for it.
    pub fn begin(&mut self, disk: &mut dyn Disk, runs: Vec<JournalRun>) {
        let mut marks = Vec::with_capacity(runs.len());
        let mut frames = Vec::with_capacity(runs.len());
        for run in runs {
            marks.push((run.key, Mark { index: run.last }));
            frames.push(Frame {
                segment: run.segment,
                position: FilePosition(run.position),
                pieces: run.pieces,
            });
        }
        self.begin_frames(disk, frames, marks);
    }

    fn begin_frames(&mut self, disk: &mut dyn Disk, frames: Vec<Frame>, marks: Vec<(PartitionKey, Mark)>) {
        assert!(self.commit.is_none(), "one commit at a time");
        let len = commit_len(frames.iter().map(Frame::len).sum());
        self.commit = Some(Commit {
            frames,
            marks,
            len,
            stage: Stage::WaitingForFile,
            is_second: false,
        });
        self.write_commit(disk);
    }

    /// The file that a commit of `len` bytes goes to.
    fn file_for(&mut self, len: u64) -> Option<&mut JournalFile> {
        let fits = |file: &JournalFile| !file.failed && file.position + len <= self.config.file_bytes;
        if !self.files.back().is_some_and(fits) {
            self.files.push_back(self.next.take()?);
        }
        self.files.back_mut()
    }

    /// Writes the commit to the newest file, or leaves it until there is one.
    fn write_commit(&mut self, disk: &mut dyn Disk) {
        let Some(mut commit) = self.commit.take() else {
            return;
        };
        let (number, durable) = (self.next_number, self.durable_number);
        let token = self.tokens.take();
        let Some(file) = self.file_for(commit.len) else {
            commit.stage = Stage::WaitingForFile;
            self.commit = Some(commit);
            self.prepare(disk);
            return;
        };
        for (key, mark) in &commit.marks {
            let kept = file.marks.entry(*key).or_default();
            kept.index = kept.index.max(mark.index);
        }
        let headers: Vec<[u8; FRAME_HEADER_LEN]> = (number..)
            .zip(&commit.frames)
            .map(|(number, frame)| {
                let header = FrameHeader {
                    file_id: file.file_id,
                    number: FrameNumber(number),
                    durable: FrameNumber(durable),
                    segment: frame.segment,
                    position: frame.position,
                };
                header.encode(frame.record())
            })
            .collect();
        let (handle, at) = (file.handle.clone(), file.position);
        let pieces = commit
            .frames
            .iter()
            .map(|frame| frame.pieces.len() + 1)
            .sum::<usize>();
        let in_one = (commit.len as usize / pieces.max(1)) < GATHERED_PIECE_BYTES_MIN;
        let whole = in_one.then(|| put_together(&headers, &commit));
        let written = match &whole {
            Some(whole) => disk.write_now(&handle, at, &[IoSlice::new(whole)]),
            None => disk.write_now(&handle, at, &slices(&headers, &commit)),
        };
        match written {
            Ok(WriteNow::Done) => {
                commit.stage = Stage::Syncing { token };
                self.commit = Some(commit);
                disk.submit(token, DiskOp::Sync { file: handle });
            }
            Ok(WriteNow::WouldStall) => {
                let rest = whole.unwrap_or_else(|| put_together(&headers, &commit));
                commit.stage = Stage::Writing {
                    token,
                    at,
                    rest: rest.clone(),
                };
                self.commit = Some(commit);
                let op = DiskOp::Write {
                    file: handle,
                    position: at,
                    data: rest,
                };
                disk.submit(token, op);
            }
            Err(error) => {
                self.commit = Some(commit);
                self.commit_failed(disk, error);
            }
        }
    }

    /// The commit's file takes nothing more. The commit goes to a fresh one, once.
    fn commit_failed(&mut self, disk: &mut dyn Disk, error: io::Error) {
        if let Some(file) = self.files.back_mut() {
            file.failed = true;
            self.failed_files += 1;
        }
        let Some(commit) = self.commit.as_mut() else {
            return;
        };
        commit.stage = Stage::WaitingForFile;
        if std::mem::replace(&mut commit.is_second, true) {
            self.commit = None;
            self.events.push(JournalEvent::Failed(error));
            return;
        }
        tracing::error!(%error, "a journal file failed; its commit goes to a fresh one");
        self.made_in_vain = false;
        self.write_commit(disk);
    }

    /// Takes the end of one of its operations.
    pub fn on_completion(&mut self, disk: &mut dyn Disk, completion: Completion) {
        let stage = match &self.commit {
            Some(commit) => match &commit.stage {
                Stage::Writing { token, .. } | Stage::Syncing { token } => Some(*token),
                Stage::WaitingForFile => None,
            },
            None => None,
        };
        if stage == Some(completion.token) {
            self.commit_completed(disk, completion.result);
        } else {
            self.step_job(disk, vec![completion]);
        }
    }

    /// What has happened since the last call.
    pub fn take_events(&mut self) -> Vec<JournalEvent> {
        std::mem::take(&mut self.events)
    }

    fn commit_completed(&mut self, disk: &mut dyn Disk, result: io::Result<DiskOutput>) {
        let Some(mut commit) = self.commit.take() else {
            return;
        };
        let handle = self.files.back().map(|file| file.handle.clone());
        let (Some(handle), output) = (handle, result) else {
            return;
        };
        match (&commit.stage, output) {
            (Stage::Syncing { .. }, Ok(DiskOutput::Done)) => self.commit_is_durable(commit),
            (Stage::Writing { at, rest, .. }, Ok(DiskOutput::Written(count))) if count > 0 => {
                let count = count.min(rest.len());
                let (at, rest) = (at + count as u64, rest.slice(count..));
                let token = self.tokens.take();
                let op = if rest.is_empty() {
                    commit.stage = Stage::Syncing { token };
                    DiskOp::Sync { file: handle }
                } else {
                    commit.stage = Stage::Writing {
                        token,
                        at,
                        rest: rest.clone(),
                    };
                    DiskOp::Write {
                        file: handle,
                        position: at,
                        data: rest,
                    }
                };
                self.commit = Some(commit);
                disk.submit(token, op);
            }
            (_, result) => {
                let error = result.err().unwrap_or_else(|| io::ErrorKind::WriteZero.into());
                self.commit = Some(commit);
                self.commit_failed(disk, error);
            }
        }
    }

    fn commit_is_durable(&mut self, commit: Commit) {
        self.next_number += commit.frames.len() as u64;
        self.durable_number = self.next_number - 1;
        if let Some(file) = self.files.back_mut() {
            file.position += commit.len;
        }
        let keys = commit.marks.into_iter().map(|(key, _)| key).collect();
        self.events.push(JournalEvent::Committed(keys));
    }

    /// Now and then: a file that could not be made is tried again.
    pub fn tick(&mut self) {
        self.made_in_vain = false;
    }

    fn has_room_for_file(&self) -> bool {
        !self.spare.is_empty() || self.bytes() + self.config.file_bytes <= self.config.max_bytes
    }

    /// Makes the next file as soon as the last one is in use.
    fn prepare(&mut self, disk: &mut dyn Disk) {
        // A commit that lost its file has nowhere else to go, however much there is.
        let must = matches!(&self.commit, Some(commit) if commit.is_second);
        let idle = self.job.is_none() && self.next.is_none() && !self.is_closed && !self.made_in_vain;
        if !idle || !(must || self.has_room_for_file()) {
            return;
        }
        let Ok(id) = self.ids.next() else { return };
        let file_id = FileId(id.0);
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let page = JournalPage {
            file_id,
            shard: self.config.shard,
            start_counter: self.config.start_counter,
            sequence,
        };
        let page = Bytes::from(page.encode());
        let tokens = TokenCounter::beside(self.space);
        let (name, machine) = match self.spare.pop() {
            Some((name, handle)) => (name, Machine::new(tokens, |io| use_again(io, handle, page))),
            None => {
                let (start, shard) = (self.config.start_counter, self.config.shard);
                let name = format!("{start:020}-{shard:05}-{sequence:010}{JOURNAL_SUFFIX}");
                let (directory, file_name) = (self.directory.clone(), name.clone());
                let bytes = self.config.file_bytes;
                let make = |io| make(io, directory, file_name, bytes, page);
                (name, Machine::new(tokens, make))
            }
        };
        self.start_job(disk, Job::Make { name, file_id }, machine);
    }

    fn start_job(&mut self, disk: &mut dyn Disk, job: Job, machine: Machine<io::Result<Option<FileHandle>>>) {
        self.job = Some((job, machine));
        self.step_job(disk, Vec::new());
    }

    fn step_job(&mut self, disk: &mut dyn Disk, completions: Vec<Completion>) {
        let Some((_, machine)) = self.job.as_mut() else {
            return;
        };
        let Poll::Ready(result) = machine.step(disk, completions) else {
            return;
        };
        let Some((job, _)) = self.job.take() else { return };
        match (job, result) {
            (Job::Make { name, file_id }, Ok(Some(handle))) => {
                self.next = Some(JournalFile {
                    name,
                    _lease: handle.lease().ok(),
                    handle,
                    file_id,
                    position: JOURNAL_PAGE_BYTES as u64,
                    marks: BTreeMap::new(),
                    failed: false,
                });
            }
            (Job::Make { name, .. }, result) => {
                self.made_in_vain = true;
                self.stuck.push(name);
                if self.commit.take_if(|commit| commit.is_second).is_some() {
                    let error = result.err().unwrap_or_else(unexpected);
                    self.events.push(JournalEvent::Failed(error));
                }
            }
            (Job::Void { name, .. }, Err(_)) => self.remove(disk, name),
            (Job::Void { name, handle }, Ok(_)) => self.spare.push((name, handle)),
            (Job::Remove { name }, Err(error)) => {
                tracing::error!(%error, name, "a trimmed journal file could not be removed");
                self.stuck.push(name);
            }
            (Job::Remove { .. }, Ok(_)) => {}
            (Job::Close, Ok(_)) => self.is_closed = true,
            (Job::Close, Err(error)) => self.events.push(JournalEvent::Failed(error)),
        }
        // A file may be there now, or may be made now.
        let waits = |commit: &Commit| matches!(commit.stage, Stage::WaitingForFile);
        if self.commit.as_ref().is_some_and(waits) {
            self.write_commit(disk);
        }
    }

    fn remove(&mut self, disk: &mut dyn Disk, name: String) {
        let directory = self.directory.clone();
        let names = vec![name.clone()];
        let machine = Machine::new(TokenCounter::beside(self.space), |io| {
            remove_all(io, directory, names)
        });
        self.start_job(disk, Job::Remove { name }, machine);
    }

    /// The files as they are, for a partition that is opened again; none is used again while the answer lives.
    pub fn live(&self) -> LiveJournal {
        LiveJournal {
            files: self.files.iter().map(|file| file.handle.clone()).collect(),
            _pin: Arc::clone(&self.pin),
        }
    }

    /// Whether the oldest file takes no more commits.
    pub(super) fn may_trim(&self) -> bool {
        let has_failed = self.files.front().is_some_and(|file| file.failed);
        self.files.len() > 1 || (has_failed && self.commit.is_none())
    }

    /// What the oldest file keeps of partitions behind `after`, if it takes no more commits.
    pub(super) fn oldest_marks(
        &self,
        after: Option<PartitionKey>,
    ) -> Option<impl Iterator<Item = (PartitionKey, Mark)> + '_> {
        if !self.may_trim() {
            return None;
        }
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let marks = self
            .files
            .front()?
            .marks
            .range((from, std::ops::Bound::Unbounded));
        Some(marks.map(|(key, mark)| (*key, *mark)))
    }

    /// The oldest file need not keep a partition's entries any more.
    pub(super) fn clear_oldest_mark(&mut self, key: &PartitionKey) {
        if let Some(file) = self.files.front_mut() {
            file.marks.remove(key);
        }
    }

    /// Lets the oldest file go if it keeps nothing. Whether it did.
    pub(super) fn trim(&mut self, disk: &mut dyn Disk) -> bool {
        let keeps_nothing = self
            .oldest_marks(None)
            .is_some_and(|mut marks| marks.next().is_none());
        if !keeps_nothing || self.job.is_some() || Arc::strong_count(&self.pin) > 1 {
            return false;
        }
        let Some(file) = self.files.pop_front() else {
            return false;
        };
        if file.failed || self.spare.len() >= JOURNAL_SPARE_FILES_MAX {
            self.remove(disk, file.name);
        } else {
            let handle = file.handle.clone();
            let machine = Machine::new(TokenCounter::beside(self.space), |io| void(io, handle));
            let job = Job::Void {
                name: file.name,
                handle: file.handle,
            };
            self.start_job(disk, job, machine);
        }
        true
    }

    /// Nothing of a partition is needed any more: it was deleted, or opened again with all that was durable.
    pub fn forget(&mut self, key: &PartitionKey) {
        for file in &mut self.files {
            file.marks.remove(key);
        }
    }

    /// Files that failed since it began.
    pub fn failed_files(&self) -> u64 {
        self.failed_files
    }

    /// Files that hold entries.
    pub fn file_count(&self) -> usize {
        self.files.len()
    }

    /// Removes all files, once no log needs them any more. Call it again after each completion until it is
    /// true; an error comes as an event.
    pub fn close(&mut self, disk: &mut dyn Disk) -> bool {
        if self.is_closed || self.commit.is_some() || self.job.is_some() {
            return self.is_closed;
        }
        let mut names = std::mem::take(&mut self.stuck);
        names.extend(self.files.drain(..).map(|file| file.name));
        names.extend(self.next.take().map(|file| file.name));
        names.extend(self.spare.drain(..).map(|(name, _)| name));
        if names.is_empty() {
            self.is_closed = true;
            return true;
        }
        let directory = self.directory.clone();
        let machine = Machine::new(TokenCounter::beside(self.space), |io| {
            remove_all(io, directory, names)
        });
        self.start_job(disk, Job::Close, machine);
        self.is_closed
    }
}

fn unexpected() -> io::Error {
    io::Error::other("making a journal file answered no file")
}
