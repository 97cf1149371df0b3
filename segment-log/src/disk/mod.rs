//! The one seam between the log and files: an object-safe trait without async.
//!
//! Owned by one shard thread (`&mut self`). The log *submits* operations under a
//! [`Token`] of its own and later takes their [`Completion`]s; only
//! [`Disk::write_now`], [`Disk::hot_bytes`] and [`Disk::lock_directory`] answer
//! at once.
//!
//! Invariants every implementation keeps:
//! - each submitted token completes exactly once, in any order;
//! - a completed [`DiskOp::Sync`] covers every write that completed before the
//!   sync was *submitted*, and nothing else;
//! - a buffer given to an operation is owned by it until its completion;
//! - an operation that fails because no descriptor is left ([`is_out_of_descriptors`]) has done nothing;
//! - an error is never swallowed: a failed sync is reported once and is not retried here.

pub mod descriptors;
mod handle;
pub mod heap;
pub mod hot;
pub mod memory;
pub mod overlay;
pub mod read_only;
pub mod sigbus;
pub mod sim;
pub mod std_disk;

use std::borrow::Borrow;
use std::fmt;
use std::io::{self, IoSlice};
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

#[doc(hidden)]
pub use descriptors::DescriptorBug;
pub use descriptors::{Descriptors, Lease, is_out_of_descriptors};
pub use handle::{FileHandle, FileReference};
pub use std_disk::StdDisk;

/// Names one submitted operation. Chosen by the submitter, unique among its operations in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// Where a read takes its bytes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadSource {
    /// Whatever is there, page cache included.
    Cached,
    /// The device: what a power cut now would leave. Recovery reads only this.
    Device,
}

/// A submitted operation. Sizes and positions are bytes.
#[derive(Debug)]
#[allow(missing_docs, reason = "the fields say no more than their names")]
pub enum DiskOp {
    /// Opens an existing file for reading and writing. Answers [`DiskOutput::File`].
    Open { path: PathBuf },
    /// Creates a file that must not exist. Answers [`DiskOutput::File`]. The name is durable only after [`DiskOp::SyncDir`].
    Create { path: PathBuf },
    /// Creates a directory and its missing parents; one that exists is no error. Answers [`DiskOutput::Done`].
    CreateDir { path: PathBuf },
    /// Names (not paths) in a directory, sorted. Answers [`DiskOutput::Names`].
    List { path: PathBuf },
    /// Length of an open file. Answers [`DiskOutput::Len`].
    Len { file: FileHandle },
    /// How many names an open file has. Answers [`DiskOutput::Links`].
    LinkCount { file: FileHandle },
    /// Atomically replaces `to` by `from`. Answers [`DiskOutput::Done`].
    Rename { from: PathBuf, to: PathBuf },
    /// A second name for a file. Answers [`DiskOutput::Done`].
    Link { from: PathBuf, to: PathBuf },
    /// Removes a name. Answers [`DiskOutput::Done`].
    Unlink { path: PathBuf },
    /// Removes an empty directory. Answers [`DiskOutput::Done`].
    RemoveDir { path: PathBuf },
    /// Makes the names in a directory durable. Answers [`DiskOutput::Done`].
    SyncDir { path: PathBuf },
    /// Reserves space for a range, growing the file; fails with ENOSPC rather than later. Answers [`DiskOutput::Done`].
    Fallocate { file: FileHandle, range: Range<u64> },
    /// Makes a range read as zeros. Answers [`DiskOutput::Done`].
    ZeroRange { file: FileHandle, range: Range<u64> },
    /// Drops the clean cached pages of a file (nothing happens while a map of it exists). Answers [`DiskOutput::Done`].
    DropCache { file: FileHandle },
    /// Bytes free for an ordinary user. Answers [`DiskOutput::FreeSpace`].
    FreeSpace { path: PathBuf },
    /// Writes `data` at `position`. May write less: answers [`DiskOutput::Written`].
    Write {
        file: FileHandle,
        position: u64,
        data: Bytes,
    },
    /// Reads up to `len` bytes; short only at the end of the file. Answers [`DiskOutput::Read`].
    Read {
        file: FileHandle,
        position: u64,
        len: usize,
        source: ReadSource,
    },
    /// fdatasync. Answers [`DiskOutput::Done`].
    Sync { file: FileHandle },
    /// Starts write-back of a range early; no promise of durability. Answers [`DiskOutput::Done`].
    Writeback { file: FileHandle, range: Range<u64> },
}

