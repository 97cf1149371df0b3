//! The promise: a batch whose offset passed the durable offset is there, under its offset and with
//! its bytes, after any sequence of power cuts, process kills, failed writes and failed syncs, unless the
//! log start was moved above it; a log start that was durable is there; nothing is served that was not
//! appended; and no offset is given out twice under one leader epoch.
//!
//! One seed decides everything of a run. `TIDELOG_SIM_SEEDS` sets the number of seeds (200).
//! The tests at the end show that the oracle can fail: with syncs that do nothing, and with faults
//! planted in recovery.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::task::Poll;

use bytes::Bytes;
use tidelog_segment_log::batch::testing::{BatchSpec, build_batch};
use tidelog_segment_log::batch::{BatchHeader, patch_prefix};
use tidelog_segment_log::checkpoint::{Checkpoint, PartitionCheckpoint};
use tidelog_segment_log::data_directory::{DataDirectory, NewIdentity, write_checkpoint};
use tidelog_segment_log::disk::sim::{OpKind, SimConfig, SimDisk, SimEvents, SimFaults, SimRng};
use tidelog_segment_log::disk::{
    Completion, DirectoryLock, Disk, DiskOp, DiskOutput, FileHandle, HotBytes, ReadSource, Token, WriteNow,
};
use tidelog_segment_log::ids::{EntryIndex, Offset, PartitionKey, TopicId};
use tidelog_segment_log::log::{
    AppendError, CloseProgress, Durability, LogConfig, LogStartError, LogStatus, Machine, OpenProgress,
    OpenSpec, Opening, PartitionLog, ReadPart, verify_cold,
};
use tidelog_segment_log::producer_state::{ProducerBatch, ProducerStates};
use tidelog_segment_log::recovery::{RecoveryBug, RecoveryOptions, RecoveryReport};

const LOG_SPACE: u32 = 7;
const CHECKPOINT_SPACE: u32 = 8;
const STEPS_MAX: usize = 200_000;
/// Seeds of a run, unless told otherwise.
const SEEDS: usize = 200;

/// A disk that gets on by itself when somebody waits for it.
struct Stepping<'a>(&'a mut SimDisk);

impl Disk for Stepping<'_> {
    fn submit(&mut self, token: Token, op: DiskOp) {
        self.0.submit(token, op);
    }
    fn take_completions(&mut self, out: &mut Vec<Completion>) {
        self.0.advance();
        self.0.take_completions(out);
    }
    fn write_now(&mut self, file: &FileHandle, at: u64, pieces: &[IoSlice<'_>]) -> io::Result<WriteNow> {
        self.0.write_now(file, at, pieces)
    }
    fn hot_bytes(&mut self, file: &FileHandle, range: Range<u64>) -> Option<HotBytes> {
        self.0.hot_bytes(file, range)
    }
    fn lock_directory(&mut self, path: &Path) -> io::Result<DirectoryLock> {
        self.0.lock_directory(path)
    }
}

#[derive(Clone, Copy)]
struct Scenario {
    steps: usize,
    fdatasync_is_noop: bool,
    bug: RecoveryBug,
}

const SOUND: Scenario = Scenario {
    steps: 400,
    fdatasync_is_noop: false,
    bug: RecoveryBug::None,
};

