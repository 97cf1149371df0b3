//! The promise: the file of a removed segment becomes a later segment, and nobody notices: no reader that still
//! needs the removed one, no recovery, no examination, and not the device, which is not read for it.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tidelog_segment_log::batch::BatchHeader;
use tidelog_segment_log::batch::testing::{BatchSpec, build_batch};
use tidelog_segment_log::checkpoint::PartitionCheckpoint;
use tidelog_segment_log::disk::{Disk, DiskOp, DiskOutput, ReadSource, StdDisk, Token};
use tidelog_segment_log::ids::{Offset, PartitionKey, TopicId};
use tidelog_segment_log::log::{
    CloseProgress, ColdRange, Durability, LogConfig, OpenSpec, Opening, PartitionLog, ReadPart, RemovalBug,
    RetentionLimits, SpareBudget, drive_open, verify_cold,
};
use tidelog_segment_log::recovery::{ExamineSpec, RecoveryOptions, RecoveryReport, examine};

const SEGMENT_BYTES: u64 = 1 << 20;
const VALUE_BYTES: usize = 30_000;
/// More than one segment holds.
const PER_SEGMENT: i64 = 36;

/// A log on a real disk, and how its next start goes.
struct Bench {
    root: tempfile::TempDir,
    disk: StdDisk,
    log: Option<Box<PartitionLog>>,
    budget: SpareBudget,
    bug: RemovalBug,
    segment_bytes: u64,
    next: i64,
    now_ms: i64,
}

impl Bench {
    fn new(bug: RemovalBug) -> Self {
        Self::with(bug, SpareBudget::new(8 * SEGMENT_BYTES), SEGMENT_BYTES)
    }

    fn with_marks_every(bytes: u64) -> Self {
        let budget = SpareBudget::with_marks_every(bytes, 8 * SEGMENT_BYTES);
        Self::with(RemovalBug::None, budget, SEGMENT_BYTES)
    }

    fn with(bug: RemovalBug, budget: SpareBudget, segment_bytes: u64) -> Self {
        // Not a temporary file system, which would keep its pages.
        let program = std::env::current_exe().unwrap();
        let root = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
        let mut bench = Self {
            root,
            disk: StdDisk::new(),
            log: None,
            budget,
            bug,
            segment_bytes,
            next: 0,
            now_ms: 1,
        };
        bench.open(None, true, Some(bench.budget.clone()));
        bench
    }

    fn directory(&self) -> PathBuf {
        self.root.path().join("p")
    }

    fn key() -> PartitionKey {
        PartitionKey {
            topic: TopicId([9; 16]),
            partition: 0,
        }
    }

    fn open(
        &mut self,
        checkpoint: Option<PartitionCheckpoint>,
        created: bool,
        spares: Option<SpareBudget>,
    ) -> RecoveryReport {
        let spec = OpenSpec {
            directory: self.directory(),
            key: Self::key(),
            config: LogConfig {
                segment_bytes: self.segment_bytes,
                segment_ms: i64::MAX,
                durability: Durability::Fsync,
            },
            token_space: 1,
            created,
            clean: checkpoint.is_some(),
            checkpoint,
            start_counter: 1,
        };
        let options = RecoveryOptions {
            removal_bug: self.bug,
            spares,
            ..RecoveryOptions::default()
        };
        let (mut log, report) = drive_open(&mut self.disk, Opening::with_options(spec, options)).unwrap();
        log.confirm_term();
        self.log = Some(log);
        report
    }

    fn log(&mut self) -> &mut PartitionLog {
        self.log.as_mut().unwrap()
    }

    fn settle(&mut self) {
        let mut completions = Vec::new();
        loop {
            let log = self.log.as_mut().unwrap();
            log.tick(self.now_ms, &mut self.disk);
            self.disk.take_completions(&mut completions);
            if completions.is_empty() {
                return;
            }
            for completion in completions.drain(..) {
                log.on_completion(self.now_ms, &mut self.disk, completion);
            }
        }
    }

    fn append(&mut self, count: i64) {
        for _ in 0..count {
            let value = vec![self.next as u8; VALUE_BYTES];
            let batch = Bytes::from(build_batch(&BatchSpec::default(), &[value.as_slice()]));
            let log = self.log.as_mut().unwrap();
            log.append(self.now_ms, &mut self.disk, &batch).unwrap();
            self.next += 1;
            self.settle();
        }
    }

