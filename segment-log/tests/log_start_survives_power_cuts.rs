//! The promise: a log start whose entry was durable is there after a power cut, wherever it falls; one
//! that was not may be there or not; no record at or above the start is lost; producers stay known.
//!
//! The power is cut after each step of the disk. `TIDELOG_SIM_SEEDS` sets the number of seeds (10).

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod common;

use common::power_cut::{
    End, Kind, Life, Run, Watch, all_is_served, cut_everywhere, disk, is_known, open, spec,
};
use common::seeds::Seeds;
use tidelog_segment_log::ids::{EntryIndex, Offset};
use tidelog_segment_log::log::{Durability, PartitionLog};
use tidelog_segment_log::recovery::RecoveryOptions;

const PRODUCER: i64 = 4;

#[derive(Default)]
struct Seen {
    asked: Vec<(EntryIndex, Offset)>,
    /// The log start that was seen to be durable.
    acked: Offset,
}

impl Watch for Seen {
    fn look(&mut self, log: &mut PartitionLog) {
        let durable = log.durable_index();
        for (index, start) in &self.asked {
            if *index <= durable {
                self.acked = self.acked.max(*start);
            }
        }
    }
}

fn delete_to(life: &mut Life<Seen>, start: i64) -> Result<(), End> {
    while life.log.high_watermark().0 < start {
        life.log.flush(life.now_ms, &mut life.disk);
        life.step()?;
    }
    let index = life
        .log
        .append_log_start(life.now_ms, &mut life.disk, Offset(start))
        .unwrap();
    life.watch.asked.push((index, Offset(start)));
    life.step()
}

/// Starts behind each other in one commit, over rolls, and up to the very end.
fn script(life: &mut Life<Seen>) -> Result<(), End> {
    life.append(PRODUCER, 6)?;
    delete_to(life, 3)?;
    life.append(PRODUCER, 2)?;
    delete_to(life, 4)?;
    delete_to(life, 6)?;
    life.settle()?;
    life.append(PRODUCER, 20)?;
    delete_to(life, 15)?;
    life.append(PRODUCER, 6)?;
    life.settle()?;
    delete_to(life, 34)?;
    life.settle()
}

#[derive(Clone, Copy, Debug)]
struct Case {
    seed: u64,
    cut_after: usize,
    durability: Durability,
    with_checkpoint: bool,
    fdatasync_is_noop: bool,
}

/// What is wrong after the cut, if anything is.
fn judge(case: Case, life: Life<Seen>) -> Result<(), String> {
    let kind = kind(case);
    let sent = life.sent(PRODUCER);
    let Life {
        mut disk,
        log,
        durable_to,
        watch: Seen { asked, acked },
        ..
    } = life;
    // As it would be written in this very moment.
    let checkpoint = case.with_checkpoint.then(|| log.checkpoint());
    drop(log);
    disk.power_cut();
    let mut log = open(&mut disk, spec(kind, 2, checkpoint), options(2))?;
    let (start, end) = (log.log_start_offset(), log.log_end_offset());
    if start < acked {
        return Err(format!("the log starts at {start}, {acked} was durable"));
    }
    if start != Offset(0) && !asked.iter().any(|(_, asked)| *asked == start) {
        return Err(format!("nobody asked for a log start of {start}"));
    }
    if end < durable_to || start > end {
        return Err(format!(
            "{start}..{end} is left, records up to {durable_to} were durable"
        ));
    }
    all_is_served(&mut log, &mut disk)?;
    let last = end.0 as i32 - 1;
    if end.0 > 0 && (!is_known(&log, PRODUCER, last) || i64::from(sent) < end.0) {
        return Err("the producer's last batch is not known".to_owned());
    }
    // What an open found is answered as durable from then on: no checkpoint is needed for it.
    drop(log);
    disk.power_cut();
    let again = open(&mut disk, spec(kind, 3, None), options(3))?.log_start_offset();
    match again == start {
        true => Ok(()),
        false => Err(format!("the log starts at {again}, it was served from {start}")),
    }
}

fn kind(case: Case) -> Kind {
    Kind {
        segment_bytes: 24 << 10,
        durability: case.durability,
    }
}

fn options(incarnation_seed: u64) -> RecoveryOptions {
    RecoveryOptions {
        incarnation_seed: Some(incarnation_seed),
        ..RecoveryOptions::default()
    }
}

fn run(case: Case) -> Run {
    let mut disk = disk(case.seed, case.fdatasync_is_noop);
    let log = open(&mut disk, spec(kind(case), 1, None), options(1)).unwrap();
    let mut life = Life::new(disk, log, case.cut_after, Seen::default());
    let (verdict, ended) = match script(&mut life) {
        Ok(()) => (judge(case, life), true),
        Err(End::Cut) => (judge(case, life), false),
        Err(End::Wrong(error)) => (Err(error), true),
    };
    Run { verdict, ended }
}

fn cut(case: Case) -> (Result<(), String>, usize) {
    let (verdict, cuts) = cut_everywhere(|cut_after| run(Case { cut_after, ..case }));
    (verdict.map_err(|error| format!("{case:?}: {error}")), cuts)
}

const SOUND: Case = Case {
    seed: 0,
    cut_after: 0,
    durability: Durability::Fsync,
    with_checkpoint: false,
    fdatasync_is_noop: false,
};

#[test]
fn a_durable_log_start_survives_a_cut_after_each_step() {
    let seeds = Seeds::asked(10);
    let mut cuts = 0;
    for seed in seeds.range() {
        for durability in [Durability::Fsync, Durability::Os] {
            for with_checkpoint in [false, true] {
                let (verdict, count) = cut(Case {
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
    assert!(cuts > 4 * 40 * seeds.count(), "{cuts} cuts");
}

#[test]
fn without_fdatasync_a_log_start_is_lost() {
    let failure = Seeds::asked(10).range().find_map(|seed| {
        let case = Case {
            seed,
            fdatasync_is_noop: true,
            ..SOUND
        };
        cut(case).0.err()
    });
    assert!(failure.is_some(), "a disk that does not sync must be found out");
}
