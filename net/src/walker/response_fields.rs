//! The fields of every served response, per version, in wire order.
//!
//! Data only: no code reads bytes here. A field is on the wire in versions `min..=max`; a tagged
//! field lies in the tag buffer of its struct; `nullable` fields may carry the null length. Strings,
//! bytes and arrays are compact from the message's `flexible_from` on, and every struct then ends
//! with a tag buffer.

use super::admin_response_fields as admin;
use super::table::{Field, Kind, LATEST, Message, field};
use super::topic_response_fields as topics;
use crate::api::ApiKey;

/// Every served response, in the order of its key.
pub static RESPONSES: &[Message] = &[
    Message {
        key: ApiKey::Produce,
        name: "ProduceResponse",
        min: 3,
        max: 13,
        flexible_from: 9,
        fields: PRODUCE_FIELDS,
    },
    Message {
        key: ApiKey::Fetch,
        name: "FetchResponse",
        min: 4,
        max: 18,
        flexible_from: 12,
        fields: FETCH_FIELDS,
    },
    Message {
        key: ApiKey::ListOffsets,
        name: "ListOffsetsResponse",
        min: 1,
        max: 10,
        flexible_from: 6,
        fields: LIST_OFFSETS_FIELDS,
    },
    Message {
        key: ApiKey::Metadata,
        name: "MetadataResponse",
        min: 0,
        max: 13,
        flexible_from: 9,
        fields: METADATA_FIELDS,
    },
    Message {
        key: ApiKey::FindCoordinator,
        name: "FindCoordinatorResponse",
        min: 0,
        max: 6,
        flexible_from: 3,
        fields: FIND_COORDINATOR_FIELDS,
    },
    Message {
        key: ApiKey::ApiVersions,
        name: "ApiVersionsResponse",
        min: 0,
        max: 4,
        flexible_from: 3,
        fields: API_VERSIONS_FIELDS,
    },
    Message {
        key: ApiKey::CreateTopics,
        name: "CreateTopicsResponse",
        min: 2,
        max: 7,
        flexible_from: 5,
        fields: topics::CREATE_TOPICS_FIELDS,
    },
    Message {
        key: ApiKey::DeleteTopics,
        name: "DeleteTopicsResponse",
        min: 1,
        max: 6,
        flexible_from: 4,
        fields: topics::DELETE_TOPICS_FIELDS,
    },
    Message {
        key: ApiKey::DeleteRecords,
        name: "DeleteRecordsResponse",
        min: 0,
        max: 2,
        flexible_from: 2,
        fields: topics::DELETE_RECORDS_FIELDS,
    },
    Message {
        key: ApiKey::InitProducerId,
        name: "InitProducerIdResponse",
        min: 0,
        max: 5,
        flexible_from: 2,
        fields: INIT_PRODUCER_ID_FIELDS,
    },
    Message {
        key: ApiKey::OffsetForLeaderEpoch,
        name: "OffsetForLeaderEpochResponse",
        min: 2,
        max: 4,
        flexible_from: 4,
        fields: OFFSET_FOR_LEADER_EPOCH_FIELDS,
    },
    Message {
        key: ApiKey::DescribeAcls,
        name: "DescribeAclsResponse",
        min: 1,
        max: 3,
        flexible_from: 2,
        fields: admin::DESCRIBE_ACLS_FIELDS,
    },
    Message {
        key: ApiKey::CreateAcls,
        name: "CreateAclsResponse",
        min: 1,
        max: 3,
        flexible_from: 2,
        fields: admin::CREATE_ACLS_FIELDS,
    },
    Message {
        key: ApiKey::DeleteAcls,
        name: "DeleteAclsResponse",
        min: 1,
        max: 3,
        flexible_from: 2,
        fields: admin::DELETE_ACLS_FIELDS,
    },
    Message {
        key: ApiKey::DescribeConfigs,
        name: "DescribeConfigsResponse",
        min: 1,
        max: 4,
        flexible_from: 4,
        fields: topics::DESCRIBE_CONFIGS_FIELDS,
    },
    Message {
        key: ApiKey::AlterConfigs,
        name: "AlterConfigsResponse",
        min: 0,
        max: 2,
        flexible_from: 2,
        fields: admin::ALTER_CONFIGS_FIELDS,
    },
    Message {
        key: ApiKey::DescribeLogDirs,
        name: "DescribeLogDirsResponse",
        min: 1,
        max: 4,
        flexible_from: 2,
        fields: admin::DESCRIBE_LOG_DIRS_FIELDS,
    },
    Message {
        key: ApiKey::CreatePartitions,
        name: "CreatePartitionsResponse",
        min: 0,
        max: 3,
        flexible_from: 2,
        fields: topics::CREATE_PARTITIONS_FIELDS,
    },
    Message {
        key: ApiKey::ElectLeaders,
        name: "ElectLeadersResponse",
        min: 0,
        max: 2,
        flexible_from: 2,
        fields: admin::ELECT_LEADERS_FIELDS,
    },
    Message {
        key: ApiKey::IncrementalAlterConfigs,
        name: "IncrementalAlterConfigsResponse",
        min: 0,
        max: 1,
        flexible_from: 1,
        fields: topics::INCREMENTAL_ALTER_CONFIGS_FIELDS,
    },
    Message {
        key: ApiKey::AlterPartitionReassignments,
        name: "AlterPartitionReassignmentsResponse",
        min: 0,
        max: 1,
        flexible_from: 0,
        fields: admin::ALTER_PARTITION_REASSIGNMENTS_FIELDS,
    },
    Message {
        key: ApiKey::ListPartitionReassignments,
        name: "ListPartitionReassignmentsResponse",
        min: 0,
        max: 0,
        flexible_from: 0,
        fields: admin::LIST_PARTITION_REASSIGNMENTS_FIELDS,
    },
    Message {
        key: ApiKey::DescribeCluster,
        name: "DescribeClusterResponse",
        min: 0,
        max: 2,
        flexible_from: 0,
        fields: topics::DESCRIBE_CLUSTER_FIELDS,
    },
    Message {
        key: ApiKey::ListConfigResources,
        name: "ListConfigResourcesResponse",
        min: 0,
        max: 1,
        flexible_from: 0,
        fields: admin::LIST_CONFIG_RESOURCES_FIELDS,
    },
    Message {
        key: ApiKey::DescribeTopicPartitions,
        name: "DescribeTopicPartitionsResponse",
        min: 0,
        max: 0,
        flexible_from: 0,
        fields: admin::DESCRIBE_TOPIC_PARTITIONS_FIELDS,
    },
];

