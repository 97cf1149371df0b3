//! DescribeTopicPartitions: topics by name, page by page. An answer has a bounded number of partitions, and
//! says where the next one is to begin.

use std::collections::BTreeSet;

use tidelog_net::ErrorCode;
use tidelog_net::messages as kp;
use tidelog_net::response::ResponseBody;
use tidelog_segment_log::ids::PartitionKey;

use super::large_answer::{ITEM_BYTES, item_bytes};
use super::{OPERATIONS_UNKNOWN, text};
use crate::guard::{Operation, Resource};
use crate::limits::{DESCRIBED_PARTITIONS_MAX, TOPIC_NAME_BYTES_MAX};
use crate::metadata::{TopicImage, check_topic_name, is_internal};
use crate::request_context::RequestContext;
use crate::shard::{Origin, Shard, topic_id};

type Topic = kp::describe_topic_partitions_response::DescribeTopicPartitionsResponseTopic;
type Cursor = kp::describe_topic_partitions_response::Cursor;

fn cursor(topic: &str, partition: i32) -> Option<Cursor> {
    let topic = kp::TopicName(text(topic));
    Some(
        Cursor::default()
            .with_topic_name(topic)
            .with_partition_index(partition),
    )
}

impl Shard {
    pub(super) fn describe_topic_partitions(
        &mut self,
        origin: &Origin,
        context: &RequestContext,
        request: &kp::DescribeTopicPartitionsRequest,
    ) {
        let limit = request
            .response_partition_limit
            .clamp(1, DESCRIBED_PARTITIONS_MAX);
        let limit_items = limit as usize;
        let (names, partitions) = match request.topics.is_empty() {
            true => {
                let all = usize::try_from(self.image.partition_count()).unwrap_or(usize::MAX);
                let partitions = all.min(limit_items);
                // A page has at most as many topics as partitions.
                (partitions * 2 * TOPIC_NAME_BYTES_MAX, partitions)
            }
            false => {
                let asked = || request.topics.iter();
                let found = asked().filter_map(|topic| self.image.topic(&topic.name));
                let partitions: usize = found.map(|topic| topic.partitions as usize).sum();
                let names = asked().map(|topic| item_bytes(&topic.name)).sum();
                (names, partitions.min(limit_items))
            }
        };
        let bytes = names + partitions * ITEM_BYTES;
        self.answer_within(origin, bytes, |shard| {
            let body = match shard.check_cursor(request) {
                Ok(()) => shard.described_page(context, request, limit),
                Err(code) => refused(request, code),
            };
            ResponseBody::DescribeTopicPartitions(body)
        });
    }

    /// A page begins in one of the topics asked for, at a partition that could be.
    fn check_cursor(&self, request: &kp::DescribeTopicPartitionsRequest) -> Result<(), ErrorCode> {
        let Some(cursor) = &request.cursor else {
            return Ok(());
        };
        let mut asked = request.topics.iter();
        let named = request.topics.is_empty() || asked.any(|topic| topic.name == cursor.topic_name);
        match named && cursor.partition_index >= 0 {
            true => Ok(()),
            false => Err(ErrorCode::InvalidRequest),
        }
    }

    fn described_page(
        &self,
        context: &RequestContext,
        request: &kp::DescribeTopicPartitionsRequest,
        limit: i32,
    ) -> kp::DescribeTopicPartitionsResponse {
        let (first, first_partition) = match &request.cursor {
            Some(cursor) => (cursor.topic_name.as_str(), cursor.partition_index),
            None => ("", 0),
        };
        let all = request.topics.is_empty();
        let asked: BTreeSet<&str> = request.topics.iter().map(|topic| topic.name.as_str()).collect();
        let names: Box<dyn Iterator<Item = &str>> = match all {
            true => Box::new(self.image.topics().map(|topic| &*topic.name)),
            false => Box::new(asked.into_iter()),
        };
        let mut body = kp::DescribeTopicPartitionsResponse::default();
        let mut left = limit;
        for name in names.filter(|name| *name >= first) {
            if all && !self.allows(context, Resource::Topic(name), Operation::Describe) {
                continue;
            }
            let from = if name == first { first_partition } else { 0 };
            if left == 0 {
                body.next_cursor = cursor(name, from);
                break;
            }
            let (topic, next) = self.described_topic(context, name, from, left);
            left -= topic.partitions.len() as i32;
            body.topics.push(topic);
            if let Some(next) = next {
                body.next_cursor = cursor(name, next);
                break;
            }
        }
        body
    }

    /// A topic with at most `left` of its partitions, and the first one that did not fit.
    fn described_topic(
        &self,
        context: &RequestContext,
        name: &str,
        from: i32,
        left: i32,
    ) -> (Topic, Option<i32>) {
        let mut body = Topic::default().with_name(Some(kp::TopicName(text(name))));
        if !self.allows(context, Resource::Topic(name), Operation::Describe) {
            body.error_code = ErrorCode::TopicAuthorizationFailed.code();
            body.topic_authorized_operations = OPERATIONS_UNKNOWN;
            return (body, None);
        }
        body.is_internal = is_internal(name);
        body.topic_authorized_operations = self.guard.operations(&Resource::Topic(name));
        let Some(topic) = self.image.topic(name) else {
            let code = match check_topic_name(name) {
                Ok(()) => ErrorCode::UnknownTopicOrPartition,
                Err(_) => ErrorCode::InvalidTopicException,
            };
            body.error_code = code.code();
            return (body, None);
        };
        let end = topic.partitions.min(from.saturating_add(left));
        body.topic_id = topic.topic_id;
        body.partitions = (from..end)
            .map(|partition| self.described_partition(topic, partition))
            .collect();
        (body, (end < topic.partitions).then_some(end))
    }

    fn described_partition(
        &self,
        topic: &TopicImage,
        partition: i32,
    ) -> kp::describe_topic_partitions_response::DescribeTopicPartitionsResponsePartition {
        let node = kp::BrokerId(self.settings.node_id);
        let key = PartitionKey {
            topic: topic_id(topic),
            partition,
        };
        kp::describe_topic_partitions_response::DescribeTopicPartitionsResponsePartition::default()
            .with_partition_index(partition)
            .with_leader_id(node)
            .with_leader_epoch(self.leader_epochs.get(&key).copied().unwrap_or(-1))
            .with_replica_nodes(vec![node])
            .with_isr_nodes(vec![node])
            // The schema lets these be null, and the Java client then throws.
            .with_eligible_leader_replicas(Some(Vec::new()))
            .with_last_known_elr(Some(Vec::new()))
            .with_offline_replicas(Vec::new())
    }
}

/// The answer to a request that makes no sense: each of its topics has the error.
fn refused(
    request: &kp::DescribeTopicPartitionsRequest,
    code: ErrorCode,
) -> kp::DescribeTopicPartitionsResponse {
    let topics = request.topics.iter().map(|topic| {
        Topic::default()
            .with_name(Some(topic.name.clone()))
            .with_error_code(code.code())
    });
    kp::DescribeTopicPartitionsResponse::default().with_topics(topics.collect())
}
