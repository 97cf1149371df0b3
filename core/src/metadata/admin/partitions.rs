//! CreatePartitions.

use std::collections::HashMap;

use uuid::Uuid;

use super::{PartitionRoom, Planned, TopicRules, check_partition_limit, check_replica_lists, unknown_topic};
use crate::metadata::error::{KafkaError, code};
use crate::metadata::image::MetadataImage;
use crate::metadata::record::MetadataRecord;

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
    let mut room = PartitionRoom::new(image, rules);
    for request in requests {
        let outcome = if seen.get(request.name.as_str()).copied().unwrap_or(0) > 1 {
            Err(KafkaError::new(code::INVALID_REQUEST, "Duplicate topic name."))
        } else {
            check_partitions(image, rules, request, &mut room)
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
    room: &mut PartitionRoom,
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
    room.take(added)?;
    Ok(topic.topic_id)
}
