//! An allocator that counts what each thread holds: the fuzz targets and the tests of `tidelog-net` set it as
//! their global one, to hold decoders to their bounds.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static HELD_BYTES: Cell<isize> = const { Cell::new(0) };
    static PEAK_BYTES: Cell<isize> = const { Cell::new(0) };
}

/// The system allocator, counting per thread what is held.
pub struct Counting;

fn count(bytes: isize) {
    let _ = HELD_BYTES.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = PEAK_BYTES.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: every call goes to the system allocator unchanged; counting touches only plain thread-local
// cells that never allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What this thread holds now: allocated by it and not released by it.
#[allow(dead_code, reason = "not every program that takes in this file asks")]
pub fn held_bytes() -> isize {
    HELD_BYTES.get()
}

/// What `work` holds at its peak beyond what was held before.
#[allow(dead_code, reason = "not every program that takes in this file asks")]
pub fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD_BYTES.get();
    PEAK_BYTES.set(before);
    let outcome = work();
    (outcome, usize::try_from(PEAK_BYTES.get() - before).unwrap_or(0))
}
