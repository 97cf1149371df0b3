//! Applying a metadata image: partitions are deleted, opened and told their configs, in steps.
//!
//! Topics that are the same as in the image before cost a comparison of pointers. Of images that come while
//! one is being applied only the newest follows. A step ends with the first partition that it opens or
//! deletes, since both go to the disk.

use std::path::Path;
use std::sync::Arc;

use tidelog_net::Uuid;
use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::disk::heap::HEAP_ROOT;
use tidelog_segment_log::ids::{LeaderEpoch, PartitionKey};
use tidelog_segment_log::limits::TERMS_PER_START;
use tidelog_segment_log::log::OpenSpec;
use tidelog_segment_log::recovery::RecoveryOptions;

use super::directories::partition_name;
use super::{Partitions, log_config};
use crate::metadata::{MetadataImage, TopicImage};
use crate::reactor::{Progress, StepBudget};
use crate::shard::partition::{Answers, Partition, PartitionSpec};
use crate::shard::room::Room;
use crate::shard::{Now, ReplyTo, topic_id};
use crate::topic_config::{Storage, TopicConfig};

/// An image that is being applied.
pub(super) struct Applying {
    image: Arc<MetadataImage>,
    /// The first one of this process: what it names was there before.
    is_first: bool,
    /// What the image before had and this one has not is gone.
    is_cleared: bool,
    /// Where the next step goes on: a topic's name, and the partition of it.
    topic: Option<Arc<str>>,
    partition: i32,
}

/// Where answers go that a step brings.
pub(in crate::shard) struct Outbox<'a> {
    pub(in crate::shard) answers: &'a mut Answers,
    pub(in crate::shard) wakes: &'a mut Vec<ReplyTo>,
}

impl Applying {
    fn new(image: Arc<MetadataImage>, is_first: bool) -> Self {
        Self {
            image,
            is_first,
            is_cleared: false,
            topic: None,
            partition: 0,
        }
    }

    fn go_on_at(&mut self, topic: &TopicImage, partition: i32) -> Progress {
        self.topic = Some(Arc::clone(&topic.name));
        self.partition = partition;
        Progress::Pending
    }
}

impl Partitions {
    /// Takes a new image; [`Partitions::apply_step`] carries it out.
    pub(in crate::shard) fn take_image(&mut self, image: Arc<MetadataImage>, is_first: bool) {
        if is_first {
            let shards = self.shards as u16;
            let is_own = |topic: &TopicImage, at| usize::from(topic.shard_of(at, shards)) == self.own;
            let own = |topic: &Arc<TopicImage>| (0..topic.partitions).filter(|at| is_own(topic, *at)).count();
            self.at_start = image.topics().map(own).sum();
        }
        if self.applying.is_some() {
            self.next_image = Some(image);
        } else {
            self.applying = Some(Applying::new(image, is_first));
        }
    }

    /// Whether an image is not applied yet.
    pub(in crate::shard) fn is_applying(&self) -> bool {
        self.applying.is_some()
    }

    /// Whether applying an image waited for openings to end, and can go on.
    pub(in crate::shard) fn may_apply_again(&mut self) -> bool {
        let may = self.waits_for_openings && self.opening < self.openings_max;
        self.waits_for_openings &= !may;
        may
    }

    /// Whether topics were deleted since the last call.
    pub(in crate::shard) fn take_topics_gone(&mut self) -> bool {
        std::mem::take(&mut self.topics_gone)
    }

    /// Goes on applying the image. Done: all that was taken is applied, though what it opens may not be open.
    pub(in crate::shard) fn apply_step(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        budget: &mut StepBudget,
        mut outbox: Outbox<'_>,
    ) -> Progress {
        while let Some(mut applying) = self.applying.take() {
            let mut progress = Progress::Done;
            if !applying.is_cleared {
                progress = self.clear_step(disk, &mut applying, budget, &mut outbox);
            }
            if progress == Progress::Done {
                if !std::mem::replace(&mut applying.is_cleared, true) {
                    (applying.topic, applying.partition) = (None, 0);
                }
                progress = self.open_step(now, disk, &mut applying, budget);
            }
            if progress == Progress::Pending {
                self.applying = Some(applying);
                // Else the job would keep the loop awake: it is wanted again when an opening has ended.
                return if self.waits_for_openings {
                    Progress::Done
                } else {
                    Progress::Pending
                };
            }
            self.image = applying.image;
            self.applying = self.next_image.take().map(|next| Applying::new(next, false));
        }
        Progress::Done
    }

    /// Deletes what the image takes away.
    fn clear_step(
        &mut self,
        disk: &mut dyn Disk,
        applying: &mut Applying,
        budget: &mut StepBudget,
        outbox: &mut Outbox<'_>,
    ) -> Progress {
        let (before, image) = (Arc::clone(&self.image), Arc::clone(&applying.image));
        let mut from = std::mem::take(&mut applying.partition);
        for topic in before.topics_from(applying.topic.take().as_deref()) {
            if is_same(&image, topic) {
                if !budget.take() {
                    return applying.go_on_at(topic, 0);
                }
                continue;
            }
            self.topics_gone |= image.topic_by_id(topic.topic_id).is_none();
            for partition in std::mem::take(&mut from)..topic.partitions {
                if !budget.take() {
                    return applying.go_on_at(topic, partition);
                }
                let key = key_of(topic, partition);
                if self.by_key.contains_key(&key) && !has_partition(&image, &key) {
                    self.remove(disk, key, outbox.answers, outbox.wakes);
                    budget.end();
                }
            }
        }
        Progress::Done
    }