const PRODUCE_BATCH_INDEX_AND_ERROR_MESSAGE: &[Field] = &[
    field("batch_index", Kind::Int32, 8, LATEST),
    field("batch_index_error_message", Kind::String, 8, LATEST).nullable(),
];

const PRODUCE_LEADER_ID_AND_EPOCH: &[Field] = &[
    field("leader_id", Kind::Int32, 10, LATEST),
    field("leader_epoch", Kind::Int32, 10, LATEST),
];

const PRODUCE_PARTITION_PRODUCE_RESPONSE: &[Field] = &[
    field("index", Kind::Int32, 0, LATEST),
    field("error_code", Kind::Int16, 0, LATEST),
    field("base_offset", Kind::Int64, 0, LATEST),
    field("log_append_time_ms", Kind::Int64, 0, LATEST),
    field("log_start_offset", Kind::Int64, 5, LATEST),
    field(
        "record_errors",
        Kind::Array(&Kind::Struct(PRODUCE_BATCH_INDEX_AND_ERROR_MESSAGE)),
        8,
        LATEST,
    ),
    field("error_message", Kind::String, 8, LATEST).nullable(),
    field(
        "current_leader",
        Kind::Struct(PRODUCE_LEADER_ID_AND_EPOCH),
        10,
        LATEST,
    )
    .tag(0),
];

