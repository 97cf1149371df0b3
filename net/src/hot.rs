//! Hot messages by hand: Produce, Fetch and Metadata requests, Produce and Fetch answers.
//!
//! Each type has a decoder and an encoder over [`crate::wire`]; records are never copied by a decoder.
//! A topic is named by `name` or, in the versions that carry ids (Produce 13, Fetch 13+), by `topic_id`;
//! the other one is empty or nil. Version ranges are checked by the callers.

#![deny(clippy::indexing_slicing)]

use crate::error_code::ErrorCode;
use crate::wire::{Reader, WireError, Writer};
use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

/// First flexible version of Produce.
pub const PRODUCE_FLEXIBLE: i16 = 9;
/// First flexible version of Fetch.
pub const FETCH_FLEXIBLE: i16 = 12;
/// First flexible version of Metadata.
pub const METADATA_FLEXIBLE: i16 = 9;
const TOPIC_IDS: i16 = 13;

/// A Produce request, versions 3-13.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProduceRequest {
    /// The transactional id, if the producer is transactional.
    pub transactional_id: Option<StrBytes>,
    /// 0: no answer at all; 1: leader; -1: all in-sync replicas.
    pub acks: i16,
    /// How long the answer may wait for replicas.
    pub timeout_ms: i32,
    /// The topics.
    pub topics: Vec<ProduceTopic>,
}

/// A topic of a [`ProduceRequest`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProduceTopic {
    /// The name, empty from version 13 on.
    pub name: StrBytes,
    /// The id, nil before version 13.
    pub topic_id: Uuid,
    /// The partitions.
    pub partitions: Vec<ProducePartition>,
}

/// A partition of a [`ProduceTopic`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProducePartition {
    /// The partition.
    pub index: i32,
    /// The record batch, a slice of the frame.
    pub records: Option<Bytes>,
}

/// Reads a topic's name or id, as the version has it.
fn topic(reader: &mut Reader<'_>, version: i16, flexible: bool) -> Result<(StrBytes, Uuid), WireError> {
    if version >= TOPIC_IDS {
        Ok((StrBytes::new(), reader.uuid()?))
    } else {
        Ok((reader.string(flexible)?, Uuid::nil()))
    }
}

fn put_topic(writer: &mut Writer, version: i16, name: &str, topic_id: &Uuid) {
    if version >= TOPIC_IDS {
        writer.uuid(topic_id);
    } else {
        writer.string(name);
    }
}

impl ProduceRequest {
    /// Reads the body.
    pub fn decode(reader: &mut Reader<'_>, version: i16) -> Result<Self, WireError> {
        let flexible = version >= PRODUCE_FLEXIBLE;
        let transactional_id = reader.nullable_string(flexible)?;
        let acks = reader.i16()?;
        let timeout_ms = reader.i32()?;
        let topics = reader.array(flexible, 3, |reader| {
            let (name, topic_id) = topic(reader, version, flexible)?;
            let partitions = reader.array(flexible, 6, |reader| {
                let index = reader.i32()?;
                let records = reader.nullable_bytes(flexible)?;
                reader.skip_tags(flexible)?;
                Ok(ProducePartition { index, records })
            })?;
            reader.skip_tags(flexible)?;
            Ok(ProduceTopic {
                name,
                topic_id,
                partitions,
            })
        })?;
        reader.skip_tags(flexible)?;
        Ok(Self {
            transactional_id,
            acks,
            timeout_ms,
            topics,
        })
    }

    /// Writes the body, records included.
    pub fn encode(&self, writer: &mut Writer, version: i16) {
        writer.nullable_string(self.transactional_id.as_deref());
        writer.i16(self.acks);
        writer.i32(self.timeout_ms);
        writer.count(Some(self.topics.len()));
        for topic in &self.topics {
            put_topic(writer, version, &topic.name, &topic.topic_id);
            writer.count(Some(topic.partitions.len()));
            for partition in &topic.partitions {
                writer.i32(partition.index);
                writer.count(partition.records.as_ref().map(Bytes::len));
                writer
                    .buffer()
                    .extend_from_slice(partition.records.as_deref().unwrap_or_default());
                writer.no_tags();
            }
            writer.no_tags();
        }
        writer.no_tags();
    }
}

