//! Requests as a client makes them, and what matters of their answers.

use bytes::Bytes;
use tidelog_net::hot::{
    FetchPartition, FetchRequest, FetchTopic, FetchedPartition, FetchedResponse, MetadataRequest,
    MetadataTopic, ProducePartition, ProducePartitionResponse, ProduceRequest, ProduceTopic,
};
use tidelog_net::messages as kp;
use tidelog_net::records::{BatchBuilder, Batches, Compression};
use tidelog_net::{ErrorCode, ResponseBody, StrBytes, Uuid};

use super::harness::{Client, Cluster, EPOCH_MS};

pub(super) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// A batch of these values, each with the same timestamp.
pub(super) fn batch(values: &[&str]) -> Bytes {
    batch_of(
        Compression::None,
        None,
        &values.iter().map(|v| (EPOCH_MS, *v)).collect::<Vec<_>>(),
    )
}

/// A batch of an idempotent producer.
pub(super) fn sequenced(producer_id: i64, epoch: i16, sequence: i32, values: &[&str]) -> Bytes {
    let records: Vec<_> = values.iter().map(|v| (EPOCH_MS, *v)).collect();
    batch_of(Compression::None, Some((producer_id, epoch, sequence)), &records)
}

pub(super) fn batch_of(
    compression: Compression,
    producer: Option<(i64, i16, i32)>,
    records: &[(i64, &str)],
) -> Bytes {
    let mut builder = BatchBuilder::new(compression);
    if let Some((id, epoch, sequence)) = producer {
        builder = builder.with_producer(id, epoch, sequence);
    }
    for (time, value) in records {
        builder
            .append(*time, None, Some(value.as_bytes()), &[])
            .expect("a record");
    }
    builder.build().expect("a batch")
}

/// A batch of one record of `bytes` bytes.
pub(super) fn large(bytes: usize) -> Bytes {
    batch(&["x".repeat(bytes).as_str()])
}

pub(super) fn produce_request(topic: &str, acks: i16, batches: &[(i32, Bytes)]) -> ProduceRequest {
    let partitions = batches.iter().map(|(index, batch)| ProducePartition {
        index: *index,
        records: Some(batch.clone()),
    });
    ProduceRequest {
        acks,
        timeout_ms: 1000,
        topics: vec![ProduceTopic {
            name: text(topic),
            topic_id: Uuid::nil(),
            partitions: partitions.collect(),
        }],
        ..Default::default()
    }
}

pub(super) fn produced(body: ResponseBody) -> Vec<ProducePartitionResponse> {
    let ResponseBody::Produce(body) = body else {
        panic!("not a produce answer: {body:?}")
    };
    body.topics
        .into_iter()
        .flat_map(|topic| topic.partitions)
        .collect()
}

/// One wish of a fetch: topic, partition, offset.
pub(super) fn fetch_request(wants: &[(&str, i32, i64)], max_wait_ms: i32, min_bytes: i32) -> FetchRequest {
    let topics = wants.iter().map(|(topic, index, offset)| FetchTopic {
        name: text(topic),
        topic_id: Uuid::nil(),
        partitions: vec![FetchPartition {
            index: *index,
            fetch_offset: *offset,
            ..Default::default()
        }],
    });
    FetchRequest {
        max_wait_ms,
        min_bytes,
        topics: topics.collect(),
        ..Default::default()
    }
}

pub(super) fn fetched(body: ResponseBody) -> FetchedResponse {
    match body {
        ResponseBody::Fetch(body) => body,
        other => panic!("not a fetch answer: {other:?}"),
    }
}

pub(super) fn partitions(body: ResponseBody) -> Vec<FetchedPartition> {
    fetched(body)
        .topics
        .into_iter()
        .flat_map(|topic| topic.partitions)
        .collect()
}

/// Offset and value of every record, checksums checked.
pub(super) fn values(partition: &FetchedPartition) -> Vec<(i64, String)> {
    let mut out = Vec::new();
    for batch in Batches::new(partition.records.clone()) {
        let batch = batch.expect("a whole batch");
        batch.verify_crc().expect("its checksum");
        let records = batch.decompressed(1 << 20).expect("decompressed");
        for record in batch.records(&records).expect("records") {
            let record = record.expect("a record");
            let value = String::from_utf8(record.value.unwrap_or_default().to_vec()).expect("text");
            out.push((batch.header.base_offset + i64::from(record.offset_delta), value));
        }
    }
    out
}

pub(super) fn metadata_request(names: &[&str], create: bool) -> MetadataRequest {
    let topics = names.iter().map(|name| MetadataTopic {
        name: Some(text(name)),
        topic_id: Uuid::nil(),
    });
    MetadataRequest {
        topics: Some(topics.collect()),
        allow_auto_topic_creation: create,
        ..Default::default()
    }
}

