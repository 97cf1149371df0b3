//! What must hold for any bytes: values come back, every flipped bit is seen, nothing panics.

use proptest::prelude::*;

use tidelog_segment_log::batch::testing::{BatchSpec, build_batch};
use tidelog_segment_log::batch::{
    self, BatchError, BatchHeader, Compression, TimestampType, patch_prefix, set_log_append_time,
    validate_crc,
};
use tidelog_segment_log::checkpoint::{Checkpoint, CheckpointError, PartitionCheckpoint, SegmentCheckpoint};
use tidelog_segment_log::entry::{
    ENTRY_HEADER_LEN, ENTRY_VERSION, EntryError, EntryHeader, EntryKind, FLAG_ENCRYPTED, decode_entry,
    entry_len, padding_len, payload_crc, verify_header,
};
use tidelog_segment_log::identity::{CleanFlag, Identity};
use tidelog_segment_log::ids::{
    EntryIndex, FilePosition, Incarnation, LeaderEpoch, Offset, PartitionKey, TopicId,
};
use tidelog_segment_log::limits::{
    CHECKPOINT_PRODUCER_STATE_BYTES_MAX, ENTRY_INDEX_MAX, PRODUCER_STATE_BYTES_MAX,
    PRODUCERS_PER_PARTITION_MAX,
};
use tidelog_segment_log::producer_state::{
    ProducerBatch, ProducerStates, SequenceCheck, decode_log_start, sequence_after,
};
use tidelog_segment_log::segment_header::{
    SegmentHeader, SegmentHeaderError, decode_copies, parse_segment_file_name, segment_file_name,
};
use tidelog_segment_log::segment_index::{IndexEntry, IndexError, IndexFile, SegmentIndex};

const INCARNATION: Incarnation = Incarnation([0xa5; 16]);

fn whole_entry(mut header: EntryHeader, payload: &[u8]) -> Vec<u8> {
    let mut entry = header.encode(&INCARNATION, payload).to_vec();
    entry.extend_from_slice(payload);
    entry.resize(entry.len() + padding_len(header.payload_len), 0);
    entry
}

/// An entry that decodes, of any kind, with a payload that fits it.
fn any_entry() -> impl Strategy<Value = (EntryHeader, Vec<u8>)> {
    let numbers = (
        0..=i32::MAX,
        1..=ENTRY_INDEX_MAX,
        0..i64::MAX >> 1,
        any::<u32>(),
        any::<i64>(),
        any::<u32>(),
    );
    let payload = proptest::collection::vec(any::<u8>(), 0..200);
    (0..EntryKind::ALL.len(), any::<bool>(), numbers, payload).prop_map(
        |(kind, encrypted, numbers, bytes)| {
            let kind = EntryKind::ALL[kind];
            let (term, index, base_offset, prev_crc, max_timestamp, durable_gap) = numbers;
            let flags = if encrypted && kind.has_index() {
                FLAG_ENCRYPTED
            } else {
                0
            };
            let spec = BatchSpec {
                base_offset,
                leader_epoch: term,
                ..BatchSpec::default()
            };
            let plain = kind.is_batch() && flags == 0;
            let payload = if plain {
                build_batch(&spec, &[bytes.as_slice()])
            } else {
                bytes
            };
            let header = EntryHeader {
                version: ENTRY_VERSION,
                kind,
                flags,
                payload_len: payload.len() as u32,
                payload_crc: payload_crc(kind, flags, &payload),
                term: LeaderEpoch(term),
                index: EntryIndex(index),
                base_offset: Offset(base_offset),
                last_offset_delta: if kind.is_batch() { 0 } else { -1 },
                prev_crc,
                header_crc: 0,
                max_timestamp,
                durable_gap,
            };
            (header, payload)
        },
    )
}

