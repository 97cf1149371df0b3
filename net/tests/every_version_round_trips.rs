//! Every served request and answer, in every version: the field table, our codecs and the codec crate
//! agree about each byte.

mod common;

use bytes::Bytes;
use common::{Sample, body, request_frame, response_frame};
use kafka_protocol::messages as kp;
use kafka_protocol::protocol::{Decodable, Encodable, Message as _};
use tidelog_net::client::{CLIENT_VERSIONS, decode_response, encode_request};
use tidelog_net::hot::{FetchPartitionResponse, FetchResponse, FetchTopicResponse, FetchedResponse};
use tidelog_net::response::{
    api_versions_response, encode_fetch_response, encode_response, encode_unsupported_api_versions,
};
use tidelog_net::walker::{self, walk};
use tidelog_net::wire::Reader;
use tidelog_net::{ApiKey, DecodeError, ErrorCode, ResponseBody, ResponsePiece, SERVED, decode_request};

const BUDGET: usize = 1 << 20;
const ALL_SAMPLES: [Sample; 4] = [
    Sample::Full,
    Sample::Empty,
    Sample::UnknownTags,
    Sample::KnownTags,
];

/// The crate reads the sample to its last byte and writes the same bytes again.
fn crate_agrees<T: Decodable + Encodable>(message: &walker::Message, version: i16, sample: Sample) {
    let wire = body(message, version, sample);
    let mut rest = wire.clone();
    let label = format!("{} v{version} {sample:?}", message.name);
    let decoded = T::decode(&mut rest, version).unwrap_or_else(|error| panic!("{label}: {error}"));
    assert!(rest.is_empty(), "{label}: {} bytes left", rest.len());
    let mut again = bytes::BytesMut::new();
    decoded
        .encode(&mut again, version)
        .unwrap_or_else(|error| panic!("{label}: {error}"));
    assert_eq!(again.freeze(), wire, "{label}");
}

fn crate_agrees_on_all<Q: Decodable + Encodable, R: Decodable + Encodable>(key: ApiKey) {
    for message in [walker::request(key), walker::response(key)] {
        for version in message.min..=message.max {
            for sample in ALL_SAMPLES {
                if message.name.ends_with("Request") {
                    crate_agrees::<Q>(message, version, sample);
                } else {
                    crate_agrees::<R>(message, version, sample);
                }
            }
        }
    }
}

