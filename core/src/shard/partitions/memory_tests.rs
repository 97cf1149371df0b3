//! What open partitions cost at rest: the constant that the memory limit is divided by must be true, and a tick does
//! not look at each of them.

use std::sync::Arc;

use bytes::Bytes;
use tidelog_net::Uuid;
use tidelog_segment_log::batch::testing::{BatchSpec, build_batch};
use tidelog_segment_log::data_directory::{DataDirectory, NewIdentity};
use tidelog_segment_log::disk::heap::HeapPool;
use tidelog_segment_log::disk::{Completion, Descriptors, Disk, StdDisk};
use tidelog_segment_log::ids::PartitionKey;

use super::{DirectoriesSeed, DirectorySeed, Outbox, Partitions};
use crate::counting::held_bytes;
use crate::metadata::{MetadataMachine, MetadataRecord};
use crate::metrics::ShardCells;
use crate::reactor::{Progress, StepBudget};
use crate::settings::Settings;
use crate::shard::partition::{Answers, PartitionAnswer, PartitionOp};
use crate::shard::sockets::PARTITION_BYTES;
use crate::shard::{Now, ReplyTo};

const PARTITIONS: i32 = 1_000;

struct Bench {
    partitions: Partitions,
    disk: StdDisk,
    metrics: ShardCells,
    answers: Answers,
    now: Now,
}

impl Bench {
    fn new(directory: &std::path::Path) -> Self {
        let mut disk = StdDisk::with_descriptors(u64::MAX, Descriptors::bounded(64));
        let identity = NewIdentity {
            node_id: 1,
            cluster_id: "memory".into(),
            rack: None,
            directory_id: [7; 16],
        };
        let directory = Arc::new(DataDirectory::open(&mut disk, directory, identity).expect("a directory"));
        let settings: Arc<Settings> = crate::shard::tests::settings(1, &[]);
        let seed = DirectoriesSeed {
            home: DirectorySeed {
                directory,
                space: Arc::default(),
            },
            others: Vec::new(),
            unusable: Vec::new(),
        };
        Self {
            partitions: Partitions::new(seed, HeapPool::of_shards(1 << 20, 1).remove(0), settings, 0, 16),
            disk,
            metrics: ShardCells::new(0),
            answers: Vec::new(),
            now: Now {
                monotonic_ms: 0,
                wall_ms: 1_700_000_000_000,
                instant: std::time::Instant::now(),
            },
        }
    }

    fn create_topic(&mut self) -> Vec<PartitionKey> {
        let mut machine = MetadataMachine::new();
        let topic_id = Uuid::from_bytes([9; 16]);
        machine
            .apply(&MetadataRecord::TopicCreated {
                name: "a-topic-with-a-name-of-usual-length".into(),
                topic_id,
                partitions: PARTITIONS,
                replication_factor: 1,
                configs: vec![("retention.ms".into(), "3600000".into())],
            })
            .expect("a topic");
        self.partitions.take_image(machine.image(), false);
        let mut wakes = Vec::new();
        while self.partitions.is_applying() {
            let outbox = Outbox {
                answers: &mut self.answers,
                wakes: &mut wakes,
            };
            let mut budget = StepBudget::items(1_000);
            self.partitions
                .apply_step(self.now, &mut self.disk, &mut budget, outbox);
            self.settle();
        }
        let topic = tidelog_segment_log::ids::TopicId([9; 16]);
        (0..PARTITIONS)
            .map(|partition| PartitionKey { topic, partition })
            .collect()
    }

    /// Turns until nothing happens any more.
    fn settle(&mut self) {
        let mut wakes = Vec::new();
        loop {
            let mut completions: Vec<Completion> = Vec::new();
            self.disk.take_completions(&mut completions);
            let is_quiet = completions.is_empty() && !self.partitions.wants_turn();
            for completion in completions {
                let space = (completion.token.0 >> 32) as u32;
                self.partitions
                    .on_completion(self.now, &mut self.disk, space, completion);
            }
            self.partitions.end_of_turn(
                self.now,
                &mut self.disk,
                &mut self.answers,
                &mut wakes,
                &self.metrics,
            );
            self.partitions.take_opened();
            if is_quiet {
                return;
            }
        }
    }

