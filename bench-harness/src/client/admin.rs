//! Topics and their configuration: create, delete, add partitions, describe, alter.

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::{
    ApiKey, CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, DescribeConfigsRequest,
    IncrementalAlterConfigsRequest,
};
use kafka_protocol::protocol::{StrBytes, VersionRange};

use super::cluster::{Client, topic_name};
use super::error::ClientError;

const CREATE_TOPICS_VERSIONS: VersionRange = VersionRange { min: 2, max: 7 };
/// Version 6 names topics in another field.
const DELETE_TOPICS_VERSIONS: VersionRange = VersionRange { min: 1, max: 5 };
const CREATE_PARTITIONS_VERSIONS: VersionRange = VersionRange { min: 0, max: 3 };
const DESCRIBE_CONFIGS_VERSIONS: VersionRange = VersionRange { min: 1, max: 4 };
const ALTER_CONFIGS_VERSIONS: VersionRange = VersionRange { min: 0, max: 1 };

const RESOURCE_TOPIC: i8 = 2;
const RESOURCE_BROKER: i8 = 4;
const OPERATION_SET: i8 = 0;
const OPERATION_DELETE: i8 = 1;

/// A topic to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// Name.
    pub name: String,
    /// Partition count; -1 leaves it to the broker.
    pub partitions: i32,
    /// Replication factor; -1 leaves it to the broker.
    pub replicas: i16,
    /// Configuration as key and value.
    pub configs: Vec<(String, String)>,
}

/// One line of a described configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Key.
    pub name: String,
    /// Value; none when it is sensitive or unset.
    pub value: Option<String>,
    /// Where the value comes from, such as `topic` or `default`.
    pub source: &'static str,
    /// True when it cannot be altered.
    pub is_read_only: bool,
}

/// Each thing asked for, by name, and how it went.
pub type Outcomes = Vec<(String, Result<(), ClientError>)>;

impl Client {
    /// Creates topics, or only checks that they could be.
    pub fn create_topics(
        &mut self,
        topics: &[NewTopic],
        validate_only: bool,
    ) -> Result<Outcomes, ClientError> {
        let creatable = |topic: &NewTopic| {
            let config = |(name, value): &(String, String)| {
                CreatableTopicConfig::default()
                    .with_name(text(name))
                    .with_value(Some(text(value)))
            };
            CreatableTopic::default()
                .with_name(topic_name(&topic.name))
                .with_num_partitions(topic.partitions)
                .with_replication_factor(topic.replicas)
                .with_configs(topic.configs.iter().map(config).collect())
        };
        let request = CreateTopicsRequest::default()
            .with_topics(topics.iter().map(creatable).collect())
            .with_timeout_ms(self.timeout_ms())
            .with_validate_only(validate_only);
        let answer = self.call_any(ApiKey::CreateTopics, CREATE_TOPICS_VERSIONS, &request)?;
        let mut outcomes = Vec::with_capacity(topics.len());
        for topic in &answer.topics {
            outcomes.push(outcome(
                "topic",
                &topic.name,
                topic.error_code,
                topic.error_message.as_ref(),
            ));
        }
        Ok(outcomes)
    }

    /// Deletes topics and all they hold.
    pub fn delete_topics(&mut self, names: &[String]) -> Result<Outcomes, ClientError> {
        let request = DeleteTopicsRequest::default()
            .with_topic_names(names.iter().map(|name| topic_name(name)).collect())
            .with_timeout_ms(self.timeout_ms());
        let answer = self.call_any(ApiKey::DeleteTopics, DELETE_TOPICS_VERSIONS, &request)?;
        let mut outcomes = Vec::with_capacity(names.len());
        for topic in &answer.responses {
            let name = topic.name.as_ref().map(|n| n.to_string()).unwrap_or_default();
            outcomes.push(outcome(
                "topic",
                &name,
                topic.error_code,
                topic.error_message.as_ref(),
            ));
        }
        for name in names {
            self.forget_topic(name);
        }
        Ok(outcomes)
    }

