//! The promise: an open reads segment headers, index files and what follows the checkpoint, not whole
//! segments; and index files only spare reading: lost, zeroed, torn or mixed up, the same log opens.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod common;

use std::fs;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use common::logs::{close, open, settle};
use tidelog_segment_log::batch::testing::{BatchSpec, build_batch};
use tidelog_segment_log::checkpoint::PartitionCheckpoint;
use tidelog_segment_log::disk::std_disk::StdDisk;
use tidelog_segment_log::disk::{
    Completion, DirectoryLock, Disk, DiskOp, DiskOutput, FileHandle, HotBytes, Token, WriteNow,
};
use tidelog_segment_log::ids::{LeaderEpoch, Offset};
use tidelog_segment_log::log::testing::new_partition;
use tidelog_segment_log::log::{Durability, LogConfig, OpenSpec, PartitionLog, ReadPart};

/// Counts what is read.
struct Counting {
    disk: StdDisk,
    read_bytes: u64,
    /// Where in segments.
    read: Vec<Range<u64>>,
}

impl Counting {
    fn new() -> Self {
        Self {
            disk: StdDisk::new(),
            read_bytes: 0,
            read: Vec::new(),
        }
    }
}

impl Disk for Counting {
    fn submit(&mut self, token: Token, op: DiskOp) {
        if let DiskOp::Read {
            file, position, len, ..
        } = &op
            && file.path().extension().is_some_and(|own| own == "log")
        {
            self.read.push(*position..*position + *len as u64);
        }
        self.disk.submit(token, op);
    }
    fn take_completions(&mut self, out: &mut Vec<Completion>) {
        let before = out.len();
        self.disk.take_completions(out);
        for completion in &out[before..] {
            if let Ok(DiskOutput::Read(bytes)) = &completion.result {
                self.read_bytes += bytes.len() as u64;
            }
        }
    }
    fn write_now(&mut self, file: &FileHandle, at: u64, pieces: &[IoSlice<'_>]) -> io::Result<WriteNow> {
        self.disk.write_now(file, at, pieces)
    }
    fn hot_bytes(&mut self, file: &FileHandle, range: Range<u64>) -> Option<HotBytes> {
        self.disk.hot_bytes(file, range)
    }
    fn lock_directory(&mut self, path: &Path) -> io::Result<DirectoryLock> {
        self.disk.lock_directory(path)
    }
}

fn spec(directory: &Path, checkpoint: Option<PartitionCheckpoint>, clean: bool) -> OpenSpec {
    let new = new_partition(directory.to_path_buf(), Durability::Fsync);
    OpenSpec {
        config: LogConfig {
            segment_bytes: 256 << 10,
            ..new.config
        },
        created: checkpoint.is_none(),
        checkpoint,
        clean,
        ..new
    }
}

const BATCHES: i32 = 600;

fn append(log: &mut PartitionLog, disk: &mut dyn Disk, number: i32) {
    let value = vec![number as u8; 2_500 + number as usize % 3_000];
    let spec = BatchSpec {
        producer_id: i64::from(number % 7),
        producer_epoch: 0,
        base_sequence: number / 7,
        // The highest is somewhere in the middle, twice.
        timestamp_ms: 5_000 + i64::from((number - 300).abs().min(250) * -10),
        ..BatchSpec::default()
    };
    let batch = Bytes::from(build_batch(&spec, &[&value]));
    log.append(1, disk, &batch).unwrap();
    settle(log, disk, 1);
}

/// A log of several segments and leader epochs.
fn write_log(directory: &Path) -> PartitionCheckpoint {
    let mut disk = StdDisk::new();
    let (mut log, _) = open(&mut disk, spec(directory, None, false));
    for number in 0..BATCHES {
        append(&mut log, &mut disk, number);
        if number % 150 == 99 {
            let checkpoint = log.checkpoint();
            drop(log);
            (log, _) = open(&mut disk, spec(directory, Some(checkpoint), false));
        }
    }
    assert_eq!(log.leader_epoch(), LeaderEpoch(4));
    assert!(log.segment_count() > 6);
    assert_eq!(log.max_timestamp(), Some((5_000, Offset(300))));
    close(log, &mut disk, 1)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|own| own == extension))
        .collect();
    files.sort();
    files
}

