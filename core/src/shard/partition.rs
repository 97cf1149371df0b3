//! One partition on its owner shard: a log, who waits for its durability, who waits for news.
//!
//! A state machine: operations and disk completions in, answers out through the caller's list.
//!
//! Invariants: a produce with acks=all is answered only when its last offset is below the durable
//! offset (or at once with the log end under `os`/`interval`); watchers are told when the high
//! watermark moves, never on append; nothing is appended while the log is fenced or opening.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tidelog_net::error_code::ErrorCode;
use tidelog_segment_log::disk::{Completion, Disk};
use tidelog_segment_log::ids::{EntryIndex, LeaderEpoch, Offset, PartitionKey};
use tidelog_segment_log::journal::JournalEvidence;
use tidelog_segment_log::log::{
    Durability, LogConfig, LogStatus, NewestRecord, OpenError, OpenProgress, OpenSpec, Opening, PartitionLog,
    ReadPlan,
};
use tidelog_segment_log::recovery::RecoveryOptions;
use tidelog_segment_log::reserve::is_full;

use super::append::{Owner, produce};
use super::delete_records::move_log_start;
use super::look_up::{check_epoch, fetch, list_offset};
use super::partitions::DirectoryId;
use super::room::Room;
use super::{Now, ReplyTo};
use crate::metrics::ShardCells;
use crate::topic_config::TopicConfig;

/// Time between attempts to open a partition, milliseconds.
const OPEN_AGAIN_MS: u64 = 1_000;
/// Watchers of one partition; beyond it a fetch polls by its deadline only.
const WATCHERS_MAX: usize = 65_536;

/// What a shard asks of a partition.
#[derive(Debug)]
pub enum PartitionOp {
    /// Append one record batch. `acks` is 0, 1 or -1.
    Produce {
        /// One whole record batch as the client sent it.
        batch: Bytes,
        /// 0: answered at once; 1: written; -1: durable.
        acks: i16,
    },
    /// Read from an offset up to the high watermark.
    Fetch {
        /// First offset wanted.
        offset: i64,
        /// Bytes of batches wanted at most (one batch is always given).
        max_bytes: usize,
        /// The leader epoch the client believes in; -1 = does not say.
        leader_epoch: i32,
    },
    /// Send a [`super::ShardRequest::Wake`] once the high watermark is above `high_watermark`, or the log
    /// start above `offset`.
    Watch {
        /// The mark the fetch has seen.
        high_watermark: i64,
        /// Where the fetch is to read.
        offset: i64,
    },
    /// Where a timestamp, or a named position, is.
    ListOffset {
        /// Milliseconds, or -1 latest, -2 earliest, -3 the largest timestamp, -4, -5.
        timestamp: i64,
        /// As in `Fetch`.
        leader_epoch: i32,
    },
    /// Move the log start up to an offset, -1 = the high watermark.
    DeleteRecords {
        /// The first offset to be kept.
        offset: i64,
    },
    /// The end offset of an epoch.
    EpochEnd {
        /// The epoch asked for.
        epoch: i32,
        /// As in `Fetch`.
        leader_epoch: i32,
    },
}

/// What a partition answers.
#[derive(Debug)]
pub enum PartitionAnswer {
    /// Nothing to tell but a reason.
    Failed(ErrorCode, String),
    /// INVALID_RECORD: why, and the positions in the batch of the (first) records at fault.
    RecordsRefused(String, Vec<i32>),
    /// The batch is in the log as its acks demand.
    Produced {
        /// Offset of its first record.
        base_offset: i64,
        /// -1, or the time the broker gave it.
        log_append_time_ms: i64,
        /// Lowest offset of the partition.
        log_start_offset: i64,
    },
    /// What a fetch found.
    Fetched {
        /// None, or why there is no plan.
        error: ErrorCode,
        /// The bytes, as places.
        plan: ReadPlan,
        /// End of what consumers may read.
        high_watermark: i64,
        /// Lowest offset.
        log_start_offset: i64,
    },
    /// The watch is set; `moved`: the mark has moved already, and no wake will come.
    Watching {
        /// See above.
        moved: bool,
    },
    /// An offset and its timestamp (-1 where there is none).
    OffsetFound {
        /// -1 when no record matches.
        offset: i64,
        /// -1 for named positions.
        timestamp_ms: i64,
        /// Epoch of that record, or the current one.
        leader_epoch: i32,
    },
    /// The record is in a batch at or after this offset: read on from there.
    ScanFrom {
        /// A batch's base offset.
        offset: i64,
        /// The current epoch.
        leader_epoch: i32,
    },
    /// What is known of the record with the largest timestamp, and the current epoch.
    ScanNewest(NewestRecord, i32),
    /// The log start, which is durable.
    LogStart {
        /// It.
        offset: i64,
    },
    /// The largest epoch not above the asked one, and its end offset; -1, -1 when there is none.
    EpochEnd {
        /// That epoch.
        leader_epoch: i32,
        /// Its end offset.
        end_offset: i64,
    },
}

