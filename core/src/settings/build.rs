//! Lays the sources over each other, checks every value, and makes the snapshot.
//!
//! Pure but for [`SettingsBuilder::file`]. Control thread. Invariant: `build` succeeds with a whole
//! snapshot or says in one sentence which key, value, bound and source are at odds.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::host::HostFacts;
use super::listener::{HostPort, ListenerSettings, split_named};
use super::parse::{format_size, parse_bool, parse_duration, parse_size};
use super::registry::{DEFAULT_LISTENER, Kind, SettingSpec, find, nearest, registry};
use super::{LogDurability, Origin, Profile, RuntimePin, Settings, Source};
use crate::limits::{CONFIG_DEPTH_MAX, CONFIG_FILE_BYTES_MAX, LISTENERS_MAX, MEMORY_PER_SHARD_BYTES_MIN};

/// Why there is no snapshot. All of them are usage or configuration: exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// No such key: use the one named.
    #[error("unknown setting {key:?} ({from}); the nearest known one is {nearest:?}", from = .source_of)]
    Unknown {
        /// As written.
        key: String,
        /// The nearest in the registry.
        nearest: &'static str,
        /// Where it stands.
        source_of: Source,
    },
    /// The text is not of the key's type, or outside its bounds.
    #[error("{key} = {value:?} ({from}): {reason}", from = .source_of)]
    Invalid {
        /// The key.
        key: String,
        /// As written.
        value: String,
        /// What is wrong, with the bounds.
        reason: String,
        /// Where it stands.
        source_of: Source,
    },
    /// `--set` without `=`.
    #[error("--set {0:?} has no value; write --set KEY=VALUE")]
    SetWithoutValue(String),
    /// The file is not TOML.
    #[error("{path}:{line}: {message}", path = .path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// Line, from 1 on.
        line: usize,
        /// The parser's words.
        message: String,
    },
    /// The file cannot be read.
    #[error("configuration file {path} cannot be read: {source}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Clients cannot be sent to a wildcard.
    #[error(
        "listener {name} binds every address ({bind}), so clients must be told one: add --advertise {name}=HOST:{port} \
         (in a file: advertised.{name} = \"HOST:{port}\") with a host name that clients reach",
        port = .bind.port
    )]
    WildcardWithoutAdvertise {
        /// The listener.
        name: String,
        /// What it binds.
        bind: HostPort,
    },
    /// Two settings that do not go together.
    #[error("{0}")]
    Conflict(String),
}

impl SettingsError {
    /// The process's exit code for this error.
    pub const fn exit_code(&self) -> i32 {
        2
    }
}

#[derive(Debug, Clone)]
struct Entry {
    text: String,
    source: Source,
}

/// Collects the layers. Call in any order; the order of layers is fixed.
#[derive(Debug, Clone)]
pub struct SettingsBuilder {
    host: HostFacts,
    file: BTreeMap<String, Entry>,
    set: BTreeMap<String, Entry>,
    flags: BTreeMap<String, Entry>,
    flag_listeners: bool,
}

impl SettingsBuilder {
    /// Nothing but defaults.
    pub fn new(host: HostFacts) -> Self {
        SettingsBuilder {
            host,
            file: BTreeMap::new(),
            set: BTreeMap::new(),
            flags: BTreeMap::new(),
            flag_listeners: false,
        }
    }

    /// `--config FILE`.
    pub fn file(self, path: &Path) -> Result<Self, SettingsError> {
        let failed = |source| SettingsError::File {
            path: path.to_owned(),
            source,
        };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(CONFIG_FILE_BYTES_MAX + 1)
            .read_to_string(&mut text)
            .map_err(failed)?;
        if text.len() as u64 > CONFIG_FILE_BYTES_MAX {
            return Err(SettingsError::Conflict(format!(
                "configuration file {} is larger than {}",
                path.display(),
                format_size(CONFIG_FILE_BYTES_MAX)
            )));
        }
        self.toml(path, &text)
    }

