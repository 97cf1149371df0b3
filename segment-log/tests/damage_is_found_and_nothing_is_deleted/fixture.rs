//! A small data directory, written by the log itself onto a [`MemoryDisk`], as a stop in order or a kill
//! leaves it, with copies of its files as they were earlier.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tidelog_segment_log::batch::patch_prefix;
use tidelog_segment_log::batch::testing::{BatchSpec, build_batch};
use tidelog_segment_log::checkpoint::Checkpoint;
use tidelog_segment_log::data_directory::{DataDirectory, NewIdentity, write_checkpoint};
use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::disk::memory::{FileBytes, MemoryDisk};
use tidelog_segment_log::ids::{EntryIndex, Offset, PartitionKey, TopicId};
use tidelog_segment_log::log::{
    CloseProgress, Durability, LogConfig, OpenSpec, Opening, PartitionLog, drive_open,
};
use tidelog_segment_log::recovery::{RecoveryBug, RecoveryOptions};

pub const LOG_START: i64 = 1;

/// Where everything lies.
pub fn root() -> PathBuf {
    PathBuf::from("/data")
}

pub fn partition() -> PathBuf {
    root().join("partition")
}

pub fn key() -> PartitionKey {
    PartitionKey {
        topic: TopicId([9; 16]),
        partition: 3,
    }
}

pub fn identity() -> NewIdentity {
    NewIdentity {
        node_id: 1,
        cluster_id: "a cluster in memory".into(),
        rack: Some("r1".into()),
        directory_id: [7; 16],
    }
}

/// A batch that was acknowledged: durable when it was.
#[derive(Clone, Debug)]
pub struct Acked {
    pub index: EntryIndex,
    pub base: i64,
    pub next: i64,
    pub stored: Bytes,
}

/// A directory at rest.
pub struct Fixture {
    pub disk: MemoryDisk,
    pub acked: Vec<Acked>,
    /// Files as they were at earlier moments, oldest first.
    pub older: Vec<BTreeMap<PathBuf, FileBytes>>,
}

struct Writer {
    disk: MemoryDisk,
    data: DataDirectory,
    log: Box<PartitionLog>,
    acked: Vec<Acked>,
    older: Vec<BTreeMap<PathBuf, FileBytes>>,
    seed: u64,
}

pub fn spec(data: &DataDirectory, created: bool) -> (OpenSpec, RecoveryOptions) {
    let evidence = data.evidence(&key());
    let spec = OpenSpec {
        directory: partition(),
        key: key(),
        config: LogConfig {
            segment_bytes: 8_192 + 1_400,
            segment_ms: i64::MAX,
            durability: Durability::Fsync,
        },
        token_space: 1,
        checkpoint: evidence.checkpoint,
        clean: data.was_clean(),
        start_counter: data.start_counter(),
        created,
    };
    (spec, evidence.options)
}

impl Writer {
    fn start(mut disk: MemoryDisk, seed: u64, created: bool) -> Self {
        let data = DataDirectory::open(&mut disk, &root(), identity()).unwrap();
        let (spec, options) = spec(&data, created);
        let options = RecoveryOptions {
            incarnation_seed: Some(seed),
            bug: RecoveryBug::None,
            ..options
        };
        let (log, report) = drive_open(&mut disk, Opening::with_options(spec, options)).unwrap();
        assert!(report.quarantined.is_empty() && report.set_aside.is_empty());
        let mut writer = Self {
            disk,
            data,
            log,
            acked: Vec::new(),
            older: Vec::new(),
            seed,
        };
        writer.checkpoint();
        writer.log.confirm_term();
        writer
    }

    fn settle(&mut self) {
        let mut completions = Vec::new();
        loop {
            self.log.flush(1, &mut self.disk);
            self.disk.take_completions(&mut completions);
            if completions.is_empty() {
                return;
            }
            for completion in completions.drain(..) {
                self.log.on_completion(1, &mut self.disk, completion);
            }
        }
    }

    fn append(&mut self, count: i32) {
        for _ in 0..count {
            let number = self.acked.len() as i32;
            let spec = BatchSpec {
                producer_id: 5 + i64::from(number % 2),
                producer_epoch: 0,
                base_sequence: number,
                timestamp_ms: 1_000 + i64::from(number),
                ..BatchSpec::default()
            };
            let value = vec![number as u8 + 1; 40 + 37 * (number as usize % 3)];
            let records: Vec<&[u8]> = vec![&value; 1 + number as usize % 2];
            let batch = Bytes::from(build_batch(&spec, &records));
            let appended = self.log.append(1, &mut self.disk, &batch).unwrap();
            self.settle();
            assert!(self.log.durable_offset() > appended.last_offset);
            let mut stored = batch.to_vec();
            let prefix = patch_prefix(&batch, appended.base_offset, self.log.leader_epoch());
            stored[..prefix.len()].copy_from_slice(&prefix);
            self.acked.push(Acked {
                index: self.log.durable_index(),
                base: appended.base_offset.0,
                next: appended.last_offset.0 + 1,
                stored: Bytes::from(stored),
            });
        }
    }

