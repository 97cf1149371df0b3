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
