//! A log over files in memory: read without a cold read wherever writes ended, rolled, trimmed and opened again.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tidelog_segment_log::batch::BatchHeader;
use tidelog_segment_log::batch::testing::{BatchSpec, build_batch};
use tidelog_segment_log::disk::heap::{HEAP_ROOT, HeapDisk, HeapPool};
use tidelog_segment_log::disk::{Completion, Disk, DiskOp, DiskOutput, Token};
use tidelog_segment_log::ids::{LeaderEpoch, Offset, PartitionKey, TopicId};
use tidelog_segment_log::log::{
    AppendError, Durability, LogConfig, OpenSpec, Opening, PartitionLog, ReadPart, drive_open,
};
use tidelog_segment_log::recovery::RecoveryOptions;

const NOW_MS: i64 = 1_700_000_000_000;
const SEGMENT_BYTES: u64 = 1 << 20;

struct Bench {
    disk: HeapDisk,
    pool: Arc<HeapPool>,
    log: PartitionLog,
}

fn spec() -> OpenSpec {
    OpenSpec {
        directory: Path::new(HEAP_ROOT).join("p"),
        key: PartitionKey {
            topic: TopicId([3; 16]),
            partition: 0,
        },
        config: LogConfig {
            segment_bytes: SEGMENT_BYTES,
            segment_ms: i64::MAX,
            durability: Durability::Os,
        },
        token_space: 9,
        checkpoint: None,
        clean: false,
        start_counter: 1,
        created: true,
    }
}

impl Bench {
    fn new(memory: u64) -> Self {
        let pool = HeapPool::of_shards(memory, 1).remove(0);
        let mut disk = HeapDisk::new(Arc::clone(&pool));
        let options = RecoveryOptions {
            term_floor: LeaderEpoch(5_120),
            is_volatile: true,
            ..RecoveryOptions::default()
        };
        let opening = Opening::with_options(spec(), options);
        let (log, _) = drive_open(&mut disk, opening).expect("it opens");
        let log = *log;
        Self { disk, pool, log }
    }

    /// Lets everything end that is under way.
    fn settle(&mut self) {
        self.log.flush(NOW_MS, &mut self.disk);
        let mut completions: Vec<Completion> = Vec::new();
        while self.disk.has_arrived() {
            self.disk.take_completions(&mut completions);
            for completion in completions.drain(..) {
                self.log.on_completion(NOW_MS, &mut self.disk, completion);
            }
        }
    }

    fn append(&mut self, value_bytes: usize) -> Result<i64, AppendError> {
        let value = vec![value_bytes as u8; value_bytes];
        let batch = Bytes::from(build_batch(&BatchSpec::default(), &[&value]));
        let appended = self.log.append(NOW_MS, &mut self.disk, &batch)?;
        self.settle();
        Ok(appended.base_offset.0)
    }

    /// The offsets of a plan from an offset on, which must be hot.
    fn read(&mut self, from: i64, max_bytes: usize) -> Vec<i64> {
        let end = self.log.high_watermark();
        let plan = self.log.read(&mut self.disk, Offset(from), end, max_bytes);
        let mut offsets = Vec::new();
        for part in plan.expect("a plan").parts {
            let ReadPart::Hot(batches) = part else {
                panic!("offset {from} is cold")
            };
            for batch in batches {
                let header = BatchHeader::parse(&batch).expect("a batch");
                assert_eq!(header.total_len(), batch.len());
                tidelog_segment_log::batch::validate_crc(&batch).expect("its checksum");
                offsets.push(header.base_offset.0);
            }
        }
        offsets
    }

    fn names(&mut self) -> Vec<String> {
        let path = spec().directory;
        self.disk.submit(Token(1), DiskOp::List { path });
        let mut completions = Vec::new();
        self.disk.take_completions(&mut completions);
        match completions.remove(0).result {
            Ok(DiskOutput::Names(names)) => names,
            other => panic!("{other:?}"),
        }
    }
}

const SIZES: [usize; 6] = [20, 3_000, 40_000, 1, 9_000, 120_000];

#[test]
fn every_offset_is_hot_and_plans_have_no_holes() {
    let mut bench = Bench::new(64 << 20);
    let count = 300;
    for nth in 0..count {
        let at = bench.append(SIZES[nth as usize % SIZES.len()]).expect("appended");
        assert_eq!(at, nth);
    }
    assert!(bench.log.segment_count() > 5);
    for from in 0..count {
        for max_bytes in [1, 5_000, 100_000, 4 << 20] {
            let offsets = bench.read(from, max_bytes);
            let wanted: Vec<i64> = (from..from + offsets.len() as i64).collect();
            assert_eq!(offsets, wanted, "from {from}, {max_bytes} bytes");
        }
    }
    // A plan goes on over chunks, and over segments.
    assert!(
        bench.read(0, 4 << 20).len() > 70,
        "{}",
        bench.read(0, 4 << 20).len()
    );
    assert_eq!(bench.log.leader_epoch(), LeaderEpoch(5_120));
    assert!(
        bench.names().iter().all(|name| name.ends_with(".log")),
        "{:?}",
        bench.names()
    );
}

#[test]
fn a_moved_log_start_gives_memory_back_and_a_full_pool_takes_no_more() {
    let mut bench = Bench::new(4 << 20);
    while bench.pool.has_room_for(40_000) {
        bench.append(40_000).expect("there is room");
        assert!(bench.log.log_end_offset().0 < 1_000, "never full");
    }
    let full = bench.pool.used_bytes();
    assert!((3 << 20..=4 << 20).contains(&full), "{full}");
    let end = bench.log.written_offset();
    assert_eq!(bench.read(end.0 - 1, 1), [end.0 - 1]);
    let to = Offset(end.0 * 2 / 3);
    let disk = &mut bench.disk;
    bench.log.append_log_start(NOW_MS, disk, to).expect("moved");
    for _ in 0..10 {
        bench.settle();
        bench.log.tick(NOW_MS, &mut bench.disk);
    }
    bench.settle();
    assert!(
        bench.pool.used_bytes() < full * 2 / 3,
        "{}",
        bench.pool.used_bytes()
    );
    bench.append(40_000).expect("there is room again");
    // Whoever does not ask for room is told when there is none at all, and the log stays whole.
    let refused = loop {
        match bench.append(40_000) {
            Ok(_) => assert!(bench.log.log_end_offset().0 < 1_000, "never full"),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, AppendError::NoSpace), "{refused}");
    assert!(bench.pool.refusals() > 0 && bench.pool.used_bytes() <= 4 << 20);
    let end = bench.log.written_offset();
    assert_eq!(bench.read(end.0 - 1, 1), [end.0 - 1]);
}

#[test]
fn after_a_fence_it_is_read_back_from_memory_under_a_higher_term() {
    let mut bench = Bench::new(16 << 20);
    for nth in 0..100 {
        bench.append(SIZES[nth % SIZES.len()]).expect("appended");
    }
    let Bench { mut disk, pool, log } = bench;
    let (log, report) = drive_open(&mut disk, log.into_reopening()).expect("it opens");
    assert!(
        report.quarantined.is_empty() && report.unreadable.is_empty(),
        "{report:?}"
    );
    assert_eq!(log.log_end_offset(), Offset(100));
    assert!(log.leader_epoch() > LeaderEpoch(5_120));
    let mut bench = Bench {
        disk,
        pool,
        log: *log,
    };
    bench.log.confirm_term();
    assert_eq!(bench.append(7).expect("appended"), 100);
    for from in 0..=100 {
        assert_eq!(bench.read(from, 1), [from]);
    }
}
