//! The promise: a log that is the copy of another one keeps the offsets and epochs that its batches came with, and
//! leaves out what they left out. Wherever a power cut falls, what was durable is there under its offsets, gaps stay
//! gaps, and the copy goes on with the next batch of its source.
//!
//! First a script with the power cut after each step of the disk, with and without a journal; then simulated brokers
//! with all their faults. `TIDELOG_SIM_SEEDS` sets the number of seeds (30; a thirtieth of them for the script). Each
//! is run with an open that takes a gap for the end of the log, which must be found out.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod common;

use bytes::Bytes;
use common::events::Events;
use common::power_cut::{
    End, Kind, Life, Run, Watch, cut_everywhere, disk, open, settle, spec, with_journals,
};
use common::seeds::Seeds;
use common::world::{Action, FaultRates, Journals, Scenario, must_be_found_out, run as simulate};
use common::{batches, reads};
use tidelog_segment_log::batch::BatchHeader;
use tidelog_segment_log::disk::sim::SimDisk;
use tidelog_segment_log::ids::{LeaderEpoch, Offset};
use tidelog_segment_log::journal::JournalBug;
use tidelog_segment_log::log::{Durability, LogConfig, PartitionLog, RemovalBug, WriteBug};
use tidelog_segment_log::recovery::{RecoveryBug, RecoveryOptions};

const PRODUCER: i64 = 4;
/// The first offset that the source still had when the copy began.
const FIRST: i64 = 1_000;
/// Batches before the copy is opened again, and all of them.
const BATCHES: (usize, usize) = (22, 40);

/// What the source holds: offsets are left out within a segment, over rolls, and more than a batch could count; epochs
/// rise, and skip some; batches have one record or several.
fn source() -> Vec<Bytes> {
    let (mut next, mut epoch, mut sequence) = (FIRST, 3, 0);
    let mut all = Vec::new();
    for number in 0..BATCHES.1 {
        let gap = match number {
            11 => 1 << 33,
            number if number % 3 == 2 => 1 + number as i64 * 7 % 13,
            _ => 0,
        };
        epoch += if number % 9 == 5 { 2 } else { 0 };
        let value = vec![number as u8; 400 + number * 173 % 1_500];
        let values = vec![value.as_slice(); 1 + number % 3];
        let batch = batches::sequenced(PRODUCER, sequence, 1_000_000 + number as i64, &values);
        let stored = batches::stored(&batch, Offset(next + gap), LeaderEpoch(epoch));
        next = header(&stored).last_offset().0 + 1;
        sequence += values.len() as i32;
        all.push(stored);
    }
    all
}

fn header(stored: &Bytes) -> BatchHeader {
    BatchHeader::parse(stored).unwrap()
}

#[derive(Clone, Copy, Debug)]
struct Case {
    seed: u64,
    cut_after: usize,
    durability: Durability,
    /// Commits go through a journal.
    journal: bool,
    /// The open after the cut is given the checkpoint of that moment.
    with_checkpoint: bool,
    bug: RecoveryBug,
    fdatasync_is_noop: bool,
}

const SOUND: Case = Case {
    seed: 0,
    cut_after: 0,
    durability: Durability::Fsync,
    journal: false,
    with_checkpoint: false,
    bug: RecoveryBug::None,
    fdatasync_is_noop: false,
};

impl Case {
    fn kind(self) -> Kind {
        Kind {
            segment_bytes: 20 << 10,
            durability: self.durability,
        }
    }

    fn options(self, incarnation_seed: u64) -> RecoveryOptions {
        RecoveryOptions {
            incarnation_seed: Some(incarnation_seed),
            bug: self.bug,
            ..RecoveryOptions::default()
        }
    }
}

#[derive(Default)]
struct Seen {
    /// Log starts that were asked for.
    asked: Vec<Offset>,
    start_durable: Offset,
}

impl Watch for Seen {
    fn look(&mut self, log: &mut PartitionLog) {
        self.start_durable = self.start_durable.max(log.checkpoint().log_start);
    }
}

struct Script {
    case: Case,
    life: Life<Seen>,
    source: Vec<Bytes>,
    starts: u64,
}

impl Script {
    fn mirror(&mut self, to: usize) -> Result<(), End> {
        let end = self.life.log.log_end_offset();
        let next = self.source[..to]
            .iter()
            .filter(|stored| header(stored).base_offset >= end);
        for (at, stored) in next.enumerate() {
            self.life.append_assigned(stored)?;
            // Now one alone, now several in one commit.
            if at % 3 == 1 {
                self.life.settle()?;
            }
        }
        Ok(())
    }

    fn delete_to(&mut self, start: Offset) -> Result<(), End> {
        self.life.settle()?;
        let Life {
            log, disk, now_ms, ..
        } = &mut self.life;
        log.append_log_start(*now_ms, disk, start).unwrap();
        self.life.watch.asked.push(start);
        self.life.flush();
        self.life.step()
    }

