//! Group 0 on shard 0: topics, configs and ids as one ordered log of typed records.
//!
//! Owned by shard 0. A request is planned against the image, its records are appended, and when they
//! are durable they are applied and the new image goes to every shard. The request is answered when
//! every shard has applied it, so that what was created can be used at once.
//!
//! Requests are taken one at a time, in order: each sees the image that the one before it made.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;

use tidelog_net::messages as kp;
use tidelog_net::response::ResponseBody;
use tidelog_net::{ErrorCode, StrBytes, Uuid};
use tidelog_segment_log::data_directory::{DataDirectory, PartitionEvidence};
use tidelog_segment_log::disk::{Completion, Disk, DiskOutput};
use tidelog_segment_log::entry::EntryKind;
use tidelog_segment_log::ids::{EntryIndex, PartitionKey, TopicId};
use tidelog_segment_log::log::{
    AppendError, CloseProgress, Durability, InternalEntry, LogConfig, LogStatus, Machine, OpenProgress,
    OpenSpec, Opening, PartitionLog,
};

use super::{Now, ReplyTo, Shard, ShardAnswer, ShardRequest};
use crate::fatal::{FatalReason, fatal};
use crate::limits::PRODUCER_ID_BLOCK;
use crate::metadata::{
    self, AlterConfigOp, AlterConfigsRequest, CreatePartitionsRequest, CreateTopicRequest,
    DeleteTopicRequest, KafkaError, MetadataMachine, MetadataRecord, TopicRules,
};
use crate::topic_config::{TopicDefaults, list_for_create};

/// The upper half of group 0's tokens.
pub(super) const TOKEN_SPACE: u32 = 3;
/// Of the machine that reads its entries back.
pub(super) const READ_SPACE: u32 = 4;
const SEGMENT_BYTES: u64 = 64 << 20;
const RESOURCE_TOPIC: i8 = 2;

/// The partition whose log group 0 is.
pub(super) const GROUP_ZERO: PartitionKey = PartitionKey {
    topic: TopicId([0; 16]),
    partition: 0,
};

/// An operation on group 0.
#[derive(Debug)]
pub enum ControlOp {
    /// As the API.
    CreateTopics(kp::CreateTopicsRequest),
    /// As the API.
    DeleteTopics(kp::DeleteTopicsRequest),
    /// As the API.
    CreatePartitions(kp::CreatePartitionsRequest),
    /// As the API.
    IncrementalAlterConfigs(kp::IncrementalAlterConfigsRequest),
    /// A fresh producer id.
    InitProducerId,
    /// Topics that a Metadata request named and that do not exist.
    AutoCreate(Vec<String>),
}

/// Group 0's answer.
#[derive(Debug)]
pub enum ControlAnswer {
    /// The API's answer.
    Body(ResponseBody),
    /// The topics of an [`ControlOp::AutoCreate`] exist now, where they may.
    Created,
}

/// What group 0 is opened with.
pub struct ControlSeed {
    /// What is said of its log.
    pub evidence: PartitionEvidence,
    /// Its directory.
    pub directory: std::path::PathBuf,
    /// The last stop was clean.
    pub clean: bool,
    /// Raised at each start.
    pub start_counter: u64,
}

/// What the directory's checkpoints say of group 0.
pub fn group_zero_evidence(directory: &DataDirectory) -> PartitionEvidence {
    directory.evidence(&GROUP_ZERO)
}

/// Where group 0's files are.
pub fn group_zero_directory(directory: &DataDirectory) -> std::path::PathBuf {
    directory.path().join("metadata")
}

enum State {
    Opening(Box<Opening>),
    Reading(Box<PartitionLog>, Machine<std::io::Result<Vec<InternalEntry>>>),
    Open(Box<PartitionLog>),
}

/// The request under way: its records wait for the disk, then for the other shards.
struct Current {
    reply: ReplyTo,
    answer: ControlAnswer,
    records: Vec<MetadataRecord>,
    index: EntryIndex,
    /// The version of the image that its records made; 0 until they are applied.
    version: u64,
    missing: usize,
}

/// See the file's head.
pub(super) struct Control {
    state: Option<State>,
    machine: MetadataMachine,
    queue: VecDeque<(ReplyTo, ControlOp)>,
    current: Option<Current>,
    /// Producer ids that may be given out without another record.
    producer_ids: std::ops::Range<i64>,
    /// The shards have been told of the first image.
    started: bool,
    term_confirmed: bool,
}