/// An answer on its way to the shard that asked.
pub(super) type Answers = Vec<(ReplyTo, PartitionAnswer)>;

/// What an answer waits for.
#[derive(Clone, Copy, Debug)]
enum Until {
    /// This offset is written.
    Written(Offset),
    /// This offset is below the high watermark.
    Committed(Offset),
    /// This entry is on the device, whatever the durability of batches.
    Durable(EntryIndex),
}

/// An answer that waits for the disk.
struct Waiting {
    reply: ReplyTo,
    until: Until,
    answer: PartitionAnswer,
}

/// A fetch that waits for news.
struct Watcher {
    reply: ReplyTo,
    /// The high watermark it has seen.
    high_watermark: i64,
    /// Where it is to read.
    offset: i64,
}

enum State {
    Opening(Box<Opening>),
    Open(Box<PartitionLog>),
    /// It could not be opened; tried again then, unless trying cannot help.
    Failed {
        reason: String,
        retry_ms: Option<u64>,
    },
}

/// See the file's head.
pub(super) struct Partition {
    key: PartitionKey,
    topic: String,
    config: TopicConfig,
    log_config: LogConfig,
    state: State,
    /// How to open it again, should opening fail.
    open: OpenSpec,
    options: RecoveryOptions,
    waiting: VecDeque<Waiting>,
    watchers: Vec<Watcher>,
    last_high_watermark: Offset,
    last_log_start: Offset,
    /// Where its files are; None: in memory, or in a directory that this process does not have.
    directory: Option<DirectoryId>,
    /// Its directory failed or is missing.
    is_unavailable: bool,
    /// Where its bytes go.
    room: Room,
    /// What the disk said when it was last opened in vain, until that is taken.
    open_error: Option<io::Error>,
}

/// What a partition is opened with.
pub(super) struct PartitionSpec {
    /// None: in memory.
    pub directory: Option<DirectoryId>,
    pub topic: String,
    pub config: TopicConfig,
    pub open: OpenSpec,
    pub options: RecoveryOptions,
    pub room: Room,
}

impl Partition {
    pub(super) fn new(spec: PartitionSpec) -> Self {
        let key = spec.open.key;
        let log_config = spec.open.config;
        let opening = Opening::with_options(spec.open.clone(), spec.options.clone());
        Self {
            key,
            topic: spec.topic,
            config: spec.config,
            log_config,
            state: State::Opening(Box::new(opening)),
            open: spec.open,
            options: spec.options,
            waiting: VecDeque::new(),
            watchers: Vec::new(),
            last_high_watermark: Offset(0),
            last_log_start: Offset(0),
            directory: spec.directory,
            is_unavailable: false,
            room: spec.room,
            open_error: None,
        }
    }

    /// One whose files are in a data directory that this process does not have.
    pub(super) fn unavailable(key: PartitionKey, topic: String, config: TopicConfig, reason: String) -> Self {
        let log_config = LogConfig {
            segment_bytes: config.segment_bytes,
            segment_ms: i64::MAX,
            durability: Durability::Fsync,
        };
        Self {
            key,
            topic,
            config,
            log_config,
            state: State::Failed {
                reason,
                retry_ms: None,
            },
            open: OpenSpec {
                directory: PathBuf::new(),
                key,
                config: log_config,
                token_space: 0,
                checkpoint: None,
                clean: false,
                start_counter: 0,
                created: false,
            },
            options: RecoveryOptions::default(),
            waiting: VecDeque::new(),
            watchers: Vec::new(),
            last_high_watermark: Offset(0),
            last_log_start: Offset(0),
            directory: None,
            is_unavailable: true,
            room: Room::Directory(Arc::default()),
            open_error: None,
        }
    }

    /// Where its files are; None: in memory, or in a directory that this process does not have.
    pub(super) fn directory(&self) -> Option<DirectoryId> {
        self.directory
    }

