//! The partitions a shard owns: opened from a metadata image, driven by completions, closed cleanly.
//!
//! What is done for all of them is background work: `images` (applying an image), `rounds` (the tick),
//! `retention` and `checkpoints`.
//!
//! Owned by the shard. Each partition's log has a token space of its own, so a disk completion finds
//! its partition by the upper half of its token.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Poll;

use tidelog_segment_log::checkpoint::PartitionCheckpoint;
use tidelog_segment_log::disk::heap::HeapPool;
use tidelog_segment_log::disk::{Completion, Disk, DiskOp, Token};
use tidelog_segment_log::ids::{PartitionKey, TopicId};
use tidelog_segment_log::limits::EXTENT_BYTES_MIN;
use tidelog_segment_log::log::{CloseProgress, Durability, LogConfig, Machine, remove_partition_directory};

use super::admin::PartitionSize;
use super::partition::{Answers, Partition};
use super::retention_clock::RetentionClock;
use super::{FastMap, Now, ReplyTo};
use crate::limits::DATA_DIRS_MAX;
use crate::metadata::MetadataImage;
use crate::metrics::ShardCells;
use crate::settings::{LogDurability, Settings};
use crate::topic_config::{Storage, TopicConfig, TopicDefaults};

mod checkpoints;
mod commits;
mod directories;
mod fences;
mod images;
#[cfg(test)]
mod memory_tests;
mod retention;
mod rounds;

use commits::Commits;
pub(super) use directories::DirectoryId;
use directories::OwnDirectory;
pub use directories::{DirectoriesSeed, DirectorySeed};
use images::Applying;
pub(super) use images::{Outbox, has_partition};
use retention::RetentionRound;
use rounds::Round;

/// Token spaces below this belong to the shard itself.
const FIRST_SPACE: u32 = 1_024;
/// The look for directories of deleted topics in the first data directory; each other one has the next.
const SWEEP_SPACE: u32 = 512;
/// All of them.
pub(super) const SWEEP_SPACES: std::ops::Range<u32> = SWEEP_SPACE..SWEEP_SPACE + DATA_DIRS_MAX as u32;

const _: () = assert!(SWEEP_SPACES.end <= FIRST_SPACE && checkpoints::SPACES.end <= SWEEP_SPACE);

/// Segments of a partition in memory are no larger than this, and than this part of what all of them may take: only
/// whole ones are given back. And no smaller, since up to an extent of each is reserved and not used.
const MEMORY_SEGMENT_BYTES_MAX: u64 = 16 << 20;
const MEMORY_SEGMENT_BYTES_MIN: u64 = 8 * EXTENT_BYTES_MIN;
const MEMORY_SEGMENT_PART: u64 = 32;

pub(super) fn log_config(settings: &Settings, topic: &TopicConfig) -> LogConfig {
    if topic.storage == Storage::Memory {
        let part = settings.storage_memory_max_bytes / MEMORY_SEGMENT_PART;
        let most = part.clamp(MEMORY_SEGMENT_BYTES_MIN, MEMORY_SEGMENT_BYTES_MAX);
        return LogConfig {
            segment_bytes: topic.segment_bytes.min(most),
            segment_ms: i64::try_from(topic.segment_ms).unwrap_or(i64::MAX),
            // Nothing becomes more durable by waiting.
            durability: Durability::Os,
        };
    }
    LogConfig {
        segment_bytes: topic.segment_bytes,
        segment_ms: i64::try_from(topic.segment_ms).unwrap_or(i64::MAX),
        durability: durability(settings, topic),
    }
}

/// The broker's durability, or the topic's where `flush.messages` or `flush.ms` ask for a stronger one.
fn durability(settings: &Settings, topic: &TopicConfig) -> Durability {
    let flush = topic.flush;
    if settings.log_durability == LogDurability::Fsync || flush.each_batch || flush.interval_ms == Some(0) {
        return Durability::Fsync;
    }
    let of_broker = match settings.log_durability {
        LogDurability::Interval => Some(settings.log_durability_interval_ms),
        _ => None,
    };
    match [of_broker, flush.interval_ms].into_iter().flatten().min() {
        Some(interval_ms) => Durability::Interval { interval_ms },
        None => Durability::Os,
    }
}

