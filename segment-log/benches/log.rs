//! The log without a broker: appends to a real file, headers of entries, the index. `just bench`.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tidelog_segment_log::batch::testing::opaque_batch;
use tidelog_segment_log::disk::Disk;
use tidelog_segment_log::disk::std_disk::StdDisk;
use tidelog_segment_log::entry::{ENTRY_VERSION, EntryHeader, EntryKind, decode_entry, padding_len};
use tidelog_segment_log::ids::{EntryIndex, FilePosition, Incarnation, LeaderEpoch, Offset};
use tidelog_segment_log::log::testing::{new_partition, open};
use tidelog_segment_log::log::{Durability, PartitionLog};
use tidelog_segment_log::segment_index::{IndexEntry, SegmentIndex};

/// Appends into one file until it is removed and begun anew: the disk must not fill up.
const FILE_BYTES: usize = 256 << 20;
const INDEX_POINTS: u64 = 100_000;

struct Bench {
    _directory: tempfile::TempDir,
    disk: StdDisk,
    log: Box<PartitionLog>,
    appended_bytes: usize,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut disk = StdDisk::new();
        let spec = new_partition(directory.path().join("t-0"), Durability::Os);
        let log = open(&mut disk, spec).expect("a new log opens");
        Self {
            _directory: directory,
            disk,
            log,
            appended_bytes: 0,
        }
    }

    fn append(&mut self, batch: &Bytes) {
        self.log
            .append(0, &mut self.disk, batch)
            .expect("the log is open");
        self.log.flush(0, &mut self.disk);
        let mut completions = Vec::new();
        self.disk.take_completions(&mut completions);
        for completion in completions {
            self.log.on_completion(0, &mut self.disk, completion);
        }
        self.appended_bytes += batch.len();
    }
}

fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append");
    for (name, len) in [("64 KiB", 64 << 10), ("1 KiB", 1 << 10)] {
        let batch = opaque_batch(len, 0x5a);
        group.throughput(Throughput::Bytes(len as u64));
        let mut bench = Bench::new();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                if bench.appended_bytes >= FILE_BYTES {
                    bench = Bench::new();
                }
                bench.append(&batch);
            });
        });
    }
    group.finish();
}

fn entry(criterion: &mut Criterion) {
    let incarnation = Incarnation([3; 16]);
    let payload = opaque_batch(1 << 10, 0x5a);
    let header = EntryHeader {
        version: ENTRY_VERSION,
        kind: EntryKind::Data,
        flags: 0,
        payload_len: payload.len() as u32,
        payload_crc: u32::from_be_bytes(*payload[17..].first_chunk().expect("a header")),
        term: LeaderEpoch(-1),
        index: EntryIndex(5),
        base_offset: Offset(0),
        last_offset_delta: 0,
        prev_crc: 9,
        header_crc: 0,
        max_timestamp: 1_700_000_000_000,
        durable_gap: 1,
    };
    let patched = tidelog_segment_log::batch::patch_prefix(&payload, Offset(0), LeaderEpoch(1));
    let stored = [&patched[..], &payload[patched.len()..]].concat();
    let mut header = EntryHeader {
        term: LeaderEpoch(1),
        ..header
    };
    let bytes = header.encode(&incarnation, &stored);
    let mut whole = [&bytes[..], &stored].concat();
    whole.resize(whole.len() + padding_len(header.payload_len), 0);
    criterion.bench_function("entry header: encode", |bencher| {
        bencher.iter(|| black_box(header.encode(&incarnation, black_box(&stored))));
    });
    criterion.bench_function("entry header: access and check", |bencher| {
        bencher.iter(|| EntryHeader::decode(black_box(&whole), &incarnation).expect("valid"));
    });
    criterion.bench_function("entry of 1 KiB: check all", |bencher| {
        bencher.iter(|| decode_entry(black_box(&whole), &incarnation).expect("valid").0);
    });
}

fn index(criterion: &mut Criterion) {
    let filled = || {
        let mut index = SegmentIndex::new();
        for n in 1..=INDEX_POINTS {
            index.observe(IndexEntry {
                index: EntryIndex(n),
                base_offset: Offset(n as i64 * 10),
                position: FilePosition(n * 8192),
                max_timestamp: n as i64,
            });
        }
        index
    };
    let index = filled();
    let mut at = 0;
    criterion.bench_function("index: look-up by offset", |bencher| {
        bencher.iter(|| {
            at = (at + 7919 * 10) % (INDEX_POINTS as i64 * 10);
            black_box(index.floor_by_offset(Offset(black_box(at + 10))))
        });
    });
    criterion.bench_function("index: 100,000 points", |bencher| {
        bencher.iter_batched(|| (), |()| filled(), BatchSize::PerIteration);
    });
}

criterion_group!(benches, append, entry, index);
criterion_main!(benches);
