//! What must hold for any bytes on a disk: no panic, and no more memory than the bytes account for.
//!
//! One function for each structure. The fuzz targets call them, and so does the test of `tidelog-core` that
//! replays the seeds and the committed inputs. The including crate has `counting.rs` beside it and sets
//! its `Counting` as the global allocator; every check begins by making sure that allocations are counted.
//!
//! Random bytes never get past a checksum. So the first byte of an input says whether checksums are made
//! right before the rest is read: what lies behind them must hold too, since a faulty program, or one of
//! another release, can have written it.

use crate::counting::peak_of;
use bytes::Bytes;
use std::hint::black_box;
use std::path::Path;
use tidelog_core::metadata::MetadataRecord;
use tidelog_net::records::{Compression, DecompressError, decompress};
use tidelog_segment_log::batch::crc32c;
use tidelog_segment_log::checkpoint::{Checkpoint, PartitionCheckpoint};
use tidelog_segment_log::disk::memory::MemoryDisk;
use tidelog_segment_log::entry::{
    ENTRY_HEADER_LEN, ENTRY_MAGIC, EntryHeader, EntryKind, decode_entry, entry_len, payload_crc,
};
use tidelog_segment_log::identity::{CleanFlag, Identity};
use tidelog_segment_log::ids::{EntryIndex, Incarnation, Offset, PartitionKey, TopicId};
use tidelog_segment_log::journal::format::{FileId, FrameHeader, JournalPage};
use tidelog_segment_log::log::{
    Durability, LogConfig, OpenSpec, Opening, PartitionLog, ReadError, ReadPart, drive_open, verify_cold,
};
use tidelog_segment_log::producer_state::{ProducerStates, decode_log_start};
use tidelog_segment_log::recovery::{
    ExamineSpec, RecoveryOptions, RecoveryReport, RepairError, examine, repair,
};
use tidelog_segment_log::segment_header::{SegmentHeader, decode_copies};
use tidelog_segment_log::segment_index::IndexFile;

/// What a decode may hold beyond its share of the input: error texts, tables.
pub const CONSTANT_BYTES: usize = 4 * 1024;
/// Held per byte of an archive: a struct of pointers and lengths is larger in memory than archived.
pub const PER_ARCHIVED_BYTE: usize = 8;
/// The cap given to decompression.
pub const DECOMPRESSED_BYTES_MAX: usize = 64 * 1024;
/// What a decompression may hold: the output while it grows, the decoder's window, its tables.
pub const DECOMPRESSION_BYTES_MAX: usize = 4 * DECOMPRESSED_BYTES_MAX + 256 * 1024;
/// What a recovery may hold beyond its share of the files: windows of files, each bounded by its file.
pub const RECOVERY_BYTES: usize = 256 * 1024;
/// Lost indices in sum up to which a repair is tried.
const REPAIRED_INDICES_MAX: u64 = 1_000;
/// Held per byte of a segment in recovery: files copied on write, a window, an entry, the index.
pub const PER_RECOVERED_BYTE: usize = 16;

/// All targets.
pub const TARGETS: [&str; 16] = [
    "segment-header",
    "entry",
    "index-file",
    "checkpoint",
    "identity",
    "clean-flag",
    "journal-page",
    "journal-frame",
    "producer-state",
    "log-start",
    "metadata-record",
    "segment",
    "decompress-gzip",
    "decompress-snappy",
    "decompress-lz4",
    "decompress-zstd",
];

/// The incarnation of every segment here.
pub const INCARNATION: Incarnation = Incarnation([0x5e; 16]);

/// The partition of the segment that goes through recovery.
pub const KEY: PartitionKey = PartitionKey {
    topic: TopicId([9; 16]),
    partition: 3,
};

/// The header of that segment.
pub fn segment_header() -> SegmentHeader {
    SegmentHeader {
        format_version: 0,
        features: 0,
        incarnation: INCARNATION,
        topic: KEY.topic,
        partition: KEY.partition,
        generation: 0,
        base_offset: Offset(0),
        base_index: EntryIndex(1),
        replaced: None,
        key_reference: None,
        truncations: 0,
    }
}

