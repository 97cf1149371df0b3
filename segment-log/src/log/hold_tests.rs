//! The promise: what is held is there under its path, byte for byte, whatever becomes of its segment in the log, and
//! goes once nobody holds it; a start knows of no hold, and loses nothing for it.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends at the first surprise"
)]

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::{
    CloseProgress, Durability, HoldError, LogConfig, LogStatus, OpenError, OpenProgress, OpenSpec, Opening,
    PartitionLog, ReadError, ReadPart, RemovalBug, SegmentHold, SegmentHolds, SpareBudget, Truncation,
    verify_cold,
};
use crate::batch::BatchHeader;
use crate::batch::testing::{BatchSpec, build_batch};
use crate::checkpoint::PartitionCheckpoint;
use crate::disk::sim::{Fault, OpKind, ScriptedFault, SimConfig, SimDisk};
use crate::disk::{Disk, ReadSource};
use crate::entry::decode_entry;
use crate::ids::{Offset, PartitionKey, TopicId};
use crate::log::segment::Segment;
use crate::recovery::RecoveryOptions;

const VALUE_BYTES: usize = 1_500;
const SEGMENT_BYTES: u64 = 20 << 10;

/// A log on a simulated disk.
struct Bench {
    disk: SimDisk,
    log: Option<Box<PartitionLog>>,
    options: RecoveryOptions,
    budget: SpareBudget,
    starts: u64,
    now_ms: i64,
    /// Steps of the disk that are left before the power is cut.
    left: usize,
}

/// The power was cut.
#[derive(Debug)]
struct Cut;

impl Bench {
    fn new(bug: RemovalBug) -> Self {
        let budget = SpareBudget::of_files_from(8_192, 64 << 20);
        let options = RecoveryOptions {
            removal_bug: bug,
            incarnation_seed: Some(1),
            spares: Some(budget.clone()),
            ..RecoveryOptions::default()
        };
        let mut bench = Self {
            disk: SimDisk::new(SimConfig::default()),
            log: None,
            options,
            budget,
            starts: 0,
            now_ms: 1_000_000,
            left: usize::MAX,
        };
        bench.open(None).unwrap();
        bench
    }

    fn spec(&self, checkpoint: Option<PartitionCheckpoint>) -> OpenSpec {
        OpenSpec {
            directory: PathBuf::from("/sim/partition"),
            key: PartitionKey {
                topic: TopicId([5; 16]),
                partition: 1,
            },
            config: LogConfig {
                segment_bytes: SEGMENT_BYTES,
                segment_ms: i64::MAX,
                durability: Durability::Fsync,
            },
            token_space: 7,
            clean: checkpoint.is_some(),
            checkpoint,
            start_counter: self.starts,
            created: self.starts == 1,
        }
    }

    fn open(&mut self, checkpoint: Option<PartitionCheckpoint>) -> Result<(), OpenError> {
        self.starts += 1;
        let spec = self.spec(checkpoint);
        self.finish(Opening::with_options(spec, self.options.clone()))
    }

    fn finish(&mut self, mut opening: Opening) -> Result<(), OpenError> {
        let mut completions = Vec::new();
        loop {
            match opening.step(self.now_ms, &mut self.disk, std::mem::take(&mut completions)) {
                OpenProgress::Ready(mut log, report) => {
                    assert!(report.quarantined.is_empty(), "{report:?}");
                    log.confirm_term();
                    self.log = Some(log);
                    return Ok(());
                }
                OpenProgress::Failed(error) => return Err(error),
                OpenProgress::Pending => {
                    self.disk.advance();
                    self.disk.take_completions(&mut completions);
                }
            }
        }
    }

    /// A start after a kill: it knows of no hold.
    fn start_again(&mut self) {
        self.options.holds = SegmentHolds::default();
        self.open(None).unwrap();
    }

    fn log(&mut self) -> &mut PartitionLog {
        self.log.as_mut().unwrap()
    }

    fn step(&mut self) -> Result<(), Cut> {
        self.left = self.left.checked_sub(1).ok_or(Cut)?;
        self.disk.advance();
        let mut completions = Vec::new();
        self.disk.take_completions(&mut completions);
        let log = self.log.as_mut().unwrap();
        for completion in completions {
            log.on_completion(self.now_ms, &mut self.disk, completion);
        }
        Ok(())
    }

    /// Until nothing is in flight.
    fn settle(&mut self) -> Result<(), Cut> {
        loop {
            let log = self.log.as_mut().unwrap();
            log.tick(self.now_ms, &mut self.disk);
            if !log.is_waiting_for_disk() {
                return Ok(());
            }
            self.step()?;
        }
    }