const PRODUCE_TOPIC_PRODUCE_RESPONSE: &[Field] = &[
    field("name", Kind::String, 0, 12),
    field("topic_id", Kind::Uuid, 13, LATEST),
    field(
        "partition_responses",
        Kind::Array(&Kind::Struct(PRODUCE_PARTITION_PRODUCE_RESPONSE)),
        0,
        LATEST,
    ),
];

const PRODUCE_NODE_ENDPOINT: &[Field] = &[
    field("node_id", Kind::Int32, 10, LATEST),
    field("host", Kind::String, 10, LATEST),
    field("port", Kind::Int32, 10, LATEST),
    field("rack", Kind::String, 10, LATEST).nullable(),
];

const PRODUCE_FIELDS: &[Field] = &[
    field(
        "responses",
        Kind::Array(&Kind::Struct(PRODUCE_TOPIC_PRODUCE_RESPONSE)),
        0,
        LATEST,
    ),
    field("throttle_time_ms", Kind::Int32, 0, LATEST),
    field(
        "node_endpoints",
        Kind::Array(&Kind::Struct(PRODUCE_NODE_ENDPOINT)),
        10,
        LATEST,
    )
    .tag(0),
];

const FETCH_EPOCH_END_OFFSET: &[Field] = &[
    field("epoch", Kind::Int32, 12, LATEST),
    field("end_offset", Kind::Int64, 12, LATEST),
];

const FETCH_LEADER_ID_AND_EPOCH: &[Field] = &[
    field("leader_id", Kind::Int32, 12, LATEST),
    field("leader_epoch", Kind::Int32, 12, LATEST),
];

const FETCH_SNAPSHOT_ID: &[Field] = &[
    field("end_offset", Kind::Int64, 0, LATEST),
    field("epoch", Kind::Int32, 0, LATEST),
];

const FETCH_ABORTED_TRANSACTION: &[Field] = &[
    field("producer_id", Kind::Int64, 0, LATEST),
    field("first_offset", Kind::Int64, 0, LATEST),
];

const FETCH_PARTITION_DATA: &[Field] = &[
    field("partition_index", Kind::Int32, 0, LATEST),
    field("error_code", Kind::Int16, 0, LATEST),
    field("high_watermark", Kind::Int64, 0, LATEST),
    field("last_stable_offset", Kind::Int64, 0, LATEST),
    field("log_start_offset", Kind::Int64, 5, LATEST),
    field(
        "diverging_epoch",
        Kind::Struct(FETCH_EPOCH_END_OFFSET),
        12,
        LATEST,
    )
    .tag(0),
    field(
        "current_leader",
        Kind::Struct(FETCH_LEADER_ID_AND_EPOCH),
        12,
        LATEST,
    )
    .tag(1),
    field("snapshot_id", Kind::Struct(FETCH_SNAPSHOT_ID), 12, LATEST).tag(2),
    field(
        "aborted_transactions",
        Kind::Array(&Kind::Struct(FETCH_ABORTED_TRANSACTION)),
        0,
        LATEST,
    )
    .nullable(),
    field("preferred_read_replica", Kind::Int32, 11, LATEST),
    field("records", Kind::Bytes, 0, LATEST).nullable(),
];

const FETCH_FETCHABLE_TOPIC_RESPONSE: &[Field] = &[
    field("topic", Kind::String, 0, 12),
    field("topic_id", Kind::Uuid, 13, LATEST),
    field(
        "partitions",
        Kind::Array(&Kind::Struct(FETCH_PARTITION_DATA)),
        0,
        LATEST,
    ),
];

const FETCH_NODE_ENDPOINT: &[Field] = &[
    field("node_id", Kind::Int32, 16, LATEST),
    field("host", Kind::String, 16, LATEST),
    field("port", Kind::Int32, 16, LATEST),
    field("rack", Kind::String, 16, LATEST).nullable(),
];

const FETCH_FIELDS: &[Field] = &[
    field("throttle_time_ms", Kind::Int32, 0, LATEST),
    field("error_code", Kind::Int16, 7, LATEST),
    field("session_id", Kind::Int32, 7, LATEST),
    field(
        "responses",
        Kind::Array(&Kind::Struct(FETCH_FETCHABLE_TOPIC_RESPONSE)),
        0,
        LATEST,
    ),
    field(
        "node_endpoints",
        Kind::Array(&Kind::Struct(FETCH_NODE_ENDPOINT)),
        16,
        LATEST,
    )
    .tag(0),
];

