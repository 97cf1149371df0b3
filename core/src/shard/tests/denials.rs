//! Denials: every served API tells of them item by item, in the order asked, and the connection lives on.
//!
//! [`cases`] and [`codes`] match on every API without a default, so that a new one does not compile before it
//! has its case here.

use tidelog_net::hot::MetadataRequest;
use tidelog_net::messages as kp;
use tidelog_net::{ApiKey, RequestBody, ResponseBody, SERVED};

use super::delete_records::request as delete_records_request;
use super::harness::{Client, Cluster};
use super::requests::*;
use crate::guard::{Denial, Guard, Operation, ResourceKind};

const CLOSED: &str = "closed";
const OPERATIONS_UNKNOWN: i32 = i32::MIN;

/// One request and what is denied of it.
struct Case {
    denied: Vec<Denial>,
    version: i16,
    request: RequestBody,
    /// The codes of all items.
    wanted: Vec<i16>,
}

fn case(denied: Vec<Denial>, version: i16, request: impl Into<RequestBody>, wanted: &[i16]) -> Case {
    Case {
        denied,
        version,
        request: request.into(),
        wanted: wanted.to_vec(),
    }
}

fn on_topic(operation: Operation) -> Denial {
    Denial {
        kind: ResourceKind::Topic,
        name: Some(CLOSED),
        operation,
    }
}

fn on(kind: ResourceKind, operation: Operation) -> Denial {
    Denial {
        kind,
        name: None,
        operation,
    }
}

fn topics(names: &[&str]) -> Vec<kp::TopicName> {
    names.iter().map(|name| kp::TopicName(text(name))).collect()
}

