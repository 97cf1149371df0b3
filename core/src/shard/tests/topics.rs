//! Topics and their configurations: created, named, changed, deleted, made again.

use tidelog_net::hot::{MetadataRequest, MetadataTopic, ProducePartition, ProduceRequest, ProduceTopic};
use tidelog_net::messages as kp;
use tidelog_net::{ErrorCode, ResponseBody, Uuid};

use tidelog_segment_log::disk::DiskOp;

use super::device::partition_syncs;
use super::harness::{Client, Cluster};
use super::requests::*;

const SHARDS: [usize; 2] = [1, 3];

fn codes(body: &kp::MetadataResponse) -> Vec<i16> {
    body.topics.iter().map(|topic| topic.error_code).collect()
}

#[test]
fn metadata_creates_topics_only_where_both_sides_want_it() {
    for shards in SHARDS {
        for allowed in [true, false] {
            let set = format!("auto_create_topics={allowed}");
            let mut cluster = Cluster::with(shards, &[&set], Default::default());
            let client = cluster.connect(shards - 1);
            assert_eq!(codes(&cluster.metadata(client, &["a"], false)), [3]);
            let wanted = if allowed { 0 } else { 3 };
            let body = cluster.metadata(client, &["a", "bad name", "", ".", "b", "b"], true);
            assert_eq!(codes(&body), [wanted, 17, 17, 17, wanted, wanted]);
            assert_eq!(body.cluster_id.as_deref(), Some("test-cluster"));
            assert_eq!((body.controller_id.0, body.brokers.len()), (1, 1));
            assert_eq!(
                (body.brokers[0].host.as_str(), body.brokers[0].port),
                ("broker.test", 9092)
            );
            if allowed {
                assert!(!body.topics[0].topic_id.is_nil());
                assert_eq!(
                    cluster.put(client, "a", 0, batch(&["x"])),
                    0,
                    "ready when answered"
                );
            }
            // A name that collides is never created: retrying would not help.
            let body = cluster.metadata(client, &["x.y"], allowed);
            assert_eq!(codes(&body), [wanted]);
            if allowed {
                assert_eq!(codes(&cluster.metadata(client, &["x_y"], true)), [17]);
            }
        }
    }
}

#[test]
fn metadata_lists_all_none_or_by_id() {
    let mut cluster = Cluster::new(3);
    let client = cluster.connect(1);
    let id = cluster.create(client, "t", 5, &[]);
    let ask = |cluster: &mut Cluster, version, topics: Option<Vec<MetadataTopic>>| {
        let request = MetadataRequest {
            topics,
            ..Default::default()
        };
        match cluster.ask(client, version, request) {
            ResponseBody::Metadata(body) => body,
            other => panic!("not metadata: {other:?}"),
        }
    };
    for version in 0..=13 {
        let all = ask(&mut cluster, version, None);
        assert_eq!(
            (all.topics.len(), all.topics[0].partitions.len()),
            (1, 5),
            "{version}"
        );
        if version >= 1 {
            assert!(ask(&mut cluster, version, Some(Vec::new())).topics.is_empty());
        }
    }
    let by_id = |topic_id| MetadataTopic { name: None, topic_id };
    let body = ask(&mut cluster, 12, Some(vec![by_id(id), by_id(Uuid::from_u128(5))]));
    assert_eq!(codes(&body), [0, 100]);
}

#[test]
fn a_deleted_topic_ends_what_waits_for_it_and_is_made_again_at_once() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let admin = cluster.connect(0);
        let mut ids = Vec::new();
        for round in 0..3 {
            let id = cluster.create(admin, "t", 3, &[]);
            assert!(!ids.contains(&id), "an id is never used twice");
            ids.push(id);
            let reader = cluster.connect(round % shards);
            let writer = cluster.connect((round + 1) % shards);
            for partition in 0..3 {
                assert_eq!(
                    cluster.put(admin, "t", partition, batch(&["a"])),
                    0,
                    "empty after it was made again"
                );
            }
            cluster.send(
                reader,
                12,
                fetch_request(&[("t", 0, 1), ("t", 1, 1), ("t", 2, 1)], 60_000, 1),
            );
            cluster.hold(partition_syncs);
            let all: Vec<_> = (0..3).map(|partition| (partition, batch(&["b"]))).collect();
            cluster.send(writer, 9, produce_request("t", -1, &all));
            cluster.run();
            cluster.delete(admin, "t");
            let (_, body) = cluster.received(reader).expect("the fetch ends");
            assert!(
                partitions(body)
                    .iter()
                    .any(|p| p.partition.error == ErrorCode::UnknownTopicOrPartition)
            );
            let (_, body) = cluster.received(writer).expect("the produce ends");
            assert!(
                produced(body)
                    .iter()
                    .all(|p| p.error == ErrorCode::UnknownTopicOrPartition)
            );
            assert_eq!(codes(&cluster.metadata(admin, &["t"], false)), [3]);
            let by_id = ProduceRequest {
                acks: -1,
                topics: vec![ProduceTopic {
                    topic_id: id,
                    partitions: vec![ProducePartition {
                        index: 0,
                        records: Some(batch(&["c"])),
                    }],
                    ..Default::default()
                }],
                ..Default::default()
            };
            assert_eq!(
                produced(cluster.ask(admin, 13, by_id))[0].error,
                ErrorCode::UnknownTopicId
            );
            cluster.release();
            cluster.run();
            let mut device = cluster.device.borrow_mut();
            let left = super::device::names(&mut device.sim, std::path::Path::new("/sim/data/partitions"));
            assert!(left.is_empty(), "its files are gone: {left:?}");
        }
    }
}