    /// The text of a configuration file; nested tables and dotted or quoted keys mean the same.
    pub fn toml(mut self, path: &Path, text: &str) -> Result<Self, SettingsError> {
        let failed = |at: usize, message: &str| SettingsError::Toml {
            path: path.to_owned(),
            line: line_of(text, at),
            message: message.lines().next().unwrap_or_default().to_owned(),
        };
        let table = DeTable::parse(text)
            .map_err(|error| failed(error.span().map_or(0, |span| span.start), error.message()))?;
        let mut leaves = Vec::new();
        flatten(table.get_ref(), "", 1, &mut leaves).map_err(|(at, message)| failed(at, message))?;
        for (key, at, value) in leaves {
            let source = Source::File {
                path: path.to_owned(),
                line: line_of(text, at),
            };
            // `[log.durability] mode = ..` stands beside its `interval_ms`, which plain TOML could not say.
            let key = if key == "log.durability.mode" {
                "log.durability".to_owned()
            } else {
                key
            };
            check_known(&key, &source)?;
            let text = leaf_text(&key, value, &source)?;
            if let Some(before) = self.file.insert(
                key.clone(),
                Entry {
                    text,
                    source: source.clone(),
                },
            ) {
                return Err(SettingsError::Conflict(format!(
                    "{key} is set twice: {}, {source}",
                    before.source
                )));
            }
        }
        Ok(self)
    }

    /// One `--set KEY=VALUE`; the last of a key wins.
    pub fn set(mut self, key_value: &str) -> Result<Self, SettingsError> {
        let (key, value) = key_value
            .split_once('=')
            .ok_or_else(|| SettingsError::SetWithoutValue(key_value.to_owned()))?;
        let key = key.trim();
        check_known(key, &Source::Set)?;
        self.set.insert(
            key.to_owned(),
            Entry {
                text: value.trim().to_owned(),
                source: Source::Set,
            },
        );
        Ok(self)
    }

    /// A flag that stands for one key, e.g. `flag("--memory", "memory.limit", "1GiB")`.
    pub fn flag(mut self, flag: &'static str, key: &str, value: &str) -> Result<Self, SettingsError> {
        let source = Source::Flag(flag);
        check_known(key, &source)?;
        self.flags.insert(
            key.to_owned(),
            Entry {
                text: value.to_owned(),
                source,
            },
        );
        Ok(self)
    }

    /// `--profile`.
    pub fn profile(self, profile: Profile) -> Self {
        let mut this = self;
        let source = Source::Flag("--profile");
        this.flags.insert(
            "profile".to_owned(),
            Entry {
                text: profile.to_string(),
                source,
            },
        );
        this
    }

    /// All `--data-dir` flags; none changes nothing.
    pub fn data_dirs(mut self, dirs: &[PathBuf]) -> Result<Self, SettingsError> {
        if !dirs.is_empty() {
            let text: Vec<String> = dirs.iter().map(|d| d.to_string_lossy().into_owned()).collect();
            let source = Source::Flag("--data-dir");
            self.flags.insert(
                "data.dirs".to_owned(),
                Entry {
                    text: text.join("\n"),
                    source,
                },
            );
        }
        Ok(self)
    }

    /// One `--listen [NAME=]HOST:PORT`. Listeners on the command line replace those of the file.
    pub fn listen(self, text: &str) -> Result<Self, SettingsError> {
        let mut this = self.named("--listen", "listeners", text)?;
        this.flag_listeners = true;
        Ok(this)
    }

    /// One `--advertise [NAME=]HOST:PORT`.
    pub fn advertise(self, text: &str) -> Result<Self, SettingsError> {
        self.named("--advertise", "advertised", text)
    }

    fn named(mut self, flag: &'static str, family: &str, text: &str) -> Result<Self, SettingsError> {
        let source = Source::Flag(flag);
        let (name, address) =
            split_named(text).map_err(|error| invalid(family, text, error.to_string(), &source))?;
        let entry = Entry {
            text: address.to_string(),
            source,
        };
        if self.flags.insert(format!("{family}.{name}"), entry).is_some() {
            return Err(SettingsError::Conflict(format!(
                "{flag} names {name} twice; give each a name of its own: {flag} NAME=HOST:PORT"
            )));
        }
        Ok(self)
    }

    /// Checks everything and makes the snapshot.
    pub fn build(self) -> Result<Settings, SettingsError> {
        let mut written = self.file;
        if self.flag_listeners {
            // The command line's listeners replace the file's, and what the file advertised for them.
            let kept = |key: &String| !key.starts_with("listeners.") && !key.starts_with("advertised.");
            written.retain(|key, _| kept(key));
        }
        written.extend(self.set);
        written.extend(self.flags);
        let profile = match written.get("profile") {
            None => Profile::Dev,
            Some(entry) => Profile::parse(&entry.text).ok_or_else(|| {
                invalid(
                    "profile",
                    &entry.text,
                    "must be dev, prod or perf".to_owned(),
                    &entry.source,
                )
            })?,
        };
        let mut merged = defaults(profile);
        let has_listener = written.keys().any(|key| key.starts_with("listeners."));
        if !has_listener && let Some(spec) = find("listeners.x") {
            let entry = Entry {
                text: spec.default.to_owned(),
                source: Source::Default,
            };
            merged.insert(format!("listeners.{DEFAULT_LISTENER}"), entry);
        }
        merged.extend(written);
        let mut values = Values {
            merged,
            origins: BTreeMap::new(),
            host: self.host,
        };
        values.check_all()?;
        values.snapshot(profile)
    }
}