const LIST_OFFSETS_LIST_OFFSETS_PARTITION_RESPONSE: &[Field] = &[
    field("partition_index", Kind::Int32, 0, LATEST),
    field("error_code", Kind::Int16, 0, LATEST),
    field("timestamp", Kind::Int64, 0, LATEST),
    field("offset", Kind::Int64, 0, LATEST),
    field("leader_epoch", Kind::Int32, 4, LATEST),
];

const LIST_OFFSETS_LIST_OFFSETS_TOPIC_RESPONSE: &[Field] = &[
    field("name", Kind::String, 0, LATEST),
    field(
        "partitions",
        Kind::Array(&Kind::Struct(LIST_OFFSETS_LIST_OFFSETS_PARTITION_RESPONSE)),
        0,
        LATEST,
    ),
];

const LIST_OFFSETS_FIELDS: &[Field] = &[
    field("throttle_time_ms", Kind::Int32, 2, LATEST),
    field(
        "topics",
        Kind::Array(&Kind::Struct(LIST_OFFSETS_LIST_OFFSETS_TOPIC_RESPONSE)),
        0,
        LATEST,
    ),
];

const METADATA_METADATA_RESPONSE_BROKER: &[Field] = &[
    field("node_id", Kind::Int32, 0, LATEST),
    field("host", Kind::String, 0, LATEST),
    field("port", Kind::Int32, 0, LATEST),
    field("rack", Kind::String, 1, LATEST).nullable(),
];

const METADATA_METADATA_RESPONSE_PARTITION: &[Field] = &[
    field("error_code", Kind::Int16, 0, LATEST),
    field("partition_index", Kind::Int32, 0, LATEST),
    field("leader_id", Kind::Int32, 0, LATEST),
    field("leader_epoch", Kind::Int32, 7, LATEST),
    field("replica_nodes", Kind::Array(&Kind::Int32), 0, LATEST),
    field("isr_nodes", Kind::Array(&Kind::Int32), 0, LATEST),
    field("offline_replicas", Kind::Array(&Kind::Int32), 5, LATEST),
];

const METADATA_METADATA_RESPONSE_TOPIC: &[Field] = &[
    field("error_code", Kind::Int16, 0, LATEST),
    field("name", Kind::String, 0, LATEST).nullable_from(12),
    field("topic_id", Kind::Uuid, 10, LATEST),
    field("is_internal", Kind::Bool, 1, LATEST),
    field(
        "partitions",
        Kind::Array(&Kind::Struct(METADATA_METADATA_RESPONSE_PARTITION)),
        0,
        LATEST,
    ),
    field("topic_authorized_operations", Kind::Int32, 8, LATEST),
];

const METADATA_FIELDS: &[Field] = &[
    field("throttle_time_ms", Kind::Int32, 3, LATEST),
    field(
        "brokers",
        Kind::Array(&Kind::Struct(METADATA_METADATA_RESPONSE_BROKER)),
        0,
        LATEST,
    ),
    field("cluster_id", Kind::String, 2, LATEST).nullable(),
    field("controller_id", Kind::Int32, 1, LATEST),
    field(
        "topics",
        Kind::Array(&Kind::Struct(METADATA_METADATA_RESPONSE_TOPIC)),
        0,
        LATEST,
    ),
    field("cluster_authorized_operations", Kind::Int32, 8, 10),
    field("error_code", Kind::Int16, 13, LATEST),
];

const FIND_COORDINATOR_COORDINATOR: &[Field] = &[
    field("key", Kind::String, 4, LATEST),
    field("node_id", Kind::Int32, 4, LATEST),
    field("host", Kind::String, 4, LATEST),
    field("port", Kind::Int32, 4, LATEST),
    field("error_code", Kind::Int16, 4, LATEST),
    field("error_message", Kind::String, 4, LATEST).nullable(),
];