    /// Behind the state of producers that it begins with.
    fn last_segment_holds_three_batches(&self) -> bool {
        let segment = self.log.checkpoint().segments.last().copied().unwrap();
        segment.durable_index.0 >= segment.base_index.0 + 3
    }

    fn checkpoint(&mut self) {
        let checkpoint = Checkpoint {
            start_counter: self.data.start_counter(),
            partitions: vec![self.log.checkpoint()],
        };
        write_checkpoint(2, root(), 0, &checkpoint)
            .drive(&mut self.disk)
            .unwrap();
    }

    fn remember(&mut self) {
        self.older.push(self.disk.all_files());
    }

    fn stop_in_order(&mut self) {
        let checkpoint = loop {
            match self.log.close(1, &mut self.disk) {
                CloseProgress::Closed(checkpoint) => break *checkpoint,
                CloseProgress::Pending => self.settle(),
                CloseProgress::Fenced => panic!("fenced: {:?}", self.log.fence_cause()),
            }
        };
        let checkpoint = Checkpoint {
            start_counter: self.data.start_counter(),
            partitions: vec![checkpoint],
        };
        write_checkpoint(2, root(), 0, &checkpoint)
            .drive(&mut self.disk)
            .unwrap();
        self.data.mark_clean(&mut self.disk).unwrap();
    }

    /// A stop and a start, so that leader epochs and start counters differ within the directory.
    fn restart(self, in_order: bool) -> Self {
        let mut old = self;
        if in_order {
            old.stop_in_order();
        }
        old.remember();
        let mut next = Self::start(old.disk.copy(), old.seed + 1, false);
        next.acked = old.acked;
        next.older = old.older;
        next
    }
}

/// Three starts, three or more segments, a log start, producers, index files, both generations of the
/// checkpoint; stopped in order at the end, or killed with batches that no checkpoint knows.
pub fn write(in_order: bool) -> Fixture {
    let mut writer = Writer::start(MemoryDisk::new(), 1, true);
    writer.append(4);
    writer = writer.restart(true);
    writer.append(3);
    writer.remember();
    writer = writer.restart(false);
    writer.append(2);
    writer
        .log
        .append_log_start(1, &mut writer.disk, Offset(LOG_START))
        .unwrap();
    writer.settle();
    writer.checkpoint();
    writer.remember();
    writer.append(3);
    while !in_order && !writer.last_segment_holds_three_batches() {
        writer.append(1);
    }
    if in_order {
        writer.stop_in_order();
    }
    let mut disk = writer.disk.copy();
    trim(&mut disk);
    let fixture = Fixture {
        disk,
        acked: writer.acked,
        older: writer.older,
    };
    assert!(fixture.segments().len() >= 3, "{:?}", fixture.segments());
    assert!(fixture.files_ending(".index").len() >= 2);
    assert_eq!(fixture.files_containing("checkpoint-0").len(), 2);
    assert_eq!(fixture.disk.file(&root().join("clean")).is_some(), in_order);
    fixture
}

/// Takes the space that is reserved behind the last page off each segment, as a cut of power can: it holds
/// zeros only, and makes every open a thousand times longer.
fn trim(disk: &mut MemoryDisk) {
    for (path, bytes) in disk.all_files() {
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
        let kept = end.next_multiple_of(4_096).max(8_192);
        if path.extension().is_some_and(|ending| ending == "log") && kept < bytes.len() {
            disk.put(&path, bytes[..kept].to_vec());
        }
    }
}

impl Fixture {
    fn files(&self, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        let names = self.disk.all_files().into_keys();
        names
            .filter(|path| path.to_str().is_some_and(&wanted))
            .filter(|path| !path.ends_with("LOCK"))
            .collect()
    }

    pub fn segments(&self) -> Vec<PathBuf> {
        self.files_ending(".log")
    }

    pub fn files_ending(&self, ending: &str) -> Vec<PathBuf> {
        self.files(|path| path.ends_with(ending))
    }

    pub fn files_containing(&self, part: &str) -> Vec<PathBuf> {
        self.files(|path| path.contains(part))
    }

    pub fn all(&self) -> Vec<PathBuf> {
        self.files(|_| true)
    }

    /// Contents that a file had at earlier moments and has no more.
    pub fn older_copies(&self, path: &Path) -> Vec<FileBytes> {
        let now = self.disk.file(path);
        let mut seen = BTreeSet::new();
        let copies = self.older.iter().filter_map(|files| files.get(path));
        copies
            .filter(|copy| Some(*copy) != now && seen.insert(copy.to_vec()))
            .cloned()
            .collect()
    }
}
