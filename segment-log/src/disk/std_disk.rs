//! [`StdDisk`]: files by plain system calls, for offline tools and tests.
//!
//! Owned by one thread, which it blocks: each submitted operation is carried out at once and its
//! completion queued, so completions come in the order of submission.
//!
//! What its operations mean in detail:
//! - *Device reads* open the file a second time with O_DIRECT and read through an aligned bounce
//!   buffer. The kernel first writes back dirty pages of the range; nothing is synced. Where the
//!   filesystem refuses O_DIRECT, the cached pages are dropped and read again; pages that are
//!   dirty or mapped survive that, so there a caller syncs and drops the cache first.
//! - [`DiskOp::DropCache`] drops this disk's own map first; a lease elsewhere keeps its pages.
//! - [`DiskOp::ZeroRange`] grows the file as a write would, and writes zeros where the filesystem
//!   cannot zero by itself.
//! - [`DiskOp::Writeback`] is left to the kernel's own timer.
//! - [`Disk::write_now`] may block and never answers [`WriteNow::WouldStall`].
//! - The lock of a directory is an exclusive `flock` on its file [`LOCK_FILE`].

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Advice, FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use super::hot::HotMaps;
use super::{
    AlignedBytes, Completion, DIRECT_ALIGN, Descriptors, DirectoryLock, Disk, DiskOp, DiskOutput, FileHandle,
    HotBytes, ReadSource, Token, WriteNow,
};

/// Name of the lock file in a data directory.
pub const LOCK_FILE: &str = "LOCK";

/// Bytes that one direct read asks for.
const DIRECT_CHUNK: usize = 1 << 20;
/// Pieces that one vectored write takes (IOV_MAX).
const IOV_MAX: usize = 1_024;
/// Zeros written at a time where the filesystem cannot zero a range.
const ZERO_CHUNK: usize = 64 << 10;

/// Ids are unique in the process, since handles travel between shards.
static NEXT_HANDLE_ID: AtomicU64 = AtomicU64::new(1);

/// Files by plain, blocking system calls. See the module.
pub struct StdDisk {
    hot: HotMaps,
    descriptors: Descriptors,
    completions: VecDeque<Completion>,
}

impl StdDisk {
    /// A disk with nothing open, all of whose writes stay hot: for tools and tests.
    pub fn new() -> Self {
        Self::with_hot_window(u64::MAX)
    }

    /// A disk with nothing open, of whose writes the last `window_bytes` are hot.
    pub fn with_hot_window(window_bytes: u64) -> Self {
        Self::with_descriptors(window_bytes, Descriptors::unbounded())
    }

    /// The same, which keeps to a cache of descriptors.
    pub fn with_descriptors(window_bytes: u64, descriptors: Descriptors) -> Self {
        Self {
            hot: HotMaps::new(window_bytes),
            descriptors,
            completions: VecDeque::new(),
        }
    }

    /// Its descriptors.
    pub fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    /// Its maps.
    pub fn hot_maps(&self) -> &HotMaps {
        &self.hot
    }

    /// A range of a file was written in full by other means than this disk: it is hot from now on.
    pub fn note_written(&mut self, file: &FileHandle, range: Range<u64>) {
        self.hot.note_written(file, range);
    }

    /// Lets go of the maps of closed files, which keep the space of those that were unlinked.
    pub fn drop_closed(&mut self) {
        self.hot.drop_closed();
    }

    /// What a failed write left in a range is unknown: it is not hot any more.
    pub fn note_failed_write(&mut self, file: &FileHandle, range: Range<u64>) {
        self.hot.forget_range(file, range);
    }

    /// After a failed sync nothing of the file is believed.
    pub fn note_failed_sync(&mut self, file: &FileHandle) {
        self.hot.forget(file);
    }

