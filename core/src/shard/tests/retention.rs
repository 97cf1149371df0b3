//! Retention: what goes by age and by size, what never goes, and what readers see of it.

use tidelog_net::ErrorCode;
use tidelog_segment_log::disk::sim::SimConfig;

use super::super::retention_clock::HOLD_MS;
use super::harness::{Client, Cluster};

const CHECK_MS: u64 = 5_000;
const BATCH_BYTES: usize = 300_000;
/// So many of these batches fit into a segment of the least size.
const BATCHES_PER_SEGMENT: i64 = 3;
const EARLIEST: i64 = -2;

fn cluster(shards: usize) -> Cluster {
    Cluster::with(shards, &[], SimConfig::default())
}

fn topic(cluster: &mut Cluster, client: Client, name: &str, configs: &[(&str, &str)]) {
    let mut all = vec![("segment.bytes", "1048576")];
    all.extend(configs);
    cluster.create(client, name, 1, &all);
}

fn fill(cluster: &mut Cluster, client: Client, name: &str, batches: i64) {
    for _ in 0..batches {
        cluster.put(client, name, 0, keyed_batch());
    }
}

/// A record with a key and the time of the harness, as compacted topics take it too.
fn keyed_batch() -> bytes::Bytes {
    use tidelog_net::records::{BatchBuilder, Compression};
    let mut builder = BatchBuilder::new(Compression::None);
    let value = "x".repeat(BATCH_BYTES);
    builder
        .append(
            super::harness::EPOCH_MS,
            Some(b"key"),
            Some(value.as_bytes()),
            &[],
        )
        .expect("a record");
    builder.build().expect("a batch")
}

fn start(cluster: &mut Cluster, client: Client, name: &str) -> i64 {
    let (offset, _, error) = cluster.list(client, name, 0, EARLIEST);
    assert_eq!(error, 0);
    offset
}

fn removed(cluster: &mut Cluster) -> u64 {
    let shards = cluster.shards();
    (0..shards)
        .map(|at| cluster.shard(at).metrics().segments_removed.get())
        .sum()
}

#[test]
fn size_takes_whole_segments_from_the_front_and_the_rest_is_served() {
    for shards in [1, 3] {
        let mut cluster = cluster(shards);
        let client = cluster.connect(0);
        topic(&mut cluster, client, "t", &[("retention.bytes", "1048576")]);
        fill(&mut cluster, client, "t", 4 * BATCHES_PER_SEGMENT + 1);
        cluster.advance_ms(2 * CHECK_MS);
        let start = start(&mut cluster, client, "t");
        assert_eq!(start % BATCHES_PER_SEGMENT, 0, "between two segments");
        assert_eq!(
            start,
            3 * BATCHES_PER_SEGMENT,
            "the rest is less than a segment above the limit"
        );
        assert_eq!(removed(&mut cluster), 3);
        let kept = cluster.get_all_from(client, "t", 0, start);
        assert_eq!(kept.len() as i64, 4 * BATCHES_PER_SEGMENT + 1 - start);
        let below = cluster.get(client, "t", 0, start - 1);
        assert_eq!(below.partition.error, ErrorCode::OffsetOutOfRange);
        cluster.restart();
        let client = cluster.connect(0);
        assert_eq!(self::start(&mut cluster, client, "t"), start);
    }
}

#[test]
fn age_takes_everything_in_the_end_and_a_change_of_the_topic_counts_at_once() {
    let mut cluster = cluster(1);
    let client = cluster.connect(0);
    topic(&mut cluster, client, "t", &[("retention.ms", "-1")]);
    fill(&mut cluster, client, "t", 2 * BATCHES_PER_SEGMENT + 1);
    cluster.advance_ms(10 * CHECK_MS);
    assert_eq!(start(&mut cluster, client, "t"), 0, "kept for ever");
    assert_eq!(cluster.alter(client, "t", &[("retention.ms", "1000")]), 0);
    cluster.advance_ms(3 * CHECK_MS);
    let end = 2 * BATCHES_PER_SEGMENT + 1;
    assert_eq!(
        start(&mut cluster, client, "t"),
        end,
        "the segment that takes appends too"
    );
    assert_eq!(removed(&mut cluster), 3);
    assert_eq!(cluster.put(client, "t", 0, keyed_batch()), end, "offsets go on");
}

