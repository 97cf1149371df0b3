//! A file that a disk opened: its name, its identity, and its descriptor while that is open.
//!
//! Made by the shard that owns the file; clones may be used on the threads of others, which may read through
//! them. What the cache of descriptors promises stands in [`super::descriptors`].

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};

use rustix::fs::{Mode, OFlags};
use rustix::io::retry_on_intr;

use super::descriptors::{Descriptors, Lease};
use super::heap::HeapFile;

/// A file opened by a [`Disk`](super::Disk). Cloning shares it; its descriptor is closed with the last clone, or
/// before, and then opened again when it is used.
///
/// It may be handed to another shard's thread, which may read through it.
#[derive(Clone)]
pub struct FileHandle(pub(super) Arc<FileInner>);

pub(super) struct FileInner {
    id: u64,
    path: PathBuf,
    backing: Backing,
}

/// What a file is made of.
enum Backing {
    /// A file of the operating system.
    Real(Real),
    /// Memory of this process.
    Heap(Arc<HeapFile>),
    /// It exists only in a simulation.
    Simulated,
}

/// Somebody needs the bytes of a file as they are: while one of these lives, the file may lose its name, but it is
/// not recycled, punched or truncated. Every byte range that a log hands out holds one. Cloning shares it.
///
/// Counted for files of the operating system; what other disks hand out are copies. It does not keep the file open: who
/// reads through a descriptor holds a [`Lease`] as well.
pub struct FileReference(Weak<FileInner>);

/// A file of the operating system.
struct Real {
    cache: Descriptors,
    device: u64,
    inode: u64,
    /// Its file system makes a write wait for an fsync of the same file.
    is_locked_by_sync: bool,
    fd: Mutex<Option<Lease>>,
    /// Used since the cache's hand last passed.
    is_used: AtomicBool,
    /// Its descriptor is wanted and cannot be closed before a sync.
    is_wanted: AtomicBool,
    /// Operations of ours that change the file: writes, and reserving or zeroing space.
    changes_begun: AtomicU32,
    changes_ended: AtomicU32,
    writes_begun: AtomicU32,
    writes_ended: AtomicU32,
    /// Of the writes begun, how many a completed sync covers.
    writes_synced: AtomicU32,
    /// References that live.
    references: AtomicU32,
}

/// What became of an attempt to close a descriptor.
pub(super) enum Close {
    Closed,
    WasClosed,
    Kept,
}

impl Clone for FileReference {
    fn clone(&self) -> Self {
        let file = self.0.upgrade();
        if let Some(real) = file.as_ref().and_then(|file| file.real()) {
            real.references.fetch_add(1, Ordering::Relaxed);
        }
        Self(Weak::clone(&self.0))
    }
}

impl Drop for FileReference {
    fn drop(&mut self) {
        // Where no handle is left nobody can ask.
        let file = self.0.upgrade();
        if let Some(real) = file.as_ref().and_then(|file| file.real()) {
            let before = real.references.fetch_sub(1, Ordering::Release);
            assert!(before > 0, "each reference was counted");
        }
    }
}

impl fmt::Debug for FileReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileReference")
    }
}

impl FileHandle {
    /// Wraps a descriptor of the operating system in a cache of its own, which closes nothing.
    pub fn from_fd(id: u64, path: PathBuf, fd: OwnedFd) -> Self {
        // A descriptor that cannot be looked at is not opened again either: no file has this identity.
        let identity = identity_of(&fd).unwrap_or((0, 0));
        Self::open_in(&Descriptors::unbounded(), id, path, fd, identity)
    }

    /// A file that was just opened, under a cache.
    pub(super) fn opened(cache: &Descriptors, id: u64, path: PathBuf, fd: OwnedFd) -> io::Result<Self> {
        let identity = identity_of(&fd)?;
        let handle = Self::open_in(cache, id, path, fd, identity);
        cache.admit(&handle.0);
        Ok(handle)
    }

