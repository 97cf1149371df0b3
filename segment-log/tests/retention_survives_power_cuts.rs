//! The promise: retention takes whole segments from the front and nothing else. Wherever a power cut falls,
//! the log starts where it was seen to start or at a later start that was asked for, every record from there
//! on is there, nothing counts as damaged, producers stay known, and the files go in the end.
//!
//! The power is cut after each step of the disk. `TIDELOG_SIM_SEEDS` sets the number of seeds (1). The tests
//! at the end show that the oracle finds each fault that is planted in the removal.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::path::{Path, PathBuf};

use bytes::Bytes;
use tidelog_segment_log::batch::BatchHeader;
use tidelog_segment_log::batch::testing::{BatchSpec, build_batch};
use tidelog_segment_log::checkpoint::PartitionCheckpoint;
use tidelog_segment_log::disk::sim::{SimConfig, SimDisk, SimFaults};
use tidelog_segment_log::disk::{Disk, DiskOp, DiskOutput, ReadSource, Token};
use tidelog_segment_log::ids::{Offset, PartitionKey, TopicId};
use tidelog_segment_log::log::{
    Durability, LogConfig, OpenProgress, OpenSpec, Opening, PartitionLog, ReadPart, RemovalBug,
    RetentionLimits, SpareBudget, verify_cold,
};
use tidelog_segment_log::producer_state::SequenceCheck;
use tidelog_segment_log::recovery::RecoveryOptions;

const DIRECTORY: &str = "/sim/partition";
/// Writes first, and never again.
const EARLY: i64 = 4;
const EARLY_BATCHES: i32 = 12;
/// Writes all that follows.
const LATE: i64 = 5;
const HOUR_MS: i64 = 3_600_000;

fn seeds() -> u64 {
    let asked = std::env::var("TIDELOG_SIM_SEEDS").ok();
    asked.and_then(|asked| asked.parse().ok()).unwrap_or(1)
}

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

