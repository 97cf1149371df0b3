//! Answers: from a typed body to a frame, size prefix in place.
//!
//! Cold answers go through the codec crate. Produce is written by hand. A Fetch answer is a list of
//! pieces, so that record bytes go from the log to the socket without passing through here.
//!
//! ```text
//! response frame   size i32, correlation_id i32, a tag buffer in header version 1, body
//! ```

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use crate::api::{ApiKey, SERVED, ServedApi};
use crate::error_code::ErrorCode;
use crate::hot::{FetchResponse, FetchedResponse, ProduceResponse};
use crate::request::{DecodeError, cold};
use crate::walker;
use crate::wire::{Reader, Writer};
use bytes::Bytes;
use kafka_protocol::messages as kp;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::protocol::Encodable;

/// Why a message could not be encoded. Each one is a fault of our own code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The version is not served.
    #[error("{} version {version} is not served", key.name())]
    UnsupportedVersion {
        /// The API.
        key: ApiKey,
        /// The version asked for.
        version: i16,
    },
    /// The body belongs to another API than the one named.
    #[error("a body of {} was given for {}", body.name(), key.name())]
    OtherApi {
        /// The API asked for.
        key: ApiKey,
        /// The API of the body.
        body: ApiKey,
    },
    /// A field cannot be said in this version.
    #[error("{} version {version} cannot say this: {reason}", key.name())]
    Refused {
        /// The API.
        key: ApiKey,
        /// The version.
        version: i16,
        /// What the codec says, for the log.
        reason: String,
    },
    /// The frame would be larger than a size prefix can say.
    #[error("the frame would be larger than 2 GiB")]
    TooLarge,
}

impl EncodeError {
    pub(crate) fn refused(key: ApiKey, version: i16, error: &dyn std::fmt::Display) -> Self {
        EncodeError::Refused {
            key,
            version,
            reason: error.to_string(),
        }
    }
}

