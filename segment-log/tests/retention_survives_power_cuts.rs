//! The promise: retention takes whole segments from the front and nothing else. Wherever a power cut falls,
//! the log starts where it was seen to start or at a later start that was asked for, every record from there
//! on is there, nothing counts as damaged, producers stay known, and the files go in the end.
//!
//! The power is cut after each step of the disk. `TIDELOG_SIM_SEEDS` sets the number of seeds (1). The tests
//! at the end show that the oracle finds each fault that is planted in the removal.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod common;

use std::path::Path;

use common::disk::names;
use common::power_cut::{
    DIRECTORY, End, Kind, Life, Run, Watch, all_is_served, cut_everywhere, disk, is_known, open, settle, spec,
};
use common::seeds::Seeds;
use tidelog_segment_log::checkpoint::PartitionCheckpoint;
use tidelog_segment_log::ids::Offset;
use tidelog_segment_log::log::{Durability, PartitionLog, RemovalBug, RetentionLimits, SpareBudget};
use tidelog_segment_log::recovery::RecoveryOptions;

/// Writes first, and never again.
const EARLY: i64 = 4;
const EARLY_BATCHES: i32 = 12;
/// Writes all that follows.
const LATE: i64 = 5;
const HOUR_MS: i64 = 3_600_000;

#[derive(Clone, Copy, Debug)]
struct Case {
    seed: u64,
    cut_after: usize,
    durability: Durability,
    evidence: Evidence,
    bug: RemovalBug,
    /// Files of removed segments are kept and used again.
    recycles: bool,
}

impl Case {
    fn kind(self) -> Kind {
        Kind {
            segment_bytes: 20 << 10,
            durability: self.durability,
        }
    }

    /// Room for all spares that these scripts make, however short.
    fn spares(self) -> Option<SpareBudget> {
        self.recycles.then(|| SpareBudget::of_files_from(8_192, 64 << 20))
    }

    fn options(self, incarnation_seed: u64, spares: Option<SpareBudget>) -> RecoveryOptions {
        RecoveryOptions {
            removal_bug: self.bug,
            incarnation_seed: Some(incarnation_seed),
            spares,
            ..RecoveryOptions::default()
        }
    }
}

/// The checkpoint that the open after the cut is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Evidence {
    None,
    /// One from before anything was removed.
    Older,
    /// One of the very moment of the cut.
    Newest,
}

#[derive(Default)]
struct Seen {
    /// Log starts that were in force at some time.
    starts: Vec<Offset>,
    /// The log start that a checkpoint would have carried.
    start_durable: Offset,
    removed: u64,
}

impl Watch for Seen {
    fn look(&mut self, log: &mut PartitionLog) {
        self.starts.push(log.log_start_offset());
        self.start_durable = self.start_durable.max(log.checkpoint().log_start);
        self.removed += log.take_removed().segments;
    }
}

/// The script, and what it leaves for the judge.
struct Script {
    case: Case,
    life: Life<Seen>,
    older: Option<PartitionCheckpoint>,
    starts: u64,
    spares: Option<SpareBudget>,
}

impl Script {
    /// Looks at the limits and removes until there is nothing more to do.
    fn retain(&mut self, limits: RetentionLimits) -> Result<(), End> {
        let life = &mut self.life;
        for _ in 0..4 {
            life.log.retain(life.now_ms, &mut life.disk, life.now_ms, limits);
            life.look();
            life.settle()?;
        }
        Ok(())
    }

    /// The process ends and the log goes on in a file that does not begin with producers.
    fn reopen_in_new_file(&mut self) -> Result<(), End> {
        self.life.settle()?;
        let checkpoint = self.life.log.checkpoint();
        self.life.disk.process_kill();
        self.starts += 1;
        let options = RecoveryOptions {
            continue_in_new_file: true,
            ..self.case.options(self.starts, self.spares.clone())
        };
        let spec = spec(self.case.kind(), self.starts, Some(checkpoint));
        self.life.log = open(&mut self.life.disk, spec, options).map_err(End::Wrong)?;
        Ok(())
    }