    fn open_in(
        cache: &Descriptors,
        id: u64,
        path: PathBuf,
        fd: OwnedFd,
        (device, inode): (u64, u64),
    ) -> Self {
        let real = Real {
            device,
            inode,
            is_locked_by_sync: is_locked_by_sync(&fd),
            fd: Mutex::new(Some(cache.lease(fd))),
            cache: cache.clone(),
            is_used: AtomicBool::new(true),
            is_wanted: AtomicBool::new(false),
            changes_begun: AtomicU32::new(0),
            changes_ended: AtomicU32::new(0),
            writes_begun: AtomicU32::new(0),
            writes_ended: AtomicU32::new(0),
            writes_synced: AtomicU32::new(0),
            references: AtomicU32::new(0),
        };
        Self(Arc::new(FileInner {
            id,
            path,
            backing: Backing::Real(real),
        }))
    }

    /// A file that exists only in a simulation.
    pub fn simulated(id: u64, path: PathBuf) -> Self {
        let backing = Backing::Simulated;
        Self::with_backing(id, path, backing)
    }

    /// A file in the memory of this process.
    pub(super) fn heap(id: u64, path: PathBuf, bytes: Arc<HeapFile>) -> Self {
        let backing = Backing::Heap(bytes);
        Self::with_backing(id, path, backing)
    }

    /// Its bytes, if they lie in the memory of this process.
    pub(super) fn in_heap(&self) -> Option<&HeapFile> {
        match &self.0.backing {
            Backing::Heap(bytes) => Some(bytes),
            _ => None,
        }
    }

    fn with_backing(id: u64, path: PathBuf, backing: Backing) -> Self {
        Self(Arc::new(FileInner { id, path, backing }))
    }

    /// Keeps the file's bytes as they are until it is dropped.
    pub fn refer(&self) -> FileReference {
        if let Some(real) = self.0.real() {
            real.references.fetch_add(1, Ordering::Relaxed);
        }
        FileReference(Arc::downgrade(&self.0))
    }

    /// Whether anybody else needs the file: a reference lives, or another handle of the same opening, as an
    /// operation under way has one.
    pub fn is_used(&self) -> bool {
        let references = self.0.real().map(|real| real.references.load(Ordering::Relaxed));
        let is_referred = references.is_some_and(|references| references > 0);
        let is_used = is_referred || Arc::strong_count(&self.0) > 1;
        // What those who let go of it had read lies before what the caller does next.
        fence(Ordering::Acquire);
        is_used
    }

    /// Unique among all handles that its disk ever opened.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// The path it was opened under (a later rename does not change it).
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Whether it exists only in a simulation.
    pub fn is_simulated(&self) -> bool {
        matches!(self.0.backing, Backing::Simulated)
    }

