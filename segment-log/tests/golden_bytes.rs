//! The bytes of every on-disk structure of format version 0, as files of this directory.
//!
//! A difference here is a change of the format: it needs a new version once the format
//! is frozen. `UPDATE_GOLDEN=1 cargo test` writes the files anew.

use std::path::PathBuf;

use tidelog_segment_log::batch::testing::{BatchSpec, build_batch};
use tidelog_segment_log::batch::{BatchHeader, crc32c};
use tidelog_segment_log::checkpoint::{Checkpoint, PartitionCheckpoint, SegmentCheckpoint};
use tidelog_segment_log::end_mark::{END_MARK_INTERVAL_BYTES, encode_end_mark, is_end_mark};
use tidelog_segment_log::entry::{
    DURABLE_GAP_UNKNOWN, ENTRY_VERSION, EntryHeader, EntryKind, FLAG_REWRITTEN, decode_entry, padding_len,
    payload_crc,
};
use tidelog_segment_log::identity::{CleanFlag, Identity};
use tidelog_segment_log::ids::{
    EntryIndex, FilePosition, Incarnation, LeaderEpoch, Offset, PartitionKey, TopicId,
};
use tidelog_segment_log::journal::format::{FileId, FrameHeader, FrameNumber, JournalPage};
use tidelog_segment_log::producer_state::{
    ProducerBatch, ProducerStates, decode_log_start, encode_log_start,
};
use tidelog_segment_log::segment_header::SegmentHeader;
use tidelog_segment_log::segment_index::{EpochStart, IndexEntry, IndexFile, SegmentIndex};

const INCARNATION: Incarnation = Incarnation(*b"incarnation-0001");
const TOPIC: TopicId = TopicId(*b"topic-id-0000001");

fn to_hex(bytes: &[u8]) -> String {
    let lines = bytes
        .chunks(32)
        .map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    lines.map(|line| line + "\n").collect()
}

#[track_caller]
fn assert_golden(name: &str, bytes: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, to_hex(bytes)).expect("golden file is writable");
    }
    let golden = std::fs::read_to_string(&path).expect("golden file exists");
    assert_eq!(
        to_hex(bytes),
        golden,
        "{name} differs from the bytes of format version 0"
    );
}

/// The bytes of a golden file that is only read.
fn golden(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    let hex: String = std::fs::read_to_string(&path)
        .expect("golden file exists")
        .split_whitespace()
        .collect();
    hex.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("text"), 16).expect("hex"))
        .collect()
}

fn data_header(payload: &[u8]) -> EntryHeader {
    let batch = BatchHeader::parse(payload).expect("a batch");
    EntryHeader {
        version: ENTRY_VERSION,
        kind: EntryKind::Data,
        flags: FLAG_REWRITTEN,
        payload_len: payload.len() as u32,
        payload_crc: batch.crc,
        term: LeaderEpoch(0x0102_0304),
        index: EntryIndex(0x1112_1314_1516_1718),
        base_offset: Offset(0x2122_2324_2526_2728),
        last_offset_delta: batch.last_offset_delta,
        prev_crc: 0x3132_3334,
        header_crc: 0,
        max_timestamp: batch.max_timestamp,
        durable_gap: 0x4142_4344,
    }
}

fn data_payload() -> Vec<u8> {
    let spec = BatchSpec {
        base_offset: 0x2122_2324_2526_2728,
        leader_epoch: 0x0102_0304,
        producer_id: 7,
        producer_epoch: 1,
        base_sequence: 42,
        ..BatchSpec::default()
    };
    build_batch(&spec, &[b"first", b"second", b""])
}

#[test]
fn checksums_are_the_published_ones() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    assert_eq!(payload_crc(EntryKind::LogStart, 0, b"123456789"), 0xcbf4_3926);
}

#[test]
fn a_data_entry() {
    let payload = data_payload();
    let mut header = data_header(&payload);
    let mut entry = header.encode(&INCARNATION, &payload).to_vec();
    entry.extend_from_slice(&payload);
    entry.resize(entry.len() + padding_len(header.payload_len), 0);
    assert_golden("entry_data.hex", &entry);

    // The byte table, field by field.
    assert_eq!(&entry[0..4], b"TLE0");
    assert_eq!(entry[4..8], header.header_crc.to_le_bytes());
    assert_eq!(entry[8..12], [0, 1, 2, 0]);
    assert_eq!(entry[12..16], (payload.len() as u32).to_le_bytes());
    assert_eq!(entry[16..20], header.payload_crc.to_le_bytes());
    assert_eq!(entry[20..24], [4, 3, 2, 1]);
    assert_eq!(entry[24..32], [0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11]);
    assert_eq!(entry[32..40], [0x28, 0x27, 0x26, 0x25, 0x24, 0x23, 0x22, 0x21]);
    assert_eq!(entry[40..44], [2, 0, 0, 0]);
    assert_eq!(entry[44..48], [0x34, 0x33, 0x32, 0x31]);
    assert_eq!(entry[48..56], 1_700_000_000_000_i64.to_le_bytes());
    assert_eq!(entry[56..60], [0x44, 0x43, 0x42, 0x41]);
    assert_eq!(entry[60..64], [0; 4]);

    // What header_crc covers, computed apart from the code under test.
    let mut covered = entry[8..64].to_vec();
    covered.extend_from_slice(&INCARNATION.0);
    covered.extend_from_slice(&payload[..21]);
    assert_eq!(header.header_crc, crc32fast::hash(&covered));

    assert_eq!(
        decode_entry(&entry, &INCARNATION),
        Ok((header, payload.as_slice()))
    );
}

