//! The broker of [`shards`](crate::shards): some partitions on shards with journals, on a simulated disk, each beside its
//! list of batches.

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use tidelog_segment_log::checkpoint::{Checkpoint, PartitionCheckpoint};
use tidelog_segment_log::data_directory::{DataDirectory, write_checkpoint};
use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::disk::sim::{SimConfig, SimDisk, SimFaults};
use tidelog_segment_log::journal::{GroupConfig, JournalBug, JournalConfig};
use tidelog_segment_log::log::{
    CloseProgress, Durability, LogConfig, OpenError, OpenSpec, Opening, PartitionLog, Truncation,
};
use tidelog_segment_log::recovery::{RecoveryOptions, RecoveryReport};

use crate::common::disk::{Stepping, names};
use crate::common::events::Events;
use crate::common::logs::open_at;
use crate::common::shards::{LOG_SPACE, Shards, directory, key, root, take_directory};
use crate::model::{Holds, Host, Left, Model};
use crate::shards::{Case, End, PARTITIONS, Planted, Step};

const JOURNAL_FILE_BYTES: u64 = 12 << 10;
/// A space of tokens for what is driven to its end at once.
const OWN_SPACE: u32 = 10;

/// See the file's head.
pub struct Broker {
    disk: SimDisk,
    data: Option<DataDirectory>,
    shards: Shards,
    models: Vec<Model>,
    case: Case,
    planted: Planted,
    now_ms: i64,
    /// Starts so far.
    starts: u64,
    /// What an open or a journal was seeded with last.
    seeded: u64,
    pub events: Events,
}

fn failed(what: impl ToString) -> TestCaseError {
    TestCaseError::fail(what.to_string())
}

impl Broker {
    pub fn new(case: Case, planted: Planted) -> Self {
        Self {
            disk: SimDisk::new(SimConfig {
                seed: case.seed,
                faults: SimFaults {
                    would_stall_ppm: 200_000,
                    cold_ppm: 200_000,
                    ..SimFaults::default()
                },
                writeback_ppm: 20_000,
                ..SimConfig::default()
            }),
            data: None,
            shards: Shards::default(),
            models: (0..PARTITIONS).map(|_| Model::default()).collect(),
            case,
            planted,
            now_ms: 1_000_000,
            starts: 0,
            seeded: 0,
            events: Events::default(),
        }
    }

    fn next_seed(&mut self) -> u64 {
        self.seeded += 1;
        self.case.seed.rotate_left(17) ^ self.seeded
    }

    fn log(&mut self, at: usize) -> (&mut PartitionLog, &mut SimDisk) {
        (self.shards.logs.at(at).expect("it is open"), &mut self.disk)
    }

    /// Takes the directory, opens all logs with what journals hold of them, and compares.
    fn start(&mut self, shards: usize, left: Left) -> Holds {
        let bug = match self.planted {
            Planted::Nothing => JournalBug::None,
            Planted::OwnShardsOnly => JournalBug::OnlyShardsBelow(shards as u32),
        };
        let data = take_directory(&mut Stepping(&mut self.disk), bug).map_err(failed)?;
        prop_assert!(
            data.journals().damage().is_empty(),
            "{:?}",
            data.journals().damage()
        );
        self.starts += 1;
        let mut reports = Vec::new();
        for at in 0..PARTITIONS {
            reports.push(self.open_at_start(at, &data)?);
        }
        for shard in 0..shards {
            let journal = JournalConfig {
                shard: shard as u32,
                start_counter: data.start_counter(),
                file_bytes: JOURNAL_FILE_BYTES,
                max_bytes: 4 * JOURNAL_FILE_BYTES,
                id_seed: Some(self.next_seed()),
                bug: JournalBug::None,
            };
            let commits = GroupConfig {
                dirty_files_min: self.case.dirty_files_min,
                bytes_per_file_max: 20 << 10,
                direct_while_making_max: 1,
                trim_above_bytes: 0,
            };
            self.shards.add_group(journal, commits);
        }
        self.shards.join();
        self.data = Some(data);
        self.write_checkpoints()?;
        self.remove_what_was_replaced(shards)?;
        for (at, report) in reports.iter().enumerate() {
            self.compare(at, report, left)?;
        }
        Ok(())
    }

