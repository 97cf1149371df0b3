//! Metadata: brokers and topics from the image; topics that are missing are created first where that is
//! allowed.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidelog_net::hot::{MetadataRequest, MetadataTopic};
use tidelog_net::messages as kp;
use tidelog_net::response::ResponseBody;
use tidelog_net::{ErrorCode, StrBytes};
use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::ids::PartitionKey;

use super::{OPERATIONS_UNKNOWN, PendingControl, Then, text};
use crate::guard::{Operation, Resource};
use crate::metadata::{TopicImage, check_topic_name};
use crate::request_context::RequestContext;
use crate::shard::control::ControlOp;
use crate::shard::{Now, Origin, Shard, topic_id};

impl Shard {
    pub(super) fn metadata(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        origin: Origin,
        context: &RequestContext,
        request: MetadataRequest,
    ) {
        // A set: a name may be asked for twice, but is created once.
        let missing: BTreeSet<String> = match (&request.topics, self.may_create(&request)) {
            (Some(topics), true) => topics
                .iter()
                .filter_map(|topic| topic.name.as_ref())
                .filter(|name| self.image.topic(name).is_none() && check_topic_name(name).is_ok())
                .filter(|name| {
                    self.guard
                        .check(context, &[(Resource::Topic(name), Operation::Describe)])
                        .is_allowed()
                })
                .filter(|name| self.may_create_topic(context, name))
                .map(|name| name.to_string())
                .collect(),
            _ => BTreeSet::new(),
        };
        if missing.is_empty() {
            let body = self.metadata_body(&origin, context, &request);
            self.answer(&origin, &ResponseBody::Metadata(body));
            return;
        }
        let pending = PendingControl {
            origin,
            then: Then::Metadata(request, Arc::new(context.clone())),
        };
        self.ask_control(
            now,
            disk,
            pending,
            ControlOp::AutoCreate(missing.into_iter().collect()),
        );
    }

    /// Whether a topic of this name may be created on the way.
    fn may_create_topic(&self, context: &RequestContext, name: &str) -> bool {
        self.may_create_any(context)
            || self
                .guard
                .check(context, &[(Resource::Topic(name), Operation::Create)])
                .is_allowed()
    }

    fn may_create(&self, request: &MetadataRequest) -> bool {
        request.allow_auto_topic_creation && self.settings.auto_create_topics
    }

    pub(super) fn metadata_body(
        &self,
        origin: &Origin,
        context: &RequestContext,
        request: &MetadataRequest,
    ) -> kp::MetadataResponse {
        let (host, port) = self.advertised(origin);
        let node = kp::BrokerId(self.settings.node_id);
        let broker = kp::metadata_response::MetadataResponseBroker::default()
            .with_node_id(node)
            .with_host(text(host))
            .with_port(i32::from(port))
            .with_rack(self.settings.rack.clone().map(StrBytes::from_string));
        // Version 0 asks for all topics with an empty list.
        let all = match &request.topics {
            None => true,
            Some(topics) => origin.version == 0 && topics.is_empty(),
        };
        let topics = if all {
            self.image
                .topics()
                .filter(|topic| {
                    self.guard
                        .check(context, &[(Resource::Topic(&topic.name), Operation::Describe)])
                        .is_allowed()
                })
                .map(|topic| self.topic_body(topic))
                .collect()
        } else {
            let asked = request.topics.iter().flatten();
            asked
                .map(|asked| self.asked_topic_body(context, asked, self.may_create(request)))
                .collect()
        };
        let mut body = kp::MetadataResponse::default();
        body.brokers = vec![broker];
        body.cluster_id = Some(text(self.cluster_id.clone()));
        body.controller_id = node;
        body.topics = topics;
        if request.include_topic_authorized_operations {
            for topic in body.topics.iter_mut().filter(|topic| topic.error_code == 0) {
                let name = topic.name.as_deref().map_or("", |name| name.as_str());
                topic.topic_authorized_operations = self.guard.operations(&Resource::Topic(name));
            }
        }
        body.cluster_authorized_operations = match request.include_cluster_authorized_operations {
            true if self.allows(context, Resource::Cluster, Operation::Describe) => {
                self.guard.operations(&Resource::Cluster)
            }
            true => 0,
            false => OPERATIONS_UNKNOWN,
        };
        body
    }

    fn asked_topic_body(
        &self,
        context: &RequestContext,
        asked: &MetadataTopic,
        may_create: bool,
    ) -> kp::metadata_response::MetadataResponseTopic {
        let (name, id) = (asked.name.as_ref(), asked.topic_id);
        let found = match name {
            Some(name) => self.image.topic(name),
            None => self.image.topic_by_id(id),
        };
        let mut body = kp::metadata_response::MetadataResponseTopic::default()
            .with_topic_id(id)
            .with_topic_authorized_operations(OPERATIONS_UNKNOWN);
        body.name = name.map(|name| kp::TopicName(name.clone()));
        // Who may not describe a topic does not learn whether it is there; an id tells nothing by itself.
        let guarded = name
            .map(StrBytes::as_str)
            .or(found.map(|found| found.name.as_ref()));
        let code = match (found, name) {
            _ if guarded
                .is_some_and(|name| !self.allows(context, Resource::Topic(name), Operation::Describe)) =>
            {
                ErrorCode::TopicAuthorizationFailed
            }
            (Some(found), _) => return self.topic_body(found),
            (None, Some(name)) if check_topic_name(name).is_err() => ErrorCode::InvalidTopicException,
            (None, Some(name)) if may_create && !self.may_create_topic(context, name) => {
                self.metrics.guard_denials.increment();
                ErrorCode::TopicAuthorizationFailed
            }
            // It was to be created and cannot be: no retry changes that.
            (None, Some(name)) if may_create && self.image.colliding(name).is_some() => {
                ErrorCode::InvalidTopicException
            }
            (None, Some(_)) => ErrorCode::UnknownTopicOrPartition,
            (None, None) => ErrorCode::UnknownTopicId,
        };
        body.error_code = code.code();
        body
    }

    fn topic_body(&self, topic: &TopicImage) -> kp::metadata_response::MetadataResponseTopic {
        let node = kp::BrokerId(self.settings.node_id);
        let partitions = (0..topic.partitions)
            .map(|partition| {
                let key = PartitionKey {
                    topic: topic_id(topic),
                    partition,
                };
                kp::metadata_response::MetadataResponsePartition::default()
                    .with_partition_index(partition)
                    .with_leader_id(node)
                    .with_leader_epoch(self.leader_epochs.get(&key).copied().unwrap_or(-1))
                    .with_replica_nodes(vec![node])
                    .with_isr_nodes(vec![node])
            })
            .collect();
        let mut body = kp::metadata_response::MetadataResponseTopic::default()
            .with_topic_id(topic.topic_id)
            .with_partitions(partitions)
            .with_topic_authorized_operations(OPERATIONS_UNKNOWN);
        body.name = Some(kp::TopicName(text(&*topic.name)));
        body
    }
}
