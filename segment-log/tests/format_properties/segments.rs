//! Segment headers, file names and index files.

use proptest::prelude::*;
use tidelog_segment_log::ids::{EntryIndex, FilePosition, Incarnation, Offset, TopicId};
use tidelog_segment_log::segment_header::{
    SegmentHeader, SegmentHeaderError, decode_copies, parse_segment_file_name, segment_file_name,
};
use tidelog_segment_log::segment_index::{IndexEntry, IndexError, IndexFile, SegmentIndex};

use crate::INCARNATION;

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

proptest! {
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
