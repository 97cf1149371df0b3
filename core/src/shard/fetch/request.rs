//! The first step of a fetch: the request becomes a list of partitions to read.

use tidelog_net::ErrorCode;
use tidelog_net::hot::{FetchPartitionResponse, FetchRequest, FetchResponse, FetchTopicResponse};
use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::ids::PartitionKey;

use super::{MAX_WAIT_MS, PARTS_MAX, PendingFetch, Phase, Wanted};
use crate::guard::{Operation, Resource};
use crate::request_context::RequestContext;
use crate::shard::connection::Connection;
use crate::shard::{Now, Origin, Pending, Shard, topic_id};

impl Shard {
    pub(in crate::shard) fn fetch(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        origin: Origin,
        context: &RequestContext,
        mut request: FetchRequest,
    ) {
        let by_id = origin.version >= 13;
        let image = std::sync::Arc::clone(&self.image);
        let mut response = FetchResponse::default();
        let mut wanted = Vec::new();
        let begun = self
            .fetch_sessions
            .begin(now.monotonic_ms, by_id, &mut request, &self.metrics);
        let session = begun.unwrap_or_else(|error| {
            response.error = error;
            None
        });
        for (topic_at, topic) in request.topics.iter().enumerate() {
            if !response.error.is_ok() {
                break;
            }
            let found = if by_id {
                image.topic_by_id(topic.topic_id)
            } else {
                image.topic(&topic.name)
            };
            let refusal = match found {
                None if by_id => ErrorCode::UnknownTopicId,
                found => {
                    // Who may not read a topic does not learn whether it is there.
                    let name = found.map_or(&*topic.name, |found| &*found.name);
                    match self.allows(context, Resource::Topic(name), Operation::Read) {
                        false => ErrorCode::TopicAuthorizationFailed,
                        true if found.is_none() => ErrorCode::UnknownTopicOrPartition,
                        true => ErrorCode::None,
                    }
                }
            };
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for (partition_at, partition) in topic.partitions.iter().enumerate() {
                let mut error = refusal;
                match found {
                    Some(found)
                        if error.is_ok()
                            && found.has_partition(partition.index)
                            && wanted.len() < PARTS_MAX =>
                    {
                        wanted.push(Wanted {
                            topic_at,
                            partition_at,
                            key: PartitionKey {
                                topic: topic_id(found),
                                partition: partition.index,
                            },
                            offset: partition.fetch_offset,
                            max_bytes: usize::try_from(partition.max_bytes).unwrap_or(0),
                            leader_epoch: partition.current_leader_epoch,
                            high_watermark: -1,
                            found: None,
                        });
                    }
                    _ if error.is_ok() => error = ErrorCode::UnknownTopicOrPartition,
                    _ => {}
                }
                partitions.push(FetchPartitionResponse {
                    index: partition.index,
                    error,
                    aborted: (request.isolation_level == 1).then(Vec::new),
                    ..FetchPartitionResponse::default()
                });
            }
            response.topics.push(FetchTopicResponse {
                name: topic.name.clone(),
                topic_id: topic.topic_id,
                partitions,
            });
        }
        // Who is served first changes from fetch to fetch of a connection (a session knows who waits longest), so that no partition starves.
        let turn = self
            .connections
            .get_mut(&origin.socket)
            .map_or(0, Connection::next_fetch_turn);
        if let Some(session) = session.as_ref().filter(|session| session.is_incremental) {
            wanted.sort_by_key(|wanted| session.turn(wanted.topic_at, wanted.partition_at));
        } else if !wanted.is_empty() {
            let turn = turn % wanted.len();
            wanted.rotate_left(turn);
        }
        let failed = response
            .topics
            .iter()
            .flat_map(|topic| &topic.partitions)
            .any(|p| !p.error.is_ok());
        let wait_ms = if failed || wanted.is_empty() {
            0
        } else {
            request.max_wait_ms.clamp(0, MAX_WAIT_MS) as u64
        };
        let fetch_max = self.settings.fetch_max_bytes as usize;
        let pending = PendingFetch {
            origin,
            response,
            wanted,
            round: 0,
            missing: 0,
            phase: Phase::Reading,
            min_bytes: usize::try_from(request.min_bytes).unwrap_or(0),
            max_bytes: usize::try_from(request.max_bytes).unwrap_or(0).min(fetch_max),
            deadline_ms: now.monotonic_ms + wait_ms,
            has_deadline: false,
            expired: wait_ms == 0,
            records: Vec::new(),
            loading: 0,
            fetch_charge: 0,
            session,
        };
        let socket = pending.origin.socket;
        let id = self.add_pending(Pending::Fetch(Box::new(pending)));
        if let Some(connection) = self.connections.get_mut(&socket) {
            connection.fetches.push(id);
        }
        self.read_all(now, disk, id);
    }
}