#[test]
fn the_field_table_is_that_of_the_codec_crate() {
    crate_agrees_on_all::<kp::ProduceRequest, kp::ProduceResponse>(ApiKey::Produce);
    crate_agrees_on_all::<kp::FetchRequest, kp::FetchResponse>(ApiKey::Fetch);
    crate_agrees_on_all::<kp::ListOffsetsRequest, kp::ListOffsetsResponse>(ApiKey::ListOffsets);
    crate_agrees_on_all::<kp::MetadataRequest, kp::MetadataResponse>(ApiKey::Metadata);
    crate_agrees_on_all::<kp::FindCoordinatorRequest, kp::FindCoordinatorResponse>(ApiKey::FindCoordinator);
    crate_agrees_on_all::<kp::ApiVersionsRequest, kp::ApiVersionsResponse>(ApiKey::ApiVersions);
    crate_agrees_on_all::<kp::CreateTopicsRequest, kp::CreateTopicsResponse>(ApiKey::CreateTopics);
    crate_agrees_on_all::<kp::DeleteTopicsRequest, kp::DeleteTopicsResponse>(ApiKey::DeleteTopics);
    crate_agrees_on_all::<kp::DeleteRecordsRequest, kp::DeleteRecordsResponse>(ApiKey::DeleteRecords);
    crate_agrees_on_all::<kp::InitProducerIdRequest, kp::InitProducerIdResponse>(ApiKey::InitProducerId);
    crate_agrees_on_all::<kp::OffsetForLeaderEpochRequest, kp::OffsetForLeaderEpochResponse>(
        ApiKey::OffsetForLeaderEpoch,
    );
    crate_agrees_on_all::<kp::DescribeConfigsRequest, kp::DescribeConfigsResponse>(ApiKey::DescribeConfigs);
    crate_agrees_on_all::<kp::CreatePartitionsRequest, kp::CreatePartitionsResponse>(
        ApiKey::CreatePartitions,
    );
    crate_agrees_on_all::<kp::IncrementalAlterConfigsRequest, kp::IncrementalAlterConfigsResponse>(
        ApiKey::IncrementalAlterConfigs,
    );
    crate_agrees_on_all::<kp::DescribeClusterRequest, kp::DescribeClusterResponse>(ApiKey::DescribeCluster);
    crate_agrees_on_all::<kp::DescribeAclsRequest, kp::DescribeAclsResponse>(ApiKey::DescribeAcls);
    crate_agrees_on_all::<kp::CreateAclsRequest, kp::CreateAclsResponse>(ApiKey::CreateAcls);
    crate_agrees_on_all::<kp::DeleteAclsRequest, kp::DeleteAclsResponse>(ApiKey::DeleteAcls);
    crate_agrees_on_all::<kp::DescribeTopicPartitionsRequest, kp::DescribeTopicPartitionsResponse>(
        ApiKey::DescribeTopicPartitions,
    );
    crate_agrees_on_all::<kp::AlterPartitionReassignmentsRequest, kp::AlterPartitionReassignmentsResponse>(
        ApiKey::AlterPartitionReassignments,
    );
    crate_agrees_on_all::<kp::ListPartitionReassignmentsRequest, kp::ListPartitionReassignmentsResponse>(
        ApiKey::ListPartitionReassignments,
    );
    crate_agrees_on_all::<kp::ElectLeadersRequest, kp::ElectLeadersResponse>(ApiKey::ElectLeaders);
    crate_agrees_on_all::<kp::ListConfigResourcesRequest, kp::ListConfigResourcesResponse>(
        ApiKey::ListConfigResources,
    );
    crate_agrees_on_all::<kp::AlterConfigsRequest, kp::AlterConfigsResponse>(ApiKey::AlterConfigs);
    crate_agrees_on_all::<kp::DescribeLogDirsRequest, kp::DescribeLogDirsResponse>(ApiKey::DescribeLogDirs);
}

#[test]
fn the_walker_passes_over_exactly_one_message() {
    for message in walker::REQUESTS.iter().chain(walker::RESPONSES) {
        for version in message.min..=message.max {
            for sample in ALL_SAMPLES {
                let wire = body(message, version, sample);
                let mut reader = Reader::new(&wire, BUDGET);
                let label = format!("{} v{version} {sample:?}", message.name);
                assert_eq!(walk(message, version, &mut reader), Ok(()), "{label}");
                assert_eq!(reader.remaining(), 0, "{label}");
            }
        }
    }
}

/// A frame of [`encode_request`] or [`encode_response`] without its size prefix, which must be true.
fn without_prefix(frame: &Bytes) -> Bytes {
    let size = u32::from_be_bytes(*frame.first_chunk().expect("a size prefix")) as usize;
    assert_eq!(size, frame.len() - 4);
    frame.slice(4..)
}

#[test]
fn requests_decode_and_encode_to_the_same_bytes() {
    for message in walker::REQUESTS {
        for version in message.min..=message.max {
            for sample in ALL_SAMPLES {
                let label = format!("{} v{version} {sample:?}", message.name);
                let frame = request_frame(message, version, sample);
                let request =
                    decode_request(frame.clone(), BUDGET).unwrap_or_else(|e| panic!("{label}: {e}"));
                assert_eq!(request.header.api_key, message.key, "{label}");
                assert_eq!(request.header.correlation_id, 4711, "{label}");
                assert_eq!(request.header.client_id.as_deref(), Some("sample"), "{label}");
                let again =
                    encode_request(message.key, version, 4711, Some("sample"), &request.body).unwrap();
                // Tagged fields of hot requests are not written again, and version 0 of Metadata says
                // "all topics" with an empty list, which reads as nothing and is written as empty.
                if matches!(sample, Sample::Full | Sample::Empty) {
                    assert_eq!(without_prefix(&again), frame, "{label}");
                } else {
                    let plain = request_frame(message, version, Sample::Full);
                    let hot = matches!(message.key, ApiKey::Produce | ApiKey::Fetch | ApiKey::Metadata);
                    if hot && message.key != ApiKey::Fetch {
                        assert_eq!(without_prefix(&again), plain, "{label}");
                    }
                }
            }
        }
    }
}

