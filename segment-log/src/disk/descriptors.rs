//! A bounded cache of the descriptors of log files: files are opened again when they are used.
//!
//! One [`Descriptors`] per disk, so one per shard; a file that another shard reads belongs to the cache of the
//! shard that opened it, hence the locks, which are almost never contended. Invariants:
//! - a descriptor is closed only when nothing uses it: whoever reads, writes, syncs or sends through one holds
//!   a [`Lease`];
//! - a descriptor with writes that no completed sync covers is not closed, since the error of a lost write-back
//!   would be lost with it. Its file is *asked to sync*; the log does that, and sees what comes of it;
//! - a file that is opened again is the same file (device and inode), or the use fails;
//! - the bound is what the cache comes back to, not a wall: what is in use or not synced may exceed it.
//!
//! What goes first is chosen by a clock hand: a descriptor used since the hand last passed gets another round.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::handle::{Close, FileInner};

/// Files that the hand passes for one that is opened: what is behind is caught up with by the next ones.
const LOOKS_PER_OPEN: usize = 64;
/// Descriptors closed when the process or the system has none left.
const CLOSED_AT_LIMIT: usize = 16;
/// Entries of dropped files that the clock may hold besides those of open ones.
const DEAD_ENTRIES_MAX: usize = 256;

/// The descriptors of one disk. See the file's head. Clones are the same cache.
#[derive(Clone, Debug)]
pub struct Descriptors(Arc<Shared>);

/// A fault planted in a cache of descriptors, to show that the tests would find it.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DescriptorBug {
    /// None.
    #[default]
    None,
    /// A descriptor with writes that no sync covers is closed like any other.
    CloseUnsynced,
}

#[derive(Debug)]
struct Shared {
    bound: usize,
    bug: DescriptorBug,
    open: AtomicUsize,
    evicted: AtomicU64,
    refused: AtomicU64,
    clock: Mutex<VecDeque<Weak<FileInner>>>,
}

/// What a cache did and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DescriptorCounts {
    /// Descriptors open now.
    pub open: usize,
    /// Descriptors closed to make room, since the start.
    pub evicted: u64,
    /// Times none could be had, since the start.
    pub refused: u64,
}

/// Whether an error says that the process or the system has no descriptor left: nothing was done, and it may be
/// tried again.
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

impl Descriptors {
    /// A cache that comes back to `bound` open descriptors.
    pub fn bounded(bound: usize) -> Self {
        Self::with_bug(bound, DescriptorBug::None)
    }

    /// See [`DescriptorBug`].
    #[doc(hidden)]
    pub fn with_bug(bound: usize, bug: DescriptorBug) -> Self {
        Self(Arc::new(Shared {
            bound: bound.max(1),
            bug,
            open: AtomicUsize::new(0),
            evicted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            clock: Mutex::new(VecDeque::new()),
        }))
    }

    /// A cache that closes nothing as long as there are descriptors: for tools and tests.
    pub fn unbounded() -> Self {
        Self::bounded(usize::MAX)
    }

    /// What it did and holds.
    pub fn counts(&self) -> DescriptorCounts {
        DescriptorCounts {
            open: self.0.open.load(Ordering::Relaxed),
            evicted: self.0.evicted.load(Ordering::Relaxed),
            refused: self.0.refused.load(Ordering::Relaxed),
        }
    }

    /// Opens something. When there is no descriptor left, closes some that nobody uses and tries once more.
    ///
    /// # Errors
    /// As `open`; see [`is_out_of_descriptors`].
    pub fn with_room<T>(&self, mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        match open() {
            Err(error) if is_out_of_descriptors(&error) => {}
            other => return other,
        }
        self.make_room(CLOSED_AT_LIMIT);
        let again = open();
        if again.as_ref().is_err_and(is_out_of_descriptors) {
            self.0.refused.fetch_add(1, Ordering::Relaxed);
        }
        again
    }

    /// Closes up to `wanted` descriptors that nobody uses, whatever the bound; answers how many.
    pub fn make_room(&self, wanted: usize) -> usize {
        let mut clock = self.clock();
        let mut closed = 0;
        // Twice round: the first time clears the marks of use.
        for _ in 0..clock.len().saturating_mul(2) {
            if closed >= wanted {
                break;
            }
            closed += usize::from(self.pass(&mut clock));
        }
        closed
    }

    /// Whether a descriptor waits for a sync before it is closed.
    pub(super) fn keeps_unsynced(&self) -> bool {
        self.0.bug == DescriptorBug::None
    }

    /// A descriptor that was opened for a file of this cache.
    pub(super) fn lease(&self, fd: OwnedFd) -> Lease {
        self.0.open.fetch_add(1, Ordering::Relaxed);
        Lease(Arc::new(Counted {
            fd,
            cache: self.clone(),
        }))
    }

