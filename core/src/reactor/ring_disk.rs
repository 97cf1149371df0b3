//! [`Disk`] over the shard's ring.
//!
//! Owned by the shard's thread. Reads, writes, syncs, write-back and space reservation go through
//! the ring; names (open, create, list, rename, unlink) and reads from the device, which only
//! opening, rolling and recovery need, are done at once by [`StdDisk`]. Appends go through
//! `write_now`, which is `pwritev` on this thread.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use bytes::Bytes;
use io_uring::{opcode, types};
use tidelog_segment_log::disk::std_disk::StdDisk;
use tidelog_segment_log::disk::{
    AlignedBytes, Completion, DirectoryLock, Disk, DiskOp, DiskOutput, FileHandle, HotBytes, ReadSource,
    Token, WriteNow,
};

use super::ring::{Kind, RawRing, Reaped, Tag};

/// An operation in the kernel; it owns what the kernel reads or writes.
enum InFlight {
    Write {
        _file: FileHandle,
        data: Bytes,
    },
    Read {
        file: FileHandle,
        position: u64,
        buffer: AlignedBytes,
        filled: usize,
    },
    Sync {
        _file: FileHandle,
    },
    SyncDir {
        _directory: OwnedFd,
    },
    Plain {
        _file: FileHandle,
    },
}

struct Slot {
    generation: u32,
    operation: Option<(Token, InFlight)>,
}

/// See the file's head.
pub(super) struct RingDisk {
    ring: Rc<RefCell<RawRing>>,
    direct: StdDisk,
    slots: Vec<Slot>,
    free: Vec<u32>,
    arrived: Vec<Completion>,
    in_flight: usize,
}

impl RingDisk {
    pub(super) fn new(ring: Rc<RefCell<RawRing>>) -> Self {
        Self {
            ring,
            direct: StdDisk::new(),
            slots: Vec::new(),
            free: Vec::new(),
            arrived: Vec::new(),
            in_flight: 0,
        }
    }

    /// Operations the kernel has not completed.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether completions wait to be taken.
    pub(super) fn has_arrived(&self) -> bool {
        !self.arrived.is_empty()
    }

    fn start(
        &mut self,
        token: Token,
        operation: InFlight,
        entry: impl FnOnce(&InFlight) -> io_uring::squeue::Entry,
    ) {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(Slot {
                    generation: 0,
                    operation: None,
                });
                (self.slots.len() - 1) as u32
            }
        };
        let Some(place) = self.slots.get_mut(slot as usize) else {
            return;
        };
        let entry = entry(&operation);
        let tag = Tag {
            kind: Kind::Disk,
            generation: place.generation,
            slot,
        };
        place.operation = Some((token, operation));
        self.in_flight += 1;
        // SAFETY: the operation owns its buffer, whose heap address does not change when the slot
        // table moves, and it stays in the table until this tag's completion is reaped.
        let pushed = unsafe { self.ring.borrow_mut().push(entry, tag) };
        if let Err(error) = pushed {
            self.finish(slot, Err(error));
        }
    }

    fn finish(&mut self, slot: u32, result: io::Result<DiskOutput>) {
        let Some(place) = self.slots.get_mut(slot as usize) else {
            return;
        };
        let Some((token, _operation)) = place.operation.take() else {
            return;
        };
        place.generation = (place.generation + 1) & 0xff_ffff;
        self.free.push(slot);
        self.in_flight -= 1;
        self.arrived.push(Completion { token, result });
    }

    /// Takes one completion of the ring that carries [`Kind::Disk`].
    pub(super) fn on_reaped(&mut self, reaped: Reaped) {
        let slot = reaped.tag.slot;
        let Some(place) = self.slots.get_mut(slot as usize) else {
            return;
        };
        if place.generation != reaped.tag.generation {
            return;
        }
        let result = reaped.into_result();
        let Some((_, operation)) = place.operation.as_mut() else {
            return;
        };
        let output = match (operation, result) {
            (_, Err(error)) => Err(error),
            (InFlight::Write { data, .. }, Ok(written)) => {
                if written == 0 && !data.is_empty() {
                    Err(io::Error::from(io::ErrorKind::WriteZero))
                } else {
                    Ok(DiskOutput::Written(written as usize))
                }
            }
            (
                InFlight::Read {
                    file,
                    position,
                    buffer,
                    filled,
                },
                Ok(read),
            ) => {
                *filled += read as usize;
                if read > 0 && *filled < buffer.len() {
                    // A short read in the middle of a file: go on where it ended.
                    let next = read_entry(file, *position + *filled as u64, buffer, *filled);
                    // SAFETY: as in `start`.
                    match unsafe { self.ring.borrow_mut().push(next, reaped.tag) } {
                        Ok(()) => return,
                        Err(error) => Err(error),
                    }
                } else {
                    let mut bytes = std::mem::replace(buffer, AlignedBytes::zeroed(0));
                    bytes.truncate(*filled);
                    Ok(DiskOutput::Read(bytes))
                }
            }
            (InFlight::Sync { .. } | InFlight::SyncDir { .. } | InFlight::Plain { .. }, Ok(_)) => {
                Ok(DiskOutput::Done)
            }
        };
        self.finish(slot, output);
    }
}