/// See the file's head.
pub(super) struct Partitions {
    /// The one with the metadata log first; never empty.
    directories: Vec<OwnDirectory>,
    unusable: Vec<PathBuf>,
    /// Of partitions that are in no directory.
    memory: Arc<HeapPool>,
    settings: Arc<Settings>,
    defaults: TopicDefaults,
    own: usize,
    shards: usize,
    spaces: BTreeMap<u32, PartitionKey>,
    by_key: FastMap<PartitionKey, (u32, Partition)>,
    /// Partitions that were touched since the last flush, so that a turn costs nothing for idle ones.
    active: HashSet<PartitionKey, foldhash::fast::RandomState>,
    /// The image that was applied last, whole.
    image: Arc<MetadataImage>,
    applying: Option<Applying>,
    /// The newest image, which follows the one that is being applied.
    next_image: Option<Arc<MetadataImage>>,
    topics_gone: bool,
    round: Round,
    retention: RetentionRound,
    clock: RetentionClock,
    removing: HashMap<u32, Machine<io::Result<()>>>,
    next_space: u32,
    opening: usize,
    openings_max: usize,
    /// The image that is being applied waits for openings to end.
    waits_for_openings: bool,
    /// How often an opening was begun.
    openings: u64,
    opened: Vec<(PartitionKey, i32)>,
    commits: Commits,
    /// The last checkpoints are near: a journal that fails is left to the next start.
    is_closing: bool,
    is_closed: bool,
    /// Partitions that the first image gave to this shard.
    at_start: usize,
    /// Partitions whose directory failed or is missing.
    unavailable: usize,
    cut_short: bool,
}

impl Partitions {
    pub(super) fn new(
        seed: DirectoriesSeed,
        memory: Arc<HeapPool>,
        settings: Arc<Settings>,
        own: u16,
        openings_max: usize,
    ) -> Self {
        let clock = RetentionClock::new(seed.last_change_ms());
        let mut partitions = Self {
            unusable: seed.unusable.clone(),
            directories: OwnDirectory::all(seed),
            clock,
            retention: RetentionRound::default(),
            defaults: TopicDefaults::from_settings(&settings),
            shards: usize::from(settings.shards),
            settings,
            memory,
            own: usize::from(own),
            spaces: BTreeMap::new(),
            by_key: FastMap::default(),
            active: HashSet::default(),
            image: Arc::default(),
            applying: None,
            next_image: None,
            topics_gone: false,
            round: Round::default(),
            removing: HashMap::new(),
            next_space: FIRST_SPACE,
            opening: 0,
            openings_max,
            waits_for_openings: false,
            openings: 0,
            opened: Vec::new(),
            commits: Commits::default(),
            is_closing: false,
            is_closed: false,
            at_start: 0,
            unavailable: 0,
            cut_short: false,
        };
        partitions.make_groups();
        partitions
    }

    /// Partitions that are being opened.
    pub(super) fn opening(&self) -> usize {
        self.opening
    }

    /// The memory of those that are in no directory.
    pub(super) fn memory(&self) -> &HeapPool {
        &self.memory
    }

    /// What each takes on the disk, in bytes.
    pub(super) fn sizes(&self) -> Vec<PartitionSize> {
        let partitions = self.by_key.iter();
        partitions
            .filter(|(_, (_, partition))| partition.path_in_memory().is_none())
            .map(|(key, (_, partition))| (*key, partition.size_bytes()))
            .collect()
    }

    /// Partitions that the first image gave to this shard.
    pub(super) fn at_start(&self) -> usize {
        self.at_start
    }

