//! The receiving side of one socket: bytes come in, whole frames go out.
//!
//! A quiet connection holds nothing: its receive takes a buffer of the shard's ring when bytes come, they are
//! copied into a piece of their own size, and frames are slices of that. A frame that is begun and not whole is
//! received on into one buffer of the arena that holds all of it. A connection whose frames are large keeps a
//! buffer that takes several of them and is used again in place once they are dropped; without traffic it loses it.
//!
//! Charges: a piece is charged byte by byte, and its frames take their part with them; a buffer is charged whole,
//! and its frames nothing.

use std::io;
use std::os::fd::RawFd;

use bytes::{Bytes, BytesMut};
use io_uring::{opcode, squeue, types};
use tidelog_net::frame::{self, FrameError};

use super::arena::{Arena, ArenaBuffer, CLASS_MAX_BYTES};
use super::provided::{GROUP, ProvidedBuffers};
use super::ring::{RawRing, Reaped, Tag};
use crate::shard::ReceivePool;

/// Frames larger than this have their connection keep a buffer.
const BULK_FRAME_MIN_BYTES: usize = 16 << 10;
/// What such a buffer has at least.
const BULK_BUFFER_MIN_BYTES: usize = 256 << 10;
/// A frame that was begun holds memory: without progress for this long its connection is closed.
const FRAME_STALL_MS: u64 = 30_000;
/// A connection that received nothing for this long keeps no buffer.
const BULK_IDLE_MS: u64 = 1_000;
/// The kernel is to wait for bytes before it tries (io_uring's flag of a receive).
const RECEIVE_POLL_FIRST: u16 = 1;

/// What [`Inbound::next_frame`] found.
pub(super) enum Next {
    /// A whole frame, its size prefix taken off, and what is charged for it alone.
    Frame(Bytes, usize),
    /// More must be received.
    Incomplete,
    /// The pool could never hold a frame of this size.
    TooLarge(usize),
    /// It is no frame.
    Bad(FrameError),
}

enum Holding {
    Nothing,
    /// Received through the ring of provided buffers, and charged its length.
    Piece(BytesMut),
    /// Received into directly.
    Buffer(ArenaBuffer),
}

/// See the file's head.
pub(super) struct Inbound {
    holding: Holding,
    /// Size with prefix of the frame whose first bytes are held, once its prefix has come.
    frame_bytes: Option<usize>,
    /// Size of the last frame.
    last_frame_bytes: usize,
    receiving: bool,
    /// A provided buffer for whose bytes the pool has no room, and how many they are.
    held: Option<(u16, usize)>,
    /// The kernel said that more bytes wait.
    more_waits: bool,
    /// A receive was cancelled only to take its buffer away.
    is_demoted: bool,
    received_ms: u64,
}

impl Inbound {
    pub(super) fn new(now_ms: u64) -> Self {
        Self {
            holding: Holding::Nothing,
            frame_bytes: None,
            last_frame_bytes: 0,
            receiving: false,
            held: None,
            more_waits: false,
            is_demoted: false,
            received_ms: now_ms,
        }
    }

    /// Whether a receive is in the kernel, which then owns the buffer.
    pub(super) fn is_receiving(&self) -> bool {
        self.receiving
    }

    /// Bytes that came and are no whole frame yet.
    fn len(&self) -> usize {
        match &self.holding {
            Holding::Nothing => 0,
            Holding::Piece(piece) => piece.len(),
            Holding::Buffer(buffer) => buffer.bytes.len(),
        }
    }

    /// Whether a frame was begun and nothing more of it came for [`FRAME_STALL_MS`].
    pub(super) fn is_stalled(&self, now_ms: u64) -> bool {
        let begun = self.len() > 0 || self.held.is_some();
        begun && self.receiving && now_ms.saturating_sub(self.received_ms) > FRAME_STALL_MS
    }

    /// Whether an empty buffer is kept in the kernel for a connection that sends nothing.
    pub(super) fn is_bulk_and_idle(&self, now_ms: u64) -> bool {
        let keeps = matches!(&self.holding, Holding::Buffer(buffer) if buffer.bytes.is_empty());
        keeps && self.receiving && now_ms.saturating_sub(self.received_ms) > BULK_IDLE_MS
    }

