//! Fetch and ListOffsets: reading from the leader of each partition.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{ApiKey, BrokerId, FetchRequest, FetchResponse, ListOffsetsRequest};
use kafka_protocol::protocol::VersionRange;

use super::cluster::{Client, topic_name};
use super::error::ClientError;

/// From version 13 on topics are named by id only.
const FETCH_VERSIONS: VersionRange = VersionRange { min: 4, max: 12 };
const LIST_OFFSETS_VERSIONS: VersionRange = VersionRange { min: 1, max: 7 };

/// Asks ListOffsets for the offset after the last readable record.
pub const TIMESTAMP_END: i64 = -1;
/// Asks ListOffsets for the log start offset.
pub const TIMESTAMP_START: i64 = -2;

/// Where to read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchTarget {
    /// Topic name.
    pub topic: String,
    /// Partition number.
    pub partition: i32,
    /// First offset wanted.
    pub offset: i64,
}

/// What one partition answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Topic name.
    pub topic: String,
    /// Partition number.
    pub partition: i32,
    /// Kafka error code, 0 when fine.
    pub error_code: i16,
    /// Offset up to which records can be read.
    pub high_watermark: i64,
    /// First offset that is still there; -1 when the broker does not say.
    pub log_start_offset: i64,
    /// Whole batches, the last one possibly cut; see [`super::records::decode_batches`].
    pub records: Bytes,
}

impl Client {
    /// Fetches from all of `targets`, one request to each leader. Parks up to `wait` at the broker
    /// when nothing is there (no parking with more than one leader, so that none waits for another).
    pub fn fetch(&mut self, targets: &[FetchTarget], wait: Duration) -> Result<Vec<Fetched>, ClientError> {
        let mut by_leader: BTreeMap<i32, Vec<&FetchTarget>> = BTreeMap::new();
        for target in targets {
            by_leader
                .entry(self.leader(&target.topic, target.partition)?)
                .or_default()
                .push(target);
        }
        let wait = wait / u32::try_from(by_leader.len().max(1)).unwrap_or(1);
        let mut fetched = Vec::with_capacity(targets.len());
        for (leader, targets) in by_leader {
            let request = self.fetch_request(&targets, wait);
            let answer = self.call_node(leader, ApiKey::Fetch, FETCH_VERSIONS, &request, wait);
            if answer.is_err() {
                self.forget_all(&targets);
            }
            self.take_fetched(answer?, &mut fetched)?;
        }
        Ok(fetched)
    }

    /// Offsets of `topic` by timestamp: [`TIMESTAMP_END`], [`TIMESTAMP_START`], or milliseconds,
    /// which gives the first offset whose record is not older (-1 when there is none).
    pub fn list_offsets(
        &mut self,
        topic: &str,
        partitions: &[(i32, i64)],
    ) -> Result<BTreeMap<i32, i64>, ClientError> {
        let mut by_leader: BTreeMap<i32, Vec<(i32, i64)>> = BTreeMap::new();
        for (partition, timestamp) in partitions {
            by_leader
                .entry(self.leader(topic, *partition)?)
                .or_default()
                .push((*partition, *timestamp));
        }
        let mut offsets = BTreeMap::new();
        for (leader, partitions) in by_leader {
            let request = list_offsets_request(topic, &partitions);
            let api = ApiKey::ListOffsets;
            let answer = self.call_node(leader, api, LIST_OFFSETS_VERSIONS, &request, Duration::ZERO)?;
            for p in answer
                .topics
                .iter()
                .filter(|t| t.name.as_str() == topic)
                .flat_map(|t| &t.partitions)
            {
                if p.error_code != 0 {
                    self.forget_leader(topic, p.partition_index);
                    return Err(ClientError::broker(
                        format!("{topic}-{}", p.partition_index),
                        p.error_code,
                        None,
                    ));
                }
                offsets.insert(p.partition_index, p.offset);
            }
        }
        match partitions
            .iter()
            .find(|(partition, _)| !offsets.contains_key(partition))
        {
            Some((partition, _)) => {
                let subject = format!("{topic}-{partition}");
                Err(ClientError::broker(
                    subject,
                    -1,
                    Some("the answer does not name this partition"),
                ))
            }
            None => Ok(offsets),
        }
    }

    fn fetch_request(&self, targets: &[&FetchTarget], wait: Duration) -> FetchRequest {
        let mut topics: BTreeMap<&str, Vec<FetchPartition>> = BTreeMap::new();
        for target in targets {
            let mut partition = FetchPartition::default();
            partition.partition = target.partition;
            partition.fetch_offset = target.offset;
            partition.partition_max_bytes = self.config.fetch_partition_bytes_max;
            topics.entry(&target.topic).or_default().push(partition);
        }
        let mut request = FetchRequest::default();
        request.replica_id = BrokerId(-1);
        request.max_wait_ms = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        request.min_bytes = self.config.fetch_bytes_min;
        request.max_bytes = self.config.fetch_bytes_max;
        request.session_id = 0;
        request.session_epoch = -1;
        request.topics = topics
            .into_iter()
            .map(|(topic, partitions)| {
                FetchTopic::default()
                    .with_topic(topic_name(topic))
                    .with_partitions(partitions)
            })
            .collect();
        request
    }

    fn take_fetched(&mut self, answer: FetchResponse, into: &mut Vec<Fetched>) -> Result<(), ClientError> {
        if answer.error_code != 0 {
            return Err(ClientError::broker("Fetch", answer.error_code, None));
        }
        for topic in answer.responses {
            let name = topic.topic.to_string();
            for partition in topic.partitions {
                if partition.error_code != 0 {
                    self.forget_leader(&name, partition.partition_index);
                }
                into.push(Fetched {
                    topic: name.clone(),
                    partition: partition.partition_index,
                    error_code: partition.error_code,
                    high_watermark: partition.high_watermark,
                    log_start_offset: partition.log_start_offset,
                    records: partition.records.unwrap_or_default(),
                });
            }
        }
        Ok(())
    }

    fn forget_all(&mut self, targets: &[&FetchTarget]) {
        for target in targets {
            self.forget_leader(&target.topic, target.partition);
        }
    }
}

fn list_offsets_request(topic: &str, partitions: &[(i32, i64)]) -> ListOffsetsRequest {
    let partition = |(partition, timestamp): &(i32, i64)| {
        ListOffsetsPartition::default()
            .with_partition_index(*partition)
            .with_timestamp(*timestamp)
    };
    let topic = ListOffsetsTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(partitions.iter().map(partition).collect());
    ListOffsetsRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_topics(vec![topic])
}
