//! Requests built once and sent again and again with another correlation id. Holds no state.
//!
//! The correlation id lies within the first [`HEAD_BYTES`], which each connection copies and patches; the
//! rest of a large request is sent from the one place where it was built.

use bytes::{Bytes, BytesMut};
use tidelog_net::hot::{ProducePartition, ProduceRequest, ProduceTopic};
use tidelog_net::records::{BatchBuilder, Compression};
use tidelog_net::{ApiKey, ErrorCode, ResponseBody, StrBytes, client};

use super::{LoadError, bare};
use crate::client::Acks;
use crate::limits::{DECODED_BYTES_BASE, LOAD_BATCH_BYTES_MAX};

/// Bytes at the front of a request that hold the correlation id.
pub const HEAD_BYTES: usize = 12;
/// Longest topic name Kafka knows is 249; the answers' layout here holds for names with a one-byte length.
const TOPIC_BYTES_MAX: usize = 126;
const CORRELATION_AT_KAFKA: usize = 8;
const CORRELATION_AT_BARE: usize = 4;

/// A request that can be sent again and again.
#[derive(Debug, Clone)]
pub struct Template {
    bytes: Bytes,
    correlation_at: usize,
    /// Records it carries.
    pub records: u64,
    /// Bytes of the record batch it carries, or of the whole request when it carries none.
    pub payload_bytes: u64,
    answer: Answer,
}

/// What its answer looks like.
#[derive(Debug, Clone)]
enum Answer {
    Produce { error_at: usize },
    Bare { size_bytes: usize },
}

impl Template {
    /// A Produce of one batch to one partition.
    pub fn produce(topic: &str, partition: i32, acks: Acks, batch: &Batch) -> Result<Self, LoadError> {
        if topic.len() > TOPIC_BYTES_MAX {
            return Err(LoadError::Options(format!(
                "the topic's name has {} bytes; this generator takes at most {TOPIC_BYTES_MAX}",
                topic.len()
            )));
        }
        if acks == Acks::None {
            return Err(LoadError::Options(
                "acks=0 has no answers to count; take 1 or all".to_owned(),
            ));
        }
        let request = ProduceRequest {
            acks: acks.wire(),
            timeout_ms: 30_000,
            topics: vec![ProduceTopic {
                name: StrBytes::from_string(topic.to_owned()),
                partitions: vec![ProducePartition {
                    index: partition,
                    records: Some(batch.bytes.clone()),
                }],
                ..ProduceTopic::default()
            }],
            ..ProduceRequest::default()
        };
        let version = client::client_version(ApiKey::Produce);
        let bytes =
            client::encode_request(ApiKey::Produce, version, 0, Some("tidelog-load"), &request.into())
                .map_err(|e| LoadError::Options(e.to_string()))?;
        // Correlation id, tags, count of topics, name, count of partitions, index, error.
        let error_at = 4 + 1 + 1 + (1 + topic.len()) + 1 + 4;
        Ok(Self {
            bytes,
            correlation_at: CORRELATION_AT_KAFKA,
            records: batch.records,
            payload_bytes: batch.bytes.len() as u64,
            answer: Answer::Produce { error_at },
        })
    }

    /// The same batch for a bare append server.
    pub fn bare_append(file: u32, batch: &Batch) -> Self {
        let total_bytes = bare::APPEND_HEAD_BYTES + batch.bytes.len();
        let mut bytes = BytesMut::with_capacity(total_bytes);
        bytes.extend_from_slice(&bare::head(total_bytes, 0));
        bytes.extend_from_slice(&file.to_be_bytes());
        bytes.extend_from_slice(&batch.bytes);
        Self {
            bytes: bytes.freeze(),
            correlation_at: CORRELATION_AT_BARE,
            records: batch.records,
            payload_bytes: batch.bytes.len() as u64,
            answer: Answer::Bare {
                size_bytes: bare::APPEND_ANSWER_BYTES,
            },
        }
    }

