//! The table of topic configurations: Kafka 4.3's names, types, defaults and bounds, and our class of each; and
//! `storage`, which Kafka does not have.
//!
//! Constant; any shard.

/// Type of a configuration, with Kafka's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i8)]
pub enum ConfigType {
    /// true or false.
    Boolean = 1,
    /// Text.
    String = 2,
    /// 32 bits.
    Int = 3,
    /// 16 bits.
    Short = 4,
    /// 64 bits.
    Long = 5,
    /// Floating point.
    Double = 6,
    /// Comma-separated.
    List = 7,
    /// A class name.
    Class = 8,
    /// A credential.
    Password = 9,
}

/// What a configuration does here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It does what it says.
    Effective,
    /// Stored and shown; takes effect in a later release.
    Later,
    /// Stored and shown, nothing else, ever.
    WithoutEffect,
    /// This value is refused; others are accepted without effect.
    Refused {
        /// The value that is refused.
        only_value: &'static str,
        /// Why.
        reason: &'static str,
    },
}

impl Class {
    /// True when setting it deserves a line in the log, because nothing happens.
    pub const fn is_without_effect(self) -> bool {
        !matches!(self, Class::Effective)
    }
}

/// How a value is checked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Check {
    /// A whole number within bounds, inclusive.
    Number {
        /// Least.
        min: i64,
        /// Most.
        max: i64,
    },
    /// A number from 0 to 1.
    Ratio,
    /// `true` or `false`.
    Boolean,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// One or more of these words, comma-separated.
    ListOf(&'static [&'static str]),
    /// Any text.
    Any,
}

impl Check {
    /// Checks a value.
    ///
    /// # Errors
    /// What the value should have been.
    pub fn validate(&self, value: &str) -> Result<(), String> {
        let value = value.trim();
        match *self {
            Check::Number { min, max } => match value.parse::<i64>() {
                Ok(number) if number < min => Err(format!("Value must be at least {min}")),
                Ok(number) if number > max => Err(format!("Value must be no more than {max}")),
                Ok(_) => Ok(()),
                Err(_) => Err("Not a whole number".to_owned()),
            },
            Check::Ratio => match value.parse::<f64>() {
                Ok(number) if (0.0..=1.0).contains(&number) => Ok(()),
                _ => Err("Value must be between 0 and 1".to_owned()),
            },
            Check::Boolean => match value.to_ascii_lowercase().as_str() {
                "true" | "false" => Ok(()),
                _ => Err("Expected value to be either true or false".to_owned()),
            },
            Check::OneOf(words) if words.contains(&value) => Ok(()),
            Check::OneOf(words) => Err(format!("String must be one of: {}", words.join(", "))),
            Check::ListOf(words) if value.split(',').all(|part| words.contains(&part.trim())) => Ok(()),
            Check::ListOf(words) => Err(format!("Each must be one of: {}", words.join(", "))),
            Check::Any => Ok(()),
        }
    }
}

/// One configuration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ConfigDefinition {
    /// Kafka's name.
    pub name: &'static str,
    /// Kafka's type.
    pub config_type: ConfigType,
    /// Kafka's default as text.
    pub default: &'static str,
    /// Check of values.
    pub check: Check,
    /// What it does here.
    pub class: Class,
    /// The broker configuration it falls back to, by Kafka's name.
    pub broker_synonym: Option<&'static str>,
    /// What it means.
    pub doc: &'static str,
}

const fn def(
    name: &'static str,
    config_type: ConfigType,
    default: &'static str,
    check: Check,
    class: Class,
    broker_synonym: Option<&'static str>,
    doc: &'static str,
) -> ConfigDefinition {
    ConfigDefinition {
        name,
        config_type,
        default,
        check,
        class,
        broker_synonym,
        doc,
    }
}

const fn number(min: i64, max: i64) -> Check {
    Check::Number { min, max }
}

