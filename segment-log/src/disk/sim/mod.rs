//! [`SimDisk`]: a seeded disk in memory that loses, reorders and tears what was not synced.
//!
//! Owned by one test thread. Nothing happens by itself: submitted operations stay outstanding
//! until [`SimDisk::advance`] completes one of them, in an order that the seed decides, and the
//! same seed under the same calls gives the same trace.
//!
//! What it keeps, and what it does not:
//! - Cached reads see the cache. Device reads see what write-back (in the background, by
//!   [`DiskOp::Writeback`] or by a sync) has brought to the device. A drive has a cache of its own:
//!   what a device read saw is safe from a cut only once a sync succeeded.
//! - A sync covers what was written before its *submission*, nothing else.
//! - [`SimDisk::power_cut`]: every 512-byte sector becomes its last synced or any later written
//!   version, independently of the others; so do lengths; each change of a directory happened or
//!   not. Names become durable only by [`DiskOp::SyncDir`].
//! - A sync that fails marks pages clean: the cache keeps what the device never gets, and the next
//!   sync succeeds. A directory sync that fails does nothing, and can succeed later.
//! - [`SimDisk::process_kill`]: the cache survives; handles, locks, outstanding operations (each
//!   happened or not) and unreported errors are forgotten.
//! - Handles of an earlier life answer EBADF.
//! - Bit rot happens only by [`SimDisk::flip_bit`], bad sectors only by [`SimDisk::break_sector`].
#![forbid(unsafe_code)]

mod faults;
mod file;
mod names;
mod ops;
mod rng;
mod trace;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rustix::io::Errno;

use super::hot::WrittenRanges;
use super::std_disk::LOCK_FILE;
use super::{
    Completion, DirectoryLock, Disk, DiskOp, DiskOutput, FileHandle, HotBytes, ReadSource, Token, WriteNow,
};
use faults::FaultPlan;
use file::SimFile;
use names::{Names, NodeId, ROOT};
use trace::{Trace, hash_bytes};

pub use faults::{Fault, OpKind, ScriptedFault, SimFaults};
pub use rng::SimRng;
pub use trace::SimEvents;

/// How a simulated disk behaves.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// Decides everything that is left to chance.
    pub seed: u64,
    /// A directory that exists durably from the start, with its parents.
    pub root: PathBuf,
    /// Chances of faults.
    pub faults: SimFaults,
    /// Syncs of files say success and make nothing durable: a check that a test can fail.
    pub fdatasync_is_noop: bool,
    /// Size of the device; the sum of all file lengths stays below it. `None`: endless.
    pub capacity_bytes: Option<u64>,
    /// Chance, in a million per step, that a dirty page is written back in the background.
    pub writeback_ppm: u32,
    /// Keep the lines of the trace, not only its hash.
    pub keep_trace: bool,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            root: PathBuf::from("/sim"),
            faults: SimFaults::default(),
            fdatasync_is_noop: false,
            capacity_bytes: None,
            writeback_ppm: 200_000,
            keep_trace: false,
        }
    }
}

struct Handle {
    node: NodeId,
    written: WrittenRanges,
}

struct Outstanding {
    token: Token,
    op: DiskOp,
    submitted_at: u64,
}

type Locks = Arc<Mutex<BTreeSet<PathBuf>>>;

/// A disk in memory. See the module.
pub struct SimDisk {
    rng: SimRng,
    faults: FaultPlan,
    fdatasync_is_noop: bool,
    capacity_bytes: Option<u64>,
    writeback_ppm: u32,
    /// Counts changes; orders writes against submissions of syncs.
    clock: u64,
    next_id: u64,
    names: Names,
    files: BTreeMap<NodeId, SimFile>,
    handles: BTreeMap<u64, Handle>,
    outstanding: Vec<Outstanding>,
    completions: Vec<Completion>,
    locks: Locks,
    trace: Trace,
    events: SimEvents,
}

impl SimDisk {
    /// An empty device with the configured root directory.
    pub fn new(config: SimConfig) -> Self {
        let mut disk = Self {
            rng: SimRng::new(config.seed),
            faults: FaultPlan::new(config.faults),
            fdatasync_is_noop: config.fdatasync_is_noop,
            capacity_bytes: config.capacity_bytes,
            writeback_ppm: config.writeback_ppm,
            clock: 0,
            next_id: ROOT + 1,
            names: Names::new(),
            files: BTreeMap::new(),
            handles: BTreeMap::new(),
            outstanding: Vec::new(),
            completions: Vec::new(),
            locks: Locks::default(),
            trace: Trace::new(config.keep_trace),
            events: SimEvents::default(),
        };
        let made = disk.create_dir_all(&config.root);
        debug_assert!(made.is_ok(), "the root is a plain path");
        disk.sync_all_directories(&config.root);
        disk
    }

