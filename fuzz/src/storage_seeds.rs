//! Whole structures, as the program writes them: what the fuzz targets of the disk begin with.

use crate::storage_checks::{FILE_ID, INCARNATION, KEY, TARGETS, segment_header};
use bytes::Bytes;
use std::path::Path;
use tidelog_core::metadata::MetadataRecord;
use tidelog_net::records::{Compression, compress};
use tidelog_segment_log::batch::testing::{BatchSpec, build_batch};
use tidelog_segment_log::checkpoint::Checkpoint;
use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::disk::memory::MemoryDisk;
use tidelog_segment_log::entry::{EntryHeader, EntryKind};
use tidelog_segment_log::identity::{CleanFlag, Identity};
use tidelog_segment_log::ids::{FilePosition, LeaderEpoch, Offset};
use tidelog_segment_log::journal::format::{FrameHeader, FrameNumber, JournalPage};
use tidelog_segment_log::log::{
    CloseProgress, Durability, LogConfig, OpenSpec, Opening, PartitionLog, drive_open,
};
use tidelog_segment_log::producer_state::encode_log_start;
use tidelog_segment_log::recovery::RecoveryOptions;
use tidelog_segment_log::segment_header::SEGMENT_HEADER_LEN;

const DIRECTORY: &str = "/p";

/// A segment of a few batches with its checkpoint, as an orderly stop leaves them.
struct Stopped {
    disk: MemoryDisk,
    checkpoint: Checkpoint,
}

fn settle(log: &mut PartitionLog, disk: &mut MemoryDisk) {
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

fn stopped() -> Stopped {
    let mut disk = MemoryDisk::new();
    let spec = OpenSpec {
        directory: DIRECTORY.into(),
        key: KEY,
        config: LogConfig {
            segment_bytes: SEGMENT_HEADER_LEN as u64 + 700,
            segment_ms: i64::MAX,
            durability: Durability::Fsync,
        },
        token_space: 1,
        checkpoint: None,
        clean: false,
        start_counter: 1,
        created: true,
    };
    let options = RecoveryOptions {
        incarnation_seed: Some(1),
        ..RecoveryOptions::default()
    };
    let opened = drive_open(&mut disk, Opening::with_options(spec, options));
    let (mut log, _) = opened.expect("a new log opens");
    log.confirm_term();
    for number in 0..6u8 {
        let spec = BatchSpec {
            producer_id: 4,
            producer_epoch: 0,
            base_sequence: i32::from(number) * 2,
            timestamp_ms: i64::from(number),
            ..BatchSpec::default()
        };
        let batch = Bytes::from(build_batch(&spec, &[&[number; 20], b"second"]));
        log.append(1, &mut disk, &batch).expect("room for a batch");
        settle(&mut log, &mut disk);
    }
    let checkpoint = loop {
        match log.close(1, &mut disk) {
            CloseProgress::Closed(checkpoint) => break *checkpoint,
            CloseProgress::Pending => settle(&mut log, &mut disk),
            CloseProgress::Fenced => panic!("a disk in memory does not fail"),
        }
    };
    let checkpoint = Checkpoint {
        start_counter: 1,
        partitions: vec![checkpoint],
    };
    Stopped { disk, checkpoint }
}

fn records() -> Vec<MetadataRecord> {
    let topic_id = uuid::Uuid::from_bytes([7; 16]);
    let text = |text: &str| text.to_owned();
    vec![
        MetadataRecord::TopicCreated {
            name: text("orders"),
            topic_id,
            partitions: 3,
            replication_factor: 1,
            configs: vec![
                (text("cleanup.policy"), text("compact")),
                (text("retention.ms"), text("1")),
            ],
        },
        MetadataRecord::PartitionsAdded {
            topic_id,
            partitions: 6,
        },
        MetadataRecord::TopicDeleted { topic_id },
        MetadataRecord::TopicConfigSet {
            topic_id,
            key: text("retention.bytes"),
            value: text("1073741824"),
        },
        MetadataRecord::TopicConfigUnset {
            topic_id,
            key: text("retention.bytes"),
        },
        MetadataRecord::ProducerIdsAllocated { next: 1_000 },
        MetadataRecord::PlacementOverride {
            topic_id,
            partition: 1,
            shard: Some(2),
        },
    ]
}

fn entry(kind: EntryKind, payload: &[u8]) -> Vec<u8> {
    let mut header = EntryHeader {
        version: 0,
        kind,
        flags: 0,
        payload_len: payload.len() as u32,
        payload_crc: tidelog_segment_log::entry::payload_crc(kind, 0, payload),
        term: LeaderEpoch(0),
        index: tidelog_segment_log::ids::EntryIndex(1),
        base_offset: Offset(0),
        last_offset_delta: if kind.is_batch() { 0 } else { -1 },
        prev_crc: 0,
        header_crc: 0,
        max_timestamp: -1,
        durable_gap: 1,
    };
    let mut bytes = header.encode(&INCARNATION, payload).to_vec();
    bytes.extend_from_slice(payload);
    bytes.resize(header.entry_len(), 0);
    bytes
}

/// The entries of the first segment under the incarnation of the targets.
fn entries_of_a_segment(stopped: &Stopped) -> Vec<u8> {
    let files = stopped.disk.all_files();
    let first = files
        .keys()
        .find(|path| path.extension().is_some_and(|ending| ending == "log"));
    let file = first.and_then(|path| stopped.disk.file(path)).expect("a segment");
    let end = stopped.checkpoint.partitions[0].segments[0].length.0 as usize;
    let mut bytes = file[SEGMENT_HEADER_LEN..end].to_vec();
    let (mut at, mut before) = (0, [0; 4]);
    while at < bytes.len() {
        bytes[at + 44..at + 48].copy_from_slice(&before);
        crate::storage_checks::reseal_entry(&mut bytes[at..], &INCARNATION);
        before.copy_from_slice(&bytes[at + 4..at + 8]);
        let (header, _) =
            tidelog_segment_log::entry::decode_entry(&bytes[at..], &INCARNATION).expect("an entry");
        at += header.entry_len();
    }
    bytes
}

/// Every seed of a target, without the first byte of an input, which says how it is read.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    let stopped = stopped();
    let named = |ending: &str| -> Vec<Vec<u8>> {
        let files = stopped.disk.all_files();
        let has_it = |path: &Path| path.extension().is_some_and(|own| own == ending);
        files
            .iter()
            .filter(|(path, _)| has_it(path))
            .map(|(_, bytes)| bytes.to_vec())
            .collect()
    };
    let identity = |rack: Option<&str>| Identity {
        start_counter: 3,
        node_id: 1,
        feature_level: 0,
        cluster_id: "a cluster of some length".into(),
        rack: rack.map(str::to_owned),
        directory_id: [7; 16],
    };
    match target {
        "segment-header" => vec![segment_header().encode()[..4096 + 512].to_vec()],
        "entry" => {
            let batch = build_batch(&BatchSpec::default(), &[b"one"]);
            vec![
                entry(EntryKind::Data, &batch),
                entry(EntryKind::LogStart, &encode_log_start(Offset(0))),
                entry(EntryKind::Metadata, b"anything"),
            ]
        }
        "index-file" => named("index")
            .iter()
            .map(|file| rename_incarnation(file))
            .collect(),
        "checkpoint" => vec![
            stopped.checkpoint.encode(),
            Checkpoint {
                start_counter: 9,
                partitions: Vec::new(),
            }
            .encode(),
        ],
        "identity" => vec![identity(None).encode(), identity(Some("rack")).encode()],
        "journal-page" => vec![
            JournalPage {
                file_id: FILE_ID,
                shard: 1,
                start_counter: 3,
                sequence: 2,
            }
            .encode(),
        ],
        "journal-frame" => journal_frames(),
        "clean-flag" => vec![CleanFlag { start_counter: 3 }.encode()],
        "producer-state" => vec![stopped.checkpoint.partitions[0].producer_state.clone()],
        "log-start" => vec![encode_log_start(Offset(17))],
        "metadata-record" => records()
            .iter()
            .map(|record| record.encode().expect("a small record"))
            .collect(),
        "segment" => {
            let entries = entries_of_a_segment(&stopped);
            vec![entries.clone(), entries[..entries.len() - 9].to_vec(), Vec::new()]
        }
        name => {
            let codec = name.strip_prefix("decompress-").and_then(Compression::from_name);
            let Some(codec) = codec else { return Vec::new() };
            let plain = [&[7u8; 3_000][..], b"some records and more records", &[0; 100]].concat();
            vec![
                compress(codec, &plain).expect("records compress").to_vec(),
                compress(codec, &vec![0; 1 << 20])
                    .expect("records compress")
                    .to_vec(),
            ]
        }
    }
}

