//! How much memory files may take: one bound for the whole process, and what each shard has of it.
//!
//! Shared by all shards; taken in extents, so its atomics are touched rarely. Invariant: what all shards have
//! together is at most the bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits::EXTENT_BYTES_MIN;
use crate::log::segment::PAGE_BYTES;

/// What of the bound clients do not get: this part of it, and no less than two extents.
const OWN_PART: u64 = 16;
const OWN_BYTES_MIN: u64 = 2 * EXTENT_BYTES_MIN;

#[derive(Debug)]
struct Shared {
    limit_bytes: u64,
    used_bytes: AtomicU64,
    shards: u64,
}

/// A shard's way to the pool.
#[derive(Debug)]
pub struct HeapPool {
    shared: Arc<Shared>,
    own_bytes: AtomicU64,
    refusals: AtomicU64,
}

impl HeapPool {
    /// One pool of `limit_bytes`, as each of so many shards uses it.
    pub fn of_shards(limit_bytes: u64, shards: usize) -> Vec<Arc<Self>> {
        let shared = Arc::new(Shared {
            limit_bytes,
            used_bytes: AtomicU64::new(0),
            shards: shards.max(1) as u64,
        });
        let shard = |_| {
            Arc::new(Self {
                shared: Arc::clone(&shared),
                own_bytes: AtomicU64::new(0),
                refusals: AtomicU64::new(0),
            })
        };
        (0..shards).map(shard).collect()
    }

    /// Takes so many bytes, or answers false.
    #[must_use]
    pub(super) fn take(&self, bytes: u64) -> bool {
        let limit = self.shared.limit_bytes;
        let within = |used: u64| used.checked_add(bytes).filter(|used| *used <= limit);
        let taken = self
            .shared
            .used_bytes
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, within)
            .is_ok();
        let count = if taken { &self.own_bytes } else { &self.refusals };
        count.fetch_add(if taken { bytes } else { 1 }, Ordering::Relaxed);
        taken
    }

    fn give_back(&self, bytes: u64) {
        let before = self.shared.used_bytes.fetch_sub(bytes, Ordering::AcqRel);
        assert!(bytes <= before, "{bytes} bytes given back, {before} taken");
        self.own_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The bound of all shards.
    pub fn limit_bytes(&self) -> u64 {
        self.shared.limit_bytes
    }

    /// What all shards may still take.
    pub fn free_bytes(&self) -> u64 {
        let used = self.shared.used_bytes.load(Ordering::Acquire);
        self.shared.limit_bytes.saturating_sub(used)
    }

    /// Whether a client's batch of so many bytes is to be taken: some is kept free for what a log writes by itself,
    /// without which nothing in it could be given up.
    pub fn has_room_for(&self, bytes: u64) -> bool {
        let kept = (self.shared.limit_bytes / OWN_PART).max(OWN_BYTES_MIN);
        self.free_bytes() >= bytes.saturating_add(kept)
    }

    /// What this shard's files take.
    pub fn used_bytes(&self) -> u64 {
        self.own_bytes.load(Ordering::Relaxed)
    }

    /// What one of as many equal parts as there are shards comes to of all that is taken.
    pub fn used_part_bytes(&self) -> u64 {
        self.shared
            .used_bytes
            .load(Ordering::Relaxed)
            .div_ceil(self.shared.shards)
    }

    /// What this shard has, and its part of what is free. Over all shards the sum is the bound.
    pub fn own_limit_bytes(&self) -> u64 {
        self.used_bytes() + self.free_bytes() / self.shared.shards
    }

    /// How often this shard was refused.
    pub fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }
}

/// What something holds of the pool; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Charge {
    pool: Arc<HeapPool>,
    bytes: AtomicU64,
}

impl Charge {
    /// Nothing yet.
    pub(super) fn new(pool: Arc<HeapPool>) -> Self {
        Self {
            pool,
            bytes: AtomicU64::new(0),
        }
    }

    pub(super) fn pool(&self) -> &Arc<HeapPool> {
        &self.pool
    }

    /// Grows to at least so many bytes, in whole pages. One thread grows a charge.
    #[must_use]
    pub(super) fn grow_to(&self, bytes: u64) -> bool {
        let Some(wanted) = bytes.checked_next_multiple_of(PAGE_BYTES) else {
            return false;
        };
        let more = wanted.saturating_sub(self.bytes.load(Ordering::Relaxed));
        if more == 0 {
            return true;
        }
        let taken = self.pool.take(more);
        if taken {
            self.bytes.fetch_add(more, Ordering::Relaxed);
        }
        taken
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.pool.give_back(*self.bytes.get_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_share_one_bound_and_what_is_dropped_comes_back() {
        let pools = HeapPool::of_shards(100 << 10, 2);
        let [a, b] = &pools[..] else { panic!("two shards") };
        let (of_a, of_b) = (Charge::new(Arc::clone(a)), Charge::new(Arc::clone(b)));
        assert!(of_a.grow_to(60_000) && of_a.grow_to(10));
        assert_eq!((a.used_bytes(), b.used_bytes()), (15 * 4096, 0));
        assert!(!of_b.grow_to(60_000), "of both");
        assert_eq!((a.refusals(), b.refusals()), (0, 1));
        assert_eq!((a.used_part_bytes(), b.used_part_bytes()), (30_720, 30_720));
        assert_eq!(a.own_limit_bytes() + b.own_limit_bytes(), 100 << 10);
        drop(of_a);
        assert!(of_b.grow_to(60_000));
        assert_eq!((a.used_bytes(), b.free_bytes()), (0, (100 << 10) - 15 * 4096));
        assert!(!of_b.grow_to(u64::MAX));
        let pool = HeapPool::of_shards(16 << 20, 1).remove(0);
        assert!(pool.has_room_for(15 << 20) && !pool.has_room_for((15 << 20) + 1));
        assert!(!HeapPool::of_shards(64 << 10, 1).remove(0).has_room_for(0));
    }
}
