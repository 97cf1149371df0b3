//! [`Disk`] over the shard's ring.
//!
//! Owned by the shard's thread. Reads, writes, syncs, write-back, space reservation and unlinks go through
//! the ring; other names (open, create, list, rename) and reads from the device, which only
//! opening, rolling and recovery need, are done at once by [`StdDisk`]. Appends go through
//! `write_now`, which is `pwritev` on this thread. Reads through the page cache and early write-back, which
//! may have to wait for the device, begin on a worker of the kernel; large reads of what is not in the cache go
//! past it, since a worker that copies takes the time of the core that this thread runs on.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::ffi::CString;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use io_uring::{opcode, squeue, types};
use tidelog_segment_log::disk::std_disk::{StdDisk, open_for_cold_read};
use tidelog_segment_log::disk::{
    AlignedBytes, Completion, Descriptors, DirectoryLock, Disk, DiskOp, DiskOutput, FileHandle, HotBytes,
    Lease, ReadSource, Token, WriteNow,
};

use super::ring::{Kind, RawRing, Reaped, Tag};
use crate::metrics::{Counter, ShardCells};

mod operations;
#[cfg(test)]
mod tests;

use operations::{Held, InFlight, cached_read, direct_read, read_entry, writeback_entry};

/// A cold read of at least this goes past the page cache: it is worth opening the file once more.
const DIRECT_READ_MIN_BYTES: usize = 256 << 10;
/// Write-back of a file is started each time this much was appended.
const WRITEBACK_BYTES: u64 = 8 << 20;
/// Files whose appends are counted for that.
const UNSTARTED_FILES_MAX: usize = 4_096;
/// With more write-backs than this under way the disk does not keep up, and a write might block.
const WRITEBACKS_MAX: usize = 16;
/// Descriptors closed at a time when connections find none.
const DESCRIPTORS_FREED: usize = 16;
/// A commit that takes longer than this may hold locks that a write needs.
const COMMIT_LATE: Duration = Duration::from_millis(100);

struct Slot {
    generation: u32,
    operation: Option<(Token, InFlight)>,
}

/// A sync in the kernel.
struct Syncing {
    slot: u32,
    file_id: u64,
    since: Instant,
}

/// See the file's head.
pub(super) struct RingDisk {
    ring: Rc<RefCell<RawRing>>,
    direct: StdDisk,
    slots: Vec<Slot>,
    free: Vec<u32>,
    arrived: Vec<Completion>,
    in_flight: usize,
    /// When each sync in the kernel was submitted, oldest first (a sync that ends later than its
    /// successors keeps its place until then).
    syncs: VecDeque<Syncing>,
    /// Bytes appended to a file since its write-back was last started.
    unstarted: HashMap<u64, Range<u64>>,
    /// Early write-backs in the kernel.
    writebacks: usize,
    /// Keeps the descriptor of the write that was told to be submitted.
    stalled: Option<Lease>,
}

impl RingDisk {
    /// `hot_window_bytes`: how much of what was written last counts as resident.
    pub(super) fn new(ring: Rc<RefCell<RawRing>>, hot_window_bytes: u64, descriptors: Descriptors) -> Self {
        Self {
            ring,
            direct: StdDisk::with_descriptors(hot_window_bytes, descriptors),
            slots: Vec::new(),
            free: Vec::new(),
            arrived: Vec::new(),
            in_flight: 0,
            syncs: VecDeque::new(),
            unstarted: HashMap::new(),
            writebacks: 0,
            stalled: None,
        }
    }

    /// Tells what is open and mapped; once a second or so.
    pub(super) fn report(&mut self, metrics: &ShardCells) {
        let counts = self.direct.descriptors().counts();
        let maps = self.direct.hot_maps();
        metrics.descriptors_open.set(counts.open as i64);
        metrics.maps_open.set(maps.maps() as i64);
        let grown = |cell: &Counter, total: u64| cell.add(total.saturating_sub(cell.get()));
        grown(&metrics.descriptors_evicted, counts.evicted);
        grown(&metrics.descriptors_refused, counts.refused);
        grown(&metrics.maps_evicted, maps.maps_evicted());
        let oldest = self.syncs.front().map(|sync| sync.since.elapsed());
        let waiting_ms = oldest.map_or(0, |waiting| waiting.as_millis() as i64);
        metrics.sync_waiting_ms.set(waiting_ms);
    }

    /// Closes some descriptors that nobody uses, since others are wanted more.
    pub(super) fn make_room(&self) {
        self.direct.descriptors().make_room(DESCRIPTORS_FREED);
    }

