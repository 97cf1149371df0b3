//! [`Disk`] over the shard's ring.
//!
//! Owned by the shard's thread. Reads, writes, syncs, write-back and space reservation go through
//! the ring; names (open, create, list, rename, unlink) and reads from the device, which only
//! opening, rolling and recovery need, are done at once by [`StdDisk`]. Appends go through
//! `write_now`, which is `pwritev` on this thread. Reads and early write-back, which may have to wait
//! for the device, begin on a worker of the kernel.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use io_uring::{opcode, types};
use tidelog_segment_log::disk::std_disk::StdDisk;
use tidelog_segment_log::disk::{
    AlignedBytes, Completion, DirectoryLock, Disk, DiskOp, DiskOutput, FileHandle, HotBytes, ReadSource,
    Token, WriteNow,
};

use super::ring::{Kind, RawRing, Reaped, Tag};

/// Write-back of a file is started each time this much was appended.
const WRITEBACK_BYTES: u64 = 8 << 20;
/// Files whose appends are counted for that.
const UNSTARTED_FILES_MAX: usize = 4_096;
/// With more write-backs than this under way the disk does not keep up, and a write might block.
const WRITEBACKS_MAX: usize = 16;
/// A commit that takes longer than this may hold locks that a write needs.
const COMMIT_LATE: Duration = Duration::from_millis(100);

