//! The fields of every served request, per version, in wire order.
//!
//! Data only: no code reads bytes here. A field is on the wire in versions `min..=max`; a tagged
//! field lies in the tag buffer of its struct; `nullable` fields may carry the null length. Strings,
//! bytes and arrays are compact from the message's `flexible_from` on, and every struct then ends
//! with a tag buffer.

use super::admin_request_fields as admin;
use super::table::{Field, Kind, LATEST, Message, field};
use crate::api::ApiKey;

/// Every served request, in the order of its key.
pub static REQUESTS: &[Message] = &[
    Message {
        key: ApiKey::Produce,
        name: "ProduceRequest",
        min: 3,
        max: 13,
        flexible_from: 9,
        fields: PRODUCE_FIELDS,
    },
    Message {
        key: ApiKey::Fetch,
        name: "FetchRequest",
        min: 4,
        max: 18,
        flexible_from: 12,
        fields: FETCH_FIELDS,
    },
    Message {
        key: ApiKey::ListOffsets,
        name: "ListOffsetsRequest",
        min: 1,
        max: 10,
        flexible_from: 6,
        fields: LIST_OFFSETS_FIELDS,
    },
    Message {
        key: ApiKey::Metadata,
        name: "MetadataRequest",
        min: 0,
        max: 13,
        flexible_from: 9,
        fields: METADATA_FIELDS,
    },
    Message {
        key: ApiKey::FindCoordinator,
        name: "FindCoordinatorRequest",
        min: 0,
        max: 6,
        flexible_from: 3,
        fields: FIND_COORDINATOR_FIELDS,
    },
    Message {
        key: ApiKey::ApiVersions,
        name: "ApiVersionsRequest",
        min: 0,
        max: 4,
        flexible_from: 3,
        fields: API_VERSIONS_FIELDS,
    },
    Message {
        key: ApiKey::CreateTopics,
        name: "CreateTopicsRequest",
        min: 2,
        max: 7,
        flexible_from: 5,
        fields: CREATE_TOPICS_FIELDS,
    },
    Message {
        key: ApiKey::DeleteTopics,
        name: "DeleteTopicsRequest",
        min: 1,
        max: 6,
        flexible_from: 4,
        fields: DELETE_TOPICS_FIELDS,
    },
    Message {
        key: ApiKey::DeleteRecords,
        name: "DeleteRecordsRequest",
        min: 0,
        max: 2,
        flexible_from: 2,
        fields: DELETE_RECORDS_FIELDS,
    },
    Message {
        key: ApiKey::InitProducerId,
        name: "InitProducerIdRequest",
        min: 0,
        max: 5,
        flexible_from: 2,
        fields: INIT_PRODUCER_ID_FIELDS,
    },
    Message {
        key: ApiKey::OffsetForLeaderEpoch,
        name: "OffsetForLeaderEpochRequest",
        min: 2,
        max: 4,
        flexible_from: 4,
        fields: OFFSET_FOR_LEADER_EPOCH_FIELDS,
    },
    Message {
        key: ApiKey::DescribeAcls,
        name: "DescribeAclsRequest",
        min: 1,
        max: 3,
        flexible_from: 2,
        fields: admin::DESCRIBE_ACLS_FIELDS,
    },
    Message {
        key: ApiKey::CreateAcls,
        name: "CreateAclsRequest",
        min: 1,
        max: 3,
        flexible_from: 2,
        fields: admin::CREATE_ACLS_FIELDS,
    },
    Message {
        key: ApiKey::DeleteAcls,
        name: "DeleteAclsRequest",
        min: 1,
        max: 3,
        flexible_from: 2,
        fields: admin::DELETE_ACLS_FIELDS,
    },
    Message {
        key: ApiKey::DescribeConfigs,
        name: "DescribeConfigsRequest",
        min: 1,
        max: 4,
        flexible_from: 4,
        fields: DESCRIBE_CONFIGS_FIELDS,
    },
    Message {
        key: ApiKey::AlterConfigs,
        name: "AlterConfigsRequest",
        min: 0,
        max: 2,
        flexible_from: 2,
        fields: admin::ALTER_CONFIGS_FIELDS,
    },
    Message {
        key: ApiKey::DescribeLogDirs,
        name: "DescribeLogDirsRequest",
        min: 1,
        max: 4,
        flexible_from: 2,
        fields: admin::DESCRIBE_LOG_DIRS_FIELDS,
    },
    Message {
        key: ApiKey::CreatePartitions,
        name: "CreatePartitionsRequest",
        min: 0,
        max: 3,
        flexible_from: 2,
        fields: CREATE_PARTITIONS_FIELDS,
    },
    Message {
        key: ApiKey::ElectLeaders,
        name: "ElectLeadersRequest",
        min: 0,
        max: 2,
        flexible_from: 2,
        fields: admin::ELECT_LEADERS_FIELDS,
    },
    Message {
        key: ApiKey::IncrementalAlterConfigs,
        name: "IncrementalAlterConfigsRequest",
        min: 0,
        max: 1,
        flexible_from: 1,
        fields: INCREMENTAL_ALTER_CONFIGS_FIELDS,
    },
    Message {
        key: ApiKey::AlterPartitionReassignments,
        name: "AlterPartitionReassignmentsRequest",
        min: 0,
        max: 1,
        flexible_from: 0,
        fields: admin::ALTER_PARTITION_REASSIGNMENTS_FIELDS,
    },
    Message {
        key: ApiKey::ListPartitionReassignments,
        name: "ListPartitionReassignmentsRequest",
        min: 0,
        max: 0,
        flexible_from: 0,
        fields: admin::LIST_PARTITION_REASSIGNMENTS_FIELDS,
    },
    Message {
        key: ApiKey::DescribeCluster,
        name: "DescribeClusterRequest",
        min: 0,
        max: 2,
        flexible_from: 0,
        fields: DESCRIBE_CLUSTER_FIELDS,
    },
    Message {
        key: ApiKey::ListConfigResources,
        name: "ListConfigResourcesRequest",
        min: 0,
        max: 1,
        flexible_from: 0,
        fields: admin::LIST_CONFIG_RESOURCES_FIELDS,
    },
    Message {
        key: ApiKey::DescribeTopicPartitions,
        name: "DescribeTopicPartitionsRequest",
        min: 0,
        max: 0,
        flexible_from: 0,
        fields: admin::DESCRIBE_TOPIC_PARTITIONS_FIELDS,
    },
];

