//! Opening a partition's log: new, after a clean shutdown, or by recovery.
//!
//! Runs on the shard thread that will own the log. The work is one straight-line future, polled by
//! hand in [`Opening::step`] (see [`super::machine`] for why): no runtime is involved, and the same
//! completions in the same order give the same log.
//!
//! Invariants:
//! - a log is handed out only when everything it holds is durable, names included;
//! - a clean open believes the checkpoint only if the files agree with it, and recovers if not;
//! - every unclean open raises the leader epoch above any that was ever written.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::task::Poll;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::front::Front;
use super::index_files::IndexFiles;
use super::log_start::DurableLogStart;
use super::machine::{Io, Machine, TokenCounter};
use super::open_error::{Failure, OpenError};
use super::recycle::Spares;
use super::roll::{Incarnations, new_header};
use super::segment::{PAGE_BYTES, Pending, Segment};
use super::state::LogState;
use super::truncate::Truncation;
use super::{LogConfig, LogStatus, PartitionLog};
use crate::batch::BatchHeader;
use crate::checkpoint::PartitionCheckpoint;
use crate::disk::{Completion, Disk, DiskOp, FileHandle, ReadSource, Token};
use crate::entry::{ENTRY_HEADER_LEN, ENTRY_VERSION, EntryHeader, EntryKind, payload_crc};
use crate::ids::{EntryIndex, LeaderEpoch, Offset, PartitionKey};
use crate::journal::{JournalEvidence, PartitionFrames};
use crate::limits::{CLAIMED_INDEX_MAX, NEXT_INDEX_MAX, TERMS_PER_START};
use crate::recovery::known::look_up;
use crate::recovery::replay::{Replay, encode_anew, make_lost_segments};
use crate::recovery::truncations::Truncations;
use crate::recovery::walk::{Ending, WalkInput, Walked, walk};
use crate::recovery::{
    FoundFiles, RecoveryBug, RecoveryOptions, RecoveryReport, find_files, lost_front, lost_whole,
    matches_checkpoint, set_aside, zero_behind,
};

/// What is opened.
#[derive(Clone, Debug)]
pub struct OpenSpec {
    /// The partition's own directory.
    pub directory: PathBuf,
    /// Which partition it is.
    pub key: PartitionKey,
    /// Its configuration.
    pub config: LogConfig,
    /// The upper half of all tokens of this log.
    pub token_space: u32,
    /// What the newest checkpoint found says of it.
    pub checkpoint: Option<PartitionCheckpoint>,
    /// Whether the data directory was shut down in order.
    pub clean: bool,
    /// The data directory's start counter.
    pub start_counter: u64,
    /// The partition was created just now: it has no files yet.
    pub created: bool,
}

/// How far an opening is.
#[derive(Debug)]
pub enum OpenProgress {
    /// Hand over the next completions.
    Pending,
    /// The log, and what was done to it. Drop the opening.
    Ready(Box<PartitionLog>, RecoveryReport),
    /// It failed. Drop the opening.
    Failed(OpenError),
}

type Opened = Result<(Box<PartitionLog>, RecoveryReport), OpenError>;

/// A log on its way to being open. See the module.
#[derive(Debug)]
pub struct Opening {
    machine: Machine<Opened>,
}

impl Opening {
    /// Begins with the first [`Opening::step`].
    pub fn new(spec: OpenSpec) -> Self {
        Self::with_options(spec, RecoveryOptions::default())
    }

    /// As [`Opening::new`], with what else is known.
    pub fn with_options(spec: OpenSpec, options: RecoveryOptions) -> Self {
        Self::truncating(spec, options, None)
    }

