//! DescribeLogDirs: what each partition takes on the disk, as its owner says, and how much room there is.
//!
//! Every shard is asked once per request. One that takes no turns is left out, and the directories then have an
//! error, so that nobody takes the sum for the whole. A directory that has failed, or could not be used at start,
//! has an error of its own and no partitions.

use std::collections::{BTreeMap, BTreeSet};

use tidelog_net::ErrorCode;
use tidelog_net::messages as kp;
use tidelog_net::messages::describe_log_dirs_request::DescribableLogDirTopic;
use tidelog_net::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use tidelog_net::response::ResponseBody;
use tidelog_segment_log::ids::PartitionKey;

use super::text;
use crate::guard::{Operation, Resource};
use crate::metadata::TopicImage;
use crate::request_context::RequestContext;
use crate::shard::partitions::DirectoryId;
use crate::shard::{Origin, Pending, ReplyTo, Shard, ShardRequest, topic_id};

/// What a partition takes while its size is on the way, made into an answer and encoded; its topic's name apart.
const PARTITION_BYTES: usize = 160;

const _: () =
    assert!(PARTITION_BYTES >= 2 * size_of::<PartitionSize>() + size_of::<DescribeLogDirsPartition>() + 22,);

/// A partition and the bytes of its files.
pub(in crate::shard) type PartitionSize = (PartitionKey, u64);

/// A request that waits for the sizes of other shards' partitions.
pub(in crate::shard) struct PendingLogDirs {
    origin: Origin,
    /// `None`: everything.
    asked: Option<Vec<DescribableLogDirTopic>>,
    sizes: Vec<PartitionSize>,
    /// Shards that have not answered, one bit each.
    awaited: u64,
    /// Shards that take no turns.
    missed: u64,
    reserved_bytes: usize,
}

impl PendingLogDirs {
    /// Whether it waits for this shard.
    pub(in crate::shard) fn awaits(&self, shard: usize) -> bool {
        self.awaited >> shard & 1 == 1
    }
}

impl Shard {
    pub(super) fn describe_log_dirs(
        &mut self,
        origin: Origin,
        context: &RequestContext,
        request: kp::DescribeLogDirsRequest,
    ) {
        if !self.allows(context, Resource::Cluster, Operation::Describe) {
            let body = kp::DescribeLogDirsResponse::default()
                .with_error_code(ErrorCode::ClusterAuthorizationFailed.code());
            self.answer(&origin, &ResponseBody::DescribeLogDirs(body));
            return;
        }
        let partitions = usize::try_from(self.image.partition_count()).unwrap_or(usize::MAX);
        let bytes = partitions
            .saturating_mul(PARTITION_BYTES)
            .saturating_add(self.topics_bytes());
        let Some(reserved_bytes) = self.reserve_answer(bytes) else {
            let body = self.log_dirs(ErrorCode::RequestTimedOut, None);
            self.answer(&origin, &ResponseBody::DescribeLogDirs(body));
            return;
        };
        let others = (0..self.endpoint.shards()).filter(|shard| *shard != usize::from(self.own));
        let (silent, asked): (Vec<usize>, Vec<usize>) =
            others.partition(|shard| self.endpoint.is_silent(*shard));
        let bits = |shards: &[usize]| shards.iter().fold(0, |bits, shard| bits | 1 << shard);
        let id = self.add_pending(Pending::LogDirs(PendingLogDirs {
            origin,
            asked: request.topics,
            sizes: self.partitions.sizes(),
            awaited: bits(&asked),
            missed: bits(&silent),
            reserved_bytes,
        }));
        for shard in &asked {
            let reply = ReplyTo {
                shard: self.own,
                pending: id,
                part: *shard as u32,
            };
            self.send(*shard, ShardRequest::Sizes(reply));
        }
        self.finish_log_dirs(id);
    }

    /// A shard has told its sizes, or (`None`) takes no turns. An answer that comes late is dropped.
    pub(in crate::shard) fn on_sizes(&mut self, reply: ReplyTo, sizes: Option<Vec<PartitionSize>>) {
        let Some(Pending::LogDirs(pending)) = self.pending.get_mut(&reply.pending) else {
            return;
        };
        if !pending.awaits(reply.part as usize) {
            return;
        }
        pending.awaited &= !(1 << reply.part);
        match sizes {
            Some(sizes) => pending.sizes.extend(sizes),
            None => pending.missed |= 1 << reply.part,
        }
        self.finish_log_dirs(reply.pending);
    }

