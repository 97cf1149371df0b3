//! What was sent to one partition, and what of it must be there.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tidelog_segment_log::batch::BatchHeader;
use tidelog_segment_log::disk::ReadSource;
use tidelog_segment_log::disk::sim::SimDisk;
use tidelog_segment_log::ids::{EntryIndex, Offset};
use tidelog_segment_log::log::{PartitionLog, ReadPart, verify_cold};
use tidelog_segment_log::producer_state::{ProducerBatch, ProducerStates};
use tidelog_segment_log::recovery::RecoveryReport;

pub type Verdict = Result<(), String>;

#[derive(Clone, Debug)]
pub struct Sent {
    pub last: i64,
    pub stored: Bytes,
    /// As the client sent it.
    pub sequence: i32,
    pub producer_id: i64,
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
    /// Everything ever appended: what may be served.
    pub ever: BTreeSet<(i64, Bytes)>,
    pub given_out: BTreeSet<(i32, i64)>,
    /// Log starts asked for in this life of the log, each with the index that makes it durable.
    pub starts_asked: Vec<(EntryIndex, i64)>,
    pub start_acked: i64,
    pub start_max: i64,
}

impl Sends {
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
        if start.0 < self.start_acked || start.0 > self.start_max {
            return Err(format!(
                "the log starts at {start}, not from {} to {}",
                self.start_acked, self.start_max
            ));
        }
        self.start_acked = start.0;
        self.starts_asked.clear();
        let served = self.read(log, disk, start, end, usize::MAX)?;
        for (base, sent) in self.acked.iter().filter(|(_, sent)| sent.last >= start.0) {
            if served.get(base) != Some(&sent.stored) {
                return Err(format!("acked batch at offset {base} is lost ({report:?})"));
            }
        }
        let mut next = served.keys().next().map_or(start.0, |base| start.0.min(*base));
        let known: BTreeMap<i64, Sent> = self
            .pending
            .iter()
            .chain(&self.acked)
            .map(|(b, s)| (*b, s.clone()))
            .collect();
        for (base, stored) in &served {
            if *base != next {
                return Err(format!("offset {next} is missing"));
            }
            let batch = BatchHeader::parse(stored).map_err(|error| error.to_string())?;
            next = batch.last_offset().0 + 1;
            let sent = known.get(base).filter(|sent| sent.stored == *stored);
            let sent = sent.cloned().unwrap_or(Sent {
                last: batch.last_offset().0,
                stored: stored.clone(),
                sequence: batch.base_sequence,
                producer_id: batch.producer_id,
            });
            self.acked.insert(*base, sent);
        }
        if next != end.0 {
            return Err(format!("the log ends at {next}, not at {end}"));
        }
        self.pending.clear();
        self.check_producers(log, start.0, &served)
    }

    /// What the log remembers of producers is what its batches say.
    fn check_producers(&self, log: &PartitionLog, start: i64, served: &BTreeMap<i64, Bytes>) -> Verdict {
        let below = self.acked.iter().filter(|(_, sent)| sent.last < start);
        let mut all: BTreeMap<i64, Bytes> = below.map(|(base, sent)| (*base, sent.stored.clone())).collect();
        all.extend(served.iter().map(|(base, stored)| (*base, stored.clone())));
        let mut producers = ProducerStates::new();
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
        }
        if *log.producers() != producers {
            return Err(format!("producers are {:?}, not {producers:?}", log.producers()));
        }
        Ok(())
    }

    /// Reads through plans, whatever they are; every batch must be one that was appended.
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
            let plan = log
                .read(disk, at, below, max_bytes)
                .map_err(|error| error.to_string())?;
            let before = at;
            for part in plan.parts {
                let batches: Vec<Bytes> = match part {
                    ReadPart::Hot(pieces) => {
                        pieces.iter().map(|piece| Bytes::copy_from_slice(piece)).collect()
                    }
                    ReadPart::Cold(range) => {
                        let file = disk
                            .snapshot(range.file.path(), ReadSource::Cached)
                            .map_err(|error| format!("a planned file: {error}"))?;
                        let bytes = &file[range.position.start as usize..range.position.end as usize];
                        let found = verify_cold(&range, bytes).map_err(|error| error.to_string())?;
                        found
                            .into_iter()
                            .map(|at| Bytes::copy_from_slice(&bytes[at]))
                            .collect()
                    }
                };
                for stored in batches {
                    let batch = BatchHeader::parse(&stored).map_err(|error| error.to_string())?;
                    if !self.ever.contains(&(batch.base_offset.0, stored.clone())) {
                        return Err(format!(
                            "offset {} serves what was never appended",
                            batch.base_offset
                        ));
                    }
                    at = Offset(batch.last_offset().0 + 1);
                    served.insert(batch.base_offset.0, stored);
                }
            }
            if at == before {
                return Err(format!("nothing is served at offset {at}, below {below}"));
            }
            if max_bytes != usize::MAX {
                break;
            }
        }
        Ok(served)
    }
}
