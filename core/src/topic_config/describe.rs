//! DescribeConfigs: entries of topics and of the broker, under Kafka's names, with sources and synonyms.
//!
//! Pure; any shard. A source is always a real value (1, 4 or 5): clients fail on anything else.

use std::collections::BTreeMap;

use super::definitions::{ConfigType, definitions};
use super::{ConfigDefinition, TopicDefaults};
use crate::settings::Settings;

/// Where a value comes from, with Kafka's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i8)]
pub enum ConfigSource {
    /// Set on the topic.
    DynamicTopic = 1,
    /// Set in the broker's settings.
    StaticBroker = 4,
    /// Nobody set it.
    Default = 5,
}

/// One place a value could come from, nearest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigSynonym {
    /// Name at that place.
    pub name: &'static str,
    /// Value there.
    pub value: String,
    /// The place.
    pub source: ConfigSource,
}

/// One entry of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Kafka's name.
    pub name: &'static str,
    /// Value in effect; `None` is null.
    pub value: Option<String>,
    /// It cannot be changed by a request.
    pub read_only: bool,
    /// Where the value comes from.
    pub source: ConfigSource,
    /// The value is a credential (and then null).
    pub is_sensitive: bool,
    /// Filled always; leave out when the request did not ask.
    pub synonyms: Vec<ConfigSynonym>,
    /// Kafka's type.
    pub config_type: ConfigType,
    /// What it means; leave out when the request did not ask.
    pub documentation: &'static str,
}

/// One entry of a CreateTopics answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedConfig {
    /// Kafka's name.
    pub name: &'static str,
    /// Value in effect.
    pub value: String,
    /// Where it comes from.
    pub source: ConfigSource,
}

/// Entries of a topic; `keys`: those asked for, `None` for all. Unknown keys have no entry.
pub fn describe_topic(
    overrides: &BTreeMap<String, String>,
    defaults: &TopicDefaults,
    keys: Option<&[&str]>,
) -> Vec<ConfigEntry> {
    let asked = definitions()
        .iter()
        .filter(|d| keys.is_none_or(|keys| keys.contains(&d.name)));
    asked
        .map(|definition| topic_entry(definition, overrides, defaults))
        .collect()
}

fn topic_entry(
    definition: &'static ConfigDefinition,
    overrides: &BTreeMap<String, String>,
    defaults: &TopicDefaults,
) -> ConfigEntry {
    let mut synonyms = Vec::with_capacity(3);
    if let Some(value) = overrides.get(definition.name) {
        let source = ConfigSource::DynamicTopic;
        synonyms.push(ConfigSynonym {
            name: definition.name,
            value: value.clone(),
            source,
        });
    }
    let broker_name = definition.broker_synonym.unwrap_or(definition.name);
    if let (value, true) = defaults.value(definition) {
        let source = ConfigSource::StaticBroker;
        synonyms.push(ConfigSynonym {
            name: broker_name,
            value: value.to_owned(),
            source,
        });
    }
    synonyms.push(ConfigSynonym {
        name: broker_name,
        value: definition.default.to_owned(),
        source: ConfigSource::Default,
    });
    // A default that follows a profile is still a default, whatever the table says.
    let (value, source) = match synonyms.first() {
        Some(first) if first.source != ConfigSource::Default => (first.value.clone(), first.source),
        _ => (defaults.value(definition).0.to_owned(), ConfigSource::Default),
    };
    ConfigEntry {
        name: definition.name,
        value: Some(value),
        read_only: false,
        source,
        is_sensitive: false,
        synonyms,
        config_type: definition.config_type,
        documentation: definition.doc,
    }
}

/// Entries for a CreateTopics answer (version 5 and later).
pub fn list_for_create(overrides: &BTreeMap<String, String>, defaults: &TopicDefaults) -> Vec<ListedConfig> {
    let entries = describe_topic(overrides, defaults, None);
    entries
        .into_iter()
        .map(|e| ListedConfig {
            name: e.name,
            value: e.value.unwrap_or_default(),
            source: e.source,
        })
        .collect()
}

/// Entries of the broker under Kafka's names; `keys`: those asked for, `None` for all.
pub fn describe_broker(settings: &Settings, keys: Option<&[&str]>) -> Vec<ConfigEntry> {
    let mut rows = broker_rows(settings);
    rows.retain(|row| keys.is_none_or(|keys| keys.contains(&row.name)));
    let configured = |key: &str| match key {
        "" => false,
        // A family counts as configured when any member is.
        key if key.ends_with('.') => settings
            .origins
            .iter()
            .any(|(name, o)| name.starts_with(key) && o.source.is_configured()),
        key => settings
            .origins
            .get(key)
            .is_some_and(|o| o.source.is_configured()),
    };
    rows.into_iter()
        .map(|row| {
            let source = if configured(row.setting) {
                ConfigSource::StaticBroker
            } else {
                ConfigSource::Default
            };
            let synonyms = vec![ConfigSynonym {
                name: row.name,
                value: row.value.clone(),
                source,
            }];
            ConfigEntry {
                name: row.name,
                value: Some(row.value),
                read_only: true,
                source,
                is_sensitive: false,
                synonyms,
                config_type: row.config_type,
                documentation: row.doc,
            }
        })
        .collect()
}

