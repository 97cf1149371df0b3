//! DeleteRecords: what it answers and when, and what readers see of a log start that moves.

use bytes::Bytes;
use tidelog_net::messages as kp;
use tidelog_net::records::Compression;
use tidelog_net::{ErrorCode, ResponseBody};
use tidelog_segment_log::disk::sim::{Fault, OpKind, ScriptedFault, SimConfig, SimFaults};

use super::device::partition_syncs;
use super::harness::{Client, Cluster, EPOCH_MS};
use super::requests::*;

const SHARDS: [usize; 2] = [1, 3];

pub(super) fn request(topics: &[(&str, &[(i32, i64)])], timeout_ms: i32) -> kp::DeleteRecordsRequest {
    use kp::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
    let topics = topics.iter().map(|(name, partitions)| {
        let partitions = partitions.iter().map(|(index, offset)| {
            DeleteRecordsPartition::default()
                .with_partition_index(*index)
                .with_offset(*offset)
        });
        DeleteRecordsTopic::default()
            .with_name(kp::TopicName(text(name)))
            .with_partitions(partitions.collect())
    });
    kp::DeleteRecordsRequest::default()
        .with_topics(topics.collect())
        .with_timeout_ms(timeout_ms)
}

/// Topic, partition, low watermark and error of each part, in the order of the answer.
fn deleted(body: ResponseBody) -> Vec<(String, i32, i64, i16)> {
    let ResponseBody::DeleteRecords(body) = body else {
        panic!("not an answer to DeleteRecords: {body:?}")
    };
    let of_topic = |topic: &kp::delete_records_response::DeleteRecordsTopicResult| {
        let name = topic.name.to_string();
        let part = |p: &kp::delete_records_response::DeleteRecordsPartitionResult| {
            (name.clone(), p.partition_index, p.low_watermark, p.error_code)
        };
        topic.partitions.iter().map(part).collect::<Vec<_>>()
    };
    body.topics.iter().flat_map(of_topic).collect()
}

/// Low watermark and error of one partition of "t".
pub(super) fn delete(cluster: &mut Cluster, client: Client, partition: i32, offset: i64) -> (i64, i16) {
    let body = cluster.ask(client, 2, request(&[("t", &[(partition, offset)])], 1_000));
    let (_, _, low_watermark, error) = deleted(body).remove(0);
    (low_watermark, error)
}

fn moved(cluster: &mut Cluster, client: Client, partition: i32, offset: i64) {
    assert_eq!(delete(cluster, client, partition, offset), (offset, 0));
}

#[test]
fn every_case_has_kafkas_answer_in_the_order_of_the_request() {
    for shards in SHARDS {
        for version in 0..=2 {
            let mut cluster = Cluster::new(shards);
            let client = cluster.connect(0);
            cluster.create(client, "t", 6, &[]);
            cluster.create(client, "compacted", 1, &[("cleanup.policy", "compact")]);
            cluster.create(client, "both", 1, &[("cleanup.policy", "compact,delete")]);
            for partition in 0..6 {
                cluster.put(client, "t", partition, batch(&["a", "b", "c"]));
                cluster.put(client, "t", partition, batch(&["d"]));
            }
            moved(&mut cluster, client, 5, 3);
            let parts: &[(i32, i64)] = &[(4, -1), (0, 2), (1, 5), (2, -2), (3, 0), (5, 1), (6, 0), (-1, 0)];
            let asked = request(
                &[
                    ("t", parts),
                    ("none", &[(0, 0)]),
                    ("compacted", &[(0, 0)]),
                    ("both", &[(0, 0)]),
                ],
                1_000,
            );
            let answers = deleted(cluster.ask(client, version, asked));
            let expected = [
                ("t", 4, 4, ErrorCode::None),
                ("t", 0, 2, ErrorCode::None),
                ("t", 1, -1, ErrorCode::OffsetOutOfRange),
                ("t", 2, -1, ErrorCode::OffsetOutOfRange),
                ("t", 3, 0, ErrorCode::None),
                ("t", 5, 3, ErrorCode::None),
                ("t", 6, -1, ErrorCode::UnknownTopicOrPartition),
                ("t", -1, -1, ErrorCode::UnknownTopicOrPartition),
                ("none", 0, -1, ErrorCode::UnknownTopicOrPartition),
                ("compacted", 0, -1, ErrorCode::PolicyViolation),
                ("both", 0, 0, ErrorCode::None),
            ]
            .map(|(name, index, low, code)| (name.to_owned(), index, low, code.code()));
            assert_eq!(answers, expected);
            assert_eq!(deleted(cluster.ask(client, version, request(&[], 1_000))), []);
        }
    }
}

