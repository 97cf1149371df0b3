//! A script against one log, with the power cut after each step of the disk until the script ends.
//!
//! A test says what its script does ([`Life`]), what it watches meanwhile ([`Watch`]), and judges what it finds after
//! the cut; [`cut_everywhere`] runs it again and again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tidelog_segment_log::checkpoint::PartitionCheckpoint;
use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::disk::sim::{SimConfig, SimDisk, SimFaults};
use tidelog_segment_log::ids::{Offset, PartitionKey, TopicId};
use tidelog_segment_log::journal::{
    FoundJournals, GroupCommit, GroupConfig, GroupEvent, Journal, JournalBug, JournalConfig, Logs, Way,
};
use tidelog_segment_log::log::{Durability, LogConfig, OpenProgress, OpenSpec, Opening, PartitionLog};
use tidelog_segment_log::producer_state::SequenceCheck;
use tidelog_segment_log::recovery::{RecoveryOptions, RecoveryReport};

use super::disk::Stepping;
use super::{Verdict, batches, reads};

/// The directory of the one partition.
pub const DIRECTORY: &str = "/sim/partition";
/// The data directory that it lies in, with its journal.
const DATA: &str = "/sim";
/// Length of each record's value.
const VALUE_BYTES: usize = 1_500;
const JOURNAL_SPACE: u32 = 8;
const JOURNAL_FILE_BYTES: u64 = 32 << 10;

/// What distinguishes the log of one test from that of another.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub segment_bytes: u64,
    pub durability: Durability,
}

fn key() -> PartitionKey {
    PartitionKey {
        topic: TopicId([5; 16]),
        partition: 1,
    }
}

/// The log at its start number `starts`, from 1 on.
pub fn spec(kind: Kind, starts: u64, checkpoint: Option<PartitionCheckpoint>) -> OpenSpec {
    OpenSpec {
        directory: PathBuf::from(DIRECTORY),
        key: key(),
        config: LogConfig {
            segment_bytes: kind.segment_bytes,
            segment_ms: i64::MAX,
            durability: kind.durability,
        },
        token_space: 7,
        checkpoint,
        clean: false,
        start_counter: starts,
        created: starts == 1,
    }
}

/// A disk on which writes stall now and then, and nothing fails.
pub fn disk(seed: u64, fdatasync_is_noop: bool) -> SimDisk {
    SimDisk::new(SimConfig {
        seed,
        faults: SimFaults {
            would_stall_ppm: 300_000,
            ..SimFaults::default()
        },
        fdatasync_is_noop,
        ..SimConfig::default()
    })
}

/// Opens the log; nothing on such a disk counts as damaged.
pub fn open(
    disk: &mut SimDisk,
    spec: OpenSpec,
    options: RecoveryOptions,
) -> Result<Box<PartitionLog>, String> {
    let opening = Opening::with_options(spec, options);
    let (mut log, _) = finish(opening, 1, disk, &mut { usize::MAX }).map_err(End::told)?;
    log.confirm_term();
    Ok(log)
}

/// With what journals hold of the log.
pub fn with_journals(disk: &mut SimDisk, options: RecoveryOptions) -> Result<RecoveryOptions, String> {
    let found = FoundJournals::find(JOURNAL_SPACE, Path::new(DATA)).drive(&mut Stepping(disk));
    let found = found.map_err(|error| error.to_string())?;
    match found.damage() {
        [] => Ok(RecoveryOptions {
            journal: found.evidence(&key()),
            ..options
        }),
        damage => Err(format!("journal damage where none was done: {damage:?}")),
    }
}