struct BrokerRow {
    name: &'static str,
    config_type: ConfigType,
    value: String,
    /// Our setting, a family with a final dot, or empty for a constant.
    setting: &'static str,
    doc: &'static str,
}

fn broker_rows(settings: &Settings) -> Vec<BrokerRow> {
    use ConfigType as T;
    let row = |name, config_type, value: String, setting, doc| BrokerRow {
        name,
        config_type,
        value,
        setting,
        doc,
    };
    let join = |address: fn(&crate::settings::ListenerSettings) -> String| {
        settings
            .listeners
            .iter()
            .map(address)
            .collect::<Vec<_>>()
            .join(",")
    };
    let dirs: Vec<String> = settings
        .data_dirs
        .iter()
        .map(|d| d.display().to_string())
        .collect();
    let hours = |ms: i64| if ms < 0 { -1 } else { ms / 3_600_000 };
    let mut rows = vec![
        row(
            "advertised.listeners",
            T::String,
            join(|l| format!("{}://{}", l.name, l.advertised)),
            "advertised.",
            "Addresses clients are told.",
        ),
        row(
            "auto.create.topics.enable",
            T::Boolean,
            settings.auto_create_topics.to_string(),
            "auto_create_topics",
            "Topics appear when they are used.",
        ),
        row(
            "broker.id",
            T::Int,
            settings.node_id.to_string(),
            "node.id",
            "This broker's number.",
        ),
        row(
            "broker.rack",
            T::String,
            settings.rack.clone().unwrap_or_default(),
            "rack",
            "Failure domain.",
        ),
        row(
            "connections.max.idle.ms",
            T::Long,
            settings.connection_idle_timeout_ms.to_string(),
            "connection.idle_timeout_ms",
            "Idle connections are closed after this.",
        ),
        row(
            "default.replication.factor",
            T::Int,
            "1".into(),
            "",
            "Replicas of a topic made without a number.",
        ),
        row(
            "delete.topic.enable",
            T::Boolean,
            "true".into(),
            "",
            "Topics may be deleted.",
        ),
        row(
            "fetch.max.bytes",
            T::Int,
            settings.fetch_max_bytes.to_string(),
            "fetch.max_bytes",
            "Most record bytes in one Fetch answer.",
        ),
        row(
            "group.consumer.heartbeat.interval.ms",
            T::Int,
            "5000".into(),
            "",
            "Heartbeat interval of members.",
        ),
        row(
            "group.consumer.session.timeout.ms",
            T::Int,
            "45000".into(),
            "",
            "Session timeout of members.",
        ),
        row(
            "group.initial.rebalance.delay.ms",
            T::Int,
            "3000".into(),
            "",
            "Wait for members of an empty group.",
        ),
        row(
            "group.max.session.timeout.ms",
            T::Int,
            "1800000".into(),
            "",
            "Longest session timeout.",
        ),
        row(
            "group.max.size",
            T::Int,
            i32::MAX.to_string(),
            "",
            "Most members of a group.",
        ),
        row(
            "group.min.session.timeout.ms",
            T::Int,
            "6000".into(),
            "",
            "Shortest session timeout.",
        ),
        row(
            "listeners",
            T::String,
            join(|l| format!("{}://{}", l.name, l.bind)),
            "listeners.",
            "Addresses bound.",
        ),
        row(
            "log.cleanup.policy",
            T::List,
            "delete".into(),
            "",
            "Default cleanup.policy.",
        ),
        row(
            "log.dirs",
            T::String,
            dirs.join(","),
            "data.dirs",
            "Data directories.",
        ),
        row(
            "log.message.timestamp.type",
            T::String,
            "CreateTime".into(),
            "",
            "Default message.timestamp.type.",
        ),
        row(
            "log.retention.bytes",
            T::Long,
            settings.log_retention_bytes.to_string(),
            "log.retention_bytes",
            "Default retention.bytes.",
        ),
        row(
            "log.retention.hours",
            T::Int,
            hours(settings.log_retention_ms).to_string(),
            "log.retention_ms",
            "Default retention.ms, in hours.",
        ),
        row(
            "log.retention.ms",
            T::Long,
            settings.log_retention_ms.to_string(),
            "log.retention_ms",
            "Default retention.ms.",
        ),
        row(
            "log.roll.ms",
            T::Long,
            settings.log_segment_ms.to_string(),
            "log.segment_ms",
            "Default segment.ms.",
        ),
        row(
            "log.segment.bytes",
            T::Int,
            settings.log_segment_bytes.to_string(),
            "log.segment_bytes",
            "Default segment.bytes.",
        ),
        row(
            "message.max.bytes",
            T::Int,
            settings.message_max_bytes.to_string(),
            "message.max_bytes",
            "Default max.message.bytes.",
        ),
        row(
            "min.insync.replicas",
            T::Int,
            "1".into(),
            "",
            "Default min.insync.replicas.",
        ),
        row(
            "node.id",
            T::Int,
            settings.node_id.to_string(),
            "node.id",
            "This broker's number.",
        ),
        row(
            "num.partitions",
            T::Int,
            settings.default_partitions.to_string(),
            "default.partitions",
            "Partitions of a topic made without a number.",
        ),
        row(
            "offsets.retention.minutes",
            T::Int,
            "10080".into(),
            "",
            "How long offsets of an empty group stay.",
        ),
        row(
            "process.roles",
            T::List,
            "broker,controller".into(),
            "",
            "Roles of this process.",
        ),
        row(
            "socket.request.max.bytes",
            T::Int,
            settings.request_max_bytes.to_string(),
            "request.max_bytes",
            "Largest request.",
        ),
        row(
            "transaction.max.timeout.ms",
            T::Int,
            "900000".into(),
            "",
            "Longest transaction.",
        ),
    ];
    rows.sort_by_key(|row| row.name);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{HostFacts, SettingsBuilder};

    fn settings() -> Settings {
        let host = HostFacts {
            cgroup_memory_bytes: None,
            total_memory_bytes: 1 << 30,
            affinity_cpus: 1,
            quota_cpus: None,
        };
        SettingsBuilder::new(host)
            .set("log.segment_bytes=8MiB")
            .unwrap()
            .build()
            .unwrap()
    }

    #[test]
    fn sources_and_synonyms_of_a_topic() {
        let defaults = TopicDefaults::from_settings(&settings());
        let overrides = BTreeMap::from([("segment.bytes".to_owned(), "2097152".to_owned())]);
        let keys = ["segment.bytes", "retention.ms", "no.such"];
        let entries = describe_topic(&overrides, &defaults, Some(&keys));
        let names: Vec<_> = entries
            .iter()
            .map(|e| (e.name, e.source, e.value.as_deref()))
            .collect();
        assert_eq!(
            names,
            [
                ("retention.ms", ConfigSource::Default, Some("604800000")),
                ("segment.bytes", ConfigSource::DynamicTopic, Some("2097152")),
            ]
        );
        let synonyms: Vec<_> = entries[1]
            .synonyms
            .iter()
            .map(|s| (s.name, s.value.as_str(), s.source as i8))
            .collect();
        assert_eq!(
            synonyms,
            [
                ("segment.bytes", "2097152", 1),
                ("log.segment.bytes", "8388608", 4),
                ("log.segment.bytes", "1073741824", 5)
            ]
        );
        let without = describe_topic(&BTreeMap::new(), &defaults, Some(&keys));
        assert_eq!(
            (without[1].source, without[1].value.as_deref()),
            (ConfigSource::StaticBroker, Some("8388608"))
        );
        assert_eq!(list_for_create(&overrides, &defaults).len(), definitions().len());
    }

    #[test]
    fn the_broker_answers_under_kafkas_names() {
        let all = describe_broker(&settings(), None);
        for name in [
            "node.id",
            "advertised.listeners",
            "log.dirs",
            "num.partitions",
            "default.replication.factor",
            "min.insync.replicas",
            "auto.create.topics.enable",
            "delete.topic.enable",
            "message.max.bytes",
            "log.retention.ms",
            "log.retention.bytes",
            "log.segment.bytes",
            "offsets.retention.minutes",
            "transaction.max.timeout.ms",
            "group.max.session.timeout.ms",
        ] {
            assert!(all.iter().any(|e| e.name == name && e.read_only), "{name}");
        }
        let one = describe_broker(&settings(), Some(&["log.segment.bytes"]));
        assert_eq!(
            (one.len(), one[0].source as i8, one[0].value.as_deref()),
            (1, 4, Some("8388608"))
        );
        let listeners = describe_broker(&settings(), Some(&["advertised.listeners"]));
        assert_eq!(listeners[0].value.as_deref(), Some("PLAINTEXT://localhost:9092"));
    }
}