/// What must have happened in the runs, or they prove nothing about it. Each is counted by name.
const RARE: &[&str] = &[
    "a start that the disk refused",
    "an opening that failed",
    "an opening from the older checkpoint generation or another shard's",
    "a clean opening",
    "an unclean opening without a checkpoint",
    "a torn tail with entries behind it",
    "a file set aside",
    "a log that went on in a new segment behind a cut",
    "a fence",
    "a reopening that failed",
    "a stop in order",
    "a stop that ended in a fence",
    "a power cut",
    "a kill",
    "a kill and then a power cut",
    "a crash while a checkpoint was written",
    "a crash while a segment was begun",
    "a crash with operations of the log in flight",
    "a crash with batches that were not acknowledged",
    "a crash with a log start that was not durable",
    "an append that found the disk full",
    "an append before the term was durable",
    "a log start above the high watermark",
    "a short write",
    "a write that would have stalled",
    "a failed sync",
    "a page marked clean that is not on the disk",
    "a failed write-back",
    "a full disk",
    "an operation done at a crash",
    "an operation dropped at a crash",
    "an older sector kept at a power cut",
    "an unsynced sector kept at a power cut",
    "a torn page",
    "a file that became shorter",
    "a name that was lost",
    "an unsynced name that was kept",
    "a read from the device",
];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Events(BTreeMap<&'static str, u64>);

impl Events {
    fn note(&mut self, name: &'static str, count: u64) {
        assert!(RARE.contains(&name), "{name} is not on the list");
        *self.0.entry(name).or_default() += count;
    }

    fn note_if(&mut self, happened: bool, name: &'static str) {
        self.note(name, u64::from(happened));
    }

    fn take_disk(&mut self, disk: &SimEvents) {
        for (name, count) in [
            ("a short write", disk.short_writes),
            ("a write that would have stalled", disk.would_stall),
            ("a failed sync", disk.failed_syncs),
            ("a page marked clean that is not on the disk", disk.lost_pages),
            ("a failed write-back", disk.writeback_errors),
            ("a full disk", disk.no_space),
            ("an operation done at a crash", disk.outstanding_done),
            ("an operation dropped at a crash", disk.outstanding_dropped),
            ("an older sector kept at a power cut", disk.stale_sectors),
            (
                "an unsynced sector kept at a power cut",
                disk.unsynced_sectors_kept,
            ),
            ("a torn page", disk.torn_pages),
            ("a file that became shorter", disk.lost_lengths),
            ("a name that was lost", disk.lost_names),
            ("an unsynced name that was kept", disk.unsynced_names_kept),
            ("a read from the device", disk.device_reads),
        ] {
            self.note(name, count);
        }
    }

    fn add(&mut self, other: &Events) {
        other.0.iter().for_each(|(name, count)| self.note(name, *count));
    }

    /// Those that never happened.
    fn missing(&self) -> Vec<&'static str> {
        let happened = |name: &&&str| self.0.get(**name).copied().unwrap_or(0) == 0;
        RARE.iter().filter(happened).copied().collect()
    }
}

#[derive(Clone, Debug)]
struct Sent {
    last: i64,
    stored: Bytes,
}

struct World {
    rng: SimRng,
    disk: SimDisk,
    data: Option<DataDirectory>,
    log: Option<Box<PartitionLog>>,
    checkpoint: Option<Machine<io::Result<()>>>,
    checkpoint_confirms_term: bool,
    created: bool,
    now_ms: i64,
    next_value: u64,
    scenario: Scenario,
    /// Appended in this life of the log and not seen to be durable: by base offset.
    pending: BTreeMap<i64, Sent>,
    /// Seen to be durable: must be there for good.
    acked: BTreeMap<i64, Sent>,
    /// Everything ever appended: what may be served.
    ever: BTreeSet<(i64, Bytes)>,
    given_out: BTreeSet<(i32, i64)>,
    /// Log starts asked for in this life of the log, each with the index that makes it durable.
    starts_asked: Vec<(EntryIndex, i64)>,
    /// The log start that was seen to be durable, and the highest that may be found.
    start_acked: i64,
    start_max: i64,
    starts_moved: usize,
    recoveries: usize,
    clean_opens: usize,
    index_damages: usize,
    fences: usize,
    events: Events,
}

type Verdict = Result<(), String>;

fn key() -> PartitionKey {
    PartitionKey {
        topic: TopicId([9; 16]),
        partition: 3,
    }
}

fn faults(rng: &mut SimRng) -> SimFaults {
    let rare = |rng: &mut SimRng| if rng.coin() { 0 } else { 3_000 };
    SimFaults {
        no_space_ppm: rare(rng),
        short_write_ppm: rare(rng),
        writeback_error_ppm: if rng.coin() { 0 } else { 60_000 },
        would_stall_ppm: if rng.coin() { 0 } else { 200_000 },
        cold_ppm: 200_000,
        ..SimFaults::default()
    }
    .with_eio(OpKind::Sync, rare(rng) * 5)
    .with_eio(OpKind::Write, rare(rng))
    .with_eio(OpKind::WriteNow, rare(rng))
    .with_eio(OpKind::SyncDir, rare(rng))
    .with_eio(OpKind::Create, rare(rng))
    .with_eio(OpKind::Read, rare(rng))
}

impl World {
    fn new(seed: u64, scenario: Scenario) -> Self {
        let mut rng = SimRng::new(seed ^ 0x7173_6d00);
        let disk = SimDisk::new(SimConfig {
            seed,
            faults: faults(&mut rng),
            fdatasync_is_noop: scenario.fdatasync_is_noop,
            ..SimConfig::default()
        });
        Self {
            rng,
            disk,
            data: None,
            log: None,
            checkpoint: None,
            checkpoint_confirms_term: false,
            created: false,
            now_ms: 1_000_000,
            next_value: 0,
            scenario,
            pending: BTreeMap::new(),
            acked: BTreeMap::new(),
            ever: BTreeSet::new(),
            given_out: BTreeSet::new(),
            starts_asked: Vec::new(),
            start_acked: 0,
            start_max: 0,
            starts_moved: 0,
            recoveries: 0,
            clean_opens: 0,
            index_damages: 0,
            fences: 0,
            events: Events::default(),
        }
    }