macro_rules! response_bodies {
    ($($cold:ident($cold_type:ty),)*) => {
        /// The body of an answer.
        #[derive(Debug, Clone, PartialEq)]
        pub enum ResponseBody {
            /// Produce, by hand.
            Produce(ProduceResponse),
            /// Fetch with its records, as a client has it; the broker uses [`encode_fetch_response`].
            Fetch(FetchedResponse),
            $(#[doc = concat!(stringify!($cold), ", through the codec crate.")] $cold($cold_type),)*
        }

        impl ResponseBody {
            /// The API the body belongs to.
            pub const fn api_key(&self) -> ApiKey {
                match self {
                    ResponseBody::Produce(_) => ApiKey::Produce,
                    ResponseBody::Fetch(_) => ApiKey::Fetch,
                    $(ResponseBody::$cold(_) => ApiKey::$cold,)*
                }
            }

            fn encode(&self, writer: &mut Writer, version: i16) -> Result<(), EncodeError> {
                match self {
                    ResponseBody::Produce(body) => {
                        body.encode(writer, version);
                        Ok(())
                    }
                    ResponseBody::Fetch(body) => {
                        encode_fetched(body, writer, version);
                        Ok(())
                    }
                    $(ResponseBody::$cold(body) => {
                        let fitted = body.fitted(version);
                        fitted
                            .as_ref()
                            .unwrap_or(body)
                            .encode(writer.buffer(), version)
                            .map_err(|error| EncodeError::refused(self.api_key(), version, &error))
                    })*
                }
            }

            pub(crate) fn decode(
                frame: &Bytes,
                reader: &mut Reader<'_>,
                key: ApiKey,
                version: i16,
            ) -> Result<Self, DecodeError> {
                match key {
                    ApiKey::Produce => Ok(ResponseBody::Produce(ProduceResponse::decode(reader, version)?)),
                    ApiKey::Fetch => Ok(ResponseBody::Fetch(FetchedResponse::decode(reader, version)?)),
                    $(ApiKey::$cold => {
                        cold(frame, reader, walker::response(key), version).map(ResponseBody::$cold)
                    })*
                }
            }
        }

        $(impl From<$cold_type> for ResponseBody {
            fn from(body: $cold_type) -> Self {
                ResponseBody::$cold(body)
            }
        })*
    };
}

response_bodies! {
    Metadata(kp::MetadataResponse),
    ListOffsets(kp::ListOffsetsResponse),
    FindCoordinator(kp::FindCoordinatorResponse),
    ApiVersions(kp::ApiVersionsResponse),
    CreateTopics(kp::CreateTopicsResponse),
    DeleteTopics(kp::DeleteTopicsResponse),
    DeleteRecords(kp::DeleteRecordsResponse),
    InitProducerId(kp::InitProducerIdResponse),
    OffsetForLeaderEpoch(kp::OffsetForLeaderEpochResponse),
    DescribeConfigs(kp::DescribeConfigsResponse),
    CreatePartitions(kp::CreatePartitionsResponse),
    IncrementalAlterConfigs(kp::IncrementalAlterConfigsResponse),
    DescribeCluster(kp::DescribeClusterResponse),
    DescribeAcls(kp::DescribeAclsResponse),
    CreateAcls(kp::CreateAclsResponse),
    DeleteAcls(kp::DeleteAclsResponse),
    DescribeTopicPartitions(kp::DescribeTopicPartitionsResponse),
    AlterPartitionReassignments(kp::AlterPartitionReassignmentsResponse),
    ListPartitionReassignments(kp::ListPartitionReassignmentsResponse),
    ElectLeaders(kp::ElectLeadersResponse),
    ListConfigResources(kp::ListConfigResourcesResponse),
    AlterConfigs(kp::AlterConfigsResponse),
    DescribeLogDirs(kp::DescribeLogDirsResponse),
}

impl From<ProduceResponse> for ResponseBody {
    fn from(body: ProduceResponse) -> Self {
        ResponseBody::Produce(body)
    }
}

impl From<FetchedResponse> for ResponseBody {
    fn from(body: FetchedResponse) -> Self {
        ResponseBody::Fetch(body)
    }
}

/// An answer that handlers fill in the same way for every version.
trait Fitted: Sized {
    /// The answer without what the version cannot say, where the codec would refuse to drop it.
    fn fitted(&self, _version: i16) -> Option<Self> {
        None
    }
}

impl Fitted for kp::FindCoordinatorResponse {}
impl Fitted for kp::ApiVersionsResponse {}
impl Fitted for kp::CreateTopicsResponse {}
impl Fitted for kp::DeleteTopicsResponse {}
impl Fitted for kp::DeleteRecordsResponse {}
impl Fitted for kp::InitProducerIdResponse {}
impl Fitted for kp::OffsetForLeaderEpochResponse {}
impl Fitted for kp::DescribeConfigsResponse {}
impl Fitted for kp::CreatePartitionsResponse {}
impl Fitted for kp::IncrementalAlterConfigsResponse {}
impl Fitted for kp::DescribeLogDirsResponse {}
impl Fitted for kp::AlterConfigsResponse {}
impl Fitted for kp::ListConfigResourcesResponse {}
impl Fitted for kp::ListPartitionReassignmentsResponse {}
impl Fitted for kp::AlterPartitionReassignmentsResponse {}
impl Fitted for kp::DescribeTopicPartitionsResponse {}
impl Fitted for kp::DeleteAclsResponse {}
impl Fitted for kp::CreateAclsResponse {}
impl Fitted for kp::DescribeAclsResponse {}

/// What authorized operations say when nobody asked for them.
const OPERATIONS_NOT_ASKED: i32 = i32::MIN;

impl Fitted for kp::MetadataResponse {
    fn fitted(&self, version: i16) -> Option<Self> {
        let cluster = (8..=10).contains(&version);
        let topics = version >= 8;
        let says_cluster = self.cluster_authorized_operations != OPERATIONS_NOT_ASKED;
        if (cluster || !says_cluster) && topics {
            return None;
        }
        let mut fitted = self.clone();
        if !cluster {
            fitted.cluster_authorized_operations = OPERATIONS_NOT_ASKED;
        }
        if !topics {
            fitted
                .topics
                .iter_mut()
                .for_each(|topic| topic.topic_authorized_operations = OPERATIONS_NOT_ASKED);
        }
        Some(fitted)
    }
}

impl Fitted for kp::ListOffsetsResponse {
    fn fitted(&self, version: i16) -> Option<Self> {
        (version < 4).then(|| {
            let mut fitted = self.clone();
            let partitions = fitted.topics.iter_mut().flat_map(|topic| &mut topic.partitions);
            partitions.for_each(|partition| partition.leader_epoch = -1);
            fitted
        })
    }
}

impl Fitted for kp::DescribeClusterResponse {
    fn fitted(&self, version: i16) -> Option<Self> {
        (version < 2).then(|| {
            let mut fitted = self.clone();
            fitted
                .brokers
                .iter_mut()
                .for_each(|broker| broker.is_fenced = false);
            if version < 1 {
                fitted.endpoint_type = 1;
            }
            fitted
        })
    }
}

impl Fitted for kp::ElectLeadersResponse {
    fn fitted(&self, version: i16) -> Option<Self> {
        (version < 1 && self.error_code != 0).then(|| self.clone().with_error_code(0))
    }
}

/// Starts an answer: room for the size, correlation id, and the header's tag buffer where it has one.
fn begin(api: &ServedApi, version: i16, correlation_id: i32) -> Result<Writer, EncodeError> {
    if !api.serves(version) {
        return Err(EncodeError::UnsupportedVersion {
            key: api.key,
            version,
        });
    }
    let mut writer = Writer::new(api.is_flexible(version));
    writer.i32(correlation_id);
    if api.response_header_version(version) >= 1 {
        writer.no_tags();
    }
    Ok(writer)
}

/// Encodes an answer into a whole frame, size prefix included.
pub fn encode_response(version: i16, correlation_id: i32, body: &ResponseBody) -> Result<Bytes, EncodeError> {
    let mut writer = begin(ServedApi::of(body.api_key()), version, correlation_id)?;
    body.encode(&mut writer, version)?;
    writer.finish(0).ok_or(EncodeError::TooLarge)
}

/// Encodes a Produce answer into a whole frame, size prefix included.
pub fn encode_produce_response(
    version: i16,
    correlation_id: i32,
    body: &ProduceResponse,
) -> Result<Bytes, EncodeError> {
    let mut writer = begin(ServedApi::of(ApiKey::Produce), version, correlation_id)?;
    body.encode(&mut writer, version);
    writer.finish(0).ok_or(EncodeError::TooLarge)
}

/// A piece of a Fetch answer, to be sent in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResponsePiece {
    /// These bytes.
    Bytes(Bytes),
    /// The `records_len` bytes of records of this partition.
    Records {
        /// Position of the topic in [`FetchResponse::topics`].
        topic_idx: usize,
        /// Position of the partition in its topic.
        partition_idx: usize,
    },
}

