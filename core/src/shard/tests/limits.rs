//! Budgets, backlogs and connections that misbehave.

use bytes::Bytes;
use tidelog_net::hot::{FetchPartition, FetchRequest, FetchTopic};
use tidelog_net::messages as kp;
use tidelog_segment_log::disk::sim::{SimConfig, SimFaults};

use super::super::connection::REQUESTS_IN_FLIGHT_MAX;
use super::device::partition_syncs;
use super::harness::Cluster;
use super::requests::*;

const SHARDS: [usize; 2] = [1, 3];

#[test]
fn a_frame_that_could_never_be_held_is_refused() {
    let mut cluster = Cluster::with(3, &["memory.limit=64MiB"], SimConfig::default());
    let client = cluster.connect(1);
    let limit = cluster.shard(1).receive_budget.limit_bytes();
    cluster.send_raw(client, Bytes::from(vec![0; limit + 1]));
    cluster.run();
    assert!(cluster.is_closed(client));
    assert_eq!(cluster.shard(1).receive_budget.used_bytes(), 0);
}

#[test]
fn frames_wait_for_receive_memory_and_get_it() {
    for shards in SHARDS {
        let sets = ["memory.limit=64MiB", "message.max_bytes=32MiB"];
        let mut cluster = Cluster::with(shards, &sets, SimConfig::default());
        let client = cluster.connect(0);
        cluster.create(client, "t", 3, &[]);
        cluster.hold(partition_syncs);
        let limit = cluster.shard(0).receive_budget.limit_bytes();
        let writers: Vec<_> = (0..8).map(|_| cluster.connect(0)).collect();
        for (n, writer) in writers.iter().enumerate() {
            let request = produce_request("t", -1, &[(n as i32 % 3, large(limit / 3))]);
            cluster.send(*writer, 9, request);
        }
        cluster.run();
        let used = cluster.shard(0).receive_budget.used_bytes();
        // Other shards may lend some of theirs.
        let bound = cluster.shard(0).receive_budget.limit_bytes();
        assert!(used <= bound && used > limit / 2, "{used} of {bound}");
        cluster.release();
        cluster.run();
        for writer in writers {
            let (_, body) = cluster.received(writer).expect("each has its turn");
            assert!(produced(body)[0].error.is_ok());
        }
        assert_eq!(cluster.shard(0).receive_budget.used_bytes(), 0);
    }
}

#[test]
fn connections_that_go_away_in_the_middle_give_everything_back() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let admin = cluster.connect(0);
        cluster.create(admin, "t", 3, &[]);
        cluster.put(admin, "t", 0, large(10_000));
        for turns in 0..5 {
            let wants: Vec<_> = (0..3).map(|partition| ("t", partition, 0)).collect();
            for stalled in [false, true] {
                cluster.hold(partition_syncs);
                let client = cluster.connect(turns % shards);
                cluster.stall(client, stalled);
                let all: Vec<_> = (0..3).map(|partition| (partition, batch(&["a"]))).collect();
                for acks in [-1, 1, 0] {
                    cluster.send(client, 9, produce_request("t", acks, &all));
                }
                cluster.send(client, 12, fetch_request(&wants, 60_000, 1));
                cluster.send(client, 12, fetch_request(&wants, 60_000, 1 << 30));
                cluster.send(client, 9, list_request("t", 0, 5));
                cluster.send(
                    client,
                    12,
                    metadata_request(&[&format!("new{turns}{stalled}")], true),
                );
                cluster.send(
                    client,
                    4,
                    kp::InitProducerIdRequest::default().with_transactional_id(None),
                );
                for _ in 0..turns {
                    cluster.turns();
                }
                cluster.close(client);
                cluster.release();
                cluster.run();
                for shard in 0..shards {
                    assert_eq!(
                        cluster.shard(shard).receive_budget.used_bytes(),
                        0,
                        "after {turns} turns"
                    );
                    assert!(cluster.shard(shard).pending.is_empty());
                }
            }
        }
    }
}

#[test]
fn one_connection_has_a_bounded_number_of_requests_under_way() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        cluster.create(client, "t", 1, &[]);
        for _ in 0..3 * REQUESTS_IN_FLIGHT_MAX {
            cluster.send(client, 12, fetch_request(&[("t", 0, 0)], 100, 1));
        }
        cluster.run();
        assert_eq!(cluster.shard(0).pending.len(), REQUESTS_IN_FLIGHT_MAX);
        cluster.advance_ms(400);
        let mut answers = 0;
        while cluster.received(client).is_some() {
            answers += 1;
        }
        assert_eq!(answers, 3 * REQUESTS_IN_FLIGHT_MAX, "each is answered in the end");
    }
}

#[test]
fn a_full_ring_holds_sockets_back_and_lets_them_go_on() {
    let mut cluster = Cluster::new(3);
    let client = cluster.connect(0);
    cluster.create(client, "t", 3, &[]);
    let remote = (0..3).find(|p| cluster.owner("t", *p) == 1).expect("of shard 1");
    let many = FetchRequest {
        max_wait_ms: 0,
        topics: vec![FetchTopic {
            name: text("t"),
            partitions: vec![
                FetchPartition {
                    index: remote,
                    ..Default::default()
                };
                5000
            ],
            ..Default::default()
        }],
        ..Default::default()
    };
    let other = cluster.connect(0);
    cluster.run();
    cluster.send(client, 12, many);
    cluster.turn(0);
    cluster.send(other, 12, metadata_request(&["t"], false));
    cluster.turn(0);
    assert!(cluster.received(other).is_none(), "the ring to shard 1 is full");
    cluster.run();
    let (_, body) = cluster.received(client).expect("all asked is answered");
    assert_eq!(partitions(body).len(), 5000);
    assert!(cluster.received(other).is_some(), "and who waited goes on");
}

