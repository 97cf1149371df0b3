//! Topic configurations: Kafka's names, what each of them does here, and the values in effect.
//!
//! Pure; any shard. Three classes: *effective*; *accepted without effect* (stored and shown, since
//! deployment tools set them, and named once in the log); *refused*, because accepting would lie.
//! Invariant: a value that passed [`validate`] always resolves.
#![forbid(unsafe_code)]

mod definitions;
mod describe;

use std::collections::BTreeMap;

pub use definitions::{Check, Class, ConfigDefinition, ConfigType, definitions, find};
pub use describe::{
    ConfigEntry, ConfigSource, ConfigSynonym, ListedConfig, describe_broker, describe_topic, list_for_create,
};

use crate::limits::CONFIG_VALUE_BYTES_MAX;
use crate::settings::Settings;

/// Why a configuration is not taken. All map to INVALID_CONFIG (40).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No such name.
    #[error("Unknown topic config name: {0}")]
    Unknown(String),
    /// The value is not of the type or outside the bounds.
    #[error("Invalid value {value} for configuration {name}: {reason}")]
    Invalid {
        /// The name.
        name: &'static str,
        /// The value, shortened.
        value: String,
        /// What it should be.
        reason: String,
    },
    /// Accepting it would promise what this broker does not do.
    #[error("Configuration {name}={value} is refused: {reason}")]
    Refused {
        /// The name.
        name: &'static str,
        /// The value.
        value: String,
        /// Why.
        reason: &'static str,
    },
}

/// Checks one value and returns its definition.
pub fn validate(name: &str, value: &str) -> Result<&'static ConfigDefinition, ConfigError> {
    let definition = find(name).ok_or_else(|| ConfigError::Unknown(shorten(name)))?;
    let invalid = |reason: String| ConfigError::Invalid {
        name: definition.name,
        value: shorten(value),
        reason,
    };
    if value.len() > CONFIG_VALUE_BYTES_MAX {
        return Err(invalid(format!("longer than {CONFIG_VALUE_BYTES_MAX} bytes")));
    }
    definition.check.validate(value).map_err(invalid)?;
    match definition.class {
        Class::Refused { only_value, reason } if value.trim() == only_value => Err(ConfigError::Refused {
            name: definition.name,
            value: shorten(value),
            reason,
        }),
        _ => Ok(definition),
    }
}

/// Checks what must hold between configurations of one topic.
pub fn validate_together(configs: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    let number = |name: &str| configs.get(name).and_then(|v| v.trim().parse::<i64>().ok());
    if let (Some(min), Some(max)) = (number("min.compaction.lag.ms"), number("max.compaction.lag.ms"))
        && min > max
    {
        return Err(ConfigError::Invalid {
            name: "min.compaction.lag.ms",
            value: min.to_string(),
            reason: format!("must not be above max.compaction.lag.ms ({max})"),
        });
    }
    Ok(())
}

fn shorten(text: &str) -> String {
    text.chars().take(128).collect()
}

/// Where a topic's timestamps come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TimestampType {
    /// The producer's.
    CreateTime,
    /// Set at append.
    LogAppendTime,
}

/// What happens to old records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CleanupPolicy {
    /// Whole segments are removed by age and size.
    pub delete: bool,
    /// Only the latest record of each key is kept.
    pub compact: bool,
}

/// Codec of stored batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CompressionType {
    /// As the producer sent it.
    Producer,
    /// None.
    Uncompressed,
    /// gzip.
    Gzip,
    /// snappy.
    Snappy,
    /// lz4.
    Lz4,
    /// zstd.
    Zstd,
}

/// Where a topic's records are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Storage {
    /// In a data directory.
    Disk,
    /// In memory only: a restart loses them.
    Memory,
}

impl Storage {
    /// The configuration's name.
    pub const NAME: &'static str = "storage";

    /// What was set on a topic.
    pub fn of(configs: &BTreeMap<String, String>) -> Self {
        match configs.get(Self::NAME).map(|value| value.trim()) {
            Some("memory") => Storage::Memory,
            _ => Storage::Disk,
        }
    }
}

/// The broker's defaults for topics that say nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicDefaults {
    values: BTreeMap<&'static str, (String, bool)>,
}

impl TopicDefaults {
    /// Takes over the settings that stand for topic configurations.
    pub fn from_settings(settings: &Settings) -> Self {
        let configured = |key: &str| {
            settings
                .origins
                .get(key)
                .is_some_and(|origin| origin.source.is_configured())
        };
        let mut values = BTreeMap::new();
        for (name, key, value) in [
            (
                "segment.bytes",
                "log.segment_bytes",
                settings.log_segment_bytes.to_string(),
            ),
            (
                "segment.ms",
                "log.segment_ms",
                settings.log_segment_ms.to_string(),
            ),
            (
                "retention.ms",
                "log.retention_ms",
                settings.log_retention_ms.to_string(),
            ),
            (
                "retention.bytes",
                "log.retention_bytes",
                settings.log_retention_bytes.to_string(),
            ),
            (
                "max.message.bytes",
                "message.max_bytes",
                settings.message_max_bytes.to_string(),
            ),
        ] {
            values.insert(name, (value, configured(key)));
        }
        TopicDefaults { values }
    }