    fn root() -> PathBuf {
        PathBuf::from("/sim/data")
    }

    fn spec(&self, checkpoint: Option<PartitionCheckpoint>, clean: bool, start_counter: u64) -> OpenSpec {
        OpenSpec {
            directory: Self::root().join("partition"),
            key: key(),
            config: LogConfig {
                segment_bytes: 96 << 10,
                segment_ms: 60_000,
                durability: Durability::Fsync,
            },
            token_space: LOG_SPACE,
            checkpoint,
            clean,
            start_counter,
            created: !self.created,
        }
    }

    /// Takes the data directory and opens the log, as a process that starts does.
    fn start(&mut self) -> Verdict {
        for _ in 0..STEPS_MAX {
            let new = NewIdentity {
                node_id: 1,
                cluster_id: "simulated".into(),
                rack: None,
                directory_id: [7; 16],
            };
            let data = match DataDirectory::open(&mut Stepping(&mut self.disk), &Self::root(), new) {
                Ok(data) => data,
                Err(_) => {
                    self.events.note("a start that the disk refused", 1);
                    continue;
                }
            };
            let evidence = data.evidence(&key());
            let options = RecoveryOptions {
                incarnation_seed: Some(self.rng.next_u64()),
                bug: self.scenario.bug,
                ..evidence.options
            };
            let is_current = data.checkpoints().iter().any(|found| {
                let named = found.checkpoint.partition(&key());
                !found.is_previous && found.shard == 0 && named == evidence.checkpoint.as_ref()
            });
            let has_one = evidence.checkpoint.is_some();
            self.events.note_if(
                has_one && !is_current,
                "an opening from the older checkpoint generation or another shard's",
            );
            self.events.note_if(
                self.created && !has_one && !data.was_clean(),
                "an unclean opening without a checkpoint",
            );
            let spec = self.spec(evidence.checkpoint, data.was_clean(), data.start_counter());
            let was_created = self.created;
            self.data = Some(data);
            // From here on the partition's files may be there.
            self.created = true;
            match self.open(Opening::with_options(spec, options))? {
                Some(report) => return self.check_after_open(&report, was_created),
                None => {
                    self.data = None;
                    self.disk.process_kill();
                }
            }
        }
        Err("the log never opens".into())
    }

    fn open(&mut self, mut opening: Opening) -> Result<Option<RecoveryReport>, String> {
        let mut completions = Vec::new();
        for _ in 0..STEPS_MAX {
            match opening.step(self.now_ms, &mut self.disk, std::mem::take(&mut completions)) {
                OpenProgress::Ready(log, report) => {
                    self.log = Some(log);
                    return Ok(Some(report));
                }
                OpenProgress::Failed(_) => {
                    self.events.note("an opening that failed", 1);
                    return Ok(None);
                }
                OpenProgress::Pending => {
                    self.disk.advance();
                    self.disk.take_completions(&mut completions);
                }
            }
        }
        Err("an opening does not end".into())
    }

    fn note_opening(&mut self, report: &RecoveryReport, existed: bool) {
        let is_new_segment = self.log.as_ref().is_some_and(|log| {
            let named = log.checkpoint().segments;
            named
                .last()
                .is_some_and(|last| last.durable_index < last.base_index)
        });
        let events = &mut self.events;
        events.note_if(existed && report.clean, "a clean opening");
        events.note_if(report.torn_entries_seen, "a torn tail with entries behind it");
        events.note_if(!report.set_aside.is_empty(), "a file set aside");
        events.note_if(
            report.torn_entries_seen && is_new_segment,
            "a log that went on in a new segment behind a cut",
        );
    }

    fn note_crash(&mut self) {
        let events = &mut self.events;
        events.note_if(
            self.checkpoint.is_some(),
            "a crash while a checkpoint was written",
        );
        events.note_if(
            !self.pending.is_empty(),
            "a crash with batches that were not acknowledged",
        );
        if let Some(log) = &self.log {
            let is_beginning = log.checkpoint().segments.len() < log.segment_count();
            events.note_if(is_beginning, "a crash while a segment was begun");
            events.note_if(
                log.is_waiting_for_disk(),
                "a crash with operations of the log in flight",
            );
            let is_open = |(index, _): &(EntryIndex, i64)| *index > log.durable_index();
            let starts = self.starts_asked.iter().any(is_open);
            events.note_if(starts, "a crash with a log start that was not durable");
        }
    }

