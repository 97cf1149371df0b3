//! The order in which journals count: the one that was written last decides, wherever the files come from, and
//! what a truncation has made dead never does.

use std::path::PathBuf;

use bytes::Bytes;
use tidelog_segment_log::batch::testing::{BatchSpec, build_batch};
use tidelog_segment_log::batch::{BATCH_PREFIX_LEN, BatchHeader, patch_prefix};
use tidelog_segment_log::disk::Token;
use tidelog_segment_log::disk::sim::{SimConfig, SimDisk, SimFaults};
use tidelog_segment_log::disk::{Disk, DiskOp};
use tidelog_segment_log::entry::{ENTRY_VERSION, EntryHeader, EntryKind, padding_len};
use tidelog_segment_log::ids::{EntryIndex, Incarnation, LeaderEpoch, Offset, PartitionKey, TopicId};
use tidelog_segment_log::journal::{
    FoundJournals, Journal, JournalBug, JournalConfig, JournalEvent, JournalRun, JournalStatus,
};
use tidelog_segment_log::log::{Durability, LogConfig, OpenSpec, Opening, PartitionLog, drive_open};
use tidelog_segment_log::recovery::{ExamineSpec, RecoveryOptions, examine};
use tidelog_segment_log::segment_header::SegmentHeader;

use crate::common::disk::Stepping;
use crate::common::reads::batches_of;
use crate::common::shards::root;

const SPACE: u32 = 40;

fn key() -> PartitionKey {
    PartitionKey {
        topic: TopicId([3; 16]),
        partition: 1,
    }
}

fn segment(base: u64, truncations: u32, id: u8) -> SegmentHeader {
    SegmentHeader {
        format_version: 0,
        features: 0,
        incarnation: Incarnation([id; 16]),
        topic: key().topic,
        partition: key().partition,
        generation: 0,
        base_offset: Offset(base as i64 - 1),
        base_index: EntryIndex(base),
        replaced: None,
        key_reference: None,
        truncations,
    }
}

/// An entry with one record, whose offset is its index - 1.
fn entry(segment: &SegmentHeader, index: u64, term: i32, prev_crc: u32, value: &[u8]) -> (u32, Vec<u8>) {
    let batch = build_batch(&BatchSpec::default(), &[value]);
    let prefix = patch_prefix(&batch, Offset(index as i64 - 1), LeaderEpoch(term));
    let parsed = BatchHeader::parse(&batch).expect("a batch");
    let mut header = EntryHeader {
        version: ENTRY_VERSION,
        kind: EntryKind::Data,
        flags: 0,
        payload_len: batch.len() as u32,
        payload_crc: parsed.crc,
        term: LeaderEpoch(term),
        index: EntryIndex(index),
        base_offset: Offset(index as i64 - 1),
        last_offset_delta: 0,
        prev_crc,
        header_crc: 0,
        max_timestamp: parsed.max_timestamp,
        durable_gap: u32::MAX,
    };
    let mut bytes = header.encode(&segment.incarnation, &prefix).to_vec();
    bytes.extend_from_slice(&prefix);
    bytes.extend_from_slice(&batch[BATCH_PREFIX_LEN..]);
    bytes.resize(bytes.len() + padding_len(header.payload_len), 0);
    (header.header_crc, bytes)
}

fn run(segment: &SegmentHeader, position: u64, last: u64, bytes: Vec<u8>) -> JournalRun {
    JournalRun {
        key: key(),
        segment: *segment,
        position,
        pieces: vec![Bytes::from(bytes)],
        last: EntryIndex(last),
    }
}

fn journal(start_counter: u64, shard: u32) -> Journal {
    journal_of(start_counter, shard, 64 << 10)
}

fn journal_of(start_counter: u64, shard: u32, file_bytes: u64) -> Journal {
    let config = JournalConfig {
        shard,
        start_counter,
        file_bytes,
        max_bytes: 1 << 20,
        id_seed: Some(start_counter * 100 + u64::from(shard)),
        bug: JournalBug::None,
    };
    Journal::new(&root(), SPACE, config)
}

/// Lets the journal get on until it is ready or has nothing in flight.
fn settle(journal: &mut Journal, disk: &mut SimDisk) {
    for _ in 0..10_000 {
        let mut completions = Vec::new();
        disk.advance();
        disk.take_completions(&mut completions);
        completions
            .into_iter()
            .for_each(|completion| journal.on_completion(disk, completion));
        if !journal.is_busy() && journal.status(disk, 1, 100) == JournalStatus::Ready {
            return;
        }
    }
    panic!("the journal does not come to rest");
}

