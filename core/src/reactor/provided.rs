//! The buffers that small receives of all connections take from: a ring of provided buffers.
//!
//! Owned by the shard's thread; part of the receive pool. What a receive brought is copied out in the same turn
//! and the buffer given back, unless the pool has no room for the copy: then the connection keeps the buffer
//! until there is room, so that connections without memory run the ring dry and are not read.
//!
//! Invariant: a buffer is the kernel's from [`ProvidedBuffers::give`] until a completion names it, and ours from
//! then until it is given back.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;
use memmap2::{MmapMut, MmapOptions};

use super::ring::RawRing;

/// The one buffer group of a shard's ring.
pub(super) const GROUP: u16 = 0;
/// What a small receive takes at most.
pub(super) const BUFFER_BYTES: usize = 4096;
const COUNT_MIN: usize = 64;
const COUNT_MAX: usize = 1024;
/// The ring takes at most this part of the receive pool.
const POOL_PART: usize = 16;

/// See the file's head. Dropped after the ring: the kernel may write into its buffers until then.
pub(super) struct ProvidedBuffers {
    /// Page-aligned, as the kernel asks.
    entries: MmapMut,
    buffers: MmapMut,
    count: u16,
    tail: u16,
    published: u16,
    /// Kept by connections that found no memory.
    held: u16,
}

impl ProvidedBuffers {
    /// How many buffers a receive pool of so many bytes has.
    pub(super) fn count_for(pool_bytes: usize) -> u16 {
        let count = (pool_bytes / POOL_PART / BUFFER_BYTES).clamp(COUNT_MIN, COUNT_MAX);
        1 << count.ilog2()
    }

    /// Memory that is taken for so many buffers.
    pub(super) fn memory_bytes(count: u16) -> usize {
        count as usize * (BUFFER_BYTES + size_of::<BufRingEntry>())
    }

    /// Registers a ring of `count` buffers (a power of two) and gives all of them to the kernel.
    ///
    /// # Errors
    /// What the kernel said.
    pub(super) fn new(ring: &RawRing, count: u16) -> io::Result<Self> {
        assert!(count.is_power_of_two(), "the kernel masks with count - 1");
        let entries = MmapOptions::new()
            .len(count as usize * size_of::<BufRingEntry>())
            .map_anon()?;
        let buffers = MmapOptions::new().len(count as usize * BUFFER_BYTES).map_anon()?;
        let mut this = Self {
            entries,
            buffers,
            count,
            tail: 0,
            published: 0,
            held: 0,
        };
        // SAFETY: the map is of the size that is said, and whoever owns both drops the ring first.
        unsafe { ring.register_buffer_ring(this.entries.as_ptr() as u64, count, GROUP)? };
        for id in 0..count {
            this.put(id);
        }
        this.publish();
        Ok(this)
    }

    /// The first `len` bytes of a buffer that a completion named.
    pub(super) fn bytes(&self, id: u16, len: usize) -> &[u8] {
        assert!(id < self.count && len <= BUFFER_BYTES, "a buffer of this ring");
        let at = id as usize * BUFFER_BYTES;
        self.buffers.get(at..at + len).unwrap_or_default()
    }

    /// Puts a buffer back; the kernel sees it at the next [`ProvidedBuffers::publish`].
    pub(super) fn give(&mut self, id: u16) {
        assert!(id < self.count, "a buffer of this ring");
        self.put(id);
    }

    /// A connection keeps a buffer beyond this turn.
    pub(super) fn hold(&mut self) {
        self.held += 1;
    }

    /// A connection is done with a buffer it kept.
    pub(super) fn give_held(&mut self, id: u16) {
        self.held -= 1;
        self.give(id);
    }

    /// Whether the kernel has, or will have after this turn, a buffer to receive into.
    pub(super) fn has_any(&self) -> bool {
        self.held < self.count
    }

    fn put(&mut self, id: u16) {
        let slot = (self.tail & (self.count - 1)) as usize;
        let address = self.buffers.as_ptr() as u64 + (id as usize * BUFFER_BYTES) as u64;
        let base = self.entries.as_mut_ptr().cast::<BufRingEntry>();
        // SAFETY: the slot is within the map; the kernel reads it only once the tail has passed it. The
        // reserved field of slot 0, which is the tail, is not touched by these three.
        let entry = unsafe { &mut *base.add(slot) };
        entry.set_addr(address);
        entry.set_len(BUFFER_BYTES as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Lets the kernel see what was given back.
    pub(super) fn publish(&mut self) {
        if self.published == self.tail {
            return;
        }
        let base = self.entries.as_ptr().cast::<BufRingEntry>();
        // SAFETY: `base` is the first entry of the ring, whose reserved field is the tail: 2 aligned bytes
        // within the map, which the kernel only reads.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(base).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
        self.published = self.tail;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_follows_the_pool_within_bounds() {
        assert_eq!(ProvidedBuffers::count_for(0), 64);
        assert_eq!(ProvidedBuffers::count_for(25 << 20), 256);
        assert_eq!(ProvidedBuffers::count_for(usize::MAX), 1024);
        assert_eq!(ProvidedBuffers::memory_bytes(64), 64 * (4096 + 16));
    }
}
