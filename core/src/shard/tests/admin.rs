//! What tools ask of a cluster: answered as Kafka on one node does, whichever shard is asked.

use tidelog_net::messages as kp;
use tidelog_net::{RequestBody, ResponseBody};

use super::denials::codes;
use super::harness::{Client, Cluster};
use super::requests::*;

const SHARDS: [usize; 2] = [1, 3];

#[test]
fn acls_are_not_served_and_every_item_says_so() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(shards - 1);
        for version in 1..=3 {
            let ResponseBody::DescribeAcls(body) =
                cluster.ask(client, version, kp::DescribeAclsRequest::default())
            else {
                panic!("not an answer")
            };
            assert_eq!((body.error_code, body.resources.len()), (54, 0));
            assert!(body.error_message.is_some_and(|text| text.contains("authorizer")));
            for count in [0, 1, 3] {
                let request =
                    kp::CreateAclsRequest::default().with_creations(vec![Default::default(); count]);
                let ResponseBody::CreateAcls(body) = cluster.ask(client, version, request) else {
                    panic!("not an answer")
                };
                let codes: Vec<i16> = body.results.iter().map(|one| one.error_code).collect();
                assert_eq!(codes, vec![54; count]);
                let request = kp::DeleteAclsRequest::default().with_filters(vec![Default::default(); count]);
                let ResponseBody::DeleteAcls(body) = cluster.ask(client, version, request) else {
                    panic!("not an answer")
                };
                let codes: Vec<i16> = body.filter_results.iter().map(|one| one.error_code).collect();
                assert_eq!(codes, vec![54; count]);
                assert!(body.filter_results.iter().all(|one| one.matching_acls.is_empty()));
            }
        }
    }
}

/// A request with so many items that its answer would not fit in a shard's memory.
fn assert_too_large(cluster: &mut Cluster, request: impl Into<RequestBody>, version: i16) {
    let client = cluster.connect(0);
    cluster.send(client, version, request);
    cluster.run();
    assert!(cluster.received_raw(client).is_none() && cluster.is_closed(client));
    assert_eq!(cluster.shard(0).fetch_budget.used_bytes(), 0);
}

/// A client that does not take its answers.
fn assert_is_charged(
    cluster: &mut Cluster,
    request: impl Into<RequestBody>,
    version: i16,
) -> (Client, usize) {
    let client = cluster.connect(0);
    cluster.stall(client, true);
    cluster.send(client, version, request);
    cluster.run();
    let queued = cluster.queued_bytes(client);
    assert!(queued > 64 << 10, "{queued}");
    assert_eq!(cluster.shard(0).fetch_budget.used_bytes(), queued);
    (client, queued)
}

#[test]
fn large_answers_are_charged_until_they_are_sent_and_refused_without_room() {
    let mut cluster = Cluster::with(1, &["memory.limit=64MiB"], Default::default());
    let acls = |count| {
        let creation = kp::create_acls_request::AclCreation::default()
            .with_resource_name(text("a name as long as they are"))
            .with_principal(text("User:somebody"));
        kp::CreateAclsRequest::default().with_creations(vec![creation; count])
    };
    let (client, _) = assert_is_charged(&mut cluster, acls(3_000), 3);
    cluster.stall(client, false);
    cluster.run();
    assert_eq!(cluster.shard(0).fetch_budget.used_bytes(), 0);
    assert!(cluster.received(client).is_some());
    assert_too_large(&mut cluster, acls(200_000), 3);
    // So many partitions do not fit the smaller limit.
    let mut cluster = Cluster::with(1, &["memory.limit=256MiB"], Default::default());
    let admin = cluster.connect(0);
    cluster.create(admin, "t", 3_100, &[]);
    let (client, _) = assert_is_charged(&mut cluster, log_dirs_request(None), 4);
    cluster.close(client);
    assert_eq!(cluster.shard(0).fetch_budget.used_bytes(), 0, "never taken");
    // While others hold all memory, small answers go on and large ones end their connection.
    let all = cluster.shard(0).fetch_budget.limit_bytes();
    assert!(cluster.shard(0).fetch_budget.reserve(all));
    assert_eq!(
        listed(&describe(&mut cluster, admin, describe_request(&["u"], 2_000))).len(),
        1
    );
    cluster.send(admin, 0, describe_request(&["t"], 2_000));
    cluster.run();
    assert!(cluster.received_raw(admin).is_none() && cluster.is_closed(admin));
    cluster.shard(0).fetch_budget.release(all);
}