/// Checks one input of a target; false if there is no such target.
pub fn check(target: &str, input: &[u8]) -> bool {
    let (_, peak) = peak_of(|| black_box(Vec::<u8>::with_capacity(CONSTANT_BYTES)));
    assert!(peak >= CONSTANT_BYTES, "the counting allocator is not in place");
    let Some((mode, bytes)) = input.split_first() else {
        return TARGETS.contains(&target);
    };
    let mut bytes = bytes.to_vec();
    let right = mode & 1 != 0;
    match target {
        "segment-header" => check_segment_header(&mut bytes, right),
        "entry" => check_entry(&mut bytes, right),
        "index-file" => check_sealed(&mut bytes, right, |bytes| {
            let _ = black_box(IndexFile::decode(bytes, &INCARNATION));
        }),
        "checkpoint" => check_sealed(&mut bytes, right, |bytes| {
            let _ = black_box(Checkpoint::decode(bytes));
        }),
        "identity" => check_sealed(&mut bytes, right, |bytes| {
            let _ = black_box(Identity::decode(bytes));
        }),
        "journal-page" => check_journal_page(&mut bytes, right),
        "journal-frame" => check_journal_frame(&mut bytes, right),
        "clean-flag" => check_sealed(&mut bytes, right, |bytes| {
            let _ = black_box(CleanFlag::decode(bytes));
        }),
        "producer-state" => bounded(&bytes, |bytes| {
            let _ = black_box(ProducerStates::decode(bytes));
        }),
        "log-start" => bounded(&bytes, |bytes| {
            let _ = black_box(decode_log_start(bytes));
        }),
        "metadata-record" => bounded(&bytes, |bytes| {
            let _ = black_box(MetadataRecord::decode(bytes));
        }),
        "segment" => check_segment(*mode, &mut bytes),
        "decompress-gzip" => check_decompression(Compression::Gzip, bytes),
        "decompress-snappy" => check_decompression(Compression::Snappy, bytes),
        "decompress-lz4" => check_decompression(Compression::Lz4, bytes),
        "decompress-zstd" => check_decompression(Compression::Zstd, bytes),
        _ => return false,
    }
    true
}

fn bounded(bytes: &[u8], work: impl FnOnce(&[u8])) {
    let ((), peak) = peak_of(|| work(bytes));
    let most = CONSTANT_BYTES + PER_ARCHIVED_BYTE * bytes.len();
    assert!(
        peak <= most,
        "{peak} bytes held instead of {most} for {bytes:02x?}"
    );
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + field.len()) {
        place.copy_from_slice(field);
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..at + 4).and_then(|field| field.try_into().ok());
    field.map_or(0, u32::from_le_bytes)
}

/// Makes the checksum of a sealed file right for what is in it.
pub fn reseal(bytes: &mut [u8]) {
    let len = bytes.get(16..24).and_then(|field| field.try_into().ok());
    let len = len.map_or(0, u64::from_le_bytes).min(bytes.len() as u64) as usize;
    let covered = bytes.get(12..(32 + len).min(bytes.len())).unwrap_or_default();
    let crc = crc32fast::hash(covered);
    put(bytes, 8, &crc.to_le_bytes());
}

fn check_sealed(bytes: &mut [u8], right: bool, decode: impl FnOnce(&[u8])) {
    if right {
        reseal(bytes);
    }
    bounded(bytes, decode);
}

/// The life of the journal file that frames here are of.
pub const FILE_ID: FileId = FileId([0x6a; 16]);

fn check_journal_page(bytes: &mut [u8], right: bool) {
    if right && let Some(page) = bytes.get_mut(..4096) {
        let crc = crc32fast::hash(&page[12..]);
        put(page, 8, &crc.to_le_bytes());
    }
    bounded(bytes, |bytes| {
        if let Ok(page) = JournalPage::decode(bytes) {
            assert_eq!(
                JournalPage::decode(&page.encode()),
                Ok(page),
                "what is read can be written"
            );
        }
    });
}

fn check_journal_frame(bytes: &mut [u8], right: bool) {
    if right {
        put(bytes, 16, &FILE_ID.0);
        let length = (u32_at(bytes, 8) as usize).clamp(8, bytes.len().max(8));
        let crc = crc32fast::hash(bytes.get(8..length).unwrap_or_default());
        put(bytes, 4, &crc.to_le_bytes());
    }
    bounded(bytes, |bytes| {
        if let Ok((header, record)) = FrameHeader::decode(bytes, &FILE_ID) {
            let again = header.encode([record].into_iter());
            assert!(bytes.starts_with(&again), "what is read can be written");
        }
    });
}

