//! The fields of the responses of administration, per version, in wire order; as `response_fields` says.

use super::table::{Field, Kind, LATEST, field};

const DESCRIBE_ACLS_ACL_DESCRIPTION: &[Field] = &[
    field("principal", Kind::String, 0, LATEST),
    field("host", Kind::String, 0, LATEST),
    field("operation", Kind::Int8, 0, LATEST),
    field("permission_type", Kind::Int8, 0, LATEST),
];

const DESCRIBE_ACLS_DESCRIBE_ACLS_RESOURCE: &[Field] = &[
    field("resource_type", Kind::Int8, 0, LATEST),
    field("resource_name", Kind::String, 0, LATEST),
    field("pattern_type", Kind::Int8, 1, LATEST),
    field(
        "acls",
        Kind::Array(&Kind::Struct(DESCRIBE_ACLS_ACL_DESCRIPTION)),
        0,
        LATEST,
    ),
];

pub(super) const DESCRIBE_ACLS_FIELDS: &[Field] = &[
    field("throttle_time_ms", Kind::Int32, 0, LATEST),
    field("error_code", Kind::Int16, 0, LATEST),
    field("error_message", Kind::String, 0, LATEST).nullable(),
    field(
        "resources",
        Kind::Array(&Kind::Struct(DESCRIBE_ACLS_DESCRIBE_ACLS_RESOURCE)),
        0,
        LATEST,
    ),
];

const CREATE_ACLS_ACL_CREATION_RESULT: &[Field] = &[
    field("error_code", Kind::Int16, 0, LATEST),
    field("error_message", Kind::String, 0, LATEST).nullable(),
];

pub(super) const CREATE_ACLS_FIELDS: &[Field] = &[
    field("throttle_time_ms", Kind::Int32, 0, LATEST),
    field(
        "results",
        Kind::Array(&Kind::Struct(CREATE_ACLS_ACL_CREATION_RESULT)),
        0,
        LATEST,
    ),
];

const DELETE_ACLS_DELETE_ACLS_MATCHING_ACL: &[Field] = &[
    field("error_code", Kind::Int16, 0, LATEST),
    field("error_message", Kind::String, 0, LATEST).nullable(),
    field("resource_type", Kind::Int8, 0, LATEST),
    field("resource_name", Kind::String, 0, LATEST),
    field("pattern_type", Kind::Int8, 1, LATEST),
    field("principal", Kind::String, 0, LATEST),
    field("host", Kind::String, 0, LATEST),
    field("operation", Kind::Int8, 0, LATEST),
    field("permission_type", Kind::Int8, 0, LATEST),
];

const DELETE_ACLS_DELETE_ACLS_FILTER_RESULT: &[Field] = &[
    field("error_code", Kind::Int16, 0, LATEST),
    field("error_message", Kind::String, 0, LATEST).nullable(),
    field(
        "matching_acls",
        Kind::Array(&Kind::Struct(DELETE_ACLS_DELETE_ACLS_MATCHING_ACL)),
        0,
        LATEST,
    ),
];

pub(super) const DELETE_ACLS_FIELDS: &[Field] = &[
    field("throttle_time_ms", Kind::Int32, 0, LATEST),
    field(
        "filter_results",
        Kind::Array(&Kind::Struct(DELETE_ACLS_DELETE_ACLS_FILTER_RESULT)),
        0,
        LATEST,
    ),
];

const DESCRIBE_TOPIC_PARTITIONS_DESCRIBE_TOPIC_PARTITIONS_RESPONSE_PARTITION: &[Field] = &[
    field("error_code", Kind::Int16, 0, LATEST),
    field("partition_index", Kind::Int32, 0, LATEST),
    field("leader_id", Kind::Int32, 0, LATEST),
    field("leader_epoch", Kind::Int32, 0, LATEST),
    field("replica_nodes", Kind::Array(&Kind::Int32), 0, LATEST),
    field("isr_nodes", Kind::Array(&Kind::Int32), 0, LATEST),
    field("eligible_leader_replicas", Kind::Array(&Kind::Int32), 0, LATEST).nullable(),
    field("last_known_elr", Kind::Array(&Kind::Int32), 0, LATEST).nullable(),
    field("offline_replicas", Kind::Array(&Kind::Int32), 0, LATEST),
];