#[test]
fn a_log_start_entry() {
    let payload = encode_log_start(Offset(99));
    let mut header = EntryHeader {
        version: ENTRY_VERSION,
        kind: EntryKind::LogStart,
        flags: 0,
        payload_len: payload.len() as u32,
        payload_crc: payload_crc(EntryKind::LogStart, 0, &payload),
        term: LeaderEpoch(3),
        index: EntryIndex(1),
        base_offset: Offset(100),
        last_offset_delta: -1,
        prev_crc: 0,
        header_crc: 0,
        max_timestamp: -1,
        durable_gap: DURABLE_GAP_UNKNOWN,
    };
    let mut entry = header.encode(&INCARNATION, &[]).to_vec();
    entry.extend_from_slice(&payload);
    entry.resize(entry.len() + padding_len(header.payload_len), 0);
    assert_golden("entry_log_start.hex", &entry);

    let mut covered = entry[8..64].to_vec();
    covered.extend_from_slice(&INCARNATION.0);
    assert_eq!(header.header_crc, crc32fast::hash(&covered));
    let (decoded, decoded_payload) = decode_entry(&entry, &INCARNATION).expect("valid");
    assert_eq!(decoded, header);
    assert_eq!(decoded.durable_index(), None);
    assert_eq!(decoded.next_offset(), Offset(100));
    assert_eq!(decode_log_start(decoded_payload), Ok(Offset(99)));
}

#[test]
fn kinds_keep_their_numbers() {
    let numbers: Vec<u8> = EntryKind::ALL.into_iter().map(|kind| kind as u8).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    assert_eq!(EntryKind::from_u8(0), None);
    assert_eq!(EntryKind::from_u8(11), None);
    assert_eq!(EntryKind::ProducerState as u8, 6);
    assert_eq!(EntryKind::Footer as u8, 10);
}

#[test]
fn a_segment_header() {
    let plain = SegmentHeader {
        format_version: 0,
        features: 0,
        incarnation: INCARNATION,
        topic: TOPIC,
        partition: 5,
        generation: 2,
        base_offset: Offset(1000),
        base_index: EntryIndex(77),
        replaced: None,
        key_reference: None,
        truncations: 0,
    };
    let bytes = plain.encode();
    assert_eq!(bytes.len(), 8192);
    assert_eq!(bytes[..512], bytes[4096..4608]);
    assert!(
        bytes[512..4096]
            .iter()
            .chain(&bytes[4608..])
            .all(|byte| *byte == 0)
    );
    assert_golden("segment_header.hex", &bytes[..512]);
    assert_eq!(SegmentHeader::decode(&bytes), Ok(plain));

    let compacted = SegmentHeader {
        replaced: Some((EntryIndex(77), EntryIndex(99))),
        key_reference: Some(3),
        truncations: 4,
        ..plain
    };
    let bytes = compacted.encode();
    assert_golden("segment_header_compacted.hex", &bytes[..512]);
    assert_eq!(SegmentHeader::decode(&bytes), Ok(compacted));
}

#[test]
fn an_index() {
    let mut index = SegmentIndex::new();
    for (step, max_timestamp) in [(0, 50), (1, 40), (2, 60)] {
        let entry = IndexEntry {
            index: EntryIndex(1 + step * 10),
            base_offset: Offset(step as i64 * 100),
            position: FilePosition(8192 + step * 4096),
            max_timestamp,
        };
        assert!(index.observe(entry));
    }
    let file = IndexFile {
        incarnation: INCARNATION,
        covered: FilePosition(30_000),
        last_index: EntryIndex(25),
        next_offset: Offset(250),
        crc_chain_end: 0x0102_0304,
        max_timestamp: Some((60, Offset(200))),
        epochs: vec![
            EpochStart {
                epoch: LeaderEpoch(3),
                offset: Offset(0),
            },
            EpochStart {
                epoch: LeaderEpoch(5),
                offset: Offset(100),
            },
        ],
        has_gaps: false,
        index,
    };
    let bytes = file.encode();
    assert_golden("segment_index.hex", &bytes);
    assert_eq!(IndexFile::decode(&bytes, &INCARNATION), Ok(file));
}

