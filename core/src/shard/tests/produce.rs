//! Produce: acks, order, durability, checks of batches, idempotence.

use tidelog_net::ErrorCode;

use super::device::partition_syncs;
use super::harness::Cluster;
use super::requests::*;

const SHARDS: [usize; 2] = [1, 3];

#[test]
fn a_created_topic_is_used_at_once_from_every_shard() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let clients: Vec<_> = (0..shards).map(|shard| cluster.connect(shard)).collect();
        for (n, client) in clients.iter().enumerate() {
            let topic = format!("t{n}");
            cluster.create(*client, &topic, 4, &[]);
            for partition in 0..4 {
                for (round, other) in clients.iter().enumerate() {
                    let base = cluster.put(*other, &topic, partition, batch(&["a", "b"]));
                    assert_eq!(base, 2 * round as i64);
                }
                for other in &clients {
                    let got = cluster.get(*other, &topic, partition, 1);
                    assert_eq!(got.partition.high_watermark, 2 * shards as i64);
                    assert_eq!(values(&got).len(), 2 * shards);
                }
            }
        }
    }
}

#[test]
fn acks_all_waits_for_the_disk_and_acks_one_does_not() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        let reader = cluster.connect(shards - 1);
        cluster.create(client, "t", 3, &[]);
        for partition in 0..3 {
            cluster.put(client, "t", partition, batch(&["durable"]));
            cluster.hold(partition_syncs);
            cluster.send(client, 9, produce_request("t", -1, &[(partition, batch(&["a"]))]));
            cluster.run();
            assert!(cluster.received(client).is_none(), "not on the disk yet");
            let one = cluster.connect(0);
            let body = cluster.ask(one, 9, produce_request("t", 1, &[(partition, batch(&["b"]))]));
            assert_eq!(produced(body)[0].base_offset, 2, "written is enough for acks=1");
            let got = cluster.get(reader, "t", partition, 1);
            assert_eq!(
                (got.partition.error, got.partition.high_watermark),
                (ErrorCode::None, 1)
            );
            assert!(values(&got).is_empty(), "what is not durable is not shown");
            assert_eq!(cluster.list(reader, "t", partition, -1).0, 1);
            cluster.release();
            cluster.run();
            let (_, body) = cluster.received(client).expect("durable");
            assert_eq!(produced(body)[0].base_offset, 1);
            assert_eq!(cluster.get(reader, "t", partition, 1).partition.high_watermark, 3);
        }
    }
}

#[test]
fn acks_zero_gets_no_answer_and_an_error_closes_after_what_came_before() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        cluster.create(client, "t", 3, &[]);
        for partition in 0..3 {
            cluster.send(client, 9, produce_request("t", 0, &[(partition, batch(&["a"]))]));
            let body = cluster.ask(client, 9, produce_request("t", -1, &[(partition, batch(&["b"]))]));
            assert_eq!(
                produced(body)[0].base_offset,
                1,
                "the only answer is that of the second"
            );
        }
        // An answer that is still owed goes out before the close.
        cluster.hold(partition_syncs);
        let owed = cluster.send(client, 9, produce_request("t", -1, &[(0, batch(&["c"]))]));
        cluster.send(client, 9, produce_request("unknown", 0, &[(0, batch(&["d"]))]));
        cluster.run();
        cluster.release();
        cluster.run();
        let (correlation, body) = cluster.received(client).expect("what came before is answered");
        assert_eq!((correlation, produced(body)[0].base_offset), (owed, 2));
        assert!(cluster.is_closed(client));
        assert!(cluster.received(client).is_none());
    }
}

#[test]
fn answers_keep_request_order_around_a_parked_fetch() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        cluster.create(client, "t", 3, &[]);
        for partition in 0..3 {
            let first = cluster.send(client, 9, produce_request("t", -1, &[(partition, batch(&["a"]))]));
            let fetch = cluster.send(client, 12, fetch_request(&[("t", partition, 1)], 400, 1));
            let second = cluster.send(client, 9, produce_request("t", 1, &[(0, batch(&["other"]))]));
            let third = cluster.send(client, 12, metadata_request(&["t"], false));
            cluster.run();
            let mut order = vec![cluster.received(client).expect("the first").0];
            if partition != 0 {
                assert!(cluster.received(client).is_none(), "the fetch waits");
                cluster.advance_ms(400);
            }
            while let Some((correlation, _)) = cluster.received(client) {
                order.push(correlation);
            }
            assert_eq!(order, [first, fetch, second, third]);
        }
    }
}

