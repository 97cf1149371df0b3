//! The registry: every setting once, with its sense, unit, default, bounds and when a change takes effect.
//!
//! A constant table; any thread. A name that ends in `.*` stands for a family with one key per member.

use std::fmt;

use crate::limits::{DATA_DIRS_MAX, MEMORY_BYTES_MIN, NODE_ID_MAX, PARTITIONS_PER_TOPIC_MAX, SHARDS_MAX};

/// Name a listener gets when none is given.
pub const DEFAULT_LISTENER: &str = "PLAINTEXT";

/// When a change takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// At the next configuration epoch.
    Live,
    /// For connections accepted afterwards.
    NewConnections,
    /// At the next start.
    Restart,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Effect::Live => "live",
            Effect::NewConnections => "new connections",
            Effect::Restart => "restart",
        })
    }
}

/// Type and bounds (inclusive, in the setting's unit).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// true or false.
    Bool,
    /// A whole number.
    Integer {
        /// Least.
        min: i64,
        /// Most.
        max: i64,
    },
    /// Bytes, written as a size; `-1` where `min` is below zero.
    Size {
        /// Least.
        min: i64,
        /// Most.
        max: i64,
    },
    /// A span, written as a number or with a unit; `-1` where `min` is below zero.
    Duration {
        /// Microseconds per unit: 1 or 1,000.
        unit_us: u64,
        /// Least.
        min: i64,
        /// Most.
        max: i64,
    },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Free text of at most so many bytes.
    Text {
        /// Most bytes.
        bytes_max: usize,
    },
    /// `HOST:PORT`.
    Address,
    /// `HOST:PORT`, or empty for off.
    OptionalAddress,
    /// Directories.
    Paths {
        /// Most of them.
        count_max: usize,
    },
}

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct SettingSpec {
    /// Dotted name.
    pub name: &'static str,
    /// Type and bounds.
    pub kind: Kind,
    /// Unit, empty when it has none.
    pub unit: &'static str,
    /// Default as text; `auto` is computed from the host.
    pub default: &'static str,
    /// Default under `--profile prod`, when different.
    pub prod: Option<&'static str>,
    /// Default under `--profile perf`, when different.
    pub perf: Option<&'static str>,
    /// When a change takes effect.
    pub effect: Effect,
    /// What it does, in a sentence or two.
    pub doc: &'static str,
}

impl SettingSpec {
    /// `auto` is a value of this setting.
    pub fn allows_auto(&self) -> bool {
        self.default == "auto"
    }

    /// One line for `config print` and error messages: bounds in words.
    pub fn bounds(&self) -> String {
        let auto = if self.allows_auto() { "auto or " } else { "" };
        let unit = if self.unit.is_empty() {
            String::new()
        } else {
            format!(" {}", self.unit)
        };
        match self.kind {
            Kind::Bool => "true or false".to_owned(),
            Kind::Integer { min, max } | Kind::Duration { min, max, .. } => {
                format!("{auto}{min} to {max}{unit}")
            }
            Kind::Size { min, max } => {
                let show =
                    |bytes: i64| u64::try_from(bytes).map_or_else(|_| bytes.to_string(), super::format_size);
                format!(
                    "{auto}{} to {}",
                    show(min),
                    if max == i64::MAX {
                        "any size".into()
                    } else {
                        show(max)
                    }
                )
            }
            Kind::Choice(words) => words.join(", "),
            Kind::Text { bytes_max } => format!("at most {bytes_max} bytes of text"),
            Kind::Address => "HOST:PORT".to_owned(),
            Kind::OptionalAddress => "HOST:PORT, or empty for off".to_owned(),
            Kind::Paths { count_max } => format!("1 to {count_max} directories"),
        }
    }
}

const BASE: SettingSpec = SettingSpec {
    name: "",
    kind: Kind::Bool,
    unit: "",
    default: "",
    prod: None,
    perf: None,
    effect: Effect::Restart,
    doc: "",
};

const DAY_MS: i64 = 86_400_000;
const YEAR_MS: i64 = 365 * DAY_MS;
const MIB: i64 = 1 << 20;

