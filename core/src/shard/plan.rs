//! Requests to group 0, planned against the image: the answer, and the records that make it true.
//!
//! Nothing is changed here; `control` appends the records and gives the answer when they hold everywhere.

use tidelog_net::messages as kp;
use tidelog_net::response::ResponseBody;
use tidelog_net::{ErrorCode, StrBytes, Uuid};

use super::Shard;
use super::control::{ControlAnswer, ControlOp};
use super::sockets::partitions_max;
use crate::fatal::{FatalReason, fatal};
use crate::limits::PRODUCER_ID_BLOCK;
use crate::metadata::{
    self, AlterConfigOp, AlterConfigsRequest, CreatePartitionsRequest, CreateTopicRequest,
    DeleteTopicRequest, KafkaError, MetadataRecord, TopicRules,
};
use crate::topic_config::{TopicDefaults, list_for_create};

const RESOURCE_TOPIC: i8 = 2;
/// Set, of IncrementalAlterConfigs' operations.
const OPERATION_SET: i8 = 0;

/// One resource whose configs are to be altered.
struct Alter<'a> {
    kind: i8,
    name: &'a str,
    operations: Vec<AlterConfigOp>,
}

impl Shard {
    fn topic_rules(&self, validate_only: bool) -> TopicRules {
        TopicRules {
            default_partitions: self.settings.default_partitions,
            default_replication_factor: 1,
            node_ids: vec![self.settings.node_id],
            partitions_max: partitions_max(self.settings.memory_limit_bytes, self.endpoint.shards()),
            validate_only,
        }
    }

    /// What a request leads to: its answer, and the records to append first.
    pub(super) fn plan(&mut self, op: &ControlOp) -> (ControlAnswer, Vec<MetadataRecord>) {
        match op {
            ControlOp::CreateTopics(request) => self.plan_create(request),
            ControlOp::DeleteTopics(request) => self.plan_delete(request),
            ControlOp::CreatePartitions(request) => self.plan_partitions(request),
            ControlOp::IncrementalAlterConfigs(request) => self.plan_incremental(request),
            ControlOp::AlterConfigs(request) => self.plan_replacement(request),
            ControlOp::InitProducerId => self.plan_producer_id(),
            ControlOp::AutoCreate(names) => {
                let asked: Vec<CreateTopicRequest> = names
                    .iter()
                    .filter(|name| self.image.topic(name).is_none())
                    .map(|name| CreateTopicRequest {
                        name: name.clone(),
                        partitions: -1,
                        replication_factor: -1,
                        ..Default::default()
                    })
                    .collect();
                let planned =
                    metadata::create_topics(&self.image, &self.topic_rules(false), &asked, fresh_id);
                for (topic, outcome) in asked.iter().zip(&planned.outcomes) {
                    if let Err(error) = outcome {
                        self.metrics.topics_refused.increment();
                        tracing::warn!(
                            topic = topic.name,
                            reason = error.message,
                            "a topic that a client asked for is not made"
                        );
                    }
                }
                (ControlAnswer::Created, planned.records)
            }
        }
    }

    fn plan_create(&mut self, request: &kp::CreateTopicsRequest) -> (ControlAnswer, Vec<MetadataRecord>) {
        use kp::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
        let asked: Vec<CreateTopicRequest> = request
            .topics
            .iter()
            .map(|topic| CreateTopicRequest {
                name: topic.name.to_string(),
                partitions: topic.num_partitions,
                replication_factor: topic.replication_factor,
                assignments: topic
                    .assignments
                    .iter()
                    .map(|a| (a.partition_index, a.broker_ids.iter().map(|id| id.0).collect()))
                    .collect(),
                configs: topic
                    .configs
                    .iter()
                    .map(|config| {
                        (
                            config.name.to_string(),
                            config.value.as_ref().map(ToString::to_string),
                        )
                    })
                    .collect(),
            })
            .collect();
        let rules = self.topic_rules(request.validate_only);
        let planned = metadata::create_topics(&self.image, &rules, &asked, fresh_id);
        let defaults = TopicDefaults::from_settings(&self.settings);
        let mut body = kp::CreateTopicsResponse::default();
        for (topic, outcome) in request.topics.iter().zip(planned.outcomes) {
            let mut result = CreatableTopicResult::default().with_name(topic.name.clone());
            result.configs = Some(Vec::new());
            match outcome {
                Ok(created) => {
                    name_without_effect(&created.name, &created.without_effect);
                    result.topic_id = created.topic_id;
                    result.num_partitions = created.partitions;
                    result.replication_factor = created.replication_factor;
                    let listed = list_for_create(&created.configs, &defaults)
                        .into_iter()
                        .map(|config| {
                            CreatableTopicConfigs::default()
                                .with_name(text(config.name))
                                .with_value(Some(text(config.value)))
                                .with_config_source(config.source as i8)
                        });
                    result.configs = Some(listed.collect());
                }
                Err(KafkaError { code, message }) => {
                    result.error_code = code;
                    result.error_message = Some(text(message));
                    result.num_partitions = -1;
                    result.replication_factor = -1;
                }
            }
            body.topics.push(result);
        }
        (
            ControlAnswer::Body(ResponseBody::CreateTopics(body)),
            planned.records,
        )
    }