    /// Moves one outstanding operation, chosen by the seed, to its completion; some page may be
    /// written back by the way. False if none is outstanding.
    pub fn advance(&mut self) -> bool {
        self.write_back_by_chance();
        if self.outstanding.is_empty() {
            return false;
        }
        let at = self.rng.index(self.outstanding.len());
        let Outstanding {
            token,
            op,
            submitted_at,
        } = self.outstanding.remove(at);
        let kind = OpKind::of(&op);
        let fault = self.next_fault(kind);
        let result = self.perform(op, submitted_at, fault);
        self.trace
            .note(format_args!("end {} {kind:?} {}", token.0, describe(&result)));
        self.events.completed += 1;
        self.completions.push(Completion { token, result });
        true
    }

    /// No operation is outstanding and no completion waits to be taken.
    pub fn idle(&self) -> bool {
        self.outstanding.is_empty() && self.completions.is_empty()
    }

    /// Operations submitted but not completed.
    pub fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// The machine loses power and starts again: see the module for what is left.
    pub fn power_cut(&mut self) {
        self.end_outstanding();
        self.events.power_cuts += 1;
        for file in self.files.values_mut() {
            file.power_cut(&mut self.rng, &mut self.events);
        }
        let (lost, kept) = self.names.power_cut(&mut self.rng);
        self.events.lost_names += lost;
        self.events.unsynced_names_kept += kept;
        let named = self.names.named();
        self.files.retain(|node, _| named.contains(node));
        self.trace.note(format_args!(
            "power cut: names {lost} lost {kept} kept, sectors {} stale {} kept",
            self.events.stale_sectors, self.events.unsynced_sectors_kept
        ));
    }

    /// The process dies and starts again; the system lives on. May be followed by a power cut.
    pub fn process_kill(&mut self) {
        self.end_outstanding();
        self.events.process_kills += 1;
        for file in self.files.values_mut() {
            file.error = false;
        }
        self.trace.note(format_args!("process kill"));
    }

    /// Bit rot: flips bit `bit` of byte `byte` of a file on the device. What is in the cache but
    /// not on the device stays as it is.
    ///
    /// # Errors
    /// `NotFound` if no file has this path, `InvalidInput` if it is shorter.
    pub fn flip_bit(&mut self, path: &Path, byte: u64, bit: u8) -> io::Result<()> {
        let node = self.names.resolve(path)?;
        let file = self.files.get_mut(&node).ok_or(io::ErrorKind::NotFound)?;
        if byte >= file.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        file.flip_bit(byte, bit);
        self.events.flipped_bits += 1;
        self.trace
            .note(format_args!("flip {} {byte} {bit}", path.display()));
        Ok(())
    }

    /// A bad sector: reads that touch byte `byte` of a file fail with EIO until it is written again.
    ///
    /// # Errors
    /// `NotFound` if no file has this path, `InvalidInput` if it is shorter.
    pub fn break_sector(&mut self, path: &Path, byte: u64) -> io::Result<()> {
        let node = self.names.resolve(path)?;
        let file = self.files.get_mut(&node).ok_or(io::ErrorKind::NotFound)?;
        if byte >= file.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        file.break_sector(byte);
        self.trace.note(format_args!("break {} {byte}", path.display()));
        Ok(())
    }

    /// Sets a fault for one operation.
    pub fn script(&mut self, fault: ScriptedFault) {
        self.faults.script(fault);
    }

    /// Replaces the chances of faults from now on; scripted ones stay.
    pub fn set_faults(&mut self, faults: SimFaults) {
        self.faults.chances = faults;
    }

    /// Names everything that happened so far: equal for equal runs.
    pub fn trace_hash(&self) -> u64 {
        self.trace.hash()
    }

    /// The lines of the trace; empty unless the configuration keeps them.
    pub fn trace_lines(&self) -> &[String] {
        self.trace.lines()
    }

    /// What happened, counted.
    pub fn events(&self) -> &SimEvents {
        &self.events
    }

