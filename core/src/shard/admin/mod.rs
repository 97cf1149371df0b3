//! Answers from the metadata image, and requests that change it, which go to group 0 on shard 0.
//!
//! Every address in an answer is the advertised one of the listener that the request came in on.

mod api_versions;
mod describe_cluster;
mod describe_configs;
mod find_coordinator;
mod init_producer_id;
mod metadata;

use std::sync::Arc;

use tidelog_net::hot::MetadataRequest;
use tidelog_net::response::ResponseBody;
use tidelog_net::{RequestBody, StrBytes, Uuid};
use tidelog_segment_log::disk::Disk;

use super::control::{ControlAnswer, ControlOp};
use super::{Now, Origin, Pending, ReplyTo, Shard, ShardRequest};
use crate::guard::{Operation, Resource};
use crate::metadata::MetadataImage;
use crate::request_context::RequestContext;

/// "Not asked for" in the authorized-operations fields.
const OPERATIONS_UNKNOWN: i32 = i32::MIN;
/// Every operation of a topic, as bits of Kafka's operation codes: read 3, write 4, create 5, delete 6,
/// alter 7, describe 8, describe configs 10, alter configs 11.
const TOPIC_OPERATIONS: i32 = 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 11;
/// Every operation of a cluster: create 5, alter 7, describe 8, cluster action 9, describe configs 10, alter
/// configs 11, idempotent write 12.
const CLUSTER_OPERATIONS: i32 = 1 << 5 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12;
const RESOURCE_TOPIC: i8 = 2;
const RESOURCE_BROKER: i8 = 4;

/// A request that waits for group 0.
pub(super) struct PendingControl {
    origin: Origin,
    /// A Metadata request that had topics created first.
    metadata: Option<(MetadataRequest, Arc<RequestContext>)>,
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
            RequestBody::CreateTopics(request) => {
                let names = request.topics.iter().map(|topic| topic.name.as_str());
                match self.first_denied(context, names, Operation::Create) {
                    None => self.hand_to_control(now, disk, origin, ControlOp::CreateTopics(request)),
                    Some(name) => self.refuse_unauthorized(&origin, &name),
                }
            }
            RequestBody::DeleteTopics(request) => {
                let by_id = request.topics.iter().map(|topic| match &topic.name {
                    Some(name) => name.as_str(),
                    None => self
                        .image
                        .topic_by_id(topic.topic_id)
                        .map_or("", |topic| &*topic.name),
                });
                let names = request.topic_names.iter().map(|name| name.as_str()).chain(by_id);
                match self.first_denied(context, names, Operation::Delete) {
                    None => self.hand_to_control(now, disk, origin, ControlOp::DeleteTopics(request)),
                    Some(name) => self.refuse_unauthorized(&origin, &name),
                }
            }
            RequestBody::CreatePartitions(request) => {
                let names = request.topics.iter().map(|topic| topic.name.as_str());
                match self.first_denied(context, names, Operation::Alter) {
                    None => self.hand_to_control(now, disk, origin, ControlOp::CreatePartitions(request)),
                    Some(name) => self.refuse_unauthorized(&origin, &name),
                }
            }
            RequestBody::IncrementalAlterConfigs(request) => {
                let topics = request
                    .resources
                    .iter()
                    .filter(|resource| resource.resource_type == RESOURCE_TOPIC);
                let names = topics.map(|resource| resource.resource_name.as_str());
                match self.first_denied(context, names, Operation::AlterConfigs) {
                    None => {
                        self.hand_to_control(now, disk, origin, ControlOp::IncrementalAlterConfigs(request))
                    }
                    Some(name) => self.refuse_unauthorized(&origin, &name),
                }
            }
            RequestBody::InitProducerId(request) => {
                self.init_producer_id(now, disk, origin, context, &request)
            }
            // The data path is dispatched before.
            RequestBody::Produce(_)
            | RequestBody::Fetch(_)
            | RequestBody::ListOffsets(_)
            | RequestBody::OffsetForLeaderEpoch(_) => self.refuse(&origin, &"dispatched to the wrong room"),
        }
    }

    /// The first topic on which the operation is denied.
    fn first_denied<'a>(
        &self,
        context: &RequestContext,
        mut names: impl Iterator<Item = &'a str>,
        operation: Operation,
    ) -> Option<String> {
        names
            .find(|name| {
                !self
                    .guard
                    .check(context, &[(Resource::Topic(name), operation)])
                    .is_allowed()
            })
            .map(str::to_owned)
    }

    /// Ends a request that changes metadata and may not. Nothing is denied yet, so there is no answer per
    /// item: the connection is closed, and nothing was changed.
    fn refuse_unauthorized(&mut self, origin: &Origin, topic: &str) {
        self.metrics.guard_denials.increment();
        self.refuse(origin, &format!("not authorized on topic {topic:?}"));
    }

    // ---- group 0 -------------------------------------------------------------------------------

    fn hand_to_control(&mut self, now: Now, disk: &mut dyn Disk, origin: Origin, op: ControlOp) {
        self.ask_control(
            now,
            disk,
            PendingControl {
                origin,
                metadata: None,
            },
            op,
        );
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
        match (answer, pending.metadata) {
            (ControlAnswer::Body(body), None) => self.answer(&pending.origin, &body),
            (_, Some((request, context))) => {
                let body = self.metadata_body(&pending.origin, &context, &request);
                self.answer(&pending.origin, &ResponseBody::Metadata(body));
            }
            (ControlAnswer::Created, None) => self.refuse(&pending.origin, &"an answer without its request"),
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

    pub(super) fn apply_image(&mut self, now: Now, disk: &mut dyn Disk, image: Arc<MetadataImage>) {
        let first = !std::mem::replace(&mut self.has_image, true);
        self.leader_epochs
            .retain(|key, _| image.topic_by_id(Uuid::from_bytes(key.topic.0)).is_some());
        self.image = Arc::clone(&image);
        self.partitions
            .apply(now, disk, first, &image, &mut self.answers, &mut self.wakes);
    }
}
