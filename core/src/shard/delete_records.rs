//! DeleteRecords on the connection's shard, and what a partition's owner does for it.
//!
//! Each partition's owner moves its log start and answers once the entry that says so is durable. Owners
//! that have not answered by the request's deadline are answered for with REQUEST_TIMED_OUT: the records
//! may go all the same, and asking again is harmless.
//!
//! Invariant: every pending request of this kind is in the shard's list of deletions, which is looked
//! through each tick; so a deadline costs nothing but while its request waits.

use tidelog_net::ErrorCode;
use tidelog_net::messages as kp;
use tidelog_net::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use tidelog_net::response::ResponseBody;
use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::ids::{EntryIndex, Offset, PartitionKey};
use tidelog_segment_log::log::{LogStartError, PartitionLog};

use super::append::{Refusal, refused_append};
use super::partition::{PartitionAnswer, PartitionOp};
use super::parts::{Asks, Parts};
use super::{Now, Origin, Pending, ReplyTo, Shard, topic_id};
use crate::guard::{Operation, Resource};
use crate::metadata::is_internal;
use crate::request_context::RequestContext;
use crate::topic_config::TopicConfig;

/// In a request: up to the high watermark.
const UP_TO_HIGH_WATERMARK: i64 = -1;
/// In an answer: none, since the log start was not moved.
const NO_LOW_WATERMARK: i64 = -1;
/// A commit always has this long, in ms: clients send a timeout of 0 for "do not wait for followers".
const WAIT_MS_MIN: u64 = 1_000;
/// Longer waits are cut, in ms.
const WAIT_MS_MAX: u64 = 5 * 60 * 1_000;

pub(super) struct PendingDeleteRecords {
    origin: Origin,
    response: kp::DeleteRecordsResponse,
    parts: Parts,
    deadline_ms: u64,
}

impl PendingDeleteRecords {
    /// The parts that wait for their owner.
    pub(super) fn waiting(&self) -> Vec<(u32, PartitionKey)> {
        self.parts.waiting()
    }
}

impl Shard {
    pub(super) fn delete_records(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        origin: Origin,
        context: &RequestContext,
        request: kp::DeleteRecordsRequest,
    ) {
        let image = std::sync::Arc::clone(&self.image);
        let mut response = kp::DeleteRecordsResponse::default();
        let (mut parts, mut asks) = (Parts::default(), Asks::new());
        for (topic_at, topic) in request.topics.iter().enumerate() {
            let name = &topic.name.0;
            let found = image.topic(name);
            let asked = [(Resource::Topic(name), Operation::Delete)];
            let refusal = if !self.guard.check(context, &asked).is_allowed() {
                self.metrics.guard_denials.increment();
                Some(ErrorCode::TopicAuthorizationFailed)
            } else if found.is_some() && is_internal(name) {
                Some(ErrorCode::InvalidTopicException)
            } else {
                None
            };
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for (partition_at, partition) in topic.partitions.iter().enumerate() {
                let mut answer = DeleteRecordsPartitionResult::default()
                    .with_partition_index(partition.partition_index)
                    .with_low_watermark(NO_LOW_WATERMARK);
                match (refusal, found) {
                    (Some(code), _) => answer.error_code = code.code(),
                    (None, Some(found)) if found.has_partition(partition.partition_index) => {
                        let key = PartitionKey {
                            topic: topic_id(found),
                            partition: partition.partition_index,
                        };
                        parts.push(topic_at, partition_at, key);
                        let offset = partition.offset;
                        asks.push((key, PartitionOp::DeleteRecords { offset }));
                    }
                    _ => answer.error_code = ErrorCode::UnknownTopicOrPartition.code(),
                }
                partitions.push(answer);
            }
            response.topics.push(
                DeleteRecordsTopicResult::default()
                    .with_name(topic.name.clone())
                    .with_partitions(partitions),
            );
        }
        if parts.are_complete() {
            self.answer(&origin, &ResponseBody::DeleteRecords(response));
            return;
        }
        let wait_ms = u64::try_from(request.timeout_ms).unwrap_or(0);
        let id = self.add_pending(Pending::DeleteRecords(PendingDeleteRecords {
            origin,
            response,
            parts,
            deadline_ms: now.monotonic_ms + wait_ms.clamp(WAIT_MS_MIN, WAIT_MS_MAX),
        }));
        self.deletions.insert(id);
        self.ask_owners(now, disk, id, asks);
    }

    pub(super) fn on_records_deleted(&mut self, reply: ReplyTo, answer: PartitionAnswer) {
        let Some(Pending::DeleteRecords(pending)) = self.pending.get_mut(&reply.pending) else {
            return;
        };
        let Some(part) = pending.parts.take(reply.part) else {
            return;
        };
        let topic = pending.response.topics.get_mut(part.topic_at);
        let place = topic.and_then(|topic| topic.partitions.get_mut(part.partition_at));
        if let Some(place) = place {
            match answer {
                PartitionAnswer::LogStart { offset } => place.low_watermark = offset,
                PartitionAnswer::Failed(code, reason) => {
                    tracing::debug!(%reason, partition = place.partition_index, "records were not deleted");
                    place.error_code = code.code();
                }
                _ => {}
            }
        }
        if pending.parts.are_complete()
            && let Some(Pending::DeleteRecords(pending)) = self.pending.remove(&reply.pending)
        {
            self.deletions.remove(&reply.pending);
            self.answer(&pending.origin, &ResponseBody::DeleteRecords(pending.response));
        }
    }

    /// Answers for the owners that are late; once per tick.
    pub(super) fn expire_deletions(&mut self, now: Now) {
        let mut late = Vec::new();
        for id in &self.deletions {
            if let Some(Pending::DeleteRecords(pending)) = self.pending.get(id)
                && pending.deadline_ms <= now.monotonic_ms
            {
                late.extend(pending.waiting().into_iter().map(|(part, _)| ReplyTo {
                    shard: self.own,
                    pending: *id,
                    part,
                }));
            }
        }
        for reply in late {
            let text = "not durable within the timeout of the request".to_owned();
            self.on_records_deleted(reply, PartitionAnswer::Failed(ErrorCode::RequestTimedOut, text));
        }
    }
}

/// Moves the log start of an open log as a client asks. Answers with the log start in force and the index
/// that has to be durable before that may be told.
pub(super) fn move_log_start(
    now: Now,
    disk: &mut dyn Disk,
    log: &mut PartitionLog,
    config: &TopicConfig,
    offset: i64,
) -> Result<(EntryIndex, Offset), Refusal> {
    if !config.cleanup_policy.delete {
        let text = "cleanup.policy of the topic does not contain delete".to_owned();
        return Err(Refusal::new(ErrorCode::PolicyViolation, text));
    }
    let to = match offset {
        UP_TO_HIGH_WATERMARK => log.high_watermark(),
        offset if offset < 0 => {
            let text = format!("offset {offset} is negative and not -1");
            return Err(Refusal::new(ErrorCode::OffsetOutOfRange, text));
        }
        offset => Offset(offset),
    };
    match log.append_log_start(now.wall_ms, disk, to) {
        Ok(index) => Ok((index, log.log_start_offset())),
        Err(error @ LogStartError::AboveHighWatermark { .. }) => {
            Err(Refusal::new(ErrorCode::OffsetOutOfRange, error.to_string()))
        }
        Err(LogStartError::Append(error)) => Err(refused_append(&error)),
    }
}
