//! ListOffsets and leader epochs.

use tidelog_net::messages as kp;
use tidelog_net::records::Compression;
use tidelog_net::{ErrorCode, ResponseBody};
use tidelog_segment_log::disk::sim::{SimConfig, SimFaults};

use super::device::partition_syncs;
use super::harness::{Cluster, EPOCH_MS};
use super::requests::*;

const SHARDS: [usize; 2] = [1, 3];

fn cold(shards: usize) -> Cluster {
    let config = SimConfig {
        faults: SimFaults {
            cold_ppm: 1_000_000,
            ..Default::default()
        },
        ..Default::default()
    };
    Cluster::with(shards, &[], config)
}

#[test]
fn named_positions() {
    for shards in SHARDS {
        for mut cluster in [Cluster::new(shards), cold(shards)] {
            let client = cluster.connect(0);
            cluster.create(client, "t", 3, &[]);
            for partition in 0..3 {
                let list = |cluster: &mut Cluster, time| cluster.list(client, "t", partition, time);
                for (time, offset) in [(-1, 0), (-2, 0), (-3, -1), (-4, 0), (-5, -1)] {
                    assert_eq!(list(&mut cluster, time), (offset, -1, 0), "empty, {time}");
                }
                let records = [(EPOCH_MS + 5, "a"), (EPOCH_MS + 9, "b"), (EPOCH_MS + 7, "c")];
                cluster.put(client, "t", partition, batch_of(Compression::Lz4, None, &records));
                cluster.put(client, "t", partition, batch(&["d"]));
                for (time, offset) in [(-1, 4), (-2, 0), (-4, 0), (-5, -1)] {
                    assert_eq!(list(&mut cluster, time), (offset, -1, 0), "{time}");
                }
                assert_eq!(list(&mut cluster, -3), (1, EPOCH_MS + 9, 0));
                let unknown = ErrorCode::UnsupportedVersion.code();
                assert_eq!(list(&mut cluster, -77), (-1, -1, unknown));
            }
            let unknown = ErrorCode::UnknownTopicOrPartition.code();
            assert_eq!(cluster.list(client, "t", 3, -1), (-1, -1, unknown));
            assert_eq!(cluster.list(client, "u", 0, -1), (-1, -1, unknown));
        }
    }
}

#[test]
fn times_are_found_inside_compressed_batches() {
    let codecs = [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ];
    for shards in SHARDS {
        for mut cluster in [Cluster::new(shards), cold(shards)] {
            let client = cluster.connect(shards - 1);
            cluster.create(client, "t", 3, &[]);
            let value = "v".repeat(2000);
            for partition in 0..3 {
                // Ten records a batch, ten ms apart.
                for n in 0..20 {
                    let first = EPOCH_MS + 100 * n;
                    let records: Vec<_> = (0..10).map(|r| (first + 10 * r, value.as_str())).collect();
                    let batch = batch_of(codecs[n as usize % codecs.len()], None, &records);
                    cluster.put(client, "t", partition, batch);
                }
                for ms in [0, 1, 10, 55, 990, 991, 1234, 1989, 1990] {
                    let found = cluster.list(client, "t", partition, EPOCH_MS + ms);
                    let offset = (ms + 9) / 10;
                    assert_eq!(found, (offset, EPOCH_MS + 10 * offset, 0), "{ms} ms");
                }
                assert_eq!(cluster.list(client, "t", partition, 0), (0, EPOCH_MS, 0));
                assert_eq!(cluster.list(client, "t", partition, EPOCH_MS + 1991), (-1, -1, 0));
                assert_eq!(cluster.list(client, "t", partition, i64::MAX), (-1, -1, 0));
            }
        }
    }
}

#[test]
fn the_largest_timestamp_is_found_while_a_newer_one_is_being_written() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        cluster.create(client, "t", 3, &[]);
        for partition in 0..3 {
            let at = |time| batch_of(Compression::None, None, &[(time, "a")]);
            cluster.put(client, "t", partition, at(EPOCH_MS));
            cluster.hold(partition_syncs);
            let writer = cluster.connect(0);
            cluster.send(
                writer,
                9,
                produce_request("t", -1, &[(partition, at(EPOCH_MS + 1))]),
            );
            cluster.run();
            cluster.send(client, 9, list_request("t", partition, -3));
            cluster.run();
            cluster.release();
            cluster.run();
            let (_, body) = cluster.received(client).expect("an answer");
            let ResponseBody::ListOffsets(body) = body else {
                panic!("not a list answer")
            };
            let found = body.topics[0].partitions[0].timestamp;
            assert!((EPOCH_MS..=EPOCH_MS + 1).contains(&found), "{found}");
        }
    }
}