#[test]
fn a_compacted_topic_keeps_everything_unless_it_says_delete_too() {
    let mut cluster = cluster(1);
    let client = cluster.connect(0);
    let old = [("retention.ms", "1000"), ("retention.bytes", "1")];
    for (name, policy, kept) in [("compact", "compact", true), ("both", "compact,delete", false)] {
        topic(
            &mut cluster,
            client,
            name,
            &[&[("cleanup.policy", policy)], &old[..]].concat(),
        );
        fill(&mut cluster, client, name, 2 * BATCHES_PER_SEGMENT);
        cluster.advance_ms(3 * CHECK_MS);
        assert_eq!(start(&mut cluster, client, name) == 0, kept, "{name}");
    }
}

#[test]
fn deleted_records_free_their_segments_without_any_limit() {
    let mut cluster = cluster(1);
    let client = cluster.connect(0);
    topic(&mut cluster, client, "t", &[("retention.ms", "-1")]);
    fill(&mut cluster, client, "t", 3 * BATCHES_PER_SEGMENT);
    let to = 2 * BATCHES_PER_SEGMENT + 1;
    let request = super::delete_records::request(&[("t", &[(0, to)])], 1_000);
    cluster.ask(client, 2, request);
    cluster.advance_ms(1_000);
    assert_eq!(start(&mut cluster, client, "t"), to);
    assert_eq!(removed(&mut cluster), 2, "the third holds records that are kept");
}

#[test]
fn a_clock_that_leaps_ahead_deletes_nothing_for_an_hour() {
    let mut cluster = cluster(1);
    let client = cluster.connect(0);
    topic(&mut cluster, client, "t", &[("retention.ms", "86400000")]);
    fill(&mut cluster, client, "t", 2 * BATCHES_PER_SEGMENT);
    cluster.advance_ms(2 * CHECK_MS);
    cluster.leap_ms = 365 * 86_400_000;
    cluster.advance_ms(2 * CHECK_MS);
    assert_eq!(start(&mut cluster, client, "t"), 0);
    assert_eq!(cluster.shard(0).metrics().retention_clock_held.get(), 1);
    // Time passes without the turns in between, which the answer does not depend on.
    cluster.pass_ms(HOLD_MS);
    cluster.advance_ms(3 * CHECK_MS);
    assert_eq!(cluster.shard(0).metrics().retention_clock_held.get(), 0);
    let client = cluster.connect(0);
    assert_eq!(start(&mut cluster, client, "t"), 2 * BATCHES_PER_SEGMENT);
}

/// Segments that were made of files of removed ones, and bytes of files that wait for that.
fn recycled(cluster: &Cluster) -> (u64, u64) {
    let spares = cluster.spares();
    (spares.reused(), spares.bytes())
}

#[test]
fn files_of_removed_segments_become_segments_again_and_nothing_is_lost_by_it() {
    for shards in [1, 3] {
        let sets = ["storage.recycle_max=64MiB", "log.durability=fsync"];
        let mut cluster = Cluster::with(shards, &sets, SimConfig::default());
        let client = cluster.connect(0);
        topic(&mut cluster, client, "t", &[("retention.bytes", "1048576")]);
        fill(&mut cluster, client, "t", 4 * BATCHES_PER_SEGMENT + 1);
        cluster.advance_ms(2 * CHECK_MS);
        assert_eq!(removed(&mut cluster), 3);
        let (reused, bytes) = recycled(&cluster);
        assert_eq!(reused, 0);
        assert!((3 << 20..=6 << 20).contains(&bytes), "three segments: {bytes}");
        fill(&mut cluster, client, "t", 2 * BATCHES_PER_SEGMENT);
        assert_eq!(recycled(&cluster).0, 2);
        let start = start(&mut cluster, client, "t");
        let all = 6 * BATCHES_PER_SEGMENT + 1 - start;
        assert_eq!(cluster.get_all_from(client, "t", 0, start).len() as i64, all);
        for is_cut in [false, true] {
            match is_cut {
                true => cluster.power_cut(),
                false => cluster.restart(),
            }
            let client = cluster.connect(0);
            assert_eq!(self::start(&mut cluster, client, "t"), start);
            assert_eq!(cluster.get_all_from(client, "t", 0, start).len() as i64, all);
            assert!(recycled(&cluster).1 > 0, "the start found the one that is left");
        }
    }
}

#[test]
fn with_recycling_off_no_file_is_kept() {
    let mut cluster = Cluster::with(1, &["storage.recycle_max=0"], SimConfig::default());
    let client = cluster.connect(0);
    topic(&mut cluster, client, "t", &[("retention.bytes", "1048576")]);
    fill(&mut cluster, client, "t", 4 * BATCHES_PER_SEGMENT + 1);
    cluster.advance_ms(2 * CHECK_MS);
    fill(&mut cluster, client, "t", 2 * BATCHES_PER_SEGMENT);
    assert_eq!((removed(&mut cluster), recycled(&cluster)), (3, (0, 0)));
}