fn any_checkpoint() -> impl Strategy<Value = Checkpoint> {
    let segment = (any::<[u8; 16]>(), 0..=ENTRY_INDEX_MAX, any::<u32>(), any::<u64>()).prop_map(
        |(incarnation, index, generation, length)| SegmentCheckpoint {
            incarnation: Incarnation(incarnation),
            base_index: EntryIndex(index),
            generation,
            length: FilePosition(length),
            crc_chain_end: generation.rotate_left(7),
            durable_index: EntryIndex(length.rotate_left(9) & ENTRY_INDEX_MAX),
        },
    );
    let rest = (
        0..=i32::MAX,
        0..=i64::MAX,
        0..=ENTRY_INDEX_MAX,
        proptest::collection::vec(any::<u8>(), 0..40),
    );
    let partition = (any::<[u8; 16]>(), rest, proptest::collection::vec(segment, 0..4)).prop_map(
        |(topic, (term, offset, index, producer_state), segments)| PartitionCheckpoint {
            key: PartitionKey {
                topic: TopicId(topic),
                partition: term,
            },
            term: LeaderEpoch(term),
            log_start: Offset(offset / 2),
            recovery_point: EntryIndex(index / 3),
            raft_base: EntryIndex(index / 2),
            durable_index: EntryIndex(index),
            next_offset: Offset(offset),
            producer_state,
            segments,
        },
    );
    (any::<u64>(), proptest::collection::vec(partition, 0..4)).prop_map(|(start_counter, partitions)| {
        Checkpoint {
            start_counter,
            partitions,
        }
    })
}

fn segment_header() -> SegmentHeader {
    SegmentHeader {
        format_version: 0,
        features: 0,
        incarnation: INCARNATION,
        topic: TopicId([7; 16]),
        partition: 3,
        generation: 1,
        base_offset: Offset(5),
        base_index: EntryIndex(9),
        replaced: None,
        key_reference: None,
        truncations: 0,
    }
}

/// Every decoder of this crate; must return, whatever the bytes.
fn decode_with_everything(bytes: &[u8]) {
    let _ = decode_entry(bytes, &INCARNATION);
    let _ = SegmentHeader::decode(bytes);
    let _ = IndexFile::decode(bytes, &INCARNATION);
    let _ = Checkpoint::decode(bytes);
    let _ = Identity::decode(bytes);
    let _ = CleanFlag::decode(bytes);
    let _ = ProducerStates::decode(bytes);
    let _ = decode_log_start(bytes);
    let _ = validate_crc(bytes);
    let _ = batch::split_first(bytes);
    let _ = set_log_append_time(&mut bytes.to_vec(), 0);
    let _ = patch_prefix(bytes, Offset(1), LeaderEpoch(1));
    if let Ok(header) = BatchHeader::parse(bytes) {
        let _ = (
            header.last_offset(),
            header.last_sequence(),
            header.compression(),
            header.validate_new(),
        );
    }
}

