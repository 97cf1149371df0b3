//! Fetch requests, versions 4-18.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use super::{FETCH_FLEXIBLE, put_topic, topic};
use crate::wire::{Reader, WireError, Writer};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

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
