//! The promise: a truncation removes what lies behind it and nothing else. Wherever a power cut falls, the log is
//! the one before the cut or the one after it, never something in between; nothing counts as damaged; no epoch
//! is used again for an offset that was cut; and producers are as the records that are left say.
//!
//! The power is cut after each step of the disk. `TIDELOG_SIM_SEEDS` sets the number of seeds (1). The tests at the
//! end show that the oracle finds each fault that is planted.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::path::PathBuf;

use bytes::Bytes;
use tidelog_segment_log::batch::BatchHeader;
use tidelog_segment_log::batch::testing::{BatchSpec, build_batch};
use tidelog_segment_log::checkpoint::PartitionCheckpoint;
use tidelog_segment_log::disk::sim::{SimConfig, SimDisk, SimFaults};
use tidelog_segment_log::disk::{Disk, ReadSource};
use tidelog_segment_log::ids::{LeaderEpoch, Offset, PartitionKey, TopicId};
use tidelog_segment_log::log::{
    CloseProgress, Durability, LogConfig, OpenError, OpenProgress, OpenSpec, Opening, PartitionLog, ReadPart,
    Truncation, verify_cold,
};
use tidelog_segment_log::producer_state::SequenceCheck;
use tidelog_segment_log::recovery::{RecoveryBug, RecoveryOptions, RecoveryReport};

const DIRECTORY: &str = "/sim/partition";
const PRODUCER: i64 = 4;
const NOW_MS: i64 = 1_000_000;

fn seeds() -> u64 {
    let asked = std::env::var("TIDELOG_SIM_SEEDS").ok();
    asked.and_then(|asked| asked.parse().ok()).unwrap_or(1)
}

/// The checkpoint that the open after the cut is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Evidence {
    None,
    /// One from before the first truncation.
    Older,
    /// The last one that could have been written.
    Newest,
}

const EVIDENCE: [Evidence; 3] = [Evidence::None, Evidence::Older, Evidence::Newest];

#[derive(Clone, Copy, Debug)]
struct Case {
    seed: u64,
    cut_after: usize,
    evidence: Evidence,
    bug: RecoveryBug,
}

const SOUND: Case = Case {
    seed: 0,
    cut_after: 0,
    evidence: Evidence::None,
    bug: RecoveryBug::None,
};

/// A record as it was appended: under which epoch, and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    epoch: LeaderEpoch,
    value: u32,
}

fn spec(starts: u64, checkpoint: Option<PartitionCheckpoint>, clean: bool) -> OpenSpec {
    OpenSpec {
        directory: PathBuf::from(DIRECTORY),
        key: PartitionKey {
            topic: TopicId([5; 16]),
            partition: 1,
        },
        config: LogConfig {
            segment_bytes: 20 << 10,
            segment_ms: i64::MAX,
            durability: Durability::Fsync,
        },
        token_space: 7,
        checkpoint,
        clean,
        start_counter: starts,
        created: starts == 1,
    }
}

fn batch(sequence: i32, value: u32) -> Bytes {
    let mut text = vec![0; 1_500];
    text[..4].copy_from_slice(&value.to_le_bytes());
    let spec = BatchSpec {
        producer_id: PRODUCER,
        producer_epoch: 0,
        base_sequence: sequence,
        timestamp_ms: NOW_MS,
        ..BatchSpec::default()
    };
    Bytes::from(build_batch(&spec, &[text.as_slice()]))
}

/// Why a life ended.
#[derive(Debug)]
enum End {
    Cut,
    Wrong(String),
}

/// Lets the opening get on, as long as the power is on.
fn finish(
    mut opening: Opening,
    disk: &mut SimDisk,
    left: &mut usize,
) -> Result<(Box<PartitionLog>, RecoveryReport), End> {
    let mut completions = Vec::new();
    loop {
        match opening.step(NOW_MS, disk, std::mem::take(&mut completions)) {
            OpenProgress::Ready(log, report) if report.quarantined.is_empty() => return Ok((log, report)),
            OpenProgress::Ready(_, report) => return Err(End::Wrong(format!("damage: {report:?}"))),
            OpenProgress::Failed(error) => return Err(End::Wrong(error.to_string())),
            OpenProgress::Pending => {
                if *left == 0 {
                    return Err(End::Cut);
                }
                *left -= 1;
                disk.advance();
                disk.take_completions(&mut completions);
            }
        }
    }
}