/// All that a log says of itself.
#[derive(Debug, PartialEq)]
struct Face {
    offsets: [Offset; 3],
    epoch_ends: Vec<(LeaderEpoch, Offset)>,
    max_timestamp: Option<(i64, Offset)>,
    by_time: Vec<Option<Offset>>,
    plans: Vec<(String, Range<u64>)>,
    producers: String,
    size: u64,
}

fn face(log: &mut PartitionLog) -> Face {
    let mut disk = StdDisk::new();
    let end = log.high_watermark();
    let plan = |offset| {
        let plan = log.read(&mut disk, Offset(offset), end, 10_000).unwrap();
        match plan.parts.as_slice() {
            [ReadPart::Cold(range)] => {
                let name = range.file.path().file_name().unwrap();
                (name.to_string_lossy().into_owned(), range.position.clone())
            }
            other => panic!("{other:?}"),
        }
    };
    let plans = (0..end.0).map(plan).collect();
    Face {
        offsets: [log.log_start_offset(), log.durable_offset(), log.log_end_offset()],
        epoch_ends: (0..4)
            .map(|epoch| log.epoch_end_offset(LeaderEpoch(epoch)))
            .collect(),
        max_timestamp: log.max_timestamp(),
        by_time: (2_400..5_100)
            .step_by(25)
            .map(|timestamp_ms| log.batch_at_or_after_timestamp(timestamp_ms))
            .collect(),
        plans,
        producers: format!("{:?}", log.producers()),
        size: log.size_bytes(),
    }
}

#[test]
fn an_open_reads_headers_index_files_and_what_follows_the_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("p");
    let checkpoint = write_log(&directory);
    let segments = files(&directory, "log").len() as u64;
    assert_eq!(files(&directory, "index").len() as u64, segments);
    let index_bytes: u64 = files(&directory, "index")
        .iter()
        .map(|path| fs::metadata(path).unwrap().len())
        .sum();
    // For each: its header, its index, a look behind its end, and its first entry.
    let allowed = index_bytes + segments * (8_192 + 2 * 16_384);

    let mut disk = Counting::new();
    let (log, report) = open(&mut disk, spec(&directory, Some(checkpoint.clone()), true));
    assert!(report.clean);
    assert!(
        log.size_bytes() > 3 * allowed,
        "{} bytes in the log, {allowed} allowed",
        log.size_bytes()
    );
    assert!(
        disk.read_bytes <= allowed,
        "clean: {} of {allowed}",
        disk.read_bytes
    );
    drop(log);

    let mut disk = Counting::new();
    let (mut log, report) = open(&mut disk, spec(&directory, Some(checkpoint.clone()), false));
    assert!(!report.clean);
    // What lies behind the end of the last segment is searched: up to its last extent.
    let last = files(&directory, "log").pop().unwrap();
    let allowed = allowed + fs::metadata(last).unwrap().len();
    assert!(
        disk.read_bytes <= allowed,
        "unclean: {} of {allowed}",
        disk.read_bytes
    );

    // What is appended after the checkpoint is read.
    append(&mut log, &mut disk, BATCHES);
    drop(log);
    let (log, _) = open(&mut Counting::new(), spec(&directory, Some(checkpoint), false));
    assert_eq!(log.log_end_offset(), Offset(i64::from(BATCHES) + 1));
}

#[test]
fn a_lost_cache_of_producers_is_read_again_from_the_newest_state_on() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("p");
    let checkpoint = write_log(&directory);
    let (mut log, _) = open(
        &mut StdDisk::new(),
        spec(&directory, Some(checkpoint.clone()), true),
    );
    let expected = face(&mut log);
    drop(log);
    for cache in [Vec::new(), vec![0; 40], vec![7; 9]] {
        for clean in [true, false] {
            let without = PartitionCheckpoint {
                producer_state: cache.clone(),
                ..checkpoint.clone()
            };
            let mut disk = Counting::new();
            let (mut log, report) = open(&mut disk, spec(&directory, Some(without), clean));
            assert_eq!(report.clean, clean);
            assert_eq!(face(&mut log), expected);
            assert!(
                disk.read_bytes < log.size_bytes() / 2,
                "{} bytes read: not the whole log",
                disk.read_bytes
            );
        }
    }
}

