//! Produce: one batch to one partition, at its leader.

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ApiKey, ProduceRequest};
use kafka_protocol::protocol::VersionRange;

use super::cluster::{Client, topic_name};
use super::config::Acks;
use super::error::ClientError;

/// Version 13 names topics by id only, so 12 is the last that names them by name.
const PRODUCE_VERSIONS: VersionRange = VersionRange { min: 3, max: 11 };

impl Client {
    /// Sends `batch` to the leader of `topic`-`partition` once.
    ///
    /// Returns the base offset it got, or `None` with [`Acks::None`], where the broker does not
    /// answer. An error that [`ClientError::is_outcome_unknown`] may have left the batch in the log.
    pub fn produce(
        &mut self,
        topic: &str,
        partition: i32,
        batch: Bytes,
        acks: Acks,
    ) -> Result<Option<i64>, ClientError> {
        let leader = self.leader(topic, partition)?;
        let request = self.produce_request(topic, partition, batch, acks);
        if acks == Acks::None {
            let connection = self.connection(leader)?;
            let version = connection.version_of(ApiKey::Produce, PRODUCE_VERSIONS)?;
            let sent = connection.send_only(ApiKey::Produce, version, &request);
            if sent.is_err() {
                self.drop_connection(leader);
            }
            return sent.map(|()| None);
        }
        let answer = self.call_node(
            leader,
            ApiKey::Produce,
            PRODUCE_VERSIONS,
            &request,
            Duration::ZERO,
        );
        if answer.is_err() {
            self.forget_leader(topic, partition);
        }
        let answer = answer?;
        let subject = || format!("{topic}-{partition}");
        let result = answer
            .responses
            .iter()
            .filter(|t| t.name.as_str() == topic)
            .flat_map(|t| &t.partition_responses)
            .find(|p| p.index == partition);
        match result {
            Some(p) if p.error_code == 0 => Ok(Some(p.base_offset)),
            Some(p) => {
                let message = p.error_message.as_ref().map(|m| m.to_string());
                let record = p
                    .record_errors
                    .iter()
                    .find_map(|e| e.batch_index_error_message.as_ref());
                let detail = message.or_else(|| record.map(|m| m.to_string()));
                self.forget_leader(topic, partition);
                Err(ClientError::broker(subject(), p.error_code, detail.as_deref()))
            }
            None => Err(ClientError::broker(
                subject(),
                -1,
                Some("the answer does not name this partition"),
            )),
        }
    }

    fn produce_request(&self, topic: &str, partition: i32, batch: Bytes, acks: Acks) -> ProduceRequest {
        let mut data = PartitionProduceData::default();
        data.index = partition;
        data.records = Some(batch);
        let mut topic_data = TopicProduceData::default();
        topic_data.name = topic_name(topic);
        topic_data.partition_data = vec![data];
        let mut request = ProduceRequest::default();
        request.acks = acks.wire();
        request.timeout_ms = i32::try_from(self.config.request_timeout.as_millis()).unwrap_or(i32::MAX);
        request.topic_data = vec![topic_data];
        request
    }
}