#[test]
fn an_internal_topic_is_refused() {
    use crate::metadata::{MetadataMachine, MetadataRecord};
    let mut cluster = Cluster::new(1);
    let client = cluster.connect(0);
    let mut machine = MetadataMachine::new();
    let created = MetadataRecord::TopicCreated {
        topic_id: tidelog_net::Uuid::from_bytes([7; 16]),
        name: "__consumer_offsets".into(),
        partitions: 1,
        configs: Default::default(),
        replication_factor: 1,
    };
    machine.apply(&created).expect("applies");
    let real = std::mem::replace(&mut cluster.shard(0).image, machine.image());
    let answer = deleted(cluster.ask(client, 2, request(&[("__consumer_offsets", &[(0, -1)])], 1_000)));
    assert_eq!(answer[0].3, ErrorCode::InvalidTopicException.code());
    cluster.shard(0).image = real;
}

#[test]
fn it_is_answered_when_the_entry_is_durable_and_not_before() {
    for sets in [&[][..], &["log.durability=os"][..]] {
        for shards in SHARDS {
            let mut cluster = Cluster::with(shards, sets, SimConfig::default());
            let client = cluster.connect(0);
            let other = cluster.connect(0);
            cluster.create(client, "t", 3, &[]);
            for partition in 0..3 {
                cluster.put(client, "t", partition, batch(&["a", "b", "c"]));
            }
            cluster.hold(partition_syncs);
            cluster.send(client, 2, request(&[("t", &[(0, 1), (1, 2), (2, -1)])], 60_000));
            cluster.advance_ms(5_000);
            assert!(cluster.received(client).is_none(), "not durable");
            assert_eq!(cluster.list(other, "t", 1, -2), (2, -1, 0), "and in force");
            // One that changes nothing waits for what it would answer.
            let again = cluster.send(other, 2, request(&[("t", &[(1, 0)])], 60_000));
            cluster.run();
            assert!(cluster.received(other).is_none());
            cluster.release();
            cluster.run();
            let (_, body) = cluster.received(client).expect("answered");
            let low: Vec<_> = deleted(body).iter().map(|part| (part.2, part.3)).collect();
            assert_eq!(low, [(1, 0), (2, 0), (3, 0)]);
            let (correlation, body) = cluster.received(other).expect("answered");
            assert_eq!((correlation, deleted(body)[0].2), (again, 2));
        }
    }
}

#[test]
fn a_durable_log_start_survives_power_cuts_kills_and_restarts() {
    for sets in [&[][..], &["log.durability=os"][..]] {
        for shards in SHARDS {
            let mut cluster = Cluster::with(shards, sets, SimConfig::default());
            let client = cluster.connect(0);
            cluster.create(client, "t", 3, &[("segment.bytes", "1048576")]);
            let value = "x".repeat(300_000);
            for round in 0..4 {
                let client = cluster.connect(0);
                for partition in 0..3 {
                    cluster.put(client, "t", partition, batch(&[&value, &value]));
                    moved(&mut cluster, client, partition, 2 * round + 1);
                    cluster.put(client, "t", partition, batch(&["unsynced under os"]));
                }
                match round {
                    0 => cluster.power_cut(),
                    1 => cluster.kill(),
                    2 => cluster.restart(),
                    _ => cluster.advance_ms(31_000),
                }
                let client = cluster.connect(0);
                for partition in 0..3 {
                    let start = 2 * round + 1;
                    assert_eq!(cluster.list(client, "t", partition, -2), (start, -1, 0));
                    let below = cluster.get(client, "t", partition, start - 1).partition;
                    assert_eq!(below.error, ErrorCode::OffsetOutOfRange);
                    assert_eq!(below.log_start_offset, start);
                    let got = cluster.get(client, "t", partition, start);
                    assert_eq!(got.partition.error, ErrorCode::None);
                    assert!(values(&got).iter().any(|(offset, _)| *offset == start));
                }
            }
        }
    }
}