/// One segment of some MiB under load: what is appended is never durable at once, and ticks come now and then.
fn write_large(directory: &Path, disk: &mut StdDisk) -> (Box<PartitionLog>, PartitionCheckpoint) {
    let large = OpenSpec {
        config: LogConfig {
            segment_bytes: 64 << 20,
            ..spec(directory, None, false).config
        },
        ..spec(directory, None, false)
    };
    let (mut log, _) = open(disk, large);
    let mut checkpoint = log.checkpoint();
    for number in 0..3 * BATCHES {
        append(&mut log, disk, number);
        log.tick(1, disk);
        if number == 2 * BATCHES {
            // Something is always ahead of what is durable.
            let batch = Bytes::from(build_batch(&BatchSpec::default(), &[&[7; 100]]));
            log.append(1, disk, &batch).unwrap();
            checkpoint = log.checkpoint();
        }
    }
    settle(&mut log, disk, 1);
    (log, checkpoint)
}

#[test]
fn after_a_crash_the_segment_that_took_appends_is_read_from_near_the_checkpoint_on() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("p");
    let mut disk = StdDisk::new();
    let (mut log, checkpoint) = write_large(&directory, &mut disk);
    let (end, size) = (log.log_end_offset(), log.size_bytes());
    assert_eq!(log.segment_count(), 1);
    let expected = format!("{:?} {:?}", log.producers(), log.max_timestamp());
    let plan = |log: &mut PartitionLog, offset| {
        let plan = log.read(&mut StdDisk::new(), Offset(offset), end, 1).unwrap();
        plan.parts.len()
    };
    let parts: Vec<usize> = (0..end.0)
        .step_by(13)
        .map(|offset| plan(&mut log, offset))
        .collect();
    drop(log);
    let durable = checkpoint.segments[0].length.0;
    assert!(
        checkpoint.recovery_point < checkpoint.durable_index && !checkpoint.producer_state.is_empty(),
        "{checkpoint:?}"
    );
    let unclean = OpenSpec {
        created: false,
        ..spec(&directory, Some(checkpoint), false)
    };
    for again in 0..3 {
        let mut disk = Counting::new();
        let (mut log, report) = open(&mut disk, unclean.clone());
        assert!(!report.clean && report.quarantined.is_empty());
        assert_eq!(log.log_end_offset(), end);
        let known = format!("{:?} {:?}", log.producers(), log.max_timestamp());
        assert_eq!(known, expected, "opened {again} times before");
        let found: Vec<usize> = (0..end.0)
            .step_by(13)
            .map(|offset| plan(&mut log, offset))
            .collect();
        assert_eq!(found, parts);
        let before: u64 = disk
            .read
            .iter()
            .filter(|range| range.start >= 8_192 && range.end <= durable - durable / 4)
            .map(|range| range.end - range.start)
            .sum();
        assert_eq!(
            before, 0,
            "of {size} bytes, {durable} at the checkpoint: {:?}",
            disk.read
        );
    }
}

#[test]
fn a_part_of_an_index_file_that_is_torn_or_of_another_time_costs_reading_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("p");
    let mut disk = StdDisk::new();
    let (log, checkpoint) = write_large(&directory, &mut disk);
    let expected = format!("{:?} {:?}", log.producers(), log.max_timestamp());
    let end = log.log_end_offset();
    drop(log);
    let index = files(&directory, "index").pop().unwrap();
    let whole = fs::read(&index).unwrap();
    let unclean = OpenSpec {
        created: false,
        ..spec(&directory, Some(checkpoint), false)
    };
    for cut in (0..whole.len()).step_by(whole.len() / 40) {
        for flip in [false, true] {
            let mut bytes = whole.clone();
            if flip {
                bytes[cut] ^= 0x10;
            } else {
                bytes.truncate(cut);
            }
            fs::write(&index, &bytes).unwrap();
            let (log, report) = open(&mut StdDisk::new(), unclean.clone());
            assert!(report.quarantined.is_empty() && report.set_aside.is_empty());
            assert_eq!(log.log_end_offset(), end, "byte {cut}, flipped: {flip}");
            let known = format!("{:?} {:?}", log.producers(), log.max_timestamp());
            assert_eq!(known, expected, "byte {cut}, flipped: {flip}");
        }
    }
}

type Damage = fn(&[PathBuf]);