    /// Opens what the image adds to this shard, and refreshes the configs of what is there.
    fn open_step(
        &mut self,
        now: Now,
        disk: &mut dyn Disk,
        applying: &mut Applying,
        budget: &mut StepBudget,
    ) -> Progress {
        let (before, image) = (Arc::clone(&self.image), Arc::clone(&applying.image));
        let mut from = std::mem::take(&mut applying.partition);
        for topic in image.topics_from(applying.topic.take().as_deref()) {
            if is_same(&before, topic) {
                if !budget.take() {
                    return applying.go_on_at(topic, 0);
                }
                continue;
            }
            let config = TopicConfig::resolve(&topic.configs, &self.defaults);
            for partition in std::mem::take(&mut from)..topic.partitions {
                if !budget.take() {
                    return applying.go_on_at(topic, partition);
                }
                if usize::from(topic.shard_of(partition, self.shards as u16)) != self.own {
                    continue;
                }
                let key = key_of(topic, partition);
                if let Some((_, partition)) = self.by_key.get_mut(&key) {
                    let log = log_config(&self.settings, &config);
                    partition.set_config(config.clone(), log);
                    continue;
                }
                if self.opening >= self.openings_max {
                    self.waits_for_openings = true;
                    return applying.go_on_at(topic, partition);
                }
                self.begin_partition(topic, key, config.clone(), applying.is_first);
                self.drive_opening(now, disk, key, Vec::new());
                budget.end();
            }
        }
        Progress::Done
    }

    fn begin_partition(
        &mut self,
        topic: &TopicImage,
        key: PartitionKey,
        config: TopicConfig,
        is_first: bool,
    ) {
        let space = self.take_space();
        if config.storage == Storage::Memory {
            self.begin_in_memory(topic, key, config, is_first, space);
            return;
        }
        let id = self.directory_of(topic, key.partition);
        let Some((id, directory)) = id.and_then(|id| Some((id, self.directory(id)?))) else {
            let reason = format!(
                "its data directory {} is not among those of this broker; give it with --data-dir again",
                topic.directory_of(key.partition)
            );
            let partition = Partition::unavailable(key, topic.name.to_string(), config, reason);
            self.by_key.insert(key, (space, partition));
            self.unavailable += 1;
            return;
        };
        let seed = &directory.seed;
        let evidence = seed.evidence(&key);
        let partition = Partition::new(PartitionSpec {
            directory: Some(id),
            topic: topic.name.to_string(),
            open: OpenSpec {
                directory: seed.partition_path(&key),
                key,
                config: log_config(&self.settings, &config),
                token_space: space,
                checkpoint: evidence.checkpoint,
                clean: is_first && seed.directory.was_clean(),
                start_counter: seed.directory.start_counter(),
                created: !is_first,
            },
            config,
            options: evidence.options,
            room: Room::Directory(Arc::clone(&seed.space)),
        });
        self.spaces.insert(space, key);
        self.by_key.insert(key, (space, partition));
        self.count_opening();
    }

    /// One whose records are kept nowhere else: it begins empty, in a term above all that an earlier start gave
    /// offsets in (ADR 0018).
    fn begin_in_memory(
        &mut self,
        topic: &TopicImage,
        key: PartitionKey,
        config: TopicConfig,
        is_first: bool,
        space: u32,
    ) {
        let start_counter = self.home().directory.start_counter();
        let term = match is_first {
            true => start_counter.saturating_mul(TERMS_PER_START),
            false => 0,
        };
        let partition = Partition::new(PartitionSpec {
            directory: None,
            topic: topic.name.to_string(),
            open: OpenSpec {
                directory: Path::new(HEAP_ROOT).join(partition_name(&key)),
                key,
                config: log_config(&self.settings, &config),
                token_space: space,
                checkpoint: None,
                clean: false,
                start_counter,
                created: true,
            },
            config,
            options: RecoveryOptions {
                // The largest of all stands for terms that are used up; opening says so.
                term_floor: LeaderEpoch(i32::try_from(term).unwrap_or(i32::MAX)),
                is_volatile: true,
                ..RecoveryOptions::default()
            },
            room: Room::Memory(Arc::clone(&self.memory)),
        });
        self.spaces.insert(space, key);
        self.by_key.insert(key, (space, partition));
        self.count_opening();
    }
}

fn key_of(topic: &TopicImage, partition: i32) -> PartitionKey {
    PartitionKey {
        topic: topic_id(topic),
        partition,
    }
}

/// Whether an image has this very topic.
fn is_same(image: &MetadataImage, topic: &Arc<TopicImage>) -> bool {
    let known = image.topic_by_id(topic.topic_id);
    known.is_some_and(|known| Arc::ptr_eq(known, topic))
}

/// Whether an image has a partition.
pub(in crate::shard) fn has_partition(image: &MetadataImage, key: &PartitionKey) -> bool {
    image
        .topic_by_id(Uuid::from_bytes(key.topic.0))
        .is_some_and(|topic| topic.has_partition(key.partition))
}