    fn plan_delete(&mut self, request: &kp::DeleteTopicsRequest) -> (ControlAnswer, Vec<MetadataRecord>) {
        use kp::delete_topics_response::DeletableTopicResult;
        // Version 6 names topics by name or id; older ones by name only.
        let by_name = request.topic_names.iter().map(|name| DeleteTopicRequest {
            name: Some(name.to_string()),
            topic_id: Uuid::nil(),
        });
        let by_either = request.topics.iter().map(|topic| DeleteTopicRequest {
            name: topic.name.as_ref().map(|name| name.to_string()),
            topic_id: topic.topic_id,
        });
        let asked: Vec<DeleteTopicRequest> = by_name.chain(by_either).collect();
        let planned = metadata::delete_topics(&self.image, &asked);
        let mut body = kp::DeleteTopicsResponse::default();
        for (asked, outcome) in asked.into_iter().zip(planned.outcomes) {
            let mut result = DeletableTopicResult::default().with_topic_id(asked.topic_id);
            result.name = asked.name.map(|name| kp::TopicName(text(name)));
            match outcome {
                Ok(deleted) => {
                    result.topic_id = deleted.topic_id;
                    result.name = Some(kp::TopicName(text(deleted.name)));
                }
                Err(KafkaError { code, message }) => {
                    result.error_code = code;
                    result.error_message = Some(text(message));
                }
            }
            body.responses.push(result);
        }
        (
            ControlAnswer::Body(ResponseBody::DeleteTopics(body)),
            planned.records,
        )
    }

    fn plan_partitions(
        &mut self,
        request: &kp::CreatePartitionsRequest,
    ) -> (ControlAnswer, Vec<MetadataRecord>) {
        use kp::create_partitions_response::CreatePartitionsTopicResult;
        let asked: Vec<CreatePartitionsRequest> = request
            .topics
            .iter()
            .map(|topic| CreatePartitionsRequest {
                name: topic.name.to_string(),
                count: topic.count,
                assignments: topic.assignments.as_ref().map(|all| {
                    all.iter()
                        .map(|one| one.broker_ids.iter().map(|id| id.0).collect())
                        .collect()
                }),
            })
            .collect();
        let planned =
            metadata::create_partitions(&self.image, &self.topic_rules(request.validate_only), &asked);
        let mut body = kp::CreatePartitionsResponse::default();
        for (topic, outcome) in request.topics.iter().zip(planned.outcomes) {
            let mut result = CreatePartitionsTopicResult::default().with_name(topic.name.clone());
            if let Err(KafkaError { code, message }) = outcome {
                result.error_code = code;
                result.error_message = Some(text(message));
            }
            body.results.push(result);
        }
        (
            ControlAnswer::Body(ResponseBody::CreatePartitions(body)),
            planned.records,
        )
    }

    fn plan_incremental(
        &mut self,
        request: &kp::IncrementalAlterConfigsRequest,
    ) -> (ControlAnswer, Vec<MetadataRecord>) {
        use kp::incremental_alter_configs_response::AlterConfigsResourceResponse;
        let asked = request.resources.iter().map(|resource| Alter {
            kind: resource.resource_type,
            name: &resource.resource_name,
            operations: resource
                .configs
                .iter()
                .map(|config| AlterConfigOp {
                    key: config.name.to_string(),
                    operation: config.config_operation,
                    value: config.value.as_ref().map(ToString::to_string),
                })
                .collect(),
        });
        let (outcomes, records) = self.plan_configs(asked.collect(), false, request.validate_only);
        let responses = request
            .resources
            .iter()
            .zip(outcomes)
            .map(|(resource, (code, message))| {
                AlterConfigsResourceResponse::default()
                    .with_resource_type(resource.resource_type)
                    .with_resource_name(resource.resource_name.clone())
                    .with_error_code(code)
                    .with_error_message(message)
            });
        let body = kp::IncrementalAlterConfigsResponse::default().with_responses(responses.collect());
        (
            ControlAnswer::Body(ResponseBody::IncrementalAlterConfigs(body)),
            records,
        )
    }

