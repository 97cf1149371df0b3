//! The shard's checkpoint: gathered in steps, written by the disk, and then the terms it carries confirmed.
//!
//! A raised term is confirmed only after a checkpoint that carries it is on the disk; until then the log refuses
//! appends by itself. Invariants: a checkpoint names each open partition once, so one that an opening came into
//! while it was gathered is gathered anew; the next is begun when the one before is confirmed.

use std::io;
use std::task::Poll;

use tidelog_segment_log::checkpoint::{Checkpoint, PartitionCheckpoint};
use tidelog_segment_log::data_directory::write_checkpoint;
use tidelog_segment_log::disk::{Completion, Disk, is_out_of_descriptors};
use tidelog_segment_log::ids::{LeaderEpoch, PartitionKey};
use tidelog_segment_log::log::Machine;

use super::Partitions;
use crate::fatal::{FatalReason, fatal};
use crate::reactor::{Progress, StepBudget};

/// The checkpoint writer's token space.
pub(super) const SPACE: u32 = 2;
/// Time between checkpoints, milliseconds.
const INTERVAL_MS: u64 = 30_000;

/// What the newest checkpoint is doing.
#[derive(Default)]
enum State {
    #[default]
    Resting,
    Gathering(Gathering),
    /// Gathered whole; the next step encodes it.
    Gathered(Vec<PartitionCheckpoint>),
    Writing(Machine<io::Result<()>>),
    /// Written; terms are confirmed from this place of `covered` on.
    Confirming(usize),
}

#[derive(Default)]
struct Gathering {
    /// The first token space that was not looked at.
    next_space: u32,
    /// How many openings had begun when it began.
    openings: u64,
    partitions: Vec<PartitionCheckpoint>,
}

pub(super) struct Checkpoints {
    state: State,
    is_wanted: bool,
    /// It could not be written for want of a descriptor: not before the next tick.
    is_put_off: bool,
    /// The logs are closed: this one must be written now.
    is_last: bool,
    due_ms: u64,
    /// The terms that the newest checkpoint carries.
    covered: Vec<(PartitionKey, LeaderEpoch)>,
    /// The newest checkpoint carries group 0.
    has_group_zero: bool,
}

impl Default for Checkpoints {
    fn default() -> Self {
        Self {
            state: State::Resting,
            is_wanted: true,
            is_put_off: false,
            is_last: false,
            due_ms: INTERVAL_MS,
            covered: Vec::new(),
            has_group_zero: false,
        }
    }
}

impl Checkpoints {
    /// Whether none is wanted or under way.
    pub(super) fn is_at_rest(&self) -> bool {
        !self.is_wanted && matches!(self.state, State::Resting)
    }

    /// Whether one is on its way to the disk.
    pub(super) fn is_being_written(&self) -> bool {
        matches!(self.state, State::Writing(_))
    }
}

impl Partitions {
    /// A checkpoint is to be written soon.
    pub(in crate::shard) fn want_checkpoint(&mut self) {
        self.checkpoints.is_wanted = true;
    }

    /// Wants the checkpoint that is due by time.
    pub(in crate::shard) fn tick_checkpoint(&mut self, now_ms: u64) {
        self.checkpoints.is_put_off = false;
        if now_ms >= self.checkpoints.due_ms {
            self.checkpoints.due_ms = now_ms + INTERVAL_MS;
            self.want_checkpoint();
        }
    }

    /// Begins the checkpoint that is wanted. True: [`Partitions::checkpoint_step`] has something to do.
    pub(in crate::shard) fn maintain(&mut self) -> bool {
        if self.checkpoints.is_wanted
            && !self.checkpoints.is_put_off
            && matches!(self.checkpoints.state, State::Resting)
            && self.opening == 0
            && !self.is_applying()
        {
            self.checkpoints.is_wanted = false;
            self.checkpoints.state = State::Gathering(Gathering {
                openings: self.openings,
                ..Gathering::default()
            });
        }
        !matches!(self.checkpoints.state, State::Resting | State::Writing(_))
    }

