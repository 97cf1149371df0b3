//! What was sent to one partition, and what of it must be there.
//!
//! A batch whose offset passed the durable offset is there for good, under its offset and with its bytes; so is a
//! log start; nothing is served that was not appended, and nothing is left out between two batches but the offsets
//! that were left out when the second one was appended; no offset is given out twice under one leader epoch; and what
//! a log derived from its batches, wherever an open had it from, is what they say.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tidelog_segment_log::batch::BatchHeader;
use tidelog_segment_log::disk::sim::SimDisk;
use tidelog_segment_log::ids::{EntryIndex, Offset};
use tidelog_segment_log::log::{Appended, PartitionLog};
use tidelog_segment_log::producer_state::{ProducerBatch, ProducerStates};
use tidelog_segment_log::recovery::RecoveryReport;

use super::{Verdict, batches, reads};

/// Producers of a simulation: ids from 0 on.
pub const PRODUCERS: i64 = 5;

#[derive(Clone, Debug)]
pub struct Sent {
    pub last: i64,
    pub stored: Bytes,
    /// As the client sent it.
    pub sequence: i32,
    pub producer_id: i64,
}

impl Sent {
    fn new(batch: &BatchHeader, stored: Bytes) -> Self {
        Self {
            last: batch.last_offset().0,
            stored,
            sequence: batch.base_sequence,
            producer_id: batch.producer_id,
        }
    }
}

/// See the file's head.
#[derive(Debug, Default)]
pub struct Sends {
    /// Its files may be there.
    pub created: bool,
    /// Appended in this life of the log and not seen to be durable: by base offset.
    pub pending: BTreeMap<i64, Sent>,
    /// Seen to be durable: must be there for good.
    pub acked: BTreeMap<i64, Sent>,
    /// Everything ever appended: what may be served, and where the log ended before each.
    ever: BTreeMap<(i64, Bytes), i64>,
    given_out: BTreeSet<(i32, i64)>,
    /// Log starts asked for in this life of the log, each with the index that makes it durable.
    starts_asked: Vec<(EntryIndex, i64)>,
    /// The log start that was seen to be durable, and the highest that may be found.
    start_acked: i64,
    /// A truncation to this offset was begun: the next open finds the log whole or cut.
    pub cutting_to: Option<i64>,
    was_cut: bool,
    start_max: i64,
}

impl Sends {
    /// A batch was taken: its offsets are its own under this epoch.
    pub fn appended(&mut self, log: &PartitionLog, batch: &Bytes, appended: &Appended) -> Verdict {
        let epoch = log.leader_epoch();
        let stored = batches::stored(batch, appended.base_offset, epoch);
        for offset in appended.base_offset.0..=appended.last_offset.0 {
            if !self.given_out.insert((epoch.0, offset)) {
                return Err(format!("offset {offset} twice under epoch {epoch}"));
            }
        }
        self.note(stored, appended.base_offset)
    }

    /// A batch was taken that had its offset and epoch, behind a log that ended at `follows`.
    pub fn mirrored(&mut self, stored: Bytes, follows: Offset, appended: &Appended) -> Verdict {
        let batch = BatchHeader::parse(&stored).map_err(|error| error.to_string())?;
        if (appended.base_offset, appended.last_offset) != (batch.base_offset, batch.last_offset()) {
            return Err(format!(
                "a batch for offset {} went to {appended:?}",
                batch.base_offset
            ));
        }
        self.note(stored, follows)
    }

    fn note(&mut self, stored: Bytes, follows: Offset) -> Verdict {
        let batch = BatchHeader::parse(&stored).map_err(|error| error.to_string())?;
        let base = batch.base_offset.0;
        self.ever.insert((base, stored.clone()), follows.0);
        self.pending.insert(base, Sent::new(&batch, stored));
        Ok(())
    }

    /// The log start moves to `start`, durably once the entry at `index` is.
    pub fn start_asked(&mut self, index: EntryIndex, start: i64) {
        self.start_max = self.start_max.max(start);
        self.starts_asked.push((index, start));
    }

    /// Whether a log start that was asked for is not durable yet.
    pub fn waits_for_start(&self, log: &PartitionLog) -> bool {
        self.starts_asked
            .iter()
            .any(|(index, _)| *index > log.durable_index())
    }

    /// What became durable is acked from here on.
    pub fn observe(&mut self, log: &PartitionLog) -> Verdict {
        let durable = log.durable_offset().0;
        for (index, start) in &self.starts_asked {
            if *index <= log.durable_index() {
                self.start_acked = self.start_acked.max(*start);
            }
        }
        if log.log_start_offset() > log.high_watermark() || log.high_watermark() > log.log_end_offset() {
            return Err("log start <= high watermark <= log end does not hold".into());
        }
        if log.settled_index() > log.durable_index() {
            return Err("more is settled than is durable".into());
        }
        while let Some(entry) = self.pending.first_entry() {
            if entry.get().last >= durable {
                break;
            }
            let (base, sent) = entry.remove_entry();
            self.acked.insert(base, sent);
        }
        Ok(())
    }

