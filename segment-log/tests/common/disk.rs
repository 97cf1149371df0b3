//! Simulated disks as the tests use them: one that gets on by itself when somebody waits for it, one whose syncs of
//! directories take long, and single operations.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::Path;

use tidelog_segment_log::disk::sim::SimDisk;
use tidelog_segment_log::disk::{
    Completion, DirectoryLock, Disk, DiskOp, DiskOutput, FileHandle, HotBytes, Token, WriteNow,
};

/// A space of tokens that no log and no machine of a test has.
const OWN_SPACE: u64 = 99 << 32;

/// A disk that gets on by itself when somebody waits for it.
pub struct Stepping<'a>(pub &'a mut SimDisk);

impl Disk for Stepping<'_> {
    fn submit(&mut self, token: Token, op: DiskOp) {
        self.0.submit(token, op);
    }
    fn take_completions(&mut self, out: &mut Vec<Completion>) {
        self.0.advance();
        self.0.take_completions(out);
    }
    fn write_now(&mut self, file: &FileHandle, at: u64, pieces: &[IoSlice<'_>]) -> io::Result<WriteNow> {
        self.0.write_now(file, at, pieces)
    }
    fn hot_bytes(&mut self, file: &FileHandle, range: Range<u64>) -> Option<HotBytes> {
        self.0.hot_bytes(file, range)
    }
    fn lock_directory(&mut self, path: &Path) -> io::Result<DirectoryLock> {
        self.0.lock_directory(path)
    }
}

/// A simulated disk that can hold back syncs of the directories of partitions: names stay behind.
pub struct LaggingDisk {
    pub sim: SimDisk,
    lags: bool,
    held: Vec<(Token, DiskOp)>,
}

/// The disk of a [`LaggingDisk`] as a running broker uses it. An open gets the plain one: nothing lags there.
pub struct Running<'a>(&'a mut LaggingDisk);

impl LaggingDisk {
    pub fn new(sim: SimDisk, lags: bool) -> Self {
        Self {
            sim,
            lags,
            held: Vec::new(),
        }
    }

    pub fn running(&mut self) -> Running<'_> {
        Running(self)
    }

    pub fn holds_some(&self) -> bool {
        !self.held.is_empty()
    }

    /// Lets go on what was held back.
    pub fn release(&mut self) {
        for (token, op) in std::mem::take(&mut self.held) {
            self.sim.submit(token, op);
        }
    }

    /// The process ends: what was held back never happens.
    pub fn forget(&mut self) {
        self.held.clear();
    }
}

impl Disk for Running<'_> {
    fn submit(&mut self, token: Token, op: DiskOp) {
        match &op {
            DiskOp::SyncDir { path } if self.0.lags && path.to_string_lossy().contains("partition-") => {
                self.0.held.push((token, op));
            }
            _ => self.0.sim.submit(token, op),
        }
    }
    fn take_completions(&mut self, out: &mut Vec<Completion>) {
        self.0.sim.take_completions(out);
    }
    fn write_now(&mut self, file: &FileHandle, at: u64, pieces: &[IoSlice<'_>]) -> io::Result<WriteNow> {
        self.0.sim.write_now(file, at, pieces)
    }
    fn hot_bytes(&mut self, file: &FileHandle, range: Range<u64>) -> Option<HotBytes> {
        self.0.sim.hot_bytes(file, range)
    }
    fn lock_directory(&mut self, path: &Path) -> io::Result<DirectoryLock> {
        self.0.sim.lock_directory(path)
    }
}

/// Does one operation, and all that is outstanding with it.
pub fn do_now(disk: &mut SimDisk, op: DiskOp) -> io::Result<DiskOutput> {
    let token = Token(OWN_SPACE);
    disk.submit(token, op);
    let mut completions = Vec::new();
    while disk.advance() {
        disk.take_completions(&mut completions);
    }
    let own = completions
        .into_iter()
        .find(|completion| completion.token == token);
    own.map_or(Err(io::ErrorKind::NotFound.into()), |completion| {
        completion.result
    })
}

/// Names in a directory that end so. The disk has nothing else to do.
pub fn names(disk: &mut SimDisk, directory: &Path, suffix: &str) -> io::Result<Vec<String>> {
    let path = directory.to_path_buf();
    match do_now(disk, DiskOp::List { path })? {
        DiskOutput::Names(names) => Ok(names.into_iter().filter(|name| name.ends_with(suffix)).collect()),
        other => panic!("a listing gives {other:?}"),
    }
}