/// At least one case for every API that can deny anything.
fn cases(key: ApiKey) -> Vec<Case> {
    use Operation::*;
    use ResourceKind::*;
    match key {
        // Open to all, before anything else is known of a client.
        ApiKey::ApiVersions => vec![],
        // Everyone may know the brokers; the operations tell nothing.
        ApiKey::DescribeCluster => vec![case(
            vec![on(Cluster, Describe)],
            2,
            kp::DescribeClusterRequest::default().with_include_cluster_authorized_operations(true),
            &[0],
        )],
        ApiKey::Produce => {
            let all = |names: &[&str]| {
                let mut request = produce_request("open", -1, &[]);
                let topics = names.iter().flat_map(|name| {
                    let part = |partition| (partition, batch(&["a"]));
                    produce_request(name, -1, &[part(0), part(1)]).topics
                });
                request.topics = topics.collect();
                request
            };
            let mut transactional = all(&["open"]);
            transactional.transactional_id = Some(text("t"));
            vec![
                case(
                    vec![on_topic(Write)],
                    9,
                    all(&[CLOSED, "open", CLOSED]),
                    &[29, 29, 0, 0, 29, 29],
                ),
                case(
                    vec![on(Topic, Write)],
                    9,
                    all(&["not-there", "open"]),
                    &[29, 29, 29, 29],
                ),
                case(vec![on(TransactionalId, Write)], 9, transactional, &[53, 53]),
            ]
        }
        ApiKey::Fetch => vec![
            case(
                vec![on_topic(Read)],
                12,
                fetch_request(&[("open", 0, 0), (CLOSED, 0, 0), ("open", 1, 0)], 0, 0),
                &[0, 29, 0],
            ),
            case(
                vec![on(Topic, Read)],
                12,
                fetch_request(&[("not-there", 0, 0)], 0, 0),
                &[29],
            ),
        ],
        ApiKey::ListOffsets => {
            let mut request = list_request(CLOSED, 0, -1);
            request.topics.extend(list_request("open", 1, -1).topics);
            vec![case(vec![on_topic(Describe)], 7, request, &[29, 0])]
        }
        ApiKey::OffsetForLeaderEpoch => {
            use kp::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
            let topics = [CLOSED, "open"].map(|name| {
                OffsetForLeaderTopic::default()
                    .with_topic(kp::TopicName(text(name)))
                    .with_partitions(vec![
                        OffsetForLeaderPartition::default().with_current_leader_epoch(-1),
                    ])
            });
            let request = kp::OffsetForLeaderEpochRequest::default().with_topics(topics.to_vec());
            vec![case(vec![on_topic(Describe)], 4, request, &[29, 0])]
        }
        ApiKey::Metadata => {
            let named = ["open", CLOSED, "not-there", "no name"];
            let create_denied = vec![on(Cluster, Create), on(Topic, Create)];
            let all = MetadataRequest {
                allow_auto_topic_creation: false,
                ..Default::default()
            };
            vec![
                case(
                    vec![on_topic(Describe)],
                    12,
                    metadata_request(&named, false),
                    &[0, 29, 3, 17],
                ),
                case(
                    vec![on(Topic, Describe)],
                    12,
                    metadata_request(&named, true),
                    &[29, 29, 29, 29],
                ),
                case(create_denied, 12, metadata_request(&named, true), &[0, 0, 29, 17]),
                // Left out when all are asked for.
                case(vec![on_topic(Describe)], 12, all, &[0]),
            ]
        }
        ApiKey::DescribeTopicPartitions => {
            let named = ["open", CLOSED, "not-there", "no name"];
            vec![
                // By name: closed, no name, not-there, open.
                case(
                    vec![on_topic(Describe)],
                    0,
                    describe_request(&named, 9),
                    &[29, 17, 3, 0],
                ),
                case(
                    vec![on(Topic, Describe)],
                    0,
                    describe_request(&named, 9),
                    &[29; 4],
                ),
                // Left out when all are asked for.
                case(vec![on_topic(Describe)], 0, describe_request(&[], 9), &[0]),
            ]
        }
        ApiKey::FindCoordinator => {
            let keys = |kind| {
                kp::FindCoordinatorRequest::default()
                    .with_key_type(kind)
                    .with_coordinator_keys(vec![text("a"), text(CLOSED), text("b")])
            };
            let one = kp::FindCoordinatorRequest::default().with_key(text(CLOSED));
            let named = |kind| Denial {
                kind,
                name: Some(CLOSED),
                operation: Describe,
            };
            vec![
                case(vec![named(Group)], 4, keys(0), &[0, 30, 0]),
                case(vec![named(TransactionalId)], 5, keys(1), &[0, 53, 0]),
                case(vec![named(Group)], 2, one, &[30]),
            ]
        }
        ApiKey::CreateTopics => {
            let mut request = create_request("new-1", 1, &[]);
            for name in [CLOSED, "new-2", "new-3"] {
                request.topics.extend(create_request(name, 1, &[]).topics);
            }
            let only_some = vec![on(Cluster, Create), on_topic(Create)];
            let all = vec![on(Cluster, Create), on(Topic, Create)];
            vec![
                case(only_some, 7, request.clone(), &[0, 29, 0, 0]),
                case(all, 7, request, &[29, 29, 29, 29]),
                // It is made, and its configs are not told.
                case(
                    vec![on(Topic, DescribeConfigs)],
                    7,
                    create_request("new-4", 1, &[]),
                    &[0, 29],
                ),
            ]
        }
        ApiKey::DeleteTopics => {
            let by_name = kp::DeleteTopicsRequest::default()
                .with_topic_names(topics(&["not-there", CLOSED, "also-not-there"]))
                .with_timeout_ms(1000);
            vec![case(
                vec![on(Cluster, Delete), on_topic(Delete)],
                5,
                by_name,
                &[3, 29, 3],
            )]
        }
        ApiKey::DeleteRecords => {
            let parts: &[(i32, i64)] = &[(0, 0), (9, 0)];
            let named = [
                ("open", parts),
                (CLOSED, parts),
                ("not-there", parts),
                ("open", parts),
            ];
            let request = delete_records_request(&named, 1_000);
            vec![
                case(
                    vec![on_topic(Delete)],
                    2,
                    request.clone(),
                    &[0, 3, 29, 29, 3, 3, 0, 3],
                ),
                case(vec![on(Topic, Delete)], 2, request, &[29; 8]),
            ]
        }
        ApiKey::CreatePartitions => {
            use kp::create_partitions_request::CreatePartitionsTopic;
            let grown = [CLOSED, "open", "not-there"].map(|name| {
                CreatePartitionsTopic::default()
                    .with_name(kp::TopicName(text(name)))
                    .with_count(3)
                    .with_assignments(None)
            });
            let request = kp::CreatePartitionsRequest::default()
                .with_topics(grown.to_vec())
                .with_timeout_ms(1000);
            vec![case(vec![on_topic(Alter)], 3, request, &[29, 0, 3])]
        }
        ApiKey::DescribeConfigs => {
            use kp::describe_configs_request::DescribeConfigsResource;
            let asked = [(2, "open"), (4, "1"), (2, CLOSED), (32, "g"), (16, "m"), (9, "x")];
            let resources = asked.map(|(kind, name)| {
                DescribeConfigsResource::default()
                    .with_resource_type(kind)
                    .with_resource_name(text(name))
                    .with_configuration_keys(None)
            });
            let request = kp::DescribeConfigsRequest::default().with_resources(resources.to_vec());
            let denied = vec![
                on_topic(DescribeConfigs),
                on(Cluster, DescribeConfigs),
                on(Group, DescribeConfigs),
            ];
            vec![case(denied, 4, request, &[0, 31, 29, 30, 31, 42])]
        }
        ApiKey::IncrementalAlterConfigs => {
            use kp::incremental_alter_configs_request::AlterConfigsResource;
            let mut request = alter_request(CLOSED, &[("max.message.bytes", "77")]);
            request
                .resources
                .extend(alter_request("open", &[("max.message.bytes", "77")]).resources);
            let others = [(4, "1"), (32, "g"), (16, "m"), (9, "x")];
            request.resources.extend(others.map(|(kind, name)| {
                AlterConfigsResource::default()
                    .with_resource_type(kind)
                    .with_resource_name(text(name))
            }));
            let denied = vec![
                on_topic(AlterConfigs),
                on(Cluster, AlterConfigs),
                on(Group, AlterConfigs),
            ];
            vec![case(denied, 1, request, &[29, 0, 31, 30, 31, 42])]
        }
        ApiKey::AlterConfigs => {
            use kp::alter_configs_request::AlterConfigsResource;
            let mut request = replace_request("open", &[("max.message.bytes", "77")]);
            request
                .resources
                .extend(replace_request(CLOSED, &[("max.message.bytes", "77")]).resources);
            let others = [(4, "1"), (32, "g"), (16, "m"), (9, "x")];
            request.resources.extend(others.map(|(kind, name)| {
                AlterConfigsResource::default()
                    .with_resource_type(kind)
                    .with_resource_name(text(name))
            }));
            let denied = vec![
                on_topic(AlterConfigs),
                on(Cluster, AlterConfigs),
                on(Group, AlterConfigs),
            ];
            vec![case(denied, 2, request, &[0, 29, 31, 30, 31, 42])]
        }
        ApiKey::DescribeLogDirs => vec![case(
            vec![on(Cluster, Describe)],
            4,
            kp::DescribeLogDirsRequest::default().with_topics(None),
            &[31],
        )],
        ApiKey::DescribeAcls => vec![case(
            vec![on(Cluster, Describe)],
            3,
            kp::DescribeAclsRequest::default(),
            &[31],
        )],
        ApiKey::CreateAcls => {
            let request = kp::CreateAclsRequest::default().with_creations(vec![Default::default(); 2]);
            vec![case(vec![on(Cluster, Alter)], 3, request, &[31, 31])]
        }
        ApiKey::DeleteAcls => {
            let request = kp::DeleteAclsRequest::default().with_filters(vec![Default::default(); 2]);
            vec![case(vec![on(Cluster, Alter)], 3, request, &[31, 31])]
        }
        ApiKey::ElectLeaders => vec![case(
            vec![on(Cluster, Alter)],
            2,
            elect_request(0, &[("open", &[0, 1]), (CLOSED, &[0])]),
            &[31, 31, 31, 31],
        )],
        ApiKey::AlterPartitionReassignments => {
            let request = reassign_request(&[("open", 0, None), (CLOSED, 0, None)]);
            vec![case(vec![on(Cluster, Alter)], 0, request, &[31, 31, 31])]
        }
        ApiKey::ListPartitionReassignments => vec![case(
            vec![on(Cluster, Describe)],
            0,
            kp::ListPartitionReassignmentsRequest::default(),
            &[31],
        )],
        ApiKey::ListConfigResources => vec![case(
            vec![on(Cluster, DescribeConfigs)],
            1,
            kp::ListConfigResourcesRequest::default(),
            &[31],
        )],
        ApiKey::InitProducerId => {
            let request = kp::InitProducerIdRequest::default().with_transactional_id(None);
            vec![case(vec![on(Cluster, IdempotentWrite)], 4, request, &[31])]
        }
    }
}