static REGISTRY: &[SettingSpec] = &[
    SettingSpec {
        name: "admin.listen",
        kind: Kind::Address,
        default: "127.0.0.1:9640",
        doc: "Address of the admin page: metrics and health. Keep it off networks.",
        ..BASE
    },
    SettingSpec {
        name: "advertised.*",
        kind: Kind::Address,
        effect: Effect::NewConnections,
        doc: "Address that clients of the listener of this name are told to use.",
        ..BASE
    },
    SettingSpec {
        name: "auto_create_topics",
        kind: Kind::Bool,
        default: "true",
        prod: Some("false"),
        perf: Some("false"),
        effect: Effect::Live,
        doc: "Makes a topic when a client asks for one that does not exist and allows it.",
        ..BASE
    },
    SettingSpec {
        name: "commit.max_delay_us",
        kind: Kind::Duration {
            unit_us: 1,
            min: 0,
            max: 100_000,
        },
        unit: "us",
        default: "0",
        effect: Effect::Live,
        doc: "Longest that a group commit waits for more appends when few are waiting.",
        ..BASE
    },
    SettingSpec {
        name: "connection.idle_timeout_ms",
        kind: Kind::Duration {
            unit_us: 1_000,
            min: 1_000,
            max: DAY_MS,
        },
        unit: "ms",
        default: "600000",
        effect: Effect::Live,
        doc: "A connection without a request for this long is closed.",
        ..BASE
    },
    SettingSpec {
        name: "data.dirs",
        kind: Kind::Paths {
            count_max: DATA_DIRS_MAX,
        },
        default: "./tidelog-data",
        doc: "Directories for segments, checkpoints and journals; each is complete in itself.",
        ..BASE
    },
    SettingSpec {
        name: "default.partitions",
        kind: Kind::Integer {
            min: 1,
            max: PARTITIONS_PER_TOPIC_MAX as i64,
        },
        unit: "partitions",
        default: "1",
        effect: Effect::Live,
        doc: "Partitions of a topic that is made without a number.",
        ..BASE
    },
    SettingSpec {
        name: "drain_timeout_ms",
        kind: Kind::Duration {
            unit_us: 1_000,
            min: 0,
            max: 3_600_000,
        },
        unit: "ms",
        default: "30000",
        effect: Effect::Live,
        doc: "Longest that a stop waits for requests in hand; then it is cut short (exit code 1).",
        ..BASE
    },
    SettingSpec {
        name: "fetch.max_bytes",
        kind: Kind::Size {
            min: 1_024,
            max: 1 << 30,
        },
        unit: "bytes",
        default: "55MiB",
        effect: Effect::Live,
        doc: "Most record bytes in one Fetch answer, whatever the client asks for.",
        ..BASE
    },
    SettingSpec {
        name: "journal.max_bytes",
        kind: Kind::Size { min: 0, max: 1 << 40 },
        unit: "bytes",
        default: "auto",
        doc: "Most bytes of a shard's commit journal in a data directory, which makes commits of many partitions cheap, in sixteen files of at most 64MiB; auto is 1GiB, and with all shards at most a sixteenth of the file system; 0 switches it off.",
        ..BASE
    },
    SettingSpec {
        name: "listeners.*",
        kind: Kind::Address,
        default: "localhost:9092",
        doc: "Address that the listener of this name binds; localhost means IPv4 and IPv6.",
        ..BASE
    },
    SettingSpec {
        name: "log.durability",
        kind: Kind::Choice(&["fsync", "interval", "os"]),
        default: "fsync",
        doc: "What an ack means: on the device (fsync), there at most an interval later, or in the page cache (os).",
        ..BASE
    },
    SettingSpec {
        name: "log.durability.interval_ms",
        kind: Kind::Duration {
            unit_us: 1_000,
            min: 1,
            max: 60_000,
        },
        unit: "ms",
        default: "100",
        effect: Effect::Live,
        doc: "Time between syncs under log.durability = interval.",
        ..BASE
    },
    SettingSpec {
        name: "log.open_files_max",
        kind: Kind::Integer {
            min: 0,
            max: 10_000_000,
        },
        unit: "descriptors",
        default: "0",
        doc: "Log files kept open, of all shards; others are opened when they are used. 0: half of what the descriptor limit leaves.",
        ..BASE
    },
    SettingSpec {
        name: "log.retention_bytes",
        kind: Kind::Size {
            min: -1,
            max: i64::MAX,
        },
        unit: "bytes",
        default: "-1",
        effect: Effect::Live,
        doc: "Size above which a partition's oldest segments are removed; -1 means no limit.",
        ..BASE
    },
    SettingSpec {
        name: "log.retention_check_ms",
        kind: Kind::Duration {
            unit_us: 1_000,
            min: 50,
            max: YEAR_MS,
        },
        unit: "ms",
        default: "5000",
        effect: Effect::Live,
        doc: "Time between looks for segments that are too old or too many.",
        ..BASE
    },
    SettingSpec {
        name: "log.retention_ms",
        kind: Kind::Duration {
            unit_us: 1_000,
            min: -1,
            max: 100 * YEAR_MS,
        },
        unit: "ms",
        default: "604800000",
        effect: Effect::Live,
        doc: "Age above which a partition's oldest segments are removed; -1 keeps them for ever.",
        ..BASE
    },
    SettingSpec {
        name: "log.segment_bytes",
        kind: Kind::Size {
            min: MIB,
            max: i32::MAX as i64,
        },
        unit: "bytes",
        default: "1GiB",
        effect: Effect::Live,
        doc: "Size at which a segment is closed and the next one begun.",
        ..BASE
    },
    SettingSpec {
        name: "log.segment_ms",
        kind: Kind::Duration {
            unit_us: 1_000,
            min: 1_000,
            max: 100 * YEAR_MS,
        },
        unit: "ms",
        default: "604800000",
        effect: Effect::Live,
        doc: "Age at which a segment is closed and the next one begun.",
        ..BASE
    },
    SettingSpec {
        name: "memory.limit",
        kind: Kind::Size {
            min: MEMORY_BYTES_MIN as i64,
            max: i64::MAX,
        },
        unit: "bytes",
        default: "auto",
        doc: "Bound of anonymous, shared, pinned, ring and socket memory; auto is half of what the cgroup or the host has.",
        ..BASE
    },
    SettingSpec {
        name: "message.max_bytes",
        kind: Kind::Size {
            min: 1_024,
            max: 128 << 20,
        },
        unit: "bytes",
        default: "1048588",
        effect: Effect::Live,
        doc: "Largest record batch of a topic that sets no max.message.bytes.",
        ..BASE
    },
    SettingSpec {
        name: "metrics.listen",
        kind: Kind::OptionalAddress,
        default: "",
        doc: "Address of a read-only page with metrics alone, which may face a network; empty is off.",
        ..BASE
    },
    SettingSpec {
        name: "node.id",
        kind: Kind::Integer {
            min: 0,
            max: NODE_ID_MAX as i64,
        },
        default: "1",
        doc: "This broker's number in the cluster; kept in the data directory from the first start on.",
        ..BASE
    },
    SettingSpec {
        name: "profile",
        kind: Kind::Choice(&["dev", "prod", "perf"]),
        default: "dev",
        doc: "Bundle of defaults.",
        ..BASE
    },
    SettingSpec {
        name: "rack",
        kind: Kind::Text { bytes_max: 249 },
        default: "",
        doc: "Name of this broker's failure domain; empty is none.",
        ..BASE
    },
    SettingSpec {
        name: "request.max_bytes",
        kind: Kind::Size {
            min: 64 << 10,
            max: 1 << 30,
        },
        unit: "bytes",
        default: "100MiB",
        effect: Effect::NewConnections,
        doc: "Largest request; a larger one closes its connection.",
        ..BASE
    },
    SettingSpec {
        name: "runtime.pin",
        kind: Kind::Choice(&["auto", "always", "never"]),
        default: "auto",
        perf: Some("always"),
        doc: "Pins each shard to a core; auto does so when the cpuset is this process's alone.",
        ..BASE
    },
    SettingSpec {
        name: "runtime.spin_us",
        kind: Kind::Duration {
            unit_us: 1,
            min: 0,
            max: 1_000,
        },
        unit: "us",
        default: "0",
        perf: Some("50"),
        doc: "A busy shard looks for work this long before it sleeps; for shards with cores of their own.",
        ..BASE
    },
    SettingSpec {
        name: "shard.silent_ms",
        kind: Kind::Duration {
            unit_us: 1_000,
            min: 1_000,
            max: 600_000,
        },
        unit: "ms",
        default: "5000",
        doc: "A shard without a turn for this long is reported, and requests for its partitions get a retriable error.",
        ..BASE
    },
    SettingSpec {
        name: "shards",
        kind: Kind::Integer {
            min: 1,
            max: SHARDS_MAX as i64,
        },
        unit: "shards",
        default: "auto",
        doc: "Threads that own partitions and connections; auto is the usable cores. May change at any restart.",
        ..BASE
    },
    SettingSpec {
        name: "storage.allow_network",
        kind: Kind::Bool,
        default: "false",
        doc: "Starts on a network file system too, whose durability is what the other side makes of it.",
        ..BASE
    },
    SettingSpec {
        name: "storage.memory_max",
        kind: Kind::Size {
            min: MIB,
            max: i64::MAX,
        },
        unit: "bytes",
        default: "auto",
        doc: "Most bytes of records that topics with storage = memory keep, of all shards and within memory.limit; auto is a quarter of that.",
        ..BASE
    },
    SettingSpec {
        name: "storage.min_free",
        kind: Kind::Size {
            min: 0,
            max: i64::MAX,
        },
        unit: "bytes",
        default: "auto",
        doc: "Room on a data directory's file system below which Produce gets KAFKA_STORAGE_ERROR; auto is a twentieth of it, at most 1GiB.",
        ..BASE
    },
    SettingSpec {
        name: "storage.recycle_max",
        kind: Kind::Size {
            min: 0,
            max: i64::MAX,
        },
        unit: "bytes",
        default: "auto",
        doc: "What files of removed segments may take in a data directory that are kept to become segments again; auto is a twentieth of the file system, at most 4GiB; 0 keeps none.",
        ..BASE
    },
    SettingSpec {
        name: "storage.reserve",
        kind: Kind::Size { min: 0, max: 1 << 40 },
        unit: "bytes",
        default: "auto",
        doc: "Size of a file that is given up when a disk is full, for metadata, checkpoints and deletions; auto is a hundredth of the file system, at most 64MiB.",
        ..BASE
    },
];