pub(super) fn describe_request(names: &[&str], limit: i32) -> kp::DescribeTopicPartitionsRequest {
    use kp::describe_topic_partitions_request::TopicRequest;
    let topics = names
        .iter()
        .map(|name| TopicRequest::default().with_name(kp::TopicName(text(name))));
    kp::DescribeTopicPartitionsRequest::default()
        .with_topics(topics.collect())
        .with_response_partition_limit(limit)
}

pub(super) fn elect_request(kind: i8, partitions: &[(&str, &[i32])]) -> kp::ElectLeadersRequest {
    use kp::elect_leaders_request::TopicPartitions;
    let topics = partitions.iter().map(|(topic, partitions)| {
        TopicPartitions::default()
            .with_topic(kp::TopicName(text(topic)))
            .with_partitions(partitions.to_vec())
    });
    kp::ElectLeadersRequest::default()
        .with_election_type(kind)
        .with_topic_partitions(Some(topics.collect()))
}

/// One partition and the nodes that are to hold it; `None` cancels.
pub(super) fn reassign_request(
    moves: &[(&str, i32, Option<&[i32]>)],
) -> kp::AlterPartitionReassignmentsRequest {
    use kp::alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};
    let topics = moves.iter().map(|(topic, partition, replicas)| {
        let replicas = replicas.map(|nodes| nodes.iter().map(|node| kp::BrokerId(*node)).collect());
        let partition = ReassignablePartition::default()
            .with_partition_index(*partition)
            .with_replicas(replicas);
        ReassignableTopic::default()
            .with_name(kp::TopicName(text(topic)))
            .with_partitions(vec![partition])
    });
    kp::AlterPartitionReassignmentsRequest::default().with_topics(topics.collect())
}

pub(super) fn log_dirs_request(asked: Option<&[(&str, &[i32])]>) -> kp::DescribeLogDirsRequest {
    use kp::describe_log_dirs_request::DescribableLogDirTopic;
    let topic = |(name, partitions): &(&str, &[i32])| {
        DescribableLogDirTopic::default()
            .with_topic(kp::TopicName(text(name)))
            .with_partitions(partitions.to_vec())
    };
    let topics = asked.map(|topics| topics.iter().map(topic).collect());
    kp::DescribeLogDirsRequest::default().with_topics(topics)
}

pub(super) fn create_request(
    name: &str,
    partitions: i32,
    configs: &[(&str, &str)],
) -> kp::CreateTopicsRequest {
    use kp::create_topics_request::{CreatableTopic, CreatableTopicConfig};
    let configs = configs.iter().map(|(key, value)| {
        CreatableTopicConfig::default()
            .with_name(text(key))
            .with_value(Some(text(value)))
    });
    let topic = CreatableTopic::default()
        .with_name(kp::TopicName(text(name)))
        .with_num_partitions(partitions)
        .with_replication_factor(-1)
        .with_configs(configs.collect());
    kp::CreateTopicsRequest::default()
        .with_timeout_ms(1000)
        .with_topics(vec![topic])
}

pub(super) fn delete_request(name: &str) -> kp::DeleteTopicsRequest {
    use kp::delete_topics_request::DeleteTopicState;
    let topic = DeleteTopicState::default().with_name(Some(kp::TopicName(text(name))));
    kp::DeleteTopicsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(1000)
}

pub(super) fn list_request(topic: &str, partition: i32, timestamp: i64) -> kp::ListOffsetsRequest {
    use kp::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
    let partition = ListOffsetsPartition::default()
        .with_partition_index(partition)
        .with_timestamp(timestamp)
        .with_current_leader_epoch(-1);
    let topic = ListOffsetsTopic::default()
        .with_name(kp::TopicName(text(topic)))
        .with_partitions(vec![partition]);
    kp::ListOffsetsRequest::default()
        .with_replica_id(kp::BrokerId(-1))
        .with_topics(vec![topic])
}

pub(super) fn alter_request(topic: &str, configs: &[(&str, &str)]) -> kp::IncrementalAlterConfigsRequest {
    use kp::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
    let configs = configs.iter().map(|(key, value)| {
        AlterableConfig::default()
            .with_name(text(key))
            .with_config_operation(0)
            .with_value(Some(text(value)))
    });
    let resource = AlterConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(text(topic))
        .with_configs(configs.collect());
    kp::IncrementalAlterConfigsRequest::default().with_resources(vec![resource])
}

/// As [`alter_request`], for the older API, which replaces everything that is set.
pub(super) fn replace_request(topic: &str, configs: &[(&str, &str)]) -> kp::AlterConfigsRequest {
    use kp::alter_configs_request::{AlterConfigsResource, AlterableConfig};
    let configs = configs.iter().map(|(key, value)| {
        AlterableConfig::default()
            .with_name(text(key))
            .with_value(Some(text(value)))
    });
    let resource = AlterConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(text(topic))
        .with_configs(configs.collect());
    kp::AlterConfigsRequest::default().with_resources(vec![resource])
}

