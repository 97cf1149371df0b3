//! The list of batches that a log is compared with, and what is done to both.

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use tidelog_segment_log::batch::BatchHeader;
use tidelog_segment_log::ids::{LeaderEpoch, Offset};
use tidelog_segment_log::log::{AppendError, Appended, PartitionLog, ReadError, RetentionLimits, Truncation};
use tidelog_segment_log::recovery::RecoveryReport;

use crate::common::batches::{self, stored};
use crate::common::reads::{ReadRange, read_all};

pub type Holds = Result<(), TestCaseError>;

/// What is done to one log.
#[derive(Clone, Debug)]
pub enum Change {
    Append {
        records: usize,
        len: usize,
        behind_ms: i64,
    },
    /// A batch that has its offset and epoch: `gap` offsets behind the log, so many epochs above its own.
    AppendAssigned {
        records: usize,
        len: usize,
        gap: i64,
        epochs_above: i32,
    },
    /// Keeps so many bytes, or what is so old.
    Retain {
        size_bytes: Option<u64>,
        age_ms: Option<u64>,
    },
    ReadAll {
        max_bytes: usize,
    },
    /// To this share of what may be deleted, in thousandths.
    DeleteTo {
        share: i64,
        /// Until it is durable.
        waits: bool,
    },
    LookUpTimes {
        behind_ms: i64,
    },
}

pub fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        8 => (1usize..4, prop_oneof![4 => 0usize..600, 1 => 15_000usize..40_000], 0i64..3_000)
            .prop_map(|(records, len, behind_ms)| Change::Append { records, len, behind_ms }),
        3 => (
            1usize..4,
            prop_oneof![4 => 0usize..600, 1 => 3_000usize..9_000],
            0i64..500,
            prop_oneof![5 => Just(0), 1 => 1i32..3],
        )
            .prop_map(|(records, len, gap, epochs_above)| {
                Change::AppendAssigned { records, len, gap, epochs_above }
            }),
        2 => prop_oneof![
            (0u64..200_000).prop_map(|size_bytes| Change::Retain { size_bytes: Some(size_bytes), age_ms: None }),
            (0u64..20_000).prop_map(|age_ms| Change::Retain { size_bytes: None, age_ms: Some(age_ms) }),
        ],
        2 => (1usize..100_000).prop_map(|max_bytes| Change::ReadAll { max_bytes }),
        2 => (0i64..=1_000, any::<bool>()).prop_map(|(share, waits)| Change::DeleteTo { share, waits }),
        2 => (-500i64..4_000).prop_map(|behind_ms| Change::LookUpTimes { behind_ms }),
    ]
}

/// One log, wherever it lives.
pub trait Host {
    type Disk: ReadRange;
    fn parts(&mut self) -> (&mut PartitionLog, &mut Self::Disk);
    fn now_ms(&self) -> i64;
    /// Until all that was appended is durable, and the disk has nothing to do.
    fn settle(&mut self) -> Holds;
    fn tick(&mut self);
    /// How many files of segments it has.
    fn segment_files(&mut self) -> usize;
}

/// How a log that is open again was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    InOrder,
    /// By a kill, when all was durable and nothing was under way.
    AtRest,
    /// What was not durable may be gone, the last of it first.
    Killed,
}

/// See the file's head.
#[derive(Default)]
pub struct Model {
    /// All batches that were not cut off, as they are stored; those below the log start too.
    batches: Vec<Bytes>,
    /// The log start in force.
    start: Offset,
    /// So many batches were seen to be durable, and this log start.
    durable: usize,
    durable_start: Offset,
    /// Log starts that were in force since.
    starts: Vec<Offset>,
    /// The highest epoch that cannot be lost.
    epoch: LeaderEpoch,
    /// When it was opened it had so many batches, and ended here: behind the last one, where its epoch's end is not known.
    opened: (usize, Offset),
}

fn header(batch: &Bytes) -> BatchHeader {
    BatchHeader::parse(batch).expect("a batch")
}

/// The offset behind the last of them.
fn end_of(batches: &[Bytes]) -> Offset {
    let last = batches.last().map(|last| header(last).last_offset());
    last.map_or(Offset(0), |last| Offset(last.0 + 1))
}

/// Base offset, epoch and length of each, which is what a failure should show.
fn shapes(batches: &[Bytes]) -> Vec<(i64, i32, usize)> {
    let shape = |batch: &Bytes| {
        let header = header(batch);
        (header.base_offset.0, header.partition_leader_epoch.0, batch.len())
    };
    batches.iter().map(shape).collect()
}

