//! The promise: a log is a list of batches. Whatever the order of appends, flushes, ticks, rolls,
//! reads, moves of the log start, truncations and reopenings, it serves what was appended and not deleted, in order, at
//! the offsets it gave.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::path::Path;

use bytes::Bytes;
use proptest::prelude::*;
use tidelog_segment_log::batch::testing::{BatchSpec, build_batch};
use tidelog_segment_log::batch::{BatchHeader, patch_prefix};
use tidelog_segment_log::checkpoint::PartitionCheckpoint;
use tidelog_segment_log::disk::std_disk::StdDisk;
use tidelog_segment_log::disk::{Disk, DiskOp, DiskOutput, ReadSource, Token};
use tidelog_segment_log::ids::{LeaderEpoch, Offset, PartitionKey, TopicId};
use tidelog_segment_log::limits::LOG_STARTS_PENDING_MAX;
use tidelog_segment_log::log::{
    AppendError, CloseProgress, Durability, LogConfig, LogStartError, OpenError, OpenSpec, Opening,
    PartitionLog, ReadError, ReadPart, RetentionLimits, Truncation, drive_open, remove_partition_directory,
    verify_cold,
};
use tidelog_segment_log::recovery::{RecoveryOptions, RecoveryReport};

fn key() -> PartitionKey {
    PartitionKey {
        topic: TopicId([1; 16]),
        partition: 0,
    }
}

fn spec(directory: &Path, checkpoint: Option<PartitionCheckpoint>, clean: bool, created: bool) -> OpenSpec {
    OpenSpec {
        directory: directory.to_path_buf(),
        key: key(),
        config: LogConfig {
            segment_bytes: 64 << 10,
            segment_ms: 10_000,
            durability: Durability::Fsync,
        },
        token_space: 1,
        checkpoint,
        clean,
        start_counter: 2,
        created,
    }
}

fn open(disk: &mut StdDisk, spec: OpenSpec) -> (Box<PartitionLog>, RecoveryReport) {
    let (mut log, report) = drive_open(disk, Opening::new(spec)).unwrap();
    log.confirm_term();
    (log, report)
}

fn settle(log: &mut PartitionLog, disk: &mut StdDisk, now_ms: i64) {
    let mut completions = Vec::new();
    loop {
        log.flush(now_ms, disk);
        disk.take_completions(&mut completions);
        if completions.is_empty() {
            return;
        }
        for completion in completions.drain(..) {
            log.on_completion(now_ms, disk, completion);
        }
    }
}

fn close(mut log: Box<PartitionLog>, disk: &mut StdDisk, now_ms: i64) -> PartitionCheckpoint {
    loop {
        match log.close(now_ms, disk) {
            CloseProgress::Closed(checkpoint) => return *checkpoint,
            CloseProgress::Fenced => panic!("fenced: {:?}", log.fence_cause()),
            CloseProgress::Pending => settle(&mut log, disk, now_ms),
        }
    }
}

fn cold(disk: &mut StdDisk, part: &ReadPart) -> Vec<Bytes> {
    match part {
        ReadPart::Hot(pieces) => pieces.iter().map(|piece| Bytes::copy_from_slice(piece)).collect(),
        ReadPart::Cold(range) => {
            let len = (range.position.end - range.position.start) as usize;
            let (file, position, source) = (range.file.clone(), range.position.start, ReadSource::Cached);
            disk.submit(
                Token(99 << 32),
                DiskOp::Read {
                    file,
                    position,
                    len,
                    source,
                },
            );
            let mut completions = Vec::new();
            disk.take_completions(&mut completions);
            let read = completions
                .into_iter()
                .find(|completion| completion.token == Token(99 << 32));
            let Some(Ok(DiskOutput::Read(bytes))) = read.map(|completion| completion.result) else {
                panic!("a cold read fails")
            };
            let found = verify_cold(range, &bytes).unwrap();
            found
                .into_iter()
                .map(|at| Bytes::copy_from_slice(&bytes[at]))
                .collect()
        }
    }
}

fn read_from(log: &mut PartitionLog, disk: &mut StdDisk, from: Offset, max_bytes: usize) -> Vec<Bytes> {
    let below = log.high_watermark();
    let plan = log.read(disk, from, below, max_bytes).unwrap();
    plan.parts.iter().flat_map(|part| cold(disk, part)).collect()
}

