//! Produce, versions 3-13: the request and its answer.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use super::{PRODUCE_FLEXIBLE, put_topic, topic};
use crate::error_code::ErrorCode;
use crate::wire::{Reader, WireError, Writer};
use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

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