    /// Whether it keeps a buffer for large frames.
    pub(super) fn is_bulk(&self) -> bool {
        matches!(&self.holding, Holding::Buffer(buffer) if buffer.size_bytes() >= BULK_BUFFER_MIN_BYTES)
    }

    /// The receive was cancelled to take its buffer away: its end does not end the connection.
    pub(super) fn demote(&mut self) {
        self.is_demoted = true;
    }

    /// A receive ended with bytes.
    pub(super) fn received(
        &mut self,
        len: usize,
        reaped: &Reaped,
        provided: &mut ProvidedBuffers,
        now_ms: u64,
    ) {
        self.receiving = false;
        self.is_demoted = false;
        self.received_ms = now_ms;
        self.more_waits = reaped.more_waits();
        match (reaped.buffer(), &mut self.holding) {
            (Some(id), _) => {
                assert!(self.held.is_none(), "one receive per connection");
                provided.hold();
                self.held = Some((id, len));
            }
            (None, Holding::Buffer(buffer)) => {
                assert!(
                    len <= buffer.spare_bytes(),
                    "the kernel wrote more than it was given"
                );
                // SAFETY: the kernel filled `len` bytes behind the old length.
                unsafe { buffer.bytes.set_len(buffer.bytes.len() + len) };
            }
            (None, _) => unreachable!("a receive has a buffer of the ring or one of its own"),
        }
    }

    /// A receive ended without bytes. True: only because its buffer was to be taken away.
    pub(super) fn receive_failed(&mut self) -> bool {
        self.receiving = false;
        std::mem::take(&mut self.is_demoted)
    }

    /// Copies what the last receive brought out of the provided buffer. False: the pool has no room for it yet.
    pub(super) fn take_in(&mut self, provided: &mut ProvidedBuffers, pool: &mut impl ReceivePool) -> bool {
        let Some((id, len)) = self.held else {
            return true;
        };
        if !pool.reserve_receive(len) {
            return false;
        }
        let before = match &self.holding {
            Holding::Piece(piece) => &piece[..],
            Holding::Nothing | Holding::Buffer(_) => &[],
        };
        let mut piece = BytesMut::with_capacity(before.len() + len);
        piece.extend_from_slice(before);
        piece.extend_from_slice(provided.bytes(id, len));
        self.holding = Holding::Piece(piece);
        provided.give_held(id);
        self.held = None;
        true
    }

    /// Takes the next whole frame. `request_max` bounds its size before anything is reserved.
    pub(super) fn next_frame(&mut self, request_max: usize, pool: &impl ReceivePool) -> Next {
        let bytes = match &mut self.holding {
            Holding::Nothing => return Next::Incomplete,
            Holding::Piece(piece) => piece,
            Holding::Buffer(buffer) => &mut buffer.bytes,
        };
        let Some(prefix) = bytes.first_chunk::<4>() else {
            return Next::Incomplete;
        };
        let size = match frame::parse_size(prefix, request_max) {
            Ok(size) => size,
            Err(error) => return Next::Bad(error),
        };
        let whole = 4 + size;
        if bytes.len() < whole {
            self.frame_bytes = Some(whole);
            if !pool.can_ever_receive(Arena::charge_of(whole)) {
                return Next::TooLarge(size);
            }
            return Next::Incomplete;
        }
        let mut frame = bytes.split_to(whole);
        let _prefix = frame.split_to(4);
        self.frame_bytes = None;
        self.last_frame_bytes = whole;
        let charged = match &self.holding {
            Holding::Piece(piece) => {
                if piece.is_empty() {
                    self.holding = Holding::Nothing;
                }
                whole
            }
            _ => 0,
        };
        Next::Frame(frame.freeze(), charged)
    }