fn read_all(log: &mut PartitionLog, disk: &mut StdDisk, max_bytes: usize) -> Vec<Bytes> {
    let mut all: Vec<Bytes> = Vec::new();
    let mut at = log.log_start_offset();
    while at < log.high_watermark() {
        let batches = read_from(log, disk, at, max_bytes);
        assert!(!batches.is_empty(), "at least one batch at {at}");
        let last = BatchHeader::parse(batches.last().unwrap()).unwrap();
        at = Offset(last.last_offset().0 + 1);
        all.extend(batches);
    }
    all
}

fn batch(records: usize, len: usize, timestamp_ms: i64) -> Bytes {
    let value = vec![(len % 251) as u8; len];
    let values: Vec<&[u8]> = (0..records).map(|_| value.as_slice()).collect();
    Bytes::from(build_batch(
        &BatchSpec {
            timestamp_ms,
            ..BatchSpec::default()
        },
        &values,
    ))
}

fn stored(batch: &Bytes, base: Offset, epoch: LeaderEpoch) -> Bytes {
    let mut bytes = batch.to_vec();
    bytes[..21].copy_from_slice(&patch_prefix(batch, base, epoch));
    Bytes::from(bytes)
}

/// Base offset, epoch and length of each, which is what a failure should show.
fn shapes(batches: &[Bytes]) -> Vec<(i64, i32, usize)> {
    let shape = |batch: &Bytes| {
        let header = BatchHeader::parse(batch).expect("a batch");
        (header.base_offset.0, header.partition_leader_epoch.0, batch.len())
    };
    batches.iter().map(shape).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Append {
        records: usize,
        len: usize,
        behind_ms: i64,
    },
    /// A batch that has its offset and epoch, `gap` offsets behind the log.
    AppendAssigned {
        records: usize,
        len: usize,
        gap: i64,
    },
    /// Keeps so many bytes, or what is so old.
    Retain {
        size_bytes: Option<u64>,
        age_ms: Option<u64>,
    },
    Settle,
    Tick {
        ms: i64,
    },
    ReadAll {
        max_bytes: usize,
    },
    /// To this share of what may be deleted, in thousandths.
    DeleteTo {
        share: i64,
    },
    LookUpTimes {
        behind_ms: i64,
    },
    CloseAndOpen,
    /// Behind this share of all offsets, or of all batches: then what comes behind that one's epoch goes.
    Truncate {
        share: usize,
        by_epoch: bool,
    },
    /// With the newest checkpoint, one written at the last open, or none.
    DropAndRecover {
        checkpoint: Evidence,
    },
}

#[derive(Clone, Copy, Debug)]
enum Evidence {
    Newest,
    Older,
    None,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1usize..4, prop_oneof![4 => 0usize..600, 1 => 15_000usize..40_000], 0i64..3_000)
            .prop_map(|(records, len, behind_ms)| Step::Append { records, len, behind_ms }),
        3 => (1usize..4, prop_oneof![4 => 0usize..600, 1 => 3_000usize..9_000], 0i64..500)
            .prop_map(|(records, len, gap)| Step::AppendAssigned { records, len, gap }),
        2 => prop_oneof![
            (0u64..200_000).prop_map(|size_bytes| Step::Retain { size_bytes: Some(size_bytes), age_ms: None }),
            (0u64..20_000).prop_map(|age_ms| Step::Retain { size_bytes: None, age_ms: Some(age_ms) }),
        ],
        3 => Just(Step::Settle),
        1 => (1i64..20_000).prop_map(|ms| Step::Tick { ms }),
        2 => (1usize..100_000).prop_map(|max_bytes| Step::ReadAll { max_bytes }),
        2 => (0i64..=1_000).prop_map(|share| Step::DeleteTo { share }),
        2 => (-500i64..4_000).prop_map(|behind_ms| Step::LookUpTimes { behind_ms }),
        1 => Just(Step::CloseAndOpen),
        1 => (prop_oneof![0usize..=1_000, 900usize..=1_000], any::<bool>())
            .prop_map(|(share, by_epoch)| Step::Truncate { share, by_epoch }),
        1 => prop_oneof![Just(Evidence::Newest), Just(Evidence::Older), Just(Evidence::None)]
            .prop_map(|checkpoint| Step::DropAndRecover { checkpoint }),
    ]
}