fn commit(journal: &mut Journal, disk: &mut SimDisk, run: JournalRun) {
    settle(journal, disk);
    journal.begin(disk, vec![run]);
    settle(journal, disk);
    let events = journal.take_events();
    assert!(matches!(events.as_slice(), [JournalEvent::Committed(keys)] if keys == &[key()]));
}

fn open(disk: &mut SimDisk, bug: JournalBug) -> (Box<PartitionLog>, u64, FoundJournals) {
    let found = FoundJournals::find_with(1, &root(), bug)
        .drive(&mut Stepping(disk))
        .expect("journals");
    let spec = OpenSpec {
        directory: root().join("partition"),
        key: key(),
        config: LogConfig {
            segment_bytes: 1 << 20,
            segment_ms: i64::MAX,
            durability: Durability::Fsync,
        },
        token_space: 9,
        checkpoint: None,
        clean: false,
        start_counter: 9,
        created: false,
    };
    let options = RecoveryOptions {
        journal: found.evidence(&key()),
        incarnation_seed: Some(77),
        ..RecoveryOptions::default()
    };
    // What a tool says of the directory is what the start then makes of it, and the tool changes nothing.
    let look = ExamineSpec {
        directory: spec.directory.clone(),
        key: key(),
        checkpoint: None,
        journal: options.journal.clone(),
        only: None,
        batch_bytes: 0,
    };
    let looked = |disk: &mut SimDisk| {
        let mut indices = Vec::new();
        let examined = examine(&mut Stepping(disk), &look, &mut |_, _, header, _| {
            indices.push(header.index.0);
            true
        });
        let examined = examined.expect("examined");
        let lost: Vec<_> = examined
            .damage
            .into_iter()
            .map(|damage| damage.quarantined)
            .collect();
        (examined.from_journal, examined.next, lost, indices)
    };
    let said = looked(disk);
    assert_eq!(said, looked(disk), "nothing was changed");
    let (log, report) = drive_open(&mut Stepping(disk), Opening::with_options(spec, options)).expect("open");
    assert_eq!(report.quarantined, []);
    let (taken, (next_index, next_offset), lost, indices) = said;
    assert_eq!((taken, lost), (report.from_journal, report.quarantined.clone()));
    assert_eq!(next_offset, log.log_end_offset());
    assert_eq!(
        indices,
        (1..next_index.0).collect::<Vec<_>>(),
        "each entry is shown once"
    );
    (log, report.from_journal, found)
}

/// The batch that a read at an offset answers first.
fn value_at(log: &mut PartitionLog, disk: &mut SimDisk, offset: i64) -> Vec<u8> {
    let end = log.high_watermark();
    let plan = log.read(disk, Offset(offset), end, 1).expect("a plan");
    let batches = batches_of(disk, plan.parts.first().expect("a part")).expect("verifies");
    batches[0].to_vec()
}

fn holds(bytes: &[u8], value: &[u8]) -> bool {
    bytes.windows(value.len()).any(|window| window == value)
}

fn disk() -> SimDisk {
    let mut disk = SimDisk::new(SimConfig {
        seed: 5,
        ..SimConfig::default()
    });
    for path in [root(), root().join("partition")] {
        disk.submit(Token(1), DiskOp::CreateDir { path });
        while disk.advance() {}
    }
    for path in [PathBuf::from("/sim"), root()] {
        disk.submit(Token(1), DiskOp::SyncDir { path });
        while disk.advance() {}
    }
    disk.take_completions(&mut Vec::new());
    disk
}

/// Start 1 wrote two entries; its journal was removed, and the removal undone by a power cut. In start 2 the
/// second one was torn, or cut off by a truncation, and another second one was written and acknowledged.
fn a_journal_that_came_back(disk: &mut SimDisk, truncations: u32) {
    let old = segment(1, 0, 1);
    let mut first = journal(1, 0);
    let (crc, mut bytes) = entry(&old, 1, 0, 0, b"one");
    bytes.extend(entry(&old, 2, 0, crc, b"dropped").1);
    commit(&mut first, disk, run(&old, 8192, 2, bytes));
    let new = segment(2, truncations, 2);
    let mut second = journal(2, 3);
    let (_, bytes) = entry(&new, 2, 0, 0, b"acknowledged");
    commit(&mut second, disk, run(&new, 8192, 2, bytes));
    disk.power_cut();
}