/// Lets an opening get on for at most `left` steps of the disk.
pub fn finish(
    mut opening: Opening,
    now_ms: i64,
    disk: &mut SimDisk,
    left: &mut usize,
) -> Result<(Box<PartitionLog>, RecoveryReport), End> {
    let mut completions = Vec::new();
    loop {
        match opening.step(now_ms, disk, std::mem::take(&mut completions)) {
            OpenProgress::Ready(log, report) if report.quarantined.is_empty() => return Ok((log, report)),
            OpenProgress::Ready(_, report) => {
                return Err(End::Wrong(format!("damage where none was done: {report:?}")));
            }
            OpenProgress::Failed(error) => return Err(End::Wrong(error.to_string())),
            OpenProgress::Pending => {
                *left = left.checked_sub(1).ok_or(End::Cut)?;
                disk.advance();
                disk.take_completions(&mut completions);
            }
        }
    }
}

/// Sees the log after each step of the disk.
pub trait Watch {
    fn look(&mut self, log: &mut PartitionLog);
}

/// Why a life ended before its script.
#[derive(Debug)]
pub enum End {
    Cut,
    Wrong(String),
}

impl End {
    /// What was wrong, where the power is not cut.
    pub fn told(self) -> String {
        match self {
            Self::Cut => "the power is on, and it was cut".to_owned(),
            Self::Wrong(what) => what,
        }
    }
}

/// A life of the log that ends after `left` steps of the disk.
pub struct Life<W> {
    pub disk: SimDisk,
    pub log: Box<PartitionLog>,
    pub now_ms: i64,
    pub durable_to: Offset,
    pub watch: W,
    left: usize,
    /// The next sequence of each producer.
    sequences: BTreeMap<i64, i32>,
    /// Decides about the commits of the log, if it has one.
    group: Option<GroupCommit>,
}

/// The only log of a group.
struct Only<'a>(&'a mut PartitionLog);

impl Logs for Only<'_> {
    fn log_mut(&mut self, key: &PartitionKey) -> Option<&mut PartitionLog> {
        (self.0.key() == *key).then_some(&mut *self.0)
    }
}

impl<W: Watch> Life<W> {
    pub fn new(disk: SimDisk, log: Box<PartitionLog>, left: usize, watch: W) -> Self {
        Self {
            disk,
            log,
            now_ms: 1_000_000,
            durable_to: Offset(0),
            watch,
            left,
            sequences: BTreeMap::new(),
            group: None,
        }
    }

    /// From here on its commits go through a journal of its own, as start number `starts` makes it.
    pub fn begin_journal(&mut self, starts: u64) {
        let journal = JournalConfig {
            shard: 0,
            start_counter: starts,
            file_bytes: JOURNAL_FILE_BYTES,
            max_bytes: 4 * JOURNAL_FILE_BYTES,
            id_seed: Some(starts),
            bug: JournalBug::None,
        };
        let commits = GroupConfig {
            dirty_files_min: 1,
            bytes_per_file_max: u64::MAX,
            direct_while_making_max: 1,
            trim_above_bytes: JOURNAL_FILE_BYTES,
        };
        let journal = Journal::new(Path::new(DATA), JOURNAL_SPACE, journal);
        self.group = Some(GroupCommit::new(journal, commits));
        self.log.join_group_commit();
    }

    /// Which way its commits went.
    pub fn way(&self) -> Way {
        self.group.as_ref().map(GroupCommit::way).unwrap_or_default()
    }

    /// Writes what was appended, and commits.
    pub fn flush(&mut self) {
        self.log.flush(self.now_ms, &mut self.disk);
        if let Some(group) = &mut self.group {
            group.note(self.log.key());
            group.commit(self.now_ms, &mut self.disk, &mut Only(&mut self.log));
        }
    }

    pub fn step(&mut self) -> Result<(), End> {
        self.left = self.left.checked_sub(1).ok_or(End::Cut)?;
        self.disk.advance();
        let mut completions = Vec::new();
        self.disk.take_completions(&mut completions);
        for completion in completions {
            match &mut self.group {
                Some(group) if completion.token.0 >> 32 == u64::from(JOURNAL_SPACE) => {
                    group.on_completion(&mut self.disk, completion);
                }
                _ => self.log.on_completion(self.now_ms, &mut self.disk, completion),
            }
        }
        let events = match &mut self.group {
            Some(group) => group.take_events(&mut Only(&mut self.log)),
            None => Vec::new(),
        };
        for event in events {
            if let GroupEvent::Failed(error) = event {
                return Err(End::Wrong(error.to_string()));
            }
        }
        self.look();
        Ok(())
    }