#[test]
fn answers_decode_and_encode_to_the_same_bytes() {
    for message in walker::RESPONSES {
        for version in message.min..=message.max {
            for sample in ALL_SAMPLES {
                let label = format!("{} v{version} {sample:?}", message.name);
                let frame = response_frame(message, version, sample);
                let response = decode_response(message.key, version, frame.clone(), BUDGET)
                    .unwrap_or_else(|error| panic!("{label}: {error}"));
                assert_eq!(response.correlation_id, 4711, "{label}");
                assert_eq!(response.body.api_key(), message.key, "{label}");
                let again = encode_response(version, 4711, &response.body).unwrap();
                let hot = matches!(message.key, ApiKey::Produce | ApiKey::Fetch);
                if !hot || matches!(sample, Sample::Full | Sample::Empty) {
                    assert_eq!(without_prefix(&again), frame, "{label}");
                }
            }
        }
    }
}

#[test]
fn records_of_a_produce_request_are_not_copied() {
    let message = walker::request(ApiKey::Produce);
    for version in message.min..=message.max {
        let frame = request_frame(message, version, Sample::Full);
        let range = frame.as_ptr_range();
        let request = decode_request(frame.clone(), BUDGET).unwrap();
        let tidelog_net::RequestBody::Produce(body) = request.body else {
            panic!("not Produce")
        };
        for partition in body.topics.iter().flat_map(|topic| &topic.partitions) {
            let records = partition.records.as_ref().unwrap();
            assert_eq!(records.len(), 200);
            assert!(range.contains(&records.as_ptr()));
        }
    }
}

#[test]
fn a_fetch_answer_in_pieces_is_the_answer_of_the_codec_crate() {
    let lengths = [[0usize, 70_000], [5, 0]];
    let body = FetchResponse {
        throttle_time_ms: 3,
        error: ErrorCode::None,
        session_id: 0,
        topics: (0..2)
            .map(|topic| FetchTopicResponse {
                name: tidelog_net::StrBytes::from_string(format!("topic-{topic}")),
                topic_id: tidelog_net::Uuid::from_bytes([topic + 1; 16]),
                partitions: (0..2)
                    .map(|index| FetchPartitionResponse {
                        index,
                        high_watermark: 10,
                        records_len: lengths[usize::from(topic)][index as usize],
                        ..FetchPartitionResponse::default()
                    })
                    .collect(),
            })
            .collect(),
    };
    for version in 4..=18 {
        let pieces = encode_fetch_response(version, 9, &body).unwrap();
        assert_eq!(
            pieces
                .iter()
                .filter(|piece| matches!(piece, ResponsePiece::Records { .. }))
                .count(),
            2
        );
        let mut wire = Vec::new();
        for piece in pieces {
            match piece {
                ResponsePiece::Bytes(bytes) => wire.extend_from_slice(&bytes),
                ResponsePiece::Records {
                    topic_idx,
                    partition_idx,
                } => {
                    wire.resize(wire.len() + lengths[topic_idx][partition_idx], 0xab);
                }
            }
        }
        let frame = without_prefix(&Bytes::from(wire));
        let mut rest = frame.slice(if version >= 12 { 5 } else { 4 }..);
        let decoded = kp::FetchResponse::decode(&mut rest, version).unwrap();
        assert!(rest.is_empty(), "v{version}");
        let records: Vec<usize> = decoded
            .responses
            .iter()
            .flat_map(|topic| topic.partitions.iter().map(|p| p.records.as_ref().unwrap().len()))
            .collect();
        assert_eq!(records, [0, 70_000, 5, 0], "v{version}");
        let ours = decode_response(ApiKey::Fetch, version, frame, BUDGET).unwrap();
        let ResponseBody::Fetch(FetchedResponse { topics, .. }) = ours.body else {
            panic!("not Fetch")
        };
        assert_eq!(topics[1].partitions[0].records, vec![0xab; 5]);
    }
}

