//! The shard's checkpoint: gathered in steps, written by the disk, and then the terms it carries confirmed.
//!
//! A raised term is confirmed only after a checkpoint that carries it is on the disk; until then the log refuses
//! appends by itself. Invariants: a checkpoint names each open partition once, so one that an opening came into
//! while it was gathered is gathered anew; the next is begun when the one before is confirmed; one that the full
//! disk did not take is gathered again at a tick, and nothing that rests on it goes on before.

use std::io;
use std::task::Poll;

use tidelog_segment_log::checkpoint::{Checkpoint, PartitionCheckpoint};
use tidelog_segment_log::data_directory::write_checkpoint;
use tidelog_segment_log::disk::{Completion, Disk, is_out_of_descriptors};
use tidelog_segment_log::ids::{LeaderEpoch, PartitionKey};
use tidelog_segment_log::log::Machine;
use tidelog_segment_log::reserve::is_full;

use super::Partitions;
use crate::fatal::{FatalReason, fatal};
use crate::reactor::{Progress, StepBudget};

/// The checkpoint writer's token space.
pub(super) const SPACE: u32 = 2;
/// Time between checkpoints, milliseconds.
const INTERVAL_MS: u64 = 30_000;
/// Time until one that found the disk full, or no descriptor, is tried again, milliseconds.
const PUT_OFF_MS: u64 = 250;

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
    /// The disk was full, or there was no descriptor. The older generation still counts; tried again then, from the next tick on at first.
    PutOff(Option<u64>),
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

    /// Whether the one that was begun last is on the disk.
    pub(super) fn is_last_written(&self) -> bool {
        !matches!(self.state, State::Writing(_) | State::PutOff(_))
    }
}

impl Partitions {
    /// A checkpoint is to be written soon.
    pub(in crate::shard) fn want_checkpoint(&mut self) {
        self.checkpoints.is_wanted = true;
    }

    /// Wants the checkpoint that is due by time, or that the disk had no room for.
    pub(in crate::shard) fn tick_checkpoint(&mut self, disk: &mut dyn Disk, now_ms: u64) {
        match self.checkpoints.state {
            State::PutOff(None) => self.checkpoints.state = State::PutOff(Some(now_ms + PUT_OFF_MS)),
            State::PutOff(Some(at)) if at <= now_ms => {
                self.checkpoints.state = State::Resting;
                match self.closed.clone() {
                    Some(closed) => self.write_last_checkpoint(disk, closed),
                    None => self.want_checkpoint(),
                }
            }
            _ => {}
        }
        if now_ms >= self.checkpoints.due_ms {
            self.checkpoints.due_ms = now_ms + INTERVAL_MS;
            self.want_checkpoint();
        }
    }

    /// Begins the checkpoint that is wanted. True: [`Partitions::checkpoint_step`] has something to do.
    pub(in crate::shard) fn maintain(&mut self) -> bool {
        if self.checkpoints.is_wanted
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
        !matches!(
            self.checkpoints.state,
            State::Resting | State::Writing(_) | State::PutOff(_)
        )
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
            state @ (State::Resting | State::Writing(_) | State::PutOff(_)) => {
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
        self.write(disk, closed);
    }

    pub(super) fn step_checkpoint(&mut self, disk: &mut dyn Disk, completions: Vec<Completion>) {
        let State::Writing(machine) = &mut self.checkpoints.state else {
            return;
        };
        let Poll::Ready(result) = machine.step(disk, completions) else {
            return;
        };
        match result {
            Ok(()) => self.checkpoints.state = State::Confirming(0),
            // A new file was made for it, which is gone: nothing rests on the write that failed.
            Err(error) if is_full(&error) => {
                tracing::warn!("no room for a checkpoint; it is tried again");
                self.seed.space.note_full_disk();
                self.checkpoints.state = State::PutOff(None);
            }
            Err(error) if is_out_of_descriptors(&error) => {
                tracing::warn!(%error, "the checkpoint is put off");
                self.checkpoints.state = State::PutOff(None);
            }
            Err(error) => fatal(
                FatalReason::Checkpoint,
                &format!("the checkpoint cannot be written: {error}"),
            ),
        }
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