#[test]
fn of_two_journals_the_later_one_counts() {
    let mut disk = disk();
    a_journal_that_came_back(&mut disk, 0);
    let (mut log, taken, found) = open(&mut disk, JournalBug::None);
    assert_eq!(taken, 2, "both files are made again from the journals");
    assert_eq!(log.high_watermark(), Offset(2));
    assert!(holds(&value_at(&mut log, &mut disk, 0), b"one"));
    assert!(holds(&value_at(&mut log, &mut disk, 1), b"acknowledged"));
    assert_eq!(found.damage(), []);
    assert_eq!(found.waiting(), [], "all that they hold is durable now");
}

/// The negative control: a journal whose removal was undone is replayed last.
#[test]
fn a_journal_that_came_back_and_is_replayed_last_is_found_out() {
    let mut disk = disk();
    a_journal_that_came_back(&mut disk, 0);
    let (mut log, _, _) = open(&mut disk, JournalBug::OldestLast);
    let serves_what_was_acknowledged =
        log.high_watermark() == Offset(2) && holds(&value_at(&mut log, &mut disk, 1), b"acknowledged");
    assert!(!serves_what_was_acknowledged, "the planted fault must show");
}

#[test]
fn what_a_truncation_made_dead_counts_in_no_order() {
    for bug in [JournalBug::None, JournalBug::OldestLast] {
        let mut disk = disk();
        a_journal_that_came_back(&mut disk, 1);
        let (mut log, taken, _) = open(&mut disk, bug);
        assert_eq!((taken, log.high_watermark()), (2, Offset(2)), "{bug:?}");
        assert!(
            holds(&value_at(&mut log, &mut disk, 1), b"acknowledged"),
            "{bug:?}"
        );
    }
}

#[test]
fn nothing_is_kept_for_a_deleted_partition() {
    let mut disk = disk();
    let old = segment(1, 0, 1);
    let mut journal = journal(1, 0);
    let (_, bytes) = entry(&old, 1, 0, 0, b"deleted");
    commit(&mut journal, &mut disk, run(&old, 8192, 1, bytes));
    disk.power_cut();
    let mut found = FoundJournals::find(1, &root())
        .drive(&mut Stepping(&mut disk))
        .expect("journals");
    assert_eq!(found.waiting(), [key()]);
    found.forget_dead(|dead| *dead == key());
    assert_eq!(found.waiting(), []);
    let removal = found.remove_replayed(1).drive(&mut Stepping(&mut disk));
    removal.expect("removed");
    let found = FoundJournals::find(1, &root())
        .drive(&mut Stepping(&mut disk))
        .expect("journals");
    assert_eq!(found.files().len(), 0);
}

#[test]
fn damage_behind_a_durable_mark_is_reported_and_what_follows_is_replayed() {
    let mut disk = disk();
    let old = segment(1, 0, 1);
    let mut journal = journal(1, 0);
    let mut crc = 0;
    let mut position = 8192;
    for index in 1..=4 {
        let (next, bytes) = entry(&old, index, 0, crc, b"value");
        let len = bytes.len() as u64;
        commit(&mut journal, &mut disk, run(&old, position, index, bytes));
        (crc, position) = (next, position + len);
    }
    drop(journal);
    disk.process_kill();
    let found = FoundJournals::find(1, &root())
        .drive(&mut Stepping(&mut disk))
        .expect("journals");
    assert_eq!(found.damage(), []);
    let name = found.files()[0].name.clone();
    // A bit of the second commit, which begins on the second page behind the first one.
    disk.flip_bit(&root().join("journal").join(name), 2 * 4096 + 200, 3)
        .expect("flipped");
    let found = FoundJournals::find(1, &root())
        .drive(&mut Stepping(&mut disk))
        .expect("journals");
    let damage = format!("{:?}", found.damage());
    assert!(damage.contains("first: FrameNumber(2), count: 1"), "{damage}");
}

/// A file that was being made, or made ready to be used again, holds nothing: it is not damaged.
#[test]
fn a_first_page_that_was_being_written_is_no_damage() {
    for seed in 0..300 {
        for steps in 6..26 {
            let mut disk = SimDisk::new(SimConfig {
                seed,
                faults: SimFaults {
                    short_write_ppm: 500_000,
                    ..SimFaults::default()
                },
                ..SimConfig::default()
            });
            let mut journal = journal_of(1, 0, 8 << 10);
            let _ = journal.status(&mut disk, 1, 100);
            for _ in 0..steps {
                let mut completions = Vec::new();
                disk.advance();
                disk.take_completions(&mut completions);
                completions
                    .into_iter()
                    .for_each(|completion| journal.on_completion(&mut disk, completion));
            }
            drop(journal);
            disk.process_kill();
            let found = FoundJournals::find(1, &root())
                .drive(&mut Stepping(&mut disk))
                .expect("journals");
            assert_eq!(found.damage(), [], "seed {seed}, after {steps} steps");
        }
    }
}
