//! Answers from the metadata image, and requests that change it, which go to group 0 on shard 0.
//!
//! One file per API, or small family of APIs. Every address in an answer is the advertised one of the
//! listener that the request came in on. What is denied is answered item by item, in the order asked.

mod acls;
mod alter_configs;
mod api_versions;
mod create_partitions;
mod create_topics;
mod delete_topics;
mod denied;
mod describe_cluster;
mod describe_configs;
mod describe_log_dirs;
mod describe_topic_partitions;
mod elect_leaders;
mod find_coordinator;
mod init_producer_id;
mod large_answer;
mod list_config_resources;
mod metadata;
mod reassignments;

use std::sync::Arc;

use tidelog_net::hot::MetadataRequest;
use tidelog_net::response::ResponseBody;
use tidelog_net::{RequestBody, StrBytes};
use tidelog_segment_log::disk::Disk;

use super::background::Job;
use super::control::{ControlAnswer, ControlOp};
use super::{Now, Origin, Pending, ReplyTo, Shard, ShardRequest};
use crate::guard::{Operation, Resource};
use crate::metadata::MetadataImage;
use crate::request_context::RequestContext;
use denied::PutBack;

pub(super) use describe_log_dirs::{PartitionSize, PendingLogDirs};

/// "Not asked for" in the authorized-operations fields.
const OPERATIONS_UNKNOWN: i32 = i32::MIN;
const RESOURCE_TOPIC: i8 = 2;
const RESOURCE_BROKER: i8 = 4;
const RESOURCE_BROKER_LOGGER: i8 = 8;
const RESOURCE_CLIENT_METRICS: i8 = 16;
const RESOURCE_GROUP: i8 = 32;

/// A request that waits for group 0.
pub(super) struct PendingControl {
    origin: Origin,
    then: Then,
}

/// What is done with group 0's answer.
enum Then {
    /// It is the answer.
    Answer,
    /// It is the answer once what was denied is back in its place.
    PutBack(PutBack),
    /// Topics were created first, now the request is answered.
    Metadata(MetadataRequest, Arc<RequestContext>),
}

fn text(text: impl Into<String>) -> StrBytes {
    StrBytes::from_string(text.into())
}

impl Shard {
    pub(in crate::shard) fn admin(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        origin: Origin,
        context: &RequestContext,
        body: RequestBody,
    ) {
        match body {
            RequestBody::Metadata(request) => self.metadata(now, disk, origin, context, request),
            RequestBody::ApiVersions(request) => self.api_versions(&origin, &request),
            RequestBody::FindCoordinator(request) => self.find_coordinator(&origin, context, &request),
            RequestBody::DescribeCluster(request) => self.describe_cluster(&origin, context, &request),
            RequestBody::DescribeConfigs(request) => self.describe_configs(&origin, context, &request),
            RequestBody::DescribeTopicPartitions(request) => {
                self.describe_topic_partitions(&origin, context, &request)
            }
            RequestBody::ElectLeaders(request) => self.elect_leaders(&origin, context, &request),
            RequestBody::ListConfigResources(request) => {
                self.list_config_resources(&origin, context, &request)
            }
            RequestBody::ListPartitionReassignments(_) => self.list_partition_reassignments(&origin, context),
            RequestBody::AlterPartitionReassignments(request) => {
                self.alter_partition_reassignments(&origin, context, &request)
            }
            RequestBody::DescribeLogDirs(request) => self.describe_log_dirs(origin, context, request),
            RequestBody::DescribeAcls(_) => self.describe_acls(&origin, context),
            RequestBody::CreateAcls(request) => self.create_acls(&origin, context, &request),
            RequestBody::DeleteAcls(request) => self.delete_acls(&origin, context, &request),
            RequestBody::CreateTopics(request) => self.create_topics(now, disk, origin, context, request),
            RequestBody::DeleteTopics(request) => self.delete_topics(now, disk, origin, context, request),
            RequestBody::CreatePartitions(request) => {
                self.create_partitions(now, disk, origin, context, request)
            }
            RequestBody::AlterConfigs(request) => self.alter_configs(now, disk, origin, context, request),
            RequestBody::IncrementalAlterConfigs(request) => {
                self.incremental_alter_configs(now, disk, origin, context, request)
            }
            RequestBody::InitProducerId(request) => {
                self.init_producer_id(now, disk, origin, context, &request)
            }
            // The data path is dispatched before.
            RequestBody::Produce(_)
            | RequestBody::Fetch(_)
            | RequestBody::ListOffsets(_)
            | RequestBody::OffsetForLeaderEpoch(_)
            | RequestBody::DeleteRecords(_) => self.refuse(&origin, &"dispatched to the wrong room"),
        }
    }

    /// Whether the guard lets this happen; a denial is counted.
    pub(in crate::shard) fn allows(
        &self,
        context: &RequestContext,
        resource: Resource<'_>,
        operation: Operation,
    ) -> bool {
        let allowed = self.guard.check(context, &[(resource, operation)]).is_allowed();
        if !allowed {
            self.metrics.guard_denials.increment();
        }
        allowed
    }

    // ---- group 0 -------------------------------------------------------------------------------

    fn hand_to_control(&mut self, now: Now, disk: &mut dyn Disk, origin: Origin, op: ControlOp) {
        let then = Then::Answer;
        self.ask_control(now, disk, PendingControl { origin, then }, op);
    }

    fn ask_control(&mut self, now: Now, disk: &mut dyn Disk, pending: PendingControl, op: ControlOp) {
        let pending = self.add_pending(Pending::Control(pending));
        let reply = ReplyTo {
            shard: self.own,
            pending,
            part: 0,
        };
        if self.own == 0 {
            self.on_control(now, disk, reply, op);
        } else {
            self.send(0, ShardRequest::Control(reply, op));
        }
    }

    pub(super) fn on_control_answer(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        reply: ReplyTo,
        answer: ControlAnswer,
    ) {
        let Some(Pending::Control(pending)) = self.pending.remove(&reply.pending) else {
            return;
        };
        match (answer, pending.then) {
            (ControlAnswer::Body(body), Then::Answer) => self.answer(&pending.origin, &body),
            (ControlAnswer::Body(mut body), Then::PutBack(put_back)) => {
                put_back(&mut body);
                self.answer(&pending.origin, &body);
            }
            (_, Then::Metadata(request, context)) => {
                let body = self.metadata_body(&pending.origin, &context, &request);
                self.answer(&pending.origin, &ResponseBody::Metadata(body));
            }
            (ControlAnswer::Created, _) => self.refuse(&pending.origin, &"an answer without its request"),
        }
        let _ = (now, disk);
    }

    /// The advertised address of the listener a request came in on.
    fn advertised(&self, origin: &Origin) -> (String, u16) {
        let listener = self
            .connections
            .get(&origin.socket)
            .map_or(0, |connection| connection.listener);
        self.listeners
            .get(listener)
            .map_or_else(Default::default, |(_, host, port)| (host.clone(), *port))
    }

    // ---- images --------------------------------------------------------------------------------

    /// Answers from this image from now on; what it asks of this shard's partitions is background work.
    pub(super) fn apply_image(&mut self, image: Arc<MetadataImage>) {
        let first = !std::mem::replace(&mut self.has_image, true);
        self.image = Arc::clone(&image);
        self.partitions.take_image(image, first);
        self.jobs.want(Job::ApplyImage);
    }
}
