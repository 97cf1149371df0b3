//! The fields of the responses about topics, their configurations and the cluster, per version, in wire order; as
//! `response_fields` says.

use super::table::{Field, Kind, LATEST, field};

const CREATE_TOPICS_CREATABLE_TOPIC_CONFIGS: &[Field] = &[
    field("name", Kind::String, 5, LATEST),
    field("value", Kind::String, 5, LATEST).nullable(),
    field("read_only", Kind::Bool, 5, LATEST),
    field("config_source", Kind::Int8, 5, LATEST),
    field("is_sensitive", Kind::Bool, 5, LATEST),
];

const CREATE_TOPICS_CREATABLE_TOPIC_RESULT: &[Field] = &[
    field("name", Kind::String, 0, LATEST),
    field("topic_id", Kind::Uuid, 7, LATEST),
    field("error_code", Kind::Int16, 0, LATEST),
    field("error_message", Kind::String, 0, LATEST).nullable(),
    field("topic_config_error_code", Kind::Int16, 5, LATEST).tag(0),
    field("num_partitions", Kind::Int32, 5, LATEST),
    field("replication_factor", Kind::Int16, 5, LATEST),
    field(
        "configs",
        Kind::Array(&Kind::Struct(CREATE_TOPICS_CREATABLE_TOPIC_CONFIGS)),
        5,
        LATEST,
    )
    .nullable(),
];

pub(super) const CREATE_TOPICS_FIELDS: &[Field] = &[
    field("throttle_time_ms", Kind::Int32, 0, LATEST),
    field(
        "topics",
        Kind::Array(&Kind::Struct(CREATE_TOPICS_CREATABLE_TOPIC_RESULT)),
        0,
        LATEST,
    ),
];

const DELETE_TOPICS_DELETABLE_TOPIC_RESULT: &[Field] = &[
    field("name", Kind::String, 0, LATEST).nullable_from(6),
    field("topic_id", Kind::Uuid, 6, LATEST),
    field("error_code", Kind::Int16, 0, LATEST),
    field("error_message", Kind::String, 5, LATEST).nullable(),
];

pub(super) const DELETE_TOPICS_FIELDS: &[Field] = &[
    field("throttle_time_ms", Kind::Int32, 0, LATEST),
    field(
        "responses",
        Kind::Array(&Kind::Struct(DELETE_TOPICS_DELETABLE_TOPIC_RESULT)),
        0,
        LATEST,
    ),
];

const DELETE_RECORDS_DELETE_RECORDS_PARTITION_RESULT: &[Field] = &[
    field("partition_index", Kind::Int32, 0, LATEST),
    field("low_watermark", Kind::Int64, 0, LATEST),
    field("error_code", Kind::Int16, 0, LATEST),
];

const DELETE_RECORDS_DELETE_RECORDS_TOPIC_RESULT: &[Field] = &[
    field("name", Kind::String, 0, LATEST),
    field(
        "partitions",
        Kind::Array(&Kind::Struct(DELETE_RECORDS_DELETE_RECORDS_PARTITION_RESULT)),
        0,
        LATEST,
    ),
];

pub(super) const DELETE_RECORDS_FIELDS: &[Field] = &[
    field("throttle_time_ms", Kind::Int32, 0, LATEST),
    field(
        "topics",
        Kind::Array(&Kind::Struct(DELETE_RECORDS_DELETE_RECORDS_TOPIC_RESULT)),
        0,
        LATEST,
    ),
];

const DESCRIBE_CONFIGS_DESCRIBE_CONFIGS_SYNONYM: &[Field] = &[
    field("name", Kind::String, 0, LATEST),
    field("value", Kind::String, 0, LATEST).nullable(),
    field("source", Kind::Int8, 0, LATEST),
];