    fn open_at_start(&mut self, at: usize, data: &DataDirectory) -> Result<RecoveryReport, TestCaseError> {
        let evidence = data.evidence(&key(at));
        let options = RecoveryOptions {
            incarnation_seed: Some(self.next_seed()),
            ..evidence.options
        };
        let spec = OpenSpec {
            clean: data.was_clean(),
            created: self.starts == 1,
            ..spec(at, evidence.checkpoint, data.start_counter())
        };
        let opening = Opening::with_options(spec, options);
        let opened = open_at(&mut Stepping(&mut self.disk), self.now_ms, opening);
        let (log, report) = opened.map_err(failed)?;
        self.events
            .note("an entry taken from a journal", report.from_journal);
        self.shards.logs.0.insert(key(at), log);
        Ok(report)
    }

    fn compare(&mut self, at: usize, report: &RecoveryReport, left: Left) -> Holds {
        let log = self.shards.logs.at(at).expect("it is open");
        let model = &mut self.models[at];
        let held = match self.starts {
            1 => {
                model.opened(log);
                model.compare(log, &mut self.disk, usize::MAX)
            }
            _ => model.reopened(log, &mut self.disk, report, left),
        };
        held.map_err(|error| failed(format!("partition {at}, start {}: {error}", self.starts)))
    }

    /// What each shard knows of its partitions; terms are durable then.
    fn write_checkpoints(&mut self) -> Holds {
        let closed = self.shards.logs.0.values().map(|log| log.checkpoint());
        self.write_checkpoints_of(closed.collect())?;
        self.shards.logs.0.values_mut().for_each(|log| log.confirm_term());
        Ok(())
    }

    fn write_checkpoints_of(&mut self, all: Vec<PartitionCheckpoint>) -> Holds {
        let start_counter = self.data.as_ref().map_or(0, DataDirectory::start_counter);
        for shard in 0..self.shards.groups.len() {
            let own = all
                .iter()
                .filter(|of| self.shards.of(of.key.partition as usize) == shard);
            let checkpoint = Checkpoint {
                start_counter,
                partitions: own.cloned().collect(),
            };
            write_checkpoint(OWN_SPACE, root(), shard as u32, &checkpoint)
                .drive(&mut Stepping(&mut self.disk))
                .map_err(failed)?;
        }
        Ok(())
    }

    /// Journals whose partitions are open, and checkpoints of shards that are no more.
    fn remove_what_was_replaced(&mut self, shards: usize) -> Holds {
        let Some(data) = &self.data else { return Ok(()) };
        let (journals, checkpoints) = (
            data.remove_replayed_journals(OWN_SPACE),
            data.remove_surplus_checkpoints(OWN_SPACE, shards as u32),
        );
        journals.drive(&mut Stepping(&mut self.disk)).map_err(failed)?;
        checkpoints.drive(&mut Stepping(&mut self.disk)).map_err(failed)
    }

    /// The disk gets on by one operation; whether it had one.
    fn get_on(&mut self) -> Result<bool, TestCaseError> {
        let some = self.disk.advance();
        let mut completions = Vec::new();
        self.disk.take_completions(&mut completions);
        for completion in completions {
            let other = self.shards.on_completion(self.now_ms, &mut self.disk, completion);
            prop_assert!(other.is_none(), "nothing else is in flight: {:?}", other);
        }
        self.shards.hear().map_err(failed)?;
        self.observe();
        Ok(some)
    }

    fn observe(&mut self) {
        for (at, model) in self.models.iter_mut().enumerate() {
            if let Some(log) = self.shards.logs.at(at) {
                model.observe(log);
            }
        }
    }