    /// Removes all segments but the last.
    fn retain_last(&mut self) {
        let limits = RetentionLimits {
            age_ms: None,
            size_bytes: Some(1),
        };
        let now_ms = self.now_ms;
        let log = self.log.as_mut().unwrap();
        log.retain(now_ms, &mut self.disk, now_ms, limits);
        self.settle();
        assert_eq!(self.log().segment_count(), 1);
    }

    fn names(&self, suffix: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.directory()).unwrap();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.to_str().unwrap().ends_with(suffix));
        paths.sort();
        paths
    }

    fn read(&mut self, range: &ColdRange) -> Result<Vec<i64>, String> {
        let op = DiskOp::Read {
            file: range.file.clone(),
            position: range.position.start,
            len: (range.position.end - range.position.start) as usize,
            source: ReadSource::Cached,
        };
        self.disk.submit(Token(99 << 32), op);
        let mut completions = Vec::new();
        self.disk.take_completions(&mut completions);
        let Some(Ok(DiskOutput::Read(bytes))) = completions.pop().map(|completion| completion.result) else {
            return Err("a reader with a lease cannot read".to_owned());
        };
        let found = verify_cold(range, &bytes).map_err(|error| error.to_string())?;
        Ok(found
            .into_iter()
            .map(|at| BatchHeader::parse(&bytes[at]).unwrap().base_offset.0)
            .collect())
    }

    /// All offsets from the log start on, each checked.
    fn offsets(&mut self) -> Vec<i64> {
        let (mut at, end) = (self.log().log_start_offset(), self.log().log_end_offset());
        let mut offsets = Vec::new();
        while at < end {
            let log = self.log.as_mut().unwrap();
            for part in log.read(&mut self.disk, at, end, 1).unwrap().parts {
                let found = match part {
                    ReadPart::Hot(pieces) => pieces
                        .iter()
                        .map(|piece| {
                            let header = BatchHeader::parse(piece).unwrap();
                            let value = header.base_offset.0 as u8;
                            assert!(piece.ends_with(&[value, value, value, 0]));
                            header.base_offset.0
                        })
                        .collect(),
                    ReadPart::Cold(range) => self.read(&range).unwrap(),
                };
                at = Offset(found.last().unwrap() + 1);
                offsets.extend(found);
            }
        }
        offsets
    }

    fn close(&mut self) -> PartitionCheckpoint {
        loop {
            let now_ms = self.now_ms;
            match self.log.as_mut().unwrap().close(now_ms, &mut self.disk) {
                CloseProgress::Closed(checkpoint) => {
                    self.log = None;
                    return *checkpoint;
                }
                CloseProgress::Fenced => panic!("fenced"),
                CloseProgress::Pending => self.settle(),
            }
        }
    }

    /// Why the last segment would be called torn.
    fn torn(&mut self) -> Option<String> {
        let spec = ExamineSpec {
            journal: Default::default(),
            directory: self.directory(),
            key: Self::key(),
            checkpoint: None,
            batch_bytes: 0,
            only: None,
        };
        let examined = examine(&mut self.disk, &spec, &mut |_, _, _, _| true).unwrap();
        assert!(examined.damage.is_empty() && examined.others.is_empty() && examined.behind.is_empty());
        examined.segments.last().unwrap().torn.clone()
    }
}

fn inode(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().ino()
}

#[test]
fn the_file_of_a_removed_segment_becomes_the_next_one() {
    let mut bench = Bench::new(RemovalBug::None);
    bench.append(PER_SEGMENT + 1);
    let first = inode(&bench.names(".log")[0]);
    bench.retain_last();
    let spares = bench.names(".spare");
    assert_eq!(spares.iter().map(|path| inode(path)).collect::<Vec<_>>(), [first]);
    assert_eq!(bench.budget.files(), 1);
    let long = std::fs::metadata(&spares[0]).unwrap().len();
    assert!(
        bench.budget.bytes() >= long,
        "{} of {long} bytes",
        bench.budget.bytes()
    );
    bench.append(PER_SEGMENT);
    assert_eq!(inode(bench.names(".log").last().unwrap()), first);
    assert_eq!((bench.budget.files(), bench.budget.reused()), (0, 1));
    let start = bench.log().log_start_offset().0;
    assert_eq!(bench.offsets(), (start..bench.next).collect::<Vec<_>>());
    assert_eq!(
        bench.torn(),
        None,
        "what lies behind the end is of its former life"
    );
    // And a recovery finds the same.
    bench.log = None;
    let budget = bench.budget.clone();
    let report = bench.open(None, false, Some(budget));
    assert!(!report.torn_entries_seen && report.quarantined.is_empty() && report.set_aside.is_empty());
    assert_eq!(bench.offsets(), (start..bench.next).collect::<Vec<_>>());
    bench.append(3);
    assert_eq!(bench.offsets(), (start..bench.next).collect::<Vec<_>>());
}