impl Control {
    pub(super) fn new(seed: ControlSeed) -> Self {
        let spec = OpenSpec {
            directory: seed.directory,
            key: GROUP_ZERO,
            config: LogConfig {
                segment_bytes: SEGMENT_BYTES,
                segment_ms: i64::MAX,
                durability: Durability::Fsync,
            },
            token_space: TOKEN_SPACE,
            checkpoint: seed.evidence.checkpoint,
            clean: seed.clean,
            start_counter: seed.start_counter,
            created: false,
        };
        Self {
            state: Some(State::Opening(Box::new(Opening::with_options(
                spec,
                seed.evidence.options,
            )))),
            machine: MetadataMachine::new(),
            queue: VecDeque::new(),
            current: None,
            producer_ids: 0..0,
            started: false,
            term_confirmed: false,
        }
    }

    pub(super) fn log(&self) -> Option<&PartitionLog> {
        match &self.state {
            Some(State::Open(log)) => Some(log),
            _ => None,
        }
    }

    pub(super) fn confirm_term(&mut self) {
        if let Some(State::Open(log)) = &mut self.state {
            log.confirm_term();
            self.term_confirmed = true;
        }
    }

    /// Whether its log is open and its records are applied.
    pub(super) fn is_open(&self) -> bool {
        self.log().is_some()
    }

    pub(super) fn tick(&mut self, now: Now, disk: &mut dyn Disk) {
        if let Some(State::Open(log)) = &mut self.state {
            log.tick(now.wall_ms, disk);
        }
    }

    pub(super) fn on_completion(&mut self, now: Now, disk: &mut dyn Disk, completion: Completion) {
        match &mut self.state {
            Some(State::Open(log)) => log.on_completion(now.wall_ms, disk, completion),
            _ => self.step(now, disk, vec![completion]),
        }
    }

    /// Goes on opening as far as completions allow.
    fn step(&mut self, now: Now, disk: &mut dyn Disk, mut completions: Vec<Completion>) {
        loop {
            match self.state.take() {
                Some(State::Opening(mut opening)) => {
                    match opening.step(now.wall_ms, disk, std::mem::take(&mut completions)) {
                        OpenProgress::Pending => {
                            self.state = Some(State::Opening(opening));
                            return;
                        }
                        OpenProgress::Failed(error) => {
                            fatal(
                                FatalReason::Metadata,
                                &format!("group 0 cannot be opened: {error}"),
                            );
                        }
                        OpenProgress::Ready(log, report) => {
                            if !report.quarantined.is_empty() {
                                fatal(
                                    FatalReason::Metadata,
                                    "group 0 is damaged; restore its directory from a copy",
                                );
                            }
                            let read = log.read_internal(READ_SPACE, EntryKind::Metadata);
                            self.state = Some(State::Reading(log, read));
                        }
                    }
                }
                Some(State::Reading(log, mut read)) => {
                    match read.step(disk, std::mem::take(&mut completions)) {
                        Poll::Pending => {
                            self.state = Some(State::Reading(log, read));
                            return;
                        }
                        Poll::Ready(Err(error)) => {
                            fatal(FatalReason::Metadata, &format!("group 0 cannot be read: {error}"));
                        }
                        Poll::Ready(Ok(entries)) => {
                            for entry in entries {
                                let applied = MetadataRecord::decode(&entry.payload)
                                    .map_err(|error| error.to_string())
                                    .and_then(|record| {
                                        self.machine.apply(&record).map_err(|error| error.to_string())
                                    });
                                if let Err(error) = applied {
                                    let text = format!("group 0, entry {}: {error}", entry.index.0);
                                    fatal(FatalReason::Metadata, &text);
                                }
                            }
                            self.state = Some(State::Open(log));
                            return;
                        }
                    }
                }
                other => {
                    self.state = other;
                    return;
                }
            }
        }
    }

    /// Closes its log; true when it is durable.
    pub(super) fn close(&mut self, now: Now, disk: &mut dyn Disk) -> bool {
        match &mut self.state {
            Some(State::Open(log)) => !matches!(log.close(now.wall_ms, disk), CloseProgress::Pending),
            _ => true,
        }
    }
}