    fn end_of_turn(&mut self) {
        self.shards.end_of_turn(self.now_ms, &mut self.disk);
    }

    fn settle(&mut self) -> Holds {
        self.end_of_turn();
        while self.get_on()? {
            self.end_of_turn();
        }
        prop_assert!(self.disk.idle());
        for at in 0..PARTITIONS {
            let (log, _) = self.log(at);
            prop_assert_eq!(log.durable_offset(), log.log_end_offset());
        }
        Ok(())
    }

    fn tick(&mut self) {
        self.shards.tick(self.now_ms, &mut self.disk);
    }

    /// Closes it, while the others only wait.
    fn close(&mut self, at: usize) -> Result<PartitionCheckpoint, TestCaseError> {
        loop {
            let now_ms = self.now_ms;
            let (log, disk) = self.log(at);
            match log.close(now_ms, disk) {
                CloseProgress::Fenced => return Err(failed(format!("fenced: {:?}", log.fence_cause()))),
                CloseProgress::Closed(checkpoint) if !self.shards.is_in_flight(at) => return Ok(*checkpoint),
                CloseProgress::Closed(_) | CloseProgress::Pending => {}
            }
            prop_assert!(self.get_on()?, "a close does not end");
        }
    }

    fn truncate(&mut self, at: usize, share: usize, by_epoch: bool) -> Holds {
        self.settle()?;
        let log = self.shards.logs.at(at).expect("it is open");
        let cut = self.models[at].truncation(log, share, by_epoch);
        let checkpoint = self.close(at)?;
        prop_assert!(self.disk.idle());
        self.shards.logs.0.remove(&key(at));
        let refused = match self.open_again(at, &checkpoint, Some(cut.to)) {
            Err(OpenError::CutBelowLogStart {
                end_offset,
                log_start,
            }) => {
                self.models[at].refused(&cut, end_offset, log_start)?;
                Some(self.open_again(at, &checkpoint, None).map_err(failed)?)
            }
            opened => {
                let report = opened.map_err(failed)?;
                let log = self.shards.logs.at(at).expect("it is open");
                self.models[at].truncated(log, &mut self.disk, &report, &cut)?;
                self.events.note_if(report.truncated.is_some(), "a truncation");
                None
            }
        };
        if let Some(report) = refused {
            let log = self.shards.logs.at(at).expect("it is open");
            // With something in a journal all of it is read, as after a kill.
            let left = if report.clean { Left::InOrder } else { Left::AtRest };
            self.models[at].reopened(log, &mut self.disk, &report, left)?;
        }
        self.shards.rejoin(at);
        self.write_checkpoints()
    }

    /// Opens one that was closed in order, with what its shard's journal holds of it.
    fn open_again(
        &mut self,
        at: usize,
        checkpoint: &PartitionCheckpoint,
        cut: Option<Truncation>,
    ) -> Result<RecoveryReport, OpenError> {
        let options = RecoveryOptions {
            term_floor: checkpoint.term,
            journal: self.shards.live_journal(at),
            incarnation_seed: Some(self.next_seed()),
            ..RecoveryOptions::default()
        };
        let start_counter = self.data.as_ref().map_or(0, DataDirectory::start_counter);
        let spec = OpenSpec {
            clean: true,
            ..spec(at, Some(checkpoint.clone()), start_counter)
        };
        let opening = Opening::truncating(spec, options, cut);
        let (log, report) = open_at(&mut Stepping(&mut self.disk), self.now_ms, opening)?;
        self.shards.logs.0.insert(key(at), log);
        Ok(report)
    }

    fn restart(&mut self, end: End, shards: usize) -> Holds {
        let left = match end {
            End::Stop { .. } => {
                self.stop()?;
                Left::InOrder
            }
            End::Kill | End::PowerCut => Left::Killed,
        };
        let before = self.shards.groups.len();
        for group in self.shards.groups.drain(..) {
            self.events.take_way(group.way());
        }
        self.shards = Shards::default();
        self.data = None;
        match end {
            End::Kill | End::Stop { power_fails: false } => self.disk.process_kill(),
            End::PowerCut | End::Stop { power_fails: true } => self.disk.power_cut(),
        }
        self.events.note_if(left == Left::InOrder, "a stop in order");
        self.events.note_if(end == End::Kill, "a kill");
        self.events.note_if(end == End::PowerCut, "a power cut");
        self.events
            .note_if(before != shards, "a start with another number of shards");
        self.start(shards, left)
    }

