//! The promise: a log start whose entry was durable is there after a power cut, wherever it falls; one
//! that was not may be there or not; no record at or above the start is lost; producers stay known.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::path::PathBuf;

use bytes::Bytes;
use tidelog_segment_log::batch::BatchHeader;
use tidelog_segment_log::batch::testing::{BatchSpec, build_batch};
use tidelog_segment_log::checkpoint::PartitionCheckpoint;
use tidelog_segment_log::disk::sim::{SimConfig, SimDisk, SimFaults};
use tidelog_segment_log::disk::{Disk, ReadSource};
use tidelog_segment_log::ids::{EntryIndex, Offset, PartitionKey, TopicId};
use tidelog_segment_log::log::{
    Durability, LogConfig, OpenProgress, OpenSpec, Opening, PartitionLog, ReadPart, verify_cold,
};
use tidelog_segment_log::producer_state::SequenceCheck;

const SEEDS: u64 = 10;
const PRODUCER: i64 = 4;

fn spec(durability: Durability, starts: u64, checkpoint: Option<PartitionCheckpoint>) -> OpenSpec {
    OpenSpec {
        directory: PathBuf::from("/sim/partition"),
        key: PartitionKey {
            topic: TopicId([5; 16]),
            partition: 1,
        },
        config: LogConfig {
            segment_bytes: 24 << 10,
            segment_ms: 1_000_000,
            durability,
        },
        token_space: 7,
        checkpoint,
        clean: false,
        start_counter: starts,
        created: starts == 1,
    }
}

fn open(disk: &mut SimDisk, spec: OpenSpec) -> Box<PartitionLog> {
    let mut opening = Opening::new(spec);
    let mut completions = Vec::new();
    loop {
        match opening.step(1, disk, std::mem::take(&mut completions)) {
            OpenProgress::Ready(mut log, report) => {
                assert!(report.quarantined.is_empty(), "{report:?}");
                log.confirm_term();
                return log;
            }
            OpenProgress::Failed(error) => panic!("{error}"),
            OpenProgress::Pending => {
                disk.advance();
                disk.take_completions(&mut completions);
            }
        }
    }
}

fn batch(sequence: i32) -> Bytes {
    let value = vec![sequence as u8; 1_500];
    let spec = BatchSpec {
        producer_id: PRODUCER,
        producer_epoch: 0,
        base_sequence: sequence,
        timestamp_ms: 1_000 + i64::from(sequence),
        ..BatchSpec::default()
    };
    Bytes::from(build_batch(&spec, &[value.as_slice()]))
}

/// A life of the log that ends after `left` steps of the disk.
struct Life {
    disk: SimDisk,
    log: Box<PartitionLog>,
    left: usize,
    sent: i32,
    durable_to: Offset,
    asked: Vec<(EntryIndex, Offset)>,
    /// The log start that was seen to be durable.
    acked: Offset,
}

/// The power is cut.
struct Cut;

impl Life {
    fn step(&mut self) -> Result<(), Cut> {
        if self.left == 0 {
            return Err(Cut);
        }
        self.left -= 1;
        self.disk.advance();
        let mut completions = Vec::new();
        self.disk.take_completions(&mut completions);
        for completion in completions {
            self.log.on_completion(1, &mut self.disk, completion);
        }
        self.durable_to = self.durable_to.max(self.log.durable_offset());
        let durable = self.log.durable_index();
        for (index, start) in &self.asked {
            if *index <= durable {
                self.acked = self.acked.max(*start);
            }
        }
        Ok(())
    }

    fn append(&mut self, count: i32) -> Result<(), Cut> {
        for _ in 0..count {
            self.log.append(1, &mut self.disk, &batch(self.sent)).unwrap();
            self.sent += 1;
            self.log.flush(1, &mut self.disk);
            self.step()?;
        }
        Ok(())
    }

    fn delete_to(&mut self, start: i64) -> Result<(), Cut> {
        while self.log.high_watermark().0 < start {
            self.log.flush(1, &mut self.disk);
            self.step()?;
        }
        let index = self
            .log
            .append_log_start(1, &mut self.disk, Offset(start))
            .unwrap();
        self.asked.push((index, Offset(start)));
        self.step()
    }

    fn settle(&mut self) -> Result<(), Cut> {
        loop {
            self.log.flush(1, &mut self.disk);
            if !self.log.is_waiting_for_disk() {
                return Ok(());
            }
            self.step()?;
        }
    }

    /// Starts behind each other in one commit, over rolls, and up to the very end.
    fn script(&mut self) -> Result<(), Cut> {
        self.append(6)?;
        self.delete_to(3)?;
        self.append(2)?;
        self.delete_to(4)?;
        self.delete_to(6)?;
        self.settle()?;
        self.append(20)?;
        self.delete_to(15)?;
        self.append(6)?;
        self.settle()?;
        self.delete_to(34)?;
        self.settle()
    }
}

