//! Fetch: waiting and waking, limits, rotation, offsets outside the log.

use tidelog_net::ErrorCode;
use tidelog_net::hot::{FetchPartition, FetchRequest, FetchTopic};
use tidelog_segment_log::disk::sim::{SimConfig, SimFaults};

use super::device::partition_syncs;
use super::harness::Cluster;
use super::requests::*;

const SHARDS: [usize; 2] = [1, 3];

fn watchers(cluster: &mut Cluster) -> usize {
    (0..cluster.shards())
        .map(|shard| cluster.shard(shard).partitions.watcher_count())
        .sum()
}

#[test]
fn a_parked_fetch_is_woken_by_a_commit_and_never_by_an_append() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        let reader = cluster.connect(shards - 1);
        cluster.create(client, "t", 3, &[]);
        for partition in 0..3 {
            cluster.send(
                reader,
                12,
                fetch_request(&[("t", partition, 0), ("t", (partition + 1) % 3, 0)], 500, 1),
            );
            cluster.run();
            assert!(cluster.received(reader).is_none(), "parked");
            assert_eq!(watchers(&mut cluster), 2);
            cluster.hold(partition_syncs);
            cluster.send(client, 9, produce_request("t", 1, &[(partition, batch(&["a"]))]));
            cluster.run();
            assert!(cluster.received(client).is_some(), "written");
            assert!(cluster.received(reader).is_none(), "an append wakes nobody");
            cluster.release();
            cluster.run();
            let (_, body) = cluster.received(reader).expect("woken");
            let answer = partitions(body);
            assert_eq!(values(&answer[0]), [(0, "a".to_owned())]);
            assert_eq!(answer.len(), 2, "the other one is named");
            assert_eq!(watchers(&mut cluster), 0, "no watch is left");
            cluster.put(client, "t", (partition + 1) % 3, batch(&["b"]));
            cluster.delete(client, "t");
            cluster.create(client, "t", 3, &[]);
        }
    }
}

#[test]
fn a_deadline_answers_empty_and_takes_the_watches_back() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        cluster.create(client, "t", 3, &[]);
        let wants = [("t", 0, 0), ("t", 1, 0), ("t", 2, 0)];
        cluster.send(client, 12, fetch_request(&wants, 300, 1));
        cluster.advance_ms(299);
        assert!(cluster.received(client).is_none());
        cluster.advance_ms(1);
        let (_, body) = cluster.received(client).expect("the deadline");
        let answer = partitions(body);
        assert_eq!(answer.len(), 3);
        assert!(
            answer
                .iter()
                .all(|p| p.records.is_empty() && p.partition.error.is_ok())
        );
        assert_eq!(watchers(&mut cluster), 0);
    }
}

#[test]
fn min_bytes_are_waited_for() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        let reader = cluster.connect(shards - 1);
        cluster.create(client, "t", 3, &[]);
        cluster.send(
            reader,
            12,
            fetch_request(&[("t", 0, 0), ("t", 1, 0), ("t", 2, 0)], 60_000, 2500),
        );
        for partition in 0..2 {
            cluster.put(client, "t", partition, large(1000));
            assert!(cluster.received(reader).is_none(), "too little");
        }
        cluster.put(client, "t", 2, large(1000));
        let (_, body) = cluster.received(reader).expect("enough");
        assert_eq!(
            partitions(body).iter().filter(|p| !p.records.is_empty()).count(),
            3
        );
        assert_eq!(watchers(&mut cluster), 0);
    }
}