    /// As [`Opening::with_options`], and then cuts the log: everything behind the truncation is removed for good.
    /// A log that is open is closed in order first, and what the close answered is the checkpoint to open with.
    ///
    /// The leader epoch of the log is raised if anything was cut, and waits for a checkpoint in any case. A failure
    /// leaves the log whole or cut; the next open tells.
    pub fn truncating(spec: OpenSpec, options: RecoveryOptions, to: Option<Truncation>) -> Self {
        let incarnations = options
            .incarnation_seed
            .map_or(Incarnations::Random, Incarnations::Seeded);
        let tokens = TokenCounter::new(spec.token_space);
        let machine = Machine::new(tokens, |io| open(io, spec, options, incarnations, to));
        Self { machine }
    }

    /// Goes on as far as the completions allow. Not to be called again once it is not pending.
    pub fn step(&mut self, now_ms: i64, disk: &mut dyn Disk, completions: Vec<Completion>) -> OpenProgress {
        match self.machine.step(disk, completions) {
            Poll::Pending => OpenProgress::Pending,
            Poll::Ready(Err(error)) => OpenProgress::Failed(error),
            Poll::Ready(Ok((mut log, report))) => {
                for segment in &mut log.segments {
                    segment.opened_ms = now_ms;
                }
                log.last_commit_ms = now_ms;
                log.spares.opened(now_ms);
                OpenProgress::Ready(log, report)
            }
        }
    }
}

/// Opens a log and blocks until it is done: for tools and tests whose disk is theirs alone.
///
/// # Errors
/// As [`OpenProgress::Failed`].
pub fn drive_open(disk: &mut dyn Disk, mut opening: Opening) -> Opened {
    let now_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as i64);
    let mut completions = Vec::new();
    loop {
        match opening.step(now_ms, disk, std::mem::take(&mut completions)) {
            OpenProgress::Ready(log, report) => return Ok((log, report)),
            OpenProgress::Failed(error) => return Err(error),
            OpenProgress::Pending => disk.take_completions(&mut completions),
        }
        if completions.is_empty() {
            std::thread::yield_now();
        }
    }
}

impl PartitionLog {
    /// The way on after a fence: waits for what is in flight, then recovers from the device. What
    /// was durable stays; the tail goes on in a new file under a raised leader epoch.
    pub fn into_reopening(self) -> Opening {
        self.into_reopening_with(JournalEvidence::None)
    }

    /// As [`PartitionLog::into_reopening`], of a log whose entries may be in a journal. The journal has none of them
    /// in flight.
    pub fn into_reopening_with(self, journal: JournalEvidence) -> Opening {
        let spec = OpenSpec {
            directory: self.directory.clone(),
            key: self.key,
            config: self.config,
            token_space: self.tokens.space(),
            checkpoint: Some(self.checkpoint()),
            clean: false,
            start_counter: self.start_counter,
            created: false,
        };
        let options = RecoveryOptions {
            term_floor: self.term.max(self.options.term_floor),
            checkpoint_is_old: false,
            continue_in_new_file: true,
            readers_may_remain: true,
            journal,
            ..self.options
        };
        let mut in_flight: BTreeSet<Token> = self.in_flight.keys().copied().collect();
        in_flight.extend(self.index_files.in_flight());
        let handles: Vec<FileHandle> = self
            .segments
            .iter()
            .filter_map(|segment| segment.file.clone())
            .collect();
        let incarnations = self.incarnations;
        let waited_for = in_flight.clone();
        let machine = Machine::with_in_flight(self.tokens, in_flight, move |io| async move {
            io.wait_for(&waited_for).await;
            // The maps hang on these handles; and an error of theirs must not be lost by closing
            // them before the recovery has synced.
            let kept = if options.bug == RecoveryBug::ReadFromCache {
                &[]
            } else {
                handles.as_slice()
            };
            for file in kept {
                let _ = io.done(DiskOp::DropCache { file: file.clone() }).await;
            }
            let opened = open(io, spec, options, incarnations, None).await;
            drop(handles);
            opened
        });
        Opening { machine }
    }
}