    /// The process ends, and the copy goes on where it was.
    fn reopen(&mut self) -> Result<(), End> {
        self.life.settle()?;
        let checkpoint = self.life.log.checkpoint();
        self.life.disk.process_kill();
        self.starts += 1;
        let spec = spec(self.case.kind(), self.starts, Some(checkpoint));
        let disk = &mut self.life.disk;
        let options = with_journals(disk, self.case.options(self.starts)).map_err(End::Wrong)?;
        self.life.log = open(disk, spec, options).map_err(End::Wrong)?;
        self.begin_journal();
        Ok(())
    }

    fn begin_journal(&mut self) {
        if self.case.journal {
            self.life.begin_journal(self.starts);
        }
    }

    fn run(&mut self) -> Result<(), End> {
        self.begin_journal();
        self.mirror(BATCHES.0)?;
        // Among offsets that no batch has.
        self.delete_to(Offset(header(&self.source[11]).base_offset.0 - 1_000))?;
        self.reopen()?;
        self.mirror(BATCHES.1)?;
        self.delete_to(header(&self.source[24]).base_offset)?;
        self.life.settle()
    }
}

/// All that the log serves, which must be the source up to where the log ends.
fn is_the_source(log: &mut PartitionLog, disk: &mut SimDisk, source: &[Bytes]) -> Result<(), String> {
    let (start, end) = (log.log_start_offset(), log.log_end_offset());
    let kept = source.partition_point(|stored| header(stored).last_offset() < end);
    let expected_end = source[..kept]
        .last()
        .map_or(Offset(0), |last| Offset(header(last).last_offset().0 + 1));
    if end != expected_end {
        return Err(format!("the log ends at {end}, its batches at {expected_end}"));
    }
    let served = reads::read_all(log, disk, 3_000)?;
    let served = served.iter().map(|(_, stored)| stored);
    let kept = source[..kept].iter();
    match served.eq(kept.filter(|stored| header(stored).last_offset() >= start)) {
        true => Ok(()),
        false => Err("what is served is not what was copied".to_owned()),
    }
}

/// What is wrong after the cut, if anything is.
fn judge(script: Script) -> Result<(), String> {
    let Script {
        case,
        life,
        source,
        starts,
    } = script;
    let Life {
        mut disk,
        log,
        durable_to,
        watch: seen,
        ..
    } = life;
    let checkpoint = case.with_checkpoint.then(|| log.checkpoint());
    drop(log);
    disk.power_cut();
    let options = with_journals(&mut disk, case.options(70))?;
    let mut log = open(&mut disk, spec(case.kind(), starts + 1, checkpoint), options)?;
    let (start, end) = (log.log_start_offset(), log.log_end_offset());
    if end < durable_to {
        return Err(format!(
            "the log ends at {end}, batches up to {durable_to} were durable"
        ));
    }
    if start < seen.start_durable || (start != Offset(0) && !seen.asked.contains(&start)) {
        return Err(format!(
            "the log starts at {start}; durable was {}",
            seen.start_durable
        ));
    }
    is_the_source(&mut log, &mut disk, &source)?;
    // The copy goes on behind what is left.
    for stored in source.iter().filter(|stored| header(stored).base_offset >= end) {
        log.append_assigned(1, &mut disk, stored)
            .map_err(|error| format!("the copy does not go on: {error}"))?;
    }
    settle(&mut log, &mut disk);
    is_the_source(&mut log, &mut disk, &source)?;
    if log.log_end_offset().0 != header(&source[source.len() - 1]).last_offset().0 + 1 {
        return Err("the copy is not whole".to_owned());
    }
    drop(log);
    disk.process_kill();
    let options = with_journals(&mut disk, case.options(71))?;
    let mut log = open(&mut disk, spec(case.kind(), starts + 2, None), options)?;
    is_the_source(&mut log, &mut disk, &source)
}

/// Runs to the cut and judges; also how many commits went through the journal.
fn run(case: Case) -> (Run, u64) {
    let mut disk = disk(case.seed, case.fdatasync_is_noop);
    let log = open(&mut disk, spec(case.kind(), 1, None), case.options(1)).unwrap();
    let mut script = Script {
        case,
        life: Life::new(disk, log, case.cut_after, Seen::default()),
        source: source(),
        starts: 1,
    };
    let end = script.run();
    let by_journal = script.life.way().by_journal;
    let (verdict, ended) = match end {
        Ok(()) => (judge(script), true),
        Err(End::Cut) => (judge(script), false),
        Err(End::Wrong(error)) => (Err(error), true),
    };
    (Run { verdict, ended }, by_journal)
}

/// The first failure, the number of cuts, and how many commits of the whole script went through the journal.
fn cut(case: Case) -> (Result<(), String>, usize, u64) {
    let mut all_by_journal = 0;
    let (verdict, cuts) = cut_everywhere(|cut_after| {
        let (end, by_journal) = run(Case { cut_after, ..case });
        all_by_journal = by_journal;
        end
    });
    let verdict = verdict.map_err(|error| format!("{case:?}: {error}"));
    (verdict, cuts, all_by_journal)
}

fn seeds() -> Seeds {
    Seeds::asked(30)
}