fn check_segment_header(bytes: &mut [u8], right: bool) {
    for at in [0, 4096] {
        if right && let Some(copy) = bytes.get_mut(at..at + 512) {
            let crc = crc32fast::hash(&copy[12..]);
            put(copy, 8, &crc.to_le_bytes());
        }
    }
    bounded(bytes, |bytes| {
        if let Ok(header) = SegmentHeader::decode(bytes) {
            let again = SegmentHeader::decode(&header.encode());
            assert_eq!(again.ok(), Some(header), "what is read can be written");
            assert!(decode_copies(bytes).iter().any(Result::is_ok));
        }
    });
}

/// Makes the checksums of the entry at the start of `bytes` right: batch, payload, header.
pub fn reseal_entry(bytes: &mut [u8], incarnation: &Incarnation) {
    let payload_len = u32_at(bytes, 12) as usize;
    let is_plain = matches!(bytes.get(9), Some(1 | 2)) && bytes.get(10).is_some_and(|flags| flags & 1 == 0);
    if let Some(payload) = bytes.get_mut(ENTRY_HEADER_LEN..ENTRY_HEADER_LEN.saturating_add(payload_len)) {
        let crc = if is_plain && payload.len() > 21 {
            let crc = crc32c(&payload[21..]);
            put(payload, 17, &crc.to_be_bytes());
            crc
        } else {
            payload_crc(EntryKind::Metadata, 0, payload)
        };
        put(bytes, 16, &crc.to_le_bytes());
    }
    let mut crc = crc32fast::Hasher::new();
    crc.update(bytes.get(8..ENTRY_HEADER_LEN).unwrap_or_default());
    crc.update(&incarnation.0);
    if is_plain {
        crc.update(
            bytes
                .get(ENTRY_HEADER_LEN..ENTRY_HEADER_LEN + 21)
                .unwrap_or_default(),
        );
    }
    let crc = crc.finalize();
    put(bytes, 4, &crc.to_le_bytes());
}

fn check_entry(bytes: &mut [u8], right: bool) {
    if right {
        reseal_entry(bytes, &INCARNATION);
    }
    bounded(bytes, |bytes| {
        let _ = black_box(EntryHeader::decode(bytes, &INCARNATION));
        if let Ok((header, payload)) = decode_entry(bytes, &INCARNATION) {
            assert!(header.entry_len() <= bytes.len() && payload.len() == header.payload_len as usize);
            let _ = black_box(ProducerStates::decode(payload));
        }
    });
}

fn check_decompression(compression: Compression, bytes: Vec<u8>) {
    let payload = Bytes::from(bytes);
    let (outcome, peak) = peak_of(|| decompress(compression, &payload, DECOMPRESSED_BYTES_MAX));
    match outcome {
        Ok(plain) => assert!(plain.len() <= DECOMPRESSED_BYTES_MAX),
        Err(DecompressError::TooLarge { max_bytes }) => assert_eq!(max_bytes, DECOMPRESSED_BYTES_MAX),
        Err(_) => {}
    }
    assert!(
        peak <= DECOMPRESSION_BYTES_MAX,
        "{peak} bytes held instead of {DECOMPRESSION_BYTES_MAX} for {payload:?}"
    );
}

fn spec(checkpoint: Option<PartitionCheckpoint>, clean: bool) -> OpenSpec {
    OpenSpec {
        directory: "/p".into(),
        key: KEY,
        config: LogConfig {
            segment_bytes: 1 << 20,
            segment_ms: i64::MAX,
            durability: Durability::Fsync,
        },
        token_space: 1,
        checkpoint,
        clean,
        start_counter: 1,
        created: false,
    }
}

fn open(disk: &mut MemoryDisk, spec: OpenSpec) -> Option<(Box<PartitionLog>, RecoveryReport)> {
    let options = RecoveryOptions {
        incarnation_seed: Some(7),
        ..RecoveryOptions::default()
    };
    drive_open(disk, Opening::with_options(spec, options)).ok()
}