    /// Value of a configuration nobody set on the topic, and whether the broker's settings name it.
    pub fn value(&self, definition: &ConfigDefinition) -> (&str, bool) {
        match self.values.get(definition.name) {
            Some((value, configured)) => (value, *configured),
            None => (definition.default, false),
        }
    }
}

/// The values in effect for one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicConfig {
    /// `segment.bytes`
    pub segment_bytes: u64,
    /// `segment.ms`
    pub segment_ms: u64,
    /// `retention.ms`; `None` keeps for ever.
    pub retention_ms: Option<u64>,
    /// `retention.bytes`; `None` means no limit.
    pub retention_bytes: Option<u64>,
    /// `max.message.bytes`: largest record batch.
    pub max_message_bytes: u32,
    /// `message.timestamp.type`
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`: how far behind the broker's clock a timestamp may be.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`: how far ahead of it.
    pub timestamp_after_max_ms: i64,
    /// `compression.type`
    pub compression_type: CompressionType,
    /// `cleanup.policy`
    pub cleanup_policy: CleanupPolicy,
    /// `min.insync.replicas`
    pub min_insync_replicas: u16,
    /// `delete.retention.ms`: how long a tombstone stays after compaction.
    pub delete_retention_ms: u64,
    /// `min.compaction.lag.ms`
    pub min_compaction_lag_ms: u64,
    /// `max.compaction.lag.ms`
    pub max_compaction_lag_ms: u64,
    /// `flush.messages` and `flush.ms`
    pub flush: Flush,
    /// `storage`
    pub storage: Storage,
}

/// What a topic asks of durability; it never weakens the broker's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flush {
    /// `flush.messages` is set: no number of records may be lost that was acknowledged.
    pub each_batch: bool,
    /// `flush.ms`, where it is set.
    pub interval_ms: Option<u64>,
}

impl TopicConfig {
    /// Overrides of the topic over the broker's defaults over Kafka's. A stored value that this binary
    /// cannot read (written by another version) falls back, so that a topic always opens.
    pub fn resolve(overrides: &BTreeMap<String, String>, defaults: &TopicDefaults) -> Self {
        let of = Lookup { overrides, defaults };
        let unlimited = |number: i64| u64::try_from(number).ok();
        let text = of.text("cleanup.policy");
        let policy = |word: &str| text.split(',').any(|part| part.trim() == word);
        TopicConfig {
            segment_bytes: of.unsigned("segment.bytes"),
            segment_ms: of.unsigned("segment.ms"),
            retention_ms: unlimited(of.number("retention.ms")),
            retention_bytes: unlimited(of.number("retention.bytes")),
            max_message_bytes: u32::try_from(of.unsigned("max.message.bytes")).unwrap_or(u32::MAX),
            timestamp_type: match of.text("message.timestamp.type") {
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => TimestampType::CreateTime,
            },
            timestamp_before_max_ms: of.number("message.timestamp.before.max.ms"),
            timestamp_after_max_ms: of.number("message.timestamp.after.max.ms"),
            compression_type: match of.text("compression.type") {
                "uncompressed" => CompressionType::Uncompressed,
                "gzip" => CompressionType::Gzip,
                "snappy" => CompressionType::Snappy,
                "lz4" => CompressionType::Lz4,
                "zstd" => CompressionType::Zstd,
                _ => CompressionType::Producer,
            },
            cleanup_policy: CleanupPolicy {
                delete: policy("delete"),
                compact: policy("compact"),
            },
            min_insync_replicas: u16::try_from(of.unsigned("min.insync.replicas")).unwrap_or(u16::MAX),
            delete_retention_ms: of.unsigned("delete.retention.ms"),
            min_compaction_lag_ms: of.unsigned("min.compaction.lag.ms"),
            max_compaction_lag_ms: of.unsigned("max.compaction.lag.ms"),
            flush: Flush {
                each_batch: of.number("flush.messages") < i64::MAX,
                interval_ms: Some(of.unsigned("flush.ms")).filter(|ms| *ms < i64::MAX as u64),
            },
            storage: Storage::of(overrides),
        }
    }
}

struct Lookup<'a> {
    overrides: &'a BTreeMap<String, String>,
    defaults: &'a TopicDefaults,
}

