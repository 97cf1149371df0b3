//! A simulated broker without a network: some partitions, on one shard or, with journals, on several.
//!
//! One seed decides everything of a run: the faults of the disk, what is done next, what is sent. After each
//! action the [oracle](super::oracle) looks at all partitions, and after each open it reads all of them.

mod clients;
mod ends;
mod mirrors;
mod starts;
mod truncations;
mod turns;

use std::io;
use std::ops::Range;

use tidelog_segment_log::data_directory::DataDirectory;
use tidelog_segment_log::disk::sim::{OpKind, SimConfig, SimDisk, SimFaults, SimRng};
use tidelog_segment_log::ids::PartitionKey;
use tidelog_segment_log::journal::JournalBug;
use tidelog_segment_log::log::{LogConfig, LogStatus, Machine, RemovalBug, SpareBudget, WriteBug};
use tidelog_segment_log::recovery::RecoveryBug;

use super::Verdict;
use super::disk::LaggingDisk;
use super::events::Events;
use super::oracle::Sends;
use super::shards::Shards;
use mirrors::Source;

const CHECKPOINT_SPACE: u32 = 10;
const REMOVAL_SPACE: u32 = 30;
/// Starts after which a broker that does not open never does.
const STARTS_MAX: usize = 2_000;
/// Steps of the disk after which something that should end does not.
const STEPS_MAX: usize = 400_000;

/// What may be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A burst of batches.
    Append,
    /// The log start moves.
    Delete,
    /// A producer sends again what it has no answer for.
    Retry,
    /// What a shard does at the end of a turn of its loop: writes and commits.
    EndOfTurn,
    /// The disk gets on.
    Pump,
    Tick,
    /// A step of letting files of a journal go.
    Trim,
    Checkpoint,
    Read,
    /// A partition is cut behind some batch.
    Truncate,
    /// Stops in order and starts again.
    Stop,
    /// A kill, a power cut, or both, and a start.
    Crash,
}

/// What a simulation is made of.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// How many actions.
    pub steps: usize,
    /// Each with its weight.
    pub actions: &'static [(Action, u64)],
    pub partitions: usize,
    pub log: LogConfig,
    /// Lengths of a record's value, each with its weight.
    pub value_bytes: &'static [(Range<usize>, u64)],
    /// Batches of a burst, at most.
    pub burst_max: usize,
    /// Steps of the disk in one [`Action::Pump`], at most.
    pub pump_max: usize,
    pub faults: FaultRates,
    /// Each shard has a journal.
    pub journals: Option<Journals>,
    /// Index files may be lost, zeroed, torn or mixed up between two lives.
    pub damages_index_files: bool,
    /// Syncs of directories of partitions take long.
    pub names_lag: bool,
    pub fdatasync_is_noop: bool,
    /// Each partition is the copy of a log elsewhere, which gave its batches their offsets, with gaps, and epochs.
    pub mirrors: bool,
    /// A retried batch is answered at once.
    pub acks_duplicates_early: bool,
    pub recovery_bug: RecoveryBug,
    pub removal_bug: RemovalBug,
    pub write_bug: WriteBug,
}

/// Chances in a million; each seed has a kind of fault or has not.
#[derive(Clone, Copy, Debug)]
pub struct FaultRates {
    pub rare_ppm: u32,
    pub failed_sync_ppm: u32,
    pub failed_writeback_ppm: u32,
    /// One of these is the chance that a page is written back in a step.
    pub writeback_ppm: [u32; 2],
}

/// The journals of a simulation.
#[derive(Clone, Copy, Debug)]
pub struct Journals {
    /// Each start has from one to so many shards.
    pub shards_max: usize,
    pub file_bytes: u64,
    pub max_bytes: u64,
    /// Files are let go as soon as they may be.
    pub trims_always: bool,
    pub bug: JournalBug,
}

/// One of them, by weight.
fn pick<'a, T>(rng: &mut SimRng, weighted: &'a [(T, u64)]) -> &'a T {
    let mut left = rng.below(weighted.iter().map(|(_, weight)| weight).sum());
    for (what, weight) in weighted {
        match left.checked_sub(*weight) {
            Some(rest) => left = rest,
            None => return what,
        }
    }
    panic!("no weights");
}

fn faults(rates: &FaultRates, rng: &mut SimRng) -> SimFaults {
    let mut chance = |ppm: u32| if rng.coin() { 0 } else { ppm };
    SimFaults {
        no_space_ppm: chance(rates.rare_ppm),
        short_write_ppm: chance(rates.rare_ppm),
        writeback_error_ppm: chance(rates.failed_writeback_ppm),
        would_stall_ppm: chance(200_000),
        cold_ppm: 200_000,
        ..SimFaults::default()
    }
    .with_eio(OpKind::Sync, chance(rates.failed_sync_ppm))
    .with_eio(OpKind::Write, chance(rates.rare_ppm))
    .with_eio(OpKind::WriteNow, chance(rates.rare_ppm))
    .with_eio(OpKind::SyncDir, chance(rates.rare_ppm))
    .with_eio(OpKind::Create, chance(rates.rare_ppm))
    .with_eio(OpKind::Unlink, chance(rates.rare_ppm))
    .with_eio(OpKind::Read, chance(rates.rare_ppm))
}