    fn run(&mut self) -> Result<(), End> {
        let by_size = |size_bytes| RetentionLimits {
            size_bytes: Some(size_bytes),
            age_ms: None,
        };
        let by_age = RetentionLimits {
            size_bytes: None,
            age_ms: Some(HOUR_MS as u64),
        };
        self.life.append(EARLY, EARLY_BATCHES)?;
        self.life.append(LATE, 16)?;
        self.life.settle()?;
        self.older = Some(self.life.log.checkpoint());
        self.retain(by_size(30 << 10))?;
        self.life.append(LATE, 12)?;
        self.reopen_in_new_file()?;
        self.life.append(LATE, 3)?;
        self.retain(by_size(10 << 10))?;
        self.life.append(LATE, 14)?;
        for _ in 0..if self.case.recycles { 2 } else { 0 } {
            self.life.append(LATE, 14)?;
            self.retain(by_size(10 << 10))?;
        }
        // All of it is too old by now, the segment that takes appends too.
        self.life.now_ms += 2 * HOUR_MS;
        self.retain(by_age)?;
        self.life.append(LATE, 2)?;
        self.life.settle()
    }
}

/// What is wrong after the cut, if anything is.
fn judge(script: Script) -> Result<(), String> {
    let Script {
        case,
        life,
        older,
        starts,
        ..
    } = script;
    let sound = Case {
        bug: RemovalBug::None,
        ..case
    };
    let Life {
        mut disk,
        log,
        durable_to,
        watch: seen,
        ..
    } = life;
    let checkpoint = match case.evidence {
        Evidence::None => None,
        Evidence::Older => older,
        Evidence::Newest => Some(log.checkpoint()),
    };
    drop(log);
    disk.power_cut();
    let again = spec(case.kind(), starts + 1, checkpoint);
    // Half of them start with the spares that they find, and half remove them.
    let spares = case.spares().filter(|_| case.cut_after.is_multiple_of(2));
    let options = sound.options(77, spares);
    let mut log = open(&mut disk, again, options.clone())?;
    let (start, end) = (log.log_start_offset(), log.log_end_offset());
    if start < seen.start_durable {
        return Err(format!(
            "the log starts at {start}, {} was durable",
            seen.start_durable
        ));
    }
    if start != Offset(0) && !seen.starts.contains(&start) {
        return Err(format!("the log never started at {start}"));
    }
    if end < durable_to {
        return Err(format!(
            "the log ends at {end}, records up to {durable_to} were durable"
        ));
    }
    all_is_served(&mut log, &mut disk)?;
    let early_end = i64::from(EARLY_BATCHES);
    let early_last = end.0.min(early_end) as i32 - 1;
    if early_last >= 0 && !is_known(&log, EARLY, early_last) {
        return Err("the producer that wrote first is not known any more".to_owned());
    }
    if end.0 > early_end && !is_known(&log, LATE, (end.0 - early_end) as i32 - 1) {
        return Err("the producer that wrote last is not known".to_owned());
    }
    // What was begun is ended: no file stays behind, and another cut changes nothing.
    settle(&mut log, &mut disk);
    let files = names(&mut disk, Path::new(DIRECTORY), ".log").unwrap();
    if files.len() != log.segment_count() {
        return Err(format!("{} segments in {files:?}", log.segment_count()));
    }
    for index in names(&mut disk, Path::new(DIRECTORY), ".index").unwrap() {
        if !files.contains(&index.replace(".index", ".log")) {
            return Err(format!("{index} has no segment"));
        }
    }
    let kept = names(&mut disk, Path::new(DIRECTORY), ".spare").unwrap();
    if kept.len() != log.spare_count() {
        return Err(format!("{} spares in {kept:?}", log.spare_count()));
    }
    drop(log);
    disk.power_cut();
    let spec = spec(case.kind(), starts + 2, None);
    let again = open(&mut disk, spec, options)?.log_start_offset();
    match again == start {
        true => Ok(()),
        false => Err(format!("the log starts at {again}, it was served from {start}")),
    }
}

