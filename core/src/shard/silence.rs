//! Shards that take no turns: what others do about them.
//!
//! A shard that another one sees silent for `shard.silent_ms` is sent nothing more, and every part of a request
//! that waits for it, or comes later, is answered with a retriable error. Its late answers find the part
//! answered and are dropped. When it takes turns again, what was kept is sent and all goes on.
//!
//! Error codes. For Fetch NOT_LEADER_OR_FOLLOWER, which every client retries by itself (REQUEST_TIMED_OUT
//! ends a Java consumer with an exception); clients also ask for metadata then, so such an answer is held
//! back for [`SILENT_FETCH_WAIT_MS`], which bounds both. For everything else REQUEST_TIMED_OUT: clients
//! back off and retry without asking for metadata, and it does not say that nothing was written; but
//! COORDINATOR_LOAD_IN_PROGRESS for InitProducerId.

use std::collections::VecDeque;

use tidelog_net::ErrorCode;
use tidelog_segment_log::disk::Disk;

use super::control::ControlOp;
use super::partition::{PartitionAnswer, PartitionOp};
use super::plan::refusal;
use super::{Now, Pending, ReplyTo, Shard, ShardRequest};
use crate::mesh::Silence;

/// How long a fetch waits, if it may, before it is told that a partition's shard is silent.
pub(super) const SILENT_FETCH_WAIT_MS: u64 = 500;

/// The shard of group 0.
const CONTROL_SHARD: usize = 0;
const REASON: &str = "the shard of this partition takes no turns";

/// Keeps a request until its shard takes turns again. Nothing is kept per request of a client, or this would
/// grow for as long as the shard is silent.
pub(super) fn keep_for_silent(kept: &mut VecDeque<ShardRequest>, request: ShardRequest) {
    match &request {
        // A watch that is left behind ends with its wake, which finds no fetch.
        ShardRequest::Unwatch(..) => return,
        // The newest is enough.
        ShardRequest::Image(_) => kept.retain(|kept| !matches!(kept, ShardRequest::Image(_))),
        _ => {}
    }
    kept.push_back(request);
}

impl Shard {
    /// Looks at the other shards; once per tick.
    pub(super) fn look_for_silence(&mut self, now: Now, disk: &mut dyn Disk) {
        if self.stopping && self.all_quiet() {
            // They end one by one.
            return;
        }
        for change in self.silence.look(now.monotonic_ms, Some(usize::from(self.own))) {
            match change {
                Silence::Began(shard) => {
                    self.endpoint.set_silent(shard, true);
                    self.refuse_waiting(shard);
                    self.stop_awaiting(now, disk, shard);
                }
                Silence::Ended(shard, _) => self.endpoint.set_silent(shard, false),
            }
        }
    }

    /// Answers an operation for a silent shard.
    pub(super) fn refuse_silent(&mut self, reply: ReplyTo, op: &PartitionOp) {
        let code = match op {
            PartitionOp::Fetch { .. } | PartitionOp::Watch { .. } => ErrorCode::NotLeaderOrFollower,
            _ => ErrorCode::RequestTimedOut,
        };
        self.metrics.silence_refusals.increment();
        self.answers
            .push((reply, PartitionAnswer::Failed(code, REASON.to_owned())));
    }

    /// Notes an operation on group 0 that is about to be sent. True: its shard is silent, and it is refused.
    pub(super) fn note_control(&mut self, to: usize, reply: ReplyTo, op: &ControlOp) -> bool {
        let code = match op {
            // Older Java producers take every code that they do not name as the end, and this one they name.
            ControlOp::InitProducerId => ErrorCode::CoordinatorLoadInProgress,
            _ => ErrorCode::RequestTimedOut,
        };
        let answer = refusal(op, code, "the shard that keeps the metadata takes no turns");
        let is_silent = self.endpoint.is_silent(to);
        if is_silent {
            self.control_refused.push((reply, answer));
        } else {
            self.control_asked.insert(reply.pending, answer);
        }
        is_silent
    }

    /// Answers every part that waits for a shard.
    fn refuse_waiting(&mut self, shard: usize) {
        // What did not get into the ring is not wanted any more.
        if let Some(kept) = self.backlog.get_mut(shard) {
            for request in std::mem::take(kept) {
                if !matches!(
                    request,
                    ShardRequest::Partition(..) | ShardRequest::Control(..) | ShardRequest::Sizes(_)
                ) {
                    keep_for_silent(kept, request);
                }
            }
        }
        if shard == CONTROL_SHARD {
            for (pending, answer) in self.control_asked.drain() {
                let reply = ReplyTo {
                    shard: self.own,
                    pending,
                    part: 0,
                };
                self.control_refused.push((reply, answer));
            }
        }
        let mut refused = Vec::new();
        for (id, pending) in self.pending.iter() {
            let (parts, code) = match pending {
                Pending::Produce(pending) => (pending.waiting(), ErrorCode::RequestTimedOut),
                Pending::Fetch(pending) => (pending.waiting(), ErrorCode::NotLeaderOrFollower),
                Pending::ListOffsets(pending) => (pending.waiting(), ErrorCode::RequestTimedOut),
                Pending::EpochEnd(pending) => (pending.waiting(), ErrorCode::RequestTimedOut),
                Pending::DeleteRecords(pending) => (pending.waiting(), ErrorCode::RequestTimedOut),
                Pending::Control(_) | Pending::LogDirs(_) => continue,
            };
            for (part, key) in parts {
                if self.owner_of(&key) == shard {
                    let reply = ReplyTo {
                        shard: self.own,
                        pending: id,
                        part,
                    };
                    refused.push((reply, PartitionAnswer::Failed(code, REASON.to_owned())));
                }
            }
        }
        self.metrics.silence_refusals.add(refused.len() as u64);
        self.answers.append(&mut refused);
        self.go_on_without(shard);
    }

    /// Requests for sizes are answered without those of a silent shard.
    fn go_on_without(&mut self, shard: usize) {
        let waiting: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, pending)| matches!(pending, Pending::LogDirs(pending) if pending.awaits(shard)))
            .map(|(id, _)| id)
            .collect();
        for pending in waiting {
            self.metrics.silence_refusals.increment();
            let reply = ReplyTo {
                shard: self.own,
                pending,
                part: shard as u32,
            };
            self.on_sizes(reply, None);
        }
    }
}
