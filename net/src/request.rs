//! Requests: from a frame to a header and a typed body.
//!
//! Hot bodies (Produce, Fetch, Metadata) are read by [`crate::hot`]; cold ones go to the codec crate only
//! after [`crate::walker::walk`] let them through. Bytes behind the body are ignored, as Kafka does.
//!
//! ```text
//! request header   api_key i16, version i16, correlation_id i32, client_id classic nullable string,
//!                  and in version 2 a tag buffer
//! ```

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use crate::api::{ApiKey, ServedApi};
use crate::hot::{FetchRequest, MetadataRequest, ProduceRequest};
use crate::response::EncodeError;
use crate::walker;
use crate::wire::{Reader, WireError, Writer};
use bytes::Bytes;
use kafka_protocol::messages as kp;
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};

/// The header of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestHeader {
    /// The API.
    pub api_key: ApiKey,
    /// Version of the request, and of its answer.
    pub version: i16,
    /// Given back in the answer.
    pub correlation_id: i32,
    /// The name the client gave itself.
    pub client_id: Option<StrBytes>,
}

/// A decoded request.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Its header.
    pub header: RequestHeader,
    /// Its body.
    pub body: RequestBody,
}

/// Why a frame is not a request we serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The API or version is not served. For ApiVersions (18) answer with
    /// [`crate::response::encode_unsupported_api_versions`]; for all else close the connection.
    #[error("API {key} version {version} is not served")]
    UnsupportedApi {
        /// The correlation id for an answer.
        correlation_id: i32,
        /// The key as sent.
        key: i16,
        /// The version as sent.
        version: i16,
    },
    /// The bytes are not such a message. Close the connection.
    #[error("malformed message: {0}")]
    Malformed(WireError),
    /// The codec crate refused a message that the walker let through. Close the connection.
    #[error("malformed message: {reason}")]
    Refused {
        /// What the codec says, for the log.
        reason: String,
    },
    /// The decoded form would take more memory than granted. Close the connection.
    #[error("the message would take {excess_bytes} bytes more than granted")]
    TooBig {
        /// Bytes beyond the budget.
        excess_bytes: usize,
    },
}

impl From<WireError> for DecodeError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::OverBudget { excess_bytes } => DecodeError::TooBig { excess_bytes },
            error => DecodeError::Malformed(error),
        }
    }
}