/// Runs to the cut and judges; also what the script removed, or made of spare files where it recycles.
fn run(case: Case) -> (Run, u64) {
    let mut disk = disk(case.seed, false);
    let spares = case.spares();
    let options = case.options(1, spares.clone());
    let log = open(&mut disk, spec(case.kind(), 1, None), options).unwrap();
    let mut script = Script {
        case,
        life: Life::new(disk, log, case.cut_after, Seen::default()),
        older: None,
        starts: 1,
        spares: spares.clone(),
    };
    let end = script.run();
    let removed = match &spares {
        Some(spares) => spares.reused(),
        None => script.life.watch.removed,
    };
    let (verdict, ended) = match end {
        Ok(()) => (judge(script), true),
        Err(End::Cut) => (judge(script), false),
        Err(End::Wrong(error)) => (Err(error), true),
    };
    (Run { verdict, ended }, removed)
}

/// Cuts after each step of the disk until the script ends: the first failure, the number of cuts, and how
/// many segments the whole script removes, or makes of spare files where it recycles.
fn cut(case: Case) -> (Result<(), String>, usize, u64) {
    let mut all_removed = 0;
    let (verdict, cuts) = cut_everywhere(|cut_after| {
        let (end, removed) = run(Case { cut_after, ..case });
        all_removed = removed;
        end
    });
    let verdict = verdict.map_err(|error| format!("{case:?}: {error}"));
    (verdict, cuts, all_removed)
}

const SOUND: Case = Case {
    seed: 0,
    cut_after: 0,
    durability: Durability::Fsync,
    evidence: Evidence::None,
    bug: RemovalBug::None,
    recycles: false,
};

const EVIDENCE: [Evidence; 3] = [Evidence::None, Evidence::Older, Evidence::Newest];

#[test]
fn a_cut_after_each_step_of_retention_loses_nothing_that_is_kept() {
    let seeds = Seeds::asked(1);
    let mut cuts = 0;
    for seed in seeds.range() {
        for durability in [Durability::Fsync, Durability::Os] {
            for evidence in EVIDENCE {
                let (verdict, count, removed) = cut(Case {
                    seed,
                    durability,
                    evidence,
                    ..SOUND
                });
                assert_eq!(verdict, Ok(()));
                assert!(removed >= 5, "the script removes {removed} segments");
                cuts += count;
            }
        }
    }
    println!("{cuts} cuts");
    assert!(cuts as u64 > 6 * 100 * seeds.count(), "{cuts} cuts");
}

fn is_found(bug: RemovalBug) -> bool {
    Seeds::asked(1).with_count(10).range().any(|seed| {
        EVIDENCE.into_iter().any(|evidence| {
            let case = Case {
                seed,
                evidence,
                bug,
                ..SOUND
            };
            cut(case).0.is_err()
        })
    })
}

#[test]
fn files_that_go_before_the_log_start_is_durable_are_found() {
    assert!(is_found(RemovalBug::BeforeTheLogStart));
}

#[test]
fn producers_that_go_with_their_segments_are_found() {
    assert!(is_found(RemovalBug::ForgetProducers));
}

#[test]
fn files_that_go_in_any_order_are_found() {
    assert!(is_found(RemovalBug::OutOfOrder));
}

#[test]
fn a_cut_after_each_step_of_recycling_loses_nothing_that_is_kept() {
    let seeds = Seeds::asked(1);
    let mut cuts = 0;
    for seed in seeds.range() {
        for evidence in EVIDENCE {
            let (verdict, count, reused) = cut(Case {
                seed,
                evidence,
                recycles: true,
                ..SOUND
            });
            assert_eq!(verdict, Ok(()));
            assert!(reused >= 3, "the script makes {reused} segments of spares");
            cuts += count;
        }
    }
    println!("{cuts} cuts");
    assert!(cuts as u64 > 3 * 100 * seeds.count(), "{cuts} cuts");
}

#[test]
fn files_that_are_recycled_before_they_have_their_names_are_found() {
    let found = Seeds::asked(1).with_count(10).range().any(|seed| {
        let case = Case {
            seed,
            bug: RemovalBug::RecycleUnnamed,
            recycles: true,
            ..SOUND
        };
        cut(case).0.is_err()
    });
    assert!(found);
}