/// Every setting, sorted by name.
pub fn registry() -> &'static [SettingSpec] {
    REGISTRY
}

/// The spec of a full key; members of a family find the family.
pub fn find(key: &str) -> Option<&'static SettingSpec> {
    REGISTRY.iter().find(|spec| match spec.name.strip_suffix('*') {
        Some(prefix) => key.strip_prefix(prefix).is_some_and(is_member_name),
        None => spec.name == key,
    })
}

/// A listener's name: 1 to 64 of letters, digits, `_` and `-`.
pub(super) fn is_member_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// The known name nearest to an unknown key.
pub fn nearest(key: &str) -> &'static str {
    let wanted = fold(key);
    REGISTRY
        .iter()
        .map(|spec| {
            let name = fold(spec.name);
            let last = |text: &str| text.rsplit('.').next().unwrap_or_default().to_owned();
            // A known last part under a wrong table is the commonest slip.
            let bonus = usize::from(last(&name) == last(&wanted)) * 6;
            (distance(&wanted, &name).saturating_sub(bonus), spec.name)
        })
        .min()
        .map_or("", |(_, name)| name)
}

fn fold(key: &str) -> String {
    key.chars()
        .take(128)
        .map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() })
        .collect()
}

/// Edit distance (insert, delete, replace each 1).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = Vec::with_capacity(row.len());
        next.push(left);
        for (cb, above) in b.iter().zip(row.iter().skip(1)) {
            let cost = (diagonal + usize::from(ca != *cb)).min(above + 1).min(left + 1);
            diagonal = *above;
            left = cost;
            next.push(cost);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_says_everything() {
        for spec in registry() {
            assert!(!spec.doc.is_empty() && spec.doc.ends_with('.'), "{}", spec.name);
            assert!(!spec.bounds().is_empty(), "{}", spec.name);
            let needs_unit = matches!(spec.kind, Kind::Duration { .. } | Kind::Size { .. });
            assert!(!needs_unit || !spec.unit.is_empty(), "{}", spec.name);
        }
        assert!(registry().is_sorted_by(|a, b| a.name < b.name));
    }

    #[test]
    fn families_and_names() {
        assert_eq!(find("listeners.INTERNAL").map(|s| s.name), Some("listeners.*"));
        assert!(find("listeners.").is_none() && find("listeners.a b").is_none());
        assert!(find("listeners").is_none() && find("log.segment").is_none());
        assert_eq!(find("shards").map(|s| s.name), Some("shards"));
    }

    #[test]
    fn the_nearest_name() {
        for (wrong, right) in [
            ("log.segment_byte", "log.segment_bytes"),
            ("log.segment-bytes", "log.segment_bytes"),
            ("memory.limits", "memory.limit"),
            ("shard", "shards"),
            ("segment_bytes", "log.segment_bytes"),
            ("broker.auto_create_topics", "auto_create_topics"),
            ("nodeid", "node.id"),
        ] {
            assert_eq!(nearest(wrong), right, "{wrong}");
        }
    }
}
