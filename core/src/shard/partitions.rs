//! The partitions a shard owns: opened from a metadata image, driven by completions, closed cleanly.
//!
//! Owned by the shard. Each partition's log has a token space of its own, so a disk completion finds
//! its partition by the upper half of its token. A raised term is confirmed only after a checkpoint
//! that carries it is on the disk; until then the log refuses appends by itself.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use tidelog_segment_log::checkpoint::{Checkpoint, PartitionCheckpoint};
use tidelog_segment_log::data_directory::CheckpointWriter;
use tidelog_segment_log::disk::{Completion, Disk};
use tidelog_segment_log::ids::PartitionKey;
use tidelog_segment_log::log::{Durability, LogConfig};

use super::partition::{Answers, Partition, PartitionSpec};
use super::{Now, ReplyTo};
use crate::metadata::MetadataImage;
use crate::settings::{LogDurability, Settings};
use crate::topic_config::TopicConfig;

/// Token spaces below this belong to the shard itself.
const FIRST_SPACE: u32 = 16;
/// The checkpoint writer's space.
const CHECKPOINT_SPACE: u32 = 2;
/// Time between checkpoints while something is appended, milliseconds.
const CHECKPOINT_INTERVAL_MS: u64 = 30_000;

/// What a shard is told of its data directory.
#[derive(Clone, Debug)]
pub struct DirectorySeed {
    /// Absolute path.
    pub path: PathBuf,
    /// Every checkpoint that verified at start.
    pub checkpoints: Arc<Vec<Checkpoint>>,
    /// The last stop was clean.
    pub clean: bool,
    /// Raised at each start.
    pub start_counter: u64,
}

impl DirectorySeed {
    /// The newest word on a partition.
    pub fn checkpoint_of(&self, key: &PartitionKey) -> Option<PartitionCheckpoint> {
        self.checkpoints
            .iter()
            .filter_map(|checkpoint| Some((checkpoint.start_counter, checkpoint.partition(key)?)))
            .max_by_key(|(start, partition)| (*start, partition.durable_index))
            .map(|(_, partition)| partition.clone())
    }

    /// Where a partition's files are.
    pub fn partition_path(&self, key: &PartitionKey) -> PathBuf {
        let topic: String = key.topic.0.iter().map(|byte| format!("{byte:02x}")).collect();
        self.path.join("partitions").join(format!("{topic}-{}", key.partition))
    }
}

pub(super) fn log_config(settings: &Settings, topic: &TopicConfig) -> LogConfig {
    LogConfig {
        segment_bytes: topic.segment_bytes,
        segment_ms: topic.segment_ms,
        durability: match settings.log_durability {
            LogDurability::Fsync => Durability::Fsync,
            LogDurability::Interval => Durability::Interval { interval_ms: settings.log_durability_interval_ms },
            LogDurability::Os => Durability::Os,
        },
    }
}

/// See the file's head.
pub(super) struct Partitions {
    seed: DirectorySeed,
    settings: Arc<Settings>,
    own: usize,
    shards: usize,
    spaces: BTreeMap<u32, PartitionKey>,
    by_key: HashMap<PartitionKey, (u32, Partition)>,
    deleting: Vec<PathBuf>,
    next_space: u32,
    opening: usize,
    opened: Vec<(PartitionKey, i32)>,
    checkpoint: CheckpointWriter,
    checkpoint_due_ms: u64,
    checkpoint_wanted: bool,
    checkpoint_covers: Vec<PartitionKey>,
    closing: bool,
    cut_short: bool,
}

