//! `key=value` in its three places: `-X`, `--config`, and client configuration files.

use std::path::Path;

use crate::failure::{Failure, USAGE};

/// Splits `key=value` at the first `=`; the key must not be empty.
pub fn parse_key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE".to_owned()),
    }
}

/// Reads a properties file as librdkafka and Java clients have them: `key=value` lines, `#` comments.
pub fn read_client_config(path: &Path) -> Result<Vec<(String, String)>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        Failure::new(
            USAGE,
            format!("cannot read --client-config {}: {e}", path.display()),
        )
    })?;
    parse_properties(&text).map_err(|line| {
        Failure::new(
            USAGE,
            format!("--client-config {}, line {line}: not key=value", path.display()),
        )
    })
}

/// The settings in `text`, or the number of the first wrong line.
fn parse_properties(text: &str) -> Result<Vec<(String, String)>, usize> {
    let mut settings = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') || line.starts_with('!') {
            continue;
        }
        let (key, value) = parse_key_value(line).map_err(|_| at + 1)?;
        settings.push((key, value.trim().to_owned()));
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_ends_at_the_first_equals_sign() {
        assert_eq!(parse_key_value("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(parse_key_value("a="), Ok(("a".into(), String::new())));
        assert!(parse_key_value("a").is_err() && parse_key_value("=b").is_err());
    }

    #[test]
    fn properties_skip_comments_and_name_the_wrong_line() {
        let settings = parse_properties("# me\n\nlinger.ms = 5\nacks=all\n");
        assert_eq!(
            settings,
            Ok(vec![
                ("linger.ms".into(), "5".into()),
                ("acks".into(), "all".into())
            ])
        );
        assert_eq!(parse_properties("acks=1\noops\n"), Err(2));
    }
}
