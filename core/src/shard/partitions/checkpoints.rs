//! The shard's checkpoints, one for each data directory: gathered in steps, written by the disk, and then the terms it carries confirmed.
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

use super::{DirectoryId, Partitions};
use crate::fatal::{FatalReason, fatal};
use crate::limits::DATA_DIRS_MAX;
use crate::reactor::{Progress, StepBudget};

/// The token space of the checkpoint writer of the first data directory; each other one has the next.
const SPACE: u32 = 256;
/// All of them.
pub(super) const SPACES: std::ops::Range<u32> = SPACE..SPACE + DATA_DIRS_MAX as u32;
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

/// Whose writer a token space is.
pub(super) fn directory_of(space: u32) -> DirectoryId {
    DirectoryId::at(space.saturating_sub(SPACE) as usize)
}

/// The checkpoint of one directory.
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
    fn is_last_written(&self) -> bool {
        !matches!(self.state, State::Writing(_) | State::PutOff(_))
    }

    /// Whether there is something to do for it in steps.
    fn wants_steps(&self) -> bool {
        !matches!(self.state, State::Resting | State::Writing(_) | State::PutOff(_))
    }
}

impl Partitions {
    fn checkpoints_mut(&mut self, id: DirectoryId) -> Option<&mut Checkpoints> {
        let directory = self.directories.get_mut(id.place())?;
        Some(&mut directory.checkpoints)
    }

    fn directory_ids(&self) -> impl Iterator<Item = DirectoryId> + use<> {
        (0..self.directories.len()).map(DirectoryId::at)
    }

    /// A checkpoint of a directory is to be written soon.
    pub(in crate::shard) fn want_checkpoint(&mut self, id: DirectoryId) {
        if let Some(checkpoints) = self.checkpoints_mut(id) {
            checkpoints.is_wanted = true;
        }
    }

    /// Wants the checkpoints that are due by time, or that the disk had no room for.
    pub(in crate::shard) fn tick_checkpoint(&mut self, disk: &mut dyn Disk, now_ms: u64) {
        self.tick_groups();
        for id in self.directory_ids() {
            let Some(directory) = self.directories.get_mut(id.place()) else {
                continue;
            };
            let checkpoints = &mut directory.checkpoints;
            match checkpoints.state {
                State::PutOff(None) => checkpoints.state = State::PutOff(Some(now_ms + PUT_OFF_MS)),
                State::PutOff(Some(at)) if at <= now_ms => {
                    checkpoints.state = State::Resting;
                    match directory.closed.clone() {
                        Some(closed) => self.write(disk, id, closed),
                        None => checkpoints.is_wanted = true,
                    }
                    continue;
                }
                _ => {}
            }
            if now_ms >= checkpoints.due_ms {
                checkpoints.due_ms = now_ms + INTERVAL_MS;
                checkpoints.is_wanted = true;
            }
        }
    }

    /// Begins the checkpoints that are wanted. True: [`Partitions::checkpoint_step`] has something to do.
    pub(in crate::shard) fn maintain(&mut self) -> bool {
        let may_begin = self.opening == 0 && !self.is_applying();
        let openings = self.openings;
        let mut wants_steps = false;
        for directory in &mut self.directories {
            if directory.has_failed() {
                continue;
            }
            let checkpoints = &mut directory.checkpoints;
            if may_begin && checkpoints.is_wanted && matches!(checkpoints.state, State::Resting) {
                checkpoints.is_wanted = false;
                checkpoints.state = State::Gathering(Gathering {
                    openings,
                    ..Gathering::default()
                });
            }
            wants_steps |= checkpoints.wants_steps();
        }
        wants_steps
    }

    /// Goes on with the checkpoints. `group_zero` tells shard 0's own log; None on others, and while it is not
    /// open yet.
    pub(in crate::shard) fn checkpoint_step(
        &mut self,
        disk: &mut dyn Disk,
        budget: &mut StepBudget,
        group_zero: impl Fn() -> Option<PartitionCheckpoint>,
    ) -> Progress {
        for id in self.directory_ids() {
            let Some(checkpoints) = self.checkpoints_mut(id) else {
                continue;
            };
            let progress = match std::mem::take(&mut checkpoints.state) {
                State::Gathering(gathering) => self.gather_step(id, gathering, budget, &group_zero),
                State::Gathered(partitions) => {
                    self.write(disk, id, partitions);
                    budget.end();
                    Progress::Done
                }
                State::Confirming(from) => self.confirm_step(id, from, budget),
                state @ (State::Resting | State::Writing(_) | State::PutOff(_)) => {
                    checkpoints.state = state;
                    Progress::Done
                }
            };
            if progress == Progress::Pending {
                return Progress::Pending;
            }
        }
        Progress::Done
    }

