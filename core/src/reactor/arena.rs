//! The receive buffers of one shard, in size classes, each charged to the receive pool for as long as anybody
//! looks at its bytes.
//!
//! Owned by the shard's thread. Frames are slices of a buffer and may be dropped by another shard; a buffer is
//! used again, or its charge given back, only once no slice of it is left. A frame larger than the largest class
//! gets a buffer of exactly its size.
//!
//! Invariants: what the arena charged = buffers with connections + lent + free; the free ones are bounded and
//! are given up before a reservation is refused.

use std::collections::VecDeque;

use bytes::BytesMut;

use crate::shard::ReceivePool;

const CLASS_MIN_BYTES: usize = 4 << 10;
/// The largest class.
pub(super) const CLASS_MAX_BYTES: usize = 1 << 20;
const CLASSES: usize = (CLASS_MAX_BYTES / CLASS_MIN_BYTES).ilog2() as usize + 1;
/// Buffers kept for the next frame take at most this much, and no more than this part of the pool.
const FREE_BYTES_MAX: usize = 8 << 20;
const FREE_PART_MAX: usize = 8;
/// How many lent buffers are looked at per turn.
const LOOKS_PER_TURN: usize = 64;

/// A buffer and what it is charged.
pub(super) struct ArenaBuffer {
    pub(super) bytes: BytesMut,
    charged_bytes: usize,
}

impl ArenaBuffer {
    /// The whole buffer, whatever part of it is used.
    pub(super) fn size_bytes(&self) -> usize {
        self.charged_bytes
    }

    /// Bytes that can still be received behind what is there.
    pub(super) fn spare_bytes(&self) -> usize {
        self.bytes.capacity() - self.bytes.len()
    }

    /// Makes the whole buffer usable again, with what is in it at its start. False: a frame still lies in it.
    pub(super) fn rewind(&mut self) -> bool {
        let missing = self.charged_bytes - self.bytes.len();
        self.bytes.try_reclaim(missing)
    }
}

/// See the file's head.
pub(super) struct Arena {
    free: [Vec<ArenaBuffer>; CLASSES],
    free_bytes: usize,
    /// The least that was free since the last look: nobody needed it.
    unused_bytes: usize,
    free_bytes_max: usize,
    lent: VecDeque<ArenaBuffer>,
}

/// The smallest class that holds so much.
fn class_of(bytes: usize) -> Option<usize> {
    let size = bytes.max(CLASS_MIN_BYTES).checked_next_power_of_two()?;
    (size <= CLASS_MAX_BYTES).then(|| (size / CLASS_MIN_BYTES).ilog2() as usize)
}

impl Arena {
    /// An empty arena for a pool of so many bytes.
    pub(super) fn new(pool_bytes: usize) -> Self {
        Self {
            free: std::array::from_fn(|_| Vec::new()),
            free_bytes: 0,
            unused_bytes: 0,
            free_bytes_max: FREE_BYTES_MAX.min(pool_bytes / FREE_PART_MAX),
            lent: VecDeque::new(),
        }
    }

    /// What a buffer for so many bytes is charged.
    pub(super) fn charge_of(bytes: usize) -> usize {
        class_of(bytes).map_or(bytes, |class| CLASS_MIN_BYTES << class)
    }

    /// A buffer for at least so many bytes, if the pool has room for it.
    pub(super) fn take(&mut self, bytes: usize, pool: &mut impl ReceivePool) -> Option<ArenaBuffer> {
        let class = class_of(bytes);
        let kept = class.and_then(|class| self.free.get_mut(class)?.pop());
        if let Some(buffer) = kept {
            self.free_bytes -= buffer.charged_bytes;
            self.unused_bytes = self.unused_bytes.min(self.free_bytes);
            return Some(buffer);
        }
        let charged_bytes = Self::charge_of(bytes);
        if !pool.reserve_receive(charged_bytes) {
            self.reclaim(pool);
            self.drop_free(self.free_bytes, pool);
            if !pool.reserve_receive(charged_bytes) {
                return None;
            }
        }
        Some(ArenaBuffer {
            bytes: BytesMut::with_capacity(charged_bytes),
            charged_bytes,
        })
    }

    /// Takes a buffer back. Frames may still lie in it.
    pub(super) fn give_back(&mut self, buffer: ArenaBuffer) {
        self.lent.push_back(buffer);
    }

    /// Looks for buffers that no frame lies in any more, the oldest first.
    pub(super) fn reclaim(&mut self, pool: &mut impl ReceivePool) {
        for _ in 0..self.lent.len().min(LOOKS_PER_TURN) {
            let Some(mut buffer) = self.lent.pop_front() else {
                return;
            };
            buffer.bytes.clear();
            if !buffer.rewind() {
                self.lent.push_back(buffer);
                continue;
            }
            let bytes = buffer.charged_bytes;
            match class_of(bytes).and_then(|class| self.free.get_mut(class)) {
                Some(free) if bytes <= CLASS_MAX_BYTES && self.free_bytes + bytes <= self.free_bytes_max => {
                    self.free_bytes += bytes;
                    free.push(buffer);
                }
                _ => pool.release_receive(bytes),
            }
        }
    }

