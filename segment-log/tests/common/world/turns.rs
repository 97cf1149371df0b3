//! What the shards of a simulated broker do by themselves: turns of their loops, checkpoints, and what the disk
//! answers.

use std::task::Poll;

use tidelog_segment_log::checkpoint::Checkpoint;
use tidelog_segment_log::data_directory::write_checkpoint;
use tidelog_segment_log::disk::{Completion, Disk};

use super::super::Verdict;
use super::super::shards::root;
use super::{CHECKPOINT_SPACE, REMOVAL_SPACE, World};

impl World {
    pub(super) fn end_of_turn(&mut self) {
        self.shards.end_of_turn(self.now_ms, &mut self.disk.running());
    }

    pub(super) fn tick(&mut self) {
        self.shards.tick(self.now_ms, &mut self.disk.running());
    }

    pub(super) fn trim(&mut self) {
        let shard = self.rng.index(self.shards.groups.len());
        let budget = 1 + self.rng.index(4);
        self.shards.trim(shard, budget, &mut self.disk.running());
    }

    pub(super) fn begin_checkpoint(&mut self) {
        let (Some(data), None) = (&self.data, &self.checkpoint) else {
            return;
        };
        let partitions: Vec<_> = self.shards.logs.0.values().map(|log| log.checkpoint()).collect();
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
                if let (true, Some(log)) = (result.is_ok(), self.shards.logs.0.get_mut(&key))
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
            match (completion.token.0 >> 32) as u32 {
                CHECKPOINT_SPACE => self.step_checkpoint(vec![completion]),
                REMOVAL_SPACE => self.step_removal(vec![completion]),
                // Others are of a look or a listing that has ended.
                _ => drop(
                    self.shards
                        .on_completion(self.now_ms, &mut self.disk.running(), completion),
                ),
            }
        }
    }

    /// What the groups have to say.
    pub(super) fn hear(&mut self) -> Verdict {
        match self.shards.hear() {
            Ok(()) => Ok(()),
            // The process would end here.
            Err(_) => self.crash(),
        }
    }
}
