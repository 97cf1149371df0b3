//! The client direction, for our own tools: requests to frames, frames to answers.
//!
//! Answers are bounded like requests are: a broker is not trusted either.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use crate::api::{ApiKey, ServedApi};
use crate::request::{DecodeError, RequestBody};
use crate::response::{EncodeError, ResponseBody};
use crate::wire::{Reader, Writer};
use bytes::Bytes;

/// The versions our own client speaks: flexible encodings that every broker since Kafka 2.7 has.
pub const CLIENT_VERSIONS: &[(ApiKey, i16)] = &[
    (ApiKey::ApiVersions, 3),
    (ApiKey::Metadata, 12),
    (ApiKey::Produce, 9),
    (ApiKey::Fetch, 12),
    (ApiKey::ListOffsets, 7),
    (ApiKey::CreateTopics, 7),
    (ApiKey::DeleteTopics, 6),
    (ApiKey::CreatePartitions, 3),
    (ApiKey::DeleteRecords, 2),
    (ApiKey::DescribeConfigs, 4),
    (ApiKey::IncrementalAlterConfigs, 1),
    (ApiKey::DescribeCluster, 1),
    (ApiKey::InitProducerId, 4),
    (ApiKey::FindCoordinator, 4),
    (ApiKey::OffsetForLeaderEpoch, 4),
    (ApiKey::DescribeAcls, 3),
    (ApiKey::CreateAcls, 3),
    (ApiKey::DeleteAcls, 3),
    (ApiKey::DescribeTopicPartitions, 0),
    (ApiKey::AlterPartitionReassignments, 1),
    (ApiKey::ListPartitionReassignments, 0),
    (ApiKey::ElectLeaders, 2),
    (ApiKey::ListConfigResources, 1),
    (ApiKey::AlterConfigs, 2),
    (ApiKey::DescribeLogDirs, 4),
];

/// The version our own client speaks of an API.
pub fn client_version(key: ApiKey) -> i16 {
    CLIENT_VERSIONS
        .iter()
        .find_map(|(known, version)| (*known == key).then_some(*version))
        .unwrap_or(ServedApi::of(key).min)
}

/// An answer as a client gets it.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    /// That of the request it answers.
    pub correlation_id: i32,
    /// Its body.
    pub body: ResponseBody,
}

/// Encodes a request into a whole frame, size prefix included.
pub fn encode_request(
    api_key: ApiKey,
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
    body: &RequestBody,
) -> Result<Bytes, EncodeError> {
    let api = ServedApi::of(api_key);
    if body.api_key() != api_key {
        return Err(EncodeError::OtherApi {
            key: api_key,
            body: body.api_key(),
        });
    }
    if !api.serves(version) {
        return Err(EncodeError::UnsupportedVersion {
            key: api_key,
            version,
        });
    }
    // The client id is a classic string in every header version.
    let mut writer = Writer::new(false);
    writer.i16(api_key.code());
    writer.i16(version);
    writer.i32(correlation_id);
    writer.nullable_string(client_id);
    writer.set_flexible(api.is_flexible(version));
    writer.no_tags();
    body.encode(&mut writer, version)?;
    writer.finish(0).ok_or(EncodeError::TooLarge)
}

/// Decodes an answer frame (without its size prefix) to a request of this API and version, taking at
/// most `budget_bytes` of memory for the decoded form beyond the frame itself.
pub fn decode_response(
    api_key: ApiKey,
    version: i16,
    frame: Bytes,
    budget_bytes: usize,
) -> Result<Response, DecodeError> {
    let api = ServedApi::of(api_key);
    let mut reader = Reader::new(&frame, budget_bytes);
    let correlation_id = reader.i32()?;
    if !api.serves(version) {
        return Err(DecodeError::UnsupportedApi {
            correlation_id,
            key: api_key.code(),
            version,
        });
    }
    reader.skip_tags(api.response_header_version(version) >= 1)?;
    let body = ResponseBody::decode(&frame, &mut reader, api_key, version)?;
    Ok(Response { correlation_id, body })
}