    /// The directory of its files in memory, if that is where they are.
    pub(super) fn path_in_memory(&self) -> Option<&Path> {
        self.room.is_memory().then_some(self.open.directory.as_path())
    }

    /// Whether its directory failed or is missing.
    pub(super) fn is_unavailable(&self) -> bool {
        self.is_unavailable
    }

    /// Whether its directory has failed and it does not know yet.
    pub(super) fn is_directory_gone(&self) -> bool {
        !self.is_unavailable && self.room.has_failed()
    }

    /// Its directory has failed. What waits is told when it is settled.
    pub(super) fn withdraw(&mut self, reason: &str) {
        self.is_unavailable = true;
        self.state = State::Failed {
            reason: reason.to_owned(),
            retry_ms: None,
        };
    }

    /// Takes a new configuration, in force from the next append on.
    pub(super) fn set_config(&mut self, config: TopicConfig, log: LogConfig) {
        self.config = config;
        self.log_config = log;
        if let Some(open) = self.log_mut() {
            open.set_config(log);
        }
    }

    pub(super) fn config(&self) -> &TopicConfig {
        &self.config
    }

    pub(super) fn is_opening(&self) -> bool {
        matches!(self.state, State::Opening(_))
    }

    pub(super) fn log(&self) -> Option<&PartitionLog> {
        match &self.state {
            State::Open(log) => Some(log),
            _ => None,
        }
    }

    /// Bytes of its files; while it is not open, those that the last checkpoint tells of.
    pub(super) fn size_bytes(&self) -> u64 {
        let told = || {
            let checkpoint = self.open.checkpoint.as_ref()?;
            Some(checkpoint.segments.iter().map(|segment| segment.length.0).sum())
        };
        match self.log() {
            Some(log) => log.size_bytes(),
            None => told().unwrap_or(0),
        }
    }

    pub(super) fn log_mut(&mut self) -> Option<&mut PartitionLog> {
        match &mut self.state {
            State::Open(log) => Some(log),
            _ => None,
        }
    }

    /// Drives opening with what has completed. True when it has just ended.
    pub(super) fn step_opening(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        completions: Vec<Completion>,
    ) -> bool {
        let State::Opening(opening) = &mut self.state else {
            return false;
        };
        match opening.step(now.wall_ms, disk, completions) {
            OpenProgress::Pending => false,
            OpenProgress::Ready(mut log, report) => {
                // It may have changed since the opening began.
                log.set_config(self.log_config);
                let lost = !report.quarantined.is_empty() || !report.unreadable.is_empty();
                if lost || !report.set_aside.is_empty() {
                    tracing::warn!(topic = %self.topic, partition = self.key.partition, ?report, "recovered");
                }
                self.last_high_watermark = log.high_watermark();
                self.last_log_start = log.log_start_offset();
                // It is durable where it belongs.
                self.options.journal = JournalEvidence::None;
                // What a checkpoint said of it is said better by the log from now on.
                self.open.checkpoint = None;
                if self.room.is_memory() {
                    // No later start reads what was written under this term: there is nothing to keep it for.
                    log.confirm_term();
                }
                self.state = State::Open(log);
                true
            }
            OpenProgress::Failed(error) => {
                tracing::error!(topic = %self.topic, partition = self.key.partition, %error, "the partition cannot be opened");
                // Files may be there by now, in whatever state.
                (self.open.created, self.open.clean) = (false, false);
                let reason = error.to_string();
                let mut retry_ms = None;
                if let OpenError::Io { cause, .. } = error {
                    if is_full(&cause) {
                        self.room.note_full();
                    }
                    retry_ms = Some(now.monotonic_ms + OPEN_AGAIN_MS);
                    self.open_error = Some(cause);
                }
                self.state = State::Failed { reason, retry_ms };
                true
            }
        }
    }

    pub(super) fn on_completion(&mut self, now: Now, disk: &mut dyn Disk, completion: Completion) -> bool {
        match &mut self.state {
            State::Opening(_) => self.step_opening(now, disk, vec![completion]),
            State::Open(log) => {
                log.on_completion(now.wall_ms, disk, completion);
                false
            }
            State::Failed { .. } => false,
        }
    }

