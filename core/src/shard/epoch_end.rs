//! OffsetForLeaderEpoch on the connection's shard: ask each partition's owner, answer when the last has.

use tidelog_net::ErrorCode;
use tidelog_net::messages as kp;
use tidelog_net::response::ResponseBody;
use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::ids::PartitionKey;

use super::partition::{PartitionAnswer, PartitionOp};
use super::parts::{Asks, Parts};
use super::{Now, Origin, Pending, ReplyTo, Shard, topic_id};
use crate::guard::{Operation, Resource};
use crate::request_context::RequestContext;

pub(super) struct PendingEpochEnd {
    origin: Origin,
    response: kp::OffsetForLeaderEpochResponse,
    parts: Parts,
}

impl PendingEpochEnd {
    /// The parts that wait for their owner.
    pub(super) fn waiting(&self) -> Vec<(u32, PartitionKey)> {
        self.parts.waiting()
    }
}

impl Shard {
    pub(super) fn epoch_end(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        origin: Origin,
        context: &RequestContext,
        request: kp::OffsetForLeaderEpochRequest,
    ) {
        use kp::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
        let image = std::sync::Arc::clone(&self.image);
        let mut response = kp::OffsetForLeaderEpochResponse::default();
        let (mut parts, mut asks) = (Parts::default(), Asks::new());
        for (topic_at, topic) in request.topics.iter().enumerate() {
            let found = image.topic(&topic.topic.0);
            let allowed = self
                .guard
                .check(context, &[(Resource::Topic(&topic.topic.0), Operation::Describe)])
                .is_allowed();
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for (partition_at, partition) in topic.partitions.iter().enumerate() {
                let mut answer = EpochEndOffset::default().with_partition(partition.partition);
                answer.leader_epoch = -1;
                answer.end_offset = -1;
                match found {
                    _ if !allowed => answer.error_code = ErrorCode::TopicAuthorizationFailed.code(),
                    Some(found) if found.has_partition(partition.partition) => {
                        let key = PartitionKey {
                            topic: topic_id(found),
                            partition: partition.partition,
                        };
                        let (epoch, leader_epoch) = (partition.leader_epoch, partition.current_leader_epoch);
                        parts.push(topic_at, partition_at, key);
                        asks.push((key, PartitionOp::EpochEnd { epoch, leader_epoch }));
                    }
                    _ => answer.error_code = ErrorCode::UnknownTopicOrPartition.code(),
                }
                partitions.push(answer);
            }
            response.topics.push(
                OffsetForLeaderTopicResult::default()
                    .with_topic(topic.topic.clone())
                    .with_partitions(partitions),
            );
        }
        if parts.are_complete() {
            self.answer(&origin, &ResponseBody::OffsetForLeaderEpoch(response));
            return;
        }
        let id = self.add_pending(Pending::EpochEnd(PendingEpochEnd {
            origin,
            response,
            parts,
        }));
        self.ask_owners(now, disk, id, asks);
    }

    pub(super) fn on_epoch_end(&mut self, reply: ReplyTo, answer: PartitionAnswer) {
        let Some(Pending::EpochEnd(pending)) = self.pending.get_mut(&reply.pending) else {
            return;
        };
        let Some(part) = pending.parts.take(reply.part) else {
            return;
        };
        let topic = pending.response.topics.get_mut(part.topic_at);
        let place = topic.and_then(|topic| topic.partitions.get_mut(part.partition_at));
        if let Some(place) = place {
            match answer {
                PartitionAnswer::EpochEnd {
                    leader_epoch,
                    end_offset,
                } => {
                    place.leader_epoch = leader_epoch;
                    place.end_offset = end_offset;
                }
                PartitionAnswer::Failed(code, _) => place.error_code = code.code(),
                _ => {}
            }
        }
        if pending.parts.are_complete()
            && let Some(Pending::EpochEnd(pending)) = self.pending.remove(&reply.pending)
        {
            self.answer(
                &pending.origin,
                &ResponseBody::OffsetForLeaderEpoch(pending.response),
            );
        }
    }
}
