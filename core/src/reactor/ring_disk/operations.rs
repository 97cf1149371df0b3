//! An operation that the kernel has under way for the disk, and how it is told of it.
//!
//! Owned by the shard's thread. Invariant: what the kernel reads or writes is owned by the operation until its end.

use std::ffi::CString;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};

use bytes::Bytes;
use io_uring::{opcode, squeue, types};
use tidelog_segment_log::disk::{AlignedBytes, DIRECT_ALIGN, FileHandle, Lease};

/// A file whose descriptor is not closed while the kernel uses it.
pub(super) struct Held {
    pub(super) file: FileHandle,
    pub(super) fd: Lease,
}

impl Held {
    pub(super) fn fd(&self) -> types::Fd {
        types::Fd(self.fd.as_raw_fd())
    }
}

/// An operation in the kernel; it owns what the kernel reads or writes.
pub(super) enum InFlight {
    Write {
        held: Held,
        position: u64,
        data: Bytes,
    },
    Read {
        held: Held,
        position: u64,
        buffer: AlignedBytes,
        filled: usize,
    },
    /// Past the page cache, which spares the copy; where it does not work, it becomes a `Read`.
    DirectRead {
        held: Held,
        position: u64,
        len: usize,
        buffer: AlignedBytes,
        _direct: OwnedFd,
    },
    Sync {
        held: Held,
        /// What it covers, as the file counts.
        mark: u32,
    },
    SyncDir {
        _directory: OwnedFd,
    },
    /// Frees the space of a file that nobody holds, which takes long for a large one.
    Unlink {
        path: CString,
    },
    Fallocate {
        held: Held,
    },
    Writeback {
        _held: Held,
    },
    /// Started by this disk itself; nobody waits for it.
    EarlyWriteback {
        _held: Held,
    },
}

pub(super) fn writeback_entry(held: &Held, range: &Range<u64>) -> squeue::Entry {
    const SYNC_FILE_RANGE_WRITE: u32 = 2;
    let len = u32::try_from(range.end.saturating_sub(range.start)).unwrap_or(u32::MAX);
    opcode::SyncFileRange::new(held.fd(), len)
        .offset(range.start)
        .flags(SYNC_FILE_RANGE_WRITE)
        .build()
}

pub(super) fn cached_read(held: Held, position: u64, len: usize) -> (squeue::Entry, InFlight) {
    let mut buffer = AlignedBytes::zeroed(len);
    let entry = read_entry(&held, position, &mut buffer, 0);
    let operation = InFlight::Read {
        held,
        position,
        buffer,
        filled: 0,
    };
    (entry, operation)
}

/// Not on a worker: the device writes into the buffer by itself, and this thread only submits.
pub(super) fn direct_read(
    held: Held,
    position: u64,
    len: usize,
    direct: OwnedFd,
) -> (squeue::Entry, InFlight) {
    let mut buffer = AlignedBytes::for_direct_read(position, len);
    let (pages, pages_len) = buffer.direct_pages();
    let entry = opcode::Read::new(types::Fd(direct.as_raw_fd()), pages, pages_len as u32)
        .offset(position - position % DIRECT_ALIGN as u64)
        .build();
    let operation = InFlight::DirectRead {
        held,
        position,
        len,
        buffer,
        _direct: direct,
    };
    (entry, operation)
}

pub(super) fn read_entry(
    held: &Held,
    position: u64,
    buffer: &mut AlignedBytes,
    filled: usize,
) -> squeue::Entry {
    let rest = buffer.get_mut(filled..).unwrap_or(&mut []);
    // On a worker of the kernel: else submitting starts the read-ahead, and copies what is there, on this thread,
    // which meanwhile answers nobody.
    opcode::Read::new(held.fd(), rest.as_mut_ptr(), rest.len() as u32)
        .offset(position)
        .build()
        .flags(squeue::Flags::ASYNC)
}