    /// Takes an operation; its answer comes now or later through `answers`.
    pub(super) fn operate(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        reply: ReplyTo,
        op: PartitionOp,
        answers: &mut Answers,
        metrics: &ShardCells,
    ) {
        let log = match &mut self.state {
            State::Open(log) if log.status() == LogStatus::Open => log,
            State::Failed { reason, .. } => {
                answers.push((
                    reply,
                    PartitionAnswer::Failed(ErrorCode::KafkaStorageError, reason.clone()),
                ));
                return;
            }
            _ => {
                let text = "the partition is being opened".to_owned();
                answers.push((
                    reply,
                    PartitionAnswer::Failed(ErrorCode::NotLeaderOrFollower, text),
                ));
                return;
            }
        };
        match op {
            PartitionOp::Produce { batch, acks } => {
                let owner = Owner {
                    config: &self.config,
                    room: &self.room,
                    metrics,
                };
                match produce(now, disk, log, owner, batch) {
                    Ok((last_offset, answer)) if acks != 0 => {
                        let until = match acks {
                            -1 => Until::Committed(last_offset),
                            _ => Until::Written(last_offset),
                        };
                        self.waiting.push_back(Waiting { reply, until, answer });
                    }
                    Ok((_, answer)) => answers.push((reply, answer)),
                    Err(refusal) => {
                        metrics.produce_rejected.increment();
                        answers.push((reply, refusal.into_answer()));
                    }
                }
            }
            PartitionOp::Fetch {
                offset,
                max_bytes,
                leader_epoch,
            } => {
                answers.push((reply, fetch(disk, log, offset, max_bytes, leader_epoch)));
            }
            PartitionOp::Watch {
                high_watermark,
                offset,
            } => {
                let moved = log.high_watermark().0 > high_watermark || log.log_start_offset().0 > offset;
                if !moved && self.watchers.len() < WATCHERS_MAX {
                    self.watchers.push(Watcher {
                        reply,
                        high_watermark,
                        offset,
                    });
                }
                answers.push((reply, PartitionAnswer::Watching { moved }));
            }
            PartitionOp::ListOffset {
                timestamp,
                leader_epoch,
            } => {
                let answer = list_offset(log, timestamp, leader_epoch);
                match answer {
                    // The batch with the largest timestamp is not to be seen yet, and the one that had
                    // it before is not known: the answer comes with that batch's commit.
                    PartitionAnswer::ScanNewest(
                        NewestRecord {
                            known: Some((_, offset)),
                            ..
                        },
                        _,
                    ) if offset >= log.high_watermark() => {
                        let until = Until::Committed(offset);
                        self.waiting.push_back(Waiting { reply, until, answer });
                    }
                    answer => answers.push((reply, answer)),
                }
            }
            PartitionOp::DeleteRecords { offset } => {
                match move_log_start(now, disk, log, &self.config, offset) {
                    Ok((index, log_start)) => self.waiting.push_back(Waiting {
                        reply,
                        until: Until::Durable(index),
                        answer: PartitionAnswer::LogStart { offset: log_start.0 },
                    }),
                    Err(refusal) => answers.push((reply, refusal.into_answer())),
                }
            }
            PartitionOp::EpochEnd { epoch, leader_epoch } => answers.push((
                reply,
                match check_epoch(log, leader_epoch) {
                    Err(code) => PartitionAnswer::Failed(code, String::new()),
                    Ok(()) => {
                        let (epoch, end) = log.epoch_end_offset(LeaderEpoch(epoch));
                        PartitionAnswer::EpochEnd {
                            leader_epoch: epoch.0,
                            end_offset: end.0,
                        }
                    }
                },
            )),
        }
    }

