//! AlterPartitionReassignments and ListPartitionReassignments on one node: nothing ever moves, so the assignment
//! there is can be asked for, and nothing else.

use tidelog_net::messages as kp;
use tidelog_net::response::ResponseBody;
use tidelog_net::{ErrorCode, StrBytes};

use super::text;
use crate::guard::{Operation, Resource};
use crate::metadata::KafkaError;
use crate::request_context::RequestContext;
use crate::shard::{Origin, Shard};

const DENIED: &str = "Cluster authorization failed.";

impl Shard {
    pub(super) fn list_partition_reassignments(&mut self, origin: &Origin, context: &RequestContext) {
        let mut body = kp::ListPartitionReassignmentsResponse::default();
        body.error_message = None;
        if !self.allows(context, Resource::Cluster, Operation::Describe) {
            body.error_code = ErrorCode::ClusterAuthorizationFailed.code();
            body.error_message = Some(StrBytes::from_static_str(DENIED));
        }
        // Whatever was asked for, known or not: Kafka names only what is moving.
        self.answer(origin, &ResponseBody::ListPartitionReassignments(body));
    }

    pub(super) fn alter_partition_reassignments(
        &mut self,
        origin: &Origin,
        context: &RequestContext,
        request: &kp::AlterPartitionReassignmentsRequest,
    ) {
        use kp::alter_partition_reassignments_response::{
            ReassignablePartitionResponse, ReassignableTopicResponse,
        };
        // The whole request fails, and each of its partitions says so too.
        let denied = !self.allows(context, Resource::Cluster, Operation::Alter);
        let denial = || KafkaError::new(ErrorCode::ClusterAuthorizationFailed.code(), DENIED);
        let partitions = request.topics.iter().map(|topic| topic.partitions.len());
        let items = partitions.sum::<usize>() + request.topics.len();
        self.answer_items(origin, items, |shard| {
            let topics = request.topics.iter().map(|topic| {
                let partitions = topic.partitions.iter().map(|partition| {
                    let outcome = match denied {
                        true => Err(denial()),
                        false => shard.check_reassignment(&topic.name, partition),
                    };
                    let (code, message) = code_and_message(outcome);
                    ReassignablePartitionResponse::default()
                        .with_partition_index(partition.partition_index)
                        .with_error_code(code)
                        .with_error_message(message)
                });
                ReassignableTopicResponse::default()
                    .with_name(topic.name.clone())
                    .with_partitions(partitions.collect())
            });
            let (code, message) = code_and_message(if denied { Err(denial()) } else { Ok(()) });
            let body = kp::AlterPartitionReassignmentsResponse::default()
                .with_allow_replication_factor_change(request.allow_replication_factor_change)
                .with_error_code(code)
                .with_error_message(message)
                .with_responses(topics.collect());
            ResponseBody::AlterPartitionReassignments(body)
        });
    }

    fn check_reassignment(
        &self,
        name: &str,
        partition: &kp::alter_partition_reassignments_request::ReassignablePartition,
    ) -> Result<(), KafkaError> {
        let index = partition.partition_index;
        let found = self.image.topic(name);
        if !found.is_some_and(|topic| topic.has_partition(index)) {
            let code = ErrorCode::UnknownTopicOrPartition.code();
            return Err(KafkaError::new(code, "There is no such partition."));
        }
        let own = self.settings.node_id;
        match &partition.replicas {
            None => Err(KafkaError::new(
                ErrorCode::NoReassignmentInProgress.code(),
                "No reassignment of this partition is under way.",
            )),
            Some(replicas) if replicas.iter().map(|node| node.0).eq([own]) => Ok(()),
            Some(_) => Err(KafkaError::new(
                ErrorCode::InvalidReplicaAssignment.code(),
                format!("The only assignment on one node is [{own}]."),
            )),
        }
    }
}

fn code_and_message(outcome: Result<(), KafkaError>) -> (i16, Option<StrBytes>) {
    match outcome {
        Ok(()) => (0, None),
        Err(KafkaError { code, message }) => (code, Some(text(message))),
    }
}