async fn open(
    io: Io,
    spec: OpenSpec,
    options: RecoveryOptions,
    incarnations: Incarnations,
    truncation: Option<Truncation>,
) -> Opened {
    let directory = spec.directory.clone();
    let mut opener = Opener {
        io,
        spec,
        options,
        incarnations,
        frames: None,
        replay: Replay::default(),
        truncations: 0,
        report: RecoveryReport::default(),
        spares: Vec::new(),
    };
    let opened = match truncation {
        Some(to) => opener.open_truncated(to).await,
        None => opener.open().await,
    };
    match opened {
        Ok(mut log) => {
            let spares = std::mem::take(&mut opener.spares);
            log.adopt_spares(&opener.io, spares).await;
            log.tokens = opener.io.tokens();
            if let Some(frames) = &opener.frames {
                frames.mark_replayed();
            }
            Ok((Box::new(log), opener.report))
        }
        Err(failure) => Err(failure.of(directory)),
    }
}

/// The steps of an opening, and what they hand on.
pub(super) struct Opener {
    pub(super) io: Io,
    pub(super) spec: OpenSpec,
    pub(super) options: RecoveryOptions,
    incarnations: Incarnations,
    frames: Option<Arc<PartitionFrames>>,
    replay: Replay,
    /// How often the log was truncated: new segments say it.
    pub(super) truncations: u32,
    pub(super) report: RecoveryReport,
    /// Files found that wait to be recycled.
    spares: Vec<String>,
}

impl Opener {
    pub(super) async fn open(&mut self) -> Result<PartitionLog, Failure> {
        let directory = self.spec.directory.clone();
        self.frames = self.options.journal.read(&self.io, &self.spec.key).await?;
        // The log lets the journal go when it is open.
        self.options.journal = JournalEvidence::None;
        let has_frames = self.frames.as_ref().is_some_and(|frames| !frames.is_empty());
        if let Some(frames) = &self.frames {
            self.options.term_floor = self.options.term_floor.max(frames.term_max());
        }
        self.io.create_dir(&directory).await?;
        if let Some(parent) = directory.parent() {
            self.io.sync_dir(parent).await?;
        }
        if self.spec.created && self.io.names(&directory).await?.is_empty() {
            self.report.clean = true;
            let first = self.create_segment(0, EntryIndex(1), Offset(0), 0).await?;
            let generations = BTreeMap::from([(EntryIndex(1), 0)]);
            let state = LogState::new(Offset(0));
            let term = self.options.term_floor;
            return Ok(self.finish(vec![first], state, generations, term, true));
        }
        if self.spec.clean
            && !has_frames
            && let Some(checkpoint) = self.spec.checkpoint.clone()
            && !self.options.checkpoint_is_old
        {
            if let Some(log) = self.open_clean(&checkpoint).await? {
                return Ok(log);
            }
            self.report.clean_flag_was_stale = true;
        }
        self.recover().await
    }

    /// The files as a clean shutdown left them, or `None` if they are not.
    async fn open_clean(
        &mut self,
        checkpoint: &PartitionCheckpoint,
    ) -> Result<Option<PartitionLog>, Failure> {
        let source = ReadSource::Cached;
        let found = find_files(
            &self.io,
            &self.spec.directory,
            self.spec.key,
            source,
            false,
            self.options.bug,
        )
        .await?;
        let generations = found.generations;
        self.spares = found.spares;
        self.truncations = found.truncations.count();
        let (walked, others) = self.walk(found.segments, found.others, source, false).await?;
        if walked.segments.is_empty() || !matches_checkpoint(&walked, &others, checkpoint) {
            return Ok(None);
        }
        self.report.clean = true;
        Ok(Some(self.finish(
            walked.segments,
            walked.state,
            generations,
            checkpoint.term,
            true,
        )))
    }

    /// What is dead in the journal.
    fn truncations_of(&self, found: &FoundFiles, frames: &PartitionFrames) -> Truncations {
        let mut truncations = found.truncations.clone();
        if self.options.bug == RecoveryBug::IgnoreTruncations {
            return truncations;
        }
        frames.segments().for_each(|segment| truncations.note(segment));
        truncations
    }