    /// After an open everything in the log is durable, and everything that was durable is in it.
    fn check_after_open(&mut self, report: &RecoveryReport, existed: bool) -> Verdict {
        self.recoveries += usize::from(existed);
        self.clean_opens += usize::from(existed && report.clean);
        self.note_opening(report, existed);
        if !report.quarantined.is_empty() {
            return Err(format!("damage where none was done: {:?}", report.quarantined));
        }
        let (start, end) = match &self.log {
            Some(log) => (log.log_start_offset(), log.high_watermark()),
            None => return Err("no log".into()),
        };
        if start.0 < self.start_acked || start.0 > self.start_max {
            return Err(format!(
                "the log starts at {start}, not from {} to {}",
                self.start_acked, self.start_max
            ));
        }
        // What an open found is durable.
        self.start_acked = start.0;
        self.starts_asked.clear();
        let served = self.read(start, end, usize::MAX)?;
        // What lies below the start is still in the files, and so in what was derived from them.
        let below = self.acked.iter().filter(|(_, sent)| sent.last < start.0);
        let mut in_files: BTreeMap<i64, Bytes> =
            below.map(|(base, sent)| (*base, sent.stored.clone())).collect();
        in_files.extend(served.iter().map(|(base, stored)| (*base, stored.clone())));
        self.check_what_is_derived(&in_files)?;
        for (base, sent) in self.acked.iter().filter(|(_, sent)| sent.last >= start.0) {
            if served.get(base) != Some(&sent.stored) {
                return Err(format!("acked batch at offset {base} is lost ({report:?})"));
            }
        }
        // The first batch may begin in front of the start.
        let mut next = served.keys().next().map_or(start.0, |base| start.0.min(*base));
        for (base, stored) in &served {
            if *base != next {
                return Err(format!("offset {next} is missing"));
            }
            let batch = BatchHeader::parse(stored).map_err(|error| error.to_string())?;
            next = batch.last_offset().0 + 1;
            self.acked.insert(
                *base,
                Sent {
                    last: batch.last_offset().0,
                    stored: stored.clone(),
                },
            );
        }
        if next != end.0 {
            return Err(format!("the log ends at {next}, not at {end}"));
        }
        self.pending.clear();
        Ok(())
    }

    /// Producers and timestamps, wherever the open had them from, are those of the batches served.
    fn check_what_is_derived(&self, served: &BTreeMap<i64, Bytes>) -> Verdict {
        let Some(log) = &self.log else { return Ok(()) };
        let mut producers = ProducerStates::new();
        let mut newest: Option<(i64, Offset)> = None;
        for stored in served.values() {
            let batch = BatchHeader::parse(stored).map_err(|error| error.to_string())?;
            let remembered = ProducerBatch {
                first_sequence: batch.base_sequence,
                last_sequence: batch.last_sequence(),
                base_offset: batch.base_offset,
                last_offset: batch.last_offset(),
                timestamp: batch.max_timestamp,
            };
            producers.record(batch.producer_id, batch.producer_epoch, remembered);
            if newest.is_none_or(|(highest, _)| batch.max_timestamp > highest) {
                newest = Some((batch.max_timestamp, batch.base_offset));
            }
        }
        if *log.producers() != producers {
            return Err(format!("producers are {:?}, not {producers:?}", log.producers()));
        }
        if log.max_timestamp() != newest {
            return Err(format!("{:?} is not {newest:?}", log.max_timestamp()));
        }
        Ok(())
    }

    /// Index files may be lost, zeroed, torn or mixed up at any time.
    fn damage_index_files(&mut self) {
        let directory = Self::root().join("partition");
        let Ok(DiskOutput::Names(names)) = self.do_now(DiskOp::List {
            path: directory.clone(),
        }) else {
            return;
        };
        let paths: Vec<PathBuf> = names
            .iter()
            .filter(|name| name.ends_with(".index"))
            .map(|name| directory.join(name))
            .collect();
        for path in &paths {
            let path = path.clone();
            match self.rng.index(6) {
                0 => drop(self.do_now(DiskOp::Unlink { path })),
                1 => {
                    if let Ok(DiskOutput::File(file)) = self.do_now(DiskOp::Open { path }) {
                        let range = self.rng.below(40)..self.rng.below(400).max(40);
                        let _ = self.do_now(DiskOp::ZeroRange { file, range });
                        self.index_damages += 1;
                    }
                }
                2 => {
                    let to = paths[self.rng.index(paths.len())].clone();
                    let _ = self.do_now(DiskOp::Rename { from: path, to });
                }
                3 => {
                    let (byte, bit) = (self.rng.below(300), self.rng.index(8) as u8);
                    self.index_damages += usize::from(self.disk.flip_bit(&path, byte, bit).is_ok());
                }
                _ => {}
            }
        }
    }