/// What a successful operation answers.
#[derive(Debug)]
pub enum DiskOutput {
    /// Nothing but success.
    Done,
    /// An opened or created file.
    File(FileHandle),
    /// Directory entries, sorted.
    Names(Vec<String>),
    /// A file's length, bytes.
    Len(u64),
    /// Names of a file.
    Links(u64),
    /// Free bytes.
    FreeSpace(u64),
    /// Bytes written, at least 1 and at most what was asked.
    Written(usize),
    /// Bytes read; shorter than asked only at the end of the file. The start is 16-aligned in memory.
    Read(AlignedBytes),
}

/// The end of a submitted operation.
#[derive(Debug)]
pub struct Completion {
    /// The submitter's name for it.
    pub token: Token,
    /// Its result.
    pub result: io::Result<DiskOutput>,
}

/// The answer of [`Disk::write_now`].
#[derive(Debug)]
pub enum WriteNow {
    /// All bytes are in the page cache.
    Done,
    /// Nothing was written, since a write might block this thread (too much dirty, or a late
    /// commit): submit it as [`DiskOp::Write`].
    WouldStall,
}

/// File access as the log sees it. See the module's invariants.
pub trait Disk {
    /// Starts an operation; its end comes out of [`Disk::take_completions`].
    fn submit(&mut self, token: Token, op: DiskOp);

    /// Moves the completions that have arrived into `out`, in the order of arrival.
    fn take_completions(&mut self, out: &mut Vec<Completion>);

    /// Writes all of `pieces` one behind the other at `position`, now, into the page cache.
    ///
    /// After [`WriteNow::WouldStall`] the file keeps its descriptor for the write that is submitted next.
    ///
    /// # Errors
    /// Any error, and a short write, leaves the range in an unknown state: the caller fences. Only one that
    /// [`is_out_of_descriptors`] wrote nothing, and may be tried again.
    fn write_now(&mut self, file: &FileHandle, position: u64, pieces: &[IoSlice<'_>])
    -> io::Result<WriteNow>;

    /// Bytes of a range, from its start on, that are certainly resident and were written by this process; `None` if
    /// that is not certain (then read them with [`DiskOp::Read`]). Fewer than the range has end where a write
    /// ended.
    fn hot_bytes(&mut self, file: &FileHandle, range: Range<u64>) -> Option<HotBytes>;

    /// Takes the exclusive lock of a data directory, held until the returned guard is dropped.
    ///
    /// # Errors
    /// `WouldBlock` when another process (or another guard) holds it.
    fn lock_directory(&mut self, path: &Path) -> io::Result<DirectoryLock>;
}

/// Holds the lock of a data directory. Dropping it releases the lock.
pub struct DirectoryLock {
    _held: Box<dyn Send + Sync>,
}

impl DirectoryLock {
    /// Wraps whatever holds the lock.
    pub fn new(held: impl Send + Sync + 'static) -> Self {
        Self {
            _held: Box::new(held),
        }
    }
}

impl fmt::Debug for DirectoryLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DirectoryLock")
    }
}

/// Log bytes to send as they are: a piece of a read-only map, or bytes of their own (memory, simulation).
/// Cloning is cheap; a piece of a map is a lease that holds a [`FileReference`]: the file behind it is not recycled
/// while one lives.
#[derive(Clone, Debug)]
pub enum HotBytes {
    /// A range of a mapped segment.
    Mapped(MappedBytes),
    /// Bytes of their own.
    Owned(Bytes),
}