const PRODUCE_PARTITION_PRODUCE_DATA: &[Field] = &[
    field("index", Kind::Int32, 0, LATEST),
    field("records", Kind::Bytes, 0, LATEST).nullable(),
];

const PRODUCE_TOPIC_PRODUCE_DATA: &[Field] = &[
    field("name", Kind::String, 0, 12),
    field("topic_id", Kind::Uuid, 13, LATEST),
    field(
        "partition_data",
        Kind::Array(&Kind::Struct(PRODUCE_PARTITION_PRODUCE_DATA)),
        0,
        LATEST,
    ),
];

const PRODUCE_FIELDS: &[Field] = &[
    field("transactional_id", Kind::String, 0, LATEST).nullable(),
    field("acks", Kind::Int16, 0, LATEST),
    field("timeout_ms", Kind::Int32, 0, LATEST),
    field(
        "topic_data",
        Kind::Array(&Kind::Struct(PRODUCE_TOPIC_PRODUCE_DATA)),
        0,
        LATEST,
    ),
];

const FETCH_REPLICA_STATE: &[Field] = &[
    field("replica_id", Kind::Int32, 15, LATEST),
    field("replica_epoch", Kind::Int64, 15, LATEST),
];

const FETCH_FETCH_PARTITION: &[Field] = &[
    field("partition", Kind::Int32, 0, LATEST),
    field("current_leader_epoch", Kind::Int32, 9, LATEST),
    field("fetch_offset", Kind::Int64, 0, LATEST),
    field("last_fetched_epoch", Kind::Int32, 12, LATEST),
    field("log_start_offset", Kind::Int64, 5, LATEST),
    field("partition_max_bytes", Kind::Int32, 0, LATEST),
    field("replica_directory_id", Kind::Uuid, 17, LATEST).tag(0),
    field("high_watermark", Kind::Int64, 18, LATEST).tag(1),
];

