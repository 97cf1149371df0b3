//! What a commit costs over so many dirty partitions, at the same bytes in sum: each segment synced, and one journal.
//! `just bench-commit [DIRECTORY]`
//!
//! The real log, group commit and journal on a real file system. Syncs run on a pool of threads, as the kernel runs
//! those of a ring; everything else runs on the calling thread, as on a shard. Files are made without syncs, which
//! are not measured. The medians of the rounds are printed, whole commits and what of one by journal is its write and
//! sync, without the writes to the segments before; and the CPU time of the calling thread per partition.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidelog_segment_log::batch::testing::opaque_batch;
use tidelog_segment_log::disk::std_disk::StdDisk;
use tidelog_segment_log::disk::{
    Completion, DirectoryLock, Disk, DiskOp, DiskOutput, FileHandle, HotBytes, Token, WriteNow,
};
use tidelog_segment_log::ids::{PartitionKey, TopicId};
use tidelog_segment_log::journal::{GroupCommit, GroupConfig, Journal, JournalConfig, Logs};
use tidelog_segment_log::log::testing::{new_partition, open};
use tidelog_segment_log::log::{Durability, OpenSpec, PartitionLog};

const BYTES_PER_COMMIT: usize = 1_000_000;
const PARTITIONS: [usize; 7] = [1, 2, 4, 16, 128, 1_000, 10_000];
const SYNC_THREADS: usize = 16;
const JOURNAL_SPACE: u32 = 1;
const FIRST_SPACE: u32 = 10;

/// A disk whose syncs run beside the calling thread.
struct Pooled {
    disk: StdDisk,
    /// Syncs are passed over: files are being made.
    is_setup: bool,
    work: mpsc::Sender<(Token, FileHandle)>,
    done: mpsc::Receiver<Completion>,
    syncing: usize,
    arrived: Vec<Completion>,
}

impl Pooled {
    fn new() -> Self {
        let (work, jobs) = mpsc::channel::<(Token, FileHandle)>();
        let (finished, done) = mpsc::channel();
        let jobs = Arc::new(Mutex::new(jobs));
        for _ in 0..SYNC_THREADS {
            let (jobs, finished) = (Arc::clone(&jobs), finished.clone());
            std::thread::spawn(move || {
                loop {
                    let job = jobs.lock().expect("no thread panics").recv();
                    let Ok((token, file)) = job else { return };
                    let result = file.lease().and_then(|lease| Ok(rustix::fs::fdatasync(lease)?));
                    let result = result.map(|()| DiskOutput::Done);
                    if finished.send(Completion { token, result }).is_err() {
                        return;
                    }
                }
            });
        }
        Self {
            disk: StdDisk::new(),
            is_setup: true,
            work,
            done,
            syncing: 0,
            arrived: Vec::new(),
        }
    }
}

impl Disk for Pooled {
    fn submit(&mut self, token: Token, op: DiskOp) {
        match op {
            DiskOp::Sync { .. } | DiskOp::SyncDir { .. } if self.is_setup => self.arrived.push(Completion {
                token,
                result: Ok(DiskOutput::Done),
            }),
            DiskOp::Sync { file } => {
                self.syncing += 1;
                self.work.send((token, file)).expect("the threads live");
            }
            op => {
                self.disk.submit(token, op);
                self.disk.take_completions(&mut self.arrived);
            }
        }
    }