/// An operation in the kernel; it owns what the kernel reads or writes.
enum InFlight {
    Write {
        file: FileHandle,
        position: u64,
        data: Bytes,
    },
    Read {
        file: FileHandle,
        position: u64,
        buffer: AlignedBytes,
        filled: usize,
    },
    Sync {
        file: FileHandle,
    },
    SyncDir {
        _directory: OwnedFd,
    },
    Plain {
        _file: FileHandle,
    },
    /// Started by this disk itself; nobody waits for it.
    EarlyWriteback {
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
    /// When each sync in the kernel was submitted, oldest first (a sync that ends later than its
    /// successors keeps its place until then).
    syncs: VecDeque<(u32, Instant)>,
    /// Bytes appended to a file since its write-back was last started.
    unstarted: HashMap<u64, Range<u64>>,
    /// Early write-backs in the kernel.
    writebacks: usize,
}

impl RingDisk {
    /// `hot_window_bytes`: how much of what was written last counts as resident.
    pub(super) fn new(ring: Rc<RefCell<RawRing>>, hot_window_bytes: u64) -> Self {
        Self {
            ring,
            direct: StdDisk::with_hot_window(hot_window_bytes),
            slots: Vec::new(),
            free: Vec::new(),
            arrived: Vec::new(),
            in_flight: 0,
            syncs: VecDeque::new(),
            unstarted: HashMap::new(),
            writebacks: 0,
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
        if matches!(operation, InFlight::Sync { .. }) {
            self.syncs.push_back((slot, Instant::now()));
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
            InFlight::Sync { .. } => self.syncs.retain(|(sync, _)| *sync != slot),
            _ => {}
        }
        self.arrived.push(Completion { token, result });
    }

    /// Whether a write might block: the disk does not keep up, or a commit is late.
    fn might_stall(&self) -> bool {
        let late = self
            .syncs
            .front()
            .is_some_and(|(_, since)| since.elapsed() > COMMIT_LATE);
        late || self.writebacks > WRITEBACKS_MAX
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
        self.writebacks += 1;
        let entry = writeback_entry(file, &range).flags(io_uring::squeue::Flags::ASYNC);
        let file = file.clone();
        self.start(Token(0), InFlight::EarlyWriteback { _file: file }, |_| entry);
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
            (InFlight::Write { file, position, data }, Err(error)) => {
                self.direct
                    .note_failed_write(file, *position..*position + data.len() as u64);
                Err(error)
            }
            (InFlight::Sync { file }, Err(error)) => {
                self.direct.note_failed_sync(file);
                Err(error)
            }
            (_, Err(error)) => Err(error),
            (InFlight::Write { file, position, data }, Ok(written)) => {
                if written == 0 && !data.is_empty() {
                    Err(io::Error::from(io::ErrorKind::WriteZero))
                } else {
                    self.direct
                        .note_written(file, *position..*position + u64::from(written));
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
            (_, Ok(_)) => Ok(DiskOutput::Done),
        };
        self.finish(slot, output);
    }
}

fn descriptor(file: &FileHandle) -> types::Fd {
    types::Fd(file.fd().map_or(-1, AsRawFd::as_raw_fd))
}

fn writeback_entry(file: &FileHandle, range: &Range<u64>) -> io_uring::squeue::Entry {
    const SYNC_FILE_RANGE_WRITE: u32 = 2;
    let len = u32::try_from(range.end.saturating_sub(range.start)).unwrap_or(u32::MAX);
    opcode::SyncFileRange::new(descriptor(file), len)
        .offset(range.start)
        .flags(SYNC_FILE_RANGE_WRITE)
        .build()
}

fn read_entry(
    file: &FileHandle,
    position: u64,
    buffer: &mut AlignedBytes,
    filled: usize,
) -> io_uring::squeue::Entry {
    let rest = buffer.get_mut(filled..).unwrap_or(&mut []);
    // On a worker of the kernel: else submitting starts the read-ahead, and copies what is there, on this thread,
    // which meanwhile answers nobody.
    opcode::Read::new(descriptor(file), rest.as_mut_ptr(), rest.len() as u32)
        .offset(position)
        .build()
        .flags(io_uring::squeue::Flags::ASYNC)
}

impl Disk for RingDisk {
    fn submit(&mut self, token: Token, op: DiskOp) {
        match op {
            DiskOp::Write { file, position, data } => {
                let fd = descriptor(&file);
                let (at, len) = (data.as_ptr(), data.len() as u32);
                self.start(token, InFlight::Write { file, position, data }, |_| {
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
                self.start(token, InFlight::Sync { file }, |_| {
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
                let entry = writeback_entry(&file, &range);
                self.start(token, InFlight::Plain { _file: file }, |_| entry);
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
        if self.might_stall() {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What the calling thread itself made the device read; a worker of the kernel is another thread.
    fn own_read_bytes() -> u64 {
        let counters = std::fs::read_to_string("/proc/thread-self/io").unwrap();
        let line = counters
            .lines()
            .find_map(|line| line.strip_prefix("read_bytes: "));
        line.unwrap().parse().unwrap()
    }

    #[test]
    fn a_cold_read_waits_for_the_device_on_another_thread() {
        const BYTES: usize = 1 << 20;
        // Not a temporary file system, which would keep its pages.
        let program = std::env::current_exe().unwrap();
        let dir = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
        let path = dir.path().join("cold");
        let written: Vec<u8> = (0..BYTES).map(|at| (at / 4096) as u8).collect();
        std::fs::write(&path, &written).unwrap();
        let plain = std::fs::File::open(&path).unwrap();
        plain.sync_all().unwrap();
        let drop_pages = || rustix::fs::fadvise(&plain, 0, None, rustix::fs::Advice::DontNeed).unwrap();

        drop_pages();
        let before = own_read_bytes();
        std::fs::read(&path).unwrap();
        assert!(
            own_read_bytes() - before >= BYTES as u64,
            "the counter sees a read on this thread"
        );

        drop_pages();
        let ring = Rc::new(RefCell::new(RawRing::new().unwrap()));
        let mut disk = RingDisk::new(Rc::clone(&ring), 0);
        let before = own_read_bytes();
        let file = FileHandle::from_fd(1, path, plain.try_clone().unwrap().into());
        let op = DiskOp::Read {
            file,
            position: 8,
            len: BYTES - 8,
            source: ReadSource::Cached,
        };
        disk.submit(Token(7), op);
        let (mut reaped, mut done) = (Vec::new(), Vec::new());
        while done.is_empty() {
            ring.borrow_mut()
                .sleep_and_reap(Duration::from_secs(1), &mut reaped)
                .unwrap();
            reaped.drain(..).for_each(|one| disk.on_reaped(one));
            disk.take_completions(&mut done);
        }
        let completion = done.pop().unwrap();
        assert_eq!(completion.token, Token(7));
        match completion.result {
            Ok(DiskOutput::Read(bytes)) => assert!(*bytes == written[8..]),
            other => panic!("{other:?}"),
        }
        assert_eq!(own_read_bytes(), before, "this thread read nothing itself");
    }
}