#[test]
fn batches_are_checked_and_refused_by_kafkas_codes() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        cluster.create(client, "t", 3, &[("max.message.bytes", "1000")]);
        let good = batch(&["a"]);
        let patched = |at: usize, bytes: &[u8], sealed: bool| {
            let mut changed = good.to_vec();
            changed[at..at + bytes.len()].copy_from_slice(bytes);
            if sealed {
                let crc = tidelog_net::records::crc32c(&changed[21..]);
                changed[17..21].copy_from_slice(&crc.to_be_bytes());
            }
            bytes::Bytes::from(changed)
        };
        let two = bytes::Bytes::from([&good[..], &good[..]].concat());
        let last = good.len() - 1;
        for (what, wrong, code) in [
            (
                "a flipped bit",
                patched(last, &[0x55], false),
                ErrorCode::CorruptMessage,
            ),
            (
                "an old format",
                patched(16, &[1], false),
                ErrorCode::InvalidRecord,
            ),
            (
                "a short length",
                patched(8, &[0, 0, 0, 1], false),
                ErrorCode::CorruptMessage,
            ),
            ("a cut batch", good.slice(..last), ErrorCode::InvalidRecord),
            ("two batches", two, ErrorCode::InvalidRecord),
            (
                "a control batch",
                patched(21, &[0, 0x20], true),
                ErrorCode::InvalidRecord,
            ),
            (
                "no such codec",
                patched(21, &[0, 7], true),
                ErrorCode::InvalidRecord,
            ),
            (
                "a wrong count",
                patched(57, &[0, 0, 0, 2], true),
                ErrorCode::InvalidRecord,
            ),
            (
                "a count below zero",
                patched(57, &[0xff; 4], true),
                ErrorCode::InvalidRecord,
            ),
            (
                "the largest count",
                patched(23, &[0x7f, 0xff, 0xff, 0xff], true),
                ErrorCode::InvalidRecord,
            ),
            (
                "a transaction",
                patched(21, &[0, 0x10], true),
                ErrorCode::InvalidTxnState,
            ),
            ("too many bytes", large(2000), ErrorCode::MessageTooLarge),
            ("no bytes", bytes::Bytes::new(), ErrorCode::InvalidRecord),
            (
                "few bytes",
                bytes::Bytes::from_static(&[0; 7]),
                ErrorCode::CorruptMessage,
            ),
        ] {
            for partition in 0..3 {
                let answer = cluster.produce(client, "t", partition, wrong.clone());
                assert_eq!((answer.error, answer.base_offset), (code, -1), "{what}");
            }
        }
        for (topic, partition, acks, code) in [
            ("t", 3, -1, ErrorCode::UnknownTopicOrPartition),
            ("t", -1, 1, ErrorCode::UnknownTopicOrPartition),
            ("u", 0, 1, ErrorCode::UnknownTopicOrPartition),
            ("t", 0, 2, ErrorCode::InvalidRequiredAcks),
        ] {
            let body = cluster.ask(
                client,
                9,
                produce_request(topic, acks, &[(partition, good.clone())]),
            );
            assert_eq!(produced(body)[0].error, code);
        }
        assert_eq!(
            cluster.put(client, "t", 1, good.clone()),
            0,
            "nothing refused was appended"
        );
    }
}

#[test]
fn zstd_needs_produce_seven() {
    use tidelog_net::records::Compression;
    let mut cluster = Cluster::new(1);
    let client = cluster.connect(0);
    cluster.create(client, "t", 1, &[]);
    let zstd = batch_of(Compression::Zstd, None, &[(super::harness::EPOCH_MS, "a")]);
    let body = cluster.ask(client, 6, produce_request("t", 1, &[(0, zstd.clone())]));
    assert_eq!(produced(body)[0].error, ErrorCode::UnsupportedCompressionType);
    let body = cluster.ask(client, 7, produce_request("t", 1, &[(0, zstd)]));
    assert_eq!(produced(body)[0].error, ErrorCode::None);
}

#[test]
fn timestamps_outside_their_bounds_are_refused_and_log_append_time_is_the_brokers() {
    use tidelog_net::records::{Batches, Compression};
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        let now = cluster.wall_ms();
        cluster.create(client, "t", 3, &[("message.timestamp.before.max.ms", "1000")]);
        let at = |time| batch_of(Compression::None, None, &[(time, "a")]);
        for partition in 0..3 {
            for (time, code) in [
                (now, ErrorCode::None),
                (now - 1001, ErrorCode::InvalidTimestamp),
                (now + 3_600_001, ErrorCode::InvalidTimestamp),
                (i64::MAX, ErrorCode::InvalidTimestamp),
                (-1, ErrorCode::None),
            ] {
                assert_eq!(
                    cluster.produce(client, "t", partition, at(time)).error,
                    code,
                    "{time}"
                );
            }
        }
        assert_eq!(
            cluster.alter(client, "t", &[("message.timestamp.type", "LogAppendTime")]),
            0
        );
        cluster.advance_ms(77);
        for partition in 0..3 {
            let answer = cluster.produce(client, "t", partition, at(now - 5_000_000));
            assert_eq!(
                (answer.error, answer.log_append_time_ms),
                (ErrorCode::None, now + 77)
            );
            let got = cluster.get(client, "t", partition, 2);
            let stored = Batches::new(got.records.clone())
                .next()
                .expect("one")
                .expect("whole");
            stored.verify_crc().expect("made anew");
            assert!(stored.header.is_log_append_time());
            assert_eq!(stored.header.max_timestamp, now + 77);
        }
    }
}

