//! Settings: one typed registry, layered sources, one immutable snapshot.
//!
//! Built on the control thread; the snapshot is shared by `Arc` and replaced whole at a configuration
//! epoch, so a component reads its shard's current one and never keeps a copy. Invariants: every key in a
//! snapshot is in the registry and within its bounds; an unknown key is an error, never ignored.
//!
//! Layers, later ones win: default, profile, `--config FILE`, `--set KEY=VALUE`, flags.
#![forbid(unsafe_code)]

mod build;
mod host;
mod listener;
mod parse;
mod registry;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

pub use build::{SettingsBuilder, SettingsError};
pub(crate) use host::group_path;
#[cfg(test)]
pub(crate) use host::tree as host_tree;
pub use host::{HostFacts, cpu_count_from_quota, parse_meminfo_total_bytes};
pub use listener::{HostPort, HostPortError, ListenerSettings, split_named};
pub use parse::{format_size, parse_bool, parse_duration, parse_size};
pub use registry::{DEFAULT_LISTENER, Effect, Kind, SettingSpec, find, nearest, registry};

/// A bundle of defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// Zero configuration: topics appear when they are used.
    Dev,
    /// Topics are made on purpose only.
    Prod,
    /// As prod, and shards are pinned to their cores.
    Perf,
}

impl Profile {
    /// Parses `dev`, `prod` or `perf`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "dev" => Some(Profile::Dev),
            "prod" => Some(Profile::Prod),
            "perf" => Some(Profile::Perf),
            _ => None,
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Profile::Dev => "dev",
            Profile::Prod => "prod",
            Profile::Perf => "perf",
        })
    }
}

/// When an acknowledged record is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogDurability {
    /// On the device before it is acknowledged.
    Fsync,
    /// In the page cache when acknowledged, on the device at most an interval later.
    Interval,
    /// In the page cache; the kernel decides when it reaches the device.
    Os,
}

impl fmt::Display for LogDurability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LogDurability::Fsync => "fsync",
            LogDurability::Interval => "interval",
            LogDurability::Os => "os",
        })
    }
}

/// Whether shards are pinned to cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RuntimePin {
    /// When the cpuset is exclusive.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The registry, or computed from the host.
    Default,
    /// The profile.
    Profile(Profile),
    /// The configuration file, with the line.
    File {
        /// Path as given.
        path: PathBuf,
        /// Line, from 1 on.
        line: usize,
    },
    /// `--set`.
    Set,
    /// A flag, by its name.
    Flag(&'static str),
}

impl Source {
    /// False for what nobody wrote down.
    pub fn is_configured(&self) -> bool {
        !matches!(self, Source::Default | Source::Profile(_))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::Profile(profile) => write!(f, "profile {profile}"),
            Source::File { path, line } => write!(f, "{}:{line}", path.display()),
            Source::Set => f.write_str("--set"),
            Source::Flag(flag) => f.write_str(flag),
        }
    }
}

/// One value as text, and its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The value in canonical text (numbers in the setting's unit).
    pub value: String,
    /// Where it came from.
    pub source: Source,
}

/// The snapshot. Each field's meaning, bounds and unit are in [`registry()`] under the name in its doc line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `profile`
    pub profile: Profile,
    /// `listeners.*` and `advertised.*`, by name.
    pub listeners: Vec<ListenerSettings>,
    /// `admin.listen`
    pub admin_listen: HostPort,
    /// `metrics.listen`; `None` when off.
    pub metrics_listen: Option<HostPort>,
    /// `data.dirs`
    pub data_dirs: Vec<PathBuf>,
    /// `shards`
    pub shards: u16,
    /// `memory.limit`
    pub memory_limit_bytes: u64,
    /// `journal.max_bytes`; `None` is auto, 0 is off.
    pub journal_max_bytes: Option<u64>,
    /// `log.durability`
    pub log_durability: LogDurability,
    /// `log.durability.interval_ms`
    pub log_durability_interval_ms: u64,
    /// `log.open_files_max`; 0 is half of what the descriptor limit leaves.
    pub log_open_files_max: u64,
    /// `log.segment_bytes`
    pub log_segment_bytes: u64,
    /// `log.segment_ms`
    pub log_segment_ms: u64,
    /// `log.retention_check_ms`
    pub log_retention_check_ms: u64,
    /// `log.retention_ms`; -1 keeps for ever.
    pub log_retention_ms: i64,
    /// `log.retention_bytes`; -1 means no limit.
    pub log_retention_bytes: i64,
    /// `auto_create_topics`
    pub auto_create_topics: bool,
    /// `default.partitions`
    pub default_partitions: i32,
    /// `message.max_bytes`
    pub message_max_bytes: u32,
    /// `request.max_bytes`
    pub request_max_bytes: u32,
    /// `fetch.max_bytes`
    pub fetch_max_bytes: u32,
    /// `connection.idle_timeout_ms`
    pub connection_idle_timeout_ms: u64,
    /// `commit.max_delay_us`
    pub commit_max_delay_us: u64,
    /// `runtime.pin`
    pub runtime_pin: RuntimePin,
    /// `runtime.spin_us`
    pub runtime_spin_us: u64,
    /// `node.id`
    pub node_id: i32,
    /// `rack`; `None` when empty.
    pub rack: Option<String>,
    /// `drain_timeout_ms`
    pub drain_timeout_ms: u64,
    /// `shard.silent_ms`
    pub shard_silent_ms: u64,
    /// `storage.allow_network`
    pub storage_allow_network: bool,
    /// `storage.memory_max`
    pub storage_memory_max_bytes: u64,
    /// `storage.min_free`; `None` is auto.
    pub storage_min_free_bytes: Option<u64>,
    /// `storage.recycle_max`; `None` is auto, 0 keeps nothing.
    pub storage_recycle_max_bytes: Option<u64>,
    /// `storage.reserve`; `None` is auto.
    pub storage_reserve_bytes: Option<u64>,
    /// Every key with its text and source.
    pub origins: BTreeMap<String, Origin>,
}

/// One difference between two snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub name: String,
    /// Text before, `None` when it was not there.
    pub before: Option<String>,
    /// Text after, `None` when it is gone.
    pub after: Option<String>,
    /// When it takes effect.
    pub effect: Effect,
}

impl Settings {
    /// The listener of that name.
    pub fn listener(&self, name: &str) -> Option<&ListenerSettings> {
        self.listeners.iter().find(|l| l.name == name)
    }

    /// What differs in `next`, by name.
    pub fn changes(&self, next: &Settings) -> Vec<Change> {
        let names: std::collections::BTreeSet<&String> =
            self.origins.keys().chain(next.origins.keys()).collect();
        let value = |of: &Settings, name: &String| of.origins.get(name).map(|o| o.value.clone());
        names
            .into_iter()
            .filter_map(|name| {
                let (before, after) = (value(self, name), value(next, name));
                let effect = find(name).map_or(Effect::Restart, |spec| spec.effect);
                (before != after).then(|| Change {
                    name: name.clone(),
                    before,
                    after,
                    effect,
                })
            })
            .collect()
    }
}
