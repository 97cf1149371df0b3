//! The promise: while a journal's next file is being made, a commit of many dirty files waits for it and one of few
//! does not; when the file cannot be made, nothing waits.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};

use tidelog_segment_log::batch::testing::opaque_batch;
use tidelog_segment_log::disk::memory::MemoryDisk;
use tidelog_segment_log::disk::{
    Completion, DirectoryLock, Disk, DiskOp, FileHandle, HotBytes, Token, WriteNow,
};
use tidelog_segment_log::ids::{Offset, PartitionKey, TopicId};
use tidelog_segment_log::journal::{GroupCommit, GroupConfig, Journal, JournalConfig, Logs, Way};
use tidelog_segment_log::log::testing::{new_partition, open};
use tidelog_segment_log::log::{Durability, OpenSpec, PartitionLog};

const JOURNAL_SPACE: u32 = 1;
const FIRST_LOG_SPACE: u32 = 10;
const DIRECT_WHILE_MAKING_MAX: usize = 4;

/// What is to become of the journal's operations.
#[derive(Clone, Copy, PartialEq, Eq)]
enum JournalOps {
    Run,
    Hold,
    Fail,
}

/// A disk in memory whose operations for the journal may take long, or fail.
struct Slow {
    disk: MemoryDisk,
    journal: JournalOps,
    held: Vec<(Token, DiskOp)>,
    failed: Vec<Completion>,
}

impl Slow {
    fn let_go(&mut self) {
        self.journal = JournalOps::Run;
        for (token, op) in std::mem::take(&mut self.held) {
            self.disk.submit(token, op);
        }
    }
}

impl Disk for Slow {
    fn submit(&mut self, token: Token, op: DiskOp) {
        let is_journal = (token.0 >> 32) as u32 == JOURNAL_SPACE;
        match self.journal {
            JournalOps::Hold if is_journal => self.held.push((token, op)),
            JournalOps::Fail if is_journal => self.failed.push(Completion {
                token,
                result: Err(io::ErrorKind::StorageFull.into()),
            }),
            _ => self.disk.submit(token, op),
        }
    }

    fn take_completions(&mut self, out: &mut Vec<Completion>) {
        out.append(&mut self.failed);
        self.disk.take_completions(out);
    }

    fn write_now(&mut self, file: &FileHandle, at: u64, pieces: &[IoSlice<'_>]) -> io::Result<WriteNow> {
        self.disk.write_now(file, at, pieces)
    }

    fn hot_bytes(&mut self, file: &FileHandle, range: Range<u64>) -> Option<HotBytes> {
        self.disk.hot_bytes(file, range)
    }

    fn lock_directory(&mut self, path: &Path) -> io::Result<DirectoryLock> {
        self.disk.lock_directory(path)
    }
}

struct Open(BTreeMap<PartitionKey, Box<PartitionLog>>);

impl Logs for Open {
    fn log_mut(&mut self, key: &PartitionKey) -> Option<&mut PartitionLog> {
        self.0.get_mut(key).map(Box::as_mut)
    }
}

struct Shard {
    disk: Slow,
    logs: Open,
    group: GroupCommit,
}

fn key(at: usize) -> PartitionKey {
    PartitionKey {
        topic: TopicId([7; 16]),
        partition: i32::try_from(at).unwrap(),
    }
}

impl Shard {
    /// Logs that have something written and no commit yet.
    fn with_dirty(logs: usize, journal: JournalOps) -> Self {
        let mut disk = Slow {
            disk: MemoryDisk::new(),
            journal: JournalOps::Run,
            held: Vec::new(),
            failed: Vec::new(),
        };
        let open_one = |at: usize| {
            let place = PathBuf::from(format!("/data/partitions/t-{at}"));
            let spec = OpenSpec {
                key: key(at),
                token_space: FIRST_LOG_SPACE + u32::try_from(at).unwrap(),
                ..new_partition(place, Durability::Fsync)
            };
            let mut log = open(&mut disk, spec).unwrap();
            log.join_group_commit();
            log.append(0, &mut disk, &opaque_batch(1_000, 7)).unwrap();
            (key(at), log)
        };
        let logs = Open((0..logs).map(open_one).collect());
        let config = JournalConfig {
            shard: 0,
            start_counter: 1,
            file_bytes: 1 << 20,
            max_bytes: 16 << 20,
            id_seed: Some(3),
            bug: Default::default(),
        };
        let config_of_group = GroupConfig {
            dirty_files_min: 2,
            direct_while_making_max: DIRECT_WHILE_MAKING_MAX,
            ..GroupConfig::for_max_bytes(config.max_bytes)
        };
        disk.journal = journal;
        let group = GroupCommit::new(
            Journal::new(Path::new("/data"), JOURNAL_SPACE, config),
            config_of_group,
        );
        Self { disk, logs, group }
    }

    /// Turns until nothing happens any more.
    fn settle(&mut self) {
        loop {
            for (key, log) in &mut self.logs.0 {
                log.flush(0, &mut self.disk);
                self.group.note(*key);
            }
            self.group.commit(0, &mut self.disk, &mut self.logs);
            let mut completions = Vec::new();
            self.disk.take_completions(&mut completions);
            if completions.is_empty() {
                return;
            }
            for completion in completions {
                match (completion.token.0 >> 32) as u32 {
                    JOURNAL_SPACE => self.group.on_completion(&mut self.disk, completion),
                    space => {
                        let log = self.logs.log_mut(&key((space - FIRST_LOG_SPACE) as usize));
                        log.unwrap().on_completion(0, &mut self.disk, completion);
                    }
                }
            }
            self.group.take_events(&mut self.logs);
        }
    }

    fn durable(&self) -> usize {
        let logs = self.logs.0.values();
        logs.filter(|log| log.durable_offset() == Offset(1)).count()
    }

    fn way(&self) -> Way {
        self.group.way()
    }
}

#[test]
fn many_dirty_files_wait_for_the_file() {
    let many = DIRECT_WHILE_MAKING_MAX + 1;
    let mut shard = Shard::with_dirty(many, JournalOps::Hold);
    shard.settle();
    assert!(!shard.disk.held.is_empty(), "a file is being made");
    assert_eq!(
        (shard.durable(), shard.way().direct),
        (0, 0),
        "nothing was synced meanwhile"
    );
    shard.disk.let_go();
    shard.settle();
    assert_eq!(shard.durable(), many);
    assert_eq!(shard.way().by_journal, 1, "one commit for all: {:?}", shard.way());
    assert_eq!(shard.way().direct, 0);
}

#[test]
fn few_dirty_files_do_not_wait() {
    let mut shard = Shard::with_dirty(DIRECT_WHILE_MAKING_MAX, JournalOps::Hold);
    shard.settle();
    assert!(!shard.disk.held.is_empty(), "a file is being made");
    assert_eq!(shard.durable(), DIRECT_WHILE_MAKING_MAX, "each was synced");
    assert_eq!(shard.way().by_journal, 0);
}

#[test]
fn nothing_waits_for_a_file_that_cannot_be_made() {
    let many = 4 * DIRECT_WHILE_MAKING_MAX;
    let mut shard = Shard::with_dirty(many, JournalOps::Fail);
    shard.settle();
    assert_eq!(shard.durable(), many, "each was synced");
    assert_eq!(shard.way().by_journal, 0);
}