#[test]
fn a_parked_fetch_that_falls_below_the_log_start_is_told() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        let (below, at) = (cluster.connect(shards - 1), cluster.connect(0));
        cluster.create(client, "t", 3, &[]);
        for partition in 0..3 {
            cluster.put(client, "t", partition, batch(&["a", "b"]));
            cluster.put(client, "t", partition, batch(&["c"]));
            // There is something to read, but less than they want.
            cluster.send(below, 12, fetch_request(&[("t", partition, 1)], 60_000, 10_000));
            cluster.send(at, 12, fetch_request(&[("t", partition, 2)], 60_000, 10_000));
            cluster.run();
            assert!(cluster.received(below).is_none() && cluster.received(at).is_none());
            moved(&mut cluster, client, partition, 2);
            let (_, body) = cluster.received(below).expect("told");
            let answer = partitions(body).remove(0).partition;
            assert_eq!(
                (answer.error, answer.log_start_offset),
                (ErrorCode::OffsetOutOfRange, 2)
            );
            assert!(cluster.received(at).is_none(), "its offset is still there");
            cluster.put(client, "t", partition, large(10_000));
            let (_, body) = cluster.received(at).expect("enough");
            assert_eq!(values(&partitions(body)[0])[0], (2, "c".to_owned()));
        }
    }
}

#[test]
fn a_log_start_that_moves_between_a_read_and_its_watch_is_seen() {
    let mut cluster = Cluster::new(3);
    let client = cluster.connect(0);
    cluster.create(client, "t", 6, &[]);
    let theirs = (0..6).find(|p| cluster.owner("t", *p) == 1).expect("of shard 1");
    cluster.put(client, "t", theirs, batch(&["a", "b"]));
    let reader = cluster.connect(0);
    let deleter = cluster.connect(1);
    cluster.send(reader, 12, fetch_request(&[("t", theirs, 0)], 60_000, 10_000));
    // The owner answers the read, moves the log start, and gets the watch then.
    cluster.turn(0);
    cluster.send(deleter, 2, request(&[("t", &[(theirs, -1)])], 1_000));
    cluster.turn(1);
    cluster.run();
    assert!(cluster.received(deleter).is_some());
    let (_, body) = cluster.received(reader).expect("told");
    let answer = partitions(body).remove(0).partition;
    assert_eq!(answer.error, ErrorCode::OffsetOutOfRange);
}

/// A record of the model: offset, timestamp.
type Model = Vec<(i64, i64)>;

fn fill(cluster: &mut Cluster, client: Client, codecs: &[Compression]) -> Model {
    let mut model = Model::new();
    // Out of order, with equal ones, over several batches; the highest are early.
    let times = [50, 90, 90, 20, 70, 70, 10, 60, 65, 65, 30, 40, 64, 5, 55, 54];
    let value = "v".repeat(3_000);
    for (at, chunk) in times.chunks(3).enumerate() {
        let records: Vec<_> = chunk.iter().map(|ms| (EPOCH_MS + ms, value.as_str())).collect();
        let base = cluster.put(
            client,
            "t",
            0,
            batch_of(codecs[at % codecs.len()], None, &records),
        );
        model.extend((base..).zip(records.iter().map(|(time, _)| *time)));
    }
    model
}

