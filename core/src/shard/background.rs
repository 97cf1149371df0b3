//! Background work of a shard: whatever costs more the more partitions or connections there are, in steps.
//!
//! Owned by the shard's thread. Jobs take turns, a step each; what a step may do is the loop's to say
//! ([`StepBudget`]). Invariants: a kind of job is queued once at most, and keeps by itself where it goes on.

use std::collections::VecDeque;
use std::ops::Bound;

use tidelog_net::Uuid;
use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::ids::PartitionKey;

use super::partitions::Outbox;
use super::{Effect, Now, Pending, Shard};
use crate::reactor::{Progress, StepBudget};

/// How often connections are looked at for idleness, milliseconds.
const IDLE_LOOK_MS: u64 = 1_000;

/// Jobs that wait for steps, first come first served.
#[derive(Debug)]
pub(super) struct JobQueue<J> {
    waiting: VecDeque<J>,
}

impl<J> Default for JobQueue<J> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
        }
    }
}

impl<J: Copy + PartialEq> JobQueue<J> {
    /// Queues a job, unless it is queued.
    pub(super) fn want(&mut self, job: J) {
        if !self.waiting.contains(&job) {
            self.waiting.push_back(job);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The job whose turn it is.
    fn next(&self) -> Option<J> {
        self.waiting.front().copied()
    }

    /// What the step of the job whose turn it was has answered.
    fn stepped(&mut self, progress: Progress) {
        if let Some(job) = self.waiting.pop_front()
            && progress == Progress::Pending
        {
            self.waiting.push_back(job);
        }
    }
}

/// What a shard has to do in steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Job {
    /// The tick of all partitions.
    TickPartitions,
    /// Log starts move by age and size.
    Retain,
    /// Idle connections are closed, parked fetches counted.
    LookAtConnections,
    /// A metadata image.
    ApplyImage,
    /// Leader epochs of topics that are gone.
    ForgetEpochs,
    /// The checkpoint.
    Checkpoint,
    /// Files of a journal that are let go.
    TrimJournal,
}

/// Where the look at connections and the one at leader epochs go on.
#[derive(Default)]
pub(super) struct Looks {
    next_slot: usize,
    parked: usize,
    is_idle_look: bool,
    idle_look_ms: u64,
    /// Fetches that wait, as the last whole look counted them.
    pub(super) counted_parked: usize,
    epochs_after: Option<PartitionKey>,
}

impl Shard {
    /// Whether there is background work.
    pub fn has_background(&self) -> bool {
        !self.jobs.is_empty()
    }

    /// Whether a step left something that a turn carries out.
    pub fn wants_turn(&self) -> bool {
        !(self.effects.is_empty() && self.answers.is_empty() && self.wakes.is_empty())
            || self.partitions.wants_turn()
    }

    /// Goes on with the background work. Done: a job has ended.
    pub fn step(&mut self, now: Now, disk: &mut dyn Disk, budget: &mut StepBudget) -> Progress {
        let mut any = Progress::Pending;
        while let Some(job) = self.jobs.next() {
            let progress = self.step_job(job, now, disk, budget);
            self.jobs.stepped(progress);
            if progress == Progress::Pending {
                return any;
            }
            any = Progress::Done;
        }
        any
    }

    fn step_job(&mut self, job: Job, now: Now, disk: &mut dyn Disk, budget: &mut StepBudget) -> Progress {
        match job {
            Job::TrimJournal => self.partitions.trim_step(disk, budget),
            Job::TickPartitions => self.partitions.tick_step(now, disk, budget, &self.metrics),
            Job::Retain => self.partitions.retain_step(now, disk, budget, &self.metrics),
            Job::LookAtConnections => self.look_at_connections(now, budget),
            Job::ForgetEpochs => self.forget_epochs(budget),
            Job::ApplyImage => {
                let outbox = Outbox {
                    answers: &mut self.answers,
                    wakes: &mut self.wakes,
                };
                let progress = self.partitions.apply_step(now, disk, budget, outbox);
                if progress == Progress::Done && self.partitions.take_topics_gone() {
                    self.jobs.want(Job::ForgetEpochs);
                }
                progress
            }
            Job::Checkpoint => {
                let control = self.control.as_ref();
                let group_zero = || control.and_then(|control| Some(control.log()?.checkpoint()));
                self.partitions.checkpoint_step(disk, budget, group_zero)
            }
        }
    }