/// A Fetch request, versions 4-18.
#[derive(Debug, Clone, PartialEq)]
pub struct FetchRequest {
    /// The cluster the fetcher believes in (followers only).
    pub cluster_id: Option<StrBytes>,
    /// The follower's id, -1 for a consumer.
    pub replica_id: i32,
    /// The follower's epoch, -1 for a consumer.
    pub replica_epoch: i64,
    /// How long to wait for `min_bytes`.
    pub max_wait_ms: i32,
    /// Answer as soon as there is this much.
    pub min_bytes: i32,
    /// Answer with at most this much, but at least one batch.
    pub max_bytes: i32,
    /// 0: read uncommitted; 1: read committed.
    pub isolation_level: i8,
    /// The fetch session, 0 for none.
    pub session_id: i32,
    /// The fetch session's epoch, -1 for no session.
    pub session_epoch: i32,
    /// The topics.
    pub topics: Vec<FetchTopic>,
    /// Topics to take out of the session.
    pub forgotten_topics: Vec<ForgottenTopic>,
    /// The consumer's rack, or empty.
    pub rack_id: StrBytes,
}

impl Default for FetchRequest {
    fn default() -> Self {
        Self {
            cluster_id: None,
            replica_id: -1,
            replica_epoch: -1,
            max_wait_ms: 500,
            min_bytes: 1,
            max_bytes: i32::MAX,
            isolation_level: 0,
            session_id: 0,
            session_epoch: -1,
            topics: Vec::new(),
            forgotten_topics: Vec::new(),
            rack_id: StrBytes::new(),
        }
    }
}

/// A topic of a [`FetchRequest`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FetchTopic {
    /// The name, empty from version 13 on.
    pub name: StrBytes,
    /// The id, nil before version 13.
    pub topic_id: Uuid,
    /// The partitions.
    pub partitions: Vec<FetchPartition>,
}

/// A partition of a [`FetchTopic`].
#[derive(Debug, Clone, PartialEq)]
pub struct FetchPartition {
    /// The partition.
    pub index: i32,
    /// The leader epoch the fetcher knows, -1 for no check.
    pub current_leader_epoch: i32,
    /// First offset wanted.
    pub fetch_offset: i64,
    /// Epoch of the last record the fetcher has, -1 for none.
    pub last_fetched_epoch: i32,
    /// The follower's log start offset, -1 for a consumer.
    pub log_start_offset: i64,
    /// At most this much from this partition.
    pub max_bytes: i32,
}

impl Default for FetchPartition {
    fn default() -> Self {
        Self {
            index: 0,
            current_leader_epoch: -1,
            fetch_offset: 0,
            last_fetched_epoch: -1,
            log_start_offset: -1,
            max_bytes: 1024 * 1024,
        }
    }
}

/// A topic to take out of the fetch session.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ForgottenTopic {
    /// The name, empty from version 13 on.
    pub name: StrBytes,
    /// The id, nil before version 13.
    pub topic_id: Uuid,
    /// The partitions.
    pub partitions: Vec<i32>,
}

