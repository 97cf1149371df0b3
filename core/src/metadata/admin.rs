//! Admin requests checked against an image: Kafka's codes and messages, and the records to append.
//!
//! Pure; group 0's shard. The functions decide, the caller appends `records` in order and answers when they
//! are committed and applied. One request sees its own earlier items, so two items cannot both win.

use std::collections::{BTreeMap, HashMap, HashSet};

use uuid::Uuid;

use super::error::{KafkaError, code};
use super::image::MetadataImage;
use super::names::{check_topic_name, collision_key, is_internal};
use super::record::MetadataRecord;
use crate::limits::{CONFIGS_PER_TOPIC_MAX, PARTITIONS_PER_REQUEST_MAX, PARTITIONS_PER_TOPIC_MAX};
use crate::topic_config::{ConfigType, find, validate, validate_together};

/// What requests are checked against besides the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRules {
    /// Partitions for -1.
    pub default_partitions: i32,
    /// Replicas for -1.
    pub default_replication_factor: i16,
    /// Ids of the nodes that may hold replicas.
    pub node_ids: Vec<i32>,
    /// Count only, append nothing.
    pub validate_only: bool,
}

/// What a request leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned<T> {
    /// One per item of the request, in its order.
    pub outcomes: Vec<Result<T, KafkaError>>,
    /// To be appended in this order; empty when only validated.
    pub records: Vec<MetadataRecord>,
}

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
    let mut budget = PARTITIONS_PER_REQUEST_MAX;
    for request in requests {
        let mut outcome = if seen.get(request.name.as_str()).copied().unwrap_or(0) > 1 {
            Err(KafkaError::new(code::INVALID_REQUEST, "Duplicate topic name."))
        } else {
            check_create(image, rules, request, &taken)
        };
        if let Ok(topic) = &mut outcome {
            budget -= i64::from(topic.partitions);
            if budget < 0 {
                outcome = Err(too_many_partitions());
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

fn too_many_partitions() -> KafkaError {
    KafkaError::new(
        code::POLICY_VIOLATION,
        format!("Excessively large number of partitions per request (at most {PARTITIONS_PER_REQUEST_MAX})."),
    )
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

fn check_config_set(configs: &BTreeMap<String, String>) -> Result<(), KafkaError> {
    if configs.len() > CONFIGS_PER_TOPIC_MAX {
        let text = format!("More than {CONFIGS_PER_TOPIC_MAX} configurations on one topic.");
        return Err(KafkaError::new(code::INVALID_CONFIG, text));
    }
    Ok(validate_together(configs)?)
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

fn check_partition_limit(partitions: i32) -> Result<(), KafkaError> {
    if partitions > PARTITIONS_PER_TOPIC_MAX {
        let text = format!("A topic may have at most {PARTITIONS_PER_TOPIC_MAX} partitions here.");
        return Err(KafkaError::new(code::INVALID_PARTITIONS, text));
    }
    Ok(())
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

fn unknown_topic() -> KafkaError {
    KafkaError::new(
        code::UNKNOWN_TOPIC_OR_PARTITION,
        "This server does not host this topic-partition.",
    )
}

/// One topic of CreatePartitions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CreatePartitionsRequest {
    /// Name.
    pub name: String,
    /// Partitions in total afterwards.
    pub count: i32,
    /// Manual assignment of the new ones, in order; `None` for automatic.
    pub assignments: Option<Vec<Vec<i32>>>,
}

/// Checks CreatePartitions; an outcome is the new total.
pub fn create_partitions(
    image: &MetadataImage,
    rules: &TopicRules,
    requests: &[CreatePartitionsRequest],
) -> Planned<i32> {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for request in requests {
        *seen.entry(request.name.as_str()).or_default() += 1;
    }
    let mut planned = Planned {
        outcomes: Vec::with_capacity(requests.len()),
        records: Vec::new(),
    };
    let mut budget = PARTITIONS_PER_REQUEST_MAX;
    for request in requests {
        let outcome = if seen.get(request.name.as_str()).copied().unwrap_or(0) > 1 {
            Err(KafkaError::new(code::INVALID_REQUEST, "Duplicate topic name."))
        } else {
            check_partitions(image, rules, request, &mut budget)
        };
        let outcome = outcome.map(|topic_id| {
            if !rules.validate_only {
                let record = MetadataRecord::PartitionsAdded {
                    topic_id,
                    partitions: request.count,
                };
                planned.records.push(record);
            }
            request.count
        });
        planned.outcomes.push(outcome);
    }
    planned
}

fn check_partitions(
    image: &MetadataImage,
    rules: &TopicRules,
    request: &CreatePartitionsRequest,
    budget: &mut i64,
) -> Result<Uuid, KafkaError> {
    let topic = image.topic(&request.name).ok_or_else(unknown_topic)?;
    let (now, wanted) = (topic.partitions, request.count);
    let refuse = |text: String| Err(KafkaError::new(code::INVALID_PARTITIONS, text));
    if wanted == now {
        return refuse(format!("Topic already has {now} partition(s)."));
    }
    if wanted < now {
        return refuse(format!(
            "The topic {} currently has {now} partition(s); {wanted} would not be an increase.",
            request.name
        ));
    }
    check_partition_limit(wanted)?;
    let added = wanted - now;
    if let Some(assignments) = &request.assignments {
        if i32::try_from(assignments.len()).ok() != Some(added) {
            let text = format!(
                "Attempted to add {added} additional partition(s), but only {} assignment(s) were specified.",
                assignments.len()
            );
            return Err(KafkaError::new(code::INVALID_REPLICA_ASSIGNMENT, text));
        }
        let lists: Vec<&[i32]> = assignments.iter().map(Vec::as_slice).collect();
        check_replica_lists(rules, &lists, usize::try_from(topic.replication_factor).ok())?;
    }
    *budget -= i64::from(added);
    if *budget < 0 {
        return Err(too_many_partitions());
    }
    Ok(topic.topic_id)
}

/// What to do with one configuration (IncrementalAlterConfigs).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlterConfigOp {
    /// Kafka's name of the configuration.
    pub key: String,
    /// 0 set, 1 delete, 2 append, 3 subtract.
    pub operation: i8,
    /// Value; null only for delete.
    pub value: Option<String>,
}

/// One topic of IncrementalAlterConfigs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlterConfigsRequest {
    /// Name.
    pub topic: String,
    /// Applied together or not at all.
    pub operations: Vec<AlterConfigOp>,
}

/// A topic whose configurations change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlterConfigsOutcome {
    /// Id.
    pub topic_id: Uuid,
    /// Everything that is set afterwards.
    pub configs: BTreeMap<String, String>,
    /// What was set and does nothing (yet): to be named once in the log.
    pub without_effect: Vec<&'static str>,
}

/// Checks IncrementalAlterConfigs for topics.
pub fn alter_topic_configs(
    image: &MetadataImage,
    requests: &[AlterConfigsRequest],
    validate_only: bool,
) -> Planned<AlterConfigsOutcome> {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for request in requests {
        *seen.entry(request.topic.as_str()).or_default() += 1;
    }
    let mut planned = Planned {
        outcomes: Vec::with_capacity(requests.len()),
        records: Vec::new(),
    };
    for request in requests {
        let outcome = if seen.get(request.topic.as_str()).copied().unwrap_or(0) > 1 {
            Err(KafkaError::new(
                code::INVALID_REQUEST,
                "Each resource must appear at most once.",
            ))
        } else {
            check_alter(image, request)
        };
        let outcome = outcome.map(|(outcome, records)| {
            if !validate_only {
                planned.records.extend(records);
            }
            outcome
        });
        planned.outcomes.push(outcome);
    }
    planned
}

fn check_alter(
    image: &MetadataImage,
    request: &AlterConfigsRequest,
) -> Result<(AlterConfigsOutcome, Vec<MetadataRecord>), KafkaError> {
    let topic = image.topic(&request.topic).ok_or_else(unknown_topic)?;
    let topic_id = topic.topic_id;
    let mut configs = topic.configs.clone();
    let mut without_effect = Vec::new();
    let mut keys: HashSet<&str> = HashSet::new();
    for op in &request.operations {
        if !keys.insert(op.key.as_str()) {
            return Err(KafkaError::new(
                code::INVALID_REQUEST,
                "Error due to duplicate config keys",
            ));
        }
        match next_value(op, configs.get(&op.key).map(String::as_str))? {
            Some(value) => {
                let definition = validate(&op.key, &value)?;
                if definition.class.is_without_effect() {
                    without_effect.push(definition.name);
                }
                configs.insert(op.key.clone(), value);
            }
            None => {
                configs.remove(&op.key);
            }
        }
    }
    check_config_set(&configs)?;
    let mut records = Vec::new();
    for key in topic.configs.keys().filter(|key| !configs.contains_key(*key)) {
        records.push(MetadataRecord::TopicConfigUnset {
            topic_id,
            key: key.clone(),
        });
    }
    for (key, value) in configs
        .iter()
        .filter(|(key, value)| topic.configs.get(*key) != Some(*value))
    {
        records.push(MetadataRecord::TopicConfigSet {
            topic_id,
            key: key.clone(),
            value: value.clone(),
        });
    }
    Ok((
        AlterConfigsOutcome {
            topic_id,
            configs,
            without_effect,
        },
        records,
    ))
}

/// The value after an operation; `None`: not set.
fn next_value(op: &AlterConfigOp, present: Option<&str>) -> Result<Option<String>, KafkaError> {
    if op.operation == 1 {
        return Ok(None);
    }
    let Some(value) = &op.value else {
        let text = format!("Null value not supported for : {}", op.key);
        return Err(KafkaError::new(code::INVALID_REQUEST, text));
    };
    match op.operation {
        0 => Ok(Some(value.clone())),
        2 | 3 => {
            let verb = if op.operation == 2 {
                "append to"
            } else {
                "subtract from"
            };
            let definition = find(&op.key).ok_or_else(|| {
                KafkaError::new(
                    code::INVALID_CONFIG,
                    format!("Unknown topic config name: {}", op.key),
                )
            })?;
            if definition.config_type != ConfigType::List {
                let text = format!("Can't {verb} key {} because its type is not LIST.", op.key);
                return Err(KafkaError::new(code::INVALID_CONFIG, text));
            }
            let split = |text: &str| -> Vec<String> {
                text.split(',')
                    .map(|part| part.trim().to_owned())
                    .filter(|part| !part.is_empty())
                    .collect()
            };
            let mut parts = split(present.unwrap_or(definition.default));
            let given = split(value);
            if op.operation == 2 {
                for part in given {
                    if !parts.contains(&part) {
                        parts.push(part);
                    }
                }
            } else {
                parts.retain(|part| !given.contains(part));
            }
            Ok(Some(parts.join(",")))
        }
        other => Err(KafkaError::new(
            code::INVALID_REQUEST,
            format!("Unknown operation type {other}"),
        )),
    }
}

#[cfg(test)]
#[path = "admin_tests.rs"]
mod tests;