#[test]
fn what_a_deleted_topic_left_behind_a_kill_is_removed_at_the_next_start() {
    fn removals(op: &DiskOp) -> bool {
        matches!(op, DiskOp::Unlink { path } if path.iter().any(|part| part == "partitions"))
    }
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        cluster.create(client, "gone", 2, &[]);
        let kept = cluster.create(client, "kept", 1, &[]);
        cluster.put(client, "gone", 1, batch(&["a"]));
        cluster.hold(removals);
        cluster.delete(client, "gone");
        let left = |cluster: &mut Cluster| {
            let mut device = cluster.device.borrow_mut();
            super::device::names(&mut device.sim, std::path::Path::new("/sim/data/partitions"))
        };
        assert_eq!(left(&mut cluster).len(), 3, "nothing is removed yet");
        cluster.kill();
        let name = format!("{}-0", kept.simple());
        assert_eq!(
            left(&mut cluster),
            [name],
            "only what a deletion names is removed"
        );
    }
}

fn grow(cluster: &mut Cluster, client: Client, count: i32) -> i16 {
    let topic = kp::create_partitions_request::CreatePartitionsTopic::default()
        .with_name(kp::TopicName(text("t")))
        .with_count(count)
        .with_assignments(None);
    let request = kp::CreatePartitionsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(1000);
    let ResponseBody::CreatePartitions(body) = cluster.ask(client, 3, request) else {
        panic!("not an answer")
    };
    body.results[0].error_code
}

#[test]
fn partitions_are_added_and_used_at_once() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(shards - 1);
        assert_eq!(grow(&mut cluster, client, 2), 3);
        cluster.create(client, "t", 2, &[]);
        cluster.put(client, "t", 0, batch(&["a"]));
        for (count, code) in [(2, 37), (1, 37), (-5, 37), (i32::MAX, 37), (i32::MIN, 37), (7, 0)] {
            assert_eq!(grow(&mut cluster, client, count), code, "{count}");
        }
        for partition in 2..7 {
            assert_eq!(cluster.put(client, "t", partition, batch(&["b"])), 0);
        }
        assert_eq!(
            cluster.put(client, "t", 0, batch(&["c"])),
            1,
            "the old ones are as they were"
        );
    }
}

#[test]
fn creations_are_refused_by_kafkas_codes() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        cluster.create(client, "a.b", 1, &[]);
        let create = |cluster: &mut Cluster, name: &str, partitions, configs: &[(&str, &str)]| {
            let ResponseBody::CreateTopics(body) =
                cluster.ask(client, 7, create_request(name, partitions, configs))
            else {
                panic!("not an answer")
            };
            body.topics[0].error_code
        };
        for (name, partitions, code) in [
            ("a.b", 1, 36),
            ("a_b", 1, 17),
            ("a b", 1, 17),
            ("", 1, 17),
            ("c", 0, 37),
            ("c", -2, 37),
            ("c", i32::MAX, 37),
            ("c", -1, 0),
        ] {
            assert_eq!(
                create(&mut cluster, name, partitions, &[]),
                code,
                "{name} {partitions}"
            );
        }
        assert_eq!(create(&mut cluster, "d", 1, &[("no.such.config", "1")]), 40);
        assert_eq!(create(&mut cluster, "d", 1, &[("segment.bytes", "x")]), 40);
        let mut only = create_request("e", 3, &[]);
        only.validate_only = true;
        let ResponseBody::CreateTopics(body) = cluster.ask(client, 7, only) else {
            panic!("not an answer")
        };
        assert_eq!((body.topics[0].error_code, body.topics[0].num_partitions), (0, 3));
        assert_eq!(
            codes(&cluster.metadata(client, &["e"], false)),
            [3],
            "validated only"
        );
    }
}

fn describe(
    cluster: &mut Cluster,
    client: Client,
    kind: i8,
    name: &str,
    key: &str,
) -> (i16, Option<String>, i8) {
    use kp::describe_configs_request::DescribeConfigsResource;
    let resource = DescribeConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configuration_keys(Some(vec![text(key)]));
    let request = kp::DescribeConfigsRequest::default()
        .with_resources(vec![resource])
        .with_include_synonyms(true);
    let ResponseBody::DescribeConfigs(body) = cluster.ask(client, 4, request) else {
        panic!("not an answer")
    };
    let result = &body.results[0];
    let entry = result.configs.first();
    (
        result.error_code,
        entry
            .and_then(|entry| entry.value.as_ref())
            .map(|value| value.to_string()),
        entry.map_or(-1, |entry| entry.config_source),
    )
}

