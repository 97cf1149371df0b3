//! ElectLeaders on one node: every partition is led by its only replica, so none needs an election.

use tidelog_net::messages as kp;
use tidelog_net::response::ResponseBody;
use tidelog_net::{ErrorCode, StrBytes};

use crate::guard::{Operation, Resource};
use crate::request_context::RequestContext;
use crate::shard::{Origin, Shard};

const PREFERRED: i8 = 0;
const UNCLEAN: i8 = 1;

impl Shard {
    pub(super) fn elect_leaders(
        &mut self,
        origin: &Origin,
        context: &RequestContext,
        request: &kp::ElectLeadersRequest,
    ) {
        // The whole request fails, and each of its partitions says so too.
        let failure = if !self.allows(context, Resource::Cluster, Operation::Alter) {
            Some((
                ErrorCode::ClusterAuthorizationFailed,
                "Cluster authorization failed.",
            ))
        } else if !matches!(request.election_type, PREFERRED | UNCLEAN) {
            Some((ErrorCode::InvalidRequest, "There is no such type of election."))
        } else {
            None
        };
        let topics = request.topic_partitions.as_deref().unwrap_or_default();
        let partitions = topics.iter().map(|topic| topic.partitions.len());
        let items = partitions.sum::<usize>() + topics.len();
        self.answer_items(origin, items, |shard| {
            use kp::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
            // Where all are asked for (null), only those that needed an election are told of: none does.
            let results = topics.iter().map(|topic| {
                let partitions = topic.partitions.iter().map(|partition| {
                    let (code, message) = failure.unwrap_or_else(|| shard.election(&topic.topic, *partition));
                    PartitionResult::default()
                        .with_partition_id(*partition)
                        .with_error_code(code.code())
                        .with_error_message(Some(StrBytes::from_static_str(message)))
                });
                ReplicaElectionResult::default()
                    .with_topic(topic.topic.clone())
                    .with_partition_result(partitions.collect())
            });
            let code = failure.map_or(ErrorCode::None, |(code, _)| code);
            let body = kp::ElectLeadersResponse::default()
                .with_error_code(code.code())
                .with_replica_election_results(results.collect());
            ResponseBody::ElectLeaders(body)
        });
    }

    fn election(&self, topic: &str, partition: i32) -> (ErrorCode, &'static str) {
        match self.image.topic(topic) {
            Some(topic) if topic.has_partition(partition) => (
                ErrorCode::ElectionNotNeeded,
                "The only replica leads this partition already.",
            ),
            Some(_) => (ErrorCode::UnknownTopicOrPartition, "There is no such partition."),
            None => (ErrorCode::UnknownTopicOrPartition, "There is no such topic."),
        }
    }
}