    /// Starts a receive if none is in the kernel. False: there is no memory for it now.
    ///
    /// # Errors
    /// What the ring said.
    pub(super) fn receive(
        &mut self,
        fd: RawFd,
        tag: Tag,
        ring: &mut RawRing,
        provided: &ProvidedBuffers,
        arena: &mut Arena,
        pool: &mut impl ReceivePool,
    ) -> io::Result<bool> {
        if self.receiving {
            return Ok(true);
        }
        if !self.make_room(arena, pool) {
            return Ok(false);
        }
        let poll_first = if self.more_waits { 0 } else { RECEIVE_POLL_FIRST };
        let entry = match &mut self.holding {
            Holding::Buffer(buffer) => {
                let spare = buffer.bytes.spare_capacity_mut();
                opcode::Recv::new(types::Fd(fd), spare.as_mut_ptr().cast(), spare.len() as u32)
                    .ioprio(poll_first)
                    .build()
            }
            Holding::Nothing | Holding::Piece(_) => {
                if !provided.has_any() {
                    return Ok(false);
                }
                opcode::Recv::new(types::Fd(fd), std::ptr::null_mut(), 0)
                    .buf_group(GROUP)
                    .ioprio(poll_first)
                    .build()
                    .flags(squeue::Flags::BUFFER_SELECT)
            }
        };
        // SAFETY: the buffer is not touched while `receiving` is set, and neither it nor the socket is released
        // before this completion is reaped; it is on the heap and does not move. The provided buffers outlive
        // the ring.
        unsafe { ring.push(entry, tag)? };
        self.receiving = true;
        Ok(true)
    }

    /// Sees to it that the rest of a frame that was begun goes behind its beginning.
    fn make_room(&mut self, arena: &mut Arena, pool: &mut impl ReceivePool) -> bool {
        let Some(whole) = self.frame_bytes else {
            return self.make_room_for_next(arena, pool);
        };
        if let Holding::Buffer(buffer) = &mut self.holding
            && (buffer.bytes.len() + buffer.spare_bytes() >= whole
                || (buffer.size_bytes() >= whole && buffer.rewind()))
        {
            return true;
        }
        self.move_to_buffer(whole, arena, pool)
    }

    /// Nothing is begun, or not even a size prefix is whole.
    fn make_room_for_next(&mut self, arena: &mut Arena, pool: &mut impl ReceivePool) -> bool {
        let Holding::Buffer(buffer) = &mut self.holding else {
            return true;
        };
        let is_bulk = buffer.size_bytes() >= BULK_BUFFER_MIN_BYTES && buffer.size_bytes() <= CLASS_MAX_BYTES;
        let begun = !buffer.bytes.is_empty();
        if (is_bulk || begun) && buffer.rewind() {
            return true;
        }
        // Frames lie in it that are not answered yet. What is left is enough for another, or for its prefix.
        let wanted = if is_bulk { self.last_frame_bytes } else { 4 };
        if (is_bulk || begun) && buffer.bytes.len() + buffer.spare_bytes() >= wanted {
            return true;
        }
        if (is_bulk || begun) && self.move_to_buffer(wanted, arena, pool) {
            return true;
        }
        if begun {
            return false;
        }
        self.let_go(arena);
        true
    }

    /// Goes on in a buffer that holds a frame of so many bytes.
    fn move_to_buffer(&mut self, whole: usize, arena: &mut Arena, pool: &mut impl ReceivePool) -> bool {
        let generous = if whole <= BULK_FRAME_MIN_BYTES || whole > CLASS_MAX_BYTES {
            whole
        } else {
            (whole * 2).clamp(BULK_BUFFER_MIN_BYTES, CLASS_MAX_BYTES)
        };
        let Some(mut new) = arena.take(generous, pool).or_else(|| arena.take(whole, pool)) else {
            return false;
        };
        match &self.holding {
            Holding::Nothing => {}
            Holding::Piece(piece) => {
                new.bytes.extend_from_slice(piece);
                pool.release_receive(piece.len());
            }
            Holding::Buffer(old) => new.bytes.extend_from_slice(&old.bytes),
        }
        if let Holding::Buffer(old) = std::mem::replace(&mut self.holding, Holding::Buffer(new)) {
            arena.give_back(old);
        }
        true
    }

    /// Takes the buffer of a connection that was demoted, or that needs none.
    pub(super) fn let_go(&mut self, arena: &mut Arena) {
        if let Holding::Buffer(buffer) = std::mem::replace(&mut self.holding, Holding::Nothing) {
            arena.give_back(buffer);
        }
    }