    /// Batches of one record each.
    fn append(&mut self, count: i64) -> Result<(), Cut> {
        for _ in 0..count {
            let log = self.log.as_mut().unwrap();
            let value = vec![log.log_end_offset().0 as u8; VALUE_BYTES];
            let batch = Bytes::from(build_batch(&BatchSpec::default(), &[value.as_slice()]));
            log.append(self.now_ms, &mut self.disk, &batch).unwrap();
            log.flush(self.now_ms, &mut self.disk);
            self.settle()?;
        }
        Ok(())
    }

    fn move_log_start(&mut self, to: i64) -> Result<(), Cut> {
        let log = self.log.as_mut().unwrap();
        log.append_log_start(self.now_ms, &mut self.disk, Offset(to))
            .unwrap();
        self.settle()
    }

    fn hold(&mut self, from: i64, to: i64) -> SegmentHold {
        self.log().hold(Offset(from)..Offset(to)).unwrap()
    }

    fn file(&self, path: &Path) -> Option<Vec<u8>> {
        self.disk.snapshot(path, ReadSource::Cached).ok()
    }

    /// The bytes of what is held, through its paths; `None` where one is not there.
    fn bytes_of(&self, hold: &SegmentHold) -> Vec<Option<Vec<u8>>> {
        let bytes = hold.segments().iter().map(|segment| {
            let mut bytes = self.file(&segment.path)?;
            assert!(bytes.len() as u64 >= segment.len_bytes);
            bytes.truncate(segment.len_bytes as usize);
            Some(bytes)
        });
        bytes.collect()
    }

    /// The offsets of the batches in what is held, read as a holder would.
    fn offsets_in(&self, hold: &SegmentHold) -> Vec<i64> {
        let mut offsets = Vec::new();
        for (segment, bytes) in hold.segments().iter().zip(self.bytes_of(hold)) {
            let bytes = bytes.unwrap();
            let mut at = Segment::FIRST_ENTRY as usize;
            while at < bytes.len() {
                let (header, payload) = decode_entry(&bytes[at..], &segment.incarnation).unwrap();
                if header.is_plain_data() {
                    assert!(payload.ends_with(&[header.base_offset.0 as u8, 0]));
                    offsets.push(header.base_offset.0);
                }
                at += header.entry_len();
            }
        }
        offsets
    }

    fn is_gone(&self, path: &Path) -> bool {
        self.file(path).is_none()
    }

    /// Every offset from the log start on is served.
    fn assert_all_is_served(&mut self) {
        let log = self.log.as_mut().unwrap();
        let (start, end) = (log.log_start_offset(), log.log_end_offset());
        let mut served = Vec::new();
        let mut at = start;
        while at < end {
            let plan = log.read(&mut self.disk, at, end, 1).unwrap();
            for part in &plan.parts {
                match part {
                    ReadPart::Hot(pieces) => {
                        let batches = pieces.iter().map(|piece| BatchHeader::parse(piece).unwrap());
                        served.extend(batches.map(|batch| batch.base_offset.0));
                    }
                    ReadPart::Cold(range) => {
                        let file = self.disk.snapshot(range.file.path(), ReadSource::Cached).unwrap();
                        let bytes = &file[range.position.start as usize..range.position.end as usize];
                        for found in verify_cold(range, bytes).unwrap() {
                            served.push(BatchHeader::parse(&bytes[found]).unwrap().base_offset.0);
                        }
                    }
                }
            }
            at = Offset(served.last().unwrap() + 1);
        }
        assert_eq!(served, (start.0..end.0).collect::<Vec<_>>());
    }

    fn close(&mut self) -> PartitionCheckpoint {
        loop {
            let log = self.log.as_mut().unwrap();
            match log.close(self.now_ms, &mut self.disk) {
                CloseProgress::Closed(checkpoint) => {
                    self.log = None;
                    return *checkpoint;
                }
                CloseProgress::Fenced => panic!("fenced"),
                CloseProgress::Pending => self.step().unwrap(),
            }
        }
    }
}