    fn do_now(&mut self, op: DiskOp) -> io::Result<DiskOutput> {
        let token = Token(99 << 32);
        self.disk.submit(token, op);
        let mut completions = Vec::new();
        while self.disk.advance() {
            self.disk.take_completions(&mut completions);
        }
        let own = completions
            .into_iter()
            .find(|completion| completion.token == token);
        own.map_or(Err(io::ErrorKind::NotFound.into()), |completion| {
            completion.result
        })
    }

    /// Reads through plans, whatever they are; every batch must be one that was appended.
    fn read(
        &mut self,
        from: Offset,
        below: Offset,
        max_bytes: usize,
    ) -> Result<BTreeMap<i64, Bytes>, String> {
        let Some(log) = self.log.as_mut() else {
            return Err("no log".into());
        };
        let mut served = BTreeMap::new();
        let mut at = from;
        while at < below {
            let plan = log
                .read(&mut self.disk, at, below, max_bytes)
                .map_err(|error| error.to_string())?;
            let before = at;
            for part in plan.parts {
                let batches: Vec<Bytes> = match part {
                    ReadPart::Hot(pieces) => {
                        pieces.iter().map(|piece| Bytes::copy_from_slice(piece)).collect()
                    }
                    ReadPart::Cold(range) => {
                        let file = self
                            .disk
                            .snapshot(range.file.path(), ReadSource::Cached)
                            .map_err(|error| format!("a planned file: {error}"))?;
                        let bytes = &file[range.position.start as usize..range.position.end as usize];
                        let found = verify_cold(&range, bytes).map_err(|error| error.to_string())?;
                        found
                            .into_iter()
                            .map(|at| Bytes::copy_from_slice(&bytes[at]))
                            .collect()
                    }
                };
                for stored in batches {
                    let batch = BatchHeader::parse(&stored).map_err(|error| error.to_string())?;
                    if !self.ever.contains(&(batch.base_offset.0, stored.clone())) {
                        return Err(format!(
                            "offset {} serves what was never appended",
                            batch.base_offset
                        ));
                    }
                    at = Offset(batch.last_offset().0 + 1);
                    served.insert(batch.base_offset.0, stored);
                }
            }
            if at == before {
                return Err(format!("nothing is served at offset {at}, below {below}"));
            }
            if max_bytes != usize::MAX {
                break;
            }
        }
        Ok(served)
    }

    fn append(&mut self) -> Verdict {
        let Some(log) = self.log.as_mut() else {
            return Ok(());
        };
        let records = 1 + self.rng.index(3);
        let len = match self.rng.index(20) {
            0 => 20_000 + self.rng.index(30_000),
            1..5 => 3_000 + self.rng.index(6_000),
            _ => self.rng.index(600),
        };
        self.next_value += 1;
        let mut value = vec![(self.next_value % 251) as u8; len];
        value.extend_from_slice(&self.next_value.to_le_bytes());
        let values: Vec<&[u8]> = (0..records).map(|_| value.as_slice()).collect();
        let spec = BatchSpec {
            producer_id: self.rng.index(5) as i64,
            producer_epoch: 0,
            base_sequence: self.next_value as i32,
            timestamp_ms: self.now_ms,
            ..BatchSpec::default()
        };
        let batch = Bytes::from(build_batch(&spec, &values));
        match log.append(self.now_ms, &mut self.disk, &batch) {
            Ok(appended) => {
                let mut stored = batch.to_vec();
                let prefix = patch_prefix(&batch, appended.base_offset, log.leader_epoch());
                stored[..prefix.len()].copy_from_slice(&prefix);
                let stored = Bytes::from(stored);
                for offset in appended.base_offset.0..=appended.last_offset.0 {
                    if !self.given_out.insert((log.leader_epoch().0, offset)) {
                        return Err(format!(
                            "offset {offset} twice under epoch {}",
                            log.leader_epoch()
                        ));
                    }
                }
                self.ever.insert((appended.base_offset.0, stored.clone()));
                self.pending.insert(
                    appended.base_offset.0,
                    Sent {
                        last: appended.last_offset.0,
                        stored,
                    },
                );
                Ok(())
            }
            Err(AppendError::NoSpace) => {
                self.events.note("an append that found the disk full", 1);
                Ok(())
            }
            Err(AppendError::Backlogged | AppendError::Fenced) => Ok(()),
            Err(AppendError::TermNotDurable) => {
                self.events.note("an append before the term was durable", 1);
                self.begin_checkpoint();
                Ok(())
            }
            Err(other) => Err(format!("append: {other}")),
        }
    }