type Described = kp::DescribeTopicPartitionsResponse;

fn describe(cluster: &mut Cluster, client: Client, request: kp::DescribeTopicPartitionsRequest) -> Described {
    match cluster.ask(client, 0, request) {
        ResponseBody::DescribeTopicPartitions(body) => body,
        other => panic!("not an answer: {other:?}"),
    }
}

/// Name and partitions of each topic.
fn listed(body: &Described) -> Vec<(String, Vec<i32>)> {
    let topics = body.topics.iter().map(|topic| {
        let name = topic.name.as_ref().expect("a name").to_string();
        let partitions = topic.partitions.iter().map(|partition| partition.partition_index);
        (name, partitions.collect())
    });
    topics.collect()
}

#[test]
fn topics_are_described_by_name_with_nothing_null() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(shards - 1);
        let id = cluster.create(client, "b", 3, &[]);
        cluster.create(client, "a", 1, &[]);
        let names = ["b", "no name", "b", "a", "not-there", "__consumer_offsets"];
        let body = describe(&mut cluster, client, describe_request(&names, 2_000));
        let codes: Vec<(&str, i16, bool)> = body
            .topics
            .iter()
            .map(|t| {
                (
                    t.name.as_ref().expect("a name").as_str(),
                    t.error_code,
                    t.is_internal,
                )
            })
            .collect();
        let wanted = [
            ("__consumer_offsets", 3, true),
            ("a", 0, false),
            ("b", 0, false),
            ("no name", 17, false),
            ("not-there", 3, false),
        ];
        assert_eq!(codes, wanted, "each once, sorted");
        assert!(body.next_cursor.is_none());
        assert_eq!(body.topics[2].topic_id, id);
        assert_eq!(body.topics[2].topic_authorized_operations, 0xdf8);
        for partition in &body.topics[2].partitions {
            assert_eq!((partition.error_code, partition.leader_id.0), (0, 1));
            assert!(partition.leader_epoch >= 0, "told by its owner");
            assert_eq!((partition.replica_nodes.len(), partition.isr_nodes.len()), (1, 1));
            assert_eq!(partition.eligible_leader_replicas.as_deref(), Some(&[][..]));
            assert_eq!(partition.last_known_elr.as_deref(), Some(&[][..]));
            assert!(partition.offline_replicas.is_empty());
        }
        let all = listed(&describe(&mut cluster, client, describe_request(&[], 2_000)));
        assert_eq!(all, [("a".into(), vec![0]), ("b".into(), vec![0, 1, 2])]);
    }
}

#[test]
fn pages_of_any_size_give_every_partition_once() {
    let mut cluster = Cluster::new(3);
    let client = cluster.connect(1);
    for (name, partitions) in [("a", 1), ("b", 5), ("c", 3), ("d", 1)] {
        cluster.create(client, name, partitions, &[]);
    }
    let named = ["d", "b", "nowhere", "a", "c"];
    for limit in [i32::MIN, 0, 1, 2, 3, 4, 6, 10, 2_000, i32::MAX] {
        for names in [&[][..], &named[..]] {
            let mut seen = Vec::new();
            let mut request = describe_request(names, limit);
            loop {
                let body = describe(&mut cluster, client, request.clone());
                let count: usize = body.topics.iter().map(|topic| topic.partitions.len()).sum();
                assert!(count <= limit.max(1) as usize);
                for (name, partitions) in listed(&body) {
                    seen.extend(partitions.into_iter().map(|partition| (name.clone(), partition)));
                }
                let Some(next) = body.next_cursor else { break };
                let cursor = kp::describe_topic_partitions_request::Cursor::default()
                    .with_topic_name(next.topic_name)
                    .with_partition_index(next.partition_index);
                assert_ne!(request.cursor.as_ref(), Some(&cursor), "a page goes on");
                request.cursor = Some(cursor);
            }
            let wanted = [("a", 1), ("b", 5), ("c", 3), ("d", 1)]
                .into_iter()
                .flat_map(|(name, partitions)| (0..partitions).map(move |p| (name.to_owned(), p)));
            assert_eq!(seen, wanted.collect::<Vec<_>>(), "{limit} {names:?}");
        }
    }
}

