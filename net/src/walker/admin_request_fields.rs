//! The fields of the requests of administration, per version, in wire order; as `request_fields` says.

use super::table::{Field, Kind, LATEST, field};

pub(super) const DESCRIBE_ACLS_FIELDS: &[Field] = &[
    field("resource_type_filter", Kind::Int8, 0, LATEST),
    field("resource_name_filter", Kind::String, 0, LATEST).nullable(),
    field("pattern_type_filter", Kind::Int8, 1, LATEST),
    field("principal_filter", Kind::String, 0, LATEST).nullable(),
    field("host_filter", Kind::String, 0, LATEST).nullable(),
    field("operation", Kind::Int8, 0, LATEST),
    field("permission_type", Kind::Int8, 0, LATEST),
];

const CREATE_ACLS_ACL_CREATION: &[Field] = &[
    field("resource_type", Kind::Int8, 0, LATEST),
    field("resource_name", Kind::String, 0, LATEST),
    field("resource_pattern_type", Kind::Int8, 1, LATEST),
    field("principal", Kind::String, 0, LATEST),
    field("host", Kind::String, 0, LATEST),
    field("operation", Kind::Int8, 0, LATEST),
    field("permission_type", Kind::Int8, 0, LATEST),
];

pub(super) const CREATE_ACLS_FIELDS: &[Field] = &[field(
    "creations",
    Kind::Array(&Kind::Struct(CREATE_ACLS_ACL_CREATION)),
    0,
    LATEST,
)];

const DELETE_ACLS_DELETE_ACLS_FILTER: &[Field] = &[
    field("resource_type_filter", Kind::Int8, 0, LATEST),
    field("resource_name_filter", Kind::String, 0, LATEST).nullable(),
    field("pattern_type_filter", Kind::Int8, 1, LATEST),
    field("principal_filter", Kind::String, 0, LATEST).nullable(),
    field("host_filter", Kind::String, 0, LATEST).nullable(),
    field("operation", Kind::Int8, 0, LATEST),
    field("permission_type", Kind::Int8, 0, LATEST),
];

pub(super) const DELETE_ACLS_FIELDS: &[Field] = &[field(
    "filters",
    Kind::Array(&Kind::Struct(DELETE_ACLS_DELETE_ACLS_FILTER)),
    0,
    LATEST,
)];

const DESCRIBE_TOPIC_PARTITIONS_TOPIC_REQUEST: &[Field] = &[field("name", Kind::String, 0, LATEST)];

const DESCRIBE_TOPIC_PARTITIONS_CURSOR: &[Field] = &[
    field("topic_name", Kind::String, 0, LATEST),
    field("partition_index", Kind::Int32, 0, LATEST),
];

pub(super) const DESCRIBE_TOPIC_PARTITIONS_FIELDS: &[Field] = &[
    field(
        "topics",
        Kind::Array(&Kind::Struct(DESCRIBE_TOPIC_PARTITIONS_TOPIC_REQUEST)),
        0,
        LATEST,
    ),
    field("response_partition_limit", Kind::Int32, 0, LATEST),
    field(
        "cursor",
        Kind::Struct(DESCRIBE_TOPIC_PARTITIONS_CURSOR),
        0,
        LATEST,
    )
    .nullable(),
];

const ALTER_PARTITION_REASSIGNMENTS_REASSIGNABLE_PARTITION: &[Field] = &[
    field("partition_index", Kind::Int32, 0, LATEST),
    field("replicas", Kind::Array(&Kind::Int32), 0, LATEST).nullable(),
];

const ALTER_PARTITION_REASSIGNMENTS_REASSIGNABLE_TOPIC: &[Field] = &[
    field("name", Kind::String, 0, LATEST),
    field(
        "partitions",
        Kind::Array(&Kind::Struct(
            ALTER_PARTITION_REASSIGNMENTS_REASSIGNABLE_PARTITION,
        )),
        0,
        LATEST,
    ),
];

pub(super) const ALTER_PARTITION_REASSIGNMENTS_FIELDS: &[Field] = &[
    field("timeout_ms", Kind::Int32, 0, LATEST),
    field("allow_replication_factor_change", Kind::Bool, 1, LATEST),
    field(
        "topics",
        Kind::Array(&Kind::Struct(ALTER_PARTITION_REASSIGNMENTS_REASSIGNABLE_TOPIC)),
        0,
        LATEST,
    ),
];

const LIST_PARTITION_REASSIGNMENTS_LIST_PARTITION_REASSIGNMENTS_TOPICS: &[Field] = &[
    field("name", Kind::String, 0, LATEST),
    field("partition_indexes", Kind::Array(&Kind::Int32), 0, LATEST),
];

pub(super) const LIST_PARTITION_REASSIGNMENTS_FIELDS: &[Field] = &[
    field("timeout_ms", Kind::Int32, 0, LATEST),
    field(
        "topics",
        Kind::Array(&Kind::Struct(
            LIST_PARTITION_REASSIGNMENTS_LIST_PARTITION_REASSIGNMENTS_TOPICS,
        )),
        0,
        LATEST,
    )
    .nullable(),
];

const ELECT_LEADERS_TOPIC_PARTITIONS: &[Field] = &[
    field("topic", Kind::String, 0, LATEST),
    field("partitions", Kind::Array(&Kind::Int32), 0, LATEST),
];

pub(super) const ELECT_LEADERS_FIELDS: &[Field] = &[
    field("election_type", Kind::Int8, 1, LATEST),
    field(
        "topic_partitions",
        Kind::Array(&Kind::Struct(ELECT_LEADERS_TOPIC_PARTITIONS)),
        0,
        LATEST,
    )
    .nullable(),
    field("timeout_ms", Kind::Int32, 0, LATEST),
];

pub(super) const LIST_CONFIG_RESOURCES_FIELDS: &[Field] =
    &[field("resource_types", Kind::Array(&Kind::Int8), 1, LATEST)];

const ALTER_CONFIGS_ALTERABLE_CONFIG: &[Field] = &[
    field("name", Kind::String, 0, LATEST),
    field("value", Kind::String, 0, LATEST).nullable(),
];

const ALTER_CONFIGS_ALTER_CONFIGS_RESOURCE: &[Field] = &[
    field("resource_type", Kind::Int8, 0, LATEST),
    field("resource_name", Kind::String, 0, LATEST),
    field(
        "configs",
        Kind::Array(&Kind::Struct(ALTER_CONFIGS_ALTERABLE_CONFIG)),
        0,
        LATEST,
    ),
];

pub(super) const ALTER_CONFIGS_FIELDS: &[Field] = &[
    field(
        "resources",
        Kind::Array(&Kind::Struct(ALTER_CONFIGS_ALTER_CONFIGS_RESOURCE)),
        0,
        LATEST,
    ),
    field("validate_only", Kind::Bool, 0, LATEST),
];

const DESCRIBE_LOG_DIRS_DESCRIBABLE_LOG_DIR_TOPIC: &[Field] = &[
    field("topic", Kind::String, 0, LATEST),
    field("partitions", Kind::Array(&Kind::Int32), 0, LATEST),
];

pub(super) const DESCRIBE_LOG_DIRS_FIELDS: &[Field] = &[field(
    "topics",
    Kind::Array(&Kind::Struct(DESCRIBE_LOG_DIRS_DESCRIBABLE_LOG_DIR_TOPIC)),
    0,
    LATEST,
)
.nullable()];