impl Deref for HotBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            HotBytes::Mapped(mapped) => mapped,
            HotBytes::Owned(bytes) => bytes,
        }
    }
}

impl HotBytes {
    /// Whether all pages of all these bytes are in memory now, so that reading them does not wait for the
    /// device. The kernel may take a page away later: ask shortly before.
    pub fn are_resident(pieces: impl IntoIterator<Item = impl Borrow<HotBytes>>) -> bool {
        // Batches that follow each other in one map are asked about at once: only headers lie between them.
        let mut run: Option<MappedBytes> = None;
        for piece in pieces {
            let HotBytes::Mapped(piece) = piece.borrow() else {
                continue;
            };
            if run.as_mut().is_some_and(|run| run.take_neighbour(piece)) {
                continue;
            }
            if run.replace(piece.clone()).is_some_and(|run| !run.is_resident()) {
                return false;
            }
        }
        run.is_none_or(|run| run.is_resident())
    }

    /// A part of these bytes, relative to their start.
    ///
    /// # Panics
    /// If the range is not inside.
    pub fn slice(&self, range: Range<usize>) -> HotBytes {
        match self {
            HotBytes::Mapped(mapped) => HotBytes::Mapped(mapped.slice(range)),
            HotBytes::Owned(bytes) => HotBytes::Owned(bytes.slice(range)),
        }
    }
}

/// Pages that the kernel is asked about at a time: 2 MiB.
const RESIDENT_PAGES_PER_CALL: usize = 512;
/// Bytes between two pieces that are asked about together: an entry's header and its padding, and a little.
const RESIDENT_GAP_BYTES_MAX: usize = 4096;

/// A read-only map of a file for those who were given ranges of it: while it lives the file's bytes stay.
#[derive(Debug)]
pub struct LeasedMap {
    map: Arc<memmap2::MmapRaw>,
    _reference: FileReference,
}

impl LeasedMap {
    /// `map` is one of `file`.
    pub fn new(map: Arc<memmap2::MmapRaw>, file: &FileHandle) -> Self {
        Self {
            map,
            _reference: file.refer(),
        }
    }

    /// The map itself, which keeps nothing from being recycled.
    pub fn map(&self) -> &Arc<memmap2::MmapRaw> {
        &self.map
    }
}

/// A range of a shared read-only map. Only ranges wholly below the file's written end may be made.
#[derive(Clone, Debug)]
pub struct MappedBytes {
    leased: Arc<LeasedMap>,
    start: usize,
    len: usize,
}

impl MappedBytes {
    /// A range of a map.
    ///
    /// # Safety
    /// The range must lie inside the map and inside the file, its bytes must not be written again nor the
    /// file truncated below its end while this or a clone lives, that is, while the map's reference does.
    ///
    /// # Panics
    /// If the range is not inside the map.
    pub unsafe fn new(leased: Arc<LeasedMap>, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= leased.map.len(),
            "range outside the map"
        );
        Self {
            leased,
            start: range.start,
            len: range.end - range.start,
        }
    }

    /// Grows to the end of `next` if that is the same map and begins in or right behind the last page.
    fn take_neighbour(&mut self, next: &MappedBytes) -> bool {
        let end = self.start + self.len;
        let follows = Arc::ptr_eq(&self.leased.map, &next.leased.map)
            && next.start >= self.start
            && next.start <= end.saturating_add(RESIDENT_GAP_BYTES_MAX);
        if follows {
            self.len = self.len.max(next.start + next.len - self.start);
        }
        follows
    }

    /// Whether all pages of the range are in memory now.
    fn is_resident(&self) -> bool {
        is_resident(&self.leased.map, self.start..self.start + self.len)
    }

    fn slice(&self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "range outside the mapped bytes"
        );
        Self {
            leased: Arc::clone(&self.leased),
            start: self.start + range.start,
            len: range.end - range.start,
        }
    }
}