impl Model {
    /// Where the log ends if it has so many of the batches.
    fn end_with(&self, count: usize) -> Offset {
        match self.opened {
            (opened, end) if opened == count => end,
            _ => end_of(&self.batches[..count]),
        }
    }

    /// Whether all that was done is known to be durable.
    pub fn is_durable(&self) -> bool {
        self.durable == self.batches.len() && self.durable_start == self.start
    }

    /// What is durable now cannot be lost.
    pub fn observe(&mut self, log: &PartitionLog) {
        let durable = log.durable_offset();
        let count = self
            .batches
            .partition_point(|batch| header(batch).last_offset() < durable);
        self.durable = self.durable.max(count);
        self.durable_start = self.durable_start.max(log.checkpoint().log_start);
        if let Some(last) = self.durable.checked_sub(1) {
            self.epoch = self.epoch.max(header(&self.batches[last]).partition_leader_epoch);
        }
        if log.log_start_offset() != self.start {
            self.start = log.log_start_offset();
            self.starts.push(self.start);
        }
    }

    /// The part that is served.
    fn served(&self) -> Vec<Bytes> {
        let is_served = |batch: &&Bytes| header(batch).last_offset() >= self.start;
        self.batches.iter().filter(is_served).cloned().collect()
    }

    /// All of a log that has nothing outstanding is what the list says.
    pub fn compare(&self, log: &mut PartitionLog, disk: &mut impl ReadRange, max_bytes: usize) -> Holds {
        prop_assert_eq!(log.log_start_offset(), self.start);
        prop_assert_eq!(log.log_end_offset(), self.end_with(self.batches.len()));
        prop_assert_eq!(log.high_watermark(), log.log_end_offset());
        let all = read_all(log, disk, max_bytes).map_err(TestCaseError::fail)?;
        let all: Vec<Bytes> = all.into_iter().map(|(_, stored)| stored).collect();
        let served = self.served();
        prop_assert_eq!(shapes(&all), shapes(&served));
        prop_assert!(all == served, "same shapes, other bytes");
        if self.start > Offset(0) {
            let below = log.read(disk, Offset(self.start.0 - 1), self.start, max_bytes);
            prop_assert!(
                matches!(below, Err(ReadError::BelowLogStart { .. })),
                "{:?}",
                below
            );
        }
        Ok(())
    }

    /// A log that was opened again: what was durable is there, and the list goes on from what is there.
    pub fn reopened(
        &mut self,
        log: &mut PartitionLog,
        disk: &mut impl ReadRange,
        report: &RecoveryReport,
        left: Left,
    ) -> Holds {
        prop_assert!(
            report.quarantined.is_empty(),
            "damage where none was done: {report:?}"
        );
        let had_all = self.is_durable();
        // A file that was being made is set aside.
        prop_assert!(
            left == Left::Killed || (had_all && report.set_aside.is_empty()),
            "{report:?}"
        );
        let (start, end) = (log.log_start_offset(), log.log_end_offset());
        let kept = self
            .batches
            .partition_point(|batch| header(batch).last_offset() < end);
        prop_assert!(
            kept >= self.durable,
            "of {} durable batches, {} are lost ({report:?})",
            self.durable,
            self.durable - kept
        );
        prop_assert!(start >= self.durable_start, "{start} < {}", self.durable_start);
        prop_assert!(
            start == self.durable_start || self.starts.contains(&start),
            "nobody asked for a log start of {start}"
        );
        prop_assert_eq!(end, self.end_with(kept));
        match left {
            Left::InOrder => {
                prop_assert!(report.clean, "{report:?}");
                prop_assert!(kept == self.batches.len() && start == self.start);
                prop_assert_eq!(log.leader_epoch(), self.epoch);
            }
            Left::AtRest | Left::Killed => prop_assert!(log.leader_epoch() > self.epoch),
        }
        self.batches.truncate(kept);
        self.settled_at(log);
        self.compare(log, disk, usize::MAX)
    }

    /// What an open has found is durable.
    fn settled_at(&mut self, log: &PartitionLog) {
        self.durable = self.batches.len();
        (self.start, self.durable_start) = (log.log_start_offset(), log.log_start_offset());
        self.starts.clear();
        self.epoch = log.leader_epoch();
        self.opened = (self.batches.len(), log.log_end_offset());
    }

    /// A log was opened for the first time.
    pub fn opened(&mut self, log: &PartitionLog) {
        self.epoch = log.leader_epoch();
    }