/// Moves the log start and waits until it is durable.
fn delete_to(log: &mut PartitionLog, disk: &mut StdDisk, now_ms: i64, to: Offset) {
    let index = log.append_log_start(now_ms, disk, to).unwrap();
    settle(log, disk, now_ms);
    assert!(log.durable_index() >= index, "a commit has run");
}

/// The part of the model that is served.
fn served(model: &[Bytes], log_start: Offset) -> Vec<Bytes> {
    let last = |batch: &Bytes| BatchHeader::parse(batch).unwrap().last_offset();
    model
        .iter()
        .filter(|batch| last(batch) >= log_start)
        .cloned()
        .collect()
}

/// What look-ups by time may answer is above the log start, and never behind the batch that is looked for.
fn check_times(log: &PartitionLog, model: &[Bytes], timestamp_ms: i64) {
    let log_start = log.log_start_offset();
    let batches: Vec<BatchHeader> = served(model, log_start)
        .iter()
        .map(|batch| BatchHeader::parse(batch).unwrap())
        .collect();
    let found = log.batch_at_or_after_timestamp(timestamp_ms);
    assert!(found.is_none_or(|found| found >= log_start), "{found:?}");
    if let Some(first) = batches.iter().find(|batch| batch.max_timestamp >= timestamp_ms) {
        let found = found.unwrap();
        assert!(found <= first.base_offset.max(log_start), "{found} is behind it");
    }
    let newest = log.newest_record();
    assert!(newest.unknown.start >= log_start);
    assert!(
        newest
            .known
            .is_none_or(|(_, offset)| offset >= newest.unknown.end)
    );
    let in_unknown = batches
        .iter()
        .filter(|batch| newest.unknown.contains(&batch.base_offset.max(log_start)))
        .map(|batch| (batch.max_timestamp, batch.base_offset));
    let all = in_unknown.chain(newest.known);
    let highest = all.reduce(|best, next| if next.0 > best.0 { next } else { best });
    let expected = batches
        .iter()
        .map(|batch| (batch.max_timestamp, batch.base_offset))
        .reduce(|best, next| if next.0 > best.0 { next } else { best });
    assert_eq!(highest, expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_log_is_a_list_of_batches(steps in prop::collection::vec(step(), 1..40)) {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("partition");
        let mut disk = StdDisk::new();
        let mut now_ms = 1_000_000;
        let (mut log, _) = open(&mut disk, spec(&directory, None, false, true));
        let mut older = log.checkpoint();
        let mut starts = 2;
        let mut model: Vec<Bytes> = Vec::new();
        let mut start = Offset(0);
        let mut epochs: Vec<LeaderEpoch> = Vec::new();
        for step in steps {
            match step {
                Step::Append { records, len, behind_ms } => {
                    let batch = batch(records, len, now_ms - behind_ms);
                    let epoch = log.leader_epoch();
                    let expected = log.log_end_offset();
                    let appended = log.append(now_ms, &mut disk, &batch).unwrap();
                    prop_assert_eq!(appended.base_offset, expected);
                    prop_assert_eq!(appended.last_offset.0 + 1, log.log_end_offset().0);
                    model.push(stored(&batch, appended.base_offset, epoch));
                    epochs.push(epoch);
                }
                Step::AppendAssigned { records, len, gap } => {
                    let (epoch, expected) = (log.leader_epoch(), Offset(log.log_end_offset().0 + gap));
                    let batch = stored(&batch(records, len, now_ms), expected, epoch);
                    let appended = log.append_assigned(now_ms, &mut disk, &batch).unwrap();
                    prop_assert_eq!(appended.base_offset, expected);
                    prop_assert_eq!(appended.last_offset.0 + 1, log.log_end_offset().0);
                    let again = log.append_assigned(now_ms, &mut disk, &batch);
                    prop_assert!(matches!(again, Err(AppendError::OffsetTaken { .. })), "{:?}", again);
                    model.push(batch);
                }
                Step::Retain { size_bytes, age_ms } => {
                    // What a moved log start left behind goes first: once its producers' states are durable, a
                    // file at a time.
                    let mut rest = 2;
                    while rest > 0 {
                        let segments = log.segment_count();
                        log.tick(now_ms, &mut disk);
                        settle(&mut log, &mut disk, now_ms);
                        rest = if log.segment_count() < segments { 2 } else { rest - 1 };
                    }
                    let before = log.size_bytes();
                    let limits = RetentionLimits { age_ms, size_bytes };
                    log.retain(now_ms, &mut disk, now_ms, limits);
                    settle(&mut log, &mut disk, now_ms);
                    let moved = log.log_start_offset();
                    prop_assert!(moved >= start && moved <= log.high_watermark());
                    log.tick(now_ms, &mut disk);
                    settle(&mut log, &mut disk, now_ms);
                    if let Some(kept) = size_bytes {
                        prop_assert!(log.size_bytes() >= kept.min(before), "more went than was asked for: {} of {before}", log.size_bytes());
                    }
                    if let Some(age_ms) = age_ms {
                        let young = |batch: &&Bytes| {
                            let header = BatchHeader::parse(batch).unwrap();
                            let is_kept = header.last_offset() >= start;
                            is_kept && now_ms - header.max_timestamp <= age_ms as i64
                        };
                        let first = model.iter().find(young).map(|batch| BatchHeader::parse(batch).unwrap());
                        prop_assert!(first.is_none_or(|first| first.base_offset >= moved || first.base_offset < start));
                    }
                    start = moved;
                    let files = std::fs::read_dir(&directory).unwrap().flatten();
                    let logs = files.filter(|file| file.path().extension().is_some_and(|end| end == "log"));
                    prop_assert_eq!(logs.count(), log.segment_count(), "removed files are gone, others are there");
                }
                Step::Settle => settle(&mut log, &mut disk, now_ms),
                Step::Tick { ms } => {
                    now_ms += ms;
                    log.tick(now_ms, &mut disk);
                }
                Step::ReadAll { max_bytes } => {
                    settle(&mut log, &mut disk, now_ms);
                    let expected = served(&model, start);
                    prop_assert_eq!(shapes(&read_all(&mut log, &mut disk, max_bytes)), shapes(&expected));
                    if start > Offset(0) {
                        let below = log.read(&mut disk, Offset(start.0 - 1), start, max_bytes);
                        prop_assert!(matches!(below, Err(ReadError::BelowLogStart { .. })), "{:?}", below);
                    }
                }
                Step::DeleteTo { share } => {
                    let to = Offset(log.high_watermark().0 * share / 1_000);
                    delete_to(&mut log, &mut disk, now_ms, to);
                    start = start.max(to);
                    prop_assert_eq!(log.log_start_offset(), start);
                }
                Step::LookUpTimes { behind_ms } => check_times(&log, &model, now_ms - behind_ms),
                Step::CloseAndOpen => {
                    let epoch = log.leader_epoch();
                    let checkpoint = close(log, &mut disk, now_ms);
                    let (next, report) = open(&mut disk, spec(&directory, Some(checkpoint), true, false));
                    prop_assert!(report.clean, "{:?}", report);
                    prop_assert_eq!(next.leader_epoch(), epoch);
                    prop_assert_eq!(next.log_start_offset(), start);
                    log = next;
                    older = log.checkpoint();
                }
                Step::Truncate { share, by_epoch } => {
                    let epoch = log.leader_epoch();
                    let chosen = BatchHeader::parse(
                        model.get(model.len().saturating_sub(1) * share / 1_000).unwrap_or(&batch(1, 0, 0)),
                    );
                    let to = match by_epoch {
                        true => Truncation {
                            epoch: chosen.unwrap().partition_leader_epoch,
                            end_offset: Offset(i64::MAX),
                        },
                        false => Truncation {
                            epoch,
                            end_offset: Offset(log.log_end_offset().0 * share as i64 / 1_000),
                        },
                    };
                    let kept = model.iter().take_while(|batch| {
                        let header = BatchHeader::parse(batch).unwrap();
                        header.last_offset() < to.end_offset && header.partition_leader_epoch <= to.epoch
                    });
                    let kept = kept.count();
                    let last = model[..kept].last().map(|batch| BatchHeader::parse(batch).unwrap().last_offset());
                    let end = last.map_or(Offset(0), |last| Offset(last.0 + 1));
                    let checkpoint = close(log, &mut disk, now_ms);
                    let clean = spec(&directory, Some(checkpoint), true, false);
                    let truncating = Opening::truncating(clean.clone(), RecoveryOptions::default(), Some(to));
                    let (mut next, report) = match drive_open(&mut disk, truncating) {
                        Err(OpenError::CutBelowLogStart { end_offset, log_start }) => {
                            prop_assert_eq!(log_start, start);
                            prop_assert!(end < start && end_offset < start);
                            open(&mut disk, clean)
                        }
                        opened => {
                            let (next, report) = opened.unwrap();
                            // Where the epoch ended that stays is not known once that lies below the log start.
                            let end = if by_epoch { end.max(start) } else { end };
                            prop_assert_eq!(next.log_end_offset(), end);
                            prop_assert!(kept == model.len() || report.truncated == Some(end), "{:?}", report);
                            model.truncate(kept);
                            (next, report)
                        }
                    };
                    prop_assert!(report.quarantined.is_empty() && report.set_aside.is_empty(), "{:?}", report);
                    prop_assert_eq!(next.leader_epoch() > epoch, report.truncated.is_some());
                    prop_assert_eq!(next.log_start_offset(), start);
                    next.confirm_term();
                    log = next;
                    older = log.checkpoint();
                }
                Step::DropAndRecover { checkpoint } => {
                    settle(&mut log, &mut disk, now_ms);
                    let epoch = log.leader_epoch();
                    let evidence = match checkpoint {
                        Evidence::Newest => Some(log.checkpoint()),
                        Evidence::Older => Some(older),
                        Evidence::None => None,
                    };
                    drop(log);
                    starts += 1;
                    let spec = OpenSpec { start_counter: starts, ..spec(&directory, evidence, false, false) };
                    let (next, report) = open(&mut disk, spec);
                    prop_assert!(report.quarantined.is_empty() && report.set_aside.is_empty(), "{:?}", report);
                    prop_assert!(next.leader_epoch() > epoch);
                    prop_assert_eq!(next.log_start_offset(), start);
                    log = next;
                    older = log.checkpoint();
                }
            }
        }
        settle(&mut log, &mut disk, now_ms);
        prop_assert_eq!(log.durable_offset(), log.log_end_offset());
        let all = read_all(&mut log, &mut disk, 1);
        let expected = served(&model, start);
        prop_assert_eq!(shapes(&all), shapes(&expected));
        prop_assert!(all == expected, "same shapes, other bytes");
        check_times(&log, &model, now_ms - 1_000);
    }
}

#[test]
fn a_read_starts_at_the_batch_that_holds_the_offset() {
    let root = tempfile::tempdir().unwrap();
    let mut disk = StdDisk::new();
    let (mut log, _) = open(&mut disk, spec(&root.path().join("p"), None, false, true));
    for at in 0..200 {
        log.append(1, &mut disk, &batch(3, 700, 5_000 + at)).unwrap();
        settle(&mut log, &mut disk, 1);
    }
    assert!(log.segment_count() > 3, "the log rolled");
    for offset in 0..600 {
        let first = read_from(&mut log, &mut disk, Offset(offset), 1);
        assert_eq!(first.len(), 1);
        let header = BatchHeader::parse(&first[0]).unwrap();
        assert!(header.base_offset.0 <= offset && offset <= header.last_offset().0);
    }
    let from = log.batch_at_or_after_timestamp(5_100).unwrap();
    assert!(from <= Offset(300), "the scan begins before the batch");
    assert!(from >= Offset(280), "and not much before it: {from}");
    assert_eq!(log.batch_at_or_after_timestamp(5_200), None);
    assert_eq!(log.max_timestamp(), Some((5_199, Offset(597))));
    assert!(log.read(&mut disk, Offset(601), Offset(601), 10).is_err());
    assert!(
        log.read(&mut disk, Offset(600), Offset(601), 10)
            .unwrap()
            .parts
            .is_empty()
    );
}

#[test]
fn a_cold_plan_is_bounded_by_what_was_asked_for_and_may_start_inside_a_batch() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("p");
    let mut disk = StdDisk::new();
    let spec = |checkpoint, clean, created| OpenSpec {
        config: LogConfig {
            segment_bytes: 64 << 20,
            ..spec(&directory, None, false, false).config
        },
        ..spec(&directory, checkpoint, clean, created)
    };
    let (mut log, _) = open(&mut disk, spec(None, false, true));
    let mut sizes = Vec::new();
    for at in 0..600usize {
        // Small ones, ones about as large as the index is dense, and a few large ones.
        let len = match at % 100 {
            50 => 700_000,
            n if n % 10 == 3 => 1_500,
            n => n,
        };
        let batch = batch(3, len, 1);
        sizes.push(batch.len() as u64);
        log.append(1, &mut disk, &batch).unwrap();
        settle(&mut log, &mut disk, 1);
    }
    let checkpoint = close(log, &mut disk, 1);
    let mut disk = StdDisk::new();
    let (mut log, report) = open(&mut disk, spec(Some(checkpoint), true, false));
    assert!(report.clean);
    let size = log.size_bytes();
    assert!(size > 12 << 20, "far more than one request asks for: {size}");
    let end = log.high_watermark();
    for offset in (0..end.0).step_by(7) {
        for max_bytes in [1usize, 3_000, 100_000] {
            let plan = log.read(&mut disk, Offset(offset), end, max_bytes).unwrap();
            let [part @ ReadPart::Cold(range)] = plan.parts.as_slice() else {
                panic!("{plan:?}")
            };
            let first = BatchHeader::parse(&cold(&mut disk, part)[0]).unwrap();
            assert!(first.base_offset.0 <= offset && offset <= first.last_offset().0);
            let planned = range.position.end - range.position.start;
            // It begins less than an index interval in front of the batch, and ends with the entry
            // that reaches one interval beyond what was asked for.
            let own = first.total_len() as u64 + 200;
            let wanted = own.max(max_bytes as u64) + 2 * 4_096;
            let mut reached = 0;
            let crossing = sizes.iter().skip(offset as usize / 3).find(|size| {
                reached += **size + 64;
                reached >= wanted
            });
            let bound = wanted + crossing.map_or(0, |size| size + 200);
            assert!(
                planned <= bound,
                "offset {offset}, {max_bytes} bytes: {planned} planned, {bound} at most"
            );
        }
    }
}

