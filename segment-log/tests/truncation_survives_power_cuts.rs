//! The promise: a truncation removes what lies behind it and nothing else. Wherever a power cut falls, the log is
//! the one before the cut or the one after it, never something in between; nothing counts as damaged; no epoch
//! is used again for an offset that was cut; and producers are as the records that are left say.
//!
//! The power is cut after each step of the disk. `TIDELOG_SIM_SEEDS` sets the number of seeds (1). The tests at the
//! end show that the oracle finds each fault that is planted.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod common;

use bytes::Bytes;
use common::disk::Stepping;
use common::power_cut::{self, End, Kind, Run, finish, is_known};
use common::seeds::Seeds;
use common::{batches, reads};
use tidelog_segment_log::batch::BatchHeader;
use tidelog_segment_log::checkpoint::PartitionCheckpoint;
use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::disk::sim::{SimConfig, SimDisk};
use tidelog_segment_log::ids::{LeaderEpoch, Offset};
use tidelog_segment_log::log::{
    CloseProgress, Durability, OpenError, OpenSpec, Opening, PartitionLog, RetentionLimits, Truncation,
    drive_open,
};
use tidelog_segment_log::recovery::{RecoveryBug, RecoveryOptions};

const PRODUCER: i64 = 4;
const NOW_MS: i64 = 1_000_000;

const KIND: Kind = Kind {
    segment_bytes: 20 << 10,
    durability: Durability::Fsync,
};

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
        clean,
        ..power_cut::spec(KIND, starts, checkpoint)
    }
}

fn batch(sequence: i32, value: u32) -> Bytes {
    let mut text = [0; 1_500];
    text[..4].copy_from_slice(&value.to_le_bytes());
    batches::sequenced(PRODUCER, sequence, NOW_MS, &[&text])
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
    fn new(case: Case, disk: SimDisk, log: Option<Box<PartitionLog>>) -> Self {
        Self {
            case,
            disk,
            log,
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
        }
    }

    fn log(&mut self) -> (&mut PartitionLog, &mut SimDisk) {
        (self.log.as_mut().unwrap(), &mut self.disk)
    }

    fn step(&mut self) -> Result<(), End> {
        self.left = self.left.checked_sub(1).ok_or(End::Cut)?;
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
        let (mut log, report) = finish(opening, NOW_MS, &mut self.disk, &mut self.left)?;
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
        let (log, report) = finish(opening, NOW_MS, &mut self.disk, &mut self.left)?;
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
        self.append(25)?;
        self.settle()?;
        // The first segment goes whole, and then the entry that says so.
        let (log, disk) = self.log();
        let segments = log.segment_count();
        let limits = RetentionLimits {
            age_ms: None,
            size_bytes: Some(12 << 10),
        };
        log.retain(NOW_MS, disk, NOW_MS, limits);
        self.settle()?;
        self.settle()?;
        assert!(self.log().0.segment_count() < segments);
        self.truncate(29, 29)?;
        self.append(3)?;
        self.settle()
    }
}

/// What is served, from the log start on: one record in each batch, without gaps.
fn read(log: &mut PartitionLog, disk: &mut SimDisk) -> Vec<Record> {
    let start = log.log_start_offset().0;
    let batches = reads::read_all(log, disk, 1).unwrap();
    let of = |((header, stored), at): ((BatchHeader, Bytes), i64)| {
        assert_eq!(
            (header.base_offset, header.last_offset()),
            (Offset(at), Offset(at))
        );
        Record {
            epoch: header.partition_leader_epoch,
            value: value_of(&stored),
        }
    };
    batches.into_iter().zip(start..).map(of).collect()
}

/// The number at the head of the one record's value.
fn value_of(stored: &[u8]) -> u32 {
    // The value is the last 1,500 bytes before the one byte that says there are no headers.
    let value = &stored[stored.len() - 1_501..];
    u32::from_le_bytes(value[..4].try_into().unwrap())
}

