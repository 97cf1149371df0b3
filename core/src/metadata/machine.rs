//! The deterministic machine: records in, images out.
//!
//! Owned by group 0's shard. An error means the log says something impossible: the caller ends the process
//! with `FatalReason::Metadata`, since every further record would build on it.

use std::collections::HashSet;
use std::sync::Arc;

use uuid::Uuid;

use super::image::{MetadataImage, TopicImage};
use super::names::{check_topic_name, collision_key};
use super::record::MetadataRecord;
use crate::limits::PARTITIONS_PER_TOPIC_MAX;

/// A record that cannot follow the ones before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The name or id is taken, or was.
    #[error("metadata log creates topic {name:?} ({topic_id}), whose name or id is taken")]
    Taken {
        /// The name.
        name: String,
        /// The id.
        topic_id: Uuid,
    },
    /// No such topic.
    #[error("metadata log changes topic {0}, which it never created or already deleted")]
    NoTopic(Uuid),
    /// A number or name is outside its bounds, or moves backwards.
    #[error("metadata log holds an impossible value: {0}")]
    Impossible(&'static str),
}

/// State after the records so far.
#[derive(Debug, Clone, Default)]
pub struct MetadataMachine {
    image: Arc<MetadataImage>,
    dead: HashSet<Uuid>,
}

impl MetadataMachine {
    /// Before the first record.
    pub fn new() -> Self {
        Self::default()
    }

    /// The present image, to be shared with every shard.
    pub fn image(&self) -> Arc<MetadataImage> {
        Arc::clone(&self.image)
    }

    /// True only where a deletion is recorded; an unknown id is not dead.
    pub fn is_deleted(&self, topic_id: Uuid) -> bool {
        self.dead.contains(&topic_id)
    }

    /// Applies the next record of the log. On an error nothing has changed.
    pub fn apply(&mut self, record: &MetadataRecord) -> Result<(), ApplyError> {
        match record {
            MetadataRecord::TopicCreated {
                name,
                topic_id,
                partitions,
                replication_factor,
                configs,
            } => {
                let taken = self.image.by_name.contains_key(name.as_str())
                    || self.image.by_id.contains_key(topic_id)
                    || self.dead.contains(topic_id);
                if taken || topic_id.is_nil() {
                    return Err(ApplyError::Taken {
                        name: name.clone(),
                        topic_id: *topic_id,
                    });
                }
                check_topic_name(name).map_err(|_| ApplyError::Impossible("topic name"))?;
                check_partitions(*partitions, 0)?;
                if *replication_factor < 1 {
                    return Err(ApplyError::Impossible("replication factor"));
                }
                let topic = TopicImage {
                    name: name.as_str().into(),
                    topic_id: *topic_id,
                    partitions: *partitions,
                    replication_factor: *replication_factor,
                    configs: configs.iter().cloned().collect(),
                    placements: Default::default(),
                    directories: Default::default(),
                };
                let image = self.next();
                image
                    .by_collision_key
                    .insert(collision_key(name), Arc::clone(&topic.name));
                image.put(topic);
            }
            MetadataRecord::PartitionsAdded { topic_id, partitions } => {
                let mut topic = self.topic(*topic_id)?;
                check_partitions(*partitions, topic.partitions)?;
                topic.partitions = *partitions;
                self.next().put(topic);
            }
            MetadataRecord::TopicDeleted { topic_id } => {
                let topic = self.topic(*topic_id)?;
                let image = self.next();
                image.remove(&topic);
                self.dead.insert(*topic_id);
            }
            MetadataRecord::TopicConfigSet { topic_id, key, value } => {
                let mut topic = self.topic(*topic_id)?;
                topic.configs.insert(key.clone(), value.clone());
                self.next().put(topic);
            }
            MetadataRecord::TopicConfigUnset { topic_id, key } => {
                let mut topic = self.topic(*topic_id)?;
                topic.configs.remove(key);
                self.next().put(topic);
            }
            MetadataRecord::ProducerIdsAllocated { next } => {
                if *next < self.image.next_producer_id {
                    return Err(ApplyError::Impossible("producer ids move backwards"));
                }
                self.next().next_producer_id = *next;
            }
            MetadataRecord::PlacementOverride {
                topic_id,
                partition,
                shard,
            } => {
                let mut topic = self.topic(*topic_id)?;
                if !topic.has_partition(*partition) {
                    return Err(ApplyError::Impossible(
                        "placement of a partition that is not there",
                    ));
                }
                match shard {
                    Some(shard) => topic.placements.insert(*partition, *shard),
                    None => topic.placements.remove(partition),
                };
                self.next().put(topic);
            }
            MetadataRecord::DirectoriesAssigned {
                topic_id,
                first,
                directories,
            } => {
                let mut topic = self.topic(*topic_id)?;
                let assigned = Arc::make_mut(&mut topic.directories);
                for (at, directory) in (*first..=i32::MAX).zip(directories) {
                    if !(0..topic.partitions).contains(&at) {
                        return Err(ApplyError::Impossible(
                            "directory of a partition that is not there",
                        ));
                    }
                    match directory.is_nil() {
                        true => assigned.remove(&at),
                        false => assigned.insert(at, *directory),
                    };
                }
                self.next().put(topic);
            }
        }
        Ok(())
    }

    /// The image to be changed: this machine's own if nobody else holds it, else a copy.
    fn next(&mut self) -> &mut MetadataImage {
        let image = Arc::make_mut(&mut self.image);
        image.version += 1;
        image
    }

    fn topic(&self, topic_id: Uuid) -> Result<TopicImage, ApplyError> {
        let topic = self
            .image
            .by_id
            .get(&topic_id)
            .ok_or(ApplyError::NoTopic(topic_id))?;
        Ok(TopicImage::clone(topic))
    }
}