impl Partitions {
    pub(super) fn new(seed: DirectorySeed, settings: Arc<Settings>, own: u16, shards: usize) -> Self {
        let checkpoint = CheckpointWriter::new(seed.path.clone(), own, CHECKPOINT_SPACE);
        Self {
            seed,
            settings,
            own: usize::from(own),
            shards,
            spaces: BTreeMap::new(),
            by_key: HashMap::new(),
            deleting: Vec::new(),
            next_space: FIRST_SPACE,
            opening: 0,
            opened: Vec::new(),
            checkpoint,
            checkpoint_due_ms: CHECKPOINT_INTERVAL_MS,
            checkpoint_wanted: true,
            checkpoint_covers: Vec::new(),
            closing: false,
            cut_short: false,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(super) fn get_mut(&mut self, key: &PartitionKey) -> Option<&mut Partition> {
        self.by_key.get_mut(key).map(|(_, partition)| partition)
    }

    pub(super) fn unwatch(&mut self, key: &PartitionKey, shard: u16, pending: u64) {
        if let Some(partition) = self.get_mut(key) {
            partition.unwatch(shard, pending);
        }
    }

    /// Whether everything the image asks for is open, with its terms on the disk.
    pub(super) fn all_open(&self) -> bool {
        self.opening == 0 && !self.checkpoint_wanted && self.checkpoint.is_idle()
    }

    /// Opens what the image adds to this shard, deletes what it takes away, refreshes configs.
    pub(super) fn apply(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        before: &MetadataImage,
        image: &MetadataImage,
        answers: &mut Answers,
        wakes: &mut Vec<ReplyTo>,
    ) {
        let gone: Vec<PartitionKey> =
            self.by_key.keys().filter(|key| !image.has_partition(key)).copied().collect();
        for key in gone {
            if let Some((space, mut partition)) = self.by_key.remove(&key) {
                partition.abandon(answers, wakes);
                self.opening -= usize::from(partition.is_opening());
                self.spaces.remove(&space);
                self.deleting.push(self.seed.partition_path(&key));
            }
        }
        let first = before.epoch() == 0;
        for (topic, key) in image.partitions() {
            if image.shard_of(&key, self.shards) != self.own {
                continue;
            }
            let config = TopicConfig::resolve(&self.settings, topic.configs());
            if let Some((_, partition)) = self.by_key.get_mut(&key) {
                partition.config = config;
                continue;
            }
            let space = self.next_space;
            self.next_space += 1;
            let partition = Partition::new(PartitionSpec {
                key,
                topic: topic.name().to_owned(),
                log: log_config(&self.settings, &config),
                config,
                directory: self.seed.partition_path(&key),
                token_space: space,
                checkpoint: self.seed.checkpoint_of(&key),
                clean: self.seed.clean && first,
                start_counter: self.seed.start_counter,
                created: !first,
            });
            self.spaces.insert(space, key);
            self.by_key.insert(key, (space, partition));
            self.opening += 1;
            self.drive_opening(now, disk, key, Vec::new());
        }
    }

    fn drive_opening(&mut self, now: Now, disk: &mut dyn Disk, key: PartitionKey, completions: Vec<Completion>) {
        if let Some((_, partition)) = self.by_key.get_mut(&key)
            && partition.step_opening(now, disk, completions)
        {
            self.on_opened(key);
        }
    }

    fn on_opened(&mut self, key: PartitionKey) {
        self.opening -= 1;
        self.checkpoint_wanted = true;
        if let Some(log) = self.by_key.get(&key).and_then(|(_, partition)| partition.log()) {
            self.opened.push((key, log.leader_epoch().0));
        }
    }

    /// The partitions opened since the last call, with their leader epochs.
    pub(super) fn take_opened(&mut self) -> Vec<(PartitionKey, i32)> {
        std::mem::take(&mut self.opened)
    }

    pub(super) fn on_completion(&mut self, now: Now, disk: &mut dyn Disk, space: u32, completion: Completion) {
        if space == CHECKPOINT_SPACE {
            self.checkpoint.on_completion(disk, completion);
            return;
        }
        // A space that is gone belonged to a deleted partition.
        let Some(key) = self.spaces.get(&space).copied() else { return };
        if let Some((_, partition)) = self.by_key.get_mut(&key)
            && partition.on_completion(now, disk, completion)
        {
            self.on_opened(key);
        }
    }

    pub(super) fn tick(&mut self, now: Now, disk: &mut dyn Disk) {
        for (_, partition) in self.by_key.values_mut() {
            if let Some(log) = partition.log_mut() {
                log.tick(now.wall_ms, disk);
            }
        }
        if now.monotonic_ms >= self.checkpoint_due_ms {
            self.checkpoint_due_ms = now.monotonic_ms + CHECKPOINT_INTERVAL_MS;
            self.checkpoint_wanted = true;
        }
    }

    /// Writes what this turn staged.
    pub(super) fn flush(&mut self, now: Now, disk: &mut dyn Disk) {
        for (_, partition) in self.by_key.values_mut() {
            if let Some(log) = partition.log_mut() {
                log.flush(now.wall_ms, disk);
            }
        }
    }

    pub(super) fn settle(&mut self, answers: &mut Answers, wakes: &mut Vec<ReplyTo>) {
        for (_, partition) in self.by_key.values_mut() {
            partition.settle(answers, wakes);
        }
    }

    /// Reopens what was fenced, writes the checkpoint that is due, confirms terms it carries.
    pub(super) fn maintain(&mut self, now: Now, disk: &mut dyn Disk) {
        let fenced: Vec<PartitionKey> = self
            .by_key
            .iter_mut()
            .filter_map(|(key, (_, partition))| partition.reopen_if_fenced().then_some(*key))
            .collect();
        for key in fenced {
            self.opening += 1;
            self.drive_opening(now, disk, key, Vec::new());
        }
        if self.checkpoint.is_idle() && !self.checkpoint_covers.is_empty() {
            let ok = self.checkpoint.succeeded();
            for key in std::mem::take(&mut self.checkpoint_covers) {
                if let Some((_, partition)) = self.by_key.get_mut(&key)
                    && ok
                {
                    partition.term_unconfirmed = false;
                    if let Some(log) = partition.log_mut() {
                        log.confirm_term();
                    }
                }
            }
            self.checkpoint_wanted |= !ok;
        }
        if self.checkpoint_wanted && self.opening == 0 && self.checkpoint.is_idle() {
            self.checkpoint_wanted = false;
            let open: Vec<(PartitionKey, PartitionCheckpoint)> = self
                .by_key
                .iter()
                .filter_map(|(key, (_, partition))| Some((*key, partition.log()?.checkpoint())))
                .collect();
            self.checkpoint_covers = open.iter().map(|(key, _)| *key).collect();
            let partitions = open.into_iter().map(|(_, partition)| partition).collect();
            let checkpoint = Checkpoint { start_counter: self.seed.start_counter, partitions };
            self.checkpoint.begin(disk, checkpoint);
        }
    }

    /// The drain's deadline has passed: stop without waiting.
    pub(super) fn cut_short(&mut self) {
        self.cut_short = true;
    }

    pub(super) fn is_cut_short(&self) -> bool {
        self.cut_short
    }

    /// Goes on closing all logs; true when each is durable and a last checkpoint is written.
    pub(super) fn close_all(&mut self, now: Now, disk: &mut dyn Disk) -> bool {
        if self.cut_short {
            return true;
        }
        let mut closed = true;
        for (_, partition) in self.by_key.values_mut() {
            if let Some(log) = partition.log_mut() {
                closed &= log.close(now.wall_ms, disk);
            }
        }
        if !closed || !self.checkpoint.is_idle() {
            return false;
        }
        if !self.closing {
            self.closing = true;
            self.checkpoint_wanted = true;
            return false;
        }
        !self.checkpoint_wanted
    }
}