/// A life of the log that ends after `left` steps of the disk.
struct Life {
    case: Case,
    disk: SimDisk,
    log: Option<Box<PartitionLog>>,
    left: usize,
    starts: u64,
    next_value: u32,
    /// All that was appended, by offset.
    records: Vec<Record>,
    /// What a truncation under way would leave.
    cutting_to: Option<usize>,
    durable: usize,
    start_durable: Offset,
    /// Every epoch under which anything was ever appended, with the offset.
    used: Vec<(LeaderEpoch, Offset, u32)>,
    older: Option<PartitionCheckpoint>,
    newest: Option<PartitionCheckpoint>,
    cuts: usize,
}

impl Life {
    fn log(&mut self) -> (&mut PartitionLog, &mut SimDisk) {
        (self.log.as_mut().unwrap(), &mut self.disk)
    }

    fn step(&mut self) -> Result<(), End> {
        if self.left == 0 {
            return Err(End::Cut);
        }
        self.left -= 1;
        self.disk.advance();
        let mut completions = Vec::new();
        self.disk.take_completions(&mut completions);
        let (log, disk) = self.log();
        for completion in completions {
            log.on_completion(NOW_MS, disk, completion);
        }
        self.look();
        Ok(())
    }

    fn look(&mut self) {
        let (log, _) = self.log();
        let (durable, checkpoint) = (log.durable_offset().0 as usize, log.checkpoint());
        self.durable = self.durable.max(durable);
        self.start_durable = self.start_durable.max(checkpoint.log_start);
        self.newest = Some(checkpoint);
    }

    fn append(&mut self, count: usize) -> Result<(), End> {
        for _ in 0..count {
            let value = self.next_value;
            self.next_value += 1;
            let sequence = self.records.len() as i32;
            let (log, disk) = self.log();
            log.tick(NOW_MS, disk);
            let epoch = log.leader_epoch();
            let appended = log.append(NOW_MS, disk, &batch(sequence, value)).unwrap();
            log.flush(NOW_MS, disk);
            assert_eq!(appended.base_offset.0 as usize, self.records.len());
            self.used.push((epoch, appended.base_offset, value));
            self.records.push(Record { epoch, value });
            self.step()?;
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), End> {
        loop {
            let (log, disk) = self.log();
            log.tick(NOW_MS, disk);
            if !log.is_waiting_for_disk() {
                return Ok(());
            }
            self.step()?;
        }
    }

    fn close(&mut self) -> Result<PartitionCheckpoint, End> {
        loop {
            let (log, disk) = self.log();
            match log.close(NOW_MS, disk) {
                CloseProgress::Closed(checkpoint) => {
                    self.look();
                    self.log = None;
                    return Ok(*checkpoint);
                }
                CloseProgress::Pending => self.step()?,
                CloseProgress::Fenced => return Err(End::Wrong("fenced".to_owned())),
            }
        }
    }

    fn options(&self) -> RecoveryOptions {
        RecoveryOptions {
            bug: self.case.bug,
            incarnation_seed: Some(self.starts),
            index_part_bytes: Some(5_000),
            ..RecoveryOptions::default()
        }
    }

    /// Cuts so that `kept` records stay, by naming the epoch of the last of them and `end_offset`.
    fn truncate(&mut self, kept: usize, end_offset: usize) -> Result<(), End> {
        let checkpoint = self.close()?;
        let epoch = self.records[..kept]
            .last()
            .map_or(LeaderEpoch(0), |last| last.epoch);
        let to = Truncation {
            epoch,
            end_offset: Offset(end_offset as i64),
        };
        self.cutting_to = Some(kept);
        self.starts += 1;
        let spec = spec(self.starts, Some(checkpoint), true);
        let opening = Opening::truncating(spec, self.options(), Some(to));
        let (mut log, report) = finish(opening, &mut self.disk, &mut self.left)?;
        if log.log_end_offset().0 as usize != kept || report.truncated != Some(log.log_end_offset()) {
            return Err(End::Wrong(format!("cut to {}: {report:?}", log.log_end_offset())));
        }
        log.confirm_term();
        self.log = Some(log);
        self.records.truncate(kept);
        self.durable = kept;
        self.cutting_to = None;
        self.cuts += 1;
        self.look();
        self.expect_all()
    }

    /// A clean shutdown and start, as at the end of a process.
    fn restart(&mut self) -> Result<(), End> {
        let checkpoint = self.close()?;
        self.starts += 1;
        let opening = Opening::with_options(spec(self.starts, Some(checkpoint), true), self.options());
        let (log, report) = finish(opening, &mut self.disk, &mut self.left)?;
        if !report.clean {
            return Err(End::Wrong(format!("a clean start is not: {report:?}")));
        }
        self.log = Some(log);
        self.expect_all()
    }

    fn expect_all(&mut self) -> Result<(), End> {
        let records = self.records.clone();
        let (log, disk) = self.log();
        let start = log.log_start_offset().0 as usize;
        match read(log, disk) == records[start..] {
            true => Ok(()),
            false => Err(End::Wrong("what is read is not what was appended".to_owned())),
        }
    }

    fn script(&mut self) -> Result<(), End> {
        self.append(30)?;
        self.settle()?;
        self.older = self.newest.clone();
        // Inside the second of three segments, and the last one goes.
        self.truncate(17, 17)?;
        self.append(16)?;
        self.settle()?;
        self.restart()?;
        self.append(2)?;
        // By the epoch alone: all that was written since the first cut.
        self.truncate(17, 1_000)?;
        // Nothing was written since.
        self.append(20)?;
        let (log, disk) = self.log();
        log.append_log_start(NOW_MS, disk, Offset(5)).unwrap();
        log.flush(NOW_MS, disk);
        self.settle()?;
        // Behind the log start, whose entry goes with the rest.
        self.truncate(8, 8)?;
        self.append(3)?;
        self.restart()?;
        // Where a segment begins, and then everything.
        self.truncate(8, 8)?;
        self.truncate(5, 5)?;
        self.append(14)?;
        self.settle()
    }
}

/// What is served, from the log start on.
fn read(log: &mut PartitionLog, disk: &mut SimDisk) -> Vec<Record> {
    let mut records = Vec::new();
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
                assert_eq!(header.base_offset, at, "one record in each batch, without gaps");
                records.push(Record {
                    epoch: header.partition_leader_epoch,
                    value: value_of(&stored),
                });
                at = Offset(header.last_offset().0 + 1);
            }
        }
    }
    records
}

