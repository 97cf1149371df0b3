//! Segments written by hand, with internal entries that say something else than a log writes.

use std::fs;
use std::path::Path;

use tidelog_segment_log::checkpoint::PartitionCheckpoint;
use tidelog_segment_log::disk::std_disk::StdDisk;
use tidelog_segment_log::entry::{ENTRY_VERSION, EntryHeader, EntryKind, entry_len, payload_crc};
use tidelog_segment_log::ids::{EntryIndex, Incarnation, LeaderEpoch, Offset};
use tidelog_segment_log::log::{OpenError, Opening, UnsupportedEntry, drive_open};
use tidelog_segment_log::producer_state::encode_log_start;
use tidelog_segment_log::segment_header::{SEGMENT_FORMAT_VERSION, SegmentHeader};

use crate::spec;

/// Writes a segment by hand: internal entries of these payloads, from this index and offset on.
fn write_segment(directory: &Path, index: u64, offset: i64, entries: &[(EntryKind, Vec<u8>)]) {
    let key = spec(directory, None, false).key;
    let header = SegmentHeader {
        format_version: SEGMENT_FORMAT_VERSION,
        features: 0,
        incarnation: Incarnation([index as u8; 16]),
        topic: key.topic,
        partition: key.partition,
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
        key: spec(root.path(), None, false).key,
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