    /// Waits for a sync if nothing else has ended.
    fn take_completions(&mut self, out: &mut Vec<Completion>) {
        out.append(&mut self.arrived);
        if out.is_empty() && self.syncing > 0 {
            out.push(self.done.recv().expect("the threads live"));
            self.syncing -= 1;
        }
        while let Ok(completion) = self.done.try_recv() {
            out.push(completion);
            self.syncing -= 1;
        }
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

fn key(at: usize) -> PartitionKey {
    PartitionKey {
        topic: TopicId([7; 16]),
        partition: at as i32,
    }
}

struct Bench {
    disk: Pooled,
    logs: Open,
    group: GroupCommit,
}

impl Bench {
    fn new(directory: &Path, partitions: usize, by_journal: bool) -> Self {
        let mut disk = Pooled::new();
        let mut logs = Open(BTreeMap::new());
        for at in 0..partitions {
            let place = directory.join(format!("t-{at}"));
            let spec = OpenSpec {
                key: key(at),
                token_space: FIRST_SPACE + at as u32,
                ..new_partition(place, Durability::Fsync)
            };
            let mut log = open(&mut disk, spec).expect("a new log opens");
            log.join_group_commit();
            logs.0.insert(key(at), log);
        }
        let config = JournalConfig {
            shard: 0,
            start_counter: 1,
            file_bytes: 64 << 20,
            max_bytes: 1 << 30,
            id_seed: None,
            bug: Default::default(),
        };
        let journal = Journal::new(directory, JOURNAL_SPACE, config);
        let config = GroupConfig {
            dirty_files_min: if by_journal { 1 } else { usize::MAX },
            bytes_per_file_max: u64::MAX,
            direct_while_making_max: 0,
            trim_above_bytes: u64::MAX,
        };
        let group = GroupCommit::new(journal, config);
        Self { disk, logs, group }
    }

    /// One append to each partition, then all of them durable: how long that takes, and how long what comes after
    /// the writes to the segments.
    fn commit(&mut self, batch: &Bytes) -> (Duration, Duration) {
        let keys: Vec<PartitionKey> = self.logs.0.keys().copied().collect();
        let mut ends = Vec::with_capacity(keys.len());
        for log in self.logs.0.values_mut() {
            log.append(0, &mut self.disk, batch).expect("append");
            ends.push(log.log_end_offset());
        }
        let started = Instant::now();
        for key in &keys {
            if let Some(log) = self.logs.0.get_mut(key) {
                log.flush(0, &mut self.disk);
            }
            self.group.note(*key);
        }
        let written = Instant::now();
        let mut open = keys.len();
        let mut completions = Vec::new();
        while open > 0 {
            self.group.commit(0, &mut self.disk, &mut self.logs);
            self.disk.take_completions(&mut completions);
            for completion in completions.drain(..) {
                let space = (completion.token.0 >> 32) as u32;
                if space == JOURNAL_SPACE {
                    self.group.on_completion(&mut self.disk, completion);
                } else if let Some(log) = self.logs.0.get_mut(&key((space - FIRST_SPACE) as usize)) {
                    log.on_completion(0, &mut self.disk, completion);
                    self.group.note(key((space - FIRST_SPACE) as usize));
                }
            }
            self.group.take_events(&mut self.logs);
            // Looking at all of them each time would be what is measured.
            if self.disk.syncing == 0 {
                let logs = self.logs.0.values().zip(&ends);
                open = logs.filter(|(log, end)| log.durable_offset() < **end).count();
            }
        }
        (started.elapsed(), written.elapsed())
    }
}

fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn median_ms(times: impl Iterator<Item = Duration>) -> f64 {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e3
}

fn main() {
    // `cargo test --benches` only wants to know that it runs.
    let is_test = std::env::args().any(|argument| argument == "--test");
    let place = std::env::var_os("TIDELOG_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    println!(
        "| partitions | bytes each | synced segments, ms | journal, ms | ratio | its write and sync, ms | CPU us per partition |"
    );
    println!("|---|---|---|---|---|---|---|");
    let partitions = if is_test {
        &PARTITIONS[..3]
    } else {
        &PARTITIONS[..]
    };
    for partitions in partitions.iter().copied() {
        let len = (BYTES_PER_COMMIT / partitions).max(100);
        let batch = opaque_batch(len, 0x5a);
        let rounds = if is_test {
            2
        } else {
            (4_000 / partitions).clamp(5, 40)
        };
        let (mut times, mut after_writes, mut cpu) = (Vec::new(), 0.0, Duration::ZERO);
        for by_journal in [false, true] {
            let directory = tempfile::tempdir_in(&place).expect("a directory");
            let mut bench = Bench::new(directory.path(), partitions, by_journal);
            // The first commits allocate, and go directly until the journal's first file is made.
            bench.commit(&batch);
            bench.commit(&batch);
            while by_journal && bench.group.way().by_journal == 0 {
                bench.commit(&batch);
            }
            rustix::fs::sync();
            bench.disk.is_setup = false;
            bench.commit(&batch);
            let before = thread_cpu();
            let of_rounds: Vec<_> = (0..rounds).map(|_| bench.commit(&batch)).collect();
            cpu = thread_cpu().saturating_sub(before) / rounds as u32 / partitions as u32;
            times.push(median_ms(of_rounds.iter().map(|(whole, _)| *whole)));
            after_writes = median_ms(of_rounds.iter().map(|(_, after)| *after));
            let way = bench.group.way();
            assert!(way.full == 0, "the journal has room");
            if by_journal {
                assert!(
                    way.by_journal as usize > rounds / 2,
                    "the journal is measured: {way:?}"
                );
            } else {
                assert!(way.by_journal == 0, "direct syncs are measured: {way:?}");
            }
        }
        println!(
            "| {partitions} | {len} | {:.2} | {:.2} | {:.1} | {:.2} | {:.1} |",
            times[0],
            times[1],
            times[0] / times[1],
            after_writes,
            cpu.as_secs_f64() * 1e6
        );
    }
}
