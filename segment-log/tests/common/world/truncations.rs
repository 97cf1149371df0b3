//! Truncations of partitions of a simulated broker, while the others go on.

use tidelog_segment_log::data_directory::DataDirectory;
use tidelog_segment_log::ids::{LeaderEpoch, Offset};
use tidelog_segment_log::log::{CloseProgress, Opening, Truncation};
use tidelog_segment_log::recovery::RecoveryOptions;

use super::super::Verdict;
use super::super::shards::key;
use super::{STEPS_MAX, World};

impl World {
    /// Cuts a partition behind some batch: it is closed in order, and opened again cut.
    pub(super) fn truncate(&mut self) -> Verdict {
        let at = self.some_partition();
        let Some(checkpoint) = self.close_one(at)? else {
            return Ok(());
        };
        let sends = &mut self.sends[at];
        if !sends.pending.is_empty() {
            return Err("closed with batches that are not durable".into());
        }
        let start = checkpoint.log_start.0;
        // Something that is served stays.
        let ends: Vec<i64> = sends
            .acked
            .values()
            .map(|sent| sent.last + 1)
            .filter(|end| *end > start)
            .collect();
        let end_offset = match ends.is_empty() {
            true => checkpoint.next_offset.0,
            false => ends[ends.len() - 1 - self.rng.index(ends.len().min(8))],
        };
        sends.cutting_to = Some(end_offset);
        let leader = self.sources[at].next_epoch();
        self.sources[at].goes_on_at(Offset(end_offset), leader);
        let journal = self.shards.live_journal(at);
        let mut to = Some(Truncation {
            epoch: LeaderEpoch(i32::MAX),
            end_offset: Offset(end_offset),
        });
        let Some(start_counter) = self.data.as_ref().map(DataDirectory::start_counter) else {
            return Err("no data directory".into());
        };
        let report = loop {
            let options = self.options(RecoveryOptions {
                term_floor: checkpoint.term,
                journal: journal.clone(),
                ..RecoveryOptions::default()
            });
            let mut spec = self.spec_with(at, Some(checkpoint.clone()), start_counter);
            spec.clean = to.is_some();
            if let Some(report) = self.open(at, Opening::truncating(spec, options, to.take()))? {
                break report;
            }
            self.events.note("a truncation that failed", 1);
        };
        drop(journal);
        self.events.note_if(report.truncated.is_some(), "a truncation");
        self.note_opening(at, &report, true);
        self.check(at, &report)?;
        self.shards.rejoin(at);
        self.hear()
    }

    /// Closes one log in order, and answers what its close did; `None` if it could not be.
    fn close_one(
        &mut self,
        at: usize,
    ) -> Result<Option<tidelog_segment_log::checkpoint::PartitionCheckpoint>, String> {
        for _ in 0..STEPS_MAX {
            let Some(log) = self.shards.logs.at(at) else {
                return Ok(None);
            };
            match log.close(self.now_ms, &mut self.disk.running()) {
                CloseProgress::Fenced => {
                    self.reopen_fenced()?;
                    return Ok(None);
                }
                CloseProgress::Pending => log.tick(self.now_ms, &mut self.disk.running()),
                CloseProgress::Closed(checkpoint) => {
                    if !self.shards.is_in_flight(at) {
                        self.observe()?;
                        self.shards.logs.0.remove(&key(at));
                        return Ok(Some(*checkpoint));
                    }
                }
            }
            self.disk.release();
            let life = self.lives;
            self.pump(1)?;
            self.observe()?;
            if life != self.lives {
                return Ok(None);
            }
        }
        Err("a close before a truncation does not end".into())
    }
}