/// The number at the head of the one record's value.
fn value_of(stored: &[u8]) -> u32 {
    // The value is the last 1,500 bytes before the one byte that says there are no headers.
    let value = &stored[stored.len() - 1_501..];
    u32::from_le_bytes(value[..4].try_into().unwrap())
}

fn is_known(log: &PartitionLog, sequence: i32) -> bool {
    let check = log.producers().check(PRODUCER, 0, sequence, sequence);
    matches!(check, SequenceCheck::Duplicate { .. })
}

/// What is wrong after the cut of power, if anything is.
fn judge(mut life: Life) -> Result<(), String> {
    let text = |end: End| match end {
        End::Cut => "the power is on".to_owned(),
        End::Wrong(what) => what,
    };
    let checkpoint = match life.case.evidence {
        Evidence::None => None,
        Evidence::Older => life.older.clone(),
        Evidence::Newest => life.newest.clone(),
    };
    life.log = None;
    life.disk.power_cut();
    life.left = usize::MAX;
    life.starts += 1;
    let options = RecoveryOptions {
        // Written in the first start: in a later one the raised epoch was made durable by another.
        checkpoint_is_old: life.case.evidence == Evidence::Older && life.starts > 2,
        ..life.options()
    };
    let opening = Opening::with_options(spec(life.starts, checkpoint, false), options);
    let (mut log, _) = finish(opening, &mut life.disk, &mut life.left).map_err(text)?;
    let (start, end) = (log.log_start_offset(), log.log_end_offset().0 as usize);
    let whole = end >= life.durable && end <= life.records.len();
    let cut = life.cutting_to == Some(end);
    if !whole && !cut {
        return Err(format!(
            "the log ends at {end}: {} of {} are durable, cutting to {:?}",
            life.durable,
            life.records.len(),
            life.cutting_to
        ));
    }
    if start < life.start_durable {
        return Err(format!(
            "the log starts at {start}, {} was durable",
            life.start_durable
        ));
    }
    let expected = &life.records[start.0 as usize..end];
    let found = read(&mut log, &mut life.disk);
    if found != expected {
        return Err(format!("{found:?} is served, not {expected:?}"));
    }
    if end > 0 && !is_known(&log, end as i32 - 1) {
        return Err("the producer's last record is not known".to_owned());
    }
    if is_known(&log, end as i32) {
        return Err("a record of the producer is known that is not there".to_owned());
    }
    let epoch = log.leader_epoch();
    if life
        .used
        .iter()
        .any(|(used, offset, _)| *used >= epoch && offset.0 as usize >= end)
    {
        return Err(format!("epoch {epoch} is used again"));
    }
    // It takes records, and says the same once more after a clean start.
    log.confirm_term();
    life.log = Some(log);
    life.records.truncate(end);
    life.durable = end;
    life.append(2).map_err(text)?;
    life.restart().map_err(text)
}

