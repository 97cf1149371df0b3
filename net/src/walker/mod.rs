//! The bounding walker: passes over a message by the field table before anyone decodes it.
//!
//! The codec crate allocates by the counts it reads (23 bytes can make it ask for hundreds of GiB). A
//! message that [`walk`] let through cannot: every count fits the bytes that are left, and the decoded
//! form (structs, arrays and the maps of unknown tags) was charged to the budget. Records and strings
//! stay slices of the frame and cost nothing beyond their handle. Runs on any thread, allocates nothing,
//! and its depth is that of the table.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod admin_request_fields;
mod admin_response_fields;
mod request_fields;
mod response_fields;
mod table;
mod topic_response_fields;

pub use request_fields::REQUESTS;
pub use response_fields::RESPONSES;
pub use table::{Field, Kind, LATEST, Message, field};

use crate::api::ApiKey;
use crate::limits::{UNKNOWN_TAG_FIRST_BYTES, UNKNOWN_TAG_NEXT_BYTES};
use crate::wire::{Reader, WireError};

/// The table entry of a request.
pub fn request(key: ApiKey) -> &'static Message {
    entry(REQUESTS, key)
}

/// The table entry of a response.
pub fn response(key: ApiKey) -> &'static Message {
    entry(RESPONSES, key)
}