#[test]
fn what_is_held_is_there_byte_for_byte_after_its_records_were_deleted() {
    let mut bench = Bench::new(RemovalBug::None);
    bench.append(40).unwrap();
    let hold = bench.hold(10, 40);
    let before = bench.bytes_of(&hold);
    assert!(before.len() > 4, "over several segments");
    let first = hold.segments()[0].base_offset.0;
    assert!((1..=10).contains(&first), "{first}");
    assert_eq!(bench.offsets_in(&hold), (first..40).collect::<Vec<_>>());
    bench.move_log_start(39).unwrap();
    let front = &bench.log().segments[0];
    assert_eq!(front.base_offset().0, first, "what lies before it is gone");
    let refused = bench.log.as_mut().unwrap();
    let refused = refused.read(&mut bench.disk, Offset(20), Offset(39), 1);
    assert!(matches!(refused, Err(ReadError::BelowLogStart { .. })), "deleted");
    // The log goes on, over other files: that of the front may be recycled, those that are held may not.
    bench.append(40).unwrap();
    bench.move_log_start(79).unwrap();
    assert_eq!(bench.bytes_of(&hold), before);
    assert_eq!(bench.offsets_in(&hold), (first..40).collect::<Vec<_>>());
    bench.assert_all_is_served();
    let (spares, reused) = (bench.budget.files(), bench.budget.reused());
    let paths: Vec<PathBuf> = hold.segments().iter().map(|held| held.path.clone()).collect();
    drop(hold);
    bench.settle().unwrap();
    assert!(paths.iter().all(|path| bench.is_gone(path)));
    assert_eq!(bench.log().segment_count(), 1);
    assert!(
        bench.budget.files() > spares,
        "their files are kept to be recycled"
    );
    bench.append(20).unwrap();
    assert!(bench.budget.reused() > reused, "and are");
    bench.assert_all_is_served();
}

#[test]
fn a_removal_that_ignores_holds_is_found() {
    let mut bench = Bench::new(RemovalBug::IgnoreHolds);
    bench.append(40).unwrap();
    let hold = bench.hold(10, 40);
    bench.move_log_start(39).unwrap();
    assert!(bench.bytes_of(&hold).contains(&None));
}

#[test]
fn a_file_goes_with_the_last_hold_on_it() {
    let mut bench = Bench::new(RemovalBug::None);
    bench.append(40).unwrap();
    let (some, all) = (bench.hold(8, 12), bench.hold(0, 40));
    let common = some.segments()[0].path.clone();
    let last_of_some = some.segments().last().unwrap().clone();
    assert!(all.segments().contains(&last_of_some));
    bench.move_log_start(39).unwrap();
    drop(all);
    bench.settle().unwrap();
    assert!(!bench.is_gone(&common));
    assert_eq!(
        bench.log().segments[0].name(),
        common.file_name().unwrap().to_str().unwrap(),
        "those before it are gone"
    );
    drop(some);
    bench.settle().unwrap();
    assert!(bench.is_gone(&common) && bench.is_gone(&last_of_some.path));
    assert_eq!(bench.log().segment_count(), 1);
}

#[test]
fn the_segment_that_takes_appends_is_held_up_to_its_durable_end() {
    let mut bench = Bench::new(RemovalBug::None);
    bench.append(3).unwrap();
    let batch = Bytes::from(build_batch(&BatchSpec::default(), &[&[7; VALUE_BYTES][..]]));
    let log = bench.log.as_mut().unwrap();
    log.append(1, &mut bench.disk, &batch).unwrap();
    let too_far = log.hold(Offset(0)..Offset(4)).unwrap_err();
    let wanted = HoldError::OutOfRange {
        from: Offset(0),
        to: Offset(4),
        log_start: Offset(0),
        durable: Offset(3),
    };
    assert_eq!(too_far, wanted);
    let hold = bench.hold(0, 3);
    let [held] = hold.segments() else {
        panic!("{hold:?}")
    };
    assert!(held.len_bytes < bench.log().segments[0].tail.position);
    let before = bench.bytes_of(&hold);
    bench.settle().unwrap();
    bench.append(20).unwrap();
    bench.move_log_start(23).unwrap();
    assert_eq!(bench.bytes_of(&hold), before);
    assert_eq!(bench.offsets_in(&hold), [0, 1, 2]);
}

#[test]
fn what_is_not_there_or_has_no_files_is_not_held() {
    let mut bench = Bench::new(RemovalBug::None);
    assert!(bench.hold(0, 0).segments().is_empty());
    bench.append(20).unwrap();
    bench.move_log_start(10).unwrap();
    for (from, to) in [(9, 15), (10, 21), (15, 14)] {
        let refused = bench.log().hold(Offset(from)..Offset(to));
        assert!(
            matches!(refused, Err(HoldError::OutOfRange { .. })),
            "{from}..{to}: {refused:?}"
        );
    }
    assert_eq!(
        bench.hold(10, 20).segments()[0].base_offset,
        bench.log().segments[0].base_offset()
    );
    bench.log().options.is_volatile = true;
    let refused = bench.log().hold(Offset(10)..Offset(20));
    assert_eq!(refused.unwrap_err(), HoldError::InMemory);
}