const FETCH_FETCH_TOPIC: &[Field] = &[
    field("topic", Kind::String, 0, 12),
    field("topic_id", Kind::Uuid, 13, LATEST),
    field(
        "partitions",
        Kind::Array(&Kind::Struct(FETCH_FETCH_PARTITION)),
        0,
        LATEST,
    ),
];

const FETCH_FORGOTTEN_TOPIC: &[Field] = &[
    field("topic", Kind::String, 7, 12),
    field("topic_id", Kind::Uuid, 13, LATEST),
    field("partitions", Kind::Array(&Kind::Int32), 7, LATEST),
];

const FETCH_FIELDS: &[Field] = &[
    field("cluster_id", Kind::String, 12, LATEST).nullable().tag(0),
    field("replica_id", Kind::Int32, 0, 14),
    field("replica_state", Kind::Struct(FETCH_REPLICA_STATE), 15, LATEST).tag(1),
    field("max_wait_ms", Kind::Int32, 0, LATEST),
    field("min_bytes", Kind::Int32, 0, LATEST),
    field("max_bytes", Kind::Int32, 0, LATEST),
    field("isolation_level", Kind::Int8, 0, LATEST),
    field("session_id", Kind::Int32, 7, LATEST),
    field("session_epoch", Kind::Int32, 7, LATEST),
    field("topics", Kind::Array(&Kind::Struct(FETCH_FETCH_TOPIC)), 0, LATEST),
    field(
        "forgotten_topics_data",
        Kind::Array(&Kind::Struct(FETCH_FORGOTTEN_TOPIC)),
        7,
        LATEST,
    ),
    field("rack_id", Kind::String, 11, LATEST),
];

const LIST_OFFSETS_LIST_OFFSETS_PARTITION: &[Field] = &[
    field("partition_index", Kind::Int32, 0, LATEST),
    field("current_leader_epoch", Kind::Int32, 4, LATEST),
    field("timestamp", Kind::Int64, 0, LATEST),
];

const LIST_OFFSETS_LIST_OFFSETS_TOPIC: &[Field] = &[
    field("name", Kind::String, 0, LATEST),
    field(
        "partitions",
        Kind::Array(&Kind::Struct(LIST_OFFSETS_LIST_OFFSETS_PARTITION)),
        0,
        LATEST,
    ),
];

const LIST_OFFSETS_FIELDS: &[Field] = &[
    field("replica_id", Kind::Int32, 0, LATEST),
    field("isolation_level", Kind::Int8, 2, LATEST),
    field(
        "topics",
        Kind::Array(&Kind::Struct(LIST_OFFSETS_LIST_OFFSETS_TOPIC)),
        0,
        LATEST,
    ),
    field("timeout_ms", Kind::Int32, 10, LATEST),
];

const METADATA_METADATA_REQUEST_TOPIC: &[Field] = &[
    field("topic_id", Kind::Uuid, 10, LATEST),
    field("name", Kind::String, 0, LATEST).nullable_from(10),
];

const METADATA_FIELDS: &[Field] = &[
    field(
        "topics",
        Kind::Array(&Kind::Struct(METADATA_METADATA_REQUEST_TOPIC)),
        0,
        LATEST,
    )
    .nullable_from(1),
    field("allow_auto_topic_creation", Kind::Bool, 4, LATEST),
    field("include_cluster_authorized_operations", Kind::Bool, 8, 10),
    field("include_topic_authorized_operations", Kind::Bool, 8, LATEST),
];

const FIND_COORDINATOR_FIELDS: &[Field] = &[
    field("key", Kind::String, 0, 3),
    field("key_type", Kind::Int8, 1, LATEST),
    field("coordinator_keys", Kind::Array(&Kind::String), 4, LATEST),
];