#[test]
fn a_watch_that_is_overtaken_leaves_none_behind() {
    // The mark of one partition moves between the read and the watch of it; the watch of the other
    // one must go with the fetch all the same.
    let mut cluster = Cluster::new(3);
    let client = cluster.connect(0);
    cluster.create(client, "t", 3, &[]);
    let busy = (0..3).find(|p| cluster.owner("t", *p) == 1).expect("of shard 1");
    let reader = cluster.connect(0);
    for offset in 0..3 {
        cluster.hold(partition_syncs);
        cluster.ask(client, 9, produce_request("t", 1, &[(busy, batch(&["a"]))]));
        let wants: Vec<_> = (0..3)
            .map(|p| ("t", p, if p == busy { offset } else { 0 }))
            .collect();
        cluster.send(reader, 12, fetch_request(&wants, 60_000, 1));
        // The read goes out and comes back empty, the watch goes out.
        for shard in [0, 1, 2, 0] {
            cluster.turn(shard);
        }
        cluster.release();
        while cluster.device.borrow_mut().advance() {}
        for shard in [1, 2] {
            cluster.turn(shard);
        }
        assert!(watchers(&mut cluster) > 0, "the quiet partitions are watched");
        cluster.run();
        let (_, body) = cluster.received(reader).expect("there is a record");
        assert!(partitions(body).iter().any(|p| !p.records.is_empty()));
        assert_eq!(watchers(&mut cluster), 0, "round {offset}");
    }
}

#[test]
fn a_watch_on_a_deleted_topic_ends_the_wait() {
    // The topic goes between the read and the watch of it.
    let mut cluster = Cluster::new(3);
    let client = cluster.connect(0);
    cluster.create(client, "t", 3, &[]);
    let remote = (0..3).find(|p| cluster.owner("t", *p) == 1).expect("of shard 1");
    let reader = cluster.connect(2);
    cluster.send(client, 6, delete_request("t"));
    cluster.send(reader, 12, fetch_request(&[("t", remote, 0)], 60_000, 1));
    // The read comes back empty; then the deletion reaches the owner before the watch does.
    for shard in [2, 1] {
        cluster.turn(shard);
    }
    while !cluster.turn_until_deleted(1) {
        let advanced = cluster.device.borrow_mut().advance();
        assert!(cluster.turn(0) | advanced, "the deletion gets through");
    }
    cluster.run();
    let (_, body) = cluster.received(reader).expect("the wait ends with the topic");
    let code = partitions(body)[0].partition.error;
    assert_eq!(code, ErrorCode::UnknownTopicOrPartition);
}

#[test]
fn every_partition_is_named_and_max_bytes_holds() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        cluster.create(client, "t", 20, &[]);
        for partition in 0..20 {
            cluster.put(client, "t", partition, large(10_000));
        }
        let wants: Vec<_> = (0..20).map(|partition| ("t", partition, 0)).collect();
        let mut served = std::collections::HashSet::new();
        for _ in 0..20 {
            let request = FetchRequest {
                max_bytes: 50_000,
                ..fetch_request(&wants, 0, 1)
            };
            let answer = partitions(cluster.ask(client, 12, request));
            assert_eq!(answer.len(), 20, "all are named");
            let full: Vec<_> = answer.iter().filter(|p| !p.records.is_empty()).collect();
            assert_eq!(full.len(), 4, "whole batches within max_bytes");
            served.extend(full.iter().map(|p| p.partition.index));
            assert!(answer.iter().all(|p| p.partition.high_watermark == 1));
        }
        assert_eq!(served.len(), 20, "none starves");
    }
}

#[test]
fn no_partition_starves_whatever_else_is_asked() {
    let mut cluster = Cluster::new(1);
    let client = cluster.connect(0);
    cluster.create(client, "t", 2, &[]);
    for partition in 0..2 {
        cluster.put(client, "t", partition, large(1000));
    }
    let mut served = [0; 2];
    for _ in 0..10 {
        let request = FetchRequest {
            max_bytes: 1000,
            ..fetch_request(&[("t", 0, 0), ("t", 1, 0)], 0, 1)
        };
        for answer in partitions(cluster.ask(client, 12, request)) {
            served[answer.partition.index as usize] += usize::from(!answer.records.is_empty());
        }
        // Another request between two fetches must not turn the order back.
        cluster.metadata(client, &["t"], false);
    }
    assert_eq!(served, [5, 5]);
}

