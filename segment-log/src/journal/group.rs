//! A shard's group commit: which way each commit goes, and when a journal's files may go.
//!
//! Owned by one shard thread, one for each data directory. It is told of logs that wrote something and decides
//! at the end of the turn for all of them: few files or large appends are synced where they are; many files go
//! through the journal with one write and one sync. Invariants:
//! - a log is in one commit at a time, and in one way;
//! - the next journal commit begins when the one before has ended, with all that waits;
//! - a mark of the oldest file is cleared only when the log says that all up to it is settled, and a log that is
//!   not open keeps its marks.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::io;

use super::scan::LiveJournal;
use super::writer::{Journal, JournalBug, JournalEvent, JournalStatus};
use crate::disk::{Completion, Disk};
use crate::ids::PartitionKey;
use crate::limits::{
    JOURNAL_BYTES_PER_FILE_MAX, JOURNAL_DIRECT_WHILE_MAKING_MAX, JOURNAL_DIRTY_FILES_MIN,
    JOURNAL_SETTLING_MAX,
};
use crate::log::PartitionLog;

/// How a shard finds the logs of its partitions.
pub trait Logs {
    /// The open log of a partition.
    fn log_mut(&mut self, key: &PartitionKey) -> Option<&mut PartitionLog>;
}

/// When a commit goes through the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// From so many dirty files on.
    pub dirty_files_min: usize,
    /// Up to so many bytes per file, on average.
    pub bytes_per_file_max: u64,
    /// While the journal's next file is being made, up to so many dirty files are synced; more wait for it.
    pub direct_while_making_max: usize,
    /// The oldest files are let go while there are more bytes than this.
    pub trim_above_bytes: u64,
}

impl GroupConfig {
    /// As measured (see the decision on the commit journal): trimming begins at three quarters of what is allowed.
    /// The later it begins, the more appends of a partition one sync of its segment settles; what is left is filled
    /// while the oldest file's are.
    pub fn for_max_bytes(max_bytes: u64) -> Self {
        Self {
            dirty_files_min: JOURNAL_DIRTY_FILES_MIN,
            bytes_per_file_max: JOURNAL_BYTES_PER_FILE_MAX,
            direct_while_making_max: JOURNAL_DIRECT_WHILE_MAKING_MAX,
            trim_above_bytes: max_bytes / 4 * 3,
        }
    }
}

/// Which way commits went, and what stood in the way, since the group began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// Commits through the journal.
    pub by_journal: u64,
    /// Partitions in them.
    pub partitions_by_journal: u64,
    /// Commits of one partition by syncing its segments.
    pub direct: u64,
    /// Times a commit would have gone through the journal and it was full.
    pub full: u64,
    /// Files let go.
    pub trimmed: u64,
}

/// What the shard has to hear of.
#[derive(Debug)]
pub enum GroupEvent {
    /// Something of these partitions is durable: look at them.
    Committed(Vec<PartitionKey>),
    /// The journal failed for good: end the process.
    Failed(io::Error),
}

/// See the module.
#[derive(Debug)]
pub struct GroupCommit {
    journal: Journal,
    config: GroupConfig,
    /// Logs that wrote something and are in no commit.
    waiting: BTreeSet<PartitionKey>,
    /// Logs in a commit of their own.
    direct: BTreeSet<PartitionKey>,
    /// Logs that are being settled for the oldest file.
    settling: BTreeSet<PartitionKey>,
    /// Where the look at the oldest file's marks goes on.
    looked_to: Option<PartitionKey>,
    /// The last step found nothing that could be done then.
    trim_waits: bool,
    way: Way,
}

impl GroupCommit {
    /// A group with nothing to commit.
    pub fn new(journal: Journal, config: GroupConfig) -> Self {
        Self {
            journal,
            config,
            waiting: BTreeSet::new(),
            direct: BTreeSet::new(),
            settling: BTreeSet::new(),
            looked_to: None,
            trim_waits: false,
            way: Way::default(),
        }
    }

    /// A log was flushed: it may have something to commit.
    pub fn note(&mut self, key: PartitionKey) {
        self.waiting.insert(key);
        self.trim_waits &= !self.settling.contains(&key);
    }

    /// Which way commits went so far.
    pub fn way(&self) -> Way {
        self.way
    }

    /// The journal.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Begins commits for all that waits, unless it has to wait for a journal commit under way.
    pub fn commit(&mut self, now_ms: i64, disk: &mut dyn Disk, logs: &mut dyn Logs) {
        let (mut files, mut bytes, mut runs) = (0, 0, 0);
        let mut kept_bytes = 0;
        self.waiting.retain(|key| {
            let Some(wanted) = logs.log_mut(key).and_then(|log| log.commit_wanted()) else {
                return false;
            };
            files += wanted.files;
            bytes += wanted.bytes;
            if wanted.may_go_by_journal {
                runs += wanted.files;
                kept_bytes += wanted.bytes;
            }
            true
        });
        if self.waiting.is_empty() {
            return;
        }
        self.direct
            .retain(|key| logs.log_mut(key).is_some_and(|log| log.is_committing()));
        let small = bytes <= self.config.bytes_per_file_max.saturating_mul(files as u64);
        let many = files + self.direct.len() >= self.config.dirty_files_min || self.journal.is_busy();
        if small && many && runs > 0 {
            match self.journal.status(disk, runs, kept_bytes) {
                JournalStatus::Ready => return self.commit_by_journal(now_ms, disk, logs),
                JournalStatus::Busy => return,
                // The syncs of so many files would take as long, and keep the making waiting.
                JournalStatus::Making if files > self.config.direct_while_making_max => return,
                JournalStatus::Full => self.way.full += 1,
                JournalStatus::Making | JournalStatus::NotReady | JournalStatus::TooLarge => {}
            }
        }
        for key in std::mem::take(&mut self.waiting) {
            self.commit_directly(key, now_ms, disk, logs);
        }
    }

