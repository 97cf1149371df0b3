//! CreateTopics and DeleteTopics.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use super::{
    PartitionRoom, Planned, TopicRules, check_config_set, check_partition_limit, check_replica_lists,
    unknown_topic,
};
use crate::metadata::error::{KafkaError, code};
use crate::metadata::image::MetadataImage;
use crate::metadata::names::{check_topic_name, collision_key, is_internal};
use crate::metadata::record::MetadataRecord;
use crate::topic_config::validate;

/// One topic of CreateTopics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CreateTopicRequest {
    /// Name.
    pub name: String,
    /// Partitions; -1 for the default or with `assignments`.
    pub partitions: i32,
    /// Replicas; -1 for the default or with `assignments`.
    pub replication_factor: i16,
    /// Manual assignment: partition and the nodes that hold it.
    pub assignments: Vec<(i32, Vec<i32>)>,
    /// Configurations; a null value is refused.
    pub configs: Vec<(String, Option<String>)>,
}

/// A topic as it was (or would be) made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedTopic {
    /// Name.
    pub name: String,
    /// Id; nil when only validated.
    pub topic_id: Uuid,
    /// Partitions.
    pub partitions: i32,
    /// Replicas.
    pub replication_factor: i16,
    /// What was set.
    pub configs: BTreeMap<String, String>,
    /// What was set and does nothing (yet): to be named once in the log.
    pub without_effect: Vec<&'static str>,
}

/// Checks CreateTopics. `new_id` gives fresh random ids.
pub fn create_topics(
    image: &MetadataImage,
    rules: &TopicRules,
    requests: &[CreateTopicRequest],
    mut new_id: impl FnMut() -> Uuid,
) -> Planned<CreatedTopic> {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for request in requests {
        *seen.entry(request.name.as_str()).or_default() += 1;
    }
    let mut planned = Planned {
        outcomes: Vec::with_capacity(requests.len()),
        records: Vec::new(),
    };
    let mut taken: HashMap<String, &str> = HashMap::new();
    let mut room = PartitionRoom::new(image, rules);
    for request in requests {
        let mut outcome = if seen.get(request.name.as_str()).copied().unwrap_or(0) > 1 {
            Err(KafkaError::new(code::INVALID_REQUEST, "Duplicate topic name."))
        } else {
            check_create(image, rules, request, &taken)
        };
        if let Ok(topic) = &mut outcome {
            if let Err(error) = room.take(topic.partitions) {
                outcome = Err(error);
            } else {
                taken.insert(collision_key(&request.name), &request.name);
                if !rules.validate_only {
                    topic.topic_id = fresh_id(image, &mut new_id);
                    planned.records.push(MetadataRecord::TopicCreated {
                        name: topic.name.clone(),
                        topic_id: topic.topic_id,
                        partitions: topic.partitions,
                        replication_factor: topic.replication_factor,
                        configs: topic.configs.clone().into_iter().collect(),
                    });
                }
            }
        }
        planned.outcomes.push(outcome);
    }
    planned
}

/// Kafka never gives the nil id or one that is in use; random ids make a second try all but impossible.
fn fresh_id(image: &MetadataImage, new_id: &mut impl FnMut() -> Uuid) -> Uuid {
    loop {
        let id = new_id();
        if !id.is_nil() && image.topic_by_id(id).is_none() {
            return id;
        }
    }
}

fn check_create(
    image: &MetadataImage,
    rules: &TopicRules,
    request: &CreateTopicRequest,
    taken: &HashMap<String, &str>,
) -> Result<CreatedTopic, KafkaError> {
    let name = request.name.as_str();
    check_topic_name(name)?;
    if is_internal(name) {
        let text = format!("Topic '{name}' is reserved for the broker's own use.");
        return Err(KafkaError::new(code::INVALID_TOPIC_EXCEPTION, text));
    }
    if image.topic(name).is_some() {
        return Err(KafkaError::new(
            code::TOPIC_ALREADY_EXISTS,
            format!("Topic '{name}' already exists."),
        ));
    }
    let other = image.colliding(name).map(AsRef::as_ref);
    if let Some(other) = other.or_else(|| taken.get(&collision_key(name)).copied()) {
        let text = format!("Topic '{name}' collides with existing topic: {other}");
        return Err(KafkaError::new(code::INVALID_TOPIC_EXCEPTION, text));
    }
    let (partitions, replication_factor) = if request.assignments.is_empty() {
        check_counts(rules, request.partitions, request.replication_factor)?
    } else {
        check_assigned(rules, request)?
    };
    let mut configs = BTreeMap::new();
    let mut without_effect = Vec::new();
    for (key, value) in &request.configs {
        let Some(value) = value else {
            let text = format!("Null value not supported for topic configs: {key}");
            return Err(KafkaError::new(code::INVALID_CONFIG, text));
        };
        let definition = validate(key, value)?;
        if definition.class.is_without_effect() {
            without_effect.push(definition.name);
        }
        configs.insert(key.clone(), value.clone());
    }
    check_config_set(&configs)?;
    Ok(CreatedTopic {
        name: name.to_owned(),
        topic_id: Uuid::nil(),
        partitions,
        replication_factor,
        configs,
        without_effect,
    })
}