const API_VERSIONS_FIELDS: &[Field] = &[
    field("client_software_name", Kind::String, 3, LATEST),
    field("client_software_version", Kind::String, 3, LATEST),
];

const CREATE_TOPICS_CREATABLE_REPLICA_ASSIGNMENT: &[Field] = &[
    field("partition_index", Kind::Int32, 0, LATEST),
    field("broker_ids", Kind::Array(&Kind::Int32), 0, LATEST),
];

const CREATE_TOPICS_CREATABLE_TOPIC_CONFIG: &[Field] = &[
    field("name", Kind::String, 0, LATEST),
    field("value", Kind::String, 0, LATEST).nullable(),
];

const CREATE_TOPICS_CREATABLE_TOPIC: &[Field] = &[
    field("name", Kind::String, 0, LATEST),
    field("num_partitions", Kind::Int32, 0, LATEST),
    field("replication_factor", Kind::Int16, 0, LATEST),
    field(
        "assignments",
        Kind::Array(&Kind::Struct(CREATE_TOPICS_CREATABLE_REPLICA_ASSIGNMENT)),
        0,
        LATEST,
    ),
    field(
        "configs",
        Kind::Array(&Kind::Struct(CREATE_TOPICS_CREATABLE_TOPIC_CONFIG)),
        0,
        LATEST,
    ),
];

const CREATE_TOPICS_FIELDS: &[Field] = &[
    field(
        "topics",
        Kind::Array(&Kind::Struct(CREATE_TOPICS_CREATABLE_TOPIC)),
        0,
        LATEST,
    ),
    field("timeout_ms", Kind::Int32, 0, LATEST),
    field("validate_only", Kind::Bool, 0, LATEST),
];

const DELETE_TOPICS_DELETE_TOPIC_STATE: &[Field] = &[
    field("name", Kind::String, 6, LATEST).nullable(),
    field("topic_id", Kind::Uuid, 6, LATEST),
];

const DELETE_TOPICS_FIELDS: &[Field] = &[
    field(
        "topics",
        Kind::Array(&Kind::Struct(DELETE_TOPICS_DELETE_TOPIC_STATE)),
        6,
        LATEST,
    ),
    field("topic_names", Kind::Array(&Kind::String), 0, 5),
    field("timeout_ms", Kind::Int32, 0, LATEST),
];

const DELETE_RECORDS_DELETE_RECORDS_PARTITION: &[Field] = &[
    field("partition_index", Kind::Int32, 0, LATEST),
    field("offset", Kind::Int64, 0, LATEST),
];

const DELETE_RECORDS_DELETE_RECORDS_TOPIC: &[Field] = &[
    field("name", Kind::String, 0, LATEST),
    field(
        "partitions",
        Kind::Array(&Kind::Struct(DELETE_RECORDS_DELETE_RECORDS_PARTITION)),
        0,
        LATEST,
    ),
];

const DELETE_RECORDS_FIELDS: &[Field] = &[
    field(
        "topics",
        Kind::Array(&Kind::Struct(DELETE_RECORDS_DELETE_RECORDS_TOPIC)),
        0,
        LATEST,
    ),
    field("timeout_ms", Kind::Int32, 0, LATEST),
];

const INIT_PRODUCER_ID_FIELDS: &[Field] = &[
    field("transactional_id", Kind::String, 0, LATEST).nullable(),
    field("transaction_timeout_ms", Kind::Int32, 0, LATEST),
    field("producer_id", Kind::Int64, 3, LATEST),
    field("producer_epoch", Kind::Int16, 3, LATEST),
];

const OFFSET_FOR_LEADER_EPOCH_OFFSET_FOR_LEADER_PARTITION: &[Field] = &[
    field("partition", Kind::Int32, 0, LATEST),
    field("current_leader_epoch", Kind::Int32, 0, LATEST),
    field("leader_epoch", Kind::Int32, 0, LATEST),
];