#[test]
fn whatever_befalls_index_files_the_same_log_opens() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("p");
    let checkpoint = write_log(&directory);
    let intact = root.path().join("intact");
    copy(&directory, &intact);
    let (mut log, _) = open(&mut StdDisk::new(), spec(&intact, Some(checkpoint.clone()), true));
    let expected = face(&mut log);
    drop(log);
    let damages: [(&str, Damage); 7] = [
        ("all lost", |files| {
            files.iter().for_each(|file| fs::remove_file(file).unwrap())
        }),
        ("some lost", |files| {
            files
                .iter()
                .step_by(2)
                .for_each(|file| fs::remove_file(file).unwrap());
        }),
        ("zeroed", |files| {
            for file in files {
                let len = fs::metadata(file).unwrap().len() as usize;
                fs::write(file, vec![0; len]).unwrap();
            }
        }),
        ("truncated", |files| {
            for (nth, file) in files.iter().enumerate() {
                let bytes = fs::read(file).unwrap();
                fs::write(file, &bytes[..bytes.len() * nth / files.len()]).unwrap();
            }
        }),
        ("flipped", |files| {
            for (nth, file) in files.iter().enumerate() {
                let mut bytes = fs::read(file).unwrap();
                let at = bytes.len() * nth / files.len();
                bytes[at] ^= 1;
                fs::write(file, bytes).unwrap();
            }
        }),
        ("swapped", |files| {
            let contents: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
            for (file, content) in files.iter().zip(contents.iter().cycle().skip(1)) {
                fs::write(file, content).unwrap();
            }
        }),
        ("directories", |files| {
            for file in files {
                fs::remove_file(file).unwrap();
                fs::create_dir(file).unwrap();
            }
        }),
    ];
    for (nth, (name, damage)) in damages.into_iter().enumerate() {
        for clean in [true, false] {
            let damaged = root.path().join(format!("{nth}-{clean}"));
            copy(&directory, &damaged);
            damage(&files(&damaged, "index"));
            let mut disk = StdDisk::new();
            let (mut log, report) = open(&mut disk, spec(&damaged, Some(checkpoint.clone()), clean));
            assert_eq!(report.clean, clean, "{name}");
            assert!(report.quarantined.is_empty() && report.set_aside.is_empty());
            assert_eq!(face(&mut log), expected, "{name}, clean: {clean}");
            settle(&mut log, &mut disk, 1);
            if name != "directories" {
                // The last segment's is written at a close.
                let there = files(&damaged, "index").len();
                assert!(there + 1 >= log.segment_count(), "{name}: written again");
            }
            drop(log);
            // With what was written again it opens once more.
            let (mut log, report) = open(&mut disk, spec(&damaged, Some(checkpoint.clone()), clean));
            assert_eq!(report.clean, clean, "{name}");
            assert_eq!(face(&mut log), expected, "{name} again, clean: {clean}");
        }
    }
}

#[test]
fn an_index_file_is_never_evidence() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("p");
    let checkpoint = write_log(&directory);
    let last = files(&directory, "log").pop().unwrap();
    // The last segment loses its entries; its index file speaks of them, and no checkpoint does.
    let bytes = fs::read(&last).unwrap();
    fs::write(&last, &bytes[..8_192]).unwrap();
    let unsaid = OpenSpec {
        checkpoint: None,
        created: false,
        ..spec(&directory, Some(checkpoint), false)
    };
    let (log, report) = open(&mut StdDisk::new(), unsaid);
    assert!(report.quarantined.is_empty());
    assert!(log.log_end_offset() < Offset(i64::from(BATCHES)));
    assert_eq!(log.log_end_offset(), log.durable_offset());
}

#[test]
fn a_successor_behind_a_recorded_end_makes_a_clean_open_unclean() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("p");
    let checkpoint = write_log(&directory);
    let mut disk = StdDisk::new();
    let (mut log, _) = open(&mut disk, spec(&directory, Some(checkpoint.clone()), true));
    append(&mut log, &mut disk, BATCHES);
    drop(log);
    let (log, report) = open(&mut disk, spec(&directory, Some(checkpoint), true));
    assert!(report.clean_flag_was_stale && !report.clean);
    assert_eq!(log.log_end_offset(), Offset(i64::from(BATCHES) + 1));
}
