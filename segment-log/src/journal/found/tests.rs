//! What a start holds of journals in memory.

#![allow(clippy::indexing_slicing)]

use std::path::Path;

use super::super::format::{FileId, FrameHeader};
use super::*;
use crate::batch::testing::{BatchSpec, build_batch};
use crate::counting::{held_bytes, peak_of};
use crate::disk::StdDisk;
use crate::disk::memory::MemoryDisk;
use crate::entry::{ENTRY_VERSION, EntryHeader, EntryKind, payload_crc};
use crate::ids::{EntryIndex, FilePosition, Incarnation, LeaderEpoch, Offset, TopicId};
use crate::segment_header::{SEGMENT_FORMAT_VERSION, SegmentHeader};

/// What a frame takes at rest, and, since the list of a partition grows by doubling, at its peak.
const FRAME_BYTES: usize = 24;
const FRAME_BYTES_PEAK: usize = 3 * FRAME_BYTES;
/// A window over a file, and the disk's copy of it.
const READING_BYTES: usize = 4 << 20;
/// What a partition takes besides its frames.
const PARTITION_BYTES: usize = 1_024;

/// A journal file with appends of one small record each, to these many partitions in turn.
fn journal(frames: u64, partitions: u64) -> Vec<u8> {
    let page = JournalPage {
        file_id: FileId([7; 16]),
        shard: 0,
        start_counter: 1,
        sequence: 1,
    };
    let batch = build_batch(&BatchSpec::default(), &[b"x"]);
    let incarnation = Incarnation([5; 16]);
    let mut bytes = page.encode().to_vec();
    for number in 1..=frames {
        let index = EntryIndex(1 + (number - 1) / partitions);
        // As stored: under its offset and epoch.
        let mut batch = batch.clone();
        batch[..8].copy_from_slice(&(index.0 as i64 - 1).to_be_bytes());
        batch[12..16].copy_from_slice(&1_i32.to_be_bytes());
        let mut entry = EntryHeader {
            version: ENTRY_VERSION,
            kind: EntryKind::Data,
            flags: 0,
            payload_len: batch.len() as u32,
            payload_crc: payload_crc(EntryKind::Data, 0, &batch),
            term: LeaderEpoch(1),
            index,
            base_offset: Offset(index.0 as i64 - 1),
            last_offset_delta: 0,
            prev_crc: 0,
            header_crc: 0,
            max_timestamp: 1,
            durable_gap: 1,
        };
        let mut record = entry.encode(&incarnation, &batch).to_vec();
        record.extend_from_slice(&batch);
        record.resize(entry.entry_len(), 0);
        let header = FrameHeader {
            file_id: page.file_id,
            number: FrameNumber(number),
            durable: FrameNumber(number - 1),
            segment: SegmentHeader {
                format_version: SEGMENT_FORMAT_VERSION,
                features: 0,
                incarnation,
                topic: TopicId([9; 16]),
                partition: (number % partitions) as i32,
                generation: 0,
                base_offset: Offset(0),
                base_index: EntryIndex(1),
                replaced: None,
                key_reference: None,
                truncations: 0,
            },
            position: FilePosition(8_192 + index.0 * 4_096),
        };
        bytes.extend_from_slice(&header.encode([record.as_slice()].into_iter()));
        bytes.extend_from_slice(&record);
    }
    bytes
}

/// Bytes held at rest and at the peak by what is found in such a journal, and the bytes of the journal.
fn held_by(frames: u64, partitions: u64) -> (usize, usize, usize) {
    let mut disk = MemoryDisk::new();
    let file = journal(frames, partitions);
    let len = file.len();
    disk.put(Path::new("/d/journal/0-1.journal"), file);
    let before = held_bytes();
    let (found, peak) = peak_of(|| FoundJournals::find(1, Path::new("/d")).drive(&mut disk));
    let found = found.expect("read");
    let held = usize::try_from(held_bytes() - before).unwrap_or(0);
    let there: usize = found.partitions.values().map(|of| of.frame_count()).sum();
    assert_eq!((there as u64, found.damage().len()), (frames, 0));
    assert_eq!(found.partitions().count() as u64, partitions);
    (held, peak, len)
}

#[test]
fn a_start_holds_24_bytes_for_each_frame_of_its_journals() {
    // Just above a power of two, where a list that doubles has most to spare.
    let frames = 70_000;
    for partitions in [1, 500] {
        let (held, peak, len) = held_by(frames, partitions);
        let others = partitions as usize * PARTITION_BYTES;
        let bound = frames as usize * FRAME_BYTES + others + 4_096;
        assert!(held <= bound, "{held} bytes at rest, at most {bound}");
        let bound = frames as usize * FRAME_BYTES_PEAK + others + READING_BYTES;
        assert!(peak <= bound, "{peak} bytes at the peak, at most {bound}");
        let per_gib = (1_usize << 30) / (len / frames as usize) * FRAME_BYTES;
        assert!(per_gib <= 96 << 20, "{per_gib} bytes for 1 GiB of such frames");
        println!(
            "{partitions} partitions: {held} bytes at rest, {peak} at the peak, of {len} bytes of journal"
        );
    }
}

#[test]
fn a_file_that_is_longer_than_its_frames_can_be_named_is_refused() {
    let root = tempfile::tempdir().expect("a directory");
    let path = journal_directory(root.path()).join("0-1.journal");
    std::fs::create_dir(journal_directory(root.path())).expect("made");
    let file = std::fs::File::create(&path).expect("made");
    // A hole takes no space.
    for (bytes, is_refused) in [(FRAMES_END_MAX + 1, true), (8_192, false)] {
        file.set_len(bytes).expect("as long");
        let found = FoundJournals::find(1, root.path()).drive(&mut StdDisk::new());
        match found {
            Err(JournalError::TooLong {
                path: named,
                bytes: told,
            }) => {
                assert!(is_refused && named == path && told == bytes);
            }
            other => assert!(!is_refused && other.is_ok(), "{bytes}: {other:?}"),
        }
    }
}