fn entry(table: &'static [Message], key: ApiKey) -> &'static Message {
    match table.iter().find(|message| message.key == key) {
        Some(message) => message,
        None => unreachable!("a test holds that every ApiKey has its entry"),
    }
}

/// Passes over the body of a message. Afterwards the reader stands behind it.
pub fn walk(message: &Message, version: i16, reader: &mut Reader<'_>) -> Result<(), WireError> {
    let flexible = version >= message.flexible_from;
    walk_struct(message.fields, version, flexible, reader)
}

fn walk_struct(
    fields: &'static [Field],
    version: i16,
    flexible: bool,
    reader: &mut Reader<'_>,
) -> Result<(), WireError> {
    for field in fields {
        if field.tag.is_none() && field.is_in(version) {
            walk_field(field, version, flexible, reader)?;
        }
    }
    let mut unknown = 0usize;
    reader.tags(flexible, |tag, reader| {
        match fields.iter().find(|field| field.tag == Some(tag)) {
            Some(field) => {
                walk_field(field, version, flexible, reader)?;
                // The codec crate goes on right behind the value, so its size must be true.
                if reader.remaining() != 0 {
                    return Err(WireError::BadTagSize { tag });
                }
            }
            None => {
                reader.charge(if unknown == 0 {
                    UNKNOWN_TAG_FIRST_BYTES
                } else {
                    UNKNOWN_TAG_NEXT_BYTES
                })?;
                unknown = unknown.saturating_add(1);
            }
        }
        Ok(())
    })
}

fn walk_field(field: &Field, version: i16, flexible: bool, reader: &mut Reader<'_>) -> Result<(), WireError> {
    if is_optional_struct(field, version) {
        // A byte says whether the struct follows.
        match reader.i8()? {
            -1 => return Ok(()),
            1 => {}
            other => {
                return Err(WireError::BadLength {
                    length: i64::from(other),
                });
            }
        }
    }
    if walk_kind(&field.kind, version, flexible, reader)? && !field.is_nullable_in(version) {
        return Err(WireError::BadLength { length: -1 });
    }
    Ok(())
}

/// Whether the field is a struct that may be missing in this version.
fn is_optional_struct(field: &Field, version: i16) -> bool {
    matches!(field.kind, Kind::Struct(_)) && field.is_nullable_in(version)
}

/// Passes over one value and says whether it was null.
fn walk_kind(kind: &Kind, version: i16, flexible: bool, reader: &mut Reader<'_>) -> Result<bool, WireError> {
    match kind {
        Kind::String => return reader.skip_string(flexible),
        Kind::Bytes => return reader.skip_bytes(flexible),
        Kind::Struct(fields) => walk_struct(fields, version, flexible, reader)?,
        Kind::Array(element) => {
            let element_bytes_min = wire_bytes_min(element, version, flexible);
            let Some(count) = reader.nullable_count(flexible, element_bytes_min, memory_bytes(element))?
            else {
                return Ok(true);
            };
            if let Some(element_bytes) = fixed_bytes(element) {
                reader.skip(count.saturating_mul(element_bytes))?;
                return Ok(false);
            }
            for _ in 0..count {
                if walk_kind(element, version, flexible, reader)? {
                    return Err(WireError::BadLength { length: -1 });
                }
            }
        }
        fixed => reader.skip(fixed_bytes(fixed).unwrap_or(0))?,
    }
    Ok(false)
}

const fn fixed_bytes(kind: &Kind) -> Option<usize> {
    match kind {
        Kind::Bool | Kind::Int8 => Some(1),
        Kind::Int16 | Kind::UInt16 => Some(2),
        Kind::Int32 => Some(4),
        Kind::Int64 => Some(8),
        Kind::Uuid => Some(16),
        Kind::String | Kind::Bytes | Kind::Array(_) | Kind::Struct(_) => None,
    }
}

/// The fewest bytes a value can take on the wire.
pub fn wire_bytes_min(kind: &Kind, version: i16, flexible: bool) -> usize {
    match kind {
        Kind::String => {
            if flexible {
                1
            } else {
                2
            }
        }
        Kind::Bytes | Kind::Array(_) => {
            if flexible {
                1
            } else {
                4
            }
        }
        Kind::Struct(fields) => {
            let present = fields
                .iter()
                .filter(|field| field.tag.is_none() && field.is_in(version));
            let fields_bytes: usize = present
                .map(|field| match is_optional_struct(field, version) {
                    true => 1,
                    false => wire_bytes_min(&field.kind, version, flexible),
                })
                .sum();
            fields_bytes.saturating_add(usize::from(flexible))
        }
        fixed => fixed_bytes(fixed).unwrap_or(0),
    }
}

/// An upper bound of what the value's own struct takes in memory (its arrays are charged apart).
pub fn memory_bytes(kind: &Kind) -> usize {
    const HANDLE_BYTES: usize = 32;
    const WORD_BYTES: usize = 8;
    match kind {
        Kind::Bool | Kind::Int8 => 1,
        Kind::Int16 | Kind::UInt16 => 2,
        Kind::Int32 => 4,
        Kind::Int64 => 8,
        Kind::Uuid => 16,
        Kind::String | Kind::Bytes | Kind::Array(_) => HANDLE_BYTES,
        Kind::Struct(fields) => fields
            .iter()
            .map(|field| memory_bytes(&field.kind).next_multiple_of(WORD_BYTES))
            .sum::<usize>()
            .saturating_add(HANDLE_BYTES),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::SERVED;
    use bytes::Bytes;

    #[test]
    fn the_table_covers_what_is_served() {
        for api in SERVED {
            for message in [request(api.key), response(api.key)] {
                assert_eq!(message.key, api.key);
                assert_eq!((message.min, message.max), (api.min, api.max), "{}", message.name);
                assert_eq!(message.flexible_from, api.flexible_from, "{}", message.name);
            }
        }
        assert_eq!(REQUESTS.len(), SERVED.len());
        assert_eq!(RESPONSES.len(), SERVED.len());
    }

    #[test]
    fn a_huge_count_in_few_bytes_is_refused_everywhere() {
        for api in SERVED {
            for version in api.min..=api.max {
                let message = request(api.key);
                let flexible = version >= message.flexible_from;
                for field in message.fields {
                    if !matches!(field.kind, Kind::Array(_)) || !field.is_in(version) {
                        continue;
                    }
                    let count: &[u8] = if flexible {
                        &[0xff, 0xff, 0xff, 0xff, 0x07]
                    } else {
                        &[0x7f, 0xff, 0xff, 0xff]
                    };
                    let frame = Bytes::from([count, &[0; 19]].concat());
                    let outcome = walk_kind(
                        &field.kind,
                        version,
                        flexible,
                        &mut Reader::new(&frame, usize::MAX),
                    );
                    assert!(
                        matches!(outcome, Err(WireError::BadCount { .. })),
                        "{} {version}: {outcome:?}",
                        message.name
                    );
                }
            }
        }
    }

    #[test]
    fn a_struct_that_may_be_missing_is_there_or_not_and_nothing_else() {
        let message = request(ApiKey::DescribeTopicPartitions);
        let walked = |marker: u8, cursor: &[u8]| {
            // No topics, a limit, the marker, the cursor, no tags.
            let frame = Bytes::from([&[1, 0, 0, 0, 9, marker], cursor, &[0]].concat());
            let mut reader = Reader::new(&frame, 1 << 10);
            walk(message, 0, &mut reader).map(|()| reader.remaining())
        };
        let cursor = [2, b't', 0, 0, 0, 5, 0];
        assert_eq!(walked(0xff, &[]), Ok(0));
        assert_eq!(walked(1, &cursor), Ok(0));
        for marker in [0, 2, 0x7f, 0xfe] {
            let outcome = walked(marker, &cursor);
            assert!(
                matches!(outcome, Err(WireError::BadLength { .. })),
                "{marker}: {outcome:?}"
            );
        }
        assert!(matches!(walked(1, &[2]), Err(WireError::Truncated { .. })));
    }

    #[test]
    fn memory_is_never_underestimated() {
        use kafka_protocol::messages as kp;
        let element = |message: &Message, name: &str| {
            let field = message.fields.iter().find(|field| field.name == name).unwrap();
            let Kind::Array(element) = field.kind else {
                panic!("{name} is no array")
            };
            memory_bytes(element)
        };
        let topics = |key| element(request(key), "topics");
        assert!(topics(ApiKey::CreateTopics) >= size_of::<kp::create_topics_request::CreatableTopic>());
        assert!(topics(ApiKey::DeleteTopics) >= size_of::<kp::delete_topics_request::DeleteTopicState>());
        assert!(topics(ApiKey::Metadata) >= size_of::<kp::metadata_request::MetadataRequestTopic>());
        assert!(topics(ApiKey::ListOffsets) >= size_of::<kp::list_offsets_request::ListOffsetsTopic>());
        assert!(
            topics(ApiKey::CreatePartitions)
                >= size_of::<kp::create_partitions_request::CreatePartitionsTopic>()
        );
        assert!(topics(ApiKey::DeleteRecords) >= size_of::<kp::delete_records_request::DeleteRecordsTopic>());
        let answers = element(response(ApiKey::DescribeConfigs), "results");
        assert!(answers >= size_of::<kp::describe_configs_response::DescribeConfigsResult>());
        let brokers = element(response(ApiKey::DescribeCluster), "brokers");
        assert!(brokers >= size_of::<kp::describe_cluster_response::DescribeClusterBroker>());
    }
}