    async fn walk(
        &mut self,
        segments: Vec<Segment>,
        others: Vec<String>,
        source: ReadSource,
        verify_payload: bool,
    ) -> Result<(Walked, Vec<String>), Failure> {
        let checkpoint = self.spec.checkpoint.as_ref();
        let log_start = checkpoint.map_or(Offset(0), |checkpoint| checkpoint.log_start);
        let (directory, bug) = (&self.spec.directory, self.options.bug);
        let known = look_up(&self.io, directory, checkpoint, &segments, source, bug).await?;
        let input = WalkInput {
            io: &self.io,
            source,
            verify_payload,
            checkpoint,
            known,
            bug: self.options.bug,
            batch_bytes: 0,
            visit: None,
            only_first: false,
            replay: std::mem::take(&mut self.replay),
            tail_in_new_file: self.options.continue_in_new_file,
        };
        let mut walked = walk(input, segments, LogState::new(log_start)).await?;
        self.replay = std::mem::take(&mut walked.replay);
        Ok((walked, others))
    }

    pub(super) async fn recover(&mut self) -> Result<PartitionLog, Failure> {
        let directory = self.spec.directory.clone();
        let trusts_cache = self.options.bug == RecoveryBug::ReadFromCache;
        let source = if trusts_cache {
            ReadSource::Cached
        } else {
            ReadSource::Device
        };
        let mut found = find_files(
            &self.io,
            &directory,
            self.spec.key,
            source,
            !trusts_cache,
            self.options.bug,
        )
        .await?;
        if let Some(frames) = self.frames.take() {
            make_lost_segments(&self.io, &directory, &mut found, &frames, source).await?;
            let truncations = self.truncations_of(&found, &frames);
            self.replay = Replay::new(Some(Arc::clone(&frames)), truncations);
            self.frames = Some(frames);
        }
        self.truncations = found.truncations.count();
        let FoundFiles {
            segments,
            others,
            mut generations,
            orphaned_indexes,
            spares,
            term_max,
            ..
        } = found;
        self.spares = spares;
        for name in orphaned_indexes {
            // Derived, and of no use to anyone; one that stays does no harm.
            let _ = self.io.unlink_if_present(&directory.join(name)).await;
        }
        let (mut walked, mut aside) = self.walk(segments, others, source, true).await?;
        if let Some(checkpoint) = &self.spec.checkpoint {
            lost_front(checkpoint, &mut walked);
        }

        let durable = self.spec.checkpoint.as_ref().map(|known| known.durable_index);
        let claimed = walked.quarantined.iter().map(|lost| lost.indices.end);
        let claimed = claimed
            .chain(durable.filter(|_| walked.segments.is_empty()))
            .max();
        if walked.state.next_index().0 > NEXT_INDEX_MAX
            || claimed.is_some_and(|claimed| claimed.0 > CLAIMED_INDEX_MAX)
        {
            return Err(Failure::IndicesUsedUp);
        }
        aside.extend(walked.set_aside.iter().map(Segment::name));
        let term = self.raised_term(term_max.max(walked.term_max))?;
        // Entries behind the end may be all that says the damage was durable. They stay until an entry
        // at the head of the next segment says it too; else a crash now would turn it into a torn tail.
        let proof_is_behind =
            !walked.quarantined.is_empty() && (walked.found_behind || !walked.set_aside.is_empty());
        if !proof_is_behind {
            set_aside(&self.io, &directory, &aside).await?;
        }
        if let Some(last) = walked.segments.last() {
            // Damage is left as it is, and so is what may be readable again: only a torn tail is cut.
            if walked.ending == Ending::Here && !proof_is_behind && !self.unreadable_behind(last) {
                zero_behind(&self.io, last).await?;
            }
            self.report.end = Some((last.name(), last.tail.position));
        }
        for segment in &walked.segments {
            if let Some(file) = &segment.file {
                self.io.sync(file).await?;
            }
        }
        walked.successor_stays |= proof_is_behind || walked.tail_in_journal;
        self.make_stand_ins(&mut walked, &mut generations).await?;
        let replaced = self.continue_log(&mut walked, &mut generations, term).await?;
        self.take_tail(&mut walked).await?;
        if proof_is_behind {
            aside.extend(replaced);
            set_aside(&self.io, &directory, &aside).await?;
        } else {
            let replaced: Vec<String> = replaced.into_iter().collect();
            set_aside(&self.io, &directory, &replaced).await?;
        }
        self.io.sync_dir(&directory).await?;

        self.report.torn_entries_seen = walked.successor_seen;
        self.report.set_aside = aside;
        self.report.quarantined = walked.quarantined.clone();
        self.report.unreadable = self.io.with_unreadable(|pages| pages.ranges());
        self.report.raised_term = Some(term);
        self.report.from_journal = self.replay.taken;
        let confirmed = self.options.bug == RecoveryBug::KeepTerm;
        let mut log = self.finish(walked.segments, walked.state, generations, term, confirmed);
        log.quarantined = walked.quarantined;
        Ok(log)
    }

