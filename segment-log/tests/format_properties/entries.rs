//! Entries: headers, payloads and what ties them to a segment.

use proptest::prelude::*;
use tidelog_segment_log::batch::testing::{BatchSpec, build_batch};
use tidelog_segment_log::entry::{
    ENTRY_HEADER_LEN, ENTRY_VERSION, EntryError, EntryHeader, EntryKind, FLAG_ENCRYPTED, decode_entry,
    entry_len, payload_crc, verify_header,
};
use tidelog_segment_log::ids::{EntryIndex, Incarnation, LeaderEpoch, Offset};
use tidelog_segment_log::limits::ENTRY_INDEX_MAX;

use crate::{INCARNATION, whole_entry};

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