#[test]
fn a_former_life_under_the_same_incarnation_would_be_seen() {
    let mut bench = Bench::new(RemovalBug::KeepIncarnation);
    bench.append(PER_SEGMENT + 1);
    bench.retain_last();
    bench.append(PER_SEGMENT);
    assert_eq!(bench.budget.reused(), 1);
    assert!(bench.torn().is_some());
}

/// What a plan that was made before the removal reads after its file could have been used again.
fn read_after_reuse(bug: RemovalBug, is_hot: bool) -> (Result<Vec<i64>, String>, u64) {
    let mut bench = Bench::new(bug);
    bench.append(PER_SEGMENT + 1);
    if !is_hot {
        let checkpoint = bench.close();
        bench.disk = StdDisk::new();
        let budget = bench.budget.clone();
        assert!(bench.open(Some(checkpoint), false, Some(budget)).clean);
    }
    let log = bench.log.as_mut().unwrap();
    let plan = log.read(&mut bench.disk, Offset(2), Offset(5), 1 << 20).unwrap();
    bench.retain_last();
    bench.append(PER_SEGMENT + 1);
    let [part] = plan.parts.as_slice() else {
        panic!("{plan:?}")
    };
    let read = match part {
        ReadPart::Cold(range) => bench.read(range),
        ReadPart::Hot(pieces) => pieces
            .iter()
            .map(|piece| match BatchHeader::parse(piece) {
                Ok(header) if piece.ends_with(&[header.base_offset.0 as u8, 0]) => Ok(header.base_offset.0),
                _ => Err("other bytes".to_owned()),
            })
            .collect(),
    };
    assert_eq!(matches!(part, ReadPart::Hot(_)), is_hot);
    (read, bench.budget.reused())
}

#[test]
fn a_file_that_a_reader_has_a_lease_on_is_not_recycled() {
    for is_hot in [true, false] {
        assert_eq!(
            read_after_reuse(RemovalBug::None, is_hot),
            (Ok(vec![2, 3, 4]), 0),
            "hot: {is_hot}"
        );
    }
}

#[test]
fn a_file_that_is_recycled_under_a_lease_is_found() {
    for is_hot in [true, false] {
        let (read, reused) = read_after_reuse(RemovalBug::RecycleUsed, is_hot);
        assert_eq!(reused, 1);
        assert_ne!(read, Ok(vec![2, 3, 4]), "hot: {is_hot}");
    }
}

#[test]
fn a_file_that_a_reader_had_before_the_log_was_opened_again_is_not_recycled() {
    let mut bench = Bench::new(RemovalBug::None);
    bench.append(PER_SEGMENT + 1);
    let log = bench.log.as_mut().unwrap();
    let plan = log.read(&mut bench.disk, Offset(2), Offset(5), 1 << 20).unwrap();
    let [ReadPart::Hot(pieces)] = plan.parts.as_slice() else {
        panic!("{plan:?}")
    };
    let before: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.to_vec()).collect();
    // As after a fence: the handles are others now.
    let log = bench.log.take().unwrap();
    let (mut log, _) = drive_open(&mut bench.disk, log.into_reopening()).unwrap();
    log.confirm_term();
    bench.log = Some(log);
    bench.append(2);
    bench.retain_last();
    bench.append(PER_SEGMENT + 1);
    assert_eq!(bench.budget.reused(), 0);
    assert!(
        pieces
            .iter()
            .zip(&before)
            .all(|(piece, before)| **piece == **before)
    );
    // What was begun since then may be recycled.
    bench.append(PER_SEGMENT);
    bench.retain_last();
    assert!(bench.budget.files() > 0);
}