#[test]
fn a_hold_outlives_a_fence() {
    let mut bench = Bench::new(RemovalBug::None);
    bench.append(40).unwrap();
    let hold = bench.hold(10, 40);
    let before = bench.bytes_of(&hold);
    bench.disk.script(ScriptedFault {
        kind: OpKind::Sync,
        nth: 1,
        fault: Fault::Eio,
    });
    bench.append(1).unwrap();
    assert_eq!(bench.log().status(), LogStatus::Fenced);
    let opening = bench.log.take().unwrap().into_reopening();
    bench.finish(opening).unwrap();
    bench.move_log_start(40).unwrap();
    assert_eq!(bench.bytes_of(&hold), before);
    // And an opening by whoever has its options.
    bench.disk.process_kill();
    bench.open(None).unwrap();
    bench.settle().unwrap();
    assert_eq!(bench.bytes_of(&hold), before);
    bench.assert_all_is_served();
    let paths: Vec<PathBuf> = hold.segments().iter().map(|held| held.path.clone()).collect();
    drop(hold);
    bench.settle().unwrap();
    assert!(paths.iter().all(|path| bench.is_gone(path)));
    bench.assert_all_is_served();
}

#[test]
fn a_truncation_that_reaches_what_is_held_is_refused() {
    let mut bench = Bench::new(RemovalBug::None);
    bench.append(40).unwrap();
    let (below, reached) = (bench.hold(0, 10), bench.hold(15, 30));
    let before = bench.bytes_of(&reached);
    let checkpoint = bench.close();
    let to = Truncation {
        epoch: checkpoint.term,
        end_offset: Offset(20),
    };
    let truncating = |bench: &Bench| {
        let spec = bench.spec(Some(checkpoint.clone()));
        Opening::truncating(spec, bench.options.clone(), Some(to))
    };
    let opening = truncating(&bench);
    let refused = bench.finish(opening).unwrap_err();
    assert!(matches!(refused, OpenError::CutHeld { end_offset } if end_offset == Offset(20)));
    assert_eq!(bench.bytes_of(&reached), before);
    drop(reached);
    let before = bench.bytes_of(&below);
    let opening = truncating(&bench);
    bench.finish(opening).unwrap();
    assert_eq!(bench.log().log_end_offset(), Offset(20));
    assert_eq!(bench.bytes_of(&below), before);
    bench.assert_all_is_served();
}

#[test]
fn a_start_forgets_holds_and_goes_on_with_the_removal() {
    let mut bench = Bench::new(RemovalBug::None);
    bench.append(40).unwrap();
    let hold = bench.hold(0, 40);
    bench.move_log_start(35).unwrap();
    bench.disk.process_kill();
    bench.start_again();
    bench.settle().unwrap();
    assert!(hold.segments().iter().any(|held| bench.is_gone(&held.path)));
    assert_eq!(bench.log().log_start_offset(), Offset(35));
    assert!(bench.log().segments[0].tail.next_offset > Offset(35));
    bench.assert_all_is_served();
}

/// A life with a hold that is released in its midst, cut after so many steps of the disk. Whether it ended before.
fn cut_after(steps: usize) -> bool {
    let mut bench = Bench::new(RemovalBug::None);
    bench.left = steps;
    let mut hold = None;
    let (mut asked, mut acked, mut sure) = (0, 0, 0);
    let mut live = |bench: &mut Bench| -> Result<(), Cut> {
        bench.append(20)?;
        acked = 20;
        hold = Some(bench.hold(0, 20));
        asked = 18;
        bench.move_log_start(18)?;
        sure = 18;
        bench.append(10)?;
        acked = 30;
        hold = None;
        bench.settle()?;
        bench.append(10)?;
        acked = 40;
        Ok(())
    };
    let has_ended = live(&mut bench).is_ok();
    bench.left = usize::MAX;
    bench.log = None;
    bench.disk.power_cut();
    if let Some(hold) = &hold {
        assert!(
            !bench.bytes_of(hold).contains(&None),
            "cut after {steps}: it is held"
        );
    }
    bench.start_again();
    bench.settle().unwrap();
    let (start, end) = (bench.log().log_start_offset().0, bench.log().log_end_offset().0);
    assert!(
        (sure..=asked).contains(&start) && end >= acked,
        "cut after {steps}: {start}..{end}"
    );
    bench.assert_all_is_served();
    let first = &bench.log().segments[0];
    assert!(
        first.tail.next_offset.0 > start || end == start,
        "cut after {steps}"
    );
    has_ended
}

#[test]
fn wherever_the_power_is_cut_beside_a_hold_nothing_is_lost_and_nothing_stays() {
    let cuts = (0..).find(|steps| cut_after(*steps)).unwrap();
    assert!(cuts > 100, "{cuts}");
}