const OFFSET_FOR_LEADER_EPOCH_OFFSET_FOR_LEADER_TOPIC: &[Field] = &[
    field("topic", Kind::String, 0, LATEST),
    field(
        "partitions",
        Kind::Array(&Kind::Struct(OFFSET_FOR_LEADER_EPOCH_OFFSET_FOR_LEADER_PARTITION)),
        0,
        LATEST,
    ),
];

const OFFSET_FOR_LEADER_EPOCH_FIELDS: &[Field] = &[
    field("replica_id", Kind::Int32, 3, LATEST),
    field(
        "topics",
        Kind::Array(&Kind::Struct(OFFSET_FOR_LEADER_EPOCH_OFFSET_FOR_LEADER_TOPIC)),
        0,
        LATEST,
    ),
];

const DESCRIBE_CONFIGS_DESCRIBE_CONFIGS_RESOURCE: &[Field] = &[
    field("resource_type", Kind::Int8, 0, LATEST),
    field("resource_name", Kind::String, 0, LATEST),
    field("configuration_keys", Kind::Array(&Kind::String), 0, LATEST).nullable(),
];

const DESCRIBE_CONFIGS_FIELDS: &[Field] = &[
    field(
        "resources",
        Kind::Array(&Kind::Struct(DESCRIBE_CONFIGS_DESCRIBE_CONFIGS_RESOURCE)),
        0,
        LATEST,
    ),
    field("include_synonyms", Kind::Bool, 0, LATEST),
    field("include_documentation", Kind::Bool, 3, LATEST),
];

const CREATE_PARTITIONS_CREATE_PARTITIONS_ASSIGNMENT: &[Field] =
    &[field("broker_ids", Kind::Array(&Kind::Int32), 0, LATEST)];

const CREATE_PARTITIONS_CREATE_PARTITIONS_TOPIC: &[Field] = &[
    field("name", Kind::String, 0, LATEST),
    field("count", Kind::Int32, 0, LATEST),
    field(
        "assignments",
        Kind::Array(&Kind::Struct(CREATE_PARTITIONS_CREATE_PARTITIONS_ASSIGNMENT)),
        0,
        LATEST,
    )
    .nullable(),
];

const CREATE_PARTITIONS_FIELDS: &[Field] = &[
    field(
        "topics",
        Kind::Array(&Kind::Struct(CREATE_PARTITIONS_CREATE_PARTITIONS_TOPIC)),
        0,
        LATEST,
    ),
    field("timeout_ms", Kind::Int32, 0, LATEST),
    field("validate_only", Kind::Bool, 0, LATEST),
];

const INCREMENTAL_ALTER_CONFIGS_ALTERABLE_CONFIG: &[Field] = &[
    field("name", Kind::String, 0, LATEST),
    field("config_operation", Kind::Int8, 0, LATEST),
    field("value", Kind::String, 0, LATEST).nullable(),
];

const INCREMENTAL_ALTER_CONFIGS_ALTER_CONFIGS_RESOURCE: &[Field] = &[
    field("resource_type", Kind::Int8, 0, LATEST),
    field("resource_name", Kind::String, 0, LATEST),
    field(
        "configs",
        Kind::Array(&Kind::Struct(INCREMENTAL_ALTER_CONFIGS_ALTERABLE_CONFIG)),
        0,
        LATEST,
    ),
];

const INCREMENTAL_ALTER_CONFIGS_FIELDS: &[Field] = &[
    field(
        "resources",
        Kind::Array(&Kind::Struct(INCREMENTAL_ALTER_CONFIGS_ALTER_CONFIGS_RESOURCE)),
        0,
        LATEST,
    ),
    field("validate_only", Kind::Bool, 0, LATEST),
];

const DESCRIBE_CLUSTER_FIELDS: &[Field] = &[
    field("include_cluster_authorized_operations", Kind::Bool, 0, LATEST),
    field("endpoint_type", Kind::Int8, 1, LATEST),
    field("include_fenced_brokers", Kind::Bool, 2, LATEST),
];