/// The codes of an answer's items, in its order; the answer's own where it has one and no items.
pub(super) fn codes(body: &ResponseBody) -> Vec<i16> {
    match body {
        ResponseBody::ApiVersions(body) => vec![body.error_code],
        ResponseBody::Produce(body) => {
            let parts = body.topics.iter().flat_map(|topic| &topic.partitions);
            parts.map(|part| part.error.code()).collect()
        }
        ResponseBody::Fetch(body) => {
            let parts = body.topics.iter().flat_map(|topic| &topic.partitions);
            parts.map(|part| part.partition.error.code()).collect()
        }
        ResponseBody::ListOffsets(body) => {
            let parts = body.topics.iter().flat_map(|topic| &topic.partitions);
            parts.map(|part| part.error_code).collect()
        }
        ResponseBody::OffsetForLeaderEpoch(body) => {
            let parts = body.topics.iter().flat_map(|topic| &topic.partitions);
            parts.map(|part| part.error_code).collect()
        }
        ResponseBody::Metadata(body) => body.topics.iter().map(|topic| topic.error_code).collect(),
        ResponseBody::DescribeTopicPartitions(body) => {
            body.topics.iter().map(|topic| topic.error_code).collect()
        }
        ResponseBody::FindCoordinator(body) if body.coordinators.is_empty() => vec![body.error_code],
        ResponseBody::FindCoordinator(body) => {
            let found = body.coordinators.iter();
            found.map(|coordinator| coordinator.error_code).collect()
        }
        ResponseBody::CreateTopics(body) => {
            let hidden = body.topics.iter().map(|topic| topic.topic_config_error_code);
            let made = body.topics.iter().map(|topic| topic.error_code);
            made.chain(hidden.filter(|code| *code != 0)).collect()
        }
        ResponseBody::DeleteTopics(body) => body.responses.iter().map(|topic| topic.error_code).collect(),
        ResponseBody::CreatePartitions(body) => body.results.iter().map(|topic| topic.error_code).collect(),
        ResponseBody::DescribeConfigs(body) => body.results.iter().map(|one| one.error_code).collect(),
        ResponseBody::IncrementalAlterConfigs(body) => {
            body.responses.iter().map(|one| one.error_code).collect()
        }
        ResponseBody::DescribeAcls(body) => vec![body.error_code],
        ResponseBody::CreateAcls(body) => body.results.iter().map(|one| one.error_code).collect(),
        ResponseBody::DeleteAcls(body) => body.filter_results.iter().map(|one| one.error_code).collect(),
        ResponseBody::ElectLeaders(body) => {
            let topics = body.replica_election_results.iter();
            let parts = topics.flat_map(|topic| &topic.partition_result);
            let own = (body.error_code != 0).then_some(body.error_code);
            own.into_iter().chain(parts.map(|part| part.error_code)).collect()
        }
        ResponseBody::AlterPartitionReassignments(body) => {
            let parts = body.responses.iter().flat_map(|topic| &topic.partitions);
            let own = (body.error_code != 0).then_some(body.error_code);
            own.into_iter().chain(parts.map(|part| part.error_code)).collect()
        }
        ResponseBody::ListPartitionReassignments(body) => vec![body.error_code],
        ResponseBody::ListConfigResources(body) => vec![body.error_code],
        ResponseBody::AlterConfigs(body) => body.responses.iter().map(|one| one.error_code).collect(),
        ResponseBody::DescribeLogDirs(body) => {
            let own = (body.error_code != 0).then_some(body.error_code);
            let results = body.results.iter().map(|one| one.error_code);
            own.into_iter().chain(results).collect()
        }
        ResponseBody::DeleteRecords(body) => {
            let parts = body.topics.iter().flat_map(|topic| &topic.partitions);
            parts.map(|part| part.error_code).collect()
        }
        ResponseBody::InitProducerId(body) => vec![body.error_code],
        ResponseBody::DescribeCluster(body) => vec![body.error_code],
    }
}