const DESCRIBE_TOPIC_PARTITIONS_DESCRIBE_TOPIC_PARTITIONS_RESPONSE_TOPIC: &[Field] = &[
    field("error_code", Kind::Int16, 0, LATEST),
    field("name", Kind::String, 0, LATEST).nullable(),
    field("topic_id", Kind::Uuid, 0, LATEST),
    field("is_internal", Kind::Bool, 0, LATEST),
    field(
        "partitions",
        Kind::Array(&Kind::Struct(
            DESCRIBE_TOPIC_PARTITIONS_DESCRIBE_TOPIC_PARTITIONS_RESPONSE_PARTITION,
        )),
        0,
        LATEST,
    ),
    field("topic_authorized_operations", Kind::Int32, 0, LATEST),
];

const DESCRIBE_TOPIC_PARTITIONS_CURSOR: &[Field] = &[
    field("topic_name", Kind::String, 0, LATEST),
    field("partition_index", Kind::Int32, 0, LATEST),
];

pub(super) const DESCRIBE_TOPIC_PARTITIONS_FIELDS: &[Field] = &[
    field("throttle_time_ms", Kind::Int32, 0, LATEST),
    field(
        "topics",
        Kind::Array(&Kind::Struct(
            DESCRIBE_TOPIC_PARTITIONS_DESCRIBE_TOPIC_PARTITIONS_RESPONSE_TOPIC,
        )),
        0,
        LATEST,
    ),
    field(
        "next_cursor",
        Kind::Struct(DESCRIBE_TOPIC_PARTITIONS_CURSOR),
        0,
        LATEST,
    )
    .nullable(),
];

const ALTER_PARTITION_REASSIGNMENTS_REASSIGNABLE_PARTITION_RESPONSE: &[Field] = &[
    field("partition_index", Kind::Int32, 0, LATEST),
    field("error_code", Kind::Int16, 0, LATEST),
    field("error_message", Kind::String, 0, LATEST).nullable(),
];

const ALTER_PARTITION_REASSIGNMENTS_REASSIGNABLE_TOPIC_RESPONSE: &[Field] = &[
    field("name", Kind::String, 0, LATEST),
    field(
        "partitions",
        Kind::Array(&Kind::Struct(
            ALTER_PARTITION_REASSIGNMENTS_REASSIGNABLE_PARTITION_RESPONSE,
        )),
        0,
        LATEST,
    ),
];

pub(super) const ALTER_PARTITION_REASSIGNMENTS_FIELDS: &[Field] = &[
    field("throttle_time_ms", Kind::Int32, 0, LATEST),
    field("allow_replication_factor_change", Kind::Bool, 1, LATEST),
    field("error_code", Kind::Int16, 0, LATEST),
    field("error_message", Kind::String, 0, LATEST).nullable(),
    field(
        "responses",
        Kind::Array(&Kind::Struct(
            ALTER_PARTITION_REASSIGNMENTS_REASSIGNABLE_TOPIC_RESPONSE,
        )),
        0,
        LATEST,
    ),
];

const LIST_PARTITION_REASSIGNMENTS_ONGOING_PARTITION_REASSIGNMENT: &[Field] = &[
    field("partition_index", Kind::Int32, 0, LATEST),
    field("replicas", Kind::Array(&Kind::Int32), 0, LATEST),
    field("adding_replicas", Kind::Array(&Kind::Int32), 0, LATEST),
    field("removing_replicas", Kind::Array(&Kind::Int32), 0, LATEST),
];

const LIST_PARTITION_REASSIGNMENTS_ONGOING_TOPIC_REASSIGNMENT: &[Field] = &[
    field("name", Kind::String, 0, LATEST),
    field(
        "partitions",
        Kind::Array(&Kind::Struct(
            LIST_PARTITION_REASSIGNMENTS_ONGOING_PARTITION_REASSIGNMENT,
        )),
        0,
        LATEST,
    ),
];

pub(super) const LIST_PARTITION_REASSIGNMENTS_FIELDS: &[Field] = &[
    field("throttle_time_ms", Kind::Int32, 0, LATEST),
    field("error_code", Kind::Int16, 0, LATEST),
    field("error_message", Kind::String, 0, LATEST).nullable(),
    field(
        "topics",
        Kind::Array(&Kind::Struct(
            LIST_PARTITION_REASSIGNMENTS_ONGOING_TOPIC_REASSIGNMENT,
        )),
        0,
        LATEST,
    ),
];

