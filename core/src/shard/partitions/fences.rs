//! What follows a failed write or sync of a segment: its partition is opened again, or its directory has failed.
//!
//! Owned by the shard; what errors of all shards say of a directory together is in [`crate::directory_health`].
//! Invariants: each fence and each opening in vain is noted once; nothing is opened again in a directory that has
//! failed.

use std::io;

use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::ids::PartitionKey;

use super::Partitions;
use crate::fatal::{FatalReason, fatal};
use crate::metrics::ShardCells;
use crate::shard::Now;

impl Partitions {
    /// Opens a fenced partition again, unless a journal has something of it in flight: that ends first.
    pub(super) fn reopen_if_fenced(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        key: PartitionKey,
        metrics: &ShardCells,
    ) {
        let Some(&(space, ref partition)) = self.by_key.get(&key) else {
            return;
        };
        if !partition.is_fenced() || self.is_in_flight(&key) {
            return;
        }
        metrics.partition_fences.increment();
        if self.note_fence(now, &key) {
            self.withdraw(vec![(space, key)]);
            return;
        }
        let journal = self.live_journal(&key);
        if let Some((_, partition)) = self.by_key.get_mut(&key) {
            partition.reopen(journal);
            self.count_opening();
            self.drive_opening(now, disk, key, Vec::new());
        }
    }

    /// Says why a partition was fenced. True: its directory has failed.
    fn note_fence(&self, now: Now, key: &PartitionKey) -> bool {
        let log = self.by_key.get(key).and_then(|(_, partition)| partition.log());
        let Some((log, cause)) = log.and_then(|log| Some((log, log.fence_cause()?))) else {
            return false;
        };
        let path = log.directory().display();
        tracing::error!(%path, %cause, "a write or a sync failed; the partition is read again from the device");
        self.note_disk_error(now, key, cause)
    }

    /// Notes what kept a partition from being opened, if the disk did.
    pub(super) fn note_open_error(&mut self, now: Now, key: &PartitionKey) {
        let opened = self.by_key.get_mut(key);
        if let Some(error) = opened.and_then(|(_, partition)| partition.take_open_error()) {
            // If it has failed, the next round withdraws all that is there.
            self.note_disk_error(now, key, &error);
        }
    }

    /// True: the directory of this partition has failed, by this error or before.
    fn note_disk_error(&self, now: Now, key: &PartitionKey, error: &io::Error) -> bool {
        let id = self.directory_with(key);
        let Some((id, directory)) = id.and_then(|id| Some((id, self.directory(id)?))) else {
            return false;
        };
        let health = directory.seed.space.health();
        if let Some(reason) = health.note_error(now.monotonic_ms, *key, error)
            && self.give_up(id, &reason)
        {
            let path = directory.seed.directory.path().display();
            fatal(FatalReason::DataDir, &format!("{path}: {reason}"));
        }
        directory.has_failed()
    }
}