    /// A request for a bare echo server.
    pub fn echo() -> Self {
        let mut bytes = BytesMut::zeroed(bare::ECHO_REQUEST_BYTES);
        bytes[..bare::HEAD_BYTES].copy_from_slice(&bare::head(bare::ECHO_REQUEST_BYTES, 0));
        Self {
            bytes: bytes.freeze(),
            correlation_at: CORRELATION_AT_BARE,
            records: 1,
            payload_bytes: bare::ECHO_REQUEST_BYTES as u64,
            answer: Answer::Bare {
                size_bytes: bare::ECHO_ANSWER_BYTES,
            },
        }
    }

    /// Bytes of the whole request, its size prefix included.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never: a request has a head.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The first bytes, with this correlation id.
    pub fn head(&self, correlation_id: i32) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        head.copy_from_slice(&self.bytes[..HEAD_BYTES]);
        head[self.correlation_at..self.correlation_at + 4].copy_from_slice(&correlation_id.to_be_bytes());
        head
    }

    /// Everything behind the head.
    pub fn rest(&self) -> &[u8] {
        &self.bytes[HEAD_BYTES..]
    }

    /// Holds an answer (without its size prefix) to what the request asked for.
    pub fn check_answer(&self, frame: &[u8], correlation_id: i32) -> Result<(), LoadError> {
        let got = frame.first_chunk::<4>().map(|id| i32::from_be_bytes(*id));
        if got != Some(correlation_id) {
            return Err(LoadError::Answer(format!(
                "correlation id {got:?}, expected {correlation_id}"
            )));
        }
        match self.answer {
            Answer::Bare { size_bytes } if frame.len() + 4 == size_bytes => Ok(()),
            Answer::Bare { size_bytes } => Err(LoadError::Answer(format!(
                "{} bytes, expected {size_bytes}",
                frame.len() + 4
            ))),
            Answer::Produce { error_at } if frame.get(error_at..error_at + 2) == Some(&[0, 0]) => Ok(()),
            Answer::Produce { .. } => Err(refused(frame)),
        }
    }

    /// An answer that satisfies [`Template::check_answer`] once its correlation id is patched in at byte 4.
    pub fn canned_answer(&self, topic: &str) -> Result<Bytes, LoadError> {
        use tidelog_net::hot::{ProducePartitionResponse, ProduceResponse, ProduceTopicResponse};
        match self.answer {
            Answer::Bare { size_bytes } => {
                let mut answer = BytesMut::zeroed(size_bytes);
                answer[..bare::HEAD_BYTES].copy_from_slice(&bare::head(size_bytes, 0));
                Ok(answer.freeze())
            }
            Answer::Produce { .. } => {
                let body = ProduceResponse {
                    topics: vec![ProduceTopicResponse {
                        name: StrBytes::from_string(topic.to_owned()),
                        partitions: vec![ProducePartitionResponse {
                            base_offset: 0,
                            ..ProducePartitionResponse::default()
                        }],
                        ..ProduceTopicResponse::default()
                    }],
                    ..ProduceResponse::default()
                };
                let version = client::client_version(ApiKey::Produce);
                tidelog_net::response::encode_response(version, 0, &ResponseBody::Produce(body))
                    .map_err(|e| LoadError::Answer(e.to_string()))
            }
        }
    }
}

/// What a Produce answer with an error says.
fn refused(frame: &[u8]) -> LoadError {
    let frame = Bytes::copy_from_slice(frame);
    let version = client::client_version(ApiKey::Produce);
    match client::decode_response(ApiKey::Produce, version, frame, DECODED_BYTES_BASE) {
        Ok(client::Response {
            body: ResponseBody::Produce(body),
            ..
        }) => {
            let mut partitions = body.topics.iter().flat_map(|t| &t.partitions);
            match partitions.find(|p| p.error != ErrorCode::None) {
                Some(p) => {
                    let message = p.error_message.as_ref().map_or("", |m| m.as_str());
                    LoadError::Answer(format!("partition {}: {:?} {message}", p.index, p.error))
                }
                None => LoadError::Answer("a Produce answer of another shape".to_owned()),
            }
        }
        Ok(_) => LoadError::Answer("not a Produce answer".to_owned()),
        Err(error) => LoadError::Answer(error.to_string()),
    }
}

