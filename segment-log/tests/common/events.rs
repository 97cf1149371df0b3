//! How often each thing happened in simulations: a run in which something never did proves nothing about it.

use std::collections::BTreeMap;

use tidelog_segment_log::disk::sim::SimEvents;
use tidelog_segment_log::journal::Way;

/// All that is counted, by name.
const NAMES: &[&str] = &[
    "a batch acked",
    "a recovery",
    "a start that the disk refused",
    "an opening that failed",
    "an opening from the older checkpoint generation or another shard's",
    "a clean opening",
    "an unclean opening without a checkpoint",
    "a torn tail with entries behind it",
    "a file set aside",
    "a log that went on in a new segment behind a cut",
    "an entry taken from a journal",
    "a look before an opening",
    "a start with another number of shards",
    "a fence",
    "a truncation",
    "a truncation that failed",
    "a reopening that failed",
    "a stop in order",
    "a stop that ended in a fence",
    "a power cut",
    "a kill",
    "a kill and then a power cut",
    "a crash while a checkpoint was written",
    "a crash while a segment was begun",
    "a crash with operations of the log in flight",
    "a crash with batches that were not acknowledged",
    "a crash with a log start that was not durable",
    "an append that found the disk full",
    "an append before the term was durable",
    "a log start that moved",
    "a log start above the high watermark",
    "a batch sent again",
    "a batch mirrored again",
    "a gap between mirrored batches",
    "an epoch below that of the copy",
    "a segment made of a spare file",
    "an index file damaged",
    "a commit by the journal",
    "a partition committed by the journal",
    "a commit by direct syncs",
    "a full journal",
    "a journal file trimmed",
    "a journal file that failed",
    "a short write",
    "a write that would have stalled",
    "a failed sync",
    "a page marked clean that is not on the disk",
    "a failed write-back",
    "a full disk",
    "an operation done at a crash",
    "an operation dropped at a crash",
    "an older sector kept at a power cut",
    "an unsynced sector kept at a power cut",
    "a torn page",
    "a file that became shorter",
    "a name that was lost",
    "an unsynced name that was kept",
    "a read from the device",
];

/// See the file's head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Events(BTreeMap<&'static str, u64>);

impl Events {
    pub fn note(&mut self, name: &'static str, count: u64) {
        assert!(NAMES.contains(&name), "{name} is not on the list");
        *self.0.entry(name).or_default() += count;
    }

    pub fn note_if(&mut self, happened: bool, name: &'static str) {
        self.note(name, u64::from(happened));
    }

    pub fn take_disk(&mut self, disk: &SimEvents) {
        for (name, count) in [
            ("a short write", disk.short_writes),
            ("a write that would have stalled", disk.would_stall),
            ("a failed sync", disk.failed_syncs),
            ("a page marked clean that is not on the disk", disk.lost_pages),
            ("a failed write-back", disk.writeback_errors),
            ("a full disk", disk.no_space),
            ("an operation done at a crash", disk.outstanding_done),
            ("an operation dropped at a crash", disk.outstanding_dropped),
            ("an older sector kept at a power cut", disk.stale_sectors),
            (
                "an unsynced sector kept at a power cut",
                disk.unsynced_sectors_kept,
            ),
            ("a torn page", disk.torn_pages),
            ("a file that became shorter", disk.lost_lengths),
            ("a name that was lost", disk.lost_names),
            ("an unsynced name that was kept", disk.unsynced_names_kept),
            ("a read from the device", disk.device_reads),
        ] {
            self.note(name, count);
        }
    }

    /// What a shard's group commit did.
    pub fn take_way(&mut self, way: Way) {
        for (name, count) in [
            ("a commit by the journal", way.by_journal),
            ("a partition committed by the journal", way.partitions_by_journal),
            ("a commit by direct syncs", way.direct),
            ("a full journal", way.full),
            ("a journal file trimmed", way.trimmed),
        ] {
            self.note(name, count);
        }
    }

    pub fn add(&mut self, other: &Self) {
        other.0.iter().for_each(|(name, count)| self.note(name, *count));
    }

    pub fn count(&self, name: &'static str) -> u64 {
        assert!(NAMES.contains(&name), "{name} is not on the list");
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Something happened more than so many times, or the runs do not show what they should.
    #[track_caller]
    pub fn expect_more(&self, name: &'static str, than: u64) {
        let count = self.count(name);
        assert!(
            count > than,
            "{name}: {count} times, more than {than} are needed\n{self}"
        );
    }

    /// Each of these happened at least once.
    #[track_caller]
    pub fn expect_each(&self, names: &[&'static str]) {
        let never = |name: &&&'static str| self.count(name) == 0;
        let missing: Vec<_> = names.iter().filter(never).collect();
        assert!(missing.is_empty(), "never happened: {missing:?}\n{self}");
    }
}

impl std::fmt::Display for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for name in NAMES {
            writeln!(f, "{:>9} {name}", self.0.get(name).copied().unwrap_or(0))?;
        }
        Ok(())
    }
}
