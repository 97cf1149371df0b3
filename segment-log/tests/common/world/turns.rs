//! What the shards of a simulated broker do by themselves: turns of their loops, checkpoints, and what the disk
//! answers.

use std::task::Poll;

use tidelog_segment_log::checkpoint::Checkpoint;
use tidelog_segment_log::data_directory::write_checkpoint;
use tidelog_segment_log::disk::{Completion, Disk};
use tidelog_segment_log::journal::{GroupCommit, GroupEvent};

use super::super::Verdict;
use super::{CHECKPOINT_SPACE, JOURNAL_SPACE, LOG_SPACE, REMOVAL_SPACE, World, key, root};

impl World {
    pub(super) fn end_of_turn(&mut self) {
        for at in 0..self.scenario.partitions {
            let shard = self.shard_of(at);
            if let Some(log) = self.logs.at(at) {
                log.flush(self.now_ms, &mut self.disk.running());
                if let Some(group) = self.groups.get_mut(shard) {
                    group.note(key(at));
                }
            }
        }
        for group in &mut self.groups {
            group.commit(self.now_ms, &mut self.disk.running(), &mut self.logs);
        }
    }

    pub(super) fn tick(&mut self) {
        for log in self.logs.0.values_mut() {
            log.tick(self.now_ms, &mut self.disk.running());
        }
        self.groups.iter_mut().for_each(GroupCommit::tick);
    }

    pub(super) fn trim(&mut self) {
        let shard = self.rng.index(self.groups.len());
        let mut budget = 1 + self.rng.index(4);
        if let Some(group) = self.groups.get_mut(shard).filter(|group| group.wants_trim()) {
            group.trim_step(&mut self.disk.running(), &mut self.logs, || {
                let some = budget > 0;
                budget -= usize::from(some);
                some
            });
        }
    }

    pub(super) fn begin_checkpoint(&mut self) {
        let (Some(data), None) = (&self.data, &self.checkpoint) else {
            return;
        };
        let partitions: Vec<_> = self.logs.0.values().map(|log| log.checkpoint()).collect();
        self.checkpoint_terms = partitions.iter().map(|p| (p.key, p.term.0)).collect();
        let checkpoint = Checkpoint {
            start_counter: data.start_counter(),
            partitions,
        };
        let shard = self.rng.index(2) as u32;
        self.checkpoint = Some(write_checkpoint(CHECKPOINT_SPACE, root(), shard, &checkpoint));
        self.step_checkpoint(Vec::new());
    }

    fn step_checkpoint(&mut self, completions: Vec<Completion>) {
        if let Some(machine) = self.checkpoint.as_mut()
            && let Poll::Ready(result) = machine.step(&mut self.disk.sim, completions)
        {
            self.checkpoint = None;
            for (key, term) in std::mem::take(&mut self.checkpoint_terms) {
                if let (true, Some(log)) = (result.is_ok(), self.logs.0.get_mut(&key))
                    && log.leader_epoch().0 == term
                {
                    log.confirm_term();
                }
            }
        }
    }

    pub(super) fn step_removal(&mut self, completions: Vec<Completion>) {
        if let Some(machine) = self.removal.as_mut()
            && machine.step(&mut self.disk.sim, completions).is_ready()
        {
            self.removal = None;
        }
    }

    pub(super) fn pump(&mut self, count: usize) -> Verdict {
        for _ in 0..count {
            if self.disk.holds_some() && self.rng.index(5_000) == 0 {
                self.disk.release();
            }
            self.disk.sim.advance();
            let mut completions = Vec::new();
            self.disk.sim.take_completions(&mut completions);
            self.route(completions);
            self.hear()?;
        }
        Ok(())
    }

    /// Hands completions to whom they belong.
    pub(super) fn route(&mut self, completions: Vec<Completion>) {
        for completion in completions {
            let space = (completion.token.0 >> 32) as u32;
            if space == CHECKPOINT_SPACE {
                self.step_checkpoint(vec![completion]);
            } else if space == REMOVAL_SPACE {
                self.step_removal(vec![completion]);
            } else if (JOURNAL_SPACE..REMOVAL_SPACE).contains(&space) {
                if let Some(group) = self.groups.get_mut((space - JOURNAL_SPACE) as usize) {
                    group.on_completion(&mut self.disk.running(), completion);
                }
            } else if space >= LOG_SPACE
                && let Some(log) = self.logs.at((space - LOG_SPACE) as usize)
            {
                log.on_completion(self.now_ms, &mut self.disk.running(), completion);
            }
        }
    }

    /// What the groups have to say.
    pub(super) fn hear(&mut self) -> Verdict {
        for shard in 0..self.groups.len() {
            for event in self.groups[shard].take_events(&mut self.logs) {
                match event {
                    GroupEvent::Committed(_) => {}
                    // The process would end here.
                    GroupEvent::Failed(_) => return self.crash(),
                }
            }
        }
        Ok(())
    }
}