    fn plan_replacement(
        &mut self,
        request: &kp::AlterConfigsRequest,
    ) -> (ControlAnswer, Vec<MetadataRecord>) {
        use kp::alter_configs_response::AlterConfigsResourceResponse;
        let asked = request.resources.iter().map(|resource| Alter {
            kind: resource.resource_type,
            name: &resource.resource_name,
            operations: resource
                .configs
                .iter()
                .map(|config| AlterConfigOp {
                    key: config.name.to_string(),
                    operation: OPERATION_SET,
                    value: config.value.as_ref().map(ToString::to_string),
                })
                .collect(),
        });
        let (outcomes, records) = self.plan_configs(asked.collect(), true, request.validate_only);
        let responses = request
            .resources
            .iter()
            .zip(outcomes)
            .map(|(resource, (code, message))| {
                AlterConfigsResourceResponse::default()
                    .with_resource_type(resource.resource_type)
                    .with_resource_name(resource.resource_name.clone())
                    .with_error_code(code)
                    .with_error_message(message)
            });
        let body = kp::AlterConfigsResponse::default().with_responses(responses.collect());
        (ControlAnswer::Body(ResponseBody::AlterConfigs(body)), records)
    }

    /// Code and message for each resource, and what makes the good ones true.
    fn plan_configs(
        &self,
        resources: Vec<Alter<'_>>,
        replace: bool,
        validate_only: bool,
    ) -> (Vec<(i16, Option<StrBytes>)>, Vec<MetadataRecord>) {
        let topics = resources
            .iter()
            .filter(|resource| resource.kind == RESOURCE_TOPIC);
        let asked: Vec<AlterConfigsRequest> = topics
            .map(|resource| AlterConfigsRequest {
                topic: resource.name.to_owned(),
                replace,
                operations: resource.operations.clone(),
            })
            .collect();
        let planned = metadata::alter_topic_configs(&self.image, &asked, validate_only);
        let mut of_topics = planned.outcomes.into_iter();
        let outcomes = resources.iter().map(|resource| {
            let outcome = match resource.kind {
                RESOURCE_TOPIC => of_topics
                    .next()
                    .unwrap_or_else(|| Err(KafkaError::new(ErrorCode::UnknownServerError.code(), ""))),
                _ => {
                    let message = "only topic configs can be altered; broker settings are changed in the broker's configuration";
                    Err(KafkaError::new(ErrorCode::InvalidRequest.code(), message))
                }
            };
            match outcome {
                Ok(outcome) => {
                    name_without_effect(resource.name, &outcome.without_effect);
                    (0, Some(StrBytes::default()))
                }
                Err(KafkaError { code, message }) => (code, Some(text(message))),
            }
        });
        (outcomes.collect(), planned.records)
    }

    /// Ids are given out of a block that a record has reserved, so that most need no commit.
    fn plan_producer_id(&mut self) -> (ControlAnswer, Vec<MetadataRecord>) {
        let mut body = kp::InitProducerIdResponse::default();
        let mut records = Vec::new();
        if let Some(control) = &mut self.control {
            if control.producer_ids.is_empty() {
                let first = self.image.next_producer_id();
                control.producer_ids = first..first + PRODUCER_ID_BLOCK;
                records.push(MetadataRecord::ProducerIdsAllocated {
                    next: first + PRODUCER_ID_BLOCK,
                });
            }
            body.producer_id = control.producer_ids.start.into();
            control.producer_ids.start += 1;
        }
        body.producer_epoch = 0;
        (ControlAnswer::Body(ResponseBody::InitProducerId(body)), records)
    }
}