const ELECT_LEADERS_PARTITION_RESULT: &[Field] = &[
    field("partition_id", Kind::Int32, 0, LATEST),
    field("error_code", Kind::Int16, 0, LATEST),
    field("error_message", Kind::String, 0, LATEST).nullable(),
];

const ELECT_LEADERS_REPLICA_ELECTION_RESULT: &[Field] = &[
    field("topic", Kind::String, 0, LATEST),
    field(
        "partition_result",
        Kind::Array(&Kind::Struct(ELECT_LEADERS_PARTITION_RESULT)),
        0,
        LATEST,
    ),
];

pub(super) const ELECT_LEADERS_FIELDS: &[Field] = &[
    field("throttle_time_ms", Kind::Int32, 0, LATEST),
    field("error_code", Kind::Int16, 1, LATEST),
    field(
        "replica_election_results",
        Kind::Array(&Kind::Struct(ELECT_LEADERS_REPLICA_ELECTION_RESULT)),
        0,
        LATEST,
    ),
];

const LIST_CONFIG_RESOURCES_CONFIG_RESOURCE: &[Field] = &[
    field("resource_name", Kind::String, 0, LATEST),
    field("resource_type", Kind::Int8, 1, LATEST),
];

pub(super) const LIST_CONFIG_RESOURCES_FIELDS: &[Field] = &[
    field("throttle_time_ms", Kind::Int32, 0, LATEST),
    field("error_code", Kind::Int16, 0, LATEST),
    field(
        "config_resources",
        Kind::Array(&Kind::Struct(LIST_CONFIG_RESOURCES_CONFIG_RESOURCE)),
        0,
        LATEST,
    ),
];

const ALTER_CONFIGS_ALTER_CONFIGS_RESOURCE_RESPONSE: &[Field] = &[
    field("error_code", Kind::Int16, 0, LATEST),
    field("error_message", Kind::String, 0, LATEST).nullable(),
    field("resource_type", Kind::Int8, 0, LATEST),
    field("resource_name", Kind::String, 0, LATEST),
];

pub(super) const ALTER_CONFIGS_FIELDS: &[Field] = &[
    field("throttle_time_ms", Kind::Int32, 0, LATEST),
    field(
        "responses",
        Kind::Array(&Kind::Struct(ALTER_CONFIGS_ALTER_CONFIGS_RESOURCE_RESPONSE)),
        0,
        LATEST,
    ),
];

const DESCRIBE_LOG_DIRS_DESCRIBE_LOG_DIRS_PARTITION: &[Field] = &[
    field("partition_index", Kind::Int32, 0, LATEST),
    field("partition_size", Kind::Int64, 0, LATEST),
    field("offset_lag", Kind::Int64, 0, LATEST),
    field("is_future_key", Kind::Bool, 0, LATEST),
];

const DESCRIBE_LOG_DIRS_DESCRIBE_LOG_DIRS_TOPIC: &[Field] = &[
    field("name", Kind::String, 0, LATEST),
    field(
        "partitions",
        Kind::Array(&Kind::Struct(DESCRIBE_LOG_DIRS_DESCRIBE_LOG_DIRS_PARTITION)),
        0,
        LATEST,
    ),
];

const DESCRIBE_LOG_DIRS_DESCRIBE_LOG_DIRS_RESULT: &[Field] = &[
    field("error_code", Kind::Int16, 0, LATEST),
    field("log_dir", Kind::String, 0, LATEST),
    field(
        "topics",
        Kind::Array(&Kind::Struct(DESCRIBE_LOG_DIRS_DESCRIBE_LOG_DIRS_TOPIC)),
        0,
        LATEST,
    ),
    field("total_bytes", Kind::Int64, 4, LATEST),
    field("usable_bytes", Kind::Int64, 4, LATEST),
];

pub(super) const DESCRIBE_LOG_DIRS_FIELDS: &[Field] = &[
    field("throttle_time_ms", Kind::Int32, 0, LATEST),
    field("error_code", Kind::Int16, 3, LATEST),
    field(
        "results",
        Kind::Array(&Kind::Struct(DESCRIBE_LOG_DIRS_DESCRIBE_LOG_DIRS_RESULT)),
        0,
        LATEST,
    ),
];
