//! Data on stdout: tables for people, JSON for programs.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{HumanCount, ProgressBar, ProgressState, ProgressStyle};
use serde_json::Value;

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// One JSON object a line.
    Jsonl,
}

/// Prints `rows`, each with one cell for each of `columns`.
pub fn print_rows(format: OutputFormat, columns: &[&str], rows: &[Vec<Value>]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match format {
        OutputFormat::Table => writeln!(out, "{}", table(columns, rows))?,
        OutputFormat::Json => {
            let objects: Vec<Value> = rows.iter().map(|row| object(columns, row)).collect();
            writeln!(out, "{}", pretty(&Value::Array(objects)))?;
        }
        OutputFormat::Jsonl => {
            for row in rows {
                writeln!(out, "{}", object(columns, row))?;
            }
        }
    }
    out.flush()
}

/// Prints one JSON document.
pub fn print_document(format: OutputFormat, document: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match format {
        OutputFormat::Jsonl => writeln!(out, "{document}")?,
        _ => writeln!(out, "{}", pretty(document))?,
    }
    out.flush()
}

/// Prints lines of text.
pub fn print_text(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// A table without frames, as wide as the terminal allows.
pub fn table(columns: &[&str], rows: &[Vec<Value>]) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(|name| name.replace('_', " ").to_uppercase()));
    for row in rows {
        table.add_row(row.iter().map(cell));
    }
    let text = table.to_string();
    let lines: Vec<&str> = text
        .lines()
        .map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end())
        .collect();
    lines.join("\n")
}

/// A progress line on stderr, shown only on a terminal.
pub fn progress(is_wanted: bool) -> ProgressBar {
    if !is_wanted || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) =
        ProgressStyle::with_template("{spinner} {human_pos} records ({rate}/s, {elapsed}) {msg}")
    {
        let rate = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            // A failure to draw is no failure of the command.
            let _ = write!(out, "{}", HumanCount(state.per_sec() as u64));
        };
        bar.set_style(style.with_key("rate", rate));
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// A bar over `bytes_total` on stderr, shown only on a terminal.
pub fn progress_bytes(bytes_total: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(bytes_total);
    let template = "{wide_bar} {binary_bytes} of {binary_total_bytes} ({binary_bytes_per_sec}, {eta} left)";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Bytes as JSON: `name` when they are text, else `name_base64`.
pub fn bytes_field(name: &str, bytes: Option<&[u8]>) -> (String, Value) {
    match bytes.map(|b| std::str::from_utf8(b).map_err(|_| b)) {
        None => (name.to_owned(), Value::Null),
        Some(Ok(text)) => (name.to_owned(), Value::from(text)),
        Some(Err(raw)) => (format!("{name}_base64"), Value::from(base64(raw))),
    }
}

/// Base 64 with padding.
pub fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for letter in 0..4 {
            let six = (word >> (18 - 6 * letter)) & 0x3f;
            let symbol = LETTERS.get(six as usize).copied().unwrap_or(b'=');
            text.push(if letter <= chunk.len() {
                char::from(symbol)
            } else {
                '='
            });
        }
    }
    text
}

fn object(columns: &[&str], row: &[Value]) -> Value {
    columns
        .iter()
        .zip(row)
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect()
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_heading_and_plain_columns() {
        let rows = vec![vec![
            Value::from("logs"),
            Value::from(3),
            Value::from(vec![1, 2]),
            Value::Null,
        ]];
        let text = table(&["name", "partition_count", "replicas", "rack"], &rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0].split_whitespace().collect::<Vec<_>>(),
            ["NAME", "PARTITION", "COUNT", "REPLICAS", "RACK"]
        );
        assert_eq!(
            lines[1].split_whitespace().collect::<Vec<_>>(),
            ["logs", "3", "1,2", "-"]
        );
        assert!(!lines[1].starts_with(' '));
    }

    #[test]
    fn bytes_that_are_no_text_become_base64() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"\xff\xfe\xfd\xfc", "//79/A=="),
        ] {
            assert_eq!(base64(bytes), text);
        }
        assert_eq!(bytes_field("key", None).1, Value::Null);
        assert_eq!(bytes_field("key", Some(b"a")), ("key".into(), "a".into()));
        assert_eq!(bytes_field("key", Some(b"\xff")).0, "key_base64");
    }
}