fn check_counts(rules: &TopicRules, partitions: i32, replicas: i16) -> Result<(i32, i16), KafkaError> {
    let partitions = match partitions {
        -1 => rules.default_partitions,
        n if n <= 0 => {
            return Err(KafkaError::new(
                code::INVALID_PARTITIONS,
                "Number of partitions was set to an invalid non-positive value.",
            ));
        }
        n => n,
    };
    check_partition_limit(partitions)?;
    let replicas = match replicas {
        -1 => rules.default_replication_factor,
        n if n <= 0 => {
            return Err(KafkaError::new(
                code::INVALID_REPLICATION_FACTOR,
                "Replication factor must be larger than 0, or -1 to use the default value.",
            ));
        }
        n => n,
    };
    if usize::try_from(replicas).unwrap_or(0) > rules.node_ids.len() {
        let text = format!(
            "Unable to replicate the partition {replicas} time(s): The target replication factor of {replicas} \
             cannot be reached because only {} broker(s) are registered.",
            rules.node_ids.len()
        );
        return Err(KafkaError::new(code::INVALID_REPLICATION_FACTOR, text));
    }
    Ok((partitions, replicas))
}

fn check_assigned(rules: &TopicRules, request: &CreateTopicRequest) -> Result<(i32, i16), KafkaError> {
    if request.partitions != -1 || request.replication_factor != -1 {
        let field = if request.partitions != -1 {
            "numPartitions"
        } else {
            "replicationFactor"
        };
        return Err(KafkaError::new(
            code::INVALID_REQUEST,
            format!("A manual partition assignment was specified, but {field} was not set to -1."),
        ));
    }
    let wrong = |text: String| Err(KafkaError::new(code::INVALID_REPLICA_ASSIGNMENT, text));
    let mut indexes: Vec<i32> = request
        .assignments
        .iter()
        .map(|(partition, _)| *partition)
        .collect();
    indexes.sort_unstable();
    if !indexes
        .iter()
        .zip(0_i32..)
        .all(|(index, expected)| *index == expected)
    {
        return wrong("partitions should be a consecutive 0-based integer sequence".to_owned());
    }
    let lists: Vec<&[i32]> = request
        .assignments
        .iter()
        .map(|(_, nodes)| nodes.as_slice())
        .collect();
    let replicas = check_replica_lists(rules, &lists, None)?;
    let partitions = i32::try_from(indexes.len()).unwrap_or(i32::MAX);
    check_partition_limit(partitions)?;
    Ok((partitions, replicas))
}

/// One topic of DeleteTopics, by name or by id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteTopicRequest {
    /// Name, or null.
    pub name: Option<String>,
    /// Id, or nil.
    pub topic_id: Uuid,
}

/// A topic that goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletedTopic {
    /// Name.
    pub name: String,
    /// Id.
    pub topic_id: Uuid,
}

/// Checks DeleteTopics.
pub fn delete_topics(image: &MetadataImage, requests: &[DeleteTopicRequest]) -> Planned<DeletedTopic> {
    let found: Vec<Result<DeletedTopic, KafkaError>> = requests
        .iter()
        .map(|request| check_delete(image, request))
        .collect();
    let mut seen: HashMap<Uuid, usize> = HashMap::new();
    for topic in found.iter().flatten() {
        *seen.entry(topic.topic_id).or_default() += 1;
    }
    let outcomes: Vec<_> = found
        .into_iter()
        .map(|outcome| match outcome {
            Ok(topic) if seen.get(&topic.topic_id).copied().unwrap_or(0) > 1 => Err(KafkaError::new(
                code::INVALID_REQUEST,
                "Duplicate topic name or id.",
            )),
            other => other,
        })
        .collect();
    let records = outcomes
        .iter()
        .flatten()
        .map(|topic| MetadataRecord::TopicDeleted {
            topic_id: topic.topic_id,
        })
        .collect();
    Planned { outcomes, records }
}

fn check_delete(image: &MetadataImage, request: &DeleteTopicRequest) -> Result<DeletedTopic, KafkaError> {
    let topic = match &request.name {
        Some(_) if !request.topic_id.is_nil() => {
            return Err(KafkaError::new(
                code::INVALID_REQUEST,
                "You may not specify both topic name and topic id.",
            ));
        }
        None if request.topic_id.is_nil() => {
            return Err(KafkaError::new(
                code::INVALID_REQUEST,
                "Neither topic name nor id were specified.",
            ));
        }
        Some(name) => image.topic(name).ok_or_else(unknown_topic)?,
        None => image.topic_by_id(request.topic_id).ok_or_else(|| {
            KafkaError::new(code::UNKNOWN_TOPIC_ID, "This server does not host this topic ID.")
        })?,
    };
    if is_internal(&topic.name) {
        return Err(KafkaError::new(
            code::INVALID_REQUEST,
            format!(
                "Topic '{}' belongs to the broker and cannot be deleted.",
                topic.name
            ),
        ));
    }
    Ok(DeletedTopic {
        name: topic.name.to_string(),
        topic_id: topic.topic_id,
    })
}