macro_rules! request_bodies {
    (hot { $($hot:ident($hot_type:ty),)* } cold { $($cold:ident($cold_type:ty),)* }) => {
        /// The body of a request.
        #[derive(Debug, Clone, PartialEq)]
        pub enum RequestBody {
            $(#[doc = concat!(stringify!($hot), ", decoded by hand.")] $hot($hot_type),)*
            $(#[doc = concat!(stringify!($cold), ", decoded by the codec crate.")] $cold($cold_type),)*
        }

        impl RequestBody {
            /// The API the body belongs to.
            pub const fn api_key(&self) -> ApiKey {
                match self {
                    $(RequestBody::$hot(_) => ApiKey::$hot,)*
                    $(RequestBody::$cold(_) => ApiKey::$cold,)*
                }
            }

            fn decode(frame: &Bytes, reader: &mut Reader<'_>, key: ApiKey, version: i16) -> Result<Self, DecodeError> {
                match key {
                    $(ApiKey::$hot => Ok(RequestBody::$hot(<$hot_type>::decode(reader, version)?)),)*
                    $(ApiKey::$cold => cold(frame, reader, walker::request(key), version).map(RequestBody::$cold),)*
                }
            }

            pub(crate) fn encode(&self, writer: &mut Writer, version: i16) -> Result<(), EncodeError> {
                match self {
                    $(RequestBody::$hot(body) => {
                        body.encode(writer, version);
                        Ok(())
                    })*
                    $(RequestBody::$cold(body) => body
                        .encode(writer.buffer(), version)
                        .map_err(|error| EncodeError::refused(self.api_key(), version, &error)),)*
                }
            }
        }

        $(impl From<$hot_type> for RequestBody {
            fn from(body: $hot_type) -> Self {
                RequestBody::$hot(body)
            }
        })*
        $(impl From<$cold_type> for RequestBody {
            fn from(body: $cold_type) -> Self {
                RequestBody::$cold(body)
            }
        })*
    };
}

request_bodies! {
    hot {
        Produce(ProduceRequest),
        Fetch(FetchRequest),
        Metadata(MetadataRequest),
    }
    cold {
        ListOffsets(kp::ListOffsetsRequest),
        FindCoordinator(kp::FindCoordinatorRequest),
        ApiVersions(kp::ApiVersionsRequest),
        CreateTopics(kp::CreateTopicsRequest),
        DeleteTopics(kp::DeleteTopicsRequest),
        DeleteRecords(kp::DeleteRecordsRequest),
        InitProducerId(kp::InitProducerIdRequest),
        OffsetForLeaderEpoch(kp::OffsetForLeaderEpochRequest),
        DescribeConfigs(kp::DescribeConfigsRequest),
        CreatePartitions(kp::CreatePartitionsRequest),
        IncrementalAlterConfigs(kp::IncrementalAlterConfigsRequest),
        DescribeCluster(kp::DescribeClusterRequest),
        DescribeAcls(kp::DescribeAclsRequest),
        CreateAcls(kp::CreateAclsRequest),
        DeleteAcls(kp::DeleteAclsRequest),
        DescribeTopicPartitions(kp::DescribeTopicPartitionsRequest),
        AlterPartitionReassignments(kp::AlterPartitionReassignmentsRequest),
        ListPartitionReassignments(kp::ListPartitionReassignmentsRequest),
        ElectLeaders(kp::ElectLeadersRequest),
        ListConfigResources(kp::ListConfigResourcesRequest),
        AlterConfigs(kp::AlterConfigsRequest),
        DescribeLogDirs(kp::DescribeLogDirsRequest),
    }
}

/// Walks what is left of the frame, then lets the codec crate decode it.
pub(crate) fn cold<T: Decodable>(
    frame: &Bytes,
    reader: &mut Reader<'_>,
    message: &walker::Message,
    version: i16,
) -> Result<T, DecodeError> {
    let start = reader.position();
    walker::walk(message, version, reader)?;
    let mut body = frame.slice(start..reader.position());
    T::decode(&mut body, version).map_err(|error| DecodeError::Refused {
        reason: error.to_string(),
    })
}

/// Decodes a request frame (without its size prefix), taking at most `budget_bytes` of memory for the
/// decoded form beyond the frame itself; [`crate::limits::decode_budget_bytes`] is a sensible one.
pub fn decode_request(frame: Bytes, budget_bytes: usize) -> Result<Request, DecodeError> {
    let mut reader = Reader::new(&frame, budget_bytes);
    let key = reader.i16()?;
    let version = reader.i16()?;
    let correlation_id = reader.i32()?;
    let served = ApiKey::from_code(key)
        .map(ServedApi::of)
        .filter(|api| api.serves(version));
    let Some(api) = served else {
        return Err(DecodeError::UnsupportedApi {
            correlation_id,
            key,
            version,
        });
    };
    let client_id = reader.nullable_string(false)?;
    reader.skip_tags(api.request_header_version(version) >= 2)?;
    let body = RequestBody::decode(&frame, &mut reader, api.key, version)?;
    Ok(Request {
        header: RequestHeader {
            api_key: api.key,
            version,
            correlation_id,
            client_id,
        },
        body,
    })
}

/// Whether a client software name or version is one Kafka takes (ApiVersions 3 and up); answer
/// `INVALID_REQUEST` otherwise. The pattern is `[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?`.
pub fn is_valid_software_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let ends_well = |end: Option<&u8>| end.is_some_and(u8::is_ascii_alphanumeric);
    ends_well(bytes.first())
        && ends_well(bytes.last())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_names_are_those_kafka_takes() {
        for name in ["librdkafka", "apache-kafka-java", "a", "2.15.0"] {
            assert!(is_valid_software_name(name), "{name}");
        }
        for name in ["", "-x", "x.", "a b", "a_b", "ä"] {
            assert!(!is_valid_software_name(name), "{name}");
        }
    }

    #[test]
    fn short_and_unknown_frames_are_told_apart() {
        let outcome = decode_request(Bytes::from_static(&[0, 3, 0]), 1000);
        assert!(matches!(
            outcome,
            Err(DecodeError::Malformed(WireError::Truncated { .. }))
        ));
        let outcome = decode_request(Bytes::from_static(&[0x12, 0x34, 0, 1, 0, 0, 0, 9]), 1000);
        let unsupported = DecodeError::UnsupportedApi {
            correlation_id: 9,
            key: 0x1234,
            version: 1,
        };
        assert_eq!(outcome, Err(unsupported));
    }
}