/// A broker with both topics, whose guards then deny this.
fn denying(shards: usize, denied: Vec<Denial>) -> (Cluster, Client) {
    let mut cluster = Cluster::with(shards, &["auto_create_topics=true"], Default::default());
    let client = cluster.connect(shards - 1);
    cluster.create(client, "open", 2, &[]);
    cluster.create(client, CLOSED, 2, &[]);
    for shard in 0..shards {
        cluster.shard(shard).guard = Guard::denying(denied.clone());
    }
    (cluster, client)
}

#[test]
fn every_api_tells_of_a_denial_per_item_and_keeps_the_connection() {
    for shards in [1, 3] {
        for api in SERVED {
            let cases = cases(api.key);
            assert!(
                !cases.is_empty() || api.key == ApiKey::ApiVersions,
                "{}",
                api.name
            );
            for Case {
                denied,
                version,
                request,
                wanted,
            } in cases
            {
                assert_eq!(request.api_key(), api.key);
                let label = format!("{} with {shards} shards, {denied:?}", api.name);
                let (mut cluster, client) = denying(shards, denied);
                let body = cluster.ask(client, version, request);
                assert_eq!(codes(&body), wanted, "{label}");
                assert!(!cluster.is_closed(client), "{label}");
                let again = cluster.ask(client, 3, api_versions_request());
                assert_eq!(codes(&again), [0], "{label}");
            }
        }
    }
}