    pub fn look(&mut self) {
        self.durable_to = self.durable_to.max(self.log.durable_offset());
        self.watch.look(&mut self.log);
    }

    /// Batches of one record each.
    pub fn append(&mut self, producer: i64, count: i32) -> Result<(), End> {
        for _ in 0..count {
            let next = self.sequences.entry(producer).or_default();
            self.now_ms += 10;
            let value = vec![*next as u8; VALUE_BYTES];
            let batch: Bytes = batches::sequenced(producer, *next, self.now_ms, &[value.as_slice()]);
            *next += 1;
            self.log
                .append(self.now_ms, &mut self.disk, &batch)
                .map_err(|error| End::Wrong(error.to_string()))?;
            self.flush();
            self.step()?;
        }
        Ok(())
    }

    /// A batch under the offset and the epoch that it has.
    pub fn append_assigned(&mut self, batch: &Bytes) -> Result<(), End> {
        self.now_ms += 10;
        self.log
            .append_assigned(self.now_ms, &mut self.disk, batch)
            .map_err(|error| End::Wrong(error.to_string()))?;
        self.flush();
        self.step()
    }

    /// Until nothing is in flight.
    pub fn settle(&mut self) -> Result<(), End> {
        loop {
            self.log.tick(self.now_ms, &mut self.disk);
            if self.group.is_some() {
                self.flush();
                self.trim();
            }
            if !self.log.is_waiting_for_disk() && self.disk.idle() {
                return Ok(());
            }
            self.step()?;
        }
    }

    /// Lets files of the journal go.
    fn trim(&mut self) {
        if let Some(group) = self.group.as_mut().filter(|group| group.wants_trim()) {
            group.trim_step(&mut self.disk, &mut Only(&mut self.log), || true);
        }
    }

    /// How many batches a producer sent.
    pub fn sent(&self, producer: i64) -> i32 {
        self.sequences.get(&producer).copied().unwrap_or(0)
    }
}

/// Lets a log after a cut end what it has begun.
pub fn settle(log: &mut PartitionLog, disk: &mut SimDisk) {
    let mut completions = Vec::new();
    loop {
        log.tick(1, disk);
        if !log.is_waiting_for_disk() {
            return;
        }
        disk.advance();
        disk.take_completions(&mut completions);
        for completion in completions.drain(..) {
            log.on_completion(1, disk, completion);
        }
    }
}

/// Every offset from the log start to the log end is served.
pub fn all_is_served(log: &mut PartitionLog, disk: &mut SimDisk) -> Verdict {
    let (start, end) = (log.log_start_offset().0, log.log_end_offset().0);
    let batches = reads::read_all(log, disk, 1)?;
    let served = batches.iter().map(|(batch, _)| batch.base_offset.0);
    match served.eq(start..end) {
        true => Ok(()),
        false => Err("a record at or above the log start is missing".to_owned()),
    }
}

/// Whether the log knows `last` as the last sequence of a producer.
pub fn is_known(log: &PartitionLog, producer: i64, last: i32) -> bool {
    let check = log.producers().check(producer, 0, last, last);
    matches!(check, SequenceCheck::Duplicate { .. })
}

/// One run to its cut.
pub struct Run {
    pub verdict: Verdict,
    /// The script had ended before.
    pub ended: bool,
}

/// Cuts after each step of the disk until the script ends, and stops at the first that is judged wrong; also
/// how many cuts there were.
pub fn cut_everywhere(mut run: impl FnMut(usize) -> Run) -> (Verdict, usize) {
    for cut_after in 0.. {
        let Run { verdict, ended } = run(cut_after);
        let verdict = verdict.map_err(|error| format!("cut after {cut_after}: {error}"));
        if verdict.is_err() || ended {
            return (verdict, cut_after);
        }
    }
    unreachable!("the script ends")
}
