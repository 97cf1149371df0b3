//! Values as text: each checked against the registry, then read off into the snapshot.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::build::{Entry, SettingsError, invalid};
use super::host::HostFacts;
use super::listener::{HostPort, ListenerSettings};
use super::parse::{format_size, parse_bool, parse_duration, parse_size};
use super::registry::{Kind, SettingSpec, find};
use super::{LogDurability, Origin, Profile, RuntimePin, Settings};
use crate::limits::JOURNAL_BYTES_MIN;
use crate::limits::{
    LISTENERS_MAX, MEMORY_PER_SHARD_BYTES_MIN, MEMORY_STORAGE_PART, MEMORY_STORAGE_PART_MAX,
};

/// All values as text, each checked before the snapshot is read off.
pub(super) struct Values {
    pub(super) merged: BTreeMap<String, Entry>,
    pub(super) origins: BTreeMap<String, Origin>,
    pub(super) host: HostFacts,
}

impl Values {
    pub(super) fn check_all(&mut self) -> Result<(), SettingsError> {
        for (key, entry) in &self.merged {
            let Some(spec) = find(key) else { continue };
            let value = canonical(spec, entry.text.trim(), &self.host)
                .map_err(|reason| invalid(key, &entry.text, reason, &entry.source))?;
            self.origins.insert(
                key.clone(),
                Origin {
                    value,
                    source: entry.source.clone(),
                },
            );
        }
        Ok(())
    }

    fn text(&self, key: &str) -> &str {
        self.origins.get(key).map_or("", |origin| origin.value.as_str())
    }

    /// A checked number in the type of its field.
    fn number<T: TryFrom<i64>>(&self, key: &str) -> Result<T, SettingsError> {
        let number = self
            .text(key)
            .parse::<i64>()
            .ok()
            .and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| SettingsError::Conflict(format!("{key} does not fit its type")))
    }

    /// As [`Values::number`]; `None` is `auto`.
    fn number_or_auto<T: TryFrom<i64>>(&self, key: &str) -> Result<Option<T>, SettingsError> {
        match self.text(key) {
            "auto" => Ok(None),
            _ => self.number(key).map(Some),
        }
    }

    fn address(&self, key: &str) -> Result<HostPort, SettingsError> {
        HostPort::parse(self.text(key)).map_err(|error| SettingsError::Conflict(format!("{key}: {error}")))
    }

    fn listeners(&self) -> Result<Vec<ListenerSettings>, SettingsError> {
        let family = |prefix: &'static str| {
            self.origins
                .keys()
                .filter_map(move |key| key.strip_prefix(prefix).map(|name| (key, name)))
        };
        for (key, name) in family("advertised.") {
            if !self.origins.contains_key(&format!("listeners.{name}")) {
                return Err(SettingsError::Conflict(format!(
                    "{key} has no listener of that name; add --listen {name}=HOST:PORT"
                )));
            }
            if self.address(key)?.is_wildcard() {
                return Err(SettingsError::Conflict(format!(
                    "{key} = {:?} is a wildcard, which no client can reach; name a host",
                    self.text(key)
                )));
            }
        }
        let mut listeners: Vec<ListenerSettings> = Vec::new();
        for (key, name) in family("listeners.") {
            let bind = self.address(key)?;
            let advertised = match self.origins.contains_key(&format!("advertised.{name}")) {
                true => self.address(&format!("advertised.{name}"))?,
                false if bind.is_wildcard() => {
                    return Err(SettingsError::WildcardWithoutAdvertise {
                        name: name.to_owned(),
                        bind,
                    });
                }
                false => bind.clone(),
            };
            if let Some(same) = listeners.iter().find(|l| l.bind == bind && bind.port != 0) {
                return Err(SettingsError::Conflict(format!(
                    "listeners {} and {name} both bind {bind}; give one another port",
                    same.name
                )));
            }
            listeners.push(ListenerSettings {
                name: name.to_owned(),
                bind,
                advertised,
            });
        }
        if listeners.len() > LISTENERS_MAX {
            return Err(SettingsError::Conflict(format!(
                "more than {LISTENERS_MAX} listeners"
            )));
        }
        Ok(listeners)
    }

    pub(super) fn snapshot(self, profile: Profile) -> Result<Settings, SettingsError> {
        let shards: u16 = self.number("shards")?;
        let memory_limit_bytes: u64 = self.number("memory.limit")?;
        let needed = u64::from(shards) * MEMORY_PER_SHARD_BYTES_MIN;
        if memory_limit_bytes < needed {
            return Err(SettingsError::Conflict(format!(
                "memory.limit {} is too small for {shards} shards, which need {}; raise --memory or lower --shards",
                format_size(memory_limit_bytes),
                format_size(needed)
            )));
        }
        let (message, request): (u32, u32) = (
            self.number("message.max_bytes")?,
            self.number("request.max_bytes")?,
        );
        if message > request {
            return Err(SettingsError::Conflict(format!(
                "message.max_bytes {message} is above request.max_bytes {request}, so no request could carry it"
            )));
        }
        let journal_max_bytes: Option<u64> = self.number_or_auto("journal.max_bytes")?;
        if let Some(bytes @ 1..JOURNAL_BYTES_MIN) = journal_max_bytes {
            return Err(SettingsError::Conflict(format!(
                "journal.max_bytes {bytes} is too small for sixteen files; give at least {JOURNAL_BYTES_MIN}, or 0 for none"
            )));
        }
        let most = memory_limit_bytes / MEMORY_STORAGE_PART_MAX;
        let storage_memory_max_bytes = self
            .number_or_auto("storage.memory_max")?
            .unwrap_or(memory_limit_bytes / MEMORY_STORAGE_PART);
        if storage_memory_max_bytes > most {
            return Err(SettingsError::Conflict(format!(
                "storage.memory_max {} is more than half of memory.limit, which frames and answers need; lower it to {} or raise --memory",
                format_size(storage_memory_max_bytes),
                format_size(most)
            )));
        }
        let log_durability = match self.text("log.durability") {
            "interval" => LogDurability::Interval,
            "os" => LogDurability::Os,
            _ => LogDurability::Fsync,
        };
        let runtime_pin = match self.text("runtime.pin") {
            "always" => RuntimePin::Always,
            "never" => RuntimePin::Never,
            _ => RuntimePin::Auto,
        };
        let metrics_listen = match self.text("metrics.listen") {
            "" => None,
            _ => Some(self.address("metrics.listen")?),
        };
        let rack = Some(self.text("rack").to_owned()).filter(|rack| !rack.is_empty());
        Ok(Settings {
            profile,
            listeners: self.listeners()?,
            admin_listen: self.address("admin.listen")?,
            metrics_listen,
            data_dirs: self.text("data.dirs").split('\n').map(PathBuf::from).collect(),
            shards,
            memory_limit_bytes,
            journal_max_bytes,
            log_durability,
            log_durability_interval_ms: self.number("log.durability.interval_ms")?,
            log_open_files_max: self.number("log.open_files_max")?,
            log_segment_bytes: self.number("log.segment_bytes")?,
            log_segment_ms: self.number("log.segment_ms")?,
            log_retention_check_ms: self.number("log.retention_check_ms")?,
            log_retention_ms: self.number("log.retention_ms")?,
            log_retention_bytes: self.number("log.retention_bytes")?,
            auto_create_topics: self.text("auto_create_topics") == "true",
            default_partitions: self.number("default.partitions")?,
            message_max_bytes: message,
            request_max_bytes: request,
            fetch_max_bytes: self.number("fetch.max_bytes")?,
            connection_idle_timeout_ms: self.number("connection.idle_timeout_ms")?,
            commit_max_delay_us: self.number("commit.max_delay_us")?,
            runtime_pin,
            runtime_spin_us: self.number("runtime.spin_us")?,
            node_id: self.number("node.id")?,
            rack,
            drain_timeout_ms: self.number("drain_timeout_ms")?,
            shard_silent_ms: self.number("shard.silent_ms")?,
            storage_allow_network: self.text("storage.allow_network") == "true",
            storage_memory_max_bytes,
            storage_min_free_bytes: self.number_or_auto("storage.min_free")?,
            storage_recycle_max_bytes: self.number_or_auto("storage.recycle_max")?,
            storage_reserve_bytes: self.number_or_auto("storage.reserve")?,
            origins: self.origins,
        })
    }
}