fn check_partitions(partitions: i32, above: i32) -> Result<(), ApplyError> {
    if partitions > above && partitions <= PARTITIONS_PER_TOPIC_MAX {
        Ok(())
    } else {
        Err(ApplyError::Impossible("partition count"))
    }
}

impl MetadataImage {
    fn put(&mut self, topic: TopicImage) {
        let topic = Arc::new(topic);
        let before = self.by_id.insert(topic.topic_id, Arc::clone(&topic));
        self.by_name.insert(Arc::clone(&topic.name), Arc::clone(&topic));
        self.partitions -= before.map_or(0, |t| u64::from(t.partitions.unsigned_abs()));
        self.partitions += u64::from(topic.partitions.unsigned_abs());
    }

    fn remove(&mut self, topic: &TopicImage) {
        self.by_id.remove(&topic.topic_id);
        self.by_name.remove(&topic.name);
        let key = collision_key(&topic.name);
        if self.by_collision_key.get(&key) == Some(&topic.name) {
            self.by_collision_key.remove(&key);
        }
        self.partitions -= u64::from(topic.partitions.unsigned_abs());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn created(name: &str, id: u128, partitions: i32) -> MetadataRecord {
        MetadataRecord::TopicCreated {
            name: name.into(),
            topic_id: Uuid::from_u128(id),
            partitions,
            replication_factor: 1,
            configs: vec![],
        }
    }

    #[test]
    fn a_life_of_a_topic() {
        let mut machine = MetadataMachine::new();
        let topic_id = Uuid::from_u128(1);
        machine.apply(&created("a.b", 1, 2)).unwrap();
        let before = machine.image();
        machine
            .apply(&MetadataRecord::PartitionsAdded {
                topic_id,
                partitions: 4,
            })
            .unwrap();
        let set = |value: &str| MetadataRecord::TopicConfigSet {
            topic_id,
            key: "k".into(),
            value: value.into(),
        };
        machine.apply(&set("1")).unwrap();
        machine.apply(&set("2")).unwrap();
        machine
            .apply(&MetadataRecord::PlacementOverride {
                topic_id,
                partition: 3,
                shard: Some(1),
            })
            .unwrap();
        let image = machine.image();
        let topic = image.topic("a.b").unwrap();
        assert_eq!((topic.partitions, topic.configs["k"].as_str()), (4, "2"));
        assert_eq!(
            (topic.shard_of(3, 2), image.partition_count(), image.version()),
            (1, 4, 5)
        );
        assert_eq!(image.colliding("a_b").map(AsRef::as_ref), Some("a.b"));
        assert!(image.colliding("a.b").is_none());
        assert_eq!(
            (before.topic("a.b").unwrap().partitions, before.version()),
            (2, 1),
            "images never change"
        );
        machine
            .apply(&MetadataRecord::TopicConfigUnset {
                topic_id,
                key: "k".into(),
            })
            .unwrap();
        machine.apply(&MetadataRecord::TopicDeleted { topic_id }).unwrap();
        let image = machine.image();
        assert!(image.topic("a.b").is_none() && image.topic_by_id(topic_id).is_none());
        assert!(image.colliding("a_b").is_none() && machine.is_deleted(topic_id));
        assert_eq!((image.topic_count(), image.partition_count()), (0, 0));
        machine.apply(&created("a.b", 2, 1)).unwrap();
        assert!(!machine.is_deleted(Uuid::from_u128(2)));
    }

    #[test]
    fn impossible_records_change_nothing() {
        let mut machine = MetadataMachine::new();
        machine.apply(&created("a", 1, 2)).unwrap();
        machine
            .apply(&MetadataRecord::ProducerIdsAllocated { next: 10 })
            .unwrap();
        let topic_id = Uuid::from_u128(1);
        let unknown = Uuid::from_u128(9);
        let before = machine.image();
        for record in [
            created("a", 2, 1),
            created("b", 1, 1),
            created("b", 0, 1),
            created("b c", 3, 1),
            created("b", 3, 0),
            created("b", 3, PARTITIONS_PER_TOPIC_MAX + 1),
            MetadataRecord::PartitionsAdded {
                topic_id,
                partitions: 2,
            },
            MetadataRecord::PartitionsAdded {
                topic_id: unknown,
                partitions: 2,
            },
            MetadataRecord::TopicDeleted { topic_id: unknown },
            MetadataRecord::ProducerIdsAllocated { next: 9 },
            MetadataRecord::PlacementOverride {
                topic_id,
                partition: 2,
                shard: None,
            },
            MetadataRecord::DirectoriesAssigned {
                topic_id,
                first: 1,
                directories: vec![Uuid::from_u128(3); 2],
            },
            MetadataRecord::DirectoriesAssigned {
                topic_id,
                first: -1,
                directories: vec![Uuid::from_u128(3)],
            },
        ] {
            assert!(machine.apply(&record).is_err(), "{record:?}");
            assert_eq!(machine.image(), before);
        }
        machine.apply(&MetadataRecord::TopicDeleted { topic_id }).unwrap();
        assert!(
            machine.apply(&created("new", 1, 1)).is_err(),
            "an id is never used twice"
        );
    }

    #[test]
    fn same_records_same_image() {
        let run = || {
            let mut machine = MetadataMachine::new();
            for id in 1..50 {
                machine.apply(&created(&format!("t{id}"), id, 3)).unwrap();
                if id % 3 == 0 {
                    machine
                        .apply(&MetadataRecord::TopicDeleted {
                            topic_id: Uuid::from_u128(id - 1),
                        })
                        .unwrap();
                }
            }
            machine.image()
        };
        assert_eq!(run(), run());
        assert_eq!(run().topic_count(), 33);
    }
}