#[test]
fn a_client_that_does_not_read_holds_a_bounded_amount_of_memory() {
    let cold = SimConfig {
        faults: SimFaults {
            cold_ppm: 1_000_000,
            ..Default::default()
        },
        ..Default::default()
    };
    for shards in SHARDS {
        let mut cluster = Cluster::with(shards, &["memory.limit=64MiB"], cold.clone());
        let client = cluster.connect(0);
        cluster.create(client, "t", 1, &[]);
        for _ in 0..2 {
            cluster.put(client, "t", 0, large(1_000_000));
        }
        let slow = cluster.connect(0);
        cluster.stall(slow, true);
        for _ in 0..100 {
            cluster.send(slow, 12, fetch_request(&[("t", 0, 0)], 0, 1));
        }
        cluster.run();
        let limit = cluster.shard(0).fetch_budget.limit_bytes();
        let queued = cluster.queued_bytes(slow);
        assert!(
            queued <= limit + (1 << 20),
            "{queued} bytes wait to be sent, {limit} are allowed"
        );
        // And nobody else's memory is used up by it for good.
        cluster.close(slow);
        assert_eq!(cluster.shard(0).fetch_budget.used_bytes(), 0);
        assert!(!cluster.get(client, "t", 0, 0).records.is_empty());
    }
}

#[test]
fn a_fetch_waits_for_fetch_memory_and_does_not_spin() {
    let cold = SimConfig {
        faults: SimFaults {
            cold_ppm: 1_000_000,
            ..Default::default()
        },
        ..Default::default()
    };
    for shards in SHARDS {
        let mut cluster = Cluster::with(shards, &["memory.limit=64MiB"], cold.clone());
        let client = cluster.connect(0);
        cluster.create(client, "t", 1, &[]);
        cluster.put(client, "t", 0, large(1_000_000));
        let slow = cluster.connect(0);
        cluster.stall(slow, true);
        for _ in 0..60 {
            cluster.send(slow, 12, fetch_request(&[("t", 0, 0)], 60_000, 1));
        }
        // Until other shards have lent what they can.
        cluster.advance_ms(1_000);
        cluster.send(client, 12, fetch_request(&[("t", 0, 0)], 500, 1));
        cluster.advance_ms(300);
        assert!(
            cluster.received(client).is_none(),
            "there is something to read, but no memory for it"
        );
        cluster.stall(slow, false);
        cluster.advance_ms(100);
        let (_, body) = cluster.received(client).expect("there is memory again");
        assert!(!partitions(body)[0].records.is_empty());
        cluster.stall(slow, true);
        for _ in 0..60 {
            cluster.send(slow, 12, fetch_request(&[("t", 0, 0)], 60_000, 1));
        }
        // Until other shards have lent what they can.
        cluster.advance_ms(1_000);
        cluster.send(client, 12, fetch_request(&[("t", 0, 0)], 500, 1));
        cluster.advance_ms(499);
        assert!(cluster.received(client).is_none());
        cluster.advance_ms(1);
        let (_, body) = cluster.received(client).expect("its deadline");
        assert!(partitions(body)[0].records.is_empty());
    }
}

#[test]
fn partitions_that_memory_has_no_room_for_are_refused_and_the_rest_are_made() {
    use super::super::sockets::partitions_max;
    use tidelog_net::ResponseBody;
    for shards in SHARDS {
        let mut cluster = Cluster::with(shards, &["memory.limit=64MiB"], SimConfig::default());
        let client = cluster.connect(0);
        let room = i32::try_from(partitions_max(64 << 20, shards)).unwrap();
        assert!((190..2_000).contains(&room), "{room} partitions in 64 MiB");
        let created = |cluster: &mut Cluster, name: &str, partitions: i32| {
            let body = cluster.ask(client, 7, create_request(name, partitions, &[]));
            let ResponseBody::CreateTopics(body) = body else {
                panic!("not a create answer: {body:?}")
            };
            let topic = &body.topics[0];
            let text = topic.error_message.as_deref().unwrap_or_default().to_owned();
            (topic.error_code, text)
        };
        let (code, text) = created(&mut cluster, "large", room + 1);
        assert_eq!(code, 44, "POLICY_VIOLATION: {text}");
        assert!(
            text.contains("memory.limit") && text.contains(&format!("room for {room} partitions")),
            "{text}"
        );
        assert_eq!(created(&mut cluster, "small", room - 1).0, 0, "it fits");
        assert_eq!(created(&mut cluster, "two", 2).0, 44);
        assert_eq!(created(&mut cluster, "one", 1).0, 0);
        // A topic that a client asks for is not made either; what is there is served, and what goes makes room.
        let body = cluster.metadata(client, &["by-itself"], true);
        assert_eq!(body.topics[0].error_code, 3);
        assert_eq!(cluster.shard(0).metrics().topics_refused.get(), 1);
        assert_eq!(cluster.put(client, "one", 0, batch(&["x"])), 0);
        let other = cluster.connect(shards - 1);
        assert!(!cluster.is_closed(other), "partitions leave room for connections");
        cluster.delete(client, "one");
        assert_eq!(created(&mut cluster, "again", 1).0, 0);
    }
}