#[test]
fn at_least_one_batch_is_given() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        cluster.create(client, "t", 3, &[]);
        for partition in 0..3 {
            cluster.put(client, "t", partition, large(100_000));
            cluster.put(client, "t", partition, batch(&["b"]));
            for (max_bytes, partition_max_bytes) in [(1, 1), (0, 0), (i32::MAX, 1), (1, i32::MAX), (-1, -1)] {
                let request = FetchRequest {
                    max_bytes,
                    max_wait_ms: 0,
                    topics: vec![FetchTopic {
                        name: text("t"),
                        partitions: vec![FetchPartition {
                            index: partition,
                            max_bytes: partition_max_bytes,
                            ..Default::default()
                        }],
                        ..Default::default()
                    }],
                    ..Default::default()
                };
                let answer = partitions(cluster.ask(client, 12, request));
                assert_eq!(values(&answer[0]).len(), 1);
            }
        }
    }
}

#[test]
fn offsets_outside_the_log_are_refused_and_those_above_the_high_watermark_wait() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        cluster.create(client, "t", 3, &[]);
        for partition in 0..3 {
            cluster.put(client, "t", partition, batch(&["a", "b"]));
            for offset in [-1, 3, i64::MAX, i64::MIN] {
                let got = cluster.get(client, "t", partition, offset).partition;
                assert_eq!(got.error, ErrorCode::OffsetOutOfRange, "{offset}");
                assert_eq!(
                    (got.log_start_offset, got.high_watermark, got.last_stable_offset),
                    (0, 2, 2)
                );
            }
            cluster.hold(partition_syncs);
            cluster.ask(
                client,
                9,
                produce_request("t", 1, &[(partition, batch(&["c", "d"]))]),
            );
            for offset in [2, 3, 4] {
                cluster.send(client, 12, fetch_request(&[("t", partition, offset)], 100, 1));
                cluster.advance_ms(99);
                assert!(cluster.received(client).is_none(), "{offset} waits");
                cluster.advance_ms(1);
                let (_, body) = cluster.received(client).expect("the deadline");
                assert_eq!(partitions(body)[0].partition.error, ErrorCode::None);
            }
            let got = cluster.get(client, "t", partition, 5).partition;
            assert_eq!(got.error, ErrorCode::OffsetOutOfRange);
            cluster.release();
            cluster.run();
            assert_eq!(
                values(&cluster.get(client, "t", partition, 3)).len(),
                2,
                "the whole batch"
            );
        }
    }
}

#[test]
fn unknown_partitions_and_sessions_are_answered_at_once() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        let id = cluster.create(client, "t", 1, &[]);
        let wants = [("t", 0, 0), ("t", 1, 0), ("t", -1, 0), ("u", 0, 0)];
        let answer = partitions(cluster.ask(client, 12, fetch_request(&wants, 60_000, 1)));
        let codes: Vec<_> = answer.iter().map(|p| p.partition.error.code()).collect();
        assert_eq!(codes, [0, 3, 3, 3]);
        let by_id = |id| FetchRequest {
            max_wait_ms: 60_000,
            topics: vec![FetchTopic {
                topic_id: id,
                partitions: vec![FetchPartition::default()],
                ..Default::default()
            }],
            ..Default::default()
        };
        let unknown = tidelog_net::Uuid::from_u128(7);
        let answer = partitions(cluster.ask(client, 13, by_id(unknown)));
        assert_eq!(answer[0].partition.error, ErrorCode::UnknownTopicId);
        cluster.put(client, "t", 0, batch(&["a"]));
        assert_eq!(
            values(&partitions(cluster.ask(client, 13, by_id(id)))[0]).len(),
            1
        );
        let request = FetchRequest {
            session_id: 5,
            session_epoch: 3,
            ..fetch_request(&[("t", 0, 1)], 60_000, 1)
        };
        let answer = fetched(cluster.ask(client, 12, request));
        assert_eq!(answer.error, ErrorCode::FetchSessionIdNotFound);
        let answer = fetched(cluster.ask(client, 12, fetch_request(&[], 60_000, 1)));
        assert!(answer.topics.is_empty(), "nothing is asked: nothing to wait for");
    }
}