/// Encodes a Fetch answer as pieces. The first one begins with the size prefix, which counts the
/// records too; a partition without records gives no piece.
pub fn encode_fetch_response(
    version: i16,
    correlation_id: i32,
    body: &FetchResponse,
) -> Result<Vec<ResponsePiece>, EncodeError> {
    let mut writer = begin(ServedApi::of(ApiKey::Fetch), version, correlation_id)?;
    // Where in the written bytes the records of a partition go.
    let mut gaps: Vec<(usize, usize, usize)> = Vec::new();
    let mut records_bytes = 0usize;
    encode_fetch_body(
        body,
        &mut writer,
        version,
        |writer, topic_idx, partition_idx, records_len| {
            if records_len > 0 {
                gaps.push((writer.len(), topic_idx, partition_idx));
                records_bytes = records_bytes.saturating_add(records_len);
            }
        },
    );
    let mut rest = writer.finish(records_bytes).ok_or(EncodeError::TooLarge)?;
    let mut pieces = Vec::with_capacity(gaps.len().saturating_mul(2).saturating_add(1));
    let mut cut = 0usize;
    for (position, topic_idx, partition_idx) in gaps {
        pieces.push(ResponsePiece::Bytes(rest.split_to(position.saturating_sub(cut))));
        pieces.push(ResponsePiece::Records {
            topic_idx,
            partition_idx,
        });
        cut = position;
    }
    if !rest.is_empty() {
        pieces.push(ResponsePiece::Bytes(rest));
    }
    Ok(pieces)
}

/// Writes a Fetch body; `records` is called where the records of a partition belong.
fn encode_fetch_body(
    body: &FetchResponse,
    writer: &mut Writer,
    version: i16,
    mut records: impl FnMut(&mut Writer, usize, usize, usize),
) {
    writer.i32(body.throttle_time_ms);
    if version >= 7 {
        writer.i16(body.error.code());
        writer.i32(body.session_id);
    }
    writer.count(Some(body.topics.len()));
    for (topic_idx, topic) in body.topics.iter().enumerate() {
        if version >= 13 {
            writer.uuid(&topic.topic_id);
        } else {
            writer.string(&topic.name);
        }
        writer.count(Some(topic.partitions.len()));
        for (partition_idx, partition) in topic.partitions.iter().enumerate() {
            partition.encode_head(writer, version);
            records(writer, topic_idx, partition_idx, partition.records_len);
            writer.no_tags();
        }
        writer.no_tags();
    }
    writer.no_tags();
}

/// Writes a Fetch body with its records in place.
fn encode_fetched(body: &FetchedResponse, writer: &mut Writer, version: i16) {
    let mut heads = body.heads();
    for (head, topic) in heads.topics.iter_mut().zip(&body.topics) {
        for (head, fetched) in head.partitions.iter_mut().zip(&topic.partitions) {
            head.records_len = fetched.records.len();
        }
    }
    encode_fetch_body(&heads, writer, version, |writer, topic_idx, partition_idx, _| {
        let fetched = body
            .topics
            .get(topic_idx)
            .and_then(|topic| topic.partitions.get(partition_idx));
        if let Some(fetched) = fetched {
            writer.buffer().extend_from_slice(&fetched.records);
        }
    });
}

/// The ApiVersions answer: everything served, no features.
pub fn api_versions_response() -> kp::ApiVersionsResponse {
    kp::ApiVersionsResponse::default().with_api_keys(SERVED.iter().map(advertised).collect())
}

fn advertised(api: &ServedApi) -> ApiVersion {
    ApiVersion::default()
        .with_api_key(api.key.code())
        .with_min_version(api.advertised_min)
        .with_max_version(api.max)
}

/// The answer to an ApiVersions request of a version we do not know: always in version 0, with
/// `UNSUPPORTED_VERSION` and the range of ApiVersions itself, so that the client asks again with that.
pub fn encode_unsupported_api_versions(correlation_id: i32) -> Result<Bytes, EncodeError> {
    let body = kp::ApiVersionsResponse::default()
        .with_error_code(ErrorCode::UnsupportedVersion.code())
        .with_api_keys(vec![advertised(ServedApi::of(ApiKey::ApiVersions))]);
    encode_response(0, correlation_id, &ResponseBody::ApiVersions(body))
}
