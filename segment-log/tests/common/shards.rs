//! Shards with journals, as a broker runs them: the open logs of all partitions, and one group commit for each shard
//! that decides about the commits of its own.
//!
//! Each start chooses the number of shards anew; partition n belongs to shard n modulo that. What a start finds of
//! earlier journals is read by the data directory, whatever shards wrote them ([`take_directory`]).

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use tidelog_segment_log::data_directory::{DataDirectory, DataDirectoryError, NewIdentity};
use tidelog_segment_log::disk::{Completion, Disk};
use tidelog_segment_log::ids::{PartitionKey, TopicId};
use tidelog_segment_log::journal::{
    GroupCommit, GroupConfig, GroupEvent, Journal, JournalBug, JournalConfig, JournalEvidence, Logs,
};
use tidelog_segment_log::log::PartitionLog;

/// Shard n's journal has this space of tokens plus n.
const JOURNAL_SPACE: u32 = 20;
/// What comes behind the journals'.
const JOURNAL_SPACE_END: u32 = 30;
/// Partition n's log has this space of tokens plus n.
pub const LOG_SPACE: u32 = 100;

/// The data directory.
pub fn root() -> PathBuf {
    PathBuf::from("/sim/data")
}

pub fn key(at: usize) -> PartitionKey {
    PartitionKey {
        topic: TopicId([9; 16]),
        partition: at as i32,
    }
}

pub fn directory(at: usize) -> PathBuf {
    root().join(format!("partition-{at}"))
}

/// Takes the data directory as a process that starts does: all that journals and checkpoints say is read.
pub fn take_directory(disk: &mut dyn Disk, bug: JournalBug) -> Result<DataDirectory, DataDirectoryError> {
    let new = NewIdentity {
        node_id: 1,
        cluster_id: "simulated".into(),
        rack: None,
        directory_id: [7; 16],
    };
    DataDirectory::open_with(disk, &root(), new, bug)
}

/// The open logs of all shards.
#[derive(Default)]
pub struct OpenLogs(pub BTreeMap<PartitionKey, Box<PartitionLog>>);

impl Logs for OpenLogs {
    fn log_mut(&mut self, key: &PartitionKey) -> Option<&mut PartitionLog> {
        self.0.get_mut(key).map(Box::as_mut)
    }
}

impl OpenLogs {
    pub fn at(&mut self, at: usize) -> Option<&mut PartitionLog> {
        self.log_mut(&key(at))
    }
}

/// See the file's head. Without groups each log commits by itself.
#[derive(Default)]
pub struct Shards {
    pub logs: OpenLogs,
    /// One for each shard.
    pub groups: Vec<GroupCommit>,
}

impl Shards {
    /// Adds a shard.
    pub fn add_group(&mut self, journal: JournalConfig, commits: GroupConfig) {
        assert!(
            JOURNAL_SPACE + journal.shard < JOURNAL_SPACE_END,
            "a space for each"
        );
        let journal = Journal::new(&root(), JOURNAL_SPACE + journal.shard, journal);
        self.groups.push(GroupCommit::new(journal, commits));
    }

    /// All logs let the groups commit.
    pub fn join(&mut self) {
        self.logs.0.values_mut().for_each(|log| log.join_group_commit());
    }

    pub fn of(&self, at: usize) -> usize {
        at % self.groups.len().max(1)
    }

    fn group(&self, at: usize) -> Option<&GroupCommit> {
        self.groups.get(self.of(at))
    }

    /// What the journal of a partition's shard holds, for an open of that partition alone.
    pub fn live_journal(&self, at: usize) -> JournalEvidence {
        match self.group(at) {
            Some(group) => JournalEvidence::Live(group.live()),
            None => JournalEvidence::None,
        }
    }

    /// Whether a journal has something of a partition in flight.
    pub fn is_in_flight(&self, at: usize) -> bool {
        self.group(at).is_some_and(|group| group.is_committing(&key(at)))
    }

    /// A log was opened again while the others went on.
    pub fn rejoin(&mut self, at: usize) {
        let shard = self.of(at);
        if let Some(group) = self.groups.get_mut(shard) {
            group.forget(&key(at));
            if let Some(log) = self.logs.at(at) {
                log.join_group_commit();
            }
        }
    }

    /// What shards do at the end of a turn of their loops: logs are written, and commits begin.
    pub fn end_of_turn(&mut self, now_ms: i64, disk: &mut dyn Disk) {
        let shards = self.groups.len().max(1);
        for (key, log) in &mut self.logs.0 {
            log.flush(now_ms, disk);
            if let Some(group) = self.groups.get_mut(key.partition as usize % shards) {
                group.note(*key);
            }
        }
        for group in &mut self.groups {
            group.commit(now_ms, disk, &mut self.logs);
        }
    }

    pub fn tick(&mut self, now_ms: i64, disk: &mut dyn Disk) {
        for log in self.logs.0.values_mut() {
            log.tick(now_ms, disk);
        }
        self.groups.iter_mut().for_each(GroupCommit::tick);
    }

    /// A step of letting files of a shard's journal go, in which so many partitions may be looked at.
    pub fn trim(&mut self, shard: usize, mut budget: usize, disk: &mut dyn Disk) {
        if let Some(group) = self.groups.get_mut(shard).filter(|group| group.wants_trim()) {
            group.trim_step(disk, &mut self.logs, || {
                let some = budget > 0;
                budget -= usize::from(some);
                some
            });
        }
    }

    /// Hands a completion to the log or the journal that it belongs to; gives back one that is of neither.
    pub fn on_completion(
        &mut self,
        now_ms: i64,
        disk: &mut dyn Disk,
        completion: Completion,
    ) -> Option<Completion> {
        let space = (completion.token.0 >> 32) as u32;
        if (JOURNAL_SPACE..JOURNAL_SPACE_END).contains(&space) {
            if let Some(group) = self.groups.get_mut((space - JOURNAL_SPACE) as usize) {
                group.on_completion(disk, completion);
            }
        } else if space >= LOG_SPACE {
            if let Some(log) = self.logs.at((space - LOG_SPACE) as usize) {
                log.on_completion(now_ms, disk, completion);
            }
        } else {
            return Some(completion);
        }
        None
    }

    /// What the groups have to say; an error is a journal that failed for good, and ends the process.
    pub fn hear(&mut self) -> io::Result<()> {
        for group in &mut self.groups {
            for event in group.take_events(&mut self.logs) {
                match event {
                    GroupEvent::Committed(_) => {}
                    GroupEvent::Failed(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Removes the journals, once all logs are closed; true when they are gone.
    pub fn close_groups(&mut self, disk: &mut dyn Disk) -> bool {
        self.groups.iter_mut().all(|group| group.close(disk))
    }
}