    /// The whole content of a file as a read would see it, without disturbing anything.
    ///
    /// # Errors
    /// `NotFound` if no file has this path.
    pub fn snapshot(&self, path: &Path, source: ReadSource) -> io::Result<Vec<u8>> {
        let node = self.names.resolve(path)?;
        let file = self.files.get(&node).ok_or(io::ErrorKind::NotFound)?;
        let mut bytes = vec![0; to_usize(file.len())?];
        file.read(0, &mut bytes, source);
        Ok(bytes)
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    fn next_fault(&mut self, kind: OpKind) -> Option<Fault> {
        let fault = self.faults.next(kind, &mut self.rng);
        match fault {
            Some(Fault::Eio) => self.events.io_errors += 1,
            Some(Fault::NoSpace) => self.events.no_space += 1,
            Some(Fault::NoDescriptor) => self.events.no_descriptor += 1,
            Some(Fault::ShortWrite) | None => return fault,
        }
        self.trace.note(format_args!("fault {kind:?} {fault:?}"));
        fault
    }

    fn write_back_by_chance(&mut self) {
        if !self.rng.chance(self.writeback_ppm) || self.files.is_empty() {
            return;
        }
        let nth = self.rng.index(self.files.len());
        let fails = self.rng.chance(self.faults.chances.writeback_error_ppm);
        let Some((node, file)) = self.files.iter_mut().nth(nth) else {
            return;
        };
        if fails {
            if file.lose_some_page(&mut self.rng) {
                self.events.writeback_errors += 1;
                self.events.lost_pages += 1;
                self.trace.note(format_args!("write-back of {node} fails"));
            }
        } else if file.write_back_some_page(&mut self.rng) {
            self.trace.note(format_args!("write-back of {node}"));
        }
    }

    /// Each outstanding operation happens, in part if it is a write, or does not; then all that
    /// belongs to the process is forgotten.
    fn end_outstanding(&mut self) {
        while !self.outstanding.is_empty() {
            let at = self.rng.index(self.outstanding.len());
            let Outstanding { op, submitted_at, .. } = self.outstanding.remove(at);
            if self.rng.coin() {
                let is_write = matches!(op, DiskOp::Write { .. });
                let cut_short = is_write && self.rng.coin();
                let fault = cut_short.then_some(Fault::ShortWrite);
                let kind = OpKind::of(&op);
                let result = self.perform(op, submitted_at, fault);
                self.trace
                    .note(format_args!("unanswered {kind:?} {}", describe(&result)));
                self.events.outstanding_done += 1;
            } else {
                self.events.outstanding_dropped += 1;
            }
        }
        self.completions.clear();
        self.handles.clear();
        // Guards of the old process release the old set.
        self.locks = Locks::default();
    }
}

impl Disk for SimDisk {
    fn submit(&mut self, token: Token, op: DiskOp) {
        let submitted_at = self.clock;
        self.trace
            .note(format_args!("submit {} {:?}", token.0, OpKind::of(&op)));
        self.events.submitted += 1;
        self.outstanding.push(Outstanding {
            token,
            op,
            submitted_at,
        });
    }

    fn take_completions(&mut self, out: &mut Vec<Completion>) {
        out.append(&mut self.completions);
    }

    fn write_now(
        &mut self,
        file: &FileHandle,
        position: u64,
        pieces: &[IoSlice<'_>],
    ) -> io::Result<WriteNow> {
        self.file_mut(file)?;
        if self.rng.chance(self.faults.chances.would_stall_ppm) {
            self.events.would_stall += 1;
            self.trace.note(format_args!("write_now would stall"));
            return Ok(WriteNow::WouldStall);
        }
        let data: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        if data.is_empty() {
            return Ok(WriteNow::Done);
        }
        let fault = self.next_fault(OpKind::WriteNow);
        match fault {
            Some(Fault::NoSpace) => return Err(Errno::NOSPC.into()),
            Some(Fault::NoDescriptor) => return Err(Errno::MFILE.into()),
            _ => {}
        }
        let written = self.write(file, position, &data, fault)?;
        if written < data.len() {
            let end = position + data.len() as u64;
            self.handle_mut(file)?.written.remove(position..end);
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(WriteNow::Done)
    }

    fn hot_bytes(&mut self, file: &FileHandle, range: Range<u64>) -> Option<HotBytes> {
        let len = usize::try_from(range.end.saturating_sub(range.start)).ok()?;
        if len == 0 {
            return Some(HotBytes::Owned(Bytes::new()));
        }
        if !self.handle_mut(file).ok()?.written.contains(&range) {
            return None;
        }
        if self.rng.chance(self.faults.chances.cold_ppm) {
            return None;
        }
        let mut bytes = vec![0; len];
        let content = self.file_mut(file).ok()?;
        content.read(range.start, &mut bytes, ReadSource::Cached);
        Some(HotBytes::Owned(Bytes::from(bytes)))
    }

    fn lock_directory(&mut self, path: &Path) -> io::Result<DirectoryLock> {
        self.names.resolve_directory(path)?;
        let lock_file = path.join(LOCK_FILE);
        if self.names.resolve(&lock_file).is_err() {
            self.create_file(&lock_file)?;
        }
        let mut held = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if !held.insert(lock_file.clone()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        drop(held);
        Ok(DirectoryLock::new(LockGuard {
            locks: Arc::clone(&self.locks),
            lock_file,
        }))
    }
}

struct LockGuard {
    locks: Locks,
    lock_file: PathBuf,
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        let mut held = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        held.remove(&self.lock_file);
    }
}

fn to_usize(len: u64) -> io::Result<usize> {
    usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

/// A result in a trace: never an address or anything else that differs between equal runs.
fn describe(result: &io::Result<DiskOutput>) -> String {
    match result {
        Ok(DiskOutput::Done) => "done".to_owned(),
        Ok(DiskOutput::File(file)) => format!("file {}", file.id()),
        Ok(DiskOutput::Names(names)) => format!("names {names:?}"),
        Ok(DiskOutput::Len(len)) => format!("len {len}"),
        Ok(DiskOutput::Links(links)) => format!("links {links}"),
        Ok(DiskOutput::FreeSpace(bytes)) => format!("free {bytes}"),
        Ok(DiskOutput::Written(len)) => format!("written {len}"),
        Ok(DiskOutput::Read(bytes)) => format!("read {} {:x}", bytes.len(), hash_bytes(bytes)),
        Err(error) => format!("error {:?}", error.kind()),
    }
}