fn read_offsets(log: &mut PartitionLog, disk: &mut SimDisk) -> Vec<i64> {
    let mut offsets = Vec::new();
    let (mut at, end) = (log.log_start_offset(), log.log_end_offset());
    while at < end {
        let plan = log.read(disk, at, end, 1).unwrap();
        for part in plan.parts {
            let batches: Vec<Vec<u8>> = match part {
                ReadPart::Hot(pieces) => pieces.iter().map(|piece| piece.to_vec()).collect(),
                ReadPart::Cold(range) => {
                    let file = disk.snapshot(range.file.path(), ReadSource::Cached).unwrap();
                    let bytes = &file[range.position.start as usize..range.position.end as usize];
                    let found = verify_cold(&range, bytes).unwrap();
                    found.into_iter().map(|at| bytes[at].to_vec()).collect()
                }
            };
            for stored in batches {
                let header = BatchHeader::parse(&stored).unwrap();
                offsets.push(header.base_offset.0);
                at = Offset(header.last_offset().0 + 1);
            }
        }
    }
    offsets
}

#[derive(Clone, Copy, Debug)]
struct Case {
    seed: u64,
    cut_after: usize,
    durability: Durability,
    with_checkpoint: bool,
    fdatasync_is_noop: bool,
}

/// Runs to the cut and opens again: what is wrong then, and whether the script had ended before.
fn run(case: Case) -> (Result<(), String>, bool) {
    let mut disk = SimDisk::new(SimConfig {
        seed: case.seed,
        faults: SimFaults {
            would_stall_ppm: 300_000,
            ..SimFaults::default()
        },
        fdatasync_is_noop: case.fdatasync_is_noop,
        ..SimConfig::default()
    });
    let log = open(&mut disk, spec(case.durability, 1, None));
    let mut life = Life {
        disk,
        log,
        left: case.cut_after,
        sent: 0,
        durable_to: Offset(0),
        asked: Vec::new(),
        acked: Offset(0),
    };
    let ended = life.script().is_ok();
    let Life {
        mut disk,
        log,
        sent,
        durable_to,
        asked,
        acked,
        ..
    } = life;
    // As it would be written in this very moment.
    let checkpoint = case.with_checkpoint.then(|| log.checkpoint());
    drop(log);
    disk.power_cut();
    let mut log = open(&mut disk, spec(case.durability, 2, checkpoint));
    let (start, end) = (log.log_start_offset(), log.log_end_offset());
    let may_be = start == Offset(0) || asked.iter().any(|(_, asked)| *asked == start);
    let verdict = if start < acked {
        Err(format!("the log starts at {start}, {acked} was durable"))
    } else if !may_be {
        Err(format!("nobody asked for a log start of {start}"))
    } else if end < durable_to || start > end {
        Err(format!(
            "{start}..{end} is left, records up to {durable_to} were durable"
        ))
    } else if read_offsets(&mut log, &mut disk) != (start.0..end.0).collect::<Vec<_>>() {
        Err("a record at or above the log start is missing".to_owned())
    } else if end.0 > 0 && {
        let last = end.0 as i32 - 1;
        let check = log.producers().check(PRODUCER, 0, last, last);
        !matches!(check, SequenceCheck::Duplicate { .. }) || i64::from(sent) < end.0
    } {
        Err("the producer's last batch is not known".to_owned())
    } else {
        // What an open found is answered as durable from then on: no checkpoint is needed for it.
        drop(log);
        disk.power_cut();
        let again = open(&mut disk, spec(case.durability, 3, None)).log_start_offset();
        match again == start {
            true => Ok(()),
            false => Err(format!("the log starts at {again}, it was served from {start}")),
        }
    };
    (verdict, ended)
}

/// Cuts after each step of the disk until the script ends; the first failure, and the number of cuts.
fn cut_everywhere(case: Case) -> (Option<String>, usize) {
    for cut_after in 0.. {
        let (verdict, ended) = run(Case { cut_after, ..case });
        if let Err(error) = verdict {
            return (
                Some(format!("{case:?}, cut after {cut_after}: {error}")),
                cut_after,
            );
        }
        if ended {
            return (None, cut_after);
        }
    }
    unreachable!("the script ends")
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
    let mut cuts = 0;
    for seed in 0..SEEDS {
        for durability in [Durability::Fsync, Durability::Os] {
            for with_checkpoint in [false, true] {
                let (failure, count) = cut_everywhere(Case {
                    seed,
                    durability,
                    with_checkpoint,
                    ..SOUND
                });
                assert_eq!(failure, None);
                cuts += count;
            }
        }
    }
    assert!(cuts > 4 * 40 * SEEDS as usize, "{cuts} cuts");
}

#[test]
fn without_fdatasync_a_log_start_is_lost() {
    let failure = (0..SEEDS).find_map(|seed| {
        let case = Case {
            seed,
            fdatasync_is_noop: true,
            ..SOUND
        };
        cut_everywhere(case).0
    });
    assert!(failure.is_some(), "a disk that does not sync must be found out");
}