    /// Answers what has become durable, and names the watchers to wake.
    pub(super) fn settle(&mut self, answers: &mut Answers, wakes: &mut Vec<ReplyTo>, metrics: &ShardCells) {
        let log = match &mut self.state {
            State::Open(log) => log,
            State::Failed { reason, .. } => {
                for waiting in self.waiting.drain(..) {
                    let failed = PartitionAnswer::Failed(ErrorCode::KafkaStorageError, reason.clone());
                    answers.push((waiting.reply, failed));
                }
                wakes.extend(self.watchers.drain(..).map(|watcher| watcher.reply));
                return;
            }
            State::Opening(_) => return,
        };
        if log.status() == LogStatus::Fenced {
            for waiting in self.waiting.drain(..) {
                let text = "the disk failed; the partition is being re-read".to_owned();
                answers.push((
                    waiting.reply,
                    PartitionAnswer::Failed(ErrorCode::KafkaStorageError, text),
                ));
            }
            wakes.extend(self.watchers.drain(..).map(|watcher| watcher.reply));
            return;
        }
        if log.has_met_full_disk() {
            self.room.note_full();
        }
        let stuck = log.waits_for_space_from();
        let (written, committed, durable) = (log.written_offset(), log.high_watermark(), log.durable_index());
        self.waiting.retain_mut(|waiting| {
            let (is_reached, is_stuck) = match waiting.until {
                Until::Written(last) => (last < written, stuck.is_some_and(|(from, _)| last >= from)),
                Until::Committed(last) => (last < committed, stuck.is_some_and(|(from, _)| last >= from)),
                Until::Durable(index) => (index <= durable, stuck.is_some_and(|(_, from)| index >= from)),
            };
            if !is_reached && is_stuck {
                // It stays in the log and is written when there is room; one who asks again finds it.
                let refusal = self.room.refusal();
                answers.push((waiting.reply, refusal.into_answer()));
                return false;
            }
            if !is_reached {
                return true;
            }
            let nothing = PartitionAnswer::Watching { moved: false };
            answers.push((waiting.reply, std::mem::replace(&mut waiting.answer, nothing)));
            false
        });
        let log_start = log.log_start_offset();
        let is_committed = committed > self.last_high_watermark;
        if is_committed {
            metrics.commits.increment();
        }
        if is_committed || log_start > self.last_log_start {
            self.last_high_watermark = committed;
            self.last_log_start = log_start;
            self.watchers.retain(|watcher| {
                let wake = committed.0 > watcher.high_watermark || log_start.0 > watcher.offset;
                if wake {
                    wakes.push(watcher.reply);
                }
                !wake
            });
        }
    }

    #[cfg(test)]
    pub(super) fn watcher_count(&self) -> usize {
        self.watchers.len()
    }

    /// Forgets the watches of fetches that ended.
    pub(super) fn unwatch(&mut self, shard: u16, pending: u64) {
        self.watchers
            .retain(|Watcher { reply, .. }| reply.shard != shard || reply.pending != pending);
    }

    /// After a fence, once those who waited were told: opens again, from the device.
    /// `journal`: what it may hold of the log.
    pub(super) fn reopen(&mut self, journal: JournalEvidence) {
        let placeholder = State::Failed {
            reason: "reopening".to_owned(),
            retry_ms: None,
        };
        if let State::Open(log) = std::mem::replace(&mut self.state, placeholder) {
            self.open.checkpoint = Some(log.checkpoint());
            self.open.config = self.log_config;
            (self.open.created, self.open.clean) = (false, false);
            self.options.term_floor = self.options.term_floor.max(log.leader_epoch());
            self.options.checkpoint_is_old = false;
            self.options.continue_in_new_file = true;
            self.options.readers_may_remain = true;
            self.options.journal = journal.clone();
            self.state = State::Opening(Box::new(log.into_reopening_with(journal)));
        }
    }

    /// What the disk said when it was last opened in vain; told once.
    pub(super) fn take_open_error(&mut self) -> Option<io::Error> {
        self.open_error.take()
    }

    /// Whether its log waits to be opened again.
    pub(super) fn is_fenced(&self) -> bool {
        self.log().is_some_and(|log| log.status() == LogStatus::Fenced)
    }

    /// Whether opening failed and is to be tried again now.
    pub(super) fn wants_opening(&self, now: Now) -> bool {
        matches!(self.state, State::Failed { retry_ms: Some(at), .. } if at <= now.monotonic_ms)
    }

    /// Begins opening anew. `token_space`: a fresh one, which no late completion of the failed opening has.
    pub(super) fn open_again(&mut self, token_space: u32) {
        self.open.token_space = token_space;
        let opening = Opening::with_options(self.open.clone(), self.options.clone());
        self.state = State::Opening(Box::new(opening));
    }

    /// Ends every wait with an error, before the partition is deleted.
    pub(super) fn abandon(&mut self, answers: &mut Answers, wakes: &mut Vec<ReplyTo>) {
        for waiting in self.waiting.drain(..) {
            let text = "the topic was deleted".to_owned();
            answers.push((
                waiting.reply,
                PartitionAnswer::Failed(ErrorCode::UnknownTopicOrPartition, text),
            ));
        }
        wakes.extend(self.watchers.drain(..).map(|watcher| watcher.reply));
    }
}
