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
use tidelog_net::{ErrorCode, Uuid};
use tidelog_segment_log::data_directory::{DataDirectory, PartitionEvidence};
use tidelog_segment_log::disk::{Completion, Disk, DiskOutput};
use tidelog_segment_log::entry::EntryKind;
use tidelog_segment_log::ids::{EntryIndex, PartitionKey, TopicId};
use tidelog_segment_log::log::{
    AppendError, CloseProgress, Durability, InternalEntry, LogConfig, LogStatus, Machine, OpenProgress,
    OpenSpec, Opening, PartitionLog,
};

use super::partitions::DirectoryId;
use super::plan::fail;
use super::sockets::partitions_max;
use super::{Now, ReplyTo, Shard, ShardAnswer, ShardRequest};
use crate::fatal::{FatalReason, fatal};
use crate::metadata::{MetadataMachine, MetadataRecord, assign_directories};

/// The upper half of group 0's tokens.
pub(super) const TOKEN_SPACE: u32 = 3;
/// Of the machine that reads its entries back.
pub(super) const READ_SPACE: u32 = 4;
const SEGMENT_BYTES: u64 = 64 << 20;
/// How long a request waits for room on a full disk.
const FULL_WAIT_MS: u64 = 5_000;

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
    /// As the API.
    AlterConfigs(kp::AlterConfigsRequest),
    /// A fresh producer id.
    InitProducerId,
    /// Topics that a Metadata request named and that do not exist.
    AutoCreate(Vec<String>),
}

impl ControlOp {
    /// Whether it makes partitions, each of which takes room on the disk.
    fn takes_room(&self) -> bool {
        matches!(
            self,
            ControlOp::CreateTopics(_) | ControlOp::CreatePartitions(_) | ControlOp::AutoCreate(_)
        )
    }
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
    /// Shards that do not serve that image yet, one bit each.
    awaited: u64,
}

/// See the file's head.
pub(super) struct Control {
    state: Option<State>,
    machine: MetadataMachine,
    queue: VecDeque<(ReplyTo, ControlOp)>,
    current: Option<Current>,
    /// Producer ids that may be given out without another record.
    pub(super) producer_ids: std::ops::Range<i64>,
    /// The shards have been told of the first image.
    started: bool,
    term_confirmed: bool,
    /// Since when the request whose turn it is finds no room on the disk.
    full_since_ms: Option<u64>,
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
            full_since_ms: None,
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

    /// True when its log has met a full disk.
    pub(super) fn tick(&mut self, now: Now, disk: &mut dyn Disk) -> bool {
        match &mut self.state {
            Some(State::Open(log)) => {
                log.tick(now.wall_ms, disk);
                log.has_met_full_disk()
            }
            _ => false,
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
                            if !report.set_aside.is_empty() || !report.unreadable.is_empty() {
                                tracing::warn!(?report, "group 0 was recovered");
                            }
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
            let there = control.machine.image().partition_count();
            let room = partitions_max(self.settings.memory_limit_bytes, self.endpoint.shards());
            if there > room {
                tracing::warn!(
                    partitions = there,
                    room,
                    "there are more partitions than memory.limit has room for: all are opened, and no more can be made; \
                     raise memory.limit or delete topics"
                );
            }
            self.partitions.want_checkpoint(DirectoryId::HOME);
            self.partitions.list_directories(disk);
            self.partitions
                .forget_dead(|topic| control.machine.is_deleted(Uuid::from_bytes(topic.0)));
            self.publish_image();
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
        self.commit_current();
        self.take_next(now, disk);
    }

    /// The directories of partitions are listed.
    pub(super) fn on_directories_listed(&mut self, disk: &mut dyn Disk, space: u32, completion: Completion) {
        let Some(control) = &self.control else { return };
        match completion.result {
            Ok(DiskOutput::Names(names)) => {
                self.partitions.sweep(disk, space, &names, |topic| {
                    control.machine.is_deleted(Uuid::from_bytes(topic.0))
                });
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, "directories of deleted topics could not be looked for"),
        }
    }

    /// Applies the current request's records once they are durable.
    fn commit_current(&mut self) {
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
        self.publish_image();
    }

    /// Gives the image to every shard, this one last.
    fn publish_image(&mut self) {
        let Some(control) = &mut self.control else { return };
        let image = control.machine.image();
        let shards = self.endpoint.shards();
        if let Some(current) = &mut control.current {
            // One that takes no turns gets the image when it does; until then nothing waits for it.
            let awaited = (0..shards).filter(|shard| !self.endpoint.is_silent(*shard));
            current.awaited = awaited.fold(0, |awaited, shard| awaited | 1 << shard);
            current.version = image.version();
        }
        for shard in 1..shards {
            self.send(shard, ShardRequest::Image(Arc::clone(&image)));
        }
        let version = image.version();
        self.apply_image(image);
        self.own_image_pending = Some(version);
    }

    /// A shard serves what the image of this version asks of it.
    pub(super) fn on_image_applied(&mut self, now: Now, disk: &mut dyn Disk, shard: u16, version: u64) {
        let Some(control) = &mut self.control else { return };
        let Some(current) = &mut control.current else {
            return;
        };
        if current.version != version {
            return;
        }
        current.awaited &= !(1 << shard);
        if current.awaited > 0 {
            return;
        }
        if let Some(current) = control.current.take() {
            self.answer_control(now, disk, current.reply, current.answer);
        }
    }

    /// A shard takes no turns: no request waits for it to serve an image.
    pub(super) fn stop_awaiting(&mut self, now: Now, disk: &mut dyn Disk, shard: usize) {
        let current = self.control.as_ref().and_then(|control| control.current.as_ref());
        if let Some(version) = current
            .map(|current| current.version)
            .filter(|version| *version > 0)
        {
            self.on_image_applied(now, disk, shard as u16, version);
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
            let (mut answer, mut records) = self.plan(&op);
            let choices = self.partitions.choices();
            let is_full = choices.iter().all(|choice| !choice.takes_writes);
            if !records.is_empty() && op.takes_room() && is_full {
                let text = "the disk is full, or nearly so: there is no room for more partitions";
                fail(&mut answer, ErrorCode::KafkaStorageError, text);
                records.clear();
            }
            if records.is_empty() {
                self.answer_control(now, disk, reply, answer);
                continue;
            }
            records.extend(assign_directories(&self.image, &records, &choices));
            let Some(control) = &mut self.control else { return };
            let Some(State::Open(log)) = &mut control.state else {
                return;
            };
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
                    // The reserve is given up for it.
                    Err(AppendError::NoSpace)
                        if appended == 0
                            && now.monotonic_ms
                                < *control.full_since_ms.get_or_insert(now.monotonic_ms) + FULL_WAIT_MS =>
                    {
                        self.partitions.home().space.note_full_disk();
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
            control.full_since_ms = None;
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
                awaited: 0,
            });
        }
    }
}