    /// Whether bytes at or behind the end of a segment cannot be read: nothing is written there.
    fn unreadable_behind(&self, segment: &Segment) -> bool {
        self.io
            .with_unreadable(|pages| pages.any_behind(&segment.name(), segment.tail.position))
    }

    /// Makes the segments again, empty, that are lost and whose places say what is dead before them.
    async fn make_stand_ins(
        &mut self,
        walked: &mut Walked,
        generations: &mut BTreeMap<EntryIndex, u32>,
    ) -> Result<(), Failure> {
        let id = walked
            .segments
            .iter()
            .map(|segment| segment.id + 1)
            .max()
            .unwrap_or(0);
        let stand_ins = std::mem::take(&mut walked.stand_ins);
        for (nth, stand_in) in stand_ins.into_iter().enumerate() {
            let (index, offset) = (stand_in.base_index, stand_in.base_offset);
            let generation = generations.get(&index).map_or(0, |used| used + 1);
            let mut segment = self
                .create_segment(id + nth as u64, index, offset, generation)
                .await?;
            segment.damaged_from.push(Segment::FIRST_ENTRY);
            generations.insert(index, generation);
            let place = (stand_in.behind + 1 + nth).min(walked.segments.len());
            walked.segments.insert(place, segment);
        }
        Ok(())
    }

    /// Makes the segment that the log goes on in, where that is not the last one found; answers the name
    /// of one that gave way to it and is to be set aside.
    async fn continue_log(
        &mut self,
        walked: &mut Walked,
        generations: &mut BTreeMap<EntryIndex, u32>,
        term: LeaderEpoch,
    ) -> Result<Option<String>, Failure> {
        let checkpoint = self.spec.checkpoint.as_ref();
        let all_lost = checkpoint.filter(|checkpoint| lost_whole(checkpoint, walked));
        let (index, offset) = if let Some(checkpoint) = all_lost {
            (walked.state.next_index(), checkpoint.next_offset)
        } else {
            match walked.ending {
                Ending::Beyond { index, offset } => (index, offset),
                // What was cut stays in its file behind the end. There it is dead only once the next
                // segment begins: else it would fit behind an entry that is damaged later.
                Ending::Here
                    if walked.segments.is_empty()
                        || self.options.continue_in_new_file
                        || walked.successor_stays
                        || walked
                            .segments
                            .last()
                            .is_some_and(|last| self.unreadable_behind(last)) =>
                {
                    (walked.state.next_index(), walked.state.next_offset())
                }
                Ending::Here => return Ok(None),
            }
        };
        // An empty last segment at this very index gives way to the next generation of itself.
        let gives_way = |last: &&Segment| last.base_index() == index;
        let replaced = walked.segments.last().filter(gives_way).map(Segment::name);
        if replaced.is_some() {
            walked.segments.pop();
        }
        let generation = generations.get(&index).map_or(0, |used| used + 1);
        let id = walked
            .segments
            .iter()
            .map(|segment| segment.id + 1)
            .max()
            .unwrap_or(0);
        let mut segment = self.create_segment(id, index, offset, generation).await?;
        generations.insert(index, generation);
        // Entries from the journal are proof enough, and their indices are taken.
        if !walked.quarantined.is_empty() && !walked.tail_in_journal {
            self.open_with_state(&mut segment, &mut walked.state, term)
                .await?;
        }
        walked.segments.push(segment);
        Ok(replaced)
    }