#[test]
fn altered_configs_are_in_force_and_shown() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(shards - 1);
        cluster.create(client, "t", 3, &[]);
        let (code, value, source) = describe(&mut cluster, client, 2, "t", "max.message.bytes");
        assert_eq!((code, value.as_deref(), source), (0, Some("1048588"), 5));
        assert_eq!(cluster.alter(client, "t", &[("max.message.bytes", "500")]), 0);
        for partition in 0..3 {
            let answer = cluster.produce(client, "t", partition, large(600));
            assert_eq!(answer.error, ErrorCode::MessageTooLarge);
        }
        let (code, value, source) = describe(&mut cluster, client, 2, "t", "max.message.bytes");
        assert_eq!((code, value.as_deref(), source), (0, Some("500"), 1));
        assert_eq!(cluster.alter(client, "t", &[("max.message.bytes", "-1")]), 40);
        assert_eq!(cluster.alter(client, "t", &[("nonsense", "1")]), 40);
        assert_eq!(cluster.alter(client, "u", &[("max.message.bytes", "1")]), 3);
        assert_eq!(describe(&mut cluster, client, 2, "u", "max.message.bytes").0, 3);
        assert_eq!(
            describe(&mut cluster, client, 4, "1", "node.id").1.as_deref(),
            Some("1")
        );
        assert_eq!(describe(&mut cluster, client, 4, "", "node.id").0, 0);
        assert_eq!(describe(&mut cluster, client, 4, "2", "node.id").0, 42);
        cluster.restart();
        let client = cluster.connect(0);
        assert_eq!(
            describe(&mut cluster, client, 2, "t", "max.message.bytes")
                .1
                .as_deref(),
            Some("500")
        );
        assert_eq!(
            cluster.produce(client, "t", 0, large(600)).error,
            ErrorCode::MessageTooLarge
        );
    }
}

#[test]
fn segments_roll_at_their_configured_size_and_are_read_across() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(0);
        cluster.create(client, "t", 3, &[("segment.bytes", "1048576")]);
        for partition in 0..3 {
            for n in 0..40 {
                assert_eq!(cluster.put(client, "t", partition, large(100_000)), n);
            }
            let owner = cluster.owner("t", partition);
            let topic = cluster.shard(0).image.topic("t").expect("a topic").topic_id;
            let key = tidelog_segment_log::ids::PartitionKey {
                topic: tidelog_segment_log::ids::TopicId(topic.into_bytes()),
                partition,
            };
            let log = cluster
                .shard(owner)
                .partitions
                .get_mut(&key)
                .and_then(|p| p.log_mut());
            assert!(log.expect("open").segment_count() >= 4);
            let mut offset = 0;
            while offset < 40 {
                let got = cluster.get(client, "t", partition, offset);
                let read = values(&got);
                assert_eq!(read.first().map(|(offset, _)| *offset), Some(offset));
                offset = read.last().map_or(40, |(offset, _)| offset + 1);
            }
        }
    }
}

#[test]
fn odd_requests_are_answered_or_closed_and_never_more() {
    // Fields that a version has but nobody sends so.
    let mut cluster = Cluster::new(3);
    let client = cluster.connect(1);
    cluster.create(client, "t", 1, &[]);
    for version in [10, 11, 12] {
        let client = cluster.connect(1);
        let nobody = MetadataTopic {
            name: None,
            topic_id: Uuid::nil(),
        };
        let request = MetadataRequest {
            topics: Some(vec![nobody]),
            ..Default::default()
        };
        cluster.send(client, version, request);
        cluster.run();
        assert!(cluster.received_raw(client).is_some() || cluster.is_closed(client));
    }
    for (key, version) in [(18_i16, 99_i16), (3, 99), (77, 0), (0, 2), (-1, -1), (18, -1)] {
        let client = cluster.connect(2);
        let mut frame = Vec::new();
        frame.extend_from_slice(&key.to_be_bytes());
        frame.extend_from_slice(&version.to_be_bytes());
        frame.extend_from_slice(&7_i32.to_be_bytes());
        frame.extend_from_slice(&[0xff, 0xff]);
        cluster.send_raw(client, frame.into());
        cluster.run();
        let answered = cluster.received_raw(client);
        if key == 18 {
            let answer = answered.expect("told which versions there are");
            assert_eq!(answer[..6], [0, 0, 0, 7, 0, 35]);
            assert!(!cluster.is_closed(client));
        } else {
            assert!(answered.is_none() && cluster.is_closed(client), "{key} {version}");
        }
    }
    // Every prefix of a good frame.
    let frame = tidelog_net::client::encode_request(
        tidelog_net::ApiKey::Produce,
        9,
        1,
        None,
        &produce_request("t", 1, &[(0, batch(&["a"]))]).into(),
    )
    .expect("a frame");
    for len in 0..frame.len() - 4 {
        let client = cluster.connect(0);
        cluster.send_raw(client, frame.slice(4..4 + len));
        cluster.run();
        assert!(
            cluster.is_closed(client) && cluster.received_raw(client).is_none(),
            "{len}"
        );
    }
}
