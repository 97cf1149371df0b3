//! Credentials: where they come from (`file:`, `env:` or the text itself), and never where they go.
//!
//! Any thread may hold one. Invariant: neither `Debug` nor `Display` ever shows the value, so a secret can
//! stand in a settings snapshot, a log line or an error without leaking.
#![forbid(unsafe_code)]

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::limits::SECRET_BYTES_MAX;

/// What is printed instead of a secret.
pub const REDACTED: &str = "[redacted]";

/// A value that is shown as `[redacted]` everywhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Wraps a value.
    pub fn new(value: T) -> Self {
        Secret(value)
    }

    /// The value itself. The name is long on purpose: each use is worth a look in review.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl<T> fmt::Display for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// Why a secret could not be had. Each stops start-up: a missing secret never means "no security".
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read: fix path or permissions.
    #[error("secret file {path} cannot be read: {source}")]
    File {
        /// The path that was named.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file holds more than a secret can be.
    #[error("secret file {path} is larger than {SECRET_BYTES_MAX} bytes")]
    TooLarge {
        /// The path that was named.
        path: PathBuf,
    },
    /// The variable is not set (or is not UTF-8): set it.
    #[error("environment variable {name}, named by a secret, is not set to UTF-8 text")]
    Env {
        /// The variable.
        name: String,
    },
    /// The value is empty: give one.
    #[error("secret from {origin} is empty")]
    Empty {
        /// `file:PATH`, `env:NAME` or `the setting itself`.
        origin: String,
    },
}

impl Secret<String> {
    /// Resolves `file:PATH` (one trailing newline dropped), `env:NAME`, or the text itself.
    pub fn resolve(text: &str) -> Result<Self, SecretError> {
        Self::resolve_with(text, |name| std::env::var(name).ok())
    }

    /// [`Secret::resolve`] with the environment as an argument.
    pub fn resolve_with(text: &str, env: impl Fn(&str) -> Option<String>) -> Result<Self, SecretError> {
        let (value, origin) = if let Some(path) = text.strip_prefix("file:") {
            (read_file(Path::new(path))?, text.to_owned())
        } else if let Some(name) = text.strip_prefix("env:") {
            (
                env(name).ok_or_else(|| SecretError::Env {
                    name: name.to_owned(),
                })?,
                text.to_owned(),
            )
        } else {
            (text.to_owned(), "the setting itself".to_owned())
        };
        if value.is_empty() {
            return Err(SecretError::Empty { origin });
        }
        Ok(Secret(value))
    }
}

fn read_file(path: &Path) -> Result<String, SecretError> {
    let failed = |source| SecretError::File {
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(SECRET_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if text.len() as u64 > SECRET_BYTES_MAX {
        return Err(SecretError::TooLarge {
            path: path.to_owned(),
        });
    }
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_redacted_everywhere() {
        let secret = Secret::new("hunter2".to_owned());
        assert_eq!(
            format!("{secret} {secret:?} {:?}", Some(&secret)),
            "[redacted] [redacted] Some([redacted])"
        );
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn resolves_each_origin() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, "from-file\n").unwrap();
        let named = format!("file:{}", path.display());
        assert_eq!(Secret::resolve(&named).unwrap().expose(), "from-file");
        let env = |name: &str| (name == "PW").then(|| "from-env".to_owned());
        assert_eq!(Secret::resolve_with("env:PW", env).unwrap().expose(), "from-env");
        assert_eq!(Secret::resolve_with("plain", env).unwrap().expose(), "plain");
    }

    #[test]
    fn a_missing_secret_is_an_error_not_an_empty_one() {
        let none = |_: &str| None;
        assert!(matches!(
            Secret::resolve_with("env:NOPE", none),
            Err(SecretError::Env { .. })
        ));
        assert!(matches!(
            Secret::resolve("file:/nonexistent/secret"),
            Err(SecretError::File { .. })
        ));
        assert!(matches!(Secret::resolve(""), Err(SecretError::Empty { .. })));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("big");
        std::fs::write(&path, "x".repeat(SECRET_BYTES_MAX as usize + 1)).unwrap();
        assert!(matches!(
            Secret::resolve(&format!("file:{}", path.display())),
            Err(SecretError::TooLarge { .. })
        ));
    }
}
