//! Partitions that are copies of logs elsewhere: their batches have offsets, with gaps between them, and epochs.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidelog_segment_log::batch::BatchHeader;
use tidelog_segment_log::ids::{LeaderEpoch, Offset};
use tidelog_segment_log::log::AppendError;

use super::super::{Verdict, batches};
use super::World;

/// More offsets than a batch could count.
const WIDE_GAP: i64 = 1 << 33;

/// The log that a partition is a copy of.
#[derive(Debug, Default)]
pub(super) struct Source {
    epoch: LeaderEpoch,
    /// As they are stored, by base offset.
    batches: BTreeMap<i64, Bytes>,
    end: i64,
}

impl Source {
    /// Another leader goes on from there, with other batches.
    pub(super) fn goes_on_at(&mut self, end: Offset, epoch: LeaderEpoch) {
        self.batches.retain(|_, stored| {
            let batch = BatchHeader::parse(stored);
            batch.is_ok_and(|batch| batch.last_offset() < end)
        });
        self.end = end.0;
        self.epoch = self.epoch.max(epoch);
    }

    /// A leader above all before.
    pub(super) fn next_epoch(&self) -> LeaderEpoch {
        LeaderEpoch(self.epoch.0 + 1)
    }
}

impl World {
    /// The copy takes the next batch of its source: one that a crash took from it, or a new one.
    pub(super) fn mirror(&mut self, at: usize, new: &Bytes) -> Verdict {
        let Some(log) = self.shards.logs.at(at) else {
            return Ok(());
        };
        let log_end = log.log_end_offset();
        let source = &mut self.sources[at];
        let had = source.batches.range(log_end.0..).next();
        let had = had.map(|(_, stored)| stored.clone());
        self.events.note_if(had.is_some(), "a batch mirrored again");
        let stored = match had {
            Some(stored) => stored,
            None => {
                let gap = match self.rng.index(40) {
                    0 => WIDE_GAP,
                    1..8 => 1 + self.rng.below(40) as i64,
                    _ => 0,
                };
                if self.rng.index(30) == 0 {
                    source.epoch.0 += 1 + self.rng.index(3) as i32;
                }
                let base = source.end.max(log_end.0) + gap;
                let stored = batches::stored(new, Offset(base), source.epoch);
                let batch = BatchHeader::parse(&stored).map_err(|error| error.to_string())?;
                source.end = batch.last_offset().0 + 1;
                source.batches.insert(base, stored.clone());
                self.events
                    .note_if(base > log_end.0, "a gap between mirrored batches");
                stored
            }
        };
        match log.append_assigned(self.now_ms, &mut self.disk.running(), &stored) {
            Ok(appended) => self.sends[at].mirrored(stored, log_end, &appended),
            // The log wrote something of its own under an epoch that it raised: only a later leader goes on.
            Err(AppendError::EpochFalls { lowest, .. }) => {
                self.events.note("an epoch below that of the copy", 1);
                source.goes_on_at(log_end, lowest);
                Ok(())
            }
            Err(error) => self.not_appended(error),
        }
    }
}