    /// Goes on with the checkpoint. `group_zero` tells shard 0's own log; None on others, and while it is not
    /// open yet.
    pub(in crate::shard) fn checkpoint_step(
        &mut self,
        disk: &mut dyn Disk,
        budget: &mut StepBudget,
        group_zero: impl FnOnce() -> Option<PartitionCheckpoint>,
    ) -> Progress {
        match std::mem::take(&mut self.checkpoints.state) {
            State::Gathering(gathering) => self.gather_step(gathering, budget, group_zero),
            State::Gathered(partitions) => {
                self.write(disk, partitions);
                budget.end();
                Progress::Done
            }
            State::Confirming(from) => self.confirm_step(from, budget),
            state @ (State::Resting | State::Writing(_)) => {
                self.checkpoints.state = state;
                Progress::Done
            }
        }
    }

    fn gather_step(
        &mut self,
        mut gathering: Gathering,
        budget: &mut StepBudget,
        group_zero: impl FnOnce() -> Option<PartitionCheckpoint>,
    ) -> Progress {
        if gathering.openings != self.openings || self.is_applying() {
            self.want_checkpoint();
            return Progress::Done;
        }
        for (space, key) in self.spaces.range(gathering.next_space..) {
            if !budget.take() {
                gathering.next_space = *space;
                self.checkpoints.state = State::Gathering(gathering);
                return Progress::Pending;
            }
            if let Some((_, partition)) = self.by_key.get(key)
                && let Some(log) = partition.log()
            {
                gathering.partitions.push(log.checkpoint());
            }
        }
        let group_zero = group_zero();
        self.checkpoints.has_group_zero = group_zero.is_some();
        gathering.partitions.extend(group_zero);
        self.checkpoints.state = State::Gathered(gathering.partitions);
        // Encoding it is a step of its own.
        budget.end();
        Progress::Pending
    }

    /// Encodes a checkpoint and begins to write it.
    fn write(&mut self, disk: &mut dyn Disk, partitions: Vec<PartitionCheckpoint>) {
        self.checkpoints.covered = partitions
            .iter()
            .map(|partition| (partition.key, partition.term))
            .collect();
        let checkpoint = Checkpoint {
            start_counter: self.seed.directory.start_counter(),
            partitions,
        };
        let path = self.seed.directory.path().to_path_buf();
        let machine = write_checkpoint(SPACE, path, self.own as u32, &checkpoint);
        self.checkpoints.state = State::Writing(machine);
        self.step_checkpoint(disk, Vec::new());
    }

    /// Writes the checkpoint of logs that were closed, whatever one was being gathered.
    pub(super) fn write_last_checkpoint(&mut self, disk: &mut dyn Disk, closed: Vec<PartitionCheckpoint>) {
        self.checkpoints.has_group_zero = false;
        self.checkpoints.is_last = true;
        self.write(disk, closed);
    }

    pub(super) fn step_checkpoint(&mut self, disk: &mut dyn Disk, completions: Vec<Completion>) {
        let State::Writing(machine) = &mut self.checkpoints.state else {
            return;
        };
        let Poll::Ready(result) = machine.step(disk, completions) else {
            return;
        };
        if let Err(error) = result {
            if is_out_of_descriptors(&error) && !self.checkpoints.is_last {
                tracing::warn!(%error, "the checkpoint is put off");
                self.checkpoints.state = State::Resting;
                self.checkpoints.is_put_off = true;
                self.want_checkpoint();
                return;
            }
            fatal(
                FatalReason::Checkpoint,
                &format!("the checkpoint cannot be written: {error}"),
            );
        }
        self.checkpoints.state = State::Confirming(0);
    }

    fn confirm_step(&mut self, from: usize, budget: &mut StepBudget) -> Progress {
        let covered = self.checkpoints.covered.get(from..).unwrap_or_default();
        for (at, (key, term)) in covered.iter().enumerate() {
            if !budget.take() {
                self.checkpoints.state = State::Confirming(from + at);
                return Progress::Pending;
            }
            // One that was opened again meanwhile has a term that this checkpoint does not carry.
            if let Some((_, partition)) = self.by_key.get_mut(key)
                && let Some(log) = partition.log_mut()
                && log.needs_term_checkpoint()
                && log.leader_epoch() == *term
            {
                log.confirm_term();
            }
        }
        Progress::Done
    }

    /// Whether a finished checkpoint has carried group 0.
    pub(in crate::shard) fn covers_group_zero(&self) -> bool {
        self.checkpoints.has_group_zero
            && matches!(self.checkpoints.state, State::Resting | State::Confirming(_))
    }
}