    /// The descriptor, to be used while the lease lives; opened again if it was closed.
    ///
    /// # Errors
    /// It cannot be opened again: no descriptor is left, or the file is gone (`NotFound`, also where another one
    /// has its name). One in memory or in a simulation has none (`InvalidInput`).
    pub fn lease(&self) -> io::Result<Lease> {
        let real = self.0.real().ok_or(io::ErrorKind::InvalidInput)?;
        real.is_used.store(true, Ordering::Relaxed);
        let mut open = real.open();
        if let Some(lease) = &*open {
            return Ok(lease.clone());
        }
        let fd = real.cache.with_room(|| {
            let flags = OFlags::RDWR | OFlags::CLOEXEC;
            Ok(retry_on_intr(|| {
                rustix::fs::open(&self.0.path, flags, Mode::empty())
            })?)
        })?;
        if identity_of(&fd)? != (real.device, real.inode) {
            let text = format!("{} is another file now", self.0.path.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        }
        let lease = real.cache.lease(fd);
        *open = Some(lease.clone());
        // The hand asks others for their locks.
        drop(open);
        real.cache.admit(&self.0);
        Ok(lease)
    }

    /// Whether its descriptor is open now.
    pub fn is_open(&self) -> bool {
        let real = self.0.real();
        real.is_some_and(|real| real.open().is_some())
    }

    /// Whether its descriptor is wanted for other files, and a sync is needed before it can be closed. The log
    /// then syncs as for any commit.
    pub fn is_asked_to_sync(&self) -> bool {
        let real = self.0.real();
        real.is_some_and(|real| real.is_wanted.load(Ordering::Relaxed) && real.is_dirty())
    }

    /// Whether a write waits while an fsync of the same file is under way, as on FUSE and NFS.
    pub fn is_locked_by_sync(&self) -> bool {
        let real = self.0.real();
        real.is_some_and(|real| real.is_locked_by_sync)
    }

    /// A disk begins to change the file otherwise than by a write.
    pub fn change_begun(&self) {
        if let Some(real) = self.0.real() {
            real.changes_begun.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// That ended, however it did.
    pub fn change_ended(&self) {
        if let Some(real) = self.0.real() {
            real.changes_ended.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// How many changes of ours were begun and ended.
    pub(super) fn changes(&self) -> (u32, u32) {
        let real = self.0.real();
        real.map_or((0, 0), |real| {
            let ended = real.changes_ended.load(Ordering::Acquire);
            (real.changes_begun.load(Ordering::Acquire), ended)
        })
    }

    /// A disk begins to write.
    pub fn write_begun(&self) {
        self.change_begun();
        if let Some(real) = self.0.real() {
            real.writes_begun.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// A write ended, however it did.
    pub fn write_ended(&self) {
        self.change_ended();
        if let Some(real) = self.0.real() {
            real.writes_ended.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// What a sync that is submitted now covers, for [`FileHandle::synced`].
    pub fn sync_mark(&self) -> u32 {
        let Some(real) = self.0.real() else { return 0 };
        let ended = real.writes_ended.load(Ordering::Acquire);
        if ended == real.writes_begun.load(Ordering::Acquire) {
            ended
        } else {
            // One that is under way is not covered.
            real.writes_synced.load(Ordering::Acquire)
        }
    }

    /// A sync that was submitted at `mark` succeeded.
    pub fn synced(&self, mark: u32) {
        if let Some(real) = self.0.real() {
            real.writes_synced.store(mark, Ordering::Release);
            real.is_wanted.store(false, Ordering::Relaxed);
        }
    }
}

impl FileInner {
    fn real(&self) -> Option<&Real> {
        match &self.backing {
            Backing::Real(real) => Some(real),
            _ => None,
        }
    }

    /// Closes the descriptor if nobody uses it, it was not used lately and nothing hangs on it.
    pub(super) fn try_close(&self) -> Close {
        let Some(real) = self.real() else {
            return Close::WasClosed;
        };
        let mut open = match real.fd.try_lock() {
            Ok(open) => open,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // It is being opened or handed out.
            Err(TryLockError::WouldBlock) => return Close::Kept,
        };
        let Some(lease) = &*open else {
            return Close::WasClosed;
        };
        if real.is_used.swap(false, Ordering::Relaxed) || lease.is_shared() {
            return Close::Kept;
        }
        if real.is_dirty() && real.cache.keeps_unsynced() {
            real.is_wanted.store(true, Ordering::Relaxed);
            return Close::Kept;
        }
        *open = None;
        Close::Closed
    }
}

impl Real {
    fn open(&self) -> MutexGuard<'_, Option<Lease>> {
        self.fd.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_dirty(&self) -> bool {
        self.writes_begun.load(Ordering::Acquire) != self.writes_synced.load(Ordering::Acquire)
    }
}

fn is_locked_by_sync(fd: &OwnedFd) -> bool {
    const FUSE: u64 = 0x6573_5546;
    const NFS: u64 = 0x6969;
    rustix::fs::fstatfs(fd).is_ok_and(|stat| matches!(stat.f_type as u64, FUSE | NFS))
}

fn identity_of(fd: &OwnedFd) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
}

impl fmt::Debug for FileHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileHandle({}, {})", self.0.id, self.0.path.display())
    }
}