impl FetchRequest {
    /// Reads the body.
    pub fn decode(reader: &mut Reader<'_>, version: i16) -> Result<Self, WireError> {
        let flexible = version >= FETCH_FLEXIBLE;
        let mut request = Self::default();
        if version <= 14 {
            request.replica_id = reader.i32()?;
        }
        request.max_wait_ms = reader.i32()?;
        request.min_bytes = reader.i32()?;
        request.max_bytes = reader.i32()?;
        request.isolation_level = reader.i8()?;
        if version >= 7 {
            request.session_id = reader.i32()?;
            request.session_epoch = reader.i32()?;
        }
        request.topics = reader.array(flexible, 3, |reader| {
            let (name, topic_id) = topic(reader, version, flexible)?;
            let partitions = reader.array(flexible, 16, |reader| {
                FetchPartition::decode(reader, version, flexible)
            })?;
            reader.skip_tags(flexible)?;
            Ok(FetchTopic {
                name,
                topic_id,
                partitions,
            })
        })?;
        if version >= 7 {
            request.forgotten_topics = reader.array(flexible, 3, |reader| {
                let (name, topic_id) = topic(reader, version, flexible)?;
                let partitions = reader.array(flexible, 4, |reader| reader.i32())?;
                reader.skip_tags(flexible)?;
                Ok(ForgottenTopic {
                    name,
                    topic_id,
                    partitions,
                })
            })?;
        }
        if version >= 11 {
            request.rack_id = reader.string(flexible)?;
        }
        reader.tags(flexible, |tag, field| {
            match tag {
                0 => request.cluster_id = field.nullable_string(true)?,
                1 if version >= 15 => {
                    request.replica_id = field.i32()?;
                    request.replica_epoch = field.i64()?;
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(request)
    }

    /// Writes the body of a consumer's request (no follower state, no cluster id).
    pub fn encode(&self, writer: &mut Writer, version: i16) {
        if version <= 14 {
            writer.i32(self.replica_id);
        }
        writer.i32(self.max_wait_ms);
        writer.i32(self.min_bytes);
        writer.i32(self.max_bytes);
        writer.i8(self.isolation_level);
        if version >= 7 {
            writer.i32(self.session_id);
            writer.i32(self.session_epoch);
        }
        writer.count(Some(self.topics.len()));
        for topic in &self.topics {
            put_topic(writer, version, &topic.name, &topic.topic_id);
            writer.count(Some(topic.partitions.len()));
            for partition in &topic.partitions {
                partition.encode(writer, version);
            }
            writer.no_tags();
        }
        if version >= 7 {
            writer.count(Some(self.forgotten_topics.len()));
            for topic in &self.forgotten_topics {
                put_topic(writer, version, &topic.name, &topic.topic_id);
                writer.count(Some(topic.partitions.len()));
                topic
                    .partitions
                    .iter()
                    .for_each(|partition| writer.i32(*partition));
                writer.no_tags();
            }
        }
        if version >= 11 {
            writer.string(&self.rack_id);
        }
        writer.no_tags();
    }
}

impl FetchPartition {
    fn decode(reader: &mut Reader<'_>, version: i16, flexible: bool) -> Result<Self, WireError> {
        let mut partition = Self {
            index: reader.i32()?,
            ..Self::default()
        };
        if version >= 9 {
            partition.current_leader_epoch = reader.i32()?;
        }
        partition.fetch_offset = reader.i64()?;
        if version >= 12 {
            partition.last_fetched_epoch = reader.i32()?;
        }
        if version >= 5 {
            partition.log_start_offset = reader.i64()?;
        }
        partition.max_bytes = reader.i32()?;
        reader.skip_tags(flexible)?;
        Ok(partition)
    }

    fn encode(&self, writer: &mut Writer, version: i16) {
        writer.i32(self.index);
        if version >= 9 {
            writer.i32(self.current_leader_epoch);
        }
        writer.i64(self.fetch_offset);
        if version >= 12 {
            writer.i32(self.last_fetched_epoch);
        }
        if version >= 5 {
            writer.i64(self.log_start_offset);
        }
        writer.i32(self.max_bytes);
        writer.no_tags();
    }
}

/// A Metadata request, versions 0-13.
#[derive(Debug, Clone, PartialEq)]
pub struct MetadataRequest {
    /// The topics; nothing means all of them (version 0 says that with an empty list, which reads as
    /// nothing here), an empty list means none.
    pub topics: Option<Vec<MetadataTopic>>,
    /// Whether unknown topics may be created; always true below version 4.
    pub allow_auto_topic_creation: bool,
    /// Versions 8-10.
    pub include_cluster_authorized_operations: bool,
    /// Versions 8 and up.
    pub include_topic_authorized_operations: bool,
}

/// A topic of a [`MetadataRequest`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MetadataTopic {
    /// The name; may be missing from version 10 on, when the id is given.
    pub name: Option<StrBytes>,
    /// The id, nil when asked by name.
    pub topic_id: Uuid,
}

impl Default for MetadataRequest {
    fn default() -> Self {
        Self {
            topics: None,
            allow_auto_topic_creation: true,
            include_cluster_authorized_operations: false,
            include_topic_authorized_operations: false,
        }
    }
}

impl MetadataRequest {
    /// Reads the body.
    pub fn decode(reader: &mut Reader<'_>, version: i16) -> Result<Self, WireError> {
        let flexible = version >= METADATA_FLEXIBLE;
        let mut request = Self::default();
        let topics = reader.nullable_array(flexible, 2, |reader| {
            let topic_id = if version >= 10 {
                reader.uuid()?
            } else {
                Uuid::nil()
            };
            let name = reader.nullable_string(flexible)?;
            if name.is_none() && version < 10 {
                return Err(WireError::BadLength { length: -1 });
            }
            reader.skip_tags(flexible)?;
            Ok(MetadataTopic { name, topic_id })
        })?;
        request.topics = match topics {
            None if version == 0 => return Err(WireError::BadLength { length: -1 }),
            Some(topics) if version == 0 && topics.is_empty() => None,
            topics => topics,
        };
        if version >= 4 {
            request.allow_auto_topic_creation = reader.bool()?;
        }
        if (8..=10).contains(&version) {
            request.include_cluster_authorized_operations = reader.bool()?;
        }
        if version >= 8 {
            request.include_topic_authorized_operations = reader.bool()?;
        }
        reader.skip_tags(flexible)?;
        Ok(request)
    }

    /// Writes the body.
    pub fn encode(&self, writer: &mut Writer, version: i16) {
        let count = self.topics.as_ref().map(Vec::len);
        writer.count(if version == 0 {
            Some(count.unwrap_or(0))
        } else {
            count
        });
        for topic in self.topics.iter().flatten() {
            if version >= 10 {
                writer.uuid(&topic.topic_id);
                writer.nullable_string(topic.name.as_deref());
            } else {
                writer.string(topic.name.as_deref().unwrap_or(""));
            }
            writer.no_tags();
        }
        if version >= 4 {
            writer.bool(self.allow_auto_topic_creation);
        }
        if (8..=10).contains(&version) {
            writer.bool(self.include_cluster_authorized_operations);
        }
        if version >= 8 {
            writer.bool(self.include_topic_authorized_operations);
        }
        writer.no_tags();
    }
}

/// A Produce answer, versions 3-13. The leader hints of KIP-951 are not sent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProduceResponse {
    /// How long the client is throttled.
    pub throttle_time_ms: i32,
    /// The topics.
    pub topics: Vec<ProduceTopicResponse>,
}

/// A topic of a [`ProduceResponse`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProduceTopicResponse {
    /// The name, written below version 13.
    pub name: StrBytes,
    /// The id, written from version 13 on.
    pub topic_id: Uuid,
    /// The partitions.
    pub partitions: Vec<ProducePartitionResponse>,
}

/// A partition of a [`ProduceTopicResponse`].
#[derive(Debug, Clone, PartialEq)]
pub struct ProducePartitionResponse {
    /// The partition.
    pub index: i32,
    /// The outcome.
    pub error: ErrorCode,
    /// Offset of the first record, -1 on an error.
    pub base_offset: i64,
    /// The broker's time of the append, -1 unless the topic uses LogAppendTime.
    pub log_append_time_ms: i64,
    /// The log start offset, -1 on an error; version 5 and up.
    pub log_start_offset: i64,
    /// Records that made the batch be refused; version 8 and up.
    pub record_errors: Vec<RecordError>,
    /// What is wrong with the batch; version 8 and up.
    pub error_message: Option<StrBytes>,
}

impl Default for ProducePartitionResponse {
    fn default() -> Self {
        Self {
            index: 0,
            error: ErrorCode::None,
            base_offset: -1,
            log_append_time_ms: -1,
            log_start_offset: -1,
            record_errors: Vec::new(),
            error_message: None,
        }
    }
}

/// A record that made its batch be refused.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RecordError {
    /// Position of the record in the batch.
    pub batch_index: i32,
    /// What is wrong with it.
    pub message: Option<StrBytes>,
}

