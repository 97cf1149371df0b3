//! Requests to bytes and answers back. Owned by the calling thread; holds no state.
//!
//! An answer is walked before it is decoded: every count in it must fit into the bytes that are left
//! and the decoded form into a budget, so a broken broker cannot make this process take memory.
//!
//! Everything the rest of the client knows of message encoding goes through this file.
#![deny(clippy::indexing_slicing)]

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use tidelog_net::walker;
use tidelog_net::wire::Reader;

use crate::limits::{DECODED_BYTES_BASE, DECODED_FACTOR};

/// A whole frame, size included, for `request` in `version`.
pub fn encode_request<R: Request>(
    api: ApiKey,
    version: i16,
    correlation_id: i32,
    client_id: &str,
    request: &R,
) -> Result<Bytes, String> {
    let header = RequestHeader::default()
        .with_request_api_key(api as i16)
        .with_request_api_version(version)
        .with_correlation_id(correlation_id)
        .with_client_id(Some(StrBytes::from_string(client_id.to_owned())));
    let mut body = BytesMut::new();
    header
        .encode(&mut body, R::header_version(version))
        .map_err(|e| e.to_string())?;
    request.encode(&mut body, version).map_err(|e| e.to_string())?;
    let size = i32::try_from(body.len()).map_err(|_| format!("{} bytes do not fit a frame", body.len()))?;
    let mut frame = BytesMut::with_capacity(body.len() + 4);
    frame.put_i32(size);
    frame.extend_from_slice(&body);
    Ok(frame.freeze())
}

/// The correlation id an answer begins with.
pub fn correlation_id(frame: &[u8]) -> Option<i32> {
    frame.first_chunk::<4>().map(|id| i32::from_be_bytes(*id))
}

/// Decodes an answer (without its size) to a request of type `R` sent in `version`.
pub fn decode_response<R: Request>(mut frame: Bytes, version: i16) -> Result<R::Response, String> {
    let header_version = <R::Response as HeaderVersion>::header_version(version);
    ResponseHeader::decode(&mut frame, header_version).map_err(|e| e.to_string())?;
    if let Some(key) = tidelog_net::api::ApiKey::from_code(R::KEY) {
        let budget_bytes = DECODED_BYTES_BASE.saturating_add(frame.len().saturating_mul(DECODED_FACTOR));
        let mut reader = Reader::new(&frame, budget_bytes);
        walker::walk(walker::response(key), version, &mut reader).map_err(|e| e.to_string())?;
    }
    <R::Response as Decodable>::decode(&mut frame, version).map_err(|e| e.to_string())
}

/// The name of an API as error messages give it.
pub fn name(api: ApiKey) -> &'static str {
    match api {
        ApiKey::Produce => "Produce",
        ApiKey::Fetch => "Fetch",
        ApiKey::ListOffsets => "ListOffsets",
        ApiKey::Metadata => "Metadata",
        ApiKey::ApiVersions => "ApiVersions",
        ApiKey::CreateTopics => "CreateTopics",
        ApiKey::DeleteTopics => "DeleteTopics",
        ApiKey::CreatePartitions => "CreatePartitions",
        ApiKey::DescribeConfigs => "DescribeConfigs",
        ApiKey::IncrementalAlterConfigs => "IncrementalAlterConfigs",
        ApiKey::DescribeCluster => "DescribeCluster",
        _ => "a request",
    }
}