#[test]
fn a_file_whose_last_lease_has_ended_is_recycled() {
    let mut bench = Bench::new(RemovalBug::None);
    bench.append(PER_SEGMENT + 1);
    let log = bench.log.as_mut().unwrap();
    let plan = log.read(&mut bench.disk, Offset(2), Offset(5), 1 << 20).unwrap();
    assert!(matches!(plan.parts[0], ReadPart::Hot(_)));
    drop(plan);
    bench.retain_last();
    assert_eq!(bench.budget.files(), 1);
}

#[test]
fn a_file_with_a_second_name_is_not_recycled() {
    let mut bench = Bench::new(RemovalBug::None);
    bench.append(PER_SEGMENT + 1);
    let other = bench.root.path().join("backup");
    std::fs::hard_link(&bench.names(".log")[0], &other).unwrap();
    let before = std::fs::read(&other).unwrap();
    bench.retain_last();
    assert!(bench.names(".spare").is_empty());
    // A name that comes later keeps the spare from being used.
    bench.append(PER_SEGMENT);
    bench.retain_last();
    let [spare] = bench.names(".spare").try_into().unwrap();
    let second = bench.root.path().join("second");
    std::fs::hard_link(&spare, &second).unwrap();
    bench.append(PER_SEGMENT);
    assert_eq!(bench.budget.reused(), 0);
    assert!(bench.names(".spare").is_empty(), "it is of no use, and went");
    assert!(std::fs::read(&other).unwrap() == before && second.exists());
}

#[test]
fn spares_are_given_back_when_their_space_is_wanted_and_when_nobody_wants_them() {
    for is_wanted_back in [true, false] {
        let mut bench = Bench::new(RemovalBug::None);
        bench.append(PER_SEGMENT + 1);
        bench.retain_last();
        bench.settle();
        assert_eq!(bench.names(".spare").len(), 1);
        match is_wanted_back {
            true => bench.budget.want_back(true),
            false => bench.now_ms += 600_000,
        }
        bench.settle();
        assert!(bench.names(".spare").is_empty());
        assert_eq!((bench.budget.bytes(), bench.log().spare_count()), (0, 0));
    }
}

#[test]
fn no_more_is_kept_than_may_be() {
    let mut bench = Bench::new(RemovalBug::None);
    bench.append(20 * PER_SEGMENT);
    bench.retain_last();
    let kept = bench.names(".spare");
    let bytes: u64 = kept
        .iter()
        .map(|path| std::fs::metadata(path).unwrap().len())
        .sum();
    assert!((2..=7).contains(&kept.len()), "{kept:?}");
    assert!(bytes <= bench.budget.bytes() && bench.budget.bytes() <= 8 * SEGMENT_BYTES);
}

#[test]
fn a_start_takes_up_the_spares_it_finds_or_removes_them() {
    for keeps in [true, false] {
        let mut bench = Bench::new(RemovalBug::None);
        bench.append(PER_SEGMENT + 1);
        bench.retain_last();
        let [spare] = bench.names(".spare").try_into().unwrap();
        let file = inode(&spare);
        let checkpoint = bench.close();
        assert_eq!(bench.budget.bytes(), 0, "the log is gone");
        let budget = keeps.then(|| bench.budget.clone());
        assert!(bench.open(Some(checkpoint), false, budget).clean);
        assert_eq!(bench.names(".spare").len(), usize::from(keeps));
        bench.append(PER_SEGMENT);
        assert_eq!(bench.budget.reused(), u64::from(keeps));
        // The number of an inode may be given out again to a new file.
        assert!(!keeps || inode(bench.names(".log").last().unwrap()) == file);
        assert_eq!(bench.offsets().last(), Some(&(bench.next - 1)));
    }
}

/// What this thread made the device read.
fn read_bytes() -> u64 {
    let counters = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    let line = counters
        .lines()
        .find_map(|line| line.strip_prefix("read_bytes: "));
    line.unwrap().parse().unwrap()
}

