//! The sockets of one shard and their sending side: what is queued is gathered into sends.
//!
//! Owned by the shard's thread. At most one receive and one send per socket are in the kernel.
//! Closing order: stop reading, cancel, shutdown, wait for the last completion of every operation,
//! release the buffers, close, free the slot. A slot's generation is in each `user_data`.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use io_uring::{opcode, squeue, types};
use tidelog_segment_log::disk::HotBytes;

use super::Machine;
use super::arena::Arena;
use super::inbound::Inbound;
use super::provided::ProvidedBuffers;
use super::ring::{Kind, RawRing, Tag};
use super::socket_memory::{LARGE_SEND_BYTES, SocketMemory};
use crate::shard::{Charge, ReceivePool, Response, SendPart, SocketId};

/// Answers that a client has not taken; beyond it no request of it is read.
const QUEUED_BYTES_MAX: usize = 1 << 20;
/// MSG_NOSIGNAL and MSG_WAITALL: a broken connection is an error, and a send ends when all is out.
const SEND_FLAGS: i32 = 0x4000 | 0x100;
/// The kernel takes at most this many pieces per call (UIO_MAXIOV).
const IOVECS_MAX: usize = 1024;
/// Runs of parts smaller than this are copied into one.
const GATHER_MIN_BYTES: usize = 2048;
/// Several parts that together take no more than this are copied into one, without looking further.
const SMALL_SEND_BYTES: usize = 4096;
/// The most that one gathered send covers.
const SEND_MAX_BYTES: usize = 1 << 20;

/// What is in the kernel for a send: for several pieces a header and where they are, and what was copied.
/// Held for the kernel; nobody else reads it.
#[derive(Default)]
struct Outgoing {
    _header: Option<Box<libc_msghdr::MessageHeader>>,
    _iovecs: Vec<libc_msghdr::IoVec>,
    _copied: Vec<u8>,
    /// What was reserved for `copied`.
    reserved_bytes: usize,
}

/// The two C structures of sendmsg, as the kernel's x86-64 and aarch64 ABI has them.
mod libc_msghdr {
    #[repr(C)]
    pub(super) struct IoVec {
        pub base: *const u8,
        pub len: usize,
    }
    #[repr(C)]
    pub(super) struct MessageHeader {
        pub name: *const u8,
        pub name_len: u32,
        pub iov: *const IoVec,
        pub iov_len: usize,
        pub control: *const u8,
        pub control_len: usize,
        pub flags: i32,
    }
}

pub(super) struct Socket {
    fd: OwnedFd,
    generation: u32,
    memory: SocketMemory,
    pub(super) inbound: Inbound,
    /// Stands in the reactor's list of those to receive again.
    pub(super) wants_receive: bool,
    out: VecDeque<Response>,
    /// Bytes of `out` that are not sent.
    queued_bytes: usize,
    sending: Option<Outgoing>,
    closing: bool,
    close_after_send: bool,
}

#[derive(Default)]
pub(super) struct Sockets {
    slots: Vec<(u32, Option<Socket>)>,
    free: Vec<u32>,
    open: usize,
}

impl Sockets {
    pub(super) fn open_count(&self) -> usize {
        self.open
    }

    pub(super) fn insert(&mut self, fd: OwnedFd, memory: SocketMemory, now_ms: u64) -> SocketId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            (self.slots.len() - 1) as u32
        });
        let place = &mut self.slots[slot as usize];
        let generation = place.0;
        place.1 = Some(Socket {
            fd,
            generation,
            memory,
            inbound: Inbound::new(now_ms),
            wants_receive: false,
            out: VecDeque::new(),
            queued_bytes: 0,
            sending: None,
            closing: false,
            close_after_send: false,
        });
        self.open += 1;
        SocketId { slot, generation }
    }

    pub(super) fn get(&mut self, id: SocketId) -> Option<&mut Socket> {
        let (generation, socket) = self.slots.get_mut(id.slot as usize)?;
        if *generation == id.generation {
            socket.as_mut()
        } else {
            None
        }
    }

    /// Frees the slot of a socket that is closing and has nothing left in the kernel, and answers its receiving
    /// side and its buffers in the kernel, whose memory is to be given back.
    pub(super) fn release_if_quiet(&mut self, id: SocketId) -> Option<(Inbound, SocketMemory)> {
        let quiet = self.get(id).is_some_and(|socket| {
            socket.closing && !socket.inbound.is_receiving() && socket.sending.is_none()
        });
        let (generation, socket) = self.slots.get_mut(id.slot as usize).filter(|_| quiet)?;
        let released = socket.take()?;
        *generation = (*generation + 1) & 0xff_ffff;
        self.free.push(id.slot);
        self.open -= 1;
        Some((released.inbound, released.memory))
    }

    /// Slots, used or not.
    pub(super) fn slot_count(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn ids(&self) -> Vec<SocketId> {
        self.ids_in(0..self.slots.len())
    }

    /// Those in some of the slots.
    pub(super) fn ids_in(&self, slots: Range<usize>) -> Vec<SocketId> {
        let count = slots.len();
        self.slots
            .iter()
            .enumerate()
            .skip(slots.start)
            .take(count)
            .filter(|(_, (_, socket))| socket.is_some())
            .map(|(slot, (generation, _))| SocketId {
                slot: slot as u32,
                generation: *generation,
            })
            .collect()
    }
}