/// A sealed file whose checksum is right again after its content was changed.
fn reseal(bytes: &mut [u8]) {
    let crc = crc32fast::hash(&bytes[12..]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
}

proptest! {
    #[test]
    fn an_entry_comes_back_from_any_address((header, payload) in any_entry(), shift in 0_usize..16) {
        let entry = whole_entry(header, &payload);
        prop_assert_eq!(entry.len(), entry_len(header.payload_len));
        prop_assert_eq!(entry.len() % 8, 0);
        let mut shifted = vec![0xff; shift];
        shifted.extend_from_slice(&entry);
        let (decoded, decoded_payload) = decode_entry(&shifted[shift..], &INCARNATION).expect("valid");
        prop_assert_eq!(EntryHeader { header_crc: 0, ..decoded }, header);
        prop_assert_eq!(verify_header(&entry, &INCARNATION), Ok(decoded.header_crc));
        prop_assert_eq!(decoded_payload, payload.as_slice());
    }

    #[test]
    fn every_flipped_bit_of_an_entry_is_seen((header, payload) in any_entry()) {
        let entry = whole_entry(header, &payload);
        for bit in 0..entry.len() * 8 {
            let mut flipped = entry.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode_entry(&flipped, &INCARNATION).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn an_entry_cut_short_or_of_another_segment_is_refused((header, payload) in any_entry()) {
        let entry = whole_entry(header, &payload);
        for len in 0..entry.len() {
            let error = decode_entry(&entry[..len], &INCARNATION);
            prop_assert!(matches!(error, Err(EntryError::Truncated { .. })), "length {len}");
        }
        let error = decode_entry(&entry, &Incarnation([0xa4; 16]));
        prop_assert!(matches!(error, Err(EntryError::HeaderCrc { .. })), "another incarnation");
    }

    #[test]
    fn a_header_with_a_right_checksum_and_any_values_does_not_panic(mut bytes: [u8; 128]) {
        bytes[..4].copy_from_slice(b"TLE0");
        bytes[8] = 0;
        bytes[9] %= 12;
        bytes[10] &= 3;
        bytes[11] = 0;
        // The checksum that the decoder will compute is in the error it gives.
        if let Err(EntryError::HeaderCrc { actual, .. }) = verify_header(&bytes, &INCARNATION) {
            bytes[4..8].copy_from_slice(&actual.to_le_bytes());
        }
        prop_assert!(verify_header(&bytes, &INCARNATION).is_ok());
        if let Ok(header) = EntryHeader::decode(&bytes, &INCARNATION) {
            let mut again = header;
            let encoded = again.encode(&INCARNATION, &bytes[64..]);
            prop_assert_eq!(&encoded[..], &bytes[..ENTRY_HEADER_LEN]);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        decode_with_everything(&bytes);
    }

    #[test]
    fn random_content_behind_right_frames_never_panics(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        for magic in [b"TLOGIDX0", b"TLOGCKP0", b"TLOGIDT0", b"TLOGCLN0"] {
            let mut file = vec![0; 32];
            file[..8].copy_from_slice(magic);
            file[16..24].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
            file.extend_from_slice(&bytes);
            reseal(&mut file);
            decode_with_everything(&file);
        }
        let mut payload = vec![0; 8];
        payload.extend_from_slice(&bytes);
        decode_with_everything(&payload);
    }

    #[test]
    fn a_changed_checkpoint_with_a_right_checksum_never_panics(
        checkpoint in any_checkpoint(),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = checkpoint.encode();
        for (at, value) in changes {
            let at = 32 + at.index(bytes.len() - 32);
            bytes[at] = value;
        }
        reseal(&mut bytes);
        // A change may make another valid checkpoint; then it encodes to something valid again.
        if let Ok(changed) = Checkpoint::decode(&bytes) {
            prop_assert_eq!(Checkpoint::decode(&changed.encode()), Ok(changed));
        }
    }

    #[test]
    fn a_checkpoint_comes_back_and_every_flipped_bit_of_it_is_seen(
        checkpoint in any_checkpoint(), step in 1_usize..9,
    ) {
        let bytes = checkpoint.encode();
        let decoded = Checkpoint::decode(&bytes);
        prop_assert_eq!(decoded.as_ref(), Ok(&checkpoint));
        for bit in (0..bytes.len() * 8).step_by(step) {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Checkpoint::decode(&flipped).is_err(), "bit {bit}");
        }
        for len in (0..bytes.len()).step_by(step) {
            prop_assert!(Checkpoint::decode(&bytes[..len]).is_err(), "length {len}");
        }
    }

    #[test]
    fn index_look_ups_are_those_of_a_walk(
        steps in proptest::collection::vec((1_u64..3, 0_i64..3, 8_u64..6000, 0_i64..100), 1..60),
        asked in 0_i64..130,
    ) {
        let mut index = SegmentIndex::new();
        let mut entries: Vec<IndexEntry> = Vec::new();
        let mut next = IndexEntry {
            index: EntryIndex(1), base_offset: Offset(0), position: FilePosition(8192), max_timestamp: 0,
        };
        for (by_index, by_offset, by_position, max_timestamp) in steps {
            next.max_timestamp = max_timestamp;
            index.observe(next);
            entries.push(next);
            next.index.0 += by_index;
            next.base_offset.0 += by_offset;
            next.position.0 += by_position;
        }
        let walk_from = |point: Option<IndexEntry>| {
            let position = point.map_or(FilePosition(u64::MAX), |point| point.position);
            entries.iter().filter(move |entry| entry.position >= position)
        };
        // The last entry at or below what is asked for is at or behind the point.
        let by_offset = entries.iter().rfind(|entry| entry.base_offset.0 <= asked);
        let point = index.floor_by_offset(Offset(asked));
        prop_assert_eq!(walk_from(point).rfind(|entry| entry.base_offset.0 <= asked), by_offset);
        let by_index = entries.iter().rfind(|entry| entry.index.0 <= asked as u64);
        let point = index.floor_by_index(EntryIndex(asked as u64));
        prop_assert_eq!(walk_from(point).rfind(|entry| entry.index.0 <= asked as u64), by_index);
        // The first entry late enough is at or behind the point, and before the next one.
        let by_time = entries.iter().find(|entry| entry.max_timestamp >= asked);
        let point = index.first_by_timestamp(asked);
        prop_assert_eq!(point.is_some(), by_time.is_some());
        prop_assert_eq!(walk_from(point).find(|entry| entry.max_timestamp >= asked), by_time);
        if let (Some(point), Some(by_time)) = (point, by_time) {
            let after = index.points().iter().find(|other| other.position > point.position);
            prop_assert!(after.is_none_or(|after| by_time.position < after.position));
        }

        let file = IndexFile {
            incarnation: INCARNATION,
            covered: next.position,
            last_index: next.index,
            next_offset: next.base_offset,
            index: index.clone(),
            ..IndexFile::default()
        };
        let bytes = file.encode();
        prop_assert_eq!(IndexFile::decode(&bytes, &INCARNATION), Ok(file));
        prop_assert_eq!(
            IndexFile::decode(&bytes, &Incarnation([0; 16])),
            Err(IndexError::Incarnation)
        );
        let cut = entries[entries.len() / 2].position;
        index.truncate(cut);
        prop_assert!(index.points().iter().all(|point| point.position < cut));
    }

    #[test]
    fn file_names_come_back(base_index in any::<u64>(), generation in any::<u32>(), name in ".{0,40}") {
        let made = segment_file_name(EntryIndex(base_index), generation);
        prop_assert_eq!(parse_segment_file_name(&made), Some((EntryIndex(base_index), generation)));
        if let Some((index, generation)) = parse_segment_file_name(&name) {
            prop_assert_eq!(segment_file_name(index, generation), name);
        }
    }

    #[test]
    fn a_producer_that_keeps_its_order_is_accepted_and_its_repeats_are_known(
        start in prop_oneof![Just(0), i32::MAX - 40..=i32::MAX],
        counts in proptest::collection::vec(1_i32..20, 1..30),
    ) {
        let mut states = ProducerStates::new();
        let (mut sequence, mut offset) = (start, 0_i64);
        let mut sent = Vec::new();
        for count in counts {
            let batch = ProducerBatch {
                first_sequence: sequence,
                last_sequence: sequence_after(sequence, count - 1),
                base_offset: Offset(offset),
                last_offset: Offset(offset + i64::from(count) - 1),
                timestamp: offset,
            };
            prop_assert_eq!(
                states.check(5, 0, batch.first_sequence, batch.last_sequence),
                SequenceCheck::Accept
            );
            states.record(5, 0, batch);
            sent.push(batch);
            for (age, old) in sent.iter().rev().enumerate() {
                let answer = states.check(5, 0, old.first_sequence, old.last_sequence);
                let expected = if age < 5 {
                    SequenceCheck::Duplicate {
                        base_offset: old.base_offset, last_offset: old.last_offset, timestamp: old.timestamp,
                    }
                } else {
                    SequenceCheck::DuplicateTooOld
                };
                prop_assert_eq!(answer, expected, "age {}", age);
            }
            sequence = sequence_after(sequence, count);
            offset += i64::from(count);
            let gap = sequence_after(sequence, 1);
            prop_assert_eq!(states.check(5, 0, gap, gap), SequenceCheck::OutOfOrder);
        }
        let bytes = states.encode(Offset(1));
        prop_assert_eq!(ProducerStates::decode(&bytes), Ok((states, Offset(1))));
    }
}

fn one_batch(sequence: i32, offset: i64) -> ProducerBatch {
    ProducerBatch {
        first_sequence: sequence,
        last_sequence: sequence,
        base_offset: Offset(offset),
        last_offset: Offset(offset),
        timestamp: offset,
    }
}

#[test]
fn zeros_never_decode() {
    let zeros = [0; 8192];
    assert_eq!(
        decode_entry(&zeros, &Incarnation([0; 16])),
        Err(EntryError::Magic)
    );
    assert_eq!(SegmentHeader::decode(&zeros), Err(SegmentHeaderError::Magic));
    assert!(IndexFile::decode(&zeros, &Incarnation([0; 16])).is_err());
    assert!(Checkpoint::decode(&zeros).is_err());
    assert!(Identity::decode(&zeros).is_err());
    assert!(CleanFlag::decode(&zeros).is_err());
    assert_eq!(validate_crc(&zeros), Err(BatchError::Magic(0)));
}

#[test]
fn either_copy_of_a_segment_header_is_enough_and_every_flipped_bit_is_seen() {
    let header = segment_header();
    let bytes = header.encode();
    for bit in 0..512 * 8 {
        for at in [0, 4096] {
            let mut flipped = bytes.clone();
            flipped[at + bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&flipped), Ok(header), "bit {bit} at {at}");
            let [first, second] = decode_copies(&flipped);
            assert_eq!(
                (first.is_ok(), second.is_ok()),
                (at != 0, at == 0),
                "bit {bit} at {at}"
            );
        }
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        flipped[4096 + bit / 8] ^= 1 << (bit % 8);
        assert!(SegmentHeader::decode(&flipped).is_err(), "bit {bit} in both");
    }
    assert_eq!(SegmentHeader::decode(&bytes[..512]), Ok(header));
    assert!(matches!(
        SegmentHeader::decode(&bytes[..511]),
        Err(SegmentHeaderError::Truncated { .. })
    ));
}

#[test]
fn copies_that_both_verify_and_differ_are_refused() {
    let mut bytes = segment_header().encode();
    let other = SegmentHeader {
        generation: 2,
        ..segment_header()
    }
    .encode();
    bytes[4096..].copy_from_slice(&other[4096..]);
    assert_eq!(
        SegmentHeader::decode(&bytes),
        Err(SegmentHeaderError::CopiesDiffer)
    );
}

#[test]
fn a_segment_of_a_later_version_or_with_unknown_features_is_named_as_such() {
    for (at, expected) in [
        (12, SegmentHeaderError::Version(1)),
        (16, SegmentHeaderError::Features(1)),
    ] {
        let mut bytes = segment_header().encode();
        for copy in [0, 4096] {
            bytes[copy + at] = 1;
            let crc = crc32fast::hash(&bytes[copy + 12..copy + 512]);
            bytes[copy + 8..copy + 12].copy_from_slice(&crc.to_le_bytes());
        }
        assert_eq!(SegmentHeader::decode(&bytes), Err(expected));
        // The first copy damaged as well: the second still tells the cause.
        bytes[20] ^= 1;
        assert_eq!(SegmentHeader::decode(&bytes), Err(expected));
    }
}

#[test]
fn entry_errors_tell_the_causes_apart() {
    let payload = build_batch(
        &BatchSpec {
            leader_epoch: 0,
            ..BatchSpec::default()
        },
        &[b"value"],
    );
    let header = EntryHeader {
        version: ENTRY_VERSION,
        kind: EntryKind::Data,
        flags: 0,
        payload_len: payload.len() as u32,
        payload_crc: payload_crc(EntryKind::Data, 0, &payload),
        term: LeaderEpoch(0),
        index: EntryIndex(1),
        base_offset: Offset(0),
        last_offset_delta: 0,
        prev_crc: 0,
        header_crc: 0,
        max_timestamp: 0,
        durable_gap: 1,
    };
    let entry = whole_entry(header, &payload);
    let changed = |at: usize, value: u8, right_checksum: bool| {
        let mut bytes = entry.clone();
        bytes[at] = value;
        if let (true, Err(EntryError::HeaderCrc { actual, .. })) =
            (right_checksum, verify_header(&bytes, &INCARNATION))
        {
            bytes[4..8].copy_from_slice(&actual.to_le_bytes());
        }
        decode_entry(&bytes, &INCARNATION)
            .map(|_| ())
            .expect_err("changed")
    };
    assert_eq!(changed(0, 0, false), EntryError::Magic);
    assert!(matches!(changed(20, 1, false), EntryError::HeaderCrc { .. }));
    assert_eq!(changed(8, 1, true), EntryError::Version(1));
    assert_eq!(changed(9, 11, true), EntryError::Kind(11));
    assert_eq!(changed(10, 4, true), EntryError::Flags(4));
    assert_eq!(changed(60, 9, true), EntryError::Reserved(9));
    assert_eq!(changed(12, 60, true), EntryError::PayloadLen(60));
    assert_eq!(
        changed(15, 0x20, true),
        EntryError::PayloadLen(0x2000_0000 + header.payload_len)
    );
    assert_eq!(changed(23, 0x80, true), EntryError::Term(0x8000_0000));
    assert_eq!(changed(24, 0, true), EntryError::Index);
    assert!(matches!(changed(39, 0x80, true), EntryError::Offsets { .. }));
    assert!(matches!(changed(43, 0x80, true), EntryError::Offsets { .. }));
    assert_eq!(changed(32, 1, true), EntryError::BatchMismatch);
    assert_eq!(changed(20, 1, true), EntryError::BatchMismatch);
    assert!(matches!(
        changed(64 + 61, 0xff, false),
        EntryError::PayloadCrc { .. }
    ));
    assert_eq!(changed(entry.len() - 1, 1, false), EntryError::Padding);
}

#[test]
fn patching_offset_and_epoch_keeps_a_batch_valid() {
    let batch = build_batch(&BatchSpec::default(), &[b"a", b"b"]);
    let mut stored = patch_prefix(&batch, Offset(1 << 40), LeaderEpoch(9)).to_vec();
    stored.extend_from_slice(&batch[21..]);
    assert_eq!(validate_crc(&stored), Ok(()));
    let header = BatchHeader::parse(&stored).expect("valid");
    assert_eq!(
        (header.base_offset, header.partition_leader_epoch),
        (Offset(1 << 40), LeaderEpoch(9))
    );
    assert_eq!(header.last_offset(), Offset((1 << 40) + 1));
    assert_eq!(header.total_len(), stored.len());
    assert_eq!(header.validate_new(), Ok(()));
    assert_eq!(header.compression(), Ok(Compression::None));
    assert!(!header.is_control() && !header.is_transactional() && !header.has_producer_id());
}

#[test]
fn log_append_time_is_set_and_the_checksum_holds_again() {
    let mut batch = build_batch(
        &BatchSpec {
            attributes: 0x32,
            ..BatchSpec::default()
        },
        &[b"a"],
    );
    let len = batch.len();
    batch.extend_from_slice(b"the next batch");
    set_log_append_time(&mut batch, 77).expect("valid");
    assert_eq!(validate_crc(&batch), Ok(()));
    assert_eq!(&batch[len..], b"the next batch");
    let header = BatchHeader::parse(&batch).expect("valid");
    assert_eq!(
        (header.max_timestamp, header.timestamp_type()),
        (77, TimestampType::LogAppendTime)
    );
    assert_eq!(header.compression(), Ok(Compression::Snappy));
    assert!(header.is_control() && header.is_transactional());
}

#[test]
fn batches_of_wrong_shape_are_refused_with_the_cause() {
    let batch = build_batch(&BatchSpec::default(), &[b"a", b"b"]);
    let changed = |at: usize, value: u8| {
        let mut bytes = batch.clone();
        bytes[at] = value;
        bytes
    };
    assert_eq!(validate_crc(&changed(16, 1)), Err(BatchError::Magic(1)));
    assert_eq!(
        BatchHeader::parse(&batch[..30]),
        Err(BatchError::Truncated {
            needed: 61,
            available: 30
        })
    );
    assert_eq!(BatchHeader::parse(&changed(11, 48)), Err(BatchError::Length(48)));
    assert!(matches!(
        BatchHeader::parse(&changed(8, 0x80)),
        Err(BatchError::Length(_))
    ));
    assert!(matches!(
        validate_crc(&changed(8, 0x7f)),
        Err(BatchError::Truncated { .. })
    ));
    assert!(matches!(
        validate_crc(&changed(61, 0xff)),
        Err(BatchError::Crc { .. })
    ));
    let header = BatchHeader::parse(&changed(60, 3)).expect("parses");
    assert_eq!(
        header.validate_new(),
        Err(BatchError::Counts {
            record_count: 3,
            last_offset_delta: 1
        })
    );
    let header = BatchHeader::parse(&changed(22, 5)).expect("parses");
    assert_eq!(header.validate_new(), Err(BatchError::Compression(5)));
}

#[test]
fn epochs_fence_and_a_new_one_begins_at_zero() {
    let mut states = ProducerStates::new();
    assert_eq!(states.check(1, 3, 1234, 1234), SequenceCheck::Accept);
    states.record(1, 3, one_batch(1234, 0));
    assert_eq!(states.check(1, 2, 1235, 1235), SequenceCheck::OldEpoch);
    assert_eq!(states.check(1, 4, 1235, 1235), SequenceCheck::OutOfOrder);
    assert_eq!(states.check(1, 4, 0, 0), SequenceCheck::Accept);
    states.record(1, 4, one_batch(0, 1));
    assert_eq!(states.epoch(1), Some(4));
    assert_eq!(states.batches(1), [one_batch(0, 1)]);
    // Nothing of this epoch came before it, so this is no repeat.
    assert_eq!(states.check(1, 4, i32::MAX, i32::MAX), SequenceCheck::OutOfOrder);
    assert_eq!(states.check(-1, -1, -1, -1), SequenceCheck::Accept);
    // A marker of a later epoch fences.
    states.record(1, 5, one_batch(-1, 2));
    assert_eq!(states.check(1, 4, 1, 1), SequenceCheck::OldEpoch);
    assert_eq!(states.check(1, 5, 0, 0), SequenceCheck::Accept);
}

#[test]
fn reading_again_what_a_snapshot_holds_changes_nothing() {
    let mut states = ProducerStates::new();
    for step in 0..8 {
        states.record(1, 0, one_batch(step, i64::from(step)));
    }
    let (mut again, _) = ProducerStates::decode(&states.encode(Offset(0))).expect("valid");
    for step in 0..8 {
        again.record(1, 0, one_batch(step, i64::from(step)));
    }
    assert_eq!(again, states);
}

#[test]
fn producers_are_bounded_and_expire() {
    let mut states = ProducerStates::new();
    let count = PRODUCERS_PER_PARTITION_MAX as i64;
    for id in 0..count {
        states.record(id, 0, one_batch(0, id));
    }
    // Producer 0 writes again, so 1 is the one that wrote longest ago.
    states.record(0, 0, one_batch(1, count));
    states.record(count, 0, one_batch(0, count + 1));
    assert_eq!(states.len(), PRODUCERS_PER_PARTITION_MAX);
    assert_eq!(
        (states.epoch(0), states.epoch(1), states.epoch(2)),
        (Some(0), None, Some(0))
    );
    let (decoded, _) = ProducerStates::decode(&states.encode(Offset(0))).expect("valid");
    assert_eq!(decoded, states);

    assert_eq!(states.expire(count), PRODUCERS_PER_PARTITION_MAX - 2);
    assert_eq!((states.len(), states.is_empty()), (2, false));
}

#[test]
fn a_checkpoint_leaves_out_caches_that_do_not_fit() {
    let partition = |number| PartitionCheckpoint {
        key: PartitionKey {
            topic: TopicId([1; 16]),
            partition: number,
        },
        producer_state: vec![1; PRODUCER_STATE_BYTES_MAX],
        ..PartitionCheckpoint::default()
    };
    let fitting = (CHECKPOINT_PRODUCER_STATE_BYTES_MAX / PRODUCER_STATE_BYTES_MAX) as i32;
    let checkpoint = Checkpoint {
        start_counter: 1,
        partitions: (0..=fitting).map(partition).collect(),
    };
    let decoded = Checkpoint::decode(&checkpoint.encode()).expect("valid");
    let cached: Vec<bool> = decoded
        .partitions
        .iter()
        .map(|found| !found.producer_state.is_empty())
        .collect();
    assert_eq!(cached.iter().filter(|cached| **cached).count(), fitting as usize);
    assert_eq!(cached.last(), Some(&false));
}

#[test]
fn a_checkpoint_that_names_a_partition_twice_is_refused() {
    let partition = PartitionCheckpoint::default();
    let checkpoint = Checkpoint {
        start_counter: 1,
        partitions: vec![partition.clone(), partition],
    };
    assert_eq!(
        Checkpoint::decode(&checkpoint.encode()),
        Err(CheckpointError::Contradiction)
    );
}