    /// The socket is closed and nothing of it is in the kernel: everything goes back.
    pub(super) fn release(
        &mut self,
        provided: &mut ProvidedBuffers,
        arena: &mut Arena,
        pool: &mut impl ReceivePool,
    ) {
        if let Some((id, _)) = self.held.take() {
            provided.give_held(id);
        }
        if let Holding::Piece(piece) = &self.holding {
            pool.release_receive(piece.len());
            self.holding = Holding::Nothing;
        }
        self.let_go(arena);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::super::ring::Kind;
    use super::*;
    use crate::shard::Budget;

    const REQUEST_MAX: usize = 100 << 20;

    /// A socket pair whose one end is received on by a ring of its own.
    struct Bench {
        // Dropped first: the kernel writes into the buffers below until then.
        ring: RawRing,
        provided: ProvidedBuffers,
        arena: Arena,
        pool: Budget,
        inbound: Inbound,
        ours: UnixStream,
        theirs: UnixStream,
        /// Frames that nobody has dropped yet, and their charges.
        frames: Vec<(Bytes, usize)>,
    }

    impl Bench {
        fn new(pool_bytes: usize) -> Self {
            let ring = RawRing::new().expect("a ring");
            let provided = ProvidedBuffers::new(&ring, 64).expect("buffers");
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            Self {
                ring,
                provided,
                arena: Arena::new(pool_bytes),
                pool: Budget::new(pool_bytes),
                inbound: Inbound::new(0),
                ours,
                theirs,
                frames: Vec::new(),
            }
        }

        /// Cuts what is there, receives once, and takes in what came. False: there is no memory.
        fn receive(&mut self) -> bool {
            if !self.cut() {
                return false;
            }
            let tag = Tag {
                kind: Kind::Receive,
                generation: 0,
                slot: 0,
            };
            let fd = self.ours.as_raw_fd();
            self.provided.publish();
            let started = self.inbound.receive(
                fd,
                tag,
                &mut self.ring,
                &self.provided,
                &mut self.arena,
                &mut self.pool,
            );
            if !started.expect("the ring takes it") {
                return false;
            }
            let mut reaped = Vec::new();
            while reaped.is_empty() {
                self.ring
                    .sleep_and_reap(Duration::from_secs(10), &mut reaped)
                    .expect("entered");
            }
            let reaped = reaped[0];
            let len = reaped.into_result().expect("received") as usize;
            self.inbound.received(len, &reaped, &mut self.provided, 0);
            self.cut()
        }

        fn cut(&mut self) -> bool {
            if !self.inbound.take_in(&mut self.provided, &mut self.pool) {
                return false;
            }
            while let Next::Frame(frame, charge) = self.inbound.next_frame(REQUEST_MAX, &self.pool) {
                self.frames.push((frame, charge));
            }
            true
        }

        fn drop_frames(&mut self) -> Vec<Bytes> {
            let mut copies = Vec::new();
            for (frame, charge) in self.frames.drain(..) {
                self.pool.release(charge);
                copies.push(Bytes::copy_from_slice(&frame));
            }
            copies
        }

        fn send(&mut self, bytes: &[u8]) {
            self.theirs.write_all(bytes).expect("sent");
        }

        /// Everything goes back; the pool must be empty.
        fn finish(mut self) {
            self.drop_frames();
            self.inbound
                .release(&mut self.provided, &mut self.arena, &mut self.pool);
            self.arena.reclaim(&mut self.pool);
            self.arena.trim(&mut self.pool);
            self.arena.trim(&mut self.pool);
            assert_eq!(self.pool.used_bytes(), 0);
        }
    }

    fn framed(body: &[u8]) -> Vec<u8> {
        let mut frame = (body.len() as u32).to_be_bytes().to_vec();
        frame.extend_from_slice(body);
        frame
    }

    /// A small generator, so that a failure can be run again.
    fn next_random(state: &mut u64) -> usize {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state >> 16) as usize
    }