fn descriptor(file: &FileHandle) -> types::Fd {
    types::Fd(file.fd().map_or(-1, AsRawFd::as_raw_fd))
}

fn read_entry(
    file: &FileHandle,
    position: u64,
    buffer: &mut AlignedBytes,
    filled: usize,
) -> io_uring::squeue::Entry {
    let rest = buffer.get_mut(filled..).unwrap_or(&mut []);
    opcode::Read::new(descriptor(file), rest.as_mut_ptr(), rest.len() as u32)
        .offset(position)
        .build()
}

impl Disk for RingDisk {
    fn submit(&mut self, token: Token, op: DiskOp) {
        match op {
            DiskOp::Write { file, position, data } => {
                let fd = descriptor(&file);
                let (at, len) = (data.as_ptr(), data.len() as u32);
                // The page cache bookkeeping of `hot_bytes` learns of the write when it completes
                // in full; the direct disk keeps it.
                self.start(token, InFlight::Write { _file: file, data }, |_| {
                    opcode::Write::new(fd, at, len).offset(position).build()
                });
            }
            DiskOp::Read {
                file,
                position,
                len,
                source: ReadSource::Cached,
            } => {
                let mut buffer = AlignedBytes::zeroed(len);
                let entry = read_entry(&file, position, &mut buffer, 0);
                self.start(
                    token,
                    InFlight::Read {
                        file,
                        position,
                        buffer,
                        filled: 0,
                    },
                    |_| entry,
                );
            }
            DiskOp::Sync { file } => {
                let fd = descriptor(&file);
                self.start(token, InFlight::Sync { _file: file }, |_| {
                    opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build()
                });
            }
            DiskOp::SyncDir { path } => match std::fs::File::open(&path) {
                Ok(directory) => {
                    let directory = OwnedFd::from(directory);
                    let fd = types::Fd(directory.as_raw_fd());
                    self.start(
                        token,
                        InFlight::SyncDir {
                            _directory: directory,
                        },
                        |_| opcode::Fsync::new(fd).build(),
                    );
                }
                Err(error) => self.arrived.push(Completion {
                    token,
                    result: Err(error),
                }),
            },
            DiskOp::Fallocate { file, range } => {
                let fd = descriptor(&file);
                self.start(token, InFlight::Plain { _file: file }, |_| {
                    opcode::Fallocate::new(fd, range.end.saturating_sub(range.start))
                        .offset(range.start)
                        .build()
                });
            }
            DiskOp::Writeback { file, range } => {
                const SYNC_FILE_RANGE_WRITE: u32 = 2;
                let fd = descriptor(&file);
                let len = u32::try_from(range.end.saturating_sub(range.start)).unwrap_or(u32::MAX);
                self.start(token, InFlight::Plain { _file: file }, |_| {
                    opcode::SyncFileRange::new(fd, len)
                        .offset(range.start)
                        .flags(SYNC_FILE_RANGE_WRITE)
                        .build()
                });
            }
            other => {
                self.direct.submit(token, other);
                self.direct.take_completions(&mut self.arrived);
            }
        }
    }

    fn take_completions(&mut self, out: &mut Vec<Completion>) {
        out.append(&mut self.arrived);
    }

    fn write_now(
        &mut self,
        file: &FileHandle,
        position: u64,
        pieces: &[IoSlice<'_>],
    ) -> io::Result<WriteNow> {
        self.direct.write_now(file, position, pieces)
    }

    fn hot_bytes(&mut self, file: &FileHandle, range: Range<u64>) -> Option<HotBytes> {
        self.direct.hot_bytes(file, range)
    }

    fn lock_directory(&mut self, path: &Path) -> io::Result<DirectoryLock> {
        self.direct.lock_directory(path)
    }
}