#[test]
fn writing_to_a_recycled_file_reads_nothing_from_the_device() {
    let mut bench = Bench::new(RemovalBug::None);
    bench.append(PER_SEGMENT + 1);
    bench.retain_last();
    let [spare] = bench.names(".spare").try_into().unwrap();
    let file = std::fs::File::open(&spare).unwrap();
    let drop_pages = || {
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    };
    drop_pages();
    let before = read_bytes();
    std::fs::read(&spare).unwrap();
    assert!(
        read_bytes() - before >= SEGMENT_BYTES / 2,
        "the counter sees reads"
    );
    drop_pages();
    let before = read_bytes();
    bench.append(PER_SEGMENT);
    assert_eq!(bench.budget.reused(), 1);
    assert_eq!(read_bytes() - before, 0, "no page was read to be written in part");
}

/// What a recovery makes the device read of a segment of 16 MiB that was just begun in a recycled file.
fn recovery_reads(mark_interval_bytes: u64) -> u64 {
    let segments = 16;
    let budget = SpareBudget::with_marks_every(mark_interval_bytes, 4 * segments * SEGMENT_BYTES);
    let mut bench = Bench::with(RemovalBug::None, budget.clone(), segments * SEGMENT_BYTES);
    let most = segments as i64 * (PER_SEGMENT - 1);
    bench.append(most + 2 * segments as i64);
    bench.retain_last();
    bench.append(most);
    assert_eq!(budget.reused(), 1);
    bench.retain_last();
    bench.log = None;
    bench.disk = StdDisk::new();
    let before = read_bytes();
    let report = bench.open(None, false, Some(budget));
    assert!(report.quarantined.is_empty() && !report.torn_entries_seen);
    let reads = read_bytes() - before;
    let start = bench.log().log_start_offset().0;
    assert_eq!(bench.offsets(), (start..bench.next).collect::<Vec<_>>());
    reads
}

#[test]
fn a_recovery_reads_no_further_than_the_next_end_mark() {
    let (all, some) = (recovery_reads(64 * SEGMENT_BYTES), recovery_reads(SEGMENT_BYTES));
    assert!(
        all >= 15 * SEGMENT_BYTES,
        "{all} bytes: the former life is searched"
    );
    assert!(some <= 6 * SEGMENT_BYTES, "{some} bytes: up to a mark");
}

#[test]
fn entries_that_went_over_marks_are_found_behind_damage() {
    let mut bench = Bench::with_marks_every(64 << 10);
    let budget = bench.budget.clone();
    bench.append(PER_SEGMENT + 1);
    bench.retain_last();
    // Over several marks, and not over all.
    bench.append(PER_SEGMENT + 15);
    assert_eq!(budget.reused(), 1);
    let last = bench.names(".log").pop().unwrap();
    bench.log = None;
    bench.disk = StdDisk::new();
    let mut bytes = std::fs::read(&last).unwrap();
    let marks = |bytes: &[u8]| {
        bytes
            .chunks(4_096)
            .filter(|page| page.starts_with(b"TLEND000"))
            .count()
    };
    let left = marks(&bytes);
    assert!(
        (3..bytes.len() / (64 << 10) - 3).contains(&left),
        "{left} marks are left"
    );
    // In the first batch, long before the first mark.
    bytes[8_192 + 5_000] ^= 1;
    std::fs::write(&last, &bytes).unwrap();
    let report = bench.open(None, false, Some(budget));
    let [lost] = report.quarantined.as_slice() else {
        panic!("{report:?}")
    };
    assert_eq!(lost.offsets.end.0 - lost.offsets.start.0, 1);
    assert_eq!(
        bench.log().log_end_offset(),
        Offset(bench.next),
        "what follows is proof and stays"
    );
}

#[test]
fn after_a_search_up_to_a_mark_the_log_goes_on_in_a_new_file() {
    let mut bench = Bench::with_marks_every(64 << 10);
    let budget = bench.budget.clone();
    bench.append(PER_SEGMENT + 1);
    bench.retain_last();
    bench.append(PER_SEGMENT + 5);
    let before = bench.log().segment_count();
    bench.log = None;
    bench.open(None, false, Some(budget));
    assert_eq!(bench.log().segment_count(), before + 1);
    bench.append(3);
    let start = bench.log().log_start_offset().0;
    assert_eq!(bench.offsets(), (start..bench.next).collect::<Vec<_>>());
}
