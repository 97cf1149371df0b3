//! The checkpoint: what a shard knew to be durable in one data directory.
//!
//! Written whole, by replacing the file, by the shard that owns the partitions; read at
//! start, all that are found. It may prove that more was durable and spare re-reading; it
//! never is a reason to cut. A checkpoint of an older start says nothing of terms.
//!
//! A sealed file (see `docs/FORMAT.md`) with magic `TLOGCKP0`, version 0, and the archive
//! of [`Checkpoint`] in the order of its fields.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use rkyv::{Archive, Deserialize, Serialize};
use thiserror::Error;

pub use crate::sealed::SealedError;

use crate::ids::{EntryIndex, FilePosition, Incarnation, LeaderEpoch, Offset, PartitionKey};
use crate::limits::{
    CHECKPOINT_FILE_BYTES_MAX, CHECKPOINT_PARTITIONS_MAX, CHECKPOINT_PRODUCER_STATE_BYTES_MAX,
    CHECKPOINT_SEGMENTS_MAX, ENTRY_INDEX_MAX, PRODUCER_STATE_BYTES_MAX,
};
use crate::sealed::{at_most, seal, unseal};

/// First eight bytes of a checkpoint file.
pub const CHECKPOINT_MAGIC: [u8; 8] = *b"TLOGCKP0";
/// The version this program writes.
pub const CHECKPOINT_VERSION: u16 = 0;

/// One shard's checkpoint of one data directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The directory's start counter when it was written.
    pub start_counter: u64,
    /// The shard's partitions in this directory.
    pub partitions: Vec<PartitionCheckpoint>,
}

/// What is said of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct PartitionCheckpoint {
    /// Which partition.
    pub key: PartitionKey,
    /// Its current term.
    pub term: LeaderEpoch,
    /// The lowest offset it serves.
    pub log_start: Offset,
    /// Entries at or below it need not be read again at an unclean open.
    pub recovery_point: EntryIndex,
    /// Compaction, retention and TTL touch only entries at or below it.
    pub raft_base: EntryIndex,
    /// The highest index known to be on the disk.
    pub durable_index: EntryIndex,
    /// The offset that follows the entry at `durable_index`.
    pub next_offset: Offset,
    /// A `producer_state` payload as of the recovery point; a cache, may be empty.
    pub producer_state: Vec<u8>,
    /// Its segments, by base index.
    pub segments: Vec<SegmentCheckpoint>,
}

/// What is said of one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct SegmentCheckpoint {
    /// Which life of the file is meant.
    pub incarnation: Incarnation,
    /// In the file's name and header.
    pub base_index: EntryIndex,
    /// In the file's name and header.
    pub generation: u32,
    /// Where its durable entries end, in bytes from the start of the file.
    pub length: FilePosition,
    /// `header_crc` of the last durable entry; 0 if there is none.
    pub crc_chain_end: u32,
    /// The highest durable index in it.
    pub durable_index: EntryIndex,
}

const _: () = {
    assert!(size_of::<ArchivedCheckpoint>() == 16);
    assert!(size_of::<ArchivedPartitionCheckpoint>() == 80);
    assert!(size_of::<ArchivedSegmentCheckpoint>() == 56);
};

/// Why a checkpoint was refused; the other generation or recovery takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CheckpointError {
    /// The file is unfinished, damaged or of another version.
    #[error(transparent)]
    Sealed(#[from] SealedError),
    /// A number is negative or too high, or a partition is named twice.
    #[error("checkpoint contradicts itself")]
    Contradiction,
}

impl Checkpoint {
    /// The file's bytes.
    ///
    /// Producer state caches beyond [`CHECKPOINT_PRODUCER_STATE_BYTES_MAX`] in sum are left
    /// empty: an open then reads the log's newest `producer_state` entry instead.
    ///
    /// # Panics
    /// If the rest is beyond [`CHECKPOINT_FILE_BYTES_MAX`], which takes some ten million segments.
    pub fn encode(&self) -> Vec<u8> {
        let cached: usize = self
            .partitions
            .iter()
            .map(|partition| partition.producer_state.len())
            .sum();
        let bytes = if cached <= CHECKPOINT_PRODUCER_STATE_BYTES_MAX {
            seal(CHECKPOINT_MAGIC, CHECKPOINT_VERSION, self)
        } else {
            seal(CHECKPOINT_MAGIC, CHECKPOINT_VERSION, &self.with_fewer_caches())
        };
        assert!(
            bytes.len() <= CHECKPOINT_FILE_BYTES_MAX,
            "a checkpoint that would not decode again"
        );
        bytes
    }

    fn with_fewer_caches(&self) -> Self {
        let mut left = CHECKPOINT_PRODUCER_STATE_BYTES_MAX;
        let mut fewer = self.clone();
        for partition in &mut fewer.partitions {
            match left.checked_sub(partition.producer_state.len()) {
                Some(rest) => left = rest,
                None => partition.producer_state = Vec::new(),
            }
        }
        fewer
    }

    /// The checkpoint in a file.
    pub fn decode(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let checkpoint: Self = unseal(
            CHECKPOINT_MAGIC,
            CHECKPOINT_VERSION,
            bytes,
            CHECKPOINT_FILE_BYTES_MAX,
        )?;
        at_most(checkpoint.partitions.len(), CHECKPOINT_PARTITIONS_MAX)?;
        let mut keys = std::collections::HashSet::new();
        for partition in &checkpoint.partitions {
            at_most(partition.segments.len(), CHECKPOINT_SEGMENTS_MAX)?;
            at_most(partition.producer_state.len(), PRODUCER_STATE_BYTES_MAX)?;
            let valid = partition.key.partition >= 0
                && partition.term.0 >= 0
                && partition.log_start.0 >= 0
                && partition.next_offset.0 >= 0
                && partition.durable_index.0 <= ENTRY_INDEX_MAX
                && partition.recovery_point.0 <= ENTRY_INDEX_MAX
                && partition.segments.iter().all(SegmentCheckpoint::is_in_range)
                && keys.insert(partition.key);
            if !valid {
                return Err(CheckpointError::Contradiction);
            }
        }
        Ok(checkpoint)
    }

    /// What it says of a partition.
    pub fn partition(&self, key: &PartitionKey) -> Option<&PartitionCheckpoint> {
        self.partitions.iter().find(|partition| partition.key == *key)
    }
}

impl SegmentCheckpoint {
    fn is_in_range(&self) -> bool {
        self.base_index.0 <= ENTRY_INDEX_MAX && self.durable_index.0 <= ENTRY_INDEX_MAX
    }
}

impl PartitionCheckpoint {
    /// What it says of the segment of this incarnation.
    pub fn segment(&self, incarnation: &Incarnation) -> Option<&SegmentCheckpoint> {
        self.segments
            .iter()
            .find(|segment| segment.incarnation == *incarnation)
    }
}