    /// Closes connections that asked nothing for too long, once a second, and counts the fetches that wait. A
    /// connection that waits for an answer is not idle.
    fn look_at_connections(&mut self, now: Now, budget: &mut StepBudget) -> Progress {
        let looks = &mut self.looks;
        if looks.next_slot == 0 && now.monotonic_ms >= looks.idle_look_ms {
            looks.idle_look_ms = now.monotonic_ms + IDLE_LOOK_MS;
            looks.is_idle_look = true;
        }
        let timeout_ms = self.settings.connection_idle_timeout_ms;
        for slot in looks.next_slot..self.connections.slot_count() {
            if !budget.take() {
                looks.next_slot = slot;
                return Progress::Pending;
            }
            let Some((socket, connection)) = self.connections.at(slot) else {
                continue;
            };
            let idle_ms = now.monotonic_ms.saturating_sub(connection.active_ms);
            if looks.is_idle_look && connection.is_idle() && idle_ms >= timeout_ms {
                self.metrics.connections_idle_closed.increment();
                self.effects.push(Effect::Close(socket));
            }
            let waits = |id: &&u64| match self.pending.get(id) {
                Some(Pending::Fetch(fetch)) => fetch.is_waiting(),
                _ => false,
            };
            looks.parked += connection.fetches.iter().filter(waits).count();
        }
        looks.counted_parked = std::mem::take(&mut looks.parked);
        (looks.next_slot, looks.is_idle_look) = (0, false);
        Progress::Done
    }

    /// Drops the leader epochs of topics that are gone.
    fn forget_epochs(&mut self, budget: &mut StepBudget) -> Progress {
        let from = self.looks.epochs_after.map_or(Bound::Unbounded, Bound::Excluded);
        let (mut gone, mut last) = (Vec::new(), None);
        let mut progress = Progress::Done;
        for key in self
            .leader_epochs
            .range((from, Bound::Unbounded))
            .map(|(key, _)| key)
        {
            if !budget.take() {
                progress = Progress::Pending;
                break;
            }
            last = Some(*key);
            if self.image.topic_by_id(Uuid::from_bytes(key.topic.0)).is_none() {
                gone.push(*key);
            }
        }
        for key in gone {
            self.leader_epochs.remove(&key);
        }
        self.looks.epochs_after = match progress {
            Progress::Pending => last.or(self.looks.epochs_after),
            Progress::Done => None,
        };
        progress
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs steps of `items` items over jobs of the given sizes; which job each step went on with.
    fn run(sizes: &[u32], items: u32) -> Vec<usize> {
        let mut left = sizes.to_vec();
        let mut queue = JobQueue::default();
        (0..sizes.len()).for_each(|job| queue.want(job));
        let mut order = Vec::new();
        while let Some(job) = queue.next() {
            order.push(job);
            let mut budget = StepBudget::items(items);
            while left[job] > 0 && budget.take() {
                left[job] -= 1;
            }
            let is_done = left[job] == 0;
            queue.stepped(if is_done {
                Progress::Done
            } else {
                Progress::Pending
            });
            assert!(order.len() < 1_000, "the queue comes to an end");
        }
        assert!(left.iter().all(|left| *left == 0), "all is done");
        order
    }

    #[test]
    fn jobs_take_turns_and_end() {
        assert_eq!(run(&[5, 1, 3], 2), [0, 1, 2, 0, 2, 0]);
        assert_eq!(run(&[0, 0], 2), [0, 1]);
    }

    #[test]
    fn a_long_job_keeps_no_other_waiting() {
        let order = run(&[900, 2], 1);
        assert_eq!(order.iter().rposition(|job| *job == 1), Some(3));
    }

    #[test]
    fn a_job_is_queued_once() {
        let mut queue = JobQueue::default();
        for job in [1, 2, 1, 2] {
            queue.want(job);
        }
        queue.stepped(Progress::Pending);
        queue.want(1);
        assert_eq!(queue.waiting, [2, 1]);
        queue.stepped(Progress::Done);
        queue.want(2);
        assert_eq!(queue.waiting, [1, 2], "and again when it has ended");
    }
}