    /// A truncation behind this share of all offsets, or of all batches: then what comes behind that one's epoch goes.
    pub fn truncation(&self, log: &PartitionLog, share: usize, by_epoch: bool) -> Cut {
        let chosen = self
            .batches
            .get(self.batches.len().saturating_sub(1) * share / 1_000);
        let to = match (by_epoch, chosen) {
            (true, Some(chosen)) => Truncation {
                epoch: header(chosen).partition_leader_epoch,
                end_offset: Offset(i64::MAX),
            },
            _ => Truncation {
                epoch: log.leader_epoch(),
                end_offset: Offset(log.log_end_offset().0 * share as i64 / 1_000),
            },
        };
        let stays = |batch: &&Bytes| {
            let header = header(batch);
            header.last_offset() < to.end_offset && header.partition_leader_epoch <= to.epoch
        };
        let kept = self.batches.iter().take_while(stays).count();
        Cut {
            to,
            kept,
            end: self.end_with(kept),
        }
    }

    /// The truncation was refused: it lies below the log start, and has changed nothing.
    pub fn refused(&self, cut: &Cut, end_offset: Offset, log_start: Offset) -> Holds {
        prop_assert_eq!(log_start, self.start);
        let last = end_of(&self.batches[..cut.kept]);
        prop_assert!(last < self.start && end_offset < self.start);
        Ok(())
    }

    /// The log is open again, cut.
    pub fn truncated(
        &mut self,
        log: &mut PartitionLog,
        disk: &mut impl ReadRange,
        report: &RecoveryReport,
        cut: &Cut,
    ) -> Holds {
        prop_assert!(
            report.quarantined.is_empty() && report.set_aside.is_empty(),
            "{report:?}"
        );
        let cuts = cut.kept < self.batches.len();
        prop_assert!(!cuts || report.truncated.is_some(), "{report:?}");
        // A log does not end below its start, whatever lies between the last batch that stays and there.
        let end = cut.end.max(self.start);
        prop_assert_eq!(log.log_end_offset(), end);
        prop_assert!(
            report.truncated.is_none_or(|truncated| truncated == end),
            "{report:?}"
        );
        prop_assert_eq!(
            log.leader_epoch() > self.epoch,
            report.truncated.is_some() || !report.clean,
            "{:?}",
            report
        );
        prop_assert_eq!(log.log_start_offset(), self.start);
        self.batches.truncate(cut.kept);
        self.settled_at(log);
        self.compare(log, disk, usize::MAX)
    }

    /// Does it to the log and to the list.
    pub fn change(&mut self, host: &mut impl Host, change: &Change) -> Holds {
        match *change {
            Change::Append {
                records,
                len,
                behind_ms,
            } => {
                let now_ms = host.now_ms();
                let batch = batches::plain(records, len, now_ms - behind_ms);
                let (log, disk) = host.parts();
                let (epoch, expected) = (log.leader_epoch(), log.log_end_offset());
                let appended = log
                    .append(now_ms, disk, &batch)
                    .map_err(|error| TestCaseError::fail(error.to_string()))?;
                self.appended(log, appended, expected, stored(&batch, expected, epoch))
            }
            Change::AppendAssigned {
                records,
                len,
                gap,
                epochs_above,
            } => {
                let now_ms = host.now_ms();
                let (log, disk) = host.parts();
                let epoch = LeaderEpoch(log.leader_epoch().0 + epochs_above);
                let expected = Offset(log.log_end_offset().0 + gap);
                let batch = stored(&batches::plain(records, len, now_ms), expected, epoch);
                let appended = log
                    .append_assigned(now_ms, disk, &batch)
                    .map_err(|error| TestCaseError::fail(error.to_string()))?;
                let again = log.append_assigned(now_ms, disk, &batch);
                prop_assert!(
                    matches!(again, Err(AppendError::OffsetTaken { .. })),
                    "{:?}",
                    again
                );
                prop_assert_eq!(log.leader_epoch(), epoch);
                self.appended(log, appended, expected, batch)
            }
            Change::Retain { size_bytes, age_ms } => self.retain(host, size_bytes, age_ms),
            Change::ReadAll { max_bytes } => {
                host.settle()?;
                let (log, disk) = host.parts();
                self.observe(log);
                prop_assert!(self.is_durable());
                self.compare(log, disk, max_bytes)
            }
            Change::DeleteTo { share, waits } => self.delete(host, share, waits),
            Change::LookUpTimes { behind_ms } => {
                let timestamp_ms = host.now_ms() - behind_ms;
                self.check_times(host.parts().0, timestamp_ms)
            }
        }
    }

