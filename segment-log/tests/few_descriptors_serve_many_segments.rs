//! The promise: a log of many segments is written, read and opened again with few descriptors, and none is
//! closed while a sync of it is owed.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use bytes::Bytes;
use tidelog_segment_log::batch::testing::{BatchSpec, build_batch};
use tidelog_segment_log::disk::{
    Completion, Descriptors, Disk, DiskOp, DiskOutput, ReadSource, StdDisk, Token,
};
use tidelog_segment_log::ids::{Offset, PartitionKey, TopicId};
use tidelog_segment_log::log::{
    Durability, LogConfig, LogStatus, OpenSpec, Opening, PartitionLog, ReadPart, drive_open, verify_cold,
};

const BOUND: usize = 6;
const SEGMENTS: i64 = 120;

fn spec(dir: &std::path::Path, durability: Durability, created: bool) -> OpenSpec {
    OpenSpec {
        directory: dir.join("p"),
        key: PartitionKey {
            topic: TopicId([7; 16]),
            partition: 0,
        },
        config: LogConfig {
            segment_bytes: 1,
            segment_ms: i64::MAX,
            durability,
        },
        token_space: 9,
        checkpoint: None,
        clean: false,
        start_counter: 1,
        created,
    }
}

fn settle(log: &mut PartitionLog, disk: &mut StdDisk) {
    log.flush(1, disk);
    loop {
        let mut completions: Vec<Completion> = Vec::new();
        disk.take_completions(&mut completions);
        if completions.is_empty() {
            return;
        }
        for completion in completions {
            log.on_completion(1, disk, completion);
        }
    }
}

/// Reads the batch at an offset as another shard would: by its own disk, through the plan's file.
fn read(log: &mut PartitionLog, disk: &mut StdDisk, offset: i64) -> Vec<u8> {
    let plan = log
        .read(disk, Offset(offset), Offset(offset + 1), usize::MAX)
        .unwrap();
    match plan.parts.into_iter().next().unwrap() {
        ReadPart::Hot(pieces) => pieces[0].to_vec(),
        ReadPart::Cold(range) => {
            let mut other = StdDisk::new();
            let op = DiskOp::Read {
                file: range.file.clone(),
                position: range.position.start,
                len: (range.position.end - range.position.start) as usize,
                source: ReadSource::Cached,
            };
            other.submit(Token(1), op);
            let mut done = Vec::new();
            other.take_completions(&mut done);
            match done.pop().unwrap().result.unwrap() {
                DiskOutput::Read(bytes) => {
                    let batches = verify_cold(&range, &bytes).unwrap();
                    bytes[batches[0].clone()].to_vec()
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

fn fill(log: &mut PartitionLog, disk: &mut StdDisk) {
    for n in 0..SEGMENTS {
        let value = n.to_be_bytes();
        let batch = Bytes::from(build_batch(&BatchSpec::default(), &[&value]));
        log.append(1, disk, &batch).unwrap();
        settle(log, disk);
    }
}

fn check(log: &mut PartitionLog, disk: &mut StdDisk) {
    for n in 0..SEGMENTS {
        let batch = read(log, disk, n);
        assert!(
            batch.windows(8).any(|window| *window == n.to_be_bytes()),
            "offset {n}"
        );
    }
}

#[test]
fn a_log_of_many_segments_is_served_with_few_descriptors() {
    for durability in [Durability::Fsync, Durability::Os] {
        let dir = tempfile::tempdir().unwrap();
        let cache = Descriptors::bounded(BOUND);
        // Nothing is hot: each read needs a descriptor.
        let mut disk = StdDisk::with_descriptors(0, cache.clone());
        let (mut log, _) = drive_open(&mut disk, Opening::new(spec(dir.path(), durability, true))).unwrap();
        fill(&mut log, &mut disk);
        assert_eq!(log.segment_count() as i64, SEGMENTS);
        assert!(cache.counts().open <= BOUND, "{:?}", cache.counts());
        check(&mut log, &mut disk);
        assert_eq!(log.status(), LogStatus::Open);
        assert!(cache.counts().open <= BOUND, "{:?}", cache.counts());
        assert!(cache.counts().evicted > SEGMENTS as u64, "{:?}", cache.counts());

        // Recovery goes over all files with as few.
        drop(log);
        let (mut log, report) =
            drive_open(&mut disk, Opening::new(spec(dir.path(), durability, false))).unwrap();
        assert!(!report.clean && report.quarantined.is_empty(), "{report:?}");
        assert_eq!(log.log_end_offset(), Offset(SEGMENTS));
        check(&mut log, &mut disk);
        assert!(cache.counts().open <= BOUND, "{:?}", cache.counts());
    }
}

/// Under `os` nobody syncs a tail by itself. When its descriptor is wanted, the log does, and only then is it closed.
#[test]
fn a_tail_whose_descriptor_is_wanted_is_synced_before_it_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Descriptors::bounded(1);
    let mut disk = StdDisk::with_descriptors(0, cache.clone());
    let (mut log, _) = drive_open(&mut disk, Opening::new(spec(dir.path(), Durability::Os, true))).unwrap();
    let batch = Bytes::from(build_batch(&BatchSpec::default(), &[b"value"]));
    log.append(1, &mut disk, &batch).unwrap();
    settle(&mut log, &mut disk);
    log.tick(2, &mut disk);
    settle(&mut log, &mut disk);
    assert_eq!(log.durable_offset(), Offset(0), "nobody asked for a sync");
    assert_eq!(cache.make_room(10), 0, "it has writes that no sync covers");
    assert_eq!(cache.counts().open, 1);
    log.tick(3, &mut disk);
    settle(&mut log, &mut disk);
    assert_eq!(log.durable_offset(), Offset(1), "the log synced it");
    assert_eq!(cache.make_room(10), 1);
    assert_eq!(cache.counts().open, 0);
    // And it goes on through a new descriptor.
    log.append(3, &mut disk, &batch).unwrap();
    settle(&mut log, &mut disk);
    assert_eq!(log.high_watermark(), Offset(2));
}