impl Socket {
    /// Starts a receive if none is in the kernel. False: there is no memory for it now.
    pub(super) fn receive(
        &mut self,
        slot: u32,
        ring: &mut RawRing,
        provided: &ProvidedBuffers,
        arena: &mut Arena,
        pool: &mut impl ReceivePool,
    ) -> io::Result<bool> {
        if self.closing {
            return Ok(true);
        }
        let tag = Tag {
            kind: Kind::Receive,
            generation: self.generation,
            slot,
        };
        self.inbound
            .receive(self.fd.as_raw_fd(), tag, ring, provided, arena, pool)
    }

    /// Cancels the receive of a connection that sends nothing, so that its buffer can be used by others.
    pub(super) fn demote(&mut self, slot: u32, ring: &mut RawRing) -> io::Result<()> {
        self.inbound.demote();
        self.cancel(Kind::Receive, slot, ring)
    }

    /// Whether so much waits for the client that a large send buffer helps.
    pub(super) fn has_much_to_send(&self) -> bool {
        self.queued_bytes >= LARGE_SEND_BYTES
    }

    /// The connection receives large frames.
    pub(super) fn enlarge_receive(&mut self, machine: &mut impl Machine) {
        self.memory.enlarge_receive(self.fd.as_fd(), machine);
    }

    /// The connection is sent large answers.
    pub(super) fn enlarge_send(&mut self, machine: &mut impl Machine) {
        self.memory.enlarge_send(self.fd.as_fd(), machine);
    }

    /// Once per look: buffers in the kernel that are not needed any more become small.
    pub(super) fn look_at_memory(&mut self, is_receiving_much: bool, machine: &mut impl Machine) {
        let is_sending = !self.out.is_empty();
        self.memory
            .look(self.fd.as_fd(), is_receiving_much, is_sending, machine);
    }

    fn cancel(&self, kind: Kind, slot: u32, ring: &mut RawRing) -> io::Result<()> {
        let (generation, target) = (
            self.generation,
            Tag {
                kind,
                generation: self.generation,
                slot,
            },
        );
        let tag = Tag {
            kind: Kind::Cancel,
            generation,
            slot,
        };
        // SAFETY: a cancel points to nothing.
        unsafe { ring.push(opcode::AsyncCancel::new(target.encode()).build(), tag) }
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing
    }

    pub(super) fn queue(&mut self, response: Response) {
        self.queued_bytes += response
            .parts
            .iter()
            .map(|part| part.bytes().len())
            .sum::<usize>();
        self.out.push_back(response);
    }

    /// Whether the client takes its answers slower than it asks: nothing more is read from it meanwhile.
    pub(super) fn is_behind(&self) -> bool {
        self.queued_bytes > QUEUED_BYTES_MAX
    }

    pub(super) fn close_when_sent(&mut self) {
        self.close_after_send = true;
    }

