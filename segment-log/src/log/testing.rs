//! Logs of partitions that are new, for tests and benchmarks of this and other crates.

#![forbid(unsafe_code)]

use std::path::PathBuf;

use super::{Durability, LogConfig, OpenError, OpenSpec, Opening, PartitionLog, drive_open};
use crate::disk::Disk;
use crate::ids::{PartitionKey, TopicId};

/// A partition that was never there, under token space 1, with segments of 1 GiB. A test that cares for more
/// says so: `OpenSpec { clean: true, ..new_partition(directory, durability) }`.
pub fn new_partition(directory: PathBuf, durability: Durability) -> OpenSpec {
    OpenSpec {
        directory,
        key: PartitionKey {
            topic: TopicId([7; 16]),
            partition: 0,
        },
        config: LogConfig {
            segment_bytes: 1 << 30,
            segment_ms: i64::MAX,
            durability,
        },
        token_space: 1,
        checkpoint: None,
        clean: false,
        start_counter: 1,
        created: true,
    }
}

/// Opens it on a disk that gets on by itself; it takes appends.
///
/// # Errors
/// As any opening.
pub fn open(disk: &mut dyn Disk, spec: OpenSpec) -> Result<Box<PartitionLog>, OpenError> {
    let (mut log, _) = drive_open(disk, Opening::new(spec))?;
    log.confirm_term();
    Ok(log)
}