#[test]
fn a_page_has_at_most_2000_partitions_and_a_cursor_makes_sense() {
    let mut cluster = Cluster::new(1);
    let client = cluster.connect(0);
    cluster.create(client, "t", 2_003, &[]);
    let mut request = describe_request(&[], i32::MAX);
    let body = describe(&mut cluster, client, request.clone());
    let next = body.next_cursor.as_ref().expect("there is more");
    assert_eq!(
        (body.topics[0].partitions.len(), next.partition_index),
        (2_000, 2_000)
    );
    let at = |topic: &str, partition| {
        let cursor = kp::describe_topic_partitions_request::Cursor::default();
        let topic = kp::TopicName(text(topic));
        Some(cursor.with_topic_name(topic).with_partition_index(partition))
    };
    request.cursor = at("t", 2_000);
    let body = describe(&mut cluster, client, request.clone());
    assert_eq!(listed(&body), [("t".into(), vec![2_000, 2_001, 2_002])]);
    request.cursor = at("t", i32::MAX);
    let body = describe(&mut cluster, client, request.clone());
    assert_eq!(
        (listed(&body), body.next_cursor),
        (vec![("t".into(), vec![])], None)
    );
    for (names, topic, partition) in [(&["t", "u"][..], "v", 0), (&["t"], "t", -1)] {
        let mut request = describe_request(names, 10);
        request.cursor = at(topic, partition);
        let body = describe(&mut cluster, client, request);
        assert_eq!(body.topics.len(), names.len());
        assert!(body.topics.iter().all(|topic| topic.error_code == 42));
    }
}

#[test]
fn no_partition_needs_an_election() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(shards - 1);
        cluster.create(client, "t", 3, &[]);
        let some: &[(&str, &[i32])] = &[("t", &[2, 0, 3, -1]), ("u", &[0]), ("t", &[1])];
        for (version, kind) in [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1)] {
            let body = cluster.ask(client, version, elect_request(kind, some));
            assert_eq!(codes(&body), [84, 84, 3, 3, 3, 84], "{version} {kind}");
            let all = elect_request(kind, &[]).with_topic_partitions(None);
            let body = cluster.ask(client, version, all);
            assert!(codes(&body).is_empty(), "none needed one");
        }
        let body = cluster.ask(client, 2, elect_request(2, some));
        assert_eq!(codes(&body), [42; 7], "no such type");
    }
}

#[test]
fn nothing_moves_on_one_node() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(shards - 1);
        cluster.create(client, "t", 2, &[]);
        let moves: &[(&str, i32, Option<&[i32]>)] = &[
            ("t", 0, Some(&[1])),
            ("t", 1, None),
            ("t", 1, Some(&[2])),
            ("t", 1, Some(&[1, 2])),
            ("t", 1, Some(&[1, 1])),
            ("t", 1, Some(&[])),
            ("t", 2, Some(&[1])),
            ("u", 0, None),
        ];
        for version in [0, 1] {
            let body = cluster.ask(client, version, reassign_request(moves));
            assert_eq!(codes(&body), [0, 85, 39, 39, 39, 39, 3, 3]);
        }
        use kp::list_partition_reassignments_request::ListPartitionReassignmentsTopics;
        let some = ["t", "u"].map(|name| {
            ListPartitionReassignmentsTopics::default()
                .with_name(kp::TopicName(text(name)))
                .with_partition_indexes(vec![0, 7])
        });
        for topics in [None, Some(Vec::new()), Some(some.to_vec())] {
            let request = kp::ListPartitionReassignmentsRequest::default().with_topics(topics);
            let ResponseBody::ListPartitionReassignments(body) = cluster.ask(client, 0, request) else {
                panic!("not an answer")
            };
            assert_eq!((body.error_code, body.topics.len()), (0, 0));
            assert_eq!(body.error_message, None);
        }
    }
}

