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
use super::listener::{HostPort, split_named};
use super::parse::format_size;
use super::registry::{DEFAULT_LISTENER, find, nearest, registry};
use super::values::Values;
use super::{Profile, Settings, Source};
use crate::limits::{CONFIG_DEPTH_MAX, CONFIG_FILE_BYTES_MAX};

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
pub(super) struct Entry {
    pub(super) text: String,
    pub(super) source: Source,
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
            let source = Source::Flag("--data-dir");
            let mut text: Vec<&str> = Vec::with_capacity(dirs.len());
            for dir in dirs {
                // Anything else could not be written to a file or shown, and would name another directory.
                match dir.to_str().filter(|path| !path.contains('\n')) {
                    Some(path) => text.push(path),
                    None => {
                        let reason = "must be UTF-8 without line breaks".to_owned();
                        return Err(invalid("data.dirs", &dir.to_string_lossy(), reason, &source));
                    }
                }
            }
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

pub(super) fn invalid(key: &str, value: &str, reason: String, source: &Source) -> SettingsError {
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

#[cfg(test)]
#[path = "build_tests.rs"]
mod tests;
