//! The data directories of a shard: where each partition has its files, and what goes on when one fails.
//!
//! Owned by the shard. Each directory is complete in itself: its partitions, and this shard's checkpoint of them.
//! The first holds the metadata log. Invariants: a partition has its files in one directory, the one that the
//! metadata names, and is never made in another while that one is missing; a directory that has failed is not
//! written to again before a restart, and its partitions answer KAFKA_STORAGE_ERROR while the others serve.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidelog_segment_log::checkpoint::PartitionCheckpoint;
use tidelog_segment_log::data_directory::{DataDirectory, PartitionEvidence};
use tidelog_segment_log::ids::PartitionKey;

use super::Partitions;
use super::checkpoints::Checkpoints;
use crate::directory_space::DirectorySpace;
use crate::limits::DATA_DIRS_MAX;
use crate::metadata::{DirectoryChoice, TopicImage};
use tidelog_net::Uuid;

/// A data directory of this process: its place in the list that all shards have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirectoryId(u8);

const _: () = assert!(DATA_DIRS_MAX <= u8::MAX as usize);

impl DirectoryId {
    /// The directory of the metadata log.
    pub(in crate::shard) const HOME: Self = Self(0);

    pub(super) fn at(place: usize) -> Self {
        Self(u8::try_from(place).unwrap_or(u8::MAX))
    }

    /// Its place in the list.
    pub(in crate::shard) fn place(self) -> usize {
        usize::from(self.0)
    }
}

/// What a shard is told of one data directory.
#[derive(Clone, Debug)]
pub struct DirectorySeed {
    /// The directory this process holds.
    pub directory: Arc<DataDirectory>,
    /// The room on its file system, and whether it has failed.
    pub space: Arc<DirectorySpace>,
}

impl DirectorySeed {
    /// What the checkpoints found at start say of a partition, and what its files may take that are recycled.
    pub fn evidence(&self, key: &PartitionKey) -> PartitionEvidence {
        let mut evidence = self.directory.evidence(key);
        evidence.options.spares = Some(self.space.spares().clone());
        evidence
    }

    /// Where partitions have their directories.
    pub(super) fn partitions_path(&self) -> PathBuf {
        self.directory.path().join("partitions")
    }

    /// Where a partition's files are.
    pub fn partition_path(&self, key: &PartitionKey) -> PathBuf {
        self.partitions_path().join(partition_name(key))
    }
}

/// The name of a partition's directory.
pub(super) fn partition_name(key: &PartitionKey) -> String {
    let topic: String = key.topic.0.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{topic}-{}", key.partition)
}

/// What a shard is told of all data directories.
#[derive(Clone, Debug)]
pub struct DirectoriesSeed {
    /// The one that holds the metadata log.
    pub home: DirectorySeed,
    /// The others, in the same order on all shards.
    pub others: Vec<DirectorySeed>,
    /// Those that were given and could not be used.
    pub unusable: Vec<PathBuf>,
}

impl DirectoriesSeed {
    /// By the clock of that time, in ms since 1970: when the last start before this one wrote to any of them.
    pub(super) fn last_change_ms(&self) -> Option<i64> {
        let all = std::iter::once(&self.home).chain(&self.others);
        all.filter_map(|seed| seed.directory.last_change_ms()).max()
    }
}

/// One directory as a shard uses it.
pub(super) struct OwnDirectory {
    pub(super) seed: DirectorySeed,
    pub(super) checkpoints: Checkpoints,
    /// What its partitions said when they were closed.
    pub(super) closed: Option<Vec<PartitionCheckpoint>>,
}

impl OwnDirectory {
    pub(super) fn all(seed: DirectoriesSeed) -> Vec<Self> {
        let all = std::iter::once(seed.home).chain(seed.others);
        all.map(|seed| Self {
            seed,
            checkpoints: Checkpoints::default(),
            closed: None,
        })
        .collect()
    }

    pub(super) fn has_failed(&self) -> bool {
        self.seed.space.has_failed()
    }
}

/// What DescribeLogDirs tells of a directory.
pub(in crate::shard) struct DirectoryShown<'a> {
    pub(in crate::shard) id: DirectoryId,
    pub(in crate::shard) path: &'a Path,
    pub(in crate::shard) space: &'a DirectorySpace,
}

impl Partitions {
    pub(super) fn directory(&self, id: DirectoryId) -> Option<&OwnDirectory> {
        self.directories.get(id.place())
    }

    /// Where a partition has its files. None: in memory, or in a directory that this process does not have.
    pub(in crate::shard) fn directory_of(&self, topic: &TopicImage, partition: i32) -> Option<DirectoryId> {
        if topic.is_in_memory() {
            return None;
        }
        let id = topic.directory_of(partition);
        if id.is_nil() {
            return Some(DirectoryId::HOME);
        }
        self.directories
            .iter()
            .position(|directory| directory.seed.directory.id() == id.into_bytes())
            .map(DirectoryId::at)
    }

    /// The directories of this process, in order.
    pub(in crate::shard) fn shown(&self) -> impl Iterator<Item = DirectoryShown<'_>> {
        self.directories
            .iter()
            .enumerate()
            .map(|(place, directory)| DirectoryShown {
                id: DirectoryId::at(place),
                path: directory.seed.directory.path(),
                space: &directory.seed.space,
            })
    }

    /// Those that were given and could not be used at start.
    pub(in crate::shard) fn unusable(&self) -> &[PathBuf] {
        &self.unusable
    }

    /// Where new partitions may go.
    pub(in crate::shard) fn choices(&self) -> Vec<DirectoryChoice> {
        self.directories
            .iter()
            .enumerate()
            .filter(|(_, directory)| !directory.has_failed())
            .map(|(place, directory)| DirectoryChoice {
                id: match place {
                    0 => Uuid::nil(),
                    _ => Uuid::from_bytes(directory.seed.directory.id()),
                },
                takes_writes: directory.seed.space.takes_writes(),
                usable_bytes: directory.seed.space.usable_bytes(),
            })
            .collect()
    }

    /// The directory of the metadata log.
    pub(in crate::shard) fn home(&self) -> &DirectorySeed {
        self.directories
            .first()
            .map_or_else(|| unreachable!("there is a directory"), |home| &home.seed)
    }

    /// A directory does not do what it is asked: nothing is written there any more. True: that is to end the
    /// process, since the metadata log is there.
    pub(super) fn give_up(&self, id: DirectoryId, reason: &str) -> bool {
        if id == DirectoryId::HOME {
            return true;
        }
        if let Some(directory) = self.directory(id) {
            let path = directory.seed.directory.path().display();
            if directory.seed.space.health().fail(reason) {
                tracing::error!(%path, reason, "the data directory has failed: its partitions are unavailable until a restart");
            }
        }
        false
    }
}