#[test]
fn look_ups_by_time_never_answer_below_the_log_start() {
    let codecs = [
        Compression::None,
        Compression::Gzip,
        Compression::Zstd,
        Compression::Lz4,
    ];
    for cold_ppm in [0, 1_000_000] {
        for timestamp_type in ["CreateTime", "LogAppendTime"] {
            let disk = SimConfig {
                faults: SimFaults {
                    cold_ppm,
                    ..Default::default()
                },
                ..Default::default()
            };
            let mut cluster = Cluster::with(3, &[], disk);
            let client = cluster.connect(0);
            cluster.create(client, "t", 1, &[("message.timestamp.type", timestamp_type)]);
            let mut model = fill(&mut cluster, client, &codecs);
            if timestamp_type == "LogAppendTime" {
                let now_ms = cluster.wall_ms();
                model.iter_mut().for_each(|(_, time)| *time = now_ms);
            }
            let end = model.len() as i64;
            for start in 0..=end {
                moved(&mut cluster, client, 0, start);
                let left: Model = model
                    .iter()
                    .copied()
                    .filter(|(offset, _)| *offset >= start)
                    .collect();
                let newest = left
                    .iter()
                    .copied()
                    .reduce(|best, next| if next.1 > best.1 { next } else { best });
                let (offset, time) = newest.unwrap_or((-1, -1));
                assert_eq!(
                    cluster.list(client, "t", 0, -3),
                    (offset, time, 0),
                    "newest from {start}"
                );
                for time in (EPOCH_MS..EPOCH_MS + 100)
                    .step_by(5)
                    .chain([0, cluster.wall_ms()])
                {
                    let first = left.iter().copied().find(|(_, of)| *of >= time);
                    let (offset, of) = first.unwrap_or((-1, -1));
                    let found = cluster.list(client, "t", 0, time);
                    assert_eq!(found, (offset, of, 0), "{time} from {start}");
                }
                assert_eq!(cluster.list(client, "t", 0, -2), (start, -1, 0));
                assert_eq!(cluster.list(client, "t", 0, -1), (end, -1, 0));
            }
        }
    }
}

#[test]
fn a_search_that_is_overtaken_by_the_log_start_begins_again() {
    for time in [-3, EPOCH_MS + 60] {
        let mut cluster = Cluster::new(3);
        let client = cluster.connect(0);
        cluster.create(client, "t", 1, &[]);
        let owner = cluster.owner("t", 0);
        let asker = (owner + 1) % 3;
        fill(&mut cluster, client, &[Compression::None]);
        let searcher = cluster.connect(asker);
        let deleter = cluster.connect(owner);
        cluster.send(searcher, 9, list_request("t", 0, time));
        // Its owner answers the question, then moves the log start, then is asked for the batch.
        cluster.turn(asker);
        cluster.send(deleter, 2, request(&[("t", &[(0, 10)])], 1_000));
        cluster.turn(owner);
        cluster.run();
        let (_, body) = cluster.received(searcher).expect("an answer");
        let ResponseBody::ListOffsets(body) = body else {
            panic!("not a list answer")
        };
        let answer = &body.topics[0].partitions[0];
        assert_eq!((answer.error_code, answer.offset), (0, 12), "time {time}");
        assert_eq!(answer.timestamp, EPOCH_MS + 64);
    }
}

#[test]
fn idempotent_producers_are_remembered_beyond_the_records_that_go() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        cluster.create(client, "t", 1, &[]);
        let id = cluster.init_producer_id(client);
        cluster.put(client, "t", 0, sequenced(id, 0, 0, &["a", "b"]));
        moved(&mut cluster, client, 0, 2);
        for round in 0..2 {
            let client = cluster.connect(0);
            let repeat = cluster.produce(client, "t", 0, sequenced(id, 0, 0, &["a", "b"]));
            assert_eq!(
                (repeat.error, repeat.base_offset),
                (ErrorCode::None, 0),
                "{round}"
            );
            assert_eq!(repeat.log_start_offset, 2);
            let gap = cluster.produce(client, "t", 0, sequenced(id, 0, 5, &["c"]));
            assert_eq!(gap.error, ErrorCode::OutOfOrderSequenceNumber);
            cluster.power_cut();
        }
        let client = cluster.connect(0);
        assert_eq!(cluster.put(client, "t", 0, sequenced(id, 0, 2, &["c"])), 2);
    }
}

