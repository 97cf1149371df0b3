//! The immutable picture of the metadata that every shard reads.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use uuid::Uuid;

use super::names::collision_key;
use super::placement::shard_of;
use crate::topic_config::Storage;

/// One topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicImage {
    /// Its name.
    pub name: Arc<str>,
    /// Its id.
    pub topic_id: Uuid,
    /// Partitions 0 to this, exclusive.
    pub partitions: i32,
    /// Replicas of each.
    pub replication_factor: i16,
    /// What was set on it, by Kafka's names.
    pub configs: BTreeMap<String, String>,
    /// Partitions that live where the formula would not put them.
    pub placements: BTreeMap<i32, u16>,
    /// Partitions whose files are not in the data directory of the metadata log, and the ids of theirs.
    pub directories: Arc<BTreeMap<i32, Uuid>>,
}

impl TopicImage {
    /// True when the topic has this partition.
    pub fn has_partition(&self, partition: i32) -> bool {
        (0..self.partitions).contains(&partition)
    }

    /// Whether its records are kept in memory only, and in no data directory.
    pub fn is_in_memory(&self) -> bool {
        Storage::of(&self.configs) == Storage::Memory
    }

    /// The id of the data directory of a partition; nil: the one of the metadata log.
    pub fn directory_of(&self, partition: i32) -> Uuid {
        self.directories.get(&partition).copied().unwrap_or(Uuid::nil())
    }

    /// The shard that owns a partition.
    pub fn shard_of(&self, partition: i32, shards: u16) -> u16 {
        shard_of(
            self.topic_id,
            partition,
            shards,
            self.placements.get(&partition).copied(),
        )
    }
}

/// All topics, at one point of the metadata log. Shared by `Arc`; never changes.
///
/// Making the next image copies two maps of pointers, so a change costs time in the number of topics and
/// a read costs nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetadataImage {
    pub(super) by_name: BTreeMap<Arc<str>, Arc<TopicImage>>,
    pub(super) by_id: HashMap<Uuid, Arc<TopicImage>, foldhash::fast::RandomState>,
    pub(super) by_collision_key: HashMap<String, Arc<str>>,
    pub(super) next_producer_id: i64,
    pub(super) version: u64,
    pub(super) partitions: u64,
}

impl MetadataImage {
    /// The topic of a name.
    pub fn topic(&self, name: &str) -> Option<&Arc<TopicImage>> {
        self.by_name.get(name)
    }

    /// The topic of an id.
    pub fn topic_by_id(&self, topic_id: Uuid) -> Option<&Arc<TopicImage>> {
        self.by_id.get(&topic_id)
    }

    /// All topics by name.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = &Arc<TopicImage>> {
        self.by_name.values()
    }

    /// Topics by name, from this name on (the first one without).
    pub fn topics_from(&self, name: Option<&str>) -> impl Iterator<Item = &Arc<TopicImage>> {
        let from = name.map_or(Bound::Unbounded, Bound::Included);
        let topics = self.by_name.range::<str, _>((from, Bound::Unbounded));
        topics.map(|(_, topic)| topic)
    }

    /// How many topics there are.
    pub fn topic_count(&self) -> usize {
        self.by_name.len()
    }

    /// How many partitions there are in all topics.
    pub fn partition_count(&self) -> u64 {
        self.partitions
    }

    /// The first producer id that is not given away.
    pub fn next_producer_id(&self) -> i64 {
        self.next_producer_id
    }

    /// Records applied so far; a higher one is a newer image.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The existing topic that `name` collides with (`a.b` and `a_b`), other than itself.
    pub fn colliding(&self, name: &str) -> Option<&Arc<str>> {
        self.by_collision_key
            .get(&collision_key(name))
            .filter(|existing| existing.as_ref() != name)
    }
}