    fn perform(&mut self, op: DiskOp) -> io::Result<DiskOutput> {
        match op {
            DiskOp::Open { path } => open(&self.descriptors, path, OFlags::empty()),
            DiskOp::Create { path } => open(&self.descriptors, path, OFlags::CREATE | OFlags::EXCL),
            DiskOp::CreateDir { path } => done(fs::create_dir_all(path)),
            DiskOp::List { path } => {
                let entries = self.descriptors.with_room(|| fs::read_dir(&path))?;
                list(entries)
            }
            DiskOp::Len { file } => Ok(DiskOutput::Len(file_len(file.lease()?.as_fd())?)),
            DiskOp::LinkCount { file } => Ok(DiskOutput::Links(link_count(&file)?)),
            DiskOp::Rename { from, to } => {
                // A file that is renamed to be recycled is not to have a map of its old life.
                self.hot.drop_closed();
                done(fs::rename(from, to))
            }
            DiskOp::Link { from, to } => done(fs::hard_link(from, to)),
            DiskOp::Unlink { path } => {
                self.hot.drop_closed();
                done(fs::remove_file(path))
            }
            DiskOp::RemoveDir { path } => done(fs::remove_dir(path)),
            DiskOp::SyncDir { path } => {
                // Whoever unlinked files has let go of them by now; a map would keep their space.
                self.hot.drop_closed();
                let dir = self.descriptors.with_room(|| open_dir(&path))?;
                done(rustix::fs::fsync(dir).map_err(io::Error::from))
            }
            DiskOp::Fallocate { file, range } => done(fallocate(&file, &range)),
            DiskOp::ZeroRange { file, range } => {
                self.hot.forget_range(&file, range.clone());
                done(zero_range(&file, &range))
            }
            DiskOp::DropCache { file } => {
                self.hot.forget(&file);
                done(drop_cache(&file, 0..0))
            }
            DiskOp::FreeSpace { path } => {
                let stat = rustix::fs::statvfs(path)?;
                let bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
                Ok(DiskOutput::FreeSpace(bytes))
            }
            DiskOp::Write { file, position, data } => {
                let written = self.write_once(&file, position, &data)?;
                Ok(DiskOutput::Written(written))
            }
            DiskOp::Read {
                file,
                position,
                len,
                source,
            } => read(&file, position, len, source).map(DiskOutput::Read),
            DiskOp::Sync { file } => {
                let fd = file.lease()?;
                let mark = file.sync_mark();
                let result = rustix::fs::fdatasync(fd).map_err(io::Error::from);
                if result.is_ok() {
                    file.synced(mark);
                } else {
                    // The pages are marked clean now although the device may not have them.
                    self.hot.forget(&file);
                }
                done(result)
            }
            DiskOp::Writeback { file, .. } => done(file.lease().map(drop)),
        }
    }

    fn write_once(&mut self, file: &FileHandle, position: u64, data: &[u8]) -> io::Result<usize> {
        let fd = file.lease()?;
        let end = end_of(position, data.len())?;
        if data.is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        file.write_begun();
        let result = retry_on_intr(|| rustix::io::pwrite(&fd, data, position));
        file.write_ended();
        match result {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                self.hot.note_written(file, position..position + written as u64);
                Ok(written)
            }
            Err(error) => {
                self.hot.forget_range(file, position..end);
                Err(error.into())
            }
        }
    }
}

impl Default for StdDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl Disk for StdDisk {
    fn submit(&mut self, token: Token, op: DiskOp) {
        let result = self.perform(op);
        self.completions.push_back(Completion { token, result });
    }

    fn take_completions(&mut self, out: &mut Vec<Completion>) {
        out.extend(self.completions.drain(..));
    }

    fn write_now(
        &mut self,
        file: &FileHandle,
        position: u64,
        pieces: &[IoSlice<'_>],
    ) -> io::Result<WriteNow> {
        let fd = file.lease()?;
        let len = pieces.iter().map(|piece| piece.len()).sum();
        let end = end_of(position, len)?;
        file.write_begun();
        let result = write_all_at(fd.as_fd(), position, pieces);
        file.write_ended();
        match result {
            Ok(()) => {
                self.hot.note_written(file, position..end);
                Ok(WriteNow::Done)
            }
            Err(error) => {
                self.hot.forget_range(file, position..end);
                Err(error)
            }
        }
    }

    fn hot_bytes(&mut self, file: &FileHandle, range: Range<u64>) -> Option<HotBytes> {
        self.hot.hot_bytes(file, range)
    }

    fn lock_directory(&mut self, path: &Path) -> io::Result<DirectoryLock> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join(LOCK_FILE))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(DirectoryLock::new(file))
    }
}

fn done(result: io::Result<()>) -> io::Result<DiskOutput> {
    result.map(|()| DiskOutput::Done)
}

/// End of a range that a file can have.
fn end_of(position: u64, len: usize) -> io::Result<u64> {
    position
        .checked_add(len as u64)
        .filter(|end| i64::try_from(*end).is_ok())
        .ok_or_else(|| io::ErrorKind::FileTooLarge.into())
}