    /// Raises the partition count of `name` to `count`.
    pub fn create_partitions(
        &mut self,
        name: &str,
        count: i32,
        validate_only: bool,
    ) -> Result<(), ClientError> {
        let topic = CreatePartitionsTopic::default()
            .with_name(topic_name(name))
            .with_count(count)
            .with_assignments(None);
        let request = CreatePartitionsRequest::default()
            .with_topics(vec![topic])
            .with_timeout_ms(self.timeout_ms())
            .with_validate_only(validate_only);
        let answer = self.call_any(ApiKey::CreatePartitions, CREATE_PARTITIONS_VERSIONS, &request)?;
        let result = answer.results.first().ok_or_else(|| nothing_said(name))?;
        outcome("topic", name, result.error_code, result.error_message.as_ref()).1
    }

    /// The configuration of a topic, defaults included.
    pub fn describe_topic_configs(&mut self, name: &str) -> Result<Vec<ConfigEntry>, ClientError> {
        self.describe_configs(RESOURCE_TOPIC, name)
    }

    /// The configuration of the broker `node_id`.
    pub fn describe_broker_configs(&mut self, node_id: i32) -> Result<Vec<ConfigEntry>, ClientError> {
        self.describe_configs(RESOURCE_BROKER, &node_id.to_string())
    }

    /// Sets and unsets configuration keys of a topic, all or none.
    pub fn alter_topic_configs(
        &mut self,
        name: &str,
        set: &[(String, String)],
        unset: &[String],
    ) -> Result<(), ClientError> {
        let set = set.iter().map(|(key, value)| {
            AlterableConfig::default()
                .with_name(text(key))
                .with_config_operation(OPERATION_SET)
                .with_value(Some(text(value)))
        });
        let unset = unset.iter().map(|key| {
            AlterableConfig::default()
                .with_name(text(key))
                .with_config_operation(OPERATION_DELETE)
                .with_value(None)
        });
        let resource = AlterConfigsResource::default()
            .with_resource_type(RESOURCE_TOPIC)
            .with_resource_name(text(name))
            .with_configs(set.chain(unset).collect());
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        let answer = self.call_any(ApiKey::IncrementalAlterConfigs, ALTER_CONFIGS_VERSIONS, &request)?;
        let result = answer.responses.first().ok_or_else(|| nothing_said(name))?;
        outcome("topic", name, result.error_code, result.error_message.as_ref()).1
    }

    fn describe_configs(&mut self, resource_type: i8, name: &str) -> Result<Vec<ConfigEntry>, ClientError> {
        let resource = DescribeConfigsResource::default()
            .with_resource_type(resource_type)
            .with_resource_name(text(name))
            .with_configuration_keys(None);
        let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
        let answer = self.call_any(ApiKey::DescribeConfigs, DESCRIBE_CONFIGS_VERSIONS, &request)?;
        let result = answer
            .results
            .into_iter()
            .next()
            .ok_or_else(|| nothing_said(name))?;
        outcome(
            "configuration of",
            name,
            result.error_code,
            result.error_message.as_ref(),
        )
        .1?;
        let mut entries: Vec<ConfigEntry> = result
            .configs
            .into_iter()
            .map(|c| ConfigEntry {
                name: c.name.to_string(),
                value: c.value.filter(|_| !c.is_sensitive).map(|v| v.to_string()),
                source: source_name(c.config_source),
                is_read_only: c.read_only,
            })
            .collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    pub(super) fn timeout_ms(&self) -> i32 {
        i32::try_from(self.config.request_timeout.as_millis()).unwrap_or(i32::MAX)
    }
}

fn outcome(
    what: &str,
    name: &str,
    code: i16,
    message: Option<&StrBytes>,
) -> (String, Result<(), ClientError>) {
    let result = match code {
        0 => Ok(()),
        code => Err(ClientError::broker(
            format!("{what} {name}"),
            code,
            message.map(|m| m.as_str()),
        )),
    };
    (name.to_owned(), result)
}

fn nothing_said(name: &str) -> ClientError {
    ClientError::broker(format!("topic {name}"), -1, Some("the answer does not name it"))
}

fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

fn source_name(source: i8) -> &'static str {
    match source {
        1 => "topic",
        2 | 3 => "dynamic",
        4 => "broker",
        5 => "default",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_names_its_subject() {
        let message = StrBytes::from_static_str("no");
        let (name, result) = outcome("topic", "logs", 17, Some(&message));
        assert_eq!(name, "logs");
        assert_eq!(
            result.expect_err("17").to_string(),
            "topic logs: INVALID_TOPIC_EXCEPTION (17): no"
        );
        assert!(outcome("topic", "logs", 0, None).1.is_ok());
    }
}
