//! What clients do to a simulated broker.

use tidelog_segment_log::ids::Offset;
use tidelog_segment_log::log::{AppendError, LogStartError};
use tidelog_segment_log::producer_state::SequenceCheck;

use super::super::oracle::PRODUCERS;
use super::super::{Verdict, batches};
use super::{World, pick};

impl World {
    pub(super) fn append_some(&mut self) -> Verdict {
        for _ in 0..1 + self.rng.index(self.scenario.burst_max) {
            self.append()?;
        }
        Ok(())
    }

    fn append(&mut self) -> Verdict {
        let at = self.some_partition();
        let records = 1 + self.rng.index(3);
        let range = pick(&mut self.rng, self.scenario.value_bytes);
        let len = range.start + self.rng.index(range.len());
        self.next_value += 1;
        let mut value = vec![(self.next_value % 251) as u8; len];
        value.extend_from_slice(&self.next_value.to_le_bytes());
        let values: Vec<&[u8]> = (0..records).map(|_| value.as_slice()).collect();
        let producer = self.rng.index(PRODUCERS as usize) as i64;
        let batch = batches::sequenced(producer, self.next_value as i32, self.now_ms, &values);
        let Some(log) = self.shards.logs.at(at) else {
            return Ok(());
        };
        if self.scenario.mirrors {
            return self.mirror(at, &batch);
        }
        match log.append(self.now_ms, &mut self.disk.running(), &batch) {
            Ok(appended) => self.sends[at].appended(log, &batch, &appended),
            Err(error) => self.not_appended(error),
        }
    }

    pub(super) fn not_appended(&mut self, error: AppendError) -> Verdict {
        match error {
            AppendError::NoSpace => {
                self.events.note("an append that found the disk full", 1);
                Ok(())
            }
            AppendError::Backlogged | AppendError::Fenced => Ok(()),
            AppendError::TermNotDurable => {
                self.events.note("an append before the term was durable", 1);
                self.begin_checkpoint();
                Ok(())
            }
            other => Err(format!("append: {other}")),
        }
    }

    /// A producer sends again what it has no answer for.
    pub(super) fn retry(&mut self) -> Verdict {
        let at = self.some_partition();
        let last = self.sends[at].pending.last_key_value();
        let (Some((base, sent)), Some(log)) = (last.map(|(b, s)| (*b, s.clone())), self.shards.logs.at(at))
        else {
            return Ok(());
        };
        let last = sent.sequence + (sent.last - base) as i32;
        match log.producers().check(sent.producer_id, 0, sent.sequence, last) {
            SequenceCheck::Duplicate {
                base_offset,
                last_offset,
                ..
            } => {
                self.events.note("a batch sent again", 1);
                if base_offset.0 != base {
                    return Err(format!("the duplicate of {base} is called {base_offset}"));
                }
                if self.scenario.acks_duplicates_early || last_offset < log.high_watermark() {
                    self.sends[at].pending.remove(&base);
                    self.sends[at].acked.insert(base, sent);
                }
                Ok(())
            }
            // Its producer has sent more than is remembered.
            SequenceCheck::DuplicateTooOld => Ok(()),
            other => Err(format!("a retry is {other:?}")),
        }
    }

    /// Moves the log start, as far as any share of what may be deleted.
    pub(super) fn delete(&mut self) -> Verdict {
        let at = self.some_partition();
        let Some(log) = self.shards.logs.at(at) else {
            return Ok(());
        };
        let (start, watermark) = (log.log_start_offset().0, log.high_watermark().0);
        let span = (watermark - start).max(0) as u64;
        let to = start + self.rng.below(span / 3 + 2) as i64;
        match log.append_log_start(self.now_ms, &mut self.disk.running(), Offset(to)) {
            Ok(index) => {
                if to > watermark {
                    return Err(format!("{to} is above the high watermark {watermark}"));
                }
                if log.log_start_offset().0 != to {
                    return Err(format!("the log start is {}, not {to}", log.log_start_offset()));
                }
                self.events.note_if(to > start, "a log start that moved");
                self.sends[at].start_asked(index, to);
                Ok(())
            }
            Err(LogStartError::AboveHighWatermark { .. }) if to > watermark => {
                self.events.note("a log start above the high watermark", 1);
                Ok(())
            }
            Err(LogStartError::Append(
                AppendError::NoSpace
                | AppendError::Backlogged
                | AppendError::Fenced
                | AppendError::TermNotDurable,
            )) => Ok(()),
            Err(other) => Err(format!("log start: {other}")),
        }
    }

    pub(super) fn read_some(&mut self) -> Verdict {
        let at = self.some_partition();
        let Some(log) = self.shards.logs.at(at) else {
            return Ok(());
        };
        let (start, end) = (log.log_start_offset(), log.high_watermark());
        let from = Offset(start.0 + self.rng.below((end.0 - start.0).max(1) as u64) as i64);
        let max_bytes = 1 + self.rng.index(50_000);
        if from < end {
            self.sends[at].read(log, &mut self.disk.sim, from, end, max_bytes)?;
        }
        Ok(())
    }
}