    fn finish_log_dirs(&mut self, id: u64) {
        match self.pending.get_mut(&id) {
            Some(Pending::LogDirs(pending)) if pending.awaited == 0 => {}
            _ => return,
        }
        let Some(Pending::LogDirs(mut pending)) = self.pending.remove(&id) else {
            return;
        };
        pending
            .sizes
            .sort_unstable_by_key(|(key, _)| (key.topic.0, key.partition));
        let code = match pending.missed {
            0 => ErrorCode::None,
            _ => ErrorCode::RequestTimedOut,
        };
        let body = self.log_dirs(code, Some(&pending));
        let body = ResponseBody::DescribeLogDirs(body);
        self.answer_reserved(&pending.origin, &body, pending.reserved_bytes);
    }

    /// All directories. `pending`: what is known of partitions.
    fn log_dirs(&self, code: ErrorCode, pending: Option<&PendingLogDirs>) -> kp::DescribeLogDirsResponse {
        let mut results = Vec::new();
        for shown in self.partitions.shown() {
            let result = DescribeLogDirsResult::default()
                .with_log_dir(text(shown.path.display().to_string()))
                .with_total_bytes(shown.space.total_bytes())
                .with_usable_bytes(shown.space.usable_bytes());
            results.push(if shown.space.has_failed() {
                result.with_error_code(ErrorCode::KafkaStorageError.code())
            } else {
                let topics = pending.map_or_else(Vec::new, |pending| self.sized_topics(pending, shown.id));
                result.with_error_code(code.code()).with_topics(topics)
            });
        }
        results.extend(self.partitions.unusable().iter().map(|path| {
            DescribeLogDirsResult::default()
                .with_error_code(ErrorCode::KafkaStorageError.code())
                .with_log_dir(text(path.display().to_string()))
        }));
        kp::DescribeLogDirsResponse::default().with_results(results)
    }

    fn sized_topics(&self, pending: &PendingLogDirs, directory: DirectoryId) -> Vec<DescribeLogDirsTopic> {
        let asked = pending.asked.as_ref().map(|topics| {
            let mut by_name: BTreeMap<&str, BTreeSet<i32>> = BTreeMap::new();
            for topic in topics {
                by_name
                    .entry(topic.topic.as_str())
                    .or_default()
                    .extend(&topic.partitions);
            }
            by_name
        });
        let sized = |topic: &TopicImage, partitions: &mut dyn Iterator<Item = i32>| {
            let partitions: Vec<DescribeLogDirsPartition> = partitions
                .filter(|partition| self.partitions.directory_of(topic, *partition) == Some(directory))
                .filter_map(|partition| self.sized_partition(pending, topic, partition))
                .collect();
            (!partitions.is_empty()).then(|| {
                DescribeLogDirsTopic::default()
                    .with_name(kp::TopicName(text(&*topic.name)))
                    .with_partitions(partitions)
            })
        };
        match asked {
            None => self
                .image
                .topics()
                .filter_map(|topic| sized(topic, &mut (0..topic.partitions)))
                .collect(),
            Some(asked) => asked
                .into_iter()
                .filter_map(|(name, partitions)| {
                    let topic = self.image.topic(name)?;
                    let known = partitions
                        .into_iter()
                        .filter(|partition| topic.has_partition(*partition));
                    sized(topic, &mut { known })
                })
                .collect(),
        }
    }

    /// `None`: its owner takes no turns. One that its owner has not begun to open has no files yet.
    fn sized_partition(
        &self,
        pending: &PendingLogDirs,
        topic: &TopicImage,
        partition: i32,
    ) -> Option<DescribeLogDirsPartition> {
        let key = PartitionKey {
            topic: topic_id(topic),
            partition,
        };
        if pending.missed >> self.owner_of(&key) & 1 == 1 {
            return None;
        }
        let found = pending
            .sizes
            .binary_search_by_key(&(key.topic.0, partition), |(key, _)| (key.topic.0, key.partition));
        let size = found
            .ok()
            .and_then(|at| pending.sizes.get(at))
            .map_or(0, |(_, size)| *size);
        Some(
            DescribeLogDirsPartition::default()
                .with_partition_index(partition)
                .with_partition_size(i64::try_from(size).unwrap_or(i64::MAX))
                .with_offset_lag(0)
                .with_is_future_key(false),
        )
    }
}
