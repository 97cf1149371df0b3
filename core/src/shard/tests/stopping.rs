//! Drains: what is under way ends, nothing is lost, and the next start finds it clean.

use tidelog_net::ResponseBody;

use super::device::partition_syncs;
use super::harness::Cluster;
use super::requests::*;

const SHARDS: [usize; 2] = [1, 3];

#[test]
fn what_is_under_way_is_answered_before_the_end() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        cluster.create(client, "t", 3, &[]);
        let reader = cluster.connect(shards - 1);
        cluster.send(
            reader,
            12,
            fetch_request(&[("t", 0, 0), ("t", 1, 0), ("t", 2, 0)], 60_000, 1),
        );
        cluster.run();
        cluster.hold(partition_syncs);
        let all: Vec<_> = (0..3).map(|partition| (partition, batch(&["a"]))).collect();
        cluster.send(client, 9, produce_request("t", -1, &all));
        cluster.run();
        cluster.begin_stop();
        cluster.run();
        let (_, body) = cluster.received(reader).expect("a parked fetch ends at once");
        assert_eq!(partitions(body).len(), 3);
        assert!(!cluster.is_drained(), "a produce waits for the disk");
        cluster.send(client, 9, produce_request("t", 1, &all));
        cluster.release();
        cluster.run();
        let (_, body) = cluster.received(client).expect("durable");
        assert!(produced(body).iter().all(|answer| answer.error.is_ok()));
        assert!(cluster.received(client).is_none(), "nothing new is begun");
        assert!(cluster.is_drained());
    }
}

#[test]
fn a_topic_that_is_being_created_does_not_hold_a_stop_up() {
    for shards in SHARDS {
        for turns in 0..40 {
            let mut cluster = Cluster::new(shards);
            let client = cluster.connect(shards - 1);
            cluster.send(client, 7, create_request("t", 3, &[]));
            for _ in 0..turns {
                cluster.turns();
                cluster.device.borrow_mut().advance();
            }
            cluster.begin_stop();
            cluster.run();
            assert!(
                cluster.is_drained(),
                "waits for its deadline when stopped after {turns} turns"
            );
            if turns > 0 {
                let (_, body) = cluster.received(client).expect("an answer");
                assert!(matches!(body, ResponseBody::CreateTopics(body) if body.topics[0].error_code == 0));
            }
        }
    }
}

#[test]
fn a_clean_stop_keeps_everything_and_the_epoch() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        for round in 0..4_i64 {
            let client = cluster.connect(0);
            if round == 0 {
                cluster.create(client, "t", 3, &[]);
            }
            for partition in 0..3 {
                assert_eq!(cluster.put(client, "t", partition, batch(&["a"])), round);
                assert_eq!(
                    values(&cluster.get(client, "t", partition, 0)).len() as i64,
                    round + 1
                );
            }
            cluster.restart();
        }
    }
}

#[test]
fn a_stop_during_a_start_loses_nothing() {
    for shards in SHARDS {
        for turns in [0, 1, 2, 3, 5, 8, 13, 21, 34, 55] {
            let mut cluster = Cluster::new(shards);
            let client = cluster.connect(0);
            cluster.create(client, "t", 3, &[]);
            for partition in 0..3 {
                cluster.put(client, "t", partition, batch(&["a"]));
            }
            cluster.restart_and_stop_after(turns);
            let client = cluster.connect(0);
            for partition in 0..3 {
                assert_eq!(
                    values(&cluster.get(client, "t", partition, 0)).len(),
                    1,
                    "stopped after {turns} turns"
                );
                assert_eq!(cluster.put(client, "t", partition, batch(&["b"])), 1);
            }
        }
    }
}

#[test]
fn a_drain_that_takes_too_long_is_cut_short_and_not_called_clean() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        cluster.create(client, "t", 1, &[]);
        cluster.hold(partition_syncs);
        cluster.send(client, 9, produce_request("t", -1, &[(0, batch(&["a"]))]));
        cluster.run();
        cluster.begin_stop();
        cluster.advance_ms(29_000);
        assert!(!cluster.is_drained());
        cluster.advance_ms(1_001);
        assert!(cluster.is_drained());
        let complete = (0..shards).all(|shard| cluster.shard(shard).is_complete());
        assert!(!complete);
        cluster.tidy = false;
    }
}