#[test]
fn epochs_end_where_the_next_begins() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("p");
    let mut disk = StdDisk::new();
    let (mut log, _) = open(&mut disk, spec(&directory, None, false, true));
    assert_eq!(log.leader_epoch(), LeaderEpoch(0));
    log.append(1, &mut disk, &batch(2, 10, 1)).unwrap();
    settle(&mut log, &mut disk, 1);
    let checkpoint = log.checkpoint();
    drop(log);
    let (mut log, _) = open(&mut disk, spec(&directory, Some(checkpoint), false, false));
    assert_eq!(log.leader_epoch(), LeaderEpoch(1));
    log.append(1, &mut disk, &batch(1, 10, 1)).unwrap();
    settle(&mut log, &mut disk, 1);
    assert_eq!(log.epoch_end_offset(LeaderEpoch(0)), (LeaderEpoch(0), Offset(2)));
    assert_eq!(log.epoch_end_offset(LeaderEpoch(1)), (LeaderEpoch(1), Offset(3)));
    assert_eq!(
        log.epoch_end_offset(LeaderEpoch(9)),
        (LeaderEpoch(-1), Offset(-1))
    );
    drop(log);
    // No checkpoint of the last start speaks for it: above all terms of earlier starts.
    let (log, _) = open(&mut disk, spec(&directory, None, false, false));
    assert_eq!(log.leader_epoch(), LeaderEpoch(2_048));
}