    /// Stops in order: all logs are closed, the journals go, and the directory is marked clean.
    fn stop(&mut self) -> Holds {
        let mut closed = Vec::new();
        for at in 0..PARTITIONS {
            closed.push(self.close(at)?);
        }
        while !self.shards.close_groups(&mut self.disk) {
            prop_assert!(self.get_on()?, "a journal is not removed");
        }
        self.observe();
        prop_assert!(self.models.iter().all(Model::is_durable));
        prop_assert!(self.disk.idle());
        self.write_checkpoints_of(closed)?;
        let data = self.data.take().expect("it is open");
        data.mark_clean(&mut Stepping(&mut self.disk)).map_err(failed)
    }

    fn step(&mut self, step: &Step) -> Holds {
        match step {
            Step::Change(at, change) => {
                let mut model = std::mem::take(&mut self.models[*at]);
                let changed = model.change(&mut Of(self, *at), change);
                self.models[*at] = model;
                changed.map_err(|error| failed(format!("partition {at}: {error}")))?;
            }
            Step::EndOfTurn => self.end_of_turn(),
            Step::Pump(count) => {
                for _ in 0..*count {
                    self.get_on()?;
                }
            }
            Step::Settle => self.settle()?,
            Step::Tick { ms } => {
                self.now_ms += ms;
                self.tick();
            }
            Step::Trim { shard } => self.shards.trim(*shard, PARTITIONS, &mut self.disk),
            Step::Checkpoint => {
                self.settle()?;
                self.write_checkpoints()?;
            }
            Step::Truncate { at, share, by_epoch } => self.truncate(*at, *share, *by_epoch)?,
            Step::Restart { end, shards } => self.restart(*end, *shards)?,
        }
        self.observe();
        Ok(())
    }

    /// The whole case, and a cut of power behind it.
    pub fn run(&mut self) -> Holds {
        self.start(self.case.shards, Left::InOrder)?;
        for step in self.case.steps.clone() {
            self.step(&step)?;
        }
        self.settle()?;
        for at in 0..PARTITIONS {
            let log = self.shards.logs.at(at).expect("it is open");
            prop_assert!(self.models[at].is_durable());
            self.models[at].compare(log, &mut self.disk, 1)?;
            self.models[at].check_times(log, self.now_ms - 1_000)?;
        }
        self.restart(End::PowerCut, 1)
    }
}

fn spec(at: usize, checkpoint: Option<PartitionCheckpoint>, start_counter: u64) -> OpenSpec {
    OpenSpec {
        directory: directory(at),
        key: key(at),
        config: LogConfig {
            segment_bytes: 48 << 10,
            segment_ms: 10_000,
            durability: Durability::Fsync,
        },
        token_space: LOG_SPACE + at as u32,
        checkpoint,
        clean: false,
        start_counter,
        created: false,
    }
}

/// One partition of a broker, whose model is elsewhere meanwhile.
struct Of<'a>(&'a mut Broker, usize);

impl Host for Of<'_> {
    type Disk = SimDisk;

    fn parts(&mut self) -> (&mut PartitionLog, &mut SimDisk) {
        self.0.log(self.1)
    }

    fn now_ms(&self) -> i64 {
        self.0.now_ms
    }

    fn settle(&mut self) -> Holds {
        self.0.settle()
    }

    fn tick(&mut self) {
        self.0.tick();
    }

    fn segment_files(&mut self) -> usize {
        names(&mut self.0.disk, &directory(self.1), ".log").map_or(0, |names| names.len())
    }
}