const I32: i64 = i32::MAX as i64;
const I64: i64 = i64::MAX;
const LONG_MAX: &str = "9223372036854775807";
const REMOTE: Class = Class::Refused {
    only_value: "true",
    reason: "this broker keeps segments on its own disks and would not tier them",
};

use Class::{Effective, Later, WithoutEffect};
use ConfigType as T;

#[rustfmt::skip]
static DEFINITIONS: &[ConfigDefinition] = &[
    def("cleanup.policy", T::List, "delete", Check::ListOf(&["delete", "compact"]), Later, Some("log.cleanup.policy"),
        "What happens to old records: delete removes segments, compact keeps the latest of each key."),
    def("compression.gzip.level", T::Int, "-1", number(-1, 9), WithoutEffect, Some("compression.gzip.level"),
        "Level of gzip when the broker compresses."),
    def("compression.lz4.level", T::Int, "9", number(1, 17), WithoutEffect, Some("compression.lz4.level"),
        "Level of lz4 when the broker compresses."),
    def("compression.type", T::String, "producer",
        Check::OneOf(&["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"]), Later, Some("compression.type"),
        "Codec of stored batches; producer keeps what was sent."),
    def("compression.zstd.level", T::Int, "3", number(-131_072, 22), WithoutEffect, Some("compression.zstd.level"),
        "Level of zstd when the broker compresses."),
    def("delete.retention.ms", T::Long, "86400000", number(0, I64), Later, Some("log.cleaner.delete.retention.ms"),
        "How long a tombstone stays after compaction."),
    def("file.delete.delay.ms", T::Long, "60000", number(0, I64), WithoutEffect, Some("log.segment.delete.delay.ms"),
        "Time before a removed file is unlinked."),
    def("flush.messages", T::Long, LONG_MAX, number(1, I64), Effective, Some("log.flush.interval.messages"),
        "Records between syncs: any number makes each commit durable before its ack, whatever log.durability says."),
    def("flush.ms", T::Long, LONG_MAX, number(0, I64), Effective, Some("log.flush.interval.ms"),
        "Time between syncs, where that is stronger than log.durability; 0 makes each commit durable before its ack."),
    def("follower.replication.throttled.replicas", T::List, "", Check::Any, WithoutEffect, None,
        "Replicas throttled on the follower's side."),
    def("index.interval.bytes", T::Int, "4096", number(0, I32), WithoutEffect, Some("log.index.interval.bytes"),
        "Distance of index entries."),
    def("leader.replication.throttled.replicas", T::List, "", Check::Any, WithoutEffect, None,
        "Replicas throttled on the leader's side."),
    def("local.retention.bytes", T::Long, "-2", number(-2, I64), WithoutEffect, Some("log.local.retention.bytes"),
        "Bytes kept locally of a tiered topic."),
    def("local.retention.ms", T::Long, "-2", number(-2, I64), WithoutEffect, Some("log.local.retention.ms"),
        "Time kept locally of a tiered topic."),
    def("max.compaction.lag.ms", T::Long, LONG_MAX, number(1, I64), Later, Some("log.cleaner.max.compaction.lag.ms"),
        "Longest a record stays out of compaction."),
    def("max.message.bytes", T::Int, "1048588", number(0, I32), Effective, Some("message.max.bytes"),
        "Largest record batch."),
    def("message.downconversion.enable", T::Boolean, "true", Check::Boolean, WithoutEffect, None,
        "Conversion for clients of record formats that are no longer served."),
    def("message.format.version", T::String, "3.0-IV1", Check::Any, WithoutEffect, None,
        "Record format; always version 2."),
    def("message.timestamp.after.max.ms", T::Long, "3600000", number(0, I64), Effective,
        Some("log.message.timestamp.after.max.ms"), "How far ahead of the broker's clock a timestamp may be."),
    def("message.timestamp.before.max.ms", T::Long, LONG_MAX, number(0, I64), Effective,
        Some("log.message.timestamp.before.max.ms"), "How far behind the broker's clock a timestamp may be."),
    def("message.timestamp.difference.max.ms", T::Long, LONG_MAX, number(0, I64), WithoutEffect, None,
        "Replaced by message.timestamp.before.max.ms and after.max.ms."),
    def("message.timestamp.type", T::String, "CreateTime", Check::OneOf(&["CreateTime", "LogAppendTime"]), Effective,
        Some("log.message.timestamp.type"), "Whose clock stamps records."),
    def("min.cleanable.dirty.ratio", T::Double, "0.5", Check::Ratio, Later, Some("log.cleaner.min.cleanable.ratio"),
        "Share of dirty bytes that starts a compaction."),
    def("min.compaction.lag.ms", T::Long, "0", number(0, I64), Later, Some("log.cleaner.min.compaction.lag.ms"),
        "Shortest a record stays out of compaction."),
    def("min.insync.replicas", T::Int, "1", number(1, 32_767), Effective, Some("min.insync.replicas"),
        "Replicas that must have a record for acks=all."),
    def("preallocate", T::Boolean, "false", Check::Boolean, WithoutEffect, Some("log.preallocate"),
        "Whole segments are allocated at once; space is taken in growing extents here."),
    def("remote.copy.disable", T::Boolean, "false", Check::Boolean, WithoutEffect, None,
        "Stops tiering of new segments."),
    def("remote.log.copy.disable", T::Boolean, "false", Check::Boolean, WithoutEffect, None,
        "Stops tiering of new segments."),
    def("remote.log.delete.on.disable", T::Boolean, "false", Check::Boolean, WithoutEffect, None,
        "Removes tiered segments when tiering ends."),
    def("remote.storage.enable", T::Boolean, "false", Check::Boolean, REMOTE, None,
        "Tiered storage."),
    def("retention.bytes", T::Long, "-1", number(-1, I64), Effective, Some("log.retention.bytes"),
        "Size above which the oldest segments are removed; -1 means no limit."),
    def("retention.ms", T::Long, "604800000", number(-1, I64), Effective, Some("log.retention.ms"),
        "Age above which the oldest segments are removed; -1 keeps them for ever."),
    def("segment.bytes", T::Int, "1073741824", number(1 << 20, I32), Effective, Some("log.segment.bytes"),
        "Size at which a segment is closed."),
    def("segment.index.bytes", T::Int, "10485760", number(4, I32), WithoutEffect, Some("log.index.size.max.bytes"),
        "Largest index file."),
    def("segment.jitter.ms", T::Long, "0", number(0, I64), WithoutEffect, Some("log.roll.jitter.ms"),
        "Random part taken off segment.ms."),
    def("segment.ms", T::Long, "604800000", number(1, I64), Effective, Some("log.roll.ms"),
        "Age at which a segment is closed."),
    def("storage", T::String, "disk", Check::OneOf(&["disk", "memory"]), Effective, None,
        "Where records are kept, chosen when the topic is made: memory is fast, bounded by storage.memory_max and lost at every restart."),
    def("unclean.leader.election.enable", T::Boolean, "false", Check::Boolean, WithoutEffect,
        Some("unclean.leader.election.enable"), "Election of a replica that lacks records; never done here."),
];

/// Every configuration, sorted by name.
pub fn definitions() -> &'static [ConfigDefinition] {
    DEFINITIONS
}

/// The definition of a name.
pub fn find(name: &str) -> Option<&'static ConfigDefinition> {
    DEFINITIONS
        .binary_search_by(|definition| definition.name.cmp(name))
        .ok()
        .and_then(|at| DEFINITIONS.get(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_its_defaults_pass() {
        assert!(DEFINITIONS.is_sorted_by(|a, b| a.name < b.name));
        for definition in DEFINITIONS {
            assert_eq!(find(definition.name), Some(definition));
            assert_eq!(
                definition.check.validate(definition.default),
                Ok(()),
                "{}",
                definition.name
            );
        }
    }
}