    /// Starts a send of what is queued, if none is in the kernel. Runs of small parts are copied into one piece,
    /// for which `reserve` grants memory (or not: then they are sent as they are).
    pub(super) fn send(
        &mut self,
        slot: u32,
        ring: &mut RawRing,
        reserve: impl FnOnce(usize) -> bool,
    ) -> io::Result<()> {
        if self.sending.is_some() || self.closing || self.out.is_empty() {
            return Ok(());
        }
        let mut parts = self
            .out
            .iter()
            .flat_map(|response| response.parts.iter())
            .map(SendPart::bytes)
            .filter(|bytes| !bytes.is_empty());
        let mut rest = parts.clone();
        let (first, is_one) = (rest.next().unwrap_or_default(), rest.next().is_none());
        let is_resident = self.is_resident();
        let (mut entry, outgoing) = if is_one {
            let first = first.get(..SEND_MAX_BYTES).unwrap_or(first);
            (self.entry_of_one(first), Outgoing::default())
        } else if !is_resident {
            // Nothing is copied here: that would wait for the device.
            self.entry_of_many(parts, |_| false)
        } else if self.queued_bytes <= SMALL_SEND_BYTES {
            if reserve(self.queued_bytes) {
                let mut copied = Vec::with_capacity(self.queued_bytes);
                parts.for_each(|bytes| copied.extend_from_slice(bytes));
                let entry = self.entry_of_one(&copied);
                let reserved_bytes = self.queued_bytes;
                let outgoing = Outgoing {
                    _copied: copied,
                    reserved_bytes,
                    ..Outgoing::default()
                };
                (entry, outgoing)
            } else {
                self.entry_of_many(parts, |_| false)
            }
        } else {
            self.entry_of_many(parts.by_ref(), reserve)
        };
        if !is_resident {
            entry = entry.flags(squeue::Flags::ASYNC);
        }
        let tag = Tag {
            kind: Kind::Send,
            generation: self.generation,
            slot,
        };
        // SAFETY: header, iovecs and copies are on the heap and owned by `outgoing`, then by `sending` until the
        // completion; the parts they point to stay in `out` until `sent` advances past them.
        unsafe { ring.push(entry, tag)? };
        self.sending = Some(outgoing);
        Ok(())
    }

    fn entry_of_one(&self, bytes: &[u8]) -> squeue::Entry {
        opcode::Send::new(types::Fd(self.fd.as_raw_fd()), bytes.as_ptr(), bytes.len() as u32)
            .flags(SEND_FLAGS)
            .build()
    }

    fn entry_of_many<'a>(
        &self,
        parts: impl Iterator<Item = &'a [u8]>,
        reserve: impl FnOnce(usize) -> bool,
    ) -> (squeue::Entry, Outgoing) {
        let (pieces, copy_bytes) = gather(parts);
        let copy = copy_bytes > 0 && reserve(copy_bytes);
        let mut copied = Vec::with_capacity(if copy { copy_bytes } else { 0 });
        let mut iovecs = Vec::with_capacity(pieces.len());
        let mut add = |bytes: &[u8]| {
            if iovecs.len() < IOVECS_MAX {
                iovecs.push(libc_msghdr::IoVec {
                    base: bytes.as_ptr(),
                    len: bytes.len(),
                });
            }
        };
        for piece in &pieces {
            match piece {
                Piece::Whole(bytes) => add(bytes),
                Piece::Run(run) if copy => {
                    let start = copied.len();
                    run.iter().for_each(|bytes| copied.extend_from_slice(bytes));
                    // The capacity was reserved for all runs, so the address holds.
                    add(copied.get(start..).unwrap_or_default());
                }
                Piece::Run(run) => run.iter().for_each(|bytes| add(bytes)),
            }
        }
        let header = Box::new(libc_msghdr::MessageHeader {
            name: std::ptr::null(),
            name_len: 0,
            iov: iovecs.as_ptr(),
            iov_len: iovecs.len(),
            control: std::ptr::null(),
            control_len: 0,
            flags: 0,
        });
        let entry = opcode::SendMsg::new(types::Fd(self.fd.as_raw_fd()), (&raw const *header).cast())
            .flags(SEND_FLAGS as u32)
            .build();
        let outgoing = Outgoing {
            _header: Some(header),
            _iovecs: iovecs,
            _copied: copied,
            reserved_bytes: if copy { copy_bytes } else { 0 },
        };
        (entry, outgoing)
    }

    /// Whether the pages of the log that the next send reads are in memory: they were when the answer was made,
    /// but a client may take its time. If not, a worker of the kernel is to wait for the device.
    fn is_resident(&self) -> bool {
        let mut bytes = 0;
        let parts = self.out.iter().flat_map(|response| response.parts.iter());
        let next = parts.take_while(|part| {
            let is_next = bytes < SEND_MAX_BYTES;
            bytes += part.bytes().len();
            is_next
        });
        HotBytes::are_resident(next.filter_map(SendPart::log_bytes))
    }

    /// Memory reserved for the copies of the send in the kernel.
    pub(super) fn send_reserved_bytes(&self) -> usize {
        self.sending
            .as_ref()
            .map_or(0, |outgoing| outgoing.reserved_bytes)
    }

    /// A send ended with `sent` bytes: releases what is wholly out, into `finished`.
    pub(super) fn sent(&mut self, mut sent: usize, finished: &mut Vec<Charge>) {
        self.queued_bytes = self.queued_bytes.saturating_sub(sent);
        self.sending = None;
        while let Some(response) = self.out.front_mut() {
            let Some(rest) = response.parts.advance(sent) else {
                return;
            };
            sent = rest;
            finished.push(response.charge);
            self.out.pop_front();
        }
    }

    pub(super) fn send_failed(&mut self) {
        self.sending = None;
    }

    /// Whether everything queued is out and the socket was to be closed then.
    pub(super) fn wants_close(&self) -> bool {
        self.close_after_send && self.out.is_empty() && self.sending.is_none()
    }

    /// Charges of responses that will never be sent.
    pub(super) fn drain_charges(&mut self, finished: &mut Vec<Charge>) {
        finished.extend(self.out.iter().map(|response| response.charge));
    }

    /// First steps of closing: stop reading, cancel what is in the kernel, shut down.
    pub(super) fn begin_close(&mut self, slot: u32, ring: &mut RawRing) -> io::Result<()> {
        if self.closing {
            return Ok(());
        }
        self.closing = true;
        for (active, kind) in [
            (self.inbound.is_receiving(), Kind::Receive),
            (self.sending.is_some(), Kind::Send),
        ] {
            if active {
                self.cancel(kind, slot, ring)?;
            }
        }
        // Fails when the peer is gone already, which is the state wanted.
        let _ = rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Both);
        Ok(())
    }
}