#[test]
fn owners_that_are_late_are_answered_for_at_the_deadline() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        cluster.create(client, "t", 2, &[]);
        for partition in 0..2 {
            cluster.put(client, "t", partition, batch(&["a", "b"]));
        }
        cluster.hold(partition_syncs);
        // The least wait, the asked one; the unknown partition does not wait and keeps its place.
        for (timeout_ms, at_ms) in [(0, 1_000), (-7, 1_000), (2_500, 2_500)] {
            cluster.send(
                client,
                1,
                request(&[("t", &[(1, 1), (7, 0), (0, 1)])], timeout_ms),
            );
            cluster.advance_ms(at_ms - 100);
            assert!(cluster.received(client).is_none(), "{timeout_ms}");
            cluster.advance_ms(200);
            let (_, body) = cluster.received(client).expect("the deadline");
            let codes: Vec<_> = deleted(body)
                .iter()
                .map(|part| (part.1, part.2, part.3))
                .collect();
            let late = ErrorCode::RequestTimedOut.code();
            let unknown = ErrorCode::UnknownTopicOrPartition.code();
            assert_eq!(codes, [(1, -1, late), (7, -1, unknown), (0, -1, late)]);
        }
        cluster.release();
        cluster.run();
        assert!(cluster.received(client).is_none(), "nothing twice");
        assert_eq!(delete(&mut cluster, client, 1, 0), (1, 0), "it was carried out");
        for shard in 0..shards {
            assert!(cluster.shard(shard).deletions.is_empty());
        }
    }
}

#[test]
fn a_silent_shard_is_answered_for_with_a_retriable_code() {
    let mut cluster = Cluster::new(3);
    let client = cluster.connect(0);
    cluster.create(client, "t", 6, &[]);
    let theirs = (0..6).find(|p| cluster.owner("t", *p) == 1).expect("of shard 1");
    let others = (0..6).find(|p| cluster.owner("t", *p) == 2).expect("of shard 2");
    for partition in [theirs, others] {
        cluster.put(client, "t", partition, batch(&["a", "b"]));
    }
    cluster.advance_ms(100);
    cluster.stalled = Some(1);
    let late = ErrorCode::RequestTimedOut.code();
    assert!(ErrorCode::RequestTimedOut.is_retriable());
    // Waiting when the silence is noticed, and come after that.
    for _ in 0..2 {
        cluster.send(client, 2, request(&[("t", &[(theirs, 1), (others, 1)])], 300_000));
        cluster.advance_ms(6_000);
        let (_, body) = cluster.received(client).expect("answered");
        let codes: Vec<_> = deleted(body).iter().map(|part| (part.2, part.3)).collect();
        assert_eq!(codes, [(-1, late), (1, 0)]);
    }
    cluster.stalled = None;
    cluster.advance_ms(1_000);
    assert!(cluster.received(client).is_none(), "nothing twice");
    moved(&mut cluster, client, theirs, 2);
}

#[test]
fn a_failed_disk_and_a_deleted_topic_end_the_wait_with_an_error() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        cluster.create(client, "t", 1, &[]);
        cluster.put(client, "t", 0, batch(&["a", "b"]));
        cluster.device.borrow_mut().sim.script(ScriptedFault {
            kind: OpKind::Sync,
            nth: 1,
            fault: Fault::Eio,
        });
        let storage = ErrorCode::KafkaStorageError.code();
        assert_eq!(delete(&mut cluster, client, 0, 1), (-1, storage));
        moved(&mut cluster, client, 0, 1);
        assert_eq!(
            values(&cluster.get(client, "t", 0, 1)).last(),
            Some(&(1, "b".to_owned()))
        );

        cluster.hold(partition_syncs);
        cluster.send(client, 2, request(&[("t", &[(0, 2)])], 60_000));
        cluster.run();
        let other = cluster.connect(0);
        cluster.send(other, 6, delete_request("t"));
        cluster.run();
        let (_, body) = cluster.received(client).expect("ended");
        assert_eq!(deleted(body)[0].3, ErrorCode::UnknownTopicOrPartition.code());
        cluster.release();
    }
}

#[test]
fn a_whole_log_may_go_and_the_next_record_follows_at_its_offset() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        cluster.create(client, "t", 1, &[]);
        cluster.put(client, "t", 0, batch(&["a", "b"]));
        assert_eq!(delete(&mut cluster, client, 0, -1), (2, 0));
        assert_eq!(cluster.list(client, "t", 0, -2), (2, -1, 0));
        assert_eq!(cluster.list(client, "t", 0, -3), (-1, -1, 0));
        cluster.power_cut();
        let client = cluster.connect(0);
        assert_eq!(cluster.put(client, "t", 0, batch(&["c"])), 2);
        let got: Bytes = cluster.get(client, "t", 0, 2).records;
        assert!(!got.is_empty());
        assert_eq!(cluster.list(client, "t", 0, -3), (2, EPOCH_MS, 0));
    }
}
