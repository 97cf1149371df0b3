//! The promise: entries that were cut stay cut, also when the segment that the log went on in loses its
//! header: its index range is then reported as damage, at every later open too.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::path::{Path, PathBuf};

use bytes::Bytes;
use tidelog_segment_log::batch::testing::{BatchSpec, build_batch};
use tidelog_segment_log::checkpoint::PartitionCheckpoint;
use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::disk::memory::MemoryDisk;
use tidelog_segment_log::ids::{EntryIndex, Offset, PartitionKey, TopicId};
use tidelog_segment_log::log::{
    Durability, LogConfig, OpenSpec, Opening, PartitionLog, ReadError, drive_open,
};
use tidelog_segment_log::recovery::RecoveryReport;

fn spec(checkpoint: Option<PartitionCheckpoint>, created: bool) -> OpenSpec {
    OpenSpec {
        directory: PathBuf::from("/p"),
        key: PartitionKey {
            topic: TopicId([1; 16]),
            partition: 0,
        },
        config: LogConfig {
            segment_bytes: 1 << 20,
            segment_ms: i64::MAX,
            durability: Durability::Fsync,
        },
        token_space: 1,
        checkpoint,
        clean: false,
        start_counter: 1,
        created,
    }
}

fn open(
    disk: &mut MemoryDisk,
    checkpoint: Option<PartitionCheckpoint>,
    created: bool,
) -> (Box<PartitionLog>, RecoveryReport) {
    let (mut log, report) = drive_open(disk, Opening::new(spec(checkpoint, created))).unwrap();
    log.confirm_term();
    (log, report)
}

fn settle(log: &mut PartitionLog, disk: &mut MemoryDisk) {
    let mut completions = Vec::new();
    loop {
        log.flush(1, disk);
        disk.take_completions(&mut completions);
        if completions.is_empty() {
            return;
        }
        for completion in completions.drain(..) {
            log.on_completion(1, disk, completion);
        }
    }
}

/// Larger than a page, so that a cut leaves what is behind it.
fn append(log: &mut PartitionLog, disk: &mut MemoryDisk, number: u8) {
    let batch = build_batch(&BatchSpec::default(), &[&[number; 5_000], b"second"]);
    log.append(1, disk, &Bytes::from(batch)).unwrap();
}

fn change(disk: &mut MemoryDisk, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = disk.file(path).unwrap().to_vec();
    change(&mut bytes);
    disk.put(path, bytes);
}

/// Five batches of two records, of which the third was torn, so that it and those behind it were cut; two
/// batches in their place, in a new segment, and the checkpoint that names it.
fn cut_and_continued() -> (MemoryDisk, PathBuf, PartitionCheckpoint) {
    let mut disk = MemoryDisk::new();
    let (mut log, _) = open(&mut disk, None, true);
    let mut third = 0;
    for number in 0..5 {
        if number == 2 {
            third = log.size_bytes();
        }
        append(&mut log, &mut disk, number);
    }
    settle(&mut log, &mut disk);
    drop(log);
    let first = PathBuf::from("/p/00000000000000000001-0.log");
    change(&mut disk, &first, |bytes| bytes[third as usize + 30] ^= 1);
    let (mut log, report) = open(&mut disk, None, false);
    assert!(
        report.torn_entries_seen && report.quarantined.is_empty(),
        "{report:?}"
    );
    assert_eq!(log.log_end_offset(), Offset(4));
    for number in 5..7 {
        append(&mut log, &mut disk, number);
        settle(&mut log, &mut disk);
    }
    let second = PathBuf::from("/p/00000000000000000003-0.log");
    assert!(disk.file(&second).is_some(), "it goes on in a new segment");
    (disk, second, log.checkpoint())
}

fn lose_header(disk: &mut MemoryDisk, segment: &Path) {
    change(disk, segment, |bytes| {
        bytes[20] ^= 1;
        bytes[4_116] ^= 1;
    });
}

/// What the open says is lost, and that nothing is served there.
fn check(log: &mut PartitionLog, disk: &mut MemoryDisk, report: &RecoveryReport, when: &str) {
    let lost: Vec<_> = report
        .quarantined
        .iter()
        .map(|damage| (damage.indices.clone(), damage.offsets.clone()))
        .collect();
    assert_eq!(
        lost,
        [(EntryIndex(3)..EntryIndex(5), Offset(4)..Offset(8))],
        "{when}"
    );
    for offset in 4..8 {
        let refused = log.read(disk, Offset(offset), Offset(8), 1).unwrap_err();
        let expected = ReadError::Quarantined {
            from: Offset(offset),
            next: Offset(8),
        };
        assert_eq!(refused, expected, "{when}");
    }
}

#[test]
fn what_was_cut_is_not_served_in_place_of_a_lost_continuation() {
    let (mut disk, second, checkpoint) = cut_and_continued();
    lose_header(&mut disk, &second);
    let (mut log, report) = open(&mut disk, Some(checkpoint.clone()), false);
    check(&mut log, &mut disk, &report, "the first open");
    let with_new_checkpoint = log.checkpoint();
    append(&mut log, &mut disk, 9);
    settle(&mut log, &mut disk);
    assert_eq!(log.log_end_offset(), Offset(10));
    drop(log);
    // With the checkpoint of before, with that of this start, which does not name the lost segment any
    // more, and with none.
    for checkpoint in [Some(checkpoint), Some(with_new_checkpoint), None] {
        let (mut log, report) = open(&mut disk, checkpoint.clone(), false);
        check(&mut log, &mut disk, &report, &format!("with {checkpoint:?}"));
        assert_eq!(log.log_end_offset(), Offset(10));
    }
}

#[test]
fn a_lost_continuation_that_held_nothing_durable_loses_nothing() {
    let (mut disk, second, mut checkpoint) = cut_and_continued();
    // As it was when the segment had just been begun.
    checkpoint.durable_index = EntryIndex(2);
    checkpoint.recovery_point = EntryIndex(2);
    checkpoint.next_offset = Offset(4);
    checkpoint.segments[1].durable_index = EntryIndex(2);
    lose_header(&mut disk, &second);
    let (mut log, report) = open(&mut disk, Some(checkpoint.clone()), false);
    assert!(report.quarantined.is_empty(), "{report:?}");
    assert_eq!(log.log_end_offset(), Offset(4), "nothing that was cut is there");
    append(&mut log, &mut disk, 9);
    settle(&mut log, &mut disk);
    drop(log);
    let (log, report) = open(&mut disk, Some(checkpoint), false);
    assert!(report.quarantined.is_empty(), "{report:?}");
    assert_eq!(log.log_end_offset(), Offset(6), "and what came after it is");
}