fn api_versions_request() -> kp::ApiVersionsRequest {
    kp::ApiVersionsRequest::default()
        .with_client_software_name(text("test"))
        .with_client_software_version(text("1"))
}

#[test]
fn what_is_denied_is_not_done_and_the_rest_is() {
    let denied = vec![
        on(ResourceKind::Cluster, Operation::Create),
        on_topic(Operation::Create),
        on_topic(Operation::Write),
        on_topic(Operation::AlterConfigs),
    ];
    for shards in [1, 3] {
        let (mut cluster, client) = denying(shards, denied.clone());
        cluster.ask(client, 1, alter_request(CLOSED, &[("max.message.bytes", "77")]));
        cluster.ask(client, 1, alter_request("open", &[("max.message.bytes", "77")]));
        cluster.ask(client, 9, produce_request(CLOSED, -1, &[(0, batch(&["a"]))]));
        let image = std::sync::Arc::clone(&cluster.shard(0).image);
        assert!(image.topic(CLOSED).expect("there").configs.is_empty());
        assert_eq!(
            image.topic("open").expect("there").configs["max.message.bytes"],
            "77"
        );
        assert_eq!(
            cluster.list(client, CLOSED, 0, -1),
            (0, -1, 0),
            "nothing was appended"
        );
        let denials = cluster.shard(shards - 1).metrics().guard_denials.get();
        assert_eq!(denials, 2, "each is counted");
    }
}

#[test]
fn a_denied_id_keeps_the_name_of_its_topic() {
    use kp::delete_topics_request::DeleteTopicState;
    for (see, name) in [(true, Some(CLOSED)), (false, None)] {
        let mut denied = vec![
            on(ResourceKind::Cluster, Operation::Delete),
            on_topic(Operation::Delete),
        ];
        if !see {
            denied.push(on_topic(Operation::Describe));
        }
        let (mut cluster, client) = denying(3, denied);
        let id = cluster.shard(0).image.topic(CLOSED).expect("there").topic_id;
        let by_id = DeleteTopicState::default().with_name(None).with_topic_id(id);
        let request = kp::DeleteTopicsRequest::default()
            .with_topics(vec![by_id])
            .with_timeout_ms(1000);
        let ResponseBody::DeleteTopics(body) = cluster.ask(client, 6, request) else {
            panic!("not an answer")
        };
        let answer = &body.responses[0];
        assert_eq!((answer.error_code, answer.topic_id), (29, id));
        assert_eq!(answer.name.as_ref().map(|name| name.as_str()), name);
        assert!(cluster.shard(0).image.topic(CLOSED).is_some());
    }
}

#[test]
fn authorized_operations_are_told_when_asked_for_and_are_those_allowed() {
    let denied = vec![
        on_topic(Operation::Write),
        on(ResourceKind::Cluster, Operation::Alter),
    ];
    let (mut cluster, client) = denying(3, denied);
    for asked in [true, false] {
        let request = MetadataRequest {
            include_topic_authorized_operations: asked,
            include_cluster_authorized_operations: asked,
            ..metadata_request(&["open", CLOSED], false)
        };
        let ResponseBody::Metadata(body) = cluster.ask(client, 9, request) else {
            panic!("not metadata")
        };
        let told: Vec<i32> = body
            .topics
            .iter()
            .map(|t| t.topic_authorized_operations)
            .collect();
        let cluster_told = body.cluster_authorized_operations;
        let request = kp::DescribeClusterRequest::default().with_include_cluster_authorized_operations(asked);
        let ResponseBody::DescribeCluster(body) = cluster.ask(client, 1, request) else {
            panic!("not a cluster")
        };
        if asked {
            // Read, write, create, delete, alter, describe, and both of configs: bits 3-8, 10, 11.
            assert_eq!(told, [0xdf8, 0xdf8 & !(1 << 4)]);
            assert_eq!(cluster_told, 0x1fa0 & !(1 << 7));
            assert_eq!(body.cluster_authorized_operations, cluster_told);
        } else {
            assert_eq!(told, [OPERATIONS_UNKNOWN; 2]);
            assert_eq!(cluster_told, OPERATIONS_UNKNOWN);
            assert_eq!(body.cluster_authorized_operations, OPERATIONS_UNKNOWN);
        }
    }
    let (mut cluster, client) = denying(1, vec![on(ResourceKind::Cluster, Operation::Describe)]);
    let request = kp::DescribeClusterRequest::default().with_include_cluster_authorized_operations(true);
    let ResponseBody::DescribeCluster(body) = cluster.ask(client, 1, request) else {
        panic!("not a cluster")
    };
    assert_eq!((body.cluster_authorized_operations, body.brokers.len()), (0, 1));
}