impl Deref for MappedBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `new` asserted that the range is inside the map, whose memory lives as long as
        // the Arc; its caller promised that these bytes are in the file and immutable.
        unsafe { std::slice::from_raw_parts(self.leased.map.as_ptr().add(self.start), self.len) }
    }
}

/// Whether all pages of a range of a map are in memory now. Faults none in.
fn is_resident(map: &memmap2::MmapRaw, range: Range<usize>) -> bool {
    assert!(range.end <= map.len(), "range outside the map");
    let page = rustix::param::page_size();
    let (first, end) = (range.start / page * page, range.end);
    // One byte for each page, in pieces: what is asked for is bounded only by a map.
    let mut pages = [0u8; RESIDENT_PAGES_PER_CALL];
    let mut at = first;
    while at < end {
        let len = (end - at).min(pages.len() * page);
        // SAFETY: the range lies in the map, which lives as long as the borrow; the map
        // begins on a page, so `at` does too. The kernel writes one byte for each page of `len`, for which
        // there is room.
        let result =
            unsafe { libc::mincore(map.as_ptr().add(at).cast_mut().cast(), len, pages.as_mut_ptr()) };
        let asked = pages.get(..len.div_ceil(page)).unwrap_or_default();
        if result != 0 || asked.iter().any(|page| page & 1 == 0) {
            return false;
        }
        at += len;
    }
    true
}

/// Alignment of position, length and memory of direct reads; enough for every sector size in use.
pub const DIRECT_ALIGN: usize = 4_096;

/// Bytes that are as aligned in memory as archived headers need when read in place: 16, or as in their file.
pub struct AlignedBytes {
    blocks: Vec<u128>,
    /// Where the first page that a direct read fills starts in `blocks`, bytes; 0 for other bytes.
    base: usize,
    /// Where these bytes start behind that.
    skip: usize,
    len: usize,
}

impl AlignedBytes {
    /// `len` zero bytes.
    pub fn zeroed(len: usize) -> Self {
        Self {
            blocks: vec![0; len.div_ceil(16)],
            base: 0,
            skip: 0,
            len,
        }
    }

    /// `len` bytes that a direct read from `position` of a file fills: in memory they lie as in the file's pages.
    pub fn for_direct_read(position: u64, len: usize) -> Self {
        let skip = (position % DIRECT_ALIGN as u64) as usize;
        let pages = (skip + len).next_multiple_of(DIRECT_ALIGN);
        let blocks = vec![0u128; (pages + DIRECT_ALIGN) / 16];
        let base = blocks.as_ptr().cast::<u8>().align_offset(DIRECT_ALIGN);
        Self {
            blocks,
            base,
            skip,
            len,
        }
    }

    /// The whole pages around bytes made by [`AlignedBytes::for_direct_read`]: address and length of what the
    /// kernel fills. They stay where they are when this value moves.
    pub fn direct_pages(&mut self) -> (*mut u8, usize) {
        let pages = (self.skip + self.len).next_multiple_of(DIRECT_ALIGN);
        let start = self.blocks.as_mut_ptr().cast::<u8>();
        (start.wrapping_add(self.base), pages)
    }

    /// Of so many bytes that a direct read filled, how many are these bytes.
    pub fn filled_by(&self, read: usize) -> usize {
        read.saturating_sub(self.skip).min(self.len)
    }

    /// Shortens to `len` bytes, if longer.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        let start = self.base + self.skip;
        // SAFETY: the vector holds at least `len` initialised bytes behind `start`; u8 has no alignment or
        // validity needs.
        unsafe { std::slice::from_raw_parts(self.blocks.as_ptr().cast::<u8>().add(start), self.len) }
    }
}

impl std::ops::DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        let start = self.base + self.skip;
        // SAFETY: as above, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.blocks.as_mut_ptr().cast::<u8>().add(start), self.len) }
    }
}

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBytes({} bytes)", self.len)
    }
}