    /// Takes a file that was just opened under the hand, and closes others down to the bound.
    pub(super) fn admit(&self, file: &Arc<FileInner>) {
        let mut clock = self.clock();
        clock.push_back(Arc::downgrade(file));
        let open = self.0.open.load(Ordering::Relaxed);
        if clock.len() > open.saturating_mul(2).saturating_add(DEAD_ENTRIES_MAX) {
            clock.retain(|entry| entry.strong_count() > 0);
        }
        for _ in 0..LOOKS_PER_OPEN.min(2 * clock.len()) {
            if self.0.open.load(Ordering::Relaxed) <= self.0.bound {
                return;
            }
            self.pass(&mut clock);
        }
    }

    /// Moves the hand past one file. True: it was closed.
    fn pass(&self, clock: &mut VecDeque<Weak<FileInner>>) -> bool {
        let Some(entry) = clock.pop_front() else {
            return false;
        };
        let Some(file) = entry.upgrade() else {
            return false;
        };
        match file.try_close() {
            Close::Closed => {
                self.0.evicted.fetch_add(1, Ordering::Relaxed);
                true
            }
            Close::WasClosed => false,
            Close::Kept => {
                clock.push_back(entry);
                false
            }
        }
    }

    fn clock(&self) -> MutexGuard<'_, VecDeque<Weak<FileInner>>> {
        self.0.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Counted {
    fd: OwnedFd,
    cache: Descriptors,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.cache.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An open descriptor that is not closed while this or a clone lives.
#[derive(Clone, Debug)]
pub struct Lease(Arc<Counted>);

impl Lease {
    /// Whether somebody holds it besides the cache.
    pub(super) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl AsFd for Lease {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

impl AsRawFd for Lease {
    fn as_raw_fd(&self) -> RawFd {
        self.0.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, DiskOp, DiskOutput, FileHandle, ReadSource, StdDisk, Token};
    use std::io::IoSlice;
    use std::path::Path;

    fn one(disk: &mut StdDisk, op: DiskOp) -> io::Result<DiskOutput> {
        let mut done = Vec::new();
        disk.submit(Token(0), op);
        disk.take_completions(&mut done);
        done.pop().expect("a plain disk is done at once").result
    }

    fn create(disk: &mut StdDisk, path: &Path) -> FileHandle {
        let path = path.to_path_buf();
        match one(disk, DiskOp::Create { path }).expect("created") {
            DiskOutput::File(file) => file,
            other => panic!("{other:?}"),
        }
    }

    fn read(disk: &mut StdDisk, file: &FileHandle) -> io::Result<Vec<u8>> {
        let op = DiskOp::Read {
            file: file.clone(),
            position: 0,
            len: 4,
            source: ReadSource::Cached,
        };
        match one(disk, op)? {
            DiskOutput::Read(bytes) => Ok(bytes.to_vec()),
            other => panic!("{other:?}"),
        }
    }

    fn write(disk: &mut StdDisk, file: &FileHandle, byte: u8) {
        disk.write_now(file, 0, &[IoSlice::new(&[byte; 4])])
            .expect("written");
    }

    fn sync(disk: &mut StdDisk, file: &FileHandle) {
        one(disk, DiskOp::Sync { file: file.clone() }).expect("synced");
    }

    /// Files named 0, 1, ... of four bytes each, synced.
    fn files(dir: &Path, disk: &mut StdDisk, count: u8) -> Vec<FileHandle> {
        (0..count)
            .map(|n| {
                let file = create(disk, &dir.join(n.to_string()));
                write(disk, &file, n);
                sync(disk, &file);
                file
            })
            .collect()
    }

    #[test]
    fn many_files_are_served_with_few_descriptors() {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = Descriptors::bounded(4);
        let mut disk = StdDisk::with_descriptors(u64::MAX, cache.clone());
        let files = files(dir.path(), &mut disk, 40);
        assert!(cache.counts().open <= 4, "{:?}", cache.counts());
        for (n, file) in files.iter().enumerate() {
            assert_eq!(read(&mut disk, file).expect("read"), [n as u8; 4]);
            assert!(cache.counts().open <= 4, "{:?}", cache.counts());
        }
        assert!(cache.counts().evicted >= 72, "{:?}", cache.counts());
        drop(files);
        assert_eq!(cache.counts().open, 0);
    }

    #[test]
    fn a_descriptor_with_writes_that_no_sync_covers_is_not_closed() {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = Descriptors::bounded(2);
        let mut disk = StdDisk::with_descriptors(u64::MAX, cache.clone());
        let clean = files(dir.path(), &mut disk, 2);
        let dirty = create(&mut disk, &dir.path().join("dirty"));
        write(&mut disk, &dirty, 9);
        for _ in 0..3 {
            for file in &clean {
                read(&mut disk, file).expect("read");
            }
        }
        assert!(dirty.is_open(), "it is not synced");
        assert!(dirty.is_asked_to_sync(), "so that it can be closed");
        assert!(cache.make_room(10) <= 2, "not even when there are none left");
        assert!(dirty.is_open());
        sync(&mut disk, &dirty);
        assert!(!dirty.is_asked_to_sync());
        cache.make_room(10);
        assert!(!dirty.is_open());
        // A write that begins after the sync was submitted is not covered by it.
        write(&mut disk, &dirty, 8);
        let mark = dirty.sync_mark();
        write(&mut disk, &dirty, 7);
        dirty.synced(mark);
        cache.make_room(10);
        assert!(dirty.is_open());
        // Nor is one that was under way.
        dirty.write_begun();
        let mark = dirty.sync_mark();
        dirty.write_ended();
        dirty.synced(mark);
        cache.make_room(10);
        assert!(dirty.is_open());
    }

    #[test]
    fn what_is_in_use_is_not_closed() {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = Descriptors::bounded(1);
        let mut disk = StdDisk::with_descriptors(u64::MAX, cache.clone());
        let files = files(dir.path(), &mut disk, 3);
        let lease = files[0].lease().expect("open");
        for _ in 0..3 {
            for file in &files {
                read(&mut disk, file).expect("read");
            }
        }
        assert!(files[0].is_open());
        std::fs::remove_file(dir.path().join("0")).expect("removed");
        assert_eq!(read(&mut disk, &files[0]).expect("still held"), [0; 4]);
        drop(lease);
        cache.make_room(10);
        assert_eq!(cache.counts().open, 0);
        let gone = read(&mut disk, &files[0]).expect_err("nobody held it any more");
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn another_file_at_the_same_path_is_not_taken_for_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = Descriptors::bounded(1);
        let mut disk = StdDisk::with_descriptors(u64::MAX, cache.clone());
        let files = files(dir.path(), &mut disk, 2);
        cache.make_room(10);
        // The first one's inode is kept in use, so that the new file gets another.
        std::fs::rename(dir.path().join("0"), dir.path().join("kept")).expect("renamed");
        std::fs::write(dir.path().join("0"), [7; 4]).expect("written");
        let error = read(&mut disk, &files[0]).expect_err("another file");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(read(&mut disk, &files[1]).expect("untouched"), [1; 4]);
    }

    #[test]
    fn at_the_limit_of_the_process_room_is_made_and_else_the_error_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = Descriptors::unbounded();
        let mut disk = StdDisk::with_descriptors(u64::MAX, cache.clone());
        let files = files(dir.path(), &mut disk, 20);
        let full = || io::Error::from_raw_os_error(24);
        let mut calls = 0;
        let opened = cache.with_room(|| {
            calls += 1;
            if calls == 1 { Err(full()) } else { Ok(calls) }
        });
        assert_eq!(opened.expect("after room was made"), 2);
        assert_eq!(cache.counts().open, 20 - CLOSED_AT_LIMIT);
        let error = cache
            .with_room(|| -> io::Result<()> { Err(full()) })
            .expect_err("none");
        assert!(is_out_of_descriptors(&error));
        assert_eq!(cache.counts().refused, 1);
        let other = cache.with_room(|| -> io::Result<()> { Err(io::ErrorKind::NotFound.into()) });
        assert!(other.is_err_and(|error| !is_out_of_descriptors(&error)));
        assert_eq!(cache.counts().refused, 1);
        drop(files);
    }

    #[test]
    fn entries_of_dropped_files_do_not_pile_up() {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = Descriptors::bounded(1_000);
        let mut disk = StdDisk::with_descriptors(u64::MAX, cache.clone());
        for n in 0..3 * DEAD_ENTRIES_MAX {
            drop(create(&mut disk, &dir.path().join(n.to_string())));
        }
        assert_eq!(cache.counts().open, 0);
        assert!(cache.clock().len() <= DEAD_ENTRIES_MAX + 2);
    }

    #[test]
    fn a_file_is_opened_again_from_several_threads_at_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = Descriptors::bounded(2);
        let mut disk = StdDisk::with_descriptors(u64::MAX, cache.clone());
        let files = files(dir.path(), &mut disk, 8);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut own = StdDisk::new();
                    for round in 0..200 {
                        let n = round % files.len();
                        assert_eq!(read(&mut own, &files[n]).expect("read"), [n as u8; 4]);
                    }
                });
            }
        });
        cache.make_room(10);
        assert_eq!(cache.counts().open, 0);
    }
}
