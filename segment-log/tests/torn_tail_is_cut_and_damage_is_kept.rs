//! The promise: what was torn by a crash is cut, wherever the tear is; what was durable and got
//! damaged is never cut, but gone around and reported, and the offsets behind it stay.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tidelog_segment_log::batch::testing::{BatchSpec, build_batch};
use tidelog_segment_log::checkpoint::PartitionCheckpoint;
use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::disk::std_disk::StdDisk;
use tidelog_segment_log::entry::{
    ENTRY_HEADER_LEN, ENTRY_VERSION, EntryError, EntryHeader, EntryKind, entry_len, payload_crc,
};
use tidelog_segment_log::ids::{EntryIndex, Incarnation, LeaderEpoch, Offset, PartitionKey, TopicId};
use tidelog_segment_log::log::{
    CloseProgress, Durability, LogConfig, OpenError, OpenSpec, Opening, PartitionLog, ReadError, ReadPart,
    UnsupportedEntry, drive_open, verify_cold,
};
use tidelog_segment_log::producer_state::encode_log_start;
use tidelog_segment_log::recovery::{RecoveryReport, SET_ASIDE_DIRECTORY};
use tidelog_segment_log::segment_header::{SEGMENT_FORMAT_VERSION, SegmentHeader, segment_file_name};

struct Fixture {
    root: tempfile::TempDir,
    /// Where each entry begins, and where the last one ends.
    edges: Vec<u64>,
    checkpoint: PartitionCheckpoint,
}

