//! A ring of provided buffers that multishot receives of all connections take from.
//!
//! Invariant: a buffer is the kernel's from [`BufferRing::give`] until a completion names it, and ours from
//! then until it is given back.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use memmap2::{MmapMut, MmapOptions};

/// The one buffer group.
pub const GROUP: u16 = 0;
const BUFFERS: u16 = 4096;
const BUFFER_BYTES: usize = 4096;

pub struct BufferRing {
    /// Page-aligned, as the kernel asks.
    entries: MmapMut,
    buffers: MmapMut,
    tail: u16,
}

impl BufferRing {
    /// Registers the ring and gives all buffers to the kernel.
    pub fn new(ring: &IoUring) -> io::Result<Self> {
        let entries = MmapOptions::new()
            .len(BUFFERS as usize * size_of::<BufRingEntry>())
            .map_anon()?;
        let buffers = MmapOptions::new()
            .len(BUFFERS as usize * BUFFER_BYTES)
            .map_anon()?;
        let mut this = Self {
            entries,
            buffers,
            tail: 0,
        };
        // SAFETY: the map is of the size that is said and lives as long as the server's loop, which owns
        // both and ends with the process.
        unsafe {
            ring.submitter()
                .register_buf_ring_with_flags(this.entries.as_ptr() as u64, BUFFERS, GROUP, 0)?;
        }
        for id in 0..BUFFERS {
            this.give(id);
        }
        this.publish();
        Ok(this)
    }

    /// The first `len` bytes of a buffer that a completion named.
    pub fn bytes(&self, id: u16, len: usize) -> &[u8] {
        let at = id as usize * BUFFER_BYTES;
        &self.buffers[at..at + len.min(BUFFER_BYTES)]
    }

    /// Puts a buffer back; the kernel sees it at the next [`BufferRing::publish`].
    pub fn give(&mut self, id: u16) {
        let slot = (self.tail & (BUFFERS - 1)) as usize;
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

    /// Lets the kernel see what was given.
    pub fn publish(&mut self) {
        let base = self.entries.as_ptr().cast::<BufRingEntry>();
        // SAFETY: `base` is the first entry of the ring, whose reserved field is the tail: 2 aligned bytes
        // within the map, which the kernel only reads.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(base).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

const _: () = assert!(BUFFERS.is_power_of_two());