/// The answer to a request that nobody looked at: each of its items failed.
pub(super) fn refusal(op: &ControlOp, code: ErrorCode, message: &str) -> ControlAnswer {
    use kp::create_partitions_response::CreatePartitionsTopicResult;
    use kp::create_topics_response::CreatableTopicResult;
    use kp::delete_topics_response::DeletableTopicResult;
    use kp::incremental_alter_configs_response::AlterConfigsResourceResponse;
    let body = match op {
        // The topics that exist are told of, as always.
        ControlOp::AutoCreate(_) => return ControlAnswer::Created,
        ControlOp::CreateTopics(request) => {
            let topics = request.topics.iter().map(|topic| {
                CreatableTopicResult::default()
                    .with_name(topic.name.clone())
                    .with_num_partitions(-1)
                    .with_replication_factor(-1)
            });
            ResponseBody::CreateTopics(kp::CreateTopicsResponse::default().with_topics(topics.collect()))
        }
        ControlOp::DeleteTopics(request) => {
            let by_name = request
                .topic_names
                .iter()
                .map(|name| (Some(name.clone()), Uuid::nil()));
            let by_either = request
                .topics
                .iter()
                .map(|topic| (topic.name.clone(), topic.topic_id));
            let topics = by_name.chain(by_either).map(|(name, topic_id)| {
                DeletableTopicResult::default()
                    .with_name(name)
                    .with_topic_id(topic_id)
            });
            ResponseBody::DeleteTopics(kp::DeleteTopicsResponse::default().with_responses(topics.collect()))
        }
        ControlOp::CreatePartitions(request) => {
            let topics = request.topics.iter();
            let topics =
                topics.map(|topic| CreatePartitionsTopicResult::default().with_name(topic.name.clone()));
            let body = kp::CreatePartitionsResponse::default().with_results(topics.collect());
            ResponseBody::CreatePartitions(body)
        }
        ControlOp::IncrementalAlterConfigs(request) => {
            let resources = request.resources.iter().map(|resource| {
                AlterConfigsResourceResponse::default()
                    .with_resource_type(resource.resource_type)
                    .with_resource_name(resource.resource_name.clone())
            });
            let body = kp::IncrementalAlterConfigsResponse::default().with_responses(resources.collect());
            ResponseBody::IncrementalAlterConfigs(body)
        }
        ControlOp::AlterConfigs(request) => {
            use kp::alter_configs_response::AlterConfigsResourceResponse;
            let resources = request.resources.iter().map(|resource| {
                AlterConfigsResourceResponse::default()
                    .with_resource_type(resource.resource_type)
                    .with_resource_name(resource.resource_name.clone())
            });
            let body = kp::AlterConfigsResponse::default().with_responses(resources.collect());
            ResponseBody::AlterConfigs(body)
        }
        ControlOp::InitProducerId => ResponseBody::InitProducerId(kp::InitProducerIdResponse::default()),
    };
    let mut answer = ControlAnswer::Body(body);
    fail(&mut answer, code, message);
    answer
}

/// Turns what an answer calls done into an error.
pub(super) fn fail(answer: &mut ControlAnswer, code: ErrorCode, message: &str) {
    let ControlAnswer::Body(body) = answer else { return };
    let (code, message) = (code.code(), Some(text(message)));
    match body {
        ResponseBody::CreateTopics(body) => {
            for topic in body.topics.iter_mut().filter(|topic| topic.error_code == 0) {
                topic.error_code = code;
                topic.error_message.clone_from(&message);
            }
        }
        ResponseBody::DeleteTopics(body) => {
            for topic in body.responses.iter_mut().filter(|topic| topic.error_code == 0) {
                topic.error_code = code;
                topic.error_message.clone_from(&message);
            }
        }
        ResponseBody::CreatePartitions(body) => {
            for topic in body.results.iter_mut().filter(|topic| topic.error_code == 0) {
                topic.error_code = code;
                topic.error_message.clone_from(&message);
            }
        }
        ResponseBody::IncrementalAlterConfigs(body) => {
            for resource in body
                .responses
                .iter_mut()
                .filter(|resource| resource.error_code == 0)
            {
                resource.error_code = code;
                resource.error_message.clone_from(&message);
            }
        }
        ResponseBody::AlterConfigs(body) => {
            let resources = body.responses.iter_mut();
            for resource in resources.filter(|resource| resource.error_code == 0) {
                resource.error_code = code;
                resource.error_message.clone_from(&message);
            }
        }
        ResponseBody::InitProducerId(body) => {
            body.error_code = code;
            body.producer_id = (-1).into();
            body.producer_epoch = -1;
        }
        _ => {}
    }
}

/// Says once, when they are set, which configs have no effect.
fn name_without_effect(topic: &str, configs: &[&str]) {
    if !configs.is_empty() {
        tracing::info!(
            topic,
            configs = configs.join(", "),
            "stored and shown, but without effect yet"
        );
    }
}

fn fresh_id() -> Uuid {
    let mut bytes = [0; 16];
    match getrandom::fill(&mut bytes) {
        Ok(()) => uuid::Builder::from_random_bytes(bytes).into_uuid(),
        Err(error) => fatal(
            FatalReason::Metadata,
            &format!("no random bytes for a topic id: {error}"),
        ),
    }
}

fn text(text: impl Into<String>) -> StrBytes {
    StrBytes::from_string(text.into())
}
