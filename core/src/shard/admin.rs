//! Answers from the metadata image, and requests that change it, which go to group 0 on shard 0.
//!
//! Every address in an answer is the advertised one of the listener that the request came in on.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidelog_net::hot::{MetadataRequest, MetadataTopic};
use tidelog_net::messages as kp;
use tidelog_net::request::is_valid_software_name;
use tidelog_net::response::{self, ResponseBody};
use tidelog_net::{ErrorCode, RequestBody, StrBytes};
use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::ids::PartitionKey;

use super::background::Job;
use super::control::{ControlAnswer, ControlOp};
use super::{Now, Origin, Pending, ReplyTo, Shard, ShardRequest, topic_id};
use crate::guard::{Operation, Resource};
use crate::metadata::{MetadataImage, TopicImage, check_topic_name};
use crate::request_context::RequestContext;
use crate::topic_config::{ConfigEntry, TopicDefaults, describe_broker, describe_topic};

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
    pub(super) fn admin(
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

    fn init_producer_id(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        origin: Origin,
        context: &RequestContext,
        request: &kp::InitProducerIdRequest,
    ) {
        if !self
            .guard
            .check(context, &[(Resource::Cluster, Operation::IdempotentWrite)])
            .is_allowed()
        {
            self.metrics.guard_denials.increment();
            let mut body = kp::InitProducerIdResponse::default();
            body.error_code = ErrorCode::ClusterAuthorizationFailed.code();
            body.producer_id = (-1).into();
            body.producer_epoch = -1;
            self.answer(&origin, &ResponseBody::InitProducerId(body));
            return;
        }
        if request.transactional_id.is_some() {
            let mut body = kp::InitProducerIdResponse::default();
            // Transactions are not served yet, and no retry will change that.
            body.error_code = ErrorCode::TransactionalIdAuthorizationFailed.code();
            body.producer_id = (-1).into();
            body.producer_epoch = -1;
            self.answer(&origin, &ResponseBody::InitProducerId(body));
            return;
        }
        self.hand_to_control(now, disk, origin, ControlOp::InitProducerId);
    }

    // ---- metadata ------------------------------------------------------------------------------

    fn metadata(
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
            metadata: Some((request, Arc::new(context.clone()))),
        };
        self.ask_control(
            now,
            disk,
            pending,
            ControlOp::AutoCreate(missing.into_iter().collect()),
        );
    }

    fn may_create(&self, request: &MetadataRequest) -> bool {
        request.allow_auto_topic_creation && self.settings.auto_create_topics
    }

    fn metadata_body(
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
                topic.topic_authorized_operations = TOPIC_OPERATIONS;
            }
        }
        body.cluster_authorized_operations = match request.include_cluster_authorized_operations {
            true => CLUSTER_OPERATIONS,
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
        let mut body = kp::metadata_response::MetadataResponseTopic::default()
            .with_topic_id(id)
            .with_topic_authorized_operations(OPERATIONS_UNKNOWN);
        body.name = name.map(|name| kp::TopicName(name.clone()));
        let found = match name {
            Some(name) => self.image.topic(name),
            None => self.image.topic_by_id(id),
        };
        let code = match (found, name) {
            (Some(found), _) => {
                let asked = [(Resource::Topic(&found.name), Operation::Describe)];
                if self.guard.check(context, &asked).is_allowed() {
                    return self.topic_body(found);
                }
                ErrorCode::TopicAuthorizationFailed
            }
            (None, Some(name)) if check_topic_name(name).is_err() => ErrorCode::InvalidTopicException,
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

    // ---- the rest ------------------------------------------------------------------------------

    fn api_versions(&mut self, origin: &Origin, request: &kp::ApiVersionsRequest) {
        let mut body = response::api_versions_response();
        if origin.version >= 3
            && !(is_valid_software_name(&request.client_software_name)
                && is_valid_software_name(&request.client_software_version))
        {
            body = kp::ApiVersionsResponse::default().with_error_code(ErrorCode::InvalidRequest.code());
        }
        self.answer(origin, &ResponseBody::ApiVersions(body));
    }

    fn find_coordinator(
        &mut self,
        origin: &Origin,
        context: &RequestContext,
        request: &kp::FindCoordinatorRequest,
    ) {
        const KEY_TRANSACTION: i8 = 1;
        let single = (origin.version < 4).then_some(request.key.as_str());
        let denied = request
            .coordinator_keys
            .iter()
            .map(StrBytes::as_str)
            .chain(single)
            .any(|key| {
                let resource = match request.key_type {
                    KEY_TRANSACTION => Resource::TransactionalId(key),
                    _ => Resource::Group(key),
                };
                !self
                    .guard
                    .check(context, &[(resource, Operation::Describe)])
                    .is_allowed()
            });
        if denied {
            self.metrics.guard_denials.increment();
            self.refuse(origin, &"not authorized to find this coordinator");
            return;
        }
        let (host, port) = self.advertised(origin);
        let node = kp::BrokerId(self.settings.node_id);
        let mut body = kp::FindCoordinatorResponse::default();
        if origin.version >= 4 {
            body.coordinators = request
                .coordinator_keys
                .iter()
                .map(|key| {
                    kp::find_coordinator_response::Coordinator::default()
                        .with_key(key.clone())
                        .with_node_id(node)
                        .with_host(text(host.clone()))
                        .with_port(i32::from(port))
                })
                .collect();
        } else {
            body.node_id = node;
            body.host = text(host);
            body.port = i32::from(port);
        }
        self.answer(origin, &ResponseBody::FindCoordinator(body));
    }

    fn describe_cluster(
        &mut self,
        origin: &Origin,
        context: &RequestContext,
        request: &kp::DescribeClusterRequest,
    ) {
        if !self
            .guard
            .check(context, &[(Resource::Cluster, Operation::Describe)])
            .is_allowed()
        {
            self.metrics.guard_denials.increment();
            let body = kp::DescribeClusterResponse::default()
                .with_error_code(ErrorCode::ClusterAuthorizationFailed.code());
            self.answer(origin, &ResponseBody::DescribeCluster(body));
            return;
        }
        let (host, port) = self.advertised(origin);
        let node = kp::BrokerId(self.settings.node_id);
        let mut body = kp::DescribeClusterResponse::default();
        body.endpoint_type = 1;
        body.cluster_id = text(self.cluster_id.clone());
        body.controller_id = node;
        body.cluster_authorized_operations = match request.include_cluster_authorized_operations {
            true => CLUSTER_OPERATIONS,
            false => OPERATIONS_UNKNOWN,
        };
        if origin.version >= 1 && request.endpoint_type != 1 {
            body.error_code = ErrorCode::MismatchedEndpointType.code();
            body.error_message = Some(text("this listener serves brokers, not controllers"));
        } else {
            body.brokers = vec![
                kp::describe_cluster_response::DescribeClusterBroker::default()
                    .with_broker_id(node)
                    .with_host(text(host))
                    .with_port(i32::from(port))
                    .with_rack(self.settings.rack.clone().map(StrBytes::from_string)),
            ];
        }
        self.answer(origin, &ResponseBody::DescribeCluster(body));
    }

    fn describe_configs(
        &mut self,
        origin: &Origin,
        context: &RequestContext,
        request: &kp::DescribeConfigsRequest,
    ) {
        let mut body = kp::DescribeConfigsResponse::default();
        for resource in &request.resources {
            let mut result = kp::describe_configs_response::DescribeConfigsResult::default()
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone());
            let keys: Option<Vec<&str>> = resource
                .configuration_keys
                .as_ref()
                .filter(|keys| !keys.is_empty())
                .map(|keys| keys.iter().map(StrBytes::as_str).collect());
            match self.config_entries(
                context,
                resource.resource_type,
                &resource.resource_name,
                keys.as_deref(),
            ) {
                Ok(entries) => {
                    result.configs = entries
                        .into_iter()
                        .map(|entry| entry_body(entry, request))
                        .collect()
                }
                Err((code, message)) => {
                    result.error_code = code.code();
                    result.error_message = Some(text(message));
                }
            }
            body.results.push(result);
        }
        self.answer(origin, &ResponseBody::DescribeConfigs(body));
    }

    fn config_entries(
        &self,
        context: &RequestContext,
        kind: i8,
        name: &str,
        keys: Option<&[&str]>,
    ) -> Result<Vec<ConfigEntry>, (ErrorCode, String)> {
        match kind {
            RESOURCE_TOPIC => {
                let asked = [(Resource::Topic(name), Operation::DescribeConfigs)];
                if !self.guard.check(context, &asked).is_allowed() {
                    return Err((ErrorCode::TopicAuthorizationFailed, String::new()));
                }
                let Some(topic) = self.image.topic(name) else {
                    return Err((ErrorCode::UnknownTopicOrPartition, format!("no topic {name:?}")));
                };
                Ok(describe_topic(
                    &topic.configs,
                    &TopicDefaults::from_settings(&self.settings),
                    keys,
                ))
            }
            RESOURCE_BROKER if name.is_empty() || name == self.settings.node_id.to_string() => {
                Ok(describe_broker(&self.settings, keys))
            }
            RESOURCE_BROKER => {
                let own = self.settings.node_id;
                Err((
                    ErrorCode::InvalidRequest,
                    format!("broker {name:?} is not this one, which is {own}"),
                ))
            }
            other => Err((
                ErrorCode::InvalidRequest,
                format!("resource type {other} has no configs here"),
            )),
        }
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

/// A config as DescribeConfigs has it; synonyms and documentation only where they were asked for.
fn entry_body(
    entry: ConfigEntry,
    request: &kp::DescribeConfigsRequest,
) -> kp::describe_configs_response::DescribeConfigsResourceResult {
    use kp::describe_configs_response::{DescribeConfigsResourceResult, DescribeConfigsSynonym};
    let mut body = DescribeConfigsResourceResult::default()
        .with_name(text(entry.name))
        .with_value(entry.value.map(text))
        .with_read_only(entry.read_only)
        .with_config_source(entry.source as i8)
        .with_is_sensitive(entry.is_sensitive)
        .with_config_type(entry.config_type as i8);
    if request.include_synonyms {
        let synonyms = entry.synonyms.into_iter().map(|synonym| {
            DescribeConfigsSynonym::default()
                .with_name(text(synonym.name))
                .with_value(Some(text(synonym.value)))
                .with_source(synonym.source as i8)
        });
        body.synonyms = synonyms.collect();
    }
    if request.include_documentation {
        body.documentation = Some(text(entry.documentation));
    }
    body
}