#[test]
fn a_raised_term_takes_no_append_before_its_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("p");
    let mut disk = StdDisk::new();
    drop(open(&mut disk, spec(&directory, None, false, true)));
    let (mut log, report) =
        drive_open(&mut disk, Opening::new(spec(&directory, None, false, false))).unwrap();
    assert_eq!(report.raised_term, Some(log.leader_epoch()));
    let refused = log.append(1, &mut disk, &batch(1, 10, 1));
    assert!(matches!(
        refused,
        Err(tidelog_segment_log::log::AppendError::TermNotDurable)
    ));
    log.confirm_term();
    log.append(1, &mut disk, &batch(1, 10, 1)).unwrap();
}

#[test]
fn a_stale_clean_flag_is_noticed() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("p");
    let mut disk = StdDisk::new();
    let (mut log, _) = open(&mut disk, spec(&directory, None, false, true));
    log.append(1, &mut disk, &batch(1, 10, 1)).unwrap();
    settle(&mut log, &mut disk, 1);
    let stale = log.checkpoint();
    log.append(1, &mut disk, &batch(1, 10, 1)).unwrap();
    settle(&mut log, &mut disk, 1);
    drop(log);
    let (log, report) = open(&mut disk, spec(&directory, Some(stale), true, false));
    assert!(report.clean_flag_was_stale && !report.clean);
    assert_eq!(log.log_end_offset(), Offset(2));
}