    /// Moves the log start, as far as any share of what may be deleted.
    fn delete(&mut self) -> Verdict {
        let Some(log) = self.log.as_mut() else {
            return Ok(());
        };
        let (start, watermark) = (log.log_start_offset().0, log.high_watermark().0);
        let span = (watermark - start).max(0) as u64;
        let to = start + self.rng.below(span / 3 + 2) as i64;
        match log.append_log_start(self.now_ms, &mut self.disk, Offset(to)) {
            Ok(index) => {
                if to > watermark {
                    return Err(format!("{to} is above the high watermark {watermark}"));
                }
                if log.log_start_offset().0 != to {
                    return Err(format!("the log start is {}, not {to}", log.log_start_offset()));
                }
                self.starts_moved += usize::from(to > start);
                self.start_max = self.start_max.max(to);
                self.starts_asked.push((index, to));
                Ok(())
            }
            Err(LogStartError::AboveHighWatermark { .. }) if to > watermark => {
                self.events.note("a log start above the high watermark", 1);
                Ok(())
            }
            Err(LogStartError::Append(
                AppendError::NoSpace
                | AppendError::Backlogged
                | AppendError::Fenced
                | AppendError::TermNotDurable,
            )) => Ok(()),
            Err(other) => Err(format!("log start: {other}")),
        }
    }

    fn begin_checkpoint(&mut self) {
        if let (Some(log), Some(data), None) = (&self.log, &self.data, &self.checkpoint) {
            let checkpoint = Checkpoint {
                start_counter: data.start_counter(),
                partitions: vec![log.checkpoint()],
            };
            let shard = self.rng.index(2) as u32;
            self.checkpoint_confirms_term = true;
            self.checkpoint = Some(write_checkpoint(
                CHECKPOINT_SPACE,
                Self::root(),
                shard,
                &checkpoint,
            ));
            self.step_checkpoint(Vec::new());
        }
    }

    fn step_checkpoint(&mut self, completions: Vec<Completion>) {
        if let Some(machine) = self.checkpoint.as_mut()
            && let Poll::Ready(result) = machine.step(&mut self.disk, completions)
        {
            self.checkpoint = None;
            if let (Ok(()), true, Some(log)) = (result, self.checkpoint_confirms_term, self.log.as_mut()) {
                log.confirm_term();
            }
        }
    }

    fn pump(&mut self, count: usize) {
        for _ in 0..count {
            self.disk.advance();
            let mut completions = Vec::new();
            self.disk.take_completions(&mut completions);
            for completion in completions {
                if completion.token.0 >> 32 == u64::from(CHECKPOINT_SPACE) {
                    self.step_checkpoint(vec![completion]);
                } else if let Some(log) = self.log.as_mut() {
                    log.on_completion(self.now_ms, &mut self.disk, completion);
                }
            }
        }
    }

    /// What became durable is acked from here on.
    fn observe(&mut self) -> Verdict {
        let Some(log) = &self.log else { return Ok(()) };
        let durable = log.durable_offset().0;
        for (index, start) in &self.starts_asked {
            if *index <= log.durable_index() {
                self.start_acked = self.start_acked.max(*start);
            }
        }
        if log.log_start_offset() > log.high_watermark() {
            return Err("log start above the high watermark".into());
        }
        if log.high_watermark().0 > log.log_end_offset().0 {
            return Err("high watermark above the log end".into());
        }
        while let Some(entry) = self.pending.first_entry() {
            if entry.get().last >= durable {
                break;
            }
            let (base, sent) = entry.remove_entry();
            self.acked.insert(base, sent);
        }
        Ok(())
    }

