//! What the spare files of a data directory may take: files of removed segments that wait to be segments again.
//!
//! One [`SpareBudget`] for each data directory, shared by its shards and the logs of their partitions, which have
//! the files ([`super::recycle`]). Invariants:
//! - nothing is charged that would bring the bytes above the bound;
//! - once spares are wanted back none is charged until they are not wanted back any more.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::end_mark::END_MARK_INTERVAL_BYTES;
use crate::limits::SPARE_BYTES_MIN;
use crate::log::segment::PAGE_BYTES;

/// See the file's head. Clones are the same budget; the default has no room.
#[derive(Clone, Debug)]
pub struct SpareBudget(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    bytes_max: AtomicU64,
    file_bytes_min: u64,
    mark_interval_bytes: u64,
    bytes: AtomicU64,
    files: AtomicU64,
    reused: AtomicU64,
    is_wanted_back: AtomicBool,
}

impl Default for SpareBudget {
    fn default() -> Self {
        Self::new(0)
    }
}

impl SpareBudget {
    /// Spares may take `bytes_max` bytes; 0: none is kept.
    pub fn new(bytes_max: u64) -> Self {
        Self::with_sizes(bytes_max, SPARE_BYTES_MIN, END_MARK_INTERVAL_BYTES)
    }

    /// As [`SpareBudget::new`], of files that are at least `file_bytes_min` long, with many end marks.
    #[doc(hidden)]
    pub fn of_files_from(file_bytes_min: u64, bytes_max: u64) -> Self {
        Self::with_sizes(bytes_max, file_bytes_min, 2 * PAGE_BYTES)
    }

    /// As [`SpareBudget::new`], with end marks from place to place.
    #[doc(hidden)]
    pub fn with_marks_every(mark_interval_bytes: u64, bytes_max: u64) -> Self {
        Self::with_sizes(bytes_max, SPARE_BYTES_MIN, mark_interval_bytes)
    }

    fn with_sizes(bytes_max: u64, file_bytes_min: u64, mark_interval_bytes: u64) -> Self {
        Self(Arc::new(Shared {
            mark_interval_bytes,
            bytes_max: bytes_max.into(),
            file_bytes_min,
            ..Shared::default()
        }))
    }

    /// From now on spares may take `bytes_max` bytes; those that there are stay.
    pub fn set_bytes_max(&self, bytes_max: u64) {
        self.0.bytes_max.store(bytes_max, Ordering::Relaxed);
    }

    /// Shorter files are not kept.
    pub(super) fn file_bytes_min(&self) -> u64 {
        self.0.file_bytes_min
    }

    /// Bytes of the spares that there are.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// How many spares there are.
    pub fn files(&self) -> u64 {
        self.0.files.load(Ordering::Relaxed)
    }

    /// Segments that were made of spares, since the start.
    pub fn reused(&self) -> u64 {
        self.0.reused.load(Ordering::Relaxed)
    }

    /// Says whether their space is needed: each log removes its spares at its next tick then, and keeps no other.
    pub fn want_back(&self, is_wanted_back: bool) {
        self.0.is_wanted_back.store(is_wanted_back, Ordering::Relaxed);
    }

    /// Whether their space is needed.
    pub fn is_wanted_back(&self) -> bool {
        self.0.is_wanted_back.load(Ordering::Relaxed)
    }

    /// How far the end marks of a recycled file lie from each other, whole pages.
    pub(super) fn mark_interval_bytes(&self) -> u64 {
        self.0.mark_interval_bytes
    }

    /// Takes `bytes` for one more spare, if there is room for it.
    pub(super) fn charge(&self, bytes: u64) -> Option<SpareCharge> {
        if self.is_wanted_back() {
            return None;
        }
        let bytes_max = self.0.bytes_max.load(Ordering::Relaxed);
        let add = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= bytes_max);
        let charged = self
            .0
            .bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .is_ok();
        charged.then(|| {
            self.0.files.fetch_add(1, Ordering::Relaxed);
            SpareCharge {
                budget: self.clone(),
                bytes,
            }
        })
    }
}

/// Bytes of a budget that one spare has, given back when it is dropped.
#[derive(Debug)]
pub(super) struct SpareCharge {
    budget: SpareBudget,
    bytes: u64,
}

impl SpareCharge {
    /// The spare is a segment now.
    pub(super) fn end_in_reuse(self) {
        self.budget.0.reused.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for SpareCharge {
    fn drop(&mut self) {
        let before = self.budget.0.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        assert!(before >= self.bytes, "no more is given back than was charged");
        self.budget.0.files.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_charged_than_there_is_and_all_comes_back() {
        let budget = SpareBudget::new(100);
        let first = budget.charge(60).expect("there is room");
        assert!(budget.charge(41).is_none());
        let second = budget.charge(40).expect("there is just enough");
        assert_eq!((budget.bytes(), budget.files()), (100, 2));
        first.end_in_reuse();
        drop(second);
        assert_eq!((budget.bytes(), budget.files(), budget.reused()), (0, 0, 1));
        assert!(budget.charge(u64::MAX).is_none());
    }

    #[test]
    fn nothing_is_charged_while_spares_are_wanted_back() {
        let budget = SpareBudget::new(100);
        budget.want_back(true);
        assert!(budget.charge(1).is_none());
        budget.want_back(false);
        assert!(budget.charge(1).is_some());
        assert!(SpareBudget::default().charge(1).is_none());
    }
}
