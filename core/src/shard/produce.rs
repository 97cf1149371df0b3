//! Produce on the connection's shard: ask each partition's owner, answer when the last has answered.
//!
//! acks=0 gets no answer at all; an error then closes the connection, as Kafka does.

use tidelog_net::ErrorCode;
use tidelog_net::StrBytes;
use tidelog_net::hot::{
    ProducePartitionResponse, ProduceRequest, ProduceResponse, ProduceTopicResponse, RecordError,
};
use tidelog_net::response::ResponseBody;
use tidelog_segment_log::batch::{BatchHeader, Compression};
use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::ids::PartitionKey;

use super::compacted::NO_KEY;
use super::partition::{PartitionAnswer, PartitionOp};
use super::parts::{Asks, Parts};
use super::{Now, Origin, Pending, ReplyTo, Shard, topic_id};
use crate::guard::{Operation, Resource};
use crate::request_context::RequestContext;

/// Clients that speak an older version do not expect zstd (KIP-110).
const ZSTD_FROM: i16 = 7;

fn is_zstd(batch: &[u8]) -> bool {
    BatchHeader::parse(batch).is_ok_and(|header| header.compression() == Ok(Compression::Zstd))
}

pub(super) struct PendingProduce {
    origin: Origin,
    acks: i16,
    response: ProduceResponse,
    parts: Parts,
}

impl PendingProduce {
    /// The parts that wait for their owner.
    pub(super) fn waiting(&self) -> Vec<(u32, PartitionKey)> {
        self.parts.waiting()
    }
}

fn failed(index: i32, error: ErrorCode, message: Option<&str>) -> ProducePartitionResponse {
    ProducePartitionResponse {
        index,
        error,
        base_offset: -1,
        log_append_time_ms: -1,
        log_start_offset: -1,
        record_errors: Vec::new(),
        error_message: message.map(|text| StrBytes::from_string(text.to_owned())),
    }
}

impl Shard {
    pub(super) fn produce(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        origin: Origin,
        context: &RequestContext,
        request: ProduceRequest,
    ) {
        let mut response = ProduceResponse {
            throttle_time_ms: 0,
            topics: Vec::with_capacity(request.topics.len()),
        };
        let (mut parts, mut asks) = (Parts::default(), Asks::new());
        let image = std::sync::Arc::clone(&self.image);
        let transaction_denied = request
            .transactional_id
            .as_ref()
            .is_some_and(|id| !self.allows(context, Resource::TransactionalId(id), Operation::Write));
        for (topic_at, topic) in request.topics.into_iter().enumerate() {
            let by_id = origin.version >= 13;
            let found = if by_id {
                image.topic_by_id(topic.topic_id)
            } else {
                image.topic(&topic.name)
            };
            let refusal = match found {
                _ if !matches!(request.acks, -1..=1) => Some(ErrorCode::InvalidRequiredAcks),
                _ if transaction_denied => Some(ErrorCode::TransactionalIdAuthorizationFailed),
                None if by_id => Some(ErrorCode::UnknownTopicId),
                found => {
                    // Who may not write to a topic does not learn whether it is there.
                    let name = found.map_or(&*topic.name, |found| &*found.name);
                    match self.allows(context, Resource::Topic(name), Operation::Write) {
                        false => Some(ErrorCode::TopicAuthorizationFailed),
                        true => found.is_none().then_some(ErrorCode::UnknownTopicOrPartition),
                    }
                }
            };
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for (partition_at, partition) in topic.partitions.into_iter().enumerate() {
                let refusal = refusal.or_else(|| {
                    let known = found.is_some_and(|topic| topic.has_partition(partition.index));
                    (!known).then_some(ErrorCode::UnknownTopicOrPartition)
                });
                let batch = partition.records.filter(|records| !records.is_empty());
                let refusal = refusal.or_else(|| {
                    let zstd = batch.as_ref().is_some_and(|batch| is_zstd(batch));
                    (origin.version < ZSTD_FROM && zstd).then_some(ErrorCode::UnsupportedCompressionType)
                });
                match (refusal, batch, found) {
                    (None, Some(batch), Some(found)) => {
                        let key = PartitionKey {
                            topic: topic_id(found),
                            partition: partition.index,
                        };
                        parts.push(topic_at, partition_at, key);
                        asks.push((
                            key,
                            PartitionOp::Produce {
                                batch,
                                acks: request.acks,
                            },
                        ));
                        partitions.push(failed(partition.index, ErrorCode::RequestTimedOut, None));
                    }
                    (None, None, _) => {
                        let text = Some("a record batch is needed");
                        partitions.push(failed(partition.index, ErrorCode::InvalidRecord, text));
                    }
                    (refusal, ..) => {
                        let code = refusal.unwrap_or(ErrorCode::UnknownTopicOrPartition);
                        partitions.push(failed(partition.index, code, None));
                    }
                }
            }
            response.topics.push(ProduceTopicResponse {
                name: topic.name,
                topic_id: topic.topic_id,
                partitions,
            });
        }
        let pending = PendingProduce {
            origin,
            acks: request.acks,
            response,
            parts,
        };
        if pending.parts.are_complete() {
            self.finish_produce(pending);
            return;
        }
        let pending = self.add_pending(Pending::Produce(pending));
        self.ask_owners(now, disk, pending, asks);
    }

    pub(super) fn on_produced(&mut self, reply: ReplyTo, answer: PartitionAnswer) {
        let Some(Pending::Produce(pending)) = self.pending.get_mut(&reply.pending) else {
            return;
        };
        let Some(part) = pending.parts.take(reply.part) else {
            return;
        };
        let topic = pending.response.topics.get_mut(part.topic_at);
        let place = topic.and_then(|topic| topic.partitions.get_mut(part.partition_at));
        if let Some(place) = place {
            match answer {
                PartitionAnswer::Produced {
                    base_offset,
                    log_append_time_ms,
                    log_start_offset,
                } => {
                    place.error = ErrorCode::None;
                    place.base_offset = base_offset;
                    place.log_append_time_ms = log_append_time_ms;
                    place.log_start_offset = log_start_offset;
                }
                PartitionAnswer::Failed(code, text) => {
                    *place = failed(place.index, code, (!text.is_empty()).then_some(text.as_str()));
                    if code == ErrorCode::InvalidRecord {
                        place.record_errors.push(RecordError {
                            batch_index: 0,
                            message: place.error_message.clone(),
                        });
                    }
                }
                PartitionAnswer::RecordsRefused(text, positions) => {
                    *place = failed(place.index, ErrorCode::InvalidRecord, Some(&text));
                    let message = Some(StrBytes::from_static_str(NO_KEY));
                    place.record_errors = positions
                        .into_iter()
                        .map(|batch_index| RecordError {
                            batch_index,
                            message: message.clone(),
                        })
                        .collect();
                }
                _ => {}
            }
        }
        if pending.parts.are_complete()
            && let Some(Pending::Produce(pending)) = self.pending.remove(&reply.pending)
        {
            self.finish_produce(pending);
        }
    }

    fn finish_produce(&mut self, pending: PendingProduce) {
        if pending.acks != 0 {
            self.answer(&pending.origin, &ResponseBody::Produce(pending.response));
            return;
        }
        let mut partitions = pending.response.topics.iter().flat_map(|topic| &topic.partitions);
        if partitions.all(|partition| partition.error.is_ok()) {
            self.finish_silently(&pending.origin);
        } else {
            self.close_for_error(&pending.origin);
        }
    }
}
