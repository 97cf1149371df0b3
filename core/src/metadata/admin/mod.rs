//! Admin requests checked against an image: Kafka's codes and messages, and the records to append.
//!
//! Pure; group 0's shard. The functions decide, the caller appends `records` in order and answers when they
//! are committed and applied. One request sees its own earlier items, so two items cannot both win.

mod configs;
mod partitions;
mod topics;

use std::collections::{BTreeMap, HashSet};

pub use configs::{AlterConfigOp, AlterConfigsOutcome, AlterConfigsRequest, alter_topic_configs};
pub use partitions::{CreatePartitionsRequest, create_partitions};
pub use topics::{
    CreateTopicRequest, CreatedTopic, DeleteTopicRequest, DeletedTopic, create_topics, delete_topics,
};

use super::error::{KafkaError, code};
use super::image::MetadataImage;
use super::record::MetadataRecord;
use crate::limits::{CONFIGS_PER_TOPIC_MAX, PARTITIONS_PER_REQUEST_MAX, PARTITIONS_PER_TOPIC_MAX};
use crate::topic_config::validate_together;

/// What requests are checked against besides the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRules {
    /// Partitions for -1.
    pub default_partitions: i32,
    /// Replicas for -1.
    pub default_replication_factor: i16,
    /// Ids of the nodes that may hold replicas.
    pub node_ids: Vec<i32>,
    /// Partitions of all topics that memory is set aside for.
    pub partitions_max: u64,
    /// Count only, append nothing.
    pub validate_only: bool,
}

/// How many partitions may still be made, of what a request and the memory of the broker allow.
struct PartitionRoom {
    of_request: i64,
    of_memory: i64,
    partitions_max: u64,
}

impl PartitionRoom {
    fn new(image: &MetadataImage, rules: &TopicRules) -> Self {
        let room = i128::from(rules.partitions_max) - i128::from(image.partition_count());
        Self {
            of_request: PARTITIONS_PER_REQUEST_MAX,
            of_memory: i64::try_from(room).unwrap_or(i64::MAX),
            partitions_max: rules.partitions_max,
        }
    }

    /// Takes room for so many more.
    fn take(&mut self, partitions: i32) -> Result<(), KafkaError> {
        let partitions = i64::from(partitions);
        self.of_request -= partitions;
        if self.of_request < 0 {
            return Err(too_many_partitions());
        }
        if self.of_memory < partitions {
            let text = format!(
                "memory.limit has room for {} partitions of all topics, and {} of them are left; {partitions} more do not \
                 fit. Raise memory.limit or delete topics.",
                self.partitions_max,
                self.of_memory.max(0)
            );
            return Err(KafkaError::new(code::POLICY_VIOLATION, text));
        }
        self.of_memory -= partitions;
        Ok(())
    }
}

/// What a request leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned<T> {
    /// One per item of the request, in its order.
    pub outcomes: Vec<Result<T, KafkaError>>,
    /// To be appended in this order; empty when only validated.
    pub records: Vec<MetadataRecord>,
}

fn too_many_partitions() -> KafkaError {
    KafkaError::new(
        code::POLICY_VIOLATION,
        format!("Excessively large number of partitions per request (at most {PARTITIONS_PER_REQUEST_MAX})."),
    )
}

fn unknown_topic() -> KafkaError {
    KafkaError::new(
        code::UNKNOWN_TOPIC_OR_PARTITION,
        "This server does not host this topic-partition.",
    )
}

fn check_config_set(configs: &BTreeMap<String, String>) -> Result<(), KafkaError> {
    if configs.len() > CONFIGS_PER_TOPIC_MAX {
        let text = format!("More than {CONFIGS_PER_TOPIC_MAX} configurations on one topic.");
        return Err(KafkaError::new(code::INVALID_CONFIG, text));
    }
    Ok(validate_together(configs)?)
}

fn check_partition_limit(partitions: i32) -> Result<(), KafkaError> {
    if partitions > PARTITIONS_PER_TOPIC_MAX {
        let text = format!("A topic may have at most {PARTITIONS_PER_TOPIC_MAX} partitions here.");
        return Err(KafkaError::new(code::INVALID_PARTITIONS, text));
    }
    Ok(())
}

/// Checks replica lists of one topic: known nodes, none twice, all of one length (`expected` if given).
fn check_replica_lists(
    rules: &TopicRules,
    lists: &[&[i32]],
    mut expected: Option<usize>,
) -> Result<i16, KafkaError> {
    let wrong = |text: String| Err(KafkaError::new(code::INVALID_REPLICA_ASSIGNMENT, text));
    for nodes in lists {
        if nodes.is_empty() {
            return wrong("The manual partition assignment includes an empty replica list.".to_owned());
        }
        let unique: HashSet<&i32> = nodes.iter().collect();
        if unique.len() != nodes.len() {
            return wrong("The manual partition assignment includes the same broker twice.".to_owned());
        }
        if let Some(unknown) = nodes.iter().find(|node| !rules.node_ids.contains(node)) {
            return wrong(format!(
                "The manual partition assignment includes broker {unknown}, but no such broker is registered."
            ));
        }
        if *expected.get_or_insert(nodes.len()) != nodes.len() {
            return wrong(
                "The manual partition assignment includes replica lists of different lengths.".to_owned(),
            );
        }
    }
    Ok(expected.and_then(|n| i16::try_from(n).ok()).unwrap_or(1))
}

#[cfg(test)]
mod tests;
