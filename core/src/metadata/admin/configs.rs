//! IncrementalAlterConfigs and AlterConfigs for topics.

use std::collections::{BTreeMap, HashMap, HashSet};

use uuid::Uuid;

use super::{Planned, check_config_set, unknown_topic};
use crate::metadata::error::{KafkaError, code};
use crate::metadata::image::{MetadataImage, TopicImage};
use crate::metadata::record::MetadataRecord;
use crate::topic_config::{ConfigType, Storage, find, validate};

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

/// One topic of IncrementalAlterConfigs or AlterConfigs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlterConfigsRequest {
    /// Name.
    pub topic: String,
    /// What is set now is forgotten first (AlterConfigs).
    pub replace: bool,
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

/// Checks IncrementalAlterConfigs and AlterConfigs for topics.
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
    let mut configs = match request.replace {
        true => BTreeMap::new(),
        false => topic.configs.clone(),
    };
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
    check_storage(topic, &configs)?;
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

/// Records are not moved between a disk and memory.
fn check_storage(topic: &TopicImage, configs: &BTreeMap<String, String>) -> Result<(), KafkaError> {
    let (now, asked) = (Storage::of(&topic.configs), Storage::of(configs));
    if now == asked {
        return Ok(());
    }
    let text = match now {
        Storage::Disk => {
            "Configuration storage cannot be changed: the records of this topic are on the disk and would have to move. \
             Make a new topic with storage=memory and produce to that one."
        }
        Storage::Memory => {
            "Configuration storage cannot be changed: this topic was made with storage=memory. Name storage=memory \
             among the configurations that stay set, or make a new topic with storage=disk."
        }
    };
    Err(KafkaError::new(code::INVALID_CONFIG, text))
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