    fn appended(&mut self, log: &PartitionLog, got: Appended, expected: Offset, stored: Bytes) -> Holds {
        prop_assert_eq!(got.base_offset, expected);
        prop_assert_eq!(got.last_offset.0 + 1, log.log_end_offset().0);
        prop_assert_eq!(header(&stored).last_offset(), got.last_offset);
        self.batches.push(stored);
        Ok(())
    }

    /// Moves the log start.
    fn delete(&mut self, host: &mut impl Host, share: i64, waits: bool) -> Holds {
        let now_ms = host.now_ms();
        let (log, disk) = host.parts();
        let to = Offset(log.high_watermark().0 * share / 1_000);
        let index = log
            .append_log_start(now_ms, disk, to)
            .map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(log.log_start_offset(), self.start.max(to));
        self.observe(log);
        if waits {
            host.settle()?;
            let (log, _) = host.parts();
            prop_assert!(log.durable_index() >= index, "a commit has run");
            self.observe(log);
            prop_assert_eq!(self.durable_start, self.start);
        }
        Ok(())
    }

    fn retain(&mut self, host: &mut impl Host, size_bytes: Option<u64>, age_ms: Option<u64>) -> Holds {
        // What a moved log start left behind goes first: once its producers' states are durable, a file at a time.
        let mut rest = 2;
        while rest > 0 {
            let segments = host.parts().0.segment_count();
            host.tick();
            host.settle()?;
            let went = host.parts().0.segment_count() < segments;
            rest = if went { 2 } else { rest - 1 };
        }
        let now_ms = host.now_ms();
        let (log, disk) = host.parts();
        let (before, start) = (log.size_bytes(), self.start);
        log.retain(now_ms, disk, now_ms, RetentionLimits { age_ms, size_bytes });
        self.observe(log);
        host.settle()?;
        let (log, _) = host.parts();
        let moved = log.log_start_offset();
        prop_assert!(moved >= start && moved <= log.high_watermark());
        host.tick();
        host.settle()?;
        let (log, _) = host.parts();
        self.observe(log);
        if let Some(kept) = size_bytes {
            let left = log.size_bytes();
            // A file that lay below the start before may have waited for this look and go now, whatever is kept.
            prop_assert!(
                moved == start || (before > kept && left >= kept),
                "more went than was asked for: {left} of {before}, start {start:?} to {moved:?}"
            );
        }
        if let Some(age_ms) = age_ms {
            let young = |batch: &&Bytes| {
                let header = header(batch);
                header.last_offset() >= start && now_ms - header.max_timestamp <= age_ms as i64
            };
            let first = self.batches.iter().find(young).map(header);
            prop_assert!(first.is_none_or(|first| first.base_offset >= moved || first.base_offset < start));
        }
        let segments = log.segment_count();
        prop_assert_eq!(
            host.segment_files(),
            segments,
            "removed files are gone, others are there"
        );
        Ok(())
    }

    /// What look-ups by time may answer is above the log start, and never behind the batch that is looked for.
    pub fn check_times(&self, log: &PartitionLog, timestamp_ms: i64) -> Holds {
        let log_start = log.log_start_offset();
        let batches: Vec<BatchHeader> = self.served().iter().map(header).collect();
        let found = log.batch_at_or_after_timestamp(timestamp_ms);
        prop_assert!(found.is_none_or(|found| found >= log_start), "{found:?}");
        if let Some(first) = batches.iter().find(|batch| batch.max_timestamp >= timestamp_ms) {
            prop_assert!(
                found.is_some_and(|found| found <= first.base_offset.max(log_start)),
                "{found:?} is behind it"
            );
        }
        let newest = log.newest_record();
        prop_assert!(newest.unknown.start >= log_start);
        prop_assert!(
            newest
                .known
                .is_none_or(|(_, offset)| offset >= newest.unknown.end)
        );
        let in_unknown = batches
            .iter()
            .filter(|batch| newest.unknown.contains(&batch.base_offset.max(log_start)))
            .map(|batch| (batch.max_timestamp, batch.base_offset));
        let all = in_unknown.chain(newest.known);
        let highest = all.reduce(|best, next| if next.0 > best.0 { next } else { best });
        let expected = batches
            .iter()
            .map(|batch| (batch.max_timestamp, batch.base_offset))
            .reduce(|best, next| if next.0 > best.0 { next } else { best });
        prop_assert_eq!(highest, expected);
        Ok(())
    }
}

/// A truncation, and what of the list it leaves.
pub struct Cut {
    pub to: Truncation,
    pub kept: usize,
    end: Offset,
}