    /// Writes what only the journal holds behind everything else to the segment that the log goes on in.
    async fn take_tail(&mut self, walked: &mut Walked) -> Result<(), Failure> {
        if !walked.tail_in_journal && !walked.segments.last().is_some_and(Segment::is_empty) {
            return Ok(());
        }
        while let Some(entry) = self.replay.next(&self.io, &walked.state).await? {
            let Some(segment) = walked.segments.last_mut() else {
                break;
            };
            let (header, bytes) = encode_anew(&entry, &segment.incarnation(), segment.tail.crc);
            let payload = bytes.slice(ENTRY_HEADER_LEN..ENTRY_HEADER_LEN + header.payload_len as usize);
            let batch = match header.is_plain_data() {
                true => BatchHeader::parse(&payload).ok(),
                false => None,
            };
            if walked.state.accept(&header, batch.as_ref(), &payload).is_err() {
                break;
            }
            let position = segment.tail.position;
            segment.accept_recovered(&header, position);
            if let Some(file) = &segment.file {
                self.io.write_all(file, position, bytes).await?;
            }
            self.replay.taken += 1;
        }
        match walked.segments.last().and_then(|segment| segment.file.clone()) {
            Some(file) => Ok(self.io.sync(&file).await?),
            None => Ok(()),
        }
    }

    /// Begins a segment behind damage as a roll does, with the producers' states. By its index and its
    /// claim of durability this entry proves from now on that what is damaged was durable.
    async fn open_with_state(
        &mut self,
        segment: &mut Segment,
        state: &mut LogState,
        term: LeaderEpoch,
    ) -> Result<(), Failure> {
        let payload = state.producers.encode(state.log_start().min(state.next_offset()));
        let kind = EntryKind::ProducerState;
        let mut header = EntryHeader {
            version: ENTRY_VERSION,
            kind,
            flags: 0,
            payload_len: u32::try_from(payload.len()).unwrap_or(u32::MAX),
            payload_crc: payload_crc(kind, 0, &payload),
            term,
            index: state.next_index(),
            base_offset: state.next_offset(),
            last_offset_delta: -1,
            prev_crc: 0,
            header_crc: 0,
            max_timestamp: -1,
            durable_gap: 1,
        };
        let mut bytes = header.encode(&segment.incarnation(), &payload).to_vec();
        bytes.extend_from_slice(&payload);
        bytes.resize(header.entry_len().next_multiple_of(PAGE_BYTES as usize), 0);
        if let Some(file) = &segment.file {
            self.io
                .write_all(file, Segment::FIRST_ENTRY, Bytes::from(bytes))
                .await?;
            self.io.sync(file).await?;
        }
        assert!(
            state.accept(&header, None, &payload).is_ok(),
            "our own payload can be read"
        );
        segment.accept_recovered(&header, Segment::FIRST_ENTRY);
        Ok(())
    }

    async fn create_segment(
        &mut self,
        id: u64,
        base_index: EntryIndex,
        base_offset: Offset,
        generation: u32,
    ) -> Result<Segment, Failure> {
        self.create_segment_with(id, (base_index, base_offset), generation, None)
            .await
    }