const FIND_COORDINATOR_FIELDS: &[Field] = &[
    field("throttle_time_ms", Kind::Int32, 1, LATEST),
    field("error_code", Kind::Int16, 0, 3),
    field("error_message", Kind::String, 1, 3).nullable(),
    field("node_id", Kind::Int32, 0, 3),
    field("host", Kind::String, 0, 3),
    field("port", Kind::Int32, 0, 3),
    field(
        "coordinators",
        Kind::Array(&Kind::Struct(FIND_COORDINATOR_COORDINATOR)),
        4,
        LATEST,
    ),
];

const API_VERSIONS_API_VERSION: &[Field] = &[
    field("api_key", Kind::Int16, 0, LATEST),
    field("min_version", Kind::Int16, 0, LATEST),
    field("max_version", Kind::Int16, 0, LATEST),
];

const API_VERSIONS_SUPPORTED_FEATURE_KEY: &[Field] = &[
    field("name", Kind::String, 3, LATEST),
    field("min_version", Kind::Int16, 3, LATEST),
    field("max_version", Kind::Int16, 3, LATEST),
];

const API_VERSIONS_FINALIZED_FEATURE_KEY: &[Field] = &[
    field("name", Kind::String, 3, LATEST),
    field("max_version_level", Kind::Int16, 3, LATEST),
    field("min_version_level", Kind::Int16, 3, LATEST),
];

const API_VERSIONS_FIELDS: &[Field] = &[
    field("error_code", Kind::Int16, 0, LATEST),
    field(
        "api_keys",
        Kind::Array(&Kind::Struct(API_VERSIONS_API_VERSION)),
        0,
        LATEST,
    ),
    field("throttle_time_ms", Kind::Int32, 1, LATEST),
    field(
        "supported_features",
        Kind::Array(&Kind::Struct(API_VERSIONS_SUPPORTED_FEATURE_KEY)),
        3,
        LATEST,
    )
    .tag(0),
    field("finalized_features_epoch", Kind::Int64, 3, LATEST).tag(1),
    field(
        "finalized_features",
        Kind::Array(&Kind::Struct(API_VERSIONS_FINALIZED_FEATURE_KEY)),
        3,
        LATEST,
    )
    .tag(2),
    field("zk_migration_ready", Kind::Bool, 3, LATEST).tag(3),
];

const INIT_PRODUCER_ID_FIELDS: &[Field] = &[
    field("throttle_time_ms", Kind::Int32, 0, LATEST),
    field("error_code", Kind::Int16, 0, LATEST),
    field("producer_id", Kind::Int64, 0, LATEST),
    field("producer_epoch", Kind::Int16, 0, LATEST),
    field("ongoing_txn_producer_id", Kind::Int64, 6, LATEST),
    field("ongoing_txn_producer_epoch", Kind::Int16, 6, LATEST),
];

const OFFSET_FOR_LEADER_EPOCH_EPOCH_END_OFFSET: &[Field] = &[
    field("error_code", Kind::Int16, 0, LATEST),
    field("partition", Kind::Int32, 0, LATEST),
    field("leader_epoch", Kind::Int32, 0, LATEST),
    field("end_offset", Kind::Int64, 0, LATEST),
];

const OFFSET_FOR_LEADER_EPOCH_OFFSET_FOR_LEADER_TOPIC_RESULT: &[Field] = &[
    field("topic", Kind::String, 0, LATEST),
    field(
        "partitions",
        Kind::Array(&Kind::Struct(OFFSET_FOR_LEADER_EPOCH_EPOCH_END_OFFSET)),
        0,
        LATEST,
    ),
];

const OFFSET_FOR_LEADER_EPOCH_FIELDS: &[Field] = &[
    field("throttle_time_ms", Kind::Int32, 0, LATEST),
    field(
        "topics",
        Kind::Array(&Kind::Struct(
            OFFSET_FOR_LEADER_EPOCH_OFFSET_FOR_LEADER_TOPIC_RESULT,
        )),
        0,
        LATEST,
    ),
];