/// Seeds of the script, which is run once for each of its steps.
fn script_seeds() -> Seeds {
    seeds().with_count(seeds().count().div_ceil(30))
}

#[test]
fn a_cut_after_each_step_keeps_offsets_and_gaps() {
    let mut cuts = 0;
    for seed in script_seeds().range() {
        for durability in [Durability::Fsync, Durability::Os] {
            for with_checkpoint in [false, true] {
                let (verdict, count, _) = cut(Case {
                    seed,
                    durability,
                    with_checkpoint,
                    ..SOUND
                });
                assert_eq!(verdict, Ok(()));
                cuts += count as u64;
            }
        }
    }
    println!("{cuts} cuts");
    assert!(cuts > 4 * 100 * script_seeds().count(), "{cuts} cuts");
}

#[test]
fn a_cut_after_each_step_of_commits_by_a_journal_keeps_offsets_and_gaps() {
    let (mut cuts, mut all_by_journal) = (0, 0);
    for seed in script_seeds().range() {
        for with_checkpoint in [false, true] {
            let (verdict, count, by_journal) = cut(Case {
                seed,
                with_checkpoint,
                journal: true,
                ..SOUND
            });
            assert_eq!(verdict, Ok(()));
            assert!(by_journal > 0, "seed {seed}: the journal is in use");
            all_by_journal += by_journal;
            cuts += count as u64;
        }
    }
    assert!(
        all_by_journal > 2 * 10 * script_seeds().count(),
        "{all_by_journal} commits of last lives by the journal"
    );
    println!("{cuts} cuts");
    assert!(cuts > 2 * 100 * script_seeds().count(), "{cuts} cuts");
}

fn is_found(case: Case) -> bool {
    let found = script_seeds()
        .range()
        .find_map(|seed| cut(Case { seed, ..case }).0.err());
    println!("{found:?}");
    found.is_some()
}

#[test]
fn an_open_that_takes_a_gap_for_the_end_is_found_out() {
    for journal in [false, true] {
        assert!(is_found(Case {
            journal,
            bug: RecoveryBug::RefuseGaps,
            ..SOUND
        }));
    }
}

#[test]
fn without_fdatasync_what_was_copied_is_lost() {
    assert!(is_found(Case {
        fdatasync_is_noop: true,
        ..SOUND
    }));
}

/// Several copies on shards with journals, and all that can happen to them.
const COPIES: Scenario = Scenario {
    steps: 500,
    actions: &[
        (Action::Append, 150),
        (Action::Delete, 8),
        (Action::EndOfTurn, 70),
        (Action::Pump, 110),
        (Action::Tick, 12),
        (Action::Trim, 20),
        (Action::Checkpoint, 12),
        (Action::Read, 15),
        (Action::Truncate, 3),
        (Action::Stop, 2),
        (Action::Crash, 5),
    ],
    partitions: 3,
    log: LogConfig {
        segment_bytes: 48 << 10,
        segment_ms: 20_000,
        durability: Durability::Fsync,
    },
    value_bytes: &[(8_000..24_000, 1), (2_000..5_000, 3), (0..500, 36)],
    burst_max: 3,
    pump_max: 20,
    faults: FaultRates {
        rare_ppm: 1_500,
        failed_sync_ppm: 6_000,
        failed_writeback_ppm: 30_000,
        writeback_ppm: [20_000, 200_000],
    },
    journals: Some(Journals {
        shards_max: 3,
        file_bytes: 28 << 10,
        max_bytes: 4 * (28 << 10),
        trims_always: false,
        bug: JournalBug::None,
    }),
    damages_index_files: true,
    names_lag: false,
    fdatasync_is_noop: false,
    mirrors: true,
    acks_duplicates_early: false,
    recovery_bug: RecoveryBug::None,
    removal_bug: RemovalBug::None,
    write_bug: WriteBug::None,
};

/// What must have happened in the runs.
const EACH: &[&str] = &[
    "a commit by the journal",
    "a commit by direct syncs",
    "an entry taken from a journal",
    "a gap between mirrored batches",
    "a batch mirrored again",
    "an epoch below that of the copy",
    "a log start that moved",
    "a truncation",
    "a fence",
    "a power cut",
    "a kill",
];

#[test]
fn copies_keep_offsets_and_gaps_whatever_happens() {
    let mut events = Events::default();
    for seed in seeds().range() {
        let outcome = simulate(seed, COPIES);
        assert_eq!(outcome.verdict, Ok(()));
        events.add(&outcome.events);
    }
    println!("{events}");
    events.expect_more("a batch acked", 20 * seeds().count());
    events.expect_more("a gap between mirrored batches", 10 * seeds().count());
    events.expect_more("a recovery", 3 * seeds().count());
    events.expect_each(EACH);
}

#[test]
fn a_broker_that_takes_a_gap_for_the_end_is_found_out() {
    let scenario = Scenario {
        recovery_bug: RecoveryBug::RefuseGaps,
        ..COPIES
    };
    must_be_found_out(seeds().range(), scenario, "is lost");
}
