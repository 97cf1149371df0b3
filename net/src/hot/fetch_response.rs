//! Fetch answers, versions 4-18: as the broker writes them, without records, and as a client reads them.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use super::{FETCH_FLEXIBLE, topic};
use crate::error_code::ErrorCode;
use crate::wire::{Reader, WireError, Writer};
use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

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