impl ProduceResponse {
    /// Writes the body.
    pub fn encode(&self, writer: &mut Writer, version: i16) {
        writer.count(Some(self.topics.len()));
        for topic in &self.topics {
            put_topic(writer, version, &topic.name, &topic.topic_id);
            writer.count(Some(topic.partitions.len()));
            for partition in &topic.partitions {
                partition.encode(writer, version);
            }
            writer.no_tags();
        }
        writer.i32(self.throttle_time_ms);
        writer.no_tags();
    }

    /// Reads the body.
    pub fn decode(reader: &mut Reader<'_>, version: i16) -> Result<Self, WireError> {
        let flexible = version >= PRODUCE_FLEXIBLE;
        let topics = reader.array(flexible, 3, |reader| {
            let (name, topic_id) = topic(reader, version, flexible)?;
            let partitions = reader.array(flexible, 22, |reader| {
                ProducePartitionResponse::decode(reader, version, flexible)
            })?;
            reader.skip_tags(flexible)?;
            Ok(ProduceTopicResponse {
                name,
                topic_id,
                partitions,
            })
        })?;
        let throttle_time_ms = reader.i32()?;
        reader.skip_tags(flexible)?;
        Ok(Self {
            throttle_time_ms,
            topics,
        })
    }
}

impl ProducePartitionResponse {
    fn encode(&self, writer: &mut Writer, version: i16) {
        writer.i32(self.index);
        writer.i16(self.error.code());
        writer.i64(self.base_offset);
        writer.i64(self.log_append_time_ms);
        if version >= 5 {
            writer.i64(self.log_start_offset);
        }
        if version >= 8 {
            writer.count(Some(self.record_errors.len()));
            for record in &self.record_errors {
                writer.i32(record.batch_index);
                writer.nullable_string(record.message.as_deref());
                writer.no_tags();
            }
            writer.nullable_string(self.error_message.as_deref());
        }
        writer.no_tags();
    }

