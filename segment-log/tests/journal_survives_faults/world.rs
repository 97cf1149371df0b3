//! A simulated broker without a network: some partitions on some shards, each shard with a journal.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::task::Poll;

use bytes::Bytes;
use tidelog_segment_log::batch::patch_prefix;
use tidelog_segment_log::batch::testing::{BatchSpec, build_batch};
use tidelog_segment_log::checkpoint::Checkpoint;
use tidelog_segment_log::data_directory::{DataDirectory, NewIdentity, write_checkpoint};
use tidelog_segment_log::disk::sim::{OpKind, SimConfig, SimDisk, SimEvents, SimFaults, SimRng};
use tidelog_segment_log::disk::{
    Completion, DirectoryLock, Disk, DiskOp, FileHandle, HotBytes, Token, WriteNow,
};
use tidelog_segment_log::ids::{Offset, PartitionKey, TopicId};
use tidelog_segment_log::journal::{
    GroupCommit, GroupConfig, GroupEvent, Journal, JournalBug, JournalConfig, JournalEvidence, Logs, Way,
};
use tidelog_segment_log::log::{
    AppendError, CloseProgress, Durability, LogConfig, LogStartError, LogStatus, Machine, OpenProgress,
    OpenSpec, Opening, PartitionLog, SpareBudget,
};
use tidelog_segment_log::producer_state::SequenceCheck;
use tidelog_segment_log::recovery::{RecoveryOptions, RecoveryReport};

use crate::partition::{Sends, Sent, Verdict};

const PARTITIONS: usize = 4;
const SHARDS_MAX: usize = 3;
const LOG_SPACE: u32 = 100;
const CHECKPOINT_SPACE: u32 = 10;
const JOURNAL_SPACE: u32 = 20;
const REMOVAL_SPACE: u32 = 30;
const STEPS_MAX: usize = 400_000;
const FILE_BYTES: u64 = 28 << 10;
const MAX_BYTES: u64 = 4 * FILE_BYTES;

/// A disk that gets on by itself when somebody waits for it.
pub struct Stepping<'a>(pub &'a mut SimDisk);

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
pub struct Scenario {
    pub steps: usize,
    pub fdatasync_is_noop: bool,
    /// A retried batch is answered at once.
    pub acks_duplicates_early: bool,
    pub bug: JournalBug,
    /// Syncs of directories take long.
    pub names_lag: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub acked: u64,
    pub recoveries: u64,
    pub clean_opens: u64,
    pub fences: u64,
    pub from_journal: u64,
    pub second_files: u64,
    pub shards_changed: u64,
    pub duplicates: u64,
    pub reused: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Self) {
        self.acked += other.acked;
        self.recoveries += other.recoveries;
        self.clean_opens += other.clean_opens;
        self.fences += other.fences;
        self.from_journal += other.from_journal;
        self.second_files += other.second_files;
        self.shards_changed += other.shards_changed;
        self.duplicates += other.duplicates;
        self.reused += other.reused;
    }
}

pub fn root() -> PathBuf {
    PathBuf::from("/sim/data")
}

fn key(at: usize) -> PartitionKey {
    PartitionKey {
        topic: TopicId([9; 16]),
        partition: at as i32,
    }
}

fn faults(rng: &mut SimRng) -> SimFaults {
    let rare = |rng: &mut SimRng| if rng.coin() { 0 } else { 1_500 };
    SimFaults {
        no_space_ppm: rare(rng),
        short_write_ppm: rare(rng),
        writeback_error_ppm: if rng.coin() { 0 } else { 30_000 },
        would_stall_ppm: if rng.coin() { 0 } else { 200_000 },
        cold_ppm: 200_000,
        ..SimFaults::default()
    }
    .with_eio(OpKind::Sync, rare(rng) * 4)
    .with_eio(OpKind::Write, rare(rng))
    .with_eio(OpKind::WriteNow, rare(rng))
    .with_eio(OpKind::SyncDir, rare(rng))
    .with_eio(OpKind::Create, rare(rng))
    .with_eio(OpKind::Unlink, rare(rng))
    .with_eio(OpKind::Read, rare(rng))
}