#[test]
fn a_producer_state_payload() {
    let mut states = ProducerStates::new();
    for (id, sequence) in [(4_i64, 0_i32), (9, 3), (4, 2)] {
        let base = i64::from(sequence) * 10 + id;
        let batch = ProducerBatch {
            first_sequence: sequence,
            last_sequence: sequence + 1,
            base_offset: Offset(base),
            last_offset: Offset(base + 1),
            timestamp: 1_700_000_000_000 + id,
        };
        states.record(id, 1, batch);
    }
    let bytes = states.encode(Offset(2));
    assert_golden("producer_state.hex", &bytes);
    assert_eq!(bytes[..8], [0; 8]);
    assert_eq!(ProducerStates::decode(&bytes), Ok((states, Offset(2))));
}

#[test]
fn a_checkpoint() {
    let checkpoint = Checkpoint {
        start_counter: 12,
        partitions: vec![PartitionCheckpoint {
            key: PartitionKey {
                topic: TOPIC,
                partition: 5,
            },
            term: LeaderEpoch(4),
            log_start: Offset(10),
            recovery_point: EntryIndex(90),
            raft_base: EntryIndex(95),
            durable_index: EntryIndex(95),
            next_offset: Offset(2000),
            producer_state: vec![1, 2, 3],
            segments: vec![SegmentCheckpoint {
                incarnation: INCARNATION,
                base_index: EntryIndex(77),
                generation: 2,
                length: FilePosition(40_960),
                crc_chain_end: 0xdead_beef,
                durable_index: EntryIndex(95),
            }],
        }],
    };
    let bytes = checkpoint.encode();
    assert_golden("checkpoint.hex", &bytes);
    assert_eq!(Checkpoint::decode(&bytes).as_ref(), Ok(&checkpoint));
    let partition = checkpoint
        .partition(&checkpoint.partitions[0].key)
        .expect("named");
    assert_eq!(
        partition.segment(&INCARNATION).map(|segment| segment.generation),
        Some(2)
    );
}

#[test]
fn an_identity_and_a_clean_flag() {
    let identity = Identity {
        start_counter: 3,
        node_id: 1,
        feature_level: 0,
        cluster_id: "kafka-cluster-id-22-ch".to_owned(),
        rack: Some("rack-a".to_owned()),
        directory_id: [7; 16],
    };
    let bytes = identity.encode();
    assert_golden("identity.hex", &bytes);
    assert_eq!(Identity::decode(&bytes), Ok(identity.clone()));
    // Of a release before directories had ids: it gets one at the next start.
    let before = Identity {
        directory_id: [0; 16],
        ..identity
    };
    assert_eq!(Identity::decode(&golden("identity_v0.hex")), Ok(before));

    let flag = CleanFlag { start_counter: 3 };
    assert_golden("clean_flag.hex", &flag.encode());
    assert_eq!(CleanFlag::decode(&flag.encode()), Ok(flag));
    assert!(Identity::decode(&flag.encode()).is_err());
}

#[test]
fn an_end_mark() {
    let place = FilePosition(END_MARK_INTERVAL_BYTES);
    let page = encode_end_mark(&INCARNATION, place);
    assert_eq!(page.len(), 4096);
    assert!(page[40..].iter().all(|byte| *byte == 0));
    assert_golden("end_mark.hex", &page[..64]);
    assert!(is_end_mark(&page, &INCARNATION, place));
}

#[test]
fn a_journal_page_and_its_frames() {
    let page = JournalPage {
        file_id: FileId(*b"journal-file-001"),
        shard: 0x0102_0304,
        start_counter: 0x1112_1314_1516_1718,
        sequence: 0x2122_2324_2526_2728,
    };
    let bytes = page.encode();
    assert_eq!(bytes.len(), 4096);
    assert!(bytes[56..].iter().all(|byte| *byte == 0));
    assert_golden("journal_page.hex", &bytes[..64]);
    assert_eq!(JournalPage::decode(&bytes), Ok(page));

    let segment = SegmentHeader {
        format_version: 0,
        features: 0,
        incarnation: INCARNATION,
        topic: TOPIC,
        partition: 0x3132_3334,
        generation: 0x4142_4344,
        base_offset: Offset(0x5152_5354_5556_5758),
        base_index: EntryIndex(0x6162_6364_6566_6768),
        replaced: None,
        key_reference: Some(0x7172_7374),
        truncations: 0x7576_7778,
    };
    let record: Vec<u8> = (0..40).collect();
    let header = FrameHeader {
        file_id: page.file_id,
        number: FrameNumber(0x0a0b_0c0d),
        durable: FrameNumber(0x0a0b_0c0c),
        segment,
        position: FilePosition(0x8182_8384),
    };
    let mut frame = header.encode([record.as_slice()].into_iter()).to_vec();
    frame.extend_from_slice(&record);
    assert_golden("journal_frame.hex", &frame);
    let decoded = FrameHeader::decode(&frame, &page.file_id);
    assert_eq!(decoded, Ok((header, record.as_slice())));
}