#[test]
fn nothing_above_the_high_watermark_is_found_by_time() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        cluster.create(client, "t", 1, &[]);
        cluster.put(client, "t", 0, batch(&["a"]));
        cluster.hold(partition_syncs);
        let later = batch_of(Compression::None, None, &[(EPOCH_MS + 10, "b")]);
        cluster.ask(client, 9, produce_request("t", 1, &[(0, later)]));
        assert_eq!(cluster.list(client, "t", 0, EPOCH_MS + 1), (-1, -1, 0));
        cluster.release();
        cluster.run();
        assert_eq!(cluster.list(client, "t", 0, EPOCH_MS + 1), (1, EPOCH_MS + 10, 0));
    }
}

pub(super) fn epoch_end(
    cluster: &mut Cluster,
    client: super::harness::Client,
    partition: i32,
    epoch: i32,
) -> (i16, i32, i64) {
    use kp::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
    let partition = OffsetForLeaderPartition::default()
        .with_partition(partition)
        .with_leader_epoch(epoch)
        .with_current_leader_epoch(-1);
    let topic = OffsetForLeaderTopic::default()
        .with_topic(kp::TopicName(text("t")))
        .with_partitions(vec![partition]);
    let request = kp::OffsetForLeaderEpochRequest::default()
        .with_replica_id(kp::BrokerId(-1))
        .with_topics(vec![topic]);
    let ResponseBody::OffsetForLeaderEpoch(body) = cluster.ask(client, 4, request) else {
        panic!("not an epoch answer")
    };
    let answer = &body.topics[0].partitions[0];
    (answer.error_code, answer.leader_epoch, answer.end_offset)
}

#[test]
fn an_unclean_start_raises_the_leader_epoch_and_old_ones_are_fenced() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        cluster.create(client, "t", 3, &[]);
        for partition in 0..3 {
            cluster.put(client, "t", partition, batch(&["a", "b"]));
        }
        let epochs = |cluster: &mut Cluster| {
            let client = cluster.connect(0);
            let body = cluster.metadata(client, &["t"], false);
            let mut epochs: Vec<_> = body.topics[0].partitions.iter().map(|p| p.leader_epoch).collect();
            epochs.sort_unstable();
            epochs
        };
        let before = epochs(&mut cluster);
        assert!(before.iter().all(|epoch| *epoch >= 0));
        cluster.restart();
        assert_eq!(epochs(&mut cluster), before, "a clean start keeps it");
        cluster.power_cut();
        let after = epochs(&mut cluster);
        assert!(after[0] > before[2], "{before:?} {after:?}");
        let client = cluster.connect(0);
        let body = cluster.metadata(client, &["t"], false);
        for partition in &body.topics[0].partitions {
            let (index, epoch) = (partition.partition_index, partition.leader_epoch);
            for (claimed, code) in [(-1, 0), (epoch, 0), (epoch - 1, 74), (epoch + 1, 75)] {
                let mut request = fetch_request(&[("t", index, 0)], 0, 1);
                request.topics[0].partitions[0].current_leader_epoch = claimed;
                let answer = partitions(cluster.ask(client, 12, request));
                assert_eq!(answer[0].partition.error.code(), code);
                let mut request = list_request("t", index, -1);
                request.topics[0].partitions[0].current_leader_epoch = claimed;
                let ResponseBody::ListOffsets(body) = cluster.ask(client, 9, request) else {
                    panic!("not a list answer")
                };
                assert_eq!(body.topics[0].partitions[0].error_code, code);
            }
            assert_eq!(cluster.put(client, "t", index, batch(&["c"])), 2);
            assert_eq!(
                epoch_end(&mut cluster, client, index, before[0]),
                (0, before[0], 2)
            );
            assert_eq!(epoch_end(&mut cluster, client, index, epoch), (0, epoch, 3));
            assert_eq!(epoch_end(&mut cluster, client, index, epoch + 1), (0, -1, -1));
        }
        assert_eq!(epoch_end(&mut cluster, client, 9, 0).0, 3);
    }
}