    /// As [`Self::create_segment`], with a first entry, which is durable before the header is.
    pub(super) async fn create_segment_with(
        &mut self,
        id: u64,
        (base_index, base_offset): (EntryIndex, Offset),
        generation: u32,
        first: Option<(EntryHeader, Vec<u8>)>,
    ) -> Result<Segment, Failure> {
        let incarnation = self.incarnations.next()?;
        let counts = (generation, self.truncations);
        let header = new_header(self.spec.key, incarnation, base_index, base_offset, counts);
        let file = self
            .io
            .create(&self.spec.directory.join(header.file_name()))
            .await?;
        if let Some((mut entry, payload)) = first {
            let mut bytes = entry.encode(&incarnation, &payload).to_vec();
            bytes.extend_from_slice(&payload);
            bytes.resize(entry.entry_len().next_multiple_of(PAGE_BYTES as usize), 0);
            self.io
                .write_all(&file, Segment::FIRST_ENTRY, Bytes::from(bytes))
                .await?;
            self.io.sync(&file).await?;
        }
        self.io.write_all(&file, 0, Bytes::from(header.encode())).await?;
        self.io.sync(&file).await?;
        self.io.sync_dir(&self.spec.directory).await?;
        Ok(Segment::found(id, header, file, Segment::FIRST_ENTRY, 0))
    }

    /// 1 + the highest term known, and above all terms of earlier starts where no checkpoint of the
    /// last start speaks for the partition.
    pub(super) fn raised_term(&self, seen: LeaderEpoch) -> Result<LeaderEpoch, Failure> {
        let checkpoint_term = self
            .spec
            .checkpoint
            .as_ref()
            .map_or(LeaderEpoch(0), |checkpoint| checkpoint.term);
        let highest = seen.max(checkpoint_term).max(self.options.term_floor);
        if self.options.bug == RecoveryBug::KeepTerm {
            return Ok(highest);
        }
        let mut term = i64::from(highest.0) + 1;
        if self.spec.checkpoint.is_none() || self.options.checkpoint_is_old {
            let floor = self.spec.start_counter.saturating_mul(TERMS_PER_START);
            term = term.max(i64::try_from(floor).unwrap_or(i64::MAX));
        }
        i32::try_from(term)
            .map(LeaderEpoch)
            .map_err(|_| Failure::TermsUsedUp)
    }

    fn finish(
        &self,
        mut segments: Vec<Segment>,
        state: LogState,
        used_generations: BTreeMap<EntryIndex, u32>,
        term: LeaderEpoch,
        term_durable: bool,
    ) -> PartitionLog {
        for segment in &mut segments {
            // Space behind the tail may be a hole: it is reserved again before it is written.
            segment.allocated = segment.page_end();
            segment.readers_may_remain = self.options.readers_may_remain;
            segment.pending = Pending::at(segment.tail.position);
        }
        let closed = segments.len().saturating_sub(1);
        let unindexed = segments
            .iter()
            .take(closed)
            .filter(|segment| !segment.is_indexed());
        let index_files = IndexFiles::of(unindexed.map(|segment| segment.id));
        let next_segment_id = segments.iter().map(|segment| segment.id + 1).max().unwrap_or(0);
        let durable = segments.last().map(|segment| segment.tail);
        let durable = durable.unwrap_or_else(|| unreachable!("an open log has a segment"));
        let log_starts = DurableLogStart::new(state.log_start());
        PartitionLog {
            directory: self.spec.directory.clone(),
            key: self.spec.key,
            config: self.spec.config,
            start_counter: self.spec.start_counter,
            options: self.options.clone(),
            incarnations: self.incarnations.clone(),
            tokens: self.io.tokens(),
            in_flight: BTreeMap::new(),
            first_unsynced: segments.len().saturating_sub(1),
            segments,
            next_segment_id,
            used_generations,
            truncations: self.truncations,
            state,
            term,
            term_durable,
            assigned_term: None,
            durable,
            settled: durable,
            is_grouped: false,
            settling: Vec::new(),
            watermark_floor: Offset(0),
            log_starts,
            front: Front::default(),
            spares: Spares::default(),
            commit: None,
            last_commit_ms: 0,
            quarantined: Vec::new(),
            status: LogStatus::Open,
            fence_cause: None,
            closing: false,
            index_files,
        }
    }
}