/// A record batch to be sent again and again.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The batch, its checksum right.
    pub bytes: Bytes,
    /// Records in it.
    pub records: u64,
}

impl Batch {
    /// As many records of `record_bytes` (value bytes, no key) as fit into `batch_bytes`, at least one.
    ///
    /// The values do not compress and are the same in every run.
    pub fn of_records(record_bytes: usize, batch_bytes: usize) -> Result<Self, LoadError> {
        if batch_bytes > LOAD_BATCH_BYTES_MAX || record_bytes > LOAD_BATCH_BYTES_MAX {
            return Err(LoadError::Options(format!(
                "a batch may have at most {LOAD_BATCH_BYTES_MAX} bytes"
            )));
        }
        let records = (batch_bytes / record_bytes.max(1)).max(1);
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut value = vec![0u8; record_bytes];
        let mut builder = BatchBuilder::new(Compression::None);
        let timestamp_ms = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| d.as_millis() as i64);
        for _ in 0..records {
            for byte in &mut value {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                *byte = state as u8;
            }
            builder
                .append(timestamp_ms, None, Some(&value), &[])
                .map_err(|e| LoadError::Options(e.to_string()))?;
        }
        let bytes = builder.build().map_err(|e| LoadError::Options(e.to_string()))?;
        Ok(Self {
            bytes,
            records: records as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_decodes_and_carries_its_correlation_id() {
        let batch = Batch::of_records(100, 1000).expect("fine");
        assert_eq!(batch.records, 10);
        let template = Template::produce("t", 3, Acks::All, &batch).expect("fine");
        let frame = [&template.head(77)[..], template.rest()].concat();
        assert_eq!(frame.len(), template.len());
        let decoded = tidelog_net::decode_request(Bytes::from(frame).slice(4..), 1 << 20).expect("fine");
        assert_eq!(decoded.header.correlation_id, 77);
        let tidelog_net::RequestBody::Produce(body) = decoded.body else {
            panic!("not a Produce: {:?}", decoded.body);
        };
        assert_eq!(body.topics[0].partitions[0].index, 3);
        assert_eq!(body.topics[0].partitions[0].records.as_ref(), Some(&batch.bytes));
    }

    #[test]
    fn answers_are_held_to_the_request() {
        let batch = Batch::of_records(100, 100).expect("fine");
        let produce = Template::produce("topic", 0, Acks::Leader, &batch).expect("fine");
        for template in [produce, Template::bare_append(1, &batch), Template::echo()] {
            let mut answer = BytesMut::from(&template.canned_answer("topic").expect("fine")[..]);
            answer[4..8].copy_from_slice(&9i32.to_be_bytes());
            template.check_answer(&answer[4..], 9).expect("as asked");
            assert!(
                template.check_answer(&answer[4..], 8).is_err(),
                "another request's"
            );
            assert!(template.check_answer(&answer[4..8], 9).is_err(), "cut");
        }
    }

    #[test]
    fn a_refusal_names_its_error() {
        let batch = Batch::of_records(100, 100).expect("fine");
        let template = Template::produce("topic", 0, Acks::Leader, &batch).expect("fine");
        let mut answer = BytesMut::from(&template.canned_answer("topic").expect("fine")[4..]);
        let Answer::Produce { error_at } = template.answer else {
            panic!("a Produce");
        };
        answer[error_at + 1] = 3;
        let error = template
            .check_answer(&answer, 0)
            .expect_err("refused")
            .to_string();
        assert!(error.contains("UnknownTopicOrPartition"), "{error}");
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        let batch = Batch::of_records(10, 10).expect("fine");
        assert!(Template::produce("t", 0, Acks::None, &batch).is_err());
        assert!(Template::produce(&"t".repeat(200), 0, Acks::All, &batch).is_err());
        assert!(Batch::of_records(10, usize::MAX).is_err());
    }
}