/// What is wrong after the cut of power, if anything is.
fn judge(mut life: Life) -> Result<(), String> {
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
    let (mut log, _) = finish(opening, NOW_MS, &mut life.disk, &mut life.left).map_err(End::told)?;
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
    if end > 0 && !is_known(&log, PRODUCER, end as i32 - 1) {
        return Err("the producer's last record is not known".to_owned());
    }
    if is_known(&log, PRODUCER, end as i32) {
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
    life.append(2).map_err(End::told)?;
    life.restart().map_err(End::told)
}

/// Runs to the cut of power and judges; also how many truncations there were.
fn run(case: Case) -> (Run, usize) {
    let disk = power_cut::disk(case.seed, false);
    let mut life = Life::new(case, disk, None);
    let opening = Opening::with_options(spec(1, None, false), life.options());
    let (log, _) = finish(opening, NOW_MS, &mut life.disk, &mut life.left).unwrap();
    life.log = Some(log);
    life.left = case.cut_after;
    let end = life.script();
    let cuts = life.cuts;
    let (verdict, ended) = match end {
        Ok(()) => (judge(life), true),
        Err(End::Cut) => (judge(life), false),
        Err(End::Wrong(error)) => (Err(error), true),
    };
    (Run { verdict, ended }, cuts)
}

/// Cuts after each step of the disk until the script ends: the first failure, and the number of cuts.
fn cut(case: Case) -> (Result<(), String>, usize) {
    let (verdict, count) = power_cut::cut_everywhere(|cut_after| {
        let (end, truncations) = run(Case { cut_after, ..case });
        if end.ended && end.verdict.is_ok() {
            assert_eq!(truncations, 6, "the script cuts the log");
        }
        end
    });
    (verdict.map_err(|error| format!("{case:?}: {error}")), count)
}

#[test]
fn a_cut_after_each_step_of_a_truncation_leaves_the_log_before_or_after_it() {
    let seeds = Seeds::asked(1);
    let mut cuts = 0;
    for seed in seeds.range() {
        for evidence in EVIDENCE {
            let (verdict, count) = cut(Case {
                seed,
                evidence,
                ..SOUND
            });
            assert_eq!(verdict, Ok(()));
            cuts += count;
        }
    }
    assert!(cuts as u64 > 3 * 200 * seeds.count(), "{cuts} cuts");
}

fn is_found(bug: RecoveryBug) -> bool {
    EVIDENCE.into_iter().any(|evidence| {
        let case = Case {
            evidence,
            bug,
            ..SOUND
        };
        cut(case).0.is_err()
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
    let opening = Opening::truncating(spec, RecoveryOptions::default(), to);
    drive_open(&mut Stepping(disk), opening).map(|(log, _)| *log)
}

#[test]
fn a_truncation_below_the_log_start_is_refused_and_one_that_cuts_nothing_changes_nothing() {
    let mut disk = SimDisk::new(SimConfig::default());
    let log = opened(&mut disk, spec(1, None, false), None).unwrap();
    let mut life = Life::new(SOUND, disk, Some(Box::new(log)));
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

/// Two truncations, the second of which cuts nothing: the epoch that the first one raised was in no checkpoint on the
/// disk meanwhile, so a crash would raise it to the same number again.
#[test]
fn an_epoch_that_a_truncation_raised_is_not_used_before_a_checkpoint_has_it() {
    let mut disk = SimDisk::new(SimConfig::default());
    let mut log = opened(&mut disk, spec(1, None, false), None).unwrap();
    for number in 0..4 {
        log.append(NOW_MS, &mut disk, &batch(number, number as u32))
            .unwrap();
    }
    let to = Truncation {
        epoch: LeaderEpoch(0),
        end_offset: Offset(2),
    };
    let mut raised = None;
    for _ in 0..2 {
        let checkpoint = loop {
            match log.close(NOW_MS, &mut disk) {
                CloseProgress::Closed(checkpoint) => break *checkpoint,
                CloseProgress::Pending => {
                    disk.advance();
                    let mut completions = Vec::new();
                    disk.take_completions(&mut completions);
                    for completion in completions {
                        log.on_completion(NOW_MS, &mut disk, completion);
                    }
                }
                CloseProgress::Fenced => panic!("fenced"),
            }
        };
        let mut spec = spec(1, Some(checkpoint), true);
        spec.created = false;
        log = opened(&mut disk, spec, Some(to)).unwrap();
        assert!(log.needs_term_checkpoint());
        assert_eq!(*raised.get_or_insert(log.leader_epoch()), log.leader_epoch());
    }
}