    fn decode(reader: &mut Reader<'_>, version: i16, flexible: bool) -> Result<Self, WireError> {
        let mut partition = Self {
            index: reader.i32()?,
            error: ErrorCode::from_wire(reader.i16()?),
            base_offset: reader.i64()?,
            log_append_time_ms: reader.i64()?,
            ..Self::default()
        };
        if version >= 5 {
            partition.log_start_offset = reader.i64()?;
        }
        if version >= 8 {
            partition.record_errors = reader.array(flexible, 5, |reader| {
                let batch_index = reader.i32()?;
                let message = reader.nullable_string(flexible)?;
                reader.skip_tags(flexible)?;
                Ok(RecordError { batch_index, message })
            })?;
            partition.error_message = reader.nullable_string(flexible)?;
        }
        reader.skip_tags(flexible)?;
        Ok(partition)
    }
}

/// A Fetch answer without its records, versions 4-18. The leader hints of KIP-951 and the diverging epoch
/// are not sent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FetchResponse {
    /// How long the client is throttled.
    pub throttle_time_ms: i32,
    /// An error of the whole request; version 7 and up.
    pub error: ErrorCode,
    /// The fetch session, 0 for none; version 7 and up.
    pub session_id: i32,
    /// The topics.
    pub topics: Vec<FetchTopicResponse>,
}

/// A topic of a [`FetchResponse`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FetchTopicResponse {
    /// The name, written below version 13.
    pub name: StrBytes,
    /// The id, written from version 13 on.
    pub topic_id: Uuid,
    /// The partitions.
    pub partitions: Vec<FetchPartitionResponse>,
}

/// A partition of a [`FetchTopicResponse`].
#[derive(Debug, Clone, PartialEq)]
pub struct FetchPartitionResponse {
    /// The partition.
    pub index: i32,
    /// The outcome.
    pub error: ErrorCode,
    /// The high watermark, -1 when unknown.
    pub high_watermark: i64,
    /// The last stable offset, -1 when unknown.
    pub last_stable_offset: i64,
    /// The log start offset, -1 when unknown; version 5 and up.
    pub log_start_offset: i64,
    /// Aborted transactions that overlap the records; nothing for read uncommitted.
    pub aborted: Option<Vec<AbortedTransaction>>,
    /// The replica to read from instead, -1 for none; version 11 and up.
    pub preferred_read_replica: i32,
    /// How many bytes of records follow. Zero is an empty, not a null, record set.
    pub records_len: usize,
}

impl Default for FetchPartitionResponse {
    fn default() -> Self {
        Self {
            index: 0,
            error: ErrorCode::None,
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            aborted: None,
            preferred_read_replica: -1,
            records_len: 0,
        }
    }
}

/// An aborted transaction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Its producer.
    pub producer_id: i64,
    /// Its first offset in the partition.
    pub first_offset: i64,
}

