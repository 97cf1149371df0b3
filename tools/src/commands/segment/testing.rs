//! A partition that the log itself wrote, for the tests of these commands.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use tidelog_segment_log::batch::testing::{BatchSpec, build_batch};
use tidelog_segment_log::checkpoint::{Checkpoint, PartitionCheckpoint};
use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::disk::std_disk::StdDisk;
use tidelog_segment_log::ids::{PartitionKey, TopicId};
use tidelog_segment_log::log::{Durability, LogConfig, OpenSpec, Opening, PartitionLog, drive_open};
use tidelog_segment_log::segment_header::{SEGMENT_HEADER_LEN, segment_file_name};

/// A data directory of one partition. Each batch of it is durable before the next one is appended.
pub struct Partition {
    root: tempfile::TempDir,
    checkpoint: PartitionCheckpoint,
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

impl Partition {
    /// One segment with `count` batches of two records.
    pub fn with_batches(count: u8) -> Self {
        let root = tempfile::tempdir().expect("directory");
        let mut partition = Partition {
            root,
            checkpoint: PartitionCheckpoint::default(),
        };
        let mut disk = StdDisk::new();
        std::fs::create_dir_all(partition.root().join("partitions")).expect("create");
        std::fs::write(partition.root().join("identity"), "not looked into").expect("write");
        let spec = OpenSpec {
            directory: partition.directory(),
            key: Self::key(),
            config: LogConfig {
                segment_bytes: 1 << 20,
                segment_ms: i64::MAX,
                durability: Durability::Fsync,
            },
            token_space: 1,
            checkpoint: None,
            clean: false,
            start_counter: 1,
            created: true,
        };
        let (mut log, _) = drive_open(&mut disk, Opening::new(spec)).expect("a new log");
        log.confirm_term();
        for number in 0..count {
            let batch = build_batch(&BatchSpec::default(), &[&[number; 40], b"second"]);
            log.append(1, &mut disk, &Bytes::from(batch)).expect("room");
            settle(&mut log, &mut disk);
        }
        partition.checkpoint = log.checkpoint();
        partition
    }

    pub fn key() -> PartitionKey {
        PartitionKey {
            topic: TopicId([1; 16]),
            partition: 0,
        }
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    pub fn directory(&self) -> PathBuf {
        let key = Self::key();
        let name = format!("{}-{}", key.topic, key.partition);
        self.root.path().join("partitions").join(name)
    }

    pub fn file(&self) -> PathBuf {
        let name = segment_file_name(tidelog_segment_log::ids::EntryIndex(1), 0);
        self.directory().join(name)
    }

    /// Where its last entry ends.
    pub fn end(&self) -> u64 {
        let segment = self.checkpoint.segments.last();
        segment.map_or(SEGMENT_HEADER_LEN as u64, |segment| segment.length.0)
    }

    pub fn flip(&self, byte: u64) {
        let mut bytes = std::fs::read(self.file()).expect("read");
        bytes[byte as usize] ^= 1;
        std::fs::write(self.file(), bytes).expect("write");
    }

    pub fn write_checkpoint(&self) {
        let checkpoint = Checkpoint {
            start_counter: 1,
            partitions: vec![self.checkpoint.clone()],
        };
        std::fs::write(self.root().join("checkpoint-0"), checkpoint.encode()).expect("write");
    }
}