/// The open logs of all shards.
#[derive(Default)]
struct OpenLogs(BTreeMap<PartitionKey, Box<PartitionLog>>);

impl Logs for OpenLogs {
    fn log_mut(&mut self, key: &PartitionKey) -> Option<&mut PartitionLog> {
        self.0.get_mut(key).map(Box::as_mut)
    }
}

struct World {
    rng: SimRng,
    disk: SimDisk,
    data: Option<DataDirectory>,
    logs: OpenLogs,
    groups: Vec<GroupCommit>,
    sends: Vec<Sends>,
    checkpoint: Option<Machine<io::Result<()>>>,
    /// Terms that the checkpoint under way carries.
    checkpoint_terms: Vec<(PartitionKey, i32)>,
    removal: Option<Machine<io::Result<()>>>,
    now_ms: i64,
    next_value: u64,
    scenario: Scenario,
    counts: Counts,
    way: Way,
    held_dir_syncs: Vec<(Token, DiskOp)>,
    /// In every other run files of removed segments are used again.
    spares: Option<SpareBudget>,
}

/// What the disk of the run gets: with names that lag, syncs of directories are held back for a while.
struct Lagging<'a> {
    disk: &'a mut SimDisk,
    held: Option<&'a mut Vec<(Token, DiskOp)>>,
}

impl Disk for Lagging<'_> {
    fn submit(&mut self, token: Token, op: DiskOp) {
        match (&mut self.held, &op) {
            (Some(held), DiskOp::SyncDir { path }) if path.to_string_lossy().contains("partition-") => {
                held.push((token, op));
            }
            _ => self.disk.submit(token, op),
        }
    }
    fn take_completions(&mut self, out: &mut Vec<Completion>) {
        self.disk.take_completions(out);
    }
    fn write_now(&mut self, file: &FileHandle, at: u64, pieces: &[IoSlice<'_>]) -> io::Result<WriteNow> {
        self.disk.write_now(file, at, pieces)
    }
    fn hot_bytes(&mut self, file: &FileHandle, range: Range<u64>) -> Option<HotBytes> {
        self.disk.hot_bytes(file, range)
    }
    fn lock_directory(&mut self, path: &Path) -> io::Result<DirectoryLock> {
        self.disk.lock_directory(path)
    }
}

/// The disk as the running broker uses it.
macro_rules! disk {
    ($world:expr) => {
        &mut Lagging {
            disk: &mut $world.disk,
            held: $world.scenario.names_lag.then_some(&mut $world.held_dir_syncs),
        }
    };
}

impl World {
    fn new(seed: u64, scenario: Scenario) -> Self {
        let mut rng = SimRng::new(seed ^ 0x6a6f_7572);
        let disk = SimDisk::new(SimConfig {
            seed,
            faults: faults(&mut rng),
            fdatasync_is_noop: scenario.fdatasync_is_noop,
            writeback_ppm: if rng.coin() { 20_000 } else { 200_000 },
            ..SimConfig::default()
        });
        Self {
            rng,
            disk,
            data: None,
            logs: OpenLogs::default(),
            groups: Vec::new(),
            sends: (0..PARTITIONS).map(|_| Sends::default()).collect(),
            checkpoint: None,
            checkpoint_terms: Vec::new(),
            removal: None,
            now_ms: 1_000_000,
            next_value: 0,
            scenario,
            counts: Counts::default(),
            way: Way::default(),
            held_dir_syncs: Vec::new(),
            spares: seed
                .is_multiple_of(2)
                .then(|| SpareBudget::of_files_from(8 << 10, 256 << 10)),
        }
    }

    fn shard_of(&self, at: usize) -> usize {
        at % self.groups.len().max(1)
    }

    fn spec(&self, at: usize, data: &DataDirectory) -> OpenSpec {
        OpenSpec {
            directory: root().join(format!("partition-{at}")),
            key: key(at),
            config: LogConfig {
                segment_bytes: if self.scenario.names_lag {
                    24 << 10
                } else {
                    48 << 10
                },
                segment_ms: 20_000,
                durability: Durability::Fsync,
            },
            token_space: LOG_SPACE + at as u32,
            checkpoint: data.evidence(&key(at)).checkpoint,
            clean: data.was_clean(),
            start_counter: data.start_counter(),
            created: !self.sends[at].created,
        }
    }