#[test]
fn cold_batches_are_read_and_a_damaged_one_is_an_error() {
    for shards in SHARDS {
        let cold = SimConfig {
            faults: SimFaults {
                cold_ppm: 1_000_000,
                ..Default::default()
            },
            ..Default::default()
        };
        let mut cluster = Cluster::with(shards, &[], cold);
        let client = cluster.connect(0);
        let id = cluster.create(client, "t", 3, &[]);
        for partition in 0..3 {
            for n in 0..20 {
                cluster.put(client, "t", partition, large(1000 + n));
            }
            for offset in [0, 7, 19] {
                let got = cluster.get(client, "t", partition, offset);
                assert_eq!(values(&got).first().expect("one").0, offset);
                assert_eq!(values(&got).last().expect("one").0, 19);
            }
        }
        let wants: Vec<_> = (0..3).map(|partition| ("t", partition, 3)).collect();
        let answer = partitions(cluster.ask(client, 12, fetch_request(&wants, 0, 1)));
        assert!(answer.iter().all(|p| values(p).len() == 17));
        // Damage under one of them.
        let topic: String = id.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let path = std::path::PathBuf::from(format!("/sim/data/partitions/{topic}-1"));
        {
            let mut device = cluster.device.borrow_mut();
            let name = "00000000000000000001-0000000000.log";
            let names = super::device::names(&mut device.sim, &path);
            let name = names.first().cloned().unwrap_or_else(|| name.to_owned());
            device
                .sim
                .flip_bit(&path.join(name), 8192 + 64 + 100, 0)
                .expect("flipped");
            super::device::drop_cache(&mut device.sim, &path);
        }
        let answer = partitions(cluster.ask(client, 12, fetch_request(&[("t", 0, 0), ("t", 1, 0)], 0, 1)));
        assert_eq!(values(&answer[0]).len(), 20);
        assert_eq!(answer[1].partition.error, ErrorCode::CorruptMessage);
        assert!(
            answer[1].records.is_empty(),
            "nothing that does not verify is sent"
        );
    }
}

#[test]
fn a_cold_range_larger_than_the_fetch_memory_is_served_in_pieces() {
    let cold = SimConfig {
        faults: SimFaults {
            cold_ppm: 1_000_000,
            ..Default::default()
        },
        ..Default::default()
    };
    let mut cluster = Cluster::with(3, &["memory.limit=64MiB"], cold);
    let client = cluster.connect(0);
    cluster.create(client, "t", 1, &[]);
    for _ in 0..20 {
        cluster.put(client, "t", 0, large(1_000_000));
    }
    let mut offset = 0;
    while offset < 20 {
        let request = FetchRequest {
            max_wait_ms: 0,
            topics: vec![FetchTopic {
                name: text("t"),
                partitions: vec![FetchPartition {
                    fetch_offset: offset,
                    max_bytes: i32::MAX,
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        };
        let answer = partitions(cluster.ask(client, 12, request));
        let got = values_large(&answer[0]);
        assert!(got > 0, "offset {offset} is never served");
        offset += got;
    }
}

/// Records of batches of one record each.
fn values_large(partition: &tidelog_net::hot::FetchedPartition) -> i64 {
    tidelog_net::records::Batches::new(partition.records.clone())
        .map(|batch| i64::from(batch.expect("whole").header.record_count))
        .sum()
}

#[test]
fn a_parked_fetch_ends_with_its_connection() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        cluster.create(client, "t", 3, &[]);
        let wants: Vec<_> = (0..3).map(|partition| ("t", partition, 0)).collect();
        for turns in 0..4 {
            for _ in 0..50 {
                let gone = cluster.connect(0);
                cluster.send(gone, 12, fetch_request(&wants, i32::MAX, 1));
                for _ in 0..turns {
                    cluster.turns();
                }
                cluster.close(gone);
            }
            cluster.run();
            assert_eq!(watchers(&mut cluster), 0);
            assert!(
                cluster.shard(0).pending.is_empty(),
                "nothing waits for five minutes"
            );
            assert_eq!(cluster.shard(0).receive_budget.used_bytes(), 0);
        }
    }
}