    /// The file with its descriptor, or the operation ends here.
    fn hold(&mut self, token: Token, file: FileHandle) -> Option<Held> {
        match file.lease() {
            Ok(fd) => Some(Held { file, fd }),
            Err(error) => {
                let result = Err(error);
                self.arrived.push(Completion { token, result });
                None
            }
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

    fn start(&mut self, token: Token, operation: InFlight, entry: impl FnOnce(&InFlight) -> squeue::Entry) {
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
        if let InFlight::Sync { held, .. } = &operation {
            self.syncs.push_back(Syncing {
                slot,
                file_id: held.file.id(),
                since: Instant::now(),
            });
        }
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
        let Some((token, operation)) = place.operation.take() else {
            return;
        };
        place.generation = (place.generation + 1) & 0xff_ffff;
        self.free.push(slot);
        self.in_flight -= 1;
        match operation {
            InFlight::EarlyWriteback { .. } => {
                // Its failure is the next sync's to report.
                self.writebacks -= 1;
                return;
            }
            InFlight::Fallocate { held } => held.file.change_ended(),
            InFlight::Sync { .. } => self.syncs.retain(|sync| sync.slot != slot),
            _ => {}
        }
        self.arrived.push(Completion { token, result });
    }

    /// Whether a write might block: the disk does not keep up, a commit is late, or the file system lets none
    /// through while the file is synced.
    fn might_stall(&self, file: &FileHandle) -> bool {
        let late = self
            .syncs
            .front()
            .is_some_and(|sync| sync.since.elapsed() > COMMIT_LATE);
        let is_locked =
            || file.is_locked_by_sync() && self.syncs.iter().any(|sync| sync.file_id == file.id());
        late || self.writebacks > WRITEBACKS_MAX || is_locked()
    }

    /// Starts write-back of what was appended to a file, each [`WRITEBACK_BYTES`].
    fn start_writeback_early(&mut self, file: &FileHandle, written: Range<u64>) {
        if self.unstarted.len() >= UNSTARTED_FILES_MAX {
            // Forgetting only means that the kernel begins by itself.
            self.unstarted.clear();
        }
        let unstarted = self
            .unstarted
            .entry(file.id())
            .or_insert_with(|| written.start..written.start);
        unstarted.end = unstarted.end.max(written.end);
        if unstarted.end.saturating_sub(unstarted.start) < WRITEBACK_BYTES {
            return;
        }
        let range = unstarted.clone();
        self.unstarted.remove(&file.id());
        let Ok(fd) = file.lease() else { return };
        let held = Held {
            file: file.clone(),
            fd,
        };
        self.writebacks += 1;
        let entry = writeback_entry(&held, &range).flags(squeue::Flags::ASYNC);
        self.start(Token(0), InFlight::EarlyWriteback { _held: held }, |_| entry);
    }

    /// Removes a name on a worker of the kernel: the space of a large file is not freed in an instant.
    fn start_unlink(&mut self, token: Token, path: &Path) {
        let path = match CString::new(path.as_os_str().as_bytes()) {
            Ok(path) => path,
            Err(error) => {
                self.arrived.push(Completion {
                    token,
                    result: Err(error.into()),
                });
                return;
            }
        };
        // The text of a C string does not move with it.
        self.start(token, InFlight::Unlink { path }, |operation| match operation {
            InFlight::Unlink { path } => {
                opcode::UnlinkAt::new(types::Fd(rustix::fs::CWD.as_raw_fd()), path.as_ptr()).build()
            }
            _ => opcode::Nop::new().build(),
        });
    }

    /// A direct read brought less than it should: all of it is read again, through the page cache.
    fn read_through_cache(&mut self, tag: Tag) {
        let Some(place) = self.slots.get_mut(tag.slot as usize) else {
            return;
        };
        let Some((
            token,
            InFlight::DirectRead {
                held, position, len, ..
            },
        )) = place.operation.take()
        else {
            return;
        };
        let (entry, operation) = cached_read(held, position, len);
        place.operation = Some((token, operation));
        // SAFETY: as in `start`.
        let pushed = unsafe { self.ring.borrow_mut().push(entry, tag) };
        if let Err(error) = pushed {
            self.finish(tag.slot, Err(error));
        }
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
            (InFlight::Write { held, position, data }, Err(error)) => {
                held.file.write_ended();
                self.direct
                    .note_failed_write(&held.file, *position..*position + data.len() as u64);
                Err(error)
            }
            (InFlight::Sync { held, .. }, Err(error)) => {
                self.direct.note_failed_sync(&held.file);
                Err(error)
            }
            (InFlight::Sync { held, mark }, Ok(_)) => {
                held.file.synced(*mark);
                Ok(DiskOutput::Done)
            }
            // Refused, or out of luck: the page cache's own attempt tells.
            (InFlight::DirectRead { .. }, Err(_)) => return self.read_through_cache(reaped.tag),
            (_, Err(error)) => Err(error),
            (InFlight::Write { held, position, data }, Ok(written)) => {
                held.file.write_ended();
                if written == 0 && !data.is_empty() {
                    Err(io::Error::from(io::ErrorKind::WriteZero))
                } else {
                    self.direct
                        .note_written(&held.file, *position..*position + u64::from(written));
                    Ok(DiskOutput::Written(written as usize))
                }
            }
            (
                InFlight::Read {
                    held,
                    position,
                    buffer,
                    filled,
                },
                Ok(read),
            ) => {
                *filled += read as usize;
                if read > 0 && *filled < buffer.len() {
                    // A short read in the middle of a file: go on where it ended.
                    let next = read_entry(held, *position + *filled as u64, buffer, *filled);
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
            (InFlight::DirectRead { buffer, .. }, Ok(read)) => {
                let buffer = std::mem::replace(buffer, AlignedBytes::zeroed(0));
                if buffer.filled_by(read as usize) < buffer.len() {
                    return self.read_through_cache(reaped.tag);
                }
                Ok(DiskOutput::Read(buffer))
            }
            (_, Ok(_)) => Ok(DiskOutput::Done),
        };
        self.finish(slot, output);
    }
}

impl Disk for RingDisk {
    fn submit(&mut self, token: Token, op: DiskOp) {
        match op {
            DiskOp::Write { file, position, data } => {
                self.stalled = None;
                let Some(held) = self.hold(token, file) else {
                    return;
                };
                held.file.write_begun();
                let (fd, at, len) = (held.fd(), data.as_ptr(), data.len() as u32);
                self.start(token, InFlight::Write { held, position, data }, |_| {
                    opcode::Write::new(fd, at, len).offset(position).build()
                });
            }
            DiskOp::Read {
                file,
                position,
                len,
                source: ReadSource::Cached,
            } => {
                let range = position..position.saturating_add(len as u64);
                let Some(held) = self.hold(token, file) else {
                    return;
                };
                let direct = (len >= DIRECT_READ_MIN_BYTES)
                    .then(|| open_for_cold_read(&held.file, range))
                    .flatten();
                let (entry, operation) = match direct {
                    Some(direct) => direct_read(held, position, len, direct),
                    None => cached_read(held, position, len),
                };
                self.start(token, operation, |_| entry);
            }
            DiskOp::Sync { file } => {
                let Some(held) = self.hold(token, file) else {
                    return;
                };
                let (fd, mark) = (held.fd(), held.file.sync_mark());
                self.start(token, InFlight::Sync { held, mark }, |_| {
                    opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build()
                });
            }
            DiskOp::Unlink { path } => {
                // Were a map the last to hold the file, its space would be freed on this thread.
                self.direct.drop_closed();
                self.start_unlink(token, &path);
            }
            DiskOp::SyncDir { path } => {
                let opened = self.direct.descriptors().with_room(|| std::fs::File::open(&path));
                match opened {
                    Ok(directory) => {
                        let directory = OwnedFd::from(directory);
                        let fd = types::Fd(directory.as_raw_fd());
                        let operation = InFlight::SyncDir {
                            _directory: directory,
                        };
                        self.start(token, operation, |_| opcode::Fsync::new(fd).build());
                    }
                    Err(error) => self.arrived.push(Completion {
                        token,
                        result: Err(error),
                    }),
                }
            }
            DiskOp::Fallocate { file, range } => {
                let Some(held) = self.hold(token, file) else {
                    return;
                };
                held.file.change_begun();
                let fd = held.fd();
                self.start(token, InFlight::Fallocate { held }, |_| {
                    opcode::Fallocate::new(fd, range.end.saturating_sub(range.start))
                        .offset(range.start)
                        .build()
                });
            }
            DiskOp::Writeback { file, range } => {
                let Some(held) = self.hold(token, file) else {
                    return;
                };
                let entry = writeback_entry(&held, &range);
                self.start(token, InFlight::Writeback { _held: held }, |_| entry);
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
        if self.might_stall(file) {
            self.stalled = Some(file.lease()?);
            return Ok(WriteNow::WouldStall);
        }
        let written = self.direct.write_now(file, position, pieces)?;
        let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        self.start_writeback_early(file, position..position + bytes as u64);
        Ok(written)
    }

    fn hot_bytes(&mut self, file: &FileHandle, range: Range<u64>) -> Option<HotBytes> {
        self.direct.hot_bytes(file, range)
    }

    fn lock_directory(&mut self, path: &Path) -> io::Result<DirectoryLock> {
        self.direct.lock_directory(path)
    }
}