/// An index file speaks of the incarnation that its root begins with.
fn rename_incarnation(file: &[u8]) -> Vec<u8> {
    let mut file = file.to_vec();
    let root = file.len() - 80;
    file[root..root + 16].copy_from_slice(&INCARNATION.0);
    crate::storage_checks::reseal(&mut file);
    file
}

/// Every input to begin with, by target and name.
pub fn all() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut inputs = Vec::new();
    for target in TARGETS {
        for (number, seed) in seeds(target).into_iter().enumerate() {
            // Of a segment the mode also says what a checkpoint claims.
            let modes: &[u8] = if target == "segment" {
                &[0, 1, 27, 31, 43]
            } else {
                &[0, 1]
            };
            for mode in modes {
                let input = [&[*mode], &seed[..]].concat();
                inputs.push((target, format!("{number}-{mode}"), input));
            }
        }
    }
    inputs
}

/// Frames with records of some lengths.
fn journal_frames() -> Vec<Vec<u8>> {
    let frame = |record_len: usize| {
        let record = vec![0x5a; record_len];
        let header = FrameHeader {
            file_id: FILE_ID,
            number: FrameNumber(7),
            durable: FrameNumber(6),
            segment: segment_header(),
            position: FilePosition(8192),
        };
        let mut frame = header.encode([record.as_slice()].into_iter()).to_vec();
        frame.extend_from_slice(&record);
        frame
    };
    [0, 8, 64].into_iter().map(frame).collect()
}
