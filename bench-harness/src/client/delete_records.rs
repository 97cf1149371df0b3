//! DeleteRecords: moving the log start of partitions up, at the leader of each.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::{ApiKey, DeleteRecordsRequest};
use kafka_protocol::protocol::VersionRange;

use super::cluster::{Client, topic_name};
use super::error::ClientError;

const DELETE_RECORDS_VERSIONS: VersionRange = VersionRange { min: 0, max: 2 };
/// A broker that keeps to the request's timeout has this long to say so.
const GRACE: Duration = Duration::from_secs(2);

/// For each partition its log start now, or why that is not known.
pub type LogStarts = Vec<(i32, Result<i64, ClientError>)>;

impl Client {
    /// Deletes the records of `topic` in front of an offset for each partition. In the order of `partitions`.
    ///
    /// # Errors
    /// Leaders could not be found: nothing was asked. What fails at one leader is told of its partitions.
    pub fn delete_records(
        &mut self,
        topic: &str,
        partitions: &[(i32, i64)],
    ) -> Result<LogStarts, ClientError> {
        let mut by_leader: BTreeMap<i32, Vec<(i32, i64)>> = BTreeMap::new();
        for (partition, offset) in partitions {
            let leader = self.leader(topic, *partition)?;
            by_leader.entry(leader).or_default().push((*partition, *offset));
        }
        let mut told: BTreeMap<i32, Result<i64, ClientError>> = BTreeMap::new();
        for (leader, asked) in by_leader {
            let request = self.delete_records_request(topic, &asked);
            let api = ApiKey::DeleteRecords;
            match self.call_node(leader, api, DELETE_RECORDS_VERSIONS, &request, GRACE) {
                Ok(answer) => {
                    let of_topic = answer.topics.iter().filter(|t| t.name.as_str() == topic);
                    for p in of_topic.flat_map(|t| &t.partitions) {
                        let subject = format!("{topic}-{}", p.partition_index);
                        let result = match p.error_code {
                            0 => Ok(p.low_watermark),
                            code => Err(ClientError::broker(subject, code, None)),
                        };
                        told.insert(p.partition_index, result);
                    }
                }
                Err(error) => told.extend(asked.iter().map(|(p, _)| (*p, Err(error.clone())))),
            }
        }
        let mut results = Vec::with_capacity(partitions.len());
        for (partition, _) in partitions {
            let result = told.remove(partition).unwrap_or_else(|| {
                let text = "the answer does not name this partition";
                Err(ClientError::broker(
                    format!("{topic}-{partition}"),
                    -1,
                    Some(text),
                ))
            });
            if result.is_err() {
                self.forget_leader(topic, *partition);
            }
            results.push((*partition, result));
        }
        Ok(results)
    }

    fn delete_records_request(&self, topic: &str, partitions: &[(i32, i64)]) -> DeleteRecordsRequest {
        let partition = |(partition, offset): &(i32, i64)| {
            DeleteRecordsPartition::default()
                .with_partition_index(*partition)
                .with_offset(*offset)
        };
        let topic = DeleteRecordsTopic::default()
            .with_name(topic_name(topic))
            .with_partitions(partitions.iter().map(partition).collect());
        DeleteRecordsRequest::default()
            .with_topics(vec![topic])
            .with_timeout_ms(self.timeout_ms())
    }
}