    /// Gives up what nobody needed since the last call.
    pub(super) fn trim(&mut self, pool: &mut impl ReceivePool) {
        self.drop_free(self.unused_bytes, pool);
        self.unused_bytes = self.free_bytes;
    }

    /// Gives up free buffers of at least so many bytes, the largest first.
    fn drop_free(&mut self, bytes: usize, pool: &mut impl ReceivePool) {
        let kept = self.free_bytes.saturating_sub(bytes);
        for free in self.free.iter_mut().rev() {
            while self.free_bytes > kept
                && let Some(buffer) = free.pop()
            {
                self.free_bytes -= buffer.charged_bytes;
                pool.release_receive(buffer.charged_bytes);
            }
        }
        self.unused_bytes = self.unused_bytes.min(self.free_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::Budget;

    #[test]
    fn a_buffer_is_charged_until_its_last_frame_is_dropped() {
        let mut pool = Budget::new(1 << 20);
        let mut arena = Arena::new(0);
        let mut buffer = arena.take(5_000, &mut pool).expect("room");
        assert_eq!((buffer.size_bytes(), pool.used_bytes()), (8192, 8192));
        buffer.bytes.extend_from_slice(&[7; 6_000]);
        let frame = buffer.bytes.split_to(6_000).freeze();
        assert!(!buffer.rewind(), "a frame lies in it");
        arena.give_back(buffer);
        arena.reclaim(&mut pool);
        assert_eq!(pool.used_bytes(), 8192);
        // On another shard's thread, as a batch is.
        std::thread::spawn(move || drop(frame)).join().expect("joined");
        arena.reclaim(&mut pool);
        assert_eq!(pool.used_bytes(), 0);
    }

    #[test]
    fn free_buffers_are_used_again_and_given_up_before_a_refusal() {
        let mut pool = Budget::new(1 << 20);
        let mut arena = Arena::new(1 << 20);
        let buffer = arena.take(100_000, &mut pool).expect("room");
        let at = buffer.bytes.as_ptr();
        arena.give_back(buffer);
        arena.reclaim(&mut pool);
        assert_eq!(pool.used_bytes(), 128 << 10, "kept, so charged");
        let again = arena.take(128 << 10, &mut pool).expect("the same");
        assert_eq!(again.bytes.as_ptr(), at);
        assert_eq!(again.spare_bytes(), 128 << 10);
        arena.give_back(again);
        arena.reclaim(&mut pool);
        let whole = arena
            .take((1 << 20) - 1, &mut pool)
            .expect("the free one made room");
        assert_eq!((whole.size_bytes(), pool.used_bytes()), (1 << 20, 1 << 20));
        assert!(arena.take(1, &mut pool).is_none(), "the pool is used up");
        arena.give_back(whole);
        arena.reclaim(&mut pool);
        assert_eq!(pool.used_bytes(), 0, "larger than what may be kept");
    }

    #[test]
    fn what_nobody_needs_between_two_looks_is_given_up() {
        let mut pool = Budget::new(1 << 20);
        let mut arena = Arena::new(1 << 20);
        let two = [4096; 2].map(|bytes| arena.take(bytes, &mut pool).expect("room"));
        two.into_iter().for_each(|buffer| arena.give_back(buffer));
        arena.reclaim(&mut pool);
        arena.trim(&mut pool);
        assert_eq!(pool.used_bytes(), 8192, "they have just become free");
        let one = arena.take(4096, &mut pool).expect("room");
        arena.give_back(one);
        arena.reclaim(&mut pool);
        arena.trim(&mut pool);
        assert_eq!(pool.used_bytes(), 4096, "one of them was used");
        arena.trim(&mut pool);
        assert_eq!(pool.used_bytes(), 0);
    }

    #[test]
    fn a_frame_beyond_the_classes_is_charged_exactly() {
        assert_eq!(Arena::charge_of(CLASS_MAX_BYTES + 1), CLASS_MAX_BYTES + 1);
        assert_eq!(Arena::charge_of(CLASS_MAX_BYTES), CLASS_MAX_BYTES);
        assert_eq!(Arena::charge_of(1), CLASS_MIN_BYTES);
        let mut pool = Budget::new(4 << 20);
        let mut arena = Arena::new(64 << 20);
        let buffer = arena.take(3 << 20, &mut pool).expect("room");
        assert_eq!(buffer.size_bytes(), 3 << 20);
        arena.give_back(buffer);
        arena.reclaim(&mut pool);
        assert_eq!(pool.used_bytes(), 0, "not kept");
    }

    #[test]
    fn what_is_begun_moves_to_the_front_when_the_buffer_is_used_again() {
        let mut pool = Budget::new(1 << 20);
        let mut arena = Arena::new(1 << 20);
        let mut buffer = arena.take(4096, &mut pool).expect("room");
        buffer.bytes.extend_from_slice(&[1; 4000]);
        buffer.bytes.extend_from_slice(b"begun");
        drop(buffer.bytes.split_to(4000).freeze());
        assert!(buffer.rewind());
        assert_eq!(
            (&buffer.bytes[..], buffer.spare_bytes()),
            (&b"begun"[..], 4096 - 5)
        );
        arena.give_back(buffer);
        arena.reclaim(&mut pool);
    }
}