    /// What was cut is not served again.
    fn cut_to(&mut self, end: i64) {
        self.was_cut = true;
        self.acked.retain(|base, _| *base < end);
        self.ever.retain(|(base, _), _| *base < end);
    }

    /// After an open everything in the log is durable, and everything that was durable is in it.
    pub fn check_after_open(
        &mut self,
        log: &mut PartitionLog,
        disk: &mut SimDisk,
        report: &RecoveryReport,
    ) -> Verdict {
        if !report.quarantined.is_empty() {
            return Err(format!("damage where none was done: {:?}", report.quarantined));
        }
        let (start, end) = (log.log_start_offset(), log.high_watermark());
        if self.cutting_to.take() == Some(end.0) {
            self.cut_to(end.0);
        }
        if start.0 < self.start_acked || start.0 > self.start_max {
            return Err(format!(
                "the log starts at {start}, not from {} to {}",
                self.start_acked, self.start_max
            ));
        }
        // What an open found is durable.
        self.start_acked = start.0;
        self.starts_asked.clear();
        let served = self.read(log, disk, start, end, usize::MAX)?;
        for (base, sent) in self.acked.iter().filter(|(_, sent)| sent.last >= start.0) {
            if served.get(base) != Some(&sent.stored) {
                return Err(format!("acked batch at offset {base} is lost ({report:?})"));
            }
        }
        let mut next = start.0;
        for (at, (base, stored)) in served.iter().enumerate() {
            let follows = self.ever.get(&(*base, stored.clone())).copied().unwrap_or(*base);
            // The first batch, or what it follows, may begin in front of the start.
            if follows != next && (at > 0 || follows > next) {
                return Err(format!(
                    "the batch at offset {base} followed offset {follows}, now it follows {next}"
                ));
            }
            let batch = BatchHeader::parse(stored).map_err(|error| error.to_string())?;
            next = batch.last_offset().0 + 1;
            self.acked.insert(*base, Sent::new(&batch, stored.clone()));
        }
        if next != end.0 {
            return Err(format!("the log ends at {next}, not at {end}"));
        }
        self.pending.clear();
        self.check_what_is_derived(log, start.0, &served)
    }

    /// Producers and timestamps, wherever the open had them from, are those of the batches.
    fn check_what_is_derived(
        &self,
        log: &PartitionLog,
        start: i64,
        served: &BTreeMap<i64, Bytes>,
    ) -> Verdict {
        // What lies below the start is still in the files, or was when something was derived from it.
        let below = self.acked.iter().filter(|(_, sent)| sent.last < start);
        let mut all: BTreeMap<i64, Bytes> = below.map(|(base, sent)| (*base, sent.stored.clone())).collect();
        all.extend(served.iter().map(|(base, stored)| (*base, stored.clone())));
        let mut producers = ProducerStates::new();
        let mut newest: Option<(i64, Offset)> = None;
        for stored in all.values() {
            let batch = BatchHeader::parse(stored).map_err(|error| error.to_string())?;
            let remembered = ProducerBatch {
                first_sequence: batch.base_sequence,
                last_sequence: batch.last_sequence(),
                base_offset: batch.base_offset,
                last_offset: batch.last_offset(),
                timestamp: batch.max_timestamp,
            };
            producers.record(batch.producer_id, batch.producer_epoch, remembered);
            if newest.is_none_or(|(highest, _)| batch.max_timestamp > highest) {
                newest = Some((batch.max_timestamp, batch.base_offset));
            }
        }
        if !self.knows_producers(log.producers(), &producers, start) {
            return Err(format!("producers are {:?}, not {producers:?}", log.producers()));
        }
        if log.max_timestamp() != newest {
            return Err(format!("{:?} is not {newest:?}", log.max_timestamp()));
        }
        Ok(())
    }

    /// A log remembers the last batches of each producer. After a cut those are others, and what lies below the log
    /// start may be gone with its segments.
    fn knows_producers(&self, found: &ProducerStates, all: &ProducerStates, start: i64) -> bool {
        let is_known = |producer: i64| {
            let (found, all) = (found.batches(producer), all.batches(producer));
            let gone = all.len().saturating_sub(found.len());
            let may_be_gone = all.iter().take(gone).all(|batch| batch.last_offset.0 < start);
            may_be_gone && all.get(gone..) == Some(found)
        };
        found == all || (self.was_cut && (0..PRODUCERS).all(is_known))
    }

    /// Reads, all of it or once; every batch must be one that was appended.
    pub fn read(
        &self,
        log: &mut PartitionLog,
        disk: &mut SimDisk,
        from: Offset,
        below: Offset,
        max_bytes: usize,
    ) -> Result<BTreeMap<i64, Bytes>, String> {
        let mut served = BTreeMap::new();
        let mut at = from;
        while at < below {
            for (batch, stored) in reads::read_once(log, disk, at, below, max_bytes)? {
                let base = batch.base_offset;
                if !self.ever.contains_key(&(base.0, stored.clone())) {
                    return Err(format!("offset {base} serves what was never appended"));
                }
                at = Offset(batch.last_offset().0 + 1);
                served.insert(base.0, stored);
            }
            if max_bytes != usize::MAX {
                break;
            }
        }
        Ok(served)
    }
}