    #[test]
    fn frames_of_any_size_cut_anywhere_come_out_whole_and_in_order() {
        for seed in 1..=40_u64 {
            let mut bench = Bench::new(16 << 20);
            let mut state = seed * 0x9e37_79b9;
            let sizes = [0, 1, 100, 5_000, 20_000, 70_000, 300_000];
            let mut expected = Vec::new();
            let mut stream = Vec::new();
            for n in 0..40 {
                let size = sizes[next_random(&mut state) % (1 + seed as usize % sizes.len())];
                let body = vec![n as u8; size];
                stream.extend_from_slice(&framed(&body));
                expected.push(body);
            }
            let mut got = Vec::new();
            let mut rest = &stream[..];
            while got.len() < expected.len() {
                if !rest.is_empty() {
                    // No more than a socket takes at once.
                    let part = (1 + next_random(&mut state) % 40_000).min(rest.len());
                    bench.send(&rest[..part]);
                    rest = &rest[part..];
                }
                assert!(bench.receive(), "seed {seed}: there is memory");
                if next_random(&mut state).is_multiple_of(3) || rest.is_empty() {
                    got.extend(bench.drop_frames());
                }
                bench.arena.reclaim(&mut bench.pool);
            }
            assert!(
                got.iter()
                    .map(|frame| &frame[..])
                    .eq(expected.iter().map(|body| &body[..])),
                "seed {seed}"
            );
            bench.finish();
        }
    }

    #[test]
    fn a_quiet_connection_holds_nothing_and_a_small_frame_its_own_bytes() {
        let mut bench = Bench::new(1 << 20);
        bench.send(&[framed(b"one"), framed(b"three")].concat());
        assert!(bench.receive());
        assert_eq!(bench.frames.len(), 2);
        assert_eq!(bench.pool.used_bytes(), 7 + 9);
        assert!(matches!(bench.inbound.holding, Holding::Nothing));
        assert_eq!(bench.drop_frames(), [&b"one"[..], b"three"]);
        assert_eq!(bench.pool.used_bytes(), 0);
        bench.finish();
    }

    #[test]
    fn without_memory_the_bytes_stay_in_the_ring_of_buffers_until_there_is_some() {
        let mut bench = Bench::new(1 << 20);
        assert!(bench.pool.reserve((1 << 20) - 6));
        bench.send(&framed(b"one"));
        assert!(!bench.receive(), "no room for the copy");
        assert!(bench.frames.is_empty() && bench.provided.has_any());
        bench.pool.release((1 << 20) - 6);
        assert!(bench.cut());
        assert_eq!(bench.drop_frames(), [&b"one"[..]]);
        bench.finish();
    }

    #[test]
    fn a_frame_without_memory_waits_and_one_that_never_fits_is_refused() {
        let mut bench = Bench::new(64 << 10);
        assert!(bench.pool.reserve(40 << 10));
        let body = vec![5; 30_000];
        bench.send(&framed(&body));
        assert!(bench.receive(), "its first bytes");
        assert!(!bench.receive(), "no room for the whole");
        bench.pool.release(40 << 10);
        while bench.frames.is_empty() {
            assert!(bench.receive());
        }
        assert_eq!(bench.drop_frames(), [&body[..]]);
        bench.finish();

        let mut bench = Bench::new(64 << 10);
        bench.send(&(70_000_u32).to_be_bytes());
        assert!(bench.receive());
        assert!(matches!(
            bench.inbound.next_frame(REQUEST_MAX, &bench.pool),
            Next::TooLarge(70_000)
        ));
        bench.finish();
    }

    #[test]
    fn a_bulk_connection_uses_one_buffer_again_and_loses_it_when_idle() {
        let mut bench = Bench::new(4 << 20);
        let body = vec![9; 100_000];
        let mut buffers = std::collections::HashSet::new();
        for _ in 0..20 {
            bench.send(&framed(&body));
            while bench.frames.is_empty() {
                assert!(bench.receive());
            }
            if let Holding::Buffer(_) = bench.inbound.holding {
                buffers.insert(bench.frames[0].0.as_ptr());
            }
            bench.drop_frames();
        }
        assert_eq!(buffers.len(), 1, "each frame lies where the last one lay");
        assert!(bench.pool.used_bytes() >= 256 << 10);
        bench.inbound.receiving = true;
        assert!(!bench.inbound.is_bulk_and_idle(BULK_IDLE_MS));
        assert!(bench.inbound.is_bulk_and_idle(BULK_IDLE_MS + 1));
        bench.inbound.demote();
        assert!(
            bench.inbound.receive_failed(),
            "the end of the receive is no error"
        );
        bench.inbound.let_go(&mut bench.arena);
        bench.finish();
    }
}
