//! The promise: a log is a list of batches. Whatever the order of appends, flushes, ticks, rolls, reads, moves of the
//! log start, truncations, reopenings and crashes, it serves what was appended and not deleted, in order, at the
//! offsets it gave; so does each of several logs whose commits go through journals, with whatever number of shards a
//! start opens them.
//!
//! `TIDELOG_SIM_SEEDS` sets the number of cases, `TIDELOG_SIM_FIRST_SEED` the first.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod broker;
#[path = "../common/mod.rs"]
mod common;
mod epochs;
mod log_starts;
mod model;
mod one_log;
mod reads;
mod shards;

use std::path::Path;

use tidelog_segment_log::checkpoint::PartitionCheckpoint;
use tidelog_segment_log::log::testing::new_partition;
use tidelog_segment_log::log::{Durability, LogConfig, OpenSpec};

/// A partition on real files, with small segments.
fn spec(directory: &Path, checkpoint: Option<PartitionCheckpoint>, clean: bool, created: bool) -> OpenSpec {
    let new = new_partition(directory.to_path_buf(), Durability::Fsync);
    OpenSpec {
        config: LogConfig {
            segment_bytes: 64 << 10,
            segment_ms: 10_000,
            ..new.config
        },
        checkpoint,
        clean,
        start_counter: 2,
        created,
        ..new
    }
}