impl FetchPartitionResponse {
    /// Writes everything in front of the records, their length included.
    pub(crate) fn encode_head(&self, writer: &mut Writer, version: i16) {
        writer.i32(self.index);
        writer.i16(self.error.code());
        writer.i64(self.high_watermark);
        writer.i64(self.last_stable_offset);
        if version >= 5 {
            writer.i64(self.log_start_offset);
        }
        writer.count(self.aborted.as_ref().map(Vec::len));
        for transaction in self.aborted.iter().flatten() {
            writer.i64(transaction.producer_id);
            writer.i64(transaction.first_offset);
            writer.no_tags();
        }
        if version >= 11 {
            writer.i32(self.preferred_read_replica);
        }
        writer.count(Some(self.records_len));
    }

    fn decode(reader: &mut Reader<'_>, version: i16, flexible: bool) -> Result<FetchedPartition, WireError> {
        let mut partition = Self {
            index: reader.i32()?,
            error: ErrorCode::from_wire(reader.i16()?),
            high_watermark: reader.i64()?,
            last_stable_offset: reader.i64()?,
            ..Self::default()
        };
        if version >= 5 {
            partition.log_start_offset = reader.i64()?;
        }
        partition.aborted = reader.nullable_array(flexible, 16, |reader| {
            let transaction = AbortedTransaction {
                producer_id: reader.i64()?,
                first_offset: reader.i64()?,
            };
            reader.skip_tags(flexible)?;
            Ok(transaction)
        })?;
        if version >= 11 {
            partition.preferred_read_replica = reader.i32()?;
        }
        let records = reader.nullable_bytes(flexible)?.unwrap_or_default();
        partition.records_len = records.len();
        reader.skip_tags(flexible)?;
        Ok(FetchedPartition { partition, records })
    }
}

/// A Fetch answer as a client gets it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FetchedResponse {
    /// How long the client is throttled.
    pub throttle_time_ms: i32,
    /// An error of the whole request.
    pub error: ErrorCode,
    /// The fetch session, 0 for none.
    pub session_id: i32,
    /// The topics.
    pub topics: Vec<FetchedTopic>,
}

/// A topic of a [`FetchedResponse`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FetchedTopic {
    /// The name, empty from version 13 on.
    pub name: StrBytes,
    /// The id, nil before version 13.
    pub topic_id: Uuid,
    /// The partitions.
    pub partitions: Vec<FetchedPartition>,
}

/// A partition of a [`FetchedTopic`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FetchedPartition {
    /// Everything but the records.
    pub partition: FetchPartitionResponse,
    /// The record batches, a slice of the frame; the last one may be cut.
    pub records: Bytes,
}

impl FetchedResponse {
    /// Reads the body.
    pub fn decode(reader: &mut Reader<'_>, version: i16) -> Result<Self, WireError> {
        let flexible = version >= FETCH_FLEXIBLE;
        let mut response = Self {
            throttle_time_ms: reader.i32()?,
            ..Self::default()
        };
        if version >= 7 {
            response.error = ErrorCode::from_wire(reader.i16()?);
            response.session_id = reader.i32()?;
        }
        response.topics = reader.array(flexible, 3, |reader| {
            let (name, topic_id) = topic(reader, version, flexible)?;
            let partitions = reader.array(flexible, 24, |reader| {
                FetchPartitionResponse::decode(reader, version, flexible)
            })?;
            reader.skip_tags(flexible)?;
            Ok(FetchedTopic {
                name,
                topic_id,
                partitions,
            })
        })?;
        reader.skip_tags(flexible)?;
        Ok(response)
    }

    /// The same answer in the form the broker encodes: heads without records.
    pub fn heads(&self) -> FetchResponse {
        FetchResponse {
            throttle_time_ms: self.throttle_time_ms,
            error: self.error,
            session_id: self.session_id,
            topics: self
                .topics
                .iter()
                .map(|topic| FetchTopicResponse {
                    name: topic.name.clone(),
                    topic_id: topic.topic_id,
                    partitions: topic
                        .partitions
                        .iter()
                        .map(|fetched| fetched.partition.clone())
                        .collect(),
                })
                .collect(),
        }
    }
}