    fn reopen_after_fence(&mut self) -> Verdict {
        let Some(log) = self.log.take() else { return Ok(()) };
        self.fences += 1;
        self.events.note("a fence", 1);
        self.checkpoint_confirms_term = false;
        let retry = log.checkpoint();
        let floor = log.leader_epoch();
        let mut opening = log.into_reopening();
        loop {
            // The other machine's operations end meanwhile, unseen; it is abandoned.
            self.checkpoint = None;
            if let Some(report) = self.open(opening)? {
                return self.check_after_open(&report, true);
            }
            self.events.note("a reopening that failed", 1);
            let start_counter = self.data.as_ref().map_or(0, DataDirectory::start_counter);
            let options = RecoveryOptions {
                term_floor: floor,
                continue_in_new_file: true,
                incarnation_seed: Some(self.rng.next_u64()),
                bug: self.scenario.bug,
                ..RecoveryOptions::default()
            };
            let spec = self.spec(Some(retry.clone()), false, start_counter);
            opening = Opening::with_options(spec, options);
            while self.disk.advance() {}
            self.disk.take_completions(&mut Vec::new());
        }
    }

    fn shut_down_in_order(&mut self) -> Verdict {
        for _ in 0..STEPS_MAX {
            let Some(log) = self.log.as_mut() else {
                return Ok(());
            };
            match log.close(self.now_ms, &mut self.disk) {
                CloseProgress::Fenced => {
                    self.events.note("a stop that ended in a fence", 1);
                    return self.reopen_after_fence();
                }
                CloseProgress::Pending => {
                    // A full disk is asked again each tick.
                    log.tick(self.now_ms, &mut self.disk);
                    self.pump(1);
                }
                CloseProgress::Closed(checkpoint) => {
                    self.observe()?;
                    if !self.pending.is_empty() {
                        return Err("closed with batches that are not durable".into());
                    }
                    while self.checkpoint.is_some() {
                        self.pump(1);
                    }
                    let Some(data) = self.data.take() else {
                        return Err("no data directory".into());
                    };
                    let last = Checkpoint {
                        start_counter: data.start_counter(),
                        partitions: vec![*checkpoint],
                    };
                    let written = (0..2).all(|shard| {
                        write_checkpoint(CHECKPOINT_SPACE, Self::root(), shard, &last)
                            .drive(&mut Stepping(&mut self.disk))
                            .is_ok()
                    });
                    let clean = written && data.mark_clean(&mut Stepping(&mut self.disk)).is_ok();
                    self.log = None;
                    drop(data);
                    self.disk.process_kill();
                    self.events.note_if(clean, "a stop in order");
                    if self.rng.coin() {
                        self.damage_index_files();
                    }
                    return self.start();
                }
            }
        }
        Err("a close does not end".into())
    }

    fn crash(&mut self) -> Verdict {
        self.note_crash();
        self.log = None;
        self.checkpoint = None;
        self.data = None;
        match self.rng.index(3) {
            0 => {
                self.events.note("a power cut", 1);
                self.disk.power_cut();
            }
            1 => {
                self.events.note("a kill", 1);
                self.disk.process_kill();
            }
            _ => {
                self.events.note("a kill and then a power cut", 1);
                self.disk.process_kill();
                self.disk.power_cut();
            }
        }
        if self.rng.index(3) == 0 {
            self.damage_index_files();
        }
        self.start()
    }

    fn step(&mut self) -> Verdict {
        self.now_ms += self.rng.below(200) as i64;
        match self.rng.index(100) {
            0..37 => self.append()?,
            37..40 => self.delete()?,
            40..55 => {
                if let Some(log) = self.log.as_mut() {
                    log.flush(self.now_ms, &mut self.disk);
                }
            }
            55..85 => {
                let count = 1 + self.rng.index(6);
                self.pump(count);
            }
            85..88 => {
                if let Some(log) = self.log.as_mut() {
                    log.tick(self.now_ms, &mut self.disk);
                }
            }
            88..91 => self.begin_checkpoint(),
            91..97 => {
                let (start, end) = match &self.log {
                    Some(log) => (log.log_start_offset(), log.high_watermark()),
                    None => return Err("no log".into()),
                };
                let from = Offset(start.0 + self.rng.below((end.0 - start.0).max(1) as u64) as i64);
                let max_bytes = 1 + self.rng.index(50_000);
                if from < end {
                    self.read(from, end, max_bytes)?;
                }
            }
            97 => self.shut_down_in_order()?,
            _ => self.crash()?,
        }
        if self
            .log
            .as_ref()
            .is_some_and(|log| log.status() == LogStatus::Fenced)
        {
            self.observe()?;
            self.reopen_after_fence()?;
        }
        self.observe()
    }
}