impl Cluster {
    /// The shard that owns a partition.
    pub(super) fn owner(&mut self, topic: &str, partition: i32) -> usize {
        let shards = self.shards() as u16;
        let image = &self.shard(0).image;
        usize::from(image.topic(topic).expect("a topic").shard_of(partition, shards))
    }

    pub(super) fn create(
        &mut self,
        client: Client,
        name: &str,
        partitions: i32,
        configs: &[(&str, &str)],
    ) -> Uuid {
        let body = self.ask(client, 7, create_request(name, partitions, configs));
        let ResponseBody::CreateTopics(body) = body else {
            panic!("not a create answer: {body:?}")
        };
        assert_eq!(body.topics[0].error_code, 0, "{:?}", body.topics[0].error_message);
        body.topics[0].topic_id
    }

    pub(super) fn delete(&mut self, client: Client, name: &str) {
        let ResponseBody::DeleteTopics(body) = self.ask(client, 6, delete_request(name)) else {
            panic!("not a delete answer")
        };
        assert_eq!(body.responses[0].error_code, 0);
    }

    pub(super) fn alter(&mut self, client: Client, topic: &str, configs: &[(&str, &str)]) -> i16 {
        let ResponseBody::IncrementalAlterConfigs(body) = self.ask(client, 1, alter_request(topic, configs))
        else {
            panic!("not an alter answer")
        };
        body.responses[0].error_code
    }

    /// Produces one batch with acks=all and takes the answer.
    pub(super) fn produce(
        &mut self,
        client: Client,
        topic: &str,
        partition: i32,
        batch: Bytes,
    ) -> ProducePartitionResponse {
        let body = self.ask(client, 9, produce_request(topic, -1, &[(partition, batch)]));
        produced(body).remove(0)
    }

    /// Produces and expects success; the base offset.
    pub(super) fn put(&mut self, client: Client, topic: &str, partition: i32, batch: Bytes) -> i64 {
        let answer = self.produce(client, topic, partition, batch);
        assert_eq!(answer.error, ErrorCode::None, "{:?}", answer.error_message);
        answer.base_offset
    }

    /// Fetches one partition without waiting.
    pub(super) fn get(
        &mut self,
        client: Client,
        topic: &str,
        partition: i32,
        offset: i64,
    ) -> FetchedPartition {
        let body = self.ask(client, 12, fetch_request(&[(topic, partition, offset)], 0, 1));
        partitions(body).remove(0)
    }

    /// Every record of a partition up to its high watermark.
    pub(super) fn get_all(&mut self, client: Client, topic: &str, partition: i32) -> Vec<(i64, String)> {
        self.get_all_from(client, topic, partition, 0)
    }

    /// The same, from an offset on; what its batch has in front of it comes too.
    pub(super) fn get_all_from(
        &mut self,
        client: Client,
        topic: &str,
        partition: i32,
        from: i64,
    ) -> Vec<(i64, String)> {
        let mut all = Vec::new();
        let mut offset = from;
        loop {
            let got = self.get(client, topic, partition, offset);
            assert_eq!(got.partition.error, ErrorCode::None);
            if offset >= got.partition.high_watermark {
                return all;
            }
            let records = values(&got);
            offset = records.last().expect("the mark says that there is more").0 + 1;
            all.extend(records);
        }
    }

    /// Offset, timestamp and error of a ListOffsets for one partition.
    pub(super) fn list(
        &mut self,
        client: Client,
        topic: &str,
        partition: i32,
        timestamp: i64,
    ) -> (i64, i64, i16) {
        let ResponseBody::ListOffsets(body) = self.ask(client, 9, list_request(topic, partition, timestamp))
        else {
            panic!("not a list answer")
        };
        let answer = &body.topics[0].partitions[0];
        (answer.offset, answer.timestamp, answer.error_code)
    }

    pub(super) fn init_producer_id(&mut self, client: Client) -> i64 {
        let request = kp::InitProducerIdRequest::default().with_transactional_id(None);
        let ResponseBody::InitProducerId(body) = self.ask(client, 4, request) else {
            panic!("not an answer")
        };
        assert_eq!((body.error_code, body.producer_epoch), (0, 0));
        body.producer_id.0
    }

    pub(super) fn metadata(&mut self, client: Client, names: &[&str], create: bool) -> kp::MetadataResponse {
        match self.ask(client, 12, metadata_request(names, create)) {
            ResponseBody::Metadata(body) => body,
            other => panic!("not metadata: {other:?}"),
        }
    }
}