fn defaults(profile: Profile) -> BTreeMap<String, Entry> {
    let single = registry().iter().filter(|spec| !spec.name.ends_with('*'));
    single
        .map(|spec| {
            let special = match profile {
                Profile::Dev => None,
                Profile::Prod => spec.prod,
                Profile::Perf => spec.perf,
            };
            let (text, source) = match special {
                Some(text) => (text, Source::Profile(profile)),
                None => (spec.default, Source::Default),
            };
            (
                spec.name.to_owned(),
                Entry {
                    text: text.to_owned(),
                    source,
                },
            )
        })
        .collect()
}

fn check_known(key: &str, source: &Source) -> Result<(), SettingsError> {
    match find(key) {
        Some(_) => Ok(()),
        None => Err(SettingsError::Unknown {
            key: key.to_owned(),
            nearest: nearest(key),
            source_of: source.clone(),
        }),
    }
}

fn invalid(key: &str, value: &str, reason: String, source: &Source) -> SettingsError {
    SettingsError::Invalid {
        key: key.to_owned(),
        value: value.to_owned(),
        reason,
        source_of: source.clone(),
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|b| *b == b'\n').count() + 1
}

type Leaf<'a, 'i> = (String, usize, &'a DeValue<'i>);

fn flatten<'a, 'i>(
    table: &'a DeTable<'i>,
    prefix: &str,
    depth: usize,
    leaves: &mut Vec<Leaf<'a, 'i>>,
) -> Result<(), (usize, &'static str)> {
    for (key, value) in table.iter() {
        let at = key.span().start;
        let name = if prefix.is_empty() {
            key.get_ref().to_string()
        } else {
            format!("{prefix}.{}", key.get_ref())
        };
        match value.get_ref() {
            DeValue::Table(_) if depth >= CONFIG_DEPTH_MAX => {
                return Err((at, "tables are nested too deeply"));
            }
            DeValue::Table(inner) => flatten(inner, &name, depth + 1, leaves)?,
            leaf => leaves.push((name, at, leaf)),
        }
    }
    Ok(())
}

fn leaf_text(key: &str, value: &DeValue<'_>, source: &Source) -> Result<String, SettingsError> {
    let scalar = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
        DeValue::Boolean(on) => Some(on.to_string()),
        _ => None,
    };
    let text = match value {
        DeValue::Array(items) => {
            let items: Option<Vec<String>> = items
                .iter()
                .map(|item: &Spanned<DeValue<'_>>| scalar(item.get_ref()))
                .collect();
            items.map(|items| items.join("\n"))
        }
        value => scalar(value),
    };
    text.ok_or_else(|| {
        let reason = "must be text, a decimal number, true or false, or a list of text".to_owned();
        invalid(key, "(this value)", reason, source)
    })
}

/// All values as text, each checked before the snapshot is read off.
struct Values {
    merged: BTreeMap<String, Entry>,
    origins: BTreeMap<String, Origin>,
    host: HostFacts,
}

impl Values {
    fn check_all(&mut self) -> Result<(), SettingsError> {
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

    fn snapshot(self, profile: Profile) -> Result<Settings, SettingsError> {
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
            log_durability,
            log_durability_interval_ms: self.number("log.durability.interval_ms")?,
            log_segment_bytes: self.number("log.segment_bytes")?,
            log_segment_ms: self.number("log.segment_ms")?,
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
            node_id: self.number("node.id")?,
            rack,
            drain_timeout_ms: self.number("drain_timeout_ms")?,
            origins: self.origins,
        })
    }
}

/// Checks a text against its spec and writes it the one way that is compared and shown.
fn canonical(spec: &SettingSpec, text: &str, host: &HostFacts) -> Result<String, String> {
    if text == "auto" && spec.allows_auto() {
        return Ok(match spec.name {
            "shards" => host.default_shards().to_string(),
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

#[cfg(test)]
#[path = "build_tests.rs"]
mod tests;