impl<'a> Lookup<'a> {
    /// The override when it still validates, else the default.
    fn text(&self, name: &str) -> &'a str {
        let Some(definition) = find(name) else { return "" };
        match self.overrides.get(name) {
            Some(value) if definition.check.validate(value).is_ok() => value.trim(),
            _ => self.defaults.value(definition).0,
        }
    }

    fn number(&self, name: &str) -> i64 {
        self.text(name).parse().unwrap_or(i64::MAX)
    }

    fn unsigned(&self, name: &str) -> u64 {
        u64::try_from(self.number(name)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn defaults_are_kafkas() {
        let c = TopicConfig::resolve(&BTreeMap::new(), &TopicDefaults::default());
        assert_eq!(c.segment_bytes, 1 << 30);
        assert_eq!(c.segment_ms, 604_800_000);
        assert_eq!((c.retention_ms, c.retention_bytes), (Some(604_800_000), None));
        assert_eq!(c.max_message_bytes, 1_048_588);
        assert_eq!(c.timestamp_type, TimestampType::CreateTime);
        assert_eq!(
            (c.timestamp_before_max_ms, c.timestamp_after_max_ms),
            (i64::MAX, 3_600_000)
        );
        assert_eq!(c.compression_type, CompressionType::Producer);
        assert_eq!(
            c.cleanup_policy,
            CleanupPolicy {
                delete: true,
                compact: false
            }
        );
        assert_eq!(c.storage, Storage::Disk);
        assert_eq!(
            (c.min_insync_replicas, c.max_compaction_lag_ms),
            (1, i64::MAX as u64)
        );
    }

    #[test]
    fn overrides_win_and_unreadable_ones_fall_back() {
        let overrides = configs(&[
            ("segment.bytes", "2097152"),
            ("retention.ms", "-1"),
            ("cleanup.policy", "compact,delete"),
            ("message.timestamp.type", "LogAppendTime"),
            ("compression.type", "lz4"),
            ("segment.ms", "written by the future"),
            ("storage", "memory"),
        ]);
        let c = TopicConfig::resolve(&overrides, &TopicDefaults::default());
        assert_eq!(
            (c.segment_bytes, c.retention_ms, c.segment_ms),
            (2 << 20, None, 604_800_000)
        );
        assert_eq!(
            c.cleanup_policy,
            CleanupPolicy {
                delete: true,
                compact: true
            }
        );
        assert_eq!(c.timestamp_type, TimestampType::LogAppendTime);
        assert_eq!(c.compression_type, CompressionType::Lz4);
        assert_eq!(c.storage, Storage::Memory);
    }

    #[test]
    fn the_three_classes() {
        assert!(
            matches!(validate("retention.ms", "1000"), Ok(d) if !matches!(d.class, Class::Refused { .. }))
        );
        assert!(matches!(validate("preallocate", "true"), Ok(d) if d.class == Class::WithoutEffect));
        assert!(matches!(
            validate("remote.storage.enable", "true"),
            Err(ConfigError::Refused { .. })
        ));
        assert!(validate("remote.storage.enable", "false").is_ok());
        assert_eq!(
            validate("retention.days", "7").unwrap_err().to_string(),
            "Unknown topic config name: retention.days"
        );
    }

    #[test]
    fn bad_values() {
        for (name, value) in [
            ("segment.bytes", "10240"),
            ("segment.bytes", "3000000000"),
            ("segment.ms", "0"),
            ("retention.ms", "-2"),
            ("max.message.bytes", "abc"),
            ("cleanup.policy", "shred"),
            ("cleanup.policy", ","),
            ("compression.type", "brotli"),
            ("min.cleanable.dirty.ratio", "1.5"),
            ("min.cleanable.dirty.ratio", "NaN"),
            ("preallocate", "yes"),
            ("storage", "tape"),
            ("message.timestamp.type", "createtime"),
        ] {
            assert!(
                matches!(validate(name, value), Err(ConfigError::Invalid { .. })),
                "{name}={value}"
            );
        }
        let long = "x".repeat(CONFIG_VALUE_BYTES_MAX + 1);
        assert!(validate("leader.replication.throttled.replicas", &long).is_err());
        let lag = configs(&[("min.compaction.lag.ms", "5"), ("max.compaction.lag.ms", "4")]);
        assert!(validate_together(&lag).is_err() && validate_together(&BTreeMap::new()).is_ok());
    }

    #[test]
    fn the_brokers_settings_are_the_defaults() {
        let host = crate::settings::HostFacts {
            cgroup_memory_bytes: None,
            total_memory_bytes: 1 << 30,
            affinity_cpus: 1,
            quota_cpus: None,
        };
        let settings = crate::settings::SettingsBuilder::new(host)
            .set("log.segment_bytes=8MiB")
            .unwrap();
        let defaults = TopicDefaults::from_settings(&settings.build().unwrap());
        assert_eq!(
            TopicConfig::resolve(&BTreeMap::new(), &defaults).segment_bytes,
            8 << 20
        );
        let segment = find("segment.bytes").unwrap();
        assert_eq!(defaults.value(segment), ("8388608", true));
        assert_eq!(defaults.value(find("segment.ms").unwrap()), ("604800000", false));
    }
}