fn open(cache: &Descriptors, path: PathBuf, extra: OFlags) -> io::Result<DiskOutput> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | extra;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    let fd = cache.with_room(|| Ok(retry_on_intr(|| rustix::fs::open(&path, flags, mode))?))?;
    let id = NEXT_HANDLE_ID.fetch_add(1, Ordering::Relaxed);
    Ok(DiskOutput::File(FileHandle::opened(cache, id, path, fd)?))
}

fn list(entries: fs::ReadDir) -> io::Result<DiskOutput> {
    let mut names = Vec::new();
    for entry in entries {
        // A name that is not UTF-8 is not one of the log's, nor is its replacement.
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(DiskOutput::Names(names))
}

fn file_len(fd: BorrowedFd<'_>) -> io::Result<u64> {
    u64::try_from(rustix::fs::fstat(fd)?.st_size).map_err(|_| io::ErrorKind::InvalidData.into())
}

fn link_count(file: &FileHandle) -> io::Result<u64> {
    Ok(rustix::fs::fstat(file.lease()?)?.st_nlink)
}

fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

fn fallocate(file: &FileHandle, range: &Range<u64>) -> io::Result<()> {
    let fd = file.lease()?;
    if range.is_empty() {
        return Ok(());
    }
    let len = range.end - range.start;
    let flags = FallocateFlags::empty();
    file.change_begun();
    let result = retry_on_intr(|| rustix::fs::fallocate(&fd, flags, range.start, len));
    file.change_ended();
    Ok(result?)
}

fn zero_range(file: &FileHandle, range: &Range<u64>) -> io::Result<()> {
    let fd = file.lease()?;
    if range.is_empty() {
        return Ok(());
    }
    let len = range.end - range.start;
    let flags = FallocateFlags::ZERO_RANGE;
    file.write_begun();
    let result = match retry_on_intr(|| rustix::fs::fallocate(&fd, flags, range.start, len)) {
        Err(Errno::OPNOTSUPP) => write_zeros(fd.as_fd(), range.clone()),
        result => result.map_err(io::Error::from),
    };
    file.write_ended();
    result
}

fn write_zeros(fd: BorrowedFd<'_>, range: Range<u64>) -> io::Result<()> {
    let zeros = [0u8; ZERO_CHUNK];
    let mut position = range.start;
    while position < range.end {
        let len = usize::try_from(range.end - position).map_or(ZERO_CHUNK, |n| n.min(ZERO_CHUNK));
        write_all_at(fd, position, &[IoSlice::new(&zeros[..len])])?;
        position += len as u64;
    }
    Ok(())
}

/// Drops clean pages; an empty range means the whole file.
fn drop_cache(file: &FileHandle, range: Range<u64>) -> io::Result<()> {
    let fd = file.lease()?;
    let len = std::num::NonZeroU64::new(range.end.saturating_sub(range.start));
    Ok(rustix::fs::fadvise(fd, range.start, len, Advice::DontNeed)?)
}

/// Writes all pieces, over several calls if one is short.
fn write_all_at(fd: BorrowedFd<'_>, position: u64, pieces: &[IoSlice<'_>]) -> io::Result<()> {
    let total: usize = pieces.iter().map(|piece| piece.len()).sum();
    if total == 0 {
        return Ok(());
    }
    let mut written = 0;
    if pieces.len() <= IOV_MAX {
        written = write_some_at(fd, position, pieces)?;
        if written == total {
            return Ok(());
        }
    }
    let mut rest = pieces.to_vec();
    // Else a call with only empty pieces would look like one that cannot write.
    rest.retain(|piece| !piece.is_empty());
    let mut rest = rest.as_mut_slice();
    IoSlice::advance_slices(&mut rest, written);
    while written < total {
        let next = &rest[..rest.len().min(IOV_MAX)];
        let more = write_some_at(fd, position + written as u64, next)?;
        written += more;
        IoSlice::advance_slices(&mut rest, more);
    }
    Ok(())
}

fn write_some_at(fd: BorrowedFd<'_>, position: u64, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    match retry_on_intr(|| rustix::io::pwritev(fd, pieces, position))? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        written => Ok(written),
    }
}