#[test]
fn what_has_configs_is_listed_by_its_type() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(shards - 1);
        cluster.create(client, "b", 1, &[]);
        cluster.create(client, "a", 1, &[]);
        let mut list = |version, kinds: &[i8]| {
            let request = kp::ListConfigResourcesRequest::default().with_resource_types(kinds.to_vec());
            let ResponseBody::ListConfigResources(body) = cluster.ask(client, version, request) else {
                panic!("not an answer")
            };
            let named = body.config_resources.iter();
            let named: Vec<(i8, String)> = named
                .map(|one| (one.resource_type, one.resource_name.to_string()))
                .collect();
            (body.error_code, named)
        };
        let (a, b, own) = ((2, "a".to_owned()), (2, "b".to_owned()), (4, "1".to_owned()));
        assert_eq!(list(0, &[]), (0, vec![]), "client metrics only");
        assert_eq!(list(1, &[]), (0, vec![a.clone(), b.clone(), own.clone()]));
        assert_eq!(list(1, &[2]), (0, vec![a, b]));
        assert_eq!(list(1, &[4, 8]), (0, vec![own]));
        assert_eq!(list(1, &[8, 16, 32]), (0, vec![]));
        for unknown in [0, 1, 3, 64, -1] {
            assert_eq!(list(1, &[2, unknown]), (35, vec![]));
        }
    }
}

#[test]
fn replaced_configs_are_all_that_is_set_or_nothing_changes() {
    for shards in SHARDS {
        let mut cluster = Cluster::new(shards);
        let client = cluster.connect(shards - 1);
        let before = [("max.message.bytes", "500"), ("retention.ms", "7")];
        cluster.create(client, "t", 2, &before);
        let set = |cluster: &mut Cluster| -> Vec<(String, String)> {
            let image = &cluster.shard(shards - 1).image;
            let configs = &image.topic("t").expect("a topic").configs;
            configs
                .iter()
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        };
        let owned = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            let pairs = pairs.iter();
            pairs
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect()
        };
        let mut asked = 0;
        let mut replace = |cluster: &mut Cluster, mut request: kp::AlterConfigsRequest, only: bool| {
            request.validate_only = only;
            asked += 1;
            codes(&cluster.ask(client, asked % 3, request))
        };
        let wanted = [("max.message.bytes", "600"), ("segment.ms", "1000")];
        assert_eq!(replace(&mut cluster, replace_request("t", &wanted), true), [0]);
        assert_eq!(set(&mut cluster), owned(&before), "validated only");
        for (name, configs, code) in [
            ("t", &[("nonsense", "1")][..], 40),
            ("t", &[("segment.ms", "9"), ("max.message.bytes", "-1")], 40),
            ("t", &[("segment.ms", "9"), ("segment.ms", "8")], 42),
            ("u", &[("segment.ms", "9")], 3),
        ] {
            assert_eq!(
                replace(&mut cluster, replace_request(name, configs), false),
                [code]
            );
            assert_eq!(set(&mut cluster), owned(&before), "all or nothing: {configs:?}");
        }
        let mut null = replace_request("t", &wanted);
        null.resources[0].configs[1].value = None;
        assert_eq!(replace(&mut cluster, null, false), [42]);
        let mut twice = replace_request("t", &wanted);
        twice.resources.extend(replace_request("t", &[]).resources);
        assert_eq!(replace(&mut cluster, twice, false), [42, 42]);
        let mut broker = replace_request("1", &[]);
        broker.resources[0].resource_type = 4;
        assert_eq!(replace(&mut cluster, broker, false), [42]);
        assert_eq!(set(&mut cluster), owned(&before));
        assert_eq!(replace(&mut cluster, replace_request("t", &wanted), false), [0]);
        assert_eq!(
            set(&mut cluster),
            owned(&wanted),
            "retention.ms is not set any more"
        );
        for partition in 0..2 {
            let refused = cluster.produce(client, "t", partition, large(700));
            assert_eq!(refused.error, tidelog_net::ErrorCode::MessageTooLarge, "in force");
        }
        cluster.restart();
        assert_eq!(set(&mut cluster), owned(&wanted), "and kept");
        let client = cluster.connect(0);
        cluster.ask(client, 2, replace_request("t", &[]));
        assert_eq!(set(&mut cluster), [], "nothing is set");
        cluster.put(client, "t", 0, large(700));
    }
}