    fn gather_step(
        &mut self,
        id: DirectoryId,
        mut gathering: Gathering,
        budget: &mut StepBudget,
        group_zero: impl FnOnce() -> Option<PartitionCheckpoint>,
    ) -> Progress {
        if gathering.openings != self.openings || self.is_applying() {
            self.want_checkpoint(id);
            return Progress::Done;
        }
        let mut is_cut = false;
        for (space, key) in self.spaces.range(gathering.next_space..) {
            if !budget.take() {
                gathering.next_space = *space;
                is_cut = true;
                break;
            }
            if let Some((_, partition)) = self.by_key.get(key)
                && partition.directory() == Some(id)
                && let Some(log) = partition.log()
            {
                gathering.partitions.push(log.checkpoint());
            }
        }
        let Some(checkpoints) = self.checkpoints_mut(id) else {
            return Progress::Done;
        };
        if is_cut {
            checkpoints.state = State::Gathering(gathering);
            return Progress::Pending;
        }
        if id == DirectoryId::HOME {
            let group_zero = group_zero();
            checkpoints.has_group_zero = group_zero.is_some();
            gathering.partitions.extend(group_zero);
        }
        checkpoints.state = State::Gathered(gathering.partitions);
        // Encoding it is a step of its own.
        budget.end();
        Progress::Pending
    }

    /// Encodes a checkpoint and begins to write it.
    fn write(&mut self, disk: &mut dyn Disk, id: DirectoryId, partitions: Vec<PartitionCheckpoint>) {
        let own = self.own as u32;
        let Some(directory) = self.directories.get_mut(id.place()) else {
            return;
        };
        directory.checkpoints.covered = partitions
            .iter()
            .map(|partition| (partition.key, partition.term))
            .collect();
        let checkpoint = Checkpoint {
            start_counter: directory.seed.directory.start_counter(),
            partitions,
        };
        let path = directory.seed.directory.path().to_path_buf();
        let machine = write_checkpoint(SPACE + id.place() as u32, path, own, &checkpoint);
        directory.checkpoints.state = State::Writing(machine);
        self.step_checkpoint(disk, id, Vec::new());
    }

    /// Writes the checkpoints of logs that were closed, one for each directory that works, whatever ones were being
    /// gathered.
    pub(super) fn write_last_checkpoints(
        &mut self,
        disk: &mut dyn Disk,
        closed: Vec<Vec<PartitionCheckpoint>>,
    ) {
        for (id, closed) in self.directory_ids().zip(closed) {
            if let Some(directory) = self.directories.get_mut(id.place())
                && !directory.has_failed()
            {
                directory.closed = Some(closed.clone());
                directory.checkpoints.has_group_zero = false;
                self.write(disk, id, closed);
            }
        }
    }

    /// Whether one is on its way to the disk.
    pub(super) fn is_a_checkpoint_being_written(&self) -> bool {
        let mut working = self
            .directories
            .iter()
            .filter(|directory| !directory.has_failed());
        working.any(|directory| directory.checkpoints.is_being_written())
    }

    /// Whether the last ones are on the disk, but for those of directories that failed.
    pub(super) fn are_last_checkpoints_written(&self) -> bool {
        let mut working = self
            .directories
            .iter()
            .filter(|directory| !directory.has_failed());
        working.all(|directory| directory.checkpoints.is_last_written())
    }

    pub(super) fn step_checkpoint(
        &mut self,
        disk: &mut dyn Disk,
        id: DirectoryId,
        completions: Vec<Completion>,
    ) {
        let Some(directory) = self.directories.get_mut(id.place()) else {
            return;
        };
        let State::Writing(machine) = &mut directory.checkpoints.state else {
            return;
        };
        let Poll::Ready(result) = machine.step(disk, completions) else {
            return;
        };
        match result {
            Ok(()) => directory.checkpoints.state = State::Confirming(0),
            // A new file was made for it, which is gone: nothing rests on the write that failed.
            Err(error) if is_full(&error) => {
                tracing::warn!("no room for a checkpoint; it is tried again");
                directory.seed.space.note_full_disk();
                directory.checkpoints.state = State::PutOff(None);
            }
            // The same holds for one that could not be made.
            Err(error) if is_out_of_descriptors(&error) => {
                tracing::warn!(%error, "the checkpoint is put off");
                directory.checkpoints.state = State::PutOff(None);
            }
            Err(error) => {
                directory.checkpoints.state = State::Resting;
                let reason = format!("the checkpoint cannot be written: {error}");
                if self.give_up(id, &reason) {
                    fatal(FatalReason::Checkpoint, &reason);
                }
            }
        }
    }

    fn confirm_step(&mut self, id: DirectoryId, from: usize, budget: &mut StepBudget) -> Progress {
        let Some(directory) = self.directories.get_mut(id.place()) else {
            return Progress::Done;
        };
        let checkpoints = &mut directory.checkpoints;
        let covered = checkpoints.covered.get(from..).unwrap_or_default();
        for (at, (key, term)) in covered.iter().enumerate() {
            if !budget.take() {
                checkpoints.state = State::Confirming(from + at);
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
        self.directories.first().is_some_and(|home| {
            home.checkpoints.has_group_zero
                && matches!(home.checkpoints.state, State::Resting | State::Confirming(_))
        })
    }
}