/// Reads what the file holds of the range, never allocating more than that.
fn read(file: &FileHandle, position: u64, len: usize, source: ReadSource) -> io::Result<AlignedBytes> {
    let fd = file.lease()?;
    let fd = fd.as_fd();
    let left = file_len(fd)?.saturating_sub(position);
    let len = usize::try_from(left).map_or(len, |left| len.min(left));
    let mut bytes = AlignedBytes::zeroed(len);
    let read = match source {
        ReadSource::Cached => read_full(fd, position, &mut bytes)?,
        ReadSource::Device => match open_direct(fd)? {
            Some(direct) => match read_direct(direct.as_fd(), position, &mut bytes) {
                Err(error) if refuses_direct(&error) => {
                    drop_cache(file, position..position + len as u64)?;
                    read_full(fd, position, &mut bytes)?
                }
                result => result?,
            },
            None => {
                drop_cache(file, position..position + len as u64)?;
                read_full(fd, position, &mut bytes)?
            }
        },
    };
    bytes.truncate(read);
    Ok(bytes)
}

fn read_full(fd: BorrowedFd<'_>, position: u64, into: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        let rest = &mut into[filled..];
        match retry_on_intr(|| rustix::io::pread(fd, &mut *rest, position + filled as u64))? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

/// When one of the files in a directory whose names begin so was last changed, in ms since 1970; `None` where
/// there is none, or no such directory.
pub(crate) fn newest_change_ms(directory: &Path, prefixes: &[&str]) -> Option<i64> {
    let files = fs::read_dir(directory).ok()?.flatten();
    let changed_ms = |file: fs::DirEntry| {
        let name = file.file_name();
        let name = name.to_str()?;
        prefixes.iter().find(|prefix| name.starts_with(**prefix))?;
        let changed = file.metadata().ok()?.modified().ok()?;
        let since = changed.duration_since(std::time::UNIX_EPOCH).ok()?;
        i64::try_from(since.as_millis()).ok()
    };
    files.filter_map(changed_ms).max()
}

/// The same file, opened to bypass the page cache, if that spares a read the copy: where the filesystem allows it
/// and the range is not in the cache as a whole.
pub fn open_for_cold_read(file: &FileHandle, range: Range<u64>) -> Option<OwnedFd> {
    let fd = file.lease().ok()?;
    // The kernel is asked about whole pages, of whatever size they are.
    let start = range.start - range.start % rustix::param::page_size() as u64;
    let len = usize::try_from(range.end.checked_sub(start)?).ok()?;
    // Looking through a map starts no read-ahead, as even a read that must not wait does.
    let map = memmap2::MmapOptions::new()
        .offset(start)
        .len(len)
        .map_raw_read_only(fd.as_raw_fd())
        .ok()?;
    if super::is_resident(&map, 0..len) {
        return None;
    }
    open_direct(fd.as_fd()).ok().flatten()
}

/// The same file, opened to bypass the page cache; `None` where the filesystem refuses.
fn open_direct(fd: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    // By descriptor, since the name may have changed.
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::DIRECT;
    match retry_on_intr(|| rustix::fs::open(&path, flags, Mode::empty())) {
        Ok(direct) => Ok(Some(direct)),
        // No /proc in a bare chroot, or no direct access on this filesystem.
        Err(Errno::NOENT | Errno::INVAL | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn refuses_direct(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::INVAL | Errno::OPNOTSUPP))
}

fn read_direct(fd: BorrowedFd<'_>, position: u64, into: &mut [u8]) -> io::Result<usize> {
    if into.is_empty() {
        return Ok(0);
    }
    let align = DIRECT_ALIGN as u64;
    let skip = usize::try_from(position % align).unwrap_or(0);
    let wanted = skip + into.len();
    let chunk = wanted.next_multiple_of(DIRECT_ALIGN).min(DIRECT_CHUNK);
    let mut memory = vec![0u8; chunk + DIRECT_ALIGN];
    let base = memory.as_ptr().align_offset(DIRECT_ALIGN);
    let bounce = &mut memory[base..base + chunk];
    let mut from = position - skip as u64;
    let mut skip = skip;
    let mut filled = 0;
    while filled < into.len() {
        let read = retry_on_intr(|| rustix::io::pread(fd, &mut *bounce, from))?;
        let useful = read.saturating_sub(skip).min(into.len() - filled);
        if useful == 0 {
            break;
        }
        into[filled..filled + useful].copy_from_slice(&bounce[skip..skip + useful]);
        filled += useful;
        // A short read that ends inside a block is the end of the file.
        if !read.is_multiple_of(DIRECT_ALIGN) {
            break;
        }
        from += read as u64;
        skip = 0;
    }
    Ok(filled)
}
