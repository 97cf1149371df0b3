//! A partition that the log itself wrote, for the tests of these commands.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use tidelog_segment_log::batch::testing::{BatchSpec, build_batch};
use tidelog_segment_log::checkpoint::{Checkpoint, PartitionCheckpoint};
use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::disk::std_disk::StdDisk;
use tidelog_segment_log::entry::decode_entry;
use tidelog_segment_log::ids::{EntryIndex, PartitionKey, TopicId};
use tidelog_segment_log::journal::{
    FoundJournals, Journal, JournalConfig, JournalEvent, JournalRun, JournalStatus,
};
use tidelog_segment_log::log::{Durability, LogConfig, OpenSpec, Opening, PartitionLog, drive_open};
use tidelog_segment_log::recovery::RecoveryOptions;
use tidelog_segment_log::segment_header::{SEGMENT_HEADER_LEN, SegmentHeader, segment_file_name};

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

/// Lets a journal get on until a commit may begin and none is under way.
fn settle_journal(journal: &mut Journal, disk: &mut StdDisk) {
    loop {
        let mut completions = Vec::new();
        disk.take_completions(&mut completions);
        completions
            .into_iter()
            .for_each(|completion| journal.on_completion(disk, completion));
        if !journal.is_busy() && journal.status(disk, 1, 100) == JournalStatus::Ready {
            return;
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
        let opening = Opening::new(partition.spec());
        let (mut log, _) = drive_open(&mut disk, opening).expect("a new log");
        log.confirm_term();
        for number in 0..count {
            let batch = build_batch(&BatchSpec::default(), &[&[number; 40], b"second"]);
            log.append(1, &mut disk, &Bytes::from(batch)).expect("room");
            settle(&mut log, &mut disk);
        }
        partition.checkpoint = log.checkpoint();
        partition
    }

    fn spec(&self) -> OpenSpec {
        OpenSpec {
            directory: self.directory(),
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
        }
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

    /// As a power cut leaves it where a commit journal was on: entries behind the first `kept` are in the journal, and
    /// zeros in the segment.
    pub fn move_to_journal(&self, kept: usize) {
        let mut bytes = std::fs::read(self.file()).expect("read");
        let header = SegmentHeader::decode(&bytes).expect("a header");
        let mut ends = vec![SEGMENT_HEADER_LEN];
        let mut last = EntryIndex(0);
        while let Ok((entry, _)) = decode_entry(&bytes[ends[ends.len() - 1]..], &header.incarnation) {
            ends.push(ends[ends.len() - 1] + entry.entry_len());
            last = entry.index;
        }
        let (from, end) = (ends[kept], ends[ends.len() - 1]);
        let run = JournalRun {
            key: Self::key(),
            segment: header,
            position: from as u64,
            pieces: vec![Bytes::copy_from_slice(&bytes[from..end])],
            last,
        };
        let config = JournalConfig {
            shard: 0,
            start_counter: 1,
            file_bytes: 1 << 20,
            max_bytes: 16 << 20,
            id_seed: None,
            bug: Default::default(),
        };
        let mut journal = Journal::new(self.root(), 7, config);
        let mut disk = StdDisk::new();
        settle_journal(&mut journal, &mut disk);
        journal.begin(&mut disk, vec![run]);
        settle_journal(&mut journal, &mut disk);
        let events = journal.take_events();
        assert!(
            matches!(events.as_slice(), [JournalEvent::Committed(_)]),
            "{events:?}"
        );
        bytes[from..].fill(0);
        std::fs::write(self.file(), bytes).expect("write");
    }

    /// Opens the log as the next start does, and closes it again; how many entries came from the journal.
    pub fn start(&self) -> u64 {
        let mut disk = StdDisk::new();
        let mut found = FoundJournals::find(1, self.root())
            .drive(&mut disk)
            .expect("journals");
        let spec = OpenSpec {
            created: false,
            start_counter: 2,
            ..self.spec()
        };
        let options = RecoveryOptions {
            journal: found.evidence(&Self::key()),
            ..RecoveryOptions::default()
        };
        let opening = Opening::with_options(spec, options);
        let (_, report) = drive_open(&mut disk, opening).expect("it opens");
        found.remove_replayed(1).drive(&mut disk).expect("removed");
        report.from_journal
    }

    pub fn write_checkpoint(&self) {
        let checkpoint = Checkpoint {
            start_counter: 1,
            partitions: vec![self.checkpoint.clone()],
        };
        std::fs::write(self.root().join("checkpoint-0"), checkpoint.encode()).expect("write");
    }
}