/// What one send takes: large parts as they are, and runs of small ones.
enum Piece<'a> {
    Whole(&'a [u8]),
    Run(Vec<&'a [u8]>),
}

/// Cuts what is queued into pieces, up to [`SEND_MAX_BYTES`], and says how much copying the runs would take.
fn gather<'a>(parts: impl Iterator<Item = &'a [u8]>) -> (Vec<Piece<'a>>, usize) {
    let mut pieces: Vec<Piece<'a>> = Vec::new();
    let (mut total, mut copy_bytes) = (0, 0);
    for bytes in parts {
        if total >= SEND_MAX_BYTES || pieces.len() == IOVECS_MAX {
            break;
        }
        total += bytes.len();
        match pieces.last_mut() {
            Some(Piece::Run(run)) if bytes.len() < GATHER_MIN_BYTES => {
                copy_bytes += bytes.len()
                    + if run.len() == 1 {
                        run.iter().map(|first| first.len()).sum()
                    } else {
                        0
                    };
                run.push(bytes);
            }
            _ if bytes.len() < GATHER_MIN_BYTES => pieces.push(Piece::Run(vec![bytes])),
            _ => pieces.push(Piece::Whole(bytes)),
        }
    }
    for piece in &mut pieces {
        if let Piece::Run(run) = piece
            && let [only] = run.as_slice()
        {
            *piece = Piece::Whole(only);
        }
    }
    (pieces, copy_bytes)
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use bytes::Bytes;
    use tidelog_segment_log::disk::std_disk::StdDisk;
    use tidelog_segment_log::disk::{Disk, DiskOp, DiskOutput, FileHandle, Token};

    use super::*;
    use crate::shard::Parts;

    #[test]
    fn small_parts_next_to_each_other_become_one_piece() {
        let (small, large) = (vec![1; 100], vec![2; GATHER_MIN_BYTES]);
        let parts = [
            &small, &small, &large, &small, &large, &large, &small, &small, &small,
        ];
        let (pieces, copy_bytes) = gather(parts.iter().map(|part| part.as_slice()));
        let shape: Vec<usize> = pieces
            .iter()
            .map(|piece| match piece {
                Piece::Whole(_) => 1,
                Piece::Run(run) => run.len(),
            })
            .collect();
        assert_eq!(shape, [2, 1, 1, 1, 1, 3], "a lone small part is sent as it is");
        assert_eq!(copy_bytes, 500);
    }

    /// A log's bytes in a file on the disk that holds the build: a temporary file system keeps its pages.
    fn log_bytes(dir: &std::path::Path, disk: &mut StdDisk, byte: u8) -> (FileHandle, HotBytes) {
        let path = dir.join(byte.to_string());
        let file = match one(disk, DiskOp::Create { path }) {
            DiskOutput::File(file) => file,
            other => panic!("{other:?}"),
        };
        let bytes = vec![byte; 256 << 10];
        disk.write_now(&file, 0, &[IoSlice::new(&bytes)]).unwrap();
        let lease = disk
            .hot_bytes(&file, 0..bytes.len() as u64)
            .expect("just written");
        (file, lease)
    }

    fn one(disk: &mut StdDisk, op: DiskOp) -> DiskOutput {
        let mut done = Vec::new();
        disk.submit(Token(0), op);
        disk.take_completions(&mut done);
        done.pop().expect("a plain disk is done at once").result.unwrap()
    }

    #[test]
    fn a_send_knows_whether_its_pages_are_still_there() {
        let program = std::env::current_exe().unwrap();
        let dir = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
        let mut disk = StdDisk::new();
        let (_kept, first) = log_bytes(dir.path(), &mut disk, 1);
        let (gone, second) = log_bytes(dir.path(), &mut disk, 2);
        let (near, _far) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut sockets = Sockets::default();
        let id = sockets.insert(near.into(), SocketMemory::unset(), 0);
        let socket = sockets.get(id).unwrap();
        assert!(socket.is_resident(), "nothing to send");
        socket.queue(Response {
            parts: Parts::Many(VecDeque::from([
                SendPart::Bytes(Bytes::from_static(b"head")),
                SendPart::Log(first, 100),
                SendPart::Log(second, 0),
            ])),
            charge: Charge::default(),
        });
        assert!(socket.is_resident());

        // The client took its time, and the kernel took the pages.
        one(&mut disk, DiskOp::Sync { file: gone.clone() });
        one(&mut disk, DiskOp::DropCache { file: gone });
        assert!(!socket.is_resident());
    }

    /// Faults of the calling thread that waited for the device.
    fn own_major_faults() -> u64 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        fields.split_ascii_whitespace().nth(9).unwrap().parse().unwrap()
    }

    #[test]
    fn a_send_of_what_is_gone_takes_no_fault_on_this_thread() {
        let program = std::env::current_exe().unwrap();
        let dir = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
        let mut disk = StdDisk::new();
        let (file, lease) = log_bytes(dir.path(), &mut disk, 7);
        let (near, mut far) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut sockets = Sockets::default();
        let id = sockets.insert(near.into(), SocketMemory::unset(), 0);
        let socket = sockets.get(id).unwrap();
        let small = |from: usize| SendPart::Log(lease.slice(from..from + 100), 0);
        // Small and far from each other: otherwise they are copied together, which touches them.
        let parts = VecDeque::from([small(0), small(100 << 10), small(200 << 10)]);
        socket.queue(Response {
            parts: Parts::Many(parts),
            charge: Charge::default(),
        });
        one(&mut disk, DiskOp::Sync { file: file.clone() });
        one(&mut disk, DiskOp::DropCache { file });

        let mut ring = RawRing::new().unwrap();
        let before = own_major_faults();
        socket.send(id.slot, &mut ring, |_| true).unwrap();
        let (mut reaped, mut received) = (Vec::new(), [0; 300]);
        ring.enter_and_reap(&mut reaped).unwrap();
        std::io::Read::read_exact(&mut far, &mut received).unwrap();
        assert_eq!(own_major_faults(), before, "a worker of the kernel waited");
        assert_eq!(received, [7; 300]);
        while reaped.is_empty() {
            ring.sleep_and_reap(std::time::Duration::from_secs(1), &mut reaped)
                .unwrap();
        }

        // What the test would see if this thread touched the map.
        let (file, lease) = log_bytes(dir.path(), &mut disk, 8);
        one(&mut disk, DiskOp::Sync { file: file.clone() });
        one(&mut disk, DiskOp::DropCache { file });
        assert_eq!(lease[0], 8);
        assert!(own_major_faults() > before, "the counter sees a fault");
    }

    #[test]
    fn a_send_is_bounded() {
        let part = vec![0; 100_000];
        let (pieces, copy_bytes) = gather(std::iter::repeat_n(part.as_slice(), 1_000));
        assert_eq!((pieces.len(), copy_bytes), (SEND_MAX_BYTES.div_ceil(100_000), 0));
    }
}