/// A small segment through recovery. Bits of the mode: 0 makes every checksum right, 1 gives a checkpoint
/// that calls what is there durable, 2 says that the shutdown was clean. The input begins behind the
/// segment's header.
fn check_segment(mode: u8, bytes: &mut [u8]) {
    if mode & 1 != 0 {
        let mut at = 0;
        while let Some(rest) = bytes.get_mut(at..).filter(|rest| rest.len() >= ENTRY_HEADER_LEN) {
            let mut step = 8;
            if rest.starts_with(&ENTRY_MAGIC) {
                reseal_entry(rest, &INCARNATION);
                step = entry_len(u32_at(rest, 12).min(1 << 20));
            }
            at += step;
        }
    }
    let mut file = segment_header().encode();
    file.extend_from_slice(bytes);
    let most = RECOVERY_BYTES + PER_RECOVERED_BYTE * file.len();
    let mut disk = MemoryDisk::new();
    disk.put(&Path::new("/p").join(segment_header().file_name()), file);
    let checkpoint = (mode & 2 != 0).then(|| PartitionCheckpoint {
        key: KEY,
        durable_index: EntryIndex(u64::from(mode >> 3)),
        next_offset: Offset(i64::from(mode >> 3) * 2),
        ..PartitionCheckpoint::default()
    });
    check_offline(&disk, checkpoint.clone());
    let ((), peak) = peak_of(|| {
        let Some((mut log, report)) = open(&mut disk, spec(checkpoint.clone(), mode & 4 != 0)) else {
            return;
        };
        check_reads(&mut disk, &mut log);
        drop(log);
        // What a recovery leaves, the next one finds as it is.
        let Some((again, second)) = open(&mut disk, spec(checkpoint.clone(), false)) else {
            panic!("what one recovery opened, the next one refuses");
        };
        if !report.clean {
            assert!(
                lost(&second) == lost(&report),
                "{:?} then {:?}",
                report.quarantined,
                second.quarantined
            );
            assert!(
                second.set_aside.is_empty(),
                "{:?} after {report:?}",
                second.set_aside
            );
        }
        drop(again);
    });
    assert!(
        peak <= most,
        "{peak} bytes held instead of {most} by the recovery of {} bytes",
        bytes.len()
    );
}

/// What the offline tools say is what recovery finds, and what they repair verifies then.
fn check_offline(disk: &MemoryDisk, checkpoint: Option<PartitionCheckpoint>) {
    let what = ExamineSpec {
        journal: Default::default(),
        directory: "/p".into(),
        key: KEY,
        checkpoint: checkpoint.clone(),
        only: None,
        batch_bytes: 64,
    };
    let look = |disk: &MemoryDisk| examine(&mut disk.copy(), &what, &mut |_, _, _, _| true);
    let Ok(found) = look(disk) else { return };
    let said: Vec<_> = found
        .damage
        .iter()
        .map(|damage| damage.quarantined.clone())
        .collect();
    if let Some((_, report)) = open(&mut disk.copy(), spec(checkpoint, false)) {
        assert_eq!(said, report.quarantined, "said offline, and found by recovery");
    }
    // Each lost index is written: many of them prove no more, and cost executions.
    let indices = said
        .iter()
        .map(|lost| lost.indices.end.0.saturating_sub(lost.indices.start.0));
    if indices.fold(0, u64::saturating_add) > REPAIRED_INDICES_MAX {
        return;
    }
    let mut repaired = disk.copy();
    match repair(&mut repaired, &what, true) {
        Ok(done) => assert!(done.steps.is_empty() == said.is_empty(), "{done:?}"),
        Err(RepairError::TooMuch { .. } | RepairError::Encrypted { .. }) => return,
        Err(error) => panic!("{error}"),
    }
    let left = look(&repaired).expect("what was repaired can be looked at");
    assert!(left.damage.is_empty(), "repaired, and yet {:?}", left.damage);
}

fn lost(report: &RecoveryReport) -> Vec<std::ops::Range<Offset>> {
    report
        .quarantined
        .iter()
        .map(|damage| damage.offsets.clone())
        .collect()
}

/// Reads from start to end: each plan verifies or is refused, and moves on.
fn check_reads(disk: &mut MemoryDisk, log: &mut PartitionLog) {
    let (mut at, end) = (log.log_start_offset(), log.high_watermark());
    for _ in 0..64 {
        if at >= end {
            return;
        }
        let plan = match log.read(disk, at, end, 1 << 16) {
            Ok(plan) => plan,
            Err(ReadError::Quarantined { next, .. }) if next > at => {
                at = next;
                continue;
            }
            Err(_) => return,
        };
        for part in plan.parts {
            let ReadPart::Cold(range) = part else { continue };
            let Some(file) = disk.file(range.file.path()).cloned() else {
                panic!("a plan names a file that is not there");
            };
            let bytes = &file[range.position.start as usize..range.position.end as usize];
            let _ = black_box(verify_cold(&range, bytes));
        }
        at = Offset(at.0 + 1);
    }
}