#[test]
fn repeats_get_their_original_offset_and_gaps_are_refused() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        cluster.create(client, "t", 3, &[]);
        let id = cluster.init_producer_id(client);
        for partition in 0..3 {
            let at = |sequence| sequenced(id, 0, sequence, &["a", "b"]);
            for n in 0..7 {
                assert_eq!(cluster.put(client, "t", partition, at(2 * n)), i64::from(2 * n));
            }
            for n in 2..7 {
                assert_eq!(
                    cluster.put(client, "t", partition, at(2 * n)),
                    i64::from(2 * n),
                    "a repeat"
                );
            }
            let error = |cluster: &mut Cluster, batch| cluster.produce(client, "t", partition, batch).error;
            assert_eq!(error(&mut cluster, at(0)), ErrorCode::DuplicateSequenceNumber);
            assert_eq!(error(&mut cluster, at(16)), ErrorCode::OutOfOrderSequenceNumber);
            assert_eq!(
                error(&mut cluster, sequenced(id, 1, 5, &["x"])),
                ErrorCode::OutOfOrderSequenceNumber
            );
            assert_eq!(
                cluster.put(client, "t", partition, sequenced(id, 1, 0, &["x"])),
                14
            );
            assert_eq!(error(&mut cluster, at(14)), ErrorCode::InvalidProducerEpoch);
        }
    }
}

#[test]
fn a_repeat_is_not_answered_before_its_original_is_durable() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        cluster.create(client, "t", 3, &[]);
        let id = cluster.init_producer_id(client);
        for partition in 0..3 {
            cluster.hold(partition_syncs);
            let lost = cluster.connect(0);
            cluster.send(
                lost,
                9,
                produce_request("t", -1, &[(partition, sequenced(id, 0, 0, &["a"]))]),
            );
            cluster.run();
            cluster.close(lost);
            let again = cluster.connect(shards - 1);
            cluster.send(
                again,
                9,
                produce_request("t", -1, &[(partition, sequenced(id, 0, 0, &["a"]))]),
            );
            cluster.run();
            assert!(cluster.received(again).is_none());
            cluster.release();
            cluster.run();
            let (_, body) = cluster.received(again).expect("durable now");
            assert_eq!(
                (
                    produced(body)[0].error,
                    cluster.list(client, "t", partition, -1).0
                ),
                (ErrorCode::None, 1)
            );
        }
    }
}

#[test]
fn producer_state_and_ids_survive_restarts() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        cluster.create(client, "t", 3, &[]);
        let mut ids = Vec::new();
        for start in 0..4 {
            let client = cluster.connect(start % shards);
            let id = cluster.init_producer_id(client);
            assert!(!ids.contains(&id), "{id} was given out before");
            ids.push(id);
            for (n, id) in ids.iter().enumerate() {
                for partition in 0..3 {
                    let sequence = (start - n) as i32;
                    let base = cluster.put(client, "t", partition, sequenced(*id, 0, sequence, &["a"]));
                    assert_eq!(
                        cluster.put(client, "t", partition, sequenced(*id, 0, sequence, &["a"])),
                        base
                    );
                }
            }
            match start {
                0 => cluster.restart(),
                1 => cluster.kill(),
                _ => cluster.power_cut(),
            }
            let client = cluster.connect(0);
            for partition in 0..3 {
                let first = ids[0];
                let repeat = sequenced(first, 0, start as i32, &["a"]);
                let base = cluster.put(client, "t", partition, repeat);
                let end = cluster.list(client, "t", partition, -1).0;
                assert!(
                    base < end && end == ((start + 1) * (start + 2) / 2) as i64,
                    "a repeat after the start"
                );
            }
        }
    }
}

#[test]
fn batches_of_one_connection_keep_their_order_in_each_partition() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        cluster.create(client, "t", 6, &[]);
        const ROUNDS: usize = 200;
        for n in 0..ROUNDS {
            let value = n.to_string();
            let all: Vec<_> = (0..6).map(|partition| (partition, batch(&[&value]))).collect();
            cluster.send(client, 9, produce_request("t", [1, -1, 0][n % 3], &all));
            if n % 7 == 0 {
                cluster.turns();
            }
        }
        cluster.run();
        let mut answers = 0;
        while let Some((_, body)) = cluster.received(client) {
            assert!(produced(body).iter().all(|answer| answer.error.is_ok()));
            answers += 1;
        }
        assert_eq!(answers, ROUNDS - ROUNDS / 3);
        let expected: Vec<_> = (0..ROUNDS).map(|n| (n as i64, n.to_string())).collect();
        for partition in 0..6 {
            assert_eq!(values(&cluster.get(client, "t", partition, 0)), expected);
        }
    }
}
