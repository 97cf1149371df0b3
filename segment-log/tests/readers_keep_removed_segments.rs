//! The promise: a reader that was given a plan gets the right bytes, whatever retention does to the segment
//! meanwhile: the file is unlinked, and goes when the last reader is done.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::path::Path;

use bytes::Bytes;
use tidelog_segment_log::batch::testing::{BatchSpec, build_batch};
use tidelog_segment_log::batch::{BatchHeader, patch_prefix};
use tidelog_segment_log::checkpoint::PartitionCheckpoint;
use tidelog_segment_log::disk::{Descriptors, Disk, DiskOp, DiskOutput, ReadSource, StdDisk, Token};
use tidelog_segment_log::ids::{Offset, PartitionKey, TopicId};
use tidelog_segment_log::log::{
    CloseProgress, ColdRange, Durability, LogConfig, OpenSpec, Opening, PartitionLog, ReadPart,
    RetentionLimits, drive_open, verify_cold,
};

const BATCHES: i64 = 60;

fn spec(directory: &Path, checkpoint: Option<PartitionCheckpoint>) -> OpenSpec {
    OpenSpec {
        directory: directory.to_path_buf(),
        key: PartitionKey {
            topic: TopicId([3; 16]),
            partition: 0,
        },
        config: LogConfig {
            segment_bytes: 40 << 10,
            segment_ms: i64::MAX,
            durability: Durability::Fsync,
        },
        token_space: 1,
        created: checkpoint.is_none(),
        clean: checkpoint.is_some(),
        checkpoint,
        start_counter: 1,
    }
}

fn batch(number: i64) -> Bytes {
    let value = vec![number as u8; 3_000];
    let spec = BatchSpec {
        timestamp_ms: 1_000 + number,
        ..BatchSpec::default()
    };
    Bytes::from(build_batch(&spec, &[value.as_slice()]))
}

/// As it lies in the log.
fn stored(number: i64, log: &PartitionLog) -> Bytes {
    let batch = batch(number);
    let mut bytes = patch_prefix(&batch, Offset(number), log.leader_epoch()).to_vec();
    bytes.extend_from_slice(&batch[bytes.len()..]);
    Bytes::from(bytes)
}

fn settle(log: &mut PartitionLog, disk: &mut StdDisk) {
    let mut completions = Vec::new();
    loop {
        log.tick(1, disk);
        disk.take_completions(&mut completions);
        if completions.is_empty() {
            return;
        }
        for completion in completions.drain(..) {
            log.on_completion(1, disk, completion);
        }
    }
}

fn filled(directory: &Path, disk: &mut StdDisk) -> Box<PartitionLog> {
    let (mut log, _) = drive_open(disk, Opening::new(spec(directory, None))).unwrap();
    for number in 0..BATCHES {
        log.append(1, disk, &batch(number)).unwrap();
        settle(&mut log, disk);
    }
    assert!(log.segment_count() > 4);
    log
}

fn remove_all_but_the_last(log: &mut PartitionLog, disk: &mut StdDisk) {
    let before = log.segment_count() as u64;
    let limits = RetentionLimits {
        age_ms: None,
        size_bytes: Some(1),
    };
    log.retain(1, disk, 1, limits);
    settle(log, disk);
    assert_eq!(log.segment_count(), 1);
    assert_eq!(log.take_removed().segments, before - 1);
}

fn read(disk: &mut StdDisk, range: &ColdRange) -> Vec<Bytes> {
    let op = DiskOp::Read {
        file: range.file.clone(),
        position: range.position.start,
        len: (range.position.end - range.position.start) as usize,
        source: ReadSource::Cached,
    };
    disk.submit(Token(99 << 32), op);
    let mut completions = Vec::new();
    disk.take_completions(&mut completions);
    let Some(Ok(DiskOutput::Read(bytes))) = completions.pop().map(|completion| completion.result) else {
        panic!("a reader with a lease cannot read")
    };
    let found = verify_cold(range, &bytes).unwrap();
    found
        .into_iter()
        .map(|at| Bytes::copy_from_slice(&bytes[at]))
        .collect()
}

#[test]
fn a_cold_plan_reads_its_segment_after_it_was_removed_and_descriptors_were_wanted() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("p");
    let mut disk = StdDisk::new();
    let mut log = filled(&directory, &mut disk);
    let checkpoint = loop {
        match log.close(1, &mut disk) {
            CloseProgress::Closed(checkpoint) => break *checkpoint,
            CloseProgress::Fenced => panic!("fenced"),
            CloseProgress::Pending => settle(&mut log, &mut disk),
        }
    };
    drop(log);
    // Nothing is hot for a new process, and few descriptors stay open.
    let descriptors = Descriptors::bounded(2);
    let mut disk = StdDisk::with_descriptors(1 << 20, descriptors.clone());
    let (mut log, report) = drive_open(&mut disk, Opening::new(spec(&directory, Some(checkpoint)))).unwrap();
    assert!(report.clean);
    let plan = log.read(&mut disk, Offset(2), Offset(BATCHES), 12_000).unwrap();
    let [ReadPart::Cold(range)] = plan.parts.as_slice() else {
        panic!("{plan:?}")
    };
    remove_all_but_the_last(&mut log, &mut disk);
    assert!(!range.file.path().exists(), "its name is gone");
    descriptors.make_room(16);
    let batches = read(&mut disk, range);
    assert!(batches.len() > 1);
    for (batch, number) in batches.iter().zip(2..) {
        assert_eq!(BatchHeader::parse(batch).unwrap().base_offset, Offset(number));
        assert!(*batch == stored(number, &log));
    }
    drop(plan);
    assert!(log.read(&mut disk, Offset(2), Offset(BATCHES), 1).is_err());
}

#[test]
fn a_hot_plan_keeps_its_bytes_after_its_segment_was_removed() {
    let root = tempfile::tempdir().unwrap();
    let mut disk = StdDisk::new();
    let mut log = filled(&root.path().join("p"), &mut disk);
    let plan = log.read(&mut disk, Offset(0), Offset(BATCHES), 1 << 20).unwrap();
    assert!(plan.parts.len() > 3, "over several segments");
    remove_all_but_the_last(&mut log, &mut disk);
    let mut number = 0;
    for part in &plan.parts {
        let ReadPart::Hot(pieces) = part else {
            panic!("what was just written is hot")
        };
        for piece in pieces {
            assert!(**piece == *stored(number, &log), "batch {number}");
            number += 1;
        }
    }
    assert_eq!(number, BATCHES);
    // Its maps go with the plan, and the space with them.
    drop(plan);
    disk.drop_closed();
    assert!(disk.hot_maps().maps() <= 1, "only the last segment's is left");
}