/// Room for all spares that these scripts make, however short.
fn spares(case: Case) -> Option<SpareBudget> {
    case.recycles.then(|| SpareBudget::of_files_from(8_192, 64 << 20))
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

fn spec(case: Case, starts: u64, checkpoint: Option<PartitionCheckpoint>) -> OpenSpec {
    OpenSpec {
        directory: PathBuf::from(DIRECTORY),
        key: PartitionKey {
            topic: TopicId([5; 16]),
            partition: 1,
        },
        config: LogConfig {
            segment_bytes: 20 << 10,
            segment_ms: i64::MAX,
            durability: case.durability,
        },
        token_space: 7,
        checkpoint,
        clean: false,
        start_counter: starts,
        created: starts == 1,
    }
}

fn open(disk: &mut SimDisk, spec: OpenSpec, options: RecoveryOptions) -> Result<Box<PartitionLog>, String> {
    let mut opening = Opening::with_options(spec, options);
    let mut completions = Vec::new();
    loop {
        match opening.step(1, disk, std::mem::take(&mut completions)) {
            OpenProgress::Ready(mut log, report) => {
                log.confirm_term();
                return match report.quarantined.is_empty() {
                    true => Ok(log),
                    false => Err(format!("what was removed counts as damaged: {report:?}")),
                };
            }
            OpenProgress::Failed(error) => return Err(error.to_string()),
            OpenProgress::Pending => {
                disk.advance();
                disk.take_completions(&mut completions);
            }
        }
    }
}

fn batch(producer: i64, sequence: i32, timestamp_ms: i64) -> Bytes {
    let value = vec![sequence as u8; 1_500];
    let spec = BatchSpec {
        producer_id: producer,
        producer_epoch: 0,
        base_sequence: sequence,
        timestamp_ms,
        ..BatchSpec::default()
    };
    Bytes::from(build_batch(&spec, &[value.as_slice()]))
}

/// A life of the log that ends after `left` steps of the disk.
struct Life {
    case: Case,
    disk: SimDisk,
    log: Box<PartitionLog>,
    left: usize,
    now_ms: i64,
    early: i32,
    late: i32,
    durable_to: Offset,
    /// Log starts that were in force at some time.
    seen: Vec<Offset>,
    /// The log start that a checkpoint would have carried.
    start_durable: Offset,
    older: Option<PartitionCheckpoint>,
    starts: u64,
    removed: u64,
    spares: Option<SpareBudget>,
}

/// Why a life ended.
enum End {
    Cut,
    Wrong(String),
}

impl Life {
    fn step(&mut self) -> Result<(), End> {
        if self.left == 0 {
            return Err(End::Cut);
        }
        self.left -= 1;
        self.disk.advance();
        let mut completions = Vec::new();
        self.disk.take_completions(&mut completions);
        for completion in completions {
            self.log.on_completion(self.now_ms, &mut self.disk, completion);
        }
        self.look();
        Ok(())
    }

    fn look(&mut self) {
        self.durable_to = self.durable_to.max(self.log.durable_offset());
        self.seen.push(self.log.log_start_offset());
        self.start_durable = self.start_durable.max(self.log.checkpoint().log_start);
        self.removed += self.log.take_removed().segments;
    }

    fn append(&mut self, producer: i64, count: i32) -> Result<(), End> {
        for _ in 0..count {
            let sequence = if producer == EARLY {
                &mut self.early
            } else {
                &mut self.late
            };
            self.now_ms += 10;
            let batch = batch(producer, *sequence, self.now_ms);
            *sequence += 1;
            self.log.append(self.now_ms, &mut self.disk, &batch).unwrap();
            self.log.flush(self.now_ms, &mut self.disk);
            self.step()?;
        }
        Ok(())
    }

    /// Looks at the limits and removes until there is nothing more to do.
    fn retain(&mut self, limits: RetentionLimits) -> Result<(), End> {
        for _ in 0..4 {
            self.log.retain(self.now_ms, &mut self.disk, self.now_ms, limits);
            self.look();
            self.settle()?;
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), End> {
        loop {
            self.log.tick(self.now_ms, &mut self.disk);
            if !self.log.is_waiting_for_disk() {
                return Ok(());
            }
            self.step()?;
        }
    }

    /// The process ends and the log goes on in a file that does not begin with producers.
    fn reopen_in_new_file(&mut self) -> Result<(), End> {
        self.settle()?;
        let checkpoint = self.log.checkpoint();
        self.disk.process_kill();
        self.starts += 1;
        let options = RecoveryOptions {
            continue_in_new_file: true,
            ..self.options()
        };
        let spec = spec(self.case, self.starts, Some(checkpoint));
        self.log = open(&mut self.disk, spec, options).map_err(End::Wrong)?;
        Ok(())
    }

    fn options(&self) -> RecoveryOptions {
        RecoveryOptions {
            removal_bug: self.case.bug,
            incarnation_seed: Some(self.starts),
            spares: self.spares.clone(),
            ..RecoveryOptions::default()
        }
    }

    fn script(&mut self) -> Result<(), End> {
        let by_size = |size_bytes| RetentionLimits {
            size_bytes: Some(size_bytes),
            age_ms: None,
        };
        let by_age = RetentionLimits {
            size_bytes: None,
            age_ms: Some(HOUR_MS as u64),
        };
        self.append(EARLY, EARLY_BATCHES)?;
        self.append(LATE, 16)?;
        self.settle()?;
        self.older = Some(self.log.checkpoint());
        self.retain(by_size(30 << 10))?;
        self.append(LATE, 12)?;
        self.reopen_in_new_file()?;
        self.append(LATE, 3)?;
        self.retain(by_size(10 << 10))?;
        self.append(LATE, 14)?;
        for _ in 0..if self.case.recycles { 2 } else { 0 } {
            self.append(LATE, 14)?;
            self.retain(by_size(10 << 10))?;
        }
        // All of it is too old by now, the segment that takes appends too.
        self.now_ms += 2 * HOUR_MS;
        self.retain(by_age)?;
        self.append(LATE, 2)?;
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

/// Names in the partition's directory that end so.
fn names(disk: &mut SimDisk, suffix: &str) -> Vec<String> {
    let path = Path::new(DIRECTORY).to_path_buf();
    disk.submit(Token(1 << 60), DiskOp::List { path });
    let mut completions = Vec::new();
    while completions.is_empty() {
        disk.advance();
        disk.take_completions(&mut completions);
    }
    let Some(Ok(DiskOutput::Names(names))) = completions.pop().map(|completion| completion.result) else {
        panic!("the directory cannot be listed")
    };
    names.into_iter().filter(|name| name.ends_with(suffix)).collect()
}

fn is_known(log: &PartitionLog, producer: i64, last: i32) -> bool {
    let check = log.producers().check(producer, 0, last, last);
    matches!(check, SequenceCheck::Duplicate { .. })
}

/// What is wrong after the cut, if anything is.
fn judge(life: Life) -> Result<(), String> {
    let options = RecoveryOptions {
        incarnation_seed: Some(77),
        // Half of them start with spares that they find, and half remove them.
        spares: spares(life.case).filter(|_| life.case.cut_after.is_multiple_of(2)),
        ..RecoveryOptions::default()
    };
    let Life {
        case,
        mut disk,
        log,
        durable_to,
        seen,
        start_durable,
        older,
        starts,
        ..
    } = life;
    let checkpoint = match case.evidence {
        Evidence::None => None,
        Evidence::Older => older,
        Evidence::Newest => Some(log.checkpoint()),
    };
    drop(log);
    disk.power_cut();
    let mut log = open(&mut disk, spec(case, starts + 1, checkpoint), options.clone())?;
    let (start, end) = (log.log_start_offset(), log.log_end_offset());
    if start < start_durable {
        return Err(format!("the log starts at {start}, {start_durable} was durable"));
    }
    if start != Offset(0) && !seen.contains(&start) {
        return Err(format!("the log never started at {start}"));
    }
    if end < durable_to {
        return Err(format!(
            "the log ends at {end}, records up to {durable_to} were durable"
        ));
    }
    if read_offsets(&mut log, &mut disk) != (start.0..end.0).collect::<Vec<_>>() {
        return Err("a record at or above the log start is missing".to_owned());
    }
    let early_end = i64::from(EARLY_BATCHES);
    let early_last = end.0.min(early_end) as i32 - 1;
    if early_last >= 0 && !is_known(&log, EARLY, early_last) {
        return Err("the producer that wrote first is not known any more".to_owned());
    }
    if end.0 > early_end && !is_known(&log, LATE, (end.0 - early_end) as i32 - 1) {
        return Err("the producer that wrote last is not known".to_owned());
    }
    // What was begun is ended: no file stays behind, and another cut changes nothing.
    let mut completions = Vec::new();
    loop {
        log.tick(1, &mut disk);
        if !log.is_waiting_for_disk() {
            break;
        }
        disk.advance();
        disk.take_completions(&mut completions);
        for completion in completions.drain(..) {
            log.on_completion(1, &mut disk, completion);
        }
    }
    let files = names(&mut disk, ".log");
    if files.len() != log.segment_count() {
        return Err(format!("{} segments in {files:?}", log.segment_count()));
    }
    for index in names(&mut disk, ".index") {
        if !files.contains(&index.replace(".index", ".log")) {
            return Err(format!("{index} has no segment"));
        }
    }
    let kept = names(&mut disk, ".spare");
    if kept.len() != log.spare_count() {
        return Err(format!("{} spares in {kept:?}", log.spare_count()));
    }
    drop(log);
    disk.power_cut();
    let again = open(&mut disk, spec(case, starts + 2, None), options)?.log_start_offset();
    match again == start {
        true => Ok(()),
        false => Err(format!("the log starts at {again}, it was served from {start}")),
    }
}

/// Runs to the cut and judges: what is wrong, whether the script had ended, and what it removed, or of that made
/// segments again where it recycles.
fn run(case: Case) -> (Result<(), String>, bool, u64) {
    let mut disk = SimDisk::new(SimConfig {
        seed: case.seed,
        faults: SimFaults {
            would_stall_ppm: 300_000,
            ..SimFaults::default()
        },
        ..SimConfig::default()
    });
    let options = RecoveryOptions {
        removal_bug: case.bug,
        incarnation_seed: Some(1),
        spares: spares(case),
        ..RecoveryOptions::default()
    };
    let spares = options.spares.clone();
    let log = open(&mut disk, spec(case, 1, None), options).unwrap();
    let mut life = Life {
        case,
        disk,
        log,
        left: case.cut_after,
        now_ms: 1_000_000,
        early: 0,
        late: 0,
        durable_to: Offset(0),
        seen: Vec::new(),
        start_durable: Offset(0),
        older: None,
        starts: 1,
        removed: 0,
        spares: spares.clone(),
    };
    let end = life.script();
    let removed = match &spares {
        Some(spares) => spares.reused(),
        None => life.removed,
    };
    match end {
        Ok(()) => (judge(life), true, removed),
        Err(End::Cut) => (judge(life), false, removed),
        Err(End::Wrong(error)) => (Err(error), true, removed),
    }
}

/// Cuts after each step of the disk until the script ends: the first failure, the number of cuts, and how
/// many segments the whole script removes, or makes of spares where it recycles.
fn cut_everywhere(case: Case) -> (Option<String>, usize, u64) {
    for cut_after in 0.. {
        let case = Case { cut_after, ..case };
        let (verdict, ended, removed) = run(case);
        if let Err(error) = verdict {
            return (Some(format!("{case:?}: {error}")), cut_after, removed);
        }
        if ended {
            return (None, cut_after, removed);
        }
    }
    unreachable!("the script ends")
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
    let mut cuts = 0;
    for seed in 0..seeds() {
        for durability in [Durability::Fsync, Durability::Os] {
            for evidence in EVIDENCE {
                let (failure, count, removed) = cut_everywhere(Case {
                    seed,
                    durability,
                    evidence,
                    ..SOUND
                });
                assert_eq!(failure, None);
                assert!(removed >= 5, "the script removes {removed} segments");
                cuts += count;
            }
        }
    }
    assert!(cuts as u64 > 6 * 100 * seeds(), "{cuts} cuts");
}

fn is_found(bug: RemovalBug) -> bool {
    (0..10).any(|seed| {
        EVIDENCE.into_iter().any(|evidence| {
            let case = Case {
                seed,
                evidence,
                bug,
                ..SOUND
            };
            cut_everywhere(case).0.is_some()
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
    let mut cuts = 0;
    for seed in 0..seeds() {
        for evidence in EVIDENCE {
            let (failure, count, reused) = cut_everywhere(Case {
                seed,
                evidence,
                recycles: true,
                ..SOUND
            });
            assert_eq!(failure, None);
            assert!(reused >= 3, "the script makes {reused} segments of spares");
            cuts += count;
        }
    }
    assert!(cuts as u64 > 3 * 100 * seeds(), "{cuts} cuts");
}

#[test]
fn files_that_are_recycled_before_they_have_their_names_are_found() {
    let found = (0..10).any(|seed| {
        let case = Case {
            seed,
            bug: RemovalBug::RecycleUnnamed,
            recycles: true,
            ..SOUND
        };
        cut_everywhere(case).0.is_some()
    });
    assert!(found);
}