#[test]
fn a_foreign_version_of_api_versions_is_answered_in_version_0() {
    let mut frame = vec![0, 18, 0, 99, 0, 0, 0, 7];
    frame.extend_from_slice(&[0xff; 30]);
    let outcome = decode_request(Bytes::from(frame), BUDGET);
    assert_eq!(
        outcome,
        Err(DecodeError::UnsupportedApi {
            correlation_id: 7,
            key: 18,
            version: 99
        })
    );
    let answer = encode_unsupported_api_versions(7).unwrap();
    assert_eq!(
        &answer[..],
        [0, 0, 0, 16, 0, 0, 0, 7, 0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 4]
    );
}

#[test]
fn produce_is_advertised_from_0_and_served_from_3() {
    let body = api_versions_response();
    assert_eq!(body.api_keys.len(), SERVED.len());
    let produce = body.api_keys.iter().find(|api| api.api_key == 0).unwrap();
    assert_eq!((produce.min_version, produce.max_version), (0, 13));
    for version in kp::ApiVersionsResponse::VERSIONS.min..=kp::ApiVersionsResponse::VERSIONS.max {
        let frame = encode_response(version, 1, &body.clone().into()).unwrap();
        // Header version 0 always: the error code follows the correlation id at once.
        assert_eq!(frame[4..10], [0, 0, 0, 1, 0, 0], "v{version}");
    }
    let refused = decode_request(Bytes::from_static(&[0, 0, 0, 2, 0, 0, 0, 1]), BUDGET);
    assert!(matches!(
        refused,
        Err(DecodeError::UnsupportedApi {
            key: 0,
            version: 2,
            ..
        })
    ));
}

#[test]
fn the_client_speaks_served_versions_of_every_api() {
    for api in SERVED {
        let version = CLIENT_VERSIONS
            .iter()
            .find(|(key, _)| *key == api.key)
            .map(|(_, version)| *version);
        assert!(version.is_some_and(|version| api.serves(version)), "{}", api.name);
    }
}

#[test]
fn answers_filled_for_the_newest_version_encode_in_every_version() {
    let metadata = kp::MetadataResponse::default()
        .with_cluster_authorized_operations(5)
        .with_topics(vec![
            kp::metadata_response::MetadataResponseTopic::default()
                .with_name(Some(kp::TopicName(tidelog_net::StrBytes::from_static_str("t"))))
                .with_topic_authorized_operations(6),
        ]);
    let offsets = kp::ListOffsetsResponse::default().with_topics(vec![
        kp::list_offsets_response::ListOffsetsTopicResponse::default().with_partitions(vec![
            kp::list_offsets_response::ListOffsetsPartitionResponse::default().with_leader_epoch(4),
        ]),
    ]);
    let cluster = kp::DescribeClusterResponse::default()
        .with_endpoint_type(2)
        .with_brokers(vec![
            kp::describe_cluster_response::DescribeClusterBroker::default().with_is_fenced(true),
        ]);
    let elections = kp::ElectLeadersResponse::default().with_error_code(31);
    let directories = kp::DescribeLogDirsResponse::default()
        .with_error_code(31)
        .with_results(vec![
            kp::describe_log_dirs_response::DescribeLogDirsResult::default()
                .with_total_bytes(7)
                .with_usable_bytes(5),
        ]);
    for body in [
        ResponseBody::from(metadata),
        offsets.into(),
        cluster.into(),
        elections.into(),
        directories.into(),
    ] {
        let api = tidelog_net::ServedApi::of(body.api_key());
        for version in api.min..=api.max {
            let frame = encode_response(version, 1, &body).unwrap_or_else(|error| panic!("{error}"));
            decode_response(api.key, version, without_prefix(&frame), BUDGET)
                .unwrap_or_else(|error| panic!("{} v{version}: {error}", api.name));
        }
    }
}