    /// Takes the data directory and opens all logs, as a process that starts does.
    fn start(&mut self) -> Verdict {
        'start: for _ in 0..STEPS_MAX {
            self.data = None;
            let new = NewIdentity {
                node_id: 1,
                cluster_id: "simulated".into(),
                rack: None,
                directory_id: [1; 16],
            };
            let Ok(data) = DataDirectory::open(&mut Stepping(&mut self.disk), &root(), new) else {
                continue;
            };
            if !data.journals().damage().is_empty() {
                return Err(format!(
                    "journal damage where none was done: {:?}",
                    data.journals().damage()
                ));
            }
            let mut opened = Vec::new();
            for at in 0..PARTITIONS {
                let options = RecoveryOptions {
                    incarnation_seed: Some(self.rng.next_u64()),
                    spares: self.spares.clone(),
                    ..data.evidence(&key(at)).options
                };
                let spec = self.spec(at, &data);
                let existed = std::mem::replace(&mut self.sends[at].created, true);
                match self.open(at, Opening::with_options(spec, options))? {
                    Some(report) => opened.push((at, existed, report)),
                    None => {
                        drop(data);
                        self.logs.0.clear();
                        self.disk.process_kill();
                        if self.rng.index(3) == 0 {
                            self.disk.power_cut();
                        }
                        continue 'start;
                    }
                }
            }
            for (at, existed, report) in &opened {
                self.counts.recoveries += u64::from(*existed);
                self.counts.clean_opens += u64::from(*existed && report.clean);
                self.check(*at, report)?;
            }
            self.begin_groups(&data);
            self.removal = Some(data.remove_replayed_journals(REMOVAL_SPACE));
            self.data = Some(data);
            self.step_removal(Vec::new());
            return Ok(());
        }
        Err("the logs never open".into())
    }

    fn begin_groups(&mut self, data: &DataDirectory) {
        let before = self.groups.len();
        self.groups.clear();
        for shard in 0..1 + self.rng.index(SHARDS_MAX) {
            let config = JournalConfig {
                shard: shard as u32,
                start_counter: data.start_counter(),
                file_bytes: FILE_BYTES,
                max_bytes: MAX_BYTES,
                id_seed: Some(self.rng.next_u64()),
                bug: self.scenario.bug,
            };
            let journal = Journal::new(&root(), JOURNAL_SPACE + shard as u32, config);
            let config = GroupConfig {
                dirty_files_min: 1 + self.rng.index(2),
                bytes_per_file_max: 20 << 10,
                trim_above_bytes: match self.rng.index(4) {
                    _ if self.scenario.names_lag || self.scenario.bug == JournalBug::TrimBeforeSync => 0,
                    // Never: it becomes full.
                    0 => u64::MAX,
                    some => some as u64 * FILE_BYTES,
                },
            };
            self.groups.push(GroupCommit::new(journal, config));
        }
        self.counts.shards_changed += u64::from(before != 0 && before != self.groups.len());
        self.logs.0.values_mut().for_each(|log| log.join_group_commit());
    }

    fn open(&mut self, at: usize, mut opening: Opening) -> Result<Option<RecoveryReport>, String> {
        let mut completions = Vec::new();
        for _ in 0..STEPS_MAX {
            match opening.step(self.now_ms, &mut self.disk, std::mem::take(&mut completions)) {
                OpenProgress::Ready(log, report) => {
                    self.counts.from_journal += report.from_journal;
                    self.logs.0.insert(key(at), log);
                    return Ok(Some(report));
                }
                OpenProgress::Failed(_) => return Ok(None),
                OpenProgress::Pending => {
                    self.disk.advance();
                    self.disk.take_completions(&mut completions);
                    // Of others, which go on meanwhile.
                    let space = LOG_SPACE + at as u32;
                    let own = |completion: &Completion| completion.token.0 >> 32 == u64::from(space);
                    let (mine, others) = completions.into_iter().partition(own);
                    completions = mine;
                    self.route(others);
                }
            }
        }
        Err("an opening does not end".into())
    }

    fn check(&mut self, at: usize, report: &RecoveryReport) -> Verdict {
        let Some(log) = self.logs.0.get_mut(&key(at)) else {
            return Err("no log".into());
        };
        self.sends[at]
            .check_after_open(log, &mut self.disk, report)
            .map_err(|error| format!("partition {at}: {error}"))
    }

    fn append(&mut self) -> Verdict {
        let at = self.rng.index(PARTITIONS);
        let records = 1 + self.rng.index(3);
        let len = match self.rng.index(40) {
            0 => 8_000 + self.rng.index(16_000),
            1..4 => 2_000 + self.rng.index(3_000),
            _ => self.rng.index(500),
        };
        self.next_value += 1;
        let mut value = vec![(self.next_value % 251) as u8; len];
        value.extend_from_slice(&self.next_value.to_le_bytes());
        let values: Vec<&[u8]> = (0..records).map(|_| value.as_slice()).collect();
        let (producer_id, sequence) = (self.rng.index(4) as i64, self.next_value as i32);
        let spec = BatchSpec {
            producer_id,
            producer_epoch: 0,
            base_sequence: sequence,
            timestamp_ms: self.now_ms,
            ..BatchSpec::default()
        };
        let batch = Bytes::from(build_batch(&spec, &values));
        let Some(log) = self.logs.0.get_mut(&key(at)) else {
            return Ok(());
        };
        match log.append(self.now_ms, disk!(self), &batch) {
            Ok(appended) => {
                let mut stored = batch.to_vec();
                let prefix = patch_prefix(&batch, appended.base_offset, log.leader_epoch());
                stored[..prefix.len()].copy_from_slice(&prefix);
                let stored = Bytes::from(stored);
                let sends = &mut self.sends[at];
                for offset in appended.base_offset.0..=appended.last_offset.0 {
                    if !sends.given_out.insert((log.leader_epoch().0, offset)) {
                        return Err(format!(
                            "offset {offset} twice under epoch {}",
                            log.leader_epoch()
                        ));
                    }
                }
                sends.ever.insert((appended.base_offset.0, stored.clone()));
                let sent = Sent {
                    last: appended.last_offset.0,
                    stored,
                    sequence,
                    producer_id,
                };
                sends.pending.insert(appended.base_offset.0, sent);
                Ok(())
            }
            Err(AppendError::NoSpace | AppendError::Backlogged | AppendError::Fenced) => Ok(()),
            Err(AppendError::TermNotDurable) => {
                self.begin_checkpoint();
                Ok(())
            }
            Err(other) => Err(format!("append: {other}")),
        }
    }

    /// A producer sends again what it has no answer for.
    fn retry(&mut self) -> Verdict {
        let at = self.rng.index(PARTITIONS);
        let Some((base, sent)) = self.sends[at]
            .pending
            .last_key_value()
            .map(|(b, s)| (*b, s.clone()))
        else {
            return Ok(());
        };
        let Some(log) = self.logs.0.get_mut(&key(at)) else {
            return Ok(());
        };
        let last = sent.sequence + (sent.last - base) as i32;
        match log.producers().check(sent.producer_id, 0, sent.sequence, last) {
            SequenceCheck::Duplicate {
                base_offset,
                last_offset,
                ..
            } => {
                self.counts.duplicates += 1;
                if base_offset.0 != base {
                    return Err(format!("the duplicate of {base} is called {base_offset}"));
                }
                if self.scenario.acks_duplicates_early || last_offset < log.high_watermark() {
                    self.sends[at].pending.remove(&base);
                    self.sends[at].acked.insert(base, sent);
                }
                Ok(())
            }
            // Its producer has sent more than is remembered.
            SequenceCheck::DuplicateTooOld => Ok(()),
            other => Err(format!("a retry is {other:?}")),
        }
    }

    fn delete(&mut self) -> Verdict {
        let at = self.rng.index(PARTITIONS);
        let Some(log) = self.logs.0.get_mut(&key(at)) else {
            return Ok(());
        };
        let (start, watermark) = (log.log_start_offset().0, log.high_watermark().0);
        let to = start + self.rng.below((watermark - start).max(0) as u64 / 3 + 1) as i64;
        match log.append_log_start(self.now_ms, disk!(self), Offset(to)) {
            Ok(index) => {
                let sends = &mut self.sends[at];
                sends.start_max = sends.start_max.max(to);
                sends.starts_asked.push((index, to));
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
        let (Some(data), None) = (&self.data, &self.checkpoint) else {
            return;
        };
        let partitions: Vec<_> = self.logs.0.values().map(|log| log.checkpoint()).collect();
        self.checkpoint_terms = partitions.iter().map(|p| (p.key, p.term.0)).collect();
        let checkpoint = Checkpoint {
            start_counter: data.start_counter(),
            partitions,
        };
        let shard = self.rng.index(2) as u32;
        self.checkpoint = Some(write_checkpoint(CHECKPOINT_SPACE, root(), shard, &checkpoint));
        self.step_checkpoint(Vec::new());
    }

    fn step_checkpoint(&mut self, completions: Vec<Completion>) {
        if let Some(machine) = self.checkpoint.as_mut()
            && let Poll::Ready(result) = machine.step(&mut self.disk, completions)
        {
            self.checkpoint = None;
            for (key, term) in std::mem::take(&mut self.checkpoint_terms) {
                if let (true, Some(log)) = (result.is_ok(), self.logs.0.get_mut(&key))
                    && log.leader_epoch().0 == term
                {
                    log.confirm_term();
                }
            }
        }
    }

    fn step_removal(&mut self, completions: Vec<Completion>) {
        if let Some(machine) = self.removal.as_mut()
            && machine.step(&mut self.disk, completions).is_ready()
        {
            self.removal = None;
        }
    }

    /// Hands completions to whom they belong.
    fn route(&mut self, completions: Vec<Completion>) {
        for completion in completions {
            let space = (completion.token.0 >> 32) as u32;
            if space == CHECKPOINT_SPACE {
                self.step_checkpoint(vec![completion]);
            } else if space == REMOVAL_SPACE {
                self.step_removal(vec![completion]);
            } else if (JOURNAL_SPACE..REMOVAL_SPACE).contains(&space) {
                let shard = (space - JOURNAL_SPACE) as usize;
                if let Some(group) = self.groups.get_mut(shard) {
                    group.on_completion(disk!(self), completion);
                }
            } else if space >= LOG_SPACE
                && let Some(log) = self.logs.0.get_mut(&key((space - LOG_SPACE) as usize))
            {
                log.on_completion(self.now_ms, disk!(self), completion);
            }
        }
    }

    fn pump(&mut self, count: usize) -> Verdict {
        for _ in 0..count {
            if !self.held_dir_syncs.is_empty() && self.rng.index(5_000) == 0 {
                for (token, op) in std::mem::take(&mut self.held_dir_syncs) {
                    self.disk.submit(token, op);
                }
            }
            self.disk.advance();
            let mut completions = Vec::new();
            self.disk.take_completions(&mut completions);
            self.route(completions);
            self.hear()?;
        }
        Ok(())
    }

    /// What the groups have to say.
    fn hear(&mut self) -> Verdict {
        for shard in 0..self.groups.len() {
            for event in self.groups[shard].take_events(&mut self.logs) {
                match event {
                    GroupEvent::Committed(_) => {}
                    // The process would end here.
                    GroupEvent::Failed(_) => return self.crash(),
                }
            }
        }
        Ok(())
    }

    fn end_of_turn(&mut self) {
        for at in 0..PARTITIONS {
            let shard = self.shard_of(at);
            if let Some(log) = self.logs.0.get_mut(&key(at)) {
                log.flush(self.now_ms, disk!(self));
                self.groups[shard].note(key(at));
            }
        }
        for group in &mut self.groups {
            group.commit(self.now_ms, disk!(self), &mut self.logs);
        }
    }

    fn trim(&mut self) {
        let shard = self.rng.index(self.groups.len());
        let mut budget = 1 + self.rng.index(4);
        let group = &mut self.groups[shard];
        if group.wants_trim() {
            group.trim_step(disk!(self), &mut self.logs, || {
                let some = budget > 0;
                budget -= usize::from(some);
                some
            });
        }
    }

    fn observe(&mut self) -> Verdict {
        for (at, sends) in self.sends.iter_mut().enumerate() {
            if let Some(log) = self.logs.0.get(&key(at)) {
                sends
                    .observe(log)
                    .map_err(|error| format!("partition {at}: {error}"))?;
            }
        }
        Ok(())
    }

    /// Opens fenced logs again, unless the journal has something of them in flight.
    fn reopen_fenced(&mut self) -> Verdict {
        for at in 0..PARTITIONS {
            let shard = self.shard_of(at);
            let is_fenced = self
                .logs
                .0
                .get(&key(at))
                .is_some_and(|log| log.status() == LogStatus::Fenced);
            if !is_fenced || self.groups[shard].is_committing(&key(at)) {
                continue;
            }
            for (token, op) in std::mem::take(&mut self.held_dir_syncs) {
                self.disk.submit(token, op);
            }
            let Some(log) = self.logs.0.remove(&key(at)) else {
                continue;
            };
            self.counts.fences += 1;
            let (retry, floor) = (log.checkpoint(), log.leader_epoch());
            let live = JournalEvidence::Live(self.groups[shard].live());
            let mut opening = log.into_reopening_with(live.clone());
            let report = loop {
                if let Some(report) = self.open(at, opening)? {
                    break report;
                }
                let Some(data) = &self.data else {
                    return Err("no data directory".into());
                };
                let options = RecoveryOptions {
                    term_floor: floor,
                    continue_in_new_file: true,
                    incarnation_seed: Some(self.rng.next_u64()),
                    journal: live.clone(),
                    spares: self.spares.clone(),
                    ..RecoveryOptions::default()
                };
                let mut spec = self.spec(at, data);
                (spec.checkpoint, spec.clean) = (Some(retry.clone()), false);
                opening = Opening::with_options(spec, options);
            };
            drop(live);
            self.check(at, &report)?;
            self.groups[shard].forget(&key(at));
            if let Some(log) = self.logs.0.get_mut(&key(at)) {
                log.join_group_commit();
            }
            self.hear()?;
        }
        Ok(())
    }

    fn shut_down_in_order(&mut self) -> Verdict {
        for _ in 0..STEPS_MAX {
            let mut closed = Vec::new();
            for at in 0..PARTITIONS {
                let Some(log) = self.logs.0.get_mut(&key(at)) else {
                    return Ok(());
                };
                match log.close(self.now_ms, disk!(self)) {
                    // The directory is not marked then.
                    CloseProgress::Fenced => return self.crash(),
                    CloseProgress::Pending => log.tick(self.now_ms, disk!(self)),
                    CloseProgress::Closed(checkpoint) => closed.push(*checkpoint),
                }
            }
            self.observe()?;
            let settled = closed.len() == PARTITIONS && self.checkpoint.is_none() && self.removal.is_none();
            if settled && self.groups.iter_mut().all(|group| group.close(&mut self.disk)) {
                return self.mark_clean_and_start(closed);
            }
            let before = self.disk.events().power_cuts + self.disk.events().process_kills;
            self.pump(1)?;
            if before != self.disk.events().power_cuts + self.disk.events().process_kills {
                return Ok(());
            }
        }
        let mut left = String::new();
        for (key, log) in &mut self.logs.0 {
            let closing = log.close(self.now_ms, &mut self.disk);
            left += &format!(
                " {}: closed {}, status {:?}, committing {}, wanted {:?}, waits {};",
                key.partition,
                matches!(closing, CloseProgress::Closed(_)),
                log.status(),
                log.is_committing(),
                log.commit_wanted(),
                log.is_waiting_for_disk()
            );
        }
        Err(format!("a close does not end:{left}"))
    }

    fn mark_clean_and_start(
        &mut self,
        closed: Vec<tidelog_segment_log::checkpoint::PartitionCheckpoint>,
    ) -> Verdict {
        if self.sends.iter().any(|sends| !sends.pending.is_empty()) {
            return Err("closed with batches that are not durable".into());
        }
        let Some(data) = self.data.take() else {
            return Err("no data directory".into());
        };
        let last = Checkpoint {
            start_counter: data.start_counter(),
            partitions: closed,
        };
        let written = (0..2).all(|shard| {
            write_checkpoint(CHECKPOINT_SPACE, root(), shard, &last)
                .drive(&mut Stepping(&mut self.disk))
                .is_ok()
        });
        if written {
            let _ = data.mark_clean(&mut Stepping(&mut self.disk));
        }
        drop(data);
        self.forget_process();
        self.disk.process_kill();
        self.start()
    }

    fn forget_process(&mut self) {
        for group in &self.groups {
            let way = group.way();
            self.way.by_journal += way.by_journal;
            self.way.partitions_by_journal += way.partitions_by_journal;
            self.way.direct += way.direct;
            self.way.full += way.full;
            self.way.trimmed += way.trimmed;
            self.counts.second_files += group.journal().failed_files();
        }
        self.logs.0.clear();
        self.checkpoint = None;
        self.removal = None;
        self.data = None;
        self.held_dir_syncs.clear();
        // Shards keep their number until the next start.
        for group in &mut self.groups {
            *group = GroupCommit::new(
                Journal::new(
                    &root(),
                    0,
                    JournalConfig {
                        shard: 0,
                        start_counter: 0,
                        file_bytes: FILE_BYTES,
                        max_bytes: 0,
                        id_seed: Some(0),
                        bug: JournalBug::None,
                    },
                ),
                GroupConfig::for_max_bytes(0),
            );
        }
    }

    fn crash(&mut self) -> Verdict {
        self.forget_process();
        match self.rng.index(3) {
            0 => self.disk.power_cut(),
            1 => self.disk.process_kill(),
            _ => {
                self.disk.process_kill();
                self.disk.power_cut();
            }
        }
        self.start()
    }

    fn step(&mut self) -> Verdict {
        self.now_ms += self.rng.below(200) as i64;
        match self.rng.index(100) {
            0..35 => {
                for _ in 0..1 + self.rng.index(4) {
                    self.append()?;
                }
            }
            35 => self.delete()?,
            36..42 => self.retry()?,
            42..58 => self.end_of_turn(),
            58..82 => {
                let count = 1 + self.rng.index(24);
                self.pump(count)?;
            }
            82..85 => {
                for log in self.logs.0.values_mut() {
                    log.tick(self.now_ms, disk!(self));
                }
                self.groups.iter_mut().for_each(GroupCommit::tick);
            }
            85..91 => self.trim(),
            91..94 => self.begin_checkpoint(),
            94..97 => self.read_some()?,
            97 => self.delete()?,
            _ => match self.rng.index(5) {
                0 => self.shut_down_in_order()?,
                1 | 2 => self.crash()?,
                _ => {}
            },
        }
        self.hear()?;
        self.observe()?;
        self.reopen_fenced()?;
        self.observe()
    }

    fn read_some(&mut self) -> Verdict {
        let at = self.rng.index(PARTITIONS);
        let Some(log) = self.logs.0.get_mut(&key(at)) else {
            return Ok(());
        };
        let (start, end) = (log.log_start_offset(), log.high_watermark());
        let from = Offset(start.0 + self.rng.below((end.0 - start.0).max(1) as u64) as i64);
        let max_bytes = 1 + self.rng.index(50_000);
        if from < end {
            self.sends[at].read(log, &mut self.disk, from, end, max_bytes)?;
        }
        Ok(())
    }
}

pub struct Outcome {
    pub verdict: Verdict,
    pub trace: u64,
    pub counts: Counts,
    pub way: Way,
    pub events: SimEvents,
}

pub fn run(seed: u64, scenario: Scenario) -> Outcome {
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
    world.counts.acked = world.sends.iter().map(|sends| sends.acked.len() as u64).sum();
    Outcome {
        verdict,
        trace: world.disk.trace_hash(),
        counts: Counts {
            reused: world.spares.as_ref().map_or(0, SpareBudget::reused),
            ..world.counts
        },
        way: world.way,
        events: world.disk.events().clone(),
    }
}
