//! The log on disk: entries, segments, indexes, checkpoints and recovery.
//!
//! Knows no runtime and no wire protocol; all files are reached through [`disk::Disk`].

pub mod disk;