/// Runs to the cut of power and judges: what is wrong, and whether the script had ended.
fn run(case: Case) -> (Result<(), String>, bool, usize) {
    let disk = SimDisk::new(SimConfig {
        seed: case.seed,
        faults: SimFaults {
            would_stall_ppm: 300_000,
            ..SimFaults::default()
        },
        ..SimConfig::default()
    });
    let mut life = Life {
        case,
        disk,
        log: None,
        left: usize::MAX,
        starts: 1,
        next_value: 1,
        records: Vec::new(),
        cutting_to: None,
        durable: 0,
        start_durable: Offset(0),
        used: Vec::new(),
        older: None,
        newest: None,
        cuts: 0,
    };
    let opening = Opening::with_options(spec(1, None, false), life.options());
    let (log, _) = finish(opening, &mut life.disk, &mut life.left).unwrap();
    life.log = Some(log);
    life.left = case.cut_after;
    let end = life.script();
    let cuts = life.cuts;
    match end {
        Ok(()) => (judge(life), true, cuts),
        Err(End::Cut) => (judge(life), false, cuts),
        Err(End::Wrong(error)) => (Err(error), true, cuts),
    }
}

/// Cuts after each step of the disk until the script ends: the first failure, and the number of cuts.
fn cut_everywhere(case: Case) -> (Option<String>, usize) {
    for cut_after in 0.. {
        let case = Case { cut_after, ..case };
        let (verdict, ended, cuts) = run(case);
        if let Err(error) = verdict {
            return (Some(format!("{case:?}: {error}")), cut_after);
        }
        if ended {
            assert_eq!(cuts, 5, "the script cuts the log");
            return (None, cut_after);
        }
    }
    unreachable!("the script ends")
}

#[test]
fn a_cut_after_each_step_of_a_truncation_leaves_the_log_before_or_after_it() {
    let mut cuts = 0;
    for seed in 0..seeds() {
        for evidence in EVIDENCE {
            let (failure, count) = cut_everywhere(Case {
                seed,
                evidence,
                ..SOUND
            });
            assert_eq!(failure, None);
            cuts += count;
        }
    }
    assert!(cuts as u64 > 3 * 200 * seeds(), "{cuts} cuts");
}

fn is_found(bug: RecoveryBug) -> bool {
    EVIDENCE.into_iter().any(|evidence| {
        let case = Case {
            evidence,
            bug,
            ..SOUND
        };
        cut_everywhere(case).0.is_some()
    })
}

#[test]
fn an_open_that_ignores_truncations_is_found() {
    assert!(is_found(RecoveryBug::IgnoreTruncations));
}

#[test]
fn files_that_go_before_the_cut_is_durable_are_found() {
    assert!(is_found(RecoveryBug::RemoveBeforeCut));
}

fn opened(disk: &mut SimDisk, spec: OpenSpec, to: Option<Truncation>) -> Result<PartitionLog, OpenError> {
    let mut opening = Opening::truncating(spec, RecoveryOptions::default(), to);
    let mut completions = Vec::new();
    loop {
        match opening.step(NOW_MS, disk, std::mem::take(&mut completions)) {
            OpenProgress::Ready(log, _) => return Ok(*log),
            OpenProgress::Failed(error) => return Err(error),
            OpenProgress::Pending => {
                disk.advance();
                disk.take_completions(&mut completions);
            }
        }
    }
}

#[test]
fn a_truncation_below_the_log_start_is_refused_and_one_that_cuts_nothing_changes_nothing() {
    let mut disk = SimDisk::new(SimConfig::default());
    let log = opened(&mut disk, spec(1, None, false), None).unwrap();
    let mut life = Life {
        case: SOUND,
        disk,
        log: Some(Box::new(log)),
        left: usize::MAX,
        starts: 1,
        next_value: 1,
        records: Vec::new(),
        cutting_to: None,
        durable: 0,
        start_durable: Offset(0),
        used: Vec::new(),
        older: None,
        newest: None,
        cuts: 0,
    };
    life.append(10).unwrap();
    life.settle().unwrap();
    let (log, disk) = life.log();
    log.append_log_start(NOW_MS, disk, Offset(6)).unwrap();
    let checkpoint = life.close().unwrap();
    let to = |end_offset| {
        Some(Truncation {
            epoch: LeaderEpoch(0),
            end_offset: Offset(end_offset),
        })
    };
    let refused = opened(&mut life.disk, spec(2, Some(checkpoint.clone()), true), to(5));
    assert!(matches!(
        refused.unwrap_err(),
        OpenError::CutBelowLogStart {
            end_offset: Offset(5),
            log_start: Offset(6)
        }
    ));
    let log = opened(&mut life.disk, spec(2, Some(checkpoint), true), to(10)).unwrap();
    assert_eq!(
        log.leader_epoch(),
        LeaderEpoch(0),
        "nothing was cut, so no epoch is used up"
    );
    assert_eq!(
        (log.log_start_offset(), log.log_end_offset()),
        (Offset(6), Offset(10))
    );
}