struct World {
    scenario: Scenario,
    rng: SimRng,
    disk: LaggingDisk,
    data: Option<DataDirectory>,
    /// Without groups unless the scenario has journals.
    shards: Shards,
    /// Shards of the last start that had journals.
    shards_before: usize,
    sends: Vec<Sends>,
    /// What partitions are copies of, if they are.
    sources: Vec<Source>,
    checkpoint: Option<Machine<io::Result<()>>>,
    /// Terms that the checkpoint under way carries.
    checkpoint_terms: Vec<(PartitionKey, i32)>,
    removal: Option<Machine<io::Result<()>>>,
    now_ms: i64,
    next_value: u64,
    /// Starts so far.
    lives: u64,
    /// The power was cut before this start: what the files say is what the device holds.
    was_cut: bool,
    /// In every other run files of removed segments are used again.
    spares: Option<SpareBudget>,
    events: Events,
}

impl World {
    fn new(seed: u64, scenario: Scenario) -> Self {
        let mut rng = SimRng::new(seed ^ 0x7173_6d00);
        let sim = SimDisk::new(SimConfig {
            seed,
            faults: faults(&scenario.faults, &mut rng),
            fdatasync_is_noop: scenario.fdatasync_is_noop,
            writeback_ppm: scenario.faults.writeback_ppm[rng.index(2)],
            ..SimConfig::default()
        });
        Self {
            scenario,
            rng,
            disk: LaggingDisk::new(sim, scenario.names_lag),
            data: None,
            shards: Shards::default(),
            shards_before: 0,
            sends: (0..scenario.partitions).map(|_| Sends::default()).collect(),
            sources: (0..scenario.partitions).map(|_| Source::default()).collect(),
            checkpoint: None,
            checkpoint_terms: Vec::new(),
            removal: None,
            now_ms: 1_000_000,
            next_value: 0,
            lives: 0,
            was_cut: false,
            spares: seed
                .is_multiple_of(2)
                .then(|| SpareBudget::of_files_from(8 << 10, 256 << 10)),
            events: Events::default(),
        }
    }

    fn some_partition(&mut self) -> usize {
        self.rng.index(self.scenario.partitions)
    }

    fn step(&mut self) -> Verdict {
        self.now_ms += self.rng.below(200) as i64;
        match *pick(&mut self.rng, self.scenario.actions) {
            Action::Append => self.append_some()?,
            Action::Delete => self.delete()?,
            Action::Retry => self.retry()?,
            Action::EndOfTurn => self.end_of_turn(),
            Action::Pump => {
                let count = 1 + self.rng.index(self.scenario.pump_max);
                self.pump(count)?;
            }
            Action::Tick => self.tick(),
            Action::Trim => self.trim(),
            Action::Checkpoint => self.begin_checkpoint(),
            Action::Read => self.read_some()?,
            Action::Truncate => self.truncate()?,
            Action::Stop => self.stop_in_order()?,
            Action::Crash => self.crash()?,
        }
        self.hear()?;
        self.observe()?;
        self.reopen_fenced()?;
        self.observe()
    }

    fn observe(&mut self) -> Verdict {
        for (at, sends) in self.sends.iter_mut().enumerate() {
            if let Some(log) = self.shards.logs.at(at) {
                sends
                    .observe(log)
                    .map_err(|error| format!("partition {at}: {error}"))?;
            }
        }
        Ok(())
    }

    fn is_fenced(&mut self, at: usize) -> bool {
        let log = self.shards.logs.at(at);
        log.is_some_and(|log| log.status() == LogStatus::Fenced)
    }
}

/// What came of a run.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    pub verdict: Verdict,
    pub trace: u64,
    pub events: Events,
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
        world.disk.sim.set_faults(SimFaults::default());
        verdict = world
            .crash()
            .map_err(|error| format!("seed {seed}, at the end: {error}"));
    }
    let acked: usize = world.sends.iter().map(|sends| sends.acked.len()).sum();
    let mut events = world.events;
    events.note("a batch acked", acked as u64);
    let reused = world.spares.as_ref().map_or(0, SpareBudget::reused);
    events.note("a segment made of a spare file", reused);
    events.take_disk(world.disk.sim.events());
    Outcome {
        verdict,
        trace: world.disk.sim.trace_hash(),
        events,
    }
}

/// A planted fault must show under one of the seeds: the oracle says so, with these words in it.
#[track_caller]
pub fn must_be_found_out(mut seeds: Range<u64>, scenario: Scenario, words: &str) {
    let failure = seeds.find_map(|seed| {
        let failure = run(seed, scenario).verdict.err();
        failure.filter(|failure| failure.contains(words))
    });
    println!("{failure:?}");
    assert!(failure.is_some(), "a planted fault must be found out");
}