/// Checks a text against its spec and writes it the one way that is compared and shown.
fn canonical(spec: &SettingSpec, text: &str, host: &HostFacts) -> Result<String, String> {
    if text == "auto" && spec.allows_auto() {
        return Ok(match spec.name {
            "shards" => host.default_shards().to_string(),
            // Each directory's file system has its own.
            "journal.max_bytes" | "storage.min_free" | "storage.recycle_max" | "storage.reserve" => {
                "auto".to_owned()
            }
            // A part of another setting.
            "storage.memory_max" => "auto".to_owned(),
            _ => host.default_memory_bytes().to_string(),
        });
    }
    let bounded = |number: Result<i64, String>, min: i64, max: i64| match number {
        Ok(number) if (min..=max).contains(&number) => Ok(number.to_string()),
        Ok(_) => Err(format!("must be {}", spec.bounds())),
        Err(reason) => Err(reason),
    };
    let signed = |number: Result<u64, String>| {
        number.and_then(|n| i64::try_from(n).map_err(|_| format!("must be {}", spec.bounds())))
    };
    match spec.kind {
        Kind::Bool => parse_bool(text).map(|on| on.to_string()),
        Kind::Integer { min, max } => bounded(
            text.parse()
                .map_err(|_| format!("must be a whole number, {}", spec.bounds())),
            min,
            max,
        ),
        Kind::Size { min, .. } | Kind::Duration { min, .. } if min < 0 && text == "-1" => Ok("-1".to_owned()),
        Kind::Size { min, max } => bounded(signed(parse_size(text)), min, max),
        Kind::Duration { unit_us, min, max } => bounded(signed(parse_duration(text, unit_us)), min, max),
        Kind::Choice(words) if words.contains(&text) => Ok(text.to_owned()),
        Kind::Choice(_) => Err(format!("must be one of {}", spec.bounds())),
        Kind::Text { bytes_max } if text.len() <= bytes_max => Ok(text.to_owned()),
        Kind::Text { .. } => Err(format!("must be {}", spec.bounds())),
        Kind::OptionalAddress if text.is_empty() => Ok(String::new()),
        Kind::Address | Kind::OptionalAddress => HostPort::parse(text)
            .map(|address| address.to_string())
            .map_err(|error| error.to_string()),
        Kind::Paths { count_max } => {
            let paths: Vec<&str> = text.split('\n').map(str::trim).collect();
            let unique: std::collections::BTreeSet<&&str> = paths.iter().collect();
            if paths.len() > count_max || paths.iter().any(|p| p.is_empty()) {
                return Err(format!("must be {}", spec.bounds()));
            }
            if unique.len() != paths.len() {
                return Err("names a directory twice".to_owned());
            }
            Ok(paths.join("\n"))
        }
    }
}
