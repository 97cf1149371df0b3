//! The log on disk: entries, segments, indexes, checkpoints and recovery.
//!
//! Knows no runtime and no wire protocol; all files are reached through [`disk::Disk`].

#[cfg(test)]
#[path = "../../fuzz/src/counting.rs"]
mod counting;

/// Tests measure what is held.
#[cfg(test)]
#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

pub mod batch;
pub mod checkpoint;
pub mod data_directory;
pub mod disk;
mod durable_replace;
pub mod end_mark;
pub mod entry;
pub mod identity;
pub mod ids;
pub mod journal;
pub mod limits;
pub mod log;
pub mod producer_state;
pub mod recovery;
pub mod reserve;
mod sealed;
pub mod segment_header;
pub mod segment_index;