fn text(text: impl Into<String>) -> StrBytes {
    StrBytes::from_string(text.into())
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

impl Shard {
    /// Takes an operation; its answer comes when it is done everywhere.
    pub(super) fn on_control(&mut self, now: Now, disk: &mut dyn Disk, reply: ReplyTo, op: ControlOp) {
        if let Some(control) = &mut self.control {
            control.queue.push_back((reply, op));
        }
        self.control_end_of_turn(now, disk);
    }

    /// Moves group 0 on: opening, the commit of the current request, the next request.
    pub(super) fn control_end_of_turn(&mut self, now: Now, disk: &mut dyn Disk) {
        let Some(control) = &mut self.control else { return };
        if !control.is_open() {
            control.step(now, disk, Vec::new());
            if !control.is_open() {
                return;
            }
        }
        if !control.started {
            control.started = true;
            self.partitions.want_checkpoint();
            self.partitions.list_directories(disk);
            self.publish_image(now, disk);
            return;
        }
        if let Some(State::Open(log)) = &mut control.state {
            log.flush(now.wall_ms, disk);
            if log.status() == LogStatus::Fenced {
                fatal(
                    FatalReason::Metadata,
                    "group 0 could not be written; the disk failed",
                );
            }
        }
        self.commit_current(now, disk);
        self.take_next(now, disk);
    }

    /// The directories of partitions are listed.
    pub(super) fn on_directories_listed(&mut self, disk: &mut dyn Disk, completion: Completion) {
        let Some(control) = &self.control else { return };
        match completion.result {
            Ok(DiskOutput::Names(names)) => {
                self.partitions.sweep(disk, &names, |topic| {
                    control.machine.is_deleted(Uuid::from_bytes(topic.0))
                });
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, "directories of deleted topics could not be looked for"),
        }
    }

    /// Applies the current request's records once they are durable.
    fn commit_current(&mut self, now: Now, disk: &mut dyn Disk) {
        let Some(control) = &mut self.control else { return };
        let durable = control.log().map_or(EntryIndex(0), PartitionLog::durable_index);
        let Some(current) = &mut control.current else {
            return;
        };
        if current.version > 0 || current.index > durable {
            return;
        }
        for record in std::mem::take(&mut current.records) {
            if let Err(error) = control.machine.apply(&record) {
                fatal(
                    FatalReason::Metadata,
                    &format!("a planned record does not apply: {error}"),
                );
            }
        }
        self.publish_image(now, disk);
    }

    /// Gives the image to every shard, this one last.
    fn publish_image(&mut self, now: Now, disk: &mut dyn Disk) {
        let Some(control) = &mut self.control else { return };
        let image = control.machine.image();
        let shards = self.endpoint.shards();
        if let Some(current) = &mut control.current {
            current.missing = shards;
            current.version = image.version();
        }
        for shard in 1..shards {
            self.send(shard, ShardRequest::Image(Arc::clone(&image)));
        }
        let version = image.version();
        self.apply_image(now, disk, image);
        self.own_image_pending = Some(version);
    }

    /// A shard serves what the image of this version asks of it.
    pub(super) fn on_image_applied(&mut self, now: Now, disk: &mut dyn Disk, version: u64) {
        let Some(control) = &mut self.control else { return };
        let Some(current) = &mut control.current else {
            return;
        };
        if current.version != version {
            return;
        }
        current.missing = current.missing.saturating_sub(1);
        if current.missing > 0 {
            return;
        }
        if let Some(current) = control.current.take() {
            self.answer_control(now, disk, current.reply, current.answer);
        }
    }

    fn answer_control(&mut self, now: Now, disk: &mut dyn Disk, reply: ReplyTo, answer: ControlAnswer) {
        if reply.shard == self.own {
            self.on_control_answer(now, disk, reply, answer);
        } else {
            self.endpoint
                .answer(usize::from(reply.shard), ShardAnswer::Control(reply, answer));
        }
    }

    fn take_next(&mut self, now: Now, disk: &mut dyn Disk) {
        loop {
            let Some(control) = &mut self.control else { return };
            if control.current.is_some() || !control.term_confirmed {
                return;
            }
            let Some((reply, op)) = control.queue.pop_front() else {
                return;
            };
            let (answer, records) = self.plan(&op);
            if records.is_empty() {
                self.answer_control(now, disk, reply, answer);
                continue;
            }
            let Some(control) = &mut self.control else { return };
            let Some(State::Open(log)) = &mut control.state else {
                return;
            };
            let mut records = records;
            let mut answer = answer;
            let mut index = EntryIndex(0);
            let mut appended = 0;
            let mut refused = None;
            for record in &records {
                let payload = match record.encode() {
                    Ok(payload) => payload,
                    Err(error) => {
                        refused = Some((ErrorCode::PolicyViolation, error.to_string()));
                        break;
                    }
                };
                match log.append_internal(now.wall_ms, disk, EntryKind::Metadata, &payload) {
                    Ok(at) => {
                        index = at;
                        appended += 1;
                    }
                    Err(AppendError::Backlogged | AppendError::TermNotDurable) if appended == 0 => {
                        // A new segment is being made: taken up again at the end of a later turn.
                        control.producer_ids = 0..0;
                        control.queue.push_front((reply, op));
                        return;
                    }
                    Err(error) => {
                        refused = Some((ErrorCode::KafkaStorageError, error.to_string()));
                        break;
                    }
                }
            }
            if let Some((code, message)) = refused {
                // What was appended is in the log and holds; the client is told to look and to try again.
                tracing::error!(%message, "group 0 did not take all of a request");
                control.producer_ids = 0..0;
                records.truncate(appended);
                fail(&mut answer, code, &message);
            }
            if records.is_empty() {
                self.answer_control(now, disk, reply, answer);
                continue;
            }
            log.flush(now.wall_ms, disk);
            control.current = Some(Current {
                reply,
                answer,
                records,
                index,
                version: 0,
                missing: 0,
            });
        }
    }

    fn topic_rules(&self, validate_only: bool) -> TopicRules {
        TopicRules {
            default_partitions: self.settings.default_partitions,
            default_replication_factor: 1,
            node_ids: vec![self.settings.node_id],
            validate_only,
        }
    }

    fn plan(&mut self, op: &ControlOp) -> (ControlAnswer, Vec<MetadataRecord>) {
        match op {
            ControlOp::CreateTopics(request) => self.plan_create(request),
            ControlOp::DeleteTopics(request) => self.plan_delete(request),
            ControlOp::CreatePartitions(request) => self.plan_partitions(request),
            ControlOp::IncrementalAlterConfigs(request) => self.plan_configs(request),
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

    fn plan_configs(
        &mut self,
        request: &kp::IncrementalAlterConfigsRequest,
    ) -> (ControlAnswer, Vec<MetadataRecord>) {
        use kp::incremental_alter_configs_response::AlterConfigsResourceResponse;
        let asked: Vec<AlterConfigsRequest> = request
            .resources
            .iter()
            .filter(|resource| resource.resource_type == RESOURCE_TOPIC)
            .map(|resource| AlterConfigsRequest {
                topic: resource.resource_name.to_string(),
                operations: resource
                    .configs
                    .iter()
                    .map(|config| AlterConfigOp {
                        key: config.name.to_string(),
                        operation: config.config_operation,
                        value: config.value.as_ref().map(ToString::to_string),
                    })
                    .collect(),
            })
            .collect();
        let planned = metadata::alter_topic_configs(&self.image, &asked, request.validate_only);
        let mut outcomes = planned.outcomes.into_iter();
        let mut body = kp::IncrementalAlterConfigsResponse::default();
        for resource in &request.resources {
            let outcome = if resource.resource_type == RESOURCE_TOPIC {
                outcomes
                    .next()
                    .unwrap_or_else(|| Err(KafkaError::new(ErrorCode::UnknownServerError.code(), "")))
            } else {
                let message = "only topic configs can be altered; broker settings are changed in the broker's configuration";
                Err(KafkaError::new(ErrorCode::InvalidRequest.code(), message))
            };
            let mut result = AlterConfigsResourceResponse::default()
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone());
            match outcome {
                Ok(outcome) => name_without_effect(&resource.resource_name, &outcome.without_effect),
                Err(KafkaError { code, message }) => {
                    result.error_code = code;
                    result.error_message = Some(text(message));
                }
            }
            body.responses.push(result);
        }
        (
            ControlAnswer::Body(ResponseBody::IncrementalAlterConfigs(body)),
            planned.records,
        )
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

/// Turns what an answer calls done into an error.
fn fail(answer: &mut ControlAnswer, code: ErrorCode, message: &str) {
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