#[derive(Debug, PartialEq)]
struct Outcome {
    verdict: Verdict,
    events: Events,
    trace: u64,
    acked: usize,
    recoveries: usize,
    clean_opens: usize,
    index_damages: usize,
    fences: usize,
    starts_moved: usize,
}

fn run(seed: u64, scenario: Scenario) -> Outcome {
    let mut world = World::new(seed, scenario);
    let mut verdict = world.start();
    for step in 0..scenario.steps {
        if verdict.is_err() {
            break;
        }
        verdict = world
            .step()
            .map_err(|error| format!("seed {seed}, step {step}: {error}"));
    }
    if verdict.is_ok() {
        world.disk.set_faults(SimFaults::default());
        verdict = world
            .crash()
            .map_err(|error| format!("seed {seed}, at the end: {error}"));
    }
    let mut events = world.events;
    events.take_disk(world.disk.events());
    Outcome {
        verdict,
        events,
        trace: world.disk.trace_hash(),
        acked: world.acked.len(),
        recoveries: world.recoveries,
        clean_opens: world.clean_opens,
        index_damages: world.index_damages,
        fences: world.fences,
        starts_moved: world.starts_moved,
    }
}

fn seeds() -> u64 {
    std::env::var("TIDELOG_SIM_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(SEEDS as u64)
}

#[test]
fn nothing_acked_is_lost_and_nothing_wrong_is_served() {
    let (mut acked, mut recoveries, mut fences, mut starts_moved) = (0, 0, 0, 0);
    let (mut clean_opens, mut index_damages) = (0, 0);
    let mut events = Events::default();
    for seed in 0..seeds() {
        let outcome = run(seed, SOUND);
        assert_eq!(outcome.verdict, Ok(()));
        events.add(&outcome.events);
        acked += outcome.acked;
        recoveries += outcome.recoveries;
        fences += outcome.fences;
        starts_moved += outcome.starts_moved;
        clean_opens += outcome.clean_opens;
        index_damages += outcome.index_damages;
    }
    let seeds = seeds() as usize;
    assert!(acked > 20 * seeds, "the runs do something: {acked} batches acked");
    assert!(recoveries > 3 * seeds, "the runs crash: {recoveries} recoveries");
    assert!(fences > seeds / 10, "the runs fence: {fences} fences");
    assert!(starts_moved > 3 * seeds, "records are deleted: {starts_moved}");
    assert!(
        clean_opens > seeds,
        "the runs shut down: {clean_opens} clean opens"
    );
    assert!(index_damages > seeds, "index files are damaged: {index_damages}");
    for name in RARE {
        println!("{:>9} {name}", events.0.get(name).copied().unwrap_or(0));
    }
    assert_eq!(
        events.missing(),
        Vec::<&str>::new(),
        "never happened in {seeds} runs"
    );
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..5 {
        assert_eq!(run(seed, SOUND), run(seed, SOUND), "seed {seed}");
    }
    assert_ne!(run(1, SOUND).trace, run(2, SOUND).trace);
}

/// The first seed under which the oracle finds fault.
fn first_failure(scenario: Scenario) -> Option<String> {
    (0..seeds()).find_map(|seed| run(seed, scenario).verdict.err())
}

#[test]
fn without_fdatasync_acked_batches_are_lost() {
    let failure = first_failure(Scenario {
        fdatasync_is_noop: true,
        ..SOUND
    });
    assert!(failure.is_some(), "a disk that does not sync must be found out");
}

#[test]
fn a_recovery_that_does_not_check_payloads_is_found_out() {
    let failure = first_failure(Scenario {
        bug: RecoveryBug::TrustPayload,
        ..SOUND
    });
    assert!(failure.is_some(), "torn payloads must be found out");
}

#[test]
fn a_recovery_that_believes_the_page_cache_is_found_out() {
    let failure = first_failure(Scenario {
        bug: RecoveryBug::ReadFromCache,
        ..SOUND
    });
    assert!(
        failure.is_some(),
        "pages that never reached the device must be found out"
    );
}

#[test]
fn a_recovery_that_trusts_index_files_is_found_out() {
    let failure = first_failure(Scenario {
        bug: RecoveryBug::TrustIndex,
        ..SOUND
    });
    assert!(
        failure.is_some(),
        "an index file that is behind its log must be found out"
    );
}

#[test]
fn a_recovery_that_keeps_the_term_is_found_out() {
    let failure = first_failure(Scenario {
        bug: RecoveryBug::KeepTerm,
        ..SOUND
    });
    assert!(
        failure.is_some(),
        "offsets reused under one epoch must be found out"
    );
}