    fn produce(&mut self, key: &PartitionKey, batch: &Bytes) {
        let reply = ReplyTo {
            shard: 0,
            pending: 0,
            part: 0,
        };
        let op = PartitionOp::Produce {
            batch: batch.clone(),
            acks: -1,
        };
        let partition = self.partitions.get_mut(key).expect("it exists");
        partition.operate(
            self.now,
            &mut self.disk,
            reply,
            op,
            &mut self.answers,
            &self.metrics,
        );
    }

    fn tick(&mut self) {
        self.now.monotonic_ms += 1_000;
        self.now.wall_ms += 1_000;
        self.partitions.begin_round(self.now);
        let mut budget = StepBudget::items(u32::MAX);
        while self
            .partitions
            .tick_step(self.now, &mut self.disk, &mut budget, &self.metrics)
            == Progress::Pending
        {}
        self.settle();
    }

    fn produced(&self) -> usize {
        let is_produced =
            |(_, answer): &&(ReplyTo, PartitionAnswer)| matches!(answer, PartitionAnswer::Produced { .. });
        self.answers.iter().filter(is_produced).count()
    }
}

fn per_partition(before: isize) -> usize {
    usize::try_from(held_bytes() - before).expect("something is held") / PARTITIONS as usize
}

#[test]
fn an_open_partition_at_rest_holds_no_more_than_is_counted() {
    let directory = tempfile::tempdir().expect("a directory");
    let before = held_bytes();
    let mut bench = Bench::new(directory.path());
    let keys = bench.create_topic();
    let opened = per_partition(before);
    // An idempotent producer's small batch, then a large one, which is staged and gone.
    let spec = BatchSpec {
        producer_id: 7,
        producer_epoch: 0,
        base_sequence: 0,
        ..BatchSpec::default()
    };
    let small = Bytes::from(build_batch(&spec, &[&[1; 1_000]]));
    let large = Bytes::from(build_batch(&BatchSpec::default(), &[&[1; 15_000]]));
    for key in &keys {
        bench.produce(key, &small);
        bench.produce(key, &large);
    }
    bench.settle();
    assert_eq!(bench.produced(), 2 * keys.len(), "all are acknowledged");
    bench.answers = Vec::new();
    let written = per_partition(before);
    (0..3).for_each(|_| bench.tick());
    let rested = per_partition(before);
    println!("bytes per partition: opened {opened}, just written {written}, at rest {rested}");
    drop((small, large, keys));
    let rested = per_partition(before);
    assert!(
        rested <= PARTITION_BYTES,
        "{rested} bytes per partition at rest, {PARTITION_BYTES} are counted"
    );
    // The counted constant is no idle guess either.
    assert!(
        rested >= PARTITION_BYTES / 4,
        "{rested} bytes, {PARTITION_BYTES} are counted"
    );
}

/// Partitions that a tick looks at, so long after the last one.
fn looked_at(bench: &mut Bench, after_ms: u64) -> usize {
    bench.now.monotonic_ms += after_ms;
    bench.partitions.begin_round(bench.now);
    let mut looked_at = 0;
    loop {
        let mut budget = StepBudget::items(1);
        let progress = bench
            .partitions
            .tick_step(bench.now, &mut bench.disk, &mut budget, &bench.metrics);
        looked_at += usize::from(!budget.take());
        if progress == Progress::Done {
            return looked_at;
        }
    }
}

#[test]
fn a_tick_looks_at_what_was_touched_and_seldom_at_all() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut bench = Bench::new(directory.path());
    let keys = bench.create_topic();
    let all = keys.len();
    assert_eq!(looked_at(&mut bench, 50), all, "the first round is a whole one");
    // What was opened has settled after a tick or two.
    while looked_at(&mut bench, 5) > 0 {}
    let batch = Bytes::from(build_batch(&BatchSpec::default(), &[&[1; 1_000]]));
    bench.produce(&keys[3], &batch);
    bench.settle();
    assert_eq!(bench.produced(), 1, "it is acknowledged");
    assert_eq!(looked_at(&mut bench, 5), 1, "the one that was touched");
    while looked_at(&mut bench, 5) > 0 {}
    assert_eq!(
        looked_at(&mut bench, 1_000),
        all,
        "the time for a whole round has come"
    );
    assert_eq!(
        looked_at(&mut bench, 50),
        0,
        "1,000 partitions are looked at in turn each 100 ms"
    );
    assert_eq!(looked_at(&mut bench, 50), all);
}