fn spec(directory: &Path, checkpoint: Option<PartitionCheckpoint>, created: bool) -> OpenSpec {
    OpenSpec {
        directory: directory.to_path_buf(),
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

fn settle(log: &mut PartitionLog, disk: &mut StdDisk) {
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

fn batch(number: u8) -> Bytes {
    let value = [number; 40];
    Bytes::from(build_batch(&BatchSpec::default(), &[&value, &value]))
}

/// Five batches of two records. `synced_each` makes each later entry a witness of the earlier ones.
fn write_log(synced_each: bool) -> Fixture {
    let root = tempfile::tempdir().unwrap();
    let mut disk = StdDisk::new();
    let directory = root.path().join("p");
    let (mut log, _) = drive_open(&mut disk, Opening::new(spec(&directory, None, true))).unwrap();
    let mut edges = Vec::new();
    for number in 0..5 {
        edges.push(log.size_bytes());
        log.append(1, &mut disk, &batch(number)).unwrap();
        if synced_each {
            settle(&mut log, &mut disk);
        }
    }
    edges.push(log.size_bytes());
    settle(&mut log, &mut disk);
    Fixture {
        root,
        edges,
        checkpoint: log.checkpoint(),
    }
}

impl Fixture {
    fn directory(&self) -> PathBuf {
        self.root.path().join("p")
    }

    fn segment(&self) -> PathBuf {
        self.directory().join("00000000000000000001-0.log")
    }

    fn overwrite(&self, position: u64, bytes: &[u8]) {
        let mut file = fs::File::options().write(true).open(self.segment()).unwrap();
        file.seek(SeekFrom::Start(position)).unwrap();
        file.write_all(bytes).unwrap();
        file.sync_all().unwrap();
    }

    fn flip(&self, position: u64) {
        let byte = fs::read(self.segment()).unwrap()[position as usize];
        self.overwrite(position, &[byte ^ 0x10]);
    }

    fn recover(&self, checkpoint: Option<PartitionCheckpoint>) -> (Box<PartitionLog>, RecoveryReport) {
        let mut disk = StdDisk::new();
        drive_open(
            &mut disk,
            Opening::new(spec(&self.directory(), checkpoint, false)),
        )
        .unwrap()
    }
}

#[test]
fn a_tear_at_any_byte_of_the_last_entries_is_cut_there() {
    let fixture = write_log(false);
    let whole = fs::read(fixture.segment()).unwrap();
    let end = fixture.edges[5];
    for tear in fixture.edges[3]..end {
        fs::write(fixture.segment(), &whole).unwrap();
        fixture.overwrite(tear, &vec![0; (end - tear) as usize]);
        let (log, report) = fixture.recover(None);
        // A tear inside zeros that were zeros anyway leaves the entry whole.
        let padding_only = whole[tear as usize..end as usize].iter().all(|byte| *byte == 0);
        let kept = if padding_only {
            5
        } else {
            let at = fixture.edges.iter().rposition(|edge| *edge <= tear).unwrap();
            let rest = fixture.edges.get(at + 1).copied().unwrap_or(end);
            let lost_zeros = whole[tear as usize..rest as usize].iter().all(|byte| *byte == 0);
            at + usize::from(lost_zeros)
        };
        assert_eq!(log.log_end_offset(), Offset(2 * kept as i64), "torn at {tear}");
        assert!(
            report.quarantined.is_empty() && report.set_aside.is_empty(),
            "{report:?}"
        );
        let after = fs::read(fixture.segment()).unwrap();
        let cut = fixture.edges[kept] as usize;
        let page_end = (cut / 4_096 + 1) * 4_096;
        let behind = after.get(cut..page_end.min(after.len())).unwrap();
        assert!(
            behind.iter().all(|byte| *byte == 0),
            "zero to the end of the page"
        );
    }
}

#[test]
fn a_tear_is_followed_by_appends_that_survive() {
    let fixture = write_log(false);
    fixture.flip(fixture.edges[3] + 10);
    let (mut log, _) = fixture.recover(None);
    assert_eq!(log.log_end_offset(), Offset(6));
    let mut disk = StdDisk::new();
    drop(log);
    let (reopened, _) = drive_open(&mut disk, Opening::new(spec(&fixture.directory(), None, false))).unwrap();
    log = reopened;
    log.confirm_term();
    let appended = log.append(1, &mut disk, &batch(77)).unwrap();
    assert_eq!(appended.base_offset, Offset(6));
    settle(&mut log, &mut disk);
    assert_eq!(log.durable_offset(), Offset(8));
    drop(log);
    let (log, report) = fixture.recover(None);
    assert_eq!(log.log_end_offset(), Offset(8));
    assert!(report.quarantined.is_empty());
}

#[test]
fn a_durable_entry_with_a_bad_payload_is_quarantined_alone() {
    let fixture = write_log(true);
    fixture.flip(fixture.edges[1] + 64 + 70);
    let (mut log, report) = fixture.recover(None);
    assert_eq!(log.log_end_offset(), Offset(10));
    let [damage] = report.quarantined.as_slice() else {
        panic!("{report:?}")
    };
    assert_eq!(damage.position, fixture.edges[1]..fixture.edges[2]);
    assert_eq!(damage.indices, EntryIndex(2)..EntryIndex(3));
    assert_eq!(damage.offsets, Offset(2)..Offset(4));
    let mut disk = StdDisk::new();
    let refused = log.read(&mut disk, Offset(3), Offset(10), 1_000).unwrap_err();
    assert_eq!(
        refused,
        ReadError::Quarantined {
            from: Offset(3),
            next: Offset(4)
        }
    );
    assert_eq!(
        log.read(&mut disk, Offset(4), Offset(10), 1_000)
            .unwrap()
            .parts
            .len(),
        1
    );
}

#[test]
fn a_durable_entry_with_a_bad_header_is_gone_around() {
    let fixture = write_log(true);
    fixture.flip(fixture.edges[2] + 30);
    let (log, report) = fixture.recover(None);
    assert_eq!(log.log_end_offset(), Offset(10));
    let [damage] = report.quarantined.as_slice() else {
        panic!("{report:?}")
    };
    assert_eq!(damage.position, fixture.edges[2]..fixture.edges[3]);
    assert_eq!(damage.offsets, Offset(4)..Offset(6));
}

#[test]
fn a_claim_that_the_walk_went_around_still_counts_behind_it() {
    let fixture = write_log(true);
    let whole = fs::read(fixture.segment()).unwrap();
    let bytes_of = |at: usize| &whole[fixture.edges[at] as usize..fixture.edges[at + 1] as usize];
    // The last entry landed in the place of the second one too; there it is all that is left of it, and
    // that says the fourth one was durable.
    assert_eq!(bytes_of(1).len(), bytes_of(4).len());
    fixture.overwrite(fixture.edges[1], bytes_of(4));
    fixture.overwrite(
        fixture.edges[3],
        &vec![0; (fixture.edges[5] - fixture.edges[3]) as usize],
    );
    for start in 0..2 {
        let (log, report) = fixture.recover(None);
        let lost: Vec<_> = report
            .quarantined
            .iter()
            .map(|damage| (damage.indices.clone(), damage.offsets.clone()))
            .collect();
        let entry = |n: u64| {
            let indices = EntryIndex(n)..EntryIndex(n + 1);
            (indices, Offset(2 * n as i64 - 2)..Offset(2 * n as i64))
        };
        assert_eq!(lost, [entry(2), entry(4)], "start {start}");
        assert_eq!(log.log_end_offset(), Offset(8));
    }
}

#[test]
fn a_plan_in_front_of_damage_does_not_reach_into_it() {
    let fixture = write_log(true);
    fixture.flip(fixture.edges[2] + 30);
    let (mut log, _) = fixture.recover(None);
    let mut disk = StdDisk::new();
    let mut planned = |from: i64| {
        let plan = log.read(&mut disk, Offset(from), Offset(10), 1 << 20).unwrap();
        match plan.parts.as_slice() {
            [ReadPart::Cold(range)] => range.position.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(planned(0), fixture.edges[0]..fixture.edges[2]);
    assert_eq!(planned(3), fixture.edges[0]..fixture.edges[2]);
    assert_eq!(planned(6), fixture.edges[3]..fixture.edges[5]);
}

#[test]
fn damage_at_the_very_end_keeps_the_log_end_that_the_checkpoint_proves() {
    let fixture = write_log(true);
    fixture.flip(fixture.edges[4] + 30);
    let (mut log, report) = fixture.recover(Some(fixture.checkpoint.clone()));
    assert_eq!(log.log_end_offset(), Offset(10));
    assert_eq!(log.segment_count(), 2, "the log goes on in a new segment");
    let [damage] = report.quarantined.as_slice() else {
        panic!("{report:?}")
    };
    assert_eq!(damage.indices, EntryIndex(5)..EntryIndex(6));
    assert_eq!(damage.offsets, Offset(8)..Offset(10));
    log.confirm_term();
    let mut disk = StdDisk::new();
    drop(log);
    let checkpoint = Some(fixture.checkpoint.clone());
    let (mut log, report) = drive_open(
        &mut disk,
        Opening::new(spec(&fixture.directory(), checkpoint, false)),
    )
    .unwrap();
    assert_eq!(report.quarantined.len(), 1, "damage is found again at each open");
    log.confirm_term();
    assert_eq!(
        log.append(1, &mut disk, &batch(9)).unwrap().base_offset,
        Offset(10)
    );
}

#[test]
fn without_any_proof_the_same_damage_is_a_torn_tail() {
    let fixture = write_log(true);
    fixture.flip(fixture.edges[4] + 30);
    let (log, report) = fixture.recover(None);
    assert_eq!(log.log_end_offset(), Offset(8));
    assert!(report.quarantined.is_empty());
}

#[test]
fn a_lost_segment_file_is_damage_when_a_checkpoint_names_it() {
    let fixture = write_log(true);
    fs::remove_file(fixture.segment()).unwrap();
    let (log, report) = fixture.recover(Some(fixture.checkpoint.clone()));
    assert_eq!(log.log_end_offset(), Offset(10));
    assert_eq!(report.quarantined.len(), 1);
    assert_eq!(log.log_start_offset(), Offset(0));
}

#[test]
fn a_file_without_a_valid_header_is_kept_aside() {
    let fixture = write_log(true);
    let stray = "00000000000000000006-0.log";
    fs::write(fixture.directory().join(stray), b"not a segment").unwrap();
    let (log, report) = fixture.recover(None);
    assert_eq!(report.set_aside, [stray]);
    assert!(fixture.directory().join(SET_ASIDE_DIRECTORY).join(stray).exists());
    assert_eq!(log.log_end_offset(), Offset(10));
}

#[test]
fn cold_bytes_are_served_only_if_they_verify() {
    let fixture = write_log(true);
    let (mut log, _) = fixture.recover(None);
    let mut disk = StdDisk::new();
    let plan = log.read(&mut disk, Offset(3), Offset(8), 1 << 20).unwrap();
    let [ReadPart::Cold(range)] = plan.parts.as_slice() else {
        panic!("{plan:?}")
    };
    let file = fs::read(fixture.segment()).unwrap();
    let bytes = &file[range.position.start as usize..range.position.end as usize];
    let batches = verify_cold(range, bytes).unwrap();
    assert_eq!(batches.len(), 3, "the batches of offsets 2 to 7");
    for at in batches[0].clone() {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 1;
        assert!(
            verify_cold(range, &damaged).is_err(),
            "byte {at} of the first batch"
        );
    }
    for len in 0..batches[0].end {
        assert!(verify_cold(range, &bytes[..len]).is_err(), "{len} bytes");
    }
}

/// Gives the entry at `at` other bytes in its header under a checksum that holds, as another version
/// of this program would write it.
fn rewrite_header(fixture: &Fixture, at: u64, change: impl FnOnce(&mut [u8])) {
    let file = fs::read(fixture.segment()).unwrap();
    let incarnation = SegmentHeader::decode(&file).unwrap().incarnation;
    let at = at as usize;
    let mut header = file[at..at + ENTRY_HEADER_LEN].to_vec();
    change(&mut header);
    let is_batch = header[9] <= 2;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[8..]);
    crc.update(&incarnation.0);
    if is_batch {
        crc.update(&file[at + ENTRY_HEADER_LEN..at + ENTRY_HEADER_LEN + 21]);
    }
    header[4..8].copy_from_slice(&crc.finalize().to_le_bytes());
    fixture.overwrite(at as u64, &header);
}

fn refused(fixture: &Fixture, clean: bool) -> UnsupportedEntry {
    let spec = OpenSpec {
        clean,
        ..spec(&fixture.directory(), Some(fixture.checkpoint.clone()), false)
    };
    match drive_open(&mut StdDisk::new(), Opening::new(spec)) {
        Err(OpenError::UnsupportedEntry { name, cause, .. }) => {
            assert_eq!(name, "00000000000000000001-0.log");
            cause
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_entry_of_another_version_is_not_damage() {
    for clean in [false, true] {
        for synced_each in [false, true] {
            let fixture = write_log(synced_each);
            rewrite_header(&fixture, fixture.edges[3], |header| header[8] = 1);
            let before = fs::read(fixture.segment()).unwrap();
            assert_eq!(
                refused(&fixture, clean),
                UnsupportedEntry::Entry(EntryError::Version(1))
            );
            assert_eq!(fs::read(fixture.segment()).unwrap(), before, "nothing is cut");

            let fixture = write_log(synced_each);
            rewrite_header(&fixture, fixture.edges[3], |header| header[9] = 200);
            assert_eq!(
                refused(&fixture, clean),
                UnsupportedEntry::Entry(EntryError::Kind(200))
            );
        }
    }
}

#[test]
fn an_entry_of_another_version_behind_the_end_is_not_cut_either() {
    let fixture = write_log(false);
    fixture.flip(fixture.edges[2] + 30);
    rewrite_header(&fixture, fixture.edges[3], |header| header[8] = 1);
    assert_eq!(
        refused(&fixture, false),
        UnsupportedEntry::Entry(EntryError::Version(1))
    );
}

/// Writes a segment by hand: internal entries of these payloads, from this index and offset on.
fn write_segment(directory: &Path, index: u64, offset: i64, entries: &[(EntryKind, Vec<u8>)]) {
    let header = SegmentHeader {
        format_version: SEGMENT_FORMAT_VERSION,
        features: 0,
        incarnation: Incarnation([index as u8; 16]),
        topic: TopicId([1; 16]),
        partition: 0,
        generation: 0,
        base_offset: Offset(offset),
        base_index: EntryIndex(index),
        replaced: None,
        key_reference: None,
        truncations: 0,
    };
    let mut file = header.encode();
    let mut prev_crc = 0;
    for (at, (kind, payload)) in entries.iter().enumerate() {
        let mut entry = EntryHeader {
            version: ENTRY_VERSION,
            kind: *kind,
            flags: 0,
            payload_len: payload.len() as u32,
            payload_crc: payload_crc(*kind, 0, payload),
            term: LeaderEpoch(0),
            index: EntryIndex(index + at as u64),
            base_offset: Offset(offset),
            last_offset_delta: -1,
            prev_crc,
            header_crc: 0,
            max_timestamp: -1,
            durable_gap: 1,
        };
        let end = file.len() + entry_len(payload.len() as u32);
        file.extend_from_slice(&entry.encode(&header.incarnation, payload));
        file.extend_from_slice(payload);
        file.resize(end, 0);
        prev_crc = entry.header_crc;
    }
    fs::write(directory.join(header.file_name()), file).unwrap();
}

#[test]
fn an_internal_payload_of_another_schema_is_not_damage() {
    for kind in [EntryKind::LogStart, EntryKind::ProducerState] {
        let root = tempfile::tempdir().unwrap();
        let mut payload = encode_log_start(Offset(0));
        payload[0] = 9;
        write_segment(root.path(), 1, 0, &[(kind, payload)]);
        let error =
            drive_open(&mut StdDisk::new(), Opening::new(spec(root.path(), None, false))).unwrap_err();
        assert!(
            matches!(
                error,
                OpenError::UnsupportedEntry {
                    cause: UnsupportedEntry::Schema(9),
                    ..
                }
            ),
            "{error}"
        );
    }
}

#[test]
fn what_was_deleted_from_the_front_is_not_lost() {
    let root = tempfile::tempdir().unwrap();
    let entries = [(EntryKind::LogStart, encode_log_start(Offset(20)))];
    write_segment(root.path(), 3, 20, &entries);
    // It was written before the segment in front was deleted, and knows nothing of it.
    let mut checkpoint = PartitionCheckpoint {
        key: PartitionKey {
            topic: TopicId([1; 16]),
            partition: 0,
        },
        ..PartitionCheckpoint::default()
    };
    checkpoint.segments.push(Default::default());
    checkpoint.segments[0].base_index = EntryIndex(1);
    let (log, report) = drive_open(
        &mut StdDisk::new(),
        Opening::new(spec(root.path(), Some(checkpoint), false)),
    )
    .unwrap();
    assert_eq!(log.log_start_offset(), Offset(20));
    assert!(report.quarantined.is_empty(), "{report:?}");
}

#[test]
fn a_log_start_above_its_own_entry_is_not_believed() {
    for (claimed, expected) in [(21, 20), (20, 20)] {
        let root = tempfile::tempdir().unwrap();
        let entries = [
            (EntryKind::LogStart, encode_log_start(Offset(claimed))),
            (EntryKind::LogStart, encode_log_start(Offset(20))),
        ];
        write_segment(root.path(), 3, 20, &entries);
        let (log, report) =
            drive_open(&mut StdDisk::new(), Opening::new(spec(root.path(), None, false))).unwrap();
        assert_eq!(log.log_start_offset(), Offset(expected));
        assert_eq!(log.log_end_offset(), Offset(20));
        let believed = claimed == expected;
        assert_eq!(
            report.quarantined.is_empty() && !report.torn_entries_seen,
            believed,
            "{report:?}"
        );
    }
}

#[test]
fn damaged_bytes_at_the_very_end_are_left_as_they_are() {
    let fixture = write_log(true);
    fixture.flip(fixture.edges[4] + 30);
    let before = fs::read(fixture.segment()).unwrap();
    let (_, report) = fixture.recover(Some(fixture.checkpoint.clone()));
    assert_eq!(report.quarantined.len(), 1);
    assert_eq!(fs::read(fixture.segment()).unwrap(), before, "for a later repair");
}

#[test]
fn what_was_cut_does_not_come_back_behind_later_damage() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("p");
    let mut disk = StdDisk::new();
    let (mut log, _) = drive_open(&mut disk, Opening::new(spec(&directory, None, true))).unwrap();
    let big = |number: u8| Bytes::from(build_batch(&BatchSpec::default(), &[&[number; 9_000]]));
    let mut edges = Vec::new();
    for number in 0..4 {
        edges.push(log.size_bytes());
        log.append(1, &mut disk, &big(number)).unwrap();
    }
    settle(&mut log, &mut disk);
    drop(log);
    let segment = directory.join(segment_file_name(EntryIndex(1), 0));
    let write = |position: u64, bytes: &[u8]| {
        let mut file = fs::File::options().write(true).open(&segment).unwrap();
        file.seek(SeekFrom::Start(position)).unwrap();
        file.write_all(bytes).unwrap();
        file.sync_all().unwrap();
    };
    // The second entry is torn; the third and the fourth are not, and lie behind its pages.
    write(edges[1], &[0; 64]);
    let (mut log, report) = drive_open(&mut disk, Opening::new(spec(&directory, None, false))).unwrap();
    assert_eq!(log.log_end_offset(), Offset(1));
    assert!(report.torn_entries_seen);
    log.confirm_term();
    // A smaller one takes the place of the second, and is durable.
    log.append(1, &mut disk, &batch(9)).unwrap();
    settle(&mut log, &mut disk);
    let checkpoint = log.checkpoint();
    let last = log.checkpoint().segments.last().copied().unwrap();
    drop(log);
    // Then it is damaged.
    let name = segment_file_name(last.base_index, last.generation);
    let path = directory.join(name);
    let mut bytes = fs::read(&path).unwrap();
    let at = last.length.0 as usize - entry_len(batch(9).len() as u32);
    bytes[at + 30] ^= 1;
    fs::write(&path, bytes).unwrap();
    let (log, report) =
        drive_open(&mut disk, Opening::new(spec(&directory, Some(checkpoint), false))).unwrap();
    assert_eq!(report.quarantined.len(), 1, "{report:?}");
    assert_eq!(log.log_end_offset(), Offset(3), "not the third entry of old");
}

#[test]
fn no_file_takes_the_name_of_one_that_was_set_aside() {
    let fixture = write_log(true);
    let mut disk = StdDisk::new();
    let (mut log, _) = fixture.recover(None);
    log.confirm_term();
    let checkpoint = loop {
        match log.close(1, &mut disk) {
            CloseProgress::Closed(checkpoint) => break *checkpoint,
            CloseProgress::Pending => settle(&mut log, &mut disk),
            CloseProgress::Fenced => panic!("fenced"),
        }
    };
    let aside = fixture.directory().join(SET_ASIDE_DIRECTORY);
    fs::create_dir(&aside).unwrap();
    fs::write(aside.join(segment_file_name(EntryIndex(6), 0)), b"kept").unwrap();
    let spec = OpenSpec {
        clean: true,
        config: LogConfig {
            segment_bytes: 1,
            ..spec(&fixture.directory(), None, false).config
        },
        ..spec(&fixture.directory(), Some(checkpoint), false)
    };
    let (mut log, report) = drive_open(&mut disk, Opening::new(spec)).unwrap();
    assert!(report.clean);
    log.append(1, &mut disk, &batch(1)).unwrap();
    settle(&mut log, &mut disk);
    let named = log.checkpoint().segments.last().copied().unwrap();
    assert_eq!((named.base_index, named.generation), (EntryIndex(6), 1));
}