const DESCRIBE_CONFIGS_DESCRIBE_CONFIGS_RESOURCE_RESULT: &[Field] = &[
    field("name", Kind::String, 0, LATEST),
    field("value", Kind::String, 0, LATEST).nullable(),
    field("read_only", Kind::Bool, 0, LATEST),
    field("config_source", Kind::Int8, 0, LATEST),
    field("is_sensitive", Kind::Bool, 0, LATEST),
    field(
        "synonyms",
        Kind::Array(&Kind::Struct(DESCRIBE_CONFIGS_DESCRIBE_CONFIGS_SYNONYM)),
        0,
        LATEST,
    ),
    field("config_type", Kind::Int8, 3, LATEST),
    field("documentation", Kind::String, 3, LATEST).nullable(),
];

const DESCRIBE_CONFIGS_DESCRIBE_CONFIGS_RESULT: &[Field] = &[
    field("error_code", Kind::Int16, 0, LATEST),
    field("error_message", Kind::String, 0, LATEST).nullable(),
    field("resource_type", Kind::Int8, 0, LATEST),
    field("resource_name", Kind::String, 0, LATEST),
    field(
        "configs",
        Kind::Array(&Kind::Struct(DESCRIBE_CONFIGS_DESCRIBE_CONFIGS_RESOURCE_RESULT)),
        0,
        LATEST,
    ),
];

pub(super) const DESCRIBE_CONFIGS_FIELDS: &[Field] = &[
    field("throttle_time_ms", Kind::Int32, 0, LATEST),
    field(
        "results",
        Kind::Array(&Kind::Struct(DESCRIBE_CONFIGS_DESCRIBE_CONFIGS_RESULT)),
        0,
        LATEST,
    ),
];

const CREATE_PARTITIONS_CREATE_PARTITIONS_TOPIC_RESULT: &[Field] = &[
    field("name", Kind::String, 0, LATEST),
    field("error_code", Kind::Int16, 0, LATEST),
    field("error_message", Kind::String, 0, LATEST).nullable(),
];

pub(super) const CREATE_PARTITIONS_FIELDS: &[Field] = &[
    field("throttle_time_ms", Kind::Int32, 0, LATEST),
    field(
        "results",
        Kind::Array(&Kind::Struct(CREATE_PARTITIONS_CREATE_PARTITIONS_TOPIC_RESULT)),
        0,
        LATEST,
    ),
];

const INCREMENTAL_ALTER_CONFIGS_ALTER_CONFIGS_RESOURCE_RESPONSE: &[Field] = &[
    field("error_code", Kind::Int16, 0, LATEST),
    field("error_message", Kind::String, 0, LATEST).nullable(),
    field("resource_type", Kind::Int8, 0, LATEST),
    field("resource_name", Kind::String, 0, LATEST),
];

pub(super) const INCREMENTAL_ALTER_CONFIGS_FIELDS: &[Field] = &[
    field("throttle_time_ms", Kind::Int32, 0, LATEST),
    field(
        "responses",
        Kind::Array(&Kind::Struct(
            INCREMENTAL_ALTER_CONFIGS_ALTER_CONFIGS_RESOURCE_RESPONSE,
        )),
        0,
        LATEST,
    ),
];

const DESCRIBE_CLUSTER_DESCRIBE_CLUSTER_BROKER: &[Field] = &[
    field("broker_id", Kind::Int32, 0, LATEST),
    field("host", Kind::String, 0, LATEST),
    field("port", Kind::Int32, 0, LATEST),
    field("rack", Kind::String, 0, LATEST).nullable(),
    field("is_fenced", Kind::Bool, 2, LATEST),
];

pub(super) const DESCRIBE_CLUSTER_FIELDS: &[Field] = &[
    field("throttle_time_ms", Kind::Int32, 0, LATEST),
    field("error_code", Kind::Int16, 0, LATEST),
    field("error_message", Kind::String, 0, LATEST).nullable(),
    field("endpoint_type", Kind::Int8, 1, LATEST),
    field("cluster_id", Kind::String, 0, LATEST),
    field("controller_id", Kind::Int32, 0, LATEST),
    field(
        "brokers",
        Kind::Array(&Kind::Struct(DESCRIBE_CLUSTER_DESCRIBE_CLUSTER_BROKER)),
        0,
        LATEST,
    ),
    field("cluster_authorized_operations", Kind::Int32, 0, LATEST),
];