    fn commit_by_journal(&mut self, now_ms: i64, disk: &mut dyn Disk, logs: &mut dyn Logs) {
        let mut all = Vec::new();
        for key in std::mem::take(&mut self.waiting) {
            let Some(log) = logs.log_mut(&key) else { continue };
            match log.commit_wanted() {
                Some(wanted) if wanted.may_go_by_journal => {
                    all.append(&mut log.take_runs(now_ms));
                    self.way.partitions_by_journal += 1;
                }
                Some(_) => self.commit_directly(key, now_ms, disk, logs),
                None => {}
            }
        }
        self.way.by_journal += 1;
        self.journal.begin(disk, all);
    }

    fn commit_directly(&mut self, key: PartitionKey, now_ms: i64, disk: &mut dyn Disk, logs: &mut dyn Logs) {
        if let Some(log) = logs.log_mut(&key)
            && log.commit_directly(now_ms, disk)
        {
            self.way.direct += 1;
            self.direct.insert(key);
        }
    }

    /// Takes the end of one of the journal's operations.
    pub fn on_completion(&mut self, disk: &mut dyn Disk, completion: Completion) {
        self.journal.on_completion(disk, completion);
        self.trim_waits = false;
    }

    /// What has happened since the last call; logs are told of their commits by it.
    pub fn take_events(&mut self, logs: &mut dyn Logs) -> Vec<GroupEvent> {
        let mut events = Vec::new();
        for event in self.journal.take_events() {
            match event {
                JournalEvent::Committed(keys) => {
                    for key in &keys {
                        if let Some(log) = logs.log_mut(key) {
                            log.journal_committed();
                        }
                    }
                    events.push(GroupEvent::Committed(keys));
                }
                JournalEvent::Failed(error) => events.push(GroupEvent::Failed(error)),
            }
        }
        events
    }

    /// Whether the journal has something of a partition in flight: it is not opened again before that ends.
    pub fn is_committing(&self, key: &PartitionKey) -> bool {
        self.journal.is_committing(key)
    }

    /// What the journal holds, for a partition that is opened again.
    pub fn live(&self) -> LiveJournal {
        self.journal.live()
    }

    /// A partition was deleted, or opened again with all that was durable: the journal need not keep it.
    pub fn forget(&mut self, key: &PartitionKey) {
        self.waiting.remove(key);
        self.direct.remove(key);
        self.settling.remove(key);
        self.journal.forget(key);
    }

    /// Now and then.
    pub fn tick(&mut self) {
        self.journal.tick();
        self.trim_waits = false;
    }

    /// Whether a step can be taken towards letting the oldest file go.
    pub fn wants_trim(&self) -> bool {
        !self.trim_waits && self.journal.bytes() > self.config.trim_above_bytes && self.journal.may_trim()
    }

    /// Goes on letting the oldest file go: its laggards are synced, then it is trimmed. `take` says whether another
    /// partition may be looked at in this step. True: there is more to do now; false: wait for completions.
    pub fn trim_step(
        &mut self,
        disk: &mut dyn Disk,
        logs: &mut dyn Logs,
        mut take: impl FnMut() -> bool,
    ) -> bool {
        self.settling
            .retain(|key| logs.log_mut(key).is_some_and(|log| log.is_settling()));
        let bug = self.journal.bug();
        let mut cleared = Vec::new();
        let mut is_whole = true;
        {
            let Some(marks) = self.journal.oldest_marks(self.looked_to) else {
                self.trim_waits = true;
                return false;
            };
            for (key, mark) in marks {
                if !take() || self.settling.len() >= JOURNAL_SETTLING_MAX {
                    is_whole = false;
                    break;
                }
                self.looked_to = Some(key);
                let Some(log) = logs.log_mut(&key) else { continue };
                let settled = match bug {
                    JournalBug::TrimBeforeDirSync => log.synced_index(),
                    _ => log.settled_index(),
                };
                if settled >= mark.index {
                    cleared.push(key);
                } else if log.settle(disk) {
                    self.settling.insert(key);
                    if bug == JournalBug::TrimBeforeSync {
                        cleared.push(key);
                    }
                }
            }
        }
        cleared.iter().for_each(|key| self.journal.clear_oldest_mark(key));
        if is_whole {
            self.looked_to = None;
        }
        let trimmed = self.journal.trim(disk);
        self.way.trimmed += u64::from(trimmed);
        if trimmed {
            self.looked_to = None;
        }
        let goes_on = trimmed || (!is_whole && self.settling.len() < JOURNAL_SETTLING_MAX);
        self.trim_waits = !goes_on;
        goes_on
    }

    /// Removes the journal, once all logs are closed; true when it is gone.
    pub fn close(&mut self, disk: &mut dyn Disk) -> bool {
        self.journal.close(disk)
    }
}