    /// Partitions whose data directory failed or is missing.
    pub(super) fn unavailable(&self) -> usize {
        self.unavailable
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// A partition to work on; it is looked at again at the end of the turn.
    pub(super) fn get_mut(&mut self, key: &PartitionKey) -> Option<&mut Partition> {
        let (_, partition) = self.by_key.get_mut(key)?;
        self.active.insert(*key);
        Some(partition)
    }

    #[cfg(test)]
    pub(super) fn watcher_count(&self) -> usize {
        let partitions = self.by_key.values();
        partitions.map(|(_, partition)| partition.watcher_count()).sum()
    }

    pub(super) fn unwatch(&mut self, key: &PartitionKey, shard: u16, pending: u64) {
        if let Some((_, partition)) = self.by_key.get_mut(key) {
            partition.unwatch(shard, pending);
        }
    }

    /// Whether everything the image asks for is open, with its terms on the disk.
    pub(super) fn all_open(&self) -> bool {
        let is_at_rest =
            |directory: &OwnDirectory| directory.has_failed() || directory.checkpoints.is_at_rest();
        self.opening == 0 && self.applying.is_none() && self.directories.iter().all(is_at_rest)
    }

    /// Whether a turn has something to do for partitions.
    pub(super) fn wants_turn(&self) -> bool {
        !self.active.is_empty() || !self.opened.is_empty()
    }

    fn take_space(&mut self) -> u32 {
        let space = self.next_space;
        // Four billion partitions opened by one process: the counter does not come back.
        self.next_space = self.next_space.saturating_add(1);
        space
    }

    fn remove(
        &mut self,
        disk: &mut dyn Disk,
        key: PartitionKey,
        answers: &mut Answers,
        wakes: &mut Vec<ReplyTo>,
    ) {
        let Some((space, mut partition)) = self.by_key.remove(&key) else {
            return;
        };
        partition.abandon(answers, wakes);
        self.leave_group(&key);
        self.opening -= usize::from(partition.is_opening());
        self.spaces.remove(&space);
        self.active.remove(&key);
        // The log's operations in flight end unseen: their space has no owner any more.
        let directory = partition.directory();
        let is_unavailable = partition.is_unavailable();
        let in_memory = partition.path_in_memory().map(Path::to_path_buf);
        self.unavailable -= usize::from(is_unavailable);
        drop(partition);
        if let Some(path) = in_memory {
            self.remove_directory(disk, path);
        }
        // What lies in one that is gone is removed when it is back.
        if let Some(directory) = directory
            .and_then(|id| self.directory(id))
            .filter(|_| !is_unavailable)
        {
            self.remove_directory(disk, directory.seed.partition_path(&key));
        }
    }

    /// Looks for directories of partitions, to remove those of topics that were deleted: a kill may have come
    /// between the deletion and the removal. Shard 0, at start.
    pub(super) fn list_directories(&mut self, disk: &mut dyn Disk) {
        for (space, directory) in SWEEP_SPACES.zip(&self.directories) {
            let path = directory.seed.partitions_path();
            disk.submit(Token(u64::from(space) << 32), DiskOp::List { path });
        }
    }

    /// What journals hold of dead topics is not needed.
    pub(super) fn forget_dead(&self, is_dead: impl Fn(&TopicId) -> bool) {
        for directory in &self.directories {
            let journals = directory.seed.directory.journals();
            journals.forget_dead(|key| is_dead(&key.topic));
        }
    }

    /// Removes the directories among `names`, found in the look of `space`, whose topic is dead. One that is not
    /// known is kept.
    pub(super) fn sweep(
        &mut self,
        disk: &mut dyn Disk,
        space: u32,
        names: &[String],
        is_dead: impl Fn(&TopicId) -> bool,
    ) {
        let place = space.saturating_sub(SWEEP_SPACE) as usize;
        let Some(path) = self.directories.get(place).map(|own| own.seed.partitions_path()) else {
            return;
        };
        for name in names {
            if parse_directory_name(name).is_some_and(|key| is_dead(&key.topic)) {
                tracing::info!(directory = name, "removing what a deleted topic left");
                self.remove_directory(disk, path.join(name));
            }
        }
    }

    fn remove_directory(&mut self, disk: &mut dyn Disk, path: PathBuf) {
        let space = self.take_space();
        let mut machine = remove_partition_directory(space, path);
        if machine.step(disk, Vec::new()).is_pending() {
            self.removing.insert(space, machine);
        }
    }

    fn drive_opening(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        key: PartitionKey,
        completions: Vec<Completion>,
    ) {
        if let Some((_, partition)) = self.by_key.get_mut(&key)
            && partition.step_opening(now, disk, completions)
        {
            self.on_opened(now, key);
        }
    }

    /// An opening begins.
    fn count_opening(&mut self) {
        self.opening += 1;
        self.openings += 1;
    }

    fn on_opened(&mut self, now: Now, key: PartitionKey) {
        self.opening -= 1;
        self.note_open_error(now, &key);
        let opened = self.by_key.get(&key).map(|(_, partition)| partition);
        if let Some(directory) = opened.and_then(Partition::directory) {
            self.want_checkpoint(directory);
        }
        self.join_group(&key);
        if let Some(log) = self.by_key.get(&key).and_then(|(_, partition)| partition.log()) {
            self.opened.push((key, log.leader_epoch().0));
        }
    }

    /// The partitions opened since the last call, with their leader epochs.
    pub(super) fn take_opened(&mut self) -> Vec<(PartitionKey, i32)> {
        std::mem::take(&mut self.opened)
    }

    pub(super) fn on_completion(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        space: u32,
        completion: Completion,
    ) {
        if checkpoints::SPACES.contains(&space) {
            self.step_checkpoint(disk, checkpoints::directory_of(space), vec![completion]);
            return;
        }
        let Some(completion) = self.journal_completed(disk, space, completion) else {
            return;
        };
        if let Some(machine) = self.removing.get_mut(&space) {
            if let Poll::Ready(result) = machine.step(disk, vec![completion]) {
                self.removing.remove(&space);
                if let Err(error) = result {
                    tracing::error!(%error, "files of a deleted partition could not be removed");
                }
            }
            return;
        }
        // A space that is gone belonged to a deleted partition.
        let Some(key) = self.spaces.get(&space).copied() else {
            return;
        };
        if let Some((_, partition)) = self.by_key.get_mut(&key) {
            self.active.insert(key);
            if partition.on_completion(now, disk, completion) {
                self.on_opened(now, key);
            }
        }
    }

    /// Ends a turn for the partitions that were touched in it: what is staged is written, what is
    /// durable is answered, what is fenced opens again.
    pub(super) fn end_of_turn(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        answers: &mut Answers,
        wakes: &mut Vec<ReplyTo>,
        metrics: &ShardCells,
    ) {
        let touched: Vec<PartitionKey> = self.active.drain().collect();
        self.note_lively(&touched);
        for key in touched {
            let Some((_, partition)) = self.by_key.get_mut(&key) else {
                continue;
            };
            if let Some(log) = partition.log_mut() {
                log.flush(now.wall_ms, disk);
            }
            partition.settle(answers, wakes, metrics);
            self.note_flushed(&key);
            self.reopen_if_fenced(now, disk, key, metrics);
        }
        self.commit_groups(now.wall_ms, disk);
        self.hear_groups();
    }

    /// The drain's deadline has passed: stop without waiting.
    pub(super) fn cut_short(&mut self) {
        self.cut_short = true;
    }

    pub(super) fn is_cut_short(&self) -> bool {
        self.cut_short
    }

    /// Goes on closing all logs; true when each is durable and the last checkpoint is written.
    /// `group_zero`: as its log was closed, None while it is not.
    pub(super) fn close_all(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        group_zero: Option<PartitionCheckpoint>,
    ) -> bool {
        if self.cut_short {
            return true;
        }
        if self.is_closed {
            return self.are_last_checkpoints_written();
        }
        let mut closed: Vec<Vec<PartitionCheckpoint>> = vec![Vec::new(); self.directories.len()];
        let mut pending = self.is_a_checkpoint_being_written()
            || self.applying.is_some()
            || self.opening > 0
            || !self.removing.is_empty();
        for (_, partition) in self.by_key.values_mut() {
            let place = partition.directory().map_or(usize::MAX, DirectoryId::place);
            let Some(log) = partition.log_mut() else { continue };
            match log.close(now.wall_ms, disk) {
                CloseProgress::Pending => pending = true,
                CloseProgress::Closed(checkpoint) => {
                    closed
                        .get_mut(place)
                        .into_iter()
                        .for_each(|of| of.push((*checkpoint).clone()));
                }
                CloseProgress::Fenced => self.cut_short = true,
            }
        }
        if pending {
            return false;
        }
        self.is_closing = true;
        if !self.close_groups(disk) {
            return self.cut_short;
        }
        closed
            .first_mut()
            .into_iter()
            .for_each(|home| home.extend(group_zero.clone()));
        self.write_last_checkpoints(disk, closed);
        self.is_closed = true;
        self.are_last_checkpoints_written()
    }
}

/// The partition that a directory's name stands for.
fn parse_directory_name(name: &str) -> Option<PartitionKey> {
    let (topic, partition) = name.split_once('-')?;
    let id = u128::from_str_radix(topic, 16)
        .ok()
        .filter(|_| topic.len() == 32)?;
    Some(PartitionKey {
        topic: TopicId(id.to_be_bytes()),
        partition: partition.parse().ok()?,
    })
}