#[test]
fn a_deleted_partition_leaves_no_directory() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("p");
    let mut disk = StdDisk::new();
    drop(open(&mut disk, spec(&directory, None, false, true)));
    assert!(directory.exists());
    remove_partition_directory(3, directory.clone())
        .drive(&mut disk)
        .unwrap();
    assert!(!directory.exists());
    remove_partition_directory(3, directory).drive(&mut disk).unwrap();
}

#[test]
fn a_log_start_is_durable_by_its_own_commit_and_never_above_the_high_watermark() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("p");
    let mut disk = StdDisk::new();
    let lazy = |checkpoint, created| OpenSpec {
        config: LogConfig {
            durability: Durability::Os,
            ..spec(&directory, None, false, false).config
        },
        ..spec(&directory, checkpoint, false, created)
    };
    let (mut log, _) = open(&mut disk, lazy(None, true));
    for _ in 0..10 {
        log.append(1, &mut disk, &batch(2, 10, 1)).unwrap();
    }
    settle(&mut log, &mut disk, 1);
    assert_eq!(
        (log.durable_offset(), log.high_watermark()),
        (Offset(0), Offset(20))
    );
    let above = log.append_log_start(1, &mut disk, Offset(21));
    assert!(matches!(above, Err(LogStartError::AboveHighWatermark { .. })));

    let index = log.append_log_start(1, &mut disk, Offset(7)).unwrap();
    assert_eq!(log.log_start_offset(), Offset(7), "in force at once");
    assert!(log.durable_index() < index, "and not durable");
    assert_eq!(
        log.checkpoint().log_start,
        Offset(0),
        "nothing below it is durable either"
    );
    // A second one, at or below it, waits for the same commit and appends nothing.
    assert_eq!(log.append_log_start(1, &mut disk, Offset(3)).unwrap(), index);
    settle(&mut log, &mut disk, 1);
    assert!(log.durable_index() >= index);
    assert_eq!(log.checkpoint().log_start, Offset(7));
    // Batches that follow wait for the operating system as before.
    log.append(1, &mut disk, &batch(2, 10, 1)).unwrap();
    settle(&mut log, &mut disk, 1);
    assert_eq!(log.durable_offset(), Offset(20));
    drop(log);
    let (log, _) = open(&mut disk, lazy(None, false));
    assert_eq!(log.log_start_offset(), Offset(7));
}

#[test]
fn log_starts_that_wait_for_the_disk_are_bounded() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("p");
    let mut disk = StdDisk::new();
    let (mut log, _) = open(&mut disk, spec(&directory, None, false, true));
    for _ in 0..=LOG_STARTS_PENDING_MAX {
        log.append(1, &mut disk, &batch(1, 1, 1)).unwrap();
    }
    settle(&mut log, &mut disk, 1);
    let last = Offset(LOG_STARTS_PENDING_MAX as i64 + 1);
    for start in 1..last.0 {
        log.append_log_start(1, &mut disk, Offset(start)).unwrap();
    }
    let refused = log.append_log_start(1, &mut disk, last);
    assert!(matches!(
        refused,
        Err(LogStartError::Append(AppendError::Backlogged))
    ));
    assert_eq!(log.log_start_offset(), Offset(last.0 - 1), "nothing was changed");
    delete_to(&mut log, &mut disk, 1, Offset(1));
    delete_to(&mut log, &mut disk, 1, last);
    assert_eq!(log.checkpoint().log_start, last);
}
