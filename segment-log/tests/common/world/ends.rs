//! How a life of a simulated broker ends, and what may happen to its files before the next one.

use std::path::PathBuf;

use tidelog_segment_log::checkpoint::{Checkpoint, PartitionCheckpoint};
use tidelog_segment_log::data_directory::write_checkpoint;
use tidelog_segment_log::disk::DiskOp;
use tidelog_segment_log::disk::DiskOutput;
use tidelog_segment_log::log::CloseProgress;

use super::super::Verdict;
use super::super::disk::{Stepping, do_now, names};
use super::super::shards::{directory, root};
use super::{CHECKPOINT_SPACE, STEPS_MAX, World};

impl World {
    pub(super) fn stop_in_order(&mut self) -> Verdict {
        for _ in 0..STEPS_MAX {
            let mut closed = Vec::new();
            for at in 0..self.scenario.partitions {
                let Some(log) = self.shards.logs.at(at) else {
                    return Ok(());
                };
                match log.close(self.now_ms, &mut self.disk.running()) {
                    CloseProgress::Fenced => return self.stop_failed(),
                    // A full disk is asked again each tick.
                    CloseProgress::Pending => log.tick(self.now_ms, &mut self.disk.running()),
                    CloseProgress::Closed(checkpoint) => closed.push(*checkpoint),
                }
            }
            self.observe()?;
            let all = closed.len() == self.scenario.partitions;
            let settled = all && self.checkpoint.is_none() && self.removal.is_none();
            if settled && self.shards.close_groups(&mut self.disk.sim) {
                return self.mark_clean_and_start(closed);
            }
            let life = self.lives;
            self.pump(1)?;
            if life != self.lives {
                return Ok(());
            }
        }
        Err(format!("a close does not end:{}", self.what_is_open()))
    }

    /// A log was fenced: the directory is not marked clean.
    fn stop_failed(&mut self) -> Verdict {
        self.events.note("a stop that ended in a fence", 1);
        // A log alone can be opened again, and then it is not closing any more.
        if self.shards.groups.is_empty() && self.scenario.partitions == 1 {
            self.observe()?;
            return self.reopen_fenced();
        }
        self.crash()
    }

    fn what_is_open(&mut self) -> String {
        let mut left = String::new();
        for (key, log) in &mut self.shards.logs.0 {
            let closing = log.close(self.now_ms, &mut self.disk.sim);
            left += &format!(
                " {}: closed {}, status {:?}, committing {}, wanted {:?}, waits {};",
                key.partition,
                matches!(closing, CloseProgress::Closed(_)),
                log.status(),
                log.is_committing(),
                log.commit_wanted(),
                log.is_waiting_for_disk()
            );
        }
        left
    }

    fn mark_clean_and_start(&mut self, closed: Vec<PartitionCheckpoint>) -> Verdict {
        if self.sends.iter().any(|sends| !sends.pending.is_empty()) {
            return Err("closed with batches that are not durable".into());
        }
        let Some(data) = self.data.take() else {
            return Err("no data directory".into());
        };
        let last = Checkpoint {
            start_counter: data.start_counter(),
            partitions: closed,
        };
        let disk = &mut Stepping(&mut self.disk.sim);
        let written = (0..2).all(|shard| {
            write_checkpoint(CHECKPOINT_SPACE, root(), shard, &last)
                .drive(disk)
                .is_ok()
        });
        let clean = written && data.mark_clean(disk).is_ok();
        drop(data);
        self.forget_process();
        self.was_cut = false;
        self.disk.sim.process_kill();
        self.events.note_if(clean, "a stop in order");
        if self.rng.coin() {
            self.damage_index_files();
        }
        self.start()
    }

    pub(super) fn crash(&mut self) -> Verdict {
        self.note_crash();
        self.forget_process();
        self.was_cut = false;
        match self.rng.index(3) {
            0 => {
                self.events.note("a power cut", 1);
                self.disk.sim.power_cut();
                self.was_cut = true;
            }
            1 => {
                self.events.note("a kill", 1);
                self.disk.sim.process_kill();
            }
            _ => {
                self.events.note("a kill and then a power cut", 1);
                self.disk.sim.process_kill();
                self.disk.sim.power_cut();
                self.was_cut = true;
            }
        }
        if self.rng.index(3) == 0 {
            self.damage_index_files();
        }
        self.start()
    }

    fn note_crash(&mut self) {
        let events = &mut self.events;
        events.note_if(
            self.checkpoint.is_some(),
            "a crash while a checkpoint was written",
        );
        for (at, sends) in self.sends.iter().enumerate() {
            events.note_if(
                !sends.pending.is_empty(),
                "a crash with batches that were not acknowledged",
            );
            let Some(log) = self.shards.logs.at(at) else {
                continue;
            };
            let is_beginning = log.checkpoint().segments.len() < log.segment_count();
            events.note_if(is_beginning, "a crash while a segment was begun");
            events.note_if(
                log.is_waiting_for_disk(),
                "a crash with operations of the log in flight",
            );
            events.note_if(
                sends.waits_for_start(log),
                "a crash with a log start that was not durable",
            );
        }
    }

    fn forget_process(&mut self) {
        for group in self.shards.groups.drain(..) {
            self.events.take_way(group.way());
            self.events
                .note("a journal file that failed", group.journal().failed_files());
        }
        self.shards.logs.0.clear();
        self.checkpoint = None;
        self.removal = None;
        self.data = None;
        self.disk.forget();
    }

    /// Index files may be lost, zeroed, torn or mixed up at any time.
    fn damage_index_files(&mut self) {
        if !self.scenario.damages_index_files {
            return;
        }
        for at in 0..self.scenario.partitions {
            let directory = directory(at);
            let Ok(names) = names(&mut self.disk.sim, &directory, ".index") else {
                continue;
            };
            let paths: Vec<PathBuf> = names.iter().map(|name| directory.join(name)).collect();
            for path in &paths {
                self.damage_index_file(path.clone(), &paths);
            }
        }
    }

    fn damage_index_file(&mut self, path: PathBuf, all: &[PathBuf]) {
        let disk = &mut self.disk.sim;
        match self.rng.index(6) {
            0 => drop(do_now(disk, DiskOp::Unlink { path })),
            1 => {
                if let Ok(DiskOutput::File(file)) = do_now(disk, DiskOp::Open { path }) {
                    let range = self.rng.below(40)..self.rng.below(400).max(40);
                    let _ = do_now(disk, DiskOp::ZeroRange { file, range });
                    self.events.note("an index file damaged", 1);
                }
            }
            2 => {
                let to = all[self.rng.index(all.len())].clone();
                let _ = do_now(disk, DiskOp::Rename { from: path, to });
            }
            3 => {
                let (byte, bit) = (self.rng.below(300), self.rng.index(8) as u8);
                let is_flipped = disk.flip_bit(&path, byte, bit).is_ok();
                self.events.note_if(is_flipped, "an index file damaged");
            }
            _ => {}
        }
    }
}
